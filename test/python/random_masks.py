# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random mask_mods for tests of what classifies blocks, the arrays that they capture, and blocks by brute force."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from heed.block_runs import FULL, PARTIAL, SKIPPED
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

try:
    import torch
except ImportError:
    torch = None


def draws(count: int, **others: Any) -> settings:
    """For a test of `count` random cases, the same ones in each run; with HEED_RANDOM_FACTOR=N of N times as many new ones."""
    factor = int(os.environ.get("HEED_RANDOM_FACTOR", "0"))
    return settings(max_examples=count * max(1, factor), derandomize=factor == 0, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck), **others)


# Brute force: from bool (B, H, Sq, Skv).


def kinds_of(dense: np.ndarray, q_block: int, kv_block: int) -> np.ndarray:
    """int8 (B, H, rows, columns): full where all pairs of a whole block attend, partial where others do."""
    counts = dense.astype(np.int64)
    for axis, block in ((2, q_block), (3, kv_block)):
        counts = np.add.reduceat(counts, np.arange(0, dense.shape[axis], block), axis=axis)
    return np.where(counts == q_block * kv_block, FULL, np.where(counts > 0, PARTIAL, SKIPPED)).astype(np.int8)


def lists_of(kinds: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four kv lists: indices of the blocks of a kind, then the others, as FlexAttention has them."""
    lists: list[np.ndarray] = []
    for kind in (PARTIAL, FULL):
        lists += [(kinds == kind).sum(-1, dtype=np.int32), np.argsort(kinds != kind, axis=-1, kind="stable").astype(np.int32)]
    return tuple(lists)


# Random masks.


class Geometry(NamedTuple):
    q_len: int
    kv_len: int
    q_block: int
    kv_block: int


LENGTH = st.one_of(st.integers(1, 300), st.sampled_from((1, 2, 63, 64, 65, 127, 128, 129, 256)))
BLOCK = st.one_of(st.integers(1, 64), st.sampled_from((1, 8, 16, 32, 64)))
GEOMETRY = st.builds(Geometry, LENGTH, LENGTH, BLOCK, BLOCK)
SMALL = st.one_of(st.integers(-9, 9), st.integers(-300, 300)).map(lambda number: f"({number})")
CONSTANT = st.one_of(SMALL, SMALL, SMALL, SMALL, st.sampled_from(
    ("w", "(2 ** 20)", "(2 ** 30)", "(-2 ** 31)", "(2 ** 31 - 1)")))
DIVISOR = st.one_of(st.integers(1, 9), st.integers(1, 100), st.sampled_from(("w", "(-3)", "(-64)", "(2 ** 31 - 1)"))).map(str)
FACTOR = st.one_of(st.integers(-4, 4).map(lambda number: f"({number})"), CONSTANT)
COORDINATE = st.sampled_from(("q", "q", "kv", "kv", "(q - kv)", "(kv - q)", "(q + kv)"))
COMPARISON = st.sampled_from(("<", "<=", ">", ">=", "==", "!="))
TABLES = ("docs", "random", "wide", "bytes")


class Writer:
    """Writes the text of a mask_mod. What is an operand on the left is never a constant: Python would compute with that."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def one_of(self, *words: str) -> str:
        return self.draw(st.sampled_from(words))

    def affine(self) -> str:
        x = self.draw(COORDINATE)
        form = self.one_of("x", "x", "x", "x + c", "f * x", "f * x + c", "c - x", "x // d", "x % d", "b", "h")
        if form in "bh":
            return form
        replacements = {"x": x, "c": self.draw(CONSTANT), "f": self.draw(FACTOR), "d": self.draw(DIVISOR)}
        return "(" + "".join(replacements.get(letter, letter) for letter in form) + ")"

    def index(self) -> str:
        """Of a table: affine, or what another one holds."""
        form = self.one_of("q", "kv", "affine", "affine", "chained")
        if form == "chained":
            return f"{self.one_of('docs', 'random', 'bytes')}[{self.affine()}]"
        return self.affine() if form == "affine" else form

    def integer(self, depth: int) -> str:
        form = self.one_of("affine", "load") if depth == 0 else self.one_of(
            "affine", "affine", "load", "load", "+", "-", "*", "//", "%", "abs", "neg", "minimum", "maximum", "clip", "where",
            "bits", "flag")
        if form == "affine":
            return self.affine()
        if form == "load":
            return f"{self.one_of(*TABLES)}[{self.index()}]"
        left = self.integer(depth - 1)
        if form in ("+", "-", "minimum", "maximum"):
            right = self.draw(CONSTANT) if self.draw(st.booleans()) else self.integer(depth - 1)
            return f"({left} {form} {right})" if form in "+-" else f"np.{form}({left}, {right})"
        if form in ("*", "//", "%"):
            rare = self.draw(st.integers(0, 4)) == 0
            right = self.integer(depth - 1) if rare else self.draw(FACTOR if form == "*" else DIVISOR)
            return f"({left} {form} {right})"
        if form == "abs":
            return f"abs({left})"
        if form == "neg":
            return f"(-{left})"
        if form == "clip":
            low = self.draw(st.integers(-50, 150))
            return f"np.clip({left}, {low}, {low + self.draw(st.integers(0, 150))})"
        if form == "bits":
            return f"({left} {self.one_of('& 7', '& 12', '& -8', '| 4', '^ 5', '>> 1', '>> 3', '<< 2', '<< 20')})"
        if form == "flag":
            return f"({self.boolean(depth - 1)} * {self.draw(FACTOR)} + {left})"
        return f"{self.where()}({self.boolean(depth - 1)}, {left}, {self.integer(depth - 1)})"

    def where(self) -> str:
        return self.one_of("np.where", "torch.where") if torch else "np.where"

    def times(self) -> str:
        """Of numbers that both float32 and float64 have."""
        q, kv = (f"times[{self.one_of(name, f'{name} + 3', f'{name} // 4', self.affine())}]" for name in ("q", "kv"))
        compare, limit = self.draw(COMPARISON), self.draw(st.integers(-20, 200)) / 4
        return self.one_of(f"({q} {compare} {kv})", f"(abs({q} - {kv}) {compare} {limit})", f"({q} * 0.5 + {limit} {compare} {kv})",
                           f"(np.minimum({q}, {limit}) {compare} {kv})", f"(q / 2 {compare} kv)", f"({q} {compare} kv)",
                           f"(np.floor({q} / 8) {compare} np.floor({kv} / 8))", f"(-{kv} {compare} {limit})")

    def boolean(self, depth: int) -> str:
        form = self.one_of("compare", "compare", "flags") if depth == 0 else self.one_of(
            "compare", "compare", "compare", "&", "&", "|", "~", "^", "==", "!=", "where", "flags", "same", "times")
        if form == "times":
            return self.times()
        if form == "flags":
            return f"flags[{self.index()}]"
        if form == "same":  # documents
            table, index = self.one_of(*TABLES), self.one_of("{}", "{} + 3", "{} // 4", "{} - 1")
            return f"({table}[{index.format('q')}] {self.draw(COMPARISON)} {table}[{index.format('kv')}])"
        if form == "compare":
            left = self.integer(max(depth - 1, 0))
            right = self.draw(CONSTANT) if self.draw(st.booleans()) else self.integer(max(depth - 1, 0))
            return f"({left} {self.draw(COMPARISON)} {right})"
        if form == "~":
            return f"(~{self.boolean(depth - 1)})"
        if form == "where":
            return f"{self.where()}({self.boolean(depth - 1)}, {self.boolean(depth - 1)}, {self.boolean(depth - 1)})"
        return f"({self.boolean(depth - 1)} {form} {self.boolean(depth - 1)})"


@st.composite
def mask_texts(draw: st.DrawFn) -> str:
    return Writer(draw).boolean(draw(st.sampled_from((1, 2, 3))))


def random_captures(seed: int) -> dict[str, Any]:
    """1-D arrays and a number. Some arrays are shorter than the lengths, some are strided."""
    rng = np.random.default_rng(seed)

    def lay_out(array: np.ndarray) -> np.ndarray:
        step = int(rng.choice([1, 1, 1, 2, -1, -3]))
        big = np.empty(len(array) * abs(step), array.dtype)
        view = big[::step] if step > 0 else big[::step][:len(array)]
        view[...] = array
        return view

    def size() -> int:
        return int(rng.choice([1, 7, 100, 256, 300, 310]))

    def integers(low: int, high: int, dtype: Any = None) -> np.ndarray:
        return lay_out(rng.integers(low, high, size()).astype(dtype or rng.choice([np.int32, np.int64])))

    docs = np.sort(rng.integers(-1, 12, size()))
    wide = rng.integers(-3, 4, size()) * int(rng.choice([1, 40, 2 ** 28, 2 ** 39, 2 ** 61]))
    times = np.cumsum(rng.integers(-1, 9, size())) / 4
    times[rng.random(times.size) < rng.choice([0, 0, 0.02])] = rng.choice([np.inf, -np.inf, np.nan, 2.0 ** 100])
    return {"times": lay_out(times.astype(rng.choice([np.float32, np.float16] if np.abs(times).max() < 60000 else [np.float32]))),
            "docs": lay_out(docs.astype(rng.choice([np.int32, np.int64]))), "random": integers(-5, 305),
            "wide": lay_out(wide.astype(np.int64)), "bytes": integers(-128, 128, np.int8),
            "flags": lay_out(rng.random(size()) < rng.choice([0.02, 0.5, 0.98])),
            "w": int(rng.choice([-7, -1, 0, 1, 3, 16, 50, 200]))}


def function_of(text: str, captures: dict[str, Any]) -> Any:
    scope = {"np": np, "torch": torch, **captures}
    exec(f"def mask_mod(b, h, q, kv):\n    return {text}\n", scope)
    return scope["mask_mod"]
