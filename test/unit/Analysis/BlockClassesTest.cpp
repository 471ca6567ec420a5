//===-- BlockClassesTest.cpp - Block classes against brute force ----------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Soundness: for random masks of the language, random captures, shapes and boxes, the emitted code
// says Full only where every pair attends and Skipped only where none does, and no pair attends
// outside of the emitted bounds. Precision: for the forms of usual masks both are the best there
// is.
//
// HEED_SOUNDNESS_MASKS sets the number of random masks, HEED_SOUNDNESS_SEED the first seed; a
// failure prints its seed.
//
//===----------------------------------------------------------------------===//

#include "RandomMasks.h"

#include "heed/Analysis/BlockClasses.h"
#include "heed/Conversion/LanguageToAttn.h"
#include "heed/Dialect/Tile/IR/Tile.h"
#include "heed/Interpreter/Interpreter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Verifier.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SourceMgr.h"
#include "gtest/gtest.h"

using namespace mlir;
using namespace heed;
using namespace heed::interpreter;
using namespace heed::test;
using tile::BlockClass;

namespace {

//===----------------------------------------------------------------------===//
// The emitted code
//===----------------------------------------------------------------------===//

struct Box {
  int64_t firstQ, lastQ, firstKv, lastKv;
};

/// A mask from source text, with functions that hold the emitted analysis.
class CompiledMask {
public:
  /// Reports a failure and returns false where the text does not compile or the emitted code does
  /// not verify.
  bool compile(StringRef source) {
    context.loadDialect<attn::AttnDialect, tile::TileDialect, arith::ArithDialect,
                        math::MathDialect, scf::SCFDialect, func::FuncDialect>();
    llvm::SourceMgr sources;
    std::unique_ptr<lang::CheckedProgram> program = lang::checkSource(source, "mask.heed", sources);
    if (!program || program->variants.size() != 1) {
      ADD_FAILURE() << "does not check:\n" << source.str();
      return false;
    }
    module = emitProgram(context, *program);
    variant = *module->getOps<attn::VariantOp>().begin();
    if (!variant.getStage<attn::MaskOp>())
      return true;
    emitFunction(classify, "classify", [&](OpBuilder &b, const IRMapping &mapping, TileBox box) {
      // The keys are defined after `outer`, so that the verifier sees what uses them there.
      Location loc = variant.getLoc();
      Operation *marker = arith::ConstantIndexOp::create(b, loc, 0);
      Value zero = marker->getResult(0);
      box.firstKv = arith::AddIOp::create(b, loc, box.firstKv, zero);
      box.lastKv = arith::AddIOp::create(b, loc, box.lastKv, zero);
      OpBuilder outer(marker);
      return SmallVector<Value>{emitBlockClass(outer, b, mask(), mapping, box)};
    });
    emitFunction(bounds, "bounds", [&](OpBuilder &b, const IRMapping &mapping, TileBox box) {
      KvBounds keys = emitKvBounds(b, mask(), mapping, box);
      decideSkips = keys.decideSkips;
      return SmallVector<Value>{keys.lower, keys.upper};
    });
    if (failed(verify(*module))) {
      ADD_FAILURE() << "does not verify:\n" << source.str();
      return false;
    }
    return true;
  }

  attn::MaskOp mask() { return variant.getStage<attn::MaskOp>(); }

  FailureOr<RegionEvaluator> bind(func::FuncOp function, const Captures &captures,
                                  const Extents &extents) {
    RegionEvaluator::Bindings bindings;
    for (auto [i, value] : llvm::enumerate(captures.values))
      bindings.try_emplace(function.getArgument(6 + i), value);
    return RegionEvaluator::compile(function.getBody(), bindings, extents);
  }

  attn::VariantOp variant;
  func::FuncOp classify, bounds;
  bool decideSkips = false; ///< as emitKvBounds says

private:
  /// A function of batch, head, the box and the captures.
  void
  emitFunction(func::FuncOp &function, StringRef name,
               function_ref<SmallVector<Value>(OpBuilder &, const IRMapping &, TileBox)> emit) {
    OpBuilder b = OpBuilder::atBlockEnd(module->getBody());
    Location loc = variant.getLoc();
    SmallVector<Type> types(2, b.getI32Type());
    types.append(4, b.getIndexType());
    for (BlockArgument capture : variant.getCaptures())
      types.push_back(capture.getType());
    function = func::FuncOp::create(b, loc, name, b.getFunctionType(types, {}));
    Block *block = function.addEntryBlock();
    b.setInsertionPointToStart(block);
    IRMapping mapping;
    mapping.map(mask().getCoordinates()[0], block->getArgument(0));
    mapping.map(mask().getCoordinates()[1], block->getArgument(1));
    for (BlockArgument capture : variant.getCaptures())
      mapping.map(capture, block->getArgument(6 + capture.getArgNumber()));
    SmallVector<Value> results = emit(b, mapping,
                                      {block->getArgument(2), block->getArgument(3),
                                       block->getArgument(4), block->getArgument(5)});
    func::ReturnOp::create(b, loc, results);
    function.setFunctionType(b.getFunctionType(types, ValueRange(results).getTypes()));
  }

  MLIRContext context{MLIRContext::Threading::DISABLED};
  OwningOpRef<ModuleOp> module;
};

//===----------------------------------------------------------------------===//
// Brute force
//===----------------------------------------------------------------------===//

/// How many pairs attend in any box of one batch and head, by prefix sums.
class Truth {
public:
  Truth(StageEvaluator &stages, int64_t b, int64_t h, int64_t sq, int64_t skv)
      : width(skv + 1), sums((sq + 1) * (skv + 1)) {
    for (int64_t q = 0; q < sq; ++q)
      for (int64_t kv = 0; kv < skv; ++kv)
        at(q + 1, kv + 1) =
            stages.evalMask(b, h, q, kv) + at(q, kv + 1) + at(q + 1, kv) - at(q, kv);
  }

  int64_t count(const Box &box) {
    return at(box.lastQ + 1, box.lastKv + 1) - at(box.firstQ, box.lastKv + 1) -
           at(box.lastQ + 1, box.firstKv) + at(box.firstQ, box.firstKv);
  }

  BlockClass classOf(const Box &box) {
    int64_t n = count(box), all = (box.lastQ - box.firstQ + 1) * (box.lastKv - box.firstKv + 1);
    return n == 0 ? BlockClass::Skipped : n == all ? BlockClass::Full : BlockClass::Partial;
  }

private:
  int32_t &at(int64_t q, int64_t kv) { return sums[q * width + kv]; }

  int64_t width;
  std::vector<int32_t> sums;
};

enum class Expect { Sound, Exact };

/// How often the emitted code was as good as brute force.
struct Score {
  int64_t boxes = 0, uniform = 0, decided = 0, tiles = 0, keys = 0, keysLeft = 0;
  int64_t skipsLeft = 0; ///< boxes that are skipped where bounds decide that

  void print(const char *what) const {
    printf("%s: %lld boxes, %lld of them full or skipped, %lld recognised (%.1f%%); bounds keep "
           "%.1f%% of the keys\n",
           what, (long long)boxes, (long long)uniform, (long long)decided,
           100.0 * decided / std::max<int64_t>(uniform, 1),
           100.0 * keysLeft / std::max<int64_t>(keys, 1));
  }
};

/// Checks all tiles of some sizes, and random boxes. Returns false after reporting the first
/// failure.
bool check(CompiledMask &mask, const Captures &captures, const Extents &extents, Random &random,
           Expect expect, ArrayRef<std::pair<int64_t, int64_t>> tileSizes, Score &score) {
  if (!mask.mask())
    return true;
  FailureOr<StageEvaluator> stages = StageEvaluator::create(mask.variant, captures.values, extents);
  FailureOr<RegionEvaluator> classify = mask.bind(mask.classify, captures, extents),
                             bounds = mask.bind(mask.bounds, captures, extents);
  if (failed(stages) || failed(classify) || failed(bounds)) {
    ADD_FAILURE() << "the interpreter does not take it";
    return false;
  }
  int64_t b = random.in(0, extents.B - 1), h = random.in(0, extents.Hq - 1);
  Truth truth(*stages, b, h, extents.Sq, extents.Skv);

  auto describe = [&](const Box &box) {
    return "Sq " + std::to_string(extents.Sq) + ", Skv " + std::to_string(extents.Skv) + ", b " +
           std::to_string(b) + ", h " + std::to_string(h) + ", queries " +
           std::to_string(box.firstQ) + ".." + std::to_string(box.lastQ) + ", keys " +
           std::to_string(box.firstKv) + ".." + std::to_string(box.lastKv);
  };
  auto checkClass = [&](const Box &box) {
    classify->evaluate({b, h, box.firstQ, box.lastQ, box.firstKv, box.lastKv});
    auto found = static_cast<BlockClass>(classify->getResult().i);
    BlockClass expected = truth.classOf(box);
    ++score.boxes;
    score.uniform += expected != BlockClass::Partial;
    score.decided += found != BlockClass::Partial;
    if (mask.decideSkips && found == BlockClass::Skipped) {
      ++score.skipsLeft;
      bounds->evaluate({b, h, box.firstQ, box.lastQ, 0, extents.Skv - 1});
      int64_t lower = bounds->getResult(0).i, upper = bounds->getResult(1).i;
      if (lower <= box.lastKv && box.firstKv < upper && lower < upper) {
        ADD_FAILURE() << "bounds [" << lower << ", " << upper
                      << ") that do not decide: " << describe(box);
        return false;
      }
    }
    if (found == expected || (found == BlockClass::Partial && expect == Expect::Sound))
      return true;
    ADD_FAILURE() << "class " << int(found) << " instead of " << int(expected) << ": "
                  << describe(box);
    return false;
  };
  auto checkBounds = [&](const Box &box) {
    bounds->evaluate({b, h, box.firstQ, box.lastQ, box.firstKv, box.lastKv});
    int64_t lower = bounds->getResult(0).i, upper = bounds->getResult(1).i;
    int64_t first = box.firstKv, end = box.lastKv + 1;
    while (first < end && truth.count({box.firstQ, box.lastQ, first, first}) == 0)
      ++first;
    while (end > first && truth.count({box.firstQ, box.lastQ, end - 1, end - 1}) == 0)
      --end;
    ++score.tiles;
    score.keys += box.lastKv + 1 - box.firstKv;
    score.keysLeft += std::max<int64_t>(upper - lower, 0);
    bool isNone = first == end;
    bool isSound = isNone || (lower <= first && upper >= end);
    bool isExact = isNone ? upper <= lower : lower == first && upper == end;
    if (lower >= box.firstKv && upper <= box.lastKv + 1 &&
        (isExact || (isSound && expect == Expect::Sound)))
      return true;
    ADD_FAILURE() << "bounds [" << lower << ", " << upper << ") instead of [" << first << ", "
                  << end << "): " << describe(box);
    return false;
  };

  int64_t sq = extents.Sq, skv = extents.Skv;
  for (auto [blockQ, blockKv] : tileSizes) {
    // Of many tiles only some, so that the work is bounded.
    int64_t tilesQ = (sq + blockQ - 1) / blockQ, tilesKv = (skv + blockKv - 1) / blockKv;
    int64_t strideQ = (tilesQ + 15) / 16, strideKv = (tilesKv + 15) / 16;
    for (int64_t i = random.in(0, strideQ - 1); i < tilesQ; i += strideQ) {
      Box box = {i * blockQ, std::min((i + 1) * blockQ, sq) - 1, 0, skv - 1};
      if (!checkBounds(box))
        return false;
      for (int64_t j = random.in(0, strideKv - 1); j < tilesKv; j += strideKv) {
        box.firstKv = j * blockKv;
        box.lastKv = std::min((j + 1) * blockKv, skv) - 1;
        if (!checkClass(box))
          return false;
      }
    }
  }
  for (int i = 0; i < 8; ++i) {
    Box box;
    box.firstQ = random.in(0, sq - 1);
    box.lastQ = random.in(box.firstQ, sq - 1);
    box.firstKv = random.in(0, skv - 1);
    box.lastKv = random.in(box.firstKv, skv - 1);
    if (!checkClass(box) || !checkBounds(box))
      return false;
  }
  if (classify->sawUndefinedBehavior() || bounds->sawUndefinedBehavior()) {
    ADD_FAILURE() << "undefined behaviour in the emitted code";
    return false;
  }
  return true;
}

//===----------------------------------------------------------------------===//
// Random masks
//===----------------------------------------------------------------------===//

int64_t fromEnvironment(const char *name, int64_t otherwise) {
  const char *text = getenv(name);
  return text && *text ? atoll(text) : otherwise;
}

TEST(BlockClasses, RandomMasksAreSound) {
  int64_t masks = fromEnvironment("HEED_SOUNDNESS_MASKS", 3000);
  uint64_t first = fromEnvironment("HEED_SOUNDNESS_SEED", 1);
  Score score;
  int64_t failures = 0;
  for (uint64_t seed = first; seed < first + masks && failures < 5; ++seed) {
    Random random(seed);
    std::string source = MaskGenerator(random).generate();
    CompiledMask mask;
    bool isGood = mask.compile(source);
    for (int i = 0; i < 2 && isGood; ++i) {
      Extents extents;
      extents.B = 2;
      extents.Hq = 2;
      int64_t limit = i == 0 ? 48 : random.of<int64_t>({100, 300});
      extents.Sq = random.in(1, limit);
      extents.Skv = random.chance(40) ? extents.Sq : random.in(1, limit);
      Captures captures = randomCaptures(random, extents);
      std::pair<int64_t, int64_t> sizes[] = {
          {random.of<int64_t>({1, 4, 16}), random.of<int64_t>({1, 8, 16})},
          {random.of<int64_t>({16, 64, 128}), random.of<int64_t>({16, 64, 128})}};
      isGood = check(mask, captures, extents, random, Expect::Sound, sizes, score);
    }
    if (!isGood) {
      ++failures;
      ADD_FAILURE() << "HEED_SOUNDNESS_SEED=" << seed << " HEED_SOUNDNESS_MASKS=1\n" << source;
    }
  }
  score.print("random masks");
  // The analysis that knows nothing is sound, too.
  if (masks >= 1000 && !failures) {
    EXPECT_GT(score.decided, score.uniform / 2);
    EXPECT_GT(score.skipsLeft, score.decided / 50);
  }
}

//===----------------------------------------------------------------------===//
// Forms that must be exact
//===----------------------------------------------------------------------===//

/// Draws parameters w (any), n (positive), lengths (one a batch) and checks all tiles.
void expect(Expect what, StringRef body, int draws, Random &random, Score &score) {
  std::string source = "import std.masks\nvariant v(w: index, n: index, lengths: i32[B], doc: "
                       "i32[?], start: i32[?], ids: i64[?], times: f32[?], odd: f32[?]) {\n"
                       "  mask_mod" +
                       body.str() + "\n}\n";
  SCOPED_TRACE(source);
  CompiledMask mask;
  ASSERT_TRUE(mask.compile(source));
  for (int i = 0; i < draws; ++i) {
    Extents extents;
    extents.B = 2;
    extents.Sq = random.of<int64_t>({1, 17, 127, 128, 129, 200, 300});
    extents.Skv = random.chance(50) ? extents.Sq : random.of<int64_t>({1, 31, 128, 255, 300});
    Captures captures;
    captures.values.push_back(
        random.of<int64_t>({0, 1, -1, random.in(-300, 300), 1 << 30, -100000}));
    captures.values.push_back(
        random.of<int64_t>({1, 2, 16, 64, 100, 128, 1000, random.in(1, 300), INT32_MAX}));
    captures.addTensor(DType::I32, {extents.B},
                       [&](int64_t) { return random.in(0, extents.Skv + 1); });
    int64_t size = std::max(extents.Sq, extents.Skv);
    std::vector<int64_t> starts, docs;
    for (int64_t i = 0; i < size; ++i) {
      if (i == 0 || random.chance(3))
        starts.push_back(i);
      docs.push_back(starts.size() - 1);
    }
    captures.addTensor(DType::I32, {size}, [&](int64_t i) { return docs[i]; });
    captures.addTensor(DType::I32, {int64_t(starts.size())}, [&](int64_t i) { return starts[i]; });
    int64_t id = 1'700'000'000'000; // ms since 1970
    captures.addTensor(DType::I64, {size}, [&](int64_t) { return id += random.in(0, 3); });
    auto bits = [](double v) { return llvm::bit_cast<int32_t>(float(v)); };
    double time = -10;
    captures.addTensor(DType::F32, {size},
                       [&](int64_t) { return bits(time += random.in(0, 7) * 0.25); });
    captures.addTensor(DType::F32, {size}, [&](int64_t i) {
      return bits(i % 97 == 50 ? NAN : i % 61 == 7 ? INFINITY : i);
    });
    std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {16, 32}, {64, 128}, {128, 64}};
    if (!check(mask, captures, extents, random, what, sizes, score)) {
      ADD_FAILURE() << "w = " << std::get<int64_t>(captures.values[0])
                    << ", n = " << std::get<int64_t>(captures.values[1]);
      return;
    }
  }
}

TEST(BlockClasses, UsualMasksAreExact) {
  Random random(1);
  Score score;
  for (const char *body : {
           " = causal",
           " = !causal",
           " = window(n)",
           " = causal & window(n)",
           " = sliding_window(n)",
           " = local(w, n)",
           " = prefix(w)",
           " = prefix_lm(w)",
           " = prefix_lm_lengths(lengths)",
           " = padding(lengths)",
           " = chunked(n)",
           " = chunked(64)",
           "(b, h, q, kv) { return q + Skv - Sq >= kv }",
           "(b, h, q, kv) { return q > kv + w }",
           "(b, h, q, kv) { return kv >= w }",
           "(b, h, q, kv) { return q // n >= kv // n }",
           "(b, h, q, kv) { return q // 64 > kv // 64 }",
           "(b, h, q, kv) { return q >> 5 == kv >> 5 }",
           "(b, h, q, kv) { return abs(q - kv) < n }",
           "(b, h, q, kv) { return (if w > 0 { q >= kv } else { q <= kv }) }",
           "(b, h, q, kv) { return i64(q) - i64(kv) >= i64(w) }",
           "(b, h, q, kv) { return causal(b, h, q + lengths[b], kv) }",
       })
    expect(Expect::Exact, body, 24, random, score);
  score.print("usual masks");
  EXPECT_EQ(score.decided, score.uniform);
}

/// How much of what is full or skipped is recognised.
struct Decided {
  const char *body;
  double share;
};

void expectDecided(ArrayRef<Decided> cases) {
  Random random(3);
  for (auto [body, share] : cases) {
    Score score;
    expect(Expect::Sound, body, 24, random, score);
    score.print(body);
    EXPECT_GE(score.decided, share * score.uniform) << body;
  }
}

TEST(BlockClasses, BitsAreDecided) {
  // Those in aligned blocks at least.
  expectDecided(
      {{"(b, h, q, kv) { return (q & -32) == (kv & -32) }", 1.0},
       {"(b, h, q, kv) { return (q ^ kv) < 32 }", 0.9},
       {"(b, h, q, kv) { return (q | 31) >= kv }", 0.9},
       {"(b, h, q, kv) { return (q & 192) == (kv & 192) }", 0.85},
       // The even bits of each, as of a Morton number.
       {"(b, h, q, kv) { let x = q & 341; let u = (x | x >> 1) & 819; let m = (u | u >> "
        "2) & 783; let y = kv & 341; let v = (y | y >> 1) & 819; let r = (v | v >> 2) & "
        "783; return abs(m - r) <= 2 }",
        0.95},
       // By numbers that are known at launch, or computed.
       {"(b, h, q, kv) { return (q >> (n & 7)) == (kv >> (n & 7)) }", 0.99},
       {"(b, h, q, kv) { return (q & -(1 << (n & 7))) == (kv & -(1 << (n & 7))) }", 0.9},
       {"(b, h, q, kv) { return kv < (200 >> clamp(abs(q // 16 - kv // 16), 0, 5)) }", 0.9},
       {"(b, h, q, kv) { return kv >= (1 << clamp(q // 30, 0, 8)) }", 0.99},
       // Of numbers with a sign.
       {"(b, h, q, kv) { return ((q - kv) ^ 1) >= 0 }", 0.9},
       // Products wrap here, so that it is to be sound only.
       {"(b, h, q, kv) { return ((-7 - kv) & 2147483647) * 4 >= q }", 0.0},
       {"(b, h, q, kv) { return ((q - kv) | 3) < 0 }", 0.9},
       {"(b, h, q, kv) { let x = (q // 32) ^ (kv // 32); return (x & (x - 1)) == 0 }", 0.8}});
}

TEST(BlockClasses, CurvesAreDecided) {
  expectDecided({{"(b, h, q, kv) { return q >= kv && exp(-0.02 * f32(q - kv)) > 0.1 }", 0.99},
                 {"(b, h, q, kv) { return exp2(f32(kv - q) / 16.0) > 0.1 }", 0.99},
                 {"(b, h, q, kv) { return log(f32(abs(q - kv) + 1)) < 4.0 }", 0.99},
                 {"(b, h, q, kv) { return log2(f32(q + 1)) >= log2(f32(kv + 1)) }", 0.95},
                 {"(b, h, q, kv) { return log1p(f32(abs(q - kv))) < 4.0 }", 0.99},
                 {"(b, h, q, kv) { return tanh(f32(q - kv) * 0.01) > -0.5 }", 0.95},
                 {"(b, h, q, kv) { return sigmoid(f32(q - kv) * 0.1) > 0.2 }", 0.95},
                 {"(b, h, q, kv) { return erf(f32(q - kv) * 0.01) > -0.5 }", 0.95},
                 {"(b, h, q, kv) { return rsqrt(f32(abs(q - kv) + 1)) > 0.1 }", 0.99}});
}

TEST(BlockClasses, DivisorsOfQueriesAreDecided) {
  expectDecided({{"(b, h, q, kv) { let m = 8 + q // 64; return kv // m == q // m }", 0.8},
                 {"(b, h, q, kv) { return kv // (1 + q // 32) <= 20 }", 0.95},
                 {"(b, h, q, kv) { return q % (500 + kv) >= kv }", 0.9}});
}

TEST(BlockClasses, ExtremaAreDecided) {
  // Also where they are compared with what they are of.
  expectDecided({{"(b, h, q, kv) { return max(q, kv) == q }", 0.99},
                 {"(b, h, q, kv) { return min(q, kv) >= kv }", 0.99},
                 {"(b, h, q, kv) { return clamp(q - kv, 0, 50) == q - kv }", 0.99}});
}

TEST(BlockClasses, DistancesAreDecided) {
  expectDecided(
      {{"(b, h, q, kv) { return abs(q // 16 - kv // 16) + abs(q % 16 - kv % 16) <= 5 }", 0.9},
       {"(b, h, q, kv) { let x = q // 16 - kv // 16; let y = q % 16 - kv % 16; return x * x + y * "
        "y <= 25 }",
        0.9},
       {"(b, h, q, kv) { return (q - 90) % -256 >= -10 }", 0.99},
       {"(b, h, q, kv) { return q // -7 <= kv // -7 }", 0.99}});
}

TEST(BlockClasses, DifferencesOfRemaindersAreDecided) {
  // Also in boxes that pass a multiple of the divisor on both sides.
  expectDecided({{"(b, h, q, kv) { return abs(q % 211 - kv % 211) <= 3 }", 1.0},
                 {"(b, h, q, kv) { return q % 211 == kv % 211 }", 1.0},
                 {"(b, h, q, kv) { return abs(q % n - kv % n) <= 3 }", 1.0},
                 {"(b, h, q, kv) { return abs(q // 11 - kv // 11) <= 2 && abs(q % 11 - kv % 11) <= "
                  "2 }",
                  0.99},
                 {"(b, h, q, kv) { let x = q % 211 - kv % 211; return x * x <= 16 }", 1.0}});
}

TEST(BlockClasses, DocumentsWithPositionsOfTheirOwnAreDecided) {
  expectDecided(
      {{"(b, h, q, kv) { return doc[q] == doc[kv] && q - start[doc[q]] >= kv - start[doc[kv]] }",
        0.96},
       {"(b, h, q, kv) { return doc[q] == doc[kv] && (q - start[doc[q]]) - (kv - start[doc[kv]]) "
        "<= 20 && q >= kv }",
        0.97}});
}

TEST(BlockClasses, LongTablesAndTimesAreDecided) {
  expectDecided({{"(b, h, q, kv) { return ids[q] - ids[kv] <= 50 && ids[q] >= ids[kv] }", 0.99},
                 {"(b, h, q, kv) { return abs(ids[q] * 2 - ids[kv] * 2) <= 50 }", 0.99},
                 {"(b, h, q, kv) { return times[q] >= times[kv] }", 0.99},
                 {"(b, h, q, kv) { return abs(times[q] - times[kv]) < 20.0 }", 0.99},
                 {"(b, h, q, kv) { return q / 2 >= kv }", 0.99},
                 {"(b, h, q, kv) { return floor(f32(q) / 64.0) == floor(f32(kv) / 64.0) }", 0.99},
                 {"(b, h, q, kv) { return q >= kv && times[q] * 0.3 < times[kv] }", 0.99},
                 // A NaN is in neither order, and says nothing of what lies beside it.
                 {"(b, h, q, kv) { return q >= kv && odd[q] < 3.0 }", 0.85}});
}

TEST(BlockClasses, BoundsDecideSkipsOfRanges) {
  auto decideSkips = [](StringRef body) {
    CompiledMask mask;
    EXPECT_TRUE(mask.compile("import std.masks\nvariant v(n: index, lengths: i32[B], doc: i32[?]) "
                             "{\n  mask_mod" +
                             body.str() + "\n}\n"));
    return mask.decideSkips;
  };
  for (const char *body :
       {" = causal", " = sliding_window(n)", " = prefix_lm(n)", " = padding(lengths)",
        " = prefix_lm_lengths(lengths)", " = causal & padding(lengths)",
        "(b, h, q, kv) { return abs(q - kv) < 9 && kv < lengths[b] }"})
    EXPECT_TRUE(decideSkips(body)) << body;
  for (const char *body : {" = !window(n)", "(b, h, q, kv) { return doc[q] == doc[kv] }",
                           "(b, h, q, kv) { return q >= kv && doc[q] == doc[kv] }",
                           "(b, h, q, kv) { return kv < 16 || q - kv < n && q >= kv }",
                           "(b, h, q, kv) { return (q - kv) % 3 == 0 && q >= kv }",
                           "(b, h, q, kv) { return n * q >= kv }"})
    EXPECT_FALSE(decideSkips(body)) << body;
}

TEST(BlockClasses, AffineComparisonsAreExact) {
  Random random(2);
  Score score;
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    // Equality only with coefficients that leave no gaps.
    bool isEquality = random.chance(30);
    int64_t limit = isEquality ? 1 : 5;
    auto side = [&](int64_t cq, int64_t ck) {
      std::string r = std::to_string(cq) + " * q + " + std::to_string(ck) + " * kv";
      return random.chance(50) ? r + random.of<const char *>({" + w", " - w", " + 7", " - n"}) : r;
    };
    const char *op = isEquality ? random.of<const char *>({"==", "!="})
                                : random.of<const char *>({"<", "<=", ">", ">="});
    int64_t cq = random.in(-limit, limit), ck = random.in(-limit, limit);
    bool isLeft = random.chance(50);
    std::string body = "(b, h, q, kv) { return " + side(isLeft ? cq : 0, ck) + " " + op + " " +
                       side(isLeft ? 0 : cq, 0) + " }";
    Captures captures;
    std::string source = "variant v(w: index, n: index) {\n  mask_mod" + body + "\n}\n";
    SCOPED_TRACE(source);
    CompiledMask mask;
    ASSERT_TRUE(mask.compile(source));
    Extents extents;
    extents.Sq = random.in(1, 200);
    extents.Skv = random.in(1, 200);
    // Small, so that nothing wraps.
    captures.values = {random.in(-300, 300), random.in(1, 300)};
    std::pair<int64_t, int64_t> sizes[] = {{1, 1}, {16, 32}, {64, 128}};
    // The hull of != is all keys.
    Expect expect = StringRef(op) == "!=" ? Expect::Sound : Expect::Exact;
    check(mask, captures, extents, random, expect, sizes, score);
  }
  score.print("affine comparisons");
  EXPECT_EQ(score.decided, score.uniform);
}

//===----------------------------------------------------------------------===//
// The masks of the standard library and the examples
//===----------------------------------------------------------------------===//

std::string readSource(const llvm::Twine &path) {
  auto buffer = llvm::MemoryBuffer::getFile(HEED_SOURCE_DIR + llvm::Twine("/") + path);
  EXPECT_TRUE(bool(buffer)) << path.str();
  return buffer ? (*buffer)->getBuffer().str() : "";
}

/// Plausible captures for any variant.
Captures plausibleCaptures(attn::VariantOp variant, const Extents &extents, Random &random) {
  Captures captures;
  for (BlockArgument capture : variant.getCaptures()) {
    auto tensor = dyn_cast<attn::TensorType>(capture.getType());
    if (!tensor) {
      if (isa<FloatType>(capture.getType()))
        captures.values.push_back(1.5);
      else
        captures.values.push_back(
            random.of<int64_t>({1, 2, 7, 16, 32, 64, 100, 128, 500, 0, -1, -64}));
      continue;
    }
    SmallVector<int64_t> shape;
    for (int64_t extent : tensor.getExtents())
      shape.push_back(extent >= 0                                ? extent
                      : extent == *attn::parseExtentSymbol("B")  ? extents.B
                      : extent == *attn::parseExtentSymbol("Hq") ? extents.Hq
                      : extent == *attn::parseExtentSymbol("Sq") ? extents.Sq
                                                                 : extents.Skv);
    int64_t id = 0, run = random.in(1, 200);
    if (tensor.getElementType().isInteger(1))
      captures.addTensor(DType::Bool, shape, [&](int64_t) { return random.chance(1); });
    else if (isa<FloatType>(tensor.getElementType()))
      captures.addTensor(DType::F32, shape, [&](int64_t) { return 0; });
    else if (shape.size() == 1)
      captures.addTensor(DType::I32, shape, [&](int64_t) { return random.in(0, extents.Skv); });
    else
      captures.addTensor(DType::I32, shape, [&](int64_t i) { return i % run == 0 ? ++id : id; });
  }
  return captures;
}

void checkAtUsualShapes(StringRef name, StringRef source) {
  SCOPED_TRACE(source.str());
  Random random(3);
  Score score;
  CompiledMask mask;
  ASSERT_TRUE(mask.compile(source));
  if (!mask.mask())
    return;
  for (int64_t sq : {1, 127, 128, 129, 1000})
    for (int64_t skv : {1, 127, 128, 129, 1000}) {
      Extents extents;
      extents.B = 2;
      extents.Hq = 2;
      extents.Sq = sq;
      extents.Skv = skv;
      Captures captures = plausibleCaptures(mask.variant, extents, random);
      std::pair<int64_t, int64_t> sizes[] = {{16, 16}, {64, 128}, {128, 64}};
      if (!check(mask, captures, extents, random, Expect::Sound, sizes, score))
        return;
    }
  score.print(("  " + name.str()).c_str());
}

TEST(BlockClasses, StandardMasksAreSound) {
  std::string text = readSource("lib/Language/Stdlib/masks.heed");
  SmallVector<StringRef> lines;
  StringRef(text).split(lines, '\n');
  int count = 0;
  for (StringRef line : lines) {
    if (!line.consume_front("mask "))
      continue;
    StringRef name = line.take_while([](char c) { return c == '_' || isalnum(c); });
    // Parameters have types, coordinates do not.
    StringRef rest = line.drop_front(name.size()), parameters;
    if (rest.consume_front("("))
      parameters = rest.take_until([](char c) { return c == ')'; });
    if (!parameters.contains(':'))
      parameters = "";
    std::string arguments;
    SmallVector<StringRef> parts;
    parameters.split(parts, ',', -1, /*KeepEmpty=*/false);
    for (size_t i = 0; i < parts.size(); ++i) {
      // "i32[B" and "Sq]" of one parameter come apart at the comma.
      if (!parts[i].contains(':'))
        continue;
      arguments += (arguments.empty() ? "" : ", ") + parts[i].split(':').first.trim().str();
    }
    std::string use = name.str() + (parameters.empty() ? "" : "(" + arguments + ")");
    checkAtUsualShapes(name, "import std.masks\nvariant v" +
                                 (parameters.empty() ? "" : "(" + parameters.str() + ")") +
                                 " {\n  mask_mod = " + use + "\n}\n");
    ++count;
  }
  EXPECT_GE(count, 15);
}

TEST(BlockClasses, ExamplesAreSound) {
  std::error_code error;
  std::vector<std::string> paths;
  for (llvm::sys::fs::directory_iterator it(HEED_SOURCE_DIR "/examples", error), end;
       it != end && !error; it.increment(error))
    if (StringRef(it->path()).ends_with(".heed"))
      paths.push_back(it->path());
  EXPECT_GE(paths.size(), 15u);
  llvm::sort(paths);
  for (const std::string &path : paths) {
    auto buffer = llvm::MemoryBuffer::getFile(path);
    ASSERT_TRUE(bool(buffer));
    checkAtUsualShapes(StringRef(path).rsplit('/').second, (*buffer)->getBuffer());
  }
}

} // namespace
