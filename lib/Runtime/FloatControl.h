//===-- FloatControl.h - The floating-point mode of a thread ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_FLOATCONTROL_H
#define HEED_LIB_RUNTIME_FLOATCONTROL_H

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace heed::runtime {

/// Rounding, and whether denormals are flushed. A host may change these for its thread (PyTorch has
/// a switch for it); workers follow the caller, or else the result would depend on which thread
/// computes a tile.
class FloatControl {
public:
  static FloatControl current() {
    FloatControl result;
#if defined(__x86_64__)
    result.bits = _mm_getcsr() & ~0x3fu; // without the sticky exception flags
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(result.bits));
#endif
    return result;
  }

  /// The mode for kernels: weights too small for a normal number become 0. Products with denormal
  /// numbers take a hundred times as long on many x86 cores, and steep biases make a lot of them;
  /// what is lost is less than 1e-37 of a weight. Inputs count as they are. AArch64 has no slow
  /// path.
  FloatControl flushingResults() const {
    FloatControl result = *this;
#if defined(__x86_64__)
    result.bits |= 0x8000;
#endif
    return result;
  }

  void apply() const {
#if defined(__x86_64__)
    _mm_setcsr(uint32_t(bits));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(bits));
#endif
  }

  bool operator==(const FloatControl &other) const { return bits == other.bits; }

private:
  uint64_t bits = 0;
};

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_FLOATCONTROL_H
