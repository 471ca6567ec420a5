//===-- AttnOps.cpp - Syntax and verifiers of the attn ops ----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/FunctionImplementation.h"

using namespace mlir;
using namespace heed;
using namespace heed::attn;

/// Names for the coordinates of a stage, in order, for printed IR.
static constexpr llvm::StringLiteral kCoordinateNames[] = {"b", "h", "q", "kv"};

//===----------------------------------------------------------------------===//
// attn.variant
//===----------------------------------------------------------------------===//

void VariantOp::build(OpBuilder &builder, OperationState &state, StringRef name,
                      ArrayRef<Type> captureTypes, ArrayRef<DictionaryAttr> captureAttrs) {
  state.addAttribute(SymbolTable::getSymbolAttrName(), builder.getStringAttr(name));
  SmallVector<Attribute> attrs(captureAttrs.begin(), captureAttrs.end());
  state.addAttribute(getArgAttrsAttrName(state.name), builder.getArrayAttr(attrs));
  Block &block = state.addRegion()->emplaceBlock();
  for (Type type : captureTypes)
    block.addArgument(type, state.location);
}

ParseResult VariantOp::parse(OpAsmParser &parser, OperationState &result) {
  StringAttr name;
  SmallVector<OpAsmParser::Argument> arguments;
  if (parser.parseSymbolName(name, SymbolTable::getSymbolAttrName(), result.attributes) ||
      parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren, /*allowType=*/true,
                               /*allowAttrs=*/true) ||
      parser.parseOptionalAttrDictWithKeyword(result.attributes))
    return failure();
  SmallVector<Attribute> attrs;
  for (OpAsmParser::Argument &argument : arguments)
    attrs.push_back(argument.attrs ? argument.attrs : parser.getBuilder().getDictionaryAttr({}));
  result.addAttribute(getArgAttrsAttrName(result.name), parser.getBuilder().getArrayAttr(attrs));
  Region *body = result.addRegion();
  if (parser.parseRegion(*body, arguments))
    return failure();
  if (body->empty()) {
    Block &block = body->emplaceBlock();
    for (OpAsmParser::Argument &argument : arguments)
      block.addArgument(argument.type, result.location);
  }
  return success();
}

void VariantOp::print(OpAsmPrinter &printer) {
  printer << ' ';
  printer.printSymbolName(getSymName());
  printer << '(';
  llvm::interleaveComma(getCaptures(), printer, [&](BlockArgument capture) {
    DictionaryAttr attrs;
    if (std::optional<ArrayAttr> all = getArgAttrs())
      attrs = cast<DictionaryAttr>((*all)[capture.getArgNumber()]);
    printer.printRegionArgument(capture, attrs ? attrs.getValue() : ArrayRef<NamedAttribute>());
  });
  printer << ')';
  printer.printOptionalAttrDictWithKeyword(
      (*this)->getAttrs(), {SymbolTable::getSymbolAttrName(), getArgAttrsAttrName()});
  printer << ' ';
  printer.printRegion(getBody(), /*printEntryBlockArgs=*/false, /*printBlockTerminators=*/false);
}

void VariantOp::getAsmBlockArgumentNames(Region &, OpAsmSetValueNameFn setName) {
  for (BlockArgument capture : getCaptures())
    setName(capture, getCaptureName(capture.getArgNumber()));
}

std::string VariantOp::getCaptureName(unsigned index) {
  if (std::optional<ArrayAttr> all = getArgAttrs())
    if (auto name = cast<DictionaryAttr>((*all)[index]).getAs<StringAttr>(AttnDialect::kNameAttr))
      return name.str();
  return "arg" + std::to_string(index);
}

TypedAttr VariantOp::getCaptureDefault(unsigned index) {
  if (std::optional<ArrayAttr> all = getArgAttrs())
    return cast<DictionaryAttr>((*all)[index]).getAs<TypedAttr>(AttnDialect::kDefaultAttr);
  return {};
}

static bool isScalarCapture(Type type) {
  return type.isInteger(1) || type.isInteger(32) || type.isInteger(64) || type.isF32();
}

LogicalResult VariantOp::verify() {
  if (std::optional<ArrayAttr> attrs = getArgAttrs();
      attrs && attrs->size() != getCaptures().size())
    return emitOpError("expects attributes for each of its ")
           << getCaptures().size() << " captures, found " << attrs->size();
  for (auto [index, capture] : llvm::enumerate(getCaptures())) {
    if (!isScalarCapture(capture.getType()) && !isa<attn::TensorType>(capture.getType()))
      return emitOpError("expects capture '")
             << getCaptureName(index) << "' to be i1, i32, i64, f32 or !attn.tensor, found "
             << capture.getType();
    if (TypedAttr value = getCaptureDefault(index); value && value.getType() != capture.getType())
      return emitOpError("expects the default of capture '")
             << getCaptureName(index) << "' to be " << capture.getType() << ", found "
             << value.getType();
  }
  llvm::SmallDenseMap<OperationName, Operation *> stages;
  for (Operation &stage : *getBodyBlock()) {
    if (!isa<ScoreOp, MaskOp>(stage))
      return stage.emitOpError("is not a stage of a variant");
    auto [it, isNew] = stages.try_emplace(stage.getName(), &stage);
    if (!isNew) {
      InFlightDiagnostic diag = stage.emitOpError("appears twice in a variant");
      diag.attachNote(it->second->getLoc()) << "the first one is here";
      return diag;
    }
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Stages
//===----------------------------------------------------------------------===//

/// The types of a stage's block arguments: [f32,] i32 x 4.
static SmallVector<Type> stageArgumentTypes(MLIRContext *context, bool hasScore) {
  SmallVector<Type> types;
  if (hasScore)
    types.push_back(Float32Type::get(context));
  types.append(std::size(kCoordinateNames), IntegerType::get(context, 32));
  return types;
}

static void buildStage(OpBuilder &builder, OperationState &state, bool hasScore) {
  Block &block = state.addRegion()->emplaceBlock();
  for (Type type : stageArgumentTypes(builder.getContext(), hasScore))
    block.addArgument(type, state.location);
}

static ParseResult parseStage(OpAsmParser &parser, OperationState &result, bool hasScore) {
  SmallVector<OpAsmParser::Argument> arguments;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseArgumentList(arguments, OpAsmParser::Delimiter::Paren))
    return failure();
  SmallVector<Type> types = stageArgumentTypes(parser.getContext(), hasScore);
  if (arguments.size() != types.size())
    return parser.emitError(loc, "expected ")
           << types.size() << " arguments, found " << arguments.size();
  for (auto [argument, type] : llvm::zip(arguments, types))
    argument.type = type;
  return failure(parser.parseOptionalAttrDictWithKeyword(result.attributes) ||
                 parser.parseRegion(*result.addRegion(), arguments));
}

static void printStage(OpAsmPrinter &printer, Operation *op) {
  printer << '(';
  llvm::interleaveComma(op->getRegion(0).getArguments(), printer,
                        [&](BlockArgument arg) { printer.printOperand(arg); });
  printer << ')';
  printer.printOptionalAttrDictWithKeyword(op->getAttrs());
  printer << ' ';
  printer.printRegion(op->getRegion(0), /*printEntryBlockArgs=*/false);
}

static void nameArguments(Region &region, ArrayRef<StringRef> names, OpAsmSetValueNameFn setName) {
  for (auto [argument, name] : llvm::zip(region.getArguments(), names))
    setName(argument, name);
}

static LogicalResult verifyStage(Operation *op, bool hasScore, Type resultType) {
  Block &block = op->getRegion(0).front();
  SmallVector<Type> types = stageArgumentTypes(op->getContext(), hasScore);
  if (block.getArgumentTypes() != TypeRange(types))
    return op->emitOpError("expects region arguments of types ") << TypeRange(types);
  Operation *yield = block.getTerminator();
  if (yield->getNumOperands() != 1 || yield->getOperand(0).getType() != resultType) {
    InFlightDiagnostic diag = op->emitOpError("expects its region to yield ") << resultType;
    diag.attachNote(yield->getLoc()) << "yields " << yield->getOperandTypes();
    return diag;
  }
  WalkResult walk = op->getRegion(0).walk([&](Operation *inner) {
    if (isMemoryEffectFree(inner))
      return WalkResult::advance();
    InFlightDiagnostic diag = op->emitOpError("expects its region to be pure");
    diag.attachNote(inner->getLoc()) << "'" << inner->getName() << "' has side effects";
    return WalkResult::interrupt();
  });
  return failure(walk.wasInterrupted());
}

void ScoreOp::build(OpBuilder &builder, OperationState &state) { buildStage(builder, state, true); }
ParseResult ScoreOp::parse(OpAsmParser &parser, OperationState &result) {
  return parseStage(parser, result, true);
}
void ScoreOp::print(OpAsmPrinter &printer) { printStage(printer, *this); }
void ScoreOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  nameArguments(region, {"s", "b", "h", "q", "kv"}, setName);
}
LogicalResult ScoreOp::verifyRegions() {
  return verifyStage(*this, true, Float32Type::get(getContext()));
}

void MaskOp::build(OpBuilder &builder, OperationState &state) { buildStage(builder, state, false); }
ParseResult MaskOp::parse(OpAsmParser &parser, OperationState &result) {
  return parseStage(parser, result, false);
}
void MaskOp::print(OpAsmPrinter &printer) { printStage(printer, *this); }
void MaskOp::getAsmBlockArgumentNames(Region &region, OpAsmSetValueNameFn setName) {
  nameArguments(region, {"b", "h", "q", "kv"}, setName);
}
LogicalResult MaskOp::verifyRegions() {
  return verifyStage(*this, false, IntegerType::get(getContext(), 1));
}

//===----------------------------------------------------------------------===//
// Ops inside stages
//===----------------------------------------------------------------------===//

static ParseResult parseLoadTypes(OpAsmParser &parser, Type &tensor,
                                  ArrayRef<OpAsmParser::UnresolvedOperand> indices,
                                  SmallVectorImpl<Type> &indexTypes, Type &result) {
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseType(tensor))
    return failure();
  auto type = dyn_cast<attn::TensorType>(tensor);
  if (!type)
    return parser.emitError(loc, "expected !attn.tensor, found ") << tensor;
  result = type.getLoadedType();
  if (succeeded(parser.parseOptionalComma()))
    return parser.parseTypeList(indexTypes);
  indexTypes.assign(indices.size(), parser.getBuilder().getI32Type());
  return success();
}

static void printLoadTypes(OpAsmPrinter &printer, Operation *, Type tensor, OperandRange,
                           TypeRange indexTypes, Type) {
  printer << tensor;
  if (!llvm::all_of(indexTypes, [](Type type) { return type.isInteger(32); }))
    printer << ", " << indexTypes;
}

LogicalResult LoadOp::verify() {
  attn::TensorType type = getTensor().getType();
  if (type.getRank() != static_cast<int64_t>(getIndices().size()))
    return emitOpError("expects ")
           << type.getRank() << " indices into " << type << ", found " << getIndices().size();
  if (getResult().getType() != type.getLoadedType())
    return emitOpError("expects result type ") << type.getLoadedType();
  return success();
}

LogicalResult ExtentOp::verify() {
  if (!parseExtentSymbol(getSymbol()))
    return emitOpError("expects one of B, Hq, Hkv, Sq, Skv, D, Dv, found '") << getSymbol() << "'";
  return success();
}

//===----------------------------------------------------------------------===//
// attn.forward
//===----------------------------------------------------------------------===//

static ParseResult parseCaptureTypes(OpAsmParser &parser, SmallVectorImpl<Type> &types) {
  while (succeeded(parser.parseOptionalComma()))
    if (parser.parseType(types.emplace_back()))
      return failure();
  return success();
}

static void printCaptureTypes(OpAsmPrinter &printer, Operation *, TypeRange types) {
  for (Type type : types)
    printer << ", " << type;
}

VariantOp ForwardOp::lookupVariant() {
  return SymbolTable::lookupNearestSymbolFrom<VariantOp>(*this, getVariantAttr());
}

LogicalResult ForwardOp::verify() {
  auto expectRank = [&](attn::TensorType type, unsigned rank, StringRef name) -> LogicalResult {
    if (type.getRank() != rank)
      return emitOpError("expects ") << name << " of rank " << rank << ", found " << type;
    return success();
  };
  if (failed(expectRank(getQuery().getType(), 4, "query")) ||
      failed(expectRank(getKey().getType(), 4, "key")) ||
      failed(expectRank(getValue().getType(), 4, "value")) ||
      failed(expectRank(getOutput().getType(), 4, "output")) ||
      failed(expectRank(getLse().getType(), 3, "lse")))
    return failure();
  Type element = getElementType();
  if (!isa<FloatType>(element))
    return emitOpError("expects query of a floating-point type, found ") << element;
  for (Value operand : {getKey(), getValue()})
    if (cast<attn::TensorType>(operand.getType()).getElementType() != element)
      return emitOpError("expects query, key and value of one element type, found ")
             << element << " and " << cast<attn::TensorType>(operand.getType()).getElementType();
  auto isHeadDim = [](int64_t extent) { return extent >= 1 && extent <= 576; };
  if (!isHeadDim(getHeadDim()) || !isHeadDim(getValueHeadDim()))
    return emitOpError("expects head dims between 1 and 576, found ")
           << stringifyExtent(getHeadDim()) << " and " << stringifyExtent(getValueHeadDim());
  if (getKey().getType().getExtents()[3] != getHeadDim())
    return emitOpError("expects query and key to share the head dim, found ")
           << getHeadDim() << " and " << stringifyExtent(getKey().getType().getExtents()[3]);
  if (getOutput().getType().getElementType() != element ||
      getOutput().getType().getExtents()[3] != getValueHeadDim())
    return emitOpError("expects output of element type ")
           << element << " and head dim " << getValueHeadDim() << ", found "
           << getOutput().getType();
  if (!getLse().getType().getElementType().isF32())
    return emitOpError("expects lse of element type f32, found ") << getLse().getType();
  return success();
}

LogicalResult ForwardOp::verifySymbolUses(SymbolTableCollection &symbolTable) {
  auto variant = symbolTable.lookupNearestSymbolFrom<VariantOp>(*this, getVariantAttr());
  if (!variant)
    return emitOpError("expects a variant, found no attn.variant '") << getVariant() << "'";
  auto captures = variant.getCaptures();
  if (captures.size() != getCaptures().size())
    return emitOpError("expects ") << captures.size() << " captures for variant '" << getVariant()
                                   << "', found " << getCaptures().size();
  for (auto [index, capture, operand] : llvm::enumerate(captures, getCaptures()))
    if (capture.getType() != operand.getType()) {
      InFlightDiagnostic diag = emitOpError("expects capture '")
                                << variant.getCaptureName(index) << "' of type "
                                << capture.getType() << ", found " << operand.getType();
      diag.attachNote(variant.getLoc()) << "the variant is here";
      return diag;
    }
  return success();
}

#define GET_OP_CLASSES
#include "heed/Dialect/Attn/IR/AttnOps.cpp.inc"
