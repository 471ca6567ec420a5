// The loop's bounds in closed form.
// RUN: heed-opt %s --attn-to-tile --canonicalize --cse | FileCheck %s

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @causal_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Keys [0, min(64 t + 64, Sq, Skv)).
// CHECK-LABEL: tile.kernel @causal
// CHECK-SAME:    parallel (%{{.+}}, %{{.+}}, %[[T:.+]])
// CHECK-DAG:   %[[C0:.+]] = arith.constant 0 : index
// CHECK-DAG:   %[[C64:.+]] = arith.constant 64 : index
// CHECK:       %[[FIRST:.+]] = arith.muli %[[T]], %[[C64]]
// CHECK:       %[[SKV32:.+]] = attn.extent "Skv"
// CHECK:       %[[SKV:.+]] = arith.index_cast %[[SKV32]]
// CHECK:       %[[TILEEND:.+]] = arith.addi %[[FIRST]], %[[C64]]
// CHECK:       %[[SQ32:.+]] = attn.extent "Sq"
// CHECK:       %[[SQ:.+]] = arith.index_cast %[[SQ32]]
// CHECK:       %[[ENDQ:.+]] = arith.minsi %[[TILEEND]], %[[SQ]]
// CHECK:       %[[END:.+]] = arith.minsi %[[ENDQ]], %[[SKV]]
// CHECK:       tile.for_kv %{{.+}}, %{{.+}} = %[[C0]] to %[[END]] step 128
func.func @causal(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @causal_variant(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @window_variant(%w: i32 {attn.name = "w"}) {
  attn.mask(%b, %h, %q, %kv) {
    %causal = arith.cmpi sge, %q, %kv : i32
    %d = arith.subi %q, %kv : i32
    %near = arith.cmpi slt, %d, %w : i32
    %keep = arith.andi %causal, %near : i1
    attn.yield %keep : i1
  }
}

// From max(0, 64 t - w + 1), rounded down to a block, to the end of the tile.
// CHECK-LABEL: tile.kernel @window
// CHECK-SAME:    "w" %[[W:.+]]: i32) parallel (%{{.+}}, %{{.+}}, %[[T:.+]])
// CHECK-DAG:   %[[C0:.+]] = arith.constant 0 : index
// CHECK-DAG:   %[[C128:.+]] = arith.constant 128 : index
// CHECK:       %[[FIRST:.+]] = arith.muli %[[T]],
// CHECK:       %[[Q:.+]] = arith.index_cast %[[FIRST]] : index to i64
// CHECK:       %[[WIDE:.+]] = arith.extsi %[[W]] : i32 to i64
// CHECK:       %[[MINUS:.+]] = arith.subi %{{.+}}, %[[WIDE]] : i64
// CHECK:       %[[SUM:.+]] = arith.addi %[[MINUS]], %[[Q]] : i64
// CHECK:       %[[PLUS:.+]] = arith.addi %[[SUM]], %c1_i64 : i64
// CHECK:       %[[KEY:.+]] = arith.index_cast %[[PLUS]] : i64 to index
// CHECK:       %[[LOWER:.+]] = arith.maxsi %[[KEY]], %[[C0]]
// CHECK:       %[[END:.+]] = arith.minsi
// CHECK:       %[[BLOCK:.+]] = arith.divui %[[LOWER]], %[[C128]]
// CHECK:       %[[START:.+]] = arith.muli %[[BLOCK]], %[[C128]]
// CHECK:       tile.for_kv %{{.+}}, %{{.+}} = %[[START]] to %[[END]] step 128
func.func @window(%q: !t, %k: !k, %v: !k, %s: f32, %w: i32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @window_variant(%q, %k, %v) scale(%s) captures(%w) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @prefix_variant(%p: i32 {attn.name = "p"}) {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi slt, %kv, %p : i32
    attn.yield %keep : i1
  }
}

// Keys [0, min(p, Skv)): p may be negative, then the loop is empty.
// CHECK-LABEL: tile.kernel @prefix
// CHECK-SAME:    "p" %[[P:.+]]: i32)
// CHECK-DAG:   %[[C0:.+]] = arith.constant 0 : index
// CHECK:       %[[WIDE:.+]] = arith.extsi %[[P]] : i32 to i64
// CHECK:       %[[END:.+]] = arith.minsi %{{.+}}, %{{.+}} : index
// CHECK-NOT:   arith.select
// CHECK:       tile.for_kv %{{.+}}, %{{.+}} = %[[C0]] to %[[END]] step 128
func.func @prefix(%q: !t, %k: !k, %v: !k, %s: f32, %p: i32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @prefix_variant(%q, %k, %v) scale(%s) captures(%p) : (!t, !k, !k, i32) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}

attn.variant @chunked_variant() {
  attn.mask(%b, %h, %q, %kv) {
    %c256 = arith.constant 256 : i32
    %x = attn.floordiv %q, %c256 : i32
    %y = attn.floordiv %kv, %c256 : i32
    %keep = arith.cmpi eq, %x, %y : i32
    attn.yield %keep : i1
  }
}

// The chunks of the first and the last query: a quotient each, times the chunk.
// CHECK-LABEL: tile.kernel @chunked
// CHECK:       attn.floordiv
// CHECK:       attn.floordiv
// CHECK:       arith.muli {{.*}} : i64
// CHECK:       arith.muli {{.*}} : i64
// CHECK:       arith.maxsi {{.*}} : index
// CHECK:       tile.for_kv
func.func @chunked(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @chunked_variant(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
