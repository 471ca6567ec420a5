# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""scripts/watched.py: what hangs and what dies takes nothing else along."""

from __future__ import annotations

import pathlib
import sys
import time

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "scripts"))

import watched  # noqa: E402

PROGRAM = """
import os, pathlib, sys, time
sys.path.append({scripts!r})
import watched
events = pathlib.Path({events!r})
before = watched.started(events)
names = [name for name in {names!r} if name not in before]
watched.write(events, "plan", names=names)
for name in names:
    watched.write(events, "start", name=name)
    if name == "hangs":
        time.sleep(60)
    if name == "dies":
        os.abort()
    if name == "leaves":
        sys.exit(77)
    watched.write(events, "end", name=name, outcome="passed")
    if name == "last words":
        sys.exit(77)
"""


def run(tmp_path: pathlib.Path, names: list[str], seconds: float = 60, program: str = PROGRAM) -> watched.Outcome:
    script, events = tmp_path / "program.py", tmp_path / "events"
    script.write_text(program.format(scripts=str(ROOT / "scripts"), events=str(events), names=names))
    return watched.run([sys.executable, str(script)], events, tmp_path / "log", {}, item_limit=1.5, startup_limit=20,
                       deadline=time.time() + seconds)


@pytest.mark.slow
def test_each_item_has_an_end(tmp_path: pathlib.Path) -> None:
    outcome = run(tmp_path, ["a", "hangs", "b", "dies", "leaves", "c", "last words", "d"])
    assert not outcome.missing and not outcome.problem
    assert {name: end["outcome"] for name, end in outcome.ends.items()} == {
        "a": "passed", "hangs": "failed", "b": "passed", "dies": "failed", "leaves": "failed", "c": "passed",
        "last words": "passed", "d": "passed"}
    assert "hangs" in outcome.ends["hangs"]["message"] and "SIGABRT" in outcome.ends["dies"]["message"]
    assert "77" in outcome.ends["leaves"]["message"]


@pytest.mark.slow
def test_time_is_up(tmp_path: pathlib.Path) -> None:
    outcome = run(tmp_path, ["a", "hangs", "b"], seconds=1)
    assert outcome.ends["a"]["outcome"] == "passed" and outcome.missing == ["b"]


def test_nothing_runs(tmp_path: pathlib.Path) -> None:
    outcome = run(tmp_path, [], program="raise SystemExit('no')")
    assert outcome.problem == "planned nothing"
    assert run(tmp_path, [], program="import os; os.abort()").problem == "died of SIGABRT"
