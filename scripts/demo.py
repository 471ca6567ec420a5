#!/usr/bin/env python3
# Compiles every variant of examples/ with heedc, runs the kernels on this CPU, compares them with dense attention in
# NumPy (float64), and draws which pairs attend into demo-out/masks.png.

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "test" / "python")]

from reference import EXAMPLES, At, Shape, Variant, attention  # noqa: E402

from heed import aot  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

OUT = ROOT / "demo-out"
SHAPE = Shape(B=1, Hq=4, Hkv=2, Sq=1024, Skv=1024)
HEAD_DIM = 64
TOLERANCE = 1e-4


def compile_variant(name: str) -> tuple[aot.Kernel, float]:
    library = OUT / f"{name}.so"
    start = time.perf_counter()
    subprocess.run([ROOT / "build/bin/heedc", ROOT / f"examples/{name}.heed", f"--head-dim={HEAD_DIM}",
                    "--emit=shared", "-o", library], check=True)
    return aot.load(library, f"{name}_f32_d{HEAD_DIM}"), time.perf_counter() - start


def best_time(call: Callable[[], object], repetitions: int = 5) -> float:
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def attends(variant: Variant, params: dict[str, object]) -> np.ndarray:
    """The mask of the first batch and head."""
    b, h, q, kv = np.ix_([0], [0], range(SHAPE.Sq), range(SHAPE.Skv))
    at = At(b, h, q, kv, SHAPE)
    keep = variant.mask(at, params) if variant.mask else True
    every: np.ndarray = np.broadcast_to(keep, (1, 1, SHAPE.Sq, SHAPE.Skv))
    return every[0, 0]  # type: ignore[no-any-return]


def main() -> int:
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((SHAPE.B, heads, length, HEAD_DIM), np.float32)
                         for heads, length in ((SHAPE.Hq, SHAPE.Sq), (SHAPE.Hkv, SHAPE.Skv), (SHAPE.Hkv, SHAPE.Skv)))
    table = Table(title=f"f32, {SHAPE.Hq} query heads, {SHAPE.Hkv} key-value heads, {SHAPE.Sq} tokens, head dim {HEAD_DIM}")
    for column in ("variant", "compiled in", "pairs attending", "kernel", "NumPy", "largest error"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    figure, axes = plt.subplots(3, 5, figsize=(11, 7), layout="constrained")

    wrong = 0
    for variant, axis in zip(EXAMPLES.values(), axes.flat):
        params = variant.params(SHAPE, rng)
        kernel, compiled = compile_variant(variant.name)
        output = kernel(query, key, value, **params)
        seconds = best_time(lambda: kernel(query, key, value, **params))  # noqa: B023
        start = time.perf_counter()
        expected = attention(variant, query.astype(float), key.astype(float), value.astype(float), HEAD_DIM**-0.5,
                             params).output
        numpy_seconds = time.perf_counter() - start
        error = float(abs(output - expected).max())
        wrong += not error < TOLERANCE
        keep = attends(variant, params)
        table.add_row(variant.name, f"{compiled * 1e3:.0f} ms", f"{keep.mean():.1%}", f"{seconds * 1e3:.2f} ms",
                      f"{numpy_seconds * 1e3:.0f} ms", f"{error:.1e}")
        axis.imshow(keep[:256, :256], cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
        axis.set_title(variant.name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("Which keys (columns) each query (row) attends to: the first 256 of each")
    figure.savefig(OUT / "masks.png", dpi=130)

    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"Kernels ran on '{kernel.target}' with {aot.get_num_threads()} threads. "
                  f"The masks are drawn in {(OUT / 'masks.png').relative_to(ROOT)}.")
    if wrong:
        console.print(f"[red]{wrong} of {len(EXAMPLES)} variants differ from NumPy by {TOLERANCE} or more.[/red]")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
