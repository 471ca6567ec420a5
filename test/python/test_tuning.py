# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.tune without a GPU: how candidates are found, measured, chosen and kept."""

from __future__ import annotations

import collections
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_gpu_calls import Machine, causal, machine, tensors  # noqa: E402, F401

import heed  # noqa: E402
from heed import __main__, tuning, variant  # noqa: E402
from heed.tuning import Measured  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = "groups=2,block_kv=96,stages=2"


# -- Candidates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sm_90a", "sm_80"])
@pytest.mark.parametrize("name", ["causal", "neighbourhood_2d"])
@pytest.mark.parametrize("dim", [64, 256])
def test_alternatives(target: str, name: str, dim: int) -> None:
    what = heed.load(ROOT / "examples" / f"{name}.heed")
    found = what.alternatives("bf16", dim, dim, target, "", 8192)
    assert 4 <= len(found) <= 40 and len(set(found)) == len(found)

    def schedule(options: str) -> str:
        request = what._request("bf16", dim, dim, target, None, options)
        return re.search(r"#tile\.gpu_schedule<[^>]*>", heed._compiler.compile(request, "tile").decode())[0]

    schedules = {schedule(words) for words in ("keys=8192,aligned_only", *found[:6])}
    assert len(schedules) == 1 + len(found[:6])


def test_alternatives_keep_other_options() -> None:
    what = heed.load(ROOT / "examples" / "causal.heed")
    # Scores of TF32 take half the registers of those that are accurate.
    assert len(what.alternatives("f32", 64, 64, "sm_80", "tf32", 8192)) > len(what.alternatives("f32", 64, 64, "sm_80", "", 8192))
    assert what.alternatives("bf16", 64, 64, "x86-64-v4", "", 8192) == []
    with pytest.raises(heed.HeedError, match="alternatives expects one target, found 2"):
        what.alternatives("bf16", 64, 64, "sm_90a,sm_80", "", 8192)


# -- The search -------------------------------------------------------------------------------------


class Clock:
    """Time that passes by what calls cost, in seconds."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs, self.now, self.runs = costs, 0.0, collections.Counter[str]()

    def run(self, words: str) -> None:
        if words not in self.costs:
            raise heed.HeedError(f"no schedule fits {words}")
        self.runs[words] += 1
        self.now += self.costs[words]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(costs: dict[str, float]) -> Clock:
        made = Clock(costs)
        monkeypatch.setattr(time, "perf_counter", lambda: made.now)
        return made

    return make


def test_the_fastest_is_found(clock: Any) -> None:
    times = clock({"": 1e-3, "a": 0.9e-3, "b": 0.8e-3, "c": 3e-3})
    measured = tuning.measure(["a", "b", "c"], times.run, lambda: None)
    assert [m.words for m in measured] == ["", "a", "b", "c"]
    assert [m.seconds for m in measured] == pytest.approx([1e-3, 0.9e-3, 0.8e-3, 3e-3])
    assert tuning.best(measured) == "b"
    # What is far from the best runs for a round only; the compiler's choice, which the others are compared with, in all.
    assert times.runs["c"] < times.runs["a"] / 2 and times.runs[""] >= times.runs["b"] / 2


def test_the_choice_stays_unless_another_is_worth_it(clock: Any) -> None:
    times = clock({"": 1e-3, "a": 0.995e-3})
    assert tuning.best(tuning.measure(["a"], times.run, lambda: None)) == ""
    assert tuning.best([Measured("", 1.0), Measured("a", 0.98)]) == "a"


def test_what_was_dropped_is_not_compared(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    # A GPU that gets slower while it is measured: times of the first round are lower than those of all.
    times = clock({"": 0.9e-3, "a": 1e-3, "b": 0.8e-3})
    rounds = collections.Counter[str]()

    def run(words: str) -> None:
        times.run(words)
        rounds[words] += 1
        if rounds["b"] > 15:  # about a round of it
            times.costs = {"": 1.26e-3, "a": 1.4e-3, "b": 1.12e-3}

    measured = tuning.measure(["a", "b"], run, lambda: None)
    assert [m.dropped for m in measured] == [False, True, False]
    assert tuning.best(measured) == "b"


def test_what_does_not_run_is_left_out(clock: Any) -> None:
    measured = tuning.measure(["a", "b"], clock({"": 1e-3, "b": 1e-4}).run, lambda: None)
    assert measured[1] == Measured("a", float("inf"), "no schedule fits a")
    assert tuning.best(measured) == "b"
    with pytest.raises(heed.HeedError, match="no schedule fits"):
        tuning.measure(["b"], clock({"b": 1e-4}).run, lambda: None)


# -- heed.tune ----------------------------------------------------------------------------------------


@pytest.fixture
def searches(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:  # noqa: F811
    """The candidates of each search; WORDS wins."""
    made: list[Sequence[str]] = []

    def measure(candidates: Sequence[str], run: Any, wait: Any) -> list[Measured]:
        made.append(candidates)
        run("")
        run(WORDS)
        return [Measured("", 1.0), Measured(WORDS, 0.5)]

    monkeypatch.setattr(tuning, "measure", measure)
    monkeypatch.setattr(variant.Variant, "alternatives", lambda self, *what: [WORDS, f"{what}"])
    monkeypatch.setattr(tuning.gpu, "model_of", lambda device: "H100")
    return made


def test_tune(machine: Machine, searches: list[Sequence[str]]) -> None:  # noqa: F811
    q, k, v = tensors()
    options = heed.tune(q, k, v, mask_mod=causal, enable_gqa=True)
    assert options == {"num_warpgroups": 2, "BLOCK_N": 96, "num_stages": 2}
    assert searches == [[WORDS, str(("f32", 16, 24, "sm_90a", "", 40))]]
    assert machine.targets[-1] == ("sm_90a", "block_kv=96,groups=2,stages=2,aligned_only")
    heed.flex_attention(q, k, v, mask_mod=causal, enable_gqa=True, kernel_options=options)

    def another(b, h, q, kv):  # of equal code
        return q >= kv

    variant.clear_memory()
    assert heed.tune(q, k, v, mask_mod=another, enable_gqa=True) == options
    assert len(searches) == 1, "kept in the disk cache"


def test_tune_with_options(machine: Machine, searches: list[Sequence[str]]) -> None:  # noqa: F811
    q, k, v = tensors()
    found = heed.tune(q, k, v, mask_mod=causal, enable_gqa=True, kernel_options={"PRECISION": "tf32"})
    assert found == {"PRECISION": "tf32", "num_warpgroups": 2, "BLOCK_N": 96, "num_stages": 2}
    assert searches[-1][1] == str(("f32", 16, 24, "sm_90a", "tf32", 40))
    assert len(searches) == 1
    heed.tune(q, k, v, mask_mod=causal, enable_gqa=True)
    heed.tune(q[:, :, :20], k, v, mask_mod=causal, enable_gqa=True)
    heed.tune(*tensors(1), mask_mod=causal, enable_gqa=True)
    heed.tune(q, k, v, enable_gqa=True)
    assert len(searches) == 5, "each is another question"
    # Others would run the code for what is not aligned.
    assert heed.tune(q[:, :, :, :8], k[:, :, :, :8], v, mask_mod=causal, enable_gqa=True) == heed.tune(
        q[:, :, :, :8].clone(), k[:, :, :, :8].clone(), v, mask_mod=causal, enable_gqa=True)
    assert len(searches) == 7, "strides count"
    assert heed.tune(q, k[:, :, :0], v[:, :, :0], mask_mod=causal, enable_gqa=True) == {}
    with pytest.raises(ValueError, match="kernel_options: BLOCK_N is what is looked for; leave it out"):
        heed.tune(q, k, v, enable_gqa=True, kernel_options={"BLOCK_N": 64})
    with pytest.raises(ValueError, match="kernel_options: fwd_BLOCK_N is what is looked for; leave it out"):
        heed.tune(q, k, v, enable_gqa=True, kernel_options={"fwd_BLOCK_N": 64})
    with pytest.raises(ValueError, match="Unknown kernel option 'BLOCK'"):
        heed.tune(q, k, v, enable_gqa=True, kernel_options={"BLOCK": 64})
    with pytest.raises(ValueError, match="same embedding dimension"):
        heed.tune(q[..., :8], k, v, enable_gqa=True)
    assert len(searches) == 7


def test_tune_with_a_block_mask(machine: Machine, searches: list[Sequence[str]]) -> None:  # noqa: F811
    q, k, v = tensors()
    mask = heed.create_block_mask(causal, None, None, 30, 40, device="cpu")
    options = heed.tune(q, k, v, block_mask=mask, enable_gqa=True)
    assert options == {"num_warpgroups": 2, "BLOCK_N": 96, "num_stages": 2}
    assert heed.tune(q, k, v, mask_mod=causal, enable_gqa=True) == options
    assert len(searches) == 1, "the mask is the same"


def test_cpus_have_one_schedule() -> None:
    q = np.zeros((1, 1, 8, 16), np.float32)
    assert heed.tune(q, q, q) == {}
    assert heed.tune(q, q, q, kernel_options={"STRICT_MATH": True}) == {"STRICT_MATH": True}


# -- python -m heed tune ------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="test/gpu has the command")
def test_the_command_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["tune", str(ROOT / "examples" / "causal.heed")]) == 1
    assert capsys.readouterr().err == "heed tune: error: tune measures on a GPU, and torch has no cuda:0\n"
    assert __main__.main(["tune", "none.heed"]) == 1
    assert "none.heed" in capsys.readouterr().err


def test_the_command_refuses_lists(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lists.py").write_text(
        "import heed, numpy as np\n"
        "counts, indices = np.ones((1, 1, 2), np.int32), np.zeros((1, 1, 2, 2), np.int32)\n"
        "LISTED = heed.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16, seq_lengths=(32, 32))\n")
    assert __main__.main(["tune", f"{tmp_path}/lists.py:LISTED"]) == 1
    assert "has lists of blocks; give it to heed.tune" in capsys.readouterr().err
