//===-- BlockWalk.h - Which blocks of keys a thread block needs --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The order of tiles over the grid, and of blocks within a tile. One warp walks: it
// evaluates the bounds and the `classify` region of tile.for_kv, each lane for a block
// and an instance of the thread block. Where that takes loops (over captured tensors) or
// much arithmetic, a kernel of its own has done it before, and the warp reads a list.
// What such a classification knows of the keys of a block alone (the least and the
// largest document number in it) is the same for all tiles: a third kernel has computed
// it once for each block.
//
// Lengths of lists that come from captured tensors may be any: where there are few, the kernel
// that fills them sorts them as well, so that the longest tiles of a section of heads come first.
// Else the last queries do, whose tiles are the longest under a causal mask.
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

#include "heed-c/Runtime.h"

namespace heed::nvidia {

class BlockWalk {
public:
  /// The class of a block behind which nothing concerns an instance.
  static constexpr int64_t kDone = 3;

  BlockWalk(Emitter &e, Scalars &uniform, tile::KernelOp kernel, tile::ForKVOp loop, int64_t groups,
            int64_t instanceRows);

  /// Where the blocks of a masked loop come from, unless somebody has decided otherwise.
  static tile::BlockWalk choose(tile::ForKVOp loop, int64_t groups);

  /// Whether the walk reads lists, and what they depend on.
  bool usesLists() const { return hasLists; }
  bool dependsOnBatch() const { return ofLists.onBatch; }
  bool dependsOnHead() const { return ofLists.onHead; }

  /// A tile of the grid: `groups` instances beside each other, i32.
  struct Tile {
    Value batch, head, first, number; // first instance; number along the queries
  };
  Value numTiles();
  /// Tiles of a section of heads run together, so that what they read stays in the second-level
  /// cache; where there is a mask, the last queries first.
  Tile decodeTile(Value number);
  /// The number whose tile is to be computed in the place of `number`'s: where lists are sorted,
  /// the longest ones first.
  Value inOrder(Value number);
  /// The kernel's scalars with the coordinates of an instance of a tile.
  mlir::IRMapping instanceScalars(const Tile &tile, Value instance);

  /// What stays the same on a walk over the blocks of a tile.
  struct Walk {
    Tile tile;
    Value start; // the first block, or place in the list
    Value end;   // the last block; the length of the list
    Value list;  // its number
  };
  /// Where a walk is, i32: some blocks, each with a lane, and those of them that are still to come.
  /// Without a mask only `next` counts.
  struct Position {
    Value words, remaining, next; // a lane's word; a bit a lane; the first of the blocks behind
    SmallVector<Value> values() const { return {words, remaining, next}; }
    static Position of(ValueRange v) { return {v[0], v[1], v[2]}; }
  };
  Walk begin(const Tile &tile);
  Position startOf(const Walk &walk);
  /// Moves on and returns the word of the next needed block, -1 where there is none. By all lanes
  /// of a warp.
  Value next(const Walk &walk, Position &position);

  /// Warps that fill a list together.
  static constexpr int64_t kClassifyWarps = 8;
  /// Lists that are sorted at most: their lengths lie in shared memory.
  static constexpr int64_t kMostSorted = HEED_MOST_SORTED_LISTS;
  /// The body of the kernel that fills lists: a thread block a list. The last one to end sorts
  /// them. `words` is the address (i32) of classifyWords() words of shared memory.
  void emitClassify(Value words);
  int64_t classifyWords() const {
    int64_t ofList = kCountWords + kNumLanes * kClassifyWarps;
    return sortsLists() ? std::max(kMostSorted + 1, ofList) : ofList;
  }

  /// Numbers of 64 bits that are known of each block of keys; whether batches and heads have their
  /// own.
  int64_t summaryWords() const;
  bool summariesDependOnBatch() const { return ofSummaries.onBatch; }
  bool summariesDependOnHead() const { return ofSummaries.onHead; }
  /// The body of the kernel that computes them: a warp a block. What is known of the blocks of a
  /// thread block together, a group, lies behind all blocks' numbers.
  static constexpr int64_t kSummariseThreads = 512;
  void emitSummarise();

private:
  /// The lane's instance, and its blocks [lower, upper).
  struct Bounds {
    mlir::IRMapping scalars;
    Value lower, upper;
  };
  Bounds emitBounds(const Tile &tile);
  Walk beginBounds(const Tile &tile, const Bounds &bounds);
  /// Blocks that the warp evaluates at a time.
  int64_t blocksOfWarp() const { return kNumLanes / lanesPerBlock(); }
  /// As many of them, from `block` downwards.
  Position evaluateFrom(const Walk &walk, const Bounds &bounds, Value block);
  /// A block a lane, `own`; those behind begin with `next`.
  Position evaluateBlocks(const Walk &walk, const Bounds &bounds, Value own, Value next);
  /// i1: whether an instance may need a block of group `own`, of which there is one a lane.
  Value evaluateGroups(const Bounds &bounds, Value own);
  Position readList(const Walk &walk, Value place);
  /// `next` where there is no mask: a step needs no lanes.
  Value nextOfAll(const Walk &walk, Position &position);
  /// The class of a block, or of a group of blocks, for the lane's instance.
  Value classOf(const Bounds &bounds, Value number, bool isGroup = false);
  /// Lanes that evaluate one block: the instances, rounded up to a power of two.
  int64_t lanesPerBlock() const { return llvm::PowerOf2Ceil(groups); }
  /// `operation`: add, min or max, of signed 32-bit numbers.
  Value reduceOverLanes(llvm::StringRef operation, Value x);
  Value reduceInstances(Value x, llvm::function_ref<Value(Value, Value)> combine);
  Value tilesPerHead();
  /// Where a number lies in the order of tiles.
  struct Place {
    Value start, numHeads; // of its section: the first number, and query heads
    Value firstHead;       // of the section; heads of all batches are counted through
    Value rank, head;      // the how many-th tile of which head of the section
  };
  Place placeOf(Value number);
  Tile tileAt(const Place &place);
  bool isByHead() const;
  Value listAddress(Value list);
  /// The lists of a batch and head follow each other: which set of them it is, and how many there
  /// are.
  Value listSetOf(const Tile &tile);
  Value numLists();
  /// Of the tiles in the order of their lengths, behind the lists: a word each.
  Value orderAddress(Value list);
  bool sortsLists() const { return hasLists && !ofLists.loops.empty(); }
  Value areListsSorted();
  void sortLists(Value words);
  int64_t blockKv() { return loop.getStep(); }
  static SmallVector<Value> walkRoots(tile::ForKVOp loop);
  struct Dependences {
    bool onBatch = false, onHead = false, onQueries = false;
    llvm::SmallPtrSet<mlir::Operation *, 4> loops; // over captured tensors
  };
  /// Of what is computed from these and outside of the loop.
  static Dependences dependencesOf(tile::KernelOp kernel, ValueRange roots);
  /// Of the bounds and the classes of blocks.
  static Dependences dependencesOfWalk(tile::ForKVOp loop);

  Emitter &e;
  Scalars &uniform;
  tile::KernelOp kernel;
  tile::ForKVOp loop;
  const int64_t groups, instanceRows;
  Dependences dependencesOf(mlir::Operation &op);
  Value numBlocks();
  Value numGroups();
  /// Where the numbers of a block or a group are, for the batch and head in `scalars`.
  Value summaryAddress(const mlir::IRMapping &scalars, Value number, bool isGroup);
  /// The results of one of `summaries`, whose numbers begin at `word` of a block's or a group's.
  Emitter::Values loadSummary(mlir::scf::ForOp op, const mlir::IRMapping &mapping, Value number,
                              bool isGroup, int64_t word);
  /// The same of a block, whether there are summaries or not.
  Emitter::Values summaryOf(mlir::scf::ForOp op, const mlir::IRMapping &mapping, Value block,
                            int64_t word);
  /// Whether what is known of the blocks of a group can be put together, and says all about it.
  bool hasGroups();

  /// Whether each result of a loop over captured tensors may be put together from those of parts.
  static bool isCollected(mlir::scf::ForOp loop);
  /// Puts a loop's results in `mapping` together from those of lanes that differ in the bits from
  /// `firstMask` on.
  void collect(mlir::scf::ForOp loop, int64_t firstMask, mlir::IRMapping &mapping);
  /// The how many-th part, of `size` numbers at most, of [first, end). Parts beyond the end have
  /// the last number again; of nothing all have nothing, if their size is 0.
  std::pair<Value, Value> partOf(Value first, Value end, Value part, Value size);
  /// Emits a loop of which the lanes of an instance have a part each. By all lanes of a warp.
  void emitShared(mlir::scf::ForOp loop, mlir::IRMapping &mapping);

  static constexpr int64_t kNumLanes = 32;
  /// Blocks of a group.
  static constexpr int64_t kGroupBlocks = kSummariseThreads / kNumLanes;
  static constexpr int64_t kFewGroups = 4;
  /// Of shared memory: what the warps counted, in two turns.
  static constexpr int64_t kCountWords = 2 * kClassifyWarps;

  Dependences ofLists, ofMatrices, ofSummaries;
  SmallVector<mlir::scf::ForOp> sharedLoops; // over rows, of what lists are made from
  SmallVector<mlir::scf::ForOp>
      summaries; // loops of the classification that queries have no part in
  bool hasLists = false, hasMatrices = false; // tile.load_elements
  bool needsAll = false;                      // of the blocks, for all queries
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_BLOCKWALK_H
