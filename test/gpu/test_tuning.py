# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.tune on a GPU: what it finds runs, is right, is not slower, and is kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from support import DEVICE, Shape, causal, check_flex, inputs

import heed
from heed import tuning, variant

pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="CPUs have one schedule; test/python has the rest")


def test_tune(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path))
    variant.clear_memory()
    shape = Shape(2, 8, 4, 1000, 3000)
    q, k, v = inputs(shape)
    measured: list[tuning.Measured] = []
    best = tuning.best

    def note(found):
        measured.extend(found)
        return best(found)

    monkeypatch.setattr(tuning, "best", note)
    options = heed.tune(q, k, v, mask_mod=causal, enable_gqa=True)
    assert len(measured) >= 6 and set(options) in (set(), {"BLOCK_N", "num_warpgroups", "num_stages"})
    assert all(0 < m.seconds < 0.1 for m in measured), measured
    check_flex(q, k, v, mask_mod=causal, kernel_options=options)
    start, count = time.perf_counter(), len(measured)
    assert heed.tune(q, k, v, mask_mod=causal, enable_gqa=True) == options
    assert len(measured) == count and time.perf_counter() - start < 0.5
    variant.clear_memory()


def test_command(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-m", "heed", "tune", str(ROOT / "examples" / "packed_documents.heed"), "--head-dim=64", "--q=2048",
                           "--batch=2"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
                          env={**os.environ, "HEED_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"as chosen +\d+\.\d us +1\.00", line) for line in lines), done.stdout
    assert len([line for line in lines if re.match(r"groups=\d,block_kv=\d+,stages=\d +\d+\.\d us", line)]) >= 6, done.stdout
    assert re.fullmatch(r"heedc --tune=groups=\d,block_kv=\d+,stages=\d|nothing is faster than what is chosen", lines[-1])
