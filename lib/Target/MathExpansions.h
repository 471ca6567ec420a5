//===-- MathExpansions.h - Functions by other functions --------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_TARGET_MATHEXPANSIONS_H
#define HEED_LIB_TARGET_MATHEXPANSIONS_H

#include "mlir/IR/PatternMatch.h"

#include <optional>

namespace heed {

/// Expands math.powf of f32 and vectors of it, for bases of any sign (MLIR's own expansion has NaN
/// for those below 0 and for 0 to the power of 0): products where the exponent is a small integer
/// constant, else exp(y log |x|) with the sign that IEEE 754's pow has.
void populatePowerExpansion(mlir::RewritePatternSet &patterns);

/// Brings the angles of math.sin and math.cos of f32 into [-pi, pi] by 2 pi in two parts (Cody and
/// Waite), since approximations lose a digit with each digit of the angle: errors of 5e-7 for |x|
/// up to 5e7 and 4e-6 up to 5e8. Without FMA it takes f64. What is left of larger ones grows with
/// them, to no more than `limit`.
void populateAngleReduction(mlir::RewritePatternSet &patterns, bool hasFMA,
                            std::optional<float> limit = std::nullopt);

} // namespace heed

#endif // HEED_LIB_TARGET_MATHEXPANSIONS_H
