# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The C++ program of examples/gpu, with a kernel that heedc compiled ahead of time.

For a GPU machine without heedc or a C++ compiler, `python3 test/gpu/test_program.py DIRECTORY` builds the programs elsewhere;
HEED_GPU_PROGRAMS=DIRECTORY runs them there.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
HEEDC = BUILD / "bin" / "heedc"
BUILT = os.environ.get("HEED_GPU_PROGRAMS")
PTXAS = ("found", "none")  # none: the driver compiles the PTX


def run(*command: object, **environment: str) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300,
                            env={**os.environ, **environment})
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(directory: pathlib.Path, ptxas: str) -> None:
    """The program, with the runtime beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    # The path of a program that isn't there would be an error; an empty PATH leaves CUDA's own directories.
    run(HEEDC, ROOT / "examples/alibi.heed", "--target=sm_90a,sm_80,native", "--dtype=bf16", "--head-dim=128", "-o",
        directory / "alibi.o", f"--header={directory / 'alibi.h'}", **({} if ptxas == "found" else {"HEED_PTXAS": ""}))
    run("c++", "-std=c++17", "-O1", "-I", directory, "-I", ROOT / "include", ROOT / "examples/gpu/gpu.cpp", directory / "alibi.o",
        "-L", BUILD / "lib", "-lheed_runtime", "-Wl,-rpath,$ORIGIN", "-ldl", "-pthread", "-o", directory / "gpu")
    shutil.copy(BUILD / "lib" / "libheed_runtime.so", directory / "libheed_runtime.so.0")


@pytest.mark.parametrize("ptxas", PTXAS)
def test_example(tmp_path: pathlib.Path, ptxas: str) -> None:
    from support import DEVICE

    if DEVICE.type == "cpu":
        pytest.skip("takes a GPU")
    if not BUILT and not (HEEDC.exists() and shutil.which("c++")):
        pytest.skip("takes heedc and a C++ compiler, or HEED_GPU_PROGRAMS")
    directory = pathlib.Path(BUILT, ptxas) if BUILT else tmp_path
    if not BUILT:
        build(directory, ptxas)
    for length in (1, 200, 4096):
        lines = run(directory / "gpu", length).splitlines()
        assert len(lines) == 3 and lines[0].endswith("ok") and lines[2].startswith("GPU: ") and lines[2].endswith("ok")


if __name__ == "__main__":
    for kind in PTXAS:
        build(pathlib.Path(sys.argv[1], kind), kind)
