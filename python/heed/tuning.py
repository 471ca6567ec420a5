# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The fastest schedule for a call on a GPU, found by running those that fit.

    options = heed.tune(query, key, value, score_mod, block_mask)
    output = heed.flex_attention(query, key, value, score_mod, block_mask, kernel_options=options)

heed.tune_command is the same for the command line.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from heed import _compiler, arrays, attention, cache, gpu, tracing, variant
from heed._runtime import DTYPES, HeedError
from heed.arrays import Array
from heed.variant import Variant

_BATCH_SECONDS = 0.01
_ROUNDS = 5
_NEAR = 1.1  # after a round, what took longer than the best by this is out
_WORTH = 0.99  # what replaces the compiler's choice takes at most so much of its time
_OPTION_OF = {word: name for name, word in attention.SCHEDULE_OPTIONS.items()}


def tune(query: Array, key: Array, value: Array, score_mod: attention.Mod | None = None, block_mask: Any = None,
         scale: float | None = None, enable_gqa: bool = False, kernel_options: dict[str, Any] | None = None, *,
         mask_mod: attention.Mod | None = None) -> dict[str, Any]:
    """kernel_options for flex_attention calls with these mods on arrays of these shapes: `kernel_options` with the BLOCK_N,
    num_warpgroups and num_stages that ran fastest, or as they are if nothing beats the compiler's choice by 1%.

    Takes what flex_attention takes and runs it some hundred times, which takes seconds the first time. The answer is kept
    in the disk cache for the same program, dtype, shapes, strides, options and kind of GPU; what captured tensors hold is not
    looked at. On CPUs schedules are not chosen from, and `kernel_options` come back. Not while a CUDA graph is captured."""
    given = dict(kernel_options or {})
    if clash := sorted(name for name in given if name.removeprefix("fwd_") in attention.SCHEDULE_OPTIONS):
        raise ValueError(f"kernel_options: {clash[0]} is what is looked for; leave it out")

    def run(options: dict[str, Any]) -> None:
        attention.flex_attention(query, key, value, score_mod, block_mask, scale, enable_gqa, kernel_options=options,
                                 mask_mod=mask_mod)

    run(given)  # finds what is wrong with the arguments
    q, k, v = map(arrays.adopt, (query, key, value))
    device = arrays.device_of(q)
    if device is None or 0 in (*q.shape, *k.shape):
        return given
    mask = mask_mod if block_mask is None else attention.mask_mod_of(block_mask, None, query, key, value, enable_gqa)
    trace, _ = tracing.lookup(score_mod, mask)
    found = _kept(variant.of_trace(trace), q, k, v, device, attention.options_of(given),
                  lambda words: run({**given, **_options_of(words)}))
    return {**given, **_options_of(found)}


def _options_of(words: str) -> dict[str, int]:
    """kernel_options of "groups=3,block_kv=64,stages=4"."""
    pairs = (word.split("=") for word in words.split(",") if word)
    return {_OPTION_OF[name]: int(number) for name, number in pairs}


def _kept(what: Variant, query: Any, key: Any, value: Any, device: int, given: str, run: Callable[[str], None]) -> str:
    """The best overrides beside `given`, "" for none, from the disk cache or by a search."""
    dtype = DTYPES[arrays.dtype_code(query) or 0]

    def search() -> bytes:
        candidates = what.alternatives(dtype, query.shape[3], value.shape[3], gpu.target(device), given, key.shape[2])
        return best(measure(candidates, run, lambda: gpu.wait_for(query, device))).encode()

    # What the copy engine cannot take has code of its own.
    operands = [(*x.shape, *arrays.strides(x), arrays.data_pointer(x) % 16) for x in (query, key, value)]
    key_of = cache.digest("tuned", what.cache_digest(), dtype, str(operands), gpu.target(device), gpu.model_of(device), given,
                          str(sorted(what.defines.items())), _compiler.build_id())
    return cache.default_cache().get_or_build(key_of, search).decode()


# -- The search -------------------------------------------------------------------------------------


class Measured(NamedTuple):
    words: str  # "" is the compiler's choice
    seconds: float  # of a call, the median of the rounds that it was in; infinite if it failed
    problem: str = ""
    dropped: bool = False  # after a round in which it was far from the best, so that its time is of other rounds


def measure(candidates: Sequence[str], run: Callable[[str], None], wait: Callable[[], None]) -> list[Measured]:
    """Runs the compiler's choice and the candidates by turns, and after each round only those that are near the best.

    run(words) starts a call, wait() ends when all have. HeedError if the compiler's choice does not run."""
    counts: dict[str, int] = {}
    problems: dict[str, str] = {}

    def batch(words: str) -> float:
        start = time.perf_counter()
        for _ in range(counts[words]):
            run(words)
        wait()
        return (time.perf_counter() - start) / counts[words]

    for words in ("", *candidates):
        counts[words] = 1
        try:
            batch(words)  # compiles
            counts[words] = max(1, min(1000, math.ceil(_BATCH_SECONDS / max(batch(words), 1e-9))))
        except HeedError as error:
            if not words:
                raise
            problems[words] = str(error)
    times: dict[str, list[float]] = {words: [] for words in counts if words not in problems}
    running = list(times)
    for number in range(_ROUNDS):
        for words in running if number % 2 == 0 else running[::-1]:
            times[words].append(batch(words))
        nearest = min(statistics.median(times[words]) for words in running)
        running = [words for words in running if not words or statistics.median(times[words]) <= _NEAR * nearest]
    return [Measured(words, statistics.median(times[words]), dropped=words not in running) if words in times
            else Measured(words, math.inf, problems[words]) for words in counts]


def best(measured: Sequence[Measured]) -> str:
    """The words of what is fastest, "" unless it is worth a change."""
    fastest = min((m for m in measured if not m.dropped), key=lambda m: m.seconds)
    own = next(m for m in measured if not m.words)
    return fastest.words if fastest.seconds <= _WORTH * own.seconds else ""
