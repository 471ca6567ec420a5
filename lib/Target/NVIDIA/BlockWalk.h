//===-- BlockWalk.h - Which blocks of keys a thread block needs --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The order of tiles over the grid, and of blocks within a tile. One thread walks: it
// evaluates the bounds and the `classify` region of tile.for_kv for each instance of
// its thread block. Where that takes loops (over captured tensors), a kernel of its own
// has done it before, and the walk reads a list.
//
// A block is handed on as a word, block << 8 | 2 bits for each instance: its class
// (tile::BlockClass), or Done where neither this block nor a later one concerns the
// instance. Blocks go from the last key to the first, since the longest tiles, which
// come first, begin at a causal mask's diagonal.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_BLOCKWALK_H
#define HEED_LIB_TARGET_NVIDIA_BLOCKWALK_H

#include "Scalars.h"

namespace heed::nvidia {

class BlockWalk {
public:
  /// The class of a block behind which nothing concerns an instance.
  static constexpr int64_t kDone = 3;

  BlockWalk(Emitter &e, Scalars &uniform, tile::KernelOp kernel, tile::ForKVOp loop, int64_t groups,
            int64_t instanceRows);

  /// Whether the walk reads lists, and what they depend on.
  bool usesLists() const { return hasLists; }
  bool dependsOnBatch() const { return hasBatch; }
  bool dependsOnHead() const { return hasHead; }

  /// A tile of the grid: `groups` instances beside each other, i32.
  struct Tile {
    Value batch, head, first, number; // first instance; number along the queries
  };
  Value numTiles();
  /// Tiles of a section of heads run together, so that their keys and values stay in the second-level
  /// cache; where there is a mask, the last queries first.
  Tile decodeTile(Value number);
  /// The kernel's scalars with the coordinates of an instance of a tile.
  mlir::IRMapping instanceScalars(const Tile &tile, Value instance);

  struct Walk {
    SmallVector<mlir::IRMapping> instances;
    SmallVector<Value> lower, upper; // blocks of each instance: [lower, upper)
    Value position;                  // where to start
    Value end;                       // the last position; with lists, their length
    Value list;                      // !llvm.ptr<1>
  };
  Walk begin(const Tile &tile);
  /// The word of the first needed block at `position` or behind it, -1 where there is none, and the
  /// position behind it.
  std::pair<Value, Value> next(const Walk &walk, Value position);

  /// The body of the kernel that fills lists: a warp a list.
  void emitClassify();

private:
  Walk beginBounds(const Tile &tile);
  /// The word of a block and whether any instance needs it.
  std::pair<Value, Value> blockWord(const Walk &walk, Value block);
  Value tilesPerHead();
  Value listAddress(Value list);
  int64_t blockKv() { return loop.getStep(); }
  SmallVector<Value> walkRoots();

  Emitter &e;
  Scalars &uniform;
  tile::KernelOp kernel;
  tile::ForKVOp loop;
  const int64_t groups, instanceRows;
  bool hasLists = false, hasBatch = false, hasHead = false;
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_BLOCKWALK_H
