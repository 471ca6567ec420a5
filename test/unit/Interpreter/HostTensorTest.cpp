//===-- HostTensorTest.cpp - Reading strided host memory ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Interpreter.h"

#include "llvm/ADT/APFloat.h"
#include "gtest/gtest.h"

#include <cmath>

using namespace heed::interpreter;

/// Compares all 65536 numbers of a 16-bit type with LLVM's reading of them.
static void expectExact(DType dtype, const llvm::fltSemantics &semantics) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    uint16_t memory = bits;
    double found = HostTensor(&memory, dtype, {1}).readDouble(0);
    double expected = llvm::APFloat(semantics, llvm::APInt(16, bits)).convertToDouble();
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, expected) << bits;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << bits;
    }
  }
}

TEST(HostTensor, ReadsEveryHalf) { expectExact(DType::F16, llvm::APFloat::IEEEhalf()); }
TEST(HostTensor, ReadsEveryBFloat) { expectExact(DType::BF16, llvm::APFloat::BFloat()); }

TEST(HostTensor, ReadsIntegers) {
  int8_t i8[] = {-128, 127};
  int32_t i32[] = {INT32_MIN, INT32_MAX};
  int64_t i64[] = {INT64_MIN, INT64_MAX};
  uint8_t bools[] = {0, 1, 2};
  EXPECT_EQ(HostTensor(i8, DType::I8, {2}).readInt(0), -128);
  EXPECT_EQ(HostTensor(i32, DType::I32, {2}).readInt(0), INT32_MIN);
  EXPECT_EQ(HostTensor(i64, DType::I64, {2}).readInt(0), INT64_MIN);
  EXPECT_EQ(HostTensor(i64, DType::I64, {2}).readInt(1), INT64_MAX);
  EXPECT_EQ(HostTensor(bools, DType::Bool, {3}).readInt(0), 0);
  EXPECT_EQ(HostTensor(bools, DType::Bool, {3}).readInt(2), 1);
  EXPECT_EQ(HostTensor(i8, DType::I8, {2}).readDouble(1), 127.0);
}

TEST(HostTensor, Offsets) {
  HostTensor dense(nullptr, DType::F32, {2, 3, 4});
  EXPECT_EQ(dense.offsetOf({1, 2, 3}), 23);
  EXPECT_EQ(dense.offsetOf({1, 3, 0}), -1);
  EXPECT_EQ(dense.offsetOf({-1, 0, 0}), -1);
  HostTensor broadcast(nullptr, DType::F32, {2, 3}, {0, 1});
  EXPECT_EQ(broadcast.offsetOf({1, 2}), 2);
  HostTensor scalar(nullptr, DType::F32, {});
  EXPECT_EQ(scalar.offsetOf({}), 0);
}

TEST(HostTensor, Sizes) {
  EXPECT_EQ(sizeOf(DType::Bool), 1u);
  EXPECT_EQ(sizeOf(DType::BF16), 2u);
  EXPECT_EQ(sizeOf(DType::F32), 4u);
  EXPECT_EQ(sizeOf(DType::F64), 8u);
  EXPECT_TRUE(isFloat(DType::F16));
  EXPECT_FALSE(isFloat(DType::I64));
}
