//===-- IntervalEvaluator.h - Masks over boxes -----------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_ANALYSIS_INTERVALEVALUATOR_H
#define HEED_LIB_ANALYSIS_INTERVALEVALUATOR_H

#include "heed/Analysis/BlockClasses.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"

#include <limits>
#include <optional>

namespace heed::intervals {

namespace arith = mlir::arith;
using llvm::APInt;
using llvm::ArrayRef;
using mlir::IRMapping;
using mlir::Location;
using mlir::m_ConstantInt;
using mlir::matchPattern;
using mlir::OpBuilder;
using mlir::Operation;
using mlir::Type;
using mlir::Value;

/// Far beyond every coordinate, and far from overflowing 64 bits in sums and small products. Where
/// an i64 may be beyond kLargestI64, the box becomes unknown at run time.
constexpr int64_t kInfinity = int64_t(1) << 44;
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
  bool fitsI64() const { return lo >= -kLargestI64 && hi <= kLargestI64; }
  int64_t magnitude() const { return std::max(std::abs(lo), std::abs(hi)); }
};

/// The bits of numbers in two's complement: those that all of them have, and those that some may
/// have besides. i64.
struct Bits {
  Value ones, unknown;
};

/// Numbers that differ from one of [lo, hi] by a multiple of the modulus, which is positive and the
/// same over the whole box. i64.
struct Residue {
  Value modulus, lo, hi;
};

/// An integer over the box: cq * q + ck * kv + [lo, hi].
struct Integer {
  int64_t cq = 0, ck = 0;
  Value lo, hi; // i64; the same value where the interval is known to be a point
  StaticRange range;
  bool usesKv = false; // of the computation of lo and hi, besides ck
  // Where more is known than lo and hi tell:
  std::optional<Bits> bits;
  std::optional<Residue> residue;

  bool isPlain() const { return cq == 0 && ck == 0; }
  bool isPoint() const { return lo == hi; }
  bool dependsOnKv() const { return usesKv || ck != 0; }
};

/// An f32 over the box: between lo and hi, as the type's own arithmetic rounds, where `known`
/// holds; then all of it is finite.
struct Real {
  Value lo, hi;     // f32
  Value known;      // i1
  double magnitude; // at most this, where it is known
  bool usesKv = false;
};

/// A boolean over the box.
struct Boolean {
  Value always, never; // i1
  bool usesKv = false;
};

/// A set of integers with these ends, i64 values; null: without an end. Empty where lo > hi.
struct Bounds {
  Value lo, hi;
  /// Of keys: the box has none of them just where `never` holds of it, so that who stays within the
  /// bounds need not ask.
  bool isExact = false;
};

/// What is known of a value of the mask region over the box.
struct Abstract {
  /// The value itself, where it depends on neither q nor kv.
  Value uniform;
  std::optional<Integer> integer;
  std::optional<Real> real;
  std::optional<Boolean> boolean;
};

/// Evaluates a mask over a box; heed/Analysis/BlockClasses.h says how.
class IntervalEvaluator {
public:
  /// `readKeys`: whether tensors may be summarised over the keys of the box.
  IntervalEvaluator(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask, const IRMapping &mapping,
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
    // Of a part of the box arithmetic may not wrap where it does of the whole.
    keys.isExact = keys.isExact && !leftKeysUnread && !equalitiesImply && asConstant(wraps) == 0;
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
  Value compare(OpBuilder &b, arith::CmpFPredicate p, Value x, Value y) {
    return b.createOrFold<arith::CmpFOp>(loc(), p, x, y);
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
    if (!a.uniform && !a.integer && !a.real && !a.boolean)
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
    if (x.isPlain())
      return x;
    Bounds r = bounds(x);
    return {0, 0, r.lo, r.hi, x.range, x.dependsOnKv()};
  }

  /// Sums of bounds must not overflow: a launch with an i64 that this changes counts as wrapping.
  Value clamp(OpBuilder &b, Value x) {
    return max(b, min(b, x, constant(kLargestI64)), constant(-kLargestI64));
  }

  void noteWrap(Value condition) { wraps = lor(inner, wraps, condition); }

  /// Notes at run time where `x` may be beyond `least` or `most`, and goes on as if it were not.
  void confine(Integer &x, int64_t least, int64_t most) {
    OpBuilder &b = at(x.dependsOnKv());
    Bounds r = bounds(x);
    noteWrap(lor(b, compare(b, arith::CmpIPredicate::slt, r.lo, constant(least)),
                 compare(b, arith::CmpIPredicate::sgt, r.hi, constant(most))));
    x.range = {std::clamp(x.range.lo, least, most), std::clamp(x.range.hi, least, most)};
  }

  void setInteger(Value result, Integer x) {
    if (result.getType().isInteger(32) && !x.range.fitsI32())
      confine(x, kMinI32, kMaxI32);
    else if (!x.range.fitsI64())
      confine(x, -kLargestI64, kLargestI64);
    values[result].integer = x;
  }

  //===-- Transfer functions ----------------------------------------------===//

  void evaluate(Operation &op);

  Boolean evaluateBoolean(Operation &op);

  Boolean evaluateBooleanCompare(arith::CmpIOp op);

  Boolean invert(const Boolean &x) { return {x.never, x.always, x.usesKv}; }

  Boolean conjunction(const Boolean &x, const Boolean &y);

  /// `x == y && p(x)` is never true where p(y) is not, although neither side says so by itself.
  Boolean withEqualities(Operation &conjunction, Boolean known);

  /// lhs - rhs of `other` without what cancels where `equality` holds: of `q - start[doc[q]]` and
  /// `kv - start[doc[kv]]` in one document q - kv. None where nothing cancels.
  std::optional<Integer> differenceUnder(arith::CmpIOp equality, arith::CmpIOp other);

  /// x - y, with the linear parts combined; of a minimum or maximum, of each of its operands.
  std::optional<Integer> difference(Value x, Value y, unsigned depth = 0);

  Integer subtract(const Integer &x, const Integer &y);

  /// How far from zero all numbers of a residue are, at least; 0 where a multiple of the modulus
  /// is among them.
  Value distanceFromZero(OpBuilder &b, const Residue &of);

  Boolean compareWithZero(arith::CmpIPredicate predicate, const Integer &d);

  void evaluateInteger(Operation &op, Value result);

  static StaticRange productRange(const StaticRange &x, const StaticRange &y);

  static std::optional<int64_t> asConstant(const Integer &x);

  Integer multiply(Integer x, Integer y);

  Integer absolute(const Integer &of);

  Integer square(const Integer &of);

  Integer extremum(Integer x, Integer y, bool isMin);

  Integer choose(const Boolean &c, Integer x, Integer y);

  /// Division by something that is one positive number over the whole box, or a constant; anything
  /// where it is not.
  Integer divide(Integer x, const Integer &y);

  Integer modulo(Integer x, const Integer &y);

  /// A divisor that is the same over the whole box.
  struct Divisor {
    Value isPositive;
    Value safe; // 1 where it is not
  };
  const Divisor &divisorOf(Value divisor);

  /// Shifts by a constant, and masks of low bits, are products, quotients and remainders.
  std::optional<Integer> bitOperation(Operation &op, const Integer &x, int64_t c);
  /// Shifts by anything from 0 to the width of `type`.
  Integer shift(Operation &op, const Integer &x, const Integer &amount);
  /// The numbers of [lo, hi] have the bits above the highest one in which lo and hi differ in
  /// common.
  Bits bitsOf(const Integer &x);
  /// &, | and ^.
  Integer combineBits(Operation &op, Integer x, Integer y);

  //===-- Floating point --------------------------------------------------===//

  Value real(double v);

  std::optional<Real> getReal(Value v);

  /// Rounding keeps the order of numbers, so that the ends of a result are results for ends. Where
  /// these are not finite, nothing is known.
  void setReal(Value result, Real x);

  void evaluateReal(Operation &op, Value result);

  /// Of an op whose results grow with its operand.
  template <typename Op>
  Real growing(const Real &x, double magnitude);

  /// The least and the largest of `op` for the ends of x and y: of a product, or of a quotient.
  template <typename Op>
  Real betweenEnds(const Real &x, const Real &y, double magnitude);

  /// What a result may be off by: a part of itself, and a number.
  struct Error {
    float relative, absolute;
  };
  /// What is rounded away: an addition behind a product may take it unrounded.
  static constexpr Error kRounding = {4 * std::numeric_limits<float>::epsilon(),
                                      std::numeric_limits<float>::min()};
  Real widened(const Real &x, Error error = kRounding);

  /// Of a function that grows or falls from `least` on, as targets approximate it.
  template <typename Op>
  Real curve(Real x, double least, double magnitude, Error error, bool falls = false);

  Real absolute(const Real &x);

  Real extremum(const Real &x, const Real &y, bool isMin);

  Boolean compareReals(arith::CmpFPredicate predicate, const Real &x, const Real &y);

  /// Toward zero.
  Integer truncate(const Real &x);

  //===-- Summaries of tensors --------------------------------------------===//

  /// The least and the largest element that a load reads over the box, of the type it yields, NaN
  /// if one is; of booleans: all, any.
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
  std::optional<Summary> summarise(attn::LoadOp load);

  /// The largest or the least number of a type, infinity if it has that; true and false, where
  /// booleans are ordered like that.
  Value limitOf(OpBuilder &b, Type type, bool largest);

  /// Loops over `axes`, whose indices are still null in `indices`, and folds what is read into
  /// `least` and `most`.
  std::pair<Value, Value> emitReads(OpBuilder &b, Value tensor, Type type, ArrayRef<Value> indices,
                                    ArrayRef<Axis> axes, Value least, Value most);

  //===-- Closed form -----------------------------------------------------===//

  /// The hull of { kv : `v` (or its negation) may hold for some q of the box }. All keys where the
  /// form is not known or the mask is large.
  Bounds hull(Value v, bool negated);

  Bounds intersect(const Bounds &x, const Bounds &y);

  Bounds unite(const Bounds &x, const Bounds &y);

  /// The hull of the keys for which a comparison may hold; none where its sides have no form that
  /// can be solved for kv.
  std::optional<Bounds> compareHull(arith::CmpIOp op, bool negated);

  /// { u + v } and { u - v } for all u and v of two sets.
  Bounds plus(const Bounds &u, const Bounds &v);
  Bounds minus(const Bounds &u, const Bounds &v);

  /// { kv : ck * kv + p in `range` for some p }, where p is cq * q + [lo, hi] over the box.
  Bounds linearHull(Integer d, const Bounds &range);

  /// { x : c * x in `range` }.
  Bounds quotients(Bounds range, int64_t c);

  /// The hull of { kv : `e` may be in `range` for some q of the box }.
  Bounds hull(Value e, const Bounds &range);

  /// The hull of { kv : `e` // divisor may be in `range` }, where the quotient is an i32.
  Bounds hullOfDividend(Value e, Bounds range, Value divisor);

  OpBuilder &outer, &inner;
  attn::MaskOp mask;
  const IRMapping &mapping;
  bool readKeys, leftKeysUnread = false;
  bool equalitiesImply = false; // what comparisons do not say one by one
  Bounds q, kv;
  Value wraps;
  /// How many more values the closed form looks at.
  unsigned hullBudget = 256;
  llvm::DenseMap<Value, Abstract> values;
  llvm::DenseMap<int64_t, Value> constants;
  llvm::DenseMap<Value, Divisor> divisors;
  Value booleans[2];
};

} // namespace heed::intervals

#endif // HEED_LIB_ANALYSIS_INTERVALEVALUATOR_H
