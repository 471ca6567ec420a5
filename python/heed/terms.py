# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the compiler says about a variant, and its mask taken apart into terms.

    report = explain(subject)                     # graphs of score and mask, schedules
    term = split(report.mask.root)                # `a & (b | c)` as a tree
    classes = block_classes(subject, 128, 128)    # what a kernel skips
    classes = term_classes(subject, report, leaf.node, ...)
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from heed import _compiler, arrays, oracle
from heed.subject import Subject
from heed.tracing.evaluate import evaluate
from heed.tracing.expressions import Graph, Leaf, Node, reachable
from heed.tracing.printer import describe, write_variant

MAX_TERMS = 24  # beyond that, parts of a mask stay in one piece
_CHUNK_PAIRS = 1 << 19  # evaluated at a time
_SIZES = ("B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv")
_OPS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|", "xor": "^",
        "shl": "<<", "shr": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "select": "where"}


class Place(NamedTuple):
    file: str
    line: int
    column: int


@dataclasses.dataclass
class Stage:
    """A score_mod or mask_mod as a graph; places and dependences by the number of the node."""

    root: Node
    places: dict[int, Place]
    depends: dict[int, frozenset[str]]

    @property
    def nodes(self) -> list[Node]:
        return reachable([self.root])


@dataclasses.dataclass
class Report:
    """What the compiler says; `leaves` are the parameters and sizes that the graphs mention."""

    score: Stage | None
    mask: Stage | None
    schedules: list[dict[str, Any]]
    leaves: dict[str, Leaf]
    walk: str  # over blocks of keys, on CPUs: "all", "bounds" or "lists"


@dataclasses.dataclass
class Term:
    """A part of a mask: `op` is "&" or "|" of the children, or "" for a term that is looked at as a whole."""

    op: str
    node: Node
    children: "list[Term]" = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        return describe(self.node)

    def leaves(self) -> "list[Term]":
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]


class Progress:
    """One line on stderr that says what a long run does and since when; nothing where that is no terminal.

    A thread writes it, since one question to the compiler may take most of the time."""

    def __init__(self, after: float = 0.5) -> None:
        self._after = after
        self._stream = sys.stderr
        self._text = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True) if self._stream.isatty() else None

    def __enter__(self) -> "Progress":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def update(self, text: str) -> None:
        self._text = text

    def _show(self) -> None:
        start, delay, shown = time.monotonic(), self._after, False
        while not self._done.wait(delay):
            line = f"{self._text}, {time.monotonic() - start:.0f} s"[:shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[2K{line}", end="", file=self._stream, flush=True)
            delay, shown = 0.2, True
        if shown:
            print("\r\x1b[2K", end="", file=self._stream, flush=True)


# What the compiler says.


def explain(subject: Subject, dtype: str = "f32", head_dim: int = 64, value_head_dim: int = 0,
            target: str = "native", tune: str = "") -> Report:
    """`tune`: decisions in place of the compiler's, as `heedc --tune` takes them. HeedError holds the compiler's messages."""
    request = _compiler.Request(subject.source, subject.file_name, subject.variant, None, target, subject.defines, dtype,
                                head_dim, value_head_dim, tune)
    found = json.loads(_compiler.compile(request, "explain"))
    leaves = {param["name"]: Leaf(param["name"], param["type"], len(param["extents"]) if "extents" in param else -1,
                                  [extent if isinstance(extent, int) else None for extent in param.get("extents", ())],
                                  name=param["name"]) for param in subject.params}
    leaves.update((name, Leaf(name, "i32", -1, is_size=True, name=name)) for name in _SIZES)
    graph = Graph()
    score, mask = (found[kind] and _read_stage(graph, leaves, found[kind]) for kind in ("score", "mask"))
    return Report(score, mask, found["schedules"], leaves, found["walk"])


def _read_stage(graph: Graph, leaves: Mapping[str, Leaf], found: Mapping[str, Any]) -> Stage:
    nodes: list[Node] = []
    places: dict[int, Place] = {}
    depends: dict[int, frozenset[str]] = {}
    for entry in found["nodes"]:
        args = tuple(nodes[operand] for operand in entry["operands"])
        op, data = entry["op"], None
        if op == "constant":
            data = float(entry["value"]) if entry["type"] == "f32" else entry["value"]
        elif op == "coordinate":
            data = entry["name"]
        elif op in ("param", "size", "load"):
            data = leaves[entry["name"]]
        node = graph.make("param" if op == "size" else _OPS.get(op, op), entry["type"], args, data)
        nodes.append(node)
        places.setdefault(node.number, Place(entry["file"], entry["line"], entry["column"]))
        depends[node.number] = frozenset(entry["depends"])
    return Stage(nodes[found["result"]], places, depends)


def split(root: Node, room: int = MAX_TERMS) -> Term:
    """The terms that & and | combine to a mask, as a tree in which no child has its parent's op."""
    if root.op not in ("&", "|"):
        return Term("", root)
    parts: list[Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        if node.op == root.op:
            stack.extend(reversed(node.args))
        elif node not in parts:
            parts.append(node)
    if len(parts) > room:
        return Term("", root)
    room -= len(parts)
    children = []
    for part in parts:
        child = split(part, room + 1)
        room -= len(child.leaves()) - 1
        children.append(child)
    return Term(root.op, root, children)


# What the analysis finds.


def _interpret(request: _compiler.Request, subject: Subject, question: str, details: Mapping[str, Any],
               dtype: Any) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="heed-") as directory:
        files = oracle.Request(directory)
        types = {param["name"]: param["type"] for param in subject.params}
        files.params({name: arrays.to_bf16(value) if types[name] == "bf16" else value
                      for name, value in {**subject.values, **subject.numbers}.items()})
        files.content["extents"] = subject.sizes.all()
        files.content[question] = {**details, "output": files.path("result")}
        _compiler.interpret(request, files.content)
        return np.fromfile(files.path("result"), dtype)


def _blocks(subject: Subject, block_q: int, block_kv: int) -> tuple[int, int]:
    return -(-subject.sizes["Sq"] // block_q), -(-subject.sizes["Skv"] // block_kv)


def _request_of(subject: Subject, report: Report | None = None, node: Node | None = None) -> _compiler.Request:
    """The subject's variant, or one whose mask is `node`."""
    if node is None or report is None:
        return _compiler.Request(subject.source, subject.file_name, subject.variant, defines=subject.defines)
    used = {part.data for part in reachable([node]) if isinstance(part.data, Leaf) and not part.data.is_size}
    leaves = [leaf for leaf in report.leaves.values() if leaf in used]
    return _compiler.Request(write_variant("term", leaves, None, node), "<term>")


def block_classes(subject: Subject, block_q: int, block_kv: int, b: int = 0, h: int = 0, report: Report | None = None,
                  node: Node | None = None) -> np.ndarray:
    """int8, query blocks x key blocks: oracle's SKIPPED, PARTIAL or FULL, as the compiler's analysis has it; of the
    whole mask, or of one term of it."""
    found = _interpret(_request_of(subject, report, node), subject, "classes",
                       {"b": b, "h": h, "block_q": block_q, "block_kv": block_kv}, np.int8)
    return found.reshape(_blocks(subject, block_q, block_kv))


def key_bounds(subject: Subject, block_q: int, b: int = 0, h: int = 0, report: Report | None = None,
               node: Node | None = None) -> np.ndarray:
    """int64, query blocks x 2: the keys [lower, upper) that the closed form leaves; empty where lower >= upper."""
    return _interpret(_request_of(subject, report, node), subject, "bounds", {"b": b, "h": h, "block_q": block_q},
                      np.int64).reshape(-1, 2)


# What is exact.


def evaluate_blocks(subject: Subject, report: Report, nodes: Sequence[Node], at: np.ndarray, block_q: int, block_kv: int,
                    b: int = 0, h: int = 0) -> Iterator[tuple[slice, np.ndarray, list[np.ndarray]]]:
    """The values of some boolean nodes for all pairs of the blocks `at` (n, 2), a few blocks at a time: which ones,
    where the pairs exist (m, block_q, block_kv), and the values of each node."""
    values: dict[Leaf, Any] = {leaf: subject.sizes[name] if leaf.is_size else subject.values.get(name)
                               for name, leaf in report.leaves.items()}
    step = max(1, _CHUNK_PAIRS // (block_q * block_kv))
    for low in range(0, len(at), step):
        part = slice(low, min(low + step, len(at)))
        q = at[part, 0, None, None] * block_q + np.arange(block_q)[:, None]
        kv = at[part, 1, None, None] * block_kv + np.arange(block_kv)
        exists = (q < subject.sizes["Sq"]) & (kv < subject.sizes["Skv"])
        coordinates = {"b": np.asarray(b), "h": np.asarray(h), "q": q, "kv": kv}
        yield part, exists, [np.broadcast_to(evaluate(node, values, coordinates), exists.shape) for node in nodes]
