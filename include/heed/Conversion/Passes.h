//===-- Passes.h - Conversions between Heed's levels -----------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_CONVERSION_PASSES_H
#define HEED_CONVERSION_PASSES_H

#include "mlir/Pass/Pass.h"

namespace heed {

/// On the functions that attn-to-classifier makes: what is known of the mask.
inline constexpr llvm::StringLiteral kBoxAttr = "heed.box";

#define GEN_PASS_DECL
#include "heed/Conversion/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "heed/Conversion/Passes.h.inc"

} // namespace heed

#endif // HEED_CONVERSION_PASSES_H
