// RUN: heed-opt %s | FileCheck %s
// Arguments are printed under the names that captures and coordinates have, whatever they were called.

// CHECK: attn.variant @named(%slope: f32 {attn.name = "slope"}, %arg1: f32, %q: i32 {attn.name = "q"}) {
attn.variant @named(%0: f32 {attn.name = "slope"}, %1: f32, %2: i32 {attn.name = "q"}) {
  // CHECK-NEXT: attn.score(%s, %b, %h, %q_0, %kv) {
  // CHECK-NEXT: arith.mulf %s, %slope : f32
  attn.score(%3, %4, %5, %6, %7) {
    %8 = arith.mulf %3, %0 : f32
    attn.yield %8 : f32
  }
  // CHECK: attn.mask(%b, %h, %q_0, %kv) {
  // CHECK-NEXT: arith.cmpi sge, %q_0, %q : i32
  attn.mask(%3, %4, %5, %6) {
    %7 = arith.cmpi sge, %5, %2 : i32
    attn.yield %7 : i1
  }
}
