//===-- Modules.h - Files, imports and what names they bring ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_LANGUAGE_MODULES_H
#define HEED_LIB_LANGUAGE_MODULES_H

#include "heed/Language/AST.h"
#include "heed/Language/Diagnostics.h"
#include "heed/Language/Program.h"

#include "llvm/ADT/StringMap.h"

#include <memory>
#include <vector>

namespace heed::lang {

struct Module;

/// A top-level declaration and the file whose names its body sees.
struct DeclRef {
  const ast::Decl *decl = nullptr;
  Module *module = nullptr;
  explicit operator bool() const { return decl; }
};

struct Module {
  llvm::StringRef path; // as diagnostics show it
  bool isStandard = false;
  std::unique_ptr<SyntaxTree> tree; // null if it did not parse
  llvm::StringMap<const ast::Decl *> decls;
  /// Imported by name. These and the file's own names win over `wildcards`.
  llvm::StringMap<DeclRef> imported;
  std::vector<Module *> wildcards;

  // To turn places into line and column without scanning.
  const char *begin = nullptr, *end = nullptr;
  std::vector<const char *> lineStarts;
};

/// All files of a program. Each file is loaded once, whatever path leads to it,
/// so importing in a circle is harmless.
class ModuleSet {
public:
  /// Paths are kept in `strings`, because the program refers to them.
  ModuleSet(Diagnostics &diags, const CheckOptions &options, llvm::BumpPtrAllocator &strings);

  /// Loads the main file and everything it imports. False if something could
  /// not be read or parsed.
  bool load(llvm::StringRef path);
  bool loadText(llvm::StringRef text, llvm::StringRef path);

  Module &main() { return *modules.front(); }
  llvm::ArrayRef<std::unique_ptr<Module>> all() const { return modules; }

  /// What `name` means in a file; reports an ambiguity, but not an unknown name.
  DeclRef lookup(Module &module, const ast::Ident &name, bool &reported);
  /// All names that lookup() would find, for proposing a near one.
  std::vector<llvm::StringRef> visibleNames(const Module &module) const;

  /// The module of the standard library that declares `name`, if one does.
  std::string standardModuleOf(llvm::StringRef name);

  Location locate(llvm::SMLoc loc) const;

private:
  Module *add(std::unique_ptr<llvm::MemoryBuffer> buffer, llvm::StringRef path,
              llvm::StringRef key);
  void importAll(Module &module);
  Module *resolve(const Module &from, const ast::ImportDecl &import);
  bool loadImports();

  Diagnostics &diags;
  llvm::BumpPtrAllocator &strings;
  llvm::IntrusiveRefCntPtr<llvm::vfs::FileSystem> fileSystem;
  std::vector<std::unique_ptr<Module>> modules;
  llvm::StringMap<Module *> byKey;
};

} // namespace heed::lang

#endif // HEED_LIB_LANGUAGE_MODULES_H
