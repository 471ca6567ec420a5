//===-- Builder.h - Makes the nodes of a checked program --------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_LANGUAGE_BUILDER_H
#define HEED_LIB_LANGUAGE_BUILDER_H

#include "heed/Language/Program.h"

#include "llvm/ADT/DenseMap.h"

namespace heed::lang {

/// Makes nodes and folds what is constant. Folding is exact: it gives the bits
/// that the node would have given, so exp and its like are left alone. Operand
/// types are the caller's care. Logic is kept plain for those who reason about
/// masks: an early `return false` becomes an `and`, a negated integer comparison
/// the opposite one.
class Builder {
public:
  explicit Builder(CheckedProgram &program) : program(program) {}

  /// Starts a function; the nodes of the last one are complete.
  void start();
  Function finish(const Node *result, Location loc);

  /// Where the nodes that follow come from.
  void setLocation(Location where) { loc = where; }

  const Node *constant(const ScalarConstant &value);
  const Node *integer(ValueType type, int64_t value); // Bool, I32 (wraps), I64
  const Node *real(float value);
  const Node *coordinate(Coordinate which);
  const Node *size(Size which);
  const Node *param(ValueType type, unsigned number);
  const Node *load(ValueType type, unsigned number, llvm::ArrayRef<const Node *> indices);
  const Node *unary(UnaryOp op, const Node *operand);
  const Node *binary(BinaryOp op, const Node *lhs, const Node *rhs);
  const Node *math(MathFn fn, const Node *operand);
  const Node *select(const Node *condition, const Node *ifTrue, const Node *ifFalse);
  /// Any conversion, to Bool as well.
  const Node *cast(ValueType to, const Node *operand);

private:
  Node *make(NodeKind kind, ValueType type, llvm::ArrayRef<const Node *> operands = {});
  const Node *foldBinary(BinaryOp op, const Node *lhs, const Node *rhs);

  CheckedProgram &program;
  Location loc;
  std::vector<Node *> created;
  // Leaves are shared: a coordinate is one value, however often it is read.
  llvm::DenseMap<unsigned, const Node *> leaves;
  llvm::DenseMap<std::pair<unsigned, uint64_t>, const Node *> constants; // by type and bits
};

} // namespace heed::lang

#endif // HEED_LIB_LANGUAGE_BUILDER_H
