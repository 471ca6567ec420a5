// A level that there is not, for functions of boxes.
// RUN: not heed-opt %s --tile-to-cpu=target=pentium 2>&1 | FileCheck %s

// CHECK: error: unknown target 'pentium'
func.func @f_attends(%b: i32, %h: i32, %q: i32, %kv: i32) -> i1 attributes {heed.box = {head_dim = 16 : i64, value_head_dim = 16 : i64}} {
  %0 = arith.constant true
  return %0 : i1
}
