//===-- LanguageToAttn.h - Checked programs to attn variants ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Emits the expression DAGs of a checked .heed program as attn.variant ops, one op a node, except
// where the language defines a result for inputs on which the arith op is undefined: those nodes
// become the few ops that keep the stage total (a float to integer cast saturates; Abs and Neg of
// integers wrap).
//
//===----------------------------------------------------------------------===//

#ifndef HEED_CONVERSION_LANGUAGETOATTN_H
#define HEED_CONVERSION_LANGUAGETOATTN_H

#include "heed/Dialect/Attn/IR/Attn.h"
#include "heed/Language/Program.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace heed {

/// Emits an attn.variant for `variant` at the insertion point of `builder`. The captures are the
/// parameters that are not constant, in order.
attn::VariantOp emitVariant(mlir::OpBuilder &builder, const lang::Variant &variant);

/// A module of all variants of `program`.
mlir::OwningOpRef<mlir::ModuleOp> emitProgram(mlir::MLIRContext &context,
                                              const lang::CheckedProgram &program);

/// Emits a function `name` that binds `variant` to an attn.forward. The arguments are query, key,
/// value, scale and the captures; the results are output and log-sum-exp.
mlir::func::FuncOp emitForward(mlir::OpBuilder &builder, attn::VariantOp variant,
                               llvm::StringRef name, mlir::Type elementType, int64_t headDim,
                               int64_t valueHeadDim);

} // namespace heed

#endif // HEED_CONVERSION_LANGUAGETOATTN_H
