# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How a captured value is reached from the user's functions, and under which conditions a trace holds.

While tracing, each captured value is known by its Path (closure cell 0 of the mask_mod, then attribute
`bias`, ...) and each fact that the trace relies on becomes a Guard. `compile_fetch` makes one Python
function of them: it reads everything anew, checks the guards, and gives the values in the order of the
parameters, or None where this trace does not hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

Fetch = Callable[[Any, Any], "list[Any] | None"]


class Path:
    """A way to compute a value: a template over other paths' values and constants.

    `{0}`, `{1}`, ... stand for `bases`; the constants get names that the template holds as `{c0}`, ...
    A fetch evaluates each path at most once.
    """

    __slots__ = ("template", "bases", "constants", "_derived")

    def __init__(self, template: str, bases: Sequence["Path"] = (), constants: Sequence[Any] = ()) -> None:
        self.template = template
        self.bases = tuple(bases)
        self.constants = tuple(constants)
        self._derived: dict[Any, Path] = {}

    def derive(self, template: str, *constants: Any, bases: Sequence["Path"] = ()) -> "Path":
        """A path from this one and `bases`; the same one when asked again."""
        key = (template, *map(id, bases), *((type(c), c) if isinstance(c, (int, str)) else id(c) for c in constants))
        path = self._derived.get(key)
        if path is None:
            path = self._derived[key] = Path(template, [self, *bases], constants)
        return path

    def attribute(self, name: str) -> "Path":
        return self.derive(f"{{0}}.{name}") if name.isidentifier() else self.derive("getattr({0}, {c0})", name)

    def item(self, key: Any) -> "Path":
        return self.derive("{0}[{c0}]", key)

    def apply(self, function: Any, *args: Any) -> "Path":
        """function(value, *args), where args are constants."""
        names = "".join(f", {{c{i + 1}}}" for i in range(len(args)))
        return self.derive(f"{{c0}}({{0}}{names})", function, *args)

    def method(self, name: str, *args: Any, **kwargs: Any) -> "Path":
        if kwargs or any(type(arg) is not int for arg in args):
            return self.derive(f"{{0}}.{name}(*{{c0}}, **{{c1}})", args, kwargs)
        return self.derive(f"{{0}}.{name}({', '.join(map(str, args))})")


@dataclasses.dataclass(frozen=True)
class Guard:
    """`test` is a template over the value `{0}`, a second path's value `{1}` and constants; true: it holds."""

    test: str
    paths: tuple[Path, ...]
    constants: tuple[Any, ...] = ()


class _Writer:
    """The text of a fetch function."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.namespace: dict[str, Any] = {}
        self._values: dict[int, str] = {}
        self._constants: dict[int, str] = {}
        self._keep: list[Path] = []

    def constant(self, value: Any) -> str:
        if type(value) in (int, bool, str) or value is None:
            return repr(value)
        name = self._constants.get(id(value))
        if name is None:
            name = self._constants[id(value)] = f"c{len(self._constants)}"
            self.namespace[name] = value
        return name

    def fill(self, template: str, paths: Sequence[Path], constants: Sequence[Any]) -> str:
        names = {f"c{i}": self.constant(value) for i, value in enumerate(constants)}
        return template.format(*map(self.value, paths), **names)

    def value(self, path: Path) -> str:
        """The variable that holds a path's value; bases first, without recursion into long chains."""
        pending = [path]
        while pending:
            top = pending[-1]
            missing = [base for base in top.bases if id(base) not in self._values]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            if id(top) not in self._values:
                names = {f"c{i}": self.constant(value) for i, value in enumerate(top.constants)}
                text = top.template.format(*(self._values[id(base)] for base in top.bases), **names)
                if not text.isidentifier():
                    name = f"x{len(self._values)}"
                    self.lines.append(f"{name} = {text}")
                    text = name
                self._values[id(top)] = text
                self._keep.append(top)  # so that no other path gets its id
        return self._values[id(path)]


def compile_fetch(guards: Sequence[Guard], values: Sequence[Path]) -> Fetch:
    """The guard-and-fetch function of a trace, of the score_mod and the mask_mod."""
    writer = _Writer()
    for guard in guards:
        test = writer.fill(guard.test, guard.paths, guard.constants)
        writer.lines.append(f"if not ({test}): return None")
    result = ", ".join(writer.value(path) for path in values)
    body = "\n        ".join([*writer.lines, f"return [{result}]"])
    # Whatever goes wrong on the way (a cell is empty, an attribute is gone), the trace does not hold.
    text = f"def fetch(score_mod, mask_mod):\n    try:\n        {body}\n    except Exception:\n        return None\n"
    exec(compile(text, "<heed fetch>", "exec"), writer.namespace)
    fetch: Fetch = writer.namespace["fetch"]
    return fetch
