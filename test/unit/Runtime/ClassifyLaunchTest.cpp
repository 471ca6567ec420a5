//===-- ClassifyLaunchTest.cpp - Block lists without a GPU ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <functional>
#include <gtest/gtest.h>
#include <limits>

namespace {

using fake::cuda;
using fake::Launch;
using fake::Launched;
using fake::Memory;
using ClassifyLaunch = fake::GpuTest;

using Words = std::vector<int64_t>;

constexpr int64_t largest = std::numeric_limits<int32_t>::max();

int64_t word(const void *pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer)); }

int64_t floatWord(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return int64_t(bits);
}

/// A kernel whose mask has code for 9.0 only, and for any from 8.0 on, and what is asked of it:
/// B = 2, Hq = 4, Hkv = 2, Sq = 1000, Skv = 3000 in blocks of 16 x 32, which are 63 rows and 94
/// columns, or 2 x 3 tiles, for each of 8 lists.
struct Mask {
  std::string ptx = ".version 8.7\n.entry mask_classify(\n.entry mask_settle(\n.entry mask_list("
                    "\n.entry mask_fill(";
  std::vector<heed_gpu_mask_code> codes;
  std::vector<heed_param> params;
  std::vector<heed_value> values;
  heed_kernel kernel = {};
  heed_mask_question question = {2, 4, 2, 1000, 3000, 16, 32, nullptr, 0, 0};
  // Nothing looks at what they hold.
  Memory classes, partialCounts, partialIndices, fullCounts, fullIndices;
  heed_class_matrix matrix;
  heed_block_lists lists;
  const heed_mask_question *asked = &question;
  const heed_tensor *tensors = nullptr;
  const heed_class_matrix *given = &matrix;
  const heed_block_lists *filled = &lists;
  int32_t byColumn = 0;
  int64_t partialWidth = 7, fullWidth = 94;
  CUstream_st *stream = nullptr;
  int32_t device = 0;

  Mask() : classes(64), partialCounts(64), partialIndices(64), fullCounts(64), fullIndices(64) {
    heed_gpu_mask_code code = {};
    code.module = fake::moduleFor90(ptx);
    code.classify = "mask_classify";
    code.settle = "mask_settle";
    code.list = "mask_list";
    code.fill = "mask_fill";
    code.warps = 4;
    code.uses_batch = code.uses_head = 1;
    codes.push_back(code);
    code.module = fake::moduleFrom80(ptx);
    code.warps = 8; // by which the codes are told apart
    codes.push_back(code);
    kernel.abi_version = HEED_ABI_VERSION;
    kernel.name = "fake";
    kernel.dtype = HEED_BF16;
    kernel.head_dim = kernel.value_head_dim = 64;
    kernel.num_gpu_mask_codes = 2;
    kernel.gpu_mask_codes = codes.data();
    matrix = {reinterpret_cast<int8_t *>(classes.data()), 2, 4, 63, 94};
    lists = {numbers(partialCounts), numbers(partialIndices), numbers(fullCounts),
             numbers(fullIndices)};
    cuda().clearRecords();
  }

  /// What was loaded would else be found by the next kernel at the same address.
  ~Mask() { heed_gpu_unload(&kernel); }

  static int32_t *numbers(const Memory &memory) {
    return reinterpret_cast<int32_t *>(memory.data());
  }

  /// A question of Sq = rows and Skv = columns in blocks of 1 x 1, and its matrix.
  void ask(int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
    question = {batch, heads, 1, rows, columns, 1, 1, nullptr, 0, 0};
    matrix = {matrix.classes, batch, heads, rows, columns};
  }

  void moveAll(int where) {
    for (Memory *memory : {&classes, &partialCounts, &partialIndices, &fullCounts, &fullIndices})
      memory->move(fake::OnDevice, where);
    device = where;
  }

  void prepare() {
    kernel.params = params.data();
    kernel.num_params = int32_t(params.size());
    int words = HEED_ARG_PARAMS;
    for (const heed_param &param : params)
      words += param.rank < 0 ? 1 : 1 + 2 * param.rank;
    for (const char *entry : {"mask_classify", "mask_settle", "mask_list", "mask_fill"})
      cuda().signatures[entry] = {0, words};
  }

  heed_status classify() {
    prepare();
    question.params = values.empty() ? nullptr : values.data();
    return heed_launch_classify(&kernel, asked, tensors, given, stream, device);
  }

  heed_status list() {
    prepare();
    return heed_launch_list(&kernel, given, byColumn, filled, stream, device);
  }

  heed_status fill() {
    prepare();
    return heed_launch_fill(&kernel, filled, partialWidth, fullWidth, given, stream, device);
  }
};

using Call = heed_status (Mask::*)();
constexpr Call calls[] = {&Mask::classify, &Mask::list, &Mask::fill};

/// Expects `call` to fail and to launch nothing.
void expectError(Mask &mask, Call call, const char *message,
                 heed_status expected = HEED_INVALID_ARGUMENT) {
  cuda().launches.clear();
  EXPECT_EQ((mask.*call)(), expected) << message;
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_TRUE(cuda().launches.empty());
}

void expectError(Call call, const char *message, std::function<void(Mask &)> change,
                 heed_status expected = HEED_INVALID_ARGUMENT) {
  Mask mask;
  change(mask);
  expectError(mask, call, message, expected);
}

/// Of all functions.
void expectErrors(const char *message, std::function<void(Mask &)> change,
                  heed_status expected = HEED_INVALID_ARGUMENT) {
  for (Call call : calls)
    expectError(call, message, change, expected);
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

//===----------------------------------------------------------------------===//
// Devices, contexts, loading
//===----------------------------------------------------------------------===//

TEST_F(ClassifyLaunch, TheFirstCodeForTheDevice) {
  for (Call call : calls)
    for (int32_t device : {0, 1, 2}) {
      Mask m;
      m.moveAll(device);
      ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
      EXPECT_EQ(cuda().launches.at(0).context, cuda().primaries[size_t(device)]);
      EXPECT_EQ(cuda().launches.at(0).block, device == 2 ? 256u : 128u);
    }
  Mask reversed;
  std::swap(reversed.codes[0], reversed.codes[1]);
  ASSERT_EQ(reversed.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).block, 256u);
}

TEST_F(ClassifyLaunch, TheMaskOfTheCodeThatIsChosen) {
  Mask m;
  m.codes[1].uses_batch = 0;
  m.matrix.num_batches = 1;
  expectError(m, &Mask::classify, "argument 'matrix': expected num_batches to be 2, found 1");
  m.moveAll(2);
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
}

TEST_F(ClassifyLaunch, NoCodeForTheDevice) {
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:2, a GPU of compute capability 8.6",
      [](Mask &m) {
        m.kernel.num_gpu_mask_codes = 1;
        m.moveAll(2);
      },
      HEED_UNSUPPORTED_GPU);
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:0, a GPU of compute capability 9.0",
      [](Mask &m) {
        m.codes[0].module.capability = 80; // exactly
        m.codes[1].module.capability = 100;
      },
      HEED_UNSUPPORTED_GPU);
  expectErrors(
      "kernel 'fake' has no code that classifies blocks on cuda:0, a GPU of compute capability 9.0",
      [](Mask &m) {
        m.kernel.num_gpu_mask_codes = 0;
        m.kernel.gpu_mask_codes = nullptr;
      },
      HEED_UNSUPPORTED_GPU);
}

TEST_F(ClassifyLaunch, UnknownDevices) {
  expectErrors("argument 'device': expected a number from 0 to 2, found 3",
               [](Mask &m) { m.device = 3; });
  expectErrors("argument 'device': expected a number from 0 to 2, found -1",
               [](Mask &m) { m.device = -1; });
}

TEST_F(ClassifyLaunch, WithoutACurrentContextThePrimaryOneIsPushed) {
  Mask m;
  fake::setCurrent(nullptr);
  ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::getCurrent(), nullptr);
  ASSERT_EQ(m.list(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::getCurrent(), nullptr);
  EXPECT_EQ(cuda().launches.size(), 3u);
  for (const Launched &l : cuda().launches)
    EXPECT_EQ(l.context, cuda().primaries[0]);
  for (Call call : calls) { // nor is it left behind by an error
    cuda().failNext("cuLaunchKernel", 701);
    EXPECT_EQ((m.*call)(), HEED_LAUNCH_FAILED);
    EXPECT_EQ(fake::getCurrent(), nullptr);
  }
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(ClassifyLaunch, ContextErrors) {
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuCtxGetCurrent", 3);
    expectError(m, call,
                "cannot find the current CUDA context: CUDA_ERROR_NOT_INITIALIZED (initialization "
                "error)",
                HEED_LAUNCH_FAILED);
    fake::setCurrent(nullptr);
    cuda().failNext("cuCtxPushCurrent_v2", 2);
    expectError(
        m, call,
        "cannot use the primary context of cuda:0: CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
        HEED_OUT_OF_MEMORY);
    fake::setCurrent(cuda().primaries[0]);
  }
}

TEST_F(ClassifyLaunch, LoadsOnce) {
  Mask m;
  for (int i = 0; i < 3; ++i)
    for (Call call : calls)
      ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  EXPECT_EQ(cuda().callsOf("cuModuleGetFunction"), 4);
  EXPECT_EQ(cuda().callsOf("cuFuncSetAttribute"), 0); // no dynamic shared memory
  EXPECT_EQ(cuda().launches.size(), 12u);
}

TEST_F(ClassifyLaunch, AHotCallIsShort) {
  Mask m;
  for (Call call : calls) {
    ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
    cuda().clearRecords();
    ASSERT_EQ((m.*call)(), HEED_OK);
    bool isList = call != &Mask::classify;
    EXPECT_EQ(cuda().callsOf("cuPointerGetAttributes"), isList ? 5 : 1);
    EXPECT_EQ(cuda().callsOf("cuCtxGetCurrent"), 1);
    EXPECT_EQ(cuda().callsOf("cuCtxGetId"), 1);
    EXPECT_EQ(cuda().callsOf("cuLaunchKernel"), isList ? 1 : 2);
    EXPECT_EQ(cuda().totalCalls(), isList ? 8 : 5); // nothing waits
  }
}

TEST_F(ClassifyLaunch, Unload) {
  int before = cuda().liveModules();
  {
    Mask a, b;
    ASSERT_EQ(a.classify(), HEED_OK) << heed_last_error();
    ASSERT_EQ(b.list(), HEED_OK) << heed_last_error();
    a.moveAll(2); // the other code
    ASSERT_EQ(a.list(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().liveModules(), before + 3);
    heed_gpu_unload(&a.kernel);
    EXPECT_EQ(cuda().liveModules(), before + 1);
    heed_gpu_unload(&a.kernel);
    ASSERT_EQ(a.classify(), HEED_OK) << heed_last_error(); // loads again
    EXPECT_EQ(cuda().liveModules(), before + 2);
    ASSERT_EQ(b.classify(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 4);
  }
  EXPECT_EQ(cuda().liveModules(), before);
}

TEST_F(ClassifyLaunch, WhileAStreamIsCaptured) {
  Mask m; // nothing of it is loaded yet
  m.stream = cuda().makeStream(cuda().primaries[0]);
  m.stream->capturing = 1;
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(m.list(), HEED_OK) << heed_last_error();
  EXPECT_EQ(m.stream->capturing, 1) << "the capture goes on";
  EXPECT_EQ(cuda().launches.size(), 3u);
}

TEST_F(ClassifyLaunch, LoadErrors) {
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuModuleLoadDataEx", 2);
    expectError(m, call,
                "kernel 'fake': cannot compile its PTX for sm_90a (no log): "
                "CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
                HEED_OUT_OF_MEMORY);
    EXPECT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  }
  expectErrors(
      "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_NO_BINARY_FOR_GPU (no kernel "
      "image is available for execution)",
      [](Mask &m) {
        m.codes[0].module.ptx = nullptr;
        m.codes[0].module.cubin = "foreign";
      },
      HEED_LAUNCH_FAILED);
}

TEST_F(ClassifyLaunch, EntriesThatAreMissing) {
  int before = cuda().liveModules();
  // All are looked for at once, whichever is needed.
  expectErrors(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'mask_clas'",
      [](Mask &m) { m.codes[0].classify = "mask_clas"; }, HEED_LAUNCH_FAILED);
  expectErrors(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'settle'",
      [](Mask &m) { m.codes[0].settle = "settle"; }, HEED_LAUNCH_FAILED);
  expectErrors(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'mask_lists'",
      [](Mask &m) { m.codes[0].list = "mask_lists"; }, HEED_LAUNCH_FAILED);
  expectErrors(
      "kernel 'fake': cannot find the entry 'mask_classify' of its code for sm_90a: "
      "CUDA_ERROR_INVALID_VALUE (invalid argument)",
      [](Mask &) { cuda().failNext("cuModuleGetFunction", 1); }, HEED_LAUNCH_FAILED);
  EXPECT_EQ(cuda().liveModules(), before);
}

TEST_F(ClassifyLaunch, LaunchErrors) {
  const char *message =
      "kernel 'fake': cannot launch on cuda:0: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES "
      "(too many resources requested for launch)";
  for (Call call : calls) {
    Mask m;
    cuda().failNext("cuLaunchKernel", 701);
    expectError(m, call, message, HEED_LAUNCH_FAILED);
    EXPECT_EQ((m.*call)(), HEED_OK) << heed_last_error();
  }
  Mask m; // the second of two
  cuda().failNext("cuLaunchKernel", 0);
  cuda().failNext("cuLaunchKernel", 701);
  EXPECT_EQ(m.classify(), HEED_LAUNCH_FAILED);
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_EQ(cuda().launches.size(), 1u);
}

TEST_F(ClassifyLaunch, BrokenContext) {
  for (Call call : calls) {
    Mask m;
    ASSERT_EQ((m.*call)(), HEED_OK) << heed_last_error();
    cuda().sticky = 700;
    expectError(m, call,
                "the CUDA context is broken by an earlier error: CUDA_ERROR_ILLEGAL_ADDRESS (an "
                "illegal memory access was encountered)",
                HEED_LAUNCH_FAILED);
    cuda().sticky = 0;
  }
}

TEST_F(ClassifyLaunch, StreamOfAnotherContext) {
  expectErrors(
      "kernel 'fake': cannot launch on cuda:0 (is the stream one of the device's current "
      "context?): CUDA_ERROR_INVALID_HANDLE (invalid resource handle)",
      [](Mask &m) { m.stream = cuda().makeStream(cuda().primaries[1]); }, HEED_LAUNCH_FAILED);
}

//===----------------------------------------------------------------------===//
// Where the data is
//===----------------------------------------------------------------------===//

TEST_F(ClassifyLaunch, EveryArgumentMustBeOnTheDevice) {
  using Choose = Memory Mask::*;
  struct Case {
    Call call;
    const char *name;
    Choose memory;
  };
  for (Case c : {Case{&Mask::classify, "classes", &Mask::classes},
                 Case{&Mask::list, "classes", &Mask::classes},
                 Case{&Mask::list, "partial_counts", &Mask::partialCounts},
                 Case{&Mask::list, "partial_indices", &Mask::partialIndices},
                 Case{&Mask::list, "full_counts", &Mask::fullCounts},
                 Case{&Mask::list, "full_indices", &Mask::fullIndices}}) {
    std::string start = std::string("argument '") + c.name + "': expected memory on cuda:0, found ";
    Mask m;
    Memory &memory = m.*c.memory;
    memory.move(fake::OnDevice, 1);
    expectError(m, c.call, (start + "cuda:1").c_str());
    memory.move(fake::PinnedElsewhere, 0); // at another address on the device
    expectError(m, c.call, (start + "host memory").c_str());
    memory.toHost();
    expectError(m, c.call, (start + "host memory").c_str());
    for (fake::Where where : {fake::Pinned, fake::Managed}) {
      memory.move(where, 1);
      EXPECT_EQ((m.*c.call)(), HEED_OK) << heed_last_error();
    }
    memory.move(fake::OnDevice, 0);
    m.moveAll(1);
    memory.move(fake::OnDevice, 0);
    start.replace(start.find("cuda:0"), 6, "cuda:1");
    expectError(m, c.call, (start + "cuda:0").c_str());
  }
}

TEST_F(ClassifyLaunch, AddressesThatCannotBeLookedUp) {
  expectErrors(
      "argument 'classes': cannot find out where it is: CUDA_ERROR_NOT_INITIALIZED "
      "(initialization error)",
      [](Mask &) { cuda().failNext("cuPointerGetAttributes", 3); }, HEED_LAUNCH_FAILED);
}

TEST_F(ClassifyLaunch, CapturedTensorsMustBeOnTheDevice) {
  Mask m;
  Memory ids(64), table(0, fake::OnDevice, 1);
  const int64_t extents[] = {HEED_EXTENT_SKV, HEED_EXTENT_ANY};
  m.params = {{"ids", HEED_I32, 1, extents, 0, {}}, {"table", HEED_F32, 2, extents, 0, {}}};
  heed_tensor tensors[] = {Launch::tensor(ids.data(), HEED_I32, {3000}),
                           Launch::tensor(table.data(), HEED_F32, {3000, 0})};
  m.values.resize(2);
  m.values[0].tensor = &tensors[0];
  m.values[1].tensor = &tensors[1]; // without elements, hence anywhere
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  ids.move(fake::OnDevice, 1);
  expectError(m, &Mask::classify, "argument 'ids': expected memory on cuda:0, found cuda:1");
  ids.toHost();
  expectError(m, &Mask::classify, "argument 'ids': expected memory on cuda:0, found host memory");
}

TEST_F(ClassifyLaunch, ListsMustBeAligned) {
  struct Case {
    const char *name;
    int32_t *heed_block_lists::*list;
  };
  for (Case c : {Case{"partial_counts", &heed_block_lists::partial_counts},
                 Case{"partial_indices", &heed_block_lists::partial_indices},
                 Case{"full_counts", &heed_block_lists::full_counts},
                 Case{"full_indices", &heed_block_lists::full_indices}}) {
    Mask m;
    char *data = reinterpret_cast<char *>(m.lists.*c.list);
    m.lists.*c.list = reinterpret_cast<int32_t *>(data + 2);
    expectError(m, &Mask::list,
                (std::string("argument '") + c.name + "': data is not aligned to 4 bytes").c_str());
    m.lists.*c.list = reinterpret_cast<int32_t *>(data + 4);
    EXPECT_EQ(m.list(), HEED_OK) << heed_last_error();
  }
}

//===----------------------------------------------------------------------===//
// What is asked
//===----------------------------------------------------------------------===//

TEST_F(ClassifyLaunch, Null) {
  Mask m;
  EXPECT_EQ(heed_launch_classify(nullptr, &m.question, nullptr, &m.matrix, nullptr, 0),
            HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'kernel': expected a kernel, found NULL");
  EXPECT_EQ(heed_launch_list(nullptr, &m.matrix, 0, &m.lists, nullptr, 0), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'kernel': expected a kernel, found NULL");
  expectError(&Mask::classify, "argument 'question': expected an address, found NULL",
              [](Mask &m) { m.asked = nullptr; });
  expectErrors("argument 'matrix': expected an address, found NULL",
               [](Mask &m) { m.given = nullptr; });
  expectError(&Mask::list, "argument 'lists': expected an address, found NULL",
              [](Mask &m) { m.filled = nullptr; });
}

TEST_F(ClassifyLaunch, Abi) {
  expectErrors(
      "argument 'kernel': expected Heed ABI version 6, found 99; compile it again",
      [](Mask &m) { m.kernel.abi_version = 99; }, HEED_ABI_MISMATCH);
}

TEST_F(ClassifyLaunch, DamagedCode) {
  const char *missing = "kernel 'fake' is damaged: its list of GPU mask codes is missing";
  expectErrors(missing, [](Mask &m) { m.kernel.gpu_mask_codes = nullptr; });
  expectErrors(missing, [](Mask &m) { m.kernel.num_gpu_mask_codes = -1; });
  const char *empty = "kernel 'fake' is damaged: a GPU mask code has no entry point or no threads";
  expectErrors(empty, [](Mask &m) { m.codes[0].module.ptx = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[0].classify = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[0].settle = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[0].list = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[1].warps = 0; }); // chosen or not
  expectErrors(empty, [](Mask &m) { m.codes[0].warps = 33; });
}

TEST_F(ClassifyLaunch, Numbers) {
  auto expectNumber = [](auto heed_mask_question::*number, int64_t value, const char *message) {
    expectError(&Mask::classify, message, [=](Mask &m) {
      m.question.*number = std::decay_t<decltype(m.question.*number)>(value);
    });
  };
  expectNumber(&heed_mask_question::batch, -1,
               "argument 'batch': expected a number from 0 to 2147483647, found -1");
  expectNumber(&heed_mask_question::query_heads, largest + 1,
               "argument 'query_heads': expected a number from 0 to 2147483647, found 2147483648");
  expectNumber(&heed_mask_question::key_heads, -2,
               "argument 'key_heads': expected a number from 0 to 2147483647, found -2");
  expectNumber(&heed_mask_question::query_length, -5,
               "argument 'query_length': expected a number from 0 to 2147483647, found -5");
  expectNumber(&heed_mask_question::key_length, largest + 1,
               "argument 'key_length': expected a number from 0 to 2147483647, found 2147483648");
  expectNumber(&heed_mask_question::block_q, 0,
               "argument 'block_q': expected a number from 1 to 2147483647, found 0");
  expectNumber(&heed_mask_question::block_kv, -3,
               "argument 'block_kv': expected a number from 1 to 2147483647, found -3");
}

TEST_F(ClassifyLaunch, ExtentsOfTheMatrix) {
  expectErrors("argument 'matrix': expected num_batches from 0 to 2147483616, found -1",
               [](Mask &m) { m.matrix.num_batches = -1; });
  expectErrors("argument 'matrix': expected num_heads from 0 to 2147483616, found 2147483648",
               [](Mask &m) { m.matrix.num_heads = largest + 1; });
  expectErrors("argument 'matrix': expected num_rows from 0 to 2147483616, found -7",
               [](Mask &m) { m.matrix.num_rows = -7; });
  expectErrors("argument 'matrix': expected num_columns from 0 to 2147483616, found 4294967296",
               [](Mask &m) { m.matrix.num_columns = int64_t(1) << 32; });
  expectErrors("argument 'matrix': expected fewer than 2^63 blocks of fewer than 2^31 lists, found "
               "65536 x 32768 x 63 x 94",
               [](Mask &m) { m.matrix.num_batches = 65536, m.matrix.num_heads = 32768; });
  expectErrors("argument 'matrix': expected fewer than 2^63 blocks of fewer than 2^31 lists, found "
               "3 x 1 x 2147483616 x 2147483616",
               [](Mask &m) { m.matrix = {m.matrix.classes, 3, 1, largest - 31, largest - 31}; });
}

TEST_F(ClassifyLaunch, AMatrixOfAnotherShape) {
  auto expectExtent = [](int64_t heed_class_matrix::*extent, int64_t value, const char *message) {
    expectError(&Mask::classify, message, [=](Mask &m) { m.matrix.*extent = value; });
  };
  expectExtent(&heed_class_matrix::num_batches, 3,
               "argument 'matrix': expected num_batches to be 2, found 3");
  expectExtent(&heed_class_matrix::num_batches, 1,
               "argument 'matrix': expected num_batches to be 2, found 1");
  expectExtent(&heed_class_matrix::num_heads, 2,
               "argument 'matrix': expected num_heads to be 4, found 2");
  expectExtent(&heed_class_matrix::num_heads, 1,
               "argument 'matrix': expected num_heads to be 4, found 1");
  expectExtent(&heed_class_matrix::num_rows, 62,
               "argument 'matrix': expected num_rows to be 63, found 62");
  expectExtent(&heed_class_matrix::num_rows, 0,
               "argument 'matrix': expected num_rows to be 63, found 0");
  expectExtent(&heed_class_matrix::num_columns, 95,
               "argument 'matrix': expected num_columns to be 94, found 95");
  expectExtent(&heed_class_matrix::num_columns, 1,
               "argument 'matrix': expected num_columns to be 94, found 1");

  auto expectShared = [](int64_t heed_class_matrix::*extent, int64_t value, const char *message) {
    expectError(&Mask::classify, message, [=](Mask &m) {
      m.codes[0].uses_batch = m.codes[0].uses_head = 0;
      m.matrix.*extent = value;
    });
  };
  expectShared(&heed_class_matrix::num_batches, 0,
               "argument 'matrix': expected num_batches to be 2 or 1, found 0");
  expectShared(&heed_class_matrix::num_heads, 2,
               "argument 'matrix': expected num_heads to be 4 or 1, found 2");

  // Without batches there is nothing to fill.
  expectError(&Mask::classify, "argument 'matrix': expected num_batches to be 0, found 1",
              [](Mask &m) {
                m.codes[0].uses_batch = 0;
                m.question.batch = 0;
                m.matrix.num_batches = 1;
              });
  expectError(&Mask::classify, "argument 'matrix': expected num_heads to be 0, found 1",
              [](Mask &m) {
                m.codes[0].uses_head = 0;
                m.question.query_heads = 0;
                m.matrix.num_heads = 1;
              });
}

TEST_F(ClassifyLaunch, TheLargestBlocks) {
  Mask m;
  constexpr int64_t most = (1 << 28) - 1;
  m.question.query_length = 64;
  m.question.key_length = most;
  m.question.block_q = m.question.block_kv = int32_t(largest);
  m.matrix.num_rows = m.matrix.num_columns = 1;
  ASSERT_EQ(m.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).args[HEED_MASK_ARG_BLOCK_KV], largest);
  m.question.query_length = 65;
  expectError(
      m, &Mask::classify,
      "kernel 'fake': expected blocks of fewer than 2^34 pairs and 2^28 queries or keys on a "
      "GPU, found 65 x 268435455");
  m.question.query_length = 1;
  m.question.key_length = most + 1;
  expectError(
      m, &Mask::classify,
      "kernel 'fake': expected blocks of fewer than 2^34 pairs and 2^28 queries or keys on a "
      "GPU, found 1 x 268435456");
  m.question.key_length = (1 << 30) - 1;
  m.question.block_kv = int32_t(most);
  m.matrix.num_columns = 5;
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  m.question.key_length = 1 << 30;
  expectError(m, &Mask::classify,
              "kernel 'fake': expected fewer than 2^30 queries and keys on a GPU, found 1 and "
              "1073741824");
}

TEST_F(ClassifyLaunch, TooManyPieces) {
  // Of settle; classify has fewer, and is not launched either.
  expectError(&Mask::classify,
              "kernel 'fake': expected fewer than 2^31 pieces of block lists, found 4 x 2147483646",
              [](Mask &m) { m.ask(1, 4, (1 << 30) - 1, 33); });
  expectError(&Mask::classify,
              "kernel 'fake': expected fewer than 2^31 pieces of block lists, found 1048576 x 2048",
              [](Mask &m) { m.ask(1024, 1024, 2048, 32); });
  expectError(&Mask::list,
              "kernel 'fake': expected fewer than 2^31 pieces of block lists, found 1048576 x 2048",
              [](Mask &m) { m.ask(1024, 1024, 2048, 94); });
  expectError(&Mask::list,
              "kernel 'fake': expected fewer than 2^31 pieces of block lists, found 1048576 x 2048",
              [](Mask &m) {
                m.ask(1024, 1024, 94, 2048);
                m.byColumn = 1;
              });

  Mask most;
  most.ask(1, 1, (1 << 30) - 1, 32);
  ASSERT_EQ(most.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).grid, 1u << 23); // 2^25 tiles of 32 rows
  EXPECT_EQ(cuda().launches.at(1).grid, 1u << 28);
  cuda().launches.clear();
  ASSERT_EQ(most.list(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).grid, 1u << 28);
}

TEST_F(ClassifyLaunch, Params) {
  Mask m;
  const int64_t extent = HEED_EXTENT_SKV;
  m.params = {{"ids", HEED_I32, 1, &extent, 0, {}}};
  expectError(m, &Mask::classify,
              "argument 'ids' (i32[Skv]): expected a value because it has no default, found none "
              "(params is NULL)");
  heed_tensor tensor = Launch::tensor(m.classes.data(), HEED_I32, {30});
  m.values.resize(1);
  m.values[0].tensor = nullptr;
  expectError(m, &Mask::classify, "argument 'ids' (i32[Skv]): expected a tensor, found NULL");
  const char *tooShort =
      "argument 'ids' (i32[Skv]): expected extent Skv = 3000 in dimension 0, found 30";
  m.values[0].tensor = &tensor;
  expectError(m, &Mask::classify, tooShort);
  m.values[0].i = 0;
  m.tensors = &tensor;
  expectError(m, &Mask::classify, tooShort);
}

TEST_F(ClassifyLaunch, ParametersMustFit) {
  heed_param scalar = {"x", HEED_I32, -1, nullptr, 1, {}};
  Mask m;
  m.params.assign(128, scalar);
  EXPECT_EQ(m.classify(), HEED_OK) << heed_last_error();
  m.params.assign(129, scalar);
  expectError(m, &Mask::classify, "kernel 'fake': expected at most 128 parameters, found 129");

  // 36 tensors of 13 words and 10 scalars are 478 words, after which 512 are full.
  const std::vector<int64_t> extents(6, HEED_EXTENT_ANY);
  heed_tensor tensor = Launch::tensor(nullptr, HEED_I32, {0, 0, 0, 0, 0, 0});
  heed_value value;
  value.tensor = &tensor;
  Mask wide;
  wide.params.assign(36, {"t", HEED_I32, 6, extents.data(), 0, {}});
  wide.values.assign(36, value);
  value.i = 5;
  wide.params.insert(wide.params.end(), 10, scalar);
  wide.values.insert(wide.values.end(), 10, value);
  ASSERT_EQ(wide.classify(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.at(0).args.size(), 512u);
  EXPECT_EQ(cuda().launches.at(0).args.back(), 5);
  EXPECT_EQ(wide.list(), HEED_OK) << heed_last_error();
  wide.params.push_back(scalar);
  wide.values.push_back(value);
  for (Call call : calls)
    expectError(wide, call,
                "kernel 'fake': expected at most 512 argument words on a GPU, found 513");
}

} // namespace
