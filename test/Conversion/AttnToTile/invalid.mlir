// RUN: heed-opt %s --attn-to-tile --split-input-file --verify-diagnostics

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @dense() {}
// expected-error @+1 {{expects a function of one attn.forward on its arguments}}
func.func @order(%q: !t, %v: !k, %k: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @dense() {}
// expected-error @+1 {{expects a function of one attn.forward on its arguments}}
func.func @two(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o0, %l0, %max0 = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  %o1, %l1, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o0, %l1, %max : !t, !lse, !lse
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @dense() {}
// expected-error @+1 {{expects a function of one attn.forward on its arguments}}
func.func @drops(%q: !t, %k: !k, %v: !k, %s: f32) -> !t {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o : !t
}

// -----

// expected-error @+1 {{expects a function of one attn.forward on its arguments}}
func.func @other(%x: f32) -> f32 {
  return %x : f32
}

// -----

// expected-error @+1 {{expects a function of one attn.forward on its arguments}}
func.func private @external(f32)
