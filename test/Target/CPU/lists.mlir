// A mask that reads a tensor along queries and keys: the loop walks lists, and what makes them is there too.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-lists})" | FileCheck %s --check-prefix=TILE
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128})" | FileCheck %s --check-prefix=UNDECIDED
// Somebody may decide otherwise.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-lists walk=bounds})" | FileCheck %s --check-prefix=BOUNDS
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-lists walk=lists})" | FileCheck %s --check-prefix=LISTS
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{walk=trees})" 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// UNKNOWN: error: unknown walk 'trees' (known: bounds, lists)
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-lists},canonicalize,tile.kernel(tile-select-cpu-schedule{target=x86-64-v3}),tile-to-cpu)" | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 16], f32>
!k = !attn.tensor<[B, Hkv, Skv, 16], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
!doc = !attn.tensor<[Skv], i32>

attn.variant @documents(%doc: !doc {attn.name = "doc"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %doc[%q] : !doc
    %y = attn.load %doc[%kv] : !doc
    %m = arith.cmpi eq, %x, %y : i32
    attn.yield %m : i1
  }
}
attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %m = arith.cmpi sge, %q, %kv : i32
    attn.yield %m : i1
  }
}

// TILE-LABEL: tile.kernel @listed(
// TILE:         tile.for_kv {{.*}} step 128 lists classify
// TILE:       func.func @listed_classify(
// TILE:       func.func @listed_attends(
// BOUNDS-NOT: func.func @listed_classify(
// BOUNDS-LABEL: tile.kernel @listed(
// BOUNDS: tile.for_kv {{.*}} step 128 bounds classify
// UNDECIDED-NOT: func.func @listed_classify(
// UNDECIDED-LABEL: tile.kernel @listed(
// UNDECIDED: tile.for_kv {{.*}} step 128 classify

// CHECK-LABEL: func.func @listed_tile(
// CHECK-SAME:    uses_lists = 1 : i64
// The lists of the launch: word 32 of the argument block. A row of them is a batch's and head's, where each has its own.
// CHECK:         %[[WORD:.+]] = arith.constant 32 : i64
// CHECK:         llvm.getelementptr %{{.+}}[%[[WORD]]]
// CHECK:         scf.for
// A run is three words; its blocks are partial where the third is 1.
// CHECK:           arith.constant 3 : i64
// CHECK:           %[[PARTIAL:.+]] = arith.cmpi eq, %{{.+}}, %{{.+}} : i32
// CHECK:           scf.for
// CHECK-LABEL: func.func @listed_cost(
// CHECK:         scf.for {{.*}} iter_args({{.*}}) -> (i64)
// CHECK:           arith.subi
// CHECK:           arith.addi
// CHECK:       func.func @listed_classify(%{{.*}}: !llvm.ptr, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64, %{{.*}}: i64) -> i32
func.func @listed(%q: !t, %k: !k, %v: !k, %scale: f32, %doc: !doc) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents(%q, %k, %v) scale(%scale) captures(%doc) : (!t, !k, !k, !doc) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// Bounds in closed form need no lists.
// TILE-NOT: @bounded_classify
// TILE-LABEL: tile.kernel @bounded(
// TILE: step 128 bounds classify
// LISTS-LABEL: tile.kernel @bounded(
// LISTS: step 128 lists classify
// LISTS: func.func @bounded_classify(
// CHECK-LABEL: func.func @bounded_tile(
// CHECK-SAME:    uses_lists = 0 : i64
func.func @bounded(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
