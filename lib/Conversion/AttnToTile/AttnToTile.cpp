//===-- AttnToTile.cpp - Attention as an algorithm on tiles ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The one place where forward attention is written as an algorithm. Targets lower
// the tile ops that come out and know nothing of attention.
//
// Scores enter the softmax as s * factor in base 2. Without a score stage the scale
// is part of the factor, which must be positive (the maximum is taken before it),
// so its sign goes into the query. The same holds where the stage only adds to the
// score, and nothing that could overflow when it is divided by the scale: that
// leaves one operation an element. Otherwise the scale is applied first and the
// factor is log2(e).
//
//===----------------------------------------------------------------------===//

#include "AddendBounds.h"

#include "heed/Analysis/BlockClasses.h"
#include "heed/Analysis/Dependence.h"
#include "heed/Conversion/AttnToClassifier.h"
#include "heed/Conversion/Passes.h"
#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

#include <limits>

namespace heed {
#define GEN_PASS_DEF_ATTNTOTILEPASS
#include "heed/Conversion/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {

constexpr float kLog2E = 1.44269504088896340736f;

/// Writes one attn.forward as a tile.kernel.
class ForwardBuilder {
public:
  ForwardBuilder(attn::ForwardOp forward, const AttnToTilePassOptions &options)
      : forward(forward), variant(forward.lookupVariant()), options(options),
        b(forward.getContext()), loc(forward.getLoc()) {}

  tile::KernelOp build(OpBuilder &moduleBuilder, StringRef name) {
    tile::KernelOp kernel = createKernel(moduleBuilder, name);
    b.setInsertionPointToStart(kernel.getBodyBlock());
    auto arguments = kernel.getKernelArguments();
    Value query = arguments[0], key = arguments[1], value = arguments[2], output = arguments[3],
          lse = arguments[4], maxScores = arguments[5], scale = arguments[6];
    Value batch = kernel.getBatch(), head = kernel.getHead();

    for (auto [capture, argument] : llvm::zip(variant.getCaptures(), arguments.drop_front(7)))
      uniforms.map(capture, argument);
    batchI32 = toI32(batch);
    headI32 = toI32(head);

    Value firstQ = b.createOrFold<arith::MulIOp>(loc, kernel.getQueryTile(), index(options.blockQ));
    Value keyHead = emitKeyHead(head);
    Value skv = extent("Skv");

    Type element = forward.getElementType();
    tile::TileType queryTile = tileType(options.blockQ, forward.getHeadDim(), element);
    tile::TileType keyTile = tileType(options.blockKv, forward.getHeadDim(), element);
    tile::TileType valueTile = tileType(options.blockKv, forward.getValueHeadDim(), element);
    tile::TileType scoreTile = tileType(options.blockQ, options.blockKv, b.getF32Type());
    tile::TileType weightTile = tileType(options.blockQ, options.blockKv,
                                         options.narrowWeights ? element : Type(b.getF32Type()));
    tile::TileType accTile = tileType(options.blockQ, forward.getValueHeadDim(), b.getF32Type());
    tile::TileType stats = tile::TileType::get(b.getContext(), {options.blockQ}, b.getF32Type());

    Value q = tile::LoadOp::create(b, loc, queryTile, query, batch, head, firstQ);
    Value factor = f32(kLog2E);
    auto score = variant.getStage<attn::ScoreOp>();
    if (score && options.divideAddends)
      addends = collectAddends(score, DependenceAnalysis(score));
    if (!score || !addends.empty()) {
      Value sign = math::CopySignOp::create(b, loc, f32(1.0f), scale);
      q = tile::ScaleOp::create(b, loc, queryTile, q, sign);
      float least = score ? kLeastScale : std::numeric_limits<float>::min();
      Value magnitude =
          arith::MaximumFOp::create(b, loc, math::AbsFOp::create(b, loc, scale), f32(least));
      factor = arith::MulFOp::create(b, loc, magnitude, f32(kLog2E));
      if (score)
        inverseScale = arith::DivFOp::create(b, loc, f32(1.0f), magnitude);
    }

    TileBox all = emitBox(firstQ, skv);
    KvBounds bounds = emitBounds(all);
    Value zero = tile::FillOp::create(b, loc, stats, b.getF32FloatAttr(0.0f));
    Value start = tile::FillOp::create(b, loc, stats,
                                       b.getF32FloatAttr(-std::numeric_limits<float>::infinity()));
    Value empty = tile::FillOp::create(b, loc, accTile, b.getF32FloatAttr(0.0f));
    auto loop = tile::ForKVOp::create(b, loc, bounds.lower, bounds.upper, options.blockKv,
                                      ValueRange{start, zero, empty});
    emitClassify(loop, all, skv, /*maySkip=*/!bounds.decideSkips);
    auto mask = variant.getStage<attn::MaskOp>();
    if (mask) {
      std::optional<tile::BlockWalk> walk = tile::symbolizeBlockWalk(options.walk);
      if (!walk && options.blockLists)
        walk = profitsFromLists(mask) ? tile::BlockWalk::Lists : tile::BlockWalk::Bounds;
      loop.setWalk(walk);
      if (options.blockLists && loop.walksLists())
        emitClassifier(moduleBuilder, forward, name);
    }

    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBodyBlock());
      Value firstKv = loop.getBlockStart();
      Value max = loop.getIterArgs()[0], sum = loop.getIterArgs()[1], acc = loop.getIterArgs()[2];
      Value k = tile::LoadOp::create(b, loc, keyTile, key, batch, keyHead, firstKv);
      Value s =
          tile::DotOp::create(b, loc, scoreTile, q, k, /*acc=*/Value(), /*transpose_lhs=*/false,
                              /*transpose_rhs=*/true);
      s = emitScore(s, firstQ, firstKv, scale);
      s = emitMask(s, firstQ, firstKv, skv, loop.getIsPartial());
      auto softmax = tile::OnlineSoftmaxOp::create(
          b, loc, TypeRange{weightTile, stats, stats, stats}, s, max, sum, factor);
      Value v = tile::LoadOp::create(b, loc, valueTile, value, batch, keyHead, firstKv);
      Value rescaled = tile::ScaleRowsOp::create(b, loc, accTile, acc, softmax.getRescale());
      Value next = tile::DotOp::create(b, loc, accTile, softmax.getWeights(), v, rescaled,
                                       /*transpose_lhs=*/false, /*transpose_rhs=*/false);
      tile::YieldOp::create(b, loc,
                            ValueRange{softmax.getNewReference(), softmax.getNewSum(), next});
    }

    auto normalized =
        tile::NormalizeOp::create(b, loc, TypeRange{accTile, stats, stats}, loop.getResult(2),
                                  loop.getResult(0), loop.getResult(1), factor);
    tile::StoreOp::create(b, loc, normalized.getOutput(), output, batch, head, firstQ);
    tile::StoreOp::create(b, loc, normalized.getLse(), lse, batch, head, firstQ);
    tile::StoreOp::create(b, loc, normalized.getMaxScores(), maxScores, batch, head, firstQ);
    tile::ReturnOp::create(b, loc);
    return kernel;
  }

private:
  tile::KernelOp createKernel(OpBuilder &moduleBuilder, StringRef name) {
    SmallVector<Type> types = {forward.getQuery().getType(), forward.getKey().getType(),
                               forward.getValue().getType(), forward.getOutput().getType(),
                               forward.getLse().getType(),   forward.getMaxScores().getType(),
                               forward.getScale().getType()};
    SmallVector<std::string> names = {"query", "key",        "value", "output",
                                      "lse",   "max_scores", "scale"};
    for (BlockArgument capture : variant.getCaptures()) {
      types.push_back(capture.getType());
      names.push_back(variant.getCaptureName(capture.getArgNumber()));
    }
    return tile::KernelOp::create(moduleBuilder, loc, name, types, names);
  }

  //===-- Scalars ---------------------------------------------------------===//

  Value index(int64_t v) { return arith::ConstantIndexOp::create(b, loc, v); }
  Value f32(float v) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value toI32(Value v) { return arith::IndexCastOp::create(b, loc, b.getI32Type(), v); }
  Value extent(StringRef symbol) {
    return arith::IndexCastOp::create(b, loc, b.getIndexType(),
                                      attn::ExtentOp::create(b, loc, b.getI32Type(), symbol));
  }
  tile::TileType tileType(int64_t rows, int64_t columns, Type element) {
    return tile::TileType::get(b.getContext(), {rows, columns}, element);
  }

  /// The key head that a query head reads: head // (Hq // Hkv). The launch has checked that Hkv
  /// divides Hq.
  Value emitKeyHead(Value head) {
    Value group = arith::DivUIOp::create(b, loc, extent("Hq"), extent("Hkv"));
    return arith::DivUIOp::create(b, loc, head, group);
  }

  //===-- The mask --------------------------------------------------------===//

  /// The queries of this tile and all keys.
  TileBox emitBox(Value firstQ, Value skv) {
    Value one = index(1);
    Value endQ = arith::MinSIOp::create(
        b, loc, arith::AddIOp::create(b, loc, firstQ, index(options.blockQ)), extent("Sq"));
    return {firstQ, arith::SubIOp::create(b, loc, endQ, one), index(0),
            arith::SubIOp::create(b, loc, skv, one)};
  }

  /// Maps a stage's batch and head beside the captures.
  IRMapping uniformsFor(Value stageBatch, Value stageHead) {
    IRMapping mapping = uniforms;
    mapping.map(stageBatch, batchI32);
    mapping.map(stageHead, headI32);
    return mapping;
  }

  KvBounds emitBounds(const TileBox &all) {
    auto mask = variant.getStage<attn::MaskOp>();
    if (!mask) {
      Value end = arith::AddIOp::create(b, loc, all.lastKv, index(1));
      return {index(0), end, /*decideSkips=*/true};
    }
    KvBounds bounds =
        emitKvBounds(b, mask, uniformsFor(mask.getCoordinates()[0], mask.getCoordinates()[1]), all);
    Value step = index(options.blockKv);
    Value block = arith::DivUIOp::create(b, loc, bounds.lower, step);
    bounds.lower = arith::MulIOp::create(b, loc, block, step);
    return bounds;
  }

  void emitClassify(tile::ForKVOp loop, const TileBox &all, Value skv, bool maySkip) {
    auto mask = variant.getStage<attn::MaskOp>();
    if (!mask)
      return;
    OpBuilder outer(loop);
    Block *block = loop.getOrCreateClassifyBlock();
    OpBuilder inner = OpBuilder::atBlockBegin(block);
    Value one = arith::ConstantIndexOp::create(outer, loc, 1);
    Value end = arith::MinSIOp::create(inner, loc, block->getArgument(1), skv);
    TileBox box = {all.firstQ, all.lastQ, block->getArgument(0),
                   arith::SubIOp::create(inner, loc, end, one)};
    Value cls = emitBlockClass(outer, inner, mask,
                               uniformsFor(mask.getCoordinates()[0], mask.getCoordinates()[1]), box,
                               maySkip);
    tile::YieldOp::create(inner, loc, cls);
  }

  /// Clones a stage's ops before the builder's insertion point; yields what the stage yields.
  Value cloneStage(Block &stage, IRMapping &mapping) {
    for (Operation &op : stage.without_terminator())
      b.clone(op, mapping);
    return mapping.lookupOrDefault(stage.getTerminator()->getOperand(0));
  }

  Value emitMask(Value s, Value firstQ, Value firstKv, Value skv, Value isPartial) {
    auto mask = variant.getStage<attn::MaskOp>();
    auto op = tile::MaskOp::create(b, loc, s.getType(), s, firstQ, firstKv, skv,
                                   mask ? isPartial : Value(), ValueRange());
    if (!mask)
      return op.getResult();
    OpBuilder::InsertionGuard guard(b);
    Block &block = op.getBody().emplaceBlock();
    block.addArguments({b.getI32Type(), b.getI32Type()}, {loc, loc});
    b.setInsertionPointToStart(&block);
    auto coordinates = mask.getCoordinates();
    IRMapping mapping = uniformsFor(coordinates[0], coordinates[1]);
    mapping.map(coordinates[2], block.getArgument(0));
    mapping.map(coordinates[3], block.getArgument(1));
    tile::YieldOp::create(b, loc, cloneStage(*mask.getBodyBlock(), mapping));
    return op.getResult();
  }

  /// Where a score stage is the score plus and minus other things that stay finite when they are
  /// divided by the scale, the ops that add them, in order.
  static SmallVector<Operation *> collectAddends(attn::ScoreOp score,
                                                 const DependenceAnalysis &dependences) {
    AddendBounds bounds(score, dependences);
    SmallVector<Operation *> chain;
    Value sum = score.getResultValue();
    while (sum != score.getScore()) {
      Operation *op = sum.getDefiningOp();
      if (!op || !isa<arith::AddFOp, arith::SubFOp>(op))
        return {};
      unsigned side = dependsOnScore(dependences, op->getOperand(0)) ? 0 : 1;
      if (dependsOnScore(dependences, op->getOperand(1 - side)) ||
          (side == 1 && isa<arith::SubFOp>(op)) ||
          !(bounds.of(op->getOperand(1 - side)) <= kLargestAddend))
        return {};
      chain.insert(chain.begin(), op);
      sum = op->getOperand(side);
    }
    return chain;
  }

  static bool dependsOnScore(const DependenceAnalysis &dependences, Value v) {
    return dependences.lookup(v).intersects(Dependence::score());
  }

  Value emitScore(Value s, Value firstQ, Value firstKv, Value scale) {
    auto score = variant.getStage<attn::ScoreOp>();
    if (!score)
      return s;
    auto op = tile::MapOp::create(b, loc, s.getType(), s, firstQ, firstKv, ValueRange());
    OpBuilder::InsertionGuard guard(b);
    Block &block = op.getBody().emplaceBlock();
    block.addArguments({b.getF32Type(), b.getI32Type(), b.getI32Type()}, {loc, loc, loc});
    b.setInsertionPointToStart(&block);
    auto coordinates = score.getCoordinates();
    IRMapping mapping = uniformsFor(coordinates[0], coordinates[1]);
    mapping.map(coordinates[2], block.getArgument(1));
    mapping.map(coordinates[3], block.getArgument(2));
    if (addends.empty()) {
      Value scaled = arith::MulFOp::create(b, loc, block.getArgument(0), scale);
      mapping.map(score.getScore(), scaled);
      tile::YieldOp::create(b, loc, cloneStage(*score.getBodyBlock(), mapping));
      return op.getResult();
    }
    DependenceAnalysis dependences(score);
    Value sum = block.getArgument(0), partOfSum = score.getScore();
    for (Operation &inner : score.getBodyBlock()->without_terminator()) {
      if (!llvm::is_contained(addends, &inner)) {
        // What uses the score beside its sum does not matter: the sum would depend on it.
        if (!dependsOnScore(dependences, inner.getResult(0)))
          b.clone(inner, mapping);
        continue;
      }
      unsigned side = inner.getOperand(0) == partOfSum ? 1 : 0;
      Value addend = arith::MulFOp::create(b, loc, mapping.lookupOrDefault(inner.getOperand(side)),
                                           inverseScale);
      if (isa<arith::AddFOp>(inner))
        sum = arith::AddFOp::create(b, loc, sum, addend);
      else
        sum = arith::SubFOp::create(b, loc, sum, addend);
      partOfSum = inner.getResult(0);
    }
    tile::YieldOp::create(b, loc, sum);
    return op.getResult();
  }

  attn::ForwardOp forward;
  attn::VariantOp variant;
  const AttnToTilePassOptions &options;
  OpBuilder b;
  Location loc;
  IRMapping uniforms; // captures
  Value batchI32, headI32;
  SmallVector<Operation *> addends; // ops of a score stage that only adds
  Value inverseScale;               // of what they add
};

struct AttnToTile : heed::impl::AttnToTilePassBase<AttnToTile> {
  using AttnToTilePassBase::AttnToTilePassBase;

  void runOnOperation() override {
    AttnToTilePassOptions options{blockQ, blockKv, narrowWeights, divideAddends, blockLists, walk};
    if (!walk.empty() && !tile::symbolizeBlockWalk(walk)) {
      getOperation().emitError("unknown walk '") << walk << "' (known: bounds, lists)";
      return signalPassFailure();
    }
    OpBuilder builder(&getContext());
    for (auto function : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      attn::ForwardOp forward = matchForward(function);
      if (!forward) {
        function.emitError("expects a function of one attn.forward on its arguments");
        return signalPassFailure();
      }
      builder.setInsertionPoint(function);
      ForwardBuilder(forward, options).build(builder, function.getName());
      function.erase();
    }
    for (auto variant : llvm::make_early_inc_range(getOperation().getOps<attn::VariantOp>()))
      variant.erase();
  }

  /// The attn.forward that a function wraps: its operands are the function's arguments in order.
  attn::ForwardOp matchForward(func::FuncOp function) {
    if (function.isExternal() || !llvm::hasSingleElement(function.getBody()))
      return {};
    Block &block = function.getBody().front();
    auto forward = dyn_cast<attn::ForwardOp>(&block.front());
    if (!forward || forward->getNextNode() != block.getTerminator() ||
        !llvm::equal(forward->getOperands(), block.getArguments()) ||
        !llvm::equal(block.getTerminator()->getOperands(), forward->getResults()))
      return {};
    return forward;
  }
};

} // namespace
