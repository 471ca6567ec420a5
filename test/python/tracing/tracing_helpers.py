# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Helpers of the tracer's tests: heedc's opinion of a trace, and dense evaluation."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import numpy as np
from heed import tracing

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
os.environ.setdefault("HEED_INTERPRET", str(BUILD / "bin" / "heed-interpret"))


_directory = tempfile.TemporaryDirectory(prefix="heed-traces-")
_numbers = itertools.count()


def _heedc(*arguments: object) -> str:
    result = subprocess.run([str(BUILD / "bin" / "heedc"), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def check(*traces: tracing.Trace) -> pathlib.Path:
    """The program of these traces, which heedc finds valid and in canonical layout."""
    path = pathlib.Path(_directory.name) / f"{next(_numbers)}.heed"
    source = "\n".join(trace.source for trace in traces)
    path.write_text(source)
    try:
        _heedc("--check", path)
        formatted = _heedc("--format", path, "-o", "-")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{source}") from None
    assert formatted == source
    return path


def grid(B: int, H: int, Sq: int, Skv: int) -> tuple[np.ndarray, ...]:
    """Coordinates b, h, q, kv that broadcast to all pairs."""
    return np.ix_(range(B), range(H), range(Sq), range(Skv))


def values_of(trace: tracing.Trace, values: list[Any]) -> dict[str, Any]:
    """Values by name, tensors as arrays, as heed.oracle takes them."""
    def convert(value: Any, dtype: str) -> Any:
        if isinstance(value, (int, float)):
            return value
        if hasattr(value, "detach"):
            value = value.detach()
            if dtype == "bf16":
                import torch
                return value.view(torch.uint16).numpy()
            value = value.numpy()
        return np.asarray(value)

    return {param.name: convert(value, param.dtype) for param, value in zip(trace.params, values)}
