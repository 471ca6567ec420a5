//===-- Module.cpp - Loading GPU code ---------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Loaded modules are kept in a hash table of lists that only grow, so that a launch finds its code
// without a lock. An entry is published when it is complete. Unloading takes it out by clearing its
// key, and a later module takes the entry over; no launch of the unloaded kernel may look at it
// meanwhile, and launches of others compare the key only.
//
//===----------------------------------------------------------------------===//

#include "Module.h"
#include "../Check.h"
#include "../Error.h"

#include <new>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

namespace {

struct Entry {
  std::atomic<const heed_gpu_module *> image; ///< NULL: free
  ContextState *context;
  Module module;
  Loaded loaded;
  Entry *next;
};

/// A module that some thread is loading right now; lives on its stack.
struct Loading {
  const heed_gpu_module *image;
  const ContextState *context;
  Loading *next;
};

} // namespace

static constexpr size_t numBuckets = 256;
static std::atomic<Entry *> buckets[numBuckets];

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t loadingEnded = PTHREAD_COND_INITIALIZER;
static Loading *loadings;

static const char *targetOf(const heed_gpu_module &image) {
  return image.target ? image.target : "an unnamed target";
}

//===----------------------------------------------------------------------===//
// The compiler's log
//===----------------------------------------------------------------------===//

static bool isVerbose() {
  const char *text = getenv("HEED_GPU_VERBOSE");
  return text && *text && strcmp(text, "0") != 0;
}

/// Remarks on code that ptxas would like to be otherwise: C7504, C7507, C7508, C7510 to C7518.
static bool isRemark(const char *line, size_t length) {
  for (size_t i = 0; i + 5 <= length; ++i) {
    if (memcmp(line + i, "C75", 3) != 0)
      continue;
    int number = (line[i + 3] - '0') * 10 + (line[i + 4] - '0');
    if (number == 4 || number == 7 || number == 8 || (number >= 10 && number <= 18))
      return true;
  }
  return false;
}

/// Calls fn(line, length) for every line of `log` that says something.
template <typename Fn>
static void forEachLine(const char *log, Fn fn) {
  while (*log) {
    size_t length = strcspn(log, "\r\n");
    const char *line = log;
    log += length + (log[length] != 0);
    while (length > 0 && (*line == ' ' || *line == '\t'))
      ++line, --length;
    if (length > 0)
      fn(line, length);
  }
}

/// The first lines of an error log as one line; remarks are left out.
static void summarize(const char *log, char *text, size_t size) {
  size_t used = 0;
  forEachLine(log, [&](const char *line, size_t length) {
    if (used + 1 >= size || (isRemark(line, length) && !isVerbose()))
      return;
    int n = snprintf(text + used, size - used, "%s%.*s", used ? "; " : "", int(length), line);
    used += size_t(n);
  });
  if (used == 0)
    snprintf(text, size, "no log");
}

/// Shows what the compiler said about code that it accepted: its warnings, or everything.
static void show(const heed_kernel &kernel, const char *log) {
  forEachLine(log, [&](const char *line, size_t length) {
    if (isVerbose())
      fprintf(stderr, "heed: kernel '%s': %.*s\n", nameOf(kernel), int(length), line);
    else if (!isRemark(line, length) && memmem(line, length, "warning", 7))
      warn("kernel '%s': %.*s", nameOf(kernel), int(length), line);
  });
}

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

/// The text after ".version", such as 8.7.
static Version ptxVersion(const char *ptx) {
  Version version = {"?"};
  if (const char *at = strstr(ptx, ".version"))
    sscanf(at, ".version %15[0-9.]", version.text);
  return version;
}

static heed_status compile(const heed_kernel &kernel, const heed_gpu_module &image,
                           Module &module) {
  constexpr size_t size = 8192;
  char info[size], error[size];
  info[0] = error[0] = 0;
  int options[] = {jitInfoLog, jitInfoLogBytes, jitErrorLog, jitErrorLogBytes, jitLogVerbose};
  auto number = [](size_t value) { return reinterpret_cast<void *>(value); };
  void *values[] = {info, number(size), error, number(size), number(isVerbose())};
  Result result = driver.moduleLoadDataEx(&module, image.ptx, 5, options, values);
  info[size - 1] = error[size - 1] = 0;
  if (result == success) {
    show(kernel, info);
    return HEED_OK;
  }
  if (result == errorUnsupportedPtxVersion)
    return fail(
        HEED_UNSUPPORTED_GPU,
        "kernel '%s': expected a driver that compiles PTX %s, found one for CUDA %s; update "
        "the NVIDIA driver",
        nameOf(kernel), ptxVersion(image.ptx).text, driverVersion().text);
  char log[200];
  summarize(error[0] ? error : info, log, sizeof(log));
  return failCall(result, "kernel '%.60s': cannot compile its PTX for %s (%s)", nameOf(kernel),
                  targetOf(image), log);
}

static heed_status loadImage(const heed_kernel &kernel, const heed_gpu_module &image,
                             Module &module) {
  if (image.cubin) {
    Result result = driver.moduleLoadDataEx(&module, image.cubin, 0, nullptr, nullptr);
    if (result == success)
      return HEED_OK;
    // Made for another chip of the family, or by a newer toolkit.
    bool isForeign = result == errorNoBinaryForGpu || result == errorInvalidImage;
    if (!image.ptx || !isForeign)
      return failCall(result, "kernel '%s': cannot load its code for %s", nameOf(kernel),
                      targetOf(image));
  }
  return compile(kernel, image, module);
}

static heed_status findFunction(const heed_kernel &kernel, const heed_gpu_module &image,
                                Module module, const char *name, Function &function) {
  Result result = driver.moduleGetFunction(&function, module, name);
  if (result == success)
    return HEED_OK;
  if (result == errorNotFound)
    return fail(HEED_LAUNCH_FAILED, "kernel '%s' is damaged: its code for %s has no entry '%s'",
                nameOf(kernel), targetOf(image), name);
  return failCall(result, "kernel '%s': cannot find the entry '%s' of its code for %s",
                  nameOf(kernel), name, targetOf(image));
}

static heed_status findFunctions(const heed_kernel &kernel, const heed_gpu_module &image,
                                 const Entries &entries, Module module, Loaded &loaded) {
  loaded = {};
  for (int i = 0; i < maxEntries && entries.names[i]; ++i)
    if (heed_status status =
            findFunction(kernel, image, module, entries.names[i], loaded.functions[i]))
      return status;
  if (entries.sharedBytes == 0)
    return HEED_OK;
  if (Result result = driver.funcSetAttribute(loaded.functions[0], functionMaxDynamicShared,
                                              entries.sharedBytes))
    return failCall(result, "kernel '%s': no %d bytes of shared memory for its code for %s",
                    nameOf(kernel), int(entries.sharedBytes), targetOf(image));
  return HEED_OK;
}

static heed_status load(const heed_kernel &kernel, const heed_gpu_module &image,
                        const Entries &entries, Module &module, Loaded &loaded) {
  RelaxedCapture relaxed;
  if (heed_status status = loadImage(kernel, image, module))
    return status;
  heed_status status = findFunctions(kernel, image, entries, module, loaded);
  if (status)
    driver.moduleUnload(module);
  return status;
}

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

static std::atomic<Entry *> &bucketOf(const heed_gpu_module *image, const ContextState *context) {
  uint64_t mixed = (uint64_t(reinterpret_cast<uintptr_t>(image)) ^
                    uint64_t(reinterpret_cast<uintptr_t>(context)) << 7) *
                   0x9e3779b97f4a7c15u;
  return buckets[mixed >> 56];
}

static Entry *find(const heed_gpu_module *image, const ContextState *context) {
  Entry *entry = bucketOf(image, context).load(std::memory_order_acquire);
  for (; entry; entry = entry->next)
    if (entry->image.load(std::memory_order_acquire) == image && entry->context == context)
      return entry;
  return nullptr;
}

/// A free entry of the bucket, or a new one; with the mutex held.
static Entry *takeEntry(std::atomic<Entry *> &bucket) {
  Entry *first = bucket.load(std::memory_order_relaxed);
  for (Entry *entry = first; entry; entry = entry->next)
    if (!entry->image.load(std::memory_order_relaxed))
      return entry;
  void *memory = malloc(sizeof(Entry));
  if (!memory)
    return nullptr;
  Entry *entry = new (memory) Entry();
  entry->next = first;
  bucket.store(entry, std::memory_order_release);
  return entry;
}

static bool isLoading(const heed_gpu_module *image, const ContextState *context) {
  for (const Loading *loading = loadings; loading; loading = loading->next)
    if (loading->image == image && loading->context == context)
      return true;
  return false;
}

static void remove(const Loading &ended) {
  Loading **link = &loadings;
  while (*link != &ended)
    link = &(*link)->next;
  *link = ended.next;
}

heed_status cuda::loadModule(const heed_kernel &kernel, const heed_gpu_module &image,
                             const Entries &entries, ContextState &context, Loaded &loaded) {
  if (const Entry *entry = find(&image, &context)) {
    loaded = entry->loaded;
    return HEED_OK;
  }

  pthread_mutex_lock(&mutex);
  // When another thread's attempt fails, this one makes its own and gets its own message.
  while (isLoading(&image, &context))
    pthread_cond_wait(&loadingEnded, &mutex);
  if (const Entry *entry = find(&image, &context)) {
    loaded = entry->loaded;
    pthread_mutex_unlock(&mutex);
    return HEED_OK;
  }
  Loading mine = {&image, &context, loadings};
  loadings = &mine;
  pthread_mutex_unlock(&mutex); // other kernels may load meanwhile

  Module module;
  heed_status status = load(kernel, image, entries, module, loaded);

  pthread_mutex_lock(&mutex);
  remove(mine);
  Entry *entry = status ? nullptr : takeEntry(bucketOf(&image, &context));
  if (entry) {
    entry->context = &context;
    entry->module = module;
    entry->loaded = loaded;
    entry->image.store(&image, std::memory_order_release);
  }
  pthread_cond_broadcast(&loadingEnded);
  pthread_mutex_unlock(&mutex);
  if (!status && !entry) {
    driver.moduleUnload(module);
    return fail(HEED_OUT_OF_MEMORY, "kernel '%s': no memory to keep what was loaded",
                nameOf(kernel));
  }
  return status;
}

/// Contexts that are gone have taken their modules along.
static void unload(const Entry &entry) {
  RelaxedCapture relaxed;
  if (driver.ctxPush(entry.context->handle) != success)
    return;
  unsigned long long id = 0;
  if (!driver.ctxGetId ||
      (driver.ctxGetId(entry.context->handle, &id) == success && id == entry.context->id))
    driver.moduleUnload(entry.module);
  Context popped;
  driver.ctxPop(&popped);
}

bool cuda::hasCapability(const heed_gpu_module &module, const Device &device) {
  return module.is_exact ? module.capability == device.capability
                         : module.capability <= device.capability;
}

heed_status cuda::launchFailed(const heed_kernel &kernel, const Device &device, Result result) {
  bool isHandle = result == errorInvalidHandle || result == errorInvalidContext;
  return failCall(result, "kernel '%s': cannot launch on cuda:%d%s", nameOf(kernel),
                  int(device.ordinal),
                  isHandle ? " (is the stream one of the device's current context?)" : "");
}

static bool belongsTo(const heed_kernel &kernel, const heed_gpu_module *image) {
  for (int32_t i = 0; kernel.gpu_codes && i < kernel.num_gpu_codes; ++i)
    if (image == &kernel.gpu_codes[i].module)
      return true;
  for (int32_t i = 0; kernel.gpu_mask_codes && i < kernel.num_gpu_mask_codes; ++i)
    for (const heed_gpu_mask_kernel &part : kernel.gpu_mask_codes[i].kernels)
      if (image == &part.module)
        return true;
  return false;
}

extern "C" void heed_gpu_unload(const heed_kernel *kernel) {
  if (!kernel || kernel->abi_version != HEED_ABI_VERSION || !isStarted())
    return;
  pthread_mutex_lock(&mutex);
  for (std::atomic<Entry *> &bucket : buckets)
    for (Entry *entry = bucket.load(std::memory_order_relaxed); entry; entry = entry->next) {
      const heed_gpu_module *image = entry->image.load(std::memory_order_relaxed);
      if (!image || !belongsTo(*kernel, image))
        continue;
      entry->image.store(nullptr, std::memory_order_relaxed);
      unload(*entry);
    }
  pthread_mutex_unlock(&mutex);
}
