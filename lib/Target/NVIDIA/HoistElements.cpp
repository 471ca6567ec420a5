//===-- HoistElements.cpp - What is not computed for each score -----------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/NVIDIA/HoistElements.h"

#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Target/NVIDIA/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/IRMapping.h"

namespace heed {
#define GEN_PASS_DEF_TILEHOISTELEMENTSPASS
#include "heed/Target/NVIDIA/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

//===----------------------------------------------------------------------===//
// What is found in a region
//===----------------------------------------------------------------------===//

/// Takes longer than reading a result from shared memory.
static bool isExpensive(Operation *op) {
  return isa<attn::LoadOp, attn::FloorDivOp, attn::ModOp, arith::DivFOp>(op) ||
         (isa<math::MathDialect>(op->getDialect()) &&
          !isa<math::AbsFOp, math::AbsIOp, math::CopySignOp, math::FloorOp, math::CeilOp,
               math::FmaOp>(op));
}

static SmallVector<Dependence> argumentsOf(Block &block, Value score, Value query, Value key) {
  SmallVector<Dependence> dependences;
  bool isBehindKey = false; // elements of tiles beside
  for (BlockArgument argument : block.getArguments()) {
    dependences.push_back(argument == query   ? Dependence::q()
                          : argument == key   ? Dependence::kv()
                          : argument == score ? Dependence::score()
                          : isBehindKey       ? Dependence::q() | Dependence::kv()
                                              : Dependence::none());
    isBehindKey |= argument == key;
  }
  return dependences;
}

ElementRegion::ElementRegion(Block &block, Value score, Value query, Value key)
    : block(block), query(query), key(key),
      dependences(*block.getParent(), argumentsOf(block, score, query, key)) {}

SetVector<Operation *> ElementRegion::sliceOf(ValueRange values, ValueRange leaves) const {
  SetVector<Operation *> found;
  SmallVector<Value> pending(values);
  while (!pending.empty()) {
    Value v = pending.pop_back_val();
    Operation *op = v.getDefiningOp();
    if (op && op->getBlock() == &block && !llvm::is_contained(leaves, v) && found.insert(op))
      llvm::append_range(pending, op->getOperands());
  }
  SmallVector<Operation *> ordered(found.begin(), found.end());
  llvm::sort(ordered, [](Operation *x, Operation *y) { return x->isBeforeInBlock(y); });
  return SetVector<Operation *>(ordered.begin(), ordered.end());
}

/// What depends on neither the query, nor the key, nor the score.
static constexpr Dependence kOfElement = Dependence::score() | Dependence::q() | Dependence::kv();

bool ElementRegion::isUniform(Value v) const {
  return !dependences.lookup(v).intersects(kOfElement);
}

SmallVector<Value> ElementRegion::alongKeys() const {
  auto isOfKey = [&](Value v) { return (dependences.lookup(v) & kOfElement) == Dependence::kv(); };
  SmallVector<Value> found;
  for (Operation &op : block.without_terminator()) {
    if (op.getNumResults() != 1 || !isOfKey(op.getResult(0)))
      continue;
    Value v = op.getResult(0);
    Type type = v.getType();
    bool isStorable = type.isInteger(1) || type.isInteger(32) || type.isInteger(64) || type.isF32();
    bool isUsedByElements = llvm::any_of(op.getUsers(), [&](Operation *user) {
      return user->getNumResults() != 1 || !isOfKey(user->getResult(0));
    });
    // From what is there already it may be quick.
    if (isStorable && isUsedByElements && llvm::any_of(sliceOf(v, found), isExpensive))
      found.push_back(v);
  }
  return found;
}

/// More would not fit beside queries, keys and values.
static constexpr size_t kMostMatrices = 2;

SmallVector<attn::LoadOp> ElementRegion::matrices() const {
  SmallVector<attn::LoadOp> found;
  for (auto load : block.getOps<attn::LoadOp>()) {
    auto indices = load.getIndices();
    auto tensor = cast<attn::TensorType>(load.getTensor().getType());
    // Tensor maps have at most five dimensions.
    if (indices.size() < 2 || indices.size() > 5 || tensor.getElementType().isInteger(64) ||
        found.size() == kMostMatrices)
      continue;
    auto outer = indices.drop_back(2);
    if (indices[outer.size()] == query && indices.back() == key &&
        llvm::all_of(outer, [&](Value v) { return isUniform(v) && v.getType().isInteger(32); }))
      found.push_back(load);
  }
  return found;
}

int64_t heed::alongKeyBytes(Type type) { return type.isInteger(64) ? 8 : 4; }

//===----------------------------------------------------------------------===//
// The pass
//===----------------------------------------------------------------------===//

namespace {

struct TileHoistElements : heed::impl::TileHoistElementsPassBase<TileHoistElements> {
  using TileHoistElementsPassBase::TileHoistElementsPassBase;

  void runOnOperation() override {
    SmallVector<Operation *> ops;
    getOperation().walk([&](Operation *op) {
      if (isa<tile::MapOp, tile::MaskOp>(op))
        ops.push_back(op);
    });
    for (Operation *op : ops) {
      if (auto map = dyn_cast<tile::MapOp>(op))
        hoist(map, map.getScore(), Value());
      auto mask = dyn_cast<tile::MaskOp>(op);
      if (mask && mask.getBodyBlock())
        hoist(mask, Value(), mask.getPartial());
    }
  }

  template <typename Op>
  void hoist(Op op, Value score, Value partial) {
    Block &block = *op.getBodyBlock();
    ElementRegion region(block, score, op.getQuery(), op.getKey());
    OpBuilder b(op);
    SmallVector<Value> values = region.alongKeys();
    SmallVector<attn::LoadOp> matrices =
        region.matrices(); // the region does not know new arguments
    if (!values.empty()) {
      auto along = createAlongKeys(b, op, region, values, partial);
      for (auto [value, tile] : llvm::zip(values, along.getResults())) {
        op.getBesideMutable().append(tile);
        value.replaceAllUsesWith(block.addArgument(value.getType(), value.getLoc()));
      }
    }
    for (attn::LoadOp load : matrices) {
      op.getBesideMutable().append(createLoadElements(op, region, load));
      load.getResult().replaceAllUsesWith(
          block.addArgument(load.getResult().getType(), load.getLoc()));
    }
    eraseUnused(block);
  }

  template <typename Op>
  Value createLoadElements(Op op, const ElementRegion &region, attn::LoadOp load) {
    auto loop = op->template getParentOfType<tile::ForKVOp>();
    OpBuilder outside(loop ? loop.getOperation() : op.getOperation()), b(op);
    SmallVector<Value> indices;
    IRMapping mapping;
    for (Operation *inner : region.sliceOf(load.getIndices().drop_back(2)))
      outside.clone(*inner, mapping);
    for (Value index : load.getIndices().drop_back(2))
      indices.push_back(mapping.lookupOrDefault(index));
    auto tensor = cast<attn::TensorType>(load.getTensor().getType());
    auto type = tile::TileType::get(b.getContext(), op.getTile().getType().getShape(),
                                    tensor.getElementType());
    return tile::LoadElementsOp::create(b, op.getLoc(), type, load.getTensor(), indices,
                                        op.getRow(), op.getColumn());
  }

  template <typename Op>
  tile::AlongKeysOp createAlongKeys(OpBuilder &b, Op op, const ElementRegion &region,
                                    ArrayRef<Value> values, Value partial) {
    int64_t numKeys = op.getTile().getType().getNumColumns();
    SmallVector<Type> types;
    for (Value v : values)
      types.push_back(tile::TileType::get(b.getContext(), {numKeys}, v.getType()));
    auto along = tile::AlongKeysOp::create(b, op.getLoc(), types, op.getColumn(), partial);
    OpBuilder::InsertionGuard guard(b);
    Block *body = b.createBlock(&along.getBody(), {}, b.getI32Type(), op.getLoc());
    IRMapping mapping;
    mapping.map(op.getKey(), body->getArgument(0));
    for (Operation *inner : region.sliceOf(values))
      b.clone(*inner, mapping);
    SmallVector<Value> yielded;
    for (Value v : values)
      yielded.push_back(mapping.lookup(v));
    tile::YieldOp::create(b, op.getLoc(), yielded);
    return along;
  }

  static void eraseUnused(Block &block) {
    for (Operation *op = block.getTerminator()->getPrevNode(); op;) {
      Operation *before = op->getPrevNode();
      if (op->use_empty())
        op->erase();
      op = before;
    }
  }
};

} // namespace
