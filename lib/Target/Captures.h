//===-- Captures.h - A variant's parameters in compiled code ---*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What all targets know of the argument block (heed-c/Runtime.h): how a variant's
// parameters lie in it.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_CAPTURES_H
#define HEED_LIB_TARGET_CAPTURES_H

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"

namespace heed {

/// A kernel's arguments before the variant's parameters: six tensors and the scale.
constexpr unsigned kFirstParameter = 7;

/// A captured tensor as the argument block describes it.
struct CapturedTensor {
  mlir::Value data;                                // an address
  llvm::SmallVector<mlir::Value> extents, strides; // i64; strides in elements
  mlir::Type element;
};

/// The words of a block with these parameters.
int64_t countArgumentWords(mlir::ValueRange parameters);

/// A scalar of a type from the bits of its word.
mlir::Value emitScalarArgument(mlir::OpBuilder &b, mlir::Location loc, mlir::Type type,
                               mlir::Value bits);

/// Reads the parameters: scalars into `scalars`, tensors into `captured`. `word` and `pointer` load
/// a word of the block as an i64 and as an address.
void bindParameters(mlir::OpBuilder &b, mlir::Location loc, mlir::ValueRange parameters,
                    llvm::function_ref<mlir::Value(int64_t)> word,
                    llvm::function_ref<mlir::Value(int64_t)> pointer, mlir::IRMapping &scalars,
                    llvm::DenseMap<mlir::Value, CapturedTensor> &captured);

} // namespace heed

#endif // HEED_LIB_TARGET_CAPTURES_H
