//===-- Driver.h - The CUDA driver, found at run time -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_GPU_DRIVER_H
#define HEED_LIB_RUNTIME_GPU_DRIVER_H

#include "heed-c/Runtime.h"

#include <atomic>

// cuda.h's names, for sanitizers that compare the types of functions.
struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
struct CUmemPoolHandle_st;
struct CUstream_st;

/// Headers before CUDA 13 ask for an alignment of 64.
struct alignas(128) CUtensorMap_st {
  unsigned char opaque[128];
};

namespace heed::runtime::cuda {

//===----------------------------------------------------------------------===//
// What is used of cuda.h. The numbers are the driver's ABI and never change.
//===----------------------------------------------------------------------===//

using Result = int;
using DeviceHandle = int;
using DevicePtr = unsigned long long;
using Context = CUctx_st *;
using Module = CUmod_st *;
using Function = CUfunc_st *;
using MemoryPool = CUmemPoolHandle_st *;
using Stream = CUstream_st *;

using TensorMap = CUtensorMap_st;

enum : Result {
  success = 0,
  errorInvalidValue = 1,
  errorOutOfMemory = 2,
  errorNoDevice = 100,
  errorInvalidImage = 200,
  errorInvalidContext = 201,
  errorNoBinaryForGpu = 209,
  errorUnsupportedPtxVersion = 222,
  errorInvalidHandle = 400,
  errorNotFound = 500,
  errorContextIsDestroyed = 709,
};

enum {
  attributeNumSms = 16,
  attributeL2Bytes = 38,
  attributeMajor = 75,
  attributeMinor = 76,
  attributeSharedOptin = 97
};
enum { pointerMemoryType = 2, pointerDevicePointer = 3, pointerIsManaged = 8, pointerOrdinal = 9 };
enum { memoryHost = 1, memoryDevice = 2, memoryUnified = 4 };
enum {
  jitInfoLog = 3,
  jitInfoLogBytes = 4,
  jitErrorLog = 5,
  jitErrorLogBytes = 6,
  jitLogVerbose = 12
};
enum { functionMaxDynamicShared = 8 };
enum { captureModeRelaxed = 2 };
enum { streamNonBlocking = 1 };
enum { poolReleaseThreshold = 4 };
enum { allocationPinned = 1 };
enum { locationDevice = 1 };

struct MemoryPoolProperties {
  int allocationType, handleTypes, locationType, locationId;
  void *securityAttributes;
  unsigned char reserved[64];
};
/// A handle that means another stream in each thread.
enum : uintptr_t { streamPerThread = 2 };

/// The entry points: member, name in the library, parameters. Those of OPTIONAL came with later
/// drivers and are NULL where the driver has none.
#define HEED_CUDA_FUNCTIONS(REQUIRED, OPTIONAL)                                                    \
  REQUIRED(init, "cuInit", (unsigned flags))                                                       \
  REQUIRED(driverGetVersion, "cuDriverGetVersion", (int *version))                                 \
  REQUIRED(getErrorName, "cuGetErrorName", (Result result, const char **name))                     \
  REQUIRED(getErrorString, "cuGetErrorString", (Result result, const char **text))                 \
  REQUIRED(deviceGetCount, "cuDeviceGetCount", (int *count))                                       \
  REQUIRED(deviceGet, "cuDeviceGet", (DeviceHandle * device, int ordinal))                         \
  REQUIRED(deviceGetName, "cuDeviceGetName", (char *name, int size, DeviceHandle device))          \
  REQUIRED(deviceGetAttribute, "cuDeviceGetAttribute",                                             \
           (int *value, int attribute, DeviceHandle device))                                       \
  REQUIRED(primaryRetain, "cuDevicePrimaryCtxRetain", (Context * context, DeviceHandle device))    \
  REQUIRED(ctxGetCurrent, "cuCtxGetCurrent", (Context * context))                                  \
  REQUIRED(ctxGetDevice, "cuCtxGetDevice", (DeviceHandle * device))                                \
  OPTIONAL(ctxGetId, "cuCtxGetId", (Context context, unsigned long long *id))                      \
  REQUIRED(ctxPush, "cuCtxPushCurrent_v2", (Context context))                                      \
  REQUIRED(ctxPop, "cuCtxPopCurrent_v2", (Context * context))                                      \
  REQUIRED(pointerGetAttributes, "cuPointerGetAttributes",                                         \
           (unsigned count, int *attributes, void **values, DevicePtr pointer))                    \
  REQUIRED(moduleLoadDataEx, "cuModuleLoadDataEx",                                                 \
           (Module * module, const void *image, unsigned count, int *options, void **values))      \
  REQUIRED(moduleUnload, "cuModuleUnload", (Module module))                                        \
  REQUIRED(moduleGetFunction, "cuModuleGetFunction",                                               \
           (Function * function, Module module, const char *name))                                 \
  REQUIRED(funcSetAttribute, "cuFuncSetAttribute", (Function function, int attribute, int value))  \
  REQUIRED(launchKernel, "cuLaunchKernel",                                                         \
           (Function function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,    \
            unsigned blockY, unsigned blockZ, unsigned sharedBytes, Stream stream, void **params,  \
            void **extra))                                                                         \
  REQUIRED(memAlloc, "cuMemAlloc_v2", (DevicePtr * pointer, size_t bytes))                         \
  REQUIRED(memFree, "cuMemFree_v2", (DevicePtr pointer))                                           \
  REQUIRED(memsetD32Async, "cuMemsetD32Async",                                                     \
           (DevicePtr pointer, unsigned value, size_t count, Stream stream))                       \
  OPTIONAL(memAllocAsync, "cuMemAllocAsync", (DevicePtr * pointer, size_t bytes, Stream stream))   \
  OPTIONAL(memFreeAsync, "cuMemFreeAsync", (DevicePtr pointer, Stream stream))                     \
  OPTIONAL(memPoolCreate, "cuMemPoolCreate", (MemoryPool * pool, const MemoryPoolProperties *p))   \
  OPTIONAL(memPoolSetAttribute, "cuMemPoolSetAttribute",                                           \
           (MemoryPool pool, int attribute, void *value))                                          \
  OPTIONAL(memAllocFromPoolAsync, "cuMemAllocFromPoolAsync",                                       \
           (DevicePtr * pointer, size_t bytes, MemoryPool pool, Stream stream))                    \
  REQUIRED(streamCreate, "cuStreamCreate", (Stream * stream, unsigned flags))                      \
  REQUIRED(streamDestroy, "cuStreamDestroy_v2", (Stream stream))                                   \
  REQUIRED(streamSynchronize, "cuStreamSynchronize", (Stream stream))                              \
  OPTIONAL(streamGetId, "cuStreamGetId", (Stream stream, unsigned long long *id))                  \
  REQUIRED(streamIsCapturing, "cuStreamIsCapturing", (Stream stream, int *status))                 \
  REQUIRED(exchangeCaptureMode, "cuThreadExchangeStreamCaptureMode", (int *mode))                  \
  OPTIONAL(tensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                         \
           (TensorMap * map, int type, unsigned rank, void *address, const uint64_t *extents,      \
            const uint64_t *strides, const uint32_t *box, const uint32_t *elementStrides,          \
            int interleave, int swizzle, int l2Promotion, int fill))

struct Driver {
#define HEED_CUDA_MEMBER(member, symbol, parameters) Result(*member) parameters;
  HEED_CUDA_FUNCTIONS(HEED_CUDA_MEMBER, HEED_CUDA_MEMBER)
#undef HEED_CUDA_MEMBER
};

/// Valid once start() has returned HEED_OK.
extern Driver driver;

//===----------------------------------------------------------------------===//
// Starting it
//===----------------------------------------------------------------------===//

struct Device {
  DeviceHandle handle;
  int32_t ordinal;
  int32_t capability; ///< major * 10 + minor
  int32_t numSms;
  int32_t l2Bytes;
  int32_t sharedBytes;          ///< what a thread block may ask for
  std::atomic<Context> primary; ///< NULL until somebody needs it
};

/// Loads the driver and looks at the devices, once. An error says what to install or set.
heed_status start();

/// Whether start() was called, and this process is not a child of the one that did.
bool isStarted();

/// Device `ordinal`, or NULL; after start().
Device *deviceAt(int32_t ordinal);
Device *deviceOf(DeviceHandle handle);

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

/// Reports that a driver call failed: "<what>: CUDA_ERROR_... (its text)". An error that an earlier
/// kernel left in the context is reported as such, and lack of memory as HEED_OUT_OF_MEMORY.
__attribute__((format(printf, 2, 3))) heed_status failCall(Result result, const char *format, ...);

/// A line for messages: the driver's CUDA version.
struct Version {
  char text[16];
};
Version driverVersion();

/// Allows what CUDA else forbids while any stream is captured: allocating and loading.
class RelaxedCapture {
public:
  RelaxedCapture() { driver.exchangeCaptureMode(&mode); }
  ~RelaxedCapture() { driver.exchangeCaptureMode(&mode); }
  RelaxedCapture(const RelaxedCapture &) = delete;
  RelaxedCapture &operator=(const RelaxedCapture &) = delete;

private:
  int mode = captureModeRelaxed;
};

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_DRIVER_H
