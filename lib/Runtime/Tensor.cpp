//===-- Tensor.cpp - Describing dense tensors -------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed-c/Runtime.h"

extern "C" heed_tensor heed_dense_tensor(void *data, heed_dtype dtype, int32_t rank,
                                         const int64_t *shape) {
  heed_tensor result = {};
  result.data = data;
  result.dtype = dtype;
  result.rank = rank;
  // heed_run names a rank that is out of range; here is nobody to tell.
  if (rank < 0 || rank > HEED_MAX_RANK)
    return result;
  uint64_t stride = 1; // unsigned: an absurd shape may wrap, and is rejected later
  for (int32_t i = rank - 1; i >= 0; --i) {
    result.shape[i] = shape[i];
    result.strides[i] = int64_t(stride);
    stride *= uint64_t(shape[i]);
  }
  return result;
}
