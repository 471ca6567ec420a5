// The output's panel is divided by the sums of its rows while it is transposed into rows, two dims of bf16 at a time; rows
// without any key are 0 whatever their panel holds.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 narrow-weights},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4+bf16}),tile-to-cpu)" | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 48], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 48], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @dense() {}

// CHECK-LABEL:  func.func @f_tile(
// The sign of the scale changes signs of queries.
// CHECK:          %[[ONE:.+]] = arith.bitcast %{{.+}} : f32 to i32
// CHECK:          %[[SIGN:.+]] = arith.andi %[[ONE]], %c-2147483648_i32
// CHECK:          %[[LOW:.+]] = arith.shrui %[[SIGN]], %c16_i32
// CHECK:          %[[BOTH:.+]] = arith.ori %[[SIGN]], %[[LOW]] : i32
// CHECK:          %[[FLIPS:.+]] = vector.broadcast %[[BOTH]] : i32 to vector<16xi32>
// CHECK-COUNT-16: arith.xori %{{.+}}, %[[FLIPS]] : vector<16xi32>
// Factors of rows; that of a row without keys is negative.
// CHECK:          %[[IS_EMPTY:.+]] = arith.cmpf oeq, %[[SUM:.+]], %{{.+}} : vector<16xf32>
// CHECK:          %[[INVERSE:.+]] = arith.divf %{{.+}}, %[[SUM]]
// CHECK:          %[[FACTOR:.+]] = arith.select %[[IS_EMPTY]], %{{.+}}, %[[INVERSE]] : vector<16xi1>, vector<16xf32>
// CHECK-NEXT:     llvm.getelementptr %[[FACTORS:[0-9]+]][
// CHECK-NEXT:     llvm.store %[[FACTOR]]
// 32 dims as 16 vectors of pairs, then 16 as they are.
// CHECK:          llvm.getelementptr %[[FACTORS]][
// CHECK-NEXT:     %[[OF_ROWS:.+]] = llvm.load
// CHECK:          scf.for
// CHECK:            %[[IS_EMPTY:.+]] = arith.cmpf olt, %[[OF_ROWS]],
// CHECK:            %[[PRODUCT:.+]] = arith.mulf %{{.+}}, %[[OF_ROWS]]
// CHECK:            arith.select %[[IS_EMPTY]], %{{.+}}, %[[PRODUCT]]
// CHECK-COUNT-16:   cvtne2ps2bf16
// CHECK-NOT:        cvtne2ps2bf16
// CHECK-COUNT-16:   llvm.store %{{.+}}, %{{.+}} {alignment = 2 : i64} : vector<16xi32>
// CHECK:          scf.for
// CHECK-COUNT-16:   llvm.store %{{.+}}, %{{.+}} {alignment = 2 : i64} : vector<16xi16>
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
