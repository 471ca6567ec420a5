//===-- Classify.h - The block lists of a mask ------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_CLASSIFY_H
#define HEED_LIB_RUNTIME_CLASSIFY_H

#include "Check.h"

namespace heed::runtime {

struct BlockShape {
  int32_t blockQ, blockKv;
  bool hangingIsPartial;
};

/// What a question says in the words of a call: `values` (one for each parameter) keeps what
/// `call.params` points to. Checks all of it but the number of threads.
heed_status readQuestion(const heed_kernel &kernel, const heed_mask_question *question,
                         const heed_tensor *tensors, heed_value *values, heed_call &call,
                         Problem &problem);

/// heed_classify for checked arguments, of which `args` is the block.
heed_status classifyBlocks(const heed_kernel &kernel, const heed_mask_code &code,
                           const Problem &problem, const BlockShape &shape, int32_t threads,
                           const int64_t *args, heed_block_runs **result);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_CLASSIFY_H
