//===-- Stdlib.h - The modules that come with the compiler ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_STDLIB_H
#define HEED_LANGUAGE_STDLIB_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace heed::lang {

/// A file of lib/Language/Stdlib, embedded when the compiler was built.
struct StandardModule {
  llvm::StringLiteral name; // "masks", imported as `std.masks`
  llvm::StringLiteral text;
};

llvm::ArrayRef<StandardModule> standardModules();

} // namespace heed::lang

#endif // HEED_LANGUAGE_STDLIB_H
