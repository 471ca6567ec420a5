# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Processes that are killed while they write to the kernel cache: what they leave is whole, or is swept."""

from __future__ import annotations

import pathlib
import random
import signal
import subprocess
import time

import pytest
from cache_helpers import KEY, OTHER_KEY, PAYLOAD, run, set_age, start, temporary_files, timed, used_bytes
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed import cache
from heed.cache import DiskCache, digest

WRITER_SCRIPT = """
generator = int(sys.argv[2])
limited = cache.DiskCache(DIRECTORY, 12_000_000)
print("ready", flush=True)
while True:
    generator = (generator * 6364136223846793005 + 1442695040888963407) % 2**64
    key = cache.digest(str(generator % 40))
    payload = key.encode() * (5000 + generator % 10000)
    limited.get_or_build(key, lambda: payload)
"""


def kill_writers(folder: pathlib.Path, rounds: int) -> None:
    generator = random.Random(rounds)
    store = DiskCache(folder, 12_000_000)
    for _ in range(rounds):
        writers = [start(WRITER_SCRIPT, folder, generator.randrange(2**60), stderr=subprocess.DEVNULL)
                   for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        for writer in writers:
            time.sleep(generator.uniform(0, 0.08))
            writer.kill()
            writer.communicate()
        for n in range(40):
            key = digest(str(n))
            payload = store.get(key)
            assert payload is None or payload == key.encode() * (len(payload) // 64)  # any that was put
        assert not cache._warned  # which also says that nothing was found damaged
        # No lock remains: every key can be built at once.
        assert timed(lambda: [store.get_or_build(digest(str(n)), lambda: b"x") for n in range(40)]) < 30
        assert used_bytes(folder) <= 12_000_000 + 2_000_000  # what the killed were about
        store.clear()
    assert not temporary_files(folder)


def test_killed_writers(folder: pathlib.Path) -> None:
    kill_writers(folder, 3)


@pytest.mark.slow
def test_killed_writers_again_and_again(folder: pathlib.Path) -> None:
    kill_writers(folder, 100)


def test_what_killed_writers_leave_is_swept(folder: pathlib.Path) -> None:
    """Stopped for certain in the middle of a write, by a file size limit whose signal kills."""
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
store.put(KEY, bytes(1_000_000))
"""
    process = start(script, folder)
    process.communicate()
    assert process.returncode == -signal.SIGXFSZ
    (left,) = temporary_files(folder)
    assert left.stat().st_size == 100_000
    store = DiskCache(folder)
    assert store.get(KEY) is None
    assert store.info().entries == 0
    set_age(left, 4000)
    store.put(KEY, PAYLOAD)
    assert not temporary_files(folder)
    assert store.get(KEY) == PAYLOAD


def test_killed_at_every_system_call_of_a_put(folder: pathlib.Path) -> None:
    """The process dies before its nth call, for each n."""
    script = """
calls = int(sys.argv[2])
def counted(original):
    def call(*arguments, **options):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call
for name in ("open", "mkdir", "write", "fsync", "rename", "close", "ftruncate", "unlink", "listdir", "stat"):
    setattr(os, name, counted(getattr(os, name)))
cache.DiskCache(DIRECTORY, 1500).put(KEY, b"new" * 400)
"""
    # A process for each n would take long: the prelude is run once, and forks.
    loop = """
script = sys.argv[2]
for n in range(200):
    child = os.fork()
    if child == 0:
        sys.argv[1:] = [f"{sys.argv[1]}/{n}", str(n)]
        DIRECTORY = sys.argv[1]
        cache.DiskCache(DIRECTORY, 1500).put(OTHER_KEY, b"old" * 400)
        exec(script)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        print(n)
        break
    assert os.WIFSIGNALED(status)
"""
    folder.mkdir(0o700)
    total = int(run(loop, folder, script))
    assert total > 20
    seen = set()
    for n in range(total + 1):
        store = DiskCache(folder / str(n), 1500)
        found = (store.get(OTHER_KEY), store.get(KEY))
        seen.add((found[0] is not None, found[1] is not None))
        assert found[0] in (None, b"old" * 400) and found[1] in (None, b"new" * 400)
        assert store.get_or_build(KEY, lambda: b"new" * 400) == b"new" * 400
        for path in temporary_files(folder / str(n)):
            set_age(path, 4000)
        for key in (digest("1"), digest("2"), digest("3")):
            store.put(key, bytes(1000))
        assert used_bytes(folder / str(n)) <= 1500
        assert not temporary_files(folder / str(n))
    assert seen == {(True, False), (True, True), (False, True)}
