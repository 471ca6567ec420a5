# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Functions, operators and types, against torch on whole tensors; the text is checked by heedc."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from heed import tracing  # noqa: E402

from tracing_helpers import check, grid  # noqa: E402

AT = grid(2, 3, 7, 40)
SCORES = np.concatenate([np.linspace(-6, 6, 1600), [0.5, 1.5, 2.5, -0.5, -1.5, 0.0, -0.0, 21.0, 25.0, -30.0, 1e-3, -1e-9]])[:1680]
SCORES = np.resize(SCORES, (2, 3, 7, 40))
COUNT = 7
WEIGHTS = torch.arange(7) * 3

# name -> function of (s, b, h, q, kv), which works on traced values and on whole float64 and int64 tensors alike.
FUNCTIONS: dict[str, Any] = {
    **{name: lambda s, b, h, q, kv, name=name: getattr(torch, name)(s) for name in (
        "exp", "exp2", "expm1", "tanh", "sin", "cos", "tan", "sigmoid", "erf", "floor", "ceil", "trunc", "round", "abs",
        "square", "neg", "sign", "relu")},
    **{name: lambda s, b, h, q, kv, name=name: getattr(torch, name)(torch.abs(s) + 0.25) for name in (
        "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "gelu": lambda s, b, h, q, kv: F.gelu(s),
    "gelu tanh": lambda s, b, h, q, kv: F.gelu(s, approximate="tanh"),
    "silu": lambda s, b, h, q, kv: F.silu(s),
    "softplus": lambda s, b, h, q, kv: F.softplus(s),
    "softplus beta": lambda s, b, h, q, kv: F.softplus(s, beta=2.0, threshold=5.0),
    "logsigmoid": lambda s, b, h, q, kv: F.logsigmoid(s),
    "leaky_relu": lambda s, b, h, q, kv: F.leaky_relu(s, 0.1),
    "elu": lambda s, b, h, q, kv: F.elu(s, 1.5),
    "round decimals": lambda s, b, h, q, kv: torch.round(s, decimals=1),
    "clamp": lambda s, b, h, q, kv: s.clamp(-1, 2.5) + torch.clamp(q - kv, min=-3) + (kv - q).clamp(max=2),
    "clamp tensors": lambda s, b, h, q, kv: torch.clamp(s, q * 0.1, kv * 0.2),
    "min max": lambda s, b, h, q, kv: torch.minimum(s, s * 2) + torch.maximum(q, kv) + torch.max(q, kv) - torch.min(q, kv),
    "where mixed": lambda s, b, h, q, kv: torch.where(q > kv, s, 1) + torch.where(q > 3, q, 0.5),
    "floor division": lambda s, b, h, q, kv: (q - kv) // 3 + (q - 20) // -7 + s // 0.75,
    "modulo": lambda s, b, h, q, kv: (q - kv) % 5 + (q - kv) % -5 + s % 0.75,
    "remainder": lambda s, b, h, q, kv: torch.remainder(q - kv, 4) + torch.fmod(q - kv, 4) + torch.fmod(s, 1.5),
    "div modes": lambda s, b, h, q, kv: (torch.div(q - kv, 4, rounding_mode="trunc") + torch.div(q - kv, 4, rounding_mode="floor")
                                         + torch.div(s, 0.7, rounding_mode="trunc") + torch.div(q, 4)),
    "floor_divide": lambda s, b, h, q, kv: torch.floor_divide(q - kv, 6) + (kv - q).floor_divide(4),
    "power": lambda s, b, h, q, kv: s**2 + s**3 + (s * s + 1) ** 0.5 + (s * s + 1) ** -2 + (q - kv) ** 3 + 2.0 ** (-q) + (s * s + 1) ** 1.7,
    "power of two": lambda s, b, h, q, kv: 2**q + torch.pow(2, kv % 8) + s.pow(2),
    "shifts": lambda s, b, h, q, kv: (q << 3) + (kv >> 1) + (1 << q) + ((q - kv) >> 2) + (kv << (q % 4)),
    "bits": lambda s, b, h, q, kv: (q & kv) + (q | kv) * 2 + (q ^ kv) * 3 + ~q + ((q - kv) & 7),
    "bools": lambda s, b, h, q, kv: ((q > kv) * s + (q > kv) * q + (q > 2).int() + (~(q > kv)).float() + ((q > 1) + (kv > 2)).long()
                                     + ((q > 1) == (kv > 1)).int() + ((q > 1) ^ (kv > 3)).int() + (q > 1) * (kv > 20)),
    "logical": lambda s, b, h, q, kv: (torch.logical_and(q, kv > 3).int() + torch.logical_or(q > kv, kv % 2).int() * 2
                                       + torch.logical_not(q % 3).int() * 4 + torch.logical_xor(q > 2, kv > 9).int() * 8),
    "comparisons": lambda s, b, h, q, kv: (q.eq(kv).int() + torch.lt(q, kv) * 2 + s.gt(0) * 4 + torch.ne(q, 3) * 8
                                           + (s >= 0.5) * 16 + (q <= 2.5) * 32 + torch.ge(kv, q) * 64),
    "casts": lambda s, b, h, q, kv: (s.int() + s.long() + q.float() / 3 + s.bool() + q.to(torch.float32) + s.to(q.dtype)
                                     + (s * 100).to(torch.int8) + (s * 100).to(torch.int16) + q.to(torch.bool) + q.type(torch.int64)),
    "constants": lambda s, b, h, q, kv: (torch.full_like(s, 2.5) + torch.zeros_like(q) + torch.ones_like(s) + torch.tensor(3) * s
                                         + torch.tensor(0.5) + s.new_tensor(2.0)),
    "isnan": lambda s, b, h, q, kv: torch.isnan(s / 0.0 * 0.0).int() + torch.isinf(s / 0.0).int() * 2 + torch.isfinite(s).int() * 4,
    "reflected": lambda s, b, h, q, kv: 3 - s + 4 / (s * s + 1) + 100 // (q + 1) + 100 % (q + 1) + torch.sub(3, s) + torch.rsub(s, 2),
    "methods": lambda s, b, h, q, kv: s.exp().log() + s.tanh().abs() + s.sigmoid().square() + q.add(kv).mul(2).sub(1) + s.neg().clamp_min(0),
    "alpha": lambda s, b, h, q, kv: torch.add(s, q, alpha=3),
    "captured": lambda s, b, h, q, kv: s * COUNT + q // COUNT + (q - kv) % COUNT + COUNT / 2 + COUNT**2 + (q + 1) ** COUNT % 1000,
    "lerp": lambda s, b, h, q, kv: torch.lerp(s, s * 2, 0.25),
    "masked_fill": lambda s, b, h, q, kv: s.masked_fill(q > kv, 9.0),
    "long sum": lambda s, b, h, q, kv: sum((s + i) * (q - i) for i in range(40)),
    "deep": lambda s, b, h, q, kv: _deep(s, q, kv),
}


def _deep(s: Any, q: Any, kv: Any) -> Any:
    for i in range(700):
        s = torch.where(q > i, s + 1, s * 0.5) if i % 2 else -(s - kv)
    return s


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    function = FUNCTIONS[name]
    trace, values = tracing.lookup(function, None)
    arrays = [torch.from_numpy(np.ascontiguousarray(x)) for x in AT]
    expected = function(torch.from_numpy(SCORES), *arrays).double().expand(SCORES.shape).numpy()
    actual = trace.evaluate_score(values, SCORES, *AT)
    single = name in ("casts", "clamp tensors")  # an integer and a Python float make a float32 in torch
    np.testing.assert_allclose(actual, expected, rtol=1e-5 if single else 2e-12, atol=1e-5 if single else 1e-12)


def test_text_of_operators() -> None:
    def text(function: Any) -> str:
        kind = tracing.mod_kind(function)
        return tracing.trace(**{kind: function}).source.split("return ")[1].split(" }")[0].split("\n")[0]

    assert text(lambda b, h, q, kv: (q & 3 == 0) | ((kv & 1) == 1) & ~(q > kv)) == "q & 3 == 0 || kv & 1 == 1 && !(q > kv)"
    assert text(lambda b, h, q, kv: ((q & 3) == 0) & (q - (kv - 1) > 2)) == "q & 3 == 0 && q - (kv - 1) > 2"
    assert text(lambda b, h, q, kv: ~((q > kv) | (q < 2))) == "!(q > kv || q < 2)"
    assert text(lambda b, h, q, kv: ((q > kv) & True) | False) == "q > kv"
    assert text(lambda b, h, q, kv: (q > 1) & ((kv > 1) & (q > kv))) == "q > 1 && kv > 1 && q > kv"
    assert text(lambda s, b, h, q, kv: s + (kv - q)) == "s + (kv - q)"
    assert text(lambda s, b, h, q, kv: s * -(q - kv) / 2) == "s * -(q - kv) / 2.0"
    assert text(lambda s, b, h, q, kv: s * 1e-5 + 1e20 - (-2)) == "s * 1e-05 + 1e20 - -2.0"
    assert text(lambda s, b, h, q, kv: (q + kv).float() * (q - kv).float()) == "f32(q + kv) * f32(q - kv)"
    assert text(lambda s, b, h, q, kv: torch.exp(q - kv)) == "exp(q - kv)"
    assert text(lambda s, b, h, q, kv: s + 2**33 * q) == "s + 8589934592 * q"
    assert text(lambda s, b, h, q, kv: 3) == "3.0"


def test_dtypes() -> None:
    types = [torch.bool, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
             torch.uint8, torch.int16, torch.float64]
    declared = ["bool", "i8", "i32", "i64", "f16", "bf16", "f32", "i32", "i32", "f32"]
    for dtype, name in zip(types, declared):
        table = (torch.arange(40) % 3 - int(dtype not in (torch.bool, torch.uint8))).to(dtype)
        trace, values = tracing.lookup(lambda s, b, h, q, kv, table=table: s + table[kv], None)
        assert [p.dtype for p in trace.params] == [name]
        direct = dtype not in (torch.uint8, torch.int16, torch.float64)
        assert (values[0] is table) == direct
        actual = trace.evaluate_score(values, SCORES, *AT)
        np.testing.assert_allclose(actual, SCORES + table.double().numpy(), rtol=1e-14, atol=1e-14)
    for numpy_type in (np.uint16, np.int16, np.float64, np.uint32):
        array = np.arange(40).astype(numpy_type)
        _, values = tracing.lookup(lambda s, b, h, q, kv, array=array: s + array[kv], None)
        assert values[0].dtype in (np.int32, np.int64, np.float32) and values[0].tolist() == array.tolist()


def _shift(index: Any) -> Any:
    index -= 3
    return index // 4


def _methods_in_place(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    kept = s.clone()
    s.mul_(2).add_(kv, alpha=3)
    s.masked_fill_(kept > 2, 1.5)
    return s - kept


def _operators_in_place(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    other = s
    other *= 2
    s += kv
    kv <<= 1
    kv %= 7
    kv **= 2
    count = COUNT  # a number, which is another one then
    count += 1
    return other - s / 4 + kv + count * COUNT


def _other_names_in_place(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    """Tensors that are of the type already are themselves; copies are not."""
    same, copies = s.to(s.dtype), (s.to(s.dtype, copy=True), torch.nan_to_num(q), s.clone())
    torch.relu_(s)
    F.leaky_relu(s - 1, 0.5, inplace=True)
    F.elu(s, inplace=True)
    same += kv
    q += 1
    distance = q - kv
    distance.ge_(0)  # 0 or 1
    return s * 3 + copies[0] + copies[1] * 5 + copies[2] + ~distance * q


def _waiting_in_place(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    """What is computed of a captured tensor waits for an index, or for the next fetch, not for values to change."""
    two = torch.tensor(2)
    shifted, sums = torch.arange(40) * kv, torch.cumsum(WEIGHTS.clamp(max=two), 0)
    kv += 1
    two += 5
    return s + shifted[q] + kv + sums[q]


IN_PLACE: dict[str, Any] = {
    "argument of a function": lambda s, b, h, q, kv: s + (_shift(q) == _shift(kv)) * 2 + (q < kv) * 4 + q * 8,
    "methods": _methods_in_place,
    "operators": _operators_in_place,
    "other names": _other_names_in_place,
    "waiting": _waiting_in_place,
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    """All names of a value see that it is changed."""
    vmapped = IN_PLACE[name]
    for dims in ((0, None, None, None, 0), (0, None, None, 0, None), (0, None, 0, None, None), (0, 0, None, None, None)):
        vmapped = torch.vmap(vmapped, in_dims=dims)
    expected = vmapped(torch.from_numpy(SCORES.copy()), *(torch.arange(n) for n in SCORES.shape)).numpy()
    trace, values = tracing.lookup(IN_PLACE[name], None)
    np.testing.assert_allclose(trace.evaluate_score(values, SCORES, *AT), expected, rtol=2e-12, atol=1e-12)
    check(trace)


def test_foreign_tensors() -> None:
    class Foreign:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        @property
        def __array_interface__(self) -> Any:
            return self.array.__array_interface__

    foreign = Foreign(np.arange(40, dtype=np.int32))
    trace, values = tracing.lookup(None, lambda b, h, q, kv: foreign[kv] > q)
    foreign.array[3] = 100
    assert values[0][3] == 100
    np.testing.assert_array_equal(trace.evaluate_mask(values, *AT)[0, 0], (foreign.array > np.arange(7)[:, None]))


def _bias() -> Any:
    return torch.from_numpy(np.random.default_rng(0).integers(-50, 50, (2, 3, 7, 40)).astype(np.int32))


bias = _bias()
doc = bias[0, 0]
steps = bias[0, 0, 0]
ends = torch.tensor([[0, 3, 3, 9, 30], [2, 5, 17, 18, 40]], dtype=torch.int32)
strided = torch.as_strided(torch.arange(4000, dtype=torch.int32), (2, 3, 7, 40), (900, 300, 41, 1))

INDEXING: dict[str, Any] = {
    "full": lambda b, h, q, kv: bias[b, h, q, kv],
    "partial": lambda b, h, q, kv: bias[b][h][q][kv],
    "partial pairs": lambda b, h, q, kv: bias[b, h][q, kv],
    "constant": lambda b, h, q, kv: bias[1, 2, q, 5] + bias[-1, -1, -2, kv],
    "negative": lambda b, h, q, kv: bias[b, h, q, kv - 20] + steps[q - kv],
    "strided": lambda b, h, q, kv: strided[b, h, q, kv],
    "slices": lambda b, h, q, kv: bias[:, 1:, 1:6:2][b, 1, q % 3, kv] + bias[..., 3:9][b, h, q, kv % 6] + steps[10:][q] + steps[-5:][q % 5],
    "slice negative": lambda b, h, q, kv: steps[10:30][-1 - q],
    "ellipsis": lambda b, h, q, kv: bias[b, ..., kv][h, q] + bias[..., 0][b, h, q] + bias[...][b, h, q, kv],
    "none": lambda b, h, q, kv: bias[None, b, h, q, kv][0] + steps[None, :, None][0, q, 0],
    "transposed": lambda b, h, q, kv: doc.T[kv, q] + doc.t()[kv, q] + bias.transpose(1, 2)[b, q, h, kv] + bias.permute(3, 0, 1, 2)[kv, b, h, q],
    "views": lambda b, h, q, kv: bias.view(6, 7, 40)[b * 3 + h, q, kv] + doc.reshape(-1)[q * 40 + kv] + doc.flatten()[kv] + doc.unsqueeze(0)[0, q, kv]
    + steps.expand(3, 40)[h, kv] + bias.contiguous().clone().detach()[b, h, q, kv] + bias.to("cpu")[b, h, q, kv] + bias.squeeze()[b, h, q, kv],
    "cast tensor": lambda b, h, q, kv: bias.float()[b, h, q, kv] / 2 + (doc.to(torch.int64)[q, kv] > 3),
    "rows": lambda b, h, q, kv: bias[b, h, q].sum() + bias[b, h, q][kv] + doc[q][3] + doc[q].max() + doc[q].amin() + doc[q][2:5].sum(),
    "row mean": lambda b, h, q, kv: doc[q].float().mean() + (doc[q] > 3).sum() + doc[q].sum(dim=-1) + (doc[q] == kv).any() + (doc[q] > -60).all(),
    "row operations": lambda b, h, q, kv: (torch.abs(doc[q] - kv) < 9).sum() + torch.dot(doc[q].float(), doc[q - 1].float()) + (doc[q] @ doc[0]),
    "own vector": lambda b, h, q, kv: steps.sum() + (steps > kv).any() + torch.stack([q, kv, h]).sum() + (steps[:3] * steps[3:6]).sum(),
    "other axis": lambda b, h, q, kv: doc[:, kv].sum() + bias[b, :, q, kv].max(),
    "vector index": lambda b, h, q, kv: steps[doc[q, :3] % 40].sum() + doc[q, torch.stack([kv, kv - 1])].sum(),
    "made in the mod": lambda b, h, q, kv: torch.tensor([5, 7, 9])[q % 3] + torch.arange(50)[kv] + torch.zeros(40, dtype=torch.int32)[kv],
    "unpack": lambda b, h, q, kv: sum(part * i for i, part in enumerate(doc[q, :4])),
    "sizes": lambda b, h, q, kv: q % bias.shape[2] + kv % bias.size(-1) + len(doc) + doc.numel() + bias.dim() + bias.shape[0] * q,
    "nested": lambda b, h, q, kv: steps[steps[steps[kv] % 40] % 40],
    "operations first": lambda b, h, q, kv: ((steps * 2)[kv] + (-steps)[q - kv] + torch.abs(doc)[q, kv] + torch.where(steps > 0, steps, 3)[kv]
                                             + (steps / 100).exp()[kv] + torch.sinh(steps / 50)[-1] + (doc > 3).int()[q, -1]),
    "of two": lambda b, h, q, kv: ((doc + steps)[q, kv] + (bias - doc)[b, h, q, kv] + (steps[:7, None] * steps[None])[q, kv] + (bias * 2)[b, h][q][kv]
                                   + (doc[:1] * doc)[q, kv] + (steps * steps[3])[kv] + (steps[5:] + 1)[kv % 35] + (doc * 2 + q)[..., kv][q]),
    "rows of operations": lambda b, h, q, kv: (doc * 2)[q].sum() + (doc + steps)[:, kv].max() + (steps * kv).sum() + (doc * 2)[q, torch.stack([q, kv])].sum(),
    "rearranged": lambda b, h, q, kv: (steps.flip(0)[kv] + doc.flip((0, 1))[q, kv] + doc.roll(3, 1)[q, kv] + torch.roll(steps, -2)[q] + doc.tril()[q, kv]
                                       + doc.triu(1)[q, kv] + doc.diagonal()[q] + torch.flip(doc, (0,))[q, kv] + torch.transpose(doc, 0, 1)[kv, q]
                                       + torch.permute(bias, (3, 0, 1, 2))[kv, b, h, q] + torch.reshape(doc, (-1,))[kv] + torch.movedim(doc, 0, 1)[kv, q]),
    "selected": lambda b, h, q, kv: (torch.take(doc, q * 40 + kv) + doc.take(kv) + steps.index_select(0, kv.view(1))[0]
                                     + doc.index_select(1, kv.view(1))[q, 0] + torch.index_select(doc, 0, q.view(1))[0, kv] + doc.select(1, 3)[q]
                                     + torch.gather(steps, 0, kv.view(1))[0] + doc[q].gather(0, kv.view(1)).sum()
                                     + torch.take_along_dim(steps, q.view(1), 0)[0]),
    "looked up": lambda b, h, q, kv: (torch.searchsorted(ends[b], kv, right=True) * 2 + torch.searchsorted(ends[1, :3], q, side="right") * 3
                                      + torch.bucketize(kv - q, ends[0]) * 5 + torch.bucketize(q, ends[0, 4:], right=True) * 7
                                      + torch.bucketize(kv, (ends * 2 + 1)[1, 1:], out_int32=True) * 11 + torch.bucketize(q, ends[0, :0])
                                      + torch.searchsorted(torch.tensor([-2, 4, 4, 8]), q - 3) * 13),
    "is in": lambda b, h, q, kv: torch.isin(kv, ends[b]) * 2 + torch.isin(q, steps, invert=True) * 3 + torch.isin(kv, torch.tensor([3, 39])) * 5,
    "norms": lambda b, h, q, kv: (torch.norm(doc[q, 1:4].float()) + doc[q].float().norm(p=1) + torch.linalg.norm(doc[q].float() - kv, ord=3, dim=-1)
                                  + torch.linalg.vector_norm(doc[:, kv].float(), torch.inf) + doc[q].float().norm(-torch.inf)
                                  + torch.linalg.norm(doc[q].float(), 0) + torch.dist(doc[q].float(), doc[0].float()) + torch.norm(doc[:, kv].float(), dim=0)),
    "embedding": lambda b, h, q, kv: (F.embedding(kv, doc.T.contiguous())[q] + F.embedding(q, doc, padding_idx=1)[kv]
                                      + F.embedding(steps % 3, doc)[q, kv]),
    "whole casts": lambda b, h, q, kv: (torch.cumsum(steps.double() / 3 + 2**24, 0).diff(n=2)[kv % 38] + (steps * 300).to(torch.int8).cumsum(0)[kv]
                                        + steps.short().mul(2000).cumsum(0)[q]),
    "whole tensors": lambda b, h, q, kv: (torch.cumsum(steps, 0)[kv] + bias.cumsum(-1)[b, h, q, kv] + doc.max() + bias.sum((0, 1))[q, kv] + doc.min(dim=1).values[q]
                                          + torch.sort(steps)[0][kv] + F.pad(steps, (1, 0))[q] + torch.cat([steps, doc[...].reshape(-1)])[kv] + torch.stack([steps, steps])[1, q]
                                          + torch.topk(steps, COUNT).indices[q % COUNT] + (doc @ doc.T)[q, kv % 7] + doc.long().amax() + (doc.bool().sum(1) + torch.cumsum(torch.tensor([3, 4, 5]), 0)[q % 3])[0] * q
                                          + torch.argsort(steps, descending=True)[kv] + doc.any(1)[q] + F.one_hot(ends.long(), 41)[b, q % 5, kv]
                                          + torch.searchsorted(ends, ends)[1, q % 5] + torch.isin(doc, steps)[q, kv]),
    "whole operations": lambda b, h, q, kv: ((steps == 3).cumsum(0)[kv] + F.one_hot(doc.long() % 5, 5)[q, kv, 2] + (doc * COUNT - 1).abs().amax(1)[q]
                                             + (-bias).sum() + (doc.clamp(min=0) @ torch.where(doc.T > 0, doc.T, 1))[q, kv % 7]),
    "index of operations": lambda b, h, q, kv: steps[(abs(steps) + 1)[kv] % 40] + steps[(steps % 40)[q]],
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name: str) -> None:
    function = INDEXING[name]
    trace, values = tracing.lookup(lambda s, b, h, q, kv: s + function(b, h, q, kv), None)
    vmapped = function
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        vmapped = torch.vmap(vmapped, in_dims=dims)
    arguments = [torch.arange(n) for n in (2, 3, 7, 40)]
    if name == "made in the mod":  # vmap cannot index a plain tensor with its own on every axis order: by hand
        expected = np.array([5, 7, 9])[AT[2] % 3] + AT[3]
    elif name == "sizes":
        expected = AT[2] % 7 + AT[3] + 7 + 280 + 4 + 2 * AT[2]
    else:
        expected = vmapped(*arguments).double().numpy()
    actual = trace.evaluate_score(values, np.zeros(()), *AT)
    tolerance = 1e-6 if name in ("row mean", "operations first", "norms", "whole casts") else 1e-12  # a float32 in torch
    np.testing.assert_allclose(actual, np.broadcast_to(expected, (2, 3, 7, 40)), rtol=tolerance)


def test_numpy_views() -> None:
    array, line = doc.numpy(), steps.numpy()

    def mod(s, b, h, q, kv):
        return (np.take(line, kv) + np.take(array, q * 40 + kv) + np.take(array, kv, axis=1)[q] + array.take(q, axis=0)[kv] + np.flip(array, axis=1)[q, kv]
                + np.roll(line, 3)[kv] + np.tril(array)[q, kv] + np.transpose(array)[kv, q] + np.moveaxis(array, 0, 1)[kv, q] + np.expand_dims(line, 0)[0, q]
                + np.ravel(array)[kv] + np.fliplr(array)[q, kv] + np.select([q > kv, q == kv], [s + 1, 5], 7) + array.T[kv, q])

    trace, values = tracing.lookup(mod, None)
    b, h, q, kv = np.broadcast_arrays(*AT)
    ours = trace.evaluate_score(values, 0.0, *AT)
    taken = array[q, kv]
    expected = (line[kv] + array.ravel()[q * 40 + kv] + 2 * taken + np.flip(array, axis=1)[q, kv] + np.roll(line, 3)[kv] + np.tril(array)[q, kv] + 2 * taken
                + line[q] + array.ravel()[kv] + np.fliplr(array)[q, kv] + np.select([q > kv, q == kv], [1, 5], 7) + taken)
    np.testing.assert_array_equal(ours, expected)
    array[3, 4] += 7  # read at each call
    assert (trace.evaluate_score(trace.values(mod), 0.0, *AT) != ours).any()
    array[3, 4] -= 7
    check(trace)


def test_operations_on_tables_of_the_mod() -> None:
    def mod(s, b, h, q, kv):
        return (torch.exp2(-torch.arange(2.0))[b] + (torch.arange(40) * 2)[kv] + (2.0 ** -np.arange(3))[h] + np.sqrt(np.linspace(0, 1, 7))[q]
                + (torch.tensor([1, 2, 3]) + steps[:3])[h] + (torch.eye(7) * 5)[q, q])

    trace, values = tracing.lookup(mod, None)
    b, h, q, kv = AT
    expected = 0.5**b + 2 * kv + 0.5**h + np.sqrt(q / 6) + 1 + h + steps.numpy()[h] + 5
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, *AT), np.broadcast_to(expected, (2, 3, 7, 40)), rtol=1e-6)
    check(trace)


def test_operations_on_long_tables_and_many_of_them() -> None:
    table = torch.arange(100_000.0)  # more than a row may have

    def halved(s, b, h, q, kv):
        x = table
        for i in range(200):
            x = (x + x) * 0.5 if i < 30 else x
        y = steps
        for _ in range(150):  # of 40 elements, which are computed at some depth
            y = y + 1
        return (x * 2)[kv * 1000] + y[3]

    trace, values = tracing.lookup(halved, None)
    np.testing.assert_array_equal(trace.evaluate_score(values, 0.0, *AT)[0, 0, 0], np.arange(40) * 2000.0 + steps[3].item() + 150)


def test_lengths_of_what_is_combined_are_guarded() -> None:
    def make(left, right):
        return lambda s, b, h, q, kv: s + (left * right)[kv]

    x, y, one = torch.arange(40.0), torch.arange(40.0) + 1, torch.full((1,), 3.0)
    traces = [tracing.lookup(make(*pair), None) for pair in ((x, y), (x, one), (one, y), (one, one), (x[:30], y[:30]))]
    assert len({id(trace) for trace, _ in traces}) == 3  # of equal lengths, 1 among them, and of one to each side
    expected = [x * y, x * 3, y * 3]
    for (trace, values), row in zip(traces, expected):
        np.testing.assert_array_equal(trace.evaluate_score(values, 0.0, *AT)[0, 0, 0], row)
    with pytest.raises(tracing.TraceError, match="vectors of 40 and 30 elements cannot be combined"):
        tracing.lookup(make(x, y[:30]), None)


def test_texts() -> None:
    """All of the above, as one program."""
    functions = list(FUNCTIONS.values())
    functions += [lambda s, b, h, q, kv, f=function: s + f(b, h, q, kv) for function in INDEXING.values()]
    check(*(tracing.trace(function, name=f"v{i}") for i, function in enumerate(functions)))


def test_length_of_what_is_searched() -> None:
    """Another length is another argument, unless it takes another number of steps."""
    offsets = torch.tensor([0, 10, 20, 30])

    def mask(b, h, q, kv):
        return torch.searchsorted(offsets, q, right=True) == torch.searchsorted(offsets, kv, right=True)

    digests = []
    for offsets in (torch.tensor([0, 10, 20, 30]), torch.tensor([0, 3, 3, 20, 25, 29]), torch.tensor([0, 30]), torch.tensor([5])):
        trace, values = tracing.lookup(None, mask)
        digests.append(trace.digest)
        document = torch.searchsorted(offsets, torch.arange(40), right=True)
        expected = np.broadcast_to(document[:7, None] == document[None], (2, 3, 7, 40))
        np.testing.assert_array_equal(np.broadcast_to(trace.evaluate_mask(values, *AT), expected.shape), expected)
        check(trace)
    assert [digests.index(digest) for digest in digests] == [0, 0, 2, 3]

    numbers, positions = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([float("nan"), 1.0, 2.5, 7.0])
    trace, values = tracing.lookup(lambda s, b, h, q, kv: s + torch.searchsorted(numbers, positions[q]), None)
    actual = [float(trace.evaluate_score(values, 0.0, 0, 0, i, 0)) for i in range(4)]
    assert actual == torch.searchsorted(numbers, positions).tolist() == [3, 0, 2, 3]


def test_wrap_only_where_needed() -> None:
    def text(function: Any) -> str:
        return tracing.trace(None, function).source

    size = 8
    for function in (lambda b, h, q, kv: steps[q // 4] > 0, lambda b, h, q, kv: steps[(q - kv) % 8] > 0,
                     lambda b, h, q, kv: steps[(q - kv).clamp(0, 5)] > 0, lambda b, h, q, kv: steps[abs(q - kv)] > 0,
                     lambda b, h, q, kv: steps[q * 2 + kv + 1] > 0, lambda b, h, q, kv: steps[(q > kv).int()] > 0,
                     lambda b, h, q, kv: steps[torch.where(q > kv, q, 3)] > 0, lambda b, h, q, kv: steps[q // size] > 0,
                     lambda b, h, q, kv: steps[(q - kv) % size] > 0, lambda b, h, q, kv: steps[q & 7] > 0,
                     lambda b, h, q, kv: steps[torch.maximum(q - kv, h)] > 0, lambda b, h, q, kv: steps[kv >> 1] > 0):
        assert "steps_len" not in text(function), text(function)
    for function in (lambda b, h, q, kv: steps[q - kv] > 0, lambda b, h, q, kv: steps[steps[q]] > 0,
                     lambda b, h, q, kv: steps[(q - kv) // 2] > 0, lambda b, h, q, kv: steps[-1] > q):
        assert "steps_len" in text(function), text(function)


def test_sign_of_a_captured_number_is_guarded() -> None:
    def make(size: int) -> Any:
        return lambda b, h, q, kv: steps[(q - kv) // size % size] > 0

    positive, _ = tracing.lookup(None, make(4))
    assert tracing.lookup(None, make(9))[0] is positive
    negative, values = tracing.lookup(None, make(-4))
    assert negative is not positive
    expected = steps.numpy()[(AT[2] - AT[3]) // -4 % -4] > 0
    np.testing.assert_array_equal(negative.evaluate_mask(values, *AT), np.broadcast_to(expected, (2, 3, 7, 40)))


def test_high_rank() -> None:
    table = torch.arange(2 * 3 * 2 * 2 * 2 * 2 * 5 * 2, dtype=torch.int32).reshape(2, 3, 2, 2, 2, 2, 5, 2)
    trace, values = tracing.lookup(None, lambda b, h, q, kv: table[b, h, q % 2, 1, 0, kv % 2, q % 5, 1] % 3 == 0)
    assert next(p for p in trace.params if p.name == "table").rank == 6
    check(trace)
    expected = table.numpy()[AT[0], AT[1], AT[2] % 2, 1, 0, AT[3] % 2, AT[2] % 5, 1] % 3 == 0
    np.testing.assert_array_equal(trace.evaluate_mask(values, *AT), np.broadcast_to(expected, (2, 3, 7, 40)))


TABLE = torch.arange(100)
# Products of 64 bits that wrap around, and casts to 32 that do.
WRAPPING: dict[str, Any] = {
    "abs of a product": lambda q, kv: abs((kv.long() * 6364136223846793005) >> 46) < 20000,
    "abs of a cast": lambda q, kv: abs((kv.long() * 300000000).to(torch.int32)) < 2**29,
    "abs of a sum": lambda q, kv: abs(kv.long() + (2**63 - 20)) < 2**62,
    "index of a product": lambda q, kv: TABLE[(kv.long() * 6364136223846793005) >> 60] < 95,
    "index of a cast": lambda q, kv: TABLE[(kv.long() * 300000000).int() >> 26] < 95,
    "truncating division": lambda q, kv: torch.div(kv.long() * 6364136223846793005, 2**60, rounding_mode="trunc") < 0,
    "of what fits": lambda q, kv: TABLE[(kv.long() * 3 % 100).int()] + abs(q.long() * 2 + 1) < 90}


@pytest.mark.parametrize("name", WRAPPING)
def test_what_wraps_around_may_be_negative(name: str) -> None:
    trace, values = tracing.lookup(None, lambda b, h, q, kv: WRAPPING[name](q, kv))
    q, kv = np.arange(65)[:, None], np.arange(65)
    found = trace.evaluate_mask(values, np.zeros(1, int), np.zeros(1, int), q, kv)
    expected = WRAPPING[name](torch.as_tensor(q), torch.as_tensor(kv))
    np.testing.assert_array_equal(np.broadcast_to(found, (65, 65)), np.broadcast_to(expected.numpy(), (65, 65)))
    assert name != "of what fits" or "abs" not in trace.source.partition("\n")[2]
