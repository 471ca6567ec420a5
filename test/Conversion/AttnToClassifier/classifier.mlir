// Masks as functions: the class of a box by intervals, and whether a pair attends.
// RUN: heed-opt %s --attn-to-classifier --canonicalize --cse | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
!ids = !attn.tensor<[?], i64>
!lengths = !attn.tensor<[B], i32>
!chosen = !attn.tensor<[Hq, ?, ?], i1>
!narrow = !attn.tensor<[B, Hkv, Skv, 32], f32>
!out = !attn.tensor<[B, Hq, Sq, 32], f32>

// The functions take the place of their kernel, and variants are gone.
// CHECK-NOT: attn.variant
// CHECK-NOT: attn.forward

attn.variant @causal_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Full: the first query is not before the last key; skipped: the last query is before the first key. Ends are exclusive.
// CHECK-LABEL: func.func @causal_classify(
// CHECK-SAME:      %{{[^:]+}}: index, %{{[^:]+}}: index, %[[Q0:[^:]+]]: index, %[[Q1:[^:]+]]: index, %[[K0:[^:]+]]: index, %[[K1:[^:]+]]: index) -> i32
// CHECK-SAME:      attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}}
// CHECK-DAG:     %[[LASTQ:.+]] = arith.subi %[[Q1]], %c1 : index
// CHECK-DAG:     %[[LASTK:.+]] = arith.subi %[[K1]], %c1 : index
// CHECK-DAG:     %[[A:.+]] = arith.index_cast %[[Q0]] : index to i64
// CHECK-DAG:     %[[B:.+]] = arith.index_cast %[[LASTQ]] : index to i64
// CHECK-DAG:     %[[C:.+]] = arith.index_cast %[[K0]] : index to i64
// CHECK-DAG:     %[[D:.+]] = arith.index_cast %[[LASTK]] : index to i64
// CHECK-DAG:     %[[LEAST:.+]] = arith.subi %[[A]], %[[D]] : i64
// CHECK-DAG:     %[[MOST:.+]] = arith.subi %[[B]], %[[C]] : i64
// CHECK-DAG:     %[[FULL:.+]] = arith.cmpi sge, %[[LEAST]], %c0_i64 : i64
// CHECK-DAG:     %[[SOME:.+]] = arith.cmpi sge, %[[MOST]], %c0_i64 : i64
// CHECK:         %[[PARTIAL:.+]] = arith.extui %[[SOME]] : i1 to i32
// CHECK:         %[[CLASS:.+]] = arith.select %[[FULL]], %c2_i32, %[[PARTIAL]] : i32
// CHECK:         return %[[CLASS]] : i32

// The mask as it was written, of one pair. Both functions have the same attribute.
// CHECK-LABEL: func.func @causal_attends(
// CHECK-SAME:      %{{[^:]+}}: i32, %{{[^:]+}}: i32, %[[Q:[^:]+]]: i32, %[[K:[^:]+]]: i32) -> i1
// CHECK-SAME:      attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}}
// CHECK-NEXT:    %[[KEEP:.+]] = arith.cmpi sge, %[[Q]], %[[K]] : i32
// CHECK-NEXT:    return %[[KEEP]] : i1
func.func @causal(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @causal_variant(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @documents_variant(%ids: !ids {attn.name = "ids"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %ids[%q] : !ids
    %y = attn.load %ids[%kv] : !ids
    %same = arith.cmpi eq, %x, %y : i64
    attn.yield %same : i1
  }
}

// 64 bits are summarised in 64 bits. Of ids so large that their differences may overflow nothing is known.
// CHECK-LABEL: func.func @documents_classify(
// CHECK-SAME:      %[[IDS:[^:]+]]: !attn.tensor<[?], i64>, %{{[^:]+}}: index, %{{[^:]+}}: index, %[[Q0:[^:]+]]: index, %[[Q1:[^:]+]]: index, %[[K0:[^:]+]]: index, %[[K1:[^:]+]]: index) -> i32
// CHECK-DAG:     %[[MAX:.+]] = arith.constant 9223372036854775807 : i64
// CHECK-DAG:     %[[MIN:.+]] = arith.constant -9223372036854775808 : i64
// CHECK-DAG:     %[[HIGH:.+]] = arith.constant 8796093022208 : i64
// CHECK-DAG:     %[[LOW:.+]] = arith.constant -8796093022208 : i64
// CHECK:         %[[OFQ:.+]]:2 = scf.for %[[Q:.+]] = %[[Q0]] to %[[Q1]] step %c1 iter_args(%[[LEAST:.+]] = %[[MAX]], %[[MOST:.+]] = %[[MIN]]) -> (i64, i64)
// CHECK:           %[[I:.+]] = arith.index_cast %[[Q]] : index to i32
// CHECK:           %[[ID:.+]] = attn.load %[[IDS]][%[[I]]] : !attn.tensor<[?], i64>
// CHECK-DAG:       arith.minsi %[[LEAST]], %[[ID]] : i64
// CHECK-DAG:       arith.maxsi %[[MOST]], %[[ID]] : i64
// CHECK:         }
// CHECK-DAG:     %[[CUT:.+]] = arith.minsi %[[OFQ]]#0, %[[HIGH]] : i64
// CHECK-DAG:     %[[CLAMPED:.+]] = arith.maxsi %[[CUT]], %[[LOW]] : i64
// CHECK-DAG:     %[[HUGE:.+]] = arith.cmpi ne, %[[CLAMPED]], %[[OFQ]]#0 : i64
// CHECK:         %[[OFK:.+]]:2 = scf.for %{{.+}} = %[[K0]] to %[[K1]] step %c1 iter_args(%{{.+}} = %[[MAX]], %{{.+}} = %[[MIN]]) -> (i64, i64)
// CHECK:         }
// CHECK-DAG:     arith.minsi %[[OFK]]#1, %[[HIGH]] : i64
// CHECK-NOT:     scf.for
// CHECK:         arith.select %{{.+}}, %c2_i32, %{{.+}} : i32

// CHECK-LABEL: func.func @documents_attends(
// CHECK-SAME:      %[[IDS:[^:]+]]: !attn.tensor<[?], i64>, %{{[^:]+}}: i32, %{{[^:]+}}: i32, %[[Q:[^:]+]]: i32, %[[K:[^:]+]]: i32) -> i1
// CHECK-NOT:     scf.for
// CHECK-DAG:     %[[X:.+]] = attn.load %[[IDS]][%[[Q]]]
// CHECK-DAG:     %[[Y:.+]] = attn.load %[[IDS]][%[[K]]]
// CHECK:         %[[SAME:.+]] = arith.cmpi eq, %[[X]], %[[Y]] : i64
// CHECK-NEXT:    return %[[SAME]] : i1
func.func @documents(%q: !t, %k: !k, %v: !k, %s: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @documents_variant(%q, %k, %v) scale(%s) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @padding_variant(%lengths: !lengths {attn.name = "lengths"}) {
  attn.mask(%b, %h, %q, %kv) {
    %n = attn.load %lengths[%b] : !lengths
    %keep = arith.cmpi slt, %kv, %n : i32
    attn.yield %keep : i1
  }
}

// Batch is used, by the load; what depends on neither q nor kv is read once. Value's head dim is its own.
// CHECK-LABEL: func.func @padding_classify(
// CHECK-SAME:      %[[LENGTHS:[^:]+]]: !attn.tensor<[B], i32>, %[[B:[^:]+]]: index,
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 1 : i64, uses_head = 0 : i64, value_head_dim = 32 : i64}
// CHECK-NOT:     scf.for
// CHECK:         %[[BI:.+]] = arith.index_cast %[[B]] : index to i32
// CHECK:         attn.load %[[LENGTHS]][%[[BI]]]
// CHECK-NOT:     scf.for
// CHECK:         return
// CHECK-LABEL: func.func @padding_attends(
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 1 : i64, uses_head = 0 : i64, value_head_dim = 32 : i64}
func.func @padding(%q: !t, %k: !k, %v: !narrow, %s: f32, %n: !lengths) -> (!out, !lse, !lse) {
  %o, %l, %max = attn.forward @padding_variant(%q, %k, %v) scale(%s) captures(%n) : (!t, !k, !narrow, !lengths) -> (!out, !lse)
  return %o, %l, %max : !out, !lse, !lse
}

attn.variant @chosen_variant(%chosen: !chosen {attn.name = "chosen"}, %tile: i32 {attn.name = "tile"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.floordiv %q, %tile : i32
    %y = attn.floordiv %kv, %tile : i32
    %keep = attn.load %chosen[%h, %x, %y] : !chosen
    attn.yield %keep : i1
  }
}

// Head is used; two indices that move are two loops; captures of every form come first, in order.
// CHECK-LABEL: func.func @chosen_classify(
// CHECK-SAME:      %[[CHOSEN:[^:]+]]: !attn.tensor<[Hq, ?, ?], i1>, %[[TILE:[^:]+]]: i32, %{{[^:]+}}: index, %[[H:[^:]+]]: index,
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 1 : i64, value_head_dim = 64 : i64}
// CHECK:         %[[HI:.+]] = arith.index_cast %[[H]] : index to i32
// CHECK:         scf.for
// CHECK:           %[[X:.+]] = arith.index_cast
// CHECK:           scf.for
// CHECK:             %[[Y:.+]] = arith.index_cast
// CHECK:             attn.load %[[CHOSEN]][%[[HI]], %[[X]], %[[Y]]]
// CHECK-LABEL: func.func @chosen_attends(
// CHECK-SAME:      %[[CHOSEN:[^:]+]]: !attn.tensor<[Hq, ?, ?], i1>, %[[TILE:[^:]+]]: i32, %{{[^:]+}}: i32, %[[H:[^:]+]]: i32, %[[Q:[^:]+]]: i32, %[[K:[^:]+]]: i32) -> i1
// CHECK-DAG:     %[[X:.+]] = attn.floordiv %[[Q]], %[[TILE]] : i32
// CHECK-DAG:     %[[Y:.+]] = attn.floordiv %[[K]], %[[TILE]] : i32
// CHECK:         %[[KEEP:.+]] = attn.load %[[CHOSEN]][%[[H]], %[[X]], %[[Y]]]
// CHECK-NEXT:    return %[[KEEP]] : i1
func.func @chosen(%q: !t, %k: !k, %v: !k, %s: f32, %chosen: !chosen, %tile: i32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @chosen_variant(%q, %k, %v) scale(%s) captures(%chosen, %tile) : (!t, !k, !k, !chosen, i32) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @both_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %sum = arith.addi %b, %h : i32
    %keep = arith.cmpi slt, %kv, %sum : i32
    attn.yield %keep : i1
  }
}

// CHECK-LABEL: func.func @both_classify(
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 1 : i64, uses_head = 1 : i64, value_head_dim = 64 : i64}
// CHECK-LABEL: func.func @both_attends(
func.func @both(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @both_variant(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

// The score does not matter, even where it uses the head.
attn.variant @score_variant(%slope: !attn.tensor<[Hq], f32> {attn.name = "slope"}) {
  attn.score(%x, %b, %h, %q, %kv) {
    %m = attn.load %slope[%h] : !attn.tensor<[Hq], f32>
    %y = arith.mulf %x, %m : f32
    attn.yield %y : f32
  }
}

// Without a mask every pair attends.
// CHECK-LABEL: func.func @score_classify(
// CHECK-SAME:      !attn.tensor<[Hq], f32>, %{{[^:]+}}: index,
// CHECK-SAME:      heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}
// CHECK-NEXT:    %[[FULL:.+]] = arith.constant 2 : i32
// CHECK-NEXT:    return %[[FULL]] : i32
// CHECK-LABEL: func.func @score_attends(
// CHECK-SAME:      !attn.tensor<[Hq], f32>, %{{[^:]+}}: i32, %{{[^:]+}}: i32, %{{[^:]+}}: i32, %{{[^:]+}}: i32) -> i1
// CHECK-NEXT:    %[[TRUE:.+]] = arith.constant true
// CHECK-NEXT:    return %[[TRUE]] : i1
func.func @score(%q: !t, %k: !k, %v: !k, %s: f32, %slope: !attn.tensor<[Hq], f32>) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @score_variant(%q, %k, %v) scale(%s) captures(%slope)
    : (!t, !k, !k, !attn.tensor<[Hq], f32>) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
