//===-- ArgumentsTest.cpp - The argument block and dense tensors ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeKernel.h"

#include <gtest/gtest.h>
#include <limits>
#include <string.h>

namespace {

int64_t bitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return int64_t(bits);
}

int64_t word(const void *pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer)); }

TEST(Arguments, TensorsAndExtents) {
  fake::Call c(2, 4, 2, 5, 7);
  c.withLse();
  c.withMaxScores();
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  const std::vector<int64_t> &args = fake::record.args;
  EXPECT_EQ(args[HEED_ARG_QUERY], word(c.query.data()));
  EXPECT_EQ(args[HEED_ARG_KEY], word(c.key.data()));
  EXPECT_EQ(args[HEED_ARG_VALUE], word(c.value.data()));
  EXPECT_EQ(args[HEED_ARG_OUTPUT], word(c.output.data()));
  EXPECT_EQ(args[HEED_ARG_LSE], word(c.lse.data()));
  EXPECT_EQ(args[HEED_ARG_MAX_SCORES], word(c.maxScores.data()));
  EXPECT_EQ(args[HEED_ARG_PACKED], 0);
  EXPECT_EQ(args[HEED_ARG_B], 2);
  EXPECT_EQ(args[HEED_ARG_HQ], 4);
  EXPECT_EQ(args[HEED_ARG_HKV], 2);
  EXPECT_EQ(args[HEED_ARG_SQ], 5);
  EXPECT_EQ(args[HEED_ARG_SKV], 7);
  std::vector<int64_t> strides(args.begin() + HEED_ARG_QUERY_STRIDES,
                               args.begin() + HEED_ARG_SCALE);
  EXPECT_EQ(strides, (std::vector<int64_t>{160, 40, 8, 112, 56, 8, 56, 28, 4, 80, 20, 4, 20, 5, 1,
                                           20, 5, 1}));
}

TEST(Arguments, UnwantedLse) {
  fake::Call c(1, 1, 1, 4, 4);
  c.call.lse.rank = 77; // nothing of it counts
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::record.args[HEED_ARG_LSE], 0);
  EXPECT_EQ(fake::record.args[HEED_ARG_LSE_STRIDES], 0);
  EXPECT_EQ(fake::record.args[HEED_ARG_MAX_SCORES], 0);
}

TEST(Arguments, Scale) {
  fake::Call c(1, 1, 1, 4, 4);
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(fake::record.args[HEED_ARG_SCALE], bitsOf(float(1 / std::sqrt(8.0))));
  c.call.scale = -0.125; // the sign bit must not spread into the high half
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(fake::record.args[HEED_ARG_SCALE], bitsOf(-0.125f));
  EXPECT_EQ(uint64_t(fake::record.args[HEED_ARG_SCALE]) >> 32, 0u);
}

TEST(Arguments, BroadcastAndNegativeStrides) {
  fake::Call c(3, 2, 2, 4, 6);
  c.call.key.shape[0] = 1;
  c.call.value.strides[1] = 0;
  c.call.query.data = c.query.data() + 3 * 8;
  c.call.query.strides[2] = -8;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::record.args[HEED_ARG_KEY_STRIDES], 0);
  EXPECT_EQ(fake::record.args[HEED_ARG_KEY_STRIDES + 1], 48);
  EXPECT_EQ(fake::record.args[HEED_ARG_VALUE_STRIDES], 48);
  EXPECT_EQ(fake::record.args[HEED_ARG_VALUE_STRIDES + 1], 0);
  EXPECT_EQ(fake::record.args[HEED_ARG_QUERY_STRIDES + 2], -8);
}

TEST(Arguments, ParametersInOrder) {
  fake::Call c(1, 2, 2, 4, 6);
  const int64_t extents[] = {HEED_EXTENT_HQ, HEED_EXTENT_ANY};
  const heed_param params[] = {{"cap", HEED_F32, -1, nullptr, 0, {}},
                               {"bias", HEED_F32, 2, extents, 0, {}},
                               {"window", HEED_I32, -1, nullptr, 0, {}},
                               {"flag", HEED_BOOL, -1, nullptr, 0, {}},
                               {"half", HEED_F16, -1, nullptr, 0, {}}};
  c.kernel.params = params;
  c.kernel.num_params = 5;
  float bias[6];
  const int64_t shape[] = {2, 3};
  heed_tensor tensor = heed_dense_tensor(bias, HEED_F32, 2, shape);
  tensor.strides[0] = 1;
  tensor.strides[1] = -2;
  heed_value values[5];
  values[0].f = -2.5;
  values[1].tensor = &tensor;
  values[2].i = -3;
  values[3].i = 1;
  values[4].f = std::numeric_limits<double>::infinity();
  c.call.params = values;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  auto p = fake::record.args.begin() + HEED_ARG_PARAMS;
  EXPECT_EQ(std::vector<int64_t>(p, p + 9),
            (std::vector<int64_t>{bitsOf(-2.5f), word(bias), 2, 3, 1, -2, -3, 1,
                                  bitsOf(std::numeric_limits<float>::infinity())}));
}

TEST(Arguments, Defaults) {
  fake::Call c(1, 1, 1, 4, 6);
  heed_param params[] = {{"cap", HEED_F32, -1, nullptr, 1, {}},
                         {"window", HEED_I64, -1, nullptr, 1, {}}};
  params[0].default_value.f = 50;
  params[1].default_value.i = int64_t(1) << 40;
  c.kernel.params = params;
  c.kernel.num_params = 2;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(fake::record.args[HEED_ARG_PARAMS], bitsOf(50));
  EXPECT_EQ(fake::record.args[HEED_ARG_PARAMS + 1], int64_t(1) << 40);
}

TEST(Arguments, MoreWordsThanTheStackHolds) {
  fake::Call c(1, 1, 1, 4, 6);
  std::vector<heed_param> params(1000, {"many", HEED_I32, -1, nullptr, 0, {}});
  std::vector<heed_value> values(1000);
  for (int i = 0; i < 1000; ++i)
    values[i].i = i;
  c.kernel.params = params.data();
  c.kernel.num_params = 1000;
  c.call.params = values.data();
  c.code.tile = [](const int64_t *args, int64_t, int64_t, int64_t, void *) {
    fake::record.args.assign(args + HEED_ARG_PARAMS, args + HEED_ARG_PARAMS + 1000);
  };
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  for (int i = 0; i < 1000; ++i)
    ASSERT_EQ(fake::record.args[i], i);
}

TEST(DenseTensor, RowMajor) {
  const int64_t shape[] = {2, 3, 4};
  heed_tensor tensor = heed_dense_tensor(nullptr, HEED_BF16, 3, shape);
  EXPECT_EQ(tensor.dtype, HEED_BF16);
  EXPECT_EQ(tensor.strides[0], 12);
  EXPECT_EQ(tensor.strides[1], 4);
  EXPECT_EQ(tensor.strides[2], 1);
  EXPECT_EQ(heed_dense_tensor(nullptr, HEED_F32, 9, shape).rank, 9);
  EXPECT_EQ(heed_dense_tensor(nullptr, HEED_F32, 0, nullptr).rank, 0);
}

} // namespace
