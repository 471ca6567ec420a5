# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The blocks that a mask visits, as runs a row: what block lists are made of, in a fraction of their memory."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from heed import _runtime

SKIPPED, PARTIAL, FULL = 0, 1, 2  # tile::BlockClass
# Blocks of a matrix, or entries of lists, that are looked at together: up to 40 bytes each.
_CHUNK_ENTRIES = 1 << 20


def ceil_div(length: int, block: int) -> int:
    return -(-length // block)


@dataclasses.dataclass(frozen=True, eq=False)
class BlockRuns:
    """Blocks of one kind that follow each other in a row: `runs` int32 (n, 3) of the first, the one behind the last, and the
    kind. Those of row r of batch b and head h are numbers offsets[n] to offsets[n + 1], with n = (b * heads + h) * rows + r;
    in a row they ascend and do not touch if they are of a kind.

    `shape` is (batches, heads, rows, columns), with 1 for batches or heads that are all alike."""

    shape: tuple[int, int, int, int]
    offsets: np.ndarray
    runs: np.ndarray

    @classmethod
    def take(cls, result: ctypes._Pointer[_runtime.BlockRuns]) -> "BlockRuns":
        """A copy of what heed_classify found, which is freed."""
        try:
            found = result.contents
            shape = (found.num_batches, found.num_heads, found.num_rows, found.num_columns)
            num_rows = shape[0] * shape[1] * shape[2]
            offsets = np.ctypeslib.as_array(found.offsets, (num_rows + 1,)).copy()
            size = int(offsets[-1])
            return cls(shape, offsets, np.ctypeslib.as_array(found.runs, (size, 3)).copy() if size else np.empty((0, 3), np.int32))
        finally:
            _runtime.lib.heed_block_runs_free(result)

    @classmethod
    def of_lists(cls, lists: Sequence[tuple[int, np.ndarray, np.ndarray]], columns: int) -> "BlockRuns":
        """Of kinds with counts (..., rows) and indices (..., rows, any number). Entries that name no block are ignored, and a block
        that is listed more than once is of the last of its kinds. Other than two batch dims become one of heads."""
        *batch, rows = lists[0][1].shape
        lists = _flat(lists)
        sizes: list[np.ndarray] = [np.zeros(1, np.int64)]
        runs: list[np.ndarray] = [np.empty((0, 3), np.int32)]
        for low, high in _row_chunks(math.prod(batch) * rows, max(indices.shape[-1] for *_, indices in lists)):
            keys = np.concatenate([_listed(counts, indices, columns, low, high) * 4 + kind for kind, counts, indices in lists])
            keys.sort(kind="stable")  # which takes no time for what is sorted
            blocks, kinds = keys >> 2, keys & 3
            is_last = np.append(blocks[1:] != blocks[:-1], np.ones(min(len(keys), 1), np.bool_))
            blocks, kinds = blocks[is_last], kinds[is_last]
            begins_run = np.ones(len(blocks), np.bool_)
            begins_run[1:] = (np.diff(blocks) != 1) | (np.diff(kinds) != 0) | (blocks[1:] % columns == 0)
            firsts = np.flatnonzero(begins_run)
            found_in, begins = np.divmod(blocks[firsts], columns)
            ends = begins + np.diff(firsts, append=len(blocks))
            runs.append(np.stack((begins, ends, kinds[firsts]), axis=1).astype(np.int32))
            sizes.append(np.bincount(found_in, minlength=high - low))
        batches, heads = batch if len(batch) == 2 else (1, math.prod(batch))
        return cls((batches, heads, rows, columns), np.cumsum(np.concatenate(sizes)), np.concatenate(runs))

    def select(self, selection: tuple[slice | np.ndarray, ...]) -> "BlockRuns":
        """Of some batches, heads and rows: slices, and at most one array of numbers. Batches or heads that are all alike stay so."""
        parts = tuple(slice(None) if axis < 2 and self.shape[axis] == 1 else part for axis, part in enumerate(selection))
        numbers = np.arange(len(self.offsets) - 1).reshape(self.shape[:3])[parts]
        begins, ends = self.offsets[numbers.reshape(-1)], self.offsets[numbers.reshape(-1) + 1]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(ends - begins)))
        batches, heads, rows = numbers.shape
        return BlockRuns((batches, heads, rows, self.shape[3]), offsets, self.runs[_expand(begins, ends)])

    def all_partial(self) -> "BlockRuns":
        """The blocks that are not skipped, as partial ones."""
        begins, ends = self.runs[:, 0], self.runs[:, 1]
        begins_run = np.ones(len(self.runs) + 1, np.bool_)  # with one behind the last
        begins_run[1:-1] = begins[1:] != ends[:-1]
        begins_run[self.offsets] = True
        firsts = np.flatnonzero(begins_run)
        runs = np.stack((begins[firsts[:-1]], ends[firsts[1:] - 1], np.full(len(firsts) - 1, PARTIAL, np.int32)), axis=1)
        return BlockRuns(self.shape, np.searchsorted(firsts, self.offsets), runs)

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.runs.nbytes

    def num_listed(self) -> int:
        """Blocks that are not skipped."""
        return int(self.runs[:, 1].sum(dtype=np.int64) - self.runs[:, 0].sum(dtype=np.int64))

    def num_visited(self, row_step: int, column_step: int) -> np.ndarray:
        """How many blocks are not skipped in each cell of so many rows and columns, the last ones of fewer: int64 (batches, heads,
        rows of cells, columns of cells). Takes time for the runs and the cells, not for the blocks."""
        batches, heads, rows, columns = self.shape
        shape = (batches, heads, ceil_div(rows, row_step), ceil_div(columns, column_step) + 1)
        # Before column x there are x - begin of a run's blocks if it has begun, less x - end if it has ended.
        num_open, sums = np.zeros(math.prod(shape)), np.zeros(math.prod(shape))
        for low in range(0, len(self.runs), _CHUNK_ENTRIES):
            part = self.runs[low:low + _CHUNK_ENTRIES]
            found_in = np.searchsorted(self.offsets, np.arange(low, low + len(part)), side="right") - 1
            table, row = np.divmod(found_in, max(rows, 1))
            first_cell = (table * shape[2] + row // row_step) * shape[3]
            touched = slice(first_cell[0], first_cell[-1] + shape[3])
            size = touched.stop - touched.start
            for sign, edges in ((1, part[:, 0]), (-1, part[:, 1])):
                cells = first_cell - touched.start + edges // column_step
                num_open[touched] += sign * np.bincount(cells, minlength=size)
                sums[touched] += sign * np.bincount(cells, edges, size)
        ends = np.minimum(np.arange(1, shape[3]) * column_step, columns)
        before = (ends * np.cumsum(num_open.reshape(shape), axis=-1)[..., :-1]
                  - np.cumsum(sums.reshape(shape), axis=-1)[..., :-1])
        counts: np.ndarray = np.diff(before, axis=-1, prepend=0).astype(np.int64)
        return counts

    def num_in_columns(self) -> np.ndarray:
        """How many blocks of each column are not skipped: int64 (batches, heads, columns)."""
        counts: np.ndarray = self.num_visited(max(self.shape[2], 1), 1).sum(axis=2)
        return counts

    def short_column_lists(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the blocks in each column that are not skipped, as `lists` has them, but only as wide as the longest."""
        batches, heads, rows, columns = self.shape
        counts = self.num_in_columns()
        indices = np.zeros((*counts.shape, counts.max(initial=0)), np.int32)
        sizes_of, listed_of = counts.reshape(batches * heads, columns), indices.reshape(batches * heads, *indices.shape[2:])
        bounds = self.offsets[np.arange(batches * heads + 1) * rows]
        for table, (low, high) in enumerate(zip(bounds, bounds[1:])):
            begins, ends = self.runs[low:high, 0].astype(np.int64), self.runs[low:high, 1]
            found_in = _expand(begins, ends)
            order = np.argsort(found_in, kind="stable")
            offsets = self.offsets[table * rows:(table + 1) * rows + 1] - low
            listed = np.repeat(np.repeat(np.arange(rows), np.diff(offsets)), ends - begins)[order]
            found_in, sizes = found_in[order], sizes_of[table]
            place = np.arange(len(listed)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            listed_of[table, found_in, place] = listed
        return counts.astype(np.int32), indices

    def transposed(self) -> "BlockRuns":
        """The blocks that are not skipped, as partial ones, by column."""
        return self.of_lists([(PARTIAL, *self.short_column_lists())], self.shape[2])

    def lists(self, kind: int, by_column: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a kind as FlexAttention lists them: counts, int32 (batches, heads, rows), and indices, int32 (batches,
        heads, rows, columns): those of the kind, then the others, both in ascending order. By column rows and columns change
        places."""
        batches, heads, rows, columns = self.shape
        if by_column:
            rows, columns = columns, rows
        counts, indices = np.empty((batches, heads, rows), np.int32), np.empty((batches, heads, rows, columns), np.int32)
        runs = _runtime.BlockRuns(*self.shape, self.offsets.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)),
                                  self.runs.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)))
        pair = (counts.ctypes.data, indices.ctypes.data)
        lists = _runtime.BlockLists(*(pair if kind == PARTIAL else (None, None)), *(pair if kind == FULL else (None, None)))
        if _runtime.lib.heed_list_blocks(runs, by_column, lists, 0) != 0:
            raise _runtime.HeedError(_runtime.lib.heed_last_error().decode())
        return counts, indices

    def matrix(self) -> np.ndarray:
        """int8 (batches, heads, rows, columns): the kind of every block."""
        matrix = np.zeros(self.shape, np.int8)
        flat = matrix.reshape(-1)
        for low, high in _row_chunks(len(self.offsets) - 1, self.shape[3]):
            for kind in (PARTIAL, FULL):
                rows, begins, ends = self._of(low, high, kind)
                flat[_expand(rows * self.shape[3] + begins, rows * self.shape[3] + ends)] = kind
        return matrix

    def _of(self, low: int, high: int, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, begin and end, in int64, of the runs of a kind in some rows."""
        part = self.runs[self.offsets[low]:self.offsets[high]]
        rows = np.repeat(np.arange(low, high), np.diff(self.offsets[low:high + 1]))
        chosen = part[:, 2] == kind
        return rows[chosen], part[chosen, 0].astype(np.int64), part[chosen, 1].astype(np.int64)


def matrix_of_lists(lists: Sequence[tuple[int, np.ndarray, np.ndarray]], columns: int) -> np.ndarray:
    """int8 (..., rows, columns): the kind of every block, of lists as BlockRuns.of_lists takes them."""
    matrix = np.zeros((*lists[0][1].shape, columns), np.int8)
    flat = matrix.reshape(-1)
    for kind, counts, indices in _flat(lists):
        for low, high in _row_chunks(counts.size, indices.shape[-1]):
            flat[_listed(counts, indices, columns, low, high) + low * columns] = kind
    return matrix


def _flat(lists: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    return [(kind, counts.reshape(-1), indices.reshape(counts.size, indices.shape[-1])) for kind, counts, indices in lists]


def _row_chunks(num_rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of so many entries that are looked at together."""
    step = max(1, _CHUNK_ENTRIES // max(width, 1))
    for low in range(0, num_rows, step):
        yield low, min(low + step, num_rows)


def _listed(counts: np.ndarray, indices: np.ndarray, columns: int, low: int, high: int) -> np.ndarray:
    """The blocks that some rows list, numbered row by row from the first of these; those that there are not are left out."""
    counts, indices = counts[low:high], indices[low:high]
    is_used = np.arange(indices.shape[-1]) < counts[:, None]
    is_used &= (indices >= 0) & (indices < columns)
    firsts = np.arange(len(counts)) * columns
    blocks: np.ndarray = np.repeat(firsts, np.count_nonzero(is_used, axis=-1)) + indices[is_used]
    return blocks


def _expand(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, one after the other."""
    sizes = ends - begins
    numbers: np.ndarray = np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    return numbers
