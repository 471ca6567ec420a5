// RUN: heed-opt %s --verify-roundtrip | FileCheck %s
// RUN: heed-opt %s --mlir-print-op-generic | heed-opt | FileCheck %s

// CHECK-LABEL: attn.variant @nothing() {
// CHECK-NEXT:  }
attn.variant @nothing() {
}

// CHECK-LABEL: attn.variant @captures(
// CHECK-SAME:    %{{.+}}: i1, %{{.+}}: i32 {attn.default = 4096 : i32, attn.name = "window"}, %{{.+}}: i64,
// CHECK-SAME:    %{{.+}}: f32 {attn.default = 5.000000e+01 : f32},
// CHECK-SAME:    %{{.+}}: !attn.tensor<[], f32>, %{{.+}}: !attn.tensor<[B, Hq, Hkv, Sq, Skv, D, Dv, ?, 16], bf16>,
// CHECK-SAME:    %{{.+}}: !attn.tensor<[0], i8>, %{{.+}}: !attn.tensor<[?], i1>, %{{.+}}: !attn.tensor<[?], i64>,
// CHECK-SAME:    %{{.+}}: !attn.tensor<[?], f16>)
// CHECK-SAME:    attributes {attn.origin = "test"} {
attn.variant @captures(%flag: i1, %window: i32 {attn.name = "window", attn.default = 4096 : i32}, %wide: i64,
                       %cap: f32 {attn.default = 50.0 : f32},
                       %scalar: !attn.tensor<[], f32>, %all: !attn.tensor<[B, Hq, Hkv, Sq, Skv, D, Dv, ?, 16], bf16>,
                       %empty: !attn.tensor<[0], i8>, %bits: !attn.tensor<[?], i1>, %long: !attn.tensor<[?], i64>,
                       %half: !attn.tensor<[?], f16>)
    attributes {attn.origin = "test"} {
}

// CHECK-LABEL: attn.variant @alibi_window(
// CHECK-SAME:    %[[SLOPE:.+]]: !attn.tensor<[Hq], f32> {attn.name = "slope"}, %[[W:.+]]: i32 {attn.name = "window"})
attn.variant @alibi_window(%slope: !attn.tensor<[Hq], f32> {attn.name = "slope"}, %w: i32 {attn.name = "window"}) {
  // CHECK-NEXT: attn.score(%[[S:.+]], %[[B:.+]], %[[H:.+]], %[[Q:.+]], %[[KV:.+]]) {
  attn.score(%s, %b, %h, %q, %kv) {
    // CHECK-NEXT: %[[M:.+]] = attn.load %[[SLOPE]][%[[H]]] : !attn.tensor<[Hq], f32>{{$}}
    %m = attn.load %slope[%h] : !attn.tensor<[Hq], f32>
    %d = arith.subi %kv, %q : i32
    %f = arith.sitofp %d : i32 to f32
    %t = arith.mulf %m, %f : f32
    %r = arith.addf %s, %t : f32
    // CHECK: attn.yield %{{.+}} : f32
    attn.yield %r : f32
  }
  // CHECK: attn.mask(%[[B:.+]], %[[H:.+]], %[[Q:.+]], %[[KV:.+]]) attributes {attn.note = 1 : i64} {
  attn.mask(%b, %h, %q, %kv) attributes {attn.note = 1} {
    %d = arith.subi %q, %kv : i32
    // CHECK: arith.cmpi slt, %{{.+}}, %[[W]]
    %near = arith.cmpi slt, %d, %w : i32
    // CHECK: attn.yield %{{.+}} : i1
    attn.yield %near : i1
  }
}

// CHECK-LABEL: attn.variant @stage_ops
attn.variant @stage_ops(%doc: !attn.tensor<[B, Sq], i32>, %small: !attn.tensor<[?], i8>, %scalar: !attn.tensor<[], bf16>,
                        %bits: !attn.tensor<[?, ?], i1>) {
  attn.mask(%b, %h, %q, %kv) {
    // CHECK: attn.load %{{.+}}[%{{.+}}, %{{.+}}] : !attn.tensor<[B, Sq], i32>{{$}}
    %0 = attn.load %doc[%b, %q] : !attn.tensor<[B, Sq], i32>
    %wide = arith.extsi %q : i32 to i64
    // CHECK: attn.load %{{.+}}[%{{.+}}, %{{.+}}] : !attn.tensor<[B, Sq], i32>, i32, i64{{$}}
    %1 = attn.load %doc[%b, %wide] : !attn.tensor<[B, Sq], i32>, i32, i64
    // CHECK: %[[I8:.+]] = attn.load %{{.+}}[%{{.+}}] {attn.note} : !attn.tensor<[?], i8>
    %2 = attn.load %small[%q] {attn.note} : !attn.tensor<[?], i8>
    // CHECK: %[[SCALAR:.+]] = attn.load %{{.+}}[] : !attn.tensor<[], bf16>
    %3 = attn.load %scalar[] : !attn.tensor<[], bf16>
    // An i8 is read as i32 and a bf16 as f32.
    // CHECK: arith.addi %[[I8]], %[[I8]] : i32
    %4 = arith.addi %2, %2 : i32
    // CHECK: arith.addf %[[SCALAR]], %[[SCALAR]] : f32
    %5 = arith.addf %3, %3 : f32
    // CHECK: attn.extent "Skv"
    %6 = attn.extent "Skv"
    // CHECK: attn.floordiv %{{.+}}, %{{.+}} : i32
    %7 = attn.floordiv %q, %6 : i32
    // CHECK: attn.mod %{{.+}}, %{{.+}} : i64
    %8 = attn.mod %wide, %wide : i64
    %9 = attn.load %bits[%q, %kv] : !attn.tensor<[?, ?], i1>
    attn.yield %9 : i1
  }
}

// Control flow is part of a stage's language.
// CHECK-LABEL: attn.variant @control
attn.variant @control() {
  attn.score(%s, %b, %h, %q, %kv) {
    %c = arith.cmpi sgt, %q, %kv : i32
    // CHECK: scf.if
    %r = scf.if %c -> f32 {
      %t = math.tanh %s : f32
      scf.yield %t : f32
    } else {
      scf.yield %s : f32
    }
    attn.yield %r : f32
  }
}

// CHECK-LABEL: func.func @forward
func.func @forward(%q: !attn.tensor<[B, Hq, Sq, 128], bf16>, %k: !attn.tensor<[B, Hkv, Skv, 128], bf16>,
                   %v: !attn.tensor<[B, Hkv, Skv, 64], bf16>, %scale: f32, %slope: !attn.tensor<[Hq], f32>, %w: i32)
    -> (!attn.tensor<[B, Hq, Sq, 64], bf16>, !attn.tensor<[B, Hq, Sq], f32>, !attn.tensor<[B, Hq, Sq], f32>) {
  // CHECK: attn.forward @alibi_window(%{{.+}}, %{{.+}}, %{{.+}}) scale(%{{.+}}) captures(%{{.+}}, %{{.+}}) :
  // CHECK-SAME: (!attn.tensor<[B, Hq, Sq, 128], bf16>, !attn.tensor<[B, Hkv, Skv, 128], bf16>,
  // CHECK-SAME: !attn.tensor<[B, Hkv, Skv, 64], bf16>, !attn.tensor<[Hq], f32>, i32)
  // CHECK-SAME: -> (!attn.tensor<[B, Hq, Sq, 64], bf16>, !attn.tensor<[B, Hq, Sq], f32>)
  %o, %lse, %max = attn.forward @alibi_window(%q, %k, %v) scale(%scale) captures(%slope, %w)
    : (!attn.tensor<[B, Hq, Sq, 128], bf16>, !attn.tensor<[B, Hkv, Skv, 128], bf16>,
       !attn.tensor<[B, Hkv, Skv, 64], bf16>, !attn.tensor<[Hq], f32>, i32)
    -> (!attn.tensor<[B, Hq, Sq, 64], bf16>, !attn.tensor<[B, Hq, Sq], f32>)
  // CHECK: attn.forward @nothing(%{{.+}}, %{{.+}}, %{{.+}}) scale(%{{.+}}) {attn.note} :
  %o2, %lse2, %max2 = attn.forward @nothing(%q, %k, %v) scale(%scale) {attn.note}
    : (!attn.tensor<[B, Hq, Sq, 128], bf16>, !attn.tensor<[B, Hkv, Skv, 128], bf16>,
       !attn.tensor<[B, Hkv, Skv, 64], bf16>)
    -> (!attn.tensor<[B, Hq, Sq, 64], bf16>, !attn.tensor<[B, Hq, Sq], f32>)
  return %o, %lse, %max : !attn.tensor<[B, Hq, Sq, 64], bf16>, !attn.tensor<[B, Hq, Sq], f32>, !attn.tensor<[B, Hq, Sq], f32>
}
