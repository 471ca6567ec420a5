//===-- Scalars.cpp - The scalar code of a kernel on a GPU ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Scalars.h"

#include "heed-c/Runtime.h"
#include "heed/Dialect/Attn/IR/TotalDivision.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/Utils/Utils.h"

using namespace mlir;
using namespace heed;
using namespace heed::nvidia;

//===----------------------------------------------------------------------===//
// The argument block
//===----------------------------------------------------------------------===//

ScalarSource ScalarSource::of(tile::KernelOp kernel) {
  auto arguments = kernel.getKernelArguments();
  auto columns = [&](unsigned i) {
    return cast<attn::TensorType>(arguments[i].getType()).getExtents()[3];
  };
  return {kernel.getBodyBlock(), arguments.drop_front(kFirstParameter), arguments[6], columns(0),
          columns(2)};
}

Scalars::Scalars(Emitter &e, const ScalarSource &source, Value args)
    : e(e), source(source), args(args) {
  if (source.scale)
    mapping.map(source.scale,
                emitScalarArgument(e.b, e.loc, source.scale.getType(), word(HEED_ARG_SCALE)));
  bindParameters(
      e.b, e.loc, source.parameters, [&](int64_t index) { return word(index); },
      [&](int64_t index) { return pointer(index); }, mapping, captured);
}

Value Scalars::word(int64_t index) { return e.load(e.i64(), e.at(args, e.cst(8 * index)), 8); }

Value Scalars::pointer(int64_t index) {
  return LLVM::IntToPtrOp::create(e.b, e.loc, e.ptr(kGlobal), word(index));
}

//===----------------------------------------------------------------------===//
// Ops
//===----------------------------------------------------------------------===//

void Scalars::emitSlice(ValueRange values, IRMapping &mapping) {
  Block *body = source.body;
  llvm::SetVector<Operation *> needed;
  SmallVector<Value> pending(values);
  while (!pending.empty()) {
    Value v = pending.pop_back_val();
    Operation *op = v.getDefiningOp();
    if (!op || mapping.contains(v))
      continue;
    // What a region uses is needed where the op that has the region is.
    while (op && op->getBlock() != body)
      op = op->getParentOp() == body->getParentOp() ? nullptr : op->getParentOp();
    if (!op || isa<tile::TileDialect>(op->getDialect()) || !needed.insert(op))
      continue;
    op->walk([&](Operation *inner) { llvm::append_range(pending, inner->getOperands()); });
  }
  SmallVector<Operation *> ordered(needed.begin(), needed.end());
  llvm::sort(ordered, [](Operation *x, Operation *y) { return x->isBeforeInBlock(y); });
  for (Operation *op : ordered)
    emit(*op, mapping);
}

void Scalars::emit(Operation &op, IRMapping &mapping) {
  auto convert = [&](Type type) -> Type { return type.isIndex() ? e.i32() : type; };
  SmallVector<Value> operands;
  // A captured tensor stays what it is: only loads know it.
  for (Value operand : op.getOperands())
    operands.push_back(isa<attn::TensorType>(operand.getType()) ? operand
                                                                : mapping.lookup(operand));
  if (op.getNumRegions() == 0 && op.getNumResults() == 1) {
    mapping.map(op.getResult(0), emitOp(op, operands));
    return;
  }
  OperationState state(op.getLoc(), op.getName());
  state.addOperands(operands);
  for (Type type : op.getResultTypes())
    state.addTypes(convert(type));
  state.propertiesAttr = op.getPropertiesAsAttribute();
  state.addAttributes(llvm::to_vector(op.getDiscardableAttrs()));
  for (unsigned i = 0; i < op.getNumRegions(); ++i)
    state.addRegion();
  Operation *copy = e.b.create(state);
  for (auto [from, to] : llvm::zip(op.getRegions(), copy->getRegions())) {
    if (from.empty())
      continue;
    OpBuilder::InsertionGuard guard(e.b);
    Block *block = e.b.createBlock(&to);
    for (BlockArgument argument : from.front().getArguments())
      mapping.map(argument, block->addArgument(convert(argument.getType()), op.getLoc()));
    for (Operation &inner : from.front())
      emit(inner, mapping);
  }
  for (auto [from, to] : llvm::zip(op.getResults(), copy->getResults()))
    mapping.map(from, to);
}

Value Scalars::emitOp(Operation &op, ValueRange operands) {
  if (auto extent = dyn_cast<attn::ExtentOp>(op))
    return emitExtent(extent);
  if (auto load = dyn_cast<attn::LoadOp>(op))
    return emitGather(load, operands.drop_front());
  if (isa<attn::FloorDivOp>(op))
    return attn::emitFloorDiv(e.b, e.loc, operands[0], operands[1]);
  if (isa<attn::ModOp>(op))
    return attn::emitMod(e.b, e.loc, operands[0], operands[1]);
  Type result = op.getResult(0).getType();
  if (isa<arith::IndexCastOp, arith::IndexCastUIOp>(op)) {
    Value x = operands[0];
    if (result.isInteger(64))
      return e.toI64(x);
    // Bounds beyond all coordinates stay beyond them.
    if (x.getType().isInteger(64))
      x = e.min(e.max(x, e.cst64(-kMaxCoordinate)), e.cst64(kMaxCoordinate));
    return e.toI32(x);
  }
  if (auto constant = dyn_cast<arith::ConstantOp>(op); constant && result.isIndex())
    return e.cst(cast<IntegerAttr>(constant.getValue()).getInt());
  OperationState state(e.loc, op.getName());
  state.addOperands(operands);
  state.addTypes(result.isIndex() ? e.i32() : result);
  state.propertiesAttr = op.getPropertiesAsAttribute();
  state.addAttributes(llvm::to_vector(op.getDiscardableAttrs()));
  return e.b.create(state)->getResult(0);
}

Value Scalars::emitExtent(attn::ExtentOp op) {
  static const llvm::StringMap<int64_t> words = {{"B", HEED_ARG_B},
                                                 {"Hq", HEED_ARG_HQ},
                                                 {"Hkv", HEED_ARG_HKV},
                                                 {"Sq", HEED_ARG_SQ},
                                                 {"Skv", HEED_ARG_SKV}};
  auto it = words.find(op.getSymbol());
  if (it != words.end())
    return word32(it->second);
  return e.cst(op.getSymbol() == "D" ? source.headDim : source.valueHeadDim); // compiled in
}

/// One element of a captured tensor, 0 outside it: a predicated load, no branch.
Value Scalars::emitGather(attn::LoadOp op, ValueRange indices) {
  const CapturedTensor &tensor = captured.find(op.getTensor())->second;
  Value inside = e.cstBool(true), offset = e.cst64(0);
  for (auto [index, extent, stride] : llvm::zip(indices, tensor.extents, tensor.strides)) {
    Value i = e.toI64(index);
    inside = e.band(inside, e.cmp(arith::CmpIPredicate::ult, i, extent));
    offset = e.add(offset, e.mul(i, stride));
  }
  Type element = tensor.element;
  unsigned bytes = std::max(8u, element.getIntOrFloatBitWidth()) / 8;
  Value address = e.at(tensor.data, e.mul(offset, bytes));
  auto read = [&](StringRef type, StringRef zero, StringRef constraint, Type result) {
    return e.purePtx("{ mov." + zero + " $0, 0; @$2 ld.global.nc." + type + " $0, [$1]; }",
                     "=&" + constraint.str() + ",l,b", {address, inside}, result);
  };
  if (element.isF32())
    return read("f32", "b32", "f", e.f32());
  if (element.isInteger(64))
    return read("b64", "b64", "l", e.i64());
  if (element.isInteger(32))
    return read("b32", "b32", "r", e.i32());
  if (element.isInteger(8))
    return read("s8", "b32", "r", e.i32());
  if (element.isInteger(1))
    return e.ne(read("u8", "b32", "r", e.i32()), 0);
  return e.widen(element, read("b16", "b16", "h", e.b.getI16Type()));
}

void heed::nvidia::unrollReads(Operation *function) {
  constexpr uint64_t kUnroll = 8;
  SmallVector<scf::ForOp> loops;
  function->walk([&](scf::ForOp op) { loops.push_back(op); });
  for (scf::ForOp op : loops)
    (void)loopUnrollByFactor(op, kUnroll);
}
