//===-- TileTypes.td - Types and attributes of the tile dialect -*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_TILE_IR_TILETYPES
#define HEED_DIALECT_TILE_IR_TILETYPES

include "heed/Dialect/Tile/IR/TileDialect.td"

def Tile_TileType : TypeDef<Tile_Dialect, "Tile"> {
  let mnemonic = "tile";
  let summary = "a tile of numbers with value semantics";
  let description = [{ Example: `!tile.tile<64x128xbf16>`, and `!tile.tile<64xf32>` for one number a row. }];
  let parameters = (ins ArrayRefParameter<"int64_t">:$shape, "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getRank() const { return getShape().size(); }
    int64_t getNumRows() const { return getShape()[0]; }
    int64_t getNumColumns() const { return getShape()[1]; }
  }];
}

def Tile_DotKind : I32EnumAttr<"DotKind", "which instructions compute a dot", [
    I32EnumAttrCase<"FMA", 0, "fma">,
    I32EnumAttrCase<"DPBF16", 1, "dpbf16">,
    I32EnumAttrCase<"AMX", 2, "amx">]> {
  let cppNamespace = "::heed::tile";
  let genSpecializedAttr = 0;
}

def Tile_CPUScheduleAttr : AttrDef<Tile_Dialect, "CPUSchedule"> {
  let mnemonic = "cpu_schedule";
  let summary = "how a kernel's tiles are laid out and computed on a CPU";
  let description = [{
    Queries lie in vector lanes (S^T = K Q^T, O^T = V^T P^T): softmax statistics are vectors and need no horizontal step.

    * `target`: the CPU level that the code is for, for example `x86-64-v3`.
    * `lanes`: f32 elements of a vector register.
    * `block_q`, `block_kv`: queries and keys of a tile; `block_q` is a multiple of `lanes * vectors`.
    * `rows` x `vectors`: the register tile of a dot in accumulators.
    * `dot`: `fma` widens 16-bit operands to f32; `dpbf16` and `amx` multiply bf16 pairs.
    * `exp_degree`: the degree of the polynomial for 2^x on [-1/2, 1/2]: 5 gives 1.8e-7, 3 gives 1.0e-4 relative error.
  }];
  let parameters = (ins StringRefParameter<"CPU level">:$target, "int64_t":$lanes, "int64_t":$block_q, "int64_t":$block_kv,
                        "int64_t":$rows, "int64_t":$vectors, EnumParameter<Tile_DotKind>:$dot, "int64_t":$exp_degree);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

#endif // HEED_DIALECT_TILE_IR_TILETYPES
