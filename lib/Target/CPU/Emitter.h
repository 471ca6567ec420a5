//===-- Emitter.h - Builds vector code for CPU kernels ---------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A builder with the words that the CPU lowering speaks in: pointers, lanes,
// counted loops. Addresses are !llvm.ptr, vectors are builtin vectors of `lanes`
// elements, and integers that count things are i64.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CPU_EMITTER_H
#define HEED_LIB_TARGET_CPU_EMITTER_H

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Builders.h"

namespace heed::cpu {

using mlir::ArrayRef;
using mlir::SmallVector;
using mlir::Type;
using mlir::Value;
using mlir::ValueRange;
using mlir::VectorType;

class Emitter {
public:
  Emitter(mlir::OpBuilder &b, mlir::Location loc, tile::CPUScheduleAttr schedule, bool hasAVX512,
          bool hasFMA, bool hasF16Conversion, bool hasBF16Conversion)
      : b(b), loc(loc), lanes(schedule.getLanes()), hasAVX512(hasAVX512), hasFMA(hasFMA),
        hasF16Conversion(hasF16Conversion), hasBF16Conversion(hasBF16Conversion),
        expDegree(schedule.getExpDegree()) {}

  mlir::OpBuilder &b;
  mlir::Location loc;
  const int64_t lanes;
  const bool hasAVX512, hasFMA, hasF16Conversion, hasBF16Conversion;
  const int64_t expDegree;

  //===-- Types and constants ---------------------------------------------===//

  Type f32() { return b.getF32Type(); }
  Type i32() { return b.getI32Type(); }
  Type i64() { return b.getI64Type(); }
  Type ptr() { return mlir::LLVM::LLVMPointerType::get(b.getContext()); }
  VectorType vec(Type element) { return VectorType::get({lanes}, element); }
  VectorType vecF32() { return vec(f32()); }
  VectorType vecI32() { return vec(i32()); }

  Value cst(int64_t v) { return mlir::arith::ConstantIntOp::create(b, loc, i64(), v); }
  Value cstI32(int64_t v) { return mlir::arith::ConstantIntOp::create(b, loc, i32(), v); }
  Value cstF32(float v) { return mlir::arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value cstBool(bool v) { return mlir::arith::ConstantIntOp::create(b, loc, b.getI1Type(), v); }
  Value splatF32(float v);
  Value splatI32(int64_t v);
  Value broadcast(Value scalar);
  /// 0, 1, 2, ... in i32 lanes.
  Value laneNumbers();

  //===-- Integers --------------------------------------------------------===//

  Value add(Value x, Value y) { return b.createOrFold<mlir::arith::AddIOp>(loc, x, y); }
  Value add(Value x, int64_t y) { return y ? add(x, cst(y)) : x; }
  Value sub(Value x, Value y) { return b.createOrFold<mlir::arith::SubIOp>(loc, x, y); }
  Value mul(Value x, Value y) { return b.createOrFold<mlir::arith::MulIOp>(loc, x, y); }
  Value mul(Value x, int64_t y) { return y == 1 ? x : mul(x, cst(y)); }
  Value min(Value x, Value y) { return b.createOrFold<mlir::arith::MinSIOp>(loc, x, y); }
  Value max(Value x, Value y) { return b.createOrFold<mlir::arith::MaxSIOp>(loc, x, y); }
  /// floor(x / y) for x >= 0, y > 0.
  Value div(Value x, int64_t y) { return b.createOrFold<mlir::arith::DivUIOp>(loc, x, cst(y)); }
  /// x - div(x, y) * y.
  Value rem(Value x, int64_t y) { return b.createOrFold<mlir::arith::RemUIOp>(loc, x, cst(y)); }
  Value lt(Value x, Value y) {
    return b.createOrFold<mlir::arith::CmpIOp>(loc, mlir::arith::CmpIPredicate::slt, x, y);
  }
  Value eq(Value x, Value y) {
    return b.createOrFold<mlir::arith::CmpIOp>(loc, mlir::arith::CmpIPredicate::eq, x, y);
  }
  Value select(Value c, Value x, Value y) {
    return b.createOrFold<mlir::arith::SelectOp>(loc, c, x, y);
  }
  /// Any integer or index as i64.
  Value toI64(Value v);
  Value toI32(Value v);

  //===-- Floats ----------------------------------------------------------===//

  Value fadd(Value x, Value y) { return mlir::arith::AddFOp::create(b, loc, x, y); }
  Value fsub(Value x, Value y) { return mlir::arith::SubFOp::create(b, loc, x, y); }
  Value fmul(Value x, Value y) { return mlir::arith::MulFOp::create(b, loc, x, y); }
  Value fneg(Value x) { return mlir::arith::NegFOp::create(b, loc, x); }
  /// x * y + z, fused where the target can.
  Value fma(Value x, Value y, Value z);
  /// The larger one; y where either is NaN.
  Value fmax(Value x, Value y);
  Value fmin(Value x, Value y);
  /// 2^x with the schedule's degree: 0 for -inf, NaN for NaN. Clears results below the normal
  /// range.
  Value exp2(Value x) { return exp2(x, expDegree); }
  Value exp2(Value x, int64_t degree);

  //===-- Memory ----------------------------------------------------------===//

  /// base + offset elements of `element`.
  Value at(Value base, Value offset, Type element);
  Value load(Type type, Value address, unsigned alignment = 0);
  void store(Value value, Value address, unsigned alignment = 0);
  /// Hints that the cache line of `address` will be read soon (into the second level).
  void prefetch(Value address);

  /// f16 or bf16 bits (i16, scalar or vector) as f32.
  Value widenBits(Type element, Value bits);
  /// `lanes` elements of f32, f16 or bf16 as f32.
  Value loadWidened(Type element, Value address);
  /// One element of f32, f16 or bf16 as f32.
  Value loadScalarWidened(Type element, Value address);
  /// Rounds f32 to `element` and stores; for vectors and scalars.
  void storeNarrowed(Value value, Type element, Value address);
  /// Rounds f32 to bf16, to nearest even; vectors and scalars; the result is an i16 of the same
  /// shape.
  Value roundToBF16Bits(Value value);

  //===-- Lanes -----------------------------------------------------------===//

  /// Rounds two vectors of f32 to bf16 and interleaves them: each i32 lane holds `low` and, in its
  /// upper half, `high`.
  Value packPairs(Value low, Value high);
  /// Transposes `lanes` vectors of f32 or i32.
  void transpose(SmallVector<Value> &rows);
  /// Whether any lane of an i1 vector is set.
  Value anyLane(Value mask);
  /// How many lanes of an i1 vector are set, as i64.
  Value countLanes(Value mask);

  //===-- Control ---------------------------------------------------------===//

  using Body = llvm::function_ref<SmallVector<Value>(Value iv, ValueRange carried)>;
  /// for (iv = lower; iv < upper; iv += step), with loop-carried values.
  SmallVector<Value> loop(Value lower, Value upper, int64_t step, ValueRange inits, Body body);
  void loop(Value lower, Value upper, int64_t step, llvm::function_ref<void(Value)> body);
  void ifThen(Value condition, llvm::function_ref<void()> then);
  Value ifElse(Value condition, Type type, llvm::function_ref<Value()> then,
               llvm::function_ref<Value()> otherwise);
  /// Calls an LLVM intrinsic by name.
  Value intrinsic(llvm::StringRef name, Type result, ValueRange operands);
  void intrinsicNoResult(llvm::StringRef name, ValueRange operands);
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_EMITTER_H
