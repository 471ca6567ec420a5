// The classes of blocks: interval arithmetic on the mask, cleaned up here to be readable.
// RUN: heed-opt %s --attn-to-tile --canonicalize --cse | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
!doc = !attn.tensor<[B, Sq], i32>

attn.variant @causal_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Full: firstQ >= lastKv. The last block ends with the keys. Whether lastQ < firstKv is not asked: the
// loop ends before such blocks.
// CHECK-LABEL: tile.kernel @causal
// CHECK:       tile.for_kv %[[KV:.+]], %[[PARTIAL:.+]] = %{{.+}} to %{{.+}} step 128 classify (%{{.+}}, %[[HI:.+]]) {
// CHECK-DAG:     %[[END:.+]] = arith.minsi %[[HI]], %{{.+}} : index
// CHECK-DAG:     %[[LAST:.+]] = arith.subi %[[END]], %{{.+}} : index
// CHECK-DAG:     %[[LASTKV:.+]] = arith.index_cast %[[LAST]] : index to i64
// CHECK-DAG:     %[[LEAST:.+]] = arith.subi %{{.+}}, %[[LASTKV]] : i64
// CHECK-DAG:     %[[FULL:.+]] = arith.cmpi sge, %[[LEAST]], %c0_i64 : i64
// CHECK:         %[[CLASS:.+]] = arith.select %[[FULL]], %c2_i32, %c1_i32 : i32
// CHECK-NEXT:    tile.yield %[[CLASS]] : i32
// Only partial blocks evaluate the mask.
// CHECK:       tile.mask {{.*}} partial %[[PARTIAL]] : !tile.tile<64x128xf32> (%[[QI:.+]], %[[KI:.+]]) {
// CHECK-NEXT:    %[[KEEP:.+]] = arith.cmpi sge, %[[QI]], %[[KI]] : i32
// CHECK-NEXT:    tile.yield %[[KEEP]] : i1
func.func @causal(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @causal_variant(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @document_variant(%doc: !doc {attn.name = "doc"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %doc[%b, %q] : !doc
    %y = attn.load %doc[%b, %kv] : !doc
    %same = arith.cmpi eq, %x, %y : i32
    attn.yield %same : i1
  }
}

// The queries' ids are summarised once a tile, the keys' once a block; the bounds do not read.
// CHECK-LABEL: tile.kernel @documents
// CHECK:       %[[OFQ:.+]]:2 = scf.for
// CHECK:         attn.load
// CHECK:         arith.minsi
// CHECK:         arith.maxsi
// CHECK-NOT:   scf.for
// CHECK:       tile.for_kv {{.*}} classify
// CHECK:         %[[OFKV:.+]]:2 = scf.for
// CHECK:           attn.load
// CHECK:         tile.yield %{{.+}} : i32
// CHECK-NOT:   scf.for
func.func @documents(%q: !t, %k: !k, %v: !k, %s: f32, %doc: !doc) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @document_variant(%q, %k, %v) scale(%s) captures(%doc) : (!t, !k, !k, !doc) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @padding_variant(%lengths: !attn.tensor<[B], i32> {attn.name = "lengths"}) {
  attn.mask(%b, %h, %q, %kv) {
    %n = attn.load %lengths[%b] : !attn.tensor<[B], i32>
    %keep = arith.cmpi slt, %kv, %n : i32
    attn.yield %keep : i1
  }
}

// What depends on neither q nor kv is read outside of the loop.
// CHECK-LABEL: tile.kernel @padding
// CHECK:       attn.load %{{.+}}[%{{.+}}] : !attn.tensor<[B], i32>
// CHECK:       tile.for_kv {{.*}} classify
// CHECK-NOT:     attn.load
// CHECK:         tile.yield %{{.+}} : i32
func.func @padding(%q: !t, %k: !k, %v: !k, %s: f32, %n: !attn.tensor<[B], i32>) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @padding_variant(%q, %k, %v) scale(%s) captures(%n)
    : (!t, !k, !k, !attn.tensor<[B], i32>) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
