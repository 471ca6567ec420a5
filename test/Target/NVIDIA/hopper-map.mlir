// tile.map on sm_90a.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!s = !attn.tensor<[Hq], f32>

attn.variant @alibi(%slope: !s {attn.name = "slope"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %m = attn.load %slope[%h] : !s
    %d = arith.subi %kv, %q : i32
    %f = arith.sitofp %d : i32 to f32
    %t = arith.mulf %m, %f : f32
    %r = arith.addf %s, %t : f32
    attn.yield %r : f32
  }
}
// slope (kv - q) is a number of the row and thread, and a multiple of the slope for each column: one multiply-add an
// element at most. The row's number joins the softmax's reference.
// CHECK-LABEL: llvm.func @row_addend(
// CHECK:         "setmaxnreg.inc
// CHECK:         %[[SLOPE:[0-9]+]] = {{.*}}"{ mov.b32 $0, 0; @$2 ld.global.nc.f32 $0, [$1]; }"
// CHECK-NOT:     ld.global.nc
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %[[DISTANCE:.+]] = arith.subi
// CHECK-NEXT:    %[[F:.+]] = arith.sitofp %[[DISTANCE]]
// CHECK:         arith.mulf %[[F]], %{{.+}}
// CHECK-COUNT-6: math.fma %{{.+}}, %[[UNIT:.+]], %{{.+}} : f32
// CHECK-NOT:     arith.addf
// CHECK:         scf.if
// CHECK:         arith.maxnumf
func.func @row_addend(%q: !t, %k: !k, %v: !k, %scale: f32, %slope: !s) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @alibi(%q, %k, %v) scale(%scale) captures(%slope) : (!t, !k, !k, !s) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!bias = !attn.tensor<[Skv], f32>

attn.variant @biased(%bias: !bias {attn.name = "bias"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = attn.load %bias[%kv] : !bias
    %r = arith.addf %s, %x : f32
    attn.yield %r : f32
  }
}
// An addend of columns is read once for both rows of a thread: 4 columns.
// CHECK-LABEL: llvm.func @column_addend(
// CHECK:         "setmaxnreg.inc
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK-COUNT-4: "{ mov.b32 $0, 0; @$2 ld.global.nc.f32 $0, [$1]; }"
// CHECK-NOT:     ld.global.nc
// CHECK:         arith.maxnumf
func.func @column_addend(%q: !t, %k: !k, %v: !k, %scale: f32, %bias: !bias) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @biased(%q, %k, %v) scale(%scale) captures(%bias) : (!t, !k, !k, !bias) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @softcap() {
  attn.score(%s, %b, %h, %q, %kv) {
    %cap = arith.constant 5.0e+01 : f32
    %x = arith.divf %s, %cap : f32
    %y = math.tanh %x : f32
    %r = arith.mulf %y, %cap : f32
    attn.yield %r : f32
  }
}
// Any other function is evaluated for each element, between its product and the mask.
// CHECK-LABEL: llvm.func @general(
// CHECK:         "setmaxnreg.inc
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %[[SCALED:.+]] = arith.mulf %[[SCORE:.+]], %[[SCALE:.+]] : f32
// CHECK-NEXT:    %[[X:.+]] = arith.divf %[[SCALED]], %[[CAP:.+]] : f32
// CHECK-NEXT:    %[[Y:.+]] = math.tanh %[[X]]
// CHECK-NEXT:    arith.mulf %[[Y]], %[[CAP]]
// CHECK-COUNT-7: math.tanh
// CHECK-NOT:     math.tanh
// CHECK:         scf.if
func.func @general(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @softcap(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
