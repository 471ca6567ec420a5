//===-- Place.cpp - Where a caller's data is ------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Place.h"
#include "../Error.h"

using namespace heed::runtime;
using namespace heed::runtime::cuda;

static DevicePtr toDevice(const void *pointer) {
  return DevicePtr(reinterpret_cast<uintptr_t>(pointer));
}

heed_status cuda::locate(const char *name, const void *pointer, Place &place) {
  unsigned memoryType = 0, isManaged = 0;
  int ordinal = -1;
  int attributes[] = {pointerMemoryType, pointerOrdinal, pointerIsManaged};
  void *values[] = {&memoryType, &ordinal, &isManaged};
  Result result = driver.pointerGetAttributes(3, attributes, values, toDevice(pointer));
  // How drivers say that they do not know the pointer: by an error, or by zeros.
  if (result == errorInvalidValue || result == errorInvalidContext)
    memoryType = isManaged = 0;
  else if (result)
    return failCall(result, "argument '%s': cannot find out where it is", name);
  place.ordinal = ordinal;
  place.kind = isManaged || memoryType == memoryUnified ? Place::Managed
               : memoryType == memoryDevice             ? Place::OnDevice
               : memoryType == memoryHost               ? Place::Pinned
                                                        : Place::Pageable;
  return HEED_OK;
}

/// Whether kernels of the current context see pinned host memory, and at its own address.
static bool isMapped(const void *pointer) {
  DevicePtr mapped = 0;
  int attribute = pointerDevicePointer;
  void *value = &mapped;
  return driver.pointerGetAttributes(1, &attribute, &value, toDevice(pointer)) == success &&
         mapped == toDevice(pointer);
}

heed_status cuda::checkPlace(const char *name, const void *pointer, const Place &place,
                             int32_t ordinal) {
  switch (place.kind) {
  case Place::Managed:
    return HEED_OK;
  case Place::OnDevice:
    if (place.ordinal == ordinal)
      return HEED_OK;
    return fail(HEED_INVALID_ARGUMENT, "argument '%s': expected memory on cuda:%d, found cuda:%d",
                name, int(ordinal), int(place.ordinal));
  case Place::Pinned:
    if (isMapped(pointer))
      return HEED_OK;
    break;
  case Place::Pageable:
    break;
  }
  return fail(HEED_INVALID_ARGUMENT, "argument '%s': expected memory on cuda:%d, found host memory",
              name, int(ordinal));
}

static bool isEmpty(const heed_tensor &tensor) {
  for (int32_t i = 0; i < tensor.rank; ++i)
    if (tensor.shape[i] == 0)
      return true;
  return false;
}

heed_status cuda::checkPlace(const char *name, const heed_tensor &tensor, int32_t ordinal) {
  if (!tensor.data || isEmpty(tensor))
    return HEED_OK;
  Place place;
  if (heed_status status = locate(name, tensor.data, place))
    return status;
  return checkPlace(name, tensor.data, place, ordinal);
}

heed_status cuda::checkParamPlaces(const heed_kernel &kernel, const heed_call &call,
                                   int32_t ordinal) {
  for (int32_t i = 0; i < kernel.num_params; ++i) {
    const heed_param &param = kernel.params[i];
    if (param.rank < 0)
      continue;
    if (heed_status status = checkPlace(param.name, *call.params[i].tensor, ordinal))
      return status;
  }
  return HEED_OK;
}
