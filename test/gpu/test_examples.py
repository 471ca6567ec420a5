# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Every variant of examples/: through its .heed file, through its form in torch, and which keys its mask lets through."""

from __future__ import annotations

import functools
from typing import Any

import example_mods
import numpy as np
import pytest
import reference as formulas
from conftest import ROOT
from support import (DEVICE, LIMITS, WITH_SCORE_MOD, Shape, check, check_counts, check_flex, fitting, inputs, reference, run_variant)

import heed
from heed import gpu

SHAPES = (Shape(2, 4, 2, 300, 300), Shape(1, 2, 2, 129, 257), Shape(2, 3, 1, 260, 100), Shape(1, 1, 1, 1, 1),
          Shape(1, 4, 2, 1000, 1000), Shape(1, 2, 1, 2048, 2048))
SOME = ("alibi", "causal", "dense", "gemma2_softcap", "packed_documents", "t5_relative_bias")
# (dtype, head dim): everything in bf16, some of it in the others
TYPES = [("bf16", 64, False), ("bf16", 128, True), ("f16", 64, False), ("f32", 64, False)]
CASES = [pytest.param(name, dtype, dim, marks=[pytest.mark.full] if full or dtype != "bf16" and name not in SOME[:3] else [])
         for dtype, dim, full in TYPES for name in formulas.EXAMPLES if dtype == "bf16" or name in SOME]
MASK_ONLY = [name for name, variant in formulas.EXAMPLES.items() if variant.score is None]


@functools.cache
def variant_of(name: str) -> Any:
    return heed.load(ROOT / "examples" / f"{name}.heed")


def shapes(name: str) -> list[Shape]:
    kept = {n for n in fitting([(s.Sq, s.Skv) for s in SHAPES])}
    return [s for s in SHAPES if (s.Sq, s.Skv) in kept and (s.Skv <= s.Sq or name not in example_mods.BY_POSITION)]


def params_of(name: str, shape: Shape, seed: int = 0) -> dict[str, Any]:
    made = formulas.EXAMPLES[name].params(formulas.Shape(shape.B, shape.Hq, shape.Hkv, shape.Sq, shape.Skv),
                                          np.random.default_rng(seed))
    return example_mods.on_device(made, DEVICE)


@pytest.mark.parametrize("name, dtype, dim", CASES)
def test_file(name: str, dtype: str, dim: int) -> None:
    for shape in shapes(name):
        q, k, v = inputs(shape, (dim, dim), dtype)
        params = params_of(name, shape)
        found = run_variant(variant_of(name), q, k, v, **params)
        check(found, reference(q, k, v, *example_mods.mods(name, params, shape.Hq)), what=f"{name} {shape}",
              limits=WITH_SCORE_MOD if formulas.EXAMPLES[name].score else LIMITS)


@pytest.mark.full
@pytest.mark.parametrize("name", formulas.EXAMPLES)
def test_torch_form(name: str) -> None:
    for shape in shapes(name)[::2]:
        q, k, v = inputs(shape, seed=1)
        check_flex(q, k, v, *example_mods.mods(name, params_of(name, shape), shape.Hq), what=f"{name} {shape}")


@pytest.mark.parametrize("name", MASK_ONLY)
def test_every_key_counts_once(name: str) -> None:
    """Where all scores are 0, the LSE is the logarithm of the number of keys, exactly."""
    for shape in shapes(name):
        q, k, v = inputs(shape, seed=2)
        params = params_of(name, shape, seed=2)
        found = run_variant(variant_of(name), q.zero_(), k, v, **params)
        expected = reference(q, k, v, *example_mods.mods(name, params, shape.Hq))
        check(found, expected, what=f"{name} {shape}")
        check_counts(found, expected, f"{name} {shape}")


@pytest.mark.parametrize("name", ("causal", "packed_documents"))
def test_compile(name: str) -> None:
    """heed.compile of a file, and its kernel called on this device."""
    target = gpu.target(DEVICE.index or 0) if DEVICE.type == "cuda" else "native"
    kernel = heed.compile(ROOT / "examples" / f"{name}.heed", dtype="bf16", head_dim=64, target=target)
    shape = Shape(2, 4, 2, 300, 300)
    q, k, v = inputs(shape, seed=3)
    params = params_of(name, shape)
    check(run_variant(kernel, q, k, v, **params), reference(q, k, v, *example_mods.mods(name, params, shape.Hq)), what=name)
