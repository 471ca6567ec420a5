# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls kernels that heedc compiled ahead of time, from NumPy arrays.

    kernel = heed.aot.load("alibi.so")                  # heedc --emit=shared
    output, lse = kernel(query, key, value, slope=slopes, return_lse=True)

This mirrors include/heed-c/Runtime.h with ctypes; libheed_runtime does the checking and the work.
"""

from __future__ import annotations

import ctypes
import math
import operator
import os
import pathlib
from typing import Any

import numpy as np

MAX_RANK = 6
EXTENTS = ("B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv", "?")  # HEED_EXTENT_* = -1 - index
DTYPES = ("bool", "i8", "i32", "i64", "f16", "bf16", "f32")
# NumPy has no bfloat16: such arrays are uint16 views of the bits.
_NUMPY_DTYPES = {"bool": np.bool_, "i8": np.int8, "i32": np.int32, "i64": np.int64,
                 "f16": np.float16, "bf16": np.uint16, "f32": np.float32}


class _Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * MAX_RANK), ("strides", ctypes.c_int64 * MAX_RANK)]


class _Value(ctypes.Union):
    _fields_ = [("f", ctypes.c_double), ("i", ctypes.c_int64), ("tensor", ctypes.POINTER(_Tensor))]


class _Param(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("extents", ctypes.POINTER(ctypes.c_int64)), ("has_default", ctypes.c_int32),
                ("default_value", _Value)]


class _Code(ctypes.Structure):
    _fields_ = [("target", ctypes.c_char_p), ("cpu", ctypes.c_uint64), ("block_q", ctypes.c_int32),
                ("block_kv", ctypes.c_int32), ("scratch_bytes", ctypes.c_int64),
                ("packed_bytes_per_block", ctypes.c_int64), ("prepare", ctypes.c_void_p),
                ("tile", ctypes.c_void_p), ("cost", ctypes.c_void_p)]


class _Kernel(ctypes.Structure):
    _fields_ = [("abi_version", ctypes.c_uint32), ("num_params", ctypes.c_int32),
                ("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("head_dim", ctypes.c_int32),
                ("value_head_dim", ctypes.c_int32), ("num_codes", ctypes.c_int32),
                ("params", ctypes.POINTER(_Param)), ("codes", ctypes.POINTER(_Code))]


class _Call(ctypes.Structure):
    _fields_ = [("query", _Tensor), ("key", _Tensor), ("value", _Tensor), ("output", _Tensor),
                ("lse", _Tensor), ("scale", ctypes.c_double), ("params", ctypes.POINTER(_Value)),
                ("num_threads", ctypes.c_int32)]


class HeedError(ValueError):
    """libheed_runtime refused a call; the text names the argument."""


def _find_runtime() -> str:
    here = pathlib.Path(__file__).resolve().parent
    candidates: list[str | pathlib.Path] = [os.environ.get("HEED_RUNTIME", ""), here / "libheed_runtime.so",
                  here.parent.parent / "build" / "lib" / "libheed_runtime.so"]
    for path in candidates:
        if path and pathlib.Path(path).is_file():
            return str(path)
    raise FileNotFoundError("libheed_runtime.so was not found beside the package or in build/lib; "
                            "set HEED_RUNTIME to its path")


class _Runtime:
    """libheed_runtime, loaded once."""

    _instance: "_Runtime | None" = None

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(_find_runtime())
        self.lib.heed_run.argtypes = [ctypes.POINTER(_Kernel), ctypes.POINTER(_Call)]
        self.lib.heed_run.restype = ctypes.c_int
        self.lib.heed_last_error.restype = ctypes.c_char_p
        self.lib.heed_select_code.argtypes = [ctypes.POINTER(_Kernel)]
        self.lib.heed_select_code.restype = ctypes.POINTER(_Code)
        self.lib.heed_set_num_threads.argtypes = [ctypes.c_int32]
        self.lib.heed_get_num_threads.restype = ctypes.c_int32

    @classmethod
    def get(cls) -> "_Runtime":
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance


def set_num_threads(n: int) -> None:
    """Threads of calls that do not say how many; n < 1: as many as the process may use."""
    _Runtime.get().lib.heed_set_num_threads(n)


def get_num_threads() -> int:
    return int(_Runtime.get().lib.heed_get_num_threads())


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds f32 to bfloat16 (to nearest even), as uint16 bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    """The f32 values of bfloat16 bits."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def _describe(array: np.ndarray, dtype: str) -> _Tensor:
    if not isinstance(array, np.ndarray):
        raise HeedError(f"expected an array of {dtype}, found {type(array).__name__}")
    expected = np.dtype(_NUMPY_DTYPES[dtype])
    if array.dtype != expected:
        raise HeedError(f"expected an array of {expected} for {dtype}, found {array.dtype}")
    if array.ndim > MAX_RANK:
        raise HeedError(f"expected at most {MAX_RANK} dimensions, found {array.ndim}")
    tensor = _Tensor(array.ctypes.data if array.size else None, DTYPES.index(dtype), array.ndim)
    for i in range(array.ndim):
        tensor.shape[i] = array.shape[i]
        tensor.strides[i] = array.strides[i] // array.itemsize
    return tensor


def _scalar(value: Any, dtype: str) -> _Value:
    try:
        if dtype in ("f16", "bf16", "f32"):
            return _Value(f=float(value))
        number = operator.index(value)
    except (TypeError, ValueError):
        raise HeedError(f"expected a number for {dtype}, found {value!r}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise HeedError(f"expected a number that fits {dtype}, found {number}")
    return _Value(i=number)


class Kernel:
    """One compiled kernel of a shared library."""

    def __init__(self, library: ctypes.CDLL, symbol: str) -> None:
        self._library = library  # keeps the code loaded
        self._kernel = _Kernel.in_dll(library, symbol)
        self.name: str = self._kernel.name.decode()
        self.dtype: str = DTYPES[self._kernel.dtype]
        self.head_dim: int = self._kernel.head_dim
        self.value_head_dim: int = self._kernel.value_head_dim
        self._params = [self._kernel.params[i] for i in range(self._kernel.num_params)]
        self.param_names: list[str] = [p.name.decode() for p in self._params]

    @property
    def target(self) -> str:
        """The CPU level that calls on this machine run."""
        code = _Runtime.get().lib.heed_select_code(ctypes.byref(self._kernel))
        return code.contents.target.decode() if code else "none"

    @property
    def block_shape(self) -> tuple[int, int]:
        """Queries and keys of a tile on this machine."""
        code = _Runtime.get().lib.heed_select_code(ctypes.byref(self._kernel))
        return (code.contents.block_q, code.contents.block_kv)

    def __call__(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, *,
                 scale: float | None = None, return_lse: bool = False, out: np.ndarray | None = None,
                 lse: np.ndarray | None = None, threads: int = 0, **params: Any) -> Any:
        """Attention forward; bf16 arrays are uint16 bits. Returns output, or (output, lse)."""
        if out is None:
            out = np.empty(query.shape[:3] + (self.value_head_dim,), query.dtype)
        if return_lse and lse is None:
            lse = np.empty(query.shape[:3], np.float32)
        call = _Call()
        for name, array in (("query", query), ("key", key), ("value", value), ("output", out)):
            try:
                setattr(call, name, _describe(array, self.dtype))
            except HeedError as error:
                raise HeedError(f"argument '{name}': {error}") from None
        if lse is not None:
            try:
                call.lse = _describe(lse, "f32")
            except HeedError as error:
                raise HeedError(f"argument 'lse': {error}") from None
        call.scale = math.nan if scale is None else scale
        call.num_threads = threads
        unknown = set(params) - set(self.param_names)
        if unknown:
            raise HeedError(f"kernel '{self.name}' has no parameter '{sorted(unknown)[0]}'; "
                            f"it has {', '.join(self.param_names) or 'none'}")
        values = (_Value * max(1, len(self._params)))()
        keep = []
        for i, (name, param) in enumerate(zip(self.param_names, self._params)):
            dtype = DTYPES[param.dtype]
            if name not in params:
                if not param.has_default:
                    raise HeedError(f"kernel '{self.name}': parameter '{name}' is missing")
                values[i] = param.default_value
                continue
            try:
                if param.rank < 0:
                    values[i] = _scalar(params[name], dtype)
                    continue
                tensor = _describe(params[name], dtype)
            except HeedError as error:
                raise HeedError(f"argument '{name}': {error}") from None
            keep.append(tensor)
            values[i].tensor = ctypes.pointer(tensor)
        call.params = values
        runtime = _Runtime.get()
        if runtime.lib.heed_run(ctypes.byref(self._kernel), ctypes.byref(call)) != 0:
            raise HeedError(runtime.lib.heed_last_error().decode())
        return (out, lse) if lse is not None else out


def load(path: str | os.PathLike[str], symbol: str | None = None) -> Kernel:
    """Loads a kernel from a shared library that `heedc --emit=shared` wrote.

    `symbol` is the kernel's C name; by default the file's stem.
    """
    path = pathlib.Path(path).resolve()
    return Kernel(ctypes.CDLL(str(path)), (symbol or path.stem) + "_kernel")
