//===-- Tile.h - The tile dialect ------------------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_TILE_IR_TILE_H
#define HEED_DIALECT_TILE_IR_TILE_H

#include "heed/Dialect/Attn/IR/Attn.h"

#include "heed/Dialect/Tile/IR/TileDialect.h.inc"
#include "heed/Dialect/Tile/IR/TileEnums.h.inc"

#define GET_TYPEDEF_CLASSES
#include "heed/Dialect/Tile/IR/TileTypes.h.inc"

#define GET_ATTRDEF_CLASSES
#include "heed/Dialect/Tile/IR/TileAttrs.h.inc"

namespace heed::tile {

/// What the classify region of tile.for_kv yields for a block of keys.
enum class BlockClass : int32_t { Skipped = 0, Partial = 1, Full = 2 };

} // namespace heed::tile

#define GET_OP_CLASSES
#include "heed/Dialect/Tile/IR/TileOps.h.inc"

#endif // HEED_DIALECT_TILE_IR_TILE_H
