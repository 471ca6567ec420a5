//===-- TileOps.cpp - Syntax and verifiers of the tile ops ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Tile/IR/Tile.h"

#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace heed;
using namespace heed::tile;

//===----------------------------------------------------------------------===//
// tile.kernel
//===----------------------------------------------------------------------===//

static constexpr unsigned kNumGridCoordinates = 3;
static constexpr llvm::StringLiteral kLeadingArguments[] = {
    "query", "key", "value", "output", "lse", "max_scores", "scale"};

void KernelOp::build(OpBuilder &builder, OperationState &state, StringRef name,
                     ArrayRef<Type> types, ArrayRef<std::string> names) {
  state.addAttribute(SymbolTable::getSymbolAttrName(), builder.getStringAttr(name));
  SmallVector<StringRef> refs(names.begin(), names.end());
  state.addAttribute(getArgNamesAttrName(state.name), builder.getStrArrayAttr(refs));
  Block &block = state.addRegion()->emplaceBlock();
  for (Type type : types)
    block.addArgument(type, state.location);
  for (unsigned i = 0; i < kNumGridCoordinates; ++i)
    block.addArgument(builder.getIndexType(), state.location);
}

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  StringAttr name;
  SmallVector<OpAsmParser::Argument> arguments, grid;
  SmallVector<Attribute> names;
  auto parseArgument = [&]() -> ParseResult {
    std::string argName;
    if (parser.parseString(&argName) ||
        parser.parseArgument(arguments.emplace_back(), /*allowType=*/true))
      return failure();
    names.push_back(parser.getBuilder().getStringAttr(argName));
    return success();
  };
  if (parser.parseSymbolName(name, SymbolTable::getSymbolAttrName(), result.attributes) ||
      parser.parseCommaSeparatedList(AsmParser::Delimiter::Paren, parseArgument) ||
      parser.parseKeyword("parallel"))
    return failure();
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseArgumentList(grid, OpAsmParser::Delimiter::Paren) ||
      parser.parseOptionalAttrDictWithKeyword(result.attributes))
    return failure();
  if (grid.size() != kNumGridCoordinates)
    return parser.emitError(loc, "expected the grid coordinates batch, head and query tile");
  for (OpAsmParser::Argument &coordinate : grid)
    coordinate.type = parser.getBuilder().getIndexType();
  arguments.append(grid);
  result.addAttribute(getArgNamesAttrName(result.name), parser.getBuilder().getArrayAttr(names));
  return parser.parseRegion(*result.addRegion(), arguments);
}

void KernelOp::print(OpAsmPrinter &printer) {
  printer << ' ';
  printer.printSymbolName(getSymName());
  printer << '(';
  llvm::interleaveComma(llvm::zip(getArgNames(), getKernelArguments()), printer, [&](auto pair) {
    printer << std::get<0>(pair) << ' ' << std::get<1>(pair) << ": " << std::get<1>(pair).getType();
  });
  printer << ") parallel (" << getBatch() << ", " << getHead() << ", " << getQueryTile() << ")";
  printer.printOptionalAttrDictWithKeyword(
      (*this)->getAttrs(), {SymbolTable::getSymbolAttrName(), getArgNamesAttrName()});
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
}

static void nameArguments(Region &region, ArrayRef<StringRef> names, OpAsmSetValueNameFn setName) {
  for (auto [argument, name] : llvm::zip(region.getArguments(), names))
    setName(argument, name);
}

void KernelOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  SmallVector<StringRef> names(getArgNames().getAsValueRange<StringAttr>());
  names.append({"b", "h", "q_tile"});
  nameArguments(region, names, setName);
}

LogicalResult KernelOp::verify() {
  Block &block = *getBodyBlock();
  size_t numArguments = getArgNames().size();
  if (block.getNumArguments() != numArguments + kNumGridCoordinates)
    return emitOpError("expects an argument for each of its ")
           << numArguments << " names and three grid coordinates, found "
           << block.getNumArguments();
  for (unsigned i = 0; i < kNumGridCoordinates; ++i)
    if (!block.getArgument(numArguments + i).getType().isIndex())
      return emitOpError("expects grid coordinates of type index");
  if (numArguments < std::size(kLeadingArguments))
    return emitOpError(
        "expects the arguments query, key, value, output, lse, max_scores and scale first");
  for (auto [index, name] : llvm::enumerate(kLeadingArguments)) {
    if (cast<StringAttr>(getArgNames()[index]).getValue() != name)
      return emitOpError("expects argument ") << index << " to be '" << name << "'";
    Type type = block.getArgument(index).getType();
    bool isScale = name == "scale";
    if (isScale ? !type.isF32() : !isa<attn::TensorType>(type))
      return emitOpError("expects argument '")
             << name << "' to be " << (isScale ? "f32" : "!attn.tensor") << ", found " << type;
  }
  if (!isa<ReturnOp>(block.getTerminator()))
    return emitOpError("expects to end with tile.return");
  return success();
}

//===----------------------------------------------------------------------===//
// tile.for_kv
//===----------------------------------------------------------------------===//

void ForKVOp::build(OpBuilder &builder, OperationState &state, Value lower, Value upper,
                    int64_t step, ValueRange inits) {
  state.addOperands({lower, upper});
  state.addOperands(inits);
  state.addAttribute(getStepAttrName(state.name), builder.getI64IntegerAttr(step));
  state.addTypes(inits.getTypes());
  state.addRegion();
  Block &body = state.addRegion()->emplaceBlock();
  body.addArgument(builder.getIndexType(), state.location);
  body.addArgument(builder.getI1Type(), state.location);
  for (Type type : inits.getTypes())
    body.addArgument(type, state.location);
}

Block *ForKVOp::getOrCreateClassifyBlock() {
  if (getClassify().empty()) {
    Block &block = getClassify().emplaceBlock();
    Type index = IndexType::get(getContext());
    block.addArguments({index, index}, {getLoc(), getLoc()});
  }
  return &getClassify().front();
}

ParseResult ForKVOp::parse(OpAsmParser &parser, OperationState &result) {
  Builder &builder = parser.getBuilder();
  OpAsmParser::Argument start, partial;
  OpAsmParser::UnresolvedOperand lower, upper;
  int64_t step;
  start.type = builder.getIndexType();
  partial.type = builder.getI1Type();
  if (parser.parseArgument(start) || parser.parseComma() || parser.parseArgument(partial) ||
      parser.parseEqual() || parser.parseOperand(lower) || parser.parseKeyword("to") ||
      parser.parseOperand(upper) || parser.parseKeyword("step") || parser.parseInteger(step))
    return failure();
  result.addAttribute(getStepAttrName(result.name), builder.getI64IntegerAttr(step));
  if (succeeded(parser.parseOptionalKeyword("ordered")))
    result.addAttribute(getOrderedAttrName(result.name), builder.getUnitAttr());
  for (BlockWalk walk : {BlockWalk::Bounds, BlockWalk::Lists})
    if (succeeded(parser.parseOptionalKeyword(stringifyBlockWalk(walk))))
      result.addAttribute(getWalkAttrName(result.name),
                          BlockWalkAttr::get(builder.getContext(), walk));
  if (parser.resolveOperands({lower, upper}, builder.getIndexType(), parser.getCurrentLocation(),
                             result.operands))
    return failure();

  Region *classify = result.addRegion();
  if (succeeded(parser.parseOptionalKeyword("classify"))) {
    SmallVector<OpAsmParser::Argument> bounds;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseArgumentList(bounds, OpAsmParser::Delimiter::Paren))
      return failure();
    if (bounds.size() != 2)
      return parser.emitError(loc, "expected the first key of a block and its end");
    for (OpAsmParser::Argument &bound : bounds)
      bound.type = builder.getIndexType();
    if (parser.parseRegion(*classify, bounds))
      return failure();
  }

  SmallVector<OpAsmParser::Argument> arguments = {start, partial};
  if (succeeded(parser.parseOptionalKeyword("iter_args"))) {
    SmallVector<OpAsmParser::Argument> iterArgs;
    SmallVector<OpAsmParser::UnresolvedOperand> inits;
    SmallVector<Type> types;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseAssignmentList(iterArgs, inits) || parser.parseColon() ||
        parser.parseLParen() || parser.parseTypeList(types) || parser.parseRParen() ||
        parser.resolveOperands(inits, types, loc, result.operands))
      return failure();
    for (auto [argument, type] : llvm::zip(iterArgs, types))
      argument.type = type;
    arguments.append(iterArgs);
    result.addTypes(types);
  }
  return failure(parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
                 parser.parseRegion(*result.addRegion(), arguments));
}

void ForKVOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getBlockStart() << ", " << getIsPartial() << " = " << getLower() << " to "
          << getUpper() << " step " << getStep();
  if (getOrdered())
    printer << " ordered";
  if (getWalk())
    printer << ' ' << stringifyBlockWalk(*getWalk());
  if (!getClassify().empty()) {
    printer << " classify (";
    llvm::interleaveComma(getClassify().getArguments(), printer,
                          [&](BlockArgument arg) { printer.printOperand(arg); });
    printer << ") ";
    printer.printRegion(getClassify(), /*printEntryBlockArgs=*/false);
  }
  if (!getInits().empty()) {
    printer << " iter_args(";
    llvm::interleaveComma(llvm::zip(getIterArgs(), getInits()), printer, [&](auto pair) {
      printer << std::get<0>(pair) << " = " << std::get<1>(pair);
    });
    printer << ") : (" << getInits().getTypes() << ")";
  }
  printer.printOptionalAttrDictWithKeyword(
      (*this)->getAttrs(), {getStepAttrName(), getOrderedAttrName(), getWalkAttrName()});
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false);
}

void ForKVOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  bool isBody = &region == &getBody();
  nameArguments(region, {"kv", isBody ? "partial" : "end"}, setName);
}

LogicalResult ForKVOp::verifyRegions() {
  if (getStep() < 1)
    return emitOpError("expects a step of at least 1, found ") << getStep();
  Block &body = *getBodyBlock();
  TypeRange carried = getInits().getTypes();
  if (body.getNumArguments() != carried.size() + 2 || !getBlockStart().getType().isIndex() ||
      !getIsPartial().getType().isInteger(1) || TypeRange(ValueRange(getIterArgs())) != carried)
    return emitOpError("expects a body with an index, an i1 and the loop-carried tiles");
  if (getResultTypes() != carried || body.getTerminator()->getOperandTypes() != carried)
    return emitOpError("expects initial, yielded and resulting tiles of the same types");
  if (walksLists() && getClassify().empty())
    return emitOpError("expects a classify region, which lists are made by");
  if (!getClassify().empty()) {
    Block &classify = getClassify().front();
    if (classify.getNumArguments() != 2 || !classify.getArgument(0).getType().isIndex() ||
        !classify.getArgument(1).getType().isIndex())
      return emitOpError("expects a classify region with two index arguments");
    Operation *yield = classify.getTerminator();
    if (yield->getNumOperands() != 1 || !yield->getOperand(0).getType().isInteger(32))
      return emitOpError("expects its classify region to yield i32");
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

LogicalResult LoadOp::verify() {
  attn::TensorType tensor = getTensor().getType();
  TileType tile = getResult().getType();
  if (tensor.getRank() != 4 || tile.getRank() != 2 ||
      tensor.getExtents()[3] != tile.getNumColumns() ||
      tensor.getElementType() != tile.getElementType())
    return emitOpError("expects a tile with the last extent and element type of ")
           << tensor << ", found " << tile;
  return success();
}

LogicalResult StoreOp::verify() {
  attn::TensorType tensor = getTensor().getType();
  TileType tile = getTile().getType();
  if (tensor.getRank() != tile.getRank() + 2)
    return emitOpError("expects a tensor of rank ") << tile.getRank() + 2 << ", found " << tensor;
  if (tile.getRank() == 2 && tensor.getExtents()[3] != tile.getNumColumns())
    return emitOpError("expects a tile with the last extent of ") << tensor << ", found " << tile;
  return success();
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

LogicalResult ScaleRowsOp::verify() {
  TileType factors = getFactors().getType();
  if (factors.getRank() != 1 || factors.getNumRows() != getTile().getType().getNumRows())
    return emitOpError("expects one factor for each of ")
           << getTile().getType().getNumRows() << " rows, found " << factors;
  return success();
}

LogicalResult DotOp::verify() {
  TileType lhs = getLhs().getType(), rhs = getRhs().getType(), result = getResult().getType();
  if (lhs.getRank() != 2 || rhs.getRank() != 2 || result.getRank() != 2)
    return emitOpError("expects tiles of rank 2");
  int64_t k = getTransposeRhs() ? rhs.getNumColumns() : rhs.getNumRows();
  int64_t n = getTransposeRhs() ? rhs.getNumRows() : rhs.getNumColumns();
  int64_t m = getTransposeLhs() ? lhs.getNumColumns() : lhs.getNumRows();
  int64_t lhsK = getTransposeLhs() ? lhs.getNumRows() : lhs.getNumColumns();
  if (lhsK != k)
    return emitOpError("expects lhs and rhs to share the contracted extent, found ")
           << lhsK << " and " << k;
  if (result.getNumRows() != m || result.getNumColumns() != n || !result.getElementType().isF32())
    return emitOpError("expects a result of ") << m << " x " << n << " f32, found " << result;
  if (getAcc() && getAcc().getType() != result)
    return emitOpError("expects acc of type ") << result << ", found " << getAcc().getType();
  return success();
}

/// As what an element of a tile arrives in regions.
static Type elementTypeInRegion(Type element) {
  if (isa<FloatType>(element))
    return Float32Type::get(element.getContext());
  return element.isInteger(8) ? IntegerType::get(element.getContext(), 32) : element;
}

/// Verifies the tiles and the region of map or mask: `[f32,] i32, i32` and the elements beside in,
/// one value of `resultType` out.
static LogicalResult verifyElementRegion(Operation *op, Block &block, bool hasElement,
                                         OperandRange beside, Type resultType) {
  auto tile = cast<TileType>(op->getOperand(0).getType());
  if (tile.getRank() != 2 || !tile.getElementType().isF32())
    return op->emitOpError("expects an f32 tile of rank 2, found ") << tile;
  Type i32 = IntegerType::get(op->getContext(), 32);
  SmallVector<Type> types;
  if (hasElement)
    types.push_back(Float32Type::get(op->getContext()));
  types.append(2, i32);
  for (Type type : beside.getTypes()) {
    auto other = cast<TileType>(type);
    if (other.getRank() == 1 ? other.getNumRows() != tile.getNumColumns()
                             : other.getShape() != tile.getShape())
      return op->emitOpError("expects tiles beside ")
             << tile << " to have its shape or one number for each of its columns, found " << type;
    types.push_back(elementTypeInRegion(other.getElementType()));
  }
  if (block.getArgumentTypes() != TypeRange(types))
    return op->emitOpError("expects region arguments of types ") << TypeRange(types);
  Operation *yield = block.getTerminator();
  if (yield->getNumOperands() != 1 || yield->getOperand(0).getType() != resultType)
    return op->emitOpError("expects its region to yield ") << resultType;
  return success();
}

static ParseResult parsePlace(OpAsmParser &parser, OpAsmParser::UnresolvedOperand &row,
                              OpAsmParser::UnresolvedOperand &column) {
  return failure(parser.parseKeyword("at") || parser.parseLParen() || parser.parseOperand(row) ||
                 parser.parseComma() || parser.parseOperand(column) || parser.parseRParen());
}

/// `(%score, %q, %kv, ...) {...}`, where the first `numElements` arguments are f32, then come two
/// i32 and elements of the tiles beside.
static ParseResult parseElementRegion(OpAsmParser &parser, Region &region, size_t numElements,
                                      ArrayRef<Type> beside) {
  SmallVector<OpAsmParser::Argument> arguments;
  if (parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren))
    return failure();
  Builder &builder = parser.getBuilder();
  for (auto [index, argument] : llvm::enumerate(arguments)) {
    size_t place = index - numElements - 2;
    argument.type = index < numElements ? Type(builder.getF32Type()) : builder.getI32Type();
    if (index >= numElements + 2 && place < beside.size())
      if (auto tile = dyn_cast<TileType>(beside[place]))
        argument.type = elementTypeInRegion(tile.getElementType());
  }
  return parser.parseRegion(region, arguments);
}

/// `beside (%x : type, ...)`, or nothing.
static ParseResult parseBeside(OpAsmParser &parser,
                               SmallVectorImpl<OpAsmParser::UnresolvedOperand> &operands,
                               SmallVectorImpl<Type> &types) {
  if (failed(parser.parseOptionalKeyword("beside")))
    return success();
  return parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Paren, [&] {
    return failure(parser.parseOperand(operands.emplace_back()) ||
                   parser.parseColonType(types.emplace_back()));
  });
}

static void printBeside(OpAsmPrinter &printer, OperandRange beside) {
  if (beside.empty())
    return;
  printer << " beside (";
  llvm::interleaveComma(beside, printer, [&](Value v) { printer << v << " : " << v.getType(); });
  printer << ")";
}

static void printElementRegion(OpAsmPrinter &printer, Region &region) {
  printer << " (";
  llvm::interleaveComma(region.getArguments(), printer,
                        [&](BlockArgument arg) { printer.printOperand(arg); });
  printer << ") ";
  printer.printRegion(region, /*printEntryBlockArgs=*/false);
}

ParseResult MapOp::parse(OpAsmParser &parser, OperationState &result) {
  OpAsmParser::UnresolvedOperand tile, row, column;
  SmallVector<OpAsmParser::UnresolvedOperand> beside;
  SmallVector<Type> besideTypes;
  Type type, index = parser.getBuilder().getIndexType();
  if (parser.parseOperand(tile) || parsePlace(parser, row, column) ||
      parseBeside(parser, beside, besideTypes) || parser.parseColonType(type) ||
      parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
      parseElementRegion(parser, *result.addRegion(), /*numElements=*/1, besideTypes) ||
      parser.resolveOperand(tile, type, result.operands) ||
      parser.resolveOperand(row, index, result.operands) ||
      parser.resolveOperand(column, index, result.operands) ||
      parser.resolveOperands(beside, besideTypes, parser.getCurrentLocation(), result.operands))
    return failure();
  result.addTypes(type);
  return success();
}

void MapOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getTile() << " at (" << getRow() << ", " << getColumn() << ")";
  printBeside(printer, getBeside());
  printer << " : " << getTile().getType();
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs());
  printElementRegion(printer, getBody());
}

// Not %kv, as a variant has it: that is a block's first key here.
void MapOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  nameArguments(region, {"s", "q", "k"}, setName);
}

LogicalResult MapOp::verifyRegions() {
  return verifyElementRegion(*this, *getBodyBlock(), true, getBeside(),
                             Float32Type::get(getContext()));
}

ParseResult MaskOp::parse(OpAsmParser &parser, OperationState &result) {
  OpAsmParser::UnresolvedOperand tile, row, column, limit, partial;
  SmallVector<OpAsmParser::UnresolvedOperand> beside;
  SmallVector<Type> besideTypes;
  Builder &builder = parser.getBuilder();
  Type type, index = builder.getIndexType();
  if (parser.parseOperand(tile) || parsePlace(parser, row, column) ||
      parser.parseKeyword("limit") || parser.parseOperand(limit))
    return failure();
  bool hasPartial = succeeded(parser.parseOptionalKeyword("partial"));
  Region *region = result.addRegion();
  if ((hasPartial && parser.parseOperand(partial)) || parseBeside(parser, beside, besideTypes) ||
      parser.parseColonType(type) || parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
      (hasPartial && parseElementRegion(parser, *region, /*numElements=*/0, besideTypes)) ||
      parser.resolveOperand(tile, type, result.operands) ||
      parser.resolveOperands({row, column, limit}, index, parser.getCurrentLocation(),
                             result.operands) ||
      (hasPartial && parser.resolveOperand(partial, builder.getI1Type(), result.operands)) ||
      parser.resolveOperands(beside, besideTypes, parser.getCurrentLocation(), result.operands))
    return failure();
  llvm::copy(ArrayRef<int32_t>({1, 1, 1, 1, hasPartial, int32_t(beside.size())}),
             result.getOrAddProperties<Properties>().operandSegmentSizes.begin());
  result.addTypes(type);
  return success();
}

void MaskOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getTile() << " at (" << getRow() << ", " << getColumn() << ") limit "
          << getLimit();
  if (getPartial())
    printer << " partial " << getPartial();
  printBeside(printer, getBeside());
  printer << " : " << getTile().getType();
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs(), {getOperandSegmentSizesAttrName()});
  if (!getBody().empty())
    printElementRegion(printer, getBody());
}

void MaskOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  nameArguments(region, {"q", "k"}, setName);
}

LogicalResult MaskOp::verifyRegions() {
  if (getBody().empty() != !getPartial())
    return emitOpError("expects a region exactly where it has a partial operand");
  if (getBody().empty())
    return getBeside().empty() ? success()
                               : emitOpError("expects tiles beside only where it has a region");
  return verifyElementRegion(*this, *getBodyBlock(), false, getBeside(),
                             IntegerType::get(getContext(), 1));
}

ParseResult AlongKeysOp::parse(OpAsmParser &parser, OperationState &result) {
  OpAsmParser::UnresolvedOperand column, partial;
  OpAsmParser::Argument key;
  Builder &builder = parser.getBuilder();
  key.type = builder.getI32Type();
  if (parser.parseOperand(column) ||
      parser.resolveOperand(column, builder.getIndexType(), result.operands))
    return failure();
  if (succeeded(parser.parseOptionalKeyword("partial")) &&
      (parser.parseOperand(partial) ||
       parser.resolveOperand(partial, builder.getI1Type(), result.operands)))
    return failure();
  return failure(parser.parseArrowTypeList(result.types) ||
                 parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
                 parser.parseLParen() || parser.parseArgument(key) || parser.parseRParen() ||
                 parser.parseRegion(*result.addRegion(), key));
}

void AlongKeysOp::print(OpAsmPrinter &printer) {
  printer << ' ' << getColumn();
  if (getPartial())
    printer << " partial " << getPartial();
  printer.printArrowTypeList(getResultTypes());
  printer.printOptionalAttrDictWithKeyword((*this)->getAttrs());
  printElementRegion(printer, getBody());
}

void AlongKeysOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  nameArguments(region, {"k"}, setName);
}

LogicalResult AlongKeysOp::verifyRegions() {
  Block &block = *getBodyBlock();
  if (block.getArgumentTypes() != TypeRange(IntegerType::get(getContext(), 32)))
    return emitOpError("expects a region argument of type 'i32'");
  SmallVector<Type> types;
  for (Type type : getResultTypes()) {
    auto tile = cast<TileType>(type);
    if (tile.getRank() != 1 || tile.getShape() != cast<TileType>(getResultTypes()[0]).getShape())
      return emitOpError("expects tiles of rank 1 and one length as results, found ") << type;
    Type element = tile.getElementType();
    if (!element.isInteger(1) && !element.isInteger(32) && !element.isInteger(64) &&
        !element.isF32())
      return emitOpError("expects tiles of i1, i32, i64 or f32 as results, found ") << type;
    types.push_back(element);
  }
  if (block.getTerminator()->getOperandTypes() != TypeRange(types))
    return emitOpError("expects its region to yield ") << TypeRange(types);
  return success();
}

LogicalResult LoadElementsOp::verify() {
  attn::TensorType tensor = getTensor().getType();
  TileType tile = getResult().getType();
  int64_t rank = tensor.getExtents().size();
  if (rank < 2 || int64_t(getIndices().size()) != rank - 2)
    return emitOpError("expects a tensor of at least two dimensions and an index for each before "
                       "the last two, found ")
           << getIndices().size() << " for " << tensor;
  if (tile.getRank() != 2 || tile.getElementType() != tensor.getElementType())
    return emitOpError("expects a tile of rank 2 of the tensor's elements, found ") << tile;
  return success();
}

LogicalResult OnlineSoftmaxOp::verify() {
  TileType scores = getScores().getType(), stats = getReference().getType();
  if (scores.getRank() != 2 || getWeights().getType().getShape() != scores.getShape())
    return emitOpError("expects weights of the shape of the scores ")
           << scores << ", found " << getWeights().getType();
  if (stats.getRank() != 1 || stats.getNumRows() != scores.getNumRows())
    return emitOpError("expects statistics of ") << scores.getNumRows() << " rows, found " << stats;
  return success();
}

LogicalResult NormalizeOp::verify() {
  TileType acc = getAcc().getType(), stats = getReference().getType();
  if (acc.getRank() != 2 || stats.getRank() != 1 || stats.getNumRows() != acc.getNumRows())
    return emitOpError("expects statistics for the rows of ") << acc << ", found " << stats;
  return success();
}

#define GET_OP_CLASSES
#include "heed/Dialect/Tile/IR/TileOps.cpp.inc"
