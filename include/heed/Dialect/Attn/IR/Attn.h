//===-- Attn.h - The attn dialect ------------------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_ATTN_IR_ATTN_H
#define HEED_DIALECT_ATTN_IR_ATTN_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include <optional>

namespace heed::attn {

/// Extents of an !attn.tensor that are known at launch only. The values are those of HEED_EXTENT_*
/// in the run-time ABI.
enum Extent : int64_t { B = -1, Hq = -2, Hkv = -3, Sq = -4, Skv = -5, D = -6, Dv = -7, Any = -8 };

/// "Hq" for Extent::Hq, "?" for Extent::Any, the number for an extent >= 0.
std::string stringifyExtent(int64_t extent);
/// The inverse for symbols; nullopt for any other word.
std::optional<int64_t> parseExtentSymbol(llvm::StringRef word);

} // namespace heed::attn

#include "heed/Dialect/Attn/IR/AttnDialect.h.inc"

#define GET_TYPEDEF_CLASSES
#include "heed/Dialect/Attn/IR/AttnTypes.h.inc"

#define GET_OP_CLASSES
#include "heed/Dialect/Attn/IR/AttnOps.h.inc"

#endif // HEED_DIALECT_ATTN_IR_ATTN_H
