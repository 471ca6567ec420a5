# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Streams, CUDA graphs, threads and devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import DEVICE, Shape, alibi, causal, check, inputs, reference, run_flex, same_bits, slopes_of

import heed

pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="takes a GPU")
SPIN = 20_000_000  # clock cycles: about 10 ms
SHAPES = (Shape(2, 4, 2, 300, 300), Shape(1, 8, 8, 2048, 2048))
SLOPES = slopes_of(8)
VARIANTS: dict[str, tuple[Any, Any]] = {"dense": (None, None), "causal": (None, causal), "alibi": (alibi(SLOPES), causal)}


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mods: tuple[Any, Any]) -> torch.Tensor:
    return heed.flex_attention(q, k, v, mods[0], mask_mod=mods[1], enable_gqa=True)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_side_stream(shape: Shape, name: str) -> None:
    """Inputs that come late, and a reader right behind, on a stream that does not wait for the default one."""
    fresh, mods = inputs(shape, seed=1), VARIANTS[name]
    expected = plain(*fresh, mods)
    q, k, v = inputs(shape, seed=2)
    plain(q, k, v, mods)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(SPIN)
        for old, new in zip((q, k, v), fresh):
            old.copy_(new)
        output = plain(q, k, v, mods)
        copy = output.clone()
        for old in (q, k, v):
            old.zero_()  # after the kernel has read them
    side.synchronize()
    assert same_bits([copy, output], [expected, expected])


def test_launch_returns_at_once() -> None:
    """The host does not wait for what is before the kernel on the stream."""
    q, k, v = inputs(SHAPES[0])
    run_flex(q, k, v, None, causal)
    torch.cuda.synchronize()
    torch.cuda._sleep(100 * SPIN)
    done = torch.cuda.Event()
    plain(q, k, v, (None, causal))
    done.record()
    assert not done.query(), "the call waited for the stream"
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_graph(shape: Shape, name: str) -> None:
    """Captured once, replayed on other inputs and other captured values."""
    mods = VARIANTS[name]
    q, k, v = inputs(shape, seed=1)
    slopes = SLOPES.clone()
    try:
        plain(q, k, v, mods)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            first = plain(q, k, v, mods)
            second = plain(first if shape.Hq == shape.Hkv else q, k, v, mods)  # two launches of one kernel
        for seed in (3, 4, 5):
            for old, new in zip((q, k, v), inputs(shape, seed=seed)):
                old.copy_(new)
            SLOPES.copy_(slopes * seed)
            first.fill_(float("nan"))
            second.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            expected = plain(q, k, v, mods)
            assert same_bits([first], [expected]), f"replay {seed}"
            assert same_bits([second], [plain(expected, k, v, mods) if shape.Hq == shape.Hkv else expected])
    finally:
        SLOPES.copy_(slopes)


def test_graph_with_branches() -> None:
    """Launches of one kernel that run side by side in a graph share nothing that they write."""
    q, k, v = inputs(SHAPES[1], seed=6)
    expected = plain(q, k, v, (None, causal))
    torch.cuda.synchronize()
    graph, branches = torch.cuda.CUDAGraph(), [torch.cuda.Stream() for _ in range(3)]
    with torch.cuda.graph(graph):
        outputs = []
        for stream in branches:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outputs.append(plain(q, k, v, (None, causal)))
        for stream in branches:
            torch.cuda.current_stream().wait_stream(stream)
    for _ in range(10):
        for output in outputs:
            output.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(same_bits([output], [expected]) for output in outputs)


def in_threads(work: Callable[[int], None], count: int = 4) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            with torch.no_grad():
                work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_on_streams(shape: Shape) -> None:
    """The same kernels from several threads, each on a stream of its own, all in flight at once."""
    arrays = [inputs(shape, seed=i) for i in range(4)]
    expected = [{name: plain(*x, mods) for name, mods in VARIANTS.items()} for x in arrays]
    torch.cuda.synchronize()

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(25):
                for name, mods in VARIANTS.items():
                    output = plain(*arrays[number], mods)
                    assert same_bits([output], [expected[number][name]]), f"thread {number}, {name}"

    in_threads(work)


def test_threads_compile_at_once() -> None:
    """A variant that nobody has seen, first called by four threads together."""
    q, k, v = inputs(Shape(1, 2, 2, 150, 160))
    results: list[Any] = [None] * 4

    def mask_mod(b, h, i, j):
        return (i * 3 + j) % 7 != 2

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            results[number] = run_flex(q, k, v, None, mask_mod)
            torch.cuda.current_stream().synchronize()

    in_threads(work)
    expected = reference(q, k, v, None, mask_mod)
    for found in results:
        check(found, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two devices")
def test_second_device() -> None:
    """The device of the tensors is used, whichever is current."""
    q, k, v = inputs(SHAPES[0])
    slopes = SLOPES.to("cuda:1")
    for name, mods in VARIANTS.items():
        there = [x.to("cuda:1") for x in (q, k, v)]
        output = plain(*there, (alibi(slopes) if name == "alibi" else mods[0], mods[1]))
        assert output.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
        assert same_bits([output.to(DEVICE)], [plain(q, k, v, mods)])
    with pytest.raises(Exception, match="SLOPES|slopes"):
        plain(*(x.to("cuda:1") for x in (q, k, v)), VARIANTS["alibi"])
    plain(q, k, v, VARIANTS["alibi"])
