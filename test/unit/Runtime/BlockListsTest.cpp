//===-- BlockListsTest.cpp - Block lists made before a launch ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <gtest/gtest.h>

namespace {

using fake::cuda;
using fake::expectError;
using fake::Launch;
using fake::Launched;
using Gpu = fake::GpuTest;

TEST_F(Gpu, Lists) {
  struct Case {
    int perBatch, perHead;
    unsigned lists;
  };
  for (Case shape : {Case{0, 0, 3}, Case{1, 0, 6}, Case{0, 1, 12}, Case{1, 1, 24}}) {
    Launch c; // 2 x 4 x 3 tiles, ceil(200 / 64) blocks
    c.withLists(shape.perBatch, shape.perHead);
    c.stream = cuda().makeStream(cuda().primaries[0]);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 2u);
    const Launched &first = cuda().launches[0], &second = cuda().launches[1];
    EXPECT_EQ(first.function, "attend_classify");
    EXPECT_EQ(first.grid, shape.lists);
    EXPECT_EQ(first.block, 96u);
    EXPECT_EQ(first.shared, 0u);
    EXPECT_EQ(first.stream, c.stream);
    EXPECT_EQ(first.maps.size(), 4u);
    EXPECT_EQ(second.function, "attend");
    EXPECT_EQ(second.stream, c.stream);
    EXPECT_EQ(first.args, second.args);
    EXPECT_NE(first.args[HEED_ARG_LISTS], 0);
    EXPECT_NE(first.args[HEED_ARG_COUNTER], 0);
    EXPECT_EQ(cuda().asyncAllocations, 1u);
    EXPECT_EQ(cuda().asyncFrees, 1u);
  }
}

TEST_F(Gpu, Summaries) {
  struct Case {
    int perBatch, perHead;
    unsigned lists;
  };
  for (Case shape : {Case{0, 0, 1}, Case{1, 0, 2}, Case{0, 1, 4}, Case{1, 1, 8}}) {
    Launch c(2, 4, 2, 1000, 6500); // 8 tiles for 102 blocks of keys
    c.withSummaries(shape.perBatch, shape.perHead);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 3u);
    const Launched &first = cuda().launches[0], &second = cuda().launches[1];
    EXPECT_EQ(first.function, "attend_summarise");
    EXPECT_EQ(first.grid, 51 * shape.lists); // a warp a block
    EXPECT_EQ(first.block, 64u);
    EXPECT_EQ(second.function, "attend_classify");
    EXPECT_EQ(cuda().launches[2].function, "attend");
    EXPECT_EQ(first.args, second.args);
    EXPECT_EQ(first.args, cuda().launches[2].args);
    // Behind lists of 103 words and their order.
    EXPECT_EQ(first.args[HEED_ARG_SUMMARIES],
              first.args[HEED_ARG_LISTS] + 8 * int64_t(shape.lists) * 416);
    EXPECT_EQ(cuda().asyncAllocations, 1u);
    EXPECT_EQ(cuda().asyncFrees, 1u);
  }
}

TEST_F(Gpu, NoSummariesForFewTilesOrNoKeys) {
  for (int64_t keys : {6500, 0}) {
    Launch c(2, 4, 2, keys ? 384 : 1000, keys);
    c.withSummaries(0, 0);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 2u);
    EXPECT_EQ(cuda().launches[0].function, "attend_classify");
    EXPECT_EQ(cuda().launches[0].args[HEED_ARG_SUMMARIES], 0);
  }
}

TEST_F(Gpu, ListsWithoutKeys) {
  Launch c(1, 1, 1, 300, 0);
  c.codes[0].classify = "attend_classify";
  c.codes[0].classify_threads = 32;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.size(), 2u);
}

TEST_F(Gpu, NoMemoryForLists) {
  Launch c;
  heed_gpu_code &code = c.plain();
  code.classify = "attend_classify";
  code.classify_threads = 32;
  code.lists_per_batch = code.lists_per_head = 1;
  // 2 x 4 x 5 lists of 2^23 words
  c.call.key.shape[2] = c.call.value.shape[2] = (int64_t(1) << 29) - 64;
  c.call.key.strides[2] = c.call.value.strides[2] = 0;
  expectError(c,
              "kernel 'fake': no 1342177440 bytes of memory for block lists on cuda:0: "
              "CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
              HEED_OUT_OF_MEMORY);

  Launch d(1, 1, 1, 1, 1);
  heed_gpu_code &one = d.plain();
  one.classify = "attend_classify";
  one.classify_threads = 32;
  one.block_q = one.block_kv = 1;
  d.call.query.shape[2] = d.call.output.shape[2] = INT32_MAX;
  d.call.query.strides[2] = d.call.output.strides[2] = 64;
  d.call.key.shape[2] = d.call.value.shape[2] = (1 << 23) - 1;
  d.call.key.strides[2] = d.call.value.strides[2] = 0;
  expectError(d,
              "kernel 'fake': no 72057594004373504 bytes of memory for block lists on cuda:0: "
              "CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
              HEED_OUT_OF_MEMORY);
}

TEST_F(Gpu, MoreBlocksThanWordsHold) {
  expectError("kernel 'fake': expected fewer than 2^23 blocks of 64 keys, found 536870912 keys",
              [](Launch &c) {
                c.call.key.shape[2] = c.call.value.shape[2] = int64_t(1) << 29;
                c.call.key.strides[2] = c.call.value.strides[2] = 0;
              });
}

TEST_F(Gpu, ListsComeFromAPoolThatIsKept) {
  Launch c;
  c.codes[0].classify = "attend_classify";
  c.codes[0].classify_threads = 32;
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_LE(cuda().callsOf("cuMemPoolCreate"), 1);
  EXPECT_EQ(cuda().callsOf("cuMemAllocFromPoolAsync"), 3);
  EXPECT_EQ(cuda().callsOf("cuMemAllocAsync"), 0);
}

TEST_F(Gpu, FailedLaunchesFreeTheirLists) {
  Launch c;
  c.codes[0].classify = "attend_classify";
  c.codes[0].classify_threads = 32;
  for (int launches : {0, 1}) {
    for (int i = 0; i < launches; ++i)
      cuda().failNext("cuLaunchKernel", 0);
    cuda().failNext("cuLaunchKernel", 701);
    EXPECT_EQ(c.run(), HEED_LAUNCH_FAILED);
    EXPECT_STREQ(heed_last_error(),
                 "kernel 'fake': cannot launch on cuda:0: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (too "
                 "many resources requested for launch)");
    EXPECT_EQ(cuda().asyncAllocations, cuda().asyncFrees);
  }
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
}

} // namespace
