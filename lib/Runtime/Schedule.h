//===-- Schedule.h - The order in which tiles are handed out ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// Tiles go head by head, so that threads which work at the same time share keys and values in the
// last-level cache; the query heads of one key-value head follow each other. Within a head the last
// tiles come first, which under a causal mask are the longest.
//
// That order alone leaves threads idle at the end when tiles differ, so the last heads, with some
// 16 tiles for each thread between them, form the tail: their tiles are sorted by cost, longest
// first. With few heads the tail is everything.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_SCHEDULE_H
#define HEED_LIB_RUNTIME_SCHEDULE_H

#include "Workspace.h"
#include "heed-c/Runtime.h"

namespace heed::runtime {

/// One tile of the work.
struct Tile {
  int64_t batch, head, qTile;
};

class Schedule {
public:
  Schedule(const heed_code &code, const int64_t *args);

  /// Sorts the tail for `numThreads` threads. Without memory or a cost function the order stays
  /// plain.
  void sortTail(int32_t numThreads);

  int64_t numTiles() const { return numHeads * tilesPerHead; }
  Tile tile(int64_t index) const;

  /// Key-value blocks of all tiles: exact when the tail is everything, an upper bound otherwise.
  double numBlocks() const { return blocks; }

private:
  const heed_code &code;
  const int64_t *args;
  int64_t numHeads; ///< over all batches
  int64_t tilesPerHead;
  int64_t tailBegin; ///< the index of its first tile
  double blocks;
  Workspace memory{Purpose::Order};
  const uint32_t *tail = nullptr; ///< plain positions behind tailBegin
};

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_SCHEDULE_H
