//===-- Schedule.cpp - The order in which tiles are handed out ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Schedule.h"

using namespace heed::runtime;

static constexpr int64_t tailTilesPerThread = 16;
/// Sorting must stay short against the work that it balances.
static constexpr int64_t maxTail = int64_t(1) << 16;

Schedule::Schedule(const heed_code &code, const int64_t *args)
    : code(code), args(args), numHeads(args[HEED_ARG_B] * args[HEED_ARG_HQ]),
      tilesPerHead((args[HEED_ARG_SQ] - 1) / code.block_q + 1), tailBegin(numTiles()) {
  int64_t blocksPerTile = (args[HEED_ARG_SKV] + code.block_kv - 1) / code.block_kv;
  blocks = double(numTiles()) * double(blocksPerTile);
}

Tile Schedule::tile(int64_t index) const {
  if (index >= tailBegin)
    index = tailBegin + tail[index - tailBegin];
  int64_t head = index / tilesPerHead, position = index % tilesPerHead;
  int64_t heads = args[HEED_ARG_HQ];
  return {head / heads, head % heads, tilesPerHead - 1 - position};
}

void Schedule::sortTail(int32_t numThreads) {
  if (!code.cost)
    return;
  int64_t tailHeads = (tailTilesPerThread * numThreads - 1) / tilesPerHead + 1;
  if (tailHeads > numHeads)
    tailHeads = numHeads;
  int64_t count = tailHeads * tilesPerHead;
  if (count > maxTail || !memory.reserve(size_t(count) * 2 * sizeof(uint32_t)))
    return;
  uint32_t *order = reinterpret_cast<uint32_t *>(memory.data());
  uint32_t *costs = order + count;

  int64_t begin = numTiles() - count;
  uint32_t highest = 1;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    Tile next = tile(begin + i);
    int64_t cost = code.cost(args, next.batch, next.head, next.qTile);
    costs[i] = cost < 0 ? 0 : cost > INT32_MAX ? uint32_t(INT32_MAX) : uint32_t(cost);
    highest = costs[i] > highest ? costs[i] : highest;
    sum += costs[i];
  }

  // A stable counting sort. 256 classes of cost are as good as exact numbers for balance.
  constexpr int numClasses = 256;
  auto classOf = [&](int64_t i) {
    return numClasses - 1 - int(uint64_t(costs[i]) * (numClasses - 1) / highest);
  };
  uint32_t starts[numClasses + 1] = {};
  for (int64_t i = 0; i < count; ++i)
    ++starts[classOf(i) + 1];
  for (int c = 0; c < numClasses; ++c)
    starts[c + 1] += starts[c];
  for (int64_t i = 0; i < count; ++i)
    order[starts[classOf(i)]++] = uint32_t(i);

  tail = order;
  tailBegin = begin;
  if (count == numTiles())
    blocks = sum;
}
