# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Helpers of the tracer's tests: heedc's opinion of a trace, and dense evaluation."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
os.environ.setdefault("HEED_INTERPRET", str(BUILD / "bin" / "heed-interpret"))
sys.path[:0] = [str(ROOT / "python"), str(pathlib.Path(__file__).parent)]

from heed import tracing  # noqa: E402


class Compiler:
    """heedc's front end."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._count = 0

    def write(self, trace: tracing.Trace) -> pathlib.Path:
        self._count += 1
        path = self._directory / f"{self._count}.heed"
        path.write_text(trace.source)
        return path

    def _run(self, *arguments: object) -> str:
        result = subprocess.run([str(BUILD / "bin" / "heedc"), *map(str, arguments)], capture_output=True, text=True,
                                timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def check(self, trace: tracing.Trace) -> pathlib.Path:
        """The program is valid, and in canonical layout."""
        path = self.write(trace)
        try:
            self._run("--check", path)
            formatted = self._run("--format", path, "-o", "-") or path.read_text()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{trace.source}") from None
        assert formatted == trace.source
        return path


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("traces"))


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
