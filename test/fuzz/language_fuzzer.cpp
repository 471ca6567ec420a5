//===-- language_fuzzer.cpp - Any bytes through the front end ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Whatever the bytes are, checking ends, does not crash, and makes a well-formed
// program or reports an error. Formatting is stable and does not change what a
// program means.
//
// Built by -DHEED_FUZZERS=ON; with libFuzzer:
//   language_fuzzer -dict=test/fuzz/heed.dict -max_len=4096 corpus examples
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Format.h"
#include "heed/Language/Program.h"

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/raw_ostream.h"

#include <cstdio>
#include <cstdlib>

using namespace llvm;
using namespace heed::lang;

static void require(bool condition, const char *what) {
  if (condition)
    return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

static void verify(const Function &function, const Variant &variant, ValueType result) {
  require(function.result && function.result->type == result, "the result has its type");
  for (size_t i = 0; i != function.nodes.size(); ++i) {
    const Node &node = *function.nodes[i];
    require(node.id == i, "ids count");
    for (const Node *operand : node.operands)
      require(operand->id < i && function.nodes[operand->id] == operand, "operands come first");
    switch (node.kind) {
    case NodeKind::Param:
      require(node.param < variant.params.size() && !variant.params[node.param].isTensor() &&
                  !variant.params[node.param].isConst &&
                  valueTypeOf(variant.params[node.param].elementType) == node.type,
              "a parameter is one");
      break;
    case NodeKind::Load:
      require(node.param < variant.params.size() &&
                  variant.params[node.param].rank() == node.operands.size() &&
                  valueTypeOf(variant.params[node.param].elementType) == node.type,
              "a load fits its tensor");
      for (const Node *index : node.operands)
        require(index->type == ValueType::I32 || index->type == ValueType::I64, "index type");
      break;
    case NodeKind::Binary:
      require(node.operand(0)->type == node.operand(1)->type, "binary operands agree");
      require(node.type == (isComparison(node.binary) ? ValueType::Bool : node.operandType()),
              "binary result");
      require(node.binary != BinaryOp::Div || node.type == ValueType::F32, "division is f32");
      break;
    case NodeKind::Unary:
      require(node.type == node.operandType(), "unary result");
      break;
    case NodeKind::Math:
      require(node.type == node.operandType(), "math result");
      require(node.type == ValueType::F32 ||
                  (node.math == MathFn::Abs && node.type != ValueType::Bool),
              "math is f32");
      break;
    case NodeKind::Select:
      require(node.operand(0)->type == ValueType::Bool && node.operand(1)->type == node.type &&
                  node.operand(2)->type == node.type,
              "select types");
      break;
    case NodeKind::Cast:
      require(node.type != ValueType::Bool && node.type != node.operandType(), "cast types");
      break;
    case NodeKind::Constant:
      require(node.constant.type == node.type, "constant type");
      require(node.type != ValueType::I32 ||
                  node.constant.integer == int32_t(node.constant.integer),
              "i32 constants fit");
      break;
    case NodeKind::Coordinate:
    case NodeKind::Extent:
      break;
    }
  }
}

/// Checks the text and returns the printed program; false if there are errors.
static bool check(StringRef text, std::string &printed) {
  auto files = makeIntrusiveRefCnt<vfs::InMemoryFileSystem>();
  files->addFile("/fuzz.heed", 0, MemoryBuffer::getMemBufferCopy(text));
  files->addFile(
      "/lib.heed", 0,
      MemoryBuffer::getMemBuffer("import \"fuzz.heed\"\n"
                                 "fn f(x: f32) { return x }\n"
                                 "mask m(w: index = 3)(b, h, q, kv) { return q < w }\n"));
  CheckOptions options;
  options.fileSystem = files;
  options.fileSystem->setCurrentWorkingDirectory("/");
  SourceMgr sourceMgr;
  unsigned reported = 0;
  sourceMgr.setDiagHandler(
      [](const SMDiagnostic &diagnostic, void *reported) {
        // Notes come with errors; printing must not fail either.
        diagnostic.print("", nulls(), /*ShowColors=*/false);
        ++*static_cast<unsigned *>(reported);
      },
      &reported);
  auto program = checkFile("/fuzz.heed", sourceMgr, options);
  require(bool(program) == (reported == 0), "null means reported");
  if (!program)
    return false;
  for (const Variant &variant : program->variants) {
    if (variant.score)
      verify(*variant.score, variant, ValueType::F32);
    if (variant.mask)
      verify(*variant.mask, variant, ValueType::Bool);
  }
  raw_string_ostream os(printed);
  program->print(os);
  return true;
}

static bool format(StringRef text, std::string &formatted) {
  SourceMgr sourceMgr;
  sourceMgr.setDiagHandler([](const SMDiagnostic &, void *) {}, nullptr);
  auto result = formatProgram(text, "/fuzz.heed", sourceMgr);
  if (result)
    formatted = *result;
  return result.has_value();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  StringRef text(reinterpret_cast<const char *>(data), size);
  std::string printed, once, twice, again;
  bool valid = check(text, printed);
  if (!format(text, once)) {
    require(!valid, "what is valid can be formatted");
    return 0;
  }
  require(format(once, twice), "formatted text parses");
  require(once == twice, "formatting is stable");
  require(check(once, again) == valid && printed == again, "formatting keeps the meaning");
  return 0;
}
