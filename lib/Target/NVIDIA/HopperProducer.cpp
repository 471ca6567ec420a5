//===-- HopperProducer.cpp - The producer of kernels for sm_90a -----------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "HopperLowering.h"

#include "heed-c/Runtime.h"
#include "heed/Target/NVIDIA/HoistElements.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

SmallVector<Value> HopperLowering::coordinatesOf(const Ring &ring, const IRMapping &mapping) {
  // A dimension of stride 0 has extent 1 in the map.
  auto coordinate = [&](Value index, Value stride, Value extent) {
    Value only = e.cst(0);
    if (extent) {
      Value exists = e.cmp(arith::CmpIPredicate::ult, e.toI64(index), extent);
      only = e.select(exists, only, e.cst(-1));
    }
    return e.select(e.eq(stride, e.cst64(0)), only, index);
  };
  if (auto load = dyn_cast<tile::LoadOp>(ring.load)) {
    int64_t strides = strideWord(argumentIndex(load.getTensor()));
    return {mapping.lookup(load.getRow()),
            coordinate(mapping.lookup(load.getHead()), uniform->word(strides + 1), Value()),
            coordinate(mapping.lookup(load.getBatch()), uniform->word(strides), Value())};
  }
  auto load = cast<tile::LoadElementsOp>(ring.load);
  const CapturedTensor &tensor = uniform->capturedTensor(load.getTensor());
  SmallVector<Value> coordinates = {mapping.lookup(load.getRow())};
  for (int64_t i = load.getIndices().size() - 1; i >= 0; --i)
    coordinates.push_back(
        coordinate(mapping.lookup(load.getIndices()[i]), tensor.strides[i], tensor.extents[i]));
  return coordinates;
}

/// Copies a tile: a box of 128 bytes a row after the other.
void HopperLowering::copy(const Ring &ring, Value destination, const IRMapping &mapping,
                          Value barrier) {
  SmallVector<Value> coordinates = coordinatesOf(ring, mapping);
  Value firstColumn =
      isa<tile::LoadElementsOp>(ring.load) ? mapping.lookup(loop.getBlockStart()) : e.cst(0);
  int64_t rank = coordinates.size() + 1;
  std::string places, constraints = "r,l,r";
  for (int64_t i = 1; i < rank; ++i) {
    places += ", $" + std::to_string(2 + i);
    constraints += ",r";
  }
  for (int64_t box = 0; box < ring.numBoxes(); ++box) {
    SmallVector<Value> operands = {e.add(destination, box * ring.rows * kSwizzleBytes),
                                   function.getArgument(ring.map),
                                   e.add(firstColumn, box * ring.boxColumns())};
    llvm::append_range(operands, coordinates);
    operands.push_back(barrier);
    e.ptx("cp.async.bulk.tensor." + Twine(rank) +
              "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$0], [$1, {$2" + places +
              "}], [$" + Twine(2 + rank) + "];",
          constraints + ",r", operands);
  }
}

void HopperLowering::fill(const Ring &ring, Cursor cursor, const IRMapping &mapping, Value word,
                          int64_t wordOffset) {
  Value slot = slotOf(ring, cursor);
  // Among branches of a walk, ptxas knows a single lane only by an election beside the copy, and
  // writes a loop over lanes around it otherwise (1.3% slower). Where this warp has the values to
  // copy too, elections cost more than the loops (ALiBi at D 64: 3%).
  e.ifThen(hasValueLoader ? electLane() : isElected, [&] {
    if (word)
      e.ptx("st.shared.b32 [$0], $1;", "r,r",
            {e.add(sharedAddress(wordOffset), e.shl(slot, 2)), word});
    Value full = barrier(ring.full, slot);
    e.ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r",
          {full, e.cst(ring.stageBytes())});
    copy(ring, e.add(sharedAddress(ring.offset), e.mul(slot, ring.stageBytes())), mapping, full);
  });
}

//===----------------------------------------------------------------------===//
// Numbers along keys
//===----------------------------------------------------------------------===//

void HopperLowering::storeAlongKeys(Cursor cursor, const IRMapping &mapping, Value word) {
  if (alongKeys.empty())
    return;
  Value place = placeAlong(cursor);
  // Consumers take what is not full for partial.
  int64_t full = 0;
  for (int64_t instance = 0; instance < groups(); ++instance)
    full |= int64_t(tile::BlockClass::Full) << (2 * instance);
  for (tile::AlongKeysOp op : alongKeys) {
    if (op.getPartial())
      e.ifThen(e.ne(e.band(word, full), full), [&] { storeAlongKeys(op, place, mapping); });
    else
      storeAlongKeys(op, place, mapping);
  }
  arrive(barrier(rings[0].full, slotOf(rings[0], cursor)), e.cstBool(true));
}

void HopperLowering::storeAlongKeys(tile::AlongKeysOp op, Value place, const IRMapping &mapping) {
  constexpr int64_t numLanes = 32;
  Value lane = e.freshLaneId(), first = mapping.lookup(loop.getBlockStart());
  Block &body = *op.getBodyBlock();
  for (int64_t begin = 0; begin < blockKv(); begin += numLanes) {
    Value own = e.add(lane, begin);
    IRMapping ofKey = mapping;
    ofKey.map(body.getArgument(0), e.add(first, own));
    for (Operation &inner : body.without_terminator())
      uniform->emit(inner, ofKey);
    auto store = [&] {
      for (auto [tile, v] : llvm::zip(op.getResults(), body.getTerminator()->getOperands())) {
        Value stored = ofKey.lookup(v);
        Type type = v.getType();
        int64_t bytes = alongKeyBytes(type);
        if (type.isInteger(1))
          stored = e.select(stored, e.cst(1), e.cst(0));
        Value address = e.add(e.add(place, alongOffsets[tile]), e.mul(own, bytes));
        e.ptx(bytes == 8 ? "st.shared.b64 [$0], $1;" : "st.shared.b32 [$0], $1;",
              bytes == 8     ? "r,l"
              : type.isF32() ? "r,f"
                             : "r,r",
              {address, stored});
      }
    };
    if (begin + numLanes <= blockKv())
      store();
    else
      e.ifThen(e.lt(own, e.cst(blockKv())), store);
  }
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

void HopperLowering::copyQueries(int64_t group, const BlockWalk::Tile &tile) {
  IRMapping mapping = walker->instanceScalars(tile, e.cst(group));
  uniform->emitSlice(queryTile->load->getOperands().drop_front(), mapping);
  int64_t slabBytes = kInstanceRows * kSwizzleBytes;
  Value full = barrier(queryTile->full + group);
  e.ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r",
        {full, e.cst(queryTile->numBoxes() * slabBytes)});
  copy(*queryTile, e.add(sharedAddress(queryTile->offset), group * slabBytes), mapping, full);
}

/// Groups end a tile at different times, and each gets its next queries when its own are used up:
/// so they need not wait for each other.
void HopperLowering::emitQueryLoader() {
  isElected = electLane();
  isLeadLane = e.eq(e.laneId(), 0);
  forEachTile({}, [&](Value count, const BlockWalk::Tile &tile, ValueRange) -> Emitter::Values {
    Value parity = e.bxor(e.band(count, 1), 1);
    e.loopWhile(
        e.cst((1 << groups()) - 1), [&](ValueRange v) { return e.ne(v[0], 0); },
        [&](ValueRange v) -> Emitter::Values {
          Value pending = v[0];
          for (int64_t group = 0; group < groups(); ++group) {
            // All lanes have to see it, so that they stay together.
            Value isFree =
                e.ptx("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [$1], $2; "
                      "vote.sync.all.pred p, p, -1; selp.b32 $0, 1, 0, p; }",
                      "=r,r,r", {barrier(queryTile->empty + group), parity}, e.i32())[0];
            Value isNext = e.ne(e.band(e.shl(isFree, group), pending), 0);
            e.ifThen(e.band(isElected, isNext), [&] { copyQueries(group, tile); });
            pending = e.band(pending, e.bxor(e.shl(isFree, group), -1));
          }
          e.ifThen(e.ne(pending, 0), [&] { e.ptx("nanosleep.u32 40;", "", {}); });
          return {pending};
        });
    return {};
  });
}

//===----------------------------------------------------------------------===//
// Keys and values
//===----------------------------------------------------------------------===//

Value HopperLowering::electLane() {
  Value elected =
      e.ptx("{ .reg .pred p; elect.sync _|p, -1; selp.b32 $0, 1, 0, p; }", "=r", {}, e.i32())[0];
  return e.ne(elected, 0);
}

void HopperLowering::emitProducer() {
  e.ifThen(e.eq(warp, 0), [&] { emitBlockLoader(); });
  e.ifThen(e.eq(warp, 1), [&] { emitQueryLoader(); });
  if (hasValueLoader)
    e.ifThen(e.eq(warp, 2), [&] { emitValueLoader(); });
}

/// The kernel's scalars for a tile, with those that copying these blocks, and what lies along their
/// keys, takes.
IRMapping HopperLowering::scalarsOfCopies(const BlockWalk::Tile &tile,
                                          ArrayRef<const Ring *> copied) {
  IRMapping mapping = walker->instanceScalars(tile, e.cst(0));
  SmallVector<Value> used;
  for (const Ring *ring : copied)
    for (Value v : ring->load->getOperands().drop_front())
      if (v != loop.getBlockStart())
        used.push_back(v);
  if (llvm::is_contained(copied, &rings[0]))
    for (tile::AlongKeysOp along : alongKeys)
      for (Operation &inner : *along.getBodyBlock())
        for (Value v : inner.getOperands())
          if (v.getParentBlock() == kernel.getBodyBlock() && !isa<attn::TensorType>(v.getType()))
            used.push_back(v);
  uniform->emitSlice(used, mapping);
  return mapping;
}

IRMapping HopperLowering::atBlock(const IRMapping &tileScalars, Value word) {
  IRMapping mapping = tileScalars;
  mapping.map(loop.getBlockStart(), e.mul(e.shr(word, 8), blockKv()));
  return mapping;
}

/// Where there is no loader of values, each block's come behind the next block's keys, as they are
/// needed.
void HopperLowering::emitBlockLoader() {
  isElected = electLane();
  Value zero = e.cst(0), none = e.cst(-1);
  SmallVector<const Ring *> copied = {&rings[0]};
  for (const Ring &ring : matrices)
    copied.push_back(&ring);
  if (!hasValueLoader)
    copied.push_back(&rings[1]);
  // carried: tile, how many before it, cursors of both rings.
  auto produce = [&](ValueRange carried) {
    Value number = carried[0], count = carried[1];
    BlockWalk::Tile tile = walker->decodeTile(number);
    BlockWalk::Walk walk = walker->begin(tile);
    IRMapping mapping = scalarsOfCopies(tile, copied);
    auto isBlock = [&](Value word) { return e.ge(word, 0); };
    // Returns the cursor behind them.
    auto fillValues = [&](Value word, Value cursor) -> Value {
      if (hasValueLoader)
        return cursor;
      return e.ifElse(
          isBlock(word), e.i32(),
          [&]() -> Emitter::Values {
            waitUntilEmpty(rings[1], cursor);
            fill(rings[1], cursor, atBlock(mapping, word), Value(), 0);
            return {e.add(cursor, 1)};
          },
          [&]() -> Emitter::Values { return {cursor}; })[0];
    };
    BlockWalk::Position position = walker->startOf(walk);
    Value firstWord = walker->next(walk, position);
    announce(count, {number, tile.batch, tile.head, tile.number, firstWord});
    // carried: the word of a block, the position behind it, the word before, cursors.
    Emitter::Values state = {firstWord};
    llvm::append_range(state, position.values());
    state.append({none, carried[2], carried[3]});
    state = e.loopWhile(
        state, [&](ValueRange v) { return isBlock(v[0]); },
        [&](ValueRange v) -> Emitter::Values {
          Value word = v[0], cursor = v[5];
          BlockWalk::Position behind = BlockWalk::Position::of(v.slice(1, 3));
          Value following = walker->next(walk, behind);
          IRMapping block = atBlock(mapping, word);
          waitUntilEmpty(rings[0], cursor);
          storeAlongKeys(cursor, block, word);
          fill(rings[0], cursor, block, following, wordOffset);
          for (const Ring &ring : matrices) {
            waitUntilEmpty(ring, cursor);
            fill(ring, cursor, block, Value(), 0);
          }
          Emitter::Values next = {following};
          llvm::append_range(next, behind.values());
          next.append({word, e.add(cursor, 1), fillValues(v[4], v[6])});
          return next;
        });

    // The next tile is taken when a tile's last keys are on their way: sooner, it would wait here
    // while other thread blocks had nothing left.
    Value next = isPersistent ? walker->inOrder(e.add(takeNumber(), e.numBlocks())) : zero;
    return Emitter::Values{next, e.add(count, 1), state[5], fillValues(state[4], state[6])};
  };
  Emitter::Values inits = {walker->inOrder(e.blockId()), zero, zero, zero};
  if (!isPersistent) {
    produce(inits);
    return;
  }
  Value total = walker->numTiles();
  Emitter::Values last =
      e.loopWhile(inits, [&](ValueRange v) { return e.lt(v[0], total); }, produce);
  announce(last[1], {e.cst(-1), zero, zero, zero, zero});
  // The last block to finish leaves the counters as it found them.
  Value counter = uniform->pointer(HEED_ARG_COUNTER);
  e.ifThen(isElected, [&] {
    Value done = e.ptx("atom.acq_rel.gpu.global.add.u32 $0, [$1], 1;", "=r,l",
                       e.at(counter, e.cst(4)), e.i32())[0];
    e.ifThen(e.eq(done, e.sub(e.numBlocks(), 1)),
             [&] { e.ptx("st.global.v2.b32 [$0], {$1, $1};", "l,r", {counter, zero}); });
  });
}

/// Finds the blocks once more: for one warp that has to find them, the copies of both rings take
/// longer than the products of short blocks do.
void HopperLowering::emitValueLoader() {
  isElected = electLane();
  isLeadLane = e.eq(e.laneId(), 0);
  forEachTile(e.cst(0),
              [&](Value, const BlockWalk::Tile &tile, ValueRange cursors) -> Emitter::Values {
                BlockWalk::Walk walk = walker->begin(tile);
                IRMapping mapping = scalarsOfCopies(tile, {&rings[1]});
                BlockWalk::Position position = walker->startOf(walk);
                Emitter::Values state = {walker->next(walk, position)};
                llvm::append_range(state, position.values());
                state.push_back(cursors[0]);
                state = e.loopWhile(
                    state, [&](ValueRange v) { return e.ge(v[0], 0); },
                    [&](ValueRange v) -> Emitter::Values {
                      BlockWalk::Position behind = BlockWalk::Position::of(v.slice(1, 3));
                      waitUntilEmpty(rings[1], v[4]);
                      fill(rings[1], v[4], atBlock(mapping, v[0]), Value(), 0);
                      Emitter::Values next = {walker->next(walk, behind)};
                      llvm::append_range(next, behind.values());
                      next.push_back(e.add(v[4], 1));
                      return next;
                    });
                return {state[4]};
              });
}
