//===-- Builtins.cpp - The built-in functions -------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Builtins.h"

#include "Checker.h"

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

static constexpr unsigned anyNumber = 1000;

static constexpr BuiltinInfo builtins[] = {
    {"bool", Builtin::ToBool, 1, 1},
    {"i32", Builtin::ToI32, 1, 1},
    {"index", Builtin::ToI32, 1, 1},
    {"i64", Builtin::ToI64, 1, 1},
    {"f32", Builtin::ToF32, 1, 1},
    {"abs", Builtin::Abs, 1, 1},
    {"min", Builtin::Min, 2, anyNumber},
    {"max", Builtin::Max, 2, anyNumber},
    {"clamp", Builtin::Clamp, 3, 3},
    {"square", Builtin::Square, 1, 1},
    {"relu", Builtin::Relu, 1, 1},
    {"pow", Builtin::Pow, 2, 2},
    {"sigmoid", Builtin::Sigmoid, 1, 1},
    {"silu", Builtin::Silu, 1, 1},
    {"gelu", Builtin::Gelu, 1, 1},
    {"where", Builtin::Select, 3, 3},
    {"select", Builtin::Select, 3, 3},
    {"any", Builtin::Any, 1, 1},
    {"all", Builtin::All, 1, 1},
    {"sum", Builtin::Sum, 1, 1},
    {"dot", Builtin::Dot, 2, 2},
    {"floor", Builtin::Math, 1, 1, MathFn::Floor},
    {"ceil", Builtin::Math, 1, 1, MathFn::Ceil},
    {"exp", Builtin::Math, 1, 1, MathFn::Exp},
    {"exp2", Builtin::Math, 1, 1, MathFn::Exp2},
    {"log", Builtin::Math, 1, 1, MathFn::Log},
    {"log2", Builtin::Math, 1, 1, MathFn::Log2},
    {"log1p", Builtin::Math, 1, 1, MathFn::Log1p},
    {"tanh", Builtin::Math, 1, 1, MathFn::Tanh},
    {"sin", Builtin::Math, 1, 1, MathFn::Sin},
    {"cos", Builtin::Math, 1, 1, MathFn::Cos},
    {"sqrt", Builtin::Math, 1, 1, MathFn::Sqrt},
    {"rsqrt", Builtin::Math, 1, 1, MathFn::Rsqrt},
    {"erf", Builtin::Math, 1, 1, MathFn::Erf},
};

const BuiltinInfo *heed::lang::lookupBuiltin(StringRef name) {
  for (const BuiltinInfo &info : builtins)
    if (info.name == name)
      return &info;
  return nullptr;
}

ArrayRef<StringRef> heed::lang::builtinNames() {
  static const std::vector<StringRef> names = [] {
    std::vector<StringRef> names;
    for (const BuiltinInfo &info : builtins)
      names.push_back(info.name);
    return names;
  }();
  return names;
}

Value Checker::applyMath(MathFn fn, const Value &value, SMLoc loc) {
  bool folds = fn == MathFn::Abs || fn == MathFn::Floor || fn == MathFn::Ceil;
  return mapLanes(value, value.type, folds, loc,
                  [&](ArrayRef<const Node *> lane) { return builder->math(fn, lane[0]); });
}

Value Checker::evalBuiltin(const CallExpr *call, const BuiltinInfo &info) {
  SMLoc loc = call->loc;
  StringRef name = info.name;
  SmallVector<Value, 4> args;
  bool valid = true;
  for (const Expr *arg : call->args) {
    args.push_back(evalOperand(arg));
    valid &= !args.back().isError();
  }
  if (args.size() < info.minArgs || args.size() > info.maxArgs) {
    std::string takes = info.maxArgs == anyNumber ? ("at least " + Twine(info.minArgs)).str()
                                                  : Twine(info.minArgs).str();
    return fail(loc, "'" + name + "' takes " + takes + " argument" +
                         (info.maxArgs == 1 ? "" : "s") + ", but " + Twine(args.size()) +
                         (args.size() == 1 ? " is given" : " are given"));
  }
  if (!valid)
    return {};

  // The arguments from `first` on must be numbers; `common` becomes the widest.
  auto numbers = [&](size_t first, ValueType &common) {
    common = args[first].type;
    for (size_t i = first; i != args.size(); ++i) {
      if (args[i].type == ValueType::Bool) {
        error(call->args[i]->loc, "'" + name + "' needs numbers, but this is " + describe(args[i]));
        return false;
      }
      commonType(common, args[i].type, common);
    }
    for (size_t i = first; i != args.size(); ++i) {
      at(call->args[i]->loc);
      args[i] = convert(args[i], common);
    }
    at(loc);
    return true;
  };
  auto reals = [&] {
    ValueType common;
    if (!numbers(0, common))
      return false;
    for (Value &arg : args)
      arg = convert(arg, ValueType::F32);
    return true;
  };
  auto binary = [&](BinaryOp op, const Value &a, const Value &b) {
    return mapLanes({a, b}, a.type, op != BinaryOp::Pow, loc, [&](ArrayRef<const Node *> lane) {
      return builder->binary(op, lane[0], lane[1]);
    });
  };
  auto real = [&](float value) { return scalar(builder->real(value), true); };
  // 1 / (1 + exp(-x))
  auto sigmoid = [&](const Value &x) {
    Value negative = mapLanes(x, ValueType::F32, true, loc, [&](ArrayRef<const Node *> lane) {
      return builder->unary(UnaryOp::Neg, lane[0]);
    });
    Value exp = applyMath(MathFn::Exp, negative, loc);
    return binary(BinaryOp::Div, real(1), binary(BinaryOp::Add, real(1), exp));
  };
  // Folds the lanes of a vector into a scalar, from the first to the last.
  auto reduce = [&](BinaryOp op, const Value &value) {
    const Node *result = value.lanes[0];
    for (const Node *lane : value.lanes.drop_front())
      result = builder->binary(op, result, lane);
    return scalar(result, false);
  };
  auto requireVector = [&](size_t i) {
    if (args[i].isVector())
      return true;
    error(call->args[i]->loc, "'" + name +
                                  "' needs a vector, such as a row of a tensor, but "
                                  "this is " +
                                  describe(args[i]));
    return false;
  };

  at(loc);
  ValueType type;
  switch (info.kind) {
  case Builtin::ToBool:
  case Builtin::ToI32:
  case Builtin::ToI64:
  case Builtin::ToF32: {
    ValueType to = info.kind == Builtin::ToBool  ? ValueType::Bool
                   : info.kind == Builtin::ToI32 ? ValueType::I32
                   : info.kind == Builtin::ToI64 ? ValueType::I64
                                                 : ValueType::F32;
    return mapLanes(args[0], to, /*folds=*/true, loc,
                    [&](ArrayRef<const Node *> lane) { return builder->cast(to, lane[0]); });
  }
  case Builtin::Abs:
    return numbers(0, type) ? applyMath(MathFn::Abs, args[0], loc) : Value();
  case Builtin::Min:
  case Builtin::Max: {
    if (!numbers(0, type))
      return {};
    Value result = args[0];
    for (const Value &arg : ArrayRef(args).drop_front())
      result = binary(info.kind == Builtin::Min ? BinaryOp::Min : BinaryOp::Max, result, arg);
    return result;
  }
  case Builtin::Clamp: // the upper bound wins if they cross, as in torch
    if (!numbers(0, type))
      return {};
    return binary(BinaryOp::Min, binary(BinaryOp::Max, args[0], args[1]), args[2]);
  case Builtin::Square:
    return numbers(0, type) ? binary(BinaryOp::Mul, args[0], args[0]) : Value();
  case Builtin::Relu: {
    if (!numbers(0, type))
      return {};
    Value zero = convert(scalar(builder->integer(ValueType::I32, 0), true), type);
    return binary(BinaryOp::Max, args[0], zero);
  }
  case Builtin::Math:
    return reals() ? applyMath(info.math, args[0], loc) : Value();
  case Builtin::Pow:
    return reals() ? binary(BinaryOp::Pow, args[0], args[1]) : Value();
  case Builtin::Sigmoid:
    return reals() ? sigmoid(args[0]) : Value();
  case Builtin::Silu:
    return reals() ? binary(BinaryOp::Mul, args[0], sigmoid(args[0])) : Value();
  case Builtin::Gelu: { // the exact form: x * (1 + erf(x / sqrt 2)) / 2
    if (!reals())
      return {};
    Value scaled = binary(BinaryOp::Mul, args[0], real(0.70710678118654752440f));
    Value twice = binary(BinaryOp::Add, real(1), applyMath(MathFn::Erf, scaled, loc));
    return binary(BinaryOp::Mul, binary(BinaryOp::Mul, real(0.5f), args[0]), twice);
  }
  case Builtin::Select:
    if (args[0].type != ValueType::Bool)
      return fail(call->args[0]->loc,
                  "the condition of '" + name + "' must be bool, but this is " + describe(args[0]));
    return select(args[0], args[1], args[2], loc, "the choices of this '" + name + "'");
  case Builtin::Any:
  case Builtin::All:
    if (!requireVector(0))
      return {};
    if (args[0].type != ValueType::Bool)
      return fail(call->args[0]->loc,
                  "'" + name + "' needs bools, but this is " + describe(args[0]));
    return reduce(info.kind == Builtin::Any ? BinaryOp::Or : BinaryOp::And, args[0]);
  case Builtin::Sum:
    return requireVector(0) && numbers(0, type) ? reduce(BinaryOp::Add, args[0]) : Value();
  case Builtin::Dot: {
    if (!requireVector(0) || !requireVector(1) || !numbers(0, type))
      return {};
    Value products = binary(BinaryOp::Mul, args[0], args[1]);
    return products.isError() ? Value() : reduce(BinaryOp::Add, products);
  }
  }
  return {};
}
