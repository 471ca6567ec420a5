//===-- SeparateCongruences.cpp - Remainders of one coordinate each -------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Analysis/Magnitude.h"
#include "heed/Dialect/Attn/IR/Attn.h"
#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Target/NVIDIA/Passes.h"

namespace heed {
#define GEN_PASS_DEF_SEPARATECONGRUENCESPASS
#include "heed/Target/NVIDIA/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {
struct SeparateCongruences : heed::impl::SeparateCongruencesPassBase<SeparateCongruences> {
  using SeparateCongruencesPassBase::SeparateCongruencesPassBase;

  void runOnOperation() override {
    getOperation().walk([&](Operation *op) {
      if (auto score = dyn_cast<attn::ScoreOp>(op))
        separate(*score.getBodyBlock(), score.getCoordinates()[2], score.getCoordinates()[3]);
      if (auto mask = dyn_cast<attn::MaskOp>(op))
        separate(*mask.getBodyBlock(), mask.getCoordinates()[2], mask.getCoordinates()[3]);
      if (auto map = dyn_cast<tile::MapOp>(op))
        separate(*map.getBodyBlock(), map.getQuery(), map.getKey());
      if (auto mask = dyn_cast<tile::MaskOp>(op); mask && mask.getBodyBlock())
        separate(*mask.getBodyBlock(), mask.getQuery(), mask.getKey());
    });
  }

  static bool isDistance(Value v, Value query, Value key) {
    Value x = operandOfMagnitude(v);
    auto difference = (x ? x : v).getDefiningOp<arith::SubIOp>();
    return difference && ((difference.getLhs() == query && difference.getRhs() == key) ||
                          (difference.getLhs() == key && difference.getRhs() == query));
  }

  // Coordinates are not negative, so that their difference does not wrap; and remainders by 0 are
  // 0 on both sides.
  static void separate(Block &block, Value query, Value key) {
    for (auto comparison : block.getOps<arith::CmpIOp>()) {
      auto remainder = comparison.getLhs().getDefiningOp<attn::ModOp>();
      bool isEquality = comparison.getPredicate() == arith::CmpIPredicate::eq ||
                        comparison.getPredicate() == arith::CmpIPredicate::ne;
      if (!remainder || !isEquality || !matchPattern(comparison.getRhs(), m_Zero()) ||
          !isDistance(remainder.getLhs(), query, key))
        continue;
      OpBuilder b(comparison);
      Value divisor = remainder.getRhs();
      Value ofQuery = attn::ModOp::create(b, comparison.getLoc(), query, divisor);
      Value ofKey = attn::ModOp::create(b, comparison.getLoc(), key, divisor);
      comparison.getLhsMutable().assign(ofQuery);
      comparison.getRhsMutable().assign(ofKey);
    }
  }
};
} // namespace
