//===-- LaunchTest.cpp - Launches on a driver without a GPU -----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"
#include "Probe.h"

#include <atomic>
#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace {

using fake::cuda;
using fake::Launch;
using fake::Launched;
using fake::Memory;
using Gpu = fake::GpuTest;

using Words = std::vector<uint64_t>;
using Boxes = std::vector<uint32_t>;

int64_t word(const void *pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer)); }

/// Expects `launch` to fail and to launch nothing.
void expectError(Launch &launch, const char *message,
                 heed_status expected = HEED_INVALID_ARGUMENT) {
  cuda().launches.clear();
  EXPECT_EQ(launch.run(), expected) << message;
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_TRUE(cuda().launches.empty());
}

void expectError(const char *message, std::function<void(Launch &)> change,
                 heed_status expected = HEED_INVALID_ARGUMENT) {
  Launch launch;
  change(launch);
  expectError(launch, message, expected);
}

//===----------------------------------------------------------------------===//
// Devices
//===----------------------------------------------------------------------===//

TEST_F(Gpu, Devices) {
  EXPECT_EQ(heed_gpu_count(), 3);
  EXPECT_EQ(heed_gpu_capability(0), 90);
  EXPECT_EQ(heed_gpu_capability(2), 86);
  EXPECT_EQ(heed_gpu_capability(3), 0);
  EXPECT_STREQ(heed_last_error(), "argument 'device': expected a number from 0 to 2, found 3");
  EXPECT_EQ(heed_gpu_capability(-1), 0);
}

TEST_F(Gpu, SelectionOfCode) {
  Launch c;
  EXPECT_EQ(heed_select_gpu_code(&c.kernel, 0), &c.codes[0]);
  EXPECT_EQ(heed_select_gpu_code(&c.kernel, 2), &c.codes[1]);
  EXPECT_EQ(heed_select_gpu_code(&c.kernel, 7), nullptr);
  EXPECT_STREQ(heed_last_error(), "argument 'device': expected a number from 0 to 2, found 7");
  EXPECT_EQ(heed_select_gpu_code(nullptr, 0), nullptr);
  c.codes[1].shared_bytes = 150000; // 8.6 has less than 8.0
  EXPECT_EQ(heed_select_gpu_code(&c.kernel, 2), nullptr);
  EXPECT_STREQ(heed_last_error(),
               "kernel 'fake': expected a GPU of compute capability 9.0 (sm_90a), or at least 8.0 "
               "(sm_80) with 150000 bytes of shared memory, found Fake A10 of compute capability "
               "8.6 with 101376 bytes of shared memory (cuda:2)");
  c.kernel.abi_version = 77;
  EXPECT_EQ(heed_select_gpu_code(&c.kernel, 0), nullptr);
}

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
// Where the data is
//===----------------------------------------------------------------------===//

TEST_F(Gpu, EveryArgumentMustBeOnTheDevice) {
  using Choose = std::function<Memory &(Launch &)>;
  std::pair<const char *, Choose> arguments[] = {
      {"key", [](Launch &c) -> Memory & { return c.key; }},
      {"value", [](Launch &c) -> Memory & { return c.value; }},
      {"output", [](Launch &c) -> Memory & { return c.output; }},
      {"lse", [](Launch &c) -> Memory & { return c.lse; }},
      {"max_scores", [](Launch &c) -> Memory & { return c.maxScores; }}};
  for (auto &[name, choose] : arguments) {
    std::string start = std::string("argument '") + name + "': expected memory on cuda:0, found ";
    Launch c;
    c.withRowNumbers();
    Memory &memory = choose(c);
    memory.move(fake::OnDevice, 1);
    expectError(c, (start + "cuda:1").c_str());
    memory.move(fake::PinnedElsewhere, 0); // at another address on the device
    expectError(c, (start + "host memory").c_str());
    memory.toHost();
    expectError(c, (start + "host memory").c_str());
    for (fake::Where where : {fake::Pinned, fake::Managed}) {
      memory.move(where, 1);
      EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    }
  }
}

TEST_F(Gpu, CapturedTensorsMustBeOnTheDevice) {
  Launch c;
  Memory slope(16), table(0, fake::OnDevice, 1);
  const int64_t extents[] = {HEED_EXTENT_HQ, HEED_EXTENT_ANY};
  c.params = {{"slope", HEED_F32, 1, extents, 0, {}}, {"table", HEED_F32, 2, extents, 0, {}}};
  heed_tensor tensors[] = {Launch::tensor(slope.data(), HEED_F32, {4}),
                           Launch::tensor(table.data(), HEED_F32, {4, 0})};
  c.values.resize(2);
  c.values[0].tensor = &tensors[0];
  c.values[1].tensor = &tensors[1]; // without elements, hence anywhere
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  slope.move(fake::OnDevice, 1);
  expectError(c, "argument 'slope': expected memory on cuda:0, found cuda:1");
  slope.toHost();
  expectError(c, "argument 'slope': expected memory on cuda:0, found host memory");
}

TEST_F(Gpu, TheQuerySaysWhichDevice) {
  Launch c;
  c.query.toHost();
  expectError(c, "argument 'query': expected memory of a CUDA device, found host memory");
  // How some drivers answer for pointers that they do not know.
  c.query.move(fake::OnDevice, 0);
  cuda().failNext("cuPointerGetAttributes", 1);
  expectError(c, "argument 'query': expected memory of a CUDA device, found host memory");
  for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
    memory->move(fake::OnDevice, 1);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, cuda().primaries[1]);
  c.key.move(fake::OnDevice, 0);
  expectError(c, "argument 'key': expected memory on cuda:1, found cuda:0");
}

TEST_F(Gpu, QueriesThatAllDevicesSee) {
  // The current context's device runs them, else the one that they were made with.
  Launch c;
  for (fake::Where where : {fake::Pinned, fake::Managed}) {
    for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
      memory->move(where, 1);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.back().context, cuda().primaries[0]);
    fake::setCurrent(nullptr);
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.back().context, cuda().primaries[1]);
    fake::setCurrent(cuda().primaries[0]);
  }
  c.query.move(fake::PinnedElsewhere, 0);
  expectError(c, "argument 'query': expected memory on cuda:0, found host memory");
}

//===----------------------------------------------------------------------===//
// Contexts
//===----------------------------------------------------------------------===//

TEST_F(Gpu, WithoutACurrentContextThePrimaryOneIsPushed) {
  Launch c;
  fake::setCurrent(nullptr);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, cuda().primaries[0]);
  EXPECT_EQ(fake::getCurrent(), nullptr);
  int retained = cuda().primaries[0]->retained;
  ASSERT_EQ(c.run(), HEED_OK);
  EXPECT_EQ(cuda().primaries[0]->retained, retained); // once is enough
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, EveryContextHasItsModules) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK);
  CUctx_st *own = cuda().makeContext(0);
  fake::setCurrent(own);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.back().context, own);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 2);
  own->isAlive = false;
  fake::setCurrent(cuda().primaries[0]);
}

TEST_F(Gpu, AResetDeviceIsUsedAnew) {
  Launch c;
  for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
    memory->move(fake::OnDevice, 1);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  cuda().primaries[1]->isAlive = false;
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().launches.size(), 2u);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 2); // the first is gone
}

TEST_F(Gpu, ContextErrors) {
  Launch c;
  cuda().failNext("cuCtxGetCurrent", 3);
  expectError(c,
              "cannot find the current CUDA context: CUDA_ERROR_NOT_INITIALIZED (initialization "
              "error)",
              HEED_LAUNCH_FAILED);
  fake::setCurrent(nullptr);
  cuda().failNext("cuCtxPushCurrent_v2", 2);
  expectError(c,
              "cannot use the primary context of cuda:0: CUDA_ERROR_OUT_OF_MEMORY (out of memory)",
              HEED_OUT_OF_MEMORY);
  fake::setCurrent(cuda().primaries[0]);
}

//===----------------------------------------------------------------------===//
// Which code
//===----------------------------------------------------------------------===//

TEST_F(Gpu, UnalignedCallsTakeOtherCode) {
  auto expectPlain = [](std::function<void(Launch &)> change) {
    Launch c;
    change(c);
    c.expectsPlain = true;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.at(0).block, 128u);
    EXPECT_EQ(cuda().callsOf("cuTensorMapEncodeTiled"), 0);
  };
  expectPlain([](Launch &c) { c.call.query.data = c.query.data() + 8; });
  expectPlain([](Launch &c) { c.call.output.data = c.output.data() + 2; });
  expectPlain([](Launch &c) { c.call.key.strides[2] = 68; });
  expectPlain([](Launch &c) { c.call.value.strides[0] += 4; });
  expectPlain([](Launch &c) {
    c.call.query.data = c.query.data() + 299 * 128;
    c.call.query.strides[2] = -64;
  });
  expectPlain([](Launch &c) { c.call.key.strides[2] = 0; }); // a box cannot repeat a row
  expectPlain([](Launch &c) { c.call.key.strides[0] = int64_t(1) << 39; });
}

TEST_F(Gpu, ShortCallsTakeOtherCode) {
  for (int64_t fewest : {200, 201}) { // of 200 keys
    Launch c;
    c.codes[0].min_keys = fewest;
    c.expectsPlain = fewest > 200;
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().launches.at(0).block, fewest > 200 ? 128u : 384u);
  }
}

TEST_F(Gpu, UnalignedCallsWithoutOtherCode) {
  auto only = [](std::function<void(Launch &)> change) {
    return [=](Launch &c) {
      c.codes.pop_back();
      c.kernel.num_gpu_codes = 1;
      change(c);
    };
  };
  expectError("argument 'key': expected an address that is a multiple of 16 bytes, which the code "
              "of kernel 'fake' for sm_90a needs, found one that is 4 bytes above",
              only([](Launch &c) { c.call.key.data = c.key.data() + 4; }), HEED_UNALIGNED);
  expectError("argument 'value': expected a stride that is a multiple of 16 bytes in dimension 1, "
              "which the code of kernel 'fake' for sm_90a needs, found 6402 elements of 2 bytes",
              only([](Launch &c) { c.call.value.strides[1] += 2; }), HEED_UNALIGNED);
  expectError("argument 'query': expected a stride of at least 0 in dimension 0, which the code of "
              "kernel 'fake' for sm_90a needs, found -76800 elements of 2 bytes",
              only([](Launch &c) {
                c.call.query.data = c.query.data() + 76800 * 2;
                c.call.query.strides[0] *= -1;
              }),
              HEED_UNALIGNED);
}

TEST_F(Gpu, NoCodeForTheDevice) {
  expectError(
      "kernel 'fake': expected a GPU of compute capability 9.0 (sm_90a), found Fake A10 of "
      "compute capability 8.6 with 101376 bytes of shared memory (cuda:2)",
      [](Launch &c) {
        c.codes.pop_back();
        c.kernel.num_gpu_codes = 1;
        for (Memory *memory : {&c.query, &c.key, &c.value, &c.output})
          memory->move(fake::OnDevice, 2);
      },
      HEED_UNSUPPORTED_GPU);
  expectError(
      "kernel 'fake': expected a GPU of compute capability at least 10.0 (sm_100), found "
      "Fake H100 of compute capability 9.0 with 232448 bytes of shared memory (cuda:0)",
      [](Launch &c) {
        for (heed_gpu_code &code : c.codes) { // listed once
          code = c.codes[1];
          code.module.capability = 100;
          code.module.target = "sm_100";
        }
      },
      HEED_UNSUPPORTED_GPU);
  expectError(
      "kernel 'fake': expected code for Fake H100 of compute capability 9.0 (cuda:0), found "
      "code for CPUs only",
      [](Launch &c) { c.kernel.num_gpu_codes = 0; }, HEED_UNSUPPORTED_GPU);
}

TEST_F(Gpu, DamagedCode) {
  expectError("kernel 'fake' is damaged: its code for sm_90a has no entry point or neither PTX nor "
              "a cubin",
              [](Launch &c) { c.codes[0].entry = nullptr; });
  expectError("kernel 'fake' is damaged: its code for sm_90a has no entry point or neither PTX nor "
              "a cubin",
              [](Launch &c) { c.codes[0].module.ptx = nullptr; });
  const char *sizes =
      "kernel 'fake' is damaged: its code for sm_90a has no block sizes or no threads";
  expectError(sizes, [](Launch &c) { c.codes[0].block_q = 0; });
  expectError(sizes, [](Launch &c) { c.codes[0].block_kv = 0; });
  expectError(sizes, [](Launch &c) { c.codes[0].num_threads = 1025; });
  expectError("kernel 'fake' is damaged: its code for sm_90a has no threads that classify blocks",
              [](Launch &c) { c.codes[0].classify = "attend_classify"; });
  expectError(
      "kernel 'fake' is damaged: its code for sm_90a has no threads or no words for what is "
      "known of blocks",
      [](Launch &c) { c.codes[0].summarise = "attend_summarise"; });
  expectError("kernel 'fake' is damaged: its code for sm_90a has no list of tensor maps, or too "
              "many of them",
              [](Launch &c) { c.codes[0].num_maps = 33; });
  const char *map = "kernel 'fake' is damaged: its code for sm_90a has a tensor map without an "
                    "operand, or whose boxes have no legal size";
  expectError(map, [](Launch &c) { c.maps[1].operand = HEED_ARG_LSE; });
  expectError(map, [](Launch &c) { c.maps[1].box_columns = 48; });
  expectError(map, [](Launch &c) { c.maps[1].box_rows = 257; });
}

TEST_F(Gpu, ArgumentsMustFit) {
  auto withScalars = [](Launch &c, size_t count) {
    heed_param param = {"x", HEED_I32, -1, nullptr, 1, {}};
    c.params.assign(count, param);
  };
  Launch c;
  withScalars(c, (4096 - 4 * 128) / 8 - HEED_ARG_PARAMS);
  EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
  withScalars(c, (4096 - 4 * 128) / 8 - HEED_ARG_PARAMS + 1);
  expectError(c, "kernel 'fake': expected at most 448 argument words on a GPU, found 449");
}

//===----------------------------------------------------------------------===//
// Grids, counters, lists, sections
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
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int t = 0; t < numThreads; ++t)
    threads.emplace_back([&, t] {
      fake::setCurrent(context);
      Launch c;
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
// Loading
//===----------------------------------------------------------------------===//

TEST_F(Gpu, LoadsOnce) {
  Launch c;
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  EXPECT_EQ(cuda().callsOf("cuFuncSetAttribute"), 1);
}

TEST_F(Gpu, ThreadsLoadOnce) {
  Launch c;
  ASSERT_EQ(c.run(), HEED_OK); // what run() sets up is not for threads
  heed_gpu_unload(&c.kernel);
  cuda().clearRecords();
  cuda().loadMilliseconds = 20;
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      good += heed_launch(&c.kernel, &c.call, nullptr) == HEED_OK && fake::getCurrent() == nullptr;
    });
  for (std::thread &thread : threads)
    thread.join();
  cuda().loadMilliseconds = 0;
  EXPECT_EQ(good, 8);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 1);
  EXPECT_EQ(cuda().launches.size(), 8u);
}

TEST_F(Gpu, ThreadsThatFailToLoadEachSaySo) {
  Launch c;
  c.ptx = ".version 8.7 syntax error";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().loadMilliseconds = 5;
  cuda().errorLog = "line 1";
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      good += heed_launch(&c.kernel, &c.call, nullptr) == HEED_LAUNCH_FAILED &&
              strstr(heed_last_error(), "line 1");
    });
  for (std::thread &thread : threads)
    thread.join();
  cuda().loadMilliseconds = 0;
  EXPECT_EQ(good, 4);
}

TEST_F(Gpu, ThreadsLaunchManyKernels) {
  std::vector<std::unique_ptr<Launch>> kernels;
  for (int i = 0; i < 300; ++i) // more than there are buckets
    kernels.push_back(std::make_unique<Launch>(1, 1, 1, 1, 1));
  ASSERT_EQ(kernels[0]->run(), HEED_OK);
  cuda().clearRecords();
  heed_gpu_unload(&kernels[0]->kernel);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 2; ++round)
        for (auto &launch : kernels)
          good += heed_launch(&launch->kernel, &launch->call, nullptr) == HEED_OK;
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(good, 4 * 2 * 300);
  EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 300);
}

TEST_F(Gpu, Unload) {
  int before = cuda().liveModules();
  {
    Launch a, b;
    ASSERT_EQ(a.run(), HEED_OK);
    ASSERT_EQ(b.run(), HEED_OK);
    for (Memory *memory : {&a.query, &a.key, &a.value, &a.output})
      memory->move(fake::OnDevice, 1);
    ASSERT_EQ(a.run(), HEED_OK);
    EXPECT_EQ(cuda().liveModules(), before + 3);
    CUstream_st *other = cuda().makeStream(cuda().primaries[0]);
    other->capturing = 1; // no obstacle
    fake::setCurrent(nullptr);
    heed_gpu_unload(&a.kernel);
    EXPECT_EQ(fake::getCurrent(), nullptr);
    fake::setCurrent(cuda().primaries[0]);
    EXPECT_EQ(other->capturing, 1);
    other->capturing = 0;
    EXPECT_EQ(cuda().liveModules(), before + 1);
    heed_gpu_unload(&a.kernel);
    ASSERT_EQ(a.run(), HEED_OK) << heed_last_error(); // loads again
    EXPECT_EQ(cuda().liveModules(), before + 2);
    ASSERT_EQ(b.run(), HEED_OK);
    EXPECT_EQ(cuda().callsOf("cuModuleLoadDataEx"), 4);
  }
  EXPECT_EQ(cuda().liveModules(), before);
  heed_gpu_unload(nullptr);
}

TEST_F(Gpu, PtxThatDoesNotCompile) {
  Launch c;
  c.ptx = ".version 8.7\nsyntax error";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().errorLog = "ptxas info : (C7510) Potential Performance Loss: wgmma\n"
                    "ptxas application ptx input, line 9; error   : Unknown symbol 'x'\r\n\n"
                    "  ptxas fatal   : Ptx assembly aborted\n";
  expectError(c,
              "kernel 'fake': cannot compile its PTX for sm_90a (ptxas application ptx input, line "
              "9; error   : Unknown symbol 'x'; ptxas fatal   : Ptx assembly aborted): "
              "CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed)",
              HEED_LAUNCH_FAILED);
  cuda().errorLog = "";
  expectError(
      c,
      "kernel 'fake': cannot compile its PTX for sm_90a (no log): CUDA_ERROR_INVALID_PTX (a "
      "PTX JIT compilation failed)",
      HEED_LAUNCH_FAILED);
  cuda().errorLog = std::string(20000, 'x'); // cut
  EXPECT_EQ(c.run(), HEED_LAUNCH_FAILED);
  EXPECT_LT(strlen(heed_last_error()), 400u);
  EXPECT_TRUE(strstr(heed_last_error(), "CUDA_ERROR_INVALID_PTX"));
}

TEST_F(Gpu, PtxTooNewForTheDriver) {
  Launch c;
  c.ptx = "// from a compiler\n.version 9.4\ntoo new";
  c.codes[0].module.ptx = c.ptx.c_str();
  cuda().version = 12020;
  expectError(c,
              "kernel 'fake': expected a driver that compiles PTX 9.4, found one for CUDA 12.2; "
              "update the NVIDIA driver",
              HEED_UNSUPPORTED_GPU);
  cuda().version = 13000;
}

TEST_F(Gpu, RemarksOfTheCompiler) {
  std::string log;
  for (const char *number : {"C7504", "C7507", "C7508", "C7510", "C7514", "C7518"})
    log += std::string("ptxas info    : (") + number + ") Potential Performance Loss\n";
  cuda().infoLog = log + "ptxas warning : something else\nptxas info    : 0 bytes gmem";
  auto stderrOf = [](const char *verbose) {
    Launch c;
    setenv("HEED_GPU_VERBOSE", verbose, 1);
    testing::internal::CaptureStderr();
    EXPECT_EQ(c.run(), HEED_OK) << heed_last_error();
    unsetenv("HEED_GPU_VERBOSE");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(stderrOf("0"), "heed: warning: kernel 'fake': ptxas warning : something else\n");
  EXPECT_FALSE(cuda().verboseJit);
  std::string all = stderrOf("1");
  EXPECT_TRUE(cuda().verboseJit);
  EXPECT_NE(all.find("heed: kernel 'fake': ptxas info    : (C7518) Potential Performance Loss\n"),
            std::string::npos);
  EXPECT_NE(all.find("heed: kernel 'fake': ptxas info    : 0 bytes gmem\n"), std::string::npos);
}

TEST_F(Gpu, Cubins) {
  auto withCubin = [](const char *cubin) {
    return [=](Launch &c) {
      c.codes[0].module.cubin = cubin;
      c.codes[0].module.cubin_bytes = int64_t(strlen(cubin));
    };
  };
  Launch c;
  withCubin("ELF .entry attend(")(c);
  ASSERT_EQ(c.run(), HEED_OK) << heed_last_error();
  EXPECT_EQ(cuda().modules.back()->image, "ELF .entry attend(");
  for (const char *cubin : {"foreign", "not an image"}) {
    Launch d;
    withCubin(cubin)(d);
    ASSERT_EQ(d.run(), HEED_OK) << heed_last_error();
    EXPECT_EQ(cuda().modules.back()->image, d.ptx);
  }
  expectError(
      "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_NO_BINARY_FOR_GPU (no "
      "kernel image is available for execution)",
      [&](Launch &c) {
        withCubin("foreign")(c);
        c.codes[0].module.ptx = nullptr;
      },
      HEED_LAUNCH_FAILED);
  Launch e; // other errors are no reason to compile
  withCubin("ELF .entry attend(")(e);
  cuda().failNext("cuModuleLoadDataEx", 2);
  expectError(e,
              "kernel 'fake': cannot load its code for sm_90a: CUDA_ERROR_OUT_OF_MEMORY (out of "
              "memory)",
              HEED_OUT_OF_MEMORY);
  EXPECT_EQ(e.run(), HEED_OK);
}

TEST_F(Gpu, ModulesThatCannotBeUsedAreUnloaded) {
  int before = cuda().liveModules();
  expectError(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'atten'",
      [](Launch &c) { c.codes[0].entry = "atten"; }, HEED_LAUNCH_FAILED);
  expectError(
      "kernel 'fake' is damaged: its code for sm_90a has no entry 'classify'",
      [](Launch &c) {
        c.codes[0].classify = "classify";
        c.codes[0].classify_threads = 1;
      },
      HEED_LAUNCH_FAILED);
  cuda().failNext("cuFuncSetAttribute", 1);
  expectError(
      "kernel 'fake': no 200000 bytes of shared memory for its code for sm_90a: "
      "CUDA_ERROR_INVALID_VALUE (invalid argument)",
      [](Launch &) {}, HEED_LAUNCH_FAILED);
  EXPECT_EQ(cuda().liveModules(), before);
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

//===----------------------------------------------------------------------===//
// Processes with other drivers
//===----------------------------------------------------------------------===//

/// The output, errors included, of this program's --probe-gpu in another environment.
std::string probeWith(const std::string &environment) {
  char self[4096];
  ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
  if (length <= 0)
    return "no /proc/self/exe";
  self[length] = 0;
  std::string command =
      "env -u CUDA_VISIBLE_DEVICES " + environment + " '" + self + "' --probe-gpu 2>&1";
  FILE *pipe = popen(command.c_str(), "r");
  std::string result;
  char buffer[512];
  while (size_t n = fread(buffer, 1, sizeof(buffer), pipe))
    result.append(buffer, n);
  pclose(pipe);
  return result;
}

void expectLine(const std::string &output, const std::string &line) {
  EXPECT_NE(("\n" + output).find("\n" + line + "\n"), std::string::npos) << line << "\n  not in\n"
                                                                         << output;
}

TEST(GpuDriver, Works) {
  std::string output = probeWith("A=1");
  expectLine(output, "count=3");
  expectLine(output, "capability=90");
  expectLine(output, "maps: HEED_OK");
  expectLine(output, "lists: HEED_OK");
}

TEST(GpuDriver, Missing) {
  std::string none = "expected an NVIDIA driver, found none (/nowhere/libcuda.so.1: cannot open "
                     "shared object file: No such file or directory); HEED_CUDA_DRIVER says where "
                     "it is";
  std::string output = probeWith("HEED_CUDA_DRIVER=/nowhere/libcuda.so.1");
  expectLine(output, "count=0 " + none);
  expectLine(output, "capability=0");
  expectLine(output, "code=none " + none);
  expectLine(output, "maps: HEED_UNSUPPORTED_GPU: " + none);
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) {
    expectLine(probeWith("HEED_CUDA_DRIVER="),
               "count=0 expected an NVIDIA driver, found none (libcuda.so.1: cannot open shared "
               "object file: No such file or directory); install the NVIDIA driver");
  }
}

TEST(GpuDriver, IsAnotherLibrary) {
  expectLine(probeWith("HEED_CUDA_DRIVER=libm.so.6"),
             "count=0 expected a CUDA driver with cuInit, found libm.so.6 without; update the "
             "NVIDIA driver");
}

TEST(GpuDriver, NoDevice) {
  expectLine(probeWith("FAKE_CUDA_COUNT=0"), "count=0 expected an NVIDIA GPU, found none");
  std::string output = probeWith("FAKE_CUDA_COUNT=0 CUDA_VISIBLE_DEVICES=7");
  expectLine(output, "count=0 expected an NVIDIA GPU, found none; CUDA_VISIBLE_DEVICES is '7'");
  expectLine(output, "maps: HEED_UNSUPPORTED_GPU: expected an NVIDIA GPU, found none; "
                     "CUDA_VISIBLE_DEVICES is '7'");
}

TEST(GpuDriver, DoesNotStart) {
  expectLine(probeWith("FAKE_CUDA_INIT=803"),
             "count=0 the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system "
             "has unsupported display driver)");
}

TEST(GpuDriver, IsOld) {
  std::string output =
      probeWith("HEED_CUDA_DRIVER='" HEED_FAKE_CUDA_OLD "' FAKE_CUDA_VERSION=11010");
  expectLine(output, "count=3");
  expectLine(output,
             "maps: HEED_UNSUPPORTED_GPU: kernel 'fake': expected a driver for CUDA 12.0 or "
             "later, found one for CUDA 11.1; update the NVIDIA driver");
  expectLine(output,
             "lists: HEED_UNSUPPORTED_GPU: kernel 'fake': expected a driver for CUDA 11.2 or "
             "later, found one for CUDA 11.1; update the NVIDIA driver");
  expectLine(output, "plain: HEED_OK");
}

TEST(GpuDriver, AfterFork) {
  std::string output = probeWith("A=1");
  std::string message = "expected a process that may use CUDA, found one forked from a process "
                        "that had used it; fork earlier, or start processes anew (in Python: the "
                        "'spawn' method)";
  expectLine(output, "child before: HEED_OK");
  expectLine(output, "child after: HEED_UNSUPPORTED_GPU: " + message);
  expectLine(output, "parent after: HEED_OK");
}

void report(const char *what, heed_status status) {
  printf("%s: %s%s%s\n", what, heed_status_name(status), status ? ": " : "",
         status ? heed_last_error() : "");
  fflush(stdout);
}

void inChild(const char *what, Launch *launch) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(20);
    if (launch) {
      report(what, launch->run());
      heed_gpu_unload(&launch->kernel);
    } else {
      Launch own;
      report(what, own.run());
    }
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

} // namespace

int probeGpu() {
  bool isFake = fake::cudaFunction<void *>("fakeCuda") != nullptr;
  if (isFake)
    inChild("child before", nullptr);
  int count = heed_gpu_count();
  printf("count=%d%s%s\n", count, count ? "" : " ", count ? "" : heed_last_error());
  printf("capability=%d\n", int(heed_gpu_capability(0)));
  if (!isFake) {
    heed_kernel kernel = {};
    kernel.abi_version = HEED_ABI_VERSION;
    kernel.dtype = HEED_F32;
    kernel.head_dim = kernel.value_head_dim = 1;
    if (!heed_select_gpu_code(&kernel, 0))
      printf("code=none %s\n", heed_last_error());
    float x = 0;
    int64_t shape[] = {1, 1, 1, 1};
    heed_call call = {};
    call.query = call.key = call.value = call.output = heed_dense_tensor(&x, HEED_F32, 4, shape);
    report("maps", heed_launch(&kernel, &call, nullptr));
    return 0;
  }
  Launch maps, lists, plain;
  report("maps", maps.run());
  heed_gpu_code &code = lists.plain();
  code.classify = "attend_classify";
  code.classify_threads = 32;
  report("lists", lists.run());
  plain.plain();
  report("plain", plain.run());
  inChild("child after", &plain);
  report("parent after", plain.run());
  return 0;
}
