# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command line: `python -m heed cache`, and what all commands of `python -m heed` share."""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys

import pytest
from cache_helpers import KEY, fill
from cache_helpers import cache_folder, clean_settings  # noqa: F401

import heed.__main__ as command_line
from heed import cache
from heed.cache import DiskCache


def heed_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = command_line.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command_info_and_clear(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEED_CACHE_DIR", str(folder))
    monkeypatch.setenv("HEED_CACHE_SIZE", "3M")
    fill(DiskCache(), folder, 2)
    assert heed_command(capsys, "cache", "info") == (0, f"directory  {folder}\n"
                                                        "entries    2\n"
                                                        "size       2.2 KiB of 3.0 MiB\n"
                                                        "formats    v1\n"
                                                        "writable   yes\n", "")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 2 entries, 2.2 KiB\n", "")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 0 entries, 0 B\n", "")
    DiskCache().put(KEY, b"")
    assert heed_command(capsys, "cache", "clear") == (0, "removed 1 entry, 84 B\n", "")
    monkeypatch.setenv("HEED_CACHE_DISABLE", "1")
    status, output, _ = heed_command(capsys, "cache", "info")
    assert status == 0 and "disabled   HEED_CACHE_DISABLE is set\nwritable   no\n" in output


@pytest.mark.parametrize(("action", "message"), [("info", "cannot use {}: Not a directory"),
                                                 ("clear", "cannot clear the kernel cache {}: Not a directory")])
def test_command_errors_are_a_line(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, action: str, message: str,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_text("")
    monkeypatch.setenv("HEED_CACHE_DIR", str(folder))
    assert heed_command(capsys, "cache", action) == (1, "", f"heed cache: error: {message.format(folder)}\n")


def test_commands_are_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_echo(arguments: argparse.Namespace) -> int:
        if arguments.text == "bad":
            raise ValueError("no such\nvariant")
        return 7

    def add_text(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("text")

    echo = command_line.Command("echo", "say it again", add_text, run_echo)
    monkeypatch.setattr(command_line, "COMMANDS", [*command_line.COMMANDS, echo])
    assert heed_command(capsys, "echo", "good") == (7, "", "")
    assert heed_command(capsys, "echo", "bad") == (1, "", "heed echo: error: no such variant\n")
    with pytest.raises(SystemExit) as raised:
        command_line.main(["--help"])
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert "cache" in output and "say it again" in output


@pytest.mark.parametrize("arguments", [[], ["cache"], ["cache", "fill"], ["dance"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line.main(arguments)
    assert raised.value.code == 2
    assert "usage: python -m heed" in capsys.readouterr().err


def test_python_dash_m_heed(folder: pathlib.Path) -> None:
    environment = {**os.environ, "HEED_CACHE_DIR": str(folder),
                   "PYTHONPATH": str(pathlib.Path(cache.__file__).parents[1])}
    for arguments, expected in ((["--version"], "heed "), (["cache", "info"], f"directory  {folder}\n")):
        result = subprocess.run([sys.executable, "-m", "heed", *arguments], capture_output=True, text=True,
                                env=environment)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith(expected)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"),
                                            (1 << 20, "1.0 MiB"), (5 << 29, "2.5 GiB"), (3 << 40, "3.0 TiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert command_line.format_size(size) == text
