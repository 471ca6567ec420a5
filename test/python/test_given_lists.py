# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The quick way of masks of given lists, with a kernel that runs on the CPU: which lists take it, and what it makes of them.

test/gpu/test_block_lists.py runs the real one."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import heed  # noqa: E402
from heed import given_lists, gpu, hot  # noqa: E402

pytestmark = pytest.mark.skipif(not hot.is_there, reason="takes heed._hot")


def causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv


def entries(pointer: Any, *shape: int) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int32)), (count,)).reshape(shape)


class Filler:
    """heed_launch_fill, by definition."""

    def __init__(self) -> None:
        self.calls = 0

    def _launch_fill(self, lists: Any, widths: tuple[int, int], matrix: Any, device: int, stream: int) -> None:
        self.calls += 1
        rows = matrix.num_batches * matrix.num_heads * matrix.num_rows
        kinds = np.zeros((rows, matrix.num_columns), np.int8)
        for kind, counts, indices, width in ((1, lists.partial_counts, lists.partial_indices, widths[0]),
                                             (2, lists.full_counts, lists.full_indices, widths[1])):
            for row in range(rows if counts else 0):
                kinds[row, entries(indices, rows, width)[row, :entries(counts, rows)[row]]] = kind
        ctypes.memmove(matrix.classes, kinds.ctypes.data, kinds.size)


@pytest.fixture
def filler(monkeypatch: pytest.MonkeyPatch) -> Filler:
    """CPU tensors pass for those of a GPU."""
    hot.use_torch()
    if hot.describe(torch.zeros(2)) is None:
        pytest.skip("this PyTorch does not describe its tensors to C")
    made, describe = Filler(), hot.describe

    def on_gpu(array: Any) -> Any:
        found = describe(array)
        return found if found is None or isinstance(array, np.ndarray) else (*found[:2], 0, *found[3:])

    monkeypatch.setattr(hot, "describe", on_gpu)
    monkeypatch.setattr(given_lists, "_filler", lambda device: made)
    monkeypatch.setattr(gpu, "torch_stream", lambda: lambda device: 0)
    return made


def lists_of(mask: heed.BlockMask) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(getattr(mask, name))) for pair in given_lists.KV_PAIRS for name in pair]


QUERY, KEY = torch.zeros(2, 3, 100, 16), torch.zeros(2, 3, 200, 16)


def made(B: int | None = None, H: int | None = None) -> heed.BlockMask:
    return heed.create_block_mask(causal, B, H, 100, 200, device="numpy", BLOCK_SIZE=32)


def dense(mask_mod: Any, B: int = 1, H: int = 1) -> np.ndarray:
    return np.asarray(heed.create_mask(mask_mod, B, H, 100, 200, device="numpy"))


@pytest.mark.parametrize("with_full", (False, True))
def test_it_is_the_mask_of_the_lists(filler: Filler, with_full: bool) -> None:
    lists = lists_of(made())[:4 if with_full else 2]
    mask = heed.BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 200))
    quick = given_lists.quick_mask(mask, QUERY, KEY)
    assert quick is not None and filler.calls == 1
    assert np.array_equal(dense(quick), dense(given_lists.mask_for(mask, QUERY)))
    if with_full:
        assert np.array_equal(dense(quick), dense(causal))


def test_batches_and_heads(filler: Filler) -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.argsort(torch.rand((2, 3, 4, 7), generator=generator), dim=-1).int()
    counts = torch.randint(0, 8, (2, 3, 4), generator=generator).int()
    mask = heed.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 200))
    quick = given_lists.quick_mask(mask, QUERY, KEY)
    assert quick is not None
    assert np.array_equal(dense(quick, 2, 3), dense(given_lists.mask_for(mask, QUERY), 2, 3))
    assert given_lists.quick_mask(mask, QUERY[:1], KEY[:1]) is None, "of more batches"


def test_torchs_own_masks(filler: Filler) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = create_block_mask(causal, None, None, 100, 200, device="cpu", BLOCK_SIZE=32)
    quick = given_lists.quick_mask(mask, QUERY, KEY)
    assert quick is not None and np.array_equal(dense(quick), dense(causal))
    assert given_lists.quick_mask(mask[:, :, 0], QUERY, KEY) is None, "a sliced mask has no mask_mod"


def test_others_take_the_other_way(filler: Filler) -> None:
    lists = lists_of(made())

    def quick(*lists: Any, lengths: tuple[int, int] = (100, 200), query: Any = QUERY) -> Any:
        mask = heed.BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=lengths)
        return given_lists.quick_mask(mask, query, KEY)

    assert quick(*lists) is not None
    assert quick(*(x[0, 0] for x in lists)) is None, "no batch and head dims"
    assert quick(*(torch.stack((x, x), -1)[..., 0] for x in lists)) is None, "strided"
    assert quick(*(x.numpy() for x in lists)) is None, "not on the GPU"
    assert quick(*lists, lengths=(100, 190)) is None, "of another length"
    assert quick(*lists, query=QUERY.numpy()) is None, "queries of NumPy"
    assert quick(*lists, query=QUERY[0]) is None, "of another rank"
    assert given_lists.quick_mask(causal, QUERY, KEY) is None and given_lists.quick_mask((), QUERY, KEY) is None
    assert filler.calls == 1


def test_lists_that_are_not_all_there(filler: Filler) -> None:
    """Of a derived mask with a mask_mod of its own, of which somebody has read one list."""
    mask = heed.create_block_mask(causal, None, None, 100, 200, device="cpu", BLOCK_SIZE=32)
    assert mask.kv_num_blocks is not None
    mask.mask_mod = lambda b, h, q, kv: q >= kv + 1
    assert mask.has_given_lists and given_lists.quick_mask(mask, QUERY, KEY) is None and filler.calls == 0


def test_rows_for_all_queries(filler: Filler) -> None:
    counts, indices = (x[:, :, :3].contiguous() for x in lists_of(made())[:2])
    for kind in (heed.BlockMask, pytest.importorskip("torch.nn.attention.flex_attention").BlockMask):
        mask = kind.from_kv_blocks(counts, indices, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 200))
        assert given_lists.quick_mask(mask, QUERY, KEY) is None
        with pytest.raises(ValueError, match="expected kv_num_blocks to have 4 rows, one for each 32 of 100 queries, found 3"):
            heed.flex_attention(QUERY, KEY, KEY, block_mask=mask)
        with pytest.raises(ValueError, match="4 rows"):
            given_lists.kinds_on(torch, mask, QUERY.device)


def test_torchs_masks_are_checked_in_debug_mode(filler: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import BlockMask

    counts, indices, *_ = lists_of(made())
    mask = BlockMask.from_kv_blocks(counts + 1, indices * 0, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 200))
    assert given_lists.quick_mask(mask, QUERY, KEY) is not None
    monkeypatch.setenv("HEED_DEBUG", "1")
    assert given_lists.quick_mask(mask, QUERY, KEY) is None
    with pytest.raises(ValueError, match="kv_indices"):
        heed.flex_attention(QUERY, KEY, KEY, block_mask=mask)
    mask = heed.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 200))
    assert given_lists.quick_mask(mask, QUERY, KEY) is None, "Heed's too, which somebody may have changed"


def test_a_mask_of_that_name_is_no_sliced_one() -> None:
    def sliced_mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return q + 0 >= kv

    mask = heed.BlockMask.from_kv_blocks(*lists_of(made()), BLOCK_SIZE=32, mask_mod=sliced_mask_mod, seq_lengths=(100, 200))
    assert torch.equal(heed.flex_attention(QUERY, KEY, KEY, block_mask=mask), heed.flex_attention(QUERY, KEY, KEY, mask_mod=causal))


@pytest.mark.parametrize("compiles", (False, pytest.param(True, marks=pytest.mark.slow)))
def test_lists_of_heads_alone(compiles: bool) -> None:
    """Dims are missing from the left, as in BlockMask.block_kinds."""
    query, key = torch.randn(2, 3, 64, 16), torch.randn(2, 3, 64, 16)
    counts = torch.tensor([[1, 2], [2, 2], [2, 1]], dtype=torch.int32)  # 3 heads, 2 rows
    indices = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32).expand(3, 2, 2).contiguous()
    mask = heed.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=32, seq_lengths=(64, 64))

    def call(*args: Any, **named: Any) -> Any:
        return heed.flex_attention(*args, **named)

    call = torch.compile(call) if compiles else call
    found = call(query, key, key, block_mask=mask)
    for head in range(3):
        for row in range(2):
            keys = torch.cat([key[:, head, 32 * block:32 * block + 32] for block in indices[head, row, :counts[head, row]].tolist()], 1)
            queries = query[:, head, 32 * row:32 * row + 32]
            expected = torch.softmax(queries @ keys.transpose(1, 2) / 4, -1) @ keys
            assert torch.allclose(found[:, head, 32 * row:32 * row + 32], expected, atol=1e-5)
    with pytest.raises(ValueError, match="number of heads"):
        call(query[:, :2], key[:, :2], key[:, :2], block_mask=mask)
