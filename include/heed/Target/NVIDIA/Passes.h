//===-- Passes.h - Passes of the NVIDIA target -----------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_NVIDIA_PASSES_H
#define HEED_TARGET_NVIDIA_PASSES_H

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/Pass/Pass.h"

namespace heed {

#define GEN_PASS_DECL
#include "heed/Target/NVIDIA/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "heed/Target/NVIDIA/Passes.h.inc"

/// What follows tile-to-nvidia: math becomes instructions and everything the llvm dialect.
void buildNVIDIAToLLVMPipeline(mlir::OpPassManager &pm, bool strictMath = false);

/// Registers it as "nvidia-to-llvm".
void registerNVIDIAPipelines();

} // namespace heed

#endif // HEED_TARGET_NVIDIA_PASSES_H
