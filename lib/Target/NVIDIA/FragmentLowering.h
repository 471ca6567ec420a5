//===-- FragmentLowering.h - Tile ops on accumulator fragments --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the paths for sm_80 and sm_90a share. Four warps compute one instance of a
// kernel, 64 queries. Warp w, lane l holds of a 64 x N tile of f32 the elements
//
//   row 16 w + l / 4 + 8 r,  column 8 n + 2 (l % 4) + c     at register 4 n + 2 r + c
//
// with r and c 0 or 1: the accumulator of wgmma and of mma.sync m16n8 alike, and
// two neighbours of which, rounded to 16 bits, are the left operand of the next
// product. A statistic, one number a row, is held for both rows by all four lanes of
// a quad; sums and maxima are of the lane's own columns until they are reduced.
//
// Each tile op has one function here or, where it moves data or multiplies, in the
// path's own class.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_FRAGMENTLOWERING_H
#define HEED_LIB_TARGET_NVIDIA_FRAGMENTLOWERING_H

#include "BlockWalk.h"
#include "FragmentStage.h"

#include <memory>

namespace heed::nvidia {

/// Queries of one instance of a kernel.
constexpr int64_t kInstanceRows = 64;
/// Threads that compute it.
constexpr int64_t kInstanceThreads = 128;

/// Registers of a thread that hold its part of a tile.
using Registers = SmallVector<Value>;

class FragmentLowering {
public:
  virtual ~FragmentLowering() = default;

protected:
  FragmentLowering(tile::KernelOp kernel, tile::GPUScheduleAttr schedule);

  /// Makes the kernel's function and binds its arguments: maps first, then the argument block.
  mlir::LLVM::LLVMFuncOp createKernel(llvm::StringRef name, int64_t numMaps, int64_t numThreads,
                                      int64_t minBlocksPerSM);
  /// The kernel's shared memory, all of it dynamic; returns its address (i32).
  Value createSharedMemory(int64_t alignment);
  /// The kernel that fills block lists.
  void emitClassifyKernel(int64_t numMaps);
  /// What the runtime must know of the kernel (heed_gpu_code).
  struct Launch {
    int64_t numThreads, sharedBytes;
    bool needsAligned;
    SmallVector<mlir::Attribute> maps; // operand, rows, columns
  };
  void describe(const Launch &launch);

  //===-- Tile ops --------------------------------------------------------===//

  mlir::LogicalResult lowerFill(tile::FillOp op);
  mlir::LogicalResult lowerMap(tile::MapOp op);
  mlir::LogicalResult lowerMask(tile::MaskOp op);
  mlir::LogicalResult lowerOnlineSoftmax(tile::OnlineSoftmaxOp op);
  mlir::LogicalResult lowerScaleRows(tile::ScaleRowsOp op);
  mlir::LogicalResult lowerNormalize(tile::NormalizeOp op);
  /// A statistic to memory; the lanes of a quad hold the same.
  void storeRows(tile::StoreOp op);

  /// Waits until the registers of a tile may be read: products may still be writing them.
  virtual void ready(Value tile) {}
  /// Called by all lanes when they have evaluated their scores of a block; the two numbers of
  /// `rowMax` (f32) depend on each of the thread's.
  virtual void scoresAreKnown(ArrayRef<Value> rowMax) {}

  /// How to read a tile beside the scores.
  virtual FragmentStage::ReadPair readBeside(Value tile) {
    llvm_unreachable("refused where nothing lies beside");
  }

  //===-- Softmax of large scores -----------------------------------------===//

  /// Whether a row with this maximum (f32, base-2 logarithms) is large: a reference would be
  /// rounded by more than its weights may be off.
  Value isLarge(Value product);
  /// Whether a row's largest score was taken from its scores, by its reference.
  Value wasLarge(Value reference);
  struct Rescaling;
  /// `lead`: how far a reference may be beyond the largest score of its row, in base-2 logarithms.
  Rescaling takeMaxima(Rescaling usual, ArrayRef<Value> old, ArrayRef<Value> addends, Value factor,
                       bool isByBits, float lead);
  /// Whether maxima of a block are taken of bits, which takes half as many instructions.
  bool comparesBits(tile::OnlineSoftmaxOp op);
  /// Whether the caller asks for the largest scores of rows.
  Value wantsMaxScores();

  //===-- Around them -----------------------------------------------------===//

  /// Emits the scalars that tile ops use, those of the walk excepted. `scalars` has the
  /// coordinates.
  void emitUsedScalars();
  /// How many registers of a thread hold a tile; of value columns, those of a slice.
  int64_t countRegisters(tile::TileType type);
  /// How many registers hold each tile that the loop carries.
  SmallVector<int64_t> countCarried(tile::ForKVOp loop);
  /// Emits what stages compute from queries alone, before a loop over keys.
  void hoistStages(tile::ForKVOp loop);
  Value scalar(Value v) { return scalars.lookupOrDefault(v); }
  Registers &registers(Value tile) { return fragments[tile]; }
  /// Rounds pairs of neighbours to the element type: the left operand of a product.
  Registers pack(ArrayRef<Value> registers, Type element);
  static int64_t rowOf(int64_t index) { return Element::ofRegister(index).row; }
  /// The sum or maximum over the four lanes of a quad.
  Value reduceQuad(Value x, llvm::function_ref<Value(Value, Value)> combine);
  Value reduceRowMax(Value x);
  attn::TensorType tensorType(unsigned index) {
    return mlir::cast<attn::TensorType>(kernel.getBodyBlock()->getArgument(index).getType());
  }
  unsigned argumentIndex(Value tensor) {
    return mlir::cast<mlir::BlockArgument>(tensor).getArgNumber();
  }
  /// The first word of the strides of query, key, value, output, lse and max_scores.
  static int64_t strideWord(unsigned argument);

  int64_t groups() const { return schedule.getGroups(); }
  int64_t blockKv() const { return schedule.getBlockKv(); }
  int64_t tileRows() const { return groups() * kInstanceRows; }

  tile::KernelOp kernel;
  tile::ForKVOp loop;
  tile::GPUScheduleAttr schedule;
  mlir::OpBuilder builder;
  Emitter e;
  std::unique_ptr<Scalars> uniform;
  std::unique_ptr<BlockWalk> walker;
  mlir::LLVM::LLVMFuncOp function;

  mlir::IRMapping scalars;   // of the role that is being emitted
  Value threadRow;           // i32, this thread's first row in its instance
  Value threadColumn;        // i32, its first column
  Value isPartial;           // i1: elements of this block may be masked
  bool isFirstBlock = false; // nothing has been folded in yet
  llvm::DenseMap<Value, Registers> fragments;
  /// What belongs to all scores of the two rows of a tile and is not in its registers.
  llvm::DenseMap<Value, std::pair<Value, Value>> rowAddends;
  llvm::DenseMap<mlir::Operation *, std::unique_ptr<FragmentStage>> stages;
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_FRAGMENTLOWERING_H
