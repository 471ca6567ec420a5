# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""NumPy arrays and torch tensors, as kernels see them: a pointer, an element type, extents and strides.

Nothing is copied here. torch is looked at only where its tensors turn up, and never imported.
NumPy has no bfloat16: arrays of ml_dtypes.bfloat16, and arrays of uint16 that hold the bits, stand for it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np

from heed._runtime import DTYPE_CODES, MAX_RANK, TENSOR, HeedError

Array = Any  # np.ndarray or torch.Tensor

_NUMPY_NAMES = {"bool": "bool", "int8": "i8", "int32": "i32", "int64": "i64", "float16": "f16", "uint16": "bf16",
                "bfloat16": "bf16", "float32": "f32"}
_TORCH_NAMES = {"torch.bool": "bool", "torch.int8": "i8", "torch.int32": "i32", "torch.int64": "i64",
                "torch.float16": "f16", "torch.bfloat16": "bf16", "torch.float32": "f32"}
# By dtype object: heed_dtype, or None for a type that kernels don't take. Filled as types turn up.
dtype_codes: dict[Any, int | None] = {}


def is_torch(array: Any) -> bool:
    """Whether `array` is a torch tensor, of a subclass too."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def dtype_code(array: Array) -> int | None:
    """heed_dtype of the elements; None for a type that kernels don't take."""
    dtype = array.dtype
    try:
        return dtype_codes[dtype]
    except KeyError:
        if not isinstance(dtype, np.dtype):
            name = _TORCH_NAMES.get(str(dtype))
        else:
            name = _NUMPY_NAMES.get(dtype.name) if dtype.isnative else None
        code = dtype_codes[dtype] = None if name is None else DTYPE_CODES[name]
        return code


def _reads_address_from_object() -> bool:
    """Whether PyArrayObject begins as NumPy's C ABI says: what a Python object begins with, then the address."""
    probe = np.empty(1)
    return ctypes.c_void_p.from_address(id(probe) + _HEAD).value == probe.ctypes.data


_HEAD = object.__basicsize__
_from_address = ctypes.c_void_p.from_address

if _reads_address_from_object():

    def numpy_pointer(array: np.ndarray) -> int:
        """The address of the first element; array.ctypes.data takes five times as long."""
        return _from_address(id(array) + _HEAD).value or 0
else:

    def numpy_pointer(array: np.ndarray) -> int:
        """The address of the first element."""
        return array.ctypes.data


def data_pointer(array: Array) -> int:
    """The address of the first element."""
    return numpy_pointer(array) if isinstance(array, np.ndarray) else int(array.data_ptr())


def strides(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    if isinstance(array, np.ndarray):
        size = array.itemsize
        return tuple([stride // size for stride in array.strides])
    return tuple(array.stride())


def describe(array: Array, dtype: str) -> bytes:
    """heed_tensor of an array whose elements have to be of `dtype`; HeedError if it is none."""
    if type(array) is np.ndarray or isinstance(array, np.ndarray):
        if not array.flags.aligned:  # a field of a structured array, for one: its strides are no whole elements
            raise HeedError("expected an array whose elements are aligned; numpy.require(array, requirements='A') makes one")
        pointer = numpy_pointer(array)
        size = array.itemsize
        steps: Any = [stride // size for stride in array.strides]
    elif is_torch(array):
        if not array.is_cpu:
            raise HeedError(f"expected a tensor on the CPU, found one on {array.device}")
        if array.requires_grad or array.is_neg():
            _check_plain(array)
        pointer = array.data_ptr()
        steps = array.stride()
    else:
        raise HeedError(f"expected an array of {dtype}, found {type(array).__name__}")
    if (code := dtype_codes.get(array.dtype) or dtype_code(array)) != DTYPE_CODES[dtype]:
        raise HeedError(f"expected an array of {dtype}, found {array.dtype}")
    shape = array.shape
    rank = len(shape)
    if rank > MAX_RANK:
        raise HeedError(f"expected at most {MAX_RANK} dimensions, found {rank}")
    return TENSOR[rank].pack(pointer, code, rank, *shape, *steps)


def _check_plain(array: Array) -> None:
    torch = sys.modules["torch"]
    if array.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("Heed has no backward pass on CPUs: detach tensors that require grad, or call it under "
                                  "torch.no_grad()")
    if array.is_neg():
        raise HeedError("expected a tensor without negative bit; resolve_neg() makes one")


def empty(shape: tuple[int, ...], like: Array, dtype: str | None = None) -> Array:
    """An array of the library of `like`, on the CPU; `dtype` is that of `like`, or "f32"."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, like.dtype if dtype is None else np.float32)
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=like.dtype if dtype is None else torch.float32)


def empty_in_order_of(query: Array, last: int) -> Array:
    """A dense array of query's shape but for the last extent. Its axes lie in memory in the order of query's, but that
    the last has unit stride, as kernels want it."""
    order = sorted(range(query.ndim - 1), key=lambda axis: -abs(strides(query)[axis]))
    return _empty_in_order((*query.shape[:-1], last), [*order, query.ndim - 1], query)


def in_order_of(output: Array, query: Array) -> Array:
    """`output`, copied if its axes lie in memory in another order than query's, the last included."""
    steps = strides(query)
    if steps[-1] == min(map(abs, steps)):
        return output
    order = sorted(range(query.ndim), key=lambda axis: -abs(steps[axis]))
    result = _empty_in_order(tuple(output.shape), order, query)
    result[...] = output
    return result


def _empty_in_order(shape: tuple[int, ...], order: list[int], like: Array) -> Array:
    """A dense array whose axes lie in memory in `order`, outermost first."""
    permuted = empty(tuple(shape[axis] for axis in order), like)
    inverse = [order.index(axis) for axis in range(len(order))]
    return permuted.transpose(inverse) if isinstance(like, np.ndarray) else permuted.permute(inverse)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds f32 to bfloat16 (to nearest even), as uint16 bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    """The f32 values of bfloat16 bits."""
    return (x.astype(np.uint32) << 16).view(np.float32)
