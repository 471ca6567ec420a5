# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed._hot: which calls it takes, that they do what Python's way does, and that it leaves all others to that."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import BUILD  # noqa: E402

import heed  # noqa: E402
from heed import _runtime, arrays, attention, hot  # noqa: E402

pytestmark = pytest.mark.skipif(os.environ.get("HEED_HOT") == "0" or not (BUILD / "lib" / "_hot.abi3.so").exists(),
                                reason=f"there is no extension: {hot.where}")
LIBRARIES = ("torch", "numpy")
ALL = heed.AuxRequest(lse=True, max_scores=True)


class Ways:
    """Which way calls took: "hot", "missing" (in Python, and hot from then on) or "python"."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def __call__(self, *arguments: Any) -> Any:
        result = hot.call(*arguments)
        self.taken.append("missing" if result is None else "python" if result is NotImplemented else "hot")
        return result

    def of(self, call: Callable[[], Any]) -> str:
        """The way of the last call of flex_attention that `call` makes."""
        call()
        return self.taken[-1]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    made = Ways()
    heed.flex_attention(*operands("torch"))  # finds torch
    hot.clear()
    monkeypatch.setattr(attention, "_hot_call", made)
    return made


def in_python(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the error, where there is no extension."""
    before, attention._hot_call = attention._hot_call, hot._no_call
    try:
        return outcome(call)
    finally:
        attention._hot_call = before


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def operands(library: str, batch: int = 2, heads: int = 3, length: int = 20, kv_length: int = 30, dim: int = 16,
             value_dim: int = 16, dtype: Any = torch.float32, kv_batch: int | None = None, kv_heads: int | None = None) -> list[Any]:
    generator = torch.Generator().manual_seed(length)
    kv = (batch if kv_batch is None else kv_batch, kv_heads or heads, kv_length)
    made = [torch.randn(shape, generator=generator).to(dtype)
            for shape in ((batch, heads, length, dim), (*kv, dim), (*kv, value_dim))]
    return made if library == "torch" else [x.numpy() for x in made]


def alibi(slopes: Any, factor: float = 0.5) -> Any:
    return lambda s, b, h, q, kv: s + slopes[h] * factor * (kv - q)


def causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv


def strides(array: Any) -> tuple[int, ...]:
    return tuple(array.stride()) if isinstance(array, torch.Tensor) else array.strides


def assert_same(found: Any, expected: Any) -> None:
    """Both ways run the same kernel, so results are equal to the last bit."""
    assert type(found) is type(expected)
    if isinstance(found, tuple):
        for x, y in zip(found, expected, strict=True):
            assert_same(x, y)
    elif found is not None and not isinstance(found, str):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert strides(found) == strides(expected) or 0 in found.shape
        assert np.array_equal(np.asarray(found if found.dtype != torch.bfloat16 else found.float()),
                              np.asarray(expected if expected.dtype != torch.bfloat16 else expected.float()), equal_nan=True)
    else:
        assert found == expected


# -- Calls that are hot -----------------------------------------------------------------------------


def test_what_was_built_is_used() -> None:
    assert hot.is_there, hot.where


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_second_call_is_hot(ways: Ways, library: str) -> None:
    mask = heed.create_block_mask(causal, None, None, 20, 30)
    slopes = torch.rand(3) if library == "torch" else np.random.default_rng(0).random(3, np.float32)

    def call() -> Any:
        return heed.flex_attention(*operands(library), alibi(slopes), mask, return_aux=ALL)

    assert_same([call(), call()][1], in_python(call))
    assert ways.taken == ["missing", "hot"]


def split_heads(x: Any) -> Any:
    """The same values, in memory in the order batch, length, heads, dim."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("changed", (
    dict(length=1), dict(kv_length=500), dict(batch=1), dict(batch=5, heads=1), dict(kv_batch=1), dict(kv_heads=1)), ids=str)
@pytest.mark.parametrize("layout", (lambda x: x, split_heads, lambda x: x[:, :, :-1] if x.shape[2] > 1 else x),
                         ids=("dense", "heads inside", "slices"))
def test_other_lengths_and_strides_are_hot(ways: Ways, library: str, changed: dict[str, Any], layout: Any) -> None:
    heed.flex_attention(*operands(library))
    given = [layout(x) for x in operands(library, **changed)]

    def call() -> Any:
        return heed.flex_attention(*given, enable_gqa="kv_heads" in changed, scale=0.3, return_aux=ALL)

    found = call()
    assert ways.taken == ["missing", "hot"]
    assert_same(found, in_python(call))


@pytest.mark.parametrize("changed", (dict(dim=8), dict(value_dim=24), dict(dtype=torch.bfloat16)), ids=str)
def test_other_dims_and_types_get_other_kernels(ways: Ways, changed: dict[str, Any]) -> None:
    first, second = operands("torch"), operands("torch", **changed)
    expected = [in_python(lambda given=given: heed.flex_attention(*given)) for given in (first, second)]
    for _ in range(3):
        for given, result in zip((first, second), expected):
            assert_same(heed.flex_attention(*given), result)
    assert ways.taken == 2 * ["missing"] + 4 * ["hot"]


def test_scales(ways: Ways) -> None:
    q, k, v = operands("torch")
    for scale in (None, 1, 0.25, np.float32(0.5), True):
        call = functools.partial(heed.flex_attention, q, k, v, scale=scale)
        assert_same(call(), in_python(call))
    assert ways.taken == ["missing", "hot", "hot", "hot", "hot"]


def test_results_that_are_asked_for(ways: Ways) -> None:
    q, k, v = operands("numpy")
    heed.flex_attention(q, k, v)
    for aux in (heed.AuxRequest(), heed.AuxRequest(lse=True), heed.AuxRequest(max_scores=True), ALL):
        call = functools.partial(heed.flex_attention, q, k, v, return_aux=aux)
        assert_same(call(), in_python(call))
    assert ways.taken == ["missing"] + 4 * ["hot"]


def test_schedule_options_are_part_of_a_plan(ways: Ways) -> None:
    q, k, v = operands("torch")
    calls = [lambda: heed.flex_attention(q, k, v), lambda: heed.flex_attention(q, k, v, kernel_options={"BLOCK_N": 64})]
    assert [ways.of(call) for call in 2 * calls] == ["missing", "missing", "hot", "hot"]


# -- Captures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_captures_are_read_at_each_call(ways: Ways, library: str) -> None:
    make = torch.tensor if library == "torch" else np.array
    given = operands(library)
    slopes, factor = make([0.1, 0.2, 0.3], dtype=sys.modules[library].float32), 0.5

    def mod(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return s + slopes[h] * factor * (kv - q)

    def check(way: str) -> None:
        found = heed.flex_attention(*given, mod)
        assert ways.taken[-1] == way
        assert_same(found, in_python(lambda: heed.flex_attention(*given, mod)))

    check("missing")
    check("hot")
    factor = 0.75
    check("hot")
    slopes[:] = 2
    check("hot")
    slopes = slopes[1:]  # too short: kernels never read outside
    check("hot")
    slopes = make([3.0, 2, 1, 0], dtype=sys.modules[library].float32)[::-1] if library == "numpy" else slopes.repeat(2)
    check("hot")
    slopes = make([1, 2, 3], dtype=sys.modules[library].int32)  # another type: another kernel
    check("missing")
    factor = 2  # likewise
    check("missing")
    check("hot")
    slopes, factor = make([0.1, 0.2, 0.3], dtype=sys.modules[library].float32), 0.5
    check("hot")


GLOBAL = 0.5


def test_ways_to_capture(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands("torch")
    inner = alibi(torch.rand(3))

    class Mod:
        bias = 0.5

        def __call__(self, s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
            return s + self.bias * kv

        method = __call__

    instance = Mod()
    mods = [lambda s, b, h, q, kv: s * GLOBAL, lambda s, b, h, q, kv: inner(s, b, h, q, kv) * 2, instance, instance.method,
            functools.partial(lambda factor, s, b, h, q, kv: s * factor, 0.25)]
    for mod in mods:
        call = functools.partial(heed.flex_attention, *given, mod)
        before = call()
        assert_same(call(), before)
        assert ways.taken[-2:] == ["missing", "hot"]
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "GLOBAL", 0.75)
            patch.setattr(instance, "bias", 0.75)
            assert_same(call(), in_python(call))


def test_closures_of_one_code_share_a_plan(ways: Ways) -> None:
    given = operands("torch")
    for factor in (0.5, 1.5, 2.5):
        call = functools.partial(heed.flex_attention, *given, alibi(torch.rand(3), factor))
        assert_same(call(), in_python(call))
    assert ways.taken == ["missing", "hot", "hot"]


def test_learned_captures(ways: Ways) -> None:
    given, bias = operands("torch"), torch.nn.Parameter(torch.rand(3))
    with torch.no_grad():
        assert [ways.of(lambda: heed.flex_attention(*given, alibi(bias))) for _ in range(2)] == ["missing", "hot"]
    with pytest.raises(NotImplementedError, match="no backward pass"):
        heed.flex_attention(*given, alibi(bias))


@pytest.mark.slow
def test_many_traces_of_one_site(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more of them than a site may have plans."""
    def times(count: int) -> Any:
        return lambda s, b, h, q, kv: s * sum([1.0 for _ in range(count)])

    for count in [*range(1, 20), *range(1, 20)]:
        call = functools.partial(heed.flex_attention, *operands("numpy"), times(count))
        assert_same(call(), in_python(call))
    assert ways.taken == 19 * ["missing"] + 19 * ["hot"]
    monkeypatch.setattr(hot, "_MAX_PLANS", 3)
    for count in [*range(1, 20), *range(1, 20)]:
        call = functools.partial(heed.flex_attention, *operands("numpy", dim=8), times(count))
        assert_same(call(), in_python(call))


def test_more_captures_than_calls_take(ways: Ways) -> None:
    """Python's own way is quick for them: no plan is left again and again."""
    numbers = [0.01 * i for i in range(40)]

    def score_mod(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        for number in numbers:
            s = s + number
        return s

    arguments = operands("numpy")
    expected = in_python(lambda: heed.flex_attention(*arguments, score_mod))
    for _ in range(4):
        assert_same(heed.flex_attention(*arguments, score_mod), expected)
    assert ways.taken[-2:] == ["python", "python"] and sum(map(len, hot._plans.values())) == 1


def test_what_a_scale_raises(ways: Ways) -> None:
    class Scale:
        def __float__(self) -> float:
            raise KeyboardInterrupt

    for library in LIBRARIES:
        arguments = operands(library)
        heed.flex_attention(*arguments)
        with pytest.raises(KeyboardInterrupt):
            heed.flex_attention(*arguments, scale=Scale())


def test_operands_that_a_mod_replaces(ways: Ways) -> None:
    """What is asked of a mod may run any code: what it leaves counts."""

    class Cache:
        def __init__(self, key: Any) -> None:
            self.key, self.grows = key, False

        @property
        def factor(self) -> float:
            if self.grows:
                self.key.data = torch.randn(*self.key.shape)
            return 0.5

    query, key, value = operands("torch")
    cache = Cache(key)

    def score_mod(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return s * cache.factor

    for _ in range(2):
        heed.flex_attention(query, key, value, score_mod)
    cache.grows = True
    found = heed.flex_attention(query, key, value, score_mod)
    cache.grows = False
    assert ways.taken[-1] != "hot"
    assert_same(found, in_python(lambda: heed.flex_attention(query, key, value, score_mod)))



def test_what_fetching_raises(ways: Ways) -> None:
    class Settings:
        error: BaseException | None = None

        @property
        def factor(self) -> float:
            if self.error is not None:
                raise self.error
            return 0.5

    given, settings = operands("numpy"), Settings()
    mod = lambda s, b, h, q, kv: s * settings.factor  # noqa: E731
    assert [ways.of(lambda: heed.flex_attention(*given, mod)) for _ in range(2)] == ["missing", "hot"]
    for settings.error in (KeyboardInterrupt(), ValueError("no factor")):
        with pytest.raises(type(settings.error)):
            heed.flex_attention(*given, mod)
    settings.error = None
    assert ways.of(lambda: heed.flex_attention(*given, mod)) == "hot"


# -- Masks of given lists ---------------------------------------------------------------------------

LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")


def lists_of(mask_mod: Any, B: int | None = None, H: int | None = None, kv_length: int = 30) -> list[Any]:
    """For blocks of 8 x 4."""
    made = heed.create_block_mask(mask_mod, B, H, 20, kv_length, device="cpu", BLOCK_SIZE=(8, 4))
    return [getattr(made, name).clone() for name in LISTS]


def listed(lists: Any, kind: Any = heed.BlockMask, lengths: tuple[int, int] = (20, 30), mask_mod: Any = causal) -> Any:
    return kind.from_kv_blocks(*lists, BLOCK_SIZE=(8, 4), mask_mod=mask_mod, seq_lengths=lengths)


def torch_mask() -> Any:
    return pytest.importorskip("torch.nn.attention.flex_attention").BlockMask


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("form", ("partial", "full", "int64", "strided", "batches", "heads", "wide", "rows alone", "NumPy", "torch's"))
def test_given_lists(ways: Ways, form: str, library: str) -> None:
    lists = lists_of(causal)[:2 if form == "partial" else 4]
    if form == "int64":  # which become int32 when the mask is made
        lists = [x.long() for x in lists]
    elif form == "strided":
        lists = [torch.stack((x, x + 1), -1)[..., 0] for x in lists]
    elif form in ("batches", "heads"):
        lists = lists_of(lambda b, h, q, kv: q + 2 * h >= kv, None, 3)
        if form == "batches":
            lists = lists_of(lambda b, h, q, kv: q + 3 * b + 2 * h >= kv, 2, 3)
    elif form == "wide":
        lists = [torch.nn.functional.pad(x, (0, 5)) if x.ndim == 4 else x for x in lists]
    elif form == "rows alone":
        lists = [x[0, 0] for x in lists]
    elif form == "NumPy":
        lists = [x.numpy() for x in lists]
    mask = listed(lists, torch_mask() if form == "torch's" else heed.BlockMask)
    call = functools.partial(heed.flex_attention, *operands(library), block_mask=mask, return_aux=ALL)
    expected = in_python(call)
    for _ in range(3):
        assert_same(call(), expected)
    assert ways.taken[-2:] == ["hot", "hot"]


@pytest.mark.parametrize("kind", ("ours", "torch's"))
@pytest.mark.parametrize("library", LIBRARIES)
def test_lists_are_read_at_each_call(ways: Ways, library: str, kind: str) -> None:
    """Whatever is written into them: counts and entries that name no block, too, and blocks that are in both."""
    generator = torch.Generator().manual_seed(0)
    lists = lists_of(lambda b, h, q, kv: q + h + b >= kv, 2, 3)
    mask = listed(lists, heed.BlockMask if kind == "ours" else torch_mask())
    lists = [getattr(mask, name) for name in LISTS]
    call = functools.partial(heed.flex_attention, *operands(library), block_mask=mask)
    call()
    results = set()
    for _ in range(20):
        for x, (low, high) in zip(lists, 2 * ((-2, 12), (-3, 11))):
            x.random_(low, high, generator=generator)
            x.view(-1)[::7] = 2**31 - 1
            x.view(-1)[1::7] = -2**31
        found = call()
        assert ways.taken[-1] == "hot"
        assert_same(found, in_python(call))
        results.add(float(np.asarray(found).sum()))
    assert len(results) > 10


def test_lists_that_are_assigned(ways: Ways) -> None:
    mask, given = listed(lists_of(causal)), operands("torch")
    call = functools.partial(heed.flex_attention, *given, block_mask=mask)
    call()
    others = lists_of(lambda b, h, q, kv: q - kv < 5)
    for name, value in zip(LISTS, others):
        setattr(mask, name, value)
    assert_same(call(), in_python(call))
    assert ways.taken[-1] == "hot"
    mask.full_kv_num_blocks = mask.full_kv_indices = None
    mask.mask_mod = lambda b, h, q, kv: q + 1 >= kv
    assert_same([call(), call()][1], in_python(call))
    assert ways.taken[-1] == "hot"
    derived = heed.create_block_mask(causal, None, None, 20, 30, device="cpu")
    derived.mask_mod = lambda b, h, q, kv: q >= kv + 1  # its lists are made by the first call
    call = functools.partial(heed.flex_attention, *given, block_mask=derived)
    assert_same([call(), call(), call()][2], in_python(call))
    assert ways.taken[-1] == "hot"


def test_masks_of_a_subclass(ways: Ways) -> None:
    class Mask(heed.BlockMask):
        pass

    derived = heed.create_block_mask(causal, None, None, 20, 30, device="cpu", BLOCK_SIZE=(8, 4))
    derived.__class__ = Mask
    call = functools.partial(heed.flex_attention, *operands("torch"), block_mask=derived)
    assert_same([call(), call()][1], in_python(call))
    assert derived.list_bytes.made == 0, "a call reads derived lists never"


def test_lists_in_debug_mode(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = listed(lists_of(causal))
    call = functools.partial(heed.flex_attention, *operands("torch"), block_mask=mask)
    for _ in range(2):
        call()
    mask.kv_indices[0, 0, 1] = 99
    call()
    assert ways.taken[-1] == "hot"
    for value, is_checked in (("1", True), ("0", False), ("", False), ("yes", True)):
        monkeypatch.setenv("HEED_DEBUG", value)
        assert isinstance(outcome(call), str) == is_checked
    with pytest.raises(ValueError, match=r"batch 0, head 0, row 1: expected kv_indices in \[0, 8\), found 99"):
        monkeypatch.setenv("HEED_DEBUG", "1")
        call()


def wrong_lists() -> dict[str, Callable[[], Any]]:
    """What was in order when the mask was made, or is for other calls."""
    flex, (q, k, v) = heed.flex_attention, operands("torch")
    lists = lists_of(causal)

    def changed(change: Callable[[Any], Any]) -> Any:
        mask = listed(lists)
        change(mask)
        return mask

    rows = listed([x[:, :, :2] for x in lists])
    sliced = listed(lists)[:, :, :1]
    shapes = changed(lambda mask: setattr(mask, "kv_indices", lists[1][:, :, :2]))
    halves = changed(lambda mask: setattr(mask, "full_kv_indices", None))
    ranks = changed(lambda mask: (setattr(mask, "full_kv_indices", lists[3][0]), setattr(mask, "full_kv_num_blocks", lists[2][0])))
    batches = listed([x.expand(3, *x.shape[1:]) for x in lists])
    return {"rows": lambda: flex(q, k, v, None, rows), "sliced": lambda: flex(q, k, v, None, sliced),
            "shapes": lambda: flex(q, k, v, None, shapes), "halves": lambda: flex(q, k, v, None, halves),
            "ranks": lambda: flex(q, k, v, None, ranks), "batches": lambda: flex(q, k, v, None, batches),
            "lengths": lambda: flex(q[:, :, 1:], k, v, None, listed(lists)), "two masks": lambda: flex(q, k, v, None, rows, mask_mod=causal)}


@pytest.mark.parametrize("name", wrong_lists())
def test_errors_of_lists_are_those_of_python(ways: Ways, name: str) -> None:
    heed.flex_attention(*operands("torch"), block_mask=listed(lists_of(causal)))
    call = wrong_lists()[name]
    expected = in_python(call)
    assert isinstance(expected, str)
    assert [outcome(call), outcome(call)] == [expected, expected]


def test_lists_of_masks_that_threads_change(ways: Ways) -> None:
    """Lists that are replaced while calls read them stay alive for these."""
    mask, lists = listed(lists_of(causal)), lists_of(causal)
    call = functools.partial(heed.flex_attention, *operands("numpy"), block_mask=mask)
    expected, is_over = call(), threading.Event()

    def replace() -> None:
        while not is_over.is_set():
            for name, value in zip(LISTS, lists):
                setattr(mask, name, value.clone())

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(300):
            assert_same(call(), expected)
    finally:
        is_over.set()
        thread.join()


# -- Kernels ----------------------------------------------------------------------------------------

PROGRAM_OF_TWO = """variant biased(bias: f32[Hq], factor: f32 = 0.5, shift: i64 = 0) {
  score_mod(s, b, h, q, kv) { return s + bias[h] * factor * f32(kv - q) }
  mask_mod(b, h, q, kv) { return q >= kv + i32(shift) }
}"""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which calls of Kernels the extension made."""
    made: list[bool] = []
    run = hot.run

    def noting(*arguments: Any) -> bool:
        made.append(run(*arguments))
        return made[-1]

    monkeypatch.setattr(hot, "run", noting)
    return made


def run_in_python(call: Callable[[], Any]) -> Any:
    before, hot.run = hot.run, lambda *_: False
    try:
        return outcome(call)
    finally:
        hot.run = before


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("library", LIBRARIES)
def test_kernels(runs: list[bool], library: str, dtype: Any) -> None:
    if library == "numpy" and dtype == torch.bfloat16:
        pytest.skip("NumPy has none")
    variant = heed.variant.Variant(PROGRAM_OF_TWO)
    (q, k, v), bias = operands(library, dtype=dtype, kv_batch=1, kv_heads=1, value_dim=24), torch.rand(3)
    bias = bias if library == "torch" else bias.numpy()
    empty, f32 = (torch.empty, torch.float32) if library == "torch" else (np.empty, np.float32)
    for given in ({}, {"scale": 0.3}, {"scale": 1}, {"scale": np.float32(0.5)}, {"factor": 2}, {"shift": -3}, {"threads": 1},
                  {"return_lse": True}, {"lse": empty((2, 3, 20), dtype=f32)}, {"out": empty((2, 3, 20, 24), dtype=q.dtype)},
                  {"out": empty((2, 20, 3, 24), dtype=q.dtype).swapaxes(1, 2)}):
        call = functools.partial(variant, q, k, v, bias=bias, **given)
        found = call()
        found = tuple(x.copy("K") if library == "numpy" else x.clone() for x in (found if isinstance(found, tuple) else (found,)))
        expected = run_in_python(call)
        assert_same(found, expected if isinstance(expected, tuple) else (expected,))
    assert all(runs)


def test_calls_of_kernels_that_are_pythons(runs: list[bool]) -> None:
    kernel = heed.compile(PROGRAM_OF_TWO, head_dim=16)
    (q, k, v), bias = operands("torch"), torch.rand(3)
    kernel(q, k, v, bias=bias)
    runs.clear()
    locked = np.empty((2, 3, 20, 16), np.float32)
    locked.flags.writeable = False

    class Odd(torch.Tensor):
        pass

    calls: dict[str, Callable[[], Any]] = {
        "a subclass": lambda: kernel(q.as_subclass(Odd), k, v, bias=bias), "no keys": lambda: kernel(q, k[:, :, :0], v[:, :, :0], bias=bias),
        "inner strides": lambda: kernel(q, k.mT.contiguous().mT, v, bias=bias), "a read-only output": lambda: kernel(q, k, v, bias=bias, out=locked),
        "a missing parameter": lambda: kernel(q, k, v), "an unknown one": lambda: kernel(q, k, v, bias=bias, slope=1),
        "a type": lambda: kernel(q.half(), k.half(), v.half(), bias=bias), "of a parameter": lambda: kernel(q, k, v, bias=bias.double()),
        "dims": lambda: kernel(q[..., :8], k[..., :8], v[..., :8], bias=bias), "lengths": lambda: kernel(q, k[:, :, 1:], v, bias=bias),
        "of the output": lambda: kernel(q, k, v, bias=bias, out=torch.empty(2, 3, 19, 16)), "of the LSE": lambda: kernel(q, k, v, bias=bias, lse=torch.empty(2, 3)),
        "its type": lambda: kernel(q, k, v, bias=bias, lse=torch.empty(2, 3, 20).half()), "short": lambda: kernel(q, k, v, bias=bias[:2]),
        "gradients": lambda: kernel(q.clone().requires_grad_(), k, v, bias=bias), "of captures": lambda: kernel(q, k, v, bias=bias.clone().requires_grad_()),
        "a number": lambda: kernel(q, k, v, bias=0.5), "an array as a number": lambda: kernel(q, k, v, bias=bias, factor=torch.ones(2)),
        "none": lambda: kernel(q, None, v, bias=bias), "scale": lambda: kernel(q, k, v, bias=bias, scale="1"), "infinite": lambda: kernel(q, k, v, bias=bias, scale=math.inf),
        "threads": lambda: kernel(q, k, v, bias=bias, threads=-1), "many": lambda: kernel(q, k, v, bias=bias, threads=2**31),
        "a negative bit": lambda: kernel(torch._neg_view(q), k, v, bias=bias)}
    for name, call in calls.items():
        expected = run_in_python(call)
        found = outcome(call)
        assert_same(found, expected)
        assert isinstance(found, str) == (name not in ("a subclass", "no keys")), (name, found)
    assert not any(runs)


# -- Calls that are Python's ------------------------------------------------------------------------


class Subclass(torch.Tensor):
    pass


def unusual() -> dict[str, Callable[[], Any]]:
    """Calls that are right, and not for the extension."""
    (q, k, v), arrays_ = operands("torch"), operands("numpy")
    flex = heed.flex_attention
    return {"a subclass": lambda: flex(q.as_subclass(Subclass), k, v),
            "a subclass of ndarray": lambda: flex(arrays_[0].view(np.memmap), *arrays_[1:]),
            "inner strides": lambda: flex(q, k.mT.contiguous().mT, v),
            "negative strides": lambda: flex(arrays_[0][:, ::-1], *arrays_[1:]),
            "no queries": lambda: flex(q[:, :, :0], k, v),
            "no keys": lambda: flex(q, k[:, :, :0], v[:, :, :0]),
            "no batches": lambda: flex(q[:0], k[:0], v[:0]),
            "return_lse": lambda: flex(q, k, v, return_lse=True)}


@pytest.mark.filterwarnings("ignore:return_lse is deprecated")
@pytest.mark.parametrize("name", unusual())
def test_unusual_calls(ways: Ways, name: str) -> None:
    heed.flex_attention(*operands("torch"))
    heed.flex_attention(*operands("numpy"))
    call = unusual()[name]
    found = [call(), call()]
    assert ways.taken[2:] == ["python", "python"]
    for result in found:
        assert_same(result, in_python(call))


def test_captures_that_are_copied(ways: Ways) -> None:
    """Kernels cannot read them in place: another trace, which copies them at each call."""
    given, plain, negated = operands("torch"), torch.rand(3), torch._neg_view(torch.rand(3))
    unaligned = np.zeros(13, np.uint8)[1:].view(np.float32)
    for slopes in (plain, negated, unaligned, plain, negated, unaligned):
        call = functools.partial(heed.flex_attention, *given, alibi(slopes))
        for _ in range(2):
            assert_same(call(), in_python(call))
        unaligned += 1
    assert ways.taken.count("missing") == 3 and ways.taken[-1] == ways.taken[-3] == "hot"


def wrong() -> dict[str, Callable[[], Any]]:
    """Calls that are refused."""
    (q, k, v), (_, b, c) = operands("torch"), operands("numpy")
    mask = heed.create_block_mask(causal, None, None, 20, 30)
    flex = heed.flex_attention
    short = torch.rand(3, requires_grad=True)
    return {"dtypes": lambda: flex(q, k.half(), v), "dims": lambda: flex(q[..., :8], k, v), "ranks": lambda: flex(q[0], k, v),
            "lengths": lambda: flex(q, k, v[:, :, 1:]), "batches": lambda: flex(q, k[:1], v), "heads": lambda: flex(q, k[:, :1], v[:, :1]),
            "batch": lambda: flex(q[:1], k, v), "GQA": lambda: flex(q, k[:, :2], v[:, :2], enable_gqa=True),
            "double": lambda: flex(q.double(), k.double(), v.double()), "libraries": lambda: flex(q, b, c),
            "meta": lambda: flex(*(x.to("meta") for x in (q, k, v))), "no array": lambda: flex(None, k, v), "text": lambda: flex("q", k, v),
            "gradients": lambda: flex(q.clone().requires_grad_(), k, v), "of values": lambda: flex(q, k, v.clone().requires_grad_()),
            "of captures": lambda: flex(q, k, v, alibi(short)),
            "captures elsewhere": lambda: flex(q, k, v, alibi(torch.rand(3, device="meta"))),
            "mask of other lengths": lambda: flex(q[:, :, 1:], k, v, None, mask), "two masks": lambda: flex(q, k, v, None, mask, mask_mod=causal),
            "no mask": lambda: flex(q, k, v, None, causal), "scale": lambda: flex(q, k, v, scale=math.inf),
            "text as scale": lambda: flex(q, k, v, scale="1"), "option": lambda: flex(q, k, v, kernel_options={"X": 1}),
            "both auxes": lambda: flex(q, k, v, return_lse=True, return_aux=ALL), "aux": lambda: flex(q, k, v, return_aux=3)}


@pytest.mark.parametrize("name", wrong())
def test_errors_are_those_of_python(ways: Ways, name: str) -> None:
    mask = heed.create_block_mask(causal, None, None, 20, 30)
    for library in LIBRARIES:
        slopes = torch.rand(3) if library == "torch" else np.ones(3, np.float32)
        for mod, block_mask in ((None, None), (alibi(slopes), None), (None, mask)):
            heed.flex_attention(*operands(library), mod, block_mask)
    call = wrong()[name]
    expected = in_python(call)
    assert isinstance(expected, str)
    assert [outcome(call), outcome(call)] == [expected, expected]


def test_gradients_that_nobody_wants(ways: Ways) -> None:
    q, k, v = operands("torch")
    q.requires_grad_()
    with torch.no_grad():
        assert [ways.of(lambda: heed.flex_attention(q, k, v)) for _ in range(2)] == ["missing", "hot"]
        assert not heed.flex_attention(q, k, v).requires_grad
    with torch.inference_mode():
        assert ways.of(lambda: heed.flex_attention(q, k, v)) == "hot"
        assert heed.flex_attention(q, k, v).is_inference()
    with pytest.raises(NotImplementedError, match="does not support backward"):
        heed.flex_attention(q, k, v)


def test_autocast(ways: Ways) -> None:
    """Operands that have the type that torch.autocast wants are hot; others are Python's to cast."""
    given = operands("torch")
    narrow = tuple(x.bfloat16() for x in given)
    expected = heed.flex_attention(*narrow)
    plain = heed.flex_attention(*given)
    ways.taken.clear()
    with torch.autocast("cpu"):
        assert ways.of(lambda: heed.flex_attention(*narrow)) == "hot"
        for mixed in (given, (given[0], *narrow[1:])):
            assert_same(heed.flex_attention(*mixed), expected)
        with torch.autocast("cpu", enabled=False):
            assert_same(heed.flex_attention(*given), plain)
    with torch.autocast("cpu", torch.float16):
        assert heed.flex_attention(*given).dtype == torch.float16
        assert heed.flex_attention(*(x.numpy() for x in given)).dtype == np.float32
    assert_same(heed.flex_attention(*given), plain)


def test_modes_of_torch(ways: Ways) -> None:
    """Modes see the output being made; where they make something else of it, the call is Python's."""
    from torch._subclasses import FakeTensorMode
    from torch.overrides import TorchFunctionMode

    class Seen(TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    given = operands("torch")
    expected = heed.flex_attention(*given)
    with Seen() as seen:
        assert_same(heed.flex_attention(*given), expected)
    assert "empty_like" in seen.names
    with torch.device("meta"):
        assert_same(heed.flex_attention(*given, return_aux=ALL)[0], expected)
    assert ways.taken == ["missing", "hot", "hot"]
    with FakeTensorMode():
        call = functools.partial(heed.flex_attention, *given)
        assert type(outcome(call)) is type(in_python(call))
    with pytest.raises(Exception, match="(?i)storage|data|vmap|batch|4D"):
        torch.vmap(heed.flex_attention)(*(x[None] for x in given))


def test_all_of_the_output_is_written(ways: Ways) -> None:
    given = operands("torch", value_dim=24)
    heed.flex_attention(*given)
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    try:
        assert torch.empty_like(given[0]).isnan().all() and torch.empty_strided((3,), (1,)).isnan().all()
        output, aux = heed.flex_attention(*given, return_aux=ALL)
    finally:
        torch.use_deterministic_algorithms(False)
    assert ways.taken == ["missing", "hot"]
    assert all(x.isfinite().all() for x in (output, *aux))


# -- The process ------------------------------------------------------------------------------------


def test_threads(ways: Ways) -> None:
    """Each thread has its own lengths and captures, and some forget all plans now and then."""
    wrong: list[int] = []

    def work(number: int) -> None:
        q, k, v = operands("torch" if number % 2 else "numpy", length=number + 1)
        for i in range(300):
            mod = alibi(torch.full((3,), float(number)), i / 10)
            found = heed.flex_attention(q, k, v, mod)
            if i % 50 == 0:
                if number < 2:
                    hot.clear()
                bias = (torch.arange(30) - torch.arange(number + 1)[:, None]) * number * i / 10
                s = torch.as_tensor(q) @ torch.as_tensor(k).mT / 4 + bias
                if not torch.allclose(torch.as_tensor(found), s.softmax(-1) @ torch.as_tensor(v), atol=1e-4):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and ways.taken.count("hot") > 2000


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_kept(ways: Ways, library: str) -> None:
    q, k, v = operands(library)
    slopes = torch.rand(3)
    mod, mask = alibi(slopes), heed.create_block_mask(causal, None, None, 20, 30)
    watched = (q, k, v, slopes, mod, mask, mask._mask_mod, ALL, None, True, False, heed.AuxOutput, np.dtype("f4"), torch.float32)

    def calls() -> None:
        for _ in range(200):
            heed.flex_attention(q, k, v, mod, mask, return_aux=ALL)
            outcome(lambda: hot.call(q, k, v, mod, mask, None, "x", False, False, ALL, ""))
            outcome(lambda: hot.call(q, k, v[:, :, :-1], mod, mask, None, None, False, False, ALL, ""))
            outcome(lambda: hot.call(q, k, v, None, None, causal, None, False, False, (), ""))

    calls()
    before = [sys.getrefcount(x) for x in watched]
    calls()
    after = [sys.getrefcount(x) for x in watched]
    assert all(abs(x - y) < 50 for x, y in zip(before, after))


def test_clear_memory_forgets_plans(ways: Ways) -> None:
    given = operands("torch")
    assert ways.of(lambda: heed.flex_attention(*given)) == "missing"
    heed.variant.clear_memory()
    assert not hot._plans
    assert [ways.of(lambda: heed.flex_attention(*given)) for _ in range(2)] == ["missing", "hot"]


PROGRAM = """
import numpy as np, heed
q = np.ones((1, 2, 30, 16), np.float32)
for _ in range(3):
    assert (heed.flex_attention(q, q, q, mask_mod=lambda b, h, i, j: i >= j) == 1).all()
heed.show_config()
"""


@pytest.mark.parametrize("setting, said", ((None, "hot calls  by /"), ("0", "hot calls  in Python: HEED_HOT=0"),
                                           ("damaged", "hot calls  in Python: ")))
def test_without_the_extension(setting: str | None, said: str, tmp_path: Any) -> None:
    (tmp_path / "damaged").write_text("no library")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if setting is not None:
        environment["HEED_HOT"] = setting if setting == "0" else str(tmp_path / setting)
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert said in found.stdout


# -- What is passed ---------------------------------------------------------------------------------

RUN = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5)
LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 6, ctypes.c_int32)


class DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


DESCRIBE = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
STREAM = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))


class Exchange(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32 * 2), ("others", ctypes.c_void_p * 4), ("describe", DESCRIBE), ("stream", STREAM)]


@pytest.fixture
def used() -> Iterator[Callable[..., None]]:
    """Tells the extension something else for the time of a test."""
    yield lambda **given: hot._module.use(given)
    hot._module.use(hot._runtime_functions())
    hot.use_torch.cache_clear()
    hot.use_torch()
    hot.clear()


def address(function: Any) -> int:
    found = ctypes.cast(function, ctypes.c_void_p).value
    assert found is not None
    return found


def test_threads_of_a_call(ways: Ways, used: Callable[..., None]) -> None:
    """torch's number for its tensors; for NumPy's arrays 0, which is heed.set_num_threads's number."""
    found = []

    def run(*arguments: int) -> int:
        packed = ctypes.string_at(arguments[1], _runtime.CALL.size)
        found.append(_runtime.CALL.unpack(packed)[-1])
        return int(_runtime.lib.heed_run_packed(arguments[0], packed, *(ctypes.cast(x or 0, ctypes.c_char_p) for x in arguments[2:])))

    callback = RUN(run)
    for library in LIBRARIES:
        heed.flex_attention(*operands(library))
    used(run=address(callback))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for library in LIBRARIES:
                heed.flex_attention(*operands(library))
                assert ways.taken[-1] == "hot"
    finally:
        torch.set_num_threads(before)
    assert found == [1, 0, 2, 0]


class OnGPU:
    """Stands for a tensor of torch on a GPU; its memory is the CPU's."""

    requires_grad = False
    places = "cuda:1"

    def __init__(self, tensor: Any, device: int = 1) -> None:
        self.tensor, self.device = tensor, device
        self.extents = [(ctypes.c_int64 * tensor.ndim)(*x) for x in (tensor.shape, tensor.stride())]

    def is_neg(self) -> bool:
        return False


def test_launches(ways: Ways, used: Callable[..., None]) -> None:
    launches: list[tuple[int, int]] = []
    codes = {torch.float32: (2, 32), torch.bfloat16: (4, 16), torch.int32: (0, 32)}

    def describe(array: OnGPU, result: Any) -> int:
        code, bits = codes[array.tensor.dtype]
        result[0] = DLTensor(array.tensor.data_ptr(), 2, array.device, array.tensor.ndim, code, bits, 1, *array.extents, 0)
        return 0

    def current_stream(kind: int, device: int, result: Any) -> int:
        assert kind == 2
        result[0] = 0x7000 + device
        return 0

    def launch(kernel: int, call: int, data: int, params: int, tensors: int, stream: int, device: int) -> int:
        launches.append((stream, device))
        return int(_runtime.lib.heed_run_packed(kernel, *(ctypes.cast(x, ctypes.c_char_p) for x in (call, data, params, tensors))))

    def new(*arguments: Any, device: Any = None, **named: Any) -> OnGPU:
        return OnGPU(torch.empty_strided(*arguments, **named))

    q, k, v = operands("torch", kv_heads=1, value_dim=24)
    bias = torch.rand(3)
    mod = alibi(bias)
    request = heed.AuxRequest(lse=True)
    expected, aux = heed.flex_attention(q, k, v, mod, enable_gqa=True, return_aux=request)
    ((site, (plan,)),) = hot._plans.items()
    # The mod captures what is on the GPU, too; the fetch of a trace would find another type.
    bias_there = OnGPU(bias)
    hot._plans[site] = (plan._replace(device=1, fetch=lambda *_: [x if isinstance(x, float) else bias_there for x in plan.fetch(*_)]),)
    exchange = Exchange((1, 3), (ctypes.c_void_p * 4)(), DESCRIBE(describe), STREAM(current_stream))
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    callback = LAUNCH(launch)
    used(Tensor=OnGPU, exchange=make(ctypes.addressof(exchange), b"dlpack_exchange_api", None), launch=address(callback), empty_strided=new)

    def call(*given: Any) -> Any:
        return hot.call(*given, mod, None, None, None, True, False, request, "")

    found, rows = call(*map(OnGPU, (q, k, v)))
    assert launches == [(0x7001, 1)]
    assert torch.equal(found.tensor, expected) and torch.equal(rows.lse.tensor, aux.lse) and rows.max_scores is None
    # On other devices, or on several, it is not this plan's.
    assert call(OnGPU(q, 0), OnGPU(k, 0), OnGPU(v, 0)) is None
    assert call(OnGPU(q), OnGPU(k), OnGPU(v, 0)) is NotImplemented
    bias_there.device = 0
    assert call(*map(OnGPU, (q, k, v))) is NotImplemented
    assert len(launches) == 1


def test_arrays_as_calls_see_them() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.bool_, np.int8, np.int32, np.int64, np.float16, np.uint16, np.float32):
        for array in (rng.random((3, 4, 5)).astype(dtype), np.asfortranarray(rng.random((2, 3)).astype(dtype)), np.zeros((), dtype),
                      np.zeros((4, 6), dtype)[::-2, 1::3], np.broadcast_to(np.zeros(3, dtype), (2, 3))):
            steps = tuple(stride // array.itemsize for stride in array.strides)
            code = arrays.dtype_code(array)  # from then on the type is known
            assert hot._module.describe(array) == (array.ctypes.data, code, -1, array.shape, steps)
            if dtype != np.uint16:
                tensor = torch.from_numpy(np.ascontiguousarray(array)).mT if array.ndim > 1 else torch.from_numpy(array)
                assert hot._module.describe(tensor) == (tensor.data_ptr(), code, -1, tuple(tensor.shape), tensor.stride())
    for other in (None, 3, np.zeros(3, ">f4"), np.zeros(3), torch.zeros(3, dtype=torch.uint8), torch.zeros((1,) * 7), [1.0],
                  np.zeros(3, [("a", "i1"), ("b", "f4")])["b"], torch.eye(3).to_sparse(), torch.zeros(3, device="meta")):
        assert hot._module.describe(other) is None
