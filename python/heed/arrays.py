# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Arrays of NumPy, torch, CuPy and others, as kernels see them: a pointer, an element type, extents and strides.

Nothing is copied here, but the tables of mods. torch is looked at only where its tensors turn up, and never imported.
NumPy and CuPy have no bfloat16: arrays of ml_dtypes.bfloat16, and arrays of uint16 that hold the bits, stand for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Any

import numpy as np

from heed import gpu
from heed._runtime import DTYPE_CODES, MAX_RANK, TENSOR, HeedError
from heed.gpu import DeviceArray

Array = Any  # np.ndarray, torch.Tensor, cupy.ndarray, or gpu.DeviceArray for those of other libraries

_NUMPY_NAMES = {"bool": "bool", "int8": "i8", "int32": "i32", "int64": "i64", "float16": "f16", "uint16": "bf16",
                "bfloat16": "bf16", "float32": "f32"}
_TORCH_NAMES = {"torch.bool": "bool", "torch.int8": "i8", "torch.int32": "i32", "torch.int64": "i64",
                "torch.float16": "f16", "torch.bfloat16": "bf16", "torch.float32": "f32", "bfloat16": "bf16"}
# By dtype object: heed_dtype, or None for a type that kernels don't take. Filled as types turn up.
dtype_codes: dict[Any, int | None] = {}


def is_torch(array: Any) -> bool:
    """Whether `array` is a torch tensor, of a subclass too."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_plain(array: Any) -> bool:
    """Whether `array` is a torch tensor, of no other subclass than Parameter."""
    torch = sys.modules.get("torch")
    return torch is not None and type(array) in (torch.Tensor, torch.nn.Parameter)


def library(array: Array) -> Any:
    """The module whose array it is: NumPy, torch or CuPy; None for any other."""
    if isinstance(array, np.ndarray):
        return np
    return sys.modules["torch"] if is_torch(array) else sys.modules["cupy"] if gpu.is_cupy(array) else None


def adopt(array: Any) -> Any:
    """`array`, or a DeviceArray of one on a GPU that is of none of the libraries."""
    return array if library(array) is not None else gpu.adopt(array)


def is_array(array: Any) -> bool:
    return library(array) is not None or isinstance(array, DeviceArray)


def device_of(array: Array) -> int | None:
    """The number of the GPU, or None."""
    if isinstance(array, np.ndarray):
        return None
    if is_torch(array):
        return array.get_device() if array.is_cuda else None
    return array.index if isinstance(array, DeviceArray) else array.device.id if gpu.is_cupy(array) else None


def is_writable(array: Array) -> bool:
    if isinstance(array, np.ndarray):
        return bool(array.flags.writeable)
    return not isinstance(array, DeviceArray) or array.writable


class Table:
    """An array on the CPU that a mod makes of constants, and its copy on each GPU that needed one."""

    def __init__(self, host: Array) -> None:
        self.host = host
        self._copies: dict[int, Array] = {}

    def on(self, device: int | None) -> Array:
        """Copied once, by a copy that is complete on return: later calls on any stream, and CUDA graphs, may read it."""
        if device is None:
            return self.host
        if device not in self._copies:
            torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
            if torch is not None and torch.cuda.is_available():
                self._copies[device] = torch.as_tensor(self.host).to(gpu.name_of(device))
            elif cupy is not None:
                with cupy.cuda.Device(device):
                    self._copies[device] = cupy.asarray(self.host)
                    cupy.cuda.get_current_stream().synchronize()
            else:
                raise _elsewhere("cpu", device)
        return self._copies[device]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.host, name)


def on_host(value: Any) -> Any:
    """A captured number or array, on the CPU: a copy of one on a GPU, which is waited for."""
    if is_torch(value):
        return value.cpu() if value.is_cuda else value
    if gpu.is_cupy(value):
        return value.get()
    if isinstance(adopted := gpu.adopt(value), DeviceArray):
        return np.asarray(adopted)
    return value


def dtype_code(array: Array) -> int | None:
    """heed_dtype of the elements; None for a type that kernels don't take."""
    dtype = array.dtype
    try:
        return dtype_codes[dtype]
    except KeyError:
        if not isinstance(dtype, np.dtype):
            name = _TORCH_NAMES.get(str(dtype))
        else:
            name = _NUMPY_NAMES.get(dtype.name) if dtype.isnative else None
        code = dtype_codes[dtype] = None if name is None else DTYPE_CODES[name]
        return code


def _reads_address_from_object() -> bool:
    """Whether PyArrayObject begins as NumPy's C ABI says: what a Python object begins with, then the address."""
    probe = np.empty(1)
    return ctypes.c_void_p.from_address(id(probe) + _HEAD).value == probe.ctypes.data


_HEAD = object.__basicsize__
_from_address = ctypes.c_void_p.from_address

if _reads_address_from_object():

    def numpy_pointer(array: np.ndarray) -> int:
        """The address of the first element; array.ctypes.data takes five times as long."""
        return _from_address(id(array) + _HEAD).value or 0
else:

    def numpy_pointer(array: np.ndarray) -> int:
        """The address of the first element."""
        return array.ctypes.data


def data_pointer(array: Array) -> int:
    """The address of the first element."""
    if isinstance(array, np.ndarray):
        return numpy_pointer(array)
    if is_torch(array):
        return _tensor_pointer(array)
    return int(array.data.ptr if gpu.is_cupy(array) else array.data_ptr())


def _tensor_pointer(tensor: Any) -> int:
    """data_ptr() of a tensor that has memory: what torch's transforms pass to functions stands for other tensors."""
    try:
        pointer: int = tensor.data_ptr()
    except RuntimeError:  # torch.func's
        pointer = 0
    if not pointer and tensor.numel():
        raise no_memory(type(tensor).__name__)
    return pointer


def no_memory(kind: str) -> NotImplementedError:
    """The refusal of a tensor that stands for others."""
    return NotImplementedError(f"Heed expected a tensor with memory of its own, found a {kind} that stands for others: it cannot run within "
                               "transforms of torch.func (vmap, grad, jvp, functionalize), nor on fake tensors. Call it outside of them; it "
                               "takes batches of query, key and value, and torch.compile")


def is_transforming() -> bool:
    """Whether this runs within a transform of torch.func."""
    functorch = getattr(getattr(sys.modules.get("torch"), "_C", None), "_functorch", None)
    return functorch is not None and functorch.peek_interpreter_stack() is not None


def strides(array: Array) -> tuple[int, ...]:
    """Strides in elements."""
    if isinstance(array, np.ndarray) or gpu.is_cupy(array):
        size = array.itemsize
        return tuple([stride // size for stride in array.strides])
    return tuple(array.stride())


def describe(array: Array, dtype: str, device: int | None = None) -> bytes:
    """heed_tensor of an array whose elements have to be of `dtype`, on a device; HeedError if it is none."""
    if type(array) is np.ndarray or isinstance(array, np.ndarray):
        if device is not None:
            raise _elsewhere("cpu", device)
        if not array.flags.aligned:  # a field of a structured array, for one: its strides are no whole elements
            raise HeedError("expected an array whose elements are aligned; numpy.require(array, requirements='A') makes one")
        pointer = numpy_pointer(array)
        size = array.itemsize
        steps: Any = [stride // size for stride in array.strides]
    elif is_torch(array):
        if not (array.is_cpu if device is None else array.is_cuda and array.get_device() == device):
            raise _elsewhere(array.device, device)
        if array.requires_grad or array.is_neg():
            _check_plain(array)
        pointer = _tensor_pointer(array)
        steps = array.stride()
    elif isinstance(array, Table):
        return describe(array.on(device), dtype, device)
    else:
        adopted = gpu.adopt(array)
        if not isinstance(adopted, DeviceArray):
            raise HeedError(f"expected an array of {dtype}, found {type(array).__name__}")
        if adopted.index != device:
            raise _elsewhere(adopted.device, device)
        array, pointer, steps = adopted, adopted.data_ptr(), adopted.stride()
    if (code := dtype_codes.get(array.dtype) or dtype_code(array)) != DTYPE_CODES[dtype]:
        raise HeedError(f"expected an array of {dtype}, found {array.dtype}")
    shape = array.shape
    rank = len(shape)
    if rank > MAX_RANK:
        raise HeedError(f"expected at most {MAX_RANK} dimensions, found {rank}")
    return TENSOR[rank].pack(pointer, code, rank, *shape, *steps)


def _elsewhere(found: Any, device: int | None) -> HeedError:
    """The refusal of an array that is not where the call's query is."""
    where = "the CPU" if device is None else f"{gpu.name_of(device)}, where query is"
    return HeedError(f"expected a tensor on {where}, found one on {found}")


def check_needs_no_gradient(tensor: Any) -> None:
    """Raises NotImplementedError for a tensor of torch whose gradient a backward pass would want."""
    if tensor.requires_grad and sys.modules["torch"].is_grad_enabled():
        raise NotImplementedError("Heed has no backward pass yet: detach tensors that require grad, or call it under "
                                  "torch.no_grad()")


def _check_plain(array: Array) -> None:
    check_needs_no_gradient(array)
    if array.is_neg():
        raise HeedError("expected a tensor without negative bit; resolve_neg() makes one")


def empty(shape: tuple[int, ...], like: Array, dtype: str | None = None) -> Array:
    """An array of the library of `like`, on its device; `dtype` is that of `like`, or "f32"."""
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=like.dtype if dtype is None else torch.float32, device=like.device)
    if (module := library(like)) is None:
        kind = type(getattr(like, "owner", like)).__name__
        raise HeedError(f"argument 'output': Heed makes arrays of NumPy, torch and CuPy only, not {kind}: give out= (and lse=)")
    with contextlib.nullcontext() if module is np else like.device:  # CuPy makes arrays on its current device
        return module.empty(shape, like.dtype if dtype is None else np.float32)


def copy_to(array: np.ndarray, like: Array) -> Array:
    """`array` where `like` is, if that is not the CPU."""
    if device_of(like) is None:
        return array
    if not gpu.is_cupy(like):
        raise HeedError(f"block lists: expected query to be a tensor of torch or CuPy, found {type(like.owner).__name__}")
    with like.device:
        return sys.modules["cupy"].asarray(array)


def empty_in_order_of(query: Array, last: int) -> Array:
    """A dense array of query's shape but for the last extent. Its axes lie in memory in the order of query's, but that
    the last has unit stride, as kernels want it."""
    order = sorted(range(query.ndim - 1), key=lambda axis: -abs(strides(query)[axis]))
    return _empty_in_order((*query.shape[:-1], last), [*order, query.ndim - 1], query)


def in_order_of(output: Array, query: Array) -> Array:
    """`output`, copied if its axes lie in memory in another order than query's, the last included."""
    steps = strides(query)
    if steps[-1] == min(map(abs, steps)):
        return output
    order = sorted(range(query.ndim), key=lambda axis: -abs(steps[axis]))
    result = _empty_in_order(tuple(output.shape), order, query)
    result[...] = output
    return result


def _empty_in_order(shape: tuple[int, ...], order: list[int], like: Array) -> Array:
    """A dense array whose axes lie in memory in `order`, outermost first."""
    permuted = empty(tuple(shape[axis] for axis in order), like)
    inverse = [order.index(axis) for axis in range(len(order))]
    return permuted.permute(inverse) if is_torch(like) else permuted.transpose(inverse)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounds f32 to bfloat16 (to nearest even), as uint16 bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    """The f32 values of bfloat16 bits."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def autocast(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any] | None:
    """Tensors of torch in the type that torch.autocast wants for their device; None if it is off or they have that type."""
    torch: Any = sys.modules["torch"]
    device = query.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return None
    dtype = torch.get_autocast_dtype(device)
    if query.dtype is dtype and key.dtype is dtype and value.dtype is dtype:
        return None
    operands = tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
                     for x in (query, key, value))
    return None if all(x is y for x, y in zip(operands, (query, key, value))) else operands
