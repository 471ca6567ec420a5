//===-- ModuleTest.cpp - Loading and unloading GPU code ---------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <atomic>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <thread>

namespace {

using fake::cuda;
using fake::expectError;
using fake::Launch;
using fake::Memory;
using Gpu = fake::GpuTest;

TEST_F(Gpu, LoadsOnce) {
  Launch c;
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  EXPECT_EQ(cuda().callsOf("cuFuncSetAttribute"), 1);
}

TEST_F(Gpu, ThreadsLoadOnce) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK); // what run() sets up is not for threads
  heed_gpu_unload(&c.kernel);
  cuda().clearRecords();
  cuda().loadMilliseconds = 20;
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      good += heed_launch(&c.kernel, &c.call, nullptr) == HEED_OK && fake::getCurrent() == nullptr;
    });
  for (std::thread &thread : threads)
    thread.join();
  cuda().loadMilliseconds = 0;
  EXPECT_EQ(good, 8);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  EXPECT_EQ(cuda().launches.size(), 8u);
}

TEST_F(Gpu, ThreadsThatFailToLoadEachSaySo) {
  Launch c;
  c.ptx = ".version 8.7 syntax error";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().loadMilliseconds = 5;
  cuda().errorLog = "line 1";
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      good += heed_launch(&c.kernel, &c.call, nullptr) == HEED_LAUNCH_FAILED &&
              strstr(heed_last_error(), "line 1");
    });
  for (std::thread &thread : threads)
    thread.join();
  cuda().loadMilliseconds = 0;
  EXPECT_EQ(good, 4);
}

TEST_F(Gpu, ThreadsLaunchManyKernels) {
  std::vector<std::unique_ptr<Launch>> kernels;
  for (int i = 0; i < 300; ++i) // more than there are buckets
    kernels.push_back(std::make_unique<Launch>(1, 1, 1, 1, 1));
  ASSERT_EQ(kernels[0]->run(), HEED_OK);
  cuda().clearRecords();
  heed_gpu_unload(&kernels[0]->kernel);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 2; ++round)
        for (auto &launch : kernels)
          good += heed_launch(&launch->kernel, &launch->call, nullptr) == HEED_OK;
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(good, 4 * 2 * 300);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 300);
}

TEST_F(Gpu, Unload) {
  int before = cuda().liveModules();
  {
    Launch a, b;
    ASSERT_EQ(a.run(), HEED_OK);
    ASSERT_EQ(b.run(), HEED_OK);
    for (Memory *memory : {&a.query, &a.key, &a.value, &a.output})
      memory->move(fake::OnDevice, 1);
    ASSERT_EQ(a.run(), HEED_OK);
    EXPECT_EQ(cuda().liveModules(), before + 3);
    CUstream_st *other = cuda().makeStream(cuda().primaries[0]);
    other->capturing = 1; // no obstacle
    fake::setCurrent(nullptr);
    heed_gpu_unload(&a.kernel);
    EXPECT_EQ(fake::getCurrent(), nullptr);
    fake::setCurrent(cuda().primaries[0]);
    EXPECT_EQ(other->capturing, 1);
    other->capturing = 0;
    EXPECT_EQ(cuda().liveModules(), before + 1);
    heed_gpu_unload(&a.kernel);
    ASSERT_EQ(a.run(), HEED_OK) << heed_last_error(); // loads again
    EXPECT_EQ(cuda().liveModules(), before + 2);
    ASSERT_EQ(b.run(), HEED_OK);
    EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 4);
  }
  EXPECT_EQ(cuda().liveModules(), before);
  heed_gpu_unload(nullptr);
}

TEST_F(Gpu, PtxThatDoesNotCompile) {
  Launch c;
  c.ptx = ".version 8.7\nsyntax error";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().errorLog = "ptxas info : (C7510) Potential Performance Loss: wgmma\n"
                    "ptxas application ptx input, line 9; error   : Unknown symbol 'x'\r\n\n"
                    "  ptxas fatal   : Ptx assembly aborted\n";
  expectError(c,
              "kernel 'fake': cannot compile its PTX for sm_90a (ptxas application ptx input, line "
              "9; error   : Unknown symbol 'x'; ptxas fatal   : Ptx assembly aborted): "
              "CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed)",
              HEED_LAUNCH_FAILED);
  cuda().errorLog = "";
  expectError(
      c,
      "kernel 'fake': cannot compile its PTX for sm_90a (no log): CUDA_ERROR_INVALID_PTX (a "
      "PTX JIT compilation failed)",
      HEED_LAUNCH_FAILED);
  cuda().errorLog = std::string(20000, 'x'); // cut
  EXPECT_EQ(c.run(), HEED_LAUNCH_FAILED);
  EXPECT_LT(strlen(heed_last_error()), 400u);
  EXPECT_TRUE(strstr(heed_last_error(), "CUDA_ERROR_INVALID_PTX"));
}

TEST_F(Gpu, PtxTooNewForTheDriver) {
  Launch c;
  c.ptx = "// from a compiler\n.version 9.4\ntoo new";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().version = 12020;
  expectError(c,
              "kernel 'fake': expected a driver that compiles PTX 9.4, found one for CUDA 12.2; "
              "update the NVIDIA driver",
              HEED_UNSUPPORTED_GPU);
  cuda().version = 13000;
}

TEST_F(Gpu, RemarksOfTheCompiler) {
  std::string log;
  for (const char *number : {"C7504", "C7507", "C7508", "C7510", "C7514", "C7518"})
    log += std::string("ptxas info    : (") + number + ") Potential Performance Loss\n";
  cuda().infoLog = log + "ptxas warning : something else\nptxas info    : 0 bytes gmem";
  auto stderrOf = [](const char *verbose) {
    Launch c;
    setenv("HEED_GPU_VERBOSE", verbose, 1);
    testing::internal::CaptureStderr();
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    unsetenv("HEED_GPU_VERBOSE");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(stderrOf("0"), "heed: warning: kernel 'fake': ptxas warning : something else\n");
  EXPECT_FALSE(cuda().verboseJit);
  std::string all = stderrOf("1");
  EXPECT_TRUE(cuda().verboseJit);
  EXPECT_NE(all.find("heed: kernel 'fake': ptxas info    : (C7518) Potential Performance Loss\n"),
            std::string::npos);
  EXPECT_NE(all.find("heed: kernel 'fake': ptxas info    : 0 bytes gmem\n"), std::string::npos);
}

TEST_F(Gpu, Cubins) {
  auto withCubin = [](const char *cubin) {
    return [=](Launch &c) {
      c.codes[0].module.cubin = cubin;
      c.codes[0].module.cubin_bytes = int64_t(strlen(cubin));
    };
  };
  Launch c;
  withCubin("ELF .entry attend(")(c);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().modules.back()->image, "ELF .entry attend(");
  for (const char *cubin : {"foreign", "not an image"}) {
    Launch d;
    withCubin(cubin)(d);
    ASSERT_EQ(d.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().modules.back()->image, d.ptx);
  }
  expectError(
      "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_NO_BINARY_FOR_GPU (no "
      "kernel image is available for execution)",
      [&](Launch &c) {
        withCubin("foreign")(c);
        c.codes[0].module.ptx = nullptr;
      },
      HEED_LAUNCH_FAILED);
  Launch e; // other errors are no reason to compile
  withCubin("ELF .entry attend(")(e);
  cuda().failNext("cuModuleLoadDataEx", 2);
  expectError(e,
              "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_OUT_OF_MEMORY (out of "
              "memory)",
              HEED_OUT_OF_MEMORY);
  EXPECT_EQ(e.run(), HEED_OK);
}

TEST_F(Gpu, ModulesThatCannotBeUsedAreUnloaded) {
  int before = cuda().liveModules();
  expectError(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'atten'",
      [](Launch &c) { c.codes[0].entry = "atten"; }, HEED_LAUNCH_FAILED);
  expectError(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'classify'",
      [](Launch &c) {
        c.codes[0].classify = "classify";
        c.codes[0].classify_threads = 1;
      },
      HEED_LAUNCH_FAILED);
  cuda().failNext("cuFuncSetAttribute", 1);
  expectError(
      "kernel 'fake': no 200000 bytes of shared memory for its code for sm_90a: "
      "CUDA_ERROR_INVALID_VALUE (invalid argument)",
      [](Launch &) {}, HEED_LAUNCH_FAILED);
  EXPECT_EQ(cuda().liveModules(), before);
}

} // namespace
