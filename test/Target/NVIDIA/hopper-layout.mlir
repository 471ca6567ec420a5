// Shared memory on sm_90a: without a place of its own the output takes that of the queries, also where it is wider.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=1,stages=2,blocks_per_sm=0}),tile-to-nvidia)" | FileCheck %s

// Barriers and more that one lane of 32 stages would need do not fit their place.
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=32}),tile-to-nvidia)" 2>&1 | FileCheck %s --check-prefix=STAGES
// STAGES: error: expects fewer stages for sm_90a: barriers take 1280 of 1024 bytes

!lse = !attn.tensor<[B, Hq, Sq], f32>
!q = !attn.tensor<[B, Hq, Sq, 64], bf16>
!o = !attn.tensor<[B, Hq, Sq, 128], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!v = !attn.tensor<[B, Hkv, Skv, 128], bf16>

attn.variant @dense() {}
// 1024 bytes of barriers, 64 x 256 of the output on 64 x 128 of queries, twice 64 x (128 + 256) of keys and values.
// CHECK-LABEL: llvm.func @wide(
// CHECK-SAME:    shared_bytes = 66560 : i64
// The first key slot lies behind the output.
// CHECK:         "setmaxnreg.dec
// CHECK:         %[[KEYS:.+]] = arith.constant 17408 : i32
func.func @wide(%query: !q, %key: !k, %value: !v, %scale: f32) -> (!o, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%query, %key, %value) scale(%scale) : (!q, !k, !v) -> (!o, !lse)
  return %o, %l, %max : !o, !lse, !lse
}
