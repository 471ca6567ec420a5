# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The masks and scores of attention-gym, M1 to M24 and S1 to S9, at the size they are made for and over several tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gym_mods import GYM, Case
from support import DEVICE, QUICK, Shape, check_flex, inputs

SOME = ("causal", "document", "natten", "vsa_topk", "alibi", "softcap", "graphormer_spatial", "mla_rope")


def case_of(name: str) -> Case:
    with torch.device(DEVICE):
        return GYM[name](np.random.default_rng(0))


def repeated(case: Case, times: int) -> Case:
    """The same mods over a problem that many times as long, each stretch of queries seeing stretches up to its own."""
    inner_score, inner_mask, n, m = case.score_mod, case.mask_mod, case.Sq, case.Skv

    def score_mod(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return inner_score(s, b, h, q % n, kv % m)  # type: ignore[misc]

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        earlier = q // n >= kv // m
        return earlier if inner_mask is None else earlier & inner_mask(b, h, q % n, kv % m)

    return Case(score_mod if inner_score else None, mask_mod, case.B, case.H, times * n, times * m)


@pytest.mark.parametrize("dtype", ("bf16", pytest.param("f32", marks=pytest.mark.full)))
@pytest.mark.parametrize("name", GYM)
def test_as_made(name: str, dtype: str) -> None:
    if dtype == "f32" and name not in SOME:
        pytest.skip("f32 runs for some")
    case = case_of(name)
    for shape in (Shape(case.B, case.H, case.H, case.Sq, case.Skv), Shape(1, case.H, 1, case.Sq - 7, case.Skv - 5)):
        check_flex(*inputs(shape, (64, 64), dtype), case.score_mod, case.mask_mod, what=f"{name} {shape}")


@pytest.mark.parametrize("name", GYM)
def test_over_tiles(name: str) -> None:
    if QUICK and name not in SOME:
        pytest.skip("--quick runs some")
    case = repeated(case_of(name), 5)
    shape = Shape(case.B, case.H, case.H, case.Sq - 3, case.Skv - 11)
    check_flex(*inputs(shape, (128, 128)), case.score_mod, case.mask_mod, what=f"{name} {shape}")
