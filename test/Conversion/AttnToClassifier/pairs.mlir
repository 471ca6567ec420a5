// Masks as functions of a box and of a pair, for targets that look at many pairs at a time.
// RUN: heed-opt %s --attn-to-classifier=for-pairs --canonicalize --cse \
// RUN:   | FileCheck %s --implicit-check-not=_count --implicit-check-not=attn.variant --implicit-check-not=attn.forward

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!v = !attn.tensor<[B, Hkv, Skv, 32], f32>
!o = !attn.tensor<[B, Hq, Sq, 32], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
!chosen = !attn.tensor<[Hq, ?, ?], i1>
!slope = !attn.tensor<[Hq], f32>

attn.variant @chosen_variant(%chosen: !chosen {attn.name = "chosen"}, %tile: i32 {attn.name = "tile"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.floordiv %q, %tile : i32
    %y = attn.floordiv %kv, %tile : i32
    %keep = attn.load %chosen[%h, %x, %y] : !chosen
    attn.yield %keep : i1
  }
}

// The mask as it was written, of the captures and one pair. Both functions have the same attribute.
// CHECK-LABEL: func.func @chosen_classify(
// CHECK-SAME:      %{{[^:]+}}: !attn.tensor<[Hq, ?, ?], i1>, %{{[^:]+}}: i32, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index) -> i32
// CHECK-SAME:      attributes {heed.box = [[BOX:\{head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 1 : i64, value_head_dim = 32 : i64\}]]}
// CHECK-LABEL: func.func @chosen_attends(
// CHECK-SAME:      %[[CHOSEN:[^:]+]]: !attn.tensor<[Hq, ?, ?], i1>, %[[TILE:[^:]+]]: i32, %{{[^:]+}}: index, %[[H:[^:]+]]: index, %[[Q:[^:]+]]: index, %[[KV:[^:]+]]: index) -> i1
// CHECK-SAME:      attributes {heed.box = [[BOX]]}
// CHECK-NOT:     scf.for
// CHECK-DAG:     %[[HI:.+]] = arith.index_cast %[[H]] : index to i32
// CHECK-DAG:     %[[QI:.+]] = arith.index_cast %[[Q]] : index to i32
// CHECK-DAG:     %[[KI:.+]] = arith.index_cast %[[KV]] : index to i32
// CHECK-DAG:     %[[X:.+]] = attn.floordiv %[[QI]], %[[TILE]] : i32
// CHECK-DAG:     %[[Y:.+]] = attn.floordiv %[[KI]], %[[TILE]] : i32
// CHECK:         %[[KEEP:.+]] = attn.load %[[CHOSEN]][%[[HI]], %[[X]], %[[Y]]]
// CHECK-NEXT:    return %[[KEEP]] : i1
func.func @chosen(%q: !t, %k: !k, %v: !v, %s: f32, %chosen: !chosen, %tile: i32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @chosen_variant(%q, %k, %v) scale(%s) captures(%chosen, %tile) : (!t, !k, !v, !chosen, i32) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @score_variant(%slope: !slope {attn.name = "slope"}) {
  attn.score(%x, %b, %h, %q, %kv) {
    %m = attn.load %slope[%h] : !slope
    %y = arith.mulf %x, %m : f32
    attn.yield %y : f32
  }
}

// Without a mask every pair attends. Captures are arguments, even if nothing reads them.
// CHECK-LABEL: func.func @score_classify(
// CHECK-SAME:      attributes {heed.box = [[BOX:\{head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 32 : i64\}]]}
// CHECK-LABEL: func.func @score_attends(
// CHECK-SAME:      %{{[^:]+}}: !attn.tensor<[Hq], f32>, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index, %{{[^:]+}}: index) -> i1
// CHECK-SAME:      attributes {heed.box = [[BOX]]}
// CHECK-NEXT:    %[[TRUE:.+]] = arith.constant true
// CHECK-NEXT:    return %[[TRUE]] : i1
func.func @score(%q: !t, %k: !k, %v: !v, %s: f32, %slope: !slope) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @score_variant(%q, %k, %v) scale(%s) captures(%slope) : (!t, !k, !v, !slope) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}
