//===-- TotalDivisionTest.cpp - Division by a reciprocal ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What is emitted for constants folds to a constant: the result.
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/TotalDivision.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Matchers.h"

#include "gtest/gtest.h"

#include <random>

using namespace mlir;
using namespace heed;

namespace {

class Division : public testing::Test {
protected:
  Division() : b(&context), module(ModuleOp::create(b.getUnknownLoc())) {
    context.loadDialect<arith::ArithDialect>();
  }
  void SetUp() override { b.setInsertionPointToStart(module->getBody()); }

  Value constant(int32_t v) {
    return arith::ConstantIntOp::create(b, b.getUnknownLoc(), b.getI32Type(), v);
  }
  int64_t number(Value v) {
    APInt found;
    EXPECT_TRUE(matchPattern(v, m_ConstantInt(&found)));
    return found.getSExtValue();
  }
  void check(int32_t x, int32_t y) {
    int64_t quotient = 0, remainder = 0;
    if (y != 0) {
      quotient = int64_t(x) / y;
      remainder = int64_t(x) % y;
      if (remainder != 0 && (remainder < 0) != (y < 0)) {
        --quotient;
        remainder += y;
      }
    }
    attn::Divisor divisor = attn::emitDivisor(b, b.getUnknownLoc(), constant(y));
    Value dividend = constant(x);
    EXPECT_EQ(number(attn::emitFloorDiv(b, b.getUnknownLoc(), dividend, divisor)), quotient)
        << x << " // " << y;
    EXPECT_EQ(number(attn::emitMod(b, b.getUnknownLoc(), dividend, divisor)), remainder)
        << x << " % " << y;
    module->getBody()->clear();
    b.setInsertionPointToStart(module->getBody());
  }

  MLIRContext context;
  OpBuilder b;
  OwningOpRef<ModuleOp> module;
};

constexpr int32_t kMost = INT32_MAX - 1;

TEST_F(Division, Edges) {
  const int32_t numbers[] = {
      0,         1,         2,    3,     5,     7,     63,      64,
      65,        127,       1000, 65535, 65536, 65537, 1 << 30, (1 << 30) - 1,
      715827882, kMost - 1, kMost};
  SmallVector<int32_t> all;
  for (int32_t v : numbers)
    all.append({v, -v});
  for (int32_t x : all) {
    for (int32_t y : all)
      check(x, y);
    check(x, INT32_MAX);
    check(x, -INT32_MAX);
    check(x, INT32_MIN);
  }
}

TEST_F(Division, SmallOnes) {
  for (int32_t x = -40; x <= 40; ++x)
    for (int32_t y = -20; y <= 20; ++y)
      check(x, y);
}

TEST_F(Division, Random) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    int32_t x = int32_t(random()) >> (random() % 31), y = int32_t(random()) >> (random() % 31);
    check(std::max(-kMost, std::min(kMost, x)), y);
  }
}

/// Dividends beside multiples, where a quotient that is one less would show.
TEST_F(Division, Multiples) {
  std::mt19937 random(2);
  for (int i = 0; i < 5000; ++i) {
    int32_t y = 1 + int32_t(random() % 100000);
    int32_t multiple = int32_t(random() % (kMost / y)) * y;
    for (int32_t x : {multiple - 1, multiple, multiple + 1})
      check(x, random() % 2 ? y : -y);
  }
}

} // namespace
