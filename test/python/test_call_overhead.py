# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A call of flex_attention reaches its kernel within microseconds; benchmarks/bench_call.py prints how many."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")

from conftest import ROOT  # noqa: E402

sys.path.append(str(ROOT / "benchmarks"))

from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from bench_call import Probe, calls_to_measure, whole_us  # noqa: E402
from heed import hot  # noqa: E402


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe()


@pytest.mark.parametrize("name", calls_to_measure())
def test_time_until_the_kernel_starts(probe: Probe, name: str) -> None:
    if not hot.is_there and "given lists" in name:
        pytest.skip("Python reads lists with NumPy, in 50 to 100 us")
    call = calls_to_measure()[name]
    q = torch.randn(1, 1, 1, 64)
    limit, factor = (10, 1.5) if hot.is_there else (35, 4)
    for _ in range(10):  # the machine may be busy; then all that Python does is slow
        found, sdpa = probe.latency_us(call, 500), whole_us(lambda: scaled_dot_product_attention(q, q, q), 500)
        if found <= max(limit, factor * sdpa):
            return
    pytest.fail(f"expected at most {limit} us until the kernel starts, found {found:.1f} us; torch's whole call takes {sdpa:.1f} us")


def test_the_probe_sees_all_of_it(probe: Probe) -> None:
    """The time until the kernel starts is part of the whole call's."""
    call = calls_to_measure()["torch, dense"]
    with probe.in_place(call):
        whole = whole_us(call, 1000)
    assert 0 < probe.latency_us(call, 1000) < 2 * whole
