//===-- AttnFolds.cpp - Folders and canonicalisation of the attn ops ------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/Attn.h"

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
