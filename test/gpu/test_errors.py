# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What is refused, in which words, and that a good call works right after it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import ROOT
from support import DEVICE, Shape, alibi, causal, check_flex, inputs, poisoned, slopes_of

import heed

pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="test/python has these for CPUs")
if DEVICE.type != "cpu":
    Q, K, V = inputs(Shape(2, 4, 4, 150, 150))
    SLOPES = slopes_of(4)
    OTHER = SLOPES.cpu()
    CAUSAL = heed.load(ROOT / "examples" / "causal.heed")
    ALIBI = heed.load(ROOT / "examples" / "alibi.heed")
flex = heed.flex_attention
# the call, what it raises, and what the message matches
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "captured tensor on the CPU": (lambda: flex(Q, K, V, alibi(OTHER)), heed.HeedError, "'slopes'.*(cpu|CPU)"),
    "captured tensor on the GPU of a call on the CPU": (lambda: flex(Q.cpu(), K.cpu(), V.cpu(), alibi(SLOPES)), heed.HeedError,
                                                        "'slopes'.*cuda"),
    "parameter on the CPU": (lambda: ALIBI(Q, K, V, slope=OTHER), heed.HeedError, "'slope'.*(cpu|CPU)"),
    "key on the CPU": (lambda: flex(Q, K.cpu(), V), ValueError, "Expected query, key, and value to have the same device type"),
    "key of a variant on the CPU": (lambda: CAUSAL(Q, K.cpu(), V), heed.HeedError, "'key'.*(cpu|CPU)"),
    "output on the CPU": (lambda: CAUSAL(Q, K, V, out=poisoned(Q.cpu(), 64)[0]), heed.HeedError, "'output'.*(cpu|CPU)"),
    "LSE on the CPU": (lambda: CAUSAL(Q, K, V, lse=poisoned(Q.cpu(), 64)[1]), heed.HeedError, "'lse'.*(cpu|CPU)"),
    "output of another shape": (lambda: CAUSAL(Q, K, V, out=poisoned(Q[:, :, 1:], 64)[0]), heed.HeedError, "'output'"),
    "output of another type": (lambda: CAUSAL(Q, K, V, out=poisoned(Q.half(), 64)[0]), heed.HeedError, "'output'"),
    "heads": (lambda: flex(Q, K[:, :2], V[:, :2]), ValueError, "Try setting enable_gqa=True"),
    "head dims": (lambda: flex(Q, K[..., :32], V), ValueError, "same embedding dimension"),
    "f64": (lambda: flex(Q.double(), K.double(), V.double()), NotImplementedError, "`torch.float` ,"),
    "too few slopes": (lambda: ALIBI(Q, K, V, slope=SLOPES[:2]), heed.HeedError, "'slope'"),
    "slopes of another type": (lambda: ALIBI(Q, K, V, slope=SLOPES.double()), heed.HeedError, "'slope'"),
    "no slopes": (lambda: ALIBI(Q, K, V), heed.HeedError, "'slope' is missing"),
    "a mod that can't be traced": (lambda: flex(Q, K, V, lambda s, b, h, i, j: s if i > j else -s), heed.TraceError, ""),
    "gradients": (lambda: _with_gradients(), NotImplementedError, "backward"),
}


def _with_gradients() -> Any:
    with torch.enable_grad():
        return flex(Q.clone().requires_grad_(), K, V)


@pytest.mark.parametrize("what", BAD)
def test_refused(what: str) -> None:
    call, kind, words = BAD[what]
    with pytest.raises(kind, match=words):
        call()
    torch.cuda.synchronize()
    check_flex(Q, K, V, alibi(SLOPES), causal, what=f"after {what}")


def test_out_of_memory() -> None:
    """An output that can't be allocated: torch's error, and the next call works."""
    free, _ = torch.cuda.mem_get_info()
    rows = free // (4 * 512 * 2) + (1 << 20)
    q = torch.zeros(1, 1, 1, 512, dtype=torch.bfloat16, device=DEVICE).expand(1, 4, rows, 512)
    with pytest.raises((torch.OutOfMemoryError, heed.HeedError)):
        flex(q, q[:, :, :1], q[:, :, :1])
    torch.cuda.empty_cache()
    check_flex(Q, K, V, None, causal)


def test_captures_outside_their_tensor() -> None:
    """Indices below 0 count from the end; reads beyond either end give 0, on the device as on CPUs."""
    table = torch.randn(60, device=DEVICE)
    padded = torch.cat([torch.zeros(240, device=DEVICE), table, table, torch.zeros(300, device=DEVICE)])
    found = flex(Q, K, V, lambda s, b, h, i, j: s + table[j - i])
    same = flex(Q, K, V, lambda s, b, h, i, j: s + padded[j - i + 300])
    assert (found.float() - same.float()).norm() <= 6e-3 * same.float().norm()
