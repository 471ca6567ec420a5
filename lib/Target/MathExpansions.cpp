//===-- MathExpansions.cpp - Functions by other functions ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MathExpansions.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"

#include <cmath>
#include <limits>

using namespace mlir;

/// Exponents up to here become products: six of them at most, whose error is below that of exp and
/// log.
static constexpr double kMostFactors = 32;

/// A number as f32, or as a vector of it.
static Value constantLike(OpBuilder &b, Location loc, Type type, float v) {
  FloatAttr element = b.getF32FloatAttr(v);
  auto shaped = dyn_cast<ShapedType>(type);
  return arith::ConstantOp::create(
      b, loc, shaped ? TypedAttr(DenseElementsAttr::get(shaped, element)) : element);
}

namespace {
struct ExpandPower : OpRewritePattern<math::PowFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(math::PowFOp op, PatternRewriter &b) const override {
    Type type = op.getType();
    if (!getElementTypeOrSelf(type).isF32())
      return failure();
    Location loc = op.getLoc();
    Value x = op.getLhs(), y = op.getRhs();
    auto constant = [&](float v) { return constantLike(b, loc, type, v); };
    auto compare = [&](arith::CmpFPredicate p, Value u, Value v) -> Value {
      return arith::CmpFOp::create(b, loc, p, u, v);
    };
    auto select = [&](Value c, Value u, Value v) -> Value {
      return arith::SelectOp::create(b, loc, c, u, v);
    };
    auto mul = [&](Value u, Value v) -> Value { return arith::MulFOp::create(b, loc, u, v); };
    Value one = constant(1);

    FloatAttr known = constantOf(y);
    double exponent = known ? known.getValueAsDouble() : 0.5;
    if (std::rint(exponent) == exponent && std::abs(exponent) <= kMostFactors) {
      Value result = one, power = x;
      for (int n = int(std::abs(exponent)); n > 0; n >>= 1) {
        if (n & 1)
          result = result == one ? power : mul(result, power);
        if (n > 1)
          power = mul(power, power);
      }
      if (exponent < 0)
        result = arith::DivFOp::create(b, loc, one, result);
      b.replaceOp(op, result);
      return success();
    }

    using P = arith::CmpFPredicate;
    Value zero = constant(0);
    Value magnitude = math::AbsFOp::create(b, loc, x);
    Value log = math::LogOp::create(b, loc, magnitude);
    Value result = math::ExpOp::create(b, loc, mul(y, log));
    // Odd integers keep the base's sign; other numbers have no power of a base below 0.
    Value half = mul(y, constant(0.5f));
    Value isInteger = compare(P::OEQ, math::RoundEvenOp::create(b, loc, y), y);
    Value isEven = compare(P::OEQ, math::RoundEvenOp::create(b, loc, half), half);
    Value ofNegative =
        select(isInteger, select(isEven, result, math::CopySignOp::create(b, loc, result, x)),
               constant(std::numeric_limits<float>::quiet_NaN()));
    result = select(compare(P::OLT, x, zero), ofNegative, result);
    // 0 log 0 is no number, and neither is 0 log of infinity.
    Value isOne = arith::OrIOp::create(b, loc, compare(P::OEQ, y, zero), compare(P::OEQ, x, one));
    b.replaceOp(op, select(isOne, one, result));
    return success();
  }

private:
  /// The one value of a constant, splat or broadcast exponent; null otherwise.
  static FloatAttr constantOf(Value y) {
    Attribute found;
    if (!matchPattern(y, m_Constant(&found))) {
      Operation *op = y.getDefiningOp();
      bool isBroadcast = op && op->getName().getStringRef() == "vector.broadcast";
      if (!isBroadcast || !matchPattern(op->getOperand(0), m_Constant(&found)))
        return {};
    }
    if (auto splat = dyn_cast<SplatElementsAttr>(found))
      return splat.getSplatValue<FloatAttr>();
    return dyn_cast<FloatAttr>(found);
  }
};

constexpr llvm::StringLiteral kReduced = "heed.reduced";

template <typename Op>
struct ReduceAngle : OpRewritePattern<Op> {
  ReduceAngle(MLIRContext *context, bool hasFMA, std::optional<float> limit)
      : OpRewritePattern<Op>(context), hasFMA(hasFMA), limit(limit) {}

  LogicalResult matchAndRewrite(Op op, PatternRewriter &b) const override {
    Type type = op.getType();
    if (op->hasAttr(kReduced) || !getElementTypeOrSelf(type).isF32())
      return failure();
    Location loc = op.getLoc();
    auto constant = [&](float v) { return constantLike(b, loc, type, v); };
    Value x = op.getOperand();
    Value turns = arith::MulFOp::create(b, loc, x, constant(0.159154943f));
    Value n = math::RoundEvenOp::create(b, loc, turns);
    Value angle;
    if (hasFMA) {
      Value high = math::FmaOp::create(b, loc, n, constant(-6.28318548f), x);
      angle = math::FmaOp::create(b, loc, n, constant(1.74845553e-7f), high);
    } else { // whole turns would be rounded to what f32 has of them
      Type wide = b.getF64Type();
      if (auto shaped = dyn_cast<ShapedType>(type))
        wide = shaped.clone(wide);
      auto widen = [&](Value v) { return arith::ExtFOp::create(b, loc, wide, v); };
      Value whole = arith::MulFOp::create(b, loc, widen(n), widen(constant(6.28318548f)));
      Value rest = arith::MulFOp::create(b, loc, widen(n), widen(constant(1.74845553e-7f)));
      Value high = arith::SubFOp::create(b, loc, widen(x), whole);
      angle = arith::TruncFOp::create(b, loc, type, arith::AddFOp::create(b, loc, high, rest));
    }
    if (limit) {
      angle = arith::MaximumFOp::create(b, loc, angle, constant(-*limit));
      angle = arith::MinimumFOp::create(b, loc, angle, constant(*limit));
    }
    auto reduced = Op::create(b, loc, angle);
    reduced->setAttr(kReduced, b.getUnitAttr());
    b.replaceOp(op, reduced);
    return success();
  }

  bool hasFMA;
  std::optional<float> limit;
};

} // namespace

void heed::populateAngleReduction(RewritePatternSet &patterns, bool hasFMA,
                                  std::optional<float> limit) {
  patterns.add<ReduceAngle<math::SinOp>, ReduceAngle<math::CosOp>>(patterns.getContext(), hasFMA,
                                                                   limit);
}

void heed::populatePowerExpansion(RewritePatternSet &patterns) {
  patterns.add<ExpandPower>(patterns.getContext());
}
