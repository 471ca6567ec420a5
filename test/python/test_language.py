# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What docs/language.md says of constants, vectors and the precision of functions."""

from __future__ import annotations

import math

import heed
import numpy as np
import pytest
from heed import HeedError
from heed.variant import Variant

CONSTANT = ("3", "-3 + 5", "~3", "5 // 2", "5 % 3", "6 & 3", "1 << 2", "i32(7 / 2)", "i32(1.5 * 2.0)", "index(2)", "i32(1 < 2)",
            "abs(-3)", "square(2)", "relu(2)", "min(3, 4)", "max(3, 4)", "clamp(9, 0, 4)", "i32(floor(2.5))", "i32(ceil(2.5))",
            "where(true, 1, 2)", "if 1 < 2 && !(3 == 4) { 3 } else { 4 }")
CONSTANT_IN_BODIES = ("n * 2", "outer", "held", "changed")
NOT_CONSTANT = ("Sq", "D", "i32(5.0 // 2.0)", "i32(5.0 % 2.0)", "i32(sqrt(4.0))", "i32(exp(0.0))", "own(3)", "i32(2.0 * f)")


def _check(source: str) -> None:
    """HeedError if it is no program."""
    _ = Variant(source).params


def _loop(bound: str) -> str:
    return ("fn own(x: i32) { return x }\n"
            "variant v(const n: index = 3, f: f32 = 1) { score_mod(s, b, h, q, kv) {\n"
            "let held = 2\nlet mut changed = 1\nchanged = changed + 1\nlet mut sum = 0\n"
            f"for outer in 0..2 {{ for i in 0..{bound} {{ sum = sum + i }} }}\nreturn sum\n}} }}")


@pytest.mark.parametrize("expression", CONSTANT + CONSTANT_IN_BODIES)
def test_constants(expression: str) -> None:
    _check(_loop(expression))


@pytest.mark.parametrize("expression", CONSTANT)
def test_constants_as_defaults(expression: str) -> None:
    _check(f"variant v(x: i32 = {expression}) {{ }}")


@pytest.mark.parametrize("expression", NOT_CONSTANT)
def test_what_is_not_constant(expression: str) -> None:
    with pytest.raises(HeedError, match="bounds of a loop must be constant"):
        _check(_loop(expression))


@pytest.mark.parametrize("expression, error", [
    ("twice(t[q])", "'x' is f32, but this is a vector of 2 f32"), ("if t[q] > 0 { 1 } else { 0 }", "must be bool, but this is a vector"),
    ("sum(t[q] > 0)", "'sum' needs numbers"), ("f32(any(t[q]))", "'any' needs bools"), ("dot(t[q], 2)", "'dot' needs a vector")])
def test_where_vectors_cannot_go(expression: str, error: str) -> None:
    with pytest.raises(HeedError, match=error):
        _check("fn twice(x: f32) { return 2 * x }\n"
               f"variant v(t: f32[Sq, 2]) {{ score_mod(s, b, h, q, kv) {{ return {expression} }} }}")


def test_where_vectors_can_go() -> None:
    _check("fn row(t: f32[?, 2], i: index) { return t[i] }\n"
           "variant v(t: f32[Sq, 2]) { score_mod(s, b, h, q, kv) {\n"
           "let mut x = row(t, q)\nx = where(x > 0, max(x, 1.0), -x)\nreturn sum(x) + x[1] + dot(x, t[q])\n} }")


def _exact(name: str, x: np.ndarray) -> np.ndarray:
    if name in ("erf", "gelu"):
        erf = np.vectorize(math.erf)
        return erf(x) if name == "erf" else x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2
    others = {"rsqrt": lambda x: x ** -0.5, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "silu": lambda x: x / (1 + np.exp(-x))}
    return others[name](x) if name in others else getattr(np, name)(x)


@pytest.mark.parametrize("target", ("x86-64-v2", "x86-64-v3", "x86-64-v4"))
@pytest.mark.parametrize("name", ("exp", "exp2", "log", "log2", "log1p", "tanh", "sin", "cos", "sqrt", "rsqrt", "erf", "sigmoid",
                                  "silu", "gelu"))
def test_precision(name: str, target: str) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-12, 12, 4000), np.exp(rng.uniform(-30, 4, 4000)) * rng.choice([-1, 1], 4000)])
    if name in ("sin", "cos"):
        x = np.concatenate([x, rng.uniform(-1e7, 1e7, 4000)])
    x = x.astype(np.float32)
    if name in ("log", "log2", "sqrt", "rsqrt"):
        x = np.abs(x)
    if name == "log1p":
        x = np.maximum(x, np.float32(-0.9))
    exact = _exact(name, x.astype(np.float64))
    is_absolute = (name in ("sin", "cos")) | ((name == "gelu") & (x < 0))
    unit = np.where(is_absolute, 1, exact).astype(np.float32)
    kernel = heed.compile(f"variant v(exact: f32[Sq], unit: f32[Sq]) {{ score_mod(s, b, h, q, kv) {{ "
                          f"return ({name}(s) - exact[q]) / unit[q] * 1000000.0 }} }}", head_dim=1, target=target)
    one = np.ones((1, 1, 1, 1), np.float32)
    # With one key the log-sum-exp is its score.
    _, errors = kernel(x.reshape(1, 1, -1, 1), one, one, scale=1.0, return_lse=True, exact=exact.astype(np.float32), unit=unit)
    assert np.abs(errors).max() <= 0.55  # with the half unit that `exact` was rounded by


@pytest.mark.parametrize("target", ("x86-64-v2", "x86-64-v3", "x86-64-v4"))
@pytest.mark.parametrize("name", ("sin", "cos"))
def test_angles_of_any_size(name: str, target: str) -> None:
    rng = np.random.default_rng(1)
    x = (np.exp2(rng.uniform(0, 127.9, 8000)) * rng.choice([-1, 1], 8000)).astype(np.float32)
    x = np.concatenate([x, np.float32([np.finfo(np.float32).max, -np.finfo(np.float32).max, np.inf, -np.inf, np.nan])])
    kernel = heed.compile(f"variant v {{ score_mod(s, b, h, q, kv) {{ return {name}(s) }} }}", head_dim=1, target=target)
    one = np.ones((1, 1, 1, 1), np.float32)
    _, found = kernel(x.reshape(1, 1, -1, 1), one, one, scale=1.0, return_lse=True)
    assert np.isnan(found[0, 0, -3:]).all() and np.abs(found[0, 0, :-3]).max() <= 1 + 5e-7
    with np.errstate(invalid="ignore"):
        errors = np.abs(found.ravel() - getattr(np, name)(x.astype(np.float64)))
    assert errors[np.abs(x) < 1e10].max() < 1e-3 and errors[np.abs(x) < 1e13].max() < 0.2
