//===-- RunTest.cpp - Tiles, workspaces, threads and empty problems ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeKernel.h"

#include <algorithm>
#include <chrono>
#include <gtest/gtest.h>
#include <limits>
#include <set>
#include <string.h>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using fake::Call;
using fake::record;

std::vector<fake::Position> allTiles(int64_t B, int64_t H, int64_t tiles) {
  std::vector<fake::Position> result;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < tiles; ++t)
        result.emplace_back(b, h, t);
  return result;
}

std::vector<fake::Position> sortedTiles() {
  std::vector<fake::Position> tiles = record.tiles;
  std::sort(tiles.begin(), tiles.end());
  return tiles;
}

TEST(Run, EachTileOnce) {
  for (int threads : {1, 2, 5})
    for (heed_cost_fn cost : {heed_cost_fn(nullptr), heed_cost_fn(fake::cost)})
      for (int64_t length : {1, 4, 5, 63, 400}) {
        Call c(2, 6, 3, length, 1000);
        c.code.cost = cost;
        c.call.num_threads = threads;
        ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
        ASSERT_EQ(sortedTiles(), allTiles(2, 6, (length + 3) / 4));
      }
}

TEST(Run, PlainOrderIsHeadByHeadLastTileFirst) {
  Call c(1, 2, 1, 10, 16);
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(record.tiles, (std::vector<fake::Position>{
                              {0, 0, 2}, {0, 0, 1}, {0, 0, 0}, {0, 1, 2}, {0, 1, 1}, {0, 1, 0}}));
}

// A host's pool that runs in order on the calling thread shows the order in which tasks are handed
// out.
int64_t hostTasks;
int32_t hostThreads;
void hostInOrder(int64_t tasks, int32_t threads, heed_task_fn fn, void *context) {
  hostTasks = tasks;
  hostThreads = threads;
  for (int64_t i = 0; i < tasks; ++i)
    fn(context, i, int32_t(i % threads));
}

struct Host {
  explicit Host(heed_parallel_for_fn fn) { heed_set_parallel_for(fn); }
  ~Host() { heed_set_parallel_for(nullptr); }
};

TEST(Run, FewHeadsAreSortedByCost) {
  Call c(1, 2, 2, 40, 100000);
  c.code.cost = [](const int64_t *, int64_t, int64_t head, int64_t tile) {
    return head == 0 ? tile * 10 : 100 - tile; // head 1 would be better off ascending
  };
  c.call.num_threads = 2;
  Host host(hostInOrder);
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(hostThreads, 2);
  ASSERT_EQ(record.tiles.size(), 20u);
  int64_t last = std::numeric_limits<int64_t>::max();
  for (auto [b, h, t] : record.tiles) {
    int64_t cost = c.code.cost(nullptr, b, h, t);
    EXPECT_LE(cost, last);
    last = cost;
  }
}

TEST(Run, ManyHeadsStayHeadByHeadUntilTheTail) {
  Call c(1, 64, 8, 160, 100000); // 40 tiles a head; the tail of 2 threads is one head
  c.code.cost = [](const int64_t *, int64_t, int64_t, int64_t tile) { return 100 - tile; };
  c.call.num_threads = 2;
  Host host(hostInOrder);
  ASSERT_EQ(c.run(), HEED_OK);
  ASSERT_EQ(record.tiles.size(), 64u * 40);
  EXPECT_EQ(record.tiles[0], fake::Position(0, 0, 39));
  EXPECT_EQ(record.tiles[40], fake::Position(0, 1, 39));
  EXPECT_EQ(record.tiles[63 * 40], fake::Position(0, 63, 0));
  EXPECT_EQ(record.tiles.back(), fake::Position(0, 63, 39));
}

TEST(Run, TinyTilesAreChunked) {
  Call c(1, 1, 1, 40000, 16);
  c.call.num_threads = 2;
  Host host(hostInOrder);
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(record.tiles.size(), 10000u);
  EXPECT_LT(hostTasks, 1000);
  EXPECT_GE(hostTasks, 16);
}

TEST(Run, TinyWorkStaysOnTheCaller) {
  Call c(1, 4, 4, 8, 16);
  c.call.num_threads = 4;
  hostTasks = 0;
  Host host(hostInOrder);
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(hostTasks, 0);
  EXPECT_EQ(record.tiles.size(), 8u);
}

TEST(Run, HostWithStrangeThreadIndices) {
  Call c(1, 4, 4, 400, 1000);
  c.call.num_threads = 4;
  Host host([](int64_t tasks, int32_t threads, heed_task_fn fn, void *context) {
    for (int64_t i = 0; i < tasks; ++i)
      fn(context, i, threads);
  });
  EXPECT_EQ(c.run(), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "the function of heed_set_parallel_for: expected thread indices "
                                  "below 4, found 4");
}

TEST(Run, EmptyProblems) {
  struct {
    int64_t B, Hq, Hkv, Sq, Skv;
  } shapes[] = {{0, 4, 2, 8, 8}, {2, 0, 0, 8, 8}, {2, 0, 3, 8, 8}, {2, 4, 2, 0, 8}};
  for (auto s : shapes) {
    Call c(s.B, s.Hq, s.Hkv, s.Sq, s.Skv);
    c.withLse();
    c.call.query.data = c.call.output.data = nullptr;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_TRUE(record.tiles.empty());
  }
}

TEST(Run, NoKeysStillRunTheTiles) {
  Call c(1, 2, 1, 8, 0);
  c.code.prepare = fake::prepare;
  c.code.packed_bytes_per_block = 64;
  c.call.key.data = c.call.value.data = nullptr;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(record.tiles.size(), 4u);
  EXPECT_TRUE(record.prepares.empty());
}

TEST(Run, BroadcastBatchOfKeysForNoQueries) {
  Call c(0, 2, 1, 8, 4);
  std::vector<float> data(100);
  c.call.key.shape[0] = c.call.value.shape[0] = 1;
  c.call.key.data = c.call.value.data = data.data();
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
}

TEST(Run, PrepareComesFirst) {
  for (int threads : {1, 3}) {
    Call c(3, 4, 2, 100, 1000);
    c.call.value.shape[0] = c.call.key.shape[0] = 1;
    c.code.prepare = fake::prepare;
    c.code.packed_bytes_per_block = 1000;
    c.call.num_threads = threads;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(record.preparesAfterTiles, 0);
    std::sort(record.prepares.begin(), record.prepares.end());
    EXPECT_EQ(record.prepares, (std::vector<std::pair<int64_t, int64_t>>{
                                   {0, 0}, {0, 1}, {1, 0}, {1, 1}, {2, 0}, {2, 1}}));
    EXPECT_NE(record.args[HEED_ARG_PACKED], 0);
    EXPECT_EQ(record.args[HEED_ARG_PACKED] % 64, 0);
  }
}

TEST(Run, PackedWorkspaceIsLargeEnough) {
  // 3 batches x 2 heads x 63 blocks; written fully, so that a sanitizer sees a short allocation.
  for (int64_t bytes : {1, 100, 64 << 10}) {
    Call c(3, 4, 2, 8, 1000);
    c.code.packed_bytes_per_block = bytes;
    c.code.prepare = [](const int64_t *args, int64_t b, int64_t h) {
      if (b != 0 || h != 0)
        return;
      memset(reinterpret_cast<void *>(args[HEED_ARG_PACKED]), 1,
             size_t(args[HEED_ARG_PARAMS]) * 3 * 2 * 63);
    };
    heed_param param = {"bytes", HEED_I64, -1, nullptr, 0, {}};
    heed_value value;
    value.i = bytes;
    c.kernel.params = &param;
    c.kernel.num_params = 1;
    c.call.params = &value;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  }
}

TEST(Run, ScratchIsPerThreadAndAligned) {
  Call c(1, 8, 8, 400, 1000);
  c.code.scratch_bytes = 1000;
  c.call.num_threads = 3;
  ASSERT_EQ(c.run(), HEED_OK);
  std::set<void *> distinct(record.scratches.begin(), record.scratches.end());
  EXPECT_LE(distinct.size(), 3u);
  uintptr_t last = 0;
  for (void *scratch : distinct) {
    uintptr_t at = reinterpret_cast<uintptr_t>(scratch);
    EXPECT_EQ(at % 64, 0u);
    EXPECT_GE(at - last, 1000u);
    last = at;
  }
}

TEST(Run, MemoryIsUsedAgain) {
  Call c(1, 1, 1, 4, 16);
  c.code.scratch_bytes = 100000;
  c.run();
  void *first = record.scratches.at(0);
  c.run();
  EXPECT_EQ(record.scratches.at(0), first);
}

TEST(Run, CallsWithinCallsHaveTheirOwnMemory) {
  // A host's pool may run another call on a thread that waits within one.
  static Call *inner;
  static void *innerScratch, *outerScratch;
  Call in(1, 1, 1, 4, 16), out(1, 1, 1, 4, 16);
  inner = &in;
  in.code.tile = [](const int64_t *, int64_t, int64_t, int64_t, void *s) { innerScratch = s; };
  out.code.tile = [](const int64_t *, int64_t, int64_t, int64_t, void *s) {
    outerScratch = s;
    EXPECT_EQ(heed_run(&inner->kernel, &inner->call), HEED_OK);
  };
  ASSERT_EQ(out.run(), HEED_OK);
  EXPECT_NE(innerScratch, outerScratch);
}

TEST(Run, OutOfMemory) {
  Call c(2, 2, 2, 8, 100);
  c.code.prepare = fake::prepare;
  for (int64_t bytes : {int64_t(1) << 55, int64_t(1) << 62}) {
    c.code.packed_bytes_per_block = bytes;
    EXPECT_EQ(c.run(), HEED_OUT_OF_MEMORY);
    EXPECT_STREQ(heed_last_error(), "kernel 'fake': no memory for the packed keys and values");
    EXPECT_TRUE(record.prepares.empty() && record.tiles.empty());
  }
  c.code.packed_bytes_per_block = 64;
  c.code.scratch_bytes = int64_t(1) << 60;
  EXPECT_EQ(c.run(), HEED_OUT_OF_MEMORY);
  EXPECT_STREQ(heed_last_error(), "kernel 'fake': no memory for the scratch space of 1 threads");
  EXPECT_TRUE(record.prepares.empty() && record.tiles.empty());
}

TEST(Run, SameBitsForAnyNumberOfThreads) {
  std::vector<float> reference;
  for (int threads : {1, 2, 3, 8, 64}) {
    Call c(2, 6, 3, 333, 1000);
    c.code.cost = fake::cost;
    c.call.num_threads = threads;
    ASSERT_EQ(c.run(), HEED_OK);
    if (reference.empty())
      reference = c.output;
    EXPECT_EQ(memcmp(reference.data(), c.output.data(), reference.size() * sizeof(float)), 0);
  }
}

#if defined(__x86_64__)
TEST(Run, WorkersFollowTheCallersFloatMode) {
  static std::atomic<int> other;
  static unsigned wanted;
  other = 0;
  unsigned before = _mm_getcsr();
  Call c(1, 8, 8, 400, 1000);
  c.call.num_threads = 2;
  c.code.tile = [](const int64_t *, int64_t, int64_t, int64_t, void *) {
    other += (_mm_getcsr() & ~0x3fu) != wanted;
    std::this_thread::sleep_for(std::chrono::microseconds(10)); // let both threads have some
  };
  for (unsigned mode : {before | 0x8040u, before}) { // flush to zero, denormals are zero
    wanted = (mode | 0x8000u) & ~0x3fu;              // results are flushed in any case
    _mm_setcsr(mode);
    EXPECT_EQ(c.run(), HEED_OK);
  }
  EXPECT_EQ(_mm_getcsr() & ~0x3fu, before & ~0x3fu) << "the caller's mode comes back";
  _mm_setcsr(before);
  EXPECT_EQ(other, 0);
}
#endif

TEST(Run, FromSeveralThreads) {
  Call shapes[4] = {
      {1, 4, 2, 100, 1000}, {2, 2, 1, 77, 1000}, {1, 8, 8, 64, 1000}, {1, 1, 1, 400, 1000}};
  std::vector<std::vector<float>> expected;
  for (Call &c : shapes) {
    c.code.cost = fake::cost;
    c.call.num_threads = 1;
    c.run();
    expected.push_back(c.output);
    std::fill(c.output.begin(), c.output.end(), 0.0f);
  }
  std::vector<std::thread> threads;
  for (Call &c : shapes)
    threads.emplace_back([&c] {
      c.call.num_threads = 3;
      for (int i = 0; i < 20; ++i)
        EXPECT_EQ(heed_run(&c.kernel, &c.call), HEED_OK);
    });
  for (std::thread &thread : threads)
    thread.join();
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(shapes[i].output, expected[i]);
}

} // namespace
