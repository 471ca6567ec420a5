//===-- Classify.cpp - The block lists of a mask ----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// A box of any size can be classified, so that the plane is halved until every box is decided:
// where a mask has structure (a diagonal, documents, a window), a row of blocks costs a few
// questions, whatever its length. A single block that intervals do not decide is halved further,
// until pairs of both kinds were seen or all pairs were counted.
//
//===----------------------------------------------------------------------===//

#include "Classify.h"
#include "Arguments.h"
#include "Cpu.h"
#include "Error.h"
#include "Packed.h"
#include "ThreadPool.h"

#include <atomic>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

using namespace heed::runtime;

namespace {

enum Class : int32_t { Skipped, Partial = HEED_BLOCK_PARTIAL, Full = HEED_BLOCK_FULL };

/// Pairs that are counted rather than classified further.
constexpr int64_t maxCountedPairs = 256;

/// The runs of one row.
struct Row {
  heed_block_run *runs;
  int32_t size, capacity;
};

struct Plane {
  const heed_mask_code &code;
  const int64_t *args;
  int64_t queryLength, keyLength, blockQ, blockKv;
  int64_t numRows, numColumns; // blocks
  int64_t numLists, numBatches, numHeads;
  int64_t rowsPerTask, tasksPerList;
  bool hangingIsPartial;
  Row *rows; // of all lists
  std::atomic<bool> isOutOfMemory;
};

struct Box {
  int64_t firstQ, endQ, firstKv, endKv;
  int64_t numQueries() const { return endQ - firstQ; }
  int64_t numKeys() const { return endKv - firstKv; }
};

/// Works on some rows of the list of one batch and head.
class Band {
public:
  Band(Plane &plane, int64_t list)
      : plane(plane), batch(list / plane.numHeads), head(list % plane.numHeads),
        rows(plane.rows + list * plane.numRows) {}

  /// Decides blocks [row, endRow) x [column, endColumn). Those of a row are appended in ascending
  /// order.
  void decide(int64_t row, int64_t endRow, int64_t column, int64_t endColumn) {
    Box box = {row * plane.blockQ, least(endRow * plane.blockQ, plane.queryLength),
               column * plane.blockKv, least(endColumn * plane.blockKv, plane.keyLength)};
    int32_t found = classify(box);
    if (found == Skipped)
      return;
    if (found == Full)
      return appendFull(row, endRow, column, endColumn);
    if (endRow - row == 1 && endColumn - column == 1) {
      Seen seen;
      probe(box, seen);
      if (!seen.both())
        refine(box, seen);
      if (seen.both())
        return append(row, column, endColumn, Partial);
      if (seen.attending)
        return appendFull(row, endRow, column, endColumn);
      return;
    }
    if (endRow - row > 1 && (endColumn - column == 1 || box.numQueries() >= box.numKeys())) {
      int64_t middle = row + (endRow - row) / 2;
      decide(row, middle, column, endColumn);
      decide(middle, endRow, column, endColumn);
    } else {
      int64_t middle = column + (endColumn - column) / 2;
      decide(row, endRow, column, middle);
      decide(row, endRow, middle, endColumn);
    }
  }

private:
  struct Seen {
    bool attending = false, other = false;
    bool both() const { return attending && other; }
  };

  static int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

  int32_t classify(const Box &b) const {
    return plane.code.classify(plane.args, batch, head, b.firstQ, b.endQ, b.firstKv, b.endKv);
  }

  /// Counts the corners, and then all pairs of the first and the last key: where an edge of the
  /// mask runs through the block, it mostly crosses one of them.
  void probe(const Box &box, Seen &seen) {
    const int64_t queries[] = {box.firstQ, box.endQ - 1}, keys[] = {box.firstKv, box.endKv - 1};
    for (int64_t q : queries)
      for (int64_t kv : keys)
        if (!seen.both())
          count({q, q + 1, kv, kv + 1}, seen);
    for (int64_t kv : keys)
      if (!seen.both())
        count({box.firstQ, box.endQ, kv, kv + 1}, seen);
  }

  void count(const Box &b, Seen &seen) {
    int64_t found = plane.code.count(plane.args, batch, head, b.firstQ, b.endQ, b.firstKv, b.endKv);
    seen.attending |= found > 0;
    seen.other |= found < b.numQueries() * b.numKeys();
  }

  /// Looks for pairs of both kinds.
  void refine(const Box &box, Seen &seen) {
    if (box.numQueries() * box.numKeys() <= maxCountedPairs)
      return count(box, seen);
    Box first = box, second = box;
    if (box.numQueries() >= box.numKeys())
      first.endQ = second.firstQ = box.firstQ + box.numQueries() / 2;
    else
      first.endKv = second.firstKv = box.firstKv + box.numKeys() / 2;
    lookAt(first, seen);
    if (!seen.both())
      lookAt(second, seen);
  }

  void lookAt(const Box &box, Seen &seen) {
    int32_t found = classify(box);
    if (found == Partial)
      return refine(box, seen);
    seen.attending |= found == Full;
    seen.other |= found == Skipped;
  }

  void appendFull(int64_t row, int64_t endRow, int64_t column, int64_t endColumn) {
    bool hangs = plane.hangingIsPartial && endColumn * plane.blockKv > plane.keyLength;
    int64_t endWhole = endColumn - (hangs ? 1 : 0);
    for (; row < endRow; ++row) {
      bool rowHangs = plane.hangingIsPartial && (row + 1) * plane.blockQ > plane.queryLength;
      Class whole = rowHangs ? Partial : Full;
      if (column < endWhole)
        append(row, column, endWhole, whole);
      if (hangs)
        append(row, endWhole, endColumn, Partial);
    }
  }

  void append(int64_t number, int64_t begin, int64_t end, Class kind) {
    Row &row = rows[number];
    if (row.size > 0) {
      heed_block_run &last = row.runs[row.size - 1];
      if (last.end == begin && last.kind == kind) {
        last.end = int32_t(end);
        return;
      }
    }
    if (row.size == row.capacity) {
      int32_t capacity = row.capacity ? 2 * row.capacity : 4;
      void *grown = realloc(row.runs, size_t(capacity) * sizeof(heed_block_run));
      if (!grown) {
        plane.isOutOfMemory.store(true, std::memory_order_relaxed);
        return;
      }
      row.runs = static_cast<heed_block_run *>(grown);
      row.capacity = capacity;
    }
    row.runs[row.size++] = {int32_t(begin), int32_t(end), kind};
  }

  Plane &plane;
  const int64_t batch, head;
  Row *rows;
};

void classifyTask(void *context, int64_t task, int32_t) {
  Plane &plane = *static_cast<Plane *>(context);
  if (plane.isOutOfMemory.load(std::memory_order_relaxed))
    return;
  int64_t first = task % plane.tasksPerList * plane.rowsPerTask, end = first + plane.rowsPerTask;
  Band(plane, task / plane.tasksPerList)
      .decide(first, end < plane.numRows ? end : plane.numRows, 0, plane.numColumns);
}

/// Numbers that malloc'ed memory holds, freed at the end.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t count)
      : data(static_cast<T *>(calloc(size_t(count > 0 ? count : 1), sizeof(T)))) {}
  ~Buffer() { free(data); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  T *data;
};

} // namespace

static heed_status noMemory(const heed_kernel &kernel) {
  return fail(HEED_OUT_OF_MEMORY, "kernel '%s': no memory for the block lists of its mask",
              nameOf(kernel));
}

/// Puts the rows one after the other, in one piece of memory.
static heed_block_runs *gather(const Plane &plane) {
  int64_t numRows = plane.numLists * plane.numRows, numRuns = 0;
  for (int64_t i = 0; i < numRows; ++i)
    numRuns += plane.rows[i].size;
  size_t bytes = sizeof(heed_block_runs) + size_t(numRows + 1) * sizeof(int64_t) +
                 size_t(numRuns) * sizeof(heed_block_run);
  auto *result = static_cast<heed_block_runs *>(malloc(bytes));
  if (!result)
    return nullptr;
  auto *offsets = reinterpret_cast<int64_t *>(result + 1);
  auto *runs = reinterpret_cast<heed_block_run *>(offsets + numRows + 1);
  offsets[0] = 0;
  for (int64_t i = 0; i < numRows; ++i) {
    const Row &row = plane.rows[i];
    if (row.size > 0)
      memcpy(runs + offsets[i], row.runs, size_t(row.size) * sizeof(heed_block_run));
    offsets[i + 1] = offsets[i] + row.size;
  }
  *result = {plane.numBatches, plane.numHeads, plane.numRows, plane.numColumns, offsets, runs};
  return result;
}

heed_status heed::runtime::classifyBlocks(const heed_kernel &kernel, const heed_mask_code &code,
                                          const Problem &problem, const BlockShape &shape,
                                          int32_t threads, const int64_t *args,
                                          heed_block_runs **result) {
  auto blocks = [](int64_t length, int64_t block) { return (length + block - 1) / block; };
  int64_t numRows = blocks(problem.queryLength, shape.blockQ);
  int64_t numColumns = blocks(problem.keyLength, shape.blockKv);
  int64_t numBatches = code.uses_batch ? problem.batch : problem.batch < 1 ? 0 : 1;
  int64_t numHeads = code.uses_head ? problem.queryHeads : problem.queryHeads < 1 ? 0 : 1;
  int64_t numLists = numBatches * numHeads, numAllRows;
  if (__builtin_mul_overflow(numLists, numRows, &numAllRows))
    return noMemory(kernel);
  Buffer<Row> rows(numAllRows);
  if (!rows.data)
    return noMemory(kernel);
  if (threads > maxThreads)
    threads = maxThreads;
  // What is captured is read once for each task, at least: large tasks read less.
  int64_t tasksPerList = threads <= 1 || numLists >= 4 * threads ? 1 : 4 * threads;
  int64_t rowsPerTask = blocks(numRows, tasksPerList);
  rowsPerTask = rowsPerTask < 1 ? 1 : rowsPerTask;
  tasksPerList = blocks(numRows, rowsPerTask);
  Plane plane = {code,
                 args,
                 problem.queryLength,
                 problem.keyLength,
                 shape.blockQ,
                 shape.blockKv,
                 numRows,
                 numColumns,
                 numLists,
                 numBatches,
                 numHeads,
                 rowsPerTask,
                 tasksPerList,
                 shape.hangingIsPartial,
                 rows.data,
                 {false}};
  int64_t numTasks = numColumns > 0 ? numLists * tasksPerList : 0;
  runTasks(numTasks, threads, classifyTask, &plane);
  *result = plane.isOutOfMemory ? nullptr : gather(plane);
  for (int64_t i = 0; i < numAllRows; ++i)
    free(rows.data[i].runs);
  return *result ? HEED_OK : noMemory(kernel);
}

static heed_status checkNumber(const char *name, int64_t value, int64_t least) {
  if (value >= least && value <= INT32_MAX)
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT,
              "argument '%s': expected a number from %lld to %lld, found %lld", name,
              static_cast<long long>(least), static_cast<long long>(INT32_MAX),
              static_cast<long long>(value));
}

heed_status heed::runtime::readQuestion(const heed_kernel &kernel,
                                        const heed_mask_question *question,
                                        const heed_tensor *tensors, heed_value *values,
                                        heed_call &call, Problem &problem) {
  if (!question)
    return fail(HEED_INVALID_ARGUMENT, "argument 'question': expected an address, found NULL");
  const struct {
    const char *name;
    int64_t value, least;
  } numbers[] = {
      {"batch", question->batch, 0},           {"query_heads", question->query_heads, 0},
      {"key_heads", question->key_heads, 0},   {"query_length", question->query_length, 0},
      {"key_length", question->key_length, 0}, {"block_q", question->block_q, 1},
      {"block_kv", question->block_kv, 1}};
  for (const auto &number : numbers)
    if (heed_status status = checkNumber(number.name, number.value, number.least))
      return status;
  call = {};
  call.params = question->params;
  if (tensors && question->params) {
    unpackParams(kernel, question->params, tensors, values);
    call.params = values;
  }
  problem = {question->batch, question->query_heads, question->key_heads, question->query_length,
             question->key_length};
  return checkParams(kernel, call, problem);
}

extern "C" heed_status heed_classify(const heed_kernel *kernel, const heed_mask_question *question,
                                     const heed_tensor *tensors, heed_block_runs **result) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!result)
    return fail(HEED_INVALID_ARGUMENT, "argument 'result': expected an address, found NULL");
  *result = nullptr;
  const heed_mask_code *code = selectCode(kernel->mask_codes, kernel->num_mask_codes);
  if (!code)
    return fail(HEED_UNSUPPORTED_CPU,
                "kernel '%s' has no code for this machine that classifies blocks", nameOf(*kernel));
  Buffer<heed_value> values(kernel->num_params);
  if (!values.data)
    return noMemory(*kernel);
  heed_call call;
  Problem problem;
  heed_status status;
  if ((status = readQuestion(*kernel, question, tensors, values.data, call, problem)) ||
      (status = checkNumber("num_threads", question->num_threads, 0)))
    return status;
  Buffer<int64_t> args(countArgumentWords(*kernel));
  if (!args.data)
    return noMemory(*kernel);
  fillArguments(*kernel, call, problem, args.data);
  BlockShape shape = {question->block_q, question->block_kv, question->hanging_is_partial != 0};
  int32_t threads = question->num_threads ? question->num_threads : heed_get_num_threads();
  return classifyBlocks(*kernel, *code, problem, shape, threads, args.data, result);
}

extern "C" void heed_block_runs_free(heed_block_runs *runs) { free(runs); }
