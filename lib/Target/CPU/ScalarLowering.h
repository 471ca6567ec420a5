//===-- ScalarLowering.h - Scalar ops in CPU code --------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What functions of compiled code have in common: the argument block that they
// read, the captured tensors in it, and scalar ops of any dialect, among them
// those of attn.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CPU_SCALARLOWERING_H
#define HEED_LIB_TARGET_CPU_SCALARLOWERING_H

#include "../Captures.h"
#include "Emitter.h"

#include "heed/Target/CPU/CPUTarget.h"

#include "mlir/IR/IRMapping.h"

#include <memory>

namespace heed::cpu {

class ScalarLowering {
public:
  Emitter &emitter() { return *e; }
  /// Lowers a scalar op, with its regions.
  void cloneScalar(mlir::Operation &op, mlir::IRMapping &mapping);
  /// What a captured tensor is in memory, by the value that stands for it.
  const CapturedTensor &tensorOf(Value tensor) const { return captured.find(tensor)->second; }

protected:
  /// `headDims`: of query and of value, which are compiled in.
  ScalarLowering(mlir::Operation *op, const CPUTarget &target, tile::CPUScheduleAttr schedule,
                 std::pair<int64_t, int64_t> headDims);

  Value argWord(int64_t word);
  Value argPointer(int64_t word);
  Value scalarArgument(Type type, int64_t word);
  /// Reads the variant's parameters: scalars and tensors.
  void bindCaptures(mlir::ValueRange captures);

  mlir::OpBuilder builder;
  std::unique_ptr<Emitter> e;

  // Of the function that is being emitted:
  Value args; // the argument block
  mlir::IRMapping scalars;
  llvm::DenseMap<Value, CapturedTensor> captured;

private:
  std::pair<int64_t, int64_t> headDims;
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_SCALARLOWERING_H
