//===-- Captures.cpp - A variant's parameters in compiled code ------------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Captures.h"

#include "heed-c/Runtime.h"
#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace heed;

/// A scalar takes a word; a tensor a pointer, its extents and its strides.
static int64_t countWords(Value parameter) {
  auto tensor = dyn_cast<attn::TensorType>(parameter.getType());
  return tensor ? 1 + 2 * tensor.getRank() : 1;
}

int64_t heed::countArgumentWords(ValueRange parameters) {
  int64_t words = HEED_ARG_PARAMS;
  for (Value parameter : parameters)
    words += countWords(parameter);
  return words;
}

Value heed::emitScalarArgument(OpBuilder &b, Location loc, Type type, Value bits) {
  if (type.isInteger(64))
    return bits;
  if (type.isInteger(1))
    return arith::TruncIOp::create(b, loc, type, bits);
  Value low = arith::TruncIOp::create(b, loc, b.getI32Type(), bits);
  return type.isF32() ? arith::BitcastOp::create(b, loc, type, low).getResult() : low;
}

void heed::bindParameters(OpBuilder &b, Location loc, ValueRange parameters,
                          llvm::function_ref<Value(int64_t)> word,
                          llvm::function_ref<Value(int64_t)> pointer, IRMapping &scalars,
                          llvm::DenseMap<Value, CapturedTensor> &captured) {
  int64_t first = HEED_ARG_PARAMS;
  for (Value parameter : parameters) {
    if (auto tensor = dyn_cast<attn::TensorType>(parameter.getType())) {
      CapturedTensor c;
      c.element = tensor.getElementType();
      c.data = pointer(first);
      for (int64_t i = 0; i < tensor.getRank(); ++i)
        c.extents.push_back(word(first + 1 + i));
      for (int64_t i = 0; i < tensor.getRank(); ++i)
        c.strides.push_back(word(first + 1 + tensor.getRank() + i));
      captured[parameter] = c;
    } else {
      scalars.map(parameter, emitScalarArgument(b, loc, parameter.getType(), word(first)));
    }
    first += countWords(parameter);
  }
}
