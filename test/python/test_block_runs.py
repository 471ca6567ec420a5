# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Blocks as generated code classifies them, against brute force: random masks, attention-gym's, long ones; and BlockRuns."""

from __future__ import annotations

import pathlib
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import heed
import numpy as np
import pytest
from heed import HeedError, block_runs, tracing, variant
from heed import block_mask as bm
from heed.block_runs import FULL, PARTIAL, SKIPPED, BlockRuns
from hypothesis import given
from hypothesis import strategies as st
from random_masks import GEOMETRY, Geometry, draws, function_of, kinds_of, lists_of, mask_texts, random_captures

try:
    import torch

    sys.path.append(str(pathlib.Path(__file__).parent / "tracing"))
    from gym_mods import GYM
except ImportError:
    torch, GYM = None, {}

KV_LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


def make(mask_mod: Any, B: int | None, H: int | None, q_len: int, kv_len: int, block_size: Any) -> bm.BlockMask:
    return bm.create_block_mask(mask_mod, B, H, q_len, kv_len, device="numpy", BLOCK_SIZE=block_size)


def runs_of(mask_mod: Any, B: int | None, H: int | None, q_len: int, kv_len: int, block_size: Any) -> BlockRuns:
    return make(mask_mod, B, H, q_len, kv_len, block_size)._derivation.runs


def assert_exact(mask: bm.BlockMask, kinds: np.ndarray, note: Any = "") -> None:
    np.testing.assert_array_equal(mask.block_kinds(), kinds, err_msg=str(note))
    for name, expected in zip(KV_LISTS, lists_of(kinds)):
        found = getattr(mask, name)
        assert found.dtype == np.int32 and found.shape == expected.shape, (name, note)
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} of {note}")


# Random masks.


def check_random(text: str, seed: int, B: int, H: int, geometries: list[Geometry]) -> None:
    mask_mod = function_of(text, random_captures(seed))
    lengths = (max(g.q_len for g in geometries), max(g.kv_len for g in geometries))
    # Lengths do not change what a mask says of a pair.
    dense = bm.create_mask(mask_mod, B, H, *lengths, device="numpy")
    for g in geometries:
        kinds = kinds_of(dense[:, :, :g.q_len, :g.kv_len], g.q_block, g.kv_block)
        assert_exact(make(mask_mod, B, H, g.q_len, g.kv_len, (g.q_block, g.kv_block)), kinds, (text, seed, B, H, g))


RANDOM = dict(text=mask_texts(), seed=st.integers(0, 2 ** 32 - 1), B=st.integers(1, 2), H=st.integers(1, 3),
              geometries=st.lists(GEOMETRY, min_size=2, max_size=3))


@pytest.mark.slow
@draws(160)
@given(**RANDOM)
def test_random_masks(text: str, seed: int, B: int, H: int, geometries: list[Geometry]) -> None:
    check_random(text, seed, B, H, geometries)


@pytest.mark.slow
@draws(3000)
@given(**RANDOM)
def test_many_random_masks(text: str, seed: int, B: int, H: int, geometries: list[Geometry]) -> None:
    check_random(text, seed, B, H, geometries)


# Few queries and many keys, or the other way round: products leave 32 bits, and tables end early.
FEW, MANY = st.integers(1, 6), st.one_of(st.integers(1, 3000), st.integers(4000, 5000), st.integers(1, 100_000))
LARGE_BLOCK = st.sampled_from((16, 64, 100, 1000, 4096, 30_000))
THIN = st.one_of(st.builds(Geometry, FEW, MANY, FEW, LARGE_BLOCK), st.builds(Geometry, MANY, FEW, LARGE_BLOCK, FEW))


@draws(40)
@given(text=mask_texts(), seed=st.integers(0, 2 ** 32 - 1), geometry=THIN)
def test_random_thin_masks(text: str, seed: int, geometry: Geometry) -> None:
    check_random(text, seed, 1, 1, [geometry])


@pytest.mark.slow
@draws(1000)
@given(text=mask_texts(), seed=st.integers(0, 2 ** 32 - 1), geometry=THIN)
def test_many_random_thin_masks(text: str, seed: int, geometry: Geometry) -> None:
    check_random(text, seed, 1, 1, [geometry])


def test_random_masks_are_not_trivial() -> None:
    """Of the grammar: its masks attend here and there, and some blocks are full."""
    seen: list[set[int]] = []

    @draws(150)
    @given(mask_texts(), st.integers(0, 2 ** 32 - 1))
    def look(text: str, seed: int) -> None:
        dense = bm.create_mask(function_of(text, random_captures(seed)), 1, 1, 96, 96, device="numpy")
        seen.append(set(np.unique(kinds_of(dense, 8, 8)).tolist()))

    look()
    assert sum(PARTIAL in kinds for kinds in seen) > len(seen) // 4
    assert sum(len(kinds) > 1 for kinds in seen) > len(seen) // 4
    assert any(FULL in kinds and len(kinds) > 1 for kinds in seen)


# Masks that random texts do not find.


def float_distance(b: Any, h: Any, q: Any, kv: Any) -> Any:
    """Floats are decided by looking at the pairs. All of these are exact."""
    return (q * 0.5 - kv > 1.25) | (kv - q > 40.5)


def chosen_blocks() -> Callable[..., Any]:
    blocks = np.random.default_rng(7).random((2, 3, 10, 15)) < 0.5
    return lambda b, h, q, kv: blocks[b, h, q // 32, kv // 20]


def lengths_per_batch() -> Callable[..., Any]:
    lengths = np.array([17, 0, 300], np.int64)
    return lambda b, h, q, kv: (kv < lengths[b]) & (q >= kv)


def empty_table() -> Callable[..., Any]:
    table = np.empty(0, np.int64)
    return lambda b, h, q, kv: table[q] == table[kv]


def far_ids() -> Callable[..., Any]:
    """Their differences do not fit 64 bits."""
    ids = np.repeat(np.array([-2 ** 63, 2 ** 63 - 1, 0, -1], np.int64), 75)
    return lambda b, h, q, kv: (ids[q] == ids[kv]) | (ids[q] - ids[kv] > 0)


def wrapping_window() -> Callable[..., Any]:
    window = np.int64(2 ** 62)
    return lambda b, h, q, kv: q - kv + window + window < 0  # 2 ** 63 is negative


def one_pair(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q == 151) & (kv == 77)


def wrapping_products(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q * 20_000_000 > kv * 30_000_000


def zero_divisors(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q // (kv - 40) > 2) | (q % (kv % 3) == 1)


DIRECTED = {"float_distance": lambda: float_distance, "chosen_blocks": chosen_blocks, "lengths_per_batch": lengths_per_batch,
            "empty_table": empty_table, "far_ids": far_ids, "wrapping_window": wrapping_window, "one_pair": lambda: one_pair,
            "wrapping_products": lambda: wrapping_products, "zero_divisors": lambda: zero_divisors}


@pytest.mark.parametrize("name", DIRECTED)
def test_directed(name: str) -> None:
    mask_mod = DIRECTED[name]()
    dense = bm.create_mask(mask_mod, 2, 3, 300, 300, device="numpy")
    for q_len, kv_len, block_size in ((300, 300, (16, 16)), (299, 160, (64, 32)), (151, 300, (8, 100)), (300, 77, (1, 7))):
        kinds = kinds_of(dense[:, :, :q_len, :kv_len], *block_size)
        assert_exact(make(mask_mod, 2, 3, q_len, kv_len, block_size), kinds, (name, q_len, kv_len, block_size))


def per_head(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q >= kv) & (kv % 7 != h)


@pytest.mark.parametrize("threads", (1, 2, 3, 4))
def test_threads_do_not_show(threads: int) -> None:
    trace, values = tracing.lookup(None, per_head)
    runs = variant.of_trace(trace).classifier().classify((2, 5, 1, 999, 777), (16, 8), values, threads)
    expected = runs_of(per_head, 2, 5, 999, 777, (16, 8))
    assert runs.shape == expected.shape == (1, 5, 63, 98)
    for name in ("offsets", "runs"):
        np.testing.assert_array_equal(getattr(runs, name), getattr(expected, name))


def test_extents_are_those_of_captured_tensors() -> None:
    program = """
        variant padding(lengths: i32[B], slopes: f32[Hq]) {
          mask_mod(b, h, q, kv) { return kv < lengths[b] }
          score_mod(s, b, h, q, kv) { return s * slopes[h] }
        }"""
    classifier = heed.Variant(program).classifier()
    lengths, slopes = np.array([5, 100], np.int32), np.ones(4, np.float32)
    runs = classifier.classify((2, 4, 2, 10, 100), (8, 8), [lengths, slopes])
    assert runs.shape == (2, 1, 2, 13)
    assert [runs.lists(kind)[0].tolist() for kind in (PARTIAL, FULL)] == [[[[1, 1]], [[1, 13]]], [[[0, 0]], [[12, 0]]]]
    with pytest.raises(HeedError, match=r"argument 'lengths' \(i32\[B\]\): expected extent B = 3 in dimension 0, found 2"):
        classifier.classify((3, 4, 2, 10, 100), (8, 8), [lengths, slopes])


def test_errors() -> None:
    trace, values = tracing.lookup(None, per_head)
    classifier = variant.of_trace(trace).classifier()
    with pytest.raises(HeedError, match="argument 'query_length': expected a number from 0 to 2147483647, found 2147483648"):
        classifier.classify((1, 1, 1, 2 ** 31, 1), (8, 8), values)
    trace, values = tracing.lookup(None, lambda b, h, q, kv: q >= kv)  # whose kernel walks no lists
    kernel = variant.of_trace(trace).kernel("f32", 16, 16)
    with pytest.raises(HeedError, match="has no code for this machine that classifies blocks"):
        kernel.classify((1, 1, 1, 8, 8), (8, 8), values)
    query = np.zeros((1, 1, 8, 64), np.float32)
    with pytest.raises(HeedError, match="kernel 'heed_jit'"):  # it classifies, and computes nothing
        classifier(query, query, query)


# attention-gym.

GYM_MASKS = [name for name in GYM if GYM[name](np.random.default_rng(0)).mask_mod is not None]
GYM_BLOCKS = (16, 128, (64, 256))


def check_gym(name: str, length: int) -> None:
    case = GYM[name](np.random.default_rng(0))
    uses = tracing.lookup(None, case.mask_mod)[0].mask_coordinates
    B, H = case.B if "b" in uses else 1, case.H if "h" in uses else 1
    # Tables are made for some 100 tokens. Outside of them pairs read 0.
    dense = bm.create_mask(case.mask_mod, B, H, length, length, device="numpy")
    for block in GYM_BLOCKS:
        q_block, kv_block = block if isinstance(block, tuple) else (block, block)
        assert_exact(make(case.mask_mod, B, H, length, length, block), kinds_of(dense, q_block, kv_block), (name, length, block))


@pytest.mark.parametrize("name", GYM_MASKS)
def test_gym(name: str) -> None:
    for length in (1, 127, 128, 129, 1000):
        check_gym(name, length)


@pytest.mark.slow
@pytest.mark.parametrize("name", GYM_MASKS)
def test_long_gym(name: str) -> None:
    check_gym(name, 4096)


# Long masks. Blocks of these can be told from their corners.


def causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv


def window(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return (q - kv <= 3000) & (kv - q <= 500)


def corners(length: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.arange(0, length, block)
    return first, np.minimum(first + block, length) - 1


def band_kinds(length: int, q_block: int, kv_block: int, low: float, high: float) -> np.ndarray:
    """Of low <= q - kv <= high, where the blocks divide the length."""
    (q0, q1), (k0, k1) = corners(length, q_block), corners(length, kv_block)
    least, most = q0[:, None] - k1, q1[:, None] - k0
    kinds = np.where((least >= low) & (most <= high), FULL, np.where((most >= low) & (least <= high), PARTIAL, SKIPPED))
    return kinds.astype(np.int8)[None, None]


@pytest.mark.parametrize("length, q_block, kv_block", ((1 << 15, 128, 128), (1 << 15, 64, 256), (1 << 22, 8192, 4096)))
def test_lists_of_long_masks(length: int, q_block: int, kv_block: int) -> None:
    mask = make(causal, None, None, length, length, (q_block, kv_block))
    assert_exact(mask, band_kinds(length, q_block, kv_block, 0, np.inf))
    assert_exact(make(window, None, None, length, length, (q_block, kv_block)), band_kinds(length, q_block, kv_block, -500, 3000))
    # Sorted ids: that of one token is in all between the corners.
    ids = np.sort(np.random.default_rng(11).integers(0, 40, length))
    (q0, q1), (k0, k1) = (corners(length, block) for block in (q_block, kv_block))
    meet = (ids[q0][:, None] <= ids[k1]) & (ids[k0] <= ids[q1][:, None])
    one = (ids[q0] == ids[q1])[:, None] & (ids[k0] == ids[k1])
    kinds = np.where(meet, np.where(one, FULL, PARTIAL), SKIPPED).astype(np.int8)[None, None]
    assert_exact(make(lambda b, h, q, kv: ids[q] == ids[kv], None, None, length, length, (q_block, kv_block)), kinds)


@pytest.mark.parametrize("length", (1 << 20, 1 << 22))
def test_memory_of_millions_of_tokens(length: int) -> None:
    make(causal, None, None, 64, 64, 8).block_kinds()  # takes the memory that stays
    tracemalloc.start()
    try:
        runs = runs_of(causal, None, None, length, length, 128)
        assert tracemalloc.get_traced_memory()[1] < 4 * length
    finally:
        tracemalloc.stop()
    rows = length // 128
    assert runs.shape == (1, 1, rows, rows) and runs.nbytes < length
    assert runs.num_listed() == rows * (rows + 1) // 2
    kinds, counts = runs.runs[:, 2], np.diff(runs.runs[:, :2])[:, 0]
    assert (counts[kinds == PARTIAL] == 1).all() and (counts[kinds == FULL] == np.arange(1, rows)).all()


def test_memory_of_lists() -> None:
    """Nothing beside what they hold."""
    runs = runs_of(causal, None, None, 1 << 20, 1 << 20, 256)
    size = 4 * 4096 * 4096
    tracemalloc.start()
    try:
        indices = runs.lists(FULL)[1]
        assert tracemalloc.get_traced_memory()[1] < size + (1 << 20)
    finally:
        tracemalloc.stop()
    assert indices.nbytes == size and (np.sort(indices[0, 0, 3000]) == np.arange(4096)).all()
    assert (indices[0, 0, 3000, :3001] == [*range(3000), 3000]).all()


def test_memory_of_counts() -> None:
    """Of pictures and `sparsity` of a mask whose runs are as many as half of its blocks."""
    runs = runs_of(lambda b, h, q, kv: (q // 64 + kv // 64) % 2 == 0, None, None, 1 << 18, 1 << 18, 64)
    assert len(runs.runs) == 4096 * 2048
    tracemalloc.start()
    try:
        assert runs.num_listed() == len(runs.runs)
        cells = runs.num_visited(205, 205)
        assert tracemalloc.get_traced_memory()[1] < 72 << 20  # the runs take 96 MiB
    finally:
        tracemalloc.stop()
    sizes = np.minimum(205, 4096 - np.arange(0, 4096, 205))
    expected = np.multiply.outer(sizes, sizes)
    firsts = np.arange(0, 4096, 205)
    expected = expected // 2 + (expected % 2) * ((firsts[:, None] + firsts) % 2 == 0)
    np.testing.assert_array_equal(cells[0, 0], expected)


@pytest.mark.parametrize("length", (2 ** 31 - 1, 2 ** 31 - 2 ** 20))
def test_longest(length: int) -> None:
    runs = runs_of(causal, None, None, length, length, 1 << 20)
    rows = -(-length // (1 << 20))
    whole = length // (1 << 20)
    assert runs.shape == (1, 1, rows, rows) and runs.num_listed() == rows * (rows + 1) // 2
    counts = runs.lists(FULL)[0]
    assert (counts[0, 0, :whole] == np.arange(whole)).all() and counts[0, 0, whole:].sum() == 0


# BlockRuns by itself.


def encode(kinds: np.ndarray) -> BlockRuns:
    """The runs of int8 (B, H, rows, columns), row by row."""
    offsets, runs = [0], []
    for row in kinds.reshape(int(np.prod(kinds.shape[:3])), kinds.shape[3]).tolist():
        start = 0
        for column in range(1, len(row) + 1):
            if column == len(row) or row[column] != row[start]:
                if row[start] != SKIPPED:
                    runs.append((start, column, row[start]))
                start = column
        offsets.append(len(runs))
    return BlockRuns(kinds.shape, np.array(offsets), np.array(runs, np.int32).reshape(-1, 3))


@st.composite
def kind_arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 6), st.integers(0, 9)))
    values = st.lists(st.sampled_from((0, 0, 1, 2, 2)), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
    return np.array(draw(values), np.int8).reshape(shape)


@pytest.mark.parametrize("entries", (1, 7, 20, 1 << 21))
def test_block_runs(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_runs, "_CHUNK_ENTRIES", entries)

    @draws(40)
    @given(kind_arrays())
    def check(kinds: np.ndarray) -> None:
        runs = encode(kinds)
        matrix = runs.matrix()
        assert matrix.dtype == np.int8 and runs.num_listed() == np.count_nonzero(kinds)
        np.testing.assert_array_equal(matrix, kinds)
        assert_lists(runs, kinds)
        lists = lists_of(kinds)
        pairs = [(PARTIAL, *lists[:2]), (FULL, *lists[2:])]
        assert_same(BlockRuns.of_lists(pairs, kinds.shape[3]), runs)
        np.testing.assert_array_equal(block_runs.matrix_of_lists(pairs, kinds.shape[3]), kinds)
        np.testing.assert_array_equal(runs.transposed().matrix(), (kinds > 0).swapaxes(2, 3))
        counts, indices = runs.short_column_lists()
        whole = lists_of((kinds > 0).swapaxes(2, 3).astype(np.int8))
        np.testing.assert_array_equal(counts, whole[0])
        assert indices.shape[3] == counts.max(initial=0) and indices.dtype == np.int32
        is_used = np.arange(indices.shape[3]) < counts[..., None]
        np.testing.assert_array_equal(indices[is_used], whole[1][..., :indices.shape[3]][is_used])

    check()


def assert_same(found: BlockRuns, expected: BlockRuns) -> None:
    assert found.shape == expected.shape and found.offsets.dtype == np.int64 and found.runs.dtype == np.int32
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.runs, expected.runs)


@draws(60)
@given(kind_arrays(), st.integers(1, 7), st.integers(1, 10), st.integers(0, 2 ** 32 - 1))
def test_cells_and_slices(kinds: np.ndarray, row_step: int, column_step: int, seed: int) -> None:
    visited, runs = (kinds > 0).astype(np.int64), encode(kinds)
    cells = runs.num_visited(row_step, column_step)
    expected = np.zeros((*kinds.shape[:2], -(-kinds.shape[2] // row_step), -(-kinds.shape[3] // column_step)), np.int64)
    for place in np.ndindex(*expected.shape[2:]):
        row, column = place[0] * row_step, place[1] * column_step
        expected[(..., *place)] = visited[:, :, row:row + row_step, column:column + column_step].sum((2, 3))
    np.testing.assert_array_equal(cells, expected)

    rng = np.random.default_rng(seed)
    selection: list[Any] = [slice(*sorted(rng.integers(0, extent + 1, 2).tolist())) for extent in kinds.shape[:3]]
    axis = int(rng.integers(0, 3))
    if kinds.shape[axis]:
        selection[axis] = rng.integers(0, kinds.shape[axis], 3)
    # Batches or heads that are all alike stay so.
    parts = tuple(slice(None) if axis < 2 and kinds.shape[axis] == 1 else part for axis, part in enumerate(selection))
    assert_same(runs.select(tuple(selection)), encode(kinds[parts]))


def test_lists_of_anything() -> None:
    """What names no block is ignored, what is listed twice counts once, and the last kind counts."""
    counts, indices = np.array([[3, 9, -1, 2]]), np.array([[[1, -1, 10 ** 9], [0, 2, 1], [0, 1, 2], [2, 2, 0]]])
    full = (FULL, np.array([[1, 1, 0, 0]]), np.array([[[1], [-5], [0], [0]]]))
    expected = np.array([[[[0, 2, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]]]], np.int8)
    assert_same(BlockRuns.of_lists([(PARTIAL, counts, indices), full], 3), encode(expected))
    np.testing.assert_array_equal(block_runs.matrix_of_lists([(PARTIAL, counts, indices), full], 3), expected[0])


def assert_lists(runs: BlockRuns, kinds: np.ndarray) -> None:
    for by_column in (False, True):
        partial_and_full = lists_of(np.ascontiguousarray(kinds.swapaxes(-1, -2)) if by_column else kinds)
        for pair, kind in zip((partial_and_full[:2], partial_and_full[2:]), (PARTIAL, FULL)):
            for found, expected in zip(runs.lists(kind, by_column), pair):
                assert found.dtype == np.int32 and found.shape == expected.shape
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", (1, 63, 64, 65, 200))
@pytest.mark.parametrize("columns", (1, 63, 64, 65, 200))
def test_long_lists(rows: int, columns: int) -> None:
    """Of 64 rows and columns at a time."""
    rng = np.random.default_rng(rows * columns)
    kinds = rng.choice(np.int8([0, 1, 2]), (2, 2, rows, columns), p=(0.5, 0.2, 0.3))
    kinds[:, 1] = np.sort(kinds[:, 1], axis=-1)  # long runs
    assert_lists(encode(kinds), kinds)


@pytest.mark.parametrize("shape", ((0, 1, 64, 64), (1, 0, 64, 64), (1, 1, 0, 64), (1, 1, 64, 0), (0, 0, 0, 0), (2, 3, 0, 64),
                                   (2, 3, 64, 0)), ids=str)
@pytest.mark.parametrize("mask_mod", (causal, per_head), ids=lambda mask_mod: mask_mod.__name__)
def test_zero_extents(mask_mod: Any, shape: tuple[int, int, int, int]) -> None:
    mask = make(mask_mod, *shape, 16)
    runs = mask._derivation.runs
    kinds = np.zeros((*shape[:2], shape[2] // 16, shape[3] // 16), np.int8)
    # Lists that no mask depends on are there once, unless there is nothing at all.
    assert runs.shape[0] == min(shape[0], 1) and runs.shape[2:] == kinds.shape[2:]
    assert runs.shape[1] == (shape[1] if mask_mod is per_head else min(shape[1], 1))
    assert runs.num_listed() == 0 and runs.matrix().shape == runs.shape and len(runs.runs) == 0
    assert_exact(mask, kinds)
