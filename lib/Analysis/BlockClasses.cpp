//===-- BlockClasses.cpp - Interval evaluation of masks -------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Analysis/BlockClasses.h"

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"

#include <limits>
#include <optional>

using namespace mlir;
using namespace heed;

namespace {

/// Far beyond every coordinate, and far from overflowing 64 bits in sums and small products.
constexpr int64_t kInfinity = int64_t(1) << 40;
constexpr int64_t kMinI32 = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxI32 = std::numeric_limits<int32_t>::max();

/// Bounds that hold for every launch; they only save run-time checks for wrapping. Saturating at +-kInfinity.
struct StaticRange {
  int64_t lo, hi;

  static int64_t clamp(__int128 x) {
    return x < -kInfinity ? -kInfinity : x > kInfinity ? kInfinity : int64_t(x);
  }
  static StaticRange make(__int128 lo, __int128 hi) { return {clamp(lo), clamp(hi)}; }
  bool fitsI32() const { return lo >= kMinI32 && hi <= kMaxI32; }
};

/// An integer over the box: cq * q + ck * kv + [lo, hi].
struct Integer {
  int64_t cq = 0, ck = 0;
  Value lo, hi; // i64
  StaticRange range;
  bool usesKv = false; // of the computation of lo and hi, besides ck

  bool isPlain() const { return cq == 0 && ck == 0; }
};

/// A boolean over the box.
struct Boolean {
  Value always, never; // i1
  bool usesKv = false;
};

/// What is known of a value of the mask region over the box.
struct Abstract {
  /// The value itself, where it depends on neither q nor kv.
  Value uniform;
  std::optional<Integer> integer;
  std::optional<Boolean> boolean;
};

class Evaluator {
public:
  Evaluator(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask, const IRMapping &mapping,
            const TileBox &box)
      : outer(outer), inner(inner), mask(mask), mapping(mapping) {
    q = {toI64(outer, box.firstQ), toI64(outer, box.lastQ)};
    kv = {toI64(inner, box.firstKv), toI64(inner, box.lastKv)};
    wraps = constantBool(false);
    auto coordinates = mask.getCoordinates();
    for (unsigned i : {0, 1})
      values[coordinates[i]].uniform = mapping.lookup(coordinates[i]);
    values[coordinates[2]].integer = coordinate(/*cq=*/1, /*ck=*/0);
    values[coordinates[3]].integer = coordinate(/*cq=*/0, /*ck=*/1);
    for (Operation &op : mask.getBodyBlock()->without_terminator())
      evaluate(op);
  }

  /// The mask over the box; unknown where arithmetic may wrap.
  Boolean result() {
    Boolean r = getBoolean(mask.getResultValue());
    Value exact = negate(inner, wraps);
    return {land(inner, r.always, exact), land(inner, r.never, exact), true};
  }

  /// The hull of the keys for which the mask may be true, as i64 first and last.
  std::pair<Value, Value> hull() {
    auto [lo, hi] = hull(mask.getResultValue(), /*negated=*/false);
    return {select(inner, wraps, constant(-kInfinity), lo),
            select(inner, wraps, constant(kInfinity), hi)};
  }

private:
  struct Bounds {
    Value lo, hi;
  };

  //===-- Small builders --------------------------------------------------===//

  OpBuilder &at(bool usesKv) { return usesKv ? inner : outer; }
  Location loc() { return mask.getLoc(); }

  Value toI64(OpBuilder &b, Value index) {
    return arith::IndexCastOp::create(b, loc(), b.getI64Type(), index);
  }
  Value constant(int64_t v) {
    return arith::ConstantIntOp::create(outer, loc(), outer.getI64Type(), v);
  }
  Value constantBool(bool v) {
    return arith::ConstantIntOp::create(outer, loc(), outer.getI1Type(), v);
  }
  static std::optional<int64_t> asConstant(Value v) {
    APInt value;
    if (matchPattern(v, m_ConstantInt(&value)))
      return value.getSExtValue();
    return std::nullopt;
  }

  template <typename Op>
  Value binary(OpBuilder &b, Value x, Value y) {
    return b.createOrFold<Op>(loc(), x, y);
  }
  Value add(OpBuilder &b, Value x, Value y) { return binary<arith::AddIOp>(b, x, y); }
  Value sub(OpBuilder &b, Value x, Value y) { return binary<arith::SubIOp>(b, x, y); }
  Value mul(OpBuilder &b, Value x, Value y) { return binary<arith::MulIOp>(b, x, y); }
  Value min(OpBuilder &b, Value x, Value y) { return binary<arith::MinSIOp>(b, x, y); }
  Value max(OpBuilder &b, Value x, Value y) { return binary<arith::MaxSIOp>(b, x, y); }
  Value land(OpBuilder &b, Value x, Value y) { return binary<arith::AndIOp>(b, x, y); }
  Value lor(OpBuilder &b, Value x, Value y) { return binary<arith::OrIOp>(b, x, y); }
  Value negate(OpBuilder &b, Value x) { return binary<arith::XOrIOp>(b, x, constantBool(true)); }
  Value floorDiv(OpBuilder &b, Value x, Value y) { return binary<attn::FloorDivOp>(b, x, y); }
  Value select(OpBuilder &b, Value c, Value x, Value y) {
    return b.createOrFold<arith::SelectOp>(loc(), c, x, y);
  }
  Value compare(OpBuilder &b, arith::CmpIPredicate p, Value x, Value y) {
    return b.createOrFold<arith::CmpIOp>(loc(), p, x, y);
  }

  //===-- Values ----------------------------------------------------------===//

  Integer coordinate(int64_t cq, int64_t ck) {
    return {cq, ck, constant(0), constant(0), {0, kMaxI32}, false};
  }

  Integer unknownInteger(Type type) {
    if (type.isInteger(32))
      return {0, 0, constant(kMinI32), constant(kMaxI32), {kMinI32, kMaxI32}, false};
    return {0, 0, constant(-kInfinity), constant(kInfinity), {-kInfinity, kInfinity}, false};
  }

  Boolean unknownBoolean() { return {constantBool(false), constantBool(false), false}; }

  Boolean getBoolean(Value v) {
    Abstract &a = values[v];
    if (a.boolean)
      return *a.boolean;
    if (Value u = uniformOf(v))
      return {u, negate(outer, u), false};
    return unknownBoolean();
  }

  std::optional<Integer> getInteger(Value v) {
    Abstract &a = values[v];
    if (a.integer)
      return a.integer;
    Type type = v.getType();
    if (!type.isInteger(32) && !type.isInteger(64))
      return std::nullopt;
    if (Value u = uniformOf(v)) {
      // An i64 beyond kInfinity would overflow sums of bounds: treat it as wrapping.
      StaticRange range = unknownInteger(type).range;
      if (auto c = asConstant(u))
        range = StaticRange::make(*c, *c);
      Value wide = u;
      if (type.isInteger(32)) {
        wide = outer.createOrFold<arith::ExtSIOp>(loc(), outer.getI64Type(), u);
      } else if (!asConstant(u)) {
        Value big = constant(kInfinity), small = constant(-kInfinity);
        noteWrap(outer, lor(outer, compare(outer, arith::CmpIPredicate::sgt, u, big),
                            compare(outer, arith::CmpIPredicate::slt, u, small)));
        wide = max(outer, min(outer, u, big), small);
      }
      return a.integer = Integer{0, 0, wide, wide, range, false};
    }
    return unknownInteger(type);
  }

  /// The value itself where it depends on neither q nor kv, else null. Captures and constants are found here.
  Value uniformOf(Value v) {
    Abstract &a = values[v];
    if (!a.uniform && !a.integer && !a.boolean)
      if (Value mapped = mapping.lookupOrNull(v))
        a.uniform = mapped;
    return a.uniform;
  }

  /// The bounds of an integer over the box.
  Bounds bounds(const Integer &x) {
    OpBuilder &b = at(x.usesKv || x.ck != 0);
    Bounds r{x.lo, x.hi};
    auto addTerm = [&](int64_t c, const Bounds &term) {
      if (c == 0)
        return;
      Value k = constant(c);
      r.lo = add(b, r.lo, mul(b, k, c > 0 ? term.lo : term.hi));
      r.hi = add(b, r.hi, mul(b, k, c > 0 ? term.hi : term.lo));
    };
    addTerm(x.cq, q);
    addTerm(x.ck, kv);
    return r;
  }

  /// The same integer without its linear part.
  Integer plain(const Integer &x) {
    Bounds r = bounds(x);
    return {0, 0, r.lo, r.hi, x.range, x.usesKv || x.ck != 0};
  }

  void noteWrap(OpBuilder &b, Value condition) {
    // `wraps` grows along the region; once it has a part that needs the keys it lives at `inner`.
    wraps = lor(inner, wraps, condition);
  }

  /// Records a result of type `type`: where it may leave 32 bits the box becomes unknown at run time.
  void setInteger(Value result, Integer x) {
    if (result.getType().isInteger(32) && !x.range.fitsI32()) {
      OpBuilder &b = at(x.usesKv || x.ck != 0);
      Bounds r = bounds(x);
      noteWrap(b, lor(b, compare(b, arith::CmpIPredicate::slt, r.lo, constant(kMinI32)),
                      compare(b, arith::CmpIPredicate::sgt, r.hi, constant(kMaxI32))));
      x.range = StaticRange::make(std::max(x.range.lo, kMinI32), std::min(x.range.hi, kMaxI32));
    } else if (result.getType().isInteger(64) &&
               (x.range.lo <= -kInfinity || x.range.hi >= kInfinity)) {
      x = unknownInteger(result.getType());
    }
    values[result].integer = x;
  }

  //===-- Transfer functions ----------------------------------------------===//

  void evaluate(Operation &op) {
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
  }

  Boolean evaluateBoolean(Operation &op) {
    if (isa<arith::AndIOp>(op))
      return conjunction(getBoolean(op.getOperand(0)), getBoolean(op.getOperand(1)));
    if (isa<arith::OrIOp>(op))
      return invert(conjunction(invert(getBoolean(op.getOperand(0))),
                                invert(getBoolean(op.getOperand(1)))));
    if (isa<arith::XOrIOp>(op)) {
      Boolean x = getBoolean(op.getOperand(0)), y = getBoolean(op.getOperand(1));
      OpBuilder &b = at(x.usesKv || y.usesKv);
      return {lor(b, land(b, x.always, y.never), land(b, x.never, y.always)),
              lor(b, land(b, x.always, y.always), land(b, x.never, y.never)),
              x.usesKv || y.usesKv};
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
      if (std::optional<Integer> d = difference(compareOp))
        return compareWithZero(compareOp.getPredicate(), *d);
    }
    return unknownBoolean();
  }

  Boolean evaluateBooleanCompare(arith::CmpIOp op) {
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

  Boolean invert(const Boolean &x) { return {x.never, x.always, x.usesKv}; }

  Boolean conjunction(const Boolean &x, const Boolean &y) {
    bool usesKv = x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    return {land(b, x.always, y.always), lor(b, x.never, y.never), usesKv};
  }

  /// lhs - rhs, with the linear parts combined.
  std::optional<Integer> difference(arith::CmpIOp op) {
    std::optional<Integer> x = getInteger(op.getLhs()), y = getInteger(op.getRhs());
    if (!x || !y)
      return std::nullopt;
    return subtract(*x, *y);
  }

  Integer subtract(const Integer &x, const Integer &y) {
    bool usesKv = x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    return {x.cq - y.cq,
            x.ck - y.ck,
            sub(b, x.lo, y.hi),
            sub(b, x.hi, y.lo),
            StaticRange::make(__int128(x.range.lo) - y.range.hi, __int128(x.range.hi) - y.range.lo),
            usesKv};
  }

  Boolean compareWithZero(arith::CmpIPredicate predicate, const Integer &d) {
    using P = arith::CmpIPredicate;
    bool usesKv = d.usesKv || d.ck != 0;
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
      return predicate == P::eq ? make(same, apart) : make(apart, same);
    }
    default: // unsigned orders
      return unknownBoolean();
    }
  }

  void evaluateInteger(Operation &op, Value result) {
    std::optional<Integer> x, y;
    if (op.getNumOperands() >= 1)
      x = getInteger(op.getOperand(0));
    if (op.getNumOperands() >= 2)
      y = getInteger(op.getOperand(1));

    if (isa<arith::AddIOp>(op) && x && y) {
      Integer minusY = subtract({0, 0, constant(0), constant(0), {0, 0}, false}, *y);
      return setInteger(result, subtract(*x, minusY));
    }
    if (isa<arith::SubIOp>(op) && x && y)
      return setInteger(result, subtract(*x, *y));
    if (isa<arith::MulIOp>(op) && x && y)
      return setInteger(result, multiply(*x, *y));
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
      return setInteger(result, {0, 0, select(b, c.always, one, zero),
                                 select(b, c.never, zero, one), {0, 1}, c.usesKv});
    }
    if (isa<arith::ShLIOp, arith::ShRSIOp, arith::AndIOp>(op) && x && y)
      if (std::optional<int64_t> c = asConstant(op.getOperand(1)))
        if (std::optional<Integer> r = bitOperation(op, *x, *c))
          return setInteger(result, *r);
    if (auto selectOp = dyn_cast<arith::SelectOp>(op)) {
      std::optional<Integer> t = getInteger(selectOp.getTrueValue()),
                             f = getInteger(selectOp.getFalseValue());
      if (t && f)
        return setInteger(result, choose(getBoolean(selectOp.getCondition()), *t, *f));
    }
    if (auto load = dyn_cast<attn::LoadOp>(op))
      if (std::optional<Integer> r = summarise(load))
        return setInteger(result, *r);
    setInteger(result, unknownInteger(result.getType()));
  }

  static StaticRange productRange(const StaticRange &x, const StaticRange &y) {
    __int128 p[] = {__int128(x.lo) * y.lo, __int128(x.lo) * y.hi, __int128(x.hi) * y.lo,
                    __int128(x.hi) * y.hi};
    return StaticRange::make(*std::min_element(p, p + 4), *std::max_element(p, p + 4));
  }

  Integer multiply(Integer x, Integer y) {
    StaticRange range = productRange(x.range, y.range);
    if (x.isPlain() && asConstant(x.lo) && asConstant(x.lo) == asConstant(x.hi))
      std::swap(x, y);
    if (y.isPlain() && asConstant(y.lo) && asConstant(y.lo) == asConstant(y.hi)) {
      // A constant factor keeps the linear part, as long as the coefficients stay small.
      int64_t c = *asConstant(y.lo);
      constexpr int64_t limit = int64_t(1) << 20;
      if (std::abs(c) < limit && std::abs(x.cq * c) < limit && std::abs(x.ck * c) < limit) {
        OpBuilder &b = at(x.usesKv);
        Value k = constant(c);
        return {x.cq * c, x.ck * c, mul(b, k, c >= 0 ? x.lo : x.hi),
                mul(b, k, c >= 0 ? x.hi : x.lo), range, x.usesKv};
      }
    }
    x = plain(x);
    y = plain(y);
    if (!x.range.fitsI32() || !y.range.fitsI32())
      return {0, 0, constant(-kInfinity), constant(kInfinity), {-kInfinity, kInfinity}, false};
    bool usesKv = x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    Value p0 = mul(b, x.lo, y.lo), p1 = mul(b, x.lo, y.hi), p2 = mul(b, x.hi, y.lo),
          p3 = mul(b, x.hi, y.hi);
    return {0, 0, min(b, min(b, p0, p1), min(b, p2, p3)), max(b, max(b, p0, p1), max(b, p2, p3)),
            range, usesKv};
  }

  Integer extremum(Integer x, Integer y, bool isMin) {
    if (x.cq != y.cq || x.ck != y.ck) {
      x = plain(x);
      y = plain(y);
    }
    bool usesKv = x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    auto pick = [&](Value u, Value v) { return isMin ? min(b, u, v) : max(b, u, v); };
    auto pickStatic = [&](int64_t u, int64_t v) { return isMin ? std::min(u, v) : std::max(u, v); };
    return {x.cq,
            x.ck,
            pick(x.lo, y.lo),
            pick(x.hi, y.hi),
            {pickStatic(x.range.lo, y.range.lo), pickStatic(x.range.hi, y.range.hi)},
            usesKv};
  }

  Integer choose(const Boolean &c, Integer x, Integer y) {
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

  /// Division by something that is one positive number over the whole box; anything where it is not.
  Integer divide(Integer x, const Integer &y) {
    x = plain(x);
    StaticRange wide = StaticRange::make(-std::max(std::abs(x.range.lo), std::abs(x.range.hi)),
                                         std::max(std::abs(x.range.lo), std::abs(x.range.hi)));
    Value divisor = y.isPlain() && y.lo == y.hi ? y.lo : Value();
    if (!divisor)
      return {0, 0, constant(wide.lo), constant(wide.hi), wide, false};
    OpBuilder &b = at(x.usesKv);
    Value isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
    Value safe = select(outer, isPositive, divisor, constant(1));
    return {0, 0, select(b, isPositive, floorDiv(b, x.lo, safe), constant(wide.lo)),
            select(b, isPositive, floorDiv(b, x.hi, safe), constant(wide.hi)), wide, x.usesKv};
  }

  Integer modulo(Integer x, const Integer &y) {
    x = plain(x);
    StaticRange wide = StaticRange::make(-std::max(std::abs(y.range.lo), std::abs(y.range.hi)),
                                         std::max(std::abs(y.range.lo), std::abs(y.range.hi)));
    Value divisor = y.isPlain() && y.lo == y.hi ? y.lo : Value();
    if (!divisor)
      return {0, 0, constant(wide.lo), constant(wide.hi), wide, false};
    if (std::optional<int64_t> c = asConstant(divisor); c && *c > 0)
      wide = {0, *c - 1};
    OpBuilder &b = at(x.usesKv);
    Value isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
    Value safe = select(outer, isPositive, divisor, constant(1));
    Value first = floorDiv(b, x.lo, safe), last = floorDiv(b, x.hi, safe);
    Value isOnePeriod =
        land(b, isPositive, compare(b, arith::CmpIPredicate::eq, first, last));
    Value base = mul(b, first, safe);
    Value most = select(outer, isPositive, sub(outer, safe, constant(1)), constant(wide.hi));
    Value least = select(outer, isPositive, constant(0), constant(wide.lo));
    return {0, 0, select(b, isOnePeriod, sub(b, x.lo, base), least),
            select(b, isOnePeriod, sub(b, x.hi, base), most), wide, x.usesKv};
  }

  /// Shifts by a constant, and masks of low bits, are products, quotients and remainders.
  std::optional<Integer> bitOperation(Operation &op, const Integer &x, int64_t c) {
    auto power = [&](int64_t n) {
      Value v = constant(n);
      return Integer{0, 0, v, v, {n, n}, false};
    };
    if (isa<arith::ShLIOp>(op) && c >= 0 && c < 31)
      return multiply(x, power(int64_t(1) << c));
    if (isa<arith::ShRSIOp>(op) && c >= 0 && c < 31)
      return divide(x, power(int64_t(1) << c));
    if (isa<arith::AndIOp>(op) && c >= 0 && c < kMaxI32) {
      if ((c & (c + 1)) == 0)
        return modulo(x, power(c + 1));
      return Integer{0, 0, constant(0), constant(c), {0, c}, false};
    }
    return std::nullopt;
  }

  /// A tensor read at uniform indices but for one, which is q or kv plus something uniform: the least and the largest
  /// element over the box, found by reading them.
  std::optional<Integer> summarise(attn::LoadOp load) {
    if (!load.getResult().getType().isInteger(32))
      return std::nullopt;
    std::optional<unsigned> moving;
    for (auto [position, index] : llvm::enumerate(load.getIndices())) {
      if (uniformOf(index))
        continue;
      if (moving || !index.getType().isInteger(32))
        return std::nullopt;
      moving = position;
    }
    Integer place = *getInteger(load.getIndices()[*moving]);
    bool readsQ = place.cq == 1 && place.ck == 0, readsKv = place.cq == 0 && place.ck == 1;
    if ((!readsQ && !readsKv) || place.lo != place.hi || place.usesKv)
      return std::nullopt;

    OpBuilder &b = at(readsKv);
    Bounds range = bounds(place);
    Value first = arith::IndexCastOp::create(b, loc(), b.getIndexType(), range.lo);
    Value last = arith::IndexCastOp::create(b, loc(), b.getIndexType(), range.hi);
    Value one = arith::ConstantIndexOp::create(b, loc(), 1);
    Value end = arith::AddIOp::create(b, loc(), last, one);
    Value least = arith::ConstantIntOp::create(b, loc(), b.getI32Type(), kMaxI32);
    Value most = arith::ConstantIntOp::create(b, loc(), b.getI32Type(), kMinI32);
    auto loop = scf::ForOp::create(
        b, loc(), first, end, one, ValueRange{least, most},
        [&](OpBuilder &body, Location l, Value iv, ValueRange carried) {
          SmallVector<Value> indices;
          for (auto [position, index] : llvm::enumerate(load.getIndices()))
            indices.push_back(position == *moving ? arith::IndexCastOp::create(
                                                        body, l, body.getI32Type(), iv)
                                                        .getResult()
                                                  : uniformOf(index));
          Value element = attn::LoadOp::create(body, l, uniformOf(load.getTensor()), indices);
          scf::YieldOp::create(
              body, l,
              ValueRange{arith::MinSIOp::create(body, l, carried[0], element),
                         arith::MaxSIOp::create(body, l, carried[1], element)});
        });
    Value lo = arith::ExtSIOp::create(b, loc(), b.getI64Type(), loop.getResult(0));
    Value hi = arith::ExtSIOp::create(b, loc(), b.getI64Type(), loop.getResult(1));
    return Integer{0, 0, lo, hi, {kMinI32, kMaxI32}, readsKv};
  }

  //===-- Closed form -----------------------------------------------------===//

  /// The hull of { kv : `v` (or its negation) may hold for some q of the box }.
  std::pair<Value, Value> hull(Value v, bool negated) {
    Value everywhereLo = constant(-kInfinity), everywhereHi = constant(kInfinity);
    if (Operation *op = v.getDefiningOp(); op && !uniformOf(v)) {
      if (isa<arith::AndIOp, arith::OrIOp>(op)) {
        auto [lo0, hi0] = hull(op->getOperand(0), negated);
        auto [lo1, hi1] = hull(op->getOperand(1), negated);
        if (isa<arith::AndIOp>(op) != negated)
          return {max(inner, lo0, lo1), min(inner, hi0, hi1)};
        return unite({lo0, hi0}, {lo1, hi1});
      }
      if (auto x = dyn_cast<arith::XOrIOp>(op))
        if (std::optional<int64_t> c = asConstant(x.getRhs()))
          return hull(x.getLhs(), negated != (*c != 0));
      if (auto x = dyn_cast<arith::CmpIOp>(op); x && !x.getLhs().getType().isInteger(1))
        if (std::optional<Integer> d = difference(x); d && d->ck != 0 && !d->usesKv)
          return halfLine(negated ? arith::invertPredicate(x.getPredicate()) : x.getPredicate(), *d);
    }
    // Nothing linear in kv: all keys, or none where the whole box is known.
    Boolean b = getBoolean(v);
    Value empty = negated ? b.always : b.never;
    return {select(inner, empty, everywhereHi, everywhereLo),
            select(inner, empty, everywhereLo, everywhereHi)};
  }

  /// The hull of two hulls, either of which may be empty.
  std::pair<Value, Value> unite(std::pair<Value, Value> x, std::pair<Value, Value> y) {
    auto isEmpty = [&](std::pair<Value, Value> s) {
      return compare(inner, arith::CmpIPredicate::sgt, s.first, s.second);
    };
    Value xEmpty = isEmpty(x), yEmpty = isEmpty(y);
    Value lo = min(inner, x.first, y.first), hi = max(inner, x.second, y.second);
    lo = select(inner, xEmpty, y.first, select(inner, yEmpty, x.first, lo));
    hi = select(inner, xEmpty, y.second, select(inner, yEmpty, x.second, hi));
    return {lo, hi};
  }

  /// { kv : ck * kv + p `predicate` 0 for some p }, where p is cq * q + [lo, hi] over the box.
  std::pair<Value, Value> halfLine(arith::CmpIPredicate predicate, Integer d) {
    using P = arith::CmpIPredicate;
    int64_t ck = d.ck;
    d.ck = 0;
    Bounds p = bounds(d);
    Value lo = constant(-kInfinity), hi = constant(kInfinity);
    // ck * kv <= -(p + strict), for the smallest p.
    auto atMost = [&](int64_t strict) {
      Value limit = sub(inner, constant(-strict), p.lo);
      if (ck > 0)
        hi = floorDiv(inner, limit, constant(ck));
      else
        lo = negatedFloorDiv(limit, -ck);
    };
    // ck * kv >= -p + strict, for the largest p.
    auto atLeast = [&](int64_t strict) {
      Value limit = sub(inner, constant(strict), p.hi);
      if (ck > 0)
        lo = ceilDiv(limit, ck);
      else
        hi = floorDiv(inner, sub(inner, constant(0), limit), constant(-ck));
    };
    switch (predicate) {
    case P::slt:
      atMost(1);
      break;
    case P::sle:
      atMost(0);
      break;
    case P::sgt:
      atLeast(1);
      break;
    case P::sge:
      atLeast(0);
      break;
    case P::eq:
      atMost(0);
      atLeast(0);
      break;
    default:
      break;
    }
    return {lo, hi};
  }

  /// ceil(x / c) for c > 0.
  Value ceilDiv(Value x, int64_t c) {
    return sub(inner, constant(0), floorDiv(inner, sub(inner, constant(0), x), constant(c)));
  }
  /// ceil(-x / c): the least kv with -c * kv <= x.
  Value negatedFloorDiv(Value x, int64_t c) {
    return sub(inner, constant(0), floorDiv(inner, x, constant(c)));
  }

  OpBuilder &outer, &inner;
  attn::MaskOp mask;
  const IRMapping &mapping;
  Bounds q, kv;
  Value wraps;
  llvm::DenseMap<Value, Abstract> values;
};

} // namespace

Value heed::emitBlockClass(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask,
                           const IRMapping &mapping, const TileBox &box) {
  Boolean all = Evaluator(outer, inner, mask, mapping, box).result();
  auto constant = [&](tile::BlockClass c) -> Value {
    return arith::ConstantIntOp::create(inner, mask.getLoc(), inner.getI32Type(),
                                        static_cast<int64_t>(c));
  };
  Value notFull = arith::SelectOp::create(inner, mask.getLoc(), all.never,
                                          constant(tile::BlockClass::Skipped),
                                          constant(tile::BlockClass::Partial));
  return arith::SelectOp::create(inner, mask.getLoc(), all.always,
                                 constant(tile::BlockClass::Full), notFull);
}

KvBounds heed::emitKvBounds(OpBuilder &builder, attn::MaskOp mask, const IRMapping &mapping,
                            const TileBox &box) {
  Location loc = mask.getLoc();
  auto [first, last] = Evaluator(builder, builder, mask, mapping, box).hull();
  Type index = builder.getIndexType();
  Value lower = arith::IndexCastOp::create(builder, loc, index, first);
  Value upper = arith::IndexCastOp::create(builder, loc, index, last);
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  upper = arith::AddIOp::create(builder, loc, upper, one);
  Value end = arith::AddIOp::create(builder, loc, box.lastKv, one);
  return {arith::MaxSIOp::create(builder, loc, lower, box.firstKv),
          arith::MinSIOp::create(builder, loc, upper, end)};
}
