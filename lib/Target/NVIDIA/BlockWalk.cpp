//===-- BlockWalk.cpp - Which blocks of keys a thread block needs ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BlockWalk.h"

#include "heed/Target/NVIDIA/GPUTarget.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

/// A number as 64 bits, and back.
static Value toBits(Emitter &e, Value v) {
  if (v.getType().isF32())
    v = e.bitcast(e.i32(), v);
  return v.getType().isInteger(64) ? v : arith::ExtUIOp::create(e.b, e.loc, e.i64(), v).getResult();
}

static Value fromBits(Emitter &e, Value bits, Type type) {
  if (type.isF32())
    return e.bitcast(type, e.toI32(bits));
  return type.isInteger(64) ? bits : arith::TruncIOp::create(e.b, e.loc, type, bits).getResult();
}

/// A classification of more ops than this would not fit the registers of a producer, of which one
/// beside four warpgroups has fewer.
static int64_t mostInlineOps(int64_t groups) { return groups < 4 ? 36 : 14; }

BlockWalk::BlockWalk(Emitter &e, Scalars &uniform, tile::KernelOp kernel, tile::ForKVOp loop,
                     int64_t groups, int64_t instanceRows)
    : e(e), uniform(uniform), kernel(kernel), loop(loop), groups(groups),
      instanceRows(instanceRows) {
  ofLists = dependencesOfWalk(loop);
  for (auto rows : kernel.getBodyBlock()->getOps<scf::ForOp>())
    if (ofLists.loops.contains(rows) && isCollected(rows))
      sharedLoops.push_back(rows);
  hasLists = loop.walksLists();
  needsAll = !hasLists && loop.getClassify().empty() && !ofLists.onBatch && !ofLists.onHead &&
             !ofLists.onQueries;
  if (hasLists)
    for (auto op : loop.getClassify().front().getOps<scf::ForOp>())
      if (Dependences found = dependencesOf(*op); !found.onQueries) {
        summaries.push_back(op);
        ofSummaries.onBatch |= found.onBatch;
        ofSummaries.onHead |= found.onHead;
      }
  SmallVector<Value> indices;
  for (auto load : loop.getBodyBlock()->getOps<tile::LoadElementsOp>()) {
    hasMatrices = true;
    llvm::append_range(indices, load.getIndices());
  }
  ofMatrices = dependencesOf(kernel, indices);
}

BlockWalk::Dependences BlockWalk::dependencesOf(tile::KernelOp kernel, ValueRange roots) {
  Dependences found;
  SmallVector<Value> pending(roots);
  llvm::DenseSet<Value> seen;
  while (!pending.empty()) {
    Value v = pending.pop_back_val();
    if (!seen.insert(v).second)
      continue;
    found.onBatch |= v == kernel.getBatch();
    found.onHead |= v == kernel.getHead();
    found.onQueries |= v == kernel.getQueryTile();
    if (Operation *op = v.getDefiningOp())
      op->walk([&](Operation *inner) {
        if (isa<scf::ForOp, scf::WhileOp>(inner))
          found.loops.insert(inner);
        llvm::append_range(pending, inner->getOperands());
      });
  }
  return found;
}

/// Of an op with its regions.
BlockWalk::Dependences BlockWalk::dependencesOf(Operation &op) {
  SmallVector<Value> operands;
  op.walk([&](Operation *inner) { llvm::append_range(operands, inner->getOperands()); });
  return dependencesOf(kernel, operands);
}

BlockWalk::Dependences BlockWalk::dependencesOfWalk(tile::ForKVOp loop) {
  Dependences found = dependencesOf(loop->getParentOfType<tile::KernelOp>(), walkRoots(loop));
  loop.getClassify().walk([&](Operation *op) {
    if (isa<scf::ForOp, scf::WhileOp>(op))
      found.loops.insert(op);
  });
  return found;
}

tile::BlockWalk BlockWalk::choose(tile::ForKVOp loop, int64_t groups) {
  int64_t numOps = 0;
  loop.getClassify().walk([&](Operation *) { ++numOps; });
  return numOps > mostInlineOps(groups) || !dependencesOfWalk(loop).loops.empty()
             ? tile::BlockWalk::Lists
             : tile::BlockWalk::Bounds;
}

void heed::decideBlockWalk(tile::KernelOp kernel, int64_t groups) {
  kernel.walk([&](tile::ForKVOp loop) {
    if (!loop.getWalk() && !loop.getClassify().empty())
      loop.setWalk(BlockWalk::choose(loop, groups));
  });
}

/// What the bounds and the classes of blocks are computed from.
SmallVector<Value> BlockWalk::walkRoots(tile::ForKVOp loop) {
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
  return e.divCeil(uniform.word32(HEED_ARG_SQ), rows);
}

Value BlockWalk::numTiles() {
  return e.mul(tilesPerHead(), e.mul(uniform.word32(HEED_ARG_B), uniform.word32(HEED_ARG_HQ)));
}

/// What lies beside scores is larger than keys and values: heads, or batches, that read the same
/// run beside each other.
bool BlockWalk::isByHead() const { return hasMatrices && ofMatrices.onHead && !ofMatrices.onBatch; }

BlockWalk::Place BlockWalk::placeOf(Value number) {
  Value perHead = tilesPerHead(), heads = uniform.word32(HEED_ARG_HQ);
  Value batches = uniform.word32(HEED_ARG_B);
  // Without a mask tiles take equally long, and those of one head run beside each other.
  Value section = isByHead()                          ? batches
                  : hasMatrices && !ofMatrices.onHead ? heads
                  : !loop.getClassify().empty()       ? uniform.word32(HEED_ARG_SECTION)
                                                      : e.cst(1);
  Value perSection = e.mul(perHead, section);
  Value index = e.div(number, perSection), start = e.mul(index, perSection);
  Value within = e.sub(number, start);
  Value firstHead = e.mul(index, section);
  Value numHeads = e.min(section, e.sub(e.mul(batches, heads), firstHead));
  Value rank = e.div(within, numHeads);
  return {start, numHeads, firstHead, rank, e.sub(within, e.mul(rank, numHeads))};
}

BlockWalk::Tile BlockWalk::decodeTile(Value number) { return tileAt(placeOf(number)); }

BlockWalk::Tile BlockWalk::tileAt(const Place &place) {
  Value flat = e.add(place.firstHead, place.head), tile = place.rank;
  if (!loop.getClassify().empty())
    tile = e.sub(e.sub(tilesPerHead(), tile), 1);
  Value perOuter = uniform.word32(isByHead() ? HEED_ARG_B : HEED_ARG_HQ);
  Value outer = e.div(flat, perOuter);
  Value inner = e.sub(flat, e.mul(outer, perOuter));
  return {isByHead() ? inner : outer, isByHead() ? outer : inner, e.mul(tile, groups), tile};
}

Value BlockWalk::inOrder(Value number) {
  if (!sortsLists())
    return number;
  return e.ifElse(
      e.band(areListsSorted(), e.lt(number, numTiles())), e.i32(),
      [&]() -> Emitter::Values {
        Place place = placeOf(number);
        Value first = e.mul(listSetOf(tileAt(place)), tilesPerHead());
        Value tile = e.load(e.i32(), orderAddress(e.add(first, place.rank)), 4);
        Value rank = e.sub(e.sub(tilesPerHead(), tile), 1);
        Value chosen = e.add(e.add(place.start, e.mul(rank, place.numHeads)), place.head);
        // What the lists' kernel left is trusted to be an order, but not with memory.
        Value exists = e.cmp(arith::CmpIPredicate::ult, tile, tilesPerHead());
        return {e.select(exists, chosen, number)};
      },
      [&]() -> Emitter::Values { return {number}; })[0];
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

Value BlockWalk::reduceInstances(Value x, llvm::function_ref<Value(Value, Value)> combine) {
  for (int64_t mask = 1; mask < lanesPerBlock(); mask *= 2)
    x = combine(x, e.shuffleXor(x, mask));
  return x;
}

BlockWalk::Bounds BlockWalk::emitBounds(const Tile &tile) {
  Bounds bounds;
  Value instance = e.band(e.freshLaneId(), lanesPerBlock() - 1);
  bounds.scalars = instanceScalars(tile, instance);
  for (scf::ForOp rows : sharedLoops)
    emitShared(rows, bounds.scalars);
  uniform.emitSlice(walkRoots(loop), bounds.scalars);
  Value lower = bounds.scalars.lookup(loop.getLower());
  Value upper = bounds.scalars.lookup(loop.getUpper());
  Value firstQ = e.mul(bounds.scalars.lookup(kernel.getQueryTile()), instanceRows);
  Value isEmpty = e.bor(e.bor(e.ge(lower, upper), e.ge(firstQ, uniform.word32(HEED_ARG_SQ))),
                        e.ge(instance, groups));
  Value none = e.cst(std::numeric_limits<int32_t>::max());
  bounds.lower = e.select(isEmpty, none, e.div(lower, blockKv()));
  bounds.upper = e.select(isEmpty, e.cst(0), e.div(e.add(upper, blockKv() - 1), blockKv()));
  return bounds;
}

BlockWalk::Walk BlockWalk::beginBounds(const Tile &tile, const Bounds &bounds) {
  // Of all lanes, among which the instances repeat: ptxas knows the results to be uniform, and so
  // the branches that depend on them.
  Value start = reduceOverLanes("max", bounds.upper);
  Value end = reduceOverLanes("min", bounds.lower);
  return {tile, e.sub(start, 1), end, Value()};
}

BlockWalk::Walk BlockWalk::begin(const Tile &tile) {
  if (!hasLists)
    return beginBounds(tile, emitBounds(tile));
  Walk walk{tile, Value(), Value(), Value()};
  walk.list = e.add(e.mul(listSetOf(tile), tilesPerHead()), tile.number);
  walk.end = e.load(e.i32(), listAddress(walk.list), 4);
  walk.start = e.cst(0);
  return walk;
}

Value BlockWalk::numBlocks() { return e.divCeil(uniform.word32(HEED_ARG_SKV), blockKv()); }

Value BlockWalk::numGroups() { return e.divCeil(numBlocks(), kGroupBlocks); }

bool BlockWalk::hasGroups() {
  return hasLists &&
         llvm::all_of(loop.getClassify().front().getOps<scf::ForOp>(), [&](scf::ForOp op) {
           return isCollected(op) && llvm::is_contained(summaries, op);
         });
}

Value BlockWalk::listAddress(Value list) {
  Value words = e.mul(e.toI64(list), e.toI64(e.add(numBlocks(), 1)));
  return e.at(uniform.pointer(HEED_ARG_LISTS), e.mul(words, 4));
}

Value BlockWalk::listSetOf(const Tile &tile) {
  Value index = ofLists.onBatch ? tile.batch : e.cst(0);
  return ofLists.onHead ? e.add(e.mul(index, uniform.word32(HEED_ARG_HQ)), tile.head) : index;
}

Value BlockWalk::numLists() {
  Value sets = ofLists.onBatch ? uniform.word32(HEED_ARG_B) : e.cst(1);
  if (ofLists.onHead)
    sets = e.mul(sets, uniform.word32(HEED_ARG_HQ));
  return e.mul(sets, tilesPerHead());
}

Value BlockWalk::orderAddress(Value list) { return e.at(listAddress(numLists()), e.shl(list, 2)); }

Value BlockWalk::classOf(const Bounds &bounds, Value number, bool isGroup) {
  Value full = e.cst(int64_t(tile::BlockClass::Full));
  Value partial = e.cst(int64_t(tile::BlockClass::Partial));
  Value skipped = e.cst(int64_t(tile::BlockClass::Skipped));
  Value skv = uniform.word32(HEED_ARG_SKV);
  Value block = number, last = number;
  if (isGroup) {
    block = e.mul(number, kGroupBlocks);
    last = e.min(e.add(block, kGroupBlocks - 1), e.sub(numBlocks(), 1));
  }
  Value first = e.mul(block, blockKv()), end = e.mul(e.add(last, 1), blockKv());
  Value cls = full;
  if (!loop.getClassify().empty()) {
    Block &classify = loop.getClassify().front();
    IRMapping mapping = bounds.scalars;
    mapping.map(classify.getArgument(0), first);
    mapping.map(classify.getArgument(1), e.min(end, skv));
    int64_t word = 0;
    for (Operation &op : classify.without_terminator()) {
      auto summary = dyn_cast<scf::ForOp>(op);
      if (summary && llvm::is_contained(summaries, summary)) {
        mapping.map(summary.getResults(), isGroup
                                              ? loadSummary(summary, mapping, number, true, word)
                                              : summaryOf(summary, mapping, number, word));
        word += summary.getNumResults();
      } else {
        uniform.emit(op, mapping);
      }
    }
    cls = mapping.lookup(classify.getTerminator()->getOperand(0));
  }
  // Keys beyond the end are masked like others.
  cls = e.select(e.band(e.lt(skv, end), e.eq(cls, full)), partial, cls);
  cls = e.select(e.lt(block, bounds.upper), cls, skipped);
  return e.select(e.lt(last, bounds.lower), e.cst(kDone), cls);
}

//===----------------------------------------------------------------------===//
// Summaries
//===----------------------------------------------------------------------===//

int64_t BlockWalk::summaryWords() const {
  int64_t words = 0;
  for (scf::ForOp op : summaries)
    words += scf::ForOp(op).getNumResults();
  return words;
}

Value BlockWalk::summaryAddress(const IRMapping &scalars, Value number, bool isGroup) {
  Value index = e.cst(0);
  if (ofSummaries.onBatch)
    index = scalars.lookup(kernel.getBatch());
  if (ofSummaries.onHead)
    index = e.add(e.mul(index, uniform.word32(HEED_ARG_HQ)), scalars.lookup(kernel.getHead()));
  Value place =
      e.add(e.mul(e.toI64(index), e.toI64(isGroup ? numGroups() : numBlocks())), e.toI64(number));
  if (isGroup) {
    Value sets = ofSummaries.onBatch ? uniform.word32(HEED_ARG_B) : e.cst(1);
    if (ofSummaries.onHead)
      sets = e.mul(sets, uniform.word32(HEED_ARG_HQ));
    place = e.add(place, e.mul(e.toI64(sets), e.toI64(numBlocks())));
  }
  return e.at(uniform.pointer(HEED_ARG_SUMMARIES), e.mul(place, 8 * summaryWords()));
}

Emitter::Values BlockWalk::loadSummary(scf::ForOp op, const IRMapping &mapping, Value number,
                                       bool isGroup, int64_t word) {
  // Lanes also evaluate what does not exist.
  Value count = isGroup ? numGroups() : numBlocks();
  Value existing = e.max(e.min(number, e.sub(count, 1)), e.cst(0));
  Value address = e.at(summaryAddress(mapping, existing, isGroup), e.cst(8 * word));
  Emitter::Values values;
  for (Type type : op.getResultTypes()) {
    values.push_back(fromBits(e, e.load(e.i64(), address, 8), type));
    address = e.at(address, e.cst(8));
  }
  return values;
}

Emitter::Values BlockWalk::summaryOf(scf::ForOp op, const IRMapping &mapping, Value block,
                                     int64_t word) {
  // Where few tiles would share summaries, there are none.
  return e.ifElse(
      e.ne(uniform.word(HEED_ARG_SUMMARIES), 0), op.getResultTypes(),
      [&] { return loadSummary(op, mapping, block, /*isGroup=*/false, word); },
      [&] {
        IRMapping inner = mapping;
        uniform.emit(*op, inner);
        Emitter::Values values;
        for (Value result : op.getResults())
          values.push_back(inner.lookup(result));
        return values;
      });
}

/// A lane's number, of the types that `toBits` takes.
static Value fromOtherLane(Emitter &e, Value x, int64_t mask) {
  if (x.getType().isF32())
    return e.shuffleXor(x, mask);
  auto exchange = [&](Value word) { return e.shuffleXor(word, mask); };
  Value bits = toBits(e, x), low = exchange(e.toI32(bits));
  if (!x.getType().isInteger(64))
    return fromBits(e, arith::ExtUIOp::create(e.b, e.loc, e.i64(), low), x.getType());
  Value high = exchange(e.toI32(e.shr(bits, 32)));
  auto wide = [&](Value word) { return arith::ExtUIOp::create(e.b, e.loc, e.i64(), word); };
  return e.bor(e.shl(wide(high), 32), wide(low));
}

/// The op by which a result of a loop collects what its iterations find, each for a key, if it is
/// one that may be applied to parts in any order, and to a part twice.
static Operation *collectorOf(scf::ForOp loop, unsigned result) {
  Operation *op = loop.getYieldedValues()[result].getDefiningOp();
  Value carried = loop.getRegionIterArg(result);
  bool collects = isa_and_present<arith::MinSIOp, arith::MaxSIOp, arith::MinUIOp, arith::MaxUIOp,
                                  arith::MinNumFOp, arith::MaxNumFOp, arith::MinimumFOp,
                                  arith::MaximumFOp, arith::AndIOp, arith::OrIOp>(op) &&
                  carried.hasOneUse() && op->hasOneUse() &&
                  llvm::is_contained(op->getOperands(), carried);
  return collects ? op : nullptr;
}

bool BlockWalk::isCollected(scf::ForOp loop) {
  return matchPattern(loop.getStep(), m_One()) &&
         llvm::all_of(llvm::seq(loop.getNumResults()),
                      [&](unsigned i) { return collectorOf(loop, i) != nullptr; });
}

void BlockWalk::collect(scf::ForOp loop, int64_t firstMask, IRMapping &mapping) {
  for (auto [i, result] : llvm::enumerate(loop.getResults())) {
    Operation *op = collectorOf(loop, i);
    Value x = mapping.lookup(result);
    for (int64_t mask = firstMask; mask < kNumLanes; mask *= 2) {
      IRMapping operands;
      Value carried = loop.getRegionIterArg(i);
      for (Value operand : op->getOperands())
        operands.map(operand, operand == carried ? x : fromOtherLane(e, x, mask));
      x = e.b.clone(*op, operands)->getResult(0);
    }
    mapping.map(result, x);
  }
}

std::pair<Value, Value> BlockWalk::partOf(Value first, Value end, Value part, Value size) {
  first = e.min(e.add(first, e.mul(part, size)), e.sub(end, 1));
  return {first, e.min(e.add(first, size), end)};
}

void BlockWalk::emitShared(scf::ForOp loop, IRMapping &mapping) {
  loop->walk([&](Operation *inner) {
    for (Value operand : inner->getOperands())
      if (!loop.getRegion().isAncestor(operand.getParentRegion()))
        uniform.emitSlice(operand, mapping);
  });
  int64_t numParts = kNumLanes / lanesPerBlock();
  Value part = e.div(e.freshLaneId(), lanesPerBlock());
  Value first = mapping.lookup(loop.getLowerBound()), end = mapping.lookup(loop.getUpperBound());
  Value count = e.max(e.sub(end, first), e.cst(0));
  Value perLane = e.shr(e.add(count, numParts - 1), llvm::Log2_64(numParts));
  IRMapping own = mapping;
  auto [ownFirst, ownEnd] = partOf(first, end, part, perLane);
  own.map(loop.getLowerBound(), ownFirst);
  own.map(loop.getUpperBound(), ownEnd);
  uniform.emit(*loop, own);
  collect(loop, lanesPerBlock(), own);
  for (Value result : loop.getResults())
    mapping.map(result, own.lookup(result));
}

void BlockWalk::emitSummarise() {
  // Thread blocks of a batch and head (of those that have summaries of their own) follow each
  // other, each with a group.
  Value list = e.div(e.blockId(), numGroups());
  Value warp = e.shuffleIndex(e.shr(e.threadId(), 5), e.cst(0)), lane = e.laneId();
  Value group = e.sub(e.blockId(), e.mul(list, numGroups()));
  Value firstBlock = e.mul(group, kGroupBlocks), block = e.add(firstBlock, warp);
  IRMapping ofList = uniform.arguments();
  Value batch = list, head = e.cst(0);
  if (ofSummaries.onHead) {
    batch = e.div(list, uniform.word32(HEED_ARG_HQ));
    head = e.sub(list, e.mul(batch, uniform.word32(HEED_ARG_HQ)));
  }
  ofList.map(kernel.getBatch(), batch);
  ofList.map(kernel.getHead(), head);
  auto store = [&](const IRMapping &mapping, Value number, bool isGroup) {
    Value address = summaryAddress(mapping, number, isGroup);
    for (scf::ForOp summary : summaries)
      for (Value result : summary.getResults()) {
        e.store(toBits(e, mapping.lookup(result)), address, 8);
        address = e.at(address, e.cst(8));
      }
  };
  // Each lane has a part of the keys, if what it finds can be put together; else all have all.
  bool isShared = llvm::all_of(summaries, isCollected);
  e.ifThen(e.lt(block, numBlocks()), [&] {
    IRMapping mapping = ofList;
    Block &classify = loop.getClassify().front();
    Value skv = uniform.word32(HEED_ARG_SKV);
    Value first = e.mul(block, blockKv()), end = e.min(e.add(first, blockKv()), skv);
    if (isShared)
      std::tie(first, end) =
          partOf(first, end, lane, e.cst(llvm::divideCeil(blockKv(), kNumLanes)));
    mapping.map(classify.getArgument(0), first);
    mapping.map(classify.getArgument(1), end);
    // What the loops are computed from, and some that nothing comes of.
    for (Operation &op : classify.without_terminator()) {
      if (dependencesOf(op).onQueries)
        continue;
      op.walk([&](Operation *inner) {
        for (Value operand : inner->getOperands())
          if (operand.getParentBlock() == kernel.getBodyBlock() &&
              !isa<attn::TensorType>(operand.getType()))
            uniform.emitSlice(operand, mapping);
      });
      uniform.emit(op, mapping);
      auto summary = dyn_cast<scf::ForOp>(op);
      if (isShared && summary && llvm::is_contained(summaries, summary))
        collect(summary, 1, mapping);
    }
    e.ifThen(e.eq(lane, 0), [&] { store(mapping, block, /*isGroup=*/false); });
  });
  if (!hasGroups())
    return;
  // The first warp puts together what all of them have stored.
  e.barrierAll();
  e.ifThen(e.eq(warp, 0), [&] {
    IRMapping mapping = ofList;
    Value own =
        e.min(e.add(firstBlock, e.min(lane, e.cst(kGroupBlocks - 1))), e.sub(numBlocks(), 1));
    int64_t word = 0;
    for (scf::ForOp summary : summaries) {
      mapping.map(summary.getResults(),
                  loadSummary(summary, mapping, own, /*isGroup=*/false, word));
      collect(summary, 1, mapping);
      word += summary.getNumResults();
    }
    e.ifThen(e.eq(lane, 0), [&] { store(mapping, group, /*isGroup=*/true); });
  });
}

BlockWalk::Position BlockWalk::startOf(const Walk &walk) {
  return {e.cst(0), e.cst(0), walk.start};
}

BlockWalk::Position BlockWalk::evaluateFrom(const Walk &walk, const Bounds &bounds, Value block) {
  Value own = e.sub(block, e.div(e.freshLaneId(), lanesPerBlock()));
  return evaluateBlocks(walk, bounds, own, e.sub(block, blocksOfWarp()));
}

BlockWalk::Position BlockWalk::evaluateBlocks(const Walk &walk, const Bounds &bounds, Value own,
                                              Value next) {
  Value instance = e.band(e.freshLaneId(), lanesPerBlock() - 1);
  Value cls = classOf(bounds, own);
  Value concerns = e.band(e.ne(cls, 0), e.ne(cls, kDone));
  Value bits = arith::ShLIOp::create(e.b, e.loc, cls, e.shl(instance, 1));
  // A bit beyond the classes says whether any instance needs the block.
  bits = e.bor(bits, e.select(concerns, e.cst(1 << 16), e.cst(0)));
  bits = reduceInstances(bits, [&](Value x, Value y) { return e.bor(x, y); });
  Value isNeeded = e.band(e.ge(own, walk.end), e.ne(e.band(bits, 1 << 16), 0));
  Value word = e.bor(e.mul(own, 256), e.band(bits, 255));
  Value votes = e.ballot(e.band(isNeeded, e.eq(instance, 0)));
  return {word, votes, next};
}

Value BlockWalk::evaluateGroups(const Bounds &bounds, Value own) {
  Value cls = classOf(bounds, own, /*isGroup=*/true);
  Value concerns = e.band(e.ne(cls, 0), e.ne(cls, kDone));
  Value any = reduceInstances(e.select(concerns, e.cst(1), e.cst(0)),
                              [&](Value x, Value y) { return e.bor(x, y); });
  return e.ne(any, 0);
}

BlockWalk::Position BlockWalk::readList(const Walk &walk, Value place) {
  Value own = e.add(place, e.laneId()), exists = e.lt(own, walk.end);
  Value address = e.at(listAddress(e.fresh(walk.list)), e.add(e.shl(own, 2), 4));
  Value word = e.loadIf("b32", address, exists);
  return {word, e.ballot(exists), e.add(place, kNumLanes)};
}

Value BlockWalk::nextOfAll(const Walk &walk, Position &position) {
  Value block = position.next, end = e.mul(e.add(block, 1), blockKv());
  Value cls =
      e.select(e.lt(uniform.word32(HEED_ARG_SKV), end), e.cst(int64_t(tile::BlockClass::Partial)),
               e.cst(int64_t(tile::BlockClass::Full)));
  // Two bits of ones for each instance that has queries; the others are done.
  Value rows = e.sub(uniform.word32(HEED_ARG_SQ), e.mul(walk.tile.first, instanceRows));
  Value count = e.min(e.divCeil(rows, instanceRows), e.cst(groups));
  Value mask = e.sub(arith::ShLIOp::create(e.b, e.loc, e.cst(1), e.shl(count, 1)), 1);
  Value bits = e.bor(e.band(e.mul(cls, 0x55), mask), e.band(e.bxor(mask, -1), 255));
  position.next = e.sub(block, 1);
  return e.select(e.ge(block, walk.end), e.bor(e.mul(block, 256), bits), e.cst(-1));
}

Value BlockWalk::next(const Walk &walk, Position &position) {
  if (needsAll)
    return nextOfAll(walk, position);
  auto hasMore = [&](Value place) {
    return hasLists ? e.lt(place, walk.end) : e.ge(place, walk.end);
  };
  position = Position::of(e.loopWhile(
      position.values(), [&](ValueRange v) { return e.band(e.eq(v[1], 0), hasMore(v[2])); },
      [&](ValueRange v) {
        // Bounds are computed again for each step: a producer has few registers.
        return (hasLists ? readList(walk, v[2]) : evaluateFrom(walk, emitBounds(walk.tile), v[2]))
            .values();
      }));
  Value isFound = e.ne(position.remaining, 0);
  Value word = e.shuffleIndex(position.words, e.trailingZeros(position.remaining));
  position.remaining = e.band(position.remaining, e.sub(position.remaining, 1));
  return e.select(isFound, word, e.cst(-1));
}

void BlockWalk::emitClassify(Value words) {
  // List l belongs to tile l % tiles of head l / tiles (of the batches and heads that lists depend
  // on).
  Value list = e.blockId(), lane = e.laneId(), perHead = tilesPerHead();
  Value warp = e.shuffleIndex(e.shr(e.threadId(), 5), e.cst(0));
  Value index = e.div(list, perHead);
  Value number = e.sub(list, e.mul(index, perHead));
  Tile tile{e.cst(0), e.cst(0), e.mul(number, groups), number};
  if (ofLists.onHead) {
    Value heads = uniform.word32(HEED_ARG_HQ), batch = e.div(index, heads);
    tile.head = e.sub(index, e.mul(batch, heads));
    index = batch;
  }
  if (ofLists.onBatch)
    tile.batch = index;
  Bounds bounds = emitBounds(tile);
  Walk walk = beginBounds(tile, bounds);
  Value address = listAddress(list);

  // Blocks and groups that a step evaluates. Of groups the needed ones are noted in shared memory.
  int64_t atOnce = kClassifyWarps * blocksOfWarp();
  Value place = e.add(e.mul(warp, blocksOfWarp()), e.div(lane, lanesPerBlock()));
  Value noted = e.add(words, 4 * kCountWords);
  // Stores something for each lane that `votes` has, in the order of lanes and warps, and returns
  // how many they are. `turn` is 0 and 1 in turns: the counts of the turn before may still be read.
  auto append = [&](Value votes, Value turn, llvm::function_ref<void(Value)> store) -> Value {
    Value base = e.add(words, e.mul(turn, 4 * kClassifyWarps));
    e.ifThen(e.eq(lane, 0), [&] {
      e.ptx("st.shared.b32 [$0], $1;", "r,r", {e.add(base, e.shl(warp, 2)), e.popcount(votes)});
    });
    e.barrierAll();
    Value count =
        e.ptx("{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }", "=&r,r,b",
              {e.add(base, e.shl(lane, 2)), e.lt(lane, e.cst(kClassifyWarps))}, e.i32())[0];
    Value before = reduceOverLanes("add", e.select(e.lt(lane, warp), count, e.cst(0)));
    before = e.add(before, e.popcount(e.band(votes, e.lanesBelow())));
    Value own = arith::ShRUIOp::create(e.b, e.loc, votes, lane);
    e.ifThen(e.ne(e.band(own, 1), 0), [&] { store(before); });
    return reduceOverLanes("add", count);
  };
  Value firstGroup = e.div(walk.start, kGroupBlocks), lastGroup = e.div(walk.end, kGroupBlocks);
  // A few are not worth asking about, nor those of which nothing was put together.
  Value isAsked = e.lt(e.cst(kFewGroups), e.sub(firstGroup, lastGroup));
  if (!summaries.empty())
    isAsked = e.band(isAsked, e.ne(uniform.word(HEED_ARG_SUMMARIES), 0));
  Value isEmpty = e.lt(walk.start, walk.end);
  // carried: the first group of a step, the length of the list so far, the turn.
  Emitter::Values state = e.loopWhile(
      {e.select(isEmpty, e.cst(-1), firstGroup), e.cst(0), e.cst(0)},
      [&](ValueRange v) { return e.band(e.ge(v[0], lastGroup), e.ge(v[0], 0)); },
      [&](ValueRange v) -> Emitter::Values {
        Value group = e.sub(v[0], place), isNeeded = e.ge(group, lastGroup);
        if (hasGroups())
          isNeeded = e.ifElse(
              isAsked, e.i1(),
              [&]() -> Emitter::Values {
                return {e.band(isNeeded, evaluateGroups(bounds, group))};
              },
              [&]() -> Emitter::Values { return {isNeeded}; })[0];
        Value isFirstLane = e.eq(e.band(lane, lanesPerBlock() - 1), 0);
        Value numNoted = append(e.ballot(e.band(isNeeded, isFirstLane)), v[2], [&](Value before) {
          e.ptx("st.shared.b32 [$0], $1;", "r,r", {e.add(noted, e.shl(before, 2)), group});
        });
        e.barrierAll();
        // carried: how many groups are done, the list's length, the turn.
        Emitter::Values inner = e.loopWhile(
            {e.cst(0), v[1], e.bxor(v[2], 1)}, [&](ValueRange w) { return e.lt(w[0], numNoted); },
            [&](ValueRange w) -> Emitter::Values {
              Value number = e.add(w[0], e.div(place, kGroupBlocks));
              Value exists = e.lt(number, numNoted);
              Value ofLane = e.ptx("{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }", "=&r,r,b",
                                   {e.add(noted, e.shl(number, 2)), exists}, e.i32())[0];
              Value within = e.sub(e.cst(kGroupBlocks - 1), e.band(place, kGroupBlocks - 1));
              Value own = e.select(exists, e.add(e.mul(ofLane, kGroupBlocks), within), e.cst(-1));
              Position found = evaluateBlocks(walk, bounds, own, own);
              Value numFound = append(found.remaining, w[2], [&](Value before) {
                Value index = e.add(e.add(w[1], before), 1);
                e.store(found.words, e.at(address, e.shl(index, 2)), 4);
              });
              return {e.add(w[0], atOnce / kGroupBlocks), e.add(w[1], numFound), e.bxor(w[2], 1)};
            });
        return {e.sub(v[0], atOnce), inner[1], inner[2]};
      });
  e.ifThen(e.eq(e.threadId(), 0), [&] { e.store(state[1], address, 4); });
  if (sortsLists())
    e.ifThen(areListsSorted(), [&] { sortLists(words); });
}

Value BlockWalk::areListsSorted() {
  return e.cmp(arith::CmpIPredicate::ule, numLists(), e.cst(kMostSorted));
}

/// By the thread block that ends last: the others have left their lists' lengths.
void BlockWalk::sortLists(Value words) {
  Value thread = e.threadId(), total = numLists(), perHead = tilesPerHead();
  e.barrierAll(); // counts are read
  e.ifThen(e.eq(thread, 0), [&] {
    // The length is there before it is counted; wraps to 0, as it was.
    Value before =
        e.ptx("fence.acq_rel.gpu; atom.acq_rel.gpu.global.inc.u32 $0, [$1], $2;", "=r,l,r",
              {e.at(uniform.pointer(HEED_ARG_COUNTER), e.cst(8)), e.sub(total, 1)}, e.i32())[0];
    e.ptx("st.shared.b32 [$0], $1;", "r,r", {words, before});
  });
  e.barrierAll();
  Value before = e.ptx("ld.shared.b32 $0, [$1];", "=r,r", words, e.i32())[0];
  e.ifThen(e.eq(before, e.sub(total, 1)), [&] {
    e.ptx("fence.acq_rel.gpu;", "", {});
    Value lengths = e.add(words, 4);
    auto lengthOf = [&](Value list) {
      return e.ptx("ld.shared.b32 $0, [$1];", "=r,r", e.add(lengths, e.shl(list, 2)), e.i32())[0];
    };
    // Not scf.for, which unrollReads unrolls: it is for loops over captured tensors.
    auto forEachOwnList = [&](llvm::function_ref<void(Value)> body) {
      e.loopWhile(
          thread, [&](ValueRange v) { return e.lt(v[0], total); },
          [&](ValueRange v) -> Emitter::Values {
            body(v[0]);
            return {e.add(v[0], kNumLanes * kClassifyWarps)};
          });
    };
    forEachOwnList([&](Value list) {
      Value length =
          e.ptx("ld.relaxed.gpu.global.b32 $0, [$1];", "=r,l", listAddress(list), e.i32())[0];
      e.ptx("st.shared.b32 [$0], $1;", "r,r", {e.add(lengths, e.shl(list, 2)), length});
    });
    e.barrierAll();
    // A list's place is the number of those before it: longer ones, and as long ones of later
    // queries.
    forEachOwnList([&](Value list) {
      Value first = e.mul(e.div(list, perHead), perHead), end = e.add(first, perHead);
      Value own = lengthOf(list);
      auto isBefore = [&](Value other) {
        Value length = lengthOf(other);
        return e.bor(e.lt(own, length), e.band(e.eq(own, length), e.lt(list, other)));
      };
      // Four at once, so that reads do not wait for each other.
      Value rank = e.loopWhile(
          {first, e.cst(0)}, [&](ValueRange v) { return e.lt(v[0], end); },
          [&](ValueRange v) -> Emitter::Values {
            constexpr int64_t numAtOnce = 4;
            Value rank = v[1];
            for (int64_t i = 0; i < numAtOnce; ++i) {
              Value other = e.add(v[0], i);
              // The list itself is not before itself.
              other = e.select(e.lt(other, end), other, list);
              rank = e.add(rank, e.select(isBefore(other), e.cst(1), e.cst(0)));
            }
            return {e.add(v[0], numAtOnce), rank};
          })[1];
      e.store(e.sub(list, first), orderAddress(e.add(first, rank)), 4);
    });
  });
}

Value BlockWalk::reduceOverLanes(llvm::StringRef operation, Value x) {
  return e.ptx("redux.sync." + operation + ".s32 $0, $1, -1;", "=r,r", x, e.i32())[0];
}
