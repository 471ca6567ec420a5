//===-- RegionEvaluator.cpp - Runs regions of scalar ops ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Instructions.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/APFloat.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;

using Opcode = RegionEvaluator::Opcode;

//===----------------------------------------------------------------------===//
// Functions of floating-point numbers
//===----------------------------------------------------------------------===//

static double minimum(double a, double b) {
  if (std::isnan(a) || std::isnan(b))
    return std::numeric_limits<double>::quiet_NaN();
  return a < b || (a == b && std::signbit(a)) ? a : b;
}

static double maximum(double a, double b) {
  if (std::isnan(a) || std::isnan(b))
    return std::numeric_limits<double>::quiet_NaN();
  return a > b || (a == b && !std::signbit(a)) ? a : b;
}

static double roundThrough(double value, const llvm::fltSemantics &semantics) {
  llvm::APFloat number(value);
  bool losesInfo;
  number.convert(semantics, llvm::APFloat::rmNearestTiesToEven, &losesInfo);
  number.convert(llvm::APFloat::IEEEdouble(), llvm::APFloat::rmNearestTiesToEven, &losesInfo);
  return number.convertToDouble();
}

static constexpr UnaryFunction kUnaryFunctions[] = {
    {"math.absf", [](double x) { return std::fabs(x); }},
    {"math.acos", [](double x) { return std::acos(x); }},
    {"math.acosh", [](double x) { return std::acosh(x); }},
    {"math.asin", [](double x) { return std::asin(x); }},
    {"math.asinh", [](double x) { return std::asinh(x); }},
    {"math.atan", [](double x) { return std::atan(x); }},
    {"math.atanh", [](double x) { return std::atanh(x); }},
    {"math.cbrt", [](double x) { return std::cbrt(x); }},
    {"math.ceil", [](double x) { return std::ceil(x); }},
    {"math.cos", [](double x) { return std::cos(x); }},
    {"math.cosh", [](double x) { return std::cosh(x); }},
    {"math.erf", [](double x) { return std::erf(x); }},
    {"math.erfc", [](double x) { return std::erfc(x); }},
    {"math.exp", [](double x) { return std::exp(x); }},
    {"math.exp2", [](double x) { return std::exp2(x); }},
    {"math.expm1", [](double x) { return std::expm1(x); }},
    {"math.floor", [](double x) { return std::floor(x); }},
    {"math.log", [](double x) { return std::log(x); }},
    {"math.log10", [](double x) { return std::log10(x); }},
    {"math.log1p", [](double x) { return std::log1p(x); }},
    {"math.log2", [](double x) { return std::log2(x); }},
    {"math.round", [](double x) { return std::round(x); }},
    {"math.roundeven", [](double x) { return std::nearbyint(x); }},
    {"math.rsqrt", [](double x) { return 1.0 / std::sqrt(x); }},
    {"math.sin", [](double x) { return std::sin(x); }},
    {"math.sinh", [](double x) { return std::sinh(x); }},
    {"math.sqrt", [](double x) { return std::sqrt(x); }},
    {"math.tan", [](double x) { return std::tan(x); }},
    {"math.tanh", [](double x) { return std::tanh(x); }},
    {"math.trunc", [](double x) { return std::trunc(x); }},
    {"to f16", [](double x) { return roundThrough(x, llvm::APFloat::IEEEhalf()); }},
    {"to bf16", [](double x) { return roundThrough(x, llvm::APFloat::BFloat()); }},
};

static constexpr BinaryFunction kBinaryFunctions[] = {
    {"arith.maximumf", maximum},
    {"arith.maxnumf", [](double x, double y) { return std::fmax(x, y); }},
    {"arith.minimumf", minimum},
    {"arith.minnumf", [](double x, double y) { return std::fmin(x, y); }},
    {"arith.remf", [](double x, double y) { return std::fmod(x, y); }},
    {"math.atan2", [](double x, double y) { return std::atan2(x, y); }},
    {"math.copysign", [](double x, double y) { return std::copysign(x, y); }},
    {"math.powf", [](double x, double y) { return std::pow(x, y); }},
};

llvm::ArrayRef<UnaryFunction> heed::interpreter::unaryFunctions() { return kUnaryFunctions; }
llvm::ArrayRef<BinaryFunction> heed::interpreter::binaryFunctions() { return kBinaryFunctions; }

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

static uint64_t zeroExtend(int64_t value, unsigned shift) {
  return (uint64_t(value) << shift) >> shift;
}

/// Division rounded down, for a divisor that is not 0. The smallest integer over -1 wraps to
/// itself.
static int64_t floorDiv(int64_t a, int64_t b) {
  if (b == -1)
    return int64_t(0 - uint64_t(a));
  int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

static int64_t floorMod(int64_t a, int64_t b) {
  if (b == -1)
    return 0;
  int64_t remainder = a % b;
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

static bool compareFloats(uint8_t predicate, double a, double b) {
  using Predicate = arith::CmpFPredicate;
  bool isUnordered = std::isnan(a) || std::isnan(b);
  switch (static_cast<Predicate>(predicate)) {
  case Predicate::AlwaysFalse:
    return false;
  case Predicate::OEQ:
    return a == b;
  case Predicate::OGT:
    return a > b;
  case Predicate::OGE:
    return a >= b;
  case Predicate::OLT:
    return a < b;
  case Predicate::OLE:
    return a <= b;
  case Predicate::ONE:
    return !isUnordered && a != b;
  case Predicate::ORD:
    return !isUnordered;
  case Predicate::UEQ:
    return isUnordered || a == b;
  case Predicate::UGT:
    return !(a <= b);
  case Predicate::UGE:
    return !(a < b);
  case Predicate::ULT:
    return !(a >= b);
  case Predicate::ULE:
    return !(a > b);
  case Predicate::UNE:
    return a != b;
  case Predicate::UNO:
    return isUnordered;
  case Predicate::AlwaysTrue:
    return true;
  }
  llvm_unreachable("unknown predicate");
}

/// The offset of the element that a load reads, or -1 where an index lies outside.
int64_t RegionEvaluator::loadOffset(const HostTensor &tensor, const uint32_t *indices) const {
  int64_t offset = 0;
  for (size_t axis = 0, rank = tensor.shape.size(); axis < rank; ++axis) {
    int64_t index = slots[indices[axis]].i;
    if (uint64_t(index) >= uint64_t(tensor.shape[axis]))
      return -1;
    offset += index * tensor.strides[axis];
  }
  return offset;
}

void RegionEvaluator::run(ArrayRef<Instruction> code) {
  Scalar *values = slots.data();
  for (size_t pc = 0, end = code.size(); pc < end;) {
    const Instruction &in = code[pc++];
    Scalar &dst = values[in.dst];
    const Scalar &a = values[in.a], &b = values[in.b], &c = values[in.c];
    auto undefined = [&] {
      isUndefined = true;
      dst.i = 0;
    };
    // The operands of a signed division for which it is undefined.
    auto isUndefinedDivision = [&] {
      int64_t smallest = std::numeric_limits<int64_t>::min() >> in.shift;
      return b.i == 0 || (b.i == -1 && a.i == smallest);
    };
    switch (in.opcode) {
    case Opcode::Move:
      dst = a;
      break;
    case Opcode::Jump:
      pc = in.c;
      break;
    case Opcode::JumpIfFalse:
      if (!a.i)
        pc = in.c;
      break;
    case Opcode::JumpUnlessLess:
      if (a.i >= b.i)
        pc = in.c;
      break;
    case Opcode::CheckStep:
      if (a.i <= 0) {
        isUndefined = true;
        pc = in.c;
      }
      break;
    case Opcode::Load: {
      const HostTensor &tensor = tensors[in.a];
      int64_t offset = loadOffset(tensor, operandLists.data() + in.b);
      if (in.extra)
        dst.f = offset < 0 ? 0.0 : tensor.readDouble(offset);
      else
        dst.i = offset < 0 ? 0 : wrap(tensor.readInt(offset), in.shift);
      break;
    }
    case Opcode::AddI:
      dst.i = wrap(uint64_t(a.i) + uint64_t(b.i), in.shift);
      break;
    case Opcode::SubI:
      dst.i = wrap(uint64_t(a.i) - uint64_t(b.i), in.shift);
      break;
    case Opcode::MulI:
      dst.i = wrap(uint64_t(a.i) * uint64_t(b.i), in.shift);
      break;
    case Opcode::AndI:
      dst.i = a.i & b.i;
      break;
    case Opcode::OrI:
      dst.i = a.i | b.i;
      break;
    case Opcode::XOrI:
      dst.i = a.i ^ b.i;
      break;
    case Opcode::MinSI:
      dst.i = std::min(a.i, b.i);
      break;
    case Opcode::MaxSI:
      dst.i = std::max(a.i, b.i);
      break;
    // Sign extension keeps the order of unsigned numbers of one width.
    case Opcode::MinUI:
      dst.i = std::min(uint64_t(a.i), uint64_t(b.i));
      break;
    case Opcode::MaxUI:
      dst.i = std::max(uint64_t(a.i), uint64_t(b.i));
      break;
    // A shift by the width or more is poison.
    case Opcode::ShLI:
      dst.i = uint64_t(b.i) < 64u - in.shift ? wrap(uint64_t(a.i) << b.i, in.shift) : 0;
      break;
    case Opcode::ShRSI:
      dst.i = uint64_t(b.i) < 64u - in.shift ? a.i >> b.i : 0;
      break;
    case Opcode::ShRUI:
      dst.i = uint64_t(b.i) < 64u - in.shift ? wrap(zeroExtend(a.i, in.shift) >> b.i, in.shift) : 0;
      break;
    case Opcode::TotalFloorDiv:
      dst.i = b.i == 0 ? 0 : wrap(floorDiv(a.i, b.i), in.shift);
      break;
    case Opcode::TotalMod:
      dst.i = b.i == 0 ? 0 : floorMod(a.i, b.i);
      break;
    case Opcode::DivSI:
      isUndefinedDivision() ? undefined() : void(dst.i = a.i / b.i);
      break;
    case Opcode::RemSI:
      // The remainder of the smallest integer by -1 is undefined in LLVM, too.
      isUndefinedDivision() ? undefined() : void(dst.i = b.i == -1 ? 0 : a.i % b.i);
      break;
    case Opcode::FloorDivSI:
      isUndefinedDivision() ? undefined() : void(dst.i = floorDiv(a.i, b.i));
      break;
    case Opcode::CeilDivSI:
      isUndefinedDivision() ? undefined()
                            : void(dst.i = a.i / b.i + (a.i % b.i != 0 && (a.i < 0) == (b.i < 0)));
      break;
    case Opcode::DivUI:
    case Opcode::RemUI:
    case Opcode::CeilDivUI: {
      uint64_t dividend = zeroExtend(a.i, in.shift), divisor = zeroExtend(b.i, in.shift);
      if (divisor == 0) {
        undefined();
        break;
      }
      uint64_t remainder = dividend % divisor;
      uint64_t quotient = dividend / divisor + (in.opcode == Opcode::CeilDivUI && remainder);
      dst.i = wrap(in.opcode == Opcode::RemUI ? remainder : quotient, in.shift);
      break;
    }
    case Opcode::CmpEQ:
      dst.i = -int64_t(a.i == b.i);
      break;
    case Opcode::CmpNE:
      dst.i = -int64_t(a.i != b.i);
      break;
    case Opcode::CmpSLT:
      dst.i = -int64_t(a.i < b.i);
      break;
    case Opcode::CmpSLE:
      dst.i = -int64_t(a.i <= b.i);
      break;
    case Opcode::CmpSGT:
      dst.i = -int64_t(a.i > b.i);
      break;
    case Opcode::CmpSGE:
      dst.i = -int64_t(a.i >= b.i);
      break;
    case Opcode::CmpULT:
      dst.i = -int64_t(uint64_t(a.i) < uint64_t(b.i));
      break;
    case Opcode::CmpULE:
      dst.i = -int64_t(uint64_t(a.i) <= uint64_t(b.i));
      break;
    case Opcode::CmpUGT:
      dst.i = -int64_t(uint64_t(a.i) > uint64_t(b.i));
      break;
    case Opcode::CmpUGE:
      dst.i = -int64_t(uint64_t(a.i) >= uint64_t(b.i));
      break;
    case Opcode::Wrap:
      dst.i = wrap(a.i, in.shift);
      break;
    case Opcode::ZExt:
      dst.i = zeroExtend(a.i, in.shift);
      break;
    case Opcode::SIToFP:
      dst.f = double(a.i);
      break;
    case Opcode::UIToFP:
      dst.f = double(zeroExtend(a.i, in.shift));
      break;
    case Opcode::FPToSI: {
      // Poison outside the range; saturate, as a host conversion would be undefined.
      double bound = std::ldexp(1.0, 63 - in.shift), value = std::trunc(a.f);
      if (std::isnan(value))
        dst.i = 0;
      else if (value >= bound)
        dst.i = std::numeric_limits<int64_t>::max() >> in.shift;
      else
        dst.i = value < -bound ? std::numeric_limits<int64_t>::min() >> in.shift : int64_t(value);
      break;
    }
    case Opcode::FPToUI: {
      double bound = std::ldexp(1.0, 64 - in.shift), value = std::trunc(a.f);
      if (value >= bound)
        dst.i = -1;
      else
        dst.i = value > 0 ? wrap(uint64_t(value), in.shift) : 0;
      break;
    }
    case Opcode::AddF:
      dst.f = a.f + b.f;
      break;
    case Opcode::SubF:
      dst.f = a.f - b.f;
      break;
    case Opcode::MulF:
      dst.f = a.f * b.f;
      break;
    case Opcode::DivF:
      dst.f = a.f / b.f;
      break;
    case Opcode::NegF:
      dst.f = -a.f;
      break;
    case Opcode::CmpF:
      dst.i = -int64_t(compareFloats(in.extra, a.f, b.f));
      break;
    case Opcode::Call1:
      dst.f = kUnaryFunctions[in.extra].function(a.f);
      break;
    case Opcode::Call2:
      dst.f = kBinaryFunctions[in.extra].function(a.f, b.f);
      break;
    case Opcode::Call3:
      dst.f = std::fma(a.f, b.f, c.f);
      break;
    case Opcode::Select:
      dst = a.i ? b : c;
      break;
    }
  }
}

void RegionEvaluator::evaluate(ArrayRef<Scalar> values) {
  assert(values.size() == arguments.size() && "expects a value for each unbound argument");
  for (auto [place, value] : llvm::zip_equal(arguments, values))
    slots[place.slot].i = wrap(value.i, place.shift);
  run(code);
}
