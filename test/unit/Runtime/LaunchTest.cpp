//===-- LaunchTest.cpp - Launches on a driver without a GPU -----*- C++ -*-===//
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
using fake::Memory;
using Gpu = fake::GpuTest;

using Words = std::vector<uint64_t>;
using Boxes = std::vector<uint32_t>;

int64_t word(const void *pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer)); }

//===----------------------------------------------------------------------===//
// A launch
//===----------------------------------------------------------------------===//

TEST_F(Gpu, GeometryAndArguments) {
  Launch c;
  c.withRowNumbers();
  c.call.num_threads = -5; // ignored
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  ASSERT_EQ(cuda().launches.size(), 1u);
  const Launched &l = cuda().launches[0];
  EXPECT_EQ(l.function, "attend");
  EXPECT_EQ(l.context, cuda().primaries[0]);
  EXPECT_EQ(l.stream, nullptr);
  EXPECT_EQ(l.grid, 2u * 4 * 3); // ceil(300 / 128)
  EXPECT_EQ(l.block, 384u);
  EXPECT_EQ(l.shared, 200000u);
  EXPECT_EQ(l.args[HEED_ARG_QUERY], word(c.query.data()));
  EXPECT_EQ(l.args[HEED_ARG_MAX_SCORES], word(c.maxScores.data()));
  EXPECT_EQ(l.args[HEED_ARG_PACKED], 0);
  EXPECT_EQ(l.args[HEED_ARG_HQ], 4);
  EXPECT_EQ(l.args[HEED_ARG_SKV], 200);
  EXPECT_EQ(l.args[HEED_ARG_KEY_STRIDES + 1], 200 * 64);
  EXPECT_EQ(l.args[HEED_ARG_COUNTER], 0); // not persistent
  EXPECT_EQ(l.args[HEED_ARG_LISTS], 0);
  float scale = 0.125f;
  EXPECT_EQ(memcmp(&l.args[HEED_ARG_SCALE], &scale, 4), 0);
}

TEST_F(Gpu, Maps) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  const std::vector<fake::Encoded> &maps = cuda().launches.at(0).maps;
  ASSERT_EQ(maps.size(), 4u);
  EXPECT_EQ(maps[0].address, uintptr_t(c.query.data()));
  EXPECT_EQ(maps[0].type, 9);
  EXPECT_EQ(maps[0].extents, (Words{64, 300, 4, 2}));
  EXPECT_EQ(maps[0].strides, (Words{128, 300 * 128, 4 * 300 * 128}));
  EXPECT_EQ(maps[0].box, (Boxes{64, 128, 1, 1}));
  EXPECT_EQ(maps[0].interleave, 0);
  EXPECT_EQ(maps[0].swizzle, 3);
  EXPECT_EQ(maps[0].l2Promotion, 3);
  EXPECT_EQ(maps[0].fill, 0);
  EXPECT_EQ(maps[1].extents, (Words{64, 200, 2, 2}));
  EXPECT_EQ(maps[1].box, (Boxes{64, 64, 1, 1}));
  EXPECT_EQ(maps[2].address, uintptr_t(c.value.data()));
  EXPECT_EQ(maps[2].extents, (Words{32, 200, 2, 2}));
  EXPECT_EQ(maps[2].swizzle, 2);
  EXPECT_EQ(maps[3].address, uintptr_t(c.output.data()));
  EXPECT_EQ(maps[3].swizzle, 1);
}

TEST_F(Gpu, MapsOfOtherTypes) {
  for (heed_dtype dtype : {HEED_F16, HEED_F32}) {
    Launch c(1, 1, 1, 8, 8);
    c.maps = {{HEED_ARG_QUERY, 8, dtype == HEED_F32 ? 32 : 64}};
    c.codes[0].num_maps = 1;
    c.codes[0].maps = c.maps.data();
    c.kernel.num_gpu_codes = 1;
    c.codes.pop_back();
    c.kernel.dtype = c.call.query.dtype = c.call.key.dtype = c.call.value.dtype =
        c.call.output.dtype = dtype;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.at(0).maps[0].type, dtype == HEED_F32 ? 7 : 6);
    EXPECT_EQ(cuda().launches.at(0).maps[0].swizzle, 3);
  }
}

TEST_F(Gpu, MapsOfBroadcastsAndSingleDimensions) {
  Launch c(2, 4, 2, 1, 200);
  c.call.key.shape[0] = 1;         // a batch for all
  c.call.key.strides[0] = 7;       // which has no stride
  c.call.value.strides[1] = 0;     // one head for all
  c.call.query.strides[2] = 3;     // a single query
  c.call.output.strides[2] = -999; // likewise
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  const Launched &l = cuda().launches.at(0);
  EXPECT_EQ(l.maps[1].extents, (Words{64, 200, 2, 1}));
  EXPECT_EQ(l.args[HEED_ARG_KEY_STRIDES], 0);
  EXPECT_EQ(l.maps[2].extents, (Words{32, 200, 1, 2}));
  EXPECT_EQ(l.args[HEED_ARG_VALUE_STRIDES + 1], 0);
  EXPECT_EQ(l.maps[0].extents, (Words{64, 1, 4, 2}));
  EXPECT_EQ(l.maps[3].extents, (Words{32, 1, 4, 2}));
}

TEST_F(Gpu, Packed) {
  Launch c;
  float slope[4];
  cuda().add(slope, sizeof(slope), fake::OnDevice, 0);
  const int64_t extents[] = {HEED_EXTENT_HQ};
  c.params = {{"window", HEED_I32, -1, nullptr, 0, {}}, {"slope", HEED_F32, 1, extents, 0, {}}};
  c.kernel.params = c.params.data();
  c.kernel.num_params = 2;
  cuda().signatures["attend"] = {4, c.numWords()};
  heed_tensor tensors[] = {{}, Launch::tensor(slope, HEED_F32, {4})};
  heed_value values[2];
  values[0].i = -3;
  values[1].i = 1;
  heed_call call = c.call;
  void *data[] = {call.query.data,  call.key.data, call.value.data,
                  call.output.data, nullptr,       nullptr};
  call.query.data = call.key.data = call.value.data = call.output.data = nullptr;
  call.params = nullptr;
  ASSERT_EQ(heed_launch_packed(&c.kernel, &call, data, values, tensors, nullptr, -1), HEED_OK)
      << heed_last_error();
  const Launched &l = cuda().launches.at(0);
  EXPECT_EQ(l.args[HEED_ARG_QUERY], word(c.query.data()));
  EXPECT_EQ(l.args[HEED_ARG_PARAMS], -3);
  EXPECT_EQ(l.args[HEED_ARG_PARAMS + 1], word(slope));
  EXPECT_EQ(heed_launch_packed(nullptr, &call, data, values, tensors, nullptr, -1),
            HEED_INVALID_ARGUMENT);
  EXPECT_EQ(heed_launch_packed(&c.kernel, nullptr, data, values, tensors, nullptr, -1),
            HEED_INVALID_ARGUMENT);
  cuda().remove(slope);
}

TEST_F(Gpu, ChecksOfHeedRun) {
  Launch c;
  EXPECT_EQ(heed_launch(nullptr, &c.call, nullptr), HEED_INVALID_ARGUMENT);
  EXPECT_EQ(heed_launch(&c.kernel, nullptr, nullptr), HEED_INVALID_ARGUMENT);
  expectError("argument 'key': expected head dim 64 in dimension 3, found 32",
              [](Launch &c) { c.call.key.shape[3] = 32; });
  expectError("argument 'scale': expected a finite f32 or NaN for 1/sqrt(D), found inf",
              [](Launch &c) { c.call.scale = INFINITY; });
  expectError("kernel 'fake' is damaged: its list of GPU codes is missing",
              [](Launch &c) { c.kernel.gpu_codes = nullptr; });
}

TEST_F(Gpu, NothingToDo) {
  for (int dim : {0, 1, 2}) {
    Launch c;
    c.call.query.shape[dim] = c.call.output.shape[dim] = 0;
    if (dim < 2)
      c.call.key.shape[dim] = c.call.value.shape[dim] = 0;
    c.call.query.data = c.call.output.data = nullptr;
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().totalCalls(), 0); // not even without a driver
  }
}

TEST_F(Gpu, NoKeys) {
  Launch c(2, 4, 2, 300, 0);
  c.call.key.data = c.call.value.data = nullptr;
  c.call.key.strides[0] = 3; // no stride counts
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  const Launched &l = cuda().launches.at(0);
  EXPECT_EQ(l.grid, 24u);
  EXPECT_EQ(l.maps[1].address, uintptr_t(c.query.data()));
  EXPECT_EQ(l.maps[1].extents, (Words{64, 1, 1, 1}));
  EXPECT_EQ(l.maps[2].extents, (Words{32, 1, 1, 1}));
  EXPECT_EQ(l.args[HEED_ARG_SKV], 0);
  EXPECT_EQ(l.args[HEED_ARG_SECTION], 8);
}

TEST_F(Gpu, AHotCallIsShort) {
  Launch c;
  c.codes[0].blocks_per_sm = 1;
  ASSERT_EQ(c.run(), HEED_OK);
  cuda().clearRecords();
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(cuda().callsOf("cuPointerGetAttributes"), 4);
  EXPECT_EQ(cuda().callsOf("cuTensorMapEncodeTiled"), 0);
  EXPECT_EQ(cuda().callsOf("cuCtxGetCurrent"), 1);
  EXPECT_EQ(cuda().callsOf("cuCtxGetId"), 1);
  EXPECT_EQ(cuda().callsOf("cuStreamIsCapturing"), 1);
  EXPECT_EQ(cuda().callsOf("cuLaunchKernel"), 1);
  EXPECT_EQ(cuda().totalCalls(), 8);
}

TEST_F(Gpu, AMapIsEncodedAnewWhereAnythingDiffers) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK);
  auto mapsOf = [&](Launch &launch) {
    cuda().clearRecords();
    EXPECT_EQ(launch.run(), HEED_OK);
    return cuda().callsOf("cuTensorMapEncodeTiled");
  };
  EXPECT_EQ(mapsOf(c), 0);
  c.call.query.shape[2] = 299;
  c.call.output.shape[2] = 299;
  EXPECT_EQ(mapsOf(c), 2);
  c.call.key.strides[1] += 64;
  EXPECT_EQ(mapsOf(c), 1);
}

TEST_F(Gpu, ACallerThatKnowsTheDeviceSavesQuestions) {
  Launch c;
  void *const data[] = {c.call.query.data,  c.call.key.data, c.call.value.data,
                        c.call.output.data, nullptr,         nullptr};
  for (int32_t device : {-1, 0}) {
    cuda().clearRecords();
    ASSERT_EQ(heed_launch_packed(&c.kernel, &c.call, data, nullptr, nullptr, nullptr, device),
              HEED_OK)
        << heed_last_error();
    EXPECT_EQ(cuda().callsOf("cuPointerGetAttributes"), device < 0 ? 4 : 0);
    EXPECT_EQ(cuda().launches.size(), 1u);
  }
  EXPECT_EQ(heed_launch_packed(&c.kernel, &c.call, data, nullptr, nullptr, nullptr, 9),
            HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(),
               "argument 'query': expected memory of a CUDA device, found memory "
               "of the unknown device 9");
}

//===----------------------------------------------------------------------===//
// Grids and sections
//===----------------------------------------------------------------------===//

TEST_F(Gpu, PersistentGrid) {
  Launch c(2, 64, 2, 300, 64); // 384 tiles
  c.codes[0].blocks_per_sm = 2;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().grid, 264u);
  c.codes[0].blocks_per_sm = 3;
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(cuda().launches.back().grid, 384u);
}

TEST_F(Gpu, BlocksPerTile) {
  Launch c(2, 64, 2, 300, 64); // 384 tiles
  c.codes[0].blocks_per_tile = 3;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().grid, 1152u);
  c.codes[0].blocks_per_tile = 0;
  expectError(c, "kernel 'fake' is damaged: its code for sm_90a has no block sizes or no threads");
}

TEST_F(Gpu, TooManyTiles) {
  Launch c(1, 1, 1, 1, 1);
  c.call.query = Launch::tensor(c.query.data(), HEED_BF16, {65536, 32, 131072, 64});
  c.call.output = Launch::tensor(c.output.data(), HEED_BF16, {65536, 32, 131072, 32});
  c.call.key.shape[1] = c.call.value.shape[1] = 32;
  c.call.key.strides[1] = c.call.value.strides[1] = 0;
  expectError(c,
              "kernel 'fake': expected at most 2^31 - 1 tiles of 128 queries, found 65536 x 32 x "
              "1024");
  c.call.query.shape[2] = c.call.output.shape[2] = 131072 - 128;
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().grid, 65536u * 32 * 1023);
  c.codes[0].blocks_per_tile = 2;
  expectError(c,
              "kernel 'fake': expected at most 1073741823 tiles of 128 queries, found 65536 x 32 x "
              "1023");
}

TEST_F(Gpu, Sections) {
  auto section = [](int64_t B, int64_t Hq, int64_t Hkv, int64_t Skv, int device = 0) {
    Launch c(1, 1, 1, 1, 1);
    c.codes[0] = c.codes[1]; // any strides
    c.expectsPlain = true;
    c.call.query = Launch::tensor(c.query.data(), HEED_BF16, {B, Hq, 1, 64});
    c.call.output = Launch::tensor(c.output.data(), HEED_BF16, {B, Hq, 1, 32});
    c.call.key = Launch::tensor(c.key.data(), HEED_BF16, {B, Hkv, Skv, 64});
    c.call.value = Launch::tensor(c.value.data(), HEED_BF16, {B, Hkv, Skv, 32});
    for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
      memory->move(fake::OnDevice, device);
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    return cuda().launches.empty() ? -1 : cuda().launches.back().args[HEED_ARG_SECTION];
  };
  // 192 bytes a key; 32 MiB are 174762 keys
  EXPECT_EQ(section(4, 16, 16, 16384), 8);    // 10 heads
  EXPECT_EQ(section(4, 16, 4, 16384), 8 * 4); // heads that share keys
  EXPECT_EQ(section(4, 6, 2, 16384), 8 * 3);
  EXPECT_EQ(section(1, 16, 4, 16384), 16);   // all there are
  EXPECT_EQ(section(4, 16, 16, 1 << 20), 1); // not even one
  EXPECT_EQ(section(4, 16, 16, 128), 64);
  EXPECT_EQ(section(64, 16, 16, 128), 64); // of short sequences no more than 16 KiB for each key
  EXPECT_EQ(section(64, 16, 16, 1024), 64);
  EXPECT_EQ(section(64, 16, 16, 4096), 32);
  EXPECT_EQ(section(4, 16, 16, 4096, 2), 4); // half of 6 MiB, exactly
  EXPECT_EQ(section(4, 16, 16, 4097, 2), 2);
}

//===----------------------------------------------------------------------===//
// Failing launches
//===----------------------------------------------------------------------===//

TEST_F(Gpu, BrokenContext) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK);
  cuda().sticky = 700;
  expectError(c,
              "the CUDA context is broken by an earlier error: CUDA_ERROR_ILLEGAL_ADDRESS (an "
              "illegal memory access was encountered)",
              HEED_LAUNCH_FAILED);
}

TEST_F(Gpu, StreamOfAnotherContext) {
  Launch c;
  c.stream = cuda().makeStream(cuda().primaries[1]);
  expectError(c,
              "kernel 'fake': cannot launch on cuda:0 (is the stream one of the device's current "
              "context?): CUDA_ERROR_INVALID_HANDLE (invalid resource handle)",
              HEED_LAUNCH_FAILED);
}

TEST_F(Gpu, MapsThatCannotBeEncoded) {
  Launch c(1, 1, 1, 77, 7); // lengths whose maps no other test encodes
  cuda().failNext("cuTensorMapEncodeTiled", 1);
  expectError(c,
              "kernel 'fake': cannot encode tensor map 0 of boxes of 128 x 64: "
              "CUDA_ERROR_INVALID_VALUE (invalid argument)",
              HEED_LAUNCH_FAILED);
}

TEST(GpuStatus, Names) {
  EXPECT_STREQ(heed_status_name(HEED_UNSUPPORTED_GPU), "HEED_UNSUPPORTED_GPU");
  EXPECT_STREQ(heed_status_name(HEED_LAUNCH_FAILED), "HEED_LAUNCH_FAILED");
}

} // namespace
