//===-- Builtins.h - The functions of the language --------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_LANGUAGE_BUILTINS_H
#define HEED_LIB_LANGUAGE_BUILTINS_H

#include "heed/Language/Program.h"

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"

namespace heed::lang {

enum class Builtin : uint8_t {
  // Casts.
  ToBool,
  ToI32,
  ToI64,
  ToF32,
  // Numbers to a number of the same type.
  Abs,
  Min,
  Max,
  Clamp,
  Square,
  Relu,
  // f32 to f32.
  Math,
  Pow,
  Sigmoid,
  Silu,
  Gelu,
  // Others.
  Select,
  Any,
  All,
  Sum,
  Dot,
};

struct BuiltinInfo {
  llvm::StringLiteral name;
  Builtin kind;
  unsigned minArgs, maxArgs;
  MathFn math = MathFn::Abs; // if kind is Math
};

const BuiltinInfo *lookupBuiltin(llvm::StringRef name);
inline bool isBuiltinName(llvm::StringRef name) { return lookupBuiltin(name); }
llvm::ArrayRef<llvm::StringRef> builtinNames();

} // namespace heed::lang

#endif // HEED_LIB_LANGUAGE_BUILTINS_H
