// RUN: heed-opt %s --split-input-file --verify-diagnostics

//===----------------------------------------------------------------------===//
// Types and attributes
//===----------------------------------------------------------------------===//

// expected-error@+1 {{expects rank 1 or 2, found 3}}
func.func private @rank(!tile.tile<2x2x2xf32>)

// -----

// expected-error@+1 {{expects extents of at least 1, found 0}}
func.func private @extent(!tile.tile<0x2xf32>)

// -----

// expected-error@+1 {{expects element type f16, bf16, f32, i1, i8, i32 or i64, found 'i16'}}
func.func private @element(!tile.tile<2xi16>)

// -----

// expected-error@+1 {{expects 4, 8 or 16 lanes, found 6}}
func.func private @lanes() attributes {s = #tile.cpu_schedule<target = "x", lanes = 6, block_q = 6, block_kv = 32, rows = 1, vectors = 1, dot = fma, exp_degree = 5>}

// -----

// expected-error@+1 {{expects a register tile of at least 1 x 1, found 0 x 1}}
func.func private @rows() attributes {s = #tile.cpu_schedule<target = "x", lanes = 8, block_q = 8, block_kv = 32, rows = 0, vectors = 1, dot = fma, exp_degree = 5>}

// -----

// expected-error@+1 {{expects block_q to be a multiple of lanes * vectors = 16, found 24}}
func.func private @block_q() attributes {s = #tile.cpu_schedule<target = "x", lanes = 8, block_q = 24, block_kv = 32, rows = 1, vectors = 2, dot = fma, exp_degree = 5>}

// -----

// expected-error@+1 {{expects block_kv to be a multiple of 32, found 48}}
func.func private @block_kv() attributes {s = #tile.cpu_schedule<target = "x", lanes = 8, block_q = 8, block_kv = 48, rows = 1, vectors = 1, dot = fma, exp_degree = 5>}

// -----

// expected-error@+1 {{expects 16 lanes and a block_q that 32 divides for amx}}
func.func private @amx() attributes {s = #tile.cpu_schedule<target = "x", lanes = 16, block_q = 16, block_kv = 32, rows = 1, vectors = 1, dot = amx, exp_degree = 5>}

// -----

// expected-error@+1 {{expects exp_degree 3 or 5, found 6}}
func.func private @exp_degree() attributes {s = #tile.cpu_schedule<target = "x", lanes = 8, block_q = 8, block_kv = 32, rows = 1, vectors = 1, dot = fma, exp_degree = 6>}

// -----

// expected-error@+1 {{expects 1 to 4 groups, found 5}}
func.func private @gpu_groups() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 5, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects block_kv to be a multiple of 16 up to 256, found 24}}
func.func private @gpu_block_kv() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 24, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects 1 to 8 stages, found 9}}
func.func private @gpu_stages() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 64, stages = 9, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects blocks_per_sm of at least 0, found -1}}
func.func private @gpu_blocks_per_sm() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 64, stages = 1, blocks_per_sm = -1, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects lazy_rescale from 0 to 16, found 17}}
func.func private @gpu_lazy_rescale() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 17, value_slices = 1, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects at least one value slice, found 0}}
func.func private @gpu_value_slices() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 0, warp_instances = 1, queries = shared>}

// -----

// expected-error@+1 {{expects warp_instances to divide groups = 3, found 2}}
func.func private @gpu_warp_instances() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 3, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 2, queries = shared>}

// -----

// expected-error@+1 {{expects warp_instances = 1 and queries = shared for wgmma}}
func.func private @gpu_wgmma() attributes {s = #tile.gpu_schedule<target = "x", dot = wgmma, groups = 1, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = registers>}

// -----

// expected-error@+1 {{expects queries = registers or shared for mma}}
func.func private @gpu_mma() attributes {s = #tile.gpu_schedule<target = "x", dot = mma, groups = 1, block_kv = 64, stages = 1, blocks_per_sm = 0, own_output = false, lazy_rescale = 8, value_slices = 1, warp_instances = 1, queries = global>}

// -----

//===----------------------------------------------------------------------===//
// tile.kernel
//===----------------------------------------------------------------------===//

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
// expected-error@+1 {{expected the grid coordinates batch, head and query tile}}
tile.kernel @grid("query" %q: !t, "key" %k: !t, "value" %v: !t, "output" %o: !t, "lse" %l: !lse, "max_scores" %max: !lse, "scale" %s: f32) parallel (%b, %h) {
  tile.return
}

// -----

// expected-error@+1 {{'tile.kernel' op expects an argument for each of its 1 names and three grid coordinates, found 3}}
"tile.kernel"() <{sym_name = "count", arg_names = ["query"]}> ({
^bb0(%b: index, %h: index, %qt: index):
  tile.return
}) : () -> ()

// -----

// expected-error@+1 {{'tile.kernel' op expects grid coordinates of type index}}
"tile.kernel"() <{sym_name = "grid_type", arg_names = []}> ({
^bb0(%b: index, %h: i32, %qt: index):
  tile.return
}) : () -> ()

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
// expected-error@+1 {{'tile.kernel' op expects the arguments query, key, value, output, lse, max_scores and scale first}}
tile.kernel @leading("query" %q: !t, "key" %k: !t) parallel (%b, %h, %qt) {
  tile.return
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
// expected-error@+1 {{'tile.kernel' op expects argument 1 to be 'key'}}
tile.kernel @order("query" %q: !t, "value" %v: !t, "key" %k: !t, "output" %o: !t, "lse" %l: !lse, "max_scores" %max: !lse, "scale" %s: f32) parallel (%b, %h, %qt) {
  tile.return
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
!lse = !attn.tensor<[B, Hq, Sq], f32>
// expected-error@+1 {{'tile.kernel' op expects argument 'scale' to be f32, found 'i32'}}
tile.kernel @scale("query" %q: !t, "key" %k: !t, "value" %v: !t, "output" %o: !t, "lse" %l: !lse, "max_scores" %max: !lse, "scale" %s: i32) parallel (%b, %h, %qt) {
  tile.return
}

// -----

!t = !attn.tensor<[B, Hq, Sq, 64], f32>
// expected-error@+1 {{'tile.kernel' op expects argument 'lse' to be !attn.tensor, found 'f32'}}
tile.kernel @lse("query" %q: !t, "key" %k: !t, "value" %v: !t, "output" %o: !t, "lse" %l: f32, "max_scores" %max: f32, "scale" %s: f32) parallel (%b, %h, %qt) {
  tile.return
}

// -----

func.func @return_outside() {
  // expected-error@+1 {{'tile.return' op expects parent op 'tile.kernel'}}
  tile.return
}

// -----

//===----------------------------------------------------------------------===//
// tile.for_kv
//===----------------------------------------------------------------------===//

func.func @step(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects a step of at least 1, found 0}}
  tile.for_kv %kv, %partial = %n to %n step 0 {
    tile.yield
  }
  return
}

// -----

func.func @empty_body(%n: index) {
  // expected-error@+1 {{empty block: expect at least a terminator}}
  "tile.for_kv"(%n, %n) <{step = 64 : i64}> ({
  }, {
  ^bb0(%kv: index, %partial: i1):
  }) : (index, index) -> ()
  return
}

// -----

func.func @body_arguments(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects a body with an index, an i1 and the loop-carried tiles}}
  "tile.for_kv"(%n, %n) <{step = 64 : i64}> ({
  }, {
  ^bb0(%kv: index, %partial: i32):
    tile.yield
  }) : (index, index) -> ()
  return
}

// -----

func.func @no_body_arguments(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects a body with an index, an i1 and the loop-carried tiles}}
  "tile.for_kv"(%n, %n) <{step = 64 : i64}> ({
  }, {
    tile.yield
  }) : (index, index) -> ()
  return
}

// -----

func.func @yielded(%n: index, %x: !tile.tile<4xf32>, %y: !tile.tile<8xf32>) {
  // expected-error@+1 {{'tile.for_kv' op expects initial, yielded and resulting tiles of the same types}}
  %r = tile.for_kv %kv, %partial = %n to %n step 64 iter_args(%a = %x) : (!tile.tile<4xf32>) {
    tile.yield %y : !tile.tile<8xf32>
  }
  return
}

// -----

func.func @lists_of_nothing(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects a classify region, which lists are made by}}
  tile.for_kv %kv, %partial = %n to %n step 64 lists {
    tile.yield
  }
  return
}

// -----

func.func @classify_arguments(%n: index) {
  // expected-error@+1 {{expected the first key of a block and its end}}
  tile.for_kv %kv, %partial = %n to %n step 64 classify (%k0) {
    tile.yield
  } {
    tile.yield
  }
  return
}

// -----

func.func @classify_argument_types(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects a classify region with two index arguments}}
  "tile.for_kv"(%n, %n) <{step = 64 : i64}> ({
  ^bb0(%k0: index, %k1: i32):
    tile.yield %k1 : i32
  }, {
  ^bb0(%kv: index, %partial: i1):
    tile.yield
  }) : (index, index) -> ()
  return
}

// -----

func.func @classify_result(%n: index) {
  // expected-error@+1 {{'tile.for_kv' op expects its classify region to yield i32}}
  tile.for_kv %kv, %partial = %n to %n step 64 classify (%k0, %k1) {
    tile.yield %k0 : index
  } {
    tile.yield
  }
  return
}

// -----

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

func.func @load_columns(%t: !attn.tensor<[B, Hq, Sq, 64], f32>, %i: index) {
  // expected-error@+1 {{'tile.load' op expects a tile with the last extent and element type of '!attn.tensor<[B, Hq, Sq, 64], f32>', found '!tile.tile<8x32xf32>'}}
  %r = tile.load %t[%i, %i, %i] : !attn.tensor<[B, Hq, Sq, 64], f32> -> !tile.tile<8x32xf32>
  return
}

// -----

func.func @load_element(%t: !attn.tensor<[B, Hq, Sq, 64], f32>, %i: index) {
  // expected-error@+1 {{'tile.load' op expects a tile with the last extent and element type of}}
  %r = tile.load %t[%i, %i, %i] : !attn.tensor<[B, Hq, Sq, 64], f32> -> !tile.tile<8x64xbf16>
  return
}

// -----

func.func @store_rank(%x: !tile.tile<8xf32>, %t: !attn.tensor<[B, Hq, Sq, 64], f32>, %i: index) {
  // expected-error@+1 {{'tile.store' op expects a tensor of rank 3, found '!attn.tensor<[B, Hq, Sq, 64], f32>'}}
  tile.store %x, %t[%i, %i, %i] : !tile.tile<8xf32>, !attn.tensor<[B, Hq, Sq, 64], f32>
  return
}

// -----

func.func @store_columns(%x: !tile.tile<8x32xf32>, %t: !attn.tensor<[B, Hq, Sq, 64], f32>, %i: index) {
  // expected-error@+1 {{'tile.store' op expects a tile with the last extent of '!attn.tensor<[B, Hq, Sq, 64], f32>', found '!tile.tile<8x32xf32>'}}
  tile.store %x, %t[%i, %i, %i] : !tile.tile<8x32xf32>, !attn.tensor<[B, Hq, Sq, 64], f32>
  return
}

// -----

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

func.func @factors(%x: !tile.tile<8x32xf32>, %f: !tile.tile<4xf32>) {
  // expected-error@+1 {{'tile.scale_rows' op expects one factor for each of 8 rows, found '!tile.tile<4xf32>'}}
  %r = tile.scale_rows %x by %f : !tile.tile<8x32xf32>, !tile.tile<4xf32>
  return
}

// -----

func.func @dot_rank(%x: !tile.tile<8xf32>, %y: !tile.tile<8x8xf32>) {
  // expected-error@+1 {{'tile.dot' op expects tiles of rank 2}}
  %r = tile.dot %x, %y : !tile.tile<8xf32>, !tile.tile<8x8xf32> -> !tile.tile<8x8xf32>
  return
}

// -----

func.func @dot_contraction(%x: !tile.tile<8x16xf32>, %y: !tile.tile<16x32xf32>) {
  // expected-error@+1 {{'tile.dot' op expects lhs and rhs to share the contracted extent, found 16 and 32}}
  %r = tile.dot %x, %y transpose_rhs : !tile.tile<8x16xf32>, !tile.tile<16x32xf32> -> !tile.tile<8x16xf32>
  return
}

// -----

func.func @dot_result(%x: !tile.tile<8x16xf32>, %y: !tile.tile<16x32xf32>) {
  // expected-error@+1 {{'tile.dot' op expects a result of 8 x 32 f32, found '!tile.tile<32x8xf32>'}}
  %r = tile.dot %x, %y : !tile.tile<8x16xf32>, !tile.tile<16x32xf32> -> !tile.tile<32x8xf32>
  return
}

// -----

func.func @dot_accumulates_in_f32(%x: !tile.tile<8x16xbf16>, %y: !tile.tile<16x32xbf16>) {
  // expected-error@+1 {{'tile.dot' op expects a result of 8 x 32 f32, found '!tile.tile<8x32xbf16>'}}
  %r = tile.dot %x, %y : !tile.tile<8x16xbf16>, !tile.tile<16x32xbf16> -> !tile.tile<8x32xbf16>
  return
}

// -----

func.func @dot_acc(%x: !tile.tile<8x16xf32>, %y: !tile.tile<16x32xf32>, %a: !tile.tile<32x8xf32>) {
  // expected-error@+1 {{'tile.dot' op expects acc of type '!tile.tile<8x32xf32>', found '!tile.tile<32x8xf32>'}}
  %r = tile.dot %x, %y acc %a : !tile.tile<32x8xf32> : !tile.tile<8x16xf32>, !tile.tile<16x32xf32> -> !tile.tile<8x32xf32>
  return
}

// -----

func.func @map_rank(%x: !tile.tile<8xf32>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects an f32 tile of rank 2, found '!tile.tile<8xf32>'}}
  %r = tile.map %x at (%i, %i) : !tile.tile<8xf32> (%s, %q, %k) {
    tile.yield %s : f32
  }
  return
}

// -----

func.func @map_element(%x: !tile.tile<8x16xbf16>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects an f32 tile of rank 2, found '!tile.tile<8x16xbf16>'}}
  %r = tile.map %x at (%i, %i) : !tile.tile<8x16xbf16> (%s, %q, %k) {
    tile.yield %s : f32
  }
  return
}

// -----

func.func @map_arguments(%x: !tile.tile<8x16xf32>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects region arguments of types 'f32', 'i32', 'i32'}}
  %r = tile.map %x at (%i, %i) : !tile.tile<8x16xf32> (%s, %q) {
    tile.yield %s : f32
  }
  return
}

// -----

func.func @map_result(%x: !tile.tile<8x16xf32>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects its region to yield 'f32'}}
  %r = tile.map %x at (%i, %i) : !tile.tile<8x16xf32> (%s, %q, %k) {
    tile.yield %q : i32
  }
  return
}

// -----

func.func @mask_arguments(%x: !tile.tile<8x16xf32>, %i: index, %p: i1) {
  // expected-error@+1 {{'tile.mask' op expects region arguments of types 'i32', 'i32'}}
  %r = tile.mask %x at (%i, %i) limit %i partial %p : !tile.tile<8x16xf32> (%s, %q, %k) {
    tile.yield %p : i1
  }
  return
}

// -----

func.func @mask_result(%x: !tile.tile<8x16xf32>, %i: index, %p: i1) {
  // expected-error@+1 {{'tile.mask' op expects its region to yield 'i1'}}
  %r = tile.mask %x at (%i, %i) limit %i partial %p : !tile.tile<8x16xf32> (%q, %k) {
    tile.yield %q : i32
  }
  return
}

// -----

func.func @mask_without_region(%x: !tile.tile<8x16xf32>, %i: index, %p: i1) {
  // expected-error@+1 {{'tile.mask' op expects a region exactly where it has a partial operand}}
  %r = "tile.mask"(%x, %i, %i, %i, %p) <{operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0>}> ({
  }) : (!tile.tile<8x16xf32>, index, index, index, i1) -> !tile.tile<8x16xf32>
  return
}

// -----

func.func @mask_without_partial(%x: !tile.tile<8x16xf32>, %i: index, %p: i1) {
  // expected-error@+1 {{'tile.mask' op expects a region exactly where it has a partial operand}}
  %r = "tile.mask"(%x, %i, %i, %i) <{operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0>}> ({
  ^bb0(%q: i32, %k: i32):
    tile.yield %p : i1
  }) : (!tile.tile<8x16xf32>, index, index, index) -> !tile.tile<8x16xf32>
  return
}

// -----

func.func @yield_outside() {
  // expected-error@+1 {{'tile.yield' op expects parent op to be one of 'tile.along_keys, tile.for_kv, tile.map, tile.mask'}}
  tile.yield
}

// -----

func.func @weights(%s: !tile.tile<8x16xf32>, %m: !tile.tile<8xf32>, %f: f32) {
  // expected-error@+1 {{'tile.online_softmax' op expects weights of the shape of the scores '!tile.tile<8x16xf32>', found '!tile.tile<16x8xf32>'}}
  %p, %m1, %l1, %a = tile.online_softmax %s, %m, %m factor %f : !tile.tile<8x16xf32>, !tile.tile<8xf32> -> !tile.tile<16x8xf32>
  return
}

// -----

func.func @statistics(%s: !tile.tile<8x16xf32>, %m: !tile.tile<16xf32>, %f: f32) {
  // expected-error@+1 {{'tile.online_softmax' op expects statistics of 8 rows, found '!tile.tile<16xf32>'}}
  %p, %m1, %l1, %a = tile.online_softmax %s, %m, %m factor %f : !tile.tile<8x16xf32>, !tile.tile<16xf32> -> !tile.tile<8x16xf32>
  return
}

// -----

func.func @normalize(%acc: !tile.tile<8x16xf32>, %m: !tile.tile<16xf32>, %f: f32) {
  // expected-error@+1 {{'tile.normalize' op expects statistics for the rows of '!tile.tile<8x16xf32>', found '!tile.tile<16xf32>'}}
  %o, %l, %max_scores = tile.normalize %acc, %m, %m factor %f : !tile.tile<8x16xf32>, !tile.tile<16xf32>
  return
}

// -----

func.func @beside_of_other_columns(%x: !tile.tile<8x16xf32>, %y: !tile.tile<8xi32>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects tiles beside '!tile.tile<8x16xf32>' to have its shape or one number for each of its columns, found '!tile.tile<8xi32>'}}
  %r = tile.map %x at (%i, %i) beside (%y : !tile.tile<8xi32>) : !tile.tile<8x16xf32> (%s, %q, %k, %id) {
    tile.yield %s : f32
  }
  return
}

// -----

func.func @beside_without_argument(%x: !tile.tile<8x16xf32>, %y: !tile.tile<16xi8>, %i: index) {
  // expected-error@+1 {{'tile.map' op expects region arguments of types 'f32', 'i32', 'i32', 'i32'}}
  %r = tile.map %x at (%i, %i) beside (%y : !tile.tile<16xi8>) : !tile.tile<8x16xf32> (%s, %q, %k) {
    tile.yield %s : f32
  }
  return
}

// -----

func.func @beside_without_region(%x: !tile.tile<8x16xf32>, %y: !tile.tile<16xi1>, %i: index) {
  // expected-error@+1 {{'tile.mask' op expects tiles beside only where it has a region}}
  %r = tile.mask %x at (%i, %i) limit %i beside (%y : !tile.tile<16xi1>) : !tile.tile<8x16xf32>
  return
}

// -----

func.func @along_rank(%i: index) {
  // expected-error@+1 {{'tile.along_keys' op expects tiles of rank 1 and one length as results, found '!tile.tile<8x16xi32>'}}
  %r = tile.along_keys %i -> !tile.tile<8x16xi32> (%k) {
    tile.yield %k : i32
  }
  return
}

// -----

func.func @along_yield(%i: index) {
  // expected-error@+1 {{'tile.along_keys' op expects its region to yield 'f32'}}
  %r = tile.along_keys %i -> !tile.tile<16xf32> (%k) {
    tile.yield %k : i32
  }
  return
}

// -----

func.func @elements_indices(%t: !attn.tensor<[Hq, Sq, Skv], bf16>, %i: index) {
  // expected-error@+1 {{'tile.load_elements' op expects a tensor of at least two dimensions and an index for each before the last two, found 0 for}}
  %r = tile.load_elements %t[] at (%i, %i) : !attn.tensor<[Hq, Sq, Skv], bf16> -> !tile.tile<8x16xbf16>
  return
}

// -----

func.func @elements_type(%t: !attn.tensor<[Sq, Skv], bf16>, %i: index) {
  // expected-error@+1 {{'tile.load_elements' op expects a tile of rank 2 of the tensor's elements, found '!tile.tile<8x16xf32>'}}
  %r = tile.load_elements %t[] at (%i, %i) : !attn.tensor<[Sq, Skv], bf16> -> !tile.tile<8x16xf32>
  return
}
