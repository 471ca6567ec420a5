// Remainders of the distance of query and key: each coordinate gets one of its own.
// RUN: heed-opt %s --heed-separate-congruences --canonicalize | FileCheck %s
// Of kernels, too; the classes of blocks keep what the distance's remainder says.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,heed-separate-congruences,canonicalize)" | FileCheck %s --check-prefix=TILE

attn.variant @dilated(%m: i32 {attn.name = "m"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %distance = arith.subi %q, %kv : i32
    %rest = attn.mod %distance, %m : i32
    %keep = arith.cmpi eq, %rest, %zero : i32
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: attn.variant @dilated(
// CHECK:         attn.mask(%{{.+}}, %{{.+}}, %[[Q:.+]], %[[KV:.+]]) {
// CHECK-NEXT:      %[[OF_Q:.+]] = attn.mod %[[Q]], %[[M:.+]] : i32
// CHECK-NEXT:      %[[OF_KV:.+]] = attn.mod %[[KV]], %[[M]] : i32
// CHECK-NEXT:      %[[KEEP:.+]] = arith.cmpi eq, %[[OF_Q]], %[[OF_KV]] : i32
// CHECK-NEXT:      attn.yield %[[KEEP]]

// The magnitude, the other way about, inequality.
attn.variant @magnitude(%m: i32 {attn.name = "m"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %x = arith.subi %kv, %q : i32
    %negated = arith.subi %zero, %x : i32
    %isNegative = arith.cmpi slt, %x, %zero : i32
    %distance = arith.select %isNegative, %negated, %x : i32
    %rest = attn.mod %distance, %m : i32
    %keep = arith.cmpi ne, %rest, %zero : i32
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: attn.variant @magnitude(
// CHECK:         %[[OF_Q:.+]] = attn.mod %[[Q:.+]], %[[M:.+]] : i32
// CHECK-NEXT:    %[[OF_KV:.+]] = attn.mod %[[KV:.+]], %[[M]] : i32
// CHECK-NEXT:    %[[KEEP:.+]] = arith.cmpi ne, %[[OF_Q]], %[[OF_KV]] : i32
// CHECK-NEXT:    attn.yield %[[KEEP]]

// Not a congruence with 0; and a sum, which may wrap.
attn.variant @others(%m: i32 {attn.name = "m"}) {
  attn.mask(%b, %h, %q, %kv) {
    %zero = arith.constant 0 : i32
    %one = arith.constant 1 : i32
    %distance = arith.subi %q, %kv : i32
    %rest = attn.mod %distance, %m : i32
    %first = arith.cmpi eq, %rest, %one : i32
    %sum = arith.addi %distance, %m : i32
    %other = attn.mod %sum, %m : i32
    %second = arith.cmpi eq, %other, %zero : i32
    %keep = arith.andi %first, %second : i1
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: attn.variant @others(
// CHECK:         %[[DISTANCE:.+]] = arith.subi
// CHECK:         attn.mod %[[DISTANCE]],
// CHECK:         %[[SUM:.+]] = arith.addi
// CHECK:         attn.mod %[[SUM]],

// TILE-LABEL: tile.kernel @kernel(
// TILE:         tile.for_kv
// TILE:           tile.mask {{.*}} (%[[Q:[a-z0-9]+]], %[[KV:[a-z0-9]+]]) {
// TILE-NEXT:        %[[OF_Q:.+]] = attn.mod %[[Q]], %[[M:.+]] : i32
// TILE-NEXT:        %[[OF_KV:.+]] = attn.mod %[[KV]], %[[M]] : i32
// TILE-NEXT:        %[[KEEP:.+]] = arith.cmpi eq, %[[OF_Q]], %[[OF_KV]] : i32
// TILE-NEXT:        tile.yield %[[KEEP]]
!q = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>
func.func @kernel(%q: !q, %k: !k, %v: !k, %s: f32, %m: i32) -> (!q, !lse, !lse) {
  %o, %l, %max = attn.forward @dilated(%q, %k, %v) scale(%s) captures(%m) : (!q, !k, !k, i32) -> (!q, !lse)
  return %o, %l, %max : !q, !lse, !lse
}
