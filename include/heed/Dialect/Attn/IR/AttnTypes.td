//===-- AttnTypes.td - Types of the attn dialect -------------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_ATTN_IR_ATTNTYPES
#define HEED_DIALECT_ATTN_IR_ATTNTYPES

include "heed/Dialect/Attn/IR/AttnDialect.td"

def Attn_TensorType : TypeDef<Attn_Dialect, "Tensor"> {
  let mnemonic = "tensor";
  let summary = "a strided array in memory with symbolic extents";
  let description = [{
    An operand of a kernel, or an array that a variant captures. Each extent is a number, one of the symbols `B`, `Hq`,
    `Hkv`, `Sq`, `Skv`, `D`, `Dv`, whose value is known at launch, or `?`, any length. Element types are `i1` (one byte
    in memory), `i8`, `i32`, `i64`, `f16`, `bf16` and `f32`. Strides are run-time values.

    Example: `!attn.tensor<[B, Hq, Sq, 128], bf16>`, `!attn.tensor<[Hq], f32>`.
  }];
  let parameters = (ins ArrayRefParameter<"int64_t", "extents; negative: an Extent symbol">:$extents, "::mlir::Type":$elementType);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getRank() const { return getExtents().size(); }
    /// The type that reading an element yields: i1, i32, i64 or f32.
    ::mlir::Type getLoadedType() const;
  }];
}

#endif // HEED_DIALECT_ATTN_IR_ATTNTYPES
