//===-- Parser.h - Tokens to a syntax tree ----------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_PARSER_H
#define HEED_LANGUAGE_PARSER_H

#include "heed/Language/AST.h"
#include "heed/Language/Lexer.h"

#include <memory>
#include <vector>

namespace heed::lang {

/// Levels of parentheses, operators, blocks and `else if` that may nest. A bound
/// keeps every recursion over the tree within the stack.
constexpr unsigned maxNesting = 256;

/// What the formatter needs besides the fact that the text parses.
struct TokenStream {
  std::vector<Token> tokens;
  std::vector<Comment> comments;
};

/// Parses a buffer that belongs to the source manager of `diags`. Returns null
/// after reporting if there is an error of syntax; goes on after one to find
/// others.
std::unique_ptr<SyntaxTree> parse(llvm::StringRef buffer, Diagnostics &diags,
                                  TokenStream *stream = nullptr);

/// Element types by name; `index` is i32. Returns false for another name.
bool parseElementType(llvm::StringRef name, ElementType &type);
/// Sizes by name: B, Hq, Hkv, Sq, Skv, D, Dv.
bool parseSize(llvm::StringRef name, Size &size);
llvm::ArrayRef<llvm::StringRef> elementTypeNames();
llvm::ArrayRef<llvm::StringRef> sizeNames();

} // namespace heed::lang

#endif // HEED_LANGUAGE_PARSER_H
