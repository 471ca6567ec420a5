//===-- Lexer.cpp - Characters to tokens ------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Lexer.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/ConvertUTF.h"

using namespace llvm;
using namespace heed::lang;

StringRef heed::lang::describe(TokenKind kind) {
  switch (kind) {
  case TokenKind::Eof:
    return "the end of the file";
  case TokenKind::Identifier:
    return "a name";
  case TokenKind::Integer:
  case TokenKind::Float:
    return "a number";
  case TokenKind::String:
    return "a file name in quotes";
  case TokenKind::Const:
    return "'const'";
  case TokenKind::Else:
    return "'else'";
  case TokenKind::False:
    return "'false'";
  case TokenKind::Fn:
    return "'fn'";
  case TokenKind::For:
    return "'for'";
  case TokenKind::If:
    return "'if'";
  case TokenKind::Import:
    return "'import'";
  case TokenKind::In:
    return "'in'";
  case TokenKind::Inf:
    return "'inf'";
  case TokenKind::Let:
    return "'let'";
  case TokenKind::Mut:
    return "'mut'";
  case TokenKind::Return:
    return "'return'";
  case TokenKind::True:
    return "'true'";
  case TokenKind::LParen:
    return "'('";
  case TokenKind::RParen:
    return "')'";
  case TokenKind::LBracket:
    return "'['";
  case TokenKind::RBracket:
    return "']'";
  case TokenKind::LBrace:
    return "'{'";
  case TokenKind::RBrace:
    return "'}'";
  case TokenKind::Comma:
    return "','";
  case TokenKind::Semicolon:
    return "';'";
  case TokenKind::Colon:
    return "':'";
  case TokenKind::Dot:
    return "'.'";
  case TokenKind::DotDot:
    return "'..'";
  case TokenKind::Question:
    return "'?'";
  case TokenKind::Arrow:
    return "'->'";
  case TokenKind::Pipe:
    return "'|>'";
  case TokenKind::Assign:
    return "'='";
  case TokenKind::Equal:
    return "'=='";
  case TokenKind::NotEqual:
    return "'!='";
  case TokenKind::Less:
    return "'<'";
  case TokenKind::LessEqual:
    return "'<='";
  case TokenKind::Greater:
    return "'>'";
  case TokenKind::GreaterEqual:
    return "'>='";
  case TokenKind::Plus:
    return "'+'";
  case TokenKind::Minus:
    return "'-'";
  case TokenKind::Star:
    return "'*'";
  case TokenKind::Slash:
    return "'/'";
  case TokenKind::SlashSlash:
    return "'//'";
  case TokenKind::Percent:
    return "'%'";
  case TokenKind::Amp:
    return "'&'";
  case TokenKind::AmpAmp:
    return "'&&'";
  case TokenKind::Bar:
    return "'|'";
  case TokenKind::BarBar:
    return "'||'";
  case TokenKind::Caret:
    return "'^'";
  case TokenKind::Tilde:
    return "'~'";
  case TokenKind::Bang:
    return "'!'";
  case TokenKind::ShiftLeft:
    return "'<<'";
  case TokenKind::ShiftRight:
    return "'>>'";
  }
  return "";
}

bool heed::lang::endsOperand(TokenKind kind) {
  switch (kind) {
  case TokenKind::Identifier:
  case TokenKind::Integer:
  case TokenKind::Float:
  case TokenKind::String:
  case TokenKind::True:
  case TokenKind::False:
  case TokenKind::Inf:
  case TokenKind::RParen:
  case TokenKind::RBracket:
    return true;
  default:
    return false;
  }
}

static bool isNameStart(char c) { return isAlpha(c) || c == '_'; }
static bool isNamePart(char c) { return isAlnum(c) || c == '_'; }

bool heed::lang::isUTF8(StringRef text, size_t &badOffset) {
  auto *begin = reinterpret_cast<const UTF8 *>(text.data());
  const UTF8 *position = begin;
  bool legal = isLegalUTF8String(&position, begin + text.size());
  badOffset = position - begin;
  return legal;
}

Lexer::Lexer(StringRef buffer, Diagnostics &diags)
    : position(buffer.begin()), end(buffer.end()), diags(diags) {
  if (buffer.starts_with("\xef\xbb\xbf")) // a byte order mark means nothing here
    position += 3;
}

void Lexer::lexComment() {
  StringRef rest(position, end - position);
  StringRef line = rest.take_until([](char c) { return c == '\n'; });
  comments.push_back({line.rtrim(), atLineStart});
  position += line.size();
}

void Lexer::commentInstead(const Token &token) {
  position = token.text.data();
  atLineStart = token.startsLine;
  lexComment();
}

void Lexer::skipSpace() {
  while (position != end) {
    char c = *position;
    if (c == '\n') {
      atLineStart = true;
      afterOperand = false;
      ++position;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      ++position;
    } else if (c == '#' ||
               (c == '/' && position + 1 != end && position[1] == '/' && !afterOperand)) {
      lexComment();
    } else {
      return;
    }
  }
}

void Lexer::lexNumber(Token &token) {
  const char *begin = position;
  auto skip = [&](auto predicate) {
    while (position != end && predicate(*position))
      ++position;
  };
  token.kind = TokenKind::Integer;
  if (*position == '0' && position + 1 != end && (position[1] == 'x' || position[1] == 'X')) {
    position += 2;
    skip(isHexDigit);
  } else {
    skip(isDigit);
    // `0..4` is a range, not the number `0.`
    if (position != end && *position == '.' && (position + 1 == end || position[1] != '.')) {
      token.kind = TokenKind::Float;
      ++position;
      skip(isDigit);
    }
    if (position != end && (*position == 'e' || *position == 'E')) {
      const char *exponent = position + 1;
      if (exponent != end && (*exponent == '+' || *exponent == '-'))
        ++exponent;
      if (exponent != end && isDigit(*exponent)) {
        token.kind = TokenKind::Float;
        position = exponent;
        skip(isDigit);
      }
    }
  }
  // `12ab`, `0x`, `1.5.2`
  const char *tail = position;
  skip([](char c) { return isNamePart(c); });
  token.text = StringRef(begin, position - begin);
  uint64_t value;
  if (position != tail || token.text == "0x" || token.text == "0X") {
    diags.error(token.loc(), "'" + token.text + "' is not a number");
  } else if (token.kind == TokenKind::Integer &&
             (token.text.getAsInteger(token.text.contains_insensitive("x") ? 0 : 10, value) ||
              value > uint64_t(1) << 63)) {
    diags.error(token.loc(), "the integer '" + token.text + "' does not fit 64 bits");
  } else {
    return;
  }
  token.kind = TokenKind::Float; // reported; whatever is read from it is harmless
  token.text = token.text.take_front(1);
}

bool Lexer::lexString(Token &token) {
  const char *begin = position++;
  while (position != end && *position != '"' && *position != '\n')
    ++position;
  if (position == end || *position == '\n') {
    diags.error(SMLoc::getFromPointer(begin), "this file name has no closing '\"'");
    return false;
  }
  ++position;
  token.kind = TokenKind::String;
  token.text = StringRef(begin, position - begin);
  return true;
}

Token Lexer::next() {
  while (true) {
    skipSpace();
    Token token;
    token.startsLine = atLineStart;
    atLineStart = false;
    token.text = StringRef(position, 0);
    if (position == end) {
      token.kind = TokenKind::Eof;
      return token;
    }
    char c = *position;
    const char *begin = position;
    bool valid = true;
    if (isNameStart(c)) {
      while (position != end && isNamePart(*position))
        ++position;
      token.text = StringRef(begin, position - begin);
      token.kind = StringSwitch<TokenKind>(token.text)
                       .Case("const", TokenKind::Const)
                       .Case("else", TokenKind::Else)
                       .Case("false", TokenKind::False)
                       .Case("fn", TokenKind::Fn)
                       .Case("for", TokenKind::For)
                       .Case("if", TokenKind::If)
                       .Case("import", TokenKind::Import)
                       .Case("in", TokenKind::In)
                       .Case("inf", TokenKind::Inf)
                       .Case("let", TokenKind::Let)
                       .Case("mut", TokenKind::Mut)
                       .Case("return", TokenKind::Return)
                       .Case("true", TokenKind::True)
                       .Default(TokenKind::Identifier);
    } else if (isDigit(c) || (c == '.' && position + 1 != end && isDigit(position[1]))) {
      lexNumber(token);
    } else if (c == '"') {
      valid = lexString(token);
    } else {
      static constexpr std::pair<StringLiteral, TokenKind> punctuation[] = {
          // The longer ones first.
          {"..", TokenKind::DotDot},       {"->", TokenKind::Arrow},
          {"|>", TokenKind::Pipe},         {"==", TokenKind::Equal},
          {"!=", TokenKind::NotEqual},     {"<=", TokenKind::LessEqual},
          {">=", TokenKind::GreaterEqual}, {"&&", TokenKind::AmpAmp},
          {"||", TokenKind::BarBar},       {"<<", TokenKind::ShiftLeft},
          {">>", TokenKind::ShiftRight},   {"//", TokenKind::SlashSlash},
          {"(", TokenKind::LParen},        {")", TokenKind::RParen},
          {"[", TokenKind::LBracket},      {"]", TokenKind::RBracket},
          {"{", TokenKind::LBrace},        {"}", TokenKind::RBrace},
          {",", TokenKind::Comma},         {";", TokenKind::Semicolon},
          {":", TokenKind::Colon},         {".", TokenKind::Dot},
          {"?", TokenKind::Question},      {"=", TokenKind::Assign},
          {"<", TokenKind::Less},          {">", TokenKind::Greater},
          {"+", TokenKind::Plus},          {"-", TokenKind::Minus},
          {"*", TokenKind::Star},          {"/", TokenKind::Slash},
          {"%", TokenKind::Percent},       {"&", TokenKind::Amp},
          {"|", TokenKind::Bar},           {"^", TokenKind::Caret},
          {"~", TokenKind::Tilde},         {"!", TokenKind::Bang},
      };
      StringRef rest(position, end - position);
      auto *found = find_if(punctuation, [&](const auto &p) { return rest.starts_with(p.first); });
      if (found != std::end(punctuation)) {
        token.kind = found->second;
        position += found->first.size();
        token.text = StringRef(begin, position - begin);
      } else {
        // One message for a run of such characters; the text is UTF-8, so a run
        // of non-ASCII bytes is whole characters.
        auto isStrange = [](char c) { return !isASCII(c) || (!isPrint(c) && !isSpace(c)); };
        ++position;
        if (isStrange(c))
          while (position != end && isStrange(*position))
            ++position;
        StringRef text(begin, position - begin);
        SMLoc loc = SMLoc::getFromPointer(begin);
        if (isPrint(c))
          diags.error(loc, "unexpected character '" + text + "'");
        else if (!isASCII(c))
          diags.error(loc, "unexpected character '" + text.take_until([](char c) {
            return isASCII(c);
          }) + "'; only comments may hold characters other than ASCII");
        else
          diags.error(loc, "unexpected control character 0x" + toHex(text.take_front(1), true));
        valid = false;
      }
    }
    if (!valid)
      continue;
    afterOperand = endsOperand(token.kind);
    return token;
  }
}
