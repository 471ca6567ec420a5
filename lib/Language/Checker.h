//===-- Checker.h - Names, types and expansion ------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One evaluator does two things. First it *checks* every declaration once: a
// loop's body is visited once, a call only looks at the callee's result type,
// both arms of every `if` are visited. All errors that depend on types and
// names come from there, once each. If there are none, it *expands* the
// variants: calls are inlined, loops unrolled, constants folded, and nodes made
// that go into the program. What can still go wrong then depends on the values
// of constants, and such an error lists the uses that led to it.
//
//   CheckedProgram <- Checker.cpp: declarations, parameters, both phases
//                     CheckBody.cpp: statements and control flow
//                     CheckExpr.cpp: operators, indexing, calls
//                     Builtins.cpp: the built-in functions
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_LANGUAGE_CHECKER_H
#define HEED_LIB_LANGUAGE_CHECKER_H

#include "Builder.h"
#include "Builtins.h"
#include "Modules.h"

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/STLFunctionalExtras.h"

#include <string>
#include <vector>

namespace heed::lang {

/// Nodes, lanes and statements that one score_mod or mask_mod may take.
constexpr unsigned maxExpansion = 100000;
/// Expressions and calls in progress at one time, over all functions.
constexpr unsigned maxDepth = 1024;
/// Elements of a row that is read as a vector.
constexpr int64_t maxVector = 4096;

/// A tensor that a name stands for: a parameter of the variant, possibly passed
/// on under another name.
struct TensorRef {
  llvm::StringRef name;
  llvm::SMLoc loc;
  unsigned param;
  ElementType element;
  llvm::ArrayRef<Extent> extents;
};

/// What an expression gives.
struct Value {
  enum class Kind : uint8_t { Error, Scalar, Vector, Tensor };
  Kind kind = Kind::Error;         // an error has been reported; stay silent about it
  ValueType type = ValueType::I32; // of the scalar or of the lanes
  /// Known while compiling. While checking, the node need not be a constant yet.
  bool isConst = false;
  llvm::ArrayRef<const Node *> lanes; // a scalar has one
  const TensorRef *tensor = nullptr;

  bool isError() const { return kind == Kind::Error; }
  bool isScalar() const { return kind == Kind::Scalar; }
  bool isVector() const { return kind == Kind::Vector; }
  bool isTensor() const { return kind == Kind::Tensor; }
  bool isBool() const { return isScalar() && type == ValueType::Bool; }
  bool isInteger() const {
    return isScalar() && (type == ValueType::I32 || type == ValueType::I64);
  }
  const Node *node() const { return lanes.front(); }
  /// The constant node, if that is what it is.
  const Node *known() const {
    return isScalar() && node()->kind == NodeKind::Constant ? node() : nullptr;
  }
};

class Checker {
public:
  Checker(Diagnostics &diags, ModuleSet &modules, const CheckOptions &options,
          CheckedProgram &program);

  /// Both phases. False if there was an error.
  bool run();

private:
  struct Variable {
    llvm::StringRef name;
    llvm::SMLoc loc;
    Value value;
    bool isMutable;
  };

  /// What a body has to return.
  struct ReturnSpec {
    enum class Kind : uint8_t { Inferred, Declared, Mask, Score } kind = Kind::Inferred;
    ValueType type = ValueType::Bool;
    llvm::StringRef name;
  };

  /// The body being evaluated: its names, and how it was reached.
  struct Frame {
    Module *module;
    ReturnSpec spec;
    Frame *caller;
    llvm::SMLoc callLoc;        // invalid if not called
    llvm::StringRef calleeWhat; // "mask"
    llvm::DenseMap<llvm::StringRef, unsigned> names;
  };

  /// The statements that follow the block being evaluated.
  struct Rest {
    llvm::ArrayRef<ast::Stmt *> stmts;
    llvm::SMLoc end;
    size_t scope;
    const Rest *next;
    mutable bool reached = false;
  };

  enum class State : uint8_t { New, InProgress, Good, Bad };
  struct Signature {
    State state = State::New;
    Value result; // its shape; the lanes mean nothing
  };

  //===--- Messages and bounds --------------------------------------------===//

  void error(llvm::SMLoc loc, const llvm::Twine &message);
  Value fail(llvm::SMLoc loc, const llvm::Twine &message) {
    error(loc, message);
    return {};
  }
  bool charge(unsigned cost = 1);
  /// True if evaluation should unwind: nothing more will come of it.
  bool halted() const { return exhausted || diags.stopped(); }

  class Nest {
  public:
    Nest(Checker &checker, llvm::SMLoc loc) : checker(checker) {
      ++checker.depth;
      if (checker.depth > maxDepth && !checker.exhausted) {
        checker.error(loc, "calls and expressions nest too deeply here");
        checker.exhausted = true;
      }
    }
    ~Nest() { --checker.depth; }

  private:
    Checker &checker;
  };

  void at(llvm::SMLoc loc) { builder->setLocation(modules.locate(loc)); }

  //===--- Values ---------------------------------------------------------===//

  Value scalar(const Node *node, bool isConst);
  Value vector(ValueType type, llvm::ArrayRef<const Node *> lanes);
  Value opaque(const Value &shape, bool isConst = false);
  Value fromParameter(const ast::ParamDecl &param, unsigned number);
  std::string describe(const Value &value) const;
  bool converts(ValueType from, ValueType to) const;
  Value convert(const Value &value, ValueType to);
  /// Bool with bool, or the wider number; reports nothing.
  bool commonType(ValueType a, ValueType b, ValueType &common) const;
  /// Applies `make` to each lane of operands that are scalars or vectors of one
  /// length, each converted to `operandType` first (unless it is null).
  Value mapLanes(llvm::ArrayRef<Value> operands, ValueType resultType, bool folds, llvm::SMLoc loc,
                 llvm::function_ref<const Node *(llvm::ArrayRef<const Node *>)> make);
  Value select(const Value &condition, const Value &ifTrue, const Value &ifFalse, llvm::SMLoc loc,
               const llvm::Twine &what);
  /// The same for values of one type.
  Value merge(const Value &condition, const Value &ifTrue, const Value &ifFalse, llvm::SMLoc loc);
  /// What `eval` would give, but for its lanes: of what a constant leaves out.
  Value shapeOf(llvm::function_ref<Value()> eval);
  /// What a constant chose, of the type and length that it has beside what was left out.
  Value beside(const Value &chosen, const Value &leftOut);

  //===--- Names ----------------------------------------------------------===//

  bool declare(const ast::Ident &ident, Value value, bool isMutable = false);
  Variable *findVariable(llvm::StringRef name);
  void popScope(size_t scope);
  void unknownName(const ast::Ident &ident);
  void unknownCallee(const ast::Ident &ident);
  void noteDeclaration(const ast::Decl &decl);

  //===--- Expressions (CheckExpr.cpp) ------------------------------------===//

  Value eval(const ast::Expr *expr);
  /// A scalar or vector: a tensor is not a value to compute with.
  Value evalOperand(const ast::Expr *expr);
  Value operand(Value value, llvm::SMLoc loc);
  Value evalName(const ast::NameExpr *expr);
  Value evalUnary(const ast::UnaryExpr *expr);
  Value evalBinary(const ast::BinaryExpr *expr);
  Value applyBinary(const ast::BinaryExpr *expr, const Value &lhs, const Value &rhs);
  Value evalIndex(const ast::IndexExpr *expr);
  Value evalCall(const ast::CallExpr *expr);
  Value evalBuiltin(const ast::CallExpr *expr, const BuiltinInfo &info);
  Value applyMath(MathFn fn, const Value &value, llvm::SMLoc loc);
  Value evalIf(const ast::IfExpr *expr);
  Value evalCondition(const ast::Expr *expr);

  bool bindArguments(const ast::CallExpr *call, const ast::Ident &callee, DeclRef ref,
                     llvm::SmallVectorImpl<Value> &args);
  Value convertArgument(const ast::ParamDecl &param, const Value &value, llvm::SMLoc loc,
                        const ast::Decl &decl);
  Value use(DeclRef ref, llvm::ArrayRef<Value> args, llvm::ArrayRef<Value> coordinates,
            llvm::SMLoc loc);
  Value evalComposition(const ast::Expr *expr, ast::ModKind kind,
                        llvm::SmallVectorImpl<Value> &coordinates);

  //===--- Statements (CheckBody.cpp) -------------------------------------===//

  Value evalBody(const ast::Block *body);
  Value evalSequence(llvm::ArrayRef<ast::Stmt *> stmts, llvm::SMLoc end, const Rest *rest);
  /// An `if` that a constant decides.
  Value evalTaken(const Node *condition, const ast::IfExpr *expr,
                  llvm::function_ref<Value(const ast::Block *)> evalArm);
  Value evalTailIf(const ast::IfExpr *expr, const Rest *rest);
  Value evalBranch(const ast::Block *block, const ast::IfExpr *expr, const Rest *rest);
  Value checkReturn(const Value &value, llvm::SMLoc loc);
  void exec(const ast::Stmt *stmt);
  void execLet(const ast::LetStmt *stmt);
  void execAssign(const ast::AssignStmt *stmt);
  void execFor(const ast::ForStmt *stmt);
  void execBlock(const ast::Block *block);
  void execIf(const ast::IfExpr *expr);
  Value evalBlock(const ast::Block *block, const ast::IfExpr *expr);
  /// Runs both arms from the same state and merges what they assign.
  void runArms(const Value &condition, llvm::SMLoc loc, llvm::function_ref<void()> thenArm,
               llvm::function_ref<void()> elseArm);
  void undo(size_t mark);

  //===--- Declarations (Checker.cpp) -------------------------------------===//

  const Signature &signatureOf(DeclRef ref);
  void checkParams(llvm::ArrayRef<ast::ParamDecl> params, const ast::Decl *decl);
  bool checkCoordinates(const ast::Mod &mod);
  bool checkScalarType(ElementType type, llvm::SMLoc loc);
  void checkVariant(const ast::VariantDecl *variant, Module &module);
  void expandVariant(const ast::VariantDecl *variant, Module &module);
  std::optional<ScalarConstant> evalConstant(const ast::Expr *expr, const ast::ParamDecl &param,
                                             Module &module);
  std::optional<ScalarConstant> defineFor(const ast::VariantDecl &variant,
                                          const ast::ParamDecl &param, bool &found);
  void undefinable(llvm::StringRef name);
  Value evalDecl(const ast::Decl &decl, llvm::ArrayRef<Value> coordinates);
  Value evalMod(const ast::Mod &mod, llvm::ArrayRef<Value> coordinates, llvm::SMLoc loc);
  llvm::SmallVector<Value, 5> coordinateValues(ast::ModKind kind);
  /// Evaluates `body` in a frame of its own.
  Value inFrame(Module &module, ReturnSpec spec, llvm::SMLoc callLoc, llvm::StringRef calleeWhat,
                llvm::function_ref<Value()> body);

  Diagnostics &diags;
  ModuleSet &modules;
  const CheckOptions &options;
  CheckedProgram &program;
  CheckedProgram scratch; // owns what checking makes and nobody needs later
  Builder programBuilder, scratchBuilder;
  Builder *builder;
  bool expanding = false;

  Frame *frame = nullptr;
  std::vector<Variable> variables;
  std::vector<std::pair<unsigned, Value>> trail; // assignments, to undo them
  llvm::DenseMap<const ast::Decl *, Signature> signatures;
  std::vector<bool> usedDefines;
  const char *returnBlocker = nullptr; // why a `return` is not allowed here
  unsigned depth = 0;
  unsigned cost = 0;
  bool exhausted = false;
  bool inDefault = false;   // evaluating the default of a parameter
  llvm::SMLoc expansionLoc; // what `cost` is counted for
};

} // namespace heed::lang

#endif // HEED_LIB_LANGUAGE_CHECKER_H
