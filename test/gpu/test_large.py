# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Long sequences, many heads, and tensors whose offsets need 64 bits. Rows are sampled."""

from __future__ import annotations

import math

import pytest
import torch
from support import (DEVICE, LIMITS, MASKS, QUICK, Shape, alibi, causal, check, check_flex, inputs, reference, run_flex, sample,
                     slopes_of, window)

pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="takes a GPU")
GIB = 1 << 30


def need(gib: float) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < gib * GIB:
        pytest.skip(f"needs {gib:.0f} GiB of free GPU memory, {free / GIB:.0f} are free")


def check_sampled(shape: Shape, dim: int, score_mod=None, mask_mod=None, rows: int = 48, what: str = "") -> None:
    q, k, v = inputs(shape, (dim, dim))
    check_flex(q, k, v, score_mod, mask_mod, of=sample(q, rows), what=f"{what} D{dim} {shape}")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dim", (64, pytest.param(128, marks=pytest.mark.full), pytest.param(256, marks=pytest.mark.full)))
def test_131072(dim: int, mask: str) -> None:
    check_sampled(Shape(1, 2, 1, 131072, 131072), dim, None, window(4096) if mask == "window" else MASKS[mask], what=mask)


@pytest.mark.full
def test_131072_with_score_mod() -> None:
    check_sampled(Shape(1, 2, 1, 131072, 131072), 64, alibi(slopes_of(2) * 1e-3), causal, what="alibi")


def test_a_million_keys() -> None:
    check_sampled(Shape(1, 1, 1, 129, (1 << 20) + 13), 64, what="dense")
    check_sampled(Shape(1, 1, 1, (1 << 20) + 13, 129), 64, None, causal, what="causal")
    check_sampled(Shape(1, 1, 1, (1 << 20) + 13, (1 << 20) + 13), 64, None, window(200), what="window")


@pytest.mark.parametrize("mask", ("dense", "causal"))
@pytest.mark.parametrize("batch, heads, kv_heads", [(70001, 1, 1), (1, 70001, 70001), (1, 70001, 1), (1100, 64, 8)])
def test_many_heads(batch: int, heads: int, kv_heads: int, mask: str) -> None:
    for sq, skv in ((1, 16), (17, 5)) if QUICK else ((1, 16), (17, 5), (16, 130)):
        shape = Shape(batch, heads, kv_heads, sq, skv)
        q, k, v = inputs(shape)
        found, chosen = run_flex(q, k, v, None, MASKS[mask]), sample(q, heads=40)
        check(found, reference(q, k, v, None, MASKS[mask], of=chosen), what=f"{mask} {shape}")
        assert bool(found[0].isfinite().all()) and bool(found[1].isfinite().all()), "all was written"


def test_queries_beyond_4_gib() -> None:
    need(14)
    shape = Shape(1, 16500, 4, 1024, 512)
    q, k, v = inputs(shape, (128, 128))
    assert q.numel() > 1 << 31
    for mask in (None, causal):
        found = run_flex(q, k, v, None, mask)
        check(found, reference(q, k, v, None, mask, of=sample(q, 64, heads=12)), what=f"{shape}")
        assert not bool(found[1].isnan().any())
        del found


def test_keys_beyond_4_gib() -> None:
    need(14)
    shape = Shape(4, 4200, 4200, 70, 1024)
    q, k, v = inputs(shape, (128, 128))
    assert k.numel() > 1 << 31
    check_flex(q, k, v, None, lambda b, h, i, j: j - 500 <= i, of=sample(q, 64, heads=12), what=f"{shape}")


@pytest.mark.full
def test_strides_beyond_32_bits() -> None:
    """Few elements, far apart."""
    need(20)
    room = torch.empty(3 * ((1 << 31) + 4096), dtype=torch.bfloat16, device=DEVICE).fill_(math.nan)
    shape = (2, 2, 300, 64)

    def spread(seed: int) -> torch.Tensor:
        x = torch.randn(shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE).bfloat16()
        far = room.as_strided(shape, ((1 << 31) + 64 * 300 * 16, 64 * 300 * (seed + 3), 64, 1), seed * (1 << 20) * 8)
        return far.copy_(x)

    q, k, v = (spread(seed) for seed in range(3))
    check_flex(q, k, v, None, causal, what="far apart")


@pytest.mark.full
def test_captured_tensor_beyond_4_gib() -> None:
    need(20)
    n = 47000
    bias = torch.empty(n, n, dtype=torch.bfloat16, device=DEVICE).normal_()
    assert bias.numel() > 1 << 31
    q, k, v = inputs(Shape(1, 1, 1, n, n))
    check_flex(q, k, v, lambda s, b, h, i, j: s + bias[i, j], causal, of=sample(q), what="bias")


def test_limits_hold_for_sums_over_many_keys() -> None:
    """An all-positive value: a sum kept in 16 bits anywhere would stop growing."""
    q, k, v = inputs(Shape(1, 1, 1, 256, 131072 if not QUICK else 16384))
    v = v.abs() + 1
    found = run_flex(q * 0.01, k, v)
    check(found, reference(q * 0.01, k, v), limits=LIMITS, what="positive values")
