//===-- Program.cpp - Names and printing of a checked program ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Program.h"

#include "heed/Language/Diagnostics.h"
#include "heed/Language/Numbers.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"

#include <cmath>

using namespace llvm;
using namespace heed::lang;

ValueType heed::lang::valueTypeOf(ElementType type) {
  switch (type) {
  case ElementType::Bool:
    return ValueType::Bool;
  case ElementType::I8:
  case ElementType::I32:
    return ValueType::I32;
  case ElementType::I64:
    return ValueType::I64;
  case ElementType::F16:
  case ElementType::BF16:
  case ElementType::F32:
    return ValueType::F32;
  }
  llvm_unreachable("unknown element type");
}

StringRef heed::lang::spelling(ValueType type) {
  static constexpr StringLiteral names[] = {"bool", "i32", "i64", "f32"};
  return names[unsigned(type)];
}

StringRef heed::lang::spelling(ElementType type) {
  static constexpr StringLiteral names[] = {"bool", "i8", "i32", "i64", "f16", "bf16", "f32"};
  return names[unsigned(type)];
}

StringRef heed::lang::spelling(Size size) {
  static constexpr StringLiteral names[] = {"B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv"};
  return names[unsigned(size)];
}

StringRef heed::lang::spelling(Coordinate coordinate) {
  static constexpr StringLiteral names[] = {"score", "b", "h", "q", "kv"};
  return names[unsigned(coordinate)];
}

StringRef heed::lang::spelling(UnaryOp op) { return op == UnaryOp::Neg ? "neg" : "not"; }

StringRef heed::lang::spelling(BinaryOp op) {
  static constexpr StringLiteral names[] = {"add", "sub", "mul", "div", "floordiv", "mod", "min",
                                            "max", "pow", "and", "or",  "xor",      "shl", "shr",
                                            "eq",  "ne",  "lt",  "le",  "gt",       "ge"};
  return names[unsigned(op)];
}

StringRef heed::lang::spelling(MathFn fn) {
  static constexpr StringLiteral names[] = {"abs", "floor", "ceil",  "exp",  "exp2",
                                            "log", "log2",  "log1p", "tanh", "sin",
                                            "cos", "sqrt",  "rsqrt", "erf"};
  return names[unsigned(fn)];
}

const Variant *CheckedProgram::lookup(StringRef name) const {
  for (const Variant &variant : variants)
    if (variant.name == name)
      return &variant;
  return nullptr;
}

Expected<const Variant *> CheckedProgram::require(StringRef name, StringRef file) const {
  if (const Variant *variant = lookup(name))
    return variant;
  std::vector<StringRef> known;
  for (const Variant &variant : variants)
    known.push_back(variant.name);
  return createStringError("no variant '" + name + "' in '" + file +
                           "' (there: " + join(known, ", ") + ")" + didYouMean(name, known));
}

static void print(const ScalarConstant &constant, raw_ostream &os) {
  if (constant.type == ValueType::Bool)
    os << (constant.integer ? "true" : "false");
  else if (constant.type != ValueType::F32)
    os << constant.integer;
  else
    os << formatF32(constant.real);
}

static void print(const Node &node, const Variant &variant, raw_ostream &os) {
  os << "    %" << node.id << " = ";
  bool showType = true;
  switch (node.kind) {
  case NodeKind::Constant:
    os << "constant " << spelling(node.type) << ' ';
    print(node.constant, os);
    showType = false;
    break;
  case NodeKind::Coordinate:
    os << "coordinate " << spelling(node.coordinate);
    showType = false;
    break;
  case NodeKind::Extent:
    os << "size " << spelling(node.size);
    showType = false;
    break;
  case NodeKind::Param:
    os << "param " << spelling(node.type) << ' ' << variant.params[node.param].name;
    showType = false;
    break;
  case NodeKind::Load:
    os << "load " << spelling(node.type) << ' ' << variant.params[node.param].name << '[';
    break;
  case NodeKind::Unary:
    os << spelling(node.unary);
    break;
  case NodeKind::Binary:
    os << spelling(node.binary);
    break;
  case NodeKind::Math:
    os << spelling(node.math);
    break;
  case NodeKind::Select:
    os << "select";
    break;
  case NodeKind::Cast:
    os << "cast " << spelling(node.operandType()) << " to";
    break;
  }
  if (showType && node.kind != NodeKind::Load) {
    bool byOperand = node.kind == NodeKind::Binary;
    os << ' ' << spelling(byOperand ? node.operandType() : node.type) << ' ';
  }
  interleaveComma(node.operands, os, [&](const Node *operand) { os << '%' << operand->id; });
  os << (node.kind == NodeKind::Load ? "]\n" : "\n");
}

static void print(StringRef what, const Function &function, const Variant &variant,
                  raw_ostream &os) {
  os << "  " << what << " {\n";
  for (const Node *node : function.nodes)
    print(*node, variant, os);
  os << "    result %" << function.result->id << "\n  }\n";
}

void CheckedProgram::print(raw_ostream &os) const {
  for (const Variant &variant : variants) {
    os << "variant " << variant.name << '(';
    interleaveComma(variant.params, os, [&](const Parameter &param) {
      os << (param.isConst ? "const " : "") << param.name << ": " << spelling(param.elementType);
      if (param.isTensor()) {
        os << '[';
        interleaveComma(param.extents, os, [&](const Extent &extent) {
          if (extent.kind == Extent::Kind::Number)
            os << extent.number;
          else if (extent.kind == Extent::Kind::Symbol)
            os << spelling(extent.size);
          else
            os << '?';
        });
        os << ']';
      }
      if (param.value) {
        os << " = ";
        ::print(*param.value, os);
      }
    });
    os << ") {\n";
    if (variant.score)
      ::print("score", *variant.score, variant, os);
    if (variant.mask)
      ::print("mask", *variant.mask, variant, os);
    os << "}\n";
  }
}
