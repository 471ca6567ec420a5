# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the pages about Python show is true: they are run from top to bottom.

On a page that has blocks marked `python`

* these run in one process and one namespace, in the order of the page, in a directory of their own;
* blocks marked `sh` run between them, each in a bash of its own, with heedc, cc and this Python's `python` on PATH,
  $HEED the checkout and $HEED_BUILD the build; a block after `<!-- file: NAME -->` becomes that file;
* a block marked `output` is what the block before it printed, where `...` stands for anything, and spaces at the end
  of a line do not count;
* the block after `<!-- raises -->` raises an exception, which counts as printed: `Type: message`;
* the block after `<!-- needs: NAME -->` is left out where the module NAME is missing; with an empty line behind it, the
  comment is about the whole page.

`py` marks signatures, which are not run. What test_docs.py says about all pages holds for these too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import BUILD, ROOT
from test_docs import PAGES, TESTED, Block, blocks, matches

# Runs in a process of its own. Blocks are compiled at their lines of the page, so that messages about a line quote it.
RUNNER = r"""
import contextlib, json, subprocess, sys, types

page = sys.modules["__main__"] = types.ModuleType("__main__")

def run(block):
    if block["info"] == "sh":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block["text"]], check=True, stdin=subprocess.DEVNULL,
                       stdout=open(block["printed"], "w"))
        return
    with open(block["printed"], "w") as file, contextlib.redirect_stdout(file):
        code = compile("\n" * block["line"] + block["text"], block["page"], "exec")
        try:
            exec(code, page.__dict__)
        except Exception as error:
            if not block["raises"]:
                raise
            print(f"{type(error).__name__}: {error}")
        else:
            if block["raises"]:
                raise SystemExit("expected this block to raise an exception")

for block in json.load(open(sys.argv[1])):
    with open(sys.argv[1] + ".current", "w") as file:
        file.write(block["name"])
    run(block)
"""


def directive(block: Block, name: str) -> str | None:
    """The text of a comment `<!-- name: text -->` or `<!-- name -->` in the lines right before a block."""
    lines = block.page.read_text().splitlines()[:block.line - 1]
    while lines and (comment := re.fullmatch(r"<!-- (\w+)(?:: (.*))? -->", lines.pop())):
        if comment[1] == name:
            return comment[2] or ""
    return None


def is_missing(module: str | None) -> bool:
    return module is not None and importlib.util.find_spec(module) is None


def snippet_pages() -> list[pathlib.Path]:
    return [page for page in PAGES if any(block.info == "python" for block in blocks(page))]


def test_there_are_pages() -> None:
    names = {str(page.relative_to(ROOT)) for page in snippet_pages()}
    assert names >= {"README.md", "docs/tutorial.md", "docs/flex_attention.md", "docs/python_api.md"}


@pytest.mark.slow
@pytest.mark.parametrize("page", snippet_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = page.read_text()
    assert TESTED not in text, "test_docs.py would run the sh blocks of this page, too"
    if (needed := re.search(r"^<!-- needs: (\w+) -->\n\n", text, re.MULTILINE)) and is_missing(needed[1]):
        pytest.skip(f"{needed[1]} is not installed")

    work, printed = tmp_path / "work", tmp_path / "printed"
    for directory in (work, printed, tmp_path / "bin"):
        directory.mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    steps: list[dict[str, object]] = []
    expected: list[tuple[Block, pathlib.Path]] = []
    left_out: list[str] = []
    last: pathlib.Path | None = None  # what the block before printed, if it runs
    for block in blocks(page):
        if block.file:
            (work / block.file).write_text(block.text)
        elif block.info in ("python", "sh"):
            last = None
            if is_missing(module := directive(block, "needs")):
                left_out.append(f"{block} for lack of {module}")
                continue
            last = printed / str(len(steps))
            steps.append({"name": str(block), "page": str(page), "line": block.line, "info": block.info,
                          "text": block.text, "printed": str(last), "raises": directive(block, "raises") is not None})
        elif block.info == "output" and last is not None:
            expected.append((block, last))

    (tmp_path / "steps.json").write_text(json.dumps(steps))
    environment = {name: value for name, value in os.environ.items() if name not in ("HEED_CPU", "HEED_NUM_THREADS")}
    path = [str(tmp_path / "bin"), str(BUILD / "bin"), os.environ["PATH"]]
    python_path = [str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PATH": os.pathsep.join(path), "PYTHONPATH": os.pathsep.join(python_path), "HEED": str(ROOT),
                    "HEED_BUILD": str(BUILD), "HEED_CACHE_DIR": str(tmp_path / "cache"),
                    "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    result = subprocess.run([sys.executable, "-c", RUNNER, str(tmp_path / "steps.json")], cwd=work, env=environment,
                            capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    current = (tmp_path / "steps.json.current").read_text() if steps else ""
    assert result.returncode == 0, f"{current} failed with {result.returncode}:\n{result.stdout}{result.stderr}"
    for block, found in expected:
        text = "".join(f"{line.rstrip()}\n" for line in found.read_text().splitlines())
        assert matches(block.text, text), f"{block}: expected\n{block.text}\nfound\n{text}"
    if left_out:
        pytest.skip(f"all but this ran: {', '.join(left_out)}")
