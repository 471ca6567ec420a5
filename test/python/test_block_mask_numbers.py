# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""BlockMasks of numbers that are no blocks, listed twice, or assigned afterwards."""

from __future__ import annotations

from typing import Any

import heed
import numpy as np
import pytest
from heed import block_mask as bm

torch = pytest.importorskip("torch")


def test_adjusted_lists_keep_what_is_listed_twice_once() -> None:
    mask = bm.BlockMask.from_kv_blocks(np.array([[[3, 2]]]), np.array([[[[0, 0, 1, 2], [1, 1, 0, 0]]]]), BLOCK_SIZE=16)
    cut = mask._adjust(32, 32)
    assert cut.to_dense().tolist() == [[[[1, 1], [0, 1]]]]
    assert cut.kv_num_blocks.tolist()[0][0][0] == 2


@pytest.mark.parametrize("size", [2**31, 2**32, (16, 2**32 + 16)])
def test_blocks_beyond_32_bits(size: Any) -> None:
    with pytest.raises(ValueError, match=r"expected BLOCK_SIZE to be below 2\^31, found"):
        bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 50, 50, device="numpy", BLOCK_SIZE=size)


@pytest.mark.parametrize("entry", [2**32 + 1, -(2**32) + 1, 2**63 - 1])
@pytest.mark.parametrize("as_array", [np.array, lambda x: torch.tensor(x)], ids=["numpy", "torch"])
def test_numbers_beyond_32_bits_name_no_block(entry: int, as_array: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, indices = as_array([[[2]]]), as_array([[[[entry, 0]]]])
    mask = bm.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16)
    assert mask.block_kinds().tolist() == [[[[1, 0]]]]
    monkeypatch.setenv("HEED_DEBUG", "1")
    with pytest.raises(ValueError, match=r"expected kv_indices in \[0, 2\)"):
        bm.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16)
    with pytest.raises(ValueError, match=r"expected kv_num_blocks in \[0, 2\]"):
        bm.BlockMask.from_kv_blocks(as_array([[[entry]]]), as_array([[[[1, 0]]]]), BLOCK_SIZE=16)


Q = np.random.default_rng(0).normal(size=(1, 1, 40, 16)).astype(np.float32)
FEW = r"expected kv_num_blocks to have 3 rows, one for each 16 of 40 queries, found 2"


@pytest.mark.parametrize("library", ("heed", "torch"))
def test_fewer_rows_than_queries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch makes such masks, as slices, and its kernels refuse them."""
    kind = bm.BlockMask if library == "heed" else pytest.importorskip("torch.nn.attention.flex_attention").BlockMask
    lists = torch.tensor([[[1, 1]]]), torch.tensor([[[[1, 0, 0], [0, 0, 0]]]])
    mask = kind.from_kv_blocks(*lists, BLOCK_SIZE=16, seq_lengths=(40, 40))
    for query in (Q, torch.from_numpy(Q)):
        with pytest.raises(ValueError, match=FEW):
            heed.flex_attention(query, query, query, block_mask=mask)
    mask.seq_lengths = (32, 40)
    heed.flex_attention(Q[:, :, :32], Q, Q, block_mask=mask)
    if library == "heed":
        mask.validate()
        mask.seq_lengths = (33, 40)
        with pytest.raises(ValueError, match="found 2"):
            mask.validate()
    monkeypatch.setenv("HEED_DEBUG", "1")
    with pytest.raises(ValueError, match=FEW):
        bm.BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=16, seq_lengths=(40, 40))


def test_more_rows_than_queries() -> None:
    """Nobody reads them, as in torch; but they should list nothing."""
    counts, indices = np.array([[[1, 1, 0], [1, 1, 0]]]), np.zeros((1, 2, 3, 3), np.int32)
    mask = bm.BlockMask.from_kv_blocks(counts, indices, counts * 0, indices, BLOCK_SIZE=16, seq_lengths=(20, 40))
    mask.validate()
    mask.full_kv_num_blocks = np.array([[[0, 0, 0], [0, 0, 1]]])
    with pytest.raises(ValueError, match=r"^batch 0, head 1, row 2: expected full_kv_num_blocks to be 0, for there are only "
                                         "20 queries, found 1$"):
        mask.validate()
    heed.flex_attention(*(np.concatenate((Q, Q), 1)[:, :, :length] for length in (20, 40, 40)), block_mask=mask)


def test_rows_of_slices() -> None:
    whole = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 40, 40, device="numpy", BLOCK_SIZE=16)
    for mask in (whole, bm.BlockMask.from_kv_blocks(*whole.as_tuple()[2:6], BLOCK_SIZE=16, seq_lengths=(40, 40))):
        row = mask[:, :, 1]
        row.validate()  # the lengths are those of the whole, until somebody sets them with mask_mod
        row.mask_mod = lambda b, h, q, k: q + 16 >= k
        with pytest.raises(ValueError, match="found 1$"):
            row.validate()
        with pytest.raises(ValueError, match="found 1$"):
            heed.flex_attention(Q, Q, Q, block_mask=row)
        row.seq_lengths = (16, 40)
        row.validate()
        expected = heed.flex_attention(Q, Q, Q, block_mask=whole)[:, :, 16:32]
        np.testing.assert_array_equal(heed.flex_attention(Q[:, :, 16:32], Q, Q, block_mask=row), expected)


@pytest.mark.parametrize("is_derived", (False, True))
def test_debug_mode_checks_each_call(is_derived: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEED_DEBUG", "1")
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 40, 40, device="numpy", BLOCK_SIZE=16)
    mask = mask[0] if is_derived else bm.BlockMask.from_kv_blocks(*mask.as_tuple()[2:6], BLOCK_SIZE=16, seq_lengths=(40, 40))
    mask.mask_mod = lambda b, h, q, k: q >= k
    heed.flex_attention(Q, Q, Q, block_mask=mask)
    mask.kv_indices[0, 0, 2, 0] = 3
    with pytest.raises(ValueError, match=r"row 2: expected kv_indices in \[0, 3\), found 3 at position 0"):
        heed.flex_attention(Q, Q, Q, block_mask=mask)
    mask.kv_indices = np.full((1, 1, 3, 3), -1)
    with pytest.raises(ValueError, match=r"row 0: expected kv_indices in \[0, 3\), found -1 at position 0"):
        heed.flex_attention(Q, Q, Q, block_mask=mask)
    monkeypatch.setenv("HEED_DEBUG", "0")
    heed.flex_attention(Q, Q, Q, block_mask=mask)


def test_a_mask_mod_that_is_assigned_before_lists_are_read() -> None:
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 40, 40, device="numpy", BLOCK_SIZE=16)
    mask.mask_mod = lambda b, h, q, k: q >= k + 1
    found = heed.flex_attention(Q, Q, Q, block_mask=mask)
    expected = heed.flex_attention(Q, Q, Q, mask_mod=lambda b, h, q, k: (q // 16 > k // 16) | (q >= k + 1))  # full blocks attend
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_counts_that_are_negative_cancel_nothing() -> None:
    mask = bm.BlockMask.from_kv_blocks(np.array([[[-1, 1]]]), np.array([[[[0, 1], [1, 0]]]]), BLOCK_SIZE=16)
    assert mask.block_kinds().tolist() == [[[[0, 0], [0, 1]]]] and mask.sparsity() == 75.0


def test_assigned_lists_are_checked() -> None:
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 64, 64, device="numpy", BLOCK_SIZE=16)
    mask.full_kv_indices = None
    with pytest.raises(AssertionError, match="full_kv_num_blocks and full_kv_indices must be both provided or omitted"):
        mask.to_dense()
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 64, 64, device="numpy", BLOCK_SIZE=16)
    mask.kv_num_blocks = np.zeros((1, 1, 3), np.int32)
    with pytest.raises(ValueError, match=r"expected kv_num_blocks to have shape \(1, 1, 4\)"):
        mask.block_kinds()
