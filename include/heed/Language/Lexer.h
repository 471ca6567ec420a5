//===-- Lexer.h - Characters to tokens --------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Tokens are made on demand, because of one token: `//` is both floor division
// (as in Python) and the start of a comment (as in C++). No division can stand
// where no operand comes before it on its line, so there the lexer takes `//`
// for a comment. After an operand it is a division; if the grammar has no room
// for an operator there, as after a parameter's type, the parser says so with
// commentInstead(). A `#` always starts a comment.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_LEXER_H
#define HEED_LANGUAGE_LEXER_H

#include "heed/Language/Diagnostics.h"

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/SMLoc.h"

#include <vector>

namespace heed::lang {

enum class TokenKind : uint8_t {
  Eof,
  Identifier,
  Integer,
  Float,
  String,
  // Keywords.
  Const,
  Else,
  False,
  Fn,
  For,
  If,
  Import,
  In,
  Inf,
  Let,
  Mut,
  Return,
  True,
  // Punctuation.
  LParen,
  RParen,
  LBracket,
  RBracket,
  LBrace,
  RBrace,
  Comma,
  Semicolon,
  Colon,
  Dot,
  DotDot,
  Question,
  Arrow,  // ->
  Pipe,   // |>
  Assign, // =
  Equal,  // ==
  NotEqual,
  Less,
  LessEqual,
  Greater,
  GreaterEqual,
  Plus,
  Minus,
  Star,
  Slash,
  SlashSlash,
  Percent,
  Amp,
  AmpAmp,
  Bar,
  BarBar,
  Caret,
  Tilde,
  Bang,
  ShiftLeft,
  ShiftRight,
};

/// How messages call a kind of token: "'('", "a name", "end of file".
llvm::StringRef describe(TokenKind kind);

/// Whether an operand may end with this token. After such a token `//` on the same line divides.
bool endsOperand(TokenKind kind);

struct Token {
  TokenKind kind = TokenKind::Eof;
  llvm::StringRef text;
  bool startsLine = false; // nothing but space and comments before it

  bool is(TokenKind other) const { return kind == other; }
  llvm::SMLoc loc() const { return llvm::SMLoc::getFromPointer(text.data()); }
};

struct Comment {
  llvm::StringRef text;    // with its `#` or `//`, without trailing space
  bool startsLine = false; // alone on its line
};

class Lexer {
public:
  Lexer(llvm::StringRef buffer, Diagnostics &diags);

  Token next();
  /// `token`, the last one that next() gave, is not an operator but starts a
  /// comment.
  void commentInstead(const Token &token);

  /// All comments so far, in order.
  llvm::ArrayRef<Comment> getComments() const { return comments; }

private:
  void skipSpace();
  void lexComment();
  void lexNumber(Token &token);
  bool lexString(Token &token);

  const char *position;
  const char *end;
  Diagnostics &diags;
  std::vector<Comment> comments;
  bool atLineStart = true;
  bool afterOperand = false; // the last token ends an operand, on this line
};

/// Whether the text is UTF-8; if not, `badOffset` is where it stops being so.
bool isUTF8(llvm::StringRef text, size_t &badOffset);

} // namespace heed::lang

#endif // HEED_LANGUAGE_LEXER_H
