//===-- HopperLowering.cpp - Kernels for sm_90a ---------------------------===//
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

/// Bytes at the start of shared memory for barriers and words; also the alignment of tiles.
static constexpr int64_t kHeaderBytes = 1024;

HopperLowering::Ring HopperLowering::ringOf(tile::LoadOp load, int64_t rows, int64_t stages) {
  Ring ring;
  ring.load = load;
  ring.tensor = load.getTensor();
  ring.rows = rows;
  ring.columns = load.getType().getNumColumns();
  ring.stages = stages;
  return ring;
}

HopperLowering::HopperLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule)
    : FragmentLowering(kernel, schedule), isPersistent(schedule.getBlocksPerSm() > 0),
      element(tensorType(0).getElementType()) {}

LogicalResult HopperLowering::run() {
  if (failed(collect()))
    return failure();
  layOut();
  if (tilesOffset + 2 * kTileBytes > kHeaderBytes)
    return kernel.emitError("expects fewer stages for sm_90a: barriers take ")
           << tilesOffset + 2 * kTileBytes << " of " << kHeaderBytes << " bytes";
  const GPUTarget *target = lookupGPUTarget(schedule.getTarget());
  if (target && sharedBytes > target->sharedBytes)
    return kernel.emitError("its schedule takes ")
           << sharedBytes << " bytes of shared memory, of which " << schedule.getTarget() << " has "
           << target->sharedBytes;
  return emitKernel();
}

//===----------------------------------------------------------------------===//
// What the kernel consists of
//===----------------------------------------------------------------------===//

/// Whether `lowerOp` knows an op where it stands.
static bool hasLowering(Operation &op, bool isInLoop) {
  if (!isa<tile::TileDialect>(op.getDialect())) // a scalar
    return true;
  return isInLoop
             ? isa<tile::LoadOp, tile::LoadElementsOp, tile::AlongKeysOp, tile::FillOp, tile::DotOp,
                   tile::MapOp, tile::MaskOp, tile::OnlineSoftmaxOp, tile::ScaleRowsOp>(op)
             : isa<tile::LoadOp, tile::FillOp, tile::ScaleOp, tile::ForKVOp, tile::NormalizeOp,
                   tile::StoreOp>(op);
}

/// Refuses what cannot be lowered. Emission must not fail: it could not go on without registers of
/// the op that failed.
LogicalResult HopperLowering::collect() {
  Value queries;
  for (Operation &op : kernel.getBodyBlock()->without_terminator()) {
    if (!hasLowering(op, /*isInLoop=*/false))
      return op.emitError("has no lowering outside of the loop for sm_90a");
    if (auto found = dyn_cast<tile::ForKVOp>(op)) {
      if (loop)
        return found.emitError("expects one loop over keys for sm_90a");
      loop = found;
    }
    if (auto load = dyn_cast<tile::LoadOp>(op)) {
      if (queryTile)
        return load.emitError("expects one tile outside of the loop for sm_90a");
      queryTile = ringOf(load, tileRows(), /*stages=*/1);
      queries = load;
    }
    if (auto scale = dyn_cast<tile::ScaleOp>(op)) {
      if (scale.getTile() != queries)
        return scale.emitError("expects to scale the queries for sm_90a");
      queries = scale; // in place: what was scaled is gone
    }
    auto store = dyn_cast<tile::StoreOp>(op);
    if (store && store.getTile().getType().getRank() == 2)
      outputStore = store;
  }
  if (!loop || !queryTile || !outputStore)
    return kernel.emitError("expects queries, a loop over keys and an output for sm_90a");
  if (int64_t(loop.getStep()) != blockKv())
    return loop.emitError("expects the schedule's block_kv as its step for sm_90a, ")
           << loop.getStep() << " is not " << blockKv();
  return collectLoop(queries);
}

LogicalResult HopperLowering::collectLoop(Value queries) {
  Block &body = *loop.getBodyBlock();
  for (Operation &op : body.without_terminator())
    if (!hasLowering(op, /*isInLoop=*/true))
      return op.emitError("has no lowering inside of the loop for sm_90a");

  // Blocks are needed first by the products whose results are worked on.
  SmallVector<Ring> accumulated;
  for (auto load : body.getOps<tile::LoadOp>()) {
    auto dot = load->hasOneUse() ? dyn_cast<tile::DotOp>(*load->user_begin()) : tile::DotOp();
    if (!dot || dot.getRhs() != load.getResult())
      return load.emitError("expects to be the right operand of one product for sm_90a");
    Ring ring = ringOf(load, load.getType().getNumRows(), schedule.getStages());
    if (load.getRow() != loop.getBlockStart() || ring.rows != blockKv())
      return load.emitError("expects the loop's block of ")
             << blockKv() << " keys for sm_90a, found "
             << (load.getRow() != loop.getBlockStart() ? "another row" : "another number of rows");
    (dot.getAcc() ? accumulated : rings).push_back(ring);
  }
  llvm::append_range(rings, accumulated);
  for (auto along : body.getOps<tile::AlongKeysOp>()) {
    if (along.getColumn() != loop.getBlockStart())
      return along.emitError("expects the loop's block of keys for sm_90a");
    alongKeys.push_back(along);
  }
  for (auto load : body.getOps<tile::LoadElementsOp>()) {
    if (load.getColumn() != loop.getBlockStart() ||
        load.getRow() != cast<tile::LoadOp>(queryTile->load).getRow() || !load->hasOneUse() ||
        !isa<tile::MapOp, tile::MaskOp>(*load->user_begin()))
      return load.emitError("expects the rows and keys of the scores, and one map or mask beside "
                            "which it lies, for sm_90a");
    if (load.getTensor().getType().getElementType().isInteger(64) || load.getIndices().size() > 3)
      return load.emitError("expects at most five dimensions, of elements of at most 32 bits, for "
                            "sm_90a");
    Ring ring;
    ring.load = load;
    ring.tensor = load.getTensor();
    ring.rows = tileRows();
    ring.columns = blockKv();
    ring.elementBytes =
        llvm::divideCeil(load.getTensor().getType().getElementType().getIntOrFloatBitWidth(), 8);
    ring.stages = schedule.getStages();
    matrices.push_back(ring);
  }
  for (Operation &op : body)
    if (isa<tile::MapOp, tile::MaskOp>(op))
      for (Value v : op.getOperands())
        if (isa<tile::TileType>(v.getType()) && v != op.getOperand(0) &&
            !isa_and_present<tile::AlongKeysOp, tile::LoadElementsOp>(v.getDefiningOp()))
          return op.emitError("expects tiles of tile.along_keys and tile.load_elements beside "
                              "scores for sm_90a");
  auto dots = body.getOps<tile::DotOp>();
  auto softmaxes = body.getOps<tile::OnlineSoftmaxOp>();
  if (rings.size() != 2 || accumulated.size() != 1 || !llvm::hasNItems(dots, 2))
    return loop.emitError("expects one product of scores and one accumulated for sm_90a");
  if (!llvm::hasSingleElement(softmaxes))
    return loop.emitError("expects one softmax for sm_90a");

  auto product = cast<tile::DotOp>(*rings[0].load->user_begin());
  auto accumulation = cast<tile::DotOp>(*rings[1].load->user_begin());
  tile::OnlineSoftmaxOp softmax = *softmaxes.begin();
  if (product.getLhs() != queries || !product.getTransposeRhs() || product.getTransposeLhs())
    return product.emitError("expects queries times transposed keys for sm_90a");
  Value scores = softmax.getScores();
  llvm::SmallPtrSet<Operation *, 4> stages;
  while (isa_and_present<tile::MapOp, tile::MaskOp>(scores.getDefiningOp())) {
    stages.insert(scores.getDefiningOp());
    scores = scores.getDefiningOp()->getOperand(0);
  }
  if (scores != product)
    return softmax.emitError("expects scores, mapped and masked at most, for sm_90a");
  for (const Ring &ring : matrices) // given back when the softmax knows the scores
    if (!stages.contains(*ring.load->user_begin()))
      return ring.load->emitError("expects to lie beside the softmax's scores for sm_90a");
  auto scaled = accumulation.getAcc().getDefiningOp<tile::ScaleRowsOp>();
  if (accumulation.getLhs() != softmax.getWeights() || accumulation.getTransposeLhs() ||
      accumulation.getTransposeRhs() || !scaled || scaled.getFactors() != softmax.getRescale())
    return accumulation.emitError(
        "expects the softmax's weights times values and a rescaled accumulator for sm_90a");

  // The loop's result for a tile that it carries.
  auto resultOf = [&](Value before, Value after) {
    for (auto [iter, yielded, result] :
         llvm::zip(loop.getIterArgs(), body.getTerminator()->getOperands(), loop.getResults()))
      if (iter == before && yielded == after)
        return Value(result);
    return Value();
  };
  Value reference = resultOf(softmax.getReference(), softmax.getNewReference());
  Value sum = resultOf(softmax.getSum(), softmax.getNewSum());
  Value acc = resultOf(scaled.getTile(), accumulation);
  if (!reference || !sum || !acc || loop.getNumResults() != 3)
    return loop.emitError(
               "expects to carry the softmax's reference and sum and the accumulator for "
               "sm_90a, found ")
           << (!reference ? "no reference"
               : !sum     ? "no sum"
               : !acc     ? "no accumulator"
                          : "more");
  for (auto normalize : kernel.getBodyBlock()->getOps<tile::NormalizeOp>())
    if (normalize.getAcc() != acc || normalize.getReference() != reference ||
        normalize.getSum() != sum)
      return normalize.emitError(
          "expects the loop's accumulator, reference and sum, in this order, for sm_90a");
  return success();
}

void HopperLowering::layOut() {
  int64_t offset = kHeaderBytes;
  auto place = [&](Ring &ring, int64_t map, int64_t slots) {
    ring.offset = offset;
    offset += ring.stages * ring.stageBytes();
    ring.map = map;
    ring.full = numBarriers;
    ring.empty = numBarriers + slots;
    numBarriers += 2 * slots;
  };
  place(*queryTile, 0, groups());
  int64_t outputBytes =
      tileRows() * countBoxes(tensorType(3).getExtents()[3], kElementBytes) * kSwizzleBytes;
  // Without a place of its own the output takes that of the queries, and may be wider.
  if (!schedule.getOwnOutput())
    offset = std::max(offset, queryTile->offset + outputBytes);
  for (auto [i, ring] : llvm::enumerate(rings))
    place(ring, i + 1, ring.stages);
  outputMap = rings.size() + 1;
  for (auto [i, ring] : llvm::enumerate(matrices))
    place(ring, outputMap + 1 + i, ring.stages);
  outputOffset = queryTile->offset;
  if (schedule.getOwnOutput()) {
    outputOffset = offset;
    offset += outputBytes;
  }
  alongOffset = offset;
  for (tile::AlongKeysOp along : alongKeys)
    for (Value tile : along.getResults()) {
      alongOffsets[tile] = alongBytes;
      alongBytes +=
          blockKv() * alongKeyBytes(cast<tile::TileType>(tile.getType()).getElementType());
    }
  offset += 2 * rings[0].stages * alongBytes;
  sharedBytes = offset;
  tileFull = numBarriers;
  tileEmpty = numBarriers + 2;
  numBarriers += 4;
  wordOffset = 8 * numBarriers;
  tilesOffset = llvm::alignTo(wordOffset + 4 * rings[0].stages, kTileBytes);
}

//===----------------------------------------------------------------------===//
// Barriers
//===----------------------------------------------------------------------===//

Value HopperLowering::barrier(int64_t first, Value stage) {
  Value address = sharedAddress(8 * first);
  return stage ? e.add(address, e.shl(stage, 3)) : address;
}

void HopperLowering::wait(Value barrier, Value parity) {
  e.ptx("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1, "
        "0x989680; "
        "@done bra.uni passed; bra.uni again; passed: }",
        "r,r", {barrier, parity});
}

void HopperLowering::arrive(Value barrier, Value predicate) {
  e.ptx("@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b", {barrier, predicate});
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

/// The counter's number. By all lanes of the warp that hands out tiles.
Value HopperLowering::takeNumber() {
  Value taken = e.ptx("{ mov.b32 $0, 0; @$2 atom.global.add.u32 $0, [$1], 1; }", "=&r,l,b",
                      {uniform->pointer(HEED_ARG_COUNTER), isElected}, e.i32())[0];
  // The elected lane has it.
  return e.shuffleIndex(taken, e.trailingZeros(e.ballot(isElected)));
}

Value HopperLowering::placeOfTile(Value count) {
  return e.add(sharedAddress(tilesOffset), e.mul(e.band(count, 1), kTileBytes));
}

/// Decoded: divisions would keep the others waiting.
void HopperLowering::announce(Value count, Emitter::Values words) {
  Value slot = e.band(count, 1), turn = e.band(e.shr(count, 1), 1);
  wait(barrier(tileEmpty, slot), e.bxor(turn, 1));
  e.ifThen(isElected, [&] {
    Value place = placeOfTile(count), firstWord = words.pop_back_val();
    words.insert(words.begin(), place);
    e.ptx("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", words);
    e.ptx("st.shared.b32 [$0], $1;", "r,r", {e.add(place, kFirstWordOffset), firstWord});
    arrive(barrier(tileFull, slot), e.cstBool(true));
  });
}

Emitter::Values HopperLowering::awaitTile(Value count) {
  wait(barrier(tileFull, e.band(count, 1)), e.band(e.shr(count, 1), 1));
  // The lane that gives its place back reads it for all.
  Registers words =
      e.ptx("{ mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; "
            "@$5 ld.shared.v4.b32 {$0, $1, $2, $3}, [$4]; }",
            "=&r,=&r,=&r,=&r,r,b", {placeOfTile(count), isLeadLane}, SmallVector<Type>(4, e.i32()));
  for (Value &word : words)
    word = e.shuffleIndex(word, e.cst(0));
  return words;
}

void HopperLowering::forEachTile(ValueRange inits, TileBody body) {
  constexpr size_t numWords = 4;
  // carried: the tile, how many before it, then what the body carries.
  auto run = [&](ValueRange carried) {
    Value count = carried[numWords];
    BlockWalk::Tile tile{carried[1], carried[2], e.mul(carried[3], groups()), carried[3]};
    firstWordPlace = e.add(placeOfTile(count), kFirstWordOffset);
    return body(count, tile, carried.drop_front(numWords + 1));
  };
  Value zero = e.cst(0);
  Emitter::Values first = awaitTile(zero);
  first.push_back(zero);
  llvm::append_range(first, inits);
  if (!isPersistent) {
    run(first);
    return;
  }
  e.loopWhile(
      first, [&](ValueRange v) { return e.ge(v[0], 0); },
      [&](ValueRange v) {
        Emitter::Values state = run(v);
        Value count = v[numWords], behind = e.add(count, 1);
        arrive(barrier(tileEmpty, e.band(count, 1)), isLeadLane);
        Emitter::Values next = awaitTile(behind);
        next.push_back(behind);
        llvm::append_range(next, state);
        return next;
      });
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

LogicalResult HopperLowering::emitKernel() {
  int64_t numThreads = kInstanceThreads * (groups() + 1);
  int64_t numMaps = outputMap + 1 + matrices.size();
  createKernel(kernel.getSymName(), numMaps, numThreads, /*minBlocksPerSM=*/1);
  sharedBase = createSharedMemory(kHeaderBytes);
  Value thread = e.threadId();
  warp = e.shuffleIndex(e.shr(thread, 5), e.cst(0));
  walker = std::make_unique<BlockWalk>(e, *uniform, kernel, loop, groups(), kInstanceRows);

  // Measured on an H100: 3 to 8% faster at head dim 64, 0 to 2% at 128. Kernels that are slower by
  // a score_mod, or whose producer is faster with lists, lose up to 5%.
  hasValueLoader = !loop.getClassify().empty() && !walker->usesLists() &&
                   loop.getBodyBlock()->getOps<tile::MapOp>().empty();

  e.ifThen(e.eq(thread, 0), [&] {
    auto init = [&](int64_t number, int64_t count) {
      e.ptx("mbarrier.init.shared::cta.b64 [$0], $1;", "r,r", {barrier(number), e.cst(count)});
    };
    int64_t warps = 4 * groups();
    for (int64_t group = 0; group < groups(); ++group) {
      init(queryTile->full + group, 1);
      init(queryTile->empty + group, schedule.getOwnOutput() ? 4 : 1);
    }
    auto initRing = [&](const Ring &ring, int64_t fills, int64_t reads) {
      for (int64_t stage = 0; stage < ring.stages; ++stage) {
        init(ring.full + stage, fills);
        init(ring.empty + stage, reads);
      }
    };
    // What lanes wrote or read themselves, each of them hands over.
    int64_t all = kInstanceThreads * groups();
    initRing(rings[0], alongKeys.empty() ? 1 : 33, alongKeys.empty() ? warps : all);
    initRing(rings[1], 1, warps);
    for (const Ring &ring : matrices)
      initRing(ring, 1, all);
    for (int64_t slot : {0, 1}) {
      init(tileFull + slot, 1);
      init(tileEmpty + slot, warps + (hasValueLoader ? 2 : 1));
    }
    e.ptx("fence.mbarrier_init.release.cluster;", "", {});
    for (int64_t map = 0; map < numMaps; ++map)
      e.ptx("prefetch.tensormap [$0];", "l", function.getArgument(map));
  });
  e.barrierAll();

  bool evaluates = (!loop.getClassify().empty() && !walker->usesLists()) || !alongKeys.empty();
  HopperRegisters perThread = hopperRegisters(groups(), evaluates);
  LogicalResult result = success();
  Value isProducer = e.lt(warp, e.cst(4));
  auto roles = scf::IfOp::create(builder, e.loc, isProducer, /*withElseRegion=*/true);
  {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(roles.thenBlock()->getTerminator());
    e.ptx("setmaxnreg.dec.sync.aligned.u32 " + Twine(perThread.producer) + ";", "", {});
    emitProducer();
    builder.setInsertionPoint(roles.elseBlock()->getTerminator());
    e.ptx("setmaxnreg.inc.sync.aligned.u32 " + Twine(perThread.consumer) + ";", "", {});
    result = emitConsumers();
  }
  LLVM::ReturnOp::create(builder, e.loc, ValueRange());
  if (walker->usesLists())
    emitClassifyKernel(numMaps);

  SmallVector<Attribute> maps;
  auto addMap = [&](int64_t operand, int64_t rows, int64_t columns) {
    maps.push_back(
        builder.getDenseI32ArrayAttr({int32_t(operand), int32_t(rows), int32_t(columns)}));
  };
  addMap(argumentIndex(queryTile->tensor), kInstanceRows, kBoxColumns);
  for (Ring &ring : rings)
    addMap(argumentIndex(ring.tensor), ring.rows, kBoxColumns);
  addMap(argumentIndex(outputStore.getTensor()), kInstanceRows, kBoxColumns);
  for (Ring &ring : matrices)
    addMap(HEED_ARG_PARAMS + argumentIndex(ring.tensor) - kFirstParameter, ring.rows,
           ring.boxColumns());
  describe({numThreads, sharedBytes, /*needsAligned=*/true, maps});
  return result;
}
