//===-- Check.h - Checking what a caller passes -----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_CHECK_H
#define HEED_LIB_RUNTIME_CHECK_H

#include "heed-c/Runtime.h"

namespace heed::runtime {

/// The extents that a call's query and key define.
struct Problem {
  int64_t batch, queryHeads, keyHeads, queryLength, keyLength;

  /// No output element, hence nothing to do.
  bool isEmpty() const { return batch == 0 || queryHeads == 0 || queryLength == 0; }
};

/// How messages call a kernel.
inline const char *nameOf(const heed_kernel &kernel) { return kernel.name ? kernel.name : "?"; }

/// Checks the kernel's own description, so that a damaged object is reported and not executed.
heed_status checkKernel(const heed_kernel *kernel);

/// Checks query, key, value, output and lse, and fills `problem`.
heed_status checkTensors(const heed_kernel &kernel, const heed_call &call, Problem &problem);

/// Checks the variant's parameters.
heed_status checkParams(const heed_kernel &kernel, const heed_call &call, const Problem &problem);

/// Checks the scale.
heed_status checkScale(const heed_call &call);

/// Checks what is left: the scale and the number of threads.
heed_status checkSettings(const heed_call &call);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_CHECK_H
