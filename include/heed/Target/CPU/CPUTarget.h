//===-- CPUTarget.h - CPUs that Heed compiles for --------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_CPU_CPUTARGET_H
#define HEED_TARGET_CPU_CPUTARGET_H

#include "heed/Dialect/Tile/IR/Tile.h"

#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace heed {

/// A CPU level: what LLVM is told, what a machine must have to run the code, and what schedules
/// depend on.
struct CPUTarget {
  std::string name;        // as --target spells it
  std::string description; // for --list-targets
  std::string triple;
  std::string cpu;
  std::string features;
  uint64_t cpuBits = 0; // HEED_CPU_* of the run-time ABI
  int64_t lanes = 4;    // f32 elements of a vector register
  int64_t numVectorRegisters = 16;
  bool hasFMA = false;
  bool hasF16Conversion = false;
  bool hasAVX512 = false;
  bool hasDotBF16 = false;
  bool hasAMX = false;
};

/// All targets, weakest first within an architecture. "native" is not one of them.
const std::vector<CPUTarget> &allCPUTargets();

/// The weakest target of this process's architecture.
const CPUTarget &baselineCPUTarget();

/// The best target that a machine with these HEED_CPU_* bits runs, or null.
const CPUTarget *bestCPUTarget(uint64_t cpuBits);

/// The target of a name; "native" is the best one that this machine runs. An error names the known
/// targets.
llvm::Expected<CPUTarget> lookupCPUTarget(llvm::StringRef name);

/// The targets of several names, weakest first, each once.
llvm::Expected<std::vector<CPUTarget>> lookupCPUTargets(llvm::ArrayRef<llvm::StringRef> names);

/// The schedule for a kernel of the given element type and head dims: every head dim from 1 to 576
/// has one.
tile::CPUScheduleAttr selectCPUSchedule(mlir::MLIRContext *context, const CPUTarget &target,
                                        mlir::Type elementType, int64_t headDim,
                                        int64_t valueHeadDim);

} // namespace heed

#endif // HEED_TARGET_CPU_CPUTARGET_H
