//===-- Cpu.h - What this CPU can run ---------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_CPU_H
#define HEED_LIB_RUNTIME_CPU_H

#include <stddef.h>
#include <stdint.h>

namespace heed::runtime {

/// Writes the level that `features` (HEED_CPU_* bits) amounts to, in the spelling of HEED_CPU.
void describeCpu(uint64_t features, char *text, size_t size);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_CPU_H
