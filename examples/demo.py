# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiles the variants of this directory, runs them on shapes of real models, and checks them.

    make demo        or        python examples/demo.py [NAME ...] [--output demo-out] [--threads N]

Each kernel writes into poisoned memory; sampled rows of its result are compared with Heed's float64
interpreter. Where PyTorch sees an NVIDIA GPU the same is done there, and the table has a column for it.
Pictures of the block classes go to the output directory. Ends with status 1 if a check fails.
HEED_BUILD names the build directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
os.environ.setdefault("HEED_RUNTIME", str(BUILD / "lib" / "libheed_runtime.so"))
os.environ.setdefault("HEED_LIBRARY", str(BUILD / "lib" / "libheed.so"))
os.environ.setdefault("HEED_HOT", str(BUILD / "lib" / "_hot.abi3.so"))
sys.path.insert(0, str(ROOT / "python"))

from heed import HeedError, aot, gpu, oracle  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

Params = dict[str, Any]
SAMPLES = 64
SECONDS = 1.5  # spent on timing a variant
TOLERANCE = {"f32": 2e-5, "bf16": 1.2e-2, "f16": 2e-3}
TYPES = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16}


@dataclasses.dataclass(frozen=True)
class Case:
    """A variant on a model's shape."""
    name: str
    model: str
    dtype: str
    B: int
    Hq: int
    Hkv: int
    S: int
    D: int
    scale: float | None = None
    params: Callable[["Case", np.random.Generator], Params] = lambda case, rng: {}

    @property
    def shape(self) -> str:
        heads = f"{self.Hq}" if self.Hq == self.Hkv else f"{self.Hq}/{self.Hkv}"
        return f"B{self.B} H{heads} S{self.S} D{self.D}"


def _slopes(case: Case, rng: np.random.Generator) -> Params:
    return {"slope": np.exp2(-8.0 * (np.arange(case.Hq) + 1) / case.Hq).astype(np.float32)}


def _documents(case: Case, rng: np.random.Generator) -> Params:
    starts = rng.random((case.B, case.S)) < 5 / case.S
    return {"doc": np.cumsum(starts, axis=1).astype(np.int32)}


def _spans(case: Case, rng: np.random.Generator) -> Params:
    """Three images of 256 patches in text."""
    span = np.zeros((case.B, case.S), np.int32)
    for image in range(3):
        start = case.S * (2 * image + 1) // 7
        span[:, start:start + 256] = image + 1
    return {"span": span}


def _marked(case: Case, rng: np.random.Generator) -> Params:
    marked = np.zeros((case.B, case.S), bool)
    marked[:, :4] = True
    return {"marked": marked, "window": 256}


CASES = (
    Case("dense", "ViT-L/16, 384 px", "bf16", 4, 16, 16, 577, 64),
    Case("causal", "Llama-3-8B", "bf16", 1, 32, 8, 2048, 128),
    Case("sliding_window", "Mistral-7B", "bf16", 1, 32, 8, 8192, 128, None, lambda c, r: {"window": 4096}),
    Case("gemma2_softcap", "Gemma-2-9B", "bf16", 1, 16, 8, 4096, 256, 256**-0.5, lambda c, r: {"window": 4096}),
    Case("alibi", "MPT-7B", "bf16", 1, 32, 32, 2048, 128, None, _slopes),
    Case("bert_padding", "BERT-base", "f32", 8, 12, 12, 512, 64, None,
         lambda c, r: {"lengths": r.integers(64, c.S + 1, c.B).astype(np.int32)}),
    Case("t5_relative_bias", "T5-base, decoder", "f32", 2, 12, 12, 1024, 64, 1.0,
         lambda c, r: {"table": r.standard_normal((c.Hq, 32)).astype(np.float32)}),
    Case("prefix_lm", "PaliGemma-3B", "bf16", 2, 8, 1, 2048, 256, None,
         lambda c, r: {"prefix": np.array([256, 1024], np.int32)}),
    Case("packed_documents", "Llama-3-8B, packed", "bf16", 1, 32, 8, 4096, 128, None, _documents),
    Case("transfusion", "Transfusion-7B", "bf16", 1, 32, 32, 2048, 128, None, _spans),
    Case("global_tokens", "Longformer-base", "f32", 1, 12, 12, 4096, 64, None, _marked),
    Case("dilated_window", "Longformer, dilated", "f32", 1, 12, 12, 4096, 64, None,
         lambda c, r: {"window": 512, "dilation": 2}),
    Case("neighbourhood_2d", "NATTEN, 64 x 64", "f16", 1, 16, 16, 4096, 64, None,
         lambda c, r: {"width": 64, "height": 64, "kw": 13, "kh": 13}),
    Case("sandwich", "Sandwich, 1.3B", "f32", 1, 16, 16, 1024, 128),
    Case("checkerboard", "FlexAttention notebook", "f32", 1, 8, 8, 2048, 64),
)


@dataclasses.dataclass
class Outcome:
    case: Case
    target: str
    compile_ms: float
    classes: np.ndarray
    block: tuple[int, int]
    pairs: float  # unmasked, over all batches and heads
    seconds: float
    max_error: float
    relative_error: float
    on_gpu: tuple[float, float] | None = None  # seconds and relative error

    @property
    def passed(self) -> bool:
        errors = [self.relative_error, *(self.on_gpu or ())[1:]]
        return all(error <= TOLERANCE[self.case.dtype] for error in errors)  # false for NaN

    @property
    def gflops(self) -> float:
        return 4 * self.case.D * self.pairs / self.seconds * 1e-9


def program_of(case: Case) -> pathlib.Path:
    return ROOT / "examples" / f"{case.name}.heed"


def compile_case(case: Case, directory: pathlib.Path, target: str = "native") -> tuple[aot.Kernel, float]:
    library = directory / f"{case.name}-{target}.so"
    start = time.perf_counter()
    subprocess.run([str(BUILD / "bin" / "heedc"), str(program_of(case)), f"--dtype={case.dtype}", f"--target={target}",
                    f"--head-dim={case.D}", "--emit=shared", f"--symbol={case.name}_demo", "-o", str(library)],
                   check=True)
    elapsed = time.perf_counter() - start
    return aot.load(library, f"{case.name}_demo"), elapsed * 1e3


def encode(x: np.ndarray, dtype: str) -> np.ndarray:
    return aot.to_bf16(x) if dtype == "bf16" else x.astype(TYPES[dtype])


def decode(x: np.ndarray, dtype: str) -> np.ndarray:
    return (aot.from_bf16(x) if dtype == "bf16" else x).astype(np.float64)


def unmasked_pairs(case: Case, params: Params) -> float:
    """Pairs that attend, over all batches and heads. No mask here depends on the head."""
    batches = range(case.B if params else 1)  # nor on the batch, without parameters
    counts = [oracle.pairs(program_of(case), extents_of(case), b=b, params=params).sum() for b in batches]
    return float(np.mean(counts)) * case.B * case.Hq


def extents_of(case: Case) -> dict[str, int]:
    return {"B": case.B, "Hq": case.Hq, "Hkv": case.Hkv, "Sq": case.S, "Skv": case.S, "D": case.D, "Dv": case.D}


def find_gpu() -> tuple[Any, str]:
    """PyTorch and what to compile for its GPU; or None and why there is none to run on."""
    try:
        import torch
    except ImportError:
        return None, "PyTorch is not installed"
    if not torch.cuda.is_available():
        return None, "PyTorch sees none"
    try:
        return torch, gpu.target(torch.cuda.current_device())
    except HeedError as error:
        return None, str(error)


def run_on_gpu(kernel: aot.Kernel, torch: Any, operands: list[np.ndarray], scale: float | None,
               params: Params) -> tuple[np.ndarray, np.ndarray, float]:
    """Output, LSE and seconds."""
    bf16 = operands[0].dtype == np.uint16
    arrays = [torch.from_numpy(x.view(np.int16) if bf16 else x).cuda() for x in operands]
    arrays = [x.view(torch.bfloat16) if bf16 else x for x in arrays]
    params = {name: torch.from_numpy(x).cuda() if isinstance(x, np.ndarray) else x for name, x in params.items()}
    out = torch.full_like(arrays[0], float("nan"))
    lse = torch.full(out.shape[:3], float("nan"), device="cuda")
    call = lambda: kernel(*arrays, scale=scale, out=out, lse=lse, **params)  # noqa: E731
    call()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    out = out.cpu()
    return (out.view(torch.int16).numpy().view(np.uint16) if bf16 else out.numpy()), lse.cpu().numpy(), float(np.median(times))


def run_case(case: Case, directory: pathlib.Path, threads: int, torch: Any, gpu_target: str) -> Outcome:
    rng = np.random.default_rng(sum(map(ord, case.name)))
    kernel, compile_ms = compile_case(case, directory)
    draw = lambda heads: encode(rng.standard_normal((case.B, heads, case.S, case.D), np.float32), case.dtype)  # noqa: E731
    query, key, value = draw(case.Hq), draw(case.Hkv), draw(case.Hkv)
    params = case.params(case, rng)
    out = np.full(query.shape, 0x7FC1 if case.dtype == "bf16" else np.nan, query.dtype)
    lse = np.full(query.shape[:3], np.nan, np.float32)

    times: list[float] = []
    while len(times) < 3 or (sum(times) < SECONDS and len(times) < 50):
        start = time.perf_counter()
        kernel(query, key, value, scale=case.scale, out=out, lse=lse, threads=threads, **params)
        times.append(time.perf_counter() - start)

    rows = [(int(rng.integers(case.B)), int(rng.integers(case.Hq)), int(q)) for q in rng.integers(0, case.S, SAMPLES - 2)]
    rows += [(0, 0, 0), (case.B - 1, case.Hq - 1, case.S - 1)]
    expected, expected_lse = oracle.rows(program_of(case), query, key, value, rows, params=params, scale=case.scale)
    at = tuple(np.array(rows).T)
    empty = np.isinf(expected_lse)

    def errors(out: np.ndarray, lse: np.ndarray) -> tuple[float, float]:
        """The largest error and the relative one; NaN where the LSE is wrong or a number was not written."""
        error = np.abs(decode(out[at], case.dtype) - expected)
        lse_error = np.where(empty, np.where(lse[at] == expected_lse, 0, np.inf),
                             np.abs(lse[at] - np.where(empty, 0, expected_lse)))
        relative = float(np.linalg.norm(error) / max(float(np.linalg.norm(expected)), 1e-30))
        if not (lse_error.max() < 1e-2 and np.isfinite(decode(out, case.dtype)).all()):
            relative = float("nan")
        return float(error.max()), relative

    max_error, relative = errors(out, lse)
    on_gpu = None
    if torch:
        gpu_kernel, _ = compile_case(case, directory, gpu_target)
        *found, seconds = run_on_gpu(gpu_kernel, torch, [query, key, value], case.scale, params)
        on_gpu = (seconds, errors(*found)[1])

    classes = oracle.classes(program_of(case), extents_of(case), block_q=kernel.block_shape[0],
                             block_kv=kernel.block_shape[1], params=params)
    return Outcome(case, kernel.target, compile_ms, classes, kernel.block_shape, unmasked_pairs(case, params),
                   float(np.median(times)), max_error, relative, on_gpu)


# -- Pictures --------------------------------------------------------------------------------------

COLOURS = {oracle.SKIPPED: ("skipped", "#e8e8e8"), oracle.PARTIAL: ("partial", "#f2a541"), oracle.FULL: ("full", "#2f6690")}


def draw_classes(axes: Any, outcome: Outcome) -> None:
    from matplotlib.colors import ListedColormap
    bq, bkv = outcome.block
    axes.imshow(outcome.classes, cmap=ListedColormap([colour for _, colour in COLOURS.values()]), vmin=-0.5, vmax=2.5,
                extent=(0, outcome.classes.shape[1] * bkv, outcome.classes.shape[0] * bq, 0), interpolation="nearest",
                aspect="equal")
    axes.set(xlim=(0, outcome.case.S), ylim=(outcome.case.S, 0))
    axes.set_title(f"{outcome.case.name}\n{outcome.case.model}", fontsize=9)
    axes.tick_params(labelsize=6)


def draw_pictures(outcomes: list[Outcome], directory: pathlib.Path) -> pathlib.Path:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    legend = [Patch(facecolor=colour, edgecolor="#888888", label=label) for label, colour in COLOURS.values()]
    for outcome in outcomes:
        figure, axes = plt.subplots(figsize=(4.5, 4.8), layout="constrained")
        draw_classes(axes, outcome)
        axes.set_xlabel(f"key, blocks of {outcome.block[1]}")
        axes.set_ylabel(f"query, blocks of {outcome.block[0]}")
        figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=8)
        figure.savefig(directory / f"{outcome.case.name}.png", dpi=120)
        plt.close(figure)
    columns = min(5, len(outcomes))
    lines = -(-len(outcomes) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.9 * lines + 0.5), layout="constrained", squeeze=False)
    for axes in grid.flat[len(outcomes):]:
        axes.axis("off")
    for axes, outcome in zip(grid.flat, outcomes):
        draw_classes(axes, outcome)
    figure.legend(handles=legend, loc="outside lower center", ncols=3)
    sheet = directory / "contact-sheet.png"
    figure.savefig(sheet, dpi=110)
    plt.close(figure)
    return sheet


# -- The table -------------------------------------------------------------------------------------

def print_table(console: Console, outcomes: list[Outcome], threads: int) -> None:
    on_gpu = outcomes[0].on_gpu is not None
    table = Table(title=f"Heed: {len(outcomes)} variants on {outcomes[0].target}, {threads} thread{'s'[:threads != 1]}",
                  caption="GFLOP/s counts the pairs that attend only, 4 D each. Errors are over "
                          f"{SAMPLES} sampled rows, against the float64 interpreter.")
    for title, justify in (("variant", "left"), ("model", "left"), ("shape", "left"), ("type", "left"),
                           ("compile", "right"), ("skipped", "right"), ("time", "right"), ("GFLOP/s", "right"),
                           ("max error", "right"), ("relative", "right"),
                           *((("GPU", "right"), ("relative", "right")) if on_gpu else ()), ("", "left")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for o in outcomes:
        skipped = float(np.mean(o.classes == oracle.SKIPPED))
        table.add_row(o.case.name, o.case.model, o.case.shape, o.case.dtype, f"{o.compile_ms:.0f} ms", f"{skipped:.0%}",
                      f"{o.seconds * 1e3:.2f} ms", f"{o.gflops:.0f}", f"{o.max_error:.1e}", f"{o.relative_error:.1e}",
                      *((f"{o.on_gpu[0] * 1e3:.3f} ms", f"{o.on_gpu[1]:.1e}") if o.on_gpu else ()),
                      "[green]ok[/]" if o.passed else "[bold red]WRONG[/]")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variants to run (default: all)")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "demo-out", help="where pictures go")
    parser.add_argument("--threads", type=int, default=0, help="default: as many as the process may use")
    options = parser.parse_args()
    unknown = set(options.names) - {case.name for case in CASES}
    if unknown:
        parser.error(f"unknown variant '{sorted(unknown)[0]}'")
    console = Console(width=None if sys.stdout.isatty() else 180)
    threads = options.threads or aot.get_num_threads()
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    torch, gpu_target = find_gpu()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="heed-demo-") as directory, console.status("") as status:
        for case in CASES:
            if not options.names or case.name in options.names:
                status.update(f"{case.name}: {case.model}, {case.shape}, {case.dtype}")
                outcomes.append(run_case(case, pathlib.Path(directory), threads, torch, gpu_target))
    print_table(console, outcomes, threads)
    console.print(f"GPU: {torch.cuda.get_device_name()}, code for {gpu_target}." if torch
                  else f"No column for a GPU: {gpu_target}.", soft_wrap=True)
    sheet = draw_pictures(outcomes, options.output)
    console.print(f"Pictures of the block classes: {sheet}. {time.perf_counter() - start:.0f} s.", soft_wrap=True)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
