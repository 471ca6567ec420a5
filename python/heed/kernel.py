# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Kernels: compiled code with the parameters that it wants."""

from __future__ import annotations

import ctypes
import math
import operator
import os
import pathlib
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from heed import _compiler, _runtime, arrays, files, gpu, hot
from heed._runtime import ADDRESSES, CALL, DTYPE_CODES, DTYPES, HeedError
from heed.arrays import Array
from heed.block_runs import BlockRuns

_FLOATS = ("f16", "bf16", "f32")
_heed_run = _runtime.lib.heed_run_packed
_heed_launch = _runtime.lib.heed_launch_packed
_HEED_UNALIGNED = 7


class Param(NamedTuple):
    """A parameter of a kernel: a scalar (rank -1), or a captured tensor."""

    name: str
    dtype: str
    rank: int
    default: float | int | None


class Kernel:
    """A compiled variant for one element type and head dim, on arrays of NumPy, torch, CuPy and others.

        output, lse = kernel(query, key, value, slope=slopes, return_lse=True)

    heed.compile and heed.load make kernels. Safe to call from several threads at once.
    """

    def __init__(self, address: int, owner: object, content: bytes | None = None, symbol: str = "",
                 header: Callable[[], str] | None = None) -> None:
        """Of the heed_kernel at `address`, whose code lives as long as `owner`."""
        table = _runtime.KernelTable.from_address(address)
        _heed_run(address, None, None, None, None)  # without a call: the runtime finds fault with the kernel first
        if not (fault := _runtime.lib.heed_last_error().decode()).startswith("argument 'call'"):
            raise HeedError(fault)
        self._owner = owner
        self._address = address
        self._object = content
        self._symbol = symbol
        self._header = header
        self.name: str = table.name.decode()
        self.dtype: str = DTYPES[table.dtype]
        self.head_dim: int = table.head_dim
        self.value_head_dim: int = table.value_head_dim
        self.params: tuple[Param, ...] = tuple(_read_param(table.params[i]) for i in range(table.num_params))
        # Makes the kernel for arrays that this one's code for GPUs cannot take; None: it takes all, or there is none.
        self.portable: Callable[[], Kernel] | None = None
        self.dtype_code = DTYPE_CODES[self.dtype]
        self._values = struct.Struct("=" + "".join("d" if p.rank < 0 and p.dtype in _FLOATS else "q" for p in self.params))

    @property
    def param_names(self) -> list[str]:
        return [p.name for p in self.params]

    @property
    def target(self) -> str:
        """The CPU level that calls on this machine run, or of a kernel for GPUs only what its first GPU runs; "none"
        where it has no code for them."""
        code = self._code()
        return code.contents.target.decode() if code else "none"

    @property
    def gpu_targets(self) -> list[str]:
        """The GPU architectures that it has code for, best first; some have several pieces of it."""
        table = _runtime.KernelTable.from_address(self._address)
        return [table.gpu_codes[i].target.decode() for i in range(table.num_gpu_codes)]

    @property
    def block_shape(self) -> tuple[int, int]:
        """Queries and keys of a tile on this machine; on a GPU of calls with many keys."""
        code = self._code()
        if not code:
            raise HeedError(f"kernel '{self.name}' has no code for this machine")
        return (code.contents.block_q, code.contents.block_kv)

    def _code(self) -> Any:
        if _runtime.KernelTable.from_address(self._address).num_codes > 0:
            return _runtime.lib.heed_select_code(self._address)
        return _runtime.lib.heed_select_gpu_code(self._address, 0)

    def run(self, call: bytes, addresses: bytes, values: Sequence[Any]) -> None:
        """heed_run on a packed heed_call and packed ADDRESSES, with the values of all params in order; tensors have their
        param's type.

        HeedError if a shape, pointer or value is wrong."""
        words, tensors = self._pack(values, None) if values else (b"", b"")
        if _heed_run(self._address, call, addresses, words, tensors) != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())

    def launch(self, call: bytes, addresses: bytes, values: Sequence[Any], device: int, stream: int) -> None:
        """heed_launch likewise, on a GPU that holds the operands; tensors have to be there too.

        Returns before the kernel has run, and waits for nothing, so that it works within CUDA graphs: numbers go by value.
        What torch and CuPy free meanwhile is used again by later work on the same stream only, that is after the kernel;
        other streams are the user's to order (torch's Tensor.record_stream)."""
        words, tensors = self._pack(values, device) if values else (b"", b"")
        status = _heed_launch(self._address, call, addresses, words, tensors, stream, device)
        if status == _HEED_UNALIGNED and self.portable is not None:
            status = _heed_launch(self.portable()._address, call, addresses, words, tensors, stream, device)
        if status != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())

    def classify(self, extents: tuple[int, int, int, int, int], block_size: tuple[int, int], values: Sequence[Any],
                 threads: int = 0, hanging_is_partial: bool = True) -> BlockRuns:
        """heed_classify, of a kernel that Variant.classifier made: which blocks its mask visits.

        extents: B, Hq, Hkv, Sq, Skv. `values` are those of all params; tensors are on the CPU. hanging_is_partial: blocks
        that hang over the end are never full, as FlexAttention has it and kernels do not."""
        words, tensors = self._pack(values, None) if values else (b"", b"")
        question = _runtime.MaskQuestion(*extents, *block_size, words or None, threads, hanging_is_partial)
        result = ctypes.POINTER(_runtime.BlockRuns)()
        if _runtime.lib.heed_classify(self._address, question, tensors, result) != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())
        return BlockRuns.take(result)

    def _launch_classify(self, extents: tuple[int, int, int, int, int], block_size: tuple[int, int], values: Sequence[Any],
                        matrix: _runtime.ClassMatrix, device: int, stream: int) -> None:
        """heed_launch_classify, of a kernel that Variant.classifier made for a GPU, which holds tensors and matrix."""
        words, tensors = self._pack(values, device) if values else (b"", b"")
        question = _runtime.MaskQuestion(*extents, *block_size, words or None, 0, 1)
        if _runtime.lib.heed_launch_classify(self._address, question, tensors, matrix, stream, device) != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())

    def _launch_list(self, matrix: _runtime.ClassMatrix, by_column: bool, lists: _runtime.BlockLists, device: int,
                    stream: int) -> None:
        """heed_launch_list, of a matrix that _launch_classify filled."""
        if _runtime.lib.heed_launch_list(self._address, matrix, by_column, lists, stream, device) != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())

    def _launch_fill(self, lists: _runtime.BlockLists, widths: tuple[int, int], matrix: _runtime.ClassMatrix, device: int,
                    stream: int) -> None:
        """heed_launch_fill; what the mask is does not matter."""
        if _runtime.lib.heed_launch_fill(self._address, lists, *widths, matrix, stream, device) != 0:
            raise HeedError(_runtime.lib.heed_last_error().decode())

    def _pack(self, values: Sequence[Any], device: int | None) -> tuple[bytes, bytes]:
        """heed_value of all params, and heed_tensor of those that are tensors."""
        words, tensors = [], b""
        for param, value in zip(self.params, values):
            if param.rank < 0:
                words.append(value)
                continue
            try:
                description = arrays.describe(value, param.dtype, device)
            except HeedError as error:
                raise HeedError(f"argument '{param.name}': {error}") from None
            words.append(len(tensors) // len(description))
            tensors += description
        return self._values.pack(*words), tensors

    def __call__(self, query: Array, key: Array, value: Array, *, scale: float | None = None, return_lse: bool = False,
                 out: Array | None = None, lse: Array | None = None, threads: int = 0, **params: Any) -> Any:
        """Attention forward.

        query (B, Hq, Sq, D), key (B or 1, Hkv, Skv, D), value (B or 1, Hkv, Skv, Dv), all of the kernel's dtype and
        with unit stride in the last axis; Hq is a multiple of Hkv. scale: 1/sqrt(D) if None. threads: 0 for
        heed.get_num_threads(). params: scalars and arrays by name, of the declared types.

        Arrays on a GPU have to be there all; the kernel is launched on their library's current stream.

        Returns output (B, Hq, Sq, Dv), or (output, lse) with lse (B, Hq, Sq) in f32, the natural logarithm of the sum
        of exponentials. `out` and `lse` take them where given; they must not share memory with each other or with what the
        kernel reads, which is not checked. HeedError names the argument that is wrong."""
        query = _adopt("query", query)
        if out is None:
            out = arrays.empty((*query.shape[:3], self.value_head_dim), query)
        if return_lse and lse is None:
            lse = arrays.empty(tuple(query.shape[:3]), query, "f32")
        values = self._bind(params) if params or self.params else []
        if not hot.run(self._address, query, key, value, out, lse, values, scale, threads):
            self._run_described(query, key, value, out, lse, values, scale, threads)
        return out if lse is None else (out, lse)

    def _run_described(self, query: Array, key: Array, value: Array, out: Array, lse: Array | None, values: Sequence[Any], scale: Any,
                       threads: Any) -> None:
        """A call that heed.hot leaves to Python. HeedError names the argument that is wrong."""
        if arrays.is_torch(query):
            hot.use_torch()  # for the next one
        key, value = _adopt("key", key), _adopt("value", value)
        factor = math.nan if scale is None else _factor(scale)
        if not hasattr(type(threads), "__index__") or not 0 <= operator.index(threads) < 2**31:
            raise HeedError(f"argument 'threads': expected a number of threads, 0 for all, found {threads!r}")
        output, rows = map(arrays.adopt, (out, lse))
        for name, array in (("output", output), ("lse", rows)):
            if not arrays.is_writable(array):
                raise HeedError(f"argument '{name}': expected an array that can be written, found a read-only one")
        device = arrays.device_of(query)
        described = b""
        for name, array in (("query", query), ("key", key), ("value", value), ("output", output)):
            described += self._describe(name, array, self.dtype, device)
        described += _NO_ROWS if rows is None else self._describe("lse", rows, "f32", device)
        call = described + _NO_ROWS + CALL_TAIL.pack(factor, threads)
        addresses = ADDRESSES.pack(*map(arrays.data_pointer, (query, key, value, output)),
                                   0 if rows is None else arrays.data_pointer(rows), 0)
        if device is None:
            self.run(call, addresses, values)
        else:
            self.launch(call, addresses, values, device, gpu.stream_of(query, device))

    def _describe(self, name: str, array: Array, dtype: str, device: int | None) -> bytes:
        try:
            return arrays.describe(array, dtype, device)
        except HeedError as error:
            raise HeedError(f"argument '{name}': {error}") from None

    def _bind(self, given: dict[str, Any]) -> list[Any]:
        """Values for all params, in order."""
        if unknown := sorted(set(given) - set(self.param_names)):
            raise HeedError(f"kernel '{self.name}' has no parameter '{unknown[0]}'; "
                            f"it has {', '.join(self.param_names) or 'none'}")
        values = []
        for param in self.params:
            if param.name not in given:
                if param.default is None:
                    raise HeedError(f"kernel '{self.name}': parameter '{param.name}' is missing")
                values.append(param.default)
                continue
            value = given[param.name]
            try:
                values.append(value if param.rank >= 0 else _number(value, param.dtype))
            except HeedError as error:
                raise HeedError(f"argument '{param.name}': {error}") from None
        return values

    def save(self, path: str | os.PathLike[str], header: str | os.PathLike[str] | None = None) -> None:
        """Writes the code for use without Python: an object file (.o), or a shared library (any other name) that
        heed.load reads; and the C header, if asked for. Files appear whole or not at all.

        Links are followed, and what is no regular file (a device, a pipe) is written into. HeedError for a kernel that was
        itself loaded from a file, and for one path given twice; OSError where a file can't be written."""
        if self._object is None or self._header is None:
            raise HeedError(f"kernel '{self.name}' was loaded from a file: copy that file")
        target = pathlib.Path(os.path.realpath(path))
        outputs = [(target, self._object)]
        if pathlib.Path(path).suffix != ".o":
            with tempfile.TemporaryDirectory(prefix="heed-") as directory:
                unlinked, linked = pathlib.Path(directory, "kernel.o"), pathlib.Path(directory, "kernel.so")
                unlinked.write_bytes(self._object)
                _compiler.link_shared(str(unlinked), str(linked))
                outputs = [(target, linked.read_bytes())]
        if header is not None:
            outputs.append((pathlib.Path(os.path.realpath(header)), self._header().encode()))
            if outputs[0][0] == outputs[1][0] and not files.is_special(target):
                raise HeedError(f"expected two files, found '{os.fspath(path)}' for both the code and its header")
        files.write_together(outputs)

    def __copy__(self) -> Kernel:
        """Itself, as nothing in it changes: models that hold kernels are copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"kernel '{self.name}' cannot be pickled: write it with save(), and heed.load the file in the other process")

    def __repr__(self) -> str:
        dims = f"{self.head_dim}" if self.head_dim == self.value_head_dim else f"{self.head_dim}x{self.value_head_dim}"
        return f"<Kernel {self.name} {self.dtype} head dim {dims} ({', '.join(self.param_names)})>"


_NO_ROWS = bytes(_runtime.TENSOR[3].size)
CALL_TAIL = struct.Struct("=d8xi4x")
assert 6 * _runtime.TENSOR[4].size + CALL_TAIL.size == CALL.size


def _adopt(name: str, array: Any) -> Array:
    adopted = arrays.adopt(array)
    if not arrays.is_array(adopted):
        raise HeedError(f"argument '{name}': expected an array, found {type(array).__name__}")
    return adopted


def _factor(scale: Any) -> float:
    """The number that `scale` is. Not NaN, which in a call's description stands for the usual one."""
    if arrays.is_torch(scale):
        arrays.check_needs_no_gradient(scale)
    try:
        factor = math.nan if isinstance(scale, (str, bytes)) else float(scale)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises the last one for several elements
        factor = math.nan
    if math.isnan(factor):
        raise HeedError(f"argument 'scale': expected a number, found {scale!r}")
    return factor


def _read_param(param: _runtime.Param) -> Param:
    dtype = DTYPES[param.dtype]
    default = None
    if param.has_default:
        default = param.default_value.f if dtype in _FLOATS else param.default_value.i
    return Param(param.name.decode(), dtype, param.rank, default)


def _number(value: Any, dtype: str) -> float | int:
    try:
        if dtype in _FLOATS:
            return float(value)
        number = operator.index(value)
    except (TypeError, ValueError):
        raise HeedError(f"expected a number for {dtype}, found {value!r}") from None
    bits = 64 if dtype == "i64" else 32
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise HeedError(f"expected a number that fits {dtype}, found {number}")
    return number


def load_shared(path: str | os.PathLike[str], symbol: str | None = None) -> Kernel:
    """A kernel of a shared library that `heedc --emit=shared` or Kernel.save wrote.

    `symbol` is the kernel's C name; by default the file's stem, or the only one that the library exports. HeedError if
    there is no such kernel, OSError if the file is no shared library."""
    path = pathlib.Path(path).resolve()
    library = _open(path)
    names = _exported_kernels(path, library)
    name = symbol or (path.stem if path.stem in names else names[0] if len(names) == 1 else "")
    if name not in names:
        raise HeedError(f"'{path}' has {'no kernel ' + repr(name) if name else 'several kernels' if names else 'no kernel'}"
                        + (f"; give symbol= one of {', '.join(names)}" if names else ""))
    return Kernel(ctypes.addressof(_runtime.KernelTable.in_dll(library, name + "_kernel")), library)


_opened: dict[pathlib.Path, tuple[int, int]] = {}


def _open(path: pathlib.Path) -> ctypes.CDLL:
    status = path.stat()
    with path.open("rb") as file:
        header = file.read(64)
    if header[:5] == b"\x7fELF\x02":
        # Linkers write the section headers last. The dynamic linker crashes where what it maps is missing.
        start, size, count = struct.unpack_from("=Q10xHH", header.ljust(64, b"\0"), 40)
        if len(header) < 64 or start + size * count > status.st_size:
            raise OSError(f"{path}: file too short")
    inode = (status.st_dev, status.st_ino)
    if _opened.setdefault(path, inode) == inode:
        return ctypes.CDLL(str(path))
    # The dynamic linker knows libraries by their names: a file that was replaced gets another one.
    with tempfile.TemporaryDirectory(prefix="heed-") as directory:
        link = pathlib.Path(directory, path.name)
        link.symlink_to(path)
        return ctypes.CDLL(str(link))


def _exported_kernels(path: pathlib.Path, library: ctypes.CDLL) -> list[str]:
    """Names in the library's string table that the dynamic linker knows."""
    found = {match.decode() for match in re.findall(rb"(?<=\0)([A-Za-z_]\w*)_kernel(?=\0)", path.read_bytes())}
    return sorted(name for name in found if hasattr(library, name + "_kernel"))
