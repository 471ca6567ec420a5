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


# Captured tensors that arrive with the keys, and one that is gathered from.
BESIDE = {
    "bf16_bias": "(x: bf16[Hq, Sq, Skv]) { score_mod(s, b, h, q, kv) { return s + x[h, q, kv] } }",
    "f32_bias": "(x: f32[B, Hq, Sq, Skv]) { score_mod(s, b, h, q, kv) { return s + x[b, h, q, kv] } mask_mod(b, h, q, kv) { return q >= kv } }",
    "bool_mask": "(x: bool[B, Sq, Skv]) { mask_mod(b, h, q, kv) { return x[b, q, kv] } }",
    "ids_i64": "(x: i64[B, Skv]) { mask_mod(b, h, q, kv) { return x[b, q] == x[b, kv] && q >= kv } }",
    "by_distance": "(x: f32[Hq, ?]) { score_mod(s, b, h, q, kv) { return s + x[h, q - kv + 8191] } }",
    "weights": "(x: f32[B, Skv]) { score_mod(s, b, h, q, kv) { return s * x[b, kv] + tanh(x[b, kv]) } }",
}


def assemble(directory: pathlib.Path, name: str, dtype: str, dims: tuple[int, int], target: str,
             tune: str = "") -> str:
    """Compiles an example or one of BESIDE and returns what `ptxas -v` says."""
    ptx, source = directory / "kernel.ptx", ROOT / "examples" / f"{name}.heed"
    if name in BESIDE:
        source = directory / f"{name}.heed"
        source.write_text(f"variant {name}{BESIDE[name]}\n")
    made = run_heedc(source, f"--target={target}", f"--dtype={dtype}",
                     f"--head-dim={dims[0]}", f"--value-head-dim={dims[1]}", "--emit=ptx", "-o", ptx,
                     *([f"--tune={tune}"] if tune else []))
    assert made.returncode == 0, made.stderr
    said = subprocess.run([str(PTXAS), f"-arch={target}", "-v", str(ptx), "-o", str(directory / "kernel.cubin")],
                          capture_output=True, text=True, timeout=600)
    log = said.stdout + said.stderr
    assert said.returncode == 0, log
    return log


def check(log: str) -> None:
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", log)]
    assert spills and not any(spills), log
    assert not re.search(r"C75(04|07|08|1\d)", log), log


@pytest.mark.parametrize("target", ("sm_80", "sm_90a"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("dense", "causal"))
def test_common(tmp_path: pathlib.Path, name: str, dtype: str, target: str) -> None:
    check(assemble(tmp_path, name, dtype, (64, 64), target))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "dims"), itertools.product(DTYPES, DIMS), ids=str)
@pytest.mark.parametrize(("target", "tune"), [("sm_80", ""), ("sm_86", ""), ("sm_90a", ""), ("sm_90a", "no_wgmma"), ("sm_120", "")])
def test_dims(tmp_path: pathlib.Path, target: str, tune: str, dtype: str, dims: tuple[int, int]) -> None:
    check(assemble(tmp_path, "causal", dtype, dims, target, tune))
    if target in ("sm_80", "sm_86"):  # has other schedules
        check(assemble(tmp_path, "dense", dtype, dims, target, tune))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "target", "tune"), [
    *itertools.product((64, 128, 192, 256), ("sm_90a",), ("",)),
    *itertools.product((64, 128), ("sm_90a",), ("no_wgmma",)), *itertools.product((64, 128), ("sm_80", "sm_100"), ("",))])
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(tmp_path: pathlib.Path, name: str, dim: int, target: str, tune: str) -> None:
    check(assemble(tmp_path, name, "bf16", (dim, dim), target, tune))


@pytest.mark.slow
@pytest.mark.parametrize("dim", (64, 128, 192, 256))
@pytest.mark.parametrize("name", ("dense", "causal", "alibi", "t5_relative_bias"))
def test_short_calls(tmp_path: pathlib.Path, name: str, dim: int) -> None:
    check(assemble(tmp_path, name, "bf16", (dim, dim), "sm_90a", "keys=512"))


@pytest.mark.slow
@pytest.mark.parametrize("dim", (64, 128, 192, 256))
@pytest.mark.parametrize("name", BESIDE)
def test_beside(tmp_path: pathlib.Path, name: str, dim: int) -> None:
    check(assemble(tmp_path, name, "bf16", (dim, dim), "sm_90a"))
