# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""BlockMasks of numbers that are no blocks, listed twice, or assigned afterwards."""

from __future__ import annotations

from typing import Any

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


def test_assigned_lists_are_checked() -> None:
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 64, 64, device="numpy", BLOCK_SIZE=16)
    mask.full_kv_indices = None
    with pytest.raises(AssertionError, match="full_kv_num_blocks and full_kv_indices must be both provided or omitted"):
        mask.to_dense()
    mask = bm.create_block_mask(lambda b, h, q, k: q >= k, None, None, 64, 64, device="numpy", BLOCK_SIZE=16)
    mask.kv_num_blocks = np.zeros((1, 1, 3), np.int32)
    with pytest.raises(ValueError, match=r"expected kv_num_blocks to have shape \(1, 1, 4\)"):
        mask.block_kinds()
