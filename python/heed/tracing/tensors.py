# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Captured tensors and arrays of any library: their types, and conversion of what kernels cannot read."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from heed import gpu
from heed.arrays import Table

# Element types that kernels read as they are, and the ones that others become at each fetch.
DIRECT = {"bool": "bool", "int8": "i8", "int32": "i32", "int64": "i64", "float16": "f16", "bfloat16": "bf16",
          "float32": "f32"}
CONVERTED = {"uint8": "i32", "int16": "i32", "uint16": "i32", "uint32": "i64", "uint64": "i64", "float64": "f32",
             "float8_e4m3fn": "f32", "float8_e5m2": "f32", "longdouble": "f32", "float128": "f32"}
_PYTHON = {bool: "bool", int: "int64", float: "float32"}
_NUMPY = {"bool": np.bool_, "i32": np.int32, "i64": np.int64, "f32": np.float32}


def torch() -> Any:
    """The torch module if the user has imported it, else None."""
    return sys.modules.get("torch")


def is_torch(value: Any) -> bool:
    module = torch()
    return module is not None and isinstance(value, module.Tensor)


def is_numpy(value: Any) -> bool:
    """Whether a value is an array of NumPy, or of CuPy, which has the same attributes and methods."""
    return isinstance(value, np.ndarray) or gpu.is_cupy(value)


def is_foreign(value: Any) -> bool:
    """Whether a value is a tensor of a library other than torch, NumPy and CuPy."""
    kind = type(value)
    return any(hasattr(kind, name) for name in ("__dlpack__", "__array_interface__", "__cuda_array_interface__"))


def adopt(value: Any) -> Any:
    """A view of a foreign tensor: NumPy's, or a copy where there can be none, and Heed's of one on a GPU."""
    adopted = gpu.adopt(value)
    if adopted is not value:
        return adopted
    return np.from_dlpack(value) if hasattr(type(value), "__dlpack__") else np.asarray(value)


def dtype_name(dtype: Any) -> str:
    """'float32' for torch.float32, np.float32 and np.dtype('float32')."""
    if isinstance(dtype, type) and dtype in _PYTHON:
        return _PYTHON[dtype]
    name = str(dtype)
    if name.startswith("torch."):
        return name.removeprefix("torch.")
    return name if name in DIRECT else np.dtype(dtype).name  # NumPy may not know bfloat16


def convert(value: Any, dtype: str) -> Any:
    """A copy with the elements of `dtype`, in the value's own library and, of torch's and CuPy's, on its current stream."""
    if isinstance(value, Table):  # converted when it was made
        return value
    if is_torch(value):
        module = torch()
        return value.to({"bool": module.bool, "i32": module.int32, "i64": module.int64, "f32": module.float32}[dtype])
    return value.astype(_NUMPY[dtype])


def cast(value: Any, name: str) -> Any:
    """A tensor with elements of the dtype of that name, as its own library casts them."""
    return value.to(getattr(torch(), name)) if is_torch(value) else value.astype(name)


def is_plain(value: Any) -> bool:
    """Whether kernels can read the elements where they lie: not with swapped bytes, between addresses, or to be negated."""
    if isinstance(value, np.ndarray):
        return bool(value.flags.aligned and value.dtype.isnative)
    return not (is_torch(value) and value.is_neg())


def make_plain(value: Any) -> Any:
    """The value if it is plain, else a copy that is."""
    if is_plain(value):
        return value
    return value.resolve_neg() if is_torch(value) else np.array(value, value.dtype.newbyteorder("="))


def merge_axes(value: Any, rank: int) -> Any:
    """The tensor with its first axes merged into one, so that `rank` are left."""
    shape = tuple(value.shape)
    return value.reshape((-1, *shape[len(shape) - rank + 1:]))


def as_array(value: Any) -> np.ndarray:
    """What evaluation reads: any tensor as a NumPy array, copied if it is on a GPU."""
    if isinstance(value, Table):
        value = value.host
    if gpu.is_cupy(value):
        value = value.get()
    if is_torch(value):
        value = value.detach()
        if value.dtype is torch().bfloat16:
            value = value.float()
        return np.asarray(value.cpu().numpy())
    return np.asarray(value)
