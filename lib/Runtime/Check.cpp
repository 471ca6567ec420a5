//===-- Check.cpp - Checking what a caller passes ---------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Every message is one line that names the argument, what was expected and what was found. A wrong
// value must never reach compiled code, which checks nothing.
//
//===----------------------------------------------------------------------===//

#include "Check.h"
#include "DType.h"
#include "Error.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

using namespace heed::runtime;

// The messages print int64_t as long long, which is the same size everywhere.
using ll = long long;

static constexpr int64_t maxExtent = INT32_MAX;

/// 'query', or 'slope' (f32[Hq]): how messages call an argument.
namespace {
struct Label {
  char text[160];
};
} // namespace

//===----------------------------------------------------------------------===//
// Any tensor
//===----------------------------------------------------------------------===//

static heed_status checkDType(const char *label, heed_dtype found, heed_dtype expected) {
  if (found == expected)
    return HEED_OK;
  const char *name = describe(expected).name;
  if (const char *other = describe(found).name)
    return fail(HEED_INVALID_ARGUMENT, "argument %s: expected %s, found %s", label, name, other);
  return fail(HEED_INVALID_ARGUMENT, "argument %s: expected %s, found the unknown dtype %d", label,
              name, int(found));
}

/// Checks type, rank and that extents are numbers of elements.
static heed_status checkForm(const char *label, const heed_tensor &tensor, heed_dtype dtype,
                             int32_t rank, int64_t limit) {
  if (!tensor.data && tensor.rank == 0 && rank > 0) // what generated headers leave of NULL
    return fail(HEED_INVALID_ARGUMENT, "argument %s: expected a tensor, found NULL", label);
  if (heed_status status = checkDType(label, tensor.dtype, dtype))
    return status;
  if (tensor.rank != rank)
    return fail(HEED_INVALID_ARGUMENT, "argument %s: expected rank %d, found %d", label, int(rank),
                int(tensor.rank));
  for (int32_t i = 0; i < rank; ++i) {
    if (tensor.shape[i] < 0)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument %s: expected an extent of at least 0 in dimension %d, found %lld",
                  label, int(i), ll(tensor.shape[i]));
    if (tensor.shape[i] > limit)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument %s: expected an extent of at most %lld in dimension %d, found %lld",
                  label, ll(limit), int(i), ll(tensor.shape[i]));
  }
  return HEED_OK;
}

static bool isEmpty(const heed_tensor &tensor) {
  for (int32_t i = 0; i < tensor.rank; ++i)
    if (tensor.shape[i] == 0)
      return true;
  return false;
}

static heed_status checkExtent(const char *label, const heed_tensor &tensor, int dim,
                               const char *what, int64_t expected) {
  if (tensor.shape[dim] == expected)
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT, "argument %s: expected %s %lld in dimension %d, found %lld",
              label, what, ll(expected), dim, ll(tensor.shape[dim]));
}

/// The distance from the lowest to the highest element, or -1 where it exceeds what can have
/// addresses: compiled code multiplies without looking.
static int64_t spanOf(const heed_tensor &tensor) {
  int64_t low = 0, high = 0;
  for (int32_t i = 0; i < tensor.rank; ++i) {
    int64_t reach;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
      return -1;
  }
  int64_t limit = INT64_MAX / 4 / describe(tensor.dtype).size;
  return low >= -limit && high <= limit ? high - low : -1;
}

/// Checks the pointer and how far the strides reach. A tensor without elements needs no memory.
static heed_status checkStorage(const char *label, const heed_tensor &tensor) {
  if (isEmpty(tensor))
    return HEED_OK;
  if (!tensor.data)
    return fail(HEED_INVALID_ARGUMENT, "argument %s: data is NULL", label);
  int size = describe(tensor.dtype).size;
  if (reinterpret_cast<uintptr_t>(tensor.data) % uintptr_t(size) != 0)
    return fail(HEED_INVALID_ARGUMENT, "argument %s: data is not aligned to %d bytes", label, size);
  if (spanOf(tensor) < 0)
    return fail(HEED_INVALID_ARGUMENT,
                "argument %s: expected strides within the address space, found a larger reach",
                label);
  return HEED_OK;
}

static heed_status checkUnitStride(const char *label, const heed_tensor &tensor) {
  int32_t last = tensor.rank - 1;
  if (tensor.shape[last] <= 1 || tensor.strides[last] == 1 || isEmpty(tensor))
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT,
              "argument %s: expected unit stride in the last dimension, found %lld", label,
              ll(tensor.strides[last]));
}

/// Two elements in one place would be written by two threads. `row` consecutive elements belong to
/// each position.
static heed_status checkNoOverlap(const char *label, const heed_tensor &tensor, int dims,
                                  int64_t row) {
  if (isEmpty(tensor))
    return HEED_OK;
  for (int i = 0; i < dims; ++i) {
    int64_t stride = tensor.strides[i];
    if (tensor.shape[i] > 1 && stride > -row && stride < row)
      return fail(HEED_INVALID_ARGUMENT,
                  "argument %s: expected elements that do not overlap, found stride %lld in "
                  "dimension %d",
                  label, ll(stride), i);
  }
  // Strides of two dimensions may also meet. More elements than places prove it.
  int64_t elements = 1, places = spanOf(tensor) + 1;
  bool overflows = false;
  for (int32_t i = 0; i < tensor.rank; ++i)
    overflows |= __builtin_mul_overflow(elements, tensor.shape[i], &elements);
  if (places > 0 && (overflows || elements > places))
    return fail(HEED_INVALID_ARGUMENT,
                "argument %s: expected elements that do not overlap, found strides that give all "
                "elements %lld places",
                label, ll(places));
  return HEED_OK;
}

//===----------------------------------------------------------------------===//
// The kernel
//===----------------------------------------------------------------------===//

static heed_status damaged(const heed_kernel &kernel, const char *what) {
  return fail(HEED_INVALID_ARGUMENT, "kernel '%s' is damaged: %s", nameOf(kernel), what);
}

heed_status heed::runtime::checkKernel(const heed_kernel *kernel) {
  if (!kernel)
    return fail(HEED_INVALID_ARGUMENT, "argument 'kernel': expected a kernel, found NULL");
  // Nothing else is read from a kernel of another ABI.
  if (kernel->abi_version != HEED_ABI_VERSION)
    return fail(HEED_ABI_MISMATCH,
                "argument 'kernel': expected Heed ABI version %d, found %u; compile it again",
                HEED_ABI_VERSION, unsigned(kernel->abi_version));
  if (!isFloat(kernel->dtype))
    return damaged(*kernel, "its dtype is not f16, bf16 or f32");
  if (kernel->head_dim < 1 || kernel->value_head_dim < 1)
    return damaged(*kernel, "its head dims are not positive");
  if (kernel->num_params < 0 || (kernel->num_params > 0 && !kernel->params))
    return damaged(*kernel, "its list of parameters is missing");
  if (kernel->num_codes < 0 || (kernel->num_codes > 0 && !kernel->codes))
    return damaged(*kernel, "its list of codes is missing");
  if (kernel->num_gpu_codes < 0 || (kernel->num_gpu_codes > 0 && !kernel->gpu_codes))
    return damaged(*kernel, "its list of GPU codes is missing");
  if (kernel->num_mask_codes < 0 || (kernel->num_mask_codes > 0 && !kernel->mask_codes))
    return damaged(*kernel, "its list of mask codes is missing");
  for (int32_t i = 0; i < kernel->num_mask_codes; ++i)
    if (!kernel->mask_codes[i].classify || !kernel->mask_codes[i].count)
      return damaged(*kernel, "a mask code has no entry point");
  if (kernel->num_gpu_mask_codes < 0 || (kernel->num_gpu_mask_codes > 0 && !kernel->gpu_mask_codes))
    return damaged(*kernel, "its list of GPU mask codes is missing");
  for (int32_t i = 0; i < kernel->num_gpu_mask_codes; ++i) {
    const heed_gpu_mask_code &code = kernel->gpu_mask_codes[i];
    for (const heed_gpu_mask_kernel &part : code.kernels)
      if ((!part.module.ptx && !part.module.cubin) || !part.entry)
        return damaged(*kernel, "a GPU mask code has no entry point");
    if (code.warps < 1 || code.warps > 32)
      return damaged(*kernel, "a GPU mask code has no threads");
  }
  for (int32_t i = 0; i < kernel->num_params; ++i) {
    const heed_param &param = kernel->params[i];
    if (!param.name || !describe(param.dtype).name || param.rank < -1 ||
        param.rank > HEED_MAX_RANK || (param.rank > 0 && !param.extents))
      return damaged(*kernel, "a parameter has no name, type, rank or extents");
  }
  for (int32_t i = 0; i < kernel->num_codes; ++i) {
    const heed_code &code = kernel->codes[i];
    if (!code.tile || code.block_q < 1 || code.block_kv < 1 || code.scratch_bytes < 0 ||
        code.packed_bytes_per_block < 0)
      return damaged(*kernel, "a code has no entry point or no block sizes");
    if (code.uses_lists && kernel->num_mask_codes == 0)
      return damaged(*kernel, "a code needs block lists, and there is none that makes them");
  }
  return HEED_OK;
}

//===----------------------------------------------------------------------===//
// Query, key, value, output, LSE
//===----------------------------------------------------------------------===//

/// Key and value may have a batch of 1 for a larger batch of queries.
static heed_status checkBatch(const char *label, const heed_tensor &tensor, int64_t batch) {
  if (tensor.shape[0] == batch || tensor.shape[0] == 1)
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT,
              "argument %s: expected batch %lld or 1 in dimension 0, found %lld", label, ll(batch),
              ll(tensor.shape[0]));
}

heed_status heed::runtime::checkTensors(const heed_kernel &kernel, const heed_call &call,
                                        Problem &problem) {
  const heed_tensor &query = call.query, &key = call.key, &value = call.value;
  const heed_tensor &output = call.output;
  heed_status status;
  auto form = [&](const char *label, const heed_tensor &tensor) {
    return checkForm(label, tensor, kernel.dtype, 4, maxExtent);
  };

  if ((status = form("'query'", query)) || (status = form("'key'", key)) ||
      (status = form("'value'", value)) || (status = form("'output'", output)))
    return status;

  problem = {query.shape[0], query.shape[1], key.shape[1], query.shape[2], key.shape[2]};

  if ((status = checkExtent("'query'", query, 3, "head dim", kernel.head_dim)) ||
      (status = checkBatch("'key'", key, problem.batch)) ||
      (status = checkExtent("'key'", key, 3, "head dim", kernel.head_dim)))
    return status;
  bool divides =
      problem.keyHeads == 0 ? problem.queryHeads == 0 : problem.queryHeads % problem.keyHeads == 0;
  if (!divides)
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'query': expected a number of heads that is a multiple of the key heads "
                "%lld, found %lld",
                ll(problem.keyHeads), ll(problem.queryHeads));

  if ((status = checkBatch("'value'", value, problem.batch)) ||
      (status = checkExtent("'value'", value, 1, "number of heads", problem.keyHeads)) ||
      (status = checkExtent("'value'", value, 2, "sequence length", problem.keyLength)) ||
      (status = checkExtent("'value'", value, 3, "head dim", kernel.value_head_dim)) ||
      (status = checkExtent("'output'", output, 0, "batch", problem.batch)) ||
      (status = checkExtent("'output'", output, 1, "number of heads", problem.queryHeads)) ||
      (status = checkExtent("'output'", output, 2, "sequence length", problem.queryLength)) ||
      (status = checkExtent("'output'", output, 3, "head dim", kernel.value_head_dim)))
    return status;

  if ((status = checkUnitStride("'query'", query)) || (status = checkUnitStride("'key'", key)) ||
      (status = checkUnitStride("'value'", value)) ||
      (status = checkUnitStride("'output'", output)) ||
      (status = checkNoOverlap("'output'", output, 3, kernel.value_head_dim)) ||
      (status = checkStorage("'query'", query)) || (status = checkStorage("'key'", key)) ||
      (status = checkStorage("'value'", value)) || (status = checkStorage("'output'", output)))
    return status;

  auto checkRowNumbers = [&](const char *label, const heed_tensor &tensor) {
    heed_status status;
    if (!tensor.data)
      return HEED_OK;
    if ((status = checkForm(label, tensor, HEED_F32, 3, maxExtent)) ||
        (status = checkExtent(label, tensor, 0, "batch", problem.batch)) ||
        (status = checkExtent(label, tensor, 1, "number of heads", problem.queryHeads)) ||
        (status = checkExtent(label, tensor, 2, "sequence length", problem.queryLength)) ||
        (status = checkNoOverlap(label, tensor, 3, 1)))
      return status;
    return checkStorage(label, tensor);
  };
  if ((status = checkRowNumbers("'lse'", call.lse)))
    return status;
  return checkRowNumbers("'max_scores'", call.max_scores);
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

static const char *symbolOf(int64_t extent) {
  switch (extent) {
  case HEED_EXTENT_B:
    return "B";
  case HEED_EXTENT_HQ:
    return "Hq";
  case HEED_EXTENT_HKV:
    return "Hkv";
  case HEED_EXTENT_SQ:
    return "Sq";
  case HEED_EXTENT_SKV:
    return "Skv";
  case HEED_EXTENT_D:
    return "D";
  case HEED_EXTENT_DV:
    return "Dv";
  case HEED_EXTENT_ANY:
    return "?";
  }
  return nullptr;
}

/// 'window' (i32), 'slope' (f32[Hq]), 'bias' (bf16[B, Hq, ?]).
static Label labelOf(const heed_param &param) {
  Label label;
  size_t used = 0;
  auto append = [&](const char *format, auto value) {
    int n = snprintf(label.text + used, sizeof(label.text) - used, format, value);
    used += size_t(n);
    if (used >= sizeof(label.text))
      used = sizeof(label.text) - 1;
  };
  append("'%.80s'", param.name);
  append(" (%s", describe(param.dtype).name);
  for (int32_t i = 0; i < param.rank; ++i) {
    append("%s", i == 0 ? "[" : ", ");
    if (const char *symbol = symbolOf(param.extents[i]))
      append("%s", symbol);
    else
      append("%lld", ll(param.extents[i]));
  }
  append("%s", param.rank > 0 ? "])" : param.rank == 0 ? "[])" : ")");
  return label;
}

static int64_t resolveExtent(const heed_kernel &kernel, const Problem &problem, int64_t extent) {
  switch (extent) {
  case HEED_EXTENT_B:
    return problem.batch;
  case HEED_EXTENT_HQ:
    return problem.queryHeads;
  case HEED_EXTENT_HKV:
    return problem.keyHeads;
  case HEED_EXTENT_SQ:
    return problem.queryLength;
  case HEED_EXTENT_SKV:
    return problem.keyLength;
  case HEED_EXTENT_D:
    return kernel.head_dim;
  case HEED_EXTENT_DV:
    return kernel.value_head_dim;
  }
  return extent;
}

static heed_status checkCaptured(const heed_kernel &kernel, const heed_param &param,
                                 const heed_tensor *tensor, const Problem &problem,
                                 const char *label) {
  if (!tensor)
    return fail(HEED_INVALID_ARGUMENT, "argument %s: expected a tensor, found NULL", label);
  if (heed_status status = checkForm(label, *tensor, param.dtype, param.rank, INT64_MAX))
    return status;
  for (int32_t i = 0; i < param.rank; ++i) {
    int64_t extent = param.extents[i];
    if (extent == HEED_EXTENT_ANY)
      continue;
    int64_t expected = resolveExtent(kernel, problem, extent);
    if (tensor->shape[i] == expected)
      continue;
    const char *symbol = symbolOf(extent);
    return fail(HEED_INVALID_ARGUMENT,
                "argument %s: expected extent %s%s%lld in dimension %d, found %lld", label,
                symbol ? symbol : "", symbol ? " = " : "", ll(expected), int(i),
                ll(tensor->shape[i]));
  }
  return checkStorage(label, *tensor);
}

/// To write a label takes longer than all checks of a call, so only errors have one.
static heed_status checkCaptured(const heed_kernel &kernel, const heed_param &param,
                                 const heed_tensor *tensor, const Problem &problem) {
  if (!checkCaptured(kernel, param, tensor, problem, ""))
    return HEED_OK;
  return checkCaptured(kernel, param, tensor, problem, labelOf(param).text);
}

static heed_status checkScalar(const heed_param &param, const heed_value &value) {
  if (isFloat(param.dtype)) {
    // Infinities and NaN are values of f32; a finite number that would turn into one is a mistake.
    if (isfinite(value.f) && fabs(value.f) > double(FLT_MAX))
      return fail(HEED_INVALID_ARGUMENT,
                  "argument %s: expected a number that f32 can hold, found %g", labelOf(param).text,
                  value.f);
    return HEED_OK;
  }
  int64_t low = 0, high = 1;
  switch (param.dtype) {
  case HEED_I8:
    low = INT8_MIN, high = INT8_MAX;
    break;
  case HEED_I32:
    low = INT32_MIN, high = INT32_MAX;
    break;
  case HEED_I64:
    return HEED_OK;
  default:
    break;
  }
  if (value.i >= low && value.i <= high)
    return HEED_OK;
  return fail(HEED_INVALID_ARGUMENT, "argument %s: expected a number from %lld to %lld, found %lld",
              labelOf(param).text, ll(low), ll(high), ll(value.i));
}

heed_status heed::runtime::checkParams(const heed_kernel &kernel, const heed_call &call,
                                       const Problem &problem) {
  for (int32_t i = 0; i < kernel.num_params; ++i) {
    const heed_param &param = kernel.params[i];
    if (!call.params) {
      if (param.rank >= 0 || !param.has_default)
        return fail(HEED_INVALID_ARGUMENT,
                    "argument %s: expected a value because it has no default, found none (params "
                    "is NULL)",
                    labelOf(param).text);
      continue;
    }
    heed_status status = param.rank < 0
                             ? checkScalar(param, call.params[i])
                             : checkCaptured(kernel, param, call.params[i].tensor, problem);
    if (status)
      return status;
  }
  return HEED_OK;
}

heed_status heed::runtime::checkScale(const heed_call &call) {
  if (!isnan(call.scale) && !(fabs(call.scale) <= double(FLT_MAX)))
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'scale': expected a finite f32 or NaN for 1/sqrt(D), found %g",
                call.scale);
  return HEED_OK;
}

heed_status heed::runtime::checkSettings(const heed_call &call) {
  if (heed_status status = checkScale(call))
    return status;
  if (call.num_threads < 0)
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'num_threads': expected 0 or a positive number, found %d",
                int(call.num_threads));
  return HEED_OK;
}
