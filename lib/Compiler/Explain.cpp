//===-- Explain.cpp - What the compiler knows and decides, as JSON --------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Explain.h"

#include "GPUCode.h"

#include "heed/Conversion/AttnToClassifier.h"

#include <cmath>

using namespace heed;
using lang::NodeKind;
using llvm::StringRef;
namespace json = llvm::json;

static Dependence dependenceOf(lang::Coordinate coordinate) {
  switch (coordinate) {
  case lang::Coordinate::Score:
    return Dependence::score();
  case lang::Coordinate::B:
    return Dependence::b();
  case lang::Coordinate::H:
    return Dependence::h();
  case lang::Coordinate::Q:
    return Dependence::q();
  case lang::Coordinate::KV:
    return Dependence::kv();
  }
  llvm_unreachable("unknown coordinate");
}

std::vector<Dependence> heed::dependencesOf(const lang::Function &function) {
  std::vector<Dependence> dependences;
  dependences.reserve(function.nodes.size());
  for (const lang::Node *node : function.nodes) {
    Dependence dependence;
    if (node->kind == NodeKind::Coordinate)
      dependence = dependenceOf(node->coordinate);
    for (const lang::Node *operand : node->operands)
      dependence |= dependences[operand->id];
    dependences.push_back(dependence);
  }
  return dependences;
}

static json::Array toJSON(Dependence dependence) {
  static const std::pair<StringRef, Dependence> names[] = {{"s", Dependence::score()},
                                                           {"b", Dependence::b()},
                                                           {"h", Dependence::h()},
                                                           {"q", Dependence::q()},
                                                           {"kv", Dependence::kv()}};
  json::Array array;
  for (auto [name, part] : names)
    if (dependence.intersects(part))
      array.push_back(name);
  return array;
}

json::Value heed::scalarToJSON(const lang::ScalarConstant &constant) {
  if (constant.type == lang::ValueType::Bool)
    return constant.integer != 0;
  if (constant.type != lang::ValueType::F32)
    return constant.integer;
  if (std::isfinite(constant.real))
    return constant.real;
  return std::isnan(constant.real) ? "nan" : constant.real < 0 ? "-inf" : "inf";
}

static json::Object toJSON(const lang::Node &node, const lang::Variant &variant,
                           Dependence dependence) {
  json::Array operands;
  for (const lang::Node *operand : node.operands)
    operands.push_back(int64_t(operand->id));
  json::Object object{{"type", lang::spelling(node.type)}, {"operands", std::move(operands)},
                      {"depends", toJSON(dependence)},     {"file", node.loc.file},
                      {"line", int64_t(node.loc.line)},    {"column", int64_t(node.loc.column)}};
  auto setOp = [&](StringRef op) { object["op"] = op; };
  switch (node.kind) {
  case NodeKind::Constant:
    setOp("constant");
    object["value"] = scalarToJSON(node.constant);
    break;
  case NodeKind::Coordinate:
    setOp("coordinate");
    object["name"] =
        node.coordinate == lang::Coordinate::Score ? "s" : lang::spelling(node.coordinate);
    break;
  case NodeKind::Extent:
    setOp("size");
    object["name"] = lang::spelling(node.size);
    break;
  case NodeKind::Param:
    setOp("param");
    object["name"] = variant.params[node.param].name;
    break;
  case NodeKind::Load:
    setOp("load");
    object["name"] = variant.params[node.param].name;
    break;
  case NodeKind::Unary:
    setOp(lang::spelling(node.unary));
    break;
  case NodeKind::Binary:
    setOp(lang::spelling(node.binary));
    break;
  case NodeKind::Math:
    setOp(lang::spelling(node.math));
    break;
  case NodeKind::Select:
    setOp("select");
    break;
  case NodeKind::Cast:
    setOp("cast");
    break;
  }
  return object;
}

static json::Value toJSON(const std::optional<lang::Function> &function,
                          const lang::Variant &variant) {
  if (!function)
    return nullptr;
  std::vector<Dependence> dependences = dependencesOf(*function);
  json::Array nodes;
  for (const lang::Node *node : function->nodes)
    nodes.push_back(toJSON(*node, variant, dependences[node->id]));
  return json::Object{{"nodes", std::move(nodes)}, {"result", int64_t(function->result->id)}};
}

static json::Object toJSON(tile::CPUScheduleAttr schedule) {
  return json::Object{{"target", schedule.getTarget()},
                      {"lanes", schedule.getLanes()},
                      {"block_q", schedule.getBlockQ()},
                      {"block_kv", schedule.getBlockKv()},
                      {"rows", schedule.getRows()},
                      {"vectors", schedule.getVectors()},
                      {"dot", tile::stringifyDotKind(schedule.getDot())},
                      {"exp_degree", schedule.getExpDegree()}};
}

static json::Object toJSON(const GPUPlan &plan, bool hasMask) {
  tile::GPUScheduleAttr schedule = plan.schedule;
  const GPUCode &code = plan.code;
  return json::Object{{"target", schedule.getTarget()},
                      {"block_q", code.blockQ / schedule.getGroups()},
                      {"groups", schedule.getGroups()},
                      {"block_kv", code.blockKv},
                      {"stages", schedule.getStages()},
                      {"dot", tile::stringifyGPUDotKind(schedule.getDot())},
                      {"threads", code.numThreads},
                      {"shared_bytes", code.sharedBytes},
                      {"persistent", code.blocksPerSM > 0},
                      {"needs_aligned", code.needsAligned},
                      {"min_keys", code.minKeys},
                      {"walk", code.classifyThreads > 0 ? "lists"
                               : hasMask                ? "bounds"
                                                        : "all"},
                      {"summaries", code.summaryWords > 0}};
}

/// How kernels for CPUs find the blocks of keys that a tile needs.
static llvm::Expected<StringRef> walkOf(mlir::MLIRContext &context, const lang::Variant &variant,
                                        const CompileOptions &options) {
  auto module = buildAttnModule(context, &variant, options);
  if (!module)
    return module.takeError();
  StringRef walk = "all";
  (*module)->walk([&](attn::MaskOp mask) {
    walk = options.gpuSchedule.walk ? tile::stringifyBlockWalk(*options.gpuSchedule.walk)
           : profitsFromLists(mask) ? "lists"
                                    : "bounds";
  });
  return walk;
}

llvm::Expected<json::Value> heed::explain(mlir::MLIRContext &context, const lang::Variant &variant,
                                          const CompileOptions &options) {
  json::Array schedules;
  for (const CPUTarget &target : options.targets)
    schedules.push_back(toJSON(
        selectCPUSchedule(&context, target, toMLIRType(context, options.dtype), options.headDim,
                          options.valueHeadDim ? options.valueHeadDim : options.headDim)));
  for (const GPUTarget &target : options.gpuTargets) {
    auto plans = planForGPU(context, variant, options, target);
    if (!plans)
      return plans.takeError();
    for (const GPUPlan &plan : *plans)
      schedules.push_back(toJSON(plan, variant.mask.has_value()));
  }
  llvm::Expected<StringRef> walk = walkOf(context, variant, options);
  if (!walk)
    return walk.takeError();
  return json::Value(json::Object{{"variant", variant.name},
                                  {"score", toJSON(variant.score, variant)},
                                  {"mask", toJSON(variant.mask, variant)},
                                  {"walk", *walk},
                                  {"schedules", std::move(schedules)}});
}

llvm::Expected<json::Value> heed::alternatives(mlir::MLIRContext &context,
                                               const lang::Variant &variant,
                                               const CompileOptions &options) {
  if (options.targets.size() + options.gpuTargets.size() != 1)
    return llvm::createStringError(
        "alternatives expects one target, found " +
        std::to_string(options.targets.size() + options.gpuTargets.size()));
  json::Array all;
  for (const GPUTarget &target : options.gpuTargets) {
    auto found = alternativesForGPU(context, variant, options, target);
    if (!found)
      return found.takeError();
    llvm::append_range(all, *found);
  }
  return json::Value(std::move(all));
}
