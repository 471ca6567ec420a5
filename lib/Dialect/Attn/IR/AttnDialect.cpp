//===-- AttnDialect.cpp - The attn dialect and its types ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FoldInterfaces.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace heed;
using namespace heed::attn;

#include "heed/Dialect/Attn/IR/AttnDialect.cpp.inc"

#define GET_TYPEDEF_CLASSES
#include "heed/Dialect/Attn/IR/AttnTypes.cpp.inc"

namespace {
/// Keeps constants inside the stage that uses them, so that a variant holds nothing but stages.
struct AttnFoldInterface : DialectFoldInterface {
  using DialectFoldInterface::DialectFoldInterface;
  bool shouldMaterializeInto(Region *region) const final {
    return isa<ScoreOp, MaskOp>(region->getParentOp());
  }
};
} // namespace

void AttnDialect::initialize() {
  registerTypes();
  addInterfaces<AttnFoldInterface>();
  addOperations<
#define GET_OP_LIST
#include "heed/Dialect/Attn/IR/AttnOps.cpp.inc"
      >();
}

void AttnDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "heed/Dialect/Attn/IR/AttnTypes.cpp.inc"
      >();
}

Operation *AttnDialect::materializeConstant(OpBuilder &builder, Attribute value, Type type,
                                            Location loc) {
  return arith::ConstantOp::materialize(builder, value, type, loc);
}

//===----------------------------------------------------------------------===//
// Extents
//===----------------------------------------------------------------------===//

std::string heed::attn::stringifyExtent(int64_t extent) {
  static constexpr const char *names[] = {"B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv", "?"};
  if (extent >= 0)
    return std::to_string(extent);
  return extent >= Extent::Any ? names[-extent - 1] : "invalid";
}

std::optional<int64_t> heed::attn::parseExtentSymbol(StringRef word) {
  return llvm::StringSwitch<std::optional<int64_t>>(word)
      .Case("B", Extent::B)
      .Case("Hq", Extent::Hq)
      .Case("Hkv", Extent::Hkv)
      .Case("Sq", Extent::Sq)
      .Case("Skv", Extent::Skv)
      .Case("D", Extent::D)
      .Case("Dv", Extent::Dv)
      .Default(std::nullopt);
}

//===----------------------------------------------------------------------===//
// !attn.tensor
//===----------------------------------------------------------------------===//

Type attn::TensorType::parse(AsmParser &parser) {
  SmallVector<int64_t> extents;
  auto parseExtent = [&]() -> ParseResult {
    if (succeeded(parser.parseOptionalQuestion())) {
      extents.push_back(Extent::Any);
      return success();
    }
    SMLoc loc = parser.getCurrentLocation();
    StringRef word;
    if (succeeded(parser.parseOptionalKeyword(&word))) {
      std::optional<int64_t> symbol = parseExtentSymbol(word);
      if (!symbol)
        return parser.emitError(loc, "expected B, Hq, Hkv, Sq, Skv, D, Dv, ? or a number, found '")
               << word << "'";
      extents.push_back(*symbol);
      return success();
    }
    int64_t number;
    if (parser.parseInteger(number))
      return failure();
    if (number < 0)
      return parser.emitError(loc, "expected an extent of at least 0, found ") << number;
    extents.push_back(number);
    return success();
  };
  Type elementType;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() ||
      parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, parseExtent) ||
      parser.parseComma() || parser.parseType(elementType) || parser.parseGreater())
    return {};
  return parser.getChecked<attn::TensorType>(loc, parser.getContext(), extents, elementType);
}

void attn::TensorType::print(AsmPrinter &printer) const {
  printer << "<[";
  llvm::interleaveComma(getExtents(), printer,
                        [&](int64_t extent) { printer << stringifyExtent(extent); });
  printer << "], " << getElementType() << ">";
}

LogicalResult attn::TensorType::verify(function_ref<InFlightDiagnostic()> emitError,
                                       ArrayRef<int64_t> extents, Type elementType) {
  if (!elementType.isInteger(1) && !elementType.isInteger(8) && !elementType.isInteger(32) &&
      !elementType.isInteger(64) && !elementType.isF16() && !elementType.isBF16() &&
      !elementType.isF32())
    return emitError() << "expects an element type i1, i8, i32, i64, f16, bf16 or f32, found "
                       << elementType;
  for (int64_t extent : extents)
    if (extent < Extent::Any)
      return emitError() << "expects extents to be numbers or symbols, found " << extent;
  return success();
}

Type attn::TensorType::getLoadedType() const {
  Type element = getElementType();
  if (isa<FloatType>(element))
    return Float32Type::get(getContext());
  if (element.isInteger(8))
    return IntegerType::get(getContext(), 32);
  return element;
}
