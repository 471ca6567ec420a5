# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What masks cost: finding their blocks, and walking them in attention.

    python benchmarks/bench_masks.py [--quick] [--device cuda]

Each mask runs in a process of its own with an empty cache. "first" is create_block_mask and its blocks, with tracing and
code generation; "warm" the same again, a median of 5; "kv lists" makes the four lists that FlexAttention's format has of
them; "memory" is what the process grew by at its peak until the blocks were known, and until the kv lists were made.
"torch" is torch's create_block_mask, where the length lets it evaluate all pairs.

The second table compares attention with a mask given as code to the same with lists given (from_kv_blocks, of the
kernel's own block size), both with their blocks found anew for each call, interleaved; f32, head dim 64, 4 heads.

With --device what masks capture lies on a GPU, and so do the lists. "first" is create_block_mask and its kv lists, with
tracing and code generation; "create" create_block_mask alone, after which attention can be called; "kv lists" both, warm,
and "all lists" the q lists too; "memory" is what the device's grew by at its peak for all lists; "torch" is torch's
compiled create_block_mask, warm, up to 131072. Attention is compared as above, in bf16 with 16 heads of 128.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "python"))

LENGTHS = (8192, 131072, 1048576)
TORCH_LENGTH = 8192  # of the pairs that torch evaluates
TORCH_DEVICE_LENGTH = 131072  # on a GPU
Mask = Callable[[Any, Any, Any, Any], Any]


def documents(length: int, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Document numbers and where documents start, of random lengths."""
    cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, length), min(count, length // 8) - 1, replace=False))
    starts = np.concatenate(([0], cuts, [length])).astype(np.int32)
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts)), starts


def masks(length: int, as_tensor: Callable[[np.ndarray], Any] = lambda x: x) -> dict[str, Mask]:
    numbers, begins = documents(length)
    document, start = as_tensor(numbers), as_tensor(begins)
    prefix = as_tensor((np.arange(len(begins)) // 10 * 10).astype(np.int32))
    width = math.isqrt(length)

    def shared_prefix(b: Any, h: Any, q: Any, kv: Any) -> Any:
        own = document[q]
        first = prefix[own]
        return ((kv >= start[own]) & (q >= kv)) | ((own != first) & (start[first] <= kv) & (kv < start[first + 1]))

    return {
        "causal": lambda b, h, q, kv: q >= kv,
        "window": lambda b, h, q, kv: (q >= kv) & (q - kv <= 1024),
        "documents": lambda b, h, q, kv: (q >= kv) & (document[q] == document[kv]),
        "prefix": lambda b, h, q, kv: (kv < 1000) | (q >= kv),
        "neighbourhood_2d": lambda b, h, q, kv: (abs(q // width - kv // width) <= 8) & (abs(q % width - kv % width) <= 8),
        "shared_prefix": shared_prefix}


def milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, length: int) -> str:
    """A row of the first table, in a fresh process."""
    import heed

    heed.create_block_mask(lambda b, h, q, kv: q < kv, None, None, 8, 8, device="numpy").sparsity()  # loads the compiler
    mask_mod = masks(length)[name]

    def create() -> Any:
        made = heed.create_block_mask(mask_mod, None, None, length, length, device="numpy")
        made.sparsity()
        return made

    before = peak_bytes()
    first = milliseconds(create)
    blocks = peak_bytes() - before
    warm = statistics.median(milliseconds(create) for _ in range(5))
    block_mask = create()
    lists = milliseconds(lambda: (block_mask.kv_indices, block_mask.full_kv_indices))
    whole = peak_bytes() - before
    beside = ""
    if length <= TORCH_LENGTH:
        import torch
        from torch.nn.attention.flex_attention import create_block_mask

        torch.set_num_threads(heed.get_num_threads())
        theirs = masks(length, torch.as_tensor)[name]
        beside = f"{milliseconds(lambda: create_block_mask(theirs, None, None, length, length, device='cpu')):.0f}"
    return (f"| {name} | {length} | {first:.1f} | {warm:.2f} | {lists:.1f} | {blocks / 1e6:.0f} / {whole / 1e6:.0f} | "
            f"{block_mask.sparsity():.2f} | {beside} |")


def given_lists(mask_mod: Mask, length: int, block_shape: tuple[int, int], device: str) -> Any:
    """A BlockMask of the mask's exact lists, as if somebody had given them."""
    import heed

    made = heed.create_block_mask(mask_mod, None, None, length, length, device=device, BLOCK_SIZE=block_shape)
    return heed.BlockMask.from_kv_blocks(made.kv_num_blocks, made.kv_indices, made.full_kv_num_blocks, made.full_kv_indices,
                                         BLOCK_SIZE=block_shape, mask_mod=mask_mod, seq_lengths=(length, length))


def compare(name: str, length: int) -> str:
    """A row of the second table."""
    import heed
    from heed import tracing, variant

    generator = np.random.default_rng(1)
    query, key, value = (generator.standard_normal((1, 4, length, 64), np.float32) for _ in range(3))
    mask_mod = masks(length)[name]
    kernel = variant.of_trace(tracing.lookup(None, mask_mod)[0]).kernel("f32", 64, 64)
    given = given_lists(mask_mod, length, kernel.block_shape, "numpy")
    as_code = lambda: heed.flex_attention(query, key, value, mask_mod=mask_mod)  # noqa: E731
    as_lists = lambda: heed.flex_attention(query, key, value, block_mask=given)  # noqa: E731
    worst = float(np.abs(as_code() - as_lists()).max())
    assert worst < 1e-5, f"{name}: code and lists differ by {worst}"
    ratios, times = [], []
    for turn in range(7):
        pair = [milliseconds(call) for call in ((as_code, as_lists) if turn % 2 == 0 else (as_lists, as_code))]
        code, lists = pair if turn % 2 == 0 else pair[::-1]
        ratios.append(code / lists)
        times.append(code)
    return f"| {name} | {length} | {statistics.median(times):.1f} | {statistics.median(ratios):.3f} |"


def device_masks(device: str, length: int) -> dict[str, Mask]:
    import torch

    return masks(length, lambda x: torch.as_tensor(x, device=device))


def timed(device: str, call: Callable[[], Any], times: int = 1) -> float:
    """Milliseconds of a call, on an idle device and until it is idle again."""
    import torch

    def run() -> None:
        for _ in range(times):
            call()
        if device != "cpu":
            torch.cuda.synchronize()

    if device != "cpu":
        torch.cuda.synchronize()
    return milliseconds(run) / times


def measure_on(device: str, name: str, length: int) -> str:
    """A row of the first table of a device."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    import heed

    mask_mod = device_masks(device, length)[name]

    def median(call: Callable[[], Any], count: int = 9) -> float:
        timed(device, call)
        return statistics.median(timed(device, call) for _ in range(count))

    def create() -> Any:
        return heed.create_block_mask(mask_mod, None, None, length, length, device=device)

    def kv_lists() -> Any:
        made = create()
        return made.kv_indices, made.full_kv_indices

    def all_lists() -> Any:
        made = create()
        return made.kv_indices, made.full_kv_indices, made.q_indices, made.full_q_indices

    heed.create_block_mask(lambda b, h, q, kv: q < kv, None, None, 8, 8, device=device).as_tuple()  # loads the compiler
    first = timed(device, kv_lists)
    row = [median(create), median(kv_lists)]
    before = peak = 0
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    row.append(median(all_lists))
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() - before
    theirs = ""
    if length <= TORCH_DEVICE_LENGTH:
        compiled = torch.compile(create_block_mask)
        theirs = f"{median(lambda: compiled(mask_mod, None, None, length, length, device=device), 3):.2f}"
    return (f"| {name} | {length} | {first:.0f} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.2f} | {peak / 1e6:.0f} | {theirs} |")


def compare_on(device: str, name: str, length: int) -> str:
    """A row of the second table of a device."""
    import torch

    import heed
    from heed import arrays, tracing, variant

    dims = (1, 16, length, 128) if device != "cpu" else (1, 1, length, 64)
    query, key, value = (torch.randn(dims, device=device, dtype=torch.bfloat16) for _ in range(3))
    mask_mod = device_masks(device, length)[name]
    kernel = variant.of_trace(tracing.lookup(None, mask_mod)[0]).kernel("bf16", dims[3], dims[3], arrays.device_of(query))
    given = given_lists(mask_mod, length, kernel.block_shape, device)
    as_code = lambda: heed.flex_attention(query, key, value, mask_mod=mask_mod)  # noqa: E731
    as_lists = lambda: heed.flex_attention(query, key, value, block_mask=given)  # noqa: E731
    worst = float((as_code().float() - as_lists().float()).abs().max())
    assert worst < 0.05, f"{name}: code and lists differ by {worst}"

    pairs = [(timed(device, as_code, 5), timed(device, as_lists, 5)) for _ in range(7)]
    return (f"| {name} | {length} | {statistics.median(code for code, _ in pairs):.2f} | "
            f"{statistics.median(code / lists for code, lists in pairs):.3f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the shortest length only")
    parser.add_argument("--device", help="cuda: masks whose tensors lie there; cpu exercises that")
    parser.add_argument("--only", help="a regular expression of rows, such as 'measure causal 8192'")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        kind, name, length = options.row
        if options.device:
            print({"measure": measure_on, "compare": compare_on}[kind](options.device, name, int(length)))
        else:
            print({"measure": measure, "compare": compare}[kind](name, int(length)))
        return 0

    on = [f"--device={options.device}"] if options.device else []

    def rows(kind: str, lengths: tuple[int, ...]) -> None:
        for name in masks(8192):
            for length in lengths:
                if options.only and not re.search(options.only, f"{kind} {name} {length}"):
                    continue
                with tempfile.TemporaryDirectory() as cache:
                    done = subprocess.run([sys.executable, __file__, "--row", kind, name, str(length), *on], capture_output=True,
                                          text=True, env={**os.environ, "HEED_CACHE_DIR": cache}, check=False)
                print(done.stdout.strip() or f"| {name} | {length} | failed: {done.stderr.strip().splitlines()[-1]} |", flush=True)

    if options.device:
        print("| mask | length | first, ms | create, ms | kv lists, ms | all lists, ms | memory, MB | torch, ms |\n"
              "|---|---|---|---|---|---|---|---|")
        rows("measure", LENGTHS[:1] if options.quick else LENGTHS)
        print("\n| mask | length | as code, ms | times lists given |\n|---|---|---|---|")
        rows("compare", (2048,) if options.quick else (8192, 131072))
        return 0
    print("| mask | length | first, ms | warm, ms | kv lists, ms | memory, MB | skipped, % | torch, ms |\n|---|---|---|---|---|---|---|---|")
    rows("measure", LENGTHS[:1] if options.quick else LENGTHS)
    print("\n| mask | length | as code, ms | times lists given |\n|---|---|---|---|")
    rows("compare", (2048,) if options.quick else (8192, 32768))
    return 0


if __name__ == "__main__":
    sys.exit(main())
