# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""include/heed-c/Runtime.h through ctypes: what kernels are, and the call that runs them."""

from __future__ import annotations

import ctypes
import os
import pathlib
import struct

MAX_RANK = 6
EXTENTS = ("B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv", "?")  # HEED_EXTENT_* = -1 - index
DTYPES = ("bool", "i8", "i32", "i64", "f16", "bf16", "f32")  # by heed_dtype
DTYPE_CODES = {name: code for code, name in enumerate(DTYPES)}


class HeedError(ValueError):
    """Heed refused a program or a call; the text says where, what was expected and what was found."""


class Tensor(ctypes.Structure):
    """heed_tensor"""

    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * MAX_RANK), ("strides", ctypes.c_int64 * MAX_RANK)]


class Value(ctypes.Union):
    """heed_value"""

    _fields_ = [("f", ctypes.c_double), ("i", ctypes.c_int64), ("tensor", ctypes.POINTER(Tensor))]


class Param(ctypes.Structure):
    """heed_param"""

    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("extents", ctypes.POINTER(ctypes.c_int64)), ("has_default", ctypes.c_int32),
                ("default_value", Value)]


class Code(ctypes.Structure):
    """heed_code"""

    _fields_ = [("target", ctypes.c_char_p), ("cpu", ctypes.c_uint64), ("block_q", ctypes.c_int32),
                ("block_kv", ctypes.c_int32), ("scratch_bytes", ctypes.c_int64),
                ("packed_bytes_per_block", ctypes.c_int64), ("prepare", ctypes.c_void_p),
                ("tile", ctypes.c_void_p), ("cost", ctypes.c_void_p), ("uses_lists", ctypes.c_int32)]


class GPUMap(ctypes.Structure):
    """heed_gpu_map"""

    _fields_ = [("operand", ctypes.c_int32), ("box_rows", ctypes.c_int32), ("box_columns", ctypes.c_int32)]


class GPUModule(ctypes.Structure):
    """heed_gpu_module"""

    _fields_ = [("target", ctypes.c_char_p), ("capability", ctypes.c_int32), ("is_exact", ctypes.c_int32),
                ("ptx", ctypes.c_char_p), ("cubin", ctypes.c_void_p), ("ptx_bytes", ctypes.c_int64),
                ("cubin_bytes", ctypes.c_int64)]


class GPUCode(ctypes.Structure):
    """heed_gpu_code"""

    _anonymous_ = ("module",)
    _fields_ = [("module", GPUModule), ("entry", ctypes.c_char_p), ("block_q", ctypes.c_int32),
                ("block_kv", ctypes.c_int32), ("num_threads", ctypes.c_int32), ("shared_bytes", ctypes.c_int32),
                ("blocks_per_sm", ctypes.c_int32), ("blocks_per_tile", ctypes.c_int32),
                ("needs_aligned", ctypes.c_int32), ("num_maps", ctypes.c_int32), ("maps", ctypes.POINTER(GPUMap)),
                ("classify", ctypes.c_char_p), ("classify_threads", ctypes.c_int32),
                ("lists_per_batch", ctypes.c_int32), ("lists_per_head", ctypes.c_int32), ("summarise", ctypes.c_char_p),
                ("summarise_threads", ctypes.c_int32), ("summary_words", ctypes.c_int32),
                ("summaries_per_batch", ctypes.c_int32), ("summaries_per_head", ctypes.c_int32), ("min_keys", ctypes.c_int64)]


class GPUMaskKernel(ctypes.Structure):
    """heed_gpu_mask_kernel"""

    _fields_ = [("module", GPUModule), ("entry", ctypes.c_char_p)]


class GPUMaskCode(ctypes.Structure):
    """heed_gpu_mask_code"""

    _fields_ = [("kernels", GPUMaskKernel * 4), ("warps", ctypes.c_int32), ("uses_batch", ctypes.c_int32),
                ("uses_head", ctypes.c_int32)]


class KernelTable(ctypes.Structure):
    """heed_kernel"""

    _fields_ = [("abi_version", ctypes.c_uint32), ("num_params", ctypes.c_int32),
                ("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("head_dim", ctypes.c_int32),
                ("value_head_dim", ctypes.c_int32), ("num_codes", ctypes.c_int32),
                ("params", ctypes.POINTER(Param)), ("codes", ctypes.POINTER(Code)), ("num_gpu_codes", ctypes.c_int32),
                ("gpu_codes", ctypes.POINTER(GPUCode)), ("num_mask_codes", ctypes.c_int32),
                ("mask_codes", ctypes.c_void_p), ("num_gpu_mask_codes", ctypes.c_int32),
                ("gpu_mask_codes", ctypes.POINTER(GPUMaskCode))]


class MaskQuestion(ctypes.Structure):
    """heed_mask_question"""

    _fields_ = [("batch", ctypes.c_int64), ("query_heads", ctypes.c_int64), ("key_heads", ctypes.c_int64),
                ("query_length", ctypes.c_int64), ("key_length", ctypes.c_int64), ("block_q", ctypes.c_int32),
                ("block_kv", ctypes.c_int32), ("params", ctypes.c_char_p), ("num_threads", ctypes.c_int32),
                ("hanging_is_partial", ctypes.c_int32)]


class ClassMatrix(ctypes.Structure):
    """heed_class_matrix"""

    _fields_ = [("classes", ctypes.c_void_p), ("num_batches", ctypes.c_int64), ("num_heads", ctypes.c_int64),
                ("num_rows", ctypes.c_int64), ("num_columns", ctypes.c_int64)]


class BlockLists(ctypes.Structure):
    """heed_block_lists"""

    _fields_ = [("partial_counts", ctypes.c_void_p), ("partial_indices", ctypes.c_void_p), ("full_counts", ctypes.c_void_p),
                ("full_indices", ctypes.c_void_p)]


class BlockRuns(ctypes.Structure):
    """heed_block_runs"""

    _fields_ = [("num_batches", ctypes.c_int64), ("num_heads", ctypes.c_int64), ("num_rows", ctypes.c_int64),
                ("num_columns", ctypes.c_int64), ("offsets", ctypes.POINTER(ctypes.c_int64)),
                ("runs", ctypes.POINTER(ctypes.c_int32))]  # three each


# A call is packed by struct rather than through ctypes objects, which would cost as much as everything else in a hot
# call together. TENSOR is heed_tensor; CALL is heed_call: query, key, value, output of rank 4, lse and max_scores of
# rank 3, scale, params (unused), num_threads.
TENSOR = {rank: struct.Struct(f"=Qii{rank}q{8 * (MAX_RANK - rank)}x{rank}q{8 * (MAX_RANK - rank)}x")
          for rank in range(MAX_RANK + 1)}
CALL = struct.Struct("=" + 4 * "Qii4q16x4q16x" + 2 * "Qii3q24x3q24x" + "d8xi4x")
ADDRESSES = struct.Struct("=6Q")  # of query, key, value, output, lse, max_scores


def find_library(name: str, variable: str) -> str:
    """The path of one of Heed's shared libraries: from the environment, the package, or build/lib of the repository."""
    package = pathlib.Path(__file__).resolve().parent
    for path in (os.environ.get(variable, ""), package / "lib" / name, package.parent.parent / "build" / "lib" / name):
        if path and pathlib.Path(path).is_file():
            return str(path)
    raise FileNotFoundError(f"{name} was not found in {package / 'lib'} or build/lib; set {variable} to its path")


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(find_library("libheed_runtime.so", "HEED_RUNTIME"))
    library.heed_run_packed.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 4]
    library.heed_launch_packed.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 4, ctypes.c_void_p, ctypes.c_int32]
    library.heed_classify.argtypes = [ctypes.c_void_p, ctypes.POINTER(MaskQuestion), ctypes.c_char_p,
                                      ctypes.POINTER(ctypes.POINTER(BlockRuns))]
    library.heed_block_runs_free.argtypes = [ctypes.POINTER(BlockRuns)]
    library.heed_block_runs_free.restype = None
    library.heed_list_blocks.argtypes = [ctypes.POINTER(BlockRuns), ctypes.c_int32, ctypes.POINTER(BlockLists), ctypes.c_int32]
    library.heed_launch_classify.argtypes = [ctypes.c_void_p, ctypes.POINTER(MaskQuestion), ctypes.c_char_p,
                                             ctypes.POINTER(ClassMatrix), ctypes.c_void_p, ctypes.c_int32]
    library.heed_launch_list.argtypes = [ctypes.c_void_p, ctypes.POINTER(ClassMatrix), ctypes.c_int32,
                                         ctypes.POINTER(BlockLists), ctypes.c_void_p, ctypes.c_int32]
    library.heed_launch_fill.argtypes = [ctypes.c_void_p, ctypes.POINTER(BlockLists), ctypes.c_int64, ctypes.c_int64,
                                         ctypes.POINTER(ClassMatrix), ctypes.c_void_p, ctypes.c_int32]
    library.heed_gpu_count.restype = library.heed_gpu_capability.restype = ctypes.c_int32
    library.heed_gpu_capability.argtypes = [ctypes.c_int32]
    library.heed_select_gpu_code.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.heed_select_gpu_code.restype = ctypes.POINTER(GPUCode)
    library.heed_gpu_unload.argtypes = [ctypes.c_void_p]
    library.heed_gpu_unload.restype = None
    library.heed_last_error.restype = ctypes.c_char_p
    library.heed_select_code.argtypes = [ctypes.c_void_p]
    library.heed_select_code.restype = ctypes.POINTER(Code)
    library.heed_set_num_threads.argtypes = [ctypes.c_int32]
    library.heed_get_num_threads.restype = ctypes.c_int32
    library.heed_cpu_features.restype = ctypes.c_uint64
    return library


lib = _load()


def set_num_threads(n: int) -> None:
    """Threads of calls that do not say how many; n < 1: as many as the process may use."""
    lib.heed_set_num_threads(n)


def get_num_threads() -> int:
    """Threads of calls that do not say how many."""
    return int(lib.heed_get_num_threads())
