//===-- AmpereLowering.h - Kernels for sm_80 and later ----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The portable path: it runs on every GPU from sm_80 on and takes tensors of any
// strides and alignment. A thread block computes one tile, or one slice of the value
// columns of a tile. All of its threads copy and compute, and all evaluate the walk
// over blocks, which is uniform arithmetic. Four warps compute `warp_instances`
// instances: what they read of a block of keys or values serves all of these, which
// halves the traffic with shared memory that bounds such kernels on sm_90.
//
// Keys and values lie in rings of `stages` slots each. Block j goes:
//
//   wait for keys j, barrier      all are done with values j-1: copy values j+stages-1
//   S = Q K^T
//   wait for values j, barrier    all are done with keys j:     copy keys j+stages
//   map, mask, softmax, O += P V
//
// Copies are 16 bytes each, asynchronous, and put zeros where rows or columns do not
// exist. A tensor whose address or strides are not multiples of 16 bytes is copied by
// elements instead; that is decided at run time.
//
// Rows in shared memory are an odd multiple of 16 bytes apart: then the eight rows
// of 16 bytes that ldmatrix reads lie in different banks, and so do the elements that
// four neighbouring pairs of rows give to a TF32 product. ldmatrix moves 32-bit elements
// as well as pairs of 16-bit ones, so that a step of 32 bytes along the head dim, 16 elements
// or 8, is the same code for all types.
//
// f32: a number is the sum of two TF32 numbers, big and small, up to 2^-22 of it; a
// product is big * big + (big * small + small * big). Tensor cores cut off what does not fit
// an accumulator, so sums go over one block at most and are added up by rounding additions.
//
// The shape follows FlashAttention-2 (Dao, 2023).
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_AMPERELOWERING_H
#define HEED_LIB_TARGET_NVIDIA_AMPERELOWERING_H

#include "FragmentLowering.h"

namespace heed::nvidia {

/// Bytes of an asynchronous copy, and of a row of the matrices that ldmatrix reads.
constexpr int64_t kPieceBytes = 16;
/// Bytes of a row that a product of two 16-byte matrices reads.
constexpr int64_t kStepBytes = 32;

class AmpereLowering : public FragmentLowering {
public:
  AmpereLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule);

  /// Emits the kernel before its tile.kernel. Fails with a diagnostic on a form that it cannot
  /// lower.
  mlir::LogicalResult run();

private:
  /// Where a tensor's rows lie in shared memory, and in global memory for the tile that is
  /// computed.
  struct Buffer {
    tile::LoadOp load;
    int64_t rows = 0;    // of a stage
    int64_t columns = 0; // that are copied; of values, those of a slice
    int64_t rowBytes = 0;
    int64_t offset = 0;
    int64_t knownColumns = 0; // that exist in every slice
    int64_t stageBytes() const { return rows * rowBytes; }

    Value address;       // i64, of row 0 and the first column: see addressOf
    int64_t packed = -1; // its two words' place in `packed`, if they are there
    Value rowStride;     // i64, bytes
    Value numRows;       // i32
    Value numColumns;    // i32, or null: all that are copied exist
    Value isAligned;     // i1
  };
  /// What belongs to an instance: its part of the base class's state.
  struct Instance {
    mlir::IRMapping scalars;
    Value isPartial;
    llvm::DenseMap<Value, Registers> fragments;
    llvm::DenseMap<Value, std::pair<Value, Value>> rowAddends;
    llvm::DenseMap<mlir::Operation *, std::unique_ptr<FragmentStage>> stages;
    Value limit;                    // of its masks
    SmallVector<Registers> queries; // left operands by step, where registers hold them
  };

  mlir::LogicalResult collect();
  void layOut();
  mlir::LogicalResult emitKernel();
  /// Makes instance `i` of these warps the one that the base class's functions work on.
  void enter(int64_t i);

  //===-- Copies ----------------------------------------------------------===//

  /// Finds a tensor in global memory; `mapping` has the scalars of the tile's first instance.
  void locate(Buffer &buffer, const mlir::IRMapping &mapping, int64_t extentWord);
  /// Begins to copy the rows from `firstRow` to shared memory.
  void copy(const Buffer &buffer, Value firstRow, Value destination);
  Value copyingThread();
  void copyPieces(const Buffer &buffer, Value firstRow, Value destination);
  void copyElements(const Buffer &buffer, Value firstRow, Value destination);
  /// Copies the block of a word to a stage; nothing where the word is -1. One group in any case.
  void copyBlock(const Buffer &buffer, Value word, Value stage);
  void commit();
  /// Waits until all but the last `pending` groups of this thread have arrived.
  void waitForAllBut(int64_t pending);

  //===-- Tile ops --------------------------------------------------------===//

  /// Decodes the place of a thread in fragments.
  void placeThread(Value thread);
  /// Emits the scalars of all instances of a tile.
  void enterTile(const BlockWalk::Tile &tile);
  /// Puts what is the same in all lanes and rarely needed into one register, which is kept over the
  /// loop instead: where the tile lies and, if registers are tight, keys and values.
  void packPlaces(const BlockWalk::Tile &tile);
  Value unpack(int64_t i);
  Value addressOf(const Buffer &buffer);
  /// Of 16 bytes in the first stage, i32.
  Value sharedAddress(const Buffer &buffer, Value row, Value piece);
  bool isTight();
  mlir::LogicalResult lowerOp(mlir::Operation &op);
  mlir::LogicalResult lowerForKV(tile::ForKVOp op);
  /// The first part of a tile's work: queries to where products take them from.
  void loadQueries(Value firstRow);
  void scaleQueries(Value factor);
  void lowerScores(tile::DotOp op, Value stage);
  void lowerAccumulation(tile::DotOp op, Value stage);
  void storeTile(tile::StoreOp op);
  /// Of a block that the instance does not need, all elements are masked: its limit becomes 0.
  void limitTo(tile::ForKVOp op, Value isNeeded);
  /// The class of instance `i` of these warps in a word.
  Value classOf(Value word, int64_t i);

  //===-- Products --------------------------------------------------------===//

  /// Four 8 x 16-byte matrices from the addresses `base` + `offset` of the lanes.
  Registers loadMatrices(Value base, int64_t offset, bool transpose = false);
  /// The left operand of step `step` of instance `i`.
  Registers queryOperand(int64_t i, int64_t step);
  /// A 16 x 8 tile of accumulators; an empty one stands for zeros.
  Registers multiply(ArrayRef<Value> acc, ArrayRef<Value> a, Value b0, Value b1);
  /// An f32 (as bits) rounded to TF32.
  Value roundToTF32(Value bits);
  /// What an operand consists of: itself, or the big and small parts of each number.
  struct Parts {
    Registers big, small;
  };
  Parts split(ArrayRef<Value> bits);
  /// Products of parts: big ones into acc[0], others into acc[1].
  void multiplyParts(Registers (&acc)[2], const Parts &a, const Parts &b, int64_t first);
  Registers sumOf(const Registers (&acc)[2]);

  bool is16Bit() const { return elementBytes == 2; }
  bool isSplit() const { return schedule.getDot() == tile::GPUDotKind::TF32x3; }
  int64_t warpInstances() const { return schedule.getWarpInstances(); }
  int64_t numWarpGroups() const { return groups() / warpInstances(); }
  int64_t numThreads() const { return numWarpGroups() * kInstanceThreads; }
  int64_t numSteps() const { return llvm::divideCeil(key.columns * elementBytes, 32); }

  const Type element;
  const int64_t elementBytes;
  Buffer query, key, value;
  tile::ScaleOp queryScale; // or null
  tile::StoreOp outputStore;
  int64_t sharedBytes = 0;

  Value sharedBase;           // i32
  Value warp, lane;           // i32
  Value warpGroup;            // i32, or null: there is one
  Value slice;                // i32, or null: there is one
  Value packed;               // i32: see packPlaces
  Value queryLane, valueLane; // i32: this lane's addresses in the first stages
  // With queries in global memory: of each instance two rows, their addresses and whether they
  // exist.
  SmallVector<Value> queryAddresses, queryExists;
  Value queryFactor;

  BlockWalk::Walk walk;
  std::vector<Instance> instances;
  int64_t current = 0;
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_AMPERELOWERING_H
