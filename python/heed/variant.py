# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Variants, and how they become kernels: compiled once, then taken from memory or from the disk cache."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import pathlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from heed import _compiler, arrays, cache, gpu, hot, tracing
from heed._runtime import DTYPES, HeedError
from heed.arrays import Array
from heed.kernel import Kernel, load_shared

QUERY_DTYPES = ("f16", "bf16", "f32")
_SYMBOL = "heed_jit"
# Spellings that people bring from torch and NumPy.
_DTYPE_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float": "f32", "half": "f16",
                **{name: name for name in QUERY_DTYPES}}


def dtype_name(dtype: Any) -> str:
    """"f32", "bf16" or "f16", of such a word or a dtype of NumPy or torch."""
    text = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    try:
        return _DTYPE_NAMES[text.removeprefix("torch.")]
    except KeyError:
        raise HeedError(f"dtype: expected f32, bf16 or f16, found {dtype!r}") from None


class Variant:
    """A variant of a program in the Heed language, compiled when a call shows the element type and head dims.

        gemma2 = heed.load("gemma2.heed")
        output = gemma2(query, key, value, window=4096)
    """

    def __init__(self, source: str, file_name: str = "<source>", name: str | None = None,
                 defines: Mapping[str, Any] | None = None, digest: str | None = None) -> None:
        """`name`: of the variant, None for the only one. `defines`: scalars to compile in. `digest`: of what the source
        means, where that is known already. HeedError holds the compiler's messages if the program is wrong."""
        self.source = source
        self.file_name = file_name
        self.defines = dict(defines or {})
        self.name = name
        self._digest = digest
        self._kernels: dict[tuple[str, int, int, str, str], Kernel] = {}
        self._classifiers: dict[str, Kernel] = {}  # by target
        self._lock = threading.Lock()

    @property
    def params(self) -> list[dict[str, Any]]:
        """Name, type, extents and default of each parameter."""
        found = {v["name"]: v["params"] for v in _compiler.variants(self.source, self.file_name, self.defines)}
        name = self.name or (next(iter(found)) if len(found) == 1 else None)
        if name not in found:
            raise HeedError(f"'{self.file_name}' has several variants; choose one of {', '.join(found)}" if name is None
                            else f"no variant '{name}' in '{self.file_name}' (there: {', '.join(found)})")
        params: list[dict[str, Any]] = found[name]
        return params

    def _request(self, dtype: str, head_dim: int, value_head_dim: int, target: str, symbol: str | None,
                 options: str = "") -> _compiler.Request:
        return _compiler.Request(self.source, self.file_name, self.name, symbol, target, self.defines, dtype, head_dim,
                                 value_head_dim, options)

    def emit(self, kind: str, dtype: Any = "f32", head_dim: int = 64, value_head_dim: int | None = None,
             target: str = "native") -> str:
        """What the compiler makes of it, as text: "attn", "tile", "llvm", "asm" or "header"."""
        if kind not in _compiler.EMIT or kind == "obj":
            raise HeedError(f"kind: expected attn, tile, llvm, asm or header, found {kind!r}")
        request = self._request(dtype_name(dtype), *_head_dims(head_dim, value_head_dim), _text("target", target), None)
        return _compiler.compile(request, kind).decode()

    def compile(self, dtype: Any = "f32", head_dim: int = 64, value_head_dim: int | None = None,
                target: str = "native", symbol: str | None = None) -> Kernel:
        """The kernel for an element type and head dims (1 to 576); `symbol` is its C name in saved files.

        `target` is a CPU level, a GPU architecture, or several ("x86-64-v3,x86-64-v4", "sm_90a,sm_80,native"), which share
        one object. HeedError if the program or an argument is wrong."""
        request = self._request(dtype_name(dtype), *_head_dims(head_dim, value_head_dim), _text("target", target),
                                None if symbol is None else _text("symbol", symbol))
        content = _compiler.compile(request, "obj")
        name = symbol or _default_symbol(content)
        return _load(content, name, lambda: _compiler.compile(request, "header").decode())

    def kernel(self, dtype: str, head_dim: int, value_head_dim: int, device: int | None = None, options: str = "") -> Kernel:
        """The kernel for this machine's CPU or one of its GPUs, from memory or the disk cache where possible. `options`:
        schedule overrides; of them CPUs know walk=.

        For a GPU it is the code that most calls need. That for arrays which the copy engine cannot take is compiled when
        the first one comes."""
        if device is None:
            return self._kernel((dtype, head_dim, value_head_dim, _compiler.native_target(), _only(options, "walk")))
        key = (dtype, head_dim, value_head_dim, gpu.target(device))
        kernel = self._kernel((*key, _with(options, "aligned_only")))
        if kernel.portable is None:
            # Overrides were meant for the other code; these are about results.
            kept = _only(options, "tf32", "strict_math", "walk")
            kernel.portable = lambda: self._kernel((*key, _with(kept, "no_wgmma")))
        return kernel

    def _kernel(self, key: tuple[str, int, int, str, str]) -> Kernel:
        kernel = self._kernels.get(key)
        if kernel is None:
            with self._lock:
                kernel = self._kernels.get(key)
                if kernel is None:
                    request = self._request(*key[:4], _SYMBOL, key[4])
                    kernel = self._kernels[key] = _cached(self.cache_digest(), request)
        return kernel

    def classifier(self, device: int | None = None) -> Kernel:
        """What classifies blocks of the mask on this machine's CPU or one of its GPUs, from memory or the disk cache where
        possible."""
        target = _compiler.native_target() if device is None else gpu.target(device)
        with self._lock:
            if target not in self._classifiers:
                request = self._request("f32", 64, 64, target, _SYMBOL)
                self._classifiers[target] = _cached(self.cache_digest(), request, "classifier")
        return self._classifiers[target]

    def alternatives(self, dtype: str, head_dim: int, value_head_dim: int, target: str, options: str, keys: int) -> list[str]:
        """Options that give other schedules than the one that is chosen for a GPU and calls with so many keys, like
        "groups=3,block_kv=64,stages=4"; all those near it that fit."""
        request = self._request(dtype, head_dim, value_head_dim, target, _SYMBOL, _with(options, f"keys={keys},aligned_only"))
        found: list[str] = json.loads(_compiler.compile(request, "alternatives"))
        return found

    def cache_digest(self) -> str:
        """Of everything that the code depends on but for the request's other fields."""
        if self._digest is None:
            # Imports may read other files, whose contents count.
            attn = _compiler.compile(self._request("f32", 64, 64, "native", _SYMBOL), "attn")
            self._digest = hashlib.sha256(attn).hexdigest()
        return self._digest

    def __call__(self, query: Array, key: Array, value: Array, **arguments: Any) -> Any:
        """Attention forward; takes what Kernel's call takes."""
        query = arrays.adopt(query)
        code = arrays.dtype_code(query) if hasattr(query, "dtype") else None
        if code is None or DTYPES[code] not in QUERY_DTYPES:
            raise HeedError(f"argument 'query': expected an array of f32, bf16 or f16, found {getattr(query, 'dtype', type(query).__name__)}")
        for name, array in (("query", query), ("value", value)):
            if getattr(array, "ndim", 4) != 4:
                raise HeedError(f"argument '{name}': expected 4 dimensions (B, H, S, D), found {array.ndim}")
        kernel = self.kernel(DTYPES[code], query.shape[-1], value.shape[-1], arrays.device_of(query))
        return kernel(query, key, value, **arguments)

    def __reduce__(self) -> Any:
        return Variant, (self.source, self.file_name, self.name, self.defines, self._digest)

    def __repr__(self) -> str:
        return f"<Variant {self.name} of {self.file_name}>" if self.name else f"<Variant of {self.file_name}>"


def _default_symbol(content: bytes) -> str:
    """The C name that the compiler chose: the only exported symbol of the object ends in _kernel."""
    found: list[bytes] = re.findall(rb"(?<=\0)([A-Za-z_]\w*)_kernel(?=\0)", content)
    return found[-1].decode()  # LLVM writes the symbols' names last; names of parameters come before


def _load(content: bytes, symbol: str, header: Callable[[], str] | None = None) -> Kernel:
    loaded = _compiler.LoadedObject(content, symbol)
    return Kernel(loaded.kernel, loaded, content, symbol, header)


def _cached(digest: str, request: _compiler.Request, emit: str = "obj") -> Kernel:
    # Should objects for GPUs hold what ptxas made, then its version belongs here, too.
    key = cache.digest("kernel" if emit == "obj" else emit, digest, request.dtype, str(request.head_dim), str(request.value_head_dim),
                       request.target, request.options, str(sorted(request.defines.items())), _compiler.build_id())
    disk = cache.default_cache()
    content = disk.get_or_build(key, lambda: _compiler.compile(request, emit))
    return _load(content, _SYMBOL)


_variants: dict[str, Variant] = {}  # by the digest of a trace
# flex_attention's way past all else; here, so that clear_memory reaches it.
plans: dict[tuple[Any, ...], Any] = {}


def of_trace(trace: tracing.Trace) -> Variant:
    """The variant of a trace; traces of equal programs share one, and its kernels."""
    variant = _variants.get(trace.digest)
    if variant is None:
        variant = _variants.setdefault(trace.digest, Variant(trace.source, "<traced>", trace.name, digest=trace.digest))
    return variant


def as_variant(what: Any, name: str | None = None, defines: Mapping[str, Any] | None = None) -> Variant:
    """A Variant of: a Variant, a Trace, a mod (a Python function), a path of a .heed file, or the text of a program."""
    is_program = isinstance(what, (str, os.PathLike))
    if not is_program and (name is not None or defines):
        raise TypeError(f"expected a .heed file or a program with variant= and defines=, found {type(what).__name__}, which has "
                        "no variants to choose from and whose numbers are what it captures")
    if isinstance(what, Variant):
        return what
    if isinstance(what, tracing.Trace):
        return of_trace(what)
    if callable(what):
        return of_trace(tracing.trace_function(what))
    if what == "":
        raise HeedError("expected a .heed file or the text of a program, found an empty string")
    if isinstance(what, os.PathLike) or (isinstance(what, str) and "{" not in what):
        path = pathlib.Path(what)
        return Variant(path.read_text(encoding="utf-8", errors="surrogateescape"), str(path), name, defines)
    if isinstance(what, str):
        return Variant(what, name=name, defines=defines)
    raise TypeError(f"expected a .heed file, a program, a trace or a function, found {type(what).__name__}")


def compile(variant_or_file: Any, *, dtype: Any = "f32", head_dim: int = 64, value_head_dim: int | None = None,
            target: str = "native", variant: str | None = None, symbol: str | None = None,
            defines: Mapping[str, Any] | None = None) -> Kernel:
    """Compiles a variant for one element type and head dim; the kernel can be called, and saved for use without Python.

        kernel = heed.compile("alibi.heed", dtype="bf16", head_dim=128)
        kernel.save("alibi.so")

    variant_or_file: a .heed file, the text of a program, a Variant, a trace, or a score_mod or mask_mod. `variant` names
    one of several in a file; `defines` compiles scalar parameters in. HeedError holds the compiler's messages."""
    return as_variant(variant_or_file, variant, defines).compile(dtype, head_dim, value_head_dim, target, symbol)


def _head_dims(head_dim: Any, value_head_dim: Any) -> tuple[int, int]:
    """Both, checked here: the compiler would see them as 32 bits."""
    def checked(name: str, dim: Any) -> int:
        if not hasattr(type(dim), "__index__") or not 1 <= operator.index(dim) <= 576:
            raise HeedError(f"{name}: expected an integer from 1 to 576, found {dim!r}")
        return operator.index(dim)

    first = checked("head_dim", head_dim)
    return first, first if value_head_dim is None else checked("value_head_dim", value_head_dim)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise HeedError(f"{name}: expected a string, found {value!r}")
    return value


def _only(options: str, *names: str) -> str:
    return options and ",".join(word for word in options.split(",") if word.partition("=")[0] in names)


def _with(options: str, word: str) -> str:
    return f"{options},{word}" if options else word


def load(path: str | os.PathLike[str], symbol: str | None = None) -> Kernel | Variant:
    """Loads what was made ahead of time: a kernel of a shared library (of the C name `symbol`), or from a .heed file
    a Variant (the one named `symbol`), which is compiled when it is called."""
    if pathlib.Path(path).suffix == ".heed":
        loaded = as_variant(pathlib.Path(path), symbol)
        _ = loaded.params  # says now what is wrong with the file
        return loaded
    return load_shared(path, symbol)


def clear_memory() -> None:
    """Forgets all kernels in memory; those in use stay loaded as long as they are."""
    _variants.clear()
    plans.clear()
    hot.clear()
    tracing.clear()
    gpu.target.cache_clear()
