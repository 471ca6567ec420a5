//===-- Place.h - Where a caller's data is --------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_GPU_PLACE_H
#define HEED_LIB_RUNTIME_GPU_PLACE_H

#include "Context.h"

namespace heed::runtime::cuda {

struct Place {
  enum Kind { Pageable, Pinned, OnDevice, Managed } kind;
  int32_t ordinal; ///< of the device, where it is on one
};

/// Where an address points to. `name` is the argument's, for messages.
heed_status locate(const char *name, const void *pointer, Place &place);

/// Whether kernels on device `ordinal`, whose context is current, can read what is there.
heed_status checkPlace(const char *name, const void *pointer, const Place &place, int32_t ordinal);
heed_status checkPlace(const char *name, const heed_tensor &tensor, int32_t ordinal);

/// The same for all captured tensors of a call.
heed_status checkParamPlaces(const heed_kernel &kernel, const heed_call &call, int32_t ordinal);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_PLACE_H
