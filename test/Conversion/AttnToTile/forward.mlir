// The algorithm's ops in their order, with and without stages.
// RUN: heed-opt %s --attn-to-tile | FileCheck %s
// RUN: heed-opt %s --attn-to-tile="block-q=32 block-kv=16 narrow-weights=true" | FileCheck %s --check-prefix=OPTIONS

!q = !attn.tensor<[B, Hq, Sq, 128], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 128], bf16>
!v = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!o = !attn.tensor<[B, Hq, Sq, 64], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>

// The variants are gone.
// CHECK-NOT: attn.variant
// CHECK-NOT: attn.forward

attn.variant @plain() {}

// CHECK-LABEL: tile.kernel @dense(
// CHECK-SAME:    "query" %[[Q:.+]]: !attn.tensor<[B, Hq, Sq, 128], bf16>, "key" %[[K:.+]]: {{.*}}, "value" %[[V:.+]]: {{.*}}, "output" %[[O:.+]]: {{.*}}, "lse" %[[LSE:.+]]: {{.*}}, "max_scores" %[[MAX:.+]]: {{.*}}, "scale" %[[SCALE:.+]]: f32) parallel (%[[B:.+]], %[[H:.+]], %[[T:.+]]) {
// CHECK:       %[[ROW:.+]] = arith.muli %[[T]], %{{.+}} : index
// A query head's key head is head // (Hq // Hkv).
// CHECK:       %[[GROUP:.+]] = arith.divui
// CHECK:       %[[HKV:.+]] = arith.divui %[[H]], %[[GROUP]]
// CHECK:       %[[SKV32:.+]] = attn.extent "Skv"
// CHECK:       %[[SKV:.+]] = arith.index_cast %[[SKV32]]
// CHECK:       %[[QT:.+]] = tile.load %[[Q]][%[[B]], %[[H]], %[[ROW]]] {{.*}} -> !tile.tile<64x128xbf16>
// Without a score stage the scale's sign goes into the query, its size into the softmax.
// CHECK:       %[[SIGN:.+]] = math.copysign %{{.+}}, %[[SCALE]]
// CHECK:       %[[QS:.+]] = tile.scale %[[QT]] by %[[SIGN]]
// CHECK:       math.absf %[[SCALE]]
// CHECK:       arith.maximumf
// CHECK:       %[[FACTOR:.+]] = arith.mulf
// CHECK-DAG:   %[[ZERO:.+]] = tile.fill 0.000000e+00 -> !tile.tile<64xf32>
// CHECK-DAG:   %[[START:.+]] = tile.fill 0xFF800000 -> !tile.tile<64xf32>
// CHECK-DAG:   %[[ACC0:.+]] = tile.fill 0.000000e+00 -> !tile.tile<64x64xf32>
// No mask: no classes.
// CHECK:       %[[R:.+]]:3 = tile.for_kv %[[KV:.+]], %{{.+}} = %{{.+}} to %{{.+}} step 128 iter_args(%[[M:.+]] = %[[START]], %[[L:.+]] = %[[ZERO]], %[[ACC:.+]] = %[[ACC0]])
// CHECK-NEXT:    %[[KT:.+]] = tile.load %[[K]][%[[B]], %[[HKV]], %[[KV]]] {{.*}} -> !tile.tile<128x128xbf16>
// CHECK-NEXT:    %[[S:.+]] = tile.dot %[[QS]], %[[KT]] transpose_rhs {{.*}} -> !tile.tile<64x128xf32>
// The mask of keys beyond the end, and no other.
// CHECK-NEXT:    %[[U:.+]] = tile.mask %[[S]] at (%[[ROW]], %[[KV]]) limit %[[SKV]] : !tile.tile<64x128xf32>{{$}}
// CHECK-NEXT:    %[[P:.+]], %[[M1:.+]], %[[L1:.+]], %[[ALPHA:.+]] = tile.online_softmax %[[U]], %[[M]], %[[L]] factor %[[FACTOR]] {{.*}} -> !tile.tile<64x128xf32>
// CHECK-NEXT:    %[[VT:.+]] = tile.load %[[V]][%[[B]], %[[HKV]], %[[KV]]] {{.*}} -> !tile.tile<128x64xbf16>
// CHECK-NEXT:    %[[SCALED:.+]] = tile.scale_rows %[[ACC]] by %[[ALPHA]]
// CHECK-NEXT:    %[[NEXT:.+]] = tile.dot %[[P]], %[[VT]] acc %[[SCALED]]
// CHECK-NEXT:    tile.yield %[[M1]], %[[L1]], %[[NEXT]]
// CHECK:       %[[OUT:.+]], %[[LOG:.+]], %[[LARGEST:.+]] = tile.normalize %[[R]]#2, %[[R]]#0, %[[R]]#1 factor %[[FACTOR]]
// CHECK-NEXT:  tile.store %[[OUT]], %[[O]][%[[B]], %[[H]], %[[ROW]]]
// CHECK-NEXT:  tile.store %[[LOG]], %[[LSE]][%[[B]], %[[H]], %[[ROW]]]
// CHECK-NEXT:  tile.store %[[LARGEST]], %[[MAX]][%[[B]], %[[H]], %[[ROW]]]
// CHECK-NEXT:  tile.return

// OPTIONS-LABEL: tile.kernel @dense
// OPTIONS:       tile.load {{.*}} -> !tile.tile<32x128xbf16>
// OPTIONS:       tile.for_kv {{.*}} step 16
// OPTIONS:       tile.online_softmax {{.*}} -> !tile.tile<32x16xbf16>
// OPTIONS:       tile.dot {{.*}} acc {{.*}} : !tile.tile<32x16xbf16>, !tile.tile<16x64xbf16> -> !tile.tile<32x64xf32>
func.func @dense(%q: !q, %k: !k, %v: !v, %scale: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @plain(%q, %k, %v) scale(%scale) : (!q, !k, !v) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @alibi(%slope: !attn.tensor<[Hq], f32> {attn.name = "slope"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %m = attn.load %slope[%h] : !attn.tensor<[Hq], f32>
    %d = arith.subi %kv, %q : i32
    %f = arith.sitofp %d : i32 to f32
    %t = arith.mulf %m, %f : f32
    %r = arith.addf %s, %t : f32
    attn.yield %r : f32
  }
}

// A score stage that only adds what cannot overflow: the scale is in the query's sign and the factor as if there were none, and addends are
// divided by its size, which is not 0.
// CHECK-LABEL: tile.kernel @additive
// CHECK-SAME:    "scale" %[[SCALE:.+]]: f32, "slope" %[[SLOPE:.+]]: !attn.tensor<[Hq], f32>) parallel (%{{.+}}, %[[H:.+]], %{{.+}})
// CHECK:       %[[H32:.+]] = arith.index_cast %[[H]] : index to i32
// CHECK:       %[[SIGN:.+]] = math.copysign %{{.+}}, %[[SCALE]]
// CHECK:       tile.scale %{{.+}} by %[[SIGN]]
// CHECK:       %[[LEAST:.+]] = arith.constant 9.99999968E-21 : f32
// CHECK:       %[[SIZE:.+]] = arith.maximumf %{{.+}}, %[[LEAST]]
// CHECK:       %[[FACTOR:.+]] = arith.mulf %[[SIZE]], %{{.+}}
// CHECK:       %[[INVERSE:.+]] = arith.divf %{{.+}}, %[[SIZE]]
// CHECK:       tile.for_kv %[[KV:[^,]+]],
// CHECK:         %[[S:.+]] = tile.dot
// CHECK-NEXT:    %[[MAP:.+]] = tile.map %[[S]] at (%{{.+}}, %[[KV]]) : !tile.tile<64x128xf32> (%[[X:.+]], %[[QI:.+]], %[[KI:.+]]) {
// CHECK-NEXT:      attn.load %[[SLOPE]][%[[H32]]]
// CHECK-NEXT:      arith.subi %[[KI]], %[[QI]]
// CHECK:           %[[BIAS:.+]] = arith.mulf
// CHECK-NEXT:      %[[ADDEND:.+]] = arith.mulf %[[BIAS]], %[[INVERSE]]
// CHECK-NEXT:      %[[SUM:.+]] = arith.addf %[[X]], %[[ADDEND]]
// CHECK-NEXT:      tile.yield %[[SUM]]
// CHECK:         tile.mask %[[MAP]]
// CHECK-NEXT:    tile.online_softmax {{.*}} factor %[[FACTOR]]
// CHECK:       tile.normalize {{.*}} factor %[[FACTOR]]
func.func @additive(%q: !q, %k: !k, %v: !v, %scale: f32, %slope: !attn.tensor<[Hq], f32>) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @alibi(%q, %k, %v) scale(%scale) captures(%slope)
    : (!q, !k, !v, !attn.tensor<[Hq], f32>) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @biases(%x: f32 {attn.name = "x"}, %y: f32 {attn.name = "y"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %unused = arith.mulf %s, %x : f32
    %g = arith.sitofp %q : i32 to f32
    %w = arith.mulf %x, %g : f32
    %t = arith.addf %w, %s : f32
    %f = arith.sitofp %kv : i32 to f32
    %u = arith.mulf %f, %y : f32
    %r = arith.subf %t, %u : f32
    attn.yield %r : f32
  }
}

// Sums of several things, in their order, on either side. What does not matter is left out.
// CHECK-LABEL: tile.kernel @sums
// CHECK:       %[[INVERSE:.+]] = arith.divf
// CHECK:       tile.for_kv
// CHECK:         tile.map {{.*}} (%[[S:.+]], %{{.+}}, %{{.+}}) {
// CHECK-NEXT:      arith.sitofp
// CHECK-NEXT:      %[[W:.+]] = arith.mulf
// CHECK-NEXT:      %[[A:.+]] = arith.mulf %[[W]], %[[INVERSE]]
// CHECK-NEXT:      %[[T:.+]] = arith.addf %[[S]], %[[A]]
// CHECK-NEXT:      arith.sitofp
// CHECK-NEXT:      %[[U:.+]] = arith.mulf
// CHECK-NEXT:      %[[B:.+]] = arith.mulf %[[U]], %[[INVERSE]]
// CHECK-NEXT:      %[[R:.+]] = arith.subf %[[T]], %[[B]]
// CHECK-NEXT:      tile.yield %[[R]]
func.func @sums(%q: !q, %k: !k, %v: !v, %scale: f32, %x: f32, %y: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @biases(%q, %k, %v) scale(%scale) captures(%x, %y) : (!q, !k, !v, f32, f32) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @tables(%half: !attn.tensor<[Skv], f16> {attn.name = "half"}, %rate: f32 {attn.name = "rate"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %distance = arith.subi %kv, %q : i32
    %zero = arith.constant 0 : i32
    %one = arith.constant 1.0 : f32
    %after = arith.cmpi sgt, %distance, %zero : i32
    %none = arith.constant 0.0 : f32
    %ten = arith.constant -1.0e10 : f32
    %penalty = arith.select %after, %ten, %none : f32
    %f = arith.sitofp %distance : i32 to f32
    %long = arith.divf %f, %rate : f32
    %log = math.log1p %long : f32
    %bias = attn.load %half[%kv] : !attn.tensor<[Skv], f16>
    %x = arith.addf %s, %penalty : f32
    %y = arith.subf %x, %log : f32
    %z = arith.addf %y, %bias : f32
    attn.yield %z : f32
  }
}

// Constants, functions of positions and f16 have bounds.
// CHECK-LABEL: tile.kernel @bounded
// CHECK:       %[[INVERSE:.+]] = arith.divf
// CHECK:       tile.map {{.*}} (%[[S:.+]], %{{.+}}, %{{.+}}) {
// CHECK-COUNT-3:     arith.mulf %{{.+}}, %[[INVERSE]]
func.func @bounded(%q: !q, %k: !k, %v: !v, %scale: f32, %half: !attn.tensor<[Skv], f16>, %rate: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @tables(%q, %k, %v) scale(%scale) captures(%half, %rate)
    : (!q, !k, !v, !attn.tensor<[Skv], f16>, f32) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @kv_bias(%bias: !attn.tensor<[Skv], bf16> {attn.name = "bias"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = attn.load %bias[%kv] : !attn.tensor<[Skv], bf16>
    %r = arith.addf %s, %x : f32
    attn.yield %r : f32
  }
}

// Captured bf16 numbers may be as large as the type's largest: divided by the scale they would overflow.
// CHECK-LABEL: tile.kernel @unbounded
// CHECK-SAME:    "scale" %[[SCALE:.+]]: f32, "bias"
// CHECK-NOT:   arith.divf
// CHECK:       %[[LOG2E:.+]] = arith.constant 1.44269502 : f32
// CHECK-NOT:   arith.divf
// CHECK:         tile.map {{.*}} (%[[X:.+]], %{{.+}}, %{{.+}}) {
// CHECK-NEXT:      %[[XS:.+]] = arith.mulf %[[X]], %[[SCALE]]
// CHECK-NEXT:      %[[BIAS:.+]] = attn.load
// CHECK-NEXT:      arith.addf %[[XS]], %[[BIAS]]
// CHECK:         tile.online_softmax {{.*}} factor %[[LOG2E]]
func.func @unbounded(%q: !q, %k: !k, %v: !v, %scale: f32, %bias: !attn.tensor<[Skv], bf16>) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @kv_bias(%q, %k, %v) scale(%scale) captures(%bias)
    : (!q, !k, !v, !attn.tensor<[Skv], bf16>) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

attn.variant @softcap(%cap: f32 {attn.name = "cap"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = arith.divf %s, %cap : f32
    %y = math.tanh %x : f32
    %r = arith.mulf %y, %cap : f32
    attn.yield %r : f32
  }
}

// Any other score stage: the scale comes before it, and the factor is log2(e).
// CHECK-LABEL: tile.kernel @general
// CHECK-SAME:    "scale" %[[SCALE:.+]]: f32, "cap" %[[CAP:.+]]: f32)
// CHECK-NOT:   tile.scale %
// CHECK:       %[[LOG2E:.+]] = arith.constant 1.44269502 : f32
// CHECK-NOT:   tile.scale %
// CHECK:       tile.for_kv
// CHECK:         tile.map {{.*}} (%[[X:.+]], %{{.+}}, %{{.+}}) {
// CHECK-NEXT:      %[[XS:.+]] = arith.mulf %[[X]], %[[SCALE]]
// CHECK-NEXT:      arith.divf %[[XS]], %[[CAP]]
// CHECK:         tile.online_softmax {{.*}} factor %[[LOG2E]]
func.func @general(%q: !q, %k: !k, %v: !v, %scale: f32, %cap: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @softcap(%q, %k, %v) scale(%scale) captures(%cap) : (!q, !k, !v, f32) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}

// The sum of a score and something of it is not such a stage.
// CHECK-LABEL: tile.kernel @both
// CHECK-NOT:   tile.scale %
// CHECK:       tile.yield
attn.variant @twice() {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = arith.mulf %s, %s : f32
    %r = arith.addf %s, %x : f32
    attn.yield %r : f32
  }
}
func.func @both(%q: !q, %k: !k, %v: !v, %scale: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @twice(%q, %k, %v) scale(%scale) : (!q, !k, !v) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}
