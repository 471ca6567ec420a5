# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""FlexAttention's BlockMask and its builders, for NumPy and for torch.

    block_mask = heed.create_block_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, 4096, 4096)

A BlockMask divides the (query, key) plane into blocks and names, for every block row, the blocks to visit: the "full"
ones, where all pairs attend, and the "partial" ones, where mask_mod decides. Blocks in neither list are skipped.

Heed's compiler derives skipping from mask_mod itself, so the lists of create_block_mask are computed when somebody
first reads them: until then a mask costs microseconds and no memory. Lists that the user gave (`has_given_lists`) are
honoured as they are.

Lists are torch tensors or NumPy arrays. Wherever a device is asked for: "numpy" means NumPy arrays; None means the
current accelerator, else the CPU; and without torch, None and "cpu" mean NumPy arrays. torch is imported here only if
a device needs it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from heed import arrays, tracing, variant
from heed.block_matrix import BlockMatrix, device_for, fits, is_capturing
from heed.block_runs import FULL, PARTIAL, SKIPPED, BlockRuns, ceil_div, matrix_of_lists
from heed.mask_mods import MaskMod, noop_mask, sliced_mask_mod
from heed.same_value import same_value

Array = Any  # np.ndarray or torch.Tensor: torch is optional, so its type has no name here

DEFAULT_BLOCK_SIZE = 128
# Pairs evaluated at a time: temporaries of 16 elements a pair (vectors within a mask_mod) stay within 64 MiB.
_CHUNK_PAIRS = 1 << 18
# Lists of slices up to so many bytes are made at once, for graphs of torch.compile can only take those that are there.
_SMALL_LISTS = 1 << 26
_I32_LIMITS = (-1, (1 << 31) - 1)  # of lists: a negative number is as good as another
_NUMPY = "numpy"
_KV_NAMES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
_Q_NAMES = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
_LIST_NAMES = _KV_NAMES + _Q_NAMES
_FULL_NAMES = _KV_NAMES[2:] + _Q_NAMES[2:]
_KINDS = (PARTIAL, FULL)
_PAIRS = tuple(zip(_LIST_NAMES[::2], _LIST_NAMES[1::2]))
KV_PAIRS = _PAIRS[:2]


# torch and devices.

_Function = TypeVar("_Function", bound=Callable[..., Any])
_eager_functions: list[Any] = []
_torch_met = False


def _eager(function: _Function) -> _Function:
    """For functions that torch.compile shall call rather than trace: they run mask_mods and NumPy themselves."""
    # What torch.compiler.disable sets; it would have to wrap, and torch to be imported.
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        f"{function.__qualname__} computes with NumPy and with generated code: call it, or read the lists that it makes, outside "
        "of the compiled function; without fullgraph=True it is a graph break")
    _eager_functions.append(function)
    return function


def meet_torch() -> None:
    """Once torch is there, tells it how to take masks apart, and to leave eager functions and their callees alone."""
    global _torch_met
    if _torch_met:
        return
    pytree: Any = sys.modules.get("torch.utils._pytree")
    if not hasattr(_loaded_torch(), "compile") or not hasattr(pytree, "register_pytree_node"):
        return  # not imported, or not completely
    _torch_met = True
    with contextlib.suppress(ValueError):  # another thread was first
        pytree.register_pytree_node(BlockMask, lambda mask: mask._flatten(), BlockMask._unflatten,
                                    flatten_with_keys_fn=lambda mask: mask._flatten_with_keys())
    # Nor are their frames compiled where a graph breaks. Older versions lack this.
    with contextlib.suppress(AttributeError):
        frames = _loaded_torch()._C._dynamo.eval_frame
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in _eager_functions:
            frames.set_code_exec_strategy(function.__code__, skip)


def _meet_in_graph() -> None:
    """What torch.compile traces in place of meet_torch, which the import calls while the graph is made."""
    from heed.integrations import torch  # noqa: F401


meet_torch._torchdynamo_inline = _meet_in_graph  # type: ignore[attr-defined]


def _loaded_torch() -> Any:
    return sys.modules.get("torch")  # None too where an import of torch is blocked


def _resolve_device(device: Any) -> Any:
    """What lists of `device` are: "numpy", a device of torch, or None for torch's choice when they are made."""
    torch = _loaded_torch()
    if device == _NUMPY or (torch is None and (device is None or str(device) == "cpu")):
        return _NUMPY
    return device if torch is None or device is None else torch.device(device)


def _move(array: Array, device: Any) -> Array:
    """`array` as what `_resolve_device` returned."""
    if device == _NUMPY:
        return _to_numpy(array)
    import torch

    return (torch.from_numpy(array) if isinstance(array, np.ndarray) else array).to(_chosen_device() if device is None else device)


def _chosen_device() -> Any:
    """torch's choice for lists."""
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def _is_tensor(value: Any) -> bool:
    torch = _loaded_torch()
    return torch is not None and isinstance(value, torch.Tensor)


def _to_numpy(array: Array) -> np.ndarray:
    """`array` on the CPU; memory is shared if it is there already. Waits for a GPU."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


def _device_of(array: Array) -> Any:
    return _NUMPY if isinstance(array, np.ndarray) else array.device


# Checks of arguments.


def is_debugging() -> bool:
    return os.environ.get("HEED_DEBUG", "0") not in ("", "0")


def _length(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, found {value!r}") from None
    if number < 0:
        raise ValueError(f"expected {name} to be at least 0, found {number}")
    return number


def _block_size(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"expected BLOCK_SIZE to be an integer or two (query, key), found {value!r}")
    q_block, kv_block = (_length("BLOCK_SIZE", size) for size in pair)
    if q_block == 0 or kv_block == 0:
        raise ValueError(f"expected BLOCK_SIZE to be positive, found {value!r}")
    if max(q_block, kv_block) >= 1 << 31:
        raise ValueError(f"expected BLOCK_SIZE to be below 2^31, found {value!r}")
    return q_block, kv_block


def _as_list(name: str, value: Any) -> Array:
    """`value` as int32, in its own library; other sequences become NumPy arrays."""
    if _is_tensor(value):
        torch = _loaded_torch()
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"expected {name} to hold integers, found {value.dtype}")
        if value.dtype == torch.int64:
            value = value.clamp(*_I32_LIMITS)  # no block stays no block
        return value.to(torch.int32)
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"expected {name} to hold integers, found {array.dtype}")
    if array.dtype.itemsize > 4 or array.dtype == np.uint32:
        array = np.clip(array, *_I32_LIMITS)
    return array.astype(np.int32, copy=False)


# Dense evaluation.


def _chunks(shape: tuple[int, int, int, int]) -> Iterator[tuple[slice, ...]]:
    """Boxes of at most _CHUNK_PAIRS pairs that together cover `shape`, long in their last dimensions."""
    steps: list[int] = []
    room = _CHUNK_PAIRS
    for extent in reversed(shape):
        steps.insert(0, max(1, min(extent, room)))
        room //= steps[0]
    for corner in itertools.product(*(range(0, extent, step) for extent, step in zip(shape, steps))):
        yield tuple(slice(low, min(low + step, extent)) for low, step, extent in zip(corner, steps, shape))


def _coordinates(chunk: tuple[slice, ...]) -> list[np.ndarray]:
    """b, h, q and kv of the pairs of `chunk`, to be broadcast against each other."""
    return [np.arange(part.start, part.stop).reshape([-1 if i == axis else 1 for i in range(4)])
            for axis, part in enumerate(chunk)]


def _evaluate(mask_mod: MaskMod, chunk: tuple[slice, ...]) -> np.ndarray:
    return tracing.evaluate(mask_mod, *_coordinates(chunk))


def _evaluate_score(score_mod: Callable[..., Any], chunk: tuple[slice, ...]) -> np.ndarray:
    trace, values = tracing.lookup(score_mod, None)
    return np.asarray(~np.isneginf(trace.evaluate_score(values, 0.0, *_coordinates(chunk))))


class _Derivation:
    """What create_block_mask was asked for, and the kinds of its blocks once known; masks share it."""

    def __init__(self, mask_mod: MaskMod, shape: tuple[int, int, int, int], block_size: tuple[int, int],
                 has_full: bool = True) -> None:
        self.mask_mod = mask_mod
        self.shape = shape
        self.block_size = block_size
        self.has_full = has_full  # else full blocks count as partial, and their lists are None
        self.num_rows = ceil_div(shape[2], block_size[0])
        self._matrices: dict[int, BlockMatrix] = {}  # by GPU

    @functools.cached_property
    def runs(self) -> BlockRuns:
        """The blocks to visit. As in FlexAttention, a block that hangs over the end of the queries or keys is never full.

        The compiler's classifier finds them. What a mask_mod captures on a GPU is copied for it."""
        trace, values = tracing.lookup(None, self.mask_mod)
        batch, heads, q_len, kv_len = self.shape
        classifier = variant.of_trace(trace).classifier()
        runs = classifier.classify((batch, heads, heads, q_len, kv_len), self.block_size, [arrays.on_host(x) for x in values])
        return runs if self.has_full else runs.all_partial()

    def matrix_on(self, wanted: Any) -> BlockMatrix | None:
        """The kinds of blocks as a GPU finds them, if lists wanted on that device can be made there."""
        trace, values = tracing.lookup(None, self.mask_mod)
        device = device_for(values, wanted)
        if device is None or not fits(values, self.shape, self.block_size):
            return None
        matrix = self._matrices.get(device)
        if matrix is None or is_capturing(device):  # what a graph makes is for the graph
            matrix = BlockMatrix.classify(trace, values, self.shape, self.block_size, device)
            if matrix.is_made is not None:
                self._matrices[device] = matrix
        matrix.join()
        return matrix if self.has_full else matrix.all_partial()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_matrices": {}}  # a copy finds its own

    def held_bytes(self) -> int:
        """Of the kinds of its blocks, as far as they are known by now."""
        runs = vars(self).get("runs")
        return (0 if runs is None else runs.nbytes) + sum(matrix.nbytes for matrix in self._matrices.values())

    def lists(self, kind: int, by_column: bool) -> tuple[np.ndarray, np.ndarray]:
        """kv_num_blocks and kv_indices of the blocks of a kind, or by column q_num_blocks and q_indices."""
        def whole(array: np.ndarray) -> np.ndarray:
            shape = (*self.shape[:2], *array.shape[2:])
            return array if array.shape == shape else np.broadcast_to(array, shape).copy()

        counts, indices = self.runs.lists(kind, by_column)
        return whole(counts), whole(indices)


class _Slice(_Derivation):
    """Some batches, heads and query blocks of another one. `shape` has the other one's lengths."""

    def __init__(self, whole: _Derivation, selection: tuple[slice | np.ndarray, ...]) -> None:
        extents = np.broadcast_to(np.False_, (*whole.shape[:2], whole.num_rows))[selection].shape
        super().__init__(whole.mask_mod, (extents[0], extents[1], *whole.shape[2:]), whole.block_size, whole.has_full)
        self.num_rows = extents[2]
        self._whole, self._selection = whole, selection

    @functools.cached_property
    def runs(self) -> BlockRuns:
        return self._whole.runs.select(self._selection)

    def matrix_on(self, wanted: Any) -> BlockMatrix | None:
        matrix = self._whole.matrix_on(wanted)
        return None if matrix is None else matrix.select(self._selection)

    def held_bytes(self) -> int:
        return super().held_bytes() + self._whole.held_bytes()


class ListBytes(NamedTuple):
    """The memory that a BlockMask's lists take, with what they are made of, in bytes."""

    made: int  # by now
    all: int  # once all are


# Lists and what they stand for.


def _used(counts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """bool, shaped as `indices`: the entries that the counts include."""
    return np.arange(indices.shape[-1]) < counts[..., None]


def _crop(counts: np.ndarray, indices: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The lists of the top left (rows, columns) blocks, in the order in which they were."""
    counts, indices = counts[..., :rows], indices[..., :rows, :]
    keep = _used(counts, indices) & (indices >= 0) & (indices < columns)
    if keep.sum(axis=-1).max(initial=0) > columns:  # some are listed twice
        for place in np.argwhere(keep.sum(axis=-1) > columns):
            row, kept = indices[tuple(place)], keep[tuple(place)]
            first = np.zeros_like(kept)
            first[np.flatnonzero(kept)[np.unique(row[kept], return_index=True)[1]]] = True
            keep[tuple(place)] = first
    order = np.argsort(~keep, axis=-1, kind="stable")
    kept = np.take_along_axis(np.where(keep, indices, 0), order, axis=-1)[..., :columns]
    return np.minimum(keep.sum(axis=-1, dtype=np.int32), columns), np.ascontiguousarray(kept)


class _List:
    """One of the eight lists. Reading it computes it if need be; assigning it makes all lists the user's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, mask: "BlockMask | None", owner: type) -> Any:
        if mask is None:
            return self
        if self.name not in mask._lists and (alone := mask._compute_list(self.name)) is not None:
            return alone
        return mask._lists[self.name]

    def __set__(self, mask: "BlockMask", value: Any) -> None:
        for name in _LIST_NAMES:
            getattr(mask, name)  # the other lists stay what they were
        # Copies of the mask share the old dict.
        mask._lists = {**mask._lists, self.name: None if value is None else _as_list(self.name, value)}
        mask._derivation = None
        mask._given = True


class BlockMask:
    """Which blocks of the (query, key) plane attention visits.

    Lists are int32. With batch dims `...` (usually B, H), nq query blocks and nkv key blocks:

        kv_num_blocks, full_kv_num_blocks  (..., nq)         how many blocks a row lists
        kv_indices, full_kv_indices        (..., nq, <=nkv)  which; entries beyond the count have no meaning
        q_num_blocks, full_q_num_blocks    (..., nkv)        the same, transposed, for the backward pass
        q_indices, full_q_indices          (..., nkv, <=nq)

    The full_* lists may be None (no block is full), the q lists too (forward only). Lists of create_block_mask are made
    when they are first read, on a GPU on the stream that is current then.
    """

    kv_num_blocks = _List()
    kv_indices = _List()
    full_kv_num_blocks = _List()
    full_kv_indices = _List()
    q_num_blocks = _List()
    q_indices = _List()
    full_q_num_blocks = _List()
    full_q_indices = _List()

    seq_lengths: tuple[int, int]
    BLOCK_SIZE: tuple[int, int]
    _mask_mod: MaskMod
    _lists: dict[str, Any]  # arrays and None, without those that nobody has read yet
    _derivation: _Derivation | None  # where lists that are not in _lists come from; None: the q ones from the kv ones
    _device: Any  # for lists of _derivation: what _resolve_device returned
    _given: bool

    def __init__(self, seq_lengths: tuple[int, int], kv_num_blocks: Array, kv_indices: Array,
                 full_kv_num_blocks: Array | None = None, full_kv_indices: Array | None = None,
                 q_num_blocks: Array | None = None, q_indices: Array | None = None,
                 full_q_num_blocks: Array | None = None, full_q_indices: Array | None = None,
                 BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK_SIZE, mask_mod: MaskMod | None = None) -> None:
        """A mask of given lists (shapes above); `mask_mod` None lets all pairs of partial blocks attend.

        Raises AssertionError if only one list of a pair is given, RuntimeError for lists without rows, ValueError
        if shapes do not go together, TypeError for lists that are not integers. With HEED_DEBUG=1 in the
        environment the entries are checked too (see `validate`).
        """
        given = (kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices,
                 q_num_blocks, q_indices, full_q_num_blocks, full_q_indices)
        self._lists = {name: None if value is None else _as_list(name, value)
                       for name, value in zip(_LIST_NAMES, given)}
        self._derivation = None
        self._device = None
        self._given = True
        self._mask_mod = noop_mask if mask_mod is None else mask_mod
        self.BLOCK_SIZE = _block_size(BLOCK_SIZE)
        q_len, kv_len = seq_lengths
        self.seq_lengths = (_length("query length", q_len), _length("key length", kv_len))
        self._check_shapes()
        meet_torch()
        if is_debugging():
            self.validate()

    @classmethod
    def from_kv_blocks(cls, kv_num_blocks: Array, kv_indices: Array, full_kv_num_blocks: Array | None = None,
                       full_kv_indices: Array | None = None, BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK_SIZE,
                       mask_mod: MaskMod | None = None, seq_lengths: tuple[int, int] | None = None,
                       compute_q_blocks: bool = True) -> "BlockMask":
        """A mask of given kv lists. Without `seq_lengths` the lengths are all of the lists' blocks.

        The q lists are made from the kv ones when read; `compute_q_blocks` False leaves them None (forward only).
        Raises as the constructor does.
        """
        block_size = _block_size(BLOCK_SIZE)
        if seq_lengths is None:
            rows, columns = _matrix_shape(kv_indices)
            seq_lengths = (rows * block_size[0], columns * block_size[1])
        mask = cls(seq_lengths, kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices,
                   BLOCK_SIZE=block_size, mask_mod=mask_mod)
        if compute_q_blocks:
            for name in _Q_NAMES:
                del mask._lists[name]
        return mask

    @classmethod
    def _derived(cls, derivation: _Derivation, device: Any) -> "BlockMask":
        mask = cls.__new__(cls)
        mask._lists = {}
        mask._derivation = derivation
        mask._device = device
        mask._given = False
        mask._mask_mod = derivation.mask_mod
        mask.BLOCK_SIZE = derivation.block_size
        mask.seq_lengths = derivation.shape[2:]
        meet_torch()
        return mask

    def _clone(self, **changes: Any) -> "BlockMask":
        """A shallow copy with other attributes."""
        mask = copy.copy(self)
        mask.__dict__.update(changes)
        return mask

    @_eager
    def _compute_list(self, name: str) -> Array | None:
        """Fills in a list that was never read, and those that are made with it; or returns it, where it must not be kept."""
        if self._is_merged(name):
            self._lists[name] = None
            return None
        if self._derivation is not None and (matrix := self._derivation.matrix_on(self.device)) is not None:
            batch_dims = self._batch_dims()
            made = {other: x.expand(*batch_dims, *x.shape[2:]).contiguous() for other, x in
                    zip(_Q_NAMES if name in _Q_NAMES else _KV_NAMES, matrix.lists(by_column=name in _Q_NAMES))
                    if not self._is_merged(other)}
            if matrix.is_made is None:  # a CUDA graph will make it
                return made[name]
            for other, x in made.items():
                self._lists.setdefault(other, x)
            return None
        number = _LIST_NAMES.index(name) // 2
        names, kind = _PAIRS[number], _KINDS[number % 2]
        pair: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        if self._derivation is not None:
            device = self._device
            pair = self._derivation.lists(kind, by_column=number >= 2)
        else:
            device = _device_of(self._lists["kv_indices"])
            if (runs := self._runs_of(kind)) is not None:
                counts, indices = runs.short_column_lists() if self._is_narrow() else runs.lists(kind, by_column=True)
                batch_dims = self._batch_dims()
                pair = (counts.reshape(*batch_dims, *counts.shape[2:]), indices.reshape(*batch_dims, *indices.shape[2:]))
        self._lists.update((name, None if array is None else _move(array, device)) for name, array in zip(names, pair))
        return None

    @_eager
    def _given_lists(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """The kv lists that there are: kind, counts and indices."""
        pairs = [(kind, *(getattr(self, name) for name in pair)) for kind, pair in zip(_KINDS, KV_PAIRS)]
        self._check_shapes()  # somebody may have assigned others
        return [(kind, _to_numpy(counts), _to_numpy(indices)) for kind, counts, indices in pairs if counts is not None]

    def _source(self) -> _Derivation | None:
        """Where the blocks to visit come from, None for lists: also for those of a derivation that somebody may have changed."""
        return None if self._given and self._lists else self._derivation

    @_eager
    def _runs(self) -> BlockRuns:
        """The blocks to visit, without batches or heads that are all alike. Of two batch dims, others are heads."""
        source = self._source()
        return BlockRuns.of_lists(self._given_lists(), self._block_dims()[1]) if source is None else source.runs

    def _runs_of(self, kind: int) -> BlockRuns | None:
        """The blocks in the given kv lists of a kind, None where there are none."""
        lists = [given for given in self._given_lists() if given[0] == kind]
        return BlockRuns.of_lists(lists, self._block_dims()[1]) if lists else None

    def _block_dims(self) -> tuple[int, int]:
        """Query blocks that have lists, and key blocks: those of the keys' length, and further ones that the lists have room for."""
        if self._derivation is not None:
            return self._derivation.num_rows, ceil_div(self._derivation.shape[3], self._derivation.block_size[1])
        rows, columns = _matrix_shape(self._lists["kv_indices"])
        return rows, max(columns, ceil_div(self.seq_lengths[1], self.BLOCK_SIZE[1]))

    def _is_narrow(self) -> bool:
        """Whether kv lists do not have room for all key blocks. torch makes no q lists of them; ours are as wide as they need to be."""
        return self._derivation is None and _matrix_shape(self._lists["kv_indices"])[1] < self._block_dims()[1]

    def _is_merged(self, name: str) -> bool:
        """Whether it is one of the lists of full blocks, and these are among the partial ones."""
        return self._derivation is not None and not self._derivation.has_full and name in _FULL_NAMES

    def _list_shape(self, name: str) -> tuple[int, ...] | None:
        """Of a list, which is not made for it."""
        if name in self._lists:
            return None if self._lists[name] is None else _shape_of(self._lists[name])
        if self._is_merged(name):
            return None
        rows, columns = self._block_dims()
        extents = (columns, rows) if name in _Q_NAMES else (rows, columns)
        if self._derivation is None:
            number = _Q_NAMES.index(name) // 2
            if self._lists[_KV_NAMES[2 * number]] is None:
                return None
            if self._is_narrow() and (runs := self._runs_of(_KINDS[number])) is not None:
                extents = (columns, int(runs.num_in_columns().max(initial=0)))
        return (*self._batch_dims(), *extents[:1 if name.endswith("num_blocks") else 2])

    def _batch_dims(self) -> tuple[int, ...]:
        if self._derivation is not None:
            return self._derivation.shape[:2]
        return tuple(_shape_of(self._lists["kv_indices"])[:-2])

    @property
    def mask_mod(self) -> MaskMod:
        """Decides the pairs of partial blocks. If another one is assigned, the lists stay: they count as given."""
        return self._mask_mod

    @mask_mod.setter
    def mask_mod(self, mask_mod: MaskMod) -> None:
        self._given = self._given or mask_mod is not self._mask_mod
        self._mask_mod = mask_mod

    @property
    def has_given_lists(self) -> bool:
        """Whether the lists say something that mask_mod does not, so that a kernel has to honour them.

        False for a mask of create_block_mask (or `_adjust`, `to` of one): its lists follow from mask_mod.
        """
        return self._given

    @property
    def shape(self) -> tuple[int, ...]:
        """(*batch dims, query length, key length)"""
        return (*self._batch_dims(), *self.seq_lengths)

    @property
    def device(self) -> Any:
        """Where the lists are, or will be: a device of torch, or "numpy"."""
        if self._derivation is None:
            return _device_of(self._lists["kv_indices"])
        return _chosen_device() if self._device is None else self._device

    def numel(self) -> int:
        """Pairs, of all batches and heads."""
        return math.prod(self.shape)

    def block_kinds(self) -> np.ndarray:
        """int8 (B, H, nq, nkv): 0 for blocks to skip, 1 for partial, 2 for full.

        Safe for any lists: entries that name no block are ignored, a block that is listed twice counts once, and one
        that is both partial and full is full. Masks with fewer than two batch dims get leading ones. May be
        read-only. Raises ValueError for more than two batch dims.
        """
        if len(batch_dims := self._batch_dims()) > 2:
            raise ValueError(f"expected a BlockMask with batch and head dims, found shape {self.shape}")
        kinds = self._kinds()
        return kinds.reshape((1,) * (2 - len(batch_dims)) + kinds.shape)

    @_eager
    def _kinds(self) -> np.ndarray:
        """block_kinds with the batch dims of the lists."""
        if (source := self._source()) is None:
            return matrix_of_lists(self._given_lists(), self._block_dims()[1])
        matrix = source.runs.matrix()
        return np.broadcast_to(matrix, (*self._batch_dims(), *matrix.shape[2:]))

    def sparsity(self) -> float:
        """Percentage of pairs in skipped blocks. Blocks count whole, so it is negative where they hang over the end
        of a dense mask; 0 for a mask without pairs."""
        runs, pairs = self._runs(), self.numel()
        copies = math.prod(self._batch_dims()) // max(math.prod(runs.shape[:2]), 1)
        listed = runs.num_listed() * copies
        return 100 * (1 - listed * math.prod(self.BLOCK_SIZE) / pairs) if pairs else 0.0

    @property
    def list_bytes(self) -> ListBytes:
        """`made`, the bytes that the mask holds by now: the lists that exist, and the runs or matrices of blocks that lists, pictures
        and `sparsity()` were made of; `all`, the same with all lists. This makes none. Masks that share something each count it."""
        sizes = self._list_sizes()
        held = 0 if self._derivation is None else self._derivation.held_bytes()
        return ListBytes(held + sum(sizes[name] for name in self._lists), held + sum(sizes.values()))

    def _list_sizes(self) -> dict[str, int]:
        """Bytes of each list, whether it exists or not."""
        shapes = {name: self._list_shape(name) for name in _LIST_NAMES}
        return {name: 0 if shape is None else 4 * math.prod(shape) for name, shape in shapes.items()}

    def to_dense(self) -> Array:
        """int32 (..., nq, nkv), 1 for the blocks in a list: a matrix of blocks, not of pairs."""
        device = self._device if self._derivation is not None else _device_of(self._lists["kv_indices"])
        return _move((self._kinds() != SKIPPED).astype(np.int32), device)

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """(seq_lengths, the eight lists, BLOCK_SIZE, mask_mod); `flatten` puts the members of the two pairs there."""
        lists = tuple(getattr(self, name) for name in _LIST_NAMES)
        if flatten:
            return (*self.seq_lengths, *lists, *self.BLOCK_SIZE, self.mask_mod)
        return (self.seq_lengths, *lists, self.BLOCK_SIZE, self.mask_mod)

    def __repr__(self) -> str:
        shape_type: Any = tuple if self.device == _NUMPY else getattr(_loaded_torch(), "Size", tuple)
        shapes = {name: self._list_shape(name) for name in _LIST_NAMES}
        fields = [f"{name}={None if shape is None else shape_type(shape)}" for name, shape in shapes.items()]
        fields += [f"BLOCK_SIZE={self.BLOCK_SIZE}", f"shape={self.shape}", f"sparsity={self.sparsity():.2f}%",
                   f"mask_mod={getattr(self.mask_mod, '__name__', self.mask_mod)}",
                   "list_bytes={} of {}".format(*self.list_bytes)]  # torch has all but this line
        return "BlockMask(\n    " + ",\n    ".join(fields) + "\n)"

    def __str__(self) -> str:
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{self.to_string().rstrip()}\n)"

    @_eager
    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each batch and head, at most `limit` of them (negative: all).

        `grid_size` bounds its rows and columns (negative: no bound). Solid: all blocks of the cell are visited,
        shaded: some, blank: none. Raises ValueError if `grid_size` has a 0.
        """
        sizes = (grid_size, grid_size) if isinstance(grid_size, int) else tuple(grid_size)
        if len(sizes) != 2 or 0 in sizes:
            raise ValueError(f"expected grid_size to be an integer or a pair, none of them 0, found {grid_size!r}")
        runs, batch_dims = self._runs(), self._batch_dims()
        pictures = []
        for number, position in enumerate(itertools.islice(np.ndindex(batch_dims), limit if limit >= 0 else None)):
            place = position if len(position) == 2 else (0, number)
            pictures.append(f"{position}\n{_draw(runs.select(tuple(slice(i, i + 1) for i in place)), *sizes)}")
        if len(pictures) < math.prod(batch_dims):
            pictures.append("...\nTo print out more, set BlockMask.to_string(limit=N)\n"
                            "You can also index (BlockMask[batch, head]) to choose a specific batch or head")
        return "\n".join(pictures)

    @_eager
    def __getitem__(self, index: Any) -> "BlockMask":
        """The mask of some batches, heads and query blocks; no dim is dropped, an integer keeps one entry.

        `index` is an integer, slice, `...`, or 1-D sequence of integers or bools, or a tuple of these for (batch,
        head, query block). The lengths stay, the lists are given ones, and mask_mod has to be set anew: the result's
        raises RuntimeError. Raises IndexError for what is out of range or no such index.
        """
        selection = _selection(index, (*self._batch_dims(), self._block_dims()[0]))
        if (source := self._source()) is not None:
            mask = self._clone(_lists={}, _derivation=_Slice(source, selection), _given=True, _mask_mod=sliced_mask_mod)
            for name in _KV_NAMES if sum(mask._list_sizes().values()) <= _SMALL_LISTS else ():
                getattr(mask, name)
            return mask
        counts = self.kv_num_blocks
        if _is_tensor(counts):
            torch = _loaded_torch()
            selection = tuple(part if isinstance(part, slice) else torch.from_numpy(part).to(counts.device)
                              for part in selection)
        lists = {name: array if array is None else array[selection]
                 for name, array in ((name, getattr(self, name)) for name in _KV_NAMES)}
        if self._derivation is None and self._lists.get("q_indices", counts) is None:
            lists.update(dict.fromkeys(_Q_NAMES))  # else they follow from the kv lists
        return self._clone(_lists=lists, _derivation=None, _given=True, _mask_mod=sliced_mask_mod)

    def _adjust(self, new_q_len: int, new_kv_len: int) -> "BlockMask":
        """The mask of the first queries and keys, exactly these lengths.

        Given lists keep their order and their kinds; a derived mask is derived again. Raises ValueError if a length
        grows.
        """
        lengths = (_length("new_q_len", new_q_len), _length("new_kv_len", new_kv_len))
        for name, length, old in zip(("new_q_len", "new_kv_len"), lengths, self.seq_lengths):
            if length > old:
                raise ValueError(f"expected {name} to be at most {old}, the mask's length, found {length}")
        if self._derivation is not None and not self._given:
            derivation = self._derivation
            return self._derived(_Derivation(derivation.mask_mod, (*derivation.shape[:2], *lengths),
                                             derivation.block_size, derivation.has_full), self._device)
        return self._clone(_lists=self._cropped_lists(lengths), _derivation=None, seq_lengths=lengths)

    @_eager
    def _cropped_lists(self, lengths: tuple[int, int]) -> dict[str, Array | None]:
        rows, columns = map(ceil_div, lengths, self.BLOCK_SIZE)
        lists: dict[str, Array | None] = {}
        for names, extents in zip(_PAIRS, ((rows, columns), (rows, columns), (columns, rows), (columns, rows))):
            pair = [getattr(self, name) for name in names]
            if pair[0] is None:
                lists.update(dict.fromkeys(names))
            else:
                cropped = _crop(_to_numpy(pair[0]), _to_numpy(pair[1]), *extents)
                lists.update((name, _move(array, _device_of(pair[0]))) for name, array in zip(names, cropped))
        return lists

    @_eager
    def to(self, device: Any) -> "BlockMask":
        """The mask with its lists on `device` ("numpy": as NumPy arrays); what mask_mod captures stays where it is."""
        resolved = _resolve_device(device)
        lists = {name: array if array is None else _move(array, resolved) for name, array in self._lists.items()}
        return self._clone(_lists=lists, _device=resolved)

    @_eager
    def validate(self) -> None:
        """Checks the entries of given lists.

        Raises ValueError, with batch, head, row, what was expected and found, for: fewer rows than query blocks, counts
        outside their list, blocks that do not exist, are listed twice, or are both partial and full, and q lists that
        disagree with kv lists.
        """
        if not self._given:
            return

        def matrix(runs: BlockRuns) -> np.ndarray:
            return runs.matrix().reshape(*self._batch_dims(), *runs.shape[2:])

        (rows, _), q_len, (q_block, kv_block) = self._block_dims(), self.seq_lengths[0], self.BLOCK_SIZE
        is_sliced = self._mask_mod is sliced_mask_mod  # and has the lengths of the whole until somebody sets them
        if not is_sliced:
            check_rows(rows, q_len, q_block)
        if self._derivation is not None and not self._lists:
            return
        self._check_shapes()
        columns = ceil_div(self.seq_lengths[1], kv_block)
        runs = {names: self._checked_runs(*names, extent) for names, extent in zip(_PAIRS, (columns, columns, rows, rows))
                if self._lists.get(names[0]) is not None}
        for counts_name in () if is_sliced else [names[0] for names in KV_PAIRS if names in runs]:
            counts = _to_numpy(self._lists[counts_name])
            if (where := np.argwhere((counts > 0) & (np.arange(rows) * q_block >= q_len))).size:
                raise ValueError(f"{_place(where[0])}: expected {counts_name} to be 0, for there are only {q_len} queries, "
                                 f"found {counts[tuple(where[0])]}")
        partial, full = (runs.get(names) for names in KV_PAIRS)
        if partial and full and self._runs().num_listed() < partial.num_listed() + full.num_listed():
            place = np.argwhere(matrix(partial) & matrix(full))[0]
            raise ValueError(f"{_place(place[:-1])}: expected kv_indices and full_kv_indices to be disjoint, "
                             f"found block {place[-1]} in both")
        for q_names, kv_names in zip(_PAIRS[2:], KV_PAIRS):
            if (found := runs.get(q_names)) is None:
                continue
            if found.shape[2] < columns:
                raise ValueError(f"expected {q_names[1]} to have {columns} rows, one a key block, found {found.shape[2]}")
            expected = BlockRuns(found.shape, np.zeros_like(found.offsets), found.runs[:0])
            if (kv_runs := runs.get(kv_names)) is not None:
                expected = dataclasses.replace(kv_runs, shape=(*kv_runs.shape[:3], found.shape[2])).transposed()
            if not np.array_equal(found.offsets, expected.offsets) or not np.array_equal(found.runs, expected.runs):
                listed, wanted = (matrix(x).swapaxes(-1, -2) for x in (found, expected))
                place = np.argwhere(listed != wanted)[0]
                raise ValueError(f"{_place(place[:-1])}: expected {q_names[1]} to be {kv_names[1]} transposed, "
                                 f"found block {place[-1]} in {(q_names if listed[tuple(place)] else kv_names)[1]} only")

    def _checked_runs(self, counts_name: str, indices_name: str, columns: int) -> BlockRuns:
        """The blocks that a pair of lists names, after `validate`'s checks of the pair by itself."""
        counts, indices = _to_numpy(self._lists[counts_name]), _to_numpy(self._lists[indices_name])
        width = indices.shape[-1]
        if (where := np.argwhere((counts < 0) | (counts > width))).size:
            raise ValueError(f"{_place(where[0])}: expected {counts_name} in [0, {width}], "
                             f"found {counts[tuple(where[0])]}")
        used = _used(counts, indices)
        if (where := np.argwhere(used & ((indices < 0) | (indices >= columns)))).size:
            raise ValueError(f"{_place(where[0][:-1])}: expected {indices_name} in [0, {columns}), "
                             f"found {indices[tuple(where[0])]} at position {where[0][-1]}")
        # Unused entries become negative and different from each other.
        ordered = np.sort(np.where(used, indices, -1 - np.arange(width)), axis=-1)
        if (where := np.argwhere(ordered[..., 1:] == ordered[..., :-1])).size:
            raise ValueError(f"{_place(where[0][:-1])}: expected {indices_name} to list a block once, "
                             f"found block {ordered[tuple(where[0])]} twice")
        return BlockRuns.of_lists([(PARTIAL, counts, indices)], columns)

    def _check_shapes(self) -> None:
        if self._derivation is not None:  # nobody assigned lists
            return
        for counts_name, indices_name in _PAIRS:
            counts, indices = self._lists.get(counts_name), self._lists.get(indices_name)
            if counts_name == "kv_num_blocks" and (counts is None or indices is None):
                raise TypeError("expected kv_num_blocks and kv_indices to be lists, found None")
            if (counts is None) != (indices is None):
                raise AssertionError(f"{counts_name} and {indices_name} must be both provided or omitted")
            if counts is None:
                continue
            shape = _shape_of(indices)
            _matrix_shape(indices)
            if _shape_of(counts) != shape[:-1]:
                raise ValueError(f"expected {counts_name} to have shape {shape[:-1]}, as {indices_name} has {shape}, "
                                 f"found {_shape_of(counts)}")
            # Rows of q lists are key blocks; only the batch dims are common to all.
            common = -1 if "q" in counts_name else None
            expected = _shape_of(self._lists["kv_num_blocks"])
            if _shape_of(counts)[:common] != expected[:common]:
                raise ValueError(f"expected {counts_name} to agree with kv_num_blocks, which has shape {expected}, "
                                 f"found {_shape_of(counts)}")

    def _flatten(self) -> tuple[tuple[Array, ...], "_Context"]:
        """The lists that there are, and the rest. Derived lists are left out: they need not even be computed."""
        names: tuple[str, ...] = ()
        rest = self._clone(_lists={})
        if self._given:
            names = tuple(name for name in _LIST_NAMES if getattr(self, name) is not None)
            rest._derivation = None
        return tuple(getattr(self, name) for name in names), _Context(names, rest)

    def _flatten_with_keys(self) -> tuple[tuple[tuple[Any, Array], ...], "_Context"]:
        from torch.utils._pytree import GetAttrKey

        leaves, context = self._flatten()
        return tuple((GetAttrKey(name), leaf) for name, leaf in zip(context.names, leaves)), context

    @staticmethod
    def _unflatten(leaves: Iterable[Any], context: "_Context") -> "BlockMask":
        """The mask again. The leaves are not checked: transformations put other things than lists there."""
        lists: dict[str, Any] = dict.fromkeys(_LIST_NAMES) if context.names else {}
        lists.update(zip(context.names, leaves))
        return context.rest._clone(_lists=lists)


@dataclasses.dataclass(frozen=True, eq=False)
class _Context:
    """All of a flattened mask that is no leaf. Two are equal if masks can take each other's place in a compiled
    function: mask_mods by what they do, not by identity."""

    names: tuple[str, ...]
    rest: BlockMask

    def _key(self) -> tuple[Any, ...]:
        mask = self.rest
        derived = None if mask._derivation is None else (mask._derivation.shape, mask._derivation.has_full, str(mask._device))
        return (self.names, tuple(mask.seq_lengths), tuple(mask.BLOCK_SIZE), derived)

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, _Context) and self._key() == other._key()
                and same_value(self.rest.mask_mod, other.rest.mask_mod, set()))

    def __hash__(self) -> int:
        return hash((self._key(), getattr(self.rest.mask_mod, "__code__", None)))


# Pieces of the members.


def check_rows(rows: int, q_len: int, q_block: int) -> None:
    """ValueError unless kv lists have a row for each query, as attention asks of them; further rows are for nobody, as in torch."""
    if rows < ceil_div(q_len, q_block):
        raise ValueError(f"expected kv_num_blocks to have {ceil_div(q_len, q_block)} rows, one for each {q_block} of {q_len} queries, "
                         f"found {rows}")


def _shape_of(array: Array) -> tuple[int, ...]:
    return tuple(np.shape(array))


def _matrix_shape(array: Array) -> tuple[int, int]:
    """The last two extents."""
    shape = _shape_of(array)
    if len(shape) < 2:
        raise RuntimeError(f"BlockMask must have at least 2 dimensions, found lists of shape {shape}")
    return shape[-2], shape[-1]


def _place(position: Sequence[Any]) -> str:
    """The row of a list, in words."""
    *batch, row = position
    if len(batch) == 2:
        return f"batch {batch[0]}, head {batch[1]}, row {row}"
    return f"batch ({', '.join(map(str, batch))}), row {row}" if batch else f"row {row}"


def _selection(index: Any, shape: tuple[int, ...]) -> tuple[slice | np.ndarray, ...]:
    """`index` as slices with positive steps and at most one array of non-negative integers."""
    parts = list(index) if isinstance(index, tuple) else [index]
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(parts) - len(ellipses) > len(shape) or len(ellipses) > 1:
        raise IndexError(f"expected at most {len(shape)} indices (batch, head, query block), found {index!r}")
    if ellipses:
        parts[ellipses[0]:ellipses[0] + 1] = [slice(None)] * (len(shape) + 1 - len(parts))
    selection = tuple(_select(part, extent, axis) for axis, (part, extent) in enumerate(zip(parts, shape)))
    if sum(isinstance(part, np.ndarray) for part in selection) > 1:
        raise IndexError("expected at most one index to be a sequence, for two would drop a dim; index twice")
    return selection


def _select(part: Any, extent: int, axis: int) -> slice | np.ndarray:
    if isinstance(part, slice):
        start, stop, step = part.indices(extent)
        return part if step > 0 else np.arange(start, stop, step)  # torch has no negative steps
    if getattr(part, "ndim", 0) == 0 and hasattr(part, "__index__"):
        number = operator.index(part)
        if not -extent <= number < extent:
            raise IndexError(f"index {number} is out of range for dim {axis}, which has {extent} entries")
        return slice(number % extent, number % extent + 1)
    array = _to_numpy(part) if _is_tensor(part) else np.asarray(part)
    if array.ndim == 1 and array.dtype == np.bool_ and len(array) == extent:
        return np.flatnonzero(array)
    if array.ndim != 1 or array.dtype.kind not in "iu" and array.size:
        raise IndexError(f"expected integers, slices, or 1-D sequences of integers or of {extent} bools, "
                         f"found {part!r}")
    if ((array < -extent) | (array >= extent)).any():
        raise IndexError(f"index {array} is out of range for dim {axis}, which has {extent} entries")
    return array.astype(np.int64) % extent


def _draw(runs: BlockRuns, max_rows: int, max_columns: int) -> str:
    """A picture of one batch and head, two characters a cell, each line ended."""
    extents = runs.shape[2:]
    steps = [ceil_div(extent, limit) if 0 < limit < extent else 1 for extent, limit in zip(extents, (max_rows, max_columns))]
    sums = runs.num_visited(*steps)[0, 0]
    areas = np.multiply.outer(*(np.diff(np.arange(0, extent, step), append=extent) for extent, step in zip(extents, steps)))
    glyphs = np.where(sums == 0, "  ", np.where(sums == areas, "\N{FULL BLOCK}" * 2, "\N{LIGHT SHADE}" * 2))
    return "".join("".join(row) + "\n" for row in glyphs)


# Builders.


def create_block_mask(mask_mod: MaskMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None,
                      BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK_SIZE, _compile: bool = False,
                      separate_full_blocks: bool = True, compute_dq_write_order: bool = False,
                      dq_kv_order: bool = True) -> BlockMask:
    """The BlockMask of `mask_mod`; None for B or H is 1, for a mask that does not depend on it.

    This takes microseconds; the lists are computed when they are first read, exactly and by generated code, and errors
    of mask_mod come then.
    `separate_full_blocks` False lists full blocks among the partial ones, and the full_* lists are None; attention does the
    same with both. `_compile` has no effect: masks are always compiled. Nor have `compute_dq_write_order` and `dq_kv_order`,
    which are about FlexAttention's backward pass.

    Raises AssertionError if `mask_mod` is no mask_mod, TypeError if it is not callable or an extent is no integer,
    ValueError if an extent is negative or a block empty, or if B or H is None and mask_mod depends on it: within torch.compile
    that is not noticed, and the mask is what mask_mod says of each batch and head.
    """
    if not isinstance(dq_kv_order, bool):
        raise ValueError("dq_kv_order must be a bool when using create_block_mask")
    if tracing.mod_kind(mask_mod) != "mask_mod":
        raise AssertionError(f"create-block_mask requires a mask_mod function! Got {mask_mod}")
    derivation = _Derivation(mask_mod, _extents(B, H, Q_LEN, KV_LEN), _block_size(BLOCK_SIZE), bool(separate_full_blocks))
    uses = _coordinates_of(mask_mod)
    for name, count, coordinate in (("B", B, "b"), ("H", H, "h")):
        if count is None and coordinate in uses:
            raise ValueError(f"expected {name} to be a number, because mask_mod depends on {coordinate}, found None")
    return BlockMask._derived(derivation, _resolve_device(device))


@_eager
def _coordinates_of(mask_mod: MaskMod) -> frozenset[str]:
    """What a mask_mod depends on, of "b", "h", "q_idx" and "kv_idx"; nothing for one that cannot be traced."""
    with contextlib.suppress(Exception):  # the lists, once read, will say what is wrong
        return tracing.lookup(None, mask_mod)[0].mask_coordinates
    return frozenset()


def _coordinates_in_graph(mask_mod: MaskMod) -> frozenset[str]:
    """What torch.compile traces in its place: what the mask_mod captures has no values yet."""
    return frozenset()


_coordinates_of._torchdynamo_inline = _coordinates_in_graph  # type: ignore[attr-defined]


@_eager
def create_mask(mod_fn: Callable[..., Any], B: int | None, H: int | None, Q_LEN: int, KV_LEN: int,
                device: Any = None) -> Array:
    """bool (B, H, Q_LEN, KV_LEN): where a mask_mod is true, or where a score_mod does not turn a score of 0 to -inf.

    None for B or H is 1. Raises as create_block_mask does.
    """
    evaluate = _evaluate if tracing.mod_kind(mod_fn) == "mask_mod" else _evaluate_score
    shape = _extents(B, H, Q_LEN, KV_LEN)
    mask = np.empty(shape, np.bool_)
    for chunk in _chunks(shape):
        mask[chunk] = evaluate(mod_fn, chunk)
    return _move(mask, _resolve_device(device))


def _extents(B: int | None, H: int | None, Q_LEN: int, KV_LEN: int) -> tuple[int, int, int, int]:
    return (1 if B is None else _length("B", B), 1 if H is None else _length("H", H),
            _length("Q_LEN", Q_LEN), _length("KV_LEN", KV_LEN))


meet_torch()
