# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the compiler says about a variant, and its mask taken apart into terms.

    report = explain(subject)                     # graphs of score and mask, schedules
    term = split(report.mask.root)                # `a & (b | c)` as a tree
    means = means_of(subject, report, (128, 128)) # how a kernel finds the blocks that it visits
    (blocks,) = visited(subject, report, means.is_exact, (128, 128))
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

from heed import _compiler, oracle
from heed.block_runs import FULL, PARTIAL, SKIPPED, BlockRuns, ceil_div
from heed.subject import Subject
from heed.tracing.evaluate import evaluate
from heed.tracing.expressions import Graph, Leaf, Node, reachable
from heed.tracing.printer import describe, write_variant
from heed.variant import Variant

MAX_TERMS = 24  # beyond that, parts of a mask stay in one piece
MAX_BLOCKS = 1 << 34  # 4 million queries and keys
MAX_QUESTIONS = 1 << 20  # about single blocks: some 5 us each
MAX_CELLS = 1024  # along one side of a picture
_CHUNK_PAIRS = 1 << 19  # evaluated at a time
_CHUNK_RUNS = 1 << 18  # counted at a time
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
    cpu_walk: str  # over blocks of keys: "all", "bounds" or "lists"

    def schedule(self, keys: int) -> dict[str, Any]:
        """Of a GPU the code that a call with so many keys takes; of several CPU levels the last."""
        return next((schedule for schedule in self.schedules if schedule.get("min_keys", keys + 1) <= keys), self.schedules[-1])

    def walk(self, keys: int) -> str:
        """`cpu_walk`, or a GPU's."""
        walk: str = self.schedule(keys).get("walk", self.cpu_walk)
        return walk

    def has_exact_lists(self, keys: int) -> bool:
        """Whether lists of a CPU say all of what is visited. Others leave out what is beyond closed-form bounds first."""
        return self.walk(keys) == "lists" and "groups" not in self.schedule(keys)


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


# Blocks.


@dataclasses.dataclass
class Blocks:
    """The blocks of one batch and head that are not skipped: `runs` is (n, 4), the row, the first block, the one behind the
    last, and the class, PARTIAL or FULL. There may be half as many as blocks: see `parts`."""

    shape: tuple[int, int]
    runs: np.ndarray

    @classmethod
    def of_classes(cls, classes: np.ndarray) -> "Blocks":
        """Of a class for each block."""
        padded = np.pad(classes, ((0, 0), (1, 1)), constant_values=-1)
        rows, edges = np.nonzero(padded[:, 1:] != padded[:, :-1])
        first = np.flatnonzero(edges < classes.shape[1])  # the last edge of a row begins nothing
        runs = np.column_stack([rows[first], edges[first], edges[first + 1], classes[rows[first], edges[first]]])
        return cls((classes.shape[0], classes.shape[1]), runs[runs[:, 3] != SKIPPED])

    @classmethod
    def of_list(cls, found: BlockRuns, b: int, h: int) -> "Blocks":
        batches, heads, rows, columns = found.shape
        low = ((b if batches > 1 else 0) * heads + (h if heads > 1 else 0)) * rows
        offsets = found.offsets[low:low + rows + 1]
        return cls((rows, columns), np.column_stack([np.repeat(np.arange(rows, dtype=np.int32), np.diff(offsets)),
                                                     found.runs[offsets[0]:offsets[-1]]]))

    def parts(self) -> Iterator[np.ndarray]:
        """`runs` in int64, some at a time."""
        for low in range(0, len(self.runs), _CHUNK_RUNS):
            yield self.runs[low:low + _CHUNK_RUNS].astype(np.int64)

    def within(self, first: np.ndarray, end: np.ndarray) -> "Blocks":
        """Without what is before block `first` or from `end` on, given for each row."""
        rows, begins, ends, kinds = self.runs.T
        runs = np.column_stack([rows, np.maximum(begins, first[rows]), np.minimum(ends, end[rows]), kinds])
        return Blocks(self.shape, runs[runs[:, 1] < runs[:, 2]])

    def counts(self) -> np.ndarray:
        """How many blocks are SKIPPED, PARTIAL and FULL."""
        found = np.zeros(3, np.int64)
        for part in self.parts():
            found += np.bincount(part[:, 3], part[:, 2] - part[:, 1], 3).astype(np.int64)
        found[SKIPPED] = self.shape[0] * self.shape[1] - found.sum()
        return found

    def classes(self) -> np.ndarray:
        """int8, query blocks x key blocks."""
        found: np.ndarray = self.in_cells((1, 1)).argmax(0).astype(np.int8)
        return found

    def in_cells(self, cell: tuple[int, int]) -> np.ndarray:
        """int64 (3, ...): how many blocks are SKIPPED, PARTIAL and FULL in each cell of so many rows and columns."""
        height, width = (np.minimum(size, extent - np.arange(0, extent, size)) for size, extent in zip(cell, self.shape))
        found = np.zeros((3, len(height), len(width)), np.int64)
        shape = len(height), len(width) + 2
        # A run covers its first cell from an offset on, and all that follow; what is behind its end is taken back.
        steps = np.zeros((3, shape[0] * shape[1]))
        for part in self.parts():
            first, last = part[[0, -1], 0] // cell[0]  # rows ascend
            touched = slice(first * shape[1], (last + 1) * shape[1])
            for kind in (PARTIAL, FULL):
                rows, begins, ends, _ = part[part[:, 3] == kind].T
                for edges, sign in ((begins, 1), (ends, -1)):
                    columns, offsets = np.divmod(edges, cell[1])
                    at = (rows // cell[0] - first) * shape[1] + columns
                    steps[kind, touched] += sign * np.bincount(at, cell[1] - offsets, touched.stop - touched.start)
                    steps[kind, touched] += sign * np.bincount(at + 1, offsets, touched.stop - touched.start)
        for kind in (PARTIAL, FULL):
            found[kind] = steps[kind].reshape(shape).cumsum(1)[:, :-2]
        found[SKIPPED] = height[:, None] * width - found.sum(0)
        return found


def cell_of(shape: tuple[int, int]) -> tuple[int, int]:
    """So many rows and columns of blocks go together where all are too many to be drawn."""
    return ceil_div(shape[0], MAX_CELLS), ceil_div(shape[1], MAX_CELLS)


class Means(NamedTuple):
    """How a kernel finds the blocks that it visits, and whether that is exact, or looked at as if it were."""

    text: str
    is_exact: bool


def means_of(subject: Subject, report: Report, block_size: tuple[int, int]) -> Means:
    """ValueError where lengths and block sizes make too many blocks."""
    rows, columns = _blocks(subject, *block_size)
    if rows * columns > MAX_BLOCKS:
        raise ValueError(f"{rows} x {columns} blocks are too many to look at; give fewer --q and --kv, or larger blocks")
    if subject.block_mask is not None:
        return Means("the BlockMask's lists", True)
    if report.mask is None:
        return Means("a variant without a mask", True)
    keys = subject.sizes["Skv"]
    if report.has_exact_lists(keys):
        return Means("exact lists, found before the kernel by the mask's generated classifier", True)
    text = ("lists, found before the kernel by bounds in closed form and intervals" if report.walk(keys) == "lists"
            else "bounds in closed form, and intervals for each block between them")
    if rows * columns <= MAX_QUESTIONS:
        return Means(text, False)
    return Means(f"{text} (so many are shown exactly; a kernel may find some of them partial)", True)


def visited(subject: Subject, report: Report, is_exact: bool, block_size: tuple[int, int],
            places: Sequence[tuple[int, int]] = ((0, 0),), node: Node | None = None) -> Iterator[Blocks]:
    """The blocks of some batches and heads, of the whole mask or of one term of it: exactly, or as a kernel without exact
    lists finds them."""
    if node is None and subject.block_mask is not None:
        yield from (Blocks.of_classes(subject.given_classes(b, h)) for b, h in places)
    elif node is None and report.mask is None:
        rows, columns = _blocks(subject, *block_size)
        every_row = np.column_stack(np.broadcast_arrays(np.arange(rows), 0, columns, FULL))
        yield from (Blocks((rows, columns), every_row) for _ in places)
    elif is_exact:
        found = block_runs(subject, block_size, report, node)
        yield from (Blocks.of_list(found, b, h) for b, h in places)
    else:
        for b, h in places:
            blocks = Blocks.of_classes(block_classes(subject, *block_size, b, h, report, node))
            if node is None:
                lower, upper = loop_bounds(subject, report, block_size[0], b, h)
                blocks = blocks.within(lower // block_size[1], -(-upper // block_size[1]))
            yield blocks


def has_bounds(subject: Subject, report: Report) -> bool:
    """Whether a kernel leaves out what is beyond bounds in closed form before it looks at blocks."""
    return subject.block_mask is None and report.mask is not None and not report.has_exact_lists(subject.sizes["Skv"])


def loop_bounds(subject: Subject, report: Report, block_q: int, b: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row of blocks, the first key that a kernel's loop comes to and the one behind the last."""
    rows, keys = ceil_div(subject.sizes["Sq"], block_q), subject.sizes["Skv"]
    if not has_bounds(subject, report):
        return np.zeros(rows, np.int64), np.full(rows, keys)
    lower, upper = np.clip(key_bounds(subject, block_q, b, h), 0, keys).T
    return lower, upper


# What the analysis finds.


def _interpret(request: _compiler.Request, subject: Subject, question: str, details: Mapping[str, Any],
               dtype: Any) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="heed-") as directory:
        files = oracle.Request(directory)
        files.params({**subject.stored_values(), **subject.numbers})
        files.content["extents"] = subject.sizes.all()
        files.content[question] = {**details, "output": files.path("result")}
        _compiler.interpret(request, files.content)
        return np.fromfile(files.path("result"), dtype)


def _blocks(subject: Subject, block_q: int, block_kv: int) -> tuple[int, int]:
    return ceil_div(subject.sizes["Sq"], block_q), ceil_div(subject.sizes["Skv"], block_kv)


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


def block_runs(subject: Subject, block_size: tuple[int, int], report: Report | None = None, node: Node | None = None) -> BlockRuns:
    """What heed_classify finds for a kernel that walks lists, for all batches and heads that differ; of the whole mask, or
    of one term of it."""
    request = _request_of(subject, report, node)
    classifier = Variant(request.source, request.file_name, request.variant, request.defines).classifier()
    stored = subject.stored_values()
    values = [stored.get(param.name, param.default) for param in classifier.params]
    b, hq, hkv, q, kv = (subject.sizes[name] for name in ("B", "Hq", "Hkv", "Sq", "Skv"))
    block_q, block_kv = (min(size, np.iinfo(np.int32).max) for size in block_size)  # lengths are less
    return classifier.classify((b, hq, hkv, q, kv), (block_q, block_kv), values, hanging_is_partial=False)


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
