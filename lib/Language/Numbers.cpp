//===-- Numbers.cpp - Numbers as text -------------------------------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Numbers.h"

#include "llvm/ADT/APFloat.h"
#include "llvm/Support/Error.h"

#include <charconv>
#include <cmath>

using namespace llvm;

std::optional<float> heed::lang::parseF32(StringRef text) {
  StringRef digits = text;
  bool isNegative = digits.consume_front("-");
  if (!isNegative)
    digits.consume_front("+");
  if (digits == "inf")
    return isNegative ? -HUGE_VALF : HUGE_VALF;
  if (digits.empty() || digits.find_first_not_of("0123456789.eE+-") != StringRef::npos ||
      digits.find_first_of("0123456789") == StringRef::npos ||
      StringRef("eE+-").contains(digits.back()))
    return std::nullopt;
  APFloat value(APFloat::IEEEsingle());
  auto status = value.convertFromString(text, APFloat::rmNearestTiesToEven);
  if (!status) {
    consumeError(status.takeError());
    return std::nullopt;
  }
  return value.convertToFloat();
}

std::optional<int64_t> heed::lang::parseInteger(StringRef text) {
  StringRef digits = text;
  bool isNegative = digits.consume_front("-");
  unsigned radix = digits.consume_front_insensitive("0x") ? 16 : 10;
  uint64_t magnitude = 0;
  if (digits.getAsInteger(radix, magnitude) || magnitude > uint64_t(INT64_MAX) + isNegative)
    return std::nullopt;
  return int64_t(isNegative ? 0 - magnitude : magnitude);
}

std::string heed::lang::formatF32(float value) {
  if (std::isnan(value))
    return "nan";
  if (std::isinf(value))
    return value < 0 ? "-inf" : "inf";
  char text[32];
  auto end = std::to_chars(text, text + sizeof(text), double(value), std::chars_format::general, 9);
  return std::string(text, end.ptr);
}
