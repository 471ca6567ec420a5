//===-- GPUTarget.cpp - GPUs and their schedules --------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/NVIDIA/GPUTarget.h"
#include "heed/Analysis/Magnitude.h"

#include "heed/Target/NVIDIA/HoistElements.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace heed;
using tile::GPUDotKind;

const std::vector<GPUTarget> &heed::allGPUTargets() {
  static const std::vector<GPUTarget> targets = {
      {"sm_80", "Ampere: A100", "+ptx78", 80, false, false, 163 * 1024},
      {"sm_86", "Ampere: A40, RTX 30", "+ptx78", 86, false, false, 99 * 1024},
      {"sm_89", "Ada: L40, RTX 40", "+ptx78", 89, false, false, 99 * 1024},
      {"sm_90a", "Hopper: H100, H200", "+ptx80", 90, true, true, 227 * 1024},
      {"sm_100", "Blackwell: B200, by the portable path", "+ptx86", 100, false, false, 227 * 1024},
      {"sm_120", "Blackwell: RTX 50, by the portable path", "+ptx87", 120, false, false, 99 * 1024},
  };
  return targets;
}

const GPUTarget *heed::lookupGPUTarget(StringRef name) {
  for (const GPUTarget &target : allGPUTargets())
    if (target.name == name)
      return &target;
  return nullptr;
}

//===----------------------------------------------------------------------===//
// Overrides
//===----------------------------------------------------------------------===//

llvm::Expected<GPUScheduleOverrides> GPUScheduleOverrides::parse(StringRef text) {
  GPUScheduleOverrides overrides;
  SmallVector<StringRef> words;
  text.split(words, ',', -1, /*KeepEmpty=*/false);
  for (StringRef word : words) {
    auto [name, value] = word.trim().split('=');
    int64_t number = 0;
    bool hasNumber = !value.empty() && !value.getAsInteger(10, number) && number >= 0;
    auto needsNumber = [&, name = name](int64_t least) -> llvm::Error {
      if (hasNumber && number >= least)
        return llvm::Error::success();
      return llvm::createStringError("schedule option '" + name.str() +
                                     "' expects a number of at least " + std::to_string(least) +
                                     ", found '" + word.str() + "'");
    };
    llvm::Error problem = llvm::Error::success();
    bool *flag = name == "tf32"           ? &overrides.tf32
                 : name == "strict_math"  ? &overrides.strictMath
                 : name == "no_wgmma"     ? &overrides.noWGMMA
                 : name == "aligned_only" ? &overrides.alignedOnly
                                          : nullptr;
    if (flag && word.contains('='))
      problem = llvm::createStringError("schedule option '" + name.str() +
                                        "' takes no value, found '" + word.str() + "'");
    else if (flag)
      *flag = true;
    else if (name == "block_kv" && !(problem = needsNumber(1)))
      overrides.blockKv = number;
    else if (name == "groups" && !(problem = needsNumber(1)))
      overrides.groups = number;
    else if (name == "stages" && !(problem = needsNumber(1)))
      overrides.stages = number;
    else if (name == "keys" && !(problem = needsNumber(1)))
      overrides.keys = number;
    else if (name == "blocks_per_sm" && !(problem = needsNumber(0)))
      overrides.blocksPerSM = number;
    else if (name == "walk") {
      overrides.walk = tile::symbolizeBlockWalk(value);
      if (!overrides.walk)
        problem = llvm::createStringError(
            "schedule option 'walk' expects bounds or lists, found '" + word.str() + "'");
    } else if (!problem)
      problem = llvm::createStringError("unknown schedule option '" + word.str() +
                                        "' (known: block_kv=N, groups=N, stages=N, "
                                        "blocks_per_sm=N, keys=N, walk=bounds|lists, tf32, "
                                        "strict_math, no_wgmma, aligned_only)");
    if (problem)
      return std::move(problem);
  }
  return overrides;
}

//===----------------------------------------------------------------------===//
// The resource model
//===----------------------------------------------------------------------===//

/// Bytes of a tile in shared memory: rows are padded to whole 128-byte boxes.
static int64_t tileBytes(int64_t rows, int64_t columns, int64_t elementBytes) {
  return rows * 128 * countBoxes(columns, elementBytes);
}

int64_t heed::sliceColumnsOf(tile::GPUScheduleAttr schedule, int64_t valueHeadDim) {
  int64_t slices = schedule.getValueSlices();
  return slices == 1 ? valueHeadDim : llvm::alignTo(llvm::divideCeil(valueHeadDim, slices), 16);
}

int64_t heed::paddedRowBytes(int64_t columns, int64_t elementBytes) {
  return llvm::alignTo(columns * elementBytes, 32) + 16;
}

/// On the portable path: queries, unless they stay where they are, and the rings.
static int64_t portableSharedBytes(tile::GPUScheduleAttr schedule, int64_t elementBytes,
                                   int64_t headDim, int64_t valueHeadDim) {
  int64_t rowBytes = paddedRowBytes(headDim, elementBytes);
  int64_t valueRowBytes = paddedRowBytes(sliceColumnsOf(schedule, valueHeadDim), elementBytes);
  bool isShared = schedule.getQueries() != tile::QueryPlace::Global;
  return (isShared ? 64 * schedule.getGroups() * rowBytes : 0) +
         schedule.getStages() * schedule.getBlockKv() * (rowBytes + valueRowBytes);
}

int64_t heed::sharedBytesOf(tile::GPUScheduleAttr schedule, Type elementType, int64_t headDim,
                            int64_t valueHeadDim, const GPUStages &stages) {
  int64_t bytes = elementType.getIntOrFloatBitWidth() / 8;
  if (schedule.getDot() != GPUDotKind::WGMMA)
    return portableSharedBytes(schedule, bytes, headDim, valueHeadDim);
  int64_t rows = 64 * schedule.getGroups();
  int64_t valueColumns = llvm::divideCeil(valueHeadDim, schedule.getValueSlices());
  int64_t query = tileBytes(rows, headDim, bytes), output = tileBytes(rows, valueColumns, bytes);
  int64_t stage = tileBytes(schedule.getBlockKv(), headDim, bytes) +
                  tileBytes(schedule.getBlockKv(), valueColumns, bytes);
  // Without a buffer of its own the output takes the queries' place.
  int64_t shared = schedule.getOwnOutput() ? query + output : std::max(query, output);
  // Twice as many places as keys have: a place is read after its keys are given back.
  stage += 2 * schedule.getBlockKv() * stages.alongKeyBytes;
  for (int64_t elementBytes : stages.matrixBytes)
    stage += tileBytes(rows, schedule.getBlockKv(), elementBytes);
  return 1024 + shared + schedule.getStages() * stage;
}

int64_t heed::countBoxes(int64_t columns, int64_t elementBytes) {
  return llvm::divideCeil(columns * elementBytes, 128);
}

/// Notes what ops of a region ask for, those that only `fetched` is computed from left out.
static void addOps(GPUStages &stages, Block &block, const ElementRegion &region, bool isScore,
                   ArrayRef<Value> fetched = {}) {
  (isScore ? stages.hasScore : stages.hasMask) = true;
  auto ops = region.sliceOf(block.getTerminator()->getOperands(), fetched);
  for (Operation *op : ops) {
    Dependence all = region.lookup(op->getResult(0)) & (Dependence::q() | Dependence::kv());
    // What depends on no key is computed before the loop.
    if (all.intersects(Dependence::kv())) {
      stages.numMaskOps += !isScore;
      // A magnitude takes three operations, unless tile-fold-magnitudes makes none of them.
      bool isFolded = operandOfMagnitude(op->getResult(0)) &&
                      llvm::all_of(op->getUsers(), llvm::IsaPred<arith::CmpIOp>);
      if (isFolded && !isScore) {
        stages.numMaskOps -= 3;
        ++stages.numMagnitudes;
      }
      stages.hasDivision |= isa<attn::FloorDivOp, attn::ModOp>(op);
    }
    bool isFunction = op->getDialect()->getNamespace() == "math" &&
                      !isa<math::AbsFOp, math::FloorOp, math::CeilOp, math::FmaOp>(op);
    stages.numTranscendentals += isFunction;
    Dependence ofElements = Dependence::score() | Dependence::kv();
    stages.numElementFunctions +=
        isFunction && region.lookup(op->getResult(0)).intersects(ofElements);
    // A pointer and a stride; and, read for each element, addresses and values on their way.
    if (isa<attn::LoadOp>(op) && all.intersects(Dependence::kv())) {
      bool isForElements = all != Dependence::kv();
      stages.stageRegisters += isForElements ? 36 : 20;
      stages.hasMaskGather |= !isScore;
      stages.hasScoreGather |= isScore && isForElements;
    }
    // Values of two queries a thread, where something that varies by key uses them.
    if (all == Dependence::q() && llvm::any_of(op->getUsers(), [&](Operation *user) {
          return user->getNumResults() == 0 || region.lookup(user->getResult(0)) != Dependence::q();
        }))
      stages.stageRegisters += 2;
  }
}

void GPUProblem::addStage(Block &block, Value score, Value query, Value key) {
  ElementRegion region(block, score, query, key);
  addOps(direct, block, region, bool(score));
  SmallVector<Value> fetched = region.alongKeys();
  for (Value v : fetched) {
    hoisted.alongKeyBytes += alongKeyBytes(v.getType());
    hoisted.hasWideAlongKeys |= alongKeyBytes(v.getType()) > 4;
  }
  for (attn::LoadOp load : region.matrices()) {
    auto tensor = cast<attn::TensorType>(load.getTensor().getType());
    hoisted.matrixBytes.push_back(
        llvm::divideCeil(tensor.getElementType().getIntOrFloatBitWidth(), 8));
    fetched.push_back(load.getResult());
  }
  addOps(hoisted, block, region, bool(score), fetched);
}

/// What stages may reserve at most: beyond it they are better off with fewer values in flight than
/// with smaller tiles.
static constexpr int64_t kMostStageRegisters = 64;

/// Registers of a consumer thread beside fragments: addresses, statistics, what stages hoist.
static int64_t otherRegisters(const GPUStages &stages) {
  return 26 + (stages.hasScore ? 2 : 0) + std::min(stages.stageRegisters, kMostStageRegisters);
}

/// Scores, packed weights and the accumulator of one thread.
static int64_t fragmentRegisters(int64_t blockKv, int64_t valueColumns) {
  return blockKv / 2 + blockKv / 4 + llvm::alignTo(valueColumns, 8) / 2;
}

HopperRegisters heed::hopperRegisters(int64_t groups, bool evaluates) {
  static constexpr HopperRegisters simple[] = {{}, {56, 240}, {40, 232}, {32, 160}, {32, 112}};
  static constexpr HopperRegisters evaluating[] = {{}, {56, 240}, {56, 224}, {56, 152}, {32, 112}};
  return (evaluates ? evaluating : simple)[groups];
}

namespace {
struct Shape {
  int64_t groups, blockKv;
  int64_t warpInstances = 1;
};
} // namespace

/// Whether the mask has more in flight than a few comparisons.
static bool isLong(const GPUStages &stages) {
  return stages.numMaskOps >= 8 || stages.hasMaskGather || stages.hasDivision ||
         stages.alongKeyBytes > 0;
}

/// Measured on an H100 (gpu_evidence): three warpgroups and short blocks of keys hide latencies
/// best where registers suffice; at head dim 64 a fourth pays, for its tiles end sooner. What a
/// stage keeps in flight is up to ptxas, which takes more the more a thread has; that masks of
/// divisions and other long ones fit shorter blocks only is what it said (test_ptx.py).
static SmallVector<Shape> hopperShapes(const GPUProblem &problem, bool isShort) {
  const GPUStages &stages = problem.hoisted;
  int64_t columns = std::max(problem.headDim, problem.valueHeadDim);
  SmallVector<Shape> shapes;
  // Blocks of whole boxes.
  if (!stages.matrixBytes.empty()) {
    if (columns <= 128)
      shapes.append({{2, 128}, {3, 64}});
    shapes.append({{2, 64}, {2, 32}, {1, 64}, {1, 32}, {1, 16}});
    return shapes;
  }
  bool isSimple = stages.numTranscendentals <= 2;
  bool isBusy = stages.hasScoreGather || !isSimple;
  bool isBare = !stages.hasMask && !stages.hasScoreGather && stages.numTranscendentals == 0;
  if (columns <= 64 && !stages.hasDivision) {
    if (isBare && !stages.hasScore && !isShort)
      shapes.append({{3, 128}, {3, 112}});
    // Tiles of four end sooner.
    if (stages.numMaskOps <= 5 && isSimple)
      shapes.push_back({4, 64});
    if (isSimple)
      shapes.push_back({3, 128});
    if (isSimple && stages.numMaskOps < 6)
      shapes.push_back({3, 112});
    shapes.push_back({3, isSimple ? 96 : 80});
  } else if (columns <= 64) {
    shapes.append({{3, 64}, {4, 48}});
  }
  // A long mask that is evaluated in most blocks hides more behind larger ones.
  bool isLongAlongKeys = stages.alongKeyBytes > 0 && stages.numMaskOps >= 5;
  if (columns <= 128 && isLongAlongKeys && isSimple)
    shapes.push_back({2, 128});
  // Shorter blocks waste less of a diagonal, and of a short call's last block.
  if (columns <= 128 && !stages.hasMask && !isShort && !(isBare && stages.hasScore))
    shapes.push_back({3, 80});
  if (columns > 192 && stages.hasScoreGather && stages.numTranscendentals > 0)
    return {{1, 32}, {1, 16}}; // which do not spill
  // Gathers wait less where a thread has more registers for what is on its way.
  if (columns > 64 && stages.hasScoreGather && stages.numTranscendentals == 0 &&
      !stages.hasDivision)
    shapes.push_back({2, columns <= 128 ? 80 : columns <= 192 ? 48 : 32});
  bool isWide = stages.hasWideAlongKeys;
  if ((columns <= 96 || (columns <= 128 && !stages.hasDivision && !isWide)) && isSimple)
    shapes.push_back({3, 64});
  if (columns <= 128 && stages.hasDivision)
    shapes.push_back({3, 48});
  if (columns > 128 && columns <= 192 && !stages.hasDivision && !isWide) {
    if (!stages.hasMask)
      shapes.push_back({2, 80});
    else if (isShort && !isBusy)
      shapes.push_back({2, 64});
  }
  if ((columns <= 128 || (columns <= 192 && !isLong(stages))) && !isBusy)
    shapes.push_back({2, 96});
  if (columns <= 192 && !stages.hasDivision && !isWide && !(isBusy && columns > 96))
    shapes.push_back({2, 80});
  if ((columns <= (stages.hasDivision ? 128 : 192) || !isLong(stages)) &&
      !(stages.hasScoreGather && columns > 128 && columns <= 192))
    shapes.push_back({2, 64});
  // The code holds magnitudes both ways.
  int64_t numMaskOps = stages.numMaskOps + 3 * stages.numMagnitudes;
  bool spillsBesideWide = (stages.alongKeyBytes > 0 && numMaskOps >= 6) || isWide;
  if (columns <= 192 || (!stages.hasDivision && !spillsBesideWide))
    shapes.push_back({2, 48});
  shapes.append({{2, 32}, {1, 64}, {1, 48}, {1, 32}, {1, 16}});
  return shapes;
}

static std::string problemText(const GPUProblem &problem) {
  std::string text = "head dim " + std::to_string(problem.headDim);
  if (problem.valueHeadDim != problem.headDim)
    text += " and value head dim " + std::to_string(problem.valueHeadDim);
  return text;
}

static llvm::Expected<tile::GPUScheduleAttr> selectHopper(MLIRContext *context,
                                                          const GPUTarget &target,
                                                          const GPUProblem &problem,
                                                          const GPUScheduleOverrides &overrides) {
  bool isGiven = overrides.groups || overrides.blockKv || overrides.stages;
  std::string why;
  bool isShort = overrides.keys > 0 && overrides.keys < kLongKeys;
  for (Shape shape : hopperShapes(problem, isShort)) {
    if (overrides.groups)
      shape.groups = overrides.groups;
    if (overrides.blockKv)
      shape.blockKv = overrides.blockKv;
    if (shape.groups < 1 || shape.groups > 4)
      return llvm::createStringError("groups expects 1 to 4 for sm_90a, found " +
                                     std::to_string(shape.groups));
    if (shape.blockKv % 16 != 0 || shape.blockKv > 256)
      return llvm::createStringError(
          "block_kv expects a multiple of 16 up to 256 for sm_90a, found " +
          std::to_string(shape.blockKv));
    int64_t registers =
        fragmentRegisters(shape.blockKv, problem.valueHeadDim) + otherRegisters(problem.hoisted);
    // With a mask the producer may evaluate it; numbers along keys it does.
    bool evaluates = problem.hoisted.hasMask || problem.hoisted.alongKeyBytes > 0;
    int64_t available = hopperRegisters(shape.groups, evaluates).consumer;
    if (registers > available) {
      if (why.empty())
        why = "a thread needs about " + std::to_string(registers) + " registers and has " +
              std::to_string(available);
      continue;
    }
    int64_t blocksPerSM = overrides.blocksPerSM.value_or(1);
    if (overrides.stages && !llvm::isPowerOf2_64(overrides.stages))
      return llvm::createStringError("stages expects a power of two for sm_90a, found " +
                                     std::to_string(overrides.stages));
    int64_t most = overrides.stages ? overrides.stages : 4, least = overrides.stages ? most : 2;
    // A buffer of its own for the output, so that the next tile's queries come early, is worth more
    // than stages.
    for (bool ownOutput : {true, false})
      for (int64_t stages = most; stages >= least; stages /= 2) {
        auto schedule = tile::GPUScheduleAttr::get(
            context, target.name, GPUDotKind::WGMMA, shape.groups, shape.blockKv, stages,
            blocksPerSM, ownOutput && blocksPerSM > 0, /*lazy_rescale=*/8, /*value_slices=*/1,
            /*warp_instances=*/1, tile::QueryPlace::Shared);
        int64_t bytes = sharedBytesOf(schedule, problem.elementType, problem.headDim,
                                      problem.valueHeadDim, problem.hoisted);
        if (bytes <= target.sharedBytes)
          return schedule;
        why = "a thread block needs " + std::to_string(bytes) + " bytes of shared memory and has " +
              std::to_string(target.sharedBytes);
      }
    if (isGiven && overrides.groups && overrides.blockKv)
      break;
  }
  return llvm::createStringError("no schedule of " + target.name + " fits " + problemText(problem) +
                                 ": " + why);
}

/// What registers of the portable path hold beside scores, accumulators and queries: addresses, the
/// walk, operands on their way.
static int64_t otherPortableRegisters(const GPUProblem &problem) {
  int64_t ofScore = problem.direct.numTranscendentals > 2 ? 24 : problem.direct.hasScore ? 8 : 0;
  int64_t ofMask = problem.direct.hasDivision ? 56 : isLong(problem.direct) ? 16 : 0;
  return 46 + ofScore + ofMask;
}

/// Two instances of a warp share what they read of keys and values, which is what such kernels are
/// short of; more warps hide latencies better where memory has room for one thread block.
static SmallVector<Shape> portableShapes(const GPUTarget &target, const GPUProblem &problem) {
  if (problem.elementType.isF32())
    return {{1, 32}, {2, 32}, {1, 16}};
  SmallVector<Shape> shapes;
  int64_t columns = std::max(problem.headDim, problem.valueHeadDim);
  // With WGMMA this path is for arrays that are not aligned, up to head dim 128 at least: what
  // copies those takes registers.
  bool isMain = !target.hasWGMMA;
  // Longer blocks are faster where nothing else needs registers: 6% at head dim 128, 1 to 4% at
  // 256, in turns with the shorter ones on an H100. For sm_100 and later ptxas finds no room.
  bool isBare = !problem.direct.hasScore && !problem.direct.hasMask;
  if (isMain && isBare && columns > 64 && columns <= 256 && target.capability < 100)
    shapes.push_back(columns <= 128 ? Shape{2, 64, 2} : Shape{2, 80});
  if (columns <= 64 && !isLong(problem.direct))
    shapes.append({{2, 128, 2}, {2, 96, 2}});
  if (columns <= 64)
    shapes.push_back({2, 64, 2});
  if (isMain && columns <= 128)
    shapes.push_back({2, 48, 2});
  if (columns <= 128)
    shapes.push_back({2, 32, 2});
  shapes.append({{1, 64}, {2, 64}, {1, 32}, {2, 32}, {1, 16}});
  return shapes;
}

static llvm::Expected<tile::GPUScheduleAttr> selectPortable(MLIRContext *context,
                                                            const GPUTarget &target,
                                                            const GPUProblem &problem,
                                                            const GPUScheduleOverrides &overrides) {
  if (overrides.groups > 4)
    return llvm::createStringError("groups expects 1 to 4 for the portable GPU path, found " +
                                   std::to_string(overrides.groups));
  if (overrides.blockKv % 16 != 0 || overrides.blockKv > 256)
    return llvm::createStringError(
        "block_kv expects a multiple of 16 up to 256 for the portable GPU path, found " +
        std::to_string(overrides.blockKv));
  if (overrides.stages > 8)
    return llvm::createStringError("stages expects 1 to 8 for the portable GPU path, found " +
                                   std::to_string(overrides.stages));
  if (overrides.blocksPerSM.value_or(0) != 0)
    return llvm::createStringError("blocks_per_sm expects 0 for the portable GPU path, found " +
                                   std::to_string(*overrides.blocksPerSM));
  int64_t elementBytes = problem.elementType.getIntOrFloatBitWidth() / 8;
  GPUDotKind dot = elementBytes == 2 ? GPUDotKind::MMA
                   : overrides.tf32  ? GPUDotKind::TF32
                                     : GPUDotKind::TF32x3;
  std::string why;
  /// A schedule, if it fits and leaves room for `threads` on a multiprocessor.
  auto trySchedule = [&](Shape shape, int64_t stages, int64_t slices, int64_t threads,
                         bool mayBeGlobal) -> tile::GPUScheduleAttr {
    int64_t numThreads = 128 * shape.groups / shape.warpInstances;
    int64_t limit = std::min<int64_t>(255, 65536 / numThreads / 8 * 8);
    auto with = [&](tile::QueryPlace queries) {
      return tile::GPUScheduleAttr::get(context, target.name, dot, shape.groups, shape.blockKv,
                                        stages, /*blocks_per_sm=*/0, /*own_output=*/false,
                                        /*lazy_rescale=*/8, slices, shape.warpInstances, queries);
    };
    auto shared = with(tile::QueryPlace::Shared);
    int64_t columns = llvm::alignTo(sliceColumnsOf(shared, problem.valueHeadDim), 8);
    int64_t scores = shape.blockKv / 2 * (dot == GPUDotKind::TF32x3 ? 2 : 1);
    // Two instances take turns, so that the packed weights of one are there beside scores.
    int64_t waiting = shape.warpInstances > 1 ? shape.blockKv / 4 : 0;
    int64_t registers =
        shape.warpInstances * (columns / 2 + scores) + waiting + otherPortableRegisters(problem);
    if (registers > limit) {
      if (why.empty())
        why = "a thread needs about " + std::to_string(registers) + " registers and has " +
              std::to_string(limit);
      return {};
    }
    int64_t queryRegisters =
        shape.warpInstances * 4 * llvm::divideCeil(problem.headDim * elementBytes, 32);
    auto fits = [&](tile::GPUScheduleAttr schedule) {
      int64_t bytes =
          sharedBytesOf(schedule, problem.elementType, problem.headDim, problem.valueHeadDim);
      if (bytes > target.sharedBytes && why.empty())
        why = "a thread block needs " + std::to_string(bytes) + " bytes of shared memory and has " +
              std::to_string(target.sharedBytes);
      // The system takes 1 KiB for each thread block.
      int64_t resident = (target.sharedBytes + 1024) / (bytes + 1024);
      return resident * numThreads >= threads;
    };
    // As many more for addresses on their way as ptxas was seen to want.
    if (registers + queryRegisters + 8 <= limit && fits(with(tile::QueryPlace::Registers)))
      return with(tile::QueryPlace::Registers);
    if (fits(shared))
      return shared;
    // Addresses, and operands that take long to arrive.
    if (mayBeGlobal && registers + 66 <= limit && fits(with(tile::QueryPlace::Global)))
      return with(tile::QueryPlace::Global);
    return {};
  };
  int64_t fewest = overrides.stages ? overrides.stages : 1;
  int64_t most = overrides.stages ? overrides.stages : 2;
  // Each slice computes all scores: none is narrower than 64 columns.
  for (int64_t slices = 1; slices <= int64_t(llvm::divideCeil(problem.valueHeadDim, 64)); ++slices)
    for (auto [threads, mayBeGlobal] : {std::pair(256, false), {128, false}, {128, true}}) {
      if (mayBeGlobal && elementBytes == 2)
        continue;
      for (Shape shape : portableShapes(target, problem)) {
        if (overrides.groups)
          shape.groups = overrides.groups;
        if (overrides.blockKv)
          shape.blockKv = overrides.blockKv;
        if (shape.groups % shape.warpInstances != 0)
          shape.warpInstances = 1;
        for (int64_t stages = most; stages >= fewest; --stages)
          if (auto schedule = trySchedule(shape, stages, slices, threads, mayBeGlobal))
            return schedule;
      }
    }
  return llvm::createStringError("no schedule of " + target.name + " fits " + problemText(problem) +
                                 " on the portable GPU path: " + why);
}

/// Of scores that take many functions ptxas keeps so much in flight, beside a wide accumulator,
/// that it spills, whatever the blocks; and they take longer than products do.
static bool isForPortablePath(const GPUProblem &problem) {
  return problem.hoisted.numElementFunctions > 8 &&
         std::max(problem.headDim, problem.valueHeadDim) > 128;
}

llvm::Expected<tile::GPUScheduleAttr>
heed::selectGPUSchedule(MLIRContext *context, const GPUTarget &target, const GPUProblem &problem,
                        const GPUScheduleOverrides &overrides) {
  bool is16Bit = problem.elementType.getIntOrFloatBitWidth() == 16;
  bool isGiven = overrides.groups || overrides.blockKv || overrides.stages;
  if (target.hasWGMMA && !overrides.noWGMMA && is16Bit && problem.headDim % 8 == 0 &&
      problem.valueHeadDim % 8 == 0 && problem.valueHeadDim <= 256 &&
      (isGiven || overrides.blocksPerSM || !isForPortablePath(problem))) {
    auto schedule = selectHopper(context, target, problem, overrides);
    if (schedule || isGiven || problem.headDim <= 256)
      return schedule;
    llvm::consumeError(schedule.takeError());
  }
  return selectPortable(context, target, problem, overrides);
}
