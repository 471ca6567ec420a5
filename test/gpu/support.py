# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Attention by definition in float64 on the device, and how kernels are run and compared with it.

Mods are evaluated by torch.vmap, as FlexAttention's own reference does it, for all queries in portions or for a sample of
them. Nothing here comes from Heed but what is tested.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

import heed

Mod = Callable[..., Any] | None
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

DEVICE = torch.device("cpu")
QUICK = False
LONGEST = 300  # sequence length
# dtype, and the error as a share of what is allowed: for the report
MEASURED: list[tuple[str, float]] = []


def configure(device: str, quick: bool) -> None:
    global DEVICE, QUICK, LONGEST
    DEVICE, QUICK = torch.device(device), quick
    LONGEST = 1 << 20 if DEVICE.type == "cuda" else 300
    torch.backends.cuda.matmul.allow_tf32 = False


def fitting(lengths: Sequence[Any]) -> list[Any]:
    """Those of lengths, or of tuples of lengths, that this device is quick enough for."""
    return [n for n in lengths if max(n if isinstance(n, tuple) else (n,)) <= LONGEST]


@dataclasses.dataclass(frozen=True)
class Shape:
    B: int = 1
    Hq: int = 2
    Hkv: int = 2
    Sq: int = 128
    Skv: int = 128
    Bkv: int | None = None

    def __str__(self) -> str:
        return f"B{self.B} H{self.Hq}/{self.Hkv} S{self.Sq}x{self.Skv}"


def inputs(shape: Shape, dims: tuple[int, int] = (64, 64), dtype: str = "bf16", seed: int = 0,
           scale: float = 1.0) -> list[torch.Tensor]:
    """Random query, key and value; the query `scale` times as large."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    batch = shape.B if shape.Bkv is None else shape.Bkv
    extents = ((shape.B, shape.Hq, shape.Sq, dims[0]), (batch, shape.Hkv, shape.Skv, dims[0]),
               (batch, shape.Hkv, shape.Skv, dims[1]))
    made = [torch.randn(e, generator=generator, device=DEVICE, dtype=torch.float32 if dtype == "f32" else DTYPES[dtype])
            for e in extents]
    if scale != 1.0:
        made[0] = made[0] * scale
    return made


# -- By definition -----------------------------------------------------------------------------------

def for_pairs(mod: Any, indices: Sequence[torch.Tensor], *scores: torch.Tensor) -> torch.Tensor:
    """A mod at all combinations of b, h, q and kv."""
    for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)):
        mod = torch.vmap(mod, in_dims=((0,) if scores else ()) + dims)
    return mod(*scores, *indices).expand([len(i) for i in indices])


@dataclasses.dataclass
class Sample:
    """Some batches, heads and queries."""
    batches: torch.Tensor
    heads: torch.Tensor
    rows: torch.Tensor

    def of(self, x: torch.Tensor) -> torch.Tensor:
        return x[self.batches][:, self.heads][:, :, self.rows]


def _indices(numbers: Any) -> torch.Tensor:
    return torch.as_tensor(numbers, device=DEVICE, dtype=torch.int64)


def everything(query: torch.Tensor) -> Sample:
    return Sample(*(_indices(range(n)) for n in query.shape[:3]))


def sample(query: torch.Tensor, rows: int = 48, heads: int = 3, seed: int = 0) -> Sample:
    """The first and the last of everything, what lies around tile boundaries, and others at random."""
    generator = torch.Generator().manual_seed(seed)

    def choose(extent: int, count: int, fixed: Sequence[int] = ()) -> torch.Tensor:
        if extent <= count:
            return _indices(range(extent))
        chosen = {0, extent - 1, *(x for x in fixed if 0 <= x < extent)}
        while len(chosen) < count:
            chosen.add(int(torch.randint(extent, (1,), generator=generator)))
        return _indices(sorted(chosen))

    batch, count, length, _ = query.shape
    return Sample(choose(batch, heads), choose(count, heads),
                  choose(length, rows, (1, 63, 64, 127, 128, 191, 192, length // 2, length - 2, length - 129)))


@dataclasses.dataclass
class Expected:
    output: torch.Tensor
    lse: torch.Tensor
    magnitude: torch.Tensor  # sum of p |v|: what rounding errors are relative to
    score: torch.Tensor  # largest finite |score| of a row
    of: Sample
    pairs: torch.Tensor  # number of pairs that attend, of each row

    @property
    def masked(self) -> torch.Tensor:
        return self.lse == -math.inf


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Mod = None, mask_mod: Any = None, *,
              scale: float | None = None, of: Sample | None = None, portion: int = 1 << 24) -> Expected:
    """Dense float64 attention. mask_mod may be a tensor of bool, broadcastable to (B, Hq, Sq, Skv)."""
    of = of or everything(query)
    group = query.shape[1] // max(key.shape[1], 1)
    length = key.shape[2]
    factor = query.shape[3] ** -0.5 if scale is None else scale
    kv = torch.arange(length, device=query.device, dtype=torch.int32)
    batches = []
    for batch in of.batches.tolist():
        from_batch = batch if key.shape[0] > 1 else 0
        # One head of keys at a time is enough where there are many.
        step = max(1, portion // max(1, length * max(query.shape[3], value.shape[3])))
        heads = []
        for some in of.heads.split(step):
            k, v = (x[from_batch][some // group].double() for x in (key, value))
            rows_at_once = max(1, portion // max(1, length * len(some)))
            portions = [_rows(query[batch][some][:, rows].double(), k, v, score_mod, mask_mod, factor,
                              [torch.tensor([batch], device=query.device, dtype=torch.int32), some.int(), rows.int(), kv])
                        for rows in of.rows.split(rows_at_once)]
            heads.append([torch.cat(x, 1) for x in zip(*portions)])
        batches.append([torch.cat(x, 0) for x in zip(*heads)])
    output, lse, magnitude, score, pairs = (torch.stack(x) for x in zip(*batches))
    return Expected(output, lse, magnitude, score, of, pairs)


def _rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, score_mod: Mod, mask_mod: Any, factor: float,
          at: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """For some rows of one batch."""
    s = q @ k.mT * factor
    if score_mod is not None:
        s = for_pairs(score_mod, at, s[None])[0].double()
    if isinstance(mask_mod, torch.Tensor):
        mask = mask_mod[int(at[0]) if mask_mod.shape[0] > 1 else 0]
        mask = mask[at[1].long()] if mask.shape[0] > 1 else mask
        s = s.where(mask[:, at[2].long()], -math.inf)
    elif mask_mod is not None:
        s = s.where(for_pairs(mask_mod, at)[0], -math.inf)
    lse = s.logsumexp(-1)
    p = torch.exp(s - lse.where(lse > -math.inf, 0)[..., None])
    finite = s.abs().nan_to_num(0, 0, 0)
    score = finite.amax(-1) if s.shape[-1] else torch.zeros_like(lse)
    return p @ v, lse, p @ v.abs(), score, (s > -math.inf).sum(-1)


# -- Running -----------------------------------------------------------------------------------------

def poison_free_memory(query: torch.Tensor, value_dim: int) -> None:
    """What the next outputs are likely to be allocated from holds NaN."""
    shape = tuple(query.shape[:3])
    junk = [torch.full((*shape, value_dim), math.nan, dtype=query.dtype, device=query.device) for _ in range(2)]
    junk += [torch.full(shape, math.nan, device=query.device) for _ in range(2)]
    del junk


def run_flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Mod = None, mask_mod: Mod = None,
             **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """heed.flex_attention with LSE."""
    poison_free_memory(query, value.shape[3])
    output, aux = heed.flex_attention(query, key, value, score_mod, mask_mod=mask_mod, enable_gqa=True,
                                      return_aux=heed.AuxRequest(lse=True), **arguments)
    assert output.device == query.device and output.dtype == query.dtype
    assert aux.lse.device == query.device and aux.lse.dtype == torch.float32
    return output, aux.lse


def poisoned(query: torch.Tensor, value_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = tuple(query.shape[:3])
    return (torch.full((*shape, value_dim), math.nan, dtype=query.dtype, device=query.device),
            torch.full(shape, math.nan, device=query.device))


def run_variant(variant: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A variant of a .heed file, into poisoned outputs."""
    output, lse = poisoned(query, value.shape[3])
    variant(query, key, value, out=output, lse=lse, **arguments)
    return output, lse


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int16 if x.element_size() == 2 else torch.int32)


def same_bits(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(left, right))


# -- Comparing ---------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Limits:
    output: float  # ||o - ref|| / ||ref||
    element: float  # |o - ref| of what is summed
    lse: float  # absolute


# P is rounded once and the output once, each by up to 2^-9 in bf16 and 2^-12 in f16.
LIMITS = {"bf16": Limits(6e-3, 4 * 2**-8, 3e-3), "f16": Limits(1.5e-3, 4 * 2**-11 + 1e-3, 3e-3),
          "f32": Limits(2e-6, 1e-5, 1e-5), "tf32": Limits(5e-4, 4e-3, 3e-3)}
# Score mods in f32 may be wrong in the last bits before the exponential sees them; tanh and its like by 2^-11 in 16-bit types.
WITH_SCORE_MOD = {"bf16": Limits(6e-3, 8 * 2**-8, 1e-2), "f16": Limits(1.5e-3, 4 * 2**-11 + 4e-3, 1e-2),
                  "f32": Limits(1e-5, 1e-4, 5e-5), "tf32": Limits(5e-4, 8e-3, 1e-2)}

ROW = 4  # how much more than the whole one row of the output may be off


def check(found: Sequence[torch.Tensor | None], expected: Expected, *, what: str = "", limits: dict[str, Limits] | None = None,
          kind: str | None = None) -> None:
    """Output, and LSE if there is one, against float64: as a whole, element by element, and exactly where nothing attends."""
    dtype = NAMES[found[0].dtype]  # type: ignore[union-attr]
    limit = (limits or LIMITS)[kind or dtype]
    output, lse = (None if x is None else expected.of.of(x) for x in found)
    assert output is not None and output.shape == expected.output.shape, f"{what}: shape {tuple(found[0].shape)}"  # type: ignore[union-attr]
    output, problems = output.double(), []
    if bool(output.isnan().any()) and not bool(expected.output.isnan().any()):
        place = output.isnan().nonzero()[0].tolist()
        problems.append(f"{int(output.isnan().sum())} of {output.numel()} elements are NaN, first {_place(place, expected.of)}")
    masked, wide = expected.masked, 2e-6 * expected.score
    if not bool((output[masked] == 0).all()):
        problems.append(f"{int((output[masked] != 0).any(-1).sum())} of {int(masked.sum())} rows that attend to nothing are not 0")
    norm = float(expected.output.norm())
    error = float((output - expected.output).norm()) / norm if norm > 0 else float(output.norm())
    # Scores in the thousands lose digits before the exponential.
    allowed = limit.output + float(wide.max()) if wide.numel() else limit.output
    MEASURED.append((kind or dtype, error / allowed))
    if not error <= allowed:
        problems.append(f"error {error:.2e} > {allowed:.1e}")
    if output.shape[-1] >= 16:  # fewer elements may cancel
        row = (output - expected.output).norm(dim=-1) / expected.output.norm(dim=-1).clamp(min=1e-30)
        far = ~(row <= ROW * (limit.output + wide)) & ~masked
        if bool(far.any()):
            b, h, place_row = far.nonzero()[0].tolist()
            problems.append(f"{int(far.sum())} of {far.numel()} rows are off, first {_place([b, h, place_row, 0], expected.of)} by "
                            f"{float(row[b, h, place_row]):.1e}")
    bound = (limit.element + wide[..., None]) * expected.magnitude + (1e-6 if dtype == "f16" else 1e-30)
    wrong = ~((output - expected.output).abs() <= bound) & ~masked[..., None]
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        problems.append(f"{int(wrong.sum())} of {wrong.numel()} elements are off, first {_place(place, expected.of)}: expected "
                        f"{float(expected.output[tuple(place)]):.6g}, found {float(output[tuple(place)]):.6g}; rows "
                        f"{sorted(set(expected.of.rows[wrong.nonzero()[:, 2]].tolist()))[:10]}")
    if lse is not None:
        if not torch.equal(lse == -math.inf, masked):
            problems.append(f"LSE is -inf in {int((lse == -math.inf).sum())} rows instead of {int(masked.sum())}")
        off = (lse.double() - expected.lse)[~masked].abs()
        allowed_lse = (limit.lse + 2 * wide + 3e-7 * expected.lse.abs())[~masked]
        if not bool((off <= allowed_lse).all()):
            problems.append(f"LSE is off by {float(off.max()):.2e}" if not bool(off.isnan().any()) else "LSE is NaN")
    assert not problems, f"{what}: " + "; ".join(problems)


def _place(place: list[int], of: Sample) -> str:
    b, h, row = (int(x[i]) for x, i in zip((of.batches, of.heads, of.rows), place))
    return f"at (b, h, q, d) = ({b}, {h}, {row}, {place[3]})"


def check_flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Mod = None, mask_mod: Mod = None, *,
               scale: float | None = None, of: Sample | None = None, what: str = "", kind: str | None = None,
               **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """heed.flex_attention against the same mods in float64; returns what was found."""
    found = run_flex(query, key, value, score_mod, mask_mod, scale=scale, **arguments)
    check(found, reference(query, key, value, score_mod, mask_mod, scale=scale, of=of), what=what, kind=kind,
          limits=WITH_SCORE_MOD if score_mod else LIMITS)
    return found


def check_counts(found: Sequence[torch.Tensor], expected: Expected, what: str) -> None:
    """Of a call with queries of 0 and no score_mod: the LSE counts the keys that attend."""
    counts = torch.exp(expected.of.of(found[1]).double())
    wrong = ~((counts - expected.pairs).abs() < 0.3)
    if bool(wrong.any()):
        b, h, row = wrong.nonzero()[0].tolist()
        raise AssertionError(f"{what}: {int(wrong.sum())} rows attend to a wrong number of keys, first (b, h, q) = ({b}, {h}, "
                             f"{int(expected.of.rows[row])}): expected {int(expected.pairs[b, h, row])}, "
                             f"found {float(counts[b, h, row]):.2f}")


# -- Mods that many tests use ------------------------------------------------------------------------

def causal(b, h, q, kv):
    return q >= kv


def window(size: int) -> Mod:
    return lambda b, h, q, kv: (q >= kv) & (q - kv < size)


MASKS: dict[str, Mod] = {"dense": None, "causal": causal, "window": window(100)}


def alibi(slopes: torch.Tensor) -> Mod:
    return lambda s, b, h, q, kv: s + slopes[h] * (kv - q)


def slopes_of(heads: int) -> torch.Tensor:
    return torch.exp2(-8 * (torch.arange(heads, device=DEVICE) + 1) / heads)
