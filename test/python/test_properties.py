# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Random shapes, layouts and masks. Mask texts are drawn together with their NumPy meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import Kernels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import EXAMPLES, At, Shape, Variant, attention, check, compare, decode, random_inputs, run

COMMON = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LENGTH = st.one_of(st.integers(0, 20), st.integers(0, 400), st.sampled_from((63, 64, 65, 127, 128, 129, 255, 256, 257)))


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    kv_heads = draw(st.integers(1, 3))
    return Shape(draw(st.integers(1, 3)), kv_heads * draw(st.integers(1, 4)), kv_heads, draw(LENGTH), draw(LENGTH))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ("f32", "bf16", "f16"))
@settings(max_examples=60, **COMMON)
@given(st.data())
def test_random_shapes(kernels: Kernels, dtype: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))
    check(kernels(name, dtype, 64), EXAMPLES[name], data.draw(shapes()), seed=data.draw(st.integers(0, 1000)),
          scale=data.draw(st.sampled_from((None, None, 0.3, -0.1))), threads=data.draw(st.integers(1, 3)))


@settings(max_examples=60, **COMMON)
@given(shape=shapes(), seed=st.integers(0, 1000), order=st.permutations(range(3)), step=st.integers(1, 3))
def test_random_layouts(kernels: Kernels, shape: Shape, seed: int, order: list[int], step: int) -> None:
    kernel = kernels("causal", "f32", 24, 40)

    def lay_out(x: np.ndarray) -> np.ndarray:
        axes = (*order, 3)
        big = np.full(tuple(step * x.shape[a] for a in order) + (x.shape[3] + step,), np.nan, np.float32)
        view = big[::step, ::step, ::step, :x.shape[3]].transpose(np.argsort(axes))
        view[...] = x
        return view

    q, k, v = (lay_out(x) for x in random_inputs(np.random.default_rng(seed), shape, 24, 40, "f32"))
    out, lse = run(kernel, q, k, v)
    compare(out, lse, attention(EXAMPLES["causal"], *(decode(x, "f32") for x in (q, k, v)), 24**-0.5, {}), "f32", str(shape))


# -- Masks -----------------------------------------------------------------------------------------

INTEGERS = st.deferred(lambda: st.one_of(
    st.sampled_from(("q", "kv", "h", "b", "w", "q - kv", "kv - q", "Sq", "Skv", "ids[kv]", "ids[q]")), st.integers(-40, 300).map(str),
    st.tuples(INTEGERS, st.sampled_from(("+", "-")), INTEGERS).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    st.tuples(INTEGERS, st.sampled_from(("//", "%", "*")), st.integers(1, 40)).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    st.tuples(st.sampled_from(("min", "max")), INTEGERS, INTEGERS).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
    INTEGERS.map(lambda x: f"abs({x})")))
BOOLEANS = st.deferred(lambda: st.one_of(
    st.tuples(INTEGERS, st.sampled_from(("<", "<=", ">", ">=", "==", "!=")), INTEGERS).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    st.tuples(BOOLEANS, st.sampled_from(("&&", "||")), BOOLEANS).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    BOOLEANS.map(lambda x: f"!({x})")))


class _Wrapping:
    """NumPy arrays that mean what the language means by integers: 32 bits, an index outside reads 0."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        inside = (index >= 0) & (index < len(self._ids))
        return np.where(inside, self._ids[np.where(inside, index, 0)] if len(self._ids) else 0, 0).astype(np.int32)


def evaluate(text: str, at: At, w: int, ids: np.ndarray) -> np.ndarray:
    python = text.replace("&&", "&").replace("||", "|").replace("!(", "negate(")
    i32 = lambda x: np.asarray(x, np.int32)  # noqa: E731
    names = {"q": i32(at.q), "kv": i32(at.kv), "h": i32(at.h), "b": i32(at.b), "w": i32(w), "Sq": i32(at.shape.Sq),
             "Skv": i32(at.shape.Skv), "ids": _Wrapping(ids), "min": np.minimum, "max": np.maximum, "abs": np.abs,
             "negate": np.logical_not}
    with np.errstate(all="ignore"):
        return np.asarray(eval(python, {"__builtins__": {}}, names), bool)


@pytest.mark.slow
@settings(max_examples=80, **COMMON)
@given(mask=BOOLEANS, seed=st.integers(0, 100), w=st.integers(-5, 200), sorted_ids=st.booleans())
def test_random_masks(kernels: Kernels, mask: str, seed: int, w: int, sorted_ids: bool) -> None:
    source = f"variant v(w: index, ids: i32[?]) {{ mask_mod(b, h, q, kv) {{ return {mask} }} }}\n"
    kernel = kernels("v", "f32", 8, source=source)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 6, 250).astype(np.int32)
    ids = np.sort(ids) if sorted_ids else ids
    variant = Variant("v", None, lambda at, p: evaluate(mask, at, w, ids))
    for shape in (Shape(2, 2, 1, 200, 300), Shape(1, 1, 1, 300, 130)):
        check(kernel, variant, shape, params={"w": w, "ids": ids})


def test_the_harness_notices(kernels: Kernels) -> None:
    """A mask that is off by one must not pass."""
    wrong = Variant("causal", None, lambda at, p: at.q > at.kv)
    with pytest.raises(AssertionError, match="elements differ"):
        check(kernels("causal"), wrong, Shape())
    assert math.isclose(attention(EXAMPLES["dense"], *np.ones((3, 1, 1, 2, 4)), 0.5, {}).lse[0, 0, 0], 2 + math.log(2))
