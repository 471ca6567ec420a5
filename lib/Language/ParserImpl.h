//===-- ParserImpl.h - The parser itself ------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Recursive descent, one function a rule of the grammar in docs/language.md.
// A function that fails has reported why and returns null; its caller passes
// that on until a statement or a declaration, where parsing starts again.
//
//   Parser.cpp: expressions and statements    ParseDecl.cpp: declarations
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_LANGUAGE_PARSERIMPL_H
#define HEED_LIB_LANGUAGE_PARSERIMPL_H

#include "heed/Language/Parser.h"

#include "llvm/ADT/Twine.h"

#include <string>

namespace heed::lang {

class Parser {
public:
  Parser(llvm::StringRef buffer, Diagnostics &diags, TokenStream *stream)
      : diags(diags), errorsBefore(diags.errorCount()), lexer(buffer, diags), stream(stream),
        tree(std::make_unique<SyntaxTree>()) {
    token = lexer.next();
  }

  std::unique_ptr<SyntaxTree> run();

private:
  //===--- Tokens ---------------------------------------------------------===//

  /// Whether the current token is of this kind. Only the loop over operators
  /// takes `//` for one; wherever this is asked, `//` starts a comment.
  bool at(TokenKind kind) {
    while (token.is(TokenKind::SlashSlash)) {
      lexer.commentInstead(token);
      token = lexer.next();
    }
    return token.is(kind);
  }
  bool atWord(llvm::StringRef word) { return at(TokenKind::Identifier) && token.text == word; }

  void advance() {
    if (stream && !token.is(TokenKind::Eof))
      stream->tokens.push_back(token);
    last = token;
    token = lexer.next();
  }

  bool accept(TokenKind kind) {
    if (!at(kind))
      return false;
    advance();
    return true;
  }

  /// For an operator of another language that the parser read a part of: `+=` as
  /// `+`, or `not x` as the name 'not'.
  std::string foreignOperator() {
    std::string hint;
    if (last.text.end() == token.text.begin())
      hint = writtenHere({last.text.begin(), last.text.size() + token.text.size()});
    if (hint.empty() && endsOperand(last.kind))
      hint = writtenHere(token.text);
    if (hint.empty() && last.is(TokenKind::Identifier))
      hint = writtenHere(last.text);
    return hint;
  }

  void errorExpected(const llvm::Twine &what, std::string hint = "") {
    // Of what is no token, the lexer has said so.
    if (aborted || diags.hasErrorAt(token.loc()))
      return;
    if (hint.empty())
      hint = foreignOperator();
    std::string found =
        token.is(TokenKind::Eof) ? describe(token.kind).str() : ("'" + token.text + "'").str();
    diags.error(token.loc(), "expected " + what + ", found " + found + hint);
    if (!last.is(TokenKind::SlashSlash) || hint.empty()) // `//=` is no comment
      diags.noteDivision(token.loc());
  }

  bool expect(TokenKind kind, const llvm::Twine &where = "") {
    if (accept(kind))
      return true;
    errorExpected(describe(kind) + where);
    return false;
  }

  bool expectName(ast::Ident &ident, const llvm::Twine &what) {
    if (!at(TokenKind::Identifier)) {
      errorExpected(what);
      return false;
    }
    ident = {token.text, token.loc()};
    advance();
    return true;
  }

  /// One level of nesting while it lives.
  class Nest {
  public:
    explicit Nest(Parser &parser) : parser(parser) { ++parser.depth; }
    ~Nest() { --parser.depth; }
    bool tooDeep() {
      if (parser.depth <= maxNesting)
        return false;
      if (!parser.aborted)
        parser.diags.error(parser.token.loc(), "nested too deeply; at most " +
                                                   llvm::Twine(maxNesting) + " levels are allowed");
      // What follows would only be misread.
      parser.aborted = true;
      return true;
    }

  private:
    Parser &parser;
  };

  template <typename T, typename... Args>
  T *make(Args &&...args) {
    return new (tree->arena.Allocate<T>()) T(std::forward<Args>(args)...);
  }
  template <typename T>
  llvm::ArrayRef<T> copy(llvm::ArrayRef<T> array) {
    return array.copy(tree->arena);
  }

  //===--- Expressions ----------------------------------------------------===//

  ast::Expr *parseExpr() { return parseBinary(1); }
  ast::Expr *parseComposition();
  ast::Expr *parseBinary(unsigned minPrecedence);
  ast::Expr *parseUnary();
  ast::Expr *parsePostfix();
  ast::Expr *parsePrimary();
  ast::IfExpr *parseIf();
  bool parseArgs(TokenKind close, llvm::ArrayRef<ast::Expr *> &args);

  //===--- Statements -----------------------------------------------------===//

  ast::Block *parseBlock(const llvm::Twine &where);
  ast::Stmt *parseStmt(bool &hasReturn);
  bool parseStmtEnd();
  void recoverInBlock(const char *stmtBegin);

  //===--- Declarations ---------------------------------------------------===//

  bool parseType(ast::TypeRef &type);
  bool parseExtent(Extent &extent);
  bool parseParams(llvm::ArrayRef<ast::ParamDecl> &params);
  bool requireTypes(llvm::ArrayRef<ast::ParamDecl> params);
  bool parseCoordinates(llvm::ArrayRef<ast::Ident> &coordinates);
  ast::ImportDecl *parseImport();
  ast::Decl *parseFn();
  ast::Decl *parseNamedMod(ast::ModKind kind);
  bool parseModBody(ast::Mod &mod);
  ast::VariantDecl *parseVariant();
  bool parseVariantItem(ast::VariantDecl &variant);
  void recoverAtTopLevel(const char *declBegin);

  Diagnostics &diags;
  unsigned errorsBefore;
  Lexer lexer;
  TokenStream *stream;
  std::unique_ptr<SyntaxTree> tree;
  Token token;
  Token last; // the one before it
  unsigned depth = 0;
  bool aborted = false;
};

} // namespace heed::lang

#endif // HEED_LIB_LANGUAGE_PARSERIMPL_H
