//===-- AttnFolds.cpp - Folders and canonicalisation of the attn ops ------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/CommonFolders.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace heed::attn;

//===----------------------------------------------------------------------===//
// Integer division
//===----------------------------------------------------------------------===//

static APInt floorDiv(const APInt &lhs, const APInt &rhs) {
  if (rhs.isZero())
    return rhs;
  // The most negative number over -1 wraps to itself, as sdiv does.
  APInt quotient = lhs.sdiv(rhs);
  bool isInexact = lhs.srem(rhs) != 0;
  return isInexact && lhs.isNegative() != rhs.isNegative() ? quotient - 1 : quotient;
}

static APInt floorMod(const APInt &lhs, const APInt &rhs) {
  return rhs.isZero() ? rhs : lhs - floorDiv(lhs, rhs) * rhs;
}

OpFoldResult FloorDivOp::fold(FoldAdaptor adaptor) {
  if (matchPattern(adaptor.getRhs(), m_One()))
    return getLhs();
  return constFoldBinaryOp<IntegerAttr, IntegerAttr::ValueType, void>(adaptor.getOperands(),
                                                                      floorDiv);
}

OpFoldResult ModOp::fold(FoldAdaptor adaptor) {
  if (matchPattern(adaptor.getRhs(), m_One()))
    return Builder(getContext()).getZeroAttr(getType());
  return constFoldBinaryOp<IntegerAttr, IntegerAttr::ValueType, void>(adaptor.getOperands(),
                                                                      floorMod);
}

namespace {
/// x - x // c * c is the remainder of x // c, of which analyses know more. Where c is 0 it is x,
/// for then x // c is 0. In stages only: what is made of them takes remainders from quotients that
/// it has anyway.
struct RemainderByHand : OpRewritePattern<arith::SubIOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::SubIOp op, PatternRewriter &rewriter) const override {
    if (!isa<MaskOp, ScoreOp>(op->getParentOp()))
      return rewriter.notifyMatchFailure(op, "is not in a stage");
    auto product = op.getRhs().getDefiningOp<arith::MulIOp>();
    if (!product)
      return rewriter.notifyMatchFailure(op, "subtracts no product");
    Value x = op.getLhs(), c = product.getRhs();
    auto quotient = product.getLhs().getDefiningOp<FloorDivOp>();
    if (!quotient) {
      c = product.getLhs();
      quotient = product.getRhs().getDefiningOp<FloorDivOp>();
    }
    if (!quotient || quotient.getLhs() != x || quotient.getRhs() != c)
      return rewriter.notifyMatchFailure(op, "is of no quotient and its divisor");
    Value remainder = ModOp::create(rewriter, op.getLoc(), x, c);
    if (!matchPattern(c, m_NonZero())) {
      Value zero =
          arith::ConstantOp::create(rewriter, op.getLoc(), rewriter.getZeroAttr(op.getType()));
      Value isZero =
          arith::CmpIOp::create(rewriter, op.getLoc(), arith::CmpIPredicate::eq, c, zero);
      remainder = arith::SelectOp::create(rewriter, op.getLoc(), isZero, x, remainder);
    }
    rewriter.replaceOp(op, remainder);
    return success();
  }
};
} // namespace

void AttnDialect::getCanonicalizationPatterns(RewritePatternSet &patterns) const {
  patterns.add<RemainderByHand>(getContext());
}

//===----------------------------------------------------------------------===//
// Stages that change nothing
//===----------------------------------------------------------------------===//

/// A score stage that yields its score is the identity, which is what a missing stage means.
LogicalResult ScoreOp::canonicalize(ScoreOp op, PatternRewriter &rewriter) {
  if (op.getResultValue() != op.getScore())
    return rewriter.notifyMatchFailure(op, "changes the score");
  rewriter.eraseOp(op);
  return success();
}

/// A mask stage that is always true keeps every pair, which is what a missing stage means.
LogicalResult MaskOp::canonicalize(MaskOp op, PatternRewriter &rewriter) {
  if (!matchPattern(op.getResultValue(), m_One()))
    return rewriter.notifyMatchFailure(op, "may drop a pair");
  rewriter.eraseOp(op);
  return success();
}
