//===-- AttnOps.td - Operations of the attn dialect ----------*- tablegen -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef HEED_DIALECT_ATTN_IR_ATTNOPS
#define HEED_DIALECT_ATTN_IR_ATTNOPS

include "heed/Dialect/Attn/IR/AttnDialect.td"
include "heed/Dialect/Attn/IR/AttnTypes.td"
include "mlir/IR/OpAsmInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Attn_StageValue : AnyTypeOf<[I1, I32, I64, F32], "i1, i32, i64 or f32">;

//===----------------------------------------------------------------------===//
// The variant and its stages
//===----------------------------------------------------------------------===//

defvar Attn_NamesArguments = DeclareOpInterfaceMethods<OpAsmOpInterface, ["getAsmBlockArgumentNames"]>;

def Attn_VariantOp : Attn_Op<"variant", [Symbol, IsolatedFromAbove, SingleBlock, NoTerminator, Attn_NamesArguments]> {
  let summary = "an attention variant: named stages over captures";
  let description = [{
    Declares what is special about an attention variant. The arguments are its captures: run-time scalars (`i1`, `i32`,
    `i64`, `f32`) and tensors (`!attn.tensor`). The body holds at most one op of each stage kind; a stage that is
    missing is the identity. Stages that later kinds of attention need (prologues of q, k and v, the weight and the
    denominator, the output, side outputs) join as further stage ops.

    Arguments carry the attributes `attn.name`, the name that callers use, and for scalars optionally `attn.default`.

    ```mlir
    attn.variant @alibi_window(%slope: !attn.tensor<[Hq], f32> {attn.name = "slope"},
                               %w: i32 {attn.name = "window", attn.default = 4096 : i32}) {
      attn.score(%s, %b, %h, %q, %kv) {
        %m = attn.load %slope[%h] : !attn.tensor<[Hq], f32>
        %d = arith.subi %kv, %q : i32
        %f = arith.sitofp %d : i32 to f32
        %t = arith.mulf %m, %f : f32
        %r = arith.addf %s, %t : f32
        attn.yield %r : f32
      }
      attn.mask(%b, %h, %q, %kv) {
        %d = arith.subi %q, %kv : i32
        %near = arith.cmpi slt, %d, %w : i32
        attn.yield %near : i1
      }
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, OptionalAttr<DictArrayAttr>:$arg_attrs);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::llvm::StringRef":$name, "::llvm::ArrayRef<::mlir::Type>":$captureTypes,
                                 "::llvm::ArrayRef<::mlir::DictionaryAttr>":$captureAttrs)>];
  let extraClassDeclaration = [{
    ::mlir::Block *getBodyBlock() { return &getBody().front(); }
    ::mlir::Block::BlockArgListType getCaptures() { return getBodyBlock()->getArguments(); }
    /// The name of a capture as its callers use it; "argN" where it has none.
    std::string getCaptureName(unsigned index);
    /// The default of a scalar capture, or null.
    ::mlir::TypedAttr getCaptureDefault(unsigned index);
    /// The stage of a kind, or null where the variant has none: getStage<MaskOp>().
    template <typename StageOp>
    StageOp getStage() {
      auto stages = getBodyBlock()->getOps<StageOp>();
      return stages.empty() ? StageOp() : *stages.begin();
    }
  }];
}

class Attn_StageOp<string mnemonic> : Attn_Op<mnemonic, [HasParent<"VariantOp">, SingleBlockImplicitTerminator<"YieldOp">, Attn_NamesArguments]> {
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasRegionVerifier = 1;
  let hasCanonicalizeMethod = 1;
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins)>];
  code stageDeclaration = [{
    ::mlir::Block *getBodyBlock() { return &getBody().front(); }
    /// What the stage computes: the operand of its terminator.
    ::mlir::Value getResultValue() { return getBodyBlock()->getTerminator()->getOperand(0); }
  }];
}

def Attn_ScoreOp : Attn_StageOp<"score"> {
  let summary = "how a scaled score is changed before the mask";
  let description = [{
    The region gets the score (`f32`, query x key x scale) and the coordinates batch, query head, query index and key
    index (`i32`), and yields the new score (`f32`). It may yield -inf, which masks the pair.
  }];
  let extraClassDeclaration = stageDeclaration # [{
    ::mlir::BlockArgument getScore() { return getBodyBlock()->getArgument(0); }
    ::mlir::Block::BlockArgListType getCoordinates() { return getBodyBlock()->getArguments().drop_front(); }
  }];
}

def Attn_MaskOp : Attn_StageOp<"mask"> {
  let summary = "which pairs of query and key attend";
  let description = [{
    The region gets the coordinates batch, query head, query index and key index (`i32`) and yields whether the pair
    attends (`i1`). A pair that does not has weight exactly 0.
  }];
  let extraClassDeclaration = stageDeclaration # [{
    ::mlir::Block::BlockArgListType getCoordinates() { return getBodyBlock()->getArguments(); }
  }];
}

def Attn_YieldOp : Attn_Op<"yield", [Pure, Terminator, ReturnLike, ParentOneOf<["ScoreOp", "MaskOp"]>]> {
  let summary = "ends a stage with its value";
  let arguments = (ins Variadic<Attn_StageValue>:$operands);
  let builders = [OpBuilder<(ins), [{ /* for SingleBlockImplicitTerminator; the verifier asks for a value */ }]>];
  let assemblyFormat = "attr-dict ($operands^ `:` type($operands))?";
}

//===----------------------------------------------------------------------===//
// Ops inside stages
//===----------------------------------------------------------------------===//

def Attn_LoadOp : Attn_Op<"load", [Pure]> {
  let summary = "reads one element of a captured tensor; zero outside it";
  let description = [{
    Reads `tensor[indices]`. Where any index lies outside its extent the result is zero (false) and no memory is
    touched: tiles evaluate stages for padded rows as well. Indices are `i32` unless their types are written. Elements of type f16 and bf16 are widened to f32, i8 to
    i32. Captured tensors do not change while a kernel runs, so the op is pure.
  }];
  let arguments = (ins Attn_TensorType:$tensor, Variadic<AnyTypeOf<[I32, I64]>>:$indices);
  let results = (outs Attn_StageValue:$result);
  let assemblyFormat = "$tensor `[` $indices `]` attr-dict `:` custom<LoadTypes>(type($tensor), ref($indices), type($indices), type($result))";
  let hasVerifier = 1;
  let builders = [OpBuilder<(ins "::mlir::Value":$tensor, "::mlir::ValueRange":$indices), [{
    build($_builder, $_state, ::llvm::cast<TensorType>(tensor.getType()).getLoadedType(), tensor, indices);
  }]>];
}

def Attn_ExtentOp : Attn_Op<"extent", [Pure]> {
  let summary = "the value of an extent at launch: B, Hq, Hkv, Sq, Skv, D or Dv";
  let arguments = (ins StrAttr:$symbol);
  let results = (outs I32:$result);
  let assemblyFormat = "$symbol attr-dict";
  let hasVerifier = 1;
}

class Attn_DivisionOp<string mnemonic> : Attn_Op<mnemonic, [Pure, SameOperandsAndResultType]> {
  let arguments = (ins AnyTypeOf<[I32, I64]>:$lhs, AnyTypeOf<[I32, I64]>:$rhs);
  let results = (outs AnyTypeOf<[I32, I64]>:$result);
  let assemblyFormat = "$lhs `,` $rhs attr-dict `:` type($result)";
  let hasFolder = 1;
}

def Attn_FloorDivOp : Attn_DivisionOp<"floordiv"> {
  let summary = "Python's `//` on integers; x // 0 is 0";
}

def Attn_ModOp : Attn_DivisionOp<"mod"> {
  let summary = "Python's `%` on integers (the sign of the divisor); x % 0 is 0";
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

def Attn_ForwardOp : Attn_Op<"forward", [Pure, AllTypesMatch<["lse", "max_scores"]>, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "forward attention: softmax(mask(score(scale q k^T))) v";
  let description = [{
    Runs a variant on query (B, Hq, Sq, D), key (B, Hkv, Skv, D) and value (B, Hkv, Skv, Dv); Hq is a multiple of Hkv,
    and query head h reads key head h // (Hq // Hkv). Yields the output (B, Hq, Sq, Dv) in the element type of the
    query, the log-sum-exp of each row's scores (B, Hq, Sq) in f32, natural logarithm, and the largest score of each row,
    of the same type. `captures` binds the variant's arguments in order.

    ```mlir
    %o, %lse, %max = attn.forward @alibi_window(%q, %k, %v) scale(%scale) captures(%slope, %w)
      : (!attn.tensor<[B, Hq, Sq, 128], bf16>, !attn.tensor<[B, Hkv, Skv, 128], bf16>,
         !attn.tensor<[B, Hkv, Skv, 128], bf16>, !attn.tensor<[Hq], f32>, i32)
      -> (!attn.tensor<[B, Hq, Sq, 128], bf16>, !attn.tensor<[B, Hq, Sq], f32>)
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$variant, Attn_TensorType:$query, Attn_TensorType:$key, Attn_TensorType:$value,
                       F32:$scale, Variadic<AnyType>:$captures);
  let results = (outs Attn_TensorType:$output, Attn_TensorType:$lse, Attn_TensorType:$max_scores);
  let assemblyFormat = [{
    $variant `(` $query `,` $key `,` $value `)` `scale` `(` $scale `)` (`captures` `(` $captures^ `)`)? attr-dict
    `:` `(` qualified(type($query)) `,` qualified(type($key)) `,` qualified(type($value)) `` custom<CaptureTypes>(type($captures)) `)`
    `->` `(` qualified(type($output)) `,` qualified(type($lse)) `)`
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    int64_t getHeadDim() { return getQuery().getType().getExtents()[3]; }
    int64_t getValueHeadDim() { return getValue().getType().getExtents()[3]; }
    ::mlir::Type getElementType() { return getQuery().getType().getElementType(); }
    /// The variant that the symbol names.
    VariantOp lookupVariant();
  }];
}

#endif // HEED_DIALECT_ATTN_IR_ATTNOPS
