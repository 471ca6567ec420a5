//===-- HostTensor.cpp - Reading strided host memory ----------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Interpreter.h"

#include "llvm/ADT/bit.h"
#include "llvm/Support/ErrorHandling.h"

#include <cmath>
#include <cstring>
#include <limits>

using namespace heed::interpreter;

unsigned heed::interpreter::sizeOf(DType dtype) {
  switch (dtype) {
  case DType::Bool:
  case DType::I8:
    return 1;
  case DType::F16:
  case DType::BF16:
    return 2;
  case DType::I32:
  case DType::F32:
    return 4;
  case DType::I64:
  case DType::F64:
    return 8;
  }
  llvm_unreachable("unknown element type");
}

HostTensor::HostTensor(const void *data, DType dtype, llvm::ArrayRef<int64_t> shape)
    : data(data), dtype(dtype), shape(shape), strides(shape.size()) {
  int64_t stride = 1;
  for (size_t axis = shape.size(); axis-- > 0; stride *= shape[axis])
    strides[axis] = stride;
}

int64_t HostTensor::offsetOf(llvm::ArrayRef<int64_t> indices) const {
  int64_t offset = 0;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (indices[axis] < 0 || indices[axis] >= shape[axis])
      return -1;
    offset += indices[axis] * strides[axis];
  }
  return offset;
}

template <typename T>
static T readAs(const void *data, int64_t offset) {
  T value;
  std::memcpy(&value, static_cast<const char *>(data) + offset * int64_t(sizeof(T)), sizeof(T));
  return value;
}

static double halfToDouble(uint16_t bits) {
  int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  double magnitude;
  if (exponent == 31)
    magnitude = fraction ? std::numeric_limits<double>::quiet_NaN()
                         : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    magnitude = std::ldexp(fraction, -24);
  else
    magnitude = std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

double HostTensor::readDouble(int64_t offset) const {
  switch (dtype) {
  case DType::F16:
    return halfToDouble(readAs<uint16_t>(data, offset));
  case DType::BF16:
    return llvm::bit_cast<float>(uint32_t(readAs<uint16_t>(data, offset)) << 16);
  case DType::F32:
    return readAs<float>(data, offset);
  case DType::F64:
    return readAs<double>(data, offset);
  default:
    return readInt(offset);
  }
}

int64_t HostTensor::readInt(int64_t offset) const {
  switch (dtype) {
  case DType::Bool:
    return readAs<uint8_t>(data, offset) != 0;
  case DType::I8:
    return readAs<int8_t>(data, offset);
  case DType::I32:
    return readAs<int32_t>(data, offset);
  case DType::I64:
    return readAs<int64_t>(data, offset);
  default:
    llvm_unreachable("not an integer type");
  }
}
