//===-- PlaceTest.cpp - Devices, contexts and memory ------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <functional>
#include <gtest/gtest.h>

namespace {

using fake::cuda;
using fake::expectError;
using fake::Launch;
using fake::Memory;
using Gpu = fake::GpuTest;

//===----------------------------------------------------------------------===//
// Devices
//===----------------------------------------------------------------------===//

TEST_F(Gpu, Devices) {
  EXPECT_EQ(heed_gpu_count(), 3);
  EXPECT_EQ(heed_gpu_capability(0), 90);
  EXPECT_EQ(heed_gpu_capability(2), 86);
  EXPECT_EQ(heed_gpu_capability(3), 0);
  EXPECT_STREQ(heed_last_error(), "argument 'device': expected a number from 0 to 2, found 3");
  EXPECT_EQ(heed_gpu_capability(-1), 0);
}

//===----------------------------------------------------------------------===//
// Where the data is
//===----------------------------------------------------------------------===//

TEST_F(Gpu, EveryArgumentMustBeOnTheDevice) {
  using Choose = std::function<Memory &(Launch &)>;
  std::pair<const char *, Choose> arguments[] = {
      {"key", [](Launch &c) -> Memory & { return c.key; }},
      {"value", [](Launch &c) -> Memory & { return c.value; }},
      {"output", [](Launch &c) -> Memory & { return c.output; }},
      {"lse", [](Launch &c) -> Memory & { return c.lse; }},
      {"max_scores", [](Launch &c) -> Memory & { return c.maxScores; }}};
  for (auto &[name, choose] : arguments) {
    std::string start = std::string("argument '") + name + "': expected memory on cuda:0, found ";
    Launch c;
    c.withRowNumbers();
    Memory &memory = choose(c);
    memory.move(fake::OnDevice, 1);
    expectError(c, (start + "cuda:1").c_str());
    memory.move(fake::PinnedElsewhere, 0); // at another address on the device
    expectError(c, (start + "host memory").c_str());
    memory.toHost();
    expectError(c, (start + "host memory").c_str());
    for (fake::Where where : {fake::Pinned, fake::Managed}) {
      memory.move(where, 1);
      EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    }
  }
}

TEST_F(Gpu, CapturedTensorsMustBeOnTheDevice) {
  Launch c;
  Memory slope(16), table(0, fake::OnDevice, 1);
  const int64_t extents[] = {HEED_EXTENT_HQ, HEED_EXTENT_ANY};
  c.params = {{"slope", HEED_F32, 1, extents, 0, {}}, {"table", HEED_F32, 2, extents, 0, {}}};
  heed_tensor tensors[] = {Launch::tensor(slope.data(), HEED_F32, {4}),
                           Launch::tensor(table.data(), HEED_F32, {4, 0})};
  c.values.resize(2);
  c.values[0].tensor = &tensors[0];
  c.values[1].tensor = &tensors[1]; // without elements, hence anywhere
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  slope.move(fake::OnDevice, 1);
  expectError(c, "argument 'slope': expected memory on cuda:0, found cuda:1");
  slope.toHost();
  expectError(c, "argument 'slope': expected memory on cuda:0, found host memory");
}

TEST_F(Gpu, TheQuerySaysWhichDevice) {
  Launch c;
  c.query.toHost();
  expectError(c, "argument 'query': expected memory of a CUDA device, found host memory");
  // How some drivers answer for pointers that they do not know.
  c.query.move(fake::OnDevice, 0);
  cuda().failNext("cuPointerGetAttributes", 1);
  expectError(c, "argument 'query': expected memory of a CUDA device, found host memory");
  for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
    memory->move(fake::OnDevice, 1);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, cuda().primaries[1]);
  c.key.move(fake::OnDevice, 0);
  expectError(c, "argument 'key': expected memory on cuda:1, found cuda:0");
}

TEST_F(Gpu, QueriesThatAllDevicesSee) {
  // The current context's device runs them, else the one that they were made with.
  Launch c;
  for (fake::Where where : {fake::Pinned, fake::Managed}) {
    for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
      memory->move(where, 1);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.back().context, cuda().primaries[0]);
    fake::setCurrent(nullptr);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.back().context, cuda().primaries[1]);
    fake::setCurrent(cuda().primaries[0]);
  }
  c.query.move(fake::PinnedElsewhere, 0);
  expectError(c, "argument 'query': expected memory on cuda:0, found host memory");
}

//===----------------------------------------------------------------------===//
// Contexts
//===----------------------------------------------------------------------===//

TEST_F(Gpu, WithoutACurrentContextThePrimaryOneIsPushed) {
  Launch c;
  fake::setCurrent(nullptr);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, cuda().primaries[0]);
  EXPECT_EQ(fake::getCurrent(), nullptr);
  int retained = cuda().primaries[0]->retained;
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(cuda().primaries[0]->retained, retained); // once is enough
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, EveryContextHasItsModules) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK);
  CUctx_st *own = cuda().makeContext(0);
  fake::setCurrent(own);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, own);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 2);
  own->isAlive = false;
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, AResetDeviceIsUsedAnew) {
  Launch c;
  for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
    memory->move(fake::OnDevice, 1);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  cuda().primaries[1]->isAlive = false;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.size(), 2u);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 2); // the first is gone
}

TEST_F(Gpu, ContextErrors) {
  Launch c;
  cuda().failNext("cuCtxGetCurrent", 3);
  expectError(c,
              "cannot find the current CUDA context: CUDA_ERROR_NOT_INITIALIZED (initialization "
              "error)",
              HEED_LAUNCH_FAILED);
  fake::setCurrent(nullptr);
  cuda().failNext("cuCtxPushCurrent_v2", 2);
  expectError(c,
              "cannot use the primary context of cuda:0: CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
              HEED_OUT_OF_MEMORY);
  fake::setCurrent(cuda().primaries[0]);
}

} // namespace
