//===-- Instructions.h - What regions are compiled to ----------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_INTERPRETER_INSTRUCTIONS_H
#define HEED_LIB_INTERPRETER_INSTRUCTIONS_H

#include "heed/Interpreter/Interpreter.h"

namespace heed::interpreter {

enum class RegionEvaluator::Opcode : uint8_t {
  // Control. `c` is the target, an index into the code.
  Move,
  Jump,
  JumpIfFalse,    // unless a
  JumpUnlessLess, // unless a < b
  CheckStep,      // if a is not a step of a loop
  // Memory: tensor `a`, indices from operandLists[b]; extra: float.
  Load,
  // Integers.
  AddI,
  SubI,
  MulI,
  AndI,
  OrI,
  XOrI,
  MinSI,
  MaxSI,
  MinUI,
  MaxUI,
  ShLI,
  ShRSI,
  ShRUI,
  // Division that is total: by zero it gives zero.
  TotalFloorDiv,
  TotalMod,
  // Division that is undefined by zero and for overflow.
  DivSI,
  RemSI,
  FloorDivSI,
  CeilDivSI,
  DivUI,
  RemUI,
  CeilDivUI,
  CmpEQ,
  CmpNE,
  CmpSLT,
  CmpSLE,
  CmpSGT,
  CmpSGE,
  CmpULT,
  CmpULE,
  CmpUGT,
  CmpUGE,
  // Conversions. Wrap brings a result into `shift`; ZExt reads an operand of `shift` as unsigned.
  Wrap,
  ZExt,
  SIToFP,
  UIToFP,
  FPToSI,
  FPToUI,
  // Floating point. extra: which predicate or function.
  AddF,
  SubF,
  MulF,
  DivF,
  NegF,
  CmpF,
  Call1,
  Call2,
  Call3,
  Select,
};

/// Functions of floating-point numbers, by the ops that they compute; an instruction calls one by
/// its place here.
struct UnaryFunction {
  llvm::StringLiteral name;
  double (*function)(double);
};
struct BinaryFunction {
  llvm::StringLiteral name;
  double (*function)(double, double);
};
llvm::ArrayRef<UnaryFunction> unaryFunctions();
llvm::ArrayRef<BinaryFunction> binaryFunctions();

/// An integer of 64 - `shift` bits, sign-extended.
inline int64_t wrap(uint64_t value, unsigned shift) { return int64_t(value << shift) >> shift; }

} // namespace heed::interpreter

#endif // HEED_LIB_INTERPRETER_INSTRUCTIONS_H
