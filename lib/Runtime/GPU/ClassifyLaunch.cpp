//===-- ClassifyLaunch.cpp - Block lists made on a GPU ----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../Arguments.h"
#include "../Classify.h"
#include "../Error.h"
#include "../Packed.h"
#include "Context.h"
#include "Module.h"
#include "Place.h"

#include <limits.h>
#include <utility>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

using ll = long long;

static constexpr int64_t lanes = 32;
static constexpr int64_t maxWords = maxParameterBytes / 8;
/// Coordinates are 32-bit numbers whose differences must not wrap around.
static constexpr int64_t maxLength = int64_t(1) << 30, maxSpan = int64_t(1) << 28;
/// Of a matrix: kernels round up to whole warps.
static constexpr int64_t maxExtent = INT32_MAX - lanes + 1;

static int64_t divideCeil(int64_t x, int64_t y) { return (x + y - 1) / y; }

namespace {
/// The kernels of one mask on one device, and what they are told.
struct Launcher {
  const heed_kernel &kernel;
  const heed_gpu_mask_code *code;
  CurrentContext context;
  Stream stream;
  int64_t args[maxWords];

  explicit Launcher(const heed_kernel &kernel, void *stream)
      : kernel(kernel), code(nullptr), stream(static_cast<Stream>(stream)), args() {}

  heed_status enter(int32_t ordinal) {
    heed_status status;
    if (countArgumentWords(kernel) > maxWords)
      return fail(HEED_INVALID_ARGUMENT,
                  "kernel '%s': expected at most %lld argument words on a GPU, found %lld",
                  nameOf(kernel), ll(maxWords), ll(countArgumentWords(kernel)));
    if ((status = start()))
      return status;
    if (!deviceAt(ordinal)) {
      heed_gpu_capability(ordinal); // has the message
      return HEED_INVALID_ARGUMENT;
    }
    if ((status = context.enter(ordinal, /*anyDevice=*/false)))
      return status;
    for (int32_t i = 0; i < kernel.num_gpu_mask_codes && !code; ++i)
      if (hasCapability(kernel.gpu_mask_codes[i].kernels[0].module, *context->device))
        code = &kernel.gpu_mask_codes[i];
    if (!code)
      return fail(HEED_UNSUPPORTED_GPU,
                  "kernel '%s' has no code that classifies blocks on cuda:%d, a GPU of compute "
                  "capability %d.%d",
                  nameOf(kernel), int(ordinal), int(context->device->capability / 10),
                  int(context->device->capability % 10));
    return HEED_OK;
  }

  /// `which`: HEED_MASK_KERNEL_*.
  heed_status load(int which, Function &function) {
    const heed_gpu_mask_kernel &part = code->kernels[which];
    Loaded loaded;
    heed_status status = loadModule(kernel, part.module, {{part.entry}, 0}, *context, loaded);
    function = loaded.functions[0];
    return status;
  }

  heed_status checkPieces(int64_t numLists, int64_t piecesPerList, int64_t &pieces) {
    if (__builtin_mul_overflow(numLists, piecesPerList, &pieces) || pieces > INT32_MAX)
      return fail(HEED_INVALID_ARGUMENT,
                  "kernel '%s': expected fewer than 2^31 pieces of block lists, found %lld x %lld",
                  nameOf(kernel), ll(numLists), ll(piecesPerList));
    return HEED_OK;
  }

  /// A warp for each piece.
  heed_status launch(Function function, int64_t numLists, int64_t piecesPerList) {
    int64_t pieces;
    if (heed_status status = checkPieces(numLists, piecesPerList, pieces))
      return status;
    if (pieces == 0)
      return HEED_OK;
    void *params[] = {args};
    Result result =
        driver.launchKernel(function, unsigned(divideCeil(pieces, code->warps)), 1, 1,
                            unsigned(code->warps * lanes), 1, 1, 0, stream, params, nullptr);
    return result ? launchFailed(kernel, *context->device, result) : HEED_OK;
  }

  heed_status launchRows(int which) {
    Function function;
    if (heed_status status = load(which, function))
      return status;
    return launch(function, args[HEED_MASK_ARG_LISTS], args[HEED_MASK_ARG_ROWS]);
  }
};
} // namespace

/// Fills the words that say what the matrix is.
static heed_status describe(const heed_class_matrix *matrix, int32_t device, bool byColumn,
                            int64_t *args) {
  if (!matrix)
    return fail(HEED_INVALID_ARGUMENT, "argument 'matrix': expected an address, found NULL");
  const struct {
    const char *name;
    int64_t value;
  } extents[] = {{"num_batches", matrix->num_batches},
                 {"num_heads", matrix->num_heads},
                 {"num_rows", matrix->num_rows},
                 {"num_columns", matrix->num_columns}};
  for (const auto &extent : extents)
    if (extent.value < 0 || extent.value > maxExtent)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument 'matrix': expected %s from 0 to %lld, found %lld", extent.name,
                  ll(maxExtent), ll(extent.value));
  int64_t numLists = matrix->num_batches * matrix->num_heads, rows = matrix->num_rows;
  int64_t columns = matrix->num_columns, size;
  if (numLists > INT32_MAX || __builtin_mul_overflow(rows * columns, numLists, &size))
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'matrix': expected fewer than 2^63 blocks of fewer than 2^31 lists, "
                "found %lld x %lld x %lld x %lld",
                ll(matrix->num_batches), ll(matrix->num_heads), ll(rows), ll(columns));
  if (size > 0) {
    heed_status status;
    Place place;
    if ((status = locate("classes", matrix->classes, place)) ||
        (status = checkPlace("classes", matrix->classes, place, device)))
      return status;
  }
  args[HEED_MASK_ARG_LISTS] = numLists;
  args[HEED_MASK_ARG_HEADS] = matrix->num_heads;
  args[HEED_MASK_ARG_ROWS] = byColumn ? columns : rows;
  args[HEED_MASK_ARG_COLUMNS] = byColumn ? rows : columns;
  args[HEED_MASK_ARG_CLASSES] = int64_t(reinterpret_cast<uintptr_t>(matrix->classes));
  args[HEED_MASK_ARG_LIST_STRIDE] = rows * columns;
  args[HEED_MASK_ARG_ROW_STRIDE] = byColumn ? 1 : columns;
  args[HEED_MASK_ARG_COLUMN_STRIDE] = byColumn ? columns : 1;
  return HEED_OK;
}

/// Checks one of the arrays of lists, which has elements.
static heed_status checkList(const char *name, const int32_t *data, int32_t device) {
  if (reinterpret_cast<uintptr_t>(data) % sizeof(int32_t) != 0)
    return fail(HEED_INVALID_ARGUMENT, "argument '%s': data is not aligned to 4 bytes", name);
  Place place;
  if (heed_status status = locate(name, data, place))
    return status;
  return checkPlace(name, data, place, device);
}

/// Fills the words that say where lists of the rows in `args` are. A width is the entries of a row
/// of indices, -1 where there are no lists of the kind.
static heed_status describe(const heed_block_lists &lists, int64_t partialWidth, int64_t fullWidth,
                            int32_t device, int64_t *args) {
  const struct {
    const char *name;
    int32_t *data;
    int word;
    bool isRead;
  } arrays[] = {
      {"partial_counts", lists.partial_counts, HEED_MASK_ARG_PARTIAL_COUNTS, partialWidth >= 0},
      {"partial_indices", lists.partial_indices, HEED_MASK_ARG_PARTIAL_INDICES, partialWidth > 0},
      {"full_counts", lists.full_counts, HEED_MASK_ARG_FULL_COUNTS, fullWidth >= 0},
      {"full_indices", lists.full_indices, HEED_MASK_ARG_FULL_INDICES, fullWidth > 0}};
  bool hasRows = args[HEED_MASK_ARG_LISTS] * args[HEED_MASK_ARG_ROWS] > 0;
  for (const auto &array : arrays) {
    if (hasRows && array.isRead)
      if (heed_status status = checkList(array.name, array.data, device))
        return status;
    args[array.word] = int64_t(reinterpret_cast<uintptr_t>(array.data));
  }
  return HEED_OK;
}

/// Whether the matrix has the form that the question asks for.
static heed_status checkExtents(const heed_gpu_mask_code &code, const heed_mask_question &question,
                                const heed_class_matrix &matrix) {
  const struct {
    const char *name;
    int64_t found, expected;
    bool mayBeOne;
  } extents[] = {
      {"num_batches", matrix.num_batches, question.batch, !code.uses_batch && question.batch > 0},
      {"num_heads", matrix.num_heads, question.query_heads,
       !code.uses_head && question.query_heads > 0},
      {"num_rows", matrix.num_rows, divideCeil(question.query_length, question.block_q), false},
      {"num_columns", matrix.num_columns, divideCeil(question.key_length, question.block_kv),
       false}};
  for (const auto &extent : extents)
    if (extent.found != extent.expected && !(extent.mayBeOne && extent.found == 1))
      return fail(HEED_INVALID_ARGUMENT, "argument 'matrix': expected %s to be %lld%s, found %lld",
                  extent.name, ll(extent.expected), extent.mayBeOne ? " or 1" : "",
                  ll(extent.found));
  return HEED_OK;
}

extern "C" heed_status heed_launch_classify(const heed_kernel *kernel,
                                            const heed_mask_question *question,
                                            const heed_tensor *tensors,
                                            const heed_class_matrix *matrix, void *stream,
                                            int32_t device) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (heed_status status = checkNumParams(*kernel))
    return status;
  heed_value values[maxParams];
  heed_call call;
  Problem problem;
  heed_status status;
  Launcher launcher(*kernel, stream);
  if ((status = readQuestion(*kernel, question, tensors, values, call, problem)) ||
      (status = launcher.enter(device)))
    return status;
  fillArguments(*kernel, call, problem, launcher.args);
  if ((status = describe(matrix, device, /*byColumn=*/false, launcher.args)) ||
      (status = checkExtents(*launcher.code, *question, *matrix)) ||
      (status = checkParamPlaces(*kernel, call, device)))
    return status;
  launcher.args[HEED_MASK_ARG_BLOCK_Q] = question->block_q;
  launcher.args[HEED_MASK_ARG_BLOCK_KV] = question->block_kv;
  launcher.args[HEED_MASK_ARG_HANGING_IS_PARTIAL] = question->hanging_is_partial != 0;
  // Pairs of a part of a block are counted with 32 bits.
  auto least = [](int64_t x, int64_t y) { return x < y ? x : y; };
  int64_t queries = least(question->block_q, question->query_length);
  int64_t keys = least(question->block_kv, question->key_length);
  if (queries * keys >= int64_t(1) << 34 || queries >= maxSpan || keys >= maxSpan)
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected blocks of fewer than 2^34 pairs and 2^28 queries or keys on "
                "a GPU, found %lld x %lld",
                nameOf(*kernel), ll(queries), ll(keys));
  if (question->query_length >= maxLength || question->key_length >= maxLength)
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected fewer than 2^30 queries and keys on a GPU, found %lld and "
                "%lld",
                nameOf(*kernel), ll(question->query_length), ll(question->key_length));
  int64_t numLists = matrix->num_batches * matrix->num_heads;
  int64_t columnTiles = divideCeil(matrix->num_columns, lanes), numPieces;
  Function classify, settle;
  // Settle has at least as many pieces as classify, which must not run where settle cannot.
  if ((status = launcher.checkPieces(numLists, matrix->num_rows * columnTiles, numPieces)) ||
      (status = launcher.load(HEED_MASK_KERNEL_CLASSIFY, classify)) ||
      (status = launcher.load(HEED_MASK_KERNEL_SETTLE, settle)) ||
      (status =
           launcher.launch(classify, numLists, divideCeil(matrix->num_rows, lanes) * columnTiles)))
    return status;
  return launcher.launch(settle, numLists, matrix->num_rows * columnTiles);
}

extern "C" heed_status heed_launch_list(const heed_kernel *kernel, const heed_class_matrix *matrix,
                                        int32_t by_column, const heed_block_lists *lists,
                                        void *stream, int32_t device) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!lists)
    return fail(HEED_INVALID_ARGUMENT, "argument 'lists': expected an address, found NULL");
  heed_status status;
  Launcher launcher(*kernel, stream);
  if ((status = launcher.enter(device)) ||
      (status = describe(matrix, device, by_column != 0, launcher.args)))
    return status;
  int64_t columns = launcher.args[HEED_MASK_ARG_COLUMNS];
  if ((status = describe(*lists, columns, columns, device, launcher.args)))
    return status;
  return launcher.launchRows(HEED_MASK_KERNEL_LIST);
}

extern "C" heed_status heed_launch_fill(const heed_kernel *kernel, const heed_block_lists *lists,
                                        int64_t partial_width, int64_t full_width,
                                        const heed_class_matrix *matrix, void *stream,
                                        int32_t device) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!lists)
    return fail(HEED_INVALID_ARGUMENT, "argument 'lists': expected an address, found NULL");
  for (auto [name, width] : {std::pair("partial_width", partial_width), {"full_width", full_width}})
    if (width < 0 || width > INT32_MAX)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument '%s': expected a number from 0 to %d, found %lld", name, INT32_MAX,
                  ll(width));
  heed_status status;
  Launcher launcher(*kernel, stream);
  // Lists that are not given are not looked at.
  if ((status = launcher.enter(device)) ||
      (status = describe(matrix, device, /*byColumn=*/false, launcher.args)) ||
      (status = describe(*lists, lists->partial_counts ? partial_width : -1,
                         lists->full_counts ? full_width : -1, device, launcher.args)))
    return status;
  launcher.args[HEED_MASK_ARG_PARTIAL_WIDTH] = partial_width;
  launcher.args[HEED_MASK_ARG_FULL_WIDTH] = full_width;
  return matrix->num_columns == 0 ? HEED_OK : launcher.launchRows(HEED_MASK_KERNEL_FILL);
}
