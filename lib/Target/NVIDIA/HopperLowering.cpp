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

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

/// Elements of a row of a 128-byte swizzled box.
static constexpr int64_t kBoxColumns = 64;
static constexpr int64_t kSwizzleBytes = 128;
/// Bytes at the start of shared memory for barriers and words; also the alignment of tiles.
static constexpr int64_t kHeaderBytes = 1024;

/// What the producer leaves for the others of a tile: number, batch, head, number along the
/// queries, and the word of the first block.
static constexpr int64_t kTileBytes = 32;
static constexpr int64_t kFirstWordOffset = 16;

/// Of queries, keys, values and output: other elements have the portable path.
static constexpr int64_t kElementBytes = 2;

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
  while (isa_and_present<tile::MapOp, tile::MaskOp>(scores.getDefiningOp()))
    scores = scores.getDefiningOp()->getOperand(0);
  if (scores != product)
    return softmax.emitError("expects scores, mapped and masked at most, for sm_90a");
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
// Barriers and descriptors
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

void HopperLowering::giveBackFront(Value slot) {
  arrive(barrier(rings[0].empty, slot), alongKeys.empty() ? isLeadLane : e.cstBool(true));
}

void HopperLowering::arrive(Value barrier, Value predicate) {
  e.ptx("@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b", {barrier, predicate});
}

/// A matrix descriptor of a 128-byte swizzled tile: start address, and the distances in bytes of
/// what lies beside each other along the leading and along the other dimension.
Value HopperLowering::descriptor(int64_t offset, Value dynamicOffset, int64_t leading,
                                 int64_t stride) {
  Value address = sharedAddress(offset);
  if (dynamicOffset)
    address = e.add(address, dynamicOffset);
  Value start = arith::ExtUIOp::create(builder, e.loc, e.i64(), e.shr(e.band(address, 0x3FFFF), 4));
  int64_t constant = (int64_t(1) << 62) | ((leading >> 4) << 16) | ((stride >> 4) << 32);
  return e.bor(start, e.cst64(constant));
}

Value HopperLowering::stageDescriptor(const Ring &ring, Value base, Value stage) {
  Value offset = e.mul(stage, ring.stageBytes() >> 4);
  return e.add(base, arith::ExtUIOp::create(builder, e.loc, e.i64(), offset));
}

Registers HopperLowering::wgmma(ArrayRef<Value> acc, ValueRange a, Value b, int64_t columns,
                                bool transposeB) {
  int64_t count = columns / 2, inputs = acc.empty() ? 0 : count, next = count + inputs;
  std::string text = "{ .reg .pred p; setp.ne.b32 p, ";
  text += acc.empty() ? "0" : "1";
  StringRef type = element.isBF16() ? "bf16" : "f16";
  text += ", 0; wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32." +
          type.str() + "." + type.str() + " {";
  std::string constraints;
  for (int64_t i = 0; i < count; ++i) {
    text += (i ? ", $" : "$") + std::to_string(i);
    constraints += "=f,";
  }
  text += "}, ";
  SmallVector<Value> operands(acc);
  for (int64_t i = 0; i < inputs; ++i)
    constraints += std::to_string(i) + ",";
  bool fromRegisters = a.size() > 1;
  text += fromRegisters ? "{" : "";
  for (auto [i, v] : llvm::enumerate(a)) {
    text += (i ? ", $" : "$") + std::to_string(next++);
    constraints += fromRegisters ? "r," : "l,";
    operands.push_back(v);
  }
  text += fromRegisters ? "}" : "";
  text += ", $" + std::to_string(next) + ", p, 1, 1, " + (fromRegisters ? "" : "0, ") +
          (transposeB ? "1" : "0") + "; }";
  constraints += "l";
  operands.push_back(b);
  return e.ptx(text, constraints, operands, SmallVector<Type>(count, e.f32()));
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
      init(tileEmpty + slot, warps + 1);
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

//===----------------------------------------------------------------------===//
// Producer
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
  e.ifThen(isElected, [&] {
    if (word)
      e.ptx("st.shared.b32 [$0], $1;", "r,r",
            {e.add(sharedAddress(wordOffset), e.shl(slot, 2)), word});
    Value full = barrier(ring.full, slot);
    e.ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r",
          {full, e.cst(ring.stageBytes())});
    copy(ring, e.add(sharedAddress(ring.offset), e.mul(slot, ring.stageBytes())), mapping, full);
  });
}

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

FragmentStage::ReadPair HopperLowering::readBeside(Value tile) {
  for (const Ring &ring : matrices)
    if (tile.getDefiningOp() == ring.load)
      return readMatrix(ring);
  Type type = cast<tile::TileType>(tile.getType()).getElementType();
  return [this, tile, type](Element element) -> std::array<Value, 2> {
    int64_t bytes = alongKeyBytes(type);
    Value base = e.add(alongPlace, e.mul(threadColumn, bytes));
    int64_t offset = alongOffsets[tile] + element.column * bytes;
    Type loaded = type.isInteger(1) ? e.i32() : type;
    StringRef constraint = bytes == 8 ? "=l,=l,r" : type.isF32() ? "=f,=f,r" : "=r,=r,r";
    Registers pair =
        e.ptx("ld.shared.v2.b" + Twine(8 * bytes) + " {$0, $1}, [$2+" + Twine(offset) + "];",
              constraint, base, {loaded, loaded});
    if (type.isInteger(1))
      return {e.ne(pair[0], 0), e.ne(pair[1], 0)};
    return {pair[0], pair[1]};
  };
}

/// Rows are 128 bytes, whose 16-byte units the copy engine swizzles by the row.
FragmentStage::ReadPair HopperLowering::readMatrix(const Ring &ring) {
  Type type = cast<attn::TensorType>(ring.tensor.getType()).getElementType();
  return [this, &ring, type](Element element) -> std::array<Value, 2> {
    int64_t bytes = ring.elementBytes, chunk = element.column / 8;
    Value slot = e.mul(slotOf(ring, blockCursor), ring.stageBytes());
    Value row = e.add(e.mul(group, kInstanceRows), threadRow);
    Value place = e.mul(threadColumn, bytes);
    Value unit = e.bxor(e.band(threadRow, 7), e.shr(place, 4));
    Value base = e.add(e.add(sharedAddress(ring.offset), slot), e.mul(row, kSwizzleBytes));
    base = e.bor(base, e.bor(e.shl(unit, 4), e.band(place, 15)));
    int64_t inRow = chunk * 8 * bytes, box = inRow / kSwizzleBytes;
    Value address = e.bxor(base, inRow % kSwizzleBytes / 16 * 16);
    int64_t offset = box * ring.rows * kSwizzleBytes + element.row * 8 * kSwizzleBytes + inRow % 16;
    auto read = [&](StringRef kind, StringRef constraints, ArrayRef<Type> types, StringRef places) {
      return e.ptx("ld.shared." + kind + " " + places + ", [$" + Twine(types.size()) + "+" +
                       Twine(offset) + "];",
                   constraints, address, types);
    };
    Type i16 = builder.getI16Type();
    if (bytes == 4) {
      Type loaded = type.isF32() ? Type(e.f32()) : e.i32();
      Registers pair =
          read("v2.b32", type.isF32() ? "=f,=f,r" : "=r,=r,r", {loaded, loaded}, "{$0, $1}");
      return {pair[0], pair[1]};
    }
    if (bytes == 2) {
      Value word = read("b32", "=r,r", e.i32(), "$0")[0];
      Value low = arith::TruncIOp::create(builder, e.loc, i16, word);
      Value high = arith::TruncIOp::create(builder, e.loc, i16, e.shr(word, 16));
      return {e.widen(type, low), e.widen(type, high)};
    }
    Value word = read("u16", "=r,r", e.i32(), "$0")[0];
    if (type.isInteger(1))
      return {e.ne(e.band(word, 0xFF), 0), e.ne(e.shr(word, 8), 0)};
    Type i8 = builder.getI8Type();
    auto extend = [&](Value x) {
      return Value(arith::ExtSIOp::create(builder, e.loc, e.i32(),
                                          arith::TruncIOp::create(builder, e.loc, i8, x)));
    };
    return {extend(word), extend(e.shr(word, 8))};
  };
}

LogicalResult HopperLowering::withMatrices(OperandRange beside,
                                           llvm::function_ref<LogicalResult()> lower) {
  auto isUsed = [&](const Ring &ring) {
    return llvm::any_of(beside, [&](Value v) { return v.getDefiningOp() == ring.load; });
  };
  for (const Ring &ring : matrices)
    if (isUsed(ring))
      wait(barrier(ring.full, slotOf(ring, blockCursor)), parityOf(ring, blockCursor));
  LogicalResult result = lower();
  for (const Ring &ring : matrices)
    if (isUsed(ring))
      arrive(barrier(ring.empty, slotOf(ring, blockCursor)), e.cstBool(true));
  return result;
}

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

Value HopperLowering::electLane() {
  Value elected =
      e.ptx("{ .reg .pred p; elect.sync _|p, -1; selp.b32 $0, 1, 0, p; }", "=r", {}, e.i32())[0];
  return e.ne(elected, 0);
}

void HopperLowering::emitProducer() {
  e.ifThen(e.eq(warp, 1), [&] { emitQueryLoader(); });
  e.ifThen(e.eq(warp, 0), [&] {
    isElected = electLane();
    Value zero = e.cst(0);
    auto produce = [&](ValueRange carried) {
      // carried: tile, how many before it, then the cursor of each ring.
      Value number = carried[0], count = carried[1];
      BlockWalk::Tile tile = walker->decodeTile(number);
      BlockWalk::Walk walk = walker->begin(tile);
      IRMapping mapping = walker->instanceScalars(tile, e.cst(0));
      SmallVector<Value> used;
      auto addUsed = [&](const Ring &ring) {
        for (Value v : ring.load->getOperands().drop_front())
          if (v != loop.getBlockStart())
            used.push_back(v);
      };
      llvm::for_each(rings, addUsed);
      llvm::for_each(matrices, addUsed);
      for (tile::AlongKeysOp along : alongKeys)
        for (Operation &inner : *along.getBodyBlock())
          for (Value v : inner.getOperands())
            if (v.getParentBlock() == kernel.getBodyBlock() && !isa<attn::TensorType>(v.getType()))
              used.push_back(v);
      uniform->emitSlice(used, mapping);
      auto blockMapping = [&](Value word) {
        IRMapping block = mapping;
        block.map(loop.getBlockStart(), e.mul(e.shr(word, 8), blockKv()));
        return block;
      };
      auto isBlock = [&](Value word) { return e.ge(word, 0); };
      // The front ring is a block ahead. Returns the word of the block behind, position and cursor.
      auto fillFront = [&](Value word, BlockWalk::Position position, Cursor cursor) {
        return e.ifElse(
            isBlock(word), SmallVector<Type>(5, e.i32()),
            [&]() -> Emitter::Values {
              BlockWalk::Position behind = position;
              Value following = walker->next(walk, behind);
              waitUntilEmpty(rings[0], cursor);
              storeAlongKeys(cursor, blockMapping(word), word);
              fill(rings[0], cursor, blockMapping(word), following, wordOffset);
              for (const Ring &ring : matrices) {
                waitUntilEmpty(ring, cursor);
                fill(ring, cursor, blockMapping(word), Value(), 0);
              }
              return {following, behind.words, behind.remaining, behind.next, e.add(cursor, 1)};
            },
            [&]() -> Emitter::Values {
              return {e.cst(-1), position.words, position.remaining, position.next, cursor};
            });
      };
      BlockWalk::Position position = walker->startOf(walk);
      Value firstWord = walker->next(walk, position);
      announce(count, {number, tile.batch, tile.head, tile.number, firstWord});
      Emitter::Values state = fillFront(firstWord, position, carried[2]);
      // The next tile is taken when a tile's last keys are on their way: sooner, it would wait here
      // while other thread blocks had nothing left; later, nothing would be on its way.
      Value taken = takeNumber(zero, e.negate(isBlock(state[0])));

      // The word of a block, then what fillFront returns, the back ring's cursor, the next tile.
      state.insert(state.begin(), firstWord);
      state.append({carried[3], taken});
      state = e.loopWhile(
          state, [&](ValueRange v) { return isBlock(v[0]); },
          [&](ValueRange v) -> Emitter::Values {
            Emitter::Values next = fillFront(v[1], BlockWalk::Position::of(v.slice(2, 3)), v[5]);
            Value isLastFront = e.band(isBlock(v[1]), e.negate(isBlock(next[0])));
            Value taken = takeNumber(v[7], isLastFront);
            waitUntilEmpty(rings[1], v[6]);
            fill(rings[1], v[6], blockMapping(v[0]), Value(), 0);
            next.insert(next.begin(), v[1]);
            next.append({e.add(v[6], 1), taken});
            return next;
          });

      Value next = zero;
      if (isPersistent) {
        // The elected lane has it.
        Value holder = e.trailingZeros(e.ballot(isElected));
        next = walker->inOrder(e.add(e.shuffleIndex(state[7], holder), e.numBlocks()));
      }
      return Emitter::Values{next, e.add(count, 1), state[5], state[6]};
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
  });
}

//===----------------------------------------------------------------------===//
// Consumers
//===----------------------------------------------------------------------===//

LogicalResult HopperLowering::emitConsumers() {
  group = e.sub(e.shr(warp, 2), 1);
  Value lane = e.laneId();
  threadRow = e.add(e.shl(e.band(warp, 3), 4), e.shr(lane, 2));
  threadColumn = e.shl(e.band(lane, 3), 1);
  isLeadLane = e.eq(lane, 0);
  Value slab = e.mul(group, kInstanceRows * kSwizzleBytes);
  queryDescriptor = descriptor(queryTile->offset, slab, 16, 8 * kSwizzleBytes);
  frontDescriptor = descriptor(rings[0].offset, Value(), 16, 8 * kSwizzleBytes);
  backDescriptor =
      descriptor(rings[1].offset, Value(), rings[1].rows * kSwizzleBytes, 8 * kSwizzleBytes);

  LogicalResult result = success();
  Value zero = e.cst(0);
  forEachTile({zero, zero},
              [&](Value count, const BlockWalk::Tile &tile, ValueRange cursors) -> Emitter::Values {
                front = cursors[0];
                back = cursors[1];
                scalars = walker->instanceScalars(tile, group);
                wait(ofGroup(queryTile->full), e.band(count, 1));
                emitUsedScalars();
                fragments.clear();
                for (Operation &op : kernel.getBodyBlock()->without_terminator())
                  if (succeeded(result) && isa<tile::TileDialect>(op.getDialect()))
                    result = lowerOp(op);
                return {front, back};
              });
  e.ptx("cp.async.bulk.wait_group.read 0;", "", {});
  return result;
}

LogicalResult HopperLowering::lowerOp(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<tile::LoadOp, tile::LoadElementsOp, tile::AlongKeysOp>(
          [](auto) { return success(); }) // the producer's
      .Case([&](tile::ScaleOp scale) { return lowerScale(scale); })
      .Case([&](tile::FillOp fill) { return lowerFill(fill); })
      .Case([&](tile::ForKVOp forKV) { return lowerForKV(forKV); })
      .Case([&](tile::DotOp dot) { return lowerDot(dot); })
      .Case([&](tile::MapOp map) {
        return withMatrices(map.getBeside(), [&] { return lowerMap(map); });
      })
      .Case([&](tile::MaskOp mask) {
        return withMatrices(mask.getBeside(), [&] { return lowerMask(mask); });
      })
      .Case([&](tile::OnlineSoftmaxOp softmax) { return lowerOnlineSoftmax(softmax); })
      .Case([&](tile::ScaleRowsOp scale) { return lowerScaleRows(scale); })
      .Case([&](tile::NormalizeOp normalize) { return lowerNormalize(normalize); })
      .Case([&](tile::StoreOp store) {
        if (store == outputStore)
          storeTile(store);
        else
          storeRows(store);
        return success();
      })
      .Default([](Operation *) -> LogicalResult { llvm_unreachable("refused by collect"); });
}

/// Scales the instance's queries where they lie, unless by 1.
LogicalResult HopperLowering::lowerScale(tile::ScaleOp op) {
  Value factor = scalar(op.getFactor());
  Value thread = e.band(e.threadId(), kInstanceThreads - 1);
  Value changes = e.fcmp(arith::CmpFPredicate::UNE, factor, e.cstF32(1.0f));
  e.ifThen(changes, [&] {
    // 64 rows of a box are 8 KiB in a row: 64 bytes a thread, of which the layout does not matter.
    Value base = e.add(sharedAddress(queryTile->offset),
                       e.add(e.mul(group, kInstanceRows * kSwizzleBytes), e.shl(thread, 4)));
    for (int64_t box = 0; box < queryTile->numBoxes(); ++box)
      for (int64_t part = 0; part < 4; ++part) {
        Value address = e.add(base, box * tileRows() * kSwizzleBytes + part * 2048);
        Registers words = e.ptx("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,r",
                                address, SmallVector<Type>(4, e.i32()));
        for (Value &word : words) {
          Type i16 = builder.getI16Type();
          Value low = arith::TruncIOp::create(builder, e.loc, i16, word);
          Value high = arith::TruncIOp::create(builder, e.loc, i16, e.shr(word, 16));
          word = e.packPair(element, e.fmul(e.widen(element, low), factor),
                            e.fmul(e.widen(element, high), factor));
        }
        words.insert(words.begin(), address);
        e.ptx("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", words);
      }
    e.ptx("fence.proxy.async.shared::cta;", "", {});
    e.barrier(e.add(group, 1), kInstanceThreads);
  });
  return success();
}

/// A word that the producer left. The lane that gives its place back reads it for all.
Value HopperLowering::readWord(Value place) {
  Value word = e.ptx("{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }", "=&r,r,b",
                     {place, isLeadLane}, e.i32())[0];
  return e.shuffleIndex(word, e.cst(0));
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

/// The counter's number from when `isTime` holds, in the elected lane.
Value HopperLowering::takeNumber(Value taken, Value isTime) {
  if (!isPersistent)
    return taken;
  return e.ptx("@$3 atom.global.add.u32 $0, [$2], 1;", "=r,0,l,b",
               {taken, uniform->pointer(HEED_ARG_COUNTER), e.band(isElected, isTime)}, e.i32())[0];
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

Value HopperLowering::classOf(Value word) {
  Value shift = e.shl(group, 1);
  return e.band(arith::ShRUIOp::create(builder, e.loc, word, shift), 3);
}

Value HopperLowering::concerns(Value word) {
  return e.band(e.ge(word, 0), e.negate(e.eq(classOf(word), BlockWalk::kDone)));
}

void HopperLowering::ready(Value tile) {
  auto *it = llvm::find(inFlight, tile);
  if (it == inFlight.end())
    return;
  size_t index = it - inFlight.begin(), later = inFlight.size() - 1 - index;
  SmallVector<Value> tiles(inFlight.begin(), it + 1), operands;
  for (Value t : tiles)
    llvm::append_range(operands, registers(t));
  std::string constraints;
  for (size_t i = 0; i < operands.size(); ++i)
    constraints += "=f,";
  for (size_t i = 0; i < operands.size(); ++i)
    constraints += std::to_string(i) + (i + 1 < operands.size() ? "," : "");
  ArrayRef<Value> results;
  Registers waited = e.ptx("wgmma.wait_group.sync.aligned " + Twine(later) + ";", constraints,
                           operands, SmallVector<Type>(operands.size(), e.f32()));
  results = waited;
  for (Value t : tiles) {
    size_t count = registers(t).size();
    fragments[t] = Registers(results.take_front(count));
    results = results.drop_front(count);
  }
  inFlight.erase(inFlight.begin(), it + 1);
  // Their blocks are read.
  for (Value t : tiles) {
    if (t == accumulator) {
      // As soon as the last weights are used up, before the accumulator is rescaled: ptxas mixes it
      // with the exponentials.
      if (fragments.contains(weights))
        pendingWeights = pack(registers(weights), element);
      arrive(barrier(rings[1].empty, slotOf(rings[1], back)), isLeadLane);
      back = e.add(back, 1);
    } else {
      giveBackFront(slotOf(rings[0], front));
      front = e.add(front, 1);
      // The last block's scores are the last that queries are needed for. The next ones come while
      // its weights and the output are worked on.
      if (schedule.getOwnOutput())
        arrive(ofGroup(queryTile->empty), e.band(isLeadLane, e.negate(concerns(nextWord))));
    }
  }
}

LogicalResult HopperLowering::lowerDot(tile::DotOp op) {
  if (op.getAcc()) {
    // Issued behind the next block's scores.
    ready(op.getAcc());
    if (isFirstBlock)
      pendingWeights = pack(registers(op.getLhs()), element);
    fragments[op] = registers(op.getAcc());
    return success();
  }
  Value slot = slotOf(rings[0], front);
  blockCursor = front;
  if (!alongKeys.empty())
    alongPlace = placeAlong(front);
  wait(barrier(rings[0].full, slot), parityOf(rings[0], front));
  e.ptx("wgmma.fence.sync.aligned;", "", {});
  Value keys = stageDescriptor(rings[0], frontDescriptor, slot);
  Registers scores;
  for (int64_t step = 0; step < int64_t(llvm::divideCeil(rings[0].columns, 16)); ++step) {
    auto offset = [&](int64_t rows) {
      return ((step / 4) * rows * kSwizzleBytes + (step % 4) * 32) >> 4;
    };
    Value a = e.add(queryDescriptor, offset(tileRows())), b = e.add(keys, offset(rings[0].rows));
    scores = wgmma(scores, a, b, rings[0].rows, /*transposeB=*/false);
  }
  e.ptx("wgmma.commit_group.sync.aligned;", "", {});
  fragments[op] = scores;
  inFlight.push_back(op);
  nextWord = readWord(e.add(sharedAddress(wordOffset), e.shl(slot, 2)));
  if (!isFirstBlock)
    issueAccumulation(accumulator);
  return success();
}

void HopperLowering::issueAccumulation(Value tile) {
  Value slot = slotOf(rings[1], back);
  wait(barrier(rings[1].full, slot), parityOf(rings[1], back));
  e.ptx("wgmma.fence.sync.aligned;", "", {});
  Value values = stageDescriptor(rings[1], backDescriptor, slot);
  Registers acc = registers(tile);
  for (int64_t step = 0; step < blockKv() / 16; ++step)
    acc = wgmma(acc, ArrayRef<Value>(pendingWeights).slice(4 * step, 4),
                e.add(values, step * 16 * kSwizzleBytes >> 4), llvm::alignTo(rings[1].columns, 8),
                /*transposeB=*/true);
  e.ptx("wgmma.commit_group.sync.aligned;", "", {});
  fragments[tile] = acc;
  inFlight.push_back(tile);
}

LogicalResult HopperLowering::lowerForKV(tile::ForKVOp op) {
  hoistStages(op);
  Block &body = *op.getBodyBlock();
  auto yielded = body.getTerminator()->getOperands();
  SmallVector<int64_t> counts = countCarried(op);
  for (auto [iter, result] : llvm::zip(op.getIterArgs(), yielded)) {
    auto dot = result.getDefiningOp<tile::DotOp>();
    if (dot && dot.getAcc()) {
      accumulator = iter;
      weights = dot.getLhs();
    }
  }
  int64_t numWeights = blockKv() / 4;

  // State between blocks: carried tiles, weights of the product to come, word of the next block,
  // cursors.
  LogicalResult status = success();
  auto setCursors = [&](ValueRange v) {
    front = v[0];
    back = v[1];
  };
  auto appendCursors = [&](Emitter::Values &state) { state.append({front, back}); };
  auto lowerBlock = [&](Value word) {
    fragments.erase(weights);
    scalars.map(op.getBlockStart(), e.mul(e.shr(word, 8), blockKv()));
    isPartial = e.ne(classOf(word), int64_t(tile::BlockClass::Full));
    for (Operation &inner : body.without_terminator())
      if (succeeded(status) && isa<tile::TileDialect>(inner.getDialect()))
        status = lowerOp(inner);
    Emitter::Values state;
    for (Value v : yielded)
      llvm::append_range(state, registers(v));
    llvm::append_range(state, pendingWeights);
    state.push_back(nextWord);
    appendCursors(state);
    return state;
  };
  // Reads `state` back; returns the next word.
  auto bind = [&](ValueRange state) {
    for (auto [iter, count] : llvm::zip(op.getIterArgs(), counts)) {
      fragments[iter] = Registers(state.take_front(count));
      state = state.drop_front(count);
    }
    pendingWeights = Registers(state.take_front(numWeights));
    state = state.drop_front(numWeights);
    setCursors(state.drop_front());
    return state.front();
  };
  // Lets a block of both rings pass by; returns the word behind it.
  auto pass = [&]() {
    Value slot = slotOf(rings[0], front), backSlot = slotOf(rings[1], back);
    wait(barrier(rings[0].full, slot), parityOf(rings[0], front));
    Value word = readWord(e.add(sharedAddress(wordOffset), e.shl(slot, 2)));
    giveBackFront(slot);
    for (const Ring &ring : matrices) {
      wait(barrier(ring.full, slotOf(ring, front)), parityOf(ring, front));
      arrive(barrier(ring.empty, slotOf(ring, front)), e.cstBool(true));
    }
    // Last: the producer fills these values behind the next keys and what lies beside them.
    wait(barrier(rings[1].full, backSlot), parityOf(rings[1], back));
    arrive(barrier(rings[1].empty, backSlot), isLeadLane);
    front = e.add(front, 1);
    back = e.add(back, 1);
    return word;
  };
  auto passWhile = [&](Value word, llvm::function_ref<Value(Value)> condition) {
    Emitter::Values state = {word};
    appendCursors(state);
    state = e.loopWhile(
        state, [&](ValueRange v) { return condition(v[0]); },
        [&](ValueRange v) {
          setCursors(v.drop_front());
          Emitter::Values next = {pass()};
          appendCursors(next);
          return next;
        });
    setCursors(ValueRange(state).drop_front());
    return state[0];
  };

  Value word = readWord(firstWordPlace);
  if (!op.getClassify().empty())
    word = passWhile(word, [&](Value w) {
      return e.band(e.ge(w, 0), e.eq(classOf(w), int64_t(tile::BlockClass::Skipped)));
    });

  SmallVector<Type> types;
  for (int64_t count : counts)
    types.append(count, e.f32());
  types.append(3, e.i32()); // word and cursors
  Emitter::Values before = {front, back};
  Emitter::Values finished = e.ifElse(
      concerns(word), types,
      [&]() -> Emitter::Values {
        isFirstBlock = true;
        for (auto [iter, init] : llvm::zip(op.getIterArgs(), op.getInits()))
          fragments[iter] = registers(init);
        Emitter::Values state = lowerBlock(word);
        isFirstBlock = false;
        size_t wordIndex = state.size() - 3;
        state = e.loopWhile(
            state, [&](ValueRange v) { return concerns(v[wordIndex]); },
            [&](ValueRange v) { return lowerBlock(bind(v)); });
        Value next = bind(state);
        fragments.erase(weights);
        issueAccumulation(accumulator);
        ready(accumulator);
        Emitter::Values result;
        for (Value iter : op.getIterArgs())
          llvm::append_range(result, registers(iter));
        result.push_back(next);
        appendCursors(result);
        return result;
      },
      [&]() -> Emitter::Values {
        if (schedule.getOwnOutput())
          arrive(ofGroup(queryTile->empty), isLeadLane);
        Emitter::Values result;
        for (auto [init, count] : llvm::zip(op.getInits(), counts))
          result.append(count, registers(init)[0]);
        result.push_back(word);
        llvm::append_range(result, before);
        return result;
      });
  ValueRange rest = finished;
  for (auto [result, count] : llvm::zip(op.getResults(), counts)) {
    fragments[result] = Registers(rest.take_front(count));
    rest = rest.drop_front(count);
  }
  setCursors(rest.drop_front());
  passWhile(rest.front(), [&](Value w) { return e.ge(w, 0); });
  return status;
}

/// Registers -> 16-bit -> swizzled shared memory -> bulk copy, which leaves out rows and columns
/// that do not exist.
void HopperLowering::storeTile(tile::StoreOp op) {
  ArrayRef<Value> output = registers(op.getTile());
  bool hasOwnBuffer = schedule.getOwnOutput();
  Value thread = e.band(e.threadId(), kInstanceThreads - 1), isLead = e.eq(thread, 0);
  Value named = e.add(group, 1);
  if (hasOwnBuffer) // the tile before must have been read out of it
    e.ifThen(isLead, [&] { e.ptx("cp.async.bulk.wait_group.read 0;", "", {}); });
  e.barrier(named, kInstanceThreads);

  // stmatrix x4 stores 16 x 16 elements: lane l points to row l % 16, columns 8 (l / 16).
  Value lane = e.laneId();
  Value low = e.band(lane, 7), matrix = e.shr(lane, 3);
  Value row = e.add(e.add(e.shl(e.band(warp, 3), 4), e.shl(e.band(matrix, 1), 3)), low);
  Value slab = e.add(sharedAddress(outputOffset), e.mul(group, kInstanceRows * kSwizzleBytes));
  Value base = e.add(slab, e.shl(row, 7));
  Value swizzle = e.shl(e.bxor(e.shr(matrix, 1), low), 4);
  int64_t columns = op.getTile().getType().getNumColumns();
  for (int64_t chunk = 0; chunk < int64_t(llvm::divideCeil(columns, 16)); ++chunk) {
    Registers pairs;
    for (int64_t half : {0, 1})
      for (int64_t r : {0, 1}) {
        size_t i = 4 * (2 * chunk + half) + 2 * r;
        bool exists = i < output.size();
        pairs.push_back(exists ? e.packPair(element, output[i], output[i + 1]) : e.cst(0));
      }
    Value address = e.add(e.add(base, (chunk / 4) * tileRows() * kSwizzleBytes),
                          e.bxor(swizzle, (chunk % 4) * 32));
    e.ptx("stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};", "r,r,r,r,r",
          {address, pairs[0], pairs[1], pairs[2], pairs[3]});
  }
  e.ptx("fence.proxy.async.shared::cta;", "", {});
  e.barrier(named, kInstanceThreads);
  e.ifThen(isLead, [&] {
    for (int64_t box = 0; box < countBoxes(columns, kElementBytes); ++box)
      e.ptx("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [$0, {$1, $2, $3, $4}], "
            "[$5];",
            "l,r,r,r,r,r",
            {function.getArgument(outputMap), e.cst(box * kBoxColumns), scalar(op.getRow()),
             scalar(op.getHead()), scalar(op.getBatch()),
             e.add(slab, box * tileRows() * kSwizzleBytes)});
    e.ptx("cp.async.bulk.commit_group;", "", {});
    if (!hasOwnBuffer) {
      e.ptx("cp.async.bulk.wait_group.read 0;", "", {});
      arrive(ofGroup(queryTile->empty), e.cstBool(true));
    }
  });
}
