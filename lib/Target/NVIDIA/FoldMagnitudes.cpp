//===-- FoldMagnitudes.cpp - |a - b| <= c by one unsigned comparison ------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Analysis/Magnitude.h"
#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Target/NVIDIA/HoistElements.h"
#include "heed/Target/NVIDIA/Passes.h"

#include "mlir/IR/IRMapping.h"

namespace heed {
#define GEN_PASS_DEF_TILEFOLDMAGNITUDESPASS
#include "heed/Target/NVIDIA/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {

/// |a - b| < bound, or not: one of a and b depends on the query alone and the other on the key.
struct Comparison {
  arith::CmpIOp op;
  Value ofQuery, ofKey;
  Value bound; // uniform
  bool isInclusive, isInverted;
};

/// The mask of one tile.mask. For a - b = -2^31, which is its own magnitude in 32 bits, and for no
/// other difference, the unsigned comparison says something else; where neither a nor b is negative
/// there is no such difference.
class MaskFolder {
public:
  explicit MaskFolder(tile::MaskOp mask)
      : mask(mask), block(*mask.getBodyBlock()), loc(mask.getLoc()), b(block.getTerminator()),
        region(block, /*score=*/Value(), mask.getQuery(), mask.getKey()) {}

  void run() {
    SmallVector<Comparison> comparisons;
    std::optional<Value> isSafe = Value();
    // Not the comparisons that are added meanwhile.
    for (arith::CmpIOp op : llvm::to_vector(block.getOps<arith::CmpIOp>()))
      if (std::optional<Comparison> comparison = match(op)) {
        auto both =
            conjunction(isNotNegative(comparison->ofQuery), isNotNegative(comparison->ofKey));
        if (!both)
          continue;
        isSafe = conjunction(isSafe, both);
        comparisons.push_back(*comparison);
      }
    if (comparisons.empty())
      return;
    auto yield = cast<tile::YieldOp>(block.getTerminator());
    Value exact = yield->getOperand(0);
    IRMapping folded;
    auto slice = region.sliceOf(exact);
    for (Comparison &comparison : comparisons)
      folded.map(comparison.op.getResult(), emit(comparison));
    for (Operation *op : slice)
      if (!folded.contains(op->getResult(0)))
        b.clone(*op, folded);
    Value result = folded.lookupOrDefault(exact);
    if (*isSafe)
      result = arith::SelectOp::create(b, loc, *isSafe, result, exact);
    yield->setOperand(0, result);
  }

private:
  std::optional<Comparison> match(arith::CmpIOp op) {
    using P = arith::CmpIPredicate;
    P predicate = op.getPredicate();
    bool isLess = predicate == P::slt || predicate == P::sle;
    bool isStrict = predicate == P::slt || predicate == P::sgt;
    if (!isLess && !isStrict && predicate != P::sge)
      return std::nullopt;
    Value x = operandOfMagnitude(op.getLhs()), bound = op.getRhs();
    if (!x) {
      x = operandOfMagnitude(op.getRhs());
      bound = op.getLhs();
      isLess = !isLess;
    }
    auto difference = x ? x.getDefiningOp<arith::SubIOp>() : nullptr;
    if (!difference || !x.getType().isInteger(32) || !region.isUniform(bound))
      return std::nullopt;
    Value lhs = difference.getLhs(), rhs = difference.getRhs();
    if (region.lookup(lhs).intersects(Dependence::kv()))
      std::swap(lhs, rhs);
    auto isOfOnly = [&](Value v, Dependence one, Dependence other) {
      return region.lookup(v).intersects(one) && !region.lookup(v).intersects(other);
    };
    // Others are not of each pair, or would not gain.
    if (!isOfOnly(lhs, Dependence::q(), Dependence::kv()) ||
        !isOfOnly(rhs, Dependence::kv(), Dependence::q()))
      return std::nullopt;
    // The inverse of <= is >, and of < it is >=.
    return Comparison{op,
                      lhs,
                      rhs,
                      bound,
                      /*isInclusive=*/isStrict != isLess,
                      /*isInverted=*/!isLess};
  }

  /// |d| <= c is d + c <u 2 c + 1 for a c that is not negative; |d| < c is d + c - 1 <u 2 c - 1 for
  /// a positive one. Nothing is below 0.
  Value emit(const Comparison &comparison) {
    auto number = [&](int64_t v) {
      return arith::ConstantIntOp::create(b, loc, b.getI32Type(), v);
    };
    Value most = comparison.bound;
    if (!comparison.isInclusive) {
      // Not of the least number, which would wrap.
      most = b.createOrFold<arith::MaxSIOp>(loc, most, number(0));
      most = b.createOrFold<arith::SubIOp>(loc, most, number(1));
    }
    Value count = b.createOrFold<arith::AddIOp>(loc, b.createOrFold<arith::AddIOp>(loc, most, most),
                                                number(1));
    Value isEmpty = b.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::slt, most, number(0));
    count = b.createOrFold<arith::SelectOp>(loc, isEmpty, number(0), count);
    // What is known of the query comes first: it is computed once a row.
    Value shifted = b.createOrFold<arith::AddIOp>(loc, comparison.ofQuery, most);
    Value distance = arith::SubIOp::create(b, loc, shifted, comparison.ofKey);
    return arith::CmpIOp::create(
        b, loc, comparison.isInverted ? arith::CmpIPredicate::uge : arith::CmpIPredicate::ult,
        distance, count);
  }

  /// When something holds: always (a null value), where an i1 says so, or it is not known when.
  using Condition = std::optional<Value>;

  Condition conjunction(Condition x, Condition y) {
    if (!x || !y)
      return std::nullopt;
    return !*x ? y : !*y ? x : Condition(arith::AndIOp::create(b, loc, *x, *y));
  }
  Condition disjunction(Condition x, Condition y) {
    if (!x || !y)
      return x ? x : y;
    return *x && *y ? Condition(arith::OrIOp::create(b, loc, *x, *y)) : Condition(Value());
  }

  /// When `v` is not negative for any query and key; by something uniform.
  Condition isNotNegative(Value v) {
    if (v == mask.getQuery() || v == mask.getKey())
      return Value();
    APInt constant;
    if (matchPattern(v, m_ConstantInt(&constant)))
      return constant.isNegative() ? std::nullopt : Condition(Value());
    if (region.isUniform(v)) {
      Value zero = arith::ConstantIntOp::create(b, loc, v.getType(), 0);
      return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sge, v, zero).getResult();
    }
    Operation *op = v.getDefiningOp();
    if (!op)
      return std::nullopt;
    auto ofOperand = [&](unsigned i) { return isNotNegative(op->getOperand(i)); };
    // A quotient and a remainder by 0 are 0, a remainder has the divisor's sign.
    if (isa<attn::FloorDivOp>(op))
      return conjunction(ofOperand(0), ofOperand(1));
    if (isa<attn::ModOp>(op))
      return ofOperand(1);
    if (isa<arith::MaxSIOp>(op))
      return disjunction(ofOperand(0), ofOperand(1));
    if (isa<arith::MinSIOp>(op))
      return conjunction(ofOperand(0), ofOperand(1));
    if (isa<arith::SelectOp>(op))
      return conjunction(ofOperand(1), ofOperand(2));
    if (isa<arith::AndIOp>(op))
      return disjunction(ofOperand(0), ofOperand(1));
    if (isa<arith::ShRSIOp>(op))
      return ofOperand(0);
    return std::nullopt;
  }

  tile::MaskOp mask;
  Block &block;
  Location loc;
  OpBuilder b;
  ElementRegion region;
};

struct TileFoldMagnitudes : heed::impl::TileFoldMagnitudesPassBase<TileFoldMagnitudes> {
  using TileFoldMagnitudesPassBase::TileFoldMagnitudesPassBase;

  void runOnOperation() override {
    getOperation().walk([](tile::MaskOp mask) {
      if (mask.getBodyBlock())
        MaskFolder(mask).run();
    });
  }
};

} // namespace
