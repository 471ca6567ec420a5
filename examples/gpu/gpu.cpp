// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// One object for GPUs and the CPU. The program computes ALiBi attention on both, checks some rows of
// either result against a plain loop, and says how long the GPU takes. It needs no CUDA toolkit: memory
// and streams come from the driver, which is found at run time, as libheed_runtime finds it.
//
//   heedc examples/alibi.heed --target=sm_90a,sm_80,native --dtype=bf16 --head-dim=128 -o alibi.o --header=alibi.h
//   c++ -std=c++17 -O2 -I. -Iinclude examples/gpu/gpu.cpp alibi.o -Lbuild/lib -lheed_runtime -ldl -o gpu
//   ./gpu [LENGTH]
//
// Ends with status 0, 1 after an error, or 2 where there is no GPU.

#include "alibi.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr int64_t kBatch = 1, kHeads = 16, kKvHeads = 4, kHeadDim = 128;

[[noreturn]] void die(const char *what, const char *why) {
  std::fprintf(stderr, "%s: %s\n", what, why);
  std::exit(EXIT_FAILURE);
}

void check(heed_status status) {
  if (status != HEED_OK)
    die(heed_status_name(status), heed_last_error());
}

//===-- The CUDA driver ---------------------------------------------------===//

using DevicePtr = unsigned long long;
using Stream = void *;
using Event = void *;

/// The few functions of libcuda.so.1 that are used here; cuda.h declares them all. A program that uses the
/// CUDA runtime allocates with cudaMalloc, and passes its cudaStream_t.
struct Driver {
  int (*init)(unsigned);
  int (*deviceGet)(int *device, int ordinal);
  int (*deviceGetName)(char *name, int size, int device);
  int (*primaryContextRetain)(void **context, int device);
  int (*contextSetCurrent)(void *context);
  int (*memAlloc)(DevicePtr *pointer, size_t bytes);
  int (*memFree)(DevicePtr pointer);
  int (*copyToDevice)(DevicePtr to, const void *from, size_t bytes);
  int (*copyToHost)(void *to, DevicePtr from, size_t bytes);
  int (*streamCreate)(Stream *stream, unsigned flags);
  int (*streamSynchronize)(Stream stream);
  int (*eventCreate)(Event *event, unsigned flags);
  int (*eventRecord)(Event event, Stream stream);
  int (*eventElapsedTime)(float *milliseconds, Event start, Event end);
  int (*getErrorString)(int result, const char **text);

  Driver() {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library)
      die("the CUDA driver", dlerror());
    auto find = [&](auto &function, const char *name) {
      void *symbol = dlsym(library, name);
      if (!symbol)
        die("the CUDA driver", dlerror());
      std::memcpy(&function, &symbol, sizeof symbol); // a cast from void * is not everywhere allowed
    };
    find(init, "cuInit");
    find(deviceGet, "cuDeviceGet");
    find(deviceGetName, "cuDeviceGetName");
    find(primaryContextRetain, "cuDevicePrimaryCtxRetain");
    find(contextSetCurrent, "cuCtxSetCurrent");
    find(memAlloc, "cuMemAlloc_v2");
    find(memFree, "cuMemFree_v2");
    find(copyToDevice, "cuMemcpyHtoD_v2");
    find(copyToHost, "cuMemcpyDtoH_v2");
    find(streamCreate, "cuStreamCreate");
    find(streamSynchronize, "cuStreamSynchronize");
    find(eventCreate, "cuEventCreate");
    find(eventRecord, "cuEventRecord");
    find(eventElapsedTime, "cuEventElapsedTime");
    find(getErrorString, "cuGetErrorString");
  }

  void check(int result) const {
    const char *text = nullptr;
    if (result != 0)
      die("CUDA", getErrorString(result, &text) == 0 && text ? text : "an unknown error");
  }
};

//===-- Numbers -----------------------------------------------------------===//

using BF16 = uint16_t;

BF16 narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return BF16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float widen(BF16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

std::vector<BF16> randomNumbers(int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<BF16> numbers(static_cast<size_t>(count));
  for (BF16 &x : numbers)
    x = narrow(normal(engine));
  return numbers;
}

/// (kBatch, heads, length, kHeadDim), in the CPU's memory or a GPU's.
heed_tensor tensorOf(void *data, int64_t heads, int64_t length) {
  const int64_t shape[] = {kBatch, heads, length, kHeadDim};
  return heed_dense_tensor(data, HEED_BF16, 4, shape);
}

struct Problem {
  int64_t length;
  std::vector<BF16> query, key, value;
  std::vector<float> slopes;
};

/// The largest error of some rows, against the formula of examples/alibi.heed in double.
double largestError(const Problem &p, const std::vector<BF16> &output) {
  double largest = 0;
  for (int64_t head : {int64_t(0), kHeads - 1})
    for (int64_t q : {int64_t(0), std::min(int64_t(1), p.length - 1), p.length / 2, p.length - 1}) {
      auto row = [&](const std::vector<BF16> &x, int64_t h, int64_t i) { return &x[size_t((h * p.length + i) * kHeadDim)]; };
      int64_t kvHead = head / (kHeads / kKvHeads);
      std::vector<double> sums(kHeadDim);
      double total = 0;
      for (int64_t kv = 0; kv <= q; ++kv) {
        double dot = 0;
        for (int64_t d = 0; d < kHeadDim; ++d)
          dot += double(widen(row(p.query, head, q)[d])) * widen(row(p.key, kvHead, kv)[d]);
        double weight = std::exp(dot / std::sqrt(double(kHeadDim)) + double(p.slopes[size_t(head)]) * double(kv - q));
        total += weight;
        for (int64_t d = 0; d < kHeadDim; ++d)
          sums[size_t(d)] += weight * widen(row(p.value, kvHead, kv)[d]);
      }
      for (int64_t d = 0; d < kHeadDim; ++d) {
        double error = std::fabs(widen(row(output, head, q)[d]) - sums[size_t(d)] / total);
        largest = std::isnan(error) ? INFINITY : std::fmax(largest, error);
      }
    }
  return largest;
}

bool report(const char *where, double error) {
  bool isRight = error < 0.02; // weights and results have the 8 bits of bf16
  std::printf("%s: largest error of 8 rows %.1e: %s\n", where, error, isRight ? "ok" : "WRONG");
  return isRight;
}

//===-- The two ways to call ----------------------------------------------===//

bool runOnCPU(Problem &p) {
  std::vector<BF16> result(p.query.size(), 0x7FC0); // NaN: what is not written shows
  heed_tensor query = tensorOf(p.query.data(), kHeads, p.length), key = tensorOf(p.key.data(), kKvHeads, p.length);
  heed_tensor value = tensorOf(p.value.data(), kKvHeads, p.length), output = tensorOf(result.data(), kHeads, p.length);
  heed_tensor slope = heed_dense_tensor(p.slopes.data(), HEED_F32, 1, &kHeads);
  alibi_bf16_d128_params params = alibi_bf16_d128_default_params();
  params.slope = &slope;
  check(alibi_bf16_d128(&query, &key, &value, &output, /*lse=*/nullptr, /*scale=*/NAN, &params, /*threads=*/0));
  return report("CPU", largestError(p, result));
}

bool runOnGPU(const Problem &p) {
  Driver cuda;
  int device = 0;
  char name[256] = "";
  void *context = nullptr;
  Stream stream = nullptr;
  cuda.check(cuda.init(0));
  cuda.check(cuda.deviceGet(&device, 0));
  cuda.check(cuda.deviceGetName(name, sizeof name, device));
  cuda.check(cuda.primaryContextRetain(&context, device));
  cuda.check(cuda.contextSetCurrent(context));
  cuda.check(cuda.streamCreate(&stream, /*CU_STREAM_DEFAULT: behind the copies below*/ 0));

  std::vector<DevicePtr> allocated;
  auto upload = [&](const void *data, size_t bytes) {
    DevicePtr pointer = 0;
    cuda.check(cuda.memAlloc(&pointer, bytes));
    cuda.check(cuda.copyToDevice(pointer, data, bytes));
    allocated.push_back(pointer);
    return reinterpret_cast<void *>(static_cast<uintptr_t>(pointer));
  };
  auto uploadNumbers = [&](const auto &numbers) { return upload(numbers.data(), numbers.size() * sizeof numbers[0]); };
  std::vector<BF16> result(p.query.size(), 0x7FC0);
  heed_tensor query = tensorOf(uploadNumbers(p.query), kHeads, p.length);
  heed_tensor key = tensorOf(uploadNumbers(p.key), kKvHeads, p.length);
  heed_tensor value = tensorOf(uploadNumbers(p.value), kKvHeads, p.length);
  heed_tensor output = tensorOf(uploadNumbers(result), kHeads, p.length);
  heed_tensor slope = heed_dense_tensor(uploadNumbers(p.slopes), HEED_F32, 1, &kHeads); // captured: on the GPU, too
  alibi_bf16_d128_params params = alibi_bf16_d128_default_params();
  params.slope = &slope;
  auto launch = [&] {
    check(alibi_bf16_d128_launch(&query, &key, &value, &output, /*lse=*/nullptr, /*scale=*/NAN, &params, stream));
  };

  launch(); // the first one loads the code
  cuda.check(cuda.streamSynchronize(stream));
  constexpr int kLaunches = 20;
  Event start = nullptr, end = nullptr;
  cuda.check(cuda.eventCreate(&start, 0));
  cuda.check(cuda.eventCreate(&end, 0));
  cuda.check(cuda.eventRecord(start, stream));
  for (int i = 0; i < kLaunches; ++i)
    launch();
  cuda.check(cuda.eventRecord(end, stream));
  cuda.check(cuda.streamSynchronize(stream));
  float milliseconds = 0;
  cuda.check(cuda.eventElapsedTime(&milliseconds, start, end));
  milliseconds /= kLaunches;

  cuda.check(cuda.copyToHost(result.data(), reinterpret_cast<uintptr_t>(output.data), result.size() * sizeof result[0]));
  for (DevicePtr pointer : allocated)
    cuda.check(cuda.memFree(pointer));
  const heed_gpu_code *code = heed_select_gpu_code(&alibi_bf16_d128_kernel, 0);
  double pairs = double(kBatch * kHeads) * double(p.length) * double(p.length + 1) / 2;
  std::printf("%s, code for %s: %.3f ms, %.0f TFLOP/s\n", name, code ? code->module.target : "another GPU", double(milliseconds),
              4 * double(kHeadDim) * pairs / double(milliseconds) * 1e-9);
  return report("GPU", largestError(p, result));
}

} // namespace

int main(int argc, char **argv) {
  Problem p;
  p.length = argc > 1 ? std::atoll(argv[1]) : 1024;
  if (p.length < 1)
    die("LENGTH", "expected a number of at least 1");
  p.query = randomNumbers(kBatch * kHeads * p.length * kHeadDim, 1);
  p.key = randomNumbers(kBatch * kKvHeads * p.length * kHeadDim, 2);
  p.value = randomNumbers(kBatch * kKvHeads * p.length * kHeadDim, 3);
  for (int64_t h = 0; h < kHeads; ++h)
    p.slopes.push_back(std::exp2(-8.0f * float(h + 1) / float(kHeads)));

  bool isRight = runOnCPU(p);
  if (heed_gpu_count() == 0) {
    std::fflush(stdout);
    std::fprintf(stderr, "there is no GPU: %s\n", heed_last_error());
    return isRight ? 2 : EXIT_FAILURE;
  }
  isRight &= runOnGPU(p);
  return isRight ? EXIT_SUCCESS : EXIT_FAILURE;
}
