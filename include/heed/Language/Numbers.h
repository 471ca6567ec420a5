//===-- Numbers.h - Numbers as text -----------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// As the language and C spell them, whatever the locale of the process: strtof and
// printf take a decimal comma where the program that Heed is loaded into wants one.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LANGUAGE_NUMBERS_H
#define HEED_LANGUAGE_NUMBERS_H

#include "llvm/ADT/StringRef.h"

#include <cstdint>
#include <optional>
#include <string>

namespace heed::lang {

/// The nearest f32: decimal digits, rounded once, or "inf", with an optional sign. An infinite
/// result of digits means that they do not fit. None for other text.
std::optional<float> parseF32(llvm::StringRef text);

/// Decimal digits, in which a leading 0 means nothing, or hexadecimal ones behind 0x, with an
/// optional '-'. None for other text, and for what 64 bits do not hold.
std::optional<int64_t> parseInteger(llvm::StringRef text);

/// Digits that `parseF32` reads back as the same number: "0.1", "1e+10", "-inf", "nan".
std::string formatF32(float value);

} // namespace heed::lang

#endif // HEED_LANGUAGE_NUMBERS_H
