//===-- AddendBounds.h - How large what is added to scores can be -*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_CONVERSION_ATTNTOTILE_ADDENDBOUNDS_H
#define HEED_LIB_CONVERSION_ATTNTOTILE_ADDENDBOUNDS_H

#include "heed/Analysis/Dependence.h"
#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/TypeSwitch.h"

#include <cmath>
#include <limits>

namespace heed {

/// The least magnitude that a scale counts as where addends are divided by it. Not 0, which would
/// make NaN of masked scores and of addends.
inline constexpr float kLeastScale = 1e-20f;

/// The largest addend that is finite when it is divided by any scale.
inline constexpr double kLargestAddend =
    double(std::numeric_limits<float>::max()) * double(kLeastScale);

/// Bounds of the magnitudes of a stage's numbers; infinite (or NaN) where none is known.
/// Integers, constants and f16 have one. A number without one that is the same for all pairs counts
/// as 1 where it is a factor: slopes near the largest number are not worth an operation an element.
class AddendBounds {
public:
  AddendBounds(attn::ScoreOp score, const DependenceAnalysis &dependences)
      : dependences(dependences) {
    for (mlir::Operation &op : score.getBodyBlock()->without_terminator())
      bounds[op.getResult(0)] = compute(&op);
  }

  double of(mlir::Value v) const {
    mlir::FloatAttr constant;                               // in the stage or outside of it
    if (mlir::matchPattern(v, mlir::m_Constant(&constant))) // an infinity stays one
      return constant.getValue().isFinite() ? std::abs(constant.getValueAsDouble()) : 0.0;
    auto known = bounds.find(v);
    return known == bounds.end() ? unknown : known->second;
  }

private:
  static constexpr double unknown = std::numeric_limits<double>::infinity();

  /// Of an op whose operands are known.
  double compute(mlir::Operation *op) const {
    return llvm::TypeSwitch<mlir::Operation *, double>(op)
        .Case([](attn::LoadOp load) {
          return load.getTensor().getType().getElementType().isF16() ? 65504.0 : unknown;
        })
        .Case<mlir::arith::SIToFPOp, mlir::arith::UIToFPOp>([](auto cast) {
          return std::ldexp(1.0, cast.getIn().getType().getIntOrFloatBitWidth());
        })
        .Case<mlir::arith::AddFOp, mlir::arith::SubFOp>(
            [&](auto sum) { return of(sum.getLhs()) + of(sum.getRhs()); })
        .Case([&](mlir::arith::MulFOp product) {
          return ofFactor(product.getLhs()) * ofFactor(product.getRhs());
        })
        .Case([&](mlir::arith::DivFOp quotient) {
          mlir::FloatAttr divisor;
          if (mlir::matchPattern(quotient.getRhs(), mlir::m_Constant(&divisor)))
            return of(quotient.getLhs()) / std::abs(divisor.getValueAsDouble());
          return isSlope(quotient.getRhs()) ? ofFactor(quotient.getLhs()) : unknown;
        })
        .Case<mlir::arith::MaximumFOp, mlir::arith::MinimumFOp>(
            [&](auto op) { return std::max(of(op.getLhs()), of(op.getRhs())); })
        .Case([&](mlir::arith::SelectOp select) {
          return std::max(of(select.getTrueValue()), of(select.getFalseValue()));
        })
        .Case<mlir::arith::NegFOp, mlir::math::AbsFOp, mlir::math::FloorOp, mlir::math::CeilOp>(
            [&](auto op) { return of(op.getOperand()); })
        .Case<mlir::math::TanhOp, mlir::math::ErfOp, mlir::math::SinOp, mlir::math::CosOp>(
            [](auto) { return 1.0; })
        // Of what is finite; the logarithm of 0 is infinite as it is.
        .Case<mlir::math::LogOp, mlir::math::Log2Op, mlir::math::Log1pOp>(
            [](auto) { return 150.0; })
        .Default([](mlir::Operation *) { return unknown; });
  }

  double ofFactor(mlir::Value v) const { return isSlope(v) ? 1.0 : of(v); }
  bool isSlope(mlir::Value v) const {
    return std::isinf(of(v)) &&
           !dependences.lookup(v).intersects(Dependence::q() | Dependence::kv());
  }

  const DependenceAnalysis &dependences;
  llvm::DenseMap<mlir::Value, double> bounds;
};

} // namespace heed

#endif // HEED_LIB_CONVERSION_ATTNTOTILE_ADDENDBOUNDS_H
