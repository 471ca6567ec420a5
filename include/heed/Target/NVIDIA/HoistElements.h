//===-- HoistElements.h - What is not computed for each score --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Finds, in the region of a stage, what the pass tile-hoist-elements takes out of it. The
// choice of schedules asks as well, before there is a kernel.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_NVIDIA_HOISTELEMENTS_H
#define HEED_TARGET_NVIDIA_HOISTELEMENTS_H

#include "heed/Analysis/Dependence.h"
#include "heed/Dialect/Attn/IR/Attn.h"

#include "llvm/ADT/SetVector.h"

namespace heed {

class ElementRegion {
public:
  /// The block of a tile.map, a tile.mask or a stage of an attn.variant, with its arguments;
  /// `score` may be null.
  ElementRegion(mlir::Block &block, mlir::Value score, mlir::Value query, mlir::Value key);

  /// Values that elements need, that depend on the key alone, and that take long to compute.
  llvm::SmallVector<mlir::Value> alongKeys() const;
  /// Gathers at [..., query, key] with other indices that are uniform, the first few.
  llvm::SmallVector<attn::LoadOp> matrices() const;

  Dependence lookup(mlir::Value v) const { return dependences.lookup(v); }
  /// Whether `v` is the same for all elements.
  bool isUniform(mlir::Value v) const;
  /// The ops of the block that `values` are computed from, in order.
  llvm::SetVector<mlir::Operation *> sliceOf(mlir::ValueRange values,
                                             mlir::ValueRange leaves = {}) const;

private:
  mlir::Block &block;
  mlir::Value query, key;
  DependenceAnalysis dependences;
};

/// Bytes of a number in shared memory: i1 takes a word.
int64_t alongKeyBytes(mlir::Type type);

} // namespace heed

#endif // HEED_TARGET_NVIDIA_HOISTELEMENTS_H
