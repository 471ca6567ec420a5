//===-- ClassifyLaunchCheckTest.cpp - What is refused -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeMask.h"

#include <gtest/gtest.h>

namespace {

using fake::calls;
using fake::cuda;
using fake::expectError;
using fake::expectErrors;
using fake::largest;
using fake::Launch;
using fake::Mask;
using fake::Memory;
using ClassifyLaunch = fake::GpuTest;
using Call = Mask::Call;

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
      "argument 'kernel': expected Heed ABI version 7, found 99; compile it again",
      [](Mask &m) { m.kernel.abi_version = 99; }, HEED_ABI_MISMATCH);
}

TEST_F(ClassifyLaunch, DamagedCode) {
  const char *missing = "kernel 'fake' is damaged: its list of GPU mask codes is missing";
  expectErrors(missing, [](Mask &m) { m.kernel.gpu_mask_codes = nullptr; });
  expectErrors(missing, [](Mask &m) { m.kernel.num_gpu_mask_codes = -1; });
  const char *empty = "kernel 'fake' is damaged: a GPU mask code has no entry point";
  expectErrors(empty,
               [](Mask &m) { m.codes[0].kernels[HEED_MASK_KERNEL_FILL].module.ptx = nullptr; });
  expectErrors(empty,
               [](Mask &m) { m.codes[0].kernels[HEED_MASK_KERNEL_CLASSIFY].entry = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[0].kernels[HEED_MASK_KERNEL_SETTLE].entry = nullptr; });
  expectErrors(empty, [](Mask &m) { m.codes[0].kernels[HEED_MASK_KERNEL_LIST].entry = nullptr; });
  const char *idle = "kernel 'fake' is damaged: a GPU mask code has no threads";
  expectErrors(idle, [](Mask &m) { m.codes[1].warps = 0; }); // chosen or not
  expectErrors(idle, [](Mask &m) { m.codes[0].warps = 33; });
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
