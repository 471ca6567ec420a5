//===-- Compiler.cpp - Runs the levels of the compiler --------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Compiler.h"

#include "GPUCode.h"
#include "KernelTable.h"
#include "RunPasses.h"

#include "heed/Compiler/Registration.h"
#include "heed/Conversion/LanguageToAttn.h"
#include "heed/Conversion/Passes.h"
#include "heed/Target/CPU/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/Linker/Linker.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"
#include "llvm/Transforms/IPO/GlobalDCE.h"
#include "llvm/Transforms/InstCombine/InstCombine.h"
#include "llvm/Transforms/Scalar/EarlyCSE.h"
#include "llvm/Transforms/Scalar/LICM.h"
#include "llvm/Transforms/Scalar/LoopPassManager.h"
#include "llvm/Transforms/Scalar/LoopRotation.h"
#include "llvm/Transforms/Scalar/SimplifyCFG.h"

#include <chrono>

using namespace mlir;
using namespace heed;

//===----------------------------------------------------------------------===//
// Names and times
//===----------------------------------------------------------------------===//

std::optional<heed_dtype> heed::parseDType(StringRef word) {
  for (heed_dtype dtype : {HEED_F16, HEED_BF16, HEED_F32})
    if (spelling(dtype) == word)
      return dtype;
  return std::nullopt;
}

StringRef heed::spelling(heed_dtype dtype) {
  static constexpr StringLiteral names[] = {"bool", "i8", "i32", "i64", "f16", "bf16", "f32"};
  return names[dtype];
}

static int64_t valueHeadDim(const CompileOptions &options) {
  return options.valueHeadDim ? options.valueHeadDim : options.headDim;
}

std::string heed::defaultSymbol(const lang::Variant &variant, const CompileOptions &options) {
  if (!options.symbol.empty())
    return options.symbol;
  std::string name = variant.name.str() + "_" + spelling(options.dtype).str() + "_d" +
                     std::to_string(options.headDim);
  if (valueHeadDim(options) != options.headDim)
    name += "x" + std::to_string(valueHeadDim(options));
  return name;
}

bool heed::isCIdentifier(StringRef name) {
  auto isWord = [](char c) { return llvm::isAlnum(c) || c == '_'; };
  return !name.empty() && !llvm::isDigit(name.front()) && llvm::all_of(name, isWord);
}

namespace {
/// Adds the time since it was made, or since the last call, to a list.
class Stopwatch {
public:
  explicit Stopwatch(PhaseTimes *times) : times(times), start(Clock::now()) {}
  void phase(std::string name) {
    Clock::time_point now = Clock::now();
    if (times)
      times->emplace_back(std::move(name), std::chrono::duration<double>(now - start).count());
    start = now;
  }

private:
  using Clock = std::chrono::steady_clock;
  PhaseTimes *times;
  Clock::time_point start;
};
} // namespace

llvm::Error heed::lookupTargets(ArrayRef<StringRef> names, CompileOptions &options) {
  SmallVector<StringRef> cpuNames;
  for (StringRef name : names) {
    const GPUTarget *target = lookupGPUTarget(name);
    if (!target)
      cpuNames.push_back(name);
    else if (llvm::none_of(options.gpuTargets,
                           [&](const GPUTarget &t) { return t.name == target->name; }))
      options.gpuTargets.push_back(*target);
  }
  llvm::sort(options.gpuTargets,
             [](const GPUTarget &x, const GPUTarget &y) { return x.capability < y.capability; });
  llvm::Expected<std::vector<CPUTarget>> targets = lookupCPUTargets(cpuNames);
  if (!targets) {
    std::string known;
    for (const GPUTarget &target : allGPUTargets())
      known += (known.empty() ? "" : ", ") + target.name;
    return llvm::createStringError(llvm::toString(targets.takeError()) + "; GPUs: " + known);
  }
  options.targets = std::move(*targets);
  return llvm::Error::success();
}

//===----------------------------------------------------------------------===//
// MLIR
//===----------------------------------------------------------------------===//

std::unique_ptr<MLIRContext> heed::makeContext() {
  DialectRegistry registry;
  registerAllDialects(registry);
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
  registerNVVMDialectTranslation(registry);
  auto context = std::make_unique<MLIRContext>(registry, MLIRContext::Threading::DISABLED);
  context->loadAllAvailableDialects();
  return context;
}

Type heed::toMLIRType(MLIRContext &context, heed_dtype dtype) {
  Builder b(&context);
  switch (dtype) {
  case HEED_F16:
    return b.getF16Type();
  case HEED_BF16:
    return b.getBF16Type();
  default:
    return b.getF32Type();
  }
}

llvm::Expected<OwningOpRef<ModuleOp>>
heed::buildAttnModule(MLIRContext &context, ArrayRef<const lang::Variant *> variants,
                      const CompileOptions &options) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(UnknownLoc::get(&context));
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  for (const lang::Variant *variant : variants) {
    attn::VariantOp op = emitVariant(builder, *variant);
    std::string symbol = defaultSymbol(*variant, options);
    if (symbol == op.getSymName())
      op.setSymName(symbol + "_variant"); // kernels and variants share one symbol table
    emitForward(builder, op, symbol, toMLIRType(context, options.dtype), options.headDim,
                valueHeadDim(options));
  }
  if (failed(verify(*module)))
    return llvm::createStringError("the emitted attn module is invalid");
  if (llvm::Error error = runPasses(*module, [](OpPassManager &pm) {
        pm.addPass(createCSEPass()); // patterns ask whether operands are the same
        pm.addPass(createCanonicalizerPass());
        pm.addPass(createCSEPass());
      }))
    return std::move(error);
  return module;
}

/// attn to tile for one target: block sizes are those of its schedule.
static llvm::Error lowerToTile(ModuleOp module, const CompileOptions &options,
                               const CPUTarget &target) {
  MLIRContext *context = module.getContext();
  tile::CPUScheduleAttr schedule = selectCPUSchedule(
      context, target, toMLIRType(*context, options.dtype), options.headDim, valueHeadDim(options));
  return runPasses(module, [&](OpPassManager &pm) {
    AttnToTilePassOptions tileOptions;
    tileOptions.blockQ = schedule.getBlockQ();
    tileOptions.blockKv = schedule.getBlockKv();
    tileOptions.narrowWeights = schedule.getDot() != tile::DotKind::FMA;
    tileOptions.blockLists = true;
    if (options.gpuSchedule.walk)
      tileOptions.walk = tile::stringifyBlockWalk(*options.gpuSchedule.walk);
    tileOptions.divideAddends = false;
    pm.addPass(createAttnToTilePass(tileOptions));
    pm.addPass(createCanonicalizerPass());
    pm.addPass(createCSEPass());
    TileSelectCPUSchedulePassOptions scheduleOptions;
    scheduleOptions.targetName = target.name;
    pm.addNestedPass<tile::KernelOp>(createTileSelectCPUSchedulePass(scheduleOptions));
  });
}

/// attn to functions that classify boxes.
static llvm::Error lowerToClassifier(ModuleOp module) {
  return runPasses(module, [](OpPassManager &pm) {
    pm.addPass(createAttnToClassifierPass());
    pm.addPass(createCanonicalizerPass());
    pm.addPass(createCSEPass());
  });
}

//===----------------------------------------------------------------------===//
// LLVM
//===----------------------------------------------------------------------===//

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
makeTargetMachine(const CPUTarget &target) {
  static const bool initialized = [] {
    // Not all that LLVM has: a self-contained build would link them.
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    return true;
  }();
  (void)initialized;
  std::string error;
  llvm::Triple triple(target.triple);
  const llvm::Target *llvmTarget = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!llvmTarget)
    return llvm::createStringError("LLVM has no code generator for " + target.triple + ": " +
                                   error);
  return std::unique_ptr<llvm::TargetMachine>(llvmTarget->createTargetMachine(
      triple, target.cpu, target.features, llvm::TargetOptions(), llvm::Reloc::PIC_, std::nullopt,
      llvm::CodeGenOptLevel::Default));
}

/// Marks every function for a CPU level and gives it the level's name, so that levels can share an
/// object.
static void specialise(llvm::Module &module, const CPUTarget &target) {
  std::string suffix = "." + target.name;
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    function.setName(function.getName() + suffix);
    function.addFnAttr("target-cpu", target.cpu);
    if (!target.features.empty())
      function.addFnAttr("target-features", target.features);
    function.addFnAttr(llvm::Attribute::NoUnwind);
  }
}

/// The loops are vectorised and unrolled as they should be: what LLVM has to do is to simplify
/// addresses and to move what does not change out of the loops. A pipeline of just that takes half
/// the time of -O1.
static void optimize(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::LoopAnalysisManager lam;
  llvm::FunctionAnalysisManager fam;
  llvm::CGSCCAnalysisManager cam;
  llvm::ModuleAnalysisManager mam;
  llvm::PassBuilder passes(&machine);
  passes.registerModuleAnalyses(mam);
  passes.registerCGSCCAnalyses(cam);
  passes.registerFunctionAnalyses(fam);
  passes.registerLoopAnalyses(lam);
  passes.crossRegisterProxies(lam, fam, cam, mam);

  llvm::LoopPassManager loops;
  loops.addPass(llvm::LoopRotatePass());
  loops.addPass(llvm::LICMPass(llvm::LICMOptions()));
  llvm::FunctionPassManager functions;
  functions.addPass(llvm::EarlyCSEPass(/*UseMemorySSA=*/true));
  functions.addPass(llvm::SimplifyCFGPass());
  functions.addPass(llvm::InstCombinePass());
  functions.addPass(llvm::createFunctionToLoopPassAdaptor(std::move(loops), /*UseMemorySSA=*/true));
  functions.addPass(llvm::EarlyCSEPass(/*UseMemorySSA=*/true));
  functions.addPass(llvm::InstCombinePass());
  functions.addPass(llvm::SimplifyCFGPass());
  llvm::ModulePassManager modules;
  modules.addPass(llvm::createModuleToFunctionPassAdaptor(std::move(functions)));
  modules.addPass(llvm::GlobalDCEPass());
  modules.run(module, mam);
}

llvm::Error heed::compile(MLIRContext &context, ArrayRef<const lang::Variant *> variants,
                          const CompileOptions &options, EmitKind kind, llvm::raw_pwrite_stream &os,
                          PhaseTimes *times) {
  Stopwatch watch(times);
  for (const CPUTarget &target : options.targets)
    if (target.triple != options.targets.front().triple)
      return llvm::createStringError("targets '" + options.targets.front().name + "' and '" +
                                     target.name +
                                     "' are of different architectures: compile "
                                     "an object for each");

  llvm::Expected<OwningOpRef<ModuleOp>> built = buildAttnModule(context, variants, options);
  if (!built)
    return built.takeError();
  OwningOpRef<ModuleOp> attnModule = std::move(*built);
  watch.phase("attn");
  if (kind == EmitKind::Attn) {
    attnModule->print(os);
    os << '\n';
    return llvm::Error::success();
  }

  bool isGPUText = kind == EmitKind::PTX || kind == EmitKind::Cubin;
  if (isGPUText && options.gpuTargets.empty())
    return llvm::createStringError("PTX and cubins are for GPU targets, such as sm_90a");
  if (kind == EmitKind::Cubin && (options.gpuTargets.size() > 1 || variants.size() > 1))
    return llvm::createStringError("a cubin holds 1 variant for 1 GPU target, found " +
                                   llvm::Twine(variants.size()) + " variants and " +
                                   llvm::Twine(options.gpuTargets.size()) +
                                   " targets: write a file for each");

  llvm::LLVMContext llvmContext;
  std::unique_ptr<llvm::Module> linked;
  std::vector<KernelTable> tables(variants.size());
  bool isClassifier = kind == EmitKind::Classifier;
  auto note = [&](std::string phase) { watch.phase(phase); };
  for (const GPUTarget &target : llvm::reverse(options.gpuTargets))
    for (auto [variant, table] : llvm::zip(variants, tables)) {
      if (isClassifier) {
        auto code = compileMaskForGPU(context, *variant, options, target, note);
        if (!code)
          return code.takeError();
        table.addGPUMaskCode(std::move(*code));
        continue;
      }
      auto codes = compileForGPU(context, *variant, options, target, kind, os, note);
      if (!codes)
        return codes.takeError();
      if (kind == EmitKind::PTX || kind == EmitKind::Asm)
        os << codes->front().ptx;
      if (kind == EmitKind::Cubin && codes->front().cubin.empty())
        return llvm::createStringError("no ptxas was found, which cubins are made with: install "
                                       "the CUDA toolkit's, or set HEED_PTXAS to its path");
      if (kind == EmitKind::Cubin)
        os << codes->front().cubin;
      table.addGPUCode(std::move(*codes));
    }
  if (isGPUText || (options.targets.empty() && kind != EmitKind::Object && !isClassifier))
    return llvm::Error::success();
  // Best first: that is the order in which the runtime chooses.
  for (const CPUTarget &target : llvm::reverse(options.targets)) {
    std::string suffix = options.targets.size() > 1 ? " " + target.name : "";
    OwningOpRef<ModuleOp> module = attnModule->clone();
    if (llvm::Error error =
            isClassifier ? lowerToClassifier(*module) : lowerToTile(*module, options, target))
      return error;
    watch.phase("tile" + suffix);
    if (kind == EmitKind::Tile) {
      module->print(os);
      os << '\n';
      continue;
    }
    if (llvm::Error error = runPasses(*module, [&](OpPassManager &pm) {
          TileToCPUPassOptions toCPU;
          toCPU.targetName = target.name;
          pm.addPass(createTileToCPUPass(toCPU));
        }))
      return error;
    for (auto [variant, table] : llvm::zip(variants, tables))
      if (isClassifier)
        table.addMaskCode(*module, defaultSymbol(*variant, options), target);
      else
        table.addCode(*module, defaultSymbol(*variant, options), target);
    if (llvm::Error error =
            runPasses(*module, [](OpPassManager &pm) { buildCPUToLLVMPipeline(pm); }))
      return error;
    watch.phase("vector code" + suffix);
    std::unique_ptr<llvm::Module> translated = translateModuleToLLVMIR(*module, llvmContext);
    if (!translated)
      return llvm::createStringError("translation to LLVM IR failed");
    specialise(*translated, target);
    if (!linked)
      linked = std::move(translated);
    else if (llvm::Linker::linkModules(*linked, std::move(translated)))
      return llvm::createStringError("linking the code of several targets failed");
    watch.phase("LLVM IR" + suffix);
  }
  if (kind == EmitKind::Tile)
    return llvm::Error::success();

  // Without code for CPUs an object holds data only, for this machine's architecture.
  const CPUTarget &host = options.targets.empty() ? baselineCPUTarget() : options.targets.front();
  if (!linked)
    linked = std::make_unique<llvm::Module>("heed", llvmContext);
  auto machine = makeTargetMachine(host);
  if (!machine)
    return machine.takeError();
  linked->setTargetTriple(llvm::Triple(host.triple));
  linked->setDataLayout((*machine)->createDataLayout());
  // Only the table of a kernel is visible. (Before linking, private functions would have been
  // dropped: nothing refers to them yet.)
  for (llvm::Function &function : *linked)
    if (!function.isDeclaration())
      function.setLinkage(llvm::GlobalValue::InternalLinkage);
  for (auto [variant, table] : llvm::zip(variants, tables))
    table.emit(*linked, *variant, defaultSymbol(*variant, options), options);
  optimize(*linked, **machine);
  watch.phase("optimize");
  if (kind == EmitKind::LLVM) {
    linked->print(os, nullptr);
    return llvm::Error::success();
  }

  llvm::legacy::PassManager codegen;
  auto fileType = kind == EmitKind::Asm ? llvm::CodeGenFileType::AssemblyFile
                                        : llvm::CodeGenFileType::ObjectFile;
  if ((*machine)->addPassesToEmitFile(codegen, os, nullptr, fileType))
    return llvm::createStringError("LLVM cannot write this kind of file for " + host.triple);
  codegen.run(*linked);
  watch.phase("machine code");
  return llvm::Error::success();
}
