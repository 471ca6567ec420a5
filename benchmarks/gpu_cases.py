# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What bench_gpu.py measures, and the goals: all of it as data, and the mods of each case in torch."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "test" / "python"))

import example_mods  # noqa: E402

TOKENS, WIDTH = 16384, 2048  # B * S and H * D
Mods = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Goal:
    """How many times as long `peer` takes at least; of `host` and `cold` the most that Heed takes, in the case's unit."""
    peer: str
    value: float

    def holds(self, found: float) -> bool:
        return found <= self.value if self.peer == "heed" else found >= self.value


@dataclasses.dataclass(frozen=True)
class Case:
    section: str
    name: str
    D: int
    S: int
    peers: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    small: bool = False  # for --device cpu
    quick: bool = False  # part of --quick

    @property
    def B(self) -> int:
        return 1 if self.small else max(1, TOKENS // self.S)

    @property
    def H(self) -> int:
        return 2 if self.small else WIDTH // self.D

    @property
    def id(self) -> str:
        return f"{self.section} {self.name} D{self.D} S{self.S}"


# -- Goals -------------------------------------------------------------------------------------------

CUDNN = {(64, "full"): 1.15, (64, "causal"): 1.15, (128, "full"): 1.12, (128, "causal"): 1.20, (192, "full"): 1.12,
         (192, "causal"): 1.12, (256, "full"): 1.05, (256, "causal"): 1.14}  # S 2048 and beyond
CUDNN_SHORT = 1.0  # S 512 and 1024
FLEX = {(64, "full"): 1.35, (64, "causal"): 1.45, (128, "full"): 1.35, (128, "causal"): 1.45, (256, "full"): 1.9, (256, "causal"): 1.9}
FLEX_VARIANTS = {"alibi": 1.45, "alibi_full": 1.45, "relative_bias": 1.4, "full_bias": 1.4, "softcap": 2.5, "softcap_full": 2.5,
                 "sliding_window": 1.6, "documents": 1.6, "prefix": 1.6, "neighbourhood_2d": 1.6}
FLEX_EXAMPLES = 1.2
FLASH_ON_SM_80 = 0.95
HOST_US = 10.0
COLD_SECONDS = 0.8
MASKED = 10.0  # with the mask made anew


# -- Cases, the most telling first -------------------------------------------------------------------

def _library_cases() -> Iterator[Case]:
    for S in (8192, 2048, 16384, 512, 1024):
        for D in (128, 64, 256, 192):
            for name in ("full", "causal"):
                flex = S == 8192 or (D == 128 and S in (2048, 16384))
                goals = [Goal("cudnn", CUDNN[D, name] if S >= 2048 else CUDNN_SHORT)]
                if flex and (D, name) in FLEX:
                    goals.append(Goal("flex", FLEX[D, name]))
                yield Case("library", name, D, S, ("cudnn", "flash", *(["flex"] if flex else [])), tuple(goals),
                           quick=S in (2048, 8192) and D in (64, 128))


def _variant_cases() -> Iterator[Case]:
    for D in (128, 64, 256):
        for name, goal in FLEX_VARIANTS.items():
            if D < 256 or name in ("alibi", "softcap", "sliding_window"):
                yield Case("variants", name, D, 4096 if name == "full_bias" else 8192, ("flex",), (Goal("flex", goal),),
                           quick=D == 128 and not name.endswith("_full"))


def _example_cases() -> Iterator[Case]:
    for D in (128, 64):
        for name in example_mods.EXAMPLES:
            yield Case("examples", name, D, 8192, ("flex",), (Goal("flex", FLEX_EXAMPLES),),
                       quick=D == 128 and name in ("checkerboard", "gemma2_softcap", "t5_relative_bias", "transfusion"))


def _masked_cases() -> Iterator[Case]:
    peers = ("flex", "flex, compiled mask")
    for D in (128, 64):
        for name in ("documents", "sliding_window", "neighbourhood_2d", "prefix"):
            yield Case("masks", name, D, 8192, peers, tuple(Goal(peer, MASKED) for peer in peers))


def _portable_cases() -> Iterator[Case]:
    for S in (8192, 2048):
        for D in (128, 64, 256):
            for name in ("full", "causal"):
                yield Case("sm_80", name, D, S, ("flash",), (Goal("flash", FLASH_ON_SM_80),), quick=S == 8192 and D == 128)


def all_cases(small: bool = False) -> list[Case]:
    cases = [*_library_cases(), *_variant_cases(), *_masked_cases(),
             *(Case("host", name, 64, 64, ("add", "sdpa", "flex") if name == "full" else (), (Goal("heed", HOST_US),), quick=name == "causal")
               for name in ("full", "causal", "alibi")),
             Case("host", "given_lists", 64, 64, ("flex",)),
             *(Case("cold", name, D, 2048, ("flex",) if name == "alibi" else (), (Goal("heed", COLD_SECONDS),), quick=name == "alibi")
               for name, D in (("alibi", 128), ("softcap", 64), ("documents", 256))),
             *_portable_cases(), *_example_cases()]
    if small:
        cases = [dataclasses.replace(case, S=min(case.S, 128 + case.S // 256), small=True) for case in cases]
    return cases


# -- Mods --------------------------------------------------------------------------------------------

def _slopes(case: Case, device: Any) -> torch.Tensor:
    return torch.exp2(-8.0 * (torch.arange(case.H, device=device) + 1) / case.H)


def document_ids(batch: int, length: int, device: Any, documents: int = 12) -> torch.Tensor:
    """`documents` of random lengths a sequence; at least one."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.rand(batch, documents - 1, generator=generator).mul(length).int().sort(-1).values
    return torch.searchsorted(ends, torch.arange(length, dtype=torch.int32).expand(batch, -1).contiguous(), right=True).int().to(device)


def _image(length: int) -> dict[str, int]:
    width = 128 if length >= 2048 else 16
    return {"width": width, "height": length // width, "kw": 13, "kh": 13} if length >= 2048 else {
        "width": width, "height": max(7, length // width), "kw": 5, "kh": 5}


def example_params(name: str, case: Case, device: Any) -> dict[str, Any]:
    """Of examples/*.heed, at the size of real models."""
    B, H, S = case.B, case.H, case.S
    generator = torch.Generator().manual_seed(2)
    positions = torch.arange(S, dtype=torch.int32)
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "alibi": lambda: {"slope": _slopes(case, "cpu")},
        "bert_padding": lambda: {"lengths": torch.randint(S // 2, S + 1, (B,), generator=generator).int()},
        "dilated_window": lambda: {"window": 256, "dilation": 2},
        "gemma2_softcap": lambda: {"cap": 50.0, "window": 4096},
        "global_tokens": lambda: {"marked": torch.rand(B, S, generator=generator) < 16 / S, "window": 256},
        "neighbourhood_2d": lambda: _image(S),
        "packed_documents": lambda: {"doc": document_ids(B, S, "cpu")},
        "prefix_lm": lambda: {"prefix": torch.randint(S // 16, S // 4, (B,), generator=generator).int()},
        "sliding_window": lambda: {"window": 4096},
        "t5_relative_bias": lambda: {"table": torch.randn(H, 32, generator=generator), "max_distance": 128},
        "transfusion": lambda: {"span": torch.where(positions // 256 % 3 == 1, positions // 256, 0).expand(B, -1).contiguous()}}
    params = made.get(name, dict)()
    return {key: x.to(device) if isinstance(x, torch.Tensor) else x for key, x in params.items()}


def mods(case: Case, device: Any) -> Mods:
    """score_mod and mask_mod, for Heed and for flex_attention alike."""
    if case.section == "examples":
        return example_mods.mods(case.name, example_params(case.name, case, device), case.H)
    S, H, causal = case.S, case.H, example_mods.causal_mask
    generator = torch.Generator(device).manual_seed(3)

    def relative_bias() -> Mods:
        table = torch.randn(H, 2 * S - 1, generator=generator, device=device)
        return lambda s, b, h, q, kv: s + table[h, q - kv + (S - 1)], None

    def full_bias() -> Mods:
        bias = torch.randn(H, S, S, generator=generator, device=device, dtype=torch.bfloat16)
        return lambda s, b, h, q, kv: s + bias[h, q, kv], None

    made: dict[str, Callable[[], Mods]] = {
        "full": example_mods.dense, "causal": example_mods.causal, "given_lists": example_mods.causal,
        "alibi": lambda: example_mods.alibi(_slopes(case, device)),
        "alibi_full": lambda: (example_mods.alibi(_slopes(case, device))[0], None),
        "relative_bias": relative_bias, "full_bias": full_bias,
        "softcap": lambda: (example_mods.gemma2_softcap(30.0)[0], causal),
        "softcap_full": lambda: (example_mods.gemma2_softcap(30.0)[0], None),
        "sliding_window": lambda: example_mods.sliding_window(1024),
        "documents": lambda: example_mods.packed_documents(document_ids(case.B, S, device)),
        "prefix": lambda: example_mods.prefix_lm(torch.full((case.B,), 1024, dtype=torch.int32, device=device)),
        "neighbourhood_2d": lambda: example_mods.neighbourhood_2d(**_image(S))}
    return made[case.name]()
