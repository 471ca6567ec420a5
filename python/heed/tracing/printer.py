# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes a traced graph as a variant, in the layout that `heedc --format` leaves alone.

What is used twice gets a `let`, and so does a part of what would be too long or too deep for one line.
All else is inline, with the parentheses that the grammar needs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

from heed.tracing.expressions import COMPARISONS, COORDINATES, Leaf, Node, fits, reachable

_LINE = 112  # columns of a line's expression
_DEPTH = 40  # of brackets and operators, where the language allows 256 levels
_LEVELS = {"||": 1, "&&": 2, **dict.fromkeys(COMPARISONS, 3), "|": 4, "^": 5, "&": 6, "<<": 7, ">>": 7, "+": 8, "-": 8,
           "*": 9, "/": 9, "//": 9, "%": 9}
_UNARY, _POSTFIX = 10, 11
_REALS = frozenset("floor ceil exp exp2 log log2 log1p tanh sin cos sqrt rsqrt erf pow sigmoid silu gelu".split())
_NAME = 80  # characters: the keys of dicts, of any length, are in the hints of what they hold
# What a parameter or variable cannot, or should not, be called: words of the language, and arguments of a kernel's call.
_RESERVED = frozenset([*COORDINATES, *_REALS, *"""B Hq Hkv Sq Skv D Dv const else false fn for if import in inf let mut
    return true mask score variant score_mod mask_mod bool i8 i32 i64 index f16 bf16 f32 abs min max clamp square relu where
    select any all sum dot _ self query key value scale return_lse out lse threads""".split()])


def unique_name(hint: str, taken: set[str]) -> str:
    """An identifier of the language like `hint` that is not taken, and takes it."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", hint)[:_NAME].strip("_") or "captured"
    if name[0].isdigit():
        name = f"_{name}"
    if name in _RESERVED:
        name += "_"
    base, number = name, 2
    while name in taken:
        name = f"{base}{'' if base.endswith('_') else '_'}{number}"
        number += 1
    taken.add(name)
    return name


class _Text:
    """An expression: its level of precedence and how deep it nests."""

    __slots__ = ("text", "level", "depth")

    def __init__(self, text: str, level: int = _POSTFIX, depth: int = 1) -> None:
        self.text = text
        self.level = level
        self.depth = depth

    def at(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"


def _literal(node: Node) -> _Text:
    value = node.data
    if node.type == "bool":
        return _Text("true" if value else "false")
    if node.type == "f32" and math.isnan(value):
        return _Text("inf - inf", _LEVELS["-"])
    text = repr(value).replace("e+", "e")
    return _Text(text, _UNARY if text.startswith("-") else _POSTFIX)


def _converts(node: Node) -> bool:
    """Whether a cast is one that the language does by itself where it is needed."""
    return node.op == "cast" and (node.args[0].type, node.type) in (("i32", "i64"), ("i32", "f32"), ("i64", "f32"))


def _carries(node: Node) -> bool:
    """Whether an operand's text has the operand's type: a cast that is left out has not, nor has a small i64 literal."""
    return not _converts(node) and not (node.op == "constant" and node.type == "i64" and fits(node.data))


def _is_trivial(node: Node) -> bool:
    """What is written out rather than named."""
    return node.op in ("coordinate", "param", "constant") or node.op == "cast" and _is_trivial(node.args[0])


class _Body:
    """The statements of one mod."""

    def __init__(self, taken: set[str]) -> None:
        self.lets: list[str] = []
        self._taken = taken
        self._texts: dict[int, _Text] = {}

    def write(self, root: Node) -> str:
        nodes = reachable([root])
        uses = Counter(arg.number for node in nodes for arg in node.args)
        for node in nodes:
            # Too long or too deep: name the largest operands first, but what is a name already.
            text = self._compose(node)
            while len(text.text) > _LINE or text.depth > _DEPTH:
                unnamed = [arg for arg in node.args if not self._texts[arg.number].text.isidentifier()]
                longest = max(unnamed, key=lambda arg: len(self._texts[arg.number].text), default=None)
                if longest is None or len(self._texts[longest.number].text) < 24 and text.depth <= _DEPTH:
                    break
                self._name(longest)
                text = self._compose(node)
            self._texts[node.number] = text
            if uses[node.number] > 1 and not _is_trivial(node) and not _converts(node) and node is not root:
                self._name(node)
        return self._texts[root.number].text

    def _name(self, node: Node) -> None:
        hint = node.name or (self._hint(node) if node.op == "load" else self._next(node))
        name = unique_name(hint, self._taken)
        self.lets.append(f"let {name} = {self._texts[node.number].text}")
        self._texts[node.number] = _Text(name)

    @staticmethod
    def _hint(node: Node) -> str:
        """A name for what was read from a tensor: doc_q."""
        last = node.args[-1]
        return f"{node.data.name}_{last.data if last.op == 'coordinate' else 'at'}"

    def _next(self, node: Node) -> str:
        """A name for what has none in Python: c0, c1, ... for bools, i0 for integers, x0 for floats."""
        letter = {"bool": "c", "f32": "x"}.get(node.type, "i")
        return next(name for i in itertools.count() if (name := f"{letter}{i}") not in self._taken)

    def _implicit(self, node: Node) -> _Text:
        """A node without the cast around it, where the language casts by itself."""
        return self._texts[node.args[0].number] if _converts(node) else self._texts[node.number]

    def _compose(self, node: Node) -> _Text:
        op, texts = node.op, [self._texts[arg.number] for arg in node.args]
        depth = 1 + max((text.depth for text in texts), default=0)
        if op == "constant":
            return _literal(node)
        if op == "coordinate":
            return _Text(node.data)
        if op == "param":
            return _Text(node.data.name)
        if op == "load":
            return _Text(f"{node.data.name}[{', '.join(text.text for text in texts)}]", _POSTFIX, depth)
        if op in ("neg", "not"):
            sign = "-" if op == "neg" else "!" if node.type == "bool" else "~"
            return _Text(sign + texts[0].at(_UNARY), _UNARY, depth)
        if op == "cast":
            return _Text(f"{node.type}({texts[0].text})", _POSTFIX, depth)
        if op in _LEVELS:
            return self._binary(node, depth)
        if op in _REALS:
            texts = [self._implicit(arg) for arg in node.args]
        return _Text(f"{op}({', '.join(text.text for text in texts)})", _POSTFIX, depth)

    def _binary(self, node: Node, depth: int) -> _Text:
        a, b = node.args
        left, right = self._texts[a.number], self._texts[b.number]
        if node.op == "/":
            left, right = self._implicit(a), self._implicit(b)
        elif _converts(a) and _carries(b):
            left = self._implicit(a)
        elif _converts(b) and _carries(a):
            right = self._implicit(b)
        op = {"&": "&&", "|": "||"}.get(node.op, node.op) if node.type == "bool" else node.op
        level = _LEVELS[op]
        comparison = op in COMPARISONS
        # && and || group to either side with the same result; nothing else does.
        same = op in ("&&", "||")
        return _Text(f"{left.at(level + comparison)} {op} {right.at(level + (not same))}", level, depth)


def _parameters(leaves: Sequence[Leaf]) -> str:
    parts = []
    for leaf in leaves:
        extents = ", ".join("?" if extent is None else str(extent) for extent in leaf.extents)
        parts.append(f"{leaf.name}: {leaf.dtype}{f'[{extents}]' if leaf.rank >= 0 else ''}")
    if not parts:
        return ""
    line = f"({', '.join(parts)})"
    return line if len(line) <= _LINE - 12 else "(\n    " + ",\n    ".join(parts) + "\n)"


def write_variant(name: str, leaves: Sequence[Leaf], score: Node | None, mask: Node | None) -> str:
    """The text of a variant; the leaves have names."""
    lines = []
    for kind, root, coordinates in (("score_mod", score, "s, b, h, q, kv"), ("mask_mod", mask, "b, h, q, kv")):
        if root is None:
            continue
        body = _Body({leaf.name for leaf in leaves})
        result = body.write(root)
        head = f"  {kind}({coordinates}) {{"
        one_line = f"{head} return {result} }}"
        if not body.lets and len(one_line) <= _LINE + 8:
            lines.append(one_line)
        else:
            lines += [head, *(f"    {let}" for let in body.lets), f"    return {result}", "  }"]
    text = "\n".join(lines)
    return f"variant {name}{_parameters(leaves)} {{\n{text}\n}}\n" if lines else f"variant {name} {{}}\n"


def describe(node: Node) -> str:
    """One line about a node, for repr()."""
    leaves = [part.data for part in reachable([node]) if isinstance(part.data, Leaf)]
    named = [leaf for leaf in leaves if not leaf.name]
    for leaf in named:
        leaf.name = leaf.hint
    body = _Body(set())
    text = body.write(node)
    for leaf in named:
        leaf.name = ""
    return "; ".join([*body.lets, text])
