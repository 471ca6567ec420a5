// What arrives with the keys on sm_90a: numbers along them, which the producer's lanes compute, and tiles of captured
// matrices, which the copy engine brings.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=2,stages=2},tile-hoist-elements),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!ids = !attn.tensor<[B, Skv], i32>

attn.variant @documents(%doc: !ids {attn.name = "doc"}) {
  attn.mask(%b, %h, %q, %kv) {
    %mine = attn.load %doc[%b, %q] : !ids
    %other = attn.load %doc[%b, %kv] : !ids
    %same = arith.cmpi eq, %mine, %other : i32
    attn.yield %same : i1
  }
}
// Four places of 64 words behind two stages: 66560 + 1024 bytes.
// CHECK-LABEL: llvm.func @along(
// CHECK-SAME:    shared_bytes = 67584 : i64
// A block that is full for both instances (class 2, twice) needs no ids. Each lane reads two.
// CHECK:         "setmaxnreg.dec.sync.aligned.u32 56;"
// CHECK:         %[[BOTH:.+]] = arith.constant 10 : i32
// CHECK:         %[[CLASSES:.+]] = arith.andi %{{.+}}, %[[BOTH]]
// CHECK:         %[[NEEDED:.+]] = arith.cmpi ne, %[[CLASSES]], %{{.+}} : i32
// CHECK:         scf.if %[[NEEDED]] {
// CHECK:           "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK:           "st.shared.b32 [$0], $1;"
// CHECK:           "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK:           "st.shared.b32 [$0], $1;"
// CHECK-NOT:       "st.shared
// Every lane arrives for what it stored, and one for the keys.
// CHECK:         %[[EVERY:.+]] = arith.constant true
// CHECK-NEXT:    {{.*}}"@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b" %{{.+}}, %[[EVERY]]
// CHECK:         "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"
// CHECK:         "setmaxnreg.inc
// Each lane gives the keys back, and what it read along those before. Then it reads two neighbouring ones at a time.
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %[[ALL:true_[0-9]+]] = arith.constant true
// CHECK:         {{.*}}"@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b" %{{.+}}, %[[ALL]]
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+0];"
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+32];"
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+224];"
func.func @along(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!bias = !attn.tensor<[Hq, Sq, Skv], f32>

attn.variant @biased(%bias: !bias {attn.name = "bias"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %full = attn.load %bias[%h, %q, %kv] : !bias
    %x = arith.addf %s, %full : f32
    attn.yield %x : f32
  }
}
// A fifth map, of parameter 0 (34): boxes of 32 f32, 128 bytes, by the tile's 128 rows; two a block.
// CHECK-LABEL: llvm.func @full_bias(
// CHECK-SAME:    maps = [array<i32: 0, 64, 64>, array<i32: 1, 64, 64>, array<i32: 2, 64, 64>, array<i32: 3, 64, 64>, array<i32: 34, 128, 32>]
// CHECK-SAME:    shared_bytes = 132096 : i64
// CHECK:         "setmaxnreg.dec
// Tiles of one head, of all batches, run beside each other: the head is tile / batches.
// CHECK-COUNT-2: "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$0], [$1, {$2, $3, $4}], [$5];", "r,l,r,r,r,r"
// CHECK:         "setmaxnreg.inc
// Consumers wait for it beside the scores. Units of 16 bytes are swizzled by the row: 8 columns further is an exclusive or.
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+0];", "=f,=f,r"
// The row that is 8 further down.
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+1024];", "=f,=f,r"
// The second box.
// CHECK:         "ld.shared.v2.b32 {$0, $1}, [$2+16384];", "=f,=f,r"
// All lanes give it back, but not before the largest score is known, which depends on what they read.
// CHECK-NOT:     "@$1 mbarrier.arrive
// CHECK:         %[[BITS:.+]] = arith.bitcast %{{.+}} : f32 to i32
// CHECK:         %[[IS_KNOWN:.+]] = arith.cmpi ne, %[[BITS]], %c2139095041_i32
// CHECK:         "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b" %{{.+}}, %[[IS_KNOWN]]
func.func @full_bias(%q: !t, %k: !k, %v: !k, %scale: f32, %bias: !bias) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @biased(%q, %k, %v) scale(%scale) captures(%bias) : (!t, !k, !k, !bias) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
