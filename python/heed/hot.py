# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed._hot (lib/Python/Hot.c), if it is there: the way of calls of flex_attention that were seen before, and of Kernels.

Without it every call takes the way through Python, to the same results some microseconds later.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from heed import _runtime, arrays

if TYPE_CHECKING:
    from heed.kernel import Kernel
    from heed.tracing import Trace


class _Plan(NamedTuple):
    """What Hot.c reads, in this order."""

    fetch: Callable[[Any, Any], list[Any] | None]  # of the trace
    kernel: int  # address
    device: int  # -1: the CPU
    options: str
    is_torch: bool
    dtype: Any  # of the output: NumPy's, or for torch the keywords of empty_strided
    f32: Any  # of LSE, likewise
    owner: Kernel


_plans: dict[int, tuple[_Plan, ...]] = {}  # by the site of a call, those made last come first
_MAX_SITES = 1024
_MAX_PLANS = 64  # of a site, which are tried in turn: as many as heed.tracing keeps traces of it


def _load() -> tuple[Any, str]:
    """The module or None, and for people where it is or why it is not there."""
    if os.environ.get("HEED_HOT") == "0":
        return None, "HEED_HOT=0"
    if ".abi3.so" not in importlib.machinery.EXTENSION_SUFFIXES:
        return None, "this build of Python loads no abi3 modules"
    try:
        path = _runtime.find_library("_hot.abi3.so", "HEED_HOT")
        loader = importlib.machinery.ExtensionFileLoader("heed._hot", path)
        module: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("heed._hot", loader, origin=path))
        loader.exec_module(module)
    except (OSError, ImportError) as error:
        return None, " ".join(str(error).split())
    if module.CALL_BYTES != _runtime.CALL.size or not hasattr(module, "run"):
        return None, f"{path} is of another version"
    module.use({"ndarray": np.ndarray, "int8": np.dtype(np.int8), "dtype_codes": arrays.dtype_codes, **_runtime_functions()})
    for of_lists in (np.int32, np.int8):  # the extension knows types that Python has met
        arrays.dtype_code(np.empty(0, of_lists))
    probe = np.empty((3, 5), np.float32)[1:, 2:]
    expected = (probe.ctypes.data, arrays.dtype_code(probe), -1, (2, 3), (5, 1))
    if module.describe(probe) != expected:
        return None, f"NumPy {np.__version__} lays out its arrays in another way"
    return module, path


def _runtime_functions() -> dict[str, Any]:
    """Addresses of the functions that start kernels."""
    return {name: ctypes.cast(getattr(_runtime.lib, f"heed_{name}_packed"), ctypes.c_void_p).value for name in ("run", "launch")}


def _no_call(*_: Any) -> Any:
    return NotImplemented


_module, where = _load()
is_there = _module is not None
# call(query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa, return_lse, return_aux, options): the result;
# or None for a call to make in Python and to `remember`, NotImplemented for one to make in Python.
call: Callable[..., Any] = _module.call if is_there else _no_call
# run(address of a heed_kernel, query, key, value, output, lse, values of params, scale, threads): whether it was run. If not,
# Kernel does it, or says what is wrong.
run: Callable[..., bool] = _module.run if is_there else lambda *_: False
# describe(array): (address, dtype, device or -1, shape, strides) of an array of NumPy's or torch's own types, or None.
describe: Callable[[Any], Any] = _module.describe if is_there else lambda array: None


def use(**given: Any) -> None:
    """Tells what BlockMask, AuxRequest, AuxOutput and mask_of are: before the first call, by attention, which has them."""
    if is_there:
        _module.use({"plans": _plans, **given})


@functools.cache
def use_torch() -> None:
    """Makes calls on torch's tensors hot, if its tensors describe themselves to C: as from 2.10 on."""
    torch: Any = sys.modules["torch"]
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if is_there and exchange is not None:
        functions = (torch.empty_like, torch.empty_strided, torch.get_num_threads, torch.is_grad_enabled)
        _module.use({"Tensor": torch.Tensor, "Parameter": torch.nn.Parameter, "exchange": exchange,
                     "is_any_autocast_enabled": torch._C._is_any_autocast_enabled, "autocast": arrays.autocast,
                     "num_dispatch_modes": torch._C._len_torch_dispatch_stack,
                     **{function.__name__: function for function in functions}})


def remember(score_mod: Any, mask_mod: Any, trace: Trace, kernel: Kernel, query: Any, options: str) -> None:
    """Leaves a plan for calls like one that has succeeded. `query`: its operand, of NumPy or torch."""
    fetch = trace.fetch_of(score_mod, mask_mod)
    if fetch is None or _runtime.KernelTable.from_address(kernel._address).abi_version != _module.ABI_VERSION:
        return
    is_torch, device = arrays.is_torch(query), arrays.device_of(query)
    dtype: Any
    f32: Any
    dtype, f32 = query.dtype, sys.modules["torch"].float32 if is_torch else np.dtype(np.float32)
    if is_torch:
        dtype, f32 = ({"dtype": x, "device": query.device} for x in (dtype, f32))
    plan = _Plan(fetch, kernel._address, -1 if device is None else device, options, is_torch, dtype, f32, kernel)
    if len(_plans) >= _MAX_SITES:
        _plans.clear()
    site = _module.site(score_mod, mask_mod)
    _plans[site] = (plan, *_plans.get(site, ()))[:_MAX_PLANS]


def clear() -> None:
    """Forgets all plans."""
    _plans.clear()
