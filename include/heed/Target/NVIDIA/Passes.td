//===-- Passes.td - Passes of the NVIDIA target -----------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_NVIDIA_PASSES
#define HEED_TARGET_NVIDIA_PASSES

include "mlir/Pass/PassBase.td"

def SeparateCongruencesPass : Pass<"heed-separate-congruences", "::mlir::ModuleOp"> {
  let summary = "compares remainders of query and key instead of taking that of their distance";
  let description = [{
    `(q - kv) mod m == 0`, or with the distance's magnitude, becomes `q mod m == kv mod m`: of which one is computed once a
    query and the other once a key, where the first takes a division for each pair. In stages of `attn.variant`, and in
    `tile.map` and `tile.mask`. Classes of blocks are to be found before: of the distance's remainder intervals say more.

    ```mlir
    %0 = arith.subi %q, %kv : i32
    %1 = attn.mod %0, %m : i32
    %2 = arith.cmpi eq, %1, %c0 : i32
    // becomes
    %1 = attn.mod %q, %m : i32
    %2 = attn.mod %kv, %m : i32
    %3 = arith.cmpi eq, %1, %2 : i32
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

def TileSelectGPUSchedulePass : Pass<"tile-select-gpu-schedule", "::heed::tile::KernelOp"> {
  let summary = "chooses how kernels run on an NVIDIA architecture";
  let description = [{
    Sets `tile.schedule` of a kernel that has none to a `#tile.gpu_schedule` for the target. Its block_kv must be that of
    the kernel's loop.

    ```mlir
    tile.kernel @f(...) parallel (...) attributes {tile.schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, ...>}
    ```
  }];
  let options = [
    Option<"targetName", "target", "std::string", "\"sm_90a\"", "An architecture, as heedc --list-targets names it">,
    Option<"overrides", "overrides", "std::string", "\"\"", "Decisions instead of the model's: block_kv=N,groups=N,stages=N,...">];
}

def TileFoldMagnitudesPass : Pass<"tile-fold-magnitudes", "::heed::tile::KernelOp"> {
  let summary = "compares the magnitude of a distance by one unsigned comparison";
  let description = [{
    In a `tile.mask`, `|a - b| <= c` with `a` of the query, `b` of the key and a uniform `c` becomes `(a + c) - b < 2 c + 1`
    without signs, of which `a + c` is computed once a query; so do `<`, `>` and `>=`. That is the same for every difference
    but -2^31, which there is not where neither side is negative. Where this is up to the launch, the region chooses by a
    uniform condition between what it was and what it becomes: a lowering branches once a block.

    ```mlir
    %d = arith.subi %x, %y : i32   // x = q mod w, y = kv mod w
    %n = arith.subi %c0, %d : i32
    %s = arith.cmpi slt, %d, %c0 : i32
    %m = arith.select %s, %n, %d : i32
    %k = arith.cmpi sle, %m, %c : i32
    // becomes
    %a = arith.addi %x, %c : i32
    %d = arith.subi %a, %y : i32
    %k = arith.cmpi ult, %d, %n : i32   // n = 2 c + 1, or 0 for a negative c
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

def TileHoistElementsPass : Pass<"tile-hoist-elements", "::heed::tile::KernelOp"> {
  let summary = "takes out of element regions what is not computed for each score";
  let description = [{
    Values that `tile.map` and `tile.mask` compute from the key alone by gathers, divisions or functions become
    `tile.along_keys` in front of them: once a key instead of once a key and thread. Gathers `captured[..., q, kv]`, with
    other indices that are the same for a whole block, become `tile.load_elements`, for the copy engine.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

def TileToNVIDIAPass : Pass<"tile-to-nvidia", "::mlir::ModuleOp"> {
  let summary = "lowers kernels with a GPU schedule to code for threads";
  let description = [{
    Replaces each `tile.kernel @f` by an `llvm.func @f` that is an NVPTX kernel, on `arith`, `math`, `scf` and `llvm` ops,
    and where blocks of keys come from lists, by `@f_classify` that fills them. Arguments are those of
    heed-c/Runtime.h: the tensor maps, then the argument block. `@f` carries what the runtime must know in its attribute
    `heed.gpu_code`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect",
                           "::mlir::math::MathDialect", "::mlir::scf::SCFDialect"];
}

def ClassifierToNVIDIAPass : Pass<"classifier-to-nvidia", "::mlir::ModuleOp"> {
  let summary = "lowers masks to kernels that make block lists";
  let description = [{
    Replaces the functions `@f_classify` and `@f_attends` of attn-to-classifier by NVPTX kernels of one warp
    a piece of work: `@f_classify` finds the class of every block by intervals, `@f_settle` looks at the pairs of those that
    are left open, `@f_list` writes counts and indices, `@f_fill` reads them. Their argument blocks are those of heed-c/Runtime.h
    (`HEED_MASK_ARG_*`). `@f_classify` carries what the runtime must know in its attribute `heed.gpu_mask_code`.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::LLVM::LLVMDialect", "::mlir::NVVM::NVVMDialect",
                           "::mlir::math::MathDialect", "::mlir::scf::SCFDialect"];
}

def NVIDIAMathPass : Pass<"heed-nvidia-math", "::mlir::ModuleOp"> {
  let summary = "maps mathematical functions to instructions";
  let description = [{
    exp, exp2, log, log2, tanh, sqrt, rsqrt, sin and cos become the instructions of the special function unit (relative
    errors of 2^-22 to 2^-21; tanh 2^-11; sin and cos 2^-20 absolute after an argument reduction that is good up to 10^5),
    and divisions approximate ones (2 ulp). With `strict` they become polynomials and
    exact divisions like everything else here: MLIR's approximations, of a few ulp. No call into a library is left.
  }];
  let options = [Option<"strict", "strict", "bool", "false", "No approximate instructions">];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::LLVM::LLVMDialect", "::mlir::math::MathDialect",
                           "::mlir::vector::VectorDialect"];
}

#endif // HEED_TARGET_NVIDIA_PASSES
