//===-- FakeCuda.cpp - A CUDA driver without a GPU --------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// FAKE_CUDA_COUNT, _INIT and _VERSION say how many devices there are, what cuInit returns, and
// which CUDA this is. Compiled with FAKE_CUDA_OLD, it lacks what came with later drivers.
//
//===----------------------------------------------------------------------===//

#include "FakeCuda.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#define EXPORT extern "C" __attribute__((visibility("default")))

using fake::Cuda;

static thread_local std::vector<CUctx_st *> stack;
static thread_local int captureMode = 0;

static int numberFrom(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

static Cuda *makeCuda() {
  Cuda *cuda = new Cuda;
  cuda->version = numberFrom("FAKE_CUDA_VERSION", 13000);
  const fake::Gpu known[] = {{"Fake H100", 90, 132, 50 << 20, 232448},
                             {"Fake H100", 90, 132, 50 << 20, 232448},
                             {"Fake A10", 86, 72, 6 << 20, 101376}};
  for (int i = 0; i < numberFrom("FAKE_CUDA_COUNT", 3); ++i) {
    cuda->gpus.push_back(known[i]);
    cuda->primaries.push_back(cuda->makeContext(i));
  }
  return cuda;
}

EXPORT Cuda *fakeCuda() {
  static Cuda *cuda = makeCuda();
  return cuda;
}

EXPORT void fakeSetCurrent(CUctx_st *context) {
  stack.clear();
  if (context)
    stack.push_back(context);
}

EXPORT CUctx_st *fakeGetCurrent() { return stack.empty() ? nullptr : stack.back(); }

/// Counts the call; returns what the test wants it to return, or 0.
static int enter(const char *function, bool usesContext = false) {
  Cuda &cuda = *fakeCuda();
  if (!cuda.recordLaunches)
    return 0; // when time is measured
  std::lock_guard<std::mutex> lock(cuda.mutex);
  ++cuda.calls[function];
  if (cuda.mayFail) {
    auto &queue = cuda.failures[function];
    if (!queue.empty()) {
      int result = queue.front();
      queue.erase(queue.begin());
      return result;
    }
  }
  if (usesContext) {
    if (cuda.sticky)
      return cuda.sticky;
    if (stack.empty())
      return 201;
    if (!stack.back()->isAlive)
      return 709;
  }
  return 0;
}

#define ENTER(...)                                                                                 \
  if (int result = enter(__func__, ##__VA_ARGS__))                                                 \
    return result;

/// What a capture forbids other than in the relaxed mode.
static int unsafeInCapture() {
  Cuda &cuda = *fakeCuda();
  std::lock_guard<std::mutex> lock(cuda.mutex);
  for (auto &stream : cuda.streams)
    if (stream->capturing && captureMode != 2) {
      stream->capturing = 2; // invalidated
      return 900;
    }
  return 0;
}

static int checkStream(CUstream_st *stream) {
  Cuda &cuda = *fakeCuda();
  if (!stream) { // the legacy default stream waits for others
    std::lock_guard<std::mutex> lock(cuda.mutex);
    for (auto &other : cuda.streams)
      if (other->capturing)
        return 906;
    return 0;
  }
  return stream->context == stack.back() ? 0 : 400;
}

EXPORT int cuInit(unsigned) {
  ENTER();
  int result = numberFrom("FAKE_CUDA_INIT", 0);
  return result ? result : fakeCuda()->gpus.empty() ? 100 : 0;
}

EXPORT int cuDriverGetVersion(int *version) {
  *version = fakeCuda()->version;
  return 0;
}

namespace {
struct Error {
  int result;
  const char *name, *text;
};
} // namespace

static const Error errors[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX was compiled with a newer toolchain"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when capturing"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "dependency on a capturing stream"},
};

EXPORT int cuGetErrorName(int result, const char **name) {
  for (const Error &error : errors)
    if (error.result == result)
      return *name = error.name, 0;
  return 1;
}

EXPORT int cuGetErrorString(int result, const char **text) {
  for (const Error &error : errors)
    if (error.result == result)
      return *text = error.text, 0;
  return 1;
}

EXPORT int cuDeviceGetCount(int *count) {
  ENTER();
  *count = int(fakeCuda()->gpus.size());
  return 0;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
  ENTER();
  *device = 100 + ordinal; // a handle need not be the number
  return 0;
}

EXPORT int cuDeviceGetName(char *name, int size, int device) {
  ENTER();
  strncpy(name, fakeCuda()->gpus.at(size_t(device - 100)).name.c_str(), size_t(size));
  return 0;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER();
  const fake::Gpu &gpu = fakeCuda()->gpus.at(size_t(device - 100));
  switch (attribute) {
  case 16:
    *value = gpu.sms;
    return 0;
  case 38:
    *value = gpu.l2Bytes;
    return 0;
  case 75:
    *value = gpu.capability / 10;
    return 0;
  case 76:
    *value = gpu.capability % 10;
    return 0;
  case 97:
    *value = gpu.sharedBytes;
    return 0;
  }
  return 1;
}

EXPORT int cuDevicePrimaryCtxRetain(CUctx_st **context, int device) {
  ENTER();
  if (int result = unsafeInCapture())
    return result;
  Cuda &cuda = *fakeCuda();
  CUctx_st *&primary = cuda.primaries.at(size_t(device - 100));
  if (!primary->isAlive) // it was reset: the same handle, another context
    primary->isAlive = true, primary->id = ++cuda.lastId;
  ++primary->retained;
  *context = primary;
  return 0;
}

EXPORT int cuCtxGetCurrent(CUctx_st **context) {
  ENTER();
  *context = fakeGetCurrent();
  return 0;
}

EXPORT int cuCtxGetDevice(int *device) {
  ENTER(true);
  *device = 100 + stack.back()->device;
  return 0;
}

#if !defined(FAKE_CUDA_OLD)
EXPORT int cuCtxGetId(CUctx_st *context, unsigned long long *id) {
  ENTER();
  *id = context->id;
  return 0;
}
#endif

EXPORT int cuCtxPushCurrent_v2(CUctx_st *context) {
  ENTER();
  if (!context->isAlive)
    return 709;
  stack.push_back(context);
  return 0;
}

EXPORT int cuCtxPopCurrent_v2(CUctx_st **context) {
  ENTER();
  if (stack.empty())
    return 201;
  *context = stack.back();
  stack.pop_back();
  return 0;
}

EXPORT int cuPointerGetAttributes(unsigned count, int *attributes, void **values,
                                  unsigned long long pointer) {
  ENTER();
  Cuda &cuda = *fakeCuda();
  const char *at = reinterpret_cast<const char *>(pointer);
  const fake::Range *range = nullptr;
  for (const fake::Range &candidate : cuda.ranges)
    if (at >= candidate.begin && at < candidate.begin + candidate.bytes)
      range = &candidate;
  for (unsigned i = 0; i < count; ++i) {
    bool isHost = range && (range->where == fake::Pinned || range->where == fake::PinnedElsewhere);
    switch (attributes[i]) {
    case 2:
      *static_cast<unsigned *>(values[i]) = !range ? 0 : isHost ? 1 : 2;
      break;
    case 3:
      if (stack.empty())
        return 201;
      *static_cast<unsigned long long *>(values[i]) = !range ? 0
                                                      : range->where == fake::PinnedElsewhere
                                                          ? pointer + 4096
                                                          : pointer;
      break;
    case 8:
      *static_cast<unsigned char *>(values[i]) = range && range->where == fake::Managed;
      break;
    case 9:
      *static_cast<int *>(values[i]) = range ? range->device : -2;
      break;
    default:
      return 1;
    }
  }
  return 0;
}

EXPORT int cuModuleLoadDataEx(CUmod_st **module, const void *image, unsigned count, int *options,
                              void **values) {
  ENTER(true);
  if (int result = unsafeInCapture())
    return result;
  Cuda &cuda = *fakeCuda();
  std::this_thread::sleep_for(std::chrono::milliseconds(cuda.loadMilliseconds));
  std::lock_guard<std::mutex> lock(cuda.mutex);
  const char *text = static_cast<const char *>(image);
  int result = 0;
  if (strstr(text, "foreign"))
    result = 209;
  else if (strstr(text, "not an image"))
    result = 200;
  else if (strstr(text, "syntax error"))
    result = 218;
  else if (strstr(text, "too new"))
    result = 222;
  size_t sizes[2] = {0, 0};
  for (unsigned i = 0; i < count; ++i)
    if (options[i] == 4 || options[i] == 6)
      sizes[options[i] == 6] = reinterpret_cast<size_t>(values[i]);
    else if (options[i] == 12)
      cuda.verboseJit = values[i] != nullptr;
  for (unsigned i = 0; i < count; ++i)
    if (options[i] == 3)
      strncpy(static_cast<char *>(values[i]), cuda.infoLog.c_str(), sizes[0]);
    else if (options[i] == 5 && result)
      strncpy(static_cast<char *>(values[i]), cuda.errorLog.c_str(), sizes[1]);
  if (result)
    return result;
  cuda.modules.push_back(std::make_unique<CUmod_st>(CUmod_st{stack.back(), text, true, {}}));
  *module = cuda.modules.back().get();
  return 0;
}

EXPORT int cuModuleUnload(CUmod_st *module) {
  ENTER(true);
  if (int result = unsafeInCapture())
    return result;
  if (!module->isAlive || module->context != stack.back())
    return 400;
  module->isAlive = false;
  return 0;
}

EXPORT int cuModuleGetFunction(CUfunc_st **function, CUmod_st *module, const char *name) {
  ENTER(true);
  if (module->image.find(std::string(".entry ") + name + "(") == std::string::npos)
    return 500;
  module->functions.push_back(std::make_unique<CUfunc_st>(CUfunc_st{module, name}));
  *function = module->functions.back().get();
  return 0;
}

EXPORT int cuFuncSetAttribute(CUfunc_st *function, int attribute, int value) {
  ENTER(true);
  if (attribute != 8)
    return 1;
  function->maxShared = value;
  return 0;
}

EXPORT int cuLaunchKernel(CUfunc_st *function, unsigned gridX, unsigned gridY, unsigned gridZ,
                          unsigned blockX, unsigned blockY, unsigned blockZ, unsigned shared,
                          CUstream_st *stream, void **params, void **extra) {
  ENTER(true);
  Cuda &cuda = *fakeCuda();
  if (!cuda.recordLaunches)
    return 0;
  if (int result = checkStream(stream))
    return result;
  if (!function->module->isAlive || function->module->context != stack.back())
    return 400;
  if (gridX == 0 || gridX > 0x7fffffffu || gridY != 1 || gridZ != 1 || blockX == 0 || blockY != 1 ||
      blockZ != 1 || int(shared) > function->maxShared || extra)
    return 1;
  std::lock_guard<std::mutex> lock(cuda.mutex);
  fake::Signature signature = cuda.signatures.at(function->name);
  fake::Launched launched = {function->name, stack.back(), stream, gridX, blockX, shared, {}, {}};
  for (int i = 0; i < signature.numMaps; ++i) {
    uint64_t number;
    memcpy(&number, params[i], sizeof(number));
    launched.maps.push_back(cuda.encoded.at(number));
  }
  launched.args.resize(size_t(signature.numWords));
  memcpy(launched.args.data(), params[signature.numMaps], launched.args.size() * 8);
  cuda.launches.push_back(std::move(launched));
  return 0;
}

/// Real memory, full of something.
static unsigned long long allocate(size_t bytes) {
  Cuda &cuda = *fakeCuda();
  if (bytes == 0 || bytes > (size_t(1) << 28))
    return 0;
  std::unique_ptr<char[]> memory(new char[bytes]);
  memset(memory.get(), 0xab, bytes);
  uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
  std::lock_guard<std::mutex> lock(cuda.mutex);
  cuda.memory[address] = std::move(memory);
  return address;
}

EXPORT int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
  ENTER(true);
  if (int result = unsafeInCapture())
    return result;
  *pointer = allocate(bytes);
  return *pointer ? 0 : 2;
}

EXPORT int cuMemFree_v2(unsigned long long pointer) {
  ENTER(true);
  std::lock_guard<std::mutex> lock(fakeCuda()->mutex);
  return fakeCuda()->memory.erase(uintptr_t(pointer)) ? 0 : 1;
}

EXPORT int cuMemsetD32Async(unsigned long long pointer, unsigned value, size_t count,
                            CUstream_st *stream) {
  ENTER(true);
  if (int result = checkStream(stream))
    return result;
  for (size_t i = 0; i < count; ++i)
    reinterpret_cast<unsigned *>(pointer)[i] = value;
  return 0;
}

#if !defined(FAKE_CUDA_OLD)
static int allocateAsync(unsigned long long *pointer, size_t bytes, CUstream_st *stream) {
  if (int result = checkStream(stream))
    return result;
  *pointer = allocate(bytes);
  if (!*pointer)
    return 2;
  ++fakeCuda()->asyncAllocations;
  return 0;
}

EXPORT int cuMemAllocAsync(unsigned long long *pointer, size_t bytes, CUstream_st *stream) {
  ENTER(true);
  return allocateAsync(pointer, bytes, stream);
}

EXPORT int cuMemPoolCreate(void **pool, const int *properties) {
  ENTER(true);
  if (properties[0] != 1 || properties[2] != 1)
    return 1;
  *pool = fakeCuda();
  return 0;
}

EXPORT int cuMemPoolSetAttribute(void *pool, int attribute, void *value) {
  ENTER(true);
  return pool == fakeCuda() && attribute == 4 && value ? 0 : 1;
}

EXPORT int cuMemAllocFromPoolAsync(unsigned long long *pointer, size_t bytes, void *pool,
                                   CUstream_st *stream) {
  ENTER(true);
  return pool == fakeCuda() ? allocateAsync(pointer, bytes, stream) : 1;
}

EXPORT int cuMemFreeAsync(unsigned long long pointer, CUstream_st *stream) {
  ENTER(true);
  if (int result = checkStream(stream))
    return result;
  std::lock_guard<std::mutex> lock(fakeCuda()->mutex);
  if (!fakeCuda()->memory.erase(uintptr_t(pointer)))
    return 1;
  ++fakeCuda()->asyncFrees;
  return 0;
}
#endif

EXPORT int cuStreamCreate(CUstream_st **stream, unsigned flags) {
  ENTER(true);
  if (int result = unsafeInCapture())
    return result;
  if (flags != 1)
    return 1;
  *stream = fakeCuda()->makeStream(stack.back());
  return 0;
}

EXPORT int cuStreamDestroy_v2(CUstream_st *) {
  ENTER(true);
  return 0;
}

EXPORT int cuStreamSynchronize(CUstream_st *stream) {
  ENTER(true);
  return checkStream(stream);
}

EXPORT int cuStreamIsCapturing(CUstream_st *stream, int *status) {
  ENTER(true);
  if (int result = checkStream(stream))
    return result;
  *status = stream ? stream->capturing : 0;
  return 0;
}

EXPORT int cuStreamGetId(CUstream_st *stream, unsigned long long *id) {
  ENTER(true);
  *id = stream ? stream->id : 1;
  return 0;
}

EXPORT int cuThreadExchangeStreamCaptureMode(int *mode) {
  ENTER();
  std::swap(*mode, captureMode);
  return 0;
}

#if !defined(FAKE_CUDA_OLD)
EXPORT int cuTensorMapEncodeTiled(CUtensorMap_st *map, int type, unsigned rank, void *address,
                                  const uint64_t *extents, const uint64_t *strides,
                                  const uint32_t *box, const uint32_t *elementStrides,
                                  int interleave, int swizzle, int l2Promotion, int fill) {
  ENTER();
  Cuda &cuda = *fakeCuda();
  if (!cuda.recordLaunches)
    return 0;
  int elementBytes = type == 7 ? 4 : 2;
  bool isLegal = reinterpret_cast<uintptr_t>(map) % 64 == 0 && rank == 4 && address &&
                 reinterpret_cast<uintptr_t>(address) % 16 == 0;
  for (int i = 0; i < 4; ++i)
    isLegal &= extents[i] >= 1 && extents[i] <= (uint64_t(1) << 32) && box[i] >= 1 &&
               box[i] <= 256 && elementStrides[i] == 1;
  for (int i = 0; i < 3; ++i)
    isLegal &= strides[i] % 16 == 0 && strides[i] < (uint64_t(1) << 40) && strides[i] > 0;
  uint32_t row = box[0] * uint32_t(elementBytes);
  isLegal &= row % 16 == 0 && (swizzle == 0 || row <= (16u << swizzle));
  if (!isLegal)
    return 1;
  std::lock_guard<std::mutex> lock(cuda.mutex);
  uint64_t number = cuda.encoded.size();
  cuda.encoded.push_back({type,
                          reinterpret_cast<uintptr_t>(address),
                          {extents, extents + 4},
                          {strides, strides + 3},
                          {box, box + 4},
                          {elementStrides, elementStrides + 4},
                          interleave,
                          swizzle,
                          l2Promotion,
                          fill});
  memset(map, 0xcd, 128);
  memcpy(map, &number, sizeof(number));
  return 0;
}
#endif
