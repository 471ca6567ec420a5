//===-- Dependence.h - What the values of a stage depend on -----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// For every value of a stage: the set of stage arguments it may depend on. What depends on h alone
// is computed once a head, what depends on kv alone once a key, and so on:
//
//   attn.score(%s, %b, %h, %q, %kv) {
//     %m = attn.load %slope[%h]          // {h}
//     %d = arith.subi %kv, %q : i32      // {q, kv}
//     %f = arith.sitofp %d : i32 to f32  // {q, kv}
//     %t = arith.mulf %m, %f : f32       // {h, q, kv}
//     %r = arith.addf %s, %t : f32       // {s, h, q, kv}
//
// The sets are syntactic: %q - %q depends on q. Captures and constants depend on nothing.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_ANALYSIS_DEPENDENCE_H
#define HEED_ANALYSIS_DEPENDENCE_H

#include "mlir/IR/Operation.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/DenseMap.h"

#include <cstdint>
#include <string>

namespace llvm {
class raw_ostream;
} // namespace llvm

namespace heed {

/// A set of stage arguments.
class Dependence {
public:
  constexpr Dependence() = default;

  static constexpr Dependence none() { return Dependence(0); }
  static constexpr Dependence score() { return Dependence(1); }
  static constexpr Dependence b() { return Dependence(2); }
  static constexpr Dependence h() { return Dependence(4); }
  static constexpr Dependence q() { return Dependence(8); }
  static constexpr Dependence kv() { return Dependence(16); }
  static constexpr Dependence all() { return Dependence(31); }

  constexpr Dependence operator|(Dependence other) const { return Dependence(bits | other.bits); }
  constexpr Dependence operator&(Dependence other) const { return Dependence(bits & other.bits); }
  constexpr Dependence operator~() const { return Dependence(~bits & all().bits); }
  constexpr Dependence &operator|=(Dependence other) { return *this = *this | other; }
  constexpr Dependence &operator&=(Dependence other) { return *this = *this & other; }
  constexpr bool operator==(Dependence other) const { return bits == other.bits; }
  constexpr bool operator!=(Dependence other) const { return bits != other.bits; }

  constexpr bool isNone() const { return bits == 0; }
  /// Whether everything in this set is in `other`.
  constexpr bool isSubsetOf(Dependence other) const { return (bits & ~other.bits) == 0; }
  constexpr bool intersects(Dependence other) const { return (bits & other.bits) != 0; }

  /// "{s, q, kv}"; "{}" for none.
  std::string str() const;

private:
  explicit constexpr Dependence(unsigned bits) : bits(bits) {}

  uint8_t bits = 0;
};

llvm::raw_ostream &operator<<(llvm::raw_ostream &os, Dependence dependence);

/// The dependences of all values in a region, nested ones included.
class DependenceAnalysis {
public:
  /// For a stage of an attn.variant.
  explicit DependenceAnalysis(mlir::Operation *stage);
  /// For a region of one block whose arguments depend on `arguments`, such as that of a tile.map.
  DependenceAnalysis(mlir::Region &region, llvm::ArrayRef<Dependence> arguments);

  /// What `value` depends on; none for a value from outside the region.
  Dependence lookup(mlir::Value value) const { return dependences.lookup(value); }
  /// What the terminator's operands depend on: what the stage depends on.
  Dependence getResult() const { return result; }

private:
  void run(mlir::Region &region, llvm::ArrayRef<Dependence> arguments);
  /// Returns whether a set grew.
  bool visitBlock(mlir::Block &block);
  bool visitOp(mlir::Operation &op);
  bool join(mlir::ValueRange values, Dependence dependence);
  Dependence joinOf(mlir::ValueRange values) const;

  llvm::DenseMap<mlir::Value, Dependence> dependences;
  Dependence result;
};

} // namespace heed

#endif // HEED_ANALYSIS_DEPENDENCE_H
