//===-- DriverTest.cpp - Processes with other drivers -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeLaunch.h"
#include "Probe.h"

#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using fake::Launch;

/// The output, errors included, of this program's --probe-gpu in another environment.
std::string probeWith(const std::string &environment) {
  return outputOfProbe("-u CUDA_VISIBLE_DEVICES " + environment, "--probe-gpu");
}

void expectLine(const std::string &output, const std::string &line) {
  EXPECT_NE(("\n" + output).find("\n" + line + "\n"), std::string::npos) << line << "\n  not in\n"
                                                                         << output;
}

TEST(GpuDriver, Works) {
  std::string output = probeWith("A=1");
  expectLine(output, "count=3");
  expectLine(output, "capability=90");
  expectLine(output, "maps: HEED_OK");
  expectLine(output, "lists: HEED_OK");
}

TEST(GpuDriver, Missing) {
  std::string none = "expected an NVIDIA driver, found none (/nowhere/libcuda.so.1: cannot open "
                     "shared object file: No such file or directory); HEED_CUDA_DRIVER says where "
                     "it is";
  std::string output = probeWith("HEED_CUDA_DRIVER=/nowhere/libcuda.so.1");
  expectLine(output, "count=0 " + none);
  expectLine(output, "capability=0");
  expectLine(output, "code=none " + none);
  expectLine(output, "maps: HEED_UNSUPPORTED_GPU: " + none);
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) {
    expectLine(probeWith("HEED_CUDA_DRIVER="),
               "count=0 expected an NVIDIA driver, found none (libcuda.so.1: cannot open shared "
               "object file: No such file or directory); install the NVIDIA driver");
  }
}

TEST(GpuDriver, IsAnotherLibrary) {
  expectLine(probeWith("HEED_CUDA_DRIVER=libm.so.6"),
             "count=0 expected a CUDA driver with cuInit, found libm.so.6 without; update the "
             "NVIDIA driver");
}

TEST(GpuDriver, NoDevice) {
  expectLine(probeWith("FAKE_CUDA_COUNT=0"), "count=0 expected an NVIDIA GPU, found none");
  std::string output = probeWith("FAKE_CUDA_COUNT=0 CUDA_VISIBLE_DEVICES=7");
  expectLine(output, "count=0 expected an NVIDIA GPU, found none; CUDA_VISIBLE_DEVICES is '7'");
  expectLine(output, "maps: HEED_UNSUPPORTED_GPU: expected an NVIDIA GPU, found none; "
                     "CUDA_VISIBLE_DEVICES is '7'");
}

TEST(GpuDriver, DoesNotStart) {
  expectLine(probeWith("FAKE_CUDA_INIT=803"),
             "count=0 the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system "
             "has unsupported display driver)");
}

TEST(GpuDriver, IsOld) {
  std::string output =
      probeWith("HEED_CUDA_DRIVER='" HEED_FAKE_CUDA_OLD "' FAKE_CUDA_VERSION=11010");
  expectLine(output, "count=3");
  expectLine(output,
             "maps: HEED_UNSUPPORTED_GPU: kernel 'fake': expected a driver for CUDA 12.0 or "
             "later, found one for CUDA 11.1; update the NVIDIA driver");
  expectLine(output,
             "lists: HEED_UNSUPPORTED_GPU: kernel 'fake': expected a driver for CUDA 11.2 or "
             "later, found one for CUDA 11.1; update the NVIDIA driver");
  expectLine(output, "plain: HEED_OK");
}

TEST(GpuDriver, AfterFork) {
  std::string output = probeWith("A=1");
  std::string message = "expected a process that may use CUDA, found one forked from a process "
                        "that had used it; fork earlier, or start processes anew (in Python: the "
                        "'spawn' method)";
  expectLine(output, "child before: HEED_OK");
  expectLine(output, "child after: HEED_UNSUPPORTED_GPU: " + message);
  expectLine(output, "parent after: HEED_OK");
}

void report(const char *what, heed_status status) {
  printf("%s: %s%s%s\n", what, heed_status_name(status), status ? ": " : "",
         status ? heed_last_error() : "");
  fflush(stdout);
}

void inChild(const char *what, Launch *launch) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(20);
    if (launch) {
      report(what, launch->run());
      heed_gpu_unload(&launch->kernel);
    } else {
      Launch own;
      report(what, own.run());
    }
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

} // namespace

int probeGpu() {
  bool isFake = fake::cudaFunction<void *>("fakeCuda") != nullptr;
  if (isFake)
    inChild("child before", nullptr);
  int count = heed_gpu_count();
  printf("count=%d%s%s\n", count, count ? "" : " ", count ? "" : heed_last_error());
  printf("capability=%d\n", int(heed_gpu_capability(0)));
  if (!isFake) {
    heed_kernel kernel = {};
    kernel.abi_version = HEED_ABI_VERSION;
    kernel.dtype = HEED_F32;
    kernel.head_dim = kernel.value_head_dim = 1;
    if (!heed_select_gpu_code(&kernel, 0))
      printf("code=none %s\n", heed_last_error());
    float x = 0;
    int64_t shape[] = {1, 1, 1, 1};
    heed_call call = {};
    call.query = call.key = call.value = call.output = heed_dense_tensor(&x, HEED_F32, 4, shape);
    report("maps", heed_launch(&kernel, &call, nullptr));
    return 0;
  }
  Launch maps, lists, plain;
  report("maps", maps.run());
  heed_gpu_code &code = lists.plain();
  code.classify = "attend_classify";
  code.classify_threads = 32;
  report("lists", lists.run());
  plain.plain();
  report("plain", plain.run());
  inChild("child after", &plain);
  report("parent after", plain.run());
  return 0;
}
