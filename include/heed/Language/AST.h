//===-- AST.h - The syntax tree of a .heed file -----------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The tree says what is written, with names still text. It lives in the arena
// of its SyntaxTree; names point into the source buffer.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_AST_H
#define HEED_LANGUAGE_AST_H

#include "heed/Language/Program.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Allocator.h"
#include "llvm/Support/Casting.h"
#include "llvm/Support/SMLoc.h"

#include <vector>

namespace heed::lang::ast {

/// A name where it is declared or used.
struct Ident {
  llvm::StringRef name;
  llvm::SMLoc loc;
};

struct TypeRef {
  llvm::SMLoc loc;
  ElementType element = ElementType::I32;
  llvm::ArrayRef<Extent> extents; // empty: a scalar
};

//===----------------------------------------------------------------------===//
// Expressions
//===----------------------------------------------------------------------===//

enum class ExprKind : uint8_t { Integer, Float, Bool, Name, Unary, Binary, Index, Call, If };

struct Expr {
  Expr(ExprKind kind, llvm::SMLoc loc) : kind(kind), loc(loc) {}
  const ExprKind kind;
  /// Where messages point: an operator's own place, otherwise the first token.
  llvm::SMLoc loc;
};

template <ExprKind K>
struct ExprOf : Expr {
  explicit ExprOf(llvm::SMLoc loc) : Expr(K, loc) {}
  static bool classof(const Expr *expr) { return expr->kind == K; }
};

struct IntegerExpr : ExprOf<ExprKind::Integer> {
  IntegerExpr(llvm::SMLoc loc, uint64_t value) : ExprOf(loc), value(value) {}
  uint64_t value; // up to 2^63, which only a minus sign makes representable
};

struct FloatExpr : ExprOf<ExprKind::Float> {
  FloatExpr(llvm::SMLoc loc, float value) : ExprOf(loc), value(value) {}
  float value;
};

struct BoolExpr : ExprOf<ExprKind::Bool> {
  BoolExpr(llvm::SMLoc loc, bool value) : ExprOf(loc), value(value) {}
  bool value;
};

struct NameExpr : ExprOf<ExprKind::Name> {
  explicit NameExpr(Ident ident) : ExprOf(ident.loc), name(ident.name) {}
  llvm::StringRef name;
};

enum class UnarySyntax : uint8_t { Minus, Bang, Tilde };

struct UnaryExpr : ExprOf<ExprKind::Unary> {
  UnaryExpr(llvm::SMLoc loc, UnarySyntax op, Expr *operand)
      : ExprOf(loc), op(op), operand(operand) {}
  UnarySyntax op;
  Expr *operand;
};

enum class BinarySyntax : uint8_t {
  Pipe, // only between score functions
  LogicalOr,
  LogicalAnd,
  Equal,
  NotEqual,
  Less,
  LessEqual,
  Greater,
  GreaterEqual,
  BitOr,
  BitXor,
  BitAnd,
  ShiftLeft,
  ShiftRight,
  Add,
  Subtract,
  Multiply,
  Divide,
  FloorDivide,
  Modulo,
};

struct BinaryExpr : ExprOf<ExprKind::Binary> {
  BinaryExpr(llvm::SMLoc loc, llvm::StringRef text, BinarySyntax op, Expr *lhs, Expr *rhs)
      : ExprOf(loc), text(text), op(op), lhs(lhs), rhs(rhs) {}
  llvm::StringRef text; // the operator as written
  BinarySyntax op;
  Expr *lhs, *rhs;
};

struct IndexExpr : ExprOf<ExprKind::Index> {
  IndexExpr(llvm::SMLoc loc, Expr *base, llvm::ArrayRef<Expr *> indices)
      : ExprOf(loc), base(base), indices(indices) {}
  Expr *base;
  llvm::ArrayRef<Expr *> indices;
};

/// `f(x)`; for a named mask or score `window(64)(b, h, q, kv)`, or with nothing
/// to pass to it `causal(b, h, q, kv)`.
struct CallExpr : ExprOf<ExprKind::Call> {
  CallExpr(Ident callee, llvm::ArrayRef<Expr *> args)
      : ExprOf(callee.loc), callee(callee), args(args) {}
  Ident callee;
  llvm::ArrayRef<Expr *> args;
  bool hasSecondList = false;
  llvm::ArrayRef<Expr *> secondArgs;
};

struct Block;

struct IfExpr : ExprOf<ExprKind::If> {
  IfExpr(llvm::SMLoc loc, Expr *condition, Block *thenBlock, Block *elseBlock)
      : ExprOf(loc), condition(condition), thenBlock(thenBlock), elseBlock(elseBlock) {}
  Expr *condition;
  Block *thenBlock;
  Block *elseBlock; // null without `else`; `else if` is a block of one `if`
};

//===----------------------------------------------------------------------===//
// Statements
//===----------------------------------------------------------------------===//

enum class StmtKind : uint8_t { Let, Assign, Return, For, Value };

struct Stmt {
  Stmt(StmtKind kind, llvm::SMLoc loc) : kind(kind), loc(loc) {}
  const StmtKind kind;
  llvm::SMLoc loc;
};

template <StmtKind K>
struct StmtOf : Stmt {
  explicit StmtOf(llvm::SMLoc loc) : Stmt(K, loc) {}
  static bool classof(const Stmt *stmt) { return stmt->kind == K; }
};

struct LetStmt : StmtOf<StmtKind::Let> {
  using StmtOf::StmtOf;
  Ident name;
  bool isMutable = false;
  TypeRef *type = nullptr; // null: the initial value's
  Expr *init = nullptr;
};

struct AssignStmt : StmtOf<StmtKind::Assign> {
  using StmtOf::StmtOf;
  Ident name;
  Expr *value = nullptr;
};

struct ReturnStmt : StmtOf<StmtKind::Return> {
  using StmtOf::StmtOf;
  Expr *value = nullptr;
};

struct ForStmt : StmtOf<StmtKind::For> {
  using StmtOf::StmtOf;
  Ident variable;
  Expr *low = nullptr, *high = nullptr;
  Block *body = nullptr;
};

/// An expression alone: the value of its block, or an `if` run for its
/// assignments and returns.
struct ValueStmt : StmtOf<StmtKind::Value> {
  using StmtOf::StmtOf;
  Expr *value = nullptr;
};

struct Block {
  llvm::SMLoc open, close;
  llvm::ArrayRef<Stmt *> stmts;
  /// A `return` is somewhere in here, loops included.
  bool hasReturn = false;
};

//===----------------------------------------------------------------------===//
// Declarations
//===----------------------------------------------------------------------===//

struct ParamDecl {
  Ident name;
  bool isConst = false;
  TypeRef type;
  Expr *defaultValue = nullptr;
};

enum class ModKind : uint8_t { Score, Mask };

/// What a mask or a score does: code over coordinates, or named ones combined.
struct Mod {
  ModKind kind = ModKind::Mask;
  llvm::SMLoc loc;
  llvm::ArrayRef<Ident> coordinates;
  Block *body = nullptr;       // exactly one of the two
  Expr *composition = nullptr; //
};

enum class DeclKind : uint8_t { Fn, Mod };

/// A top-level name that other code can use.
struct Decl {
  DeclKind kind = DeclKind::Fn;
  Ident name;
  llvm::ArrayRef<ParamDecl> params;
  // Fn
  TypeRef *returnType = nullptr; // null: inferred
  Block *body = nullptr;
  // Mod
  Mod mod;

  llvm::StringRef what() const {
    return kind == DeclKind::Fn ? "function" : mod.kind == ModKind::Mask ? "mask" : "score";
  }
};

struct VariantDecl {
  Ident name;
  llvm::ArrayRef<ParamDecl> params;
  Mod *score = nullptr;
  Mod *mask = nullptr;
};

struct ImportDecl {
  llvm::SMLoc loc;
  llvm::StringRef path; // `std.masks`, or the text between the quotes
  llvm::SMLoc pathLoc;
  bool isFile = false;    // the quoted form
  bool everything = true; // no list of names
  llvm::ArrayRef<Ident> names;
};

} // namespace heed::lang::ast

namespace heed::lang {

struct SyntaxTree {
  std::vector<ast::ImportDecl *> imports;
  std::vector<ast::Decl *> decls;
  std::vector<ast::VariantDecl *> variants;
  llvm::BumpPtrAllocator arena;
};

} // namespace heed::lang

#endif // HEED_LANGUAGE_AST_H
