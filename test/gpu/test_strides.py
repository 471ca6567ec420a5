# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Layouts of operands, outputs and captured tensors: aligned for the copy engine, and not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import ROOT
from support import DEVICE, MASKS, Shape, alibi, causal, check, check_flex, inputs, poisoned, reference, slopes_of

import heed

Layout = Callable[[torch.Tensor], torch.Tensor]


def _room(x: torch.Tensor, extents: tuple[int, ...], strides: tuple[int, ...], offset: int) -> torch.Tensor:
    """x in NaN-filled memory, with these strides."""
    size = offset + sum((n - 1) * s for n, s in zip(extents, strides)) + 1 + 64
    room = torch.full((max(size, 64),), math.nan, dtype=x.dtype, device=x.device)
    return room.as_strided(extents, strides, offset).copy_(x)


def bhsd(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous()


def bshd(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def sbhd(x: torch.Tensor) -> torch.Tensor:
    return x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)


def packed(x: torch.Tensor) -> torch.Tensor:
    """A third of a projection: (B, S, 3, H, D)."""
    b, h, s, d = x.shape
    return _room(x, (b, h, s, d), (s * 3 * h * d, d, 3 * h * d, 1), h * d)


def every_other_head(x: torch.Tensor) -> torch.Tensor:
    b, h, s, d = x.shape
    return _room(x, (b, h, s, d), (2 * h * s * d, 2 * s * d, d, 1), s * d)


def odd_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows of D + 1 elements: none but the first is aligned."""
    b, h, s, d = x.shape
    return _room(x, (b, h, s, d), (h * s * (d + 1) + 3, s * (d + 1) + 1, d + 1, 1), 0)


def off_by_one(x: torch.Tensor) -> torch.Tensor:
    """Rows as they should be, from an address that is not."""
    b, h, s, d = x.shape
    return _room(x, (b, h, s, d), (h * s * d, s * d, d, 1), 1)


def odd_heads(x: torch.Tensor) -> torch.Tensor:
    """Aligned rows in unaligned heads."""
    b, h, s, d = x.shape
    return _room(x, (b, h, s, d), (h * (s * d + 4), s * d + 4, d, 1), 0)


LAYOUTS: tuple[Layout, ...] = (bhsd, bshd, sbhd, packed, every_other_head, odd_rows, off_by_one, odd_heads)


@functools.cache
def causal_file() -> Any:
    return heed.load(ROOT / "examples" / "causal.heed")


@pytest.mark.parametrize("dtype, dims", [("bf16", (64, 64)), ("bf16", (128, 128)), ("bf16", (24, 80)), ("f32", (64, 64))])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands(layout: Layout, dtype: str, dims: tuple[int, int]) -> None:
    """All operands and the output in one layout; what lies between the output's elements stays."""
    for shape in (Shape(2, 4, 2, 131, 150), Shape(2, 4, 2, 300, 260)):
        plain = inputs(shape, dims, dtype, seed=5)
        q, k, v = (layout(x) for x in plain)
        out = layout(poisoned(plain[0], dims[1])[0])
        before = _memory(out).clone()
        lse = torch.full((shape.B, shape.Sq, 2 * shape.Hq), math.nan, device=DEVICE)[:, :, ::2].transpose(1, 2)
        causal_file()(q, k, v, out=out, lse=lse)
        check((out, lse), reference(*plain, None, causal), what=f"{layout.__name__} {dtype} {dims} {shape}")
        assert bool(lse.as_strided((lse.numel(),), (2,), 1).isnan().all()), "wrote between the LSEs"
        out.fill_(math.nan)
        now = _memory(out)
        assert torch.equal(now.isnan(), before.isnan()), "wrote outside the output"


def _memory(x: torch.Tensor) -> torch.Tensor:
    """All elements of the storage that x is a view of."""
    return x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_one_operand(layout: Layout, which: int) -> None:
    """One operand in a layout of its own, through flex_attention, whose output is in the query's order."""
    plain = inputs(Shape(2, 4, 2, 131, 150), seed=6)
    arrays = list(plain)
    arrays[which] = layout(arrays[which])
    output, _ = check_flex(*arrays, None, causal, what=f"{layout.__name__} of {'qkv'[which]}")
    order = [sorted(range(3), key=lambda axis, x=x: -x.stride(axis)) for x in (arrays[0], output)]
    assert order[0] == order[1], "stride order of the query"


def test_inner_strides() -> None:
    q, k, v = inputs(Shape(1, 2, 2, 131, 150))
    check_flex(q.mT.contiguous().mT, k.mT.contiguous().mT, v.repeat_interleave(2, -1)[..., ::2], None, causal)


@pytest.mark.parametrize("mask", MASKS)
def test_batch_broadcast(mask: str) -> None:
    q, k, v = inputs(Shape(3, 4, 2, 140, 160, Bkv=1))
    check_flex(q, k, v, None, MASKS[mask], what=mask)


@pytest.mark.parametrize("dim", (64, 128))
def test_zero_strides(dim: int) -> None:
    q, k, v = inputs(Shape(1, 1, 1, 200, 220), (dim, dim))
    wide = [x.expand(3, 4, -1, -1) for x in (q, k, v)]
    check_flex(*wide, None, causal, what="batch and heads")
    check_flex(wide[0], wide[1][:, :2], wide[2][:, :2], None, None, what="and groups")
    check_flex(q, k[:, :, :1].expand(-1, -1, 220, -1), v, None, causal, what="one key")
    check_flex(q[:, :, :1].expand(-1, -1, 200, -1), k, v, None, causal, what="one query")
    check_flex(q[..., :1].expand(-1, -1, -1, dim), k, v, None, None, what="one column")


def test_slices() -> None:
    """Views into longer sequences, as a cache gives them."""
    q, k, v = inputs(Shape(2, 4, 4, 400, 500))
    check_flex(q[:, :, 100:230], k[:, :, 7:300], v[:, :, 7:300], None, causal, what="of the sequence")
    check_flex(q[:, 1:3], k[:, 2:4], v[:, ::2], None, causal, what="of the heads")
    check_flex(q[1:], k[:1], v[:1], None, None, what="of the batch")
    check_flex(q[..., :24], k[..., 8:32], v[..., 3:43], None, causal, what="of the head dim")


def test_captured_tensors() -> None:
    q, k, v = inputs(Shape(2, 4, 2, 140, 140), seed=7)
    generator = torch.Generator(DEVICE).manual_seed(8)
    table = torch.randn(140, 300, generator=generator, device=DEVICE)

    def adding(bias: torch.Tensor) -> Any:
        return lambda s, b, h, i, j: s + bias[i, j]

    for bias in (table, table[:, ::2], table[:, :140].T, table[0, :140].expand(140, 140), table[:, 150:], table[:, 1:],
                 table.bfloat16()[:, 3:], table.half(), (table * 3).int(), (table * 3).long(), table > 0):
        check_flex(q, k, v, adding(bias), causal, what=f"{bias.dtype} {tuple(bias.stride())}")
    slopes = slopes_of(8)
    for some in (slopes[::2], slopes[4:].flip(0), slopes[:1].expand(4), slopes[1:5]):
        check_flex(q, k, v, alibi(some), causal, what=f"slopes {some.stride()}")
    scalar = torch.tensor(0.3, device=DEVICE)
    check_flex(q, k, v, lambda s, b, h, i, j: s * scalar, None, what="0-d")
    deep = torch.randn(2, 4, 10, 10, 3, generator=generator, device=DEVICE)
    check_flex(q, k, v, lambda s, b, h, i, j: s + deep[b, h, i // 14, j // 14, 1], None, what="5-d")
