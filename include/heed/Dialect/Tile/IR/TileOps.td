//===-- TileOps.td - Operations of the tile dialect ----------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_TILE_IR_TILEOPS
#define HEED_DIALECT_TILE_IR_TILEOPS

include "heed/Dialect/Tile/IR/TileDialect.td"
include "heed/Dialect/Tile/IR/TileTypes.td"
include "heed/Dialect/Attn/IR/AttnTypes.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

//===----------------------------------------------------------------------===//
// Structure
//===----------------------------------------------------------------------===//

defvar Tile_NamesArguments = DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmBlockArgumentNames"]>;

def Tile_KernelOp : Tile_Op<"kernel", [Symbol, IsolatedFromAbove, SingleBlock, Tile_NamesArguments]> {
  let summary = "a kernel: one instance computes one tile of the grid";
  let description = [{
    The arguments are the kernel's tensors and scalars, then three grid coordinates of type `index`: batch, query head
    and query tile. `arg_names` names the arguments before the grid coordinates; the first seven are always query, key,
    value, output, lse, max_scores and scale, as in the run-time ABI. Instances are independent of each other.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrArrayAttr:$arg_names);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::llvm::StringRef":$name, "::llvm::ArrayRef<::mlir::Type>":$types, "::llvm::ArrayRef<std::string>":$names)>];
  let extraClassDeclaration = [{
    ::mlir::Block *getBodyBlock() { return &getBody().front(); }
    /// Tensors and scalars, without the grid coordinates.
    ::mlir::Block::BlockArgListType getKernelArguments() { return getBodyBlock()->getArguments().drop_back(3); }
    ::mlir::Value getBatch() { return *(getBodyBlock()->args_end() - 3); }
    ::mlir::Value getHead() { return *(getBodyBlock()->args_end() - 2); }
    ::mlir::Value getQueryTile() { return *(getBodyBlock()->args_end() - 1); }
  }];
}

def Tile_ReturnOp : Tile_Op<"return", [Terminator, HasParent<"KernelOp">]> {
  let summary = "ends a kernel";
  let assemblyFormat = "attr-dict";
}

def Tile_YieldOp : Tile_Op<"yield", [Pure, Terminator, ReturnLike, ParentOneOf<["AlongKeysOp", "ForKVOp", "MapOp", "MaskOp"]>]> {
  let summary = "ends a region with its values";
  let arguments = (ins Variadic<AnyType>:$operands);
  let assemblyFormat = "attr-dict ($operands^ `:` type($operands))?";
}

def Tile_ForKVOp : Tile_Op<"for_kv", [RecursiveMemoryEffects, Tile_NamesArguments]> {
  let summary = "a loop over blocks of keys that leaves out skipped ones";
  let description = [{
    Walks the blocks [kv, min(kv + step, upper)) with kv from `lower` below `upper`; `lower` is a multiple of `step`. Blocks
    may be visited in any order that is the same in every run; with `ordered`, in ascending order. The
    `classify` region gets the bounds [kv, end) of a block and yields its class as `i32`: 0 skipped (the body does not
    run), 1 partial, 2 full. Without a `classify` region every block is full. The body gets the block's first key,
    whether the block is partial (`i1`), and the loop-carried values.

    After the step `bounds` or `lists` says how blocks are found, where that has been decided: by the loop itself, from the bounds
    and `classify`; or from lists of a tile's blocks with their classes, which are there when the kernel starts, and which bounds and
    `classify` say how to make.

    ```mlir
    %r:3 = tile.for_kv %kv, %partial = %lo to %hi step 128 classify (%k0, %k1) {
      ...
      tile.yield %class : i32
    } iter_args(%m = %m0, %l = %l0, %acc = %acc0) : (!tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x128xf32>) {
      ...
      tile.yield %m1, %l1, %acc1 : !tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x128xf32>
    }
    ```
  }];
  let arguments = (ins Index:$lower, Index:$upper, I64Attr:$step, UnitAttr:$ordered, OptionalAttr<Tile_BlockWalkAttr>:$walk, Variadic<Tile_TileType>:$inits);
  let results = (outs Variadic<Tile_TileType>:$results);
  let regions = (region AnyRegion:$classify, SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::mlir::Value":$lower, "::mlir::Value":$upper, "int64_t":$step, "::mlir::ValueRange":$inits)>];
  let extraClassDeclaration = [{
    ::mlir::Block *getBodyBlock() { return &getBody().front(); }
    ::mlir::BlockArgument getBlockStart() { return getBodyBlock()->getArgument(0); }
    ::mlir::BlockArgument getIsPartial() { return getBodyBlock()->getArgument(1); }
    ::mlir::Block::BlockArgListType getIterArgs() { return getBodyBlock()->getArguments().drop_front(2); }
    bool walksLists() { return getWalk() == BlockWalk::Lists; }
    /// The block of the classify region, created with its two arguments where it is missing.
    ::mlir::Block *getOrCreateClassifyBlock();
  }];
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

def Tile_LoadOp : Tile_Op<"load", [Pure]> {
  let summary = "reads rows of a tensor as a tile; zero beyond its end";
  let description = [{
    Reads rows [row, row + rows of the tile) of `tensor[batch, head]`. Rows beyond the tensor's extent are zero and touch
    no memory. Tensors that are read do not change while the kernel runs, so the op is pure.
  }];
  let arguments = (ins Attn_TensorType:$tensor, Index:$batch, Index:$head, Index:$row);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$tensor `[` $batch `,` $head `,` $row `]` attr-dict `:` qualified(type($tensor)) `->` qualified(type($result))";
  let hasVerifier = 1;
}

def Tile_StoreOp : Tile_Op<"store", [MemoryEffects<[MemWrite]>]> {
  let summary = "writes a tile to rows of a tensor";
  let description = [{
    Writes to rows [row, row + rows of the tile) of `tensor[batch, head]`, rounding to its element type; rows beyond the
    tensor's extent are not written. A store to a tensor that the caller left out (lse, max_scores) does nothing.
  }];
  let arguments = (ins Tile_TileType:$tile, Attn_TensorType:$tensor, Index:$batch, Index:$head, Index:$row);
  let assemblyFormat = "$tile `,` $tensor `[` $batch `,` $head `,` $row `]` attr-dict `:` qualified(type($tile)) `,` qualified(type($tensor))";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

def Tile_FillOp : Tile_Op<"fill", [Pure]> {
  let summary = "a tile of one number";
  let arguments = (ins F32Attr:$value);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$value attr-dict `->` qualified(type($result))";
}

def Tile_ScaleOp : Tile_Op<"scale", [Pure, AllTypesMatch<["tile", "result"]>]> {
  let summary = "multiplies a tile by a number, rounding to the tile's element type";
  let arguments = (ins Tile_TileType:$tile, F32:$factor);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$tile `by` $factor attr-dict `:` qualified(type($tile))";
}

def Tile_ScaleRowsOp : Tile_Op<"scale_rows", [Pure, AllTypesMatch<["tile", "result"]>]> {
  let summary = "multiplies each row of a tile by a number";
  let arguments = (ins Tile_TileType:$tile, Tile_TileType:$factors);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$tile `by` $factors attr-dict `:` qualified(type($tile)) `,` qualified(type($factors))";
  let hasVerifier = 1;
}

def Tile_DotOp : Tile_Op<"dot", [Pure]> {
  let summary = "a matrix product with f32 accumulation";
  let description = [{
    `lhs` (M x K, or K x M with `transpose_lhs`) times `rhs` (K x N, or N x K with `transpose_rhs`), plus `acc` where given. With a bf16 or f16 `lhs` and
    `rhs` products are exact and sums are f32.
  }];
  let arguments = (ins Tile_TileType:$lhs, Tile_TileType:$rhs, Optional<Tile_TileType>:$acc,
                       UnitAttr:$transpose_lhs, UnitAttr:$transpose_rhs);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = [{
    $lhs (`transpose_lhs` $transpose_lhs^)? `,` $rhs (`transpose_rhs` $transpose_rhs^)? (`acc` $acc^ `:` qualified(type($acc)))? attr-dict `:` qualified(type($lhs)) `,` qualified(type($rhs)) `->` qualified(type($result))
  }];
  let hasVerifier = 1;
}

def Tile_LoadElementsOp : Tile_Op<"load_elements", [Pure]> {
  let summary = "reads the elements of a captured tensor that belong to a block of scores";
  let description = [{
    Reads `tensor[indices..., row + i, column + j]` for element (i, j) of the tile: rows are the tensor's last dimension but
    one, columns its last. Elements outside the tensor are zero and touch no memory, as with `attn.load`.

    ```mlir
    %bias = tile.load_elements %captured[%head] at (%row, %column) : !attn.tensor<[Hq, Sq, Skv], bf16> -> !tile.tile<64x128xbf16>
    ```
  }];
  let arguments = (ins Attn_TensorType:$tensor, Variadic<I32>:$indices, Index:$row, Index:$column);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$tensor `[` $indices `]` `at` ` ` `(` $row `,` $column `)` attr-dict `:` qualified(type($tensor)) `->` qualified(type($result))";
  let hasVerifier = 1;
}

def Tile_AlongKeysOp : Tile_Op<"along_keys", [Pure, SingleBlock, Tile_NamesArguments]> {
  let summary = "numbers that belong to the keys of a block";
  let description = [{
    Evaluates the region once for each key of a block: it gets the key's index (`i32`), which is `column` plus its place, and
    yields a number for each result, a tile of rank 1. What `tile.map` and `tile.mask` compute from the key alone, and would
    compute again for each query, is computed here once. With `partial`, results are needed in partial blocks only, and
    have no meaning in others.

    ```mlir
    %ids = tile.along_keys %kv partial %partial -> !tile.tile<128xi32> (%key) {
      %id = attn.load %doc[%b, %key] : !attn.tensor<[B, Skv], i32>
      tile.yield %id : i32
    }
    ```
  }];
  let arguments = (ins Index:$column, Optional<I1>:$partial);
  let results = (outs Variadic<Tile_TileType>:$results);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = "::mlir::Block *getBodyBlock() { return &getBody().front(); }";
}

def Tile_MapOp : Tile_Op<"map", [Pure, AllTypesMatch<["tile", "result"]>, SingleBlock, Tile_NamesArguments]> {
  let summary = "changes each element by a function of its value and place";
  let description = [{
    Applies the region to each element: it gets the element (`f32`), its query index and its key index (`i32`), which are
    `row` and `column` plus the element's place in the tile, and yields the new element. The region may use scalars
    from outside. It is evaluated for padded rows and columns as well.

    Behind these the region gets an element of each tile of `beside`: of a tile of rank 2 the one at the same place, of a
    tile of rank 1 that of the key. 16-bit floats arrive as `f32`, `i8` as `i32`.
  }];
  let arguments = (ins Tile_TileType:$tile, Index:$row, Index:$column, Variadic<Tile_TileType>:$beside);
  let results = (outs Tile_TileType:$result);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::Block *getBodyBlock() { return &getBody().front(); }
    ::mlir::Value getScore() { return getBodyBlock()->getArgument(0); }
    ::mlir::Value getQuery() { return getBodyBlock()->getArgument(1); }
    ::mlir::Value getKey() { return getBodyBlock()->getArgument(2); }
    ::mlir::Block::BlockArgListType getBesideArguments() { return getBodyBlock()->getArguments().drop_front(3); }
  }];
}

def Tile_MaskOp : Tile_Op<"mask", [Pure, AllTypesMatch<["tile", "result"]>, AttrSizedOperandSegments, Tile_NamesArguments]> {
  let summary = "sets elements to -inf that do not attend";
  let description = [{
    Elements whose key index is at or beyond `limit` become -inf. Where the block is `partial` the region, which gets the
    query and key index (`i32`) and an element of each tile of `beside` as in `tile.map`, says which of the others stay.
    Without a region only the limit counts.
  }];
  let arguments = (ins Tile_TileType:$tile, Index:$row, Index:$column, Index:$limit, Optional<I1>:$partial,
                       Variadic<Tile_TileType>:$beside);
  let results = (outs Tile_TileType:$result);
  let regions = (region AnyRegion:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let extraClassDeclaration = [{
    /// Null without a region; then there is none of the following either.
    ::mlir::Block *getBodyBlock() { return getBody().empty() ? nullptr : &getBody().front(); }
    ::mlir::Value getQuery() { return getBodyBlock()->getArgument(0); }
    ::mlir::Value getKey() { return getBodyBlock()->getArgument(1); }
    ::mlir::Block::BlockArgListType getBesideArguments() { return getBodyBlock()->getArguments().drop_front(2); }
  }];
}

def Tile_OnlineSoftmaxOp : Tile_Op<"online_softmax", [Pure, AllTypesMatch<["reference", "sum", "new_reference", "new_sum", "rescale"]>]> {
  let summary = "one step of the rescaled softmax over a block of keys";
  let description = [{
    The rescaled softmax of Milakov and Gimelshein (2018) in the base-2 form of FlashAttention-2. r is the row's reference,
    which stands for the maximum of its raw scores so far, and l the running row sum:

        r' = max(r, rowmax(s))        p = 2^(factor (s - r'))
        rescale = 2^(factor (r - r')) l' = rescale l + rowsum(p)

    A lowering may keep a reference that differs from the maximum by a bounded amount (lazy rescaling): only the
    reference, the sum and the accumulators that are scaled along have a meaning, and only together. A kernel that wants
    the maximum itself computes it apart.

    `factor` is positive and finite. A score of -inf gives p = 0 also where the reference is still at its start, so rows
    without any key keep l = 0. Steps over disjoint blocks may be taken in any order.
  }];
  let arguments = (ins Tile_TileType:$scores, Tile_TileType:$reference, Tile_TileType:$sum, F32:$factor);
  let results = (outs Tile_TileType:$weights, Tile_TileType:$new_reference, Tile_TileType:$new_sum, Tile_TileType:$rescale);
  let assemblyFormat = [{
    $scores `,` $reference `,` $sum `factor` $factor attr-dict `:` qualified(type($scores)) `,` qualified(type($reference)) `->` qualified(type($weights))
  }];
  let hasVerifier = 1;
}

def Tile_NormalizeOp : Tile_Op<"normalize", [Pure, AllTypesMatch<["acc", "output"]>, AllTypesMatch<["reference", "sum", "lse", "max_scores"]>]> {
  let summary = "ends an online softmax: output rows, their log-sum-exp and their largest score";
  let description = [{
    output = acc / sum by rows, lse = ln(2) (factor reference + log2(sum)) and max_scores = ln(2) factor m, where m is the
    row's largest score, which lowerings keep beside the reference. Rows whose sum is 0 get output 0, lse and max_scores -inf.
  }];
  let arguments = (ins Tile_TileType:$acc, Tile_TileType:$reference, Tile_TileType:$sum, F32:$factor);
  let results = (outs Tile_TileType:$output, Tile_TileType:$lse, Tile_TileType:$max_scores);
  let assemblyFormat = "$acc `,` $reference `,` $sum `factor` $factor attr-dict `:` qualified(type($acc)) `,` qualified(type($reference))";
  let hasVerifier = 1;
}

#endif // HEED_DIALECT_TILE_IR_TILEOPS
