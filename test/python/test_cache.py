# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernel cache: processes that race, are killed, run out of disk; files that are damaged."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import pathlib
import pwd
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heed.__main__ as command_line
from heed import cache
from heed.cache import DiskCache, digest

KEY = digest("a kernel")
OTHER_KEY = digest("another kernel")
PAYLOAD = bytes(range(256)) * 4
HEADER_SIZE = 84
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, to become another user")

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


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEED_CACHE_DIR", "HEED_CACHE_SIZE", "HEED_CACHE_DISABLE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache, "_warned", set())


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache"


@pytest.fixture
def open_folder() -> Iterator[pathlib.Path]:
    """A folder that other users can reach; those of tmp_path they cannot."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="heed-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


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


# Keys, settings and the format.


def test_digest_is_that_of_length_prefixed_parts() -> None:
    framed = b"\x02" + bytes(7) + b"ab" + b"\x01" + bytes(7) + b"c"
    assert digest("ab", b"c") == hashlib.sha256(framed).hexdigest()


@given(st.lists(st.text("ab", max_size=2), max_size=3), st.lists(st.text("ab", max_size=2), max_size=3))
def test_digest_tells_part_lists_apart(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)


def test_digest_takes_file_names_that_are_not_utf8() -> None:
    assert digest(os.fsdecode(b"k\xff")) != digest("k")


@pytest.mark.parametrize("key", ["", "ab", KEY.upper(), KEY + "0", KEY + "\n", "../" + KEY[3:]])
def test_a_key_is_a_digest(folder: pathlib.Path, key: str) -> None:
    store = DiskCache(folder)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.get(key)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.put(key, b"")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        store.get_or_build(key, no_build)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("4096", 4096), ("512M", 512 << 20), ("2G", 2 << 30),
                                            (" 1.5 k ", 1536), ("3MiB", 3 << 20), ("1tb", 1 << 40)])
def test_sizes(text: str, size: int) -> None:
    assert cache.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1P", "1 2", "0x10", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="512M"):
        cache.parse_size(text)


def test_directory_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert DiskCache().directory == "/home/someone/.cache/heed"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, so ignored")
    assert DiskCache().directory == "/home/someone/.cache/heed"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert DiskCache().directory == "/caches/heed"
    monkeypatch.setenv("HEED_CACHE_DIR", "~/kernels")
    assert DiskCache().directory == "/home/someone/kernels"
    assert DiskCache("/given").directory == "/given"


def test_size_from_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
                                   folder: pathlib.Path) -> None:
    assert DiskCache(folder).info().max_bytes == 1 << 30
    monkeypatch.setenv("HEED_CACHE_SIZE", "2M")
    assert DiskCache(folder).info().max_bytes == 2 << 20
    assert DiskCache(folder, 5).info().max_bytes == 5
    assert not warnings_of(caplog)
    monkeypatch.setenv("HEED_CACHE_SIZE", "lots")
    for _ in range(2):
        assert DiskCache(folder).info().max_bytes == 1 << 30
    assert warnings_of(caplog) == ["HEED_CACHE_SIZE is ignored: expected a size such as 512M or 2G, found 'lots'"]
    with pytest.raises(ValueError, match="at least 0, found -1"):
        DiskCache(folder, -1)


@pytest.mark.parametrize(("name", "value"), [("HEED_CACHE_DISABLE", "1"), ("HEED_CACHE_SIZE", "0")])
def test_turned_off(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, name: str, value: str) -> None:
    DiskCache(folder).put(KEY, PAYLOAD)
    monkeypatch.setenv(name, value)
    store = DiskCache(folder)
    store.put(OTHER_KEY, PAYLOAD)
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: b"built") == b"built"
    info = store.info()
    assert (info.enabled, info.writable, info.entries) == (False, False, 1)
    assert info.reason in ("HEED_CACHE_DISABLE is set", "its size is set to 0")
    assert store.clear() == 1


def test_disable_is_off_when_0(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
    monkeypatch.setenv("HEED_CACHE_DISABLE", "0")
    assert DiskCache(folder).info().enabled


@pytest.mark.parametrize("home", [None, ""])
def test_no_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, home: str | None) -> None:
    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for store in (DiskCache(), DiskCache()):
        assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
        assert store.info().directory is None
        assert store.clear() == 0
    assert warnings_of(caplog) == ["compiled kernels are not kept: there is no home directory; set HEED_CACHE_DIR"]


def test_default_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path / "a"))
    first = cache.default_cache()
    assert cache.default_cache() is first
    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path / "b"))
    assert cache.default_cache().directory == str(tmp_path / "b")
    monkeypatch.setenv("HEED_CACHE_SIZE", "3K")
    assert cache.default_cache().info().max_bytes == 3072


def test_a_relative_directory_stays_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    store = DiskCache("kernels")
    monkeypatch.chdir("/")
    store.put(KEY, PAYLOAD)
    assert entry_path(tmp_path / "kernels").is_file()


def test_import_is_light() -> None:
    assert run("print([name for name in ('numpy', 'ctypes', 'asyncio') if name in sys.modules])", "/") == "[]"


@pytest.mark.parametrize("payload", [b"", b"x", PAYLOAD, random.Random(1).randbytes(5_000_000)], ids=len)
def test_round_trip(folder: pathlib.Path, payload: bytes) -> None:
    store = DiskCache(folder)
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: payload) == payload
    assert store.get_or_build(KEY, no_build) == payload
    assert DiskCache(folder).get(KEY) == payload
    assert store.get(OTHER_KEY) is None
    assert not temporary_files(folder)
    info = store.info()
    assert (info.entries, info.bytes, info.versions) == (1, HEADER_SIZE + len(payload), (1,))
    assert (info.directory, info.writable, info.reason) == (str(folder), True, None)


def test_put_replaces(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    store.put(KEY, b"newer")
    assert store.get(KEY) == b"newer"


def test_format_1(folder: pathlib.Path) -> None:
    DiskCache(folder).put(KEY, b"code")
    expected = (b"HEEDKERN" + struct.pack("<IQ", 1, 4) + hashlib.sha256(b"code").digest() + bytes.fromhex(KEY)
                + b"code")
    assert entry_path(folder).read_bytes() == expected


def test_folders_are_private_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    previous = os.umask(0)
    try:
        DiskCache(tmp_path / "new" / "cache").put(KEY, PAYLOAD)
    finally:
        os.umask(previous)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    assert DiskCache(tmp_path / "new" / "cache").get(KEY) == PAYLOAD


def test_info_makes_nothing(tmp_path: pathlib.Path) -> None:
    info = DiskCache(tmp_path / "new" / "cache").info()
    assert (info.entries, info.writable, info.reason) == (0, True, None)
    assert not (tmp_path / "new").exists()


# Damage.


def damaged(folder: pathlib.Path, contents: bytes) -> None:
    """Checks that an entry of these contents is absent, removed and rebuilt."""
    entry_path(folder).write_bytes(contents)
    store = DiskCache(folder)
    assert store.get(KEY) is None
    assert not entry_path(folder).exists()
    entry_path(folder).write_bytes(contents)
    assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert store.get(KEY) == PAYLOAD


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 12, 15, 20, 40, 52, 60, 83, 84, 85, 500, HEADER_SIZE + 1023])
def test_truncated(folder: pathlib.Path, length: int) -> None:
    DiskCache(folder).put(KEY, PAYLOAD)
    damaged(folder, entry_path(folder).read_bytes()[:length])


@pytest.mark.parametrize("tail", [b"\0", PAYLOAD])
def test_longer_than_it_says(folder: pathlib.Path, tail: bytes) -> None:
    DiskCache(folder).put(KEY, PAYLOAD)
    damaged(folder, entry_path(folder).read_bytes() + tail)


def test_zeros_as_after_a_power_cut(folder: pathlib.Path) -> None:
    DiskCache(folder).put(KEY, PAYLOAD)
    damaged(folder, bytes(HEADER_SIZE + len(PAYLOAD)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bits(folder: pathlib.Path, data: st.DataObject) -> None:
    path = entry_path(folder)
    intact = (b"HEEDKERN" + struct.pack("<IQ", 1, len(PAYLOAD)) + hashlib.sha256(PAYLOAD).digest()
              + bytes.fromhex(KEY) + PAYLOAD)
    bits = data.draw(st.sets(st.one_of(st.integers(0, 8 * HEADER_SIZE - 1), st.integers(0, 8 * len(intact) - 1)),
                             min_size=1, max_size=4))
    contents = bytearray(intact)
    for bit in bits:
        contents[bit // 8] ^= 1 << bit % 8
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    store = DiskCache(folder)
    path.write_bytes(intact)
    assert store.get(KEY) == PAYLOAD
    path.write_bytes(contents)
    assert store.get(KEY) is None
    assert not path.exists()


def test_another_kernels_entry(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    store.put(OTHER_KEY, b"the wrong kernel")
    os.rename(entry_path(folder, OTHER_KEY), entry_path(folder))
    assert store.get(KEY) is None
    assert not entry_path(folder).exists()


def test_damage_is_told_once(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskCache(folder)
    for _ in range(3):
        store.put(KEY, PAYLOAD)
        entry_path(folder).write_bytes(b"?")
        assert store.get(KEY) is None
    assert warnings_of(caplog) == [f"found a damaged entry in the kernel cache {folder}; it is built anew"]


def test_a_damaged_entry_that_was_replaced_meanwhile_stays(folder: pathlib.Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    original = cache._verified_payload

    def replaced_meanwhile(entry: int, size: int, key: str) -> bytes | None:
        assert original(entry, size, key) == PAYLOAD
        DiskCache(folder).put(KEY, b"good")
        return None

    monkeypatch.setattr(cache, "_verified_payload", replaced_meanwhile)
    assert store.get(KEY) is None
    monkeypatch.setattr(cache, "_verified_payload", original)
    assert store.get(KEY) == b"good"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to an entry", "dangling link", "loop"])
def test_odd_things_instead_of_an_entry(folder: pathlib.Path, kind: str) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    path = entry_path(folder)
    elsewhere = folder / "elsewhere"
    path.rename(elsewhere)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link to an entry": elsewhere, "dangling link": folder / "nowhere", "loop": path}[kind])
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: b"built") == b"built"
    assert store.get(KEY) == (None if kind == "folder" else b"built")
    assert elsewhere.read_bytes()[HEADER_SIZE:] == PAYLOAD
    assert not temporary_files(folder)


@pytest.mark.parametrize("where", ["v1", f"v1/{KEY[:2]}"])
def test_a_linked_or_misplaced_folder_is_not_used(folder: pathlib.Path, tmp_path: pathlib.Path, where: str) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    (folder / where).rename(tmp_path / "outside")
    (folder / where).symlink_to(tmp_path / "outside")
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: b"built") == b"built"
    assert store.info().entries == 0
    assert store.clear() == 0
    assert PAYLOAD in [path.read_bytes()[HEADER_SIZE:] for path in (tmp_path / "outside").rglob("*") if path.is_file()]
    (folder / where).unlink()
    (folder / where).write_text("a file")
    assert store.get_or_build(KEY, lambda: b"built") == b"built"


# Versions.


def test_two_formats_side_by_side(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(folder)
    store.put(KEY, b"old")
    with monkeypatch.context() as newer:
        newer.setattr(cache, "FORMAT_VERSION", 2)
        assert store.get(KEY) is None
        store.put(KEY, b"new")
        assert store.get(KEY) == b"new"
    assert store.get(KEY) == b"old"
    assert store.info().versions == (1, 2)
    # An entry of the other format under this one's path is damage.
    os.replace(entry_path(folder, version=2), entry_path(folder))
    assert store.get(KEY) is None


def test_eviction_and_clear_cover_all_formats(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(folder, 5000)
    with monkeypatch.context() as older:
        older.setattr(cache, "FORMAT_VERSION", 0)
        for n in range(3):
            store.put(digest(str(n)), PAYLOAD)
            set_age(entry_path(folder, digest(str(n)), 0), 1000)
    for n in range(3):
        store.put(digest(str(n)), PAYLOAD)
        assert used_bytes(folder) <= 5000
    assert all(store.get(digest(str(n))) == PAYLOAD for n in range(3))
    # The fifth made it 5540 bytes, so two of the old ones went.
    assert store.info().versions == (0, 1) and store.info().entries == 4
    with monkeypatch.context() as newer:
        newer.setattr(cache, "FORMAT_VERSION", 2)
        store.put(KEY, b"")
    assert store.info().versions == (0, 1, 2)
    assert store.clear() == 5
    assert not entry_names(folder)


# The bound.


def fill(store: DiskCache, folder: pathlib.Path, count: int) -> list[str]:
    """Puts so many entries of 1108 bytes; the first is the oldest, by an hour and more."""
    keys = [digest("fill", str(n)) for n in range(count)]
    for age, key in zip(range(count, 0, -1), keys):
        store.put(key, PAYLOAD)
        set_age(entry_path(folder, key), 7200 + age)
    return keys


def test_the_least_recently_used_go_first(folder: pathlib.Path) -> None:
    store = DiskCache(folder, 9000)
    keys = fill(store, folder, 8)
    assert entry_names(folder) == set(keys)
    assert store.get(keys[0]) == PAYLOAD  # now the most recent
    store.put(KEY, PAYLOAD)
    assert entry_names(folder) == {keys[0], *keys[3:], KEY}


def test_bound_holds_after_each_put(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    generator = random.Random(5)
    limit = 50_000
    store = DiskCache(folder, limit)
    for n in range(150):
        store.put(digest(str(n)), bytes(generator.randrange(12_000)))
        assert used_bytes(folder) <= limit
        assert store.get(digest(str(n))) is not None
    assert used_bytes(folder) > limit // 2


def test_a_hit_touches_once_an_hour(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    path = entry_path(folder)
    for age, touched in ((3000, False), (4000, True), (-4000, True)):  # the last: a clock set back
        set_age(path, age)
        before = path.stat().st_mtime
        assert store.get(KEY) == PAYLOAD
        assert (path.stat().st_mtime != before) == touched
        assert not touched or abs(time.time() - path.stat().st_mtime) < 60


def test_the_newest_stays_though_large(folder: pathlib.Path) -> None:
    store = DiskCache(folder, 10_000)
    fill(store, folder, 8)
    store.put(KEY, bytes(9_900))
    assert entry_names(folder) == {KEY}


def test_larger_than_the_cache(folder: pathlib.Path) -> None:
    store = DiskCache(folder, 10_000)
    keys = fill(store, folder, 3)
    store.put(KEY, bytes(10_000 - HEADER_SIZE + 1))
    assert entry_names(folder) == set(keys)
    store.put(KEY, bytes(10_000 - HEADER_SIZE))
    assert entry_names(folder) == {KEY}


def test_files_are_counted_rarely(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    original = cache._list_files

    def counted(root: int, troubles: list[OSError]) -> object:
        counts.append(1)
        return original(root, troubles)

    monkeypatch.setattr(cache, "_list_files", counted)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for n in range(300):  # as many processes would, each with its own object
        DiskCache(folder, 100_000).put(digest(str(n)), PAYLOAD)
    # One at first, and one for each eighth of the limit: 12500 / 1108 = 11 puts.
    assert 10 <= len(counts) <= 30
    assert used_bytes(folder) <= 100_000


def test_a_full_cache_is_noticed_by_a_new_process(folder: pathlib.Path) -> None:
    fill(DiskCache(folder, 9000), folder, 8)
    run("cache.DiskCache(DIRECTORY, 9000).put(KEY, bytes(1024))", folder)
    assert used_bytes(folder) <= 9000
    assert entry_path(folder).exists()


@pytest.mark.parametrize("ledger", [b"", b"12", b"x", b"1 2 3 x\n", b"-\n5 5", b"1\n" * 40_000, b"9" * 5000, b"\xff",
                                    b"0 4000000000\n", b"0 1000000000\n", None])
def test_damaged_ledgers_are_made_anew(folder: pathlib.Path, ledger: bytes | None) -> None:
    store = DiskCache(folder, 9000)
    fill(store, folder, 8)
    (folder / "heed.usage").unlink()
    if ledger is not None:
        (folder / "heed.usage").write_bytes(ledger)
    store.put(KEY, PAYLOAD)
    assert used_bytes(folder) <= 9000
    assert cache._ledger_total((folder / "heed.usage").read_bytes()) == used_bytes(folder)


def test_ledger_adds_up(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    for n in range(5):
        store.put(digest(str(n)), bytes(n))
        assert cache._ledger_total((folder / "heed.usage").read_bytes()) == used_bytes(folder)


def test_stale_temporary_files_are_swept(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    old = entry_path(folder).with_name(f"{KEY}.123.{'0' * 16}.tmp")
    young = entry_path(folder).with_name(f"{KEY}.124.{'0' * 16}.tmp")
    foreign = entry_path(folder).with_name("notes.tmp")
    for path in (old, young, foreign):
        path.write_bytes(b"half")
        set_age(path, 100 if path == young else 4000)
    # Yesterday's count is too old, so the next put counts and sweeps.
    (folder / "heed.usage").write_bytes(b"0 %d\n" % (time.time() - 90_000))
    store.put(OTHER_KEY, PAYLOAD)
    assert set(temporary_files(folder)) == {young, foreign}
    assert entry_names(folder) == {KEY, OTHER_KEY}


def test_evicting_what_another_evicts(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(folder, 9000)
    keys = fill(store, folder, 8)
    original = cache._list_files

    def with_a_rival(root: int, troubles: list[OSError]) -> object:
        files = original(root, troubles)
        entry_path(folder, keys[0]).unlink()
        return files

    monkeypatch.setattr(cache, "_list_files", with_a_rival)
    store.put(KEY, PAYLOAD)
    assert entry_names(folder) == {*keys[2:], KEY}


# Clear.


def test_clear_removes_only_heeds_files(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    store = DiskCache(folder)
    fill(store, folder, 5)
    store.put(KEY, PAYLOAD)
    temporary = entry_path(folder).with_name(f"{KEY}.123.{'0' * 16}.tmp")
    temporary.write_bytes(b"half")
    outside = tmp_path / "outside"
    for name in (f"v1/{KEY[:2]}/{KEY}", f"{KEY[:2]}/{KEY}", KEY):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(b"mine")
    kept = [folder / "notes", folder / "v1" / "notes", folder / "v1" / "ab.txt", folder / KEY,
            entry_path(folder).with_name("notes"), folder / "version" / KEY[:2] / KEY]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    links = {folder / "v7": outside / "v1", folder / "v1" / "zz": outside, folder / "v8": outside,
             entry_path(folder).with_name(OTHER_KEY): outside / KEY}
    free = next(f"{n:02x}" for n in range(256) if not (folder / "v1" / f"{n:02x}").exists())
    links[folder / "v1" / free] = outside / KEY[:2]
    for link, target in links.items():
        link.symlink_to(target)
    assert store.info().entries == 6
    assert store.clear() == 6
    assert not temporary.exists()
    assert all(path.read_bytes() == b"mine" for path in kept)
    assert all(link.is_symlink() for link in links)
    assert len([path for path in outside.rglob("*") if path.is_file()]) == 3
    assert store.clear() == 0
    store.put(KEY, PAYLOAD)
    assert store.get(KEY) == PAYLOAD


def test_clear_of_nothing(folder: pathlib.Path) -> None:
    assert DiskCache(folder).clear() == 0
    assert not folder.exists()


def test_clear_goes_on_after_an_error(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(folder)
    keys = fill(store, folder, 5)
    original = cache._remove

    def remove(root: int, file: cache._File) -> None:
        if file.name == keys[2]:
            raise PermissionError(errno.EACCES, "Permission denied", file.name)
        original(root, file)

    monkeypatch.setattr(cache, "_remove", remove)
    with pytest.raises(PermissionError, match=f"cannot clear the kernel cache {folder}: Permission denied"):
        store.clear()
    assert entry_names(folder) == {keys[2]}


@pytest.mark.parametrize("cleared", ["temporary file", "everything"])
def test_clear_during_a_put(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, cleared: str,
                            caplog: pytest.LogCaptureFixture) -> None:
    store = DiskCache(folder)
    original = os.rename

    def rename(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(os, "rename", original)
        if cleared == "everything":
            shutil.rmtree(folder)
        else:
            DiskCache(folder).clear()
        original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename)
    assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert store.get(KEY) is None  # as if clear had come after the put
    assert not warnings_of(caplog) and not temporary_files(folder)
    assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert store.get(KEY) == PAYLOAD


def test_clear_while_others_read_and_write(folder: pathlib.Path) -> None:
    script = """
    deadline = time.monotonic() + 0.7
    done = 0
    while time.monotonic() < deadline:
        key = cache.digest(str(done % 7))
        payload = key.encode() * 100
        assert store.get_or_build(key, lambda: payload) == payload
        found = store.get(key)
        assert found in (None, payload)
        done += 1
    assert not cache._warned, cache._warned
    print(done)
    """
    workers = [start(script.replace("\n    ", "\n"), folder) for _ in range(3)]
    store = DiskCache(folder)
    removed = 0
    while any(worker.poll() is None for worker in workers):
        removed += store.clear()
        time.sleep(0.01)
    assert all(int(finish(worker)) > 0 for worker in workers)
    assert removed > 7
    store.clear()
    assert not temporary_files(folder) and not entry_names(folder)


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


def timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


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


# Killed processes.

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


# Disks that fail.


def assert_goes_on(store: DiskCache, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, code: int) -> None:
    """Kernels are built, nothing half-written stays, and the trouble is told once."""
    for _ in range(2):
        assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert not temporary_files(folder) and not entry_names(folder)
    assert warnings_of(caplog) == [f"cannot write to the kernel cache {folder}: {os.strerror(code)}; kernels are "
                                   f"built anew"]
    assert not cache._flights and not cache._LockFile._open_files


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "close"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_calls_that_fail(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int,
                         caplog: pytest.LogCaptureFixture) -> None:
    original = getattr(os, call)

    def failing(*arguments: object, **options: object) -> object:
        if call == "close":  # as NFS does, which writes late
            written = os.readlink(f"/proc/self/fd/{arguments[0]}").endswith(".tmp")
            original(*arguments)
            if not written:
                return None
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing)
        assert_goes_on(DiskCache(folder), folder, caplog, code)
    assert DiskCache(folder).get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
    assert entry_names(folder) == {KEY}


def test_the_disk_fills_in_the_middle(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
                                      caplog: pytest.LogCaptureFixture) -> None:
    original = os.write
    room = [500]

    def write(descriptor: int, data: memoryview) -> int:
        part = data[:room[0]]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(part)
        return original(descriptor, part)

    monkeypatch.setattr(os, "write", write)
    assert_goes_on(DiskCache(folder), folder, caplog, errno.ENOSPC)


def test_short_writes(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: original(descriptor, data[:100]))
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    assert store.get(KEY) == PAYLOAD


def test_reads_that_fail(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(cache, "_verified_payload", failing)
    for _ in range(2):
        assert store.get_or_build(KEY, lambda: b"built") == b"built"
    assert warnings_of(caplog) == [f"cannot read the kernel cache {folder}: Input/output error; kernels are built anew"]


FAILING_SCRIPT = """
for _ in range(3):
    assert store.get_or_build(KEY, lambda: bytes(1_000_000)) == bytes(1_000_000)
store.put(OTHER_KEY, b"small")
print(store.get(KEY) is not None, store.get(OTHER_KEY), store.info().writable)
for path, _, names in os.walk(DIRECTORY):
    assert not [name for name in names if name.endswith(".tmp")]
"""


def test_file_size_limit(folder: pathlib.Path) -> None:
    process = start("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
                    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)" + FAILING_SCRIPT, folder)
    output, errors = process.communicate(timeout=60)
    assert output == "False b'small' True\n", errors
    assert errors == f"cannot write to the kernel cache {folder}: File too large; kernels are built anew\n"


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return probe.returncode == 0


def run_on_tmpfs(mount_point: pathlib.Path, setup: str, script: str) -> tuple[str, str]:
    """Runs the script in a mount namespace of its own. Skips the test where that is forbidden."""
    if not can_mount():
        pytest.skip("may not mount")
    mount_point.mkdir(0o700, exist_ok=True)
    process = subprocess.run(["unshare", "-m", "sh", "-ec", f'{setup}\nexec "$@"', "sh", sys.executable, "-I", "-S",
                              "-c", PRELUDE + script, str(mount_point)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    return process.stdout, process.stderr


def test_full_disk(folder: pathlib.Path) -> None:
    output, errors = run_on_tmpfs(folder, f"mount -t tmpfs -o size=256k,mode=700 none {folder}", FAILING_SCRIPT)
    assert output == "False b'small' True\n"
    assert errors == f"cannot write to the kernel cache {folder}: No space left on device; kernels are built anew\n"


def test_read_only_file_system(folder: pathlib.Path) -> None:
    DiskCache(folder).put(OTHER_KEY, b"small")
    set_age(entry_path(folder, OTHER_KEY), 10_000)
    output, errors = run_on_tmpfs(folder, f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}",
                                  FAILING_SCRIPT)
    assert output == "False b'small' False\n"
    assert errors == f"cannot write to the kernel cache {folder}: Read-only file system; kernels are built anew\n"


def test_a_file_instead_of_the_directory(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("not a directory")
    for directory in (folder, folder / "below"):
        store = DiskCache(directory)
        for _ in range(2):
            assert store.get_or_build(KEY, lambda: PAYLOAD) == PAYLOAD
        info = store.info()
        assert (info.entries, info.writable, info.reason) == (0, False, "Not a directory")
        with pytest.raises(NotADirectoryError, match="cannot clear"):
            store.clear()
        assert [text.partition(" the kernel cache ")[0] for text in warnings_of(caplog)] == ["cannot read",
                                                                                             "cannot write to"]
        assert folder.read_text() == "not a directory"
        caplog.clear()


# Other users.

BECOME_NOBODY = f"os.setgid({NOBODY}); os.setuid({NOBODY})"


@as_root
def test_a_home_that_cannot_be_written(open_folder: pathlib.Path) -> None:
    script = BECOME_NOBODY + FAILING_SCRIPT
    process = start(script, open_folder / "home" / "cache")
    output, errors = process.communicate(timeout=60)
    assert output == "False None False\n", errors
    assert errors.endswith("home/cache: Permission denied; kernels are built anew\n") and errors.count("\n") == 1


@as_root
def test_a_directory_that_cannot_be_read(open_folder: pathlib.Path) -> None:
    DiskCache(open_folder / "cache").put(OTHER_KEY, b"small")
    process = start(BECOME_NOBODY + FAILING_SCRIPT, open_folder / "cache")
    output, errors = process.communicate(timeout=60)
    assert output == "False None False\n", errors
    assert errors.count("\n") == 2  # reads and writes


@as_root
def test_root_may_fill_a_cache_for_all(open_folder: pathlib.Path) -> None:
    (open_folder / "cache").mkdir(0o755)
    DiskCache(open_folder / "cache").put(OTHER_KEY, b"small")
    set_age(entry_path(open_folder / "cache", OTHER_KEY), 10_000)
    process = start(BECOME_NOBODY + FAILING_SCRIPT, open_folder / "cache")
    output, errors = process.communicate(timeout=60)
    assert output == "False b'small' False\n", errors
    assert errors.count("\n") == 1


def assert_refused(store: DiskCache, folder: pathlib.Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    before = entry_names(folder)
    for _ in range(2):
        assert store.get(KEY) is None
        assert store.get_or_build(KEY, lambda: b"built") == b"built"
    assert len(warnings_of(caplog)) == 2  # a reader's and a writer's
    assert all(reason in text for text in warnings_of(caplog))
    assert entry_names(folder) == before and not temporary_files(folder)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702, 0o720])
def test_a_directory_that_others_write_is_refused(folder: pathlib.Path, caplog: pytest.LogCaptureFixture,
                                                  mode: int) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    folder.chmod(mode)
    assert_refused(store, folder, caplog, "it can be written by other users (try chmod go-w)")
    info = store.info()
    assert (info.entries, info.writable) == (0, False)
    assert "other users" in (info.reason or "")
    with pytest.raises(PermissionError, match="other users"):
        store.clear()
    folder.chmod(0o700)
    assert store.get(KEY) == PAYLOAD


@pytest.mark.parametrize("where", ["v1", f"v1/{KEY[:2]}"])
def test_a_folder_inside_that_others_write_is_refused(folder: pathlib.Path, caplog: pytest.LogCaptureFixture,
                                                      where: str) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    (folder / where).chmod(0o777)
    assert_refused(store, folder, caplog, "a folder in it can be written by other users")


@as_root
def test_another_users_directory_is_refused(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    os.chown(folder, NOBODY, NOBODY)
    assert_refused(store, folder, caplog, f"it belongs to user {NOBODY}, and its code would run as user 0")


@as_root
def test_another_users_entry_is_refused(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    os.chown(entry_path(folder), NOBODY, NOBODY)
    assert store.get(KEY) is None
    assert f"an entry belongs to user {NOBODY}" in warnings_of(caplog)[0]
    assert store.get_or_build(KEY, lambda: b"own") == b"own"
    assert store.get(KEY) == b"own"


def test_an_entry_that_others_write_is_refused(folder: pathlib.Path) -> None:
    store = DiskCache(folder)
    store.put(KEY, PAYLOAD)
    entry_path(folder).chmod(0o666)
    assert store.get(KEY) is None
    assert store.get_or_build(KEY, lambda: b"own") == b"own"
    assert store.get(KEY) == b"own"


@as_root
def test_another_users_link_to_a_directory_of_theirs_is_refused(open_folder: pathlib.Path,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    run(BECOME_NOBODY + "\nstore.put(KEY, b'evil')", open_folder)  # cannot: it is root's
    (open_folder / "theirs").mkdir()
    os.chown(open_folder / "theirs", NOBODY, NOBODY)
    run(BECOME_NOBODY + "\nstore.put(KEY, b'evil')\nassert store.get(KEY) == b'evil'", open_folder / "theirs")
    (open_folder / "link").symlink_to(open_folder / "theirs")
    assert DiskCache(open_folder / "link").get(KEY) is None
    assert "belongs to user" in warnings_of(caplog)[0]


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


# The command line.


def heed_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = command_line.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command_info_and_clear(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEED_CACHE_DIR", str(folder))
    monkeypatch.setenv("HEED_CACHE_SIZE", "3M")
    fill(DiskCache(), folder, 2)
    assert heed_command(capsys, "cache", "info") == (0, f"directory  {folder}\n"
                                                        "entries    2\n"
                                                        "size       2.2 KiB of 3.0 MiB\n"
                                                        "formats    v1\n"
                                                        "writable   yes\n", "")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 2 entries, 2.2 KiB\n", "")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 0 entries, 0 B\n", "")
    DiskCache().put(KEY, b"")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 1 entry, 84 B\n", "")
    monkeypatch.setenv("HEED_CACHE_DISABLE", "1")
    status, output, _ = heed_command(capsys, "cache", "info")
    assert status == 0 and "disabled   HEED_CACHE_DISABLE is set\nwritable   no\n" in output


@pytest.mark.parametrize(("action", "message"), [("info", "cannot use {}: Not a directory"),
                                                 ("clear", "cannot clear the kernel cache {}: Not a directory")])
def test_command_errors_are_a_line(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, action: str, message: str,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_text("")
    monkeypatch.setenv("HEED_CACHE_DIR", str(folder))
    assert heed_command(capsys, "cache", action) == (1, "", f"heed cache: error: {message.format(folder)}\n")


def test_commands_are_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_echo(arguments: argparse.Namespace) -> int:
        if arguments.text == "bad":
            raise ValueError("no such\nvariant")
        return 7

    def add_text(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("text")

    echo = command_line.Command("echo", "say it again", add_text, run_echo)
    monkeypatch.setattr(command_line, "COMMANDS", [*command_line.COMMANDS, echo])
    assert heed_command(capsys, "echo", "good") == (7, "", "")
    assert heed_command(capsys, "echo", "bad") == (1, "", "heed echo: error: no such variant\n")
    with pytest.raises(SystemExit) as raised:
        command_line.main(["--help"])
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert "cache" in output and "say it again" in output


@pytest.mark.parametrize("arguments", [[], ["cache"], ["cache", "fill"], ["dance"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line.main(arguments)
    assert raised.value.code == 2
    assert "usage: python -m heed" in capsys.readouterr().err


def test_python_dash_m_heed(folder: pathlib.Path) -> None:
    environment = {**os.environ, "HEED_CACHE_DIR": str(folder),
                   "PYTHONPATH": str(pathlib.Path(cache.__file__).parents[1])}
    for arguments, expected in ((["--version"], "heed "), (["cache", "info"], f"directory  {folder}\n")):
        result = subprocess.run([sys.executable, "-m", "heed", *arguments], capture_output=True, text=True,
                                env=environment)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(expected)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"),
                                            (1 << 20, "1.0 MiB"), (5 << 29, "2.5 GiB"), (3 << 40, "3.0 TiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert command_line.format_size(size) == text
