//===-- Builder.cpp - Makes the nodes of a checked program ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Builder.h"

#include "llvm/ADT/bit.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace llvm;
using namespace heed::lang;

static bool isConstant(const Node *node) { return node->kind == NodeKind::Constant; }
static bool isBool(const Node *node, bool value) {
  return isConstant(node) && node->type == ValueType::Bool && node->constant.integer == value;
}

/// Two's complement in the type's width.
static int64_t wrap(ValueType type, uint64_t value) {
  if (type == ValueType::I32)
    return int32_t(uint32_t(value));
  return int64_t(value);
}

static int64_t floorDiv(int64_t a, int64_t b) {
  if (b == 0)
    return 0;
  if (b == -1)
    return int64_t(-uint64_t(a)); // the smallest integer wraps
  int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t floorMod(int64_t a, int64_t b) {
  if (b == 0 || b == -1)
    return 0;
  int64_t remainder = a % b;
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

void Builder::start() {
  created.clear();
  leaves.clear();
  constants.clear();
}

Function Builder::finish(const Node *result, Location where) {
  Function function;
  function.loc = where;
  function.result = result;
  // Nodes were made operands first; keep that order, drop what nothing needs.
  std::vector<bool> needed(created.size());
  needed[result->id] = true;
  for (size_t i = created.size(); i-- != 0;)
    if (needed[i])
      for (const Node *operand : created[i]->operands)
        needed[operand->id] = true;
  for (size_t i = 0; i != created.size(); ++i) {
    if (!needed[i])
      continue;
    created[i]->id = function.nodes.size();
    function.nodes.push_back(created[i]);
  }
  return function;
}

Node *Builder::make(NodeKind kind, ValueType type, ArrayRef<const Node *> operands) {
  Node *node = new (program.arena().Allocate<Node>()) Node();
  node->kind = kind;
  node->type = type;
  node->operands = operands.copy(program.arena());
  node->loc = loc;
  node->id = created.size();
  created.push_back(node);
  return node;
}

const Node *Builder::constant(const ScalarConstant &value) {
  uint64_t bits =
      value.type == ValueType::F32 ? llvm::bit_cast<uint64_t>(value.real) : uint64_t(value.integer);
  const Node *&known = constants[{unsigned(value.type), bits}];
  if (!known) {
    Node *node = make(NodeKind::Constant, value.type);
    node->constant = value;
    known = node;
  }
  return known;
}

const Node *Builder::integer(ValueType type, int64_t value) {
  ScalarConstant constant;
  constant.type = type;
  constant.integer = wrap(type, value);
  return this->constant(constant);
}

const Node *Builder::real(float value) {
  ScalarConstant constant;
  constant.type = ValueType::F32;
  constant.real = value;
  return this->constant(constant);
}

const Node *Builder::coordinate(Coordinate which) {
  const Node *&node = leaves[unsigned(which)];
  if (!node) {
    Node *made =
        make(NodeKind::Coordinate, which == Coordinate::Score ? ValueType::F32 : ValueType::I32);
    made->coordinate = which;
    node = made;
  }
  return node;
}

const Node *Builder::size(Size which) {
  const Node *&node = leaves[16 + unsigned(which)];
  if (!node) {
    Node *made = make(NodeKind::Extent, ValueType::I32);
    made->size = which;
    node = made;
  }
  return node;
}

const Node *Builder::param(ValueType type, unsigned number) {
  const Node *&node = leaves[32 + number];
  if (!node) {
    Node *made = make(NodeKind::Param, type);
    made->param = number;
    node = made;
  }
  return node;
}

const Node *Builder::load(ValueType type, unsigned number, ArrayRef<const Node *> indices) {
  Node *node = make(NodeKind::Load, type, indices);
  node->param = number;
  return node;
}

/// Eq, Ne, Lt, Le, Gt, Ge.
static constexpr BinaryOp opposites[] = {BinaryOp::Ne, BinaryOp::Eq, BinaryOp::Ge,
                                         BinaryOp::Gt, BinaryOp::Le, BinaryOp::Lt};

const Node *Builder::unary(UnaryOp op, const Node *operand) {
  if (isConstant(operand)) {
    const ScalarConstant &c = operand->constant;
    if (operand->type == ValueType::F32)
      return real(-float(c.real));
    if (operand->type == ValueType::Bool)
      return integer(ValueType::Bool, !c.integer);
    return integer(operand->type, op == UnaryOp::Neg ? int64_t(-uint64_t(c.integer)) : ~c.integer);
  }
  if (op == UnaryOp::Not && operand->kind == NodeKind::Unary && operand->unary == UnaryOp::Not)
    return operand->operand(0);
  if (op == UnaryOp::Not && operand->kind == NodeKind::Binary && isComparison(operand->binary)) {
    // Not for the order of floats: every comparison with a NaN is false.
    BinaryOp opposite = opposites[unsigned(operand->binary) - unsigned(BinaryOp::Eq)];
    if (operand->operandType() != ValueType::F32 || operand->binary <= BinaryOp::Ne)
      return binary(opposite, operand->operand(0), operand->operand(1));
  }
  Node *node = make(NodeKind::Unary, operand->type, {operand});
  node->unary = op;
  return node;
}

template <typename T>
static bool compare(BinaryOp op, T a, T b) {
  switch (op) {
  case BinaryOp::Eq:
    return a == b;
  case BinaryOp::Ne:
    return a != b;
  case BinaryOp::Lt:
    return a < b;
  case BinaryOp::Le:
    return a <= b;
  case BinaryOp::Gt:
    return a > b;
  default:
    return a >= b;
  }
}

/// Null where it does not fold.
const Node *Builder::foldBinary(BinaryOp op, const Node *lhs, const Node *rhs) {
  if (lhs->type == ValueType::Bool && (op == BinaryOp::And || op == BinaryOp::Or)) {
    bool absorbing = op == BinaryOp::Or;
    if (isBool(lhs, absorbing) || isBool(rhs, !absorbing))
      return lhs;
    if (isBool(rhs, absorbing) || isBool(lhs, !absorbing))
      return rhs;
  }
  if (!isConstant(lhs) || !isConstant(rhs))
    return nullptr;
  if (lhs->type == ValueType::F32) {
    float a = lhs->constant.real, b = rhs->constant.real;
    switch (op) {
    case BinaryOp::Add:
      return real(a + b);
    case BinaryOp::Sub:
      return real(a - b);
    case BinaryOp::Mul:
      return real(a * b);
    case BinaryOp::Div:
      return real(a / b);
    case BinaryOp::Min:
      return real(std::isnan(a) || std::isnan(b) ? float(NAN) : std::min(a, b));
    case BinaryOp::Max:
      return real(std::isnan(a) || std::isnan(b) ? float(NAN) : std::max(a, b));
    default:
      if (isComparison(op))
        return integer(ValueType::Bool, compare(op, a, b));
      return nullptr;
    }
  }
  ValueType type = lhs->type;
  int64_t a = lhs->constant.integer, b = rhs->constant.integer;
  switch (op) {
  case BinaryOp::Add:
    return integer(type, uint64_t(a) + uint64_t(b));
  case BinaryOp::Sub:
    return integer(type, uint64_t(a) - uint64_t(b));
  case BinaryOp::Mul:
    return integer(type, uint64_t(a) * uint64_t(b));
  case BinaryOp::FloorDiv:
    return integer(type, floorDiv(a, b));
  case BinaryOp::Mod:
    return integer(type, floorMod(a, b));
  case BinaryOp::Min:
    return integer(type, std::min(a, b));
  case BinaryOp::Max:
    return integer(type, std::max(a, b));
  case BinaryOp::And:
    return integer(type, a & b);
  case BinaryOp::Or:
    return integer(type, a | b);
  case BinaryOp::Xor:
    return integer(type, a ^ b);
  case BinaryOp::Shl:
    return integer(type, uint64_t(a) << b);
  case BinaryOp::Shr:
    return integer(type, a >> b);
  case BinaryOp::Div:
  case BinaryOp::Pow:
    return nullptr;
  default:
    return integer(ValueType::Bool, compare(op, a, b));
  }
}

const Node *Builder::binary(BinaryOp op, const Node *lhs, const Node *rhs) {
  if (const Node *folded = foldBinary(op, lhs, rhs))
    return folded;
  Node *node = make(NodeKind::Binary, isComparison(op) ? ValueType::Bool : lhs->type, {lhs, rhs});
  node->binary = op;
  return node;
}

const Node *Builder::math(MathFn fn, const Node *operand) {
  if (isConstant(operand)) {
    if (operand->type != ValueType::F32) { // only abs takes integers
      int64_t value = operand->constant.integer;
      return integer(operand->type, value < 0 ? int64_t(-uint64_t(value)) : value);
    }
    float value = operand->constant.real;
    if (fn == MathFn::Abs)
      return real(std::fabs(value));
    if (fn == MathFn::Floor)
      return real(std::floor(value));
    if (fn == MathFn::Ceil)
      return real(std::ceil(value));
  }
  Node *node = make(NodeKind::Math, operand->type, {operand});
  node->math = fn;
  return node;
}

const Node *Builder::select(const Node *condition, const Node *ifTrue, const Node *ifFalse) {
  if (isConstant(condition))
    return condition->constant.integer ? ifTrue : ifFalse;
  if (ifTrue == ifFalse)
    return ifTrue;
  if (isBool(ifTrue, true))
    return binary(BinaryOp::Or, condition, ifFalse);
  if (isBool(ifFalse, false))
    return binary(BinaryOp::And, condition, ifTrue);
  if (isBool(ifTrue, false))
    return binary(BinaryOp::And, unary(UnaryOp::Not, condition), ifFalse);
  if (isBool(ifFalse, true))
    return binary(BinaryOp::Or, unary(UnaryOp::Not, condition), ifTrue);
  return make(NodeKind::Select, ifTrue->type, {condition, ifTrue, ifFalse});
}

/// Towards zero; what does not fit becomes the nearest that does, NaN zero.
static int64_t toInteger(ValueType type, double value) {
  if (std::isnan(value))
    return 0;
  double low = type == ValueType::I32 ? double(INT32_MIN) : double(INT64_MIN);
  if (value < low)
    return type == ValueType::I32 ? INT32_MIN : INT64_MIN;
  if (value >= -low)
    return type == ValueType::I32 ? INT32_MAX : INT64_MAX;
  return int64_t(value);
}

const Node *Builder::cast(ValueType to, const Node *operand) {
  ValueType from = operand->type;
  if (from == to)
    return operand;
  if (to == ValueType::Bool)
    return binary(BinaryOp::Ne, operand, from == ValueType::F32 ? real(0.0f) : integer(from, 0));
  if (isConstant(operand)) {
    const ScalarConstant &c = operand->constant;
    if (to == ValueType::F32)
      return real(float(c.integer));
    return integer(to, from == ValueType::F32 ? toInteger(to, c.real) : c.integer);
  }
  return make(NodeKind::Cast, to, {operand});
}
