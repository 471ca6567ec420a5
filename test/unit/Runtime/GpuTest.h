//===-- GpuTest.h - What tests on the fake driver have in common -*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_GPUTEST_H
#define HEED_TEST_UNIT_RUNTIME_GPUTEST_H

#include "FakeLaunch.h"

#include <functional>
#include <gtest/gtest.h>

namespace fake {

/// The context of the first device is current.
struct GpuTest : testing::Test {
  void SetUp() override {
    setCurrent(cuda().primaries[0]);
    cuda().clearRecords();
  }
  void TearDown() override {
    // No test leaves a context behind, nor memory in streams.
    EXPECT_EQ(getCurrent(), cuda().primaries[0]);
    EXPECT_EQ(cuda().asyncAllocations, cuda().asyncFrees);
    for (auto &stream : cuda().streams)
      stream->capturing = 0;
    cuda().infoLog.clear();
    cuda().errorLog.clear();
    cuda().sticky = 0;
    cuda().failures.clear();
    setCurrent(nullptr);
  }
};

/// Expects `launch` to fail and to launch nothing.
inline void expectError(Launch &launch, const char *message,
                        heed_status expected = HEED_INVALID_ARGUMENT) {
  cuda().launches.clear();
  EXPECT_EQ(launch.run(), expected) << message;
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_TRUE(cuda().launches.empty());
}

inline void expectError(const char *message, std::function<void(Launch &)> change,
                        heed_status expected = HEED_INVALID_ARGUMENT) {
  Launch launch;
  change(launch);
  expectError(launch, message, expected);
}

} // namespace fake

#endif // HEED_TEST_UNIT_RUNTIME_GPUTEST_H
