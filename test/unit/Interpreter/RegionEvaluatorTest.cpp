//===-- RegionEvaluatorTest.cpp - Evaluating regions of scalar ops --------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Interpreter/Interpreter.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "gtest/gtest.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class RegionEvaluatorTest : public testing::Test {
protected:
  RegionEvaluatorTest()
      : handler(&context, [this](Diagnostic &diag) {
          diagnostics += diag.str() + "\n";
          return success();
        }) {
    context.loadDialect<attn::AttnDialect, arith::ArithDialect, math::MathDialect,
                        func::FuncDialect, scf::SCFDialect>();
  }

  /// Compiles the first function of `text`.
  FailureOr<RegionEvaluator>
  compile(const std::string &text,
          llvm::function_ref<void(func::FuncOp, RegionEvaluator::Bindings &)> bind = nullptr,
          const Extents &extents = Extents()) {
    module = parseSourceString<ModuleOp>(text, &context);
    if (!module) {
      ADD_FAILURE() << "does not parse:\n" << text << diagnostics;
      return failure();
    }
    auto function = *module->getOps<func::FuncOp>().begin();
    RegionEvaluator::Bindings bindings;
    if (bind)
      bind(function, bindings);
    return RegionEvaluator::compile(function.getBody(), bindings, extents);
  }

  Scalar evaluate(const std::string &text, ArrayRef<Scalar> arguments) {
    FailureOr<RegionEvaluator> evaluator = compile(text);
    if (failed(evaluator)) {
      ADD_FAILURE() << diagnostics;
      return {};
    }
    evaluator->evaluate(arguments);
    return evaluator->getResult();
  }

  /// Evaluates `op` on two arguments of `type`; once at run time and once as constants of the
  /// prologue.
  int64_t binary(const std::string &op, const std::string &type, int64_t a, int64_t b,
                 const std::string &result = "") {
    std::string body = op + " %a, %b : " + type, to = result.empty() ? type : result;
    int64_t late = evaluate("func.func @f(%a: " + type + ", %b: " + type + ") -> " + to +
                                " { %r = " + body + " return %r : " + to + " }",
                            {a, b})
                       .i;
    int64_t early =
        evaluate("func.func @f() -> " + to + " { %a = arith.constant " + std::to_string(a) + " : " +
                     type + " %b = arith.constant " + std::to_string(b) + " : " + type +
                     " %r = " + body + " return %r : " + to + " }",
                 {})
            .i;
    EXPECT_EQ(late, early) << op;
    return late;
  }

  double real(const std::string &op, ArrayRef<Scalar> arguments) {
    static constexpr const char *names[] = {"%a", "%b", "%c"};
    std::string parameters, operands;
    for (size_t i = 0; i < arguments.size(); ++i) {
      parameters += std::string(i ? ", " : "") + names[i] + ": f32";
      operands += std::string(i ? ", " : "") + names[i];
    }
    return evaluate("func.func @f(" + parameters + ") -> f32 { %r = " + op + " " + operands +
                        " : f32 return %r : f32 }",
                    arguments)
        .f;
  }

  int64_t cast(const std::string &op, const std::string &from, const std::string &to,
               Scalar value) {
    return evaluate("func.func @f(%a: " + from + ") -> " + to + " { %r = " + op + " %a : " + from +
                        " to " + to + " return %r : " + to + " }",
                    {value})
        .i;
  }

  MLIRContext context;
  std::string diagnostics;
  ScopedDiagnosticHandler handler;
  OwningOpRef<ModuleOp> module;
};

TEST_F(RegionEvaluatorTest, IntegersWrap) {
  EXPECT_EQ(binary("arith.addi", "i32", INT32_MAX, 1), INT32_MIN);
  EXPECT_EQ(binary("arith.addi", "i64", INT64_MAX, 1), INT64_MIN);
  EXPECT_EQ(binary("arith.subi", "i32", INT32_MIN, 1), INT32_MAX);
  EXPECT_EQ(binary("arith.muli", "i32", 1 << 30, 6), int32_t(uint32_t(1 << 30) * 6));
  EXPECT_EQ(binary("arith.muli", "index", 1ll << 40, 3), 3ll << 40);
  EXPECT_EQ(binary("arith.addi", "i8", 100, 100), -56);
}

TEST_F(RegionEvaluatorTest, BitsAndShifts) {
  EXPECT_EQ(binary("arith.andi", "i32", 12, 10), 8);
  EXPECT_EQ(binary("arith.ori", "i32", 12, 10), 14);
  EXPECT_EQ(binary("arith.xori", "i32", 12, 10), 6);
  EXPECT_EQ(binary("arith.xori", "i32", 5, -1), -6);
  EXPECT_EQ(binary("arith.shli", "i32", 3, 31), INT32_MIN);
  EXPECT_EQ(binary("arith.shli", "i64", 3, 31), 3ll << 31);
  EXPECT_EQ(binary("arith.shrsi", "i32", -8, 1), -4);
  EXPECT_EQ(binary("arith.shrui", "i32", -8, 1), 0x7ffffffc);
  EXPECT_EQ(binary("arith.shrui", "i32", -8, 0), -8);
}

TEST_F(RegionEvaluatorTest, MinMax) {
  EXPECT_EQ(binary("arith.minsi", "i32", -1, 1), -1);
  EXPECT_EQ(binary("arith.maxsi", "i32", -1, 1), 1);
  EXPECT_EQ(binary("arith.minui", "i32", -1, 1), 1);
  EXPECT_EQ(binary("arith.maxui", "i32", -1, 1), -1);
}

/// Python's // and %, and zero by zero.
TEST_F(RegionEvaluatorTest, TotalDivision) {
  struct {
    int64_t a, b, quotient, remainder;
  } cases[] = {{7, 2, 3, 1},    {-7, 2, -4, 1}, {7, -2, -4, -1}, {-7, -2, 3, -1}, {6, -2, -3, 0},
               {-6, 2, -3, 0},  {0, -5, 0, 0},  {7, 0, 0, 0},    {-7, 0, 0, 0},   {0, 0, 0, 0},
               {1, -7, -1, -6}, {-1, 7, -1, 6}, {5, -1, -5, 0}};
  for (const char *type : {"i32", "i64"})
    for (auto [a, b, quotient, remainder] : cases) {
      EXPECT_EQ(binary("attn.floordiv", type, a, b), quotient) << a << " // " << b;
      EXPECT_EQ(binary("attn.mod", type, a, b), remainder) << a << " % " << b;
    }
  EXPECT_EQ(binary("attn.floordiv", "i32", INT32_MIN, -1), INT32_MIN);
  EXPECT_EQ(binary("attn.floordiv", "i64", INT64_MIN, -1), INT64_MIN);
  EXPECT_EQ(binary("attn.mod", "i32", INT32_MIN, -1), 0);
  EXPECT_EQ(binary("attn.mod", "i64", INT64_MIN, -1), 0);
}

TEST_F(RegionEvaluatorTest, ArithDivision) {
  EXPECT_EQ(binary("arith.divsi", "i32", -7, 2), -3);
  EXPECT_EQ(binary("arith.remsi", "i32", -7, 2), -1);
  EXPECT_EQ(binary("arith.floordivsi", "index", -7, 2), -4);
  EXPECT_EQ(binary("arith.ceildivsi", "index", -7, 2), -3);
  EXPECT_EQ(binary("arith.ceildivsi", "index", 7, 2), 4);
  EXPECT_EQ(binary("arith.ceildivsi", "index", 7, -2), -3);
  EXPECT_EQ(binary("arith.ceildivsi", "index", 6, 2), 3);
  EXPECT_EQ(binary("arith.divui", "i32", -1, 2), INT32_MAX);
  EXPECT_EQ(binary("arith.remui", "i32", -1, 10), 5);
  EXPECT_EQ(binary("arith.ceildivui", "i32", 7, 2), 4);
}

TEST_F(RegionEvaluatorTest, NoticesUndefinedDivision) {
  FailureOr<RegionEvaluator> evaluator = compile(
      "func.func @f(%a: i32, %b: i32) -> i32 { %r = arith.divsi %a, %b : i32 return %r : i32 }");
  ASSERT_TRUE(succeeded(evaluator));
  evaluator->evaluate({7, 2});
  EXPECT_EQ(evaluator->getResult().i, 3);
  EXPECT_FALSE(evaluator->sawUndefinedBehavior());
  evaluator->evaluate({INT32_MIN, -1});
  EXPECT_TRUE(evaluator->sawUndefinedBehavior());
  EXPECT_EQ(evaluator->getResult().i, 0);
}

TEST_F(RegionEvaluatorTest, UndefinedCodeThatDoesNotRunIsNotNoticed) {
  FailureOr<RegionEvaluator> evaluator = compile(R"(
    func.func @f(%c: i1) -> i32 {
      %zero = arith.constant 0 : i32
      %r = scf.if %c -> i32 {
        %d = arith.divsi %zero, %zero : i32
        scf.yield %d : i32
      } else {
        scf.yield %zero : i32
      }
      return %r : i32
    })");
  ASSERT_TRUE(succeeded(evaluator));
  evaluator->evaluate({false});
  EXPECT_FALSE(evaluator->sawUndefinedBehavior());
  evaluator->evaluate({true});
  EXPECT_TRUE(evaluator->sawUndefinedBehavior());
}

TEST_F(RegionEvaluatorTest, IntegerComparisons) {
  struct {
    const char *name;
    bool less, equal, greater; // of -1 and 1
  } cases[] = {{"eq", false, true, false},  {"ne", true, false, true},
               {"slt", true, false, false}, {"sle", true, true, false},
               {"sgt", false, false, true}, {"sge", false, true, true},
               {"ult", false, false, true}, {"ule", false, true, true},
               {"ugt", true, false, false}, {"uge", true, true, false}};
  for (auto [name, less, equal, greater] : cases) {
    std::string op = std::string("arith.cmpi ") + name + ",";
    EXPECT_EQ(binary(op, "i32", -1, 1, "i1"), less) << name;
    EXPECT_EQ(binary(op, "i32", -1, -1, "i1"), equal) << name;
    EXPECT_EQ(binary(op, "i32", 1, -1, "i1"), greater) << name;
  }
}

TEST_F(RegionEvaluatorTest, FloatComparisons) {
  struct {
    const char *name;
    bool less, equal, greater, unordered;
  } cases[] = {{"false", false, false, false, false}, {"oeq", false, true, false, false},
               {"ogt", false, false, true, false},    {"oge", false, true, true, false},
               {"olt", true, false, false, false},    {"ole", true, true, false, false},
               {"one", true, false, true, false},     {"ord", true, true, true, false},
               {"ueq", false, true, false, true},     {"ugt", false, false, true, true},
               {"uge", false, true, true, true},      {"ult", true, false, false, true},
               {"ule", true, true, false, true},      {"une", true, false, true, true},
               {"uno", false, false, false, true},    {"true", true, true, true, true}};
  for (auto [name, less, equal, greater, unordered] : cases) {
    FailureOr<RegionEvaluator> evaluator =
        compile(std::string("func.func @f(%a: f32, %b: f32) -> i1 { %r = arith.cmpf ") + name +
                ", %a, %b : f32 return %r : i1 }");
    ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
    auto holds = [&](double a, double b) {
      evaluator->evaluate({a, b});
      return evaluator->getResult().i != 0;
    };
    EXPECT_EQ(holds(1, 2), less) << name;
    EXPECT_EQ(holds(2, 2), equal) << name;
    EXPECT_EQ(holds(2, 1), greater) << name;
    EXPECT_EQ(holds(kNaN, 1), unordered) << name;
    EXPECT_EQ(holds(1, kNaN), unordered) << name;
  }
}

TEST_F(RegionEvaluatorTest, Casts) {
  EXPECT_EQ(cast("arith.extsi", "i32", "i64", -5), -5);
  EXPECT_EQ(cast("arith.extsi", "i1", "i32", true), -1);
  EXPECT_EQ(cast("arith.extui", "i1", "i32", true), 1);
  EXPECT_EQ(cast("arith.extui", "i32", "i64", -1), 0xffffffffll);
  EXPECT_EQ(cast("arith.trunci", "i64", "i32", (1ll << 40) + 7), 7);
  EXPECT_EQ(cast("arith.trunci", "i64", "i32", 0xffffffffll), -1);
  EXPECT_EQ(cast("arith.trunci", "i32", "i1", 3), 1);
  EXPECT_EQ(cast("arith.index_cast", "index", "i32", (1ll << 32) - 1), -1);
  EXPECT_EQ(cast("arith.index_cast", "i32", "index", -3), -3);
  EXPECT_EQ(cast("arith.index_castui", "i32", "index", -1), 0xffffffffll);
  EXPECT_EQ(cast("arith.fptosi", "f32", "i32", -2.9), -2);
  EXPECT_EQ(cast("arith.fptosi", "f32", "i64", 1e18), int64_t(1e18));
  EXPECT_EQ(cast("arith.fptoui", "f32", "i32", 4294967295.0), -1);
  EXPECT_EQ(Scalar(cast("arith.sitofp", "i32", "f32", -3)).i, Scalar(-3.0).i);
  EXPECT_EQ(Scalar(cast("arith.uitofp", "i1", "f32", true)).i, Scalar(1.0).i);
  EXPECT_EQ(Scalar(cast("arith.uitofp", "i32", "f32", -1)).i, Scalar(4294967295.0).i);
  EXPECT_EQ(Scalar(cast("arith.truncf", "f32", "bf16", 1.00390625)).i, Scalar(1.0).i);
  EXPECT_EQ(Scalar(cast("arith.truncf", "f32", "f16", 1.0 + 3.0 / 2048)).i,
            Scalar(1.0 + 2.0 / 1024).i);
  EXPECT_EQ(Scalar(cast("arith.truncf", "f64", "f32", 0.1)).i, Scalar(0.1).i);
  EXPECT_EQ(Scalar(cast("arith.extf", "bf16", "f32", 0.5)).i, Scalar(0.5).i);
}

TEST_F(RegionEvaluatorTest, FloatArithmetic) {
  EXPECT_EQ(real("arith.addf", {1.5, 2.0}), 3.5);
  EXPECT_EQ(real("arith.subf", {1.5, 2.0}), -0.5);
  EXPECT_EQ(real("arith.mulf", {1.5, 2.0}), 3.0);
  EXPECT_EQ(real("arith.divf", {1.0, 0.0}), kInfinity);
  EXPECT_EQ(real("arith.divf", {1.0, 3.0}), 1.0 / 3.0) << "f32 is computed in float64";
  EXPECT_EQ(real("arith.negf", {2.0}), -2.0);
  EXPECT_EQ(real("arith.remf", {-7.0, 4.0}), -3.0);
  EXPECT_EQ(real("math.fma", {2.0, 3.0, 4.0}), 10.0);
}

TEST_F(RegionEvaluatorTest, FloatMinMax) {
  EXPECT_EQ(real("arith.minimumf", {1.0, 2.0}), 1.0);
  EXPECT_EQ(real("arith.maximumf", {1.0, 2.0}), 2.0);
  EXPECT_TRUE(std::isnan(real("arith.minimumf", {kNaN, 2.0})));
  EXPECT_TRUE(std::isnan(real("arith.maximumf", {2.0, kNaN})));
  EXPECT_EQ(real("arith.minnumf", {kNaN, 2.0}), 2.0);
  EXPECT_EQ(real("arith.maxnumf", {2.0, kNaN}), 2.0);
  EXPECT_TRUE(std::signbit(real("arith.minimumf", {0.0, -0.0})));
  EXPECT_FALSE(std::signbit(real("arith.maximumf", {-0.0, 0.0})));
}

TEST_F(RegionEvaluatorTest, Functions) {
  struct {
    const char *name;
    double (*function)(double);
  } functions[] = {
      {"math.absf", fabs},   {"math.floor", floor},    {"math.ceil", ceil}, {"math.round", round},
      {"math.trunc", trunc}, {"math.roundeven", rint}, {"math.exp", exp},   {"math.exp2", exp2},
      {"math.expm1", expm1}, {"math.log", log},        {"math.log2", log2}, {"math.log10", log10},
      {"math.log1p", log1p}, {"math.sqrt", sqrt},      {"math.cbrt", cbrt}, {"math.sin", sin},
      {"math.cos", cos},     {"math.tan", tan},        {"math.sinh", sinh}, {"math.cosh", cosh},
      {"math.tanh", tanh},   {"math.atan", atan},      {"math.erf", erf},   {"math.erfc", erfc}};
  for (auto [name, function] : functions)
    for (double x : {0.1, 0.5, 1.0, 1.5, 2.5, 7.25, -0.5, -2.5}) {
      double expected = function(x), found = real(name, {x});
      EXPECT_TRUE(found == expected || (std::isnan(found) && std::isnan(expected)))
          << name << " " << x << ": " << found << ", not " << expected;
    }
  EXPECT_EQ(real("math.rsqrt", {4.0}), 0.5);
  EXPECT_EQ(real("math.powf", {2.0, 10.0}), 1024.0);
  EXPECT_EQ(real("math.copysign", {2.0, -1.0}), -2.0);
  EXPECT_EQ(real("math.atan2", {1.0, 1.0}), std::atan2(1.0, 1.0));
  EXPECT_TRUE(std::isnan(real("math.log", {-1.0})));
  EXPECT_EQ(real("math.log", {0.0}), -kInfinity);
}

TEST_F(RegionEvaluatorTest, Select) {
  FailureOr<RegionEvaluator> evaluator =
      compile("func.func @f(%c: i1, %a: f32, %b: f32) -> f32 { %r = arith.select %c, %a, %b : f32 "
              "return %r : f32 }");
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  evaluator->evaluate({true, 1.0, 2.0});
  EXPECT_EQ(evaluator->getResult().f, 1.0);
  evaluator->evaluate({false, 1.0, 2.0});
  EXPECT_EQ(evaluator->getResult().f, 2.0);
}

TEST_F(RegionEvaluatorTest, BooleanResultsAreZeroOrOne) {
  EXPECT_EQ(evaluate("func.func @f(%a: i1) -> i1 { %t = arith.constant true %r = arith.xori %a, %t "
                     ": i1 return %r : i1 }",
                     {false})
                .i,
            1);
  EXPECT_EQ(evaluate("func.func @f() -> i1 { %t = arith.constant true return %t : i1 }", {}).i, 1);
}

TEST_F(RegionEvaluatorTest, IfNestsAndYieldsSeveral) {
  FailureOr<RegionEvaluator> evaluator = compile(R"(
    func.func @f(%a: i32, %b: i32) -> (i32, i32) {
      %less = arith.cmpi slt, %a, %b : i32
      %r:2 = scf.if %less -> (i32, i32) {
        %same = arith.cmpi eq, %a, %a : i32
        %x = scf.if %same -> i32 {
          scf.yield %b : i32
        } else {
          scf.yield %a : i32
        }
        scf.yield %x, %a : i32, i32
      } else {
        %s = arith.addi %a, %b : i32
        scf.yield %s, %b : i32, i32
      }
      return %r#0, %r#1 : i32, i32
    })");
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  ASSERT_EQ(evaluator->getNumResults(), 2u);
  evaluator->evaluate({1, 2});
  EXPECT_EQ(evaluator->getResult(0).i, 2);
  EXPECT_EQ(evaluator->getResult(1).i, 1);
  evaluator->evaluate({5, 2});
  EXPECT_EQ(evaluator->getResult(0).i, 7);
  EXPECT_EQ(evaluator->getResult(1).i, 2);
}

TEST_F(RegionEvaluatorTest, LoopsCarryValues) {
  // Fibonacci swaps its arguments, which a loop that moved them one by one would get wrong.
  FailureOr<RegionEvaluator> evaluator = compile(R"(
    func.func @f(%n: index) -> (i64, i64) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %a = arith.constant 0 : i64
      %b = arith.constant 1 : i64
      %r:2 = scf.for %i = %c0 to %n step %c1 iter_args(%x = %a, %y = %b) -> (i64, i64) {
        %z = arith.addi %x, %y : i64
        scf.yield %y, %z : i64, i64
      }
      return %r#0, %r#1 : i64, i64
    })");
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  for (auto [n, expected] : {std::pair(10, 55), {0, 0}, {-3, 0}, {1, 1}}) {
    evaluator->evaluate({n});
    EXPECT_EQ(evaluator->getResult().i, expected);
  }
  EXPECT_FALSE(evaluator->sawUndefinedBehavior());
}

TEST_F(RegionEvaluatorTest, NestedLoops) {
  FailureOr<RegionEvaluator> evaluator = compile(R"(
    func.func @f(%n: i32, %step: i32) -> i32 {
      %c0 = arith.constant 0 : i32
      %c1 = arith.constant 1 : i32
      %r = scf.for %i = %c0 to %n step %step iter_args(%x = %c0) -> i32 : i32 {
        %s = scf.for %j = %c0 to %i step %c1 iter_args(%y = %x) -> i32 : i32 {
          %z = arith.addi %y, %j : i32
          scf.yield %z : i32
        }
        scf.yield %s : i32
      }
      return %r : i32
    })");
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  int64_t expected = 0;
  for (int i = 0; i < 10; i += 3)
    for (int j = 0; j < i; ++j)
      expected += j;
  evaluator->evaluate({10, 3});
  EXPECT_EQ(evaluator->getResult().i, expected);
  EXPECT_FALSE(evaluator->sawUndefinedBehavior());
  evaluator->evaluate({10, 0});
  EXPECT_TRUE(evaluator->sawUndefinedBehavior());
}

TEST_F(RegionEvaluatorTest, LoadsAreZeroOutside) {
  int32_t data[] = {1, 2, 3, 4, 5, 6};
  FailureOr<RegionEvaluator> evaluator = compile(
      R"(func.func @f(%t: !attn.tensor<[2, ?], i32>, %i: i32, %j: i64) -> i32 {
           %r = attn.load %t[%i, %j] : !attn.tensor<[2, ?], i32>, i32, i64
           return %r : i32
         })",
      [&](func::FuncOp function, RegionEvaluator::Bindings &bindings) {
        // Transposed: strides are not the usual ones.
        int64_t shape[] = {2, 3}, strides[] = {1, 2};
        bindings.try_emplace(function.getArgument(0), HostTensor(data, DType::I32, shape, strides));
      });
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  EXPECT_EQ(evaluator->getNumArguments(), 2u);
  for (int64_t i = -2; i < 5; ++i)
    for (int64_t j = -2; j < 5; ++j) {
      evaluator->evaluate({i, j});
      bool isInside = i >= 0 && i < 2 && j >= 0 && j < 3;
      EXPECT_EQ(evaluator->getResult().i, isInside ? data[i + 2 * j] : 0) << i << ", " << j;
    }
  evaluator->evaluate({0, INT64_MIN});
  EXPECT_EQ(evaluator->getResult().i, 0);
}

TEST_F(RegionEvaluatorTest, LoadsSeeChangedMemory) {
  float data[] = {1};
  FailureOr<RegionEvaluator> evaluator = compile(
      R"(func.func @f(%t: !attn.tensor<[1], f32>) -> f32 {
           %c0 = arith.constant 0 : i32
           %r = attn.load %t[%c0] : !attn.tensor<[1], f32>
           return %r : f32
         })",
      [&](func::FuncOp function, RegionEvaluator::Bindings &bindings) {
        bindings.try_emplace(function.getArgument(0), HostTensor(data, DType::F32, {1}));
      });
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  evaluator->evaluate({});
  EXPECT_EQ(evaluator->getResult().f, 1.0);
  data[0] = 2;
  evaluator->evaluate({});
  EXPECT_EQ(evaluator->getResult().f, 2.0);
}

TEST_F(RegionEvaluatorTest, Extents) {
  Extents extents = {2, 8, 4, 100, 200, 64, 32};
  std::pair<const char *, int64_t> cases[] = {{"B", 2},     {"Hq", 8}, {"Hkv", 4}, {"Sq", 100},
                                              {"Skv", 200}, {"D", 64}, {"Dv", 32}};
  for (auto [symbol, expected] : cases) {
    FailureOr<RegionEvaluator> evaluator =
        compile(std::string("func.func @f() -> i32 { %r = attn.extent \"") + symbol +
                    "\" return %r : i32 }",
                nullptr, extents);
    ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
    evaluator->evaluate({});
    EXPECT_EQ(evaluator->getResult().i, expected) << symbol;
  }
}

TEST_F(RegionEvaluatorTest, ValuesFromAbove) {
  // The region of the scf.if uses a constant, a computed value and a bound value from outside.
  module = parseSourceString<ModuleOp>(R"(
    func.func @f(%c: i1, %x: i32) -> i32 {
      %two = arith.constant 2 : i32
      %four = arith.addi %two, %two : i32
      %r = scf.if %c -> i32 {
        %y = arith.muli %x, %four : i32
        scf.yield %y : i32
      } else {
        scf.yield %two : i32
      }
      return %r : i32
    })",
                                       &context);
  ASSERT_TRUE(module) << diagnostics;
  auto function = *module->getOps<func::FuncOp>().begin();
  auto ifOp = *function.getOps<scf::IfOp>().begin();
  RegionEvaluator::Bindings bindings;
  bindings.try_emplace(function.getArgument(1), HostValue(int64_t(5)));
  FailureOr<RegionEvaluator> evaluator = RegionEvaluator::compile(ifOp.getThenRegion(), bindings);
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  evaluator->evaluate({});
  EXPECT_EQ(evaluator->getResult().i, 20);

  EXPECT_TRUE(failed(RegionEvaluator::compile(ifOp.getThenRegion())));
  EXPECT_NE(
      diagnostics.find("'arith.muli' op reads a value that the interpreter has no number for"),
      std::string::npos)
      << diagnostics;
}

TEST_F(RegionEvaluatorTest, BoundResultsReplaceTheirOps) {
  FailureOr<RegionEvaluator> evaluator = compile(
      R"(func.func private @g() -> i32
         func.func @f() -> i32 {
           %r = func.call @g() : () -> i32
           %s = arith.addi %r, %r : i32
           return %s : i32
         })",
      nullptr);
  EXPECT_TRUE(failed(evaluator)) << "the first function has no body";
  auto function = *std::next(module->getOps<func::FuncOp>().begin());
  EXPECT_TRUE(failed(RegionEvaluator::compile(function.getBody())));
  EXPECT_NE(diagnostics.find("'func.call' op is not supported by the interpreter"),
            std::string::npos)
      << diagnostics;
  RegionEvaluator::Bindings bindings;
  bindings.try_emplace(function.front().front().getResult(0), HostValue(int64_t(21)));
  evaluator = RegionEvaluator::compile(function.getBody(), bindings);
  ASSERT_TRUE(succeeded(evaluator)) << diagnostics;
  evaluator->evaluate({});
  EXPECT_EQ(evaluator->getResult().i, 42);
}

TEST_F(RegionEvaluatorTest, UnsupportedTypesAreNamed) {
  EXPECT_TRUE(failed(compile("func.func @f(%a: vector<4xf32>) { return }")));
  EXPECT_TRUE(failed(compile("func.func @f() -> vector<4xf32> { %r = arith.constant dense<0.0> : "
                             "vector<4xf32> return %r : "
                             "vector<4xf32> }")));
  EXPECT_NE(diagnostics.find("'arith.constant' op is not supported"), std::string::npos)
      << diagnostics;
}

TEST_F(RegionEvaluatorTest, WrongBindingsAreDiagnosed) {
  float data[4] = {};
  auto tryBinding = [&](HostValue value) {
    diagnostics.clear();
    return failed(compile(
        R"(func.func @f(%t: !attn.tensor<[4], i32>, %i: i32) -> i32 {
             %r = attn.load %t[%i] : !attn.tensor<[4], i32>
             return %r : i32
           })",
        [&](func::FuncOp function, RegionEvaluator::Bindings &bindings) {
          bindings.try_emplace(function.getArgument(0), value);
        }));
  };
  EXPECT_TRUE(tryBinding(int64_t(3)));
  EXPECT_TRUE(tryBinding(HostTensor(data, DType::F32, {4}))) << "float for an integer type";
  EXPECT_TRUE(tryBinding(HostTensor(data, DType::I32, {2, 2}))) << "rank";
  EXPECT_TRUE(tryBinding(HostTensor(data, DType::I32, {3}))) << "extent";
  EXPECT_NE(diagnostics.find("is bound to a tensor of another rank, extent or kind"),
            std::string::npos);
  EXPECT_FALSE(tryBinding(HostTensor(data, DType::I32, {4})));
}

TEST_F(RegionEvaluatorTest, EvaluatorsAreCopies) {
  FailureOr<RegionEvaluator> evaluator =
      compile("func.func @f(%a: i32) -> i32 { %r = arith.addi %a, %a : i32 return %r : i32 }");
  ASSERT_TRUE(succeeded(evaluator));
  RegionEvaluator copy = *evaluator;
  evaluator->evaluate({1});
  copy.evaluate({2});
  EXPECT_EQ(evaluator->getResult().i, 2);
  EXPECT_EQ(copy.getResult().i, 4);
}

} // namespace
