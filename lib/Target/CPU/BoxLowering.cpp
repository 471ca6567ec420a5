//===-- BoxLowering.cpp - Functions of a box on CPUs ----------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BoxLowering.h"
#include "StageVectorizer.h"

#include "heed/Conversion/Passes.h"

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

/// The last arguments of a function of a box and of one of a pair: batch and head, then ranges or
/// numbers of a query and a key.
static constexpr unsigned kBoxCoordinates = 6, kPairCoordinates = 4;
static constexpr llvm::StringLiteral kPairSuffix = "_attends";

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
  auto endsWith = [&](unsigned count, Type type) {
    return llvm::hasSingleElement(function.getBody()) && function.getNumArguments() >= count &&
           llvm::all_of(function.getArgumentTypes().take_back(count),
                        [&](Type argument) { return argument == type; });
  };
  Builder b(function.getContext());
  if (!function.getSymName().ends_with(kPairSuffix)) {
    if (!endsWith(kBoxCoordinates, b.getIndexType()))
      return function.emitError(
          "expects one block whose last six arguments are a batch, a head and a box");
  } else if (!endsWith(kPairCoordinates, b.getI32Type()) ||
             function.getResultTypes() != ArrayRef<Type>(b.getI1Type())) {
    return function.emitError("expects one block of a batch, a head and a pair (the last four "
                              "arguments, i32) that returns 'i1'");
  }
  return success();
}

/// Lanes and precision are what counts here, block sizes do not: a schedule of any kernel will do.
static tile::CPUScheduleAttr anySchedule(func::FuncOp function, const CPUTarget &target) {
  MLIRContext *context = function.getContext();
  return selectCPUSchedule(context, target, Float32Type::get(context), 64, 64);
}

BoxLowering::BoxLowering(func::FuncOp function, const CPUTarget &target)
    : ScalarLowering(function, target, anySchedule(function, target), headDimsOf(function)),
      function(function) {}

void BoxLowering::run() {
  if (function.getSymName().ends_with(kPairSuffix))
    lowerPair();
  else
    lowerBox();
  function.erase();
}

func::FuncOp BoxLowering::begin(StringRef name, Type result, unsigned numCoordinates) {
  SmallVector<Type> types(kBoxCoordinates, e->i64());
  types.insert(types.begin(), e->ptr());
  auto lowered = func::FuncOp::create(builder, e->loc, name,
                                      builder.getFunctionType(types, TypeRange(result)));
  lowered->setAttr(kBoxAttr, function->getAttr(kBoxAttr));
  builder.setInsertionPointToStart(lowered.addEntryBlock());
  args = lowered.getArgument(0);
  bindCaptures(function.getArguments().drop_back(numCoordinates));
  return lowered;
}

void BoxLowering::lowerBox() {
  func::FuncOp lowered =
      begin(function.getSymName(), function.getResultTypes().front(), kBoxCoordinates);
  for (auto [from, to] : llvm::zip(function.getArguments().take_back(kBoxCoordinates),
                                   lowered.getArguments().take_back(kBoxCoordinates)))
    scalars.map(
        from, arith::IndexCastOp::create(builder, e->loc, builder.getIndexType(), to).getResult());
  for (Operation &op : function.front())
    cloneScalar(op, scalars);
}

void BoxLowering::lowerPair() {
  // What is computed from queries alone is kept for so many at a time.
  const int64_t numKept = 8 * e->lanes;
  func::FuncOp lowered =
      begin((function.getSymName().drop_back(kPairSuffix.size()) + "_count").str(), e->i64(),
            kPairCoordinates);
  auto box = lowered.getArguments().take_back(kBoxCoordinates);
  auto pair = function.getArguments().take_back(kPairCoordinates);
  scalars.map(pair[0], e->toI32(box[0]));
  scalars.map(pair[1], e->toI32(box[1]));
  StageVectorizer mask(*this, function.front(), /*element=*/Value(), pair[2], pair[3], scalars);
  Value count = e->loop(box[2], box[3], numKept, e->cst(0), [&](Value q, ValueRange counted) {
    Value numQueries = e->min(e->sub(box[3], q), e->cst(numKept));
    mask.hoist(q, numQueries, [&](int64_t bytes) -> Value {
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPointToStart(&lowered.front());
      return LLVM::AllocaOp::create(builder, e->loc, e->ptr(), builder.getI8Type(),
                                    e->cst(numKept * bytes), /*alignment=*/64);
    });
    return e->loop(box[4], box[5], 1, counted, [&](Value kv, ValueRange counted) {
      StageVectorizer::Row row = mask.beginRow(e->toI32(kv));
      return e->loop(e->cst(0), numQueries, e->lanes, counted, [&](Value lane, ValueRange counted) {
        Value left = e->broadcast(e->toI32(e->sub(numQueries, lane)));
        Value exists = arith::CmpIOp::create(builder, e->loc, arith::CmpIPredicate::slt,
                                             e->laneNumbers(), left);
        Value attends = arith::AndIOp::create(builder, e->loc, exists,
                                              mask.evaluate(row, lane, /*element=*/Value()));
        return SmallVector<Value>{e->add(counted[0], e->countLanes(attends))};
      });
    });
  })[0];
  func::ReturnOp::create(builder, e->loc, count);
}
