# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Threads, forks, other processes, signals: flex_attention while something else goes on."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import ROOT  # noqa: E402

import heed  # noqa: E402
from heed import _compiler  # noqa: E402

sys.path.append(str(ROOT / "benchmarks"))

from bench_call import Probe  # noqa: E402

Q = np.random.default_rng(0).standard_normal((1, 2, 150, 16)).astype(np.float32)
_numbers = itertools.count()


def window(size: int) -> Callable[..., Any]:
    return lambda b, h, q, kv: (q - kv < size) & (q >= kv)


def expected(size: int) -> np.ndarray:
    distance = np.arange(150)[:, None] - np.arange(150)
    s = np.where((distance >= 0) & (distance < size), Q.astype(np.float64) @ Q.swapaxes(2, 3) / 4, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ Q


def works(size: int = 40) -> bool:
    return bool(np.allclose(heed.flex_attention(Q, Q, Q, mask_mod=window(size)), expected(size), atol=1e-5))


def new_mod() -> Callable[..., Any]:
    """A mod that no kernel exists for."""
    number = next(_numbers) + 1000 * os.getpid() % 10**6
    text = f"lambda s, b, h, q, kv: s + {number}e-9 * q"
    return eval(text)  # type: ignore[no-any-return]  # literals are compiled in


def compile_something() -> bool:
    """A score that is the same for all keys of a row changes nothing."""
    found = heed.flex_attention(Q[:, :, :20], Q, Q, new_mod())
    return bool(np.allclose(found, heed.flex_attention(Q[:, :, :20], Q, Q), atol=1e-4))


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """Nothing is compiled yet, neither in memory nor on the disk."""
    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path / "cache"))
    heed.variant.clear_memory()
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe()


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    heed.set_num_threads(0)


# -- Threads -----------------------------------------------------------------------------------------

def test_threads_that_compile(cold: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 threads, 4 programs of 4 types and dims: each is compiled once, all results are right."""
    requests: list[Any] = []
    original = _compiler.compile
    monkeypatch.setattr(_compiler, "compile", lambda request, emit: requests.append(request) or original(request, emit))
    tensor = torch.from_numpy(Q)
    calls: list[Callable[[], Any]] = [
        lambda: heed.flex_attention(Q, Q, Q, mask_mod=window(33)),
        lambda: heed.flex_attention(tensor, tensor, tensor, lambda s, b, h, q, kv: s * 2),
        lambda: heed.flex_attention(tensor.half(), tensor.half(), tensor.half(), mask_mod=window(33)),
        lambda: heed.flex_attention(Q, Q, Q[..., :8], mask_mod=window(33))]
    results: list[Any] = [None] * 16
    barrier = threading.Barrier(16)

    def work(i: int) -> None:
        barrier.wait()
        results[i] = [np.asarray(calls[(i + j) % 4]()) for j in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(requests) == 4
    alone = [np.asarray(call()) for call in calls]
    for i, found in enumerate(results):
        for j in range(4):
            np.testing.assert_array_equal(found[j], alone[(i + j) % 4])
    np.testing.assert_allclose(alone[0], expected(33), atol=1e-5)


def test_other_threads_run_while_a_kernel_runs(probe: Probe) -> None:
    with probe.in_place(works):
        probe.pause_ns.value = 400_000_000
        thread = threading.Thread(target=lambda: heed.flex_attention(Q[:, :1, :1], Q[:, :1], Q[:, :1], mask_mod=window(40)))
        begin = last = time.monotonic()
        thread.start()
        longest, steps = 0.0, 0
        while thread.is_alive():
            now = time.monotonic()
            longest, last, steps = max(longest, now - last), now, steps + 1
    assert last - begin > 0.3, "the kernel took its time"
    assert longest < 0.3 and steps > 100, f"but this thread stood still for {longest} s"


@pytest.mark.parametrize("library", ("torch", "numpy"))
def test_threads_are_limited(probe: Probe, library: str) -> None:
    big = np.zeros((4, 4, 1024, 64), np.float32)
    array = torch.from_numpy(big) if library == "torch" else big
    limit = torch.set_num_threads if library == "torch" else heed.set_num_threads

    def call() -> Any:
        return heed.flex_attention(array, array, array)

    with probe.in_place(call):
        probe.pause_ns.value = 2_000_000
        for count in (1, 2, 3, 1):
            limit(count)
            probe.calls.value, probe.threads[:] = 0, [0] * 64
            call()
            assert probe.calls.value > 8
            assert len(set(probe.threads) - {0}) == count


@pytest.mark.slow
def test_beside_the_threads_of_others() -> None:
    """Pools that take turns: spinning workers must not hold back the others' for long."""
    torch.set_num_threads(2)
    q, a = torch.randn(1, 4, 512, 64), torch.randn(512, 512)

    def attend() -> None:
        heed.flex_attention(q, q, q)

    def multiply() -> None:
        torch.matmul(a, a)

    def seconds(*calls: Callable[[], None]) -> float:
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(30):
                for call in calls:
                    call()
            best = min(best, time.perf_counter() - begin)
        return best

    attend()
    alone, together = seconds(attend) + seconds(multiply), seconds(attend, multiply)
    print(f"alone {alone * 1e3:.1f} ms, in turns {together * 1e3:.1f} ms")
    assert together < 4 * alone + 0.05


# -- Forks and processes -----------------------------------------------------------------------------

def in_child(function: Callable[[], bool]) -> bool:
    """Whether `function` is true in a fork, within a minute."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            status = 0 if function() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_with_a_warm_pool() -> None:
    heed.set_num_threads(2)
    big = np.zeros((2, 2, 512, 16), np.float32)
    heed.flex_attention(big, big, big)
    assert in_child(lambda: works() and compile_something() and heed.flex_attention(big, big, big).shape == big.shape)
    assert in_child(lambda: in_child(works))
    assert works() and compile_something()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("forks", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_fork_while_a_thread_compiles(cold: pathlib.Path, forks: int) -> None:
    stop = threading.Event()
    failures: list[Any] = []

    def compile_on() -> None:
        while not stop.is_set():
            if not compile_something():
                failures.append("parent")

    thread = threading.Thread(target=compile_on)
    thread.start()
    try:
        for i in range(forks):
            time.sleep(0.02 * (i % 7))
            if not in_child(lambda: works() and compile_something()):
                failures.append(i)
    finally:
        stop.set()
        thread.join(60)
    assert not failures


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow),
                                    pytest.param("forkserver", marks=pytest.mark.slow)])
def test_multiprocessing(method: str) -> None:
    assert works()
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(works, [10, 20, 30, 40]).get(120) == [True] * 4


SCRIPT = f"""
import os, pathlib, sys, time
sys.path[:0] = [{str(ROOT / 'python')!r}]
import numpy as np, heed
from heed import _compiler
compile = _compiler.compile
def counted(request, emit):
    with open(sys.argv[1], "a") as file:
        file.write(emit + "\\n")
    return compile(request, emit)
_compiler.compile = counted
q = np.ones((1, 1, 40, 16), np.float32)
print("ready", flush=True)
sys.stdin.readline()
print(heed.flex_attention(q, q, q, mask_mod=lambda b, h, i, j: i >= j).sum(), flush=True)
"""


def start(cache: pathlib.Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(cache.parent / "compiled")], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "HEED_CACHE_DIR": str(cache)})
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, output) == (0, "640.0\n"), errors


def entries(cache: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in cache.glob("v*/*/*") if len(path.name) == 64]


def test_processes_compile_once(cold: pathlib.Path) -> None:
    processes = [start(cold) for _ in range(8)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        finish(process)
    assert (cold.parent / "compiled").read_text() == "obj\n"
    assert len(entries(cold)) == 1


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_while_compiling(cold: pathlib.Path, kills: int) -> None:
    for i in range(kills):
        process = start(cold)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.3 * (i + 1) / kills)
        process.kill()
        process.communicate()
    begin = time.monotonic()
    finish(start(cold))
    assert time.monotonic() - begin < 20, "no lock was left behind"
    assert len(entries(cold)) == 1


# -- Signals -----------------------------------------------------------------------------------------

@pytest.fixture
def interrupt() -> Iterator[Callable[[float], None]]:
    """Makes Ctrl-C come after so many seconds."""
    timers: list[threading.Timer] = []

    def after(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
        timers[-1].start()

    yield after
    for timer in timers:
        timer.cancel()


def test_interrupt_during_a_kernel(probe: Probe, interrupt: Callable[[float], None]) -> None:
    with probe.in_place(works):
        probe.pause_ns.value = 500_000_000
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupt(0.1)
            heed.flex_attention(Q[:, :1, :1], Q[:, :1], Q[:, :1], mask_mod=window(40))
            time.sleep(5)
        assert 0.4 < time.monotonic() - begin < 4, "not before the kernel is done, and then at once"
        probe.pause_ns.value = 0
    assert works()


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_interrupt_during_compilation(cold: pathlib.Path, interrupt: Callable[[float], None], rounds: int) -> None:
    for i in range(rounds):
        mod = new_mod()
        with pytest.raises(KeyboardInterrupt):
            interrupt(0.25 * (i + 1) / rounds)
            heed.flex_attention(Q, Q, Q, mod)
            time.sleep(5)
        begin = time.monotonic()
        np.testing.assert_allclose(heed.flex_attention(Q[:, :, :9], Q, Q, mod), heed.flex_attention(Q[:, :, :9], Q, Q), atol=1e-4)
        assert time.monotonic() - begin < 20, "no lock was left behind"
    assert works() and in_child(works)
