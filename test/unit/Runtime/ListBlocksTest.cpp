//===-- ListBlocksTest.cpp - heed_list_blocks ---------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed-c/Runtime.h"

#include <functional>
#include <gtest/gtest.h>
#include <vector>

namespace {

/// Three rows of five blocks: partial, full, full, -, partial; -; full all along.
struct Runs {
  std::vector<int64_t> offsets = {0, 3, 3, 4};
  std::vector<heed_block_run> runs = {{0, 1, 1}, {1, 3, 2}, {4, 5, 1}, {0, 5, 2}};
  heed_block_runs all = {1, 1, 3, 5, offsets.data(), runs.data()};
  std::vector<int32_t> counts = std::vector<int32_t>(5, -7);
  std::vector<int32_t> indices = std::vector<int32_t>(15, -7);
  heed_block_lists partial = {counts.data(), indices.data(), nullptr, nullptr};
  heed_block_lists full = {nullptr, nullptr, counts.data(), indices.data()};
};

using Numbers = std::vector<int32_t>;

TEST(ListBlocks, ByRows) {
  Runs r;
  ASSERT_EQ(heed_list_blocks(&r.all, 0, &r.partial, 1), HEED_OK) << heed_last_error();
  EXPECT_EQ(r.counts, (Numbers{2, 0, 0, -7, -7}));
  EXPECT_EQ(r.indices, (Numbers{0, 4, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
  ASSERT_EQ(heed_list_blocks(&r.all, 0, &r.full, 2), HEED_OK) << heed_last_error();
  EXPECT_EQ(r.counts, (Numbers{2, 0, 5, -7, -7}));
  EXPECT_EQ(r.indices, (Numbers{1, 2, 0, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4}));
}

TEST(ListBlocks, ByColumns) {
  Runs r;
  ASSERT_EQ(heed_list_blocks(&r.all, 1, &r.partial, 0), HEED_OK) << heed_last_error();
  EXPECT_EQ(r.counts, (Numbers{1, 0, 0, 0, 1}));
  EXPECT_EQ(r.indices, (Numbers{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}));
  ASSERT_EQ(heed_list_blocks(&r.all, 1, &r.full, 3), HEED_OK) << heed_last_error();
  EXPECT_EQ(r.counts, (Numbers{1, 2, 2, 1, 1}));
  EXPECT_EQ(r.indices, (Numbers{2, 0, 1, 0, 2, 1, 0, 2, 1, 2, 0, 1, 2, 0, 1}));
}

TEST(ListBlocks, NothingIsAskedFor) {
  Runs r;
  heed_block_lists none = {};
  EXPECT_EQ(heed_list_blocks(&r.all, 0, &none, 1), HEED_OK);
  r.all.num_batches = 0;
  EXPECT_EQ(heed_list_blocks(&r.all, 0, &r.partial, 1), HEED_OK);
  EXPECT_EQ(r.counts, Numbers(5, -7));
}

TEST(ListBlocks, Errors) {
  auto expectError = [](const char *message, std::function<void(Runs &)> change) {
    Runs r;
    change(r);
    EXPECT_EQ(heed_list_blocks(&r.all, 0, &r.partial, 1), HEED_INVALID_ARGUMENT) << message;
    EXPECT_STREQ(heed_last_error(), message);
    EXPECT_EQ(r.counts, Numbers(5, -7)) << message;
  };
  const char *wrong =
      "argument 'runs': expected runs of partial or full blocks that exist, in ascending order";
  expectError(wrong, [](Runs &r) { r.runs[0].begin = -1; });
  expectError(wrong, [](Runs &r) { r.runs[3].end = 6; });
  expectError(wrong, [](Runs &r) { r.runs[1].begin = 0; });
  expectError(wrong, [](Runs &r) { r.runs[1].end = 1; });
  expectError(wrong, [](Runs &r) { r.runs[2].kind = 3; });
  expectError(wrong, [](Runs &r) { r.runs[2].kind = 0; });
  expectError("argument 'runs': expected offsets that ascend", [](Runs &r) { r.offsets[2] = 1; });
  expectError("argument 'runs': expected offsets that begin with 0",
              [](Runs &r) { r.offsets[0] = 1; });
  expectError("argument 'runs': expected offsets that begin with 0",
              [](Runs &r) { r.all.offsets = nullptr; });
  expectError("argument 'runs': expected an address of runs, found NULL",
              [](Runs &r) { r.all.runs = nullptr; });
  expectError("argument 'runs': expected extents from 0 to 2^31 - 1",
              [](Runs &r) { r.all.num_columns = -1; });
  expectError("argument 'runs': expected extents from 0 to 2^31 - 1",
              [](Runs &r) { r.all.num_rows = int64_t(1) << 31; });
  expectError("argument 'lists': expected both counts and indices of a kind, found NULL",
              [](Runs &r) { r.partial.partial_indices = nullptr; });
  expectError("argument 'lists': expected both counts and indices of a kind, found NULL",
              [](Runs &r) { r.partial.partial_counts = nullptr; });
  Runs r;
  EXPECT_EQ(heed_list_blocks(nullptr, 0, &r.partial, 1), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'runs': expected an address, found NULL");
  EXPECT_EQ(heed_list_blocks(&r.all, 0, nullptr, 1), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'lists': expected an address, found NULL");
  EXPECT_EQ(heed_list_blocks(&r.all, 0, &r.partial, -1), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(),
               "argument 'num_threads': expected a number of at least 0, found -1");
}

} // namespace
