# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.flex_attention on NumPy arrays and torch tensors: attention-gym against dense float64, and the call's contract."""

from __future__ import annotations

import importlib
import inspect
import math
import pathlib
import sys
import time
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

sys.path.append(str(pathlib.Path(__file__).parent / "tracing"))

from gym_mods import GYM  # noqa: E402
from torch.nn.attention import flex_attention as torch_flex  # noqa: E402

import heed  # noqa: E402
from heed import _compiler, _runtime, tracing, variant  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOLERANCE = {"f32": 5e-6, "bf16": 3e-3, "f16": 3e-3}


def tensors(shape: tuple[int, int, int, int, int], dims: tuple[int, int] = (64, 64), dtype: str = "f32",
            seed: int = 0) -> list[torch.Tensor]:
    """query, key, value of shape (B, Hq, Hkv, Sq, Skv)."""
    batch, heads, kv_heads, length, kv_length = shape
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(extents, generator=generator).to(DTYPES[dtype])
            for extents in ((batch, heads, length, dims[0]), (batch, kv_heads, kv_length, dims[0]),
                            (batch, kv_heads, kv_length, dims[1]))]


def for_all_pairs(mod: Any, extents: tuple[int, ...], *scores: Any) -> torch.Tensor:
    """A mod evaluated by torch itself, as FlexAttention's own reference does it."""
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        mod = torch.vmap(mod, in_dims=((0,) if scores else ()) + dims)
    with torch.no_grad():
        return mod(*scores, *(torch.arange(n, dtype=torch.int32) for n in extents)).expand(extents)


def dense(query: Any, key: Any, value: Any, score_mod: Any = None, mask: Any = None,
          scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and LSE in float64; `mask` is a mask_mod or a dense mask."""
    query, key, value = (torch.as_tensor(x).detach().double() for x in (query, key, value))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    s = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if score_mod is not None:
        s = for_all_pairs(score_mod, tuple(s.shape), s).double()
    if mask is not None:
        s = s.where(for_all_pairs(mask, tuple(s.shape)) if callable(mask) else torch.as_tensor(mask), -math.inf)
    lse = s.logsumexp(-1)
    return torch.exp(s - lse.where(lse > -math.inf, 0)[..., None]) @ value, lse


def check(found: tuple[Any, Any], expected: tuple[torch.Tensor, torch.Tensor], dtype: str = "f32") -> None:
    output, lse = (torch.as_tensor(x).double() for x in found)
    assert output.shape == expected[0].shape and lse.shape == expected[1].shape
    masked = expected[1] == -math.inf
    assert (output[masked] == 0).all() and torch.equal(lse == -math.inf, masked)
    assert (output - expected[0]).norm() <= TOLERANCE[dtype] * expected[0].norm()
    error = (lse - expected[1])[~masked].norm()
    assert error <= TOLERANCE[dtype] * (expected[1][~masked].norm() + math.sqrt(masked.numel()))


def run(query: Any, key: Any, value: Any, **arguments: Any) -> tuple[Any, Any]:
    output, aux = heed.flex_attention(query, key, value, return_aux=heed.AuxRequest(lse=True), **arguments)
    return output, aux.lse


def causal(b, h, q, kv):
    return q >= kv


# -- attention-gym -----------------------------------------------------------------------------------

FULL, ODD = "full", "odd lengths, GQA"


@pytest.mark.parametrize("dtype, size", [("f32", ODD), *(pytest.param(*x, marks=pytest.mark.slow) for x in (
    ("f32", FULL), ("bf16", FULL), ("f16", ODD)))])
@pytest.mark.parametrize("name", GYM)
def test_gym(name: str, dtype: str, size: str) -> None:
    case = GYM[name](np.random.default_rng(0))
    if size == FULL:
        q, k, v = tensors((case.B, case.H, case.H, case.Sq, case.Skv), (64, 64), dtype)
    else:
        q, k, v = tensors((1, case.H, 1, case.Sq - 7, case.Skv - 5), (16, 24), dtype)
    with torch.no_grad():
        found = run(q, k, v, score_mod=case.score_mod, mask_mod=case.mask_mod, enable_gqa=True)
        check(found, dense(q, k, v, case.score_mod, case.mask_mod), dtype)
        assert found[0].dtype == q.dtype and found[1].dtype == torch.float32
        if dtype == "f32":
            by_numpy = run(*(x.numpy() for x in (q, k, v)), score_mod=case.score_mod, mask_mod=case.mask_mod, enable_gqa=True)
            assert all(isinstance(x, np.ndarray) for x in by_numpy)
            np.testing.assert_array_equal(by_numpy[0], found[0])
            np.testing.assert_array_equal(by_numpy[1], found[1])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 4, 2, 129, 257), (2, 6, 1, 200, 3), (2, 3, 3, 1, 300)])
def test_shapes(shape: tuple[int, ...]) -> None:
    q, k, v = tensors(shape)
    check(run(q, k, v, mask_mod=lambda b, h, i, j: i + 40 * b >= j + h, enable_gqa=True),
          dense(q, k, v, None, lambda b, h, i, j: i + 40 * b >= j + h))


# -- Layouts -----------------------------------------------------------------------------------------

def _bshd(x: Any) -> Any:
    return x.swapaxes(1, 2).copy().swapaxes(1, 2)


def _sbhd(x: Any) -> Any:
    return x.transpose(2, 0, 1, 3).copy().transpose(1, 2, 0, 3)


def _sliced(x: Any) -> Any:
    room = np.full([n + 3 for n in x.shape], np.nan, x.dtype)
    room[1:-2, 1:-2, 1:-2, 1:-2] = x
    return room[1:-2, 1:-2, 1:-2, 1:-2]


def _inner_stride(x: Any) -> Any:
    return np.repeat(x, 2, -1)[..., ::2]


def _backwards(x: Any) -> Any:
    return x[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1]


def _field(x: Any) -> Any:
    room = np.zeros(x.shape, [("a", x.dtype), ("b", np.int16)])
    room["a"] = x
    return room["a"]


def _unaligned(x: Any) -> Any:
    room = np.frombuffer(bytearray(x.nbytes + 1), x.dtype, x.size, 1).reshape(x.shape)
    room[...] = x
    return room


LAYOUTS = (_bshd, _sbhd, _sliced, _inner_stride, np.asfortranarray, _backwards, _field, _unaligned)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("library", ("torch", "numpy"))
def test_layouts(library: str, layout: Any) -> None:
    plain = [x.numpy() for x in tensors((2, 4, 4, 37, 50))]
    arrays = [layout(x) for x in plain]
    if library == "torch":
        if layout in (_backwards, _field, _unaligned):
            pytest.skip("torch has no such strides")
        arrays = [torch.from_numpy(x) for x in arrays]
    output, lse = run(*arrays, mask_mod=causal)
    check((output, lse), dense(*plain, None, causal))
    given, found = ([abs(n) for n in (x.stride() if library == "torch" else x.strides)[:3]] for x in (arrays[0], output))
    if layout is not np.asfortranarray:
        assert np.argsort(given).tolist() == np.argsort(found).tolist(), "stride order of the query"
    assert math.prod(output.shape) * 4 == (output.untyped_storage().nbytes() if library == "torch" else output.nbytes)


def test_broadcast_strides() -> None:
    q, k, v = tensors((1, 1, 1, 40, 60))
    wide = [x.expand(3, 4, -1, -1) for x in (q, k, v)]
    check(run(*wide), dense(*wide))
    check(run(wide[0].numpy(), *(x.numpy() for x in wide[1:])), dense(*wide))
    rows = k[:, :, :1].expand(-1, -1, 60, -1)
    check(run(q, rows, v), dense(q, rows, v))
    flat = q[..., :1].expand(-1, -1, -1, 64)
    check(run(flat, k, v), dense(flat, k, v))


def test_batch_broadcast() -> None:
    q, k, v = tensors((3, 4, 2, 40, 60))
    check(run(q, k[:1], v[:1], enable_gqa=True), dense(q, k[:1].expand(3, -1, -1, -1), v[:1].expand(3, -1, -1, -1)))


def test_captures_of_any_stride() -> None:
    q, k, v = tensors((2, 2, 2, 40, 40))
    table = torch.randn(40, 80, generator=torch.Generator().manual_seed(1))

    def adding(bias: Any) -> Any:
        return lambda s, b, h, i, j: s + bias[i, j]

    for bias in (table[:, ::2], table[:, :40].T, table[0, :40].expand(40, 40), table[:, 40:]):
        check(run(q, k, v, score_mod=adding(bias)), dense(q, k, v, adding(bias)))
    backwards = table.numpy()[::-1, 39::-1]
    check(run(q, k, v, score_mod=adding(backwards)), dense(q, k, v, adding(torch.from_numpy(backwards.copy()))))


# -- Arguments ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", (0.0, -0.5, 1, 3.0, np.float32(0.2), torch.tensor(0.3)))
def test_scale(scale: Any) -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))
    check(run(q, k, v, scale=scale), dense(q, k, v, scale=float(scale)))


def test_scale_before_score_mod_before_mask() -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))

    def score_mod(s, b, h, i, j):
        return torch.where(i == j, math.inf, s * s)  # a mask must win over this

    check(run(q, k, v, score_mod=lambda s, b, h, i, j: s * s, scale=0.3, mask_mod=lambda b, h, i, j: i > j),
          dense(q, k, v, lambda s, b, h, i, j: s * s, lambda b, h, i, j: i > j, 0.3))
    assert run(q, k, v, score_mod=score_mod, mask_mod=lambda b, h, i, j: i > j)[0].isfinite().all()


def test_largest_scores() -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))
    aux = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s * 2, return_aux=heed.AuxRequest(max_scores=True),
                              mask_mod=lambda b, h, i, j: j < i)[1]
    s = (q @ k.mT / 4).where(torch.arange(40)[:, None] > torch.arange(50), -math.inf)
    torch.testing.assert_close(aux.max_scores, s.amax(-1), rtol=1e-5, atol=1e-5)
    assert aux.lse is None


def test_returns() -> None:
    q, k, v = tensors((2, 2, 2, 30, 40))
    plain = heed.flex_attention(q, k, v)
    with pytest.warns(FutureWarning, match="return_lse is deprecated"):
        output, lse = heed.flex_attention(q, k, v, return_lse=True)
    assert torch.equal(plain, output) and lse.shape == (2, 2, 30)
    for request in (heed.AuxRequest(lse=True), torch_flex.AuxRequest(lse=True)):
        output, aux = heed.flex_attention(q, k, v, return_aux=request)
        assert torch.equal(plain, output) and torch.equal(aux.lse, lse) and aux.max_scores is None
    assert heed.flex_attention(q, k, v, return_aux=heed.AuxRequest())[1] == (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heed.flex_attention(q, k, v, None, None, None, False, False, None)


@pytest.mark.parametrize("options", [{}, {"BLOCK_M": 64, "fwd_BLOCK_N": 32, "bwd_num_warps": 4}, {"BACKEND": "TRITON"},
                                     {"FORCE_USE_FLEX_ATTENTION": True, "PRESCALE_QK": True}])
def test_kernel_options_have_no_effect(options: dict[str, Any]) -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))
    assert torch.equal(heed.flex_attention(q, k, v, kernel_options=options), heed.flex_attention(q, k, v))


@pytest.mark.parametrize("name", ["causal", "documents"])
def test_where_blocks_come_from(name: str) -> None:
    """Either way the same blocks, in the same order: no bit differs."""
    doc = torch.arange(300) // 41
    mask_mod = {"causal": lambda b, h, i, j: i >= j, "documents": lambda b, h, i, j: doc[i] == doc[j]}[name]
    q, k, v = tensors((1, 2, 2, 300, 300))
    plain = heed.flex_attention(q, k, v, mask_mod=mask_mod)
    for walk in ("bounds", "lists"):
        assert torch.equal(heed.flex_attention(q, k, v, mask_mod=mask_mod, kernel_options={"BLOCK_WALK": walk}), plain)
        kernel = variant.of_trace(tracing.lookup(None, mask_mod)[0]).kernel("f32", 64, 64, None, f"walk={walk}")
        table = _runtime.KernelTable.from_address(kernel._address)
        assert (table.num_mask_codes > 0) == (walk == "lists")


@pytest.mark.parametrize("shape", [(0, 2, 2, 5, 5), (2, 0, 0, 5, 5), (2, 2, 2, 0, 5), (2, 2, 2, 5, 0), (2, 2, 2, 0, 0)])
def test_no_elements(shape: tuple[int, ...]) -> None:
    for convert in (torch.as_tensor, np.asarray):
        output, lse = run(*(convert(x) for x in tensors(shape)), mask_mod=causal)
        assert tuple(output.shape) == (*shape[:2], shape[3], 64) and tuple(lse.shape) == (*shape[:2], shape[3])
        assert (output == 0).all() and (lse == -math.inf).all()


def test_not_finite_inputs_flow() -> None:
    q, k, v = tensors((1, 1, 1, 70, 200))
    q[0, 0, 3, 5], q[0, 0, 9, 1] = math.nan, math.inf
    v[0, 0, 150, 7], v[0, 0, 20, 2] = math.nan, -math.inf
    for mask_mod in (None, lambda b, h, i, j: j <= i + 150):  # keys that are masked may be left out
        found, expected = run(q, k, v, mask_mod=mask_mod), dense(q, k, v, None, mask_mod)
        usual = torch.ones(70, dtype=torch.bool)
        usual[[3, 9]] = False
        assert found[0][0, 0, [3, 9]].isnan().all() and found[1][0, 0, [3, 9]].isnan().all()
        check([x[:, :, usual].nan_to_num(7, 7, 7) for x in found], [x[:, :, usual].nan_to_num(7, 7, 7) for x in expected])


def test_grad_modes_and_subclasses() -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))
    expected = heed.flex_attention(q, k, v)
    trainable = torch.nn.Parameter(q)
    for position in range(3):
        arguments = [q, k, v]
        arguments[position] = torch.nn.Parameter(arguments[position])
        with pytest.raises(NotImplementedError, match="FlexAttention does not support backward on CPU"):
            heed.flex_attention(*arguments)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(heed.flex_attention(*arguments), expected)
    bias = torch.nn.Parameter(torch.zeros(50))
    with pytest.raises(NotImplementedError, match="argument 'bias'|Heed has no backward"):
        heed.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + bias[j])
    with torch.no_grad():
        assert torch.equal(heed.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + bias[j]), expected)
    for _ in range(2):  # what FlexAttention refuses under no_grad, too; the second time it is no new call
        with torch.no_grad():
            assert torch.equal(heed.flex_attention(q, k, v, mask_mod=lambda b, h, i, j: bias[j] == 0), expected)
        with pytest.raises(AssertionError, match="Captured buffers from mask mod that require grad"):
            heed.flex_attention(q, k, v, mask_mod=lambda b, h, i, j: bias[j] == 0)
    with torch.inference_mode():
        assert torch.equal(heed.flex_attention(q.clone(), k, v), expected)
    assert torch.equal(heed.flex_attention(trainable.detach(), k, v), expected)
    assert not heed.flex_attention(torch.nn.Parameter(q, requires_grad=False), k, v).requires_grad

    class Matrix(np.ndarray):
        pass

    found = heed.flex_attention(*(x.numpy().view(Matrix) for x in (q, k, v)))
    np.testing.assert_array_equal(found, expected.numpy())
    imaginary = torch.complex(q, -q).conj().imag
    assert imaginary.is_neg() and torch.equal(heed.flex_attention(imaginary, k, v), expected)


def test_captures_of_such_layouts() -> None:
    """Those that kernels cannot read in place are copied, before and after calls with those that they can."""
    q, k, v = tensors((1, 2, 2, 40, 50))
    bias = torch.linspace(-1, 1, 50)
    expected = heed.flex_attention(q, k, v, _adding(bias))
    swapped = bias.numpy().astype(">f4")
    for table in (torch.complex(bias, -bias).conj().imag, _field(bias.numpy()), _unaligned(bias.numpy()), swapped, swapped.astype(">f8"), bias.numpy()):
        for _ in range(2):
            assert torch.equal(heed.flex_attention(q, k, v, _adding(table)), expected)
    swapped[:] = 0
    assert torch.equal(heed.flex_attention(q, k, v, _adding(swapped)), heed.flex_attention(q, k, v))


def test_numpy_bf16_is_uint16() -> None:
    q, k, v = tensors((1, 2, 2, 40, 50), dtype="bf16")
    found = heed.flex_attention(*(x.view(torch.uint16).numpy() for x in (q, k, v)))
    np.testing.assert_array_equal(found, heed.flex_attention(q, k, v).view(torch.uint16).numpy())


def test_names_of_torch() -> None:
    """What code imports from torch.nn.attention.flex_attention is in heed, with the same parameters, also behind underscores."""
    assert set(torch_flex.__all__) <= set(heed.__all__)
    assert heed._DEFAULT_SPARSE_BLOCK_SIZE == torch_flex._DEFAULT_SPARSE_BLOCK_SIZE
    assert len(heed._score_mod_signature.__args__) == len(torch_flex._score_mod_signature.__args__)
    assert len(heed._mask_mod_signature.__args__) == len(torch_flex._mask_mod_signature.__args__)
    assert set(torch_flex.FlexKernelOptions.__annotations__) <= set(heed.FlexKernelOptions.__annotations__)
    for name in ("flex_attention", "create_block_mask", "create_mask", "_convert_mask_to_block_mask",
                 "_create_sparse_block_from_block_mask"):
        ours, theirs = (list(inspect.signature(getattr(module, name)).parameters) for module in (heed, torch_flex))
        assert ours[:len(theirs)] == theirs
    options: heed.FlexKernelOptions = {"BLOCK_M": 64, "num_stages": 2}
    q, k, v = tensors((1, 2, 2, 20, 30), (16, 16))
    mask = heed.create_block_mask(causal, None, None, 20, 30, "numpy", 128, False, True, True, False)
    check(run(q, k, v, block_mask=mask, kernel_options=options), dense(q, k, v, mask=causal))
    check(run(q, k, v, score_mod=heed._identity), dense(q, k, v))


# -- Refusals ----------------------------------------------------------------------------------------

Q, K, V = tensors((2, 4, 2, 20, 30), (16, 16))
BIG = "block_mask was created for block_mask.shape="


def _adding(t: Any) -> Any:
    return lambda s, b, h, i, j: s + t[j]


def _at_marked(t: Any) -> Any:
    return lambda b, h, i, j: t[j] > 0


LISTED = heed.BlockMask.from_kv_blocks(torch.tensor([[[1]]]), torch.tensor([[[[0]]]]), BLOCK_SIZE=20)
UNUSED = heed.create_block_mask(causal, None, None, 20, 30, "numpy")
NO_MEMORY = "Heed expected a tensor with memory of its own, found a Tensor that stands for others"

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "3D": (lambda: heed.flex_attention(Q[0], K[0], V[0]), NotImplementedError,
           "NYI: query, key, and value must be 4D tensors"),
    "5D": (lambda: heed.flex_attention(Q[None], K, V), NotImplementedError, "NYI: query, key, and value must be 4D tensors"),
    "E": (lambda: heed.flex_attention(Q, K[..., :8], V), ValueError,
          "Expect query and key/value to have the same embedding dimension but got E=16 and E=8."),
    "no dims": (lambda: heed.flex_attention(Q[..., :0], K[..., :0], V), ValueError, "Expect an embedding dimension from 1"),
    "heads": (lambda: heed.flex_attention(Q, K, V), ValueError,
              "Expect query and key/value to have the same number of heads but got Hq=4 and Hkv=2. "
              "Try setting enable_gqa=True for GQA."),
    "GQA": (lambda: heed.flex_attention(Q[:, :3], K, V, enable_gqa=True), ValueError,
            "Expect number of query heads to be a multiple of kv heads for GQA but got Hq=3 and Hkv=2."),
    "no kv heads": (lambda: heed.flex_attention(Q, K[:, :0], V[:, :0], enable_gqa=True), ValueError,
                    "Expect number of query heads to be a multiple of kv heads"),
    "batch": (lambda: heed.flex_attention(Q[:1], K, V, enable_gqa=True), ValueError,
              "Expect query and key/value to have the same batch size, or non-none block_mask"),
    "key, value": (lambda: heed.flex_attention(Q, K, V[:, :, :7], enable_gqa=True), ValueError, "Expect key and value to"),
    "dtypes": (lambda: heed.flex_attention(Q, K.half(), V, enable_gqa=True), ValueError,
               "Expected query, key, and value to have the same dtype"),
    "f64": (lambda: heed.flex_attention(Q.double(), K.double(), V.double(), enable_gqa=True), NotImplementedError,
            "`torch.float` , `torch.float16` and `torch.bfloat16` are supported"),
    "int": (lambda: heed.flex_attention(Q.int(), K.int(), V.int(), enable_gqa=True), NotImplementedError, "`torch.float` ,"),
    "byte order": (lambda: heed.flex_attention(*(x.numpy().astype(">f4") for x in (Q, Q, Q))), NotImplementedError,
                   "`torch.float` ,"),
    "libraries": (lambda: heed.flex_attention(Q, Q.numpy(), Q), TypeError, "query, key and value: expected arrays of one"),
    "numpy first": (lambda: heed.flex_attention(Q.numpy(), Q, Q), TypeError, "query, key and value: expected arrays of one"),
    "list": (lambda: heed.flex_attention(Q, [1], V), TypeError, "key: expected a NumPy array or a torch tensor, found list"),
    "nested": (lambda: heed.flex_attention(torch.nested.nested_tensor([Q[0], Q[1]]), Q, Q), NotImplementedError,
               "flex_attention does not support NestedTensor"),
    "meta": (lambda: heed.flex_attention(Q.to("meta"), K.to("meta"), V.to("meta"), enable_gqa=True), ValueError,
             "FlexAttention is only supported on CUDA, CPU or HPU devices"),
    "meta key": (lambda: heed.flex_attention(Q, K.to("meta"), V, enable_gqa=True), ValueError,
                 "Expected query, key, and value to have the same device type"),
    "meta capture": (lambda: heed.flex_attention(Q, Q, Q, _adding(torch.zeros(20, device="meta"))),
                     heed.HeedError, "argument 't': expected a tensor on the CPU, found one on meta"),
    "both": (lambda: heed.flex_attention(Q, Q, Q, return_lse=True, return_aux=heed.AuxRequest(lse=True)), ValueError,
             "Cannot specify both return_lse and return_aux"),
    "option": (lambda: heed.flex_attention(Q, Q, Q, kernel_options={"BLOCK": 1}), ValueError, "Unknown kernel option 'BLOCK'"),
    "backend": (lambda: heed.flex_attention(Q, Q, Q, kernel_options={"BACKEND": "X"}), ValueError, "Invalid BACKEND value"),
    "backends": (lambda: heed.flex_attention(Q, Q, Q, kernel_options={"BACKEND": "AUTO", "FORCE_USE_FLEX_ATTENTION": True}),
                 RuntimeError, "BACKEND cannot be combined with legacy FORCE_USE_FLEX_ATTENTION"),
    "scale": (lambda: heed.flex_attention(Q, Q, Q, scale=math.nan), ValueError, "Expect a finite scale"),
    "scale type": (lambda: heed.flex_attention(Q, Q, Q, scale="1"), TypeError, "scale: expected a number, found str"),
    "scale beyond f32": (lambda: heed.flex_attention(Q, Q, Q, scale=1e300), ValueError, "Expect a finite scale"),
    "an integer as scale beyond floats": (lambda: heed.flex_attention(Q, Q, Q, scale=10**400), ValueError, "Expect a finite scale"),
    "vmap": (lambda: torch.vmap(lambda q: heed.flex_attention(q, Q, Q))(torch.stack([Q, Q])), NotImplementedError, NO_MEMORY),
    "vmap of a capture": (lambda: torch.vmap(lambda t: heed.flex_attention(Q, Q, Q, _adding(t)))(torch.rand(3, 20)), NotImplementedError,
                          NO_MEMORY),
    "vmap of a number": (lambda: torch.vmap(lambda t: heed.flex_attention(Q, Q, Q, lambda s, b, h, i, j: s * t))(torch.rand(3)),
                         NotImplementedError, "Heed expected a tensor with memory of its own, found a captured tensor"),
    "jvp": (lambda: torch.func.jvp(lambda q: heed.flex_attention(q, Q, Q), (Q,), (Q,)), NotImplementedError, NO_MEMORY),
    "grad of a capture": (lambda: torch.func.grad(lambda t: heed.flex_attention(Q, Q, Q, _adding(t)).sum())(torch.rand(20)),
                          NotImplementedError, NO_MEMORY),
    "functionalize": (lambda: torch.func.functionalize(lambda q: heed.flex_attention(q, Q, Q))(Q), NotImplementedError, NO_MEMORY),
    "vmap of a kernel": (lambda: torch.vmap(lambda q: heed.compile(causal, head_dim=Q.shape[3])(q, Q, Q))(torch.stack([Q, Q])),
                         NotImplementedError, NO_MEMORY),
    "walk": (lambda: heed.flex_attention(Q, Q, Q, kernel_options={"BLOCK_WALK": "trees"}), ValueError,
             "Invalid BLOCK_WALK value 'trees'; expected one of bounds, lists"),
    "options type": (lambda: heed.flex_attention(Q, Q, Q, kernel_options=[1]), TypeError, "kernel_options: expected a dict, found list"),
    "aux type": (lambda: heed.flex_attention(Q, Q, Q, return_aux=True), TypeError, "return_aux: expected an AuxRequest"),
    "score_mod type": (lambda: heed.flex_attention(Q, Q, Q, 5), TypeError, "score_mod: expected a function of"),
    "mask_mod type": (lambda: heed.flex_attention(Q, Q, Q, mask_mod=5), TypeError, "mask_mod: expected a function of"),
    "no BlockMask": (lambda: heed.flex_attention(Q, Q, Q, block_mask=causal), TypeError, "block_mask: expected a BlockMask"),
    "two masks": (lambda: heed.flex_attention(Q, Q, Q, block_mask=UNUSED, mask_mod=causal), ValueError,
                  "Cannot specify both block_mask and mask_mod"),
    "order": (lambda: heed.create_block_mask(causal, None, None, 20, 20, dq_kv_order=[0]), ValueError,
              "dq_kv_order must be a bool when using create_block_mask"),
    "mask too short": (lambda: heed.flex_attention(torch.cat([Q, Q], 2), K, V, None, UNUSED, enable_gqa=True), ValueError,
                       BIG + "(1, 1, 20, 30) but got q_len=40 and kv_len=30. As the block mask was created for a smaller"),
    "mask too long": (lambda: heed.flex_attention(Q, K[:, :, :9], V[:, :, :9], None, UNUSED, enable_gqa=True), ValueError,
                      BIG + "(1, 1, 20, 30) but got q_len=20 and kv_len=9. As the block mask was created for a larger"),
    "mask heads": (lambda: heed.flex_attention(Q, Q, Q, None, heed.create_block_mask(causal, 2, 3, 20, 20)), ValueError,
                   "Expect block_mask and query to have the same number of heads"),
    "mask batch": (lambda: heed.flex_attention(Q, Q, Q, None, heed.create_block_mask(causal, 3, 4, 20, 20)), ValueError,
                   "Expect block_mask and query to have the same batch size"),
    "sliced": (lambda: heed.flex_attention(Q, K, V, None, UNUSED[:, :, :1], enable_gqa=True), RuntimeError,
               "Cannot use mask_mod from a sliced BlockMask"),
    "torch sliced": (lambda: heed.flex_attention(Q, Q, Q, None, torch_flex.create_block_mask(causal, 1, 1, 20, 20, "cpu")[0]),
                     RuntimeError, "Cannot use mask_mod from a sliced BlockMask"),
    "score_mod's type": (lambda: heed.flex_attention(Q, Q, Q, lambda s, b, h, i, j: None), RuntimeError,
                         "Expected output of score_mod to be a tensor."),
    "score_mod's text": (lambda: heed.flex_attention(Q, Q, Q, lambda s, b, h, i, j: "s"), heed.TraceError,
                         "Expected output of score_mod to be a tensor."),
    "lists": (lambda: heed.flex_attention(Q, Q, Q, None, LISTED.to("meta")), RuntimeError,
              "Expect q/k/v and block_mask to be on the same device"),
    "torch's lists": (
        lambda: heed.flex_attention(Q, Q, Q, None, torch_flex.create_block_mask(causal, 1, 1, 20, 20, "cpu").to("meta")),
        RuntimeError, "Expect q/k/v and block_mask to be on the same device"),
    "LSE's option": (lambda: heed.flex_attention(Q, Q, Q, kernel_options={"OUTPUT_LOGSUMEXP": True}), AssertionError,
                     "OUTPUT_LOGSUMEXP must not be in kernel_options"),
    "gradients of a mask": (lambda: heed.flex_attention(Q, Q, Q, mask_mod=_at_marked(torch.ones(20, requires_grad=True))),
                            AssertionError, "Captured buffers from mask mod that require grad are not supported."),
    "converted gradients of a mask": (
        lambda: heed.flex_attention(Q, Q, Q, mask_mod=_at_marked(torch.ones(20, dtype=torch.float64, requires_grad=True))),
        AssertionError, "Captured buffers from mask mod that require grad are not supported."),
    "a mask_mod for a score_mod": (lambda: heed.flex_attention(Q, Q, Q, causal), heed.TraceError, ""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str) -> None:
    call, kind, words = REFUSED[what]
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).startswith(words)
    check(run(Q, K, V, enable_gqa=True), dense(Q, K, V))


# -- Traces and kernels ------------------------------------------------------------------------------

@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[Any]:
    """What was compiled, by all means: no kernel is known at the start."""
    monkeypatch.setenv("HEED_CACHE_DIR", str(tmp_path))
    heed.variant.clear_memory()
    requests: list[Any] = []
    original = _compiler.compile
    monkeypatch.setattr(_compiler, "compile", lambda request, emit: requests.append(request) or original(request, emit))
    return requests


def test_captured_values_are_read_anew(compiled: list[Any]) -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))
    weight, bias, limit = 0.5, torch.zeros(50), 30

    def score_mod(s, b, h, i, j):
        return s * weight + bias[j]

    def mask_mod(b, h, i, j):
        return j < limit

    def check_with(new_weight: float, new_limit: int, new_bias: torch.Tensor) -> int:
        nonlocal weight, limit, bias
        weight, limit, bias = new_weight, new_limit, new_bias
        check(run(q, k, v, score_mod=score_mod, mask_mod=mask_mod), dense(q, k, v, score_mod, mask_mod))
        return len(compiled)

    assert check_with(0.5, 30, bias) == 1
    for x in (-2.0, 0.0, 1e-3):
        bias += 0.3  # in place
        assert check_with(x, int(5 + x), bias) == 1
    for longer in (torch.randn(90), torch.randn(100)[::2]):
        assert check_with(0.5, 50, longer) == 1
    for count, other in enumerate((torch.randn(50).half(), torch.arange(50), torch.randn(50).bfloat16(), torch.randn(50) > 0)):
        assert check_with(0.5, 30, other) == count + 2
    assert check_with(1.5, 30, torch.randn(50)) == 5
    assert check_with(3, 30, torch.randn(50)) <= 6  # an int weight is another program


def test_equal_closures_share_a_kernel(compiled: list[Any]) -> None:
    q, k, v = tensors((1, 2, 2, 40, 50))

    def window(size):
        return lambda b, h, i, j: (i - j).abs() <= size

    for size in range(20):
        check(run(q, k, v, mask_mod=window(size)), dense(q, k, v, None, window(size)))
    heed.flex_attention(q, k, v, mask_mod=lambda b, h, i, j: (i - j).abs() <= 5 + 3)
    assert len(compiled) <= 2
    count = len(compiled)
    heed.flex_attention(q.half(), k.half(), v.half(), mask_mod=window(3))
    heed.flex_attention(q[..., :32], k[..., :32], v, mask_mod=window(3))
    assert len(compiled) == count + 2
    heed.variant.clear_memory()
    heed.flex_attention(q, k, v, mask_mod=window(3))
    assert len(compiled) == count + 2, "from the disk"


# -- Block masks -------------------------------------------------------------------------------------

def _of_blocks(kinds: np.ndarray, inner: np.ndarray, block: int, shape: tuple[int, int]) -> np.ndarray:
    """The dense mask of blocks: 0 skipped, 1 as `inner` says, 2 full."""
    wide = kinds.repeat(block, -1).repeat(block, -2)[..., :shape[0], :shape[1]]
    return (wide == 2) | ((wide == 1) & inner)


def _lists(kinds: np.ndarray, kind: int) -> list[torch.Tensor]:
    flags = kinds == kind
    return [torch.from_numpy(x.astype(np.int32)) for x in (flags.sum(-1), np.argsort(~flags, -1, kind="stable"))]


@pytest.mark.parametrize("library", ("heed", "torch"))
@pytest.mark.parametrize("batch, heads", [(1, 1), (2, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("with_full", (False, True))
def test_given_lists(library: str, batch: int, heads: int, with_full: bool) -> None:
    rng = np.random.default_rng(3)
    q, k, v = tensors((2, 4, 2, 100, 150))
    kinds = rng.integers(0, 3 if with_full else 2, (batch, heads, 4, 5)).astype(np.int8)  # holes, and empty rows
    kinds[:, :, 2] = 0
    block_mask = (heed.BlockMask if library == "heed" else torch_flex.BlockMask).from_kv_blocks(
        *_lists(kinds, 1), *(_lists(kinds, 2) if with_full else ()), BLOCK_SIZE=32, mask_mod=causal, seq_lengths=(100, 150))
    inner = np.arange(100)[:, None] >= np.arange(150)
    check(run(q, k, v, block_mask=block_mask, enable_gqa=True),
          dense(q, k, v, None, _of_blocks(kinds, inner, 32, (100, 150))))


def test_block_masks_of_builders() -> None:
    q, k, v = tensors((2, 4, 4, 100, 150))

    def mask_mod(b, h, i, j):
        return (i + 10 * b >= j) & (j % (h + 2) == 0)

    expected = dense(q, k, v, None, mask_mod)
    for block_mask in (heed.create_block_mask(mask_mod, 2, 4, 100, 150), heed.create_block_mask(mask_mod, 2, 4, 100, 150, "cpu", 16),
                       heed.create_block_mask(mask_mod, 2, 4, 200, 300)._adjust(100, 150),
                       torch_flex.create_block_mask(mask_mod, 2, 4, 100, 150, "cpu"),
                       heed.create_block_mask(mask_mod, 2, 4, 100, 150).to("numpy")):
        check(run(q, k, v, block_mask=block_mask), expected)
    check(run(q, k, v, block_mask=torch_flex._create_empty_block_mask(q, k)), dense(q, k, v))


def test_sliced_block_mask_with_its_mask_mod() -> None:
    q, k, v = tensors((2, 4, 4, 128, 128))
    sliced = heed.create_block_mask(lambda b, h, i, j: (i >= j) & (j % 4 == h), 2, 4, 128, 128, BLOCK_SIZE=32)[:, 2:3]
    sliced.mask_mod = lambda b, h, i, j: (i >= j) & (j % 4 == 2)
    check(run(q, k, v, block_mask=sliced), dense(q, k, v, None, lambda b, h, i, j: (i >= j) & (j % 4 == 2)))


def test_paged_attention_of_torch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's PagedAttention, of which public code has copies, with its import changed."""
    original = pytest.importorskip("torch.nn.attention.experimental._paged_attention")
    source = inspect.getsource(original).replace("from torch.nn.attention.flex_attention import", "from heed import")
    assert "from heed import" in source
    (tmp_path / "heed_paged_attention.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    paged = importlib.import_module("heed_paged_attention").PagedAttention(n_pages=12, page_size=16, max_batch_size=2, device="cpu")
    batch, heads, length = 2, 2, 80
    query, key, value = (torch.randn(batch, heads, length, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    pages = [torch.zeros(1, heads, 12 * 16, 16) for _ in range(2)]
    for number in (1, 0):
        paged.reserve(torch.tensor(number), torch.tensor(length))
    paged.assign(torch.arange(batch), torch.arange(length).expand(batch, -1), key, value, *pages)

    def relative(s, b, h, q, kv):
        return s + (q - kv) * 0.1

    mask = heed.create_block_mask(causal, batch, 1, length, length, device="cpu", BLOCK_SIZE=16)
    physical = paged.convert_logical_block_mask(mask)
    expected = dense(query, key, value, relative, causal)
    check(run(query, *pages, score_mod=paged.get_score_mod(relative), block_mask=physical), expected)
    check(run(query, *pages, score_mod=paged.get_score_mod(None), block_mask=physical), dense(query, key, value, mask=causal))


def test_adjusted_lists() -> None:
    kinds = np.random.default_rng(4).integers(0, 3, (1, 1, 4, 5)).astype(np.int8)
    block_mask = heed.BlockMask.from_kv_blocks(*_lists(kinds, 1), *_lists(kinds, 2), BLOCK_SIZE=32, mask_mod=causal)
    q, k, v = tensors((2, 2, 2, 70, 99))
    check(run(q, k, v, block_mask=block_mask._adjust(70, 99)), dense(
        q, k, v, None, _of_blocks(kinds, np.arange(70)[:, None] >= np.arange(99), 32, (70, 99))))


def test_mask_and_score_that_mask() -> None:
    q, k, v = tensors((2, 2, 2, 100, 150))
    block_mask = heed.create_block_mask(causal, None, None, 100, 150)

    def score_mod(s, b, h, i, j):
        return torch.where(j % 3 == 1, s + i, -math.inf)

    check(run(q, k, v, score_mod=score_mod, block_mask=block_mask), dense(q, k, v, score_mod, causal))


def test_tiny_weights_are_not_slow() -> None:
    """Weights below the normal numbers of f32 become 0: products with them would take a hundred times as long."""
    q, k, v = (torch.randn(1, 4, 512, 64) for _ in range(3))
    slope = torch.zeros(4)

    def run_once() -> float:
        start = time.perf_counter()
        output = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s + slope[h] * (j - i), mask_mod=causal)
        assert output.isfinite().all()
        return time.perf_counter() - start

    flat = min(run_once() for _ in range(7))
    slope = torch.full((4,), 0.4)  # 2^-140 some 240 keys away
    assert min(run_once() for _ in range(7)) < 3 * flat


def test_copied_operands_make_no_plan() -> None:
    """A call whose key had to be copied must not be remembered under the strides that the key came with."""
    q, v = torch.randn(1, 2, 40, 16), torch.randn(1, 2, 40, 16)
    k = torch.randn(1, 2, 16, 40).transpose(2, 3)
    expected = heed.flex_attention(q, k.contiguous(), v)
    for _ in range(2):
        assert torch.equal(heed.flex_attention(q, k, v), expected)


def test_negative_bit() -> None:
    """torch negates some views only when they are read."""
    q, k, v = torch.randn(3, 1, 2, 40, 16).unbind()
    expected = heed.flex_attention(-q, k, -v)
    for _ in range(3):
        assert torch.equal(heed.flex_attention(torch._neg_view(q), k, torch._neg_view(v)), expected)


@pytest.mark.filterwarnings("ignore:return_lse is deprecated")
def test_negative_bit_of_planned_calls() -> None:
    """Python's way, after plain tensors of the same shapes and strides."""
    q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
    expected = heed.flex_attention(-q, k, -v, return_lse=True)
    for _ in range(2):
        heed.flex_attention(q, k, v, return_lse=True)
    for query, key, value in ((torch._neg_view(q), k, torch._neg_view(v)), (q, torch._neg_view(k), torch._neg_view(v))):
        for found, wanted in zip(heed.flex_attention(query, key, value, return_lse=True), expected):
            assert torch.equal(found, wanted)


HALF, FACTOR, MODULUS = 0.7, 2.3, 50
LARGE, LARGER = 100_000_000.0, 100_000_001.0
BEYOND_TENTH, BEYOND_F32, BELOW_HALF, LEAST = 0.1 + 1e-12, 16777217, 1.49999999999, -2**31
NARROWED = torch.tensor([-1, 300, 5, 128, -129] * 22)


@pytest.mark.parametrize("name, mask_mod", [
    # A cast to i64 stays where a literal is all that it stands beside.
    ("product", lambda b, h, q, kv: (q.long() * 100_000_007) % 97 < 30 + 0 * kv),
    ("products", lambda b, h, q, kv: q.to(torch.int64) * 50_000_000 >= kv.long() * 40_000_000 + 1_000_000),
    ("shift", lambda b, h, q, kv: ((q.long() << 40) >> 40) >= kv),
    # Captured floats are Python's, of 64 bits, until they meet something traced.
    ("quotient", lambda b, h, q, kv: ((q % MODULUS) - (kv % MODULUS)).abs() < FACTOR * MODULUS // 5),
    ("floor", lambda b, h, q, kv: (q >= kv) & (q - kv <= 90 * HALF // 1)),
    ("difference", lambda b, h, q, kv: (q >= kv) & (q - kv <= 30 * (LARGER - LARGE))),
    ("greater", lambda b, h, q, kv: (q >= kv) & (BEYOND_TENTH > 0.1)), ("equal", lambda b, h, q, kv: (q >= kv) & (BEYOND_TENTH == 0.1)),
    ("beyond f32", lambda b, h, q, kv: (q >= kv) & (BEYOND_F32 > 16777216.5)), ("round", lambda b, h, q, kv: q - kv < round(BELOW_HALF)),
    ("digits", lambda b, h, q, kv: q - kv < round(BELOW_HALF * 10, 1)), ("minus", lambda b, h, q, kv: (q >= kv) & (kv < -LEAST)),
    ("absolute", lambda b, h, q, kv: (q >= kv) & (kv < abs(LEAST))), ("over", lambda b, h, q, kv: (q >= kv) & (kv < LEAST // -1)),
    ("byte", lambda b, h, q, kv: (NARROWED.byte()[kv] == 255) | (q == kv)),
    ("int8", lambda b, h, q, kv: (NARROWED.to(torch.int8)[kv] == 44) | (q == kv)),
])
def test_numbers_are_pythons(name: str, mask_mod: Any) -> None:
    q, k, v = torch.randn(3, 1, 1, 110, 16, dtype=torch.float32).unbind()
    at = torch.arange(110)
    mask = mask_mod(torch.tensor(0), torch.tensor(0), at[:, None], at[None])
    scores = (q.double() @ k.double().transpose(2, 3) / 4).masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1).nan_to_num() @ v.double()
    assert (heed.flex_attention(q, k, v, mask_mod=mask_mod) - expected).abs().max() < 1e-5


def test_alpha_of_rsub() -> None:
    q, k, v = torch.randn(3, 1, 1, 30, 16).unbind()
    found = heed.flex_attention(q, k, v, lambda s, b, h, q, kv: torch.rsub(s, kv, alpha=2))
    assert torch.allclose(found, heed.flex_attention(q, k, v, lambda s, b, h, q, kv: kv - 2 * s), atol=1e-6)


@pytest.mark.parametrize("dim", (8, 64, 96))
@pytest.mark.parametrize("bias", (-1e38, torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min, 1e38, -2e38))
def test_large_addends(bias: float, dim: int) -> None:
    """What an additive mask leaves of a row without keys is a mean, like any row of equal scores."""
    q, k = torch.zeros(2, 1, 1, 7, dim).unbind()
    v = torch.arange(7.0).view(1, 1, 7, 1)
    captured = torch.full((7,), bias)
    assert (heed.flex_attention(q, k, v, lambda s, b, h, q, kv: s + captured[kv]) - 3).abs().max() < 1e-6
    captured[5:] = 0
    if bias < 0:
        assert (heed.flex_attention(q, k, v, lambda s, b, h, q, kv: s + captured[kv]) - 5.5).abs().max() < 1e-6


def test_large_addends_are_not_rounded() -> None:
    q, k = torch.zeros(2, 1, 1, 3, 8).unbind()
    captured = torch.tensor([11629080.0, 11629081, 11629079])
    expected = captured.double().softmax(0) @ torch.tensor([1.0, 10, 100]).double()
    found = heed.flex_attention(q, k, torch.tensor([1.0, 10, 100]).view(1, 1, 3, 1), lambda s, b, h, q, kv: s + captured[kv])
    assert (found - expected).abs().max() < 1e-4


_SPREAD = torch.randn(300, 300, generator=torch.Generator().manual_seed(0)) * 1e12


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name, score_mod", [
    ("masked rows", lambda s, b, h, q, kv: s + torch.where(q >= kv + 5, 0.0, -1e30)),
    ("all", lambda s, b, h, q, kv: s - 1e30), ("constant", lambda s, b, h, q, kv: s * 0 + 1e20),
    ("mild", lambda s, b, h, q, kv: s * 0 + (5e7 + 4 * ((7 * q + 3 * kv) % 5))),
    ("largest", lambda s, b, h, q, kv: s * 0 + 3.4e38), ("least", lambda s, b, h, q, kv: s * 0 - 3.4e38),
    ("rising", lambda s, b, h, q, kv: s * 0 + kv * 1e9), ("spread", lambda s, b, h, q, kv: s + _SPREAD[q, kv]),
    # The maximum of the first keys is just below where it begins to be subtracted, that of the last ones above it.
    ("around 2^24", lambda s, b, h, q, kv: s * 0 + 11629079 + kv // 150), ("around -2^24", lambda s, b, h, q, kv: s * 0 - 11629081 + kv // 150),
])
def test_large_scores(name: str, score_mod: Any, dtype: torch.dtype) -> None:
    """Softmax knows differences only, so that rows whose scores are all far from 0 have weights like others."""
    q, k, v = torch.randn(3, 1, 1, 300, 16).to(dtype).unbind()
    at = torch.arange(300)
    dense = score_mod((q.double() @ k.double().transpose(2, 3) / 4).float(), 0, 0, at[:, None], at[None])
    expected = dense.double().softmax(-1) @ v.double()
    output, aux = heed.flex_attention(q, k, v, score_mod, return_aux=heed.AuxRequest(lse=True))
    assert (output - expected).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
    if name not in ("largest", "least"):
        assert torch.allclose(aux.lse.double(), dense.double().logsumexp(-1), rtol=1e-4, atol=1e-4)
