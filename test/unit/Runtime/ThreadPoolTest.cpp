//===-- ThreadPoolTest.cpp - heed_parallel_for under all circumstances ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "heed-c/Runtime.h"

#include <atomic>
#include <chrono>
#include <gtest/gtest.h>
#include <memory>
#include <sched.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

/// Calls heed_parallel_for with a lambda (task, thread).
template <typename Body>
void parallelFor(int64_t tasks, int32_t threads, Body body) {
  heed_parallel_for(
      tasks, threads,
      [](void *context, int64_t task, int32_t thread) {
        (*static_cast<Body *>(context))(task, thread);
      },
      &body);
}

/// For tasks that wait for each other. Not sched_yield: some kernels (Linux 6.18) charge a time
/// slice for each, so that a loop of them starves its thread for long when the machine is busy.
void pause() { std::this_thread::sleep_for(std::chrono::microseconds(20)); }

/// Runs `tasks` on `threads`; true when each ran exactly once and no thread index was in use twice
/// at a time.
bool runsEachOnce(int64_t tasks, int32_t threads) {
  std::unique_ptr<std::atomic<int>[]> counts(new std::atomic<int>[size_t(tasks)]());
  std::unique_ptr<std::atomic<bool>[]> inUse(new std::atomic<bool>[1024]());
  std::atomic<int> bad{0};
  parallelFor(tasks, threads, [&](int64_t task, int32_t thread) {
    if (thread < 0 || thread >= threads || inUse[thread].exchange(true)) {
      ++bad;
      return;
    }
    counts[task].fetch_add(1, std::memory_order_relaxed);
    inUse[thread] = false;
  });
  for (int64_t i = 0; i < tasks; ++i)
    bad += counts[i] != 1;
  return bad == 0;
}

TEST(ThreadPool, EachTaskOnce) {
  for (int32_t threads : {1, 2, 3, 4, 9})
    for (int64_t tasks : {1, 2, 3, 7, 16, 100, 1000, 50000})
      ASSERT_TRUE(runsEachOnce(tasks, threads)) << tasks << " tasks, " << threads << " threads";
}

TEST(ThreadPool, NothingToDo) {
  for (int64_t tasks : {0, -1})
    parallelFor(tasks, 4, [](int64_t, int32_t) { FAIL(); });
}

TEST(ThreadPool, OneThreadIsTheCallerInOrder) {
  std::thread::id self = std::this_thread::get_id();
  int64_t next = 0;
  parallelFor(100, 1, [&](int64_t task, int32_t thread) {
    EXPECT_EQ(task, next++);
    EXPECT_EQ(thread, 0);
    EXPECT_EQ(std::this_thread::get_id(), self);
  });
  EXPECT_EQ(next, 100);
}

TEST(ThreadPool, SeveralThreadsTakePart) {
  // Two tasks that wait for each other cannot both be the caller's.
  std::atomic<int> arrived{0};
  std::atomic<int> callers{0};
  std::thread::id self = std::this_thread::get_id();
  parallelFor(2, 2, [&](int64_t, int32_t thread) {
    ++arrived;
    while (arrived < 2)
      pause();
    callers += thread == 0;
    EXPECT_EQ(thread == 0, std::this_thread::get_id() == self);
  });
  EXPECT_EQ(callers, 1);
}

TEST(ThreadPool, DefaultNumberOfThreads) {
  heed_set_num_threads(3);
  std::atomic<int> arrived{0};
  parallelFor(3, 0, [&](int64_t, int32_t) {
    ++arrived;
    while (arrived < 3)
      pause();
  });
  EXPECT_EQ(arrived, 3);
  heed_set_num_threads(0);
}

TEST(ThreadPool, NestedCallsRunInline) {
  std::atomic<int> count{0};
  std::atomic<int> bad{0};
  parallelFor(20, 3, [&](int64_t, int32_t) {
    std::thread::id self = std::this_thread::get_id();
    parallelFor(10, 4, [&](int64_t, int32_t thread) {
      ++count;
      bad += thread != 0 || std::this_thread::get_id() != self;
    });
  });
  EXPECT_EQ(count, 200);
  EXPECT_EQ(bad, 0);
}

TEST(ThreadPool, ConcurrentCallers) {
  std::vector<std::thread> callers;
  std::atomic<int> bad{0};
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&bad, i] {
      for (int round = 0; round < 300; ++round)
        bad += !runsEachOnce(1 + (round * 7 + i) % 50, 2 + round % 3);
    });
  for (std::thread &caller : callers)
    caller.join();
  EXPECT_EQ(bad, 0);
}

TEST(ThreadPool, ManySmallCalls) {
  int64_t sum = 0, expected = 0;
  for (int round = 0; round < 20000; ++round) {
    int64_t tasks = 1 + round % 9;
    std::atomic<int64_t> local{0};
    parallelFor(tasks, 2 + round % 3, [&](int64_t task, int32_t) { local += task + round; });
    sum += local;
    expected += tasks * (tasks - 1) / 2 + tasks * round;
  }
  EXPECT_EQ(sum, expected);
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  for (int round = 0; round < 100; ++round) {
    usleep(500 + round % 7 * 100);
    std::atomic<int> arrived{0};
    parallelFor(2, 2, [&](int64_t, int32_t) {
      ++arrived;
      while (arrived < 2)
        pause();
    });
  }
}

TEST(ThreadPool, ResultsAreVisibleAfterwards) {
  std::vector<int> plain(1000);
  for (int round = 1; round <= 200; ++round) {
    parallelFor(1000, 3, [&](int64_t task, int32_t) { plain[task] += round; });
    for (int value : plain)
      ASSERT_EQ(value, round * (round + 1) / 2);
  }
}

TEST(ThreadPool, AfterFork) {
  ASSERT_TRUE(runsEachOnce(100, 3));
  for (int round = 0; round < 5; ++round) {
    pid_t child = fork();
    if (child == 0) {
      alarm(20); // a hang shall end
      bool good = runsEachOnce(100, 3) && runsEachOnce(1000, 4);
      std::atomic<int> arrived{0};
      parallelFor(2, 2, [&](int64_t, int32_t) {
        ++arrived;
        while (arrived < 2)
          pause();
      });
      _exit(good ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_TRUE(runsEachOnce(100, 3)); // the parent still has its workers
  }
}

TEST(ThreadPool, ForkWhileAnotherThreadOwnsThePool) {
  std::atomic<bool> stop{false};
  std::thread owner([&] {
    while (!stop)
      runsEachOnce(50, 3);
  });
  for (int round = 0; round < 20; ++round) {
    pid_t child = fork();
    if (child == 0) {
      alarm(20);
      // No allocation here: another thread may have held malloc's lock, which glibc repairs but
      // TSan does not.
      int counts[64] = {};
      parallelFor(64, 2, [&](int64_t task, int32_t) { ++counts[task]; });
      for (int count : counts)
        if (count != 1)
          _exit(1);
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  stop = true;
  owner.join();
}

TEST(ThreadPool, AffinityOfOne) {
  // In a child, so that the mask of this process stays.
  pid_t child = fork();
  if (child == 0) {
    alarm(20);
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof(all), &all);
    bool good = runsEachOnce(1000, 3);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof(one), &one);
    good = good && heed_get_num_threads() == 1;
    for (int round = 0; round < 50; ++round) {
      good = good && runsEachOnce(100, 3);
      usleep(200);
    }
    // A worker that takes part follows the mask, from the first time on that it is woken under it.
    std::atomic<bool> inside{false};
    for (int round = 0; round < 1000 && !inside; ++round) {
      usleep(1000);
      std::atomic<int> arrived{0};
      inside = true;
      parallelFor(2, 2, [&](int64_t, int32_t) {
        ++arrived;
        while (arrived < 2)
          pause();
        cpu_set_t mine;
        sched_getaffinity(0, sizeof(mine), &mine);
        if (!CPU_EQUAL(&mine, &one))
          inside = false;
      });
    }
    good = good && inside;
    sched_setaffinity(0, sizeof(all), &all);
    good = good && runsEachOnce(1000, 3);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(ThreadPool, MoreThreadsThanAllowed) {
  ASSERT_TRUE(runsEachOnce(200, 40));
  std::atomic<int> most{0};
  parallelFor(5000, 1 << 30, [&](int64_t, int32_t thread) {
    int seen = most;
    while (seen < thread && !most.compare_exchange_weak(seen, thread)) {
    }
  });
  EXPECT_LT(most, 1024);
}

} // namespace
