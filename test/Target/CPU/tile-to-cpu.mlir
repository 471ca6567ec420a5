// The functions of a kernel, what the runtime must know of them, and the products of each schedule.
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128},tile.kernel(tile-select-cpu-schedule{target=x86-64-v3}),tile-to-cpu)" | FileCheck %s --check-prefixes=CHECK,FMA
// RUN: heed-opt %s --pass-pipeline="builtin.module(attn-to-tile{block-q=128 narrow-weights=true},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4+bf16}),tile-to-cpu)" | FileCheck %s --check-prefixes=CHECK,PACKED,DPBF16
// RUN: sed -e s/@block/@/ %s | heed-opt --pass-pipeline="builtin.module(attn-to-tile{block-q=128 block-kv=256 narrow-weights=true},tile.kernel(tile-select-cpu-schedule{target=x86-64-v4+amx}),tile-to-cpu)" | FileCheck %s --check-prefixes=CHECK,PACKED,AMX

!t = !attn.tensor<[B, Hq, Sq, 64], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 64], bf16>
!lse = !attn.tensor<[B, Hq, Sq], f32>

attn.variant @causal() {
  attn.mask(%b, %h, %q, %kv) {
    %keep = arith.cmpi sge, %q, %kv : i32
    attn.yield %keep : i1
  }
}

// CHECK-NOT:    tile.
// CHECK:        func.func @f_tile(%{{.+}}: !llvm.ptr, %{{.+}}: i64, %{{.+}}: i64, %{{.+}}: i64, %{{.+}}: !llvm.ptr)
// FMA-SAME:       attributes {heed.code = {block_kv = 128 : i64, block_q = 128 : i64, packed_bytes_per_block = 0 : i64, scratch_bytes = {{[1-9][0-9]*}} : i64, uses_lists = 0 : i64}}
// Two keys' values in a pair: 128 x 64 bf16 a block.
// DPBF16-SAME:    attributes {heed.code = {block_kv = 128 : i64, block_q = 128 : i64, packed_bytes_per_block = 16384 : i64, scratch_bytes = {{[1-9][0-9]*}} : i64, uses_lists = 0 : i64}}
// AMX-SAME:       attributes {heed.code = {block_kv = 256 : i64, block_q = 128 : i64, packed_bytes_per_block = {{[1-9][0-9]*}} : i64, scratch_bytes = {{[1-9][0-9]*}} : i64, uses_lists = 0 : i64}}
// FMA-NOT:      func.func @f_prepare
// FMA:          math.fma {{.*}} : vector<8xf32>
// FMA-NOT:      func.func @f_prepare
// DPBF16:       llvm.call_intrinsic "llvm.x86.avx512bf16.dpbf16ps.512"
// AMX:          llvm.call_intrinsic "llvm.x86.tdpbf16ps.internal"
// PACKED:       func.func @f_prepare(%{{.+}}: !llvm.ptr, %{{.+}}: i64, %{{.+}}: i64) {
// CHECK:        func.func @f_cost(%{{.+}}: !llvm.ptr, %{{.+}}: i64, %{{.+}}: i64, %{{.+}}: i64) -> i64 {
// CHECK-NOT:    tile.
func.func @f(%q: !t, %k: !k, %v: !k, %s: f32) -> (!t, !lse, !lse) {
  %o, %l, %max = attn.forward @causal(%q, %k, %v) scale(%s) : (!t, !k, !k) -> (!t, !lse)
  return %o, %l, %max : !t, !lse, !lse
}
