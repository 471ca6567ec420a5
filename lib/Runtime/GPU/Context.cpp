//===-- Context.cpp - CUDA contexts and what belongs to them ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Context.h"
#include "../Error.h"

#include <new>
#include <pthread.h>
#include <stdlib.h>

using namespace heed::runtime;
using namespace heed::runtime::cuda;

/// Only grows, so that readers need no lock.
static std::atomic<ContextState *> contexts;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

namespace {
class Lock {
public:
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};
} // namespace

//===----------------------------------------------------------------------===//
// Contexts
//===----------------------------------------------------------------------===//

static ContextState *find(Context handle, unsigned long long id) {
  for (ContextState *state = contexts.load(std::memory_order_acquire); state; state = state->next)
    if (state->handle == handle && state->id == id)
      return state;
  return nullptr;
}

/// What is known about the current context `handle`.
static heed_status describe(Context handle, ContextState *&state) {
  unsigned long long id = 0;
  if (driver.ctxGetId)
    if (Result result = driver.ctxGetId(handle, &id))
      return failCall(result, "cannot use the current CUDA context");
  if ((state = find(handle, id)))
    return HEED_OK;
  DeviceHandle device;
  if (Result result = driver.ctxGetDevice(&device))
    return failCall(result, "cannot use the current CUDA context");
  Lock lock;
  if ((state = find(handle, id)))
    return HEED_OK;
  Device *known = deviceOf(device);
  void *memory = known ? malloc(sizeof(ContextState)) : nullptr;
  if (!memory)
    return fail(HEED_OUT_OF_MEMORY, "no memory to describe a CUDA context");
  state = new (memory) ContextState();
  state->handle = handle;
  state->id = id;
  state->device = known;
  state->next = contexts.load(std::memory_order_relaxed);
  contexts.store(state, std::memory_order_release);
  return HEED_OK;
}

/// Retains the primary context; it stays retained.
static Result retainPrimary(Device &device, Context &context) {
  RelaxedCapture relaxed;
  Result result = driver.primaryRetain(&context, device.handle);
  if (result == success)
    device.primary.store(context, std::memory_order_release);
  return result;
}

static Result pushPrimary(Device &device) {
  if (Context context = device.primary.load(std::memory_order_acquire)) {
    Result result = driver.ctxPush(context);
    // The host may have reset the device since.
    if (result != errorInvalidContext && result != errorContextIsDestroyed)
      return result;
  }
  Context context;
  if (Result result = retainPrimary(device, context))
    return result;
  return driver.ctxPush(context);
}

heed_status CurrentContext::enter(int32_t ordinal, bool anyDevice) {
  Context handle = nullptr;
  if (Result result = driver.ctxGetCurrent(&handle))
    return failCall(result, "cannot find the current CUDA context");
  if (handle) {
    if (heed_status status = describe(handle, state))
      return status;
    if (anyDevice || state->device->ordinal == ordinal)
      return HEED_OK;
  }
  Device *device = deviceAt(ordinal);
  if (!device)
    return fail(HEED_INVALID_ARGUMENT,
                "argument 'query': expected memory of a CUDA device, found "
                "memory of the unknown device %d",
                int(ordinal));
  if (Result result = pushPrimary(*device))
    return failCall(result, "cannot use the primary context of cuda:%d", int(ordinal));
  isPushed = true;
  return describe(device->primary.load(std::memory_order_acquire), state);
}

CurrentContext::~CurrentContext() {
  Context popped;
  if (isPushed)
    driver.ctxPop(&popped);
}

//===----------------------------------------------------------------------===//
// Counters
//===----------------------------------------------------------------------===//

/// Each in a sector of its own.
static constexpr uint32_t counterBytes = 32;
/// What captured launches get is allocated together.
static constexpr uint32_t countersAtOnce = 1024;

/// Streams have counters in sets, by their ids. In a full set the one loses its counters that was
/// used longest ago: while a kernel of its runs that takes tens of thousands of other streams.
static constexpr uint32_t numSetsLog2 = 14, waysOfSet = 4;
static constexpr uint32_t numStreamCounters = waysOfSet << numSetsLog2;

static heed_status allocateCounters(ContextState &context, uint32_t count, DevicePtr &pointer) {
  size_t bytes = size_t(count) * counterBytes;
  RelaxedCapture relaxed;
  if (Result result = driver.memAlloc(&pointer, bytes))
    return failCall(result, "no %zu bytes of memory for counters on cuda:%d", bytes,
                    int(context.device->ordinal));
  // Not on the default stream, which waits for others and may not be used while they are captured.
  Stream stream = nullptr;
  Result result = driver.streamCreate(&stream, streamNonBlocking);
  if (result == success) {
    result = driver.memsetD32Async(pointer, 0, bytes / 4, stream);
    if (result == success)
      result = driver.streamSynchronize(stream);
    driver.streamDestroy(stream);
  }
  if (result == success)
    return HEED_OK;
  driver.memFree(pointer);
  return failCall(result, "cannot clear counters on cuda:%d", int(context.device->ordinal));
}

/// Never 0. A handle may come again when its stream is destroyed; drivers from 12.0 on have ids.
static uint64_t idOf(Stream stream) {
  static thread_local char ofThread;
  unsigned long long id;
  if (!stream)
    return UINT64_MAX;
  if (driver.streamGetId && driver.streamGetId(stream, &id) == success)
    return id + 1;
  auto handle = reinterpret_cast<uintptr_t>(stream);
  return (handle == streamPerThread ? reinterpret_cast<uintptr_t>(&ofThread) : handle) + 1;
}

/// Which of the counters `id` has, or gets now.
static uint32_t placeOf(ContextState &context, uint64_t id) {
  constexpr auto relaxed = std::memory_order_relaxed;
  uint64_t now = context.numLaunches.fetch_add(1, relaxed) + 1;
  // Fibonacci hashing: ids and addresses differ in few bits.
  uint32_t first = uint32_t((id * 0x9E3779B97F4A7C15u) >> (64 - numSetsLog2)) * waysOfSet;
  while (true) {
    uint32_t oldest = first;
    for (uint32_t place = first; place < first + waysOfSet; ++place) {
      CounterOwner &owner = context.owners[place];
      if (owner.stream.load(relaxed) == id) {
        owner.lastUse.store(now, relaxed);
        return place;
      }
      if (owner.lastUse.load(relaxed) < context.owners[oldest].lastUse.load(relaxed))
        oldest = place;
    }
    CounterOwner &owner = context.owners[oldest];
    uint64_t loser = owner.stream.load(relaxed);
    owner.lastUse.store(now, relaxed); // before it is taken, so that it is no one else's oldest
    if (owner.stream.compare_exchange_strong(loser, id, relaxed))
      return oldest;
  }
}

/// Makes the counters of streams, which the caller's lock protects.
static heed_status makeStreamCounters(ContextState &context) {
  if (!context.owners) {
    void *memory = calloc(numStreamCounters, sizeof(*context.owners));
    if (!memory)
      return fail(HEED_OUT_OF_MEMORY, "no memory to note the counters of streams");
    context.owners = static_cast<CounterOwner *>(memory);
  }
  DevicePtr counters;
  if (heed_status status = allocateCounters(context, numStreamCounters, counters))
    return status;
  context.counters.store(counters, std::memory_order_release);
  return HEED_OK;
}

heed_status cuda::takeCounter(ContextState &context, Stream stream, DevicePtr &counter) {
  int isCapturing = 0;
  if (Result result = driver.streamIsCapturing(stream, &isCapturing))
    return failCall(result, "argument 'stream': cannot be used on cuda:%d",
                    int(context.device->ordinal));
  if (isCapturing) {
    Lock lock;
    if (context.numOwnCounters == 0) {
      if (heed_status status = allocateCounters(context, countersAtOnce, context.ownCounters))
        return status;
      context.numOwnCounters = countersAtOnce;
    }
    counter = context.ownCounters + uint64_t(--context.numOwnCounters) * counterBytes;
    return HEED_OK;
  }
  DevicePtr counters = context.counters.load(std::memory_order_acquire);
  if (!counters) {
    Lock lock;
    if (!context.counters.load(std::memory_order_relaxed))
      if (heed_status status = makeStreamCounters(context))
        return status;
    counters = context.counters.load(std::memory_order_relaxed);
  }
  counter = counters + uint64_t(placeOf(context, idOf(stream))) * counterBytes;
  return HEED_OK;
}

//===----------------------------------------------------------------------===//
// Memory in a stream's order
//===----------------------------------------------------------------------===//

static constexpr uint64_t keptPoolBytes = uint64_t(64) << 20;

/// NULL where there can be none.
static MemoryPool makePool(const Device &device) {
  if (!driver.memPoolCreate || !driver.memPoolSetAttribute || !driver.memAllocFromPoolAsync)
    return nullptr;
  MemoryPoolProperties properties = {};
  properties.allocationType = allocationPinned;
  properties.locationType = locationDevice;
  properties.locationId = device.ordinal;
  MemoryPool pool = nullptr;
  RelaxedCapture relaxed;
  if (driver.memPoolCreate(&pool, &properties))
    return nullptr;
  uint64_t kept = keptPoolBytes;
  driver.memPoolSetAttribute(pool, poolReleaseThreshold, &kept);
  return pool;
}

Result cuda::allocateInOrder(ContextState &context, Stream stream, size_t bytes,
                             DevicePtr &pointer) {
  MemoryPool pool = context.pool.load(std::memory_order_acquire);
  if (!pool) {
    Lock lock;
    pool = context.pool.load(std::memory_order_relaxed);
    if (!pool && (pool = makePool(*context.device)))
      context.pool.store(pool, std::memory_order_release);
  }
  return pool ? driver.memAllocFromPoolAsync(&pointer, bytes, pool, stream)
              : driver.memAllocAsync(&pointer, bytes, stream);
}
