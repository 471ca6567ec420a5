//===-- Packed.h - Calls whose parts lie apart ------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_PACKED_H
#define HEED_LIB_RUNTIME_PACKED_H

#include "Check.h"
#include "Error.h"

namespace heed::runtime {

/// The values of a kernel's parameters, of which those of captured tensors are indices in
/// `tensors`.
inline void unpackParams(const heed_kernel &kernel, const heed_value *params,
                         const heed_tensor *tensors, heed_value *values) {
  for (int32_t i = 0; i < kernel.num_params; ++i) {
    values[i] = params[i];
    if (kernel.params[i].rank >= 0)
      values[i].tensor = tensors + params[i].i;
  }
}

/// Values that fit where nothing is allocated.
constexpr int32_t maxParams = 128;

inline heed_status checkNumParams(const heed_kernel &kernel) {
  if (kernel.num_params <= maxParams)
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT, "kernel '%s': expected at most %d parameters, found %d",
              nameOf(kernel), int(maxParams), int(kernel.num_params));
}

/// Puts together what heed_run_packed and heed_launch_packed are given, and calls body(whole).
template <typename Body>
heed_status unpack(const heed_kernel *kernel, const heed_call *call, void *const *data,
                   const heed_value *params, const heed_tensor *tensors, Body body) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!call)
    return fail(HEED_INVALID_ARGUMENT, "argument 'call': expected a call, found NULL");
  if (heed_status status = checkNumParams(*kernel))
    return status;
  heed_value values[maxParams];
  unpackParams(*kernel, params, tensors, values);
  heed_call whole = *call;
  heed_tensor *operands[] = {&whole.query,  &whole.key, &whole.value,
                             &whole.output, &whole.lse, &whole.max_scores};
  for (heed_tensor *operand : operands)
    operand->data = *data++;
  whole.params = values;
  return body(whole);
}

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_PACKED_H
