//===-- ParseDecl.cpp - Declarations and files ------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ParserImpl.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

bool heed::lang::parseElementType(StringRef name, ElementType &type) {
  auto found = StringSwitch<int>(name)
                   .Case("bool", int(ElementType::Bool))
                   .Case("i8", int(ElementType::I8))
                   .Cases({"i32", "index"}, int(ElementType::I32))
                   .Case("i64", int(ElementType::I64))
                   .Case("f16", int(ElementType::F16))
                   .Case("bf16", int(ElementType::BF16))
                   .Case("f32", int(ElementType::F32))
                   .Default(-1);
  if (found >= 0)
    type = ElementType(found);
  return found >= 0;
}

bool heed::lang::parseSize(StringRef name, Size &size) {
  for (auto [i, known] : enumerate(sizeNames()))
    if (name == known) {
      size = Size(i);
      return true;
    }
  return false;
}

ArrayRef<StringRef> heed::lang::elementTypeNames() {
  static constexpr StringRef names[] = {"bool", "i8", "i32", "i64", "f16", "bf16", "f32", "index"};
  return names;
}

ArrayRef<StringRef> heed::lang::sizeNames() {
  static constexpr StringRef names[] = {"B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv"};
  return names;
}

//===----------------------------------------------------------------------===//
// Declarations
//===----------------------------------------------------------------------===//

bool Parser::parseExtent(Extent &extent) {
  if (accept(TokenKind::Question)) {
    extent.kind = Extent::Kind::Any;
    return true;
  }
  Token first = token;
  if (at(TokenKind::Integer)) {
    extent.kind = Extent::Kind::Number;
    uint64_t value = 0;
    token.text.getAsInteger(token.text.contains_insensitive("x") ? 0 : 10, value);
    advance();
    if (value == 0 || value > INT32_MAX) {
      diags.error(first.loc(), "an extent must be at least 1 and fit i32");
      value = 1;
    }
    extent.number = value;
    return true;
  }
  if (!at(TokenKind::Identifier)) {
    errorExpected("an extent: a number, a size such as 'Sq', or '?'");
    return false;
  }
  extent.kind = Extent::Kind::Symbol;
  if (!parseSize(token.text, extent.size))
    diags.error(token.loc(), "unknown size '" + token.text + "'" +
                                 didYouMean(token.text, sizeNames()) +
                                 (nearestName(token.text, sizeNames()).empty()
                                      ? "; sizes are B, Hq, Hkv, Sq, Skv, D, Dv, and '?' is any"
                                      : ""));
  advance();
  return true;
}

bool Parser::parseType(TypeRef &type) {
  type.loc = token.loc();
  if (!at(TokenKind::Identifier)) {
    errorExpected("a type");
    return false;
  }
  if (!parseElementType(token.text, type.element))
    diags.error(token.loc(), "unknown type '" + token.text + "'" +
                                 didYouMean(token.text, elementTypeNames()) +
                                 (nearestName(token.text, elementTypeNames()).empty()
                                      ? "; types are bool, i8, i32, i64, f16, bf16, f32 and index"
                                      : ""));
  advance();
  if (!at(TokenKind::LBracket) || token.startsLine)
    return true;
  advance();
  SmallVector<Extent> extents;
  do {
    if (!parseExtent(extents.emplace_back()))
      return false;
  } while (accept(TokenKind::Comma) && !at(TokenKind::RBracket));
  if (!at(TokenKind::RBracket)) {
    errorExpected("',' or ']'");
    return false;
  }
  advance();
  if (extents.size() > 6)
    diags.error(type.loc, "a tensor has at most 6 axes, this one has " + Twine(extents.size()));
  type.extents = copy<Extent>(extents);
  return true;
}

/// `(` has been seen. Both `(w: index)` and the `(b, h, q, kv)` of a mask
/// without parameters come here; a parameter without type has an invalid
/// type.loc.
bool Parser::parseParams(ArrayRef<ParamDecl> &params) {
  if (!expect(TokenKind::LParen))
    return false;
  SmallVector<ParamDecl> list;
  while (!at(TokenKind::RParen)) {
    ParamDecl &param = list.emplace_back();
    param.isConst = accept(TokenKind::Const);
    if (!expectName(param.name, "the name of a parameter"))
      return false;
    if (accept(TokenKind::Colon)) {
      if (!parseType(param.type))
        return false;
      if (accept(TokenKind::Assign) && !(param.defaultValue = parseExpr()))
        return false;
    } else if (param.isConst || at(TokenKind::Assign)) {
      errorExpected("':' and the type of the parameter");
      return false;
    }
    if (!accept(TokenKind::Comma))
      break;
  }
  if (!at(TokenKind::RParen)) {
    errorExpected("',' or ')'");
    return false;
  }
  advance();
  params = copy<ParamDecl>(list);
  return true;
}

bool Parser::requireTypes(ArrayRef<ParamDecl> params) {
  for (const ParamDecl &param : params)
    if (!param.type.loc.isValid()) {
      diags.error(param.name.loc, "parameter '" + param.name.name + "' needs a type, as in '" +
                                      param.name.name + ": index'");
      return false;
    }
  return true;
}

bool Parser::parseCoordinates(ArrayRef<Ident> &coordinates) {
  if (!expect(TokenKind::LParen))
    return false;
  SmallVector<Ident> list;
  while (!at(TokenKind::RParen)) {
    if (!expectName(list.emplace_back(), "the name of a coordinate"))
      return false;
    if (!accept(TokenKind::Comma))
      break;
  }
  if (!at(TokenKind::RParen)) {
    errorExpected("',' or ')'");
    return false;
  }
  advance();
  coordinates = copy<Ident>(list);
  return true;
}

ImportDecl *Parser::parseImport() {
  auto *import = make<ImportDecl>();
  import->loc = token.loc();
  advance();
  import->pathLoc = token.loc();
  if (at(TokenKind::String)) {
    import->isFile = true;
    import->path = token.text.drop_front().drop_back();
    advance();
  } else {
    std::string path; // without the space that may be around the dots
    Ident part;
    do {
      if (!expectName(part, "a module such as 'std.masks' or a file name in quotes"))
        return nullptr;
      path += (path.empty() ? "" : ".") + part.name.str();
    } while (accept(TokenKind::Dot));
    import->path = StringRef(path).copy(tree->arena);
  }
  if (accept(TokenKind::Colon)) {
    import->everything = false;
    SmallVector<Ident> names;
    do {
      if (!expectName(names.emplace_back(), "the name to import"))
        return nullptr;
    } while (accept(TokenKind::Comma));
    import->names = copy<Ident>(names);
  }
  return import;
}

Decl *Parser::parseFn() {
  auto *decl = make<Decl>();
  decl->kind = DeclKind::Fn;
  advance();
  if (!expectName(decl->name, "the name of the function") || !parseParams(decl->params) ||
      !requireTypes(decl->params))
    return nullptr;
  if (accept(TokenKind::Arrow)) {
    decl->returnType = make<TypeRef>();
    if (!parseType(*decl->returnType))
      return nullptr;
  }
  decl->body = parseBlock(" and the body of the function");
  return decl->body ? decl : nullptr;
}

/// The part of a mod after its coordinates.
bool Parser::parseModBody(Mod &mod) {
  if (accept(TokenKind::Assign)) {
    mod.composition = parseComposition();
    return mod.composition;
  }
  mod.body = parseBlock("");
  return mod.body;
}

Decl *Parser::parseNamedMod(ModKind kind) {
  auto *decl = make<Decl>();
  decl->kind = DeclKind::Mod;
  decl->mod.kind = kind;
  decl->mod.loc = token.loc();
  advance();
  if (!expectName(decl->name, "the name of the " + decl->what()))
    return nullptr;
  ArrayRef<ParamDecl> first;
  if (at(TokenKind::LParen) && !parseParams(first))
    return nullptr;
  if (at(TokenKind::LParen)) { // mask window(w: index)(b, h, q, kv) {
    decl->params = first;
    if (!requireTypes(first) || !parseCoordinates(decl->mod.coordinates))
      return nullptr;
  } else if (at(TokenKind::LBrace)) { // mask causal(b, h, q, kv) {
    SmallVector<Ident> coordinates;
    for (const ParamDecl &param : first) {
      if (param.type.loc.isValid()) {
        diags.error(token.loc(), "expected '(' and the coordinates of the " + decl->what() +
                                     " after its parameters");
        return nullptr;
      }
      coordinates.push_back(param.name);
    }
    decl->mod.coordinates = copy<Ident>(coordinates);
  } else { // mask local(w: index) = causal & window(w)
    decl->params = first;
    if (!at(TokenKind::Assign)) {
      errorExpected("'=' or '{' and the body of the " + decl->what());
      return nullptr;
    }
    if (!requireTypes(first))
      return nullptr;
  }
  return parseModBody(decl->mod) ? decl : nullptr;
}

bool Parser::parseVariantItem(VariantDecl &variant) {
  bool isScore = atWord("score_mod");
  if (!isScore && !atWord("mask_mod")) {
    errorExpected("'score_mod' or 'mask_mod'");
    return false;
  }
  auto *mod = make<Mod>();
  mod->kind = isScore ? ModKind::Score : ModKind::Mask;
  mod->loc = token.loc();
  StringRef name = token.text;
  advance();
  Mod *&place = isScore ? variant.score : variant.mask;
  if (place) {
    diags.error(mod->loc, "a variant has one '" + name + "'");
    diags.note(place->loc, "the first one is here");
  }
  if (at(TokenKind::LParen) && !parseCoordinates(mod->coordinates))
    return false;
  if (mod->coordinates.empty() && !at(TokenKind::Assign)) {
    errorExpected("'=' or '(' and the coordinates");
    return false;
  }
  if (!mod->coordinates.empty() && !at(TokenKind::LBrace)) {
    errorExpected("'{'");
    return false;
  }
  if (!parseModBody(*mod))
    return false;
  if (!place)
    place = mod;
  if (!mod->body && !accept(TokenKind::Semicolon) && !at(TokenKind::RBrace) && !token.startsLine) {
    errorExpected("the end of the composition");
    return false;
  }
  return true;
}

VariantDecl *Parser::parseVariant() {
  auto *variant = make<VariantDecl>();
  advance();
  if (!expectName(variant->name, "the name of the variant"))
    return nullptr;
  if (at(TokenKind::LParen) && (!parseParams(variant->params) || !requireTypes(variant->params)))
    return nullptr;
  SMLoc open = token.loc();
  if (!expect(TokenKind::LBrace))
    return nullptr;
  while (!at(TokenKind::RBrace)) {
    if (accept(TokenKind::Semicolon))
      continue;
    if (at(TokenKind::Eof)) {
      errorExpected("'}'");
      diags.note(open, "to match this '{'");
      return nullptr;
    }
    if (!parseVariantItem(*variant))
      return nullptr;
  }
  advance();
  return variant;
}

/// Skips to the next line that starts a declaration.
void Parser::recoverAtTopLevel(const char *declBegin) {
  while (!at(TokenKind::Eof)) {
    bool starts = at(TokenKind::Import) || at(TokenKind::Fn) || atWord("mask") || atWord("score") ||
                  atWord("variant");
    // A declaration starts in the first column; a score_mod's own `score` does not.
    if (starts && token.startsLine && token.text.data() != declBegin &&
        token.text.data()[-1] == '\n')
      return;
    advance();
  }
}

std::unique_ptr<SyntaxTree> Parser::run() {
  while (!at(TokenKind::Eof) && !aborted && !diags.stopped()) {
    if (accept(TokenKind::Semicolon))
      continue;
    bool parsed = false;
    const char *begin = token.text.data();
    if (at(TokenKind::Import)) {
      if (ImportDecl *import = parseImport()) {
        tree->imports.push_back(import);
        parsed = true;
        if (!at(TokenKind::Eof) && !at(TokenKind::Semicolon) && !token.startsLine) {
          errorExpected("the end of the line after an import");
          parsed = false;
        }
      }
    } else if (at(TokenKind::Fn) || atWord("mask") || atWord("score")) {
      Decl *decl = at(TokenKind::Fn)
                       ? parseFn()
                       : parseNamedMod(atWord("mask") ? ModKind::Mask : ModKind::Score);
      if ((parsed = decl))
        tree->decls.push_back(decl);
    } else if (atWord("variant")) {
      VariantDecl *variant = parseVariant();
      if ((parsed = variant))
        tree->variants.push_back(variant);
    } else {
      static constexpr StringRef starts[] = {"variant", "mask", "score", "fn", "import"};
      errorExpected("'variant', 'mask', 'score', 'fn' or 'import'",
                    at(TokenKind::Identifier) ? didYouMean(token.text, starts) : "");
    }
    if (!parsed)
      recoverAtTopLevel(begin);
  }
  if (stream)
    stream->comments = lexer.getComments().vec();
  if (diags.errorCount() != errorsBefore)
    return nullptr;
  return std::move(tree);
}

std::unique_ptr<SyntaxTree> heed::lang::parse(StringRef buffer, Diagnostics &diags,
                                              TokenStream *stream) {
  return Parser(buffer, diags, stream).run();
}
