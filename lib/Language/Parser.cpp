//===-- Parser.cpp - Expressions and statements -----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParserImpl.h"

#include "heed/Language/Numbers.h"

#include <cmath>
#include <optional>

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

//===----------------------------------------------------------------------===//
// Expressions
//===----------------------------------------------------------------------===//

namespace {
struct Operator {
  BinarySyntax op;
  unsigned precedence;
};
constexpr unsigned comparisonPrecedence = 3;
} // namespace

/// Precedence is Python's and Rust's: `a & mask == 0` compares `a & mask`.
static std::optional<Operator> binaryOperator(TokenKind kind) {
  static constexpr struct {
    TokenKind kind;
    BinarySyntax op;
    unsigned precedence;
  } operators[] = {
      {TokenKind::BarBar, BinarySyntax::LogicalOr, 1},
      {TokenKind::AmpAmp, BinarySyntax::LogicalAnd, 2},
      {TokenKind::Equal, BinarySyntax::Equal, comparisonPrecedence},
      {TokenKind::NotEqual, BinarySyntax::NotEqual, comparisonPrecedence},
      {TokenKind::Less, BinarySyntax::Less, comparisonPrecedence},
      {TokenKind::LessEqual, BinarySyntax::LessEqual, comparisonPrecedence},
      {TokenKind::Greater, BinarySyntax::Greater, comparisonPrecedence},
      {TokenKind::GreaterEqual, BinarySyntax::GreaterEqual, comparisonPrecedence},
      {TokenKind::Bar, BinarySyntax::BitOr, 4},
      {TokenKind::Caret, BinarySyntax::BitXor, 5},
      {TokenKind::Amp, BinarySyntax::BitAnd, 6},
      {TokenKind::ShiftLeft, BinarySyntax::ShiftLeft, 7},
      {TokenKind::ShiftRight, BinarySyntax::ShiftRight, 7},
      {TokenKind::Plus, BinarySyntax::Add, 8},
      {TokenKind::Minus, BinarySyntax::Subtract, 8},
      {TokenKind::Star, BinarySyntax::Multiply, 9},
      {TokenKind::Slash, BinarySyntax::Divide, 9},
      {TokenKind::SlashSlash, BinarySyntax::FloorDivide, 9},
      {TokenKind::Percent, BinarySyntax::Modulo, 9},
  };
  for (const auto &known : operators)
    if (known.kind == kind)
      return Operator{known.op, known.precedence};
  return std::nullopt;
}

Expr *Parser::parseComposition() {
  Expr *lhs = parseExpr();
  while (lhs && at(TokenKind::Pipe)) {
    Token op = token;
    advance();
    Expr *rhs = parseExpr();
    if (!rhs)
      return nullptr;
    lhs = make<BinaryExpr>(op.loc(), op.text, BinarySyntax::Pipe, lhs, rhs);
  }
  return lhs;
}

Expr *Parser::parseBinary(unsigned minPrecedence) {
  Nest nest(*this);
  if (nest.tooDeep())
    return nullptr;
  Expr *lhs = parseUnary();
  while (lhs) {
    std::optional<Operator> op = binaryOperator(token.kind);
    if (!op || op->precedence < minPrecedence)
      break;
    Token opToken = token;
    advance();
    Expr *rhs = parseBinary(op->precedence + 1);
    if (!rhs)
      return nullptr;
    lhs = make<BinaryExpr>(opToken.loc(), opToken.text, op->op, lhs, rhs);
    if (op->precedence == comparisonPrecedence) {
      std::optional<Operator> next = binaryOperator(token.kind);
      if (next && next->precedence == comparisonPrecedence) {
        diags.error(token.loc(), "comparisons do not chain; write 'a < b && b < c'");
        diags.note(opToken.loc(), "the first comparison is here");
        return nullptr;
      }
    }
  }
  return lhs;
}

Expr *Parser::parseUnary() {
  std::optional<UnarySyntax> op;
  if (at(TokenKind::Minus))
    op = UnarySyntax::Minus;
  else if (at(TokenKind::Bang))
    op = UnarySyntax::Bang;
  else if (at(TokenKind::Tilde))
    op = UnarySyntax::Tilde;
  if (!op)
    return parsePostfix();
  Nest nest(*this);
  if (nest.tooDeep())
    return nullptr;
  SMLoc loc = token.loc();
  advance();
  Expr *operand = parseUnary();
  return operand ? make<UnaryExpr>(loc, *op, operand) : nullptr;
}

bool Parser::parseArgs(TokenKind close, ArrayRef<Expr *> &args) {
  advance(); // the opening bracket
  SmallVector<Expr *> list;
  while (!at(close)) {
    Expr *arg = parseExpr();
    if (!arg)
      return false;
    list.push_back(arg);
    if (!accept(TokenKind::Comma))
      break;
  }
  if (!at(close)) {
    errorExpected(Twine("',' or ") + describe(close));
    return false;
  }
  advance();
  args = copy<Expr *>(list);
  return true;
}

Expr *Parser::parsePostfix() {
  Expr *expr = parsePrimary();
  unsigned chain = 0;
  // An opening bracket on a new line starts something new.
  while (expr && !token.startsLine) {
    if (token.is(TokenKind::LParen)) {
      auto *call = dyn_cast<CallExpr>(expr);
      if (auto *name = dyn_cast<NameExpr>(expr)) {
        call = make<CallExpr>(Ident{name->name, name->loc}, ArrayRef<Expr *>());
        if (!parseArgs(TokenKind::RParen, call->args))
          return nullptr;
        expr = call;
      } else if (call && !call->hasSecondList) {
        call->hasSecondList = true;
        if (!parseArgs(TokenKind::RParen, call->secondArgs))
          return nullptr;
      } else {
        diags.error(token.loc(), "only a name can be called");
        return nullptr;
      }
    } else if (token.is(TokenKind::LBracket)) {
      // a[0][0]... nests to the left without recursion here, but not for those
      // who walk the tree.
      if (depth + ++chain > maxNesting) {
        Nest nest(*this);
        depth += chain;
        nest.tooDeep();
        depth -= chain;
        return nullptr;
      }
      SMLoc loc = token.loc();
      ArrayRef<Expr *> indices;
      if (!parseArgs(TokenKind::RBracket, indices))
        return nullptr;
      if (indices.empty()) {
        diags.error(loc, "expected an index between '[' and ']'");
        return nullptr;
      }
      expr = make<IndexExpr>(loc, expr, indices);
    } else {
      break;
    }
  }
  return expr;
}

Expr *Parser::parsePrimary() {
  Nest nest(*this);
  if (nest.tooDeep())
    return nullptr;
  at(TokenKind::Eof); // a leading `//` is a comment
  Token first = token;
  switch (token.kind) {
  case TokenKind::Integer: {
    uint64_t value = 0;
    token.text.getAsInteger(token.text.contains_insensitive("x") ? 0 : 10, value);
    advance();
    return make<IntegerExpr>(first.loc(), value);
  }
  case TokenKind::Float: {
    float value = parseF32(first.text).value_or(0.0f);
    advance();
    if (std::isinf(value)) {
      diags.error(first.loc(),
                  "the number '" + first.text + "' does not fit f32; infinity is 'inf'");
      return make<FloatExpr>(first.loc(), 0.0f);
    }
    return make<FloatExpr>(first.loc(), value);
  }
  case TokenKind::Inf:
    advance();
    return make<FloatExpr>(first.loc(), HUGE_VALF);
  case TokenKind::True:
  case TokenKind::False:
    advance();
    return make<BoolExpr>(first.loc(), first.is(TokenKind::True));
  case TokenKind::Identifier:
    advance();
    return make<NameExpr>(Ident{first.text, first.loc()});
  case TokenKind::If:
    return parseIf();
  case TokenKind::LParen: {
    advance();
    Expr *inner = parseExpr();
    if (!inner || !expect(TokenKind::RParen))
      return nullptr;
    return inner;
  }
  default:
    errorExpected("an expression");
    return nullptr;
  }
}

IfExpr *Parser::parseIf() {
  Nest nest(*this);
  if (nest.tooDeep())
    return nullptr;
  SMLoc loc = token.loc();
  advance();
  Expr *condition = parseExpr();
  if (!condition)
    return nullptr;
  Block *thenBlock = parseBlock(" after the condition of 'if'");
  if (!thenBlock)
    return nullptr;
  Block *elseBlock = nullptr;
  if (accept(TokenKind::Else)) {
    if (at(TokenKind::If)) {
      elseBlock = make<Block>();
      elseBlock->open = token.loc();
      IfExpr *nested = parseIf();
      if (!nested)
        return nullptr;
      auto *stmt = make<ValueStmt>(nested->loc);
      stmt->value = nested;
      elseBlock->stmts = copy<Stmt *>({stmt});
      elseBlock->close = nested->elseBlock ? nested->elseBlock->close : nested->thenBlock->close;
      elseBlock->hasReturn =
          nested->thenBlock->hasReturn || (nested->elseBlock && nested->elseBlock->hasReturn);
    } else if (!(elseBlock = parseBlock(" or 'if' after 'else'"))) {
      return nullptr;
    }
  }
  return make<IfExpr>(loc, condition, thenBlock, elseBlock);
}

//===----------------------------------------------------------------------===//
// Statements
//===----------------------------------------------------------------------===//

Block *Parser::parseBlock(const Twine &where) {
  Nest nest(*this);
  if (nest.tooDeep())
    return nullptr;
  auto *block = make<Block>();
  block->open = token.loc();
  if (!expect(TokenKind::LBrace, where))
    return nullptr;
  SmallVector<Stmt *> stmts;
  while (!at(TokenKind::RBrace) && !at(TokenKind::Eof)) {
    if (accept(TokenKind::Semicolon))
      continue;
    const char *begin = token.text.data();
    Stmt *stmt = parseStmt(block->hasReturn);
    if (stmt && parseStmtEnd())
      stmts.push_back(stmt);
    else if (aborted)
      return nullptr;
    else
      recoverInBlock(begin);
  }
  block->close = token.loc();
  if (!at(TokenKind::RBrace)) {
    errorExpected("'}'");
    diags.note(block->open, "to match this '{'");
    return nullptr;
  }
  advance();
  block->stmts = copy<Stmt *>(stmts);
  return block;
}

/// Statements end with their line, at a `;`, or with their block. A statement
/// that ends in a block needs none of these.
bool Parser::parseStmtEnd() {
  if (at(TokenKind::RBrace) || at(TokenKind::Eof) || token.startsLine ||
      accept(TokenKind::Semicolon))
    return true;
  if (last.is(TokenKind::RBrace))
    return true;
  errorExpected("the end of the statement");
  return false;
}

/// Skips to the next line or the end of the block.
void Parser::recoverInBlock(const char *stmtBegin) {
  unsigned braces = 0;
  while (!at(TokenKind::Eof)) {
    bool newLine = token.startsLine && token.text.data() != stmtBegin;
    if (braces == 0 && (at(TokenKind::RBrace) || newLine))
      return;
    if (at(TokenKind::LBrace))
      ++braces;
    else if (at(TokenKind::RBrace))
      --braces;
    advance();
  }
}

Stmt *Parser::parseStmt(bool &hasReturn) {
  SMLoc loc = token.loc();
  if (accept(TokenKind::Let)) {
    auto *stmt = make<LetStmt>(loc);
    stmt->isMutable = accept(TokenKind::Mut);
    if (!expectName(stmt->name, "a name after 'let'"))
      return nullptr;
    if (accept(TokenKind::Colon)) {
      stmt->type = make<TypeRef>();
      if (!parseType(*stmt->type))
        return nullptr;
    }
    if (!expect(TokenKind::Assign, " and a value"))
      return nullptr;
    stmt->init = parseExpr();
    return stmt->init ? stmt : nullptr;
  }
  if (accept(TokenKind::Return)) {
    auto *stmt = make<ReturnStmt>(loc);
    stmt->value = parseExpr();
    hasReturn = true;
    return stmt->value ? stmt : nullptr;
  }
  if (accept(TokenKind::For)) {
    auto *stmt = make<ForStmt>(loc);
    if (!expectName(stmt->variable, "a name after 'for'") ||
        !expect(TokenKind::In, " after the name of the loop") || !(stmt->low = parseExpr()) ||
        !expect(TokenKind::DotDot, " between the bounds of the loop") ||
        !(stmt->high = parseExpr()) || !(stmt->body = parseBlock(" after the bounds of the loop")))
      return nullptr;
    hasReturn |= stmt->body->hasReturn;
    return stmt;
  }
  if (at(TokenKind::If)) {
    // A statement of its own; `if a { 1 } else { 2 } + 3` is not continued.
    IfExpr *expr = parseIf();
    if (!expr)
      return nullptr;
    hasReturn |= expr->thenBlock->hasReturn || (expr->elseBlock && expr->elseBlock->hasReturn);
    auto *stmt = make<ValueStmt>(loc);
    stmt->value = expr;
    return stmt;
  }
  Expr *expr = parseExpr();
  if (!expr)
    return nullptr;
  if (!at(TokenKind::Assign)) {
    auto *stmt = make<ValueStmt>(loc);
    stmt->value = expr;
    return stmt;
  }
  auto *name = dyn_cast<NameExpr>(expr);
  if (!name) {
    diags.error(expr->loc, "only a 'let mut' variable can be assigned to");
    return nullptr;
  }
  advance();
  auto *stmt = make<AssignStmt>(loc);
  stmt->name = {name->name, name->loc};
  stmt->value = parseExpr();
  return stmt->value ? stmt : nullptr;
}
