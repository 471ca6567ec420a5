//===-- BoxLowering.h - Functions of a box on CPUs ------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CPU_BOXLOWERING_H
#define HEED_LIB_TARGET_CPU_BOXLOWERING_H

#include "ScalarLowering.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace heed::cpu {

/// Lowers a function that attn-to-classifier made, and erases it: NAME_classify to a
/// heed_box_class_fn (heed-c/Runtime.h) of the same name, NAME_attends to the heed_box_count_fn
/// NAME_count, which looks at a vector of queries at a time.
class BoxLowering : ScalarLowering {
public:
  /// Fails with a diagnostic on a function that attn-to-classifier does not make.
  static mlir::LogicalResult check(mlir::func::FuncOp function);

  BoxLowering(mlir::func::FuncOp function, const CPUTarget &target);
  void run();

private:
  /// A function of a box, of which the argument block has been read.
  mlir::func::FuncOp begin(llvm::StringRef name, Type result, unsigned numCoordinates);
  void lowerBox();
  void lowerPair();

  mlir::func::FuncOp function;
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_BOXLOWERING_H
