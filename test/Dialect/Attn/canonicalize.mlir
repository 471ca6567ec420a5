// RUN: heed-opt %s --canonicalize --split-input-file | FileCheck %s

// Python's // and %: rounded down, the sign of the divisor; by zero both are 0.

// CHECK-LABEL: func.func @floordiv
func.func @floordiv() -> (i32, i32, i32, i32, i32, i32, i32) {
  %m7 = arith.constant -7 : i32
  %m2 = arith.constant -2 : i32
  %c0 = arith.constant 0 : i32
  %c2 = arith.constant 2 : i32
  %c7 = arith.constant 7 : i32
  %m1 = arith.constant -1 : i32
  %min = arith.constant -2147483648 : i32
  %0 = attn.floordiv %c7, %c2 : i32
  %1 = attn.floordiv %m7, %c2 : i32
  %2 = attn.floordiv %c7, %m2 : i32
  %3 = attn.floordiv %m7, %m2 : i32
  %4 = attn.floordiv %c7, %c0 : i32
  %5 = attn.floordiv %min, %m1 : i32
  %6 = attn.floordiv %c0, %c0 : i32
  // CHECK-DAG: %[[C3:.+]] = arith.constant 3 : i32
  // CHECK-DAG: %[[M4:.+]] = arith.constant -4 : i32
  // CHECK-DAG: %[[C0:.+]] = arith.constant 0 : i32
  // CHECK-DAG: %[[MIN:.+]] = arith.constant -2147483648 : i32
  // CHECK-NOT: attn.floordiv
  // CHECK: return %[[C3]], %[[M4]], %[[M4]], %[[C3]], %[[C0]], %[[MIN]], %[[C0]]
  return %0, %1, %2, %3, %4, %5, %6 : i32, i32, i32, i32, i32, i32, i32
}

// -----

// CHECK-LABEL: func.func @mod
func.func @mod() -> (i64, i64, i64, i64, i64, i64, i64) {
  %m7 = arith.constant -7 : i64
  %m4 = arith.constant -4 : i64
  %c0 = arith.constant 0 : i64
  %c4 = arith.constant 4 : i64
  %c7 = arith.constant 7 : i64
  %m1 = arith.constant -1 : i64
  %min = arith.constant -9223372036854775808 : i64
  %0 = attn.mod %c7, %c4 : i64
  %1 = attn.mod %m7, %c4 : i64
  %2 = attn.mod %c7, %m4 : i64
  %3 = attn.mod %m7, %m4 : i64
  %4 = attn.mod %m7, %c0 : i64
  %5 = attn.mod %min, %m1 : i64
  %6 = attn.mod %c0, %m4 : i64
  // CHECK-DAG: %[[C3:.+]] = arith.constant 3 : i64
  // CHECK-DAG: %[[C1:.+]] = arith.constant 1 : i64
  // CHECK-DAG: %[[M1:.+]] = arith.constant -1 : i64
  // CHECK-DAG: %[[M3:.+]] = arith.constant -3 : i64
  // CHECK-DAG: %[[C0:.+]] = arith.constant 0 : i64
  // CHECK-NOT: attn.mod
  // CHECK: return %[[C3]], %[[C1]], %[[M1]], %[[M3]], %[[C0]], %[[C0]], %[[C0]]
  return %0, %1, %2, %3, %4, %5, %6 : i64, i64, i64, i64, i64, i64, i64
}

// -----

// CHECK-LABEL: func.func @by_one
// CHECK-SAME:    (%[[X:.+]]: i32)
func.func @by_one(%x: i32) -> (i32, i32) {
  %c1 = arith.constant 1 : i32
  %0 = attn.floordiv %x, %c1 : i32
  %1 = attn.mod %x, %c1 : i32
  // CHECK: %[[C0:.+]] = arith.constant 0 : i32
  // CHECK: return %[[X]], %[[C0]]
  return %0, %1 : i32, i32
}

// -----

// x // 0 is a constant whatever x is, but not by this folder.
// CHECK-LABEL: func.func @unknown
func.func @unknown(%x: i32, %y: i32) -> (i32, i32) {
  // CHECK: attn.floordiv
  %0 = attn.floordiv %x, %y : i32
  // CHECK: attn.mod
  %1 = attn.mod %x, %y : i32
  return %0, %1 : i32, i32
}

// -----

// A score stage that yields its score is the identity.
// CHECK-LABEL: attn.variant @identity_score() {
// CHECK-NOT:     attn.score
// CHECK:         attn.mask
attn.variant @identity_score() {
  attn.score(%s, %b, %h, %q, %kv) {
    %unused = arith.addf %s, %s : f32
    attn.yield %s : f32
  }
  attn.mask(%b, %h, %q, %kv) {
    %r = arith.cmpi sge, %q, %kv : i32
    attn.yield %r : i1
  }
}

// -----

// A mask that keeps every pair is no mask, also where that takes folding to see.
// CHECK-LABEL: attn.variant @full_mask() {
// CHECK-NOT:     attn.mask
attn.variant @full_mask() {
  attn.mask(%b, %h, %q, %kv) {
    %r = arith.cmpi sge, %q, %q : i32
    attn.yield %r : i1
  }
}

// -----

// A mask that drops every pair is one.
// CHECK-LABEL: attn.variant @empty_mask() {
// CHECK:         attn.mask
// CHECK:           %[[FALSE:.+]] = arith.constant false
// CHECK:           attn.yield %[[FALSE]]
attn.variant @empty_mask() {
  attn.mask(%b, %h, %q, %kv) {
    %r = arith.cmpi sgt, %q, %q : i32
    attn.yield %r : i1
  }
}

// -----

// Constants that folding creates stay inside the stage: a variant holds nothing but stages.
// CHECK-LABEL: attn.variant @constants_stay() {
// CHECK-NEXT:    attn.score
// CHECK-NEXT:      arith.constant 6.000000e+00 : f32
// CHECK:         attn.mask
// CHECK-NEXT:      arith.constant 5 : i32
attn.variant @constants_stay() {
  attn.score(%s, %b, %h, %q, %kv) {
    %c2 = arith.constant 2.0 : f32
    %c4 = arith.constant 4.0 : f32
    %c6 = arith.addf %c2, %c4 : f32
    %r = arith.addf %s, %c6 : f32
    attn.yield %r : f32
  }
  attn.mask(%b, %h, %q, %kv) {
    %c2 = arith.constant 2 : i32
    %c3 = arith.constant 3 : i32
    %c5 = arith.addi %c2, %c3 : i32
    %r = arith.cmpi sge, %q, %c5 : i32
    attn.yield %r : i1
  }
}

// -----

// Loads, extents and a forward without uses go away; loads are pure.
// CHECK-LABEL: func.func @dead
func.func @dead(%t: !attn.tensor<[Sq], f32>, %i: i32) {
  %0 = attn.load %t[%i] : !attn.tensor<[Sq], f32>
  %1 = attn.extent "Sq"
  // CHECK-NEXT: return
  return
}

// -----

// A remainder that is written out in a stage, in either order. x - x // 0 * 0 is x, but x % 0 is 0.
// CHECK-LABEL: attn.variant @remainders_by_hand
attn.variant @remainders_by_hand(%n: i32 {attn.name = "n"}, %m: i32 {attn.name = "m"}, %long: i64 {attn.name = "long"}) {
  // CHECK: attn.mask(%{{.+}}, %{{.+}}, %[[Q:.+]], %[[KV:.+]]) {
  attn.mask(%b, %h, %q, %kv) {
    // CHECK-DAG: %[[C0:.+]] = arith.constant 0 : i32
    // CHECK-DAG: %[[C64:.+]] = arith.constant 64 : i32
    // CHECK-DAG: %[[M7:.+]] = arith.constant -7 : i64
    %c64 = arith.constant 64 : i32
    %m7 = arith.constant -7 : i64
    // CHECK: %[[R:.+]] = attn.mod %[[Q]], %[[C64]] : i32
    %0 = attn.floordiv %q, %c64 : i32
    %1 = arith.muli %0, %c64 : i32
    %2 = arith.subi %q, %1 : i32
    // CHECK: %[[T:.+]] = attn.mod %long, %[[M7]] : i64
    %3 = attn.floordiv %long, %m7 : i64
    %4 = arith.muli %m7, %3 : i64
    %5 = arith.subi %long, %4 : i64
    // CHECK: %[[ANY:.+]] = attn.mod %[[KV]], %n : i32
    // CHECK: %[[IS_ZERO:.+]] = arith.cmpi eq, %n, %[[C0]] : i32
    // CHECK: arith.select %[[IS_ZERO]], %[[KV]], %[[ANY]] : i32
    %6 = attn.floordiv %kv, %n : i32
    %7 = arith.muli %n, %6 : i32
    %8 = arith.subi %kv, %7 : i32
    // Of another number, or times another one, there is none.
    // CHECK-NOT: attn.mod
    %9 = arith.subi %q, %7 : i32
    %10 = arith.subi %7, %kv : i32
    %11 = arith.muli %6, %m : i32
    %12 = arith.subi %kv, %11 : i32
    // CHECK: attn.yield
    %short = arith.trunci %5 : i64 to i32
    %s0 = arith.addi %2, %8 : i32
    %s1 = arith.muli %9, %10 : i32
    %s2 = arith.muli %12, %short : i32
    %s3 = arith.addi %s1, %s2 : i32
    %keep = arith.cmpi sge, %s0, %s3 : i32
    attn.yield %keep : i1
  }
}

// -----

// Elsewhere it stays: what is made of stages takes remainders from quotients that it has anyway.
// CHECK-LABEL: func.func @outside
// CHECK-NOT:     attn.mod
func.func @outside(%x: i32, %n: i32) -> i32 {
  %0 = attn.floordiv %x, %n : i32
  %1 = arith.muli %0, %n : i32
  %2 = arith.subi %x, %1 : i32
  return %2 : i32
}
