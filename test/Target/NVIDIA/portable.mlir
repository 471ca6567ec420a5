// A kernel for sm_80: the schedule's shape, copies, products, and what the runtime is told.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_80 overrides=block_kv=64,groups=2,stages=2}),tile-to-nvidia)" | FileCheck %s
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_80 overrides=block_kv=64}),tile-to-nvidia,nvidia-to-llvm)" | FileCheck %s --check-prefix=LLVM

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Shared memory: 128 queries, two stages of 64 keys and values, rows of 144 bytes.
// CHECK-LABEL: llvm.func @f(
// CHECK-SAME:    blocks_per_sm = 0 : i64, blocks_per_tile = 1 : i64
// CHECK-SAME:    maps = [], needs_aligned = 0 : i64, num_threads = 128 : i64, shared_bytes = 55296 : i64,
// CHECK-SAME:    nvvm.maxntid = array<i32: 128>, nvvm.minctasm = 2 : i32
// CHECK:         cp.async.cg.shared.global.L2::128B [$0 + 0], [$1 + 0], 16, $2;
// CHECK:         ld.global.nc.b16
// CHECK:         cp.async.commit_group;
// CHECK:         scf.while
// CHECK:           cp.async.wait_group 2;
// CHECK:           bar.sync 0;
// CHECK:           ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4 + 0];
// CHECK:           mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
// CHECK:           cp.async.wait_group 2;
// CHECK:           ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16
// CHECK:         st.global.b32 [$0 + 0], $1;
// CHECK-NOT:     wgmma

// LLVM-LABEL: llvm.func @f(
// LLVM-NOT:     unrealized_conversion_cast
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
