//===-- LanguageToAttn.cpp - Checked programs to attn variants ------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Conversion/LanguageToAttn.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Builders.h"

#include <cmath>
#include <limits>

using namespace mlir;
using namespace heed;

namespace {

/// Emits one variant. Holds what the nodes of both stages need: the types and the captures.
class VariantEmitter {
public:
  VariantEmitter(OpBuilder &builder, const lang::Variant &variant)
      : builder(builder), variant(variant) {}

  attn::VariantOp emit();

private:
  Location convertLoc(const lang::Location &loc);
  Type convertType(lang::ValueType type);
  Type convertElementType(lang::ElementType type);
  Type captureType(const lang::Parameter &param);
  TypedAttr convertConstant(const lang::ScalarConstant &constant, Type type);

  Value integer(Location loc, Type type, int64_t value) {
    return arith::ConstantOp::create(builder, loc, builder.getIntegerAttr(type, value));
  }
  Value real(Location loc, double value) {
    return arith::ConstantOp::create(builder, loc, builder.getF32FloatAttr(value));
  }

  /// Emits the nodes of a stage into `block`, whose last four arguments are the coordinates and
  /// whose first is the score where there are five.
  void emitStage(Block *block, const lang::Function &function);
  Value emitNode(const lang::Node &node, Block *block, ArrayRef<Value> operands);
  Value emitUnary(const lang::Node &node, Value operand);
  Value emitBinary(const lang::Node &node, Value lhs, Value rhs);
  Value emitMath(const lang::Node &node, Value operand);
  Value emitCast(const lang::Node &node, Value operand);
  Value emitFloatToInt(Location loc, Value operand, IntegerType type);

  OpBuilder &builder;
  const lang::Variant &variant;
  /// By parameter number; null for constant parameters, which no node refers to.
  SmallVector<Value> captures;
};

} // namespace

//===----------------------------------------------------------------------===//
// Types and constants
//===----------------------------------------------------------------------===//

Location VariantEmitter::convertLoc(const lang::Location &loc) {
  if (loc.file.empty() && loc.line == 0)
    return builder.getUnknownLoc();
  return FileLineColLoc::get(builder.getContext(), loc.file, loc.line, loc.column);
}

Type VariantEmitter::convertType(lang::ValueType type) {
  switch (type) {
  case lang::ValueType::Bool:
    return builder.getI1Type();
  case lang::ValueType::I32:
    return builder.getI32Type();
  case lang::ValueType::I64:
    return builder.getI64Type();
  case lang::ValueType::F32:
    return builder.getF32Type();
  }
  llvm_unreachable("unknown value type");
}

Type VariantEmitter::convertElementType(lang::ElementType type) {
  switch (type) {
  case lang::ElementType::Bool:
    return builder.getI1Type();
  case lang::ElementType::I8:
    return builder.getI8Type();
  case lang::ElementType::I32:
    return builder.getI32Type();
  case lang::ElementType::I64:
    return builder.getI64Type();
  case lang::ElementType::F16:
    return builder.getF16Type();
  case lang::ElementType::BF16:
    return builder.getBF16Type();
  case lang::ElementType::F32:
    return builder.getF32Type();
  }
  llvm_unreachable("unknown element type");
}

static int64_t convertExtent(const lang::Extent &extent) {
  switch (extent.kind) {
  case lang::Extent::Kind::Number:
    return extent.number;
  case lang::Extent::Kind::Any:
    return attn::Extent::Any;
  case lang::Extent::Kind::Symbol:
    return *attn::parseExtentSymbol(lang::spelling(extent.size));
  }
  llvm_unreachable("unknown extent");
}

Type VariantEmitter::captureType(const lang::Parameter &param) {
  // A scalar is passed as it is computed with.
  if (!param.isTensor())
    return convertType(lang::valueTypeOf(param.elementType));
  auto extents = llvm::map_to_vector(param.extents, convertExtent);
  return attn::TensorType::get(builder.getContext(), extents,
                               convertElementType(param.elementType));
}

TypedAttr VariantEmitter::convertConstant(const lang::ScalarConstant &constant, Type type) {
  if (isa<FloatType>(type))
    return builder.getFloatAttr(type, constant.real);
  return builder.getIntegerAttr(type, constant.integer);
}

//===----------------------------------------------------------------------===//
// Nodes
//===----------------------------------------------------------------------===//

Value VariantEmitter::emitUnary(const lang::Node &node, Value operand) {
  Location loc = convertLoc(node.loc);
  Type type = operand.getType();
  switch (node.unary) {
  case lang::UnaryOp::Neg:
    if (isa<FloatType>(type))
      return arith::NegFOp::create(builder, loc, operand);
    return arith::SubIOp::create(builder, loc, integer(loc, type, 0), operand);
  case lang::UnaryOp::Not:
    return arith::XOrIOp::create(builder, loc, operand, integer(loc, type, -1));
  }
  llvm_unreachable("unknown unary operator");
}

static std::pair<arith::CmpIPredicate, arith::CmpFPredicate> predicates(lang::BinaryOp op) {
  switch (op) {
  case lang::BinaryOp::Eq:
    return {arith::CmpIPredicate::eq, arith::CmpFPredicate::OEQ};
  case lang::BinaryOp::Ne:
    return {arith::CmpIPredicate::ne, arith::CmpFPredicate::UNE};
  case lang::BinaryOp::Lt:
    return {arith::CmpIPredicate::slt, arith::CmpFPredicate::OLT};
  case lang::BinaryOp::Le:
    return {arith::CmpIPredicate::sle, arith::CmpFPredicate::OLE};
  case lang::BinaryOp::Gt:
    return {arith::CmpIPredicate::sgt, arith::CmpFPredicate::OGT};
  case lang::BinaryOp::Ge:
    return {arith::CmpIPredicate::sge, arith::CmpFPredicate::OGE};
  default:
    llvm_unreachable("not a comparison");
  }
}

Value VariantEmitter::emitBinary(const lang::Node &node, Value lhs, Value rhs) {
  Location loc = convertLoc(node.loc);
  bool isFloat = isa<FloatType>(lhs.getType());
  auto either = [&](auto floatOp, auto intOp) -> Value {
    if (isFloat)
      return decltype(floatOp)::create(builder, loc, lhs, rhs);
    return decltype(intOp)::create(builder, loc, lhs, rhs);
  };
  switch (node.binary) {
  case lang::BinaryOp::Add:
    return either(arith::AddFOp(), arith::AddIOp());
  case lang::BinaryOp::Sub:
    return either(arith::SubFOp(), arith::SubIOp());
  case lang::BinaryOp::Mul:
    return either(arith::MulFOp(), arith::MulIOp());
  case lang::BinaryOp::Div:
    return arith::DivFOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::FloorDiv:
  case lang::BinaryOp::Mod: {
    bool isMod = node.binary == lang::BinaryOp::Mod;
    if (!isFloat)
      return isMod ? Value(attn::ModOp::create(builder, loc, lhs, rhs))
                   : Value(attn::FloorDivOp::create(builder, loc, lhs, rhs));
    Value quotient = arith::DivFOp::create(builder, loc, lhs, rhs);
    Value floor = math::FloorOp::create(builder, loc, quotient);
    if (!isMod)
      return floor;
    Value product = arith::MulFOp::create(builder, loc, rhs, floor);
    return arith::SubFOp::create(builder, loc, lhs, product);
  }
  case lang::BinaryOp::Min:
    return either(arith::MinimumFOp(), arith::MinSIOp());
  case lang::BinaryOp::Max:
    return either(arith::MaximumFOp(), arith::MaxSIOp());
  case lang::BinaryOp::Pow:
    return math::PowFOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::And:
    return arith::AndIOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::Or:
    return arith::OrIOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::Xor:
    return arith::XOrIOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::Shl:
    return arith::ShLIOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::Shr:
    return arith::ShRSIOp::create(builder, loc, lhs, rhs);
  case lang::BinaryOp::Eq:
  case lang::BinaryOp::Ne:
  case lang::BinaryOp::Lt:
  case lang::BinaryOp::Le:
  case lang::BinaryOp::Gt:
  case lang::BinaryOp::Ge: {
    auto [intPredicate, floatPredicate] = predicates(node.binary);
    if (isFloat)
      return arith::CmpFOp::create(builder, loc, floatPredicate, lhs, rhs);
    return arith::CmpIOp::create(builder, loc, intPredicate, lhs, rhs);
  }
  }
  llvm_unreachable("unknown binary operator");
}

Value VariantEmitter::emitMath(const lang::Node &node, Value operand) {
  Location loc = convertLoc(node.loc);
  switch (node.math) {
  case lang::MathFn::Abs: {
    if (isa<FloatType>(operand.getType()))
      return math::AbsFOp::create(builder, loc, operand);
    // math.absi of the smallest integer is poison; the language's abs wraps.
    Value zero = integer(loc, operand.getType(), 0);
    Value negated = arith::SubIOp::create(builder, loc, zero, operand);
    Value isNegative =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, operand, zero);
    return arith::SelectOp::create(builder, loc, isNegative, negated, operand);
  }
  case lang::MathFn::Floor:
    return math::FloorOp::create(builder, loc, operand);
  case lang::MathFn::Ceil:
    return math::CeilOp::create(builder, loc, operand);
  case lang::MathFn::Exp:
    return math::ExpOp::create(builder, loc, operand);
  case lang::MathFn::Exp2:
    return math::Exp2Op::create(builder, loc, operand);
  case lang::MathFn::Log:
    return math::LogOp::create(builder, loc, operand);
  case lang::MathFn::Log2:
    return math::Log2Op::create(builder, loc, operand);
  case lang::MathFn::Log1p:
    return math::Log1pOp::create(builder, loc, operand);
  case lang::MathFn::Tanh:
    return math::TanhOp::create(builder, loc, operand);
  case lang::MathFn::Sin:
    return math::SinOp::create(builder, loc, operand);
  case lang::MathFn::Cos:
    return math::CosOp::create(builder, loc, operand);
  case lang::MathFn::Sqrt:
    return math::SqrtOp::create(builder, loc, operand);
  case lang::MathFn::Rsqrt:
    return math::RsqrtOp::create(builder, loc, operand);
  case lang::MathFn::Erf:
    return math::ErfOp::create(builder, loc, operand);
  }
  llvm_unreachable("unknown function");
}

/// Towards zero, saturating, and 0 for NaN. arith.fptosi is undefined outside the integer's range,
/// so it only sees numbers inside it. The range's upper bound 2^(bits-1) is the first float beyond
/// it; the largest integer itself is not a float.
Value VariantEmitter::emitFloatToInt(Location loc, Value operand, IntegerType type) {
  double bound = std::ldexp(1.0, type.getWidth() - 1);
  Value lower = real(loc, -bound), upper = real(loc, bound);
  auto compare = [&](arith::CmpFPredicate predicate, Value rhs) -> Value {
    return arith::CmpFOp::create(builder, loc, predicate, operand, rhs);
  };
  Value isAboveLower = compare(arith::CmpFPredicate::OGE, lower);
  Value isBelowUpper = compare(arith::CmpFPredicate::OLT, upper);
  Value isInside = arith::AndIOp::create(builder, loc, isAboveLower, isBelowUpper);
  Value inside = arith::SelectOp::create(builder, loc, isInside, operand, real(loc, 0.0));
  Value result = arith::FPToSIOp::create(builder, loc, type, inside);
  auto saturate = [&](Value isOutside, const APInt &value) {
    Value limit = arith::ConstantOp::create(builder, loc, builder.getIntegerAttr(type, value));
    result = arith::SelectOp::create(builder, loc, isOutside, limit, result);
  };
  saturate(compare(arith::CmpFPredicate::OGE, upper), APInt::getSignedMaxValue(type.getWidth()));
  saturate(compare(arith::CmpFPredicate::OLT, lower), APInt::getSignedMinValue(type.getWidth()));
  return result;
}

Value VariantEmitter::emitCast(const lang::Node &node, Value operand) {
  Location loc = convertLoc(node.loc);
  Type type = convertType(node.type);
  if (operand.getType() == type)
    return operand;
  switch (node.operandType()) {
  case lang::ValueType::Bool:
    if (node.type == lang::ValueType::F32)
      return arith::UIToFPOp::create(builder, loc, type, operand);
    return arith::ExtUIOp::create(builder, loc, type, operand);
  case lang::ValueType::I32:
  case lang::ValueType::I64:
    if (node.type == lang::ValueType::F32)
      return arith::SIToFPOp::create(builder, loc, type, operand);
    if (node.type == lang::ValueType::I64)
      return arith::ExtSIOp::create(builder, loc, type, operand);
    return arith::TruncIOp::create(builder, loc, type, operand);
  case lang::ValueType::F32:
    return emitFloatToInt(loc, operand, cast<IntegerType>(type));
  }
  llvm_unreachable("unknown cast");
}

Value VariantEmitter::emitNode(const lang::Node &node, Block *block, ArrayRef<Value> operands) {
  Location loc = convertLoc(node.loc);
  switch (node.kind) {
  case lang::NodeKind::Constant:
    return arith::ConstantOp::create(builder, loc,
                                     convertConstant(node.constant, convertType(node.type)));
  case lang::NodeKind::Coordinate: {
    if (node.coordinate == lang::Coordinate::Score)
      return block->getArgument(0);
    unsigned fromEnd = unsigned(lang::Coordinate::KV) - unsigned(node.coordinate) + 1;
    return block->getArgument(block->getNumArguments() - fromEnd);
  }
  case lang::NodeKind::Extent:
    return attn::ExtentOp::create(builder, loc, convertType(node.type), lang::spelling(node.size));
  case lang::NodeKind::Param:
    return captures[node.param];
  case lang::NodeKind::Load:
    return attn::LoadOp::create(builder, loc, captures[node.param], operands);
  case lang::NodeKind::Unary:
    return emitUnary(node, operands[0]);
  case lang::NodeKind::Binary:
    return emitBinary(node, operands[0], operands[1]);
  case lang::NodeKind::Math:
    return emitMath(node, operands[0]);
  case lang::NodeKind::Select:
    return arith::SelectOp::create(builder, loc, operands[0], operands[1], operands[2]);
  case lang::NodeKind::Cast:
    return emitCast(node, operands[0]);
  }
  llvm_unreachable("unknown node");
}

void VariantEmitter::emitStage(Block *block, const lang::Function &function) {
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToEnd(block);
  SmallVector<Value> values;
  values.reserve(function.nodes.size());
  for (const lang::Node *node : function.nodes) {
    auto operands = llvm::map_to_vector(
        node->operands, [&](const lang::Node *operand) { return values[operand->id]; });
    values.push_back(emitNode(*node, block, operands));
  }
  const lang::Node *result = function.result;
  attn::YieldOp::create(builder, convertLoc(result->loc), values[result->id]);
}

attn::VariantOp VariantEmitter::emit() {
  MLIRContext *context = builder.getContext();
  context->loadDialect<attn::AttnDialect, arith::ArithDialect, math::MathDialect>();

  SmallVector<Type> types;
  SmallVector<DictionaryAttr> attrs;
  for (const lang::Parameter &param : variant.params) {
    if (param.isConst)
      continue;
    NamedAttrList attrList;
    attrList.set(attn::AttnDialect::kNameAttr, builder.getStringAttr(param.name));
    Type type = types.emplace_back(captureType(param));
    if (param.value && !param.isTensor())
      attrList.set(attn::AttnDialect::kDefaultAttr, convertConstant(*param.value, type));
    attrs.push_back(attrList.getDictionary(context));
  }
  auto op = attn::VariantOp::create(builder, convertLoc(variant.loc), variant.name, types, attrs);

  auto nextCapture = op.getCaptures().begin();
  for (const lang::Parameter &param : variant.params) {
    if (!param.isConst)
      nextCapture->setLoc(convertLoc(param.loc));
    captures.push_back(param.isConst ? Value() : Value(*nextCapture++));
  }

  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToEnd(op.getBodyBlock());
  if (variant.score)
    emitStage(attn::ScoreOp::create(builder, convertLoc(variant.score->loc)).getBodyBlock(),
              *variant.score);
  if (variant.mask)
    emitStage(attn::MaskOp::create(builder, convertLoc(variant.mask->loc)).getBodyBlock(),
              *variant.mask);
  return op;
}

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

attn::VariantOp heed::emitVariant(OpBuilder &builder, const lang::Variant &variant) {
  return VariantEmitter(builder, variant).emit();
}

OwningOpRef<ModuleOp> heed::emitProgram(MLIRContext &context, const lang::CheckedProgram &program) {
  OpBuilder builder(&context);
  OwningOpRef<ModuleOp> module = ModuleOp::create(builder, builder.getUnknownLoc());
  builder.setInsertionPointToEnd(module->getBody());
  for (const lang::Variant &variant : program.variants)
    emitVariant(builder, variant);
  return module;
}

func::FuncOp heed::emitForward(OpBuilder &builder, attn::VariantOp variant, StringRef name,
                               Type elementType, int64_t headDim, int64_t valueHeadDim) {
  using attn::Extent;
  MLIRContext *context = builder.getContext();
  context->loadDialect<attn::AttnDialect, func::FuncDialect>();
  auto tensor = [&](ArrayRef<int64_t> extents, Type element) -> Type {
    return attn::TensorType::get(context, extents, element);
  };
  Type f32 = builder.getF32Type();
  SmallVector<Type> arguments = {
      tensor({Extent::B, Extent::Hq, Extent::Sq, headDim}, elementType),
      tensor({Extent::B, Extent::Hkv, Extent::Skv, headDim}, elementType),
      tensor({Extent::B, Extent::Hkv, Extent::Skv, valueHeadDim}, elementType), f32};
  unsigned numFixed = arguments.size();
  llvm::append_range(arguments, TypeRange(ValueRange(variant.getCaptures())));
  SmallVector<Type> results = {
      tensor({Extent::B, Extent::Hq, Extent::Sq, valueHeadDim}, elementType),
      tensor({Extent::B, Extent::Hq, Extent::Sq}, f32),
      tensor({Extent::B, Extent::Hq, Extent::Sq}, f32)};

  Location loc = variant.getLoc();
  auto function =
      func::FuncOp::create(builder, loc, name, builder.getFunctionType(arguments, results));
  Block *entry = function.addEntryBlock();
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToEnd(entry);
  auto symbol = FlatSymbolRefAttr::get(variant.getSymNameAttr());
  auto forward = attn::ForwardOp::create(
      builder, loc, results, symbol, entry->getArgument(0), entry->getArgument(1),
      entry->getArgument(2), entry->getArgument(3), entry->getArguments().drop_front(numFixed));
  func::ReturnOp::create(builder, loc, forward.getResults());
  return function;
}
