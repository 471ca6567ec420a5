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

def Tile_BlockWalk : I32EnumAttr<"BlockWalk", "how a loop finds the blocks of keys that it visits", [
    I32EnumAttrCase<"Bounds", 0, "bounds">,
    I32EnumAttrCase<"Lists", 1, "lists">]> {
  let cppNamespace = "::heed::tile";
  let genSpecializedAttr = 0;
}

def Tile_BlockWalkAttr : EnumAttr<Tile_Dialect, Tile_BlockWalk, "block_walk">;

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
      With AVX-512, a table of 32 powers and degree 2 take the place of degree 5, as accurate.
  }];
  let parameters = (ins StringRefParameter<"CPU level">:$target, "int64_t":$lanes, "int64_t":$block_q, "int64_t":$block_kv,
                        "int64_t":$rows, "int64_t":$vectors, EnumParameter<Tile_DotKind>:$dot, "int64_t":$exp_degree);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

def Tile_GPUDotKind : I32EnumAttr<"GPUDotKind", "which instructions of a GPU compute a dot", [
    I32EnumAttrCase<"WGMMA", 0, "wgmma">,
    I32EnumAttrCase<"MMA", 1, "mma">,
    I32EnumAttrCase<"TF32", 2, "tf32">,
    I32EnumAttrCase<"TF32x3", 3, "tf32x3">]> {
  let cppNamespace = "::heed::tile";
  let genSpecializedAttr = 0;
}

def Tile_QueryPlace : I32EnumAttr<"QueryPlace", "where products read queries from", [
    I32EnumAttrCase<"Registers", 0, "registers">,
    I32EnumAttrCase<"Shared", 1, "shared">,
    I32EnumAttrCase<"Global", 2, "global">]> {
  let cppNamespace = "::heed::tile";
  let genSpecializedAttr = 0;
}

def Tile_GPUScheduleAttr : AttrDef<Tile_Dialect, "GPUSchedule"> {
  let mnemonic = "gpu_schedule";
  let summary = "how a kernel's tiles are laid out and computed on an NVIDIA GPU";
  let description = [{
    An instance of a kernel is 64 queries, computed by four warps. `groups` instances, with neighbouring queries of one
    head, form a thread block and share blocks of keys and values, which lie in rings in shared memory.

    * `target`: the architecture, for example `sm_90a`.
    * `dot`: `wgmma` takes tiles from shared memory (sm_90a); `mma` is the warp's product of 16-bit tiles; `tf32` and
      `tf32x3` are its products of f32, rounded to TF32, or split into two TF32 numbers (relative error about 2^-21).
    * `groups`, `block_kv`, `stages`: the tile and the depth of its rings.
    * `warp_instances`: instances that the same four warps compute; what they read of a block of keys or values serves
      all of them. Divides `groups`; 1 with `wgmma`.
    * `queries`: whether products take queries from `registers`, from `shared` memory, or (with `tf32` and `tf32x3`)
      from `global` memory each time.
    * `blocks_per_sm`: above 0, a grid of that many thread blocks per multiprocessor takes tiles from a counter;
      0: a thread block a tile.
    * `own_output`: the output has a buffer of its own, so that the next tile's queries arrive while it is written.
    * `lazy_rescale`: the reference of the softmax lags by at most this much in base-2 logarithms before accumulators
      are rescaled; 0: it never lags.
    * `value_slices`: thread blocks that share the value head dim of a tile, where one cannot hold it.
  }];
  let parameters = (ins StringRefParameter<"architecture">:$target, EnumParameter<Tile_GPUDotKind>:$dot, "int64_t":$groups,
                        "int64_t":$block_kv, "int64_t":$stages, "int64_t":$blocks_per_sm, "bool":$own_output,
                        "int64_t":$lazy_rescale, "int64_t":$value_slices, "int64_t":$warp_instances,
                        EnumParameter<Tile_QueryPlace>:$queries);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

#endif // HEED_DIALECT_TILE_IR_TILETYPES
