//===-- Driver.cpp - The CUDA driver, found at run time ---------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Driver.h"
#include "../Error.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

Driver cuda::driver;

static constexpr int maxDevices = 64;

static Device devices[maxDevices];
static int32_t numDevices;
static heed_status startStatus;
static char startMessage[448];
/// cuInit was called in this process, or, after a fork, in the one that it comes from.
static std::atomic<bool> initialized;
static std::atomic<bool> forked;
static pthread_once_t once = PTHREAD_ONCE_INIT;

//===----------------------------------------------------------------------===//
// Starting it
//===----------------------------------------------------------------------===//

/// Keeps the message for this call and all later ones.
__attribute__((format(printf, 1, 2))) static bool cannotStart(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(startMessage, sizeof(startMessage), format, arguments);
  va_end(arguments);
  startStatus = HEED_UNSUPPORTED_GPU;
  return false;
}

static bool loadLibrary() {
  const char *path = getenv("HEED_CUDA_DRIVER");
  bool isOverridden = path && *path;
  if (!isOverridden)
    path = "libcuda.so.1";
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *error = dlerror();
    return cannotStart("expected an NVIDIA driver, found none (%.250s); %s", error ? error : path,
                       isOverridden ? "HEED_CUDA_DRIVER says where it is"
                                    : "install the NVIDIA driver");
  }
  const char *missing = nullptr;
  // Through a pointer to void, as POSIX has it.
#define HEED_CUDA_OPTIONAL(member, symbol, parameters)                                             \
  *reinterpret_cast<void **>(&driver.member) = dlsym(library, symbol);
#define HEED_CUDA_REQUIRED(member, symbol, parameters)                                             \
  HEED_CUDA_OPTIONAL(member, symbol, parameters)                                                   \
  if (!driver.member && !missing)                                                                  \
    missing = symbol;
  HEED_CUDA_FUNCTIONS(HEED_CUDA_REQUIRED, HEED_CUDA_OPTIONAL)
#undef HEED_CUDA_REQUIRED
#undef HEED_CUDA_OPTIONAL
  if (missing)
    return cannotStart(
        "expected a CUDA driver with %s, found %.250s without; update the NVIDIA driver", missing,
        path);
  return true;
}

static bool noDevice() {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  if (visible)
    return cannotStart("expected an NVIDIA GPU, found none; CUDA_VISIBLE_DEVICES is '%.200s'",
                       visible);
  return cannotStart("expected an NVIDIA GPU, found none");
}

static const char *nameOf(Result result) {
  const char *name = nullptr;
  return driver.getErrorName(result, &name) == success && name ? name : "an unknown CUDA error";
}

static const char *textOf(Result result) {
  const char *text = nullptr;
  return driver.getErrorString(result, &text) == success && text ? text : "no description";
}

/// 0 where the device cannot say.
static int32_t attributeOf(DeviceHandle device, int attribute) {
  int value = 0;
  return driver.deviceGetAttribute(&value, attribute, device) == success ? value : 0;
}

// CUDA does not work in the child of a process that has used it. Without that, nothing of ours is
// lost by a fork.
static void noteFork() {
  if (initialized.load(std::memory_order_relaxed))
    forked.store(true, std::memory_order_relaxed);
}

static bool startDriver() {
  if (!loadLibrary())
    return false;
  pthread_atfork(nullptr, nullptr, noteFork);
  initialized.store(true, std::memory_order_relaxed);
  if (Result result = driver.init(0)) {
    if (result == errorNoDevice)
      return noDevice();
    return cannotStart("the NVIDIA driver does not start: %s (%.200s)", nameOf(result),
                       textOf(result));
  }
  int count = 0;
  if (Result result = driver.deviceGetCount(&count))
    return cannotStart("the NVIDIA driver does not count its devices: %s (%.200s)", nameOf(result),
                       textOf(result));
  if (count < 1)
    return noDevice();
  numDevices = count < maxDevices ? count : maxDevices;
  for (int32_t i = 0; i < numDevices; ++i) {
    Device &device = devices[i];
    device.ordinal = i;
    if (driver.deviceGet(&device.handle, i) != success)
      continue; // of capability 0, for which there is no code
    device.capability = attributeOf(device.handle, attributeMajor) * 10 +
                        attributeOf(device.handle, attributeMinor);
    device.numSms = attributeOf(device.handle, attributeNumSms);
    device.l2Bytes = attributeOf(device.handle, attributeL2Bytes);
    device.sharedBytes = attributeOf(device.handle, attributeSharedOptin);
  }
  return true;
}

static void startOnce() { startDriver(); }

heed_status cuda::start() {
  pthread_once(&once, startOnce);
  if (startStatus)
    return fail(startStatus, "%s", startMessage);
  if (forked.load(std::memory_order_relaxed))
    return fail(
        HEED_UNSUPPORTED_GPU,
        "expected a process that may use CUDA, found one forked from a process that had used "
        "it; fork earlier, or start processes anew (in Python: the 'spawn' method)");
  return HEED_OK;
}

bool cuda::isStarted() {
  return initialized.load(std::memory_order_relaxed) && !forked.load(std::memory_order_relaxed);
}

Device *cuda::deviceAt(int32_t ordinal) {
  return ordinal >= 0 && ordinal < numDevices ? &devices[ordinal] : nullptr;
}

Device *cuda::deviceOf(DeviceHandle handle) {
  for (int32_t i = 0; i < numDevices; ++i)
    if (devices[i].handle == handle)
      return &devices[i];
  return nullptr;
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

/// Errors that a kernel leaves behind: every later call in the context returns them.
static bool isSticky(Result result) {
  switch (result) {
  case 214: // an uncorrectable ECC error
  case 220: // an uncorrectable NVLink error
  case 226: // a contained error
  case 700: // an illegal address
  case 702: // a timeout
  case errorContextIsDestroyed:
  case 710: // a failed assertion
  case 714: // the hardware's stack
  case 715: // an illegal instruction
  case 716: // a misaligned address
  case 717: // an invalid address space
  case 718: // an invalid program counter
  case 719: // a failed launch
  case 721: // a tensor memory leak
    return true;
  }
  return false;
}

heed_status cuda::failCall(Result result, const char *format, ...) {
  if (isSticky(result))
    return fail(HEED_LAUNCH_FAILED, "the CUDA context is broken by an earlier error: %s (%s)",
                nameOf(result), textOf(result));
  char what[360];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof(what), format, arguments);
  va_end(arguments);
  return fail(result == errorOutOfMemory ? HEED_OUT_OF_MEMORY : HEED_LAUNCH_FAILED, "%s: %s (%s)",
              what, nameOf(result), textOf(result));
}

Version cuda::driverVersion() {
  int number = 0;
  Version version;
  driver.driverGetVersion(&number);
  snprintf(version.text, sizeof(version.text), "%d.%d", number / 1000, number % 1000 / 10);
  return version;
}

//===----------------------------------------------------------------------===//
// What the C API says about devices
//===----------------------------------------------------------------------===//

extern "C" int32_t heed_gpu_count(void) { return start() ? 0 : numDevices; }

extern "C" int32_t heed_gpu_capability(int32_t device) {
  if (start())
    return 0;
  if (const Device *found = deviceAt(device))
    return found->capability;
  fail(HEED_INVALID_ARGUMENT, "argument 'device': expected a number from 0 to %d, found %d",
       int(numDevices - 1), int(device));
  return 0;
}
