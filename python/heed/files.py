# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Files that users asked for: whole, or as they were."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile


def is_special(path: pathlib.Path) -> bool:
    """A device or a pipe: something that is written into."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_together(outputs: list[tuple[pathlib.Path, bytes]]) -> None:
    """All files or none: each is whole beside its place before the first one moves there. What was there before keeps its
    permissions; links are replaced, so that paths should be resolved. OSError names the place, not the file beside it."""
    for path, _ in outputs:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with contextlib.ExitStack() as stack:
        moves = []
        for path, content in outputs:
            if is_special(path):
                continue
            try:
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=".heed-", dir=path.parent))
                written = pathlib.Path(directory, path.name)
                written.write_bytes(content)
                if path.exists():
                    shutil.copymode(path, written)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None
            moves.append((written, path))
        for path, content in outputs:
            if is_special(path):
                path.write_bytes(content)
        for written, path in moves:
            os.replace(written, path)
