# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""NVIDIA GPUs: what is compiled for which, on which stream kernels run, and arrays of any library that lie there.

torch and CuPy are looked at only where their arrays turn up, and never imported. A device is the driver's number, as in
"cuda:0"; None stands for the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heed._runtime import HeedError, lib

MIN_CAPABILITY = 80  # major * 10 + minor
_TARGETS = {80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a"}
_FAMILIES = {10: "sm_100", 12: "sm_120"}  # by major


# -- Devices ----------------------------------------------------------------------------------------


def name_of(device: int | None) -> str:
    """As torch writes it."""
    return "cpu" if device is None else f"cuda:{device}"


@functools.cache
def target(device: int) -> str:
    """What to compile for a device: HEED_GPU_TARGET, else by its compute capability.

    HeedError if there is none, or an older one than Heed has kernels for."""
    if chosen := os.environ.get("HEED_GPU_TARGET"):
        return chosen
    capability: int = lib.heed_gpu_capability(device)
    if capability == 0:
        raise HeedError(f"{name_of(device)} cannot be used: {lib.heed_last_error().decode()}")
    major, minor = divmod(capability, 10)
    if capability < MIN_CAPABILITY:
        torch = sys.modules.get("torch")
        product = f" ({torch.cuda.get_device_name(device)})" if torch is not None and torch.cuda.is_available() else ""
        raise HeedError(f"{name_of(device)}{product} has compute capability {major}.{minor}, expected 8.0 or newer")
    return _TARGETS.get(capability) or _FAMILIES.get(major, "sm_80")


def is_supported(device: int) -> bool:
    """Whether Heed has kernels for a device."""
    return bool(os.environ.get("HEED_GPU_TARGET")) or lib.heed_gpu_capability(device) >= MIN_CAPABILITY


def model_of(device: int) -> str:
    """A device's name, "NVIDIA H100 80GB HBM3", as the library says that has arrays there."""
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    if (cupy := sys.modules.get("cupy")) is not None:
        name = cupy.cuda.runtime.getDeviceProperties(device)["name"]
        return name.decode() if isinstance(name, bytes) else str(name)
    return ""


def summary() -> str:
    """The devices, or why there are none, for a bug report."""
    found = [lib.heed_gpu_capability(device) for device in range(lib.heed_gpu_count())]
    if not found:
        return f"none: {lib.heed_last_error().decode()}"
    return ", ".join(f"{name_of(device)} {capability // 10}.{capability % 10}" for device, capability in enumerate(found))


# -- Streams ----------------------------------------------------------------------------------------


def torch_stream() -> Callable[[int], int]:
    """The function that gives torch's current stream on a device, as the driver's handle."""
    torch = sys.modules["torch"]
    found: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return found or (lambda device: int(torch.cuda.current_stream(device).cuda_stream))


def stream_of(array: Any, device: int) -> int:
    """The stream for kernels on `array`: its library's current one, or the one that the array was exported on."""
    if isinstance(array, DeviceArray):
        return array.stream
    if is_cupy(array):
        return int(sys.modules["cupy"].cuda.get_current_stream(device).ptr)
    return torch_stream()(device)


def wait_for(array: Any, device: int) -> None:
    """Until what was launched on the array's stream has ended."""
    if isinstance(array, DeviceArray):  # of CuPy: others are refused as operands
        sys.modules["cupy"].cuda.get_current_stream(device).synchronize()
    else:
        sys.modules["torch"].cuda.current_stream(device).synchronize()


# -- Arrays of other libraries ----------------------------------------------------------------------


def is_cupy(array: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


class DeviceArray:
    """A view of another library's array on a GPU, with those of a tensor's attributes that Heed reads.

    Kernels run after the call has returned, and this does not wait for them: the array's owner keeps it until then."""

    requires_grad = False

    def __init__(self, owner: Any, pointer: int, dtype: Any, shape: Sequence[int], strides: Sequence[int] | None, device: int,
                 stream: int = 0, writable: bool = False, export: Any = None) -> None:
        """`dtype`: NumPy's, or "bfloat16". `strides` count elements; None: dense and row-major. On `stream` the data are
        ready; 0 is the legacy default stream. `export` is kept as long as this."""
        self.owner = owner
        self.dtype = dtype
        self.shape = tuple(shape)
        self.ndim = len(self.shape)
        self.itemsize = 2 if dtype == "bfloat16" else dtype.itemsize
        self.index = device
        self.device = name_of(device)
        self.stream = stream
        self.writable = writable
        self._pointer = pointer
        self._strides = tuple(math.prod(shape[i + 1:]) for i in range(self.ndim)) if strides is None else tuple(strides)
        self._export = export

    def data_ptr(self) -> int:
        return self._pointer

    def stride(self) -> tuple[int, ...]:
        return self._strides

    def reshape(self, *shape: int) -> "DeviceArray":
        """A 0-d array as one of `shape`; captured numbers are read so."""
        if self.ndim:
            raise HeedError(f"{type(self.owner).__name__} cannot be reshaped by Heed: capture a tensor of torch or CuPy")
        return DeviceArray(self.owner, self._pointer, self.dtype, shape, None, self.index, self.stream, export=self._export)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A copy on the CPU, as the owner makes it."""
        return np.asarray(self.owner, dtype)


def adopt(array: Any) -> Any:
    """A DeviceArray where `array` is on a GPU, by DLPack or __cuda_array_interface__; else `array` itself.

    HeedError if its elements are of a type that NumPy does not have either."""
    if is_cupy(array):  # what CuPy's interfaces would say, without their waiting
        strides = [stride // array.itemsize for stride in array.strides]
        return DeviceArray(array, array.data.ptr, array.dtype, array.shape, strides, array.device.id, writable=True)
    if hasattr(type(array), "__dlpack_device__"):
        # The more precise of the two: it knows the device and bfloat16, and sees to streams.
        return _adopt_dlpack(array) if array.__dlpack_device__()[0] in (_DL_CUDA, _DL_CUDA_MANAGED) else array
    interface = getattr(array, "__cuda_array_interface__", None)  # some libraries set it on the instance
    if interface is None:
        return array
    pointer, read_only = interface["data"]
    dtype = getattr(array, "dtype", None)  # where it is NumPy's, it tells bfloat16, which typestr does not
    if not isinstance(dtype, np.dtype):
        dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        strides = [stride // dtype.itemsize for stride in strides]
    return DeviceArray(array, pointer or 0, dtype, interface["shape"], strides, _device_of(array),
                       interface.get("stream") or 0, not read_only)


def _device_of(array: Any) -> int:
    """The device of an array that has only __cuda_array_interface__, which does not say."""
    device = getattr(array, "device", None)
    for attribute in ("id", "index"):
        if isinstance(number := getattr(device, attribute, None), int):
            return number
    if lib.heed_gpu_count() > 1:
        raise HeedError(f"expected an array that says on which GPU it is, by DLPack, found {type(array).__name__}")
    return 0


class _DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h, with which a DLManagedTensor begins"""

    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                ("byte_offset", ctypes.c_uint64)]


_DL_CUDA, _DL_CUDA_MANAGED = 2, 13  # DLDeviceType
_DL_TYPES = {(0, 8): "int8", (0, 16): "int16", (0, 32): "int32", (0, 64): "int64", (1, 8): "uint8", (1, 16): "uint16",
             (1, 32): "uint32", (1, 64): "uint64", (2, 16): "float16", (2, 32): "float32", (2, 64): "float64",
             (4, 16): "bfloat16", (6, 8): "bool"}  # by DLDataTypeCode and bits
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def _adopt_dlpack(array: Any) -> DeviceArray:
    # 1 is the legacy default stream. The capsule is not consumed: when it is dropped, so is the export.
    capsule = array.__dlpack__(stream=1)
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    name = _DL_TYPES.get((tensor.code, tensor.bits))
    if name is None or tensor.lanes != 1:
        raise HeedError(f"expected an array of numbers, found elements of {getattr(array, 'dtype', 'another type')}")
    strides = tensor.strides[:tensor.ndim] if tensor.strides else None
    return DeviceArray(array, (tensor.data or 0) + tensor.byte_offset, name if name == "bfloat16" else np.dtype(name),
                       tensor.shape[:tensor.ndim], strides, tensor.device_id, export=capsule)
