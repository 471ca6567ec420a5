//===-- Passes.h - Passes of the CPU target --------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_CPU_PASSES_H
#define HEED_TARGET_CPU_PASSES_H

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Pass/Pass.h"

namespace heed {

#define GEN_PASS_DECL
#include "heed/Target/CPU/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "heed/Target/CPU/Passes.h.inc"

/// What follows tile-to-cpu: expands math and converts everything to the llvm dialect.
void buildCPUToLLVMPipeline(mlir::OpPassManager &pm);

/// Adds the interfaces by which dialects convert themselves to llvm; a context needs them for that
/// pipeline.
void registerCPUInterfaces(mlir::DialectRegistry &registry);

/// Registers it as "cpu-to-llvm".
void registerCPUPipelines();

} // namespace heed

#endif // HEED_TARGET_CPU_PASSES_H
