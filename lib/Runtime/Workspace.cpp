//===-- Workspace.cpp - Memory that calls use again -------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Workspace.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

using namespace heed::runtime;

namespace {
struct Block {
  char *data;
  size_t size;
};

struct Cache {
  Block blocks[3];
  bool registered;
};
} // namespace

/// Larger blocks go back to the system at the end of a call.
static constexpr size_t keptBytes = size_t(64) << 20;
static constexpr size_t hugePage = size_t(2) << 20;

static __thread Cache cache;
static pthread_key_t key;
static bool haveKey;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void freeCache(void *pointer) {
  Cache &dying = *static_cast<Cache *>(pointer);
  for (Block &block : dying.blocks) {
    free(block.data);
    block = {nullptr, 0};
  }
  // Another key's destructor may call heed_run after this one; its blocks are then freed in the
  // next round.
  dying.registered = false;
}

static void createKey() { haveKey = pthread_key_create(&key, freeCache) == 0; }

/// Has the cache freed when this thread ends. False: do not keep anything.
static bool registerCache() {
  if (cache.registered)
    return true;
  pthread_once(&once, createKey);
  cache.registered = haveKey && pthread_setspecific(key, &cache) == 0;
  return cache.registered;
}

static char *allocate(size_t &bytes) {
  // Whole pages for what exceeds one; whole huge pages for what exceeds those, since packed data is
  // walked linearly.
  size_t alignment = bytes >= hugePage ? hugePage : bytes >= 4096 ? 4096 : 64;
  if (bytes > SIZE_MAX - alignment)
    return nullptr;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void *pointer = nullptr;
  if (posix_memalign(&pointer, alignment, bytes) != 0)
    return nullptr;
#if defined(MADV_HUGEPAGE)
  if (alignment == hugePage)
    madvise(pointer, bytes, MADV_HUGEPAGE); // only a hint
#endif
  return static_cast<char *>(pointer);
}

bool Workspace::reserve(size_t bytes) {
  Block &kept = cache.blocks[int(purpose)];
  block = kept.data;
  size = kept.size;
  kept = {nullptr, 0};
  if (block && size >= bytes)
    return true;
  free(block);
  size = bytes ? bytes : 1;
  block = allocate(size);
  return block != nullptr;
}

Workspace::~Workspace() {
  if (!block)
    return;
  Block &kept = cache.blocks[int(purpose)];
  if (size > keptBytes || size <= kept.size || !registerCache()) {
    free(block);
    return;
  }
  free(kept.data);
  kept = {block, size};
}
