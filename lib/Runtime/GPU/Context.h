//===-- Context.h - CUDA contexts and what belongs to them ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_GPU_CONTEXT_H
#define HEED_LIB_RUNTIME_GPU_CONTEXT_H

#include "Driver.h"

namespace heed::runtime::cuda {

/// Whose a counter is, 0 for nobody's, and which launch used it last.
struct CounterOwner {
  std::atomic<uint64_t> stream, lastUse;
};

/// A context in which kernels were launched. Modules and memory belong to contexts, so that what is
/// kept is kept for one of them. Never freed.
struct ContextState {
  Context handle;
  unsigned long long id; ///< tells a context from a later one at the same address
  Device *device;
  /// The counters of streams, 0 until the first needs one, and whose each is.
  std::atomic<DevicePtr> counters;
  CounterOwner *owners;
  std::atomic<uint64_t> numLaunches;
  /// Counters that captured launches keep, and how many are left. Guarded by the lock of
  /// Context.cpp.
  DevicePtr ownCounters;
  uint32_t numOwnCounters;
  /// Where lists are allocated, NULL until the first are.
  std::atomic<MemoryPool> pool;
  ContextState *next;
};

/// Makes a context of a device current while it lives.
class CurrentContext {
public:
  CurrentContext() = default;
  ~CurrentContext();
  CurrentContext(const CurrentContext &) = delete;
  CurrentContext &operator=(const CurrentContext &) = delete;

  /// Takes the thread's current context if it belongs to device `ordinal` or if `anyDevice`, else
  /// the device's primary context.
  heed_status enter(int32_t ordinal, bool anyDevice);
  ContextState &operator*() const { return *state; }
  ContextState *operator->() const { return state; }

private:
  ContextState *state = nullptr;
  bool isPushed = false;
};

/// Some 32-bit zeros in device memory, which a launch on `stream` leaves as zeros. Launches of a
/// stream run one after the other and share theirs; a captured one keeps what it gets, because its
/// graph may run at any time.
heed_status takeCounter(ContextState &context, Stream stream, DevicePtr &counter);

/// Memory in the stream's order, for memFreeAsync: of a pool that keeps some of it, since the
/// device's own pool gives all of it back whenever the host waits for the device.
Result allocateInOrder(ContextState &context, Stream stream, size_t bytes, DevicePtr &pointer);

} // namespace heed::runtime::cuda

#endif // HEED_LIB_RUNTIME_GPU_CONTEXT_H
