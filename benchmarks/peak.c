/* Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * What this core can do at most: independent multiply-adds on registers, nothing loaded. Each function runs for about
 * `seconds` of CPU time and returns GFLOP/s, or 0 where the CPU lacks the instruction. bench_cpu.py builds and loads this file. */

#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Runs `step`, which does `flops` floating-point operations, until the time is over. */
#define MEASURE(flops, step)                                                                                           \
  double start = now(), elapsed;                                                                                       \
  long steps = 0;                                                                                                      \
  do {                                                                                                                 \
    for (int i = 0; i < 1000; ++i) {                                                                                   \
      step;                                                                                                            \
    }                                                                                                                  \
    steps += 1000;                                                                                                     \
    elapsed = now() - start;                                                                                           \
  } while (elapsed < seconds);                                                                                         \
  return steps * (double)(flops) / elapsed * 1e-9

/* The compiler must neither fold the accumulators nor spill them. */
#define KEEP(x) __asm__ volatile("" : "+v"(x))

/* Multiplies into each accumulator in turn, eight times over: a loop of one turn loses up to a fifth to its branch. */
#define TURNS 8
#define IN_TURNS(count, step)                                                                                          \
  _Pragma("clang loop unroll(full)") for (int turn = 0; turn < TURNS; ++turn)                                          \
      _Pragma("clang loop unroll(full)") for (int j = 0; j < (count); ++j) step

__attribute__((target("avx512f"))) static double zmm_f32(double seconds) {
  __m512 acc[24], a = _mm512_set1_ps(1.0f), b = _mm512_set1_ps(0.0f);
  for (int i = 0; i < 24; ++i)
    acc[i] = _mm512_set1_ps((float)i);
  KEEP(a);
  KEEP(b);
  MEASURE(TURNS * 24 * 32, IN_TURNS(24, {
    acc[j] = _mm512_fmadd_ps(a, b, acc[j]);
    KEEP(acc[j]);
  }));
}

__attribute__((target("avx2,fma"))) static double ymm_f32(double seconds) {
  __m256 acc[14], a = _mm256_set1_ps(1.0f), b = _mm256_set1_ps(0.0f);
  for (int i = 0; i < 14; ++i)
    acc[i] = _mm256_set1_ps((float)i);
  __asm__ volatile("" : "+x"(a), "+x"(b));
  MEASURE(TURNS * 14 * 16, IN_TURNS(14, {
    acc[j] = _mm256_fmadd_ps(a, b, acc[j]);
    __asm__ volatile("" : "+x"(acc[j]));
  }));
}

__attribute__((target("avx512f,avx512bf16"))) static double zmm_bf16(double seconds) {
  __m512 acc[24];
  __m512bh a, b;
  memset(&a, 0, sizeof a);
  memset(&b, 0, sizeof b);
  for (int i = 0; i < 24; ++i)
    acc[i] = _mm512_set1_ps((float)i);
  KEEP(a);
  KEEP(b);
  MEASURE(TURNS * 24 * 64, IN_TURNS(24, {
    acc[j] = _mm512_dpbf16_ps(acc[j], a, b);
    KEEP(acc[j]);
  }));
}

/* Four accumulators of 16x16 from two tiles of each operand: 16 * 16 * 32 multiply-adds an instruction. */
__attribute__((target("amx-tile,amx-bf16"))) static double amx_bf16(double seconds) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
    return 0;
  struct {
    unsigned char palette, start_row, reserved[14];
    unsigned short colsb[16];
    unsigned char rows[16];
  } config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.colsb[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
  _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
  _tile_zero(4), _tile_zero(5), _tile_zero(6), _tile_zero(7);
  double result = 0;
  double start = now(), elapsed;
  long steps = 0;
  do {
    for (int i = 0; i < 1000; ++i) {
      __asm__ volatile("tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\ttdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                       "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\ttdpbf16ps %%tmm7, %%tmm5, %%tmm3" ::: "memory");
    }
    steps += 1000;
    elapsed = now() - start;
  } while (elapsed < seconds);
  result = steps * 4 * 2.0 * 16 * 16 * 32 / elapsed * 1e-9;
  _tile_release();
  return result;
}

double peak(const char *kind, double seconds) {
  __builtin_cpu_init();
  if (!strcmp(kind, "zmm_f32"))
    return __builtin_cpu_supports("avx512f") ? zmm_f32(seconds) : 0;
  if (!strcmp(kind, "ymm_f32"))
    return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") ? ymm_f32(seconds) : 0;
  if (!strcmp(kind, "zmm_bf16"))
    return __builtin_cpu_supports("avx512bf16") ? zmm_bf16(seconds) : 0;
  if (!strcmp(kind, "amx_bf16"))
    return __builtin_cpu_supports("amx-bf16") ? amx_bf16(seconds) : 0;
  return 0;
}
