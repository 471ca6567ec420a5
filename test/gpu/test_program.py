# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The C++ program of examples/gpu, with a kernel that heedc compiled ahead of time."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from support import DEVICE

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
HEEDC = BUILD / "bin" / "heedc"

pytestmark = [pytest.mark.skipif(DEVICE.type == "cpu", reason="takes a GPU"),
              pytest.mark.skipif(not HEEDC.exists() or not shutil.which("c++"), reason="takes heedc and a C++ compiler")]


def run(*command: object, **environment: str) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300,
                            env={**os.environ, **environment})
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("ptxas", ("found", "none"))  # none: the driver compiles the PTX
def test_example(tmp_path: pathlib.Path, ptxas: str) -> None:
    # The path of a program that isn't there would be an error; an empty PATH leaves CUDA's own directories.
    run(HEEDC, ROOT / "examples/alibi.heed", "--target=sm_90a,sm_80,native", "--dtype=bf16", "--head-dim=128", "-o",
        tmp_path / "alibi.o", f"--header={tmp_path / 'alibi.h'}", **({} if ptxas == "found" else {"HEED_PTXAS": ""}))
    run("c++", "-std=c++17", "-O1", "-I", tmp_path, "-I", ROOT / "include", ROOT / "examples/gpu/gpu.cpp", tmp_path / "alibi.o",
        "-L", BUILD / "lib", "-lheed_runtime", f"-Wl,-rpath,{BUILD / 'lib'}", "-ldl", "-pthread", "-o", tmp_path / "gpu")
    for length in (1, 200, 4096):
        lines = run(tmp_path / "gpu", length).splitlines()
        assert len(lines) == 3 and lines[0].endswith("ok") and lines[2].startswith("GPU: ") and lines[2].endswith("ok")
