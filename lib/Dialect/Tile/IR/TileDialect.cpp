//===-- TileDialect.cpp - The tile dialect, its types and attributes ------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace heed::tile;

#include "heed/Dialect/Tile/IR/TileDialect.cpp.inc"
#include "heed/Dialect/Tile/IR/TileEnums.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "heed/Dialect/Tile/IR/TileTypes.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "heed/Dialect/Tile/IR/TileAttrs.cpp.inc"

void TileDialect::initialize() {
  registerTypes();
  registerAttributes();
  addOperations<
#define GET_OP_LIST
#include "heed/Dialect/Tile/IR/TileOps.cpp.inc"
      >();
}

void TileDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "heed/Dialect/Tile/IR/TileTypes.cpp.inc"
      >();
}

void TileDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "heed/Dialect/Tile/IR/TileAttrs.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// !tile.tile
//===----------------------------------------------------------------------===//

Type TileType::parse(AsmParser &parser) {
  SmallVector<int64_t> shape;
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseDimensionList(shape, /*allowDynamic=*/false) ||
      parser.parseType(elementType) || parser.parseGreater())
    return {};
  return parser.getChecked<TileType>(loc, parser.getContext(), shape, elementType);
}

void TileType::print(AsmPrinter &printer) const {
  printer << '<';
  for (int64_t extent : getShape())
    printer << extent << 'x';
  printer << getElementType() << '>';
}

LogicalResult TileType::verify(function_ref<InFlightDiagnostic()> emitError,
                               ArrayRef<int64_t> shape, Type elementType) {
  if (shape.empty() || shape.size() > 2)
    return emitError() << "expects rank 1 or 2, found " << shape.size();
  for (int64_t extent : shape)
    if (extent < 1)
      return emitError() << "expects extents of at least 1, found " << extent;
  if (!elementType.isF32() && !elementType.isF16() && !elementType.isBF16() &&
      !elementType.isSignlessInteger(1) && !elementType.isSignlessInteger(8) &&
      !elementType.isSignlessInteger(32) && !elementType.isSignlessInteger(64))
    return emitError() << "expects element type f16, bf16, f32, i1, i8, i32 or i64, found "
                       << elementType;
  return success();
}

//===----------------------------------------------------------------------===//
// #tile.cpu_schedule
//===----------------------------------------------------------------------===//

LogicalResult CPUScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                      StringRef target, int64_t lanes, int64_t blockQ,
                                      int64_t blockKv, int64_t rows, int64_t vectors, DotKind dot,
                                      int64_t expDegree) {
  if (lanes < 4 || lanes > 16 || !llvm::isPowerOf2_64(lanes))
    return emitError() << "expects 4, 8 or 16 lanes, found " << lanes;
  if (rows < 1 || vectors < 1)
    return emitError() << "expects a register tile of at least 1 x 1, found " << rows << " x "
                       << vectors;
  if (blockQ < 1 || blockQ % (lanes * vectors) != 0)
    return emitError() << "expects block_q to be a multiple of lanes * vectors = "
                       << lanes * vectors << ", found " << blockQ;
  if (blockKv < 32 || blockKv % 32 != 0)
    return emitError() << "expects block_kv to be a multiple of 32, found " << blockKv;
  if (dot == DotKind::AMX && (lanes != 16 || blockQ % 32 != 0))
    return emitError() << "expects 16 lanes and a block_q that 32 divides for amx";
  if (expDegree != 3 && expDegree != 5)
    return emitError() << "expects exp_degree 3 or 5, found " << expDegree;
  return success();
}

LogicalResult GPUScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                      StringRef target, GPUDotKind dot, int64_t groups,
                                      int64_t blockKv, int64_t stages, int64_t blocksPerSM,
                                      bool ownOutput, int64_t lazyRescale, int64_t valueSlices,
                                      int64_t warpInstances, QueryPlace queries) {
  if (groups < 1 || groups > 4)
    return emitError() << "expects 1 to 4 groups, found " << groups;
  if (blockKv < 16 || blockKv > 256 || blockKv % 16 != 0)
    return emitError() << "expects block_kv to be a multiple of 16 up to 256, found " << blockKv;
  if (stages < 1 || stages > 8)
    return emitError() << "expects 1 to 8 stages, found " << stages;
  if (blocksPerSM < 0)
    return emitError() << "expects blocks_per_sm of at least 0, found " << blocksPerSM;
  if (lazyRescale < 0 || lazyRescale > 16)
    return emitError() << "expects lazy_rescale from 0 to 16, found " << lazyRescale;
  if (valueSlices < 1)
    return emitError() << "expects at least one value slice, found " << valueSlices;
  if (warpInstances < 1 || groups % warpInstances != 0)
    return emitError() << "expects warp_instances to divide groups = " << groups << ", found "
                       << warpInstances;
  if (dot == GPUDotKind::WGMMA && (warpInstances != 1 || queries != QueryPlace::Shared))
    return emitError() << "expects warp_instances = 1 and queries = shared for wgmma";
  if (dot == GPUDotKind::MMA && queries == QueryPlace::Global)
    return emitError() << "expects queries = registers or shared for mma";
  return success();
}
