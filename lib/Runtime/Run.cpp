//===-- Run.cpp - One call of a compiled kernel -----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Arguments.h"
#include "Check.h"
#include "Classify.h"
#include "Cpu.h"
#include "DType.h"
#include "Error.h"
#include "FloatControl.h"
#include "Packed.h"
#include "Schedule.h"
#include "ThreadPool.h"
#include "Workspace.h"

#include <atomic>
#include <stdlib.h>

using namespace heed::runtime;

/// Work below this many floating-point operations (some 20 us on one core) is not worth a second
/// thread.
static constexpr double flopsWorthThreads = 1e6;

/// Tasks are made of several tiles until they have this many, so that handing them out costs
/// nothing.
static constexpr double flopsPerTask = 5e5;

//===----------------------------------------------------------------------===//
// Tasks
//===----------------------------------------------------------------------===//

namespace {
/// What the tasks of one call share.
struct Launch {
  const heed_code &code;
  const int64_t *args;
  const Schedule &schedule;
  char *scratch;
  size_t scratchStride;
  int32_t numThreads;
  int64_t tilesPerTask;
  FloatControl mode;
  std::atomic<int32_t> strangeThread; ///< an index that a host's pool should not have passed, or 0
};
} // namespace

/// Runs `body` in a floating-point mode.
template <typename Body>
static void inMode(const FloatControl &mode, Body body) {
  FloatControl own = FloatControl::current();
  if (own == mode)
    return body();
  mode.apply();
  body();
  own.apply();
}

static void prepareTask(void *context, int64_t task, int32_t) {
  Launch &launch = *static_cast<Launch *>(context);
  int64_t heads = launch.args[HEED_ARG_HKV];
  inMode(launch.mode, [&] { launch.code.prepare(launch.args, task / heads, task % heads); });
}

static void tileTask(void *context, int64_t task, int32_t thread) {
  Launch &launch = *static_cast<Launch *>(context);
  if (thread < 0 || thread >= launch.numThreads) {
    // There is no scratch memory for it.
    launch.strangeThread.store(thread, std::memory_order_relaxed);
    return;
  }
  void *scratch = launch.scratch + size_t(thread) * launch.scratchStride;
  int64_t begin = task * launch.tilesPerTask, end = begin + launch.tilesPerTask;
  if (end > launch.schedule.numTiles())
    end = launch.schedule.numTiles();
  inMode(launch.mode, [&] {
    for (int64_t i = begin; i < end; ++i) {
      Tile tile = launch.schedule.tile(i);
      launch.code.tile(launch.args, tile.batch, tile.head, tile.qTile, scratch);
    }
  });
}

//===----------------------------------------------------------------------===//
// The call
//===----------------------------------------------------------------------===//

static heed_status unsupportedCpu(const heed_kernel &kernel) {
  if (kernel.num_codes == 0)
    return fail(HEED_UNSUPPORTED_CPU, "kernel '%s' has no code for CPUs", nameOf(kernel));
  char found[64];
  describeCpu(heed_cpu_features(), found, sizeof(found));
  const char *least = kernel.num_codes > 0 ? kernel.codes[kernel.num_codes - 1].target : nullptr;
  const char *limit = getenv("HEED_CPU");
  return fail(HEED_UNSUPPORTED_CPU, "kernel '%s': expected a CPU of at least %s, found %s%s%s%s",
              nameOf(kernel), least ? least : "an unnamed level", found, limit ? " (HEED_CPU=" : "",
              limit ? limit : "", limit ? ")" : "");
}

/// The packed workspace in bytes; false when the number does not fit.
static bool packedBytes(const heed_code &code, const Problem &problem, size_t &bytes) {
  bytes = 0;
  if (!code.prepare || problem.keyLength == 0)
    return true;
  int64_t blocks = (problem.keyLength - 1) / code.block_kv + 1, total;
  if (__builtin_mul_overflow(blocks, code.packed_bytes_per_block, &total) ||
      __builtin_mul_overflow(total, problem.keyHeads, &total) ||
      __builtin_mul_overflow(total, problem.batch, &total))
    return false;
  bytes = size_t(total);
  return true;
}

/// How many threads the call gets, before the masks are looked at.
static int32_t chooseThreads(const heed_call &call, int64_t numTiles, double flops) {
  if (numTiles <= 1 || flops < flopsWorthThreads)
    return 1;
  int32_t threads = call.num_threads ? call.num_threads : heed_get_num_threads();
  if (threads > maxThreads)
    threads = maxThreads;
  return threads < numTiles ? threads : int32_t(numTiles);
}

/// Several tiles a task when tiles are tiny, yet enough tasks to balance.
static int64_t chooseTilesPerTask(int64_t numTiles, int32_t numThreads, double flops) {
  double average = flops / double(numTiles);
  int64_t most = numTiles / (int64_t(numThreads) * 8);
  double wanted = average > 0 ? flopsPerTask / average : double(most);
  int64_t tiles = wanted < double(most) ? int64_t(wanted) : most;
  return tiles < 1 ? 1 : tiles;
}

static heed_status launch(const heed_code &code, const heed_kernel &kernel, const heed_call &call,
                          const Problem &problem, int64_t *args) {
  Schedule schedule(code, args);
  int64_t numTiles = schedule.numTiles();
  int64_t rows = problem.queryLength < code.block_q ? problem.queryLength : code.block_q;
  int64_t keys = problem.keyLength < code.block_kv ? problem.keyLength : code.block_kv;
  double flopsPerBlock =
      2.0 * double(rows) * double(keys) * double(kernel.head_dim + kernel.value_head_dim);

  int32_t numThreads = chooseThreads(call, numTiles, flopsPerBlock * schedule.numBlocks());

  size_t bytes;
  Workspace packed(Purpose::Packed), scratch(Purpose::Scratch);
  if (!packedBytes(code, problem, bytes) || (bytes && !packed.reserve(bytes)))
    return fail(HEED_OUT_OF_MEMORY, "kernel '%s': no memory for the packed keys and values",
                nameOf(kernel));
  args[HEED_ARG_PACKED] = int64_t(reinterpret_cast<uintptr_t>(packed.data()));

  // Rounded up so that no two threads share a cache line or a pair of lines that are fetched
  // together.
  size_t stride = (size_t(code.scratch_bytes) + 127) / 128 * 128;
  if (__builtin_mul_overflow(stride, size_t(numThreads), &bytes) || !scratch.reserve(bytes))
    return fail(HEED_OUT_OF_MEMORY, "kernel '%s': no memory for the scratch space of %d threads",
                nameOf(kernel), int(numThreads));

  FloatControl mode = FloatControl::current().flushingResults();
  Launch launch{code, args, schedule, scratch.data(), stride, numThreads, 1, mode, {0}};

  if (code.prepare && problem.keyLength > 0) {
    int64_t numTasks = problem.batch * problem.keyHeads;
    runTasks(numTasks, numTasks < numThreads ? int32_t(numTasks) : numThreads, prepareTask,
             &launch);
  }

  if (numThreads > 1) {
    // The cost function may read what prepare tasks wrote, so it comes after them.
    schedule.sortTail(numThreads);
    double flops = flopsPerBlock * schedule.numBlocks();
    launch.tilesPerTask = chooseTilesPerTask(numTiles, numThreads, flops);
    if (flops < flopsWorthThreads)
      launch.numThreads = 1;
  }
  int64_t numTasks = (numTiles - 1) / launch.tilesPerTask + 1;
  runTasks(numTasks, launch.numThreads, tileTask, &launch);

  if (int32_t thread = launch.strangeThread.load(std::memory_order_relaxed))
    return fail(HEED_INVALID_ARGUMENT,
                "the function of heed_set_parallel_for: expected thread indices below %d, found %d",
                int(launch.numThreads), int(thread));
  return HEED_OK;
}

/// Lists are made by as many threads as the call would get without a mask.
static heed_status makeLists(const heed_code &code, const heed_kernel &kernel,
                             const heed_call &call, const Problem &problem, int64_t *args,
                             heed_block_runs **lists) {
  const heed_mask_code *mask = selectCode(kernel.mask_codes, kernel.num_mask_codes);
  if (!mask)
    return unsupportedCpu(kernel);
  double flops = 2.0 * double(problem.batch) * double(problem.queryHeads) *
                 double(problem.queryLength) * double(problem.keyLength) *
                 double(kernel.head_dim + kernel.value_head_dim);
  int32_t threads = chooseThreads(call, maxThreads, flops);
  heed_status status = classifyBlocks(kernel, *mask, problem, {code.block_q, code.block_kv, false},
                                      threads, args, lists);
  args[HEED_ARG_LISTS] = int64_t(reinterpret_cast<uintptr_t>(*lists));
  return status;
}

extern "C" heed_status heed_run(const heed_kernel *kernel, const heed_call *call) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!call)
    return fail(HEED_INVALID_ARGUMENT, "argument 'call': expected a call, found NULL");
  Problem problem;
  heed_status status;
  if ((status = checkTensors(*kernel, *call, problem)) ||
      (status = checkParams(*kernel, *call, problem)) || (status = checkSettings(*call)))
    return status;
  const heed_code *code = heed_select_code(kernel);
  if (!code)
    return unsupportedCpu(*kernel);
  if (problem.isEmpty())
    return HEED_OK;

  // Nearly all kernels fit the stack.
  int64_t onStack[256];
  int64_t numWords = countArgumentWords(*kernel);
  int64_t *args = onStack;
  if (numWords > int64_t(sizeof(onStack) / sizeof(onStack[0])) &&
      !(args = static_cast<int64_t *>(malloc(size_t(numWords) * sizeof(int64_t)))))
    return fail(HEED_OUT_OF_MEMORY, "kernel '%s': no memory for %lld argument words",
                nameOf(*kernel), static_cast<long long>(numWords));
  fillArguments(*kernel, *call, problem, args);
  heed_block_runs *lists = nullptr;
  if (code->uses_lists)
    status = makeLists(*code, *kernel, *call, problem, args, &lists);
  if (!status)
    status = launch(*code, *kernel, *call, problem, args);
  heed_block_runs_free(lists);
  if (args != onStack)
    free(args);
  return status;
}

extern "C" heed_status heed_run_packed(const heed_kernel *kernel, const heed_call *call,
                                       void *const *data, const heed_value *params,
                                       const heed_tensor *tensors) {
  return unpack(kernel, call, data, params, tensors,
                [=](const heed_call &whole) { return heed_run(kernel, &whole); });
}
