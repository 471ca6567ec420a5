// Each target's schedule, by element type.
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=x86-64-v2 | FileCheck %s --check-prefix=V2
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=x86-64-v3 | FileCheck %s --check-prefix=V3
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=x86-64-v4 | FileCheck %s --check-prefix=V4
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=x86-64-v4+bf16 | FileCheck %s --check-prefix=BF16
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=x86-64-v4+amx | FileCheck %s --check-prefix=AMX
// RUN: heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=aarch64 | FileCheck %s --check-prefix=ARM
// A second run keeps what is there.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile,tile.kernel(tile-select-cpu-schedule{target=x86-64-v3},tile-select-cpu-schedule{target=aarch64}))" | FileCheck %s --check-prefix=V3
// RUN: not heed-opt %s --attn-to-tile --tile-select-cpu-schedule=target=vax 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// UNKNOWN: error: unknown target 'vax' (known: native, x86-64-v2,

!lse = !attn.tensor<[B, Hq, Sq], f32>
!t32 = !attn.tensor<[B, Hq, Sq, 64], f32>
!k32 = !attn.tensor<[B, Hkv, Skv, 64], f32>
!t16 = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k16 = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!t1 = !attn.tensor<[B, Hq, Sq, 1], f32>
!k1 = !attn.tensor<[B, Hkv, Skv, 1], f32>
!t512 = !attn.tensor<[B, Hq, Sq, 512], bf16>
!k512 = !attn.tensor<[B, Hkv, Skv, 512], bf16>
attn.variant @dense() {}

// V2-LABEL:   tile.kernel @wide(
// V2-SAME:      #tile.cpu_schedule<target = "x86-64-v2", lanes = 4, {{.*}} dot = fma, exp_degree = 5>
// V3-LABEL:   tile.kernel @wide(
// V3-SAME:      #tile.cpu_schedule<target = "x86-64-v3", lanes = 8, {{.*}} dot = fma, exp_degree = 5>
// V4-LABEL:   tile.kernel @wide(
// V4-SAME:      #tile.cpu_schedule<target = "x86-64-v4", lanes = 16, block_q = 256, block_kv = 128, {{.*}} dot = fma, exp_degree = 5>
// BF16-LABEL: tile.kernel @wide(
// BF16-SAME:    #tile.cpu_schedule<target = "x86-64-v4+bf16", lanes = 16, {{.*}} dot = fma, exp_degree = 5>
// AMX-LABEL:  tile.kernel @wide(
// AMX-SAME:     #tile.cpu_schedule<target = "x86-64-v4+amx", lanes = 16, {{.*}} dot = fma, exp_degree = 5>
// ARM-LABEL:  tile.kernel @wide(
// ARM-SAME:     #tile.cpu_schedule<target = "aarch64", lanes = 4, {{.*}} dot = fma, exp_degree = 5>
func.func @wide(%q: !t32, %k: !k32, %v: !k32, %s: f32) -> (!t32, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t32, !k32, !k32) -> (!t32, !lse)
  return %o, %l, %max : !t32, !lse, !lse
}

// bf16 needs fewer terms of exp, and has products of its own where the machine has.
// V3-LABEL:   tile.kernel @narrow(
// V3-SAME:      dot = fma, exp_degree = 3>
// BF16-LABEL: tile.kernel @narrow(
// BF16-SAME:    dot = dpbf16, exp_degree = 3>
// AMX-LABEL:  tile.kernel @narrow(
// AMX-SAME:     block_q = 128, block_kv = 256, {{.*}} dot = amx, exp_degree = 3>
func.func @narrow(%q: !t16, %k: !k16, %v: !k16, %s: f32) -> (!t16, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t16, !k16, !k16) -> (!t16, !lse)
  return %o, %l, %max : !t16, !lse, !lse
}

// Every head dim has a schedule.
// V2-LABEL:   tile.kernel @small(
// V2-SAME:      #tile.cpu_schedule<
// V4-LABEL:   tile.kernel @small(
// V4-SAME:      #tile.cpu_schedule<
func.func @small(%q: !t1, %k: !k1, %v: !k1, %s: f32) -> (!t1, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t1, !k1, !k1) -> (!t1, !lse)
  return %o, %l, %max : !t1, !lse, !lse
}
// V2-LABEL:   tile.kernel @large(
// V2-SAME:      #tile.cpu_schedule<
// AMX-LABEL:  tile.kernel @large(
// AMX-SAME:     #tile.cpu_schedule<
func.func @large(%q: !t512, %k: !k512, %v: !k512, %s: f32) -> (!t512, !lse, !lse) {
  %o, %l, %max = attn.forward @dense(%q, %k, %v) scale(%s) : (!t512, !k512, !k512) -> (!t512, !lse)
  return %o, %l, %max : !t512, !lse, !lse
}
