//===-- BlockClasses.cpp - Which blocks a mask skips, as IR ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "IntervalEvaluator.h"

#include "heed/Dialect/Tile/IR/Tile.h"

using namespace mlir;
using namespace heed;
using namespace heed::intervals;

Value heed::emitBlockClass(OpBuilder &outer, OpBuilder &inner, attn::MaskOp mask,
                           const IRMapping &mapping, const TileBox &box, bool maySkip) {
  Boolean all = IntervalEvaluator(outer, inner, mask, mapping, box, /*readKeys=*/true).result();
  auto constant = [&](tile::BlockClass c) -> Value {
    return arith::ConstantIntOp::create(inner, mask.getLoc(), inner.getI32Type(),
                                        static_cast<int64_t>(c));
  };
  Value notFull = constant(tile::BlockClass::Partial);
  if (maySkip)
    notFull = arith::SelectOp::create(inner, mask.getLoc(), all.never,
                                      constant(tile::BlockClass::Skipped), notFull);
  return arith::SelectOp::create(inner, mask.getLoc(), all.always, constant(tile::BlockClass::Full),
                                 notFull);
}

KvBounds heed::emitKvBounds(OpBuilder &builder, attn::MaskOp mask, const IRMapping &mapping,
                            const TileBox &box) {
  Location loc = mask.getLoc();
  Bounds keys = IntervalEvaluator(builder, builder, mask, mapping, box, /*readKeys=*/false).hull();
  Type index = builder.getIndexType();
  Value one = arith::ConstantIndexOp::create(builder, loc, 1);
  KvBounds result{box.firstKv, arith::AddIOp::create(builder, loc, box.lastKv, one), keys.isExact};
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
