# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels of the portable GPU path, emulated: results against numpy, for strides and alignments of all kinds."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import ROOT, run_heedc
from ptx_emulator import CONVERT, Kernel, Memory

DENSE, CAUSAL, DIVISION, DOCUMENTS = "dense", "causal", "division", "documents"
# By numbers that are the same for all elements, of either sign and 0.
DIVISION_SOURCE = """
variant division(a: index, c: index) {
  score_mod(score, b, h, q, kv) {
    return score + 0.03125 * f32((q - kv) % a) - 0.0625 * f32((q - kv) // c)
  }
}
"""
# A multiple of a number that rows have, and of one that columns have: the first joins the softmax's reference.
RAMP = "ramp"
RAMP_SOURCE = """
variant ramp {
  score_mod(score, b, h, q, kv) { return score + 0.0625 * f32(kv - q) }
  mask_mod(b, h, q, kv) { return q + 40 >= kv }
}
"""
# Scores far from 0: by a number that elements, rows or columns have. From 2^24 (base 2) on the softmax subtracts the
# maximum itself.
LARGE = "large"
LARGE_SOURCE = """
variant large(element: index, row: index, column: index, first: index, last: index) {
  score_mod(score, b, h, q, kv) {
    return (if kv >= first && kv < last { score + f32(element) * 16777216.0 } else { score })
        + f32(row) * f32(q) + f32(column) * f32(kv)
  }
  mask_mod(b, h, q, kv) { return q + 90 >= kv && q != 3 }
}
"""
# A full bias with numbers up to the largest one: divided by the scale they would not be finite.
BIASED = "biased"
BIASED_SOURCE = """
variant biased(table: f32[Sq, Skv]) {
  score_mod(score, b, h, q, kv) { return score + table[q, kv] }
}
"""
# Blocks come from lists, which read what is known of each block of keys, where enough tiles share that.
DOCUMENTS_SOURCE = """
variant documents(ids: i32[B, ?], wide: i64[?]) {
  mask_mod(b, h, q, kv) {
    return (q >= kv) & (ids[b, q] == ids[b, kv]) & (wide[kv] >= wide[q // 3])
  }
}
"""


@dataclass
class Case:
    dtype: str
    dims: tuple[int, int]
    lengths: tuple[int, int]
    variant: str = DENSE
    tune: str = ""
    target: str = "sm_80"
    layout: str = "aligned"
    scale: float | None = None
    tolerance: float = 0.0
    batch: int = 1
    heads: tuple[int, int] = (1, 1)
    scalars: tuple[int, ...] = ()
    summaries: bool = True

    def __str__(self) -> str:
        return f"{self.variant}-{self.dtype}-{self.dims}-{self.lengths}-{self.tune}-{self.layout}-{self.target}-{self.scalars}-{self.summaries}"


def strided(memory: Memory, values: np.ndarray, layout: str, size: int) -> tuple[int, list[int], np.ndarray]:
    """Places (B, H, S, D) values; returns the address of element 0, strides in elements, and where each lies."""
    b, h, s, d = values.shape
    row = {"aligned": (d + 7) // 8 * 8, "odd": d + 1 - d % 2, "dense": d, "negative": (d + 7) // 8 * 8,
           "broadcast": (d + 7) // 8 * 8}[layout]
    row = max(row, 1)
    strides = [row * h * s, row * s, row]
    if layout == "aligned":  # sequence before heads
        strides = [row * h * s, row, row * h]
    first = 0
    if layout == "negative":
        first, strides[2] = row * (s - 1), -row
    if layout == "broadcast":
        strides[0] = strides[1] = 0
    where = (first + np.arange(b)[:, None, None, None] * strides[0] + np.arange(h)[:, None, None] * strides[1]
             + np.arange(s)[:, None] * strides[2] + np.arange(d)) if s else np.zeros((b, h, s, d), int)
    start = memory.place(np.zeros(row * b * h * s * size + 64, np.uint8), misalign=size if layout == "odd" else 0)
    at = start - memory.base + where.astype(np.int64)[..., None] * size + np.arange(size)
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, size) if s else np.zeros_like(at, np.uint8)
    memory.bytes[at] = raw
    memory.allowed[at] = True
    return start + first * size, strides, at


def run(directory: pathlib.Path, case: Case, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    source = ROOT / "examples" / f"{case.variant}.heed"
    if case.variant == DIVISION:
        source = directory / "division.heed"
        source.write_text(DIVISION_SOURCE)
    for name, text in ((DOCUMENTS, DOCUMENTS_SOURCE), (RAMP, RAMP_SOURCE), (LARGE, LARGE_SOURCE),
                       (BIASED, BIASED_SOURCE)):
        if case.variant == name:
            source = directory / f"{name}.heed"
            source.write_text(text)
    common = [source, f"--target={case.target}", f"--dtype={case.dtype}", f"--head-dim={case.dims[0]}",
              f"--value-head-dim={case.dims[1]}"]
    tune = ",".join(filter(None, ("no_wgmma" if case.target == "sm_90a" else "", case.tune)))
    if tune:
        common.append(f"--tune={tune}")
    made = run_heedc(*common, "--emit=ptx", "-o", directory / "k.ptx")
    assert made.returncode == 0, made.stderr
    schedule = run_heedc(*common, "--emit=tile", "-o", "-").stdout
    number = {k: int(v) for k, v in re.findall(r"(\w+) = (\d+)", re.search(r"#tile.gpu_schedule<.*?>", schedule)[0])}
    ptx = (directory / "k.ptx").read_text()
    entries = re.findall(r"\.entry (\w+)\(", ptx)
    kernel = Kernel(ptx, min(entries, key=len))

    size = 4 if case.dtype == "f32" else 2
    b, (hq, hkv), (sq, skv), (d, dv) = case.batch, case.heads, case.lengths, case.dims
    encode = CONVERT[case.dtype][0] if size == 2 else None
    decode = CONVERT[case.dtype][1] if size == 2 else None

    def make(h: int, s: int, e: int) -> np.ndarray:
        x = rng.standard_normal((b, h, s, e)).astype(np.float32)
        if case.layout == "broadcast":
            x[:] = x[:1, :1]
        return x if size == 4 else encode(x).astype(np.uint16)

    tensors = [make(hq, sq, d), make(hkv, skv, d), make(hkv, skv, dv)]
    memory = Memory()
    placed = [strided(memory, t, case.layout, size) for t in tensors]
    blank = np.zeros((b, hq, sq, dv), np.uint16 if size == 2 else np.float32)
    out = strided(memory, blank, "aligned" if case.layout == "broadcast" else case.layout, size)
    lse = strided(memory, np.zeros((b, hq, sq, 1), np.float32), "dense", 4)
    most = strided(memory, np.zeros((b, hq, sq, 1), np.float32), "dense", 4)
    scale = case.scale if case.scale is not None else d ** -0.5
    args = np.zeros(80, np.int64)
    for i, (address, strides, _) in enumerate([*placed, out, lse, most]):
        args[i] = address
        args[12 + 3 * i:15 + 3 * i] = strides
    args[7:12] = b, hq, hkv, sq, skv
    args[30] = int(np.float32(scale).view(np.uint32))
    args[33] = max(1, hq)
    args[34:34 + len(case.scalars)] = case.scalars

    def numbers(t: np.ndarray) -> np.ndarray:
        return (t if size == 4 else decode(t.astype(np.uint64)).reshape(t.shape)).astype(np.float64)

    q, k, v = (numbers(t) for t in tensors)
    group = hq // hkv
    scores = np.einsum("bhqd,bhkd->bhqk", q, np.repeat(k, group, 1)) * scale
    if case.variant == RAMP:
        distance = np.arange(skv) - np.arange(sq)[:, None]
        scores = np.where(distance <= 40, scores + 0.0625 * distance, -np.inf)
    if case.variant == LARGE:
        element, row, column, first, last = case.scalars
        at, kv = np.arange(sq)[:, None], np.arange(skv)
        moved = np.where((kv >= first) & (kv < last), scores.astype(np.float32) + np.float32(element * 2**24), scores)
        moved = moved.astype(np.float32) + np.float32(row) * at.astype(np.float32)
        moved = moved.astype(np.float32) + np.float32(column) * kv.astype(np.float32)
        scores = np.where((at + 90 >= kv) & (at != 3), moved.astype(np.float32).astype(np.float64), -np.inf)
    if case.variant == BIASED:
        table = rng.choice(np.float32([0, 0, 1, -2, -1e38, np.finfo(np.float32).min]), (sq, skv))
        table[::3] = -1e38
        table[1::9] = 1e38
        args[34] = memory.place(table)
        memory.allowed[args[34] - memory.base:][:table.nbytes] = True
        args[35:39] = sq, skv, skv, 1
        scores = (scores.astype(np.float32) + table).astype(np.float64)
    if case.variant == CAUSAL:
        scores = np.where(np.arange(sq)[:, None] >= np.arange(skv), scores, -np.inf)
    if case.variant == DOCUMENTS:
        ids = np.sort(rng.integers(0, 4, (b, skv)), -1).astype(np.int32)
        wide = rng.integers(-3, 20, skv).cumsum() * 2 ** 26
        expected_mask = np.arange(sq)[:, None] >= np.arange(skv)
        read = lambda x, i: np.where(i < skv, x[..., np.minimum(i, skv - 1)], 0)  # noqa: E731
        rows_ = np.arange(sq)
        expected_mask = expected_mask & (read(ids, rows_)[..., :, None] == ids[:, None]) & (wide >= read(wide, rows_ // 3)[:, None])
        scores = np.where(expected_mask[:, None], scores, -np.inf)
        for word, table in ((34, ids), (39, wide)):
            args[word] = memory.place(table)
            memory.allowed[args[word] - memory.base:][:table.nbytes] = True
            args[word + 1:word + 1 + 2 * table.ndim] = *table.shape, *(s // table.itemsize for s in table.strides)
    if case.variant == DIVISION:
        distance, (a, c) = np.arange(sq)[:, None] - np.arange(skv), case.scalars
        scores = scores + (0.03125 * (distance % a) if a else 0) - (0.0625 * (distance // c) if c else 0)
    top = scores.max(-1, initial=-np.inf, keepdims=True)
    with np.errstate(all="ignore"):
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = weights.sum(-1, keepdims=True)
        expected = np.where(total > 0, weights @ np.repeat(v, group, 1) / total, 0)
        expected_lse = np.where(total > 0, np.log(total) + top, -np.inf)

    rows = 64 * number["groups"]
    threads = 128 * number["groups"] // number["warp_instances"]
    assert kernel.threads == threads
    grid = -(-sq // rows) * b * hq * number["value_slices"]
    shared = 232448
    if f"{kernel.name}_classify" in entries:
        blocks, tiles = -(-skv // number["block_kv"]), -(-sq // rows)
        lists = b * tiles * (1 + blocks)
        for word, content in ((32, np.full(4 * (lists + b * tiles), 0xAA, np.uint8)), (6, np.full(b * (blocks - (-blocks // 16)) * 4 * 8, 0xAA, np.uint8)),
                              (31, np.zeros(32, np.uint8))):
            args[word] = memory.place(content)
            memory.allowed[args[word] - memory.base:][:content.nbytes] = True
        launches = [("_classify", b * tiles)]
        if case.summaries and f"{kernel.name}_summarise" in entries:
            launches.insert(0, ("_summarise", b * -(-blocks // 16)))
        else:
            args[6] = 0
        for suffix, count in launches:
            before = Kernel(ptx, kernel.name + suffix)
            for block in range(count):
                before.run(block, count, args, memory, shared, rng, eager=True)
        words = memory.bytes[args[32] - memory.base:][:4 * (lists + b * tiles)].view(np.int32)
        lengths, order = words[:lists].reshape(b, tiles, -1)[:, :, 0], words[lists:].reshape(b, tiles)
        assert 0 < lengths.sum() < b * tiles * blocks, "some blocks are skipped"
        for of_batch, sorted_tiles in zip(lengths, order) if case.variant == DOCUMENTS else ():
            assert list(sorted_tiles) == sorted(range(tiles), key=lambda tile: (-of_batch[tile], -tile))
        assert not memory.bytes[args[31] - memory.base:][:32].any(), "the counter is as it was"
    for block in range(grid):
        kernel.run(block, grid, args, memory, shared, rng, eager=bool(rng.integers(2)))
    raw = memory.bytes[out[2]]
    found = raw.view(np.float32)[..., 0] if size == 4 else decode(raw.view(np.uint16)[..., 0].astype(np.uint64).reshape(
        -1)).reshape(blank.shape)
    tolerance = case.tolerance or {"bf16": 2e-2, "f16": 3e-3, "f32": 2e-6}[case.dtype]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    for where, wanted in ((lse, expected_lse), (most, top)):
        got = memory.bytes[where[2]].view(np.float32)[..., 0]
        np.testing.assert_allclose(got, wanted, rtol=3e-7 if case.variant in (LARGE, BIASED) else 0, atol=1e-4 if size == 2 else 2e-6)


# Everywhere; in some blocks, before and behind others, below and above them; growing by rows and by columns; next to 2^24.
LARGE_SCALARS = [(-10**9, 0, 0, 0, 130), (-10**9, 0, 0, 0, 50), (-10**9, 0, 0, 40, 130), (10**9, 0, 0, 40, 50), (-1, 0, 0, 0, 70),
                 (3, 0, 0, 0, 130), (0, -(10**9), 0, 0, 0), (0, 10**9, 3, 0, 0), (0, 0, 10**9, 0, 0), (0, 0, -(10**9), 0, 0), (0, 160_000, 1, 0, 0)]
FAST = [
    *(Case("f16", (16, 16), (70, 40), DIVISION, tune="block_kv=16", scalars=s) for s in ((7, -5), (-3, 4), (0, 64), (1, 0))),
    Case("bf16", (16, 16), (70, 40), tune="block_kv=16"),
    Case("f16", (24, 20), (130, 50), CAUSAL, tune="block_kv=32,groups=2"),
    Case("f32", (20, 12), (70, 40), CAUSAL, tune="block_kv=16"),
    Case("f16", (16, 16), (130, 90), RAMP, tune="block_kv=32,groups=2"),
    *(Case("f32", (16, 16), (70, 130), LARGE, tune="block_kv=16", scalars=s) for s in LARGE_SCALARS),
    Case("bf16", (16, 16), (130, 130), LARGE, tune="block_kv=16,groups=2", scalars=LARGE_SCALARS[0]),
    Case("f32", (16, 16), (70, 130), BIASED, tune="block_kv=16"),
    Case("bf16", (16, 16), (130, 130), BIASED, tune="block_kv=16,groups=2"),
    *(Case("f16", (16, 16), (200, 190), DOCUMENTS, tune="block_kv=16", batch=2, summaries=s) for s in (True, False)),
    Case("f16", (16, 16), (200, 190), DOCUMENTS, tune="block_kv=16,walk=bounds", batch=2),
    Case("f16", (16, 16), (1700, 1700), DOCUMENTS, tune="block_kv=16"),  # groups of blocks that nobody needs
    Case("f16", (16, 16), (70, 190), RAMP, tune="block_kv=16,walk=lists"),
]
SLOW = [
    Case("bf16", (64, 64), (200, 230), CAUSAL),
    Case("bf16", (64, 64), (200, 230), CAUSAL, target="sm_90a"),
    Case("bf16", (128, 128), (130, 150), CAUSAL, batch=2, heads=(2, 1)),
    Case("bf16", (128, 128), (190, 200), CAUSAL, target="sm_90a"),
    Case("bf16", (16, 16), (260, 70), CAUSAL, tune="groups=3,block_kv=16,stages=3"),
    Case("bf16", (16, 16), (260, 70), CAUSAL, tune="groups=4,block_kv=32,stages=1"),
    Case("bf16", (24, 40), (70, 50), layout="odd"),
    Case("f16", (1, 1), (70, 50), CAUSAL, layout="dense"),
    Case("f16", (7, 9), (70, 50), CAUSAL, layout="dense", scale=-0.3),
    Case("bf16", (33, 17), (70, 50), layout="negative", scale=-0.3, tune="stages=4,block_kv=16"),
    Case("bf16", (20, 20), (70, 50), layout="broadcast", batch=2, heads=(2, 2)),
    Case("bf16", (16, 512), (70, 50)),
    Case("bf16", (16, 272), (70, 50), layout="odd"),
    Case("bf16", (576, 512), (20, 50), target="sm_86"),
    Case("f32", (64, 64), (70, 100), CAUSAL),
    Case("f32", (33, 17), (70, 50), layout="odd", scale=-0.3),
    Case("f32", (9, 24), (70, 50), layout="negative", tune="groups=2,stages=3,block_kv=16"),
    Case("f32", (576, 40), (20, 50), target="sm_86", scale=-0.02),
    Case("f32", (64, 64), (70, 50), tune="tf32", tolerance=3e-3, scale=0.0),
    Case("bf16", (16, 16), (70, 0), CAUSAL),
    Case("bf16", (16, 16), (70, 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", FAST, ids=str)
def test_fast(tmp_path: pathlib.Path, case: Case) -> None:
    run(tmp_path, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_slow(tmp_path: pathlib.Path, case: Case) -> None:
    run(tmp_path, case)
