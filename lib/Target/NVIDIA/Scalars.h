//===-- Scalars.h - The scalar code of a kernel on a GPU -------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What lies between tile ops (coordinates, loop bounds, block classes) and inside
// stages: scalar ops, of which each role of a kernel emits the ones that it needs.
// Indices become i32: no extent is beyond 2^30.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_SCALARS_H
#define HEED_LIB_TARGET_NVIDIA_SCALARS_H

#include "../Captures.h"
#include "Emitter.h"

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/IR/IRMapping.h"

namespace heed::nvidia {

/// Extents are at most this, so that differences of coordinates never wrap around.
constexpr int64_t kMaxCoordinate = (int64_t(1) << 30) - 1;

/// The code whose scalar ops are emitted.
struct ScalarSource {
  mlir::Block *body;
  ValueRange parameters; // the variant's
  Value scale;           // or null
  int64_t headDim, valueHeadDim;

  static ScalarSource of(tile::KernelOp kernel);
};

class Scalars {
public:
  /// `args` points to the argument block. Loads what the source's scalars and captures are at the
  /// builder's insertion point, which must dominate everything else.
  Scalars(Emitter &e, const ScalarSource &source, Value args);

  /// A word of the argument block (HEED_ARG_*).
  Value word(int64_t index);
  Value word32(int64_t index) { return e.toI32(word(index)); }
  Value pointer(int64_t index);

  /// What scalars of the source are in the code that is being emitted. Roles copy it and add the
  /// grid coordinates.
  const mlir::IRMapping &arguments() const { return mapping; }

  /// Emits the ops of `values`' definitions that lie in the source's body and that `mapping` lacks,
  /// regions included, and adds them to it.
  void emitSlice(ValueRange values, mlir::IRMapping &mapping);
  /// Emits one scalar op with its regions.
  void emit(mlir::Operation &op, mlir::IRMapping &mapping);
  /// Emits one op without regions on the given operands.
  Value emitOp(mlir::Operation &op, ValueRange operands);

  const CapturedTensor &capturedTensor(Value tensor) const { return captured.find(tensor)->second; }

private:
  Value emitExtent(attn::ExtentOp op);
  Value emitGather(attn::LoadOp op, ValueRange indices);

  Emitter &e;
  const ScalarSource source;
  Value args;
  mlir::IRMapping mapping;
  llvm::DenseMap<Value, CapturedTensor> captured;
};

/// Unrolls the loops that take minima and maxima of captured tensors, so that several loads are on
/// their way at a time.
void unrollReads(mlir::Operation *function);

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_SCALARS_H
