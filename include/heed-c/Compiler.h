/*===-- heed-c/Compiler.h - Compiling variants from any language ---*- C -*-===*\
|*                                                                            *|
|* Part of the Heed Project, under the Apache License v2.0 with LLVM          *|
|* Exceptions. See LICENSE for license information.                           *|
|* SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception                    *|
|*                                                                            *|
|*===----------------------------------------------------------------------===*|
|*                                                                            *|
|* The compiler as a library (libheed): text in the Heed language in; IR,     *|
|* assembly, an object file or a C header out; and a loader that makes an     *|
|* object's kernel callable in this process, through heed_run of              *|
|* heed-c/Runtime.h. Python stands on this header; heedc is the same compiler  *|
|* at a command line.                                                         *|
|*                                                                            *|
|* All functions may be called from several threads at once. None of them     *|
|* prints, exits or throws; messages are returned.                            *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef HEED_C_COMPILER_H
#define HEED_C_COMPILER_H

#include "heed-c/Runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/*===-- About this library ------------------------------------------------===*/

/* "0.1.0" */
HEED_EXPORT const char *heed_version(void);

/* The version of LLVM inside, "22.1.0". */
HEED_EXPORT const char *heed_llvm_version(void);

/* The linker's build id of this library, in hexadecimal: another build of the compiler has another
 * one. Empty where the linker wrote none. */
HEED_EXPORT const char *heed_build_id(void);

/* The best CPU level that a machine with these HEED_CPU_* bits (heed_cpu_features()) runs, under
 * the name that `targets` takes; NULL where there is none. */
HEED_EXPORT const char *heed_target_of_cpu(uint64_t cpu_features);

/*===-- Results -----------------------------------------------------------===*/

/* Bytes that the caller frees; text is UTF-8, and followed by a NUL that is not counted. */
typedef struct heed_blob heed_blob;
HEED_EXPORT const char *heed_blob_data(const heed_blob *blob);
HEED_EXPORT size_t heed_blob_size(const heed_blob *blob);
HEED_EXPORT void heed_blob_free(heed_blob *blob); /* NULL: nothing */

/*===-- Compiling ---------------------------------------------------------===*/

typedef enum heed_emit {
  HEED_EMIT_ATTN = 0,     /* the variant in the attn dialect                                     */
  HEED_EMIT_TILE = 1,     /* the algorithm in the tile dialect                                   */
  HEED_EMIT_LLVM = 2,     /* optimized LLVM IR                                                   */
  HEED_EMIT_ASM = 3,      /* assembly                                                            */
  HEED_EMIT_OBJECT = 4,   /* a relocatable ELF object that exports SYMBOL_kernel, a heed_kernel  */
  HEED_EMIT_HEADER = 5,   /* the C header of that object                                         */
  HEED_EMIT_CHECK = 6,    /* nothing: reports errors                                             */
  HEED_EMIT_FORMAT = 7,   /* the source in canonical layout; only source and file_name are read  */
  HEED_EMIT_VARIANTS = 8, /* JSON: [{"name", "params": [{"name", "type", "extents", "default"}]}] */
  HEED_EMIT_EXPLAIN = 9,  /* JSON of what is known and decided: heed/Compiler/Explain.h          */
  HEED_EMIT_CLASSIFIER = 10, /* an object as above that holds mask_codes for heed_classify only   */
  HEED_EMIT_ALTERNATIVES = 11 /* JSON: what options may say instead to get other schedules, as
                                 ["groups=3,block_kv=64,stages=4"]                                */
} heed_emit;

/* A program and what is compiled in. Zero a request before filling it. */
typedef struct heed_compile_request {
  const char *source; /* a program in the Heed language */
  size_t source_size;
  const char *file_name; /* for messages; imports are relative to it. NULL: "<source>" */
  const char *variant;   /* NULL: the only one of the program */
  const char *symbol;    /* C name of the kernel; NULL: VARIANT_DTYPE_dN */
  const char
      *targets; /* CPU levels of one architecture and GPUs, "x86-64-v3,sm_90a"; NULL: native */
  const char *const *defines; /* "name=value" for scalars to compile in, then NULL; or NULL */
  heed_dtype dtype;           /* HEED_F16, HEED_BF16 or HEED_F32 */
  int32_t head_dim;           /* 1 to 576 */
  int32_t value_head_dim;     /* 0: as head_dim */
  const char *options;        /* schedule overrides of GPU targets, or NULL:
                                 "block_kv=64,groups=2,stages=4,blocks_per_sm=1,keys=512,tf32,strict_math" */
} heed_compile_request;

/* Compiles. Returns HEED_OK and the result, or HEED_INVALID_ARGUMENT and the messages: each with
 * file, line, column and the line itself. The caller frees *result in both cases. */
HEED_EXPORT heed_status heed_compile(const heed_compile_request *request, heed_emit emit,
                                     heed_blob **result);

/* Runs a variant in the float64 interpreter: the answer that a kernel should have given. Reads
 * source, file_name, variant and defines; `json` says what to evaluate on which arrays, as
 * heed/Interpreter/Requests.h describes. On failure *messages says why; the caller frees it. */
HEED_EXPORT heed_status heed_interpret(const heed_compile_request *program, const char *json,
                                       heed_blob **messages);

/*===-- Loading -----------------------------------------------------------===*/

/* An object's code in this process. */
typedef struct heed_library heed_library;

/* Loads an object that heed_compile made, now or in another process, and finds the kernel
 * `symbol`. The object is trusted: it is code. On failure *messages says why. The caller frees
 * *messages, and the library when no kernel of it runs any more. */
HEED_EXPORT heed_status heed_load_object(const void *object, size_t size, const char *symbol,
                                         heed_library **library, heed_blob **messages);
HEED_EXPORT const heed_kernel *heed_library_kernel(const heed_library *library);
HEED_EXPORT void heed_library_free(heed_library *library); /* NULL: nothing */

/* Links an object file into a shared library with the system's linker. */
HEED_EXPORT heed_status heed_link_shared(const char *object_path, const char *output_path,
                                         heed_blob **messages);

#ifdef __cplusplus
}
#endif

#endif /* HEED_C_COMPILER_H */
