//===-- ListBlocks.cpp - FlexAttention's lists of runs ----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// The lists are dense, 268 MB a kind for a million tokens in blocks of 128, so that writing them is
// what takes time: each entry is written once, and in the order of memory. By columns that is done
// for some columns at a time, from a small table of what some rows have there.
//
//===----------------------------------------------------------------------===//

#include "Error.h"
#include "ThreadPool.h"

#include <limits.h>
#include <string.h>

using namespace heed::runtime;

namespace {

/// Rows, or columns, of a task; and rows of the table.
constexpr int64_t linesPerTask = 64;

/// What is listed of one kind.
struct Output {
  int32_t kind;
  int32_t *counts, *indices;
};

struct Listing {
  const heed_block_runs &runs;
  Output outputs[2];
  int32_t numOutputs;
  int64_t numLines, lineSize; // lists of a batch and head, and entries of each
  int64_t tasksPerList;
};

/// The runs of a row.
struct Row {
  const heed_block_run *begin, *end;
};

} // namespace

static Row rowOf(const heed_block_runs &runs, int64_t number) {
  return {runs.runs + runs.offsets[number], runs.runs + runs.offsets[number + 1]};
}

static int32_t *writeRange(int32_t *place, int32_t begin, int32_t end) {
  for (int32_t i = begin; i < end; ++i)
    *place++ = i;
  return place;
}

/// The blocks of the kind, then the others.
static void listRow(const Listing &listing, const Output &output, int64_t number) {
  Row row = rowOf(listing.runs, number);
  int32_t count = 0, end = 0;
  for (const heed_block_run *run = row.begin; run != row.end; ++run)
    count += run->kind == output.kind ? run->end - run->begin : 0;
  output.counts[number] = count;
  int32_t *listed = output.indices + number * listing.lineSize, *other = listed + count;
  for (const heed_block_run *run = row.begin; run != row.end; ++run) {
    other = writeRange(other, end, run->begin);
    int32_t *&place = run->kind == output.kind ? listed : other;
    place = writeRange(place, run->begin, run->end);
    end = run->end;
  }
  writeRange(other, end, int32_t(listing.lineSize));
}

/// Calls fn(kind, first, last + 1) for what a row has of columns [begin, end).
template <typename Fn>
static void forEachRun(Row row, int32_t begin, int32_t end, Fn fn) {
  const heed_block_run *low = row.begin, *high = row.end; // the first that ends behind `begin`
  while (low != high) {
    const heed_block_run *middle = low + (high - low) / 2;
    if (middle->end > begin)
      high = middle;
    else
      low = middle + 1;
  }
  for (; low != row.end && low->begin < end; ++low)
    fn(low->kind, low->begin < begin ? begin : low->begin, low->end < end ? low->end : end);
}

static void listColumns(const Listing &listing, int64_t list, int32_t begin, int32_t end) {
  int64_t numRows = listing.lineSize, firstRow = list * numRows;
  int32_t counts[2][linesPerTask] = {};
  for (int64_t row = 0; row < numRows; ++row)
    forEachRun(rowOf(listing.runs, firstRow + row), begin, end,
               [&](int32_t kind, int32_t first, int32_t behind) {
                 for (int32_t column = first; column < behind; ++column)
                   ++counts[kind - 1][column - begin];
               });
  int32_t *listed[2][linesPerTask], *other[2][linesPerTask];
  for (int32_t i = 0; i < listing.numOutputs; ++i)
    for (int32_t column = begin; column < end; ++column) {
      const Output &output = listing.outputs[i];
      int64_t line = list * listing.numLines + column;
      int32_t count = counts[output.kind - 1][column - begin];
      output.counts[line] = count;
      listed[i][column - begin] = output.indices + line * numRows;
      other[i][column - begin] = output.indices + line * numRows + count;
    }
  uint8_t table[linesPerTask][linesPerTask]; // kinds by column and row
  for (int64_t low = 0; low < numRows; low += linesPerTask) {
    int64_t high = low + linesPerTask < numRows ? low + linesPerTask : numRows;
    memset(table, 0, sizeof(table));
    for (int64_t row = low; row < high; ++row)
      forEachRun(rowOf(listing.runs, firstRow + row), begin, end,
                 [&](int32_t kind, int32_t first, int32_t behind) {
                   for (int32_t column = first; column < behind; ++column)
                     table[column - begin][row - low] = uint8_t(kind);
                 });
    for (int32_t i = 0; i < listing.numOutputs; ++i)
      for (int32_t column = 0; column < end - begin; ++column) {
        int32_t *ofKind = listed[i][column], *ofOthers = other[i][column];
        for (int64_t row = low; row < high; ++row)
          if (table[column][row - low] == listing.outputs[i].kind)
            *ofKind++ = int32_t(row);
          else
            *ofOthers++ = int32_t(row);
        listed[i][column] = ofKind;
        other[i][column] = ofOthers;
      }
  }
}

static void listByRow(void *context, int64_t task, int32_t) {
  auto &listing = *static_cast<const Listing *>(context);
  int64_t list = task / listing.tasksPerList;
  int64_t begin = (task - list * listing.tasksPerList) * linesPerTask;
  for (int64_t row = begin; row < listing.numLines && row < begin + linesPerTask; ++row)
    for (int32_t i = 0; i < listing.numOutputs; ++i)
      listRow(listing, listing.outputs[i], list * listing.numLines + row);
}

static void listByColumn(void *context, int64_t task, int32_t) {
  auto &listing = *static_cast<const Listing *>(context);
  int64_t list = task / listing.tasksPerList;
  int64_t begin = (task - list * listing.tasksPerList) * linesPerTask, end = begin + linesPerTask;
  listColumns(listing, list, int32_t(begin),
              int32_t(end < listing.numLines ? end : listing.numLines));
}

static heed_status damaged(const char *what) {
  return fail(HEED_INVALID_ARGUMENT, "argument 'runs': expected %s", what);
}

static heed_status checkRuns(const heed_block_runs &runs) {
  const int64_t extents[] = {runs.num_batches, runs.num_heads, runs.num_rows, runs.num_columns};
  for (int64_t extent : extents)
    if (extent < 0 || extent > INT32_MAX)
      return damaged("extents from 0 to 2^31 - 1");
  int64_t numLists = runs.num_batches * runs.num_heads, numRows, numColumns;
  if (__builtin_mul_overflow(numLists, runs.num_rows, &numRows) || numRows > INT64_MAX / 8 ||
      __builtin_mul_overflow(numLists, runs.num_columns, &numColumns) || numColumns > INT64_MAX / 8)
    return damaged("fewer than 2^60 rows and columns");
  if (!runs.offsets || runs.offsets[0] != 0)
    return damaged("offsets that begin with 0");
  for (int64_t row = 0; row < numRows; ++row) {
    if (runs.offsets[row + 1] < runs.offsets[row])
      return damaged("offsets that ascend");
    if (runs.offsets[row + 1] > 0 && !runs.runs)
      return damaged("an address of runs, found NULL");
    Row ofRow = rowOf(runs, row);
    int64_t end = 0;
    for (const heed_block_run *run = ofRow.begin; run != ofRow.end; ++run) {
      if (run->begin < end || run->end <= run->begin || run->end > runs.num_columns ||
          (run->kind != HEED_BLOCK_PARTIAL && run->kind != HEED_BLOCK_FULL))
        return damaged("runs of partial or full blocks that exist, in ascending order");
      end = run->end;
    }
  }
  return HEED_OK;
}

extern "C" heed_status heed_list_blocks(const heed_block_runs *runs, int32_t by_column,
                                        const heed_block_lists *lists, int32_t num_threads) {
  if (!runs || !lists)
    return fail(HEED_INVALID_ARGUMENT, "argument '%s': expected an address, found NULL",
                runs ? "lists" : "runs");
  if (num_threads < 0)
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'num_threads': expected a number of at least 0, found %d",
                int(num_threads));
  if (heed_status status = checkRuns(*runs))
    return status;
  int64_t numLines = by_column ? runs->num_columns : runs->num_rows;
  int64_t lineSize = by_column ? runs->num_rows : runs->num_columns;
  int64_t numLists = runs->num_batches * runs->num_heads;
  Listing listing = {*runs,    {},       0,
                     numLines, lineSize, (numLines + linesPerTask - 1) / linesPerTask};
  const Output outputs[] = {{HEED_BLOCK_PARTIAL, lists->partial_counts, lists->partial_indices},
                            {HEED_BLOCK_FULL, lists->full_counts, lists->full_indices}};
  for (const Output &output : outputs) {
    bool hasCounts = output.counts || numLists * numLines == 0;
    bool hasIndices = output.indices || numLists * numLines * lineSize == 0;
    if (!output.counts && !output.indices)
      continue;
    if (!hasCounts || !hasIndices)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument 'lists': expected both counts and indices of a kind, found NULL");
    listing.outputs[listing.numOutputs++] = output;
  }
  heed_task_fn fn = by_column ? listByColumn : listByRow;
  int64_t numTasks = listing.numOutputs > 0 ? numLists * listing.tasksPerList : 0;
  int32_t threads = num_threads ? num_threads : heed_get_num_threads();
  if (threads > maxThreads)
    threads = maxThreads;
  runTasks(numTasks, threads, fn, &listing);
  return HEED_OK;
}
