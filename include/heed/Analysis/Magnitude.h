//===-- Magnitude.h - Recognises |x| of integers ---------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_ANALYSIS_MAGNITUDE_H
#define HEED_ANALYSIS_MAGNITUDE_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"

namespace heed {

/// x where `v` is its magnitude, `x < 0 ? 0 - x : x`, else null.
inline mlir::Value operandOfMagnitude(mlir::Value v) {
  auto select = v.getDefiningOp<mlir::arith::SelectOp>();
  if (!select)
    return {};
  mlir::Value x = select.getFalseValue();
  auto negated = select.getTrueValue().getDefiningOp<mlir::arith::SubIOp>();
  auto isNegative = select.getCondition().getDefiningOp<mlir::arith::CmpIOp>();
  bool isMagnitude =
      negated && mlir::matchPattern(negated.getLhs(), mlir::m_Zero()) && negated.getRhs() == x &&
      isNegative && isNegative.getPredicate() == mlir::arith::CmpIPredicate::slt &&
      isNegative.getLhs() == x && mlir::matchPattern(isNegative.getRhs(), mlir::m_Zero());
  return isMagnitude ? x : mlir::Value();
}

} // namespace heed

#endif // HEED_ANALYSIS_MAGNITUDE_H
