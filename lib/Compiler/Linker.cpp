//===-- Linker.cpp - Shared libraries from objects ------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Compiler.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Program.h"

using namespace heed;
using llvm::StringRef;

llvm::Error heed::linkShared(StringRef objectPath, StringRef outputPath) {
  // Kernels call nothing but memcpy and memset, so any linker will do, and none needs to be told of libraries.
  static constexpr llvm::StringLiteral linkers[] = {"ld.lld-22", "ld.lld", "ld", "cc"};
  for (StringRef name : linkers) {
    llvm::ErrorOr<std::string> program = llvm::sys::findProgramByName(name);
    if (!program)
      continue;
    llvm::SmallVector<StringRef> arguments = {*program, "-shared", "-o", outputPath, objectPath};
    std::string message;
    int status = llvm::sys::ExecuteAndWait(*program, arguments, std::nullopt, {}, 0, 0, &message);
    if (status != 0)
      return llvm::createStringError("'" + name + " -shared' failed with status " +
                                     std::to_string(status) + (message.empty() ? "" : ": ") +
                                     message);
    return llvm::Error::success();
  }
  return llvm::createStringError("no linker found for --emit=shared: install lld or binutils");
}
