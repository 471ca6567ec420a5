//===-- Launch.cpp - One launch of a compiled kernel ------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Everything that can be checked is checked before anything is launched. The way of a hot call is
// short: it asks the driver for the context (twice), for each pointer (once, unless the caller
// knows the device), encodes maps that the thread has not encoded lately, and launches; nothing is
// allocated or locked.
//
//===----------------------------------------------------------------------===//

#include "../Arguments.h"
#include "../Check.h"
#include "../DType.h"
#include "../Error.h"
#include "../Packed.h"
#include "Context.h"
#include "Module.h"
#include "Place.h"
#include "TensorMap.h"

#include <stdio.h>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

using ll = long long;

/// Tiles from which on it pays to compute what is known of blocks of keys once for all.
static constexpr int64_t leastListsPerSummary = 4;
static constexpr int64_t maxMaps = maxParameterBytes / int64_t(sizeof(TensorMap));

//===----------------------------------------------------------------------===//
// Which code
//===----------------------------------------------------------------------===//

static bool fits(const heed_gpu_code &code, const Device &device) {
  return hasCapability(code.module, device) && code.shared_bytes <= device.sharedBytes;
}

/// Whether there is nothing to tell them apart by on `device`, which runs neither.
static bool needSame(const heed_gpu_code &a, const heed_gpu_code &b, const Device &device) {
  return a.module.capability == b.module.capability && a.module.is_exact == b.module.is_exact &&
         (a.shared_bytes == b.shared_bytes || !hasCapability(a.module, device));
}

static bool needsAligned(const heed_gpu_code &code) {
  return code.needs_aligned || code.num_maps > 0;
}

namespace {
/// Which tensor does not fit the maps of a code, and why.
struct CallMisfit {
  const char *name;
  Misfit misfit;
  int size; ///< of an element
};
} // namespace

static CallMisfit findMisfit(const heed_kernel &kernel, const heed_gpu_code &code,
                             const heed_call &call) {
  if (code.num_maps > maxMaps) // damaged, which checkCode reports
    return {};
  const heed_tensor *tensors[] = {&call.query, &call.key, &call.value, &call.output};
  const char *names[] = {"query", "key", "value", "output"};
  for (int i = 0; i < 4; ++i) {
    Misfit misfit = findMisfit(*tensors[i]);
    if (misfit.expected)
      return {names[i], misfit, describe(kernel.dtype).size};
  }
  for (int32_t i = 0; code.maps && i < code.num_maps; ++i) {
    const heed_gpu_map &map = code.maps[i];
    const heed_tensor *tensor = operandOf(map, kernel, call);
    if (capturedIndexOf(map) < 0 || !tensor)
      continue;
    Misfit misfit = findMisfit(*tensor);
    // A gather has zeros to read where there are no elements; a map has none.
    for (int32_t dim = 0; dim < tensor->rank; ++dim)
      if (tensor->shape[dim] == 0)
        misfit = {"elements", 0, dim};
    if (misfit.expected)
      return {kernel.params[capturedIndexOf(map)].name, misfit, describe(tensor->dtype).size};
  }
  return {};
}

static heed_status noCode(const heed_kernel &kernel, const Device &device) {
  char found[96] = "a GPU";
  driver.deviceGetName(found, int(sizeof(found)), device.handle);
  found[sizeof(found) - 1] = 0;
  if (kernel.num_gpu_codes == 0)
    return fail(
        HEED_UNSUPPORTED_GPU,
        "kernel '%s': expected code for %s of compute capability %d.%d (cuda:%d), found code "
        "for CPUs only",
        nameOf(kernel), found, int(device.capability / 10), int(device.capability % 10),
        int(device.ordinal));
  char expected[200] = "";
  size_t used = 0;
  for (int32_t i = 0; i < kernel.num_gpu_codes && used + 1 < sizeof(expected); ++i) {
    const heed_gpu_code &code = kernel.gpu_codes[i];
    // Often the same again, for fewer keys or arguments that are not aligned.
    if (i > 0 && needSame(code, kernel.gpu_codes[i - 1], device))
      continue;
    used += size_t(snprintf(expected + used, sizeof(expected) - used, "%s%s%d.%d (%s)",
                            used ? ", or " : "", code.module.is_exact ? "" : "at least ",
                            int(code.module.capability / 10), int(code.module.capability % 10),
                            code.module.target ? code.module.target : "unnamed"));
    if (hasCapability(code.module, device) && used + 1 < sizeof(expected))
      used += size_t(snprintf(expected + used, sizeof(expected) - used,
                              " with %d bytes of shared memory", int(code.shared_bytes)));
  }
  return fail(
      HEED_UNSUPPORTED_GPU,
      "kernel '%.80s': expected a GPU of compute capability %s, found %s of compute capability "
      "%d.%d with %d bytes of shared memory (cuda:%d)",
      nameOf(kernel), expected, found, int(device.capability / 10), int(device.capability % 10),
      int(device.sharedBytes), int(device.ordinal));
}

/// The first code that runs this call on `device`.
static heed_status selectCode(const heed_kernel &kernel, const heed_call &call,
                              const Problem &problem, const Device &device,
                              const heed_gpu_code *&selected) {
  CallMisfit found = {};
  const heed_gpu_code *refused = nullptr;
  for (int32_t i = 0; i < kernel.num_gpu_codes; ++i) {
    const heed_gpu_code &code = kernel.gpu_codes[i];
    if (!fits(code, device) || problem.keyLength < code.min_keys)
      continue;
    if (needsAligned(code)) {
      CallMisfit misfit = findMisfit(kernel, code, call);
      if (misfit.misfit.expected) {
        if (!refused) {
          found = misfit;
          refused = &code;
        }
        continue;
      }
    }
    selected = &code;
    return HEED_OK;
  }
  if (!refused)
    return noCode(kernel, device);
  // The GPU would do, so that it is the argument that is named.
  const Misfit &misfit = found.misfit;
  const char *target = refused->module.target ? refused->module.target : "this GPU";
  if (misfit.dim < 0)
    return fail(
        HEED_UNALIGNED,
        "argument '%s': expected %s bytes, which the code of kernel '%s' for %s needs, found "
        "one that is %lld bytes above",
        found.name ? found.name : "?", misfit.expected, nameOf(kernel), target, ll(misfit.found));
  return fail(HEED_UNALIGNED,
              "argument '%s': expected %s in dimension %d, which the code of kernel '%s' for %s "
              "needs, found %lld elements of %d bytes",
              found.name ? found.name : "?", misfit.expected, int(misfit.dim), nameOf(kernel),
              target, ll(misfit.found), found.size);
}

/// Checks the code's own description.
static heed_status checkCode(const heed_kernel &kernel, const heed_gpu_code &code,
                             const heed_call &call) {
  auto damaged = [&](const char *what) {
    return fail(HEED_INVALID_ARGUMENT, "kernel '%s' is damaged: its code for %s has %s",
                nameOf(kernel), code.module.target ? code.module.target : "a GPU", what);
  };
  if (!code.entry || (!code.module.ptx && !code.module.cubin))
    return damaged("no entry point or neither PTX nor a cubin");
  if (code.block_q < 1 || code.block_kv < 1 || code.num_threads < 1 || code.num_threads > 1024 ||
      code.shared_bytes < 0 || code.blocks_per_sm < 0 || code.blocks_per_tile < 1)
    return damaged("no block sizes or no threads");
  if (code.classify && (code.classify_threads < 1 || code.classify_threads > 1024))
    return damaged("no threads that classify blocks");
  if (code.summarise &&
      (!code.classify || code.summarise_threads < 32 || code.summarise_threads > 1024 ||
       code.summarise_threads % 32 != 0 || code.summary_words < 1))
    return damaged("no threads or no words for what is known of blocks");
  if (code.num_maps < 0 || code.num_maps > maxMaps || (code.num_maps > 0 && !code.maps))
    return damaged("no list of tensor maps, or too many of them");
  for (int32_t i = 0; i < code.num_maps; ++i) {
    const heed_gpu_map &map = code.maps[i];
    const heed_tensor *tensor = operandOf(map, kernel, call);
    int64_t rowBytes = tensor ? int64_t(map.box_columns) * describe(tensor->dtype).size : 0;
    if (!tensor || map.box_rows < 1 || map.box_rows > 256 ||
        (rowBytes != 128 && rowBytes != 64 && rowBytes != 32))
      return damaged("a tensor map without an operand, or whose boxes have no legal size");
  }
  return HEED_OK;
}

//===----------------------------------------------------------------------===//
// The geometry
//===----------------------------------------------------------------------===//

namespace {
struct Geometry {
  unsigned numBlocks; ///< at most blocks_per_tile for each of B * Hq * ceil(Sq / block_q) tiles
  unsigned numLists;  ///< 0: no classify kernel
  unsigned summariseBlocks; ///< 0: no summarise kernel
  int64_t listBytes, summaryBytes;
};
} // namespace

static heed_status layOut(const heed_kernel &kernel, const heed_gpu_code &code,
                          const Problem &problem, const Device &device, Geometry &geometry) {
  // Words of a walk have 23 bits for a block.
  if (problem.keyLength / code.block_kv >= int64_t(1) << 23)
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected fewer than 2^23 blocks of %d keys, "
                "found %lld keys",
                nameOf(kernel), int(code.block_kv), ll(problem.keyLength));
  int64_t qTiles = (problem.queryLength - 1) / code.block_q + 1, numTiles;
  bool overflows = __builtin_mul_overflow(qTiles, problem.queryHeads, &numTiles);
  overflows |= __builtin_mul_overflow(numTiles, problem.batch, &numTiles);
  int64_t numBlocks;
  overflows |= __builtin_mul_overflow(numTiles, int64_t(code.blocks_per_tile), &numBlocks);
  if (overflows || numBlocks > INT32_MAX) {
    char most[32] = "2^31 - 1";
    if (code.blocks_per_tile > 1)
      snprintf(most, sizeof(most), "%d", int(INT32_MAX / code.blocks_per_tile));
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected at most %s tiles of %d queries, found %lld x %lld x %lld",
                nameOf(kernel), most, int(code.block_q), ll(problem.batch), ll(problem.queryHeads),
                ll(qTiles));
  }
  geometry.numBlocks = unsigned(numBlocks);
  if (code.blocks_per_sm > 0) {
    int64_t resident = int64_t(device.numSms) * code.blocks_per_sm;
    if (resident < numBlocks)
      geometry.numBlocks = resident > 0 ? unsigned(resident) : 1;
  }

  if (!code.classify)
    return HEED_OK;
  int64_t numLists = (code.lists_per_batch ? problem.batch : 1) *
                     (code.lists_per_head ? problem.queryHeads : 1) * qTiles;
  int64_t kvBlocks = (problem.keyLength + code.block_kv - 1) / code.block_kv;
  // At most 2^31 x 2^23 words, and for few lists the order of their lengths; summaries behind them
  // are aligned.
  int64_t orderWords = numLists <= HEED_MOST_SORTED_LISTS ? numLists : 0;
  geometry.listBytes = ((numLists * (1 + kvBlocks) + orderWords) * 4 + 15) / 16 * 16;
  geometry.numLists = unsigned(numLists);
  // No more than there are tiles. Lists of few tiles read their keys themselves, those in their
  // bounds only.
  int64_t numSummaries = (code.summaries_per_batch ? problem.batch : 1) *
                         (code.summaries_per_head ? problem.queryHeads : 1);
  if (!code.summarise || kvBlocks == 0 || numLists / numSummaries < leastListsPerSummary)
    return HEED_OK;
  int64_t perThreadBlock = code.summarise_threads / 32;
  int64_t perList = (kvBlocks + perThreadBlock - 1) / perThreadBlock;
  if (numSummaries * perList > INT32_MAX)
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected fewer than 2^31 groups of %d blocks of keys, found %lld x "
                "%lld",
                nameOf(kernel), int(perThreadBlock), ll(numSummaries), ll(perList));
  geometry.summariseBlocks = unsigned(numSummaries * perList);
  geometry.summaryBytes = numSummaries * kvBlocks * code.summary_words * 8;
  return HEED_OK;
}

/// HEED_ARG_SECTION: as many query heads as read keys and values that the second-level cache holds,
/// and of short sequences, which memory bounds, few: what a head's tiles share is then read once.
static int64_t sectionOf(const heed_kernel &kernel, const Problem &problem, const Device &device) {
  constexpr int64_t MiB = int64_t(1) << 20;
  constexpr int64_t perKey = MiB / 64;
  int64_t budget = device.l2Bytes >= 48 * MiB ? 32 * MiB : device.l2Bytes / 2;
  if (problem.keyLength < budget / perKey)
    budget = problem.keyLength * perKey;
  int64_t allHeads = problem.batch * problem.queryHeads;
  int64_t group = problem.queryHeads / problem.keyHeads;
  int64_t rowBytes =
      (int64_t(kernel.head_dim) + kernel.value_head_dim) * describe(kernel.dtype).size;
  // Rows that fit, rather than the bytes of a head, which may be too many to count.
  int64_t rows = budget / rowBytes;
  int64_t heads = problem.keyLength == 0 ? allHeads : rows / problem.keyLength;
  int64_t section = 1;
  while (section * 2 <= heads && section * group < allHeads)
    section *= 2;
  return section * group < allHeads ? section * group : allHeads;
}

//===----------------------------------------------------------------------===//
// The launch
//===----------------------------------------------------------------------===//

namespace {
/// In the order in which loadModule is asked for them.
enum { Attend, Classify, Summarise };

/// The memory of the block lists, which follows the stream's order.
class Lists {
public:
  explicit Lists(Stream stream) : stream(stream) {}
  ~Lists() {
    if (pointer)
      driver.memFreeAsync(pointer, stream);
  }
  Lists(const Lists &) = delete;
  Lists &operator=(const Lists &) = delete;

  heed_status allocate(const heed_kernel &kernel, ContextState &context, int64_t bytes) {
    if (!driver.memAllocAsync || !driver.memFreeAsync)
      return fail(HEED_UNSUPPORTED_GPU,
                  "kernel '%s': expected a driver for CUDA 11.2 or later, found one for CUDA %s; "
                  "update the NVIDIA driver",
                  nameOf(kernel), driverVersion().text);
    if (Result result = allocateInOrder(context, stream, size_t(bytes), pointer)) {
      pointer = 0;
      return failCall(result, "kernel '%s': no %lld bytes of memory for block lists on cuda:%d",
                      nameOf(kernel), ll(bytes), int(context.device->ordinal));
    }
    return HEED_OK;
  }

  DevicePtr pointer = 0;

private:
  Stream stream;
};
} // namespace

static heed_status launch(const heed_kernel &kernel, const heed_gpu_code &code,
                          const heed_call &call, const Problem &problem, ContextState &context,
                          Stream stream) {
  const Device &device = *context.device;
  int64_t numWords = countArgumentWords(kernel);
  int64_t mostWords = (maxParameterBytes - code.num_maps * int64_t(sizeof(TensorMap))) / 8;
  if (numWords > mostWords)
    return fail(HEED_INVALID_ARGUMENT,
                "kernel '%s': expected at most %lld argument words on a GPU, found %lld",
                nameOf(kernel), ll(mostWords), ll(numWords));
  Geometry geometry = {};
  Loaded loaded = {};
  heed_status status;
  if ((status = layOut(kernel, code, problem, device, geometry)) ||
      (status = loadModule(kernel, code.module,
                           {{code.entry, code.classify, code.summarise}, code.shared_bytes},
                           context, loaded)))
    return status;

  int64_t args[maxParameterBytes / 8];
  fillArguments(kernel, call, problem, args);
  args[HEED_ARG_SECTION] = sectionOf(kernel, problem, device);

  TensorMap maps[maxMaps];
  if ((status = encodeMaps(kernel, code, call, maps)))
    return status;
  void *params[maxMaps + 1];
  for (int32_t i = 0; i < code.num_maps; ++i)
    params[i] = &maps[i];
  params[code.num_maps] = args;

  if (code.blocks_per_sm > 0 || code.classify) {
    DevicePtr counter;
    if ((status = takeCounter(context, stream, counter)))
      return status;
    args[HEED_ARG_COUNTER] = int64_t(counter);
  }

  auto launchEntry = [&](int entry, unsigned blocks, int32_t threads, int32_t sharedBytes) {
    Result result = driver.launchKernel(loaded.functions[entry], blocks, 1, 1, unsigned(threads), 1,
                                        1, unsigned(sharedBytes), stream, params, nullptr);
    return result ? launchFailed(kernel, device, result) : HEED_OK;
  };
  Lists lists(stream);
  if (code.classify) {
    if ((status = lists.allocate(kernel, context, geometry.listBytes + geometry.summaryBytes)))
      return status;
    args[HEED_ARG_LISTS] = int64_t(lists.pointer);
    if (geometry.summariseBlocks > 0) {
      args[HEED_ARG_SUMMARIES] = args[HEED_ARG_LISTS] + geometry.listBytes;
      if ((status = launchEntry(Summarise, geometry.summariseBlocks, code.summarise_threads, 0)))
        return status;
    }
    if ((status = launchEntry(Classify, geometry.numLists, code.classify_threads, 0)))
      return status;
  }
  return launchEntry(Attend, geometry.numBlocks, code.num_threads, code.shared_bytes);
}

/// Checks all data but the query's.
static heed_status checkPlaces(const heed_kernel &kernel, const heed_call &call, int32_t ordinal) {
  heed_status status;
  if ((status = checkPlace("key", call.key, ordinal)) ||
      (status = checkPlace("value", call.value, ordinal)) ||
      (status = checkPlace("output", call.output, ordinal)) ||
      (status = checkPlace("lse", call.lse, ordinal)) ||
      (status = checkPlace("max_scores", call.max_scores, ordinal)))
    return status;
  return checkParamPlaces(kernel, call, ordinal);
}

/// Finds the device that holds the query and checks that everything else is there too.
static heed_status enterDeviceOf(const heed_kernel &kernel, const heed_call &call,
                                 CurrentContext &context) {
  Place place;
  heed_status status;
  if ((status = locate("query", call.query.data, place)))
    return status;
  if (place.kind == Place::Pageable)
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'query': expected memory of a CUDA device, found host memory");
  if ((status = context.enter(place.ordinal, place.kind != Place::OnDevice)))
    return status;
  int32_t ordinal = context->device->ordinal;
  if ((status = checkPlace("query", call.query.data, place, ordinal)))
    return status;
  return checkPlaces(kernel, call, ordinal);
}

/// `ordinal`: the device that holds everything, or -1.
static heed_status launchOn(const heed_kernel *kernel, const heed_call *call, void *stream,
                            int32_t ordinal) {
  if (heed_status status = checkKernel(kernel))
    return status;
  if (!call)
    return fail(HEED_INVALID_ARGUMENT, "argument 'call': expected a call, found NULL");
  Problem problem;
  heed_status status;
  if ((status = checkTensors(*kernel, *call, problem)) ||
      (status = checkParams(*kernel, *call, problem)) || (status = checkScale(*call)))
    return status;
  if (problem.isEmpty())
    return HEED_OK;

  CurrentContext context;
  if ((status = start()) || (status = ordinal < 0 ? enterDeviceOf(*kernel, *call, context)
                                                  : context.enter(ordinal, /*anyDevice=*/false)))
    return status;
  const Device &device = *context->device;

  const heed_gpu_code *code = nullptr;
  if ((status = selectCode(*kernel, *call, problem, device, code)) ||
      (status = checkCode(*kernel, *code, *call)))
    return status;
  return launch(*kernel, *code, *call, problem, *context, static_cast<Stream>(stream));
}

extern "C" heed_status heed_launch(const heed_kernel *kernel, const heed_call *call, void *stream) {
  return launchOn(kernel, call, stream, -1);
}

extern "C" heed_status heed_launch_packed(const heed_kernel *kernel, const heed_call *call,
                                          void *const *data, const heed_value *params,
                                          const heed_tensor *tensors, void *stream,
                                          int32_t device) {
  return unpack(kernel, call, data, params, tensors,
                [=](const heed_call &whole) { return launchOn(kernel, &whole, stream, device); });
}

extern "C" const heed_gpu_code *heed_select_gpu_code(const heed_kernel *kernel, int32_t device) {
  if (checkKernel(kernel) || start())
    return nullptr;
  const Device *found = deviceAt(device);
  if (!found) {
    heed_gpu_capability(device); // has the message
    return nullptr;
  }
  for (int32_t i = 0; i < kernel->num_gpu_codes; ++i)
    if (fits(kernel->gpu_codes[i], *found))
      return &kernel->gpu_codes[i];
  noCode(*kernel, *found);
  return nullptr;
}
