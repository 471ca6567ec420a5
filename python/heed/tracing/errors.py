# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What cannot be traced, and the line of the user's code that is to blame."""

from __future__ import annotations

import contextlib
import dis
import linecache
import os
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType
from typing import NoReturn

_HEED = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


class TraceError(ValueError):
    """A mod does something that the Heed language has no words for.

    `filename` and `lineno` name the line of the user's code, if one is known.
    """

    def __init__(self, message: str, filename: str | None = None, lineno: int | None = None) -> None:
        super().__init__(message)
        self.filename = filename
        self.lineno = lineno


class OutputError(TraceError, RuntimeError):
    """A score_mod returns what is no number: a RuntimeError in FlexAttention, with these first words."""

    def __init__(self, error: TraceError) -> None:
        super().__init__(f"Expected output of score_mod to be a tensor.\n{error}", error.filename, error.lineno)


def is_user_code(filename: str) -> bool:
    """Whether a file is the user's, not Heed's, the standard library's, torch's or NumPy's."""
    if filename.startswith((_HEED, "<frozen")) or "-packages/torch/" in filename or "-packages/numpy/" in filename:
        return False
    return not filename.startswith(_STDLIB) or "-packages/" in filename


def _error(message: str, code: CodeType, lineno: int | None) -> TraceError:
    line = linecache.getline(code.co_filename, lineno or 0).strip()
    source = f"    {line}\n" if line else ""
    return TraceError(f"{code.co_filename}:{lineno}: in {code.co_name}\n{source}{message}", code.co_filename, lineno)


class _Noted(threading.local):
    failures: list[TraceError] | None = None  # of the trace that is under way


_noted = _Noted()


@contextlib.contextmanager
def none_swallowed() -> Iterator[None]:
    """Raises the first failure within, also if somebody has caught it: what runs on then is not what the mod would do."""
    before, _noted.failures = _noted.failures, []
    try:
        yield
    finally:
        failures, _noted.failures = _noted.failures, before
        if failures:
            raise failures[0]


def fail(message: str) -> NoReturn:
    """Raises a TraceError at the innermost frame of user code on the stack, and notes it for `none_swallowed`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_user_code(frame.f_code.co_filename):
        frame = frame.f_back
    error = TraceError(message) if frame is None else _error(message, frame.f_code, frame.f_lineno)
    if _noted.failures is not None:
        _noted.failures.append(error)
    raise error


def at_assignment(message: str, code: CodeType | None, name: str) -> TraceError:
    """A TraceError where `code` assigns a variable that is not its own, or else where it begins."""
    if code is None:
        return TraceError(message)
    stores = (i for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "STORE_DEREF") and i.argval == name)
    place = next(stores, None)
    lines = [line for start, line in dis.findlinestarts(code) if place is not None and start <= place.offset and line]
    return _error(message, code, lines[-1] if lines else code.co_firstlineno)


def located(message: str, traceback: TracebackType | None, fallback: CodeType | None) -> TraceError:
    """A TraceError at the innermost frame of user code of a traceback, or else where `fallback` begins."""
    code, lineno = None, None
    while traceback is not None:
        if is_user_code(traceback.tb_frame.f_code.co_filename):
            code, lineno = traceback.tb_frame.f_code, traceback.tb_lineno
        traceback = traceback.tb_next
    if code is None:
        if fallback is None:
            return TraceError(message)
        code, lineno = fallback, fallback.co_firstlineno
    return _error(message, code, lineno)
