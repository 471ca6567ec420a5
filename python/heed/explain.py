# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the compiler decided about a variant: what is computed how often, which blocks are skipped and how that was
found, the schedule, and the work that is left.

    python -m heed explain examples/sliding_window.heed --dtype bf16 --head-dim 128 --q 16384
    python -m heed explain masks.py:document_causal --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from heed import _compiler, _runtime, arrays
from heed.block_runs import ceil_div
from heed.subject import FORMS, Sizes, Subject, load, parse_assignments, positive
from heed.terms import (Means, Progress, Report, Stage, Term, cell_of, explain, has_bounds, key_bounds, loop_bounds, means_of,
                        split, visited)
from heed.tracing.expressions import Node
from heed.tracing.printer import describe
from heed.variant import QUERY_DTYPES, compile

MAX_HEADS = 64  # batches x heads that are looked at one by one; more are sampled
_BYTES = {"f32": 4, "bf16": 2, "f16": 2}
# How often the lowering computes a value, by what of the score, q and kv it depends on.
_COMPUTED = {"": "once a tile of queries", "q": "once a query of a tile", "kv": "once a key of a block",
             "pair": "for each pair"}
_RANK = {"": 0, "q": 1, "kv": 1, "pair": 2}


def _level(depends: Iterable[str]) -> str:
    within = {name for name in depends if name in ("s", "q", "kv")}
    return "" if not within else "pair" if len(within) > 1 or "s" in within else within.pop()


def _ordered(depends: Iterable[str]) -> list[str]:
    return [name for name in ("s", "b", "h", "q", "kv") if name in depends]


def _is_trivial(node: Node) -> bool:
    return node.op in ("constant", "coordinate", "param") or node.op == "cast" and _is_trivial(node.args[0])


def _entry(node: Node, stage: Stage) -> dict[str, Any]:
    depends = stage.depends[node.number]
    place = stage.places[node.number]
    return {"text": describe(node), "file": place.file, "line": place.line, "column": place.column,
            "depends": _ordered(depends), "computed": _COMPUTED[_level(depends)]}


def hoisted(stage: Stage) -> list[dict[str, Any]]:
    """What is computed less often than the values that use it."""
    users: dict[int, list[str]] = {}
    for node in stage.nodes:
        for arg in node.args:
            users.setdefault(arg.number, []).append(_level(stage.depends[node.number]))
    return [_entry(node, stage) for node in stage.nodes if not _is_trivial(node)
            and any(_RANK[user] > _RANK[_level(stage.depends[node.number])] for user in users.get(node.number, ["pair"]))]


# Blocks.


def _block_size(subject: Subject, schedule: dict[str, Any]) -> tuple[int, int]:
    """Of what `work` looks at: the kernel's, or those of given lists."""
    given = subject.block_size if subject.block_mask is not None else None
    return given or (schedule["block_q"], schedule["block_kv"])


def _term(term: Term, subject: Subject, report: Report, schedule: dict[str, Any], is_exact: bool) -> dict[str, Any]:
    if term.children:
        return {"op": "all of" if term.op == "&" else "one of",
                "terms": [_term(child, subject, report, schedule, is_exact) for child in term.children]}
    assert report.mask is not None
    block_q, block_kv = schedule["block_q"], schedule["block_kv"]
    cell = cell_of((ceil_div(subject.sizes["Sq"], block_q), ceil_div(subject.sizes["Skv"], block_kv)))
    box = block_q * cell[0], block_kv * cell[1]
    (blocks,) = visited(subject, report, is_exact, box, node=term.node)
    bounds = np.zeros((0, 2), np.int64)
    if has_bounds(subject, report):
        bounds = key_bounds(subject, box[0], 0, 0, report, term.node)
    return {**_entry(term.node, report.mask), "box": box, "is_exact": is_exact,
            "blocks": dict(zip(("never", "unknown", "always"), map(int, blocks.counts()))),
            "bounds": [side for side, found in (("first", bool((bounds[:, 0] > 0).any())),
                                                ("last", bool((bounds[:, 1] < subject.sizes["Skv"]).any()))) if found]}


def _places(subject: Subject, report: Report) -> list[tuple[int, int]]:
    """The batches and heads to look at: all that may differ, or as many as MAX_HEADS of them."""
    depends = report.mask.depends[report.mask.root.number] if report.mask else frozenset()
    listed = (1, 1) if subject.block_mask is None else subject.given_kinds.shape
    batches, heads = (subject.sizes[size] if name in depends or extent > 1 else 1
                      for name, size, extent in (("b", "B", listed[0]), ("h", "Hq", listed[1])))
    chosen = np.unique(np.linspace(0, batches * heads - 1, min(batches * heads, MAX_HEADS)).astype(int))
    return [(int(i) // heads, int(i) % heads) for i in chosen]


def work(subject: Subject, report: Report, schedule: dict[str, Any], means: Means, dtype: str, head_dim: int,
         value_head_dim: int, progress: Progress) -> dict[str, Any]:
    """Blocks, FLOPs and bytes of one call, by the classes that a kernel would find."""
    q, kv = subject.sizes["Sq"], subject.sizes["Skv"]
    block_q, block_kv = _block_size(subject, schedule)
    num_rows, num_columns = ceil_div(q, block_q), ceil_div(kv, block_kv)
    height = np.minimum(block_q, q - np.arange(num_rows) * block_q)
    totals = dict.fromkeys(("beyond_bounds", "skipped", "partial", "full", "keys", "pairs"), 0.0)
    places = _places(subject, report)
    progress.update("finding the blocks")
    for number, ((b, h), blocks) in enumerate(zip(places, visited(subject, report, means.is_exact, (block_q, block_kv), places))):
        progress.update(f"batch and head {number + 1} of {len(places)}")
        lower, upper = loop_bounds(subject, report, block_q, b, h)
        walked = int(np.maximum(-(-upper // block_kv) - lower // block_kv, 0).sum())
        num_keys = num_pairs = 0
        for part in blocks.parts():
            rows, begins, ends, _ = part.T
            keys = np.minimum(ends * block_kv, upper[rows]) - begins * block_kv
            num_keys, num_pairs = num_keys + int(keys.sum()), num_pairs + int((keys * height[rows]).sum())
        skipped, partial, full = blocks.counts()
        beyond = num_rows * num_columns - walked
        found = {"beyond_bounds": beyond, "skipped": skipped - beyond, "partial": partial, "full": full,
                 "keys": num_keys, "pairs": num_pairs}
        for name, value in found.items():
            totals[name] += float(value) / len(places)
    instances = subject.sizes["B"] * subject.sizes["Hq"]
    flops = 2 * (head_dim + value_head_dim)
    size = _BYTES[dtype]
    tensors = subject.sizes["B"] * size * (subject.sizes["Hq"] * q + subject.sizes["Hkv"] * kv) * (head_dim + value_head_dim)
    tiles = instances * size * (totals["keys"] + q) * (head_dim + value_head_dim)
    return {
        "sizes": subject.sizes.all(), "block_q": block_q, "block_kv": block_kv, "heads_looked_at": len(places), "means": means.text,
        "blocks": {"total": num_rows * num_columns,
                   **{name: totals[name] for name in ("beyond_bounds", "skipped", "partial", "full")}},
        "flops": round(flops * totals["pairs"] * instances), "dense_flops": flops * q * kv * instances,
        "bytes_of_tensors": tensors, "bytes_of_tiles": round(tiles)}


# Time.


def measure(dtype: str, head_dim: int, value_head_dim: int) -> tuple[float, float]:
    """GFLOP/s of Heed's kernel without mods, and GB/s of a copy, on this machine."""
    kernel = compile("variant dense {}", dtype=dtype, head_dim=head_dim, value_head_dim=value_head_dim)
    heads, length = 2 * _runtime.get_num_threads(), 512
    rng = np.random.default_rng(0)

    def draw(dim: int) -> np.ndarray:
        array = rng.standard_normal((1, heads, length, dim), np.float32)
        return arrays.to_bf16(array) if dtype == "bf16" else array.astype(np.float16 if dtype == "f16" else np.float32)

    operands = draw(head_dim), draw(head_dim), draw(value_head_dim)
    source = np.ones(1 << 23, np.float32)
    target = np.zeros_like(source)
    seconds = _best(lambda: kernel(*operands))
    return (2 * (head_dim + value_head_dim) * heads * length**2 / seconds * 1e-9,
            2 * source.nbytes / _best(lambda: np.copyto(target, source)) * 1e-9)


def _best(call: Any, times: int = 5) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def _estimate(found: dict[str, Any], rate: float, bandwidth: float, source: str) -> dict[str, Any]:
    compute, memory = found["flops"] / rate * 1e-9, found["bytes_of_tensors"] / bandwidth * 1e-9
    return {"seconds": max(compute, memory), "bound_by": "compute" if compute >= memory else "memory",
            "gflops_per_second": rate, "gbytes_per_second": bandwidth, "source": source,
            "dense_seconds": max(found["dense_flops"] / rate * 1e-9, memory)}


# The report.


def report(subject: Subject, *, dtype: str = "f32", head_dim: int = 64, value_head_dim: int | None = None,
           target: str = "native", rate: float | None = None, bandwidth: float | None = None, tune: str = "") -> dict[str, Any]:
    """All that `python -m heed explain --json` prints. `tune`: decisions in place of the compiler's. `rate` (GFLOP/s) and
    `bandwidth` (GB/s) are measured where they are not given and the target is this machine's; else there is no "time"."""
    value_head_dim = value_head_dim or head_dim
    if subject.sizes["Hq"] % subject.sizes["Hkv"] != 0:
        raise ValueError(f"expected query heads that are a multiple of the key heads, found {subject.sizes['Hq']} and "
                         f"{subject.sizes['Hkv']}")
    known = explain(subject, dtype, head_dim, value_head_dim, target, tune)
    schedule = known.schedule(subject.sizes["Skv"])
    means = means_of(subject, known, _block_size(subject, schedule))
    with Progress() as progress:
        progress.update("looking at the terms of the mask")
        score = known.score and {**_entry(known.score.root, known.score), "hoisted": hoisted(known.score)}
        mask = known.mask and {**_term(split(known.mask.root), subject, known, schedule, means.is_exact),
                               "hoisted": hoisted(known.mask)}
        found = work(subject, known, schedule, means, dtype, head_dim, value_head_dim, progress)
        timing = None
        if rate and bandwidth:
            timing = _estimate(found, rate, bandwidth, "given")
        elif schedule["target"] == _compiler.native_target():
            progress.update("measuring this machine")
            measured = measure(dtype, head_dim, value_head_dim)
            source = "measured: Heed's dense kernel and a copy in memory"
            timing = _estimate(found, rate or measured[0], bandwidth or measured[1],
                               f"{source}, but for what was given" if rate or bandwidth else source)
    numbers = {**subject.defines, **subject.numbers}
    params = [{**param, **({"value": numbers[param["name"]]} if param["name"] in numbers else {})} for param in subject.params]
    return {"variant": subject.name, "file": subject.file_name, "source": subject.source.strip(), "dtype": dtype,
            "head_dim": head_dim, "value_head_dim": value_head_dim, "params": params, "score": score, "mask": mask,
            "schedule": schedule, "walk": known.walk(subject.sizes["Skv"]), "work": found, "time": timing, "notes": subject.notes,
            "given_lists": subject.block_mask is not None, "has_bounds": has_bounds(subject, known)}


def _write_param(param: dict[str, Any]) -> str:
    extents = f"[{', '.join(map(str, param['extents']))}]" if "extents" in param else ""
    text = f"{'const ' if param.get('const') else ''}{param['name']}: {param['type']}{extents}"
    return f"{text} = {param['value']}" if "value" in param else text


def _write_depends(entry: dict[str, Any]) -> str:
    return f"depends on {', '.join(entry['depends']) or 'nothing'}; {entry['computed']}"


def _write_term(term: dict[str, Any], block_size: tuple[int, int], with_bounds: bool, indent: str) -> list[str]:
    if "terms" in term:
        return [f"{indent}{term['op']}",
                *(line for child in term["terms"] for line in _write_term(child, block_size, with_bounds, indent + "  "))]
    found = term["blocks"]
    boxes = "blocks" if term["box"] == block_size else f"boxes of {term['box'][0]} x {term['box'][1]}"
    bounds = " and ".join(term["bounds"])
    bounds = f"; bounds the {bounds} key in closed form" if bounds else "; its bounds leave out no key here"
    return [f"{indent}{term['text']}",
            f"{indent}    {_write_depends(term)}",
            f"{indent}    of {sum(found.values())} {boxes}: never true in {found['never']}, always in {found['always']}, "
            f"{'for some pairs' if term['is_exact'] else 'undecided'} in {found['unknown']}"
            + (bounds if with_bounds else "")]


def _write_hoisted(entries: list[dict[str, Any]]) -> list[str]:
    return [line for entry in entries for line in (f"  hoisted: {entry['text']}", f"      {_write_depends(entry)}")]


def _scaled(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


_WALKS = {"all": "all of them", "bounds": "within bounds in closed form, each tested in the loop",
          "lists": "by exact lists that are made before the kernel runs, as create_block_mask's are"}


_GPU_WALKS = {"all": "all of them", "bounds": "within bounds in closed form, each tested ahead of the products",
              "lists": "by lists that a kernel makes before, with an interval test for each block"}


_EXP_ERRORS = {5: "1.8e-7", 3: "1.0e-4"}  # by the degree of its polynomial


def _write_schedule(schedule: dict[str, Any], walk: str) -> list[str]:
    if "groups" not in schedule:
        return [f"  tile of {schedule['block_q']} queries x {schedule['block_kv']} keys, queries in {schedule['lanes']} lanes",
                f"  products by {schedule['dot']}, register tile of {schedule['rows']} rows x {schedule['vectors']} vectors",
                f"  2^x within {_EXP_ERRORS[schedule['exp_degree']]} of itself",
                f"  blocks of keys: {_WALKS[walk]}"]
    lines = [f"  tile of {schedule['groups']} x {schedule['block_q']} queries x {schedule['block_kv']} keys, "
             f"{schedule['stages']} stages of keys and values, {schedule['shared_bytes'] / 1024:.0f} KiB of shared memory",
             f"  products by {schedule['dot']}, {schedule['threads']} threads a thread block"
             + (", which takes tile after tile" if schedule["persistent"] else ""),
             f"  blocks of keys: {_GPU_WALKS[walk]}"
             + ("; what it reads of captured tensors along keys is found once for all tiles" if schedule["summaries"] else "")]
    if schedule["min_keys"]:
        lines.append(f"  for calls with {schedule['min_keys']} keys and more; shorter ones have a code of their own")
    if schedule["needs_aligned"]:
        lines.append("  for addresses and strides of whole 16 bytes; other arrays take the portable code")
    return lines


def to_text(found: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{found['variant']}, {found['file']}", "", *(f"  {line}".rstrip() for line in found["source"].splitlines()), "",
             "Parameters", *(f"  {_write_param(param)}" for param in found["params"]), *([] if found["params"] else ["  none"])]
    score, mask, schedule, done = found["score"], found["mask"], found["schedule"], found["work"]
    block_size, with_bounds = (schedule["block_q"], schedule["block_kv"]), found["has_bounds"]
    lines += ["", "Score"]
    lines += ["  as it is"] if score is None else [f"  {score['text']}", f"      {_write_depends(score)}",
                                                   *_write_hoisted(score["hoisted"])]
    lines += ["", "Mask"]
    lines += ["  every pair attends"] if mask is None else [*_write_term(mask, block_size, with_bounds, "  "),
                                                            *_write_hoisted(mask["hoisted"])]
    blocks = done["blocks"]

    def share(name: str) -> str:
        return f"{blocks[name]:10.10g}  {blocks[name] / blocks['total']:6.1%}"

    lines += ["", f"Blocks of {done['block_q']} x {done['block_kv']}, for each batch and head: {blocks['total']}, "
                  f"from {done['means']}",
              *([f"  outside of the loop's bounds  {share('beyond_bounds')}", f"  skipped by the class test     {share('skipped')}"]
                if with_bounds else [f"  skipped                       {share('skipped')}"]),
              f"  partial, mask evaluated       {share('partial')}", f"  full, mask not evaluated      {share('full')}"]
    lines += ["", f"Schedule for {schedule['target']}, {found['dtype']}, head dim {found['head_dim']}"
              + (f" and {found['value_head_dim']}" if found["value_head_dim"] != found["head_dim"] else ""),
              *_write_schedule(schedule, found["walk"])]
    sizes = done["sizes"]
    lines += ["", f"Work for B = {sizes['B']}, Hq = {sizes['Hq']}, Hkv = {sizes['Hkv']}, Sq = {sizes['Sq']}, Skv = {sizes['Skv']}",
              f"  {_scaled(done['flops'], 'FLOP')} of {_scaled(done['dense_flops'], 'FLOP')} without a mask "
              f"({done['flops'] / done['dense_flops']:.1%})",
              f"  {_scaled(done['bytes_of_tensors'], 'B')} of tensors, read or written once; "
              f"{_scaled(done['bytes_of_tiles'], 'B')} by the tiles, mostly from caches"]
    timing = found["time"]
    if timing is None:
        lines.append("  no estimate of time: not this machine's target; give --rate and --bandwidth")
    else:
        lines.append(f"  about {timing['seconds'] * 1e3:.3g} ms, bound by {timing['bound_by']}; without a mask "
                     f"{timing['dense_seconds'] * 1e3:.3g} ms")
        lines.append(f"      by {timing['gflops_per_second']:.3g} GFLOP/s and {timing['gbytes_per_second']:.3g} GB/s, "
                     f"{timing['source']}")
    if found["notes"]:
        lines += ["", "Notes", *(f"  {note}" for note in found["notes"])]
    return "\n".join(lines) + "\n"


# The command.


def _speed(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, found {text}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", help=f"{FORMS}: a mod, a BlockMask, or a function that returns one")
    parser.add_argument("--dtype", choices=QUERY_DTYPES, default="f32", help="of query, key and value (default: %(default)s)")
    parser.add_argument("--head-dim", type=positive, default=64, metavar="N", help="of query and key (default: %(default)s)")
    parser.add_argument("--value-head-dim", type=positive, metavar="N", help="of value (default: --head-dim)")
    parser.add_argument("--target", default="native", metavar="NAME", help="a CPU level or a GPU architecture (default: this machine's CPU)")
    parser.add_argument("--tune", default="", metavar="OPTIONS", help="decisions in place of the compiler's, as heedc takes them: walk=lists, ...")
    parser.add_argument("--q", type=positive, metavar="N", help="queries (default: 1024)")
    parser.add_argument("--kv", type=positive, metavar="N", help="keys (default: as many as queries)")
    parser.add_argument("--batch", type=positive, metavar="N", help="batch size (default: 1)")
    parser.add_argument("--heads", type=positive, metavar="N", help="query heads (default: 8)")
    parser.add_argument("--kv-heads", type=positive, metavar="N", help="key heads (default: --heads)")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter: a number, a list such as [0,0,1,1], or @FILE.npy; may be repeated")
    parser.add_argument("--rate", type=_speed, metavar="GFLOPS", help="assume this speed (default: measured)")
    parser.add_argument("--bandwidth", type=_speed, metavar="GBS", help="assume this bandwidth (default: measured)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    value_head_dim = arguments.value_head_dim or arguments.head_dim
    sizes = Sizes({"B": arguments.batch, "Hq": arguments.heads, "Hkv": arguments.kv_heads, "Sq": arguments.q,
                   "Skv": arguments.kv, "D": arguments.head_dim, "Dv": value_head_dim})
    subject = load(arguments.what, parse_assignments(arguments.param), sizes)
    found = report(subject, dtype=arguments.dtype, head_dim=arguments.head_dim, value_head_dim=value_head_dim,
                   target=arguments.target, rate=arguments.rate, bandwidth=arguments.bandwidth, tune=arguments.tune)
    print(json.dumps(found, indent=2) if arguments.json else to_text(found), end="\n" if arguments.json else "")
    return 0
