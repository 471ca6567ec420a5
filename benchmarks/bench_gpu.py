# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Heed's GPU kernels beside PyTorch's SDPA (cuDNN and flash back ends) and compiled flex_attention.

    make bench-gpu      or       python3 benchmarks/bench_gpu.py [--quick] [--only PATTERN] [--minutes 9.5]
    python3 benchmarks/bench_gpu.py --table FILE     writes the table of a gpu.json into docs/performance.md; needs no GPU

bf16, random data, B * S = 16384 tokens and H * D = 2048 (gpu_cases.py: cases, goals). All contenders of a case take turns
in one process, in reversed order every other round, on the same tensors. Before each call the second-level cache is
flushed and the GPU spins while the host prepares the launch, the same for all; events around the call time it, and its
median counts for a round. A ratio is the median of those of the rounds. TFLOP/s count pairs that attend, 4 D each. Heed's
result is checked against float64 on sampled rows first: what is wrong is not timed. Section `masks` makes the mask anew for
each call, with each library's create_block_mask, and is timed by the clock on the wall. Each section is a process that is
killed when it hangs, and goes on with the next case. flex_attention is compiled beforehand, several cases at once.

Writes gpu.json and gpu-table.md into $OUT, or into bench-out/, and the table between the marks of docs/performance.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
if importlib.util.find_spec("heed") is None:  # not installed: the build of this checkout
    BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
    os.environ.setdefault("HEED_RUNTIME", str(BUILD / "lib" / "libheed_runtime.so"))
    os.environ.setdefault("HEED_LIBRARY", str(BUILD / "lib" / "libheed.so"))
    os.environ.setdefault("HEED_HOT", str(BUILD / "lib" / "_hot.abi3.so"))
    sys.path.insert(0, str(ROOT / "python"))
sys.path += [str(ROOT / "scripts"), str(ROOT / "test" / "gpu")]

import watched  # noqa: E402
from pages import PAGE, write_table  # noqa: E402
from run_gpu_tests import PORTABLE, find_gpu  # noqa: E402

TABLE = "gpu-table"
SECTIONS = ("library", "variants", "masks", "host", "cold", "sm_80", "examples")
PEERS = ("cudnn", "flash", "flex")
WRONG = 6e-3  # error of the output as a whole
FLUSH_BYTES = 256 << 20
Runner = Callable[[], Any]


# -- Contenders: in the section's process ------------------------------------------------------------

class Contenders:
    """The tensors of a case, and who runs on them."""

    def __init__(self, case: Any, device: str) -> None:
        import gpu_cases
        import torch

        self.case, self.device = case, device
        generator = torch.Generator(device).manual_seed(case.S + case.D)
        shape = (case.B, case.H, case.S, case.D)
        self.q, self.k, self.v = (torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16) for _ in range(3))
        self.score_mod, self.mask_mod = gpu_cases.mods(case, device)

    def heed(self) -> Runner:
        import gpu_cases

        import heed

        q, k, v, score_mod, mask_mod = self.q, self.k, self.v, self.score_mod, self.mask_mod
        if self.case.section == "examples":
            variant = heed.load(ROOT / "examples" / f"{self.case.name}.heed")
            params = gpu_cases.example_params(self.case.name, self.case, self.device)
            return lambda: variant(q, k, v, **params)
        return lambda: heed.flex_attention(q, k, v, score_mod, mask_mod=mask_mod)

    def _sdpa(self, backend: str | None) -> Runner:
        import torch.nn.attention as attention
        from torch.nn.functional import scaled_dot_product_attention as sdpa

        q, k, v, is_causal = self.q, self.k, self.v, self.case.name == "causal"
        if backend is None:
            return lambda: sdpa(q, k, v, is_causal=is_causal)
        chosen = getattr(attention.SDPBackend, backend)

        def run() -> Any:
            with attention.sdpa_kernel(chosen):
                return sdpa(q, k, v, is_causal=is_causal)

        return run

    def add(self) -> Runner:
        """What PyTorch's plainest call costs on this host."""
        import torch

        return lambda: torch.add(self.q, self.k)

    def sdpa(self) -> Runner:
        return self._sdpa(None)

    def cudnn(self) -> Runner:
        return self._sdpa("CUDNN_ATTENTION")

    def flash(self) -> Runner:
        return self._sdpa("FLASH_ATTENTION")

    def flex(self) -> Runner:
        import torch
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        q, k, v, score_mod = self.q, self.k, self.v, self.score_mod
        block_mask = None if self.mask_mod is None else create_block_mask(**self.mask_arguments())
        torch._dynamo.reset()
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda: compiled(q, k, v, score_mod=score_mod, block_mask=block_mask)

    def mask_arguments(self) -> dict[str, Any]:
        """Of create_block_mask."""
        case = self.case
        by_batch = case.B if case.name in ("documents", "packed_documents", "bert_padding", "prefix", "prefix_lm", "global_tokens",
                                           "transfusion") else None
        return {"mask_mod": self.mask_mod, "B": by_batch, "H": None, "Q_LEN": case.S, "KV_LEN": case.S, "device": self.device}

    def masked(self, name: str) -> Runner:
        """The mask made anew and attention with it: `heed`, `flex` as FlexAttention's users write it, and
        `flex, compiled mask`, where create_block_mask is compiled too."""
        import torch
        from torch.nn.attention import flex_attention as flex

        import heed

        q, k, v, arguments = self.q, self.k, self.v, self.mask_arguments()
        if name == "heed":
            return lambda: heed.flex_attention(q, k, v, block_mask=heed.create_block_mask(**arguments))
        torch._dynamo.reset()
        attention = torch.compile(flex.flex_attention, dynamic=False)
        create = flex.create_block_mask if name == "flex" else torch.compile(flex.create_block_mask, dynamic=False)
        return lambda: attention(q, k, v, block_mask=create(**arguments))

    def sampled(self) -> Any:
        """The float64 reference of some rows."""
        import support

        support.configure(self.device, False)
        return support.reference(self.q, self.k, self.v, self.score_mod, self.mask_mod, of=support.sample(self.q, 48, heads=3))

    def pairs(self) -> float:
        """How many (q, kv) of all batches and heads attend."""
        import support
        import torch

        case = self.case
        if self.mask_mod is None:
            return float(case.B * case.H * case.S**2)
        kv, count = torch.arange(case.S, device=self.device, dtype=torch.int32), 0.0
        zero = torch.zeros(1, device=self.device, dtype=torch.int32)
        for b in range(case.B):
            for rows in kv.split(max(1, (1 << 24) // case.S)):
                count += float(support.for_pairs(self.mask_mod, [zero + b, zero, rows, kv]).sum())
        return count * case.H


def synchronize(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


class Clock:
    """Times calls by events, each after a flush of the cache and a spin that hides the host."""

    def __init__(self, device: str, milliseconds: float) -> None:
        import torch

        self.device, self.milliseconds = device, milliseconds
        self.spin_us = 20.0
        self._flush = torch.empty(FLUSH_BYTES if device != "cpu" else 1, dtype=torch.int8, device=device)

    def host_us(self, run: Runner) -> float:
        """What a call costs the host, of a few."""
        times = []
        for _ in range(5):
            synchronize(self.device)
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        synchronize(self.device)
        return statistics.median(times) * 1e6

    def sample(self, run: Runner, count: int) -> float:
        """The median time of `count` calls in ms."""
        import torch

        if self.device == "cpu":
            times = []
            for _ in range(count):
                start = time.perf_counter()
                run()
                times.append((time.perf_counter() - start) * 1e3)
            return statistics.median(times)
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for start_event, end_event in pairs:
            self._flush.zero_()
            torch.cuda._sleep(int(self.spin_us * 2000))  # 2 GHz at most
            start_event.record()
            run()
            end_event.record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in pairs)

    def count(self, estimate: float) -> int:
        return 2 if self.device == "cpu" else max(5, min(80, int(self.milliseconds / (estimate + 0.1))))


def measure(case: Any, device: str, rounds: int, milliseconds: float) -> dict[str, Any]:
    import support
    import torch

    contenders, clock = Contenders(case, device), Clock(device, milliseconds)
    expected = contenders.sampled()

    def error_of(output: torch.Tensor) -> float:
        found = expected.of.of(output).double()
        return float((found - expected.output).norm() / expected.output.norm())

    runners: dict[str, Runner] = {}
    errors: dict[str, float] = {}
    notes: dict[str, str] = {}
    late = json.loads(os.environ.get("HEED_BENCH_LATE", "{}")).get(case.id)
    for name in ("heed", *case.peers):
        if name == "flex" and late:
            notes[name] = late
            continue
        try:
            runner = getattr(contenders, name)()
            support.poison_free_memory(contenders.q, case.D)
            start = time.perf_counter()
            output = runner()
            synchronize(device)
            notes[f"{name} first call"] = f"{time.perf_counter() - start:.2f} s"
            errors[name] = error_of(output)
            if name == "heed":
                try:
                    support.check((output, None), expected, limits=support.WITH_SCORE_MOD if contenders.score_mod else support.LIMITS)
                except AssertionError as problem:
                    return {"outcome": "wrong", "message": str(problem), "errors": errors}
            elif not errors[name] < 5 * WRONG:
                notes[name] = f"wrong: error {errors[name]:.1e}"
            del output
            runners[name] = runner
        except Exception as problem:
            if name == "heed" or "CUDA error" in str(problem):
                raise
            notes[name] = f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}" if str(problem) else repr(problem)
    clock.spin_us = min(1000.0, max(20.0, 1.5 * max(clock.host_us(run) for run in runners.values())))
    counts = {name: clock.count(clock.sample(run, 3)) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        order = list(runners) if number % 2 == 0 else list(runners)[::-1]
        for name in order:
            times[name].append(clock.sample(runners[name], counts[name]))
    return {"outcome": "ok", "errors": errors, "notes": notes, "ms": times, "spin_us": clock.spin_us,
            "flops": 4.0 * case.D * contenders.pairs()}


def measure_host(case: Any, device: str, rounds: int = 61, calls: int = 120) -> dict[str, Any]:
    """us of the host for a call whose work is tiny, nothing waited for."""
    import torch

    shape = (1, 1, case.S, case.D)
    contenders = Contenders(case, device)
    contenders.q, contenders.k, contenders.v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(3))
    runners = {name: getattr(contenders, name)() for name in ("heed", *case.peers)}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name, run in runners.items():
            for _ in range(20):
                run()
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                run()
            spent = time.perf_counter() - start
            synchronize(device)
            if number:
                times[name].append(spent / calls * 1e6)
    return {"outcome": "ok", "us": times}


def measure_masked(case: Any, device: str, rounds: int, calls: int = 12) -> dict[str, Any]:
    """ms of a call with its mask made anew, from a GPU at rest to a GPU at rest."""
    contenders = Contenders(case, device)
    runners = {name: contenders.masked(name) for name in ("heed", *case.peers)}
    outputs = [run().double() for run in runners.values()]
    errors = {name: float((found - outputs[0]).norm() / outputs[0].norm()) for name, found in zip(runners, outputs)}
    if not max(errors.values()) < 5 * WRONG:
        return {"outcome": "wrong", "message": f"contenders differ: {errors}", "errors": errors}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds):
        for name in list(runners)[:: 1 if number % 2 == 0 else -1]:
            taken = []
            for _ in range(calls):
                synchronize(device)
                start = time.perf_counter()
                runners[name]()
                synchronize(device)
                taken.append((time.perf_counter() - start) * 1e3)
            times[name].append(statistics.median(taken))
    return {"outcome": "ok", "with_mask_ms": times}


def measure_cold(case: Any, device: str) -> dict[str, Any]:
    """Seconds from Python functions to the result, in new processes with empty caches."""
    seconds: dict[str, list[float]] = {}
    for name, repeats in (("heed", 3), *((peer, 1) for peer in case.peers)):
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as directory:
                environment = {**os.environ, "HEED_CACHE_DIR": f"{directory}/heed", "CUDA_CACHE_DISABLE": "1",
                               "TORCHINDUCTOR_CACHE_DIR": f"{directory}/inductor", "TRITON_CACHE_DIR": f"{directory}/triton"}
                done = subprocess.run([sys.executable, __file__, "--cold", case.id, "--contender", name, "--device", device],
                                      capture_output=True, text=True, env=environment, timeout=100, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                if name == "heed":
                    return {"outcome": "failed", "message": done.stderr[-1500:]}
                break
            for kind, value in json.loads(done.stdout.splitlines()[-1]).items():
                seconds.setdefault(f"{name} {kind}" if kind != "first" else name, []).append(value)
    return {"outcome": "ok", "seconds": seconds}


def cold(case: Any, device: str, contender: str) -> None:
    """In a process of its own: the first variant, then another one."""
    import dataclasses

    found = {}
    for kind, what in (("first", case), ("second", dataclasses.replace(case, name="sliding_window"))):
        contenders = Contenders(what, device)
        (contenders.q.float() + 1).sum().item()  # the context is there
        synchronize(device)
        start = time.perf_counter()
        getattr(contenders, contender)()()
        synchronize(device)
        found[kind] = time.perf_counter() - start
    print(json.dumps(found))


def work(options: argparse.Namespace) -> None:
    """A section: its cases, as far as they were not begun before."""
    import torch

    cases = {case.id: case for case in chosen_cases(options)}
    names = json.loads(options.cases.read_text())
    before = watched.started(options.events)
    names = [name for name in names if name not in before]
    watched.write(options.events, "plan", names=names)
    with torch.no_grad():
        for name in names:
            case = cases[name]
            watched.write(options.events, "start", name=name)
            lost = False
            try:
                if case.section == "host":
                    result = measure_host(case, options.device)
                elif case.section == "masks":
                    result = measure_masked(case, options.device, options.rounds)
                elif case.section == "cold":
                    result = measure_cold(case, options.device)
                else:
                    result = measure(case, options.device, options.rounds, options.milliseconds)
            except Exception as problem:
                result = {"outcome": "failed", "message": f"{type(problem).__name__}: {problem}"[:1500]}
                lost = "CUDA" in str(problem) and not isinstance(problem, torch.OutOfMemoryError)
            watched.write(options.events, "end", name=name, **result)
            if options.device != "cpu":
                torch.cuda.empty_cache()
            if lost:
                sys.exit(77)


def warm(options: argparse.Namespace) -> None:
    """Compiles flex_attention of the given cases into the shared caches, and notes each that came to an end."""
    cases = {case.id: case for case in chosen_cases(options)}
    for name in json.loads(options.cases.read_text()):
        try:
            Contenders(cases[name], options.device).flex()()
            synchronize(options.device)
        except Exception as problem:
            print(f"{name}: {problem}", flush=True)
        with options.cases.with_suffix(".ended").open("a") as ended:
            print(name, file=ended)


# -- The orchestrator --------------------------------------------------------------------------------

def chosen_cases(options: argparse.Namespace) -> list[Any]:
    import gpu_cases

    cases = gpu_cases.all_cases(small=options.device == "cpu")
    return [case for case in cases if re.search(options.only, case.id) and (case.quick or not options.quick)
            and (not options.sections or case.section in options.sections.split(","))]


def subcommand(options: argparse.Namespace, *words: object) -> list[str]:
    return [sys.executable, str(pathlib.Path(__file__).resolve()), f"--device={options.device}", f"--rounds={options.rounds}",
            f"--milliseconds={options.milliseconds}", *map(str, words)]


def precompile(names: list[str], options: argparse.Namespace, directory: pathlib.Path, environment: dict[str, str],
               seconds: float) -> list[str]:
    """Returns the names of cases whose compilation was given up."""
    share = max(1, min(options.jobs, len(names)))

    def one(number: int) -> list[str]:
        own = names[number::share]
        path = directory / f"warm{number}.json"
        path.write_text(json.dumps(own))
        try:
            subprocess.run(subcommand(options, "--warm", "--cases", path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=seconds, check=False,
                           env={**os.environ, **environment, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "2"})
        except subprocess.TimeoutExpired:
            ended = path.with_suffix(".ended")
            # The one that it was at; those behind it are compiled in their turn.
            return [name for name in own if not ended.exists() or name not in ended.read_text().splitlines()][:1]
        return []

    with concurrent.futures.ThreadPoolExecutor(share) as pool:
        return [name for late in pool.map(one, range(share)) for name in late]


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    begin = time.time()
    deadline = begin + 60 * options.minutes
    cases = chosen_cases(options)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="heed-bench-gpu-") as name:
        directory = pathlib.Path(name)
        environment = {"TORCHINDUCTOR_CACHE_DIR": f"{name}/inductor", "TRITON_CACHE_DIR": f"{name}/triton",
                       "HEED_CACHE_DIR": f"{name}/heed", "PYTHONUNBUFFERED": "1"}
        with_flex = [case.id for case in cases if "flex" in case.peers and case.section in ("library", "variants", "masks", "examples")]
        if with_flex and options.jobs > 0:
            print(f"compiling flex_attention for {len(with_flex)} cases, {options.jobs} at a time", flush=True)
            seconds = min(240.0, 0.4 * 60 * options.minutes)
            late = precompile(with_flex, options, directory, environment, seconds)
            environment["HEED_BENCH_LATE"] = json.dumps({name: f"not compiled within {seconds:.0f} s" for name in late})
            print(f"  took {time.time() - begin:.0f} s", flush=True)
        for section in SECTIONS:
            planned = [case.id for case in cases if case.section == section]
            if not planned:
                continue
            if time.time() > deadline - 5:
                continue
            path, log = directory / f"{section}.json", directory / f"{section}.log"
            path.write_text(json.dumps(planned))
            events = directory / f"{section}.events"
            limit = 330.0 if section == "cold" else options.case_limit
            outcome = watched.run(subcommand(options, "--events", events, "--cases", path), events, log,
                                  {**environment, **(PORTABLE if section == "sm_80" else {})}, item_limit=limit,
                                  startup_limit=90, deadline=deadline)
            results |= outcome.ends
            print(f"{section}: {len(outcome.ends)} of {len(planned)} cases in {outcome.seconds:.0f} s {outcome.problem}".rstrip(), flush=True)
            if outcome.problem and not outcome.ends:
                print(log.read_text(errors="replace")[-2000:])
    device: dict[str, Any] = {"name": "CPU", "heed": str(importlib.util.find_spec("heed"))}
    if options.device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        device = {"name": properties.name, "capability": [properties.major, properties.minor],
                  "multiprocessors": properties.multi_processor_count, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    return {"argv": sys.argv[1:], "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "device": device,
            "minutes": round((time.time() - begin) / 60, 1), "cases": [_flat(case, results.get(case.id)) for case in cases]}


def _driver() -> str:
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=20, check=False).stdout.strip()
    except OSError:
        return ""


def _flat(case: Any, end: dict[str, Any] | None) -> dict[str, Any]:
    """A case with its figures, as the JSON file has it; `outcome` is ok, wrong, failed or missing."""
    if end is not None and end.get("message") == watched.OUT_OF_TIME:
        end = None
    row = {"id": case.id, "section": case.section, "name": case.name, "D": case.D, "S": case.S, "B": case.B, "H": case.H,
           "outcome": "missing" if end is None else end["outcome"], "goals": []}
    if end is None:
        return row | {"goals": [{"peer": g.peer, "goal": g.value, "found": None, "holds": None} for g in case.goals]}
    row |= {key: end[key] for key in ("message", "errors", "notes", "ms", "us", "seconds", "with_mask_ms", "flops", "spin_us") if key in end}
    if "ms" in end:
        own = end["ms"]["heed"]
        row["ratios"] = {peer: statistics.median(a / b for a, b in zip(times, own)) for peer, times in end["ms"].items() if peer != "heed"}
        row["tflops"] = {who: end["flops"] / statistics.median(times) * 1e-9 for who, times in end["ms"].items()}
    values = dict(row.get("ratios", {}))
    if "with_mask_ms" in end:
        own = end["with_mask_ms"]["heed"]
        values = {peer: statistics.median(a / b for a, b in zip(times, own)) for peer, times in end["with_mask_ms"].items()}
    for kind in ("us", "seconds"):
        if kind in end and "heed" in end[kind]:
            values["heed"] = statistics.median(end[kind]["heed"])
    row["goals"] = [{"peer": g.peer, "goal": g.value, "found": values.get(g.peer), "holds": g.holds(values[g.peer]) if g.peer in values else None}
                    for g in case.goals]
    return row


# -- Tables ------------------------------------------------------------------------------------------

HEADER = ("case", "B", "H", "TFLOP/s", "x cuDNN", "x flash", "x flex_attention", "error")


def _ratio(row: dict[str, Any], peer: str) -> str:
    found = row.get("ratios", {}).get(peer)
    if found is None:
        return ""
    goal = next((g for g in row["goals"] if g["peer"] == peer), None)
    return f"{found:.2f}" + (f" ({goal['goal']:.2f}: {'ok' if goal['holds'] else 'miss'})" if goal else "")


def table_rows(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in content["cases"]:
        if row["section"] in ("host", "cold", "masks"):
            continue
        name = f"{row['section'] + ': ' if row['section'] in ('sm_80', 'examples') else ''}{row['name']} D{row['D']} S{row['S']}"
        if row["outcome"] == "ok":
            yield (name, str(row["B"]), str(row["H"]), f"{row['tflops']['heed']:.0f}", *(_ratio(row, peer) for peer in PEERS),
                   f"{row['errors']['heed']:.1e}")
        else:
            yield (name, str(row["B"]), str(row["H"]), {"missing": "not measured"}.get(row["outcome"], row["outcome"].upper()),
                   "", "", "", "")


def other_lines(content: dict[str, Any]) -> Iterator[str]:
    for row in content["cases"]:
        for kind, unit, what in (("us", "us", "a hot call costs the host"), ("seconds", "s", "a cold variant takes"),
                                 ("with_mask_ms", "ms", "a call with its mask made anew takes")):
            if kind in row:
                parts = ", ".join(f"{who} {statistics.median(values):.{1 if kind == 'us' else 2}f} {unit}" for who, values in row[kind].items())
                verdict = "".join(f" ({g['goal']:g} {unit}: {'ok' if g['holds'] else 'miss'})" if g["peer"] == "heed" else
                                  f" ({g['found']:.1f} of {g['goal']:g} times {g['peer']}: {'ok' if g['holds'] else 'miss'})" for g in row["goals"])
                yield f"{row['name']} D{row['D']}: {what}: {parts}{verdict}"
        if row["section"] in ("host", "cold", "masks") and row["outcome"] not in ("ok",):
            yield f"{row['id']}: {row['outcome']}"


def peer_notes(content: dict[str, Any]) -> Iterator[str]:
    """What contenders could not do."""
    for row in content["cases"]:
        for who, note in row.get("notes", {}).items():
            if who in PEERS:
                yield f"{row['id']}: {who}: {note[:160]}"


def merged(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs measured, in the order of all cases; of a case, the last that came to an end."""
    names = {content["device"]["name"] for content in contents}
    if len(names) > 1:
        raise SystemExit(f"expected runs on one kind of GPU, found {', '.join(sorted(names))}")
    rows: dict[str, dict[str, Any]] = {}
    sources: dict[str, int] = {}
    for i, content in enumerate(contents):
        for row in content["cases"]:
            if row["outcome"] != "missing" or row["id"] not in rows:
                rows[row["id"]], sources[row["id"]] = row, i
    used = [content for i, content in enumerate(contents) if i in sources.values()]
    return {**contents[-1], "parts": [what_was_asked(content["argv"]) for content in used], "minutes": sum(content["minutes"] for content in used),
            "cases": sorted(rows.values(), key=lambda row: SECTIONS.index(row["section"]))}


def what_was_asked(argv: list[str]) -> str:
    """Of a command line, what chose its cases."""
    return " ".join(f"{option} '{value}'" for option, value in zip(argv, argv[1:]) if option in ("--sections", "--only"))


def summary(content: dict[str, Any]) -> str:
    goals = [g for row in content["cases"] for g in row["goals"]]
    met, measured = sum(g["holds"] is True for g in goals), sum(g["holds"] is not None for g in goals)
    count = {kind: sum(row["outcome"] == kind for row in content["cases"]) for kind in ("wrong", "failed", "missing")}
    return (f"{met} of {measured} measured goals are met, {len(goals) - measured} were not measured; cases: {len(content['cases'])}, "
            + ", ".join(f"{n} {'not measured' if kind == 'missing' else kind}" for kind, n in count.items()))


def show(content: dict[str, Any]) -> Iterator[str]:
    rows = [HEADER, *table_rows(content)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    for row in rows:
        yield "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
    yield from other_lines(content)
    for row in content["cases"]:
        if row["outcome"] in ("wrong", "failed"):
            yield f"{row['outcome'].upper()} {row['id']}: {' '.join(row.get('message', '').split())[:300]}"
    yield from peer_notes(content)
    yield summary(content)


def markdown(content: dict[str, Any]) -> str:
    device = content["device"]
    parts = content.get("parts") or [what_was_asked(content["argv"])]
    lines = [f"`benchmarks/bench_gpu.py`{' with' if any(parts) else ''}", "", *(f"- `{part}`" for part in parts if part), "",
             f"on {content['date']}{', of a case the last that measured it' if len(parts) > 1 else ''}: {device['name']}, "
             f"driver {device.get('driver', '-')}, PyTorch {content['torch']}, cuDNN {device.get('cudnn', '-')}. bf16; B x S = 16384 tokens, "
             "H x D = 2048. Times each contender takes of Heed's, with the goal and whether it is met.", "",
             f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    measured = [row for row in content["cases"] if row["outcome"] != "missing"]
    lines += [f"| {' | '.join(row)} |" for row in table_rows({**content, "cases": measured})]
    lines += ["", *(f"- {line}" for line in other_lines({**content, "cases": measured})),
              *(f"- {line}" for line in peer_notes(content)), "", f"{summary(content)}."]
    if missing := [row["id"] for row in content["cases"] if row["outcome"] == "missing"]:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="some cases, 3 to 4 minutes")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose names match, such as 'causal D128'; see --list")
    parser.add_argument("--sections", default="", metavar="A,B", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--list", action="store_true", help="the names of the cases")
    parser.add_argument("--minutes", type=float, default=9.5, help="what is not done by then is reported as not measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--milliseconds", type=float, default=50.0, help="of GPU time for a contender in a round")
    parser.add_argument("--case-limit", type=float, default=75.0, help="seconds until a case counts as hanging")
    parser.add_argument("--jobs", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)), help="compilations of flex_attention at a time; 0: none ahead")
    parser.add_argument("--device", default="cuda", help="cpu: exercise the benchmark itself, with small shapes")
    parser.add_argument("--table", type=pathlib.Path, nargs="+", metavar="FILE",
                        help="only write gpu.json files of one kind of GPU into docs/performance.md; of a case the last that measured it")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT") or ROOT / "bench-out"))
    for name in ("--events", "--cases"):
        parser.add_argument(name, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    for name in ("--cold", "--contender"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        return 0 if write_table(TABLE, markdown(merged([json.loads(path.read_text()) for path in options.table]))) else 1
    if options.list:
        print(*(case.id for case in chosen_cases(options)), sep="\n")
        return 0
    if options.device != "cpu" and (problem := find_gpu()):
        print(f"{problem}: this needs an NVIDIA GPU")
        return 2
    if options.events or options.warm or options.cold:
        import torch

        with torch.no_grad():
            if options.cold:
                cold({case.id: case for case in chosen_cases(options)}[options.cold], options.device, options.contender)
            else:
                (warm if options.warm else work)(options)
        return 0
    content = run_all(options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.json").write_text(json.dumps(content, indent=1))
    (options.output / "gpu-table.md").write_text(markdown(content) + "\n")
    print(*show(content), sep="\n")
    if options.device != "cpu" and not (options.only or options.quick or options.sections):
        write_table(TABLE, markdown(content))
    print(f"written to {options.output / 'gpu.json'}; --table puts it into {PAGE.relative_to(ROOT)}")
    return 1 if any(row["outcome"] in ("wrong", "failed") for row in content["cases"]) else 0


if __name__ == "__main__":
    sys.exit(main())
