//===-- Affinity.h - The CPUs that a thread may run on ----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_AFFINITY_H
#define HEED_LIB_RUNTIME_AFFINITY_H

#include <pthread.h>

namespace heed::runtime {

/// A set of CPUs. Larger than glibc's cpu_set_t, which fails on machines with more than 1024 CPUs.
struct CpuMask {
  unsigned long words[128];

  /// The CPUs of the calling thread; false where the system cannot say.
  bool readCurrent();
  int count() const;
  void remove(int cpu);
  bool operator==(const CpuMask &other) const;
  /// Moves `thread` to these CPUs. Best effort: only speed depends on it.
  void apply(pthread_t thread) const;
};

/// The CPU that the calling thread runs on, or -1.
int currentCpu();

/// How many CPUs the calling thread may run on, at least 1.
int countCpus();

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_AFFINITY_H
