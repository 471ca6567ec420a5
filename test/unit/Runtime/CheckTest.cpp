//===-- CheckTest.cpp - Every mistake a caller can make has its message ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeKernel.h"

#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <thread>

namespace {

using fake::Call;

/// Expects `call` to fail with `message`, and no code to have run.
void expectError(Call &call, const char *message, heed_status expected = HEED_INVALID_ARGUMENT) {
  EXPECT_EQ(call.run(), expected) << message;
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_TRUE(fake::record.tiles.empty() && fake::record.prepares.empty());
}

/// B = 2, Hq = 8, Hkv = 4, Sq = 5, Skv = 7, D = 8, Dv = 4, with one change.
void expectError(const char *message, std::function<void(Call &)> change) {
  Call call(2, 8, 4, 5, 7);
  call.withLse();
  ASSERT_EQ(call.run(), HEED_OK) << heed_last_error();
  change(call);
  expectError(call, message);
}

TEST(Check, Null) {
  Call c(1, 1, 1, 1, 1);
  EXPECT_EQ(heed_run(nullptr, &c.call), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'kernel': expected a kernel, found NULL");
  EXPECT_EQ(heed_run(&c.kernel, nullptr), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'call': expected a call, found NULL");
}

TEST(Check, Abi) {
  Call c(1, 1, 1, 1, 1);
  c.kernel.abi_version = 99;
  expectError(c, "argument 'kernel': expected Heed ABI version 7, found 99; compile it again",
              HEED_ABI_MISMATCH);
}

TEST(Check, DamagedKernel) {
  expectError("kernel 'fake' is damaged: its dtype is not f16, bf16 or f32",
              [](Call &c) { c.kernel.dtype = HEED_I8; });
  expectError("kernel 'fake' is damaged: its head dims are not positive",
              [](Call &c) { c.kernel.head_dim = 0; });
  expectError("kernel 'fake' is damaged: its list of parameters is missing",
              [](Call &c) { c.kernel.num_params = 1; });
  expectError("kernel 'fake' is damaged: its list of codes is missing",
              [](Call &c) { c.kernel.codes = nullptr; });
  expectError("kernel 'fake' is damaged: a code has no entry point or no block sizes",
              [](Call &c) { c.code.block_q = 0; });
  expectError("kernel 'fake' is damaged: a parameter has no name, type, rank or extents",
              [](Call &c) {
                static const heed_param param = {"x", HEED_F32, 2, nullptr, 0, {}};
                c.kernel.params = &param;
                c.kernel.num_params = 1;
              });
}

TEST(Check, DType) {
  expectError("argument 'key': expected f32, found bf16",
              [](Call &c) { c.call.key.dtype = HEED_BF16; });
  expectError("argument 'query': expected f32, found the unknown dtype 42",
              [](Call &c) { c.call.query.dtype = heed_dtype(42); });
  expectError("argument 'lse': expected f32, found f16",
              [](Call &c) { c.call.lse.dtype = HEED_F16; });
  // LSE is f32 whatever the kernel's type is.
  Call c(1, 1, 1, 4, 4);
  c.withLse();
  c.kernel.dtype = c.call.query.dtype = c.call.key.dtype = c.call.value.dtype =
      c.call.output.dtype = HEED_BF16;
  c.code.tile = [](const int64_t *, int64_t, int64_t, int64_t, void *) {};
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
}

TEST(Check, RankAndExtents) {
  expectError("argument 'query': expected rank 4, found 3", [](Call &c) { c.call.query.rank = 3; });
  expectError("argument 'lse': expected rank 3, found 4", [](Call &c) { c.call.lse.rank = 4; });
  expectError("argument 'value': expected an extent of at least 0 in dimension 2, found -1",
              [](Call &c) { c.call.value.shape[2] = -1; });
  expectError("argument 'query': expected an extent of at most 2147483647 in dimension 2, found "
              "2147483648",
              [](Call &c) { c.call.query.shape[2] = int64_t(1) << 31; });
  expectError("argument 'key': expected an extent of at most 2147483647 in dimension 2, found "
              "4294967296",
              [](Call &c) { c.call.key.shape[2] = int64_t(1) << 32; });
}

TEST(Check, Shapes) {
  expectError("argument 'query': expected head dim 8 in dimension 3, found 16",
              [](Call &c) { c.call.query.shape[3] = 16; });
  expectError("argument 'key': expected head dim 8 in dimension 3, found 4",
              [](Call &c) { c.call.key.shape[3] = 4; });
  expectError("argument 'key': expected batch 2 or 1 in dimension 0, found 3",
              [](Call &c) { c.call.key.shape[0] = 3; });
  expectError("argument 'query': expected a number of heads that is a multiple of the key heads 3, "
              "found 8",
              [](Call &c) { c.call.key.shape[1] = 3; });
  expectError("argument 'query': expected a number of heads that is a multiple of the key heads 0, "
              "found 8",
              [](Call &c) { c.call.key.shape[1] = 0; });
  expectError("argument 'value': expected batch 2 or 1 in dimension 0, found 0",
              [](Call &c) { c.call.value.shape[0] = 0; });
  expectError("argument 'value': expected number of heads 4 in dimension 1, found 8",
              [](Call &c) { c.call.value.shape[1] = 8; });
  expectError("argument 'value': expected sequence length 7 in dimension 2, found 6",
              [](Call &c) { c.call.value.shape[2] = 6; });
  expectError("argument 'value': expected head dim 4 in dimension 3, found 8",
              [](Call &c) { c.call.value.shape[3] = 8; });
  expectError("argument 'output': expected batch 2 in dimension 0, found 1",
              [](Call &c) { c.call.output.shape[0] = 1; });
  expectError("argument 'output': expected number of heads 8 in dimension 1, found 4",
              [](Call &c) { c.call.output.shape[1] = 4; });
  expectError("argument 'output': expected sequence length 5 in dimension 2, found 7",
              [](Call &c) { c.call.output.shape[2] = 7; });
  expectError("argument 'output': expected head dim 4 in dimension 3, found 8",
              [](Call &c) { c.call.output.shape[3] = 8; });
  expectError("argument 'lse': expected batch 2 in dimension 0, found 1",
              [](Call &c) { c.call.lse.shape[0] = 1; });
  expectError("argument 'lse': expected number of heads 8 in dimension 1, found 1",
              [](Call &c) { c.call.lse.shape[1] = 1; });
  expectError("argument 'lse': expected sequence length 5 in dimension 2, found 1",
              [](Call &c) { c.call.lse.shape[2] = 1; });
  expectError("argument 'max_scores': expected batch 2 in dimension 0, found 1", [](Call &c) {
    c.withMaxScores();
    c.call.max_scores.shape[0] = 1;
  });
}

TEST(Check, Pointers) {
  expectError("argument 'query': data is NULL", [](Call &c) { c.call.query.data = nullptr; });
  expectError("argument 'key': data is NULL", [](Call &c) { c.call.key.data = nullptr; });
  expectError("argument 'value': data is NULL", [](Call &c) { c.call.value.data = nullptr; });
  expectError("argument 'output': data is NULL", [](Call &c) { c.call.output.data = nullptr; });
  expectError("argument 'query': expected a tensor, found NULL",
              [](Call &c) { c.call.query = heed_tensor(); });
  expectError("argument 'output': expected a tensor, found NULL",
              [](Call &c) { c.call.output = heed_tensor(); });
  expectError("argument 'output': data is not aligned to 4 bytes",
              [](Call &c) { c.call.output.data = reinterpret_cast<char *>(c.output.data()) + 2; });
  expectError("argument 'lse': data is not aligned to 4 bytes",
              [](Call &c) { c.call.lse.data = reinterpret_cast<char *>(c.lse.data()) + 1; });
  Call c(1, 1, 1, 4, 4);
  c.kernel.dtype = c.call.query.dtype = c.call.key.dtype = c.call.value.dtype =
      c.call.output.dtype = HEED_BF16;
  c.call.output.data = reinterpret_cast<char *>(c.output.data()) + 1;
  expectError(c, "argument 'output': data is not aligned to 2 bytes");
}

TEST(Check, Strides) {
  expectError("argument 'value': expected unit stride in the last dimension, found 2",
              [](Call &c) { c.call.value.strides[3] = 2; });
  expectError("argument 'output': expected elements that do not overlap, found stride 0 in "
              "dimension 1",
              [](Call &c) { c.call.output.strides[1] = 0; });
  expectError("argument 'output': expected elements that do not overlap, found stride -3 in "
              "dimension 2",
              [](Call &c) { c.call.output.strides[2] = -3; });
  expectError("argument 'output': expected elements that do not overlap, found strides that give "
              "all elements 204 places",
              [](Call &c) { c.call.output.strides[1] = 4, c.call.output.strides[0] = 156; });
  expectError("argument 'lse': expected elements that do not overlap, found stride 0 in dimension "
              "2",
              [](Call &c) { c.call.lse.strides[2] = 0; });
  expectError("argument 'key': expected strides within the address space, found a larger reach",
              [](Call &c) { c.call.key.strides[2] = std::numeric_limits<int64_t>::max() / 4; });
  expectError("argument 'key': expected strides within the address space, found a larger reach",
              [](Call &c) { c.call.key.strides[2] = std::numeric_limits<int64_t>::min(); });
}

TEST(Check, StridesThatDoNotMatter) {
  Call c(1, 1, 1, 5, 7);
  c.withLse();
  // Frameworks leave anything in dimensions of extent 1.
  c.call.output.strides[0] = c.call.output.strides[1] = c.call.lse.strides[0] = 0;
  c.call.key.strides[0] = 12345;
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  c.call.output.data = c.output.data() + 4 * 4;
  c.call.output.strides[2] = -4;
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
}

TEST(Check, Settings) {
  double infinity = std::numeric_limits<double>::infinity();
  expectError("argument 'scale': expected a finite f32 or NaN for 1/sqrt(D), found inf",
              [=](Call &c) { c.call.scale = infinity; });
  expectError("argument 'scale': expected a finite f32 or NaN for 1/sqrt(D), found -inf",
              [=](Call &c) { c.call.scale = -infinity; });
  expectError("argument 'scale': expected a finite f32 or NaN for 1/sqrt(D), found 1e+300",
              [](Call &c) { c.call.scale = 1e300; });
  expectError("argument 'num_threads': expected 0 or a positive number, found -2",
              [](Call &c) { c.call.num_threads = -2; });
}

/// A kernel with one parameter.
struct OneParam : Call {
  heed_param param;
  heed_value given;
  std::vector<int64_t> extents;
  OneParam(heed_dtype dtype, int32_t rank, std::vector<int64_t> shape = {})
      : Call(2, 8, 4, 5, 7), param{"p", dtype, rank, nullptr, 0, {}}, extents(std::move(shape)) {
    param.extents = extents.data();
    kernel.params = &param;
    kernel.num_params = 1;
    call.params = &given;
  }
};

TEST(Check, ScalarParams) {
  OneParam i8(HEED_I8, -1), i32(HEED_I32, -1), flag(HEED_BOOL, -1), f32(HEED_F32, -1);
  i8.given.i = 128;
  expectError(i8, "argument 'p' (i8): expected a number from -128 to 127, found 128");
  i8.given.i = -128;
  EXPECT_EQ(i8.run(), HEED_OK);
  i32.given.i = int64_t(1) << 31;
  expectError(i32, "argument 'p' (i32): expected a number from -2147483648 to 2147483647, found "
                   "2147483648");
  flag.given.i = 2;
  expectError(flag, "argument 'p' (bool): expected a number from 0 to 1, found 2");
  f32.given.f = 1e39;
  expectError(f32, "argument 'p' (f32): expected a number that f32 can hold, found 1e+39");
  f32.given.f = NAN;
  EXPECT_EQ(f32.run(), HEED_OK);
}

TEST(Check, MissingParams) {
  OneParam scalar(HEED_I32, -1), tensor(HEED_F32, 1, {HEED_EXTENT_HQ});
  scalar.call.params = tensor.call.params = nullptr;
  expectError(scalar, "argument 'p' (i32): expected a value because it has no default, found none "
                      "(params is NULL)");
  expectError(tensor, "argument 'p' (f32[Hq]): expected a value because it has no default, found "
                      "none (params is NULL)");
}

TEST(Check, CapturedTensors) {
  float data[64];
  int64_t sixteen = 16, eight = 8;
  heed_tensor tensor = heed_dense_tensor(data, HEED_F32, 1, &sixteen);
  OneParam slope(HEED_F32, 1, {HEED_EXTENT_HQ});
  slope.param.name = "slope";
  slope.given.tensor = &tensor;
  expectError(slope, "argument 'slope' (f32[Hq]): expected extent Hq = 8 in dimension 0, found 16");
  tensor = heed_dense_tensor(data, HEED_BF16, 1, &eight);
  expectError(slope, "argument 'slope' (f32[Hq]): expected f32, found bf16");
  tensor = heed_dense_tensor(data, HEED_F32, 0, nullptr);
  expectError(slope, "argument 'slope' (f32[Hq]): expected rank 1, found 0");
  tensor = heed_dense_tensor(nullptr, HEED_F32, 1, &eight);
  expectError(slope, "argument 'slope' (f32[Hq]): data is NULL");
  tensor = heed_dense_tensor(reinterpret_cast<char *>(data) + 1, HEED_F32, 1, &eight);
  expectError(slope, "argument 'slope' (f32[Hq]): data is not aligned to 4 bytes");
  slope.given.tensor = nullptr;
  expectError(slope, "argument 'slope' (f32[Hq]): expected a tensor, found NULL");
  slope.given.tensor = &tensor;
  tensor = heed_dense_tensor(data, HEED_F32, 1, &eight);
  tensor.strides[0] = 0;
  EXPECT_EQ(slope.run(), HEED_OK) << heed_last_error();
}

TEST(Check, ExtentsOfCapturedTensors) {
  std::vector<int32_t> data(100000);
  OneParam p(HEED_I32, 5, {HEED_EXTENT_B, HEED_EXTENT_HKV, HEED_EXTENT_SQ, HEED_EXTENT_SKV, 3});
  int64_t right[] = {2, 4, 5, 7, 3};
  const char *messages[] = {
      "extent B = 2 in dimension 0, found 9", "extent Hkv = 4 in dimension 1, found 9",
      "extent Sq = 5 in dimension 2, found 9", "extent Skv = 7 in dimension 3, found 9",
      "extent 3 in dimension 4, found 9"};
  heed_tensor tensor;
  p.given.tensor = &tensor;
  for (int i = 0; i < 5; ++i) {
    int64_t shape[5];
    std::copy(right, right + 5, shape);
    shape[i] = 9;
    tensor = heed_dense_tensor(data.data(), HEED_I32, 5, shape);
    expectError(
        p,
        (std::string("argument 'p' (i32[B, Hkv, Sq, Skv, 3]): expected ") + messages[i]).c_str());
  }
  tensor = heed_dense_tensor(data.data(), HEED_I32, 5, right);
  EXPECT_EQ(p.run(), HEED_OK) << heed_last_error();

  OneParam q(HEED_I32, 3, {HEED_EXTENT_D, HEED_EXTENT_DV, HEED_EXTENT_ANY});
  q.given.tensor = &tensor;
  int64_t shape[] = {8, 5, 1000};
  tensor = heed_dense_tensor(data.data(), HEED_I32, 3, shape);
  expectError(q, "argument 'p' (i32[D, Dv, ?]): expected extent Dv = 4 in dimension 1, found 5");
  shape[1] = 4;
  shape[2] = 0;
  tensor = heed_dense_tensor(nullptr, HEED_I32, 3, shape); // no elements, no memory
  EXPECT_EQ(q.run(), HEED_OK) << heed_last_error();
}

TEST(Check, LongNamesAreCut) {
  std::string name(2000, 'n');
  OneParam p(HEED_BOOL, -1);
  p.param.name = name.c_str();
  p.given.i = 7;
  EXPECT_EQ(p.run(), HEED_INVALID_ARGUMENT);
  EXPECT_NE(std::string(heed_last_error()).find("found 7"), std::string::npos);
}

TEST(Error, IsPerThread) {
  EXPECT_EQ(heed_run(nullptr, nullptr), HEED_INVALID_ARGUMENT);
  std::thread([] { EXPECT_STREQ(heed_last_error(), ""); }).join();
  EXPECT_STRNE(heed_last_error(), "");
}

TEST(Error, StatusNames) {
  EXPECT_STREQ(heed_status_name(HEED_OK), "HEED_OK");
  EXPECT_STREQ(heed_status_name(HEED_INVALID_ARGUMENT), "HEED_INVALID_ARGUMENT");
  EXPECT_STREQ(heed_status_name(HEED_UNSUPPORTED_CPU), "HEED_UNSUPPORTED_CPU");
  EXPECT_STREQ(heed_status_name(HEED_OUT_OF_MEMORY), "HEED_OUT_OF_MEMORY");
  EXPECT_STREQ(heed_status_name(HEED_ABI_MISMATCH), "HEED_ABI_MISMATCH");
  EXPECT_STREQ(heed_status_name(heed_status(77)), "unknown heed_status");
}

} // namespace
