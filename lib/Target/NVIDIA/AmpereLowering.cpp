//===-- AmpereLowering.cpp - Kernels for sm_80 and later ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AmpereLowering.h"

#include "heed-c/Runtime.h"
#include "heed/Target/NVIDIA/GPUTarget.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

/// Registers of a multiprocessor, by threads that ptxas gives up to 255 of them.
static constexpr int64_t kThreadsPerSM = 65536 / 256;

AmpereLowering::AmpereLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule)
    : FragmentLowering(kernel, schedule), element(tensorType(0).getElementType()),
      elementBytes(element.getIntOrFloatBitWidth() / 8), instances(schedule.getWarpInstances()) {}

LogicalResult AmpereLowering::run() {
  if (failed(collect()))
    return failure();
  layOut();
  return emitKernel();
}

//===----------------------------------------------------------------------===//
// What the kernel consists of
//===----------------------------------------------------------------------===//

LogicalResult AmpereLowering::collect() {
  for (Operation &op : *kernel.getBodyBlock()) {
    if (auto found = dyn_cast<tile::ForKVOp>(op)) {
      if (loop)
        return found.emitError("expects one loop over keys for the portable GPU path");
      loop = found;
    }
    if (auto load = dyn_cast<tile::LoadOp>(op)) {
      if (query.load)
        return load.emitError("expects one tile outside of the loop for the portable GPU path");
      query.load = load;
    }
    if (auto scale = dyn_cast<tile::ScaleOp>(op))
      queryScale = scale;
    auto store = dyn_cast<tile::StoreOp>(op);
    if (store && store.getTile().getType().getRank() == 2)
      outputStore = store;
  }
  if (!loop || !query.load || !outputStore)
    return kernel.emitError(
        "expects queries, a loop over keys and an output for the portable GPU path");
  if (int64_t(loop.getStep()) != blockKv())
    return loop.emitError("expects the schedule's block_kv as its step for the portable GPU path, ")
           << loop.getStep() << " is not " << blockKv();
  if (queryScale && queryScale.getTile() != query.load.getResult())
    return queryScale.emitError("expects to scale the queries for the portable GPU path");
  for (Operation &op : *loop.getBodyBlock())
    if (isa<tile::AlongKeysOp, tile::LoadElementsOp>(op))
      return op.emitError("has no lowering for the portable GPU path");
  Value queries = queryScale ? queryScale.getResult() : query.load.getResult();
  for (auto load : loop.getBodyBlock()->getOps<tile::LoadOp>()) {
    auto dot = load->use_empty() ? tile::DotOp() : dyn_cast<tile::DotOp>(*load->user_begin());
    if (!load->hasOneUse() || !dot || dot.getRhs() != load.getResult() ||
        load.getRow() != loop.getBlockStart())
      return load.emitError(
          "expects a block of keys that is the right operand of one product for the "
          "portable GPU path");
    bool isScores = !dot.getAcc();
    Buffer &buffer = isScores ? key : value;
    if (buffer.load || dot.getTransposeLhs() || dot.getTransposeRhs() != isScores ||
        (isScores && dot.getLhs() != queries))
      return dot.emitError(
          "expects one product of queries and transposed keys, and one that is accumulated, "
          "for the portable GPU path");
    buffer.load = load;
  }
  if (!key.load || !value.load)
    return loop.emitError(
        "expects one product of scores and one accumulated for the portable GPU path");
  return success();
}

void AmpereLowering::layOut() {
  int64_t offset = 0;
  auto place = [&](Buffer &buffer, int64_t rows, int64_t columns, int64_t stages) {
    buffer.rows = rows;
    buffer.columns = columns;
    buffer.rowBytes = paddedRowBytes(columns, elementBytes);
    buffer.offset = offset;
    offset += stages * buffer.stageBytes();
  };
  int64_t headDim = key.load.getType().getNumColumns();
  bool isShared = schedule.getQueries() != tile::QueryPlace::Global;
  place(query, tileRows(), headDim, isShared);
  place(key, blockKv(), headDim, schedule.getStages());
  place(value, blockKv(), sliceColumnsOf(schedule, value.load.getType().getNumColumns()),
        schedule.getStages());
  sharedBytes = offset;
}

void AmpereLowering::enter(int64_t i) {
  auto exchange = [&](Instance &instance) {
    std::swap(scalars, instance.scalars);
    std::swap(isPartial, instance.isPartial);
    std::swap(fragments, instance.fragments);
    std::swap(rowAddends, instance.rowAddends);
    std::swap(stages, instance.stages);
  };
  if (i == current)
    return;
  exchange(instances[current]);
  exchange(instances[i]);
  current = i;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

LogicalResult AmpereLowering::emitKernel() {
  createKernel(kernel.getSymName(), /*numMaps=*/0, numThreads(),
               /*minBlocksPerSM=*/std::max<int64_t>(1, kThreadsPerSM / numThreads()));
  walker = std::make_unique<BlockWalk>(e, *uniform, kernel, loop, groups(), kInstanceRows);
  sharedBase = createSharedMemory(kPieceBytes);
  placeThread(e.threadId());
  Value number = e.blockId();
  if (schedule.getValueSlices() > 1) {
    slice = e.rem(number, schedule.getValueSlices());
    number = e.div(number, schedule.getValueSlices());
  }
  BlockWalk::Tile tile = walker->decodeTile(walker->inOrder(number));
  enterTile(tile);

  // Addresses that ldmatrix takes from a lane: of the left operand, matrices (rows 0, left), (rows
  // 8, left), (rows 0, right), (rows 8, right); of values, transposed, the same.
  Value queryRow = e.add(e.shl(e.band(warp, 3), 4), e.band(lane, 15)), half = e.shr(lane, 4);
  if (warpGroup)
    queryRow = e.add(queryRow, e.mul(warpGroup, warpInstances() * kInstanceRows));
  queryLane = sharedAddress(query, queryRow, half);
  if (is16Bit())
    valueLane = sharedAddress(value, e.band(lane, 15), half);
  else // element (2 t, g) of each 8 keys x 8 columns
    valueLane =
        e.add(sharedAddress(value, threadColumn, e.cst(0)), e.mul(e.shr(lane, 2), elementBytes));

  IRMapping first = walker->instanceScalars(tile, e.cst(0));
  SmallVector<Value> used = {query.load.getRow()};
  for (const Buffer *buffer : {&query, &key, &value}) {
    used.push_back(buffer->load->getOperand(1));
    used.push_back(buffer->load->getOperand(2));
  }
  uniform->emitSlice(used, first);
  locate(query, first, HEED_ARG_SQ);
  locate(key, first, HEED_ARG_SKV);
  locate(value, first, HEED_ARG_SKV);
  // One predicate is kept over the loop instead of two.
  key.isAligned = value.isAligned = e.band(key.isAligned, value.isAligned);
  if (queryScale)
    queryFactor = scalar(queryScale.getFactor());
  loadQueries(first.lookup(query.load.getRow()));

  LogicalResult result = success();
  walk = walker->begin(tile);
  for (Operation &op : kernel.getBodyBlock()->without_terminator()) {
    if (failed(result) || !isa<tile::TileDialect>(op.getDialect()))
      continue;
    if (auto forKV = dyn_cast<tile::ForKVOp>(op)) {
      packPlaces(tile);
      result = lowerForKV(forKV);
      placeThread(e.freshThreadId());
      enterTile({unpack(0), unpack(1), unpack(2), Value()});
      if (slice)
        slice = unpack(3);
      continue;
    }
    for (int64_t i = 0; i < warpInstances() && succeeded(result); ++i) {
      enter(i);
      result = lowerOp(op);
    }
  }
  LLVM::ReturnOp::create(builder, e.loc, ValueRange());
  if (walker->usesLists())
    emitClassifyKernel(/*numMaps=*/0);
  describe({numThreads(), sharedBytes, /*needsAligned=*/false, {}});
  return result;
}

void AmpereLowering::placeThread(Value thread) {
  lane = e.band(thread, 31);
  warp = e.shuffleIndex(e.shr(thread, 5), e.cst(0));
  Value ownWarp = e.band(warp, 3);
  if (numWarpGroups() > 1)
    warpGroup = e.shr(warp, 2);
  threadRow = e.add(e.shl(ownWarp, 4), e.shr(lane, 2));
  threadColumn = e.shl(e.band(lane, 3), 1);
}

void AmpereLowering::enterTile(const BlockWalk::Tile &tile) {
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    Value instance = warpGroup ? e.add(e.mul(warpGroup, warpInstances()), i) : e.cst(i);
    scalars = walker->instanceScalars(tile, instance);
    emitUsedScalars();
  }
  enter(0);
}

Value AmpereLowering::sharedAddress(const Buffer &buffer, Value row, Value piece) {
  return e.add(e.add(sharedBase, buffer.offset),
               e.add(e.mul(row, buffer.rowBytes), e.mul(piece, kPieceBytes)));
}

LogicalResult AmpereLowering::lowerOp(Operation &op) {
  return llvm::TypeSwitch<Operation *, LogicalResult>(&op)
      .Case<tile::LoadOp, tile::ScaleOp>([&](auto) { return success(); })
      .Case([&](tile::FillOp fill) { return lowerFill(fill); })
      .Case([&](tile::MapOp map) { return lowerMap(map); })
      .Case([&](tile::MaskOp mask) { return lowerMask(mask); })
      .Case([&](tile::OnlineSoftmaxOp softmax) {
        LogicalResult result = lowerOnlineSoftmax(softmax);
        // Packed at once: another instance's softmax follows.
        if (is16Bit())
          fragments[softmax.getWeights()] = pack(registers(softmax.getWeights()), element);
        return result;
      })
      .Case([&](tile::ScaleRowsOp scale) { return lowerScaleRows(scale); })
      .Case([&](tile::NormalizeOp normalize) { return lowerNormalize(normalize); })
      .Case([&](tile::StoreOp store) {
        if (store == outputStore)
          storeTile(store);
        else if (slice)
          e.ifThen(e.eq(slice, 0), [&] { storeRows(store); });
        else
          storeRows(store);
        return success();
      })
      .Default([](Operation *other) -> LogicalResult {
        return other->emitError("has no lowering for the portable GPU path");
      });
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

Registers AmpereLowering::loadMatrices(Value base, int64_t offset, bool transpose) {
  return e.ptx(Twine("ldmatrix.sync.aligned.m8n8.x4") + (transpose ? ".trans" : "") +
                   ".shared.b16 {$0, $1, $2, $3}, [$4 + " + Twine(offset) + "];",
               "=r,=r,=r,=r,r", base, SmallVector<Type>(4, e.i32()));
}

Registers AmpereLowering::multiply(ArrayRef<Value> acc, ArrayRef<Value> a, Value b0, Value b1) {
  StringRef types = element.isBF16()  ? "m16n8k16.row.col.f32.bf16.bf16.f32"
                    : element.isF16() ? "m16n8k16.row.col.f32.f16.f16.f32"
                                      : "m16n8k8.row.col.f32.tf32.tf32.f32";
  SmallVector<Value> operands(a);
  operands.append({b0, b1});
  for (int64_t i = 0; i < 4; ++i)
    operands.push_back(acc.empty() ? e.cstF32(0.0f) : acc[i]);
  return e.ptx("mma.sync.aligned." + types +
                   " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
               "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", operands, SmallVector<Type>(4, e.f32()));
}

Value AmpereLowering::roundToTF32(Value bits) {
  return e.purePtx("cvt.rna.tf32.f32 $0, $1;", "=r,f", e.bitcast(e.f32(), bits), e.i32());
}

AmpereLowering::Parts AmpereLowering::split(ArrayRef<Value> bits) {
  Parts parts;
  for (Value x : bits) {
    Value big = roundToTF32(x);
    parts.big.push_back(big);
    if (!isSplit())
      continue;
    // The low bits of a TF32 number are undefined.
    Value clean = e.bitcast(e.f32(), e.band(big, ~int64_t(0x1FFF)));
    Value rest = e.fsub(e.bitcast(e.f32(), x), clean);
    parts.small.push_back(roundToTF32(e.bitcast(e.i32(), rest)));
  }
  return parts;
}

void AmpereLowering::multiplyParts(Registers (&acc)[2], const Parts &a, const Parts &b,
                                   int64_t first) {
  acc[0] = multiply(acc[0], a.big, b.big[first], b.big[first + 1]);
  if (!isSplit())
    return;
  acc[1] = multiply(acc[1], a.small, b.big[first], b.big[first + 1]);
  acc[1] = multiply(acc[1], a.big, b.small[first], b.small[first + 1]);
}

Registers AmpereLowering::sumOf(const Registers (&acc)[2]) {
  if (!isSplit())
    return acc[0];
  Registers sum;
  for (auto [big, small] : llvm::zip(acc[0], acc[1]))
    sum.push_back(e.fadd(big, small));
  return sum;
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

void AmpereLowering::loadQueries(Value firstRow) {
  if (schedule.getQueries() == tile::QueryPlace::Global) {
    for (int64_t i = 0; i < warpInstances(); ++i) {
      enter(i);
      for (int64_t r : {0, 1}) {
        Value row = e.add(e.add(scalar(query.load.getRow()), threadRow), 8 * r);
        Value address = e.add(query.address, e.mul(e.toI64(row), query.rowStride));
        Value column = e.mul(e.band(lane, 3), elementBytes);
        queryAddresses.push_back(e.add(address, e.toI64(column)));
        queryExists.push_back(e.lt(row, query.numRows));
      }
    }
    enter(0);
    return;
  }
  copy(query, firstRow, e.add(sharedBase, query.offset));
  commit();
}

void AmpereLowering::scaleQueries(Value factor) {
  int64_t pieces = query.stageBytes() / kPieceBytes;
  e.loop(e.threadId(), e.cst(pieces), e.cst(numThreads()), {},
         [&](Value index, ValueRange) -> Emitter::Values {
           Value address = e.add(e.add(sharedBase, query.offset), e.shl(index, 4));
           Registers words = e.ptx("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,r",
                                   address, SmallVector<Type>(4, e.i32()));
           for (Value &word : words)
             word = is16Bit() ? e.scalePair(element, word, factor)
                              : e.bitcast(e.i32(), e.fmul(e.bitcast(e.f32(), word), factor));
           words.insert(words.begin(), address);
           e.ptx("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", words);
           return {};
         });
}

Registers AmpereLowering::queryOperand(int64_t i, int64_t step) {
  switch (schedule.getQueries()) {
  case tile::QueryPlace::Registers:
    return instances[i].queries[step];
  case tile::QueryPlace::Shared:
    return loadMatrices(queryLane, i * kInstanceRows * query.rowBytes + step * kStepBytes);
  case tile::QueryPlace::Global:
    break;
  }
  // Elements (row, t) and (row, t + 4) of eight columns.
  Registers result;
  for (int64_t half : {0, 1})
    for (int64_t r : {0, 1}) {
      int64_t first = 8 * step + 4 * half;
      Value exists = queryExists[2 * i + r];
      if (first + 4 > query.columns)
        exists = e.band(exists, e.lt(e.add(e.band(lane, 3), first), e.cst(query.columns)));
      Value x = e.ptx("{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1 + " +
                          Twine(first * elementBytes) + "]; }",
                      "=&r,l,b", {queryAddresses[2 * i + r], exists}, e.i32())[0];
      if (queryFactor)
        x = e.bitcast(e.i32(), e.fmul(e.bitcast(e.f32(), x), queryFactor));
      result.push_back(x);
    }
  return result;
}

//===----------------------------------------------------------------------===//
// Tile ops
//===----------------------------------------------------------------------===//

void AmpereLowering::lowerScores(tile::DotOp op, Value stage) {
  // The address that ldmatrix takes from a lane, rows and columns the other way about.
  Value thread = isTight() ? e.freshLaneId() : lane;
  Value row = e.add(e.band(thread, 7), e.shl(e.shr(thread, 4), 3));
  Value keys = sharedAddress(key, row, e.band(e.shr(thread, 3), 1));
  if (schedule.getStages() > 1)
    keys = e.add(keys, e.mul(stage, key.stageBytes()));
  int64_t numTiles = blockKv() / 8;
  struct Accumulators {
    Registers acc[2];
  };
  SmallVector<SmallVector<Accumulators>> scores(warpInstances(),
                                                SmallVector<Accumulators>(numTiles));
  for (int64_t step = 0; step < numSteps(); ++step) {
    SmallVector<Registers> left;
    SmallVector<Parts> leftParts;
    for (int64_t i = 0; i < warpInstances(); ++i) {
      left.push_back(queryOperand(i, step));
      if (!is16Bit())
        leftParts.push_back(split(left.back()));
    }
    for (int64_t n = 0; n < numTiles; n += 2) {
      Registers right = loadMatrices(keys, n * 8 * key.rowBytes + step * kStepBytes);
      Parts rightParts;
      if (!is16Bit())
        rightParts = split(right);
      for (int64_t half : {0, 1})
        for (int64_t i = 0; i < warpInstances(); ++i) {
          auto &acc = scores[i][n + half].acc;
          if (is16Bit())
            acc[0] = multiply(acc[0], left[i], right[2 * half], right[2 * half + 1]);
          else
            multiplyParts(acc, leftParts[i], rightParts, 2 * half);
        }
    }
  }
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    Registers result;
    for (Accumulators &tile : scores[i])
      llvm::append_range(result, is16Bit() ? tile.acc[0] : sumOf(tile.acc));
    fragments[op] = result;
  }
}

void AmpereLowering::lowerAccumulation(tile::DotOp op, Value stage) {
  Value values = valueLane;
  if (schedule.getStages() > 1)
    values = e.add(values, e.mul(stage, value.stageBytes()));
  int64_t numTiles = llvm::divideCeil(value.columns, 8);
  SmallVector<Registers> weights, acc;
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    weights.push_back(registers(op.getLhs()));
    acc.push_back(registers(op.getAcc()));
  }
  auto tileOf = [&](int64_t i, int64_t n) {
    return MutableArrayRef<Value>(acc[i]).slice(4 * n, 4);
  };
  if (is16Bit()) {
    for (int64_t step = 0; step < blockKv() / 16; ++step)
      for (int64_t n = 0; n < numTiles; n += 2) {
        Registers right =
            loadMatrices(values, step * 16 * value.rowBytes + n * 16, /*transpose=*/true);
        for (int64_t half = 0; half < std::min<int64_t>(2, numTiles - n); ++half)
          for (int64_t i = 0; i < warpInstances(); ++i) {
            auto tile = tileOf(i, n + half);
            llvm::copy(multiply(tile, ArrayRef<Value>(weights[i]).slice(4 * step, 4),
                                right[2 * half], right[2 * half + 1]),
                       tile.begin());
          }
      }
  } else {
    // Keys 2 t and 2 t + 1 of eight are columns t and t + 4 of the left operand.
    SmallVector<SmallVector<Parts>> left(warpInstances());
    for (int64_t i = 0; i < warpInstances(); ++i)
      for (int64_t step = 0; step < blockKv() / 8; ++step) {
        Registers bits;
        for (int64_t index : {0, 2, 1, 3})
          bits.push_back(e.bitcast(e.i32(), weights[i][4 * step + index]));
        left[i].push_back(split(bits));
      }
    for (int64_t n = 0; n < numTiles; ++n) {
      SmallVector<std::array<Registers, 2>> sums(warpInstances());
      for (int64_t step = 0; step < blockKv() / 8; ++step) {
        Registers bits;
        for (int64_t half : {0, 1})
          bits.push_back(
              e.ptx("ld.shared.b32 $0, [$1 + " +
                        Twine((8 * step + half) * value.rowBytes + n * 8 * elementBytes) + "];",
                    "=r,r", values, e.i32())[0]);
        Parts right = split(bits);
        for (int64_t i = 0; i < warpInstances(); ++i) {
          Registers pair[2] = {sums[i][0], sums[i][1]};
          multiplyParts(pair, left[i][step], right, 0);
          sums[i] = {pair[0], pair[1]};
        }
      }
      for (int64_t i = 0; i < warpInstances(); ++i) {
        Registers pair[2] = {sums[i][0], sums[i][1]};
        for (auto [total, x] : llvm::zip(tileOf(i, n), sumOf(pair)))
          total = e.fadd(total, x);
      }
    }
  }
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    fragments[op] = acc[i];
  }
}

Value AmpereLowering::classOf(Value word, int64_t i) {
  Value shift = e.cst(2 * i);
  if (warpGroup)
    shift = e.add(e.mul(warpGroup, 2 * warpInstances()), 2 * i);
  return e.band(e.b.createOrFold<arith::ShRUIOp>(e.loc, word, shift), 3);
}

void AmpereLowering::limitTo(tile::ForKVOp op, Value isNeeded) {
  for (auto mask : op.getBodyBlock()->getOps<tile::MaskOp>()) {
    Value &limit = instances[current].limit;
    if (!limit)
      limit = scalar(mask.getLimit());
    scalars.map(mask.getLimit(), e.select(isNeeded, limit, e.cst(0)));
  }
}

LogicalResult AmpereLowering::lowerForKV(tile::ForKVOp op) {
  int64_t numStages = schedule.getStages();
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    hoistStages(op);
  }
  Block &body = *op.getBodyBlock();
  SmallVector<Value> iterArgs(op.getIterArgs()), yielded(body.getTerminator()->getOperands());
  SmallVector<int64_t> counts = countCarried(op);
  // The tiles that `values` stand for, of all instances, as one list; and back.
  auto flatten = [&](ArrayRef<Value> values) {
    Emitter::Values state;
    for (int64_t i = 0; i < warpInstances(); ++i) {
      enter(i);
      for (Value v : values)
        llvm::append_range(state, registers(v));
    }
    return state;
  };
  auto bind = [&](ArrayRef<Value> values, ValueRange state) {
    for (int64_t i = 0; i < warpInstances(); ++i) {
      enter(i);
      for (auto [v, count] : llvm::zip(values, counts)) {
        fragments[v] = Registers(state.take_front(count));
        state = state.drop_front(count);
      }
    }
    return state;
  };

  // Queries are followed by keys 0, values 0, keys 1, ..., keys stages - 1.
  SmallVector<Value> words;
  BlockWalk::Position position = walker->startOf(walk);
  for (int64_t i = 0; i < numStages; ++i) {
    Value word = walker->next(walk, position);
    words.push_back(word);
    copyBlock(key, word, e.cst(i));
    if (i + 1 < numStages)
      copyBlock(value, word, e.cst(i));
  }
  bool isShared = schedule.getQueries() != tile::QueryPlace::Global;
  bool isKept = schedule.getQueries() == tile::QueryPlace::Registers;
  if (isShared && (queryFactor || isKept)) {
    waitForAllBut(2 * numStages - 1);
    e.barrierAll();
    if (queryFactor)
      e.ifThen(e.fcmp(arith::CmpFPredicate::UNE, queryFactor, e.cstF32(1.0f)), [&] {
        scaleQueries(queryFactor);
        e.barrierAll();
      });
    for (int64_t i = 0; isKept && i < warpInstances(); ++i)
      for (int64_t step = 0; step < numSteps(); ++step)
        instances[i].queries.push_back(
            loadMatrices(queryLane, i * kInstanceRows * query.rowBytes + step * kStepBytes));
  }

  // Carried: tiles, the words of the next `stages` blocks, position, stage.
  Emitter::Values inits;
  for (int64_t i = 0; i < warpInstances(); ++i) {
    enter(i);
    for (auto [init, count] : llvm::zip(op.getInits(), counts))
      inits.append(count, registers(init)[0]);
  }
  size_t numTileRegisters = inits.size();
  SmallVector<Type> tileTypes(numTileRegisters, e.f32());
  llvm::append_range(inits, words);
  llvm::append_range(inits, position.values());
  inits.push_back(e.cst(0));

  LogicalResult status = success();
  auto lowerBlock = [&](ValueRange state) -> Emitter::Values {
    Emitter::Values before(state.take_front(numTileRegisters));
    ValueRange rest = bind(iterArgs, state);
    SmallVector<Value> ahead(rest.take_front(numStages));
    BlockWalk::Position place = BlockWalk::Position::of(rest.slice(numStages, 3));
    Value stage = rest[numStages + 3];
    Value word = ahead[0], previous = stage, following = stage;
    if (numStages > 1) {
      previous = e.select(e.eq(stage, 0), e.cst(numStages - 1), e.sub(stage, 1));
      following = e.select(e.eq(stage, numStages - 1), e.cst(0), e.add(stage, 1));
    }
    waitForAllBut(2 * (numStages - 1));
    e.barrierAll();
    copyBlock(value, ahead.back(), previous);
    Value nextWord = walker->next(walk, place);
    Value start = e.mul(e.shr(word, 8), blockKv()), concerns;
    for (int64_t i = 0; i < warpInstances(); ++i) {
      enter(i);
      Value cls = classOf(word, i);
      scalars.map(op.getBlockStart(), start);
      isPartial = e.ne(cls, int64_t(tile::BlockClass::Full));
      // Partial and Full are 1 and 2.
      Value isNeeded = e.ne(e.band(e.add(cls, 1), 2), 0);
      concerns = concerns ? e.bor(concerns, isNeeded) : isNeeded;
      if (warpInstances() > 1)
        limitTo(op, isNeeded);
    }
    auto turn = [&] {
      waitForAllBut(2 * (numStages - 1));
      e.barrierAll();
      copyBlock(key, nextWord, stage);
    };
    auto compute = [&]() -> Emitter::Values {
      for (Operation &inner : body.without_terminator()) {
        if (failed(status) || !isa<tile::TileDialect>(inner.getDialect()))
          continue;
        auto dot = dyn_cast<tile::DotOp>(inner);
        if (dot && !dot.getAcc()) {
          lowerScores(dot, stage);
          turn();
        } else if (dot) {
          lowerAccumulation(dot, stage);
        } else {
          for (int64_t i = 0; i < warpInstances() && succeeded(status); ++i) {
            enter(i);
            status = lowerOp(inner);
          }
        }
      }
      return flatten(yielded);
    };
    // A block that is walked concerns one of the instances, so that it concerns these if they are
    // all.
    Emitter::Values result;
    if (numWarpGroups() == 1)
      result = compute();
    else
      result = e.ifElse(concerns, tileTypes, compute, [&] {
        turn();
        return before;
      });
    result.append(ahead.begin() + 1, ahead.end());
    result.push_back(nextWord);
    llvm::append_range(result, place.values());
    result.push_back(following);
    return result;
  };
  Emitter::Values finished =
      e.loopWhile(inits, [&](ValueRange v) { return e.ge(v[numTileRegisters], 0); }, lowerBlock);
  bind(SmallVector<Value>(op.getResults()), finished);
  for (auto mask : body.getOps<tile::MaskOp>())
    for (int64_t i = 0; i < warpInstances(); ++i) {
      enter(i);
      if (instances[i].limit)
        scalars.map(mask.getLimit(), instances[i].limit);
    }
  enter(0);
  return status;
}

/// Registers -> global memory: pairs of neighbours where addresses allow it.
void AmpereLowering::storeTile(tile::StoreOp op) {
  ArrayRef<Value> output = registers(op.getTile());
  unsigned argument = argumentIndex(op.getTensor());
  int64_t headDim = op.getTile().getType().getNumColumns();
  auto strideBytes = [&](int64_t i) {
    return e.mul(uniform->word(strideWord(argument) + i), elementBytes);
  };
  Value address = uniform->word(argument);
  Value bits = e.bor(e.bor(address, strideBytes(2)), e.bor(strideBytes(0), strideBytes(1)));
  Value isPaired = e.eq(e.band(bits, 2 * elementBytes - 1), 0);
  address = e.add(address, e.add(e.mul(e.toI64(scalar(op.getBatch())), strideBytes(0)),
                                 e.mul(e.toI64(scalar(op.getHead())), strideBytes(1))));
  Value column = threadColumn;
  if (slice)
    column = e.add(column, e.mul(slice, value.columns));
  Value row = e.add(scalar(op.getRow()), threadRow);
  int64_t numTiles = llvm::divideCeil(value.columns, 8);
  // Whether column + c of tile n exists; null: it does.
  auto exists = [&](int64_t n, int64_t c) {
    int64_t most = (slice ? (schedule.getValueSlices() - 1) * value.columns : 0) + 8 * n + 8;
    return most <= headDim ? Value() : e.lt(e.add(column, 8 * n + c), e.cst(headDim));
  };
  auto emitStore = [&](StringRef type, StringRef constraint, Value at, int64_t offset, Value x,
                       Value predicate) {
    SmallVector<Value> operands = {at, x};
    if (predicate)
      operands.push_back(predicate);
    e.ptx((predicate ? "@$2 " : "") + Twine("st.global.") + type + " [$0 + " + Twine(offset) +
              "], $1;",
          ("l," + constraint + (predicate ? ",b" : "")).str(), operands);
  };
  for (int64_t r : {0, 1}) {
    Value q = e.add(row, 8 * r);
    Value isInside = e.lt(q, uniform->word32(HEED_ARG_SQ));
    Value at = e.add(e.add(address, e.mul(e.toI64(q), strideBytes(2))),
                     e.toI64(e.mul(column, elementBytes)));
    bool mayPair = headDim % 2 == 0;
    if (mayPair)
      e.ifThen(e.band(isInside, isPaired), [&] {
        for (int64_t n = 0; n < numTiles; ++n) {
          Value x = output[4 * n + 2 * r], y = output[4 * n + 2 * r + 1];
          int64_t offset = n * 8 * elementBytes;
          Value predicate = exists(n, 0);
          if (is16Bit()) {
            emitStore("b32", "r", at, offset, e.packPair(element, x, y), predicate);
            continue;
          }
          SmallVector<Value> operands = {at, x, y};
          if (predicate)
            operands.push_back(predicate);
          e.ptx((predicate ? "@$3 " : "") + Twine("st.global.v2.f32 [$0 + ") + Twine(offset) +
                    "], {$1, $2};",
                predicate ? "l,f,f,b" : "l,f,f", operands);
        }
      });
    Value byElement = mayPair ? e.band(isInside, e.negate(isPaired)) : isInside;
    e.ifThen(byElement, [&] {
      for (int64_t n = 0; n < numTiles; ++n)
        for (int64_t c : {0, 1}) {
          Value x = output[4 * n + 2 * r + c];
          int64_t offset = (n * 8 + c) * elementBytes;
          if (is16Bit())
            emitStore("b16", "h", at, offset, e.narrow(element, x), exists(n, c));
          else
            emitStore("f32", "f", at, offset, x, exists(n, c));
        }
    });
  }
}
