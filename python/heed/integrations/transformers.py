# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention of Hugging Face transformers' models in Heed's kernels.

    import heed.integrations.transformers

    heed.integrations.transformers.register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="heed")

A model asks for its mask once a forward pass: `attention_mask` answers with a function of (b, h, q_idx, kv_idx), so
that no mask is ever materialised and blocks are skipped. Each layer then calls `attention` with it. Window sizes,
offsets and padding are run-time values: one kernel serves all lengths, and every step of a generation.

Needs transformers 5 (tested: requirements-integrations.txt) and torch. Inference only, on CPUs and NVIDIA GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface

import heed

MaskMod = Callable[[Any, Any, Any, Any], Any]


def register(name: str = "heed") -> None:
    """Makes attn_implementation=`name` run in Heed's kernels, in every model that takes attention interfaces.

    May be called again, also with other names."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, attention_mask)


class Mask(BlockMask):
    """A mask_mod on its way from the model to its layers.

    It is a BlockMask of torch's only for the library's sake, which passes those on as they are. It has no lists.
    """

    ndim = 4

    def __init__(self, mask_mod: MaskMod, shape: tuple[int, int, int, int]) -> None:
        self.mask_mod = mask_mod
        self._shape = shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, 1, query length, key length)"""
        return self._shape

    def contiguous(self) -> Mask:
        """Itself; generation with a static cache asks for this."""
        return self

    def __repr__(self) -> str:
        return f"<Mask {self._shape} of {getattr(self.mask_mod, '__name__', self.mask_mod)}>"

    __str__ = __repr__


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Keys up to the query's own position."""
    return q_idx >= kv_idx


def _with_offsets(mask_function: MaskMod, q_offset: Any, kv_offset: Any, padding: Any = None) -> MaskMod:
    """mask_function of positions, as a function of indices; `padding`: bool (B, positions), True to attend."""
    if padding is None:
        return lambda b, h, q_idx, kv_idx: mask_function(b, h, q_idx + q_offset, kv_idx + kv_offset)

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        position = kv_idx + kv_offset
        return mask_function(b, h, q_idx + q_offset, position) & padding[b, position]

    return mask_mod


def attention_mask(batch_size: int, q_length: int, kv_length: int, q_offset: int | torch.Tensor = 0, kv_offset: int = 0,
                   mask_function: MaskMod = causal, attention_mask: torch.Tensor | None = None,
                   allow_is_bidirectional_skip: bool = False, **kwargs: Any) -> Mask | None:
    """The mask of a model: what transformers' AttentionMaskInterface asks for.

    Queries are at positions q_offset and on, keys at kv_offset and on. mask_function(b, h, q, kv) of positions says
    which attend; `attention_mask` (batch_size, positions) is False for padding. None where all pairs attend and the
    caller allows it. The other arguments of the interface are about masks that are materialised.
    """
    padding = attention_mask
    if torch.compiler.is_compiling() or torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        # A graph has no values to look at. A static cache counts in a tensor, in place: layers would see different values.
        q_offset = q_offset.clone() if isinstance(q_offset, torch.Tensor) else q_offset
    else:
        q_offset = int(q_offset)
        if padding is not None and bool(padding.all()):  # one pass here saves a load at each pair
            padding = None
    if padding is None and allow_is_bidirectional_skip:
        return None
    if padding is not None and (missing := kv_length + kv_offset - padding.shape[-1]) > 0:
        padding = torch.nn.functional.pad(padding, (0, missing))  # a static cache is longer than what was seen
    return Mask(_with_offsets(mask_function, q_offset, kv_offset, padding), (batch_size, 1, q_length, kv_length))


def attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              attention_mask: Mask | BlockMask | torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
              softcap: float | None = None, s_aux: torch.Tensor | None = None, position_bias: torch.Tensor | None = None,
              is_causal: bool | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """A layer's attention: what transformers' AttentionInterface asks for.

    query (B, Hq, L, E), key (B, Hkv, S, E), value (B, Hkv, S, Ev), where Hkv divides Hq. `attention_mask`: of
    `attention_mask` above, or 4-D and broadcastable to (B, Hq, L, S): bool (True attends) or to be added to the scores.
    position_bias, broadcastable likewise, is added too; softcap c makes a score c * tanh(score / c) first; s_aux (Hq,)
    are sinks, scores of a further key without a value. Without a mask, `is_causal`, by default the module's, decides.

    Returns (output (B, L, Hq, Ev), None). Raises ValueError for dropout, head masks, attention weights as output and
    paged caches, TypeError for masks of integers, NotImplementedError where gradients are required.
    """
    _refuse(dropout, kwargs)
    length, kv_length = query.shape[2], key.shape[2]
    shape = (query.shape[0], query.shape[1], length, kv_length)
    block_mask = mask_mod = bias = None
    if isinstance(attention_mask, Mask):
        mask_mod = attention_mask.mask_mod
    elif isinstance(attention_mask, BlockMask):
        block_mask = attention_mask
    elif attention_mask is None:
        # Models that ask for no mask rely on this, as the library's "sdpa" does it.
        if length > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
            mask_mod = _with_offsets(causal, kv_length - length, 0)
    elif attention_mask.dtype == torch.bool:
        allowed = attention_mask[..., :kv_length].expand(shape)
        mask_mod = _reads(allowed)
    elif attention_mask.is_floating_point():
        # Models write the least number for what is masked.
        least = torch.finfo(attention_mask.dtype).min
        bias = attention_mask[..., :kv_length].masked_fill(attention_mask[..., :kv_length] <= least / 2, -torch.inf).expand(shape)
    else:
        raise TypeError(f"attention_mask: expected 4-D masks to be of bool or floats, found {attention_mask.dtype}")
    score_mod = None
    if softcap is not None or bias is not None or position_bias is not None:
        positions = None if position_bias is None else position_bias[..., :kv_length].expand(shape)
        score_mod = _score_mod(softcap, positions, bias)

    if s_aux is None:
        output = heed.flex_attention(query, key, value, score_mod, block_mask, scaling, enable_gqa=True, mask_mod=mask_mod)
    else:
        output, aux = heed.flex_attention(query, key, value, score_mod, block_mask, scaling, enable_gqa=True,
                                          mask_mod=mask_mod, return_aux=heed.AuxRequest(lse=True))
        # The sink adds exp(s_aux) to the sum of exponentials exp(lse), and nothing to the output.
        output = output * torch.sigmoid(aux.lse - s_aux.float().view(1, -1, 1)).unsqueeze(-1).to(output.dtype)
    return output.transpose(1, 2).contiguous(), None


def _reads(allowed: torch.Tensor) -> MaskMod:
    return lambda b, h, q_idx, kv_idx: allowed[b, h, q_idx, kv_idx]


def _score_mod(softcap: float | None, positions: torch.Tensor | None, bias: torch.Tensor | None) -> Callable[..., Any]:
    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if positions is not None:
            score = score + positions[b, h, q_idx, kv_idx]
        if bias is not None:
            score = score + bias[b, h, q_idx, kv_idx]
        return score

    return score_mod


def _refuse(dropout: float, kwargs: dict[str, Any]) -> None:
    if dropout > 0:
        raise ValueError('attn_implementation="heed" has no dropout: call model.eval(), set the attention dropout of the '
                         'config to 0, or use "sdpa" or "eager" for training')
    if kwargs.get("output_attentions"):
        raise ValueError('attn_implementation="heed" never has the attention weights: use "eager" for '
                         "output_attentions=True")
    if kwargs.get("head_mask") is not None:
        raise ValueError('attn_implementation="heed" takes no head_mask: use "eager", or prune the heads')
    if kwargs.get("cache") is not None:
        raise ValueError('attn_implementation="heed" reads no paged cache: use generate() instead of generate_batch(), or '
                         '"sdpa"')
