#!/usr/bin/env python3
# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Pastes the output of commands into the documentation, so that what a page shows is what the tools print.

A block is a comment with a command, and the fenced block right after it:

    <!-- run: heedc examples/alibi.heed --emit=attn --head-dim=64 | excerpt attn.score '^ +}$' -->
    ```mlir
    ...replaced by what the command prints...
    ```

Commands run in bash at the root of the checkout, with the tools of the build directory (HEED_BUILD, default build/)
on PATH. A command that fails, or prints nothing or very much, is an error. Beside the usual programs they may use

    excerpt FROM [TO]   the lines from the first one that matches FROM to the next one that matches TO; without
                        TO that one line (awk's regular expressions)
    around PATTERN B A  the first line that matches, B lines before it and A after it
    block PATTERN       the basic block, of LLVM IR or assembly, with the first match in it: label to label
    renumber            names %0, %1, ... by first appearance, so that code added elsewhere does not show
    asm [reg=a,b] [mem=c,d]
                        the same for x86 assembly: vector registers are numbered by first appearance, and general
                        registers and memory operands get the given names in that order; unindented, spaces for tabs
    undent              removes the indentation that all lines have in common

With --check nothing is written; stale pages are shown as a diff, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()

BLOCK = re.compile(r"^<!-- run: (?P<command>.*?) -->\n(?P<fence>`{3,})(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=fence)$",
                   re.MULTILINE | re.DOTALL)

PRELUDE = r"""
set -euo pipefail
filter() { "$HEED_PYTHON" scripts/update_docs.py --filter "$@"; }
excerpt() { awk -v from="$1" -v to="${2-}" '
  !seen && $0 ~ from { seen = 1; on = 1; print; if (to == "") on = 0; next }
  on { print; if ($0 ~ to) on = 0 }'; }
around() { awk -v at="$1" -v before="$2" -v after="$3" '
  !seen { line[NR] = $0 }
  !seen && $0 ~ at { seen = NR; for (i = NR - before; i <= NR; ++i) if (i in line) print line[i]; next }
  seen && NR <= seen + after { print }'; }
block() { awk -v at="$1" '
  function flush() { if (hit && !done) { printf "%s", text; done = 1 } text = ""; hit = 0 }
  /^[^ \t#;].*:/ { flush() }
  { text = text $0 "\n" }
  $0 ~ at { hit = 1 }
  END { flush() }'; }
renumber() { filter renumber; }
asm() { filter asm "$@"; }
undent() { filter undent; }
"""

# Widest first: %eax is a register of its own in the text.
GENERAL_REGISTER = re.compile(r"%(?:r[a-d]x|r[sd]i|r[bs]p|r\d+[dwb]?|e[a-d]x|e[sd]i|e[bs]p)\b")
VECTOR_REGISTER = re.compile(r"%([xyz]mm)\d+")
# A page that shows more than this shows it by mistake.
MOST_LINES = 60
MEMORY = re.compile(r"(?:-?\d+|\.LCPI\d+_\d+)?\(%[^)]*\)")


class Names:
    """Gives each text a name when it first appears: the given ones, then `prefix` and a number."""

    def __init__(self, given: list[str], prefix: str) -> None:
        self._free = list(given)
        self._prefix = prefix
        self._names: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        if text not in self._names:
            self._names[text] = self._free.pop(0) if self._free else f"{self._prefix}{len(self._names)}"
        return self._names[text]


def undent(text: str) -> str:
    return textwrap.dedent(text)


def renumber(text: str) -> str:
    kinds = {"%": Names([], "%"), "%cst_": Names([], "%cst"), "%.not": Names([], "%not")}
    return undent(re.sub(r"(%|%cst_|%\.not)\d+\b", lambda m: kinds[m[1]](m[0]), text))


def asm(text: str, *options: str) -> str:
    given = dict(option.split("=", 1) for option in options)
    registers = Names([f"%{n}" for n in given.get("reg", "").split(",") if n], "%gpr")
    memory = Names([n for n in given.get("mem", "").split(",") if n], "mem")
    vectors = Names([], "")
    lines = []
    for line in text.splitlines():
        line = " ".join(line.split("\t")).strip()
        line = MEMORY.sub(lambda m: f"[{memory(m.group())}]", line)
        line = GENERAL_REGISTER.sub(lambda m: registers(m.group()), line)
        line = VECTOR_REGISTER.sub(lambda m: f"%{m.group(1)}{vectors(m.group())}", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


FILTERS = {"undent": undent, "renumber": renumber, "asm": asm}


class CommandError(Exception):
    pass


def output(command: str) -> str:
    environment = {**os.environ, "HEED_PYTHON": sys.executable, "LC_ALL": "C",
                   "PATH": f"{BUILD / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", PRELUDE + command], cwd=ROOT, env=environment, capture_output=True,
                            text=True, timeout=120)
    if result.returncode != 0:
        raise CommandError(f"exit status {result.returncode}: {command}\n{result.stderr.strip()}")
    if not result.stdout.strip():
        raise CommandError(f"prints nothing: {command}")
    lines = result.stdout.splitlines()
    if len(lines) > MOST_LINES:
        raise CommandError(f"prints {len(lines)} lines, at most {MOST_LINES} can be wanted: {command}")
    return "".join(line.rstrip() + "\n" for line in lines)


def update(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        fence = match["fence"]
        body = output(" ".join(match["command"].split()))
        if fence in body:
            raise CommandError(f"prints a fence: {match['command']}")
        return f"<!-- run: {match['command']} -->\n{fence}{match['info']}\n{body}{fence}"
    return BLOCK.sub(replace, text)


def pages() -> list[pathlib.Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def main() -> int:
    if sys.argv[1:2] == ["--filter"]:
        sys.stdout.write(FILTERS[sys.argv[2]](sys.stdin.read(), *sys.argv[3:]))
        return 0
    parser = argparse.ArgumentParser(description="Pastes the output of commands into the documentation.")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("pages", nargs="*", type=pathlib.Path, help="default: all")
    options = parser.parse_args()
    status = 0
    for page in options.pages or pages():
        name = os.path.relpath(page, ROOT)
        before = page.read_text()
        try:
            after = update(before)
        except CommandError as error:
            print(f"{name}: {error}")
            status = 1
            continue
        if after == before:
            continue
        if options.check:
            print(f"{name} is out of date; run scripts/update_docs.py")
            sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "page", "tools"))
            status = 1
        else:
            page.write_text(after)
            print(f"wrote {name}")
    return status


if __name__ == "__main__":
    sys.exit(main())
