# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Functions that are formulas of others, against torch and NumPy in float64: as formulas, in f32, and in a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import heed  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from heed import tracing  # noqa: E402
from heed.tracing import semantics  # noqa: E402

from tracing_helpers import check  # noqa: E402

EDGES = [0.0, -0.0, 1e-6, -1e-6, 1e-20, -1e-20, 0.5, -0.5, 1.0, -1.0, 0.999999, -0.999999, 1.000001, 50.0, -50.0, 88.9, 1e4, -1e4,
         1e10, -1e10, 3e38, -3e38, np.inf, -np.inf, np.nan]
X = np.concatenate([np.linspace(-10, 10, 401), EDGES]).astype(np.float32).astype(np.float64)
# Of one argument: torch's by name, F's and torch.special's with their prefix.
UNARY = """atan arctan asin arcsin acos arccos sinh cosh asinh arcsinh acosh arccosh atanh arctanh erfc logit frac deg2rad rad2deg
    sinc nan_to_num F.hardtanh F.relu6 F.hardswish F.hardsigmoid F.mish F.selu F.celu F.tanhshrink F.softsign F.hardshrink
    F.softshrink F.elu special.expit special.erf special.erfc special.logit special.ndtr special.exp2 special.expm1 special.log1p
    special.sinc special.round""".split()
BINARY = "atan2 arctan2 hypot logaddexp logaddexp2 xlogy special.xlog1py copysign fmin fmax".split()


def _named(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr({"": torch, "F": F, "special": torch.special}[module], function)


FUNCTIONS: dict[str, Any] = {
    **{name: lambda x, y, name=name: _named(name)(x) for name in UNARY},
    **{name: lambda x, y, name=name: _named(name)(x, y) for name in BINARY},
    "signbit": lambda x, y: torch.signbit(x) * 1.0,
    "is inf": lambda x, y: torch.isposinf(x) * 1.0 + torch.isneginf(x) * 2,
    "isclose": lambda x, y: torch.isclose(x, y) * 1.0 + torch.isclose(x, y, rtol=0.5, atol=1.0, equal_nan=True) * 2,
    "parameters": lambda x, y: torch.logit(x, eps=0.25) + torch.nan_to_num(x, 1.0, posinf=2.0, neginf=-3.0).clamp(-9, 9),
    "activations": lambda x, y: (F.hardtanh(x, -2.0, 3.0) + F.threshold(x, 0.1, 20.0) * 0.5 + F.celu(x, alpha=0.7)
                                 + F.hardshrink(x, 2.0) + F.softshrink(x, 1.5)),
    "prelu": lambda x, y: F.prelu(x, torch.tensor([0.25], dtype=getattr(x, "dtype", None))),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.5) + x.addcdiv(y, y * y + 1, value=2),
    "ldexp": lambda x, y: torch.ldexp(x, torch.floor(y.clamp(-3, 3))),
    "methods": lambda x, y: x.sinh().asinh() + x.atan2(y) + x.copysign(y) + x.deg2rad() + x.arctan().hypot(y.sin()),
    "np.cbrt": lambda x, y: np.cbrt(x),
    "np.modf": lambda x, y: np.modf(x)[0] * 0.5 + np.modf(x)[1],
    "np.divmod": lambda x, y: sum(np.divmod(x, 0.75)),
    "numpy": lambda x, y: (np.arctan2(x, y) + np.arcsinh(x) + np.radians(x) + np.degrees(x) / 64 + np.around(x, 1) + np.fmax(x, y)
                           + np.signbit(x) + np.isclose(x, y) + np.logaddexp2(x, y)),
}
# Of integers, or without a float in reach.
INTEGERS: dict[str, Any] = {
    "divmod": lambda q, kv: divmod(q - kv, 3)[0] * 10 + divmod(q - kv, 3)[1] + divmod(100, q + 1)[1],
    "bitwise_count": lambda q, kv: np.bitwise_count(q * 37 - kv * 1001) + np.bitwise_count((q * 3 - kv).astype(np.int64) << 33),
    "signbit": lambda q, kv: np.signbit(q - kv) * 1 + np.nan_to_num(q - kv) + np.fmin(q, kv) - np.fmax(q, 3),
    "real": lambda q, kv: np.arctan2(q - kv, kv) + np.hypot(q, kv) + np.logaddexp(q, kv) + np.sinh(q - kv) + np.copysign(q, kv - 3),
}


def evaluate(function: Any) -> np.ndarray:
    """At all of X beside X turned around, and at pairs of edges."""
    return np.concatenate([np.ravel(function(x, y)) for x, y in PAIRS])


_edges = np.asarray(EDGES, np.float32).astype(np.float64)
PAIRS = [(X, X[::-1]), (X, X), *((_edges, np.full_like(_edges, y)) for y in _edges)]


def of_torch(function: Any, is_numpy: bool) -> np.ndarray:
    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(function(x, y) if is_numpy else function(torch.as_tensor(x.copy()), torch.as_tensor(y.copy())))

    with np.errstate(all="ignore"):
        return evaluate(at)


def of_trace(function: Any) -> np.ndarray:
    """x is the score, y a captured table's element."""
    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        table = torch.as_tensor(y.copy(), dtype=torch.float32)
        trace, values = tracing.lookup(lambda s, b, h, q, kv: function(s, table[q]), None)
        return trace.evaluate_score(values, x, 0, 0, np.arange(len(x)), 0)

    return evaluate(at)


def close(actual: np.ndarray, expected: np.ndarray, relative: float, absolute: float, name: str) -> None:
    """Where f32 has the number, its square and its sum with another."""
    with np.errstate(all="ignore"):
        told = ~((np.abs(expected) > 1e36) & np.isfinite(expected))
    np.testing.assert_allclose(actual[told], expected[told], rtol=relative, atol=absolute, err_msg=name)


# Polynomials for f32, or torch's formula is less exact in float64.
APPROXIMATE = {*"atan arctan asin arcsin acos arccos atan2 arctan2 erfc special.erfc special.ndtr methods numpy".split()}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_formula(name: str) -> None:
    function = FUNCTIONS[name]
    expected = of_torch(function, name.startswith(("np.", "num")))
    close(of_trace(function), expected, 3e-7 if name in APPROXIMATE else 2e-12, 1e-7 if name == "special.ndtr" else 1e-12, name)


@pytest.mark.parametrize("name", [*UNARY, *BINARY, "np.cbrt"])
def test_in_f32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = FUNCTIONS[name]
    expected = of_torch(function, name.startswith("np."))
    monkeypatch.setitem(semantics.NUMPY_TYPES, "f32", np.float32)
    tracing.clear()
    actual = of_trace(function).astype(np.float64)
    tracing.clear()
    finite = np.isfinite(expected) & np.isfinite(actual)  # f32 overflows earlier, between steps too
    tail = 1e-5 if "erfc" in name else 1e-6  # exp(-x²)
    close(actual[finite], expected[finite], tail, 3e-7, name)


@pytest.mark.parametrize("name", INTEGERS)
def test_of_integers(name: str) -> None:
    function = INTEGERS[name]
    q, kv = np.ix_(np.arange(12, dtype=np.int32), np.arange(12, dtype=np.int32))
    trace, values = tracing.lookup(lambda s, b, h, q, kv: s + function(q, kv), None)
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, 0, 0, q, kv), function(q, kv).astype(float), rtol=3e-7)
    check(trace)


def test_texts() -> None:
    table = torch.zeros(3)
    check(*(tracing.trace(lambda s, b, h, q, kv, f=function: f(s, table[q]), name=f"v{i}")
            for i, function in enumerate(FUNCTIONS.values())))


@pytest.mark.slow  # a kernel of all functions
def test_in_a_kernel() -> None:
    """A score for the only key is the row's largest."""
    names = [*UNARY, *BINARY, "np.cbrt"]
    x = np.linspace(-4, 4, 257).astype(np.float32)
    left, right = torch.as_tensor(x), torch.as_tensor(x[::-1].copy())

    def score(s, b, h, q, kv):
        for i, name in enumerate(names):
            s = torch.where(h == i, FUNCTIONS[name](left[q], right[q]), s)
        return s

    query = torch.zeros(1, len(names), len(x), 16)
    key = torch.zeros(1, len(names), 1, 16)
    _, aux = heed.flex_attention(query, key, key, score, return_aux=heed.AuxRequest(max_scores=True))
    for i, name in enumerate(names):
        actual = aux.max_scores[0, i].double().numpy()
        expected = np.asarray(FUNCTIONS[name](left.double() if name != "np.cbrt" else x.astype(float), right.double()), float)
        finite = np.isfinite(expected)
        np.testing.assert_allclose(actual[finite], expected[finite], rtol=2e-6, atol=3e-7, err_msg=name)


def test_shapes_of_one_value() -> None:
    def shaped(s, b, h, q, kv):
        return (s.reshape(()) + q.view(()) + kv.expand(()) + s.flatten()[0] + s.new_ones(1)[0] + s.reshape(-1)[0]
                + s.ravel().squeeze() + q.expand(3).sum() + s.new_full((1,), 2.0)[0] + torch.reshape(s, (1,)) + torch.stack([q, kv]).reshape(-1)[1]
                + np.broadcast_to(q, (2,))[1] + q.unsqueeze(0).squeeze(0) + s.new_zeros(()))

    trace, values = tracing.lookup(shaped, None)
    assert trace.evaluate_score(values, 0.5, 0, 0, 3, 5) == 0.5 * 5 + 3 + 5 + 1 + 3 * 3 + 2 + 5 + 3 + 3
    check(trace)
    with pytest.raises(tracing.TraceError, match=r"a value of 1 elements in a mod cannot get shape \(2, 2\)"):
        tracing.trace(lambda s, b, h, q, kv: s.expand(2, 2)[0, 0])


def test_changes_in_place() -> None:
    def both(s, b, h, q, kv):
        before = s.clone()
        F.hardtanh(s, inplace=True)
        return s + before

    assert "clamp(s, -1.0, 1.0) + s" in tracing.trace(both).source
    with pytest.raises(tracing.TraceError, match="not supported in a mod with these arguments"):
        tracing.trace(lambda s, b, h, q, kv: np.nan_to_num(s, copy=False))
    assert "clamp" in tracing.trace(lambda s, b, h, q, kv: F.relu6(s, inplace=False)).source
