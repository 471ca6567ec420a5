//===-- GPUScheduleTest.cpp - Schedules of GPU kernels --------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/NVIDIA/GPUTarget.h"

#include "mlir/IR/Builders.h"
#include "gtest/gtest.h"

using namespace heed;
using namespace mlir;

namespace {

struct GPUSchedule : testing::Test {
  GPUSchedule() { context.loadDialect<tile::TileDialect>(); }

  std::string choose(StringRef target, Type type, int64_t headDim, int64_t valueHeadDim,
                     StringRef options) {
    GPUProblem problem{type, headDim, valueHeadDim};
    for (GPUStages *stages : {&problem.direct, &problem.hoisted})
      stages->hasMask = stages->hasScore = true;
    auto overrides = llvm::cantFail(GPUScheduleOverrides::parse(options));
    auto schedule = selectGPUSchedule(&context, *lookupGPUTarget(target), problem, overrides);
    if (!schedule)
      return llvm::toString(schedule.takeError());
    int64_t bytes = sharedBytesOf(*schedule, type, headDim, valueHeadDim);
    EXPECT_LE(bytes, lookupGPUTarget(target)->sharedBytes);
    EXPECT_GE(schedule->getValueSlices() * sliceColumnsOf(*schedule, valueHeadDim), valueHeadDim);
    return "";
  }

  MLIRContext context;
  Builder b{&context};
};

TEST_F(GPUSchedule, EveryHeadDimHasOne) {
  for (const GPUTarget &target : allGPUTargets())
    for (Type type : {Type(b.getBF16Type()), Type(b.getF16Type()), Type(b.getF32Type())})
      for (int64_t headDim = 1; headDim <= 576; headDim += headDim < 40 ? 1 : 5)
        for (int64_t valueHeadDim = 1; valueHeadDim <= 576;
             valueHeadDim += valueHeadDim < 40 ? 1 : 5)
          for (StringRef options : {"", "no_wgmma"})
            ASSERT_EQ(choose(target.name, type, headDim, valueHeadDim, options), "")
                << target.name << " " << headDim << " " << valueHeadDim << " " << options.str();
}

// They would spill beside a wide accumulator; whoever asks for a Hopper schedule gets one.
TEST_F(GPUSchedule, ScoresOfManyFunctions) {
  auto dotOf = [&](int64_t headDim, StringRef options) {
    GPUProblem problem{b.getBF16Type(), headDim, headDim};
    problem.hoisted.hasScore = true;
    problem.hoisted.numTranscendentals = problem.hoisted.numElementFunctions = 16;
    auto overrides = llvm::cantFail(GPUScheduleOverrides::parse(options));
    auto schedule = selectGPUSchedule(&context, *lookupGPUTarget("sm_90a"), problem, overrides);
    return llvm::cantFail(std::move(schedule)).getDot();
  };
  EXPECT_EQ(dotOf(128, ""), tile::GPUDotKind::WGMMA);
  EXPECT_EQ(dotOf(192, ""), tile::GPUDotKind::MMA);
  EXPECT_EQ(dotOf(192, "blocks_per_sm=1"), tile::GPUDotKind::WGMMA);
  EXPECT_EQ(dotOf(256, "block_kv=32"), tile::GPUDotKind::WGMMA);
}

TEST_F(GPUSchedule, OverridesThatDoNotFit) {
  EXPECT_EQ(choose("sm_80", b.getF32Type(), 128, 128, "block_kv=256"),
            "no schedule of sm_80 fits head dim 128 on the portable GPU path: a thread needs about "
            "374 registers and has 255");
  EXPECT_EQ(choose("sm_86", b.getBF16Type(), 64, 64, "groups=2,block_kv=64,stages=8"),
            "no schedule of sm_86 fits head dim 64 on the portable GPU path: a thread block needs "
            "165888 bytes of shared memory and has 101376");
  EXPECT_EQ(choose("sm_80", b.getBF16Type(), 64, 64, "blocks_per_sm=1"),
            "blocks_per_sm expects 0 for the portable GPU path, found 1");
  EXPECT_EQ(choose("sm_80", b.getBF16Type(), 64, 64, "groups=5"),
            "groups expects 1 to 4 for the portable GPU path, found 5");
  EXPECT_EQ(choose("sm_80", b.getF32Type(), 64, 64, "block_kv=20"),
            "block_kv expects a multiple of 16 up to 256 for the portable GPU path, found 20");
}

} // namespace
