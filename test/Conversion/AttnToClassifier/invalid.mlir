// RUN: heed-opt %s --attn-to-classifier --split-input-file --verify-diagnostics

// expected-error @+1 {{expects a function of one attn.forward}}
func.func @other(%x: f32) -> f32 {
  return %x : f32
}

// -----

// expected-error @+1 {{expects a function of one attn.forward}}
func.func private @external(f32)

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @dense() {}
// expected-error @+1 {{expects a function of one attn.forward}}
func.func @two(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o0, %l0, %max0 = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  %o1, %l1, %max1 = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o0, %l1, %max1 : !t, !lse, !lse
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @dense() {}
func.func @fine(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
// expected-error @+1 {{expects a function of one attn.forward}}
func.func @helper() {
  return
}
