# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Heed's CPU kernels beside the machine's peak, a GEMM library, PyTorch's SDPA and compiled flex_attention.

    make bench       or       python benchmarks/bench_cpu.py [--quick] [--minutes N]
    python benchmarks/bench_cpu.py --table bench-out/cpu.json     puts a summary into docs/performance.md

All contenders of a case run in turns in one process on the same random inputs. Each round gives a ratio for each pair,
and a share of the peak measured right before and after Heed's call; the medians of these are shown, because the speed of
a shared machine changes from one second to the next. Outputs are checked once against SDPA or flex_attention. What runs on one thread is timed by
that thread's CPU time, so that other work on the machine disturbs it less; speed-ups are by the clock. Masks and biases that SDPA needs
as tensors are made outside the timing. GFLOP/s count pairs that attend, 4 D each. What the time limit leaves out is
reported as not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pages import write_table
from rich.console import Console
from rich.table import Table
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention as sdpa

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
if importlib.util.find_spec("heed") is None:  # not installed: the build of this checkout
    os.environ.setdefault("HEED_RUNTIME", str(BUILD / "lib" / "libheed_runtime.so"))
    os.environ.setdefault("HEED_LIBRARY", str(BUILD / "lib" / "libheed.so"))
    os.environ.setdefault("HEED_HOT", str(BUILD / "lib" / "_hot.abi3.so"))
    sys.path.insert(0, str(ROOT / "python"))
import heed  # noqa: E402

VARIANTS = ("dense", "causal", "window", "alibi", "softcap")
TORCH_TYPE = {"f32": torch.float32, "bf16": torch.bfloat16}
VARIANTS_FILE = HERE / "variants.heed"
WINDOW, CAP = 1024, 30.0
GEMM_SIZE = 1024
LARGEST_MASK = 1 << 31  # bytes; beyond, SDPA is left out
Runner = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Case:
    variant: str
    dtype: str
    D: int
    S: int
    flex: bool

    @property
    def H(self) -> int:
        """Heads: fewer for long sequences, so that a call stays around a second."""
        return max(1, min(8, (4096 // self.S) ** 2 * 64 // self.D * 2)) if self.S <= 4096 else 1

    @property
    def pairs(self) -> float:
        s = self.S
        if self.variant == "dense":
            return float(s * s)
        w = min(WINDOW, s) if self.variant == "window" else s
        return w * (w + 1) / 2 + (s - w) * w

    @property
    def flops(self) -> float:
        return 4.0 * self.D * self.pairs * self.H

    def __str__(self) -> str:
        return f"{self.variant} {self.dtype} D{self.D} S{self.S}"


@dataclasses.dataclass
class Result:
    case: Case
    seconds: dict[str, list[float]]  # contender@threads -> one time a round, by the clock
    cpu_seconds: dict[str, list[float]]  # the same of one thread's CPU time
    peak: dict[str, list[float]]  # kind -> GFLOP/s of one thread, around Heed's call of each round
    error: float

    def gflops(self, contender: str) -> float | None:
        return self.case.flops / statistics.median(self.cpu_seconds[contender]) * 1e-9 if contender in self.seconds else None

    def of_peak(self, contender: str, kind: str) -> float | None:
        if contender not in self.seconds or not all(self.peak.get(kind, [0])):
            return None
        return statistics.median(self.case.flops / s * 1e-9 / p for s, p in zip(self.cpu_seconds[contender], self.peak[kind]))

    def of_gemm(self) -> float:
        rate = 2 * GEMM_SIZE**3 / self.case.flops
        return statistics.median(gemm / own / rate for gemm, own in zip(self.cpu_seconds["gemm@1"], self.cpu_seconds["heed@1"]))

    def ratio(self, slower: str, faster: str) -> float | None:
        if not {slower, faster} <= self.seconds.keys():
            return None
        seconds = self.cpu_seconds if slower.endswith("@1") and faster.endswith("@1") else self.seconds
        return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster]))


class Peak:
    """peak.c, built for this run, or for another: HEED_PEAK_LIBRARY is the path of what was built."""

    def __init__(self, directory: pathlib.Path) -> None:
        library = pathlib.Path(os.environ.get("HEED_PEAK_LIBRARY", directory / "peak.so"))
        if not library.exists():
            subprocess.run(["clang-22", "-O2", "-shared", "-fPIC", str(HERE / "peak.c"), "-o", str(library)], check=True)
        self._lib = ctypes.CDLL(str(library))
        self._lib.peak.restype = ctypes.c_double
        self._lib.peak.argtypes = [ctypes.c_char_p, ctypes.c_double]

    def __call__(self, kind: str, seconds: float = 0.01) -> float:
        return float(self._lib.peak(kind.encode(), seconds))


def compile_seconds(heedc: pathlib.Path, variant: str, dtype: str, head_dim: int, directory: pathlib.Path) -> float:
    """What heedc takes for a shared library, as a whole process."""
    start = time.perf_counter()
    subprocess.run([str(heedc), str(VARIANTS_FILE), f"--variant={variant}", f"--dtype={dtype}",
                    f"--head-dim={head_dim}", "--emit=shared", "--symbol=bench", "-o", str(directory / "bench.so")], check=True)
    return time.perf_counter() - start


# -- Contenders ------------------------------------------------------------------------------------

def slopes(heads: int) -> torch.Tensor:
    return torch.exp2(-8.0 * (torch.arange(heads) + 1) / heads)


def mods(case: Case) -> tuple[Callable[..., object] | None, Callable[..., object] | None]:
    """score_mod and mask_mod of a case, for Heed and for flex_attention alike."""
    slope = slopes(case.H)
    scores = {"alibi": lambda s, b, h, i, j: s + slope[h] * (j - i), "softcap": lambda s, b, h, i, j: CAP * torch.tanh(s / CAP)}
    masks = {"dense": None, "window": lambda b, h, i, j: (i >= j) & (i - j < WINDOW)}
    return scores.get(case.variant), masks.get(case.variant, lambda b, h, i, j: i >= j)


def heed_runner(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Runner:
    """The Python entry, tracing lookup and allocation of the output included, as for the other contenders."""
    score_mod, mask_mod = mods(case)
    return lambda: heed.flex_attention(q, k, v, score_mod=score_mod, mask_mod=mask_mod)


def heed_v3_runner(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Runner:
    kernel = heed.compile(VARIANTS_FILE, variant=case.variant, dtype=case.dtype, head_dim=case.D, target="x86-64-v3")
    return lambda: kernel(q, k, v, threads=1)


def sdpa_runner(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Runner | None:
    if case.variant == "dense":
        return lambda: sdpa(q, k, v)
    if case.variant == "causal":
        return lambda: sdpa(q, k, v, is_causal=True)
    heads = case.H if case.variant == "alibi" else 1
    if case.variant == "softcap" or heads * case.S**2 * q.element_size() > LARGEST_MASK:
        return None
    distance = torch.arange(case.S)[:, None] - torch.arange(case.S)[None]
    if case.variant == "window":
        mask = (distance >= 0) & (distance < WINDOW)
    else:
        bias = torch.where(distance >= 0, -slopes(heads)[:, None, None] * distance, -torch.inf)
        mask = bias[None].to(q.dtype)
    return lambda: sdpa(q, k, v, attn_mask=mask)


def flex_runner(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Runner:
    score_mod, mask_mod = mods(case)
    block_mask = create_block_mask(mask_mod, None, None, case.S, case.S, device="cpu") if mask_mod else None
    torch._dynamo.reset()  # code is specialised to the number of threads
    compiled = torch.compile(flex_attention, dynamic=False)
    run = lambda: compiled(q, k, v, score_mod=score_mod, block_mask=block_mask)  # noqa: E731
    run()
    return run


def softcap_in_full(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The first head by definition: no library has it."""
    q, k, v = (x[:, :1].float() for x in (q, k, v))
    scores = CAP * torch.tanh(q @ k.transpose(2, 3) * case.D**-0.5 / CAP)
    hidden = torch.ones(case.S, case.S, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ v


# -- Measuring -------------------------------------------------------------------------------------

def measure(case: Case, peak: Peak, budget: float) -> Result:
    torch.manual_seed(case.S + case.D)
    shape = (1, case.H, case.S, case.D)
    q, k, v = (torch.randn(shape).to(TORCH_TYPE[case.dtype]) for _ in range(3))
    run_heed = heed_runner(case, q, k, v)
    runners: dict[str, tuple[int, Runner]] = {f"heed@{n}": (n, run_heed) for n in (1, 2)}
    if case.variant == "dense" and case.dtype == "f32" and case.S <= 4096:
        runners["heed-v3@1"] = (1, heed_v3_runner(case, q, k, v))
    if (library := sdpa_runner(case, q, k, v)) is not None:
        runners |= {f"sdpa@{n}": (n, library) for n in (1, 2)}
    if case.flex:
        torch.set_num_threads(2)
        runners["flex@2"] = (2, flex_runner(case, q, k, v))
    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE).to(q.dtype) for _ in range(2))
    runners["gemm@1"] = (1, lambda: a @ b)

    kinds = ("zmm_f32", "ymm_f32") if case.dtype == "f32" else ("zmm_bf16", "amx_bf16")
    times: dict[str, list[float]] = {name: [] for name in runners}
    cpu_times: dict[str, list[float]] = {name: [] for name in runners}
    peaks: dict[str, list[float]] = {kind: [] for kind in kinds}
    started = time.perf_counter()
    rounds = 0
    while rounds < 3 or (time.perf_counter() - started < budget and rounds < 30):
        for name, (threads, run) in runners.items():
            torch.set_num_threads(threads)
            before = {kind: peak(kind) for kind in kinds} if name == "heed@1" else {}
            start, cpu_start = time.perf_counter(), time.thread_time()
            run()
            times[name].append(time.perf_counter() - start)
            cpu_times[name].append(time.thread_time() - cpu_start)
            for kind, rate in before.items():
                peaks[kind].append((rate + peak(kind)) / 2)
        rounds += 1

    out = run_heed()
    reference = next((run for name, (_, run) in runners.items() if name.startswith(("sdpa", "flex"))), None)
    if reference is None and case.variant == "softcap" and case.S <= 4096:
        reference, out = lambda: softcap_in_full(case, q, k, v), out[:, :1]
    error = float("nan") if reference is None else float((out.double() - reference().double()).norm() / out.double().norm())
    return Result(case, times, cpu_times, peaks, error)


def cases(quick: bool) -> Iterator[Case]:
    """Most telling first, because the time may run out."""
    dtypes = ("f32", "bf16")
    if quick:
        for dtype in dtypes:
            yield Case("dense", dtype, 128, 4096, False)
            yield Case("causal", dtype, 128, 2048, False)
            yield Case("causal", dtype, 64, 4096, dtype == "f32")
            yield Case("window", dtype, 64, 4096, False)
            yield Case("alibi", dtype, 64, 2048, False)
            yield Case("softcap", dtype, 128, 2048, False)
        for variant in ("dense", "causal"):
            yield Case(variant, "bf16", 64, 8192, False)
        for variant in ("dense", "window"):
            yield Case(variant, "f32", 64, 16384, False)
        return
    for length in (2048, 4096, 1024, 8192, 16384):
        for head_dim in (128, 64):
            for dtype in dtypes:
                for variant in VARIANTS:
                    yield Case(variant, dtype, head_dim, length, flex=length in (2048, 4096) and head_dim == 64)


# -- Goals -----------------------------------------------------------------------------------------

@dataclasses.dataclass
class Goal:
    text: str
    limit: float
    values: list[tuple[float, str]]
    at_most: bool = False

    @property
    def worst(self) -> tuple[float, str]:
        return (max if self.at_most else min)(self.values)

    @property
    def holds(self) -> bool:
        return self.holds_for(self.worst[0])

    def holds_for(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def goals(results: list[Result], compile_seconds: list[float]) -> list[Goal]:
    by_case = {(r.case.variant, r.case.dtype, r.case.D, r.case.S): r for r in results}

    def collect(value: Callable[[Result], float | None], keep: Callable[[Case], bool]) -> list[tuple[float, str]]:
        found = [(value(r), str(r.case)) for r in results if keep(r.case)]
        return [(x, name) for x, name in found if x is not None]

    def of_peak(kind: str, contender: str = "heed@1") -> Callable[[Result], float | None]:
        return lambda r: r.of_peak(contender, kind)

    def against(peer: str, threads: tuple[int, ...] = (1, 2)) -> Callable[[Result], float | None]:
        def worst(r: Result) -> float | None:
            ratios = [x for n in threads if (x := r.ratio(f"{peer}@{n}", f"heed@{n}")) is not None]
            return min(ratios, default=None)
        return worst

    def of_dense(r: Result) -> float | None:
        dense = by_case.get(("dense", r.case.dtype, r.case.D, r.case.S))
        medians = [statistics.median(x.cpu_seconds["heed@1"]) for x in (r, dense) if x]
        return medians[0] / medians[1] if dense else None

    def dense(dtype: str) -> Callable[[Case], bool]:
        return lambda c: c.variant == "dense" and c.dtype == dtype

    return [
        Goal("f32 dense of the FMA peak, S <= 4096", 0.88, collect(of_peak("zmm_f32"), lambda c: dense("f32")(c) and c.S <= 4096)),
        Goal("f32 dense of the FMA peak, S 16384", 0.84, collect(of_peak("zmm_f32"), lambda c: dense("f32")(c) and c.S == 16384)),
        Goal("bf16 dense of the dpbf16ps peak", 0.85, collect(of_peak("zmm_bf16"), dense("bf16"))),
        Goal("x86-64-v3 f32 of the ymm FMA peak", 0.80, collect(of_peak("ymm_f32", "heed-v3@1"), dense("f32"))),
        Goal("two threads over one", 1.85, collect(lambda r: r.ratio("heed@1", "heed@2"), lambda c: True)),
        Goal("f32 dense over SDPA", 1.1, collect(against("sdpa"), dense("f32"))),
        Goal("bf16 dense over SDPA", 1.2, collect(against("sdpa"), dense("bf16"))),
        Goal("causal over SDPA, S <= 2048", 1.5, collect(against("sdpa"), lambda c: c.variant == "causal" and c.S <= 2048)),
        Goal("causal over SDPA, S > 2048", 1.3, collect(against("sdpa"), lambda c: c.variant == "causal" and c.S > 2048)),
        Goal("masks that SDPA needs as tensors", 2.0, collect(against("sdpa"), lambda c: c.variant in ("window", "alibi"))),
        Goal("over compiled flex_attention", 2.0, collect(against("flex", (2,)), lambda c: True)),
        Goal("causal of dense, S 8192", 0.55, collect(of_dense, lambda c: c.variant == "causal" and c.S == 8192), at_most=True),
        Goal("window 1024 of dense, S 16384", 0.10, collect(of_dense, lambda c: c.variant == "window" and c.S == 16384), at_most=True),
        Goal("heedc, seconds a kernel (median)", 0.3, [(statistics.median(compile_seconds), f"{len(compile_seconds)} kernels")] if compile_seconds else [], at_most=True),
    ]


# -- Reporting -------------------------------------------------------------------------------------

def show_results(console: Console, results: list[Result]) -> None:
    table = Table(title="Heed on this CPU", caption="GF/s: pairs that attend, 4 D each. Peak: the best register-only loop of f32 FMA or "
                  "dpbf16ps (AMX in parentheses). x SDPA, x flex: how many times as long they take.")
    for title in ("case", "H", "GF/s 1t", "of peak", "of GEMM", "2t/1t", "x SDPA 1t", "x SDPA 2t", "x flex 2t", "v3 of ymm", "error"):
        table.add_column(title, justify="left" if title == "case" else "right", no_wrap=True)

    def number(x: float | None, digits: int = 2) -> str:
        return "-" if x is None else f"{x:.{digits}f}"

    for r in results:
        main, other = ("zmm_f32", "") if r.case.dtype == "f32" else ("zmm_bf16", "amx_bf16")
        of_peak = number(r.of_peak("heed@1", main))
        if (of_amx := r.of_peak("heed@1", other)) is not None:
            of_peak += f" ({of_amx:.2f})"
        table.add_row(str(r.case), str(r.case.H), number(r.gflops("heed@1"), 0), of_peak, number(r.of_gemm()),
                      number(r.ratio("heed@1", "heed@2")), number(r.ratio("sdpa@1", "heed@1")), number(r.ratio("sdpa@2", "heed@2")),
                      number(r.ratio("flex@2", "heed@2")), number(r.of_peak("heed-v3@1", "ymm_f32")), f"{r.error:.0e}")
    console.print(table)


def show_goals(console: Console, found: list[Goal]) -> None:
    table = Table(title="Goals: the worst case of each")
    for title in ("goal", "wanted", "measured", "in", ""):
        table.add_column(title, no_wrap=True)
    for goal in found:
        wanted = f"{'<=' if goal.at_most else '>='} {goal.limit:.2f}"
        if not goal.values:
            table.add_row(goal.text, wanted, "-", "", "[yellow]not measured[/]")
            continue
        value, place = goal.worst
        table.add_row(goal.text, wanted, f"{value:.2f}", place, "[green]holds[/]" if goal.holds else "[red]MISSED[/]")
    console.print(table)


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def summary(content: dict[str, Any]) -> str:
    """Of a cpu.json: a row for each variant and type, each cell the worst, the median and the best case; then the goals."""
    results = [Result(Case(**r["case"]), r["seconds"], r["cpu_seconds"], r["peak"], r["error"]) for r in content["results"]]
    columns: list[tuple[str, Callable[[Result], float | None]]] = [
        ("of the peak", lambda r: r.of_peak("heed@1", "zmm_f32" if r.case.dtype == "f32" else "zmm_bf16")),
        ("of a GEMM", Result.of_gemm), ("times SDPA, 1 thread", lambda r: r.ratio("sdpa@1", "heed@1")),
        ("times SDPA, 2 threads", lambda r: r.ratio("sdpa@2", "heed@2")),
        ("times compiled flex_attention, 2 threads", lambda r: r.ratio("flex@2", "heed@2")),
        ("2 threads over 1", lambda r: r.ratio("heed@1", "heed@2")),
        ("x86-64-v3, of its own peak", lambda r: r.of_peak("heed-v3@1", "ymm_f32"))]

    def cell(values: list[float]) -> str:
        return " ".join(f"{x:.2f}" for x in (min(values), statistics.median(values), max(values))) if values else ""

    lines = [f"`benchmarks/bench_cpu.py` on {content.get('date', 'an unknown day')}: {content['cpu']}, {content['cpus']} CPUs, PyTorch {content['torch']}; "
             f"{len(results)} cases.", "", f"| variant, type | {' | '.join(title for title, _ in columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for dtype in ("f32", "bf16"):
        for variant in VARIANTS:
            rows = [r for r in results if (r.case.variant, r.case.dtype) == (variant, dtype)]
            cells = [cell([x for r in rows if (x := value(r)) is not None]) for _, value in columns]
            lines.append(f"| {variant} {dtype} | {' | '.join(cells)} |")
    lines += ["", "| goal | wanted | worst | in | holds in |", "|---|---|---|---|---|"]
    for goal in goals(results, content["compile_seconds"]):
        if goal.values:
            (worst, place), held = goal.worst, sum(goal.holds_for(x) for x, _ in goal.values)
            sign = "at most" if goal.at_most else "at least"
            lines.append(f"| {goal.text} | {sign} {goal.limit:.2f} | {worst:.3f} | {place} | {held} of {len(goal.values)} |")
    return "\n".join(lines)


def write_json(path: pathlib.Path, results: list[Result], found: list[Goal], compile_seconds: list[float]) -> None:
    content = {
        "cpu": cpu_name(), "date": time.strftime("%Y-%m-%d"), "cpus": len(os.sched_getaffinity(0)), "torch": torch.__version__, "load": os.getloadavg()[0],
        "compile_seconds": compile_seconds,
        "results": [dataclasses.asdict(r) | {"heads": r.case.H, "flops": r.case.flops} for r in results],
        "goals": [{"text": g.text, "limit": g.limit, "at_most": g.at_most, "worst": g.worst if g.values else None,
                   "holds": g.holds if g.values else None} for g in found]}
    path.write_text(json.dumps(content, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few cases, 1 to 2 minutes")
    parser.add_argument("--minutes", type=float, help="stop starting cases after this time (default: 15, or 2 with --quick)")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench-out")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE", help="only put the summary of a cpu.json into docs/performance.md")
    options = parser.parse_args()
    if options.table:
        return 0 if write_table("cpu-table", summary(json.loads(options.table.read_text()))) else 1
    minutes = options.minutes or (2 if options.quick else 15)
    console = Console(width=None if sys.stdout.isatty() else 180)
    options.output.mkdir(parents=True, exist_ok=True)
    deadline = time.perf_counter() + 60 * minutes
    results: list[Result] = []
    plan = list(cases(options.quick))
    with tempfile.TemporaryDirectory(prefix="heed-bench-") as name, console.status("") as status, torch.no_grad():
        os.environ["HEED_CACHE_DIR"] = str(pathlib.Path(name, "cache"))
        peak = Peak(pathlib.Path(name))
        heedc = BUILD / "bin" / "heedc"
        seconds = [compile_seconds(heedc, variant, dtype, head_dim, pathlib.Path(name))
                   for variant in VARIANTS for dtype in ("f32", "bf16") for head_dim in (64, 128) if heedc.exists()]
        for case in plan:
            if time.perf_counter() > deadline:
                break
            status.update(f"{len(results) + 1}/{len(plan)}: {case}")
            results.append(measure(case, peak, budget=1.5 if options.quick else 4))
    found = goals(results, seconds)
    show_results(console, results)
    show_goals(console, found)
    if len(results) < len(plan):
        console.print(f"The time limit left out {len(plan) - len(results)} of {len(plan)} cases.")
    if (load := os.getloadavg()[0]) > 2.5:
        console.print(f"Load average {load:.1f}: other work ran beside this; trust ratios before absolutes.")
    path = options.output / "cpu.json"
    write_json(path, results, found, seconds)
    console.print(f"{cpu_name()}; written to {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
