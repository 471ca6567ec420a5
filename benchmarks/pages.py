# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The benchmarks' tables in docs/performance.md."""

from __future__ import annotations

import pathlib

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def write_table(name: str, text: str) -> bool:
    """Replaces what lies between <!-- name --> and <!-- /name -->; False, with a message, if the page lacks them."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = PAGE.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        print(f"{PAGE} has no {begin} and {end}")
        return False
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    return True
