//===-- HopperConsumers.cpp - The consumers of kernels for sm_90a ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "HopperLowering.h"

#include "heed/Target/NVIDIA/HoistElements.h"

#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

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
        for (Value &word : words)
          word = e.scalePair(element, word, factor);
        words.insert(words.begin(), address);
        e.ptx("st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r", words);
      }
    e.ptx("fence.proxy.async.shared::cta;", "", {});
    e.barrier(e.add(group, 1), kInstanceThreads);
  });
  return success();
}

//===----------------------------------------------------------------------===//
// Words
//===----------------------------------------------------------------------===//

/// A word that the producer left. The lane that gives its place back reads it for all.
Value HopperLowering::readWord(Value place) {
  Value word = e.ptx("{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }", "=&r,r,b",
                     {place, isLeadLane}, e.i32())[0];
  return e.shuffleIndex(word, e.cst(0));
}

Value HopperLowering::classOf(Value word) {
  Value shift = e.shl(group, 1);
  return e.band(arith::ShRUIOp::create(builder, e.loc, word, shift), 3);
}

Value HopperLowering::concerns(Value word) {
  return e.band(e.ge(word, 0), e.negate(e.eq(classOf(word), BlockWalk::kDone)));
}

void HopperLowering::giveBackFront(Value slot, Value word) {
  Value arrives = alongKeys.empty() ? isLeadLane : e.cstBool(true);
  if (word) // always true, and not known before the word is
    arrives = e.band(arrives, e.ge(word, -1));
  arrive(barrier(rings[0].empty, slot), arrives);
}

//===----------------------------------------------------------------------===//
// What lies beside scores
//===----------------------------------------------------------------------===//

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
  for (const Ring &ring : matrices)
    if (llvm::any_of(beside, [&](Value v) { return v.getDefiningOp() == ring.load; }))
      wait(barrier(ring.full, slotOf(ring, blockCursor)), parityOf(ring, blockCursor));
  return lower();
}

/// An arrival right behind shared loads does not wait for what they return, and the copy engine's
/// writes do not queue behind them: it would overwrite what is yet to be read (seen on an H100 with
/// 4-byte elements). Row maxima were computed from everything that was read, and none of them has
/// these bits, a signalling NaN: the arrival waits for them to be known.
void HopperLowering::scoresAreKnown(ArrayRef<Value> rowMax) {
  if (matrices.empty())
    return;
  constexpr int64_t signallingNaN = 0x7F800001;
  Value isKnown = e.ne(e.bitcast(e.i32(), e.fmax(rowMax[0], rowMax[1])), signallingNaN);
  giveBackMatrices(blockCursor, isKnown);
}

void HopperLowering::giveBackMatrices(Cursor cursor, Value predicate) {
  for (const Ring &ring : matrices)
    arrive(barrier(ring.empty, slotOf(ring, cursor)), predicate);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

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

//===----------------------------------------------------------------------===//
// The loop
//===----------------------------------------------------------------------===//

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
    giveBackFront(slot, word);
    for (const Ring &ring : matrices)
      wait(barrier(ring.full, slotOf(ring, front)), parityOf(ring, front));
    giveBackMatrices(front, e.cstBool(true));
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

//===----------------------------------------------------------------------===//
// Output
//===----------------------------------------------------------------------===//

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
