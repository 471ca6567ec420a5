//===-- FloatTransferFunctions.cpp - What float ops make of intervals -----===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "IntervalEvaluator.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace heed;
using namespace heed::intervals;

using P = arith::CmpFPredicate;

static constexpr double kLargestF32 = std::numeric_limits<float>::max();

Value IntervalEvaluator::real(double v) {
  return arith::ConstantOp::create(outer, loc(), outer.getF32FloatAttr(float(v)));
}

static std::optional<double> asConstantReal(const Real &x) {
  APFloat value(0.0f);
  if (x.lo == x.hi && matchPattern(x.lo, m_ConstantFloat(&value)))
    return value.convertToDouble();
  return std::nullopt;
}

std::optional<Real> IntervalEvaluator::getReal(Value v) {
  Abstract &a = values[v];
  if (a.real || !v.getType().isF32())
    return a.real;
  Value u = uniformOf(v);
  if (!u)
    return std::nullopt;
  Real x{u, u, constantBool(true), std::numeric_limits<double>::infinity()};
  if (std::optional<double> c = asConstantReal(x)) {
    if (!std::isfinite(*c))
      return std::nullopt;
    x.magnitude = std::abs(*c);
  }
  setReal(v, x);
  return values[v].real;
}

void IntervalEvaluator::setReal(Value result, Real x) {
  if (!(x.magnitude <= kLargestF32)) {
    OpBuilder &b = at(x.usesKv);
    Value isFinite = land(b, compare(b, P::OGE, x.lo, real(-kLargestF32)),
                          compare(b, P::OLE, x.hi, real(kLargestF32)));
    x.known = land(b, x.known, isFinite);
    x.magnitude = kLargestF32;
  }
  values[result].real = x;
}

template <typename Op>
Real IntervalEvaluator::growing(const Real &x, double magnitude) {
  OpBuilder &b = at(x.usesKv);
  Value lo = b.createOrFold<Op>(loc(), x.lo);
  return {lo, x.lo == x.hi ? lo : b.createOrFold<Op>(loc(), x.hi), x.known, magnitude, x.usesKv};
}

template <typename Op>
Real IntervalEvaluator::betweenEnds(const Real &x, const Real &y, double magnitude) {
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  SmallVector<Value> ends = {binary<Op>(b, x.lo, y.lo), binary<Op>(b, x.hi, y.lo)};
  if (y.lo != y.hi)
    ends.append({binary<Op>(b, x.lo, y.hi), binary<Op>(b, x.hi, y.hi)});
  Value lo = ends[0], hi = ends[0];
  for (Value end : ArrayRef<Value>(ends).drop_front()) {
    lo = binary<arith::MinimumFOp>(b, lo, end);
    hi = binary<arith::MaximumFOp>(b, hi, end);
  }
  return {lo, hi, land(b, x.known, y.known), magnitude, usesKv};
}

Real IntervalEvaluator::widened(const Real &x, Error error) {
  OpBuilder &b = at(x.usesKv);
  auto marginOf = [&](Value v) {
    Value size = b.createOrFold<math::AbsFOp>(loc(), v);
    return binary<arith::AddFOp>(b, binary<arith::MulFOp>(b, size, real(error.relative)),
                                 real(error.absolute));
  };
  return {binary<arith::SubFOp>(b, x.lo, marginOf(x.lo)),
          binary<arith::AddFOp>(b, x.hi, marginOf(x.hi)), x.known,
          x.magnitude * (1 + 2 * double(error.relative)) + 2 * double(error.absolute), x.usesKv};
}

template <typename Op>
Real IntervalEvaluator::curve(Real x, double least, double magnitude, Error error, bool falls) {
  OpBuilder &b = at(x.usesKv);
  if (least > -kLargestF32)
    x.known = land(b, x.known, compare(b, P::OGE, x.lo, real(least)));
  Real result = growing<Op>(x, magnitude);
  if (falls)
    std::swap(result.lo, result.hi);
  return widened(result, error);
}

Real IntervalEvaluator::absolute(const Real &x) {
  OpBuilder &b = at(x.usesKv);
  auto negated = [&](Value v) { return b.createOrFold<arith::NegFOp>(loc(), v); };
  Value lo =
      binary<arith::MaximumFOp>(b, binary<arith::MaximumFOp>(b, x.lo, negated(x.hi)), real(0));
  return {lo, binary<arith::MaximumFOp>(b, x.hi, negated(x.lo)), x.known, x.magnitude, x.usesKv};
}

Real IntervalEvaluator::extremum(const Real &x, const Real &y, bool isMin) {
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  auto pick = [&](Value u, Value v) {
    return isMin ? binary<arith::MinimumFOp>(b, u, v) : binary<arith::MaximumFOp>(b, u, v);
  };
  return {pick(x.lo, y.lo), pick(x.hi, y.hi), land(b, x.known, y.known),
          std::max(x.magnitude, y.magnitude), usesKv};
}

void IntervalEvaluator::evaluateReal(Operation &op, Value result) {
  constexpr double unknown = std::numeric_limits<double>::infinity();
  if (isa<arith::SIToFPOp>(op)) {
    std::optional<Integer> of = getInteger(op.getOperand(0));
    if (!of)
      return;
    Bounds r = bounds(*of);
    OpBuilder &b = at(of->dependsOnKv());
    auto convert = [&](Value v) {
      return b.createOrFold<arith::SIToFPOp>(loc(), b.getF32Type(), v);
    };
    return setReal(result, {convert(r.lo), convert(r.hi), constantBool(true), double(kInfinity),
                            of->dependsOnKv()});
  }
  if (isa<arith::UIToFPOp>(op) && op.getOperand(0).getType().isInteger(1)) {
    Boolean of = getBoolean(op.getOperand(0));
    OpBuilder &b = at(of.usesKv);
    Value zero = real(0), one = real(1);
    return setReal(result, {select(b, of.always, one, zero), select(b, of.never, zero, one),
                            constantBool(true), 1, of.usesKv});
  }
  if (auto load = dyn_cast<attn::LoadOp>(op)) {
    if (std::optional<Summary> s = summarise(load))
      setReal(result, {s->least, s->most, constantBool(true), unknown, s->usesKv});
    return;
  }

  unsigned firstOperand = isa<arith::SelectOp>(op) ? 1 : 0;
  SmallVector<Real> operands;
  for (Value operand : op.getOperands().drop_front(firstOperand)) {
    std::optional<Real> x = getReal(operand);
    if (!x)
      return;
    operands.push_back(*x);
  }
  if (operands.empty())
    return;
  const Real &x = operands.front(), &y = operands.back();
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  Value known = land(b, x.known, y.known);

  if (isa<arith::AddFOp>(op))
    return setReal(result,
                   {binary<arith::AddFOp>(b, x.lo, y.lo), binary<arith::AddFOp>(b, x.hi, y.hi),
                    known, x.magnitude + y.magnitude, usesKv});
  if (isa<arith::SubFOp>(op))
    return setReal(result,
                   {binary<arith::SubFOp>(b, x.lo, y.hi), binary<arith::SubFOp>(b, x.hi, y.lo),
                    known, x.magnitude + y.magnitude, usesKv});
  // By a power of two nothing is rounded, but for numbers that are next to nothing.
  auto isExactFactor = [](const Real &factor) {
    std::optional<double> c = asConstantReal(factor);
    return c && llvm::isPowerOf2_64(uint64_t(std::abs(*c) * 65536)) &&
           std::abs(*c) * 65536 == uint64_t(std::abs(*c) * 65536);
  };
  if (isa<arith::MulFOp>(op)) {
    Real product = asConstantReal(x) ? betweenEnds<arith::MulFOp>(y, x, x.magnitude * y.magnitude)
                                     : betweenEnds<arith::MulFOp>(x, y, x.magnitude * y.magnitude);
    if (op.getOperand(0) == op.getOperand(1)) {
      Real size = absolute(x);
      product.lo = binary<arith::MulFOp>(b, size.lo, size.lo);
    }
    return setReal(result, isExactFactor(x) || isExactFactor(y) ? product : widened(product));
  }
  if (isa<arith::DivFOp>(op)) {
    std::optional<double> c = asConstantReal(y);
    Real quotient = betweenEnds<arith::DivFOp>(x, y, c ? x.magnitude / std::abs(*c) : unknown);
    if (!c || *c == 0)
      quotient.known =
          land(b, quotient.known,
               lor(b, compare(b, P::OGT, y.lo, real(0)), compare(b, P::OLT, y.hi, real(0))));
    return setReal(result, isExactFactor(y) ? quotient : widened(quotient));
  }
  if (isa<arith::NegFOp>(op)) {
    auto negated = [&](Value v) { return b.createOrFold<arith::NegFOp>(loc(), v); };
    return setReal(result, {negated(x.hi), negated(x.lo), known, x.magnitude, usesKv});
  }
  if (isa<math::AbsFOp>(op))
    return setReal(result, absolute(x));
  if (isa<arith::MinimumFOp, arith::MaximumFOp>(op))
    return setReal(result, extremum(x, y, isa<arith::MinimumFOp>(op)));
  if (isa<math::FloorOp>(op))
    return setReal(result, growing<math::FloorOp>(x, x.magnitude + 1));
  if (isa<math::CeilOp>(op))
    return setReal(result, growing<math::CeilOp>(x, x.magnitude + 1));
  // Instructions of GPUs are off by 2^-21 and less of exponentials and roots, by as much of
  // logarithms' arguments, and by 2^-11 of hyperbolic tangents.
  constexpr double smallest = std::numeric_limits<float>::min(), everywhere = -unknown;
  constexpr Error ofExponentials = {0x1p-16f, std::numeric_limits<float>::min()},
                  ofLogarithms = {0x1p-16f, 0x1p-16f}, ofSigmoids = {0x1p-9f, 0x1p-16f};
  if (isa<math::SqrtOp>(op))
    return setReal(result, curve<math::SqrtOp>(x, 0, std::sqrt(x.magnitude), ofExponentials));
  if (isa<math::RsqrtOp>(op))
    return setReal(result, curve<math::RsqrtOp>(x, smallest, 1e19, ofExponentials, /*falls=*/true));
  if (isa<math::ExpOp>(op))
    return setReal(result, curve<math::ExpOp>(x, everywhere, unknown, ofExponentials));
  if (isa<math::Exp2Op>(op))
    return setReal(result, curve<math::Exp2Op>(x, everywhere, unknown, ofExponentials));
  if (isa<math::LogOp>(op))
    return setReal(result, curve<math::LogOp>(x, smallest, 100, ofLogarithms));
  if (isa<math::Log2Op>(op))
    return setReal(result, curve<math::Log2Op>(x, smallest, 150, ofLogarithms));
  if (isa<math::Log1pOp>(op))
    return setReal(result, curve<math::Log1pOp>(x, -0.99, 100, ofLogarithms));
  if (isa<math::TanhOp>(op))
    return setReal(result, curve<math::TanhOp>(x, everywhere, 1, ofSigmoids));
  if (isa<math::ErfOp>(op))
    return setReal(result, curve<math::ErfOp>(x, everywhere, 1, ofSigmoids));
  if (auto selectOp = dyn_cast<arith::SelectOp>(op)) {
    Boolean c = getBoolean(selectOp.getCondition());
    usesKv |= c.usesKv;
    OpBuilder &b = at(usesKv);
    auto pick = [&](Value ofX, Value ofY, Value both) {
      return select(b, c.always, ofX, select(b, c.never, ofY, both));
    };
    return setReal(result,
                   {pick(x.lo, y.lo, binary<arith::MinimumFOp>(b, x.lo, y.lo)),
                    pick(x.hi, y.hi, binary<arith::MaximumFOp>(b, x.hi, y.hi)),
                    pick(x.known, y.known, known), std::max(x.magnitude, y.magnitude), usesKv});
  }
}

Boolean IntervalEvaluator::compareReals(arith::CmpFPredicate predicate, const Real &x,
                                        const Real &y) {
  bool usesKv = x.usesKv || y.usesKv;
  OpBuilder &b = at(usesKv);
  Value known = land(b, x.known, y.known);
  auto holds = [&](P p, Value u, Value v) { return compare(b, p, u, v); };
  auto make = [&](Value always, Value never) {
    return Boolean{land(b, known, always), land(b, known, never), usesKv};
  };
  // Nothing is NaN where it is known.
  switch (predicate) {
  case P::OLT:
  case P::ULT:
    return make(holds(P::OLT, x.hi, y.lo), holds(P::OGE, x.lo, y.hi));
  case P::OLE:
  case P::ULE:
    return make(holds(P::OLE, x.hi, y.lo), holds(P::OGT, x.lo, y.hi));
  case P::OGT:
  case P::UGT:
    return make(holds(P::OGT, x.lo, y.hi), holds(P::OLE, x.hi, y.lo));
  case P::OGE:
  case P::UGE:
    return make(holds(P::OGE, x.lo, y.hi), holds(P::OLT, x.hi, y.lo));
  case P::OEQ:
  case P::UEQ:
  case P::ONE:
  case P::UNE: {
    Value same = land(b, holds(P::OGE, x.lo, y.hi), holds(P::OLE, x.hi, y.lo));
    Value apart = lor(b, holds(P::OGT, x.lo, y.hi), holds(P::OLT, x.hi, y.lo));
    return predicate == P::OEQ || predicate == P::UEQ ? make(same, apart) : make(apart, same);
  }
  case P::ORD:
    return make(constantBool(true), constantBool(false));
  case P::UNO:
    return make(constantBool(false), constantBool(true));
  default:
    return unknownBoolean();
  }
}

Integer IntervalEvaluator::truncate(const Real &x) {
  OpBuilder &b = at(x.usesKv);
  constexpr double largest = double(kLargestI64);
  Value fits = land(
      b, x.known,
      land(b, compare(b, P::OGE, x.lo, real(-largest)), compare(b, P::OLE, x.hi, real(largest))));
  noteWrap(negate(b, fits));
  auto convert = [&](Value v) {
    return arith::FPToSIOp::create(b, loc(), b.getI64Type(), select(b, fits, v, real(0)))
        .getResult();
  };
  return {0, 0, convert(x.lo), convert(x.hi), {-kLargestI64, kLargestI64}, x.usesKv};
}
