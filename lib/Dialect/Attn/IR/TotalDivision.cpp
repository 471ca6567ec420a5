//===-- TotalDivision.cpp - Floor division for any operands ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/TotalDivision.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace heed;

static Value constantLike(OpBuilder &b, Location loc, Type type, int64_t v) {
  auto element = cast<IntegerType>(getElementTypeOrSelf(type));
  APInt value(element.getWidth(), v, /*isSigned=*/true);
  TypedAttr attr = isa<VectorType>(type)
                       ? TypedAttr(DenseElementsAttr::get(cast<ShapedType>(type), value))
                       : TypedAttr(IntegerAttr::get(element, value));
  return arith::ConstantOp::create(b, loc, attr);
}

static std::optional<int64_t> constantOf(Value v) {
  APInt value;
  if (matchPattern(v, m_ConstantInt(&value)))
    return value.getSExtValue();
  if (auto broadcast = v.getDefiningOp<vector::BroadcastOp>())
    return constantOf(broadcast.getSource());
  return std::nullopt;
}

namespace {
struct QuotientAndRemainder {
  Value quotient, remainder;
};
} // namespace

/// x / y rounded toward zero, which must be representable.
static Value truncatingQuotient(OpBuilder &b, Location loc, Value x, Value y, bool isConstant) {
  auto vector = dyn_cast<VectorType>(x.getType());
  if (!vector || isConstant || !vector.getElementType().isInteger(32))
    return arith::DivSIOp::create(b, loc, x, y);
  // CPUs divide vectors of floats only. A quotient that is not an integer is at least 1 / |y| away
  // from one, more than f64 rounds off.
  Type f64 = vector.clone(b.getF64Type());
  Value quotient = arith::DivFOp::create(b, loc, arith::SIToFPOp::create(b, loc, f64, x),
                                         arith::SIToFPOp::create(b, loc, f64, y));
  return arith::FPToSIOp::create(b, loc, vector, quotient);
}

/// Floor division for any operands; nothing traps (x86 traps on x / 0 and on the smallest number /
/// -1).
static QuotientAndRemainder emitDivision(OpBuilder &b, Location loc, Value x, Value y) {
  Type type = x.getType();
  auto cst = [&](int64_t v) { return constantLike(b, loc, type, v); };
  auto compare = [&](arith::CmpIPredicate p, Value u, Value v) -> Value {
    return arith::CmpIOp::create(b, loc, p, u, v);
  };
  auto add = [&](Value u, Value v) { return b.createOrFold<arith::AddIOp>(loc, u, v); };
  auto sub = [&](Value u, Value v) { return b.createOrFold<arith::SubIOp>(loc, u, v); };
  auto mul = [&](Value u, Value v) { return b.createOrFold<arith::MulIOp>(loc, u, v); };
  auto select = [&](Value c, Value u, Value v) {
    return b.createOrFold<arith::SelectOp>(loc, c, u, v);
  };
  Value zero = cst(0), one = cst(1);
  std::optional<int64_t> c = constantOf(y);
  if (c && *c > 0 && llvm::isPowerOf2_64(*c))
    return {arith::ShRSIOp::create(b, loc, x, cst(llvm::Log2_64(*c))),
            arith::AndIOp::create(b, loc, x, cst(*c - 1))};
  bool isPlain = c && *c > 0;
  Value divisor = y;
  Value isZero, isMinusOne;
  if (isPlain) {
    divisor = cst(*c);
  } else {
    isZero = compare(arith::CmpIPredicate::eq, y, zero);
    isMinusOne = compare(arith::CmpIPredicate::eq, y, cst(-1));
    divisor = select(isZero, one, select(isMinusOne, one, y));
  }
  Value q = truncatingQuotient(b, loc, x, divisor, /*isConstant=*/isPlain);
  Value r = sub(x, mul(q, divisor));
  // Truncation rounds up where the remainder and the divisor differ in sign.
  Value mixed = arith::XOrIOp::create(b, loc, r, divisor);
  Value rounds = arith::AndIOp::create(b, loc, compare(arith::CmpIPredicate::slt, mixed, zero),
                                       compare(arith::CmpIPredicate::ne, r, zero));
  q = select(rounds, sub(q, one), q);
  r = select(rounds, add(r, divisor), r);
  if (!isPlain) {
    q = select(isMinusOne, sub(zero, x), select(isZero, zero, q));
    r = select(isZero, zero, select(isMinusOne, zero, r));
  }
  return {q, r};
}

Value attn::emitFloorDiv(OpBuilder &b, Location loc, Value x, Value y) {
  return emitDivision(b, loc, x, y).quotient;
}
Value attn::emitMod(OpBuilder &b, Location loc, Value x, Value y) {
  return emitDivision(b, loc, x, y).remainder;
}

attn::Divisor attn::emitDivisor(OpBuilder &b, Location loc, Value y) {
  auto cst = [&](int64_t v) { return constantLike(b, loc, y.getType(), v); };
  auto is = [&](Value v, int64_t c) {
    return b.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::eq, v, cst(c));
  };
  auto select = [&](Value c, Value u, Value v) {
    return b.createOrFold<arith::SelectOp>(loc, c, u, v);
  };
  Divisor d;
  Value isZero = is(y, 0);
  Value nonZero = select(isZero, cst(1), y);
  d.isNonZero = select(isZero, cst(0), cst(-1));
  d.sign = b.createOrFold<arith::ShRSIOp>(loc, nonZero, cst(31));
  // The magnitude of -2^31 wraps around to it, and counts as what it is without a sign.
  d.magnitude = b.createOrFold<arith::SubIOp>(
      loc, b.createOrFold<arith::XOrIOp>(loc, nonZero, d.sign), d.sign);
  d.magic = b.createOrFold<arith::DivUIOp>(loc, cst(-1), d.magnitude);
  return d;
}

namespace {
/// Of |x| and |y|, as they are for floor division: floor(-u / y) = ~floor(~(-u) / y) for u > 0.
struct Magnitudes {
  Value quotient, remainder;
  Value sign; // all bits of that of x / y
};
} // namespace

/// With m = floor((2^32 - 1) / y), floor(u m / 2^32) is the quotient of 0 <= u < 2^31 or one less.
static Magnitudes emitMagnitudes(OpBuilder &b, Location loc, Value x, const attn::Divisor &y) {
  auto exclusiveOr = [&](Value u, Value v) { return b.createOrFold<arith::XOrIOp>(loc, u, v); };
  auto sub = [&](Value u, Value v) { return b.createOrFold<arith::SubIOp>(loc, u, v); };
  Type i64 = b.getI64Type();
  auto widen = [&](Value v) { return b.createOrFold<arith::ExtUIOp>(loc, i64, v); };
  Value signedX = sub(exclusiveOr(x, y.sign), y.sign);
  Value sign = b.createOrFold<arith::ShRSIOp>(loc, signedX, constantLike(b, loc, x.getType(), 31));
  Value u = exclusiveOr(signedX, sign);
  Value wide = b.createOrFold<arith::MulIOp>(loc, widen(u), widen(y.magic));
  Value high = b.createOrFold<arith::ShRUIOp>(loc, wide, constantLike(b, loc, i64, 32));
  Value q = b.createOrFold<arith::TruncIOp>(loc, x.getType(), high);
  Value r = sub(u, b.createOrFold<arith::MulIOp>(loc, q, y.magnitude));
  Value isOneLess = b.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::uge, r, y.magnitude);
  q = b.createOrFold<arith::AddIOp>(loc, q,
                                    b.createOrFold<arith::ExtUIOp>(loc, x.getType(), isOneLess));
  r = b.createOrFold<arith::SelectOp>(loc, isOneLess, sub(r, y.magnitude), r);
  return {q, r, sign};
}

Value attn::emitFloorDiv(OpBuilder &b, Location loc, Value x, const Divisor &y) {
  Magnitudes m = emitMagnitudes(b, loc, x, y);
  return b.createOrFold<arith::AndIOp>(loc, b.createOrFold<arith::XOrIOp>(loc, m.quotient, m.sign),
                                       y.isNonZero);
}

Value attn::emitMod(OpBuilder &b, Location loc, Value x, const Divisor &y) {
  Magnitudes m = emitMagnitudes(b, loc, x, y);
  // Of a negative dividend, y - 1 - r.
  Value r =
      b.createOrFold<arith::AddIOp>(loc, b.createOrFold<arith::XOrIOp>(loc, m.remainder, m.sign),
                                    b.createOrFold<arith::AndIOp>(loc, y.magnitude, m.sign));
  return b.createOrFold<arith::SubIOp>(loc, b.createOrFold<arith::XOrIOp>(loc, r, y.sign), y.sign);
}
