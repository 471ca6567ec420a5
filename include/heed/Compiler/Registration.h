//===-- Registration.h - What Heed's developer tools know ------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_COMPILER_REGISTRATION_H
#define HEED_COMPILER_REGISTRATION_H

#include "mlir/IR/DialectRegistry.h"

namespace heed {

/// The dialects that a file may be written in: Heed's, and those that its levels are mixed with.
void registerAllDialects(mlir::DialectRegistry &registry);

/// Heed's passes and pipelines, and MLIR's general ones such as canonicalize and cse.
void registerAllPasses();

} // namespace heed

#endif // HEED_COMPILER_REGISTRATION_H
