//===-- AttnDialect.td - The attn dialect --------------------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_ATTN_IR_ATTNDIALECT
#define HEED_DIALECT_ATTN_IR_ATTNDIALECT

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"

def Attn_Dialect : Dialect {
  let name = "attn";
  let cppNamespace = "::heed::attn";
  let summary = "what an attention variant computes, before any tiling";
  let description = [{
    The `attn` dialect says WHAT an attention variant computes. An `attn.variant` is a symbol that holds the
    variant's stages: today `attn.score` (how a scaled score is changed) and `attn.mask` (which pairs may attend),
    each a region of `arith` and `math` ops over scalars plus the few ops defined here. A kernel is an op of its
    kind, today `attn.forward`, that names a variant and binds its captures.

    Laws that every op keeps:

    * Stages are pure and total: no op in them has a side effect, traps or is undefined for any input. Integer
      arithmetic wraps; division by zero yields zero (`attn.floordiv`, `attn.mod`); a load outside its tensor
      yields zero (`attn.load`).
    * The order is scale, score, mask, softmax. A fully masked row has output 0 and log-sum-exp -inf.
    * Coordinates are `i32`; floating-point values are `f32` whatever the storage type.
  }];
  let useDefaultTypePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect"];
  let extraClassDeclaration = [{
    /// Attribute names on the arguments of `attn.variant`.
    static constexpr ::llvm::StringLiteral kNameAttr = "attn.name";
    static constexpr ::llvm::StringLiteral kDefaultAttr = "attn.default";
    void registerTypes();
  }];
  let hasConstantMaterializer = 1;
  let hasCanonicalizer = 1;
}

class Attn_Op<string mnemonic, list<Trait> traits = []> : Op<Attn_Dialect, mnemonic, traits>;

#endif // HEED_DIALECT_ATTN_IR_ATTNDIALECT
