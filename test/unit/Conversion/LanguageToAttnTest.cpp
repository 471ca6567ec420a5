//===-- LanguageToAttnTest.cpp - Checked programs to attn variants --------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The property: for random expression DAGs and random inputs, the interpreter on the emitted IR
// gives what the DAG's definition in Program.h gives. The second is written down once more here, in
// plain C++.
//
//===----------------------------------------------------------------------===//

#include "heed/Conversion/LanguageToAttn.h"
#include "heed/Interpreter/Interpreter.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "llvm/ADT/bit.h"
#include "llvm/Support/SourceMgr.h"
#include "gtest/gtest.h"

#include <cmath>
#include <deque>
#include <limits>
#include <random>

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;
using lang::BinaryOp;
using lang::ElementType;
using lang::MathFn;
using lang::Node;
using lang::NodeKind;
using lang::UnaryOp;
using lang::ValueType;

namespace {

//===----------------------------------------------------------------------===//
// The definition of a node
//===----------------------------------------------------------------------===//

int64_t wrapTo(ValueType type, uint64_t value) {
  return type == ValueType::I32 ? int64_t(int32_t(uint32_t(value))) : int64_t(value);
}

int64_t pythonFloorDiv(ValueType type, int64_t a, int64_t b) {
  if (b == 0)
    return 0;
  __int128 quotient = __int128(a) / b;
  if (quotient * b != a && (a < 0) != (b < 0))
    --quotient;
  return wrapTo(type, uint64_t(quotient));
}

int64_t pythonMod(int64_t a, int64_t b) {
  if (b == 0)
    return 0;
  __int128 remainder = __int128(a) % b;
  return int64_t(remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder);
}

int64_t saturate(ValueType type, double value) {
  if (std::isnan(value))
    return 0;
  double bound = type == ValueType::I32 ? 0x1p31 : 0x1p63;
  int64_t max = type == ValueType::I32 ? INT32_MAX : INT64_MAX;
  if (value >= bound)
    return max;
  return value < -bound ? -max - 1 : int64_t(value);
}

template <typename T>
bool compare(BinaryOp op, T a, T b) {
  switch (op) {
  case BinaryOp::Eq:
    return a == b;
  case BinaryOp::Ne:
    return a != b;
  case BinaryOp::Lt:
    return a < b;
  case BinaryOp::Le:
    return a <= b;
  case BinaryOp::Gt:
    return a > b;
  default:
    return a >= b;
  }
}

double evaluateFloat(BinaryOp op, double a, double b) {
  switch (op) {
  case BinaryOp::Add:
    return a + b;
  case BinaryOp::Sub:
    return a - b;
  case BinaryOp::Mul:
    return a * b;
  case BinaryOp::Div:
    return a / b;
  case BinaryOp::FloorDiv:
    return std::floor(a / b);
  case BinaryOp::Mod:
    return a - b * std::floor(a / b);
  case BinaryOp::Min:
    return std::isnan(a) || std::isnan(b) ? std::nan("") : std::fmin(a, b);
  case BinaryOp::Max:
    return std::isnan(a) || std::isnan(b) ? std::nan("") : std::fmax(a, b);
  default:
    return std::pow(a, b);
  }
}

int64_t evaluateInt(BinaryOp op, ValueType type, int64_t a, int64_t b) {
  switch (op) {
  case BinaryOp::Add:
    return wrapTo(type, uint64_t(a) + uint64_t(b));
  case BinaryOp::Sub:
    return wrapTo(type, uint64_t(a) - uint64_t(b));
  case BinaryOp::Mul:
    return wrapTo(type, uint64_t(a) * uint64_t(b));
  case BinaryOp::FloorDiv:
    return pythonFloorDiv(type, a, b);
  case BinaryOp::Mod:
    return pythonMod(a, b);
  case BinaryOp::Min:
    return std::min(a, b);
  case BinaryOp::Max:
    return std::max(a, b);
  case BinaryOp::And:
    return a & b;
  case BinaryOp::Or:
    return a | b;
  case BinaryOp::Xor:
    return a ^ b;
  case BinaryOp::Shl:
    return wrapTo(type, uint64_t(a) << b);
  default:
    return a >> b;
  }
}

double evaluateMath(MathFn fn, double x) {
  switch (fn) {
  case MathFn::Abs:
    return std::fabs(x);
  case MathFn::Floor:
    return std::floor(x);
  case MathFn::Ceil:
    return std::ceil(x);
  case MathFn::Exp:
    return std::exp(x);
  case MathFn::Exp2:
    return std::exp2(x);
  case MathFn::Log:
    return std::log(x);
  case MathFn::Log2:
    return std::log2(x);
  case MathFn::Log1p:
    return std::log1p(x);
  case MathFn::Tanh:
    return std::tanh(x);
  case MathFn::Sin:
    return std::sin(x);
  case MathFn::Cos:
    return std::cos(x);
  case MathFn::Sqrt:
    return std::sqrt(x);
  case MathFn::Rsqrt:
    return 1 / std::sqrt(x);
  case MathFn::Erf:
    return std::erf(x);
  }
  return 0;
}

/// The arguments of a stage and the captures by parameter number.
struct Inputs {
  double score;
  int64_t coordinates[4];
  int64_t sizes[7];
  std::vector<HostValue> params;
};

Scalar evaluateNode(const Node &node, ArrayRef<Scalar> values, const Inputs &inputs) {
  auto operand = [&](unsigned i) { return values[node.operand(i)->id]; };
  switch (node.kind) {
  case NodeKind::Constant:
    return node.type == ValueType::F32 ? Scalar(node.constant.real) : Scalar(node.constant.integer);
  case NodeKind::Coordinate:
    return node.coordinate == lang::Coordinate::Score
               ? Scalar(inputs.score)
               : Scalar(inputs.coordinates[unsigned(node.coordinate) - 1]);
  case NodeKind::Extent:
    return inputs.sizes[unsigned(node.size)];
  case NodeKind::Param:
    if (auto *real = std::get_if<double>(&inputs.params[node.param]))
      return *real;
    return std::get<int64_t>(inputs.params[node.param]);
  case NodeKind::Load: {
    const auto &tensor = std::get<HostTensor>(inputs.params[node.param]);
    SmallVector<int64_t> indices;
    for (unsigned i = 0; i < node.operands.size(); ++i)
      indices.push_back(operand(i).i);
    int64_t offset = tensor.offsetOf(indices);
    if (node.type == ValueType::F32)
      return offset < 0 ? 0.0 : tensor.readDouble(offset);
    return offset < 0 ? int64_t(0) : tensor.readInt(offset);
  }
  case NodeKind::Unary:
    if (node.unary == UnaryOp::Neg)
      return node.type == ValueType::F32 ? Scalar(-operand(0).f)
                                         : Scalar(wrapTo(node.type, 0 - uint64_t(operand(0).i)));
    return node.type == ValueType::Bool ? Scalar(!operand(0).i) : Scalar(~operand(0).i);
  case NodeKind::Binary: {
    bool isFloat = node.operandType() == ValueType::F32;
    if (lang::isComparison(node.binary))
      return isFloat ? compare(node.binary, operand(0).f, operand(1).f)
                     : compare(node.binary, operand(0).i, operand(1).i);
    return isFloat ? Scalar(evaluateFloat(node.binary, operand(0).f, operand(1).f))
                   : Scalar(evaluateInt(node.binary, node.type, operand(0).i, operand(1).i));
  }
  case NodeKind::Math:
    if (node.type == ValueType::F32)
      return evaluateMath(node.math, operand(0).f);
    return operand(0).i < 0 ? wrapTo(node.type, 0 - uint64_t(operand(0).i)) : operand(0).i;
  case NodeKind::Select:
    return operand(0).i ? operand(1) : operand(2);
  case NodeKind::Cast:
    if (node.type == ValueType::F32)
      return double(operand(0).i);
    if (node.operandType() == ValueType::F32)
      return saturate(node.type, operand(0).f);
    return wrapTo(node.type, operand(0).i);
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Random DAGs
//===----------------------------------------------------------------------===//

class RandomVariant {
public:
  explicit RandomVariant(unsigned seed) : generator(seed) {
    variant.name = "random";
    addParam("skipped", ElementType::I32, {}).isConst = true;
    addParam("window", ElementType::I32, {});
    addParam("offset", ElementType::I64, {});
    addParam("cap", ElementType::F32, {});
    addParam("flag", ElementType::Bool, {});
    addParam("slope", ElementType::F32, {symbol(lang::Size::Hq)});
    addParam("doc", ElementType::I32, {symbol(lang::Size::B), symbol(lang::Size::Sq)});
    addParam("small", ElementType::I8, {lang::Extent(), number(4)});
    addParam("keep", ElementType::Bool, {lang::Extent()});
    addParam("bias", ElementType::BF16, {lang::Extent()});
    addParam("wide", ElementType::I64, {lang::Extent()});
    variant.score.emplace();
    makeStage(*variant.score, ValueType::F32, /*hasScore=*/true);
    variant.mask.emplace();
    makeStage(*variant.mask, ValueType::Bool, /*hasScore=*/false);
  }

  lang::Variant variant;

  Inputs makeInputs() {
    Inputs inputs;
    inputs.score = real();
    for (int64_t &coordinate : inputs.coordinates)
      coordinate = pick(9) - 1;
    for (int64_t &size : inputs.sizes)
      size = 1 + pick(8);
    for (float &number : floats)
      number = real();
    for (uint16_t &number : halves)
      number = pick(65536);
    for (auto &number : wides)
      number = integer(ValueType::I64);
    for (auto &number : ints)
      number = integer(ValueType::I32);
    for (auto &number : bytes)
      number = pick(256) - 128;
    for (auto &flag : flags)
      flag = pick(2);
    inputs.params = {int64_t(0),
                     integer(ValueType::I32),
                     integer(ValueType::I64),
                     real(),
                     int64_t(pick(2)),
                     HostTensor(floats, DType::F32, {6}),
                     HostTensor(ints, DType::I32, {2, 3}),
                     HostTensor(bytes, DType::I8, {2, 4}),
                     HostTensor(flags, DType::Bool, {5}),
                     HostTensor(halves, DType::BF16, {5}),
                     HostTensor(wides, DType::I64, {5})};
    return inputs;
  }

private:
  static lang::Extent symbol(lang::Size size) { return {lang::Extent::Kind::Symbol, 0, size}; }
  static lang::Extent number(int64_t value) {
    return {lang::Extent::Kind::Number, value, lang::Size::B};
  }

  lang::Parameter &addParam(StringRef name, ElementType type, std::vector<lang::Extent> extents) {
    extentLists.push_back(std::move(extents));
    lang::Parameter param;
    param.name = name;
    param.elementType = type;
    param.extents = extentLists.back();
    variant.params.push_back(param);
    return variant.params.back();
  }

  int pick(int count) { return std::uniform_int_distribution<int>(0, count - 1)(generator); }

  int64_t integer(ValueType type) {
    static constexpr int64_t edges[] = {
        0, 1, -1, 2, 7, -7, 31, 64, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1ll << 32};
    int64_t value = pick(2) ? edges[pick(std::size(edges))] : int64_t(pick(20)) - 10;
    return wrapTo(type, value);
  }

  double real() {
    static constexpr double edges[] = {0.0,
                                       -0.0,
                                       1.0,
                                       -1.0,
                                       0.5,
                                       2.0,
                                       0x1p31,
                                       -0x1p31,
                                       0x1p63,
                                       0x1p-30,
                                       0x1p99,
                                       -0x1p99,
                                       std::numeric_limits<double>::infinity()};
    if (pick(3) == 0)
      return edges[pick(std::size(edges))];
    return float(std::normal_distribution<double>(0, 5)(generator));
  }

  Node &addNode(lang::Function &function, NodeKind kind, ValueType type,
                std::vector<const Node *> operands = {}) {
    operandLists.push_back(std::move(operands));
    Node &node = nodes.emplace_back();
    node.kind = kind;
    node.type = type;
    node.operands = operandLists.back();
    node.id = function.nodes.size();
    node.loc = {"random.heed", node.id + 1, 1};
    function.nodes.push_back(&node);
    byType[unsigned(type)].push_back(&node);
    return node;
  }

  const Node *any(ValueType type) {
    auto &candidates = byType[unsigned(type)];
    // Late nodes more often, so that DAGs get deep.
    int count = candidates.size(), recent = std::min(count, 5);
    return pick(2) ? candidates[count - 1 - pick(recent)] : candidates[pick(count)];
  }

  Node &addConstant(lang::Function &function, ValueType type, int64_t integer, double real = 0) {
    Node &node = addNode(function, NodeKind::Constant, type);
    node.constant = {type, integer, real};
    return node;
  }

  void makeStage(lang::Function &function, ValueType resultType, bool hasScore) {
    for (auto &candidates : byType)
      candidates.clear();
    for (auto coordinate : {lang::Coordinate::Score, lang::Coordinate::B, lang::Coordinate::H,
                            lang::Coordinate::Q, lang::Coordinate::KV}) {
      bool isScore = coordinate == lang::Coordinate::Score;
      if (isScore && !hasScore)
        continue;
      addNode(function, NodeKind::Coordinate, isScore ? ValueType::F32 : ValueType::I32)
          .coordinate = coordinate;
    }
    for (unsigned param = 1; param < 5; ++param)
      addNode(function, NodeKind::Param, lang::valueTypeOf(variant.params[param].elementType))
          .param = param;
    for (unsigned i = 0; i < 60; ++i)
      addRandomNode(function);
    function.result = byType[unsigned(resultType)].back();
  }

  void addRandomNode(lang::Function &function) {
    static constexpr ValueType kTypes[] = {ValueType::Bool, ValueType::I32, ValueType::I64,
                                           ValueType::F32};
    ValueType type = kTypes[pick(4)];
    bool isBool = type == ValueType::Bool, isFloat = type == ValueType::F32;
    bool isInt = !isBool && !isFloat;
    switch (pick(8)) {
    case 0:
      addConstant(function, type,
                  isBool    ? pick(2)
                  : isFloat ? 0
                            : integer(type),
                  isFloat ? real() : 0);
      return;
    case 1:
      addNode(function, NodeKind::Extent, ValueType::I32).size = lang::Size(pick(7));
      return;
    case 2: {
      unsigned param = 5 + pick(6);
      std::vector<const Node *> indices;
      for (unsigned axis = 0; axis < variant.params[param].rank(); ++axis)
        indices.push_back(any(pick(4) ? ValueType::I32 : ValueType::I64));
      addNode(function, NodeKind::Load, lang::valueTypeOf(variant.params[param].elementType),
              indices)
          .param = param;
      return;
    }
    case 3:
      addNode(function, NodeKind::Unary, type, {any(type)}).unary = isFloat  ? UnaryOp::Neg
                                                                    : isBool ? UnaryOp::Not
                                                                             : UnaryOp(pick(2));
      return;
    case 4: {
      addNode(function, NodeKind::Select, type, {any(ValueType::Bool), any(type), any(type)});
      return;
    }
    case 5:
      if (isFloat)
        addNode(function, NodeKind::Math, type, {any(type)}).math =
            MathFn(pick(unsigned(MathFn::Erf) + 1));
      else if (isInt)
        addNode(function, NodeKind::Math, type, {any(type)}).math = MathFn::Abs;
      return;
    case 6: {
      ValueType from = kTypes[pick(4)];
      if (!isBool && from != type)
        addNode(function, NodeKind::Cast, type, {any(from)});
      return;
    }
    case 7: {
      if (pick(3) == 0) {
        ValueType operands = kTypes[pick(4)];
        addNode(function, NodeKind::Binary, ValueType::Bool, {any(operands), any(operands)})
            .binary = operands == ValueType::Bool ? BinaryOp(unsigned(BinaryOp::Eq) + pick(2))
                                                  : BinaryOp(unsigned(BinaryOp::Eq) + pick(6));
        return;
      }
      static constexpr BinaryOp ofFloat[] = {BinaryOp::Add, BinaryOp::Sub,      BinaryOp::Mul,
                                             BinaryOp::Div, BinaryOp::FloorDiv, BinaryOp::Mod,
                                             BinaryOp::Min, BinaryOp::Max,      BinaryOp::Pow};
      static constexpr BinaryOp ofInt[] = {BinaryOp::Add,      BinaryOp::Sub, BinaryOp::Mul,
                                           BinaryOp::FloorDiv, BinaryOp::Mod, BinaryOp::Min,
                                           BinaryOp::Max,      BinaryOp::And, BinaryOp::Or,
                                           BinaryOp::Xor,      BinaryOp::Shl, BinaryOp::Shr};
      static constexpr BinaryOp ofBool[] = {BinaryOp::And, BinaryOp::Or, BinaryOp::Xor};
      BinaryOp op = isFloat  ? ofFloat[pick(std::size(ofFloat))]
                    : isBool ? ofBool[pick(std::size(ofBool))]
                             : ofInt[pick(std::size(ofInt))];
      const Node *rhs = any(type);
      if (op == BinaryOp::Shl || op == BinaryOp::Shr) {
        Node &bits = addConstant(function, type, type == ValueType::I32 ? 31 : 63);
        Node &amount = addNode(function, NodeKind::Binary, type, {rhs, &bits});
        amount.binary = BinaryOp::And;
        rhs = &amount;
      }
      addNode(function, NodeKind::Binary, type, {any(type), rhs}).binary = op;
      return;
    }
    }
  }

  std::mt19937 generator;
  std::deque<Node> nodes;
  std::deque<std::vector<const Node *>> operandLists;
  std::deque<std::vector<lang::Extent>> extentLists;
  std::vector<const Node *> byType[4];
  float floats[6];
  uint16_t halves[5];
  int64_t wides[5];
  int32_t ints[6];
  int8_t bytes[8];
  uint8_t flags[5];
};

Scalar evaluateFunction(const lang::Function &function, const Inputs &inputs) {
  std::vector<Scalar> values;
  for (const Node *node : function.nodes)
    values.push_back(evaluateNode(*node, values, inputs));
  return values[function.result->id];
}

bool isSame(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

/// Names the first node of the score on whose value the two evaluations differ, by making each the
/// result in turn.
std::string firstDifference(lang::Variant &variant, const Inputs &inputs, const Extents &extents) {
  lang::Function &score = *variant.score;
  for (const Node *node : score.nodes) {
    if (node->type != ValueType::F32)
      continue;
    score.result = node;
    MLIRContext context;
    OpBuilder builder(&context);
    OwningOpRef<ModuleOp> module = ModuleOp::create(builder, builder.getUnknownLoc());
    builder.setInsertionPointToEnd(module->getBody());
    FailureOr<StageEvaluator> stages = StageEvaluator::create(
        emitVariant(builder, variant), ArrayRef(inputs.params).drop_front(), extents);
    auto [b, h, q, kv] = inputs.coordinates;
    double expected = evaluateFunction(score, inputs).f;
    double found = stages->evalScore(inputs.score, b, h, q, kv);
    if (isSame(found, expected))
      continue;
    std::string text;
    llvm::raw_string_ostream(text)
        << "node " << node->id << ": " << found << ", not " << expected << " in\n"
        << *module;
    return text;
  }
  return "no single node differs";
}

TEST(LanguageToAttnTest, RandomPrograms) {
  MLIRContext context;
  for (unsigned seed = 0; seed < 400; ++seed) {
    RandomVariant random(seed);
    OpBuilder builder(&context);
    OwningOpRef<ModuleOp> module = ModuleOp::create(builder, builder.getUnknownLoc());
    builder.setInsertionPointToEnd(module->getBody());
    attn::VariantOp variant = emitVariant(builder, random.variant);
    ASSERT_TRUE(succeeded(verify(*module))) << seed;
    for (unsigned trial = 0; trial < 10; ++trial) {
      Inputs inputs = random.makeInputs();
      Extents extents = {inputs.sizes[0], inputs.sizes[1], inputs.sizes[2], inputs.sizes[3],
                         inputs.sizes[4], inputs.sizes[5], inputs.sizes[6]};
      FailureOr<StageEvaluator> stages =
          StageEvaluator::create(variant, ArrayRef(inputs.params).drop_front(), extents);
      ASSERT_TRUE(succeeded(stages)) << seed;
      auto [b, h, q, kv] = inputs.coordinates;
      double expected = evaluateFunction(*random.variant.score, inputs).f;
      double found = stages->evalScore(inputs.score, b, h, q, kv);
      ASSERT_TRUE(isSame(found, expected))
          << "seed " << seed << ": " << firstDifference(random.variant, inputs, extents);
      ASSERT_EQ(stages->evalMask(b, h, q, kv),
                evaluateFunction(*random.variant.mask, inputs).i != 0)
          << "seed " << seed;
    }
  }
}

//===----------------------------------------------------------------------===//
// Programs from text
//===----------------------------------------------------------------------===//

std::unique_ptr<lang::CheckedProgram> check(StringRef text) {
  llvm::SourceMgr sourceMgr;
  return lang::checkSource(text, "test.heed", sourceMgr);
}

constexpr StringLiteral kAlibi =
    R"(variant alibi_docs(slope: f32[Hq], const n: index = 3, w: index = 4096, doc: i32[B, Sq]) {
  score_mod(s, b, h, q, kv) { return s + slope[h] * (kv - q) }
  mask_mod(b, h, q, kv) { return q >= kv && q - kv < w * n && doc[b, q] == doc[b, kv] }
}
variant cap(c: f32 = 50.0) {
  score_mod(s, b, h, q, kv) { return c * tanh(s / c) }
}
)";

TEST(LanguageToAttnTest, CapturesHaveNamesAndDefaults) {
  auto program = check(kAlibi);
  ASSERT_TRUE(program);
  MLIRContext context;
  OwningOpRef<ModuleOp> module = emitProgram(context, *program);
  ASSERT_TRUE(succeeded(verify(*module)));
  auto alibi = module->lookupSymbol<attn::VariantOp>("alibi_docs");
  ASSERT_TRUE(alibi);
  ASSERT_EQ(alibi.getCaptures().size(), 3u) << "n is constant";
  EXPECT_EQ(alibi.getCaptureName(0), "slope");
  EXPECT_EQ(alibi.getCaptureName(1), "w");
  EXPECT_EQ(alibi.getCaptureName(2), "doc");
  EXPECT_EQ(cast<IntegerAttr>(alibi.getCaptureDefault(1)).getInt(), 4096);
  EXPECT_FALSE(alibi.getCaptureDefault(0));
  auto type = dyn_cast<attn::TensorType>(alibi.getCaptures()[2].getType());
  ASSERT_TRUE(type);
  EXPECT_EQ(type.getExtents(), ArrayRef<int64_t>({attn::Extent::B, attn::Extent::Sq}));

  auto cap = module->lookupSymbol<attn::VariantOp>("cap");
  ASSERT_TRUE(cap);
  EXPECT_FALSE(cap.getStage<attn::MaskOp>());
  EXPECT_TRUE(cap.getStage<attn::ScoreOp>());
  EXPECT_EQ(cast<FloatAttr>(cap.getCaptureDefault(0)).getValueAsDouble(), 50.0);
}

TEST(LanguageToAttnTest, EveryOpHasItsPlace) {
  auto program = check(kAlibi);
  ASSERT_TRUE(program);
  MLIRContext context;
  OwningOpRef<ModuleOp> module = emitProgram(context, *program);
  module->getBody()->walk([](Operation *op) {
    auto loc = dyn_cast<FileLineColLoc>(op->getLoc());
    ASSERT_TRUE(loc) << op->getName().getStringRef().str();
    EXPECT_EQ(loc.getFilename().getValue(), "test.heed");
    EXPECT_GE(loc.getLine(), 1u);
    if (isa<attn::LoadOp>(op) && op->getParentOfType<attn::ScoreOp>()) {
      EXPECT_EQ(loc.getLine(), 2u);
    }
  });
}

TEST(LanguageToAttnTest, TextGivesItsMeaning) {
  auto program = check(kAlibi);
  ASSERT_TRUE(program);
  MLIRContext context;
  OwningOpRef<ModuleOp> module = emitProgram(context, *program);
  float slopes[] = {0.5, 2};
  int32_t docs[] = {0, 0, 0, 1, 1, 1, 1, 1};
  HostValue captures[] = {HostTensor(slopes, DType::F32, {2}), int64_t(1),
                          HostTensor(docs, DType::I32, {1, 8})};
  Extents extents = {1, 2, 2, 8, 8, 64, 64};
  FailureOr<StageEvaluator> stages = StageEvaluator::create(
      module->lookupSymbol<attn::VariantOp>("alibi_docs"), captures, extents);
  ASSERT_TRUE(succeeded(stages));
  for (int64_t q = 0; q < 8; ++q)
    for (int64_t kv = 0; kv < 8; ++kv) {
      EXPECT_EQ(stages->evalMask(0, 1, q, kv), q >= kv && q - kv < 3 && docs[q] == docs[kv]);
      EXPECT_EQ(stages->evalScore(0.25, 0, 1, q, kv), 0.25 + 2.0 * (kv - q));
    }
}

TEST(LanguageToAttnTest, Forward) {
  auto program = check(kAlibi);
  ASSERT_TRUE(program);
  MLIRContext context;
  OwningOpRef<ModuleOp> module = emitProgram(context, *program);
  OpBuilder builder = OpBuilder::atBlockEnd(module->getBody());
  auto variant = module->lookupSymbol<attn::VariantOp>("alibi_docs");
  func::FuncOp function =
      emitForward(builder, variant, "alibi_docs_fwd", builder.getBF16Type(), 128, 64);
  ASSERT_TRUE(succeeded(verify(*module)));
  EXPECT_EQ(function.getNumArguments(), 7u);
  auto forward = *function.getOps<attn::ForwardOp>().begin();
  EXPECT_EQ(forward.lookupVariant(), variant);
  EXPECT_EQ(forward.getHeadDim(), 128);
  EXPECT_EQ(forward.getValueHeadDim(), 64);
  EXPECT_TRUE(forward.getElementType().isBF16());
  EXPECT_EQ(builder.getInsertionBlock(), module->getBody());
}

} // namespace
