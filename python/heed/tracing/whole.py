# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Functions of whole captured tensors: they depend on no position, so each fetch calls them, and a mod reads what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from heed.arrays import Table
from heed.tracing import tensors
from heed.tracing.captures import Path
from heed.tracing.errors import fail
from heed.tracing.indexing import Elementwise
from heed.tracing.proxies import ObjectProxy, TensorProxy, is_traced

if TYPE_CHECKING:
    from heed.tracing.tracer import Tracer

# Those of heed.tracing.functions that take rows or single values; of more they are called.
OF_ROWS = frozenset("""sum any all mean average prod max min amax amin count_nonzero norm linalg_norm linalg_vector_norm dist dot vdot
    inner matmul stack isin searchsorted bucketize embedding""".split())
# What changes its first argument, besides the functions of torch whose names end in an underscore.
_CHANGING = frozenset("copyto fill_diagonal place put put_along_axis putmask".split())
# The argument, and its place, with which a function is none: it draws random numbers, or keeps statistics that torch counts no change of.
_STATEFUL = {"scaled_dot_product_attention": ("dropout_p", 4), "batch_norm": ("training", 5)}
_CHANGING_METHODS = frozenset("byteswap fill partition put resize setfield setflags sort".split())  # of NumPy's arrays


class _Expression:
    """A call, of calls too: its text over paths and constants."""

    def __init__(self) -> None:
        self.bases: list[Path] = []
        self.versions: list[tuple[Any, int]] = []  # torch's count of changes of each base
        self.constants: list[Any] = []

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any] | None:
        """The text of a call, and its result now; None if an argument is known to kernels only."""
        positional = [self._argument(arg) for arg in args]
        by_name = {key: self._argument(arg) for key, arg in kwargs.items()}
        if None in positional or None in by_name.values():
            return None
        known = [item for item in positional if item]
        named = {key: item for key, item in by_name.items() if item}
        texts = [text for text, _ in known] + [f"{key}={text}" for key, (text, _) in named.items()]
        value = function(*(value for _, value in known), **{key: value for key, (_, value) in named.items()})
        return f"{self._constant(function)[0]}({', '.join(texts)})", value

    def _argument(self, value: Any) -> tuple[str, Any] | None:
        if type(value) in (list, tuple):
            items = [self._argument(item) for item in value]
            known = [item for item in items if item]
            text = "".join(f"{text}, " for text, _ in known)
            return (f"({text})", tuple(item for _, item in known)) if len(known) == len(items) else None
        if isinstance(value, TensorProxy):
            return self._tensor(value) if is_whole(value) else None
        if isinstance(value, Elementwise):
            return self.call(*value.source) if value.source else None
        if is_traced(value):
            return None if value._host is None else self._base(value._host.path, value._host.value)
        return None if isinstance(value, ObjectProxy) else self._constant(value)

    def _tensor(self, tensor: TensorProxy) -> tuple[str, Any]:
        path, real = tensor._path, tensor._real
        is_of_the_mod = not path.bases and any(type(constant) is Table for constant in path.constants)
        for dtype in tensor._casts:
            path, real = path.apply(tensors.cast, dtype), tensors.cast(real, dtype)
        return self._constant(real) if is_of_the_mod else self._base(path, real)

    def _base(self, path: Path, value: Any) -> tuple[str, Any]:
        self.bases.append(path)
        self.versions.append((value, _version(value)))
        return f"{{{len(self.bases) - 1}}}", value

    def _constant(self, value: Any) -> tuple[str, Any]:
        value = kept(value)
        self.constants.append(value)
        return f"{{c{len(self.constants) - 1}}}", value


def kept(value: Any) -> Any:
    """A value as it is now: a tensor that the mod has made of numbers may be changed in place before the next fetch."""
    if tensors.is_torch(value) and not is_traced(value):
        return value.clone()
    return value.copy() if type(value) is np.ndarray else value


def _version(value: Any) -> int:
    """How often a tensor of torch was changed, as far as torch says so; 0 for anything else."""
    return int(value._version) if tensors.is_torch(value) and not value.is_inference() else 0


def is_whole(value: TensorProxy | Elementwise) -> bool:
    """Whether a captured tensor is neither indexed nor a part of one; it may be cast. What is computed of such tensors is whole, too."""
    if isinstance(value, Elementwise):
        arguments = [] if value.source is None else [arg for arg in value.source[1] if is_traced(arg)]
        return bool(arguments) and all(arg._host is not None or is_whole(arg) for arg in arguments)
    return (isinstance(value, TensorProxy) and not value._bound
            and all(axis.base == i and axis.length is None for i, axis in enumerate(value._axes)))


def method(value: Any, name: str) -> Any:
    """The function behind a method of a whole tensor that does not change it; None if there is none."""
    if name.endswith("_") or not isinstance(value, (TensorProxy, Elementwise)) or not is_whole(value):
        return None
    while isinstance(value, Elementwise) and value.source:
        value = next(arg for arg in value.source[1] if is_traced(arg) and arg._host is None)
    found = getattr(type(value._real), name, None)
    return found if callable(found) and (tensors.is_torch(value._real) or name not in _CHANGING_METHODS) else None


def call(tracer: Tracer, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What stands for the result of `function`, of torch or NumPy; None if it needs values that only a kernel has.

    A function that changes a tensor is none of these: a fetch would change it again.
    """
    own = getattr(function, "__name__", "_")
    if own.endswith("_") or own in _CHANGING or kwargs.get("inplace"):
        return None
    if _ranks([*args, *kwargs.values()]) < (2 if name in OF_ROWS else 1):
        return None
    flag, place = _STATEFUL.get(own, ("", len(args)))
    if kwargs.get(flag) or any(args[place:place + 1]):
        fail(f"{own} with {flag} gives other numbers at each call, and a mod the same: call it outside and capture the result")
    made = _Expression()
    called = made.call(function, args, kwargs)
    if called is None:
        return None
    text, result = called
    if any(_version(value) != version for value, version in made.versions):  # such as statistics that are kept
        fail(f"{own} changes a captured tensor, and has done so now; a mod cannot: call it outside and capture the result")
    if not made.bases:  # tensors that the mod makes of constants, and so this one
        return tracer._own(result, name) if hasattr(result, "ndim") else None
    first, *others = made.bases
    return tracer.wrap(result, first.derive(text, *made.constants, bases=others), name)


def _ranks(values: Any) -> int:
    """The numbers of axes of all tensors among values, added."""
    return sum(_ranks(value) if type(value) in (list, tuple) else value.ndim if isinstance(value, (TensorProxy, Elementwise)) else 0
               for value in values)
