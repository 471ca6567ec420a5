//===-- GPUCode.cpp - A variant's code for a GPU --------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GPUCode.h"
#include "RunPasses.h"

#include "heed/Compiler/Registration.h"
#include "heed/Conversion/Passes.h"
#include "heed/Target/NVIDIA/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"

#include <thread>

using namespace mlir;
using namespace heed;

static void addSimplification(OpPassManager &pm) {
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
makeTargetMachine(const GPUTarget &target) {
  static const bool initialized = [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    return true;
  }();
  (void)initialized;
  std::string error;
  llvm::Triple triple("nvptx64-nvidia-cuda");
  const llvm::Target *llvmTarget = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!llvmTarget)
    return llvm::createStringError("LLVM has no code generator for NVPTX: " + error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Fast;
  return std::unique_ptr<llvm::TargetMachine>(
      llvmTarget->createTargetMachine(triple, target.name, target.ptxVersion, options, std::nullopt,
                                      std::nullopt, llvm::CodeGenOptLevel::Aggressive));
}

/// LLVM IR to PTX.
static llvm::Expected<std::string> emitPTX(llvm::Module &module, const GPUTarget &target) {
  auto machine = makeTargetMachine(target);
  if (!machine)
    return machine.takeError();
  module.setTargetTriple(llvm::Triple("nvptx64-nvidia-cuda"));
  module.setDataLayout((*machine)->createDataLayout());
  for (llvm::Function &function : module)
    if (!function.isDeclaration())
      function.addFnAttr("denormal-fp-math-f32", "preserve-sign");
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager codegen;
  if ((*machine)->addPassesToEmitFile(codegen, os, nullptr, llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("LLVM cannot write PTX for " + target.name);
  codegen.run(module);
  return text.str().str();
}

static GPUCode readAttributes(LLVM::LLVMFuncOp function, const GPUTarget &target) {
  auto attributes = function->getAttrOfType<DictionaryAttr>("heed.gpu_code");
  auto number = [&](StringRef key) { return cast<IntegerAttr>(attributes.get(key)).getInt(); };
  GPUCode code;
  code.target = target;
  code.entry = function.getSymName().str();
  code.blockQ = number("block_q");
  code.blockKv = number("block_kv");
  code.numThreads = number("num_threads");
  code.sharedBytes = number("shared_bytes");
  code.blocksPerSM = number("blocks_per_sm");
  code.blocksPerTile = number("blocks_per_tile");
  code.needsAligned = number("needs_aligned");
  code.classifyThreads = number("classify_threads");
  code.listsPerBatch = number("lists_per_batch");
  code.listsPerHead = number("lists_per_head");
  code.summaryWords = number("summary_words");
  code.summariseThreads = number("summarise_threads");
  code.summariesPerBatch = number("summaries_per_batch");
  code.summariesPerHead = number("summaries_per_head");
  for (Attribute map : cast<ArrayAttr>(attributes.get("maps"))) {
    auto numbers = cast<DenseI32ArrayAttr>(map).asArrayRef();
    code.maps.push_back({numbers[0], numbers[1], numbers[2]});
  }
  function->removeAttr("heed.gpu_code");
  return code;
}

namespace {
/// Code of a GPU on its way from LLVM IR, in a context of its own: several of them at a time.
struct DeviceModule {
  std::unique_ptr<llvm::LLVMContext> context;
  std::unique_ptr<llvm::Module> module;
};

/// What becomes of it; no cubin where none was wanted or ptxas was not found.
struct Assembled {
  std::string ptx, cubin;
};
} // namespace

static llvm::Error lowerToLLVM(ModuleOp module, bool strictMath) {
  return runPasses(module, [&](OpPassManager &pm) { buildNVIDIAToLLVMPipeline(pm, strictMath); });
}

static llvm::Expected<DeviceModule> translate(ModuleOp module) {
  auto context = std::make_unique<llvm::LLVMContext>();
  std::unique_ptr<llvm::Module> translated = translateModuleToLLVMIR(module, *context);
  if (!translated)
    return llvm::createStringError("translation to LLVM IR failed");
  return DeviceModule{std::move(context), std::move(translated)};
}

/// PTX and cubins of all modules at the same time: most of a compilation is LLVM's code generation
/// and ptxas.
static llvm::Expected<std::vector<Assembled>> generate(MutableArrayRef<DeviceModule> modules,
                                                       const GPUTarget &target, bool wantsCubins) {
  std::vector<Assembled> results(modules.size());
  std::vector<std::string> errors(modules.size());
  auto generateOne = [&](size_t i) {
    auto into = [&](std::string &place, llvm::Expected<std::string> made) {
      if (made)
        place = std::move(*made);
      else
        errors[i] = llvm::toString(made.takeError());
    };
    into(results[i].ptx, emitPTX(*modules[i].module, target));
    if (wantsCubins && errors[i].empty())
      into(results[i].cubin, assemblePTX(results[i].ptx, target.name));
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < modules.size(); ++i)
    threads.emplace_back(generateOne, i);
  if (!modules.empty())
    generateOne(0);
  for (std::thread &thread : threads)
    thread.join();
  for (std::string &error : errors)
    if (!error.empty())
      return llvm::createStringError(error);
  return results;
}

namespace {
struct PlannedCode {
  tile::GPUScheduleAttr schedule;
  int64_t minKeys;
};
} // namespace

/// The schedules of a kernel's codes: for long and for short calls, where they differ; and what
/// takes unaligned arguments, if these don't and it is wanted.
static llvm::Expected<SmallVector<PlannedCode>> planSchedules(MLIRContext &context,
                                                              const GPUTarget &target,
                                                              const GPUProblem &problem,
                                                              const GPUScheduleOverrides &given) {
  SmallVector<PlannedCode> plans;
  GPUScheduleOverrides overrides = given;
  SmallVector<int64_t> lengths = {kLongKeys, 1};
  if (given.keys)
    lengths = {given.keys};
  for (int64_t keys : lengths) {
    overrides.keys = keys;
    auto schedule = selectGPUSchedule(&context, target, problem, overrides);
    if (!schedule)
      return schedule.takeError();
    if (!plans.empty() && plans.back().schedule == *schedule)
      plans.pop_back();
    plans.push_back({*schedule, keys == lengths.back() ? 0 : keys});
  }
  bool needsAligned = plans.back().schedule.getDot() == tile::GPUDotKind::WGMMA;
  if (needsAligned && !given.alignedOnly) {
    overrides = {};
    overrides.noWGMMA = true;
    overrides.tf32 = given.tf32;
    auto schedule = selectGPUSchedule(&context, target, problem, overrides);
    if (!schedule)
      return schedule.takeError();
    plans.push_back({*schedule, 0});
  }
  return plans;
}

/// Simplifications of what is computed for each score.
static void addElementPasses(OpPassManager &pm) {
  pm.addPass(createSeparateCongruencesPass());
  addSimplification(pm);
}

/// A variant to the tile dialect, with its schedule.
static llvm::Error lowerToTile(ModuleOp module, const CompileOptions &options,
                               tile::GPUScheduleAttr schedule) {
  if (llvm::Error error = runPasses(module, [&](OpPassManager &pm) {
        AttnToTilePassOptions tileOptions;
        tileOptions.blockQ = 64;
        tileOptions.blockKv = schedule.getBlockKv();
        tileOptions.narrowWeights = options.dtype != HEED_F32;
        if (options.gpuSchedule.walk)
          tileOptions.walk = tile::stringifyBlockWalk(*options.gpuSchedule.walk);
        pm.addPass(createAttnToTilePass(tileOptions));
        pm.addNestedPass<tile::KernelOp>(createTileFoldMagnitudesPass());
        addElementPasses(pm);
      }))
    return error;
  for (auto kernel : module.getOps<tile::KernelOp>()) {
    kernel->setAttr(tile::TileDialect::kScheduleAttr, schedule);
    decideBlockWalk(kernel, schedule.getGroups());
  }
  if (schedule.getDot() != tile::GPUDotKind::WGMMA)
    return llvm::Error::success();
  return runPasses(module, [](OpPassManager &pm) {
    pm.addNestedPass<tile::KernelOp>(createTileHoistElementsPass());
  });
}

static llvm::Expected<GPUProblem> problemOf(ModuleOp attnModule, const CompileOptions &options) {
  OwningOpRef<ModuleOp> module = attnModule.clone();
  if (llvm::Error error = runPasses(*module, addElementPasses))
    return std::move(error);
  GPUProblem problem;
  problem.elementType = toMLIRType(*attnModule.getContext(), options.dtype);
  problem.headDim = options.headDim;
  problem.valueHeadDim = options.valueHeadDim ? options.valueHeadDim : options.headDim;
  module->walk([&](Operation *op) {
    if (auto score = dyn_cast<attn::ScoreOp>(op))
      problem.addStage(*score.getBodyBlock(), score.getScore(), score.getCoordinates()[2],
                       score.getCoordinates()[3]);
    if (auto mask = dyn_cast<attn::MaskOp>(op))
      problem.addStage(*mask.getBodyBlock(), /*score=*/Value(), mask.getCoordinates()[2],
                       mask.getCoordinates()[3]);
  });
  return problem;
}

namespace {
/// A variant with what its schedules have to hold and the codes that are to be made of it.
struct PlannedKernel {
  OwningOpRef<ModuleOp> attn;
  GPUProblem problem;
  SmallVector<PlannedCode> codes;
};
} // namespace

static llvm::Expected<PlannedKernel> planKernel(MLIRContext &context, const lang::Variant &variant,
                                                const CompileOptions &options,
                                                const GPUTarget &target) {
  auto module = buildAttnModule(context, &variant, options);
  if (!module)
    return module.takeError();
  auto problem = problemOf(**module, options);
  if (!problem)
    return problem.takeError();
  auto codes = planSchedules(context, target, *problem, options.gpuSchedule);
  if (!codes)
    return codes.takeError();
  return PlannedKernel{std::move(*module), std::move(*problem), std::move(*codes)};
}

llvm::Expected<std::vector<std::string>> heed::alternativesForGPU(MLIRContext &context,
                                                                  const lang::Variant &variant,
                                                                  const CompileOptions &options,
                                                                  const GPUTarget &target) {
  auto planned = planKernel(context, variant, options, target);
  if (!planned)
    return planned.takeError();
  // Farther away none was ever seen to win.
  tile::GPUScheduleAttr chosen = planned->codes.front().schedule;
  int64_t fewestGroups = std::max<int64_t>(chosen.getGroups() - 1, 1);
  int64_t fewestKeys = std::max<int64_t>(llvm::alignTo(chosen.getBlockKv() / 2, 16), 16);
  int64_t mostKeys = std::min<int64_t>(2 * chosen.getBlockKv(), 256);
  SmallVector<tile::GPUScheduleAttr> seen = {chosen};
  std::vector<std::string> found;
  for (int64_t groups = 4; groups >= fewestGroups; --groups)
    for (int64_t blockKv = mostKeys; blockKv >= fewestKeys; blockKv -= 16) {
      GPUScheduleOverrides overrides = options.gpuSchedule;
      overrides.groups = groups;
      overrides.blockKv = blockKv;
      auto schedule = selectGPUSchedule(&context, target, planned->problem, overrides);
      if (!schedule) {
        llvm::consumeError(schedule.takeError());
        continue;
      }
      // Where warps share what they read, the groups that were asked for may become others.
      if (schedule->getGroups() != groups || llvm::is_contained(seen, *schedule))
        continue;
      seen.push_back(*schedule);
      found.push_back("groups=" + std::to_string(groups) + ",block_kv=" + std::to_string(blockKv) +
                      ",stages=" + std::to_string(schedule->getStages()));
    }
  return found;
}

/// The tile dialect to threads; what the runtime must know of the code.
static llvm::Expected<GPUCode> lowerToThreads(ModuleOp module, StringRef entry,
                                              const GPUTarget &target, int64_t minKeys) {
  if (llvm::Error error =
          runPasses(module, [](OpPassManager &pm) { pm.addPass(createTileToNVIDIAPass()); }))
    return std::move(error);
  GPUCode code = readAttributes(module.lookupSymbol<LLVM::LLVMFuncOp>(entry), target);
  code.minKeys = minKeys;
  return code;
}

llvm::Expected<std::vector<GPUPlan>> heed::planForGPU(MLIRContext &context,
                                                      const lang::Variant &variant,
                                                      const CompileOptions &options,
                                                      const GPUTarget &target) {
  auto planned = planKernel(context, variant, options, target);
  if (!planned)
    return planned.takeError();
  std::vector<GPUPlan> found;
  for (auto [schedule, minKeys] : planned->codes) {
    OwningOpRef<ModuleOp> module = planned->attn->clone();
    if (llvm::Error error = lowerToTile(*module, options, schedule))
      return std::move(error);
    auto code = lowerToThreads(*module, defaultSymbol(variant, options), target, minKeys);
    if (!code)
      return code.takeError();
    found.push_back({schedule, std::move(*code)});
  }
  return found;
}

llvm::Expected<std::vector<GPUCode>> heed::compileForGPU(MLIRContext &context,
                                                         const lang::Variant &variant,
                                                         const CompileOptions &options,
                                                         const GPUTarget &target, EmitKind kind,
                                                         llvm::raw_ostream &os, NotePhase note) {
  auto planned = planKernel(context, variant, options, target);
  if (!planned)
    return planned.takeError();
  note("attn " + target.name);

  bool wantsAll = kind == EmitKind::Object || kind == EmitKind::Asm;
  if (!wantsAll)
    planned->codes.resize(1);

  std::vector<GPUCode> codes;
  std::vector<DeviceModule> modules;
  for (auto [schedule, minKeys] : planned->codes) {
    OwningOpRef<ModuleOp> module = planned->attn->clone();
    if (llvm::Error error = lowerToTile(*module, options, schedule))
      return std::move(error);
    note("tile " + target.name);
    if (kind == EmitKind::Tile) {
      module->print(os);
      os << '\n';
      return codes;
    }
    auto code = lowerToThreads(*module, defaultSymbol(variant, options), target, minKeys);
    if (!code)
      return code.takeError();
    // Float32 results are as accurate as float32 is, unless TF32 will do.
    bool isF32 = options.dtype == HEED_F32 && !options.gpuSchedule.tf32;
    if (llvm::Error error = lowerToLLVM(*module, options.gpuSchedule.strictMath || isF32))
      return std::move(error);
    note("thread code " + target.name);
    auto translated = translate(*module);
    if (!translated)
      return translated.takeError();
    note("LLVM IR " + target.name);
    if (kind == EmitKind::LLVM) {
      translated->module->print(os, nullptr);
      return codes;
    }
    codes.push_back(std::move(*code));
    modules.push_back(std::move(*translated));
  }
  if (!wantsAll)
    codes.front().minKeys = 0;
  bool wantsCubins = kind == EmitKind::Object || kind == EmitKind::Cubin;
  auto assembled = generate(modules, target, wantsCubins);
  if (!assembled)
    return assembled.takeError();
  for (auto [code, made] : llvm::zip(codes, *assembled)) {
    code.ptx = std::move(made.ptx);
    code.cubin = std::move(made.cubin);
  }
  note((wantsCubins ? "PTX, ptxas " : "PTX ") + target.name);
  return codes;
}

/// A copy of a module with one of its kernels.
static OwningOpRef<ModuleOp> keepOnly(ModuleOp module, StringRef entry) {
  OwningOpRef<ModuleOp> copy = module.clone();
  for (auto kernel : llvm::make_early_inc_range(copy->getOps<LLVM::LLVMFuncOp>()))
    if (!kernel.isExternal() && kernel.getSymName() != entry)
      kernel.erase();
  return copy;
}

llvm::Expected<GPUMaskCode> heed::compileMaskForGPU(MLIRContext &context,
                                                    const lang::Variant &variant,
                                                    const CompileOptions &options,
                                                    const GPUTarget &target, NotePhase note) {
  auto built = buildAttnModule(context, &variant, options);
  if (!built)
    return built.takeError();
  OwningOpRef<ModuleOp> module = std::move(*built);
  if (llvm::Error error = runPasses(*module, [](OpPassManager &pm) {
        pm.addPass(createAttnToClassifierPass());
        addSimplification(pm);
        pm.addPass(createClassifierToNVIDIAPass());
      }))
    return std::move(error);
  GPUMaskCode code;
  code.target = target;
  std::string name = defaultSymbol(variant, options);
  auto function = module->lookupSymbol<LLVM::LLVMFuncOp>(name + "_classify");
  auto attributes = function->getAttrOfType<DictionaryAttr>("heed.gpu_mask_code");
  auto number = [&](StringRef key) { return cast<IntegerAttr>(attributes.get(key)).getInt(); };
  code.warps = number("warps");
  code.usesBatch = number("uses_batch") != 0;
  code.usesHead = number("uses_head") != 0;
  function->removeAttr("heed.gpu_mask_code");
  if (llvm::Error error = lowerToLLVM(*module, /*strictMath=*/true))
    return std::move(error);
  note("thread code " + target.name);
  std::vector<DeviceModule> modules;
  for (auto [suffix, kernel] : llvm::zip_equal(
           ArrayRef<StringRef>{"_classify", "_settle", "_list", "_fill"}, code.kernels)) {
    kernel.entry = name + suffix.str();
    auto translated = translate(*keepOnly(*module, kernel.entry));
    if (!translated)
      return translated.takeError();
    modules.push_back(std::move(*translated));
  }
  note("LLVM IR " + target.name);
  auto assembled = generate(modules, target, /*wantsCubins=*/true);
  if (!assembled)
    return assembled.takeError();
  for (auto [kernel, made] : llvm::zip(code.kernels, *assembled)) {
    kernel.ptx = std::move(made.ptx);
    kernel.cubin = std::move(made.cubin);
  }
  note("PTX, ptxas " + target.name);
  return code;
}

//===----------------------------------------------------------------------===//
// ptxas
//===----------------------------------------------------------------------===//

static std::string findPtxas() {
  if (const char *given = getenv("HEED_PTXAS"))
    return given;
  if (auto found = llvm::sys::findProgramByName("ptxas"))
    return *found;
  SmallVector<std::string> directories;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"})
    if (const char *root = getenv(variable))
      directories.push_back(std::string(root) + "/bin");
  directories.push_back("/usr/local/cuda/bin");
  for (const std::string &directory : directories)
    if (auto found = llvm::sys::findProgramByName("ptxas", {StringRef(directory)}))
      return *found;
  return "";
}

llvm::Expected<std::string> heed::assemblePTX(StringRef ptx, StringRef target) {
  std::string program = findPtxas();
  if (program.empty())
    return std::string();
  SmallString<128> input, output, log;
  auto makeFile = [](StringRef suffix, SmallString<128> &path) {
    return llvm::sys::fs::createTemporaryFile("heed", suffix, path);
  };
  for (auto [suffix, path] : {std::make_pair("ptx", &input), std::make_pair("cubin", &output),
                              std::make_pair("log", &log)})
    if (std::error_code code = makeFile(suffix, *path))
      return llvm::createStringError("cannot make a temporary file: " + code.message());
  llvm::FileRemover removeInput(input), removeOutput(output), removeLog(log);
  {
    std::error_code code;
    llvm::raw_fd_ostream file(input, code);
    file << ptx;
    file.close();
    if (file.has_error()) {
      code = file.error();
      file.clear_error();
      return llvm::createStringError("cannot write '" + input.str().str() + "': " + code.message());
    }
  }
  std::string architecture = "-arch=" + target.str();
  std::string message;
  auto assembleWith = [&](ArrayRef<StringRef> more) {
    SmallVector<StringRef> arguments = {program, architecture, "-O3", input, "-o", output};
    llvm::append_range(arguments, more);
    return llvm::sys::ExecuteAndWait(program, arguments, std::nullopt,
                                     {std::nullopt, log.str(), log.str()}, 0, 0, &message);
  };
  // The kernels of a module at the same time. Older ones do not know the option.
  int status = assembleWith(StringRef("--split-compile=0"));
  if (status > 0)
    status = assembleWith({});
  if (status != 0) {
    auto text = llvm::MemoryBuffer::getFile(log);
    StringRef said = text ? (*text)->getBuffer().trim() : StringRef();
    return llvm::createStringError("'" + program + "' failed for " + target.str() + ": " +
                                   (said.empty() ? message : said.str()));
  }
  auto cubin = llvm::MemoryBuffer::getFile(output, /*IsText=*/false,
                                           /*RequiresNullTerminator=*/false);
  if (!cubin)
    return llvm::createStringError("cannot read what ptxas wrote: " + cubin.getError().message());
  return (*cubin)->getBuffer().str();
}
