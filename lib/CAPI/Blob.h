//===-- Blob.h - Bytes handed to a caller of the C API ---------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_LIB_CAPI_BLOB_H
#define HEED_LIB_CAPI_BLOB_H

#include "heed-c/Compiler.h"

#include "llvm/ADT/SmallString.h"
#include "llvm/Support/Error.h"

struct heed_blob {
  llvm::SmallString<0> bytes;
};

namespace heed {

/// Makes `*result` (if the caller wants one) and says `status`.
inline heed_status give(heed_blob **result, llvm::StringRef bytes, heed_status status) {
  if (result)
    *result = new heed_blob{llvm::SmallString<0>(bytes)};
  return status;
}

inline heed_status giveError(heed_blob **result, llvm::Error error) {
  return give(result, "heed: error: " + llvm::toString(std::move(error)) + "\n",
              HEED_INVALID_ARGUMENT);
}

} // namespace heed

#endif // HEED_LIB_CAPI_BLOB_H
