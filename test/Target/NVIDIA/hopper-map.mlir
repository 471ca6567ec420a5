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
// CHECK:         %[[ROW0:.+]] = arith.mulf %{{.+}}, %[[F]]
// CHECK-COUNT-6: math.fma %{{.+}}, %[[UNIT:.+]], %{{.+}} : f32
// CHECK:         scf.if
// CHECK:         arith.maxnumf
func.func @row_addend(%q: !t, %k: !k, %v: !k, %scale: f32, %slope: !s) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @alibi(%q, %k, %v) scale(%scale) captures(%slope) : (!t, !k, !k, !s) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
