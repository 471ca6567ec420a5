//===-- GPUCode.h - A variant's code for a GPU ------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_COMPILER_GPUCODE_H
#define HEED_LIB_COMPILER_GPUCODE_H

#include "heed/Compiler/Compiler.h"

#include <array>

namespace heed {

/// What becomes a heed_gpu_code (heed-c/Runtime.h).
struct GPUCode {
  GPUTarget target;
  std::string entry, ptx, cubin; // no cubin where ptxas was not found
  int64_t blockQ = 0, blockKv = 0, numThreads = 0, sharedBytes = 0, blocksPerSM = 0,
          blocksPerTile = 1;
  bool needsAligned = false, listsPerBatch = false, listsPerHead = false;
  int64_t classifyThreads = 0; // of the kernel that fills lists; 0: there is none
  int64_t summaryWords = 0;    // of 64 bits a block; 0: there is no kernel that computes them
  int64_t summariseThreads = 0;
  bool summariesPerBatch = false, summariesPerHead = false;
  int64_t minKeys = 0; // calls with fewer take a later code
  std::vector<std::array<int32_t, 3>> maps;
};

/// What becomes a heed_gpu_mask_code.
struct GPUMaskCode {
  struct Kernel {
    std::string entry, ptx, cubin;
  };
  GPUTarget target;
  std::array<Kernel, HEED_NUM_MASK_KERNELS> kernels;
  int64_t warps = 0;
  bool usesBatch = false, usesHead = false;
};

/// Notes the time since the last call under a name.
using NotePhase = llvm::function_ref<void(std::string)>;

/// Compiles one variant for one architecture: code for many keys, code for few where another
/// schedule suits them, then code for arguments that these cannot take. With EmitKind Tile or LLVM
/// writes that IR to `os` instead and returns nothing.
llvm::Expected<std::vector<GPUCode>> compileForGPU(mlir::MLIRContext &context,
                                                   const lang::Variant &variant,
                                                   const CompileOptions &options,
                                                   const GPUTarget &target, EmitKind kind,
                                                   llvm::raw_ostream &os, NotePhase note);

/// A code of a kernel as it is planned: without PTX.
struct GPUPlan {
  tile::GPUScheduleAttr schedule;
  GPUCode code;
};

/// What compileForGPU would make, in its order.
llvm::Expected<std::vector<GPUPlan>> planForGPU(mlir::MLIRContext &context,
                                                const lang::Variant &variant,
                                                const CompileOptions &options,
                                                const GPUTarget &target);

/// Overrides ("groups=3,block_kv=64,stages=4") that give other schedules near the chosen one, for
/// calls of options.gpuSchedule.keys or else of many keys.
llvm::Expected<std::vector<std::string>> alternativesForGPU(mlir::MLIRContext &context,
                                                            const lang::Variant &variant,
                                                            const CompileOptions &options,
                                                            const GPUTarget &target);

/// Compiles what makes block lists of a variant's mask for one architecture.
llvm::Expected<GPUMaskCode> compileMaskForGPU(mlir::MLIRContext &context,
                                              const lang::Variant &variant,
                                              const CompileOptions &options,
                                              const GPUTarget &target, NotePhase note);

/// Assembles PTX with NVIDIA's ptxas; an empty string where there is none (HEED_PTXAS, PATH,
/// CUDA_HOME, /usr/local/cuda).
llvm::Expected<std::string> assemblePTX(llvm::StringRef ptx, llvm::StringRef target);

} // namespace heed

#endif // HEED_LIB_COMPILER_GPUCODE_H
