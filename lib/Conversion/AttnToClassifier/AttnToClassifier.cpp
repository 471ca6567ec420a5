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

  void build() {
    emitFunction("_classify", SmallVector<Type>(6, b.getIndexType()), b.getI32Type(),
                 [&](ValueRange box) { return emitClass(box); });
    emitFunction("_attends", SmallVector<Type>(4, b.getI32Type()), b.getI1Type(),
                 [&](ValueRange pair) { return emitElement(pair); });
  }

private:
  /// A function of the captures and of coordinates, batch and head first.
  void emitFunction(StringRef suffix, ArrayRef<Type> coordinates, Type result,
                    llvm::function_ref<Value(ValueRange)> body) {
    SmallVector<Type> types;
    for (BlockArgument capture : variant.getCaptures())
      types.push_back(capture.getType());
    size_t numCaptures = types.size();
    llvm::append_range(types, coordinates);
    auto function = func::FuncOp::create(b, loc, (name + suffix).str(),
                                         b.getFunctionType(types, TypeRange(result)));
    function->setAttr(kBoxAttr, describe());
    OpBuilder::InsertionGuard guard(b);
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    mapping = IRMapping();
    mapping.map(variant.getCaptures(), entry->getArguments().take_front(numCaptures));
    func::ReturnOp::create(b, loc, body(entry->getArguments().drop_front(numCaptures)));
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

  Value emitClass(ValueRange grid) {
    if (!mask)
      return arith::ConstantIntOp::create(b, loc, b.getI32Type(),
                                          static_cast<int64_t>(tile::BlockClass::Full));
    for (unsigned i : {0, 1})
      mapping.map(mask.getCoordinates()[i],
                  arith::IndexCastOp::create(b, loc, b.getI32Type(), grid[i]).getResult());
    Value one = arith::ConstantIndexOp::create(b, loc, 1);
    TileBox box = {grid[2], arith::SubIOp::create(b, loc, grid[3], one), grid[4],
                   arith::SubIOp::create(b, loc, grid[5], one)};
    return emitBlockClass(b, b, mask, mapping, box);
  }

  Value emitElement(ValueRange pair) {
    if (!mask)
      return arith::ConstantIntOp::create(b, loc, b.getI1Type(), 1);
    mapping.map(mask.getCoordinates(), pair);
    for (Operation &op : mask.getBodyBlock()->without_terminator())
      b.clone(op, mapping);
    return mapping.lookupOrDefault(mask.getResultValue());
  }

  OpBuilder &b;
  Location loc;
  attn::ForwardOp forward;
  attn::VariantOp variant;
  attn::MaskOp mask; // may be null
  StringRef name;
  IRMapping mapping; // captures and what the body maps
};

} // namespace

void heed::emitClassifier(OpBuilder &builder, attn::ForwardOp forward, StringRef name) {
  ClassifierBuilder(builder, forward, name).build();
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
  void runOnOperation() override {
    OpBuilder builder(&getContext());
    for (auto function : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      auto forwards = function.getOps<attn::ForwardOp>();
      if (!llvm::hasSingleElement(forwards)) {
        function.emitError("expects a function of one attn.forward");
        return signalPassFailure();
      }
      builder.setInsertionPoint(function);
      emitClassifier(builder, *forwards.begin(), function.getName());
      function.erase();
    }
    for (auto variant : llvm::make_early_inc_range(getOperation().getOps<attn::VariantOp>()))
      variant.erase();
  }
};

} // namespace
