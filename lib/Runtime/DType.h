//===-- DType.h - Names and sizes of element types --------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_DTYPE_H
#define HEED_LIB_RUNTIME_DTYPE_H

#include "heed-c/Runtime.h"

namespace heed::runtime {

struct DType {
  const char *name;
  int size; ///< in bytes
};

/// The name and size of `dtype`; {nullptr, 0} for a number that is no heed_dtype.
constexpr DType describe(heed_dtype dtype) {
  constexpr DType types[] = {{"bool", 1}, {"i8", 1},   {"i32", 4}, {"i64", 8},
                             {"f16", 2},  {"bf16", 2}, {"f32", 4}};
  int index = int(dtype);
  return index >= 0 && index < 7 ? types[index] : DType{nullptr, 0};
}

constexpr bool isFloat(heed_dtype dtype) {
  return dtype == HEED_F16 || dtype == HEED_BF16 || dtype == HEED_F32;
}

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_DTYPE_H
