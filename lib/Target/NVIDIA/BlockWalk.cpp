//===-- BlockWalk.cpp - Which blocks of keys a thread block needs ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BlockWalk.h"

#include "heed-c/Runtime.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

BlockWalk::BlockWalk(Emitter &e, Scalars &uniform, tile::KernelOp kernel, tile::ForKVOp loop,
                     int64_t groups, int64_t instanceRows)
    : e(e), uniform(uniform), kernel(kernel), loop(loop), groups(groups),
      instanceRows(instanceRows) {
  // What the walk is computed from.
  llvm::SetVector<Operation *> needed;
  SmallVector<Value> pending = walkRoots();
  llvm::DenseSet<Value> seen;
  while (!pending.empty()) {
    Value v = pending.pop_back_val();
    if (!seen.insert(v).second)
      continue;
    hasBatch |= v == kernel.getBatch();
    hasHead |= v == kernel.getHead();
    if (Operation *op = v.getDefiningOp())
      op->walk([&](Operation *inner) {
        hasLists |= isa<scf::ForOp, scf::WhileOp>(inner);
        llvm::append_range(pending, inner->getOperands());
      });
  }
  loop.getClassify().walk([&](Operation *op) { hasLists |= isa<scf::ForOp, scf::WhileOp>(op); });
}

/// What the bounds and the classes of blocks are computed from.
SmallVector<Value> BlockWalk::walkRoots() {
  SmallVector<Value> roots = {loop.getLower(), loop.getUpper()};
  loop.getClassify().walk([&](Operation *op) {
    for (Value operand : op->getOperands())
      if (!loop.getClassify().isAncestor(operand.getParentRegion()) &&
          !isa<attn::TensorType>(operand.getType()))
        roots.push_back(operand);
  });
  return roots;
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

Value BlockWalk::tilesPerHead() {
  int64_t rows = groups * instanceRows;
  return e.div(e.add(uniform.word32(HEED_ARG_SQ), rows - 1), rows);
}

Value BlockWalk::numTiles() {
  return e.mul(tilesPerHead(), e.mul(uniform.word32(HEED_ARG_B), uniform.word32(HEED_ARG_HQ)));
}

BlockWalk::Tile BlockWalk::decodeTile(Value number) {
  Value perHead = tilesPerHead(), heads = uniform.word32(HEED_ARG_HQ);
  Value section = uniform.word32(HEED_ARG_SECTION);
  Value perSection = e.mul(perHead, section);
  Value index = e.div(number, perSection), within = e.sub(number, e.mul(index, perSection));
  Value firstHead = e.mul(index, section);
  Value numHeads = e.min(section, e.sub(e.mul(uniform.word32(HEED_ARG_B), heads), firstHead));
  Value tile = e.div(within, numHeads);
  Value flat = e.add(firstHead, e.sub(within, e.mul(tile, numHeads)));
  if (!loop.getClassify().empty())
    tile = e.sub(e.sub(perHead, tile), 1);
  Value batch = e.div(flat, heads);
  return {batch, e.sub(flat, e.mul(batch, heads)), e.mul(tile, groups), tile};
}

IRMapping BlockWalk::instanceScalars(const Tile &tile, Value instance) {
  IRMapping mapping = uniform.arguments();
  mapping.map(kernel.getBatch(), tile.batch);
  mapping.map(kernel.getHead(), tile.head);
  mapping.map(kernel.getQueryTile(), e.add(tile.first, instance));
  return mapping;
}

//===----------------------------------------------------------------------===//
// Blocks
//===----------------------------------------------------------------------===//

BlockWalk::Walk BlockWalk::beginBounds(const Tile &tile) {
  Walk walk;
  Value none = e.cst(std::numeric_limits<int32_t>::max()), zero = e.cst(0);
  for (int64_t i = 0; i < groups; ++i) {
    IRMapping mapping = instanceScalars(tile, e.cst(i));
    uniform.emitSlice(walkRoots(), mapping);
    Value lower = mapping.lookup(loop.getLower()), upper = mapping.lookup(loop.getUpper());
    Value firstQ = e.mul(mapping.lookup(kernel.getQueryTile()), instanceRows);
    Value isEmpty =
        e.bor(e.ge(lower, upper), e.ge(firstQ, uniform.word32(HEED_ARG_SQ)));
    walk.lower.push_back(e.select(isEmpty, none, e.div(lower, blockKv())));
    walk.upper.push_back(
        e.select(isEmpty, zero, e.div(e.add(upper, blockKv() - 1), blockKv())));
    walk.instances.push_back(mapping);
  }
  walk.position = walk.upper[0];
  walk.end = walk.lower[0];
  for (int64_t i = 1; i < groups; ++i) {
    walk.position = e.max(walk.position, walk.upper[i]);
    walk.end = e.min(walk.end, walk.lower[i]);
  }
  walk.position = e.sub(walk.position, 1);
  return walk;
}

BlockWalk::Walk BlockWalk::begin(const Tile &tile) {
  if (!hasLists)
    return beginBounds(tile);
  Value index = e.cst(0);
  if (hasBatch)
    index = tile.batch;
  if (hasHead)
    index = e.add(e.mul(index, uniform.word32(HEED_ARG_HQ)), tile.head);
  Walk walk;
  walk.list = listAddress(e.add(e.mul(index, tilesPerHead()), tile.number));
  walk.end = e.load(e.i32(), walk.list, 4);
  walk.position = e.cst(0);
  return walk;
}

Value BlockWalk::listAddress(Value list) {
  Value blocks = e.div(e.add(uniform.word32(HEED_ARG_SKV), blockKv() - 1), blockKv());
  Value words = e.mul(e.toI64(list), e.toI64(e.add(blocks, 1)));
  return e.at(uniform.pointer(HEED_ARG_LISTS), e.mul(words, 4));
}

std::pair<Value, Value> BlockWalk::blockWord(const Walk &walk, Value block) {
  Value skv = uniform.word32(HEED_ARG_SKV);
  Value first = e.mul(block, blockKv()), end = e.add(first, blockKv());
  Value exceeds = e.lt(skv, end);
  end = e.min(end, skv);
  Value full = e.cst(int64_t(tile::BlockClass::Full)), partial = e.cst(int64_t(tile::BlockClass::Partial));
  Value skipped = e.cst(int64_t(tile::BlockClass::Skipped));
  Value word = e.mul(block, 256), isNeeded = e.cstBool(false);
  for (int64_t i = 0; i < groups; ++i) {
    Value cls = full;
    if (!loop.getClassify().empty()) {
      Block &classify = loop.getClassify().front();
      IRMapping mapping = walk.instances[i];
      mapping.map(classify.getArgument(0), first);
      mapping.map(classify.getArgument(1), end);
      for (Operation &op : classify.without_terminator())
        uniform.emit(op, mapping);
      cls = mapping.lookup(classify.getTerminator()->getOperand(0));
    }
    // Keys beyond the end are masked like others.
    cls = e.select(e.band(exceeds, e.eq(cls, full)), partial, cls);
    cls = e.select(e.lt(block, walk.upper[i]), cls, skipped);
    isNeeded = e.bor(isNeeded, e.band(e.ne(cls, 0), e.ge(block, walk.lower[i])));
    cls = e.select(e.lt(block, walk.lower[i]), e.cst(kDone), cls);
    word = e.bor(word, e.shl(cls, 2 * i));
  }
  return {word, isNeeded};
}

std::pair<Value, Value> BlockWalk::next(const Walk &walk, Value position) {
  Value none = e.cst(-1);
  if (hasLists) {
    Emitter::Values word = e.ifElse(
        e.lt(position, walk.end), e.i32(),
        [&]() -> Emitter::Values {
          return {e.load(e.i32(), e.at(walk.list, e.add(e.shl(position, 2), 4)), 4)};
        },
        [&]() -> Emitter::Values { return {none}; });
    return {word[0], e.add(position, 1)};
  }
  if (loop.getClassify().empty()) {
    auto [word, isNeeded] = blockWord(walk, position);
    return {e.select(e.ge(position, walk.end), word, none), e.sub(position, 1)};
  }
  Emitter::Values found = e.loopWhile(
      {none, position},
      [&](ValueRange v) { return e.band(e.lt(v[0], e.cst(0)), e.ge(v[1], walk.end)); },
      [&](ValueRange v) -> Emitter::Values {
        auto [word, isNeeded] = blockWord(walk, v[1]);
        return {e.select(isNeeded, word, none), e.sub(v[1], 1)};
      });
  return {found[0], found[1]};
}

void BlockWalk::emitClassify() {
  // List l belongs to tile l % tiles of head l / tiles (of the batches and heads that lists depend on).
  Value list = e.blockId(), lane = e.laneId(), perHead = tilesPerHead();
  Value index = e.div(list, perHead);
  Value number = e.sub(list, e.mul(index, perHead));
  Tile tile{e.cst(0), e.cst(0), e.mul(number, groups), number};
  if (hasHead) {
    Value heads = uniform.word32(HEED_ARG_HQ), batch = e.div(index, heads);
    tile.head = e.sub(index, e.mul(batch, heads));
    index = batch;
  }
  if (hasBatch)
    tile.batch = index;
  Walk walk = beginBounds(tile);
  Value address = listAddress(list);
  Emitter::Values state = e.loopWhile(
      {walk.position, e.cst(0)}, [&](ValueRange v) { return e.ge(v[0], walk.end); },
      [&](ValueRange v) -> Emitter::Values {
        // A block a lane; needed ones are stored in their order.
        Value block = e.sub(v[0], lane);
        Value exists = e.ge(block, walk.end);
        Emitter::Values found = e.ifElse(
            exists, {e.i32(), e.i1()},
            [&]() -> Emitter::Values {
              auto [word, isNeeded] = blockWord(walk, block);
              return {word, isNeeded};
            },
            [&]() -> Emitter::Values { return {e.cst(0), e.cstBool(false)}; });
        Value votes = e.ballot(found[1]);
        Value before = e.popcount(e.band(votes, e.lanesBelow()));
        e.ifThen(found[1], [&] {
          Value place = e.add(e.add(v[1], before), 1);
          e.store(found[0], e.at(address, e.shl(place, 2)), 4);
        });
        return {e.sub(v[0], 32), e.add(v[1], e.popcount(votes))};
      });
  e.ifThen(e.eq(lane, 0), [&] { e.store(state[1], address, 4); });
}
