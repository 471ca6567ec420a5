# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The command line: python -m heed COMMAND ...

A command is a line of COMMANDS. To add one, write in its own module

    def add_arguments(parser: argparse.ArgumentParser) -> None: ...
    def run(arguments: argparse.Namespace) -> int: ...      # the exit status

(not here, and without importing this module, which Python runs as __main__) and name the module below: it is imported
when the command is given.
An OSError or ValueError that run raises is shown as one line, with exit status 1; what argparse
refuses has exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import heed
from heed import cache


class Command(NamedTuple):
    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def format_size(size: int) -> str:
    """Bytes for people: "17 B", "1.5 MiB"."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:  # prints as less than 1024.0
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def _count(entries: int) -> str:
    return f"{entries} entry" if entries == 1 else f"{entries} entries"


def _add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("info", help="show where the cache is and how full")
    actions.add_parser("clear", help="remove all entries")


def _run_cache(arguments: argparse.Namespace) -> int:
    kernels = cache.default_cache()
    if arguments.action == "clear":
        removed = kernels.remove_all()
        print(f"removed {_count(removed.entries)}, {format_size(removed.bytes)}")
        return 0
    info = kernels.info()
    if info.enabled and info.reason is not None:
        raise OSError(f"cannot use {info.directory}: {info.reason}")
    print(f"directory  {info.directory or 'none'}")
    print(f"entries    {info.entries}")
    print(f"size       {format_size(info.bytes)} of {format_size(info.max_bytes)}")
    print(f"formats    {', '.join(f'v{version}' for version in info.versions) or 'none'}")
    if not info.enabled:
        print(f"disabled   {info.reason}")
    print(f"writable   {'yes' if info.writable else 'no'}")
    return 0


def _imported(name: str, help: str, module: str) -> Command:
    """A command of a module that is imported when it is needed."""
    def call(function: str, argument: Any) -> Any:
        return getattr(importlib.import_module(module), function)(argument)

    return Command(name, help, lambda parser: call("add_arguments", parser), lambda arguments: call("run", arguments))


COMMANDS: list[Command] = [
    Command("cache", "show or clear the cache of compiled kernels", _add_cache_arguments, _run_cache),
    _imported("viz", "draw which blocks a mask skips, and say why", "heed.viz"),
    _imported("explain", "show what the compiler decides about a variant", "heed.explain"),
    _imported("tune", "find a variant's fastest schedule on a GPU", "heed.tune_command"),
]


def _version() -> str:
    try:
        return str(getattr(heed, "__version__", None) or importlib.metadata.version("heed"))
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status. Raises SystemExit as argparse does."""
    parser = argparse.ArgumentParser(prog="python -m heed", description=(heed.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"heed {_version()}")
    given = sys.argv[1:] if arguments is None else arguments
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        if command.name in given:
            command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(given)
    try:
        status = int(parsed.run(parsed))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head`: whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except (OSError, ValueError, MemoryError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is None:
            message = error.strerror  # Heed's own text, without "[Errno 13]"
        print(f"heed {parsed.command}: error: {' '.join(message.split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
