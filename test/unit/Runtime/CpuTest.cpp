//===-- CpuTest.cpp - Detection, HEED_CPU and the choice of code ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeKernel.h"
#include "Probe.h"

#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <unistd.h>

namespace {

constexpr uint64_t v2 = HEED_CPU_X86_64_V2, v3 = v2 | HEED_CPU_X86_64_V3,
                   v4 = v3 | HEED_CPU_X86_64_V4;

const heed_code codes[] = {
    {"amx", v4 | HEED_CPU_AMX_BF16, 4, 16, 0, 0, nullptr, fake::tile, nullptr, 0},
    {"bf16", v4 | HEED_CPU_AVX512_BF16, 4, 16, 0, 0, nullptr, fake::tile, nullptr, 0},
    {"v4", v4, 4, 16, 0, 0, nullptr, fake::tile, nullptr, 0},
    {"v3", v3, 4, 16, 0, 0, nullptr, fake::tile, nullptr, 0},
};

heed_kernel kernelOf(int first, int count) {
  return {HEED_ABI_VERSION, 0, "levels", HEED_F32, 8,       4, count,  nullptr,
          codes + first,    0, nullptr,  0,        nullptr, 0, nullptr};
}

/// The output, errors included, of this program's --probe in another environment.
std::string probeWith(const std::string &environment) {
  return outputOfProbe("-u HEED_NUM_THREADS -u HEED_CPU " + environment, "--probe");
}

unsigned featuresWith(const std::string &environment) {
  std::string output = probeWith(environment);
  size_t at = output.find("features=");
  return at == std::string::npos ? ~0u : unsigned(strtoul(output.c_str() + at + 9, nullptr, 10));
}

bool contains(const std::string &text, const char *part) {
  return text.find(part) != std::string::npos;
}

TEST(Cpu, BitsCumulate) {
  uint64_t bits = heed_cpu_features();
#if defined(__x86_64__)
  EXPECT_FALSE(bits & HEED_CPU_AARCH64);
  if (bits & HEED_CPU_X86_64_V4) {
    EXPECT_TRUE(bits & HEED_CPU_X86_64_V3);
  }
  if (bits & HEED_CPU_X86_64_V3) {
    EXPECT_TRUE(bits & HEED_CPU_X86_64_V2);
  }
  if (bits & (HEED_CPU_AVX512_BF16 | HEED_CPU_AMX_BF16)) {
    EXPECT_TRUE(bits & HEED_CPU_X86_64_V4);
  }
  // The compiler's runtime has an opinion too.
  if (!getenv("HEED_CPU")) {
    EXPECT_EQ(bool(bits & HEED_CPU_X86_64_V3), __builtin_cpu_supports("avx2") &&
                                                   __builtin_cpu_supports("fma") &&
                                                   __builtin_cpu_supports("bmi2"));
    EXPECT_EQ(bool(bits & HEED_CPU_X86_64_V4),
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"));
  }
#elif defined(__aarch64__)
  EXPECT_EQ(bits, uint64_t(HEED_CPU_AARCH64));
#endif
}

TEST(Cpu, EnvironmentMasksOff) {
  unsigned machine = featuresWith("HEED_CPU=");
  EXPECT_EQ(featuresWith("HEED_CPU=native"), machine);
  EXPECT_EQ(featuresWith("HEED_CPU=x86-64-v2"), machine & v2);
  EXPECT_EQ(featuresWith("HEED_CPU=x86-64-v3"), machine & v3);
  EXPECT_EQ(featuresWith("HEED_CPU=x86-64-v4"), machine & v4);
  EXPECT_EQ(featuresWith("HEED_CPU=x86-64-v4+bf16"), machine & (v4 | HEED_CPU_AVX512_BF16));
  EXPECT_EQ(featuresWith("HEED_CPU=x86-64-v4+amx"),
            machine & (v4 | HEED_CPU_AVX512_BF16 | HEED_CPU_AMX_BF16));
  EXPECT_EQ(featuresWith("HEED_CPU=aarch64"), machine & HEED_CPU_AARCH64);
}

TEST(Cpu, UnknownTextWarnsOnceAndIsIgnored) {
  std::string output = probeWith("HEED_CPU=pentium");
  const char *line = "heed: warning: HEED_CPU='pentium' is ignored; expected native, x86-64-v2, "
                     "x86-64-v3, x86-64-v4, x86-64-v4+bf16, x86-64-v4+amx or aarch64\n";
  size_t at = output.find(line);
  ASSERT_NE(at, std::string::npos) << output;
  EXPECT_EQ(output.find("warning", at + 20), std::string::npos);
  EXPECT_EQ(featuresWith("HEED_CPU=pentium"), featuresWith("HEED_CPU="));
}

TEST(Cpu, SelectionTakesTheFirstThatRuns) {
  unsigned machine = featuresWith("HEED_CPU=");
  if ((machine & v3) != v3)
    GTEST_SKIP() << "needs x86-64-v3";
  EXPECT_TRUE(contains(probeWith("HEED_CPU=x86-64-v3"), "code=v3"));
  EXPECT_TRUE(contains(probeWith("HEED_CPU=x86-64-v2"), "code=none"));
  if ((machine & v4) == v4) {
    EXPECT_TRUE(contains(probeWith("HEED_CPU=x86-64-v4"), "code=v4"));
  }
  if (machine & HEED_CPU_AVX512_BF16) {
    EXPECT_TRUE(contains(probeWith("HEED_CPU=x86-64-v4+bf16"), "code=bf16"));
  }
  if (machine & HEED_CPU_AMX_BF16) {
    EXPECT_TRUE(contains(probeWith("HEED_CPU=x86-64-v4+amx"), "code=amx"));
  }
}

TEST(Cpu, UnsupportedNamesBothSides) {
  if (featuresWith("HEED_CPU=x86-64-v2") != v2)
    GTEST_SKIP() << "needs x86-64";
  std::string output = probeWith("HEED_CPU=x86-64-v2");
  EXPECT_TRUE(contains(output, "HEED_UNSUPPORTED_CPU: kernel 'levels': expected a CPU of at least "
                               "v3, found x86-64-v2 (HEED_CPU=x86-64-v2)\n"))
      << output;
}

TEST(Cpu, SelectionOfNothing) {
  EXPECT_EQ(heed_select_code(nullptr), nullptr);
  heed_kernel kernel = kernelOf(0, 0);
  EXPECT_EQ(heed_select_code(&kernel), nullptr);
  kernel = kernelOf(0, 4);
  kernel.abi_version = HEED_ABI_VERSION + 1;
  EXPECT_EQ(heed_select_code(&kernel), nullptr);
}

TEST(NumThreads, Environment) {
  EXPECT_TRUE(contains(probeWith("HEED_NUM_THREADS=3"), "threads=3\n"));
  EXPECT_TRUE(contains(probeWith("HEED_NUM_THREADS=99999999"), "threads=1024\n"));
  std::string output = probeWith("HEED_NUM_THREADS=many");
  EXPECT_TRUE(contains(output, "heed: warning: HEED_NUM_THREADS='many' is ignored; expected a "
                               "number from 1 to 1024\n"))
      << output;
  EXPECT_TRUE(contains(probeWith("HEED_NUM_THREADS=0"), "warning"));
  EXPECT_TRUE(contains(probeWith("taskset -c 0"), "threads=1\n"));
}

TEST(NumThreads, Set) {
  int32_t before = heed_get_num_threads();
  EXPECT_GE(before, 1);
  heed_set_num_threads(7);
  EXPECT_EQ(heed_get_num_threads(), 7);
  heed_set_num_threads(0);
  EXPECT_EQ(heed_get_num_threads(), before);
}

} // namespace

int probe() {
  heed_kernel kernel = kernelOf(0, 4);
  const heed_code *code = heed_select_code(&kernel);
  printf("features=%u\ncode=%s\nthreads=%d\n", unsigned(heed_cpu_features()),
         code ? code->target : "none", int(heed_get_num_threads()));
  fake::Call call(1, 1, 1, 4, 16);
  heed_status status = heed_run(&kernel, &call.call);
  printf("%s: %s\n", heed_status_name(status), status ? heed_last_error() : "");
  return 0;
}
