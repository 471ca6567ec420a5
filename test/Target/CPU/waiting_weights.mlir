// Weights of a group of queries are taken while products of other groups run, whose multiplications leave units idle: a
// vector in each round of their loops. With 16 registers there is no room for that.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=256},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4}),tile-to-cpu)" | FileCheck %s
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128},tile.kernel(tile-select-cpu-schedule{target=x86-64-v3}),tile-to-cpu)" | FileCheck %s --check-prefix=V3

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @dense() {}

// CHECK-LABEL:  func.func @f_tile(
// In each round of the scores' product: if any waits, one exponential, by a table of 32 powers.
// CHECK:            %{{.+}}:16 = scf.for
// CHECK:              %[[NUMBER:.+]] = llvm.load %[[NEXT:[0-9]+]] {alignment = 8 : i64} : !llvm.ptr -> i64
// CHECK-NEXT:         %[[END:.+]] = llvm.load %[[COUNT:[0-9]+]] {alignment = 8 : i64} : !llvm.ptr -> i64
// CHECK:              %[[WAITS:.+]] = arith.cmpi slt, %[[NUMBER]], %[[END]] : i64
// CHECK-NEXT:         scf.if %[[WAITS]] {
// CHECK:                llvm.load %[[GROUP:[0-9]+]] {alignment = 8 : i64} : !llvm.ptr -> i64
// CHECK:                llvm.call_intrinsic "llvm.x86.avx512.vpermi2var.ps.512"
// CHECK-COUNT-2:        math.fma
// CHECK:                llvm.call_intrinsic "llvm.x86.avx512.mask.scalef.ps.512"
// CHECK:              math.fma
// The rest of the group before, the references of this one, which waits from now on.
// CHECK:            scf.while
// CHECK:            math.absf
// CHECK:            llvm.store %{{.+}}, %[[GROUP]]
// CHECK:            llvm.store %{{.+}}, %[[NEXT]]
// CHECK:            llvm.store %{{.+}}, %[[COUNT]]
// Its own product with the values comes last: what still waits then is taken first.
// CHECK:            %[[LAST:.+]] = llvm.load %[[GROUP]]
// CHECK:            %[[IS_LAST:.+]] = arith.cmpi eq, %{{.+}}, %[[LAST]] : i64
// CHECK-NEXT:       scf.if %[[IS_LAST]] {
// CHECK:            %{{.+}}:16 = scf.for
// CHECK:              llvm.load %[[NEXT]]

// Six rows at a time, and the last keys by fours: no key is computed twice.
// V3-LABEL:     func.func @f_tile(
// V3:             %{{.+}}:2 = scf.for %{{.+}} = %{{.+}} to %[[SIXES:.+]] step %c6_i64
// V3:             %{{.+}}:2 = scf.for %{{.+}} = %[[SIXES]] to %{{.+}} step %c4_i64
// V3-NOT:         scf.while
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
