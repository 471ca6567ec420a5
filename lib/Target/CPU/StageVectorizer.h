//===-- StageVectorizer.h - Evaluates stages on lanes of queries --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The region of a tile.map or tile.mask is a function of scalars. Here it is
// evaluated for a vector of queries and one key at a time, and every value in it
// is computed as rarely as what it depends on allows:
//
//   nothing (b, h, captures)   once a kernel, as a scalar
//   q                          once a kernel, as a row of scratch memory
//   kv                         once a row of the score tile, as a scalar
//   the score, or q and kv     for each vector
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CPU_STAGEVECTORIZER_H
#define HEED_LIB_TARGET_CPU_STAGEVECTORIZER_H

#include "ScalarLowering.h"

namespace heed::cpu {

/// One element of a captured tensor, 0 outside it: attn.load on scalars.
Value emitScalarGather(Emitter &e, const CapturedTensor &tensor, ValueRange indices, Type result);

class StageVectorizer {
public:
  /// `block` is the region's block; `element` its score argument or null. `scalars` maps what the
  /// region uses from outside to lowered scalars.
  StageVectorizer(ScalarLowering &lowering, mlir::Block &block, Value element, Value q, Value kv,
                  const mlir::IRMapping &scalars);

  /// Emits what does not depend on the key: at the builder's insertion point, which must dominate
  /// all evaluations. `firstQ` is the tile's first query and `queryEnd` the end of its
  /// lanes (i64); `allocate` returns scratch memory for so many bytes a query.
  void hoist(Value firstQ, Value queryEnd, llvm::function_ref<Value(int64_t)> allocate);

  /// Values that are shared by all vectors of a row.
  using Row = mlir::IRMapping;
  /// Emits what depends on the key only. `kv` is i32.
  Row beginRow(Value kv);
  /// The region's result for the queries of lanes [lane, lane + lanes); `lane` is i64 and counts
  /// from the tile's first query.
  Value evaluate(const Row &row, Value lane, Value element);

private:
  enum : unsigned { OnScore = 1, OnQ = 2, OnKv = 4 };

  unsigned dependence(Value v) const;
  Value emitVector(mlir::Operation &op, mlir::IRMapping &mapping);
  Value emitGather(attn::LoadOp load, mlir::IRMapping &mapping);
  Value asVector(Value v, mlir::IRMapping &mapping);
  /// d v / d q where it is a constant, as `q - kv + c` has.
  std::optional<int64_t> slopeInQ(Value v) const;

  ScalarLowering &lowering;
  Emitter &e;
  mlir::Block &block;
  Value elementArg, qArg, kvArg;
  mlir::IRMapping uniforms; // values outside, and uniform values of the region
  llvm::DenseMap<Value, unsigned> dependences;
  /// Values that depend on q only and are used by others: their rows in scratch memory.
  llvm::MapVector<Value, Value> rows;
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_STAGEVECTORIZER_H
