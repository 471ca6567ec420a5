# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Captured tensors that arrive with the keys: full biases and masks, and what is computed along keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import DEVICE, Shape, causal, check_flex, inputs, same_bits

import heed

DIMS = (64, 128, 256)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(sum(shape))
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator, device=DEVICE) < 0.6
    if not dtype.is_floating_point:
        return torch.randint(-3, 4, shape, generator=generator, device=DEVICE, dtype=dtype)
    return torch.randn(shape, generator=generator, device=DEVICE).to(dtype)


def added(bias: torch.Tensor, dims: str) -> Any:
    """score + bias[...], indexed by `dims`: of b, h, q, k."""

    def score_mod(s, b, h, q, k):
        at = {"b": b, "h": h, "q": q, "k": k}
        return s + bias[tuple(at[d] for d in dims)] * 0.5

    return score_mod


# -- Full biases and masks ---------------------------------------------------------------------------

@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", (torch.bfloat16, torch.float16, torch.float32, torch.int32, torch.int8))
def test_full_bias(kind: torch.dtype, dim: int) -> None:
    """Lengths whose strides the copy engine takes (400 elements) and does not (333)."""
    for q_length, kv_length in ((136, 400), (300, 333)):
        q, k, v = inputs(Shape(2, 4, 2, q_length, kv_length), (dim, dim))
        check_flex(q, k, v, added(random(4, q_length, kv_length, dtype=kind), "hqk"))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", (torch.bfloat16, torch.float32, torch.int8))
def test_bits_repeat(kind: torch.dtype, dim: int) -> None:
    """A tile of the bias must not be overwritten while it is read: many small calls, whose warps are not in step."""
    for lengths, options in (((136, 400), {}), ((400, 400), {}), ((136, 400), {"num_warpgroups": 3, "BLOCK_N": 32})):
        if options and (dim == 256 or DEVICE.type == "cpu"):
            continue  # does not fit
        q, k, v = inputs(Shape(2, 4, 4, *lengths), (dim, dim))
        score_mod = added(random(4, *lengths, dtype=kind), "hqk")
        first, _ = check_flex(q, k, v, score_mod, kernel_options=options)
        for number in range(3 if DEVICE.type == "cpu" else 1000):
            found = heed.flex_attention(q, k, v, score_mod, kernel_options=options)
            assert same_bits([first], [found]), f"call {number} of {lengths}, {options}"


@pytest.mark.parametrize("dims", ("qk", "bqk", "hqk", "bhqk"))
@pytest.mark.parametrize("masked", (False, True))
def test_dimensions(dims: str, masked: bool) -> None:
    q, k, v = inputs(Shape(3, 4, 4, 200, 208))
    sizes = {"b": 3, "h": 4, "q": 200, "k": 208}
    bias = random(*(sizes[d] for d in dims), dtype=torch.bfloat16)
    check_flex(q, k, v, added(bias, dims), causal if masked else None)


def test_layouts() -> None:
    """Broadcast dimensions, slices, columns that are not dense, addresses that are not aligned."""
    q, k, v = inputs(Shape(2, 4, 4, 192, 192))
    full = random(2, 4, 200, 400, dtype=torch.bfloat16)
    shifted = random(2 * 4 * 192 * 192 + 1, dtype=torch.bfloat16)[1:].view(2, 4, 192, 192)
    layouts = {"batches share": full[:1].expand(2, -1, -1, -1), "heads share": full[:, :1].expand(-1, 4, -1, -1),
               "rows share": full[:, :, :1].expand(-1, -1, 192, -1), "slice": full[:, :, 8:, 16:], "odd slice": full[:, :, 3:, 5:],
               "every other column": full[..., ::2], "shifted": shifted, "transposed": full.mT}
    for name, bias in layouts.items():
        check_flex(q, k, v, added(bias, "bhqk"), causal, what=name)


@pytest.mark.parametrize("dim", DIMS)
def test_boolean_mask(dim: int) -> None:
    for length in (256, 333):
        q, k, v = inputs(Shape(2, 4, 2, length, length), (dim, dim))
        keep = random(2, length, length, dtype=torch.bool)
        keep[:, 70:140] = False  # rows that attend to nothing
        check_flex(q, k, v, None, lambda b, h, i, j, keep=keep: keep[b, i, j])
        check_flex(q, k, v, None, lambda b, h, i, j, keep=keep: keep[b, i, j] & (i >= j))


@pytest.mark.parametrize("dims", ((128, 256), (192, 256), (64, 128), (128, 64)))
def test_wider_values(dims: tuple[int, int]) -> None:
    """Without a place of its own the output takes that of the queries."""
    q, k, v = inputs(Shape(2, 4, 4, 520, 520), dims)
    bias = random(4, 520, 520)
    check_flex(q, k, v, added(bias, "hqk"), causal)
    check_flex(q, k, v, added(bias.bfloat16(), "hqk"))


def test_one_stage() -> None:
    """Instances that let blocks pass give back what lies beside them before the values arrive."""
    q, k, v = inputs(Shape(1, 2, 2, 512, 512), (64, 64))
    check_flex(q, k, v, added(random(2, 512, 512), "hqk"), causal,
               kernel_options={"num_stages": 1, "num_warpgroups": 2, "BLOCK_N": 64})


def test_bias_of_a_chosen_table() -> None:
    q, k, v = inputs(Shape(1, 2, 2, 200, 200), (64, 64))
    ids, tables = random(200, dtype=torch.int32).abs(), random(4, 200, 200)
    check_flex(q, k, v, lambda s, b, h, i, j: s + tables[ids[j], i, j])


def test_bias_and_mask() -> None:
    q, k, v = inputs(Shape(2, 4, 2, 320, 320), (128, 128))
    keep, bias = random(320, 320, dtype=torch.bool), random(4, 320, 320)
    check_flex(q, k, v, added(bias, "hqk"), lambda b, h, i, j: keep[i, j])


# -- Along keys --------------------------------------------------------------------------------------

@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", (torch.int32, torch.int64, torch.int8, torch.bool))
def test_ids(kind: torch.dtype, dim: int) -> None:
    """At lengths that are no multiple of a block, so that keys beyond the end are read too."""
    for length in (130, 1000):
        q, k, v = inputs(Shape(2, 4, 2, length, length), (dim, dim))
        ids = (torch.arange(length, device=DEVICE) * 5 // length).to(kind).expand(2, -1).contiguous()
        check_flex(q, k, v, None, lambda b, h, i, j, ids=ids: (ids[b, i] == ids[b, j]) & (i >= j))


@pytest.mark.parametrize("dim", DIMS)
def test_chains_and_grids(dim: int) -> None:
    length, width = 700, 27
    q, k, v = inputs(Shape(1, 4, 4, length, length), (dim, dim))
    ids = torch.arange(length, device=DEVICE, dtype=torch.int32) * 6 // length
    starts = torch.searchsorted(ids, torch.arange(6, device=DEVICE, dtype=torch.int32)).int()
    check_flex(q, k, v, None, lambda b, h, i, j: (ids[i] == ids[j]) & (j - starts[ids[j]] < 90))
    check_flex(q, k, v, None, lambda b, h, i, j: ((i // width - j // width).abs() <= 4) & ((i % width - j % width).abs() <= 4))


def test_weights_of_keys() -> None:
    """In score_mod, of every block: f32 numbers, and functions of them."""
    q, k, v = inputs(Shape(2, 4, 4, 300, 500), (128, 128))
    weight = random(2, 500)
    check_flex(q, k, v, lambda s, b, h, i, j: s * weight[b, j] + torch.tanh(weight[b, j]), causal)


def test_skipped_blocks_between() -> None:
    """An instance that a block does not concern, among others that it concerns in part."""
    length = 2048
    q, k, v = inputs(Shape(1, 2, 2, length, length), (128, 128))
    ids = (torch.arange(length, device=DEVICE) // 64 % 5).int()
    check_flex(q, k, v, None, lambda b, h, i, j: ids[i] == ids[j])
