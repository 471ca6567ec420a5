//===-- Error.cpp - The message of a call that failed -----------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Error.h"

#include <stdarg.h>
#include <stdio.h>

// Plain storage without a constructor or destructor: it needs no C++ runtime and is usable during
// thread exit.
static __thread char message[512];

heed_status heed::runtime::fail(heed_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  return status;
}

void heed::runtime::warn(const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  // One call, so that lines of several processes do not mix.
  fprintf(stderr, "heed: warning: %s\n", line);
}

extern "C" const char *heed_last_error(void) { return message; }

extern "C" const char *heed_status_name(heed_status status) {
  switch (status) {
  case HEED_OK:
    return "HEED_OK";
  case HEED_INVALID_ARGUMENT:
    return "HEED_INVALID_ARGUMENT";
  case HEED_UNSUPPORTED_CPU:
    return "HEED_UNSUPPORTED_CPU";
  case HEED_OUT_OF_MEMORY:
    return "HEED_OUT_OF_MEMORY";
  case HEED_ABI_MISMATCH:
    return "HEED_ABI_MISMATCH";
  case HEED_UNSUPPORTED_GPU:
    return "HEED_UNSUPPORTED_GPU";
  case HEED_LAUNCH_FAILED:
    return "HEED_LAUNCH_FAILED";
  case HEED_UNALIGNED:
    return "HEED_UNALIGNED";
  }
  return "unknown heed_status";
}
