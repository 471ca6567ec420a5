// tile.normalize and tile.store on sm_90a: what a tile leaves behind.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2}),tile-to-nvidia)" | FileCheck %s --check-prefixes=CHECK,OWN
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-kv=16 narrow-weights},tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=16,groups=1,stages=2,blocks_per_sm=0}),tile-to-nvidia)" | FileCheck %s --check-prefixes=CHECK,SHARED

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
attn.variant @dense() {}

// The last product has been waited for. The threads of a row add up their sums.
// CHECK:         "setmaxnreg.inc
// CHECK:         %[[R:.+]]:17 = scf.if
// CHECK:           "wgmma.commit_group.sync.aligned;"
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"(%{{.+}}, %[[R]]#4,
// CHECK:         arith.addf %[[R]]#4,
// CHECK:         "llvm.nvvm.shfl.sync.bfly.f32"
// CHECK:         %[[SUM:.+]] = arith.addf
// A sum of 0 means that there was no key: output 0, LSE -inf.
// CHECK:         %[[IS_EMPTY:.+]] = arith.cmpf oeq, %[[SUM]],
// CHECK:         %[[RECIPROCAL:[0-9]+]] = {{.*}}"rcp.approx.ftz.f32 $0, $1;", "=f,f" %[[SUM]]
// CHECK:         %[[INVERSE:.+]] = arith.select %[[IS_EMPTY]], %{{.+}}, %[[RECIPROCAL]]
// The reference is the offset of the logarithm; of a large row, its largest score.
// CHECK:         arith.maxnumf %[[R]]#2,
// CHECK:         %[[PRODUCT:.+]] = arith.mulf %{{.+}}, %{{.+}} : f32
// CHECK:         %[[BITS:.+]] = arith.bitcast %[[R]]#0 : f32 to i32
// CHECK:         %[[WAS_LARGE:.+]] = arith.cmpi eq, %[[BITS]],
// CHECK-NEXT:    %[[OFFSET:.+]] = arith.select %[[WAS_LARGE]], %[[PRODUCT]], %[[R]]#0
// CHECK:         %[[LOG2:[0-9]+]] = {{.*}}"lg2.approx.ftz.f32 $0, $1;", "=f,f" %[[SUM]]
// CHECK:         %[[X:.+]] = arith.addf %[[OFFSET]], %[[LOG2]]
// CHECK:         %[[LOG:.+]] = arith.mulf %[[X]], %{{.+}}
// CHECK:         %[[LSE:.+]] = arith.select %[[IS_EMPTY]], %{{.+}}, %[[LOG]]
// CHECK:         arith.mulf %[[R]]#6, %[[INVERSE]]
// CHECK:         arith.mulf %[[R]]#7, %[[INVERSE]]

// The output, through shared memory. In a buffer of its own it waits for the tile before to have been read.
// OWN:           scf.if
// OWN-NEXT:        {{.*}}"cp.async.bulk.wait_group.read 0;"
// CHECK:         "bar.sync $0, 128;"
// CHECK-COUNT-4: "cvt.rn.bf16x2.f32 $0, $1, $2;"
// CHECK:         "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};"
// CHECK-NOT:     stmatrix
// CHECK:         "fence.proxy.async.shared::cta;"
// CHECK-NEXT:    {{.*}}"bar.sync $0, 128;"
// CHECK:         scf.if
// CHECK:           "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [$0, {$1, $2, $3, $4}], [$5];", "l,r,r,r,r,r" %arg3,
// CHECK-NEXT:      {{.*}}"cp.async.bulk.commit_group;"
// OWN-NEXT:      }
// In the queries' place: it is theirs again when the copy has read it.
// SHARED-NEXT:     {{.*}}"cp.async.bulk.wait_group.read 0;"
// SHARED:          "@$1 mbarrier.arrive.shared::cta.b64 _, [$0];"
// SHARED-NEXT:   }

// LSE: by the first thread of a row, where the row exists and the tensor is wanted.
// CHECK:         %[[IS_WANTED:.+]] = arith.cmpi ne, %{{.+}}, %{{.+}} : i64
// CHECK:         %[[IS_FIRST:.+]] = arith.cmpi eq,
// CHECK:         %[[IS_INSIDE:.+]] = arith.cmpi slt,
// CHECK:         %[[X:.+]] = arith.andi %[[IS_WANTED]], %[[IS_FIRST]]
// CHECK:         %[[Y:.+]] = arith.andi %[[X]], %[[IS_INSIDE]]
// CHECK:         scf.if %[[Y]] {
// CHECK:           llvm.store %[[LSE]], %{{.+}} : f32, !llvm.ptr<1>
// CHECK-COUNT-3:   llvm.store %{{.+}} : f32, !llvm.ptr<1>
// CHECK-NOT:     llvm.store
func.func @f(%q: !t, %k: !k, %v: !k, %scale: f32) -> (!t, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t, !k, !k) -> (!t, !lse)
  return %o, %lse, %max : !t, !lse, !lse
}
