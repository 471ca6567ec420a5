# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Every mask and score of attention-gym: traced, and compared with torch's vmap and with heed-interpret."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gym_mods import GYM, Case  # noqa: E402
from heed import oracle, tracing  # noqa: E402

from tracing_helpers import check, grid, values_of  # noqa: E402


def dense(function: Any, case: Case, *scores: Any) -> np.ndarray:
    """The function for all pairs by torch.vmap, as FlexAttention's reference does it."""
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        function = torch.vmap(function, in_dims=((0,) if scores else ()) + dims)
    arguments = [torch.arange(n, dtype=torch.int32) for n in (case.B, case.H, case.Sq, case.Skv)]
    with torch.no_grad():
        return function(*scores, *arguments).expand(case.B, case.H, case.Sq, case.Skv).numpy()


@pytest.mark.parametrize("name", GYM)
def test_gym(name: str) -> None:
    case = GYM[name](np.random.default_rng(0))
    trace, values = tracing.lookup(case.score_mod, case.mask_mod)
    path = check(trace)
    at = grid(case.B, case.H, case.Sq, case.Skv)
    if case.mask_mod is not None:
        expected = dense(case.mask_mod, case)
        actual = trace.evaluate_mask(values, *at)
        assert actual.dtype == np.bool_
        np.testing.assert_array_equal(actual, expected)
        extents = {"B": case.B, "Hq": case.H, "Hkv": case.H, "Sq": case.Sq, "Skv": case.Skv}
        pairs = oracle.pairs(path, extents, b=case.B - 1, h=1, params=values_of(trace, values))
        np.testing.assert_array_equal(pairs, expected[case.B - 1, 1].sum(-1))
    if case.score_mod is not None:
        scores = np.random.default_rng(1).standard_normal((case.B, case.H, case.Sq, case.Skv)) * 5
        expected = dense(case.score_mod, case, torch.from_numpy(scores))
        actual = trace.evaluate_score(values, scores, *at)
        # A float32 table or dot is rounded to float32 by torch before it meets the score.
        exact = not any(param.dtype == "f32" and param.rank > 0 for param in trace.params) and name != "alibi"
        tolerance = 1e-12 if exact else 1e-5
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["alibi", "sandwich", "graphormer_edge", "mla_rope", "causal_score", "activation_gelu_tanh",
                                  "activation_softplus"])
def test_scores_by_the_interpreter(name: str) -> None:
    """The text computes what the graph computes: rows of attention, with the score read off the log-sum-exp."""
    case = GYM[name](np.random.default_rng(0))
    trace, values = tracing.lookup(case.score_mod, case.mask_mod)
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((case.B, case.H, n, 8)).astype(np.float32) for n in (case.Sq, case.Skv))
    rows = [(b, h, i) for b in range(case.B) for h in (0, 3) for i in (0, 1, 17, case.Sq - 1)]
    _, lse = oracle.rows(check(trace), q, k, k, rows, params=values_of(trace, values), scale=0.5)
    at = grid(case.B, case.H, case.Sq, case.Skv)
    scores = 0.5 * np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k.astype(np.float64))
    s = np.where(trace.evaluate_mask(values, *at), trace.evaluate_score(values, scores, *at), -np.inf)
    expected = np.log(np.exp(s).sum(-1))
    np.testing.assert_allclose(lse, [expected[row] for row in rows], rtol=1e-6, atol=1e-6)


def test_text_is_readable() -> None:
    def source(name: str) -> str:
        case = GYM[name](np.random.default_rng(0))
        text = tracing.trace(case.score_mod, case.mask_mod).source
        return "".join(line for line in text.splitlines(True) if not line.startswith("//"))

    assert source("sliding_window") == """\
variant traced(window: i32) {
  mask_mod(b, h, q, kv) { return q - kv <= window && q >= kv }
}
"""
    assert source("mla_rope") == """\
variant traced(scale_: f32, q_pe: f32[?, ?, ?, 16], k_pe: f32[?, ?, ?, 16], group: i32) {
  score_mod(s, b, h, q, kv) { return s + scale_ * dot(q_pe[b, h, q], k_pe[b, h // group, kv]) }
}
"""
    assert source("sandwich") == """\
variant traced(table: f32[?], length: i32, table_len: i32, heads: i32) {
  score_mod(s, b, h, q, kv) {
    let i0 = q - kv + (length - 1)
    return s + table[where(i0 < 0, i0 + table_len, i0)] * heads / (8.0 * (h + 1))
  }
}
"""
    assert source("vsa_topk") == """\
variant traced(chosen: i64[?, ?, ?, 3], tile: i32, sizes: i32[?]) {
  mask_mod(b, h, q, kv) {
    let kv_tile = kv // tile
    return any(chosen[b, h, q // tile] == kv_tile) && kv % tile < sizes[kv_tile]
  }
}
"""
