//===-- ThreadPool.h - Threads that share the tasks of one call ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_THREADPOOL_H
#define HEED_LIB_RUNTIME_THREADPOOL_H

#include "heed-c/Runtime.h"

namespace heed::runtime {

/// More threads than any call gets.
constexpr int32_t maxThreads = 1024;

/// Runs `fn` for all tasks on what heed_set_parallel_for set, or heed_parallel_for. A single thread
/// needs no pool, neither ours nor the host's.
void runTasks(int64_t numTasks, int32_t numThreads, heed_task_fn fn, void *context);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_THREADPOOL_H
