# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Bits that repeat, extreme scores, and rows that attend to nothing. All outputs are poisoned first (support.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support import (DEVICE, MASKS, QUICK, Shape, alibi, causal, check, check_flex, fitting, inputs, reference, run_flex, same_bits,
                     slopes_of, window)

import heed

DTYPES = ("bf16", "f16", "f32")
DIMS = ((64, 64), (128, 128), (256, 256), (80, 80))


def softcap(s, b, h, i, j):
    return 20 * torch.tanh(s / 20)


def documents(length: int) -> Any:
    ids = torch.arange(length, device=DEVICE, dtype=torch.int32) * 7 // length
    return lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j)


# -- Repeatability -----------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS)
def test_bits_repeat(dims: tuple[int, int], dtype: str) -> None:
    if QUICK and (dtype == "f16" or dims == (80, 80)):
        pytest.skip("--quick")
    for n in fitting((129, 300, 1000, 4096)):
        q, k, v = inputs(Shape(2, 6, 2, n, n), dims, dtype, seed=n)
        variants: dict[str, tuple[Any, Any]] = {"dense": (None, None), "causal": (None, causal)}
        if dims[0] in (64, 128) and dtype == "bf16":
            variants |= {"alibi": (alibi(slopes_of(6)), causal), "softcap": (softcap, causal), "documents": (None, documents(n))}
        for name, mods in variants.items():
            first = run_flex(q, k, v, *mods)
            for _ in range(2):
                assert same_bits(first, run_flex(q, k, v, *mods)), f"{name} {dtype} {dims} {n}: other bits"
            assert not bool(first[0].isnan().any())


def test_bits_do_not_depend_on_the_rest_of_the_call() -> None:
    """A head alone gives what it gives among others, and an output without LSE what it gives with one."""
    q, k, v = inputs(Shape(2, 4, 4, 300, 300))
    for mask in (None, causal):
        output, _ = run_flex(q, k, v, None, mask)
        assert torch.equal(output, heed.flex_attention(q, k, v, mask_mod=mask))
        alone = heed.flex_attention(q[1:, 2:3], k[1:, 2:3], v[1:, 2:3], mask_mod=mask)
        assert torch.equal(output[1:, 2:3], alone)


# -- Extreme scores ----------------------------------------------------------------------------------

def ramps(length: int) -> dict[str, torch.Tensor]:
    t = torch.linspace(0, 1, length, device=DEVICE)
    noise = torch.randn(length, generator=torch.Generator(DEVICE).manual_seed(3), device=DEVICE)
    return {"falling": 1 - t, "rising": t, "tent": 1 - (2 * t - 1).abs(), "noise": noise, "steps": (t * 9).floor() / 9}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS[:3])
def test_moving_maxima(dims: tuple[int, int], dtype: str) -> None:
    """Rows that are nearly one-hot, whose maximum keeps moving along the keys, in whichever order they are walked."""
    n = fitting((300, 1536))[-1]
    for name, ramp in ramps(n).items():
        q, k, v = inputs(Shape(1, 3, 3, n, n), dims, dtype, seed=4, scale=30.0)
        k = (k.float() * ramp[:, None]).to(k.dtype)
        for mask_name, mask in (("dense", None), ("causal", causal)):
            check_flex(q, k, v, None, mask, what=f"{name} {mask_name} {dtype} {dims}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_thousands(dtype: str) -> None:
    """Every key is better than all before it, or worse."""
    n = fitting((300, 1000))[-1]
    for name, ramp in ramps(n).items():
        q, k, v = inputs(Shape(1, 2, 2, 140, n), (64, 64), dtype, seed=9)
        k = ((60 * ramp - 30)[:, None] + k.float()).to(k.dtype)
        check_flex(torch.ones_like(q), k, v, scale=1.0, what=f"{name} {dtype}")


@pytest.mark.parametrize("scale", (0.0, -0.125, -1.0, 1.0, 4.0, 1e-20, 1e-38))
@pytest.mark.parametrize("dtype", ("bf16", "f32"))
def test_scales(dtype: str, scale: float) -> None:
    q, k, v = inputs(Shape(1, 2, 1, 200, 230), (64, 64), dtype, seed=10)
    variants: dict[str, tuple[Any, Any]] = {"causal": (None, causal), "alibi": (alibi(slopes_of(2)), causal), "softcap": (softcap, None)}
    for name, mods in variants.items():
        check_flex(q, k, v, *mods, scale=scale, what=f"{name} scale {scale} {dtype}")


@pytest.mark.parametrize("sign", (1.0, -1.0))
def test_equal_scores(sign: float) -> None:
    """Large and all the same: p is 1 / n, whatever the maximum."""
    q, k, v = inputs(Shape(1, 2, 2, 150, 300))
    ones = torch.ones_like
    for size in (0.0, 1.0, 100.0):
        check_flex(sign * ones(q) * size, ones(k), v, None, causal, what=f"{sign * size}")


# -- Rows that attend to nothing ---------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS)
def test_masked_rows(dims: tuple[int, int], dtype: str) -> None:
    """Whole tiles of them, single rows, and all."""
    for first, last in ((3, 4), (70, 200), (0, 0), (128, 192)):
        def mask(b, h, i, j, first=first, last=last):
            return (i >= first) & (i < last) & (j != i)

        q, k, v = inputs(Shape(1, 2, 1, 260, 150), dims, dtype, seed=first)
        check_flex(q, k, v, None, mask, what=f"{first} to {last} {dtype} {dims}")
    check_flex(*inputs(Shape(1, 2, 1, 1, 1), dims, dtype), None, lambda b, h, i, j: i != j, what="the only key")


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_from_score_mod(dtype: str) -> None:
    q, k, v = inputs(Shape(2, 2, 1, 200, 300), (64, 64), dtype)
    mods = {"causal": lambda s, b, h, i, j: torch.where((i >= j) & (i >= 20), s, -math.inf),
            "columns": lambda s, b, h, i, j: torch.where(j % 3 == 1, s + i, -math.inf),
            "blocks": lambda s, b, h, i, j: torch.where(j // 64 % 2 == 1, s, -math.inf),
            "all": lambda s, b, h, i, j: s - math.inf}
    for name, score_mod in mods.items():
        for mask in (None, causal):
            check_flex(q, k, v, score_mod, mask, what=f"{name} {dtype}")


def test_masks_win_over_scores() -> None:
    """Scale, then score_mod, then mask: a masked score may be anything."""
    q, k, v = inputs(Shape(1, 2, 2, 140, 150))
    for bad in (math.inf, math.nan):
        def score_mod(s, b, h, i, j, bad=bad):
            return torch.where(i < j, bad, s * s)

        check_flex(q, k, v, score_mod, causal, scale=0.3, what=str(bad))


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("dim", (64, 128))
def test_masked_keys_may_hold_anything(dim: int, bad: float) -> None:
    q, k, v = inputs(Shape(1, 2, 1, 200, 200), (dim, dim))
    expected = reference(q[:, :, :150], k, v, None, causal)
    dirty = k.clone()
    dirty[:, :, 150:] = bad
    output, lse = run_flex(q, dirty, v, None, causal)
    check((output[:, :, :150], lse[:, :, :150]), expected, what=str(bad))


@pytest.mark.parametrize("bad", (math.nan, math.inf))
@pytest.mark.parametrize("dim", (64, 128))
def test_not_finite_inputs_stay_in_their_rows(dim: int, bad: float) -> None:
    q, k, v = inputs(Shape(1, 2, 2, 200, 230), (dim, dim))
    clean = reference(q, k, v, None, causal)
    q[0, 1, [40, 70], 5] = bad  # of many keys some have scores of +inf
    output, lse = run_flex(q, k, v, None, causal)
    assert bool(output[0, 1, [40, 70]].isnan().all()), "NaN comes out"
    rows = torch.ones(2, 200, dtype=torch.bool, device=DEVICE)
    rows[1, [40, 70]] = False
    output[0][~rows], lse[0][~rows] = clean.output[0][~rows].to(output.dtype), clean.lse[0][~rows].float()
    check((output, lse), clean, what="the other rows")


# -- Block lists and other results -------------------------------------------------------------------

@pytest.mark.parametrize("batch, heads", [(1, 1), (2, 4)])
@pytest.mark.parametrize("block", (32, 64, 128))
def test_block_lists(batch: int, heads: int, block: int) -> None:
    """Lists with holes and empty rows count, whatever the mask_mod says of skipped blocks."""
    rows, columns, inner = 4, 5, causal
    length, kv_length = rows * block - 11, columns * block - 29
    rng = np.random.default_rng(block)
    kinds = rng.integers(0, 3, (batch, heads, rows, columns)).astype(np.int8)
    kinds[:, :, 2] = 0

    def lists(kind: int) -> list[torch.Tensor]:
        flags = kinds == kind
        return [torch.as_tensor(x.astype(np.int32)).to(DEVICE) for x in (flags.sum(-1), np.argsort(~flags, -1, kind="stable"))]

    block_mask = heed.BlockMask.from_kv_blocks(*lists(1), *lists(2), BLOCK_SIZE=block, mask_mod=inner,
                                               seq_lengths=(length, kv_length))
    q, k, v = inputs(Shape(2, 4, 2, length, kv_length))
    wide = torch.as_tensor(kinds.repeat(block, -1).repeat(block, -2)[..., :length, :kv_length]).to(DEVICE)
    i, j = (torch.arange(n, device=DEVICE) for n in (length, kv_length))
    dense = (wide == 2) | ((wide == 1) & (i[:, None] >= j))
    output, aux = heed.flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True, return_aux=heed.AuxRequest(lse=True))
    check((output, aux.lse), reference(q, k, v, None, dense), what=f"blocks of {block}")


def test_block_masks_of_builders() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    q, k, v = inputs(Shape(2, 4, 4, 300, 350))

    def mask_mod(b, h, i, j):
        return (i + 10 * b >= j) & (j % (h + 2) == 0)

    expected = reference(q, k, v, None, mask_mod)
    for block_mask in (heed.create_block_mask(mask_mod, 2, 4, 300, 350, DEVICE),
                       create_block_mask(mask_mod, 2, 4, 300, 350, DEVICE.type)):
        output, aux = heed.flex_attention(q, k, v, block_mask=block_mask, return_aux=heed.AuxRequest(lse=True))
        check((output, aux.lse), expected, what=type(block_mask).__module__)


@pytest.mark.parametrize("mask", MASKS)
def test_largest_scores(mask: str) -> None:
    q, k, v = inputs(Shape(1, 2, 2, 200, 200))
    aux = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s * 2 - 3, mask_mod=MASKS[mask],
                              return_aux=heed.AuxRequest(max_scores=True))[1]
    s = (q.double() @ k.double().mT / 8 * 2 - 3)
    if mask != "dense":
        i, j = torch.arange(200, device=DEVICE)[:, None], torch.arange(200, device=DEVICE)
        s = s.where((causal if mask == "causal" else window(100))(None, None, i, j), -math.inf)
    torch.testing.assert_close(aux.max_scores.double(), s.amax(-1), rtol=1e-5, atol=1e-4)
    assert aux.lse is None


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "score_mod"), [
    ("masked rows", lambda s, b, h, i, j: s + torch.where(i >= j + 5, 0.0, -1e30)),
    ("left", lambda s, b, h, i, j: s + torch.where(j < 300, -1e9, 0.0)), ("right", lambda s, b, h, i, j: s + torch.where(j > 300, -1e9, 0.0)),
    ("rows", lambda s, b, h, i, j: s - 1e20 * i), ("constant", lambda s, b, h, i, j: s * 0 + 1e20),
    ("mild", lambda s, b, h, i, j: s * 0 + (5e7 + 4 * ((7 * i + 3 * j) % 5))),
    ("rising", lambda s, b, h, i, j: s * 0 + j * 1e9), ("falling", lambda s, b, h, i, j: s * 0 - j * 1e9),
    ("some", lambda s, b, h, i, j: torch.where((i % 7 == 3) & (j % 50 == 9), s * 0 + 1e10 * (j // 200), s)),
    ("around 2^24", lambda s, b, h, i, j: s * 0 + 11629079 + j // 500), ("around -2^24", lambda s, b, h, i, j: s * 0 - 11629081 + j // 500),
])
def test_large_scores(name: str, score_mod: Any, dtype: str, dims: tuple[int, int]) -> None:
    """Softmax knows differences only, so that rows whose scores are all far from 0 have weights like others."""
    if QUICK and (dtype == "f16" or dims == (80, 80)):
        pytest.skip("--quick")
    q, k, v = inputs(Shape(1, 2, 2, 200, 1000), dims, dtype)
    i, j = torch.arange(200, device=DEVICE)[:, None], torch.arange(1000, device=DEVICE)
    dense = score_mod((q.double() @ k.double().mT / math.sqrt(dims[0])).float(), 0, 0, i, j).double()
    expected = dense.softmax(-1) @ v.double()
    output, lse = run_flex(q, k, v, score_mod, None)
    tolerance = {"bf16": 2e-2, "f16": 3e-3, "f32": 2e-5}[dtype]
    assert (output.double() - expected).abs().max() < tolerance, name
    torch.testing.assert_close(lse.double(), dense.logsumexp(-1), rtol=1e-6, atol=1e-3)


def offsets(i: torch.Tensor, j: torch.Tensor) -> dict[str, tuple[Any, Any]]:
    """What is added to scores: a number of each query times one of each key, before the scale."""
    def keys(condition: torch.Tensor, yes: float, no: float) -> tuple[Any, Any]:
        return 1, torch.where(condition, yes, no)

    marked = torch.where(i % 16 == 5, 6e4, 0.0)
    return {
        "little": (1, -48), "more": (1, -320), "much": (1, -3200),
        "rows": (torch.where(i % 3 == 0, -48.0, torch.where(i % 3 == 1, 48.0, -320.0)), 1),
        "columns": keys(j % 8 < 6, -320, 0), "first": keys(j < 5, 160, -320), "later": keys(j < 600, -320, 0), "latest": keys(j < 990, -3200, -48),
        # Maxima are taken from the scores of a warp's rows, of which some have a reference above their largest score. (One large
        # score a row: they are rounded by more than weights may be off.)
        "large beside": (marked - 48, torch.where(j == 700, 6e4, 1.0)), "large below": (marked - 48, torch.where(j == 700, -6e4, 1.0))}


@pytest.mark.parametrize("mask", ("dense", "causal", "window"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", DIMS)
def test_scores_with_signs(dims: tuple[int, int], dtype: str, mask: str) -> None:
    """Maxima of blocks are taken of bits, where scores are not all below zero."""
    if QUICK and (dtype == "f16" or dims == (80, 80) or mask == "window"):
        pytest.skip("--quick")
    i, j = torch.arange(1000, device=DEVICE)[:, None], torch.arange(1000, device=DEVICE)
    mask_mod = {"dense": None, "causal": causal, "window": window(300)}[mask]
    for name, (of_query, of_key) in offsets(i[:, 0], j).items():
        q, k, v = inputs(Shape(1, 2, 2, 1000, 1000), dims, dtype)
        q[..., 0], k[..., 0] = of_query, of_key
        dense = q.double() @ k.double().mT / math.sqrt(dims[0])
        if mask_mod is not None:
            dense = dense.where(mask_mod(None, None, i, j), -math.inf)
        output, aux = heed.flex_attention(q, k, v, mask_mod=mask_mod, return_aux=heed.AuxRequest(lse=True))
        beside, largest = heed.flex_attention(q, k, v, mask_mod=mask_mod, return_aux=heed.AuxRequest(lse=True, max_scores=True))
        tolerance = 3e-2 if dtype == "bf16" else 1e-2  # scores of thousands are rounded by so much
        for result, of_result in ((output, aux), (beside, largest)):
            assert (result.double() - dense.softmax(-1) @ v.double()).abs().max() < tolerance, name
            torch.testing.assert_close(of_result.lse.double(), dense.logsumexp(-1), rtol=1e-5, atol=2e-3, msg=name)
        torch.testing.assert_close(largest.max_scores.double(), dense.amax(-1), rtol=1e-5, atol=2e-3, msg=name)
        if not name.startswith("large"):  # whose rows have other references where largest scores are known
            assert torch.equal(output, beside) and torch.equal(aux.lse, largest.lse), name


@pytest.mark.parametrize("dims", DIMS[:3])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("captured", ["full", "keys", "queries", "heads"])
def test_largest_addends(captured: str, dtype: str, dims: tuple[int, int]) -> None:
    """Biases up to the largest number, as masks of the transformers library are, for a few keys and for whole rows."""
    q, k, v = inputs(Shape(1, 3, 3, 200, 500), dims, dtype)
    shape = {"full": (200, 500), "keys": (500,), "queries": (200,), "heads": (3,)}[captured]
    numbers = torch.tensor([0, 1, -2, -1e38, torch.finfo(torch.float32).min], device=DEVICE)
    bias = numbers[torch.randint(5, shape, generator=torch.Generator(DEVICE).manual_seed(6), device=DEVICE)]
    bias[::3] = -1e38

    def score_mod(s, b, h, i, j):
        return s + {"full": lambda: bias[i, j], "keys": lambda: bias[j], "queries": lambda: bias[i], "heads": lambda: bias[h]}[captured]()

    i, j, h = torch.arange(200, device=DEVICE)[:, None], torch.arange(500, device=DEVICE), torch.arange(3, device=DEVICE)
    dense = score_mod((q.double() @ k.double().mT / math.sqrt(dims[0])).float(), 0, h[:, None, None], i, j).double()
    output, _ = run_flex(q, k, v, score_mod, None)
    tolerance = {"bf16": 2e-2, "f32": 2e-5}[dtype]
    assert (output.double() - dense.softmax(-1) @ v.double()).abs().max() < tolerance


BITS = {
    "blocks of 128": lambda b, h, i, j: (i & -128) == (j & -128), "distance": lambda b, h, i, j: (i ^ j) < 128,
    "odd": lambda b, h, i, j: ((i ^ j) & 1) == 1, "either": lambda b, h, i, j: (i | j) < 300, "sparse": lambda b, h, i, j: (i & j) == 0,
    "heads": lambda b, h, i, j: ((j >> (5 + h)) & 1) == ((i >> (5 + h)) & 1), "causal": lambda b, h, i, j: ((i & ~63) >= j) | (i == j),
}


@pytest.mark.parametrize("dims", DIMS[:3])
@pytest.mark.parametrize("name", BITS)
def test_bits_of_positions(name: str, dims: tuple[int, int]) -> None:
    for n in fitting((129, 700, 2048)):
        check_flex(*inputs(Shape(1, 2, 2, n, n), dims, seed=n), None, BITS[name], what=f"{name} {dims} {n}")


@pytest.mark.parametrize("shape", [Shape(0, 2, 2, 5, 5), Shape(2, 2, 2, 0, 5), Shape(2, 2, 2, 5, 0), Shape(2, 0, 0, 5, 5)])
def test_no_elements(shape: Shape) -> None:
    q, k, v = inputs(shape)
    output, lse = run_flex(q, k, v, None, causal)
    assert output.shape == q.shape and lse.shape == q.shape[:3]
    assert bool((output == 0).all()) and bool((lse == -math.inf).all())


def test_inputs_stay() -> None:
    arrays = inputs(Shape(2, 4, 2, 200, 300))
    copies = [x.clone() for x in arrays]
    run_flex(*arrays, None, causal)
    assert all(torch.equal(a, b) for a, b in zip(arrays, copies))


# -- Distances ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("dims", DIMS[:3])
def test_magnitudes(dims: tuple[int, int]) -> None:
    """|a - b| against bounds of either sign, where a and b are never negative for some numbers and are for others."""
    n = fitting((300, 1000))[-1]
    q, k, v = inputs(Shape(1, 2, 2, n, n), dims, seed=9)
    for width, highest, most in ((32, 20, 3), (32, -2, 3), (-32, 20, 9), (7, 3, 0), (7, 3, -1), (1000, 999, 2**31 - 1),
                                 (16, -(2**31) + 8, 5), (0, 4, 4)):
        def columns(b, h, i, j, width=width, highest=highest, most=most):
            x = torch.clamp(i % width, max=highest) if width else torch.clamp(i * 0, max=highest)
            return (x - (j % width if width else j * 0)).abs() <= most

        def rows(b, h, i, j, width=width or 1, most=most):
            return (j // width - i // width).abs() < most

        def far(b, h, i, j, width=width, most=most):
            return ((i - j).abs() > most) | ((i - j).abs() < abs(width))

        for mask in (columns, rows, far):
            check_flex(q, k, v, None, mask, what=f"{mask.__name__} width {width} highest {highest} most {most} {dims}")
