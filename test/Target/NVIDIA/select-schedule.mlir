// Each target's schedule on the portable path, by element type and head dim.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_80}))" | FileCheck %s --check-prefix=SM80
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_90a overrides=no_wgmma}))" | FileCheck %s --check-prefix=SM90
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_86 overrides=tf32}))" | FileCheck %s --check-prefix=SM86
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-gpu-schedule{target=sm_100}))" | FileCheck %s --check-prefix=SM100

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t16 = !attn.tensor<[B, Hq, Sq, 128], bf16>
!k16 = !attn.tensor<[B, Hkv, Skv, 128], bf16>
!t32 = !attn.tensor<[B, Hq, Sq, 512], f32>
!k32 = !attn.tensor<[B, Hkv, Skv, 512], f32>
!w16 = !attn.tensor<[B, Hq, Sq, 256], bf16>
!wk16 = !attn.tensor<[B, Hkv, Skv, 256], bf16>
attn.variant @dense() {}
attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// SM80-LABEL: tile.kernel @half(
// SM80-SAME:    #tile.gpu_schedule<target = "sm_80", dot = mma, groups = 2, block_kv = 64, stages = 1, blocks_per_sm = 0, {{.*}} value_slices = 1, warp_instances = 2, queries = shared>
// SM100-LABEL: tile.kernel @half(
// SM100-SAME:    dot = mma, groups = 2, block_kv = 48,
// SM90-LABEL: tile.kernel @half(
// SM90-SAME:    #tile.gpu_schedule<target = "sm_90a", dot = mma, groups = 2, block_kv = 32, stages = 2, blocks_per_sm = 0, {{.*}} value_slices = 1, warp_instances = 2, queries = shared>
func.func @half(%q: !t16, %k: !k16, %v: !k16, %scale: f32) -> (!t16, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t16, !k16, !k16) -> (!t16, !lse)
  return %o, %lse, %max : !t16, !lse, !lse
}

// SM80-LABEL: tile.kernel @masked(
// SM80-SAME:    dot = mma, groups = 2, block_kv = 48, stages = 1, {{.*}} warp_instances = 2, queries = shared>
func.func @masked(%q: !t16, %k: !k16, %v: !k16, %scale: f32) -> (!t16, !lse, !lse) {
  %o, %lse, %max = attn.forward @causal(%q, %k, %v) scale(%scale) : (!t16, !k16, !k16) -> (!t16, !lse)
  return %o, %lse, %max : !t16, !lse, !lse
}

// SM80-LABEL: tile.kernel @wide(
// SM80-SAME:    dot = mma, groups = 2, block_kv = 80, stages = 1, {{.*}} warp_instances = 1, queries = shared>
func.func @wide(%q: !w16, %k: !wk16, %v: !wk16, %scale: f32) -> (!w16, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!w16, !wk16, !wk16) -> (!w16, !lse)
  return %o, %lse, %max : !w16, !lse, !lse
}

// SM80-LABEL: tile.kernel @large(
// SM80-SAME:    dot = tf32x3, {{.*}} value_slices = {{[2-9]}}, warp_instances = 1, queries =
// SM86-LABEL: tile.kernel @large(
// SM86-SAME:    dot = tf32, {{.*}} warp_instances = 1, queries = global>
func.func @large(%q: !t32, %k: !k32, %v: !k32, %scale: f32) -> (!t32, !lse, !lse) {
  %o, %lse, %max = attn.forward @dense(%q, %k, %v) scale(%scale) : (!t32, !k32, !k32) -> (!t32, !lse)
  return %o, %lse, %max : !t32, !lse, !lse
}
