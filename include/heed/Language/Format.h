//===-- Format.h - The canonical layout of .heed text -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_FORMAT_H
#define HEED_LANGUAGE_FORMAT_H

#include "llvm/ADT/StringRef.h"

#include <optional>
#include <string>

namespace llvm {
class SourceMgr;
} // namespace llvm

namespace heed::lang {

/// Returns `text` in canonical layout: spacing and indentation are decided here,
/// line breaks between statements and inside long expressions stay where the
/// author put them, and every comment is kept. Formatting twice changes nothing.
/// Text that does not parse is reported through `sourceMgr` and gives nullopt.
std::optional<std::string> formatProgram(llvm::StringRef text, llvm::StringRef name,
                                         llvm::SourceMgr &sourceMgr);

} // namespace heed::lang

#endif // HEED_LANGUAGE_FORMAT_H
