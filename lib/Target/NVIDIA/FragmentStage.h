//===-- FragmentStage.h - Evaluates stages on accumulator fragments --*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The region of a tile.map or tile.mask is a function of scalars. A thread evaluates
// it for its elements of a score fragment: two queries, q and q + 8, and for each of
// them keys at constant distances from its first key. Every value is computed as
// rarely as what it depends on allows:
//
//   nothing (b, h, captures)   once a tile
//   q                          once a tile, for two queries
//   kv                         once a block, for the keys of a row
//   q and kv, or the score     for each element
//
// Integers are kept as a register plus a constant, and floats made of them as
// a + c * u with a constant c: then q - kv costs one subtraction a block, a comparison
// with it one instruction with an immediate operand, and slope * (q - kv) one fused
// multiply-add an element.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_NVIDIA_FRAGMENTSTAGE_H
#define HEED_LIB_TARGET_NVIDIA_FRAGMENTSTAGE_H

#include "Scalars.h"

#include "heed/Dialect/Attn/IR/TotalDivision.h"

namespace heed::nvidia {

/// The place of an element: its row (0: the thread's first query, 1: eight below) and its distance
/// in keys from the thread's first key.
struct Element {
  int64_t row, column;
  /// The place of register i of a fragment.
  static Element ofRegister(int64_t i) { return {(i >> 1) & 1, 8 * (i >> 2) + (i & 1)}; }
};

class FragmentStage {
public:
  /// Emits the element of a tile beside at an even column, and that of the column behind it.
  using ReadPair = std::function<std::array<Value, 2>(Element)>;
  /// An argument of the region that is an element of a tile beside.
  struct Beside {
    bool isAlongKeys = true; // the same for all rows
    bool readsAhead = false; // before the scores are there, where registers allow it
    ReadPair read;
  };
  /// `block` is the region's block; `score`, `q` and `kv` its arguments, `score` may be null.
  FragmentStage(Emitter &e, Scalars &scalars, mlir::Block &block, Value score, Value q, Value kv,
                const llvm::DenseMap<Value, Beside> &beside = llvm::DenseMap<Value, Beside>());

  /// Emits what does not depend on the key, where it dominates all blocks. `outer` maps what the
  /// region uses from outside; `firstQ` is the thread's first query (i32).
  void hoist(const mlir::IRMapping &outer, Value firstQ);
  /// From here on conjunctions and disjunctions of a pair's conditions are Emitter::both and
  /// either: for a result that is selected by.
  void keepConditionsWhole() { areConditionsWhole = true; }
  /// Begins a block of keys; `firstKv` is the thread's first key (i32).
  void beginBlock(Value firstKv);
  /// Reads what lies beside each of a block's elements, so that it is on its way when they come.
  void readAhead(int64_t numElements);
  /// The region's result for an element, of the block begun last and at the builder's insertion
  /// point, which must not have left the region where that block began.
  Value evaluate(Element element, Value score) { return evaluate(result(), element, score); }
  /// The same of another value of the region.
  Value evaluate(Value v, Element element, Value score);
  /// The region's result.
  Value result() { return block.getTerminator()->getOperand(0); }
  /// Where the result is chosen by something uniform: that, at hand since `hoist`, and what it
  /// chooses between.
  struct Choice {
    Value condition, ifTrue, ifFalse;
  };
  std::optional<Choice> uniformChoice();
  /// Where the result is the score plus a + c u, with one a for all elements of a row and constants
  /// c: a for the two rows. Then evaluateBesides gives the result less a.
  std::optional<std::pair<Value, Value>> rowAddends(int64_t numElements);
  Value evaluateBesides(Element element, Value score);

private:
  enum : unsigned { OnScore = 1, OnQ = 2, OnKv = 4 };

  /// base + offset (integers), or base + offset * unit (floats; a null unit is 1). A null base is
  /// 0.
  struct Form {
    Value base;
    int64_t offset = 0;
    Value unit;
    int64_t bound = -1; // of an integer's magnitude; -1: it may be anything and wrap around
    bool isBoundedWith(const Form &other) const;
  };

  unsigned dependence(Value v) const { return dependences.lookup(v); }
  Form form(Value v, Element element);
  Form evaluateOp(mlir::Operation &op, Element element);
  Value materialize(const Form &form, Type type);
  Value value(Value v, Element element) { return materialize(form(v, element), v.getType()); }
  /// An op on two bases, emitted once a block (or once a tile).
  Value combine(llvm::StringRef name, Value x, Value y, llvm::function_ref<Value()> emit);
  /// What divisions by a uniform divisor share; nothing for others, of which a constant has its own
  /// ways.
  std::optional<attn::Divisor> divisorOf(mlir::Operation &op, Element element);
  /// What the result adds to the score, or null.
  Value addend();
  std::optional<Form> addForms(const Form &x, const Form &y, int64_t sign, bool isFloat);

  bool areConditionsWhole = false;
  Emitter &e;
  Scalars &scalars;
  mlir::Block &block;
  Value scoreArg, qArg, kvArg;
  mlir::IRMapping outer;
  llvm::DenseMap<Value, Beside> beside;
  std::map<std::tuple<void *, int64_t, int64_t>, std::array<Value, 2>> pairsBeside; // of the block
  llvm::DenseMap<Value, unsigned> dependences;
  llvm::DenseMap<Value, Form> uniforms, byRow[2];
  llvm::DenseMap<std::pair<Value, int64_t>, Form> byColumn;
  llvm::DenseMap<Value, Form> byElement;
  using Combined = std::map<std::tuple<std::string, void *, void *>, Value>;
  Combined hoisted, inBlock;
  Value blockKv;
  bool isHoisting = false;
};

} // namespace heed::nvidia

#endif // HEED_LIB_TARGET_NVIDIA_FRAGMENTSTAGE_H
