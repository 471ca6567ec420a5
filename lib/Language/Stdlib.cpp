//===-- Stdlib.cpp - The modules that come with the compiler ----*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed/Language/Stdlib.h"

using namespace heed::lang;

static constexpr StandardModule modules[] = {
#include "HeedStdlib.inc"
};

llvm::ArrayRef<StandardModule> heed::lang::standardModules() { return modules; }
