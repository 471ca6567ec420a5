# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Threads and processes that share the kernel cache: one builds a kernel and the others wait; forks and interrupts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import pathlib
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from cache_helpers import (KEY, OTHER_KEY, PAYLOAD, entry_names, entry_path, finish, no_build, run, start,
                           temporary_files, timed, used_bytes, warnings_of)
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed import cache
from heed.cache import DiskCache, digest

# One builder.

BUILD_SCRIPT = """
def build():
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(float(sys.argv[3]))
    return b"payload" * 1000
print("ready", flush=True)
sys.stdin.read()
assert store.get_or_build(KEY, build) == b"payload" * 1000
"""


def together(count: int, script: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """Starts processes that all wait for the end of their input, and then ends it."""
    reading, writing = os.pipe()
    processes = [start(script, *arguments, stdin=reading) for _ in range(count)]
    os.close(reading)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    os.close(writing)
    return processes


@pytest.mark.parametrize("build_seconds", [0, 0.3])
def test_eight_processes_build_once(folder: pathlib.Path, tmp_path: pathlib.Path, build_seconds: float) -> None:
    log = tmp_path / "log"
    for process in together(8, BUILD_SCRIPT, folder, log, build_seconds):
        finish(process)
    assert len(log.read_text().splitlines()) == 1
    assert not temporary_files(folder)


@pytest.mark.slow
def test_eight_processes_build_once_again_and_again(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for attempt in range(25):
        log = tmp_path / f"log{attempt}"
        for process in together(8, BUILD_SCRIPT, folder, log, random.random() / 50):
            finish(process)
        assert len(log.read_text().splitlines()) == 1
        DiskCache(folder).clear()


@pytest.mark.parametrize("where", ["on disk", "turned off"])
def test_threads_build_once(folder: pathlib.Path, where: str) -> None:
    builds: list[int] = []
    results: list[bytes] = []
    barrier = threading.Barrier(8)

    def build() -> bytes:
        builds.append(threading.get_ident())
        time.sleep(0.1)
        return PAYLOAD

    def work(store: DiskCache) -> None:
        barrier.wait()
        results.append(store.get_or_build(KEY, build))

    size = None if where == "on disk" else 0
    threads = [threading.Thread(target=work, args=(DiskCache(folder, size),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [PAYLOAD] * 8
    assert len(builds) == 1
    assert not cache._flights and not cache._LockFile._open_files


def test_two_names_of_a_directory_build_once(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder.mkdir(0o700)
    (tmp_path / "link").symlink_to(folder)
    started = threading.Event()
    builds = []

    def build() -> bytes:
        builds.append(1)
        started.set()
        time.sleep(0.1)
        return PAYLOAD

    thread = threading.Thread(target=DiskCache(folder).get_or_build, args=(KEY, build))
    thread.start()
    started.wait()
    assert DiskCache(tmp_path / "link").get_or_build(KEY, build) == PAYLOAD
    thread.join()
    assert builds == [1]


HOLD_SCRIPT = """
def build():
    print("building", flush=True)
    time.sleep(60)
store.get_or_build(KEY, build)
"""


@contextlib.contextmanager
def holder(folder: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which builds KEY until it is killed."""
    process = start(HOLD_SCRIPT, folder)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "building\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_other_keys_do_not_wait(folder: pathlib.Path) -> None:
    neighbour = KEY[:14] + OTHER_KEY[14:]
    store = DiskCache(folder)
    with holder(folder):
        for key in (OTHER_KEY, neighbour):
            assert timed(lambda key=key: store.get_or_build(key, lambda: PAYLOAD)) < 30  # type: ignore[misc]
            assert store.get(key) == PAYLOAD


def test_a_lock_outlives_those_of_other_keys(folder: pathlib.Path) -> None:
    """Closing the lock file for one key would free the locks of all."""
    script = """
other = threading.Event()
def build():
    other.set()
    print("building", flush=True)
    time.sleep(60)
threading.Thread(target=store.get_or_build, args=(KEY, build), daemon=True).start()
other.wait()
store.get_or_build(OTHER_KEY, lambda: b"quick")
print("done", flush=True)
time.sleep(60)
"""
    process = start(script, folder)
    assert process.stdout is not None
    try:
        assert [process.stdout.readline() for _ in range(2)] == ["building\n", "done\n"]
        reader = start("cache.LOCK_WAIT_S = 0.3\nbegin = time.monotonic()\nstore.get_or_build(KEY, lambda: b'x')\n"
                       "print(time.monotonic() - begin)", folder)
        assert float(finish(reader)) > 0.25
    finally:
        process.kill()
        process.communicate()


def test_a_killed_builder_is_not_waited_for(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    with holder(folder) as process:
        threading.Timer(0.2, process.kill).start()
        assert 0.1 < timed(lambda: store.get_or_build(KEY, lambda: PAYLOAD)) < 30
    assert store.get(KEY) == PAYLOAD


def test_waiting_for_a_process_is_bounded(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_WAIT_S", 0.3)
    store = DiskCache(folder)
    with holder(folder):
        assert 0.2 < timed(lambda: store.get_or_build(KEY, lambda: PAYLOAD)) < 30
        assert store.get(KEY) == PAYLOAD
    assert not cache._LockFile._open_files


def test_waiting_for_a_thread_is_bounded(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_WAIT_S", 0.3)
    store = DiskCache(folder)
    started, stop = threading.Event(), threading.Event()

    def build() -> bytes:
        started.set()
        stop.wait(20)
        return b"slow"

    thread = threading.Thread(target=store.get_or_build, args=(KEY, build))
    thread.start()
    started.wait()
    assert 0.2 < timed(lambda: store.get_or_build(KEY, lambda: b"fast")) < 30
    assert store.get(KEY) == b"fast"
    stop.set()
    thread.join()
    assert not cache._flights


def test_a_build_may_ask_for_its_own_key(folder: pathlib.Path) -> None:
    store = DiskCache(folder)

    def build() -> bytes:
        return store.get_or_build(KEY, lambda: b"inner") + b" and outer"

    assert store.get_or_build(KEY, build) == b"inner and outer"
    assert store.get(KEY) == b"inner and outer"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_file_systems_without_locks(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: int,
                                    caplog: pytest.LogCaptureFixture) -> None:
    def lockf(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    store = DiskCache(folder)
    assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert store.get_or_build(KEY, no_build) == PAYLOAD
    assert not warnings_of(caplog)


@pytest.mark.parametrize("failure", [RuntimeError("no such target"), KeyboardInterrupt(), SystemExit(3)])
def test_a_build_that_raises(folder: pathlib.Path, failure: BaseException) -> None:
    store = DiskCache(folder)

    def build() -> bytes:
        raise failure

    with pytest.raises(type(failure)) as raised:
        store.get_or_build(KEY, build)
    assert raised.value is failure
    assert not entry_names(folder) and not temporary_files(folder)
    assert not cache._flights and not cache._LockFile._open_files
    script = "print(store.get_or_build(KEY, lambda: b'built').decode())"
    assert timed(lambda: run(script, folder)) < 30
    assert store.get(KEY) == b"built"


def test_the_next_thread_builds_when_one_fails(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    barrier = threading.Barrier(4)
    attempts = itertools.count()
    outcomes: list[object] = []

    def build() -> bytes:
        time.sleep(0.05)
        if next(attempts) == 0:
            raise RuntimeError
        return PAYLOAD

    def work() -> None:
        barrier.wait()
        try:
            outcomes.append(store.get_or_build(KEY, build))
        except RuntimeError:
            outcomes.append("failed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == sorted(map(str, ["failed", PAYLOAD, PAYLOAD, PAYLOAD]))
    assert next(attempts) == 2


INTERRUPTED_SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
def build():
    print("building", flush=True)
    time.sleep(60)
waiter = len(sys.argv) > 2
if waiter:
    print("waiting", flush=True)
try:
    store.get_or_build(KEY, build)
except KeyboardInterrupt:
    assert not cache._flights and not cache._LockFile._open_files
    if waiter:
        print(store.get(KEY))
    else:
        print(store.get_or_build(KEY, lambda: b"again"))
"""


def test_interrupted_while_building(folder: pathlib.Path) -> None:
    process = start(INTERRUPTED_SCRIPT, folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == "b'again'"
    assert DiskCache(folder).get(KEY) == b"again"


def test_interrupted_while_waiting(folder: pathlib.Path) -> None:
    with holder(folder) as other:
        process = start(INTERRUPTED_SCRIPT, folder, "waiter")
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert finish(process) == "None"
        assert other.poll() is None
    assert not temporary_files(folder)


def test_interrupted_while_writing(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        DiskCache(folder).get_or_build(KEY, lambda: PAYLOAD)
    assert not temporary_files(folder) and not entry_names(folder)
    assert not cache._flights and not cache._LockFile._open_files


# Fork.


def test_a_forked_child_keeps_no_lock_of_a_killed_parent(folder: pathlib.Path) -> None:
    script = """
def build():
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
store.get_or_build(KEY, build)
"""
    process = start(script, folder)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        assert timed(lambda: DiskCache(folder).get_or_build(KEY, lambda: PAYLOAD)) < 30
        os.kill(child, 0)  # still there
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_a_child_forked_during_a_build_can_use_the_cache(folder: pathlib.Path) -> None:
    script = """
started, stop = threading.Event(), threading.Event()
def build():
    started.set()
    stop.wait()
    return b"parent"
thread = threading.Thread(target=store.get_or_build, args=(KEY, build))
thread.start()
started.wait()
with cache._LockFile._guard:  # as if another thread were opening the file
    child = os.fork()
if child == 0:
    assert not cache._flights and not cache._LockFile._open_files
    assert store.get_or_build(OTHER_KEY, lambda: b"other") == b"other"
    cache.LOCK_WAIT_S = 0.3
    begin = time.monotonic()
    assert store.get_or_build(KEY, lambda: b"child") == b"child"
    assert time.monotonic() - begin > 0.2  # it respects its parent's lock
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
thread.join()
print(store.get(KEY), store.get(OTHER_KEY))
"""
    assert run(script, folder) == "b'parent' b'other'"


def test_a_child_forked_inside_a_build_may_return_from_it(folder: pathlib.Path) -> None:
    script = """
child = None
def build():
    global child
    child = os.fork()
    return b"built"
assert store.get_or_build(KEY, build) == b"built"
if child == 0:
    os._exit(0 if store.get(KEY) == b"built" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert not cache._flights and not cache._LockFile._open_files
"""
    run(script, folder)


def test_no_descriptor_survives_exec_or_a_call(folder: pathlib.Path) -> None:
    script = """
import subprocess
def build():
    listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
    assert "heed" not in listed.stdout, listed.stdout
    return b"built"
before = os.listdir("/proc/self/fd")
store.get_or_build(KEY, build)
store.get(KEY), store.info(), store.clear(), store.get(KEY)
assert os.listdir("/proc/self/fd") == before
"""
    run(script, folder / "heed")


# Threads at everything.


def hammer(folder: pathlib.Path, seconds: float, threads: int) -> None:
    store = DiskCache(folder, 30_000)
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []

    def payload_of(key: str) -> bytes:
        return key.encode() * (1 + int(key[:2], 16) % 64)

    def work(seed: int) -> None:
        generator = random.Random(seed)
        try:
            while time.monotonic() < deadline:
                key = digest(str(generator.randrange(20)))
                action = generator.random()
                if action < 0.5:
                    assert store.get_or_build(key, lambda key=key: payload_of(key)) == payload_of(key)  # type: ignore[misc]
                elif action < 0.7:
                    assert store.get(key) in (None, payload_of(key))
                elif action < 0.9:
                    store.put(key, payload_of(key))
                elif action < 0.95:
                    path = entry_path(folder, key)
                    with contextlib.suppress(OSError):
                        os.truncate(path, generator.randrange(200))
                elif action < 0.98:
                    assert store.info().bytes < 300_000
                else:
                    store.clear()
        except BaseException as failure:
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures
    assert not temporary_files(folder)
    assert not cache._flights and not cache._LockFile._open_files
    for _ in range(2):  # at rest the bound is exact
        store.put(KEY, bytes(20_000))
        store.put(OTHER_KEY, bytes(20_000))
    assert used_bytes(folder) <= 30_000


def test_threads_hammering(folder: pathlib.Path) -> None:
    hammer(folder, 0.7, 6)


@pytest.mark.slow
def test_threads_hammering_for_long(folder: pathlib.Path) -> None:
    hammer(folder, 20.0, 16)
