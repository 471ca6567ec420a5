//===-- Passes.td - Conversions between Heed's levels -----*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_CONVERSION_PASSES
#define HEED_CONVERSION_PASSES

include "mlir/Pass/PassBase.td"

def AttnToTilePass : Pass<"attn-to-tile", "::mlir::ModuleOp"> {
  let summary = "writes attention kernels as algorithms on tiles";
  let description = [{
    Replaces each function that consists of an `attn.forward` by a `tile.kernel`: FlashAttention's forward pass with
    online softmax over blocks of keys. The mask becomes three things: bounds of the loop in closed form, the class of
    each block in them (skipped, partial, full), and the mask itself, which only partial blocks evaluate.

    ```mlir
    func.func @f(%q, %k, %v, %scale) { %o, %lse, %max = attn.forward @causal(%q, %k, %v) ... }
    ```
    becomes, with block_q = 64 and block_kv = 128,
    ```mlir
    tile.kernel @f("query" %q, ...) parallel (%b, %h, %t) {
      %lo, %hi = bounds of the keys that queries [64 t, 64 t + 64) may attend to
      %r:3 = tile.for_kv %kv, %partial = %lo to %hi step 128 classify { ... } iter_args(...) {
        tile.dot, tile.map (score), tile.mask, tile.online_softmax, tile.scale_rows, tile.dot
      }
      tile.normalize, tile.store
    }
    ```
  }];
  let options = [
    Option<"blockQ", "block-q", "int64_t", "64", "Queries of a tile">,
    Option<"blockKv", "block-kv", "int64_t", "128", "Keys of a tile">,
    Option<"narrowWeights", "narrow-weights", "bool", "false", "Round softmax weights to the element type of values for the second product">,
    Option<"divideAddends", "divide-addends", "bool", "true", "Leave the scale to the softmax where a score stage only adds, and divide what it adds by it, where that cannot overflow">,
    Option<"blockLists", "block-lists", "bool", "false", "Decide whether a mask's blocks come from lists, and emit what makes them, as attn-to-classifier does">,
    Option<"walk", "walk", "std::string", "\"\"", "Where a mask's blocks come from: bounds or lists. Else, with block-lists, from lists where the mask reads tensors along queries or keys or takes remainders">
  ];
  let dependentDialects = ["::heed::tile::TileDialect", "::mlir::arith::ArithDialect", "::mlir::func::FuncDialect", "::mlir::math::MathDialect",
                           "::mlir::scf::SCFDialect"];
}

def AttnToClassifierPass : Pass<"attn-to-classifier", "::mlir::ModuleOp"> {
  let summary = "writes masks as functions that classify boxes of queries and keys";
  let description = [{
    Replaces each function of an `attn.forward` by two functions of its mask: the class of a box [q0, q1) x [k0, k1) of
    one batch and head, by intervals (see `heed/Analysis/BlockClasses.h`), and the mask itself, of a pair. Block lists are
    made of both: the first decides boxes of any size, the second what it leaves.

    ```mlir
    func.func @f_classify(captures..., %b, %h, %q0, %q1, %k0, %k1 : index) -> i32
    func.func @f_attends(captures..., %b, %h, %q, %kv : i32) -> i1
    ```
    The attribute `heed.box` of both holds the head dims, and whether the mask depends on batch and head.
  }];
  let dependentDialects = ["::heed::tile::TileDialect", "::mlir::arith::ArithDialect", "::mlir::func::FuncDialect",
                           "::mlir::scf::SCFDialect"];
}

#endif // HEED_CONVERSION_PASSES
