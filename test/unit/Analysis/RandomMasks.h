//===-- RandomMasks.h - Random masks of the language and captures -*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What the tests of block classes draw: masks from the grammar of the language over fixed
// parameters, and values for these that are plausible or far from it.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_UNIT_ANALYSIS_RANDOMMASKS_H
#define HEED_UNIT_ANALYSIS_RANDOMMASKS_H

#include "heed/Interpreter/Interpreter.h"
#include "llvm/ADT/bit.h"

#include <cmath>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace heed::test {

using namespace heed::interpreter;
using llvm::ArrayRef;
using llvm::StringRef;

class Random {
public:
  explicit Random(uint64_t seed) : engine(seed) {}
  /// A number in [lo, hi].
  int64_t in(int64_t lo, int64_t hi) {
    return std::uniform_int_distribution<int64_t>(lo, hi)(engine);
  }
  bool chance(int percent) { return in(1, 100) <= percent; }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[in(0, values.size() - 1)];
  }

private:
  std::mt19937_64 engine;
};

/// What a launch passes, and memory for it.
struct Captures {
  std::vector<HostValue> values;
  std::deque<std::vector<int64_t>> buffers;

  void addTensor(DType dtype, ArrayRef<int64_t> shape,
                 llvm::function_ref<int64_t(int64_t)> element) {
    int64_t size = 1;
    for (int64_t extent : shape)
      size *= extent;
    std::vector<int64_t> &buffer = buffers.emplace_back(size + 1);
    char *data = reinterpret_cast<char *>(buffer.data());
    for (int64_t i = 0; i < size; ++i) {
      int64_t value = element(i);
      if (dtype == DType::Bool)
        data[i] = value & 1;
      else // little-endian, as all targets are
        memcpy(data + i * sizeOf(dtype), &value, sizeOf(dtype));
    }
    values.push_back(HostTensor(data, dtype, shape));
  }
};

/// Source text of a random mask over fixed parameters.
class MaskGenerator {
public:
  explicit MaskGenerator(Random &random) : random(random) {}

  static constexpr StringRef parameters = "w0: index, w1: index, w2: index, long0: i64, flag: "
                                          "bool, t: i32[?], u: i32[?], doc: i32[B, ?], "
                                          "far: i32[?], marked: bool[?], pairs: i32[?, ?], layout: "
                                          "bool[?, ?], bytes: i8[?], longs: i64[?], "
                                          "times: f32[?], radius: f32";

  std::string generate() {
    return "variant v(" + parameters.str() + ") {\n  mask_mod(b, h, q, kv) { return " +
           boolean(random.in(1, 4)) + " }\n}\n";
  }

private:
  std::string number(int64_t v) {
    return v < 0 ? "(-" + std::to_string(-v) + ")" : std::to_string(v);
  }
  std::string smallNumber() {
    return number(random.of<int64_t>({-7, -3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 16, 33, 64, 100}));
  }
  std::string anyNumber() {
    if (random.chance(85))
      return smallNumber();
    return number(
        random.of<int64_t>({INT32_MAX, INT32_MAX - 1, INT32_MAX - 200, -INT32_MAX, -INT32_MAX + 100,
                            1 << 30, 1 << 29, -(1 << 30), 46341, 65536, 715827883}));
  }
  std::string scalar() { return random.of<const char *>({"w0", "w1", "w2"}); }
  std::string binary(std::string x, const char *op, std::string y) {
    return "(" + x + " " + op + " " + y + ")";
  }

  /// a*q + b*kv + c: what masks are mostly made of.
  std::string affine() {
    std::string r;
    auto term = [&](const char *name) {
      int64_t c = random.of<int64_t>({0, 1, 1, 1, -1, -1, 2, -2, 3, 5});
      if (c == 0)
        return;
      std::string part = c == 1 ? name : binary(number(c), "*", name);
      r = r.empty() ? part : binary(r, "+", part);
    };
    term("q");
    term("kv");
    if (r.empty() || random.chance(40)) {
      std::string offset = random.chance(50) ? scalar() : anyNumber();
      r = r.empty() ? offset : binary(r, random.of<const char *>({"+", "-"}), offset);
    }
    return r;
  }

  std::string place(int depth) {
    std::string base = random.of<const char *>({"q", "kv"});
    switch (random.in(0, 5)) {
    case 0:
      return binary(base, random.of<const char *>({"+", "-"}),
                    random.chance(50) ? scalar() : smallNumber());
    case 1:
      return binary(base, random.of<const char *>({"//", "%"}),
                    random.chance(30) ? scalar() : smallNumber());
    case 2:
      return depth > 0 ? integer(depth - 1) : base;
    default:
      return base;
    }
  }

  std::string load(int depth) {
    switch (random.in(0, 7)) {
    case 0:
      return "t[" + place(depth) + "]";
    case 1:
      return "far[" + place(depth) + "]";
    case 2:
      return "t[u[" + place(depth) + "]]";
    case 3:
      return "pairs[" + place(depth) + ", " + place(depth) + "]";
    case 4:
      return "bytes[" + place(depth) + "]";
    case 5:
      return random.of<const char *>({"t[b]", "t[h]", "doc[b, h]", "t[u[b]]"});
    default:
      return "doc[b, " + place(depth) + "]";
    }
  }

  std::string leaf() {
    switch (random.in(0, 11)) {
    case 0:
      return anyNumber();
    case 1:
      return scalar();
    case 2:
      return random.of<const char *>({"b", "h", "Skv", "Sq"});
    case 3:
      return load(0);
    case 4:
    case 5:
      return random.of<const char *>({"(q - kv)", "(kv - q)", "(q + kv)"});
    case 6:
    case 7:
    case 8:
      return random.of<const char *>({"q", "kv"});
    default:
      return affine();
    }
  }

  std::string integer(int depth) {
    if (depth <= 0 || random.chance(15))
      return leaf();
    auto next = [&] { return integer(depth - 1); };
    std::string divisor = random.chance(40) ? scalar() : random.chance(85) ? smallNumber() : next();
    switch (random.in(0, 19)) {
    case 0:
    case 1:
      return binary(next(), "+", next());
    case 2:
    case 3:
      return binary(next(), "-", next());
    case 4:
      return binary(next(), "*", anyNumber());
    case 5:
      return binary(next(), "*", next());
    case 6:
    case 7:
      return binary(next(), "//", divisor);
    case 8:
    case 9:
      return binary(next(), "%", divisor);
    case 10:
      return std::string(random.of<const char *>({"min", "max"})) + "(" + next() + ", " + next() +
             ")";
    case 11:
      return "abs(" + next() + ")";
    case 12:
      return "clamp(" + next() + ", " + leaf() + ", " + leaf() + ")";
    case 13:
      return "where(" + boolean(depth - 1) + ", " + next() + ", " + next() + ")";
    case 14:
      return binary(next(), random.of<const char *>({"<<", ">>"}),
                    random.chance(60)   ? std::to_string(random.in(0, 31))
                    : random.chance(50) ? scalar()
                                        : binary(next(), "&", "31")); // constants are checked
    case 15:
      if (random.chance(25))
        return binary(next(), "&", scalar());
      return random.chance(80)
                 ? binary(next(), "&",
                          std::to_string(
                              random.of<int64_t>({0, 1, 3, 6, 7, 15, 63, 64, 127, INT32_MAX})))
                 : binary(std::to_string(random.of<int64_t>({7, 12, 63})), "&", next());
    case 16:
      return binary(next(), random.of<const char *>({"&", "|", "^"}), next());
    case 17:
      return random.chance(50) ? "(-" + next() + ")" : "(~" + next() + ")";
    case 18:
      switch (random.in(0, 4)) {
      case 0:
        return "i32(" + boolean(depth - 1) + ")";
      case 1:
        return "i32(" + real(depth - 1) + ")";
      default:
        return "i32(" + longInteger(depth - 1) + ")";
      }
    default:
      return load(depth - 1);
    }
  }

  std::string longInteger(int depth) {
    auto next = [&] { return longInteger(depth - 1); };
    if (depth <= 0)
      return random.of<const char *>({"i64(q)", "i64(kv)", "i64(q - kv)", "long0", "longs[q]",
                                      "longs[kv]", "i64(w0)", "4294967296", "9223372036854775807",
                                      "(-1099511627777)", "1099511627775", "i64(3)"});
    switch (random.in(0, 9)) {
    case 0:
      return binary(next(), random.of<const char *>({"+", "-"}), next());
    case 1:
      return binary(next(), "*", next());
    case 2:
      return binary(next(), random.of<const char *>({"//", "%"}), next());
    case 3:
      return binary(next(), random.of<const char *>({"<<", ">>"}),
                    random.chance(80) ? std::to_string(random.in(0, 63))
                                      : binary(next(), "&", "63"));
    case 4:
      return std::string(random.of<const char *>({"min", "max"})) + "(" + next() + ", " + next() +
             ")";
    case 5:
      return "abs(" + next() + ")";
    case 6:
      return "where(" + boolean(depth - 1) + ", " + next() + ", " + next() + ")";
    case 7:
      return binary(next(), random.of<const char *>({"&", "|", "^"}), next());
    default:
      return "i64(" + integer(depth - 1) + ")";
    }
  }

  std::string real(int depth) {
    auto next = [&] { return real(depth - 1); };
    if (depth <= 0)
      return random.of<const char *>({"f32(q)", "f32(kv)", "f32(q - kv)", "radius", "times[q]",
                                      "times[kv]", "0.0", "0.5", "-3.0", "7.25", "1e30"});
    switch (random.in(0, 11)) {
    case 0:
    case 1:
      return binary(next(), random.of<const char *>({"+", "-"}), next());
    case 2:
      return binary(next(), "*", next());
    case 3:
      return binary(next(), "/",
                    random.chance(60) ? random.of<const char *>({"2.0", "3.0", "64.0"}) : next());
    case 4:
      return std::string(random.of<const char *>({"min", "max"})) + "(" + next() + ", " + next() +
             ")";
    case 5:
      return "abs(" + next() + ")";
    case 6:
      return std::string(random.of<const char *>({"floor", "ceil", "sqrt", "exp", "exp2", "log",
                                                  "log2", "log1p", "tanh", "erf", "rsqrt"})) +
             "(" + next() + ")";
    case 7:
      return "where(" + boolean(depth - 1) + ", " + next() + ", " + next() + ")";
    case 8:
      return "(-" + next() + ")";
    case 9:
      return "f32(" + boolean(depth - 1) + ")";
    case 10:
      return "times[" + place(depth) + "]";
    default:
      return "f32(" + integer(depth - 1) + ")";
    }
  }

  std::string comparison(int depth) {
    const char *op = random.of<const char *>({"<", "<=", ">", ">=", "==", "!="});
    if (random.chance(40))
      return binary(affine(), op, affine());
    if (random.chance(12))
      return binary(longInteger(depth), op, longInteger(depth));
    if (random.chance(12))
      return binary(real(depth), op, real(depth));
    return binary(integer(depth), op, integer(depth));
  }

  std::string boolean(int depth) {
    if (depth <= 0 || random.chance(25)) {
      switch (random.in(0, 19)) {
      case 0:
        return "flag";
      case 1:
        return "marked[" + place(0) + "]";
      case 2:
        return "layout[" + place(0) + ", " + place(0) + "]";
      case 3:
        return random.of<const char *>({"true", "false", "marked[b]"});
      default:
        return comparison(depth > 0 ? depth : random.in(0, 2));
      }
    }
    auto next = [&] { return boolean(depth - 1); };
    switch (random.in(0, 9)) {
    case 0:
    case 1:
    case 2:
      return binary(next(), random.of<const char *>({"&&", "&"}), next());
    case 3:
    case 4:
    case 5:
      return binary(next(), random.of<const char *>({"||", "|"}), next());
    case 6:
      return "(!" + next() + ")";
    case 7:
      return binary(next(), "^", next());
    case 8:
      return binary(next(), random.of<const char *>({"==", "!="}), next());
    default:
      return "where(" + next() + ", " + next() + ", " + next() + ")";
    }
  }

  Random &random;
};

/// Values for MaskGenerator's parameters.
inline Captures randomCaptures(Random &random, const Extents &extents) {
  Captures captures;
  int64_t size = std::max(extents.Sq, extents.Skv);
  auto scalar = [&]() -> int64_t {
    switch (random.in(0, 9)) {
    case 0:
      return 0;
    case 1:
      return random.in(-5, -1);
    case 2:
      return random.of<int64_t>(
          {INT32_MAX, INT32_MIN, INT32_MIN + 1, INT32_MAX - 150, 1 << 30, -(1 << 30)});
    case 3:
    case 4:
      return int64_t(1) << random.in(0, 8);
    case 5:
      return random.in(-size, size);
    default:
      return random.in(1, size);
    }
  };
  for (int i = 0; i < 3; ++i)
    captures.values.push_back(scalar());
  captures.values.push_back(
      random.chance(60)
          ? scalar()
          : random.of<int64_t>({INT64_MAX, INT64_MIN, INT64_MIN + 1, int64_t(1) << 40,
                                -(int64_t(1) << 40), int64_t(1) << 39, int64_t(1) << 33}));
  captures.values.push_back(random.in(0, 1));
  auto length = [&] { return random.chance(70) ? size : random.in(0, size + 5); };
  // Ids in order, positions, or anything.
  auto tensor = [&](DType dtype, ArrayRef<int64_t> shape, bool isWild) {
    int kind = isWild ? 3 : random.in(0, 2);
    int64_t last = random.in(-2, 2), run = random.in(1, 90);
    captures.addTensor(dtype, shape, [&](int64_t i) -> int64_t {
      if (kind == 0) // runs
        return i % run == 0 ? ++last : last;
      if (kind == 1)
        return random.in(0, size);
      if (kind == 2)
        return random.in(-1, 2);
      return random.chance(90) ? random.in(INT32_MAX - 300, INT32_MAX)
                               : random.of<int64_t>({INT32_MIN, 0, -1, int64_t(1) << 41});
    });
  };
  tensor(DType::I32, {length()}, false);
  tensor(DType::I32, {length()}, false);
  tensor(DType::I32, {extents.B, length()}, false);
  tensor(DType::I32, {length()}, true);
  int64_t percent = random.of<int64_t>({0, 3, 50, 97, 100});
  auto flags = [&](ArrayRef<int64_t> shape) {
    captures.addTensor(DType::Bool, shape, [&](int64_t) { return random.chance(percent); });
  };
  flags({length()});
  tensor(DType::I32, {random.in(1, size), random.in(1, size)}, false);
  flags({random.in(1, size), random.in(1, size)});
  tensor(DType::I8, {length()}, false);
  tensor(DType::I64, {length()}, random.chance(30));
  // Times in order, or anything, with numbers that are none.
  bool isSorted = random.chance(50);
  double time = -10;
  int percentOdd = random.of<int64_t>({0, 0, 1, 20});
  captures.addTensor(DType::F32, {length()}, [&](int64_t) {
    time = isSorted ? time + random.in(0, 40) * 0.25 : random.in(-400, 400) * 0.25;
    float f = !random.chance(percentOdd)
                  ? float(time)
                  : random.of<float>({INFINITY, -INFINITY, NAN, -0.0f, 3e38f});
    return llvm::bit_cast<int32_t>(f);
  });
  captures.values.push_back(random.of<double>({0.0, 1.5, -20.0, 64.0, 1e30, INFINITY, NAN}));
  return captures;
}

} // namespace heed::test

#endif // HEED_UNIT_ANALYSIS_RANDOMMASKS_H
