// A group of 32 queries needs some keys of a partial block, and its first half fewer: products go on with the other half
// of the vectors alone. References of the softmax need not follow each new maximum.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=256},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4}),tile-to-cpu)" | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 12], f32>
!k = !attn.tensor<[B, Hkv, Skv, 12], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// CHECK-LABEL:  func.func @f_tile(
// References begin below every score; what is stored is their opposite.
// CHECK:          %[[NOTHING:.+]] = arith.constant dense<3.40282347E+38> : vector<16xf32>
// CHECK-NEXT:     %[[PLACE:.+]] = llvm.getelementptr
// CHECK-NEXT:     llvm.store %[[NOTHING]], %[[PLACE]]
// Keys that a group needs, from the end, and of these its first vector, in whole rounds of 8.
// CHECK:            %[[ROWS:.+]] = scf.if %[[IS_PARTIAL:.+]] -> (i64) {
// CHECK:              scf.while
// CHECK-COUNT-2:      arith.cmpi sge, %{{.+}} : vector<16xi32>
// CHECK:            %[[HALF:.+]] = scf.if %[[IS_PARTIAL]] -> (i64) {
// CHECK:              scf.while (%{{.+}} = %[[ROWS]])
// CHECK-COUNT-1:      arith.cmpi sge, %{{.+}} : vector<16xi32>
// CHECK-NOT:          arith.cmpi sge, %{{.+}} : vector<16xi32>
// CHECK:              %[[STEP:.+]] = arith.constant 8 : i64
// CHECK:              arith.minsi %{{.+}}, %[[ROWS]] : i64
// Scores: eight rows of two vectors, then eight of one.
// CHECK:            %{{.+}}:2 = scf.for %{{.+}} = %{{.+}} to %[[ALL:.+]] step %c8_i64
// CHECK:              %{{.+}}:16 = scf.for
// CHECK:            scf.for %{{.+}} = %[[ALL]] to %{{.+}} step %c8_i64
// CHECK:              %{{.+}}:8 = scf.for
// The softmax: only a maximum beyond the reference moves it, to 2^8 times as much.
// CHECK-COUNT-2:    math.absf
// CHECK:            %[[IS_LARGE:.+]] = arith.andi
// CHECK-NEXT:       %[[BEYOND:.+]] = math.fma
// CHECK-NEXT:       %[[NONE:.+]] = arith.constant dense<0.000000e+00> : vector<16xf32>
// CHECK-NEXT:       %[[IS_BEYOND:.+]] = arith.cmpf ogt, %[[BEYOND]], %[[NONE]] : vector<16xf32>
// CHECK:            arith.constant dense<8.000000e+00> : vector<16xf32>
// CHECK:            arith.select %[[IS_BEYOND]],
// Large maxima, before and now, take no part in references.
// CHECK:            arith.select %[[IS_LARGE]],
// CHECK:            arith.select %[[IS_LARGE]], %[[ZERO:[^,]+]], %{{.+}} : vector<16xi1>
// CHECK-NEXT:       arith.select %[[IS_LARGE]], %{{.+}}, %[[ZERO]] : vector<16xi1>
// CHECK-NEXT:       arith.select %[[WAS_LARGE:[^,]+]], %[[ZERO]], %{{.+}} : vector<16xi1>
// CHECK-NEXT:       arith.select %[[WAS_LARGE]], %{{.+}}, %[[ZERO]] : vector<16xi1>
// Values: all vectors, then where there is something left, the other half.
// CHECK:            %{{.+}}:16 = scf.for
// CHECK:            %[[IS_LEFT:.+]] = arith.cmpi slt, %{{.+}}, %{{.+}} : i64
// CHECK-NEXT:       scf.if %[[IS_LEFT]] {
// CHECK:              %{{.+}}:8 = scf.for
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
