//===-- RunPasses.h - A pipeline on a module -------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_COMPILER_RUNPASSES_H
#define HEED_LIB_COMPILER_RUNPASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Support/Error.h"

namespace heed {

/// Runs the passes that `build` adds. What goes wrong is said by diagnostics of the context.
inline llvm::Error runPasses(mlir::ModuleOp module,
                             llvm::function_ref<void(mlir::OpPassManager &)> build) {
  mlir::PassManager pm(module.getContext());
  build(pm);
  if (mlir::failed(pm.run(module)))
    return llvm::createStringError("compilation failed");
  return llvm::Error::success();
}

} // namespace heed

#endif // HEED_LIB_COMPILER_RUNPASSES_H
