//===-- Linker.cpp - Shared libraries from objects ------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Compiler.h"

#include "llvm/ADT/ScopeExit.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"

using namespace heed;
using llvm::StringRef;

llvm::Error heed::linkShared(StringRef objectPath, StringRef outputPath) {
  // Kernels call nothing but memcpy and memset, so any linker will do, and none needs to be told of
  // libraries.
  static constexpr llvm::StringLiteral linkers[] = {"ld.lld-22", "ld.lld", "ld", "cc"};
  for (StringRef name : linkers) {
    llvm::ErrorOr<std::string> program = llvm::sys::findProgramByName(name);
    if (!program)
      continue;
    llvm::SmallString<128> log;
    if (std::error_code code = llvm::sys::fs::createTemporaryFile("heedc-link", "log", log))
      return llvm::createStringError("cannot write a temporary file: " + code.message());
    llvm::scope_exit cleanUp([&] { llvm::sys::fs::remove(log); });
    llvm::SmallVector<StringRef> arguments = {*program, "-shared", "-o", outputPath, objectPath};
    std::optional<StringRef> redirects[] = {std::nullopt, StringRef(log), StringRef(log)};
    std::string message;
    int status =
        llvm::sys::ExecuteAndWait(*program, arguments, std::nullopt, redirects, 0, 0, &message);
    if (status != 0) {
      if (auto text = llvm::MemoryBuffer::getFile(log); text && message.empty())
        message = (*text)->getBuffer().split('\n').first.str();
      return llvm::createStringError("cannot link '" + outputPath + "': " + message);
    }
    return llvm::Error::success();
  }
  return llvm::createStringError("no linker found for --emit=shared: install lld or binutils");
}
