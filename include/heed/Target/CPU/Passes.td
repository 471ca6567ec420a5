//===-- Passes.td - Passes of the CPU target --------------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_CPU_PASSES
#define HEED_TARGET_CPU_PASSES

include "mlir/Pass/PassBase.td"

def TileSelectCPUSchedulePass : Pass<"tile-select-cpu-schedule", "::heed::tile::KernelOp"> {
  let summary = "chooses how kernels run on a CPU level";
  let description = [{
    Sets `tile.schedule` of a kernel that has none to a `#tile.cpu_schedule` for the target:

    ```mlir
    tile.kernel @f(...) parallel (...) attributes {tile.schedule = #tile.cpu_schedule<target = "x86-64-v3", lanes = 8, ...>}
    ```
  }];
  let options = [Option<"targetName", "target", "std::string", "\"native\"", "A CPU level, as heedc --list-targets names it">];
}

def TileToCPUPass : Pass<"tile-to-cpu", "::mlir::ModuleOp"> {
  let summary = "lowers kernels with a CPU schedule to vector code";
  let description = [{
    Replaces each `tile.kernel @f` by functions on `arith`, `math`, `scf`, `vector` and `llvm` ops with the signatures of
    heed-c/Runtime.h: `@f_tile` computes one tile of queries, `@f_cost` counts its blocks, and `@f_prepare`, where the
    schedule packs values, fills the packed workspace. `@f_tile` carries the sizes that the runtime must know in its
    attribute `heed.code`.

    ```mlir
    func.func @f_tile(%args: !llvm.ptr, %batch: i64, %head: i64, %q_tile: i64, %scratch: !llvm.ptr)
    ```

    The functions `@f_classify` and `@f_attends` of attn-to-classifier become `@f_classify` and `@f_count`, of a box:

    ```mlir
    func.func @f_count(%args: !llvm.ptr, %batch: i64, %head: i64, %q0: i64, %q1: i64, %k0: i64, %k1: i64) -> i64
    ```
  }];
  let options = [Option<"targetName", "target", "std::string", "\"native\"", "A CPU level, as heedc --list-targets names it, for functions of boxes; kernels have it in their schedule">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::func::FuncDialect", "::mlir::LLVM::LLVMDialect",
                           "::mlir::math::MathDialect", "::mlir::scf::SCFDialect", "::mlir::vector::VectorDialect"];
}

def ExpandMathPass : Pass<"heed-expand-math", "::mlir::ModuleOp"> {
  let summary = "replaces transcendental functions by polynomials";
  let description = [{
    No call into a math library may be left in a kernel: objects link against nothing but libheed_runtime, and a library
    call would undo vectorisation. Uses MLIR's polynomial approximations (relative errors of a few ulp). In a module that
    tile-to-cpu marked `heed.no_fma`, fused multiply-adds become two ops for the same reason.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::vector::VectorDialect"];
}

#endif // HEED_TARGET_CPU_PASSES
