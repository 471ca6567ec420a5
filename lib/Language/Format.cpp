//===-- Format.cpp - The canonical layout of .heed text ---------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The formatter works on tokens and comments, not on the tree: whatever it does
// not know about stays where it was, so it cannot lose a comment. Three rules of
// the lexer and parser limit what may move: a statement ends with its line, an
// opening '(' or '[' continues a line only if it is on it, and '//' after an
// operand divides.
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Format.h"

#include "heed/Language/Lexer.h"
#include "heed/Language/Parser.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"

using namespace llvm;
using namespace heed::lang;

namespace {

class Formatter {
public:
  Formatter(StringRef buffer, const TokenStream &stream) : buffer(buffer), stream(stream) {}
  std::string run();

private:
  /// An open bracket, or the whole file.
  struct Context {
    bool isBrace;
    bool multiLine; // a brace whose '}' is on another line
    unsigned outer; // indentation of the line that its closer starts
    unsigned inner; // indentation of the lines within
  };

  void emitToken(size_t index);
  void emitComment(const Comment &comment);
  void breakLine(const char *begin, bool allowBlank);
  void indent(unsigned columns) {
    if (atLineStart)
      out.append(columns, ' ');
    atLineStart = false;
  }
  bool isMultiLine(size_t open) const;
  bool isContinuation(const Token &token) const;
  bool needsSpace(const Token &token) const;
  bool keepsSemicolon(size_t index) const;

  StringRef buffer;
  const TokenStream &stream;
  std::string out;
  SmallVector<Context> contexts;
  TokenKind previous = TokenKind::Eof; // the last token written
  bool previousIsUnary = false;
  bool afterComment = false; // the line must end
  bool atLineStart = true;
  const char *sourceEnd = nullptr; // of what was written last
};

} // namespace

/// Operators and others that stand between two things: whatever comes after one
/// at the end of a line, or before one at its start, belongs together.
static bool isInfix(TokenKind kind) {
  return kind >= TokenKind::Arrow && kind != TokenKind::Tilde && kind != TokenKind::Bang;
}

bool Formatter::isMultiLine(size_t open) const {
  unsigned depth = 0;
  for (size_t i = open; i != stream.tokens.size(); ++i) {
    if (stream.tokens[i].is(TokenKind::LBrace))
      ++depth;
    else if (stream.tokens[i].is(TokenKind::RBrace) && --depth == 0)
      return StringRef(stream.tokens[open].text.begin(),
                       stream.tokens[i].text.begin() - stream.tokens[open].text.begin())
          .contains('\n');
  }
  return true;
}

bool Formatter::isContinuation(const Token &token) const {
  if (!contexts.back().isBrace || token.is(TokenKind::RBrace))
    return false; // the bracket indents already
  if (token.is(TokenKind::Minus))
    return endsOperand(previous);
  return isInfix(token.kind) || token.is(TokenKind::LBrace) || isInfix(previous) ||
         previous == TokenKind::Comma || previous == TokenKind::Colon ||
         previous == TokenKind::Bang || previous == TokenKind::Tilde ||
         (previous >= TokenKind::Const && previous <= TokenKind::Return &&
          previous != TokenKind::False && previous != TokenKind::Inf);
}

bool Formatter::needsSpace(const Token &token) const {
  if (previousIsUnary)
    return false;
  switch (previous) {
  case TokenKind::Eof:
  case TokenKind::LParen:
  case TokenKind::LBracket:
  case TokenKind::Dot:
  case TokenKind::DotDot:
    return false;
  case TokenKind::LBrace:
    return !token.is(TokenKind::RBrace);
  default:
    break;
  }
  switch (token.kind) {
  case TokenKind::Comma:
  case TokenKind::Semicolon:
  case TokenKind::Colon:
  case TokenKind::RParen:
  case TokenKind::RBracket:
  case TokenKind::Dot:
  case TokenKind::DotDot:
    return false;
  case TokenKind::LParen:
  case TokenKind::LBracket:
    return !endsOperand(previous);
  default:
    return true;
  }
}

/// A ';' is only written where its line goes on, or where the next line would be
/// taken for a part of the statement.
bool Formatter::keepsSemicolon(size_t index) const {
  if (index + 1 == stream.tokens.size() || contexts.size() == 1)
    return false;
  const Token &next = stream.tokens[index + 1];
  if (previous == TokenKind::Semicolon || previous == TokenKind::LBrace)
    return false;
  if (next.is(TokenKind::Semicolon) || next.is(TokenKind::RBrace))
    return false;
  return !next.startsLine || next.is(TokenKind::Minus);
}

/// Ends the line, keeping one empty line if the source has some before `begin`.
void Formatter::breakLine(const char *begin, bool allowBlank) {
  if (out.empty())
    return;
  if (!atLineStart)
    out += '\n';
  atLineStart = true;
  afterComment = false;
  if (allowBlank && StringRef(sourceEnd, begin - sourceEnd).count('\n') > 1)
    out += '\n';
}

void Formatter::emitComment(const Comment &comment) {
  const char *begin = comment.text.begin();
  if (comment.startsLine || afterComment || out.empty()) {
    breakLine(begin, previous != TokenKind::LBrace || afterComment);
    indent(contexts.back().inner);
    out += comment.text;
  } else {
    out += "  ";
    // Behind an operand only '#' is sure to start a comment.
    if (endsOperand(previous) && comment.text.starts_with("//"))
      (out += '#') += comment.text.drop_front(2);
    else
      out += comment.text;
  }
  afterComment = true;
  sourceEnd = comment.text.end();
}

void Formatter::emitToken(size_t index) {
  const Token &token = stream.tokens[index];
  const char *begin = token.text.begin();
  if (token.is(TokenKind::Semicolon) && !keepsSemicolon(index))
    return;

  bool closes =
      token.is(TokenKind::RBrace) || token.is(TokenKind::RParen) || token.is(TokenKind::RBracket);
  bool isBreak = token.startsLine;
  if (token.is(TokenKind::LBrace) || token.is(TokenKind::Semicolon) ||
      (token.is(TokenKind::Else) && previous == TokenKind::RBrace))
    isBreak = false;
  if (contexts.back().multiLine && (previous == TokenKind::LBrace || token.is(TokenKind::RBrace)))
    isBreak = true;
  if (contexts.size() == 1 && previous == TokenKind::RBrace) // a declaration ends
    isBreak = true;
  if (index != 0 && contexts.size() == 1 && stream.tokens[index - 1].is(TokenKind::Semicolon))
    isBreak = true;

  if (isBreak || afterComment) {
    bool continues = isContinuation(token);
    bool afterOpening = previous == TokenKind::LBrace && StringRef(sourceEnd - 1, 1) == "{";
    breakLine(begin, !continues && !closes && !afterOpening);
    const Context &context = contexts.back();
    indent(closes ? context.outer : context.inner + (continues ? 4 : 0));
  } else if (!atLineStart && needsSpace(token)) {
    out += ' ';
  }
  out += token.text;
  atLineStart = false;

  switch (token.kind) {
  case TokenKind::LBrace: {
    unsigned outer = contexts.back().inner;
    contexts.push_back({true, isMultiLine(index), outer, outer + 2});
    break;
  }
  case TokenKind::LParen:
  case TokenKind::LBracket: {
    unsigned outer = contexts.back().inner;
    contexts.push_back({false, false, outer, outer + 4});
    break;
  }
  case TokenKind::RBrace:
  case TokenKind::RParen:
  case TokenKind::RBracket:
    contexts.pop_back();
    break;
  default:
    break;
  }
  previousIsUnary =
      token.is(TokenKind::Bang) || token.is(TokenKind::Tilde) ||
      (token.is(TokenKind::Minus) && !endsOperand(previous) && previous != TokenKind::RBrace);
  previous = token.kind;
  sourceEnd = token.text.end();
}

std::string Formatter::run() {
  contexts.push_back({true, false, 0, 0});
  sourceEnd = buffer.begin();
  auto comment = stream.comments.begin(), lastComment = stream.comments.end();
  for (size_t i = 0; i != stream.tokens.size(); ++i) {
    while (comment != lastComment && comment->text.begin() < stream.tokens[i].text.begin())
      emitComment(*comment++);
    emitToken(i);
  }
  while (comment != lastComment)
    emitComment(*comment++);
  if (!out.empty())
    out += '\n';
  return std::move(out);
}

std::optional<std::string> heed::lang::formatProgram(StringRef text, StringRef name,
                                                     SourceMgr &sourceMgr) {
  Diagnostics diags(sourceMgr);
  size_t bad;
  if (!isUTF8(text, bad)) {
    diags.fileError(name, text.take_front(bad).count('\n') + 1, "the file is not UTF-8 text");
    return std::nullopt;
  }
  auto buffer = MemoryBuffer::getMemBufferCopy(text, name);
  StringRef contents = buffer->getBuffer();
  sourceMgr.AddNewSourceBuffer(std::move(buffer), SMLoc());
  TokenStream stream;
  if (!parse(contents, diags, &stream))
    return std::nullopt;
  return Formatter(contents, stream).run();
}
