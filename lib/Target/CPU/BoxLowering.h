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

/// Lowers a function that attn-to-classifier made to the form of heed_classify_fn and heed_count_fn
/// (heed-c/Runtime.h), under the same name, and erases it.
class BoxLowering : ScalarLowering {
public:
  /// Fails with a diagnostic on a function that attn-to-classifier does not make.
  static mlir::LogicalResult check(mlir::func::FuncOp function);

  BoxLowering(mlir::func::FuncOp function, const CPUTarget &target);
  void run();

private:
  mlir::func::FuncOp function;
};

} // namespace heed::cpu

#endif // HEED_LIB_TARGET_CPU_BOXLOWERING_H
