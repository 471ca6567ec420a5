//===-- Loader.cpp - Objects become code of this process ------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// JITLink places an object's sections; there is nothing lazy and nothing to compile.
//
//===----------------------------------------------------------------------===//

#include "Blob.h"

#include "llvm/ExecutionEngine/Orc/AbsoluteSymbols.h"
#include "llvm/ExecutionEngine/Orc/Core.h"
#include "llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h"
#include "llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h"
#include "llvm/Support/MemoryBuffer.h"

#include <cstring>
#include <mutex>

using namespace heed;
using namespace llvm;

namespace {
/// The process's linker.
class Loader {
public:
  static Expected<Loader &> get() {
    // Never destroyed: code may run until the process ends.
    static auto &loader = *new Expected<std::unique_ptr<Loader>>(create());
    if (!loader)
      return createStringError("cannot load code into this process");
    return **loader;
  }

  Expected<orc::ExecutorAddr> load(StringRef object, StringRef symbol, orc::JITDylib *&dylib) {
    std::lock_guard<std::mutex> guard(mutex);
    std::string name = (symbol + "." + Twine(++count)).str();
    dylib = &session->createBareJITDylib(name);
    dylib->addToLinkOrder(*library);
    if (Error error = layer->add(*dylib, MemoryBuffer::getMemBufferCopy(object, name)))
      return discard(dylib, std::move(error));
    auto address = session->lookup({dylib}, session->intern((symbol + "_kernel").str()));
    if (!address)
      return discard(dylib, address.takeError());
    return address->getAddress();
  }

  void unload(orc::JITDylib &dylib) {
    std::lock_guard<std::mutex> guard(mutex);
    consumeError(session->removeJITDylib(dylib));
  }

private:
  static Expected<std::unique_ptr<Loader>> create() {
    auto control = orc::SelfExecutorProcessControl::Create();
    if (!control)
      return control.takeError();
    auto loader = std::make_unique<Loader>();
    loader->session = std::make_unique<orc::ExecutionSession>(std::move(*control));
    // Failures come back from load(); they need not be printed as well.
    loader->session->setErrorReporter([](Error error) { consumeError(std::move(error)); });
    loader->layer = std::make_unique<orc::ObjectLinkingLayer>(*loader->session);
    // What LLVM may call in a kernel.
    loader->library = &loader->session->createBareJITDylib("libc");
    orc::SymbolMap symbols;
    auto define = [&](const char *name, void *address) {
      symbols[loader->session->intern(name)] = {orc::ExecutorAddr::fromPtr(address),
                                                JITSymbolFlags::Exported};
    };
    define("memcpy", reinterpret_cast<void *>(&std::memcpy));
    define("memmove", reinterpret_cast<void *>(&std::memmove));
    define("memset", reinterpret_cast<void *>(&std::memset));
    if (Error error = loader->library->define(orc::absoluteSymbols(std::move(symbols))))
      return std::move(error);
    return std::move(loader);
  }

  Error discard(orc::JITDylib *&dylib, Error error) {
    consumeError(session->removeJITDylib(*dylib));
    dylib = nullptr;
    return error;
  }

  std::unique_ptr<orc::ExecutionSession> session;
  std::unique_ptr<orc::ObjectLinkingLayer> layer;
  orc::JITDylib *library = nullptr;
  std::mutex mutex;
  unsigned count = 0;
};
} // namespace

struct heed_library {
  Loader &loader;
  orc::JITDylib &dylib;
  const heed_kernel *kernel;
};

heed_status heed_load_object(const void *object, size_t size, const char *symbol,
                             heed_library **library, heed_blob **messages) {
  Expected<Loader &> loader = Loader::get();
  if (!loader)
    return giveError(messages, loader.takeError());
  orc::JITDylib *dylib = nullptr;
  auto address = loader->load(StringRef(static_cast<const char *>(object), size), symbol, dylib);
  if (!address)
    return giveError(messages, address.takeError());
  auto *kernel = address->toPtr<const heed_kernel *>();
  if (kernel->abi_version != HEED_ABI_VERSION) {
    loader->unload(*dylib);
    give(messages, "heed: error: the object was compiled for another version of Heed\n", HEED_OK);
    return HEED_ABI_MISMATCH;
  }
  *library = new heed_library{*loader, *dylib, kernel};
  return HEED_OK;
}

const heed_kernel *heed_library_kernel(const heed_library *library) { return library->kernel; }

void heed_library_free(heed_library *library) {
  if (library)
    library->loader.unload(library->dylib);
  delete library;
}
