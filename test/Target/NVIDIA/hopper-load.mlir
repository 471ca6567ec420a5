// tile.load on sm_90a: bulk copies of boxes of 64 columns, with a barrier that counts bytes.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=32 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=32,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 128], f16>
!k = !attn.tensor<[B, Hkv, Skv, 128], f16>
attn.variant @dense() {}

// Tensor maps of queries, keys, values and output, then the argument block.
// CHECK-LABEL: llvm.func @f(%arg0: !llvm.ptr {llvm.align = 128 : i64, llvm.byval = !llvm.array<128 x i8>, nvvm.grid_constant}, %arg1: {{.*}}, %arg4: !llvm.ptr {llvm.align = 8 : i64, llvm.byval = !llvm.array<34 x i64>
// CHECK:         "setmaxnreg.dec

// The tile for the others, with the word of its first block.
// CHECK:         elect.sync
// CHECK:         "{ .reg .pred done; again: mbarrier.try_wait
// CHECK-NEXT:    scf.if
// CHECK:           "st.shared.v4.b32
// CHECK:           "st.shared.b32 [$0], $1;"
// CHECK:           "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"

// Keys of a block: wait for the slot, store the word of the block behind, expect 32 x 256 bytes, copy two boxes.
// CHECK:         scf.while
// CHECK:           "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1, 0x989680; @done bra.uni passed; bra.uni again; passed: }"
// CHECK:           scf.if
// CHECK:             "st.shared.b32 [$0], $1;"
// CHECK:             %[[KEY_BYTES:.+]] = arith.constant 8192 : i32
// CHECK-NEXT:        {{.*}}"mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r" %[[FULL:.+]], %[[KEY_BYTES]]
// A head and a batch of stride 0 have extent 1 in the map.
// CHECK:             %[[HEAD_STRIDE:.+]] = llvm.load
// CHECK:             %[[IS_BROADCAST:.+]] = arith.cmpi eq, %[[HEAD_STRIDE]], %{{.+}} : i64
// CHECK:             %[[HEAD:.+]] = arith.select %[[IS_BROADCAST]], %{{.+}}, %{{.+}} : i32
// CHECK:             %[[BATCH:.+]] = arith.select
// CHECK:             %[[COLUMN0:.+]] = arith.constant 0 : i32
// CHECK:             {{.*}}"cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$0], [$1, {$2, $3, $4, $5}], [$6];", "r,l,r,r,r,r,r" %[[PLACE:.+]], %arg1, %[[COLUMN0]], %[[ROW:.+]], %[[HEAD]], %[[BATCH]], %[[FULL]]
// CHECK:             %[[BOX_BYTES:.+]] = arith.constant 4096 : i32
// CHECK-NEXT:        %[[BOX1:.+]] = arith.addi %[[PLACE]], %[[BOX_BYTES]]
// CHECK:             {{.*}}"cp.async.bulk.tensor.4d{{.*}} %[[BOX1]], %arg1, %c64{{[a-z0-9_]*}}, %[[ROW]], %[[HEAD]], %[[BATCH]], %[[FULL]]
// Then the values of the block before, if there was one; those of the last one behind the loop.
// CHECK:           scf.if
// CHECK-COUNT-2:     "cp.async.bulk.tensor.4d{{.*}} %arg2,
// CHECK:         scf.if
// CHECK-COUNT-2:   "cp.async.bulk.tensor.4d{{.*}} %arg2,

// Queries have a warp of their own, which looks whose place is free: 64 x 256 bytes for a group.
// CHECK:         elect.sync
// CHECK:         "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [$1], $2; vote.sync.all.pred p, p, -1; selp.b32 $0, 1, 0, p; }"
// CHECK:         scf.if
// CHECK:           %[[QUERY_BYTES:.+]] = arith.constant 16384 : i32
// CHECK-NEXT:      {{.*}}"mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r" %{{.+}}, %[[QUERY_BYTES]]
// CHECK-COUNT-2:   "cp.async.bulk.tensor.4d{{.*}} %arg0,
// CHECK:         "nanosleep.u32 40;"
// CHECK-NOT:     "cp.async.bulk.tensor.4d.shared
// CHECK:         "setmaxnreg.inc
// CHECK-NOT:     "cp.async.bulk.tensor.4d.shared
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
