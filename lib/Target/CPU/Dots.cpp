//===-- Dots.cpp - Matrix products on panels ------------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLowering.h"

#include "mlir/IR/Matchers.h"

#include <limits>
#include <numeric>

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

LogicalResult KernelLowering::lowerDot(tile::DotOp op) {
  if (!tiles.count(op.getLhs()) || !tiles.count(op.getRhs()))
    return op.emitError("expects operands that were loaded or computed before");
  const TileStorage lhs = storage(op.getLhs()), rhs = storage(op.getRhs());
  if (op.getTransposeLhs() || lhs.kind != TileStorage::Panel)
    return op.emitError("expects a panel of queries or weights as its first operand");
  bool isAMX = schedule.getDot() == tile::DotKind::AMX;

  if (op.getTransposeRhs()) {
    if (op.getAcc() || rhs.kind != TileStorage::KvRows)
      return op.emitError("expects rows of keys and no accumulator with transpose_rhs");
    TileStorage s;
    s.kind = TileStorage::Panel;
    s.rows = blockKv + schedule.getRows(); // the last rows of the product may be ragged
    s.base = allocate(s.rows * blockQ * 4);
    tiles[op.getResult()] = s;
    ScoresProduct product{lhs, rhs, op.getLhs().getType().getNumColumns(), s, collectEpilogue(op)};
    if (product.epilogue.newMax)
      products[product.epilogue.scores] = product; // emitted with its softmax
    else
      emitScores(product, [](Value) {}, [](Value) {});
    return success();
  }

  if (!op.getAcc() || !op.getAcc().hasOneUse())
    return op.emitError("expects an accumulator that has no other use");
  int64_t valueDim = op.getRhs().getType().getNumColumns();
  const TileStorage acc = storage(op.getAcc());
  auto waiting = waitingWeights.find(op.getLhs());
  if (isAMX)
    emitAccumulateAMX(lhs, rhs, valueDim, acc);
  else
    emitAccumulate(lhs, rhs, valueDim, acc,
                   waiting == waitingWeights.end() ? nullptr : &waiting->second);
  tiles[op.getResult()] = storage(op.getAcc());
  return success();
}

//===----------------------------------------------------------------------===//
// Stages on fresh scores
//===----------------------------------------------------------------------===//

KernelLowering::Epilogue KernelLowering::collectEpilogue(tile::DotOp op) {
  Epilogue epilogue;
  const TileStorage scores = storage(op.getResult());
  Value current = op.getResult();
  while (current.hasOneUse()) {
    Operation *user = *current.user_begin();
    if (isa<tile::MapOp>(user) && !epilogue.mask) {
      epilogue.maps.push_back(stages.find(user)->second.get());
    } else if (auto mask = dyn_cast<tile::MaskOp>(user); mask && !epilogue.mask) {
      // The limit needs nothing: rows beyond it are not computed.
      if (!mask.getBody().empty()) {
        epilogue.mask = stages.find(user)->second.get();
        epilogue.isPartial = scalar(mask.getPartial());
      }
    } else {
      if (auto softmax = dyn_cast<tile::OnlineSoftmaxOp>(user);
          softmax && softmax.getScores() == current) {
        epilogue.oldMax = storage(softmax.getReference()).base;
        epilogue.newMax = allocate(blockQ * 4);
        epilogue.scores = current;
      }
      break;
    }
    current = user->getResult(0);
    tiles[current] = scores;
  }
  return epilogue;
}

void KernelLowering::emitScores(const ScoresProduct &product,
                                llvm::function_ref<void(Value)> beforeStages,
                                llvm::function_ref<void(Value)> then,
                                llvm::function_ref<void()> onEachRound) {
  bool isAMX = schedule.getDot() == tile::DotKind::AMX;
  if (isAMX)
    emitScoresAMX(product);
  forEachGroup([&](Value group) {
    if (!isAMX)
      emitScoresFMA(product, group, onEachRound);
    beforeStages(group);
    emitStages(product, group);
    then(group);
  });
}

/// Applies stages to all scores of a group and takes their maximum, in a pass of its own: a stage
/// unrolled into each register tile would be compiled sixteen times over and save one load and
/// store in a hundred multiplications.
void KernelLowering::emitStages(const ScoresProduct &product, Value group) {
  const Epilogue &epilogue = product.epilogue;
  const TileStorage &scores = product.scores;
  auto pass = [&](bool withMask) {
    SmallVector<StageVectorizer *> applied(epilogue.maps);
    if (withMask)
      applied.push_back(epilogue.mask);
    int64_t vectors = schedule.getVectors();
    auto lane = [&](int64_t j) { return e->add(group, j * lanes); };
    SmallVector<Value> max;
    if (epilogue.newMax)
      max = loadGroup(epilogue.oldMax, group);
    max = e->loop(e->cst(0), groupRows(group), 1, max, [&](Value row, ValueRange carried) {
      SmallVector<StageVectorizer::Row> rows;
      Value kv = e->toI32(e->add(blockStart, row));
      for (StageVectorizer *stage : applied)
        rows.push_back(stage->beginRow(kv));
      SmallVector<Value> next;
      for (int64_t j = 0; j < vectors; ++j) {
        Value offset = groupOffset(scores, row, group, j * lanes);
        Value address = e->at(scores.base, offset, e->f32());
        Value s = e->load(e->vecF32(), address);
        for (auto [stage, stageRow] : llvm::zip(applied, rows)) {
          Value result = stage->evaluate(stageRow, lane(j), s);
          s = stage == epilogue.mask
                  ? e->select(result, s, e->splatF32(-std::numeric_limits<float>::infinity()))
                  : result;
        }
        if (!applied.empty())
          e->store(s, address);
        if (epilogue.newMax)
          next.push_back(e->fmax(s, carried[j]));
      }
      return next;
    });
    for (auto [j, m] : llvm::enumerate(max))
      e->store(m, e->at(epilogue.newMax, lane(j), e->f32()));
  };
  bool isDone = takesMaxInDot(product) || (epilogue.maps.empty() && !epilogue.newMax);
  if (!epilogue.mask) {
    if (!isDone)
      pass(/*withMask=*/false);
    return;
  }
  auto branch = scf::IfOp::create(builder, e->loc, epilogue.isPartial, /*withElseRegion=*/!isDone);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(branch.thenBlock());
  pass(/*withMask=*/true);
  if (!isDone) {
    builder.setInsertionPointToStart(branch.elseBlock());
    pass(/*withMask=*/false);
  }
}

//===----------------------------------------------------------------------===//
// The micro-kernel
//===----------------------------------------------------------------------===//

static constexpr int64_t kLineBytes = 64;
/// Steps of a contraction that read one cache line of a row, at 4 bytes each.
static constexpr int64_t kStepsPerLine = kLineBytes / 4;

static std::optional<int64_t> constantOf(Value v) {
  APInt value;
  if (matchPattern(v, m_ConstantInt(&value)))
    return value.getSExtValue();
  return std::nullopt;
}

SmallVector<Value> KernelLowering::emitMicroKernel(
    int64_t rows, int64_t vectors, Value steps, int64_t unroll, ArrayRef<Value> inits, bool isPairs,
    llvm::function_ref<Value(Value, int64_t)> scalarAt,
    llvm::function_ref<Value(Value, int64_t)> vectorAt, llvm::function_ref<void()> onEachRound,
    llvm::function_ref<void(Value)> onEachLine) {
  VectorType pairs = VectorType::get({2 * lanes}, builder.getBF16Type());
  auto multiply = [&](Value a, Value b, Value acc) -> Value {
    if (!isPairs)
      return e->fma(a, b, acc);
    auto cast = [&](Value v) -> Value {
      return vector::BitCastOp::create(builder, e->loc, pairs, v);
    };
    return e->intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", e->vecF32(), {acc, cast(a), cast(b)});
  };
  auto step = [&](Value k, SmallVector<Value> acc) {
    SmallVector<Value> columns;
    for (int64_t j = 0; j < vectors; ++j)
      columns.push_back(vectorAt(k, j));
    for (int64_t i = 0; i < rows; ++i) {
      Value s = e->broadcast(scalarAt(k, i));
      for (int64_t j = 0; j < vectors; ++j)
        acc[i * vectors + j] = multiply(s, columns[j], acc[i * vectors + j]);
    }
    return acc;
  };
  auto rounds = [&](Value from, Value to, ValueRange carried) {
    return e->loop(from, to, unroll, carried, [&](Value k, ValueRange carried) {
      if (onEachRound)
        onEachRound();
      SmallVector<Value> next(carried);
      for (int64_t u = 0; u < unroll; ++u)
        next = step(e->add(k, u), next);
      return next;
    });
  };
  std::optional<int64_t> count = constantOf(steps);
  Value main = count ? e->cst(*count / unroll * unroll) : e->mul(e->div(steps, unroll), unroll);
  SmallVector<Value> acc(inits);
  Value done = e->cst(0);
  if (onEachLine) {
    Value lines = e->cst(*count / kStepsPerLine * kStepsPerLine);
    acc = e->loop(done, lines, kStepsPerLine, acc, [&](Value k, ValueRange carried) {
      onEachLine(k);
      return rounds(k, e->add(k, kStepsPerLine), carried);
    });
    done = lines;
  }
  if (constantOf(done) != constantOf(main))
    acc = rounds(done, main, acc);
  if (count && *count % unroll == 0)
    return acc;
  return e->loop(main, steps, 1, acc,
                 [&](Value k, ValueRange carried) { return step(k, SmallVector<Value>(carried)); });
}

/// Asks for one cache line of the rows of the next block that lie where this row does: long
/// sequences stream from memory (cpu.md 2.3). A few at a time, between multiplications: a burst
/// fills the buffers that loads wait for.
void KernelLowering::emitPrefetch(Value row, Value line) {
  for (tile::LoadOp load : blockLoads) {
    const TileStorage &s = storage(load.getResult());
    Value next;
    if (s.kind == TileStorage::KvPacked) {
      int64_t rowBytes = load.getResult().getType().getNumColumns() * 2;
      next = e->at(s.base, e->add(e->mul(row, rowBytes), packedBytes), builder.getI8Type());
    } else if (s.element == load.getResult().getType().getElementType()) {
      next = e->at(s.base, e->mul(e->add(row, blockKv), s.stride), s.element);
    } else {
      continue; // a widened copy in scratch
    }
    e->prefetch(e->at(next, e->mul(line, kLineBytes), builder.getI8Type()));
  }
}

/// Steps of the contraction between queries and keys that are taken at a time: the part of the
/// query panel that they read (128 steps x 64 queries x 4 bytes) stays near while all rows of a
/// block pass by.
static constexpr int64_t kStepsPerChunk = 128;
static constexpr int64_t kUnroll = 4;

bool KernelLowering::takesMaxInDot(const ScoresProduct &product) {
  int64_t steps = product.queries.isPairs ? product.headDim / 2 : product.headDim;
  return schedule.getDot() != tile::DotKind::AMX && product.epilogue.newMax &&
         product.epilogue.maps.empty() && steps <= kStepsPerChunk;
}

/// Rows that end what six do not divide, so that an even number of keys computes none twice.
static constexpr int64_t kLastRows = 4;

/// How keys [begin, end) are cut into register tiles of six rows, and from the result on of four:
/// of n = 6 a + 4 b, the largest a.
static Value endOfSixes(Emitter &e, Value begin, Value end) {
  Value even = e.mul(e.div(e.add(e.sub(end, begin), 1), 2), 2);
  Value whole = e.mul(e.div(even, 6), 6);
  Value isTwoLess = e.eq(e.sub(even, whole), e.cst(2));
  Value sixes = e.select(isTwoLess, e.max(e.sub(whole, e.cst(6)), e.cst(0)), whole);
  return e.add(begin, sixes);
}

void KernelLowering::emitScoresFMA(const ScoresProduct &product, Value group,
                                   llvm::function_ref<void()> onEachRound) {
  const TileStorage &queries = product.queries, &keys = product.keys, &scores = product.scores;
  const Epilogue &epilogue = product.epilogue;
  int64_t vectors = schedule.getVectors();
  bool isPairs = queries.isPairs;
  Type step = isPairs ? e->i32() : e->f32();
  int64_t steps = isPairs ? product.headDim / 2 : product.headDim;
  ProductRows keyCount = productRows(group);
  Value lastRow = e->sub(keyCount.ofSecondHalf, e->cst(1));
  // Adds `count` steps from `firstStep` on to the scores of rows [begin, end), or starts them, for
  // the vectors from `firstVector` on, whose maximum is `max`.
  auto emitTiles = [&](int64_t rows, Value begin, Value end, int64_t firstVector, Value firstStep,
                       int64_t count, bool isFirst, ValueRange max) {
    int64_t numVectors = vectors - firstVector;
    // All groups read the same keys: each asks for its share of the next block's.
    int64_t share = llvm::divideCeil(rows, blockQ / groupLanes);
    return e->loop(begin, end, rows, max, [&](Value first, ValueRange carried) {
      auto place = [&](int64_t i, int64_t j) {
        Value offset = groupOffset(scores, e->add(first, i), group, (firstVector + j) * lanes);
        return e->at(scores.base, offset, e->f32());
      };
      Value firstAsked = e->add(first, e->mul(e->div(group, groupLanes), share));
      SmallVector<Value> rowBase, inits, next(carried);
      for (int64_t i = 0; i < rows; ++i) {
        // A ragged last tile computes the last key again: nobody reads it, and the maximum is the
        // same.
        Value row = e->min(e->add(first, i), lastRow);
        rowBase.push_back(e->at(keys.base, e->mul(row, keys.stride), keys.element));
        for (int64_t j = 0; j < numVectors; ++j)
          inits.push_back(isFirst ? e->splatF32(0.0f) : e->load(e->vecF32(), place(i, j)));
      }
      SmallVector<Value> acc = emitMicroKernel(
          rows, numVectors, e->cst(count), kUnroll, inits, isPairs,
          [&](Value k, int64_t i) {
            Value d = e->mul(e->add(firstStep, k), isPairs ? 2 : 1);
            return e->load(step, e->at(rowBase[i], d, keys.element), isPairs ? 2 : 4);
          },
          [&](Value k, int64_t j) {
            Value offset =
                groupOffset(queries, e->add(firstStep, k), group, (firstVector + j) * lanes);
            return e->load(e->vec(step), e->at(queries.base, offset, step));
          },
          firstVector == 0 ? onEachRound : nullptr,
          [&](Value k) {
            for (int64_t i = 0; i < share; ++i) {
              Value row = e->min(e->add(firstAsked, i), lastRow);
              emitPrefetch(row, e->div(e->add(firstStep, k), kStepsPerLine));
            }
          });
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < numVectors; ++j) {
          Value s = acc[i * numVectors + j];
          e->store(s, place(i, j));
          if (!next.empty())
            next[j] = e->fmax(s, next[j]);
        }
      return next;
    });
  };
  auto emitRows = [&](Value begin, Value end, int64_t firstVector, Value firstStep, int64_t count,
                      bool isFirst, SmallVector<Value> max) {
    int64_t rows = schedule.getRows();
    Value middle = rows == 6 ? endOfSixes(*e, begin, end) : end;
    max = emitTiles(rows, begin, middle, firstVector, firstStep, count, isFirst, max);
    if (middle != end)
      max = emitTiles(kLastRows, middle, end, firstVector, firstStep, count, isFirst, max);
    return max;
  };
  auto emitChunk = [&](Value firstStep, int64_t count, bool isFirst, SmallVector<Value> max) {
    max = emitRows(e->cst(0), keyCount.ofAll, 0, firstStep, count, isFirst, max);
    // The maximum of a block whose halves differ is taken behind its mask.
    if (hasHalves())
      emitRows(keyCount.ofAll, keyCount.ofSecondHalf, vectors / 2, firstStep, count, isFirst, {});
    return max;
  };
  SmallVector<Value> max;
  if (takesMaxInDot(product))
    max = loadGroup(epilogue.oldMax, group);
  int64_t chunk = std::min(steps, kStepsPerChunk), whole = steps / chunk * chunk;
  max = emitChunk(e->cst(0), chunk, /*isFirst=*/true, max);
  if (chunk < whole)
    e->loop(e->cst(chunk), e->cst(whole), chunk,
            [&](Value firstStep) { emitChunk(firstStep, chunk, /*isFirst=*/false, {}); });
  if (whole < steps)
    emitChunk(e->cst(whole), steps - whole, /*isFirst=*/false, {});
  for (auto [j, m] : llvm::enumerate(max))
    e->store(m, e->at(epilogue.newMax, e->add(group, j * lanes), e->f32()));
}

/// Products take whole rounds of the micro-kernel before a half of their vectors goes on alone.
int64_t KernelLowering::productStep() const {
  bool isPairs = schedule.getDot() == tile::DotKind::DPBF16;
  return std::lcm(schedule.getRows(), isPairs ? 2 * kUnroll : kUnroll);
}

void KernelLowering::emitAccumulate(const TileStorage &weights, const TileStorage &values,
                                    int64_t valueDim, const TileStorage &acc,
                                    const BlockWeights *waiting) {
  int64_t vectors = schedule.getVectors();
  bool isPairs = weights.isPairs;
  auto takeNext = [&] { takeNextWeights(*waiting); };
  Type step = isPairs ? e->i32() : e->f32();
  Value stride = isPairs ? e->cst(valueDim) : values.stride; // packed pairs are dense
  auto stepsOf = [&](Value keys) { return isPairs ? e->div(e->add(keys, 1), 2) : keys; };
  forEachGroup([&](Value group) {
    if (waiting)
      e->ifThen(e->eq(group, e->load(e->i64(), waiting->group)),
                [&] { takeWaitingWeights(*waiting); });
    ProductRows keyCount = productRows(group);
    // Adds the steps [firstStep, firstStep + count) to `rows` dims of the vectors from
    // `firstVector` on.
    auto emitDims = [&](int64_t rows, Value dim, Value firstStep, Value count,
                        int64_t firstVector) {
      int64_t numVectors = vectors - firstVector;
      auto place = [&](int64_t i, int64_t j) {
        Value offset = groupOffset(acc, e->add(dim, i), group, (firstVector + j) * lanes);
        return e->at(acc.base, offset, e->f32());
      };
      SmallVector<Value> inits;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < numVectors; ++j)
          inits.push_back(e->load(e->vecF32(), place(i, j)));
      Value base = e->at(values.base, e->add(e->mul(firstStep, stride), dim), step);
      SmallVector<Value> sums = emitMicroKernel(
          rows, numVectors, count, kUnroll, inits, isPairs,
          [&](Value k, int64_t i) {
            return e->load(step, e->at(base, e->add(e->mul(k, stride), i), step));
          },
          [&](Value k, int64_t j) {
            Value offset =
                groupOffset(weights, e->add(firstStep, k), group, (firstVector + j) * lanes);
            return e->load(e->vec(step), e->at(weights.base, offset, step));
          },
          waiting && firstVector == 0 ? llvm::function_ref<void()>(takeNext) : nullptr);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < numVectors; ++j)
          e->store(sums[i * numVectors + j], place(i, j));
    };
    int64_t rows = schedule.getRows(), main = valueDim / rows * rows;
    auto emitAllDims = [&](Value firstStep, Value count, int64_t firstVector) {
      e->loop(e->cst(0), e->cst(main), rows,
              [&](Value dim) { emitDims(rows, dim, firstStep, count, firstVector); });
      if (main < valueDim)
        emitDims(valueDim - main, e->cst(main), firstStep, count, firstVector);
    };
    Value ofAll = stepsOf(keyCount.ofAll);
    emitAllDims(e->cst(0), ofAll, 0);
    if (hasHalves())
      e->ifThen(e->lt(keyCount.ofAll, keyCount.ofSecondHalf), [&] {
        Value count = e->sub(stepsOf(keyCount.ofSecondHalf), ofAll);
        emitAllDims(ofAll, count, vectors / 2);
      });
  });
}

//===----------------------------------------------------------------------===//
// AMX
//===----------------------------------------------------------------------===//

namespace {
/// AMX tiles of 16 rows x 64 bytes, which is all that the kernels here use.
struct AMX {
  Emitter &e;
  Type type = LLVM::LLVMX86AMXType::get(e.b.getContext());
  Value rows = cst16(16), bytes = cst16(64);

  Value cst16(int64_t v) { return arith::ConstantIntOp::create(e.b, e.loc, e.b.getI16Type(), v); }
  Value zero() { return e.intrinsic("llvm.x86.tilezero.internal", type, {rows, bytes}); }
  Value load(Value address, Value strideBytes) {
    return e.intrinsic("llvm.x86.tileloadd64.internal", type, {rows, bytes, address, strideBytes});
  }
  void store(Value tile, Value address, Value strideBytes) {
    e.intrinsicNoResult("llvm.x86.tilestored64.internal",
                        {rows, bytes, address, strideBytes, tile});
  }
  /// acc (16 x 16 f32) += a (16 x 32 bf16) * b (32 x 16 bf16 in pairs).
  Value multiply(Value acc, Value a, Value b) {
    return e.intrinsic("llvm.x86.tdpbf16ps.internal", type, {rows, bytes, bytes, acc, a, b});
  }
};
} // namespace

void KernelLowering::emitScoresAMX(const ScoresProduct &product) {
  const TileStorage &queries = product.queries, &keys = product.keys, &scores = product.scores;
  int64_t headDim = product.headDim;
  Value keyStride = e->mul(keys.stride, 2), panelStride = e->cst(groupLanes * 4);
  // 32 keys x 32 queries at a time in four accumulators; the panels' padding takes up a ragged end.
  e->loop(e->cst(0), keys.count, 32, [&](Value key) {
    AMX amx{*e};
    e->loop(e->cst(0), queryEnd, 32, [&](Value lane) {
      // Each of the blockQ / 32 products asks for its share of 32 rows.
      Value share = e->div(e->mul(lane, 32), blockQ);
      e->loop(share, e->add(share, 32 * 32 / blockQ), 1, [&](Value row) {
        for (int64_t byte = 0; byte < headDim * 2; byte += kLineBytes)
          emitPrefetch(e->add(key, row), e->cst(byte / kLineBytes));
      });
      Value acc[2][2] = {{amx.zero(), amx.zero()}, {amx.zero(), amx.zero()}};
      for (int64_t d = 0; d < headDim; d += 32) {
        Value a[2], b[2];
        for (int64_t i : {0, 1}) {
          Value row = e->mul(e->add(key, i * 16), keys.stride);
          a[i] = amx.load(e->at(keys.base, e->add(row, d), keys.element), keyStride);
          Value pairs = laneOffset(queries, e->cst(d / 2), e->add(lane, i * 16));
          b[i] = amx.load(e->at(queries.base, pairs, e->i32()), panelStride);
        }
        for (int64_t i : {0, 1})
          for (int64_t j : {0, 1})
            acc[i][j] = amx.multiply(acc[i][j], a[i], b[j]);
      }
      for (int64_t i : {0, 1})
        for (int64_t j : {0, 1}) {
          Value place = laneOffset(scores, e->add(key, i * 16), e->add(lane, j * 16));
          amx.store(acc[i][j], e->at(scores.base, place, e->f32()), panelStride);
        }
    });
  });
}

void KernelLowering::emitAccumulateAMX(const TileStorage &weights, const TileStorage &values,
                                       int64_t valueDim, const TileStorage &acc) {
  Value panelStride = e->cst(groupLanes * 4), lineStride = e->cst(64);
  e->loop(e->cst(0), e->cst(valueDim), 32, [&](Value dim) {
    AMX amx{*e};
    e->loop(e->cst(0), queryEnd, 32, [&](Value lane) {
      auto place = [&](int64_t i, int64_t j) {
        Value offset = laneOffset(acc, e->add(dim, i * 16), e->add(lane, j * 16));
        return e->at(acc.base, offset, e->f32());
      };
      Value sums[2][2];
      for (int64_t i : {0, 1})
        for (int64_t j : {0, 1})
          sums[i][j] = amx.load(place(i, j), panelStride);
      for (int64_t chunk = 0; chunk < blockKv / 32; ++chunk) {
        Value a[2], b[2];
        for (int64_t i : {0, 1}) {
          Value line = e->add(dim, chunk * valueDim + i * 16);
          a[i] = amx.load(e->at(values.base, e->mul(line, 16), e->i32()), lineStride);
          Value pairs = laneOffset(weights, e->cst(chunk * 16), e->add(lane, i * 16));
          b[i] = amx.load(e->at(weights.base, pairs, e->i32()), panelStride);
        }
        for (int64_t i : {0, 1})
          for (int64_t j : {0, 1})
            sums[i][j] = amx.multiply(sums[i][j], a[i], b[j]);
      }
      for (int64_t i : {0, 1})
        for (int64_t j : {0, 1})
          amx.store(sums[i][j], place(i, j), panelStride);
    });
  });
}
