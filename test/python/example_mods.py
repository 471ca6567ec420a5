# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The variants of examples/ as users of FlexAttention write them, in torch.

`mods(name, params)` gives the score_mod and the mask_mod of an example. params are those that reference.EXAMPLES makes,
with tensors in place of arrays (`on_device`); the defaults are the files'. reference.py has the same formulas in NumPy, and
test_example_mods.py compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Mod = Callable[..., Any] | None
Mods = tuple[Mod, Mod]


def on_device(params: dict[str, Any], device: Any) -> dict[str, Any]:
    """Arrays as tensors, numbers as they are."""
    return {name: torch.as_tensor(x).to(device) if isinstance(x, np.ndarray) else x for name, x in params.items()}


def causal_mask(b, h, q, kv):
    return q >= kv


def _window(window: int) -> Mod:
    return lambda b, h, q, kv: (q >= kv) & (q - kv < window)


def alibi(slope: Any) -> Mods:
    return lambda s, b, h, q, kv: s + slope[h] * (kv - q), causal_mask


def bert_padding(lengths: Any) -> Mods:
    return None, lambda b, h, q, kv: kv < lengths[b]


def causal() -> Mods:
    return None, causal_mask


def checkerboard() -> Mods:
    return None, lambda b, h, q, kv: (q - kv) % 2 == 0


def dense() -> Mods:
    return None, None


def dilated_window(window: int = 256, dilation: int = 2) -> Mods:
    def mask_mod(b, h, q, kv):
        distance = abs(q - kv)
        return (distance <= window) & (distance % dilation == 0)

    return None, mask_mod


def gemma2_softcap(cap: float = 50.0, window: int = 4096) -> Mods:
    return lambda s, b, h, q, kv: cap * torch.tanh(s / cap), _window(window)


def global_tokens(marked: Any, window: int = 256) -> Mods:
    return None, lambda b, h, q, kv: (abs(q - kv) <= window) | marked[b, q] | marked[b, kv]


def neighbourhood_2d(width: int = 32, height: int = 32, kw: int = 7, kh: int = 7) -> Mods:
    rx, ry = kw // 2, kh // 2

    def mask_mod(b, h, q, kv):
        x = torch.clamp(q % width, rx, width - 1 - rx)
        y = torch.clamp(q // width, ry, height - 1 - ry)
        return (abs(x - kv % width) <= rx) & (abs(y - kv // width) <= ry)

    return None, mask_mod


def packed_documents(doc: Any) -> Mods:
    return None, lambda b, h, q, kv: (q >= kv) & (doc[b, q] == doc[b, kv])


def prefix_lm(prefix: Any) -> Mods:
    return None, lambda b, h, q, kv: (q >= kv) | (kv < prefix[b])


def sandwich(n: int = 16, heads: int = 1) -> Mods:
    def score_mod(s, b, h, q, kv):
        bias = 0.0
        for i in range(n):
            bias = bias + torch.cos((q - kv) * 10000.0 ** (-i / n))
        return s + bias * heads / (8.0 * (h + 1))

    return score_mod, causal_mask


def sliding_window(window: int = 4096) -> Mods:
    return None, _window(window)


def t5_relative_bias(table: Any, max_distance: int = 128) -> Mods:
    def score_mod(s, b, h, q, kv):
        distance = torch.clamp(q - kv, min=0)
        growth = torch.log(torch.clamp(distance, min=1) / 16) / math.log(max_distance / 16)
        bucket = torch.where(distance < 16, distance, torch.clamp(16 + (growth * 16).to(torch.int32), max=31))
        return s + table[h, bucket]

    return score_mod, causal_mask


def transfusion(span: Any) -> Mods:
    return None, lambda b, h, q, kv: (q >= kv) | ((span[b, q] > 0) & (span[b, q] == span[b, kv]))


_EXAMPLES = (alibi, bert_padding, causal, checkerboard, dense, dilated_window, gemma2_softcap, global_tokens, neighbourhood_2d,
             packed_documents, prefix_lm, sandwich, sliding_window, t5_relative_bias, transfusion)
EXAMPLES: dict[str, Callable[..., Mods]] = {function.__name__: function for function in _EXAMPLES}
# Parameters with an element for each query, which masks read at keys too: as many keys as queries, or fewer.
BY_POSITION = ("global_tokens", "packed_documents", "transfusion")


def mods(name: str, params: dict[str, Any], heads: int) -> Mods:
    """score_mod and mask_mod of an example; `heads` is the number of query heads."""
    return EXAMPLES[name](**params, **({"heads": heads} if name == "sandwich" else {}))
