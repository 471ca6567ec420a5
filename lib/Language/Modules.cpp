//===-- Modules.cpp - Files, imports and what names they bring --*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Modules.h"

#include "heed/Language/Parser.h"
#include "heed/Language/Stdlib.h"

#include "Builtins.h"

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SourceMgr.h"

#include <algorithm>

using namespace llvm;
using namespace heed::lang;
using namespace heed::lang::ast;

ModuleSet::ModuleSet(Diagnostics &diags, const CheckOptions &options, BumpPtrAllocator &strings)
    : diags(diags), strings(strings),
      fileSystem(options.fileSystem ? options.fileSystem : vfs::getRealFileSystem()) {}

/// Two spellings of one file must not become two modules.
static std::string fileKey(vfs::FileSystem &fileSystem, StringRef path) {
  SmallString<128> real;
  if (!fileSystem.getRealPath(path, real))
    return std::string(real);
  real = path;
  sys::path::remove_dots(real, /*remove_dot_dot=*/true);
  return std::string(real);
}

bool ModuleSet::load(StringRef path) {
  ErrorOr<std::unique_ptr<MemoryBuffer>> buffer = fileSystem->getBufferForFile(path);
  if (!buffer) {
    diags.fileError(path, 0, "cannot read the file: " + buffer.getError().message());
    return false;
  }
  return add(std::move(*buffer), path, fileKey(*fileSystem, path)) && loadImports();
}

bool ModuleSet::loadText(StringRef text, StringRef path) {
  return add(MemoryBuffer::getMemBufferCopy(text, path), path, fileKey(*fileSystem, path)) &&
         loadImports();
}

Module *ModuleSet::add(std::unique_ptr<MemoryBuffer> buffer, StringRef path, StringRef key) {
  StringRef text = buffer->getBuffer();
  auto module = std::make_unique<Module>();
  path = path.copy(strings);
  module->path = path;
  module->begin = text.begin();
  module->end = text.end();
  module->lineStarts.push_back(text.begin());
  for (const char &c : text)
    if (c == '\n')
      module->lineStarts.push_back(&c + 1);
  Module *result = module.get();
  byKey[key] = result;
  modules.push_back(std::move(module));

  size_t bad;
  if (!isUTF8(text, bad)) {
    unsigned line = text.take_front(bad).count('\n') + 1;
    diags.fileError(path, line, "the file is not UTF-8 text");
    return result;
  }
  diags.getSourceMgr().AddNewSourceBuffer(std::move(buffer), SMLoc());
  result->tree = parse(text, diags);
  if (!result->tree)
    return result;

  for (const Decl *decl : result->tree->decls) {
    if (isBuiltinName(decl->name.name)) {
      diags.error(decl->name.loc, "'" + decl->name.name + "' is a built-in function");
      continue;
    }
    auto [it, inserted] = result->decls.try_emplace(decl->name.name, decl);
    if (!inserted) {
      diags.error(decl->name.loc, "'" + decl->name.name + "' is already declared");
      diags.note(it->second->name.loc, "the first declaration is here");
    }
  }
  StringMap<const VariantDecl *> variants;
  for (const VariantDecl *variant : result->tree->variants) {
    auto [it, inserted] = variants.try_emplace(variant->name.name, variant);
    if (!inserted) {
      diags.error(variant->name.loc, "variant '" + variant->name.name + "' is already declared");
      diags.note(it->second->name.loc, "the first declaration is here");
    }
  }
  return result;
}

Module *ModuleSet::resolve(const Module &from, const ImportDecl &import) {
  if (!import.isFile) {
    std::vector<std::string> names;
    for (const StandardModule &known : standardModules())
      names.push_back(("std." + known.name).str());
    auto found = std::find(names.begin(), names.end(), import.path);
    if (found == names.end()) {
      std::vector<StringRef> refs(names.begin(), names.end());
      diags.error(import.pathLoc,
                  "unknown module '" + import.path + "'" + didYouMean(import.path, refs));
      return nullptr;
    }
    const StandardModule &known = standardModules()[found - names.begin()];
    std::string path = ("std/" + known.name + ".heed").str();
    // A path that no file has: a file next to the user's cannot pass for it.
    std::string key = "<" + path + ">";
    if (Module *module = byKey.lookup(key))
      return module;
    Module *module = add(MemoryBuffer::getMemBuffer(known.text, path), path, key);
    module->isStandard = true;
    return module;
  }
  SmallString<128> path;
  if (sys::path::is_relative(import.path))
    path = sys::path::parent_path(from.path);
  sys::path::append(path, import.path);
  std::string key = fileKey(*fileSystem, path);
  if (Module *module = byKey.lookup(key))
    return module;
  if (import.path.contains('\0') || import.path.empty()) {
    diags.error(import.pathLoc, "cannot read '" + path + "': not a file name");
    return nullptr;
  }
  ErrorOr<std::unique_ptr<MemoryBuffer>> buffer = fileSystem->getBufferForFile(path);
  if (!buffer) {
    diags.error(import.pathLoc, "cannot read '" + path + "': " + buffer.getError().message());
    return nullptr;
  }
  return add(std::move(*buffer), path, key);
}

bool ModuleSet::loadImports() {
  // The list grows while files bring in others.
  for (size_t i = 0; i != modules.size() && !diags.stopped(); ++i) {
    Module &module = *modules[i];
    if (!module.tree)
      continue;
    for (const ImportDecl *import : module.tree->imports)
      if (Module *from = resolve(module, *import))
        if (import->everything)
          module.wildcards.push_back(from);
  }
  if (diags.hasErrors())
    return false;
  for (size_t i = 0; i != modules.size(); ++i)
    importAll(*modules[i]);
  return !diags.hasErrors();
}

void ModuleSet::importAll(Module &module) {
  for (const ImportDecl *import : module.tree->imports) {
    if (import->everything)
      continue;
    Module *from = resolve(module, *import);
    for (const Ident &name : import->names) {
      const Decl *decl = from->decls.lookup(name.name);
      if (!decl) {
        auto isVariant = [&](const VariantDecl *v) { return v->name.name == name.name; };
        if (any_of(from->tree->variants, isVariant)) {
          diags.error(name.loc, "'" + name.name +
                                    "' is a variant; only masks, scores and functions can be "
                                    "imported");
          continue;
        }
        std::vector<StringRef> names;
        for (const Decl *known : from->tree->decls)
          names.push_back(known->name.name);
        diags.error(name.loc, "'" + import->path + "' declares no mask, score or function '" +
                                  name.name + "'" + didYouMean(name.name, names));
        continue;
      }
      const Decl *other = module.decls.lookup(name.name);
      if (!other) {
        auto [it, inserted] = module.imported.try_emplace(name.name, DeclRef{decl, from});
        other = inserted ? nullptr : it->second.decl;
      }
      if (other && other != decl) {
        diags.error(name.loc, "'" + name.name + "' is already declared");
        diags.note(other->name.loc, "the first declaration is here");
      }
    }
  }
}

DeclRef ModuleSet::lookup(Module &module, const Ident &name, bool &reported) {
  reported = false;
  if (const Decl *decl = module.decls.lookup(name.name))
    return {decl, &module};
  if (DeclRef ref = module.imported.lookup(name.name))
    return ref;
  DeclRef result;
  for (Module *from : module.wildcards) {
    const Decl *decl = from->decls.lookup(name.name);
    if (!decl || decl == result.decl)
      continue;
    if (result) {
      diags.error(name.loc, "'" + name.name + "' is in more than one of the imported files");
      diags.note(result.decl->name.loc, "it is declared here");
      diags.note(decl->name.loc, "and here; import one of them by name");
      reported = true;
      return {};
    }
    result = {decl, from};
  }
  return result;
}

std::vector<StringRef> ModuleSet::visibleNames(const Module &module) const {
  std::vector<StringRef> names;
  auto addAll = [&](const Module &from) {
    for (const Decl *decl : from.tree->decls)
      names.push_back(decl->name.name);
  };
  addAll(module);
  for (const ImportDecl *import : module.tree->imports)
    for (const Ident &name : import->names)
      names.push_back(name.name);
  for (const Module *from : module.wildcards)
    addAll(*from);
  return names;
}

std::string ModuleSet::standardModuleOf(StringRef name) {
  for (const StandardModule &module : standardModules())
    if (any_of(parse(module.text, diags)->decls,
               [&](const Decl *decl) { return decl->name.name == name; }))
      return ("std." + module.name).str();
  return "";
}

Location ModuleSet::locate(SMLoc loc) const {
  const char *place = loc.getPointer();
  for (const auto &module : modules) {
    if (place < module->begin || place > module->end)
      continue;
    auto line = std::upper_bound(module->lineStarts.begin(), module->lineStarts.end(), place) - 1;
    return {module->path, unsigned(line - module->lineStarts.begin() + 1),
            unsigned(place - *line + 1)};
  }
  return {};
}
