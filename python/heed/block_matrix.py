# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The blocks that a mask visits, found on the GPU that holds what the mask captures, and listed there.

Nothing here waits for the GPU or copies anything from it."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from heed import _runtime, arrays, gpu
from heed.block_runs import PARTIAL, ceil_div
from heed.kernel import Kernel
from heed.tracing import Trace
from heed.variant import of_trace

# Of queries or keys, and of what a block has of them: the limits of heed_launch_classify.
_MAX_LENGTH, _MAX_SPAN, _MAX_PAIRS = 1 << 30, 1 << 28, 1 << 34


@dataclasses.dataclass(frozen=True, eq=False)
class BlockMatrix:
    """The class of every block of a mask: `classes` is a tensor int8 (batches, heads, rows, columns) of SKIPPED, PARTIAL
    and FULL (heed.block_runs), with 1 for batches or heads that are all alike."""

    classes: Any
    kernel: Kernel
    stream: int  # on which it is made
    is_made: Any  # an event of that stream; None in a CUDA graph, within which nobody else may wait for it

    @classmethod
    def classify(cls, trace: Trace, values: Sequence[Any], extents: tuple[int, int, int, int], block_size: tuple[int, int],
                 device: int) -> "BlockMatrix":
        """Of a mask, exactly; extents: B, H, Sq, Skv. `values`, of what it captures, have to be on `device`."""
        torch = sys.modules["torch"]
        kernel = of_trace(trace).classifier(device)
        batch, heads, q_len, kv_len = extents
        uses = trace.mask_coordinates
        shape = (batch if "b" in uses else min(batch, 1), heads if "h" in uses else min(heads, 1),
                 ceil_div(q_len, block_size[0]), ceil_div(kv_len, block_size[1]))
        classes = torch.empty(shape, dtype=torch.int8, device=torch.device("cuda", device))
        matrix = _runtime.ClassMatrix(classes.data_ptr(), *shape)
        stream = _stream(device)
        kernel._launch_classify((batch, heads, heads, q_len, kv_len), block_size, values, matrix, device, stream)
        return cls(classes, kernel, stream, None if is_capturing(device) else torch.cuda.current_stream(device).record_event())

    @property
    def nbytes(self) -> int:
        return int(self.classes.nbytes)

    def join(self) -> None:
        """Lets torch's current stream wait until the matrix is made."""
        current = sys.modules["torch"].cuda.current_stream(self.classes.device)
        if current.cuda_stream != self.stream:
            current.wait_event(self.is_made)
            self.classes.record_stream(current)

    def select(self, selection: tuple[slice | np.ndarray, ...]) -> "BlockMatrix":
        """Of some batches, heads and rows, as BlockRuns.select takes them; for torch's current stream, which has joined."""
        torch = sys.modules["torch"]
        parts = tuple(slice(None) if axis < 2 and self.classes.shape[axis] == 1 else part if isinstance(part, slice) else
                      torch.from_numpy(part) for axis, part in enumerate(selection))
        return dataclasses.replace(self, classes=self.classes[parts].contiguous())

    def all_partial(self) -> "BlockMatrix":
        """The blocks that are not skipped, as partial ones; for torch's current stream, which has joined."""
        return dataclasses.replace(self, classes=self.classes.clamp(max=PARTIAL))

    def lists(self, by_column: bool) -> tuple[Any, Any, Any, Any]:
        """Counts and indices of the partial blocks and of the full ones of each row, or each column: tensors int32
        (batches, heads, rows) and (batches, heads, rows, columns). After a row's blocks come the others."""
        torch = sys.modules["torch"]
        device = self.classes.device
        batches, heads, rows, columns = self.classes.shape
        listed, entries = (columns, rows) if by_column else (rows, columns)
        shapes = 2 * ((batches, heads, listed), (batches, heads, listed, entries))
        partial_counts, partial_indices, full_counts, full_indices = made = tuple(
            torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes)
        self.kernel._launch_list(_runtime.ClassMatrix(self.classes.data_ptr(), batches, heads, rows, columns), by_column,
                                _runtime.BlockLists(*(x.data_ptr() for x in made)), device.index, _stream(device.index))
        return partial_counts, partial_indices, full_counts, full_indices


def fill(kernel: Kernel, pairs: Sequence[Sequence[Any]], columns: int, device: int) -> Any:
    """The classes of blocks that lists name, as `BlockMask.block_kinds` understands them: a tensor int8 (..., rows, columns).

    `kernel`: the classifier of any mask. `pairs`: counts and indices of the partial blocks and, if there are any, of the full
    ones, tensors of torch on `device`."""
    torch = sys.modules["torch"]
    shape = tuple(pairs[0][1].shape[:-1])
    for counts, indices in pairs:
        if counts.shape != shape or indices.shape[:-1] != shape:
            raise ValueError(f"expected counts of shape {shape}, found {tuple(counts.shape)} with indices of shape "
                             f"{tuple(indices.shape)}")
    lists = [x.to(torch.int32).contiguous() for pair in pairs for x in pair]
    partial_width, full_width = [x.shape[-1] for x in lists[1::2]] + [0] * (2 - len(pairs))
    return fill_from(kernel, [x.data_ptr() for x in lists], (partial_width, full_width), (*shape, columns), lists[0].device, device)


def fill_from(kernel: Kernel, addresses: Sequence[int | None], widths: tuple[int, int], shape: tuple[int, ...], place: Any,
              device: int) -> Any:
    """fill for lists of int32, dense, at `addresses`; None, or left out: there are no such blocks. `widths`: the last extents of
    the partial blocks' indices and of the full ones'. `shape`: of the result. `place`: torch's word for `device`."""
    torch = sys.modules["torch"]
    classes = torch.empty(shape, dtype=torch.int8, device=place)
    *batch_dims, rows, columns = shape
    kernel._launch_fill(_runtime.BlockLists(*addresses), widths,
                        _runtime.ClassMatrix(classes.data_ptr(), math.prod(batch_dims), 1, rows, columns), device, _stream(device))
    return classes


def is_capturing(device: int) -> bool:
    """Whether what is launched on torch's current stream of a device goes into a CUDA graph."""
    cuda = sys.modules["torch"].cuda
    with cuda.device(device):
        return bool(cuda.is_current_stream_capturing())


def fits(values: Sequence[Any], extents: tuple[int, int, int, int], block_size: tuple[int, int]) -> bool:
    """Whether a question is none that heed_launch_classify refuses for its size."""
    batch, heads, *lengths = extents
    spans = [min(length, block) for length, block in zip(lengths, block_size)]
    rows, columns = map(ceil_div, lengths, block_size)
    words = sum(1 + 2 * getattr(value, "ndim", 0) for value in values)
    return (max(lengths) < _MAX_LENGTH and max(spans) < _MAX_SPAN and math.prod(spans) < _MAX_PAIRS
            and batch * heads * rows * ceil_div(columns, 32) < 1 << 31 and len(values) <= 128 and words <= 400)


def device_for(values: Sequence[Any], wanted: Any) -> int | None:
    """The GPU on which lists can be made that are `wanted` on a device of torch: it must hold all arrays among `values`,
    as tensors of torch, and be one that Heed has code for."""
    if getattr(wanted, "type", None) != "cuda":
        return None
    if wanted.index is None and not sys.modules["torch"].cuda.is_available():
        return None
    device: int = sys.modules["torch"].cuda.current_device() if wanted.index is None else wanted.index
    for value in values:
        if arrays.is_array(value) and not (arrays.is_torch(value) and arrays.device_of(value) == device):
            return None
    return device if gpu.is_supported(device) else None


def _stream(device: int) -> int:
    return gpu.torch_stream()(device)
