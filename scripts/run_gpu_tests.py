#!/usr/bin/env python3
# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the tests of test/gpu on this machine's NVIDIA GPU, in groups that can't harm each other.

    make test-gpu      or       python3 scripts/run_gpu_tests.py [--quick] [--only PATTERN] [--minutes 8] [--jobs N]

Each group is a process, several at a time. A test that hangs is killed after --test-limit seconds, one that crashes or
loses the CUDA context ends its process; either fails, and its group goes on in a new process. The sm_80 groups run on the
portable path (HEED_GPU_TARGET=sm_80), memcheck and racecheck under compute-sanitizer. Needs PyTorch with CUDA and pytest.
heed is the installed one, or that of this checkout's build.

Prints a table, and writes gpu-tests.json and gpu-tests.log into $OUT, or into build/reports/gpu. Exit status: 1 when a
test failed or did not run, 2 without a GPU. --device cpu exercises the tests themselves, with small shapes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import watched

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = ROOT / "test" / "gpu"
PORTABLE = {"HEED_GPU_TARGET": "sm_80"}


@dataclasses.dataclass(frozen=True)
class Group:
    name: str
    files: tuple[str, ...] = ()  # of pytest; none: `tool` of compute-sanitizer
    only: str = ""
    quick: bool = False  # always in its short form
    environment: tuple[tuple[str, str], ...] = ()
    tool: str = ""

    @property
    def seconds_of_test(self) -> float:
        return 2.0 if self.name == "large" else 1.0  # times --test-limit


def portable(name: str, file: str, only: str = "") -> Group:
    return Group(f"sm_80 {name}", (file,), only, True, tuple(PORTABLE.items()))


# The longest first, since several run at a time.
GROUPS = (
    Group("numbers", ("test_numbers.py",)), Group("shapes", ("test_shapes.py",)), Group("examples", ("test_examples.py",)), Group("gym", ("test_gym.py",)),
    Group("beside", ("test_beside.py",)), Group("strides", ("test_strides.py",)), Group("streams", ("test_streams.py",)),
    Group("errors", ("test_errors.py",)), Group("lists", ("test_block_lists.py",)), Group("libraries", ("test_libraries.py",)), Group("program", ("test_program.py",)), Group("tuning", ("test_tuning.py",)),
    portable("examples", "test_examples.py"), portable("shapes", "test_shapes.py", "test_head_dims|test_grouped_heads"),
    portable("numbers", "test_numbers.py", "test_bits_repeat|test_moving_maxima|test_masked_rows"),
    portable("strides", "test_strides.py", "test_operands"),
    Group("large", ("test_large.py",)), Group("memcheck", tool="memcheck"), Group("racecheck", tool="racecheck"))
# Alone on the device, because of their memory or of what they say about time.
ALONE = ("streams", "large", "memcheck", "racecheck")


@dataclasses.dataclass
class Result:
    group: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0
    seconds: float = 0.0
    worst: dict[str, float] = dataclasses.field(default_factory=dict)  # error as a share of what is allowed, by type
    notes: list[str] = dataclasses.field(default_factory=list)
    tests: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.failed and not self.missing


def find_gpu() -> str:
    """Why there is no NVIDIA GPU to run on, or ""."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1 can't be loaded)"
    count = ctypes.c_int(0)
    if status := int(driver.cuInit(0)):
        return f"the NVIDIA driver doesn't start (cuInit: error {status})"
    if driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the NVIDIA driver sees no device"
    return ""


def sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def run_tests(group: Group, options: argparse.Namespace, environment: dict[str, str], deadline: float) -> Result:
    stem = options.work / re.sub(r"\W+", "-", group.name)
    events = pathlib.Path(f"{stem}.events")
    only = f"(?=.*({group.only}))(?=.*({options.only}))" if group.only and options.only else group.only or options.only
    command = [sys.executable, "-m", "pytest", "-c", str(TESTS / "pytest.ini"), "-p", "no:cacheprovider", "-q", f"--device={options.device}",
               f"--only={only}", *(["--quick"] if group.quick or options.quick else []), *(str(TESTS / file) for file in group.files)]
    limit = options.test_limit * group.seconds_of_test
    outcome = watched.run(command, events, pathlib.Path(f"{stem}.log"),
                          {**environment, **dict(group.environment), "HEED_GPU_EVENTS": str(events)},
                          item_limit=limit, startup_limit=max(60.0, limit), deadline=deadline)
    result = Result(group.name, seconds=outcome.seconds, missing=len(outcome.missing))
    for name, end in outcome.ends.items():
        test = {"name": name.rpartition("/")[2], **{key: end.get(key) for key in ("outcome", "seconds", "message", "errors")}}
        result.tests.append(test)
        setattr(result, end["outcome"], getattr(result, end["outcome"]) + 1)
        for dtype, error in (end.get("errors") or {}).items():
            result.worst[dtype] = max(error, result.worst.get(dtype, 0.0))
    if outcome.problem and (outcome.missing or not outcome.planned) and outcome.problem != "planned nothing":
        result.notes.append(outcome.problem)
        result.failed += not outcome.planned
    return result


RACES = re.compile(r"^=+ (?:ERROR SUMMARY|RACECHECK SUMMARY): (.*)", re.MULTILINE)


def run_sanitizer(group: Group, options: argparse.Namespace, environment: dict[str, str], deadline: float) -> Result:
    """Warm, without the tool, then with it: what it looks at is Heed's kernels, not their compilation."""
    result, begin = Result(group.name), time.time()
    program = [sys.executable, str(TESTS / "sanitize.py"), f"--device={options.device}"]
    tool = sanitizer()
    if tool is None and options.device != "cpu":
        result.notes.append("compute-sanitizer is neither on PATH nor in /usr/local/cuda/bin")
        result.missing = 1
        return result
    under = [str(tool), "--tool", group.tool, "--error-exitcode", "99", "--print-limit", "20"] if tool else []
    for words, what in ((program, "without the tool"), ([*under, *program], "with it")):
        log = options.work / f"{group.name}-{what.replace(' ', '-')}.log"
        try:
            with log.open("w") as file:
                status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                        env={**os.environ, **environment}, timeout=max(1.0, min(300.0, deadline - time.time())),
                                        check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
            result.notes.append(f"{what}: out of time")
        text = log.read_text(errors="replace")
        summary = RACES.findall(text)
        if status != 0:
            result.failed = 1
            bad = [line for line in text.splitlines() if line.startswith(("WRONG", "========= ")) or "Error" in line]
            result.notes += [f"{what}: exit status {status}", *bad[:4], *summary]
            break
        if words is not program and summary:
            result.notes.append(f"clean: {summary[-1]}")
    result.passed, result.seconds = 1 - result.failed, time.time() - begin
    result.tests.append({"name": group.name, "outcome": "failed" if result.failed else "passed", "seconds": result.seconds,
                         "message": "; ".join(result.notes)})
    return result


def table(results: list[Result]) -> Iterator[str]:
    width = max(len(r.group) for r in results)
    yield f"{'group':{width}}  passed  failed  skipped  not run  seconds  worst error, of what is allowed"
    for r in results:
        worst = "  ".join(f"{dtype} {value:.2f}" for dtype, value in sorted(r.worst.items()))
        notes = "; ".join(r.notes)
        yield (f"{r.group:{width}}  {r.passed:6}  {r.failed:6}  {r.skipped:7}  {r.missing:7}  {r.seconds:7.1f}  "
               f"{worst or notes[:110]}".rstrip())


def failures(results: list[Result], most: int = 40) -> Iterator[str]:
    lines = []
    for r in results:
        lines += [f"{r.group}: {note}" for note in r.notes if not r.good]
        lines += [f"{test['name']}\n    {' '.join((test['message'] or '').split())[:400]}"
                  for test in r.tests if test["outcome"] == "failed" and test["name"] != r.group]
    yield from lines[:most]
    if len(lines) > most:
        yield f"... and {len(lines) - most} more; see the JSON file"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, 2 to 3 minutes")
    parser.add_argument("--only", default="", metavar="PATTERN", help="tests whose names match this regular expression")
    parser.add_argument("--groups", default="", metavar="PATTERN", help=f"groups that match it; there are {', '.join(g.name for g in GROUPS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="what is not done by then is reported as not run")
    parser.add_argument("--jobs", type=int, default=min(5, max(1, (os.cpu_count() or 2) // 2)), help="groups at a time")
    parser.add_argument("--test-limit", type=float, default=60.0, help="seconds until a test counts as hanging")
    parser.add_argument("--device", default="cuda", help="cpu: exercise the tests themselves")
    parser.add_argument("--find-gpu", action="store_true", help="only say whether there is a GPU")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT") or ROOT / "build" / "reports" / "gpu"))
    options = parser.parse_args()
    if options.device != "cpu" and (problem := find_gpu()):
        print(f"{problem}: this needs an NVIDIA GPU")
        return 2
    if options.find_gpu:
        return 0
    if missing := [name for name in ("torch", "pytest") if importlib.util.find_spec(name) is None]:
        print(f"test-gpu: {sys.executable} has no {' and no '.join(missing)}: install it, or carry it as a wheel on PYTHONPATH")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    deadline = begin + 60 * options.minutes
    groups = [g for g in GROUPS if re.search(options.groups, g.name) and not (options.quick and g.name == "racecheck" and not options.groups)]
    if options.only:
        groups = [g for g in groups if not g.tool]
    with tempfile.TemporaryDirectory(prefix="heed-test-gpu-") as directory:
        options.work = pathlib.Path(directory)
        environment = {"HEED_CACHE_DIR": os.environ.get("HEED_CACHE_DIR", f"{directory}/cache"), "PYTHONUNBUFFERED": "1"}

        def run_group(group: Group) -> Result:
            result = (run_sanitizer if group.tool else run_tests)(group, options, environment, deadline)
            print(f"  {group.name}: {result.passed} passed, {result.failed} failed, {result.seconds:.0f} s", file=sys.stderr, flush=True)
            return result

        beside = [g for g in groups if g.name not in ALONE]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(run_group, beside))
        results += [run_group(g) for g in groups if g.name in ALONE]
        with (options.output / "gpu-tests.log").open("w") as file:
            for log in sorted(options.work.glob("*.log")):
                file.write(f"==== {log.stem}\n{log.read_text(errors='replace')[-500_000:]}\n")
    results = [r for r in results if r.tests or r.notes or r.missing or not options.only]
    content = {"argv": sys.argv[1:], "seconds": time.time() - begin, "groups": [dataclasses.asdict(r) for r in results]}
    (options.output / "gpu-tests.json").write_text(json.dumps(content, indent=1))
    print(*failures(results), sep="\n")
    print(*table(results), sep="\n")
    totals = {name: sum(getattr(r, name) for r in results) for name in ("passed", "failed", "skipped", "missing")}
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped, {totals['missing']} not run "
          f"in {time.time() - begin:.0f} s; written to {options.output / 'gpu-tests.json'}")
    return 0 if totals["passed"] and not totals["failed"] and not totals["missing"] else 1


if __name__ == "__main__":
    sys.exit(main())
