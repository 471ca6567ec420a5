// What is not computed for each score: values along keys that take long, and tiles of captured matrices.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=32},tile.kernel(tile-hoist-elements))" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[B, Skv], i32>

// The ids of keys are read once a key, where a block is partial. Those of queries, and comparisons, stay.
attn.variant @documents(%doc: !ids {attn.name = "doc"}) {
  attn.mask(%b, %h, %q, %kv) {
    %mine = attn.load %doc[%b, %q] : !ids
    %other = attn.load %doc[%b, %kv] : !ids
    %same = arith.cmpi eq, %mine, %other : i32
    %before = arith.cmpi sge, %q, %kv : i32
    %keep = arith.andi %same, %before : i1
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: tile.kernel @documents_ids(
// CHECK:         tile.for_kv %[[KV:[a-z0-9]+]], %[[PARTIAL:[a-z0-9]+]] =
// CHECK:         %[[IDS:.+]] = tile.along_keys %[[KV]] partial %[[PARTIAL]] -> !tile.tile<32xi32> (%[[KEY:.+]]) {
// CHECK-NEXT:      %[[ID:.+]] = attn.load %{{.+}}[%{{.+}}, %[[KEY]]]
// CHECK-NEXT:      tile.yield %[[ID]] : i32
// CHECK:         tile.mask %{{.+}} beside (%[[IDS]] : !tile.tile<32xi32>) : !tile.tile<64x32xf32> (%[[Q:.+]], %[[K:.+]], %[[OTHER:.+]]) {
// CHECK-NEXT:      %[[MINE:.+]] = attn.load %{{.+}}[%{{.+}}, %[[Q]]]
// CHECK-NEXT:      arith.cmpi eq, %[[MINE]], %[[OTHER]]
// CHECK-NEXT:      arith.cmpi sge, %[[Q]], %[[K]]
func.func @documents_ids(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

// A sum of the key and a constant is as quickly computed again; a quotient is not. What only the quotient needs goes along.
attn.variant @grid(%width: i32 {attn.name = "width"}) {
  attn.mask(%b, %h, %q, %kv) {
    %one = arith.constant 1 : i32
    %behind = arith.addi %kv, %one : i32
    %row = attn.floordiv %behind, %width : i32
    %mine = attn.floordiv %q, %width : i32
    %same = arith.cmpi eq, %mine, %row : i32
    %near = arith.cmpi sgt, %q, %behind : i32
    %keep = arith.andi %same, %near : i1
    attn.yield %keep : i1
  }
}
// CHECK-LABEL: tile.kernel @grid_rows(
// CHECK:         tile.along_keys %{{.+}} partial %{{.+}} -> !tile.tile<32xi32> (%[[KEY:.+]]) {
// CHECK:           %[[BEHIND:.+]] = arith.addi %[[KEY]], %{{.+}}
// CHECK-NEXT:      attn.floordiv %[[BEHIND]],
// CHECK:         tile.mask {{.*}} (%[[Q:.+]], %[[K:.+]], %[[ROW:.+]]) {
// CHECK:           arith.addi %[[K]], %{{.+}}
// CHECK:           attn.floordiv %[[Q]],
// CHECK-NOT:       attn.floordiv
// CHECK:           tile.yield
func.func @grid_rows(%q: !t, %k: !k, %v: !k, %scale: f32, %width: i32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @grid(%q, %k, %v) scale(%scale) captures(%width) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!bias = !attn.tensor<[Hq, Sq, Skv], bf16>

// A tile of the bias; a gather at the distance of query and key is none.
attn.variant @biased(%bias: !bias {attn.name = "bias"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %two = arith.constant 2 : i32
    %half = arith.divsi %h, %two : i32
    %full = attn.load %bias[%half, %q, %kv] : !bias
    %distance = arith.subi %q, %kv : i32
    %relative = attn.load %bias[%h, %q, %distance] : !bias
    %x = arith.addf %s, %full : f32
    %y = arith.addf %x, %relative : f32
    attn.yield %y : f32
  }
}
// CHECK-LABEL: tile.kernel @full_bias(
// CHECK:         %[[HALF:.+]] = arith.divsi
// CHECK:         tile.for_kv %[[KV:[a-z0-9]+]], %{{.+}} =
// CHECK:         %[[TILE:.+]] = tile.load_elements %{{.+}}[%[[HALF]]] at (%{{.+}}, %[[KV]]) : !attn.tensor<[Hq, Sq, Skv], bf16> -> !tile.tile<64x32xbf16>
// CHECK:         tile.map %{{.+}} beside (%[[TILE]] : !tile.tile<64x32xbf16>)
// CHECK:           %[[DISTANCE:.+]] = arith.subi
// CHECK:           attn.load %{{.+}}[%{{.+}}, %{{.+}}, %[[DISTANCE]]]
// CHECK-NOT:       attn.load
func.func @full_bias(%q: !t, %k: !k, %v: !k, %scale: f32, %bias: !bias) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @biased(%q, %k, %v) scale(%scale) captures(%bias) : (!t, !k, !k, !bias) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[Skv], i32>
!table = !attn.tensor<[?, Sq, Skv], bf16>

// An index that differs from key to key makes no tile.
attn.variant @chosen(%ids: !ids {attn.name = "ids"}, %table: !table {attn.name = "table"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %id = attn.load %ids[%kv] : !ids
    %x = attn.load %table[%id, %q, %kv] : !table
    %y = arith.addf %s, %x : f32
    attn.yield %y : f32
  }
}
// CHECK-LABEL: tile.kernel @chosen_bias(
// CHECK:         tile.along_keys
// CHECK-NOT:     tile.load_elements
// CHECK:         tile.map {{.*}} (%[[S:.+]], %[[Q:.+]], %[[K:.+]], %[[ID:.+]]) {
// CHECK-NEXT:      arith.mulf %[[S]],
// CHECK-NEXT:      attn.load %{{.+}}[%[[ID]], %[[Q]], %[[K]]]
func.func @chosen_bias(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids, %table: !table) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @chosen(%q, %k, %v) scale(%scale) captures(%ids, %table) : (!t, !k, !k, !ids, !table) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!w = !attn.tensor<[Skv], f32>

// What follows quickly from a number that is stored anyway is not stored.
attn.variant @weighted(%w: !w {attn.name = "w"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = attn.load %w[%kv] : !w
    %f = arith.sitofp %q : i32 to f32
    %y = arith.mulf %x, %f : f32
    %double = arith.addf %x, %x : f32
    %z = arith.mulf %s, %y : f32
    %r = arith.mulf %z, %double : f32
    attn.yield %r : f32
  }
}
// CHECK-LABEL: tile.kernel @weights(
// CHECK:         tile.along_keys %{{.+}} -> !tile.tile<32xf32> (
// CHECK:         tile.map {{.*}} (%{{.+}}, %{{.+}}, %{{.+}}, %[[W:.+]]) {
// CHECK:           arith.addf %[[W]], %[[W]]
func.func @weights(%q: !t, %k: !k, %v: !k, %scale: f32, %w: !w) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @weighted(%q, %k, %v) scale(%scale) captures(%w) : (!t, !k, !k, !w) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
