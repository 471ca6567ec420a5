//===-- MaskLowering.cpp - Block lists of a mask on a GPU -----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MaskLowering.h"

#include "heed-c/Runtime.h"
#include "heed/Conversion/Passes.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

/// Lanes of a warp: the rows and columns of what it classifies.
static constexpr int64_t kLanes = 32;
static constexpr int64_t kSkipped = int64_t(tile::BlockClass::Skipped);
static constexpr int64_t kPartial = int64_t(tile::BlockClass::Partial);
static constexpr int64_t kFull = int64_t(tile::BlockClass::Full);
/// Arguments of a function that attn-to-classifier makes, after the captures: batch and head, then
/// a box or a pair.
static constexpr unsigned kBoxCoordinates = 6, kPairCoordinates = 4;

MaskLowering::MaskLowering(func::FuncOp classify, func::FuncOp attends, StringRef name)
    : classify(classify), attends(attends), name(name.str()), builder(classify),
      e(builder, classify.getLoc()) {}

static LogicalResult check(func::FuncOp function, unsigned numCoordinates, Type coordinate,
                           Type result) {
  auto box = function->getAttrOfType<DictionaryAttr>(kBoxAttr);
  for (StringRef key : {"head_dim", "value_head_dim", "uses_batch", "uses_head"})
    if (!box || !isa_and_present<IntegerAttr>(box.get(key)))
      return function.emitError("expects the integer ") << key << " in '" << kBoxAttr << "'";
  if (!llvm::hasSingleElement(function.getBody()) || function.getNumArguments() < numCoordinates ||
      !llvm::all_of(function.getArgumentTypes().take_back(numCoordinates),
                    [&](Type type) { return type == coordinate; }))
    return function.emitError("expects one block whose last ")
           << numCoordinates << " arguments are coordinates of type " << coordinate;
  if (function.getResultTypes() != ArrayRef<Type>(result))
    return function.emitError("expects to return ") << result;
  return success();
}

LogicalResult MaskLowering::run() {
  if (failed(check(classify, kBoxCoordinates, builder.getIndexType(), builder.getI32Type())) ||
      failed(check(attends, kPairCoordinates, builder.getI32Type(), builder.getI1Type())))
    return failure();
  if (classify.getArgumentTypes().drop_back(kBoxCoordinates) !=
      attends.getArgumentTypes().drop_back(kPairCoordinates))
    return attends.emitError("expects the captures of the function that classifies boxes");
  emitClassify();
  auto box = classify->getAttrOfType<DictionaryAttr>(kBoxAttr);
  function->setAttr("heed.gpu_mask_code",
                    builder.getDictionaryAttr(
                        {builder.getNamedAttr("uses_batch", box.get("uses_batch")),
                         builder.getNamedAttr("uses_head", box.get("uses_head")),
                         builder.getNamedAttr("warps", builder.getI64IntegerAttr(kWarps))}));
  emitSettle();
  emitList();
  emitFill();
  return success();
}

//===----------------------------------------------------------------------===//
// What the kernels share
//===----------------------------------------------------------------------===//

ScalarSource MaskLowering::sourceOf(func::FuncOp source, unsigned numCoordinates) {
  auto box = source->getAttrOfType<DictionaryAttr>(kBoxAttr);
  auto number = [&](StringRef key) { return cast<IntegerAttr>(box.get(key)).getInt(); };
  return {&source.front(), source.getArguments().drop_back(numCoordinates), /*scale=*/Value(),
          number("head_dim"), number("value_head_dim")};
}

void MaskLowering::begin(StringRef suffix) {
  ScalarSource ofBoxes = sourceOf(classify, kBoxCoordinates);
  OpBuilder outside(classify);
  function = createKernelFunction(outside, e.loc, (name + suffix).str(), /*numMaps=*/0,
                                  countArgumentWords(ofBoxes.parameters), kWarps * kLanes,
                                  /*minBlocksPerSM=*/1);
  builder.setInsertionPointToStart(&function.front());
  Value args = function.getArgument(0);
  boxes = std::make_unique<Scalars>(e, ofBoxes, args);
  pairs = std::make_unique<Scalars>(e, sourceOf(attends, kPairCoordinates), args);
}

void MaskLowering::end() {
  LLVM::ReturnOp::create(builder, e.loc, ValueRange());
  unrollReads(function);
}

void MaskLowering::forWork(Value piecesPerList, llvm::function_ref<void(Work)> body) {
  Value warp = e.shuffleIndex(e.shr(e.threadId(), 5), e.cst(0));
  Value number = e.add(e.mul(e.blockId(), kWarps), warp);
  Value list = e.div(number, piecesPerList);
  e.ifThen(e.lt(list, word32(HEED_MASK_ARG_LISTS)),
           [&] { body({list, e.sub(number, e.mul(list, piecesPerList))}); });
}

IRMapping MaskLowering::gridOf(Scalars &scalars, ValueRange coordinates, Value list) {
  IRMapping mapping = scalars.arguments();
  Value heads = word32(HEED_MASK_ARG_HEADS), batch = e.div(list, heads);
  mapping.map(coordinates[0], batch);
  mapping.map(coordinates[1], e.sub(list, e.mul(batch, heads)));
  return mapping;
}

MaskLowering::Range MaskLowering::rangeOf(Value number, int64_t blockWord, int64_t lengthWord) {
  Value block = word32(blockWord), first = e.mul(number, block);
  // No sum of two coordinates: block sizes may be anything.
  return {first, e.add(first, e.min(block, e.sub(word32(lengthWord), first)))};
}

/// Whether a block reaches beyond the last query or key, and does not count as full for that.
Value MaskLowering::hangs(const Range &queries, const Range &keys) {
  auto isShort = [&](const Range &range, int64_t blockWord) {
    return e.lt(e.sub(range.end, range.first), word32(blockWord));
  };
  Value some =
      e.bor(isShort(queries, HEED_MASK_ARG_BLOCK_Q), isShort(keys, HEED_MASK_ARG_BLOCK_KV));
  return e.band(some, e.ne(word32(HEED_MASK_ARG_HANGING_IS_PARTIAL), 0));
}

/// The value that `v` has in another lane.
Value MaskLowering::broadcast(Value v, Value lane) {
  Type type = v.getType();
  if (type.isInteger(32))
    return e.shuffleIndex(v, lane);
  if (type.isF32())
    return e.bitcast(type, e.shuffleIndex(e.bitcast(e.i32(), v), lane));
  if (type.isInteger(1))
    return e.ne(e.shuffleIndex(arith::ExtUIOp::create(e.b, e.loc, e.i32(), v), lane), 0);
  Value high = e.toI32(e.shr(v, 32));
  return e.bor(e.shl(e.toI64(e.shuffleIndex(high, lane)), 32),
               arith::ExtUIOp::create(e.b, e.loc, e.i64(), e.shuffleIndex(e.toI32(v), lane)));
}

Value MaskLowering::classAddress(Value list, Value row, Value column) {
  auto distance = [&](Value number, int64_t strideWord) {
    return e.mul(e.toI64(number), boxes->word(strideWord));
  };
  Value offset =
      e.add(distance(row, HEED_MASK_ARG_ROW_STRIDE), distance(column, HEED_MASK_ARG_COLUMN_STRIDE));
  return e.at(boxes->pointer(HEED_MASK_ARG_CLASSES),
              e.add(offset, distance(list, HEED_MASK_ARG_LIST_STRIDE)));
}

/// Skipped where there is none.
Value MaskLowering::loadClass(Value address, Value exists) {
  return e.loadIf("u8", address, exists);
}

void MaskLowering::storeClass(Value cls, Value address, Value condition) {
  e.ifThen(condition, [&] {
    Value byte = arith::TruncIOp::create(e.b, e.loc, e.b.getI8Type(), cls);
    e.store(byte, address, 1);
  });
}

//===----------------------------------------------------------------------===//
// Classes by intervals
//===----------------------------------------------------------------------===//

void MaskLowering::emitClassify() {
  begin("_classify");
  // What ops are computed from: bit 0 for the queries of the box, bit 1 for its keys.
  enum { kOfQueries = 1, kOfKeys = 2, kOfBoth = 3 };
  llvm::DenseMap<Value, int> origins;
  auto grid = classify.getArguments().take_back(kBoxCoordinates);
  origins[grid[2]] = origins[grid[3]] = kOfQueries;
  origins[grid[4]] = origins[grid[5]] = kOfKeys;
  SmallVector<Operation *> ofOne, ofBoth;
  llvm::SetVector<Value> sent; // of queries, used by the ops of both
  auto note = [&](Operation *op) {
    int origin = 0;
    op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands())
        origin |= origins.lookup(operand);
    });
    for (Value result : op->getResults())
      origins[result] = origin;
    return origin;
  };
  auto send = [&](Operation *op) {
    op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands())
        if (origins.lookup(operand) == kOfQueries)
          sent.insert(operand);
    });
  };
  Operation *terminator = classify.front().getTerminator();
  for (Operation &op : classify.front().without_terminator())
    if (note(&op) == kOfBoth) {
      ofBoth.push_back(&op);
      send(&op);
    } else {
      ofOne.push_back(&op);
    }
  send(terminator);

  Value rows = word32(HEED_MASK_ARG_ROWS), columns = word32(HEED_MASK_ARG_COLUMNS);
  Value lane = e.laneId();
  Value columnTiles = e.divCeil(columns, kLanes);
  Value rowTiles = e.divCeil(rows, kLanes);
  forWork(e.mul(rowTiles, columnTiles), [&](Work work) {
    Value rowTile = e.div(work.piece, columnTiles);
    Value firstRow = e.mul(rowTile, kLanes);
    Value firstColumn = e.mul(e.sub(work.piece, e.mul(rowTile, columnTiles)), kLanes);
    // Lanes without a row or a column take the last one along.
    Value column = e.add(firstColumn, lane), hasColumn = e.lt(column, columns);
    Range queries =
        rangeOf(e.min(e.add(firstRow, lane), e.sub(rows, 1)), HEED_MASK_ARG_BLOCK_Q, HEED_ARG_SQ);
    Range keys = rangeOf(e.min(column, e.sub(columns, 1)), HEED_MASK_ARG_BLOCK_KV, HEED_ARG_SKV);
    IRMapping own = boxOf(work.list, queries, keys);
    for (Operation *op : ofOne)
      boxes->emit(*op, own);

    Value numRows = e.min(e.sub(rows, firstRow), e.cst(kLanes));
    e.loopWhile(
        e.cst(0), [&](ValueRange v) { return e.lt(v[0], numRows); },
        [&](ValueRange v) -> Emitter::Values {
          IRMapping mapping = own;
          for (Value value : sent)
            mapping.map(value, broadcast(own.lookup(value), v[0]));
          for (Operation *op : ofBoth)
            boxes->emit(*op, mapping);
          Value cls = mapping.lookup(terminator->getOperand(0));
          Range ofRow = {broadcast(queries.first, v[0]), broadcast(queries.end, v[0])};
          Value full = e.select(hangs(ofRow, keys), e.cst(kPartial), e.cst(kFull));
          cls = e.select(e.eq(cls, kPartial), e.cst(kOpen), e.select(e.eq(cls, kFull), full, cls));
          storeClass(cls, classAddress(work.list, e.add(firstRow, v[0]), column), hasColumn);
          return {e.add(v[0], 1)};
        });
  });
  end();
}

//===----------------------------------------------------------------------===//
// What intervals leave open
//===----------------------------------------------------------------------===//

void MaskLowering::emitSettle() {
  begin("_settle");
  Value columns = word32(HEED_MASK_ARG_COLUMNS), lane = e.laneId();
  Value tiles = e.divCeil(columns, kLanes);
  forWork(e.mul(word32(HEED_MASK_ARG_ROWS), tiles), [&](Work work) {
    Value row = e.div(work.piece, tiles);
    Value firstColumn = e.mul(e.sub(work.piece, e.mul(row, tiles)), kLanes);
    Value own = e.add(firstColumn, lane), address = classAddress(work.list, row, own);
    Value cls = loadClass(address, e.lt(own, columns)), isOpen = e.eq(cls, kOpen);
    Range queries = rangeOf(row, HEED_MASK_ARG_BLOCK_Q, HEED_ARG_SQ);
    Emitter::Values settled = e.loopWhile(
        {e.ballot(isOpen), cls}, [&](ValueRange v) { return e.ne(v[0], 0); },
        [&](ValueRange v) -> Emitter::Values {
          Value place = e.trailingZeros(v[0]);
          Range keys = rangeOf(e.add(firstColumn, place), HEED_MASK_ARG_BLOCK_KV, HEED_ARG_SKV);
          Seen seen = lookAt(work.list, queries, keys);
          Value isPartial = e.bor(seen.other, hangs(queries, keys));
          Value found = e.select(isPartial, e.cst(kPartial), e.cst(kFull));
          found = e.select(seen.attending, found, e.cst(kSkipped));
          return {e.band(v[0], e.sub(v[0], 1)), e.select(e.eq(lane, place), found, v[1])};
        });
    storeClass(settled[1], address, isOpen);
  });
  end();
}

/// Part `number` of `count` parts of a range, which may be empty.
MaskLowering::Range MaskLowering::partOf(const Range &range, Value number, int64_t count) {
  Value length = e.sub(range.end, range.first);
  Value share = e.div(length, count), rest = e.sub(length, e.mul(share, count));
  auto start = [&](Value part) {
    return e.add(range.first, e.add(e.mul(part, share), e.min(part, rest)));
  };
  return {start(number), start(e.add(number, 1))};
}

IRMapping MaskLowering::boxOf(Value list, const Range &queries, const Range &keys) {
  auto coordinates = classify.getArguments().take_back(kBoxCoordinates);
  IRMapping mapping = gridOf(*boxes, coordinates, list);
  mapping.map(coordinates[2], queries.first);
  mapping.map(coordinates[3], queries.end);
  mapping.map(coordinates[4], keys.first);
  mapping.map(coordinates[5], keys.end);
  return mapping;
}

Value MaskLowering::classOf(Value list, const Range &queries, const Range &keys) {
  IRMapping mapping = boxOf(list, queries, keys);
  for (Operation &op : classify.front().without_terminator())
    boxes->emit(op, mapping);
  return mapping.lookup(classify.front().getTerminator()->getOperand(0));
}

Value MaskLowering::keeps(Value list, Value q, Value kv) {
  auto coordinates = attends.getArguments().take_back(kPairCoordinates);
  Value result = attends.front().getTerminator()->getOperand(0);
  IRMapping mapping = gridOf(*pairs, coordinates, list);
  mapping.map(coordinates[2], q);
  mapping.map(coordinates[3], kv);
  pairs->emitSlice(result, mapping);
  return mapping.lookup(result);
}

MaskLowering::Seen MaskLowering::lookAt(Value list, const Range &queries, const Range &keys) {
  // First a pair for each lane, all over the block, corners included: where an edge of the mask
  // runs through it, they mostly differ.
  constexpr int64_t kRowParts = 4, kColumnParts = 8;
  static_assert(kRowParts * kColumnParts == kLanes);
  Value lane = e.laneId();
  auto spread = [&](const Range &range, Value number, int64_t count) {
    return e.add(range.first,
                 e.div(e.mul(e.sub(e.sub(range.end, range.first), 1), number), count - 1));
  };
  Value first = keeps(list, spread(queries, e.div(lane, kColumnParts), kRowParts),
                      spread(keys, e.rem(lane, kColumnParts), kColumnParts));
  Seen seen{e.voteAny(first), e.voteAny(e.negate(first))};
  auto isOpen = [&](Value attending, Value other) { return e.negate(e.band(attending, other)); };
  Emitter::Values found = e.ifElse(
      isOpen(seen.attending, seen.other), {e.i1(), e.i1()},
      [&]() -> Emitter::Values {
        // Then intervals of a part for each lane, and last the pairs of the parts still open.
        auto part = [&](Value number) {
          return std::pair(partOf(queries, e.div(number, kColumnParts), kRowParts),
                           partOf(keys, e.rem(number, kColumnParts), kColumnParts));
        };
        auto [ownQueries, ownKeys] = part(lane);
        Value exists =
            e.band(e.lt(ownQueries.first, ownQueries.end), e.lt(ownKeys.first, ownKeys.end));
        Value cls = classOf(list, ownQueries, ownKeys);
        auto is = [&](int64_t kind) { return e.band(exists, e.eq(cls, kind)); };
        Emitter::Values result = e.loopWhile(
            {e.ballot(is(kPartial)), e.bor(seen.attending, e.voteAny(is(kFull))),
             e.bor(seen.other, e.voteAny(is(kSkipped)))},
            [&](ValueRange v) { return e.band(e.ne(v[0], 0), isOpen(v[1], v[2])); },
            [&](ValueRange v) -> Emitter::Values {
              auto [partQueries, partKeys] = part(e.trailingZeros(v[0]));
              Seen ofPart = lookAtAll(list, partQueries, partKeys, {v[1], v[2]});
              return {e.band(v[0], e.sub(v[0], 1)), ofPart.attending, ofPart.other};
            });
        return {result[1], result[2]};
      },
      [&]() -> Emitter::Values { return {seen.attending, seen.other}; });
  return {found[0], found[1]};
}

MaskLowering::Seen MaskLowering::lookAtAll(Value list, const Range &queries, const Range &keys,
                                           const Seen &before) {
  Value width = e.sub(keys.end, keys.first);
  Value count = e.mul(width, e.sub(queries.end, queries.first)), lane = e.laneId();
  Emitter::Values seen = e.loopWhile(
      {e.cst(0), before.attending, before.other},
      [&](ValueRange v) { return e.band(e.lt(v[0], count), e.negate(e.band(v[1], v[2]))); },
      [&](ValueRange v) -> Emitter::Values {
        // Lanes beyond the end look at the last pair again.
        Value own = e.min(e.add(v[0], lane), e.sub(count, 1)), row = e.div(own, width);
        Value kept = keeps(list, e.add(queries.first, row),
                           e.add(keys.first, e.sub(own, e.mul(row, width))));
        return {e.add(v[0], kLanes), e.bor(v[1], e.voteAny(kept)),
                e.bor(v[2], e.voteAny(e.negate(kept)))};
      });
  return {seen[1], seen[2]};
}

//===----------------------------------------------------------------------===//
// Lists
//===----------------------------------------------------------------------===//

void MaskLowering::emitList() {
  begin("_list");
  Value rows = word32(HEED_MASK_ARG_ROWS), columns = word32(HEED_MASK_ARG_COLUMNS);
  Value lane = e.laneId();
  forWork(rows, [&](Work work) {
    auto classOf = [&](Value column) {
      return loadClass(classAddress(work.list, work.piece, column), e.lt(column, columns));
    };
    auto overColumns = [&](ValueRange inits,
                           llvm::function_ref<Emitter::Values(Value, ValueRange)> body) {
      SmallVector<Value> carried = {e.cst(0)};
      llvm::append_range(carried, inits);
      Emitter::Values results = e.loopWhile(
          carried, [&](ValueRange v) { return e.lt(v[0], columns); },
          [&](ValueRange v) {
            Emitter::Values next = {e.add(v[0], kLanes)};
            llvm::append_range(next, body(e.add(v[0], lane), v.drop_front()));
            return next;
          });
      results.erase(results.begin());
      return results;
    };
    constexpr std::pair<int64_t, int64_t> kinds[] = {{kPartial, HEED_MASK_ARG_PARTIAL_COUNTS},
                                                     {kFull, HEED_MASK_ARG_FULL_COUNTS}};
    Emitter::Values totals =
        overColumns({e.cst(0), e.cst(0)}, [&](Value column, ValueRange v) -> Emitter::Values {
          Value cls = classOf(column);
          Emitter::Values sums;
          for (auto [kind, sum] : llvm::zip(kinds, v))
            sums.push_back(e.add(sum, e.popcount(e.ballot(e.eq(cls, kind.first)))));
          return sums;
        });
    Value number = e.add(e.mul(e.toI64(work.list), e.toI64(rows)), e.toI64(work.piece));
    e.ifThen(e.eq(lane, 0), [&] {
      for (auto [kind, total] : llvm::zip(kinds, totals))
        e.store(total, e.at(boxes->pointer(kind.second), e.shl(number, 2)), 4);
    });
    // Blocks of the kind come first, then the others, both in ascending order.
    Value firstPlace = e.mul(number, e.toI64(columns));
    overColumns({e.cst(0), e.cst(0)}, [&](Value column, ValueRange v) -> Emitter::Values {
      Value cls = classOf(column), exists = e.lt(column, columns);
      Emitter::Values sums;
      for (auto [kind, total, sum] : llvm::zip(kinds, totals, v)) {
        Value isOfKind = e.eq(cls, kind.first), vote = e.ballot(isOfKind);
        Value before = e.add(sum, e.popcount(e.band(vote, e.lanesBelow())));
        Value place = e.select(isOfKind, before, e.add(total, e.sub(column, before)));
        // The indices' pointer follows that of the counts.
        Value indices = boxes->pointer(kind.second + 1);
        e.ifThen(exists, [&] {
          e.store(column, e.at(indices, e.shl(e.add(firstPlace, e.toI64(place)), 2)), 4);
        });
        sums.push_back(e.add(sum, e.popcount(vote)));
      }
      return sums;
    });
  });
  end();
}

void MaskLowering::emitFill() {
  begin("_fill");
  Value rows = word32(HEED_MASK_ARG_ROWS), columns = word32(HEED_MASK_ARG_COLUMNS);
  Value lane = e.laneId();
  forWork(rows, [&](Work work) {
    auto forEntries = [&](Value count, llvm::function_ref<void(Value)> body) {
      e.loopWhile(
          lane, [&](ValueRange v) { return e.lt(v[0], count); },
          [&](ValueRange v) -> Emitter::Values {
            body(v[0]);
            return {e.add(v[0], kLanes)};
          });
      // What lanes have written comes before what others write next.
      e.ptx("bar.warp.sync 0xffffffff;", "", {});
    };
    auto setClass = [&](Value column, int64_t cls) {
      storeClass(e.cst(cls), classAddress(work.list, work.piece, column), e.cstBool(true));
    };
    forEntries(columns, [&](Value column) { setClass(column, kSkipped); });
    Value number = e.add(e.mul(e.toI64(work.list), e.toI64(rows)), e.toI64(work.piece));
    for (auto [kind, counts, widthWord] :
         {std::tuple(kPartial, HEED_MASK_ARG_PARTIAL_COUNTS, HEED_MASK_ARG_PARTIAL_WIDTH),
          std::tuple(kFull, HEED_MASK_ARG_FULL_COUNTS, HEED_MASK_ARG_FULL_WIDTH)}) {
      int64_t cls = kind, countsWord = counts;
      Value width = word32(widthWord), isGiven = e.ne(boxes->word(countsWord), 0);
      Value count = e.loadIf("b32", e.at(boxes->pointer(countsWord), e.shl(number, 2)), isGiven);
      Value indices = e.at(boxes->pointer(countsWord + 1), e.shl(e.mul(number, e.toI64(width)), 2));
      forEntries(e.min(count, width), [&](Value place) {
        Value column = e.load(e.i32(), e.at(indices, e.shl(e.toI64(place), 2)), 4);
        // Entries that name no block have no effect.
        e.ifThen(e.cmp(arith::CmpIPredicate::ult, column, columns), [&] { setClass(column, cls); });
      });
    }
  });
  end();
}
