# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Keeps compiled kernels on disk, shared by all processes of a user.

    key = heed.cache.digest(source_digest, "bf16", "64,64", target, schedule, compiler_build,
                            str(heed.cache.FORMAT_VERSION))
    code = heed.cache.default_cache().get_or_build(key, compile_it)

Settings, from the environment: HEED_CACHE_DIR (else $XDG_CACHE_HOME/heed, else ~/.cache/heed),
HEED_CACHE_SIZE ("512M", "2G"; 1 GiB when unset; 0 keeps nothing), HEED_CACHE_DISABLE=1.

What lies in the directory, in all versions of Heed:

    heed.lock                    bytes of it are locked while a kernel is built; always empty
    heed.usage                   a ledger of the bytes stored since they were last counted
    v<format>/<ab>/<digest>      an entry, ab being the first two digits of its digest
    v<format>/<ab>/<digest>.<pid>.<random>.tmp    an entry that is being written

A format version may change what an entry contains, and nothing else of the above: so each version
may count and evict the entries of the others (the modification time is the time of last use), and
versions nobody uses any more go first.

An entry is written under a temporary name, flushed and renamed, so a process that is killed leaves
a whole entry, or none and a temporary file, which is removed when it is an hour old. The directory
itself is not flushed: should a power cut undo the rename, the kernel is built once more, which costs
less than a flush at each put. Readers verify all of an entry, whatever the writer did: one that is
truncated, changed or under the wrong name counts as absent and is removed.

Entries are code, and whoever can change them can act as the user who runs them. So the directory,
its folders and the entries must belong to this user or to root, and nobody else, not even a group,
may write to them; what breaks this is ignored, with a warning. Heed makes the directory with mode
0700. Root may fill a directory of mode 0755 for all users, who then read it and leave it as it is.
The checksum finds damage only; it is no protection against an attacker.

Trouble with the disk is never the caller's: it is logged once (logger "heed"), and kernels are built
as if there were no cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import pwd
import re
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

FORMAT_VERSION = 1
DEFAULT_MAX_BYTES = 1 << 30
LOCK_WAIT_S = 60.0  # after that, another thread's or process's build is no longer waited for
TOUCH_AFTER_S = 3600.0
STALE_TEMPORARY_S = 3600.0
RECOUNT_AFTER_S = 86400.0

_MAGIC = b"HEEDKERN"
_HEADER = struct.Struct("<8sIQ32s32s")  # magic, format version, payload length, its sha256, key
_LOCK_FILE = "heed.lock"
_LEDGER = "heed.usage"
_LEDGER_LIMIT = 1 << 16
_KEY = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"[0-9a-f]{64}\.[0-9]+\.[0-9a-f]{16}\.tmp")
_SHARD = re.compile(r"[0-9a-f]{2}")
_VERSION = re.compile(r"v[0-9]+")

_log = logging.getLogger("heed")
_warned: set[str] = set()


def digest(*parts: str | bytes) -> str:
    """The key of what `parts` describe, 64 hexadecimal digits. Text counts as its UTF-8 bytes.

    Each part goes in behind its length, so ("ab", "c") and ("a", "bc") differ.
    """
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


@dataclass(frozen=True)
class CacheInfo:
    directory: str | None  # None: no home directory, and no setting
    entries: int
    bytes: int
    max_bytes: int
    enabled: bool  # False: turned off by a setting
    writable: bool
    reason: str | None  # why it is off or cannot be used at all; None for one that is only read
    versions: tuple[int, ...]  # formats of the entries


class Removed(NamedTuple):
    entries: int
    bytes: int


def parse_size(text: str) -> int:
    """Bytes of "1048576", "512M", "2G" or "1.5 GiB"; the units are powers of 1024.

    Raises ValueError for other text.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not match:
        raise ValueError(f"expected a size such as 512M or 2G, found {text!r}")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


class _File(NamedTuple):
    version: str
    shard: str
    name: str
    size: int
    mtime: float

    @property
    def is_entry(self) -> bool:
        return _KEY.fullmatch(self.name) is not None


class DiskCache:
    """A directory of entries, bounded in size. See the module's text for the files in it.

    All methods may be called from any thread and process at any time, before and after fork.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None,
                 max_bytes: int | None = None) -> None:
        """Reads settings that are not given from the environment; touches no file.

        Raises ValueError for a negative max_bytes. A HEED_CACHE_SIZE that is no size is ignored,
        with a warning.
        """
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"expected max_bytes of at least 0, found {max_bytes}")
        chosen = os.fspath(directory) if directory is not None else _default_directory()
        # Absolute: the process may change its working directory.
        self._directory = os.path.abspath(chosen) if chosen is not None else None
        self._max_bytes = _default_max_bytes() if max_bytes is None else max_bytes
        # Two spellings of one directory must share the builds that are under way.
        self._identity = os.path.realpath(self._directory or "")
        self._off: str | None = None
        if os.environ.get("HEED_CACHE_DISABLE", "") not in ("", "0"):
            self._off = "HEED_CACHE_DISABLE is set"
        elif self._max_bytes == 0:
            self._off = "its size is set to 0"
        elif self._directory is None:
            self._off = "there is no home directory; set HEED_CACHE_DIR"
            _warn_once(f"compiled kernels are not kept: {self._off}")

    @property
    def directory(self) -> str | None:
        return self._directory

    def get(self, key: str) -> bytes | None:
        """The payload stored under `key`, verified; None if there is none or it cannot be read.

        Raises ValueError if `key` is not a digest.
        """
        _check_key(key)
        if self._off is not None:
            return None
        try:
            with self._root() as root, self._shard(root, key) as shard:
                return self._read(shard, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report("read", error)
            return None

    def put(self, key: str, payload: bytes) -> None:
        """Stores `payload` under `key`, in place of what was there, and evicts if need be.

        A payload larger than the cache is not stored. Raises ValueError if `key` is not a digest.
        """
        _check_key(key)
        if self._off is not None:
            return
        if _HEADER.size + len(payload) > self._max_bytes:
            _log.debug("a kernel of %d bytes is larger than the cache may be", len(payload))
            return
        try:
            self._store(key, payload)
        except OSError as error:
            self._report("write to", error)

    def get_or_build(self, key: str, build: Callable[[], bytes]) -> bytes:
        """The payload stored under `key`, or else what build() returns, which is then stored.

        Of the threads and processes that ask at the same time one builds and the others wait, for
        LOCK_WAIT_S at most, then build too. What build() raises is passed on, and the next one
        waiting builds. Raises ValueError if `key` is not a digest.
        """
        payload = self.get(key)
        if payload is not None:
            return payload
        deadline = time.monotonic() + LOCK_WAIT_S
        place = (self._identity, key)
        mine = _Flight()
        try:
            while (flight := _flights.setdefault(place, mine)) is not mine:
                # A build that asks for its own key must not wait for itself.
                own = flight.thread == threading.get_ident()
                if own or not flight.done.wait(deadline - time.monotonic()):
                    payload = build()
                    self.put(key, payload)
                    return payload
                if flight.payload is not None:
                    return flight.payload
            mine.payload = self._build_locked(key, build, deadline)
            return mine.payload
        finally:
            if _flights.get(place) is mine:
                del _flights[place]
            mine.done.set()

    def info(self) -> CacheInfo:
        """Counts the entries of all format versions. Raises nothing: see CacheInfo.reason."""
        files: list[_File] = []
        reason, writable = self._off, False
        if self._directory is not None:
            try:
                with self._root() as root:
                    files = [file for file in _list_files(root, []) if file.is_entry]
                writable = _may_write(self._directory)
            except FileNotFoundError:
                writable = _may_write(_existing_parent(self._directory))
            except OSError as error:
                reason = reason or _describe(error)
        return CacheInfo(self._directory, len(files), sum(file.size for file in files), self._max_bytes,
                         self._off is None, writable and self._off is None, reason,
                         tuple(sorted({int(file.version[1:]) for file in files})))

    def clear(self) -> int:
        """Removes all entries, as remove_all does, and returns how many there were."""
        return self.remove_all().entries

    def remove_all(self) -> Removed:
        """Removes the entries and temporary files of all format versions, and the ledger; no other
        files.

        Works on a cache that is turned off, too. Goes on where a file cannot be removed, and at the
        end raises the first OSError; also raises OSError where the directory is not to be used.
        """
        troubles: list[OSError] = []
        entries = size = 0
        if self._directory is None:
            return Removed(0, 0)
        try:
            with self._root() as root:
                for file in _list_files(root, troubles):
                    try:
                        _remove(root, file)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        troubles.append(error)
                        continue
                    entries += file.is_entry
                    size += file.size
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_LEDGER, dir_fd=root)
        except FileNotFoundError:
            return Removed(0, 0)
        except OSError as error:
            troubles.append(error)
        if troubles:
            text = f"cannot clear the kernel cache {self._directory}: {_describe(troubles[0])}"
            raise OSError(troubles[0].errno, text) from troubles[0]
        return Removed(entries, size)

    def _report(self, action: str, error: OSError) -> None:
        _warn_once(f"cannot {action} the kernel cache {self._directory}: {_describe(error)}; kernels "
                   f"are built anew")

    @contextlib.contextmanager
    def _root(self, create: bool = False) -> Iterator[int]:
        """The directory, opened and found safe. All below it is reached from the descriptor, link
        by link refused, so that what was checked is what is used."""
        assert self._directory is not None
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            # Python opens everything close-on-exec.
            root = os.open(self._directory, flags)
        except FileNotFoundError:
            if not create:
                raise
            _make_folders(self._directory)
            root = os.open(self._directory, flags)
        try:
            _check_trust(os.fstat(root), "it")
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _shard(self, root: int, key: str, create: bool = False) -> Iterator[int]:
        with (_folder(f"v{FORMAT_VERSION}", root, create) as version,
              _folder(key[:2], version, create) as shard):
            yield shard

    def _read(self, shard: int, key: str) -> bytes | None:
        # Not blocking, in case it is a pipe.
        with _opened(key, os.O_RDONLY | os.O_NONBLOCK, shard) as entry:
            status = os.fstat(entry)
            if not stat.S_ISREG(status.st_mode):
                return None
            _check_trust(status, "an entry")
            payload = _verified_payload(entry, status.st_size, key)
            if payload is None:
                _warn_once(f"found a damaged entry in the kernel cache {self._directory}; it is built anew")
                with contextlib.suppress(OSError):
                    # Another process may have replaced it already. If it does so between these two
                    # lines a good entry is lost, and built once more.
                    if os.stat(key, dir_fd=shard, follow_symlinks=False).st_ino == status.st_ino:
                        os.unlink(key, dir_fd=shard)
            elif abs(time.time() - status.st_mtime) > TOUCH_AFTER_S:
                with contextlib.suppress(OSError):  # not ours, or a read-only disk
                    os.utime(entry)
            return payload

    def _store(self, key: str, payload: bytes) -> None:
        header = _HEADER.pack(_MAGIC, FORMAT_VERSION, len(payload), hashlib.sha256(payload).digest(),
                              bytes.fromhex(key))
        temporary = f"{key}.{os.getpid()}.{os.urandom(8).hex()}.tmp"
        with self._root(create=True) as root:
            with self._shard(root, key, create=True) as shard:
                try:
                    with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, shard) as file:
                        _write_all(file, header)
                        _write_all(file, payload)
                        os.fsync(file)
                    full = self._record(root, len(header) + len(payload))
                    try:
                        os.rename(temporary, key, src_dir_fd=shard, dst_dir_fd=shard)
                    except FileNotFoundError:
                        return  # clear, or an `rm -r`, took it: as if that had come just after
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary, dir_fd=shard)
                    raise
            if full:
                self._collect(root, key)

    def _record(self, root: int, size: int) -> bool:
        """Notes in the ledger that `size` bytes are being stored. Returns whether it is time to count
        the files and evict.

        The ledger spares a put the count. It is shared without a lock, and errs on the side of too
        many bytes, which makes the next count come early: a line is added before the rename it tells
        of and while the file exists, and _collect empties the ledger before it counts.
        """
        with _opened(_LEDGER, os.O_RDWR | os.O_APPEND | os.O_CREAT, root) as ledger:
            used = _ledger_total(os.read(ledger, _LEDGER_LIMIT))
            _write_all(ledger, b"%d\n" % size)
        return used is None or used + size > self._max_bytes

    def _collect(self, root: int, newest: str) -> None:
        """Counts all files, removes stale temporary ones, and if there are too many bytes the least
        recently used entries; not the entry `newest`.

        Evicts more than it must, so that a full cache is not counted again at the next put.
        """
        with _opened(_LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, root) as ledger:
            os.ftruncate(ledger, 0)
            now = time.time()
            files = _list_files(root, [])
            total = sum(file.size for file in files)
            stale = [file for file in files if not file.is_entry and now - file.mtime > STALE_TEMPORARY_S]
            entries = [file for file in files if file.is_entry and file.name != newest]
            entries.sort(key=lambda file: file.mtime)
            goal = self._max_bytes if total <= self._max_bytes else self._max_bytes - self._max_bytes // 8
            for position, file in enumerate(stale + entries):
                if total <= goal and position >= len(stale):
                    break
                try:
                    _remove(root, file)
                except FileNotFoundError:
                    pass  # by another process, which evicts too; the bytes are gone all the same
                except OSError:
                    continue
                total -= file.size
            _write_all(ledger, b"%d %d\n" % (total, now))

    def _build_locked(self, key: str, build: Callable[[], bytes], deadline: float) -> bytes:
        lock = self._open_lock()
        # 60 bits of the digest: two keys do not wait for each other.
        offset = int(key[:15], 16)
        try:
            if lock is not None:
                lock.acquire(offset, deadline)
            payload = self.get(key)
            if payload is None:
                payload = build()
                self.put(key, payload)
            return payload
        finally:
            if lock is not None:
                lock.release(offset)

    def _open_lock(self) -> _LockFile | None:
        if self._off is not None:
            return None
        try:
            with self._root(create=True) as root:
                return _LockFile.open(self._identity, root)
        except OSError:
            return None


class _Flight:
    """A build that a thread of this process is at."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        self.payload: bytes | None = None  # when done: None if the build failed


class _LockFile:
    """heed.lock of one directory, open while threads of this process hold or await bytes of it.

    These are POSIX record locks, a byte for each key: one file that never needs removing serves all
    keys, the kernel frees the locks of a process that dies, and a forked child has no part in them
    (with flock it would share its parent's, and keep them when the parent dies). They do not
    exclude threads of one process; _Flight does. And a process loses all its locks on a file when
    it closes any descriptor of it, so there is one descriptor, closed by its last user.

    A lock only saves work: where there is none (NFS without a lock manager, a read-only directory)
    or it is lost, kernels are built more than once and all else holds.
    """

    _open_files: dict[str, _LockFile] = {}
    _guard = threading.Lock()

    def __init__(self, identity: str, descriptor: int) -> None:
        self._identity = identity
        self._descriptor = descriptor
        self._users = 0

    @classmethod
    def open(cls, identity: str, root: int) -> _LockFile:
        """The lock file of the directory `root`; call release when done. Raises OSError."""
        with cls._guard:
            file = cls._open_files.get(identity)
            if file is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                file = cls(identity, os.open(_LOCK_FILE, flags, 0o644, dir_fd=root))
                cls._open_files[identity] = file
            file._users += 1
            return file

    def acquire(self, offset: int, deadline: float) -> None:
        """Waits for the byte at `offset`; returns without it at `deadline`, or if it cannot be had."""
        pause = 0.001
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                return
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    _log.debug("no locks in the kernel cache: %s", error)
                    return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            time.sleep(min(pause, remaining))
            pause = min(2 * pause, 0.05)

    def release(self, offset: int) -> None:
        with self._guard:
            if self._descriptor < 0:
                return
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)
            self._users -= 1
            if self._users == 0:
                self._close()
                del self._open_files[self._identity]

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    @classmethod
    def forget_after_fork(cls) -> None:
        """In the child: the threads that use the files, or hold the guard, are not there."""
        cls._guard = threading.Lock()
        for file in cls._open_files.values():
            file._close()
        cls._open_files.clear()


_flights: dict[tuple[str, str], _Flight] = {}
os.register_at_fork(after_in_child=_flights.clear)
os.register_at_fork(after_in_child=_LockFile.forget_after_fork)


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"expected a key of 64 hexadecimal digits, as digest() returns, found {key!r}")


def _warn_once(text: str) -> None:
    """Once in this process for each text."""
    if text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)


def _describe(error: OSError) -> str:
    return error.strerror or str(error)


def _default_directory() -> str | None:
    if directory := os.environ.get("HEED_CACHE_DIR"):
        return os.path.expanduser(directory)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):  # the specification has others ignored
        return os.path.join(caches, "heed")
    home = os.environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    if not os.path.isabs(home):
        return None
    return os.path.join(home, ".cache", "heed")


def _default_max_bytes() -> int:
    text = os.environ.get("HEED_CACHE_SIZE")
    if not text:
        return DEFAULT_MAX_BYTES
    try:
        return parse_size(text)
    except ValueError as error:
        _warn_once(f"HEED_CACHE_SIZE is ignored: {error}")
        return DEFAULT_MAX_BYTES


def _check_trust(status: os.stat_result, name: str) -> None:
    """Raises PermissionError if others than this user and root can have changed a file."""
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise PermissionError(errno.EPERM, f"{name} belongs to user {status.st_uid}, and its code would "
                                           f"run as user {user}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"{name} can be written by other users (try chmod go-w)")


def _make_folders(path: str) -> None:
    """Makes a folder and those above it that are missing, all for this user alone."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_folders(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _existing_parent(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _may_write(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK, effective_ids=True)


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    """A file in an open folder. Its mode is for all to read: the directory decides who may."""
    descriptor = os.open(name, flags | os.O_NOFOLLOW, 0o644, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _folder(name: str, parent: int, create: bool = False) -> Iterator[int]:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
    with _opened(name, os.O_RDONLY | os.O_DIRECTORY, parent) as descriptor:
        _check_trust(os.fstat(descriptor), "a folder in it")
        yield descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest):]


def _verified_payload(entry: int, size: int, key: str) -> bytes | None:
    """The payload of an open entry of `size` bytes; None unless each byte is what it should be."""
    with open(entry, "rb", closefd=False) as file:
        header = file.read(_HEADER.size)
        if len(header) != _HEADER.size:
            return None
        magic, version, length, checksum, own_key = _HEADER.unpack(header)
        if (magic, version, own_key) != (_MAGIC, FORMAT_VERSION, bytes.fromhex(key)):
            return None
        if length != size - _HEADER.size:  # before the read: a damaged length may be huge
            return None
        payload = file.read(length)
        return payload if hashlib.sha256(payload).digest() == checksum else None


def _ledger_total(text: bytes) -> int | None:
    """The bytes that lines "SIZE" and "COUNTED TIME" add up to.

    None if files must be counted: the ledger has no recent count, is damaged or has grown long.
    """
    if len(text) == _LEDGER_LIMIT:
        return None
    total, recent = 0, False
    try:
        for line in text.splitlines():
            size, *when = map(int, line.split())
            total += size
            if when:
                recent = abs(time.time() - when[0]) < RECOUNT_AFTER_S
    except ValueError:
        return None
    return total if recent else None


def _open_folders(parent: int, pattern: re.Pattern[str],
                  troubles: list[OSError]) -> Iterator[tuple[str, int]]:
    """The folders in `parent` with such names, links excepted, each open until the next is asked for."""
    for name in filter(pattern.fullmatch, os.listdir(parent)):
        try:
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                troubles.append(error)
            continue
        try:
            yield name, folder
        finally:
            os.close(folder)


def _list_files(root: int, troubles: list[OSError]) -> list[_File]:
    """Entries and temporary files of all format versions; no links, no files by other names.

    Adds to `troubles` an error for each folder that cannot be opened. Raises other OSErrors.
    """
    files = []
    for version, version_folder in _open_folders(root, _VERSION, troubles):
        for shard, folder in _open_folders(version_folder, _SHARD, troubles):
            for name in os.listdir(folder):
                if not (_KEY.fullmatch(name) or _TEMPORARY.fullmatch(name)):
                    continue
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    files.append(_File(version, shard, name, status.st_size, status.st_mtime))
    return files


def _remove(root: int, file: _File) -> None:
    with _folder(file.version, root) as version, _folder(file.shard, version) as shard:
        os.unlink(file.name, dir_fd=shard)


_default: tuple[tuple[str | None, ...], DiskCache] | None = None


def default_cache() -> DiskCache:
    """The cache that the environment describes; a new one when the settings have changed."""
    global _default
    settings = tuple(map(os.environ.get, ("HEED_CACHE_DIR", "HEED_CACHE_SIZE", "HEED_CACHE_DISABLE",
                                          "XDG_CACHE_HOME", "HOME")))
    if _default is None or _default[0] != settings:
        _default = (settings, DiskCache())
    return _default[1]
