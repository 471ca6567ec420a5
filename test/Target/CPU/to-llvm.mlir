// After cpu-to-llvm everything is in the llvm dialect, and no math library is called.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128},tile.kernel(tile-select-cpu-schedule{target=x86-64-v2}),tile-to-cpu,cpu-to-llvm)" | FileCheck %s --implicit-check-not=llvm.intr.fma
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=256},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4}),tile-to-cpu,cpu-to-llvm)" | FileCheck %s --check-prefixes=CHECK,FMA
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128},tile.kernel(tile-select-cpu-schedule{target=aarch64}),tile-to-cpu,cpu-to-llvm)" | FileCheck %s --check-prefixes=CHECK,FMA

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!k = !attn.tensor<[B, Hkv, Skv, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @softcap(%cap: f32 {attn.name = "cap"}) {
  attn.score(%s, %b, %h, %q, %kv) {
    %x = arith.divf %s, %cap : f32
    %y = math.tanh %x : f32
    %w = math.exp2 %cap : f32
    %z = arith.mulf %w, %y : f32
    %e = math.exp %z : f32
    %l = math.log %e : f32
    attn.yield %l : f32
  }
}

// CHECK-NOT:  {{(func\.func|scf\.|cf\.|math\.|vector\.|arith\.|builtin\.unrealized)}}
// CHECK:      llvm.func @f_tile(
// CHECK-NOT:  {{(llvm\.call @|llvm\.intr\.(exp|exp2|log|tanh|pow|sin|cos)\()}}
// FMA:        llvm.intr.fma
// CHECK:      llvm.func @f_cost(
// CHECK-NOT:  {{(func\.func|scf\.|cf\.|math\.|vector\.|arith\.|builtin\.unrealized|llvm\.call @)}}
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32, %cap: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @softcap(%q, %k, %v) scale(%s) captures(%cap) : (!t, !k, !k, f32) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
