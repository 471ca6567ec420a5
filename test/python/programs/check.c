/* Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Runs the kernel `k` of k.h (alibi's parameters if ALIBI is defined, causal in any case) and
 * compares it with plain loops. ELEMENT is f32, f16 or bf16; D and DV are the head dims. Prints the
 * largest error. */

#include "k.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

typedef float f32;
typedef _Float16 f16;
typedef struct {
  uint16_t bits;
} bf16;

static f32 get_f32(f32 x) { return x; }
static f32 put_f32(f32 x) { return x; }
static f32 get_f16(f16 x) { return (f32)x; }
static f16 put_f16(f32 x) { return (f16)x; }
static f32 get_bf16(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  f32 y;
  memcpy(&y, &bits, 4);
  return y;
}
static bf16 put_bf16(f32 x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bf16 y = {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  return y;
}
#define GET JOIN(get_, ELEMENT)
#define PUT JOIN(put_, ELEMENT)
enum { DTYPE_f32 = HEED_F32, DTYPE_f16 = HEED_F16, DTYPE_bf16 = HEED_BF16 };

static f32 noise(void) {
  static uint32_t state = 12345;
  f32 sum = 0;
  for (int i = 0; i < 4; ++i) {
    state = state * 1664525u + 1013904223u;
    sum += (f32)(state >> 8) / (1 << 24) - 0.5f;
  }
  return sum * 1.7f;
}

static double largest_error(int b, int hq, int hkv, int sq, int skv) {
  int64_t shapes[4][4] = {{b, hq, sq, D}, {b, hkv, skv, D}, {b, hkv, skv, DV}, {b, hq, sq, DV}};
  heed_tensor t[4];
  ELEMENT *data[4];
  for (int i = 0; i < 4; ++i) {
    int64_t count = shapes[i][0] * shapes[i][1] * shapes[i][2] * shapes[i][3];
    data[i] = malloc(count * sizeof(ELEMENT) + 1);
    for (int64_t j = 0; j < count; ++j)
      data[i][j] = PUT(i < 3 ? noise() : NAN);
    t[i] = heed_dense_tensor(data[i], (heed_dtype)JOIN(DTYPE_, ELEMENT), 4, shapes[i]);
  }
  f32 *lse = malloc(sizeof(f32) * b * hq * sq + 1);
  heed_tensor lse_tensor = heed_dense_tensor(lse, HEED_F32, 3, shapes[0]);
  f32 slope[64] = {0};
  double scale = 1 / sqrt(D);
#ifdef ALIBI
  for (int h = 0; h < hq; ++h)
    slope[h] = exp2f(-8.0f * (h + 1) / hq);
  int64_t heads = hq;
  heed_tensor slope_tensor = heed_dense_tensor(slope, HEED_F32, 1, &heads);
  k_params params = k_default_params();
  params.slope = &slope_tensor;
  heed_status status = k(&t[0], &t[1], &t[2], &t[3], &lse_tensor, NAN, &params, 2);
#else
  heed_status status = k(&t[0], &t[1], &t[2], &t[3], &lse_tensor, NAN, 2);
#endif
  if (status != HEED_OK) {
    printf("%s: %s\n", heed_status_name(status), heed_last_error());
    exit(1);
  }
  double worst = 0, *score = malloc(sizeof(double) * skv + 1), out[DV];
  for (int row = 0; row < b * hq * sq; ++row) {
    int i = row / (hq * sq), h = row / sq % hq, q = row % sq, kvh = i * hkv + h / (hq / hkv);
    double top = -INFINITY, sum = 0;
    for (int kv = 0; kv < skv && kv <= q; ++kv) {
      double dot = 0;
      for (int d = 0; d < D; ++d)
        dot += (double)GET(data[0][(int64_t)row * D + d]) *
               GET(data[1][((int64_t)kvh * skv + kv) * D + d]);
      score[kv] = dot * scale + slope[h] * (kv - q);
      top = fmax(top, score[kv]);
    }
    memset(out, 0, sizeof out);
    for (int kv = 0; kv < skv && kv <= q; ++kv) {
      double p = exp(score[kv] - top);
      sum += p;
      for (int d = 0; d < DV; ++d)
        out[d] += p * GET(data[2][((int64_t)kvh * skv + kv) * DV + d]);
    }
    for (int d = 0; d < DV; ++d) {
      double error = fabs(GET(data[3][(int64_t)row * DV + d]) - (sum > 0 ? out[d] / sum : 0));
      worst = error <= worst ? worst : error; /* NaN stays */
    }
    double error = skv == 0 ? (lse[row] == -INFINITY ? 0 : NAN) : fabs(lse[row] - (top + log(sum)));
    worst = error <= worst ? worst : error;
  }
  for (int i = 0; i < 4; ++i)
    free(data[i]);
  free(lse);
  free(score);
  return worst;
}

int main(void) {
  static const int shapes[][5] = {
      {1, 1, 1, 1, 1}, {1, 2, 1, 64, 64}, {2, 4, 2, 65, 129}, {1, 3, 3, 130, 70}, {1, 2, 1, 5, 0}};
  double worst = 0;
  for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
    const int *s = shapes[i];
    double error = largest_error(s[0], s[1], s[2], s[3], s[4]);
    printf("shape %d %d %d %d %d: %.3g\n", s[0], s[1], s[2], s[3], s[4], error);
    worst = error <= worst ? worst : error;
  }
  printf("%.9g\n", worst);
  return 0;
}
