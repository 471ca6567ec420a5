// RUN: heed-opt %s --split-input-file --verify-diagnostics

//===----------------------------------------------------------------------===//
// !attn.tensor
//===----------------------------------------------------------------------===//

// expected-error@+1 {{expected B, Hq, Hkv, Sq, Skv, D, Dv, ? or a number, found 'S'}}
func.func private @symbol(!attn.tensor<[B, S], f32>)

// -----

// expected-error@+1 {{expected an extent of at least 0, found -3}}
func.func private @negative(!attn.tensor<[-3], f32>)

// -----

// expected-error@+1 {{expects an element type i1, i8, i32, i64, f16, bf16 or f32, found 'f64'}}
func.func private @element(!attn.tensor<[B], f64>)

// -----

//===----------------------------------------------------------------------===//
// attn.variant
//===----------------------------------------------------------------------===//

// expected-error@+1 {{'attn.variant' op expects capture 'x' to be i1, i32, i64, f32 or !attn.tensor, found 'f64'}}
attn.variant @capture_type(%x: f64 {attn.name = "x"}) {
}

// -----

// expected-error@+1 {{'attn.variant' op expects capture 'arg1' to be i1, i32, i64, f32 or !attn.tensor, found 'index'}}
attn.variant @capture_without_a_name(%x: f32, %y: index) {
}

// -----

// expected-error@+1 {{'attn.variant' op expects the default of capture 'w' to be 'i32', found 'i64'}}
attn.variant @default_type(%w: i32 {attn.name = "w", attn.default = 3 : i64}) {
}

// -----

// expected-error@+1 {{'attn.variant' op expects attributes for each of its 1 captures, found 2}}
"attn.variant"() <{sym_name = "arg_attrs", arg_attrs = [{}, {}]}> ({
^bb0(%w: i32):
}) : () -> ()

// -----

attn.variant @not_a_stage() {
  // expected-error@+1 {{'arith.constant' op is not a stage of a variant}}
  %c = arith.constant 0 : i32
}

// -----

attn.variant @stage_twice() {
  // expected-note@+1 {{the first one is here}}
  attn.mask(%b, %h, %q, %kv) {
    %t = arith.constant true
    attn.yield %t : i1
  }
  // expected-error@+1 {{'attn.mask' op appears twice in a variant}}
  attn.mask(%b, %h, %q, %kv) {
    %t = arith.constant true
    attn.yield %t : i1
  }
}

// -----

//===----------------------------------------------------------------------===//
// Stages
//===----------------------------------------------------------------------===//

attn.variant @score_arguments() {
  // expected-error@+1 {{expected 5 arguments, found 4}}
  attn.score(%b, %h, %q, %kv) {
    attn.yield %b : i32
  }
}

// -----

attn.variant @mask_arguments() {
  // expected-error@+1 {{expected 4 arguments, found 5}}
  attn.mask(%s, %b, %h, %q, %kv) {
    attn.yield %b : i32
  }
}

// -----

"attn.variant"() <{sym_name = "argument_types"}> ({
  // expected-error@+1 {{'attn.mask' op expects region arguments of types 'i32', 'i32', 'i32', 'i32'}}
  "attn.mask"() ({
  ^bb0(%b: i32, %h: i32, %q: i32, %kv: i64):
    %t = arith.constant true
    attn.yield %t : i1
  }) : () -> ()
}) : () -> ()

// -----

attn.variant @score_result() {
  // expected-error@+1 {{'attn.score' op expects its region to yield 'f32'}}
  attn.score(%s, %b, %h, %q, %kv) {
    // expected-note@+1 {{yields 'i32'}}
    attn.yield %b : i32
  }
}

// -----

attn.variant @mask_result() {
  // expected-error@+1 {{'attn.mask' op expects its region to yield 'i1'}}
  attn.mask(%b, %h, %q, %kv) {
    // expected-note@+1 {{yields }}
    attn.yield
  }
}

// -----

func.func private @effect(f32) -> f32

attn.variant @impure() {
  // expected-error@+1 {{'attn.score' op expects its region to be pure}}
  attn.score(%s, %b, %h, %q, %kv) {
    // expected-note@+1 {{'func.call' has side effects}}
    %r = func.call @effect(%s) : (f32) -> f32
    attn.yield %r : f32
  }
}

// -----

// expected-error@+1 {{'attn.mask' op expects parent op 'attn.variant'}}
attn.mask(%b, %h, %q, %kv) {
  %t = arith.constant true
  attn.yield %t : i1
}

// -----

func.func @yield_outside(%x: f32) {
  // expected-error@+1 {{'attn.yield' op expects parent op to be one of 'attn.score, attn.mask'}}
  attn.yield %x : f32
}

// -----

//===----------------------------------------------------------------------===//
// Ops inside stages
//===----------------------------------------------------------------------===//

func.func @load_of_a_number(%x: i32) {
  // expected-error@+1 {{expected !attn.tensor, found 'i32'}}
  %r = attn.load %x[%x] : i32
  return
}

// -----

func.func @load_rank(%t: !attn.tensor<[B, Sq], i32>, %i: i32) {
  // expected-error@+1 {{'attn.load' op expects 2 indices into '!attn.tensor<[B, Sq], i32>', found 1}}
  %r = attn.load %t[%i] : !attn.tensor<[B, Sq], i32>
  return
}

// -----

func.func @load_result(%t: !attn.tensor<[Sq], i8>, %i: i32) {
  // expected-error@+1 {{'attn.load' op expects result type 'i32'}}
  %r = "attn.load"(%t, %i) : (!attn.tensor<[Sq], i8>, i32) -> i64
  return
}

// -----

func.func @load_index(%t: !attn.tensor<[Sq], i32>, %i: index) {
  // expected-error@+1 {{'attn.load' op operand #1 must be variadic of 32-bit signless integer or 64-bit signless integer, but got 'index'}}
  %r = attn.load %t[%i] : !attn.tensor<[Sq], i32>, index
  return
}

// -----

func.func @extent_symbol() {
  // expected-error@+1 {{'attn.extent' op expects one of B, Hq, Hkv, Sq, Skv, D, Dv, found 'S'}}
  %r = attn.extent "S"
  return
}

// -----

func.func @division_type(%x: index) {
  // expected-error@+1 {{'attn.floordiv' op operand #0 must be 32-bit signless integer or 64-bit signless integer, but got 'index'}}
  %r = attn.floordiv %x, %x : index
  return
}

// -----

//===----------------------------------------------------------------------===//
// attn.forward
//===----------------------------------------------------------------------===//

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
func.func @no_variant(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects a variant, found no attn.variant 'missing'}}
  %o, %lse, %max = attn.forward @missing(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
func.func @not_a_variant(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects a variant, found no attn.variant 'not_a_variant'}}
  %o, %lse, %max = attn.forward @not_a_variant(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @window(%w: i32) {
}
func.func @capture_count(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects 1 captures for variant 'window', found 0}}
  %o, %lse, %max = attn.forward @window(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
// expected-note@+1 {{the variant is here}}
attn.variant @window(%w: i32 {attn.name = "window"}) {
}
func.func @capture_type(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects capture 'window' of type 'i32', found 'f32'}}
  %o, %lse, %max = attn.forward @window(%q, %k, %k) scale(%scale) captures(%scale) : (!q, !k, !k, f32) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @rank(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects key of rank 4, found '!attn.tensor<[B, Skv, 64], f32>'}}
  %o, %lse, %max = attn.forward @v(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
attn.variant @v() {
}
func.func @lse_rank(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects lse of rank 3, found '!attn.tensor<[B, Hq, Sq, 64], f32>'}}
  %o, %lse, %max = attn.forward @v(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !q)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], i32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @integers(%q: !q, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects query of a floating-point type, found 'i32'}}
  %o, %lse, %max = attn.forward @v(%q, %q, %q) scale(%scale) : (!q, !q, !q) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @mixed_elements(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects query, key and value of one element type, found 'f16' and 'bf16'}}
  %o, %lse, %max = attn.forward @v(%q, %k, %k) scale(%scale) : (!q, !k, !k) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, D], f16>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @symbolic_head_dim(%q: !q, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects head dims between 1 and 576, found D and D}}
  %o, %lse, %max = attn.forward @v(%q, %q, %q) scale(%scale) : (!q, !q, !q) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 577], f16>
!v = !attn.tensor<[B, Hq, Sq, 512], f16>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @large_head_dim(%q: !q, %v: !v, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects head dims between 1 and 576, found 577 and 512}}
  %o, %lse, %max = attn.forward @v(%q, %q, %v) scale(%scale) : (!q, !q, !v) -> (!v, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f16>
!k = !attn.tensor<[B, Hkv, Skv, 128], f16>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @head_dims_differ(%q: !q, %k: !k, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects query and key to share the head dim, found 64 and 128}}
  %o, %lse, %max = attn.forward @v(%q, %k, %q) scale(%scale) : (!q, !k, !q) -> (!q, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f16>
!o = !attn.tensor<[B, Hq, Sq, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
attn.variant @v() {
}
func.func @output(%q: !q, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects output of element type 'f16' and head dim 64, found '!attn.tensor<[B, Hq, Sq, 64], f32>'}}
  %o, %lse, %max = attn.forward @v(%q, %q, %q) scale(%scale) : (!q, !q, !q) -> (!o, !lse)
  return
}

// -----

!q = !attn.tensor<[B, Hq, Sq, 64], f16>
!lse = !attn.tensor<[B, Hq, Sq], f16>
attn.variant @v() {
}
func.func @lse_element(%q: !q, %scale: f32) {
  // expected-error@+1 {{'attn.forward' op expects lse of element type f32, found '!attn.tensor<[B, Hq, Sq], f16>'}}
  %o, %lse, %max = attn.forward @v(%q, %q, %q) scale(%scale) : (!q, !q, !q) -> (!q, !lse)
  return
}
