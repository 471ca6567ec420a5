//===-- Passes.cpp - Passes of the NVIDIA target --------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/NVIDIA/Passes.h"

#include "../MathExpansions.h"
#include "AmpereLowering.h"
#include "HopperLowering.h"
#include "MaskLowering.h"

#include "heed/Target/NVIDIA/GPUTarget.h"

#include "mlir/Conversion/ConvertToLLVM/ToLLVMPass.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/ADT/TypeSwitch.h"

namespace heed {
#define GEN_PASS_DEF_TILESELECTGPUSCHEDULEPASS
#define GEN_PASS_DEF_TILETONVIDIAPASS
#define GEN_PASS_DEF_CLASSIFIERTONVIDIAPASS
#define GEN_PASS_DEF_NVIDIAMATHPASS
#include "heed/Target/NVIDIA/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {

struct TileSelectGPUSchedule : heed::impl::TileSelectGPUSchedulePassBase<TileSelectGPUSchedule> {
  using TileSelectGPUSchedulePassBase::TileSelectGPUSchedulePassBase;

  void runOnOperation() override {
    tile::KernelOp kernel = getOperation();
    if (kernel->hasAttr(tile::TileDialect::kScheduleAttr))
      return;
    auto fail = [&](const Twine &message) {
      kernel.emitError(message);
      signalPassFailure();
    };
    const GPUTarget *target = lookupGPUTarget(targetName);
    if (!target)
      return fail("unknown GPU target '" + Twine(targetName) + "'");
    auto given = GPUScheduleOverrides::parse(overrides);
    if (!given)
      return fail(llvm::toString(given.takeError()));
    auto argument = [&](unsigned i) {
      return cast<attn::TensorType>(kernel.getBodyBlock()->getArgument(i).getType());
    };
    GPUProblem problem{argument(0).getElementType(), argument(0).getExtents()[3],
                       argument(2).getExtents()[3]};
    kernel.walk([&](Operation *op) {
      if (auto map = dyn_cast<tile::MapOp>(op))
        problem.addStage(*map.getBodyBlock(), map.getScore(), map.getQuery(), map.getKey());
      auto mask = dyn_cast<tile::MaskOp>(op);
      if (mask && mask.getBodyBlock())
        problem.addStage(*mask.getBodyBlock(), /*score=*/Value(), mask.getQuery(), mask.getKey());
    });
    auto schedule = selectGPUSchedule(&getContext(), *target, problem, *given);
    if (!schedule)
      return fail(llvm::toString(schedule.takeError()));
    kernel->setAttr(tile::TileDialect::kScheduleAttr, *schedule);
    if (given->walk)
      kernel.walk([&](tile::ForKVOp loop) {
        if (!loop.getClassify().empty())
          loop.setWalk(given->walk);
      });
    decideBlockWalk(kernel, schedule->getGroups());
  }
};

struct TileToNVIDIA : heed::impl::TileToNVIDIAPassBase<TileToNVIDIA> {
  using TileToNVIDIAPassBase::TileToNVIDIAPassBase;

  void runOnOperation() override {
    for (auto kernel : llvm::make_early_inc_range(getOperation().getOps<tile::KernelOp>())) {
      auto schedule =
          kernel->getAttrOfType<tile::GPUScheduleAttr>(tile::TileDialect::kScheduleAttr);
      if (!schedule) {
        kernel.emitError("has no GPU schedule; run 'tile-select-gpu-schedule' first");
        return signalPassFailure();
      }
      decideBlockWalk(kernel, schedule.getGroups()); // for a schedule that was written by hand
      bool isWGMMA = schedule.getDot() == tile::GPUDotKind::WGMMA;
      if (failed(isWGMMA ? nvidia::HopperLowering(kernel, schedule).run()
                         : nvidia::AmpereLowering(kernel, schedule).run()))
        return signalPassFailure();
      kernel.erase();
    }
  }
};

struct ClassifierToNVIDIA : heed::impl::ClassifierToNVIDIAPassBase<ClassifierToNVIDIA> {
  using ClassifierToNVIDIAPassBase::ClassifierToNVIDIAPassBase;

  void runOnOperation() override {
    SmallVector<func::FuncOp> lowered;
    for (auto attends : llvm::to_vector(getOperation().getOps<func::FuncOp>())) {
      StringRef name = attends.getSymName();
      if (!name.consume_back("_attends"))
        continue;
      auto classify = getOperation().lookupSymbol<func::FuncOp>((name + "_classify").str());
      if (!classify) {
        attends.emitError("expects a function '") << name << "_classify' beside it";
        return signalPassFailure();
      }
      // The kernel takes over its name.
      std::string kept = name.str();
      classify.setSymName(kept + "_boxes");
      if (failed(nvidia::MaskLowering(classify, attends, kept).run()))
        return signalPassFailure();
      lowered.append({classify, attends});
    }
    for (func::FuncOp function : lowered)
      function.erase();
  }
};

//===----------------------------------------------------------------------===//
// Math
//===----------------------------------------------------------------------===//

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

/// The function unit's instruction for an op, or an empty word.
StringRef instructionFor(Operation *op) {
  return llvm::TypeSwitch<Operation *, StringRef>(op)
      .Case<math::ExpOp, math::Exp2Op>([](auto) { return "ex2.approx.ftz.f32"; })
      .Case<math::LogOp, math::Log2Op>([](auto) { return "lg2.approx.ftz.f32"; })
      .Case([](math::TanhOp) { return "tanh.approx.f32"; })
      .Case([](math::SinOp) { return "sin.approx.ftz.f32"; })
      .Case([](math::CosOp) { return "cos.approx.ftz.f32"; })
      .Case([](math::SqrtOp) { return "sqrt.approx.ftz.f32"; })
      .Case([](math::RsqrtOp) { return "rsqrt.approx.ftz.f32"; })
      .Default([](Operation *) { return ""; });
}

struct NVIDIAMath : heed::impl::NVIDIAMathPassBase<NVIDIAMath> {
  using NVIDIAMathPassBase::NVIDIAMathPassBase;

  void runOnOperation() override {
    RewritePatternSet expansions(&getContext());
    if (strict)
      math::populateExpansionPatterns(expansions, {"rsqrt", "exp2"});
    populatePowerExpansion(expansions);
    populateAngleReduction(expansions, /*hasFMA=*/true); // the instructions want small angles, too
    RewritePatternSet approximations(&getContext());
    populateMathPolynomialApproximationPatterns(approximations);
    if (failed(rewriteMath(std::move(expansions))))
      return signalPassFailure();
    if (!strict)
      useInstructions();
    if (failed(rewriteMath(std::move(approximations))))
      return signalPassFailure();
    if (strict)
      return;
    getOperation().walk([&](arith::DivFOp op) {
      op.setFastmath(arith::FastMathFlags::afn | arith::FastMathFlags::arcp |
                     arith::FastMathFlags::contract);
    });
  }

  void useInstructions() {
    getOperation().walk([&](Operation *op) {
      if (!isa<math::MathDialect>(op->getDialect()))
        return;
      StringRef instruction = instructionFor(op);
      if (instruction.empty() || !op->getResult(0).getType().isF32())
        return;
      OpBuilder b(op);
      nvidia::Emitter e(b, op->getLoc());
      Value x = op->getOperand(0);
      if (isa<math::ExpOp>(op))
        x = e.fmul(x, e.cstF32(kLog2E));
      Value result = e.unary(instruction, x);
      if (isa<math::LogOp>(op))
        result = e.fmul(result, e.cstF32(kLn2));
      op->getResult(0).replaceAllUsesWith(result);
      op->erase();
    });
  }

  LogicalResult rewriteMath(RewritePatternSet patterns) {
    SmallVector<Operation *> ops;
    getOperation().walk([&](Operation *op) {
      // Left alone: what LLVM has instructions for.
      if (isa<math::MathDialect>(op->getDialect()) &&
          !isa<math::FmaOp, math::AbsFOp, math::AbsIOp, math::CopySignOp, math::FloorOp,
               math::CeilOp, math::RoundEvenOp, math::TruncOp, math::CtPopOp,
               math::CountTrailingZerosOp>(op))
        ops.push_back(op);
    });
    return applyOpPatternsGreedily(ops, std::move(patterns),
                                   GreedyRewriteConfig()
                                       .setStrictness(GreedyRewriteStrictness::ExistingAndNewOps)
                                       .enableFolding(false));
  }
};

} // namespace

void heed::buildNVIDIAToLLVMPipeline(OpPassManager &pm, bool strictMath) {
  NVIDIAMathPassOptions options;
  options.strict = strictMath;
  pm.addPass(createNVIDIAMathPass(options));
  pm.addPass(createCSEPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createConvertToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
}

void heed::registerNVIDIAPipelines() {
  PassPipelineRegistration<>("nvidia-to-llvm", "code of the NVIDIA target to the llvm dialect",
                             [](OpPassManager &pm) { buildNVIDIAToLLVMPipeline(pm); });
}
