// Functions that are not those of attn-to-classifier.
// RUN: heed-opt %s --split-input-file --tile-to-cpu=target=x86-64-v3 --verify-diagnostics

// expected-error @+1 {{expects the integers head_dim and value_head_dim in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = {head_dim = 16 : i64}} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}

// -----

// A coordinate too few.
#box = {head_dim = 16 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block whose last six arguments are a batch, a head and a box}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}

// -----

// Coordinates of a pair are i32.
#box = {head_dim = 16 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block of a batch, a head and a pair (the last four arguments, i32) that returns 'i1'}}
func.func @f_attends(%b: index, %h: index, %q: index, %kv: index) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

#box = {head_dim = 16 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block of a batch, a head and a pair (the last four arguments, i32) that returns 'i1'}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 1 : i32
  return %0 : i32
}

// -----

// No block.
#box = {head_dim = 16 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block of a batch, a head and a pair (the last four arguments, i32) that returns 'i1'}}
func.func private @f_attends(i32, i32, i32, i32) -> i1 attributes {heed.box = #box}
