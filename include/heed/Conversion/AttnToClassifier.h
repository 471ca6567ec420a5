//===-- AttnToClassifier.h - A mask as functions of a box -----*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_CONVERSION_ATTNTOCLASSIFIER_H
#define HEED_CONVERSION_ATTNTOCLASSIFIER_H

#include "heed/Dialect/Attn/IR/Attn.h"

namespace heed {

/// Emits the functions NAME_classify and NAME_attends that attn-to-classifier describes.
void emitClassifier(mlir::OpBuilder &builder, attn::ForwardOp forward, llvm::StringRef name);

/// Whether a loop over keys should walk lists made beforehand: where the mask reads tensors along
/// queries or keys, for the reads of a block are then shared by many, and where it takes
/// remainders, for lists leave out blocks that intervals do not.
bool profitsFromLists(attn::MaskOp mask);

} // namespace heed

#endif // HEED_CONVERSION_ATTNTOCLASSIFIER_H
