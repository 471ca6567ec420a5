# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""BlockMasks of tensors that say of every pair, or of every block, whether it attends.

torch has these functions behind underscores, and code that has a dense mask imports them from there.
"""

from __future__ import annotations

import sys
from typing import Any

from heed.block_mask import DEFAULT_BLOCK_SIZE, BlockMask
from heed.mask_mods import MaskMod

Tensor = Any  # torch is optional, so its type has no name here


def convert_mask_to_block_mask(mask: Tensor, Q_BLOCK_SIZE: int = DEFAULT_BLOCK_SIZE, KV_BLOCK_SIZE: int = DEFAULT_BLOCK_SIZE,
                               separate_full_blocks: bool = False) -> tuple[Tensor, Tensor | None]:
    """Which blocks of a bool tensor (B, H, queries, keys) are partial, and which are full: tensors int8 (B, H, rows, columns).

    Axes may be missing on the left. Without `separate_full_blocks` all blocks with a pair are partial, and there is no
    second tensor. A block that hangs over the end is not full.
    """
    torch = sys.modules["torch"]
    if mask.dtype != torch.bool:
        raise AssertionError(f"mask.dtype must be torch.bool, got {mask.dtype}")
    mask = mask[(None,) * (4 - mask.ndim)]
    q_len, kv_len = mask.shape[-2:]
    padded = torch.nn.functional.pad(mask, (0, -kv_len % KV_BLOCK_SIZE, 0, -q_len % Q_BLOCK_SIZE))
    pairs = padded.unflatten(3, (-1, KV_BLOCK_SIZE)).unflatten(2, (-1, Q_BLOCK_SIZE)).sum((3, 5))
    if not separate_full_blocks:
        return (pairs > 0).to(torch.int8), None
    full = pairs == Q_BLOCK_SIZE * KV_BLOCK_SIZE
    return ((pairs > 0) & ~full).to(torch.int8), full.to(torch.int8)


def create_sparse_block_from_block_mask(block_mask: tuple[Tensor, Tensor | None], mask_mod: MaskMod | None,
                                        seq_lengths: tuple[int, int], Q_BLOCK_SIZE: int = DEFAULT_BLOCK_SIZE,
                                        KV_BLOCK_SIZE: int = DEFAULT_BLOCK_SIZE) -> BlockMask:
    """The BlockMask whose lists have the blocks that convert_mask_to_block_mask gives; mask_mod decides the pairs of the partial ones."""
    partial, full = block_mask
    counts, indices = _lists(partial)
    full_counts, full_indices = (None, None) if full is None else _lists(full)
    return BlockMask.from_kv_blocks(counts, indices, full_counts, full_indices, (Q_BLOCK_SIZE, KV_BLOCK_SIZE), mask_mod, seq_lengths)


def _lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and indices of the blocks in each row; after them come the others."""
    torch = sys.modules["torch"]
    return blocks.sum(-1, dtype=torch.int32), blocks.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
