// Forms that kernels for sm_90a do not have.
// RUN: heed-opt %s --split-input-file --tile-to-nvidia --verify-diagnostics

// A kernel without an output.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

// expected-error @+1 {{expects queries, a loop over keys and an output for sm_90a}}
tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.return
}

// -----

// Blocks of another length than the schedule has.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  // expected-error @+1 {{expects the schedule's block_kv as its step for sm_90a, 32 is not 16}}
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 32 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A second tile of queries.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  // expected-error @+1 {{expects one tile outside of the loop for sm_90a}}
  %qt2 = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Keys that two products read.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    // expected-error @+1 {{expects to be the right operand of one product for sm_90a}}
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %s2 = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A third product.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  // expected-error @+1 {{expects one product of scores and one accumulated for sm_90a}}
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %kt2 = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s2 = tile.dot %qt, %kt2 transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Scores of keys that are not transposed.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    // expected-error @+1 {{expects queries times transposed keys for sm_90a}}
    %s = tile.dot %qt, %kt : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Scores that are scaled: queries are.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    // expected-error @+1 {{has no lowering inside of the loop for sm_90a}}
    %s2 = tile.scale %s by %scale : !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A second loop.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  // expected-error @+1 {{expects one loop over keys for sm_90a}}
  %r2 = tile.for_kv %kv2, %p2 = %0 to %end step 16 iter_args(%z = %zero) : (!rows) {
    tile.yield %z : !rows
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A scaled tile that is not the queries.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  // expected-error @+1 {{expects to scale the queries for sm_90a}}
  %empty2 = tile.scale %empty by %scale : !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// An op of the loop outside of it.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  // expected-error @+1 {{has no lowering outside of the loop for sm_90a}}
  %r3 = tile.scale_rows %r#2 by %r#1 : !scores, !rows
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Values that nothing reads.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    // expected-error @+1 {{expects to be the right operand of one product for sm_90a}}
    %vt2 = tile.load %v[%b, %h, %kv] : !k -> !keys
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Values of other keys.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    // expected-error @+1 {{expects the loop's block of 16 keys for sm_90a, found another row}}
    %vt = tile.load %v[%b, %h, %0] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A second softmax.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  // expected-error @+1 {{expects one softmax for sm_90a}}
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %w3, %x3, %y3, %f3 = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A softmax of something other than scores.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    // expected-error @+1 {{expects scores, mapped and masked at most, for sm_90a}}
    %w, %x2, %y2, %f = tile.online_softmax %a, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Weights that are the queries.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    // expected-error @+1 {{expects the softmax's weights times values and a rescaled accumulator for sm_90a}}
    %a3 = tile.dot %qt, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// A sum that is not carried.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  // expected-error @+1 {{expects to carry the softmax's reference and sum and the accumulator for sm_90a, found no sum}}
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y, %a3 : !rows, !rows, !scores
  }
  %out, %lse, %max = tile.normalize %r#2, %r#0, %r#1 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// Reference and sum in the wrong order.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32)
    parallel (%b, %h, %t) attributes {tile.schedule = #schedule} {
  %0 = arith.constant 0 : index
  %end = arith.constant 64 : index
  %qt = tile.load %q[%b, %h, %0] : !q -> !queries
  %zero = tile.fill 0.0 -> !rows
  %low = tile.fill 0xFF800000 -> !rows
  %empty = tile.fill 0.0 -> !scores
  %r:3 = tile.for_kv %kv, %partial = %0 to %end step 16 iter_args(%x = %low, %y = %zero, %a = %empty) : (!rows, !rows, !scores) {
    %kt = tile.load %k[%b, %h, %kv] : !k -> !keys
    %s = tile.dot %qt, %kt transpose_rhs : !queries, !keys -> !scores
    %w, %x2, %y2, %f = tile.online_softmax %s, %x, %y factor %scale : !scores, !rows -> !queries
    %vt = tile.load %v[%b, %h, %kv] : !k -> !keys
    %a2 = tile.scale_rows %a by %f : !scores, !rows
    %a3 = tile.dot %w, %vt acc %a2 : !scores : !queries, !keys -> !scores
    tile.yield %x2, %y2, %a3 : !rows, !rows, !scores
  }
  // expected-error @+1 {{expects the loop's accumulator, reference and sum, in this order, for sm_90a}}
  %out, %lse, %max = tile.normalize %r#2, %r#1, %r#0 factor %scale : !scores, !rows
  tile.store %out, %o[%b, %h, %0] : !scores, !q
  tile.return
}

// -----

// No schedule.
!q = !attn.tensor<[B, Hq, Sq, 16], bf16>
!k = !attn.tensor<[B, Hkv, Skv, 16], bf16>
!l = !attn.tensor<[B, Hq, Sq], f32>
!keys = !tile.tile<16x16xbf16>
!queries = !tile.tile<64x16xbf16>
!scores = !tile.tile<64x16xf32>
!rows = !tile.tile<64xf32>
#schedule = #tile.gpu_schedule<target = "sm_90a", dot = wgmma, groups = 1, block_kv = 16, stages = 2, blocks_per_sm = 1, own_output = true, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>

// expected-error @+1 {{has no GPU schedule; run 'tile-select-gpu-schedule' first}}
tile.kernel @f("query" %q: !q, "key" %k: !k, "value" %v: !k, "output" %o: !q, "lse" %l: !l, "max_scores" %m: !l, "scale" %scale: f32) parallel (%b, %h, %t) {
  tile.return
}
