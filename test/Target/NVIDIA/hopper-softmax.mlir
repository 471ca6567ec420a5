// tile.online_softmax and tile.scale_rows on the fragments of a thread: two rows of which it has 2 of
// every 8 columns; four threads share a row.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
attn.variant @dense() {}

// CHECK:         "setmaxnreg.inc
// CHECK:         %[[FACTOR:.+]] = arith.mulf %{{.+}}, %{{.+}} : f32

// The first block: the rows' largest scores, which the four threads agree on, are the references. A row without a key
// yet has -inf, and the lowest finite number as its reference: exponents are -inf then, not NaN.
// CHECK:         "wgmma.wait_group.sync.aligned 0;"
// CHECK:         %[[S:.+]]:8 = scf.if
// CHECK:         %[[X:.+]] = arith.maxnumf %[[S]]#0, %[[S]]#1
// CHECK-NEXT:    %[[Y:.+]] = arith.maxnumf %[[X]], %[[S]]#4
// CHECK-NEXT:    %[[MAX0:.+]] = arith.maxnumf %[[Y]], %[[S]]#5
// CHECK-NEXT:    %[[X:.+]] = arith.maxnumf %[[S]]#2, %[[S]]#3
// CHECK-NEXT:    %[[Y:.+]] = arith.maxnumf %[[X]], %[[S]]#6
// CHECK-NEXT:    %[[MAX1:.+]] = arith.maxnumf %[[Y]], %[[S]]#7
// CHECK:         %[[LOWEST:.+]] = arith.constant -3.40282347E+38 : f32
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"(%{{.+}}, %[[MAX0]],
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:         %[[SCALED0:.+]] = arith.mulf %{{.+}}, %[[FACTOR]]
// CHECK-NEXT:    %[[REF0:.+]] = arith.maxnumf %[[LOWEST]], %[[SCALED0]]
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"(%{{.+}}, %[[MAX1]],
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:         %[[SCALED1:.+]] = arith.mulf %{{.+}}, %[[FACTOR]]
// CHECK-NEXT:    %[[REF1:.+]] = arith.maxnumf %[[LOWEST]], %[[SCALED1]]
// Where one is beyond 2^24, references are marked and the largest scores are taken from the scores.
// CHECK:         "abs.f32 $0, $1;", "=f,f" %[[SCALED1]]
// CHECK:         arith.constant 0x4B800000 : f32
// CHECK:         %[[ANY:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"
// CHECK:         %[[NOW:.+]]:14 = scf.if %[[ANY]] ->
// CHECK:           %[[MARK:.+]] = arith.bitcast %c-2147483647_i32{{.*}} : i32 to f32
// CHECK-COUNT-8:   arith.subf %[[S]]#
// CHECK-NEXT:      scf.yield %[[MARK]], %[[MARK]],
// CHECK-NEXT:    } else {
// CHECK-NEXT:      scf.yield %[[REF0]], %[[REF1]], %[[MAX0]], %[[MAX1]], %[[ONE:.+]], %[[ONE]], %[[S]]#0,
// CHECK:         %[[BASE0:.+]] = arith.negf %[[NOW]]#0
// CHECK-NEXT:    %[[BASE1:.+]] = arith.negf %[[NOW]]#1
// An element is a multiply-add and an exp2.
// CHECK-NEXT:    %[[Y:.+]] = math.fma %[[NOW]]#6, %[[FACTOR]], %[[BASE0]]
// CHECK-NEXT:    %[[W0:[0-9]+]] = {{.*}}"ex2.approx.ftz.f32 $0, $1;", "=f,f" %[[Y]]
// CHECK:         math.fma %[[NOW]]#8, %[[FACTOR]], %[[BASE1]]
// CHECK:         math.fma %[[NOW]]#13, %[[FACTOR]], %[[BASE1]]
// CHECK-NEXT:    {{.*}}"ex2.approx.ftz.f32
// Sums stay with the threads; the accumulator is zeros and needs no scaling.
// CHECK-NEXT:    arith.addf %[[W0]],
// CHECK-NOT:     shfl
// CHECK-NOT:     arith.mulf
// CHECK:         scf.while (%[[OLD0:[^ ]+]] = %[[NOW]]#0, %[[OLD1:[^ ]+]] = %[[NOW]]#1, %{{[^ ]+}} = %[[NOW]]#2, %{{[^ ]+}} = %[[NOW]]#3,

// Other blocks keep their references unless a score of the warp is beyond 2^8 times one: a vote and a branch that is
// rarely taken, in which the threads of a row agree on the new reference.
// CHECK:         ^bb0(%[[OLD0:[^:]+]]: f32, %[[OLD1:[^:]+]]: f32, %[[MOST0:[^:]+]]: f32, %[[MOST1:[^:]+]]: f32, %[[SUM0:[^:]+]]: f32,
// CHECK:           "wgmma.wait_group.sync.aligned 1;"
// CHECK:           %[[S:.+]]:8 = scf.if
// CHECK:           %[[MAX1:.+]] = arith.maxnumf %{{.+}}, %[[S]]#7
// CHECK:           %[[BITS:.+]] = arith.bitcast %[[OLD0]] : f32 to i32
// CHECK:           %[[WAS_LARGE:.+]] = arith.cmpi eq, %[[BITS]],
// CHECK:           %[[NEGATED:.+]] = arith.negf %[[OLD0]]
// CHECK-NEXT:      %[[BEYOND:.+]] = math.fma %{{.+}}, %[[FACTOR]], %[[NEGATED]]
// CHECK-NEXT:      %[[EXCEEDS:.+]] = arith.cmpf ogt, %[[BEYOND]], %[[BOUND:.+]] : f32
// CHECK-NEXT:      arith.ori %[[WAS_LARGE]], %[[EXCEEDS]]
// CHECK:           %[[NEEDED:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"
// CHECK:           %[[NEW:.+]]:14 = scf.if %[[NEEDED]] ->
// CHECK-COUNT-4:     "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:             "llvm.nvvm.vote.any.sync"
// CHECK-NEXT:        scf.if
// From the largest scores before, or from the references.
// CHECK:               arith.maxnumf %[[MOST0]],
// CHECK:               arith.minnumf
// CHECK-NEXT:          "ex2.approx.ftz.f32
// CHECK-COUNT-8:       arith.subf %[[S]]#
// CHECK-NEXT:          scf.yield
// CHECK:             } else {
// CHECK:               scf.yield %{{.+}}, %[[S]]#7 :
// CHECK:             scf.yield
// CHECK-NEXT:      } else {
// CHECK-NEXT:        %[[MOST:.+]] = arith.maxnumf %[[MOST0]],
// CHECK-NEXT:        arith.maxnumf %[[MOST1]], %[[MAX1]]
// CHECK-NEXT:        scf.yield %[[OLD0]], %[[OLD1]], %[[MOST]], %{{.+}}, %[[ONE:.+]], %[[ONE]], %[[S]]#0,
// CHECK-COUNT-8:   "ex2.approx.ftz.f32
// CHECK-NOT:       shfl
// CHECK:           math.fma %[[SUM0]], %[[NEW]]#4,
// The accumulator is scaled in such a branch too, when the product in flight has written it.
// CHECK:           "wgmma.wait_group.sync.aligned 0;"
// CHECK:           scf.if %[[NEEDED]] ->
// CHECK-COUNT-8:     arith.mulf
// CHECK:             scf.yield
// CHECK-NEXT:      } else {
// CHECK-NEXT:        scf.yield
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
