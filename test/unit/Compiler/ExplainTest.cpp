//===-- ExplainTest.cpp - What explain() says -----------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Compiler/Explain.h"

#include "heed/Conversion/LanguageToAttn.h"

#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SourceMgr.h"
#include "gtest/gtest.h"

using namespace heed;
using llvm::StringRef;
namespace json = llvm::json;

namespace {

/// A program with what was said about it, which must be nothing.
struct Checked {
  explicit Checked(StringRef source) {
    sources.setDiagHandler([](const llvm::SMDiagnostic &diagnostic, void *) {
      FAIL() << diagnostic.getMessage().str();
    });
    program = lang::checkSource(source, "test.heed", sources);
  }
  const lang::Variant &variant() const { return program->variants.front(); }

  llvm::SourceMgr sources;
  std::unique_ptr<lang::CheckedProgram> program;
};

CompileOptions optionsFor(std::initializer_list<StringRef> targets) {
  CompileOptions options;
  options.targets = llvm::cantFail(lookupCPUTargets(llvm::ArrayRef(targets)));
  options.dtype = HEED_BF16;
  options.headDim = 64;
  return options;
}

const json::Object &node(const json::Object &stage, int64_t id) {
  return *(*stage.getArray("nodes"))[id].getAsObject();
}

std::string dependsOf(const json::Object &node) {
  std::string text;
  for (const json::Value &name : *node.getArray("depends"))
    text += name.getAsString()->str() + " ";
  return text;
}

TEST(Explain, NamesDependencesAndPlaces) {
  Checked checked("variant v(doc: i32[B, Sq], const n: index = 4) {\n"
                  "  mask_mod(b, h, q, kv) { return doc[b, q] == doc[b, kv] && q < Skv - n }\n"
                  "}\n");
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  json::Value value =
      llvm::cantFail(explain(*context, checked.variant(), optionsFor({"x86-64-v3"})));
  const json::Object &root = *value.getAsObject();
  EXPECT_EQ(root.getString("variant"), StringRef("v"));
  EXPECT_TRUE(root.get("score")->getAsNull());
  const json::Object &mask = *root.getObject("mask");
  const json::Object &both = node(mask, *mask.getInteger("result"));
  EXPECT_EQ(both.getString("op"), StringRef("and"));
  EXPECT_EQ(both.getInteger("line"), 2);
  EXPECT_EQ(dependsOf(both), "b q kv ");
  const json::Object &same = node(mask, *(*both.getArray("operands"))[0].getAsInteger());
  EXPECT_EQ(same.getString("op"), StringRef("eq"));
  EXPECT_EQ(same.getString("file"), StringRef("test.heed"));
  const json::Object &load = node(mask, *(*same.getArray("operands"))[0].getAsInteger());
  EXPECT_EQ(load.getString("op"), StringRef("load"));
  EXPECT_EQ(load.getString("name"), StringRef("doc"));
  EXPECT_EQ(dependsOf(load), "b q ");
}

TEST(Explain, WritesConstantsThatJSONHasNoNumbersFor) {
  Checked checked(
      "variant v { score_mod(s, b, h, q, kv) { return if q < kv { -inf } else { s } } }");
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  json::Value value =
      llvm::cantFail(explain(*context, checked.variant(), optionsFor({"x86-64-v3"})));
  bool found = false;
  for (const json::Value &node : *value.getAsObject()->getObject("score")->getArray("nodes")) {
    const json::Value *constant = node.getAsObject()->get("value");
    found |= constant && constant->getAsString() == StringRef("-inf");
  }
  EXPECT_TRUE(found);
}

TEST(Explain, SaysHowBlocksAreFound) {
  std::pair<const char *, const char *> masks[] = {
      {"variant v {}", "all"},
      {"variant v { mask_mod(b, h, q, kv) { return q >= kv } }", "bounds"},
      {"variant v(end: i32[B]) { mask_mod(b, h, q, kv) { return kv < end[b] } }", "bounds"},
      {"variant v(doc: i32[Skv]) { mask_mod(b, h, q, kv) { return doc[kv] > 0 } }", "lists"},
      {"variant v { mask_mod(b, h, q, kv) { return (q - kv) % 2 == 0 } }", "lists"}};
  for (auto [source, walk] : masks) {
    Checked checked(source);
    std::unique_ptr<mlir::MLIRContext> context = makeContext();
    json::Value value =
        llvm::cantFail(explain(*context, checked.variant(), optionsFor({"x86-64-v3"})));
    EXPECT_EQ(value.getAsObject()->getString("walk"), StringRef(walk)) << source;
  }
}

TEST(Explain, HasAScheduleForEachTarget) {
  Checked checked("variant v {}");
  std::unique_ptr<mlir::MLIRContext> context = makeContext();
  json::Value value = llvm::cantFail(
      explain(*context, checked.variant(), optionsFor({"x86-64-v3", "x86-64-v4+bf16"})));
  const json::Array &schedules = *value.getAsObject()->getArray("schedules");
  ASSERT_EQ(schedules.size(), 2u);
  EXPECT_EQ(schedules[0].getAsObject()->getString("dot"), StringRef("fma"));
  EXPECT_EQ(schedules[1].getAsObject()->getString("dot"), StringRef("dpbf16"));
  EXPECT_GT(schedules[0].getAsObject()->getInteger("block_kv"), 0);
}

TEST(Explain, HasAScheduleForEachCodeOfAGPU) {
  struct Code {
    const char *dot, *walk;
    int64_t groups, blockKv, minKeys;
    bool summaries;
  };
  std::pair<const char *, std::vector<Code>> variants[] = {
      {"variant v {}",
       {{"wgmma", "all", 3, 128, 2048, false},
        {"wgmma", "all", 4, 64, 0, false},
        {"mma", "all", 2, 96, 0, false}}},
      {"variant v(doc: i32[Skv]) { mask_mod(b, h, q, kv) { return doc[q] == doc[kv] } }",
       {{"wgmma", "lists", 4, 64, 0, true}, {"mma", "lists", 2, 64, 0, true}}}};
  for (auto &[source, codes] : variants) {
    Checked checked(source);
    std::unique_ptr<mlir::MLIRContext> context = makeContext();
    CompileOptions options;
    llvm::cantFail(lookupTargets({"sm_90a"}, options));
    options.dtype = HEED_BF16;
    options.headDim = 64;
    json::Value value = llvm::cantFail(explain(*context, checked.variant(), options));
    const json::Array &schedules = *value.getAsObject()->getArray("schedules");
    ASSERT_EQ(schedules.size(), codes.size());
    for (auto [schedule, code] : llvm::zip(schedules, codes)) {
      const json::Object &found = *schedule.getAsObject();
      EXPECT_EQ(found.getString("dot"), StringRef(code.dot)) << source;
      EXPECT_EQ(found.getString("walk"), StringRef(code.walk)) << source;
      EXPECT_EQ(found.getInteger("block_q"), 64);
      EXPECT_EQ(found.getInteger("groups"), code.groups) << source;
      EXPECT_EQ(found.getInteger("block_kv"), code.blockKv) << source;
      EXPECT_EQ(found.getInteger("min_keys"), code.minKeys) << source;
      EXPECT_EQ(found.getBoolean("summaries"), code.summaries) << source;
    }
    options.gpuSchedule.groups = 7;
    auto refused = explain(*context, checked.variant(), options);
    ASSERT_FALSE(bool(refused));
    EXPECT_EQ(llvm::toString(refused.takeError()), "groups expects 1 to 4 for sm_90a, found 7");
  }
}

/// Nodes and ops are analysed apart from each other; they must agree.
TEST(Explain, DependencesAreThoseOfTheIR) {
  std::error_code error;
  unsigned stages = 0;
  for (llvm::sys::fs::directory_iterator it(HEED_SOURCE_DIR "/examples", error), end;
       it != end && !error; it.increment(error)) {
    if (llvm::sys::path::extension(it->path()) != ".heed")
      continue;
    llvm::SourceMgr sources;
    auto program = lang::checkFile(it->path(), sources);
    ASSERT_TRUE(program) << it->path();
    std::unique_ptr<mlir::MLIRContext> context = makeContext();
    auto module = emitProgram(*context, *program);
    for (const lang::Variant &variant : program->variants) {
      auto op = module->lookupSymbol<attn::VariantOp>(variant.name);
      auto compare = [&](const std::optional<lang::Function> &function, mlir::Operation *stage) {
        ASSERT_EQ(function.has_value(), stage != nullptr);
        if (!function)
          return;
        ++stages;
        EXPECT_EQ(dependencesOf(*function)[function->result->id].str(),
                  DependenceAnalysis(stage).getResult().str())
            << variant.name.str();
      };
      compare(variant.score, op.getStage<attn::ScoreOp>());
      compare(variant.mask, op.getStage<attn::MaskOp>());
    }
  }
  EXPECT_FALSE(error);
  EXPECT_GE(stages, 15u);
}

} // namespace
