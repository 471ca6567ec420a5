//===-- Arguments.h - The argument block of compiled code -------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_ARGUMENTS_H
#define HEED_LIB_RUNTIME_ARGUMENTS_H

#include "Check.h"

namespace heed::runtime {

/// The words that the block of a call to `kernel` takes.
int64_t countArgumentWords(const heed_kernel &kernel);

/// Fills the block from a checked call. HEED_ARG_PACKED is left 0.
void fillArguments(const heed_kernel &kernel, const heed_call &call, const Problem &problem,
                   int64_t *words);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_ARGUMENTS_H
