//===-- CheckBody.cpp - Statements and control flow -------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Checker.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/Support/SaveAndRestore.h"

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

//===----------------------------------------------------------------------===//
// Where a `return` may be
//===----------------------------------------------------------------------===//
//
// A body is evaluated as a tree of paths: after `if c { return a }` come the
// statements that follow, as if they were its `else`. The paths meet again in a
// select of their results, so nothing of this is left in the program.

Value Checker::evalBody(const Block *body) {
  SaveAndRestore<const char *> allowed(returnBlocker, nullptr);
  return evalSequence(body->stmts, body->close, nullptr);
}

Value Checker::evalSequence(ArrayRef<Stmt *> stmts, SMLoc end, const Rest *rest) {
  Nest nest(*this, end);
  for (size_t i = 0; i != stmts.size(); ++i) {
    const Stmt *stmt = stmts[i];
    if (!charge())
      return {};
    bool isLast = i + 1 == stmts.size();
    if (auto *ret = dyn_cast<ReturnStmt>(stmt)) {
      if (!isLast)
        error(stmts[i + 1]->loc, "this is never reached; a 'return' comes before it");
      return checkReturn(eval(ret->value), ret->value->loc);
    }
    auto *value = dyn_cast<ValueStmt>(stmt);
    auto *ifExpr = value ? dyn_cast<IfExpr>(value->value) : nullptr;
    if (ifExpr) {
      bool hasReturn =
          ifExpr->thenBlock->hasReturn || (ifExpr->elseBlock && ifExpr->elseBlock->hasReturn);
      if (isLast && (hasReturn || !rest))
        return evalTailIf(ifExpr, rest);
      if (hasReturn) {
        Rest following{stmts.drop_front(i + 1), end, variables.size(), rest};
        Value result = evalTailIf(ifExpr, &following);
        if (!expanding && !following.reached && !halted())
          error(stmts[i + 1]->loc,
                "this is never reached; every path before it ends in a 'return'");
        return result;
      }
    } else if (value && isLast && !rest) {
      return checkReturn(eval(value->value), value->value->loc);
    }
    exec(stmt);
  }
  if (!rest)
    return fail(end, "the body ends here without returning a value");
  // The statements that follow do not see this block's names; whoever evaluates
  // the other arm does again.
  rest->reached = true;
  size_t mark = trail.size();
  std::vector<Variable> inner(variables.begin() + rest->scope, variables.end());
  if (!charge(inner.size()))
    return {};
  popScope(rest->scope);
  Value result = evalSequence(rest->stmts, rest->end, rest->next);
  popScope(rest->scope);
  undo(mark);
  for (const Variable &variable : inner) {
    frame->names[variable.name] = variables.size();
    variables.push_back(variable);
  }
  return result;
}

/// One arm of an `if` that may return, and what comes after it.
Value Checker::evalBranch(const Block *block, const IfExpr *expr, const Rest *rest) {
  size_t scope = variables.size(), mark = trail.size();
  Value result;
  if (block)
    result = evalSequence(block->stmts, block->close, rest);
  else if (rest)
    result = evalSequence({}, expr->loc, rest);
  else
    result = fail(expr->loc, "an 'if' that gives a value needs an 'else'");
  popScope(scope);
  undo(mark);
  return result;
}

Value Checker::evalTaken(const Node *condition, const IfExpr *expr,
                         function_ref<Value(const Block *)> evalArm) {
  const Block *taken = expr->thenBlock, *other = expr->elseBlock;
  if (!condition->constant.integer)
    std::swap(taken, other);
  Value leftOut = shapeOf([&] { return evalArm(other); });
  return beside(evalArm(taken), leftOut);
}

Value Checker::evalTailIf(const IfExpr *expr, const Rest *rest) {
  Value condition = evalCondition(expr->condition);
  if (expanding && condition.known())
    return evalTaken(condition.known(), expr,
                     [&](const Block *arm) { return evalBranch(arm, expr, rest); });
  Value ifTrue = evalBranch(expr->thenBlock, expr, rest);
  Value ifFalse = evalBranch(expr->elseBlock, expr, rest);
  return select(condition, ifTrue, ifFalse, expr->loc, "the branches of this 'if'");
}

Value Checker::checkReturn(const Value &value, SMLoc loc) {
  if (value.isError())
    return {};
  const ReturnSpec &spec = frame->spec;
  auto named = [&](StringRef what) {
    return spec.name.empty() ? ("a " + what).str() : (what + " '" + spec.name + "'").str();
  };
  switch (spec.kind) {
  case ReturnSpec::Kind::Inferred:
    return operand(value, loc);
  case ReturnSpec::Kind::Declared:
    if (value.isScalar() && converts(value.type, spec.type))
      return convert(value, spec.type);
    return fail(loc, named("function") + " is declared to return " + spelling(spec.type) +
                         ", but returns " + describe(value));
  case ReturnSpec::Kind::Mask: {
    if (value.isBool())
      return value;
    bool isNumber = value.isScalar();
    return fail(loc, (spec.name.empty() ? "a mask_mod" : named("mask")) +
                         " must return bool, but this is " + describe(value) +
                         (isNumber ? "; compare it, as in 'x != 0'" : ""));
  }
  case ReturnSpec::Kind::Score:
    if (value.isScalar() && converts(value.type, ValueType::F32))
      return convert(value, ValueType::F32);
    return fail(loc, (spec.name.empty() ? "a score_mod" : named("score")) +
                         " must return a number, but this is " + describe(value));
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Statements
//===----------------------------------------------------------------------===//

void Checker::undo(size_t mark) {
  while (trail.size() > mark) {
    auto &[index, value] = trail.back();
    if (index < variables.size())
      variables[index].value = value;
    trail.pop_back();
  }
}

void Checker::exec(const Stmt *stmt) {
  if (halted())
    return;
  switch (stmt->kind) {
  case StmtKind::Let:
    return execLet(cast<LetStmt>(stmt));
  case StmtKind::Assign:
    return execAssign(cast<AssignStmt>(stmt));
  case StmtKind::For:
    return execFor(cast<ForStmt>(stmt));
  case StmtKind::Return:
    error(stmt->loc, Twine("'return' cannot leave ") + returnBlocker);
    eval(cast<ReturnStmt>(stmt)->value);
    return;
  case StmtKind::Value: {
    const Expr *expr = cast<ValueStmt>(stmt)->value;
    if (auto *ifExpr = dyn_cast<IfExpr>(expr))
      return execIf(ifExpr);
    if (!eval(expr).isError())
      error(expr->loc, "the value of this expression is not used");
    return;
  }
  }
}

void Checker::execLet(const LetStmt *stmt) {
  Value value = operand(eval(stmt->init), stmt->init->loc);
  if (stmt->type) {
    if (!stmt->type->extents.empty()) {
      error(stmt->type->loc, "a variable cannot be a tensor");
      value = {};
    } else if (!checkScalarType(stmt->type->element, stmt->type->loc)) {
      value = {};
    } else if (!value.isError()) {
      ValueType type = valueTypeOf(stmt->type->element);
      if (value.isScalar() && converts(value.type, type)) {
        value = convert(value, type);
      } else {
        error(stmt->init->loc, "'" + stmt->name.name + "' is declared " + spelling(type) +
                                   ", but its value is " + describe(value));
        value = {};
      }
    }
  }
  declare(stmt->name, value, stmt->isMutable);
}

void Checker::execAssign(const AssignStmt *stmt) {
  Value value = operand(eval(stmt->value), stmt->value->loc);
  Variable *variable = findVariable(stmt->name.name);
  if (!variable)
    return unknownName(stmt->name);
  if (!variable->isMutable) {
    error(stmt->name.loc, "'" + stmt->name.name +
                              "' cannot be assigned to; only a variable "
                              "declared with 'let mut' can");
    diags.note(variable->loc, "it is declared here");
    return;
  }
  Value &place = variable->value;
  if (value.isError() || place.isError()) {
    value = {};
  } else if (value.isScalar() && place.isScalar() && converts(value.type, place.type)) {
    value = convert(value, place.type);
  } else if (value.kind != place.kind || value.type != place.type ||
             value.lanes.size() != place.lanes.size()) {
    error(stmt->value->loc,
          "'" + stmt->name.name + "' is " + describe(place) + ", but this is " + describe(value));
    diags.note(variable->loc, "its type comes from its first value, here");
    return;
  }
  trail.push_back({unsigned(variable - variables.data()), place});
  place = value;
}

void Checker::execFor(const ForStmt *stmt) {
  auto bound = [&](const Expr *expr) {
    Value value = evalOperand(expr);
    if (value.isError())
      return value;
    if (!value.isScalar() || value.type != ValueType::I32)
      return fail(expr->loc, "the bounds of a loop must be i32, but this is " + describe(value));
    if (!value.isConst || (expanding && !value.known())) {
      error(expr->loc, "the bounds of a loop must be constant: a number, or made from numbers and "
                       "'const' parameters");
      return Value();
    }
    return value;
  };
  Value low = bound(stmt->low), high = bound(stmt->high);
  SaveAndRestore<const char *> blocked(returnBlocker, "a 'for' loop");
  size_t scope = variables.size();
  auto iterate = [&](const Value &index) {
    declare(stmt->variable, index);
    execBlock(stmt->body);
    popScope(scope);
  };
  if (!expanding) {
    Value index;
    index.kind = Value::Kind::Scalar;
    return iterate(opaque(index, /*isConst=*/true));
  }
  if (low.isError() || high.isError())
    return;
  int64_t end = high.known()->constant.integer;
  for (int64_t i = low.known()->constant.integer; i < end && charge() && !halted(); ++i) {
    at(stmt->variable.loc);
    iterate(scalar(builder->integer(ValueType::I32, i), /*isConst=*/true));
  }
}

void Checker::execBlock(const Block *block) {
  Nest nest(*this, block->open);
  size_t scope = variables.size();
  for (const Stmt *stmt : block->stmts) {
    if (!charge())
      break;
    exec(stmt);
  }
  popScope(scope);
}

void Checker::execIf(const IfExpr *expr) {
  Value condition = evalCondition(expr->condition);
  if (expanding && condition.known()) {
    const Block *taken = condition.known()->constant.integer ? expr->thenBlock : expr->elseBlock;
    return taken ? execBlock(taken) : void();
  }
  runArms(
      condition, expr->loc, [&] { execBlock(expr->thenBlock); },
      [&] {
        if (expr->elseBlock)
          execBlock(expr->elseBlock);
      });
}

void Checker::runArms(const Value &condition, SMLoc loc, function_ref<void()> thenArm,
                      function_ref<void()> elseArm) {
  size_t mark = trail.size();
  MapVector<unsigned, std::pair<Value, Value>> assigned;
  auto run = [&](function_ref<void()> arm, bool isThen) {
    arm();
    for (size_t i = mark; i != trail.size(); ++i) {
      unsigned index = trail[i].first;
      if (index >= variables.size())
        continue; // of an inner scope
      // Whoever is seen first holds the value from before the `if`.
      auto [it, inserted] = assigned.try_emplace(index, trail[i].second, trail[i].second);
      (isThen ? it->second.first : it->second.second) = variables[index].value;
    }
    undo(mark);
  };
  run(thenArm, true);
  run(elseArm, false);
  for (auto &[index, values] : assigned) {
    auto &[ifTrue, ifFalse] = values;
    assert((ifTrue.isError() || ifFalse.isError() || ifTrue.type == ifFalse.type) &&
           "an assignment changes the type of its variable");
    trail.push_back({index, variables[index].value});
    variables[index].value = merge(condition, ifTrue, ifFalse, loc);
  }
}

//===----------------------------------------------------------------------===//
// `if` as an expression
//===----------------------------------------------------------------------===//

Value Checker::evalCondition(const Expr *expr) {
  Value value = evalOperand(expr);
  if (value.isError() || value.isBool())
    return value;
  return fail(expr->loc, "the condition of an 'if' must be bool, but this is " + describe(value) +
                             (value.isScalar() ? "; compare it, as in 'x != 0'" : ""));
}

/// The value of a block: that of its last statement.
Value Checker::evalBlock(const Block *block, const IfExpr *expr) {
  Nest nest(*this, block->open);
  size_t scope = variables.size();
  Value result;
  if (block->stmts.empty() || !isa<ValueStmt>(block->stmts.back())) {
    for (const Stmt *stmt : block->stmts)
      exec(stmt);
    if (block->stmts.empty() || !isa<ReturnStmt>(block->stmts.back())) {
      error(block->close, "expected the value of this block before its '}'");
      diags.note(expr->loc, "the 'if' is used as a value");
    }
  } else {
    for (const Stmt *stmt : block->stmts.drop_back())
      if (charge())
        exec(stmt);
    if (!halted())
      result = evalOperand(cast<ValueStmt>(block->stmts.back())->value);
  }
  popScope(scope);
  return result;
}

Value Checker::evalIf(const IfExpr *expr) {
  SaveAndRestore<const char *> blocked(returnBlocker, "an 'if' that is used as a value");
  Value condition = evalCondition(expr->condition);
  if (!expr->elseBlock) {
    evalBlock(expr->thenBlock, expr);
    return fail(expr->loc, "an 'if' that gives a value needs an 'else'");
  }
  if (expanding && condition.known())
    return evalTaken(condition.known(), expr,
                     [&](const Block *arm) { return evalBlock(arm, expr); });
  Value ifTrue, ifFalse;
  runArms(
      condition, expr->loc, [&] { ifTrue = evalBlock(expr->thenBlock, expr); },
      [&] { ifFalse = evalBlock(expr->elseBlock, expr); });
  return select(condition, ifTrue, ifFalse, expr->loc, "the branches of this 'if'");
}
