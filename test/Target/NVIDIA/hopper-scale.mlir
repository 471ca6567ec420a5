// tile.scale on sm_90a: queries are scaled where they lie in shared memory, and only where the factor is not 1.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=2,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 72], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 72], bf16>
attn.variant @dense() {}

// CHECK:         "setmaxnreg.inc
// CHECK:         %[[SIGN:.+]] = math.copysign
// CHECK:         %[[CHANGES:.+]] = arith.cmpf une, %[[SIGN]], %{{.+}} : f32
// CHECK-NEXT:    scf.if %[[CHANGES]] {
// Two boxes of 64 columns; a thread has four times 16 bytes of each.
// CHECK-COUNT-4:   "ld.shared.v4.b32
// CHECK:           arith.mulf %{{.+}}, %[[SIGN]]
// CHECK:           "cvt.rn.bf16x2.f32
// CHECK-COUNT-4:   "ld.shared.v4.b32
// CHECK:           "st.shared.v4.b32
// CHECK-NOT:       "ld.shared.v4.b32
// The products read through the other proxy, and all of the warpgroup's rows.
// CHECK:           "fence.proxy.async.shared::cta;"
// CHECK:           "bar.sync $0, 128;"
// CHECK-NEXT:    }
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
