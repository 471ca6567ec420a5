//===-- TotalDivision.h - Floor division for any operands ------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_ATTN_IR_TOTALDIVISION_H
#define HEED_DIALECT_ATTN_IR_TOTALDIVISION_H

#include "mlir/IR/Builders.h"

namespace heed::attn {

/// attn.floordiv and attn.mod as arith ops, on integers or vectors of them. Nothing traps.
mlir::Value emitFloorDiv(mlir::OpBuilder &b, mlir::Location loc, mlir::Value x, mlir::Value y);
mlir::Value emitMod(mlir::OpBuilder &b, mlir::Location loc, mlir::Value x, mlir::Value y);

} // namespace heed::attn

#endif // HEED_DIALECT_ATTN_IR_TOTALDIVISION_H
