//===-- AttnToClassifier.cpp - A mask as functions of a box ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Conversion/AttnToClassifier.h"

#include "heed/Analysis/BlockClasses.h"
#include "heed/Analysis/Dependence.h"
#include "heed/Conversion/Passes.h"
#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace heed {
#define GEN_PASS_DEF_ATTNTOCLASSIFIERPASS
#include "heed/Conversion/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {

/// Writes the mask of one attn.forward as two functions.
class ClassifierBuilder {
public:
  ClassifierBuilder(OpBuilder &b, attn::ForwardOp forward, StringRef name)
      : b(b), loc(forward.getLoc()), forward(forward), variant(forward.lookupVariant()),
        mask(variant.getStage<attn::MaskOp>()), name(name) {}

  void build(bool forPairs) {
    emitBoxFunction("_classify", b.getI32Type(), [&] { return emitClass(); });
    if (forPairs)
      emitFunction("_attends", 4, b.getI1Type(),
                   [&](ValueRange grid) { return emitElement(grid[2], grid[3]); });
    else
      emitBoxFunction("_count", b.getI64Type(), [&] { return emitCount(); });
  }

private:
  Value index(int64_t v) { return arith::ConstantIndexOp::create(b, loc, v); }
  Value toI32(Value v) { return arith::IndexCastOp::create(b, loc, b.getI32Type(), v); }

  void emitBoxFunction(StringRef suffix, Type result, llvm::function_ref<Value()> body) {
    emitFunction(suffix, 6, result, [&](ValueRange grid) {
      firstQ = grid[2], endQ = grid[3], firstKv = grid[4], endKv = grid[5];
      return body();
    });
  }

  /// A function of the captures and of `numCoordinates` coordinates, batch and head first.
  void emitFunction(StringRef suffix, unsigned numCoordinates, Type result,
                    llvm::function_ref<Value(ValueRange)> body) {
    SmallVector<Type> types;
    for (BlockArgument capture : variant.getCaptures())
      types.push_back(capture.getType());
    size_t numCaptures = types.size();
    types.append(numCoordinates, b.getIndexType());
    auto function = func::FuncOp::create(b, loc, (name + suffix).str(),
                                         b.getFunctionType(types, TypeRange(result)));
    function->setAttr(kBoxAttr, describe());
    OpBuilder::InsertionGuard guard(b);
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    mapping = IRMapping();
    mapping.map(variant.getCaptures(), entry->getArguments().take_front(numCaptures));
    auto grid = entry->getArguments().drop_front(numCaptures);
    if (mask) {
      mapping.map(mask.getCoordinates()[0], toI32(grid[0]));
      mapping.map(mask.getCoordinates()[1], toI32(grid[1]));
    }
    func::ReturnOp::create(b, loc, body(grid));
  }

  DictionaryAttr describe() {
    Dependence uses = mask ? DependenceAnalysis(mask).getResult() : Dependence::none();
    auto number = [&](StringRef key, int64_t v) {
      return b.getNamedAttr(key, b.getI64IntegerAttr(v));
    };
    return b.getDictionaryAttr({number("head_dim", forward.getHeadDim()),
                                number("value_head_dim", forward.getValueHeadDim()),
                                number("uses_batch", uses.intersects(Dependence::b())),
                                number("uses_head", uses.intersects(Dependence::h()))});
  }

  Value emitClass() {
    if (!mask)
      return arith::ConstantIntOp::create(b, loc, b.getI32Type(),
                                          static_cast<int64_t>(tile::BlockClass::Full));
    Value one = index(1);
    TileBox box = {firstQ, arith::SubIOp::create(b, loc, endQ, one), firstKv,
                   arith::SubIOp::create(b, loc, endKv, one)};
    return emitBlockClass(b, b, mask, mapping, box);
  }

  Value emitCount() {
    auto loop = [&](Value first, Value end, Value count,
                    llvm::function_ref<Value(Value, Value)> body) -> Value {
      return scf::ForOp::create(b, loc, first, end, index(1), ValueRange(count),
                                [&](OpBuilder &, Location, Value iv, ValueRange carried) {
                                  scf::YieldOp::create(b, loc, body(iv, carried[0]));
                                })
          .getResult(0);
    };
    Value zero = arith::ConstantIntOp::create(b, loc, b.getI64Type(), 0);
    return loop(firstQ, endQ, zero, [&](Value q, Value outer) {
      return loop(firstKv, endKv, outer, [&](Value kv, Value count) -> Value {
        Value wide = arith::ExtUIOp::create(b, loc, b.getI64Type(), emitElement(q, kv));
        return arith::AddIOp::create(b, loc, count, wide);
      });
    });
  }

  /// Whether a pair attends.
  Value emitElement(Value q, Value kv) {
    if (!mask)
      return arith::ConstantIntOp::create(b, loc, b.getI1Type(), 1);
    IRMapping element = mapping;
    element.map(mask.getCoordinates()[2], toI32(q));
    element.map(mask.getCoordinates()[3], toI32(kv));
    for (Operation &op : mask.getBodyBlock()->without_terminator())
      b.clone(op, element);
    return element.lookupOrDefault(mask.getResultValue());
  }

  OpBuilder &b;
  Location loc;
  attn::ForwardOp forward;
  attn::VariantOp variant;
  attn::MaskOp mask; // may be null
  StringRef name;
  IRMapping mapping; // captures, batch and head
  Value firstQ, endQ, firstKv, endKv;
};

} // namespace

void heed::emitClassifier(OpBuilder &builder, attn::ForwardOp forward, StringRef name,
                          bool forPairs) {
  ClassifierBuilder(builder, forward, name).build(forPairs);
}

bool heed::profitsFromLists(attn::MaskOp mask) {
  DependenceAnalysis dependences(mask);
  Dependence moving = Dependence::q() | Dependence::kv();
  return mask
      ->walk([&](Operation *op) {
        bool isSeenLate =
            isa<attn::LoadOp, attn::ModOp>(op) && llvm::any_of(op->getOperands(), [&](Value v) {
              return dependences.lookup(v).intersects(moving);
            });
        return isSeenLate ? WalkResult::interrupt() : WalkResult::advance();
      })
      .wasInterrupted();
}

namespace {

struct AttnToClassifier : heed::impl::AttnToClassifierPassBase<AttnToClassifier> {
  using AttnToClassifierPassBase::AttnToClassifierPassBase;

  void runOnOperation() override {
    OpBuilder builder(&getContext());
    for (auto function : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      auto forwards = function.getOps<attn::ForwardOp>();
      if (!llvm::hasSingleElement(forwards)) {
        function.emitError("expects a function of one attn.forward");
        return signalPassFailure();
      }
      builder.setInsertionPoint(function);
      emitClassifier(builder, *forwards.begin(), function.getName(), forPairs);
      function.erase();
    }
    for (auto variant : llvm::make_early_inc_range(getOperation().getOps<attn::VariantOp>()))
      variant.erase();
  }
};

} // namespace
