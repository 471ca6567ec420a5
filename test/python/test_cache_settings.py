# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernel cache's settings: its directory and its size, from the environment, and how it is turned off."""

from __future__ import annotations

import pathlib
import pwd

import pytest
from cache_helpers import KEY, OTHER_KEY, PAYLOAD, entry_path, warnings_of
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed import cache
from heed.cache import DiskCache


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
