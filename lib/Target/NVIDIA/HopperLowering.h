//===-- HopperLowering.h - Kernels for sm_90a -------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A thread block is one producer warpgroup, of which two or three warps work, and a consumer
// warpgroup for each instance. The producer copies the tile.load ops inside of the loop
// into a ring of `stages` slots each, with a `full` and an `empty` mbarrier a slot. It
// alone knows the walk over blocks of keys: with each block of the first ring, and at the
// start of a tile for its first block, its first warp hands over a word for the block that
// follows,
//
//   block << 8 | 2-bit class for each consumer          or -1 where there is none
//
// where a class is that of tile.for_kv, or 3 (Done) where neither this block nor
// a later one concerns the consumer. Blocks go from the last key to the first.
//
// Where one warp would be slower than the consumers, another one copies the second ring's blocks.
// Its second warp copies the queries, the tile.load outside of the loop: each consumer's when that
// consumer has used up the last ones. So consumers whose tiles have blocks to skip at different
// ends run ahead of each other, as far as the rings reach.
//
// Consumers overlap the products of two blocks: one that only accumulates (O += P V)
// is issued a block later, behind that block's first product (S = Q K^T), and both run
// while the scores in between are worked on. A register that a product may still write
// is read behind `ready`, which waits for it.
//
// The shape follows FlashAttention-3 (Shah et al., 2024) and what gpu_evidence found
// beyond it.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_HOPPERLOWERING_H
#define HEED_LIB_TARGET_NVIDIA_HOPPERLOWERING_H

#include "FragmentLowering.h"
#include "heed/Target/NVIDIA/GPUTarget.h"

namespace heed::nvidia {

class HopperLowering : public FragmentLowering {
public:
  HopperLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule);

  /// Emits the kernel before its tile.kernel. Fails with a diagnostic on a form that it cannot
  /// lower.
  mlir::LogicalResult run();

private:
  /// Elements of a row of a 128-byte swizzled box.
  static constexpr int64_t kBoxColumns = 64;
  static constexpr int64_t kSwizzleBytes = 128;
  /// Of queries, keys, values and output: other elements have the portable path.
  static constexpr int64_t kElementBytes = 2;
  /// What the producer leaves for the others of a tile: number, batch, head, number along the
  /// queries, and the word of the first block.
  static constexpr int64_t kTileBytes = 32;
  static constexpr int64_t kFirstWordOffset = 16;

  /// Blocks of a tensor in shared memory, or (with one stage) a tile of it.
  struct Ring {
    mlir::Operation *load = nullptr; // tile.load or tile.load_elements
    Value tensor;                    // that it reads
    int64_t rows = 0, columns = 0;   // of a stage; columns are those that exist
    int64_t elementBytes = 2;        // of queries, keys and values
    int64_t stages = 1;
    int64_t offset = 0;          // in shared memory, bytes
    int64_t full = 0, empty = 0; // barrier numbers of stage 0; of queries, of group 0
    int64_t map = 0;             // index of its tensor map
    int64_t boxColumns() const { return 128 / elementBytes; }
    int64_t numBoxes() const { return countBoxes(columns, elementBytes); }
    int64_t stageBytes() const { return rows * numBoxes() * 128; }
  };
  /// The ring of a tile.load.
  static Ring ringOf(tile::LoadOp load, int64_t rows, int64_t stages);
  /// Where a role is in a ring: the number of blocks before, i32. One register for slot and parity:
  /// the number of stages is a power of two.
  using Cursor = Value;
  mlir::LogicalResult collect();
  /// Checks the loop and finds its rings; `queries` are those that its products are to read.
  mlir::LogicalResult collectLoop(Value queries);
  /// Places everything in shared memory and numbers the barriers.
  void layOut();
  mlir::LogicalResult emitKernel();

  //===-- Producer --------------------------------------------------------===//

  void emitProducer();
  // A warp each.
  void emitBlockLoader();
  void emitQueryLoader();
  void emitValueLoader();
  mlir::IRMapping scalarsOfCopies(const BlockWalk::Tile &tile, ArrayRef<const Ring *> copied);
  /// The same with the first key of a word's block.
  mlir::IRMapping atBlock(const mlir::IRMapping &tileScalars, Value word);
  void copyQueries(int64_t group, const BlockWalk::Tile &tile);
  Value electLane();
  /// `destination`: an address in shared memory, i32.
  void copy(const Ring &ring, Value destination, const mlir::IRMapping &mapping, Value barrier);
  /// Where a copy begins: columns, rows and what is outside of them, as maps count.
  SmallVector<Value> coordinatesOf(const Ring &ring, const mlir::IRMapping &mapping);
  void waitUntilEmpty(const Ring &ring, Cursor cursor) {
    wait(barrier(ring.empty, slotOf(ring, cursor)), e.bxor(parityOf(ring, cursor), 1));
  }
  /// Fills an empty stage.
  void fill(const Ring &ring, Cursor cursor, const mlir::IRMapping &mapping, Value word,
            int64_t wordOffset);
  /// Evaluates what is along the keys of a block, each lane for some keys; `word` is the block's.
  void storeAlongKeys(Cursor cursor, const mlir::IRMapping &mapping, Value word);
  void storeAlongKeys(tile::AlongKeysOp op, Value slot, const mlir::IRMapping &mapping);

  //===-- Consumers -------------------------------------------------------===//

  mlir::LogicalResult emitConsumers();
  mlir::LogicalResult lowerOp(mlir::Operation &op);
  mlir::LogicalResult lowerScale(tile::ScaleOp op);
  mlir::LogicalResult lowerForKV(tile::ForKVOp op);
  mlir::LogicalResult lowerDot(tile::DotOp op);
  /// Issues the product that the last block left behind; `tile` is what it adds to.
  void issueAccumulation(Value tile);
  void storeTile(tile::StoreOp op);
  void ready(Value tile) override;
  FragmentStage::ReadPair readBeside(Value tile) override;
  FragmentStage::ReadPair readMatrix(const Ring &ring);
  /// Lowers an op that reads the given tiles, which arrive before.
  mlir::LogicalResult withMatrices(mlir::OperandRange beside,
                                   llvm::function_ref<mlir::LogicalResult()> lower);
  void scoresAreKnown(ArrayRef<Value> rowMax) override;
  /// What lay beside a block's scores is read, or not needed.
  void giveBackMatrices(Cursor cursor, Value predicate);
  Value readWord(Value place);

  // Tiles. The producer takes their numbers from a counter and announces them to the others in two
  // places of shared memory, by turns: number (-1: there are no more), batch, head, which of the
  // head's tiles, and the word of the first block.
  Value takeNumber();
  Value placeOfTile(Value count);
  void announce(Value count, Emitter::Values words);
  Emitter::Values awaitTile(Value count);
  using TileBody = llvm::function_ref<Emitter::Values(Value count, const BlockWalk::Tile &tile,
                                                      ValueRange carried)>;
  /// Of a consumer or the query loader: `body` for all tiles that are announced, with how many came
  /// before; what it returns is carried to the next.
  void forEachTile(ValueRange inits, TileBody body);
  /// This consumer's class in a word.
  Value classOf(Value word);
  /// Whether there is a block, for this instance or a later one of its own.
  Value concerns(Value word);

  //===-- Barriers and descriptors ----------------------------------------===//

  Value barrier(int64_t first, Value stage = Value());
  /// Of barriers that each group has one of.
  Value ofGroup(int64_t first) { return barrier(first, group); }
  void wait(Value barrier, Value parity);
  void arrive(Value barrier, Value predicate);
  /// The keys of a block are read, and what lay along those of the block before; and `word`, if it
  /// was read just now.
  void giveBackFront(Value slot, Value word = Value());
  Value slotOf(const Ring &ring, Cursor cursor) { return e.band(cursor, ring.stages - 1); }
  /// The parity that a full slot waits for; a filling role waits for the other one.
  Value parityOf(const Ring &ring, Cursor cursor) {
    return e.band(e.shr(cursor, llvm::Log2_64(ring.stages)), 1);
  }
  Value descriptor(int64_t offset, Value dynamicOffset, int64_t leading, int64_t stride);
  Value stageDescriptor(const Ring &ring, Value base, Value stage);
  /// One wgmma of 64 x `columns` x 16. `a` is a descriptor or four registers; `acc` may be empty:
  /// zero.
  Registers wgmma(ArrayRef<Value> acc, ValueRange a, Value b, int64_t columns, bool transposeB);
  Value sharedAddress(int64_t offset) { return e.add(sharedBase, offset); }
  Value placeAlong(Cursor cursor) {
    Value place = e.band(cursor, 2 * rings[0].stages - 1);
    return e.add(sharedAddress(alongOffset), e.mul(place, alongBytes));
  }

  SmallVector<Ring> rings;       // front: of scores; back: of what is accumulated
  SmallVector<Ring> matrices;    // of what lies beside scores; their cursor is the front ring's
  std::optional<Ring> queryTile; // outside of the loop
  /// Numbers along keys lie in a ring of places beside the front ring, twice as many: a place is
  /// read after the keys of its block are given back, and not written again before those of the
  /// block as many stages behind are.
  SmallVector<tile::AlongKeysOp> alongKeys;
  llvm::DenseMap<Value, int64_t> alongOffsets; // of each tile in a place
  int64_t alongOffset = 0, alongBytes = 0;     // of the first place; of a place
  tile::StoreOp outputStore;
  int64_t outputOffset = 0, outputMap = 0, sharedBytes = 0;
  int64_t tileFull = 0, tileEmpty = 0, numBarriers = 0;
  int64_t wordOffset = 0, tilesOffset = 0; // in shared memory
  const bool isPersistent;
  bool hasValueLoader = false;
  const Type element;

  Value sharedBase;  // i32
  Value warp, group; // i32: of the block; the consumer's instance
  Value isLeadLane;  // i1, one lane of a consumer's warp
  Value isElected;   // i1, the lane of the producer that copies
  Value queryDescriptor, frontDescriptor, backDescriptor;

  // Of the block that is being lowered:
  Cursor front, back;
  Value alongPlace;   // i32, the address of the numbers along its keys
  Cursor blockCursor; // of the front ring
  Value nextWord;
  Value firstWordPlace;        // of this tile, in shared memory
  Value accumulator;           // the loop-carried tile that the delayed product adds to
  Value weights;               // its left operand,
  Registers pendingWeights;    // and that as registers
  SmallVector<Value> inFlight; // tiles that products are writing, in the order of issue
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_HOPPERLOWERING_H
