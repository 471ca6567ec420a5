// tile.online_softmax and tile.scale_rows on the fragments of a thread: two rows of which it has 2 of
// every 8 columns; four threads share a row.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
attn.variant @dense() {}

// CHECK:         "setmaxnreg.inc
// CHECK:         %[[FACTOR:.+]] = arith.mulf %{{.+}}, %{{.+}} : f32

// The first block: the rows' largest scores, which the four threads agree on, are the references, or 0 where they are little
// below it. A row without a key yet has -inf, and the lowest finite number as its reference: exponents are -inf then, not NaN.
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
// CHECK-NEXT:    %[[MAX:.+]] = arith.maxnumf %[[LOWEST]], %[[SCALED0]]
// CHECK-NEXT:    %[[LEAD:.+]] = arith.constant -1.600000e+01 : f32
// CHECK-NEXT:    %[[IS_NEAR:.+]] = arith.cmpf oge, %[[MAX]], %[[LEAD]] : f32
// CHECK:         %[[NONNEGATIVE:.+]] = arith.maxnumf %[[MAX]], %{{.+}}
// CHECK-NEXT:    %[[REF0:.+]] = arith.select %[[IS_NEAR]], %[[NONNEGATIVE]], %[[MAX]]
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"(%{{.+}}, %[[MAX1]],
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:         %[[SCALED1:.+]] = arith.mulf %{{.+}}, %[[FACTOR]]
// CHECK-NEXT:    %[[MAX:.+]] = arith.maxnumf %[[LOWEST]], %[[SCALED1]]
// CHECK-NEXT:    %[[LEAD:.+]] = arith.constant -1.600000e+01 : f32
// CHECK-NEXT:    %[[IS_NEAR:.+]] = arith.cmpf oge, %[[MAX]], %[[LEAD]]
// CHECK:         %[[NONNEGATIVE:.+]] = arith.maxnumf %[[MAX]], %{{.+}}
// CHECK-NEXT:    %[[REF1:.+]] = arith.select %[[IS_NEAR]], %[[NONNEGATIVE]], %[[MAX]]
// Where one is beyond 2^24, references are marked and the largest scores are taken from the scores.
// CHECK:         "abs.f32 $0, $1;", "=f,f" %[[REF1]]
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
// rarely taken, in which the threads of a row agree on the new reference. Maxima are those of the bits: where all of a thread's
// scores have a sign, and a reference too, or where somebody wants to know them, they are taken again.
// CHECK:         ^bb0(%[[OLD0:[^:]+]]: f32, %[[OLD1:[^:]+]]: f32, %[[MOST0:[^:]+]]: f32, %[[MOST1:[^:]+]]: f32, %[[SUM0:[^:]+]]: f32,
// CHECK:           "wgmma.wait_group.sync.aligned 1;"
// CHECK:           %[[S:.+]]:8 = scf.if
// CHECK:           %[[S0:.+]] = arith.bitcast %[[S]]#0 : f32 to i32
// CHECK-NEXT:      %[[S1:.+]] = arith.bitcast %[[S]]#1 : f32 to i32
// CHECK-NEXT:      %[[S4:.+]] = arith.bitcast %[[S]]#4 : f32 to i32
// CHECK-NEXT:      %[[S5:.+]] = arith.bitcast %[[S]]#5 : f32 to i32
// CHECK-NEXT:      %[[X:.+]] = arith.maxsi %[[S0]], %[[S4]] : i32
// CHECK-NEXT:      %[[Y:.+]] = arith.maxsi %[[X]], %[[S1]] : i32
// CHECK-NEXT:      %[[Z:.+]] = arith.maxsi %[[Y]], %[[S5]] : i32
// CHECK-NEXT:      %[[MAX0:.+]] = arith.bitcast %[[Z]] : i32 to f32
// CHECK-COUNT-3:   arith.maxsi
// CHECK-NEXT:      %[[MAX1:.+]] = arith.bitcast %{{.+}} : i32 to f32
// CHECK:           %[[SIGNS:.+]] = arith.ori %{{.+}}, %{{.+}} : i32
// CHECK:           %[[HAVE_SIGNS:.+]] = arith.cmpi slt, %[[SIGNS]], %{{.+}} : i32
// CHECK:           %[[IS_WANTED:.+]] = arith.cmpi ne, %{{.+}}, %{{.+}} : i64
// CHECK-NEXT:      %[[OPEN:.+]] = arith.ori %[[HAVE_SIGNS]], %[[IS_WANTED]]
// CHECK:           %[[BITS:.+]] = arith.bitcast %[[OLD0]] : f32 to i32
// CHECK:           %[[WAS_LARGE:.+]] = arith.cmpi eq, %[[BITS]],
// CHECK:           %[[NEGATED:.+]] = arith.negf %[[OLD0]]
// CHECK-NEXT:      %[[BEYOND:.+]] = math.fma %[[MAX0]], %[[FACTOR]], %[[NEGATED]]
// CHECK-NEXT:      %[[EXCEEDS:.+]] = arith.cmpf ogt, %[[BEYOND]], %[[BOUND:.+]] : f32
// CHECK-NEXT:      arith.ori %[[WAS_LARGE]], %[[EXCEEDS]]
// CHECK:           arith.ori %{{.+}}, %[[OPEN]]
// CHECK:           %[[UNUSUAL:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"
// CHECK:           %[[NEW:.+]]:15 = scf.if %[[UNUSUAL]] ->
// CHECK-COUNT-6:     arith.maxnumf %{{.+}}, %[[S]]#
// CHECK:             %[[NEEDED:.+]] = llvm.call_intrinsic "llvm.nvvm.vote.any.sync"
// CHECK:             %[[RENEWED:.+]]:14 = scf.if %[[NEEDED]] ->
// CHECK-COUNT-4:       "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:               "llvm.nvvm.vote.any.sync"
// CHECK-NEXT:          scf.if
// A reference that leads stands for a largest score that nobody knows.
// CHECK:                 "rcp.approx.ftz.f32 $0, $1;", "=f,f" %[[FACTOR]]
// From the largest scores before, or from the references.
// CHECK:                 arith.maxnumf %[[MOST0]],
// CHECK:                 arith.minnumf
// CHECK-NEXT:            "ex2.approx.ftz.f32
// CHECK-COUNT-8:         arith.subf %[[S]]#
// CHECK-NEXT:            scf.yield
// CHECK:               } else {
// CHECK:                 scf.yield %{{.+}}, %[[S]]#7 :
// CHECK:               scf.yield
// CHECK-NEXT:        } else {
// CHECK:               scf.yield %[[OLD0]], %[[OLD1]],
// CHECK:             scf.yield %[[RENEWED]]#0, %{{.+}}, %[[NEEDED]] :
// CHECK-NEXT:      } else {
// CHECK-NEXT:        %[[MOST:.+]] = arith.maxnumf %[[MOST0]], %[[MAX0]]
// CHECK-NEXT:        arith.maxnumf %[[MOST1]], %[[MAX1]]
// CHECK-NEXT:        %[[FALSE:.+]] = arith.constant false
// CHECK-NEXT:        scf.yield %[[OLD0]], %[[OLD1]], %[[MOST]], %{{.+}}, %[[ONE:.+]], %[[ONE]], %[[S]]#0, {{.*}}, %[[FALSE]] :
// CHECK-COUNT-8:   "ex2.approx.ftz.f32
// CHECK-NOT:       shfl
// CHECK:           math.fma %[[SUM0]], %[[NEW]]#4,
// The accumulator is scaled in such a branch too, when the product in flight has written it.
// CHECK:           "wgmma.wait_group.sync.aligned 0;"
// CHECK:           scf.if %[[NEW]]#14 ->
// CHECK-COUNT-8:     arith.mulf
// CHECK:             scf.yield
// CHECK-NEXT:      } else {
// CHECK-NEXT:        scf.yield
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
