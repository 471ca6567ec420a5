//===-- ThreadPool.cpp - Threads that share the tasks of one call ---*- C++ -*-===//
//
// Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
// See LICENSE for license information.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

//
// One job runs at a time. Its tasks are cut into tickets, and the threads take tickets from one
// counter until none is left. Three properties shape the code:
//
//   * A job is over when its tickets are done, not when every worker has checked in: a worker that
//   the kernel runs
//     late would otherwise delay every call by up to a millisecond.
//   * Hence a late worker may look at the pool while the next job is being set up. The ticket word
//   therefore holds
//     the job's number next to the count of *remaining* tickets. A ticket is taken by
//     compare-and-swap; it succeeds only while that very job has tickets left, hence is not over,
//     hence its description has not been overwritten. A worker may read a half-written description,
//     but then its swap fails and it uses nothing of it.
//   * Workers that sleep are kept off the caller's CPU before they are woken. The kernel likes to
//   wake a thread where
//     its waker runs; there it would wait for the caller to finish, and load balancing takes
//     milliseconds to notice.
//
// Nothing here has a destructor: workers may run until the process is gone. The shared library is
// linked with -z nodelete so that dlclose does not take the code away from under them.
//
//===----------------------------------------------------------------------===//

#include "ThreadPool.h"
#include "Affinity.h"
#include "Wait.h"

#include <atomic>
#include <pthread.h>
#include <signal.h>

using namespace heed::runtime;

namespace {

/// How long an idle worker, or a caller that waits for the last ticket, spins before it sleeps.
constexpr int64_t spinNanoseconds = 70000;

/// Placing workers costs a system call for each. Machines with more CPUs than this have idle ones
/// to wake on.
constexpr int maxPlacedWorkers = 16;

/// A job number in the high half, a count in the low half.
uint64_t pack(uint32_t job, uint32_t count) { return uint64_t(job) << 32 | count; }
uint32_t jobOf(uint64_t word) { return uint32_t(word >> 32); }
uint32_t countOf(uint64_t word) { return uint32_t(word); }

/// The description of a job. Atomic because late workers may read while the next one is written.
struct Job {
  std::atomic<heed_task_fn> fn;
  std::atomic<void *> context;
  std::atomic<int64_t> numTasks;
  std::atomic<int64_t> tasksPerTicket;
  std::atomic<uint32_t> numTickets;
  std::atomic<int32_t> numThreads;
};

struct Pool {
  /// (job, tickets left): what threads compete for, alone on its cache line.
  alignas(128) std::atomic<uint64_t> tickets;
  /// Tickets done of the current job, and whether its caller sleeps on that.
  alignas(128) std::atomic<uint32_t> done;
  std::atomic<uint32_t> callerSleeps;
  /// (job, thread indices left): a worker takes one when it joins.
  alignas(128) std::atomic<uint64_t> seats;
  Job job;
  /// Changes whenever sleeping workers shall look for a job; they sleep on it.
  alignas(128) std::atomic<uint32_t> alarm;
  std::atomic<int32_t> sleepers;
  std::atomic<int64_t> spin;

  /// Held by the caller whose job runs; guards what follows.
  alignas(128) std::atomic<bool> busy;
  uint32_t lastJob;
  int numWorkers;
  pthread_t workers[maxThreads];
  /// Where the first numPlaced workers were told to run, and for which caller's CPU and mask.
  int numPlaced;
  int placedFor;
  int numCpus;
  CpuMask placedMask;
};

} // namespace

static Pool pool;
static std::atomic<heed_parallel_for_fn> hostParallelFor;

/// Inside a task. Calls from there run inline.
static __thread bool insideTask;

//===----------------------------------------------------------------------===//
// Taking part in a job
//===----------------------------------------------------------------------===//

/// Runs tickets of `number` until none is left, as thread `thread`.
static void runTickets(uint32_t number, int32_t thread) {
  heed_task_fn fn = pool.job.fn.load(std::memory_order_acquire);
  void *context = pool.job.context.load(std::memory_order_acquire);
  int64_t numTasks = pool.job.numTasks.load(std::memory_order_acquire);
  int64_t perTicket = pool.job.tasksPerTicket.load(std::memory_order_acquire);
  uint32_t numTickets = pool.job.numTickets.load(std::memory_order_acquire);

  uint32_t finished = 0;
  uint64_t word = pool.tickets.load(std::memory_order_acquire);
  while (jobOf(word) == number && countOf(word) > 0) {
    if (!pool.tickets.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel,
                                            std::memory_order_acquire))
      continue;
    int64_t begin = int64_t(numTickets - countOf(word)) * perTicket;
    int64_t end = numTasks - begin < perTicket ? numTasks : begin + perTicket;
    for (int64_t task = begin; task < end; ++task)
      fn(context, task, thread);
    ++finished;
    word = pool.tickets.load(std::memory_order_acquire);
  }
  if (finished == 0)
    return;
  // The job cannot end before this addition, so it never lands in the next job's count.
  if (pool.done.fetch_add(finished) + finished == numTickets && thread != 0 &&
      pool.callerSleeps.load() != 0)
    wakeSleepers(pool.done, 1);
}

static bool hasNewJob(uint64_t word, uint32_t seen) {
  return jobOf(word) != seen && countOf(word) > 0;
}

/// Returns when there is a job other than `seen` with tickets left.
static uint32_t waitForJob(uint32_t seen) {
  Spin spin(pool.spin.load(std::memory_order_relaxed));
  for (;;) {
    uint64_t word = pool.tickets.load(std::memory_order_acquire);
    if (hasNewJob(word, seen))
      return jobOf(word);
    if (!spin.exhausted())
      continue;
    // A caller first publishes tickets and then reads `sleepers`; here it is the other way round,
    // so that one of both notices the other.
    uint32_t alarm = pool.alarm.load();
    pool.sleepers.fetch_add(1);
    if (!hasNewJob(pool.tickets.load(), seen))
      sleepWhileEqual(pool.alarm, alarm);
    pool.sleepers.fetch_sub(1);
  }
}

static void *runWorker(void *) {
  insideTask = true;
  for (uint32_t seen = 0;;) {
    seen = waitForJob(seen);
    uint64_t word = pool.seats.load(std::memory_order_acquire);
    while (jobOf(word) == seen && countOf(word) > 0) {
      if (!pool.seats.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel,
                                            std::memory_order_acquire))
        continue;
      // If the job is over by now, the number of threads read here may be another's; no ticket is
      // left then.
      int32_t numThreads = pool.job.numThreads.load(std::memory_order_acquire);
      runTickets(seen, numThreads - int32_t(countOf(word)));
      break;
    }
  }
  return nullptr;
}

//===----------------------------------------------------------------------===//
// Workers
//===----------------------------------------------------------------------===//

/// In the child of a fork there are no workers, and whoever held the pool is gone too. (A task that
/// forks is the exception: its child must exec or exit, since the other threads of its job are
/// missing there.)
static void resetAfterFork() {
  pool.tickets.store(pack(pool.lastJob, 0));
  pool.seats.store(pack(pool.lastJob, 0));
  pool.sleepers.store(0);
  pool.callerSleeps.store(0);
  pool.numWorkers = 0;
  pool.numPlaced = 0;
  pool.busy.store(false);
}

static void registerForkHandler() { pthread_atfork(nullptr, nullptr, resetAfterFork); }

/// Creates workers until there are `count`, or fewer where the system refuses.
static void ensureWorkers(int count) {
  if (pool.numWorkers >= count)
    return;
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, registerForkHandler);

  // Signals are the host's business: its handlers shall not run on our threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  while (pool.numWorkers < count) {
    pthread_t &worker = pool.workers[pool.numWorkers];
    if (pthread_create(&worker, &attributes, runWorker, nullptr) != 0)
      break;
#if defined(__linux__)
    pthread_setname_np(worker, "heed-worker");
#endif
    ++pool.numWorkers;
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

/// Keeps the workers on the caller's CPUs but off the one that it runs on.
static void placeWorkers() {
  int cpu = currentCpu();
  bool allPlaced = pool.numPlaced == pool.numWorkers && pool.placedFor == cpu;
  // The mask is read only when there is a system call to be made anyway.
  if (allPlaced && pool.sleepers.load() == 0)
    return;
  CpuMask mask;
  if (!mask.readCurrent()) {
    pool.numCpus = countCpus();
    return;
  }
  if (allPlaced && mask == pool.placedMask)
    return;
  bool maskChanged = !(mask == pool.placedMask);
  pool.numCpus = mask.count();
  pool.placedMask = mask;
  if (pool.numCpus > 1)
    mask.remove(cpu);
  // On a large machine the placement is only about the mask, not about the caller's CPU.
  if (pool.numWorkers > maxPlacedWorkers)
    mask = pool.placedMask;
  int first = 0;
  if (!maskChanged && (pool.placedFor == cpu || pool.numWorkers > maxPlacedWorkers))
    first = pool.numPlaced;
  for (int i = first; i < pool.numWorkers; ++i)
    mask.apply(pool.workers[i]);
  pool.numPlaced = pool.numWorkers;
  pool.placedFor = cpu;
}

/// Wakes as many sleepers as the job can use beyond the workers that are awake.
static void wakeWorkers(int32_t numThreads) {
  int32_t sleepers = pool.sleepers.load();
  int32_t missing = numThreads - 1 - (pool.numWorkers - sleepers);
  if (sleepers <= 0 || missing <= 0)
    return;
  pool.alarm.fetch_add(1);
  wakeSleepers(pool.alarm, missing < sleepers ? missing : sleepers);
}

//===----------------------------------------------------------------------===//
// The caller
//===----------------------------------------------------------------------===//

static void runInline(int64_t numTasks, heed_task_fn fn, void *context) {
  bool outer = insideTask;
  insideTask = true;
  for (int64_t task = 0; task < numTasks; ++task)
    fn(context, task, 0);
  insideTask = outer;
}

/// Waits until other threads have finished the tickets that they took.
static void waitForTickets(uint32_t numTickets) {
  Spin spin(pool.spin.load(std::memory_order_relaxed));
  while (pool.done.load(std::memory_order_acquire) != numTickets)
    if (spin.exhausted())
      break;
  for (;;) {
    uint32_t done = pool.done.load();
    if (done == numTickets)
      return;
    pool.callerSleeps.store(1);
    sleepWhileEqual(pool.done, done);
    pool.callerSleeps.store(0);
  }
}

extern "C" void heed_parallel_for(int64_t num_tasks, int32_t num_threads, heed_task_fn fn,
                                  void *context) {
  if (num_tasks <= 0)
    return;
  if (num_threads < 1)
    num_threads = heed_get_num_threads();
  if (num_threads > maxThreads)
    num_threads = maxThreads;
  if (num_threads > num_tasks)
    num_threads = int32_t(num_tasks);
  bool idle = false;
  if (num_threads == 1 || insideTask ||
      !pool.busy.compare_exchange_strong(idle, true, std::memory_order_acquire))
    return runInline(num_tasks, fn, context);

  ensureWorkers(num_threads - 1);
  placeWorkers();
  // More threads than CPUs: a spinning thread would hold back the one that it waits for.
  pool.spin.store(pool.numCpus >= num_threads ? spinNanoseconds : 0, std::memory_order_relaxed);

  // Tickets are counted in 32 bits; beyond 2^31 tasks, a ticket stands for several.
  constexpr int64_t maxTickets = int64_t(1) << 31;
  int64_t perTicket = (num_tasks - 1) / maxTickets + 1;
  uint32_t numTickets = uint32_t((num_tasks - 1) / perTicket + 1);

  uint32_t number = ++pool.lastJob;
  if (number == 0) // what new workers have "seen"
    number = ++pool.lastJob;
  // Release order, so that who reads any of these also sees that the previous job has no tickets
  // left.
  pool.done.store(0, std::memory_order_release);
  pool.job.fn.store(fn, std::memory_order_release);
  pool.job.context.store(context, std::memory_order_release);
  pool.job.numTasks.store(num_tasks, std::memory_order_release);
  pool.job.tasksPerTicket.store(perTicket, std::memory_order_release);
  pool.job.numTickets.store(numTickets, std::memory_order_release);
  pool.job.numThreads.store(num_threads, std::memory_order_release);
  pool.seats.store(pack(number, uint32_t(num_threads - 1)), std::memory_order_release);
  pool.tickets.store(pack(number, numTickets)); // sequentially consistent, see waitForJob

  wakeWorkers(num_threads);
  insideTask = true;
  runTickets(number, 0);
  insideTask = false;
  waitForTickets(numTickets);
  pool.busy.store(false, std::memory_order_release);
}

extern "C" void heed_set_parallel_for(heed_parallel_for_fn parallel_for) {
  hostParallelFor.store(parallel_for, std::memory_order_release);
}

void heed::runtime::runTasks(int64_t numTasks, int32_t numThreads, heed_task_fn fn, void *context) {
  if (numThreads <= 1 || numTasks <= 1) {
    for (int64_t task = 0; task < numTasks; ++task)
      fn(context, task, 0);
    return;
  }
  // heed_parallel_for itself always means Heed's own pool, so that a host's function may fall back
  // to it.
  heed_parallel_for_fn host = hostParallelFor.load(std::memory_order_acquire);
  (host ? host : heed_parallel_for)(numTasks, numThreads, fn, context);
}
