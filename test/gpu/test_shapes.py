# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Lengths, head dims, element types and numbers of heads."""

from __future__ import annotations

import pytest
from support import (DEVICE, MASKS, QUICK, Shape, alibi, causal, check_counts, check_flex, fitting, inputs, reference, run_flex, sample,
                     slopes_of)

LENGTHS = (1, 37, 127, 128, 129, 1000, 8192)
UNEQUAL = ((1, 1000), (1000, 1), (37, 129), (129, 37), (128, 1000), (1000, 129), (300, 8192), (8192, 100))
DIMS = ((8, 8), (16, 16), (24, 24), (64, 64), (80, 80), (96, 96), (128, 128), (192, 192), (256, 256), (512, 512),
        (192, 128), (576, 512))
SOME_DIMS = ((8, 8), (64, 64), (80, 80), (128, 128), (256, 256), (192, 128))
KINDS = [pytest.param(dtype, dims, marks=[] if dtype == "bf16" and dims in SOME_DIMS or dims == (64, 64) else [pytest.mark.full])
         for dtype in ("bf16", "f16", "f32") for dims in (DIMS if dtype == "bf16" else SOME_DIMS)]


def check_shape(shape: Shape, dims: tuple[int, int], dtype: str, mask: str, seed: int = 0) -> None:
    q, k, v = inputs(shape, dims, dtype, seed)
    whole = shape.Sq * shape.Skv <= 1 << 21
    check_flex(q, k, v, None, MASKS[mask], of=None if whole else sample(q, 256), what=f"{mask} {dtype} D{dims} {shape}")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dim", (64, 128))
def test_lengths(dim: int, mask: str) -> None:
    for n in fitting(LENGTHS):
        check_shape(Shape(2, 2, 1, n, n), (dim, dim), "bf16", mask, n)
    for sq, skv in fitting(UNEQUAL):
        check_shape(Shape(1, 4, 2, sq, skv), (dim, dim), "bf16", mask, sq + skv)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype, dims", KINDS)
def test_head_dims(dtype: str, dims: tuple[int, int], mask: str) -> None:
    for n in fitting((1, 129, 1000) if QUICK else LENGTHS):
        check_shape(Shape(1, 2, 1, n, n), dims, dtype, mask, n)
    for sq, skv in fitting(UNEQUAL[3:6]):
        check_shape(Shape(2, 2, 2, sq, skv), dims, dtype, mask, sq + skv)


@pytest.mark.parametrize("dim", (64, 128))
def test_every_length(dim: int) -> None:
    """Tails of all sizes, of queries and of keys; each key has to count once."""
    lengths = range(1, 2 if DEVICE.type == "cpu" else 300, 7 if QUICK else 1)
    for n in lengths:
        q, k, v = inputs(Shape(1, 2, 1, n, 301 - n), (dim, dim), seed=n)
        for name, mask in (("dense", None), ("causal", causal)):
            found, expected = run_flex(q.zero_(), k, v, None, mask), reference(q, k, v, None, mask)
            check_counts(found, expected, f"{name} D{dim} {n} x {301 - n}")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 1), (8, 2), (7, 1), (14, 2), (8, 1), (32, 4), (16, 16), (71, 1), (6, 3)])
def test_grouped_heads(heads: int, kv_heads: int, mask: str) -> None:
    for dim in (64, 128):
        check_shape(Shape(2, heads, kv_heads, 300, 200), (dim, dim), "bf16", mask, heads)
    q, k, v = inputs(Shape(2, heads, kv_heads, 130, 140))
    check_flex(q, k, v, alibi(slopes_of(heads)), MASKS[mask], what=f"alibi {heads}/{kv_heads}")  # h is the query's head


@pytest.mark.parametrize("batch", (1, 3, 17))
def test_batches(batch: int) -> None:
    q, k, v = inputs(Shape(batch, 3, 1, 150, 170))
    check_flex(q, k, v, None, lambda b, h, i, j: i + 40 * b >= j + 3 * h, what=f"batch {batch}")


@pytest.mark.parametrize("precision", ("ieee", "tf32"))
def test_float32_precision(precision: str) -> None:
    """float32-accurate by default and by name, TF32 on request."""
    for dims in ((64, 64), (128, 128)):
        q, k, v = inputs(Shape(1, 2, 1, 300, 300), dims, "f32")
        check_flex(q, k, v, None, causal, kernel_options={"FLOAT32_PRECISION": precision}, what=precision,
                   kind="tf32" if precision == "tf32" else None)
