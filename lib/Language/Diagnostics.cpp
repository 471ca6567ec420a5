//===-- Diagnostics.cpp - Errors and notes of the language ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Diagnostics.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/ConvertUTF.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/Unicode.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

using namespace llvm;
using namespace heed::lang;

/// A line with spaces for its tabs, and how wide it looks.
static std::pair<std::string, unsigned> layOut(StringRef line) {
  constexpr unsigned tabStop = 8; // LLVM's
  std::string result;
  unsigned width = 0;
  while (!line.empty()) {
    StringRef character = line.take_front(getNumBytesForUTF8(line.front()));
    line = line.drop_front(character.size());
    // What cannot be printed, such as a mark of direction, takes no place.
    int columns = std::max(sys::unicode::columnWidthUTF8(character), 0);
    if (character == "\t") {
      columns = tabStop - width % tabStop;
      result.append(columns, ' ');
    } else {
      result += character;
    }
    width += columns;
  }
  return {result, width};
}

static void print(SourceMgr &sourceMgr, SMLoc loc, SourceMgr::DiagKind kind, const Twine &message) {
  SMDiagnostic found = sourceMgr.GetMessage(loc, kind, message);
  StringRef line = found.getLineContents();
  if (!loc.isValid() || isASCII(line))
    return sourceMgr.PrintMessage(errs(), found);
  // LLVM counts bytes, and shows no caret in such a line: it comes as a part of the line.
  StringRef before = line.take_front(found.getColumnNo());
  std::string shown = layOut(line).first + '\n' + std::string(layOut(before).second, ' ') + '^';
  unsigned column = count_if(before, [](char c) { return (c & 0xc0) != 0x80; });
  SMDiagnostic diagnostic(sourceMgr, loc, found.getFilename(), found.getLineNo(), column, kind,
                          found.getMessage(), shown, {});
  sourceMgr.PrintMessage(errs(), diagnostic);
}

void Diagnostics::error(SMLoc loc, const Twine &message) {
  lastShown = false;
  if (stopped() || !seen.insert({loc.getPointer(), message.str()}).second)
    return;
  if (++numErrors > maxErrors) {
    print(sourceMgr, loc, SourceMgr::DK_Error, "too many errors; the rest are not shown");
    return;
  }
  lastShown = true;
  print(sourceMgr, loc, SourceMgr::DK_Error, message);
}

bool Diagnostics::hasErrorAt(SMLoc loc) const {
  auto it = seen.lower_bound({loc.getPointer(), ""});
  return it != seen.end() && it->first == loc.getPointer();
}

void Diagnostics::note(SMLoc loc, const Twine &message) {
  if (lastShown && loc.isValid())
    print(sourceMgr, loc, SourceMgr::DK_Note, message);
}

void Diagnostics::noteDivision(SMLoc loc) {
  unsigned buffer = sourceMgr.FindBufferContainingLoc(loc);
  if (!buffer)
    return;
  const char *begin = sourceMgr.getMemoryBuffer(buffer)->getBufferStart();
  for (const char *p = loc.getPointer();; --p) {
    if (p[0] == '/' && p[1] == '/') // a buffer ends with 0
      return note(SMLoc::getFromPointer(p),
                  "this '//' is a floor division; a comment after an expression begins with '#'");
    if (p == begin || p[-1] == '\n')
      return;
  }
}

void Diagnostics::fileError(StringRef file, unsigned line, const Twine &message) {
  ++numErrors;
  lastShown = true;
  // No line contents: the bytes of a line that is not text do not belong on a
  // terminal.
  SMDiagnostic diagnostic(sourceMgr, SMLoc(), file, line ? int(line) : -1, -1, SourceMgr::DK_Error,
                          message.str(), "", {});
  sourceMgr.PrintMessage(errs(), diagnostic);
}

StringRef heed::lang::nearestName(StringRef name, ArrayRef<StringRef> candidates) {
  StringRef best;
  // A third of the letters may differ; two if that makes sense at all, because
  // swapped neighbours count as two.
  unsigned bestDistance = (name.size() < 4 ? 1 : std::max<size_t>(2, name.size() / 3)) + 1;
  for (StringRef candidate : candidates) {
    if (candidate == name)
      continue;
    unsigned distance =
        name.edit_distance_insensitive(candidate, /*AllowReplacements=*/true, bestDistance);
    // Replacing every letter is not a misspelling.
    if (distance >= std::max(name.size(), candidate.size()))
      continue;
    // Of two equally near ones, that which only adds at the end: Sk is Skv, not
    // Sq.
    bool completes =
        distance == bestDistance && !best.empty() && candidate.starts_with_insensitive(name);
    if (distance < bestDistance || completes) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

std::string heed::lang::didYouMean(StringRef name, ArrayRef<StringRef> candidates) {
  StringRef near = nearestName(name, candidates);
  return near.empty() ? "" : ("; did you mean '" + near + "'?").str();
}

std::string heed::lang::writtenHere(StringRef text) {
  static constexpr StringLiteral assigning[] = {
      "+=", "-=", "*=", "/=", "//=", "%=", "&=", "|=", "^=", "&&=", "||=", "<<=", ">>="};
  if (is_contained(assigning, text))
    return ("; 'x " + text + " y' is written 'x = x " + text.drop_back() + " y'").str();
  return StringSwitch<std::string>(text)
      .Case("and", "; 'and' is written '&&', or '&' between masks")
      .Case("or", "; 'or' is written '||', or '|' between masks")
      .Case("not", "; 'not' is written '!'")
      .Case("is", "; 'is' is written '=='")
      .Case("===", "; '===' is written '=='")
      .Cases({"!==", "<>"}, ("; '" + text + "' is written '!='").str())
      .Case("**", "; 'x ** y' is written 'pow(x, y)'")
      .Case("++", "; 'x++' is written 'x = x + 1'")
      .Case("?", "; 'c ? a : b' is written 'if c { a } else { b }'")
      .Case("if", "; 'a if c else b' is written 'if c { a } else { b }'")
      .Case("elif", "; 'elif' is written 'else if'")
      .Case("int", "; 'int(x)' is written 'i32(x)'")
      .Case("float", "; 'float(x)' is written 'f32(x)'")
      .Default("");
}
