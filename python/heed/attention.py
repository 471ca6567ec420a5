# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""flex_attention: the call that FlexAttention's users know, on arrays of NumPy, torch, CuPy and others.

A call that was seen before costs some microseconds until its kernel starts. There are three ways, tried in turn:

    heed.hot        in C: plain arrays of NumPy and torch, with mods that were seen before, of any lengths and strides
    a _Plan         in Python: a call that has the shapes and strides of an earlier one; one lookup of the trace, one of the
                    plan, six addresses
    _unplanned      whatever is new, unusual or wrong: the only one that checks, compiles and reports, and that makes plans

On a GPU none of them waits for anything, and the first two copy nothing between the devices.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from heed import arrays, given_lists, gpu, hot, tracing, variant
from heed._runtime import ADDRESSES, CALL, DTYPES
from heed.arrays import Array
from heed.block_mask import BlockMask
from heed.kernel import Kernel

Mod = Callable[..., Any]
# Those that GPU kernels follow, as the compiler spells them.
SCHEDULE_OPTIONS = {"BLOCK_N": "block_kv", "num_warpgroups": "groups", "num_stages": "stages"}
_PRECISIONS = ("ieee", "tf32")
_WALKS = ("bounds", "lists")
_LARGEST_SCALE = float(np.finfo(np.float32).max)
_INTERNAL_OPTIONS = ("OUTPUT_LOGSUMEXP", "OUTPUT_MAX")  # FlexAttention's to set, by what is asked for
_BACKENDS = ("AUTO", "TRITON", "TRITON_DECODE", "FLASH")
_QUERY_CODES = {DTYPES.index(name): name for name in variant.QUERY_DTYPES}


class AuxRequest(NamedTuple):
    """Which further results flex_attention should return."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """Further results of flex_attention, each (B, Hq, L) in f32, or None if not asked for."""

    lse: Any = None
    max_scores: Any = None


class FlexKernelOptions(TypedDict, total=False):
    """What kernel_options may have, for type checkers. `fwd_` before a name is taken too, `bwd_` is not for the forward pass."""

    BLOCK_N: int  # keys of a block, on GPUs: a multiple of 16 up to 256
    num_stages: int  # blocks of keys and values in shared memory at a time, on GPUs
    num_warpgroups: int  # 1 to 4 groups of four warps that compute, on GPUs; Heed's
    PRECISION: Literal["ieee", "tf32"]  # of products of f32 inputs, on GPUs; Heed's
    STRICT_MATH: bool  # no approximate instructions in mods, on GPUs; Heed's
    BLOCK_WALK: Literal["bounds", "lists"]  # where a mask's blocks come from; Heed's
    BACKEND: Literal["AUTO", "TRITON", "TRITON_DECODE", "FLASH"]  # this one and all below: FlexAttention's, without effect
    BLOCK_M: int
    BLOCK_M1: int
    BLOCK_N1: int
    BLOCK_M2: int
    BLOCK_N2: int
    num_warps: int
    num_consumer_groups: int
    num_buffers_warp_spec: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    IS_DIVISIBLE: bool
    SKIP_MASK_SCORE: bool
    SPARSE_Q_BLOCK_SIZE: int
    SPARSE_KV_BLOCK_SIZE: int
    SPLIT_KV: int
    FLOAT32_PRECISION: str
    WRITE_DQ: bool
    USE_TMA: bool
    FORCE_USE_FLEX_ATTENTION: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int


_KERNEL_OPTIONS = frozenset(FlexKernelOptions.__annotations__)


def flex_attention(query: Array, key: Array, value: Array, score_mod: Mod | None = None, block_mask: Any = None,
                   scale: float | None = None, enable_gqa: bool = False, return_lse: bool = False,
                   kernel_options: FlexKernelOptions | dict[str, Any] | None = None, *, return_aux: Any = None,
                   mask_mod: Mod | None = None) -> Any:
    """softmax(score_mod(scale * query @ key^T) where mask) @ value, in one fused kernel.

    query (B, Hq, L, E), key (Bkv, Hkv, S, E), value (Bkv, Hkv, S, Ev): NumPy arrays, torch tensors on the CPU or an NVIDIA
    GPU, or CuPy arrays, of f32, bf16 or f16; E and Ev from 1 to 576. Bkv is B or 1. Hq is Hkv, or with enable_gqa a multiple
    of it. scale: 1/sqrt(E) if None. On a GPU the kernel is launched on the current stream, and the call returns at once.

    score_mod(score, b, h, q_idx, kv_idx) changes a scaled score. block_mask, or mask_mod(b, h, q_idx, kv_idx) in its
    place, says which pairs attend; which blocks can be skipped is derived from its code. A row that attends to nothing
    gives 0, and -inf as LSE. Both mods are traced, not run per element: see docs/flex_attention.md.

    Returns output (B, Hq, L, Ev) of query's dtype, whose axes lie in memory in the order of query's. With
    return_aux=AuxRequest(lse=True, max_scores=True): (output, AuxOutput). With return_lse=True (deprecated): (output, lse).
    kernel_options of FlexAttention are checked. BLOCK_WALK has an effect everywhere, BLOCK_N, num_stages, num_warpgroups,
    PRECISION="tf32" and STRICT_MATH=True on GPUs: see docs/flex_attention.md.

    Raises ValueError for shapes that do not fit, TraceError for mods that cannot be traced, NotImplementedError for
    devices and dtypes that are not supported, and for inputs that require gradients.
    """
    if _is_compiling():  # torch.compile(heed.flex_attention): the frame that is compiled is this one
        return _in_graph(query, key, value, score_mod, block_mask, scale, enable_gqa, return_lse, kernel_options,
                         return_aux=return_aux, mask_mod=mask_mod)
    options = "" if kernel_options is None else options_of(kernel_options)
    result = _hot_call(query, key, value, score_mod, block_mask, mask_mod, scale, enable_gqa, return_lse, return_aux, options)
    if result is not None and result is not NotImplemented:
        return result
    if (torch := sys.modules.get("torch")) is not None and isinstance(query, torch.Tensor):
        if _is_compiling is bool:
            _know_torch(torch)
        if (dynamo := sys.modules.get("torch._dynamo")) is not None and _is_watched(torch):
            # A call that a graph left out. Dynamo would compile Heed's own frames, and those of mods while they are traced.
            return dynamo.disable(flex_attention)(query, key, value, score_mod, block_mask, scale, enable_gqa, return_lse,
                                                  kernel_options, return_aux=return_aux, mask_mod=mask_mod)
        _check_modes(torch)
        operands = arrays.autocast(query, key, value)
        if operands is not None:
            with torch.autocast(query.device.type, enabled=False):
                return flex_attention(*operands, score_mod, block_mask, scale, enable_gqa, return_lse, kernel_options,
                                      return_aux=return_aux, mask_mod=mask_mod)

    if block_mask is not None:
        quick = None
        if mask_mod is None and getattr(block_mask, "_given", True):  # the mask of its lists may have been seen before
            quick = given_lists.quick_mask(block_mask, query, key)
        mask_mod = quick or mask_mod_of(block_mask, mask_mod, query, key, value, enable_gqa)
        if getattr(block_mask, "_mask_mod", None) is not mask_mod:
            result = _hot_call(query, key, value, score_mod, None, mask_mod, scale, enable_gqa, return_lse, return_aux, options)
            if result is not None and result is not NotImplemented:
                return result
    wants_lse, wants_max = return_lse, False
    if return_lse or return_aux is not None:
        wants_lse, wants_max = _check_aux(return_lse, return_aux)
    if scale is not None:
        _check_scale(scale)
    try:
        trace, values = tracing.lookup(score_mod, mask_mod)
    except (tracing.TraceError, TypeError):
        if hasattr(score_mod, "kv_num_blocks"):
            raise TypeError("score_mod: expected a function, found a BlockMask; pass it as block_mask=") from None
        raise

    if result is None:  # in C the next one like it is faster than by a _Plan
        return _unplanned(query, key, value, trace, values, (), scale, enable_gqa, wants_lse, wants_max, return_aux, options,
                          (score_mod, mask_mod))
    # A call like an earlier one: only addresses and values are new. Helpers would cost as much here as what they do.
    is_numpy = type(query) is np.ndarray
    kind: tuple[Any, ...] = ()
    try:
        if is_numpy:
            kind = (trace, scale, wants_lse, wants_max, enable_gqa, query.dtype, key.dtype, value.dtype,
                    query.shape, key.shape, value.shape, query.strides, key.strides, value.strides)
            q_pointer, k_pointer, v_pointer = _numpy_pointer(query), _numpy_pointer(key), _numpy_pointer(value)
        else:
            if query.requires_grad or key.requires_grad or value.requires_grad:
                _check_tensors(query, key, value)
            kind = (trace, scale, wants_lse, wants_max, enable_gqa, query.dtype, key.dtype, value.dtype,
                    query.shape, key.shape, value.shape, query.stride(), key.stride(), value.stride(),
                    query.device, key.device, value.device, _num_threads(), options)
            q_pointer, k_pointer, v_pointer = query.data_ptr(), key.data_ptr(), value.data_ptr()
        plan = _plans[kind]
        if (q_pointer | k_pointer | v_pointer) & plan.alignment:
            raise KeyError
        if not is_numpy and (query.is_neg() or key.is_neg() or value.is_neg()):  # memory holds the opposite
            raise KeyError
    except NotImplementedError:
        raise
    except (KeyError, AttributeError, TypeError, RuntimeError):
        return _unplanned(query, key, value, trace, values, kind, scale, enable_gqa, wants_lse, wants_max, return_aux, options)
    device = plan.device
    if is_numpy:
        output = np.empty(plan.shape, query.dtype)
        o_pointer = _numpy_pointer(output)
    else:
        output = (_torch_empty_like(query) if plan.is_like_query
                  else _torch_empty(plan.shape, dtype=query.dtype, device=query.device))
        o_pointer = output.data_ptr()
    lse = arrays.empty(plan.shape[:3], query, "f32") if wants_lse else None
    max_scores = arrays.empty(plan.shape[:3], query, "f32") if wants_max else None
    addresses = ADDRESSES.pack(q_pointer, k_pointer, v_pointer, o_pointer, 0 if lse is None else _address_of(lse),
                               0 if max_scores is None else _address_of(max_scores))
    try:
        if device is None:
            plan.kernel.run(plan.call, addresses, values)
        else:
            plan.kernel.launch(plan.call, addresses, values, device, _torch_stream(device))
    except NotImplementedError:
        _check_mask_captures(trace, values)
        raise
    if not wants_lse and not wants_max:
        return output if return_aux is None else (output, AuxOutput())
    return (output, AuxOutput(lse, max_scores)) if return_aux is not None else (output, lse)


def _in_graph(*args: Any, **kwargs: Any) -> Any:
    """What torch.compile traces in place of flex_attention. torch's name for such a function; it costs calls nothing."""
    from heed.integrations import torch

    return torch.flex_attention(*args, **kwargs)


flex_attention._torchdynamo_inline = _in_graph  # type: ignore[attr-defined]

# torch.compiler.is_dynamo_compiling where there is a torch; as it stands, false.
_is_compiling: Callable[[], bool] = bool


def _know_torch(torch: Any) -> None:
    global _is_compiling
    if (compiler := getattr(torch, "compiler", None)) is not None:
        _is_compiling = compiler.is_dynamo_compiling


if "torch" in sys.modules:
    _know_torch(sys.modules["torch"])


def _is_watched(torch: Any) -> bool:
    """Whether Dynamo looks at the frames that run, for some to compile."""
    callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)()
    return callback is not None and callback is not False


def _check_modes(torch: Any) -> None:
    """Refuses what records or fakes the operators that it sees: it would not see what a kernel writes."""
    if not torch._C._len_torch_dispatch_stack():
        return
    keys = torch._C._TorchDispatchModeKey
    for key, name in ((keys.PROXY, "make_fx"), (keys.FAKE, "FakeTensorMode"), (keys.FUNCTIONAL, "functionalization")):
        if torch._C._get_dispatch_mode(key) is not None:
            raise NotImplementedError(f"heed.flex_attention cannot be called under {name}: use torch.compile, or torch.export.export with "
                                      "strict=True, which find its operator")


class _Plan(NamedTuple):
    """What calls share that have the same trace, types, shapes, strides, devices, scale, threads, options and wanted
    results. A device has one target."""

    kernel: Kernel
    call: bytes  # CALL
    shape: tuple[int, ...]  # of the output, which is dense and row-major
    alignment: int  # bits of an address that have to be 0
    device: int | None  # of all operands
    is_like_query: bool  # the output, a dense tensor of torch, for which there is a faster way


hot.use(BlockMask=BlockMask, AuxRequest=AuxRequest, AuxOutput=AuxOutput, mask_of=given_lists.mask_of)
_hot_call = hot.call
_plans: dict[tuple[Any, ...], _Plan] = variant.plans
_MAX_PLANS = 4096
_F32 = DTYPES.index("f32")
_numpy_pointer = arrays.numpy_pointer
_address_of = arrays.data_pointer
# torch's functions, once it is there. Who limits torch's threads limits Heed's.
_torch_empty: Any = None
_torch_empty_like: Any = None
_torch_stream: Any = None
_num_threads: Any = None


def _unplanned(query: Any, key: Any, value: Any, trace: tracing.Trace, values: list[Any], kind: tuple[Any, ...],
               scale: float | None, enable_gqa: bool, wants_lse: bool, wants_max: bool, return_aux: Any, options: str,
               mods: tuple[Any, Any] | None = None) -> Any:
    """A call that is the first of its kind, or unusual, or wrong. `kind`: the _Plan's key, or (). `mods`: of a call that
    heed.hot should know from now on."""
    global _torch_empty, _torch_empty_like, _torch_stream, _num_threads
    asked = query, key, value = tuple(map(arrays.adopt, (query, key, value)))
    if (refusal := _refuse(query, key, value, enable_gqa)) is not None:
        raise refusal
    if isinstance(query, np.ndarray):
        query, key, value = (_with_whole_strides(np.asarray(x)) for x in (query, key, value))
    else:
        _check_tensors(query, key, value)
    threads = 0
    if arrays.is_torch(query):
        torch: Any = sys.modules["torch"]
        _torch_empty, _torch_empty_like = torch.empty, torch.empty_like
        _torch_stream, _num_threads = gpu.torch_stream(), torch.get_num_threads
        hot.use_torch()
        threads = _num_threads()
    # Copies are made on the stream that the kernel runs on, so their memory is used again after it only.
    query, key, value = (_with_unit_stride(x) for x in (query, key, value))

    shape = (*query.shape[:3], value.shape[3])
    steps = arrays.strides(query)
    is_row_major = steps[0] >= steps[1] >= steps[2]
    output = arrays.empty(shape, query) if is_row_major else arrays.empty_in_order_of(query, shape[3])
    lse = arrays.empty(shape[:3], query, "f32") if wants_lse else None
    max_scores = arrays.empty(shape[:3], query, "f32") if wants_max else None
    code: Any = arrays.dtype_code(query)
    operands = [word for x in (query, key, value, output) for word in (0, code, 4, *x.shape, *arrays.strides(x))]
    rows = [word for x in (lse, max_scores)
            for word in ((0,) * 9 if x is None else (0, _F32, 3, *x.shape, *arrays.strides(x)))]
    call = CALL.pack(*operands, *rows, math.nan if scale is None else scale, threads)
    addresses = ADDRESSES.pack(*(0 if x is None else _address_of(x) for x in (query, key, value, output, lse, max_scores)))
    device = arrays.device_of(query)
    kernel = variant.of_trace(trace).kernel(_QUERY_CODES[code], query.shape[3], value.shape[3], device, options)
    try:
        if device is None:
            kernel.run(call, addresses, values)
        else:
            kernel.launch(call, addresses, values, device, gpu.stream_of(query, device))
    except NotImplementedError:
        _check_mask_captures(trace, values)
        raise

    if mods is not None:
        hot.remember(*mods, trace, kernel, query, options)
    if kind and is_row_major and all(x is y for x, y in zip(asked, (query, key, value))):  # copies have other strides
        if len(_plans) >= _MAX_PLANS:
            _plans.clear()
        # Of a subclass the result is a plain tensor, as it was in this call.
        is_like_query = arrays.is_plain(query) and query.is_contiguous() and tuple(query.shape) == shape
        _plans[kind] = _Plan(kernel, call, shape, query.itemsize - 1, device, is_like_query)
    elif query is not asked[0]:
        output = arrays.in_order_of(output, asked[0])
    if return_aux is not None:
        return output, AuxOutput(lse, max_scores)
    return (output, lse) if wants_lse else output


def _with_whole_strides(array: np.ndarray) -> np.ndarray:
    """Aligned, and with strides that are whole elements: fields of structures are copied."""
    if array.flags.aligned and not any(stride % array.itemsize for stride in array.strides):
        return array
    return np.array(array, order="C", copy=True)


def _with_unit_stride(array: Array) -> Array:
    if arrays.is_torch(array):
        array = array.resolve_neg()
    if arrays.strides(array)[3] == 1:
        return array
    if arrays.is_torch(array):
        return array.contiguous()
    if (module := arrays.library(array)) is None:
        raise ValueError(f"Expect query, key and value to have unit stride in the last axis, but got {array.stride()}.")
    return module.ascontiguousarray(array)


# -- What is asked for ------------------------------------------------------------------------------


def _check_scale(scale: Any) -> None:
    """Anything with a float's value that is finite in f32."""
    try:
        number = math.nan if isinstance(scale, (str, bytes)) else float(scale)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:  # an integer
        number = math.inf
    if number != number and not isinstance(scale, (float, np.floating)):
        raise TypeError(f"scale: expected a number, found {type(scale).__name__}")
    if getattr(scale, "requires_grad", False) and sys.modules["torch"].is_grad_enabled():
        raise no_backward(scale.is_cuda)
    if not abs(number) <= _LARGEST_SCALE:
        raise ValueError(f"Expect a finite scale, but got {scale}.")


def _check_aux(return_lse: bool, return_aux: Any) -> tuple[bool, bool]:
    """Whether LSE and largest scores are asked for."""
    if return_lse and return_aux is not None:
        raise ValueError("Cannot specify both return_lse and return_aux. Use return_aux=AuxRequest(lse=True).")
    if return_lse:
        warnings.warn("return_lse is deprecated; use return_aux=AuxRequest(lse=True)", FutureWarning, stacklevel=3)
        return True, False
    if not hasattr(return_aux, "lse"):
        raise TypeError(f"return_aux: expected an AuxRequest, as in AuxRequest(lse=True), found {type(return_aux).__name__}")
    return bool(return_aux.lse), bool(getattr(return_aux, "max_scores", False))


def options_of(options: Mapping[str, Any] | str) -> str:
    """Checks kernel_options. What they ask of a schedule, in the compiler's words: "block_kv=64,tf32"."""
    if isinstance(options, str):  # torch.compile's operator has what this returned
        return options
    if not isinstance(options, Mapping):
        raise TypeError(f"kernel_options: expected a dict, found {type(options).__name__}")
    chosen: dict[str, Any] = {}
    for key, value in options.items():
        name = key.removeprefix("fwd_").removeprefix("bwd_")
        if name in _INTERNAL_OPTIONS:
            raise AssertionError(f"{key} must not be in kernel_options: return_aux says what is returned")
        if name not in _KERNEL_OPTIONS:
            raise ValueError(f"Unknown kernel option {key!r}; known: {', '.join(sorted(_KERNEL_OPTIONS))}")
        if name == "BACKEND" and value not in _BACKENDS:
            raise ValueError(f"Invalid BACKEND value {value!r}; expected one of {', '.join(_BACKENDS)}")
        if not key.startswith("bwd_") and (key != name or name not in chosen):
            chosen[name] = value
    if "BACKEND" in options and "FORCE_USE_FLEX_ATTENTION" in options:
        raise RuntimeError("BACKEND cannot be combined with legacy FORCE_USE_FLEX_ATTENTION")
    words = []
    for name, word in SCHEDULE_OPTIONS.items():
        if (value := chosen.get(name)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Invalid {name} value {value!r}; expected an integer above 0")
            words.append(f"{word}={value}")
    if (precision := chosen.get("PRECISION")) is not None:
        if precision not in _PRECISIONS:
            raise ValueError(f"Invalid PRECISION value {precision!r}; expected one of {', '.join(_PRECISIONS)}")
        if precision == "tf32":
            words.append("tf32")
    if (walk := chosen.get("BLOCK_WALK")) is not None:
        if walk not in _WALKS:
            raise ValueError(f"Invalid BLOCK_WALK value {walk!r}; expected one of {', '.join(_WALKS)}")
        words.append(f"walk={walk}")
    if chosen.get("STRICT_MATH"):
        words.append("strict_math")
    return ",".join(words)


def _check_tensors(query: Any, key: Any, value: Any) -> None:
    """Where arrays of one library other than NumPy are, and whether torch's may be used as they are."""
    if query.device != key.device or query.device != value.device:
        raise ValueError("Expected query, key, and value to have the same device type, "
                         f"but got {query.device}, {key.device} and {value.device} instead.")
    if not (arrays.is_torch(query) and arrays.is_torch(key) and arrays.is_torch(value)):
        return
    if not query.is_cpu and not query.is_cuda:
        raise ValueError(f"FlexAttention is only supported on CUDA, CPU or HPU devices. Found input tensors on {query.device.type}.")
    if (query.requires_grad or key.requires_grad or value.requires_grad) and sys.modules["torch"].is_grad_enabled():
        raise no_backward(query.is_cuda)


def _check_mask_captures(trace: tracing.Trace, values: list[Any]) -> None:
    """FlexAttention's refusal of captures that require gradients, where it is the mask_mod that has them."""
    of_mask = (value for param, value in zip(trace.params, values) if param.name in trace.mask_params)
    if any(getattr(value, "requires_grad", False) for value in of_mask):
        raise AssertionError("Captured buffers from mask mod that require grad are not supported. Detach them, or call it under "
                             "torch.no_grad().")


def no_backward(is_cuda: bool) -> NotImplementedError:
    """The refusal of inputs that require gradients."""
    return NotImplementedError(("Heed has no backward pass on CUDA yet" if is_cuda else "FlexAttention does not support backward "
                                "on CPU") + ". Please set the input requires_grad to False, or call it under torch.no_grad().")


def _refuse(query: Any, key: Any, value: Any, enable_gqa: bool) -> Exception | None:
    """What is wrong with the operands, in FlexAttention's order and words; None if they are only unusual."""
    operands = {"query": query, "key": key, "value": value}
    for name, x in operands.items():
        if not arrays.is_array(x):
            return TypeError(f"{name}: expected a NumPy array or a torch tensor, found {type(x).__name__}")
    if len({arrays.library(x) for x in operands.values()}) > 1:
        return TypeError("query, key and value: expected arrays of one library, found "
                         + ", ".join(type(x).__name__ for x in operands.values()))
    if query.dtype != key.dtype or query.dtype != value.dtype:
        return ValueError("Expected query, key, and value to have the same dtype, but got "
                          f"query.dtype: {query.dtype}, key.dtype: {key.dtype}, and value.dtype: {value.dtype} instead.")
    if any(str(getattr(x, "layout", "torch.strided")) != "torch.strided" and not x.is_nested for x in operands.values()):
        return NotImplementedError("flex_attention does not support sparse inputs: convert them with to_dense().")
    if any(getattr(x, "is_nested", False) for x in operands.values()):
        return NotImplementedError("flex_attention does not support NestedTensor inputs: convert them to dense tensors.")
    if any(x.ndim != 4 for x in operands.values()):
        return NotImplementedError("NYI: query, key, and value must be 4D tensors, found "
                                   + ", ".join(f"{name} of {x.ndim}D" for name, x in operands.items()))
    if arrays.dtype_code(query) not in _QUERY_CODES:
        return NotImplementedError("`torch.float` , `torch.float16` and `torch.bfloat16` are supported "
                                   f"(in NumPy float32, float16 and ml_dtypes.bfloat16), found {query.dtype}")
    (batch, heads, _, head_dim), (k_batch, k_heads, k_length, key_dim), (v_batch, v_heads, v_length, value_dim) = (
        tuple(x.shape) for x in operands.values())
    if head_dim != key_dim:
        return ValueError("Expect query and key/value to have the same embedding dimension "
                          f"but got E={head_dim} and E={key_dim}.")
    for name, dim in (("query and key", head_dim), ("value", value_dim)):
        if not 0 < dim <= 576:
            return ValueError(f"Expect an embedding dimension from 1 to 576, but got {dim} of {name}.")
    if (v_batch, v_heads, v_length) != (k_batch, k_heads, k_length):
        return ValueError("Expect key and value to have the same batch size, number of heads and length, "
                          f"but got {(k_batch, k_heads, k_length)} and {(v_batch, v_heads, v_length)}.")
    if k_batch != batch and k_batch != 1:
        return ValueError("Expect query and key/value to have the same batch size, or non-none block_mask, "
                          f"but got B={batch} and B={k_batch}.")
    if heads != k_heads and not enable_gqa:
        return ValueError("Expect query and key/value to have the same number of heads but got "
                          f"Hq={heads} and Hkv={k_heads}. Try setting enable_gqa=True for GQA.")
    if heads != k_heads and (k_heads == 0 or heads % k_heads):
        return ValueError("Expect number of query heads to be a multiple of kv heads for GQA but got "
                          f"Hq={heads} and Hkv={k_heads}.")
    return None


# -- Block masks ------------------------------------------------------------------------------------


def mask_mod_of(block_mask: Any, mask_mod: Mod | None, query: Any, key: Any, value: Any, enable_gqa: bool) -> Mod:
    try:
        # The common case first, without properties.
        if mask_mod is None and not block_mask._given:
            batch, heads, mask_q, mask_kv = block_mask._derivation.shape
            q_batch, q_heads, length, _ = query.shape
            if (length == mask_q and key.shape[2] == mask_kv and (batch == 1 or batch == q_batch)
                    and (heads == 1 or heads == q_heads)):
                derived: Mod = block_mask._mask_mod
                return derived
    except (AttributeError, ValueError, IndexError):
        pass
    if mask_mod is not None:
        raise ValueError("Cannot specify both block_mask and mask_mod: a block_mask has its mask_mod")
    query, key, value = map(arrays.adopt, (query, key, value))
    if (refusal := _refuse(query, key, value, enable_gqa)) is not None:
        raise refusal
    if not isinstance(block_mask, BlockMask):
        block_mask = adopt_mask(block_mask)
    if given_lists.is_sliced(block_mask.mask_mod):
        block_mask.mask_mod(None, None, None, None)  # raises, and says what to do
    *batch_dims, mask_q, mask_kv = block_mask.shape
    length, kv_length = query.shape[-2], key.shape[-2]
    if (length, kv_length) != (mask_q, mask_kv) and block_mask.BLOCK_SIZE != given_lists.NO_BLOCKS:
        smaller = length > mask_q or kv_length > mask_kv
        raise ValueError(
            f"block_mask was created for block_mask.shape={block_mask.shape} but got q_len={length} and kv_len={kv_length}. "
            f"As the block mask was created for a {'smaller' if smaller else 'larger'} length than you're using it for, "
            + ("you likely need to create a new block mask." if smaller else
               "you can either 1. create a new block mask with the correct length, or 2. 'adjust' the existing block mask to "
               f"the correct length by calling block_mask._adjust({length}, {kv_length})."))
    given_lists.check_batch_dims(batch_dims, query.shape)
    if not block_mask.has_given_lists:
        derived = block_mask.mask_mod
        return derived
    return given_lists.mask_for(block_mask, query)


def adopt_mask(block_mask: Any) -> BlockMask:
    """torch's own BlockMask: its lists may be the user's, so they count."""
    if not all(hasattr(block_mask, name) for name in ("kv_num_blocks", "kv_indices", "BLOCK_SIZE", "mask_mod")):
        raise TypeError(f"block_mask: expected a BlockMask, found {type(block_mask).__name__}; "
                        "a mask_mod function goes to mask_mod=")
    return BlockMask.from_kv_blocks(
        block_mask.kv_num_blocks, block_mask.kv_indices, block_mask.full_kv_num_blocks, block_mask.full_kv_indices,
        BLOCK_SIZE=block_mask.BLOCK_SIZE, mask_mod=block_mask.mask_mod, seq_lengths=block_mask.seq_lengths,
        compute_q_blocks=False)
