//===-- Workspace.h - Memory that calls use again ---------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_WORKSPACE_H
#define HEED_LIB_RUNTIME_WORKSPACE_H

#include <stddef.h>

namespace heed::runtime {

/// What a call needs memory for; the calling thread keeps one block of each.
enum class Purpose { Scratch, Packed, Order };

/// A block of memory, 64-byte aligned, taken from the calling thread's cache and returned to it by
/// the destructor. Taken means owned: a host's thread pool may run another call on a thread that
/// waits within one.
class Workspace {
public:
  explicit Workspace(Purpose purpose) : purpose(purpose) {}
  ~Workspace();
  Workspace(const Workspace &) = delete;
  Workspace &operator=(const Workspace &) = delete;

  /// Makes at least `bytes` available at data(), with undefined contents. False when out of memory.
  bool reserve(size_t bytes);
  char *data() const { return block; }

private:
  Purpose purpose;
  char *block = nullptr;
  size_t size = 0;
};

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_WORKSPACE_H
