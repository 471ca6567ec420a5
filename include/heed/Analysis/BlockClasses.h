//===-- BlockClasses.h - Which blocks a mask skips, as IR ------*- C++ -*--===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The mask is mathematics: which blocks of keys a tile of queries can leave out
// follows from the mask's code, not from sampling it. The analysis evaluates an
// `attn.mask` region over a box of queries x keys with intervals in place of
// numbers, and emits the evaluation as scalar IR, so that it runs wherever the
// kernel runs, on lengths and captures that only the launch knows.
//
// An integer is kept as
//
//   cq * q + ck * kv + [lo, hi]          cq, ck: compile-time constants
//
// so that terms cancel (`q - kv + q // 1 - q`), and so that a comparison can be
// solved for kv, which gives the bounds of a loop in closed form. A boolean is kept as two bits:
// true everywhere in the box, and false everywhere in it. For q in [64, 127], kv in [0, 127] and
// the mask `q >= kv && q - kv < w` with w = 200:
//
//   q - kv          is 1*q - 1*kv + [0, 0], thus within [-63, 127]
//   q >= kv         neither everywhere true nor everywhere false
//   q - kv < w      everywhere true
//   the mask        neither: the block is partial
//
// Values that depend on neither q nor kv (scalars, b, h, what is read at them)
// are computed, not approximated. A tensor read at places that move with q or kv
// is summarised by the least and the largest element that is read over the box
// (of booleans: all and any), as long as these are not more places than the box
// has rows and columns. Integer arithmetic wraps, and intervals do not: where a
// 32-bit result may leave its range, the box is reported as unknown, and of a
// 64-bit result that may be beyond 2^40 nothing is known.
//
// `x == y && p(x)` is never true where p(y) is not: equal values keep what each
// of them is known for (documents with a number above 0).
//
// The closed form solves each comparison for kv: through sums, products with
// constants, `//` by something uniform, min, max, and both branches of a select
// (so abs). The sets of keys are kept as intervals; & intersects them, | takes
// the hull of both.
//
//===----------------------------------------------------------------------===//

#ifndef HEED_ANALYSIS_BLOCKCLASSES_H
#define HEED_ANALYSIS_BLOCKCLASSES_H

#include "heed/Dialect/Attn/IR/Attn.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"

namespace heed {

/// A box of queries and keys: `index` values, first and last of each (inclusive). An empty box has
/// last < first.
struct TileBox {
  mlir::Value firstQ, lastQ, firstKv, lastKv;
};

/// Keys [lower, upper) outside of which a mask is false for every query of a tile; `index` values.
struct KvBounds {
  mlir::Value lower, upper;
  /// Whether emitBlockClass finds only boxes without any of these keys to be Skipped: of windows,
  /// for one, as opposed to documents.
  bool decideSkips;
};

/// Emits at `inner` the class of `box` under `mask`: an i32 of tile::BlockClass, Skipped or Full
/// where that is proved. `mapping` holds the values of the variant's captures and of the mask's
/// first two arguments (batch and head, i32). What does not depend on the keys is emitted at
/// `outer`, which must dominate `inner`. Boxes are not asked whether they can be skipped, and
/// Partial instead, if not `maySkip`.
mlir::Value emitBlockClass(mlir::OpBuilder &outer, mlir::OpBuilder &inner, attn::MaskOp mask,
                           const mlir::IRMapping &mapping, const TileBox &box, bool maySkip = true);

/// Emits the hull of the keys that any query of the box may attend to, in closed form, within the
/// keys of the box.
KvBounds emitKvBounds(mlir::OpBuilder &builder, attn::MaskOp mask, const mlir::IRMapping &mapping,
                      const TileBox &box);

} // namespace heed

#endif // HEED_ANALYSIS_BLOCKCLASSES_H
