//===-- BoxLowering.cpp - Functions of a box on CPUs ----------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BoxLowering.h"

#include "heed/Conversion/Passes.h"

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

static constexpr unsigned kNumCoordinates = 6; // batch, head, and the box

static std::pair<int64_t, int64_t> headDimsOf(func::FuncOp function) {
  auto box = function->getAttrOfType<DictionaryAttr>(kBoxAttr);
  auto number = [&](StringRef key) { return cast<IntegerAttr>(box.get(key)).getInt(); };
  return {number("head_dim"), number("value_head_dim")};
}

LogicalResult BoxLowering::check(func::FuncOp function) {
  auto box = function->getAttrOfType<DictionaryAttr>(kBoxAttr);
  auto isNumber = [&](StringRef key) { return isa_and_present<IntegerAttr>(box.get(key)); };
  if (!box || !isNumber("head_dim") || !isNumber("value_head_dim"))
    return function.emitError("expects the integers head_dim and value_head_dim in '")
           << kBoxAttr << "'";
  auto coordinates = function.getArgumentTypes().take_back(kNumCoordinates);
  if (!llvm::hasSingleElement(function.getBody()) || coordinates.size() != kNumCoordinates ||
      !llvm::all_of(coordinates, [](Type type) { return type.isIndex(); }))
    return function.emitError(
        "expects one block whose last six arguments are a batch, a head and a box");
  return success();
}

/// Scalar code needs no schedule: any will do for the emitter.
static tile::CPUScheduleAttr anySchedule(func::FuncOp function, const CPUTarget &target) {
  MLIRContext *context = function.getContext();
  return selectCPUSchedule(context, target, Float32Type::get(context), 64, 64);
}

BoxLowering::BoxLowering(func::FuncOp function, const CPUTarget &target)
    : ScalarLowering(function, target, anySchedule(function, target), headDimsOf(function)),
      function(function) {}

void BoxLowering::run() {
  SmallVector<Type> types(kNumCoordinates, e->i64());
  types.insert(types.begin(), e->ptr());
  auto lowered = func::FuncOp::create(builder, e->loc, function.getName(),
                                      builder.getFunctionType(types, function.getResultTypes()));
  lowered->setAttr(kBoxAttr, function->getAttr(kBoxAttr));
  Block *entry = lowered.addEntryBlock();
  builder.setInsertionPointToStart(entry);
  args = entry->getArgument(0);
  auto arguments = function.getArguments();
  bindCaptures(arguments.drop_back(kNumCoordinates));
  for (auto [from, to] : llvm::zip(arguments.take_back(kNumCoordinates),
                                   entry->getArguments().take_back(kNumCoordinates)))
    scalars.map(
        from, arith::IndexCastOp::create(builder, e->loc, builder.getIndexType(), to).getResult());
  for (Operation &op : function.front())
    cloneScalar(op, scalars);
  function.erase();
}
