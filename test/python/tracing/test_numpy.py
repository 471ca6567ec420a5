# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Mods in NumPy: by themselves, where torch cannot even be imported, and random ones against NumPy itself."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from heed import tracing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracing_helpers import ROOT, check, grid

AT = grid(1, 2, 9, 11)
SCORES = np.random.default_rng(3).standard_normal((1, 2, 9, 11)) * 4
doc = np.sort(np.random.default_rng(4).integers(0, 4, (1, 11)), axis=1)
slopes = np.array([0.5, 0.25], np.float32)

FUNCTIONS: dict[str, Any] = {
    "alibi": lambda s, b, h, q, kv: s + slopes[h] * (kv - q),
    "softcap": lambda s, b, h, q, kv: 20.0 * np.tanh(s / 20.0),
    "where": lambda s, b, h, q, kv: np.where(np.logical_and(q >= kv, doc[b, q] == doc[b, kv]), s, -np.inf),
    "functions": lambda s, b, h, q, kv: (np.exp(-np.abs(s)) + np.log1p(np.square(s)) + np.sqrt(np.abs(s)) + np.sin(q) * np.cos(kv)
                                         + np.minimum(q, kv) + np.maximum(s, 0) + np.clip(q - kv, -2, 2) + np.power(s, 2)
                                         + np.floor(s) + np.ceil(s) + np.rint(s) + np.sign(s) + np.exp2(-q) + np.expm1(s / 9)),
    "integers": lambda s, b, h, q, kv: (np.floor_divide(q - kv, 3) + np.remainder(q - kv, 3) + np.fmod(q - kv, 3)
                                        + np.bitwise_and(q, 3) + np.left_shift(q, 2) + np.right_shift(kv, 1) + np.invert(q)),
    "casts": lambda s, b, h, q, kv: (s.astype(np.int32) + np.logical_not(q > kv) * 2 + (q > kv).astype(int) + q.astype(np.float64) / 7
                                     + np.isnan(s) + np.not_equal(q, kv)),
    "looked up": lambda s, b, h, q, kv: s + np.searchsorted(doc[0], kv) + np.searchsorted(slopes[::-1], 0.3, side="right"),
    "scalars": lambda s, b, h, q, kv: np.float32(0.5) * s + np.int32(3) * q + np.float64(2.0) ** -q.astype(float),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function = FUNCTIONS[name]
    trace, values = tracing.lookup(function, None)
    expected = np.broadcast_to(function(SCORES, *AT), SCORES.shape)
    np.testing.assert_allclose(trace.evaluate_score(values, SCORES, *AT), expected, rtol=1e-12, atol=1e-12)


def test_without_torch() -> None:
    """In a process in which torch cannot be imported."""
    program = """
        import sys
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ImportError("blocked")
        sys.meta_path.insert(0, Blocker())
        import math
        import numpy as np
        from heed import tracing
        doc = np.array([[0, 0, 1, 1]], np.int64)
        bias = np.ones((2, 4))
        def mask(b, h, q, kv):
            return (q >= kv) & (doc[b, q] == doc[b, kv])
        def score(s, b, h, q, kv):
            return np.where(s > 0, s, s * 0.5) + bias[h][q]
        trace, values = tracing.lookup(score, mask)
        assert [p.dtype for p in trace.params] == ["f32", "i64"] and values[1] is doc, trace.params
        b, h, q, kv = np.ix_(range(1), range(2), range(4), range(4))
        assert (tracing.evaluate(mask, b, h, q, kv) == mask(b, h, q, kv)).all()
        try:
            tracing.trace(lambda s, b, h, q, kv: math.tanh(s))
        except tracing.TraceError as error:
            assert "np.tanh" in str(error)
        try:
            tracing.trace(lambda s, b, h, q, kv: s.frobnicate())
        except tracing.TraceError as error:
            assert "frobnicate" in str(error)
        assert "torch" not in sys.modules
        print("done")
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60,
                            env={"PYTHONPATH": str(ROOT / "python")})
    assert result.stdout == "done\n", result.stderr


# ---- Random expressions ----

_INTEGERS = st.sampled_from(["q", "kv", "h", "b", "w", "1", "-3", "7", "table[q]", "table[q - kv]"])
_FLOATS = st.sampled_from(["s", "cap", "0.5", "-2.0"])


def _integer(inner: Any) -> Any:
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(pair, st.sampled_from(["+", "-", "*", "&", "|", "^"])).map(lambda x: f"({x[0][0]} {x[1]} {x[0][1]})"),
        st.tuples(inner, st.sampled_from(["// 3", "% 5", "// -4", "% -7", ">> 2", "<< 1", "// w", "% w"])).map(lambda x: f"({x[0]} {x[1]})"),
        inner.map(lambda x: f"abs({x})"), inner.map(lambda x: f"(-{x})"), inner.map(lambda x: f"(~{x})"),
        pair.map(lambda x: f"np.minimum({x[0]}, {x[1]})"), pair.map(lambda x: f"np.maximum({x[0]}, {x[1]})"),
        st.tuples(pair, pair).map(lambda x: f"np.where({x[0][0]} < {x[0][1]}, {x[1][0]}, {x[1][1]})"))


def _float(integers: Any) -> Any:
    def extend(inner: Any) -> Any:
        pair = st.tuples(inner, inner)
        return st.one_of(
            st.tuples(pair, st.sampled_from(["+", "-", "*"])).map(lambda x: f"({x[0][0]} {x[1]} {x[0][1]})"),
            st.tuples(inner, integers).map(lambda x: f"({x[0]} + {x[1]})"),
            inner.map(lambda x: f"np.tanh({x})"), inner.map(lambda x: f"np.abs({x})"), inner.map(lambda x: f"np.square(np.sin({x}))"),
            st.tuples(integers, pair).map(lambda x: f"np.where({x[0]} > 2, {x[1][0]}, {x[1][1]})"),
            inner.map(lambda x: f"({x} / 3)"))
    return st.recursive(_FLOATS, extend, max_leaves=6)


_INTEGER = st.recursive(_INTEGERS, _integer, max_leaves=8)
_BOOL = st.recursive(
    st.tuples(_INTEGER, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), _INTEGER).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
    lambda inner: st.one_of(st.tuples(inner, st.sampled_from(["&", "|", "^", "=="]), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
                            inner.map(lambda x: f"(~{x})")), max_leaves=4)
_table = np.random.default_rng(5).integers(-9, 9, 30).astype(np.int32)


class _Wrapping:
    """A table that NumPy reads as the language does: from the end if negative, 0 outside."""

    def __getitem__(self, index: Any) -> Any:
        index = np.asarray(index)
        index = np.where(index < 0, index + 30, index)
        inside = (index >= 0) & (index < 30)
        return np.where(inside, _table[np.where(inside, index, 0)], 0).astype(np.int32)


def _function(arguments: str, text: str, table: Any) -> Any:
    # ~ of a Python bool is an integer; of NumPy's it is what the tracer takes it for.
    scope = {"np": np, "table": table, "w": 5 if table is _table else np.int32(5), "cap": 1.5}
    exec(f"def mod({arguments}):\n    return {text}\n", scope)
    return scope["mod"]


def _int32(arrays: Any) -> list[np.ndarray]:
    return [array.astype(np.int32) for array in arrays]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(_BOOL)
def test_random_masks(text: str) -> None:
    # Without b and h in use NumPy gives smaller arrays, and Python constants give none.
    with np.errstate(all="ignore"):
        expected = _function("b, h, q, kv", text, _Wrapping())(*_int32(AT))
    function = _function("b, h, q, kv", text, _table)
    try:
        trace = tracing.trace(None, function)
    except tracing.TraceError as error:
        assert "returns" in str(error)  # constants only
        return
    actual = trace.evaluate_mask(trace.values(None, function), *AT)
    np.testing.assert_array_equal(actual, np.broadcast_to(np.asarray(expected).astype(bool), actual.shape), err_msg=trace.source)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(_float(_INTEGER))
def test_random_scores(text: str) -> None:
    with np.errstate(all="ignore"):
        expected = _function("s, b, h, q, kv", text, _Wrapping())(SCORES, *_int32(AT))
    function = _function("s, b, h, q, kv", text, _table)
    trace = tracing.trace(function)
    actual = trace.evaluate_score(trace.values(function, None), SCORES, *AT)
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), rtol=1e-12, atol=1e-12, err_msg=trace.source)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(mask=_BOOL, score=_float(_INTEGER))
def test_random_text(mask: str, score: str) -> None:
    functions = _function("s, b, h, q, kv", score, _table), _function("b, h, q, kv", mask, _table)
    try:
        trace = tracing.trace(*functions)
    except tracing.TraceError:
        return
    check(trace)
