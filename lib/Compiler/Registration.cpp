//===-- Registration.cpp - What Heed's developer tools know ---------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Registration.h"
#include "heed/Conversion/Passes.h"
#include "heed/Dialect/Attn/IR/Attn.h"
#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Target/CPU/Passes.h"
#include "heed/Target/NVIDIA/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Transforms/Passes.h"

void heed::registerAllDialects(mlir::DialectRegistry &registry) {
  registry.insert<attn::AttnDialect, tile::TileDialect, mlir::arith::ArithDialect,
                  mlir::func::FuncDialect, mlir::LLVM::LLVMDialect, mlir::NVVM::NVVMDialect,
                  mlir::math::MathDialect, mlir::scf::SCFDialect, mlir::vector::VectorDialect>();
  registerCPUInterfaces(registry); // without them convert-to-llvm does nothing
}

void heed::registerAllPasses() {
  registerHeedConversionPasses();
  registerHeedCPUPasses();
  registerCPUPipelines();
  registerHeedNVIDIAPasses();
  registerNVIDIAPipelines();
  mlir::registerTransformsPasses();
}
