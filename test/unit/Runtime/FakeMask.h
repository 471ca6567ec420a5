//===-- FakeMask.h - A mask with GPU code, and calls of it ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TEST_UNIT_RUNTIME_FAKEMASK_H
#define HEED_TEST_UNIT_RUNTIME_FAKEMASK_H

#include "GpuTest.h"

#include <functional>
#include <gtest/gtest.h>
#include <limits>

namespace fake {

inline constexpr int64_t largest = std::numeric_limits<int32_t>::max();

/// A kernel whose mask has code for 9.0 only, and for any from 8.0 on, and what is asked of it:
/// B = 2, Hq = 4, Hkv = 2, Sq = 1000, Skv = 3000 in blocks of 16 x 32, which are 63 rows and 94
/// columns, or 2 x 3 tiles, for each of 8 lists.
struct Mask {
  using Call = heed_status (Mask::*)();

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
    const char *entries[] = {"mask_classify", "mask_settle", "mask_list", "mask_fill"};
    for (int i = 0; i < HEED_NUM_MASK_KERNELS; ++i)
      code.kernels[i] = {fake::moduleFor90(ptx), entries[i]};
    code.warps = 4;
    code.uses_batch = code.uses_head = 1;
    codes.push_back(code);
    for (heed_gpu_mask_kernel &part : code.kernels)
      part.module = fake::moduleFrom80(ptx);
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

  void setCapability(int code, int32_t capability) {
    for (heed_gpu_mask_kernel &part : codes[code].kernels)
      part.module.capability = capability;
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

inline constexpr Mask::Call calls[] = {&Mask::classify, &Mask::list, &Mask::fill};

/// Expects `call` to fail and to launch nothing.
inline void expectError(Mask &mask, Mask::Call call, const char *message,
                        heed_status expected = HEED_INVALID_ARGUMENT) {
  cuda().launches.clear();
  EXPECT_EQ((mask.*call)(), expected) << message;
  EXPECT_STREQ(heed_last_error(), message);
  EXPECT_TRUE(cuda().launches.empty());
}

inline void expectError(Mask::Call call, const char *message, std::function<void(Mask &)> change,
                        heed_status expected = HEED_INVALID_ARGUMENT) {
  Mask mask;
  change(mask);
  expectError(mask, call, message, expected);
}

/// Of all functions.
inline void expectErrors(const char *message, std::function<void(Mask &)> change,
                         heed_status expected = HEED_INVALID_ARGUMENT) {
  for (Mask::Call call : calls)
    expectError(call, message, change, expected);
}

} // namespace fake

#endif // HEED_TEST_UNIT_RUNTIME_FAKEMASK_H
