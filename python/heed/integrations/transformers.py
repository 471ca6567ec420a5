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
    """A mask as a function, on its way from the model to its layers.

    Queries are at positions q_offset and on, keys at kv_offset and on; mask_function(b, h, q, kv) of positions says which
    attend, None that all do; `padding`: bool (batch, positions), True to attend. It is a BlockMask of torch's only for the
    library's sake, which passes those on as they are. It has no lists, and no elements that a model could compute with.
    """

    ndim = 4

    def __init__(self, mask_function: MaskMod | None, shape: tuple[int, int, int, int], q_offset: Any = 0, kv_offset: int = 0,
                 padding: torch.Tensor | None = None) -> None:
        self._parts = mask_function, q_offset, kv_offset, padding
        self._shape = shape
        self.mask_mod = _with_offsets(mask_function, q_offset, kv_offset, padding) if mask_function else None  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, 1, query length, key length)"""
        return self._shape

    def contiguous(self) -> Mask:
        """Itself; generation with a static cache asks for this."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Mask:
        """The mask on another device, which a model that is spread over several asks for. Its type stays."""
        devices = [x for x in (*args, kwargs.get("device")) if isinstance(x, (str, int, torch.device))]
        if not devices:
            return self
        mask_function, q_offset, kv_offset, padding = self._parts
        q_offset, padding = (x.to(devices[0]) if isinstance(x, torch.Tensor) else x for x in (q_offset, padding))
        return Mask(mask_function, self._shape, q_offset, kv_offset, padding)

    def __getitem__(self, key: Any) -> Mask:
        """Some of the queries and keys: mask[:, :, first:end, first:end]."""
        slices = key if isinstance(key, tuple) else (key,)
        if len(slices) > 4 or not all(isinstance(x, slice) and x.step in (None, 1) for x in slices):
            raise TypeError(_COMPUTES.format(what=f"takes [{key}] of it"))
        batch, heads, queries, keys = (range(n)[x] for n, x in zip(self._shape, (*slices, *[slice(None)] * 4)))
        if len(batch) != self._shape[0] or len(heads) != 1:
            raise TypeError(_COMPUTES.format(what=f"takes [{key}] of it"))
        mask_function, q_offset, kv_offset, padding = self._parts
        return Mask(mask_function, (*self._shape[:2], len(queries), len(keys)), q_offset + queries.start, kv_offset + keys.start, padding)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_COMPUTES.format(what=f"asks for its {name!r}"))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError(_COMPUTES.format(what=f"calls {getattr(function, '__name__', function)} with it"))

    def _computes(self, *args: Any) -> Any:
        raise TypeError(_COMPUTES.format(what="computes with it"))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __and__ = __rand__ = __or__ = __ror__ = _computes
    __xor__ = __invert__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __bool__ = _computes
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Mask {self._shape} of {getattr(self._parts[0], '__name__', self._parts[0])}>"

    __str__ = __repr__


_COMPUTES = ('attn_implementation="heed" gives layers a mask that is a function, and this model {what}: use "sdpa" or "eager" '
             "for it")
# Models that combine masks with something of their own, and leave out those that are no tensors.
_WITHOUT_MASK = ("doge",)


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
                   allow_is_bidirectional_skip: bool = False, local_size: int | None = None, config: Any = None,
                   **kwargs: Any) -> Mask:
    """The mask of a model: what transformers' AttentionMaskInterface asks for.

    Queries are at positions q_offset and on, keys at kv_offset and on. mask_function(b, h, q, kv) of positions says
    which attend; `attention_mask` (batch_size, positions) is False for padding. allow_is_bidirectional_skip without a
    local_size says that mask_function is true everywhere. Never None, which layers take for causal if they do not say
    otherwise. The other arguments of the interface are about masks that are materialised.
    """
    if (model := getattr(config, "model_type", None)) in _WITHOUT_MASK:
        raise ValueError(_COMPUTES.format(what=f"({model}) makes a mask of its own, which leaves that out"))
    padding = attention_mask
    missing = 0 if padding is None else kv_length + kv_offset - padding.shape[-1]
    if torch.compiler.is_compiling() or torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        # A graph has no values to look at. A static cache counts in a tensor, in place: layers would see different values.
        q_offset = q_offset.clone() if isinstance(q_offset, torch.Tensor) else q_offset
    else:
        q_offset = int(q_offset)
        if padding is not None and missing <= 0 and bool(padding.all()):  # one pass here saves a load at each pair
            padding = None
    if padding is not None and missing > 0:
        padding = torch.nn.functional.pad(padding, (0, missing))  # a static cache is longer than what was seen
    shape = (batch_size, 1, q_length, kv_length)
    if padding is None and allow_is_bidirectional_skip and local_size is None:
        return Mask(None, shape)
    return Mask(mask_function, shape, q_offset, kv_offset, padding)


def attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
              attention_mask: Mask | BlockMask | torch.Tensor | None, scaling: float | None = None, dropout: float = 0.0,
              softcap: float | None = None, s_aux: torch.Tensor | None = None, position_bias: torch.Tensor | None = None,
              is_causal: bool | None = None, sinks: torch.Tensor | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """A layer's attention: what transformers' AttentionInterface asks for.

    query (B, Hq, L, E), key (B, Hkv, S, E), value (B, Hkv, S, Ev), where Hkv divides Hq. `attention_mask`: of
    `attention_mask` above, or 4-D and broadcastable to (B, Hq, L, S): bool (True attends) or to be added to the scores.
    position_bias, broadcastable likewise, is added too; softcap c makes a score c * tanh(score / c) first; s_aux (Hq,)
    are sinks, scores of a further key without a value, and `sinks` (B, Hq, L, 1) those of each query. Without a mask,
    `is_causal`, by default the module's, decides.

    Returns (output (B, L, Hq, Ev), None). Raises ValueError for dropout, head masks, attention weights as output, paged
    caches, keys that are chosen by index, and a `Mask` of other lengths, TypeError for masks of integers,
    NotImplementedError where gradients are required.
    """
    _refuse(dropout, kwargs)
    length, kv_length = query.shape[2], key.shape[2]
    shape = (query.shape[0], query.shape[1], length, kv_length)
    block_mask = mask_mod = bias = None
    if isinstance(attention_mask, Mask):
        made_for = attention_mask.shape
        # Keys may be fewer, as a tensor would be cut.
        if made_for[0] != shape[0] or made_for[2] != length or made_for[3] < kv_length:
            raise ValueError(f"attention_mask: made for (batch, 1, queries, keys) = {made_for}, found queries of {tuple(query.shape)} and "
                             f"keys of {tuple(key.shape)} in {type(module).__name__}: "
                             + _COMPUTES.format(what="calls this layer with other lengths"))
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

    sink = sinks.float().squeeze(-1) if sinks is not None else None if s_aux is None else s_aux.float().view(1, -1, 1)
    if sink is None:
        output = heed.flex_attention(query, key, value, score_mod, block_mask, scaling, enable_gqa=True, mask_mod=mask_mod)
    else:
        output, aux = heed.flex_attention(query, key, value, score_mod, block_mask, scaling, enable_gqa=True,
                                          mask_mod=mask_mod, return_aux=heed.AuxRequest(lse=True))
        # The sink adds exp(sink) to the sum of exponentials exp(lse), and nothing to the output.
        output = output * torch.sigmoid(aux.lse - sink).unsqueeze(-1).to(output.dtype)
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
    for name in ("indices", "block_indices"):
        if kwargs.get(name) is not None:
            raise ValueError(f'attn_implementation="heed" attends to no keys by {name}: use "eager"')
    if kwargs.get("cache") is not None:
        raise ValueError('attn_implementation="heed" reads no paged cache: use generate() instead of generate_batch(), or '
                         '"sdpa"')
