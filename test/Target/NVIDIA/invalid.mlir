// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=32},tile.kernel(tile-select-gpu-schedule{target=sm_80 overrides=block_kv=64}),tile-to-nvidia)" --verify-diagnostics

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
attn.variant @dense() {}
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  // expected-error @+1 {{expects the schedule's block_kv as its step for the portable GPU path, 32 is not 64}}
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
