# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The mask that a BlockMask of given lists stands for, Heed's or torch's.

Kernels do not read the lists: they are written into a matrix of the kinds of blocks first, which the mask captures. On a
GPU a kernel does it, at every call, for any other kernel may have changed the lists since; nobody waits for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

from heed import _runtime, arrays, hot, tracing
from heed.arrays import Array
from heed.block_mask import KV_PAIRS, BlockMask, check_rows, is_debugging
from heed.block_matrix import device_for, fill, fill_from
from heed.block_runs import FULL, PARTIAL, SKIPPED, ceil_div
from heed.kernel import Kernel
from heed.mask_mods import MaskMod, noop_mask, sliced_mask_mod
from heed.variant import of_trace

NO_BLOCKS = (1 << 30, 1 << 30)  # torch's block size of a mask that is none, good for all lengths


def is_sliced(mask_mod: Any) -> bool:
    """Whether it is the mask_mod of a sliced mask, ours or torch's, which says what to do when it is called."""
    return mask_mod is sliced_mask_mod or getattr(mask_mod, "__name__", None) == "_sliced_mask_mod_error"


def check_batch_dims(batch_dims: Sequence[int], query_shape: Sequence[int]) -> None:
    """ValueError unless a mask of these batch dims is for such queries. Fewer than two: those on the left are missing."""
    whole = (1,) * (2 - len(batch_dims)) + tuple(batch_dims)
    for name, found, wanted in zip(("batch size", "number of heads"), whole, query_shape):
        if found != 1 and found != wanted:
            raise ValueError(f"Expect block_mask and query to have the same {name}, or 1 in the block_mask, "
                             f"but got {found} and {wanted}.")


def check_device(block_mask: Any, query: Array) -> None:
    """RuntimeError if the lists are where nobody can read them. Between the CPU and GPUs they are copied."""
    device = getattr(block_mask.kv_num_blocks, "device", "cpu")
    if getattr(device, "type", "cpu") not in ("cpu", "cuda"):
        raise RuntimeError("Expect q/k/v and block_mask to be on the same device "
                           f"but got {getattr(query, 'device', 'cpu')} and {device}.")


def mask_of(kinds: Any, block_size: tuple[int, int], mask_mod: MaskMod) -> MaskMod:
    """Pairs of full blocks attend, those of partial blocks where mask_mod says so. `kinds`: as BlockMask.block_kinds."""
    block_q, block_kv = int(block_size[0]), int(block_size[1])
    per_batch, per_head = kinds.shape[0] > 1, kinds.shape[1] > 1

    def listed(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        kind = kinds[b if per_batch else 0, h if per_head else 0, q_idx // block_q, kv_idx // block_kv]
        return (kind > PARTIAL) | ((kind > SKIPPED) & mask_mod(b, h, q_idx, kv_idx))

    return listed


def mask_for(block_mask: BlockMask, query: Array) -> MaskMod:
    """The mask of the lists, with kinds where the query is. Raises as BlockMask's constructor does: somebody may have assigned other
    lists, or written into these."""
    block_mask._check_shapes()
    check_device(block_mask, query)
    if is_debugging():
        block_mask.validate()
    if arrays.is_torch(query) and query.is_cuda:
        kinds = kinds_on(sys.modules["torch"], block_mask, query.device)
    else:
        kinds = arrays.copy_to(block_mask.block_kinds(), query)
        check_rows(kinds.shape[2], block_mask.seq_lengths[0], block_mask.BLOCK_SIZE[0])
    return mask_of(kinds, block_mask.BLOCK_SIZE, block_mask.mask_mod)


def quick_mask(block_mask: Any, query: Any, key: Any) -> MaskMod | None:
    """mask_for in a few microseconds: for lists of int32, dense, of four and three dims, where query is on a GPU, and that
    fit the call. None for others, whatever the reason."""
    asked, keys = hot.describe(query), hot.describe(key)
    if asked is None or keys is None or asked[2] < 0 or len(asked[3]) != 4 or len(keys[3]) != 4:
        return None
    if is_debugging():  # mask_for checks them
        return None
    given = getattr(block_mask, "_lists", None) or getattr(block_mask, "__dict__", {})  # those of torch's
    if not (all(name in given for pair in KV_PAIRS for name in pair) and hasattr(block_mask, "seq_lengths")):
        return None
    device, (batch, heads, length, _) = asked[2], asked[3]
    mask_mod, block_size = block_mask.mask_mod, block_mask.BLOCK_SIZE
    if (block_mask.seq_lengths != (length, keys[3][2]) or is_sliced(mask_mod) or not callable(mask_mod)
            or not isinstance(block_size, tuple)):
        return None
    addresses, widths, shape = [], [], None
    for pair in KV_PAIRS:
        if given[pair[0]] is None:
            addresses += [None, None]
            widths.append(0)
            continue
        counts, indices = (hot.describe(given[name]) for name in pair)
        if counts is None or indices is None or len(indices[3]) != 4 or not (_is_dense(counts, device) and _is_dense(indices, device)):
            return None
        if counts[3] != indices[3][:3] or shape not in (None, counts[3]):
            return None
        shape = counts[3]
        addresses += [counts[0], indices[0]]
        widths.append(indices[3][3])
    if shape is None or shape[0] not in (1, batch) or shape[1] not in (1, heads) or shape[2] * block_size[0] < length:
        return None
    columns = max(widths[0], ceil_div(block_mask.seq_lengths[1], block_size[1]))
    kinds = fill_from(_filler(device), addresses, (widths[0], widths[1]), (*shape, columns), query.device, device)
    return mask_of(kinds, block_size, mask_mod)


_I32 = _runtime.DTYPES.index("i32")


def _is_dense(described: tuple[int, int, int, tuple[int, ...], tuple[int, ...]], device: int) -> bool:
    """Whether an array is one of int32, row-major without gaps, on a GPU."""
    _, dtype, place, shape, strides = described
    step = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if stride != step:
            return False
        step *= extent
    return dtype == _I32 and place == device and step > 0


@functools.cache
def _filler(device: int) -> Kernel:
    """Any mask's kernels fill a matrix."""
    trace, _ = tracing.lookup(None, noop_mask)
    return of_trace(trace).classifier(device)


def kinds_on(torch: Any, block_mask: Any, device: Any) -> Array:
    """BlockMask.block_kinds as a tensor on `device`, of Heed's or torch's masks. Tensors that are there are not waited
    for, and torch.compile can trace this, so `torch` is the module."""
    names = [pair for pair in KV_PAIRS if getattr(block_mask, pair[0]) is not None]
    pairs = [[torch.as_tensor(getattr(block_mask, name)) for name in pair] for pair in names]
    check_rows(pairs[0][1].shape[-2], block_mask.seq_lengths[0], block_mask.BLOCK_SIZE[0])
    pairs = [[x if x.device == device else x.to(device) for x in pair] for pair in pairs]
    columns = max(pairs[0][1].shape[-1], ceil_div(block_mask.seq_lengths[1], block_mask.BLOCK_SIZE[1]))
    if torch.compiler.is_compiling() or (place := device_for((), device)) is None:
        kinds = _scattered(torch, pairs, columns, device)
    else:
        kinds = fill(_filler(place), pairs, columns, place)
    while kinds.ndim < 4:
        kinds = kinds.unsqueeze(0)
    return kinds


def _scattered(torch: Any, pairs: Sequence[Sequence[Any]], columns: int, device: Any) -> Any:
    """The kinds of the blocks that lists name, by operations of torch."""
    kinds: Any = None
    for kind, (counts, indices) in zip((PARTIAL, FULL), pairs):
        used = torch.arange(indices.shape[-1], device=device) < counts.unsqueeze(-1)
        used = used & (indices >= 0) & (indices < columns)
        flags = torch.zeros((*indices.shape[:-1], columns + 1), dtype=torch.bool, device=device)
        # The last column takes what names no block.
        flags = flags.scatter(-1, torch.where(used, indices, columns).long(), True)[..., :columns]
        kinds = flags.to(torch.int8) if kinds is None else kinds.masked_fill(flags, kind)
    return kinds
