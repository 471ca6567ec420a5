//===-- Diagnostics.h - Errors and notes of the language --------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// One place through which every message of the front end goes. It keeps what
// all callers need: an unrolled or inlined body reports each mistake once, a
// hopeless file does not print thousands of lines, and a note is only shown
// with the error it belongs to.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_DIAGNOSTICS_H
#define HEED_LANGUAGE_DIAGNOSTICS_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/Twine.h"
#include "llvm/Support/SMLoc.h"

#include <set>
#include <string>
#include <utility>

namespace llvm {
class SourceMgr;
} // namespace llvm

namespace heed::lang {

class Diagnostics {
public:
  explicit Diagnostics(llvm::SourceMgr &sourceMgr) : sourceMgr(sourceMgr) {}

  void error(llvm::SMLoc loc, const llvm::Twine &message);
  /// Points at another place that the last error is about.
  void note(llvm::SMLoc loc, const llvm::Twine &message);
  /// If a `//` stands at `loc` or before it on its line, says that it divides:
  /// whoever meant a comment has just been told something puzzling.
  void noteDivision(llvm::SMLoc loc);
  /// An error about a file as a whole; `line` 0 if there is none to name.
  void fileError(llvm::StringRef file, unsigned line, const llvm::Twine &message);

  bool hasErrorAt(llvm::SMLoc loc) const;
  bool hasErrors() const { return numErrors != 0; }
  unsigned errorCount() const { return numErrors; }
  /// True once so much was reported that going on would help nobody.
  bool stopped() const { return numErrors > maxErrors; }

  llvm::SourceMgr &getSourceMgr() { return sourceMgr; }

private:
  static constexpr unsigned maxErrors = 30;

  llvm::SourceMgr &sourceMgr;
  std::set<std::pair<const char *, std::string>> seen;
  unsigned numErrors = 0;
  bool lastShown = false;
};

/// The candidate nearest to `name`, if it is near enough to be a likely
/// misspelling, where upper and lower case count the same; empty otherwise.
llvm::StringRef nearestName(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> candidates);

/// "; did you mean 'x'?" for the nearest candidate, or nothing.
std::string didYouMean(llvm::StringRef name, llvm::ArrayRef<llvm::StringRef> candidates);

/// "; 'not' is written '!'" for an operator or a word that Python or C has and
/// this language spells otherwise, or nothing.
std::string writtenHere(llvm::StringRef text);

} // namespace heed::lang

#endif // HEED_LANGUAGE_DIAGNOSTICS_H
