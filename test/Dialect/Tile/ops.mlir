// RUN: heed-opt %s --verify-roundtrip | FileCheck %s
// RUN: heed-opt %s --mlir-print-op-generic | heed-opt | FileCheck %s

!q = !attn.tensor<[B, Hq, Sq, 128], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 128], bf16>
!v = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!o = !attn.tensor<[B, Hq, Sq, 64], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>

// CHECK-LABEL: tile.kernel @forward(
// CHECK-SAME:    "query" %[[Q:.+]]: !attn.tensor<[B, Hq, Sq, 128], bf16>,
// CHECK-SAME:    "key" %[[K:.+]]: !attn.tensor<[B, Hkv, Skv, 128], bf16>, "value" %[[V:.+]]: !attn.tensor<[B, Hkv, Skv, 64], bf16>,
// CHECK-SAME:    "output" %[[O:.+]]: !attn.tensor<[B, Hq, Sq, 64], bf16>, "lse" %[[LSE:.+]]: !attn.tensor<[B, Hq, Sq], f32>, "max_scores" %[[MAX:.+]]: !attn.tensor<[B, Hq, Sq], f32>,
// CHECK-SAME:    "scale" %[[SCALE:.+]]: f32, "window" %[[W:.+]]: i32) parallel (%[[B:.+]], %[[H:.+]], %[[QT:.+]]) {
tile.kernel @forward("query" %query: !q, "key" %key: !k, "value" %value: !v, "output" %output: !o, "lse" %lse: !lse, "max_scores" %max: !lse,
                     "scale" %scale: f32, "window" %w: i32) parallel (%b, %h, %qt) {
  %c0 = arith.constant 0 : index
  %c64 = arith.constant 64 : index
  %row = arith.muli %qt, %c64 : index
  %skv = arith.constant 1000 : index
  // CHECK: %[[QTILE:.+]] = tile.load %[[Q]][%[[B]], %[[H]], %{{.+}}] : !attn.tensor<[B, Hq, Sq, 128], bf16> -> !tile.tile<64x128xbf16>
  %q = tile.load %query[%b, %h, %row] : !q -> !tile.tile<64x128xbf16>
  // CHECK: tile.scale %[[QTILE]] by %[[SCALE]] : !tile.tile<64x128xbf16>
  %qs = tile.scale %q by %scale : !tile.tile<64x128xbf16>
  // CHECK: tile.fill 0xFF800000 -> !tile.tile<64xf32>
  %m0 = tile.fill 0xFF800000 -> !tile.tile<64xf32>
  %l0 = tile.fill 0.0 -> !tile.tile<64xf32>
  // CHECK: tile.fill 0.000000e+00 -> !tile.tile<64x64xf32>
  %acc0 = tile.fill 0.0 -> !tile.tile<64x64xf32>
  // CHECK: %{{.+}}:3 = tile.for_kv %[[KV:.+]], %[[PARTIAL:.+]] = %{{.+}} to %{{.+}} step 128 classify (%[[LO:.+]], %[[HI:.+]]) {
  %r:3 = tile.for_kv %kv, %partial = %c0 to %skv step 128 classify (%k0, %k1) {
    %full = arith.cmpi sle, %k1, %row : index
    %one = arith.constant 1 : i32
    %two = arith.constant 2 : i32
    %class = arith.select %full, %two, %one : i32
    // CHECK: tile.yield %{{.+}} : i32
    tile.yield %class : i32
  // CHECK: } iter_args(%[[M:.+]] = %{{.+}}, %[[L:.+]] = %{{.+}}, %[[ACC:.+]] = %{{.+}}) : (!tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x64xf32>) {
  } iter_args(%m = %m0, %l = %l0, %acc = %acc0) : (!tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x64xf32>) {
    %k = tile.load %key[%b, %h, %kv] : !k -> !tile.tile<128x128xbf16>
    // CHECK: tile.dot %{{.+}}, %{{.+}} transpose_rhs : !tile.tile<64x128xbf16>, !tile.tile<128x128xbf16> -> !tile.tile<64x128xf32>
    %s = tile.dot %qs, %k transpose_rhs : !tile.tile<64x128xbf16>, !tile.tile<128x128xbf16> -> !tile.tile<64x128xf32>
    // CHECK: tile.map %{{.+}} at (%{{.+}}, %[[KV]]) : !tile.tile<64x128xf32> (%[[X:.+]], %{{.+}}, %{{.+}}) {
    %t = tile.map %s at (%row, %kv) : !tile.tile<64x128xf32> (%x, %qi, %ki) {
      %y = math.tanh %x : f32
      // CHECK: tile.yield %{{.+}} : f32
      tile.yield %y : f32
    }
    // CHECK: tile.mask %{{.+}} at (%{{.+}}, %[[KV]]) limit %{{.+}} partial %[[PARTIAL]] : !tile.tile<64x128xf32> (%[[QI:.+]], %[[KI:.+]]) {
    %u = tile.mask %t at (%row, %kv) limit %skv partial %partial : !tile.tile<64x128xf32> (%qi, %ki) {
      %keep = arith.cmpi sge, %qi, %ki : i32
      // CHECK: tile.yield %{{.+}} : i1
      tile.yield %keep : i1
    }
    // CHECK: tile.mask %{{.+}} at (%{{.+}}, %[[KV]]) limit %{{.+}} : !tile.tile<64x128xf32>{{$}}
    %z = tile.mask %u at (%row, %kv) limit %skv : !tile.tile<64x128xf32>
    // CHECK: tile.online_softmax %{{.+}}, %[[M]], %[[L]] factor %[[SCALE]] : !tile.tile<64x128xf32>, !tile.tile<64xf32> -> !tile.tile<64x128xbf16>
    %p, %m1, %l1, %alpha = tile.online_softmax %z, %m, %l factor %scale
      : !tile.tile<64x128xf32>, !tile.tile<64xf32> -> !tile.tile<64x128xbf16>
    // CHECK: tile.scale_rows %[[ACC]] by %{{.+}} : !tile.tile<64x64xf32>, !tile.tile<64xf32>
    %scaled = tile.scale_rows %acc by %alpha : !tile.tile<64x64xf32>, !tile.tile<64xf32>
    %v = tile.load %value[%b, %h, %kv] : !v -> !tile.tile<128x64xbf16>
    // CHECK: tile.dot %{{.+}}, %{{.+}} acc %{{.+}} : !tile.tile<64x64xf32> : !tile.tile<64x128xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<64x64xf32>
    %acc1 = tile.dot %p, %v acc %scaled : !tile.tile<64x64xf32> : !tile.tile<64x128xbf16>, !tile.tile<128x64xbf16> -> !tile.tile<64x64xf32>
    // CHECK: tile.yield %{{.+}}, %{{.+}}, %{{.+}} : !tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x64xf32>
    tile.yield %m1, %l1, %acc1 : !tile.tile<64xf32>, !tile.tile<64xf32>, !tile.tile<64x64xf32>
  }
  // CHECK: tile.normalize %{{.+}}#2, %{{.+}}#0, %{{.+}}#1 factor %[[SCALE]] : !tile.tile<64x64xf32>, !tile.tile<64xf32>
  %out, %log, %max_scores = tile.normalize %r#2, %r#0, %r#1 factor %scale : !tile.tile<64x64xf32>, !tile.tile<64xf32>
  // CHECK: tile.store %{{.+}}, %[[O]][%[[B]], %[[H]], %{{.+}}] : !tile.tile<64x64xf32>, !attn.tensor<[B, Hq, Sq, 64], bf16>
  tile.store %out, %output[%b, %h, %row] : !tile.tile<64x64xf32>, !o
  // CHECK: tile.store %{{.+}}, %[[LSE]][%[[B]], %[[H]], %{{.+}}] : !tile.tile<64xf32>, !attn.tensor<[B, Hq, Sq], f32>
  tile.store %log, %lse[%b, %h, %row] : !tile.tile<64xf32>, !lse
  // CHECK: tile.return
  tile.return
}

// A loop without a classifier and without carried values, a schedule, and attributes.
// CHECK-LABEL: tile.kernel @scheduled
// CHECK-SAME:    attributes {tile.schedule = #tile.cpu_schedule<target = "x86-64-v3", lanes = 8, block_q = 64, block_kv = 128, rows = 4, vectors = 2, dot = fma, exp_degree = 5>} {
tile.kernel @scheduled("query" %query: !q, "key" %key: !k, "value" %value: !v, "output" %output: !o, "lse" %lse: !lse, "max_scores" %max: !lse,
                       "scale" %scale: f32) parallel (%b, %h, %qt)
    attributes {tile.schedule = #tile.cpu_schedule<target = "x86-64-v3", lanes = 8, block_q = 64, block_kv = 128,
                                                   rows = 4, vectors = 2, dot = fma, exp_degree = 5>} {
  %c0 = arith.constant 0 : index
  // CHECK: tile.for_kv %{{.+}}, %{{.+}} = %{{.+}} to %{{.+}} step 64 attributes {tile.note} {
  tile.for_kv %kv, %partial = %c0 to %qt step 64 attributes {tile.note} {
    // CHECK-NEXT: tile.yield
    tile.yield
  }
  // CHECK: tile.for_kv %{{.+}}, %{{.+}} = %{{.+}} to %{{.+}} step 32 {
  tile.for_kv %kv, %partial = %c0 to %qt step 32 {
    tile.yield
  }
  tile.return
}

// CHECK-LABEL: func.func private @schedules
// CHECK-SAME:    dot = amx
// CHECK-SAME:    dot = dpbf16
func.func private @schedules() attributes {
  a = #tile.cpu_schedule<target = "sapphirerapids", lanes = 16, block_q = 64, block_kv = 32, rows = 1, vectors = 1, dot = amx, exp_degree = 3>,
  b = #tile.cpu_schedule<target = "cooperlake", lanes = 16, block_q = 16, block_kv = 64, rows = 1, vectors = 1, dot = dpbf16, exp_degree = 5>
}

// What backward and scans need of the ops: the first operand of a product transposed, a loop in ascending order.
// CHECK-LABEL: tile.kernel @orders(
tile.kernel @orders("query" %query: !q, "key" %key: !k, "value" %value: !v, "output" %output: !o, "lse" %lse: !lse, "max_scores" %max: !lse,
                    "scale" %scale: f32) parallel (%b, %h, %qt) {
  %c0 = arith.constant 0 : index
  %skv = arith.constant 1000 : index
  %p = tile.fill 1.0 -> !tile.tile<64x128xf32>
  %do = tile.fill 1.0 -> !tile.tile<64x32xf32>
  %dv0 = tile.fill 0.0 -> !tile.tile<128x32xf32>
  // CHECK: tile.for_kv %{{.+}}, %{{.+}} = %{{.+}} to %{{.+}} step 128 ordered iter_args(
  %dv = tile.for_kv %kv, %partial = %c0 to %skv step 128 ordered iter_args(%acc = %dv0) : (!tile.tile<128x32xf32>) {
    // CHECK: tile.dot %{{.+}} transpose_lhs, %{{.+}} acc %{{.+}} : !tile.tile<128x32xf32> : !tile.tile<64x128xf32>, !tile.tile<64x32xf32> -> !tile.tile<128x32xf32>
    %next = tile.dot %p transpose_lhs, %do acc %acc : !tile.tile<128x32xf32> : !tile.tile<64x128xf32>, !tile.tile<64x32xf32> -> !tile.tile<128x32xf32>
    tile.yield %next : !tile.tile<128x32xf32>
  }
  tile.return
}

// Where blocks come from, once that is decided.
// CHECK-LABEL: func.func @walks
func.func @walks(%n: index, %class: i32) {
  // CHECK: tile.for_kv %{{.+}} step 64 bounds classify (
  tile.for_kv %kv, %partial = %n to %n step 64 bounds classify (%k0, %k1) {
    tile.yield %class : i32
  } {
    tile.yield
  }
  // CHECK: tile.for_kv %{{.+}} step 64 ordered lists classify (
  tile.for_kv %kv, %partial = %n to %n step 64 ordered lists classify (%k0, %k1) {
    tile.yield %class : i32
  } {
    tile.yield
  }
  return
}

// What lies beside the scores.
// CHECK-LABEL: func.func @beside
// CHECK-SAME:    (%[[S:.+]]: !tile.tile<64x32xf32>, %[[BIAS:.+]]: !attn.tensor<[Hq, Sq, Skv], bf16>, %[[H:.+]]: i32, %[[I:.+]]: index, %[[P:.+]]: i1)
func.func @beside(%s: !tile.tile<64x32xf32>, %bias: !attn.tensor<[Hq, Sq, Skv], bf16>, %h: i32, %i: index, %p: i1) -> !tile.tile<64x32xf32> {
  // CHECK: %[[E:.+]] = tile.load_elements %[[BIAS]][%[[H]]] at (%[[I]], %[[I]]) : !attn.tensor<[Hq, Sq, Skv], bf16> -> !tile.tile<64x32xbf16>
  %e = tile.load_elements %bias[%h] at (%i, %i) : !attn.tensor<[Hq, Sq, Skv], bf16> -> !tile.tile<64x32xbf16>
  // CHECK: %[[A:.+]]:2 = tile.along_keys %[[I]] partial %[[P]] -> (!tile.tile<32xi32>, !tile.tile<32xi1>) (%[[KEY:.+]]) {
  %a:2 = tile.along_keys %i partial %p -> (!tile.tile<32xi32>, !tile.tile<32xi1>) (%key) {
    %below = arith.cmpi slt, %key, %h : i32
    // CHECK: tile.yield %[[KEY]], %{{.+}} : i32, i1
    tile.yield %key, %below : i32, i1
  }
  // CHECK: tile.along_keys %[[I]] -> !tile.tile<32xi64> (%{{.+}}) {
  %w = tile.along_keys %i -> !tile.tile<32xi64> (%key) {
    %wide = arith.extsi %key : i32 to i64
    tile.yield %wide : i64
  }
  // CHECK: %[[T:.+]] = tile.map %[[S]] at (%[[I]], %[[I]]) beside (%[[E]] : !tile.tile<64x32xbf16>) : !tile.tile<64x32xf32> (%[[X:.+]], %{{.+}}, %{{.+}}, %[[B:.+]]) {
  %t = tile.map %s at (%i, %i) beside (%e : !tile.tile<64x32xbf16>) : !tile.tile<64x32xf32> (%x, %q, %k, %b) {
    // CHECK: arith.addf %[[X]], %[[B]] : f32
    %y = arith.addf %x, %b : f32
    tile.yield %y : f32
  }
  // CHECK: tile.mask %[[T]] at (%[[I]], %[[I]]) limit %[[I]] partial %[[P]] beside (%[[A]]#0 : !tile.tile<32xi32>, %[[A]]#1 : !tile.tile<32xi1>) : !tile.tile<64x32xf32> (%{{.+}}, %{{.+}}, %{{.+}}, %[[KEEP:.+]]) {
  %u = tile.mask %t at (%i, %i) limit %i partial %p beside (%a#0 : !tile.tile<32xi32>, %a#1 : !tile.tile<32xi1>) : !tile.tile<64x32xf32> (%q, %k, %id, %keep) {
    // CHECK: tile.yield %[[KEEP]] : i1
    tile.yield %keep : i1
  }
  return %u : !tile.tile<64x32xf32>
}
