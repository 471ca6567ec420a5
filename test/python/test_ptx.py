# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What ptxas says of GPU kernels: that it takes them, without spills and without the warnings by which it gives up
asynchronous products."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, run_heedc

PTXAS = os.environ.get("HEED_PTXAS") or shutil.which("ptxas")
pytestmark = pytest.mark.skipif(PTXAS is None, reason="needs ptxas")

DIMS = [(d, d) for d in (1, 8, 16, 20, 24, 64, 80, 96, 128, 192, 256, 512)] + [(192, 128), (576, 512), (64, 512)]
DTYPES = ("bf16", "f16", "f32")
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.heed"))


def assemble(directory: pathlib.Path, name: str, dtype: str, dims: tuple[int, int], target: str,
             tune: str = "") -> str:
    """Compiles an example and returns what `ptxas -v` says."""
    ptx = directory / "kernel.ptx"
    made = run_heedc(ROOT / "examples" / f"{name}.heed", f"--target={target}", f"--dtype={dtype}",
                     f"--head-dim={dims[0]}", f"--value-head-dim={dims[1]}", "--emit=ptx", "-o", ptx,
                     *([f"--tune={tune}"] if tune else []))
    assert made.returncode == 0, made.stderr
    said = subprocess.run([str(PTXAS), f"-arch={target}", "-v", str(ptx), "-o", str(directory / "kernel.cubin")],
                          capture_output=True, text=True, timeout=600)
    log = said.stdout + said.stderr
    assert said.returncode == 0, log
    return log


# One 64-bit value: 8 bytes of stores, 48 of loads, at the limit of 255 registers.
KNOWN_SPILLS = {("bert_padding", 128, "sm_90a")}


def check(log: str) -> None:
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", log)]
    assert spills and not any(spills), log
    assert not re.search(r"C75(04|07|08|1\d)", log), log


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("dense", "causal"))
def test_common(tmp_path: pathlib.Path, name: str, dtype: str) -> None:
    check(assemble(tmp_path, name, dtype, (64, 64), "sm_80"))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "dims"), itertools.product(DTYPES, DIMS), ids=str)
@pytest.mark.parametrize(("target", "tune"), [("sm_80", ""), ("sm_86", ""), ("sm_90a", "no_wgmma"), ("sm_120", "")])
def test_dims(tmp_path: pathlib.Path, target: str, tune: str, dtype: str, dims: tuple[int, int]) -> None:
    check(assemble(tmp_path, "causal", dtype, dims, target, tune))


@pytest.mark.slow
@pytest.mark.parametrize("target", ("sm_80", "sm_90a", "sm_100"))
@pytest.mark.parametrize("dim", (64, 128))
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(tmp_path: pathlib.Path, name: str, dim: int, target: str) -> None:
    log = assemble(tmp_path, name, "bf16", (dim, dim), target, "no_wgmma")
    if (name, dim, target) in KNOWN_SPILLS:
        pytest.xfail("spills one value")
    check(log)
