//===-- CPUTarget.cpp - CPU levels and their schedules --------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Target/CPU/CPUTarget.h"

#include "heed-c/Runtime.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/Triple.h"

using namespace mlir;
using namespace heed;

static std::vector<CPUTarget> makeTargets() {
  constexpr char x86[] = "x86_64-unknown-linux-gnu";
  constexpr uint64_t v2 = HEED_CPU_X86_64_V2, v3 = v2 | HEED_CPU_X86_64_V3,
                     v4 = v3 | HEED_CPU_X86_64_V4;
  std::vector<CPUTarget> targets(6);
  CPUTarget *t = targets.data();
  t[0] = {"x86-64-v2", "SSE4.2, 4 lanes", x86, "x86-64-v2", "", v2, 4};
  t[1] = {"x86-64-v3", "AVX2 and FMA, 8 lanes", x86, "x86-64-v3", "", v3, 8};
  t[1].hasFMA = t[1].hasF16Conversion = true;
  t[2] = {"x86-64-v4", "AVX-512, 16 lanes", x86, "x86-64-v4", "-prefer-256-bit", v4, 16, 32};
  t[2].hasFMA = t[2].hasF16Conversion = t[2].hasAVX512 = true;
  t[3] = t[2];
  t[3].name = "x86-64-v4+bf16";
  t[3].description = "AVX-512 with AVX512_BF16 (Zen 4, Cooper Lake)";
  t[3].features += ",+avx512bf16";
  t[3].cpuBits |= HEED_CPU_AVX512_BF16;
  t[3].hasDotBF16 = true;
  // AMX machines have AVX512_BF16 too, but run vdpbf16ps at half the rate of FMA: no use for it.
  t[4] = t[2];
  t[4].name = "x86-64-v4+amx";
  t[4].description = "AVX-512 with AMX-BF16 tiles (Sapphire Rapids)";
  t[4].features += ",+avx512bf16,+amx-tile,+amx-bf16";
  t[4].cpuBits |= HEED_CPU_AVX512_BF16 | HEED_CPU_AMX_BF16;
  t[4].hasAMX = true;
  t[5] = {"aarch64",
          "Armv8.0 NEON, 4 lanes",
          "aarch64-unknown-linux-gnu",
          "generic",
          "+neon",
          HEED_CPU_AARCH64,
          4,
          32};
  t[5].hasFMA = t[5].hasF16Conversion = true;
  return targets;
}

const std::vector<CPUTarget> &heed::allCPUTargets() {
  static const std::vector<CPUTarget> targets = makeTargets();
  return targets;
}

/// HEED_CPU_* bits of this machine as LLVM sees it. Unlike the runtime it asks nobody for AMX: code
/// may be compiled where it is not allowed to run.
static uint64_t hostBits() {
  llvm::Triple host(llvm::sys::getProcessTriple());
  if (host.isAArch64())
    return HEED_CPU_AARCH64;
  if (host.getArch() != llvm::Triple::x86_64)
    return 0;
  llvm::StringMap<bool> features = llvm::sys::getHostCPUFeatures();
  auto has = [&](std::initializer_list<StringRef> names) {
    return llvm::all_of(names, [&](StringRef name) { return features.lookup(name); });
  };
  uint64_t bits = 0;
  if (has({"sse4.2", "ssse3", "popcnt", "cx16"}))
    bits |= HEED_CPU_X86_64_V2;
  if (bits && has({"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}))
    bits |= HEED_CPU_X86_64_V3;
  if ((bits & HEED_CPU_X86_64_V3) &&
      has({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}))
    bits |= HEED_CPU_X86_64_V4;
  if ((bits & HEED_CPU_X86_64_V4) && has({"avx512bf16"}))
    bits |= HEED_CPU_AVX512_BF16;
  if ((bits & HEED_CPU_AVX512_BF16) && has({"amx-tile", "amx-bf16"}))
    bits |= HEED_CPU_AMX_BF16;
  return bits;
}

const CPUTarget &heed::baselineCPUTarget() {
  llvm::Triple host(llvm::sys::getProcessTriple());
  for (const CPUTarget &target : allCPUTargets())
    if (llvm::Triple(target.triple).getArch() == host.getArch())
      return target;
  return allCPUTargets().front();
}

const CPUTarget *heed::bestCPUTarget(uint64_t cpuBits) {
  for (const CPUTarget &target : llvm::reverse(allCPUTargets()))
    if ((target.cpuBits & cpuBits) == target.cpuBits)
      return &target;
  return nullptr;
}

llvm::Expected<CPUTarget> heed::lookupCPUTarget(StringRef name) {
  const std::vector<CPUTarget> &targets = allCPUTargets();
  if (name == "native") {
    if (const CPUTarget *target = bestCPUTarget(hostBits()))
      return *target;
    return llvm::createStringError("this machine's CPU is none that Heed compiles for; it needs "
                                   "x86-64-v2 or aarch64");
  }
  for (const CPUTarget &target : targets)
    if (target.name == name)
      return target;
  std::string known = "native";
  const CPUTarget *nearest = nullptr;
  for (const CPUTarget &target : targets) {
    known += ", " + target.name;
    unsigned distance = name.edit_distance(target.name);
    if (distance <= 3 && (!nearest || distance < name.edit_distance(nearest->name)))
      nearest = &target;
  }
  std::string hint = nearest ? "; did you mean '" + nearest->name + "'?" : "";
  return llvm::createStringError("unknown target '" + name.str() + "'" + hint +
                                 " (known: " + known + ")");
}

llvm::Expected<std::vector<CPUTarget>> heed::lookupCPUTargets(ArrayRef<StringRef> names) {
  std::vector<CPUTarget> found;
  for (StringRef name : names) {
    llvm::Expected<CPUTarget> target = lookupCPUTarget(name);
    if (!target)
      return target.takeError();
    found.push_back(std::move(*target));
  }
  auto rank = [](const CPUTarget &target) {
    return llvm::find_if(allCPUTargets(),
                         [&](const CPUTarget &t) { return t.name == target.name; }) -
           allCPUTargets().begin();
  };
  llvm::sort(found, [&](const CPUTarget &x, const CPUTarget &y) { return rank(x) < rank(y); });
  found.erase(std::unique(found.begin(), found.end(),
                          [](const CPUTarget &x, const CPUTarget &y) { return x.name == y.name; }),
              found.end());
  return found;
}

tile::CPUScheduleAttr heed::selectCPUSchedule(MLIRContext *context, const CPUTarget &target,
                                              Type elementType, int64_t headDim,
                                              int64_t valueHeadDim) {
  bool isBF16 = elementType.isBF16();
  tile::DotKind dot = tile::DotKind::FMA;
  if (isBF16 && target.hasAMX && headDim % 32 == 0 && valueHeadDim % 32 == 0)
    dot = tile::DotKind::AMX;
  else if (isBF16 && target.hasDotBF16 && headDim % 2 == 0)
    dot = tile::DotKind::DPBF16;

  // A register tile of a product. 16 accumulators hide the latency of multiplications, and leave
  // registers for weights that are taken meanwhile. With 16 registers, six rows of two vectors keep
  // loads below one for two multiplications. Two vectors of 16 lanes read panels of 32 queries,
  // which stay in the first-level cache, and follow a diagonal more closely than four (f32, Zen 4:
  // 0.2 to 1.4% faster); products of pairs have half the steps, and are 2 to 5% slower with two.
  int64_t rows = 4, vectors = 4;
  if (target.numVectorRegisters < 32) {
    rows = target.hasFMA ? 6 : 4;
    vectors = 2;
  } else if (dot == tile::DotKind::FMA && target.hasAVX512) {
    rows = 8;
    vectors = 2;
  }
  // A block of keys and values comes from memory once for all queries of a tile. Against 64
  // queries, f32 on Sapphire Rapids gains 2 to 6% with 128 and 2 to 7% with 256, most where keys
  // and values outgrow the second-level cache; with a causal mask only 256 gains, 2 to 5%. Beyond
  // 256 columns in all, the panels of 256 queries would outgrow a cache of 1 MiB. Blocks of 64 keys
  // are 1 to 5% slower than of 128. AMX products are so fast that reading counts: they take larger
  // blocks.
  bool isAMX = dot == tile::DotKind::AMX;
  bool hasLargeTiles =
      dot == tile::DotKind::FMA && target.hasAVX512 && headDim + valueHeadDim <= 256;
  int64_t blockQ = hasLargeTiles ? 256 : 128, blockKv = isAMX ? 256 : 128;
  int64_t expDegree = elementType.isF32() ? 5 : 3;
  return tile::CPUScheduleAttr::get(context, target.name, target.lanes, blockQ, blockKv, rows,
                                    vectors, dot, expDegree);
}
