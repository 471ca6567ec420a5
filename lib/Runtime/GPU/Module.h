//===-- Module.h - Loading GPU code -----------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_GPU_MODULE_H
#define HEED_LIB_RUNTIME_GPU_MODULE_H

#include "Context.h"

namespace heed::runtime::cuda {

/// What all devices accept as parameters of a kernel.
constexpr int64_t maxParameterBytes = 4096;

constexpr int maxEntries = 3;

/// What is asked of a module: entry points, of which a NULL ends the list early.
struct Entries {
  const char *names[maxEntries];
  int32_t sharedBytes; ///< of the first
};

/// The functions of Entries, in order.
struct Loaded {
  Function functions[maxEntries];
};

/// The entry points of a module of `kernel` in the current context; always the same ones are asked
/// for. Loads them on the first call; calls from several threads load once.
heed_status loadModule(const heed_kernel &kernel, const heed_gpu_module &module,
                       const Entries &entries, ContextState &context, Loaded &loaded);

/// Whether a device has the compute capability that a module needs.
bool hasCapability(const heed_gpu_module &module, const Device &device);

/// Reports what a launch on a device returned.
heed_status launchFailed(const heed_kernel &kernel, const Device &device, Result result);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_MODULE_H
