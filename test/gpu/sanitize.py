# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A small set of calls for compute-sanitizer: each kernel class once or twice, at lengths with tails.

    compute-sanitizer --tool memcheck python test/gpu/sanitize.py [--device cpu]

Random numbers and references are computed on the CPU, so that little runs on the device but Heed's kernels. Every tensor
has an allocation of its own, so that memcheck sees its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
HERE = pathlib.Path(__file__).resolve().parent
if importlib.util.find_spec("heed") is None:
    build = pathlib.Path(os.environ.get("HEED_BUILD", HERE.parents[1] / "build")).resolve()
    os.environ.setdefault("HEED_RUNTIME", str(build / "lib" / "libheed_runtime.so"))
    os.environ.setdefault("HEED_LIBRARY", str(build / "lib" / "libheed.so"))
    sys.path.insert(0, str(HERE.parents[1] / "python"))
sys.path.insert(0, str(HERE))

import support  # noqa: E402
import torch  # noqa: E402

import heed  # noqa: E402


def calls(device: Any) -> dict[str, tuple[support.Shape, tuple[int, int], str, Any, Any]]:
    """Name: shape, head dims, dtype, and mods, which capture tensors on the CPU; `to` moves those."""
    ids = torch.arange(200, dtype=torch.int32).to(device) // 60
    slopes = torch.exp2(-2.0 * torch.arange(1, 5)).to(device)
    bias = torch.randn(200, 200, generator=torch.Generator().manual_seed(1)).bfloat16().to(device)
    shape, causal = support.Shape(1, 4, 2, 200, 200), support.causal

    def documents(b, h, i, j):
        return (ids[i] == ids[j]) & (i >= j)

    def window(b, h, i, j):
        return (i >= j) & (i - j < 70)

    return {
        "dense D64": (shape, (64, 64), "bf16", None, None),
        "dense D128, one query": (support.Shape(1, 4, 1, 1, 129), (128, 128), "bf16", None, None),
        "causal D64": (shape, (64, 64), "bf16", None, causal),
        "causal D128": (support.Shape(2, 2, 2, 129, 257), (128, 128), "bf16", None, causal),
        "causal D256": (shape, (256, 256), "bf16", None, causal),
        "causal D80": (shape, (80, 80), "f16", None, causal),
        "causal f32": (shape, (64, 64), "f32", None, causal),
        "window D128": (shape, (128, 128), "bf16", None, window),
        "documents D64": (shape, (64, 64), "bf16", None, documents),
        "ALiBi D128": (shape, (128, 128), "bf16", support.alibi(slopes), causal),
        "soft cap D64": (shape, (64, 64), "bf16", lambda s, b, h, i, j: 20 * torch.tanh(s / 20), None),
        "bias D64": (shape, (64, 64), "bf16", lambda s, b, h, i, j: s + bias[i, j], None),
        "bias D256": (shape, (256, 256), "bf16", lambda s, b, h, i, j: s + bias[i, j], causal),
        "documents D256": (shape, (256, 256), "bf16", None, documents),
        "unaligned D64": (shape, (64, 64), "bf16", None, causal),
    }


def check_lists(device: Any) -> int:
    """Whether block lists made on the device are wrong, or what is computed with them; of more than 32 rows and columns."""
    ids = torch.arange(700, dtype=torch.int32) // 90

    def lists(document: torch.Tensor, place: Any) -> list[torch.Tensor]:
        made = heed.create_block_mask(lambda b, h, i, j: (document[i] == document[j]) & ((i - j) % 7 < 6), None, None, 700, 690,
                                      device=place, BLOCK_SIZE=16)
        given = heed.BlockMask.from_kv_blocks(made.kv_num_blocks, made.kv_indices, made.full_kv_num_blocks,
                                              made.full_kv_indices, BLOCK_SIZE=16, seq_lengths=(700, 690))
        q, k, v = (x.to(place) for x in support.inputs(support.Shape(1, 2, 2, 700, 690), (64, 64), "f32"))
        output = heed.flex_attention(q, k, v, block_mask=given)
        return [made.kv_num_blocks, made.kv_indices, made.full_kv_num_blocks, made.full_kv_indices, made.q_num_blocks,
                made.q_indices, output]

    *found, output = lists(ids.to(device), device)
    *expected, reference = lists(ids, "cpu")
    wrong = any((x.cpu() != y).any() for x, y in zip(found, expected)) or bool((output.cpu() - reference).abs().max() > 1e-3)
    print("WRONG   block lists" if wrong else "ok      block lists", flush=True)
    return int(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    support.configure("cpu", False)
    failed = 0
    with torch.no_grad():
        here, there = calls("cpu"), calls(options.device)
        for name, (shape, dims, dtype, score_mod, mask_mod) in here.items():
            arrays = support.inputs(shape, dims, dtype)
            expected = support.reference(*arrays, score_mod, mask_mod)
            moved = [x.to(options.device) for x in arrays]
            if name.startswith("unaligned"):
                moved = [torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view_as(x).copy_(x) for x in moved]
            output, aux = heed.flex_attention(*moved, there[name][3], mask_mod=there[name][4], enable_gqa=True,
                                              return_aux=heed.AuxRequest(lse=True))
            try:
                support.check((output.cpu(), aux.lse.cpu()), expected, what=name,
                              limits=support.WITH_SCORE_MOD if score_mod else None)
                print(f"ok      {name}", flush=True)
            except AssertionError as error:
                print(f"WRONG   {error}", flush=True)
                failed += 1
        failed += check_lists(options.device)
    print(f"{len(here) + 1 - failed} of {len(here) + 1} calls right", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
