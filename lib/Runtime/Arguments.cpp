//===-- Arguments.cpp - The argument block of compiled code -----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Arguments.h"
#include "DType.h"

#include <math.h>
#include <string.h>

using namespace heed::runtime;

int64_t heed::runtime::countArgumentWords(const heed_kernel &kernel) {
  int64_t words = HEED_ARG_PARAMS;
  for (int32_t i = 0; i < kernel.num_params; ++i)
    words += kernel.params[i].rank < 0 ? 1 : 1 + 2 * int64_t(kernel.params[i].rank);
  return words;
}

static int64_t pointerWord(const void *pointer) {
  return int64_t(reinterpret_cast<uintptr_t>(pointer));
}

/// The bits of an f32 in the low half, zero above.
static int64_t floatWord(double value) {
  float narrow = float(value);
  uint32_t bits;
  memcpy(&bits, &narrow, sizeof(bits));
  return int64_t(bits);
}

/// Batch, head and sequence strides. The stride of a batch of 1 is 0, whether it is broadcast or
/// the only one: frameworks leave arbitrary numbers there.
static void fillStrides(const heed_tensor &tensor, int64_t *words) {
  words[0] = tensor.shape[0] == 1 ? 0 : tensor.strides[0];
  words[1] = tensor.strides[1];
  words[2] = tensor.strides[2];
}

static int64_t scalarWord(const heed_param &param, const heed_value &value) {
  return isFloat(param.dtype) ? floatWord(value.f) : value.i;
}

void heed::runtime::fillArguments(const heed_kernel &kernel, const heed_call &call,
                                  const Problem &problem, int64_t *words) {
  memset(words, 0, HEED_ARG_PARAMS * sizeof(int64_t));
  words[HEED_ARG_QUERY] = pointerWord(call.query.data);
  words[HEED_ARG_KEY] = pointerWord(call.key.data);
  words[HEED_ARG_VALUE] = pointerWord(call.value.data);
  words[HEED_ARG_OUTPUT] = pointerWord(call.output.data);
  words[HEED_ARG_LSE] = pointerWord(call.lse.data);
  words[HEED_ARG_MAX_SCORES] = pointerWord(call.max_scores.data);
  words[HEED_ARG_B] = problem.batch;
  words[HEED_ARG_HQ] = problem.queryHeads;
  words[HEED_ARG_HKV] = problem.keyHeads;
  words[HEED_ARG_SQ] = problem.queryLength;
  words[HEED_ARG_SKV] = problem.keyLength;
  fillStrides(call.query, words + HEED_ARG_QUERY_STRIDES);
  fillStrides(call.key, words + HEED_ARG_KEY_STRIDES);
  fillStrides(call.value, words + HEED_ARG_VALUE_STRIDES);
  fillStrides(call.output, words + HEED_ARG_OUTPUT_STRIDES);
  if (call.lse.data)
    fillStrides(call.lse, words + HEED_ARG_LSE_STRIDES);
  if (call.max_scores.data)
    fillStrides(call.max_scores, words + HEED_ARG_MAX_SCORES_STRIDES);
  double scale = isnan(call.scale) ? 1.0 / sqrt(double(kernel.head_dim)) : call.scale;
  words[HEED_ARG_SCALE] = floatWord(scale);

  int64_t *next = words + HEED_ARG_PARAMS;
  for (int32_t i = 0; i < kernel.num_params; ++i) {
    const heed_param &param = kernel.params[i];
    const heed_value &value = call.params ? call.params[i] : param.default_value;
    if (param.rank < 0) {
      *next++ = scalarWord(param, value);
      continue;
    }
    const heed_tensor &tensor = *value.tensor;
    *next++ = pointerWord(tensor.data);
    for (int32_t d = 0; d < param.rank; ++d)
      *next++ = tensor.shape[d];
    for (int32_t d = 0; d < param.rank; ++d)
      *next++ = tensor.strides[d];
  }
}
