//===-- Passes.cpp - Passes of the CPU target -----------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/CPU/Passes.h"

#include "../MathExpansions.h"
#include "BoxLowering.h"
#include "KernelLowering.h"

#include "heed/Conversion/Passes.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/ConvertToLLVM/ToLLVMPass.h"
#include "mlir/Conversion/FuncToLLVM/ConvertFuncToLLVM.h"
#include "mlir/Conversion/IndexToLLVM/IndexToLLVM.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Conversion/UBToLLVM/UBToLLVM.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVM.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/Passes.h"

namespace heed {
#define GEN_PASS_DEF_TILESELECTCPUSCHEDULEPASS
#define GEN_PASS_DEF_TILETOCPUPASS
#define GEN_PASS_DEF_EXPANDMATHPASS
#include "heed/Target/CPU/Passes.h.inc"
} // namespace heed

using namespace mlir;
using namespace heed;

namespace {

/// On a module whose target cannot multiply and add in one instruction.
constexpr llvm::StringLiteral kNoFMAAttr = "heed.no_fma";

struct TileSelectCPUSchedule : heed::impl::TileSelectCPUSchedulePassBase<TileSelectCPUSchedule> {
  using TileSelectCPUSchedulePassBase::TileSelectCPUSchedulePassBase;

  void runOnOperation() override {
    tile::KernelOp kernel = getOperation();
    if (kernel->hasAttr(tile::TileDialect::kScheduleAttr))
      return;
    llvm::Expected<CPUTarget> target = lookupCPUTarget(targetName);
    if (!target) {
      kernel.emitError(llvm::toString(target.takeError()));
      return signalPassFailure();
    }
    auto argument = [&](unsigned i) {
      return cast<attn::TensorType>(kernel.getBodyBlock()->getArgument(i).getType());
    };
    kernel->setAttr(tile::TileDialect::kScheduleAttr,
                    selectCPUSchedule(&getContext(), *target, argument(0).getElementType(),
                                      argument(0).getExtents()[3], argument(2).getExtents()[3]));
  }
};

struct TileToCPU : heed::impl::TileToCPUPassBase<TileToCPU> {
  using TileToCPUPassBase::TileToCPUPassBase;

  void runOnOperation() override {
    if (failed(lowerBoxes()))
      return signalPassFailure();
    for (auto kernel : llvm::make_early_inc_range(getOperation().getOps<tile::KernelOp>())) {
      auto schedule =
          kernel->getAttrOfType<tile::CPUScheduleAttr>(tile::TileDialect::kScheduleAttr);
      if (!schedule) {
        kernel.emitError("has no CPU schedule; run 'tile-select-cpu-schedule' first");
        return signalPassFailure();
      }
      llvm::Expected<CPUTarget> target = lookupCPUTarget(schedule.getTarget());
      if (!target) {
        kernel.emitError(llvm::toString(target.takeError()));
        return signalPassFailure();
      }
      note(*target);
      if (failed(cpu::KernelLowering(kernel, *target, schedule).run()))
        return signalPassFailure();
      kernel.erase();
    }
  }

private:
  LogicalResult lowerBoxes() {
    for (auto function : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      if (!function->hasAttr(kBoxAttr))
        continue;
      llvm::Expected<CPUTarget> target = lookupCPUTarget(targetName);
      if (!target)
        return function.emitError(llvm::toString(target.takeError()));
      note(*target);
      if (failed(cpu::BoxLowering::check(function)))
        return failure();
      cpu::BoxLowering(function, *target).run();
    }
    return success();
  }

  void note(const CPUTarget &target) {
    if (!target.hasFMA)
      getOperation()->setAttr(kNoFMAAttr, UnitAttr::get(&getContext()));
  }
};

struct ExpandMath : heed::impl::ExpandMathPassBase<ExpandMath> {
  using ExpandMathPassBase::ExpandMathPassBase;

  void runOnOperation() override {
    RewritePatternSet expansions(&getContext());
    math::populateExpansionPatterns(expansions, {"rsqrt", "exp2"});
    populatePowerExpansion(expansions);
    // The polynomials that approximate sin and cos leave [-1, 1] for angles of about 2^24.
    constexpr float largestAngle = 1 << 23;
    populateAngleReduction(expansions, !getOperation()->hasAttr(kNoFMAAttr), largestAngle);
    RewritePatternSet approximations(&getContext());
    populateMathPolynomialApproximationPatterns(approximations);
    if (failed(rewriteMath(std::move(expansions))) ||
        failed(rewriteMath(std::move(approximations))))
      return signalPassFailure();
    if (!getOperation()->hasAttr(kNoFMAAttr))
      return;
    // Approximations use fma, which is a library call where there is no instruction for it.
    getOperation().walk([](math::FmaOp fma) {
      OpBuilder b(fma);
      Value product = arith::MulFOp::create(b, fma.getLoc(), fma.getA(), fma.getB());
      fma.replaceAllUsesWith(
          arith::AddFOp::create(b, fma.getLoc(), product, fma.getC()).getResult());
      fma.erase();
    });
  }

  /// Visits functions and what becomes of them, not the thousands of other ops.
  LogicalResult rewriteMath(RewritePatternSet patterns) {
    SmallVector<Operation *> ops;
    getOperation().walk([&](Operation *op) {
      if (isa<math::MathDialect>(op->getDialect()))
        ops.push_back(op);
    });
    return applyOpPatternsGreedily(ops, std::move(patterns),
                                   GreedyRewriteConfig()
                                       .setStrictness(GreedyRewriteStrictness::ExistingAndNewOps)
                                       .enableFolding(false));
  }
};

} // namespace

void heed::buildCPUToLLVMPipeline(OpPassManager &pm) {
  // LLVM simplifies what is left better than a canonicalizer run here would, and in the same time.
  pm.addPass(createExpandMathPass());
  pm.addPass(createCSEPass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createConvertToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
}

void heed::registerCPUInterfaces(DialectRegistry &registry) {
  arith::registerConvertArithToLLVMInterface(registry);
  cf::registerConvertControlFlowToLLVMInterface(registry);
  index::registerConvertIndexToLLVMInterface(registry);
  registerConvertFuncToLLVMInterface(registry);
  registerConvertMathToLLVMInterface(registry);
  ub::registerConvertUBToLLVMInterface(registry);
  vector::registerConvertVectorToLLVMInterface(registry);
}

void heed::registerCPUPipelines() {
  PassPipelineRegistration<>("cpu-to-llvm", "vector code of the CPU target to the llvm dialect",
                             buildCPUToLLVMPipeline);
}
