// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// The attention of a small inference server: two kernels are linked in, a queue holds prompts of
// different lengths, and a few threads take them from it. Neither Python nor LLVM is involved, and no
// length was known when the kernels were compiled.
//
//   heedc examples/causal.heed --dtype=bf16 --head-dim=128 --symbol=llama -o llama.o --header=llama.h
//   heedc examples/gemma2_softcap.heed --dtype=bf16 --head-dim=256 --symbol=gemma2 -o gemma2.o --header=gemma2.h
//   c++ -std=c++17 -I. -Iinclude examples/server/server.cpp llama.o gemma2.o -Lbuild/lib -lheed_runtime -pthread -o server
//   ./server [REQUESTS] [WORKERS]

#include "gemma2.h"
#include "llama.h"

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

enum class Model { Llama, Gemma2 };

struct Request {
  int id;
  Model model;
  int64_t length;
};

/// A queue that ends when it is closed and empty.
class Queue {
public:
  void push(Request request) {
    std::lock_guard<std::mutex> lock(mutex);
    requests.push_back(request);
    changed.notify_one();
  }
  void close() {
    std::lock_guard<std::mutex> lock(mutex);
    isClosed = true;
    changed.notify_all();
  }
  bool pop(Request &request) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return isClosed || !requests.empty(); });
    if (requests.empty())
      return false;
    request = requests.front();
    requests.pop_front();
    return true;
  }

private:
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Request> requests;
  bool isClosed = false;
};

uint16_t toBF16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float fromBF16(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// An array (1, heads, length, headDim) in the layout of a projection's result: (length, heads, headDim).
struct Activations {
  std::vector<uint16_t> data;
  heed_tensor tensor;

  Activations(int64_t heads, int64_t length, int64_t headDim) : data(heads * length * headDim) {
    int64_t shape[] = {1, heads, length, headDim};
    tensor = heed_dense_tensor(data.data(), HEED_BF16, 4, shape);
    tensor.strides[1] = headDim;
    tensor.strides[2] = heads * headDim;
  }
  Activations(const Activations &) = delete;

  void randomize(std::mt19937 &generator) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (uint16_t &x : data)
      x = toBF16(uniform(generator));
  }
};

struct Totals {
  int64_t served = 0, tokens = 0;
  double seconds = 0;
  bool failed = false;
};

/// Serves one request. The first token sees itself only: its output must be its value.
bool serve(const Request &request, Totals &totals) {
  bool isLlama = request.model == Model::Llama;
  int64_t heads = isLlama ? 32 : 16, kvHeads = 8, headDim = isLlama ? 128 : 256;
  std::mt19937 generator(request.id);
  Activations query(heads, request.length, headDim), key(kvHeads, request.length, headDim);
  Activations value(kvHeads, request.length, headDim), output(heads, request.length, headDim);
  for (Activations *input : {&query, &key, &value})
    input->randomize(generator);

  auto start = std::chrono::steady_clock::now();
  heed_status status;
  if (isLlama) {
    status = llama(&query.tensor, &key.tensor, &value.tensor, &output.tensor, nullptr, NAN, /*threads=*/1);
  } else {
    gemma2_params params = gemma2_default_params();
    params.window = 512;
    status = gemma2(&query.tensor, &key.tensor, &value.tensor, &output.tensor, nullptr, 1 / std::sqrt(256.0),
                    &params, /*threads=*/1);
  }
  totals.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (status != HEED_OK) {
    std::fprintf(stderr, "request %d: %s: %s\n", request.id, heed_status_name(status), heed_last_error());
    return false;
  }
  for (int64_t head = 0; head < heads; ++head) {
    float expected = fromBF16(value.data[head / (heads / kvHeads) * headDim]);
    float found = fromBF16(output.data[head * headDim]);
    if (!(std::fabs(found - expected) <= 0.01f)) {
      std::fprintf(stderr, "request %d: head %d: expected %g, found %g\n", request.id, int(head), expected, found);
      return false;
    }
  }
  ++totals.served;
  totals.tokens += request.length;
  return true;
}

int argument(int argc, char **argv, int index, int fallback) {
  int value = argc > index ? std::atoi(argv[index]) : fallback;
  if (value >= 1)
    return value;
  std::fprintf(stderr, "usage: server [REQUESTS] [WORKERS]\n");
  std::exit(EXIT_FAILURE);
}

} // namespace

int main(int argc, char **argv) {
  int numRequests = argument(argc, argv, 1, 40), numWorkers = argument(argc, argv, 2, 2);
  if (!heed_select_code(&llama_kernel) || !heed_select_code(&gemma2_kernel)) {
    std::fprintf(stderr, "the kernels have no code for this CPU\n");
    return EXIT_FAILURE;
  }
  std::printf("kernels for %s and %s\n", heed_select_code(&llama_kernel)->target,
              heed_select_code(&gemma2_kernel)->target);

  Queue queue;
  std::vector<Totals> totals(numWorkers);
  std::vector<std::thread> workers;
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < numWorkers; ++i)
    workers.emplace_back([&queue, &mine = totals[i]] {
      Request request;
      while (queue.pop(request))
        mine.failed |= !serve(request, mine);
    });
  std::mt19937 generator(7);
  std::uniform_int_distribution<int64_t> length(1, 1000);
  for (int id = 0; id < numRequests; ++id)
    queue.push({id, id % 2 ? Model::Gemma2 : Model::Llama, length(generator)});
  queue.close();
  for (std::thread &worker : workers)
    worker.join();
  double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  Totals sum;
  for (const Totals &each : totals) {
    sum.served += each.served;
    sum.tokens += each.tokens;
    sum.seconds += each.seconds;
    sum.failed |= each.failed;
  }
  std::printf("%lld requests, %lld tokens, %d workers: %.2f s, %.0f tokens/s; %.2f s in attention\n",
              (long long)sum.served, (long long)sum.tokens, numWorkers, elapsed, sum.tokens / elapsed, sum.seconds);
  return sum.failed || sum.served != numRequests ? EXIT_FAILURE : EXIT_SUCCESS;
}
