//===-- heed-interpret.cpp - Runs variants in the interpreter -------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   heed-interpret alibi.heed --variant=alibi request.json
//   heed-interpret alibi.mlir request.json                      what heedc --emit=attn printed
//
// heed/Interpreter/Requests.h describes requests.
//
//===----------------------------------------------------------------------===//

#include "heed-c/Compiler.h"

#include "heed/Compiler/Compiler.h"
#include "heed/Interpreter/Requests.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/WithColor.h"

namespace cl = llvm::cl;

static cl::OptionCategory category("heed-interpret options");
static cl::opt<std::string> programPath(cl::Positional, cl::Required,
                                        cl::desc("FILE.heed|FILE.mlir"), cl::cat(category));
static cl::opt<std::string> requestPath(cl::Positional, cl::Required, cl::desc("request.json"),
                                        cl::cat(category));
static cl::opt<std::string> variantName("variant",
                                        cl::desc("The variant (default: the file's only one)"),
                                        cl::value_desc("name"), cl::cat(category));
static cl::list<std::string> defines("D", cl::Prefix, cl::cat(category),
                                     cl::value_desc("name=value"),
                                     cl::desc("Compile a scalar parameter in with this value"));

static int fail(const llvm::Twine &message) {
  llvm::WithColor::error(llvm::errs(), "heed-interpret") << message << '\n';
  return 1;
}

static std::unique_ptr<llvm::MemoryBuffer> read(llvm::StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (buffer)
    return std::move(*buffer);
  fail("cannot read '" + path + "': " + buffer.getError().message());
  return nullptr;
}

static int interpretModule(std::unique_ptr<llvm::MemoryBuffer> source, llvm::StringRef json) {
  if (!defines.empty())
    return fail("-D is for programs, and '" + programPath + "' is a module");
  std::unique_ptr<mlir::MLIRContext> context = heed::makeContext();
  llvm::SourceMgr sources;
  sources.AddNewSourceBuffer(std::move(source), llvm::SMLoc());
  mlir::SourceMgrDiagnosticHandler handler(sources, context.get());
  auto module = mlir::parseSourceFile<mlir::ModuleOp>(sources, context.get());
  if (!module)
    return 1;
  llvm::SmallVector<heed::attn::VariantOp> wanted;
  llvm::SmallVector<llvm::StringRef> known;
  for (auto variant : module->getOps<heed::attn::VariantOp>()) {
    known.push_back(variant.getSymName());
    if (variantName.empty() || variant.getSymName() == variantName)
      wanted.push_back(variant);
  }
  if (wanted.size() != 1)
    return fail("expected one variant" + (variantName.empty() ? "" : " '" + variantName + "'") +
                " in '" + programPath + "' (there: " + llvm::join(known, ", ") + ")");
  if (llvm::Error error = heed::interpreter::runRequest(wanted.front(), json))
    return fail(llvm::toString(std::move(error)));
  return 0;
}

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  cl::HideUnrelatedOptions(category);
  cl::ParseCommandLineOptions(argc, argv, "heed-interpret: runs attention variants in float64\n");
  std::unique_ptr<llvm::MemoryBuffer> source = read(programPath), json = read(requestPath);
  if (!source || !json)
    return 1;
  if (llvm::sys::path::extension(programPath) == ".mlir")
    return interpretModule(std::move(source), json->getBuffer());
  std::vector<const char *> definitions;
  for (const std::string &define : defines)
    definitions.push_back(define.c_str());
  definitions.push_back(nullptr);

  heed_compile_request program = {};
  program.source = source->getBufferStart();
  program.source_size = source->getBufferSize();
  program.file_name = programPath.c_str();
  program.variant = variantName.empty() ? nullptr : variantName.c_str();
  program.defines = definitions.data();
  heed_blob *messages = nullptr;
  heed_status status = heed_interpret(&program, json->getBufferStart(), &messages);
  if (status != HEED_OK)
    llvm::errs() << heed_blob_data(messages);
  heed_blob_free(messages);
  return status == HEED_OK ? 0 : 1;
}
