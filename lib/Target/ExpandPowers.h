//===-- ExpandPowers.h - x to the power of y -------------------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_EXPANDPOWERS_H
#define HEED_LIB_TARGET_EXPANDPOWERS_H

#include "mlir/IR/PatternMatch.h"

namespace heed {

/// Expands math.powf of f32 and vectors of it, for bases of any sign (MLIR's own expansion has NaN
/// for those below 0 and for 0 to the power of 0): products where the exponent is a small integer
/// constant, else exp(y log |x|) with the sign that IEEE 754's pow has.
void populatePowerExpansion(mlir::RewritePatternSet &patterns);

} // namespace heed

#endif // HEED_LIB_TARGET_EXPANDPOWERS_H
