//===-- Requests.h - The interpreter for other languages -------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Evaluates rows of a variant in float64, and the classes of its blocks, on arrays in files, as a
// JSON text asks for it. python/heed/oracle.py is the usual caller, heed-interpret that of a shell.
//
//   {
//     "query": {"path": "q.bin", "dtype": "bf16", "shape": [1, 8, 512, 64]},
//     "key": ..., "value": ...,
//     "scale": 0.125,
//     "params": {"slope": {"path": ...}, "window": 128},
//     "rows": {"at": [[b, h, q], ...], "output": "o.bin", "lse": "l.bin"},
//     "classes": {"b": 0, "h": 0, "block_q": 64, "block_kv": 128, "output": "c.bin"},
//     "bounds": {"b": 0, "h": 0, "block_q": 64, "output": "b.bin"},
//     "pairs": {"b": 0, "h": 0, "output": "p.bin"}
//   }
//
// Arrays are dense and row-major; "offset" says how many bytes come before the first element. scale
// is 1/sqrt(D) if left out, a parameter its default. Each of "rows" to "pairs" may be left out.
// Rows are written as float64, rows x Dv and rows; classes as int8, blocks of queries x blocks of
// keys: 0 skipped, 1 partial, 2 full; bounds as int64, blocks of queries x 2: the keys [lower,
// upper) that the closed form leaves; pairs as int64, for each query how many keys it attends to.
// Where no rows are wanted, "extents": {"B": 1, "Hq": 8, ...} may stand for query, key and value.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_INTERPRETER_REQUESTS_H
#define HEED_INTERPRETER_REQUESTS_H

#include "heed/Dialect/Attn/IR/Attn.h"

#include "llvm/Support/Error.h"

namespace heed::interpreter {

/// Does what `json` asks for. Emits ops beside `variant` (the classifier of its blocks).
llvm::Error runRequest(attn::VariantOp variant, llvm::StringRef json);

} // namespace heed::interpreter

#endif // HEED_INTERPRETER_REQUESTS_H
