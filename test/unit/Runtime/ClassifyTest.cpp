//===-- ClassifyTest.cpp - heed_classify on hand-written masks ---------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed-c/Runtime.h"

#include <algorithm>
#include <atomic>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace {

constexpr int64_t million = int64_t(1) << 20;

/// What the code of a mask saw. Reset by every Question.
struct Record {
  std::atomic<int64_t> classified, counted, pairs;
  std::atomic<int64_t> largestBatch, largestHead;
  std::atomic<bool> isBadBox;
  std::mutex mutex;
  std::vector<int64_t> args; // of the first box, if `words` is not 0
  int64_t words;

  void clear() {
    classified = counted = pairs = largestBatch = largestHead = 0;
    isBadBox = false;
    args.clear();
    words = 0;
  }

  /// Boxes are not empty, and lie within the extents.
  void note(const int64_t *a, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
            int64_t k1) {
    auto isBad = [](int64_t begin, int64_t end, int64_t extent) {
      return begin < 0 || begin >= end || end > extent;
    };
    if (isBad(q0, q1, a[HEED_ARG_SQ]) || isBad(k0, k1, a[HEED_ARG_SKV]) ||
        isBad(b, b + 1, a[HEED_ARG_B]) || isBad(h, h + 1, a[HEED_ARG_HQ]))
      isBadBox = true;
    if (b > largestBatch)
      largestBatch = b;
    if (h > largestHead)
      largestHead = h;
    if (words > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      if (args.empty())
        args.assign(a, a + words);
    }
  }
} record;

using Keep = bool (*)(int64_t b, int64_t h, int64_t q, int64_t kv);

/// heed_box_count_fn of a mask.
template <Keep keep>
int64_t count(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
              int64_t k1) {
  record.note(args, b, h, q0, q1, k0, k1);
  ++record.counted;
  record.pairs += (q1 - q0) * (k1 - k0);
  int64_t found = 0;
  for (int64_t q = q0; q < q1; ++q)
    for (int64_t kv = k0; kv < k1; ++kv)
      found += keep(b, h, q, kv);
  return found;
}

/// heed_box_class_fn that knows nothing.
int32_t unknown(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
                int64_t k1) {
  record.note(args, b, h, q0, q1, k0, k1);
  ++record.classified;
  return 1;
}

/// The class of a box by looking at each pair.
template <Keep keep>
int32_t exactClass(int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
  int64_t found = 0;
  for (int64_t q = q0; q < q1; ++q)
    for (int64_t kv = k0; kv < k1; ++kv)
      found += keep(b, h, q, kv);
  return found == 0 ? 0 : found == (q1 - q0) * (k1 - k0) ? 2 : 1;
}

uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/// heed_box_class_fn that knows some boxes, whatever their size.
template <Keep keep>
int32_t sometimes(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
                  int64_t k1) {
  if (mix(uint64_t(((q0 * 977 + q1) * 977 + k0) * 977 + k1)) % 3 == 0)
    return unknown(args, b, h, q0, q1, k0, k1);
  record.note(args, b, h, q0, q1, k0, k1);
  ++record.classified;
  return exactClass<keep>(b, h, q0, q1, k0, k1);
}

bool causal(int64_t, int64_t, int64_t q, int64_t kv) { return q >= kv; }

/// Intervals, as compiled code has them.
int32_t causalClass(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
                    int64_t k1) {
  record.note(args, b, h, q0, q1, k0, k1);
  ++record.classified;
  return q0 >= k1 - 1 ? 2 : q1 - 1 < k0 ? 0 : 1;
}

bool everything(int64_t, int64_t, int64_t, int64_t) { return true; }
bool nothing(int64_t, int64_t, int64_t, int64_t) { return false; }
bool checkerboard(int64_t, int64_t, int64_t q, int64_t kv) { return (q + kv) % 2 == 0; }
bool onePair(int64_t, int64_t, int64_t q, int64_t kv) { return q == 37 && kv == 21; }
bool allButOne(int64_t, int64_t, int64_t q, int64_t kv) { return q != 37 || kv != 21; }
bool perBatch(int64_t b, int64_t, int64_t q, int64_t kv) { return q + 5 * b >= kv; }
bool perHead(int64_t, int64_t h, int64_t q, int64_t kv) { return q >= kv + 7 * h; }
bool perBoth(int64_t b, int64_t h, int64_t q, int64_t kv) { return q + 5 * b >= kv + 7 * h; }

/// Tiles of 5 x 7, nearly all of them of one kind.
bool scattered(int64_t b, int64_t h, int64_t q, int64_t kv) {
  uint64_t tile = mix(uint64_t(((b * 31 + h) * 1009 + q / 5) * 1009 + kv / 7));
  if (tile % 8 > 0)
    return tile % 2;
  return mix(uint64_t(q * 1009 + kv)) % 2;
}

template <Keep keep>
heed_mask_code codeOf(heed_box_class_fn classify = unknown, bool usesBatch = false,
                      bool usesHead = false) {
  return {"any", 0, usesBatch, usesHead, classify, count<keep>};
}

int32_t fullClass(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
                  int64_t k1) {
  unknown(args, b, h, q0, q1, k0, k1);
  return 2;
}

int32_t skippedClass(const int64_t *args, int64_t b, int64_t h, int64_t q0, int64_t q1, int64_t k0,
                     int64_t k1) {
  unknown(args, b, h, q0, q1, k0, k1);
  return 0;
}

using Piece = std::tuple<int32_t, int32_t, int32_t>; // begin, end, kind
using Row = std::vector<Piece>;

/// A copy of heed_block_runs.
struct Runs {
  int64_t batches = -1, heads = -1, rows = -1, columns = -1;
  std::vector<int64_t> offsets;
  Row runs;

  Row row(int64_t list, int64_t number = 0) const {
    auto at = offsets.begin() + list * rows + number;
    return {runs.begin() + at[0], runs.begin() + at[1]};
  }
  bool operator==(const Runs &other) const {
    return std::tie(batches, heads, rows, columns, offsets, runs) ==
           std::tie(other.batches, other.heads, other.rows, other.columns, other.offsets,
                    other.runs);
  }
};

/// A kernel with the code of one mask, and what is asked of it: B = 1, Hq = Hkv = 1.
struct Question {
  heed_mask_code code;
  heed_kernel kernel = {HEED_ABI_VERSION, 0, "fake",  HEED_F32, 64,    64, 0,      nullptr,
                        nullptr,          0, nullptr, 1,        &code, 0,  nullptr};
  heed_mask_question question = {};

  Question(const heed_mask_code &code, int64_t queryLength, int64_t keyLength, int32_t blockQ,
           int32_t blockKv)
      : code(code) {
    question = {1, 1, 1, queryLength, keyLength, blockQ, blockKv, nullptr, 0, 1};
  }
  Question(const Question &) = delete;

  /// The answer, after the checks that hold for any; empty if there is none.
  Runs ask(const heed_tensor *tensors = nullptr) {
    int64_t words = record.words;
    record.clear();
    record.words = words;
    heed_block_runs *result = nullptr;
    heed_status status = heed_classify(&kernel, &question, tensors, &result);
    EXPECT_EQ(status, HEED_OK) << heed_last_error();
    if (status != HEED_OK)
      return {};
    std::unique_ptr<heed_block_runs, void (*)(heed_block_runs *)> owner(result,
                                                                        heed_block_runs_free);
    EXPECT_FALSE(record.isBadBox);
    Runs r = {
        result->num_batches, result->num_heads, result->num_rows, result->num_columns, {}, {}};
    int64_t numRows = r.batches * r.heads * r.rows;
    r.offsets.assign(result->offsets, result->offsets + numRows + 1);
    for (int64_t i = 0; i < r.offsets.back(); ++i)
      r.runs.emplace_back(result->runs[i].begin, result->runs[i].end, result->runs[i].kind);
    EXPECT_EQ(r.offsets.front(), 0);
    EXPECT_TRUE(std::is_sorted(r.offsets.begin(), r.offsets.end()));
    int64_t wrong = 0;
    for (int64_t i = 0; i < numRows; ++i) {
      int32_t end = 0, kind = 0;
      for (int64_t j = r.offsets[i]; j < r.offsets[i + 1]; ++j) {
        auto [runBegin, runEnd, runKind] = r.runs[j];
        wrong += runBegin >= runEnd || runBegin < end || runEnd > r.columns ||
                 (runKind != 1 && runKind != 2) || (runBegin == end && runKind == kind);
        end = runEnd;
        kind = runKind;
      }
    }
    EXPECT_EQ(wrong, 0) << "runs ascend, are not empty, and do not touch if they are of a kind";
    return r;
  }

  void expectError(const char *message, heed_status expected = HEED_INVALID_ARGUMENT,
                   const heed_tensor *tensors = nullptr) {
    record.clear();
    heed_block_runs unused, *result = &unused;
    EXPECT_EQ(heed_classify(&kernel, &question, tensors, &result), expected) << message;
    EXPECT_STREQ(heed_last_error(), message);
    EXPECT_EQ(result, nullptr) << "and not what was there";
    EXPECT_EQ(record.classified + record.counted, 0);
  }
};

/// The kind of every block, by looking at each pair.
template <Keep keep>
Runs bruteForce(const Question &asked) {
  const heed_mask_question &q = asked.question;
  auto blocks = [](int64_t length, int64_t block) { return (length + block - 1) / block; };
  Runs r = {asked.code.uses_batch ? q.batch : 1,
            asked.code.uses_head ? q.query_heads : 1,
            blocks(q.query_length, q.block_q),
            blocks(q.key_length, q.block_kv),
            {0},
            {}};
  for (int64_t b = 0; b < r.batches; ++b)
    for (int64_t h = 0; h < r.heads; ++h)
      for (int64_t row = 0; row < r.rows; ++row) {
        for (int64_t column = 0; column < r.columns; ++column) {
          int64_t endQ = (row + 1) * q.block_q, endKv = (column + 1) * q.block_kv;
          bool hangs = endQ > q.query_length || endKv > q.key_length;
          int32_t kind = exactClass<keep>(b, h, row * q.block_q, std::min(endQ, q.query_length),
                                          column * q.block_kv, std::min(endKv, q.key_length));
          if (kind == 2 && hangs)
            kind = 1;
          if (kind == 0)
            continue;
          int64_t size = int64_t(r.runs.size());
          if (size > r.offsets.back() && std::get<1>(r.runs.back()) == column &&
              std::get<2>(r.runs.back()) == kind)
            ++std::get<1>(r.runs.back());
          else
            r.runs.emplace_back(column, column + 1, kind);
        }
        r.offsets.push_back(int64_t(r.runs.size()));
      }
  return r;
}

void PrintTo(const Runs &r, std::ostream *os) {
  *os << r.batches << " x " << r.heads << " x " << r.rows << " x " << r.columns;
  for (int64_t i = 0; i + 1 < int64_t(r.offsets.size()); ++i) {
    *os << "\n  ";
    for (int64_t j = r.offsets[i]; j < r.offsets[i + 1]; ++j)
      *os << " [" << std::get<0>(r.runs[j]) << ", " << std::get<1>(r.runs[j])
          << "):" << std::get<2>(r.runs[j]);
  }
}

struct Form {
  int64_t queryLength, keyLength;
  int32_t blockQ, blockKv;
};

constexpr Form forms[] = {{64, 64, 16, 16}, {1, 1, 1, 1},      {1, 100, 7, 3},     {100, 1, 3, 7},
                          {65, 63, 16, 16}, {100, 37, 1, 1},   {60, 60, 100, 100}, {60, 60, 60, 60},
                          {90, 70, 8, 32},  {70, 190, 32, 8},  {61, 61, 60, 60},   {41, 190, 5, 64},
                          {128, 5, 2, 2},   {77, 78, 1, 1000}, {78, 77, 1000, 1}};

template <Keep keep>
void expectExact(heed_box_class_fn classify = unknown) {
  for (const Form &f : forms) {
    Question asked(codeOf<keep>(classify), f.queryLength, f.keyLength, f.blockQ, f.blockKv);
    EXPECT_EQ(asked.ask(), bruteForce<keep>(asked))
        << f.queryLength << " x " << f.keyLength << " by " << f.blockQ << " x " << f.blockKv;
  }
}

TEST(Classify, Intervals) { expectExact<causal>(causalClass); }

TEST(Classify, OnlyCountingDecides) {
  expectExact<causal>();
  expectExact<checkerboard>();
  expectExact<everything>();
  expectExact<nothing>();
  expectExact<onePair>();
  expectExact<allButOne>();
  expectExact<scattered>();
}

TEST(Classify, SomeBoxesAreKnown) {
  expectExact<causal>(sometimes<causal>);
  expectExact<checkerboard>(sometimes<checkerboard>);
  expectExact<onePair>(sometimes<onePair>);
  expectExact<allButOne>(sometimes<allButOne>);
  expectExact<scattered>(sometimes<scattered>);
}

TEST(Classify, AllAndNone) {
  Question all(codeOf<everything>(fullClass), 1024, 2048, 64, 32);
  Runs runs = all.ask();
  EXPECT_EQ(runs.rows, 16);
  EXPECT_EQ(runs.columns, 64);
  EXPECT_EQ(runs.runs, Row(16, Piece(0, 64, 2)));
  Question none(codeOf<nothing>(skippedClass), 1024, 2048, 64, 32);
  runs = none.ask();
  EXPECT_TRUE(runs.runs.empty());
  EXPECT_EQ(runs.offsets, std::vector<int64_t>(17, 0));
  EXPECT_EQ(record.counted, 0);
}

TEST(Classify, HangingBlocksArePartial) {
  // One more than the blocks hold, in keys, in queries, and in both.
  Question keys(codeOf<everything>(fullClass), 64, 129, 32, 32);
  EXPECT_EQ(keys.ask().row(0, 1), (Row{{0, 4, 2}, {4, 5, 1}}));
  Question queries(codeOf<everything>(fullClass), 65, 128, 32, 32);
  EXPECT_EQ(queries.ask().row(0, 1), (Row{{0, 4, 2}}));
  EXPECT_EQ(queries.ask().row(0, 2), (Row{{0, 4, 1}}));
  Question both(codeOf<everything>(fullClass), 65, 129, 32, 32);
  EXPECT_EQ(both.ask().row(0, 1), (Row{{0, 4, 2}, {4, 5, 1}}));
  EXPECT_EQ(both.ask().row(0, 2), (Row{{0, 5, 1}}));
  // They are skipped where none of their pairs attends, and by what hangs over nothing is asked.
  Question none(codeOf<nothing>(), 65, 129, 32, 32);
  EXPECT_TRUE(none.ask().runs.empty());
  EXPECT_LE(record.pairs, 65 * 129 + 15 * (4 + 2 * 32))
      << "only corners and edges are looked at twice";
  // A block larger than all there is.
  Question one(codeOf<everything>(), 3, 5, 4, 8);
  EXPECT_EQ(one.ask().row(0), (Row{{0, 1, 1}}));
}

/// For a kernel's own loop a block is full where all pairs that exist attend.
TEST(Classify, HangingBlocksMayBeFull) {
  Question asked(codeOf<causal>(causalClass), 100, 100, 64, 64);
  EXPECT_EQ(asked.ask().row(0, 1), (Row{{0, 2, 1}}));
  asked.question.hanging_is_partial = 0;
  EXPECT_EQ(asked.ask().row(0, 1), (Row{{0, 1, 2}, {1, 2, 1}}));
}

TEST(Classify, EmptyExtents) {
  auto expectNothing = [](Question &asked, int64_t batches, int64_t heads, int64_t rows,
                          int64_t columns) {
    Runs runs = asked.ask();
    EXPECT_EQ(runs.batches, batches);
    EXPECT_EQ(runs.heads, heads);
    EXPECT_EQ(runs.rows, rows);
    EXPECT_EQ(runs.columns, columns);
    EXPECT_EQ(runs.offsets, std::vector<int64_t>(batches * heads * rows + 1, 0));
    EXPECT_EQ(record.classified + record.counted, 0);
  };
  for (bool uses : {false, true}) {
    heed_mask_code code = codeOf<everything>(fullClass, uses, uses);
    Question batch(code, 64, 64, 16, 16), heads(code, 64, 64, 16, 16), q(code, 0, 64, 16, 16),
        kv(code, 64, 0, 16, 16), all(code, 0, 0, 16, 16);
    batch.question.batch = 0;
    heads.question.query_heads = heads.question.key_heads = 0;
    all.question.batch = all.question.query_heads = all.question.key_heads = 0;
    expectNothing(batch, 0, 1, 4, 4);
    expectNothing(heads, 1, 0, 4, 4);
    expectNothing(q, 1, 1, 0, 4);
    expectNothing(kv, 1, 1, 4, 0);
    expectNothing(all, 0, 0, 0, 0);
  }
}

template <Keep keep>
void expectLists(bool usesBatch, bool usesHead, heed_box_class_fn classify) {
  Question asked(codeOf<keep>(classify, usesBatch, usesHead), 60, 50, 8, 16);
  asked.question.batch = 3;
  asked.question.query_heads = 4;
  asked.question.key_heads = 2;
  Runs runs = asked.ask();
  EXPECT_EQ(runs, bruteForce<keep>(asked));
  EXPECT_EQ(runs.batches, usesBatch ? 3 : 1);
  EXPECT_EQ(runs.heads, usesHead ? 4 : 1);
  EXPECT_EQ(record.largestBatch, usesBatch ? 2 : 0);
  EXPECT_EQ(record.largestHead, usesHead ? 3 : 0);
}

TEST(Classify, ListsForWhatTheMaskDependsOn) {
  expectLists<causal>(false, false, causalClass);
  expectLists<perBatch>(true, false, sometimes<perBatch>);
  expectLists<perHead>(false, true, unknown);
  expectLists<perBoth>(true, true, sometimes<perBoth>);
  expectLists<scattered>(true, true, unknown);
}

TEST(Classify, ThreadsDoNotShow) {
  for (const Form &f : {Form{400, 300, 16, 8}, Form{3, 500, 1, 1}, Form{500, 3, 1, 1}}) {
    Question asked(codeOf<scattered>(sometimes<scattered>, true, true), f.queryLength, f.keyLength,
                   f.blockQ, f.blockKv);
    asked.question.batch = 2;
    asked.question.query_heads = 3;
    Runs expected = bruteForce<scattered>(asked);
    for (int32_t threads : {1, 2, 3, 4, 0}) {
      asked.question.num_threads = threads;
      EXPECT_EQ(asked.ask(), expected) << threads << " threads";
    }
  }
}

TEST(Classify, SeveralCallersAtOnce) {
  Question asked(codeOf<scattered>(), 300, 300, 16, 16);
  Runs expected = asked.ask();
  std::vector<Runs> found(4);
  std::vector<std::thread> callers;
  for (Runs &runs : found)
    callers.emplace_back([&asked, &runs] {
      heed_block_runs *result;
      if (heed_classify(&asked.kernel, &asked.question, nullptr, &result))
        return;
      runs = {
          result->num_batches, result->num_heads, result->num_rows, result->num_columns, {}, {}};
      runs.offsets.assign(result->offsets, result->offsets + result->num_rows + 1);
      for (int64_t i = 0; i < runs.offsets.back(); ++i)
        runs.runs.emplace_back(result->runs[i].begin, result->runs[i].end, result->runs[i].kind);
      heed_block_runs_free(result);
    });
  for (std::thread &caller : callers)
    caller.join();
  for (const Runs &runs : found)
    EXPECT_EQ(runs, expected);
}

//===----------------------------------------------------------------------===//
// Cost and limits
//===----------------------------------------------------------------------===//

TEST(Classify, StructureIsExploited) {
  constexpr int64_t numRows = million / 128;
  Question asked(codeOf<causal>(causalClass), million, million, 128, 128);
  Runs runs = asked.ask();
  EXPECT_EQ(runs.rows, numRows);
  EXPECT_EQ(runs.columns, numRows);
  int64_t wrong = 0;
  for (int32_t row = 0; row < numRows; ++row)
    wrong += runs.row(0, row) != (row == 0 ? Row{{0, 1, 1}} : Row{{0, row, 2}, {row, row + 1, 1}});
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(record.classified, 16 * numRows);
  EXPECT_LE(record.pairs, 4 * numRows);
}

TEST(Classify, PartialBlocksAreNotLookedThrough) {
  // Half of the pairs attend: two are found soon.
  Question asked(codeOf<checkerboard>(), 4096, 4096, 1024, 1024);
  EXPECT_EQ(asked.ask().runs, Row(4, Piece(0, 4, 1)));
  EXPECT_LE(record.pairs, 16 * 128);
}

TEST(Classify, LargestLengths) {
  // 2048 blocks of 2^20 each, of which the last hangs over by one.
  constexpr int64_t length = std::numeric_limits<int32_t>::max();
  Question asked(codeOf<causal>(causalClass), length, length, million, million);
  Runs runs = asked.ask();
  EXPECT_EQ(runs.rows, 2048);
  EXPECT_EQ(runs.columns, 2048);
  EXPECT_EQ(runs.row(0, 0), (Row{{0, 1, 1}}));
  EXPECT_EQ(runs.row(0, 2046), (Row{{0, 2046, 2}, {2046, 2047, 1}}));
  EXPECT_EQ(runs.row(0, 2047), (Row{{0, 2048, 1}}));
  Question all(codeOf<everything>(fullClass), length, length, million, million);
  runs = all.ask();
  EXPECT_EQ(runs.row(0, 0), (Row{{0, 2047, 2}, {2047, 2048, 1}}));
  EXPECT_EQ(runs.row(0, 2047), (Row{{0, 2048, 1}}));
}

TEST(Classify, LargestBlocks) {
  constexpr int32_t largest = std::numeric_limits<int32_t>::max();
  Question small(codeOf<causal>(), 5, 7, largest, largest);
  EXPECT_EQ(small.ask().row(0), (Row{{0, 1, 1}}));
  Question large(codeOf<everything>(fullClass), largest, largest, largest, largest);
  EXPECT_EQ(large.ask().row(0), (Row{{0, 1, 2}}));
  Question hanging(codeOf<causal>(causalClass), largest, largest, largest - 1, largest - 1);
  EXPECT_EQ(hanging.ask().row(0), (Row{{0, 1, 1}}));
  EXPECT_EQ(hanging.ask().row(0, 1), (Row{{0, 2, 1}}));
}

TEST(Classify, LongestRow) {
  constexpr int64_t length = std::numeric_limits<int32_t>::max();
  Question asked(codeOf<everything>(fullClass), 1, length, 1, 1);
  EXPECT_EQ(asked.ask().row(0), (Row{{0, int32_t(length), 2}}));
  Question begin(codeOf<causal>(causalClass), 1, length, 1, 1);
  EXPECT_EQ(begin.ask().row(0), (Row{{0, 1, 2}}));
}

TEST(Classify, MostThreads) {
  Question asked(codeOf<causal>(causalClass), 100, 100, 8, 8);
  asked.question.num_threads = 1 << 28;
  EXPECT_EQ(asked.ask(), bruteForce<causal>(asked));
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

TEST(Classify, FreeOfNothing) { heed_block_runs_free(nullptr); }

TEST(Classify, ArgumentBlock) {
  Question asked(codeOf<causal>(causalClass), 30, 20, 8, 8);
  asked.question.batch = 2;
  asked.question.query_heads = 6;
  asked.question.key_heads = 3;
  const int64_t extents[] = {HEED_EXTENT_B, HEED_EXTENT_ANY};
  const heed_param params[] = {{"window", HEED_I32, -1, nullptr, 1, {}},
                               {"ids", HEED_I64, 2, extents, 0, {}},
                               {"slope", HEED_F32, -1, nullptr, 0, {}}};
  asked.kernel.params = params;
  asked.kernel.num_params = 3;
  int64_t ids[14] = {}, shape[] = {2, 7};
  heed_tensor other = {}, tensor = heed_dense_tensor(ids, HEED_I64, 2, shape);
  heed_value values[3];
  values[0].i = -5;
  values[1].tensor = &tensor;
  values[2].f = 0.5;
  asked.question.params = values;
  auto expectArguments = [&](const heed_tensor *tensors) {
    record.words = HEED_ARG_PARAMS + 7;
    EXPECT_EQ(asked.ask(tensors), bruteForce<causal>(asked));
    ASSERT_EQ(record.args.size(), HEED_ARG_PARAMS + 7u);
    const int64_t *args = record.args.data();
    EXPECT_EQ(args[HEED_ARG_B], 2);
    EXPECT_EQ(args[HEED_ARG_HQ], 6);
    EXPECT_EQ(args[HEED_ARG_HKV], 3);
    EXPECT_EQ(args[HEED_ARG_SQ], 30);
    EXPECT_EQ(args[HEED_ARG_SKV], 20);
    EXPECT_EQ(args[HEED_ARG_QUERY], 0);
    EXPECT_EQ(args[HEED_ARG_PARAMS], -5);
    EXPECT_EQ(args[HEED_ARG_PARAMS + 1], int64_t(reinterpret_cast<uintptr_t>(ids)));
    EXPECT_EQ(args[HEED_ARG_PARAMS + 2], 2);
    EXPECT_EQ(args[HEED_ARG_PARAMS + 3], 7);
    EXPECT_EQ(args[HEED_ARG_PARAMS + 4], 7);
    EXPECT_EQ(args[HEED_ARG_PARAMS + 5], 1);
    EXPECT_EQ(args[HEED_ARG_PARAMS + 6], 0x3f000000);
  };
  expectArguments(nullptr);
  // Packed: the tensor's number instead of its address.
  const heed_tensor tensors[] = {other, tensor};
  values[1].i = 1;
  expectArguments(tensors);
}

TEST(Classify, Defaults) {
  Question asked(codeOf<causal>(causalClass), 8, 8, 8, 8);
  heed_param param = {"window", HEED_I32, -1, nullptr, 1, {}};
  param.default_value.i = 77;
  asked.kernel.params = &param;
  asked.kernel.num_params = 1;
  record.words = HEED_ARG_PARAMS + 1;
  asked.ask();
  ASSERT_EQ(record.args.size(), HEED_ARG_PARAMS + 1u);
  EXPECT_EQ(record.args[HEED_ARG_PARAMS], 77);
  param.has_default = 0;
  asked.expectError("argument 'window' (i32): expected a value because it has no default, found "
                    "none (params is NULL)");
}

TEST(Classify, TheFirstCodeThatRunsHere) {
  heed_mask_code codes[] = {codeOf<nothing>(), codeOf<everything>(fullClass), codeOf<nothing>()};
  codes[0].cpu = ~uint64_t(0);
  Question asked(codes[0], 16, 16, 16, 16);
  asked.kernel.num_mask_codes = 3;
  asked.kernel.mask_codes = codes;
  EXPECT_EQ(asked.ask().row(0), (Row{{0, 1, 2}}));
}

TEST(Classify, Null) {
  Question asked(codeOf<causal>(), 8, 8, 8, 8);
  heed_block_runs *result;
  EXPECT_EQ(heed_classify(nullptr, &asked.question, nullptr, &result), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'kernel': expected a kernel, found NULL");
  EXPECT_EQ(heed_classify(&asked.kernel, nullptr, nullptr, &result), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'question': expected an address, found NULL");
  EXPECT_EQ(heed_classify(&asked.kernel, &asked.question, nullptr, nullptr), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "argument 'result': expected an address, found NULL");
  asked.kernel.abi_version = 3;
  EXPECT_EQ(heed_classify(&asked.kernel, &asked.question, nullptr, &result), HEED_ABI_MISMATCH);
}

TEST(Classify, Codes) {
  Question asked(codeOf<causal>(), 8, 8, 8, 8);
  asked.kernel.num_mask_codes = 0;
  const char *none = "kernel 'fake' has no code for this machine that classifies blocks";
  asked.expectError(none, HEED_UNSUPPORTED_CPU);
  asked.kernel.num_mask_codes = 1;
  asked.code.cpu = ~uint64_t(0);
  asked.expectError(none, HEED_UNSUPPORTED_CPU);
  heed_block_runs *result;
  asked.kernel.mask_codes = nullptr;
  EXPECT_EQ(heed_classify(&asked.kernel, &asked.question, nullptr, &result), HEED_INVALID_ARGUMENT);
  EXPECT_STREQ(heed_last_error(), "kernel 'fake' is damaged: its list of mask codes is missing");
}

TEST(Classify, Numbers) {
  auto expectError = [](int64_t heed_mask_question::*number, int64_t value, const char *message) {
    Question asked(codeOf<causal>(), 8, 8, 8, 8);
    asked.question.*number = value;
    asked.expectError(message);
  };
  constexpr int64_t tooLarge = int64_t(1) << 31;
  expectError(&heed_mask_question::batch, -1,
              "argument 'batch': expected a number from 0 to 2147483647, found -1");
  expectError(&heed_mask_question::query_heads, -2,
              "argument 'query_heads': expected a number from 0 to 2147483647, found -2");
  expectError(&heed_mask_question::key_heads, tooLarge,
              "argument 'key_heads': expected a number from 0 to 2147483647, found 2147483648");
  expectError(&heed_mask_question::query_length, -5,
              "argument 'query_length': expected a number from 0 to 2147483647, found -5");
  expectError(&heed_mask_question::query_length, tooLarge,
              "argument 'query_length': expected a number from 0 to 2147483647, found 2147483648");
  expectError(&heed_mask_question::key_length, -1,
              "argument 'key_length': expected a number from 0 to 2147483647, found -1");
  expectError(&heed_mask_question::key_length, std::numeric_limits<int64_t>::max(),
              "argument 'key_length': expected a number from 0 to 2147483647, found "
              "9223372036854775807");

  Question blockQ(codeOf<causal>(), 8, 8, 0, 8), blockKv(codeOf<causal>(), 8, 8, 8, -3),
      threads(codeOf<causal>(), 8, 8, 8, 8);
  blockQ.expectError("argument 'block_q': expected a number from 1 to 2147483647, found 0");
  blockKv.expectError("argument 'block_kv': expected a number from 1 to 2147483647, found -3");
  threads.question.num_threads = -1;
  threads.expectError("argument 'num_threads': expected a number from 0 to 2147483647, found -1");
}

TEST(Classify, Params) {
  Question asked(codeOf<causal>(), 30, 20, 8, 8);
  const int64_t extent = HEED_EXTENT_SKV;
  heed_param param = {"ids", HEED_I32, 1, &extent, 0, {}};
  asked.kernel.params = &param;
  asked.kernel.num_params = 1;
  asked.expectError("argument 'ids' (i32[Skv]): expected a value because it has no default, found "
                    "none (params is NULL)");
  int32_t ids[30] = {};
  int64_t shape = 30;
  heed_tensor tensor = heed_dense_tensor(ids, HEED_I32, 1, &shape);
  heed_value value;
  asked.question.params = &value;
  value.tensor = nullptr;
  asked.expectError("argument 'ids' (i32[Skv]): expected a tensor, found NULL");
  value.tensor = &tensor;
  const char *tooLong =
      "argument 'ids' (i32[Skv]): expected extent Skv = 20 in dimension 0, found 30";
  asked.expectError(tooLong);
  value.i = 0;
  asked.expectError(tooLong, HEED_INVALID_ARGUMENT, &tensor);
}

TEST(Classify, NoMemory) {
  constexpr int64_t largest = std::numeric_limits<int32_t>::max();
  Question asked(codeOf<perBoth>(unknown, true, true), 8, 8, 8, 8);
  asked.question.batch = asked.question.query_heads = largest;
  asked.expectError("kernel 'fake': no memory for the block lists of its mask", HEED_OUT_OF_MEMORY);
}

//===----------------------------------------------------------------------===//
// What heed_run does as well
//===----------------------------------------------------------------------===//

TEST(Classify, TheNumberOfRowsDoesNotWrap) {
  // 2^22 x 2^22 x 2^20 rows are 0 in 64 bits.
  Question asked(codeOf<everything>(fullClass, true, true), million, 8, 1, 8);
  asked.question.batch = asked.question.query_heads = 4 * million;
  asked.question.num_threads = 1;
  asked.expectError("kernel 'fake': no memory for the block lists of its mask", HEED_OUT_OF_MEMORY);
}

TEST(Classify, AnyNumberOfThreads) {
  Question asked(codeOf<causal>(causalClass), 100, 100, 8, 8);
  asked.question.num_threads = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(asked.ask(), bruteForce<causal>(asked));
}

TEST(Classify, DamagedCode) {
  for (bool hasClass : {true, false}) {
    Question asked(codeOf<causal>(), 8, 8, 8, 8);
    if (hasClass)
      asked.code.count = nullptr;
    else
      asked.code.classify = nullptr;
    heed_block_runs *result;
    EXPECT_EQ(heed_classify(&asked.kernel, &asked.question, nullptr, &result),
              HEED_INVALID_ARGUMENT);
    EXPECT_STREQ(heed_last_error(), "kernel 'fake' is damaged: a mask code has no entry point");
  }
}

std::atomic<int> hostCalls;

TEST(Classify, UsesTheHostsPool) {
  heed_set_parallel_for([](int64_t numTasks, int32_t, heed_task_fn fn, void *context) {
    ++hostCalls;
    for (int64_t task = numTasks - 1; task >= 0; --task)
      fn(context, task, 0);
  });
  Question asked(codeOf<causal>(causalClass), 100, 100, 8, 8);
  EXPECT_EQ(asked.ask(), bruteForce<causal>(asked));
  heed_set_parallel_for(nullptr);
  EXPECT_EQ(hostCalls, 1);
}

} // namespace
