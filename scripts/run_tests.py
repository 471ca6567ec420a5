#!/usr/bin/env python3
# Runs every kind of test over a finished build, one stage after the other, and sums up:
#
#   unit     the GoogleTest and C programs, through ctest
#   lit      the compiler's text tests
#   python   pytest over test/python
#   fuzz     the libFuzzer programs of build-fuzz, for --fuzz-seconds in all
#
# --quick leaves out the slow pytest cases, the fuzzing, and most cases of tests that have many, and runs what is left side by
# side. The last line reads 'N passed, N failed, N skipped'. The exit status is 1 when a test failed, when a runner did, or when
# a stage ran no test.

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from typing import IO

ROOT = pathlib.Path(__file__).resolve().parent.parent
LLVM_BIN = pathlib.Path("/usr/lib/llvm-22/bin")
QUICK_CASES = 2  # of each pytest function


@dataclasses.dataclass
class Result:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problem: str = ""
    seconds: float = 0.0

    def add(self, other: Result) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def run(command: list[object], output: IO[str] | None = None, **environment: str) -> int:
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output,
                          stderr=output, env={**os.environ, **environment}, check=False).returncode


def count(case: ET.Element) -> Result:
    """One <testcase> of a JUnit file, in the spellings of ctest, GoogleTest, lit and pytest."""
    if case.find("failure") is not None or case.find("error") is not None:
        return Result(failed=1)
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
        return Result(skipped=1)
    return Result(passed=1)


def cases(report: pathlib.Path) -> list[ET.Element]:
    try:
        return list(ET.parse(report).iter("testcase"))
    except (OSError, ET.ParseError):
        return []  # the runner's exit status says why


def unit(options: argparse.Namespace) -> Result:
    reports = options.reports / "unit"  # GoogleTest programs write a file each; ctest knows programs only
    status = run(["ctest", "--test-dir", options.build, "--output-on-failure", "--no-tests=error",
                  "--exclude-regex", "^heed-lit$", "--output-junit", options.reports / "unit.xml",
                  *(["--parallel", len(os.sched_getaffinity(0))] if options.quick else [])],
                 GTEST_OUTPUT=f"xml:{reports}/", HEED_SOUNDNESS_MASKS="1000" if options.quick else "")
    result = Result()
    for program in cases(options.reports / "unit.xml"):
        inner = Result()
        for case in cases(reports / f"{program.get('name')}.xml"):
            inner.add(count(case))
        outer = count(program)
        # A program that died after its last test failed, though no test of it did.
        result.add(outer if outer.failed > inner.failed or inner == Result() else inner)
    return check(status, result)


def lit(options: argparse.Namespace) -> Result:
    report = options.reports / "lit.xml"
    status = run([LLVM_BIN / "lit", "-sv", "--xunit-xml-output", report, options.build / "test"])
    result = Result()
    for case in cases(report):
        result.add(count(case))
    return check(status, result)


def python(options: argparse.Namespace) -> Result:
    report = options.reports / "python.xml"
    status = run([sys.executable, "-m", "pytest", "test/python", f"--junitxml={report}",
                  *(["-m", "not slow", "--cases", QUICK_CASES, "-n", "auto", "--dist", "loadfile"] if options.quick else [])],
                 HEED_BUILD=str(options.build))
    result = Result()
    for case in cases(report):
        result.add(count(case))
    return check(status, result)


def fuzz(options: argparse.Namespace) -> Result:
    programs = sorted((options.fuzz_build / "bin").glob("*_fuzzer"))
    result = Result()
    for program in programs:
        corpus = options.fuzz_build / "corpus" / program.stem
        corpus.mkdir(parents=True, exist_ok=True)
        log = options.reports / f"{program.stem}.log"
        with log.open("w") as output:
            status = run([program, f"-max_total_time={max(1, options.fuzz_seconds // len(programs))}",
                          "-max_len=4096", "-timeout=20", "-print_final_stats=1", "-verbosity=0",
                          f"-dict={ROOT}/test/fuzz/heed.dict", f"-artifact_prefix={corpus.parent}/",
                          corpus, "examples", "lib/Language/Stdlib", "test/Language"], output,
                         # Debian's libLLVM is not instrumented, so containers that cross it look overflown.
                         ASAN_OPTIONS="detect_container_overflow=0", UBSAN_OPTIONS="print_stacktrace=1")
        lines = log.read_text(errors="replace").splitlines()
        print(*([line for line in lines if line.startswith("stat::")] if status == 0 else lines[-60:]), sep="\n")
        result.add(Result(passed=1) if status == 0 else Result(failed=1))
    return check(0, result)


def check(status: int, result: Result) -> Result:
    if result.passed + result.failed == 0:
        result.failed, result.problem = 1, "ran no test"
    elif status != 0 and result.failed == 0:
        result.failed, result.problem = 1, f"exit status {status}"
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs Heed's tests.")
    parser.add_argument("--quick", action="store_true", help="no slow test and no fuzzing")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--fuzz-build", type=pathlib.Path, default=ROOT / "build-fuzz")
    parser.add_argument("--fuzz-seconds", type=int, default=60)
    parser.add_argument("stages", nargs="*", metavar="stage", help="unit, lit, python, fuzz (default: all)")
    options = parser.parse_args()
    options.build = options.build.resolve()
    options.fuzz_build = options.fuzz_build.resolve()
    options.reports = options.build / "reports"
    shutil.rmtree(options.reports, ignore_errors=True)
    options.reports.mkdir(parents=True)

    stages = {"unit": unit, "lit": lit, "python": python, "fuzz": fuzz}
    unknown = set(options.stages) - set(stages)
    if unknown:
        parser.error(f"unknown stage '{sorted(unknown)[0]}'; expected one of {', '.join(stages)}")
    names = options.stages or [name for name in stages if not (options.quick and name == "fuzz")]

    results: dict[str, Result] = {}
    for number, name in enumerate(names, 1):
        print(f"\n== {name} ({number} of {len(names)})", flush=True)
        start = time.monotonic()
        results[name] = stages[name](options)
        results[name].seconds = time.monotonic() - start

    total = Result()
    print(f"\n{'stage':<8} {'passed':>7} {'failed':>7} {'skipped':>8} {'time':>8}")
    for name, result in results.items():
        total.add(result)
        print(f"{name:<8} {result.passed:>7} {result.failed:>7} {result.skipped:>8} {result.seconds:>6.1f} s"
              f"  {result.problem}".rstrip())
    print(f"\n{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
