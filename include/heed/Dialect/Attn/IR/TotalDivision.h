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

/// What many divisions by one i32 share: the reciprocal of Granlund and Montgomery (1994).
struct Divisor {
  mlir::Value sign;      // all bits of it
  mlir::Value magnitude; // without a sign; 1 of 0
  mlir::Value magic;     // floor((2^32 - 1) / magnitude)
  mlir::Value isNonZero; // a mask of bits
};
Divisor emitDivisor(mlir::OpBuilder &b, mlir::Location loc, mlir::Value y);

/// The same results for i32 with |x| <= 2^31 - 2, by a multiplication.
mlir::Value emitFloorDiv(mlir::OpBuilder &b, mlir::Location loc, mlir::Value x, const Divisor &y);
mlir::Value emitMod(mlir::OpBuilder &b, mlir::Location loc, mlir::Value x, const Divisor &y);

} // namespace heed::attn

#endif // HEED_DIALECT_ATTN_IR_TOTALDIVISION_H
