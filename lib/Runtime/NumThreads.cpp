//===-- NumThreads.cpp - How many threads a call gets -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Affinity.h"
#include "Error.h"
#include "ThreadPool.h"

#include <atomic>
#include <pthread.h>
#include <stdlib.h>

using namespace heed::runtime;

static std::atomic<int32_t> chosen;
static int32_t fromEnvironment;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void readEnvironment() {
  const char *text = getenv("HEED_NUM_THREADS");
  if (!text || !*text)
    return;
  char *end;
  long value = strtol(text, &end, 10);
  if (*end || value < 1)
    return warn("HEED_NUM_THREADS='%s' is ignored; expected a number from 1 to %d", text,
                int(maxThreads));
  fromEnvironment = value < maxThreads ? int32_t(value) : maxThreads;
}

extern "C" void heed_set_num_threads(int32_t n) {
  chosen.store(n < 1 ? 0 : n < maxThreads ? n : maxThreads, std::memory_order_relaxed);
}

extern "C" int32_t heed_get_num_threads(void) {
  if (int32_t n = chosen.load(std::memory_order_relaxed))
    return n;
  pthread_once(&once, readEnvironment);
  if (fromEnvironment)
    return fromEnvironment;
  // Asked anew each time: a container or the host may change the mask while the process runs.
  int cpus = countCpus();
  return cpus < maxThreads ? cpus : maxThreads;
}
