// tile.mask on sm_90a: evaluated in partial blocks only. A mask of an interval compares one difference with constants.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

// No mask but the end of the keys.
attn.variant @dense() {}
// CHECK-LABEL: llvm.func @dense_mask(
// CHECK:         "setmaxnreg.inc
// CHECK:         scf.if
// The class, two bits of the block's word, is not 2.
// CHECK:           %[[FULL:.+]] = arith.constant 2 : i32
// CHECK-NEXT:      %[[IS_PARTIAL:.+]] = arith.cmpi ne, %{{.+}}, %[[FULL]]
// CHECK:           "wgmma.fence.sync.aligned;"
// CHECK:           "wgmma.wait_group.sync.aligned 0;"
// CHECK:           %{{.+}}:8 = scf.if %[[IS_PARTIAL]] ->
// CHECK:             %[[LEFT:.+]] = arith.subi %{{.+}}, %[[COLUMN:.+]] : i32
// CHECK:             %[[KEEP:.+]] = arith.cmpi sgt, %[[LEFT]], %{{.+}} : i32
// CHECK-NEXT:        arith.select %[[KEEP]], %[[SCORE:.+]], %[[LOWEST:.+]] : f32
// Rows of a column share the comparison.
// CHECK-COUNT-3:     arith.cmpi sgt, %[[LEFT]],
// CHECK-NOT:         arith.cmpi
// CHECK:           } else {
// CHECK-NEXT:        scf.yield %[[SCORE]],
func.func @dense_mask(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: llvm.func @causal_mask(
// CHECK:         "setmaxnreg.inc
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %{{.+}}:8 = scf.if
// CHECK:           %[[LEFT:.+]] = arith.subi %{{.+}}, %[[COLUMN:.+]] : i32
// CHECK:           %[[DISTANCE:.+]] = arith.subi %{{.+}}, %[[COLUMN]] : i32
// CHECK:           %[[MASK:.+]] = arith.cmpi sge, %[[DISTANCE]],
// CHECK-NEXT:      arith.select %[[MASK]],
// A row further down by 8 is a column further left by 8: 6 comparisons for 8 elements.
// CHECK-COUNT-5:   arith.cmpi sge, %[[DISTANCE]],
// CHECK-NOT:       arith.cmpi sge
// Only the last block of keys may reach beyond the end.
// CHECK:           %[[IS_LAST:.+]] = arith.cmpi slt,
// CHECK:           scf.if %[[IS_LAST]] ->
// CHECK-COUNT-4:     arith.cmpi sgt, %[[LEFT]],
// CHECK:         } else {
func.func @causal_mask(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[B, Skv], i32>

attn.variant @documents(%ids: !ids {attn.name = "ids"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %ids[%b, %q] : !ids
    %y = attn.load %ids[%b, %kv] : !ids
    %keep = arith.cmpi eq, %x, %y : i32
    attn.yield %keep : i1
  }
}
// What depends on the query is read once a tile, for two rows; what depends on the key, once a column of a partial block.
// Loads are predicated and read 0 outside.
// CHECK-LABEL: llvm.func @documents_mask(
// CHECK:         "setmaxnreg.inc
// CHECK-COUNT-2: "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK-NOT:     ld.global.nc
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %{{.+}}:8 = scf.if
// CHECK-COUNT-4:   "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK-NOT:       ld.global.nc
// CHECK:         } else {
// CHECK:         ex2.approx
func.func @documents_mask(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @dilated(%dilation: i32 {attn.name = "dilation"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %distance = arith.subi %q, %kv : i32
    %rest = attn.mod %distance, %dilation : i32
    %keep = arith.cmpi eq, %rest, %zero : i32
    attn.yield %keep : i1
  }
}
// A division for each element by a number that is the same for all: one reciprocal, before the loop.
// CHECK-LABEL: llvm.func @dilated_mask(
// CHECK:         "setmaxnreg.inc
// CHECK:         %[[MAGIC:.+]] = arith.divui %c-1_i32{{[_0-9]*}}, %[[MAGNITUDE:.+]] : i32
// CHECK:         scf.while
// CHECK:           "wgmma.wait_group.sync.aligned 1;"
// CHECK:           %[[WIDE:.+]] = arith.extui %[[MAGIC]] : i32 to i64
// CHECK:           %[[PRODUCT:.+]] = arith.muli %{{.+}}, %[[WIDE]] : i64
// CHECK:           %[[HIGH:.+]] = arith.shrui %[[PRODUCT]], %{{.+}} : i64
// CHECK:           %[[QUOTIENT:.+]] = arith.trunci %[[HIGH]] : i64 to i32
// CHECK:           arith.muli %[[QUOTIENT]], %[[MAGNITUDE]] : i32
// CHECK-NOT:       arith.divsi
// CHECK:         llvm.return
func.func @dilated_mask(%q: !t, %k: !k, %v: !k, %scale: f32, %dilation: i32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dilated(%q, %k, %v) scale(%scale) captures(%dilation) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @either(%isCausal: i32 {attn.name = "is_causal"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %c = arith.cmpi ne, %isCausal, %zero : i32
    %before = arith.cmpi sge, %q, %kv : i32
    %same = arith.cmpi eq, %q, %kv : i32
    %keep = arith.select %c, %before, %same : i1
    attn.yield %keep : i1
  }
}
// What a launch chooses is chosen once a block, not for each element.
// CHECK-LABEL: llvm.func @either_mask(
// CHECK:         "setmaxnreg.inc
// CHECK:         %[[IS_CAUSAL:.+]] = arith.cmpi ne, %{{.+}}, %c0_i32
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         scf.if %[[IS_CAUSAL]] ->
// CHECK-COUNT-6:   arith.cmpi sge,
// CHECK-NOT:       arith.cmpi eq
// CHECK:         } else {
// CHECK-NOT:       arith.cmpi sge
// CHECK-COUNT-6:   arith.cmpi eq,
// CHECK:           scf.yield
func.func @either_mask(%q: !t, %k: !k, %v: !k, %scale: f32, %isCausal: i32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @either(%q, %k, %v) scale(%scale) captures(%isCausal) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
