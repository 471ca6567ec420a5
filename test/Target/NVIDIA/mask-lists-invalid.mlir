// Functions that are not those of attn-to-classifier.
// RUN: heed-opt %s --split-input-file --classifier-to-nvidia --verify-diagnostics

// A mask without classes.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects a function 'f_classify' beside it}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// Classes by something other than a function.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
module @f_classify {}
// expected-error @+1 {{expects a function 'f_classify' beside it}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// No attribute. The errors point to the function, which has lost its name to the kernel by then.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects the integer head_dim in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// An attribute of another form.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects the integer head_dim in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = [16, 16]} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// Each integer is needed.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects the integer value_head_dim in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64}} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects the integer uses_batch in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = {head_dim = 16 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects the integer uses_head in 'heed.box'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = {head_dim = 16 : i64, uses_batch = 0 : i64, value_head_dim = 16 : i64}} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// The mask of a pair has the attribute too.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
// expected-error @+1 {{expects the integer head_dim in 'heed.box'}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// Not an integer.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
// expected-error @+1 {{expects the integer value_head_dim in 'heed.box'}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = "16"}} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// A coordinate too few.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block whose last 6 arguments are coordinates of type 'index'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// Coordinates are indices, and come last.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block whose last 6 arguments are coordinates of type 'index'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index, %width: i32) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// No block.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block whose last 6 arguments are coordinates of type 'index'}}
func.func private @f_classify(index, index, index, index, index, index) -> i32 attributes {heed.box = #box}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// More than one.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
// expected-error @+1 {{expects one block whose last 6 arguments are coordinates of type 'index'}}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  llvm.br ^end
^end:
  %0 = arith.constant 2 : i32
  return %0 : i32
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

// The same of pairs: a coordinate too few, one of another type, and two blocks.
#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
// expected-error @+1 {{expects one block whose last 4 arguments are coordinates of type 'i32'}}
func.func @f_attends(%b: i32, %h: i32, %q: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
// expected-error @+1 {{expects one block whose last 4 arguments are coordinates of type 'i32'}}
func.func @f_attends(%b: i32, %h: i32, %q: index, %kv: i32) -> i1 attributes {heed.box = #box} {
  %0 = arith.constant true
  return %0 : i1
}

// -----

#box = {head_dim = 16 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 16 : i64}
func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = #box} {
  %0 = arith.constant 2 : i32
  return %0 : i32
}
// expected-error @+1 {{expects one block whose last 4 arguments are coordinates of type 'i32'}}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = #box} {
  llvm.br ^end
^end:
  %0 = arith.constant true
  return %0 : i1
}

// -----

func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}} { // expected-error {{expects to return 'i32'}}
  return
}
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}} {
  %keep = arith.constant true
  return %keep : i1
}

// -----

func.func @f_classify(%b: index, %h: index, %q0: index, %q1: index, %k0: index, %k1: index) -> i32 attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}} {
  %full = arith.constant 2 : i32
  return %full : i32
}
func.func @f_attends(%w: i32, %b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = {head_dim = 64 : i64, uses_batch = 0 : i64, uses_head = 0 : i64, value_head_dim = 64 : i64}} { // expected-error {{expects the captures of the function that classifies boxes}}
  %keep = arith.constant true
  return %keep : i1
}
