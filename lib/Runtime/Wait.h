//===-- Wait.h - Spinning and sleeping on a word ----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_WAIT_H
#define HEED_LIB_RUNTIME_WAIT_H

#include <atomic>
#include <stdint.h>

namespace heed::runtime {

/// Sleeps while `word` holds `expected`. May return early: callers check again.
void sleepWhileEqual(std::atomic<uint32_t> &word, uint32_t expected);

/// Wakes up to `count` threads that sleep on `word`.
void wakeSleepers(std::atomic<uint32_t> &word, int count);

/// A hint to the CPU that this is a spinning loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory"); // `yield` does nothing on most cores
#endif
}

/// Bounds a spinning loop by time: `while (!ready()) if (spin.exhausted()) break;`.
class Spin {
public:
  explicit Spin(int64_t nanoseconds) : limit(nanoseconds) {}
  bool exhausted();

private:
  int64_t limit, deadline = 0;
  uint32_t rounds = 0;
};

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_WAIT_H
