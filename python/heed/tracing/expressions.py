# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The traced graph: hash-consed expressions in the language's four value types.

A node is made once for each operation and operands, so a common subexpression is one node. Operands
are always older than the node, hence the order of `number` is a topological one. A node with `lanes`
is a vector of that many elements.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from heed.tracing import semantics
from heed.tracing.errors import fail

COORDINATES = {"s": "f32", "b": "i32", "h": "i32", "q": "i32", "kv": "i32"}
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
MAX_VECTOR = 4096  # elements of a vector, the language's limit
MAX_NODES = 100_000  # likewise, operations of a mod
_ORDER = tuple(semantics.NUMPY_TYPES)
_LIMITS = {"i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1)}

Bounds = tuple["int | None", "int | None"]


def fits(value: int, type: str = "i32") -> bool:
    low, high = _LIMITS[type]
    return low <= value <= high


_F32_END = 2.0 ** 128 - 2.0 ** 103  # what rounds to infinity begins here
FITS_I64 = f"{_LIMITS['i64'][0]} <= {{0}} <= {_LIMITS['i64'][1]}"


def in_range(type: str, low: int | None = None) -> str:
    """The guard of a number that was traced in `type`; what fits i32 is never traced as i64."""
    smallest, largest = _LIMITS["i32"]
    if type == "i32":
        return f"{smallest if low is None else low} <= {{0}} <= {largest}"
    return f"{FITS_I64 if low is None else f'{low} <= {{0}} <= {_LIMITS[type][1]}'} and not {smallest} <= {{0}} <= {largest}"


@dataclasses.dataclass(eq=False)
class Leaf:
    """A captured value as the graph sees it: a scalar (rank -1) or a tensor.

    `hint` is its name in Python, `name` the parameter's, given when the text is written. `extents` are
    what the declaration says of each axis, None for any length. `value` is a scalar's at trace time;
    `low` the bound that the analysis relies on, which the guard then checks. A size of a tensor needs
    no guard: it cannot be negative.
    """

    hint: str
    dtype: str
    rank: int
    extents: list[int | None] = dataclasses.field(default_factory=list)
    value: int | float | None = None
    low: int | None = None
    is_size: bool = False
    name: str = ""

    def assumed_low(self) -> int | None:
        """A bound of an integer's value, which from then on is a condition of the trace."""
        if self.is_size:
            return 0
        if isinstance(self.value, int) and self.value >= 0 and self.dtype != "f32":
            self.low = max(self.low or 0, min(self.value, 1))
            return self.low
        return None


class Node:
    """One operation. `data` is a constant's value, a coordinate's name or the captured Leaf."""

    __slots__ = ("op", "type", "args", "data", "lanes", "number", "name")

    def __init__(self, op: str, type: str, args: tuple["Node", ...], data: Any, lanes: int | None, number: int) -> None:
        self.op = op
        self.type = type
        self.args = args
        self.data = data
        self.lanes = lanes
        self.number = number
        self.name = ""  # of the user's variable that held it

    @property
    def is_constant(self) -> bool:
        return self.op == "constant"

    def __repr__(self) -> str:
        return f"<{self.op} {self.type} #{self.number}>"


def reachable(roots: list[Node]) -> list[Node]:
    """The nodes that `roots` need, operands first."""
    found: dict[int, Node] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.number not in found:
            found[node.number] = node
            stack.extend(node.args)
    return [found[number] for number in sorted(found)]


class Graph:
    """Makes nodes. Operands must have the types that the language's rules give the operation."""

    def __init__(self) -> None:
        self._nodes: dict[Any, Node] = {}
        self._bounds: dict[int, Bounds] = {}

    def make(self, op: str, type: str, args: tuple[Node, ...] = (), data: Any = None, lanes: int | None = None) -> Node:
        key = (op, type, tuple(arg.number for arg in args), repr(data) if op == "constant" else data, lanes)
        node = self._nodes.get(key)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                fail(f"the mod needs more than {MAX_NODES} operations; loops are unrolled, so keep them short")
            node = self._nodes[key] = Node(op, type, args, data, lanes, len(self._nodes))
        return node

    def constant(self, value: bool | int | float, type: str | None = None) -> Node:
        """A literal; an integer is i32 if it fits, otherwise i64."""
        if type is None:
            if isinstance(value, bool):
                type = "bool"
            elif isinstance(value, int):
                type = "i32" if fits(value) else "i64"
                if not fits(value, "i64"):
                    fail(f"the integer {value} does not fit 64 bits")
            else:
                type = "f32"
                if math.isfinite(value) and abs(value) >= _F32_END:
                    fail(f"the number {value} does not fit f32; infinity is float('inf')")
        return self.make("constant", type, data=float(value) if type == "f32" else value)

    def coordinate(self, name: str) -> Node:
        return self.make("coordinate", COORDINATES[name], data=name)

    def param(self, leaf: Leaf) -> Node:
        return self.make("param", leaf.dtype, data=leaf)

    def load(self, leaf: Leaf, indices: tuple[Node, ...], lanes: int | None = None) -> Node:
        """An element of a tensor, or with `lanes` a row."""
        type = {"i8": "i32", "f16": "f32", "bf16": "f32"}.get(leaf.dtype, leaf.dtype)
        return self.make("load", type, indices, leaf, lanes)

    def operate(self, op: str, type: str, *args: Node) -> Node:
        """An operation element by element, folded if it is about constants only."""
        lanes = None
        for arg in args:
            if arg.lanes is not None:
                if lanes is not None and lanes != arg.lanes:
                    fail(f"vectors of {lanes} and {arg.lanes} elements cannot be combined")
                lanes = arg.lanes
        if args and all(arg.is_constant for arg in args):
            operands = [np.asarray(arg.data, semantics.NUMPY_TYPES[arg.type]) for arg in args]
            with np.errstate(all="ignore"):
                value = semantics.ELEMENTWISE[op](*operands)
            return self.constant(np.asarray(value).item(), type)
        return self._simplify(op, type, args) or self.make(op, type, args, lanes=lanes)

    def _simplify(self, op: str, type: str, args: tuple[Node, ...]) -> Node | None:
        """Rules that keep the text free of what combinators leave behind, such as `true && x`."""
        if type == "bool" and op in ("&", "|"):
            for one, other in (args, args[::-1]):
                if one.is_constant and one.lanes == other.lanes:
                    return other if one.data == (op == "&") else one
            if args[0] is args[1]:
                return args[0]
        if op == "not" and args[0].op == "not":
            return args[0].args[0]
        if op == "where":
            if args[0].is_constant and args[1].lanes == args[2].lanes:
                return args[1] if args[0].data else args[2]
            if args[1] is args[2] and args[0].lanes in (None, args[1].lanes):
                return args[1]
        return None

    def cast(self, to: str, node: Node) -> Node:
        if node.type == to:
            return node
        if node.is_constant:
            value = semantics.cast(to, np.asarray(node.data, semantics.NUMPY_TYPES[node.type]))
            return self.constant(value.item(), to)
        return self.make("cast", to, (node,), lanes=node.lanes)

    def common(self, *nodes: Node) -> tuple[str, list[Node]]:
        """The widest type of some nodes, and the nodes in it."""
        type = max((node.type for node in nodes), key=_ORDER.index)
        return type, [self.cast(type, node) for node in nodes]

    def reduce(self, op: str, *args: Node) -> Node:
        return self.make(op, args[0].type, args)

    def lane(self, node: Node, index: int) -> Node:
        """One element of a vector, read where the vector is made."""
        done: dict[int, Node] = {}
        for part in reachable([node]):
            if part.lanes is None:
                done[part.number] = part
            elif part.op == "load":
                done[part.number] = self.load(part.data, (*part.args, self.constant(index)))
            elif part.op == "cast":
                done[part.number] = self.cast(part.type, done[part.args[0].number])
            else:
                done[part.number] = self.operate(part.op, part.type, *(done[arg.number] for arg in part.args))
        return done[node.number]

    # ---- Bounds ----

    def bounds(self, node: Node) -> Bounds:
        """Between which numbers an integer or bool lies for sure; None: not known.

        Used to tell which indices cannot be negative, so it is about the low end, and quick.
        """
        pending = [node]
        while pending:
            part = pending[-1]
            missing = [arg for arg in part.args if arg.number not in self._bounds]
            if missing and part.number not in self._bounds and part.op != "load":
                pending.extend(missing)
                continue
            pending.pop()
            if part.number not in self._bounds:
                low, high = self._find_bounds(part, [self._bounds.get(arg.number, (None, None)) for arg in part.args])
                if part.type in _LIMITS and ((low is not None and not fits(low, part.type))
                                             or (high is not None and not fits(high, part.type))):
                    low = high = None  # it may wrap around
                self._bounds[part.number] = (low, high)
        return self._bounds[node.number]

    def _find_bounds(self, node: Node, args: list[Bounds]) -> Bounds:
        op = node.op
        if node.type == "bool":
            return (0, 1)
        if node.type == "f32":
            return (None, None)
        if op == "constant":
            return (node.data, node.data)
        if op == "coordinate":
            return (0, None)
        if op == "param":
            return (node.data.assumed_low(), None)
        if op == "cast":
            return self._cast_bounds(node.args[0].type, node.type, args[0])
        if op == "abs":
            return (0, None)
        if op == "where":
            (l1, h1), (l2, h2) = args[1:]
            return (None if l1 is None or l2 is None else min(l1, l2), None if h1 is None or h2 is None else max(h1, h2))
        if op == "clamp":
            (_, _), (low, _), (_, high) = args
            return (None if low is None or high is None else min(low, high), high)
        if op in ("+", "-", "*", "//", "%", "min", "max", "&", ">>"):
            found = self._binary_bounds(op, *args)
            # 64 bits wrap around where a mod asks for them. That 32 bits do not is what coordinates are for.
            return (None, None) if node.type == "i64" and op in "+-*" and None in found else found
        return (None, None)

    @staticmethod
    def _cast_bounds(source: str, target: str, bounds: Bounds) -> Bounds:
        if source == "f32":
            return (None, None)
        if target != "i64" and source == "i64":  # which wraps around, unless it is known to fit
            return bounds if None not in bounds else (None, None)
        if target == "i64" and source in _LIMITS and bounds != (None, None):
            return tuple(limit if end is None else end for end, limit in zip(bounds, _LIMITS[source]))  # type: ignore[return-value]
        return bounds

    @staticmethod
    def _binary_bounds(op: str, a: Bounds, b: Bounds) -> Bounds:
        (al, ah), (bl, bh) = a, b
        if op == "+":
            return (None if al is None or bl is None else al + bl, None if ah is None or bh is None else ah + bh)
        if op == "-":
            return (None if al is None or bh is None else al - bh, None if ah is None or bl is None else ah - bl)
        if op == "*" and al is not None and bl is not None and al >= 0 and bl >= 0:
            return (al * bl, None if ah is None or bh is None else ah * bh)
        if op == "//" and bl is not None and bl > 0 and al is not None:
            return (0 if al >= 0 else al, None if ah is None else max(ah // bl, 0))
        if op == "%" and bl is not None and bl >= 0:  # a remainder by 0 is 0
            return (0, None if bh is None else max(bh - 1, 0))
        if op == "min":
            highs = [x for x in (ah, bh) if x is not None]
            return (None if al is None or bl is None else min(al, bl), min(highs) if highs else None)
        if op == "max":
            lows = [x for x in (al, bl) if x is not None]
            return (max(lows) if lows else None, None if ah is None or bh is None else max(ah, bh))
        if op == "&" and any(low is not None and low >= 0 for low in (al, bl)):
            return (0, min((h for low, h in (a, b) if low is not None and low >= 0 and h is not None), default=None))
        if op == ">>" and al is not None and al >= 0:
            return (0, ah)
        return (None, None)
