# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What bounds Heed's GPU kernels: hardware counters of bench_gpu.py's cases, read by Nsight Compute.

    python3 benchmarks/profile_gpu.py [--only PATTERN] [--minutes 9.5]     needs an NVIDIA GPU and ncu
    python3 benchmarks/profile_gpu.py --table FILE     writes the table of a profile.json into docs/performance.md

All kernels of one call, after two that are not looked at, with the clocks as they are and the caches flushed before each.
Writes profile.json and profile.md into $OUT, or into bench-out/.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import bench_gpu
from pages import write_table

CASES = (r"library (full|causal) D(64|128|192|256) S(2048|8192)|library causal D(64|128|256) S16384|variants .* D(64|128)|"
         r"sm_80 (full|causal) D(64|128|256) S8192")
BUSY = "avg.pct_of_peak_sustained_active"
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
# What warps wait for, as Nsight Compute calls it.
STALLS = ("long_scoreboard", "gmma", "wait", "math_pipe_throttle", "mio_throttle", "barrier", "short_scoreboard", "not_selected",
          "dispatch_stall", "no_instruction")
METRICS = {"ns": "gpu__time_duration.sum", "hz": "smsp__cycles_elapsed.avg.per_second", "active": "sm__cycles_active.avg",
           "elapsed": "sm__cycles_elapsed.max", "tensor": f"sm__pipe_tensor_cycles_active.{BUSY}", "alu": f"sm__pipe_alu_cycles_active.{BUSY}",
           "fma": f"sm__pipe_fma_cycles_active.{BUSY}", "xu": f"sm__inst_executed_pipe_xu.{BUSY}", "issue": f"smsp__issue_active.{BUSY}",
           "read": "dram__bytes_read.sum", "written": "dram__bytes_write.sum", **{stall: STALL.format(stall) for stall in STALLS}}


def run_case(case: Any) -> None:
    """In the process that ncu watches."""
    import torch

    with torch.no_grad():
        call = bench_gpu.Contenders(case, "cuda").heed()
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def profile(case: Any, seconds: float) -> list[dict[str, Any]]:
    """METRICS of each kernel, in base units; RuntimeError with what ncu said."""
    environment = {**os.environ, **(bench_gpu.PORTABLE if case.section == "sm_80" else {})}
    done = subprocess.run(["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw", "--print-units", "base",
                           "--metrics", ",".join(METRICS.values()), sys.executable, __file__, "--case", case.id],
                          capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, env=environment, check=False)
    lines = done.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise RuntimeError((done.stdout + done.stderr)[-1500:])
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))[1:]  # the first one has the units
    try:
        return [{"kernel": row["Kernel Name"], **{name: float(row[metric].replace(",", "")) for name, metric in METRICS.items()}} for row in rows]
    except (KeyError, ValueError) as problem:
        raise RuntimeError(f"ncu does not tell {problem}") from None


HEADER = ("case", "kernel", "us", "MHz", "SMs busy", "tensor", "ALU", "FMA", "XU", "issue", "GB/s", "waits for, cycles an instruction")


def table_rows(content: dict[str, list[dict[str, Any]]]) -> list[tuple[str, ...]]:
    rows = []
    for case, kernels in content.items():
        for kernel in kernels:
            stalls = sorted(STALLS, key=lambda stall: -kernel[stall])[:3]
            name = kernel["kernel"].partition("(")[0].removeprefix("heed_jit").strip("_") or "attention"
            rows.append((case, name, f"{kernel['ns'] / 1e3:.1f}", f"{kernel['hz'] / 1e6:.0f}", f"{100 * kernel['active'] / kernel['elapsed']:.0f}",
                         *(f"{kernel[pipe]:.0f}" for pipe in ("tensor", "alu", "fma", "xu", "issue")),
                         f"{(kernel['read'] + kernel['written']) / kernel['ns']:.0f}",
                         ", ".join(f"{stall} {kernel[stall]:.1f}" for stall in stalls)))
    return rows


def markdown(content: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table_rows(content))])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=CASES, metavar="PATTERN", help="cases whose names match; bench_gpu.py --list has them")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--table", type=pathlib.Path, nargs="+", metavar="FILE", help="only write profile.json files into docs/performance.md")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT") or bench_gpu.ROOT / "bench-out"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        content = {case: kernels for path in options.table for case, kernels in json.loads(path.read_text()).items()}
        return 0 if write_table("gpu-profile", markdown(content)) else 1
    import gpu_cases

    cases = {case.id: case for case in gpu_cases.all_cases()}
    if options.case:
        run_case(cases[options.case])
        return 0
    deadline = time.time() + 60 * options.minutes
    content = {}
    failed = False
    options.output.mkdir(parents=True, exist_ok=True)
    for name, case in cases.items():
        if not re.search(options.only, name):
            continue
        if time.time() > deadline - 5:
            print(f"{name}: the time was up", flush=True)
            failed = True
            continue
        try:
            content[name] = profile(case, deadline - time.time())
        except (RuntimeError, subprocess.TimeoutExpired) as problem:
            print(f"{name}: {problem}", flush=True)
            failed = True
            continue
        for row in table_rows({name: content[name]}):
            print("  ".join(row), flush=True)
        (options.output / "profile.json").write_text(json.dumps(content, indent=1))
    (options.output / "profile.md").write_text(markdown(content) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
