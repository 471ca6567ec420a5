//===-- Cpu.h - What this CPU can run ---------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_CPU_H
#define HEED_LIB_RUNTIME_CPU_H

#include "heed-c/Runtime.h"

#include <stddef.h>
#include <stdint.h>

namespace heed::runtime {

/// Writes the level that `features` (HEED_CPU_* bits) amounts to, in the spelling of HEED_CPU.
void describeCpu(uint64_t features, char *text, size_t size);

/// The first of some codes (heed_code, heed_mask_code) that this machine runs, or null.
template <typename Code>
const Code *selectCode(const Code *codes, int32_t count) {
  uint64_t available = heed_cpu_features();
  for (int32_t i = 0; i < count; ++i)
    if ((codes[i].cpu & ~available) == 0)
      return &codes[i];
  return nullptr;
}

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_CPU_H
