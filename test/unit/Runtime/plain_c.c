/*===-- plain_c.c - A C program that links nothing but the runtime -*- C -*-===*\
|*                                                                            *|
|* Part of the Heed Project, under the Apache License v2.0 with LLVM          *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#include "heed-c/Runtime.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The mean of the values: attention whose scores are all equal. One query, Dv = 2. */
static void mean(const int64_t *args, int64_t batch, int64_t head, int64_t tile, void *scratch) {
  const float *value = (const float *)args[HEED_ARG_VALUE];
  float *output = (float *)args[HEED_ARG_OUTPUT];
  (void)batch, (void)head, (void)tile, (void)scratch;
  for (int d = 0; d < 2; ++d) {
    float sum = 0;
    for (int64_t i = 0; i < args[HEED_ARG_SKV]; ++i)
      sum += value[i * args[HEED_ARG_VALUE_STRIDES + 2] + d];
    output[d] = sum / (float)args[HEED_ARG_SKV];
  }
}

static void count(void *context, int64_t task, int32_t thread) {
  (void)thread;
  ((int *)context)[task]++;
}

static const heed_code code = {"any", 0, 1, 16, 64, 0, NULL, mean, NULL, 0};
static const heed_kernel kernel = {
    HEED_ABI_VERSION, 0, "mean", HEED_F32, 2, 2, 1, NULL, &code, 0, NULL, 0, NULL, 0, NULL};

int main(void) {
  float query[2] = {0, 0}, key[6] = {0}, value[6] = {1, 2, 3, 4, 5, 6}, output[2];
  const int64_t one[4] = {1, 1, 1, 2}, three[4] = {1, 1, 3, 2};
  heed_call call;
  memset(&call, 0, sizeof(call));
  call.query = heed_dense_tensor(query, HEED_F32, 4, one);
  call.key = heed_dense_tensor(key, HEED_F32, 4, three);
  call.value = heed_dense_tensor(value, HEED_F32, 4, three);
  call.output = heed_dense_tensor(output, HEED_F32, 4, one);
  call.scale = NAN;
  heed_status status = heed_run(&kernel, &call);
  if (status != HEED_OK) {
    fprintf(stderr, "%s: %s\n", heed_status_name(status), heed_last_error());
    return 1;
  }
  if (output[0] != 3 || output[1] != 4)
    return 2;

  int counts[100] = {0};
  heed_parallel_for(100, 2, count, counts);
  for (int i = 0; i < 100; ++i)
    if (counts[i] != 1)
      return 3;
  return 0; /* with a worker that still spins */
}
