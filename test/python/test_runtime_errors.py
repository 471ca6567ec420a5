# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls that libheed_runtime must refuse: with an error that names the argument, and nothing written."""

from __future__ import annotations

import re
from typing import Any

import heed
import numpy as np
import pytest
from conftest import Kernels
from heed import aot, arrays, hot

F32 = np.float32
B, HQ, HKV, SQ, SKV, D = 2, 4, 2, 20, 30, 16


def _valid() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(F32)  # noqa: E731
    return {"query": draw(B, HQ, SQ, D), "key": draw(B, HKV, SKV, D), "value": draw(B, HKV, SKV, D),
            "slope": draw(HQ), "out": np.full((B, HQ, SQ, D), np.nan, F32), "lse": np.full((B, HQ, SQ), np.nan, F32)}


def _unaligned(shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.zeros(4 * count + 1, np.uint8)[1:].view(np.uint8)[:4 * count].view(F32).reshape(shape)


def _with_strides(array: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(array, array.shape, strides)


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("rank of query", {"query": np.zeros((HQ, SQ, D), F32)}, "query"),
    ("rank of key", {"key": np.zeros((HKV, SKV, D), F32)}, "key"),
    ("rank of value", {"value": np.zeros((1, 1, HKV, SKV, D), F32)}, "value"),
    ("head dim of query", {"query": np.zeros((B, HQ, SQ, D + 1), F32)}, "query"),
    ("head dim of key", {"key": np.zeros((B, HKV, SKV, D - 1), F32)}, "key"),
    ("head dim of value", {"value": np.zeros((B, HKV, SKV, D + 1), F32)}, "value"),
    ("batch of key", {"key": np.zeros((B + 1, HKV, SKV, D), F32)}, "key"),
    ("batch of value", {"value": np.zeros((B + 1, HKV, SKV, D), F32)}, "value"),
    ("heads of value", {"value": np.zeros((B, HKV + 1, SKV, D), F32)}, "value"),
    ("length of value", {"value": np.zeros((B, HKV, SKV + 1, D), F32)}, "value"),
    ("heads that do not divide", {"key": np.zeros((B, 3, SKV, D), F32), "value": np.zeros((B, 3, SKV, D), F32)}, "query|key"),
    ("no key heads", {"key": np.zeros((B, 0, SKV, D), F32), "value": np.zeros((B, 0, SKV, D), F32)}, "query|key"),
    ("shape of output", {"out": np.zeros((B, HQ, SQ + 1, D), F32)}, "output"),
    ("head dim of output", {"out": np.zeros((B, HQ, SQ, D - 1), F32)}, "output"),
    ("shape of lse", {"lse": np.zeros((B, HQ, SQ - 1), F32)}, "lse"),
    ("rank of lse", {"lse": np.zeros((B, HQ, SQ, 1), F32)}, "lse"),
    ("type of query", {"query": np.zeros((B, HQ, SQ, D), np.float64)}, "query"),
    ("type of key", {"key": np.zeros((B, HKV, SKV, D), np.float16)}, "key"),
    ("type of value", {"value": np.zeros((B, HKV, SKV, D), np.int32)}, "value"),
    ("type of output", {"out": np.zeros((B, HQ, SQ, D), np.uint16)}, "output"),
    ("type of lse", {"lse": np.zeros((B, HQ, SQ), np.float64)}, "lse"),
    ("type of a capture", {"slope": np.zeros(HQ, np.float64)}, "slope"),
    ("rank of a capture", {"slope": np.zeros((HQ, 1), F32)}, "slope"),
    ("extent of a capture", {"slope": np.zeros(HQ + 1, F32)}, "slope"),
    ("a capture too short", {"slope": np.zeros(HKV, F32)}, "slope"),
    ("a number for a tensor", {"slope": 0.5}, "slope"),
    ("a list for a tensor", {"slope": [0.5] * HQ}, "slope"),
    ("None for a tensor", {"slope": None}, "slope"),
    ("unaligned query", {"query": _unaligned((B, HQ, SQ, D))}, "query"),
    ("unaligned output", {"out": _unaligned((B, HQ, SQ, D))}, "output"),
    ("unaligned lse", {"lse": _unaligned((B, HQ, SQ))}, "lse"),
    ("unaligned capture", {"slope": _unaligned((HQ,))}, "slope"),
    ("last stride of query", {"query": np.zeros((B, HQ, SQ, 2 * D), F32)[..., ::2]}, "query"),
    ("last stride of value", {"value": np.zeros((B, HKV, D, SKV), F32).swapaxes(2, 3)}, "value"),
    ("last stride of output", {"out": np.zeros((B, HQ, SQ, D), F32)[..., ::-1]}, "output"),
    ("overlapping output", {"out": _with_strides(np.zeros((B, HQ, SQ, D), F32), (0, 4 * SQ * D, 4 * D, 4))}, "output"),
    ("overlapping lse", {"lse": _with_strides(np.zeros((B, HQ, SQ), F32), (4 * HQ * SQ, 0, 4))}, "lse"),
]


@pytest.mark.parametrize("name, change, argument", CASES, ids=[name for name, _, _ in CASES])
def test_refused(kernels: Kernels, name: str, change: dict[str, Any], argument: str) -> None:
    kernel = kernels("alibi", "f32", D)
    arguments = _valid() | change
    with pytest.raises(aot.HeedError, match=f"(?i)argument '?({argument})\\b") as error:
        kernel(**arguments)
    assert "\n" not in str(error.value)
    for output in {"out", "lse"} - set(change):
        assert np.isnan(arguments[output]).all(), f"{output} was written"


@pytest.mark.parametrize("name", ("query", "key", "value", "out", "slope"))
def test_null(kernels: Kernels, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments = _valid()
    describe, data_pointer = arrays.describe, arrays.data_pointer

    def without_data(array: np.ndarray, dtype: str, device: int | None = None) -> bytes:
        described = describe(array, dtype, device)
        return bytes(8) + described[8:] if array is arguments[name] else described

    monkeypatch.setattr(arrays, "describe", without_data)
    monkeypatch.setattr(hot, "run", lambda *_: False)  # which finds addresses by itself
    monkeypatch.setattr(arrays, "data_pointer", lambda array: 0 if array is arguments[name] else data_pointer(array))
    with pytest.raises(aot.HeedError, match="(?i)argument '?" + name.replace("out", "output") + ".*NULL"):
        kernels("alibi", "f32", D)(**arguments)


def test_missing_parameter(kernels: Kernels) -> None:
    arguments = _valid()
    del arguments["slope"]
    with pytest.raises(aot.HeedError, match="slope.*missing"):
        kernels("alibi", "f32", D)(**arguments)


def test_unknown_parameter(kernels: Kernels) -> None:
    with pytest.raises(aot.HeedError, match="no parameter 'slopes'.*slope"):
        kernels("alibi", "f32", D)(**_valid(), slopes=1)


@pytest.mark.parametrize("window", (1 << 31, -(1 << 31) - 1, 1 << 62))
def test_scalar_out_of_range(kernels: Kernels, window: int) -> None:
    arguments = _valid()
    del arguments["slope"]
    with pytest.raises(aot.HeedError, match="window"):
        kernels("sliding_window", "f32", D)(**arguments, window=window)


@pytest.mark.parametrize("window", ("wide", None, 1.5, 1 << 70))
def test_scalar_of_wrong_type(kernels: Kernels, window: object) -> None:
    arguments = _valid()
    del arguments["slope"]
    with pytest.raises((aot.HeedError, TypeError), match="window"):
        kernels("sliding_window", "f32", D)(**arguments, window=window)


def test_the_valid_call_is_valid(kernels: Kernels) -> None:
    arguments = _valid()
    kernels("alibi", "f32", D)(**arguments)
    assert np.isfinite(arguments["out"]).all() and np.isfinite(arguments["lse"]).all()


def test_messages_say_what_was_expected(kernels: Kernels) -> None:
    with pytest.raises(aot.HeedError) as error:
        kernels("alibi", "f32", D)(**(_valid() | {"key": np.zeros((B, HKV, SKV, 17), F32)}))
    assert re.search(r"16.*17", str(error.value)), error.value


def test_load_errors(tmp_path) -> None:
    with pytest.raises(OSError):
        aot.load(tmp_path / "missing.so")


def test_code_for_gpus_only() -> None:
    kernel = heed.compile("variant v {}", head_dim=16, target="sm_80")
    query = np.zeros((1, 1, 4, 16), np.float32)
    with pytest.raises(heed.HeedError, match=r"kernel '\w+' has no code for CPUs"):
        kernel(query, query, query)
