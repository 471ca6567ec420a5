//===-- TensorMap.cpp - What the bulk copy engine is told -------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "TensorMap.h"
#include "../Check.h"
#include "../DType.h"
#include "../Error.h"

#include <string.h>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

static constexpr int64_t alignment = 16;
static constexpr int64_t maxStrideBytes = (int64_t(1) << 40) - 1;

static bool hasElements(const heed_tensor &tensor) {
  for (int32_t i = 0; i < tensor.rank; ++i)
    if (tensor.shape[i] == 0)
      return false;
  return true;
}

/// The extent in the map: a broadcast dimension is read at 0 only.
static int64_t mappedExtent(const heed_tensor &tensor, int32_t dim) {
  return tensor.strides[dim] == 0 ? 1 : tensor.shape[dim];
}

// Extents of operands were checked to be below 2^31.
Misfit cuda::findMisfit(const heed_tensor &tensor) {
  if (!hasElements(tensor))
    return {};
  int64_t size = describe(tensor.dtype).size;
  if (reinterpret_cast<uintptr_t>(tensor.data) % alignment != 0)
    return {"an address that is a multiple of 16",
            int64_t(reinterpret_cast<uintptr_t>(tensor.data) % alignment), -1};
  int32_t last = tensor.rank - 1;
  for (int32_t i = 0; i <= last; ++i)
    if (mappedExtent(tensor, i) > int64_t(UINT32_MAX))
      return {"an extent below 2^32", tensor.shape[i], i};
  if (tensor.shape[last] != 1 && tensor.strides[last] != 1)
    return {"a stride of 1", tensor.strides[last], last};
  for (int32_t i = 0; i < last; ++i) {
    if (tensor.shape[i] == 1)
      continue;
    int64_t stride = tensor.strides[i];
    if (stride < 0)
      return {"a stride of at least 0", stride, i};
    // A box has several rows, which cannot all be row 0.
    if (stride == 0 && i == last - 1)
      return {"a stride other than 0", stride, i};
    if (stride > maxStrideBytes / size)
      return {"a stride below 2^40 bytes", stride, i};
    if (stride * size % alignment != 0)
      return {"a stride that is a multiple of 16 bytes", stride, i};
  }
  return {};
}

const heed_tensor *cuda::operandOf(const heed_gpu_map &map, const heed_kernel &kernel,
                                   const heed_call &call) {
  switch (map.operand) {
  case HEED_ARG_QUERY:
    return &call.query;
  case HEED_ARG_KEY:
    return &call.key;
  case HEED_ARG_VALUE:
    return &call.value;
  case HEED_ARG_OUTPUT:
    return &call.output;
  }
  int32_t param = capturedIndexOf(map);
  if (param < 0 || param >= kernel.num_params || kernel.params[param].rank < 2 ||
      kernel.params[param].rank > maxMapRank || !call.params)
    return nullptr;
  return call.params[param].tensor;
}

/// CU_TENSOR_MAP_DATA_TYPE_*
static int mapType(heed_dtype dtype) {
  switch (dtype) {
  case HEED_BOOL:
  case HEED_I8:
    return 0;
  case HEED_I32:
    return 3;
  case HEED_I64:
    return 5;
  case HEED_F16:
    return 6;
  case HEED_F32:
    return 7;
  case HEED_BF16:
    return 9;
  }
  return 7;
}

/// CU_TENSOR_MAP_SWIZZLE_* for rows of so many bytes.
static int swizzleOf(int64_t rowBytes) {
  return rowBytes == 128 ? 3 : rowBytes == 64 ? 2 : rowBytes == 32 ? 1 : 0;
}

namespace {
/// All that a map is made of, without padding.
struct MapKey {
  uint64_t address, extents[maxMapRank], strides[maxMapRank - 1], box, dtype;
};
struct CachedMap {
  MapKey key; // of address 0: none
  TensorMap map;
  uint64_t lastUse;
};

/// The maps that a thread encoded last. A set holds those of a call's operands, should they all
/// fall into it.
struct MapCache {
  static constexpr unsigned numSets = 8, numWays = 4;
  CachedMap sets[numSets][numWays];
  uint64_t numUses;

  /// Whether the cache holds `key`; `entry` does, or is the one to put it into.
  bool find(const MapKey &key, CachedMap *&entry) {
    uint64_t mixed = (key.address >> 8) * 0x9e3779b97f4a7c15u ^ key.box * 0xc2b2ae3d27d4eb4fu;
    CachedMap *set = sets[(mixed >> 32) % numSets];
    entry = set;
    bool isFound = false;
    for (unsigned way = 0; way < numWays && !isFound; ++way) {
      isFound = memcmp(&set[way].key, &key, sizeof(key)) == 0;
      if (isFound || set[way].lastUse < entry->lastUse)
        entry = &set[way];
    }
    entry->lastUse = ++numUses;
    return isFound;
  }
};
} // namespace

static thread_local MapCache mapsOfThread;

static Result encode(const heed_tensor &tensor, const heed_gpu_map &map, void *elsewhere,
                     TensorMap &encoded) {
  constexpr int interleaveNone = 0, l2Promotion256B = 3, fillZeros = 0;
  int64_t size = describe(tensor.dtype).size;
  int32_t rank = tensor.rank, last = rank - 1;
  // Any legal stride for dimensions that have none.
  int64_t rowBytes = (tensor.shape[last] * size + alignment - 1) / alignment * alignment;
  MapKey key = {};
  key.extents[0] = uint64_t(tensor.shape[last]);
  for (int32_t i = 0; i < last; ++i) {
    key.extents[1 + i] = 1;
    key.strides[i] = uint64_t(rowBytes);
  }
  void *address = tensor.data;
  if (!hasElements(tensor)) {
    // No keys: there are no empty maps, and nothing is read through this one.
    address = elsewhere;
  } else {
    for (int32_t i = 0; i < last; ++i) {
      int64_t extent = mappedExtent(tensor, last - 1 - i);
      key.extents[1 + i] = uint64_t(extent);
      if (extent != 1)
        key.strides[i] = uint64_t(tensor.strides[last - 1 - i] * size);
    }
  }
  key.address = uint64_t(reinterpret_cast<uintptr_t>(address));
  key.box = uint64_t(map.box_columns) << 32 | uint64_t(map.box_rows);
  key.dtype = uint64_t(tensor.dtype) << 8 | uint64_t(rank);
  // A thread that calls a kernel again often has the same tensors: encoding costs more than finding
  // out.
  CachedMap *cached;
  if (mapsOfThread.find(key, cached)) {
    encoded = cached->map;
    return success;
  }
  uint32_t box[maxMapRank] = {uint32_t(map.box_columns), uint32_t(map.box_rows), 1, 1, 1};
  uint32_t elementStrides[maxMapRank] = {1, 1, 1, 1, 1};
  Result result =
      driver.tensorMapEncodeTiled(&encoded, mapType(tensor.dtype), unsigned(rank), address,
                                  key.extents, key.strides, box, elementStrides, interleaveNone,
                                  swizzleOf(map.box_columns * size), l2Promotion256B, fillZeros);
  if (result == success) {
    cached->key = key;
    cached->map = encoded;
  }
  return result;
}

heed_status cuda::encodeMaps(const heed_kernel &kernel, const heed_gpu_code &code,
                             const heed_call &call, TensorMap *maps) {
  if (code.num_maps > 0 && !driver.tensorMapEncodeTiled)
    return fail(
        HEED_UNSUPPORTED_GPU,
        "kernel '%s': expected a driver for CUDA 12.0 or later, found one for CUDA %s; update "
        "the NVIDIA driver",
        nameOf(kernel), driverVersion().text);
  for (int32_t i = 0; i < code.num_maps; ++i) {
    const heed_gpu_map &map = code.maps[i];
    if (Result result = encode(*operandOf(map, kernel, call), map, call.query.data, maps[i]))
      return failCall(result, "kernel '%s': cannot encode tensor map %d of boxes of %d x %d",
                      nameOf(kernel), int(i), int(map.box_rows), int(map.box_columns));
  }
  return HEED_OK;
}
