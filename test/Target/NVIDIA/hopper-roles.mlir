// What a kernel for sm_90a consists of: barriers, a warp that copies, warpgroups that compute, a loop over tiles.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=2,stages=2}),tile-to-nvidia)" | FileCheck %s
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=3,stages=2}),tile-to-nvidia)" | FileCheck %s --check-prefix=THREE
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=2,stages=2,blocks_per_sm=0}),tile-to-nvidia)" | FileCheck %s --check-prefix=ONCE
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=64 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=64,groups=2,stages=2}),tile-to-nvidia,nvidia-to-llvm)" | FileCheck %s --check-prefix=LLVM

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// Maps of the queries (128 rows, 64 columns a box), keys, values and of an instance's output. Shared memory: barriers,
// 128 queries, as much output, two stages of 64 keys and values, rows of 128 bytes.
// CHECK-LABEL: llvm.func @f(
// CHECK-SAME:    blocks_per_sm = 1 : i64, blocks_per_tile = 1 : i64, classify_threads = 0 : i64
// CHECK-SAME:    maps = [array<i32: 0, 64, 64>, array<i32: 1, 64, 64>, array<i32: 2, 64, 64>, array<i32: 3, 64, 64>], needs_aligned = 1 : i64, num_threads = 384 : i64, shared_bytes = 66560 : i64,
// CHECK-SAME:    nvvm.maxntid = array<i32: 384>, nvvm.minctasm = 1 : i32
// CHECK-DAG:     %[[ARGS:.+]] = llvm.load %{{.+}} {alignment = 8 : i64} : !llvm.ptr -> i64
// CHECK:         %[[SHARED:.+]] = llvm.ptrtoint %{{.+}} : !llvm.ptr<3> to i32
// CHECK:         %[[WARP:.+]] = llvm.call_intrinsic "llvm.nvvm.shfl.sync.idx.i32"

// One thread makes the barriers. A full one expects the producer, an empty one each of 8 warps.
// CHECK:         scf.if
// CHECK:           %[[ONE:.+]] = arith.constant 1 : i32
// CHECK:           "mbarrier.init.shared::cta.b64 [$0], $1;", "r,r" %[[SHARED]], %[[ONE]]
// CHECK:           %[[EIGHT:.+]] = arith.constant 8 : i32
// CHECK:           "mbarrier.init.shared::cta.b64 [$0], $1;", "r,r" %{{.+}}, %[[EIGHT]]
// CHECK:           "fence.mbarrier_init.release.cluster;"
// CHECK-COUNT-4:   "prefetch.tensormap [$0];"
// CHECK:         "bar.sync 0;"
// CHECK:         %[[FOUR:.+]] = arith.constant 4 : i32
// CHECK:         %[[IS_PRODUCER:.+]] = arith.cmpi slt, %[[WARP]], %[[FOUR]]
// CHECK:         scf.if %[[IS_PRODUCER]] {

// The producer's first warp; one lane of it copies. It hands a tile over in shared memory, with what its number stands
// for and the word of its first block. With as many blocks as multiprocessors, each takes the number of its next tile when
// the last keys of one are on their way.
// CHECK:           "setmaxnreg.dec.sync.aligned.u32 56;"
// CHECK:           arith.cmpi eq, %[[WARP]], %{{.+}} : i32
// CHECK:           scf.if
// CHECK:             "{ .reg .pred p; elect.sync _|p, -1; selp.b32 $0, 1, 0, p; }"
// CHECK:             scf.while
// CHECK:               "st.shared.v4.b32 [$0], {$1, $2, $3, $4};"
// CHECK:               scf.while
// CHECK:                 "cp.async.bulk.tensor.4d{{.*}} %arg1,
// CHECK:               "{ mov.b32 $0, 0; @$2 atom.global.add.u32 $0, [$1], 1; }", "=&r,l,b"
// One that there is none behind tells the others to end.
// CHECK:             "st.shared.v4.b32 [$0], {$1, $2, $3, $4};"
// The last block resets both counters.
// CHECK:             "atom.acq_rel.gpu.global.add.u32 $0, [$1], 1;"
// CHECK:             scf.if
// CHECK:               "st.global.v2.b32 [$0], {$1, $1};"
// The second one copies queries. Since the first one finds the blocks of a mask, too, and there is no score_mod that would
// keep the consumers busy, a third one copies the values, of the same blocks.
// CHECK:           scf.if
// CHECK:             "cp.async.bulk.tensor.4d{{.*}} %arg0,
// CHECK:           scf.if
// CHECK:             scf.while
// CHECK:               scf.while
// CHECK:                 "cp.async.bulk.tensor.4d{{.*}} %arg2,
// CHECK:         } else {

// Consumers: a warpgroup for each 64 queries.
// CHECK:           "setmaxnreg.inc.sync.aligned.u32 224;"
// CHECK:           scf.while
// CHECK:             "wgmma.fence.sync.aligned;"
// When the scores are there, the block's keys are given back, and behind the last block the queries.
// CHECK:             "wgmma.wait_group.sync.aligned 0;"
// CHECK:             "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"
// CHECK:             %[[CONCERNS:.+]] = arith.andi %{{.+}}, %{{.+}} : i1
// CHECK:             %[[DONE:.+]] = arith.xori %[[CONCERNS]],
// CHECK:             %[[GIVES:.+]] = arith.andi %{{.+}}, %[[DONE]]
// CHECK:             "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b" %{{.+}}, %[[GIVES]]
// CHECK:             "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group
// The place of this tile is free; the next one a lane reads for all.
// CHECK:             "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"
// CHECK:             "{ mov.b32 $0, 0; mov.b32 $1, 0; mov.b32 $2, 0; mov.b32 $3, 0; @$5 ld.shared.v4.b32 {$0, $1, $2, $3}, [$4]; }"
// CHECK-COUNT-4:     "llvm.nvvm.shfl.sync.idx.i32"
// CHECK:             scf.yield
// Shared memory must outlive copies out of it.
// CHECK:           "cp.async.bulk.wait_group.read 0;"
// CHECK-NEXT:    }
// CHECK-NEXT:    llvm.return
// CHECK:       llvm.mlir.global external @heed_shared() {addr_space = 3 : i32, alignment = 1024 : i64} : !llvm.array<0 x i8>

// Registers go by the number of warpgroups.
// THREE:       num_threads = 512 : i64
// THREE:       "setmaxnreg.dec.sync.aligned.u32 56;"
// THREE:       "setmaxnreg.inc.sync.aligned.u32 152;"

// One tile a block: no counter, no loop over tiles, no buffer of its own for the output.
// ONCE-LABEL:  llvm.func @f(
// ONCE-SAME:     blocks_per_sm = 0 : i64
// ONCE-SAME:     shared_bytes = 50176 : i64
// ONCE-NOT:      atom.

// LLVM-LABEL:  llvm.func @f(
// LLVM-NOT:      unrealized_conversion_cast
// LLVM-NOT:      scf.
// LLVM-NOT:      arith.
// LLVM-NOT:      math.
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
