//===-- KeyHull.cpp - Bounds of keys in closed form -----------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "IntervalEvaluator.h"

#include "heed/Analysis/Magnitude.h"

using namespace mlir;
using namespace heed;
using namespace heed::intervals;

Bounds IntervalEvaluator::hull(Value v, bool negated) {
  if (hullBudget == 0)
    return {};
  --hullBudget;
  if (Operation *op = v.getDefiningOp(); op && !uniformOf(v)) {
    if (isa<arith::AndIOp, arith::OrIOp>(op)) {
      Bounds x = hull(op->getOperand(0), negated), y = hull(op->getOperand(1), negated);
      return isa<arith::AndIOp>(op) != negated ? intersect(x, y) : unite(x, y);
    }
    if (isa<arith::XOrIOp>(op))
      for (unsigned i : {0, 1})
        if (std::optional<int64_t> c = asConstant(op->getOperand(i)))
          return hull(op->getOperand(1 - i), negated != (*c != 0));
    if (auto x = dyn_cast<arith::SelectOp>(op))
      return unite(intersect(hull(x.getCondition(), false), hull(x.getTrueValue(), negated)),
                   intersect(hull(x.getCondition(), true), hull(x.getFalseValue(), negated)));
    if (auto x = dyn_cast<arith::CmpIOp>(op); x && !x.getLhs().getType().isInteger(1))
      if (std::optional<Bounds> keys = compareHull(x, negated))
        return *keys;
  }
  // Nothing is known of single keys: all, or none where the whole box is known.
  Boolean b = getBoolean(v);
  Value empty = negated ? b.always : b.never;
  if (asConstant(empty) == 0)
    return {};
  return {select(inner, empty, constant(kInfinity), constant(-kInfinity)),
          select(inner, empty, constant(-kInfinity), constant(kInfinity)),
          /*isExact=*/uniformOf(v) != nullptr};
}

Bounds IntervalEvaluator::intersect(const Bounds &x, const Bounds &y) {
  return {!x.lo   ? y.lo
          : !y.lo ? x.lo
                  : max(inner, x.lo, y.lo),
          !x.hi   ? y.hi
          : !y.hi ? x.hi
                  : min(inner, x.hi, y.hi),
          x.isExact && y.isExact};
}

Bounds IntervalEvaluator::unite(const Bounds &x, const Bounds &y) {
  auto isEmpty = [&](const Bounds &s) {
    return s.lo && s.hi ? compare(inner, arith::CmpIPredicate::sgt, s.lo, s.hi)
                        : constantBool(false);
  };
  Value xEmpty = isEmpty(x), yEmpty = isEmpty(y);
  auto join = [&](Value u, Value v, bool isLower) -> Value {
    if (!u || !v)
      return {};
    Value both = isLower ? min(inner, u, v) : max(inner, u, v);
    return select(inner, xEmpty, v, select(inner, yEmpty, u, both));
  };
  // Between two sets there may be keys of neither, but not where both have no end on one side.
  bool hasGap = (x.lo || y.lo) && (x.hi || y.hi);
  return {join(x.lo, y.lo, true), join(x.hi, y.hi, false), x.isExact && y.isExact && !hasGap};
}

std::optional<Bounds> IntervalEvaluator::compareHull(arith::CmpIOp op, bool negated) {
  using P = arith::CmpIPredicate;
  std::optional<Integer> x = getInteger(op.getLhs()), y = getInteger(op.getRhs());
  if (!x || !y)
    return std::nullopt;
  Bounds difference; // of lhs - rhs
  switch (negated ? arith::invertPredicate(op.getPredicate()) : op.getPredicate()) {
  case P::slt:
    difference = {Value(), constant(-1)};
    break;
  case P::sle:
    difference = {Value(), constant(0)};
    break;
  case P::sgt:
    difference = {constant(1), Value()};
    break;
  case P::sge:
    difference = {constant(0), Value()};
    break;
  case P::eq:
    difference = {constant(0), constant(0)};
    break;
  default:
    return std::nullopt;
  }
  Integer d = subtract(*x, *y);
  Bounds keys;
  if (d.ck != 0)
    keys = linearHull(d, difference);
  else if (x->dependsOnKv() && !y->dependsOnKv())
    keys = hull(op.getLhs(), plus(difference, bounds(*y)));
  else if (y->dependsOnKv() && !x->dependsOnKv())
    keys = hull(op.getRhs(), minus(bounds(*x), difference));
  else
    return std::nullopt;
  // The comparison itself knows what an extremum has in common with the other side.
  auto isExtremum = [&](Value v) {
    return !uniformOf(v) && isa_and_present<arith::MinSIOp, arith::MaxSIOp>(v.getDefiningOp());
  };
  if ((isExtremum(op.getLhs()) && y->cq != 0) || (isExtremum(op.getRhs()) && x->cq != 0))
    keys.isExact = false;
  return keys;
}

Bounds IntervalEvaluator::plus(const Bounds &u, const Bounds &v) {
  return {u.lo && v.lo ? add(inner, u.lo, v.lo) : Value(),
          u.hi && v.hi ? add(inner, u.hi, v.hi) : Value()};
}

Bounds IntervalEvaluator::minus(const Bounds &u, const Bounds &v) {
  return {u.lo && v.hi ? sub(inner, u.lo, v.hi) : Value(),
          u.hi && v.lo ? sub(inner, u.hi, v.lo) : Value()};
}

Bounds IntervalEvaluator::linearHull(Integer d, const Bounds &range) {
  int64_t ck = d.ck;
  d.ck = 0;
  Bounds keys = quotients(minus(range, bounds(d)), ck);
  keys.isExact = !d.usesKv; // else it is wider than for a part of the keys
  return keys;
}

Bounds IntervalEvaluator::quotients(Bounds range, int64_t c) {
  if (c < 0) {
    Value zero = constant(0);
    range = {range.hi ? sub(inner, zero, range.hi) : Value(),
             range.lo ? sub(inner, zero, range.lo) : Value()};
    c = -c;
  }
  Value k = constant(c);
  // ceil(lo / c) is floor((lo + c - 1) / c).
  return {range.lo ? floorDiv(inner, add(inner, range.lo, constant(c - 1)), k) : Value(),
          range.hi ? floorDiv(inner, range.hi, k) : Value()};
}

Bounds IntervalEvaluator::hull(Value e, const Bounds &range) {
  std::optional<Integer> d = getInteger(e);
  Operation *op = e.getDefiningOp();
  if (hullBudget == 0 || !d || !d->dependsOnKv())
    return {};
  --hullBudget;
  if (d->ck != 0)
    return linearHull(*d, range);
  if (isa<arith::ExtSIOp, arith::TruncIOp>(op))
    return hull(op->getOperand(0), range);
  if (Value x = operandOfMagnitude(e); x && range.hi && !range.lo) {
    Bounds keys = hull(x, {sub(inner, constant(0), range.hi), range.hi});
    // Of several queries even keys that none of them has may lie between such ends.
    Value isEmpty = compare(inner, arith::CmpIPredicate::slt, range.hi, constant(0));
    if (keys.hi)
      keys.hi = select(inner, isEmpty, constant(-kInfinity), keys.hi);
    return keys;
  }
  if (auto select = dyn_cast<arith::SelectOp>(op))
    return unite(intersect(hull(select.getCondition(), false), hull(select.getTrueValue(), range)),
                 intersect(hull(select.getCondition(), true), hull(select.getFalseValue(), range)));
  if (op->getNumOperands() != 2)
    return {};
  Value lhs = op->getOperand(0), rhs = op->getOperand(1);
  std::optional<Integer> x = getInteger(lhs), y = getInteger(rhs);
  if (!x || !y)
    return {};
  // The smaller and the larger are one of the two, and bound both.
  if (isa<arith::MinSIOp, arith::MaxSIOp>(op)) {
    Bounds half = isa<arith::MinSIOp>(op) ? Bounds{range.lo, Value()} : Bounds{Value(), range.hi};
    Bounds either = unite(hull(lhs, range), hull(rhs, range));
    return intersect(either, intersect(hull(lhs, half), hull(rhs, half)));
  }
  if (isa<arith::AddIOp, arith::SubIOp>(op)) {
    bool isSum = isa<arith::AddIOp>(op);
    Bounds keys = x->dependsOnKv()
                      ? hull(lhs, isSum ? minus(range, bounds(*y)) : plus(range, bounds(*y)))
                      : hull(rhs, isSum ? minus(range, bounds(*x)) : minus(bounds(*x), range));
    keys.isExact = keys.isExact && !(x->dependsOnKv() && y->dependsOnKv());
    return keys;
  }
  if (isa<arith::MulIOp>(op)) {
    std::optional<int64_t> cx = asConstant(*x), cy = asConstant(*y);
    if (cx || cy)
      if (int64_t c = cx ? *cx : *cy)
        return hull(cx ? rhs : lhs, quotients(range, c));
  }
  if (isa<attn::FloorDivOp>(op) && y->isPlain() && y->isPoint() && d->range.fitsI32() &&
      y->range.fitsI32())
    return hullOfDividend(lhs, range, y->lo);
  if (isa<arith::ShRSIOp>(op) && d->range.fitsI32())
    if (std::optional<int64_t> c = asConstant(rhs); c && *c < 31)
      return hullOfDividend(lhs, range, constant(int64_t(1) << *c));
  return {};
}

Bounds IntervalEvaluator::hullOfDividend(Value e, Bounds range, Value divisor) {
  Value isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
  Value safe = select(outer, isPositive, divisor, constant(1));
  // Not a number that overflows times the divisor.
  auto clamp = [&](Value v) {
    return max(inner, min(inner, v, constant(kMaxI32 + 1)), constant(kMinI32 - 1));
  };
  Bounds dividends;
  if (range.lo)
    dividends.lo = mul(inner, clamp(range.lo), safe);
  if (range.hi)
    dividends.hi = add(inner, mul(inner, clamp(range.hi), safe), sub(outer, safe, constant(1)));
  Bounds keys = hull(e, dividends);
  if (keys.lo)
    keys.lo = select(inner, isPositive, keys.lo, constant(-kInfinity));
  if (keys.hi)
    keys.hi = select(inner, isPositive, keys.hi, constant(kInfinity));
  keys.isExact = keys.isExact && asConstant(isPositive) != 0;
  return keys;
}
