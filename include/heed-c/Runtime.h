/*===-- heed-c/Runtime.h - Calling compiled attention kernels ------*- C -*-===*\
|*                                                                            *|
|* Part of the Heed Project, under the Apache License v2.0 with LLVM          *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
|*===----------------------------------------------------------------------===*|
|*                                                                            *|
|* The launch side of Heed: what an ahead-of-time object exports, what a      *|
|* caller passes, and the two functions that bring both together. There is no *|
|* LLVM behind this header; libheed_runtime needs libc and threads only, and  *|
|* finds the CUDA driver at run time.                                         *|
|*                                                                            *|
|* A compiled object exports one `heed_kernel`: plain data that names the     *|
|* kernel's parameters and holds code for one or several CPU levels and GPU   *|
|* architectures. `heed_run` checks the caller's arguments against it,        *|
|* chooses the best code for this CPU, and spreads the work over threads;     *|
|* `heed_launch` does the same for the GPU that holds the arguments, on a     *|
|* stream. The result does not depend on the number of threads.               *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef HEED_C_RUNTIME_H
#define HEED_C_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HEED_EXPORT __attribute__((visibility("default")))
#else
#define HEED_EXPORT
#endif

/* Raised whenever the layout of a struct or of the argument block changes. */
#define HEED_ABI_VERSION 7

/*===-- Status ------------------------------------------------------------===*/

typedef enum heed_status {
  HEED_OK = 0,
  HEED_INVALID_ARGUMENT = 1, /* a shape, pointer, type or value is wrong    */
  HEED_UNSUPPORTED_CPU = 2,  /* the object has no code that this CPU runs   */
  HEED_OUT_OF_MEMORY = 3,    /* no memory for the workspace                 */
  HEED_ABI_MISMATCH = 4,     /* the object was built for another Heed ABI   */
  HEED_UNSUPPORTED_GPU = 5,  /* no driver, no device, or no code for it     */
  HEED_LAUNCH_FAILED = 6,    /* the driver refused to load or to launch     */
  HEED_UNALIGNED = 7         /* the object has code for this GPU, which needs addresses and strides
                                of 16 bytes, and none that does not         */
} heed_status;

/* What went wrong in this thread's last call that did not return HEED_OK, as one line that names
 * the argument, what was expected and what was found. Never NULL; valid until the thread's next
 * call. */
HEED_EXPORT const char *heed_last_error(void);

/* "HEED_OK", "HEED_INVALID_ARGUMENT", ... */
HEED_EXPORT const char *heed_status_name(heed_status status);

/*===-- Arguments ---------------------------------------------------------===*/

typedef enum heed_dtype {
  HEED_BOOL = 0, /* one byte, 0 or 1 */
  HEED_I8 = 1,
  HEED_I32 = 2,
  HEED_I64 = 3,
  HEED_F16 = 4,
  HEED_BF16 = 5,
  HEED_F32 = 6
} heed_dtype;

#define HEED_MAX_RANK 6

/* A dense array somewhere in memory. Strides count elements, not bytes, and may be 0 (broadcast) or
 * negative. */
typedef struct heed_tensor {
  void *data;
  heed_dtype dtype;
  int32_t rank;
  int64_t shape[HEED_MAX_RANK];
  int64_t strides[HEED_MAX_RANK];
} heed_tensor;

/* A tensor of rank `rank` over `data` with dense row-major strides. */
HEED_EXPORT heed_tensor heed_dense_tensor(void *data, heed_dtype dtype, int32_t rank,
                                          const int64_t *shape);

/* The value of one parameter of a variant: which member counts is said by the kernel's heed_param.
 */
typedef union heed_value {
  double f;                  /* f16, bf16, f32 scalars               */
  int64_t i;                 /* bool, i8, i32, i64 scalars           */
  const heed_tensor *tensor; /* captured tensors                     */
} heed_value;

/*===-- What a compiled object exports ------------------------------------===*/

/* Extents of a captured tensor: a number >= 0, or one of these symbols. */
enum {
  HEED_EXTENT_B = -1,
  HEED_EXTENT_HQ = -2,
  HEED_EXTENT_HKV = -3,
  HEED_EXTENT_SQ = -4,
  HEED_EXTENT_SKV = -5,
  HEED_EXTENT_D = -6,
  HEED_EXTENT_DV = -7,
  HEED_EXTENT_ANY = -8 /* any length; the kernel never reads outside it */
};

typedef struct heed_param {
  const char *name;
  heed_dtype dtype;
  int32_t rank; /* -1: a scalar */
  const int64_t *extents;
  int32_t has_default; /* scalars only */
  heed_value default_value;
} heed_param;

/* What a CPU must have to run a piece of code. */
enum {
  HEED_CPU_X86_64_V2 = 1u << 0,
  HEED_CPU_X86_64_V3 = 1u << 1,
  HEED_CPU_X86_64_V4 = 1u << 2,
  HEED_CPU_AVX512_BF16 = 1u << 3,
  HEED_CPU_AMX_BF16 = 1u << 4, /* includes the permission that Linux asks for */
  HEED_CPU_AARCH64 = 1u << 5
};

/* The argument block that compiled code reads: 64-bit words, at these offsets. A float scalar is
 * stored as the bits of an f32 in the low half of its word. Strides count elements. */
enum {
  HEED_ARG_QUERY = 0,
  HEED_ARG_KEY = 1,
  HEED_ARG_VALUE = 2,
  HEED_ARG_OUTPUT = 3,
  HEED_ARG_LSE = 4,        /* 0: not wanted */
  HEED_ARG_MAX_SCORES = 5, /* 0: not wanted */
  HEED_ARG_PACKED =
      6, /* CPU: the workspace that prepare tasks fill, shared by all threads; 64-byte aligned */
  HEED_ARG_SUMMARIES = 6, /* GPU: what the summarise kernel fills; 0: it did not run */
  HEED_ARG_B = 7,
  HEED_ARG_HQ = 8,
  HEED_ARG_HKV = 9,
  HEED_ARG_SQ = 10,
  HEED_ARG_SKV = 11,
  HEED_ARG_QUERY_STRIDES =
      12, /* batch, head, sequence; a batch stride is 0 where a batch of 1 is broadcast */
  HEED_ARG_KEY_STRIDES = 15,
  HEED_ARG_VALUE_STRIDES = 18,
  HEED_ARG_OUTPUT_STRIDES = 21,
  HEED_ARG_LSE_STRIDES = 24,
  HEED_ARG_MAX_SCORES_STRIDES = 27,
  HEED_ARG_SCALE = 30,
  HEED_ARG_COUNTER = 31, /* GPU: three i32 that are zero before and after a launch: the next tile,
                            the number of groups that found none, and that of filled lists */
  HEED_ARG_LISTS =
      32, /* the block lists: on CPUs a heed_block_runs, on GPUs what the classify kernel fills */
  HEED_ARG_SECTION = 33, /* GPU: query heads (of all batches) whose tiles run together, for the
                            second-level cache: at least 1 */
  HEED_ARG_PARAMS =
      34 /* then the parameters in order: a scalar takes one word (f32 bits or a sign-extended
            integer); a tensor of rank r takes 1 + 2r words: pointer, r extents, r strides */
};

/* Fills the part of the packed workspace that belongs to one (batch, key-value head). */
typedef void (*heed_prepare_fn)(const int64_t *args, int64_t batch, int64_t kv_head);

/* Computes one tile of `block_q` queries of one (batch, query head). `scratch` is the calling
 * thread's own, `scratch_bytes` large, 64-byte aligned. */
typedef void (*heed_tile_fn)(const int64_t *args, int64_t batch, int64_t head, int64_t q_tile,
                             void *scratch);

/* The number of key-value blocks that heed_tile_fn would walk: what balances the threads. */
typedef int64_t (*heed_cost_fn)(const int64_t *args, int64_t batch, int64_t head, int64_t q_tile);

/* The code for one CPU level. */
typedef struct heed_code {
  const char *target; /* "x86-64-v3", ... */
  uint64_t cpu;       /* HEED_CPU_* bits that are needed */
  int32_t block_q;
  int32_t block_kv;
  int64_t scratch_bytes; /* per thread */
  /* The packed workspace takes packed_bytes_per_block bytes for every started block of block_kv
   * keys of every (batch, kv head); 0 with prepare == NULL. */
  int64_t packed_bytes_per_block;
  heed_prepare_fn prepare; /* or NULL */
  heed_tile_fn tile;
  heed_cost_fn cost;  /* or NULL: all tiles cost the same */
  int32_t uses_lists; /* 1: reads HEED_ARG_LISTS */
} heed_code;

/* A tensor that a GPU kernel copies in boxes by the bulk copy engine, through a tensor map over its
 * dimensions, innermost first (D, sequence, heads and batch). A dimension whose stride is 0 has
 * extent 1 in the map, and the kernel asks for coordinate 0. Boxes are box_columns x box_rows x 1 x
 * ... elements, their rows swizzled by their size (128, 64 or 32 bytes); elements outside read as
 * zero and are not written. */
typedef struct heed_gpu_map {
  int32_t operand; /* HEED_ARG_QUERY, _KEY, _VALUE or _OUTPUT, or HEED_ARG_PARAMS + i for the tensor
                      that parameter i is, of 2 to 5 dimensions */
  int32_t box_rows;
  int32_t box_columns;
} heed_gpu_map;

/* Code for one GPU architecture. */
typedef struct heed_gpu_module {
  const char *target;             /* "sm_90a", ... */
  int32_t capability;             /* major * 10 + minor: what a device must have at least */
  int32_t is_exact;               /* 1: and at most (sm_90a) */
  const char *ptx;                /* zero-terminated text, or NULL with a cubin */
  const void *cubin;              /* or NULL */
  int64_t ptx_bytes, cubin_bytes; /* without the zero */
} heed_gpu_module;

/* A kernel for one GPU architecture. Its entry points take the tensor maps in order (128 bytes
 * each, by value) and then the argument block (by value). */
typedef struct heed_gpu_code {
  heed_gpu_module module;
  const char *entry; /* the kernel's name in the code */
  int32_t block_q;   /* queries of a thread block: there are B * Hq * ceil(Sq / block_q) tiles */
  int32_t block_kv;
  int32_t num_threads;   /* of a thread block */
  int32_t shared_bytes;  /* dynamic shared memory of a thread block */
  int32_t blocks_per_sm; /* > 0: a persistent grid of at most that many; 0: a thread block a tile */
  int32_t
      blocks_per_tile;   /* thread blocks that compute a tile together, a slice of the output's
                            columns each; those of a tile are neighbours in the grid. At least 1 */
  int32_t needs_aligned; /* 1: addresses and strides of query, key, value, output and captured
                            tensors in maps must be multiples of 16 bytes, strides at least 0, and
                            those of rows not 0; such code comes before code without */
  int32_t num_maps;
  const heed_gpu_map *maps;
  const char *classify;      /* a kernel that fills HEED_ARG_LISTS before the launch, or NULL */
  int32_t classify_threads;  /* of a thread block; one thread block a list */
  int32_t lists_per_batch;   /* 1: each batch has lists of its own; 0: all share them */
  int32_t lists_per_head;    /* likewise for query heads */
  const char *summarise;     /* a kernel that fills HEED_ARG_SUMMARIES before that, or NULL: a warp
                                for each of ceil(Skv / block_kv) blocks, thread blocks of a list
                                after each other */
  int32_t summarise_threads; /* of a thread block, whole warps */
  int32_t summary_words;     /* of 64 bits that it writes for each block */
  int32_t summaries_per_batch; /* as lists_per_batch and lists_per_head */
  int32_t summaries_per_head;
  int64_t min_keys; /* calls with fewer keys take a later code, which suits short ones better; 0 in
                       the last of an architecture */
} heed_gpu_code;
/* There is a list for each tile of (batch, head): 1 + ceil(Skv / block_kv) words of 32 bits. Behind
 * all lists, if there are no more than these, is room for the tiles of each (batch, head) in the
 * order in which they are computed, a word each. */
#define HEED_MOST_SORTED_LISTS 1024

/* The class of the box of queries [first_q, end_q) and keys [first_kv, end_kv) of a batch and query
 * head, neither side empty: 0 no pair attends, 2 all do, 1 it was not found out. */
typedef int32_t (*heed_box_class_fn)(const int64_t *args, int64_t batch, int64_t head,
                                     int64_t first_q, int64_t end_q, int64_t first_kv,
                                     int64_t end_kv);

/* The number of pairs of a box that attend, by evaluating the mask for each. */
typedef int64_t (*heed_box_count_fn)(const int64_t *args, int64_t batch, int64_t head,
                                     int64_t first_q, int64_t end_q, int64_t first_kv,
                                     int64_t end_kv);

/* A variant's mask for one CPU level. */
typedef struct heed_mask_code {
  const char *target;
  uint64_t cpu;
  int32_t uses_batch; /* 0: the mask is the same for all batches */
  int32_t uses_head;
  heed_box_class_fn classify;
  heed_box_count_fn count;
} heed_mask_code;

/* The kernels that make block lists. Each warp of 32 threads has a piece of work. Those of a list
 * follow each other by rows, lists by batch and head. */
enum {
  HEED_MASK_KERNEL_CLASSIFY = 0, /* fills the matrix of classes, 32 x 32 blocks of a list; 3 stands
                                    for a block that is left open */
  HEED_MASK_KERNEL_SETTLE = 1,   /* decides the open blocks, of 32 in a row of the matrix */
  HEED_MASK_KERNEL_LIST = 2,     /* lists the blocks of a row of the matrix */
  HEED_MASK_KERNEL_FILL = 3,     /* fills a row of the matrix from lists */
  HEED_NUM_MASK_KERNELS = 4
};

/* One of them, in a module of its own. It takes the argument block (by value). */
typedef struct heed_gpu_mask_kernel {
  heed_gpu_module module;
  const char *entry; /* its name in the code */
} heed_gpu_mask_kernel;

/* A variant's mask for one GPU architecture, which all kernels are for. */
typedef struct heed_gpu_mask_code {
  heed_gpu_mask_kernel kernels[HEED_NUM_MASK_KERNELS]; /* by HEED_MASK_KERNEL_* */
  int32_t warps;                                       /* of a thread block */
  int32_t uses_batch;                                  /* 0: the mask is the same for all batches */
  int32_t uses_head;
} heed_gpu_mask_code;

/* What the argument block of these kernels has in place of strides. */
enum {
  HEED_MASK_ARG_BLOCK_Q = 12,
  HEED_MASK_ARG_BLOCK_KV = 13,
  HEED_MASK_ARG_HANGING_IS_PARTIAL = 14,
  HEED_MASK_ARG_LISTS = 15, /* batches times heads of the matrix */
  HEED_MASK_ARG_HEADS = 16,
  HEED_MASK_ARG_ROWS = 17, /* of the matrix; of list the key blocks, where it lists by them */
  HEED_MASK_ARG_COLUMNS = 18,
  HEED_MASK_ARG_CLASSES = 19,     /* the matrix of classes: bytes */
  HEED_MASK_ARG_LIST_STRIDE = 20, /* strides of the matrix */
  HEED_MASK_ARG_ROW_STRIDE = 21,
  HEED_MASK_ARG_COLUMN_STRIDE = 22,
  HEED_MASK_ARG_PARTIAL_COUNTS = 23, /* what list writes: i32, dense */
  HEED_MASK_ARG_PARTIAL_INDICES = 24,
  HEED_MASK_ARG_FULL_COUNTS = 25,
  HEED_MASK_ARG_FULL_INDICES = 26,
  HEED_MASK_ARG_PARTIAL_WIDTH = 27, /* of fill: entries that rows of the indices have room for */
  HEED_MASK_ARG_FULL_WIDTH = 28
};

typedef struct heed_kernel {
  uint32_t abi_version; /* HEED_ABI_VERSION of the compiler */
  int32_t num_params;
  const char *name;
  heed_dtype dtype; /* of query, key, value and output */
  int32_t head_dim;
  int32_t value_head_dim;
  int32_t num_codes; /* best first */
  const heed_param *params;
  const heed_code *codes;
  int32_t num_gpu_codes; /* best first */
  const heed_gpu_code *gpu_codes;
  int32_t num_mask_codes; /* best first; needed where a code uses lists */
  const heed_mask_code *mask_codes;
  int32_t num_gpu_mask_codes; /* best first */
  const heed_gpu_mask_code *gpu_mask_codes;
} heed_kernel;

/*===-- Calling -----------------------------------------------------------===*/

/* Everything a call passes. query (B, Hq, Sq, D), key (Bkv, Hkv, Skv, D), value (Bkv, Hkv, Skv,
 * Dv), output (B, Hq, Sq, Dv), and in f32 lse (B, Hq, Sq), the natural logarithm of the sum of
 * exponentials, and max_scores (B, Hq, Sq), each row's largest score; where their data is NULL,
 * these two are not computed. Bkv is B or 1 (broadcast), Hq a multiple of Hkv. The last stride of
 * query, key, value and output is 1. scale multiplies query x key before score_mod; NaN stands for
 * 1/sqrt(D). params holds the kernel's num_params values in order; NULL: every default.
 * num_threads: 0 stands for heed_get_num_threads(). */
typedef struct heed_call {
  heed_tensor query, key, value, output, lse, max_scores;
  double scale;
  const heed_value *params;
  int32_t num_threads;
} heed_call;

/* Runs `kernel`. Results are written completely or, on an error, not at all. Safe from
 * several threads at once and after fork. A fully masked row gets output 0, LSE and
 * largest score -inf. */
HEED_EXPORT heed_status heed_run(const heed_kernel *kernel, const heed_call *call);

/* The same for callers that write structs byte by byte, such as Python's, and keep those of earlier
 * calls: `data` holds the addresses of query, key, value, output, lse and max_scores, and the data
 * members of *call are ignored, as is call->params; params[i].i of a captured tensor is its index
 * in `tensors`. */
HEED_EXPORT heed_status heed_run_packed(const heed_kernel *kernel, const heed_call *call,
                                        void *const *data, const heed_value *params,
                                        const heed_tensor *tensors);

/*===-- Block lists -------------------------------------------------------===*/

/* What is asked of a mask. params as in heed_call; num_threads likewise. */
typedef struct heed_mask_question {
  int64_t batch, query_heads, key_heads, query_length, key_length;
  int32_t block_q, block_kv; /* at least 1 */
  const heed_value *params;
  int32_t num_threads;
  int32_t hanging_is_partial; /* 1: full blocks that hang over the end of the queries or keys count
                                 as partial, as in FlexAttention's lists */
} heed_mask_question;

/* What a mask leaves of a block's pairs: some, or all. */
enum { HEED_BLOCK_PARTIAL = 1, HEED_BLOCK_FULL = 2 };

/* Blocks [begin, end) of a row, all of one kind (HEED_BLOCK_*). */
typedef struct heed_block_run {
  int32_t begin, end, kind;
} heed_block_run;

/* The blocks of every row that are not skipped, in ascending order: those of row r of batch b and
 * head h are the runs [offsets[i], offsets[i + 1]) with i = (b * num_heads + h) * num_rows + r.
 * num_batches and num_heads are 1 where the mask does not depend on them. */
typedef struct heed_block_runs {
  int64_t num_batches, num_heads, num_rows, num_columns;
  const int64_t *offsets;
  const heed_block_run *runs;
} heed_block_runs;

/* Finds the class of every block, exactly, for a kernel with mask_codes (HEED_EMIT_CLASSIFIER).
 * Where the mask has structure, this takes time and memory in proportion to the rows, not the
 * blocks. `tensors`: NULL, or params[i].i of a captured tensor is its index there. The caller frees
 * *result. */
HEED_EXPORT heed_status heed_classify(const heed_kernel *kernel, const heed_mask_question *question,
                                      const heed_tensor *tensors, heed_block_runs **result);
HEED_EXPORT void heed_block_runs_free(heed_block_runs *runs); /* NULL: nothing */

/* FlexAttention's lists of blocks, dense: counts (num_batches, num_heads, num_rows), and indices
 * (num_batches, num_heads, num_rows, num_columns), of which the first `count` of a row are the
 * blocks listed, and the others the rest, both in ascending order. */
typedef struct heed_block_lists {
  int32_t *partial_counts, *partial_indices, *full_counts, *full_indices;
} heed_block_lists;

/* Lists the blocks that runs stand for: by rows, or with by_column by columns, in which case rows
 * and columns change places in `lists`. A kind whose counts and indices are NULL is left out.
 * num_threads as in heed_call. */
HEED_EXPORT heed_status heed_list_blocks(const heed_block_runs *runs, int32_t by_column,
                                         const heed_block_lists *lists, int32_t num_threads);

/*===-- GPUs --------------------------------------------------------------===*/

/* Launches `kernel` on the NVIDIA GPU whose memory holds the query, on `stream` (a CUstream or
 * cudaStream_t; NULL: the legacy default stream), and returns at once. All data must be readable by
 * that GPU. Results are as those of heed_run, and bit-identical between runs. Works while a stream
 * is captured into a CUDA graph. Checks all that it can before it launches: an error leaves outputs
 * and the context as they were. num_threads is ignored. */
HEED_EXPORT heed_status heed_launch(const heed_kernel *kernel, const heed_call *call, void *stream);

/* As heed_run_packed. `device` is the device that holds all data, if the caller knows it, which
 * saves asking the driver about each address; -1: it is found out and checked. */
HEED_EXPORT heed_status heed_launch_packed(const heed_kernel *kernel, const heed_call *call,
                                           void *const *data, const heed_value *params,
                                           const heed_tensor *tensors, void *stream,
                                           int32_t device);

/* The class of every block of a mask, in memory of a GPU: 0 skipped, 1 partial, 2 full, bytes of a
 * dense matrix (num_batches, num_heads, num_rows, num_columns). Rows and columns are ceil(length /
 * block); num_batches and num_heads are those of the question, or 1 where the mask does not depend
 * on them. */
typedef struct heed_class_matrix {
  int8_t *classes;
  int64_t num_batches, num_heads, num_rows, num_columns;
} heed_class_matrix;

/* Fills the matrix, exactly, on a device that holds it and all captured tensors, for a kernel with
 * gpu_mask_codes (HEED_EMIT_CLASSIFIER for a GPU). `tensors` as in heed_classify. Returns at once;
 * the work follows the order of `stream` and waits for nothing on the host. question->num_threads
 * is ignored. */
HEED_EXPORT heed_status heed_launch_classify(const heed_kernel *kernel,
                                             const heed_mask_question *question,
                                             const heed_tensor *tensors,
                                             const heed_class_matrix *matrix, void *stream,
                                             int32_t device);

/* As heed_list_blocks, of a matrix that heed_launch_classify fills, with the same kernel, into
 * memory of the GPU. */
HEED_EXPORT heed_status heed_launch_list(const heed_kernel *kernel, const heed_class_matrix *matrix,
                                         int32_t by_column, const heed_block_lists *lists,
                                         void *stream, int32_t device);

/* Fills a matrix from lists that somebody gave, whose rows have room for `partial_width` and
 * `full_width` entries: the other way round, with any kernel that has gpu_mask_codes. Entries that
 * name no block have no effect, a block that is both partial and full is full, and NULL for the
 * counts stands for no blocks. */
HEED_EXPORT heed_status heed_launch_fill(const heed_kernel *kernel, const heed_block_lists *lists,
                                         int64_t partial_width, int64_t full_width,
                                         const heed_class_matrix *matrix, void *stream,
                                         int32_t device);

/* The number of devices, 0 without a driver (heed_last_error says why). */
HEED_EXPORT int32_t heed_gpu_count(void);

/* major * 10 + minor of a device, or 0. */
HEED_EXPORT int32_t heed_gpu_capability(int32_t device);

/* The code that heed_launch would choose on a device for aligned arguments and many keys, or NULL.
 */
HEED_EXPORT const heed_gpu_code *heed_select_gpu_code(const heed_kernel *kernel, int32_t device);

/* Forgets what was loaded for `kernel` on all devices: to be called before its object is unloaded,
 * when no launch of it is running. */
HEED_EXPORT void heed_gpu_unload(const heed_kernel *kernel);

/*===-- The machine -------------------------------------------------------===*/

/* HEED_CPU_* bits of this machine (masked by the environment variable HEED_CPU, for example
 * "x86-64-v3"). */
HEED_EXPORT uint64_t heed_cpu_features(void);

/* The code that heed_run would choose, or NULL. */
HEED_EXPORT const heed_code *heed_select_code(const heed_kernel *kernel);

/* Threads used by calls that ask for 0: HEED_NUM_THREADS, else the CPUs this process may run on. n
 * < 1: that default again. */
HEED_EXPORT void heed_set_num_threads(int32_t n);
HEED_EXPORT int32_t heed_get_num_threads(void);

/* Runs fn(context, task, thread) for every task in [0, num_tasks), handed out in order, on up to
 * num_threads threads; the caller is thread 0. Returns when all are done. Runs inline when nested
 * or when the pool is busy. */
typedef void (*heed_task_fn)(void *context, int64_t task, int32_t thread);
HEED_EXPORT void heed_parallel_for(int64_t num_tasks, int32_t num_threads, heed_task_fn fn,
                                   void *context);

/* A host that has its own pool may supply it; NULL: Heed's own again. */
typedef void (*heed_parallel_for_fn)(int64_t num_tasks, int32_t num_threads, heed_task_fn fn,
                                     void *context);
HEED_EXPORT void heed_set_parallel_for(heed_parallel_for_fn parallel_for);

#ifdef __cplusplus
}
#endif

#endif /* HEED_C_RUNTIME_H */
