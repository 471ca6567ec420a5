//===-- heedc.cpp - The ahead-of-time compiler ----------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Compiler.h"
#include "heed/Language/Format.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Signals.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/WithColor.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <csignal>
#include <filesystem>

using namespace heed;
using llvm::StringRef;
namespace cl = llvm::cl;

namespace {

enum class Action { Attn, Tile, LLVM, Asm, PTX, Cubin, Object, Shared };

cl::OptionCategory category("heedc options");

cl::opt<std::string> inputPath(cl::Positional, cl::desc("FILE.heed"), cl::cat(category));
cl::list<std::string>
    targetNames("target", cl::CommaSeparated, cl::cat(category), cl::value_desc("name,..."),
                cl::desc("CPU levels and GPUs to compile for (default: native, this "
                         "CPU's level); several share one object, which chooses "
                         "when it runs"));
cl::opt<std::string> tune(
    "tune", cl::cat(category), cl::value_desc("options"),
    cl::desc("Schedule of GPU kernels: block_kv=N,groups=N,stages=N,"
             "blocks_per_sm=N,keys=N,walk=bounds|lists,tf32,strict_math,no_wgmma,aligned_only"));
cl::opt<std::string> dtypeName("dtype", cl::cat(category), cl::init("f32"), cl::value_desc("type"),
                               cl::desc("Type of query, key, value and output: f32, bf16 or f16"));
cl::opt<std::string> headDimText("head-dim", cl::cat(category), cl::value_desc("N"),
                                 cl::desc("Head dim of query and key, 1 to 576"));
cl::opt<std::string> valueHeadDimText("value-head-dim", cl::cat(category), cl::value_desc("N"),
                                      cl::desc("Head dim of value (default: --head-dim)"));
cl::opt<Action>
    action("emit", cl::cat(category), cl::init(Action::Object), cl::desc("What to write:"),
           cl::values(clEnumValN(Action::Attn, "attn", "the variant in the attn dialect"),
                      clEnumValN(Action::Tile, "tile", "the algorithm in the tile dialect"),
                      clEnumValN(Action::LLVM, "llvm", "optimized LLVM IR"),
                      clEnumValN(Action::Asm, "asm", "assembly"),
                      clEnumValN(Action::PTX, "ptx", "PTX for GPUs"),
                      clEnumValN(Action::Cubin, "cubin", "a cubin for one GPU (needs ptxas)"),
                      clEnumValN(Action::Object, "obj", "an object file (default)"),
                      clEnumValN(Action::Shared, "shared", "a shared library")));
cl::opt<std::string> outputPath("o", cl::cat(category), cl::value_desc("file"),
                                cl::desc("Output file; '-' or none: stdout, for text"));
cl::opt<std::string> headerPath("header", cl::cat(category), cl::value_desc("file"),
                                cl::desc("Also write a C header for the object"));
cl::list<std::string> variantNames("variant", cl::CommaSeparated, cl::cat(category),
                                   cl::value_desc("name,..."),
                                   cl::desc("Variants to compile (default: all of the file)"));
cl::opt<std::string> symbol(
    "symbol", cl::cat(category), cl::value_desc("name"),
    cl::desc("C name of the kernel (default: VARIANT_DTYPE_dN, _dNxM with a value head dim)"));
cl::list<std::string> defines("D", cl::Prefix, cl::cat(category), cl::value_desc("name=value"),
                              cl::desc("Compile a scalar parameter in with this value"));
cl::opt<bool> format("format", cl::cat(category),
                     cl::desc("Write the file in canonical layout and stop"));
cl::opt<bool> checkOnly("check", cl::cat(category), cl::desc("Report errors and stop"));
cl::opt<bool> listTargets("list-targets", cl::cat(category),
                          cl::desc("List CPU levels and GPUs, and stop"));
cl::opt<bool> verbose("v", cl::cat(category), cl::desc("Report the time of each phase"));

int fail(const llvm::Twine &message) {
  llvm::WithColor::error(llvm::errs(), "heedc") << message << '\n';
  return 1;
}

int printTargets() {
  llvm::Expected<CPUTarget> native = lookupCPUTarget("native");
  for (const CPUTarget &target : allCPUTargets())
    llvm::outs() << llvm::formatv("{0,-16} {1}{2}\n", target.name, target.description,
                                  native && native->name == target.name ? " (native)" : "");
  for (const GPUTarget &target : allGPUTargets())
    llvm::outs() << llvm::formatv("{0,-16} {1}\n", target.name, target.description);
  llvm::consumeError(native.takeError());
  return 0;
}

/// What a path names past the links at its end, which may lead to what is not there yet.
std::string followLinks(StringRef path) {
  std::filesystem::path end(path.str());
  std::error_code code;
  for (int links = 0; links < 40 && std::filesystem::is_symlink(end, code); ++links)
    end = end.parent_path() / std::filesystem::read_symlink(end, code);
  return end.string();
}

/// A file that is there whole or not at all, even if a signal ends the program: written under a
/// temporary name beside its own, and renamed by commit(). Links are followed, permissions stay;
/// what is no regular file (a device, a pipe) stays what it is, and commit() writes into it.
class OutputFile {
public:
  /// Errors call the file `name`.
  OutputFile(StringRef path, StringRef name) : path(followLinks(path)), name(name) {
    llvm::sys::fs::file_status status;
    problem = llvm::sys::fs::status(path, status);
    if (problem == std::errc::no_such_file_or_directory)
      problem.clear(); // if its directory is missing too, write() finds out
    if (!llvm::sys::fs::exists(status))
      return;
    if (llvm::sys::fs::is_directory(status))
      problem = std::make_error_code(std::errc::is_a_directory);
    isSpecial = !llvm::sys::fs::is_regular_file(status);
    permissions = status.permissions() & llvm::sys::fs::all_all;
  }
  explicit OutputFile(StringRef path) : OutputFile(path, path) {}
  OutputFile(const OutputFile &) = delete;
  ~OutputFile() {
    if (temporary.empty())
      return;
    llvm::sys::fs::remove(temporary);
    llvm::sys::DontRemoveFileOnSignal(temporary);
  }

  using Writer = llvm::function_ref<llvm::Error(llvm::raw_pwrite_stream &)>;
  llvm::Error write(Writer write) {
    if (problem)
      return cannot(problem);
    int fd;
    if (std::error_code code =
            isSpecial
                ? llvm::sys::fs::createTemporaryFile("heedc", "tmp", fd, temporary)
                : llvm::sys::fs::createUniqueFile(
                      path + ".%%%%%%.tmp", fd, temporary, llvm::sys::fs::OF_None,
                      permissions.value_or(llvm::sys::fs::all_read | llvm::sys::fs::all_write)))
      return cannot(code);
    llvm::sys::RemoveFileOnSignal(temporary);
    llvm::raw_fd_ostream os(fd, /*shouldClose=*/true);
    llvm::Error error = write(os);
    os.close();
    std::error_code code = os.error();
    os.clear_error();
    if (error)
      return error;
    return code ? cannot(code) : llvm::Error::success();
  }

  /// For programs that write the file themselves, after write() has made it.
  StringRef temporaryPath() const { return temporary; }

  /// Their errors, which know no other name of it.
  llvm::Error renamed(llvm::Error error) {
    if (!error)
      return error;
    std::string message = llvm::toString(std::move(error));
    for (size_t at; (at = message.find(temporary.c_str())) != std::string::npos;)
      message.replace(at, temporary.size(), name);
    return llvm::createStringError(message);
  }

  /// Whether commit() may fail for want of space.
  bool mayLackSpace() const { return isSpecial; }

  llvm::Error commit() {
    if (isSpecial)
      return copy();
    // What another program wrote may have permissions of its own, and the umask takes some.
    std::error_code code;
    if (permissions)
      code = llvm::sys::fs::setPermissions(temporary, *permissions);
    if (!code)
      code = llvm::sys::fs::rename(temporary, path);
    if (code)
      return cannot(code);
    llvm::sys::DontRemoveFileOnSignal(temporary);
    temporary.clear();
    return llvm::Error::success();
  }

private:
  llvm::Error copy() {
    auto content = llvm::MemoryBuffer::getFile(temporary);
    if (!content)
      return cannot(content.getError());
    std::signal(SIGPIPE, SIG_IGN); // that a pipe's reader left is an error like others
    std::error_code code;
    llvm::raw_fd_ostream os(path, code, llvm::sys::fs::CD_OpenExisting);
    if (code)
      return cannot(code);
    os << (*content)->getBuffer();
    os.close();
    code = os.error();
    os.clear_error();
    return code ? cannot(code) : llvm::Error::success();
  }

  llvm::Error cannot(std::error_code code) {
    return llvm::createStringError("cannot write '" + name + "': " + code.message());
  }
  std::string path, name;
  std::error_code problem;
  bool isSpecial = false;
  std::optional<llvm::sys::fs::perms> permissions; // of what is there
  llvm::SmallString<128> temporary;
};

/// Whether two paths name one file, which need not be there yet. Devices take any number of files.
bool areSameFile(StringRef a, StringRef b) {
  if (llvm::sys::fs::exists(a) || llvm::sys::fs::exists(b))
    return llvm::sys::fs::is_regular_file(a) && llvm::sys::fs::equivalent(a, b);
  llvm::SmallString<128> paths[] = {StringRef(followLinks(a)), StringRef(followLinks(b))};
  for (llvm::SmallString<128> &path : paths) {
    llvm::sys::fs::make_absolute(path);
    llvm::sys::path::remove_dots(path, /*remove_dot_dot=*/true);
  }
  return paths[0] == paths[1];
}

llvm::Error writeNothing(llvm::raw_pwrite_stream &) { return llvm::Error::success(); }

int formatFile() {
  llvm::SourceMgr sources;
  auto buffer = llvm::MemoryBuffer::getFileOrSTDIN(inputPath, /*IsText=*/true);
  if (!buffer)
    return fail("cannot read '" + inputPath + "': " + buffer.getError().message());
  std::optional<std::string> text = lang::formatProgram((*buffer)->getBuffer(), inputPath, sources);
  if (!text)
    return 1;
  if (outputPath.empty() || outputPath == "-") {
    llvm::outs() << *text;
    return 0;
  }
  OutputFile output(outputPath);
  llvm::Error error = output.write([&](llvm::raw_pwrite_stream &os) {
    os << *text;
    return llvm::Error::success();
  });
  if (!error)
    error = output.commit();
  if (error)
    return fail(llvm::toString(std::move(error)));
  return 0;
}

/// A head dim given as text, or 0 after an error.
int64_t parseHeadDim(const cl::opt<std::string> &option) {
  int64_t value;
  if (!StringRef(option).getAsInteger(10, value) && value >= 1 && value <= 576)
    return value;
  fail("--" + option.ArgStr + " expects a number from 1 to 576, found '" + option + "'");
  return 0;
}

int compileFile() {
  auto start = std::chrono::steady_clock::now();
  llvm::SourceMgr sources;
  lang::CheckOptions checkOptions;
  if (variantNames.size() == 1)
    checkOptions.definesOf = variantNames.front();
  for (const std::string &define : defines) {
    auto [name, value] = StringRef(define).split('=');
    if (name.empty() || value.empty())
      return fail("-D expects NAME=VALUE, found '" + define + "'");
    checkOptions.defines.emplace_back(name.str(), value.str());
  }
  std::unique_ptr<lang::CheckedProgram> program;
  if (inputPath == "-") {
    auto buffer = llvm::MemoryBuffer::getSTDIN();
    if (!buffer)
      return fail("cannot read standard input: " + buffer.getError().message());
    program = lang::checkSource((*buffer)->getBuffer(), "<stdin>", sources, checkOptions);
  } else {
    program = lang::checkFile(inputPath, sources, checkOptions);
  }
  if (!program)
    return 1;

  llvm::SmallVector<const lang::Variant *> variants;
  if (variantNames.empty())
    for (const lang::Variant &variant : program->variants)
      variants.push_back(&variant);
  for (const std::string &name : variantNames) {
    llvm::Expected<const lang::Variant *> variant = program->require(name, inputPath);
    if (!variant)
      return fail(llvm::toString(variant.takeError()));
    if (llvm::is_contained(variants, *variant))
      return fail("--variant names '" + name + "' twice");
    variants.push_back(*variant);
  }
  if (checkOnly)
    return 0;
  if (variants.empty())
    return fail("no variant in '" + inputPath + "': there is nothing to compile");
  if (!symbol.empty() && variants.size() > 1)
    return fail("--symbol names one kernel, and '" + inputPath +
                "' has several variants; choose "
                "one with --variant");

  if (!symbol.empty() && (!isCIdentifier(symbol) || isReservedInC(symbol)))
    return fail("--symbol expects a C identifier, found '" + symbol + "'");

  CompileOptions options;
  options.symbol = symbol;
  if (std::optional<heed_dtype> dtype = parseDType(dtypeName))
    options.dtype = *dtype;
  else
    return fail("--dtype expects f32, bf16 or f16, found '" + dtypeName + "'");
  if (headDimText.empty())
    return fail("--head-dim is missing: the head dim of query and key, 1 to 576");
  options.headDim = parseHeadDim(headDimText);
  if (!valueHeadDimText.empty())
    options.valueHeadDim = parseHeadDim(valueHeadDimText);
  if (!options.headDim || (!valueHeadDimText.empty() && !options.valueHeadDim))
    return 1;
  llvm::SmallVector<StringRef> names(targetNames.begin(), targetNames.end());
  if (names.empty())
    names.push_back("native");
  if (llvm::Error error = lookupTargets(names, options))
    return fail(llvm::toString(std::move(error)));
  llvm::Expected<GPUScheduleOverrides> schedule = GPUScheduleOverrides::parse(tune);
  if (!schedule)
    return fail("--tune: " + llvm::toString(schedule.takeError()));
  options.gpuSchedule = *schedule;

  bool isBinary = action == Action::Object || action == Action::Shared || action == Action::Cubin;
  if (isBinary && (outputPath.empty() || outputPath == "-"))
    return fail("-o is missing: an object is not written to a terminal");
  for (StringRef read : program->files)
    for (const cl::opt<std::string> *path : {&outputPath, &headerPath})
      if (!path->empty() && areSameFile(read, *path))
        return fail("expected another file than '" + read + "' to write to, which is " +
                    (read == inputPath ? "the input" : "imported"));
  if (headerPath == "-")
    return fail("--header expects a file, found '-'");
  if (!headerPath.empty() && areSameFile(outputPath, headerPath))
    return fail("expected two files, found '" + outputPath + "' for both -o and --header");

  PhaseTimes times;
  std::chrono::duration<double> checked = std::chrono::steady_clock::now() - start;
  times.emplace_back("check", checked.count());
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  std::chrono::duration<double> made = std::chrono::steady_clock::now() - start - checked;
  times.emplace_back("context", made.count());
  auto emitTo = [&](EmitKind kind) {
    return [&, kind](llvm::raw_pwrite_stream &os) {
      return compile(*context, variants, options, kind, os, &times);
    };
  };
  EmitKind kinds[] = {EmitKind::Attn, EmitKind::Tile,  EmitKind::LLVM,   EmitKind::Asm,
                      EmitKind::PTX,  EmitKind::Cubin, EmitKind::Object, EmitKind::Object};
  auto emit = emitTo(kinds[static_cast<int>(action.getValue())]);

  // The output and its header appear together or not at all.
  bool isToStdout = outputPath.empty() || outputPath == "-";
  OutputFile output(outputPath), header(headerPath);
  llvm::SmallString<0> text;
  llvm::Error error = llvm::Error::success();
  if (isToStdout) {
    llvm::raw_svector_ostream os(text);
    error = emit(os);
  } else if (action == Action::Shared) {
    error = output.write(writeNothing); // says at once if there is no place for it
    // Never committed: the linker reads the temporary file.
    OutputFile object((output.temporaryPath() + ".o").str(), outputPath);
    if (!error)
      error = object.write(emit);
    if (!error)
      error = output.renamed(linkShared(object.temporaryPath(), output.temporaryPath()));
  } else {
    error = output.write(emit);
  }
  if (!error && !headerPath.empty())
    error = header.write([&](llvm::raw_pwrite_stream &os) {
      writeHeader(variants, options, llvm::sys::path::filename(headerPath), os);
      return llvm::Error::success();
    });
  llvm::SmallVector<OutputFile *> files;
  if (!isToStdout)
    files.push_back(&output);
  if (!headerPath.empty())
    files.insert(header.mayLackSpace() ? files.begin() : files.end(), &header);
  for (OutputFile *file : files)
    if (!error)
      error = file->commit();
  if (error)
    return fail(llvm::toString(std::move(error)));
  llvm::outs() << text;
  if (verbose) {
    double total = 0;
    for (auto &[phase, seconds] : times) {
      llvm::errs() << llvm::format("%8.1f ms  ", seconds * 1e3) << phase << '\n';
      total += seconds;
    }
    llvm::errs() << llvm::format("%8.1f ms  total\n", total * 1e3);
  }
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  llvm::InitLLVM init(argc, argv);
  std::signal(SIGXFSZ, SIG_IGN); // a file that gets too large is an error like others
  cl::HideUnrelatedOptions(category);
  cl::SetVersionPrinter([](llvm::raw_ostream &os) {
    os << "heedc " HEED_VERSION ", with LLVM " LLVM_VERSION_STRING "\n";
  });
  cl::ParseCommandLineOptions(argc, argv,
                              "heedc: compiles attention variants ahead of time\n\n"
                              "  heedc alibi.heed --target=native --dtype=bf16 --head-dim=128 -o "
                              "alibi.o --header=alibi.h\n"
                              "  heedc alibi.heed --target=sm_90a,sm_80,native --dtype=bf16 "
                              "--head-dim=128 -o alibi.o --header=alibi.h\n");
  int status = listTargets         ? printTargets()
               : inputPath.empty() ? fail("no input file; see heedc --help")
               : format            ? formatFile()
                                   : compileFile();
  llvm::outs().flush();
  if (std::error_code code = llvm::outs().error()) {
    llvm::outs().clear_error();
    return fail("cannot write to stdout: " + code.message());
  }
  return status;
}
