// RUN: heed-opt %s | FileCheck %s
// Arguments are printed under the names that a kernel has for them, and by what they are for.

!q = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!l = !attn.tensor<[B, Hq, Sq], f32>
!t = !tile.tile<64x128xf32>

// CHECK: tile.kernel @named("query" %query: {{.+}}, "scale" %scale: f32, "b" %b: i32) parallel (%b_0, %h, %q_tile) {
tile.kernel @named("query" %0: !q, "key" %1: !k, "value" %2: !k, "output" %3: !q, "lse" %4: !l, "max_scores" %5: !l,
                   "scale" %6: f32, "b" %7: i32) parallel (%8, %9, %10) {
  %zero = arith.constant 0 : index
  %init = tile.fill 0.0 -> !t
  // CHECK: tile.for_kv %kv, %partial = %c0 to %q_tile step 128 classify (%kv, %end) {
  %loop = tile.for_kv %11, %12 = %zero to %10 step 128 classify (%13, %14) {
    // CHECK-NEXT: arith.index_cast %end
    %class = arith.index_cast %14 : index to i32
    tile.yield %class : i32
  // CHECK: iter_args(%arg0 = %{{.+}})
  } iter_args(%carried = %init) : (!t) {
    // CHECK-NEXT: tile.along_keys %kv partial %partial {{.+}} (%k) {
    %ids = tile.along_keys %11 partial %12 -> !tile.tile<128xi32> (%15) {
      tile.yield %15 : i32
    }
    // CHECK: tile.map %arg0 at (%c0, %kv) beside ({{.+}}) : {{.+}} (%s, %q, %k, %arg1) {
    %scores = tile.map %carried at (%zero, %11) beside (%ids : !tile.tile<128xi32>) : !t (%15, %16, %17, %18) {
      tile.yield %15 : f32
    }
    // CHECK: tile.mask %{{.+}} at (%c0, %kv) limit %c0 partial %partial : {{.+}} (%q, %k) {
    %masked = tile.mask %scores at (%zero, %11) limit %zero partial %12 : !t (%15, %16) {
      %keep = arith.cmpi sge, %15, %16 : i32
      tile.yield %keep : i1
    }
    tile.yield %masked : !t
  }
  tile.return
}
