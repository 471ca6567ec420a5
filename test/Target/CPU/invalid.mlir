// RUN: heed-opt %s --attn-to-tile --tile-to-cpu --verify-diagnostics

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
  // expected-error @+1 {{has no CPU schedule; run 'tile-select-cpu-schedule' first}}
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
