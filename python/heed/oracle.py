# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The float64 interpreter, on NumPy arrays: what a kernel should have computed.

    rows = [(0, 3, 17), (0, 4, 200)]                      # (b, h, q)
    output, lse = oracle.rows("alibi.heed", q, k, v, rows, params={"slope": slopes})

The interpreter shares the front end with the compiler and nothing after it. Slow: meant for samples.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heed import _compiler

SKIPPED, PARTIAL, FULL = 0, 1, 2
_NAMES = {"bool": "bool", "int8": "i8", "int32": "i32", "int64": "i64", "float16": "f16",
          "uint16": "bf16", "float32": "f32", "float64": "f64"}


class Request:
    """A request and the files that it names."""

    def __init__(self, directory: str) -> None:
        self._directory = pathlib.Path(directory)
        self.content: dict[str, Any] = {}

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def array(self, name: str, array: np.ndarray) -> dict[str, Any]:
        np.ascontiguousarray(array).tofile(self.path(name))
        return {"path": self.path(name), "dtype": _NAMES[array.dtype.name], "shape": list(array.shape)}

    def params(self, params: Mapping[str, Any]) -> None:
        self.content["params"] = {
            name: self.array(f"param-{name}", value) if isinstance(value, np.ndarray) else value
            for name, value in params.items()}

    def send(self, program: str | os.PathLike[str], variant: str | None, defines: Sequence[str]) -> None:
        """HeedError if the program or the request is wrong."""
        source = pathlib.Path(program).read_text(encoding="utf-8", errors="surrogateescape")
        given = dict(define.split("=", 1) for define in defines)
        _compiler.interpret(_compiler.Request(source, str(program), variant, defines=given), self.content)


def rows(program: str | os.PathLike[str], query: np.ndarray, key: np.ndarray, value: np.ndarray,
         at: Sequence[tuple[int, int, int]], *, params: Mapping[str, Any] = {}, scale: float | None = None,
         variant: str | None = None, defines: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Rows (b, h, q) of the output and their log-sum-exp. bf16 arrays are uint16 bits."""
    batch = (query.shape[0],)
    with tempfile.TemporaryDirectory(prefix="heed-oracle-") as directory:
        request = Request(directory)
        for name, array in (("query", query), ("key", key), ("value", value)):
            request.content[name] = request.array(name, np.broadcast_to(array, batch + array.shape[1:]))
        if scale is not None:
            request.content["scale"] = scale
        request.params(params)
        request.content["rows"] = {"at": [[int(i) for i in row] for row in at],
                                   "output": request.path("output"), "lse": request.path("lse")}
        request.send(program, variant, defines)
        output = np.fromfile(request.path("output"), np.float64).reshape(len(at), value.shape[3])
        return output, np.fromfile(request.path("lse"), np.float64)


def classes(program: str | os.PathLike[str], extents: Mapping[str, int], *, block_q: int, block_kv: int,
            b: int = 0, h: int = 0, params: Mapping[str, Any] = {}, variant: str | None = None,
            defines: Sequence[str] = ()) -> np.ndarray:
    """The class of each block, query blocks x key blocks: SKIPPED, PARTIAL or FULL.

    `extents` gives B, Hq, Hkv, Sq, Skv, D and Dv; what is missing is 1."""
    with tempfile.TemporaryDirectory(prefix="heed-oracle-") as directory:
        request = Request(directory)
        request.content["extents"] = dict(extents)
        request.params(params)
        request.content["classes"] = {"b": b, "h": h, "block_q": block_q, "block_kv": block_kv,
                                      "output": request.path("classes")}
        request.send(program, variant, defines)
        shape = (-(-extents["Sq"] // block_q), -(-extents["Skv"] // block_kv))
        return np.fromfile(request.path("classes"), np.int8).reshape(shape)


def pairs(program: str | os.PathLike[str], extents: Mapping[str, int], *, b: int = 0, h: int = 0,
          params: Mapping[str, Any] = {}, variant: str | None = None, defines: Sequence[str] = ()) -> np.ndarray:
    """For each query, how many keys it attends to."""
    with tempfile.TemporaryDirectory(prefix="heed-oracle-") as directory:
        request = Request(directory)
        request.content["extents"] = dict(extents)
        request.params(params)
        request.content["pairs"] = {"b": b, "h": h, "output": request.path("pairs")}
        request.send(program, variant, defines)
        return np.fromfile(request.path("pairs"), np.int64)
