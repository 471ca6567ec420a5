// A magnitude of a difference is compared once, without signs; how, where signs are up to the launch.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-fold-magnitudes),canonicalize,cse,canonicalize)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[Skv], i32>

// Coordinates are never negative: nothing is left to choose.
attn.variant @band(%w: i32 {attn.name = "w"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %x = arith.subi %q, %kv : i32
    %negated = arith.subi %zero, %x : i32
    %isNegative = arith.cmpi slt, %x, %zero : i32
    %distance = arith.select %isNegative, %negated, %x : i32
    %keep = arith.cmpi sle, %distance, %w : i32
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: tile.kernel @band_k(
// CHECK-SAME:      "w" %[[W:[^:]+]]: i32
// CHECK:         tile.mask {{.*}} (%[[Q:.+]], %[[KV:.+]]) {
// CHECK-NEXT:      %[[TWICE:.+]] = arith.addi %[[W]], %[[W]] : i32
// CHECK-NEXT:      %[[COUNT:.+]] = arith.addi %[[TWICE]], %{{.+}} : i32
// CHECK-NEXT:      %[[IS_EMPTY:.+]] = arith.cmpi slt, %[[W]], %[[ZERO:.+]] : i32
// CHECK-NEXT:      %[[BOUND:.+]] = arith.select %[[IS_EMPTY]], %[[ZERO]], %[[COUNT]] : i32
// CHECK-NEXT:      %[[SHIFTED:.+]] = arith.addi %[[Q]], %[[W]] : i32
// CHECK-NEXT:      %[[DISTANCE:.+]] = arith.subi %[[SHIFTED]], %[[KV]] : i32
// CHECK-NEXT:      %[[KEEP:.+]] = arith.cmpi ult, %[[DISTANCE]], %[[BOUND]] : i32
// CHECK-NEXT:      tile.yield %[[KEEP]]
func.func @band_k(%q: !t, %k: !k, %v: !k, %scale: f32, %w: i32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @band(%q, %k, %v) scale(%scale) captures(%w) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// 5 > |kv mod n - q mod n|, and the same turned into its opposite: bounds are constants, the divisor's sign decides.
attn.variant @columns(%n: i32 {attn.name = "n"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %five = arith.constant 5 : i32
    %ofQ = attn.mod %q, %n : i32
    %ofKv = attn.mod %kv, %n : i32
    %x = arith.subi %ofKv, %ofQ : i32
    %negated = arith.subi %zero, %x : i32
    %isNegative = arith.cmpi slt, %x, %zero : i32
    %distance = arith.select %isNegative, %negated, %x : i32
    %near = arith.cmpi sgt, %five, %distance : i32
    %ofTwo = attn.floordiv %q, %n : i32
    %y = arith.subi %ofTwo, %kv : i32
    %negatedY = arith.subi %zero, %y : i32
    %isNegativeY = arith.cmpi slt, %y, %zero : i32
    %distanceY = arith.select %isNegativeY, %negatedY, %y : i32
    %far = arith.cmpi sgt, %distanceY, %five : i32
    %keep = arith.andi %near, %far : i1
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: tile.kernel @columns_k(
// CHECK-SAME:      "n" %[[N:[^:]+]]: i32
// CHECK-DAG:     %[[C4:.+]] = arith.constant 4 : i32
// CHECK-DAG:     %[[C5:.+]] = arith.constant 5 : i32
// CHECK-DAG:     %[[C9:.+]] = arith.constant 9 : i32
// CHECK-DAG:     %[[C11:.+]] = arith.constant 11 : i32
// CHECK:         tile.mask {{.*}} (%[[Q:.+]], %[[KV:.+]]) {
// CHECK-NEXT:      %[[OF_Q:.+]] = attn.mod %[[Q]], %[[N]]
// CHECK-NEXT:      %[[OF_KV:.+]] = attn.mod %[[KV]], %[[N]]
// CHECK:           %[[EXACT:.+]] = arith.andi
// CHECK-NEXT:      %[[SAFE:.+]] = arith.cmpi sge, %[[N]], %{{.+}} : i32
// CHECK-NEXT:      %[[A:.+]] = arith.addi %[[OF_Q]], %[[C4]] : i32
// CHECK-NEXT:      %[[NEAR:.+]] = arith.subi %[[A]], %[[OF_KV]] : i32
// CHECK-NEXT:      %[[IS_NEAR:.+]] = arith.cmpi ult, %[[NEAR]], %[[C9]] : i32
// CHECK-NEXT:      %[[B:.+]] = arith.addi %{{.+}}, %[[C5]] : i32
// CHECK-NEXT:      %[[FAR:.+]] = arith.subi %[[B]], %[[KV]] : i32
// CHECK-NEXT:      %[[IS_FAR:.+]] = arith.cmpi uge, %[[FAR]], %[[C11]] : i32
// CHECK-NEXT:      %[[FOLDED:.+]] = arith.andi %[[IS_NEAR]], %[[IS_FAR]] : i1
// CHECK-NEXT:      %[[KEEP:.+]] = arith.select %[[SAFE]], %[[FOLDED]], %[[EXACT]] : i1
// CHECK-NEXT:      tile.yield %[[KEEP]]
func.func @columns_k(%q: !t, %k: !k, %v: !k, %scale: f32, %n: i32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @columns(%q, %k, %v) scale(%scale) captures(%n) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// Anything may be captured, a sum of coordinates is of both, and what depends on the query alone is computed once.
attn.variant @others(%ids: !ids {attn.name = "ids"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %five = arith.constant 5 : i32
    %id = attn.load %ids[%kv] : !ids
    %x = arith.subi %q, %id : i32
    %negated = arith.subi %zero, %x : i32
    %isNegative = arith.cmpi slt, %x, %zero : i32
    %distance = arith.select %isNegative, %negated, %x : i32
    %first = arith.cmpi sle, %distance, %five : i32
    %sum = arith.addi %q, %kv : i32
    %y = arith.subi %sum, %kv : i32
    %negatedY = arith.subi %zero, %y : i32
    %isNegativeY = arith.cmpi slt, %y, %zero : i32
    %distanceY = arith.select %isNegativeY, %negatedY, %y : i32
    %second = arith.cmpi sle, %distanceY, %five : i32
    %z = arith.subi %q, %five : i32
    %negatedZ = arith.subi %zero, %z : i32
    %isNegativeZ = arith.cmpi slt, %z, %zero : i32
    %distanceZ = arith.select %isNegativeZ, %negatedZ, %z : i32
    %third = arith.cmpi sle, %distanceZ, %five : i32
    %both = arith.andi %first, %second : i1
    %keep = arith.andi %both, %third : i1
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: tile.kernel @others_k(
// CHECK:         tile.mask
// CHECK-NOT:       arith.cmpi u
// CHECK:         tile.online_softmax
func.func @others_k(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @others(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
