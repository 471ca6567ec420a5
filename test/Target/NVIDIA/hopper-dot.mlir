// tile.dot on sm_90a: products of scores read both operands by descriptors; those that accumulate read weights from
// registers and are issued a block later, behind the next scores.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=32 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=32,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 24], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 24], bf16>
!v = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!o = !attn.tensor<[B, Hq, Sq, 16], bf16>
attn.variant @dense() {}

// Descriptors: 128-byte swizzle (1 << 62), 1024 bytes between groups of 8 rows (64 << 32); the leading dimension is one
// box for queries and keys (1 << 16), 32 rows of 128 bytes for values (256 << 16).
// CHECK:         "setmaxnreg.inc
// CHECK:         %[[QUERY_BITS:.+]] = arith.constant 4611686293305360384 : i64
// CHECK-NEXT:    %[[QUERIES:.+]] = arith.ori %{{.+}}, %[[QUERY_BITS]] : i64
// CHECK:         %[[KEY_BITS:.+]] = arith.constant 4611686293305360384 : i64
// CHECK-NEXT:    %[[KEYS:.+]] = arith.ori %{{.+}}, %[[KEY_BITS]] : i64
// CHECK:         %[[VALUE_BITS:.+]] = arith.constant 4611686293322072064 : i64
// CHECK-NEXT:    %[[VALUES:.+]] = arith.ori %{{.+}}, %[[VALUE_BITS]] : i64

// The first block: 64 x 32 scores from 24 columns in two steps, the first of which writes and does not add. A step is 16
// columns, 32 bytes. Columns beyond 24 are zeros in shared memory.
// CHECK:         "wgmma.fence.sync.aligned;"
// CHECK:         %[[STAGE:.+]] = arith.addi %[[KEYS]], %{{.+}} : i64
// CHECK:         "{ .reg .pred p; setp.ne.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {$0, {{.*}}, $15}, $16, $17, p, 1, 1, 0, 0; }", "=f,{{.*}},l,l" %[[QUERIES]], %[[STAGE]] :
// CHECK:         %[[TWO:.+]] = arith.constant 2 : i64
// CHECK-NEXT:    %[[A:.+]] = arith.addi %[[QUERIES]], %[[TWO]] : i64
// CHECK-NEXT:    %[[TWO:.+]] = arith.constant 2 : i64
// CHECK-NEXT:    %[[B:.+]] = arith.addi %[[STAGE]], %[[TWO]] : i64
// CHECK-NEXT:    {{.*}}"{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {{.*}} %[[A]], %[[B]] :
// CHECK-NOT:     wgmma.mma_async
// CHECK:         "wgmma.commit_group.sync.aligned;"
// Scores are read behind a wait; then the keys' slot is free.
// CHECK:         "wgmma.wait_group.sync.aligned 0;", "=f,{{.*}},0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
// CHECK:         "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"

// Each other block: its scores, then the last block's product, two steps of 16 keys; both run while the scores are
// waited for, and the accumulator before it is scaled.
// CHECK:         scf.while
// CHECK-COUNT-2:   wgmma.mma_async.sync.aligned.m64n32k16
// CHECK:           "wgmma.commit_group.sync.aligned;"
// CHECK:           "{ .reg .pred done; again: mbarrier.try_wait
// CHECK-NEXT:      {{.*}}"wgmma.fence.sync.aligned;"
// CHECK:           %[[STAGE:.+]] = arith.addi %[[VALUES]], %{{.+}} : i64
// CHECK:           "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {$0, $1, $2, $3, $4, $5, $6, $7}, {$16, $17, $18, $19}, $20, p, 1, 1, 1; }", "=f,=f,=f,=f,=f,=f,=f,=f,0,1,2,3,4,5,6,7,r,r,r,r,l" {{.*}}, %[[STAGE]] :
// CHECK:           %[[STEP:.+]] = arith.constant 128 : i64
// CHECK-NEXT:      arith.addi %[[STAGE]], %[[STEP]] : i64
// CHECK-NEXT:      {{.*}}wgmma.mma_async.sync.aligned.m64n16k16
// CHECK-NOT:       wgmma.mma_async
// CHECK:           "wgmma.commit_group.sync.aligned;"
// CHECK:           "wgmma.wait_group.sync.aligned 1;"
// CHECK:           "wgmma.wait_group.sync.aligned 0;"
// Weights of the product to come are packed as soon as the last ones are read, ahead of the branch that scales.
// CHECK-COUNT-8:   "cvt.rn.bf16x2.f32 $0, $1, $2;"
// CHECK:           "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"
// CHECK:           %[[SCALED:.+]]:8 = scf.if
// CHECK-NOT:       cvt.rn.bf16x2
// CHECK:           scf.yield {{.*}} %[[SCALED]]#0,

// The last block's product.
// CHECK-NOT:     wgmma.mma_async.sync.aligned.m64n32k16
// CHECK-COUNT-2: wgmma.mma_async.sync.aligned.m64n16k16
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK-NOT:     wgmma
func.func @f(%q: !t, %k: !k, %v: !v, %scale: f32) -> (!o, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !v) -> (!o, !lse)
  return %o, %lse, %max : !o, !lse, !lse
}
