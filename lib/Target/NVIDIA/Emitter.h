//===-- Emitter.h - Builds code of GPU kernels -----------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A builder with the words that the NVIDIA lowerings speak in. Coordinates, counts
// and addresses in shared memory are i32, offsets in global memory i64. What has no
// LLVM intrinsic is one line of PTX, named here and nowhere else.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_EMITTER_H
#define HEED_LIB_TARGET_NVIDIA_EMITTER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"

namespace heed::nvidia {

using mlir::ArrayRef;
using mlir::SmallVector;
using mlir::Type;
using mlir::Value;
using mlir::ValueRange;

/// The function of an NVPTX kernel without its code. It takes `numMaps` tensor maps and then a
/// block of `numWords` argument words, all by value.
mlir::LLVM::LLVMFuncOp createKernelFunction(mlir::OpBuilder &b, mlir::Location loc,
                                            llvm::StringRef name, int64_t numMaps, int64_t numWords,
                                            int64_t numThreads, int64_t minBlocksPerSM);

/// Address spaces of NVPTX.
enum AddressSpace : unsigned { kGlobal = 1, kShared = 3 };

class Emitter {
public:
  Emitter(mlir::OpBuilder &b, mlir::Location loc) : b(b), loc(loc) {}

  mlir::OpBuilder &b;
  mlir::Location loc;

  //===-- Types and constants ---------------------------------------------===//

  Type f32() { return b.getF32Type(); }
  Type i1() { return b.getI1Type(); }
  Type i32() { return b.getI32Type(); }
  Type i64() { return b.getI64Type(); }
  Type ptr(unsigned space = 0) { return mlir::LLVM::LLVMPointerType::get(b.getContext(), space); }

  Value cst(int64_t v) { return mlir::arith::ConstantIntOp::create(b, loc, i32(), v); }
  Value cst64(int64_t v) { return mlir::arith::ConstantIntOp::create(b, loc, i64(), v); }
  Value cstF32(float v) { return mlir::arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value cstBool(bool v) { return mlir::arith::ConstantIntOp::create(b, loc, i1(), v); }
  Value negativeInfinity();

  //===-- Integers of one type --------------------------------------------===//

  Value add(Value x, Value y) { return b.createOrFold<mlir::arith::AddIOp>(loc, x, y); }
  Value add(Value x, int64_t y) { return y ? add(x, like(x, y)) : x; }
  Value sub(Value x, Value y) { return b.createOrFold<mlir::arith::SubIOp>(loc, x, y); }
  Value sub(Value x, int64_t y) { return add(x, -y); }
  Value mul(Value x, Value y) { return b.createOrFold<mlir::arith::MulIOp>(loc, x, y); }
  Value mul(Value x, int64_t y) { return y == 1 ? x : mul(x, like(x, y)); }
  Value div(Value x, Value y) { return b.createOrFold<mlir::arith::DivUIOp>(loc, x, y); }
  Value div(Value x, int64_t y) { return y == 1 ? x : div(x, like(x, y)); }
  Value divCeil(Value x, int64_t y) { return div(add(x, y - 1), y); }
  Value rem(Value x, int64_t y) { return b.createOrFold<mlir::arith::RemUIOp>(loc, x, like(x, y)); }
  Value min(Value x, Value y) { return b.createOrFold<mlir::arith::MinSIOp>(loc, x, y); }
  Value max(Value x, Value y) { return b.createOrFold<mlir::arith::MaxSIOp>(loc, x, y); }
  Value band(Value x, Value y) { return b.createOrFold<mlir::arith::AndIOp>(loc, x, y); }
  Value band(Value x, int64_t y) { return band(x, like(x, y)); }
  Value bor(Value x, Value y) { return b.createOrFold<mlir::arith::OrIOp>(loc, x, y); }
  Value bxor(Value x, Value y) { return b.createOrFold<mlir::arith::XOrIOp>(loc, x, y); }
  Value bxor(Value x, int64_t y) { return bxor(x, like(x, y)); }
  Value shl(Value x, int64_t n) { return b.createOrFold<mlir::arith::ShLIOp>(loc, x, like(x, n)); }
  Value shr(Value x, int64_t n) { return b.createOrFold<mlir::arith::ShRUIOp>(loc, x, like(x, n)); }
  Value cmp(mlir::arith::CmpIPredicate p, Value x, Value y) {
    return b.createOrFold<mlir::arith::CmpIOp>(loc, p, x, y);
  }
  Value eq(Value x, Value y) { return cmp(mlir::arith::CmpIPredicate::eq, x, y); }
  Value eq(Value x, int64_t y) { return eq(x, like(x, y)); }
  Value ne(Value x, int64_t y) { return cmp(mlir::arith::CmpIPredicate::ne, x, like(x, y)); }
  Value lt(Value x, Value y) { return cmp(mlir::arith::CmpIPredicate::slt, x, y); }
  Value ge(Value x, Value y) { return cmp(mlir::arith::CmpIPredicate::sge, x, y); }
  Value ge(Value x, int64_t y) { return ge(x, like(x, y)); }
  Value select(Value c, Value x, Value y) {
    return b.createOrFold<mlir::arith::SelectOp>(loc, c, x, y);
  }
  /// Conditions of a selection: opaque, for of one by a conjunction LLVM would make two. ptxas
  /// merges them with comparisons.
  Value both(Value x, Value y) { return purePtx("and.pred $0, $1, $2;", "=b,b,b", {x, y}, i1()); }
  Value either(Value x, Value y) { return purePtx("or.pred $0, $1, $2;", "=b,b,b", {x, y}, i1()); }
  Value negate(Value c) { return bxor(c, cstBool(true)); }
  Value toI64(Value x) {
    return x.getType().isInteger(64) ? x : b.createOrFold<mlir::arith::ExtSIOp>(loc, i64(), x);
  }
  Value toI32(Value x) {
    return x.getType().isInteger(32) ? x : b.createOrFold<mlir::arith::TruncIOp>(loc, i32(), x);
  }

  //===-- Floats (f32), contracted to fused multiply-adds where that is possible ----===//

  Value fadd(Value x, Value y) { return mlir::arith::AddFOp::create(b, loc, x, y); }
  Value fsub(Value x, Value y) { return mlir::arith::SubFOp::create(b, loc, x, y); }
  Value fmul(Value x, Value y) { return mlir::arith::MulFOp::create(b, loc, x, y); }
  Value fneg(Value x) { return mlir::arith::NegFOp::create(b, loc, x); }
  Value fma(Value x, Value y, Value z);
  /// The larger or smaller one; the other where one is NaN.
  Value fmax(Value x, Value y) { return mlir::arith::MaxNumFOp::create(b, loc, x, y); }
  Value fmin(Value x, Value y) { return mlir::arith::MinNumFOp::create(b, loc, x, y); }
  Value fcmp(mlir::arith::CmpFPredicate p, Value x, Value y) {
    return mlir::arith::CmpFOp::create(b, loc, p, x, y);
  }
  /// One instruction of one operand, such as "ex2.approx.ftz.f32".
  Value unary(llvm::StringRef instruction, Value x);
  Value exp2(Value x) { return unary("ex2.approx.ftz.f32", x); }
  Value log2(Value x) { return unary("lg2.approx.ftz.f32", x); }
  Value reciprocal(Value x) { return unary("rcp.approx.ftz.f32", x); }
  /// Two f32 rounded to a pair of bf16 or f16 in an i32.
  Value packPair(Type element, Value low, Value high);
  /// The bits of an f16 or bf16 as f32.
  Value widen(Type element, Value bits16);
  /// A pair of bf16 or f16, each times an f32.
  Value scalePair(Type element, Value word, Value factor);
  /// An f32 rounded to bf16 or f16, as bits.
  Value narrow(Type element, Value x);
  Value bitcast(Type type, Value x) { return mlir::arith::BitcastOp::create(b, loc, type, x); }

  //===-- Memory ----------------------------------------------------------===//

  /// base + `bytes` (i32 or i64), in base's address space.
  Value at(Value base, Value bytes);
  Value load(Type type, Value address, unsigned alignment = 0);
  void store(Value value, Value address, unsigned alignment = 0);
  /// What is in global memory ("b32", or widened "u8") where `condition` holds, else 0; i32. No
  /// branch.
  Value loadIf(llvm::StringRef type, Value address, Value condition);

  //===-- Threads ---------------------------------------------------------===//

  Value threadId();
  Value blockId();
  Value numBlocks();
  Value laneId();
  /// The same, read again: what is computed from them is not kept in registers in between.
  Value freshThreadId();
  Value freshLaneId();
  /// The same for any number (i32).
  Value fresh(Value x) { return ptx("mov.b32 $0, $1;", "=r,r", x, i32())[0]; }
  Value shuffleXor(Value x, int64_t mask);
  Value shuffleIndex(Value x, Value lane);
  /// Numbers (i32) that are the same in all lanes, in one register: the i-th in lane i, from where
  /// shuffleIndex brings it back.
  Value packLanes(ArrayRef<Value> numbers);
  Value voteAny(Value p);
  Value ballot(Value p);
  Value popcount(Value x);
  Value trailingZeros(Value x);
  /// A bit for each lane of the warp below this one.
  Value lanesBelow();
  /// Waits for `threads` threads of the block at named barrier `id`.
  void barrier(Value id, int64_t threads);
  void barrierAll();

  //===-- PTX -------------------------------------------------------------===//

  /// Inline PTX with side effects; `results` may be empty.
  SmallVector<Value> ptx(const llvm::Twine &text, llvm::StringRef constraints, ValueRange operands,
                         ArrayRef<Type> results = {});
  /// The same without side effects: may be moved, merged and dropped.
  Value purePtx(const llvm::Twine &text, llvm::StringRef constraints, ValueRange operands,
                Type result);

  //===-- Control ---------------------------------------------------------===//

  using Values = SmallVector<Value>;
  void ifThen(Value condition, llvm::function_ref<void()> then);
  Values ifElse(Value condition, mlir::TypeRange types, llvm::function_ref<Values()> then,
                llvm::function_ref<Values()> otherwise);
  /// while (condition(carried)) carried = body(carried).
  Values loopWhile(ValueRange inits, llvm::function_ref<Value(ValueRange)> condition,
                   llvm::function_ref<Values(ValueRange)> body);
  /// for (iv = lower; iv < upper; iv += step), i32.
  Values loop(Value lower, Value upper, Value step, ValueRange inits,
              llvm::function_ref<Values(Value iv, ValueRange)> body);

private:
  Value like(Value x, int64_t v) {
    return mlir::arith::ConstantIntOp::create(b, loc, x.getType(), v);
  }
  mlir::Operation *createPtx(const llvm::Twine &text, llvm::StringRef constraints,
                             ValueRange operands, ArrayRef<Type> results, bool hasSideEffects);
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_EMITTER_H
