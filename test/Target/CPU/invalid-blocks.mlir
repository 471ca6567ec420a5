// Tiles of another size than the schedule's.
// RUN: heed-opt %s --verify-diagnostics --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-kv=32},tile.kernel(tile-select-cpu-schedule{target=x86-64-v3}),tile-to-cpu)"
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=32},tile.kernel(tile-select-cpu-schedule{target=x86-64-v3}),tile-to-cpu)" 2>&1 | FileCheck %s

// CHECK: error: expects tiles of the schedule's block_q = 128 queries

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  // expected-error @+1 {{expects the step to be the schedule's block_kv = 128}}
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
