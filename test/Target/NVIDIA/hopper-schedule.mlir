// Schedules for sm_90a: products by wgmma for 16-bit elements and head dims that are multiples of 8; anything else takes
// the portable path. More warpgroups and longer blocks of keys where registers suffice.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a}))" | FileCheck %s
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=groups=1,block_kv=48,stages=1,blocks_per_sm=0}))" | FileCheck %s --check-prefix=GIVEN
// Few keys: smaller blocks and tiles.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=keys=512}))" | FileCheck %s --check-prefix=SHORT
// A second run keeps what is there.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a},tile-select-gpu-schedule{target=sm_80}))" | FileCheck %s

// What does not fit is refused, with the numbers.
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=block_kv=20}))" 2>&1 | FileCheck %s --check-prefix=MULTIPLE
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=groups=5}))" 2>&1 | FileCheck %s --check-prefix=GROUPS
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=stages=3}))" 2>&1 | FileCheck %s --check-prefix=STAGES
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=groups=1,block_kv=64,stages=16}))" 2>&1 | FileCheck %s --check-prefix=MEMORY
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=groups=3,block_kv=256}))" 2>&1 | FileCheck %s --check-prefix=REGISTERS
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=waves=2}))" 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=stages=no}))" 2>&1 | FileCheck %s --check-prefix=NUMBER
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=walk=trees}))" 2>&1 | FileCheck %s --check-prefix=WALK
// RUN: not heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_70}))" 2>&1 | FileCheck %s --check-prefix=TARGET

// MULTIPLE:  error: block_kv expects a multiple of 16 up to 256 for sm_90a, found 20
// GROUPS:    error: groups expects 1 to 4 for sm_90a, found 5
// STAGES:    error: stages expects a power of two for sm_90a, found 3
// MEMORY:    error: no schedule of sm_90a fits head dim 64: a thread block needs 271360 bytes of shared memory and has 232448
// REGISTERS: error: no schedule of sm_90a fits head dim 64: a thread needs about 250 registers and has 152
// UNKNOWN:   error: unknown schedule option 'waves=2' (known: block_kv=N, groups=N, stages=N, blocks_per_sm=N, keys=N, walk=bounds|lists, tf32, strict_math, no_wgmma, aligned_only)
// NUMBER:    error: schedule option 'stages' expects a number of at least 1, found 'stages=no'
// WALK:      error: schedule option 'walk' expects bounds or lists, found 'walk=trees'
// TARGET:    error: unknown GPU target 'sm_70'

!lse = !attn.tensor<[B, Hq, Sq], f32>
!q64 = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k64 = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!q128 = !attn.tensor<[B, Hq, Sq, 128], f16>
!k128 = !attn.tensor<[B, Hkv, Skv, 128], f16>
!q192 = !attn.tensor<[B, Hq, Sq, 192], bf16>
!k192 = !attn.tensor<[B, Hkv, Skv, 192], bf16>
!v192 = !attn.tensor<[B, Hkv, Skv, 128], bf16>
!o192 = !attn.tensor<[B, Hq, Sq, 128], bf16>
!q256 = !attn.tensor<[B, Hq, Sq, 256], bf16>
!k256 = !attn.tensor<[B, Hkv, Skv, 256], bf16>
!q576 = !attn.tensor<[B, Hq, Sq, 576], bf16>
!k576 = !attn.tensor<[B, Hkv, Skv, 576], bf16>
!q20 = !attn.tensor<[B, Hq, Sq, 20], bf16>
!k20 = !attn.tensor<[B, Hkv, Skv, 20], bf16>
!q32 = !attn.tensor<[B, Hq, Sq, 64], f32>
!k32 = !attn.tensor<[B, Hkv, Skv, 64], f32>

attn.variant @dense() {}
attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}
attn.variant @window() {
  attn.mask(%b, %h, %q, %kv) {
    %distance = arith.subi %q, %kv : i32
    %limit = arith.constant 100 : i32
    %keep = arith.cmpi ult, %distance, %limit : i32
    attn.yield %keep : i1
  }
}

// CHECK-LABEL: tile.kernel @dense64(
// CHECK-SAME:    dot = wgmma, groups = 3, block_kv = 128, stages = 4, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>
// SHORT-LABEL: tile.kernel @dense64(
// SHORT-SAME:    dot = wgmma, groups = 4, block_kv = 64,
// GIVEN-LABEL: tile.kernel @dense64(
// GIVEN-SAME:    dot = wgmma, groups = 1, block_kv = 48, stages = 1, blocks_per_sm = 0, own_output = false,
func.func @dense64(%q: !q64, %k: !k64, %v: !k64, %s: f32) -> (!q64, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q64, !k64, !k64) -> (!q64, !lse)
  return %o, %l, %max : !q64, !lse, !lse
}
// A fourth warpgroup, whose tiles end sooner, where a mask is short.
// CHECK-LABEL: tile.kernel @causal64(
// CHECK-SAME:    dot = wgmma, groups = 4, block_kv = 64,
func.func @causal64(%q: !q64, %k: !k64, %v: !k64, %s: f32) -> (!q64, !lse, !lse) {
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!q64, !k64, !k64) -> (!q64, !lse)
  return %o, %l, %max : !q64, !lse, !lse
}
// CHECK-LABEL: tile.kernel @window64(
// CHECK-SAME:    dot = wgmma, groups = 4, block_kv = 64,
func.func @window64(%q: !q64, %k: !k64, %v: !k64, %s: f32) -> (!q64, !lse, !lse) {
  %o, %l, %max = attn.forward @window(%q, %k, %v) scale(%s) : (!q64, !k64, !k64) -> (!q64, !lse)
  return %o, %l, %max : !q64, !lse, !lse
}
// CHECK-LABEL: tile.kernel @dense128(
// CHECK-SAME:    dot = wgmma, groups = 3, block_kv = 80, stages = 2, blocks_per_sm = 1, own_output = true,
// SHORT-LABEL: tile.kernel @dense128(
// SHORT-SAME:    dot = wgmma, groups = 3, block_kv = 64,
func.func @dense128(%q: !q128, %k: !k128, %v: !k128, %s: f32) -> (!q128, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q128, !k128, !k128) -> (!q128, !lse)
  return %o, %l, %max : !q128, !lse, !lse
}
// Shorter blocks behind a mask.
// CHECK-LABEL: tile.kernel @causal128(
// CHECK-SAME:    dot = wgmma, groups = 3, block_kv = 64,
func.func @causal128(%q: !q128, %k: !k128, %v: !k128, %s: f32) -> (!q128, !lse, !lse) {
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!q128, !k128, !k128) -> (!q128, !lse)
  return %o, %l, %max : !q128, !lse, !lse
}
// CHECK-LABEL: tile.kernel @unequal(
// CHECK-SAME:    dot = wgmma, groups = 2, block_kv = 80,
func.func @unequal(%q: !q192, %k: !k192, %v: !v192, %s: f32) -> (!o192, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q192, !k192, !v192) -> (!o192, !lse)
  return %o, %l, %max : !o192, !lse, !lse
}
// CHECK-LABEL: tile.kernel @dense256(
// CHECK-SAME:    dot = wgmma, groups = 2, block_kv = 64,
func.func @dense256(%q: !q256, %k: !k256, %v: !k256, %s: f32) -> (!q256, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q256, !k256, !k256) -> (!q256, !lse)
  return %o, %l, %max : !q256, !lse, !lse
}
// CHECK-LABEL: tile.kernel @dense576(
// CHECK-SAME:    dot = mma,
func.func @dense576(%q: !q576, %k: !k576, %v: !k576, %s: f32) -> (!q576, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q576, !k576, !k576) -> (!q576, !lse)
  return %o, %l, %max : !q576, !lse, !lse
}
// CHECK-LABEL: tile.kernel @odd(
// CHECK-SAME:    dot = mma,
func.func @odd(%q: !q20, %k: !k20, %v: !k20, %s: f32) -> (!q20, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q20, !k20, !k20) -> (!q20, !lse)
  return %o, %l, %max : !q20, !lse, !lse
}
// CHECK-LABEL: tile.kernel @wide(
// CHECK-SAME:    dot = tf32x3,
func.func @wide(%q: !q32, %k: !k32, %v: !k32, %s: f32) -> (!q32, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!q32, !k32, !k32) -> (!q32, !lse)
  return %o, %l, %max : !q32, !lse, !lse
}
