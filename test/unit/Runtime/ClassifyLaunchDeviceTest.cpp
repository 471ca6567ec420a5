//===-- ClassifyLaunchDeviceTest.cpp - Devices and loading ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeMask.h"

#include <gtest/gtest.h>

namespace {

using fake::calls;
using fake::cuda;
using fake::expectError;
using fake::expectErrors;
using fake::Launched;
using fake::Mask;
using ClassifyLaunch = fake::GpuTest;
using Call = Mask::Call;

TEST_F(ClassifyLaunch, TheFirstCodeForTheDevice) {
  for (Call call : calls)
    for (int32_t device : {0, 1, 2}) {
      Mask m;
      m.moveAll(device);
      ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
      EXPECT_EQ(cuda().launches.at(0).context, cuda().primaries[size_t(device)]);
      EXPECT_EQ(cuda().launches.at(0).block, device == 2 ? 256u : 128u);
    }
  Mask reversed;
  std::swap(reversed.codes[0], reversed.codes[1]);
  ASSERT_EQ(reversed.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).block, 256u);
}

TEST_F(ClassifyLaunch, TheMaskOfTheCodeThatIsChosen) {
  Mask m;
  m.codes[1].uses_batch = 0;
  m.matrix.num_batches = 1;
  expectError(m, &Mask::classify, "argument 'matrix': expected num_batches to be 2, found 1");
  m.moveAll(2);
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
}

TEST_F(ClassifyLaunch, NoCodeForTheDevice) {
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:2, a GPU of compute capability 8.6",
      [](Mask &m) {
        m.kernel.num_gpu_mask_codes = 1;
        m.moveAll(2);
      },
      HEED_UNSUPPORTED_GPU);
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:0, a GPU of compute capability 9.0",
      [](Mask &m) {
        m.setCapability(0, 80); // exactly
        m.setCapability(1, 100);
      },
      HEED_UNSUPPORTED_GPU);
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:0, a GPU of compute capability 9.0",
      [](Mask &m) {
        m.kernel.num_gpu_mask_codes = 0;
        m.kernel.gpu_mask_codes = nullptr;
      },
      HEED_UNSUPPORTED_GPU);
}

TEST_F(ClassifyLaunch, UnknownDevices) {
  expectErrors("argument 'device': expected a number from 0 to 2, found 3",
               [](Mask &m) { m.device = 3; });
  expectErrors("argument 'device': expected a number from 0 to 2, found -1",
               [](Mask &m) { m.device = -1; });
}

TEST_F(ClassifyLaunch, WithoutACurrentContextThePrimaryOneIsPushed) {
  Mask m;
  fake::setCurrent(nullptr);
  ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::getCurrent(), nullptr);
  ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::getCurrent(), nullptr);
  EXPECT_EQ(cuda().launches.size(), 3u);
  for (const Launched &l : cuda().launches)
    EXPECT_EQ(l.context, cuda().primaries[0]);
  for (Call call : calls) { // nor is it left behind by an error
    cuda().failNext("cuLaunchKernel", 701);
    EXPECT_EQ((m.*call)(), HEED_LAUNCH_FAILED);
    EXPECT_EQ(fake::getCurrent(), nullptr);
  }
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(ClassifyLaunch, ContextErrors) {
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuCtxGetCurrent", 3);
    expectError(m, call,
                "cannot find the current CUDA context: CUDA_ERROR_NOT_INITIALIZED (initialization "
                "error)",
                HEED_LAUNCH_FAILED);
    fake::setCurrent(nullptr);
    cuda().failNext("cuCtxPushCurrent_v2", 2);
    expectError(
        m, call,
        "cannot use the primary context of cuda:0: CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
        HEED_OUT_OF_MEMORY);
    fake::setCurrent(cuda().primaries[0]);
  }
}

TEST_F(ClassifyLaunch, LoadsOnce) {
  Mask m;
  for (int i = 0; i < 3; ++i)
    for (Call call : calls)
      ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 4);
  EXPECT_EQ(cuda().callsOf("cuModuleGetFunction"), 4);
  EXPECT_EQ(cuda().callsOf("cuFuncSetAttribute"), 0); // no dynamic shared memory
  EXPECT_EQ(cuda().launches.size(), 12u);
}

TEST_F(ClassifyLaunch, AHotCallIsShort) {
  Mask m;
  for (Call call : calls) {
    ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
    cuda().clearRecords();
    ASSERT_EQ((m.*call)(), HEED_OK);
    bool isList = call != &Mask::classify;
    EXPECT_EQ(cuda().callsOf("cuPointerGetAttributes"), isList ? 5 : 1);
    EXPECT_EQ(cuda().callsOf("cuCtxGetCurrent"), 1);
    EXPECT_EQ(cuda().callsOf("cuCtxGetId"), 1);
    EXPECT_EQ(cuda().callsOf("cuLaunchKernel"), isList ? 1 : 2);
    EXPECT_EQ(cuda().totalCalls(), isList ? 8 : 5); // nothing waits
  }
}

TEST_F(ClassifyLaunch, Unload) {
  int before = cuda().liveModules();
  {
    Mask a, b;
    ASSERT_EQ(a.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(b.list(), HEED_OK) << heed_last_error();
    a.moveAll(2); // the other code
    ASSERT_EQ(a.list(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().liveModules(), before + 4); // of classify two
    heed_gpu_unload(&a.kernel);
    EXPECT_EQ(cuda().liveModules(), before + 1);
    heed_gpu_unload(&a.kernel);
    ASSERT_EQ(a.classify(), HEED_OK) << heed_last_error(); // loads again
    EXPECT_EQ(cuda().liveModules(), before + 3);
    ASSERT_EQ(b.list(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 6);
  }
  EXPECT_EQ(cuda().liveModules(), before);
}

TEST_F(ClassifyLaunch, WhileAStreamIsCaptured) {
  Mask m; // nothing of it is loaded yet
  m.stream = cuda().makeStream(cuda().primaries[0]);
  m.stream->capturing = 1;
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(m.list(), HEED_OK) << heed_last_error();
  EXPECT_EQ(m.stream->capturing, 1) << "the capture goes on";
  EXPECT_EQ(cuda().launches.size(), 3u);
}

TEST_F(ClassifyLaunch, LoadErrors) {
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuModuleLoadDataEx", 2);
    expectError(m, call,
                "kernel 'fake': cannot compile its PTX for sm_90a (no log): "
                "CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
                HEED_OUT_OF_MEMORY);
    EXPECT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  }
  expectErrors(
      "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_NO_BINARY_FOR_GPU (no kernel "
      "image is available for execution)",
      [](Mask &m) {
        for (heed_gpu_mask_kernel &part : m.codes[0].kernels) {
          part.module.ptx = nullptr;
          part.module.cubin = "foreign";
        }
      },
      HEED_LAUNCH_FAILED);
}

TEST_F(ClassifyLaunch, EntriesThatAreMissing) {
  int before = cuda().liveModules();
  auto rename = [](int which, const char *entry) {
    return [=](Mask &m) { m.codes[0].kernels[which].entry = entry; };
  };
  expectError(&Mask::classify,
              "kernel 'fake' is damaged: its code for sm_90a has no entry 'mask_clas'",
              rename(HEED_MASK_KERNEL_CLASSIFY, "mask_clas"), HEED_LAUNCH_FAILED);
  // Looked for before the other is launched.
  expectError(&Mask::classify,
              "kernel 'fake' is damaged: its code for sm_90a has no entry 'settle'",
              rename(HEED_MASK_KERNEL_SETTLE, "settle"), HEED_LAUNCH_FAILED);
  expectError(&Mask::list,
              "kernel 'fake' is damaged: its code for sm_90a has no entry 'mask_lists'",
              rename(HEED_MASK_KERNEL_LIST, "mask_lists"), HEED_LAUNCH_FAILED);
  expectError(&Mask::fill, "kernel 'fake' is damaged: its code for sm_90a has no entry 'mask'",
              rename(HEED_MASK_KERNEL_FILL, "mask"), HEED_LAUNCH_FAILED);
  expectError(
      &Mask::classify,
      "kernel 'fake': cannot find the entry 'mask_classify' of its code for sm_90a: "
      "CUDA_ERROR_INVALID_VALUE (invalid argument)",
      [](Mask &) { cuda().failNext("cuModuleGetFunction", 1); }, HEED_LAUNCH_FAILED);
  EXPECT_EQ(cuda().liveModules(), before);
}

TEST_F(ClassifyLaunch, LaunchErrors) {
  const char *message =
      "kernel 'fake': cannot launch on cuda:0: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES "
      "(too many resources requested for launch)";
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuLaunchKernel", 701);
    expectError(m, call, message, HEED_LAUNCH_FAILED);
    EXPECT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  }
  Mask m; // the second of two
  cuda().failNext("cuLaunchKernel", 0);
  cuda().failNext("cuLaunchKernel", 701);
  EXPECT_EQ(m.classify(), HEED_LAUNCH_FAILED);
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_EQ(cuda().launches.size(), 1u);
}

TEST_F(ClassifyLaunch, BrokenContext) {
  for (Call call : calls) {
    Mask m;
    ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
    cuda().sticky = 700;
    expectError(m, call,
                "the CUDA context is broken by an earlier error: CUDA_ERROR_ILLEGAL_ADDRESS (an "
                "illegal memory access was encountered)",
                HEED_LAUNCH_FAILED);
    cuda().sticky = 0;
  }
}

TEST_F(ClassifyLaunch, StreamOfAnotherContext) {
  expectErrors(
      "kernel 'fake': cannot launch on cuda:0 (is the stream one of the device's current "
      "context?): CUDA_ERROR_INVALID_HANDLE (invalid resource handle)",
      [](Mask &m) { m.stream = cuda().makeStream(cuda().primaries[1]); }, HEED_LAUNCH_FAILED);
}

} // namespace
