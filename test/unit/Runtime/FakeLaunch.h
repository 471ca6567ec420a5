//===-- FakeLaunch.h - A kernel with GPU code, and calls of it --*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_FAKELAUNCH_H
#define HEED_TEST_UNIT_RUNTIME_FAKELAUNCH_H

#include "FakeCuda.h"
#include "heed-c/Runtime.h"

#include <cmath>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <vector>

namespace fake {

/// The library that HEED_CUDA_DRIVER names; NULL where that is no fake one.
template <typename Fn>
Fn cudaFunction(const char *name) {
  const char *path = getenv("HEED_CUDA_DRIVER");
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  return library ? reinterpret_cast<Fn>(dlsym(library, name)) : nullptr;
}

inline Cuda &cuda() {
  static Cuda *state = cudaFunction<Cuda *(*)()>("fakeCuda")();
  return *state;
}

inline void setCurrent(CUctx_st *context) {
  static auto *set = cudaFunction<void (*)(CUctx_st *)>("fakeSetCurrent");
  set(context);
}

inline CUctx_st *getCurrent() {
  static auto *get = cudaFunction<CUctx_st *(*)()>("fakeGetCurrent");
  return get();
}

/// Memory of a device, or elsewhere; aligned.
class Memory {
public:
  explicit Memory(size_t bytes, Where where = OnDevice, int device = 0)
      : storage(bytes + 512), begin(storage.data()) {
    begin += 256 - reinterpret_cast<uintptr_t>(begin) % 256;
    size = bytes ? bytes : 1;
    move(where, device);
  }
  ~Memory() { toHost(); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  void move(Where where, int device) { cuda().add(begin, size, where, device); }
  void toHost() { cuda().remove(begin); }
  char *data() const { return begin; }

private:
  std::vector<char> storage;
  char *begin;
  size_t size;
};

/// Code for 9.0 only, and for any from 8.0 on. `ptx` stays where it is.
inline heed_gpu_module moduleFor90(const std::string &ptx) {
  return {"sm_90a", 90, 1, ptx.c_str(), nullptr, int64_t(ptx.size()), 0};
}
inline heed_gpu_module moduleFrom80(const std::string &ptx) {
  return {"sm_80", 80, 0, ptx.c_str(), nullptr, int64_t(ptx.size()), 0};
}

/// One bf16 kernel with D = 64, Dv = 32 and two codes: aligned ones with tensor maps for 9.0 only,
/// and any from 8.0 on.
struct Launch {
  std::vector<heed_gpu_map> maps = {{HEED_ARG_QUERY, 128, 64},
                                    {HEED_ARG_KEY, 64, 64},
                                    {HEED_ARG_VALUE, 64, 32},
                                    {HEED_ARG_OUTPUT, 64, 16}};
  std::string ptx = ".version 8.7\n.target sm_90a\n.entry attend(\n.entry attend_classify(\n.entry "
                    "attend_summarise(";
  std::string plainPtx = ".version 7.0\n.target sm_80\n.entry attend(\n.entry "
                         "attend_classify(\n.entry attend_summarise(";
  std::vector<heed_gpu_code> codes;
  std::vector<heed_param> params;
  std::vector<heed_value> values;
  heed_kernel kernel = {};
  heed_call call = {};
  Memory query, key, value, output, lse, maxScores;
  CUstream_st *stream = nullptr;

  Launch(int64_t B = 2, int64_t Hq = 4, int64_t Hkv = 2, int64_t Sq = 300, int64_t Skv = 200)
      : query(size_t(B * Hq * Sq * 64 * 2)), key(size_t(B * Hkv * Skv * 64 * 2)),
        value(size_t(B * Hkv * Skv * 32 * 2)), output(size_t(B * Hq * Sq * 32 * 2)),
        lse(size_t(B * Hq * Sq * 4)), maxScores(size_t(B * Hq * Sq * 4)) {
    heed_gpu_code code = {};
    code.module = moduleFor90(ptx);
    code.entry = "attend";
    code.block_q = 128;
    code.block_kv = 64;
    code.num_threads = 384;
    code.shared_bytes = 200000;
    code.blocks_per_tile = 1;
    code.needs_aligned = 1;
    code.num_maps = 4;
    code.maps = maps.data();
    codes.push_back(code);
    code.module = moduleFrom80(plainPtx);
    code.block_q = 64;
    code.num_threads = 128;
    code.shared_bytes = 90000;
    code.needs_aligned = 0;
    code.num_maps = 0;
    codes.push_back(code);
    kernel.abi_version = HEED_ABI_VERSION;
    kernel.name = "fake";
    kernel.dtype = HEED_BF16;
    kernel.head_dim = 64;
    kernel.value_head_dim = 32;
    kernel.num_gpu_codes = 2;
    kernel.gpu_codes = codes.data();
    call.query = tensor(query.data(), HEED_BF16, {B, Hq, Sq, 64});
    call.key = tensor(key.data(), HEED_BF16, {B, Hkv, Skv, 64});
    call.value = tensor(value.data(), HEED_BF16, {B, Hkv, Skv, 32});
    call.output = tensor(output.data(), HEED_BF16, {B, Hq, Sq, 32});
    call.scale = NAN;
    cuda().clearRecords();
  }

  /// What was loaded would else be found by the next kernel at the same address.
  ~Launch() { heed_gpu_unload(&kernel); }

  static heed_tensor tensor(void *data, heed_dtype dtype, std::vector<int64_t> shape) {
    return heed_dense_tensor(data, dtype, int32_t(shape.size()), shape.data());
  }

  void withRowNumbers() {
    const int64_t *shape = call.query.shape;
    call.lse = tensor(lse.data(), HEED_F32, {shape[0], shape[1], shape[2]});
    call.max_scores = tensor(maxScores.data(), HEED_F32, {shape[0], shape[1], shape[2]});
  }

  /// Block lists before the first code, made by 96 threads each.
  void withLists(int perBatch, int perHead) {
    codes[0].classify = "attend_classify";
    codes[0].classify_threads = 96;
    codes[0].lists_per_batch = perBatch;
    codes[0].lists_per_head = perHead;
  }

  /// The same, and three words of each block of keys before them.
  void withSummaries(int perBatch, int perHead) {
    withLists(perBatch, perHead);
    codes[0].summarise = "attend_summarise";
    codes[0].summarise_threads = 64;
    codes[0].summary_words = 3;
    codes[0].summaries_per_batch = perBatch;
    codes[0].summaries_per_head = perHead;
  }

  /// Leaves the code without needs only.
  heed_gpu_code &plain() {
    codes.erase(codes.begin());
    kernel.num_gpu_codes = 1;
    kernel.gpu_codes = codes.data();
    return codes[0];
  }

  int numWords() const {
    int words = HEED_ARG_PARAMS;
    for (const heed_param &param : params)
      words += param.rank < 0 ? 1 : 1 + 2 * param.rank;
    return words;
  }

  heed_status run() {
    kernel.params = params.data();
    kernel.num_params = int32_t(params.size());
    call.params = values.empty() ? nullptr : values.data();
    for (const heed_gpu_code &code : codes)
      for (const char *entry : {code.entry, code.classify, code.summarise})
        if (entry)
          cuda().signatures[entry] = {code.num_maps, numWords()};
    // Which code was chosen is seen by its maps.
    if (codes.size() == 2)
      cuda().signatures["attend"].numMaps = expectsPlain ? 0 : 4;
    return heed_launch(&kernel, &call, stream);
  }

  bool expectsPlain = false;
};

} // namespace fake

#endif // HEED_TEST_UNIT_RUNTIME_FAKELAUNCH_H
