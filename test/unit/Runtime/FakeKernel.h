//===-- FakeKernel.h - A hand-written kernel that records its calls ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_FAKEKERNEL_H
#define HEED_TEST_UNIT_RUNTIME_FAKEKERNEL_H

#include "heed-c/Runtime.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

namespace fake {

using Position = std::tuple<int64_t, int64_t, int64_t>;

/// What the fake entry points saw. Reset by every Call.
struct Record {
  std::mutex mutex;
  std::vector<int64_t> args;
  std::vector<Position> tiles;
  std::vector<std::pair<int64_t, int64_t>> prepares;
  std::vector<void *> scratches;
  int preparesAfterTiles = 0;
};

inline Record record;

inline void prepare(const int64_t *, int64_t batch, int64_t head) {
  std::lock_guard<std::mutex> lock(record.mutex);
  record.prepares.emplace_back(batch, head);
  record.preparesAfterTiles += !record.tiles.empty();
}

/// Writes something that depends on all of the tile's position and the keys, in floating point.
inline void tile(const int64_t *args, int64_t b, int64_t h, int64_t tile, void *scratch) {
  {
    std::lock_guard<std::mutex> lock(record.mutex);
    if (record.args.empty())
      record.args.assign(args, args + HEED_ARG_PARAMS + 16);
    record.tiles.emplace_back(b, h, tile);
    record.scratches.push_back(scratch);
  }
  float *output = reinterpret_cast<float *>(args[HEED_ARG_OUTPUT]);
  const int64_t *strides = args + HEED_ARG_OUTPUT_STRIDES;
  int64_t end = std::min<int64_t>(args[HEED_ARG_SQ], tile * 4 + 4);
  for (int64_t q = tile * 4; q < end; ++q)
    for (int64_t d = 0; d < 4; ++d)
      output[b * strides[0] + h * strides[1] + q * strides[2] + d] =
          std::sin(float(b + 1) * 0.7f + float(h) * 1.3f + float(q) * 0.1f + float(d));
}

/// Causal: later tiles take longer.
inline int64_t cost(const int64_t *, int64_t, int64_t, int64_t tile) { return tile + 1; }

/// One kernel with D = 8, Dv = 4, f32, blocks of 4 x 16, and a call with matching tensors.
struct Call {
  heed_code code = {"any", 0, 4, 16, 256, 0, nullptr, tile, nullptr, 0};
  heed_kernel kernel = {HEED_ABI_VERSION, 0, "fake",  HEED_F32, 8,      4, 1, nullptr, &code, 0,
                        nullptr,          0, nullptr, 0,        nullptr};
  std::vector<float> query, key, value, output, lse, maxScores;
  heed_call call = {};

  Call(int64_t B, int64_t Hq, int64_t Hkv, int64_t Sq, int64_t Skv)
      : query(B * Hq * Sq * 8), key(B * Hkv * Skv * 8), value(B * Hkv * Skv * 4),
        output(B * Hq * Sq * 4), lse(B * Hq * Sq), maxScores(B * Hq * Sq) {
    set(call.query, query, {B, Hq, Sq, 8});
    set(call.key, key, {B, Hkv, Skv, 8});
    set(call.value, value, {B, Hkv, Skv, 4});
    set(call.output, output, {B, Hq, Sq, 4});
    call.scale = NAN;
    clear();
  }

  void withLse() {
    const heed_tensor &q = call.query;
    set(call.lse, lse, {q.shape[0], q.shape[1], q.shape[2]});
  }

  void withMaxScores() {
    const heed_tensor &q = call.query;
    set(call.max_scores, maxScores, {q.shape[0], q.shape[1], q.shape[2]});
  }

  static void set(heed_tensor &tensor, std::vector<float> &data, std::vector<int64_t> shape) {
    tensor = heed_dense_tensor(data.data(), HEED_F32, int32_t(shape.size()), shape.data());
  }

  static void clear() {
    record.args.clear();
    record.tiles.clear();
    record.prepares.clear();
    record.scratches.clear();
    record.preparesAfterTiles = 0;
  }

  heed_status run() {
    clear();
    return heed_run(&kernel, &call);
  }
};

} // namespace fake

#endif // HEED_TEST_UNIT_RUNTIME_FAKEKERNEL_H
