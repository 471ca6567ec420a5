# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Block lists made on the device: the same as those that the CPU makes, at once, and in the order of the stream."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gym_mods import GYM
from support import DEVICE, Shape, causal, check_flex, fitting, inputs
from test_streams import SPIN

import heed
from heed import given_lists

LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices",
         "q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
takes_a_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="takes a GPU")


def check_lists(mask_mod: Any, extents: tuple[Any, Any, int, int], block_size: Any, note: Any = "",
                **options: bool) -> heed.BlockMask:
    found = heed.create_block_mask(mask_mod, *extents, device=DEVICE, BLOCK_SIZE=block_size, **options)
    expected = heed.create_block_mask(mask_mod, *extents, device="numpy", BLOCK_SIZE=block_size, **options)
    for name in LISTS:
        array = getattr(found, name)
        if array is None:
            assert getattr(expected, name) is None, name
            continue
        assert array.device.type == DEVICE.type and array.dtype == torch.int32 and array.is_contiguous(), (name, note)
        np.testing.assert_array_equal(array.cpu().numpy(), getattr(expected, name), err_msg=str((name, extents, block_size, note)))
    return found


def case_of(name: str) -> Any:
    with torch.device(DEVICE):
        return GYM[name](np.random.default_rng(0))


@pytest.mark.parametrize("name", [name for name in GYM if case_of(name).mask_mod is not None])
def test_gym(name: str) -> None:
    case = case_of(name)
    lengths = [(case.Sq, case.Skv), *fitting([(1, 1), (127, 129), (1000, 128), (129, 4096)])]
    for q_len, kv_len in lengths:
        for block_size in (16, 128, (64, 256)):
            check_lists(case.mask_mod, (case.B, case.H, q_len, kv_len), block_size, name)


def documents(length: int, count: int, seed: int = 0) -> torch.Tensor:
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, length), count - 1, replace=False))
    sizes = np.diff(np.concatenate(([0], cuts, [length])))
    return torch.as_tensor(np.repeat(np.arange(count, dtype=np.int32), sizes), device=DEVICE)


def masks(length: int) -> dict[str, Callable[..., Any]]:
    document, width = documents(length, max(2, length // 131)), 1 << (length.bit_length() // 2)
    return {"documents": lambda b, h, q, kv: (q >= kv) & (document[q] == document[kv]),
            "neighbourhood": lambda b, h, q, kv: (abs(q // width - kv // width) <= 8) & (abs(q % width - kv % width) <= 8),
            "window": lambda b, h, q, kv: (q >= kv) & (q - kv <= 1024), "strided": lambda b, h, q, kv: (q - kv) % 200 == 0}


@pytest.mark.parametrize("length", fitting([300, 8192, 131_072 - 77]))
@pytest.mark.parametrize("name", ("documents", "neighbourhood", "window", "strided"))
def test_lengths(name: str, length: int) -> None:
    check_lists(masks(length)[name], (None, None, length, length), 128)


@pytest.mark.full
@pytest.mark.parametrize("length", fitting([1 << 20]))
@pytest.mark.parametrize("name", ("documents", "neighbourhood", "window"))
def test_a_million(name: str, length: int) -> None:
    check_lists(masks(length)[name], (None, None, length, length), 512)


@takes_a_gpu
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", ("documents", "neighbourhood", "window", "strided"))
def test_either_walk(name: str, head_dim: int) -> None:
    """Blocks that the kernel finds as it comes to them, and lists that were made before."""
    q, k, v = inputs(Shape(1, 2, 2, 1100, 1100), (head_dim, head_dim))
    mask_mod = masks(1100)[name]
    plain = heed.flex_attention(q, k, v, mask_mod=mask_mod)
    for walk in ("bounds", "lists"):
        found, _ = check_flex(q, k, v, mask_mod=mask_mod, kernel_options={"BLOCK_WALK": walk})
        assert torch.equal(found, plain), walk


def test_random_masks() -> None:
    pytest.importorskip("hypothesis")
    from hypothesis import Phase, given
    from hypothesis import strategies as st
    from random_masks import GEOMETRY, Geometry, draws, function_of, mask_texts, random_captures

    @draws(100, phases=(Phase.explicit, Phase.generate))
    @given(mask_texts(), st.integers(0, 2 ** 32 - 1), st.integers(1, 2), st.integers(1, 3), GEOMETRY)
    def run(text: str, seed: int, B: int, H: int, g: Geometry) -> None:
        # torch has no negative strides.
        captures = {name: torch.tensor(x.tolist(), dtype=torch.from_numpy(x[:0].copy()).dtype, device=DEVICE) if isinstance(x, np.ndarray) else x
                    for name, x in random_captures(seed).items()}
        check_lists(function_of(text, captures), (B, H, g.q_len, g.kv_len), (g.q_block, g.kv_block), (text, seed))

    run()


def test_masks_of_nothing() -> None:
    for extents in ((1, 1, 0, 100), (1, 1, 100, 0), (0, 1, 10, 10), (2, 0, 10, 10)):
        check_lists(causal, extents, 16)


def test_full_blocks_among_the_partial_ones() -> None:
    for name, mask_mod in masks(1000).items():
        found = check_lists(mask_mod, (None, None, 1000, 1000), 16, name, separate_full_blocks=False)
        assert found.full_kv_indices is None and found.full_q_indices is None


def test_lists_feed_kernels() -> None:
    """Given lists on the device, of what the device found."""
    shape, document = Shape(2, 4, 4, 1000, 1000), documents(1000, 7)

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (q >= kv) & (document[q] == document[kv])

    made = heed.create_block_mask(mask_mod, None, None, 1000, 1000, device=DEVICE)
    given = heed.BlockMask.from_kv_blocks(made.kv_num_blocks, made.kv_indices, made.full_kv_num_blocks, made.full_kv_indices,
                                          mask_mod=mask_mod, seq_lengths=(1000, 1000))
    query, key, value = inputs(shape)
    check_flex(query, key, value, None, mask_mod)
    expected = heed.flex_attention(query, key, value, mask_mod=mask_mod)
    found = heed.flex_attention(query, key, value, block_mask=given)
    assert (expected.float() - found.float()).abs().max() < 0.02


@takes_a_gpu
def test_given_lists_that_change() -> None:
    """By the quick way, from lists as they are when the call's kernel gets to them."""
    query, key, value = inputs(Shape(2, 4, 4, 1000, 1000))
    indices = torch.arange(8, device=DEVICE, dtype=torch.int32).expand(2, 1, 8, 8).contiguous()
    counts = torch.full((2, 1, 8), 2, device=DEVICE, dtype=torch.int32)
    given = heed.BlockMask.from_kv_blocks(counts, indices, seq_lengths=(1000, 1000))
    for number in (2, 5, 8):
        counts.fill_(number)
        assert given_lists.quick_mask(given, query, key) is not None
        found = heed.flex_attention(query, key, value, block_mask=given)
        expected = heed.flex_attention(query, key[:, :, :128 * number], value[:, :, :128 * number])
        assert (found.float() - expected.float()).abs().max() < 0.02
    torch.cuda.synchronize()
    torch.cuda._sleep(100 * SPIN)
    heed.flex_attention(query, key, value, block_mask=given)
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "a call waited for the stream"


@takes_a_gpu
def test_nothing_waits() -> None:
    document = documents(8192, 50)

    def make() -> torch.Tensor:
        made = heed.create_block_mask(lambda b, h, q, kv: document[q] == document[kv], None, None, 8192, 8192, device=DEVICE)
        lists = [getattr(made, name) for name in LISTS]
        return lists[1]

    expected = make().clone()
    torch.cuda.synchronize()
    torch.cuda._sleep(100 * SPIN)
    found = make()
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "making lists waited for the stream"
    assert (found == expected).all()


@takes_a_gpu
def test_graphs() -> None:
    """A graph makes the lists of what the tensors hold when it is replayed."""
    document = documents(4096, 20)

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return document[q] == document[kv]

    def make() -> list[torch.Tensor]:
        made = heed.create_block_mask(mask_mod, None, None, 4096, 4096, device=DEVICE)
        return [getattr(made, name) for name in LISTS]

    make()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = make()
    document.copy_(documents(4096, 33, seed=1))
    graph.replay()
    for x, y in zip(found, make()):
        assert (x == y).all()


@takes_a_gpu
def test_streams() -> None:
    """The q lists are made on another stream than the kv lists, of one matrix, which may come late; and copies."""
    document = documents(8192, 50)

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return document[q] <= document[kv]

    expected = check_lists(mask_mod, (None, None, 8192, 8192), 64)
    made = heed.create_block_mask(mask_mod, None, None, 8192, 8192, device=DEVICE, BLOCK_SIZE=64)
    torch.cuda.synchronize()
    torch.cuda._sleep(10 * SPIN)
    assert made.kv_indices is not None
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        found = made.q_indices.clone()
    side.synchronize()
    assert (found == expected.q_indices).all()
    assert (copy.deepcopy(made).q_indices == expected.q_indices).all()


@takes_a_gpu
def test_captures_elsewhere() -> None:
    """What lies on the CPU is read there, and the lists go to the device."""
    document = documents(1000, 9).cpu()
    check_lists(lambda b, h, q, kv: document[q] == document[kv], (None, None, 1000, 1000), 64)
