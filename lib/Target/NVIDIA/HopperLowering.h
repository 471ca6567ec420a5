//===-- HopperLowering.h - Kernels for sm_90a -------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A thread block is one producer warpgroup, of which one warp works, and a consumer
// warpgroup for each instance. The producer copies the tile.load ops: those outside of
// the loop once a tile, those inside into a ring of `stages` slots each, with a `full`
// and an `empty` mbarrier a slot. It alone knows the walk over blocks of keys: with
// each block of the first ring, and with the tile's queries for its first block, it hands
// over a word for the block that follows,
//
//   block << 8 | 2-bit class for each consumer          or -1 where there is none
//
// where a class is that of tile.for_kv, or 3 (Done) where neither this block nor
// a later one concerns the consumer. Blocks go from the last key to the first.
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

namespace heed::nvidia {

class HopperLowering : public FragmentLowering {
public:
  HopperLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule);

  /// Emits the kernel before its tile.kernel. Fails with a diagnostic on a form that it cannot
  /// lower.
  mlir::LogicalResult run();

private:
  /// Blocks of a tensor in shared memory, or (with one stage) a tile of it.
  struct Ring {
    tile::LoadOp load;
    int64_t rows = 0, columns = 0; // of a stage; columns are those that exist
    int64_t stages = 1;
    int64_t offset = 0;          // in shared memory, bytes
    int64_t full = 0, empty = 0; // barrier numbers of stage 0
    int64_t map = 0;             // index of its tensor map
    int64_t stageBytes() const { return rows * ((columns + 63) / 64) * 128; }
  };
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
  void copy(const Ring &ring, Value stage, const mlir::IRMapping &mapping, Value barrier);
  void fill(const Ring &ring, Cursor cursor, const mlir::IRMapping &mapping, Value word,
            int64_t wordOffset);

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
  Value readWord(Value slot);
  /// This consumer's class in a word.
  Value classOf(Value word);

  //===-- Barriers and descriptors ----------------------------------------===//

  Value barrier(int64_t first, Value stage = Value());
  void wait(Value barrier, Value parity);
  void arrive(Value barrier, Value predicate);
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

  SmallVector<Ring> rings;       // front: of scores; back: of what is accumulated
  std::optional<Ring> queryTile; // outside of the loop
  tile::StoreOp outputStore;
  int64_t outputOffset = 0, outputMap = 0, sharedBytes = 0;
  int64_t tileFull = 0, tileEmpty = 0, numBarriers = 0;
  int64_t wordOffset = 0, tileNumberOffset = 0; // in shared memory
  const bool isPersistent;
  const Type element;

  Value sharedBase;  // i32
  Value warp, group; // i32: of the block; the consumer's instance
  Value isLeadLane;  // i1, one lane of a consumer's warp
  Value isElected;   // i1, the lane of the producer that copies
  Value queryDescriptor, frontDescriptor, backDescriptor;

  // Of the block that is being lowered:
  Cursor front, back;
  Value nextWord;
  Value accumulator;           // the loop-carried tile that the delayed product adds to
  Value weights;               // its left operand,
  Registers pendingWeights;    // and that as registers
  SmallVector<Value> inFlight; // tiles that products are writing, in the order of issue
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_HOPPERLOWERING_H
