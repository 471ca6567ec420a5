//===-- Softmax.cpp - Online softmax with queries in lanes ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelLowering.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

/// The largest finite number: bounds the maximum of rows that have no key yet, whose -inf would
/// make NaN.
static constexpr float kMaxFloat = std::numeric_limits<float>::max();
static constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What a row's reference begins ahead of its maximum, in base-2 logarithms, so that it need not
/// follow each new maximum: otherwise some of a group's rows have one, and all their accumulators
/// are scaled, in most of the first hundred blocks. Ahead and not behind: weights stay at most 1,
/// and sums of values finite where the output is.
static constexpr float kLead = 8.0f;

/// From here on (base-2 logarithms) a reference may be off by more than 1, which weights must not
/// be: then the maximum is taken from the scores before the factor.
static constexpr float kLarge = 16777216.0f; // 2^24

void KernelLowering::beginOnlineSoftmax(tile::OnlineSoftmaxOp op) {
  Value reference = allocate(blockQ * 4);
  e->loop(e->cst(0), queryEnd, lanes,
          [&](Value lane) { e->store(e->splatF32(kMaxFloat), e->at(reference, lane, e->f32())); });
  minusReferences[storage(op.getReference()).base] = reference;
}

SmallVector<Value> KernelLowering::loadGroup(Value stats, Value group) {
  SmallVector<Value> vectors;
  for (int64_t j = 0; j < schedule.getVectors(); ++j)
    vectors.push_back(e->load(e->vecF32(), e->at(stats, e->add(group, j * lanes), e->f32())));
  return vectors;
}

Value KernelLowering::anyDiffers(ArrayRef<Value> vectors, float from) {
  Value any;
  for (Value v : vectors) {
    Value differs =
        arith::CmpFOp::create(builder, e->loc, arith::CmpFPredicate::UNE, v, e->splatF32(from));
    any = any ? arith::OrIOp::create(builder, e->loc, any, differs).getResult() : differs;
  }
  return e->anyLane(any);
}

void KernelLowering::takeOffsets(const TileStorage &scores, Value offsets, Value group,
                                 Value numRows) {
  SmallVector<Value> offset = loadGroup(offsets, group);
  e->ifThen(anyDiffers(offset, 0.0f), [&] {
    e->loop(e->cst(0), numRows, 1, [&](Value row) {
      for (auto [j, amount] : llvm::enumerate(offset)) {
        Value place = e->at(scores.base, groupOffset(scores, row, group, j * lanes), e->f32());
        e->store(e->fsub(e->load(e->vecF32(), place), amount), place);
      }
    });
  });
}

//===----------------------------------------------------------------------===//
// References
//===----------------------------------------------------------------------===//

/// The maximum is known. Where it is beyond the reference r, that becomes r', and 2^(factor (r -
/// r')) rescales what earlier blocks left. A large maximum is the reference itself.
void KernelLowering::updateReferences(const BlockWeights &block, Value group) {
  const SoftmaxStatistics &stats = block.stats;
  Value factor = block.factor;
  e->loop(group, e->add(group, groupLanes), lanes, [&](Value lane) {
    auto at = [&](Value base) { return e->at(base, lane, e->f32()); };
    auto compare = [&](arith::CmpFPredicate p, Value x, float y) -> Value {
      return arith::CmpFOp::create(builder, e->loc, p, x, e->splatF32(y));
    };
    auto isLarge = [&](Value max) -> Value {
      Value magnitude = math::AbsFOp::create(builder, e->loc, e->fmul(max, factor));
      return arith::AndIOp::create(builder, e->loc,
                                   compare(arith::CmpFPredicate::OGE, magnitude, kLarge),
                                   compare(arith::CmpFPredicate::OGT, max, -kInfinity));
    };
    Value zero = e->splatF32(0.0f);
    Value raw = e->load(e->vecF32(), at(stats.newMax));
    Value previous = e->load(e->vecF32(), at(stats.max));
    Value before = e->load(e->vecF32(), at(stats.minusReference));
    Value wasLarge = isLarge(previous), nowLarge = isLarge(raw);
    Value isBeyond = compare(arith::CmpFPredicate::OGT, e->fma(raw, factor, before), 0.0f);
    Value product = e->fmul(e->fmax(raw, e->splatF32(-kMaxFloat)), factor);
    Value fresh = e->fmin(e->fneg(e->fadd(product, e->splatF32(kLead))), e->splatF32(kMaxFloat));
    Value after = e->select(isBeyond, fresh, before);
    Value ofLarge = e->fmax(e->fneg(product), e->splatF32(-kMaxFloat));
    after = e->fmin(e->select(nowLarge, ofLarge, after), e->splatF32(kMaxFloat));
    // Weights are 2^(factor (s - offset) + shift), before and from now on: at most 2^kLead times
    // what they were.
    Value shift = e->select(nowLarge, zero, after), offset = e->select(nowLarge, raw, zero);
    Value shiftBefore = e->select(wasLarge, zero, before);
    Value offsetBefore = e->select(wasLarge, previous, zero);
    Value exponent = e->fma(e->fsub(offsetBefore, offset), factor, e->fsub(shift, shiftBefore));
    // Rows that had no key have zeros, which need no factor.
    Value hadKeys = compare(arith::CmpFPredicate::UNE, previous, -kInfinity);
    Value isNew = arith::AndIOp::create(
        builder, e->loc, hadKeys, arith::OrIOp::create(builder, e->loc, isBeyond, nowLarge));
    Value alpha =
        e->select(isNew, e->exp2(e->fmin(exponent, e->splatF32(2 * kLead))), e->splatF32(1.0f));
    e->store(alpha, at(stats.rescale));
    e->store(shift, at(stats.shift));
    e->store(offset, at(stats.offset));
    e->store(raw, at(stats.max));
    e->store(after, at(stats.minusReference));
    e->store(e->fmul(e->load(e->vecF32(), at(stats.sum)), alpha), at(stats.sum));
  });
  takeOffsets(block.scores, stats.offset, group, groupRows(group));
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

bool KernelLowering::weightsWait(tile::OnlineSoftmaxOp op) {
  Value weights = op.getWeights();
  auto dot = weights.hasOneUse() ? dyn_cast<tile::DotOp>(*weights.user_begin()) : tile::DotOp();
  return dot && dot.getLhs() == weights && schedule.getDot() != tile::DotKind::AMX &&
         target.numVectorRegisters >= 32 && schedule.getRows() * schedule.getVectors() <= 16 &&
         blockQ > groupLanes;
}

Value KernelLowering::takeVector(const BlockWeights &block, Value row, Value group, Value lane,
                                 Value shift) {
  auto weigh = [&](Value row) {
    Value offset = e->add(groupOffset(block.scores, row, group, 0), lane);
    Value s = e->load(e->vecF32(), e->at(block.scores.base, offset, e->f32()));
    return e->exp2(e->fma(s, block.factor, shift));
  };
  auto place = [&](Value row) {
    Value offset = e->add(groupOffset(block.weights, row, group, 0), lane);
    return e->at(block.weights.base, offset, e->f32());
  };
  if (!block.weights.isPairs) {
    Value p = weigh(row);
    e->store(p, place(row));
    return p;
  }
  Value p0 = weigh(e->mul(row, 2)), p1 = weigh(e->add(e->mul(row, 2), 1));
  e->store(e->packPairs(p0, p1), place(row));
  return e->fadd(p0, p1);
}

void KernelLowering::takeNextWeights(const BlockWeights &block) {
  int64_t vectors = schedule.getVectors();
  Value number = e->load(e->i64(), block.next);
  e->ifThen(e->lt(number, e->load(e->i64(), block.count)), [&] {
    e->store(e->add(number, 1), block.next);
    Value group = e->load(e->i64(), block.group);
    Value lane = e->mul(e->rem(number, vectors), lanes);
    auto at = [&](Value stats) { return e->at(stats, e->add(group, lane), e->f32()); };
    Value p = takeVector(block, e->div(number, vectors), group, lane,
                         e->load(e->vecF32(), at(block.stats.shift)));
    Value sum = at(block.stats.sum);
    e->store(e->fadd(e->load(e->vecF32(), sum), p), sum);
  });
}

void KernelLowering::takeWeights(const BlockWeights &block, Value group) {
  int64_t vectors = schedule.getVectors();
  SmallVector<Value> shift = loadGroup(block.stats.shift, group);
  SmallVector<Value> sums = loadGroup(block.stats.sum, group);
  bool isPairs = block.weights.isPairs;
  Value numKeys = groupRows(group), numRows = isPairs ? e->div(numKeys, 2) : numKeys;
  Value first = block.next ? e->div(e->load(e->i64(), block.next), vectors) : e->cst(0);
  auto lane = [&](int64_t j) { return e->cst(j * lanes); };
  sums = e->loop(first, numRows, 1, sums, [&](Value row, ValueRange carried) {
    SmallVector<Value> next;
    for (int64_t j = 0; j < vectors; ++j)
      next.push_back(e->fadd(carried[j], takeVector(block, row, group, lane(j), shift[j])));
    return next;
  });
  if (isPairs)
    // An odd last key is paired with zeros.
    sums = e->loop(e->mul(numRows, 2), numKeys, 1, sums, [&](Value key, ValueRange carried) {
      SmallVector<Value> next;
      for (int64_t j = 0; j < vectors; ++j) {
        Value offset = groupOffset(block.scores, key, group, j * lanes);
        Value s = e->load(e->vecF32(), e->at(block.scores.base, offset, e->f32()));
        Value p = e->exp2(e->fma(s, block.factor, shift[j]));
        Value place = groupOffset(block.weights, numRows, group, j * lanes);
        e->store(e->packPairs(p, e->splatF32(0.0f)), e->at(block.weights.base, place, e->i32()));
        next.push_back(e->fadd(carried[j], p));
      }
      return next;
    });
  for (int64_t j = 0; j < vectors; ++j)
    e->store(sums[j], e->at(block.stats.sum, e->add(group, j * lanes), e->f32()));
}

void KernelLowering::takeWaitingWeights(const BlockWeights &block) {
  // Whole rows are left: the one that has begun is ended first.
  scf::WhileOp::create(
      builder, e->loc, TypeRange(), ValueRange(),
      [&](OpBuilder &, Location, ValueRange) {
        Value begun = e->rem(e->load(e->i64(), block.next), schedule.getVectors());
        Value isBegun = e->lt(e->cst(0), begun);
        scf::ConditionOp::create(builder, e->loc, isBegun, ValueRange());
      },
      [&](OpBuilder &, Location, ValueRange) {
        takeNextWeights(block);
        scf::YieldOp::create(builder, e->loc);
      });
  takeWeights(block, e->load(e->i64(), block.group));
  e->store(e->load(e->i64(), block.count), block.next);
}

//===----------------------------------------------------------------------===//
// The op
//===----------------------------------------------------------------------===//

LogicalResult KernelLowering::lowerOnlineSoftmax(tile::OnlineSoftmaxOp op) {
  auto found = products.find(op.getScores());
  if (found == products.end())
    return op.emitError("expects scores that come from a tile.dot through maps and masks");
  const ScoresProduct &product = found->second;
  BlockWeights block;
  block.scores = block.weights = product.scores;
  if (op.getWeights().getType().getElementType().isBF16()) {
    block.weights.isPairs = true;
    block.weights.rows = blockKv / 2;
    block.weights.base = allocate(block.weights.rows * blockQ * 4);
  }
  block.factor = e->broadcast(scalar(op.getFactor()));
  auto statistic = [&] { return allocate(blockQ * 4); };
  SoftmaxStatistics &stats = block.stats;
  stats.newMax = product.epilogue.newMax;
  stats.max = storage(op.getReference()).base;
  stats.sum = storage(op.getSum()).base;
  stats.minusReference = minusReferences.lookup(stats.max);
  stats.rescale = statistic();
  stats.shift = statistic();
  stats.offset = statistic();

  if (weightsWait(op)) {
    Value state = allocate(24);
    block.group = e->at(state, e->cst(0), e->i64());
    block.next = e->at(state, e->cst(1), e->i64());
    block.count = e->at(state, e->cst(2), e->i64());
    e->store(e->cst(0), block.next);
    e->store(e->cst(0), block.count);
    auto takePrevious = [&](Value group) {
      e->ifThen(e->lt(e->cst(0), group), [&] { takeWaitingWeights(block); });
    };
    auto wait = [&](Value group) {
      updateReferences(block, group);
      Value numKeys = groupRows(group);
      Value numRows = block.weights.isPairs ? e->div(numKeys, 2) : numKeys;
      e->store(group, block.group);
      e->store(e->cst(0), block.next);
      e->store(e->mul(numRows, schedule.getVectors()), block.count);
    };
    emitScores(product, takePrevious, wait, [&] { takeNextWeights(block); });
    waitingWeights[op.getWeights()] = block;
  } else {
    auto takeAtOnce = [&](Value group) {
      updateReferences(block, group);
      takeWeights(block, group);
      if (schedule.getDot() != tile::DotKind::AMX)
        return;
      // AMX multiplies the whole block.
      e->loop(e->div(e->add(groupRows(group), 1), 2), e->cst(blockKv / 2), 1, [&](Value pair) {
        for (int64_t j = 0; j < schedule.getVectors(); ++j) {
          Value offset = groupOffset(block.weights, pair, group, j * lanes);
          e->store(e->splatI32(0), e->at(block.weights.base, offset, e->i32()));
        }
      });
    };
    emitScores(product, [](Value) {}, takeAtOnce);
  }

  tiles[op.getWeights()] = block.weights;
  tiles[op.getNewReference()] = storage(op.getReference());
  tiles[op.getNewSum()] = storage(op.getSum());
  TileStorage r;
  r.kind = TileStorage::Stats;
  r.base = stats.rescale;
  tiles[op.getRescale()] = r;
  return success();
}

void KernelLowering::lowerScaleRows(tile::ScaleRowsOp op) {
  const TileStorage tile = storage(op.getTile());
  Value factors = storage(op.getFactors()).base;
  int64_t columns = op.getTile().getType().getNumColumns();
  // Most blocks leave every reference where it was: then there is nothing to do.
  int64_t vectors = schedule.getVectors();
  forEachGroup([&](Value group) {
    SmallVector<Value> f = loadGroup(factors, group);
    e->ifThen(anyDiffers(f, 1.0f), [&] {
      e->loop(e->cst(0), e->cst(columns), 1, [&](Value d) {
        for (int64_t j = 0; j < vectors; ++j) {
          Value address = e->at(tile.base, groupOffset(tile, d, group, j * lanes), e->f32());
          e->store(e->fmul(e->load(e->vecF32(), address), f[j]), address);
        }
      });
    });
  });
  tiles[op.getResult()] = storage(op.getTile());
}

Value KernelLowering::scaleRow(Value v, Value factor) {
  Value isEmpty =
      arith::CmpFOp::create(builder, e->loc, arith::CmpFPredicate::OLT, factor, e->splatF32(0.0f));
  return e->select(isEmpty, e->splatF32(0.0f), e->fmul(v, factor));
}

void KernelLowering::lowerNormalize(tile::NormalizeOp op) {
  TileStorage output = storage(op.getAcc());
  Value max = storage(op.getReference()).base, sum = storage(op.getSum()).base;
  Value factors = allocate(blockQ * 4), maxScores = allocate(blockQ * 4);
  Value minusReference = minusReferences.lookup(max);
  Value factor = e->broadcast(scalar(op.getFactor()));
  e->loop(e->cst(0), queryEnd, lanes, [&](Value lane) {
    auto at = [&](Value base) { return e->at(base, lane, e->f32()); };
    Value l = e->load(e->vecF32(), at(sum));
    Value isEmpty =
        arith::CmpFOp::create(builder, e->loc, arith::CmpFPredicate::OEQ, l, e->splatF32(0.0f));
    Value inverse = arith::DivFOp::create(builder, e->loc, e->splatF32(1.0f), l);
    e->store(e->select(isEmpty, e->splatF32(-1.0f), inverse), at(factors));
    // Both are in base 2 so far.
    Value log2 = math::Log2Op::create(builder, e->loc, l);
    Value largest = e->load(e->vecF32(), at(max));
    auto store = [&](Value v, Value base) {
      v = e->fmul(v, e->splatF32(0.69314718056f));
      v = e->select(isEmpty, e->splatF32(-kInfinity), v);
      e->store(v, at(base));
    };
    store(e->fmul(largest, factor), maxScores);
    store(e->fsub(log2, e->load(e->vecF32(), at(minusReference))), max);
  });
  output.rowFactors = factors;
  tiles[op.getOutput()] = output;
  tiles[op.getLse()] = storage(op.getReference());
  tiles[op.getMaxScores()] = storage(op.getReference());
  tiles[op.getMaxScores()].base = maxScores;
}
