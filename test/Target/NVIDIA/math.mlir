// heed-nvidia-math: one instruction a function, or, strictly, polynomials and exact divisions. Nothing is called.
// RUN: heed-opt %s --heed-nvidia-math | FileCheck %s
// RUN: heed-opt %s --heed-nvidia-math=strict | FileCheck %s --check-prefix=STRICT

// STRICT-NOT: inline_asm
// STRICT-NOT: fastmath
// STRICT-NOT: math.{{(exp|log|tanh|sin|cos|powf|rsqrt)}}

// CHECK-LABEL: func.func @exponentials(%arg0: f32
func.func @exponentials(%x: f32) -> (f32, f32, f32, f32) {
  // CHECK:      %[[LOG2E:.+]] = arith.constant 1.44269502 : f32
  // CHECK-NEXT: %[[Y:.+]] = arith.mulf %arg0, %[[LOG2E]]
  // CHECK-NEXT: {{.*}}"ex2.approx.ftz.f32 $0, $1;", "=f,f" %[[Y]]
  %a = math.exp %x : f32
  // CHECK-NEXT: {{.*}}"ex2.approx.ftz.f32 $0, $1;", "=f,f" %arg0
  %b = math.exp2 %x : f32
  // CHECK-NEXT: %[[LOG2:[0-9]+]] = {{.*}}"lg2.approx.ftz.f32 $0, $1;", "=f,f" %arg0
  // CHECK-NEXT: %[[LN2:.+]] = arith.constant 0.693147182 : f32
  // CHECK-NEXT: arith.mulf %[[LOG2]], %[[LN2]]
  %c = math.log %x : f32
  // CHECK-NEXT: {{.*}}"lg2.approx.ftz.f32 $0, $1;", "=f,f" %arg0
  %d = math.log2 %x : f32
  return %a, %b, %c, %d : f32, f32, f32, f32
}

// CHECK-LABEL: func.func @others(
func.func @others(%x: f32) -> (f32, f32, f32) {
  // CHECK: {{.*}}"tanh.approx.f32 $0, $1;"
  %a = math.tanh %x : f32
  // CHECK: {{.*}}"sqrt.approx.ftz.f32 $0, $1;"
  %b = math.sqrt %x : f32
  // CHECK: {{.*}}"rsqrt.approx.ftz.f32 $0, $1;"
  %c = math.rsqrt %x : f32
  return %a, %b, %c : f32, f32, f32
}

// The argument is brought to [-pi, pi] first: x - 2 pi round(x / 2 pi), 2 pi in two parts.
// CHECK-LABEL: func.func @angles(%arg0: f32
func.func @angles(%x: f32) -> (f32, f32) {
  // CHECK:      %[[TURNS:.+]] = arith.mulf %arg0, %{{.+}} : f32
  // CHECK-NEXT: %[[N:.+]] = math.roundeven %[[TURNS]]
  // CHECK-NEXT: %[[HIGH:.+]] = arith.constant -6.28318548 : f32
  // CHECK-NEXT: %[[Y:.+]] = math.fma %[[N]], %[[HIGH]], %arg0
  // CHECK-NEXT: %[[LOW:.+]] = arith.constant 1.74845553E-7 : f32
  // CHECK-NEXT: %[[Z:.+]] = math.fma %[[N]], %[[LOW]], %[[Y]]
  // CHECK-NEXT: {{.*}}"sin.approx.ftz.f32 $0, $1;", "=f,f" %[[Z]]
  %a = math.sin %x : f32
  // CHECK: math.roundeven
  // CHECK: {{.*}}"cos.approx.ftz.f32 $0, $1;"
  %b = math.cos %x : f32
  return %a, %b : f32, f32
}

// CHECK-LABEL: func.func @arithmetic(
func.func @arithmetic(%x: f32, %y: f32) -> (f32, f32, f32) {
  // CHECK:  {{.*}}"lg2.approx.ftz.f32
  // CHECK:  {{.*}}"ex2.approx.ftz.f32
  %a = math.powf %x, %y : f32
  // CHECK:  arith.divf %{{.+}}, %{{.+}} fastmath<arcp,contract,afn> : f32
  %b = arith.divf %x, %y : f32
  // What LLVM has instructions for stays.
  // CHECK:  math.floor
  %c = math.floor %x : f32
  return %a, %b, %c : f32, f32, f32
}
