//===-- Explain.h - What the compiler knows and decides --------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A variant for people and for programs that show it to people, as JSON:
//
//   {
//     "variant": "sliding_window",
//     "score": null,
//     "mask": {
//       "nodes": [
//         {"op": "coordinate", "type": "i32", "operands": [], "depends": ["q"], "name": "q", ...},
//         {"op": "coordinate", "type": "i32", "operands": [], "depends": ["kv"], "name": "kv",
//         ...},
//         {"op": "ge", "type": "bool", "operands": [0, 1], "depends": ["q", "kv"],
//          "file": "sliding_window.heed", "line": 4, "column": 35},
//         ...],
//       "result": 6
//     },
//     "walk": "bounds",
//     "schedules": [{"target": "x86-64-v4", "lanes": 16, "block_q": 64, "block_kv": 128, "rows": 6,
//                    "vectors": 4, "dot": "fma", "exp_degree": 5}]
//   }
//
// Nodes are those of the checked program (heed/Language/Program.h), operands before users; every
// node says where it was written. "value" is a constant's ("inf", "-inf" and "nan" as text), "name"
// a coordinate's, size's or parameter's. "depends" is what decides how often a node is computed
// (heed/Analysis/Dependence.h). "walk" is how kernels for CPUs find the blocks of keys that a tile
// needs: "all" of them, within "bounds" in closed form, or by "lists" made beforehand. Schedules
// come in the order of the targets, those for GPUs last. A GPU has one for each code of the kernel,
// with its own walk:
//
//   {"target": "sm_90a", "block_q": 64, "groups": 4, "block_kv": 64, "stages": 4, "dot": "wgmma",
//    "threads": 640, "shared_bytes": 132096, "persistent": true, "needs_aligned": true,
//    "min_keys": 0, "walk": "lists", "summaries": true}
//
//===----------------------------------------------------------------------===//

#ifndef HEED_COMPILER_EXPLAIN_H
#define HEED_COMPILER_EXPLAIN_H

#include "heed/Analysis/Dependence.h"
#include "heed/Compiler/Compiler.h"

#include "llvm/Support/JSON.h"

namespace heed {

/// A constant; "inf", "-inf" and "nan" as text.
llvm::json::Value scalarToJSON(const lang::ScalarConstant &constant);

/// What each node of `function` depends on, by its id.
std::vector<Dependence> dependencesOf(const lang::Function &function);

/// What is known of a variant, and decided for each of the targets. An error says which schedule
/// does not fit.
llvm::Expected<llvm::json::Value> explain(mlir::MLIRContext &context, const lang::Variant &variant,
                                          const CompileOptions &options);

/// The overrides, as an array of strings, that give other schedules than the one which is chosen
/// for the only target; an empty one for CPUs. An error says which schedule does not fit.
llvm::Expected<llvm::json::Value> alternatives(mlir::MLIRContext &context,
                                               const lang::Variant &variant,
                                               const CompileOptions &options);

} // namespace heed

#endif // HEED_COMPILER_EXPLAIN_H
