//===-- Emitter.cpp - Builds code of GPU kernels --------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Emitter.h"

#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>

using namespace mlir;
using namespace heed::nvidia;

LLVM::LLVMFuncOp heed::nvidia::createKernelFunction(OpBuilder &b, Location loc, StringRef name,
                                                    int64_t numMaps, int64_t numWords,
                                                    int64_t numThreads, int64_t minBlocksPerSM) {
  MLIRContext *context = b.getContext();
  SmallVector<Type> types(numMaps + 1, LLVM::LLVMPointerType::get(context));
  auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), types);
  auto function = LLVM::LLVMFuncOp::create(b, loc, name, type);
  function->setAttr(NVVM::NVVMDialect::getKernelFuncAttrName(), b.getUnitAttr());
  function->setAttr(NVVM::NVVMDialect::getMaxntidAttrName(),
                    b.getDenseI32ArrayAttr({static_cast<int32_t>(numThreads)}));
  function->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), b.getI32IntegerAttr(minBlocksPerSM));
  auto byValue = [&](unsigned argument, Type contents, int64_t alignment) {
    function.setArgAttr(argument, LLVM::LLVMDialect::getByValAttrName(), TypeAttr::get(contents));
    function.setArgAttr(argument, LLVM::LLVMDialect::getAlignAttrName(),
                        b.getI64IntegerAttr(alignment));
    function.setArgAttr(argument, NVVM::NVVMDialect::getGridConstantAttrName(), b.getUnitAttr());
  };
  for (int64_t i = 0; i < numMaps; ++i)
    byValue(i, LLVM::LLVMArrayType::get(b.getI8Type(), 128), 128);
  byValue(numMaps, LLVM::LLVMArrayType::get(b.getI64Type(), numWords), 8);
  function.addEntryBlock(b);
  return function;
}

Value Emitter::negativeInfinity() { return cstF32(-std::numeric_limits<float>::infinity()); }

//===----------------------------------------------------------------------===//
// Floats
//===----------------------------------------------------------------------===//

Value Emitter::fma(Value x, Value y, Value z) { return math::FmaOp::create(b, loc, x, y, z); }

Value Emitter::unary(StringRef instruction, Value x) {
  return purePtx(instruction + " $0, $1;", "=f,f", x, f32());
}

Value Emitter::packPair(Type element, Value low, Value high) {
  StringRef type = element.isBF16() ? "bf16x2" : "f16x2";
  return purePtx("cvt.rn." + type + ".f32 $0, $1, $2;", "=r,f,f", {high, low}, i32());
}

Value Emitter::widen(Type element, Value bits16) {
  if (element.isF16())
    return arith::ExtFOp::create(b, loc, f32(), bitcast(element, bits16));
  Value wide = arith::ExtUIOp::create(b, loc, i32(), bits16);
  return bitcast(f32(), shl(wide, 16));
}

Value Emitter::scalePair(Type element, Value word, Value factor) {
  Type i16 = b.getI16Type();
  Value low = arith::TruncIOp::create(b, loc, i16, word);
  Value high = arith::TruncIOp::create(b, loc, i16, shr(word, 16));
  return packPair(element, fmul(widen(element, low), factor), fmul(widen(element, high), factor));
}

Value Emitter::narrow(Type element, Value x) {
  StringRef type = element.isBF16() ? "bf16" : "f16";
  return purePtx("cvt.rn." + type + ".f32 $0, $1;", "=h,f", x, b.getI16Type());
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value Emitter::at(Value base, Value bytes) {
  return LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base,
                             ArrayRef<LLVM::GEPArg>{bytes});
}

Value Emitter::load(Type type, Value address, unsigned alignment) {
  return LLVM::LoadOp::create(b, loc, type, address, alignment);
}

void Emitter::store(Value value, Value address, unsigned alignment) {
  LLVM::StoreOp::create(b, loc, value, address, alignment);
}

Value Emitter::loadIf(StringRef type, Value address, Value condition) {
  return ptx("{ mov.b32 $0, 0; @$2 ld.global." + type + " $0, [$1]; }", "=&r,l,b",
             {address, condition}, i32())[0];
}

//===----------------------------------------------------------------------===//
// Threads
//===----------------------------------------------------------------------===//

Value Emitter::threadId() { return NVVM::ThreadIdXOp::create(b, loc, i32()); }
Value Emitter::blockId() { return NVVM::BlockIdXOp::create(b, loc, i32()); }
Value Emitter::numBlocks() { return NVVM::GridDimXOp::create(b, loc, i32()); }
Value Emitter::freshThreadId() { return ptx("mov.u32 $0, %tid.x;", "=r", {}, i32())[0]; }
Value Emitter::freshLaneId() { return ptx("mov.u32 $0, %laneid;", "=r", {}, i32())[0]; }
Value Emitter::laneId() { return band(threadId(), 31); }

static Value callIntrinsic(Emitter &e, StringRef name, Type result, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(e.b, e.loc, result, e.b.getStringAttr(name), operands)
      .getResults();
}

Value Emitter::shuffleXor(Value x, int64_t mask) {
  StringRef name =
      x.getType().isF32() ? "llvm.nvvm.shfl.sync.bfly.f32" : "llvm.nvvm.shfl.sync.bfly.i32";
  return callIntrinsic(*this, name, x.getType(), {cst(-1), x, cst(mask), cst(31)});
}

Value Emitter::shuffleIndex(Value x, Value lane) {
  return callIntrinsic(*this, "llvm.nvvm.shfl.sync.idx.i32", i32(), {cst(-1), x, lane, cst(31)});
}

Value Emitter::packLanes(ArrayRef<Value> numbers) {
  Value packed = numbers[0], lane = laneId();
  for (auto [i, number] : llvm::enumerate(numbers))
    if (i > 0)
      packed = select(eq(lane, int64_t(i)), number, packed);
  return packed;
}

Value Emitter::voteAny(Value p) {
  return callIntrinsic(*this, "llvm.nvvm.vote.any.sync", i1(), {cst(-1), p});
}

Value Emitter::ballot(Value p) {
  return callIntrinsic(*this, "llvm.nvvm.vote.ballot.sync", i32(), {cst(-1), p});
}

Value Emitter::popcount(Value x) { return math::CtPopOp::create(b, loc, x); }

Value Emitter::trailingZeros(Value x) { return math::CountTrailingZerosOp::create(b, loc, x); }

Value Emitter::lanesBelow() {
  return callIntrinsic(*this, "llvm.nvvm.read.ptx.sreg.lanemask.lt", i32(), {});
}

void Emitter::barrier(Value id, int64_t threads) {
  ptx("bar.sync $0, " + Twine(threads) + ";", "r", id);
}

void Emitter::barrierAll() { ptx("bar.sync 0;", "", {}); }

//===----------------------------------------------------------------------===//
// PTX
//===----------------------------------------------------------------------===//

Operation *Emitter::createPtx(const Twine &text, StringRef constraints, ValueRange operands,
                              ArrayRef<Type> results, bool hasSideEffects) {
  Type type;
  if (results.size() == 1)
    type = results[0];
  else if (results.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(b.getContext(), results);
  return LLVM::InlineAsmOp::create(
      b, loc, type ? TypeRange(type) : TypeRange(), operands, text.str(), constraints,
      hasSideEffects, /*is_align_stack=*/false, LLVM::TailCallKind::None,
      LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT),
      /*operand_attrs=*/ArrayAttr());
}

SmallVector<Value> Emitter::ptx(const Twine &text, StringRef constraints, ValueRange operands,
                                ArrayRef<Type> results) {
  Operation *op = createPtx(text, constraints, operands, results, /*hasSideEffects=*/true);
  if (results.empty())
    return {};
  if (results.size() == 1)
    return {op->getResult(0)};
  SmallVector<Value> values;
  for (size_t i = 0; i < results.size(); ++i)
    values.push_back(
        LLVM::ExtractValueOp::create(b, loc, op->getResult(0), ArrayRef<int64_t>{int64_t(i)}));
  return values;
}

Value Emitter::purePtx(const Twine &text, StringRef constraints, ValueRange operands, Type result) {
  return createPtx(text, constraints, operands, result, /*hasSideEffects=*/false)->getResult(0);
}

//===----------------------------------------------------------------------===//
// Control
//===----------------------------------------------------------------------===//

void Emitter::ifThen(Value condition, llvm::function_ref<void()> then) {
  auto op = scf::IfOp::create(b, loc, condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPoint(op.thenBlock()->getTerminator());
  then();
}

Emitter::Values Emitter::ifElse(Value condition, TypeRange types, llvm::function_ref<Values()> then,
                                llvm::function_ref<Values()> otherwise) {
  auto op = scf::IfOp::create(b, loc, types, condition, /*addThenBlock=*/true,
                              /*addElseBlock=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToEnd(op.thenBlock());
  scf::YieldOp::create(b, loc, then());
  b.setInsertionPointToEnd(op.elseBlock());
  scf::YieldOp::create(b, loc, otherwise());
  return op.getResults();
}

Emitter::Values Emitter::loopWhile(ValueRange inits,
                                   llvm::function_ref<Value(ValueRange)> condition,
                                   llvm::function_ref<Values(ValueRange)> body) {
  OpBuilder::InsertionGuard guard(b);
  auto op = scf::WhileOp::create(
      b, loc, inits.getTypes(), inits,
      [&](OpBuilder &, Location, ValueRange carried) {
        Value c = condition(carried);
        scf::ConditionOp::create(b, loc, c, carried);
      },
      [&](OpBuilder &, Location, ValueRange carried) {
        scf::YieldOp::create(b, loc, body(carried));
      });
  return op.getResults();
}

Emitter::Values Emitter::loop(Value lower, Value upper, Value step, ValueRange inits,
                              llvm::function_ref<Values(Value, ValueRange)> body) {
  OpBuilder::InsertionGuard guard(b);
  auto op = scf::ForOp::create(b, loc, lower, upper, step, inits,
                               [&](OpBuilder &, Location, Value iv, ValueRange carried) {
                                 scf::YieldOp::create(b, loc, body(iv, carried));
                               });
  return op.getResults();
}
