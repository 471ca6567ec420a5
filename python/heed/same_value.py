# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whether functions may stand for each other: by what they do, not by identity."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any


def _cell_contents(function: types.FunctionType) -> list[Any]:
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            contents.append(inspect.Parameter.empty)
    return contents


def same_value(a: Any, b: Any, pending: set[tuple[int, int]]) -> bool:
    """Whether two mask_mods, or things that they capture, are interchangeable: functions with the same code and equal
    captures, equal plain values, and for all else the same object. `pending` are the functions being compared, for a
    recursive one captures itself."""
    if a is b or (id(a), id(b)) in pending:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, types.FunctionType):
        pending = pending | {(id(a), id(b))}
        return (a.__code__ == b.__code__ and a.__globals__ is b.__globals__
                and same_value(a.__defaults__, b.__defaults__, pending)
                and same_value(a.__kwdefaults__, b.__kwdefaults__, pending)
                and same_value(_cell_contents(a), _cell_contents(b), pending))
    if isinstance(a, types.MethodType):
        return a.__self__ is b.__self__ and same_value(a.__func__, b.__func__, pending)
    if isinstance(a, functools.partial):
        return all(same_value(getattr(a, name), getattr(b, name), pending) for name in ("func", "args", "keywords"))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same_value(x, y, pending) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_value(a[key], b[key], pending) for key in a)
    return isinstance(a, (bool, int, float, complex, str, bytes)) and bool(a == b)
