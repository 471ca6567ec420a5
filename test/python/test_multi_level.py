# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One object with code for several CPU levels: the runtime takes the best one that HEED_CPU allows."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT, Kernels

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")

PROGRAM = """
import sys
sys.path[:0] = [{python!r}, {tests!r}]
from heed import aot
from reference import EXAMPLES, Shape, check
kernel = aot.load(sys.argv[1], "k")
print(kernel.target)
if kernel.target != "none":
    for shape in (Shape(2, 4, 2, 200, 200), Shape(1, 2, 1, 65, 300)):
        check(kernel, EXAMPLES["alibi"], shape)
else:
    import numpy as np
    x = np.zeros((1, 1, 4, kernel.head_dim), np.float32)
    try:
        kernel(x, x, x, slope=np.zeros(1, np.float32))
    except aot.HeedError as error:
        print(error)
"""


def _run(library: pathlib.Path, cpu: str | None) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key != "HEED_CPU"}
    if cpu is not None:
        environment["HEED_CPU"] = cpu
    program = PROGRAM.format(python=str(ROOT / "python"), tests=str(ROOT / "test" / "python"))
    result = subprocess.run([sys.executable, "-c", program, str(library)], env=environment, capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def library(kernels: Kernels) -> pathlib.Path:
    return kernels.path("alibi", "f32", 64, target=",".join(LEVELS))


@pytest.mark.parametrize("level", LEVELS)
def test_level_is_chosen(library: pathlib.Path, level: str) -> None:
    best = _run(library, None)[0]
    if LEVELS.index(level) > LEVELS.index(best):
        pytest.skip(f"this CPU runs {best}")
    assert _run(library, level) == [level]


def test_best_level_without_limit(library: pathlib.Path, kernels: Kernels) -> None:
    assert _run(library, None)[0] in LEVELS


def test_limits_between_levels(library: pathlib.Path) -> None:
    if _run(library, None)[0] != "x86-64-v4":
        pytest.skip("this CPU has no x86-64-v4")
    assert _run(library, "x86-64-v4+bf16") == ["x86-64-v4"]


def test_no_code_for_this_cpu(kernels: Kernels) -> None:
    only_v4 = kernels.path("alibi", "f32", 64, target="x86-64-v4")
    target, message = _run(only_v4, "x86-64-v2")
    assert target == "none" and "x86-64-v4" in message and "x86-64-v2" in message


def test_unknown_limit_is_ignored_or_refused(library: pathlib.Path) -> None:
    """A misspelt HEED_CPU must not end in an illegal instruction."""
    assert _run(library, "x86-64-v77")[0] in (*LEVELS, "none")
