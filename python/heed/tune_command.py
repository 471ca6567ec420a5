# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The fastest schedule of a variant on a GPU, on random data:

    python -m heed tune examples/alibi.heed --head-dim 128 --q 8192      # ends with what heedc --tune= takes
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from heed import gpu
from heed.subject import FORMS, Sizes, load, parse_assignments, positive
from heed.tuning import best, measure
from heed.variant import QUERY_DTYPES, Variant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", metavar="WHAT", help=FORMS)
    parser.add_argument("--dtype", default="bf16", choices=QUERY_DTYPES)
    parser.add_argument("--head-dim", type=positive, default=128)
    parser.add_argument("--value-head-dim", type=positive)
    for option, name in (("--batch", "B"), ("--heads", "Hq"), ("--kv-heads", "Hkv"), ("--q", "Sq"), ("--kv", "Skv")):
        parser.add_argument(option, type=positive, metavar=name)
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="a number, a list or @FILE.npy")
    parser.add_argument("--device", type=int, default=0, help="which GPU, by CUDA's number")


def run(arguments: argparse.Namespace) -> int:
    """Measures on random data and prints a line for each schedule."""
    sizes = Sizes({"B": arguments.batch, "Hq": arguments.heads, "Hkv": arguments.kv_heads, "Sq": arguments.q, "Skv": arguments.kv,
                   "D": arguments.head_dim, "Dv": arguments.value_head_dim})
    subject = load(arguments.subject, parse_assignments(arguments.param), sizes)
    if subject.block_mask is not None:
        raise ValueError(f"'{arguments.subject}' has lists of blocks; give it to heed.tune with the arrays that it is for")
    torch = _torch(arguments.device)
    what = Variant(subject.source, subject.file_name, subject.variant, subject.defines)
    n = sizes.all()
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[arguments.dtype]
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator, device="cuda", dtype=dtype) for shape in (
        (n["B"], n["Hq"], n["Sq"], n["D"]), (n["B"], n["Hkv"], n["Skv"], n["D"]), (n["B"], n["Hkv"], n["Skv"], n["Dv"])))
    types = {"bf16": torch.bfloat16, "f16": torch.float16}
    values = {param["name"]: subject.values[param["name"]] for param in subject.params if param["name"] in subject.values}
    for param in subject.params:
        if isinstance(array := values.get(param["name"]), np.ndarray):
            values[param["name"]] = torch.as_tensor(array).to("cuda", types.get(param["type"]))
    device = arguments.device

    def call(words: str) -> None:
        what.kernel(arguments.dtype, n["D"], n["Dv"], device, words)(query, key, value, **values)

    candidates = what.alternatives(arguments.dtype, n["D"], n["Dv"], gpu.target(device), "", n["Skv"])
    found = measure(candidates, call, lambda: torch.cuda.synchronize())
    own = found[0].seconds
    for words, seconds, problem, _ in sorted(found, key=lambda m: m.seconds):
        print(f"{words or 'as chosen':36}  " + (problem.splitlines()[0] if problem else f"{seconds * 1e6:10.1f} us  {own / seconds:5.2f}"))
    for note in subject.notes:
        print(note)
    words = best(found)
    print(f"heedc --tune={words}" if words else "nothing is faster than what is chosen")
    return 0


def _torch(device: int) -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError("tune needs PyTorch to hold data on a GPU (pip install torch)") from None
    if not torch.cuda.is_available() or device >= torch.cuda.device_count():
        raise ValueError(f"tune measures on a GPU, and torch has no {gpu.name_of(device)}")
    torch.cuda.set_device(device)
    return torch
