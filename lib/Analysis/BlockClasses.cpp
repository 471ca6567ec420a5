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

/// Far beyond every coordinate, and far from overflowing 64 bits in sums and small products. An i64
/// that may be beyond it is not tracked.
constexpr int64_t kInfinity = int64_t(1) << 40;
constexpr int64_t kLargestI64 = kInfinity / 2;
constexpr int64_t kMinI32 = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxI32 = std::numeric_limits<int32_t>::max();

/// Bounds that hold for every launch; they only save run-time checks for wrapping. Saturating at
/// +-kInfinity.
struct StaticRange {
  int64_t lo, hi;

  static int64_t clamp(__int128 x) {
    return x < -kInfinity ? -kInfinity : x > kInfinity ? kInfinity : int64_t(x);
  }
  static StaticRange make(__int128 lo, __int128 hi) { return {clamp(lo), clamp(hi)}; }
  bool fitsI32() const { return lo >= kMinI32 && hi <= kMaxI32; }
  bool isBounded() const { return lo > -kInfinity && hi < kInfinity; }
  int64_t magnitude() const { return std::max(std::abs(lo), std::abs(hi)); }
};

/// An integer over the box: cq * q + ck * kv + [lo, hi].
struct Integer {
  int64_t cq = 0, ck = 0;
  Value lo, hi; // i64; the same value where the interval is known to be a point
  StaticRange range;
  bool usesKv = false; // of the computation of lo and hi, besides ck

  bool isPlain() const { return cq == 0 && ck == 0; }
  bool isPoint() const { return lo == hi; }
  bool dependsOnKv() const { return usesKv || ck != 0; }
};

/// A boolean over the box.
struct Boolean {
  Value always, never; // i1
  bool usesKv = false;
};

/// A set of integers with these ends, i64 values; null: without an end. Empty where lo > hi.
struct Bounds {
  Value lo, hi;
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
  /// `readKeys`: whether tensors may be summarised over the keys of the box.
  Evaluator(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask, const IRMapping &mapping,
            const TileBox &box, bool readKeys)
      : outer(outer), inner(inner), mask(mask), mapping(mapping), readKeys(readKeys) {
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

  /// The hull of the keys for which the mask may be true.
  Bounds hull() {
    Bounds keys = hull(mask.getResultValue(), /*negated=*/false);
    if (keys.lo)
      keys.lo = select(inner, wraps, constant(-kInfinity), keys.lo);
    if (keys.hi)
      keys.hi = select(inner, wraps, constant(kInfinity), keys.hi);
    return keys;
  }

private:
  //===-- Small builders --------------------------------------------------===//

  OpBuilder &at(bool usesKv) { return usesKv ? inner : outer; }
  Location loc() { return mask.getLoc(); }

  Value toI64(OpBuilder &b, Value index) {
    return arith::IndexCastOp::create(b, loc(), b.getI64Type(), index);
  }
  Value constant(int64_t v) {
    Value &cached = constants[v];
    if (!cached)
      cached = arith::ConstantIntOp::create(outer, loc(), outer.getI64Type(), v);
    return cached;
  }
  Value constantBool(bool v) {
    Value &cached = booleans[v];
    if (!cached)
      cached = arith::ConstantIntOp::create(outer, loc(), outer.getI1Type(), v);
    return cached;
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

  Integer point(int64_t v) { return {0, 0, constant(v), constant(v), {v, v}, false}; }

  Integer coordinate(int64_t cq, int64_t ck) {
    return {cq, ck, constant(0), constant(0), {0, kMaxI32}, false};
  }

  Integer anyI32() {
    return {0, 0, constant(kMinI32), constant(kMaxI32), {kMinI32, kMaxI32}, false};
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

  /// None for an i64 of which nothing is known.
  std::optional<Integer> getInteger(Value v) {
    Abstract &a = values[v];
    if (a.integer)
      return a.integer;
    bool isNarrow = v.getType().isInteger(32);
    if (!isNarrow && !v.getType().isInteger(64))
      return std::nullopt;
    Value u = uniformOf(v);
    if (!u)
      return isNarrow ? std::optional(anyI32()) : std::nullopt;
    if (std::optional<int64_t> c = asConstant(u)) {
      if (*c <= -kInfinity || *c >= kInfinity)
        return std::nullopt;
      return a.integer = point(*c);
    }
    Value wide = u;
    if (isNarrow) {
      wide = outer.createOrFold<arith::ExtSIOp>(loc(), outer.getI64Type(), u);
      return a.integer = Integer{0, 0, wide, wide, {kMinI32, kMaxI32}, false};
    }
    wide = clamp(outer, u);
    noteWrap(compare(outer, arith::CmpIPredicate::ne, u, wide));
    return a.integer = Integer{0, 0, wide, wide, {-kLargestI64, kLargestI64}, false};
  }

  /// The value itself where it depends on neither q nor kv, else null. Captures and constants are
  /// found here.
  Value uniformOf(Value v) {
    Abstract &a = values[v];
    if (!a.uniform && !a.integer && !a.boolean)
      if (Value mapped = mapping.lookupOrNull(v))
        a.uniform = mapped;
    return a.uniform;
  }

  /// The bounds of an integer over the box.
  Bounds bounds(const Integer &x) {
    OpBuilder &b = at(x.dependsOnKv());
    Bounds r{x.lo, x.hi};
    auto addTerm = [&](int64_t c, const Bounds &term) {
      if (c == 0)
        return;
      r.lo = add(b, r.lo, mul(b, c > 0 ? term.lo : term.hi, constant(c)));
      r.hi = add(b, r.hi, mul(b, c > 0 ? term.hi : term.lo, constant(c)));
    };
    addTerm(x.cq, q);
    addTerm(x.ck, kv);
    return r;
  }

  /// The same integer without its linear part.
  Integer plain(const Integer &x) {
    Bounds r = bounds(x);
    return {0, 0, r.lo, r.hi, x.range, x.dependsOnKv()};
  }

  /// Sums of bounds must not overflow: a launch with an i64 that this changes counts as wrapping.
  Value clamp(OpBuilder &b, Value x) {
    return max(b, min(b, x, constant(kLargestI64)), constant(-kLargestI64));
  }

  void noteWrap(Value condition) { wraps = lor(inner, wraps, condition); }

  /// Records a result: where an i32 may leave its range the box becomes unknown at run time; an i64
  /// that may is dropped.
  void setInteger(Value result, Integer x) {
    if (result.getType().isInteger(32) && !x.range.fitsI32()) {
      OpBuilder &b = at(x.dependsOnKv());
      Bounds r = bounds(x);
      noteWrap(lor(b, compare(b, arith::CmpIPredicate::slt, r.lo, constant(kMinI32)),
                   compare(b, arith::CmpIPredicate::sgt, r.hi, constant(kMaxI32))));
      x.range = StaticRange::make(std::max(x.range.lo, kMinI32), std::min(x.range.hi, kMaxI32));
    } else if (!x.range.isBounded()) {
      return;
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
      if (std::optional<Integer> d = difference(compareOp))
        return compareWithZero(compareOp.getPredicate(), *d);
    }
    if (auto load = dyn_cast<attn::LoadOp>(op))
      if (std::optional<Summary> s = summarise(load))
        return {s->least, negate(at(s->usesKv), s->most), s->usesKv};
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

  /// `x == y && p(x)` is never true where p(y) is not, although neither side says so by itself.
  Boolean withEqualities(Operation &conjunction, Boolean known) {
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
      for (arith::CmpIOp other : compares)
        for (unsigned side : {0, 1})
          for (unsigned place : {0, 1}) {
            if (other == equality || other->getOperand(place) != equality->getOperand(side))
              continue;
            std::optional<Integer> x = getInteger(equality->getOperand(1 - side)),
                                   y = getInteger(other->getOperand(1 - place));
            if (!x || !y)
              continue;
            Boolean implied = compareWithZero(other.getPredicate(),
                                              place == 0 ? subtract(*x, *y) : subtract(*y, *x));
            known.usesKv |= implied.usesKv;
            known.never = lor(at(known.usesKv), known.never, implied.never);
          }
    }
    return known;
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
    Value lo = sub(b, x.lo, y.hi);
    return {x.cq - y.cq,
            x.ck - y.ck,
            lo,
            x.isPoint() && y.isPoint() ? lo : sub(b, x.hi, y.lo),
            StaticRange::make(__int128(x.range.lo) - y.range.hi, __int128(x.range.hi) - y.range.lo),
            usesKv};
  }

  Boolean compareWithZero(arith::CmpIPredicate predicate, const Integer &d) {
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

    if (isa<arith::AddIOp>(op) && x && y)
      return setInteger(result, subtract(*x, subtract(point(0), *y)));
    if (isa<arith::SubIOp>(op) && x && y)
      return setInteger(result, subtract(*x, *y));
    if (isa<arith::MulIOp>(op) && x && y)
      if (std::optional<Integer> r = multiply(*x, *y))
        return setInteger(result, *r);
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
    if (isa<arith::AndIOp>(op) && y && asConstant(op.getOperand(0)))
      if (std::optional<Integer> r = bitOperation(op, *y, *asConstant(op.getOperand(0))))
        return setInteger(result, *r);
    if (isa<arith::ShLIOp, arith::ShRSIOp, arith::AndIOp>(op) && x && asConstant(op.getOperand(1)))
      if (std::optional<Integer> r = bitOperation(op, *x, *asConstant(op.getOperand(1))))
        return setInteger(result, *r);
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

  static StaticRange productRange(const StaticRange &x, const StaticRange &y) {
    __int128 p[] = {__int128(x.lo) * y.lo, __int128(x.lo) * y.hi, __int128(x.hi) * y.lo,
                    __int128(x.hi) * y.hi};
    return StaticRange::make(*std::min_element(p, p + 4), *std::max_element(p, p + 4));
  }

  static std::optional<int64_t> asConstant(const Integer &x) {
    return x.isPlain() && x.isPoint() ? asConstant(x.lo) : std::nullopt;
  }

  std::optional<Integer> multiply(Integer x, Integer y) {
    StaticRange range = productRange(x.range, y.range);
    if (asConstant(x))
      std::swap(x, y);
    if (std::optional<int64_t> c = asConstant(y)) {
      // A constant factor keeps the linear part, as long as the coefficients stay small.
      constexpr int64_t limit = int64_t(1) << 20;
      if (std::abs(*c) < limit && std::abs(x.cq * *c) < limit && std::abs(x.ck * *c) < limit) {
        OpBuilder &b = at(x.usesKv);
        Value lo = mul(b, *c >= 0 ? x.lo : x.hi, y.lo);
        Value hi = x.isPoint() ? lo : mul(b, *c >= 0 ? x.hi : x.lo, y.lo);
        return Integer{x.cq * *c, x.ck * *c, lo, hi, range, x.usesKv};
      }
    }
    if (!x.range.fitsI32() || !y.range.fitsI32())
      return std::nullopt;
    x = plain(x);
    y = plain(y);
    bool usesKv = x.usesKv || y.usesKv;
    OpBuilder &b = at(usesKv);
    Value p0 = mul(b, x.lo, y.lo), p1 = mul(b, x.lo, y.hi), p2 = mul(b, x.hi, y.lo),
          p3 = mul(b, x.hi, y.hi);
    return Integer{0,
                   0,
                   min(b, min(b, p0, p1), min(b, p2, p3)),
                   max(b, max(b, p0, p1), max(b, p2, p3)),
                   range,
                   usesKv};
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
    Value lo = pick(x.lo, y.lo);
    return {x.cq,
            x.ck,
            lo,
            x.isPoint() && y.isPoint() ? lo : pick(x.hi, y.hi),
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

  /// Division by something that is one positive number over the whole box; anything where it is
  /// not.
  Integer divide(Integer x, const Integer &y) {
    x = plain(x);
    StaticRange wide = {-x.range.magnitude(), x.range.magnitude()};
    Value divisor = y.isPlain() && y.isPoint() ? y.lo : Value();
    if (!divisor)
      return {0, 0, constant(wide.lo), constant(wide.hi), wide, false};
    if (std::optional<int64_t> c = asConstant(divisor); c && *c > 0)
      wide = {std::min<int64_t>(x.range.lo, 0), std::max<int64_t>(x.range.hi, 0)};
    OpBuilder &b = at(x.usesKv);
    Value isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
    Value safe = select(outer, isPositive, divisor, constant(1));
    return {0,
            0,
            select(b, isPositive, floorDiv(b, x.lo, safe), constant(wide.lo)),
            select(b, isPositive, floorDiv(b, x.hi, safe), constant(wide.hi)),
            wide,
            x.usesKv};
  }

  Integer modulo(Integer x, const Integer &y) {
    x = plain(x);
    // The sign of the divisor, and nearer to zero.
    StaticRange wide = {std::min<int64_t>(y.range.lo + 1, 0), std::max<int64_t>(y.range.hi - 1, 0)};
    Value divisor = y.isPlain() && y.isPoint() ? y.lo : Value();
    if (!divisor)
      return {0, 0, constant(wide.lo), constant(wide.hi), wide, false};
    if (std::optional<int64_t> c = asConstant(divisor); c && *c > 0)
      wide = {0, *c - 1};
    OpBuilder &b = at(x.usesKv);
    Value isPositive = compare(outer, arith::CmpIPredicate::sgt, divisor, constant(0));
    Value safe = select(outer, isPositive, divisor, constant(1));
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
            x.usesKv};
  }

  /// Shifts by a constant, and masks of low bits, are products, quotients and remainders.
  std::optional<Integer> bitOperation(Operation &op, const Integer &x, int64_t c) {
    if (isa<arith::ShLIOp>(op) && c >= 0 && c < 31)
      return multiply(x, point(int64_t(1) << c));
    if (isa<arith::ShRSIOp>(op) && c >= 0 && c < 31)
      return divide(x, point(int64_t(1) << c));
    if (isa<arith::AndIOp>(op) && c >= 0 && c < kMaxI32) {
      if ((c & (c + 1)) == 0)
        return modulo(x, point(c + 1));
      return Integer{0, 0, constant(0), constant(c), {0, c}, false};
    }
    return std::nullopt;
  }

  //===-- Summaries of tensors --------------------------------------------===//

  /// The least and the largest element that a load reads over the box, of the type it yields; of
  /// booleans: all, any.
  struct Summary {
    Value least, most;
    bool usesKv;
  };

  /// An index of a load that is not the same over the whole box.
  struct Axis {
    unsigned position;
    Type type;
    Bounds range;
  };

  /// Finds both by reading: every place between the bounds of each index, unless these are more
  /// places than the box has rows and columns (where q is used alone: rows), in which case nothing
  /// is known.
  std::optional<Summary> summarise(attn::LoadOp load) {
    Type type = load.getResult().getType();
    Value tensor = uniformOf(load.getTensor());
    if (!tensor || !isa<IntegerType>(type))
      return std::nullopt;
    SmallVector<Value> indices; // null where they move over the box
    SmallVector<Axis> axes;
    bool usesKv = false, isLine = true;
    for (auto [position, index] : llvm::enumerate(load.getIndices())) {
      indices.push_back(uniformOf(index));
      if (indices.back())
        continue;
      std::optional<Integer> place = getInteger(index);
      // A constant interval is what is left when nothing is known.
      if (!place || axes.size() == 2 ||
          (place->isPlain() && asConstant(place->lo) && asConstant(place->hi)))
        return std::nullopt;
      usesKv |= place->dependsOnKv();
      isLine &= place->isPoint() && std::abs(place->cq) + std::abs(place->ck) == 1;
      axes.push_back({unsigned(position), index.getType(), bounds(*place)});
    }
    if (usesKv && !readKeys)
      return std::nullopt;

    OpBuilder &b = at(usesKv);
    Value fits;
    if (!isLine || axes.size() == 2) {
      Value one = constant(1);
      auto sizeOf = [&](const Bounds &r) {
        return add(b, max(b, min(b, sub(b, r.hi, r.lo), constant(int64_t(1) << 30)), constant(0)),
                   one);
      };
      Value size = sizeOf(axes[0].range);
      if (axes.size() == 2)
        size = mul(b, size, sizeOf(axes[1].range));
      Value limit = usesKv ? add(b, sizeOf(q), sizeOf(kv)) : sizeOf(q);
      fits = compare(b, arith::CmpIPredicate::sle, size, limit);
      axes[0].range.hi = select(b, fits, axes[0].range.hi, sub(b, axes[0].range.lo, one));
    }

    Value extremes[] = {limitOf(b, type, /*largest=*/true), limitOf(b, type, /*largest=*/false)};
    auto [least, most] = emitReads(b, tensor, type, indices, axes, extremes[0], extremes[1]);
    if (fits) {
      least = select(b, fits, least, extremes[1]);
      most = select(b, fits, most, extremes[0]);
    }
    return Summary{least, most, usesKv};
  }

  /// The largest or the least number of a type; true and false, where booleans are ordered like
  /// that.
  Value limitOf(OpBuilder &b, Type type, bool largest) {
    unsigned width = type.getIntOrFloatBitWidth();
    APInt value = width == 1 ? APInt(1, largest)
                  : largest  ? APInt::getSignedMaxValue(width)
                             : APInt::getSignedMinValue(width);
    return arith::ConstantOp::create(b, loc(), b.getIntegerAttr(type, value));
  }

  /// Loops over `axes`, whose indices are still null in `indices`, and folds what is read into
  /// `least` and `most`.
  std::pair<Value, Value> emitReads(OpBuilder &b, Value tensor, Type type, ArrayRef<Value> indices,
                                    ArrayRef<Axis> axes, Value least, Value most) {
    if (axes.empty()) {
      Value element = attn::LoadOp::create(b, loc(), tensor, indices);
      if (type.isInteger(1))
        return {land(b, least, element), lor(b, most, element)};
      return {min(b, least, element), max(b, most, element)};
    }
    auto toIndex = [&](Value v) {
      return arith::IndexCastOp::create(b, loc(), b.getIndexType(), v).getResult();
    };
    Value one = arith::ConstantIndexOp::create(b, loc(), 1);
    Value first = toIndex(axes[0].range.lo);
    Value end = arith::AddIOp::create(b, loc(), toIndex(axes[0].range.hi), one);
    auto loop = scf::ForOp::create(
        b, loc(), first, end, one, ValueRange{least, most},
        [&](OpBuilder &body, Location l, Value iv, ValueRange carried) {
          SmallVector<Value> inside(indices);
          inside[axes[0].position] = arith::IndexCastOp::create(body, l, axes[0].type, iv);
          auto [u, v] =
              emitReads(body, tensor, type, inside, axes.drop_front(), carried[0], carried[1]);
          scf::YieldOp::create(body, l, ValueRange{u, v});
        });
    return {loop.getResult(0), loop.getResult(1)};
  }

  //===-- Closed form -----------------------------------------------------===//

  /// The hull of { kv : `v` (or its negation) may hold for some q of the box }. All keys where the
  /// form is not known or the mask is large.
  Bounds hull(Value v, bool negated) {
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
            select(inner, empty, constant(-kInfinity), constant(kInfinity))};
  }

  Bounds intersect(const Bounds &x, const Bounds &y) {
    return {!x.lo   ? y.lo
            : !y.lo ? x.lo
                    : max(inner, x.lo, y.lo),
            !x.hi   ? y.hi
            : !y.hi ? x.hi
                    : min(inner, x.hi, y.hi)};
  }

  Bounds unite(const Bounds &x, const Bounds &y) {
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
    return {join(x.lo, y.lo, true), join(x.hi, y.hi, false)};
  }

  /// The hull of the keys for which a comparison may hold; none where its sides have no form that
  /// can be solved for kv.
  std::optional<Bounds> compareHull(arith::CmpIOp op, bool negated) {
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
    if (d.ck != 0)
      return linearHull(d, difference);
    if (x->dependsOnKv() && !y->dependsOnKv())
      return hull(op.getLhs(), plus(difference, bounds(*y)));
    if (y->dependsOnKv() && !x->dependsOnKv())
      return hull(op.getRhs(), minus(bounds(*x), difference));
    return std::nullopt;
  }

  /// { u + v } and { u - v } for all u and v of two sets.
  Bounds plus(const Bounds &u, const Bounds &v) {
    return {u.lo && v.lo ? add(inner, u.lo, v.lo) : Value(),
            u.hi && v.hi ? add(inner, u.hi, v.hi) : Value()};
  }
  Bounds minus(const Bounds &u, const Bounds &v) {
    return {u.lo && v.hi ? sub(inner, u.lo, v.hi) : Value(),
            u.hi && v.lo ? sub(inner, u.hi, v.lo) : Value()};
  }

  /// { kv : ck * kv + p in `range` for some p }, where p is cq * q + [lo, hi] over the box.
  Bounds linearHull(Integer d, const Bounds &range) {
    int64_t ck = d.ck;
    d.ck = 0;
    return quotients(minus(range, bounds(d)), ck);
  }

  /// { x : c * x in `range` }.
  Bounds quotients(Bounds range, int64_t c) {
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

  /// The hull of { kv : `e` may be in `range` for some q of the box }.
  Bounds hull(Value e, const Bounds &range) {
    std::optional<Integer> d = getInteger(e);
    Operation *op = e.getDefiningOp();
    if (hullBudget == 0 || !d || !d->dependsOnKv())
      return {};
    --hullBudget;
    if (d->ck != 0)
      return linearHull(*d, range);
    if (isa<arith::ExtSIOp, arith::TruncIOp>(op))
      return hull(op->getOperand(0), range);
    if (auto select = dyn_cast<arith::SelectOp>(op))
      return unite(
          intersect(hull(select.getCondition(), false), hull(select.getTrueValue(), range)),
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
    if (isa<arith::AddIOp>(op))
      return x->dependsOnKv() ? hull(lhs, minus(range, bounds(*y)))
                              : hull(rhs, minus(range, bounds(*x)));
    if (isa<arith::SubIOp>(op))
      return x->dependsOnKv() ? hull(lhs, plus(range, bounds(*y)))
                              : hull(rhs, minus(bounds(*x), range));
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

  /// The hull of { kv : `e` // divisor may be in `range` }, where the quotient is an i32.
  Bounds hullOfDividend(Value e, Bounds range, Value divisor) {
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
    return keys;
  }

  OpBuilder &outer, &inner;
  attn::MaskOp mask;
  const IRMapping &mapping;
  bool readKeys;
  Bounds q, kv;
  Value wraps;
  /// How many more values the closed form looks at.
  unsigned hullBudget = 256;
  llvm::DenseMap<Value, Abstract> values;
  llvm::DenseMap<int64_t, Value> constants;
  Value booleans[2];
};

} // namespace

Value heed::emitBlockClass(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask,
                           const IRMapping &mapping, const TileBox &box) {
  Boolean all = Evaluator(outer, inner, mask, mapping, box, /*readKeys=*/true).result();
  auto constant = [&](tile::BlockClass c) -> Value {
    return arith::ConstantIntOp::create(inner, mask.getLoc(), inner.getI32Type(),
                                        static_cast<int64_t>(c));
  };
  Value notFull =
      arith::SelectOp::create(inner, mask.getLoc(), all.never, constant(tile::BlockClass::Skipped),
                              constant(tile::BlockClass::Partial));
  return arith::SelectOp::create(inner, mask.getLoc(), all.always, constant(tile::BlockClass::Full),
                                 notFull);
}

KvBounds heed::emitKvBounds(OpBuilder &builder, attn::MaskOp mask, const IRMapping &mapping,
                            const TileBox &box) {
  Location loc = mask.getLoc();
  Bounds keys = Evaluator(builder, builder, mask, mapping, box, /*readKeys=*/false).hull();
  Type index = builder.getIndexType();
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  KvBounds result{box.firstKv, arith::AddIOp::create(builder, loc, box.lastKv, one)};
  if (keys.lo) {
    Value lower = arith::IndexCastOp::create(builder, loc, index, keys.lo);
    result.lower = arith::MaxSIOp::create(builder, loc, lower, result.lower);
  }
  if (keys.hi) {
    Value last = arith::IndexCastOp::create(builder, loc, index, keys.hi);
    Value upper = arith::AddIOp::create(builder, loc, last, one);
    result.upper = arith::MinSIOp::create(builder, loc, upper, result.upper);
  }
  return result;
}
