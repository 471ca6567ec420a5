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
# Entries of lists that are made at a time: some 20 bytes each.
_CHUNK_ENTRIES = 1 << 21


def ceil_div(length: int, block: int) -> int:
    return -(-length // block)


@dataclasses.dataclass(frozen=True, eq=False)
class BlockRuns:
    """Runs [begins[i], ends[i]) of blocks of one kind. Those of row r of batch b and head h are numbers offsets[n] to
    offsets[n + 1], with n = (b * heads + h) * rows + r; in a row they ascend and do not touch if they are of a kind.

    `shape` is (batches, heads, rows, columns), with 1 for batches or heads that are all alike."""

    shape: tuple[int, int, int, int]
    offsets: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray

    @classmethod
    def take(cls, result: ctypes._Pointer[_runtime.BlockRuns]) -> "BlockRuns":
        """A copy of what heed_classify found, which is freed."""
        try:
            found = result.contents
            shape = (found.num_batches, found.num_heads, found.num_rows, found.num_columns)
            num_rows = shape[0] * shape[1] * shape[2]
            offsets = np.ctypeslib.as_array(found.offsets, (num_rows + 1,)).copy()
            size = int(offsets[-1])
            runs = np.ctypeslib.as_array(found.runs, (size, 3)).copy() if size else np.empty((0, 3), np.int32)
            return cls(shape, offsets, *np.ascontiguousarray(runs.T))
        finally:
            _runtime.lib.heed_block_runs_free(result)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.offsets, self.begins, self.ends, self.kinds))

    def num_listed(self) -> int:
        """Blocks that are not skipped."""
        return int((self.ends.astype(np.int64) - self.begins).sum())

    def counts(self, kind: int) -> np.ndarray:
        """int32 (batches, heads, rows): the blocks of a kind."""
        before = np.zeros(len(self.kinds) + 1, np.int64)
        np.cumsum(np.where(self.kinds == kind, self.ends - self.begins, 0), out=before[1:])
        return np.diff(before[self.offsets]).astype(np.int32).reshape(self.shape[:3])

    def indices(self, kind: int) -> np.ndarray:
        """int32 (batches, heads, rows, columns): the blocks of a kind, then the others, both in ascending order, as
        FlexAttention lists them."""
        indices = np.empty(self.shape, np.int32)
        flat = indices.reshape(len(self.offsets) - 1, self.shape[3])
        for low, high in self._chunks():
            rows, begins, ends = self._of(low, high, kind)
            starts = np.searchsorted(rows, np.arange(low, high + 1))
            # What lies between: up to the first run, between two, after the last.
            gap_begins = np.insert(ends, starts[:-1], 0)
            gap_ends = np.insert(begins, starts[1:], self.shape[3])
            gap_rows = np.repeat(np.arange(low, high), np.diff(starts) + 1)
            order = np.argsort(np.concatenate((rows, gap_rows)), kind="stable")
            flat[low:high] = _expand(np.concatenate((begins, gap_begins))[order],
                                     np.concatenate((ends, gap_ends))[order]).reshape(-1, self.shape[3])
        return indices

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
        part = slice(self.offsets[low], self.offsets[high])
        rows = np.repeat(np.arange(low, high), np.diff(self.offsets[low:high + 1]))
        chosen = self.kinds[part] == kind
        return rows[chosen], self.begins[part][chosen].astype(np.int64), self.ends[part][chosen].astype(np.int64)


def _expand(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, one after the other."""
    sizes = ends - begins
    numbers: np.ndarray = np.arange(sizes.sum()) + np.repeat(begins - np.cumsum(sizes) + sizes, sizes)
    return numbers
