//===-- Error.h - The message of a call that failed -------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_RUNTIME_ERROR_H
#define HEED_LIB_RUNTIME_ERROR_H

#include "heed-c/Runtime.h"

namespace heed::runtime {

/// Stores this thread's message, which heed_last_error() returns, and gives back `status`, so that
/// a check can say `return fail(HEED_INVALID_ARGUMENT, "...")`.
__attribute__((format(printf, 2, 3))) heed_status fail(heed_status status, const char *format, ...);

/// One line on stderr, for settings that come from the environment and have no caller to report to.
__attribute__((format(printf, 1, 2))) void warn(const char *format, ...);

} // namespace heed::runtime

#endif // HEED_LIB_RUNTIME_ERROR_H
