/* Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * Attention from plain C. Compile a kernel, then this file, and link both with the runtime:
 *
 *   heedc examples/alibi.heed --dtype=f32 --head-dim=64 --symbol=alibi -o alibi.o --header=alibi.h
 *   cc -I. -Iinclude examples/c/main.c alibi.o -Lbuild/lib -lheed_runtime -lm -o alibi
 */

#include "alibi.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1, HEADS = 8, KV_HEADS = 2, LENGTH = 512, HEAD_DIM = 64 };

/* A dense array (BATCH, heads, LENGTH, HEAD_DIM) of numbers in [-1, 1). */
static heed_tensor make_tensor(int64_t heads) {
  static unsigned state = 1;
  int64_t shape[4] = {BATCH, heads, LENGTH, HEAD_DIM};
  int64_t count = BATCH * heads * LENGTH * HEAD_DIM;
  float *data = malloc(sizeof(float) * (size_t)count);
  if (!data) {
    fputs("out of memory\n", stderr);
    exit(EXIT_FAILURE);
  }
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    data[i] = (float)(state >> 8) / (1 << 23) - 1;
  }
  return heed_dense_tensor(data, HEED_F32, 4, shape);
}

int main(void) {
  heed_tensor query = make_tensor(HEADS), key = make_tensor(KV_HEADS);
  heed_tensor value = make_tensor(KV_HEADS), output = make_tensor(HEADS);

  float slopes[HEADS];
  int64_t heads = HEADS;
  for (int h = 0; h < HEADS; ++h)
    slopes[h] = exp2f(-8.0f * (h + 1) / HEADS);
  heed_tensor slope = heed_dense_tensor(slopes, HEED_F32, 1, &heads);
  alibi_params params = alibi_default_params();
  params.slope = &slope;

  heed_status status = alibi(&query, &key, &value, &output, /*lse=*/NULL, /*scale=*/NAN, &params, /*threads=*/0);
  if (status != HEED_OK) {
    fprintf(stderr, "%s: %s\n", heed_status_name(status), heed_last_error());
    return EXIT_FAILURE;
  }
  /* The first query sees one key only, so its output is that key's value. */
  const float *out = output.data, *v = value.data;
  printf("output %g %g %g, value %g %g %g\n", out[0], out[1], out[2], v[0], v[1], v[2]);

  /* A wrong argument is refused before anything is written. */
  query.shape[3] = 32;
  status = alibi(&query, &key, &value, &output, NULL, NAN, &params, 0);
  printf("%s: %s\n", heed_status_name(status), heed_last_error());
  query.shape[3] = HEAD_DIM;

  free(query.data);
  free(key.data);
  free(value.data);
  free(output.data);
  return status == HEED_INVALID_ARGUMENT ? EXIT_SUCCESS : EXIT_FAILURE;
}
