// Functions of a box on CPUs: heed_box_class_fn and heed_box_count_fn of heed-c/Runtime.h, on the words of the argument block.
// RUN: heed-opt %s --attn-to-classifier --tile-to-cpu=target=x86-64-v3 --canonicalize --cse | FileCheck %s
// RUN: heed-opt %s --attn-to-classifier --tile-to-cpu=target=x86-64-v3 --cpu-to-llvm | FileCheck %s --check-prefix=LLVM

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!v = !attn.tensor<[B, Hkv, Skv, 32], f32>
!o = !attn.tensor<[B, Hq, Sq, 32], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
!ids = !attn.tensor<[B, ?], i64>

attn.variant @captures_variant(%window: i32 {attn.name = "window"}, %ids: !ids {attn.name = "ids"}, %offset: i64 {attn.name = "offset"},
                               %flip: i1 {attn.name = "flip"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %ids[%b, %q] : !ids
    %y = arith.addi %x, %offset : i64
    %wide = arith.extsi %kv : i32 to i64
    %before = arith.cmpi sle, %wide, %y : i64
    %d = arith.subi %q, %kv : i32
    %near = arith.cmpi sle, %d, %window : i32
    %both = arith.andi %before, %near : i1
    %keep = arith.xori %both, %flip : i1
    attn.yield %keep : i1
  }
}

// The words of the parameters start at 34: window; ids with its address, 2 extents and 2 strides; offset; flip.
// CHECK-NOT:   attn.
// CHECK-LABEL: func.func @f_classify(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr, %[[B:[^:]+]]: i64, %[[H:[^:]+]]: i64, %[[Q0:[^:]+]]: i64, %[[Q1:[^:]+]]: i64, %[[K0:[^:]+]]: i64, %[[K1:[^:]+]]: i64) -> i32
// What the kernel table says of the mask stays with it.
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 1 : i64, uses_head = 0 : i64, value_head_dim = 32 : i64}
// CHECK-DAG:     %[[W34:.+]] = llvm.getelementptr %[[ARGS]][34] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[BITS:.+]] = llvm.load %[[W34]] {{.*}} -> i64
// CHECK-DAG:     %[[WINDOW:.+]] = arith.trunci %[[BITS]] : i64 to i32
// CHECK-DAG:     %[[W35:.+]] = llvm.getelementptr %[[ARGS]][35] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[DATA:.+]] = llvm.load %[[W35]] {{.*}} -> !llvm.ptr
// CHECK-DAG:     %[[W36:.+]] = llvm.getelementptr %[[ARGS]][36] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[EXTENT0:.+]] = llvm.load %[[W36]] {{.*}} -> i64
// CHECK-DAG:     %[[W37:.+]] = llvm.getelementptr %[[ARGS]][37] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[EXTENT1:.+]] = llvm.load %[[W37]] {{.*}} -> i64
// CHECK-DAG:     %[[W38:.+]] = llvm.getelementptr %[[ARGS]][38] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[STRIDE0:.+]] = llvm.load %[[W38]] {{.*}} -> i64
// CHECK-DAG:     %[[W39:.+]] = llvm.getelementptr %[[ARGS]][39] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[STRIDE1:.+]] = llvm.load %[[W39]] {{.*}} -> i64
// CHECK-DAG:     %[[W40:.+]] = llvm.getelementptr %[[ARGS]][40] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[OFFSET:.+]] = llvm.load %[[W40]] {{.*}} -> i64
// CHECK-DAG:     %[[W41:.+]] = llvm.getelementptr %[[ARGS]][41] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     %[[BIT:.+]] = llvm.load %[[W41]] {{.*}} -> i64
// CHECK-DAG:     %[[FLIP:.+]] = arith.trunci %[[BIT]] : i64 to i1
// CHECK-DAG:     %[[FIRST:.+]] = arith.index_cast %[[Q0]] : i64 to index
// CHECK-DAG:     %[[END:.+]] = arith.index_cast %[[Q1]] : i64 to index
// CHECK:         scf.for %{{.+}} = %[[FIRST]] to %[[END]] step %c1
// Reads outside are zero, and touch no memory.
// CHECK-DAG:       %[[IN0:.+]] = arith.cmpi ult, %{{.+}}, %[[EXTENT0]] : i64
// CHECK-DAG:       arith.muli %{{.+}}, %[[STRIDE0]] : i64
// CHECK-DAG:       %[[IN1:.+]] = arith.cmpi ult, %{{.+}}, %[[EXTENT1]] : i64
// CHECK-DAG:       arith.muli %{{.+}}, %[[STRIDE1]] : i64
// CHECK-DAG:       %[[IN:.+]] = arith.andi %[[IN0]], %[[IN1]] : i1
// CHECK:           scf.if %[[IN]] -> (i64) {
// CHECK:             %[[AT:.+]] = llvm.getelementptr %[[DATA]][%{{.+}}] : (!llvm.ptr, i64) -> !llvm.ptr, i64
// CHECK:             llvm.load %[[AT]]
// CHECK:           } else {
// CHECK:             scf.yield %c0_i64
// CHECK-NOT:   attn.
// CHECK:         return %{{.+}} : i32

// Pairs are counted for a vector of queries at a time; what depends on queries alone is computed once for 64 of them.
// CHECK-LABEL: func.func @f_count(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %[[Q0:[^:]+]]: i64, %[[Q1:[^:]+]]: i64, %[[K0:[^:]+]]: i64, %[[K1:[^:]+]]: i64) -> i64
// CHECK-NOT:   attn.
// CHECK:         %[[COUNT:.+]] = scf.for %[[Q:.+]] = %[[Q0]] to %[[Q1]] step %c64_i64
// CHECK:           %[[LEFT:.+]] = arith.subi %[[Q1]], %[[Q]]
// CHECK:           %[[QUERIES:.+]] = arith.minsi %[[LEFT]], %c64_i64
// CHECK:           scf.for %{{.+}} = %c0_i64 to %[[QUERIES]] step %c8_i64
// CHECK:             llvm.load %{{.+}} -> vector<8xi64>
// CHECK:             llvm.intr.masked.gather
// CHECK:             llvm.store
// CHECK:           scf.for %{{.+}} = %[[K0]] to %[[K1]] step %c1_i64
// CHECK:             scf.for %[[LANE:.+]] = %c0_i64 to %[[QUERIES]] step %c8_i64 iter_args(%[[BEFORE:.+]] = %{{.+}})
// CHECK:               %[[LANES:.+]] = arith.subi %[[QUERIES]], %[[LANE]]
// CHECK:               arith.trunci %[[LANES]]
// CHECK:               %[[EXISTS:.+]] = arith.cmpi sgt, %{{.+}}, %{{.+}} : vector<8xi32>
// CHECK:               %[[KEEP:.+]] = arith.xori %{{.+}}, %{{.+}} : vector<8xi1>
// CHECK:               %[[ATTENDS:.+]] = arith.andi %[[EXISTS]], %[[KEEP]]
// CHECK:               llvm.bitcast %[[ATTENDS]] : vector<8xi1> to i8
// CHECK:               llvm.intr.ctpop
// CHECK:               arith.addi %[[BEFORE]]
// CHECK-NOT:   attn.
// CHECK:         return %[[COUNT]] : i64

// LLVM-DAG: llvm.func @f_classify(%{{[^:]+}}: !llvm.ptr, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64) -> i32
// LLVM-DAG: llvm.func @f_count(%{{[^:]+}}: !llvm.ptr, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64, %{{[^:]+}}: i64) -> i64
func.func @f(%q: !t, %k: !k, %v: !v, %s: f32, %window: i32, %ids: !ids, %offset: i64, %flip: i1) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @captures_variant(%q, %k, %v) scale(%s) captures(%window, %ids, %offset, %flip)
    : (!t, !k, !v, i32, !ids, i64, i1) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @extents_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %length = attn.extent "Skv"
    %first = arith.subi %length, %q : i32
    %depth = attn.extent "Dv"
    %last = arith.muli %depth, %first : i32
    %keep = arith.cmpi slt, %kv, %last : i32
    attn.yield %keep : i1
  }
}

// Extents are words of the block, but head dims are known.
// CHECK-LABEL: func.func @g_classify(
// CHECK-SAME:      %[[ARGS:[^:]+]]: !llvm.ptr,
// CHECK-DAG:     %[[C32:.+]] = arith.constant 32 : i64
// CHECK-DAG:     %[[W11:.+]] = llvm.getelementptr %[[ARGS]][11] : (!llvm.ptr) -> !llvm.ptr, i64
// CHECK-DAG:     llvm.load %[[W11]] {{.*}} -> i64
// CHECK:         arith.muli %{{.+}}, %[[C32]] : i64
// CHECK-LABEL: func.func @g_count(
// CHECK-NOT:   func.func
func.func @g(%q: !t, %k: !k, %v: !v, %s: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @extents_variant(%q, %k, %v) scale(%s) : (!t, !k, !v) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}
