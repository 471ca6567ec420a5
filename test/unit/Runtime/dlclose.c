/*===-- dlclose.c - The library may be closed at any time ----------*- C -*-===*\
|*                                                                            *|
|* Part of the Heed Project, under the Apache License v2.0 with LLVM          *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#include "heed-c/Runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

static void count(void *context, int64_t task, int32_t thread) {
  (void)thread;
  ((int *)context)[task]++;
}

int main(int argc, char **argv) {
  typedef void (*parallel_for)(int64_t, int32_t, heed_task_fn, void *);
  for (int round = 0; round < 20; ++round) {
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
      fprintf(stderr, "cannot open the library: %s\n", dlerror());
      return 1;
    }
    parallel_for run;
    *(void **)&run = dlsym(library, "heed_parallel_for");
    if (!run)
      return 2;
    int counts[64] = {0};
    run(64, 3, count, counts);
    for (int i = 0; i < 64; ++i)
      if (counts[i] != 1)
        return 3;
    dlclose(library);
    struct timespec pause = {0, round % 2 ? 300000 : 0}; /* workers spin, or sleep */
    nanosleep(&pause, NULL);
  }
  return 0;
}
