//===-- FakeCuda.h - A CUDA driver without a GPU ----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// A shared library that has the entry points of libcuda.so.1 that Heed uses, and the rules that
// matter: contexts and what belongs to them, memory and where it is, what a capture forbids, what
// tensor maps accept. Tests open it as well, tell it what to be, and look at what it was asked.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_FAKECUDA_H
#define HEED_TEST_UNIT_RUNTIME_FAKECUDA_H

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

struct CUctx_st {
  int device;
  unsigned long long id;
  bool isAlive = true;
  int retained = 0;
};

struct CUstream_st {
  CUctx_st *context;
  unsigned long long id;
  int capturing = 0;
};

struct CUmod_st;
struct CUfunc_st {
  CUmod_st *module;
  std::string name;
  int maxShared = 0;
};

struct CUmod_st {
  CUctx_st *context;
  std::string image;
  bool isAlive = true;
  std::vector<std::unique_ptr<CUfunc_st>> functions;
};

struct alignas(128) CUtensorMap_st {
  unsigned char opaque[128];
};

namespace fake {

struct Gpu {
  std::string name;
  int capability, sms, l2Bytes, sharedBytes;
};

enum Where { Pinned, PinnedElsewhere, OnDevice, Managed };

struct Range {
  const char *begin;
  size_t bytes;
  Where where;
  int device;
};

/// What a tensor map was made of.
struct Encoded {
  int type;
  uintptr_t address;
  std::vector<uint64_t> extents, strides;
  std::vector<uint32_t> box, elementStrides;
  int interleave, swizzle, l2Promotion, fill;
};

struct Launched {
  std::string function;
  CUctx_st *context;
  CUstream_st *stream;
  unsigned grid, block, shared;
  std::vector<Encoded> maps;
  std::vector<int64_t> args;
};

struct Signature {
  int numMaps, numWords;
};

struct Cuda {
  std::mutex mutex;
  std::vector<Gpu> gpus;
  int version = 13000;
  std::vector<std::unique_ptr<CUctx_st>> contexts;
  std::vector<CUctx_st *> primaries;
  std::vector<std::unique_ptr<CUstream_st>> streams;
  std::vector<std::unique_ptr<CUmod_st>> modules;
  std::vector<Range> ranges;
  std::vector<Encoded> encoded;
  std::vector<Launched> launches;
  std::map<std::string, Signature> signatures; ///< of kernels, by name
  std::map<uintptr_t, std::unique_ptr<char[]>> memory;
  size_t asyncAllocations = 0, asyncFrees = 0;
  std::string infoLog, errorLog; ///< what the compiler says
  int loadMilliseconds = 0;
  bool verboseJit = false; ///< the last one was asked to be
  int sticky = 0;          ///< what all calls in contexts return
  bool recordLaunches = true;

  /// Lets the next call of `function` return `result`.
  void failNext(const std::string &function, int result) {
    std::lock_guard<std::mutex> lock(mutex);
    failures[function].push_back(result);
    mayFail = true;
  }
  int callsOf(const std::string &function) {
    std::lock_guard<std::mutex> lock(mutex);
    return calls[function];
  }
  int totalCalls() {
    std::lock_guard<std::mutex> lock(mutex);
    int sum = 0;
    for (auto &[name, count] : calls)
      sum += count;
    return sum;
  }
  void clearRecords() {
    std::lock_guard<std::mutex> lock(mutex);
    launches.clear();
    calls.clear();
    asyncAllocations = asyncFrees = 0;
  }
  void add(const void *begin, size_t bytes, Where where, int device) {
    std::lock_guard<std::mutex> lock(mutex);
    remove(begin);
    ranges.push_back({static_cast<const char *>(begin), bytes, where, device});
  }
  void remove(const void *begin) {
    for (size_t i = 0; i < ranges.size(); ++i)
      if (ranges[i].begin == begin)
        ranges.erase(ranges.begin() + long(i--));
  }
  CUctx_st *makeContext(int device) {
    std::lock_guard<std::mutex> lock(mutex);
    contexts.push_back(std::make_unique<CUctx_st>(CUctx_st{device, ++lastId}));
    return contexts.back().get();
  }
  CUstream_st *makeStream(CUctx_st *context) {
    std::lock_guard<std::mutex> lock(mutex);
    streams.push_back(std::make_unique<CUstream_st>(CUstream_st{context, ++lastId}));
    return streams.back().get();
  }
  int liveModules() {
    std::lock_guard<std::mutex> lock(mutex);
    int count = 0;
    for (auto &module : modules)
      count += module->isAlive;
    return count;
  }

  std::map<std::string, int> calls;
  std::map<std::string, std::vector<int>> failures;
  std::atomic<bool> mayFail{false};
  unsigned long long lastId = 0;
};

} // namespace fake

extern "C" {
/// The library's state.
fake::Cuda *fakeCuda();
/// Makes `context` current in this thread, or nothing.
void fakeSetCurrent(CUctx_st *context);
CUctx_st *fakeGetCurrent();
}

#endif // HEED_TEST_UNIT_RUNTIME_FAKECUDA_H
