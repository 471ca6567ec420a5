//===-- TensorMap.h - What the bulk copy engine is told ---------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_GPU_TENSORMAP_H
#define HEED_LIB_RUNTIME_GPU_TENSORMAP_H

#include "Driver.h"

namespace heed::runtime::cuda {

/// Why a tensor cannot be copied by the bulk copy engine.
struct Misfit {
  const char *expected; ///< NULL: it can be
  int64_t found;
  int32_t dim; ///< of a stride, or -1: the address
};

/// Whether tensor maps can describe `tensor`, whose elements take `size` bytes: addresses and
/// strides of 16 bytes, forwards only. Dimensions of extent 1 have no stride.
Misfit findMisfit(const heed_tensor &tensor, int size);

/// Encodes the maps of `code` for a call whose operands fit.
heed_status encodeMaps(const heed_kernel &kernel, const heed_gpu_code &code, const heed_call &call,
                       TensorMap *maps);

/// The operand that `map` names, or NULL.
const heed_tensor *operandOf(const heed_gpu_map &map, const heed_call &call);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_TENSORMAP_H
