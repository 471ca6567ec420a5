# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs named items in a process that may hang or die, and starts it again for the items that are left.

The process tells what it does in a file of JSON lines, EVENTS:

    {"event": "plan", "names": [...]}    what it is going to run
    {"event": "start", "name": ...}      then for each of them
    {"event": "end", "name": ..., ...}   with whatever else is to be known of it

When it starts it leaves out what the file says was started before (`started`). An item that exceeds its time, or that the
process died in, gets an end from here, with "outcome": "failed" and a "message".
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time
from typing import Any, TextIO

Event = dict[str, Any]
OUT_OF_TIME = "the time for all was up"  # the message of an item that was under way then


def read(path: pathlib.Path) -> list[Event]:
    """All events; a line that is still being written is left out."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write(path: pathlib.Path, event: str, **fields: Any) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")


def started(path: pathlib.Path) -> set[str]:
    return {event["name"] for event in read(path) if event["event"] == "start"}


@dataclasses.dataclass
class Outcome:
    planned: list[str]
    ends: dict[str, Event]
    problem: str  # of the process rather than of an item, or ""
    seconds: float

    @property
    def missing(self) -> list[str]:
        """What was planned and not run."""
        return [name for name in self.planned if name not in self.ends]


def run(command: list[str], events: pathlib.Path, log: pathlib.Path, environment: dict[str, str], *, item_limit: float,
        startup_limit: float, deadline: float, restarts: int = 6) -> Outcome:
    """`item_limit`: seconds for an item, `startup_limit`: until something happens, `deadline`: of time.time()."""
    begin, problem = time.time(), ""
    events.unlink(missing_ok=True)
    with log.open("w") as output:
        for _ in range(1 + restarts):
            before = len(started(events))
            problem = _run_once(command, events, output, environment, item_limit, startup_limit, deadline)
            seen = read(events)
            done = {event["name"] for event in seen if event["event"] == "start"}
            planned = [name for event in seen if event["event"] == "plan" for name in event["names"]]
            if done >= set(planned) or len(done) == before or time.time() > deadline:
                break
    seen = read(events)
    planned = list(dict.fromkeys(name for event in seen if event["event"] == "plan" for name in event["names"]))
    ends = {event["name"]: event for event in seen if event["event"] == "end"}
    if not planned and not problem:
        problem = "planned nothing"
    return Outcome(planned, ends, problem, time.time() - begin)


def _run_once(command: list[str], events: pathlib.Path, output: TextIO, environment: dict[str, str], item_limit: float,
              startup_limit: float, deadline: float) -> str:
    """Why the process itself failed, or ""."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                               env={**os.environ, **environment}, start_new_session=True)
    last, problem = time.time(), ""
    while not problem:
        try:
            process.wait(0.2)
            break
        except subprocess.TimeoutExpired:
            pass
        seen = read(events)
        if seen:
            last = max(last, seen[-1]["time"])
        limit = item_limit if _open_item(seen) else startup_limit
        if time.time() > deadline:
            problem = OUT_OF_TIME
        elif time.time() - last > limit:
            problem = f"hangs: nothing happened for {limit:.0f} s"
    if problem:
        _kill(process)
    elif process.returncode < 0:
        problem = f"died of {signal.Signals(-process.returncode).name}"
    elif process.returncode not in (0, 1):
        problem = f"exit status {process.returncode}"
    if name := _open_item(read(events)):
        write(events, "end", name=name, outcome="failed", message=problem or f"ended within it, exit status {process.returncode}")
        return ""
    return problem


def _open_item(seen: list[Event]) -> str:
    """The item that was started and has not ended."""
    steps = [event for event in seen if event["event"] in ("start", "end")]
    return str(steps[-1]["name"]) if steps and steps[-1]["event"] == "start" else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: what it started goes with it
    except ProcessLookupError:
        pass
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        pass  # the driver has not let go of it yet
