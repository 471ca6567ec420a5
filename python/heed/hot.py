# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed._hot (lib/Python/Hot.c), if it is there: the way of calls of flex_attention that were seen before.

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
from typing import Any

import numpy as np

from heed import _runtime, arrays
from heed.kernel import Kernel
from heed.tracing import Trace

LIBRARY = "_hot.abi3.so"


def _load() -> tuple[Any, str]:
    """The module or None, and for people where it is or why it is not there."""
    if os.environ.get("HEED_HOT") == "0":
        return None, "turned off by HEED_HOT=0"
    if ".abi3.so" not in importlib.machinery.EXTENSION_SUFFIXES:
        return None, "this build of Python loads no abi3 modules"
    try:
        path = _runtime.find_library(LIBRARY, "HEED_HOT")
        spec = importlib.util.spec_from_file_location("heed._hot", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (OSError, ImportError) as error:
        return None, " ".join(str(error).split())
    if module.ABI_VERSION != _runtime.ABI_VERSION or module.CALL_BYTES != _runtime.CALL.size:
        return None, f"{path} is of another build"
    module.use_numpy(np.ndarray, arrays.dtype_codes)
    probe = np.empty((3, 5), np.float32)[1:, 2:]
    arrays.dtype_code(probe)
    if module.describe(probe) != (probe.ctypes.data, _runtime.DTYPE_CODES["f32"], -1, (2, 3), (5, 1)):
        return None, f"NumPy {np.__version__} lays out arrays in an unknown way"
    return module, path


def _no_call(*_: Any) -> Any:
    return NotImplemented


_module, where = _load()
is_there = _module is not None
# call(query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa, return_lse, return_aux, options): the result;
# or None for a call to make in Python and to `remember`, NotImplemented for one to make in Python.
call: Callable[..., Any] = _no_call if _module is None else _module.call


def use_heed(block_mask: type, aux_request: type, aux_output: type) -> None:
    """To be called once, by attention, whose types these are."""
    if _module is not None:
        run, launch = (ctypes.cast(function, ctypes.c_void_p).value
                       for function in (_runtime.lib.heed_run_packed, _runtime.lib.heed_launch_packed))
        _module.use_heed(run, launch, block_mask, aux_request, aux_output)


@functools.cache
def use_torch() -> None:
    """To be called when a torch tensor turns up. Does nothing for a torch that is too old to describe tensors to C."""
    torch: Any = sys.modules["torch"]
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if _module is not None and exchange is not None:
        _module.use_torch(torch.Tensor, torch.nn.Parameter, exchange, torch.empty_like, torch.empty_strided,
                          torch.get_num_threads, torch.is_grad_enabled)


def remember(score_mod: Any, mask_mod: Any, trace: Trace, kernel: Kernel, query: Any, options: str) -> None:
    """Leaves a plan for calls like one that has succeeded; `query`: its operand, of NumPy or torch."""
    fetch = trace.fetch_of(score_mod, mask_mod)
    if _module is None or fetch is None:
        return
    device = arrays.device_of(query)
    dtype, f32 = query.dtype, np.dtype(np.float32)
    if is_torch := arrays.is_torch(query):
        dtype, f32 = ({"dtype": x, "device": query.device} for x in (dtype, sys.modules["torch"].float32))
    _module.remember(score_mod, mask_mod, fetch, kernel._address, kernel, -1 if device is None else device, options, is_torch,
                     dtype, f32)


def clear() -> None:
    """Forgets all plans."""
    if _module is not None:
        _module.clear()
