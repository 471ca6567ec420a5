# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls on arrays of a GPU, without one: where they go, what is passed, compiled and refused.

The tensors say that they are on a GPU and are not, and what would be launched runs on the CPU: so results can be
checked, too. What GPUs compute is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import math
import pathlib
import sys
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import heed  # noqa: E402
from heed import _compiler, _runtime, arrays, attention, block_mask, given_lists, gpu, variant  # noqa: E402
from heed import kernel as kernel_module  # noqa: E402
from heed._runtime import ADDRESSES, CALL, TENSOR  # noqa: E402

STREAM = 0x7000
F32 = _runtime.DTYPE_CODES["f32"]


class OnGPU(torch.Tensor):
    """A tensor in the CPU's memory that says that it is on a GPU."""

    is_cuda = True
    is_cpu = False
    place = 0

    @property
    def device(self) -> Any:
        return torch.device("cuda", self.place)

    def get_device(self) -> int:
        return self.place

    def cpu(self) -> Any:
        return self.as_subclass(torch.Tensor)


def on_gpu(tensor: Any, device: int = 0) -> Any:
    tensor = tensor.as_subclass(OnGPU)
    tensor.place = device
    return tensor


class Launch(NamedTuple):
    kernel: int
    call: bytes
    addresses: bytes
    words: bytes
    tensors: bytes
    stream: int
    device: int


class Machine:
    """What was launched and compiled, and the capabilities of the GPUs."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.requests: list[_compiler.Request] = []
        self.capabilities = [90, 80]

    @property
    def targets(self) -> list[tuple[str, str]]:
        return [(request.target, request.options) for request in self.requests]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Machine:
    made = Machine()
    compile, empty, run = _compiler.compile, torch.empty, _runtime.lib.heed_run_packed

    def launch(*arguments: Any) -> int:
        made.launches.append(Launch(*arguments))
        return int(run(*arguments[:-2]))

    def compile_for_cpu(request: _compiler.Request, emit: str) -> bytes:
        made.requests.append(request)
        return compile(dataclasses.replace(request, target="native", options=""), emit)

    def empty_there(*arguments: Any, device: Any = None, **named: Any) -> Any:
        device = torch.device(device or "cpu")
        made = empty(*arguments, **named)
        return on_gpu(made, device.index) if device.type == "cuda" else made

    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("HEED_GPU_TARGET", raising=False)
    monkeypatch.setattr(kernel_module, "_heed_launch", launch)
    monkeypatch.setattr(_compiler, "compile", compile_for_cpu)
    monkeypatch.setattr(torch, "empty", empty_there)
    for name in ("_torch_empty", "_torch_empty_like", "_torch_stream", "_num_threads"):
        monkeypatch.setattr(attention, name, None)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: STREAM + device, raising=False)
    monkeypatch.setattr(_runtime.lib, "heed_gpu_count", lambda: len(made.capabilities))
    monkeypatch.setattr(_runtime.lib, "heed_gpu_capability", lambda device: made.capabilities[device])
    variant.clear_memory()
    yield made
    variant.clear_memory()


def tensors(device: int = 0, dtype: Any = torch.float32) -> list[Any]:
    """query, key and value of (2, 4, 30, 16), (2, 2, 40, 16) and (2, 2, 40, 24)."""
    generator = torch.Generator().manual_seed(0)
    return [on_gpu(torch.randn(shape, generator=generator).to(dtype), device)
            for shape in ((2, 4, 30, 16), (2, 2, 40, 16), (2, 2, 40, 24))]


def plain(*given: Any) -> list[Any]:
    return [x.as_subclass(torch.Tensor) for x in given]


def causal(b, h, q, kv):
    return q >= kv


def adding(bias: Any) -> Any:
    return lambda s, b, h, q, kv: s + bias[kv]


# -- flex_attention on torch's tensors ---------------------------------------------------------------

@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_results_and_stream(machine: Machine, dtype: Any) -> None:
    q, k, v = tensors(dtype=dtype)
    bias = on_gpu(torch.randn(40))
    expected = heed.flex_attention(*plain(q, k, v), adding(*plain(bias)), mask_mod=causal, enable_gqa=True)
    assert not machine.launches
    found = heed.flex_attention(q, k, v, adding(bias), mask_mod=causal, enable_gqa=True)
    assert [launch.stream for launch in machine.launches] == [STREAM]
    assert type(found) is OnGPU and found.device == torch.device("cuda:0") and found.dtype == dtype
    assert torch.equal(*plain(found, expected))


def test_the_second_call_has_a_plan(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(1)
    bias = on_gpu(torch.randn(40), 1)
    request = heed.AuxRequest(lse=True, max_scores=True)
    heed.flex_attention(*tensors(), enable_gqa=True)  # the first call with tensors finds torch
    machine.launches.clear()
    first = heed.flex_attention(q, k, v, adding(bias), enable_gqa=True, return_aux=request)
    monkeypatch.setattr(attention, "_unplanned", None)
    second = heed.flex_attention(q, k, v, adding(bias), enable_gqa=True, return_aux=request)
    assert [launch.stream for launch in machine.launches] == 2 * [STREAM + 1]
    for a, b in ((first[0], second[0]), (first[1].lse, second[1].lse), (first[1].max_scores, second[1].max_scores)):
        assert a.device == b.device == torch.device("cuda:1") and torch.equal(*plain(a, b))
    (a, b) = machine.launches
    assert (a.kernel, a.call, a.words, a.tensors) == (b.kernel, b.call, b.words, b.tensors)


def test_what_is_passed(machine: Machine) -> None:
    q, k, v = tensors()
    bias, factor = on_gpu(torch.randn(40)), 0.5
    output = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s * factor + bias[j], scale=0.25, enable_gqa=True)
    (launch,) = machine.launches
    operands = [word for x in (q, k, v, output) for word in (0, F32, 4, *x.shape, *x.stride())]
    assert launch.call == CALL.pack(*operands, *2 * (0,) * 9, 0.25, torch.get_num_threads())
    assert launch.addresses == ADDRESSES.pack(*(x.data_ptr() for x in (q, k, v, output)), 0, 0)
    assert launch.tensors == TENSOR[1].pack(bias.data_ptr(), F32, 1, 40, 1)
    assert sorted(np.frombuffer(launch.words, np.int64)) == sorted([0, *np.array([0.5]).view(np.int64)])


def test_numbers_go_by_value(machine: Machine) -> None:
    """Python's, NumPy's, and tensors without axes that are on the CPU; those on the GPU are not waited for."""
    q, k, v = tensors()
    a, b, c, d, e = 0.5, np.float32(2), torch.tensor(3.0), torch.tensor(4), np.array(True)

    def score_mod(s, batch, h, i, j):
        return torch.where(e, s * a + b * c + d, s)

    found = heed.flex_attention(q, k, v, score_mod, enable_gqa=True)
    assert machine.launches[0].tensors == b"" and len(machine.launches[0].words) == 40
    assert torch.equal(*plain(found, heed.flex_attention(*plain(q, k, v), score_mod, enable_gqa=True)))
    c = on_gpu(torch.tensor(3.0))
    again = heed.flex_attention(q, k, v, score_mod, enable_gqa=True)
    assert len(machine.launches[1].tensors) == TENSOR[1].size
    assert torch.equal(*plain(again, found))


def test_tables_of_a_mod_are_copied_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors()
    copied = []

    def score_mod(s, b, h, i, j):
        return s * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[h]

    expected = heed.flex_attention(*plain(q, k, v), score_mod, enable_gqa=True)
    with pytest.raises(heed.HeedError, match="'table': expected a tensor on cuda:0, where query is, found one on cpu"):
        heed.flex_attention(q, k, v, score_mod, enable_gqa=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "as_tensor", lambda x: types.SimpleNamespace(
        to=lambda name: copied.append((name, x)) or on_gpu(x.clone())))
    for _ in range(3):
        assert torch.equal(*plain(heed.flex_attention(q, k, v, score_mod, enable_gqa=True), expected))
    assert [name for name, _ in copied] == ["cuda:0"]


def test_layouts(machine: Machine) -> None:
    q, k, v = tensors()
    expected = heed.flex_attention(*plain(q, k, v), enable_gqa=True)
    swapped = [on_gpu(x.transpose(1, 2).contiguous().transpose(1, 2)) for x in plain(q, k, v)]
    output = heed.flex_attention(*swapped, enable_gqa=True)
    assert output.transpose(1, 2).is_contiguous() and torch.equal(*plain(output, expected))
    spread = [on_gpu(x.repeat_interleave(2, -1)[..., ::2]) for x in plain(q, k, v)]
    assert torch.equal(*plain(heed.flex_attention(*spread, enable_gqa=True), expected))


# -- Devices -----------------------------------------------------------------------------------------

Q, K, V = tensors()
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "key on the CPU": (lambda: heed.flex_attention(Q, *plain(K, V), enable_gqa=True), ValueError,
                       "Expected query, key, and value to have the same device type, but got cuda:0, cpu and cpu instead."),
    "value on another GPU": (lambda: heed.flex_attention(Q, K, on_gpu(V.clone(), 1), enable_gqa=True), ValueError,
                             "Expected query, key, and value to have the same device type, but got cuda:0, cuda:0 and cuda:1"),
    "capture on the CPU": (lambda: heed.flex_attention(Q, Q, Q, adding(torch.zeros(30))), heed.HeedError,
                           "argument 'bias': expected a tensor on cuda:0, where query is, found one on cpu"),
    "NumPy capture": (lambda: heed.flex_attention(Q, Q, Q, adding(np.zeros(30, np.float32))), heed.HeedError,
                      "argument 'bias': expected a tensor on cuda:0, where query is, found one on cpu"),
    "capture on another GPU": (lambda: heed.flex_attention(Q, Q, Q, adding(on_gpu(torch.zeros(30), 1))), heed.HeedError,
                               "argument 'bias': expected a tensor on cuda:0, where query is, found one on cuda:1"),
    "capture on the GPU": (lambda: heed.flex_attention(*plain(Q, Q, Q), adding(on_gpu(torch.zeros(30)))), heed.HeedError,
                           "argument 'bias': expected a tensor on the CPU, found one on cuda:0"),
    "gradients": (lambda: heed.flex_attention(Q, K.detach().requires_grad_(), V, enable_gqa=True), NotImplementedError,
                  "Heed has no backward pass on CUDA yet. Please set"),
    "captured gradients": (lambda: heed.flex_attention(Q, Q, Q, adding(on_gpu(torch.zeros(30)).requires_grad_())),
                           NotImplementedError, "Heed has no backward pass yet"),
    "a kernel's key": (lambda: heed.compile("variant v {}", head_dim=16)(Q, plain(K)[0], V), heed.HeedError,
                       "argument 'key': expected a tensor on cuda:0, where query is, found one on cpu"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(machine: Machine, what: str) -> None:
    call, kind, words = REFUSED[what]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(words)
    assert not machine.launches


def test_errors_of_a_launch(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "_heed_launch", lambda *arguments: 5)
    monkeypatch.setattr(_runtime.lib, "heed_last_error", lambda: b"no code for it")
    monkeypatch.setattr(kernel_module.Kernel, "__init__", _without_check(monkeypatch))
    with pytest.raises(heed.HeedError, match="no code for it"):
        heed.flex_attention(Q, Q, Q)


def _without_check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kernel.__init__, for which the last error is the true one."""
    original, last_error = kernel_module.Kernel.__init__, _runtime.lib["heed_last_error"]
    last_error.restype = ctypes.c_char_p

    def init(*arguments: Any) -> None:
        with monkeypatch.context() as inner:
            inner.setattr(_runtime.lib, "heed_last_error", last_error)
            original(*arguments)

    return init


# -- What is compiled --------------------------------------------------------------------------------

@pytest.mark.parametrize("capability, target", [
    (80, "sm_80"), (86, "sm_86"), (87, "sm_80"), (89, "sm_89"), (90, "sm_90a"), (100, "sm_100"), (103, "sm_100"),
    (110, "sm_80"), (120, "sm_120"), (121, "sm_120")])
def test_target(machine: Machine, capability: int, target: str) -> None:
    machine.capabilities[0] = capability
    assert gpu.target(0) == target


def test_target_of_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEED_GPU_TARGET", "sm_80")
    heed.flex_attention(Q, Q, Q)
    assert machine.targets == [("sm_80", "aligned_only")]


def test_no_target(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.capabilities[0] = 75
    with pytest.raises(heed.HeedError, match="^cuda:0 has compute capability 7.5, expected 8.0 or newer"):
        heed.flex_attention(Q, Q, Q)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(heed.HeedError, match=r"^cuda:0 \(Tesla T4\) has compute capability 7.5, expected 8.0 or newer"):
        heed.flex_attention(Q, Q, Q)
    machine.capabilities[0] = 0
    with pytest.raises(heed.HeedError, match="^cuda:0 cannot be used: "):
        heed.flex_attention(Q, Q, Q)


def test_a_kernel_for_each_device_and_schedule(machine: Machine) -> None:
    for _ in range(2):
        heed.flex_attention(Q, Q, Q)
        heed.flex_attention(*plain(Q, Q, Q), kernel_options={"BLOCK_N": 64})
        heed.flex_attention(*3 * [on_gpu(Q.clone(), 1)])
        heed.flex_attention(Q, Q, Q, kernel_options={"BLOCK_N": 64})
        heed.flex_attention(Q, Q, Q, kernel_options={"fwd_BLOCK_N": 64, "bwd_BLOCK_N": 32, "num_warps": 8})
        heed.flex_attention(Q, Q, Q, kernel_options={"PRECISION": "tf32"})
    assert machine.targets == [("sm_90a", "aligned_only"), (_compiler.native_target(), ""), ("sm_80", "aligned_only"),
                               ("sm_90a", "block_kv=64,aligned_only"), ("sm_90a", "tf32,aligned_only")]
    assert len({launch.kernel for launch in machine.launches}) == 4
    count = len(machine.requests)
    variant.clear_memory()
    heed.flex_attention(Q, Q, Q, kernel_options={"PRECISION": "tf32"})
    assert len(machine.requests) == count, "from the disk"
    heed.flex_attention(Q, Q, Q, kernel_options={"STRICT_MATH": True})
    assert machine.targets[count:] == [("sm_90a", "strict_math,aligned_only")]


def test_unaligned_arrays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that takes them is compiled once, when the first of them comes, and serves those that need it only."""
    launch, refused = kernel_module._heed_launch, {"address": None}

    def refuse(*arguments: Any) -> int:
        refused["address"] = refused["address"] or arguments[0]
        return 7 if arguments[0] == refused["address"] else int(launch(*arguments))

    monkeypatch.setattr(kernel_module, "_heed_launch", refuse)
    options = {"BLOCK_N": 64, "STRICT_MATH": True}
    expected = heed.flex_attention(*plain(Q, K, V), mask_mod=causal, enable_gqa=True)
    for _ in range(2):
        found = heed.flex_attention(Q, K, V, mask_mod=causal, enable_gqa=True, kernel_options=options)
        assert torch.equal(*plain(found, expected))
    on_gpus = [target for target in machine.targets if target[0] == "sm_90a"]
    assert on_gpus == [("sm_90a", "block_kv=64,strict_math,aligned_only"), ("sm_90a", "strict_math,no_wgmma")]
    assert len(machine.launches) == 2


@pytest.mark.parametrize("options, words", [
    ({}, ""), ({"BLOCK_M": 64, "num_warps": 4, "BACKEND": "TRITON"}, ""), ({"BLOCK_N": 64}, "block_kv=64"),
    ({"STRICT_MATH": True, "PRECISION": "tf32", "num_stages": 3, "num_warpgroups": 2, "BLOCK_N": 64},
     "block_kv=64,groups=2,stages=3,tf32,strict_math"),
    ({"STRICT_MATH": False, "PRECISION": "ieee", "num_stages": None}, ""),
    ({"fwd_num_stages": 2, "num_stages": 4, "bwd_num_stages": 5}, "stages=2"),
    ({"num_stages": 4, "fwd_num_stages": 2}, "stages=2"), ({"bwd_BLOCK_N": 16}, "")])
def test_options(options: dict[str, Any], words: str) -> None:
    assert attention.options_of(options) == words


@pytest.mark.parametrize("options, words", [
    ({"BLOCK_N": 0}, "Invalid BLOCK_N value 0; expected an integer above 0"), ({"num_stages": True}, "Invalid num_stages"),
    ({"num_warpgroups": "2"}, "Invalid num_warpgroups value '2'"),
    ({"PRECISION": "bf16"}, "Invalid PRECISION value 'bf16'; expected one of ieee, tf32"),
    ({"num_warpgroup": 2}, "Unknown kernel option 'num_warpgroup'")])
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attention.options_of(options)


def test_options_reach_the_compiler() -> None:
    request = _compiler.Request("variant v {}", target="sm_90a,native", options="tf32")._struct()
    assert request.options == b"tf32" and request.targets == b"sm_90a," + _compiler.native_target().encode()
    assert _compiler.Request("variant v {}")._struct().options is None


def test_variants(machine: Machine) -> None:
    """Of the Heed language: the query decides."""
    made = heed.variant.Variant("variant v(bias: f32[?]) { score_mod(s, b, h, q, kv) { return s + bias[kv] } }")
    bias = on_gpu(torch.randn(40))
    expected = made(*plain(Q, K, V), bias=plain(bias)[0])
    assert torch.equal(*plain(made(Q, K, V, bias=bias), expected))
    assert machine.launches[0].stream == STREAM and machine.targets[-1] == ("sm_90a", "aligned_only")


# -- Arrays of other libraries -----------------------------------------------------------------------

class Foreign:
    """An array with __cuda_array_interface__ only, as Numba's and RMM's are."""

    def __init__(self, array: np.ndarray, read_only: bool = False, device: int | None = None, **more: Any) -> None:
        self.array = array
        if device is not None:
            self.device = types.SimpleNamespace(id=device)
        self.__cuda_array_interface__ = {"shape": array.shape, "typestr": array.dtype.str, "version": 3,
                                         "data": (array.ctypes.data, read_only), "strides": array.strides, **more}


class Exported:
    """An array with DLPack only."""

    def __init__(self, array: np.ndarray, code: int | None = None) -> None:
        self.array = array
        self.code = code
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        tensor = gpu._DLTensor.from_address(gpu._capsule_pointer(capsule, b"dltensor"))
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        tensor.code = tensor.code if self.code is None else self.code
        return capsule


class CuPyArray:
    """As much of cupy.ndarray as Heed looks at."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)
        self.device = Device(1)

    def __getattr__(self, name: str) -> Any:
        if name not in ("shape", "strides", "dtype", "ndim", "itemsize"):
            raise AttributeError(name)
        return getattr(self.array, name)

    def transpose(self, axes: Any) -> "CuPyArray":
        return CuPyArray(self.array.transpose(axes))

    def astype(self, dtype: Any) -> "CuPyArray":
        return CuPyArray(self.array.astype(dtype))

    def get(self) -> np.ndarray:
        return self.array.copy()


class Device:
    current = [0]

    def __init__(self, id: int) -> None:
        self.id = id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __enter__(self) -> None:
        self.current.append(self.id)

    def __exit__(self, *_: object) -> None:
        self.current.pop()


@pytest.fixture
def cupy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("cupy")

    def empty(shape: Any, dtype: Any) -> CuPyArray:
        assert Device.current[-1] == 1
        return CuPyArray(np.full(shape, np.nan, dtype))

    module.ndarray, module.empty = CuPyArray, empty
    module.asarray = lambda array: CuPyArray(np.array(array))
    module.ascontiguousarray = lambda array: CuPyArray(np.ascontiguousarray(array.array))
    stream = types.SimpleNamespace(ptr=77, synchronize=lambda: None)
    module.cuda = types.SimpleNamespace(get_current_stream=lambda device=None: stream, Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def numpy_inputs(dtype: Any = np.float32) -> list[np.ndarray]:
    return [x.numpy().astype(dtype) for x in plain(Q, K, V)]


def test_cupy(cupy: Any, machine: Machine) -> None:
    q, k, v = numpy_inputs()
    bias, index = np.random.default_rng(0).standard_normal(40).astype(np.float32), np.arange(40, dtype=np.uint8)

    def score_of(bias: Any, index: Any) -> Any:
        return lambda s, b, h, i, j: s + bias[index[j]]

    request = heed.AuxRequest(lse=True)
    expected, rows = heed.flex_attention(q, k, v, score_of(bias, index), mask_mod=causal, enable_gqa=True, return_aux=request)
    score_mod = score_of(CuPyArray(bias), CuPyArray(index))
    found, aux = heed.flex_attention(*map(CuPyArray, (q, k, v)), score_mod, mask_mod=causal, enable_gqa=True, return_aux=request)
    assert type(found) is CuPyArray and machine.targets[-1] == ("sm_80", "aligned_only") and machine.launches[0].stream == 77
    np.testing.assert_array_equal(found.array, expected)
    np.testing.assert_array_equal(aux.lse.array, rows.lse)
    swapped = [CuPyArray(x.swapaxes(1, 2).copy().swapaxes(1, 2)) for x in (q, k, v)]
    found = heed.flex_attention(*swapped, score_mod, mask_mod=causal, enable_gqa=True)
    np.testing.assert_array_equal(found.array, expected)
    assert found.array.swapaxes(1, 2).flags.c_contiguous
    spread = [CuPyArray(np.repeat(x, 2, -1)[..., ::2]) for x in (q, k, v)]
    np.testing.assert_array_equal(heed.flex_attention(*spread, score_mod, mask_mod=causal, enable_gqa=True).array, expected)
    there = CuPyArray(index)
    mask = heed.create_mask(lambda b, h, i, j: i >= there[j], None, None, 30, 40)
    assert np.array_equal(np.asarray(mask)[0, 0], np.arange(30)[:, None] >= np.arange(40))


def test_cupy_block_lists_and_tables(cupy: Any, machine: Machine) -> None:
    q, k, v = numpy_inputs()
    lists = heed.BlockMask.from_kv_blocks(np.array([[[1, 2]]]), np.array([[[[0, 1], [1, 0]]]]), BLOCK_SIZE=20,
                                          seq_lengths=(30, 40))

    def score_mod(s, b, h, i, j):
        return s * np.array([1.0, 2.0, 3.0, 4.0])[h]

    expected = heed.flex_attention(q, k, v, score_mod, lists, enable_gqa=True)
    found = heed.flex_attention(*map(CuPyArray, (q, k, v)), score_mod, lists, enable_gqa=True)
    np.testing.assert_array_equal(found.array, expected)


def test_interface(machine: Machine) -> None:
    machine.capabilities = [90]
    q, k, v = numpy_inputs()
    kernel = heed.compile("variant v {}", head_dim=16, value_head_dim=24)
    expected, rows = kernel(q, k, v, return_lse=True)
    operands = [Foreign(x, read_only=True, stream=5) for x in (q, k, v)]
    out, lse = Foreign(np.empty_like(expected)), Foreign(np.empty_like(rows))
    assert kernel(*operands, out=out, lse=lse) == (out, lse)
    np.testing.assert_array_equal(out.array, expected)
    np.testing.assert_array_equal(lse.array, rows)
    assert machine.launches[0].stream == 5
    with pytest.raises(heed.HeedError, match=r"makes arrays of NumPy, torch and CuPy only, not Foreign: give out="):
        kernel(*operands)
    with pytest.raises(heed.HeedError, match="argument 'output': expected an array that can be written"):
        kernel(*operands, out=operands[0])
    bits = [Foreign(arrays.to_bf16(x), strides=None) for x in (q, k, v)]
    half = heed.compile("variant v {}", dtype="bf16", head_dim=16, value_head_dim=24)
    out = Foreign(np.empty(expected.shape, np.uint16))
    half(*bits, out=out)
    np.testing.assert_array_equal(out.array, half(*(x.array for x in bits)))


def test_interface_of_several_gpus(machine: Machine) -> None:
    q, k, v = numpy_inputs()
    kernel = heed.compile("variant v {}", head_dim=16, value_head_dim=24)
    with pytest.raises(heed.HeedError, match="says on which GPU it is, by DLPack, found Foreign"):
        kernel(Foreign(q), Foreign(k), Foreign(v), out=Foreign(np.empty((2, 4, 30, 24), np.float32)))
    kernel(*(Foreign(x, device=1) for x in (q, k, v)), out=Foreign(np.empty((2, 4, 30, 24), np.float32), device=1))
    with pytest.raises(heed.HeedError, match="argument 'value': expected a tensor on cuda:1, where query is, found one on cuda:0"):
        kernel(*(Foreign(x, device=1) for x in (q, k)), Foreign(v, device=0), out=Foreign(q, device=1))


def test_dlpack(machine: Machine) -> None:
    q, k, v = numpy_inputs()
    kernel = heed.compile("variant v(bias: f32[?]) { score_mod(s, b, h, q, kv) { return s + bias[kv] } }", head_dim=16,
                          value_head_dim=24)
    bias = np.random.default_rng(0).standard_normal(80).astype(np.float32)[::2]
    expected = kernel(q, k, v, bias=bias)
    operands = [Exported(x) for x in (q, k, v)]
    out = on_gpu(torch.empty(expected.shape), 1)
    assert kernel(*operands, bias=Exported(bias), out=out) is out
    np.testing.assert_array_equal(out.cpu(), expected)
    assert machine.launches[0].stream == 0 and operands[0].streams == [1]
    with pytest.raises(heed.HeedError, match="argument 'output': expected an array that can be written"):
        kernel(*operands, bias=Exported(bias), out=Exported(expected))
    assert gpu.adopt(Exported(arrays.to_bf16(q), code=4)).dtype == "bfloat16"
    with pytest.raises(heed.HeedError, match="expected an array of numbers"):
        gpu.adopt(Exported(q, code=5))


def test_foreign_captures(machine: Machine) -> None:
    q, k, v = tensors(1)
    bias = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    expected = heed.flex_attention(*plain(q, k, v), adding(bias), enable_gqa=True)
    assert torch.equal(*plain(heed.flex_attention(q, k, v, adding(Exported(bias)), enable_gqa=True), expected))
    number = Exported(np.array(2, np.float32))
    found = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s * number, enable_gqa=True)
    assert torch.equal(*plain(found, heed.flex_attention(*plain(q, k, v), lambda s, b, h, i, j: s * 2.0, enable_gqa=True)))
    with pytest.raises(heed.TraceError, match="captured tensor 'bias' has elements of float64: convert it to f32"):
        heed.flex_attention(q, k, v, adding(Exported(bias.astype(np.float64))), enable_gqa=True)
    with pytest.raises(heed.HeedError, match="'bias': expected a tensor on cuda:0, where query is, found one on cuda:1"):
        heed.flex_attention(Q, Q, Q, adding(Exported(bias)))


@pytest.mark.parametrize("kind", (Exported, Foreign))
def test_foreign_operands_need_a_kernel(machine: Machine, kind: Any) -> None:
    machine.capabilities = [90]
    with pytest.raises(heed.HeedError, match=f"not {kind.__name__}: give out="):
        heed.flex_attention(*map(kind, numpy_inputs()), enable_gqa=True)


# -- Block masks -------------------------------------------------------------------------------------

def test_block_masks(machine: Machine) -> None:
    mask = heed.create_block_mask(causal, None, None, 30, 40, device="cuda:0")
    assert mask.device == torch.device("cuda:0") and mask.to("cpu").device == torch.device("cpu")
    assert mask.to("numpy").device == "numpy" and mask.to("numpy")[0].to("cpu").device == torch.device("cpu")
    assert torch.equal(*plain(heed.flex_attention(Q, K, V, None, mask, enable_gqa=True),
                              heed.flex_attention(*plain(Q, K, V), None, mask, enable_gqa=True)))


@pytest.mark.parametrize("with_full", (False, True))
@pytest.mark.parametrize("batch", ((), (3,), (2, 4)))
def test_kinds_by_torch(batch: tuple[int, ...], with_full: bool) -> None:
    rng = np.random.default_rng(len(batch))
    lists = [x for _ in range(1 + with_full) for x in (rng.integers(0, 6, (*batch, 4)), rng.integers(-2, 9, (*batch, 4, 6)))]
    for given in (lists, [torch.from_numpy(x) for x in lists]):
        mask = heed.BlockMask.from_kv_blocks(*given, BLOCK_SIZE=16, seq_lengths=(60, 120))
        assert np.array_equal(given_lists.kinds_on(torch, mask, "cpu"), mask.block_kinds())
        assert given_lists.kinds_on(torch, mask, "meta").device.type == "meta", "waits for nothing"


def test_masks_that_capture_what_a_gpu_holds(machine: Machine) -> None:
    doc = on_gpu(torch.arange(40) // 7)
    mask = heed.create_mask(lambda b, h, i, j: doc[i] == doc[j], None, None, 40, 40, device="cpu")
    assert torch.equal(mask[0, 0], torch.arange(40)[:, None] // 7 == torch.arange(40) // 7)


# -- The rest ----------------------------------------------------------------------------------------

def test_fake_tensors_stay_on_their_device() -> None:
    import heed.integrations.torch  # noqa: F401
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(2, 4, 30, 16, device="cuda:0")
        found = torch.ops.heed.flex_attention(q, q, q, "", [], [], [], None, False, True, True, "tf32")
    assert [str(x.device) for x in found] == 3 * ["cuda:0"]


@pytest.mark.parametrize("codes, expected", [
    ({}, ["free"]), ({"num_gpu_codes": 2}, ["unload", "free"]), ({"num_gpu_mask_codes": 1}, ["unload", "free"])])
def test_unloading(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], expected: list[str]) -> None:
    calls: list[str] = []
    table = _runtime.KernelTable(**codes)
    monkeypatch.setattr(_runtime.lib, "heed_gpu_unload", lambda kernel: calls.append("unload"))
    monkeypatch.setattr(_compiler.library(), "heed_library_free", lambda handle: calls.append("free"))
    _compiler._unload(ctypes.c_void_p(1), ctypes.addressof(table))
    assert calls == expected


def test_what_a_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made = heed.compile("variant v {}", head_dim=16)
    assert made.gpu_targets == []
    codes = (_runtime.GPUCode * 2)(_runtime.GPUCode(_runtime.GPUModule(b"sm_90a"), block_q=128, block_kv=64),
                                   _runtime.GPUCode(_runtime.GPUModule(b"sm_80")))
    table = _runtime.KernelTable.from_buffer_copy(_runtime.KernelTable.from_address(made._address))
    table.num_codes, table.num_gpu_codes, table.gpu_codes = 0, 2, codes
    kernel = heed.Kernel(ctypes.addressof(table), (made, table, codes))
    assert kernel.gpu_targets == ["sm_90a", "sm_80"]
    monkeypatch.setattr(_runtime.lib, "heed_select_gpu_code", lambda kernel, device: ctypes.pointer(codes[device]))
    assert (kernel.target, kernel.block_shape) == ("sm_90a", (128, 64))


@pytest.mark.parametrize(("options", "expected"), [
    ("", [(192, 128, 2048), (256, 64, 0), (128, 96, 0)]), ("aligned_only", [(192, 128, 2048), (256, 64, 0)]),
    ("keys=9000,aligned_only", [(192, 128, 0)]), ("keys=100,aligned_only", [(256, 64, 0)]),
    ("groups=2,block_kv=64,aligned_only", [(128, 64, 0)])])
def test_codes_for_lengths(options: str, expected: list[tuple[int, int, int]]) -> None:
    made = variant.as_variant("variant v {}")._kernel(("bf16", 64, 64, "sm_90a", options))
    table = _runtime.KernelTable.from_address(made._address)
    codes = [table.gpu_codes[i] for i in range(table.num_gpu_codes)]
    assert [(code.block_q, code.block_kv, code.min_keys) for code in codes][:2] == expected[:2]
    assert len(codes) == len(expected) and [code.needs_aligned for code in codes][:2] == [1] * min(2, len(codes))


def test_configuration(machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    heed.show_config()
    assert "GPUs       cuda:0 9.0, cuda:1 8.0\n" in capsys.readouterr().out
    machine.capabilities = []
    heed.show_config()
    assert "GPUs       none: " in capsys.readouterr().out


def test_nan_scale_is_the_default(machine: Machine) -> None:
    heed.flex_attention(Q, Q, Q)
    assert math.isnan(CALL.unpack(machine.launches[0].call)[-2])


# -- Block lists ------------------------------------------------------------------------------------


class Stream:
    """torch's, as far as block lists need it."""

    def __init__(self, number: int) -> None:
        self.cuda_stream = number
        self.waited: list[Any] = []

    def record_event(self) -> Any:
        return f"event of {self.cuda_stream}"

    def wait_event(self, event: Any) -> None:
        self.waited.append(event)


class Lists:
    """What the mask kernels were asked, and torch's streams. The CPU answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stream = Stream(STREAM)
        self.is_capturing = False
        self.used: list[int] = []  # streams other than the one that made a matrix


@pytest.fixture
def lists(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Lists:
    made = Lists()

    def matrix_of(matrix: Any) -> np.ndarray:
        shape = (matrix.num_batches, matrix.num_heads, matrix.num_rows, matrix.num_columns)
        return np.ctypeslib.as_array((ctypes.c_int8 * math.prod(shape)).from_address(matrix.classes)).reshape(shape)

    def classify(self: Any, extents: Any, block_size: Any, values: Any, matrix: Any, device: int, stream: int) -> None:
        made.asked.append(f"classify on {device} {stream - STREAM}")
        runs = self.classify(extents, block_size, [plain(x)[0] if isinstance(x, torch.Tensor) else x for x in values])
        matrix_of(matrix)[:] = runs.matrix()

    def listing(self: Any, matrix: Any, by_column: bool, given: Any, device: int, stream: int) -> None:
        made.asked.append(f"list on {device} {stream - STREAM}")
        kinds = matrix_of(matrix).swapaxes(-1, -2) if by_column else matrix_of(matrix)
        for kind, prefix in ((1, "partial"), (2, "full")):
            order = np.argsort(kinds != kind, axis=-1, kind="stable").astype(np.int32)
            counts = (kinds == kind).sum(-1, dtype=np.int32)
            ctypes.memmove(getattr(given, prefix + "_counts"), counts.ctypes.data, counts.nbytes)
            ctypes.memmove(getattr(given, prefix + "_indices"), np.ascontiguousarray(order).ctypes.data, order.nbytes)

    def fill(self: Any, given: Any, widths: Any, matrix: Any, device: int, stream: int) -> None:
        made.asked.append(f"fill {widths} on {device} {stream - STREAM}")
        kinds = matrix_of(matrix).reshape(-1, matrix.num_columns)
        kinds[:] = 0
        for kind, prefix, width in ((1, "partial", widths[0]), (2, "full", widths[1])):
            if not (address := getattr(given, prefix + "_counts")):
                continue
            counts = np.ctypeslib.as_array((ctypes.c_int32 * len(kinds)).from_address(address))
            indices = np.ctypeslib.as_array((ctypes.c_int32 * (len(kinds) * width)).from_address(getattr(given, prefix + "_indices")))
            for row, count in enumerate(counts):
                kinds[row, indices.reshape(-1, width)[row, :count]] = kind

    monkeypatch.setattr(heed.Kernel, "_launch_classify", classify)
    monkeypatch.setattr(heed.Kernel, "_launch_list", listing)
    monkeypatch.setattr(heed.Kernel, "_launch_fill", fill)
    monkeypatch.setattr(OnGPU, "record_stream", lambda self, stream: made.used.append(stream.cuda_stream), raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: made.stream)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: made.is_capturing)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: made.stream.cuda_stream, raising=False)
    return made


LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices",
         "q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")


def documents(device: int = 0) -> Any:
    ids = on_gpu(torch.arange(300) // 70, device)
    return lambda b, h, q, kv: (ids[q] == ids[kv]) & (q >= kv)


def test_lists_are_made_on_the_gpu(lists: Lists) -> None:
    expected = heed.create_block_mask(documents(), 2, 3, 300, 280, device="numpy", BLOCK_SIZE=32)
    found = heed.create_block_mask(documents(), 2, 3, 300, 280, device="cuda:0", BLOCK_SIZE=32)
    assert not lists.asked
    for name in LISTS:
        array = getattr(found, name)
        assert array.device == torch.device("cuda:0") and array.is_contiguous()
        np.testing.assert_array_equal(plain(array)[0].numpy(), getattr(expected, name))
    assert lists.asked == ["classify on 0 0", "list on 0 0", "list on 0 0"]
    assert found._derivation._matrices and copy.deepcopy(found._derivation)._matrices == {}


def test_slices_of_lists_are_made_on_the_gpu(lists: Lists) -> None:
    expected = heed.create_block_mask(documents(), 2, 3, 300, 280, device="numpy", BLOCK_SIZE=32)
    found = heed.create_block_mask(documents(), 2, 3, 300, 280, device="cuda:0", BLOCK_SIZE=32)
    for index in ((1,), (0, 2, slice(3, None)), (slice(None), [2, 0, 1], 4), (0, 0, [7, 1])):
        del lists.asked[:]
        sliced = found[index]
        for name in LISTS:
            array = getattr(sliced, name)
            assert array.device == torch.device("cuda:0") and array.is_contiguous()
            np.testing.assert_array_equal(plain(array)[0].numpy(), getattr(expected[index], name))
        assert [asked for asked in lists.asked if "classify" not in asked] == ["list on 0 0", "list on 0 0"]


def test_lists_on_several_streams(lists: Lists) -> None:
    mask = heed.create_block_mask(documents(), None, None, 300, 280, device="cuda:0", BLOCK_SIZE=32)
    assert mask.kv_indices is not None
    lists.stream = Stream(STREAM + 1)
    assert mask.q_indices is not None
    assert (lists.stream.waited, lists.used) == ([f"event of {STREAM}"], [STREAM + 1])
    assert lists.asked == ["classify on 0 0", "list on 0 0", "list on 0 1"]
    # What a graph makes is for the graph, also where it is captured on the same stream.
    mask = heed.create_block_mask(documents(), None, None, 300, 280, device="cuda:0", BLOCK_SIZE=32)
    lists.is_capturing = True
    assert mask.kv_indices is not None and mask.q_indices is not None
    lists.is_capturing = False
    assert mask.kv_indices is not None and mask.q_indices is not None
    assert lists.asked[3:] == 2 * ["classify on 0 1", "list on 0 1"] + ["classify on 0 1", "list on 0 1", "list on 0 1"]


def test_lists_that_the_gpu_cannot_make(lists: Lists, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures elsewhere, or a GPU without kernels: the CPU makes them."""
    moved: list[Any] = []
    monkeypatch.setattr(block_mask, "_move", lambda array, device: moved.append(device) or array)
    ids = torch.arange(300) // 70
    for mask_mod in (documents(1), lambda b, h, q, kv: ids[q] == ids[kv]):
        assert heed.create_block_mask(mask_mod, None, None, 300, 300, device="cuda:0").kv_indices is not None
    large = heed.create_block_mask(causal, None, None, 131072, 131072, device="cuda:0", BLOCK_SIZE=1 << 30)
    assert large.kv_num_blocks.item() == 1
    machine.capabilities[0] = 75
    assert heed.create_block_mask(causal, None, None, 300, 300, device="cuda:0").kv_indices is not None
    assert not lists.asked and set(moved) == {torch.device("cuda:0")}


def test_given_lists_become_a_matrix(lists: Lists, machine: Machine) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (on_gpu(torch.randn(1, 2, 300, 16, generator=generator)) for _ in range(3))
    made = heed.create_block_mask(documents(), None, None, 300, 300, device="numpy", BLOCK_SIZE=32)
    arrays = [on_gpu(torch.from_numpy(getattr(made, name))) for name in LISTS[:4]]
    expected = heed.flex_attention(*plain(q, k, v), mask_mod=lambda b, h, i, j: (i // 70 == j // 70) & (i >= j))
    for given, widths in ((arrays, "(10, 10)"), (arrays[:2], "(10, 0)")):
        mask = heed.BlockMask.from_kv_blocks(*given, BLOCK_SIZE=32, mask_mod=documents(), seq_lengths=(300, 300))
        found = plain(heed.flex_attention(q, k, v, block_mask=mask))[0]
        assert lists.asked.pop() == f"fill {widths} on 0 0" and not lists.asked
        if len(given) == 4:
            assert torch.allclose(found, expected, atol=1e-5)
        else:  # without the full blocks
            assert not torch.allclose(found, expected, atol=1e-2)
