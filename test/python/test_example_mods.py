# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The torch forms of the examples, which GPU tests and benchmarks use, are the NumPy formulas of reference.py."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import example_mods  # noqa: E402
from reference import EXAMPLES, At, Shape  # noqa: E402
from test_flex_attention import for_all_pairs  # noqa: E402


def test_every_example_has_a_torch_form() -> None:
    assert example_mods.EXAMPLES.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    shape = Shape(2, 4, 2, 300, 260)
    rng = np.random.default_rng(0)
    params = EXAMPLES[name].params(shape, rng)
    extents = (shape.B, shape.Hq, shape.Sq, shape.Skv)
    at = At(*np.ix_(*map(range, extents)), shape)  # type: ignore[call-arg]
    score_mod, mask_mod = example_mods.mods(name, example_mods.on_device(params, "cpu"), shape.Hq)
    assert (score_mod is None, mask_mod is None) == (EXAMPLES[name].score is None, EXAMPLES[name].mask is None)
    if mask_mod is not None:
        expected = np.broadcast_to(EXAMPLES[name].mask(at, params), extents)
        np.testing.assert_array_equal(for_all_pairs(mask_mod, extents).numpy(), expected)
    if score_mod is not None:
        scores = rng.standard_normal(extents)
        expected = np.broadcast_to(EXAMPLES[name].score(scores, at, params), extents)
        found = for_all_pairs(score_mod, extents, torch.from_numpy(scores)).numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-4)  # torch's biases are f32
