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

/// The dimensions that tensor maps have at most.
constexpr int32_t maxMapRank = 5;

/// Whether tensor maps can describe `tensor`: addresses and strides of 16 bytes, forwards only, the
/// last dimension dense. Dimensions of extent 1 have no stride. Tensors without elements are never
/// read, and fit.
Misfit findMisfit(const heed_tensor &tensor);

/// Encodes the maps of `code` for a call whose operands fit.
heed_status encodeMaps(const heed_kernel &kernel, const heed_gpu_code &code, const heed_call &call,
                       TensorMap *maps);

/// The parameter whose captured tensor `map` names; negative: an operand.
inline int32_t capturedIndexOf(const heed_gpu_map &map) { return map.operand - HEED_ARG_PARAMS; }

/// The operand or the captured tensor that `map` names, or NULL.
const heed_tensor *operandOf(const heed_gpu_map &map, const heed_kernel &kernel,
                             const heed_call &call);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_TENSORMAP_H
