# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Masks by what they say of a pair: the one of all pairs, conjunctions and disjunctions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MaskMod = Callable[[Any, Any, Any, Any], Any]  # (b, h, q_idx, kv_idx) -> bool
ScoreMod = Callable[[Any, Any, Any, Any, Any], Any]  # (score, b, h, q_idx, kv_idx) -> number


def noop_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The mask_mod that lets every pair attend."""
    # A comparison, for it is understood by tensors, arrays, integers and the tracer alike.
    return q_idx == q_idx


def identity(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The score_mod that changes nothing."""
    return score


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that is true where all of `mask_mods` are; noop_mask for none.

    Raises RuntimeError if one is not callable.
    """
    _check_callable(mask_mods)
    if not mask_mods:
        return noop_mask

    def and_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result = mask_mods[0](b, h, q_idx, kv_idx)
        for mask_mod in mask_mods[1:]:
            result = result & mask_mod(b, h, q_idx, kv_idx)
        return result

    and_mask.__name__ = _join_names(mask_mods, "and")
    return and_mask


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask_mod that is true where one of `mask_mods` is; nowhere for none.

    Raises RuntimeError if one is not callable.
    """
    _check_callable(mask_mods)

    def or_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        result = mask_mods[0](b, h, q_idx, kv_idx) if mask_mods else q_idx != q_idx
        for mask_mod in mask_mods[1:]:
            result = result | mask_mod(b, h, q_idx, kv_idx)
        return result

    or_mask.__name__ = _join_names(mask_mods, "or")
    return or_mask


def _check_callable(mask_mods: tuple[Any, ...]) -> None:
    if not all(callable(mask_mod) for mask_mod in mask_mods):
        raise RuntimeError(f"All inputs should be callable mask_mods: {mask_mods}")


def _join_names(mask_mods: tuple[Any, ...], word: str) -> str:
    """An identifier that says what was combined, as profilers and generated symbols show it."""
    names = [getattr(mask_mod, "__name__", type(mask_mod).__name__).strip("<>") for mask_mod in mask_mods]
    joined = f"_{word}_".join(names)
    return joined if 0 < len(joined) <= 80 else f"{word}_mask"


def sliced_mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """The mask_mod of a sliced mask: the original one would see wrong indices."""
    raise RuntimeError(
        "Cannot use mask_mod from a sliced BlockMask. block_mask[...] renumbers batches, heads and query blocks, "
        "and Heed cannot know what offset mask_mod then needs. Set it from the mask that was sliced:\n"
        "  sliced = block_mask[:, :, i]\n"
        "  sliced.mask_mod = shifted(block_mask.mask_mod, i)  # not shifted(sliced.mask_mod, i)")
