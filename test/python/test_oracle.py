# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed-interpret against NumPy: rows, block classes and pair counts of every example."""

from __future__ import annotations


import numpy as np
import pytest
from conftest import ROOT
from heed import HeedError, oracle
from reference import EXAMPLES, At, Shape, attention, decode, random_inputs

SHAPE = Shape(2, 4, 2, 300, 280)
EXTENTS = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 300, "Skv": 280}


def _mask(name: str, params: dict) -> np.ndarray:
    at = At(*np.ix_(range(2), range(4), range(300), range(280)), SHAPE)  # type: ignore[call-arg]
    mask = EXAMPLES[name].mask
    return np.broadcast_to(mask(at, params) if mask else True, (2, 4, 300, 280))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dtype", ("f32", "bf16"))
def test_rows(name: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    arrays = random_inputs(rng, SHAPE, 32, 16, dtype)
    params = EXAMPLES[name].params(SHAPE, rng)
    rows = [(b, h, q) for b in range(2) for h in range(4) for q in range(0, 300, 37)]
    output, lse = oracle.rows(ROOT / "examples" / f"{name}.heed", *arrays, rows, params=params, scale=0.3)
    expected = attention(EXAMPLES[name], *(decode(x, dtype) for x in arrays), 0.3, params)
    at = tuple(np.array(rows).T)
    np.testing.assert_allclose(output, expected.output[at], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lse, expected.lse[at], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("block", ((64, 64), (128, 32), (1, 280)))
def test_classes_are_sound(name: str, block: tuple[int, int]) -> None:
    params = EXAMPLES[name].params(SHAPE, np.random.default_rng(2))
    mask = _mask(name, params)
    for b in range(2):
        classes = oracle.classes(ROOT / "examples" / f"{name}.heed", EXTENTS, block_q=block[0], block_kv=block[1], b=b,
                                 h=1, params=params)
        for i, j in np.ndindex(classes.shape):
            tile = mask[b, 1, i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]]
            exact = oracle.FULL if tile.all() else oracle.PARTIAL if tile.any() else oracle.SKIPPED
            assert classes[i, j] in (oracle.PARTIAL, exact), (b, i, j)


@pytest.mark.parametrize("name, least", [("causal", 6), ("sliding_window", 9), ("packed_documents", 9), ("global_tokens", 1)])
def test_classes_skip(name: str, least: int) -> None:
    """Of 25 blocks at least these are proved empty."""
    params = {"packed_documents": {"doc": np.arange(300).repeat(2).reshape(2, 300).astype(np.int32) // 60},
              "global_tokens": {"marked": np.zeros((2, 300), bool), "window": 20},
              "sliding_window": {"window": 70}}.get(name, {})
    classes = oracle.classes(ROOT / "examples" / f"{name}.heed", EXTENTS, block_q=64, block_kv=64, params=params)
    assert (classes == oracle.SKIPPED).sum() >= least


@pytest.mark.parametrize("name", EXAMPLES)
def test_pairs(name: str) -> None:
    params = EXAMPLES[name].params(SHAPE, np.random.default_rng(3))
    counts = oracle.pairs(ROOT / "examples" / f"{name}.heed", EXTENTS, b=1, h=2, params=params)
    assert (counts == _mask(name, params)[1, 2].sum(axis=1)).all()


@pytest.mark.parametrize("change, message", [({"slope": None}, "slope"), ({}, "slope")])
def test_refusals(change: dict, message: str) -> None:
    x = np.zeros((1, 1, 4, 8), np.float32)
    with pytest.raises(HeedError, match=message):
        oracle.rows(ROOT / "examples" / "alibi.heed", x, x, x, [(0, 0, 0)], params=change)


def test_rows_outside_are_refused() -> None:
    x = np.zeros((1, 1, 4, 8), np.float32)
    with pytest.raises(HeedError, match="outside"):
        oracle.rows(ROOT / "examples" / "causal.heed", x, x, x, [(0, 0, 4)])
