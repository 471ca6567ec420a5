# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.block_mask against torch's BlockMask, and against brute force where Heed means to differ."""

from __future__ import annotations

import copy
import functools
import itertools
import re
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import heed
from heed import block_mask as bm
from heed import kernel, tracing

torch = pytest.importorskip("torch")
flex = pytest.importorskip("torch.nn.attention.flex_attention")
pytree = torch.utils._pytree

LENGTHS = (1, 37, 127, 128, 129, 300)
BLOCK_SIZES = (16, 64, 128, (64, 128), (256, 32))
DOCUMENTS = torch.repeat_interleave(torch.arange(7), torch.tensor([3, 60, 64, 1, 100, 30, 42]))  # 300 long
ENDS = torch.tensor([3, 63, 127, 128, 228, 258])
PAIRS = list(zip(bm._LIST_NAMES[::2], bm._LIST_NAMES[1::2]))


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx - kv_idx <= 40) & (kv_idx - q_idx <= 9)


def prefix(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (kv_idx < 70) | (q_idx >= kv_idx)


def documents(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return DOCUMENTS[q_idx] == DOCUMENTS[kv_idx]


def searched(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return torch.searchsorted(ENDS, q_idx, right=True) == torch.bucketize(kv_idx, ENDS, right=True)


def dilated(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx - kv_idx) % 3 == 0


def tiles(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx // 32) % 3 == (kv_idx // 32) % 3


def chunks(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx // 50 == kv_idx // 50) & (q_idx >= kv_idx)


def video(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Frames of 6 x 10 pixels: a neighbourhood of the same and the frame before."""
    frames, rows, columns = q_idx // 60 - kv_idx // 60, q_idx // 10 % 6 - kv_idx // 10 % 6, q_idx % 10 - kv_idx % 10
    return (frames >= 0) & (frames <= 1) & (abs(rows) <= 2) & (abs(columns) <= 3)


def nothing(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx < 0


def everything(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= 0


def one_pair(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx == 36) & (kv_idx == 20)


def per_head(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx - kv_idx >= h * 30


def per_batch(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return kv_idx < 40 + b * 100


def per_both(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx * (h + 1) + b * 100


MASKS: dict[Callable[..., Any], tuple[int | None, int | None]] = {
    causal: (None, None), window: (None, None), prefix: (1, 1), documents: (None, None), searched: (None, None),
    dilated: (None, 2), tiles: (None, None), video: (None, 1), chunks: (1, None), nothing: (2, 1), everything: (2, 3), one_pair: (None, None),
    per_head: (None, 3), per_batch: (2, None), per_both: (2, 3)}


def make(mask_mod: Any = causal, B: int | None = None, H: int | None = None, q_len: int = 300, kv_len: int = 300,
         block_size: Any = 64, device: Any = "cpu") -> bm.BlockMask:
    return bm.create_block_mask(mask_mod, B, H, q_len, kv_len, device=device, BLOCK_SIZE=block_size)


@functools.cache  # torch takes 10 ms
def make_torch(mask_mod: Any = causal, B: int | None = None, H: int | None = None, q_len: int = 300,
               kv_len: int = 300, block_size: Any = 64) -> Any:
    return flex.create_block_mask(mask_mod, B, H, q_len, kv_len, device="cpu", BLOCK_SIZE=block_size)


def used(counts: Any, indices: Any) -> list[list[int]]:
    """The entries that a pair of lists means, row by row."""
    counts, indices = np.asarray(counts), np.asarray(indices)
    return [row[:count].tolist() for row, count in zip(indices.reshape(counts.size, indices.shape[-1]), counts.reshape(-1))]


def assert_same_lists(ours: bm.BlockMask, theirs: Any, tail: bool = True) -> None:
    for counts, indices in PAIRS:
        expected, found = getattr(theirs, counts), getattr(ours, counts)
        assert (found is None) == (expected is None), counts
        if expected is None:
            continue
        assert torch.equal(found, expected), counts
        expected_indices, found_indices = getattr(theirs, indices), getattr(ours, indices)
        assert found.dtype == found_indices.dtype == torch.int32
        assert found_indices.shape == expected_indices.shape, indices
        if tail:
            assert torch.equal(found_indices, expected_indices), indices
        else:
            assert used(found, found_indices) == used(expected, expected_indices), indices


def assert_same(ours: bm.BlockMask, theirs: Any, text: bool = True) -> None:
    """All members are what torch's are; `text`: its pictures too, which take torch long."""
    assert_same_lists(ours, theirs)
    assert ours.shape == theirs.shape and ours.seq_lengths == theirs.seq_lengths
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    assert ours.numel() == theirs.numel() and ours.sparsity() == theirs.sparsity()
    dense = ours.to_dense()
    assert dense.dtype == torch.int32 and torch.equal(dense, theirs.to_dense())
    if text:
        assert str(ours) == str(theirs)
    assert repr(ours).split("mask_mod")[0] == repr(theirs).split("mask_mod")[0]


def kinds_of(mask: Any) -> np.ndarray:
    """block_kinds of a well-formed mask with q lists, written a second time and from the q lists."""
    rows, columns = mask.kv_num_blocks.shape[-1], mask.q_num_blocks.shape[-1]
    kinds = np.zeros((*mask.kv_num_blocks.shape[:-1], rows, columns), np.int8)
    for kind, (counts, indices) in zip((1, 2), PAIRS[2:]):
        if getattr(mask, counts) is not None:
            for position in np.ndindex(*getattr(mask, counts).shape):
                for row in getattr(mask, indices)[position][:int(getattr(mask, counts)[position])]:
                    kinds[(*position[:-1], int(row), position[-1])] = kind
    return kinds


def random_lists(rng: np.random.Generator, kinds: np.ndarray, width: int | None = None,
                 ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """kv lists of `kinds` in random order; unused entries are far out of range."""
    lists = []
    for kind in (1, 2):
        flags = kinds == kind
        counts = flags.sum(-1).astype(np.int32)
        indices = np.full((*flags.shape[:-1], width or flags.shape[-1]), 10 ** 9, np.int32)
        for position in np.ndindex(*counts.shape):
            indices[position][:counts[position]] = rng.permutation(np.flatnonzero(flags[position]))
        lists += [counts, indices]
    return tuple(lists)


# create_block_mask against torch.


@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=str)
@pytest.mark.parametrize("mask_mod", MASKS, ids=lambda mask_mod: mask_mod.__name__)
def test_same_as_torch(mask_mod: Any, block_size: Any) -> None:
    B, H = MASKS[mask_mod]
    # Every other pair; the slow test below takes all.
    for q_len, kv_len in list(zip(LENGTHS, LENGTHS[2:] + LENGTHS[:2]))[BLOCK_SIZES.index(block_size) % 2::2]:
        theirs = make_torch(mask_mod, B, H, q_len, kv_len, block_size)
        ours = make(mask_mod, B, H, q_len, kv_len, block_size)
        assert_same(ours, theirs, text=q_len >= 128)
        assert all(getattr(ours, name).is_contiguous() for name in bm._LIST_NAMES)
        np.testing.assert_array_equal(ours.block_kinds(), kinds_of(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=str)
@pytest.mark.parametrize("mask_mod", MASKS, ids=lambda mask_mod: mask_mod.__name__)
def test_same_as_torch_for_all_lengths(mask_mod: Any, block_size: Any) -> None:
    B, H = MASKS[mask_mod]
    for q_len, kv_len in itertools.product(LENGTHS, LENGTHS):
        assert_same(make(mask_mod, B, H, q_len, kv_len, block_size), make_torch(mask_mod, B, H, q_len, kv_len, block_size))


@pytest.mark.parametrize("block_size", (16, (64, 128)), ids=str)
@pytest.mark.parametrize("mask_mod", MASKS, ids=lambda mask_mod: mask_mod.__name__)
def test_full_blocks_among_the_partial_ones(mask_mod: Any, block_size: Any) -> None:
    """separate_full_blocks=False, for which torch has no lists of full blocks."""
    ours, theirs = (create(mask_mod, *MASKS[mask_mod], 300, 256, device="cpu", BLOCK_SIZE=block_size, separate_full_blocks=False)
                    for create in (bm.create_block_mask, flex.create_block_mask))
    assert f"full_kv_indices={None}" in repr(ours) and not ours._lists, "repr makes no lists"
    assert_same(ours, theirs)
    assert ours.full_kv_num_blocks is None and not (ours.block_kinds() == 2).any()
    assert all(x is None or x.is_contiguous() for x in (getattr(ours, name) for name in bm._LIST_NAMES))
    assert_same(ours.to("cpu"), theirs)


def test_masks_of_merged_blocks_stay_so() -> None:
    def make_merged(create: Any, q_len: int = 300) -> Any:
        return create(per_both, 2, 3, q_len, 300, device="cpu", BLOCK_SIZE=32, separate_full_blocks=False)

    ours, theirs = map(make_merged, (bm.create_block_mask, flex.create_block_mask))
    assert_same_lists(ours[1, :, 2:5], theirs[1, :, 2:5], tail=False)
    assert_same_lists(ours._adjust(200, 300), make_merged(flex.create_block_mask, 200))
    assert_same_lists(pytree.tree_map(lambda x: x, ours), theirs)
    assert_same_lists(copy.deepcopy(ours), theirs)
    apart = make(per_both, 2, 3, block_size=32)
    assert pytree.tree_structure(ours) == pytree.tree_structure(make_merged(bm.create_block_mask))
    assert pytree.tree_structure(ours) != pytree.tree_structure(apart), "their lists differ"
    query = torch.randn(2, 3, 300, 16)
    expected = heed.flex_attention(query, query, query, block_mask=apart)
    assert torch.equal(heed.flex_attention(query, query, query, block_mask=ours), expected)
    ours.mask_mod = per_both
    assert not ours.has_given_lists
    given_lists = bm.BlockMask.from_kv_blocks(ours.kv_num_blocks, ours.kv_indices, BLOCK_SIZE=32, mask_mod=per_both, seq_lengths=(300, 300))
    assert torch.equal(heed.flex_attention(query, query, query, block_mask=given_lists), expected)


@pytest.mark.parametrize("pairs", (1, 7, 100, 5000, 70000))
def test_chunks_do_not_show(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(per_both, 2, 3, 129, 100, (64, 32)), (causal, None, None, 100, 129, (16, 128))]
    if pairs < 100:  # a call a pair
        cases = [(per_both, 2, 3, 9, 7, (4, 3)), (causal, None, None, 7, 9, (2, 4))]
    monkeypatch.setattr(bm, "_CHUNK_PAIRS", pairs)
    for case in cases:
        assert_same_lists(make(*case), make_torch(*case))


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (1, 0, 4, 4), (1, 1, 0, 4), (1, 1, 4, 0), (1, 1, 0, 0)], ids=str)
def test_empty(shape: tuple[int, int, int, int]) -> None:
    ours = make(causal, *shape)
    assert ours.numel() == 0 and ours.sparsity() == 0.0 and ours.shape == shape
    assert not ours.to_dense().any() and "sparsity=0.00%" in repr(ours) + str(ours)
    if 0 not in shape[2:] or shape[3]:
        assert_same_lists(ours, make_torch(causal, *shape))


@pytest.mark.parametrize("grid_size", (-1, 1, 20, (10, 7), (7, 50), (-1, 4), [3, 4]), ids=str)
def test_pictures_are_torchs(grid_size: Any) -> None:
    for case in ((causal, None, None, 432, 336, 16), (tiles, 2, 3, 300, 208, 16), (per_both, 2, 3, 300, 300, 64),
                 (nothing, 1, 1, 300, 300, 64)):
        ours, theirs = make(*case), make_torch(*case)
        for limit in (-1, 0, 1, 6):
            assert ours.to_string(grid_size, limit) == theirs.to_string(grid_size, limit)
    assert ours.to_string(limit=2) == theirs.to_string(limit=2)


@pytest.mark.parametrize("grid_size", (0, (3, 0), (1, 2, 3)), ids=str)
def test_bad_grid(grid_size: Any) -> None:
    with pytest.raises(ValueError, match="expected grid_size"):
        make().to_string(grid_size)


def test_as_tuple() -> None:
    ours, theirs = make(block_size=(64, 32)), make_torch(block_size=(64, 32)).as_tuple()
    flat, nested = ours.as_tuple(), ours.as_tuple(flatten=False)
    assert len(flat) == 13 and len(nested) == 11
    assert flat[:2] == (300, 300) and flat[10:] == (64, 32, causal)
    assert nested[0] == (300, 300) and nested[9:] == ((64, 32), causal)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(flat[2:10], theirs[2:10], nested[1:9]))


# Laziness and memory.


@pytest.fixture
def classified(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The extents of what is classified from here on, and the shape of what is found."""
    calls = []
    classify = kernel.Kernel.classify

    def noting(self: Any, extents: Any, *arguments: Any) -> Any:
        runs = classify(self, extents, *arguments)
        calls.append((extents, runs.shape))
        return runs

    monkeypatch.setattr(kernel.Kernel, "classify", noting)
    return calls


def test_lists_are_computed_when_read(classified: list[Any]) -> None:
    mask = make()
    assert mask.shape == (1, 1, 300, 300) and mask.numel() == 90000 and not mask.has_given_lists
    others = [mask.to("numpy"), mask._adjust(100, 200), copy.copy(mask), pytree.tree_map(lambda leaf: leaf, mask)]
    mask.validate()
    assert not classified
    assert mask.kv_num_blocks.numel() == 5
    assert len(classified) == 1
    assert all(m.q_indices.shape == (1, 1, 5, 5) for m in (mask, others[0], others[2], others[3]))
    assert mask.to_dense().sum() == mask.block_kinds().astype(bool).sum() == 15 and mask.sparsity() > 0
    assert len(classified) == 1, "classified again"


def test_errors_of_mask_mods_come_when_lists_are_read() -> None:
    def broken(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        raise KeyError("broken")

    mask = make(broken)
    with pytest.raises(tracing.TraceError, match="broken"):
        mask.block_kinds()


def test_what_a_mask_ignores_costs_nothing(classified: list[Any]) -> None:
    for mask_mod, batches, heads in ((causal, 1, 1), (per_head, 1, 7), (per_batch, 5, 1), (per_both, 5, 7)):
        classified.clear()
        mask = make(mask_mod, 5, 7, 130, 130)
        assert_same_lists(mask, make_torch(mask_mod, 5, 7, 130, 130))
        assert [shape[:2] for _, shape in classified] == [(batches, heads)]


@pytest.mark.parametrize("mask_mod, batch, heads, message", [
    (per_head, 2, None, "expected H to be a number, because mask_mod depends on h, found None"),
    (per_batch, None, 3, "expected B to be a number, because mask_mod depends on b, found None"),
    (per_both, None, None, "expected B to be a number, because mask_mod depends on b, found None")])
def test_what_a_mask_depends_on_is_named(mask_mod: Any, batch: Any, heads: Any, message: str) -> None:
    """torch would take the mask of batch or head 0 for all."""
    with pytest.raises(ValueError, match=message):
        bm.create_block_mask(mask_mod, batch, heads, 130, 130)


def test_creation_takes_microseconds() -> None:
    def best(repetitions: int) -> float:
        start = time.perf_counter()
        for _ in range(repetitions):
            bm.create_block_mask(causal, None, None, 1 << 20, 1 << 20)
        return (time.perf_counter() - start) / repetitions

    assert min(best(100) for _ in range(5)) < 300e-6


def test_memory_of_evaluation() -> None:
    mask = make(window, None, 2, 3000, 4096, 128, device="numpy")
    assert make(window).kv_indices.numel()  # takes the memory that stays
    tracemalloc.start()
    try:
        assert mask.block_kinds().sum() > 0
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("look", (str, repr, lambda mask: mask[0, 0, 5].kv_indices, lambda mask: mask[0].sparsity(),
                                  lambda mask: mask[:, :, [7, 3, -1]].q_num_blocks, lambda mask: mask.list_bytes,
                                  lambda mask: mask.to_string((4, 4))), ids=("str", "repr", "row", "head", "rows", "bytes", "cells"))
@pytest.mark.parametrize("is_given", (False, True), ids=("derived", "given"))
def test_memory_of_millions_of_tokens(is_given: bool, look: Callable[[bm.BlockMask], Any]) -> None:
    length, blocks = 1 << 22, 1 << 15
    mask = make(causal, None, None, length, length, 128, device="numpy")
    if is_given:  # the last four blocks, and the first
        indices = np.maximum(np.arange(blocks)[:, None] - np.arange(5), 0)
        indices[:, 4] = 0
        counts = np.minimum(np.arange(1, blocks + 1), 5)
        mask = bm.BlockMask.from_kv_blocks(counts[None, None], indices[None, None], seq_lengths=(length, length))
    make(window).block_kinds()  # takes the memory that stays
    tracemalloc.start()
    try:
        start = time.perf_counter()
        look(mask)
        # The q lists of three rows, for one.
        assert tracemalloc.get_traced_memory()[1] < 48 << 20 and time.perf_counter() - start < 2
    finally:
        tracemalloc.stop()


def test_list_bytes() -> None:
    mask = make()
    rows = 2 * 4 * 5 + 2 * 4 * 25
    assert mask.list_bytes == (0, 2 * rows)
    assert mask.kv_indices is not None
    runs = mask._derivation.runs.nbytes
    assert runs > 0 and mask.list_bytes == (runs + rows // 2, runs + 2 * rows)
    assert f"list_bytes={runs + rows // 2} of {runs + 480}\n" in repr(mask)
    for name in bm._LIST_NAMES:
        getattr(mask, name)
        assert mask.list_bytes.made == runs + sum(array.nbytes for array in mask._lists.values())
    assert mask.list_bytes == (runs + 2 * rows,) * 2


def test_list_bytes_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mask that has them and no lists; a slice keeps those of the whole."""
    monkeypatch.setattr(bm, "_SMALL_LISTS", 0)
    mask = make()
    sliced = mask[:, :, 1:3]
    assert sliced.list_bytes.made == 0 and mask.sparsity() > 0
    runs = mask._derivation.runs.nbytes
    assert mask.list_bytes.made == sliced.list_bytes.made == runs
    assert sliced.sparsity() > 0 and sliced.list_bytes.made == runs + sliced._derivation.runs.nbytes and mask.list_bytes.made == runs


def test_list_bytes_of_given_lists() -> None:
    for width in (5, 3):  # q lists as wide as torch makes them, and as wide as they need to be
        indices = np.tile(np.arange(width, dtype=np.int32), (1, 1, 5, 1))
        for listed, longest in (([2, 2, 2, 2, 2], 5), ([3, 1, 1, 0, 0], 3)):
            counts = np.array([[listed]], np.int32)
            given = bm.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=64, seq_lengths=(300, 300))
            made, whole = given.list_bytes
            shapes = repr(given)
            assert made == counts.nbytes + indices.nbytes
            assert given.q_indices.shape == (1, 1, 5, 5 if width == 5 else longest)
            assert given.list_bytes == (whole, whole) and repr(given).split("list_bytes")[0] == shapes.split("list_bytes")[0]
    forward_only = bm.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=64, compute_q_blocks=False)
    assert forward_only.list_bytes == (counts.nbytes + indices.nbytes,) * 2


def test_chunks_are_bounded_and_cover() -> None:
    for shape in ((1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 3000, 5000), (2, 1, 3, bm._CHUNK_PAIRS + 5), (1, 1, 0, 3)):
        covered = 0
        for chunk in bm._chunks(shape):
            pairs = int(np.prod([part.stop - part.start for part in chunk]))
            assert 0 < pairs <= bm._CHUNK_PAIRS
            covered += pairs
        assert covered == np.prod(shape)


# Libraries and devices.


def test_devices() -> None:
    assert all(getattr(make(device=device), name).device.type == "cpu"
               for device in ("cpu", torch.device("cpu")) for name in bm._LIST_NAMES)
    assert torch.is_tensor(make(device=None).kv_indices) and torch.is_tensor(make().to_dense())
    assert make(device="meta").kv_indices.device.type == "meta"
    assert all(type(array) is np.ndarray and array.dtype == np.int32
               for array in (*make(device="numpy").as_tuple()[2:10], make(device="numpy").to_dense()))
    with pytest.raises(RuntimeError, match="nonsense"):
        make(device="nonsense")


@pytest.mark.parametrize("read_before", (False, True))
def test_to(read_before: bool) -> None:
    for mask in (make(), make()[0], bm.BlockMask.from_kv_blocks(*make().as_tuple()[2:6], BLOCK_SIZE=64)):
        assert not read_before or mask.q_indices is not None
        moved = mask.to("numpy")
        assert type(moved.kv_indices) is type(moved.q_indices) is np.ndarray
        assert moved.mask_mod is mask.mask_mod and moved.has_given_lists == mask.has_given_lists
        assert moved.seq_lengths == mask.seq_lengths
        assert_same_lists(moved.to("cpu"), mask)
        assert mask.to("meta").q_indices.device.type == "meta"
    forward_only = bm.BlockMask.from_kv_blocks(*make().as_tuple()[2:6], compute_q_blocks=False).to("numpy")
    assert forward_only.q_indices is None and forward_only.full_q_indices is None


def test_given_lists_keep_their_library() -> None:
    arrays = make(device="numpy").as_tuple()[2:6]
    mask = bm.BlockMask.from_kv_blocks(*arrays, BLOCK_SIZE=64)
    assert all(found is given for found, given in zip(mask.as_tuple()[2:6], arrays))
    assert type(mask.q_indices) is type(mask.to_dense()) is type(mask[0].kv_indices) is np.ndarray
    assert type(mask._adjust(64, 64).kv_indices) is np.ndarray
    assert_same_lists(mask.to("cpu"), make())
    wide = bm.BlockMask.from_kv_blocks(*(torch.from_numpy(array).long() for array in arrays))
    assert wide.kv_indices.dtype == wide.q_indices.dtype == torch.int32
    listed = bm.BlockMask.from_kv_blocks([[[1, 2]]], [[[[1, 0], [1, 0]]]])
    assert type(listed.kv_indices) is np.ndarray and listed.block_kinds().tolist() == [[[[0, 1], [1, 1]]]]


WITHOUT_TORCH = """
    import sys
    sys.modules["torch"] = None  # an import of it raises
    import numpy as np
    import heed
    from heed import block_mask as bm

    document = np.repeat(np.arange(3, dtype=np.int32), 50)
    same = lambda b, h, q_idx, kv_idx: document[q_idx] == document[kv_idx]
    causal = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx
    for device in (None, "cpu", "numpy"):
        mask = bm.create_block_mask(heed.and_masks(causal, same), None, None, 150, 150, device=device, BLOCK_SIZE=50)
        assert type(mask.kv_indices) is np.ndarray, device
        assert (mask.block_kinds()[0, 0] == np.eye(3)).all()
        assert mask.q_num_blocks.tolist() == [[[1, 1, 1]]]
        assert type(mask.to("cpu").kv_indices) is np.ndarray
    assert (mask[:, :, 1:].block_kinds()[0, 0] == np.eye(3)[1:]).all()
    assert (mask._adjust(60, 100).block_kinds()[0, 0] == np.eye(3)[:2, :2]).all()
    given = bm.BlockMask.from_kv_blocks(mask.kv_num_blocks, mask.kv_indices, BLOCK_SIZE=50)
    given.validate(), repr(given), str(given), given.to_dense(), given._flatten()
    dense = bm.create_mask(same, None, None, 150, 150)
    assert type(dense) is np.ndarray and (dense[0, 0] == (document[:, None] == document)).all()
    assert bm.create_mask(lambda s, b, h, q_idx, kv_idx: s + q_idx, 1, 1, 3, 3).all()
    try:
        bm.create_block_mask(causal, 1, 1, 4, 4, device="cuda").kv_indices
    except ImportError:
        print("done")
"""


def test_without_torch() -> None:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT_TORCH)], capture_output=True, text=True,
                            timeout=60, env={"PYTHONPATH": str(ROOT / "python")})
    assert result.returncode == 0 and result.stdout == "done\n", result.stderr


def test_import_does_not_import_torch() -> None:
    code = ("import sys; from heed import block_mask as b; "
            "b.create_block_mask(lambda b, h, q, k: q >= k, 1, 1, 9, 9).kv_indices; assert 'torch' not in sys.modules")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                            env={"PYTHONPATH": str(ROOT / "python")})
    assert result.returncode == 0, result.stderr


# Given lists.


@pytest.mark.parametrize("full", (False, True))
@pytest.mark.parametrize("mask_mod", (causal, window, documents, per_both), ids=lambda mask_mod: mask_mod.__name__)
def test_from_kv_blocks(mask_mod: Any, full: bool) -> None:
    B, H = MASKS[mask_mod]
    source = make_torch(mask_mod, B, H, 300, 260)
    lists = source.as_tuple()[2:6 if full else 4]
    for options in ({}, {"BLOCK_SIZE": 64}, {"BLOCK_SIZE": (64, 32), "mask_mod": mask_mod},
                    {"BLOCK_SIZE": 64, "seq_lengths": (300, 260)}):
        ours = bm.BlockMask.from_kv_blocks(*lists, **options)
        assert_same(ours, flex.BlockMask.from_kv_blocks(*lists, **options))
        assert ours.has_given_lists and ours.mask_mod is options.get("mask_mod", heed.noop_mask)
        assert ours.kv_indices is lists[1]
        ours.validate()
        np.testing.assert_array_equal(ours.block_kinds(), kinds_of(ours))
    forward_only = bm.BlockMask.from_kv_blocks(*lists, compute_q_blocks=False)
    assert_same(forward_only, flex.BlockMask.from_kv_blocks(*lists, compute_q_blocks=False))
    assert_same(forward_only[0], flex.BlockMask.from_kv_blocks(*lists, compute_q_blocks=False)[0])


@pytest.mark.parametrize("shape", [(70, 100), (3, 70, 100), (2, 3, 64, 96)])
@pytest.mark.parametrize("separate", [False, True])
def test_of_dense_masks(shape: tuple[int, ...], separate: bool) -> None:
    """torch's helpers for them."""
    dense = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.02
    dense[..., 32:64, :48] = True
    dense[..., :32, 48:80] = False

    def made(module: Any) -> Any:
        blocks = module._convert_mask_to_block_mask(dense, 32, 16, separate)
        return blocks, module._create_sparse_block_from_block_mask(blocks, causal, shape[-2:], 32, 16)

    (blocks, ours), (expected, theirs) = made(heed), made(flex)
    for x, y in zip(blocks, expected):
        assert x is y or x.dtype == y.dtype and torch.equal(x, y)
    assert (blocks[1] is not None) == separate
    assert ours.has_given_lists
    assert_same_lists(ours, theirs)
    with pytest.raises(AssertionError, match="mask.dtype must be torch.bool, got torch.int64"):
        heed._convert_mask_to_block_mask(dense.long())


@pytest.mark.parametrize("batch", ((), (2,), (1, 2, 3)), ids=str)
def test_other_batch_dims(batch: tuple[int, ...]) -> None:
    source = make_torch(per_both, 2, 3)
    lists = [array.expand(1, 2, 3, *array.shape[2:])[(0,) * (3 - len(batch))] if len(batch) < 2 else array[None]
             for array in source.as_tuple()[2:6]]
    ours, theirs = bm.BlockMask.from_kv_blocks(*lists), flex.BlockMask.from_kv_blocks(*lists)
    lists_shape = lists[0].shape[:-1]
    assert ours.shape[:-2] == lists_shape
    assert_same(ours, theirs)
    if len(batch) == 3:
        with pytest.raises(ValueError, match="expected a BlockMask with batch and head dims"):
            ours.block_kinds()
    else:
        assert ours.block_kinds().shape == (*(1,) * (2 - len(lists_shape)), *lists_shape, 5, 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2 ** 32 - 1))
def test_lists_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    B, H, rows, columns = rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 6), rng.integers(1, 6)
    q_block, kv_block = (int(size) for size in rng.integers(1, 5, 2))
    q_len = int(rows * q_block - rng.integers(0, q_block))
    kv_len = int(columns * kv_block - rng.integers(0, kv_block))
    kinds = rng.integers(0, 3, (B, H, rows, columns)).astype(np.int8)
    # Lists may be narrower than the keys, or wider.
    narrow = max(1, int((kinds == 1).sum(-1).max()), int((kinds == 2).sum(-1).max()))
    width = int(rng.integers(narrow, columns + 3))
    lists = random_lists(rng, kinds, width)
    mask = bm.BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=(q_block, kv_block), seq_lengths=(q_len, kv_len))
    mask.validate()
    found = mask.block_kinds()
    np.testing.assert_array_equal(found[..., :columns], kinds)
    assert not found[..., columns:].any() and found.shape[-1] == max(width, columns)
    np.testing.assert_array_equal(kinds_of(mask), found)
    np.testing.assert_array_equal(mask.to_dense(), found != 0)
    bm.BlockMask(mask.seq_lengths, *mask.as_tuple(flatten=False)[1:9], BLOCK_SIZE=mask.BLOCK_SIZE).validate()

    new_q, new_kv = int(rng.integers(0, q_len + 1)), int(rng.integers(0, kv_len + 1))
    cropped = mask._adjust(new_q, new_kv)
    new_rows, new_columns = -(-new_q // q_block), -(-new_kv // kv_block)
    assert cropped.seq_lengths == (new_q, new_kv) and cropped.has_given_lists
    np.testing.assert_array_equal(cropped.block_kinds(), kinds[:, :, :new_rows, :new_columns])
    np.testing.assert_array_equal(kinds_of(cropped), cropped.block_kinds())
    cropped.validate()
    before, after = (used(m.kv_num_blocks[:, :, :new_rows], m.kv_indices[:, :, :new_rows]) for m in (mask, cropped))
    assert after == [[block for block in row if block < new_columns] for row in before], "another order"

    index = tuple(slice(*sorted(rng.integers(0, extent + 1, 2))) for extent in (B, H, rows))
    sliced = mask[index]
    np.testing.assert_array_equal(sliced.block_kinds(), found[index])
    np.testing.assert_array_equal(kinds_of(sliced), found[index])


def test_bad_entries_are_ignored() -> None:
    counts = np.array([[[3, 9, -1, 2]]])
    indices = np.array([[[[1, -1, 10 ** 9], [0, 2, 1], [0, 1, 2], [2, 2, 0]]]])
    mask = bm.BlockMask.from_kv_blocks(counts, indices, [[[1, 1, 0, 0]]], [[[[1], [-5], [0], [0]]]])
    expected = [[0, 2, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert mask.block_kinds().tolist() == [[expected]]
    assert mask.to_dense().tolist() == [[[[int(kind > 0) for kind in row] for row in expected]]]
    assert mask.q_num_blocks.tolist() == [[[1, 2, 2]]] and mask.full_q_num_blocks.tolist() == [[[0, 1, 0]]]
    assert mask.sparsity() == pytest.approx(100 * (1 - 5 / 12))


def corrupted(change: Callable[[dict[str, np.ndarray]], None]) -> bm.BlockMask:
    """A valid mask of 2 x 3 rows of 5 x 5 blocks, all lists given, after `change`."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (2, 3, 5, 5))
    kinds[1, 2, 3] = [1, 0, 1, 2, 2]
    mask = bm.BlockMask.from_kv_blocks(*random_lists(rng, kinds), BLOCK_SIZE=64, seq_lengths=(300, 300))
    lists = {name: getattr(mask, name).copy() for name in bm._LIST_NAMES}
    lists["kv_indices"][1, 2, 3, :2] = [0, 2]
    bm.BlockMask((300, 300), **lists, BLOCK_SIZE=64).validate()
    change(lists)
    return bm.BlockMask((300, 300), **lists, BLOCK_SIZE=64)


def put(name: str, *position: int, value: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(lists: dict[str, np.ndarray]) -> None:
        lists[name][position] = value
    return change


def move_q_block(lists: dict[str, np.ndarray]) -> None:
    lists["q_num_blocks"][1, 2, 0] = 0


CORRUPTIONS = [
    (put("kv_num_blocks", 1, 2, 3, value=6), "batch 1, head 2, row 3: expected kv_num_blocks in [0, 5], found 6"),
    (put("full_kv_num_blocks", 0, 1, 4, value=-1),
     "batch 0, head 1, row 4: expected full_kv_num_blocks in [0, 5], found -1"),
    (put("kv_indices", 1, 2, 3, 1, value=5),
     "batch 1, head 2, row 3: expected kv_indices in [0, 5), found 5 at position 1"),
    (put("kv_indices", 1, 2, 3, 0, value=-7), "row 3: expected kv_indices in [0, 5), found -7 at position 0"),
    (put("full_kv_indices", 1, 2, 3, 0, value=99), "row 3: expected full_kv_indices in [0, 5), found 99 at position 0"),
    (put("kv_indices", 1, 2, 3, 1, value=0),
     "batch 1, head 2, row 3: expected kv_indices to list a block once, found block 0 twice"),
    (put("kv_indices", 1, 2, 3, 1, value=4),
     "batch 1, head 2, row 3: expected kv_indices and full_kv_indices to be disjoint, found block 4 in both"),
    (put("q_indices", 1, 2, 0, 0, value=5), "batch 1, head 2, row 0: expected q_indices in [0, 5), found 5"),
    (put("kv_indices", 1, 2, 3, 1, value=1),
     "batch 1, head 2, row 3: expected q_indices to be kv_indices transposed, found block 1 in kv_indices only"),
    (move_q_block, "expected q_indices to be kv_indices transposed, found block 0 in kv_indices only"),
]


@pytest.mark.parametrize("change, message", CORRUPTIONS, ids=[message for _, message in CORRUPTIONS])
def test_validate(change: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEED_DEBUG", raising=False)
    mask = corrupted(change)
    with pytest.raises(ValueError, match=re.escape(message)):
        mask.validate()
    mask.block_kinds()
    monkeypatch.setenv("HEED_DEBUG", "1")
    with pytest.raises(ValueError, match=re.escape(message)):
        corrupted(change)


def test_validate_lists_of_other_shapes() -> None:
    for batch, place in (((), "row 1"), ((1,), "batch (0), row 1"), ((1, 1, 1), "batch (0, 0, 0), row 1")):
        mask = bm.BlockMask.from_kv_blocks(np.array([0, 4]).reshape(*batch, 2), np.zeros((*batch, 2, 3), np.int32))
        with pytest.raises(ValueError, match=re.escape(f"{place}: expected kv_num_blocks in [0, 3], found 4")):
            mask.validate()
    few = bm.BlockMask((1, 5), [[[0]]], [[[[0]]]], q_num_blocks=[[[0, 0]]], q_indices=[[[[0], [0]]]], BLOCK_SIZE=1)
    with pytest.raises(ValueError, match="expected q_indices to have 5 rows, one a key block, found 2"):
        few.validate()
    without_kv = bm.BlockMask((2, 1), [[[1, 1]]], [[[[0], [0]]]], None, None, [[[2]]], [[[[1, 0]]]], [[[1]]], [[[[0]]]], 1)
    with pytest.raises(ValueError, match="row 0: expected full_q_indices to be full_kv_indices transposed, found block 0"):
        without_kv.validate()


@pytest.mark.parametrize("arguments, error, message", [
    (dict(kv_num_blocks=np.zeros((), int), kv_indices=np.zeros(3, int)), RuntimeError, "BlockMask must have at least 2 dimensions"),
    (dict(kv_num_blocks=np.zeros((1, 1, 3), int), kv_indices=np.zeros((1, 1, 2, 3), int)), ValueError,
     "expected kv_num_blocks to have shape (1, 1, 2), as kv_indices has (1, 1, 2, 3), found (1, 1, 3)"),
    (dict(full_kv_num_blocks=np.zeros((1, 1, 2), int)), AssertionError,
     "full_kv_num_blocks and full_kv_indices must be both provided or omitted"),
    (dict(full_q_indices=np.zeros((1, 1, 2, 2), int)), AssertionError,
     "full_q_num_blocks and full_q_indices must be both provided or omitted"),
    (dict(full_kv_num_blocks=np.zeros((1, 2, 2), int), full_kv_indices=np.zeros((1, 2, 2, 2), int)), ValueError,
     "expected full_kv_num_blocks to agree with kv_num_blocks, which has shape (1, 1, 2), found (1, 2, 2)"),
    (dict(q_num_blocks=np.zeros((3, 1, 2), int), q_indices=np.zeros((3, 1, 2, 2), int)), ValueError,
     "expected q_num_blocks to agree with kv_num_blocks"),
    (dict(kv_indices=None), TypeError, "expected kv_num_blocks and kv_indices to be lists, found None"),
    (dict(kv_indices=np.zeros((1, 1, 2, 2))), TypeError, "expected kv_indices to hold integers, found float64"),
    (dict(kv_num_blocks=torch.zeros(1, 1, 2)), TypeError, "expected kv_num_blocks to hold integers, found torch.float32"),
    (dict(kv_num_blocks=torch.zeros(1, 1, 2, dtype=torch.bool)), TypeError, "expected kv_num_blocks to hold integers"),
    (dict(seq_lengths=(1, -2)), ValueError, "expected key length to be at least 0, found -2"),
    (dict(seq_lengths=(1.5, 2)), TypeError, "expected query length to be an integer, found 1.5"),
    (dict(BLOCK_SIZE=0), ValueError, "expected BLOCK_SIZE to be positive, found 0"),
])
def test_wrong_lists(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = dict(seq_lengths=(2, 2), kv_num_blocks=np.zeros((1, 1, 2), int), kv_indices=np.zeros((1, 1, 2, 2), int))
    bm.BlockMask(**valid)
    with pytest.raises(error, match=re.escape(message)):
        bm.BlockMask(**{**valid, **arguments})


def test_assigned_members() -> None:
    mask = make()
    mask.mask_mod = causal
    assert not mask.has_given_lists
    mask.mask_mod = window
    assert mask.has_given_lists and mask.mask_mod is window
    assert_same_lists(mask, make_torch())  # as they were
    assert_same_lists(mask._adjust(192, 192), make_torch(q_len=192, kv_len=192), tail=False)

    mask, other = make(), make()
    shared = copy.copy(mask)
    mask.kv_num_blocks = torch.zeros(1, 1, 5, dtype=torch.int64)
    assert mask.has_given_lists and mask.kv_num_blocks.dtype == torch.int32
    assert torch.equal(mask.q_num_blocks, other.q_num_blocks)
    assert mask.block_kinds().max() == 2 and (mask.block_kinds() == 1).sum() == 0
    assert not shared.has_given_lists
    assert_same_lists(shared, other)

    mask = make()
    mask.seq_lengths = (1, 300)
    assert mask.shape == (1, 1, 1, 300) and not mask.has_given_lists
    assert copy.deepcopy(make()).kv_indices.shape == (1, 1, 5, 5)


# Slices and crops.

INDICES = [0, 1, -1, (0, 0), (1, 2), (slice(None), 1), (0, 0, 1), (0, 0, -1), (slice(None), slice(None), slice(1, 3)),
           (0, slice(1, 3)), slice(0, 1), slice(None, None, 2), slice(0, 0), (0, 0, slice(3, 99)), Ellipsis, [0, 1], [1],
           (slice(None), [0, 2]), torch.tensor([1, 0]), torch.tensor([True, False]),
           (slice(None), slice(None), torch.tensor([2, 0, 1])), (slice(None), torch.tensor([2, 0], dtype=torch.int32))]


@pytest.mark.parametrize("small", (0, bm._SMALL_LISTS), ids=("long", "short"))
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_are_torchs(index: Any, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm, "_SMALL_LISTS", small)
    for arguments in ((per_both, 2, 3), (per_both, 2, 3, 300, 300, 128), (per_both, 2, 3, 300, 129, (32, 64))):
        ours, theirs = make(*arguments)[index], make_torch(*arguments)[index]
        assert_same_lists(ours, theirs)
        assert ours.shape == theirs.shape and ours.has_given_lists and ours.BLOCK_SIZE == theirs.BLOCK_SIZE
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        if theirs.numel():
            assert ours.sparsity() == theirs.sparsity() and str(ours) == str(theirs)
        ours.validate()
        np.testing.assert_array_equal(make(*arguments, device="numpy")[index].kv_indices, ours.kv_indices)


def test_long_slices_are_made_when_read(classified: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm, "_SMALL_LISTS", 0)
    mask = make(per_both, 2, 3)
    sliced = mask[1, :, 2:][0, 1:, [1, 0]]
    assert sliced.shape == (1, 2, 300, 300) and sliced.has_given_lists and not classified
    assert sliced.list_bytes == (0, mask[1, :, 2:4][0, 1:].list_bytes.all) and not classified
    expected = mask.block_kinds()[1:, 1:, [3, 2]]
    np.testing.assert_array_equal(sliced.block_kinds(), expected)
    assert_same_lists(copy.deepcopy(sliced), make_torch(per_both, 2, 3)[1:, 1:, torch.tensor([3, 2])])
    sliced.kv_num_blocks[0, 0, 1] = 0  # they are the user's
    expected[0, 0, 1][expected[0, 0, 1] == 1] = 0
    np.testing.assert_array_equal(sliced.block_kinds(), expected)
    np.testing.assert_array_equal(sliced[:, :, 1].block_kinds(), expected[:, :, 1:])
    assert sliced.sparsity() == pytest.approx(100 * (1 - np.count_nonzero(expected) * 64 * 64 / sliced.numel()))


def test_slices_beyond_torchs() -> None:
    mask = make(per_both, 2, 3)
    kinds = mask.block_kinds()
    for index, expected in (((Ellipsis, 1), kinds[:, :, 1:2]), ((0, Ellipsis, 1), kinds[:1, :, 1:2]),
                            (torch.tensor(1), kinds[1:]), (np.int64(1), kinds[1:]), (np.array([1, -2]), kinds[[1, 0]]),
                            (slice(None, None, -1), kinds[::-1]), ((0, (True, False, True)), kinds[:1, [0, 2]]),
                            ((0, slice(2, 0, -1)), kinds[:1, 2:0:-1]), ([], kinds[:0])):
        for source in (mask, mask.to("numpy"), bm.BlockMask.from_kv_blocks(*mask.as_tuple()[2:6], BLOCK_SIZE=64)):
            np.testing.assert_array_equal(source[index].block_kinds(), expected)


@pytest.mark.parametrize("index", [2, -3, (0, 3), (0, 0, 5), (0, 0, 0, 0), None, "a", 1.0, [2], [-3], [0.5], [[0]],
                                   (Ellipsis, Ellipsis), ([0], [0]), (0, [True, False])], ids=str)
def test_bad_slices(index: Any) -> None:
    with pytest.raises(IndexError):
        make(per_both, 2, 3)[index]


def test_sliced_mask_mod() -> None:
    mask = make()
    sliced = mask[:, :, 1]
    with pytest.raises(RuntimeError, match="Cannot use mask_mod from a sliced BlockMask"):
        sliced.mask_mod(0, 0, 1, 1)
    sliced.mask_mod = causal
    assert sliced.mask_mod is causal and mask.mask_mod is causal and sliced.has_given_lists
    assert torch.equal(sliced[0].kv_indices, sliced.kv_indices)


@pytest.mark.parametrize("mask_mod", (causal, window, tiles, per_both, everything), ids=lambda mask_mod: mask_mod.__name__)
def test_adjust(mask_mod: Any) -> None:
    B, H = MASKS[mask_mod]
    mask = make(mask_mod, B, H, 300, 260, (64, 32))
    given = bm.BlockMask.from_kv_blocks(*mask.as_tuple()[2:6], BLOCK_SIZE=(64, 32), seq_lengths=(300, 260))
    for lengths in ((1, 31), (64, 260), (65, 33), (192, 32), (300, 129), (1, 260), (300, 260)):
        adjusted = mask._adjust(*lengths)
        assert adjusted.seq_lengths == lengths and not adjusted.has_given_lists and adjusted.mask_mod is mask_mod
        assert_same_lists(adjusted, make_torch(mask_mod, B, H, *lengths, (64, 32)))
        rows, columns = -(-lengths[0] // 64), -(-lengths[1] // 32)
        np.testing.assert_array_equal(given._adjust(*lengths).block_kinds(), mask.block_kinds()[:, :, :rows, :columns])
        assert given._adjust(*lengths).seq_lengths == lengths


def test_adjust_keeps_what_is_absent_and_refuses_to_grow() -> None:
    forward_only = bm.BlockMask.from_kv_blocks(*make().as_tuple()[2:4], BLOCK_SIZE=64, compute_q_blocks=False)
    adjusted = forward_only._adjust(100, 100)
    assert adjusted.q_indices is None and adjusted.full_kv_indices is None and adjusted.kv_indices.shape == (1, 1, 2, 2)
    for mask in (make(), forward_only):
        with pytest.raises(ValueError, match="expected new_kv_len to be at most 3.., the mask's length, found 400"):
            mask._adjust(300, 400)
        with pytest.raises(TypeError, match="expected new_q_len to be an integer"):
            mask._adjust(1.0, 1)


# pytree


def test_pytree_of_given_lists() -> None:
    for mask, names in ((make()[0], bm._LIST_NAMES),
                        (bm.BlockMask.from_kv_blocks(*make().as_tuple()[2:4], compute_q_blocks=False), bm._KV_NAMES[:2])):
        leaves, spec = pytree.tree_flatten(mask)
        assert len(leaves) == len(names) and all(leaf is getattr(mask, name) for leaf, name in zip(leaves, names))
        with_keys, spec_with_keys = pytree.tree_flatten_with_path(mask)
        assert [path[0].name for path, _ in with_keys] == list(names) and spec == spec_with_keys
        again = pytree.tree_unflatten(leaves, spec)
        assert_same_lists(again, mask)
        assert again.has_given_lists and again.mask_mod is mask.mask_mod and again.shape == mask.shape
        assert torch.equal(pytree.tree_map(lambda leaf: leaf + 1, mask).kv_indices, mask.kv_indices + 1)
        assert pytree.tree_map(lambda leaf: "any", mask).kv_indices == "any"


def test_pytree_of_derived_lists() -> None:
    mask = make()
    leaves, spec = pytree.tree_flatten((mask, 3))
    assert leaves == [3]
    assert mask.kv_indices is not None and pytree.tree_flatten((mask, 3))[1] == spec
    again = pytree.tree_unflatten(leaves, spec)[0]
    assert not again.has_given_lists and again.shape == mask.shape
    assert_same_lists(again, mask)
    mask.mask_mod = window
    again = pytree.tree_map(lambda leaf: leaf.clone(), mask)
    assert again.has_given_lists and again.mask_mod is window
    assert_same_lists(again, mask)


def test_pytree_compares_masks_by_what_they_do() -> None:
    table = torch.zeros(3)

    def shifted(n: Any, default: int = 1) -> Callable[..., Any]:
        return lambda b, h, q_idx, kv_idx, d=default: q_idx >= kv_idx - n - d

    def spec(mask_mod: Any, **options: Any) -> Any:
        return pytree.tree_flatten(make(mask_mod, **options))[1]

    def recursive() -> Callable[..., Any]:
        def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return mask_mod
        return mask_mod

    same = [(shifted(1), shifted(1)), (shifted(table), shifted(table)), (shifted((1, "a")), shifted((1, "a"))),
            (heed.and_masks(causal, shifted(2)), heed.and_masks(causal, shifted(2))), (recursive(), recursive()),
            (functools.partial(shifted(1), d=2), functools.partial(shifted(1), d=2)),
            (MaskClass.INSTANCE.method, MaskClass.INSTANCE.method)]
    different = [(shifted(1), shifted(2)), (shifted(1), shifted(1.0)), (shifted(table), shifted(torch.zeros(3))),
                 (shifted(1, 1), shifted(1, 2)), (causal, window), (heed.and_masks(causal), heed.or_masks(causal)),
                 (functools.partial(shifted(1), d=2), functools.partial(shifted(1), d=3)),
                 (MaskClass().method, MaskClass().method)]
    for a, b in same:
        assert spec(a) == spec(b) and hash(bm._Context((), make(a))) == hash(bm._Context((), make(b)))
    for a, b in different:
        assert spec(a) != spec(b)
    for options in (dict(q_len=299), dict(block_size=32), dict(device="numpy"), dict(B=1, H=2)):
        assert spec(causal) != spec(causal, **options)


@pytest.mark.slow  # the first use of torch.compile takes seconds
def test_under_torch_compile() -> None:
    mask = torch.compile(bm.create_block_mask, backend="eager")(causal, None, None, 300, 300, BLOCK_SIZE=64)
    assert not mask.has_given_lists
    assert_same_lists(mask, make_torch())

    @torch.compile(backend="eager")
    def within(x: Any) -> Any:
        mask = make()
        given = bm.BlockMask.from_kv_blocks(mask.kv_num_blocks, mask.kv_indices, BLOCK_SIZE=64)
        return x + mask.kv_num_blocks.sum() + given[:, :, 1:]._adjust(130, 130).to_dense().sum() + mask.sparsity()

    @torch.compile(backend="eager", fullgraph=True)
    def reads(x: Any, mask: bm.BlockMask) -> Any:
        return x + mask.kv_num_blocks.sum()

    assert within(torch.zeros(())).item() == pytest.approx(9 + 2 + mask.sparsity())
    assert reads(torch.zeros(()), mask).item() == 9


# The builders' other duties.


class MaskClass:
    INSTANCE: "MaskClass"

    def __call__(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return q_idx >= kv_idx

    def method(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return q_idx >= kv_idx


MaskClass.INSTANCE = MaskClass()


def flagged(flag: bool, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


@functools.wraps(causal)
def wrapper(*args: Any) -> Any:
    return causal(*args)


@pytest.mark.parametrize("mask_mod", [
    lambda b, h, q_idx, kv_idx, extra=1: q_idx >= kv_idx, lambda b, h, q_idx, kv_idx, *, extra=1: q_idx >= kv_idx,
    functools.partial(flagged, True), MaskClass(), MaskClass().method, wrapper],
    ids=("default", "keyword", "partial", "object", "method", "wrapper"))
def test_kinds_of_callables(mask_mod: Any) -> None:
    assert_same_lists(make(mask_mod), make())
    assert "mask_mod=" in repr(make(mask_mod))


@pytest.mark.parametrize("builder", (bm.create_block_mask, bm.create_mask))
@pytest.mark.parametrize("arguments, error, message", [
    ((lambda b, h, q: q, 1, 1, 4, 4), AssertionError, "has 3 positional parameters"),
    ((lambda *args: args[0], 1, 1, 4, 4), AssertionError, "has 0 positional parameters"),
    ((3, 1, 1, 4, 4), TypeError, "expected a score_mod or mask_mod, found int"),
    ((causal, -1, 1, 4, 4), ValueError, "expected B to be at least 0, found -1"),
    ((causal, 1, 1.0, 4, 4), TypeError, "expected H to be an integer, found 1.0"),
    ((causal, 1, 1, "4", 4), TypeError, "expected Q_LEN to be an integer, found '4'"),
    ((causal, 1, 1, 4, -4), ValueError, "expected KV_LEN to be at least 0, found -4"),
    ((causal, 1, 1, None, 4), TypeError, "expected Q_LEN to be an integer, found None"),
])
def test_wrong_arguments(builder: Any, arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        builder(*arguments)


def test_score_mod_is_no_mask_mod() -> None:
    with pytest.raises(AssertionError, match="^create-block_mask requires a mask_mod function! Got <function"):
        make(lambda score, b, h, q_idx, kv_idx: score)


@pytest.mark.parametrize("block_size, error", [
    (0, ValueError), (-1, ValueError), ((16, 0), ValueError), ((16,), ValueError), ((1, 2, 3), ValueError),
    ("16", TypeError), (1.5, TypeError), ((16, None), TypeError), (None, TypeError)], ids=str)
def test_wrong_block_size(block_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected BLOCK_SIZE"):
        make(block_size=block_size)


def test_integers_of_other_types() -> None:
    mask = make(causal, np.int64(2), torch.tensor(3), np.int32(100), torch.tensor(90), [np.int64(16), 32])
    assert mask.shape == (2, 3, 100, 90) and mask.BLOCK_SIZE == (16, 32)
    assert all(type(extent) is int for extent in mask.shape + mask.BLOCK_SIZE)


@pytest.mark.parametrize("mask_mod", MASKS, ids=lambda mask_mod: mask_mod.__name__)
def test_create_mask(mask_mod: Any) -> None:
    B, H = MASKS[mask_mod]
    ours = bm.create_mask(mask_mod, B, H, 129, 37)
    assert ours.dtype == torch.bool and torch.equal(ours, flex.create_mask(mask_mod, B, H, 129, 37, device="cpu"))
    assert type(bm.create_mask(mask_mod, B, H, 1, 1, device="numpy")) is np.ndarray


def test_create_mask_of_a_score_mod() -> None:
    def score_causal(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return torch.where(q_idx >= kv_idx + h, score, -float("inf"))

    def everywhere(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + (q_idx - kv_idx)

    for score_mod in (score_causal, everywhere):
        ours, theirs = bm.create_mask(score_mod, None, 2, 70, 50), flex.create_mask(score_mod, None, 2, 70, 50, device="cpu")
        assert ours.dtype == torch.bool and torch.equal(ours, theirs)


def test_combinators() -> None:
    for combine, reference in ((heed.and_masks, flex.and_masks), (heed.or_masks, flex.or_masks)):
        for mask_mods in ((causal,), (causal, window), (causal, documents, tiles)):
            assert_same_lists(make(combine(*mask_mods)), make_torch(reference(*mask_mods)))
        nested = combine(causal, heed.and_masks(window, heed.or_masks(tiles, prefix)))
        assert_same_lists(make(nested), make_torch(nested))
        with pytest.raises(RuntimeError, match="^All inputs should be callable mask_mods"):
            combine(causal, 3)
    assert heed.and_masks() is heed.noop_mask
    assert_same_lists(make(heed.noop_mask), make_torch(flex.noop_mask))
    assert_same_lists(make(heed.noop_mask), make_torch(heed.noop_mask))
    assert_same_lists(make(heed.or_masks()), make_torch(flex.or_masks()))
    assert heed.and_masks(causal, window).__name__ == "causal_and_window"
    assert heed.or_masks(causal, lambda b, h, q_idx, kv_idx: q_idx).__name__ == "causal_or_lambda"
    assert heed.or_masks().__name__ == "or_mask" and heed.and_masks(*[causal] * 30).__name__ == "and_mask"
    assert heed.and_masks(MaskClass(), functools.partial(flagged, True)).__name__ == "MaskClass_and_partial"
