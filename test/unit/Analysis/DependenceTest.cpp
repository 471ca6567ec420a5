//===-- DependenceTest.cpp - What the values of a stage depend on ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Analysis/Dependence.h"

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/raw_ostream.h"
#include "gtest/gtest.h"

using namespace mlir;
using namespace heed;

namespace {

TEST(Dependence, IsASet) {
  constexpr Dependence distance = Dependence::q() | Dependence::kv();
  static_assert(distance.intersects(Dependence::kv()) && !distance.intersects(Dependence::h()));
  static_assert(Dependence::q().isSubsetOf(distance) && !distance.isSubsetOf(Dependence::q()));
  static_assert((distance & Dependence::q()) == Dependence::q());
  static_assert(Dependence().isNone() && Dependence() == Dependence::none());
  static_assert((distance | ~distance) == Dependence::all());
  static_assert(~Dependence::all() == Dependence::none());
  EXPECT_EQ(distance.str(), "{q, kv}");
  EXPECT_EQ(Dependence::all().str(), "{s, b, h, q, kv}");
  EXPECT_EQ(Dependence::none().str(), "{}");
  std::string text;
  llvm::raw_string_ostream(text) << Dependence::b();
  EXPECT_EQ(text, "{b}");
}

class DependenceTest : public testing::Test {
protected:
  DependenceTest() {
    context
        .loadDialect<attn::AttnDialect, arith::ArithDialect, math::MathDialect, scf::SCFDialect>();
  }

  attn::VariantOp parse(const char *text) {
    module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module);
    return *module->getOps<attn::VariantOp>().begin();
  }

  /// What the results of the ops that carry an attribute `name` depend on.
  static std::string of(Operation *stage, StringRef name) {
    DependenceAnalysis analysis(stage);
    std::string text;
    stage->walk([&](Operation *op) {
      if (op->hasAttr(name))
        for (Value result : op->getResults())
          text += analysis.lookup(result).str();
    });
    return text;
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
};

TEST_F(DependenceTest, Score) {
  attn::VariantOp variant = parse(R"(
    attn.variant @v(%slope: !attn.tensor<[Hq], f32>, %cap: f32, %doc: !attn.tensor<[B, Sq], i32>) {
      attn.score(%s, %b, %h, %q, %kv) {
        %two = arith.constant {two} 2.0 : f32
        %c = arith.mulf %cap, %two {c} : f32
        %m = attn.load %slope[%h] {m} : !attn.tensor<[Hq], f32>
        %e = attn.extent "Sq" {e}
        %d = arith.subi %kv, %q {d} : i32
        %dq = attn.load %doc[%b, %q] {dq} : !attn.tensor<[B, Sq], i32>
        %f = arith.sitofp %d : i32 to f32
        %t = arith.mulf %m, %f {t} : f32
        %r = arith.addf %s, %t {r} : f32
        attn.yield %r : f32
      }
    })");
  Operation *score = variant.getStage<attn::ScoreOp>();
  EXPECT_EQ(of(score, "two"), "{}");
  EXPECT_EQ(of(score, "c"), "{}");
  EXPECT_EQ(of(score, "m"), "{h}");
  EXPECT_EQ(of(score, "e"), "{}");
  EXPECT_EQ(of(score, "d"), "{q, kv}");
  EXPECT_EQ(of(score, "dq"), "{b, q}");
  EXPECT_EQ(of(score, "t"), "{h, q, kv}");
  EXPECT_EQ(of(score, "r"), "{s, h, q, kv}");
  EXPECT_EQ(DependenceAnalysis(score).getResult().str(), "{s, h, q, kv}");
}

TEST_F(DependenceTest, MaskArgumentsAreCoordinates) {
  attn::VariantOp variant = parse(R"(
    attn.variant @v() {
      attn.mask(%b, %h, %q, %kv) {
        %keep = arith.cmpi sge, %q, %kv : i32
        attn.yield %keep : i1
      }
    })");
  attn::MaskOp mask = variant.getStage<attn::MaskOp>();
  DependenceAnalysis analysis(mask);
  EXPECT_EQ(analysis.getResult().str(), "{q, kv}");
  EXPECT_EQ(analysis.lookup(mask.getCoordinates()[0]).str(), "{b}");
  EXPECT_EQ(analysis.lookup(mask.getCoordinates()[3]).str(), "{kv}");
}

TEST_F(DependenceTest, ControlIsDependence) {
  attn::VariantOp variant = parse(R"(
    attn.variant @v() {
      attn.mask(%b, %h, %q, %kv) {
        %c0 = arith.constant 0 : i32
        %c4 = arith.constant 4 : i32
        %cond = arith.cmpi eq, %h, %c0 : i32
        %x = scf.if %cond -> i32 {
          %y = arith.addi %q, %c0 {inner} : i32
          scf.yield %y : i32
        } else {
          scf.yield %c0 : i32
        } {outer}
        %keep = arith.cmpi sge, %x, %c0 : i32
        attn.yield %keep : i1
      }
    })");
  attn::MaskOp mask = variant.getStage<attn::MaskOp>();
  EXPECT_EQ(of(mask, "inner"), "{q}");
  EXPECT_EQ(of(mask, "outer"), "{h, q}");
}

TEST_F(DependenceTest, LoopsFeedBack) {
  // What %y becomes reaches %x one iteration later.
  attn::VariantOp variant = parse(R"(
    attn.variant @v() {
      attn.mask(%b, %h, %q, %kv) {
        %c0 = arith.constant 0 : i32
        %c1 = arith.constant 1 : i32
        %c4 = arith.constant 4 : i32
        %r:2 = scf.for %i = %c0 to %c4 step %c1 iter_args(%x = %c0, %y = %c0) -> (i32, i32) : i32 {
          %z = arith.addi %x, %c1 {z} : i32
          scf.yield %y, %kv : i32, i32
        }
        %keep = arith.cmpi sge, %r#0, %c0 : i32
        attn.yield %keep : i1
      }
    })");
  attn::MaskOp mask = variant.getStage<attn::MaskOp>();
  EXPECT_EQ(of(mask, "z"), "{kv}");
  EXPECT_EQ(DependenceAnalysis(mask).getResult().str(), "{kv}");
}

TEST_F(DependenceTest, ArgumentsOfAnyRegion) {
  attn::VariantOp variant = parse(R"(
    attn.variant @v() {
      attn.mask(%b, %h, %q, %kv) {
        %keep = arith.cmpi sge, %q, %kv : i32
        attn.yield %keep : i1
      }
    })");
  Dependence arguments[] = {Dependence::none(), Dependence::none(), Dependence::kv(),
                            Dependence::none()};
  DependenceAnalysis analysis(variant.getStage<attn::MaskOp>().getBody(), arguments);
  EXPECT_EQ(analysis.getResult().str(), "{kv}");
}

} // namespace
