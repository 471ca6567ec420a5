//===-- KernelLowering.h - Lowers a tile.kernel to vector code --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Tiles live in the calling thread's scratch memory, with queries in lanes:
//
//   scores, weights     [groups][keys][group]         a row: one key, `group` queries
//   accumulator         [groups][value dims][group]
//   queries             [groups][dims][group]         transposed once a kernel
//   statistics          [block_q]
//   keys, values        where they are: rows of the tensors, read by broadcast; or
//                       blocks that were widened or packed before
//
// so S^T = K Q^T and O^T = V^T P^T are sums of broadcast times vector, softmax
// statistics need no horizontal step, and one micro-kernel serves both products
// (cpu.md, section 0). A group is the queries of one micro-kernel, lanes * vectors: what it reads
// of a panel is contiguous, for with a row of all block_q queries it would meet only a part of the
// first-level cache's sets. A 16-bit `dpbf16` or `amx` product reads pairs of
// neighbours along the contracted axis as one 32-bit lane.
//
// Each tile op has one function here. Values are updated in place where an op
// consumes its operand; an op whose operand is still needed is an error.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CPU_KERNELLOWERING_H
#define HEED_LIB_TARGET_CPU_KERNELLOWERING_H

#include "StageVectorizer.h"

#include "heed/Target/CPU/CPUTarget.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <memory>

namespace heed::cpu {

/// Where a tile is.
struct TileStorage {
  enum Kind {
    Panel,   // [groups][rows][group] in scratch, f32 or (isPairs) bf16 pairs
    Stats,   // f32[block_q] in scratch
    KvRows,  // row-major rows of 16-bit or f32 elements
    KvPacked // a packed block of values
  };
  Kind kind = Panel;
  Value base;
  // Panel:
  int64_t rows = 0; // that there is room for
  bool isPairs = false;
  Value rowFactors; // statistics that rows have yet to be scaled by (scaleRow), or null
  // KvRows and KvPacked:
  Value stride; // i64, elements from row to row
  Value count;  // i64, rows that exist
  Type element; // in memory
};

class KernelLowering : public ScalarLowering {
public:
  KernelLowering(tile::KernelOp kernel, const CPUTarget &target, tile::CPUScheduleAttr schedule);

  /// Emits the functions of the kernel before it. Fails with a diagnostic on a form that it cannot
  /// lower.
  mlir::LogicalResult run();

private:
  //===-- Structure (KernelLowering.cpp) ----------------------------------===//

  mlir::func::FuncOp createFunction(llvm::StringRef suffix, ArrayRef<Type> arguments, Type result);
  void bindArguments(Value args, Value batch, Value head, Value queryTile);
  mlir::LogicalResult lowerBlock(mlir::Block &block);
  mlir::LogicalResult lowerOp(mlir::Operation &op);
  mlir::LogicalResult lowerForKV(tile::ForKVOp op);
  void walkBounds(tile::ForKVOp op, llvm::function_ref<void(Value isPartial)> lowerBody);
  void walkLists(tile::ForKVOp op, llvm::function_ref<void(Value isPartial)> lowerBody);
  void beginBlock(tile::ForKVOp op, Value kv, Value end);
  /// The runs of the tile's row in the lists of the launch.
  struct RunsOfTile {
    Value first, end; // i64, their numbers
    Value base;       // of all runs
  };
  RunsOfTile runsOfTile();
  struct Run {
    Value begin, end; // i64, blocks
    Value kind;       // i32
  };
  Run loadRun(Value runs, Value number);
  Value toIndex(Value v) {
    return mlir::arith::IndexCastOp::create(builder, kernel.getLoc(), builder.getIndexType(), v);
  }
  /// Finds how many keys of a partial block each group needs, and its first half.
  void emitGroupRows(StageVectorizer &mask, Value isPartial);
  mlir::LogicalResult emitTileFunction();
  mlir::LogicalResult emitCostFunction();
  void emitPrepareFunction(tile::LoadOp valueLoad);
  Value scalar(Value v) { return scalars.lookupOrDefault(v); }
  Value scalarI64(Value v) { return e->toI64(scalar(v)); }
  const TileStorage &storage(Value v) { return tiles.find(v)->second; }
  /// 64-byte aligned scratch memory; the address is computed in the entry block.
  Value allocate(int64_t bytes);
  unsigned argumentIndex(Value tensor);
  Value tensorBase(Value tensor, Value batch, Value head);
  Value rowStride(Value tensor);
  /// Rows of [first, first + block) that exist.
  Value validRows(Value first, int64_t block, Value limit);
  /// Calls `body` with the first lane of each group that holds queries.
  void forEachGroup(llvm::function_ref<void(Value group)> body) {
    e->loop(e->cst(0), queryEnd, groupLanes, body);
  }
  /// Keys of the current block that a group needs, from the first on.
  Value groupRows(Value group) { return rowCount(group, 0); }
  /// The same of a product, whose first half of a group's vectors may need fewer.
  struct ProductRows {
    Value ofAll, ofSecondHalf; // [0, ofAll) by all vectors, from there to here by the second half
  };
  ProductRows productRows(Value group) {
    Value end = rowCount(group, 0);
    return {hasHalves() ? rowCount(group, 1) : end, end};
  }
  /// Keys that the first half of a group needs are rounded up to so many.
  int64_t productStep() const;
  bool hasHalves() const { return groupRowCounts && schedule.getVectors() % 2 == 0; }
  Value rowCount(Value group, int64_t part) {
    return groupRowCounts ? e->load(e->i64(), rowCountAddress(group, part)) : blockRows;
  }
  Value rowCountAddress(Value group, int64_t part) {
    return e->at(groupRowCounts, e->add(e->div(group, groupLanes / 2), part), e->i64());
  }
  /// Offset in a panel of lane `lane` of the group that begins at lane `group`.
  Value groupOffset(const TileStorage &panel, Value row, Value group, int64_t lane) {
    return e->add(e->add(e->mul(group, panel.rows), e->mul(row, groupLanes)), lane);
  }
  /// Offset in a panel of any lane.
  Value laneOffset(const TileStorage &panel, Value row, Value lane) {
    Value inGroup = e->rem(lane, groupLanes);
    return e->add(groupOffset(panel, row, e->sub(lane, inGroup), 0), inGroup);
  }
  /// 2048 bytes of zeros, which rows beyond a tensor's end read from.
  Value zeros();

  //===-- Memory (TileMemory.cpp) -----------------------------------------===//

  mlir::LogicalResult lowerLoad(tile::LoadOp op);
  void packQueries(tile::LoadOp op, tile::ScaleOp scale);
  void prefetchRows(Value base, Value stride, Value row, Value element, Type type);
  void lowerFill(tile::FillOp op);
  mlir::LogicalResult lowerStore(tile::StoreOp op);
  void storeRows(tile::StoreOp op);
  void emitPackPairs(Value rows, Value stride, Value count, Value out);
  void emitPackAMX(Value rows, Value stride, Value count, Value out);
  Type valueElement() { return kernelTensorType(2).getElementType(); }
  static attn::TensorType tensorTypeOf(tile::KernelOp kernel, unsigned argument) {
    return mlir::cast<attn::TensorType>(kernel.getBodyBlock()->getArgument(argument).getType());
  }
  attn::TensorType kernelTensorType(unsigned index) { return tensorTypeOf(kernel, index); }

  /// Statistics of an online softmax, a number a query each.
  struct SoftmaxStatistics {
    Value max, newMax; // before and after this block
    Value sum;         // of weights
    Value rescale;     // what earlier blocks left is multiplied by this
    Value minusReference;
    Value shift, offset; // weights are 2^(factor (score - offset) + shift)
  };
  /// The weights of a block of keys. Those of one group may wait, to be taken while products of
  /// other groups run, whose multiplications leave units idle that exponentials need: vector by
  /// vector of the group's rows, or of its pairs of rows where weights are pairs.
  struct BlockWeights {
    TileStorage scores, weights;
    Value factor; // in all lanes
    SoftmaxStatistics stats;
    /// Addresses of i64: the group that waits, its next vector, the number of its vectors; null
    /// where none waits.
    Value group, next, count;
  };

  //===-- Products (Dots.cpp) ---------------------------------------------===//

  /// What happens to scores between their product and their softmax.
  struct Epilogue {
    SmallVector<StageVectorizer *> maps;
    StageVectorizer *mask = nullptr; // after all maps
    Value isPartial;                 // whether the mask is needed
    Value oldMax, newMax; // statistics: before and after this block; null without a softmax
    Value scores;         // that the softmax takes
  };
  /// The product of queries and a block of keys.
  struct ScoresProduct {
    TileStorage queries, keys;
    int64_t headDim;
    TileStorage scores;
    Epilogue epilogue;
  };

  mlir::LogicalResult lowerDot(tile::DotOp op);
  Epilogue collectEpilogue(tile::DotOp op);
  /// Emits scores group by group: the product, which calls `onEachRound` each few steps;
  /// `beforeStages`; the stages; `then`.
  void emitScores(const ScoresProduct &product, llvm::function_ref<void(Value group)> beforeStages,
                  llvm::function_ref<void(Value group)> then,
                  llvm::function_ref<void()> onEachRound = nullptr);
  void emitStages(const ScoresProduct &product, Value group);
  /// Whether the product takes the maximum while its scores are in registers.
  bool takesMaxInDot(const ScoresProduct &product);
  void emitScoresFMA(const ScoresProduct &product, Value group,
                     llvm::function_ref<void()> onEachRound);
  void emitScoresAMX(const ScoresProduct &product);
  void emitAccumulate(const TileStorage &weights, const TileStorage &values, int64_t valueDim,
                      const TileStorage &acc, const BlockWeights *waiting);
  void emitAccumulateAMX(const TileStorage &weights, const TileStorage &values, int64_t valueDim,
                         const TileStorage &acc);
  /// rows x vectors accumulators: sum over k of broadcast(scalar(k, row)) * vector(k, column).
  /// `onEachRound` emits what else to do each `unroll` steps, `onEachLine` each time the scalars of
  /// a row enter a cache line; with it, `steps` is a constant.
  SmallVector<Value> emitMicroKernel(int64_t rows, int64_t vectors, Value steps, int64_t unroll,
                                     ArrayRef<Value> inits, bool isPairs,
                                     llvm::function_ref<Value(Value k, int64_t row)> scalarAt,
                                     llvm::function_ref<Value(Value k, int64_t column)> vectorAt,
                                     llvm::function_ref<void()> onEachRound = nullptr,
                                     llvm::function_ref<void(Value k)> onEachLine = nullptr);
  void emitPrefetch(Value row, Value line);

  //===-- Softmax (Softmax.cpp) -------------------------------------------===//

  /// Ahead of the loop.
  void beginOnlineSoftmax(tile::OnlineSoftmaxOp op);
  /// A number a query, for the queries of a group.
  llvm::SmallVector<Value> loadGroup(Value stats, Value group);
  /// Whether any lane of the vectors is not `from`.
  Value anyDiffers(llvm::ArrayRef<Value> vectors, float from);
  void updateReferences(const BlockWeights &block, Value group);
  /// Subtracts a group's numbers from its scores, in a branch: nearly always they are all 0.
  void takeOffsets(const TileStorage &scores, Value offsets, Value group, Value numRows);
  /// Whether weights wait for products of other groups.
  bool weightsWait(tile::OnlineSoftmaxOp op);
  /// Takes the vector at lane `lane` of a group, of one row or pair of rows; returns its sum.
  Value takeVector(const BlockWeights &block, Value row, Value group, Value lane, Value shift);
  /// Takes the next vector, if any waits.
  void takeNextWeights(const BlockWeights &block);
  /// Takes all rows of a group, or those that wait.
  void takeWeights(const BlockWeights &block, Value group);
  /// Takes all that wait.
  void takeWaitingWeights(const BlockWeights &block);
  mlir::LogicalResult lowerOnlineSoftmax(tile::OnlineSoftmaxOp op);
  /// v times the factors of its lanes; 0 for rows without any key, which have a negative factor,
  /// even where a value is infinite.
  Value scaleRow(Value v, Value factor);
  void lowerScaleRows(tile::ScaleRowsOp op);
  void lowerNormalize(tile::NormalizeOp op);

  tile::KernelOp kernel;
  const CPUTarget &target;
  tile::CPUScheduleAttr schedule;
  const int64_t lanes, groupLanes, blockQ, blockKv;

  // Of the function that is being emitted:
  mlir::Block *entry = nullptr;
  Value scratch;
  int64_t scratchBytes = 0;
  Value queryEnd; // i64, end of the lanes whose groups hold queries
  llvm::DenseMap<Value, TileStorage> tiles;
  llvm::DenseMap<mlir::Operation *, std::unique_ptr<StageVectorizer>> stages;
  llvm::DenseMap<Value, ScoresProduct> products;      // by their final scores
  llvm::DenseMap<Value, BlockWeights> waitingWeights; // by their tile
  /// Storage of a running maximum -> f32 a query, -factor times the reference of its softmax.
  llvm::DenseMap<Value, Value> minusReferences;
  SmallVector<tile::LoadOp> blockLoads; // keys and values of the loop, for prefetching
  Value blockRows, blockStart;          // i64, of the current block of keys
  Value groupRowCounts;    // two i64 a group (emitGroupRows), where groups differ in what they need
  int64_t packedBytes = 0; // a block of packed values
  bool usesLists = false;
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_KERNELLOWERING_H
