//===-- KernelTable.h - The heed_kernel of an object -----------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_COMPILER_KERNELTABLE_H
#define HEED_LIB_COMPILER_KERNELTABLE_H

#include "GPUCode.h"

namespace llvm {
class Module;
} // namespace llvm

namespace heed {

/// Collects the code of a kernel for each CPU level and writes the `heed_kernel` that an object
/// exports (heed-c/Runtime.h).
class KernelTable {
public:
  /// Notes the functions that tile-to-cpu made for kernel `name`, before they are lowered further.
  void addCode(mlir::ModuleOp module, llvm::StringRef name, const CPUTarget &target);

  /// Notes the functions that attn-to-classifier and tile-to-cpu made for the mask of kernel
  /// `name`.
  void addMaskCode(mlir::ModuleOp module, llvm::StringRef name, const CPUTarget &target);

  /// Notes code for a GPU architecture.
  void addGPUCode(std::vector<GPUCode> codes);
  void addGPUMaskCode(GPUMaskCode code);

  /// Adds the global `NAME_kernel`, whose entry points are the functions NAME_tile.TARGET and so
  /// on.
  void emit(llvm::Module &module, const lang::Variant &variant, llvm::StringRef name,
            const CompileOptions &options) const;

private:
  struct Code {
    CPUTarget target;
    int64_t blockQ, blockKv, scratchBytes, packedBytesPerBlock;
    bool usesLists;
  };
  std::vector<Code> codes;
  struct MaskCode {
    CPUTarget target;
    bool usesBatch, usesHead;
  };
  std::vector<GPUCode> gpuCodes;
  std::vector<MaskCode> maskCodes;
  std::vector<GPUMaskCode> gpuMaskCodes;
};

} // namespace heed

#endif // HEED_LIB_COMPILER_KERNELTABLE_H
