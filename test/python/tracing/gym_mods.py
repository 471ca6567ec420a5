# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention variants as users of FlexAttention write them, in torch.

GYM maps a name to a factory; `make(rng)` gives a Case with a score_mod and/or a mask_mod and the problem
they are made for. The masks and scores are those of attention-gym by their mathematics; the code is ours.
Captured tensors are made on torch's default device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass
class Case:
    """Mods and the smallest problem that exercises them."""

    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None
    B: int = 2
    H: int = 4
    Sq: int = 96
    Skv: int = 96


GYM: dict[str, Callable[[np.random.Generator], Case]] = {}


def _register(function: Callable[[np.random.Generator], Case]) -> Callable[[np.random.Generator], Case]:
    GYM[function.__name__] = function
    return function


def _offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def _documents(offsets: Tensor) -> Tensor:
    counts = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(len(counts), dtype=torch.int32), counts)


# ---- Masks ----


def causal_mask(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


@_register
def causal(rng):
    return Case(mask_mod=causal_mask)


@_register
def causal_fast(rng):  # M2: the same mask; what differs is how its blocks are found
    return Case(mask_mod=lambda b, h, q, kv: kv <= q)


@_register
def sliding_window(rng):
    window = 20

    def sliding(b, h, q_idx, kv_idx):
        in_window = q_idx - kv_idx <= window
        return in_window & causal_mask(b, h, q_idx, kv_idx)

    return Case(mask_mod=sliding)


@_register
def dilated_sliding_window(rng):
    window, dilation = 24, 3

    def dilated(b, h, q_idx, kv_idx):
        distance = torch.abs(q_idx - kv_idx)
        return (distance <= window) & ((distance % dilation) == 0)

    return Case(mask_mod=dilated)


@_register
def global_sliding_window(rng):
    window = 9
    is_global = torch.as_tensor(rng.random(96) < 0.1)

    def longformer(b, h, q_idx, kv_idx):
        near = torch.abs(q_idx - kv_idx) <= window
        return near | is_global[q_idx] | is_global[kv_idx]

    return Case(mask_mod=longformer)


@_register
def prefix_lm(rng):
    prefix = 17

    def in_prefix(b, h, q_idx, kv_idx):
        return kv_idx < prefix

    return Case(mask_mod=lambda b, h, q, kv: in_prefix(b, h, q, kv) | causal_mask(b, h, q, kv))


@_register
def document(rng):
    offsets = _offsets([30, 6, 41, 19])
    ids = _documents(offsets)

    def make_document(inner):
        def document_mask(b, h, q_idx, kv_idx):
            same = ids[q_idx] == ids[kv_idx]
            q_local = q_idx - offsets[ids[q_idx]]
            kv_local = kv_idx - offsets[ids[kv_idx]]
            return same & inner(b, h, q_local, kv_local)

        return document_mask

    return Case(mask_mod=make_document(causal_mask))


@_register
def packed_causal_document(rng):
    offsets = _offsets([30, 6, 41, 19])
    start = offsets[:-1][_documents(offsets).long()]

    def packed(b, h, q_idx, kv_idx):
        return (start[q_idx] <= kv_idx) & (kv_idx <= q_idx)

    return Case(mask_mod=packed)


@_register
def shared_prefix(rng):
    offsets = _offsets([16, 30, 14, 36])
    ids = _documents(offsets)
    prefix_of = torch.tensor([0, 0, 2, 2], dtype=torch.int32)

    def shared(b, h, q_idx, kv_idx):
        own = ids[q_idx]
        prefix = prefix_of[own]
        in_own = (kv_idx >= offsets[own]) & (q_idx >= kv_idx)
        in_prefix = (own != prefix) & (kv_idx >= offsets[prefix]) & (kv_idx < offsets[prefix + 1])
        return in_own | in_prefix

    return Case(mask_mod=shared)


@_register
def batchified(rng):
    length = 24

    def batchify(inner, n):
        def flattened(b, h, q_idx, kv_idx):
            return (q_idx // n == kv_idx // n) & inner(q_idx // n, h, q_idx % n, kv_idx % n)

        return flattened

    return Case(mask_mod=batchify(causal_mask, length), B=1)


@_register
def block_diffusion(rng):
    seq, block = 48, 8

    def diffusion(b, h, q_idx, kv_idx):
        q_noised, kv_noised = q_idx < seq, kv_idx < seq
        q_block = torch.where(q_noised, q_idx // block, (q_idx - seq) // block)
        kv_block = torch.where(kv_noised, kv_idx // block, (kv_idx - seq) // block)
        diagonal = (q_block == kv_block) & (q_noised == kv_noised)
        offset = (q_block > kv_block) & q_noised & ~kv_noised
        clean = (q_block >= kv_block) & ~q_noised & ~kv_noised
        return diagonal | offset | clean

    return Case(mask_mod=diffusion)


@_register
def tree_causal(rng):
    past, nodes = 40, 16
    ancestors = torch.as_tensor(np.tril(rng.random((nodes, nodes)) < 0.5) | np.eye(nodes, dtype=bool))

    def tree(b, h, q_idx, kv_idx):
        in_past = kv_idx < past
        node = torch.clamp(kv_idx - past, 0, nodes - 1)
        in_tree = (kv_idx >= past) & (kv_idx < past + nodes)
        return in_past | (in_tree & ancestors[q_idx, node])

    return Case(mask_mod=tree, Sq=nodes, Skv=past + nodes + 8)


@_register
def tree_training(rng):
    past, size = 32, 8

    def training(b, h, q_idx, kv_idx):
        local = kv_idx - past
        same = q_idx // size == local // size
        return (kv_idx < past) | (same & (local % size <= q_idx % size))

    return Case(mask_mod=training, Sq=64, Skv=96)


def _neighbourhood(location, width, height, kw, kh):
    def natten(b, h, q_idx, kv_idx):
        qx, qy = location(q_idx)
        kx, ky = location(kv_idx)
        cx = qx.clamp(kw // 2, width - 1 - kw // 2)
        cy = qy.clamp(kh // 2, height - 1 - kh // 2)
        return ((cx - kx).abs() <= kw // 2) & ((cy - ky).abs() <= kh // 2)

    return natten


@_register
def natten(rng):
    width, height = 12, 8
    return Case(mask_mod=_neighbourhood(lambda i: (i // width, i % width), height, width, 3, 5))


@_register
def tiled_natten(rng):
    width, tile_h, tile_w = 12, 2, 4
    area, per_row = tile_h * tile_w, width // tile_w

    def location(index):
        tile, inner = index // area, index % area
        x = tile // per_row * tile_h + inner // tile_w
        y = tile % per_row * tile_w + inner % tile_w
        return x, y

    return Case(mask_mod=_neighbourhood(location, 8, width, 3, 5))


@_register
def morton_natten(rng):
    def every_second_bit(x):
        x = x & 0x55555555
        x = (x | (x >> 1)) & 0x33333333
        x = (x | (x >> 2)) & 0x0F0F0F0F
        x = (x | (x >> 4)) & 0x00FF00FF
        return (x | (x >> 8)) & 0x0000FFFF

    return Case(mask_mod=_neighbourhood(lambda i: (every_second_bit(i), every_second_bit(i >> 1)), 8, 8, 3, 3),
                Sq=64, Skv=64)


def _tiles_near(q_tile, kv_tile, count, window):
    centre = torch.clamp(q_tile, window // 2, count - 1 - window // 2)
    return torch.abs(centre - kv_tile) <= window // 2


@_register
def sliding_tile_2d(rng):
    canvas, tile, window, text = (8, 12), (2, 4), (3, 1), 6
    tiles = (canvas[0] // tile[0], canvas[1] // tile[1])
    size, vision = tile[0] * tile[1], canvas[0] * canvas[1]

    def sta(b, h, q_idx, kv_idx):
        q_tile, kv_tile = q_idx // size, kv_idx // size
        near = torch.ones_like(q_idx, dtype=torch.bool)
        for q_at, kv_at, count, w in ((q_tile // tiles[1], kv_tile // tiles[1], tiles[0], window[0]),
                                      (q_tile % tiles[1], kv_tile % tiles[1], tiles[1], window[1])):
            near = near & _tiles_near(q_at, kv_at, count, w)
        image = (q_idx < vision) & (kv_idx < vision)
        to_text = (q_idx < vision) & (kv_idx >= vision) & (kv_idx < vision + text)
        from_text = (q_idx >= vision) & (kv_idx < vision + text)
        return (image & near) | to_text | from_text

    return Case(mask_mod=sta, Sq=vision + text, Skv=vision + text)


@_register
def sliding_tile_3d(rng):
    canvas, tile, window = (4, 4, 8), (2, 2, 4), (1, 3, 1)
    tiles = tuple(c // t for c, t in zip(canvas, tile))
    size, vision, text = math.prod(tile), math.prod(canvas), 5

    def position(index):
        number = index // size
        return number // (tiles[1] * tiles[2]), (number // tiles[2]) % tiles[1], number % tiles[2]

    def sta(b, h, q_idx, kv_idx):
        near = [_tiles_near(q_at, kv_at, tiles[i], window[i])
                for i, (q_at, kv_at) in enumerate(zip(position(q_idx), position(kv_idx)))]
        inside = near[0] & near[1] & near[2]
        text_end = vision + text
        return torch.where(q_idx < vision, ((kv_idx < vision) & inside) | ((kv_idx >= vision) & (kv_idx < text_end)),
                           kv_idx < text_end)

    return Case(mask_mod=sta, Sq=vision + text, Skv=vision + text)


@_register
def svg_spatial(rng):
    prompt, frame, multiplier = 10, 24, 1.5
    width = round(multiplier * frame / 8) * 8

    def spatial(b, h, q_idx, kv_idx):
        first_frame = kv_idx < prompt + frame
        return (q_idx < prompt) | first_frame | (abs(q_idx - kv_idx) < width)

    return Case(mask_mod=spatial)


@_register
def svg_temporal(rng):
    prompt, frames, frame = 10, 4, 21
    width = 2 * frame // frames

    def temporal(b, h, q_idx, kv_idx):
        q_at, kv_at = (q_idx - prompt) % frame, (kv_idx - prompt) % frame
        return (q_idx < prompt) | (kv_idx < prompt) | ((q_at - kv_at).abs() < width)

    return Case(mask_mod=temporal)


@_register
def vision_cross_attention(rng):
    image_of = torch.arange(60, dtype=torch.int32) // 20
    intervals = torch.tensor([[0, 40], [40, 70], [70, 96]], dtype=torch.int32)

    def cross(b, h, q_idx, kv_idx):
        interval = intervals[image_of[kv_idx]]
        return (q_idx >= interval[0]) & (q_idx < interval[1])

    return Case(mask_mod=cross, Skv=60)


def _variable_block_sizes():
    return torch.tensor([16, 9, 16, 12, 16, 3], dtype=torch.int32)


@_register
def vsa_topk(rng):
    tile, top = 16, 3
    sizes = _variable_block_sizes()
    chosen = torch.as_tensor(np.argsort(rng.random((2, 4, 6, 6)), -1)[..., :top].copy())

    def topk(b, h, q_idx, kv_idx):
        kv_tile = kv_idx // tile
        selected = (chosen[b, h, q_idx // tile] == kv_tile).any()
        return selected & (kv_idx % tile < sizes[kv_tile])

    return Case(mask_mod=topk)


@_register
def vsa_block_map(rng):
    tile = 16
    sizes = _variable_block_sizes()
    block_map = torch.as_tensor(rng.random((2, 4, 6, 6)) < 0.5)

    def mapped(b, h, q_idx, kv_idx):
        return block_map[b, h, q_idx // tile, kv_idx // tile] & (kv_idx % tile < sizes[kv_idx // tile])

    return Case(mask_mod=mapped)


@_register
def vsa_padding(rng):
    tile = 16
    sizes = _variable_block_sizes()
    return Case(mask_mod=lambda b, h, q, kv: kv % tile < sizes[kv // tile])


# ---- Scores ----


@_register
def alibi(rng):
    heads = 4

    def alibi_bias(score, b, h, q_idx, kv_idx):
        scale = torch.exp2(-((h + 1) * 8.0 / heads))
        return score + (kv_idx - q_idx) * scale

    return Case(alibi_bias, causal_mask)


@_register
def softcap(rng):
    cap = 30.0

    def tanh_softcap(score, b, h, q_idx, kv_idx):
        return cap * torch.tanh(score / cap)

    return Case(tanh_softcap)


@torch.library.custom_op("heed_gym::approximate_tanh", mutates_args=())
def _approximate_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


@_approximate_tanh.register_fake
def _(x):
    return torch.empty_like(x)


@_approximate_tanh.register_vmap
def _(info, in_dims, x):
    return _approximate_tanh(x), in_dims[0]


class _ApproximateTanh(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.ops.heed_gym.approximate_tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient):
        (output,) = ctx.saved_tensors
        return gradient * (1 - output * output)


approximate_tanh = _ApproximateTanh.apply


@_register
def softcap_approximate(rng):
    cap = 20

    def capped(score, b, h, q_idx, kv_idx):
        return cap * approximate_tanh(score / cap)

    return Case(capped)


@_register
def sandwich(rng):
    heads, length, n = 4, 96, 8
    distance = torch.arange(-length + 1, length, dtype=torch.float32)
    frequency = 10000.0 ** (-torch.arange(n, dtype=torch.float32) / n)
    table = torch.cos(distance[:, None] * frequency).sum(-1)

    def bias(score, b, h, q_idx, kv_idx):
        return score + table[q_idx - kv_idx + (length - 1)] * heads / (8.0 * (h + 1))

    return Case(bias)


@_register
def graphormer_spatial(rng):
    bias = torch.nn.Parameter(torch.as_tensor(rng.standard_normal((4, 10)).astype(np.float32)))
    distance = torch.as_tensor(rng.integers(0, 10, (2, 96, 96)).astype(np.int32))
    return Case(lambda score, b, h, q, kv: score + bias[h, distance[b, q, kv]])


@_register
def graphormer_edge(rng):
    tables = [torch.as_tensor(rng.standard_normal((4, 6)).astype(np.float32)) for _ in range(3)]
    types = torch.as_tensor(rng.integers(0, 6, (2, 96, 96, 3)))

    def edges(score, b, h, q_idx, kv_idx):
        total = 0.0
        for n in range(len(tables)):
            total = total + tables[n][h, types[b, q_idx, kv_idx, n]]
        return score + total / len(tables)

    return Case(edges)


def _activation(function):
    def activated(score, b, h, q_idx, kv_idx, offset=4.0):
        return torch.log(function(score) + offset)

    return activated


for _name, _function in (("relu", F.relu), ("sigmoid", torch.sigmoid), ("silu", F.silu), ("gelu", F.gelu),
                         ("softplus", F.softplus), ("gelu_tanh", functools.partial(F.gelu, approximate="tanh"))):
    GYM[f"activation_{_name}"] = lambda rng, function=_function: Case(_activation(function))


@_register
def mla_rope(rng):
    group, scale = 4, 0.125
    q_pe = torch.as_tensor(rng.standard_normal((2, 4, 96, 16)).astype(np.float32))
    k_pe = torch.as_tensor(rng.standard_normal((2, 1, 96, 16)).astype(np.float32))

    def rope(score, b, h, q_idx, kv_idx):
        return score + scale * torch.dot(q_pe[b, h, q_idx], k_pe[b, h // group, kv_idx])

    return Case(rope)


@_register
def relative_position(rng):
    return Case(lambda score, b, h, q_idx, kv_idx: score + (q_idx - kv_idx))


@_register
def checkerboard(rng):
    def board(score, batch, head, token_q, token_kv):
        score = torch.where(torch.abs(token_kv - token_q) % 2 == 1, score * 0.5, score)
        return torch.where(torch.abs(token_kv - token_q) % 2 == 0, score * 2.0, score)

    return Case(board)


@_register
def causal_score(rng):
    return Case(lambda score, b, h, q, kv: torch.where(q >= kv, score, -float("inf")))


@_register
def jagged(rng):
    offsets = _offsets([40, 25, 31])
    sequence = _documents(offsets)

    def wrap(inner):
        def njt(score, b, h, q_idx, kv_idx):
            q_sequence, kv_sequence = sequence[q_idx], sequence[kv_idx]
            bias = inner(score, b, h, q_idx - offsets[q_sequence], kv_idx - offsets[kv_sequence])
            return torch.where(q_sequence == kv_sequence, bias, -float("inf"))

        return njt

    return Case(wrap(lambda score, b, h, q, kv: score + (q - kv)), B=1)


@_register
def sasa(rng):
    width, window = 12, 5

    def local(b, h, q_idx, kv_idx):
        dx = torch.abs(q_idx // width - kv_idx // width)
        dy = torch.abs(q_idx % width - kv_idx % width)
        return (dx <= window // 2) & (dy <= window // 2)

    return Case(mask_mod=local)
