//===-- Main.cpp - Runs the tests, or answers questions for them ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Probe.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>

// Sanitizers end the program at an absurd allocation; the tests of HEED_OUT_OF_MEMORY want NULL.
extern "C" const char *__asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char *__tsan_default_options() {
  return "allocator_may_return_null=1:die_after_fork=0";
}

int main(int argc, char **argv) {
  // No test looks for a real GPU.
  setenv("HEED_CUDA_DRIVER", HEED_FAKE_CUDA, 0);
  // Tests of environment variables need a process that has not read them yet.
  if (argc == 2 && strcmp(argv[1], "--probe") == 0)
    return probe();
  if (argc == 2 && strcmp(argv[1], "--probe-gpu") == 0)
    return probeGpu();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
