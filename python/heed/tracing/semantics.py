# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What each operation of a traced graph computes, in NumPy: integers exactly, floats in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray

# The value types of the language, narrowest first, and what evaluation holds them in.
NUMPY_TYPES: dict[str, Any] = {"bool": np.bool_, "i32": np.int32, "i64": np.int64, "f32": np.float64}
_WIDTH = {"i32": 32, "i64": 64}
_erf = np.frompyfunc(math.erf, 1, 1)


def cast(to: str, value: Array) -> Array:
    """A cast of the language: towards zero, saturating, NaN gives 0; to bool is `!= 0`."""
    if to == "bool":
        return np.asarray(value != 0)
    if to != "f32" and value.dtype == np.float64:
        low, high = -2.0 ** (_WIDTH[to] - 1), 2.0 ** (_WIDTH[to] - 1)
        kept = np.where(np.isnan(value) | (value >= high) | (value < low), 0.0, value).astype(NUMPY_TYPES[to])
        limits = np.iinfo(NUMPY_TYPES[to])
        return np.where(value >= high, limits.max, np.where(value < low, limits.min, kept)).astype(NUMPY_TYPES[to])
    return value.astype(NUMPY_TYPES[to])


def _floor_divide(a: Array, b: Array) -> Array:
    return np.asarray(np.floor(a / b) if a.dtype == np.float64 else a // b)


def _modulo(a: Array, b: Array) -> Array:
    return np.asarray(a - b * np.floor(a / b) if a.dtype == np.float64 else a % b)


def _amount(a: Array, b: Array) -> Array:
    """A shift counts modulo the width."""
    return np.asarray(b & (a.dtype.itemsize * 8 - 1)).astype(a.dtype)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _error_function(x: Array) -> Array:
    return np.asarray(_erf(x)).astype(np.float64)


# Element by element. Operands are arrays of one type, except the condition of `where`.
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "not": np.invert,
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": _floor_divide,
    "%": _modulo,
    "<<": lambda a, b: a << _amount(a, b),
    ">>": lambda a, b: a >> _amount(a, b),
    "&": np.bitwise_and,
    "|": np.bitwise_or,
    "^": np.bitwise_xor,
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "where": np.where,
    "floor": np.floor,
    "ceil": np.ceil,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": _error_function,
    "pow": np.power,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + _error_function(x * math.sqrt(0.5))),
}

# Of the last axis, which holds the elements of a vector.
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda v: v.sum(axis=-1, dtype=v.dtype),
    "any": lambda v: v.any(axis=-1),
    "all": lambda v: v.all(axis=-1),
    "dot": lambda v, w: (v * w).sum(axis=-1, dtype=v.dtype),
}


def gather(tensor: Array, indices: list[Array]) -> Array:
    """tensor[indices], 0 where an index lies outside; rows where indices are fewer than axes."""
    inside: Any = True
    for index, extent in zip(indices, tensor.shape):
        if index.size and (index.min() < 0 or index.max() >= extent):
            inside = inside & (index >= 0) & (index < extent)
    if inside is True:
        return np.asarray(tensor[tuple(indices)])
    shape = np.broadcast_shapes(*(index.shape for index in indices))
    if 0 in tensor.shape:
        return np.zeros(shape + tensor.shape[len(indices):], tensor.dtype)
    safe = tuple(np.clip(index, 0, extent - 1) for index, extent in zip(indices, tensor.shape))
    inside = np.asarray(np.broadcast_to(inside, shape))
    inside = inside.reshape(shape + (1,) * (tensor.ndim - len(indices)))
    return np.where(inside, tensor[safe], np.zeros((), tensor.dtype))
