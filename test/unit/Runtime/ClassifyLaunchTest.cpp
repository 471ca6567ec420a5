//===-- ClassifyLaunchTest.cpp - Block lists without a GPU ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeMask.h"

#include <gtest/gtest.h>

namespace {

using fake::cuda;
using fake::expectError;
using fake::largest;
using fake::Launch;
using fake::Launched;
using fake::Mask;
using fake::Memory;
using ClassifyLaunch = fake::GpuTest;

using Words = std::vector<int64_t>;

int64_t word(const void *pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer)); }

int64_t floatWord(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return int64_t(bits);
}

//===----------------------------------------------------------------------===//
// What is launched
//===----------------------------------------------------------------------===//

TEST_F(ClassifyLaunch, ClassifyThenSettle) {
  struct Case {
    int32_t warps;
    unsigned classify, settle; // ceil(8 * 2 * 3 / warps), ceil(8 * 63 * 3 / warps)
  };
  for (Case c : {Case{1, 48, 1512}, Case{4, 12, 378}, Case{5, 10, 303}, Case{32, 2, 48}}) {
    Mask m;
    m.codes[0].warps = c.warps;
    m.stream = cuda().makeStream(cuda().primaries[0]);
    ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 2u);
    const Launched &first = cuda().launches[0], &second = cuda().launches[1];
    EXPECT_EQ(first.function, "mask_classify");
    EXPECT_EQ(first.grid, c.classify);
    EXPECT_EQ(second.function, "mask_settle");
    EXPECT_EQ(second.grid, c.settle);
    for (const Launched &l : cuda().launches) {
      EXPECT_EQ(l.block, unsigned(c.warps) * 32);
      EXPECT_EQ(l.shared, 0u);
      EXPECT_EQ(l.context, cuda().primaries[0]);
      EXPECT_EQ(l.stream, m.stream);
    }
    EXPECT_EQ(first.args, second.args);
  }
}

TEST_F(ClassifyLaunch, List) {
  struct Case {
    int32_t warps;
    unsigned byRow, byColumn; // ceil(8 * 63 / warps), ceil(8 * 94 / warps)
  };
  for (Case c : {Case{1, 504, 752}, Case{4, 126, 188}, Case{5, 101, 151}, Case{32, 16, 24}})
    for (int32_t byColumn : {0, 1}) {
      Mask m;
      m.codes[0].warps = c.warps;
      m.stream = cuda().makeStream(cuda().primaries[0]);
      m.byColumn = byColumn;
      ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
      ASSERT_EQ(cuda().launches.size(), 1u);
      const Launched &l = cuda().launches[0];
      EXPECT_EQ(l.function, "mask_list");
      EXPECT_EQ(l.grid, byColumn ? c.byColumn : c.byRow);
      EXPECT_EQ(l.block, unsigned(c.warps) * 32);
      EXPECT_EQ(l.shared, 0u);
      EXPECT_EQ(l.context, cuda().primaries[0]);
      EXPECT_EQ(l.stream, m.stream);
    }
}

TEST_F(ClassifyLaunch, Fill) {
  Mask m;
  m.lists.full_counts = m.lists.full_indices = nullptr; // no blocks are full
  ASSERT_EQ(m.fill(), HEED_OK) << heed_last_error();
  ASSERT_EQ(cuda().launches.size(), 1u);
  const Launched &l = cuda().launches[0];
  EXPECT_EQ(l.function, "mask_fill");
  EXPECT_EQ(l.grid, 126u); // ceil(8 * 63 / 4)
  const Words &words = l.args;
  ASSERT_EQ(words.size(), size_t(HEED_ARG_PARAMS));
  EXPECT_EQ(words[HEED_MASK_ARG_LISTS], 8);
  EXPECT_EQ(words[HEED_MASK_ARG_ROWS], 63);
  EXPECT_EQ(words[HEED_MASK_ARG_COLUMNS], 94);
  EXPECT_EQ(words[HEED_MASK_ARG_PARTIAL_COUNTS], word(m.lists.partial_counts));
  EXPECT_EQ(words[HEED_MASK_ARG_PARTIAL_INDICES], word(m.lists.partial_indices));
  EXPECT_EQ(words[HEED_MASK_ARG_FULL_COUNTS], 0);
  EXPECT_EQ(words[HEED_MASK_ARG_PARTIAL_WIDTH], 7);
  EXPECT_EQ(words[HEED_MASK_ARG_FULL_WIDTH], 94);
  // Indices of no width are not looked at, and nothing has to be done for no columns.
  m.partialWidth = 0;
  m.lists.partial_indices = nullptr;
  EXPECT_EQ(m.fill(), HEED_OK) << heed_last_error();
  m.matrix.num_columns = 0;
  cuda().launches.clear();
  EXPECT_EQ(m.fill(), HEED_OK) << heed_last_error();
  EXPECT_TRUE(cuda().launches.empty());
  expectError(&Mask::fill,
              "argument 'partial_width': expected a number from 0 to 2147483647, found -1",
              [](Mask &m) { m.partialWidth = -1; });
  expectError(&Mask::fill,
              "argument 'full_width': expected a number from 0 to 2147483647, found 2147483648",
              [](Mask &m) { m.fullWidth = largest + 1; });
}

TEST_F(ClassifyLaunch, TilesAtTheirEdges) {
  auto gridsOf = [](int64_t rows, int64_t columns) {
    Mask m;
    m.codes[0].warps = 1;
    m.ask(1, 1, rows, columns);
    EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
    std::vector<unsigned> grids;
    for (const Launched &l : cuda().launches)
      grids.push_back(l.grid);
    return grids;
  };
  using Grids = std::vector<unsigned>;
  EXPECT_EQ(gridsOf(1, 1), (Grids{1, 1}));
  EXPECT_EQ(gridsOf(32, 32), (Grids{1, 32}));
  EXPECT_EQ(gridsOf(33, 32), (Grids{2, 33}));
  EXPECT_EQ(gridsOf(32, 33), (Grids{2, 64}));
  EXPECT_EQ(gridsOf(65, 97), (Grids{12, 260}));
}

TEST_F(ClassifyLaunch, EmptyMatrices) {
  struct Case {
    int64_t batch, heads, rows, columns;
  };
  for (Case c : {Case{0, 4, 63, 94}, Case{2, 0, 63, 94}, Case{2, 4, 0, 94}, Case{2, 4, 63, 0},
                 Case{0, 0, 0, 0}}) {
    Mask m;
    m.ask(c.batch, c.heads, c.rows, c.columns);
    m.matrix.classes = nullptr;
    EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
    EXPECT_TRUE(cuda().launches.empty());
  }
  for (Case c : {Case{0, 4, 63, 94}, Case{2, 0, 63, 94}, Case{2, 4, 0, 94}}) {
    Mask m;
    m.ask(c.batch, c.heads, c.rows, c.columns);
    m.matrix.classes = nullptr;
    m.lists = {};
    EXPECT_EQ(m.list(), HEED_OK) << heed_last_error();
    EXPECT_TRUE(cuda().launches.empty());
  }
}

TEST_F(ClassifyLaunch, RowsWithoutColumnsHaveCounts) {
  for (int32_t byColumn : {0, 1}) {
    Mask m;
    m.byColumn = byColumn;
    m.matrix.classes = nullptr;
    (byColumn ? m.matrix.num_rows : m.matrix.num_columns) = 0;
    m.lists.partial_indices = m.lists.full_indices = nullptr; // they have no elements
    ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
    const Launched &l = cuda().launches.at(0);
    EXPECT_EQ(l.grid, byColumn ? 188u : 126u);
    EXPECT_EQ(l.args[HEED_MASK_ARG_ROWS], byColumn ? 94 : 63);
    EXPECT_EQ(l.args[HEED_MASK_ARG_COLUMNS], 0);
    EXPECT_EQ(l.args[HEED_MASK_ARG_PARTIAL_COUNTS], word(m.partialCounts.data()));
    EXPECT_EQ(l.args[HEED_MASK_ARG_PARTIAL_INDICES], 0);
    EXPECT_EQ(l.args[HEED_MASK_ARG_FULL_COUNTS], word(m.fullCounts.data()));
    EXPECT_EQ(l.args[HEED_MASK_ARG_FULL_INDICES], 0);
  }
  // And the other way round there are no rows.
  Mask m;
  m.byColumn = 1;
  m.matrix.num_columns = 0;
  EXPECT_EQ(m.list(), HEED_OK) << heed_last_error();
  EXPECT_TRUE(cuda().launches.empty());
}

//===----------------------------------------------------------------------===//
// What it is told
//===----------------------------------------------------------------------===//

TEST_F(ClassifyLaunch, ArgumentsOfClassify) {
  Mask m;
  ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
  Words expected(HEED_ARG_PARAMS); // all others are 0
  expected[HEED_ARG_B] = 2;
  expected[HEED_ARG_HQ] = 4;
  expected[HEED_ARG_HKV] = 2;
  expected[HEED_ARG_SQ] = 1000;
  expected[HEED_ARG_SKV] = 3000;
  expected[HEED_MASK_ARG_BLOCK_Q] = 16;
  expected[HEED_MASK_ARG_BLOCK_KV] = 32;
  expected[HEED_MASK_ARG_HANGING_IS_PARTIAL] = 0;
  expected[HEED_MASK_ARG_LISTS] = 8;
  expected[HEED_MASK_ARG_HEADS] = 4;
  expected[HEED_MASK_ARG_ROWS] = 63;
  expected[HEED_MASK_ARG_COLUMNS] = 94;
  expected[HEED_MASK_ARG_CLASSES] = word(m.classes.data());
  expected[HEED_MASK_ARG_LIST_STRIDE] = 63 * 94;
  expected[HEED_MASK_ARG_ROW_STRIDE] = 94;
  expected[HEED_MASK_ARG_COLUMN_STRIDE] = 1;
  ASSERT_EQ(cuda().launches.size(), 2u);
  for (const Launched &l : cuda().launches)
    EXPECT_EQ(l.args, expected);
}

TEST_F(ClassifyLaunch, HangingBlocks) {
  for (int32_t isPartial : {0, 1, 7}) {
    Mask m;
    m.question.hanging_is_partial = isPartial;
    ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 2u);
    for (const Launched &l : cuda().launches)
      EXPECT_EQ(l.args[HEED_MASK_ARG_HANGING_IS_PARTIAL], isPartial ? 1 : 0);
  }
}

TEST_F(ClassifyLaunch, ArgumentsOfList) {
  for (int32_t byColumn : {0, 1, -1}) {
    Mask m;
    m.byColumn = byColumn;
    ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
    Words expected(HEED_ARG_PARAMS); // all others are 0
    expected[HEED_MASK_ARG_LISTS] = 8;
    expected[HEED_MASK_ARG_HEADS] = 4;
    expected[HEED_MASK_ARG_ROWS] = byColumn ? 94 : 63;
    expected[HEED_MASK_ARG_COLUMNS] = byColumn ? 63 : 94;
    expected[HEED_MASK_ARG_CLASSES] = word(m.classes.data());
    expected[HEED_MASK_ARG_LIST_STRIDE] = 63 * 94;
    expected[HEED_MASK_ARG_ROW_STRIDE] = byColumn ? 1 : 94;
    expected[HEED_MASK_ARG_COLUMN_STRIDE] = byColumn ? 94 : 1;
    expected[HEED_MASK_ARG_PARTIAL_COUNTS] = word(m.partialCounts.data());
    expected[HEED_MASK_ARG_PARTIAL_INDICES] = word(m.partialIndices.data());
    expected[HEED_MASK_ARG_FULL_COUNTS] = word(m.fullCounts.data());
    expected[HEED_MASK_ARG_FULL_INDICES] = word(m.fullIndices.data());
    EXPECT_EQ(cuda().launches.at(0).args, expected);
  }
}

TEST_F(ClassifyLaunch, OneListForAll) {
  struct Case {
    int32_t usesBatch, usesHead;
    int64_t batches, heads;
  };
  // Where the mask does not depend on them, one or all of them may be filled.
  for (Case c : {Case{1, 0, 2, 1}, Case{0, 1, 1, 4}, Case{0, 0, 1, 1}, Case{0, 0, 2, 4},
                 Case{0, 0, 2, 1}, Case{0, 0, 1, 4}}) {
    Mask m;
    m.codes[0].uses_batch = c.usesBatch;
    m.codes[0].uses_head = c.usesHead;
    m.matrix.num_batches = c.batches;
    m.matrix.num_heads = c.heads;
    ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 3u);
    EXPECT_EQ(cuda().launches[0].grid, unsigned(c.batches * c.heads * 6 + 3) / 4);
    for (const Launched &l : cuda().launches) {
      EXPECT_EQ(l.args[HEED_MASK_ARG_LISTS], c.batches * c.heads);
      EXPECT_EQ(l.args[HEED_MASK_ARG_HEADS], c.heads);
    }
    // The mask is asked about all of them nevertheless.
    EXPECT_EQ(cuda().launches[0].args[HEED_ARG_B], 2);
    EXPECT_EQ(cuda().launches[0].args[HEED_ARG_HQ], 4);
  }
}

TEST_F(ClassifyLaunch, CapturedParameters) {
  const int64_t extents[] = {HEED_EXTENT_SKV, HEED_EXTENT_ANY}, heads = HEED_EXTENT_HKV;
  Memory ids(64), slopes(64);
  // The last of them comes first.
  heed_tensor idsTensor = Launch::tensor(ids.data(), HEED_I32, {3000, 2});
  idsTensor.strides[0] = -7;
  heed_tensor slopesTensor = Launch::tensor(slopes.data(), HEED_F32, {2});
  slopesTensor.strides[0] = 0;
  auto setUp = [&](Mask &m) {
    m.params = {{"window", HEED_I32, -1, nullptr, 0, {}},
                {"ids", HEED_I32, 2, extents, 0, {}},
                {"bound", HEED_F32, -1, nullptr, 0, {}},
                {"slopes", HEED_F32, 1, &heads, 0, {}}};
    m.values.resize(4);
    m.values[0].i = -3;
    m.values[2].f = 0.5;
  };
  auto expectArguments = [&](Mask &m) {
    ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(cuda().launches.size(), 2u);
    for (const Launched &l : cuda().launches) {
      EXPECT_EQ(Words(l.args.begin() + HEED_ARG_PARAMS, l.args.end()),
                (Words{-3, word(ids.data()), 3000, 2, -7, 1, floatWord(0.5f), word(slopes.data()),
                       2, 0}));
      EXPECT_EQ(l.args[HEED_MASK_ARG_LISTS], 8);
    }
  };
  Mask m;
  setUp(m);
  m.values[1].tensor = &idsTensor;
  m.values[3].tensor = &slopesTensor;
  expectArguments(m);

  // Packed: the tensor's number instead of its address.
  Mask packed;
  setUp(packed);
  const heed_tensor tensors[] = {slopesTensor, {}, idsTensor};
  packed.tensors = tensors;
  packed.values[1].i = 2;
  packed.values[3].i = 0;
  expectArguments(packed);

  // What lists blocks has no need of them.
  cuda().launches.clear();
  ASSERT_EQ(packed.list(), HEED_OK) << heed_last_error();
  const Words &args = cuda().launches.at(0).args;
  EXPECT_EQ(Words(args.begin() + HEED_ARG_PARAMS, args.end()), Words(10));
}

TEST_F(ClassifyLaunch, Defaults) {
  Mask m;
  m.params = {{"window", HEED_I32, -1, nullptr, 1, {}}};
  m.params[0].default_value.i = 77;
  const heed_tensor unused = {};
  for (const heed_tensor *tensors : {static_cast<const heed_tensor *>(nullptr), &unused}) {
    m.tensors = tensors;
    cuda().launches.clear();
    ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.at(0).args.at(HEED_ARG_PARAMS), 77);
  }
  m.params[0].has_default = 0;
  expectError(m, &Mask::classify,
              "argument 'window' (i32): expected a value because it has no default, found none "
              "(params is NULL)");
}

TEST_F(ClassifyLaunch, TheNumberOfThreadsIsIgnored) {
  Mask m;
  m.question.num_threads = -5;
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(m.question.num_threads, -5);
  EXPECT_EQ(cuda().launches.size(), 2u);
}

} // namespace
