# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The blocks that a mask visits, as runs a row: what block lists are made of, in a fraction of their memory."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator

import numpy as np

from heed import _runtime

SKIPPED, PARTIAL, FULL = 0, 1, 2  # tile::BlockClass
# Blocks of a matrix that are made at a time: some 20 bytes each.
_CHUNK_ENTRIES = 1 << 21


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

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.runs.nbytes

    def num_listed(self) -> int:
        """Blocks that are not skipped."""
        return int((self.runs[:, 1].astype(np.int64) - self.runs[:, 0]).sum())

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
        for low, high in self._chunks():
            for kind in (PARTIAL, FULL):
                rows, begins, ends = self._of(low, high, kind)
                flat[_expand(rows * self.shape[3] + begins, rows * self.shape[3] + ends)] = kind
        return matrix

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows, of all batches and heads."""
        num_rows, columns = len(self.offsets) - 1, self.shape[3]
        step = max(1, _CHUNK_ENTRIES // max(columns, 1))
        for low in range(0, num_rows if columns else 0, step):
            yield low, min(low + step, num_rows)

    def _of(self, low: int, high: int, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, begin and end, in int64, of the runs of a kind in some rows."""
        part = self.runs[self.offsets[low]:self.offsets[high]]
        rows = np.repeat(np.arange(low, high), np.diff(self.offsets[low:high + 1]))
        chosen = part[:, 2] == kind
        return rows[chosen], part[chosen, 0].astype(np.int64), part[chosen, 1].astype(np.int64)


def _expand(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, one after the other."""
    sizes = ends - begins
    numbers: np.ndarray = np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    return numbers
