# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What leaves the kernel cache: the least recently used when it is full, and all when it is cleared."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import shutil
import time

import pytest
from cache_helpers import (HEADER_SIZE, KEY, OTHER_KEY, PAYLOAD, entry_names, entry_path, fill, finish, run, set_age,
                           start, temporary_files, used_bytes, warnings_of)
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed import cache
from heed.cache import DiskCache, digest

# The bound.


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
