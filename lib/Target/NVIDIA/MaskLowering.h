//===-- MaskLowering.h - Block lists of a mask on a GPU --------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Block lists of a mask, made where its captures are, by kernels of one warp for each
// piece of work:
//
//   NAME_classify  the class of every block, by intervals, 32 rows x 32 columns a warp. What
//                  depends on a row of blocks alone, or on a column, is computed once for it (in
//                  the lane of that number), so that captured arrays are read once for 32 blocks.
//   NAME_settle    blocks that intervals left open: pairs are looked at, or parts of the block by
//                  intervals, until pairs of both kinds were seen or all are known; 32 blocks of a
//                  row a warp.
//   NAME_list      counts and indices of a row of blocks, or of a column, a row a warp.
//   NAME_fill      the other way round, from lists that somebody gave; the mask has no part in it.
//
// They share the bytes of a matrix (tile::BlockClass, and kOpen in between).
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_MASKLOWERING_H
#define HEED_LIB_TARGET_NVIDIA_MASKLOWERING_H

#include "Scalars.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <memory>
#include <string>

namespace heed::nvidia {

class MaskLowering {
public:
  /// `classify` and `attends` are what attn-to-classifier makes; `name` is that of the
  /// kernel they belong to.
  MaskLowering(mlir::func::FuncOp classify, mlir::func::FuncOp attends, llvm::StringRef name);

  /// Adds the kernels in front of the functions. The attribute `heed.gpu_mask_code` of the first
  /// says what the runtime must know.
  mlir::LogicalResult run();

  /// Of blocks that intervals do not decide.
  static constexpr int64_t kOpen = 3;
  static constexpr int64_t kWarps = 4; // of a thread block

private:
  static ScalarSource sourceOf(mlir::func::FuncOp source, unsigned numCoordinates);
  /// A kernel's function and its argument block; the insertion point moves into it.
  void begin(llvm::StringRef suffix);
  void end();

  /// A warp's piece, of those of a list; a list belongs to a batch and head.
  struct Work {
    Value list, piece;
  };
  /// Emits `body` for the piece of each warp that has one.
  void forWork(Value piecesPerList, llvm::function_ref<void(Work)> body);

  void emitClassify();
  void emitSettle();
  void emitList();
  void emitFill();

  /// The scalars with the batch and head of a list.
  mlir::IRMapping gridOf(Scalars &scalars, ValueRange coordinates, Value list);
  /// The queries of a row of blocks, or the keys of a column.
  struct Range {
    Value first, end;
  };
  Range rangeOf(Value number, int64_t blockWord, int64_t lengthWord);
  /// Whether one of the pairs attends, and whether one does not.
  struct Seen {
    Value attending, other; // i1, the same in all lanes
  };
  Seen lookAt(Value list, const Range &queries, const Range &keys);
  /// Goes through all pairs, while `before` and they are not of both kinds.
  Seen lookAtAll(Value list, const Range &queries, const Range &keys, const Seen &before);
  Range partOf(const Range &range, Value number, int64_t count);
  /// The scalars and coordinates of a box.
  mlir::IRMapping boxOf(Value list, const Range &queries, const Range &keys);
  /// The class of a box, and whether a pair attends.
  Value classOf(Value list, const Range &queries, const Range &keys);
  Value keeps(Value list, Value q, Value kv);
  Value hangs(const Range &queries, const Range &keys);
  Value broadcast(Value v, Value lane);
  Value word32(int64_t index) { return boxes->word32(index); }
  Value classAddress(Value list, Value row, Value column);
  Value loadClass(Value address, Value exists);
  void storeClass(Value cls, Value address, Value condition);

  mlir::func::FuncOp classify, attends;
  const std::string name;
  mlir::OpBuilder builder;
  Emitter e;
  std::unique_ptr<Scalars> boxes, pairs; // of the two functions, in the kernel being emitted
  mlir::LLVM::LLVMFuncOp function;
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_MASKLOWERING_H
