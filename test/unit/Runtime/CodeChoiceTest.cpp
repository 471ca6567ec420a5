//===-- CodeChoiceTest.cpp - Which of its codes a kernel runs ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GpuTest.h"

#include <functional>
#include <gtest/gtest.h>

namespace {

using fake::cuda;
using fake::expectError;
using fake::Launch;
using fake::Memory;
using Gpu = fake::GpuTest;

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

} // namespace
