//===-- Latency.cpp - What calls cost ---------------------------*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeLaunch.h"
#include "heed-c/Runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

static void empty(void *, int64_t, int32_t) {}

/// Computes for about `context` microseconds of an otherwise idle core: a fixed number of steps,
/// not a fixed time.
static double stepsPerMicrosecond;
static void work(void *context, int64_t, int32_t) {
  double steps = *static_cast<double *>(context) * stepsPerMicrosecond;
  double x = 0; // at 1, a fixed point, compilers see through the loop
  for (int64_t i = 0; i < int64_t(steps); ++i)
    x = x * 0.999999 + 1e-6;
  asm volatile("" ::"r"(&x) : "memory");
}

struct Times {
  double best, median, p95;
};

template <typename Body>
static Times measure(int rounds, int idleMicroseconds, Body body) {
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    if (idleMicroseconds)
      std::this_thread::sleep_for(std::chrono::microseconds(idleMicroseconds));
    auto start = Clock::now();
    body();
    times.push_back(microseconds(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  return {times[0], times[times.size() / 2], times[times.size() * 95 / 100]};
}

static void print(const char *what, Times t) {
  std::printf("%-58s best %8.2f  median %8.2f  p95 %8.2f us\n", what, t.best, t.median, t.p95);
}

int main() {
  {
    stepsPerMicrosecond = 1;
    double steps = 1e6;
    Times t = measure(20, 0, [&] { work(&steps, 0, 0); });
    stepsPerMicrosecond = 1e6 / t.best;
    std::printf("%.1f steps in a microsecond\n", stepsPerMicrosecond);
  }
  auto run = [](int64_t tasks, int threads, double each) {
    return [=]() mutable { heed_parallel_for(tasks, threads, each > 0 ? work : empty, &each); };
  };
  print("2 empty tasks, back to back", measure(20000, 0, run(2, 2, 0)));
  print("2 empty tasks, after 5 ms idle", measure(200, 5000, run(2, 2, 0)));
  print("1000 empty tasks, back to back", measure(2000, 0, run(1000, 2, 0)));
  for (int tasks : {64, 512}) {
    char text[80];
    Times one = measure(100, 5000, run(tasks, 1, 5)), two = measure(100, 5000, run(tasks, 2, 5));
    std::snprintf(text, sizeof(text), "%d tasks of 5 us, after 5 ms idle, 1 thread", tasks);
    print(text, one);
    std::snprintf(text, sizeof(text), "%d tasks of 5 us, after 5 ms idle, 2 threads", tasks);
    print(text, two);
    std::printf("    speed-up: median %.2f, best %.2f\n", one.median / two.median,
                one.best / two.best);
  }

  // Our side of a launch: the fake driver does next to nothing.
  setenv("HEED_CUDA_DRIVER", HEED_FAKE_CUDA, 1);
  fake::Launch launch;
  launch.withRowNumbers();
  fake::setCurrent(fake::cuda().primaries[0]);
  for (bool isPersistent : {false, true}) {
    launch.codes[0].blocks_per_sm = isPersistent;
    if (launch.run() != HEED_OK)
      return std::printf("%s\n", heed_last_error()), 1;
    fake::cuda().recordLaunches = false;
    // A thousand at a time: one is too short for the clock.
    Times t = measure(200, 0, [&] {
      for (int i = 0; i < 1000; ++i)
        heed_launch(&launch.kernel, &launch.call, nullptr);
    });
    fake::cuda().recordLaunches = true;
    print(isPersistent ? "1000 launches, 4 maps, persistent" : "1000 launches, 4 maps", t);
  }
}
