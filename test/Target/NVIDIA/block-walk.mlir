// Which blocks of keys a tile needs: the producer's warp evaluates the classes of many blocks at a time, or, where that
// takes loops over captured tensors, a kernel of its own has written lists.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=2,stages=2}),tile-to-nvidia)" | FileCheck %s
// The decision is in the IR, and may be another's.
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=2,stages=2}))" | FileCheck %s --check-prefix=CHOSEN
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=2,stages=2,walk=lists}),tile-to-nvidia)" | FileCheck %s --check-prefix=LISTS
// RUN: heed-opt %s --split-input-file --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights walk=bounds},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=2,stages=2}),tile-to-nvidia)" | FileCheck %s --check-prefix=BOUNDS
// CHOSEN-LABEL: tile.kernel @causal_blocks(
// CHOSEN:         step 16 bounds classify
// LISTS-LABEL:  llvm.func @causal_blocks(
// LISTS-SAME:     classify_threads = 256 : i64

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}
// Closed form. A lane evaluates one block for one of two instances: 16 blocks at a time.
// CHECK-LABEL: llvm.func @causal_blocks(
// CHECK-SAME:    classify_threads = 0 : i64, lists_per_batch = 0 : i64, lists_per_head = 0 : i64
// CHECK:         "setmaxnreg.dec.sync.aligned.u32 56;"
// CHECK:         scf.while (%{{.+}} = %{{.+}}, %[[COUNT:.+]] = %{{.+}}, %{{.+}} = %{{.+}}, %{{.+}} = %{{.+}})
// The first block and the last one, of both instances.
// CHECK:           "redux.sync.max.s32 $0, $1, -1;"
// CHECK-NEXT:      "redux.sync.min.s32 $0, $1, -1;"
// From the last block down, until a block is needed.
// CHECK:           scf.while
// CHECK:             "mov.u32 $0, %laneid;"
// CHECK:             "mov.u32 $0, %laneid;"
// CHECK:             %[[LANES:.+]] = arith.constant 2 : i32
// CHECK-NEXT:        %[[OWN:.+]] = arith.divui %{{.+}}, %[[LANES]]
// CHECK:             %[[DONE:.+]] = arith.constant 3 : i32
// CHECK:             %[[CLASS:.+]] = arith.select %{{.+}}, %[[DONE]], %{{.+}} : i32
// Classes of both instances side by side, the block above them.
// CHECK:             arith.shli %[[CLASS]],
// CHECK:             "llvm.nvvm.shfl.sync.bfly.i32"
// CHECK:             %[[SHIFT:.+]] = arith.constant 256 : i32
// CHECK-NEXT:        arith.muli %{{.+}}, %[[SHIFT]]
// CHECK:             "llvm.nvvm.vote.ballot.sync"
// CHECK:             %[[STEP:.+]] = arith.constant -16 : i32
// CHECK-NEXT:        arith.addi %{{.+}}, %[[STEP]]
// The next needed block's word, from the lane that has it.
// CHECK:           math.cttz
// CHECK:           "llvm.nvvm.shfl.sync.idx.i32"
// An election beside the copies, and one where the warp has begun.
// CHECK:           elect.sync
// CHECK:           "cp.async.bulk.tensor
// CHECK-NOT:   _classify
func.func @causal_blocks(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>

attn.variant @dense() {}
// Without a mask nothing is classified but the last block, and the producer needs fewer registers.
// CHECK-LABEL: llvm.func @all_blocks(
// CHECK:         "setmaxnreg.dec.sync.aligned.u32 40;"
// CHECK:         "setmaxnreg.inc.sync.aligned.u32 232;"
func.func @all_blocks(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}

// -----

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!ids = !attn.tensor<[B, Skv], i32>

attn.variant @documents(%ids: !ids {attn.name = "ids"}) {
  attn.mask(%b, %h, %q, %kv) {
    %x = attn.load %ids[%b, %q] : !ids
    %y = attn.load %ids[%b, %kv] : !ids
    %keep = arith.cmpi eq, %x, %y : i32
    attn.yield %keep : i1
  }
}
// CHOSEN-LABEL: tile.kernel @document_blocks(
// CHOSEN:         step 16 lists classify
// BOUNDS-LABEL: llvm.func @document_blocks(
// BOUNDS-SAME:    classify_threads = 0 : i64
// BOUNDS-SAME:    summary_words = 0 : i64
// BOUNDS-NOT:   @document_blocks_classify

// Lists of words, one a batch and tile: a lane reads one of 32 words.
// CHECK-LABEL: llvm.func @document_blocks(
// CHECK-SAME:    classify_threads = 256 : i64, lists_per_batch = 1 : i64, lists_per_head = 0 : i64
// CHECK-SAME:    summaries_per_batch = 1 : i64, summaries_per_head = 0 : i64, summarise_threads = 512 : i64, summary_words = 2 : i64
// CHECK:         "setmaxnreg.dec.sync.aligned.u32 40;"
// CHECK:         "{ mov.b32 $0, 0; @$2 ld.global.b32 $0, [$1]; }"
// CHECK:         "llvm.nvvm.vote.ballot.sync"
// CHECK:         "setmaxnreg.inc.sync.aligned.u32 232;"
// Eight warps write a list. First they ask about groups of 16 blocks, where there are many, and note those that are needed.
// Of these each evaluates other blocks, counts those that are needed, and learns how many the warps before it have. Needed
// blocks are stored in their order, then their number in front.
// CHECK-LABEL: llvm.func @document_blocks_classify(
// CHECK-SAME:    nvvm.maxntid = array<i32: 256>
// CHECK:         scf.for
// CHECK:           "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK:         scf.while
// CHECK:           scf.if
// CHECK-COUNT-2:     llvm.load %{{.+}} {alignment = 8 : i64} : !llvm.ptr<1> -> i64
// CHECK:           "llvm.nvvm.vote.ballot.sync"
// CHECK:           "bar.sync 0;"
// CHECK:           "st.shared.b32 [$0], $1;"
// CHECK:           "bar.sync 0;"
// CHECK:           scf.while
// CHECK:             "{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }"
// Of keys it reads what is known of their block, unless nothing was computed of it.
// CHECK-NOT:       scf.for
// CHECK:           scf.if
// CHECK-COUNT-2:     llvm.load %{{.+}} {alignment = 8 : i64} : !llvm.ptr<1> -> i64
// CHECK:           } else {
// CHECK:             scf.for
// CHECK:           "llvm.nvvm.vote.ballot.sync"
// CHECK:           math.ctpop
// CHECK:           "st.shared.b32 [$0], $1;"
// CHECK:           "bar.sync 0;"
// CHECK:           "{ mov.b32 $0, 0; @$2 ld.shared.b32 $0, [$1]; }"
// CHECK:           "redux.sync.add.s32 $0, $1, -1;"
// CHECK:           "llvm.nvvm.read.ptx.sreg.lanemask.lt"
// CHECK:           math.ctpop
// CHECK:           scf.if
// CHECK:             llvm.store %{{.+}} : i32, !llvm.ptr<1>
// CHECK:         scf.if
// CHECK:           llvm.store %{{.+}} : i32, !llvm.ptr<1>
// CHECK:         llvm.return
// The least and the largest number of each block: a warp a block, once for all tiles of a batch. Then those of 16 blocks.
// CHECK-LABEL: llvm.func @document_blocks_summarise(
// CHECK-SAME:    nvvm.maxntid = array<i32: 512>
// CHECK:         scf.for
// CHECK:           "{ mov.b32 $0, 0; @$2 ld.global.nc.b32 $0, [$1]; }"
// CHECK:           arith.minsi
// CHECK:           arith.maxsi
// CHECK-COUNT-2:   llvm.store %{{.+}} {alignment = 8 : i64} : i64, !llvm.ptr<1>
// CHECK:         "bar.sync 0;"
// CHECK-COUNT-2:   llvm.load %{{.+}} {alignment = 8 : i64} : !llvm.ptr<1> -> i64
// CHECK-COUNT-2:   llvm.store %{{.+}} {alignment = 8 : i64} : i64, !llvm.ptr<1>
// CHECK:         llvm.return
func.func @document_blocks(%q: !t, %k: !k, %v: !k, %scale: f32, %ids: !ids) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @documents(%q, %k, %v) scale(%scale) captures(%ids) : (!t, !k, !k, !ids) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
