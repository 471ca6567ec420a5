# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels for aarch64, cross-compiled, linked statically with the runtime's sources, and run by qemu."""

from __future__ import annotations

import math
import pathlib
import shutil
import subprocess

import pytest
from conftest import ROOT, run_heedc

CC, CXX, QEMU = (shutil.which(name) for name in ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "qemu-aarch64"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CC and CXX and QEMU), reason="needs gcc for aarch64 and qemu")]
TOLERANCE = {"f32": 5e-6, "f16": 3e-3, "bf16": 2e-2}


def _tool(*command: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("runtime-aarch64")
    objects = []
    for source in sorted((ROOT / "lib" / "Runtime").glob("*.cpp")):
        objects.append(directory / f"{source.stem}.o")
        _tool(CXX, "-std=c++17", "-O2", "-fno-exceptions", "-fno-rtti", "-I", ROOT / "include", "-c", source, "-o", objects[-1])
    archive = directory / "libheed_runtime.a"
    _tool("aarch64-linux-gnu-ar", "rcs", archive, *objects)
    return archive


@pytest.mark.parametrize("name, dtype, head_dim, value_head_dim", [
    ("causal", "f32", 64, 64), ("causal", "f32", 7, 13), ("causal", "bf16", 64, 64), ("causal", "f16", 80, 48),
    ("alibi", "f32", 64, 64), ("alibi", "bf16", 33, 128), ("alibi", "f16", 64, 64), ("causal", "f32", 1, 1),
    ("causal", "f32", 256, 512), ("causal", "bf16", 128, 128)])
def test_kernel(runtime: pathlib.Path, tmp_path: pathlib.Path, name: str, dtype: str, head_dim: int,
                value_head_dim: int) -> None:
    result = run_heedc(ROOT / "examples" / f"{name}.heed", "--target=aarch64", f"--dtype={dtype}", f"--head-dim={head_dim}",
                       f"--value-head-dim={value_head_dim}", "--symbol=k", "-o", tmp_path / "k.o",
                       f"--header={tmp_path / 'k.h'}")
    assert result.returncode == 0, result.stderr
    program = tmp_path / "check"
    objects = []
    _tool(CC, "-O2", "-std=gnu11", "-I", tmp_path, "-I", ROOT / "include", f"-DELEMENT={dtype}", f"-DD={head_dim}",
          f"-DDV={value_head_dim}", *(["-DALIBI"] if name == "alibi" else []), "-c",
          ROOT / "test" / "python" / "programs" / "check.c", "-o", tmp_path / "main.o")
    objects = [tmp_path / "main.o", tmp_path / "k.o", runtime]
    _tool(CXX, "-static", *objects, "-lpthread", "-lm", "-o", program)
    lines = _tool(QEMU, program).splitlines()
    error = float(lines[-1])
    assert not math.isnan(error) and error < TOLERANCE[dtype], "\n".join(lines)


def test_shared_library_is_for_aarch64(tmp_path: pathlib.Path) -> None:
    library = tmp_path / "k.so"
    result = run_heedc(ROOT / "examples" / "causal.heed", "--target=aarch64", "--head-dim=64", "--emit=shared", "-o", library)
    assert result.returncode == 0, result.stderr
    assert library.read_bytes()[18:20] == b"\xb7\x00"  # e_machine: EM_AARCH64
