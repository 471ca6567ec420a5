//===-- Compiler.cpp - heed-c/Compiler.h on the C++ compiler --------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Blob.h"

#include "heed/Compiler/Compiler.h"
#include "heed/Compiler/Explain.h"
#include "heed/Conversion/LanguageToAttn.h"
#include "heed/Interpreter/Requests.h"
#include "heed/Language/Format.h"

#include "mlir/IR/Diagnostics.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/SourceMgr.h"

#include <locale.h>

using namespace heed;
using llvm::StringRef;

const char *heed_blob_data(const heed_blob *blob) {
  return const_cast<heed_blob *>(blob)->bytes.c_str();
}
size_t heed_blob_size(const heed_blob *blob) { return blob->bytes.size(); }
void heed_blob_free(heed_blob *blob) { delete blob; }

const char *heed_target_of_cpu(uint64_t features) {
  const CPUTarget *target = bestCPUTarget(features);
  return target ? target->name.c_str() : nullptr;
}

namespace {
/// While one lives, numbers are printed and read with a decimal point by this thread: LLVM does it
/// by printf, which follows the locale that the program around Heed has chosen.
class DecimalPoint {
public:
  DecimalPoint() : before(uselocale(ofC())) {}
  ~DecimalPoint() { uselocale(before); }

private:
  static locale_t ofC() {
    static const locale_t c = newlocale(LC_ALL_MASK, "C", nullptr);
    return c;
  }
  locale_t before;
};

/// A request's program with the messages about it.
class Program {
public:
  explicit Program(const heed_compile_request &request) : request(request), os(text) {
    sources.setDiagHandler(
        [](const llvm::SMDiagnostic &diagnostic, void *os) {
          diagnostic.print(nullptr, *static_cast<llvm::raw_ostream *>(os), /*ShowColors=*/false);
        },
        &os);
  }

  /// Parses and checks; an error is for what is wrong with the request itself.
  llvm::Error check() {
    lang::CheckOptions options;
    options.definesOf = request.variant ? request.variant : "";
    for (const char *const *define = request.defines; define && *define; ++define) {
      auto [name, value] = StringRef(*define).split('=');
      if (name.empty() || value.empty())
        return llvm::createStringError("a define expects NAME=VALUE, found '" +
                                       StringRef(*define).str() + "'");
      options.defines.emplace_back(name.str(), value.str());
    }
    checked = lang::checkSource(source(), fileName(), sources, options);
    return checked ? llvm::Error::success() : reported();
  }

  llvm::Expected<const lang::Variant *> choose() const {
    if (request.variant)
      return checked->require(request.variant, fileName());
    if (checked->variants.size() == 1)
      return &checked->variants.front();
    std::string known;
    for (const lang::Variant &variant : checked->variants)
      known += (known.empty() ? "" : ", ") + variant.name.str();
    return llvm::createStringError(
        "'" + fileName() + "' has " +
        (known.empty() ? "no variant" : "several variants; choose one of " + known));
  }

  const lang::CheckedProgram &get() const { return *checked; }
  StringRef source() const { return StringRef(request.source, request.source_size); }
  std::string fileName() const { return request.file_name ? request.file_name : "<source>"; }
  llvm::SourceMgr &sourceMgr() { return sources; }

  /// An error without words of its own: the diagnostics say it.
  static llvm::Error reported() { return llvm::createStringError(""); }

  /// Hands over the diagnostics, then the error.
  heed_status fail(heed_blob **result, llvm::Error error) {
    std::string message = llvm::toString(std::move(error));
    if (!message.empty() || text.empty())
      os << "heed: error: " << message << '\n';
    return give(result, text, HEED_INVALID_ARGUMENT);
  }

  /// A context whose diagnostics join the program's.
  mlir::MLIRContext &context() {
    if (!mlirContext) {
      mlirContext = makeContext();
      mlirContext->getDiagEngine().registerHandler([&](mlir::Diagnostic &diagnostic) {
        os << diagnostic.getLocation() << ": " << diagnostic << '\n';
      });
    }
    return *mlirContext;
  }

private:
  const heed_compile_request &request;
  llvm::SourceMgr sources;
  std::unique_ptr<lang::CheckedProgram> checked;
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os;
  std::unique_ptr<mlir::MLIRContext> mlirContext;
};
} // namespace

static llvm::Expected<CompileOptions> readOptions(const heed_compile_request &request) {
  CompileOptions options;
  options.dtype = request.dtype;
  if (request.dtype != HEED_F16 && request.dtype != HEED_BF16 && request.dtype != HEED_F32)
    return llvm::createStringError("dtype expects f16, bf16 or f32");
  options.headDim = request.head_dim;
  options.valueHeadDim = request.value_head_dim;
  auto isHeadDim = [](int64_t d) { return d >= 1 && d <= 576; };
  if (!isHeadDim(options.headDim) || (options.valueHeadDim && !isHeadDim(options.valueHeadDim)))
    return llvm::createStringError(
        "head dims go from 1 to 576, found " + std::to_string(options.headDim) +
        (options.valueHeadDim ? " and " + std::to_string(options.valueHeadDim) : ""));
  options.symbol = request.symbol ? request.symbol : "";
  if (!options.symbol.empty() && (!isCIdentifier(options.symbol) || isReservedInC(options.symbol)))
    return llvm::createStringError("symbol expects a C identifier, found '" + options.symbol + "'");
  llvm::SmallVector<StringRef> names;
  StringRef(request.targets ? request.targets : "native").split(names, ',');
  if (llvm::Error error = lookupTargets(names, options))
    return std::move(error);
  auto schedule = GPUScheduleOverrides::parse(request.options ? request.options : "");
  if (!schedule)
    return schedule.takeError();
  options.gpuSchedule = *schedule;
  return options;
}

static llvm::json::Value toJSON(const lang::Parameter &parameter) {
  llvm::json::Object object{{"name", parameter.name},
                            {"type", lang::spelling(parameter.elementType)}};
  if (parameter.isTensor()) {
    llvm::json::Array extents;
    for (const lang::Extent &extent : parameter.extents)
      switch (extent.kind) {
      case lang::Extent::Kind::Number:
        extents.push_back(extent.number);
        break;
      case lang::Extent::Kind::Symbol:
        extents.push_back(lang::spelling(extent.size));
        break;
      case lang::Extent::Kind::Any:
        extents.push_back("?");
        break;
      }
    object["extents"] = std::move(extents);
  }
  if (parameter.isConst)
    object["const"] = true;
  if (parameter.value)
    object["default"] = scalarToJSON(*parameter.value);
  return object;
}

static void writeVariants(const lang::CheckedProgram &program, llvm::raw_ostream &os) {
  llvm::json::Array variants;
  for (const lang::Variant &variant : program.variants) {
    llvm::json::Array params;
    for (const lang::Parameter &parameter : variant.params)
      params.push_back(toJSON(parameter));
    variants.push_back(llvm::json::Object{{"name", variant.name}, {"params", std::move(params)}});
  }
  os << llvm::json::Value(std::move(variants));
}

static llvm::Error emitTo(Program &program, const heed_compile_request &request, heed_emit emit,
                          llvm::raw_svector_ostream &os) {
  if (emit == HEED_EMIT_FORMAT) {
    std::optional<std::string> text =
        lang::formatProgram(program.source(), program.fileName(), program.sourceMgr());
    if (!text)
      return Program::reported();
    os << *text;
    return llvm::Error::success();
  }
  if (llvm::Error error = program.check())
    return error;
  if (emit == HEED_EMIT_CHECK)
    return llvm::Error::success();
  if (emit == HEED_EMIT_VARIANTS) {
    writeVariants(program.get(), os);
    return llvm::Error::success();
  }
  llvm::Expected<const lang::Variant *> variant = program.choose();
  if (!variant)
    return variant.takeError();
  llvm::Expected<CompileOptions> options = readOptions(request);
  if (!options)
    return options.takeError();
  if (emit == HEED_EMIT_HEADER) {
    writeHeader(*variant, *options, defaultSymbol(**variant, *options) + ".h", os);
    return llvm::Error::success();
  }
  if (emit == HEED_EMIT_EXPLAIN || emit == HEED_EMIT_ALTERNATIVES) {
    auto found = (emit == HEED_EMIT_EXPLAIN ? explain : alternatives)(program.context(), **variant,
                                                                      *options);
    if (!found)
      return found.takeError();
    os << *found;
    return llvm::Error::success();
  }
  static const std::pair<heed_emit, EmitKind> kinds[] = {
      {HEED_EMIT_ATTN, EmitKind::Attn},     {HEED_EMIT_TILE, EmitKind::Tile},
      {HEED_EMIT_LLVM, EmitKind::LLVM},     {HEED_EMIT_ASM, EmitKind::Asm},
      {HEED_EMIT_OBJECT, EmitKind::Object}, {HEED_EMIT_CLASSIFIER, EmitKind::Classifier}};
  for (auto [asked, kind] : kinds)
    if (asked == emit)
      return compile(program.context(), *variant, *options, kind, os);
  return llvm::createStringError("unknown kind of result " + std::to_string(emit));
}

heed_status heed_compile(const heed_compile_request *request, heed_emit emit, heed_blob **result) {
  DecimalPoint decimalPoint;
  Program program(*request);
  auto blob = std::make_unique<heed_blob>();
  llvm::raw_svector_ostream os(blob->bytes);
  if (llvm::Error error = emitTo(program, *request, emit, os))
    return program.fail(result, std::move(error));
  *result = blob.release();
  return HEED_OK;
}

heed_status heed_interpret(const heed_compile_request *request, const char *json,
                           heed_blob **messages) {
  DecimalPoint decimalPoint;
  Program program(*request);
  if (llvm::Error error = program.check())
    return program.fail(messages, std::move(error));
  llvm::Expected<const lang::Variant *> variant = program.choose();
  if (!variant)
    return program.fail(messages, variant.takeError());
  mlir::OwningOpRef<mlir::ModuleOp> module =
      mlir::ModuleOp::create(mlir::UnknownLoc::get(&program.context()));
  mlir::OpBuilder builder = mlir::OpBuilder::atBlockEnd(module->getBody());
  if (llvm::Error error = interpreter::runRequest(emitVariant(builder, **variant), json))
    return program.fail(messages, std::move(error));
  return HEED_OK;
}

heed_status heed_link_shared(const char *objectPath, const char *outputPath, heed_blob **messages) {
  if (llvm::Error error = linkShared(objectPath, outputPath))
    return giveError(messages, std::move(error));
  return HEED_OK;
}
