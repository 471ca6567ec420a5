# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What `lookup` costs, as every call of attention pays it."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from heed import tracing  # noqa: E402


def _mods() -> dict[str, tuple[Any, Any]]:
    window, cap = 128, 30.0
    doc = torch.zeros(4, 1024, dtype=torch.int32)

    def packed(b, h, q, kv):
        return (q >= kv) & (q - kv < window) & (doc[b, q] == doc[b, kv])

    def softcap(s, b, h, q, kv):
        return cap * torch.tanh(s / cap)

    return {"causal": (None, lambda b, h, q, kv: q >= kv), "a number and a tensor": (None, packed),
            "softcap and both": (softcap, packed)}


def microseconds(function: Callable[[], Any]) -> float:
    """Of CPU time, so that a busy machine does not fail the test."""
    return min(timeit.repeat(function, number=1000, repeat=20, timer=time.process_time)) * 1e3


@pytest.mark.parametrize("name", ["causal", "a number and a tensor", "softcap and both"])
def test_lookup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    mods = _mods()[name]
    tracing.lookup(*mods)
    cost = microseconds(lambda: tracing.lookup(*mods))
    with capsys.disabled():
        print(f"\nlookup, {name}: {cost:.2f} us")
    assert cost < 10
