//===-- Cpu.cpp - What this CPU can run -------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Cpu.h"
#include "Error.h"
#include "heed-c/Runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

using namespace heed::runtime;

//===----------------------------------------------------------------------===//
// Detection
//===----------------------------------------------------------------------===//

#if defined(__x86_64__)

namespace {
struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
} // namespace

/// All zero where the CPU has no such leaf.
static Leaf readLeaf(unsigned leaf, unsigned subleaf) {
  Leaf result;
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx);
  return result;
}

static bool hasAll(uint64_t word, uint64_t bits) { return (word & bits) == bits; }

static constexpr uint64_t bit(int n) { return uint64_t(1) << n; }

/// The register states that the operating system saves: instructions whose state it does not save
/// fault.
static uint64_t savedStates(const Leaf &one) {
  if (!hasAll(one.ecx, bit(27))) // OSXSAVE
    return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

/// Linux gives a process the 8 KiB tile state only when asked. The grant holds for all threads.
static bool requestAmx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long archReqXcompPerm = 0x1023, xtileData = 18;
  return syscall(SYS_arch_prctl, archReqXcompPerm, xtileData) == 0;
#else
  return false;
#endif
}

static uint64_t detect() {
  Leaf one = readLeaf(1, 0), seven = readLeaf(7, 0), sevenOne = readLeaf(7, 1);
  Leaf extended = readLeaf(0x80000001u, 0);
  uint64_t states = savedStates(one);
  uint64_t features = 0;

  // SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT; LAHF
  if (!hasAll(one.ecx, bit(0) | bit(9) | bit(13) | bit(19) | bit(20) | bit(23)) ||
      !hasAll(extended.ecx, bit(0)))
    return features;
  features |= HEED_CPU_X86_64_V2;

  // FMA, MOVBE, AVX, F16C; LZCNT; BMI1, AVX2, BMI2; the XMM and YMM states
  if (!hasAll(one.ecx, bit(12) | bit(22) | bit(28) | bit(29)) || !hasAll(extended.ecx, bit(5)) ||
      !hasAll(seven.ebx, bit(3) | bit(5) | bit(8)) || !hasAll(states, bit(1) | bit(2)))
    return features;
  features |= HEED_CPU_X86_64_V3;

  // AVX512 F, DQ, CD, BW, VL; the mask and ZMM states
  if (!hasAll(seven.ebx, bit(16) | bit(17) | bit(28) | bit(30) | bit(31)) ||
      !hasAll(states, bit(5) | bit(6) | bit(7)))
    return features;
  features |= HEED_CPU_X86_64_V4;

  if (hasAll(sevenOne.eax, bit(5)))
    features |= HEED_CPU_AVX512_BF16;
  // AMX-BF16, AMX-TILE; the tile configuration and tile data states
  if (hasAll(seven.edx, bit(22) | bit(24)) && hasAll(states, bit(17) | bit(18)))
    features |= HEED_CPU_AMX_BF16;
  return features;
}

#else

static uint64_t detect() {
#if defined(__aarch64__)
  return HEED_CPU_AARCH64;
#else
  return 0;
#endif
}

static bool requestAmx() { return false; }

#endif

//===----------------------------------------------------------------------===//
// HEED_CPU
//===----------------------------------------------------------------------===//

namespace {
struct Level {
  const char *name;
  uint64_t features;
};
} // namespace

static constexpr uint64_t v2 = HEED_CPU_X86_64_V2, v3 = v2 | HEED_CPU_X86_64_V3,
                          v4 = v3 | HEED_CPU_X86_64_V4;

// Every CPU with AMX-BF16 has AVX512-BF16 too, so that "+amx" is the rung above "+bf16".
static constexpr Level levels[] = {
    {"x86-64-v4+amx", v4 | HEED_CPU_AVX512_BF16 | HEED_CPU_AMX_BF16},
    {"x86-64-v4+bf16+amx", v4 | HEED_CPU_AVX512_BF16 | HEED_CPU_AMX_BF16},
    {"x86-64-v4+bf16", v4 | HEED_CPU_AVX512_BF16},
    {"x86-64-v4", v4},
    {"x86-64-v3", v3},
    {"x86-64-v2", v2},
    {"aarch64", HEED_CPU_AARCH64},
};

void heed::runtime::describeCpu(uint64_t features, char *text, size_t size) {
  const char *name = "a baseline CPU";
  for (const Level &level : levels)
    if ((features & level.features) == level.features) {
      name = level.name;
      break;
    }
  size_t length = strlen(name);
  if (length >= size)
    length = size - 1;
  memcpy(text, name, length);
  text[length] = 0;
}

/// The features that HEED_CPU leaves on. It can take away and never add: what the CPU lacks would
/// fault.
static uint64_t allowedByEnvironment() {
  const char *text = getenv("HEED_CPU");
  if (!text || !*text || strcmp(text, "native") == 0)
    return ~uint64_t(0);
  for (const Level &level : levels)
    if (strcmp(text, level.name) == 0)
      return level.features;
  warn(
      "HEED_CPU='%s' is ignored; expected native, x86-64-v2, x86-64-v3, x86-64-v4, x86-64-v4+bf16, "
      "x86-64-v4+amx or aarch64",
      text);
  return ~uint64_t(0);
}

static uint64_t features;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void initialize() {
  uint64_t found = detect() & allowedByEnvironment();
  // The permission has a price (signal frames grow), so a process that masks AMX off does not ask
  // for it.
  if ((found & HEED_CPU_AMX_BF16) && !requestAmx())
    found &= ~uint64_t(HEED_CPU_AMX_BF16);
  features = found;
}

extern "C" uint64_t heed_cpu_features(void) {
  pthread_once(&once, initialize);
  return features;
}

extern "C" const heed_code *heed_select_code(const heed_kernel *kernel) {
  if (!kernel || kernel->abi_version != HEED_ABI_VERSION || !kernel->codes)
    return nullptr;
  return selectCode(kernel->codes, kernel->num_codes);
}
