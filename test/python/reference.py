# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Dense float64 attention in NumPy, with the examples' formulas written a second time.

Nothing here comes from Heed but the conversion of bf16 bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from heed import aot

Array = np.ndarray
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Shape:
    B: int = 1
    Hq: int = 2
    Hkv: int = 1
    Sq: int = 128
    Skv: int = 128


@dataclasses.dataclass
class At:
    """The coordinates of all pairs, broadcastable to (B, Hq, Sq, Skv)."""
    b: Array
    h: Array
    q: Array
    kv: Array
    shape: Shape


Formula = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Variant:
    name: str
    score: Formula | None = None  # (s, at, params) -> s
    mask: Formula | None = None  # (at, params) -> bool
    params: Callable[[Shape, np.random.Generator], Params] = lambda shape, rng: {}


def take(tensor: Array, *indices: Any) -> Array:
    """tensor[indices], 0 outside."""
    indices = np.broadcast_arrays(*indices)
    inside = np.ones(indices[0].shape, bool)
    for index, extent in zip(indices, tensor.shape):
        inside &= (index >= 0) & (index < extent)
    if tensor.size == 0:
        return np.zeros(inside.shape, tensor.dtype)
    return np.where(inside, tensor[tuple(np.where(inside, i, 0) for i in indices)], 0)


def _causal(at: At, p: Params) -> Array:
    return at.q >= at.kv


def _neighbourhood(at: At, p: Params) -> Array:
    width, height = p.get("width", 32), p.get("height", 32)
    rx, ry = p.get("kw", 7) // 2, p.get("kh", 7) // 2
    cx = np.minimum(np.maximum(at.q % width, rx), width - 1 - rx)
    cy = np.minimum(np.maximum(at.q // width, ry), height - 1 - ry)
    return (abs(cx - at.kv % width) <= rx) & (abs(cy - at.kv // width) <= ry)


def _t5(s: Array, at: At, p: Params) -> Array:
    d = np.maximum(at.q - at.kv, 0)
    growth = np.log(np.maximum(d, 1) / 16) / np.log(p.get("max_distance", 128) / 16)
    bucket = np.where(d < 16, d, np.minimum(16 + (growth * 16 + 1e-9).astype(int), 31))
    return s + take(p["table"].astype(np.float64), at.h, bucket)


def _sandwich(s: Array, at: At, p: Params) -> Array:
    bias = sum(np.cos((at.q - at.kv) * 10000.0 ** (-i / 16)) for i in range(16))
    return s + bias * at.shape.Hq / (8.0 * (at.h + 1))


def _dilated(at: At, p: Params) -> Array:
    distance = abs(at.q - at.kv)
    return (distance <= p.get("window", 256)) & (distance % p.get("dilation", 2) == 0)


def _global(at: At, p: Params) -> Array:
    marked = p["marked"]
    return ((abs(at.q - at.kv) <= p.get("window", 256)) | (take(marked, at.b, at.q) != 0)
            | (take(marked, at.b, at.kv) != 0))


def _window(at: At, p: Params) -> Array:
    return (at.q >= at.kv) & (at.q - at.kv < p.get("window", 4096))


def _documents(at: At, p: Params) -> Array:
    return (at.q >= at.kv) & (take(p["doc"], at.b, at.q) == take(p["doc"], at.b, at.kv))


def _transfusion(at: At, p: Params) -> Array:
    q, kv = take(p["span"], at.b, at.q), take(p["span"], at.b, at.kv)
    return (at.q >= at.kv) | ((q > 0) & (q == kv))


def _softcap(s: Array, at: At, p: Params) -> Array:
    cap = p.get("cap", 50.0)
    return cap * np.tanh(s / cap)


def _sorted_ids(shape: Shape, rng: np.random.Generator) -> Array:
    return np.sort(rng.integers(0, 5, (shape.B, shape.Sq)), axis=1).astype(np.int32)


def _spans(shape: Shape, rng: np.random.Generator) -> Array:
    number = np.arange(shape.Sq) // 40
    span = np.where(number % 2 == 1, number, 0)
    return np.broadcast_to(span, (shape.B, shape.Sq)).astype(np.int32)


EXAMPLES: dict[str, Variant] = {v.name: v for v in (
    Variant("alibi", lambda s, at, p: s + take(p["slope"].astype(np.float64), at.h) * (at.kv - at.q), _causal,
            lambda sh, rng: {"slope": np.exp2(-8 * (np.arange(sh.Hq) + 1) / sh.Hq).astype(np.float32)}),
    Variant("bert_padding", None, lambda at, p: at.kv < take(p["lengths"], at.b),
            lambda sh, rng: {"lengths": rng.integers(0, sh.Skv + 1, sh.B).astype(np.int32)}),
    Variant("causal", None, _causal),
    Variant("checkerboard", None, lambda at, p: (at.q - at.kv) % 2 == 0),
    Variant("dense"),
    Variant("dilated_window", None, _dilated, lambda sh, rng: {"window": 50, "dilation": 3}),
    Variant("gemma2_softcap", _softcap, _window, lambda sh, rng: {"cap": 2.5, "window": 100}),
    Variant("global_tokens", None, _global,
            lambda sh, rng: {"marked": rng.random((sh.B, sh.Sq)) < 0.02, "window": 20}),
    Variant("neighbourhood_2d", None, _neighbourhood,
            lambda sh, rng: {"width": 16, "height": max(1, sh.Skv // 16), "kw": 5, "kh": 7}),
    Variant("packed_documents", None, _documents, lambda sh, rng: {"doc": _sorted_ids(sh, rng)}),
    Variant("prefix_lm", None, lambda at, p: (at.q >= at.kv) | (at.kv < take(p["prefix"], at.b)),
            lambda sh, rng: {"prefix": rng.integers(0, sh.Skv + 1, sh.B).astype(np.int32)}),
    Variant("sandwich", _sandwich, _causal),
    Variant("sliding_window", None, _window, lambda sh, rng: {"window": 70}),
    Variant("t5_relative_bias", _t5, _causal,
            lambda sh, rng: {"table": rng.standard_normal((sh.Hq, 32)).astype(np.float32)}),
    Variant("transfusion", None, _transfusion, lambda sh, rng: {"span": _spans(sh, rng)}),
)}


# ------------------------------------------------------------------------------------------------

NUMPY_TYPE = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


def encode(x: Array, dtype: str) -> Array:
    return aot.to_bf16(x) if dtype == "bf16" else x.astype(NUMPY_TYPE[dtype])


def decode(x: Array, dtype: str) -> Array:
    return (aot.from_bf16(x) if dtype == "bf16" else x).astype(np.float64)


@dataclasses.dataclass
class Result:
    output: Array
    lse: Array
    magnitude: Array  # sum of p |v|: what rounding errors are relative to
    score: Array  # largest finite |score| of a row


def attention(variant: Variant, query: Array, key: Array, value: Array, scale: float, params: Params) -> Result:
    """Dense evaluation of float64 arrays. A row that attends to nothing: output 0, LSE -inf."""
    B, Hq, Sq, _ = query.shape
    Hkv, Skv = key.shape[1], key.shape[2]
    shape = Shape(B, Hq, Hkv, Sq, Skv)
    key, value = (np.repeat(np.broadcast_to(x, (B,) + x.shape[1:]), Hq // max(Hkv, 1), axis=1) for x in (key, value))
    at = At(*np.ix_(range(B), range(Hq), range(Sq), range(Skv)), shape)  # type: ignore[call-arg]
    with np.errstate(all="ignore"):
        s = np.einsum("bhqd,bhkd->bhqk", query, key) * scale
        if variant.score:
            s = variant.score(s, at, params)
        if variant.mask:
            s = np.where(np.broadcast_to(variant.mask(at, params), s.shape), s, -np.inf)
        top = np.max(s, -1, keepdims=True, initial=-np.inf)
        p = np.exp(s - np.where(top == -np.inf, 0, top))
        total = p.sum(-1, keepdims=True)
        empty = total == 0
        p = p / np.where(empty, 1, total)
        output = np.einsum("bhqk,bhkd->bhqd", p, value)
        lse = np.where(empty, -np.inf, np.where(top == -np.inf, 0, top) + np.log(np.where(empty, 1, total)))
        magnitude = np.einsum("bhqk,bhkd->bhqd", p, abs(value))
        size = np.max(np.where(np.isfinite(s), abs(s), 0), -1, keepdims=True, initial=0)
    return Result(np.where(empty, 0, output), lse[..., 0], magnitude, size)


# P and the output are rounded once each, by up to 2^-11 in f16 and 2^-8 in bf16; f32 only accumulates.
_ROUNDING = {"f32": 3e-6, "f16": 2.1 * 2**-11, "bf16": 2.1 * 2**-8}
# The exponential is as accurate as the type asks for, so the sum of a row is, too.
_LSE = {"f32": 2e-6, "f16": 4e-4, "bf16": 6e-4}


def compare(output: Array, lse: Array | None, expected: Result, dtype: str, what: str = "") -> None:
    """Element by element, with bounds from the arithmetic rather than from what is observed."""
    relative = _ROUNDING[dtype] + 6e-7 * expected.score
    tiny = 1e-7 if dtype == "f16" else 1e-30
    bound = relative * expected.magnitude + tiny
    actual = decode(output, dtype)
    finite = np.isfinite(expected.output)
    with np.errstate(all="ignore"):
        wrong = np.where(finite, ~(abs(actual - expected.output) <= bound),
                         ~((actual == expected.output) | (np.isnan(actual) & np.isnan(expected.output))))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{what}: {int(wrong.sum())} of {wrong.size} elements differ; first at (b, h, q, d) = "
                             f"{place}: expected {expected.output[place]:.9g}, found {actual[place]:.9g}; rows "
                             f"{sorted(set(np.argwhere(wrong)[:, 2].tolist()))[:12]}")
    if lse is None:
        return
    finite = np.isfinite(expected.lse)
    with np.errstate(all="ignore"):
        bound = _LSE[dtype] + 6e-7 * expected.score[..., 0] + 2e-7 * abs(expected.lse)
        wrong = np.where(finite, ~(abs(lse - expected.lse) <= bound),
                         ~((lse == expected.lse) | (np.isnan(lse) & np.isnan(expected.lse))))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{what}: {int(wrong.sum())} of {wrong.size} LSEs differ; first at (b, h, q) = {place}: "
                             f"expected {expected.lse[place]:.9g}, found {lse[place]:.9g}")


def random_inputs(rng: np.random.Generator, shape: Shape, head_dim: int, value_head_dim: int,
                  dtype: str, batch_kv: int | None = None) -> tuple[Array, Array, Array]:
    Bkv = shape.B if batch_kv is None else batch_kv
    return (encode(rng.standard_normal((shape.B, shape.Hq, shape.Sq, head_dim)), dtype),
            encode(rng.standard_normal((Bkv, shape.Hkv, shape.Skv, head_dim)), dtype),
            encode(rng.standard_normal((Bkv, shape.Hkv, shape.Skv, value_head_dim)), dtype))


def poisoned(shape: tuple[int, ...], dtype: str) -> Array:
    return np.full(shape, 0x7FC1 if dtype == "bf16" else np.nan, NUMPY_TYPE[dtype])


def run(kernel: aot.Kernel, query: Array, key: Array, value: Array, *, scale: float | None = None,
        threads: int = 0, **params: Any) -> tuple[Array, Array]:
    """Calls a kernel with poisoned outputs."""
    out = poisoned(query.shape[:3] + (value.shape[3],), kernel.dtype)
    lse = np.full(query.shape[:3], np.nan, np.float32)
    kernel(query, key, value, scale=scale, out=out, lse=lse, threads=threads, **params)
    return out, lse


def check(kernel: aot.Kernel, variant: Variant, shape: Shape, *, seed: int = 0, scale: float | None = None,
          batch_kv: int | None = None, params: Params | None = None, threads: int = 0) -> None:
    """Runs a kernel on random inputs and compares everything."""
    rng = np.random.default_rng(seed)
    query, key, value = random_inputs(rng, shape, kernel.head_dim, kernel.value_head_dim, kernel.dtype, batch_kv)
    params = variant.params(shape, rng) if params is None else params
    out, lse = run(kernel, query, key, value, scale=scale, threads=threads, **params)
    factor = 1 / math.sqrt(kernel.head_dim) if scale is None else scale
    expected = attention(variant, *(decode(x, kernel.dtype) for x in (query, key, value)), factor, params)
    compare(out, lse, expected, kernel.dtype, f"{variant.name} {kernel.dtype} {kernel.target} {shape}")
