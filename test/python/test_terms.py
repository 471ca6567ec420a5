# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Blocks as runs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from conftest import ROOT
from heed import subject, terms
from heed.oracle import FULL, PARTIAL, SKIPPED
from heed.terms import Blocks


def draw(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Classes with runs of several lengths."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(0, 3, (shape[0], shape[1])), 3, 1)[:, 1:shape[1] + 1].astype(np.int8)


@pytest.mark.parametrize("shape", [(7, 23), (1, 1), (5, 1), (1, 40), (16, 16)])
def test_runs_of_classes(shape: tuple[int, int]) -> None:
    classes = draw(shape)
    blocks = Blocks.of_classes(classes)
    np.testing.assert_array_equal(blocks.classes(), classes)
    assert blocks.counts().tolist() == [(classes == kind).sum() for kind in (SKIPPED, PARTIAL, FULL)]


@pytest.mark.parametrize("cell", [(1, 1), (2, 3), (4, 4), (7, 5), (100, 100)])
def test_cells(cell: tuple[int, int]) -> None:
    classes = draw((21, 34))
    found = Blocks.of_classes(classes).in_cells(cell)
    for row, column in np.ndindex(found.shape[1:]):
        part = classes[row * cell[0]:(row + 1) * cell[0], column * cell[1]:(column + 1) * cell[1]]
        assert found[:, row, column].tolist() == [(part == kind).sum() for kind in (SKIPPED, PARTIAL, FULL)]


@pytest.mark.parametrize("cell", [(1, 1), (2, 3), (7, 5), (100, 100)])
def test_runs_are_counted_in_parts(cell: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks.of_classes(draw((21, 34)))
    counts, cells = blocks.counts(), blocks.in_cells(cell)
    monkeypatch.setattr(terms, "_CHUNK_RUNS", 7)
    np.testing.assert_array_equal(blocks.counts(), counts)
    np.testing.assert_array_equal(blocks.in_cells(cell), cells)


def test_memory_of_pictures() -> None:
    """Beside the runs, of which a chessboard has half as many as blocks."""
    rows = columns = 2048
    firsts = np.arange(rows)[:, None] % 2 + np.arange(0, columns, 2)
    row = np.broadcast_to(np.arange(rows)[:, None], firsts.shape)
    runs = np.stack([row, firsts, firsts + 1, np.full_like(firsts, FULL)], -1).reshape(-1, 4).astype(np.int32)
    blocks = Blocks((rows, columns), runs)
    tracemalloc.start()
    try:
        assert blocks.counts().tolist() == [rows * columns // 2, 0, rows * columns // 2]
        cells = blocks.in_cells((4, 4))
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # 2M runs: 32 MiB
    finally:
        tracemalloc.stop()
    assert (cells[FULL] == 8).all() and (cells[SKIPPED] == 8).all()


def test_bounds_cut_runs() -> None:
    classes, first, end = draw((4, 12)), np.array([0, 3, 5, 12]), np.array([12, 9, 5, 12])
    columns = np.arange(12)
    kept = np.where((columns >= first[:, None]) & (columns < end[:, None]), classes, SKIPPED)
    np.testing.assert_array_equal(Blocks.of_classes(classes).within(first, end).classes(), kept)


@pytest.mark.parametrize("name", ["bert_padding", "packed_documents", "neighbourhood_2d", "dense", "transfusion"])
def test_lists_decide_what_intervals_do(name: str) -> None:
    """Both ways to find blocks agree wherever intervals know, for every batch."""
    made = subject.load(str(ROOT / "examples" / f"{name}.heed"), {}, subject.Sizes({"Sq": 300, "B": 2}))
    report = terms.explain(made)
    places = [(0, 0), (1, 3)]
    for exact, asked in zip(terms.visited(made, report, True, (64, 32), places), terms.visited(made, report, False, (64, 32), places)):
        np.testing.assert_array_equal(np.where(asked.classes() == PARTIAL, PARTIAL, exact.classes()), asked.classes())
