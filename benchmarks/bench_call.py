# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a call costs before its kernel starts: from Python to the first instruction of compiled code.

    python benchmarks/bench_call.py [--compiled] [--profile]

The kernel of each call is replaced by one that stores the time at which it is entered, and does nothing else. Beside
it stand whole calls of torch on the smallest problem there is. --compiled adds torch.compile(flex_attention), which
takes a minute to compile; --profile says where the time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "python"))

import heed  # noqa: E402
from heed import _runtime, attention, given_lists, hot, variant  # noqa: E402
from heed.kernel import Kernel  # noqa: E402

SOURCE = """
#define _GNU_SOURCE
#include <stdint.h>
#include <time.h>
#include <unistd.h>
int64_t entered, pause_ns, threads[64], calls;
void tile(const int64_t *args, int64_t batch, int64_t head, int64_t q_tile, void *scratch) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  entered = now.tv_sec * 1000000000 + now.tv_nsec;
  if (!pause_ns) return;
  int64_t call = __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
  threads[call % 64] = gettid();
  struct timespec pause = {pause_ns / 1000000000, pause_ns % 1000000000};
  while (nanosleep(&pause, &pause)) ;
}
"""


class Probe:
    """A kernel that notes when it was entered, sleeps for `pause_ns` and computes nothing."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "probe.so")
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=SOURCE.encode(), check=True)
            self._library = ctypes.CDLL(str(path))
        self.entered, self.pause_ns, self.calls = (ctypes.c_int64.in_dll(self._library, name)
                                                   for name in ("entered", "pause_ns", "calls"))
        self.threads = (ctypes.c_int64 * 64).in_dll(self._library, "threads")

    def _kernel(self, kernel: Kernel) -> Kernel:
        """A copy whose tiles are ours."""
        table = _runtime.KernelTable.from_buffer_copy(_runtime.KernelTable.from_address(kernel._address))
        code = _runtime.Code.from_buffer_copy(_runtime.lib.heed_select_code(kernel._address).contents)
        code.tile = ctypes.cast(self._library.tile, ctypes.c_void_p)
        code.prepare = code.cost = None
        code.packed_bytes_per_block = 0
        table.num_codes, table.codes = 1, ctypes.pointer(code)
        return Kernel(ctypes.addressof(table), (table, code, kernel))

    @contextlib.contextmanager
    def in_place(self, call: Callable[[], Any]) -> Iterator[None]:
        """Runs `call` once with its own kernel; within, all kernels there are run the probe."""
        call()
        before = {v: dict(v._kernels) for v in variant._variants.values()}
        for v, kernels in before.items():
            v._kernels.update({key: self._kernel(kernel) for key, kernel in kernels.items()})
        attention._plans.clear()
        hot.clear()
        try:
            yield
        finally:
            for v, kernels in before.items():
                v._kernels.update(kernels)
            attention._plans.clear()
            hot.clear()

    def latency_us(self, call: Callable[[], Any], calls: int = 3000) -> float:
        """The median time until the kernel starts."""
        with self.in_place(call):
            self.pause_ns.value = 0
            samples = []
            for _ in range(calls):
                begin = time.monotonic_ns()
                call()
                samples.append(self.entered.value - begin)
        assert min(samples) > 0, "the probe did not run"
        return statistics.median(samples) / 1000


def whole_us(call: Callable[[], Any], calls: int = 3000) -> float:
    """The median time of whole calls."""
    call()
    samples = []
    for _ in range(calls):
        begin = time.monotonic_ns()
        call()
        samples.append(time.monotonic_ns() - begin)
    return statistics.median(samples) / 1000


def calls_to_measure() -> dict[str, Callable[[], Any]]:
    """Calls of flex_attention, and of a Variant, which looks up its Kernel and calls it, on the smallest problem."""
    import torch

    q = torch.randn(1, 1, 1, 64)
    array = q.numpy()
    slopes, factor = torch.rand(1), 0.5

    def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * factor * (kv_idx - q_idx)

    def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return q_idx >= kv_idx

    block_mask = heed.create_block_mask(causal, None, None, 1, 1)
    lists = [getattr(block_mask, name) for pair in given_lists.KV_PAIRS for name in pair]
    listed = heed.BlockMask.from_kv_blocks(*lists, mask_mod=causal, seq_lengths=(1, 1))
    aux = heed.AuxRequest(lse=True)
    flex = heed.flex_attention
    trace = heed.trace(alibi)
    of_file = variant.of_trace(trace)
    params = {name: slopes if "slopes" in name else factor for name in (param.name for param in trace.params)}
    arrays = {name: np.asarray(value) if value is slopes else value for name, value in params.items()}
    return {"torch, dense": lambda: flex(q, q, q),
            "torch, causal": lambda: flex(q, q, q, None, block_mask),
            "torch, ALiBi + causal, 2 captures": lambda: flex(q, q, q, alibi, block_mask),
            "torch, ALiBi + causal + LSE": lambda: flex(q, q, q, alibi, block_mask, return_aux=aux),
            "torch, causal, given lists": lambda: flex(q, q, q, None, listed),
            "torch, Variant, ALiBi, 2 parameters": lambda: of_file(q, q, q, **params),
            "NumPy, dense": lambda: flex(array, array, array),
            "NumPy, ALiBi + causal, 2 captures": lambda: flex(array, array, array, alibi, block_mask),
            "NumPy, causal, given lists": lambda: flex(array, array, array, None, listed),
            "NumPy, Variant, ALiBi, 2 parameters": lambda: of_file(array, array, array, **arrays)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--compiled", action="store_true", help="also torch.compile(flex_attention)")
    parser.add_argument("--profile", action="store_true", help="also where the time goes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    probe, q = Probe(), torch.randn(1, 1, 1, 64)
    print("until the kernel starts, best median of", options.rounds, "rounds:")
    for name, call in calls_to_measure().items():
        print(f"  {min(probe.latency_us(call) for _ in range(options.rounds)):6.1f} us   {name}")
        if options.profile:
            import cProfile

            with probe.in_place(call), cProfile.Profile() as profile:
                for _ in range(10000):
                    call()
            profile.print_stats("tottime")
    print("whole calls:")
    whole = {"heed.flex_attention, dense": lambda: heed.flex_attention(q, q, q),
             "torch scaled_dot_product_attention": lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)}
    if options.compiled:
        compiled = torch.compile(flex_attention)
        whole["torch.compile(flex_attention)"] = lambda: compiled(q, q, q)
    with torch.no_grad():
        for name, call in whole.items():
            print(f"  {min(whole_us(call) for _ in range(options.rounds)):6.1f} us   {name}")
    assert np.isfinite(heed.flex_attention(q, q, q).numpy()).all()


if __name__ == "__main__":
    main()
