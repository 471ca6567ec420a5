//===-- ForwardTest.cpp - attn.forward against a hand-written one ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Interpreter.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class ForwardTest : public testing::Test {
protected:
  ForwardTest()
      : handler(&context, [this](Diagnostic &diag) {
          diagnostics += diag.str() + "\n";
          return success();
        }) {
    context.loadDialect<attn::AttnDialect, arith::ArithDialect, math::MathDialect>();
  }

  attn::VariantOp parse(const char *text) {
    module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module) << diagnostics;
    return *module->getOps<attn::VariantOp>().begin();
  }

  /// Fills query, key and value with random f32 numbers.
  void makeProblem(const Extents &e) {
    std::mt19937 generator(42);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float> &data, std::initializer_list<int64_t> shape) {
      int64_t size = 1;
      for (int64_t extent : shape)
        size *= extent;
      data.resize(size);
      for (float &number : data)
        number = normal(generator);
      return HostTensor(data.data(), DType::F32, shape);
    };
    extents = e;
    problem.query = fill(query, {e.B, e.Hq, e.Sq, e.D});
    problem.key = fill(key, {e.B, e.Hkv, e.Skv, e.D});
    problem.value = fill(value, {e.B, e.Hkv, e.Skv, e.Dv});
    problem.scale = 0.37;
  }

  using Mask = std::function<bool(int64_t b, int64_t h, int64_t q, int64_t kv)>;
  using Score = std::function<double(double s, int64_t b, int64_t h, int64_t q, int64_t kv)>;

  /// Dense attention on the dense arrays: a whole row of weights, normalised before it meets the
  /// values.
  void expectSameAs(attn::VariantOp variant, const Mask &mask, const Score &score) {
    const Extents &e = extents;
    std::vector<double> output, lse;
    std::vector<Row> rows = allRows(problem);
    ASSERT_TRUE(succeeded(interpretRows(variant, problem, rows, output, lse))) << diagnostics;
    ASSERT_EQ(rows.size(), size_t(e.B * e.Hq * e.Sq));
    ASSERT_EQ(output.size(), rows.size() * e.Dv);
    size_t row = 0;
    for (int64_t b = 0; b < e.B; ++b)
      for (int64_t h = 0; h < e.Hq; ++h)
        for (int64_t q = 0; q < e.Sq; ++q, ++row) {
          int64_t g = h / (e.Hq / e.Hkv);
          std::vector<double> s(e.Skv, -kInfinity);
          double max = -kInfinity, sum = 0;
          for (int64_t kv = 0; kv < e.Skv; ++kv) {
            if (!mask(b, h, q, kv))
              continue;
            double dot = 0;
            for (int64_t d = 0; d < e.D; ++d)
              dot += double(query[((b * e.Hq + h) * e.Sq + q) * e.D + d]) *
                     key[((b * e.Hkv + g) * e.Skv + kv) * e.D + d];
            s[kv] = score(dot * problem.scale, b, h, q, kv);
            max = std::max(max, s[kv]);
          }
          if (max != -kInfinity)
            for (double x : s)
              sum += std::exp(x - max);
          double expectedLse = sum == 0 ? -kInfinity : max + std::log(sum);
          if (sum == 0)
            ASSERT_EQ(lse[row], -kInfinity);
          else
            ASSERT_NEAR(lse[row], expectedLse, 1e-12);
          for (int64_t d = 0; d < e.Dv; ++d) {
            double expected = 0;
            for (int64_t kv = 0; kv < e.Skv && sum != 0; ++kv)
              expected +=
                  std::exp(s[kv] - max) / sum * value[((b * e.Hkv + g) * e.Skv + kv) * e.Dv + d];
            ASSERT_NEAR(output[row * e.Dv + d], expected, 1e-12) << b << h << q << d;
          }
        }
  }

  MLIRContext context;
  std::string diagnostics;
  ScopedDiagnosticHandler handler;
  OwningOpRef<ModuleOp> module;
  Extents extents;
  ForwardProblem problem;
  std::vector<float> query, key, value;
};

const Extents kSmall = {2, 6, 2, 17, 23, 8, 5};

bool everyPair(int64_t, int64_t, int64_t, int64_t) { return true; }
double unchanged(double s, int64_t, int64_t, int64_t, int64_t) { return s; }

TEST_F(ForwardTest, Dense) {
  makeProblem(kSmall);
  expectSameAs(parse("attn.variant @v() {}"), everyPair, unchanged);
}

const char *const kAlibiWindow = R"(
  attn.variant @v(%slope: !attn.tensor<[Hq], f32>, %w: i32) {
    attn.score(%s, %b, %h, %q, %kv) {
      %m = attn.load %slope[%h] : !attn.tensor<[Hq], f32>
      %d = arith.subi %kv, %q : i32
      %f = arith.sitofp %d : i32 to f32
      %t = arith.mulf %m, %f : f32
      %r = arith.addf %s, %t : f32
      attn.yield %r : f32
    }
    attn.mask(%b, %h, %q, %kv) {
      %d = arith.subi %q, %kv : i32
      %near = arith.cmpi slt, %d, %w : i32
      %causal = arith.cmpi sge, %q, %kv : i32
      %keep = arith.andi %near, %causal : i1
      attn.yield %keep : i1
    }
  })";

TEST_F(ForwardTest, AlibiWindow) {
  makeProblem(kSmall);
  std::vector<float> slopes = {0.5f, 0.25f, 0.125f, 1.0f, 2.0f, -0.5f};
  problem.captures = {HostTensor(slopes.data(), DType::F32, {6}), int64_t(5)};
  expectSameAs(
      parse(kAlibiWindow),
      [](int64_t, int64_t, int64_t q, int64_t kv) { return q >= kv && q - kv < 5; },
      [&](double s, int64_t, int64_t h, int64_t q, int64_t kv) {
        return s + slopes[h] * double(kv - q);
      });
}

TEST_F(ForwardTest, FullyMaskedRows) {
  makeProblem(kSmall);
  // Keys and values that no row attends to may hold anything.
  value[0] = std::numeric_limits<float>::quiet_NaN();
  key[0] = std::numeric_limits<float>::infinity();
  attn::VariantOp variant = parse(R"(
    attn.variant @v() {
      attn.mask(%b, %h, %q, %kv) {
        %c2 = arith.constant 2 : i32
        %c0 = arith.constant 0 : i32
        %r = attn.mod %q, %c2 : i32
        %odd = arith.cmpi ne, %r, %c0 : i32
        %later = arith.cmpi ne, %kv, %c0 : i32
        %keep = arith.andi %odd, %later : i1
        attn.yield %keep : i1
      }
    })");
  std::vector<double> output, lse;
  std::vector<Row> rows = allRows(problem);
  ASSERT_TRUE(succeeded(interpretRows(variant, problem, rows, output, lse))) << diagnostics;
  for (size_t i = 0; i < rows.size(); ++i) {
    bool isMasked = rows[i].q % 2 == 0;
    EXPECT_EQ(lse[i] == -kInfinity, isMasked);
    for (int64_t d = 0; d < extents.Dv; ++d) {
      EXPECT_EQ(output[i * extents.Dv + d] == 0.0, isMasked);
      EXPECT_TRUE(std::isfinite(output[i * extents.Dv + d]));
    }
  }
}

TEST_F(ForwardTest, AScoreOfMinusInfinityMasks) {
  makeProblem(kSmall);
  expectSameAs(parse(R"(
    attn.variant @v() {
      attn.score(%s, %b, %h, %q, %kv) {
        %inf = arith.constant 0xFF800000 : f32
        %causal = arith.cmpi sgt, %q, %kv : i32
        %r = arith.select %causal, %s, %inf : f32
        attn.yield %r : f32
      }
    })"),
               everyPair, [](double s, int64_t, int64_t, int64_t q, int64_t kv) {
                 return q > kv ? s : -kInfinity;
               });
}

TEST_F(ForwardTest, NaNReachesTheRow) {
  makeProblem({1, 1, 1, 1, 4, 2, 1});
  key[0] = std::numeric_limits<float>::quiet_NaN();
  std::vector<double> output, lse;
  ASSERT_TRUE(succeeded(
      interpretRows(parse("attn.variant @v() {}"), problem, allRows(problem), output, lse)));
  EXPECT_TRUE(std::isnan(output[0]));
  EXPECT_TRUE(std::isnan(lse[0]));
}

TEST_F(ForwardTest, LargeScoresDoNotOverflow) {
  makeProblem({1, 1, 1, 2, 9, 2, 3});
  problem.scale = 1e6;
  expectSameAs(parse("attn.variant @v() {}"), everyPair, unchanged);
}

TEST_F(ForwardTest, SampledRowsOfHalfWithStrides) {
  // Layout (B, S, H, D) in f16: ones, so the output is the mean of the attended values.
  Extents e = {1, 2, 1, 3, 4, 2, 2};
  std::vector<uint16_t> ones(64, 0x3c00), values(64);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = 0x3c00 + 64 * i; // 1 + i/16 for the first 16
  int64_t queryShape[] = {e.B, e.Hq, e.Sq, e.D}, kvShape[] = {e.B, e.Hkv, e.Skv, e.D};
  int64_t queryStrides[] = {12, 2, 4, 1}, kvStrides[] = {8, 2, 2, 1};
  problem.query = HostTensor(ones.data(), DType::F16, queryShape, queryStrides);
  problem.key = HostTensor(ones.data(), DType::F16, kvShape, kvStrides);
  problem.value = HostTensor(values.data(), DType::F16, kvShape, kvStrides);
  std::vector<double> output, lse;
  Row rows[] = {{0, 1, 2}, {0, 0, 0}};
  ASSERT_TRUE(succeeded(interpretRows(parse("attn.variant @v() {}"), problem, rows, output, lse)))
      << diagnostics;
  ASSERT_EQ(output.size(), 4u);
  for (int row : {0, 1}) {
    EXPECT_NEAR(output[2 * row], 1 + (0 + 2 + 4 + 6) / 4.0 / 16, 1e-15);
    EXPECT_NEAR(output[2 * row + 1], 1 + (1 + 3 + 5 + 7) / 4.0 / 16, 1e-15);
    EXPECT_NEAR(lse[row], 2 + std::log(4.0), 1e-15);
  }
}

TEST_F(ForwardTest, NoKeys) {
  makeProblem({1, 2, 2, 3, 0, 4, 4});
  std::vector<double> output, lse;
  ASSERT_TRUE(succeeded(
      interpretRows(parse("attn.variant @v() {}"), problem, allRows(problem), output, lse)));
  EXPECT_EQ(output, std::vector<double>(24, 0.0));
  EXPECT_EQ(lse, std::vector<double>(6, -kInfinity));
}

TEST_F(ForwardTest, Mistakes) {
  makeProblem(kSmall);
  attn::VariantOp variant = parse(kAlibiWindow);
  std::vector<double> output, lse;
  EXPECT_TRUE(failed(interpretRows(variant, problem, allRows(problem), output, lse)));
  EXPECT_NE(diagnostics.find("expects values for 2 captures, found 0"), std::string::npos)
      << diagnostics;
  problem.captures = {int64_t(1), int64_t(5)};
  EXPECT_TRUE(failed(interpretRows(variant, problem, allRows(problem), output, lse)));

  makeProblem({1, 3, 2, 4, 4, 4, 4});
  EXPECT_TRUE(
      failed(interpretRows(parse("attn.variant @v() {}"), problem, allRows(problem), output, lse)));
  EXPECT_NE(diagnostics.find("multiple of that of key heads, found 3 and 2"), std::string::npos)
      << diagnostics;
}

TEST_F(ForwardTest, StagesAlone) {
  std::vector<float> slopes = {0.5f, 0.25f};
  HostValue captures[] = {HostTensor(slopes.data(), DType::F32, {2}), int64_t(5)};
  FailureOr<StageEvaluator> stages = StageEvaluator::create(parse(kAlibiWindow), captures, {});
  ASSERT_TRUE(succeeded(stages)) << diagnostics;
  EXPECT_TRUE(stages->evalMask(0, 0, 7, 7));
  EXPECT_TRUE(stages->evalMask(0, 0, 7, 3));
  EXPECT_FALSE(stages->evalMask(0, 0, 7, 2));
  EXPECT_FALSE(stages->evalMask(0, 0, 7, 8));
  EXPECT_EQ(stages->evalScore(1.0, 0, 1, 7, 3), 0.0);
  // Heads outside the tensor, as padded lanes have them.
  EXPECT_EQ(stages->evalScore(1.0, 0, 2, 7, 3), 1.0);
}

/// Prints, and only guards against a change that makes brute force useless.
TEST_F(ForwardTest, MaskThroughput) {
  std::vector<float> slopes = {0.5f};
  HostValue captures[] = {HostTensor(slopes.data(), DType::F32, {1}), int64_t(5)};
  FailureOr<StageEvaluator> stages = StageEvaluator::create(parse(kAlibiWindow), captures, {});
  ASSERT_TRUE(succeeded(stages));
  auto start = std::chrono::steady_clock::now();
  int64_t count = 0;
  for (int64_t q = 0; q < 1000; ++q)
    for (int64_t kv = 0; kv < 1000; ++kv)
      count += stages->evalMask(0, 0, q, kv);
  std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(count, 5 * 1000 - 10);
  RecordProperty("millions_per_second", int(1 / elapsed.count()));
  printf("%.1f million mask evaluations a second\n", 1 / elapsed.count());
  EXPECT_LT(elapsed.count(), 5.0);
}

} // namespace
