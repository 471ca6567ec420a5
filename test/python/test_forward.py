# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Compiled kernels against dense evaluation: every example, type and CPU level, and the corners."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from conftest import ROOT, X86_TARGETS, Kernels
from reference import (EXAMPLES, At, Params, Shape, Variant, attention, check, compare, decode, encode, poisoned,
                       random_inputs, run)

DTYPES = ("f32", "bf16", "f16")
LENGTHS = (0, 1, 37, 64, 127, 128, 129, 300)
# Quick tests have the two that most machines run.
TARGETS = [pytest.param(x, marks=() if x in ("x86-64-v3", "x86-64-v4+bf16") else pytest.mark.slow) for x in X86_TARGETS]
CAUSAL, DENSE = EXAMPLES["causal"], EXAMPLES["dense"]


def test_every_example_has_a_formula() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.heed")} == set(EXAMPLES)


# -- Every example, type and target ----------------------------------------------------------------

@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dtype", ("f32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("bf16", "f16"))))
def test_example(kernels: Kernels, name: str, dtype: str) -> None:
    kernel = kernels(name, dtype, 64)
    for shape in (Shape(2, 4, 2, 300, 300), Shape(1, 2, 2, 129, 257), Shape(2, 3, 1, 260, 100), Shape(1, 1, 1, 1, 1)):
        check(kernel, EXAMPLES[name], shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", X86_TARGETS)
def test_example_on_target(kernels: Kernels, name: str, dtype: str, target: str) -> None:
    kernel = kernels(name, dtype, 40, 24, target=target)
    assert kernel.target == target
    for shape in (Shape(2, 2, 1, 200, 200), Shape(1, 3, 3, 65, 130), Shape(1, 2, 1, 300, 170)):
        check(kernel, EXAMPLES[name], shape, seed=1)


# -- Shapes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("causal", "bert_padding", "sliding_window"))
def test_lengths(kernels: Kernels, name: str, dtype: str) -> None:
    kernel = kernels(name, dtype, 64)
    for sq, skv in itertools.product(LENGTHS, LENGTHS):
        check(kernel, EXAMPLES[name], Shape(1, 2, 1, sq, skv), seed=sq * 1000 + skv)


@pytest.mark.parametrize("batch, heads, kv_heads", [(1, 1, 1), (2, 8, 8), (2, 8, 2), (3, 8, 1), (1, 6, 3), (0, 2, 1),
                                                    (2, 0, 0), (5, 71, 1)])
def test_heads(kernels: Kernels, batch: int, heads: int, kv_heads: int) -> None:
    check(kernels("causal", "f32", 64), CAUSAL, Shape(batch, heads, kv_heads, 70, 90))


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", (1, 2, 7, 16, 64, 80, 96, 128, 192, 256, 512, 576))
@pytest.mark.parametrize("dtype", DTYPES)
def test_head_dims(kernels: Kernels, dtype: str, head_dim: int) -> None:
    check(kernels("causal", dtype, head_dim), CAUSAL, Shape(1, 2, 1, 130, 200))


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", (1, 2, 7, 16, 80, 128, 256, 512, 576))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", ("x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"))
def test_head_dims_on_target(kernels: Kernels, target: str, dtype: str, head_dim: int) -> None:
    check(kernels("causal", dtype, head_dim, target=target), CAUSAL, Shape(1, 2, 1, 130, 140))


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(64, 1), (1, 64), (7, 13), (96, 33), (192, 128), (128, 512), (512, 3), (576 - 64, 257)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_head_dims(kernels: Kernels, dtype: str, dims: tuple[int, int]) -> None:
    check(kernels("causal", dtype, *dims), CAUSAL, Shape(1, 2, 1, 100, 140))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_broadcast(kernels: Kernels, dtype: str) -> None:
    check(kernels("causal", dtype, 64), CAUSAL, Shape(3, 4, 2, 70, 150), batch_kv=1)


# -- Strides ---------------------------------------------------------------------------------------

def _padded(x: np.ndarray, dtype: str) -> np.ndarray:
    """The same values with poisoned room around them."""
    room = poisoned(tuple(n + 3 for n in x.shape), dtype)
    view = room[1:-2, 1:-2, 1:-2, 1:-2]
    view[...] = x
    return view


def _bshd(x: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def _backwards(x: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]


def _every_third(x: np.ndarray, dtype: str) -> np.ndarray:
    room = poisoned(x.shape[:2] + (3 * x.shape[2], x.shape[3]), dtype)
    room[:, :, ::3] = x
    return room[:, :, ::3]


@pytest.mark.parametrize("layout", (_padded, _bshd, _backwards, _every_third))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [(64, 64), (7, 13)])
def test_strides(kernels: Kernels, layout, dtype: str, dims: tuple[int, int]) -> None:
    kernel = kernels("causal", dtype, *dims)
    shape = Shape(2, 4, 2, 131, 150)
    q, k, v = random_inputs(np.random.default_rng(5), shape, *dims, dtype)
    out = layout(poisoned((2, 4, 131, dims[1]), dtype), dtype)
    base = out if out.base is None else out.base
    before = base.copy()
    lse = np.full((2, 131, 8), np.nan, np.float32)[:, :, ::2].transpose(0, 2, 1)
    kernel(layout(q, dtype), layout(k, dtype), layout(v, dtype), out=out, lse=lse)
    expected = attention(CAUSAL, *(decode(x, dtype) for x in (q, k, v)), 1 / math.sqrt(dims[0]), {})
    compare(out, lse, expected, dtype, layout.__name__)
    assert np.isnan(lse.base.reshape(-1)[1::2]).all(), "wrote between the LSEs"
    out[...] = poisoned(out.shape, dtype)
    assert base.tobytes() == before.tobytes(), "wrote outside the output"


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_strides(kernels: Kernels, dtype: str) -> None:
    kernel = kernels("causal", dtype, 64)
    rng = np.random.default_rng(6)
    q, k, v = random_inputs(rng, Shape(1, 1, 1, 100, 120), 64, 64, dtype)
    q, k, v = np.broadcast_to(q, (3, 4, 100, 64)), np.broadcast_to(k, (3, 2, 120, 64)), np.broadcast_to(v, (3, 2, 120, 64))
    out, lse = run(kernel, q, k, v)
    compare(out, lse, attention(CAUSAL, *(decode(x, dtype) for x in (q, k, v)), 1 / 8, {}), dtype)
    one_key = np.broadcast_to(k[:, :, :1], k.shape)
    out, lse = run(kernel, q, one_key, v)
    compare(out, lse, attention(CAUSAL, *(decode(x, dtype) for x in (q, one_key, v)), 1 / 8, {}), dtype)


def test_capture_strides(kernels: Kernels) -> None:
    shape = Shape(2, 4, 2, 140, 140)
    rng = np.random.default_rng(7)
    doc = EXAMPLES["packed_documents"].params(shape, rng)["doc"]
    wide = np.full((140, 5), -9, np.int32)
    wide[:, 1:3] = doc.T
    check(kernels("packed_documents"), EXAMPLES["packed_documents"], shape, params={"doc": wide[:, 1:3].T})
    slope = np.array([0.5], np.float32)
    check(kernels("alibi"), EXAMPLES["alibi"], shape, params={"slope": np.broadcast_to(slope, 4)})
    check(kernels("alibi"), EXAMPLES["alibi"], shape, params={"slope": np.arange(4, dtype=np.float32)[::-1]})


def test_lse_is_optional(kernels: Kernels) -> None:
    kernel = kernels("causal", "f32", 64)
    q, k, v = random_inputs(np.random.default_rng(8), Shape(), 64, 64, "f32")
    alone = kernel(q, k, v)
    both, _ = kernel(q, k, v, return_lse=True)
    assert alone.tobytes() == both.tobytes()


# -- Numbers ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", (0.0, -0.5, 1.0, 3.0, 1e-20))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("causal", "gemma2_softcap", "alibi"))
def test_scale(kernels: Kernels, name: str, dtype: str, scale: float) -> None:
    check(kernels(name, dtype, 64), EXAMPLES[name], Shape(1, 2, 1, 100, 130), scale=scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores(kernels: Kernels, dtype: str) -> None:
    """Scores of thousands, growing and falling along the keys: the maximum has to follow."""
    kernel = kernels("dense", dtype, 64)
    rng = np.random.default_rng(9)
    for ramp in (np.linspace(-30, 30, 500), np.linspace(30, -30, 500), np.full(500, -40.0), rng.normal(0, 30, 500)):
        q = np.ones((1, 1, 70, 64))
        k = np.broadcast_to(ramp[:, None], (1, 1, 500, 64)) + rng.standard_normal((1, 1, 500, 64))
        arrays = [encode(x, dtype) for x in (q, k, rng.standard_normal((1, 1, 500, 64)))]
        out, lse = run(kernel, *arrays, scale=1.0)
        compare(out, lse, attention(DENSE, *(decode(x, dtype) for x in arrays), 1.0, {}), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_fully_masked_rows(kernels: Kernels, target: str, dtype: str) -> None:
    """Whole blocks of them, single rows, and all."""
    text = "variant v(first: index, last: index) { mask_mod(b, h, q, kv) { return q >= first && q < last && kv != q } }"
    variant = Variant("v", None, lambda at, p: (at.q >= p["first"]) & (at.q < p["last"]) & (at.kv != at.q))
    kernel = kernels("v", dtype, 16, target=target, source=text)
    for first, last in ((3, 4), (70, 200), (0, 0), (128, 192)):
        check(kernel, variant, Shape(1, 2, 1, 260, 150), params={"first": first, "last": last})
    check(kernel, variant, Shape(1, 2, 1, 260, 0), params={"first": 0, "last": 300})
    check(kernel, variant, Shape(1, 2, 1, 1, 1), params={"first": 0, "last": 300})


@pytest.mark.parametrize("dtype", ("f32", "bf16"))
def test_sizes_by_name(kernels: Kernels, dtype: str) -> None:
    text = ("variant v { score_mod(s, b, h, q, kv) { return (s * f32(D) / f32(Dv) + f32(q * B - Hq) / f32(Sq)) / f32(Hkv + 1) }\n"
            "  mask_mod(b, h, q, kv) { return (kv & Sq) > 3 || (q & Skv) == 0 } }")
    variant = Variant("v", lambda s, at, p: (s * (64 / 40) + (at.q * 2 - 4) / 200) / 3,
                      lambda at, p: ((at.kv & 200) > 3) | ((at.q & 300) == 0))
    check(kernels("v", dtype, 64, 40, source=text), variant, Shape(2, 4, 2, 200, 300))


@pytest.mark.parametrize("target", ("x86-64-v2", "x86-64-v3"))
@pytest.mark.parametrize("name", ("sin", "cos"))
def test_large_angles(kernels: Kernels, name: str, target: str) -> None:
    source = f"variant v {{ score_mod(s, b, h, q, kv) {{ return 3.0 * {name}(f32(q * 1000 + kv) * 100.0) + s }} }}"
    function = getattr(np, name)
    variant = Variant("v", lambda s, at, p: 3 * function((at.q * 1000 + at.kv) * 100.0) + s)
    check(kernels("v", "f32", 16, source=source, target=target), variant, Shape(1, 2, 1, 70, 90))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("by_zero, written", ((0, "x[q] % y[kv]"), (1, "x[q] - x[q] // y[kv] * y[kv]")), ids=("mod", "written out"))
def test_divisions_of_any_numbers(kernels: Kernels, by_zero: int, written: str, target: str) -> None:
    """Vectors of i32 are divided as f64: a quotient that were off by one would change what attends."""
    source = f"""variant v(x: i32[Sq], y: i32[Skv]) {{
      mask_mod(b, h, q, kv) {{ return ((x[q] // y[kv]) & 1) == (({written}) & 1) || kv == 0 }}
    }}"""
    ends = np.array([-2**31, 2**31 - 1, -2**31 + 1, 2**31 - 2, -1, 0, 1, 2, -2, 3, 7, -7, 2**30, -2**30, 46341, 65536], np.int64)

    def params(shape: Shape, rng: np.random.Generator) -> Params:
        x, y = (np.concatenate([ends, rng.integers(-2**31, 2**31, n) >> rng.integers(0, 31, n)])[:n].astype(np.int32)
                for n in (shape.Sq, shape.Skv))
        x[40:80] = x[40:80] // 97 * 97  # multiples, which are what may be rounded wrongly
        y[40:60] = 97
        return {"x": x, "y": y}

    def mask(at: At, p: Params) -> np.ndarray:
        x, y = p["x"].astype(np.int64)[at.q], p["y"].astype(np.int64)[at.kv]
        safe = np.where(y == 0, 1, y)
        quotient, remainder = np.where(y == 0, 0, x // safe), np.where(y == 0, by_zero * x, x % safe)
        return ((quotient & 1) == (remainder & 1)) | (at.kv == 0)

    check(kernels("v", "f32", 16, source=source, target=target), Variant("v", mask=mask, params=params), Shape(1, 1, 1, 150, 170))


def test_powers(kernels: Kernels) -> None:
    """Of bases of any sign, by constants and by what the kernel computes."""
    for text, power in (("2", 2), ("3.0", 3), ("-1", -1), ("0.0", 0), ("0.0 * s + 2.0", 2), ("0.0 * s + 3.0", 3), ("0.0 * s", 0)):
        source = f"variant v {{ score_mod(s, b, h, q, kv) {{ return clamp(pow(s, {text}), -3.0, 3.0) }} }}"
        variant = Variant("v", lambda s, at, p, power=power: np.clip(s ** float(power), -3, 3))
        check(kernels("v", "f32", 16, source=source), variant, Shape(1, 2, 1, 70, 90))
    source = "variant v { score_mod(s, b, h, q, kv) { return pow(f32(q - q), f32(kv - kv)) + pow(0.5 * f32(kv), 0.5) } }"
    check(kernels("v", "f32", 16, source=source), Variant("v", lambda s, at, p: 1 + np.sqrt(0.5 * at.kv) + 0 * s), Shape(1, 2, 1, 70, 90))


@pytest.mark.parametrize("dtype", DTYPES)
def test_score_of_minus_infinity_masks(kernels: Kernels, dtype: str) -> None:
    text = "variant v { score_mod(s, b, h, q, kv) { return if q >= kv && q >= 20 { s } else { -inf } } }"
    variant = Variant("v", lambda s, at, p: np.where((at.q >= at.kv) & (at.q >= 20), s, -np.inf))
    check(kernels("v", dtype, 64, source=text), variant, Shape(2, 2, 1, 200, 300))


@pytest.mark.slow
@pytest.mark.parametrize("poison", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", X86_TARGETS)
@pytest.mark.parametrize("where", ("query", "key", "value"))
def test_special_inputs(kernels: Kernels, target: str, dtype: str, where: str, poison: float) -> None:
    """NaN and infinities come out where dense evaluation has them."""
    kernel = kernels("dense", dtype, 40, target=target)
    q, k, v = random_inputs(np.random.default_rng(10), Shape(1, 2, 2, 100, 300), 40, 40, dtype)
    bad = encode(np.array([poison]), dtype)[0]
    {"query": q, "key": k, "value": v}[where][0, 1, [2, 70], 5] = bad
    out, lse = run(kernel, q, k, v)
    compare(out, lse, attention(DENSE, *(decode(x, dtype) for x in (q, k, v)), 40**-0.5, {}), dtype, where)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
def test_masked_keys_may_hold_anything(kernels: Kernels, target: str, dtype: str) -> None:
    """A masked score is replaced, whatever it was."""
    kernel = kernels("causal", dtype, 64, target=target)
    q, k, v = random_inputs(np.random.default_rng(11), Shape(1, 2, 1, 200, 200), 64, 64, dtype)
    expected = attention(CAUSAL, *(decode(x, dtype) for x in (q, k, v)), 1 / 8, {})
    for bad in (np.nan, np.inf, -np.inf):
        dirty = k.copy()
        dirty[:, :, 150:] = encode(np.array([bad]), dtype)[0]
        out, lse = run(kernel, q, dirty, v)
        expected_head = type(expected)(*(x[:, :, :150] for x in (expected.output, expected.lse, expected.magnitude,
                                                                 expected.score)))
        compare(out[:, :, :150], lse[:, :, :150], expected_head, dtype, str(bad))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", X86_TARGETS)
@pytest.mark.parametrize("name", ("dense", "causal", "checkerboard"))
def test_memory_behind_the_arrays_is_not_used(kernels: Kernels, target: str, dtype: str, name: str) -> None:
    kernel = kernels(name, dtype, 40, target=target)
    for sq, skv in ((37, 100), (65, 129), (1, 1), (64, 127)):
        q, k, v = random_inputs(np.random.default_rng(12), Shape(1, 2, 1, sq, skv), 40, 40, dtype)
        out, lse = run(kernel, *(_padded(x, dtype) for x in (q, k, v)))
        compare(out, lse, attention(EXAMPLES[name], *(decode(x, dtype) for x in (q, k, v)), 40**-0.5, {}), dtype)


# -- Captures --------------------------------------------------------------------------------------

@pytest.mark.parametrize("element", ("bool", "i8", "i32", "i64", "f16", "bf16", "f32"))
@pytest.mark.parametrize("dtype", ("f32", *(pytest.param(x, marks=pytest.mark.slow) for x in ("bf16", "f16"))))
def test_capture_types(kernels: Kernels, element: str, dtype: str) -> None:
    read = {"bool": "where(t[b, h, q], 1.0, 0.0) + where(u[kv], 0.5, 0.0)"}.get(element, "t[b, h, q] + u[kv]")
    read = read.replace(" + u", " * 0.25 + u") if element == "i64" else read
    text = f"variant v(t: {element}[B, Hq, Sq], u: {element}[?]) {{ score_mod(s, b, h, q, kv) {{ return s + 0.25 * ({read}) }} }}"
    rng = np.random.default_rng(13)
    shape = Shape(2, 4, 2, 130, 140)

    def make(*extents: int) -> np.ndarray:
        if element == "bool":
            return rng.random(extents) < 0.5
        if element.startswith("i"):
            return rng.integers(-5, 5, extents).astype(element.replace("i", "int"))
        return encode(rng.standard_normal(extents), element)

    params = {"t": make(2, 4, 130), "u": make(100)}  # u is shorter than the keys: 0 beyond

    def formula(s, at, p: Params):
        t, u = (decode(x, element) if element[0] in "fb" and element != "bool" else x.astype(np.float64)
                for x in (p["t"], p["u"]))
        u = np.concatenate([u, np.zeros(40)])
        left = t[at.b, at.h, at.q] * (0.25 if element == "i64" else 1)
        return s + 0.25 * (left + (0.5 if element == "bool" else 1) * u[at.kv])

    check(kernels("v", dtype, 64, source=text), Variant("v", formula), shape, params=params)


@pytest.mark.parametrize("target", X86_TARGETS)
def test_captures_outside(kernels: Kernels, target: str) -> None:
    """Below 0, beyond the end, far away, and in tensors without elements."""
    text = ("variant v(t: f32[?, ?], jump: index) { score_mod(s, b, h, q, kv) { return s + t[q - 50, kv - q] "
            "+ t[q * jump, kv] + t[kv, q * jump] } }")
    from reference import take

    def wrapped(x):
        return x.astype(np.int64).astype(np.int32).astype(np.int64)

    def formula(s, at, p: Params):
        t, jump = p["t"].astype(np.float64), p["jump"]
        return s + take(t, at.q - 50, at.kv - at.q) + take(t, wrapped(at.q * jump), at.kv) + take(t, at.kv, wrapped(at.q * jump))

    kernel = kernels("v", "f32", 32, target=target, source=text)
    rng = np.random.default_rng(14)
    for extents in ((40, 60), (1, 1), (0, 5), (5, 0), (130, 140)):
        for jump in (1, -1, 1 << 24, 0x7FFFFFFF):
            check(kernel, Variant("v", formula), Shape(1, 2, 1, 130, 140),
                  params={"t": rng.standard_normal(extents).astype(np.float32), "jump": jump})


@pytest.mark.parametrize("dtype", ("f32", "bf16"))
@pytest.mark.parametrize("target", TARGETS)
def test_diagonals(kernels: Kernels, target: str, dtype: str) -> None:
    """Diagonals that enter a tile anywhere: groups of its queries need different keys of a block, and some none."""
    kernel = kernels("v", dtype, 64, target=target,
                     source="variant v(n: index) { mask_mod(b, h, q, kv) { return q - n >= kv } }")
    variant = Variant("v", mask=lambda at, p: at.q - p["n"] >= at.kv)
    for sq, skv in ((17, 129), (130, 130), (300, 500)):
        for n in (-60, -1, 0, 37, 64, 130):
            check(kernel, variant, Shape(1, 1, 1, sq, skv), params={"n": n})


@pytest.mark.parametrize("target", X86_TARGETS)
def test_two_dimensional_bias(kernels: Kernels, target: str) -> None:
    text = "variant v(bias: f32[B, Hq, Sq, Skv]) { score_mod(s, b, h, q, kv) { return s + bias[b, h, q, kv] } }"
    variant = Variant("v", lambda s, at, p: s + p["bias"].astype(np.float64)[at.b, at.h, at.q, at.kv])
    kernel = kernels("v", "f32", 32, target=target, source=text)
    rng = np.random.default_rng(15)
    for sq, skv in ((130, 140), (1, 300), (300, 1), (64, 128)):
        bias = rng.standard_normal((2, 2, sq, skv)).astype(np.float32)
        check(kernel, variant, Shape(2, 2, 1, sq, skv), params={"bias": bias})
        turned = np.ascontiguousarray(bias.swapaxes(2, 3)).swapaxes(2, 3)
        check(kernel, variant, Shape(2, 2, 1, sq, skv), params={"bias": turned})
        check(kernel, variant, Shape(2, 2, 1, sq, skv),
              params={"bias": np.broadcast_to(bias[:1, :1, :1], bias.shape)})


@pytest.mark.parametrize("ids", ("sorted", "shuffled", *(pytest.param(x, marks=pytest.mark.slow) for x in ("equal", "distinct", "runs"))))
@pytest.mark.parametrize("name", ("packed_documents", "transfusion"))
def test_document_ids(kernels: Kernels, name: str, ids: str) -> None:
    rng = np.random.default_rng(16)
    make = {"sorted": lambda: np.sort(rng.integers(0, 9, (2, 700))), "shuffled": lambda: rng.integers(0, 9, (2, 700)),
            "equal": lambda: np.full((2, 700), 3), "distinct": lambda: rng.permuted(np.tile(np.arange(700), (2, 1)), axis=1),
            "runs": lambda: rng.integers(0, 3, (2, 7)).repeat(100, axis=1)}[ids]
    param = "doc" if name == "packed_documents" else "span"
    for dtype in ("f32", "bf16"):
        check(kernels(name, dtype, 32), EXAMPLES[name], Shape(2, 2, 1, 700, 700),
              params={param: make().astype(np.int32)})


# -- Threads ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ("dense", "causal", "packed_documents", "gemma2_softcap"))
def test_threads_do_not_change_the_result(kernels: Kernels, name: str, dtype: str) -> None:
    kernel = kernels(name, dtype, 64)
    shape = Shape(2, 4, 2, 500, 500)
    rng = np.random.default_rng(17)
    arrays = random_inputs(rng, shape, 64, 64, dtype)
    params = EXAMPLES[name].params(shape, rng)
    results = [run(kernel, *arrays, threads=threads, **params) for threads in (1, 2, 3, 16, 1)]
    for out, lse in results[1:]:
        assert out.tobytes() == results[0][0].tobytes() and lse.tobytes() == results[0][1].tobytes()


def test_inputs_stay(kernels: Kernels) -> None:
    q, k, v = random_inputs(np.random.default_rng(18), Shape(2, 4, 2, 100, 150), 64, 64, "bf16")
    copies = [x.copy() for x in (q, k, v)]
    run(kernels("causal", "bf16", 64), q, k, v)
    assert all((x == y).all() for x, y in zip((q, k, v), copies))


# -- Constants -------------------------------------------------------------------------------------

def test_defines(kernels: Kernels) -> None:
    variant = EXAMPLES["gemma2_softcap"]
    fixed = kernels("gemma2_softcap", defines=("cap=2.5", "window=100"))
    assert fixed.param_names == []
    rng = np.random.default_rng(19)
    q, k, v = random_inputs(rng, Shape(1, 2, 1, 300, 300), 64, 64, "f32")
    out, lse = run(fixed, q, k, v)
    expected = attention(variant, *(x.astype(np.float64) for x in (q, k, v)), 1 / 8, {"cap": 2.5, "window": 100})
    compare(out, lse, expected, "f32")


def test_default_params(kernels: Kernels) -> None:
    check(kernels("sliding_window"), EXAMPLES["sliding_window"], Shape(1, 2, 1, 300, 300), params={})
