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

LogicalResult KernelLowering::lowerOnlineSoftmax(tile::OnlineSoftmaxOp op) {
  Value newMaxOfBlock = blockMax.lookup(op.getScores());
  if (!newMaxOfBlock)
    return op.emitError("expects scores that come from a tile.dot through maps and masks");
  const TileStorage scores = storage(op.getScores());
  Value max = storage(op.getReference()).base, sum = storage(op.getSum()).base;
  Value rescale = allocate(blockQ * 4), minusReference = minusReferences.lookup(max);
  Value shifts = allocate(blockQ * 4), offsets = allocate(blockQ * 4);
  bool isPairs = op.getWeights().getType().getElementType().isBF16();
  TileStorage weights = scores;
  if (isPairs) {
    weights.isPairs = true;
    weights.rows = blockKv / 2;
    weights.base = allocate(weights.rows * blockQ * 4);
  }
  Value factor = e->broadcast(scalar(op.getFactor()));

  // The maximum is known. Where it is beyond the reference r, that becomes r', and 2^(factor (r -
  // r')) rescales what earlier blocks left. A large maximum is the reference itself.
  e->loop(e->cst(0), queryEnd, lanes, [&](Value lane) {
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
    Value raw = e->load(e->vecF32(), at(newMaxOfBlock)), previous = e->load(e->vecF32(), at(max));
    Value before = e->load(e->vecF32(), at(minusReference));
    Value wasLarge = isLarge(previous), nowLarge = isLarge(raw);
    Value isBeyond = compare(arith::CmpFPredicate::OGT, e->fma(raw, factor, before), 0.0f);
    Value product = e->fmul(e->fmax(raw, e->splatF32(-kMaxFloat)), factor);
    Value fresh = e->fmin(e->fneg(e->fadd(product, e->splatF32(kLead))), e->splatF32(kMaxFloat));
    Value after = e->select(isBeyond, fresh, before);
    Value ofLarge = e->fmax(e->fneg(product), e->splatF32(-kMaxFloat));
    after = e->fmin(e->select(nowLarge, ofLarge, after), e->splatF32(kMaxFloat));
    // Weights are 2^(factor (s - offset) + shift), before and from now on: at most 2^kLead times
    // what they were, but for rows that had no key.
    Value shift = e->select(nowLarge, zero, after), offset = e->select(nowLarge, raw, zero);
    Value shiftBefore = e->select(wasLarge, zero, before);
    Value offsetBefore = e->select(wasLarge, previous, zero);
    Value exponent = e->fma(e->fsub(offsetBefore, offset), factor, e->fsub(shift, shiftBefore));
    Value isNew = arith::OrIOp::create(builder, e->loc, isBeyond, nowLarge);
    Value alpha =
        e->select(isNew, e->exp2(e->fmin(exponent, e->splatF32(2 * kLead))), e->splatF32(1.0f));
    e->store(alpha, at(rescale));
    e->store(shift, at(shifts));
    e->store(offset, at(offsets));
    e->store(raw, at(max));
    e->store(after, at(minusReference));
    e->store(e->fmul(e->load(e->vecF32(), at(sum)), alpha), at(sum));
  });

  int64_t vectors = schedule.getVectors();
  auto perGroup = [&](Value group) {
    SmallVector<Value> shift = loadGroup(shifts, group), sums = loadGroup(sum, group);
    auto place = [&](Value row, int64_t j) {
      return e->at(weights.base, groupOffset(weights, row, group, j * lanes), e->i32());
    };
    auto weight = [&](Value row, int64_t j) {
      Value offset = groupOffset(scores, row, group, j * lanes);
      Value s = e->load(e->vecF32(), e->at(scores.base, offset, e->f32()));
      return e->exp2(e->fma(s, factor, shift[j]));
    };
    Value keyCount = groupRows(group);
    takeOffsets(scores, offsets, group, keyCount);
    if (!isPairs) {
      sums = e->loop(e->cst(0), keyCount, 1, sums, [&](Value row, ValueRange carried) {
        SmallVector<Value> next;
        for (int64_t j = 0; j < vectors; ++j) {
          Value p = weight(row, j);
          e->store(p, place(row, j));
          next.push_back(e->fadd(carried[j], p));
        }
        return next;
      });
    } else {
      Value even = e->mul(e->div(keyCount, 2), 2);
      sums = e->loop(e->cst(0), even, 2, sums, [&](Value row, ValueRange carried) {
        SmallVector<Value> next;
        for (int64_t j = 0; j < vectors; ++j) {
          Value p0 = weight(row, j), p1 = weight(e->add(row, 1), j);
          e->store(e->packPairs(p0, p1), place(e->div(row, 2), j));
          next.push_back(e->fadd(carried[j], e->fadd(p0, p1)));
        }
        return next;
      });
      // An odd last key is paired with zeros, and AMX multiplies the whole block.
      sums = e->loop(even, keyCount, 2, sums, [&](Value row, ValueRange carried) {
        SmallVector<Value> next;
        for (int64_t j = 0; j < vectors; ++j) {
          Value p = weight(row, j);
          e->store(e->packPairs(p, e->splatF32(0.0f)), place(e->div(row, 2), j));
          next.push_back(e->fadd(carried[j], p));
        }
        return next;
      });
      if (schedule.getDot() == tile::DotKind::AMX)
        e->loop(e->div(e->add(keyCount, 1), 2), e->cst(blockKv / 2), 1, [&](Value pair) {
          for (int64_t j = 0; j < vectors; ++j)
            e->store(e->splatI32(0), place(pair, j));
        });
    }
    for (int64_t j = 0; j < vectors; ++j)
      e->store(sums[j], e->at(sum, e->add(group, j * lanes), e->f32()));
  };
  forEachGroup(perGroup);

  tiles[op.getWeights()] = weights;
  tiles[op.getNewReference()] = storage(op.getReference());
  tiles[op.getNewSum()] = storage(op.getSum());
  TileStorage r;
  r.kind = TileStorage::Stats;
  r.base = rescale;
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

void KernelLowering::lowerNormalize(tile::NormalizeOp op) {
  const TileStorage acc = storage(op.getAcc());
  Value max = storage(op.getReference()).base, sum = storage(op.getSum()).base;
  Value maxScores = allocate(blockQ * 4), minusReference = minusReferences.lookup(max);
  int64_t columns = op.getAcc().getType().getNumColumns();
  Value factor = e->broadcast(scalar(op.getFactor()));
  e->loop(e->cst(0), queryEnd, lanes, [&](Value lane) {
    auto at = [&](Value base) { return e->at(base, lane, e->f32()); };
    Value l = e->load(e->vecF32(), at(sum));
    Value isEmpty =
        arith::CmpFOp::create(builder, e->loc, arith::CmpFPredicate::OEQ, l, e->splatF32(0.0f));
    Value inverse = arith::DivFOp::create(builder, e->loc, e->splatF32(1.0f), l);
    // A row without any key is 0 even where a masked value is infinite.
    e->loop(e->cst(0), e->cst(columns), 1, [&](Value d) {
      Value address = e->at(acc.base, laneOffset(acc, d, lane), e->f32());
      Value o = e->fmul(e->load(e->vecF32(), address), inverse);
      e->store(e->select(isEmpty, e->splatF32(0.0f), o), address);
    });
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
  tiles[op.getOutput()] = storage(op.getAcc());
  tiles[op.getLse()] = storage(op.getReference());
  tiles[op.getMaxScores()] = storage(op.getReference());
  tiles[op.getMaxScores()].base = maxScores;
}
