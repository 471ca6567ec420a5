//===-- TensorTypeTest.cpp - What no text can say of !attn.tensor ---------===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"

#include "gtest/gtest.h"

using namespace mlir;
using namespace heed;

TEST(TensorType, ExtentsAreNumbersOrSymbols) {
  MLIRContext context;
  context.loadDialect<attn::AttnDialect>();
  std::string message;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &d) { message = d.str(); });
  auto get = [&](int64_t extent) {
    return attn::TensorType::getChecked([&] { return emitError(UnknownLoc::get(&context)); },
                                        &context, {attn::Extent::B, extent},
                                        Float32Type::get(&context));
  };
  EXPECT_TRUE(get(0));
  EXPECT_TRUE(get(attn::Extent::Any));
  EXPECT_EQ(message, "");
  EXPECT_FALSE(get(attn::Extent::Any - 1));
  EXPECT_EQ(message, "expects extents to be numbers or symbols, found -9");
}
