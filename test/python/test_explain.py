# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""python -m heed explain."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, X86_TARGETS
from heed import BlockMask, Variant, _compiler, explain, subject, terms, viz
from heed.__main__ import main

TARGET = "x86-64-v3"


def load(name: str, params: dict[str, str] | None = None, **sizes: int) -> subject.Subject:
    return subject.load(str(ROOT / "examples" / f"{name}.heed"), params or {}, subject.Sizes(sizes))


def report(name: str, params: dict[str, str] | None = None, target: str = TARGET, **sizes: int) -> dict[str, Any]:
    return explain.report(load(name, params, **sizes), target=target, rate=100.0, bandwidth=10.0)


def hoisted(stage: dict[str, Any]) -> dict[str, tuple[list[str], str]]:
    return {entry["text"]: (entry["depends"], entry["computed"]) for entry in stage["hoisted"]}


def test_hoisted_terms_of_a_mask() -> None:
    mask = report("packed_documents")["mask"]
    assert mask["op"] == "all of"
    assert [term["text"] for term in mask["terms"]] == ["q >= kv", "doc[b, q] == doc[b, kv]"]
    assert [term["depends"] for term in mask["terms"]] == [["q", "kv"], ["b", "q", "kv"]]
    assert hoisted(mask) == {"doc[b, q]": (["b", "q"], "once a query of a tile"),
                             "doc[b, kv]": (["b", "kv"], "once a key of a block")}


def test_hoisted_terms_of_a_score() -> None:
    score = report("alibi")["score"]
    assert score["text"] == "s + slope[h] * (kv - q)" and score["computed"] == "for each pair"
    assert hoisted(score) == {"slope[h]": (["h"], "once a tile of queries")}
    assert hoisted(report("sandwich")["score"])["8.0 * (h + 1)"] == (["h"], "once a tile of queries")


def test_hoisted_terms_of_an_image() -> None:
    found = hoisted(report("neighbourhood_2d")["mask"])
    assert found["kv % width"] == (["kv"], "once a key of a block")
    assert found["kw // 2"] == ([], "once a tile of queries")
    assert any(depends == ["q"] and text.endswith("width - 1 - i0)") for text, (depends, _) in found.items())


def test_terms_know_where_they_were_written() -> None:
    terms_ = report("gemma2_softcap")["mask"]["terms"]
    assert [(term["file"], term["text"]) for term in terms_] == [
        ("std/masks.heed", "q >= kv"), ("std/masks.heed", "q - kv < window"), ("std/masks.heed", "kv - q < window")]


def test_bounds_and_classes_of_terms() -> None:
    causal, near = report("sliding_window", {"window": "256"}, Sq=1024)["mask"]["terms"]
    assert (causal["bounds"], near["bounds"]) == (["last"], ["first"])
    rows = 1024 // report("causal")["schedule"]["block_q"]
    assert causal["blocks"]["unknown"] >= rows and near["blocks"]["never"] > 0
    assert report("packed_documents")["mask"]["terms"][1]["bounds"] == []


@pytest.mark.parametrize("name", ("causal", "sliding_window", "prefix_lm", "neighbourhood_2d", "packed_documents", "dense"))
def test_bounds_hold(name: str) -> None:
    """No pair outside of them attends; and they are tight for these where the mask is one interval."""
    made = load(name, {"window": "70"} if name == "sliding_window" else {}, Sq=300)
    found = terms.explain(made)
    for block, (lower, upper) in enumerate(np.clip(terms.key_bounds(made, 64), 0, 300)):
        if found.mask is None:
            assert (lower, upper) == (0, 300)
            continue
        at = np.array([[block, 0]])
        ((_, exists, (mask,)),) = list(terms.evaluate_blocks(made, found, [found.mask.root], at, 64, 300))
        keys = np.flatnonzero((mask & exists).any((0, 1)))
        assert lower <= keys[0] and keys[-1] < upper
        if name in ("causal", "sliding_window"):
            assert (lower, upper) == (keys[0], keys[-1] + 1)


@pytest.mark.parametrize("target", X86_TARGETS)
def test_schedule(target: str) -> None:
    found = explain.report(load("causal"), dtype="bf16", head_dim=128, target=target, rate=1.0, bandwidth=1.0)
    assert found["schedule"]["target"] == target
    assert found["schedule"]["dot"] == {"x86-64-v4+bf16": "dpbf16", "x86-64-v4+amx": "amx"}.get(target, "fma")
    assert f"Schedule for {target}, bf16, head dim 128" in explain.to_text(found)


@pytest.mark.parametrize(("name", "dtype", "keys", "expected"), [
    ("dense", "bf16", 4096, "tile of 3 x 64 queries x 128 keys, 4 stages of keys and values, 177 KiB of shared memory\n"
     "  products by wgmma, 512 threads a thread block, which takes tile after tile\n  blocks of keys: all of them\n"
     "  for calls with 2048 keys and more; shorter ones have a code of their own\n  for addresses and strides of whole 16 bytes"),
    ("dense", "bf16", 512, "tile of 4 x 64 queries x 64 keys"),
    ("causal", "f16", 512, "blocks of keys: within bounds in closed form, each tested ahead of the products"),
    ("packed_documents", "f32", 512, "products by tf32x3, 128 threads a thread block\n  blocks of keys: by lists that a kernel makes before, "
     "with an interval test for each block; what it reads of captured tensors along keys is found once for all tiles")])
def test_schedules_for_gpus(name: str, dtype: str, keys: int, expected: str) -> None:
    found = explain.report(load(name, Skv=keys), dtype=dtype, target="sm_90a")
    assert found["time"] is None and found["schedule"]["block_q"] == 64
    assert expected in explain.to_text(found)


@pytest.mark.parametrize(("name", "target", "walk", "expected"), [
    ("causal", "x86-64-v3", "lists", "by exact lists that are made before the kernel runs"),
    ("packed_documents", "x86-64-v3", "bounds", "within bounds in closed form, each tested in the loop"),
    ("causal", "sm_90a", "lists", "by lists that a kernel makes before"),
    ("packed_documents", "sm_80", "bounds", "within bounds in closed form, each tested ahead of the products")])
def test_decisions_of_others(name: str, target: str, walk: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", str(ROOT / "examples" / f"{name}.heed"), f"--target={target}", "--dtype=bf16", "--q=512"]
    assert main(arguments) == 0 and expected not in capsys.readouterr().out
    assert main([*arguments, f"--tune=walk={walk}"]) == 0 and f"blocks of keys: {expected}" in capsys.readouterr().out


@pytest.mark.parametrize(("mask", "expected"), [
    ("(q - kv) % n == 0", "by exact lists"), ("(q - kv) - (q - kv) // n * n == 0", "by exact lists"),
    ("q - n * (q // n) == kv - (kv // 64) * 64", "by exact lists"), ("q - q // n * 64 >= kv", "within bounds")])
def test_remainders_that_are_written_out(tmp_path: pathlib.Path, mask: str, expected: str) -> None:
    file = tmp_path / "v.heed"
    file.write_text(f"variant v(n: index = 64) {{ mask_mod(b, h, q, kv) {{ return {mask} }} }}\n")
    found = explain.report(subject.load(str(file), {}, subject.Sizes({})), target=TARGET, rate=1.0, bandwidth=1.0)
    assert f"blocks of keys: {expected}" in explain.to_text(found)


def test_work_of_causal() -> None:
    found = report("causal", B=2, Hq=4, Hkv=2, Sq=1024)
    done, schedule = found["work"], found["schedule"]
    block_q, block_kv = schedule["block_q"], schedule["block_kv"]
    visited = sum(block_q * block_q * (tile + 1) for tile in range(1024 // block_q))  # the loop ends with the last query
    assert done["dense_flops"] == 4 * 64 * 1024 * 1024 * 8
    assert done["flops"] == 4 * 64 * visited * 8
    assert done["bytes_of_tensors"] == 4 * 1024 * 64 * 2 * (8 + 4)
    assert sum(done["blocks"][name] for name in ("beyond_bounds", "skipped", "partial", "full")) == done["blocks"]["total"]
    assert done["blocks"]["total"] == (1024 // block_q) * (1024 // block_kv) and done["blocks"]["skipped"] == 0
    assert found["time"]["seconds"] == pytest.approx(max(done["flops"] / 100e9, done["bytes_of_tensors"] / 10e9))
    assert found["time"]["source"] == "given"


def times(length: int) -> subject.Subject:
    """Ascending times: all blocks but those of the diagonal are skipped or full."""
    ts = np.sort(np.random.default_rng(0).random(length)).astype(np.float32)
    return subject.of_object(lambda b, h, q, kv: ts[q] >= ts[kv], {}, subject.Sizes({"Sq": length}))


def given(what: subject.Subject, target: str = TARGET) -> dict[str, Any]:
    return explain.report(what, target=target, rate=1.0, bandwidth=1.0)


def test_lists_are_exact() -> None:
    """Where a kernel walks lists, its work is counted by what heed_classify finds, hanging blocks included."""
    found = given(times(1000))
    block_q, block_kv = (found["schedule"][name] for name in ("block_q", "block_kv"))
    mask = np.tri(1000, dtype=bool)
    tiles = [mask[q:q + block_q, kv:kv + block_kv] for q in range(0, 1000, block_q) for kv in range(0, 1000, block_kv)]
    blocks = found["work"]["blocks"]
    assert (blocks["full"], blocks["skipped"]) == (sum(tile.all() for tile in tiles), sum(not tile.any() for tile in tiles))
    assert found["work"]["flops"] == 4 * 64 * 8 * sum(tile.size for tile in tiles if tile.any())
    assert found["mask"]["blocks"] == {"never": blocks["skipped"], "unknown": blocks["partial"], "always": blocks["full"]}
    text = explain.to_text(found)
    assert "from exact lists, found before the kernel by the mask's generated classifier" in text
    assert "for some pairs in" in text and "undecided" not in text and "bounds" not in text.partition("Schedule")[0]


def test_intervals_say_what_they_cannot_decide() -> None:
    """On a GPU, whose kernels ask intervals, which know no parity: no pair attends."""
    what = subject.of_object(lambda b, h, q, kv: (q % 2 == 0) & ((q + 1) % 2 == 0), {}, subject.Sizes({}))
    blocks = {target: given(what, target)["work"]["blocks"] for target in (TARGET, "sm_90a")}
    assert blocks[TARGET]["skipped"] == blocks[TARGET]["total"] and blocks["sm_90a"]["partial"] == blocks["sm_90a"]["total"]
    text = explain.to_text(given(what, "sm_90a"))
    assert "from bounds in closed form, and intervals for each block between them\n" in text and "undecided in" in text


@pytest.mark.parametrize("target", (TARGET, "sm_90a"))
def test_a_million_tokens(target: str) -> None:
    doc = np.arange(1 << 20, dtype=np.int32) // 1000
    what = subject.of_object(lambda b, h, q, kv: (q >= kv) & (doc[q] == doc[kv]), {}, subject.Sizes({"Sq": 1 << 20}))
    start = time.monotonic()
    found = given(what, target)
    assert time.monotonic() - start < 20
    assert found["work"]["flops"] < 2e-3 * found["work"]["dense_flops"]
    text = explain.to_text(found)
    assert "boxes of 1024 x 1024: never true" in text
    assert ("so many are shown exactly" in text) == (target == "sm_90a")


def test_exact_classes_are_within_those_of_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blocks are too many for intervals, a mask that intervals decide wholly gives the same report."""
    expected = report("sliding_window", {"window": "256"})["work"]
    monkeypatch.setattr(terms, "MAX_QUESTIONS", 1)
    found = report("sliding_window", {"window": "256"})["work"]
    assert "so many are shown exactly" in found.pop("means") and expected.pop("means").startswith("bounds")
    assert found == expected


def test_work_of_heads_and_batches() -> None:
    """Lengths differ by batch: the average counts."""
    done = report("bert_padding", {"lengths": "[256, 512]"}, Sq=512)["work"]
    assert done["heads_looked_at"] == 2 and done["flops"] * 4 == done["dense_flops"] * 3
    assert report("causal", B=4)["work"]["heads_looked_at"] == 1


def test_work_of_given_lists() -> None:
    mask = BlockMask.from_kv_blocks(np.array([[[1, 1]]]), np.array([[[[1, 0], [0, 1]]]]), BLOCK_SIZE=64)
    found = explain.report(subject.of_object(mask, {}, subject.Sizes({})), target=TARGET, rate=1.0, bandwidth=1.0)
    assert found["given_lists"] and found["work"]["blocks"]["partial"] == 2
    assert found["work"]["flops"] * 2 == found["work"]["dense_flops"]
    assert "from the BlockMask's lists" in explain.to_text(found)


def test_lists_of_heads() -> None:
    """Each head has lists of its own, and they are for these batches and heads."""
    counts, indices = np.full((1, 8, 2), 2, np.int32), np.broadcast_to(np.int32([0, 1]), (1, 8, 2, 2))
    counts[0, 0] = 1
    made = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=128)
    found = explain.report(subject.of_object(made, {}, subject.Sizes({})), target=TARGET, rate=1.0, bandwidth=1.0)
    assert found["work"]["sizes"]["Hq"] == 8 and found["work"]["blocks"]["partial"] == 3.75
    with pytest.raises(ValueError, match="the BlockMask wants Hq = 8, but it is 4"):
        subject.of_object(made, {}, subject.Sizes({"Hq": 4}))


def test_lists_with_room_for_more() -> None:
    """More rows and columns than the lengths have."""
    for indices in ([[[[0, 1, 2, 3], [0, 1, 2, 3]]]], [[[[0, 1], [1, 0], [0, 1]]]]):
        counts = np.array([[[1, 2, 1][:len(indices[0][0])]]])
        made = BlockMask.from_kv_blocks(counts, np.array(indices), BLOCK_SIZE=128, seq_lengths=(256, 256),
                                             mask_mod=lambda b, h, q, kv: q >= kv)
        what = subject.of_object(made, {}, subject.Sizes({}))
        assert explain.report(what, target=TARGET, rate=1.0, bandwidth=1.0)["work"]["blocks"]["skipped"] == 1
        assert viz.picture(what).counts() == {"skipped": 1, "partial": 3, "full": 0}


@pytest.mark.parametrize("text", ["inf", "-inf"])
def test_infinite_parameters(text: str) -> None:
    for default, given in ((" = 0.0", {"limit": text}), (f" = {text}", {})):
        source = f"variant v(limit: f32{default}) {{ mask_mod(b, h, q, kv) {{ return f32(q - kv) < limit }} }}"
        what = subject.of_object(Variant(source), given, subject.Sizes({"Sq": 64}))
        found = explain.report(what, target=TARGET, rate=1.0, bandwidth=1.0)
        assert json.loads(json.dumps(found, allow_nan=False))["params"][0]["value"] == text
        assert viz.picture(what, 32, 32).pairs == (64 * 64 if text == "inf" else 0)


def test_constants_without_a_default() -> None:
    source = "variant v(const w: index) { mask_mod(b, h, q, kv) { return q >= kv && q - kv < w } }"
    what = subject.of_object(Variant(source), {"w": "8"}, subject.Sizes({"Sq": 64}))
    found = explain.report(what, target=TARGET, rate=1.0, bandwidth=1.0)
    assert found["params"][0]["value"] == 8 and "const w: i32 = 8" in explain.to_text(found)
    assert viz.picture(what, 32, 32).pairs == 8 * 64 - 28


def test_time() -> None:
    other = next(target for target in X86_TARGETS if target != _compiler.native_target())
    assert explain.report(load("causal"), target=other)["time"] is None
    rate, bandwidth = explain.measure("bf16", 64, 64)
    assert rate > 0 and bandwidth > 0
    timing = explain.report(load("causal"), bandwidth=5.0)["time"]
    assert timing["source"].startswith("measured") and timing["source"].endswith("but for what was given")
    assert timing["gbytes_per_second"] == 5.0


def test_python_functions() -> None:
    doc = np.arange(256) // 100

    def document_causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (q >= kv) & (doc[q] == doc[kv])

    found = explain.report(subject.of_object(document_causal, {}, subject.Sizes({"Sq": 256})), target=TARGET, rate=1.0,
                           bandwidth=1.0)
    assert found["variant"] == "document_causal" and set(hoisted(found["mask"])) == {"doc[q]", "doc[kv]"}

    def bias(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        return s * 2 + abs(q - kv)

    found = explain.report(subject.of_object(bias, {}, subject.Sizes({})), target=TARGET, rate=1.0, bandwidth=1.0)
    assert found["mask"] is None and found["score"]["depends"] == ["s", "q", "kv"]
    assert "every pair attends" in explain.to_text(found)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "examples").glob("*.heed")))
def test_every_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", str(ROOT / "examples" / f"{name}.heed"), "--q", "512", "--target", TARGET, "--rate", "100",
                 "--bandwidth", "10"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for heading in (name, "Parameters", "Score", "Mask", "Blocks of", f"Schedule for {TARGET}", "Work for B = "):
        assert f"\n{heading}" in f"\n{text}"
    assert all(line == line.rstrip() for line in text.splitlines())
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variant"] == name


@pytest.mark.parametrize("arguments, message", [
    (["nowhere.heed"], "No such file"),
    (["{examples}/causal.heed", "--target", "z80"], "z80"),
    (["{examples}/causal.heed", "--head-dim", "577"], "head dims go from 1 to 576, found 577"),
    (["{examples}/causal.heed", "--param", "w=1"], "has no parameter 'w'"),
    (["{examples}/causal.heed", "--heads", "8", "--kv-heads", "3"], "query heads that are a multiple of the key heads, found 8 and 3"),
    (["{examples}/causal.heed", "--q", "100000000000"], "blocks are too many to look at; give fewer --q and --kv"),
    (["{examples}/causal.heed", "--tune", "walk=trees"], "schedule option 'walk' expects bounds or lists, found 'walk=trees'"),
    (["{examples}/sliding_window.heed", "--param", "window=5.7"], "parameter 'window': expected one i32, found 5.7"),
    (["{examples}/sliding_window.heed", "--param", f"window={10 ** 400}"], "parameter 'window': expected one i32, found 1000"),
    (["{examples}/gemma2_softcap.heed", "--param", f"cap=-{10 ** 400}"], "parameter 'cap': expected one f32, found -1000"),
    (["{examples}/sliding_window.heed", "--param", "window=99999999999"], "parameter 'window': expected one i32, found 99999999999"),
    (["{broken}"], "error:"),
])
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "broken.heed").write_text("variant v { mask_mod(b, h, q, kv) { return q >= kw } }\n")
    filled = [argument.format(examples=ROOT / "examples", broken=tmp_path / "broken.heed") for argument in arguments]
    assert main(["explain", *filled]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["explain", "viz"])
def test_a_reader_that_has_enough(command: str, tmp_path: pathlib.Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run([sys.executable, "-m", "heed", command, str(ROOT / "examples/causal.heed")], stdout=closed,
                              stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "python")})
    assert done.stderr == "" and done.returncode == 1
