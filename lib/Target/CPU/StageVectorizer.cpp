//===-- StageVectorizer.cpp - Evaluates stages on lanes of queries --------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "StageVectorizer.h"

#include "heed/Dialect/Attn/IR/TotalDivision.h"

#include "mlir/IR/Matchers.h"

#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

static Value constantLike(Emitter &e, Type type, int64_t v) {
  auto element = cast<IntegerType>(getElementTypeOrSelf(type));
  APInt value(element.getWidth(), v, /*isSigned=*/true);
  TypedAttr attr = isa<VectorType>(type)
                       ? TypedAttr(DenseElementsAttr::get(cast<ShapedType>(type), value))
                       : TypedAttr(IntegerAttr::get(element, value));
  return arith::ConstantOp::create(e.b, e.loc, attr);
}

//===----------------------------------------------------------------------===//
// Reading captured tensors
//===----------------------------------------------------------------------===//

/// What an element of a tensor is in memory.
static Type storageType(OpBuilder &b, Type element) {
  if (element.isInteger(1))
    return b.getI8Type();
  if (element.isF16() || element.isBF16())
    return b.getI16Type();
  return element;
}

/// Turns stored elements (scalar or vector) into the type that a load yields.
static Value widenLoaded(Emitter &e, Type element, Value stored) {
  OpBuilder &b = e.b;
  if (element.isInteger(1))
    return arith::CmpIOp::create(b, e.loc, arith::CmpIPredicate::ne, stored,
                                 constantLike(e, stored.getType(), 0));
  if (element.isInteger(8)) {
    Type i32 = b.getI32Type();
    if (auto vector = dyn_cast<VectorType>(stored.getType()))
      i32 = VectorType::get(vector.getShape(), i32);
    return arith::ExtSIOp::create(b, e.loc, i32, stored);
  }
  if (element.isF16() || element.isBF16())
    return e.widenBits(element, stored);
  return stored;
}

/// index is within [0, extent).
static Value isInside(Emitter &e, Value index, Value extent) {
  return arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::ult, index, extent);
}

Value heed::cpu::emitScalarGather(Emitter &e, const CapturedTensor &tensor, ValueRange indices,
                                  Type result) {
  Value inside = e.cstBool(true), offset = e.cst(0);
  for (auto [index, extent, stride] : llvm::zip(indices, tensor.extents, tensor.strides)) {
    Value i = e.toI64(index);
    inside = arith::AndIOp::create(e.b, e.loc, inside, isInside(e, i, extent));
    offset = e.add(offset, e.mul(i, stride));
  }
  Value loaded = e.ifElse(
      inside, result,
      [&] {
        Type storage = storageType(e.b, tensor.element);
        return widenLoaded(e, tensor.element, e.load(storage, e.at(tensor.data, offset, storage)));
      },
      [&]() -> Value {
        return arith::ConstantOp::create(e.b, e.loc, cast<TypedAttr>(e.b.getZeroAttr(result)));
      });
  return loaded;
}

//===----------------------------------------------------------------------===//
// StageVectorizer
//===----------------------------------------------------------------------===//

StageVectorizer::StageVectorizer(ScalarLowering &lowering, Block &block, Value element, Value q,
                                 Value kv, const IRMapping &scalars)
    : lowering(lowering), e(lowering.emitter()), block(block), elementArg(element), qArg(q),
      kvArg(kv), uniforms(scalars) {
  if (element)
    dependences[element] = OnScore;
  dependences[q] = OnQ;
  dependences[kv] = OnKv;
  for (Operation &op : block) {
    unsigned all = 0;
    for (Value operand : op.getOperands())
      all |= dependence(operand);
    for (Value result : op.getResults())
      dependences[result] = all;
  }
}

unsigned StageVectorizer::dependence(Value v) const { return dependences.lookup(v); }

void StageVectorizer::hoist(Value firstQ, Value queryEnd,
                            llvm::function_ref<Value(int64_t)> allocate) {
  // Uniform values, and the rows that vectors will read: values that depend on q alone and have a
  // user that does not.
  auto isRowUse = [&](OpOperand &use) {
    return use.getOwner() == block.getTerminator() ||
           dependence(use.getOwner()->getResult(0)) != OnQ;
  };
  auto noteRow = [&](Value v) {
    if (dependence(v) == OnQ && llvm::any_of(v.getUses(), isRowUse))
      rows[v] = allocate(v.getType().isInteger(64) ? 8 : 4);
  };
  noteRow(qArg);
  for (Operation &op : block.without_terminator()) {
    if (dependence(op.getResult(0)) == 0)
      lowering.cloneScalar(op, uniforms);
    noteRow(op.getResult(0));
  }
  if (rows.empty())
    return;
  e.loop(e.cst(0), queryEnd, e.lanes, [&](Value lane) {
    IRMapping mapping = uniforms;
    Value start = e.toI32(e.add(firstQ, lane));
    mapping.map(qArg, e.add(e.broadcast(start), e.laneNumbers()));
    for (Operation &op : block.without_terminator())
      if (dependence(op.getResult(0)) == OnQ)
        mapping.map(op.getResult(0), emitVector(op, mapping));
    for (auto [value, base] : rows) {
      Value v = mapping.lookup(value);
      if (value.getType().isInteger(1))
        v = arith::ExtUIOp::create(e.b, e.loc, e.vecI32(), v);
      e.store(v, e.at(base, lane, getElementTypeOrSelf(v)));
    }
  });
}

StageVectorizer::Row StageVectorizer::beginRow(Value kv) {
  Row row = uniforms;
  row.map(kvArg, kv);
  for (Operation &op : block.without_terminator())
    if (dependence(op.getResult(0)) == OnKv)
      lowering.cloneScalar(op, row);
  return row;
}

Value StageVectorizer::evaluate(const Row &row, Value lane, Value element) {
  IRMapping mapping = row;
  if (elementArg)
    mapping.map(elementArg, element);
  for (auto [value, base] : rows) {
    bool isBool = value.getType().isInteger(1);
    Type stored = isBool ? e.i32() : value.getType();
    Value v = e.load(e.vec(stored), e.at(base, lane, stored));
    if (isBool)
      v = arith::CmpIOp::create(e.b, e.loc, arith::CmpIPredicate::ne, v, e.splatI32(0));
    mapping.map(value, v);
  }
  for (Operation &op : block.without_terminator()) {
    unsigned d = dependence(op.getResult(0));
    if (d != 0 && d != OnQ && d != OnKv)
      mapping.map(op.getResult(0), emitVector(op, mapping));
  }
  return asVector(block.getTerminator()->getOperand(0), mapping);
}

Value StageVectorizer::asVector(Value v, IRMapping &mapping) {
  Value lowered = mapping.lookupOrDefault(v);
  return isa<VectorType>(lowered.getType()) ? lowered : e.broadcast(lowered);
}

Value StageVectorizer::emitVector(Operation &op, IRMapping &mapping) {
  if (auto load = dyn_cast<attn::LoadOp>(op))
    return emitGather(load, mapping);
  SmallVector<Value> operands;
  for (Value operand : op.getOperands())
    operands.push_back(asVector(operand, mapping));
  if (isa<attn::FloorDivOp>(op))
    return attn::emitFloorDiv(e.b, e.loc, operands[0], operands[1]);
  if (isa<attn::ModOp>(op))
    return attn::emitMod(e.b, e.loc, operands[0], operands[1]);
  if (isa<math::Exp2Op>(op))
    return e.exp2(operands[0], /*degree=*/5);
  if (isa<math::RsqrtOp>(op))
    return arith::DivFOp::create(e.b, e.loc, e.splatF32(1.0f),
                                 math::SqrtOp::create(e.b, e.loc, operands[0]));
  // Everything else in a stage is elementwise: the same op on vectors.
  OperationState state(e.loc, op.getName());
  state.addOperands(operands);
  state.addTypes(e.vec(op.getResult(0).getType()));
  state.addAttributes(llvm::to_vector(op.getDiscardableAttrs()));
  state.propertiesAttr = op.getPropertiesAsAttribute();
  return e.b.create(state)->getResult(0);
}

std::optional<int64_t> StageVectorizer::slopeInQ(Value v) const {
  if (v == qArg)
    return 1;
  if (!(dependence(v) & (OnQ | OnScore)))
    return 0;
  Operation *op = v.getDefiningOp();
  if (!op || !isa<arith::AddIOp, arith::SubIOp>(op))
    return std::nullopt;
  std::optional<int64_t> x = slopeInQ(op->getOperand(0)), y = slopeInQ(op->getOperand(1));
  if (!x || !y)
    return std::nullopt;
  return isa<arith::AddIOp>(op) ? *x + *y : *x - *y;
}

Value StageVectorizer::emitGather(attn::LoadOp load, IRMapping &mapping) {
  OpBuilder &b = e.b;
  const CapturedTensor &tensor = lowering.tensorOf(load.getTensor());
  Type storage = storageType(b, tensor.element);
  VectorType vecI64 = e.vec(e.i64());
  VectorType storageVector = e.vec(storage);

  // Offsets and bounds of all lanes; indices that are the same in all lanes stay scalar.
  Value inside =
      arith::ConstantOp::create(b, e.loc, DenseElementsAttr::get(e.vec(b.getI1Type()), true));
  Value offsets = arith::ConstantOp::create(b, e.loc, b.getZeroAttr(vecI64));
  Value scalarInside = e.cstBool(true), scalarOffset = e.cst(0);
  std::optional<int64_t> slope = 0; // of the one index that moves by a constant a lane
  Value movingIndex, movingExtent, movingStride;
  for (auto [index, extent, stride] :
       llvm::zip(load.getIndices(), tensor.extents, tensor.strides)) {
    Value lowered = mapping.lookupOrDefault(index);
    if (!isa<VectorType>(lowered.getType())) {
      Value i = e.toI64(lowered);
      scalarInside = arith::AndIOp::create(b, e.loc, scalarInside, isInside(e, i, extent));
      scalarOffset = e.add(scalarOffset, e.mul(i, stride));
      continue;
    }
    std::optional<int64_t> s = slopeInQ(index);
    bool movesByOne = s && (*s == 1 || *s == -1) && !movingIndex;
    slope = movesByOne ? s : std::nullopt;
    movingIndex = lowered;
    movingExtent = extent;
    movingStride = stride;
    Value wide = lowered.getType() == vecI64
                     ? lowered
                     : arith::ExtSIOp::create(b, e.loc, vecI64, lowered).getResult();
    inside = arith::AndIOp::create(b, e.loc, inside, isInside(e, wide, e.broadcast(extent)));
    offsets = e.add(offsets, e.mul(wide, e.broadcast(stride)));
  }
  Value base = e.at(tensor.data, scalarOffset, storage);
  Value zero = arith::ConstantOp::create(b, e.loc, b.getZeroAttr(storageVector));

  auto gather = [&]() -> Value {
    Value mask = arith::AndIOp::create(b, e.loc, inside, e.broadcast(scalarInside));
    Value addresses = LLVM::GEPOp::create(b, e.loc, VectorType::get({e.lanes}, e.ptr()), storage,
                                          base, ArrayRef<LLVM::GEPArg>{offsets});
    return LLVM::masked_gather::create(b, e.loc, storageVector, addresses, mask, ValueRange{zero},
                                       storage.getIntOrFloatBitWidth() / 8);
  };
  if (!movingIndex || !slope)
    return widenLoaded(e, tensor.element, gather());

  // Lanes that are neighbours in memory are one vector load, where all of them are inside.
  bool isForward = *slope == 1;
  Value firstLane =
      e.toI64(vector::ExtractOp::create(b, e.loc, movingIndex, isForward ? 0 : e.lanes - 1));
  Value lastLane = e.add(firstLane, e.lanes - 1);
  Value fits = arith::AndIOp::create(b, e.loc, isInside(e, firstLane, movingExtent),
                                     isInside(e, lastLane, movingExtent));
  fits = arith::AndIOp::create(b, e.loc, fits, scalarInside);
  fits = arith::AndIOp::create(b, e.loc, fits, e.eq(movingStride, e.cst(1)));
  Value stored = e.ifElse(
      fits, storageVector,
      [&]() -> Value {
        Value v = e.load(storageVector, e.at(base, firstLane, storage));
        if (isForward)
          return v;
        SmallVector<int64_t> reversed(e.lanes);
        for (int64_t i = 0; i < e.lanes; ++i)
          reversed[i] = e.lanes - 1 - i;
        return vector::ShuffleOp::create(b, e.loc, v, v, reversed);
      },
      gather);
  return widenLoaded(e, tensor.element, stored);
}
