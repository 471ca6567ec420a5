//===-- Emitter.cpp - Builds vector code for CPU kernels ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Emitter.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::cpu;

//===----------------------------------------------------------------------===//
// Constants and integers
//===----------------------------------------------------------------------===//

Value Emitter::splatF32(float v) {
  return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(vecF32(), v));
}

Value Emitter::splatI32(int64_t v) {
  return arith::ConstantOp::create(b, loc,
                                   DenseElementsAttr::get(vecI32(), static_cast<int32_t>(v)));
}

Value Emitter::broadcast(Value scalar) {
  return vector::BroadcastOp::create(b, loc, vec(scalar.getType()), scalar);
}

Value Emitter::laneNumbers() {
  SmallVector<int32_t> numbers(lanes);
  for (int64_t i = 0; i < lanes; ++i)
    numbers[i] = i;
  return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(vecI32(), ArrayRef(numbers)));
}

Value Emitter::toI64(Value v) {
  if (v.getType().isIndex())
    return b.createOrFold<arith::IndexCastOp>(loc, i64(), v);
  if (v.getType().isInteger(32))
    return b.createOrFold<arith::ExtSIOp>(loc, i64(), v);
  return v;
}

Value Emitter::toI32(Value v) {
  v = toI64(v);
  return b.createOrFold<arith::TruncIOp>(loc, i32(), v);
}

//===----------------------------------------------------------------------===//
// Floats
//===----------------------------------------------------------------------===//

Value Emitter::fma(Value x, Value y, Value z) {
  if (!hasFMA)
    return fadd(fmul(x, y), z);
  return math::FmaOp::create(b, loc, x, y, z);
}

Value Emitter::fmax(Value x, Value y) {
  return select(arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OGT, x, y), x, y);
}

Value Emitter::fmin(Value x, Value y) {
  return select(arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLT, x, y), x, y);
}

/// p * 2^floor(n). A quiet NaN times 2^-inf is 0.
static Value scaleByPowerOf2(Emitter &e, Value p, Value n) {
  Value all = arith::ConstantIntOp::create(e.b, e.loc, e.b.getI16Type(), -1);
  return e.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", e.vecF32(), {p, n, p, all, e.cstI32(4)});
}

/// 2^x as accurate as f32 is, with half the multiplications of a polynomial alone: additions and
/// the shuffle run beside those of products, which are what kernels wait for.
static Value exp2ByTable(Emitter &e, Value x) {
  // 2^(i / 32), and 2^f = 1 + f (c1 + c2 f) on [-1/64, 1/64] within 5.4e-8 relative.
  constexpr int64_t kEntries = 32;
  constexpr float c1 = 0.693157315f, c2 = 0.240226492f;
  auto entries = [&](int64_t first) -> Value {
    SmallVector<float> powers;
    for (int64_t i = first; i < first + e.lanes; ++i)
      powers.push_back(static_cast<float>(std::exp2(static_cast<double>(i) / kEntries)));
    return arith::ConstantOp::create(e.b, e.loc,
                                     DenseElementsAttr::get(e.vecF32(), ArrayRef(powers)));
  };
  // Added to x, it leaves round(32 x) in the low bits; the shuffle reads five of them.
  Value magic = e.splatF32(12582912.0f / kEntries);
  Value shifted = e.fadd(x, magic);
  Value n = e.fsub(shifted, magic), f = e.fsub(x, n);
  Value index = arith::BitcastOp::create(e.b, e.loc, e.vecI32(), shifted);
  Value entry = e.intrinsic("llvm.x86.avx512.vpermi2var.ps.512", e.vecF32(),
                            {entries(0), index, entries(e.lanes)});
  Value p = e.fma(e.fmul(entry, f), e.fma(f, e.splatF32(c2), e.splatF32(c1)), entry);
  return scaleByPowerOf2(e, p, n);
}

Value Emitter::exp2(Value x, int64_t degree) {
  if (degree == 5 && hasAVX512)
    return exp2ByTable(*this, x);
  // Minimax polynomials of 2^f on [-1/2, 1/2] for the relative error, lowest degree first, among
  // those that are exactly 1 at 0: the weight of a row's only key is a power of two.
  static constexpr float degree3[] = {1.0f, 0.693282902f, 0.242210999f, 0.0550089329f};
  static constexpr float degree5[] = {1.0f,          0.693147004f,   0.240222424f,
                                      0.0555073358f, 0.00967151299f, 0.00132647285f};
  ArrayRef<float> c = degree == 3 ? ArrayRef<float>(degree3) : ArrayRef<float>(degree5);
  auto polynomial = [&](Value f) {
    Value p = splatF32(c.back());
    for (float coefficient : llvm::reverse(c.drop_back()))
      p = fma(p, f, splatF32(coefficient));
    return p;
  };
  if (hasAVX512) {
    Value n = math::RoundEvenOp::create(b, loc, x);
    Value p = polynomial(fsub(x, n));
    return scaleByPowerOf2(*this, p, n);
  }
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits; shifted into the exponent it
  // scales by 2^n.
  Value magic = splatF32(12582912.0f);
  Value shifted = fadd(x, magic);
  Value n = fsub(shifted, magic);
  Value p = polynomial(fsub(x, n));
  Value bits = arith::BitcastOp::create(b, loc, vecI32(), p);
  Value exponent = arith::ShLIOp::create(
      b, loc, arith::BitcastOp::create(b, loc, vecI32(), shifted), splatI32(23));
  Value scaled =
      arith::BitcastOp::create(b, loc, vecF32(), arith::AddIOp::create(b, loc, bits, exponent));
  // Unordered comparisons let NaN through.
  Value isNormal = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UGE, x, splatF32(-126.0f));
  Value isFinite = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::ULT, x, splatF32(128.0f));
  Value large = select(isFinite, scaled, splatF32(std::numeric_limits<float>::infinity()));
  return select(isNormal, large, splatF32(0.0f));
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value Emitter::at(Value base, Value offset, Type element) {
  return LLVM::GEPOp::create(b, loc, ptr(), element, base, ArrayRef<LLVM::GEPArg>{offset});
}

/// Memory of tensors is aligned to its elements only; scratch memory says so where it is better.
static unsigned elementAlignment(Type type) {
  Type element = getElementTypeOrSelf(type);
  return std::max(1u, element.getIntOrFloatBitWidth() / 8);
}

Value Emitter::load(Type type, Value address, unsigned alignment) {
  return LLVM::LoadOp::create(b, loc, type, address,
                              alignment ? alignment : elementAlignment(type));
}

void Emitter::store(Value value, Value address, unsigned alignment) {
  LLVM::StoreOp::create(b, loc, value, address,
                        alignment ? alignment : elementAlignment(value.getType()));
}

void Emitter::prefetch(Value address) {
  LLVM::Prefetch::create(b, loc, address, /*rw=*/0, /*hint=*/2, /*cache=*/1);
}

/// The same shape with another element type.
static Type withElement(Type type, Type element) {
  if (auto vector = dyn_cast<VectorType>(type))
    return VectorType::get(vector.getShape(), element);
  return element;
}

/// f16 bits in an integer to f32 by integer arithmetic, for CPUs without the instruction: the
/// exponent is rebased by a multiplication, which also makes subnormals right.
static Value widenF16Bits(Emitter &e, Value bits) {
  OpBuilder &b = e.b;
  Type i32 = withElement(bits.getType(), e.i32()), f32 = withElement(bits.getType(), e.f32());
  auto cst = [&](int64_t v) -> Value {
    return arith::ConstantOp::create(
        b, e.loc,
        isa<VectorType>(i32) ? TypedAttr(DenseElementsAttr::get(cast<ShapedType>(i32), int32_t(v)))
                             : TypedAttr(b.getI32IntegerAttr(v)));
  };
  Value wide = arith::ExtUIOp::create(b, e.loc, i32, bits);
  Value sign =
      arith::ShLIOp::create(b, e.loc, arith::AndIOp::create(b, e.loc, wide, cst(0x8000)), cst(16));
  Value magnitude = arith::AndIOp::create(b, e.loc, wide, cst(0x7fff));
  Value shifted = arith::ShLIOp::create(b, e.loc, magnitude, cst(13));
  Value rebase = arith::BitcastOp::create(b, e.loc, f32, cst((254 - 15) << 23)); // 2^112
  Value scaled =
      arith::MulFOp::create(b, e.loc, arith::BitcastOp::create(b, e.loc, f32, shifted), rebase);
  Value scaledBits = arith::BitcastOp::create(b, e.loc, i32, scaled);
  Value isSpecial = arith::CmpIOp::create(b, e.loc, arith::CmpIPredicate::uge, magnitude,
                                          cst(0x7c00)); // infinity and NaN
  Value special = arith::OrIOp::create(b, e.loc, shifted, cst(0x7f800000));
  Value result = arith::OrIOp::create(b, e.loc, e.select(isSpecial, special, scaledBits), sign);
  return arith::BitcastOp::create(b, e.loc, f32, result);
}

Value Emitter::widenBits(Type element, Value bits) {
  if (element.isF16()) {
    if (!hasF16Conversion)
      return widenF16Bits(*this, bits);
    Value half = arith::BitcastOp::create(b, loc, withElement(bits.getType(), element), bits);
    return arith::ExtFOp::create(b, loc, withElement(bits.getType(), f32()), half);
  }
  Type wideType = withElement(bits.getType(), i32());
  Value wide = arith::ExtUIOp::create(b, loc, wideType, bits);
  Value sixteen = isa<VectorType>(wideType) ? splatI32(16) : cstI32(16);
  Value shifted = arith::ShLIOp::create(b, loc, wide, sixteen);
  return arith::BitcastOp::create(b, loc, withElement(bits.getType(), f32()), shifted);
}

Value Emitter::loadWidened(Type element, Value address) {
  if (element.isF32())
    return load(vecF32(), address);
  return widenBits(element, load(vec(b.getI16Type()), address));
}

Value Emitter::loadScalarWidened(Type element, Value address) {
  if (element.isF32())
    return load(f32(), address);
  return widenBits(element, load(b.getI16Type(), address));
}

Value Emitter::roundToBF16Bits(Value value) {
  Type i32Type = withElement(value.getType(), i32());
  auto cst = [&](int64_t v) { return isa<VectorType>(i32Type) ? splatI32(v) : cstI32(v); };
  Value bits = arith::BitcastOp::create(b, loc, i32Type, value);
  // To nearest even: add 0x7fff and the lowest bit that stays. A NaN keeps its upper half, made
  // quiet.
  Value lowest =
      arith::AndIOp::create(b, loc, arith::ShRUIOp::create(b, loc, bits, cst(16)), cst(1));
  Value rounded =
      arith::AddIOp::create(b, loc, bits, arith::AddIOp::create(b, loc, lowest, cst(0x7fff)));
  Value quiet = arith::OrIOp::create(b, loc, bits, cst(0x400000));
  Value isNaN = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, value, value);
  Value upper = arith::ShRUIOp::create(b, loc, select(isNaN, quiet, rounded), cst(16));
  return arith::TruncIOp::create(b, loc, withElement(i32Type, b.getI16Type()), upper);
}

/// f32 to f16 bits by integer arithmetic, to nearest even, for CPUs without the instruction.
static Value roundToF16Bits(Emitter &e, Value value) {
  OpBuilder &b = e.b;
  Location loc = e.loc;
  Type i32 = withElement(value.getType(), e.i32()), f32 = value.getType();
  bool isVector = isa<VectorType>(i32);
  auto cst = [&](int64_t v) { return isVector ? e.splatI32(v) : e.cstI32(v); };
  auto asFloat = [&](Value v) -> Value { return arith::BitcastOp::create(b, loc, f32, v); };
  auto asBits = [&](Value v) -> Value { return arith::BitcastOp::create(b, loc, i32, v); };
  Value bits = asBits(value);
  Value sign = arith::AndIOp::create(b, loc, bits, cst(int32_t(0x80000000)));
  Value magnitude = arith::XOrIOp::create(b, loc, bits, sign);
  // Normal results: rebase the exponent, round at bit 13. Subnormal ones: adding 0.5 aligns the
  // bits to keep.
  Value odd =
      arith::AndIOp::create(b, loc, arith::ShRUIOp::create(b, loc, magnitude, cst(13)), cst(1));
  Value normal = arith::AddIOp::create(
      b, loc, magnitude,
      arith::AddIOp::create(b, loc, odd, cst(int32_t(((15u - 127u) << 23) + 0xfff))));
  normal = arith::ShRUIOp::create(b, loc, normal, cst(13));
  Value half = asFloat(cst(126 << 23));
  Value subnormal = arith::SubIOp::create(
      b, loc, asBits(arith::AddFOp::create(b, loc, asFloat(magnitude), half)), cst(126 << 23));
  Value isSubnormal =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ult, magnitude, cst(113 << 23));
  Value isNaN = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ugt, magnitude, cst(255 << 23));
  Value isLarge =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, magnitude, cst((127 + 16) << 23));
  Value special = e.select(isNaN, cst(0x7e00), cst(0x7c00));
  Value result = e.select(isLarge, special, e.select(isSubnormal, subnormal, normal));
  result = arith::OrIOp::create(b, loc, result, arith::ShRUIOp::create(b, loc, sign, cst(16)));
  return arith::TruncIOp::create(b, loc, withElement(i32, b.getI16Type()), result);
}

void Emitter::storeNarrowed(Value value, Type element, Value address) {
  if (element.isF32())
    return store(value, address);
  if (element.isBF16())
    return store(roundToBF16Bits(value), address);
  if (!hasF16Conversion)
    return store(roundToF16Bits(*this, value), address);
  store(arith::TruncFOp::create(b, loc, withElement(value.getType(), element), value), address);
}

//===----------------------------------------------------------------------===//
// Lanes
//===----------------------------------------------------------------------===//

Value Emitter::packPairs(Value low, Value high) {
  if (hasBF16Conversion && hasAVX512) {
    Type both = VectorType::get({2 * lanes}, b.getBF16Type());
    Value packed = intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", both, {high, low});
    SmallVector<int64_t> interleaved;
    for (int64_t i = 0; i < lanes; ++i)
      interleaved.append({i, lanes + i});
    packed = vector::ShuffleOp::create(b, loc, packed, packed, interleaved);
    return vector::BitCastOp::create(b, loc, vecI32(), packed);
  }
  Value lowBits = arith::ExtUIOp::create(b, loc, vecI32(), roundToBF16Bits(low));
  Value highBits = arith::ExtUIOp::create(b, loc, vecI32(), roundToBF16Bits(high));
  return arith::OrIOp::create(b, loc, lowBits,
                              arith::ShLIOp::create(b, loc, highBits, splatI32(16)));
}

/// A vector's bits as another type of the same size.
static Value bitcastTo(Emitter &e, Value v, Type type) {
  return v.getType() == type ? v : arith::BitcastOp::create(e.b, e.loc, type, v).getResult();
}

void Emitter::transpose(SmallVector<Value> &rows) {
  // Butterfly: in the step of distance n, rows i and i + n exchange the n x n blocks beside the
  // diagonal.
  for (int64_t n = 1; n < lanes; n *= 2) {
    // LLVM's instruction selection looks for better shuffles through the whole network, which takes
    // longer than all the rest of a kernel and finds nothing. A fence, which is no instruction,
    // keeps the steps apart.
    for (Value &row : rows)
      if (n > 1)
        row = bitcastTo(
            *this, intrinsic("llvm.arithmetic.fence", vecF32(), bitcastTo(*this, row, vecF32())),
            row.getType());
    SmallVector<int64_t> low(lanes), high(lanes);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      bool isUpper = lane & n;
      low[lane] = isUpper ? lanes + lane - n : lane;
      high[lane] = isUpper ? lanes + lane : lane + n;
    }
    for (int64_t i = 0; i < lanes; ++i) {
      if (i & n)
        continue;
      Value x = rows[i], y = rows[i + n];
      rows[i] = vector::ShuffleOp::create(b, loc, x, y, low);
      rows[i + n] = vector::ShuffleOp::create(b, loc, x, y, high);
    }
  }
}

Value Emitter::anyLane(Value mask) {
  return vector::ReductionOp::create(b, loc, vector::CombiningKind::OR, mask);
}

Value Emitter::countLanes(Value mask) {
  Type bits = b.getIntegerType(lanes);
  Value set = LLVM::BitcastOp::create(b, loc, bits, mask);
  return arith::ExtUIOp::create(b, loc, i64(), LLVM::CtPopOp::create(b, loc, bits, set));
}

//===----------------------------------------------------------------------===//
// Control
//===----------------------------------------------------------------------===//

SmallVector<Value> Emitter::loop(Value lower, Value upper, int64_t step, ValueRange inits,
                                 Body body) {
  auto op = scf::ForOp::create(b, loc, lower, upper, cst(step), inits);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.getBody());
  SmallVector<Value> next = body(op.getInductionVar(), op.getRegionIterArgs());
  if (!inits.empty())
    scf::YieldOp::create(b, loc, next);
  return SmallVector<Value>(op.getResults());
}

void Emitter::loop(Value lower, Value upper, int64_t step, llvm::function_ref<void(Value)> body) {
  loop(lower, upper, step, ValueRange(), [&](Value iv, ValueRange) {
    body(iv);
    return SmallVector<Value>();
  });
}

void Emitter::ifThen(Value condition, llvm::function_ref<void()> then) {
  auto op = scf::IfOp::create(b, loc, condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.thenBlock());
  then();
}

Value Emitter::ifElse(Value condition, Type type, llvm::function_ref<Value()> then,
                      llvm::function_ref<Value()> otherwise) {
  auto op = scf::IfOp::create(b, loc, type, condition, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.thenBlock());
  scf::YieldOp::create(b, loc, then());
  b.setInsertionPointToStart(op.elseBlock());
  scf::YieldOp::create(b, loc, otherwise());
  return op.getResult(0);
}

Value Emitter::intrinsic(StringRef name, Type result, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), operands)
      .getResult(0);
}

void Emitter::intrinsicNoResult(StringRef name, ValueRange operands) {
  LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr(name), operands);
}
