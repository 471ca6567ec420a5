# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""include/heed-c/Compiler.h through ctypes. The library holds LLVM, so it is loaded when first needed."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import json
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from heed import _runtime
from heed._runtime import HeedError

EMIT = ("attn", "tile", "llvm", "asm", "obj", "header", "check", "format", "variants", "explain",
        "classifier", "alternatives")  # by heed_emit


class _Request(ctypes.Structure):
    """heed_compile_request"""

    _fields_ = [("source", ctypes.c_char_p), ("source_size", ctypes.c_size_t), ("file_name", ctypes.c_char_p),
                ("variant", ctypes.c_char_p), ("symbol", ctypes.c_char_p), ("targets", ctypes.c_char_p),
                ("defines", ctypes.POINTER(ctypes.c_char_p)), ("dtype", ctypes.c_int), ("head_dim", ctypes.c_int32),
                ("value_head_dim", ctypes.c_int32), ("options", ctypes.c_char_p)]


@functools.cache
def library() -> ctypes.CDLL:
    """libheed."""
    lib = ctypes.CDLL(_runtime.find_library("libheed.so", "HEED_LIBRARY"))
    blob = ctypes.c_void_p
    for name in ("heed_version", "heed_llvm_version", "heed_build_id", "heed_target_of_cpu"):
        getattr(lib, name).restype = ctypes.c_char_p
    lib.heed_target_of_cpu.argtypes = [ctypes.c_uint64]
    lib.heed_blob_data.argtypes = lib.heed_blob_size.argtypes = lib.heed_blob_free.argtypes = [blob]
    lib.heed_blob_data.restype = ctypes.c_void_p
    lib.heed_blob_size.restype = ctypes.c_size_t
    lib.heed_compile.argtypes = [ctypes.POINTER(_Request), ctypes.c_int, ctypes.POINTER(blob)]
    lib.heed_interpret.argtypes = [ctypes.POINTER(_Request), ctypes.c_char_p, ctypes.POINTER(blob)]
    lib.heed_load_object.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                                     ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(blob)]
    lib.heed_library_kernel.argtypes = lib.heed_library_free.argtypes = [ctypes.c_void_p]
    lib.heed_library_kernel.restype = ctypes.c_void_p
    lib.heed_link_shared.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(blob)]
    return lib


# A fork while another thread compiles would copy LLVM's locks in whatever state they are, so it waits.
_busy = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_busy.acquire, after_in_parent=_busy.release, after_in_child=_busy.release)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is compiled, as heed_compile_request says."""

    source: str
    file_name: str = "<source>"
    variant: str | None = None
    symbol: str | None = None
    target: str = "native"
    defines: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "f32"
    head_dim: int = 1
    value_head_dim: int = 0
    options: str = ""  # schedule overrides of GPU targets: "block_kv=64,stages=3,tf32"

    def _struct(self) -> _Request:
        def text(x: str | None) -> bytes | None:
            return None if x is None else os.fsencode(x)

        source = self.source.encode("utf-8", "surrogateescape")
        for name, value in self.defines.items():
            if not name.replace(".", "").isidentifier() or "\0" in _literal(value):
                raise HeedError(f"defines: expected names of parameters and their values, found {name!r}: {value!r}")
        defines = [f"{name}={_literal(value)}".encode() for name, value in self.defines.items()]
        target = ",".join(native_target() if name == "native" else name for name in self.target.split(","))
        return _Request(source, len(source), text(self.file_name), text(self.variant), text(self.symbol), text(target),
                        (ctypes.c_char_p * (len(defines) + 1))(*defines, None), _runtime.DTYPE_CODES[self.dtype],
                        self.head_dim, self.value_head_dim, text(self.options or None))


def _literal(value: Any) -> str:
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


@contextmanager
def _blob() -> Iterator[Any]:
    """A place for a result, freed at the end."""
    result = ctypes.c_void_p()
    try:
        yield result
    finally:
        library().heed_blob_free(result)


def _bytes(blob: ctypes.c_void_p) -> bytes:
    return ctypes.string_at(library().heed_blob_data(blob), library().heed_blob_size(blob)) if blob else b""


def _check(status: int, blob: ctypes.c_void_p) -> None:
    if status != 0:
        raise HeedError(_bytes(blob).decode("utf-8", "replace").rstrip())


def compile(request: Request, emit: str) -> bytes:
    """Compiles to one of EMIT; HeedError holds the diagnostics."""
    with _busy, _blob() as result:
        _check(library().heed_compile(ctypes.byref(request._struct()), EMIT.index(emit), ctypes.byref(result)), result)
        return _bytes(result)


def variants(source: str, file_name: str = "<source>", defines: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The variants of a program: name and params of each, as heed_compile describes them."""
    found: list[dict[str, Any]] = json.loads(compile(Request(source, file_name, defines=defines or {}), "variants"))
    return found


def interpret(request: Request, question: Mapping[str, Any]) -> None:
    """Runs the float64 interpreter; heed/Interpreter/Requests.h describes questions."""
    with _busy, _blob() as messages:
        _check(library().heed_interpret(ctypes.byref(request._struct()), json.dumps(question).encode(),
                                        ctypes.byref(messages)), messages)


class LoadedObject:
    """An object's code in this process; `kernel` is the address of its heed_kernel."""

    def __init__(self, content: bytes, symbol: str) -> None:
        handle = ctypes.c_void_p()
        with _busy, _blob() as messages:
            _check(library().heed_load_object(content, len(content), symbol.encode(), ctypes.byref(handle),
                                              ctypes.byref(messages)), messages)
        self.kernel: int = library().heed_library_kernel(handle)
        # Not at exit: __del__ would come when modules are empty already, and the process's end frees all that there is.
        weakref.finalize(self, _unload, handle, self.kernel).atexit = False  # type: ignore[misc]


def _unload(handle: ctypes.c_void_p, kernel: int) -> None:
    # Launches may still be under way: that is the driver's to wait for. A CUDA graph does not keep its kernels, so
    # whoever drops a kernel must have dropped its graphs; those of flex_attention stay until `clear_memory`.
    table = _runtime.KernelTable.from_address(kernel)
    if table.num_gpu_codes > 0 or table.num_gpu_mask_codes > 0:
        _runtime.lib.heed_gpu_unload(kernel)
    library().heed_library_free(handle)


def link_shared(object_path: str, output_path: str) -> None:
    """Links an object file into a shared library with the system's linker."""
    with _blob() as messages:
        _check(library().heed_link_shared(os.fsencode(object_path), os.fsencode(output_path), ctypes.byref(messages)),
               messages)


@functools.cache
def native_target() -> str:
    """The CPU level that the runtime chooses on this machine."""
    name = library().heed_target_of_cpu(_runtime.lib.heed_cpu_features())
    if name is None:
        raise HeedError("this machine's CPU is none that Heed compiles for; it needs x86-64-v2 or aarch64")
    return str(name.decode())


@functools.cache
def build_id() -> str:
    """Another build of the compiler has another one."""
    return str(library().heed_build_id().decode())
