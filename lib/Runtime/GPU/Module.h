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

struct Loaded {
  Function main;
  Function classify; ///< or NULL
};

/// The entry points of `code` in the current context. Loads them on the first call; calls from
/// several threads load once.
heed_status loadCode(const heed_kernel &kernel, const heed_gpu_code &code, ContextState &context,
                     Loaded &loaded);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_MODULE_H
