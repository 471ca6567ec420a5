//===-- Diagnostics.cpp - Errors and notes of the language ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Diagnostics.h"

#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>

using namespace llvm;
using namespace heed::lang;

void Diagnostics::error(SMLoc loc, const Twine &message) {
  lastShown = false;
  if (stopped() || !seen.insert({loc.getPointer(), message.str()}).second)
    return;
  if (++numErrors > maxErrors) {
    sourceMgr.PrintMessage(loc, SourceMgr::DK_Error, "too many errors; the rest are not shown");
    return;
  }
  lastShown = true;
  sourceMgr.PrintMessage(loc, SourceMgr::DK_Error, message);
}

void Diagnostics::note(SMLoc loc, const Twine &message) {
  if (lastShown && loc.isValid())
    sourceMgr.PrintMessage(loc, SourceMgr::DK_Note, message);
}

void Diagnostics::noteDivision(SMLoc loc) {
  unsigned buffer = sourceMgr.FindBufferContainingLoc(loc);
  if (!buffer)
    return;
  const char *begin = sourceMgr.getMemoryBuffer(buffer)->getBufferStart();
  for (const char *p = loc.getPointer(); p != begin && p[-1] != '\n'; --p)
    if (p[-1] == '/' && p - 1 != begin && p[-2] == '/')
      return note(SMLoc::getFromPointer(p - 2),
                  "this '//' is a floor division; a comment after an expression begins with '#'");
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
    unsigned distance = name.edit_distance(candidate, /*AllowReplacements=*/true, bestDistance);
    // Replacing every letter is not a misspelling.
    if (distance >= std::max(name.size(), candidate.size()))
      continue;
    // Of two equally near ones, that which only adds at the end: Sk is Skv, not
    // Sq.
    bool completes = distance == bestDistance && !best.empty() && candidate.starts_with(name);
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
