//===-- CheckExpr.cpp - Operators, indexing and calls -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Checker.h"

#include "heed/Language/Parser.h"

#include "llvm/Support/SaveAndRestore.h"

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

Value Checker::scalar(const Node *node, bool isConst) {
  Value value = vector(node->type, {node});
  value.kind = Value::Kind::Scalar;
  value.isConst = isConst;
  return value;
}

Value Checker::vector(ValueType type, ArrayRef<const Node *> lanes) {
  Value value;
  value.kind = Value::Kind::Vector;
  value.type = type;
  value.lanes = lanes.copy(expanding ? program.arena() : scratch.arena());
  return value;
}

/// A value of which only the type is known, as a parameter's while checking.
Value Checker::opaque(const Value &shape, bool isConst) {
  if (shape.isError() || shape.isTensor())
    return {};
  // Any node of that type will do, except a constant.
  const Node *node = builder->param(shape.type, 1u << 20 | unsigned(shape.type));
  if (shape.isScalar())
    return scalar(node, isConst);
  return vector(shape.type, SmallVector<const Node *>(shape.lanes.size(), node));
}

std::string Checker::describe(const Value &value) const {
  switch (value.kind) {
  case Value::Kind::Error:
    return "an error";
  case Value::Kind::Scalar:
    return spelling(value.type).str();
  case Value::Kind::Vector:
    return ("a vector of " + Twine(value.lanes.size()) + " " + spelling(value.type)).str();
  case Value::Kind::Tensor:
    return ("the tensor '" + value.tensor->name + "'").str();
  }
  return "";
}

/// The conversions that happen by themselves: only those that keep the value,
/// or that arithmetic between integers and floats needs.
bool Checker::converts(ValueType from, ValueType to) const {
  if (from == to)
    return true;
  if (from == ValueType::I32)
    return to == ValueType::I64 || to == ValueType::F32;
  return from == ValueType::I64 && to == ValueType::F32;
}

Value Checker::convert(const Value &value, ValueType to) {
  if (value.isError() || value.type == to)
    return value;
  return mapLanes(value, to, /*folds=*/true, SMLoc(),
                  [&](ArrayRef<const Node *> lane) { return builder->cast(to, lane[0]); });
}

bool Checker::commonType(ValueType a, ValueType b, ValueType &common) const {
  if (converts(a, b))
    common = b;
  else if (converts(b, a))
    common = a;
  else
    return false;
  return true;
}

Value Checker::mapLanes(ArrayRef<Value> operands, ValueType resultType, bool folds, SMLoc loc,
                        function_ref<const Node *(ArrayRef<const Node *>)> make) {
  size_t lanes = 1;
  bool isVector = false, isConst = folds;
  for (const Value &operand : operands) {
    if (operand.isError())
      return {};
    isConst &= operand.isConst;
    if (!operand.isVector())
      continue;
    if (isVector && lanes != operand.lanes.size())
      return fail(loc, "vectors of " + Twine(lanes) + " and " + Twine(operand.lanes.size()) +
                           " elements cannot be combined");
    isVector = true;
    lanes = operand.lanes.size();
  }
  if (!charge(lanes))
    return {};
  SmallVector<const Node *> results, arguments(operands.size());
  for (size_t lane = 0; lane != lanes; ++lane) {
    for (auto [argument, operand] : zip_equal(arguments, operands))
      argument = operand.lanes[operand.isVector() ? lane : 0];
    results.push_back(make(arguments));
  }
  return isVector ? vector(resultType, results) : scalar(results[0], isConst);
}

Value Checker::select(const Value &condition, const Value &ifTrue, const Value &ifFalse, SMLoc loc,
                      const Twine &what) {
  if (ifTrue.isError() || ifFalse.isError() || condition.isError())
    return {};
  ValueType type;
  if (!commonType(ifTrue.type, ifFalse.type, type))
    return fail(loc,
                what + " have different types: " + describe(ifTrue) + " and " + describe(ifFalse));
  return merge(condition, convert(ifTrue, type), convert(ifFalse, type), loc);
}

Value Checker::merge(const Value &condition, const Value &ifTrue, const Value &ifFalse, SMLoc loc) {
  at(loc);
  return mapLanes(
      {condition, ifTrue, ifFalse}, ifTrue.type, /*folds=*/true, loc,
      [&](ArrayRef<const Node *> lane) { return builder->select(lane[0], lane[1], lane[2]); });
}

Value Checker::shapeOf(function_ref<Value()> eval) {
  SaveAndRestore<bool> check(expanding, false);
  SaveAndRestore<Builder *> aside(builder, &scratchBuilder);
  size_t mark = trail.size();
  Value shape = eval();
  undo(mark);
  return shape;
}

Value Checker::beside(const Value &chosen, const Value &leftOut) {
  ValueType type;
  if (chosen.isError() || leftOut.isError() || !commonType(chosen.type, leftOut.type, type))
    return chosen;
  Value result = convert(chosen, type);
  if (result.isScalar() && leftOut.isVector())
    return vector(type, SmallVector<const Node *>(leftOut.lanes.size(), result.node()));
  return result;
}

Value Checker::operand(Value value, SMLoc loc) {
  if (value.isTensor())
    return fail(loc, "the tensor '" + value.tensor->name + "' must be indexed to give a value");
  return value;
}

Value Checker::evalOperand(const Expr *expr) { return operand(eval(expr), expr->loc); }

//===----------------------------------------------------------------------===//
// Names
//===----------------------------------------------------------------------===//

Checker::Variable *Checker::findVariable(StringRef name) {
  auto it = frame->names.find(name);
  return it == frame->names.end() ? nullptr : &variables[it->second];
}

bool Checker::declare(const Ident &ident, Value value, bool isMutable) {
  if (ident.name == "_") // says that it is not used
    return true;
  Size size;
  if (parseSize(ident.name, size)) {
    error(ident.loc, "'" + ident.name + "' is the name of a size and cannot be declared");
    return false;
  }
  auto [it, inserted] = frame->names.try_emplace(ident.name, variables.size());
  if (!inserted) {
    error(ident.loc, "'" + ident.name + "' is already declared");
    diags.note(variables[it->second].loc, "the first declaration is here");
    return false;
  }
  variables.push_back({ident.name, ident.loc, value, isMutable});
  return true;
}

void Checker::popScope(size_t scope) {
  while (variables.size() > scope) {
    frame->names.erase(variables.back().name);
    variables.pop_back();
  }
}

void Checker::unknownName(const Ident &ident) {
  std::vector<StringRef> names(sizeNames().begin(), sizeNames().end());
  for (auto &entry : frame->names)
    names.push_back(entry.first);
  names.insert(names.end(), {"true", "false", "inf"});
  // The order of a hash table must not choose between equally near names.
  llvm::sort(names);
  std::string hint = writtenHere(ident.name);
  error(ident.loc, "unknown name '" + ident.name + "'" +
                       (hint.empty() ? didYouMean(ident.name, names) : hint));
  diags.noteDivision(ident.loc);
}

void Checker::unknownCallee(const Ident &ident) {
  if (Variable *variable = findVariable(ident.name)) {
    error(ident.loc, "'" + ident.name + "' is not a function");
    diags.note(variable->loc, "it is declared here");
    return;
  }
  ElementType type;
  if (parseElementType(ident.name, type))
    return error(ident.loc,
                 "there is no cast to '" + ident.name + "': values are bool, i32, i64 or f32");
  std::vector<StringRef> names = modules.visibleNames(*frame->module);
  names.insert(names.end(), builtinNames().begin(), builtinNames().end());
  std::string module = modules.standardModuleOf(ident.name);
  std::string hint = module.empty()
                         ? writtenHere(ident.name)
                         : "; it comes with 'import " + module + ": " + ident.name.str() + "'";
  error(ident.loc, "unknown function, mask or score '" + ident.name + "'" +
                       (hint.empty() ? didYouMean(ident.name, names) : hint));
  diags.noteDivision(ident.loc);
}

void Checker::noteDeclaration(const Decl &decl) {
  diags.note(decl.name.loc, "'" + decl.name.name + "' is declared here");
}

Value Checker::evalName(const NameExpr *expr) {
  if (Variable *variable = findVariable(expr->name))
    return variable->value;
  at(expr->loc);
  Size size;
  if (parseSize(expr->name, size))
    return scalar(builder->size(size), /*isConst=*/false);
  bool reported;
  Ident ident{expr->name, expr->loc};
  if (DeclRef ref = modules.lookup(*frame->module, ident, reported)) {
    error(expr->loc,
          "'" + expr->name + "' is a " + ref.decl->what() + "; as a value it must be called");
    noteDeclaration(*ref.decl);
  } else if (!reported) {
    if (isBuiltinName(expr->name))
      error(expr->loc, "'" + expr->name + "' is a function; as a value it must be called");
    else
      unknownName(ident);
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Operators
//===----------------------------------------------------------------------===//

Value Checker::eval(const Expr *expr) {
  Nest nest(*this, expr->loc);
  if (halted() || !charge())
    return {};
  at(expr->loc);
  switch (expr->kind) {
  case ExprKind::Integer: {
    // An integer is i32 if it fits, and converts to i64 and f32 where needed.
    uint64_t value = cast<IntegerExpr>(expr)->value;
    if (value > INT64_MAX)
      return fail(expr->loc, "the integer '9223372036854775808' does not fit 64 bits");
    return scalar(builder->integer(value <= INT32_MAX ? ValueType::I32 : ValueType::I64, value),
                  true);
  }
  case ExprKind::Float:
    return scalar(builder->real(cast<FloatExpr>(expr)->value), true);
  case ExprKind::Bool:
    return scalar(builder->integer(ValueType::Bool, cast<BoolExpr>(expr)->value), true);
  case ExprKind::Name:
    return evalName(cast<NameExpr>(expr));
  case ExprKind::Unary:
    return evalUnary(cast<UnaryExpr>(expr));
  case ExprKind::Binary:
    return evalBinary(cast<BinaryExpr>(expr));
  case ExprKind::Index:
    return evalIndex(cast<IndexExpr>(expr));
  case ExprKind::Call:
    return evalCall(cast<CallExpr>(expr));
  case ExprKind::If:
    return evalIf(cast<IfExpr>(expr));
  }
  return {};
}

Value Checker::evalUnary(const UnaryExpr *expr) {
  if (expr->op == UnarySyntax::Minus)
    if (auto *literal = dyn_cast<IntegerExpr>(expr->operand)) {
      // The smallest integers have no positive counterpart.
      int64_t value = int64_t(-literal->value);
      return scalar(builder->integer(isInt<32>(value) ? ValueType::I32 : ValueType::I64, value),
                    true);
    }
  Value value = evalOperand(expr->operand);
  if (value.isError())
    return {};
  at(expr->loc);
  bool isBool = value.type == ValueType::Bool, isReal = value.type == ValueType::F32;
  switch (expr->op) {
  case UnarySyntax::Minus:
    if (isBool)
      return fail(expr->loc, "'-' needs a number, but this is " + describe(value));
    break;
  case UnarySyntax::Bang:
    if (!isBool)
      return fail(expr->loc, "'!' needs a bool, but this is " + describe(value));
    break;
  case UnarySyntax::Tilde:
    if (isBool || isReal)
      return fail(expr->loc, "'~' needs an integer, but this is " + describe(value) +
                                 (isBool ? "; a bool is negated with '!'" : ""));
    break;
  }
  UnaryOp op = expr->op == UnarySyntax::Minus ? UnaryOp::Neg : UnaryOp::Not;
  return mapLanes(value, value.type, /*folds=*/true, expr->loc,
                  [&](ArrayRef<const Node *> lane) { return builder->unary(op, lane[0]); });
}

Value Checker::evalBinary(const BinaryExpr *expr) {
  // a + b + c + ... nests to the left as deep as it is long: a loop, not a
  // recursion.
  SmallVector<const BinaryExpr *> spine{expr};
  while (auto *inner = dyn_cast<BinaryExpr>(spine.back()->lhs))
    spine.push_back(inner);
  Value value = evalOperand(spine.back()->lhs);
  for (const BinaryExpr *next : reverse(spine)) {
    if (halted() || !charge())
      return {};
    if (expanding && value.isBool() && value.known()) {
      // Of what a constant decides only the shape is looked at, as with `if`.
      bool known = value.known()->constant.integer;
      if ((next->op == BinarySyntax::LogicalAnd && !known) ||
          (next->op == BinarySyntax::LogicalOr && known)) {
        value = beside(value, shapeOf([&] { return evalOperand(next->rhs); }));
        continue;
      }
    }
    value = applyBinary(next, value, evalOperand(next->rhs));
  }
  return value;
}

static BinaryOp binaryOp(BinarySyntax op) {
  switch (op) {
  case BinarySyntax::LogicalOr:
  case BinarySyntax::BitOr:
    return BinaryOp::Or;
  case BinarySyntax::LogicalAnd:
  case BinarySyntax::BitAnd:
    return BinaryOp::And;
  case BinarySyntax::BitXor:
    return BinaryOp::Xor;
  case BinarySyntax::Equal:
    return BinaryOp::Eq;
  case BinarySyntax::NotEqual:
    return BinaryOp::Ne;
  case BinarySyntax::Less:
    return BinaryOp::Lt;
  case BinarySyntax::LessEqual:
    return BinaryOp::Le;
  case BinarySyntax::Greater:
    return BinaryOp::Gt;
  case BinarySyntax::GreaterEqual:
    return BinaryOp::Ge;
  case BinarySyntax::ShiftLeft:
    return BinaryOp::Shl;
  case BinarySyntax::ShiftRight:
    return BinaryOp::Shr;
  case BinarySyntax::Add:
    return BinaryOp::Add;
  case BinarySyntax::Subtract:
    return BinaryOp::Sub;
  case BinarySyntax::Multiply:
    return BinaryOp::Mul;
  case BinarySyntax::Divide:
    return BinaryOp::Div;
  case BinarySyntax::FloorDivide:
    return BinaryOp::FloorDiv;
  case BinarySyntax::Modulo:
  case BinarySyntax::Pipe:
    break;
  }
  return BinaryOp::Mod;
}

Value Checker::applyBinary(const BinaryExpr *expr, const Value &lhs, const Value &rhs) {
  if (lhs.isError() || rhs.isError())
    return {};
  SMLoc loc = expr->loc;
  ValueType a = lhs.type, b = rhs.type;
  auto isBool = [](ValueType type) { return type == ValueType::Bool; };
  auto isInt = [](ValueType type) { return type == ValueType::I32 || type == ValueType::I64; };
  auto mismatch = [&](const Twine &needs) {
    fail(loc, "'" + expr->text + "' needs " + needs + ", but these are " + describe(lhs) + " and " +
                  describe(rhs));
    if (expr->op == BinarySyntax::FloorDivide)
      diags.noteDivision(loc);
    return Value();
  };
  BinaryOp op = binaryOp(expr->op);
  ValueType type = a;
  switch (expr->op) {
  case BinarySyntax::LogicalOr:
  case BinarySyntax::LogicalAnd:
    if (!isBool(a) || !isBool(b))
      return mismatch("two bools");
    break;
  case BinarySyntax::BitOr:
  case BinarySyntax::BitXor:
  case BinarySyntax::BitAnd:
    if (!(isBool(a) && isBool(b)) && !(isInt(a) && isInt(b)))
      return mismatch("two bools or two integers");
    commonType(a, b, type);
    break;
  case BinarySyntax::Equal:
  case BinarySyntax::NotEqual:
    if (!commonType(a, b, type))
      return mismatch("two bools or two numbers");
    break;
  case BinarySyntax::ShiftLeft:
  case BinarySyntax::ShiftRight: {
    if (!isInt(a) || !isInt(b))
      return mismatch("two integers");
    int64_t bits = a == ValueType::I32 ? 32 : 64;
    if (expanding && rhs.known()) {
      int64_t amount = rhs.known()->constant.integer;
      if (amount < 0 || amount >= bits)
        return fail(loc, "a shift of " + spelling(a) + " by " + Twine(amount) + " is outside 0.." +
                             Twine(bits - 1));
    }
    // Amounts count modulo the width, so that a shift is defined for all.
    at(loc);
    return mapLanes({lhs, rhs}, a, /*folds=*/true, loc, [&](ArrayRef<const Node *> lane) {
      const Node *amount = builder->binary(BinaryOp::And, lane[1], builder->integer(b, bits - 1));
      return builder->binary(op, lane[0], builder->cast(a, amount));
    });
  }
  default:
    if (isBool(a) || isBool(b))
      return mismatch("two numbers");
    commonType(a, b, type);
    if (expr->op == BinarySyntax::Divide)
      type = ValueType::F32;
    break;
  }
  at(loc);
  Value left = convert(lhs, type), right = convert(rhs, type);
  at(loc);
  return mapLanes(
      {left, right}, isComparison(op) ? ValueType::Bool : type, /*folds=*/true, loc,
      [&](ArrayRef<const Node *> lane) { return builder->binary(op, lane[0], lane[1]); });
}

//===----------------------------------------------------------------------===//
// Indexing
//===----------------------------------------------------------------------===//

Value Checker::evalIndex(const IndexExpr *expr) {
  Value base = eval(expr->base);
  SmallVector<Value, 6> indices;
  bool valid = !base.isError();
  for (const Expr *index : expr->indices) {
    Value value = indices.emplace_back(evalOperand(index));
    if (!value.isError() && !value.isInteger())
      error(index->loc, "an index must be an integer, but this is " + describe(value));
    valid &= value.isInteger();
  }
  if (!valid)
    return {};
  at(expr->loc);

  if (base.isVector()) {
    if (indices.size() != 1)
      return fail(expr->loc, "a vector has one index, but " + Twine(indices.size()) + " are given");
    SMLoc loc = expr->indices[0]->loc;
    if (!indices[0].isConst || (expanding && !indices[0].known()))
      return fail(loc, "the index of a vector must be constant; with another index, read the "
                       "element from the tensor");
    if (!expanding)
      return scalar(base.lanes[0], false);
    int64_t index = indices[0].known()->constant.integer;
    if (index < 0 || size_t(index) >= base.lanes.size())
      return fail(loc, "index " + Twine(index) + " is outside a vector of " +
                           Twine(base.lanes.size()) + " elements");
    return scalar(base.lanes[index], false);
  }
  if (!base.isTensor())
    return fail(expr->loc,
                "only tensors and vectors can be indexed, but this is " + describe(base));

  const TensorRef &tensor = *base.tensor;
  size_t rank = tensor.extents.size();
  SmallVector<const Node *, 6> nodes;
  for (const Value &index : indices)
    nodes.push_back(index.node());
  ValueType type = valueTypeOf(tensor.element);
  if (nodes.size() == rank)
    return scalar(builder->load(type, tensor.param, nodes), false);
  const Extent &last = tensor.extents.back();
  if (nodes.size() + 1 == rank && last.kind == Extent::Kind::Number && last.number <= maxVector) {
    if (!charge(last.number))
      return {};
    SmallVector<const Node *> lanes;
    nodes.push_back(nullptr);
    for (int64_t i = 0; i != last.number; ++i) {
      nodes.back() = builder->integer(ValueType::I32, i);
      lanes.push_back(builder->load(type, tensor.param, nodes));
    }
    return vector(type, lanes);
  }
  std::string hint;
  if (nodes.size() + 1 == rank)
    hint = last.kind == Extent::Kind::Number
               ? ("; a row of more than " + Twine(maxVector) + " elements cannot be read").str()
               : "; a row can be read where the last extent is a number";
  error(expr->loc, "tensor '" + tensor.name + "' has " + Twine(rank) +
                       (rank == 1 ? " axis" : " axes") + ", but " + Twine(nodes.size()) +
                       (nodes.size() == 1 ? " index is given" : " indices are given") + hint);
  diags.note(tensor.loc, "'" + tensor.name + "' is declared here");
  return {};
}

//===----------------------------------------------------------------------===//
// Calls
//===----------------------------------------------------------------------===//

Value Checker::convertArgument(const ParamDecl &param, const Value &value, SMLoc loc,
                               const Decl &decl) {
  if (value.isError())
    return {};
  auto mismatch = [&](const Twine &message) {
    error(loc, message);
    diags.note(param.name.loc,
               "'" + param.name.name + "' of '" + decl.name.name + "' is declared here");
    return Value();
  };
  if (param.type.extents.empty()) {
    ValueType type = valueTypeOf(param.type.element);
    if (!value.isScalar() || !converts(value.type, type))
      return mismatch("'" + param.name.name + "' is " + spelling(type) + ", but this is " +
                      describe(value));
    if (param.isConst && (!value.isConst || (expanding && !value.known())))
      return mismatch("'" + param.name.name + "' is 'const', but this is not a constant");
    return convert(value, type);
  }
  if (!value.isTensor())
    return mismatch("'" + param.name.name + "' is a tensor, but this is " + describe(value));
  const TensorRef &tensor = *value.tensor;
  if (tensor.element != param.type.element)
    return mismatch("'" + param.name.name + "' has " + spelling(param.type.element) +
                    " elements, but '" + tensor.name + "' has " + spelling(tensor.element));
  if (tensor.extents.size() != param.type.extents.size())
    return mismatch("'" + param.name.name + "' has " + Twine(param.type.extents.size()) +
                    " axes, but '" + tensor.name + "' has " + Twine(tensor.extents.size()));
  for (auto [i, formal, actual] : enumerate(param.type.extents, tensor.extents))
    if (formal.kind != Extent::Kind::Any && formal != actual)
      return mismatch("axis " + Twine(i) + " of '" + tensor.name +
                      "' does not have the extent that '" + param.name.name + "' declares");
  return value;
}

/// Evaluates the arguments and fits them to the parameters. False if something
/// is wrong, reported.
bool Checker::bindArguments(const CallExpr *call, const Ident &callee, DeclRef ref,
                            SmallVectorImpl<Value> &args) {
  const Decl &decl = *ref.decl;
  ArrayRef<Expr *> given = call ? call->args : ArrayRef<Expr *>();
  size_t required = count_if(decl.params, [](const ParamDecl &p) { return !p.defaultValue; });
  if (given.size() < required || given.size() > decl.params.size()) {
    for (const Expr *arg : given)
      eval(arg);
    std::string takes = required == decl.params.size()
                            ? Twine(required).str()
                            : (Twine(required) + " to " + Twine(decl.params.size())).str();
    error(callee.loc, "'" + decl.name.name + "' takes " + takes + " argument" +
                          (takes == "1" ? "" : "s") + ", but " + Twine(given.size()) +
                          (given.size() == 1 ? " is given" : " are given"));
    noteDeclaration(decl);
    return false;
  }
  bool valid = true;
  for (auto [i, param] : enumerate(decl.params)) {
    Value value;
    if (i < given.size()) {
      value = convertArgument(param, eval(given[i]), given[i]->loc, decl);
    } else if (auto constant = evalConstant(param.defaultValue, param, *ref.module)) {
      at(callee.loc);
      value = scalar(builder->constant(*constant), true);
    }
    valid &= !value.isError();
    args.push_back(value);
  }
  return valid;
}

/// The value of a function, mask or score for these arguments.
Value Checker::use(DeclRef ref, ArrayRef<Value> args, ArrayRef<Value> coordinates, SMLoc loc) {
  const Decl &decl = *ref.decl;
  if (!expanding) {
    const Signature &signature = signatureOf(ref);
    if (signature.state == State::InProgress) {
      error(loc, "'" + decl.name.name + "' uses itself; recursion is not supported");
      noteDeclaration(decl);
      return {};
    }
    return opaque(signature.result);
  }
  ReturnSpec spec;
  spec.name = decl.name.name;
  if (decl.kind == DeclKind::Mod)
    spec.kind = decl.mod.kind == ModKind::Mask ? ReturnSpec::Kind::Mask : ReturnSpec::Kind::Score;
  else if (decl.returnType)
    spec.kind = ReturnSpec::Kind::Declared, spec.type = valueTypeOf(decl.returnType->element);
  Nest nest(*this, loc);
  return inFrame(*ref.module, spec, loc, decl.what(), [&] {
    for (auto [param, value] : zip_equal(decl.params, args)) {
      Value bound = value;
      if (value.isTensor()) { // inside, it goes by the name it has there
        auto *tensor = new (program.arena().Allocate<TensorRef>()) TensorRef(*value.tensor);
        tensor->name = param.name.name;
        tensor->loc = param.name.loc;
        bound.tensor = tensor;
      }
      bound.isConst &= param.isConst; // as it was while checking
      declare(param.name, bound);
    }
    return evalDecl(decl, coordinates);
  });
}

Value Checker::evalCall(const CallExpr *call) {
  const Ident &callee = call->callee;
  if (const BuiltinInfo *info = lookupBuiltin(callee.name)) {
    if (call->hasSecondList)
      return fail(callee.loc, "the result of '" + callee.name + "' cannot be called");
    return evalBuiltin(call, *info);
  }
  bool reported;
  DeclRef ref = modules.lookup(*frame->module, callee, reported);
  if (!ref) {
    for (const Expr *arg : call->args)
      eval(arg);
    if (!reported)
      unknownCallee(callee);
    return {};
  }
  const Decl &decl = *ref.decl;
  if (inDefault)
    return fail(callee.loc, "a default cannot use '" + callee.name + "'; it is made from numbers");
  SmallVector<Value> args;
  if (decl.kind == DeclKind::Fn) {
    if (call->hasSecondList)
      return fail(callee.loc, "the result of '" + callee.name + "' cannot be called");
    if (!bindArguments(call, callee, ref, args))
      return {};
    return use(ref, args, {}, callee.loc);
  }

  // A mask or a score at given coordinates. Without parameters, the only list is
  // that of the coordinates.
  ModKind kind = decl.mod.kind;
  StringRef names = kind == ModKind::Mask ? "(b, h, q, kv)" : "(s, b, h, q, kv)";
  size_t expected = kind == ModKind::Mask ? 4 : 5;
  bool implicit = !call->hasSecondList && decl.params.empty();
  ArrayRef<Expr *> coordinateExprs = implicit ? call->args : call->secondArgs;
  if ((!implicit && !call->hasSecondList) || coordinateExprs.size() != expected) {
    for (const Expr *arg : call->args)
      eval(arg);
    for (const Expr *arg : call->secondArgs)
      eval(arg);
    error(callee.loc, "the " + decl.what() + " '" + callee.name + "' is called with " +
                          (decl.params.empty() ? "" : "its arguments and then ") +
                          "coordinates, as in '" + callee.name +
                          (decl.params.empty() ? "" : "(...)") + names + "'");
    noteDeclaration(decl);
    return {};
  }
  CallExpr withoutArgs(callee, {});
  bool valid = bindArguments(implicit ? &withoutArgs : call, callee, ref, args);
  SmallVector<Value, 5> coordinates;
  for (auto [i, expr] : enumerate(coordinateExprs)) {
    Value value = evalOperand(expr);
    ValueType type = kind == ModKind::Score && i == 0 ? ValueType::F32 : ValueType::I32;
    if (!value.isError() && (!value.isScalar() || !converts(value.type, type))) {
      error(expr->loc, "this coordinate must be " + spelling(type) + ", but is " + describe(value));
      value = {};
    }
    valid &= !value.isError();
    if (!value.isError())
      coordinates.push_back(convert(value, type));
  }
  return valid ? use(ref, args, coordinates, callee.loc) : Value();
}

//===----------------------------------------------------------------------===//
// Compositions
//===----------------------------------------------------------------------===//

/// `causal & !window(w)` for a mask, `alibi(slope) |> softcap(30.0)` for a
/// score. A pipe replaces the score among the coordinates.
Value Checker::evalComposition(const Expr *expr, ModKind kind,
                               SmallVectorImpl<Value> &coordinates) {
  Nest nest(*this, expr->loc);
  if (halted() || !charge())
    return {};
  bool isMask = kind == ModKind::Mask;
  if (auto *binary = dyn_cast<BinaryExpr>(expr)) {
    SmallVector<const BinaryExpr *> spine{binary};
    while (auto *inner = dyn_cast<BinaryExpr>(spine.back()->lhs))
      spine.push_back(inner);
    Value value = evalComposition(spine.back()->lhs, kind, coordinates);
    for (const BinaryExpr *next : reverse(spine)) {
      bool isBit = next->op == BinarySyntax::BitAnd || next->op == BinarySyntax::BitOr ||
                   next->op == BinarySyntax::BitXor;
      if (isMask ? !isBit : next->op != BinarySyntax::Pipe) {
        fail(next->loc, isMask ? "masks are composed with '&', '|', '^' and '!'"
                               : "scores are composed with '|>'");
        diags.noteDivision(next->loc);
        return {};
      }
      if (!isMask && !value.isError())
        coordinates[0] = value;
      Value rhs = evalComposition(next->rhs, kind, coordinates);
      value = !isMask ? rhs : applyBinary(next, value, rhs);
    }
    return value;
  }
  if (auto *unary = dyn_cast<UnaryExpr>(expr); unary && isMask && unary->op == UnarySyntax::Bang) {
    Value value = evalComposition(unary->operand, kind, coordinates);
    at(expr->loc);
    return mapLanes(value, ValueType::Bool, /*folds=*/true, expr->loc,
                    [&](ArrayRef<const Node *> l) { return builder->unary(UnaryOp::Not, l[0]); });
  }
  auto *call = dyn_cast<CallExpr>(expr);
  auto *name = dyn_cast<NameExpr>(expr);
  StringRef wanted = isMask ? "mask" : "score";
  if (!call && !name)
    return fail(expr->loc, "expected the name of a " + wanted + " here; code goes into '{ }'");
  Ident callee = call ? call->callee : Ident{name->name, name->loc};
  bool reported;
  DeclRef ref = modules.lookup(*frame->module, callee, reported);
  if (!ref) {
    if (!reported) {
      if (isBuiltinName(callee.name) || findVariable(callee.name))
        error(callee.loc, "'" + callee.name + "' is not a " + wanted);
      else
        unknownCallee(callee);
    }
    return {};
  }
  const Decl &decl = *ref.decl;
  if (decl.kind == DeclKind::Fn || decl.mod.kind != kind) {
    error(callee.loc,
          "'" + callee.name + "' is a " + decl.what() + ", but a " + wanted + " is needed here");
    noteDeclaration(decl);
    return {};
  }
  if (call && call->hasSecondList)
    return fail(callee.loc, "a composition passes the coordinates itself; write '" + callee.name +
                                "(...)' with its arguments only");
  SmallVector<Value> args;
  if (!bindArguments(call, callee, ref, args))
    return {};
  return use(ref, args, coordinates, callee.loc);
}
