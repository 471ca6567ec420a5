//===-- BuildId.cpp - Which build of the compiler this is -----------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed-c/Compiler.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"

#include <link.h>

using namespace llvm;

const char *heed_version(void) { return HEED_VERSION; }

const char *heed_llvm_version(void) { return LLVM_VERSION_STRING; }

/// Finds the note that the linker wrote into the object this function is in.
static int findBuildId(dl_phdr_info *info, size_t, void *result) {
  auto self = reinterpret_cast<uintptr_t>(&findBuildId);
  bool isSelf = false;
  ArrayRef<ElfW(Phdr)> headers(info->dlpi_phdr, info->dlpi_phnum);
  for (const ElfW(Phdr) &header : headers) {
    uintptr_t begin = info->dlpi_addr + header.p_vaddr;
    isSelf |= header.p_type == PT_LOAD && self >= begin && self < begin + header.p_memsz;
  }
  if (!isSelf)
    return 0;
  for (const ElfW(Phdr) &header : headers) {
    if (header.p_type != PT_NOTE)
      continue;
    auto *begin = reinterpret_cast<const uint8_t *>(info->dlpi_addr + header.p_vaddr);
    for (uint64_t offset = 0; offset + sizeof(ElfW(Nhdr)) <= header.p_memsz;) {
      auto *note = reinterpret_cast<const ElfW(Nhdr) *>(begin + offset);
      const uint8_t *name = begin + offset + sizeof *note;
      const uint8_t *content = name + alignTo(note->n_namesz, 4);
      if (note->n_type == NT_GNU_BUILD_ID &&
          StringRef(reinterpret_cast<const char *>(name), note->n_namesz) == StringRef("GNU", 4))
        *static_cast<std::string *>(result) =
            toHex(ArrayRef(content, note->n_descsz), /*LowerCase=*/true);
      offset += sizeof *note + alignTo(note->n_namesz, 4) + alignTo(note->n_descsz, 4);
    }
  }
  return 1;
}

const char *heed_build_id(void) {
  static const std::string id = [] {
    std::string found;
    dl_iterate_phdr(findBuildId, &found);
    return found;
  }();
  return id.c_str();
}
