//===-- GPUTarget.h - GPUs that Heed compiles for --------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_TARGET_NVIDIA_GPUTARGET_H
#define HEED_TARGET_NVIDIA_GPUTARGET_H

#include "heed/Dialect/Tile/IR/Tile.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/Error.h"

#include <string>
#include <vector>

namespace heed {

/// An NVIDIA architecture: what LLVM and ptxas are told, and what schedules depend on.
struct GPUTarget {
  std::string name;        // as --target spells it: "sm_90a"
  std::string description; // for --list-targets
  std::string ptxVersion;  // LLVM's feature: the lowest PTX that covers what is used
  int32_t capability = 0;  // major * 10 + minor
  bool isExact = false;    // code runs on this capability only
  bool hasWGMMA = false;
  int64_t sharedBytes = 0; // of a thread block at most
};

/// All targets, oldest first.
const std::vector<GPUTarget> &allGPUTargets();

/// The target of a name, or null.
const GPUTarget *lookupGPUTarget(llvm::StringRef name);

/// What a caller may decide instead of the resource model: 0 or nullopt leaves it to the model.
struct GPUScheduleOverrides {
  int64_t blockKv = 0;
  int64_t groups = 0;
  int64_t stages = 0;
  std::optional<int64_t> blocksPerSM;
  int64_t keys = 0;         // how many the calls have; one code for all lengths is made for them
  bool tf32 = false;        // f32 products may round to TF32
  bool strictMath = false;  // no approximate instructions in score_mod and mask_mod
  bool noWGMMA = false;     // the portable path on every target
  bool alignedOnly = false; // no code for arguments that the copy engine cannot take
  std::optional<tile::BlockWalk> walk; // of masks; CPUs follow it as well

  /// Reads "block_kv=64,groups=2,stages=3,blocks_per_sm=1,keys=512,walk=lists,tf32,strict_math,
  /// no_wgmma,aligned_only".
  static llvm::Expected<GPUScheduleOverrides> parse(llvm::StringRef text);
};

/// What element regions ask of threads.
struct GPUStages {
  bool hasMask = false, hasScore = false;
  bool hasDivision = false;    // integer ones, in either
  bool hasMaskGather = false;  // at indices that depend on keys
  bool hasScoreGather = false; // at indices that depend on queries and keys
  int64_t numMaskOps = 0;
  int64_t numMagnitudes = 0;       // in the mask: comparisons that tile-fold-magnitudes shortens
  int64_t numTranscendentals = 0;  // such as tanh, in either
  int64_t numElementFunctions = 0; // those of them that depend on the score or the key
  /// Registers for what stages keep through the loop: pointers of captured tensors and values that
  /// depend on the query.
  int64_t stageRegisters = 0;
  int64_t alongKeyBytes = 0;                 // of shared memory for each key
  bool hasWideAlongKeys = false;             // numbers of 64 bits among them
  llvm::SmallVector<int64_t, 2> matrixBytes; // of an element of each matrix beside the scores
};

/// What a schedule has to hold.
struct GPUProblem {
  mlir::Type elementType;
  int64_t headDim = 0, valueHeadDim = 0;
  /// Of the regions as they are, and of what tile-hoist-elements leaves of them.
  GPUStages direct, hoisted;

  /// Notes what the regions of tile.map, tile.mask or of a variant's stages ask for. `score` is
  /// null for masks.
  void addStage(mlir::Block &block, mlir::Value score, mlir::Value query, mlir::Value key);
};

/// What setmaxnreg gives to a thread of each role.
struct HopperRegisters {
  int64_t producer = 0, consumer = 0;
};

/// By the number of consumer warpgroups, 1 to 4: all threads together must not get more than the
/// block has at its start. A producer that evaluates classes of blocks, or numbers along keys,
/// needs more than one that reads a list or loads everything.
HopperRegisters hopperRegisters(int64_t groups, bool evaluates);

/// Calls with at least so many keys are long ones: larger blocks and tiles, which waste more at the
/// ends of a short one, are worth it. (Measured on an H100 from 512 to 16384 keys.)
inline constexpr int64_t kLongKeys = 2048;

/// The schedule for a kernel: every head dim from 1 to 576 has one. Unless the overrides say how
/// many keys, for long calls. An error gives the numbers where an override does not fit.
llvm::Expected<tile::GPUScheduleAttr> selectGPUSchedule(mlir::MLIRContext *context,
                                                        const GPUTarget &target,
                                                        const GPUProblem &problem,
                                                        const GPUScheduleOverrides &overrides = {});

/// Decides for loops of a kernel that has so many groups where their blocks come from, unless that
/// has been decided.
void decideBlockWalk(tile::KernelOp kernel, int64_t groups);

/// Bytes of shared memory that a thread block of a schedule takes; `stages` with what lies beside
/// keys there.
int64_t sharedBytesOf(tile::GPUScheduleAttr schedule, mlir::Type elementType, int64_t headDim,
                      int64_t valueHeadDim, const GPUStages &stages = {});

/// Boxes of 128 bytes that a row of so many elements takes.
int64_t countBoxes(int64_t columns, int64_t elementBytes);

/// Value columns of a slice of a schedule: all of them where there is one slice.
int64_t sliceColumnsOf(tile::GPUScheduleAttr schedule, int64_t valueHeadDim);

/// Bytes between rows in shared memory, on the portable path: an odd multiple of 16.
int64_t paddedRowBytes(int64_t columns, int64_t elementBytes);

} // namespace heed

#endif // HEED_TARGET_NVIDIA_GPUTARGET_H
