//===-- Affinity.cpp - The CPUs that a thread may run on --------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Affinity.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

using namespace heed::runtime;

bool CpuMask::readCurrent() {
  memset(words, 0, sizeof(words));
#if defined(__linux__)
  return sched_getaffinity(0, sizeof(words), reinterpret_cast<cpu_set_t *>(words)) == 0;
#else
  return false;
#endif
}

int CpuMask::count() const {
  int result = 0;
  for (unsigned long word : words)
    result += __builtin_popcountl(word);
  return result;
}

void CpuMask::remove(int cpu) {
  constexpr int bits = 8 * sizeof(unsigned long);
  if (cpu >= 0 && cpu < int(8 * sizeof(words)))
    words[cpu / bits] &= ~(1ul << (cpu % bits));
}

bool CpuMask::operator==(const CpuMask &other) const {
  return memcmp(words, other.words, sizeof(words)) == 0;
}

void CpuMask::apply(pthread_t thread) const {
#if defined(__linux__)
  pthread_setaffinity_np(thread, sizeof(words), reinterpret_cast<const cpu_set_t *>(words));
#else
  (void)thread;
#endif
}

int heed::runtime::currentCpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

int heed::runtime::countCpus() {
  CpuMask mask;
  if (mask.readCurrent())
    return mask.count();
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? int(online) : 1;
}
