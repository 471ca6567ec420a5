# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernel cache's entries: their keys and their format, damage that checksums find, formats side by side."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import struct

import pytest
from cache_helpers import (HEADER_SIZE, KEY, OTHER_KEY, PAYLOAD, entry_names, entry_path, no_build, run, set_age,
                           temporary_files, used_bytes, warnings_of)
from cache_helpers import cache_folder, clean_settings  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heed import cache
from heed.cache import DiskCache, digest

# Keys and the format.


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
