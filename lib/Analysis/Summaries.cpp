//===-- Summaries.cpp - What is read of tensors over a box ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "IntervalEvaluator.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace heed;
using namespace heed::intervals;

std::optional<IntervalEvaluator::Summary> IntervalEvaluator::summarise(attn::LoadOp load) {
  Type type = load.getResult().getType();
  Value tensor = uniformOf(load.getTensor());
  if (!tensor || !(isa<IntegerType>(type) || type.isF32()))
    return std::nullopt;
  SmallVector<Value> indices; // null where they move over the box
  SmallVector<Axis> axes;
  bool usesKv = false, isLine = true;
  for (auto [position, index] : llvm::enumerate(load.getIndices())) {
    indices.push_back(uniformOf(index));
    if (indices.back())
      continue;
    std::optional<Integer> place = getInteger(index);
    // A constant interval is what is left when nothing is known.
    if (!place || axes.size() == 2 ||
        (place->isPlain() && asConstant(place->lo) && asConstant(place->hi)))
      return std::nullopt;
    usesKv |= place->dependsOnKv();
    isLine &= place->isPoint() && std::abs(place->cq) + std::abs(place->ck) == 1;
    axes.push_back({unsigned(position), index.getType(), bounds(*place)});
  }
  if (usesKv && !readKeys) {
    leftKeysUnread = true;
    return std::nullopt;
  }

  OpBuilder &b = at(usesKv);
  Value fits;
  if (!isLine || axes.size() == 2) {
    Value one = constant(1);
    auto sizeOf = [&](const Bounds &r) {
      return add(b, max(b, min(b, sub(b, r.hi, r.lo), constant(int64_t(1) << 30)), constant(0)),
                 one);
    };
    Value size = sizeOf(axes[0].range);
    if (axes.size() == 2)
      size = mul(b, size, sizeOf(axes[1].range));
    Value limit = usesKv ? add(b, sizeOf(q), sizeOf(kv)) : sizeOf(q);
    fits = compare(b, arith::CmpIPredicate::sle, size, limit);
    axes[0].range.hi = select(b, fits, axes[0].range.hi, sub(b, axes[0].range.lo, one));
  }

  Value extremes[] = {limitOf(b, type, /*largest=*/true), limitOf(b, type, /*largest=*/false)};
  auto [least, most] = emitReads(b, tensor, type, indices, axes, extremes[0], extremes[1]);
  if (fits) {
    least = select(b, fits, least, extremes[1]);
    most = select(b, fits, most, extremes[0]);
  }
  return Summary{least, most, usesKv};
}

Value IntervalEvaluator::limitOf(OpBuilder &b, Type type, bool largest) {
  if (auto f = dyn_cast<FloatType>(type)) {
    APFloat infinity = APFloat::getInf(f.getFloatSemantics(), /*Negative=*/!largest);
    return arith::ConstantOp::create(b, loc(), b.getFloatAttr(f, infinity));
  }
  unsigned width = type.getIntOrFloatBitWidth();
  APInt value = width == 1 ? APInt(1, largest)
                : largest  ? APInt::getSignedMaxValue(width)
                           : APInt::getSignedMinValue(width);
  return arith::ConstantOp::create(b, loc(), b.getIntegerAttr(type, value));
}

std::pair<Value, Value> IntervalEvaluator::emitReads(OpBuilder &b, Value tensor, Type type,
                                                     ArrayRef<Value> indices, ArrayRef<Axis> axes,
                                                     Value least, Value most) {
  if (axes.empty()) {
    Value element = attn::LoadOp::create(b, loc(), tensor, indices);
    if (type.isInteger(1))
      return {land(b, least, element), lor(b, most, element)};
    if (type.isF32())
      return {binary<arith::MinimumFOp>(b, least, element),
              binary<arith::MaximumFOp>(b, most, element)};
    return {min(b, least, element), max(b, most, element)};
  }
  auto toIndex = [&](Value v) {
    return arith::IndexCastOp::create(b, loc(), b.getIndexType(), v).getResult();
  };
  Value one = arith::ConstantIndexOp::create(b, loc(), 1);
  Value first = toIndex(axes[0].range.lo);
  Value end = arith::AddIOp::create(b, loc(), toIndex(axes[0].range.hi), one);
  auto loop = scf::ForOp::create(
      b, loc(), first, end, one, ValueRange{least, most},
      [&](OpBuilder &body, Location l, Value iv, ValueRange carried) {
        SmallVector<Value> inside(indices);
        inside[axes[0].position] = arith::IndexCastOp::create(body, l, axes[0].type, iv);
        auto [u, v] =
            emitReads(body, tensor, type, inside, axes.drop_front(), carried[0], carried[1]);
        scf::YieldOp::create(body, l, ValueRange{u, v});
      });
  return {loop.getResult(0), loop.getResult(1)};
}
