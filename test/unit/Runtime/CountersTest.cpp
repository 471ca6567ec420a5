//===-- CountersTest.cpp - Every stream has its own counters ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <deque>
#include <gtest/gtest.h>
#include <mutex>
#include <set>
#include <thread>

namespace {

using fake::cuda;
using fake::expectError;
using fake::Launch;
using fake::Launched;
using Gpu = fake::GpuTest;

const int32_t *countersOf(const Launched &launched) {
  return reinterpret_cast<const int32_t *>(launched.args[HEED_ARG_COUNTER]);
}

/// However many launches other streams see while a kernel runs, none touches its counters.
TEST_F(Gpu, StreamsHaveTheirOwnCounters) {
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  CUctx_st *context = cuda().primaries[0];
  auto countersOn = [&](CUstream_st *stream) {
    c.stream = stream;
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    const int32_t *counters = countersOf(cuda().launches.back());
    EXPECT_TRUE(counters[0] == 0 && counters[1] == 0);
    return counters;
  };
  std::set<const void *> distinct = {countersOn(nullptr)};
  for (int i = 0; i < 100; ++i)
    distinct.insert(countersOn(cuda().makeStream(context)));
  EXPECT_EQ(distinct.size(), 101u);
  CUstream_st *longRunning = cuda().makeStream(context), *busy = cuda().makeStream(context);
  const int32_t *own = countersOn(longRunning);
  for (int i = 0; i < 3000; ++i)
    ASSERT_NE(countersOn(busy), own);
  EXPECT_EQ(countersOn(longRunning), own);
  EXPECT_LE(cuda().callsOf("cuMemAlloc_v2"), 1);
  // Another stream at the address of one that was destroyed.
  busy->id += 1000;
  distinct.insert(countersOn(busy));
  EXPECT_EQ(distinct.size(), 102u);
}

/// Drivers before 12.0: the handle tells streams apart.
TEST_F(Gpu, CountersWithoutIds) {
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  std::set<const void *> distinct;
  for (int i = 0; i < 8; ++i) {
    c.stream = cuda().makeStream(cuda().primaries[0]);
    for (int j = 0; j < 2; ++j) {
      cuda().failNext("cuStreamGetId", 1);
      ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
      distinct.insert(countersOf(cuda().launches.back()));
    }
  }
  EXPECT_EQ(distinct.size(), 8u);
}

/// More streams than there are counters: each still gets some, and none that were used of late.
TEST_F(Gpu, ManyStreams) {
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  CUstream_st *stream = cuda().makeStream(cuda().primaries[0]);
  stream->id += 1 << 20; // behind all others
  CUstream_st *longRunning = cuda().makeStream(cuda().primaries[0]);
  auto countersOn = [&](CUstream_st *stream) {
    c.stream = stream;
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    return countersOf(cuda().launches.back());
  };
  std::set<const void *> distinct;
  const int32_t *own = nullptr;
  for (int i = 0; i < 150000; ++i) {
    if (i % 10000 == 0) {
      ASSERT_TRUE(!own || countersOn(longRunning) == own) << i;
      own = countersOn(longRunning);
      cuda().launches.clear();
    }
    stream->id += 1;
    ASSERT_NE(countersOn(stream), own) << i;
    distinct.insert(countersOf(cuda().launches.back()));
  }
  EXPECT_GT(distinct.size(), 60000u);
  EXPECT_LT(distinct.size(), 65536u);
}

TEST_F(Gpu, StreamsThatComeAtTheSameTime) {
  constexpr int numThreads = 8, numStreams = 64;
  CUctx_st *context = cuda().primaries[0];
  std::vector<std::vector<const void *>> found(numThreads);
  std::vector<std::vector<CUstream_st *>> streams(numThreads);
  for (auto &own : streams)
    for (int i = 0; i < numStreams; ++i)
      own.push_back(cuda().makeStream(context));
  std::deque<Launch> launches(numThreads); // made by one thread, as they note their memory
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int t = 0; t < numThreads; ++t)
    threads.emplace_back([&, t] {
      fake::setCurrent(context);
      Launch &c = launches[t];
      c.codes[0].blocks_per_sm = 1;
      for (CUstream_st *stream : streams[t]) {
        c.stream = stream;
        std::lock_guard<std::mutex> lock(mutex); // launches.back() is this one's
        EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
        found[t].push_back(countersOf(cuda().launches.back()));
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  std::set<const void *> distinct;
  for (auto &own : found)
    distinct.insert(own.begin(), own.end());
  EXPECT_EQ(distinct.size(), size_t(numThreads * numStreams));
}

TEST_F(Gpu, CapturedLaunchesKeepTheirCounters) {
  Launch c;                              // nothing of it is loaded yet
  CUctx_st *own = cuda().makeContext(0); // and no counters are there
  fake::setCurrent(own);
  c.codes[0].blocks_per_sm = 1;
  c.stream = cuda().makeStream(own);
  c.stream->capturing = 1;
  std::set<const void *> kept;
  for (int i = 0; i < 1500; ++i) {
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    const int32_t *counters = countersOf(cuda().launches.back());
    EXPECT_TRUE(counters[0] == 0 && counters[1] == 0);
    EXPECT_TRUE(kept.insert(counters).second);
  }
  EXPECT_EQ(c.stream->capturing, 1) << "the capture goes on";
  EXPECT_EQ(cuda().callsOf("cuMemAlloc_v2"), 2);
  c.stream->capturing = 0;
  for (int i = 0; i < 1500; ++i) {
    ASSERT_EQ(c.run(), HEED_OK);
    EXPECT_FALSE(kept.count(countersOf(cuda().launches.back())));
  }
  EXPECT_EQ(cuda().callsOf("cuMemAlloc_v2"), 3);
  heed_gpu_unload(&c.kernel);
  own->isAlive = false;
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, TheDefaultStreamWhileAnotherIsCaptured) {
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  CUstream_st *other = cuda().makeStream(cuda().primaries[0]);
  other->capturing = 1;
  expectError(c,
              "argument 'stream': cannot be used on cuda:0: CUDA_ERROR_STREAM_CAPTURE_IMPLICIT "
              "(dependency on a capturing stream)",
              HEED_LAUNCH_FAILED);
  EXPECT_EQ(other->capturing, 1);
  // On a third stream, all that a first launch allocates and loads is no business of the capture.
  Launch d;
  d.codes[0].blocks_per_sm = 1;
  CUctx_st *own = cuda().makeContext(0);
  fake::setCurrent(own);
  d.stream = cuda().makeStream(own);
  EXPECT_EQ(d.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(other->capturing, 1);
  heed_gpu_unload(&d.kernel);
  own->isAlive = false;
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, CounterErrors) {
  CUctx_st *own = cuda().makeContext(0);
  fake::setCurrent(own);
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  size_t before = cuda().memory.size();
  cuda().failNext("cuMemAlloc_v2", 2);
  expectError(c,
              "no 2097152 bytes of memory for counters on cuda:0: CUDA_ERROR_OUT_OF_MEMORY (out of "
              "memory)",
              HEED_OUT_OF_MEMORY);
  for (const char *call : {"cuStreamCreate", "cuMemsetD32Async", "cuStreamSynchronize"}) {
    cuda().failNext(call, 1);
    expectError(c, "cannot clear counters on cuda:0: CUDA_ERROR_INVALID_VALUE (invalid argument)",
                HEED_LAUNCH_FAILED);
  }
  EXPECT_EQ(cuda().memory.size(), before);
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  heed_gpu_unload(&c.kernel);
  own->isAlive = false;
  fake::setCurrent(cuda().primaries[0]);
}

} // namespace
