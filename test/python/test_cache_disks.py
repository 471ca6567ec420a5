# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The kernel cache on disks that fail, are full or are read-only: kernels are built as if there were none."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from cache_helpers import (FAILING_SCRIPT, KEY, OTHER_KEY, PAYLOAD, PRELUDE, entry_names, entry_path, set_age, start,
                           temporary_files, warnings_of)
from cache_helpers import cache_folder, clean_settings  # noqa: F401

from heed import cache
from heed.cache import DiskCache


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
