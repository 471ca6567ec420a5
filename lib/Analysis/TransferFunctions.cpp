//===-- TransferFunctions.cpp - What ops make of intervals ----------------===//
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

void IntervalEvaluator::evaluate(Operation &op) {
  if (llvm::all_of(op.getOperands(), [&](Value v) { return bool(uniformOf(v)); })) {
    IRMapping uniforms;
    for (Value operand : op.getOperands())
      uniforms.map(operand, uniformOf(operand));
    Operation *clone = outer.clone(op, uniforms);
    for (auto [result, copy] : llvm::zip(op.getResults(), clone->getResults()))
      values[result].uniform = copy;
    return;
  }
  if (op.getNumResults() != 1)
    return;
  Value result = op.getResult(0);
  if (result.getType().isInteger(1))
    values[result].boolean = evaluateBoolean(op);
  else if (result.getType().isInteger(32) || result.getType().isInteger(64))
    evaluateInteger(op, result);
  else if (result.getType().isF32())
    evaluateReal(op, result);
}

Boolean IntervalEvaluator::evaluateBoolean(Operation &op) {
  if (isa<arith::AndIOp>(op)) {
    Boolean both = conjunction(getBoolean(op.getOperand(0)), getBoolean(op.getOperand(1)));
    bool isWhole =
        llvm::none_of(op.getUsers(), [](Operation *user) { return isa<arith::AndIOp>(user); });
    return isWhole ? withEqualities(op, both) : both;
  }
  if (isa<arith::OrIOp>(op))
    return invert(
        conjunction(invert(getBoolean(op.getOperand(0))), invert(getBoolean(op.getOperand(1)))));
  if (isa<arith::XOrIOp>(op)) {
    Boolean x = getBoolean(op.getOperand(0)), y = getBoolean(op.getOperand(1));
    OpBuilder &b = at(x.usesKv || y.usesKv);
    return {lor(b, land(b, x.always, y.never), land(b, x.never, y.always)),
            lor(b, land(b, x.always, y.always), land(b, x.never, y.never)), x.usesKv || y.usesKv};
  }
  if (auto selectOp = dyn_cast<arith::SelectOp>(op)) {
    Boolean c = getBoolean(selectOp.getCondition()), x = getBoolean(selectOp.getTrueValue()),
            y = getBoolean(selectOp.getFalseValue());
    bool usesKv = c.usesKv || x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    auto choose = [&](Value ofX, Value ofY) {
      return lor(b, land(b, ofX, lor(b, c.always, ofY)), land(b, c.never, ofY));
    };
    return {choose(x.always, y.always), choose(x.never, y.never), usesKv};
  }
  if (auto compareOp = dyn_cast<arith::CmpIOp>(op)) {
    if (compareOp.getLhs().getType().isInteger(1))
      return evaluateBooleanCompare(compareOp);
    if (std::optional<Integer> d = difference(compareOp.getLhs(), compareOp.getRhs()))
      return compareWithZero(compareOp.getPredicate(), *d);
  }
  if (auto compareOp = dyn_cast<arith::CmpFOp>(op)) {
    std::optional<Real> x = getReal(compareOp.getLhs()), y = getReal(compareOp.getRhs());
    return x && y ? compareReals(compareOp.getPredicate(), *x, *y) : unknownBoolean();
  }
  if (auto load = dyn_cast<attn::LoadOp>(op))
    if (std::optional<Summary> s = summarise(load))
      return {s->least, negate(at(s->usesKv), s->most), s->usesKv};
  return unknownBoolean();
}

Boolean IntervalEvaluator::evaluateBooleanCompare(arith::CmpIOp op) {
  Boolean x = getBoolean(op.getLhs()), y = getBoolean(op.getRhs());
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  Boolean differ = {lor(b, land(b, x.always, y.never), land(b, x.never, y.always)),
                    lor(b, land(b, x.always, y.always), land(b, x.never, y.never)), usesKv};
  if (op.getPredicate() == arith::CmpIPredicate::ne)
    return differ;
  if (op.getPredicate() == arith::CmpIPredicate::eq)
    return invert(differ);
  return unknownBoolean();
}

Boolean IntervalEvaluator::conjunction(const Boolean &x, const Boolean &y) {
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  return {land(b, x.always, y.always), lor(b, x.never, y.never), usesKv};
}

Boolean IntervalEvaluator::withEqualities(Operation &conjunction, Boolean known) {
  SmallVector<arith::CmpIOp> compares;
  SmallVector<Operation *> pending = {&conjunction};
  while (!pending.empty())
    for (Value operand : pending.pop_back_val()->getOperands())
      if (Operation *part = operand.getDefiningOp()) {
        if (isa<arith::AndIOp>(part))
          pending.push_back(part);
        else if (auto compare = dyn_cast<arith::CmpIOp>(part))
          compares.push_back(compare);
      }
  constexpr size_t mostCompares = 8; // each pair is looked at
  if (compares.size() > mostCompares)
    return known;
  for (arith::CmpIOp equality : compares) {
    if (equality.getPredicate() != arith::CmpIPredicate::eq)
      continue;
    for (arith::CmpIOp other : compares) {
      if (other == equality)
        continue;
      auto imply = [&](const Integer &difference) {
        Boolean implied = compareWithZero(other.getPredicate(), difference);
        equalitiesImply |= asConstant(implied.never) != 0;
        known.usesKv |= implied.usesKv;
        known.never = lor(at(known.usesKv), known.never, implied.never);
      };
      for (unsigned side : {0, 1})
        for (unsigned place : {0, 1}) {
          if (other->getOperand(place) != equality->getOperand(side))
            continue;
          std::optional<Integer> x = getInteger(equality->getOperand(1 - side)),
                                 y = getInteger(other->getOperand(1 - place));
          if (x && y)
            imply(place == 0 ? subtract(*x, *y) : subtract(*y, *x));
        }
      if (std::optional<Integer> rest = differenceUnder(equality, other))
        imply(*rest);
    }
  }
  return known;
}

/// Whether u and v are computed alike, from the same values or from those of `equality`.
static bool areEqualUnder(arith::CmpIOp equality, Value u, Value v, unsigned depth = 6) {
  if (u == v || (u == equality.getLhs() && v == equality.getRhs()) ||
      (u == equality.getRhs() && v == equality.getLhs()))
    return true;
  Operation *x = u.getDefiningOp(), *y = v.getDefiningOp();
  return depth > 0 && x && y && x->getNumRegions() == 0 && x->getNumOperands() > 0 &&
         OperationEquivalence::isEquivalentTo(
             x, y,
             [&](Value a, Value b) { return success(areEqualUnder(equality, a, b, depth - 1)); },
             /*markEquivalent=*/nullptr, OperationEquivalence::IgnoreLocations);
}

std::optional<Integer> IntervalEvaluator::differenceUnder(arith::CmpIOp equality,
                                                          arith::CmpIOp other) {
  constexpr size_t mostTerms = 8;
  struct Term {
    Value value;
    bool isNegative;
  };
  SmallVector<Term> terms, pending = {{other.getLhs(), false}, {other.getRhs(), true}};
  while (!pending.empty()) {
    auto [value, isNegative] = pending.pop_back_val();
    Operation *op = value.getDefiningOp();
    if (isa_and_present<arith::AddIOp, arith::SubIOp>(op)) {
      pending.push_back({op->getOperand(0), isNegative});
      pending.push_back({op->getOperand(1), isNegative != isa<arith::SubIOp>(op)});
    } else {
      terms.push_back({value, isNegative});
    }
    if (terms.size() + pending.size() > mostTerms)
      return std::nullopt;
  }
  size_t numTerms = terms.size();
  for (size_t i = 0; i < terms.size(); ++i)
    for (size_t j = i + 1; j < terms.size(); ++j)
      if (terms[i].isNegative != terms[j].isNegative &&
          areEqualUnder(equality, terms[i].value, terms[j].value)) {
        terms.erase(terms.begin() + j);
        terms.erase(terms.begin() + i--);
        break;
      }
  if (terms.size() == numTerms)
    return std::nullopt;
  Integer rest = point(0);
  for (auto [value, isNegative] : terms) {
    std::optional<Integer> x = getInteger(value);
    if (!x)
      return std::nullopt;
    rest = subtract(rest, isNegative ? *x : subtract(point(0), *x));
  }
  return rest;
}

std::optional<Integer> IntervalEvaluator::difference(Value x, Value y, unsigned depth) {
  // max(a, b) - y = max(a - y, b - y), which knows what a and b have in common with y.
  constexpr unsigned mostLevels = 3;
  auto distribute = [&](Value v, auto minus, bool isNegated) -> std::optional<Integer> {
    Operation *op = v.getDefiningOp();
    if (depth == mostLevels || uniformOf(v) || !isa_and_present<arith::MinSIOp, arith::MaxSIOp>(op))
      return std::nullopt;
    std::optional<Integer> first = minus(op->getOperand(0)), second = minus(op->getOperand(1));
    if (!first || !second)
      return std::nullopt;
    return extremum(*first, *second, isa<arith::MinSIOp>(op) != isNegated);
  };
  if (auto d = distribute(x, [&](Value v) { return difference(v, y, depth + 1); }, false))
    return d;
  if (auto d = distribute(y, [&](Value v) { return difference(x, v, depth + 1); }, true))
    return d;
  std::optional<Integer> first = getInteger(x), second = getInteger(y);
  if (!first || !second)
    return std::nullopt;
  return subtract(*first, *second);
}

Integer IntervalEvaluator::subtract(const Integer &x, const Integer &y) {
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  Value lo = sub(b, x.lo, y.hi);
  Integer d = {
      x.cq - y.cq,
      x.ck - y.ck,
      lo,
      x.isPoint() && y.isPoint() ? lo : sub(b, x.hi, y.lo),
      StaticRange::make(__int128(x.range.lo) - y.range.hi, __int128(x.range.hi) - y.range.lo),
      usesKv};
  // Remainders of q and kv are anything where both pass a multiple of the divisor; their
  // difference is not, since it goes with that of q and kv.
  if (d.isPlain() && x.isPlain() && x.residue && y.residue &&
      x.residue->modulus == y.residue->modulus)
    d.residue = Residue{x.residue->modulus, sub(b, x.residue->lo, y.residue->hi),
                        sub(b, x.residue->hi, y.residue->lo)};
  return d;
}

Value IntervalEvaluator::distanceFromZero(OpBuilder &b, const Residue &of) {
  Value below = mul(b, floorDiv(b, of.hi, of.modulus), of.modulus),
        above = add(b, below, of.modulus);
  return max(b, min(b, sub(b, of.lo, below), sub(b, above, of.hi)), constant(0));
}

Boolean IntervalEvaluator::compareWithZero(arith::CmpIPredicate predicate, const Integer &d) {
  using P = arith::CmpIPredicate;
  bool usesKv = d.dependsOnKv();
  OpBuilder &b = at(usesKv);
  Bounds r = bounds(d);
  Value zero = constant(0);
  auto make = [&](Value always, Value never) { return Boolean{always, never, usesKv}; };
  switch (predicate) {
  case P::slt:
    return make(compare(b, P::slt, r.hi, zero), compare(b, P::sge, r.lo, zero));
  case P::sle:
    return make(compare(b, P::sle, r.hi, zero), compare(b, P::sgt, r.lo, zero));
  case P::sgt:
    return make(compare(b, P::sgt, r.lo, zero), compare(b, P::sle, r.hi, zero));
  case P::sge:
    return make(compare(b, P::sge, r.lo, zero), compare(b, P::slt, r.hi, zero));
  case P::eq:
  case P::ne: {
    Value same = land(b, compare(b, P::eq, r.lo, zero), compare(b, P::eq, r.hi, zero));
    Value apart = lor(b, compare(b, P::sgt, r.lo, zero), compare(b, P::slt, r.hi, zero));
    if (d.residue)
      apart = lor(b, apart, compare(b, P::sgt, distanceFromZero(b, *d.residue), zero));
    return predicate == P::eq ? make(same, apart) : make(apart, same);
  }
  default: // unsigned orders
    return unknownBoolean();
  }
}

void IntervalEvaluator::evaluateInteger(Operation &op, Value result) {
  std::optional<Integer> x, y;
  if (op.getNumOperands() >= 1)
    x = getInteger(op.getOperand(0));
  if (op.getNumOperands() >= 2)
    y = getInteger(op.getOperand(1));

  if (isa<arith::AddIOp>(op) && x && y)
    return setInteger(result, subtract(*x, subtract(point(0), *y)));
  if (isa<arith::SubIOp>(op) && x && y)
    return setInteger(result, subtract(*x, *y));
  if (isa<arith::MulIOp>(op) && x && y)
    return setInteger(result, op.getOperand(0) == op.getOperand(1) ? square(*x) : multiply(*x, *y));
  if (Value of = operandOfMagnitude(result))
    if (std::optional<Integer> signedValue = getInteger(of))
      return setInteger(result, absolute(*signedValue));
  if (isa<arith::MinSIOp, arith::MaxSIOp>(op) && x && y)
    return setInteger(result, extremum(*x, *y, isa<arith::MinSIOp>(op)));
  if (isa<attn::FloorDivOp>(op) && x && y)
    return setInteger(result, divide(*x, *y));
  if (isa<attn::ModOp>(op) && x && y)
    return setInteger(result, modulo(*x, *y));
  if (isa<arith::ExtSIOp, arith::TruncIOp>(op) && x)
    return setInteger(result, *x);
  if (isa<arith::ExtUIOp>(op) && op.getOperand(0).getType().isInteger(1)) {
    Boolean c = getBoolean(op.getOperand(0));
    OpBuilder &b = at(c.usesKv);
    Value zero = constant(0), one = constant(1);
    return setInteger(
        result,
        {0, 0, select(b, c.always, one, zero), select(b, c.never, zero, one), {0, 1}, c.usesKv});
  }
  if (isa<arith::FPToSIOp>(op))
    if (std::optional<Real> of = getReal(op.getOperand(0)))
      return setInteger(result, truncate(*of));
  if (isa<arith::AndIOp>(op) && y && asConstant(op.getOperand(0)))
    if (std::optional<Integer> r = bitOperation(op, *y, *asConstant(op.getOperand(0))))
      return setInteger(result, *r);
  if (isa<arith::ShLIOp, arith::ShRSIOp, arith::AndIOp>(op) && x && asConstant(op.getOperand(1)))
    if (std::optional<Integer> r = bitOperation(op, *x, *asConstant(op.getOperand(1))))
      return setInteger(result, *r);
  if (isa<arith::ShLIOp, arith::ShRSIOp>(op) && x && y)
    return setInteger(result, shift(op, *x, *y));
  if (isa<arith::AndIOp, arith::OrIOp, arith::XOrIOp>(op) && x && y)
    return setInteger(result, combineBits(op, *x, *y));
  if (auto selectOp = dyn_cast<arith::SelectOp>(op)) {
    std::optional<Integer> t = getInteger(selectOp.getTrueValue()),
                           f = getInteger(selectOp.getFalseValue());
    if (t && f)
      return setInteger(result, choose(getBoolean(selectOp.getCondition()), *t, *f));
  }
  if (auto load = dyn_cast<attn::LoadOp>(op))
    if (std::optional<Summary> s = summarise(load)) {
      OpBuilder &b = at(s->usesKv);
      if (result.getType().isInteger(64)) {
        Value lo = clamp(b, s->least), hi = clamp(b, s->most);
        noteWrap(lor(b, compare(b, arith::CmpIPredicate::ne, lo, s->least),
                     compare(b, arith::CmpIPredicate::ne, hi, s->most)));
        return setInteger(result, {0, 0, lo, hi, {-kLargestI64, kLargestI64}, s->usesKv});
      }
      Value lo = arith::ExtSIOp::create(b, loc(), b.getI64Type(), s->least);
      Value hi = arith::ExtSIOp::create(b, loc(), b.getI64Type(), s->most);
      return setInteger(result, {0, 0, lo, hi, {kMinI32, kMaxI32}, s->usesKv});
    }
}

StaticRange IntervalEvaluator::productRange(const StaticRange &x, const StaticRange &y) {
  __int128 p[] = {__int128(x.lo) * y.lo, __int128(x.lo) * y.hi, __int128(x.hi) * y.lo,
                  __int128(x.hi) * y.hi};
  return StaticRange::make(*std::min_element(p, p + 4), *std::max_element(p, p + 4));
}

std::optional<int64_t> IntervalEvaluator::asConstant(const Integer &x) {
  return x.isPlain() && x.isPoint() ? asConstant(x.lo) : std::nullopt;
}

Integer IntervalEvaluator::multiply(Integer x, Integer y) {
  StaticRange range = productRange(x.range, y.range);
  if (asConstant(x))
    std::swap(x, y);
  if (std::optional<int64_t> c = asConstant(y)) {
    // A constant factor keeps the linear part, as long as the coefficients stay small.
    constexpr int64_t limit = int64_t(1) << 20;
    if (std::abs(*c) < limit && std::abs(x.cq * *c) < limit && std::abs(x.ck * *c) < limit) {
      if (int64_t most = (int64_t(1) << 62) / (std::abs(*c) + 1); x.range.magnitude() > most) {
        confine(x, -most, most); // or the product would overflow
        range = productRange(x.range, y.range);
      }
      OpBuilder &b = at(x.usesKv);
      Value lo = mul(b, *c >= 0 ? x.lo : x.hi, y.lo);
      Value hi = x.isPoint() ? lo : mul(b, *c >= 0 ? x.hi : x.lo, y.lo);
      return Integer{x.cq * *c, x.ck * *c, lo, hi, range, x.usesKv};
    }
  }
  for (Integer *factor : {&x, &y}) {
    *factor = plain(*factor);
    if (!factor->range.fitsI32())
      confine(*factor, kMinI32, kMaxI32);
  }
  range = productRange(x.range, y.range);
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  Value p0 = mul(b, x.lo, y.lo), p1 = mul(b, x.lo, y.hi), p2 = mul(b, x.hi, y.lo),
        p3 = mul(b, x.hi, y.hi);
  return Integer{
      0,     0,     min(b, min(b, p0, p1), min(b, p2, p3)), max(b, max(b, p0, p1), max(b, p2, p3)),
      range, usesKv};
}

Integer IntervalEvaluator::absolute(const Integer &of) {
  Integer x = plain(of);
  OpBuilder &b = at(x.usesKv);
  Value zero = constant(0), least = sub(b, zero, x.hi), most = sub(b, zero, x.lo);
  Value distance = x.residue ? distanceFromZero(b, *x.residue) : zero;
  return {0,
          0,
          max(b, max(b, x.lo, least), distance),
          max(b, x.hi, most),
          {std::max({x.range.lo, -x.range.hi, int64_t(0)}), x.range.magnitude()},
          x.usesKv};
}

Integer IntervalEvaluator::square(const Integer &of) {
  Integer x = absolute(of);
  return multiply(x, x);
}

Integer IntervalEvaluator::extremum(Integer x, Integer y, bool isMin) {
  if (x.cq != y.cq || x.ck != y.ck) {
    x = plain(x);
    y = plain(y);
  }
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  auto pick = [&](Value u, Value v) { return isMin ? min(b, u, v) : max(b, u, v); };
  auto pickStatic = [&](int64_t u, int64_t v) { return isMin ? std::min(u, v) : std::max(u, v); };
  Value lo = pick(x.lo, y.lo);
  return {x.cq,
          x.ck,
          lo,
          x.isPoint() && y.isPoint() ? lo : pick(x.hi, y.hi),
          {pickStatic(x.range.lo, y.range.lo), pickStatic(x.range.hi, y.range.hi)},
          usesKv};
}

Integer IntervalEvaluator::choose(const Boolean &c, Integer x, Integer y) {
  if (x.cq != y.cq || x.ck != y.ck) {
    x = plain(x);
    y = plain(y);
  }
  bool usesKv = c.usesKv || x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  auto pick = [&](Value u, Value v, Value both) {
    return select(b, c.always, u, select(b, c.never, v, both));
  };
  return {x.cq,
          x.ck,
          pick(x.lo, y.lo, min(b, x.lo, y.lo)),
          pick(x.hi, y.hi, max(b, x.hi, y.hi)),
          {std::min(x.range.lo, y.range.lo), std::max(x.range.hi, y.range.hi)},
          usesKv};
}

Integer IntervalEvaluator::divide(Integer x, const Integer &y) {
  if (std::optional<int64_t> c = asConstant(y);
      c && *c < 0) // both negated, the quotient is the same
    return divide(subtract(point(0), x), point(-*c));
  x = plain(x);
  StaticRange wide = {-x.range.magnitude(), x.range.magnitude()};
  Value divisor = y.isPlain() && y.isPoint() ? y.lo : Value();
  if (!divisor) {
    Integer by = plain(y);
    bool usesKv = x.usesKv || by.usesKv;
    OpBuilder &b = at(usesKv);
    Value isPositive = compare(b, arith::CmpIPredicate::sgt, by.lo, constant(0));
    Value least = select(b, isPositive, by.lo, constant(1)),
          largest = select(b, isPositive, by.hi, constant(1));
    return {0,
            0,
            select(b, isPositive, min(b, floorDiv(b, x.lo, least), floorDiv(b, x.lo, largest)),
                   constant(wide.lo)),
            select(b, isPositive, max(b, floorDiv(b, x.hi, least), floorDiv(b, x.hi, largest)),
                   constant(wide.hi)),
            wide,
            usesKv};
  }
  if (std::optional<int64_t> c = asConstant(divisor); c && *c > 0)
    wide = {std::min<int64_t>(x.range.lo, 0), std::max<int64_t>(x.range.hi, 0)};
  OpBuilder &b = at(x.usesKv);
  auto [isPositive, safe] = divisorOf(divisor);
  return {0,
          0,
          select(b, isPositive, floorDiv(b, x.lo, safe), constant(wide.lo)),
          select(b, isPositive, floorDiv(b, x.hi, safe), constant(wide.hi)),
          wide,
          x.usesKv};
}

const IntervalEvaluator::Divisor &IntervalEvaluator::divisorOf(Value divisor) {
  Divisor &known = divisors[divisor];
  if (!known.safe) {
    known.isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
    known.safe = select(outer, known.isPositive, divisor, constant(1));
  }
  return known;
}

Integer IntervalEvaluator::modulo(Integer x, const Integer &y) {
  if (std::optional<int64_t> c = asConstant(y); c && *c < 0)
    return subtract(point(0), modulo(subtract(point(0), x), point(-*c)));
  x = plain(x);
  // The sign of the divisor, and nearer to zero.
  StaticRange wide = {std::min<int64_t>(y.range.lo + 1, 0), std::max<int64_t>(y.range.hi - 1, 0)};
  Value divisor = y.isPlain() && y.isPoint() ? y.lo : Value();
  if (!divisor) {
    Integer by = plain(y);
    bool usesKv = x.usesKv || by.usesKv;
    OpBuilder &b = at(usesKv);
    auto isLess = [&](Value u, Value v) { return compare(b, arith::CmpIPredicate::slt, u, v); };
    Value zero = constant(0), isPositive = isLess(zero, by.lo);
    Value isItself =
        land(b, negate(b, isLess(x.lo, zero)), isLess(x.hi, by.lo)); // by is positive then
    Value least = select(b, isPositive, zero, constant(wide.lo)),
          most = select(b, isPositive, sub(b, by.hi, constant(1)), constant(wide.hi));
    return {0,
            0,
            select(b, isItself, x.lo, least),
            select(b, isItself, x.hi, most),
            {std::min(wide.lo, x.range.lo), std::max(wide.hi, x.range.hi)},
            usesKv};
  }
  if (std::optional<int64_t> c = asConstant(divisor); c && *c > 0)
    wide = {0, *c - 1};
  OpBuilder &b = at(x.usesKv);
  auto [isPositive, safe] = divisorOf(divisor);
  Value first = floorDiv(b, x.lo, safe), last = floorDiv(b, x.hi, safe);
  Value isOnePeriod = land(b, isPositive, compare(b, arith::CmpIPredicate::eq, first, last));
  Value base = mul(b, first, safe);
  Value most = select(outer, isPositive, sub(outer, safe, constant(1)), constant(wide.hi));
  Value least = select(outer, isPositive, constant(0), constant(wide.lo));
  return {0,
          0,
          select(b, isOnePeriod, sub(b, x.lo, base), least),
          select(b, isOnePeriod, sub(b, x.hi, base), most),
          wide,
          x.usesKv,
          /*bits=*/std::nullopt,
          Residue{safe, x.lo, x.hi}};
}

std::optional<Integer> IntervalEvaluator::bitOperation(Operation &op, const Integer &x, int64_t c) {
  auto shifted = [&](Integer result, auto shift) {
    OpBuilder &b = at(x.usesKv);
    if (x.bits)
      result.bits = Bits{shift(b, x.bits->ones), shift(b, x.bits->unknown)};
    return result;
  };
  if (isa<arith::ShLIOp>(op) && c >= 0 && c < 31)
    return shifted(multiply(x, point(int64_t(1) << c)),
                   [&](OpBuilder &b, Value v) { return binary<arith::ShLIOp>(b, v, constant(c)); });
  if (isa<arith::ShRSIOp>(op) && c >= 0 && c < 31)
    return shifted(divide(x, point(int64_t(1) << c)), [&](OpBuilder &b, Value v) {
      return binary<arith::ShRSIOp>(b, v, constant(c));
    });
  if (isa<arith::AndIOp>(op) && c >= 0 && c < kMaxI32) {
    if ((c & (c + 1)) == 0 && !x.bits)
      return modulo(x, point(c + 1));
  }
  if (isa<arith::AndIOp>(op) && c < 0 && c >= kMinI32 && (-c & (-c - 1)) == 0)
    return multiply(divide(x, point(-c)), point(-c)); // rounded down to a multiple
  return std::nullopt;
}

Integer IntervalEvaluator::shift(Operation &op, const Integer &of, const Integer &by) {
  Integer x = plain(of), amount = plain(by);
  bool usesKv = x.usesKv || amount.usesKv;
  OpBuilder &b = at(usesKv);
  // The language takes amounts modulo the width.
  int64_t most = op.getResult(0).getType().getIntOrFloatBitWidth() - 1;
  auto inRange = [&](Value v) { return max(b, min(b, v, constant(most)), constant(0)); };
  Value least = inRange(amount.lo), largest = amount.isPoint() ? least : inRange(amount.hi);
  if (isa<arith::ShRSIOp>(op)) {
    auto right = [&](Value v, Value n) { return binary<arith::ShRSIOp>(b, v, n); };
    return {0,
            0,
            min(b, right(x.lo, least), right(x.lo, largest)),
            max(b, right(x.hi, least), right(x.hi, largest)),
            {x.range.lo < 0 ? x.range.lo : 0, x.range.hi < 0 ? -1 : x.range.hi},
            usesKv};
  }
  constexpr int64_t mostFactor = 30; // beyond it products might overflow
  noteWrap(compare(b, arith::CmpIPredicate::sgt, largest, constant(mostFactor)));
  auto power = [&](Value n) {
    return binary<arith::ShLIOp>(b, constant(1), min(b, n, constant(mostFactor)));
  };
  Value lo = power(least);
  return multiply(
      x, {0, 0, lo, amount.isPoint() ? lo : power(largest), {1, int64_t(1) << mostFactor}, usesKv});
}

Bits IntervalEvaluator::bitsOf(const Integer &x) {
  if (x.bits)
    return *x.bits;
  OpBuilder &b = at(x.usesKv);
  Value unknown = binary<arith::XOrIOp>(b, x.lo, x.hi);
  for (int64_t shift : {1, 2, 4, 8, 16, 32})
    unknown = binary<arith::OrIOp>(b, unknown, binary<arith::ShRUIOp>(b, unknown, constant(shift)));
  return {sub(b, binary<arith::OrIOp>(b, x.lo, unknown), unknown), unknown};
}

Integer IntervalEvaluator::combineBits(Operation &op, Integer x, Integer y) {
  x = plain(x);
  y = plain(y);
  bool usesKv = x.usesKv || y.usesKv, isNarrow = x.range.fitsI32() && y.range.fitsI32();
  OpBuilder &b = at(usesKv);
  Bits ofX = bitsOf(x), ofY = bitsOf(y);
  auto either = [&](Value u, Value v) { return binary<arith::OrIOp>(b, u, v); };
  auto both = [&](Value u, Value v) { return binary<arith::AndIOp>(b, u, v); };
  auto differing = [&](Value u, Value v) { return binary<arith::XOrIOp>(b, u, v); };
  Value ones, possible; // those that are set, those that may be
  if (isa<arith::XOrIOp>(op)) {
    Value unknown = either(ofX.unknown, ofY.unknown);
    possible = either(differing(ofX.ones, ofY.ones), unknown);
    ones = differing(possible, unknown);
  } else {
    bool isAnd = isa<arith::AndIOp>(op);
    auto combine = [&](Value u, Value v) { return isAnd ? both(u, v) : either(u, v); };
    ones = combine(ofX.ones, ofY.ones);
    possible = combine(either(ofX.ones, ofX.unknown), either(ofY.ones, ofY.unknown));
  }
  Bits known{ones, differing(possible, ones)};
  bool xHasSign = x.range.lo < 0, yHasSign = y.range.lo < 0, isAnd = isa<arith::AndIOp>(op);
  if (isAnd ? xHasSign && yHasSign : xHasSign || yHasSign) {
    // All bits from the sign on are the same: where they may be either, they are for the least
    // number and are not for the largest.
    int64_t signs = isNarrow ? kMinI32 : -2 * kInfinity;
    Value sign = both(binary<arith::ShRSIOp>(b, known.unknown, constant(63)), constant(signs));
    StaticRange all = isNarrow ? StaticRange{kMinI32, kMaxI32} : StaticRange{-kInfinity, kInfinity};
    return Integer{0,      0,    either(ones, sign), differing(possible, both(possible, sign)), all,
                   usesKv, known};
  }
  int64_t most = kInfinity;
  if (!isAnd) // neither has a sign
    most = llvm::maskTrailingOnes<uint64_t>(llvm::bit_width<uint64_t>(x.range.hi | y.range.hi));
  else
    for (const Integer *operand : {&x, &y})
      if (operand->range.lo >= 0) {
        most = std::min(most, operand->range.hi);
        possible = min(b, possible, operand->hi);
      }
  return Integer{0, 0, ones, possible, {0, most}, usesKv, known};
}
