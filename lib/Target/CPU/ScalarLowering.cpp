//===-- ScalarLowering.cpp - Scalar ops in CPU code ---------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ScalarLowering.h"
#include "StageVectorizer.h"

#include "heed-c/Runtime.h"
#include "heed/Dialect/Attn/IR/TotalDivision.h"

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

ScalarLowering::ScalarLowering(Operation *op, const CPUTarget &target,
                               tile::CPUScheduleAttr schedule, std::pair<int64_t, int64_t> headDims)
    : builder(op),
      e(std::make_unique<Emitter>(builder, op->getLoc(), schedule, target.hasAVX512, target.hasFMA,
                                  target.hasF16Conversion, target.hasDotBF16 || target.hasAMX)),
      headDims(headDims) {}

Value ScalarLowering::argWord(int64_t word) {
  return e->load(e->i64(), e->at(args, e->cst(word), e->i64()));
}

Value ScalarLowering::argPointer(int64_t word) {
  return e->load(e->ptr(), e->at(args, e->cst(word), e->i64()), 8);
}

Value ScalarLowering::scalarArgument(Type type, int64_t word) {
  return emitScalarArgument(builder, e->loc, type, argWord(word));
}

void ScalarLowering::bindCaptures(ValueRange captures) {
  bindParameters(
      builder, e->loc, captures, [&](int64_t word) { return argWord(word); },
      [&](int64_t word) { return argPointer(word); }, scalars, captured);
}

void ScalarLowering::cloneScalar(Operation &op, IRMapping &mapping) {
  Location loc = op.getLoc();
  auto lookup = [&](Value v) { return mapping.lookupOrDefault(v); };
  if (auto extent = dyn_cast<attn::ExtentOp>(op)) {
    static const llvm::StringMap<int64_t> words = {{"B", HEED_ARG_B},
                                                   {"Hq", HEED_ARG_HQ},
                                                   {"Hkv", HEED_ARG_HKV},
                                                   {"Sq", HEED_ARG_SQ},
                                                   {"Skv", HEED_ARG_SKV}};
    auto it = words.find(extent.getSymbol());
    Value v = it != words.end()
                  ? e->toI32(argWord(it->second))
                  : e->cstI32(extent.getSymbol() == "D" ? headDims.first : headDims.second);
    mapping.map(extent.getResult(), v);
    return;
  }
  if (auto load = dyn_cast<attn::LoadOp>(op)) {
    SmallVector<Value> indices = llvm::map_to_vector(load.getIndices(), lookup);
    mapping.map(load.getResult(),
                emitScalarGather(*e, tensorOf(lookup(load.getTensor())), indices, load.getType()));
    return;
  }
  if (isa<attn::FloorDivOp, attn::ModOp>(op)) {
    Value x = lookup(op.getOperand(0)), y = lookup(op.getOperand(1));
    mapping.map(op.getResult(0), isa<attn::ModOp>(op) ? attn::emitMod(builder, loc, x, y)
                                                      : attn::emitFloorDiv(builder, loc, x, y));
    return;
  }
  if (op.getNumRegions() == 0) {
    builder.clone(op, mapping);
    return;
  }
  // A structured op: its regions may hold ops of ours.
  OperationState state(loc, op.getName());
  state.addOperands(llvm::map_to_vector(op.getOperands(), lookup));
  state.addTypes(op.getResultTypes());
  state.propertiesAttr = op.getPropertiesAsAttribute();
  state.addAttributes(llvm::to_vector(op.getDiscardableAttrs()));
  for (unsigned i = 0; i < op.getNumRegions(); ++i)
    state.addRegion();
  Operation *copy = builder.create(state);
  for (auto [from, to] : llvm::zip(op.getRegions(), copy->getRegions())) {
    if (from.empty())
      continue;
    OpBuilder::InsertionGuard guard(builder);
    Block *block = builder.createBlock(&to);
    for (BlockArgument argument : from.front().getArguments())
      mapping.map(argument, block->addArgument(argument.getType(), loc));
    for (Operation &inner : from.front())
      cloneScalar(inner, mapping);
  }
  for (auto [from, to] : llvm::zip(op.getResults(), copy->getResults()))
    mapping.map(from, to);
}
