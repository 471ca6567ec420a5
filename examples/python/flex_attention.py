# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""FlexAttention code on Heed: the mods below are ordinary Python, and nothing in them knows of Heed.

    python examples/python/flex_attention.py      (make demo runs it)

Needs NumPy; with torch installed the same functions run on tensors, beside torch's own flex_attention.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

if importlib.util.find_spec("heed") is None:  # from a checkout, without an installation
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python"))

import heed  # noqa: E402

BATCH, HEADS, KV_HEADS, LENGTH, HEAD_DIM = 1, 8, 2, 2048, 64


def alibi(slopes: Any) -> Callable[..., Any]:
    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * (kv_idx - q_idx)

    return score_mod


def soft_cap(cap: float) -> Callable[..., Any]:
    def score_mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return cap * np.tanh(score / cap)

    return score_mod


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def sliding_window(window: int) -> Callable[..., Any]:
    return lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < window)


def documents(ids: Any) -> Callable[..., Any]:
    return lambda b, h, q_idx, kv_idx: (ids[q_idx] == ids[kv_idx]) & (q_idx >= kv_idx)


def dense(query: np.ndarray, key: np.ndarray, value: np.ndarray, score_mod: Any, mask_mod: Any, rows: np.ndarray) -> np.ndarray:
    """The same by definition, for some rows, in float64: mods are called on whole arrays."""
    q, k, v = (x.astype(np.float64) for x in (query[:, :, rows], key, value))
    k, v = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (k, v))
    h, q_idx, kv_idx = np.ix_(np.arange(HEADS), rows, np.arange(LENGTH))
    scores = q @ k.swapaxes(2, 3) / math.sqrt(HEAD_DIM)
    if score_mod is not None:
        scores = score_mod(scores, 0, h, q_idx, kv_idx)
    scores = np.where(mask_mod(0, h, q_idx, kv_idx), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    result: np.ndarray = weights / weights.sum(axis=3, keepdims=True) @ v
    return result


def seconds(function: Callable[[], object], repeat: int = 7) -> float:
    def once() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(repeat))


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # type: ignore[union-attr]
    console = Console(width=None if sys.stdout.isatty() else 130)
    rng = np.random.default_rng(0)
    query = rng.standard_normal((BATCH, HEADS, LENGTH, HEAD_DIM), np.float32)
    key, value = (rng.standard_normal((BATCH, KV_HEADS, LENGTH, HEAD_DIM), np.float32) for _ in range(2))
    slopes = np.exp2(-8 * (np.arange(HEADS) + 1) / HEADS).astype(np.float32)
    ids = np.repeat(np.arange(16), LENGTH // 16)
    cases = {
        "causal": (None, causal), "ALiBi, causal": (alibi(slopes), causal),
        "soft cap 30, window 256": (soft_cap(30.0), sliding_window(256)),
        "soft cap 50, window 512": (soft_cap(50.0), sliding_window(512)),  # other numbers, the same kernel
        "16 documents": (None, documents(ids)),
        "either of two masks": (None, heed.or_masks(sliding_window(64), lambda b, h, q_idx, kv_idx: kv_idx < 32))}

    console.print("What Python traced is a program in the Heed language:")
    console.print(Syntax(heed.trace(alibi(slopes)).source.strip(), "rust", background_color="default"))
    torch = __import__("torch") if importlib.util.find_spec("torch") else None
    table = Table(title=f"heed.flex_attention on {'torch tensors' if torch else 'NumPy arrays'}: "
                        f"{HEADS} query heads, {KV_HEADS} key heads, {LENGTH} x {LENGTH}, head dim {HEAD_DIM}, f32",
                  caption="Errors are relative, over 64 sampled queries, against the same Python functions in float64.")
    for title in ("mods", "first call", "then", "error", ""):
        table.add_column(title, justify="left" if title in ("mods", "") else "right")
    rows = np.sort(rng.choice(LENGTH, 64, replace=False))
    inputs = [torch.from_numpy(x) for x in (query, key, value)] if torch else [query, key, value]
    passed = True
    for name, (score_mod, mask_mod) in cases.items():
        def call(score_mod: Any = score_mod, mask_mod: Any = mask_mod) -> Any:
            return heed.flex_attention(*inputs, score_mod=score_mod, mask_mod=mask_mod, enable_gqa=True)

        first = seconds(call, repeat=1)
        output = np.asarray(call())[:, :, rows]
        expected = dense(query, key, value, score_mod, mask_mod, rows)
        error = float(np.linalg.norm(output - expected) / np.linalg.norm(expected))
        ok = error < 5e-6
        passed &= ok
        table.add_row(name, f"{first * 1e3:.1f} ms", f"{seconds(call) * 1e3:.1f} ms", f"{error:.1e}",
                      "[green]ok[/]" if ok else "[bold red]WRONG[/]")
    console.print(table)

    # The same variant ahead of time: a file that C, C++ or another Python can load without a compiler.
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "alibi.so")
        heed.compile(heed.trace(alibi(slopes)), dtype="f32", head_dim=HEAD_DIM).save(path)
        output = heed.load(path)(query, key, value, slopes=slopes)  # type: ignore[operator]
        same = bool((output == heed.flex_attention(query, key, value, score_mod=alibi(slopes), enable_gqa=True)).all())
    console.print(f"Saved as a shared library and loaded again, ALiBi gives {'the same bits' if same else 'OTHER NUMBERS'}.")
    return 0 if passed and same else 1


if __name__ == "__main__":
    sys.exit(main())
