//===-- Wait.cpp - Spinning and sleeping on a word --------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Wait.h"

#include <pthread.h>
#include <time.h>

#if defined(__linux__) && !defined(HEED_PORTABLE_WAIT)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HEED_HAS_FUTEX 1
#endif

using namespace heed::runtime;

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "the kernel reads the plain word");

#if HEED_HAS_FUTEX

void heed::runtime::sleepWhileEqual(std::atomic<uint32_t> &word, uint32_t expected) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void heed::runtime::wakeSleepers(std::atomic<uint32_t> &word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

#else

// One lock for all words: sleepers are few and wake-ups rare.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

void heed::runtime::sleepWhileEqual(std::atomic<uint32_t> &word, uint32_t expected) {
  pthread_mutex_lock(&mutex);
  if (word.load() == expected)
    pthread_cond_wait(&condition, &mutex);
  pthread_mutex_unlock(&mutex);
}

void heed::runtime::wakeSleepers(std::atomic<uint32_t> &, int) {
  pthread_mutex_lock(&mutex);
  pthread_cond_broadcast(&condition);
  pthread_mutex_unlock(&mutex);
}

#endif

static int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

bool Spin::exhausted() {
  if (limit <= 0)
    return true;
  // Reading the clock costs as much as a few pauses, so it is read every 32 rounds only.
  if (rounds++ % 32 == 0) {
    int64_t time = now();
    if (deadline == 0)
      deadline = time + limit;
    else if (time >= deadline)
      return true;
  }
  relax();
  return false;
}
