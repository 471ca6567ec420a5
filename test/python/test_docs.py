# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the documentation shows is true.

* Blocks after `<!-- run: ... -->` are what the command prints (scripts/update_docs.py).
* Blocks marked `heed` are programs that pass `heedc --check`; those marked `heed-error` are refused.
* On a page with `<!-- tested -->`, blocks marked `sh` run in order, in one directory and one shell, with $HEED the
  checkout and $HEED_BUILD the build; a block after `<!-- file: NAME -->` becomes that file; and a block marked `output` is what the `sh`
  block before it printed, where `...` stands for anything.
* Links to files of the checkout lead somewhere.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT, run_heedc

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
TESTED = "<!-- tested -->"


@dataclasses.dataclass
class Block:
    page: pathlib.Path
    line: int
    info: str
    text: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: pathlib.Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text().splitlines()
    i = 0
    while i < len(lines):
        fence = re.match(r"(`{3,})(.*)", lines[i])
        if not fence:
            i += 1
            continue
        end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[1])
        file = re.fullmatch(r"<!-- file: (\S+) -->", lines[i - 1]) if i else None
        found.append(Block(page, i + 1, fence[2].strip(), "".join(f"{line}\n" for line in lines[i + 1:end]),
                           file[1] if file else ""))
        i = end + 1
    return found


def programs(info: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.info == info]


def test_pasted_output() -> None:
    result = subprocess.run([sys.executable, str(ROOT / "scripts" / "update_docs.py"), "--check"],
                            capture_output=True, text=True, env={**os.environ, "HEED_BUILD": str(BUILD)}, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("block", programs("heed"), ids=str)
def test_program_is_valid(block: Block, tmp_path: pathlib.Path) -> None:
    (tmp_path / "page.heed").write_text(block.text)
    result = run_heedc("--check", tmp_path / "page.heed")
    assert result.returncode == 0, f"{block}:\n{result.stderr}"


@pytest.mark.parametrize("block", programs("heed-error"), ids=str)
def test_program_is_refused(block: Block, tmp_path: pathlib.Path) -> None:
    (tmp_path / "page.heed").write_text(block.text)
    result = run_heedc("--check", tmp_path / "page.heed")
    assert result.returncode == 1 and "error:" in result.stderr, f"{block} is accepted"


def matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if TESTED in page.read_text()],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # One script, so that variables and functions last; each block prints to a file of its own.
    script = ["set -euo pipefail", f"export PATH={shlex.quote(str(BUILD / 'bin'))}:$PATH",
              f"export HEED={shlex.quote(str(ROOT))} HEED_BUILD={shlex.quote(str(BUILD))}"]
    expected: list[tuple[Block, int]] = []
    count = 0
    for block in blocks(page):
        if block.file:
            target = tmp_path / block.file
            assert target.resolve().is_relative_to(tmp_path), f"{block} leaves the directory"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.info == "sh":
            script += [f"echo '{block}' >.current", "{", block.text, f"}} >.printed{count}"]
            count += 1
        elif block.info == "output":
            assert count, f"{block} has no command before it"
            expected.append((block, count - 1))
    environment = {name: value for name, value in os.environ.items() if name not in ("HEED_CPU", "HEED_NUM_THREADS")}
    result = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True,
                            text=True, timeout=300, stdin=subprocess.DEVNULL)
    where = (tmp_path / ".current").read_text().strip() if count else ""
    assert result.returncode == 0, f"{where} failed with {result.returncode}:\n{result.stdout}{result.stderr}"
    for block, number in expected:
        printed = (tmp_path / f".printed{number}").read_text()
        assert matches(block.text, printed), f"{block}: expected\n{block.text}\nfound\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: pathlib.Path) -> None:
    # Inline code may look like a link.
    text = re.sub(r"`[^`\n]*`", "", re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    broken = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = page.parent / link if link else page
        if "://" not in link and not link.startswith("mailto:") and (not target.exists() or anchor and anchor not in _anchors(target)):
            broken.append(f"{link}#{anchor}" if anchor else link)
    assert not broken, f"{page.relative_to(ROOT)} links to what is not there: {broken}"


def _anchors(page: pathlib.Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)]
    return {f"{name}-{headings[:i].count(name)}" if name in headings[:i] else name for i, name in enumerate(headings)}
