# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernel cache and other users: homes that cannot be written, and entries and folders that are refused."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from cache_helpers import (FAILING_SCRIPT, KEY, OTHER_KEY, PAYLOAD, entry_names, entry_path, run, set_age, start,
                           temporary_files, warnings_of)
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed.cache import DiskCache

NOBODY = 65534
BECOME_NOBODY = f"os.setgid({NOBODY}); os.setuid({NOBODY})"
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, to become another user")


@pytest.fixture
def open_folder() -> Iterator[pathlib.Path]:
    """A folder that other users can reach; those of tmp_path they cannot."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="heed-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


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
