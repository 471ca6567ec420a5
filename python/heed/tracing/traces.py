# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Traces, and the cache of them.

`lookup` is what every call of attention does first: from the functions' code to a trace and the values of
its parameters, all read anew. A cache entry refers to code and to constants, never to the user's tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import threading
import types
import weakref
from typing import Any

import numpy as np

from heed import arrays
from heed.tracing.captures import Fetch, Guard, Path, compile_fetch
from heed.tracing.evaluate import evaluate as evaluate_graph
from heed.tracing.expressions import Leaf, Node, in_range, reachable
from heed.tracing.printer import unique_name, write_variant
from heed.tracing.tracer import Tracer, code_of

MAX_CANDIDATES = 64  # traces of one pair of functions
MAX_ENTRIES = 1024  # pairs of functions
_FRONT = 4  # that many traces may take turns without being moved


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter of the variant. `rank` is -1 for a scalar."""

    name: str
    dtype: str
    rank: int


class Trace:
    """A score_mod and a mask_mod as a variant of the Heed language.

    `source` is the program, `params` what it captured, `digest` a hash of the program without comments:
    equal digests are equal kernels.
    """

    def __init__(self, name: str, source: str, digest: str, leaves: tuple[Leaf, ...], score: Node | None,
                 mask: Node | None) -> None:
        self.name = name
        self.source = source
        self.digest = digest
        self.params = tuple(Param(leaf.name, leaf.dtype, leaf.rank) for leaf in leaves)
        self._leaves = leaves
        self._score = score
        self._mask = mask
        self._fetches: tuple[Fetch, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Trace:
        """Itself: nothing in it changes."""
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"trace '{self.name}' cannot be pickled, as it knows the functions that it came from: its `source` is a program "
                        "that heed.compile takes")

    @property
    def has_score(self) -> bool:
        return self._score is not None

    @property
    def has_mask(self) -> bool:
        return self._mask is not None

    @functools.cached_property
    def mask_params(self) -> frozenset[str]:
        """Names of the parameters that the mask_mod uses."""
        return frozenset(leaf.name for leaf in _leaves_of([] if self._mask is None else [self._mask]))

    @functools.cached_property
    def mask_coordinates(self) -> frozenset[str]:
        """Which of b, h, q and kv the mask_mod uses."""
        nodes = reachable([] if self._mask is None else [self._mask])
        return frozenset(node.data for node in nodes if node.op == "coordinate")

    def values(self, score_mod: Any = None, mask_mod: Any = None) -> list[Any]:
        """The values of the parameters, as these functions capture them now.

        Raises ValueError if the functions do not have the code and structure of this trace."""
        fetch = self.fetch_of(score_mod, mask_mod)
        values = None if fetch is None else fetch(score_mod, mask_mod)
        if values is None:
            raise ValueError(f"trace '{self.name}' is not of these functions, or what they capture has another structure")
        return values

    def fetch_of(self, score_mod: Any, mask_mod: Any) -> Fetch | None:
        """What checks that the trace holds for these functions, and reads what they capture; None if it does not hold."""
        return next((fetch for fetch in self._fetches if fetch(score_mod, mask_mod) is not None), None)

    def evaluate_mask(self, values: list[Any], b: Any, h: Any, q: Any, kv: Any) -> np.ndarray:
        """The mask_mod for broadcastable integer arrays, as bools; all true without a mask_mod."""
        shape = np.broadcast_shapes(*(np.shape(x) for x in (b, h, q, kv)))
        if self._mask is None:
            return np.ones(shape, bool)
        coordinates = {"b": b, "h": h, "q": q, "kv": kv}
        return np.broadcast_to(evaluate_graph(self._mask, dict(zip(self._leaves, values)), coordinates), shape)

    def evaluate_score(self, values: list[Any], s: Any, b: Any, h: Any, q: Any, kv: Any) -> np.ndarray:
        """The score_mod for broadcastable arrays, in float64; `s` itself without a score_mod."""
        shape = np.broadcast_shapes(*(np.shape(x) for x in (s, b, h, q, kv)))
        if self._score is None:
            return np.broadcast_to(np.asarray(s, np.float64), shape)
        coordinates = {"s": s, "b": b, "h": h, "q": q, "kv": kv}
        result = evaluate_graph(self._score, dict(zip(self._leaves, values)), coordinates)
        return np.broadcast_to(result.astype(np.float64), shape)

    def __repr__(self) -> str:
        return f"<Trace {self.name}({', '.join(f'{p.name}: {p.dtype}' for p in self.params)})>"


_traces: weakref.WeakValueDictionary[str, Trace] = weakref.WeakValueDictionary()
_lock = threading.RLock()


class _Entry:
    """The traces of one pair of functions. Refers to what its key is the id of."""

    __slots__ = ("owners", "candidates")

    def __init__(self, owners: tuple[Any, Any]) -> None:
        self.owners = owners
        self.candidates: tuple[tuple[Fetch, Trace], ...] = ()


_entries: dict[tuple[int, int], _Entry] = {}


def _comment(kind: str, function: Any) -> str:
    code = code_of(function)
    name = getattr(function, "__qualname__", None) or (code.co_name if code else type(function).__name__)
    place = f", {code.co_filename}:{code.co_firstlineno}" if code else ""
    return " ".join(f"// {kind}: {name}{place}".split("\n")) + "\n"


def _finish(tracer: Tracer, name: str, score_mod: Any, mask_mod: Any, score: Node | None,
            mask: Node | None) -> tuple[Fetch, Trace]:
    """The trace of what was recorded, or a known one of the same text."""
    leaves = _leaves_of([root for root in (score, mask) if root is not None])
    taken: set[str] = set()
    for leaf in leaves:
        leaf.name = unique_name(leaf.hint, taken)
    ranges = [Guard(in_range(leaf.dtype, leaf.low), (path,)) for leaf, path in tracer.paths.items()
              if isinstance(leaf.value, int) and not leaf.is_size and (leaf in leaves or leaf.low is not None)]
    fetch = compile_fetch([*tracer.guards, *ranges], [tracer.paths[leaf] for leaf in leaves])
    text = write_variant(name, leaves, score, mask)
    comments = "".join(_comment(kind, function) for kind, function in (("score_mod", score_mod), ("mask_mod", mask_mod))
                       if function is not None)
    source = comments + text
    with _lock:
        trace = _traces.get(source)
        if trace is None:
            for leaf in leaves:
                leaf.value = None
            digest = hashlib.sha256(text.encode()).hexdigest()
            trace = _traces[source] = Trace(name, source, digest, leaves, score, mask)
        trace._fetches = (fetch, *trace._fetches)[:MAX_CANDIDATES]
    return fetch, trace


def _leaves_of(roots: list[Node]) -> tuple[Leaf, ...]:
    """The parameters, in the order in which the text mentions them."""
    leaves: dict[Leaf, None] = {}
    seen: set[int] = set()
    stack = roots[::-1]
    while stack:
        node = stack.pop()
        if node.number not in seen:
            seen.add(node.number)
            if isinstance(node.data, Leaf):
                leaves.setdefault(node.data)
            stack.extend(reversed(node.args))
    return tuple(leaves)


def _make(score_mod: Any, mask_mod: Any, name: str) -> tuple[Fetch, Trace]:
    tracer = Tracer()
    score = mask = None
    if score_mod is not None:
        score = tracer.run(score_mod, "score_mod", ("s", "b", "h", "q", "kv"))
        score = tracer.graph.cast("f32", score)
    else:
        tracer.guard("{0} is None", Path("score_mod"))
    if mask_mod is not None:
        mask = tracer.run(mask_mod, "mask_mod", ("b", "h", "q", "kv"))
    else:
        tracer.guard("{0} is None", Path("mask_mod"))
    return _finish(tracer, name, score_mod, mask_mod, score, mask)


def trace(score_mod: Any = None, mask_mod: Any = None, name: str = "traced") -> Trace:
    """Traces a score_mod and a mask_mod, either of which may be None.

    Raises TraceError, which names the line, if they do what the language has no words for."""
    return _make(score_mod, mask_mod, name)[1]


def trace_function(function: Any, mask_mod: Any = None, *, name: str | None = None) -> Trace:
    """Traces one function, a score_mod or a mask_mod by its parameters, or with `mask_mod` a score_mod and a mask_mod.

    The variant has the function's name. Raises TraceError, which names the line, if a function does what the language
    has no words for."""
    if name is None:
        name = unique_name(getattr(function, "__name__", "traced").replace("<lambda>", "traced"), set())
    if mask_mod is not None:
        return trace(function, mask_mod, name)
    return trace(name=name, **{mod_kind(function): function})


def lookup(score_mod: Any, mask_mod: Any) -> tuple[Trace, list[Any]]:
    """The trace of two mods, from the cache where it holds, and the values of its parameters."""
    try:
        owner = None if score_mod is None else score_mod.__code__
        other = None if mask_mod is None else mask_mod.__code__
    except AttributeError:  # a callable object or a partial goes by its class
        owner = getattr(score_mod, "__code__", score_mod.__class__)
        other = getattr(mask_mod, "__code__", mask_mod.__class__)
    entry = _entries.get((id(owner), id(other)))
    if entry is not None:
        for i, (fetch, trace) in enumerate(entry.candidates):
            values = fetch(score_mod, mask_mod)
            if values is not None:
                if i >= _FRONT:
                    _promote(entry, (fetch, trace))
                return trace, values
    return _miss(score_mod, mask_mod, (owner, other))


def _promote(entry: _Entry, candidate: tuple[Fetch, Trace]) -> None:
    """Puts a trace before the others: tried first, given up last."""
    with _lock:
        entry.candidates = (candidate, *(other for other in entry.candidates if other[0] is not candidate[0]))


def _miss(score_mod: Any, mask_mod: Any, owners: tuple[Any, Any]) -> tuple[Trace, list[Any]]:
    fetch, trace = _make(score_mod, mask_mod, "traced")
    values = fetch(score_mod, mask_mod)
    if values is None:
        if arrays.is_transforming():  # within which no tensor says its value
            raise arrays.no_memory("captured tensor")
        raise ValueError("what the mods capture changed while they were traced, or is an integer beyond 64 bits")
    with _lock:
        key = (id(owners[0]), id(owners[1]))
        entry = _entries.pop(key, None) or _Entry(owners)
        entry.candidates = ((fetch, trace), *entry.candidates)[:MAX_CANDIDATES]
        _entries[key] = entry  # last: used most recently
        while len(_entries) > MAX_ENTRIES:
            del _entries[next(iter(_entries))]
    return trace, values


def clear() -> None:
    """Empties the cache."""
    with _lock:
        _entries.clear()


def evaluate(mask_mod: Any, b: Any, h: Any, q: Any, kv: Any) -> np.ndarray:
    """A mask_mod for broadcastable integer arrays."""
    trace, values = lookup(None, mask_mod)
    return trace.evaluate_mask(values, b, h, q, kv)


def mod_kind(function: Any) -> str:
    """'score_mod' or 'mask_mod', by the count of positional parameters without default: 5 or 4.

    Raises TypeError for what is not callable, AssertionError for other counts."""
    if not callable(function):
        raise TypeError(f"expected a score_mod or mask_mod, found {type(function).__name__}")
    # What inspect takes 10 us for, and what torch.compile cannot see in functions that were renamed.
    if type(function) is types.FunctionType and not (hasattr(function, "__wrapped__") or hasattr(function, "__signature__")):
        count = function.__code__.co_argcount - len(function.__defaults__ or ())
    else:
        parameters = inspect.signature(function).parameters.values()
        count = sum(1 for p in parameters
                    if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty)
    if count not in (4, 5):
        name = getattr(function, "__qualname__", type(function).__name__)
        raise AssertionError(f"{name} has {count} positional parameters without default; a score_mod has 5 (score, b, h, "
                             "q_idx, kv_idx), a mask_mod has 4 (b, h, q_idx, kv_idx)")
    return "score_mod" if count == 5 else "mask_mod"


