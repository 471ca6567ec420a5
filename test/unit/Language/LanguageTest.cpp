//===-- LanguageTest.cpp - Tests of the language front end ------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Diagnostics are tested by test/Language; here are the lexer's and parser's
// structure, the program that the checker makes, and the values that a small
// evaluator of such programs finds.
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Format.h"
#include "heed/Language/Lexer.h"
#include "heed/Language/Numbers.h"
#include "heed/Language/Parser.h"
#include "heed/Language/Program.h"
#include "heed/Language/Stdlib.h"

#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "llvm/Support/raw_ostream.h"

#include "gtest/gtest.h"

#include <cmath>
#include <functional>

using namespace llvm;
using namespace heed::lang;

namespace {

/// A source manager that keeps what is reported.
struct Collected {
  Collected() {
    manager.setDiagHandler(
        [](const SMDiagnostic &diagnostic, void *self) {
          auto &messages = static_cast<Collected *>(self)->messages;
          messages.push_back((Twine(diagnostic.getLineNo()) + ":" +
                              Twine(diagnostic.getColumnNo() + 1) + ": " + diagnostic.getMessage())
                                 .str());
        },
        this);
  }
  SourceMgr manager;
  std::vector<std::string> messages;
};

std::unique_ptr<CheckedProgram> check(StringRef text, CheckOptions options = {}) {
  Collected collected;
  auto program = checkSource(text, "test.heed", collected.manager, options);
  for (const std::string &message : collected.messages)
    ADD_FAILURE() << message;
  return program;
}

std::string printed(StringRef text, CheckOptions options = {}) {
  auto program = check(text, options);
  std::string result;
  raw_string_ostream os(result);
  if (program)
    program->print(os);
  return result;
}

std::vector<std::string> errors(StringRef text, CheckOptions options = {}) {
  Collected collected;
  EXPECT_FALSE(checkSource(text, "test.heed", collected.manager, options));
  return collected.messages;
}

//===----------------------------------------------------------------------===//
// Evaluation
//===----------------------------------------------------------------------===//

struct Inputs {
  double score = 0;
  int64_t b = 0, h = 0, q = 0, kv = 0;
  std::function<double(unsigned, ArrayRef<int64_t>)> load;
};

constexpr int64_t sizeValues[] = {2, 8, 4, 64, 64, 16, 16};

double evaluate(const Variant &variant, const Function &function, const Inputs &in) {
  std::vector<double> values;
  for (const Node *node : function.nodes) {
    auto operand = [&](unsigned i) { return values[node->operand(i)->id]; };
    double x = node->operands.size() > 0 && node->kind != NodeKind::Load ? operand(0) : 0;
    double y = node->operands.size() > 1 && node->kind != NodeKind::Load ? operand(1) : 0;
    double v = 0;
    switch (node->kind) {
    case NodeKind::Constant:
      v = node->type == ValueType::F32 ? node->constant.real : node->constant.integer;
      break;
    case NodeKind::Coordinate: {
      double all[] = {in.score, double(in.b), double(in.h), double(in.q), double(in.kv)};
      v = all[unsigned(node->coordinate)];
      break;
    }
    case NodeKind::Extent:
      v = sizeValues[unsigned(node->size)];
      break;
    case NodeKind::Param: {
      const ScalarConstant &value = *variant.params[node->param].value;
      v = value.type == ValueType::F32 ? value.real : value.integer;
      break;
    }
    case NodeKind::Load: {
      SmallVector<int64_t> indices;
      for (unsigned i = 0; i != node->operands.size(); ++i)
        indices.push_back(operand(i));
      v = in.load(node->param, indices);
      break;
    }
    case NodeKind::Unary:
      v = node->unary == UnaryOp::Neg     ? -x
          : node->type == ValueType::Bool ? double(!x)
                                          : double(~int64_t(x));
      break;
    case NodeKind::Binary:
      switch (node->binary) {
      case BinaryOp::Add:
        v = x + y;
        break;
      case BinaryOp::Sub:
        v = x - y;
        break;
      case BinaryOp::Mul:
        v = x * y;
        break;
      case BinaryOp::Div:
        v = x / y;
        break;
      case BinaryOp::FloorDiv:
        v = y == 0 ? 0 : std::floor(x / y);
        break;
      case BinaryOp::Mod:
        v = y == 0 ? 0 : x - y * std::floor(x / y);
        break;
      case BinaryOp::Min:
        v = std::min(x, y);
        break;
      case BinaryOp::Max:
        v = std::max(x, y);
        break;
      case BinaryOp::Pow:
        v = std::pow(x, y);
        break;
      case BinaryOp::And:
        v = int64_t(x) & int64_t(y);
        break;
      case BinaryOp::Or:
        v = int64_t(x) | int64_t(y);
        break;
      case BinaryOp::Xor:
        v = int64_t(x) ^ int64_t(y);
        break;
      case BinaryOp::Shl:
        v = int64_t(x) << int64_t(y);
        break;
      case BinaryOp::Shr:
        v = int64_t(x) >> int64_t(y);
        break;
      case BinaryOp::Eq:
        v = x == y;
        break;
      case BinaryOp::Ne:
        v = x != y;
        break;
      case BinaryOp::Lt:
        v = x < y;
        break;
      case BinaryOp::Le:
        v = x <= y;
        break;
      case BinaryOp::Gt:
        v = x > y;
        break;
      case BinaryOp::Ge:
        v = x >= y;
        break;
      }
      break;
    case NodeKind::Math:
      switch (node->math) {
      case MathFn::Abs:
        v = std::fabs(x);
        break;
      case MathFn::Floor:
        v = std::floor(x);
        break;
      case MathFn::Ceil:
        v = std::ceil(x);
        break;
      case MathFn::Exp:
        v = std::exp(x);
        break;
      case MathFn::Exp2:
        v = std::exp2(x);
        break;
      case MathFn::Log:
        v = std::log(x);
        break;
      case MathFn::Log2:
        v = std::log2(x);
        break;
      case MathFn::Log1p:
        v = std::log1p(x);
        break;
      case MathFn::Tanh:
        v = std::tanh(x);
        break;
      case MathFn::Sin:
        v = std::sin(x);
        break;
      case MathFn::Cos:
        v = std::cos(x);
        break;
      case MathFn::Sqrt:
        v = std::sqrt(x);
        break;
      case MathFn::Rsqrt:
        v = 1 / std::sqrt(x);
        break;
      case MathFn::Erf:
        v = std::erf(x);
        break;
      }
      break;
    case NodeKind::Select:
      v = x ? y : values[node->operand(2)->id];
      break;
    case NodeKind::Cast:
      v = node->type == ValueType::F32 || node->operandType() != ValueType::F32 ? x : std::trunc(x);
      break;
    }
    values.push_back(v);
  }
  return values[function.result->id];
}

/// The value of an f32 expression of s, b, h, q, kv.
double scoreOf(StringRef body, const Inputs &in = {}) {
  auto program = check(("variant v { score_mod(s, b, h, q, kv) { " + body + " } }").str());
  if (!program || !program->variants[0].score)
    return NAN;
  return evaluate(program->variants[0], *program->variants[0].score, in);
}

/// Whether a mask of std.masks agrees with `expected` for all small q and kv.
void expectMask(StringRef source, std::function<bool(int64_t, int64_t)> expected,
                std::function<double(unsigned, ArrayRef<int64_t>)> load = nullptr) {
  auto program = check(("import std.masks\n" + source).str());
  ASSERT_TRUE(program);
  const Variant &variant = program->variants[0];
  for (int64_t q = 0; q != 24; ++q)
    for (int64_t kv = 0; kv != 24; ++kv) {
      Inputs in;
      in.b = 1, in.h = 2, in.q = q, in.kv = kv, in.load = load;
      EXPECT_EQ(evaluate(variant, *variant.mask, in) != 0, expected(q, kv))
          << source.str() << " at q = " << q << ", kv = " << kv;
    }
}

//===----------------------------------------------------------------------===//
// Lexer and parser
//===----------------------------------------------------------------------===//

std::vector<std::string> lex(StringRef text, std::vector<std::string> *comments = nullptr) {
  Collected collected;
  collected.manager.AddNewSourceBuffer(MemoryBuffer::getMemBuffer(text, "t"), SMLoc());
  Diagnostics diags(collected.manager);
  Lexer lexer(text, diags);
  std::vector<std::string> tokens;
  for (Token token = lexer.next(); !token.is(TokenKind::Eof); token = lexer.next())
    tokens.push_back(token.text.str());
  if (comments)
    for (const Comment &comment : lexer.getComments())
      comments->push_back(comment.text.str());
  EXPECT_FALSE(diags.hasErrors());
  return tokens;
}

using Strings = std::vector<std::string>;

TEST(Lexer, LongestTokenFirst) {
  EXPECT_EQ(lex("a<<b<=c<d->e|>f||g"),
            (Strings{"a", "<<", "b", "<=", "c", "<", "d", "->", "e", "|>", "f", "||", "g"}));
  EXPECT_EQ(lex("0..4 1.5 .5 2. 1e-3 0xFf 1..x"),
            (Strings{"0", "..", "4", "1.5", ".5", "2.", "1e-3", "0xFf", "1", "..", "x"}));
}

TEST(Lexer, SlashesDivideAfterOperandsOnly) {
  Strings comments;
  EXPECT_EQ(lex("a // b\n// c\n(a) // d { // e\n x + // f\n] // g", &comments),
            (Strings{"a", "//", "b", "(", "a", ")", "//", "d", "{", "x", "+", "]", "//", "g"}));
  EXPECT_EQ(comments, (Strings{"// c", "// e", "// f"}));
  comments.clear();
  EXPECT_EQ(lex("a # b // c", &comments), (Strings{"a"}));
  EXPECT_EQ(comments, (Strings{"# b // c"}));
}

TEST(Parser, BuildsTheTreeThatPrecedenceSays) {
  Collected collected;
  StringRef text = "fn f(a: i32) { return 1 + 2 * a & 3 == 4 && !true }";
  collected.manager.AddNewSourceBuffer(MemoryBuffer::getMemBuffer(text, "t"), SMLoc());
  Diagnostics diags(collected.manager);
  auto tree = parse(text, diags);
  ASSERT_TRUE(tree);
  ASSERT_EQ(tree->decls.size(), 1u);
  auto *stmt = cast<ast::ReturnStmt>(tree->decls[0]->body->stmts[0]);
  auto *logical = cast<ast::BinaryExpr>(stmt->value);
  EXPECT_EQ(logical->op, ast::BinarySyntax::LogicalAnd);
  EXPECT_TRUE(isa<ast::UnaryExpr>(logical->rhs));
  auto *equal = cast<ast::BinaryExpr>(logical->lhs);
  EXPECT_EQ(equal->op, ast::BinarySyntax::Equal);
  auto *bits = cast<ast::BinaryExpr>(equal->lhs);
  EXPECT_EQ(bits->op, ast::BinarySyntax::BitAnd);
  auto *sum = cast<ast::BinaryExpr>(bits->lhs);
  EXPECT_EQ(sum->op, ast::BinarySyntax::Add);
  EXPECT_EQ(cast<ast::BinaryExpr>(sum->rhs)->op, ast::BinarySyntax::Multiply);
}

//===----------------------------------------------------------------------===//
// The checked program
//===----------------------------------------------------------------------===//

TEST(Program, PrintsAsDocumented) {
  EXPECT_EQ(printed("variant v(w: index) { mask_mod(b, h, q, kv) { let d = q - kv\n"
                    "return d >= 0 && d < w } }"),
            "variant v(w: i32) {\n"
            "  mask {\n"
            "    %0 = param i32 w\n"
            "    %1 = coordinate q\n"
            "    %2 = coordinate kv\n"
            "    %3 = sub i32 %1, %2\n"
            "    %4 = constant i32 0\n"
            "    %5 = ge i32 %3, %4\n"
            "    %6 = lt i32 %3, %0\n"
            "    %7 = and bool %5, %6\n"
            "    result %7\n"
            "  }\n"
            "}\n");
}

TEST(Program, PrintsEveryKindOfNode) {
  EXPECT_EQ(printed("variant v(t: f16[B, 2, ?], c: f32 = -inf, on: bool = true) {\n"
                    "score_mod(s, b, h, q, kv) {\n"
                    "return where(on, -t[b, 1, q], s * 0.1) + ~h * Hq } }"),
            "variant v(t: f16[B, 2, ?], c: f32 = -inf, on: bool = true) {\n"
            "  score {\n"
            "    %0 = param bool on\n"
            "    %1 = coordinate score\n"
            "    %2 = coordinate b\n"
            "    %3 = coordinate h\n"
            "    %4 = coordinate q\n"
            "    %5 = constant i32 1\n"
            "    %6 = load f32 t[%2, %5, %4]\n"
            "    %7 = neg f32 %6\n"
            "    %8 = constant f32 0.100000001\n"
            "    %9 = mul f32 %1, %8\n"
            "    %10 = select f32 %0, %7, %9\n"
            "    %11 = not i32 %3\n"
            "    %12 = size Hq\n"
            "    %13 = mul i32 %11, %12\n"
            "    %14 = cast i32 to f32 %13\n"
            "    %15 = add f32 %10, %14\n"
            "    result %15\n"
            "  }\n"
            "}\n");
}

TEST(Program, DescribesParameters) {
  auto program =
      check("variant v(t: bf16[B, 3, ?, Skv], c: f32 = 1, const n: i64 = -2, x: bool) {}");
  ASSERT_TRUE(program);
  const Variant &v = *program->lookup("v");
  ASSERT_EQ(v.params.size(), 4u);
  EXPECT_EQ(v.params[0].elementType, ElementType::BF16);
  ASSERT_EQ(v.params[0].rank(), 4u);
  EXPECT_EQ(v.params[0].extents[0].size, Size::B);
  EXPECT_EQ(v.params[0].extents[1].number, 3);
  EXPECT_EQ(v.params[0].extents[2].kind, Extent::Kind::Any);
  EXPECT_EQ(v.params[1].value->real, 1.0);
  EXPECT_EQ(v.params[1].value->type, ValueType::F32);
  EXPECT_TRUE(v.params[2].isConst);
  EXPECT_EQ(v.params[2].value->integer, -2);
  EXPECT_FALSE(v.params[3].value);
  EXPECT_FALSE(v.score);
  EXPECT_FALSE(v.mask);
  EXPECT_FALSE(program->lookup("w"));
}

TEST(Program, NodesAreInOrderAndLocated) {
  auto program = check("fn f(x: f32) {\n  return x * x\n}\n"
                       "variant v { score_mod(s, b, h, q, kv) {\n  return f(s + 1) + f(s + 1) } }");
  ASSERT_TRUE(program);
  const Function &score = *program->variants[0].score;
  for (auto [i, node] : enumerate(score.nodes)) {
    EXPECT_EQ(node->id, i);
    for (const Node *operand : node->operands)
      EXPECT_LT(operand->id, i);
    if (node->kind == NodeKind::Binary && node->binary == BinaryOp::Mul) {
      EXPECT_EQ(node->loc.file, "test.heed");
      EXPECT_EQ(node->loc.line, 2u);
      EXPECT_EQ(node->loc.column, 12u);
    }
  }
  EXPECT_EQ(score.loc.line, 4u);
}

TEST(Program, LetSharesAndUnusedGoes) {
  std::string text = printed("variant v { score_mod(s, b, h, q, kv) { let unused = exp(s)\n"
                             "let x = tanh(s)\nreturn x * x } }");
  EXPECT_EQ(StringRef(text).count("tanh"), 1u);
  EXPECT_EQ(StringRef(text).count("exp"), 0u);
}

TEST(Program, EarlyReturnsOfMasksBecomeLogic) {
  std::string text = printed("variant v { mask_mod(b, h, q, kv) {\n"
                             "if q < kv { return false }\nif kv < 4 { return true }\n"
                             "return !(q - kv >= 8) } }");
  EXPECT_EQ(StringRef(text).count("select"), 0u);
  EXPECT_EQ(StringRef(text).count("not"), 0u);
  EXPECT_NE(text.find("ge i32 %0, %1"), std::string::npos) << text;
}

TEST(Program, ConstantsSpecialise) {
  StringRef source = "variant v(w: index, const causal: bool = true) { mask_mod(b, h, q, kv) {\n"
                     "if causal { if q < kv { return false } }\nreturn abs(q - kv) < w } }\n"
                     "variant u(w: index) { mask_mod(b, h, q, kv) { return q < w } }";
  EXPECT_NE(printed(source).find("ge i32"), std::string::npos);
  CheckOptions options;
  options.defines = {{"causal", "false"}, {"w", "7"}, {"u.w", "9"}};
  std::string text = printed(source, options);
  EXPECT_EQ(text.find("ge i32"), std::string::npos) << text;
  EXPECT_EQ(text.find("param"), std::string::npos) << text;
  EXPECT_NE(text.find("const w: i32 = 7"), std::string::npos) << text;
  EXPECT_NE(text.find("const w: i32 = 9"), std::string::npos) << text;
}

TEST(Program, DefinesAreChecked) {
  StringRef source = "variant v(w: index, x: f32, y: bool, t: f32[B]) {}";
  auto withDefine = [&](std::string name, std::string value) {
    CheckOptions options;
    options.defines = {{name, value}};
    return errors(source, options);
  };
  EXPECT_EQ(withDefine("z", "1"),
            (Strings{"-1:0: no variant has a scalar parameter 'z' to define"}));
  EXPECT_EQ(withDefine("u.w", "1").size(), 1u);
  EXPECT_EQ(withDefine("t", "1").size(), 1u);
  EXPECT_EQ(withDefine("w", "1.5"),
            (Strings{"1:11: '1.5', given for 'w', is not a number of type i32"}));
  EXPECT_EQ(withDefine("w", "3000000000").size(), 1u);
  EXPECT_EQ(withDefine("w", "0b1").size(), 1u);
  EXPECT_EQ(withDefine("w", "1 ").size(), 1u);
  EXPECT_EQ(withDefine("x", "1e39").size(), 1u);
  EXPECT_EQ(withDefine("x", "0x1p3").size(), 1u);
  EXPECT_EQ(withDefine("x", "1,5").size(), 1u);
  EXPECT_EQ(withDefine("x", "abc").size(), 1u);
  EXPECT_EQ(withDefine("x", "nan").size(), 1u);
  EXPECT_EQ(withDefine("x", "").size(), 1u);
  EXPECT_EQ(withDefine("y", "1"), (Strings{"1:29: '1', given for 'y', is not 'true' or 'false'"}));
}

TEST(Program, ImportsComeFromTheGivenFileSystem) {
  auto files = makeIntrusiveRefCnt<vfs::InMemoryFileSystem>();
  auto add = [&](StringRef path, StringRef text) {
    files->addFile(path, 0, MemoryBuffer::getMemBufferCopy(text, path));
  };
  // Each imports the other: every file is loaded once.
  add("/a/main.heed", "import \"lib/one.heed\"\nvariant v { mask_mod = one }");
  add("/a/lib/one.heed", "import \"../two.heed\": two\nmask one = two\nvariant not_in_program {}");
  add("/a/two.heed", "import \"lib/one.heed\"\nmask two(b, h, q, kv) { return q == kv }");
  CheckOptions options;
  options.fileSystem = files;
  Collected collected;
  auto program = checkFile("/a/main.heed", collected.manager, options);
  EXPECT_EQ(collected.messages, Strings());
  ASSERT_TRUE(program);
  ASSERT_EQ(program->variants.size(), 1u);
  EXPECT_EQ(program->variants[0].mask->result->loc.file, "/a/lib/../two.heed");
}

TEST(Program, ASourceManagerCanBeUsedAgain) {
  Collected collected;
  EXPECT_FALSE(checkSource("variant v { mask_mod = x }", "a.heed", collected.manager));
  EXPECT_TRUE(checkSource("variant v {}", "a.heed", collected.manager));
  EXPECT_EQ(collected.messages.size(), 1u);
}

//===----------------------------------------------------------------------===//
// Numbers
//===----------------------------------------------------------------------===//

TEST(Numbers, IntegersAreAsInTheLanguage) {
  EXPECT_EQ(parseInteger("010"), 10);
  EXPECT_EQ(parseInteger("-0xfF"), -255);
  EXPECT_EQ(parseInteger("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  for (StringRef text : {"9223372036854775808", "-9223372036854775809", "0b1", "0o7", "", "-",
                         "--1", "1.0", "+1", " 1", "1 "})
    EXPECT_EQ(parseInteger(text), std::nullopt) << text.str();
}

TEST(Numbers, RealsAreRoundedOnce) {
  EXPECT_EQ(parseF32("0.1"), 0.1f);
  EXPECT_EQ(parseF32("-2.75"), -2.75f);
  // Halfway between two floats if it were rounded to f64 first.
  EXPECT_EQ(parseF32("1.00000005960464477540"), 0x1.000002p0f);
  EXPECT_EQ(parseF32("1e-46"), 0.0f);
  EXPECT_EQ(parseF32("1e400"), HUGE_VALF);
  EXPECT_EQ(parseF32("-inf"), -HUGE_VALF);
  for (StringRef text : {"", "-", "nan", "1,5", "0x1p3", "1e", ".", "1 ", "infinity", "--1"})
    EXPECT_EQ(parseF32(text), std::nullopt) << text.str();
}

TEST(Numbers, TextIsReadBack) {
  EXPECT_EQ(formatF32(0.1f), "0.100000001");
  EXPECT_EQ(formatF32(-1e10f), "-1e+10");
  EXPECT_EQ(formatF32(3), "3");
  EXPECT_EQ(formatF32(-HUGE_VALF), "-inf");
  EXPECT_EQ(formatF32(NAN), "nan");
  for (float x : {1.0f / 3, 1e-45f, 3.4028235e38f, 16777217.0f})
    EXPECT_EQ(parseF32(formatF32(x)), x);
}

//===----------------------------------------------------------------------===//
// Meaning
//===----------------------------------------------------------------------===//

TEST(Meaning, ConstantArithmetic) {
  EXPECT_EQ(scoreOf("-7 // 2"), -4);
  EXPECT_EQ(scoreOf("-7 % 3"), 2);
  EXPECT_EQ(scoreOf("7 % -3"), -2);
  EXPECT_EQ(scoreOf("7 // 0 + 7 % 0"), 0);
  EXPECT_EQ(scoreOf("-2147483648 // -1"), -2147483648.0);
  EXPECT_EQ(scoreOf("2147483647 + 1"), -2147483648.0);
  EXPECT_EQ(scoreOf("2147483648 + 1"), 2147483648.0); // i64, then to f32
  EXPECT_EQ(scoreOf("i32(4294967297)"), 1);
  EXPECT_EQ(scoreOf("i32(1e30) + i32(-inf) + i32(inf - inf)"), -1);
  EXPECT_EQ(scoreOf("1 / 4"), 0.25);
  EXPECT_EQ(scoreOf("5 & 3 | 8 ^ 1"), (5 & 3) | (8 ^ 1));
  EXPECT_EQ(scoreOf("-8 >> 1 << 3"), -32);
  EXPECT_EQ(scoreOf("~5"), -6);
  EXPECT_EQ(scoreOf("abs(-2147483647 - 1)"), -2147483648.0);
  EXPECT_EQ(scoreOf("where(true && !false || false, 1, 2)"), 1);
  EXPECT_EQ(scoreOf("f32(3 > 2) + i32(bool(0.5)) + floor(-0.5) + ceil(0.5)"), 2);
  EXPECT_EQ(scoreOf("min(3, 1, 2) * 100 + max(3, 1.5) * 10 + clamp(7, 0, 5)"), 135);
}

TEST(Meaning, RunTimeArithmetic) {
  Inputs in;
  in.score = 0.5, in.h = 3, in.q = 9, in.kv = 20;
  EXPECT_EQ(scoreOf("(q - kv) // 4", in), -3);
  EXPECT_EQ(scoreOf("(q - kv) % 4", in), 1);
  EXPECT_EQ(scoreOf("h // (Hq // Hkv)", in), 1);
  EXPECT_NEAR(scoreOf("sigmoid(s) + silu(s)", in), 1.5 / (1 + std::exp(-0.5)), 1e-6);
  EXPECT_NEAR(scoreOf("gelu(s)", in), 0.25 * (1 + std::erf(0.5 * std::sqrt(0.5))), 1e-6);
  EXPECT_EQ(scoreOf("relu(s - 1) + relu(q - kv) + square(q)", in), 81);
  EXPECT_EQ(scoreOf("1 << (q + 24)", in), 2); // 33 counts modulo 32
}

TEST(Meaning, ControlFlow) {
  for (int64_t q = 0; q != 6; ++q) {
    Inputs in;
    in.q = q, in.score = 1;
    // Three ways to write the same.
    double expected = q > 3 ? 10 : q > 1 ? 20 + q : 30;
    EXPECT_EQ(scoreOf("if q > 3 { 10 } else if q > 1 { 20 + q } else { 30 }", in), expected);
    EXPECT_EQ(scoreOf("if q > 3 { return 10.0 }\nlet x = 20\nif q > 1 { return x + q }\n"
                      "return 30",
                      in),
              expected);
    EXPECT_EQ(
        scoreOf("let mut x = 30\nif q > 3 { x = 10 } else { if q > 1 { x = 20; x = x + q } }\n"
                "return x",
                in),
        expected);
    // An arm that falls through, with names that the statements after it reuse.
    EXPECT_EQ(scoreOf("let mut m = 1\n"
                      "if q > 1 {\n  let a = 20\n  m = 2\n"
                      "  if q <= 3 { m = m + 1; let z = a } else { let y = a; return y - 10 }\n"
                      "  m = m - 3\n} else {\n  let a = 30; m = a; return m }\n"
                      "let a = m + 20; let y = q\n"
                      "return a + y",
                      in),
              expected);
  }
  EXPECT_EQ(scoreOf("let mut x = 0\nfor i in 0..5 { for j in i..5 { x = x + 1 } }\nreturn x"), 15);
  EXPECT_EQ(scoreOf("let mut x = 0\nfor i in 3..3 { x = 1 }\nreturn x"), 0);
}

/// What a constant leaves out has a part in the type.
TEST(Meaning, ConstantConditions) {
  Inputs in;
  in.q = 2;
  for (StringRef condition : {"true", "q == 2"}) {
    std::string c = condition.str();
    EXPECT_EQ(scoreOf("let x = if " + c + " { q } else { 0.5 }\nreturn x * 2000000000", in), 4e9);
    EXPECT_EQ(scoreOf("let x = if !(" + c + ") { 0.5 } else { q }\nreturn x * 2000000000", in),
              4e9);
    EXPECT_EQ(scoreOf("let x = if " + c + " { q } else { 4294967296 }\nreturn x * 2000000000", in),
              4e9);
    EXPECT_EQ(scoreOf("let mut x = if " + c + " { q } else { 0.5 }\nx = x + 0.25\nreturn x", in),
              2.25);
  }
  EXPECT_EQ(scoreOf("let mut x = 1\nlet y = if true { x = 2; 3 } else { x = 7; x = 8; 4.5 }\n"
                    "return x * 10 + y"),
            23);
  EXPECT_EQ(scoreOf("let n = if false { 2.5 } else { 3 }\nlet mut x = 0\n"
                    "for i in 0..(if true { 3 } else { 4 }) { x = x + 1 }\nreturn x + n"),
            6);
  auto program = check("fn f(const n: index, x: index) { if n == 0 { return x }\n return 0.5 }\n"
                       "fn g(const n: index, x: index) {\n"
                       "if n == 0 { let y = x; return y } else { return 0.5 } }\n"
                       "variant v(t: i32[?, 2]) { score_mod(s, b, h, q, kv) {\n"
                       "let v = if true { 1 } else { t[q] }\n"
                       "let w = true || (t[q] > 0)\n"
                       "return f(0, q) * 2000000000 + g(0, q) * 2000000000 + v[1] + f32(w[0])\n"
                       "+ where(any((1 == 2) && (t[q] > 0)), 1000, 0) } }");
  ASSERT_TRUE(program);
  EXPECT_EQ(evaluate(program->variants[0], *program->variants[0].score, in), 8e9 + 2);
}

TEST(Meaning, Vectors) {
  auto program =
      check("variant v(t: f32[?, 4]) { score_mod(s, b, h, q, kv) {\n"
            "let row = t[q] * 2\n"
            "return dot(row, t[kv]) + 1000 * where(any(row > 7) && !all(row > 7), 1, 0)\n"
            "    + 10000 * row[3] + sum(where(row > 2, row, 0)) } }");
  ASSERT_TRUE(program);
  Inputs in;
  in.q = 1, in.kv = 2;
  in.load = [](unsigned param, ArrayRef<int64_t> i) { return i[0] * (i[1] + 1); };
  // Row 1: 2 4 6 8 (doubled); row 2: 2 4 6 8.
  EXPECT_EQ(evaluate(program->variants[0], *program->variants[0].score, in),
            4 + 16 + 36 + 64 + 1000 + 80000 + 18);
}

TEST(Meaning, PipesGoFromLeftToRight) {
  auto program =
      check("score plus(x: f32)(s, b, h, q, kv) { return s + x }\n"
            "score times(x: f32)(s, b, h, q, kv) { return s * x }\n"
            "variant v { score_mod = plus(1.0) |> times(10.0) |> plus(q_is_not_here()) }\n"
            "fn q_is_not_here() { return 5 }");
  ASSERT_TRUE(program);
  Inputs in;
  in.score = 2;
  EXPECT_EQ(evaluate(program->variants[0], *program->variants[0].score, in), 35);
}

TEST(Stdlib, EveryModuleIsValidAndFormatted) {
  EXPECT_GE(standardModules().size(), 2u);
  for (const StandardModule &module : standardModules()) {
    SCOPED_TRACE(module.name.str());
    EXPECT_TRUE(check(module.text));
    Collected collected;
    auto formatted = formatProgram(module.text, module.name, collected.manager);
    ASSERT_TRUE(formatted);
    EXPECT_EQ(*formatted, module.text.str());
  }
}

TEST(Stdlib, Masks) {
  auto variant = [](const char *mask) {
    return std::string("variant v(t: i32[B, Sq], n: i32[B], g: bool[B, Sq]) { mask_mod = ") + mask +
           " }";
  };
  auto doc = [](unsigned, ArrayRef<int64_t> i) -> double { return i.back() / 5 % 3; };
  expectMask(variant("causal"), [](int64_t q, int64_t k) { return q >= k; });
  expectMask(variant("window(3)"), [](int64_t q, int64_t k) { return std::abs(q - k) < 3; });
  expectMask(variant("sliding_window(3)"),
             [](int64_t q, int64_t k) { return q >= k && q - k < 3; });
  expectMask(variant("causal & window(3)"),
             [](int64_t q, int64_t k) { return q >= k && q - k < 3; });
  expectMask(variant("local(2, -1)"), [](int64_t q, int64_t k) { return q - k <= 2; });
  expectMask(variant("dilated_window(6, 3)"),
             [](int64_t q, int64_t k) { return std::abs(q - k) <= 6 && std::abs(q - k) % 3 == 0; });
  expectMask(variant("prefix_lm(5)"), [](int64_t q, int64_t k) { return q >= k || k < 5; });
  expectMask(variant("!prefix(5)"), [](int64_t q, int64_t k) { return k >= 5; });
  expectMask(variant("chunked(7)"), [](int64_t q, int64_t k) { return q / 7 == k / 7; });
  expectMask(variant("checkerboard"), [](int64_t q, int64_t k) { return (q + k) % 2 == 0; });
  expectMask(
      variant("causal_document(t)"),
      [](int64_t q, int64_t k) { return q >= k && q / 5 % 3 == k / 5 % 3; }, doc);
  expectMask(
      variant("transfusion(t)"),
      [](int64_t q, int64_t k) { return q >= k || (q / 5 % 3 > 0 && q / 5 % 3 == k / 5 % 3); },
      doc);
  expectMask(
      variant("padding(n)"), [](int64_t q, int64_t k) { return k < 9; },
      [](unsigned, ArrayRef<int64_t> i) { return i[0] == 1 ? 9.0 : 0.0; });
  expectMask(
      variant("global_tokens(g)"), [](int64_t q, int64_t k) { return q % 4 == 0 || k % 4 == 0; },
      [](unsigned, ArrayRef<int64_t> i) { return double(i[1] % 4 == 0); });
  // Gym's M14 with W = 6, H = 4, windows of 3 x 3; an even number counts as the next odd one.
  for (const char *mask : {"neighbourhood_2d(6, 4, 3, 3)", "neighbourhood_2d(6, 4, 2, 2)"})
    expectMask(variant(mask), [](int64_t q, int64_t k) {
      auto clamp = [](int64_t x, int64_t lo, int64_t hi) { return std::min(std::max(x, lo), hi); };
      return std::abs(clamp(q % 6, 1, 4) - k % 6) <= 1 && std::abs(clamp(q / 6, 1, 2) - k / 6) <= 1;
    });
  // Gym's M11 with S = 12, L = 4.
  expectMask(variant("block_diffusion(12, 4)"), [](int64_t q, int64_t k) {
    int64_t qb = q % 12 / 4, kb = k % 12 / 4;
    bool qn = q < 12, kn = k < 12;
    return (qb == kb && qn == kn) || (qb > kb && qn && !kn) || (qb >= kb && !qn && !kn);
  });
}

TEST(Stdlib, T5Buckets) {
  auto program = check("import std.scores\n"
                       "variant v(t: f32[Hq, 32]) { score_mod = t5_bias_causal(t) }\n"
                       "variant w(t: f32[Hq, 32]) { score_mod = t5_bias(t) }");
  ASSERT_TRUE(program);
  auto bucket = [](int64_t d, int64_t buckets) {
    int64_t exact = buckets / 2;
    if (d < exact)
      return d;
    int64_t large =
        exact + int64_t(std::log(double(d) / exact) / std::log(128.0 / exact) * (buckets - exact));
    return std::min(large, buckets - 1);
  };
  for (int64_t q : {0, 3, 17, 60, 200})
    for (int64_t kv : {0, 5, 16, 61, 100, 199}) {
      Inputs in;
      in.q = q, in.kv = kv;
      in.load = [](unsigned, ArrayRef<int64_t> i) { return double(i[1]); };
      EXPECT_EQ(evaluate(program->variants[0], *program->variants[0].score, in),
                bucket(std::max<int64_t>(q - kv, 0), 32));
      EXPECT_EQ(evaluate(program->variants[1], *program->variants[1].score, in),
                bucket(std::abs(q - kv), 16) + (kv > q ? 16 : 0));
    }
}

} // namespace
