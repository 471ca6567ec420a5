# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the tests of the kernel cache share: its keys, its files, and processes that run scripts on it."""

from __future__ import annotations

import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from heed import cache
from heed.cache import DiskCache, digest

KEY = digest("a kernel")
OTHER_KEY = digest("another kernel")
PAYLOAD = bytes(range(256)) * 4
HEADER_SIZE = 84

# Scripts load cache.py alone: a process of NumPy takes half a second to start, and one that has
# become nobody may not read the packages.
PRELUDE = f"""
import contextlib, errno, os, resource, signal, sys, threading, time, importlib.util
spec = importlib.util.spec_from_file_location("cache", {cache.__file__!r})
cache = sys.modules["cache"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
KEY, OTHER_KEY = {KEY!r}, {OTHER_KEY!r}
DIRECTORY = sys.argv[1]
store = cache.DiskCache(DIRECTORY)
"""

FAILING_SCRIPT = """
for _ in range(3):
    assert store.get_or_build(KEY, lambda: bytes(1_000_000)) == bytes(1_000_000)
store.put(OTHER_KEY, b"small")
print(store.get(KEY) is not None, store.get(OTHER_KEY), store.info().writable)
for path, _, names in os.walk(DIRECTORY):
    assert not [name for name in names if name.endswith(".tmp")]
"""


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEED_CACHE_DIR", "HEED_CACHE_SIZE", "HEED_CACHE_DISABLE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache, "_warned", set())


@pytest.fixture(name="folder")
def cache_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache"


def start(script: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", "-c", PRELUDE + script, *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[str]) -> str:
    """What the process printed. Fails if it failed."""
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return output.strip()


def run(script: str, *arguments: object) -> str:
    return finish(start(script, *arguments))


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def entry_path(folder: pathlib.Path, key: str = KEY, version: int = 1) -> pathlib.Path:
    return folder / f"v{version}" / key[:2] / key


def temporary_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.glob("v*/*/*.tmp"))


def entry_names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.glob("v*/*/*") if path.suffix != ".tmp"}


def used_bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("v*/*/*"))


def set_age(path: pathlib.Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def no_build() -> bytes:
    raise AssertionError("built, though the entry is there")


def fill(store: DiskCache, folder: pathlib.Path, count: int) -> list[str]:
    """Puts so many entries of 1108 bytes; the first is the oldest, by an hour and more."""
    keys = [digest("fill", str(n)) for n in range(count)]
    for age, key in zip(range(count, 0, -1), keys):
        store.put(key, PAYLOAD)
        set_age(entry_path(folder, key), 7200 + age)
    return keys
