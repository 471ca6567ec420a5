//===-- TileDialect.td - The tile dialect --------------------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_TILE_IR_TILEDIALECT
#define HEED_DIALECT_TILE_IR_TILEDIALECT

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Tile_Dialect : Dialect {
  let name = "tile";
  let cppNamespace = "::heed::tile";
  let summary = "attention as an algorithm on tiles";
  let description = [{
    The `tile` dialect says HOW a kernel is computed: on tiles with value semantics, over blocks of keys by class. It has
    no target in it: no memory spaces, threads or registers. A target adds a schedule, an attribute of its own on
    `tile.kernel`, and lowers each op by itself; it never restates the algorithm.

    A tile is a value of rank 1 (one number a row) or 2 (rows x columns). Rows are queries and columns are keys or
    head dims, in every op; which of them a target puts into lanes, fragments or shared memory is its own affair.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect", "::heed::attn::AttnDialect"];
  let extraClassDeclaration = [{
    /// The attribute of a tile.kernel that holds its target's schedule.
    static constexpr ::llvm::StringLiteral kScheduleAttr = "tile.schedule";
    void registerTypes();
    void registerAttributes();
  }];
}

class Tile_Op<string mnemonic, list<Trait> traits = []> : Op<Tile_Dialect, mnemonic, traits>;

#endif // HEED_DIALECT_TILE_IR_TILEDIALECT
