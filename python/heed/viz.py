# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Pictures of masks: which blocks a kernel skips, and why.

    python -m heed viz examples/packed_documents.heed --q 4096 -o mask.html
    python -m heed viz masks.py:document_causal --block-q 64 --block-kv 64 -o mask.png

The page is one file that needs no other; it can be zoomed, and says of each block what decided its class. Where blocks are
too many to be drawn, a cell of the picture stands for several and has the colour of their mixture. In Python:

    picture = viz.picture(subject.load("causal.heed", {}, subject.Sizes({})))
    viz.save(picture, "causal.svg")
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import json
import os
import pathlib
import textwrap
from typing import Any

import numpy as np

from heed import files
from heed.block_runs import FULL, PARTIAL, SKIPPED
from heed.subject import FORMS, Sizes, Subject, check_place, load, parse_assignments, positive
from heed.terms import Progress, Report, Term, cell_of, evaluate_blocks, explain, means_of, split, visited

VARIED = 3  # of a cell: its blocks are of several classes
NEVER, MIXED, ALWAYS = SKIPPED, PARTIAL, FULL  # for which pairs of a cell a term holds
MAX_PAIRS = 1 << 24  # of partial blocks, evaluated one by one
MAX_PATTERN_BYTES = 8 << 20
SUFFIXES = (".html", ".png", ".svg")
ELEMENTS = 512  # up to this many queries and keys, .png and .svg show pairs
_LABELS = {SKIPPED: "skipped", PARTIAL: "partial", FULL: "full"}
# Told apart by people with any colour vision, and in grey: light, orange, dark blue.
_COLOURS = {SKIPPED: "#e4e8ec", PARTIAL: "#e8a33d", FULL: "#2f6690"}
_TINT = "#fbe7c6"  # of pairs of a partial block that do not attend
_LEAST_SHARE = 0.25  # of a cell's colour that is not SKIPPED's where any of its blocks is not: thin lines stay visible


@dataclasses.dataclass
class Picture:
    """The blocks of a mask, in cells of one or several. `blocks` says how many of a cell a kernel skips (SKIPPED), evaluates
    the mask in (PARTIAL) or takes whole (FULL), and `classes` which of these all are, or VARIED; `exact` what they are in
    fact, for cells of one block; `patterns` holds the pairs of such partial blocks as bits, each pattern once, and
    `pattern_of` which one a block has (-1: none)."""

    subject: Subject
    b: int
    h: int
    block_q: int
    block_kv: int
    target: str
    means: str  # by which a kernel finds the blocks
    cell: tuple[int, int]  # rows and columns of blocks
    blocks: np.ndarray  # (3, rows, columns)
    classes: np.ndarray
    term: Term | None
    states: list[np.ndarray]  # of each leaf of `term`
    places: list[str]  # likewise
    exact: np.ndarray | None
    patterns: np.ndarray
    pattern_of: np.ndarray
    pairs: int | None  # that attend
    notes: list[str]

    @property
    def lengths(self) -> tuple[int, int]:
        return self.subject.sizes["Sq"], self.subject.sizes["Skv"]

    def counts(self) -> dict[str, int]:
        """Of blocks."""
        return {label: int(self.blocks[kind].sum()) for kind, label in _LABELS.items()}

    @property
    def skipped(self) -> float:
        """The share of blocks that are skipped."""
        return float(self.blocks[SKIPPED].sum() / self.blocks.sum())


def picture(subject: Subject, block_q: int | None = None, block_kv: int | None = None, b: int = 0, h: int = 0,
            target: str = "native") -> Picture:
    """The blocks of a subject's mask for batch `b` and head `h`, as kernels for `target` find them; block sizes are 128, or
    the BlockMask's.

    ValueError where lengths and block sizes make too many blocks, or the BlockMask has other blocks."""
    check_place(subject.sizes, b, h)
    own = subject.block_size or (128, 128)
    block_size = block_q or own[0], block_kv or own[1]
    if subject.block_mask is not None and block_size != own:
        raise ValueError(f"the BlockMask's blocks are {own}; leave out --block-q and --block-kv")
    with Progress() as progress:
        return _picture(subject, block_size, b, h, target, progress)


def _picture(subject: Subject, block_size: tuple[int, int], b: int, h: int, target: str, progress: Progress) -> Picture:
    progress.update("asking the compiler for the classes")
    report = explain(subject, target=target)
    means = means_of(subject, report, block_size)
    notes = list(subject.notes)
    if subject.block_mask is not None:
        notes.append("the lists of the BlockMask say which blocks are visited; the terms are of its mask_mod")
    (found,) = visited(subject, report, means.is_exact, block_size, [(b, h)])
    cell = cell_of(found.shape)
    blocks = found.in_cells(cell)
    classes = np.where(blocks.max(0) == blocks.sum(0), blocks.argmax(0), VARIED).astype(np.int8)
    term = split(report.mask.root) if report.mask else None
    states, places = [], []
    for number, leaf in enumerate(term.leaves() if term else ()):
        assert report.mask is not None
        progress.update(f"term {number + 1}: {leaf.text}")
        (holds,) = visited(subject, report, True, (block_size[0] * cell[0], block_size[1] * cell[1]), [(b, h)], leaf.node)
        states.append(holds.classes())
        place = report.mask.places[leaf.node.number]
        places.append(f"{os.path.basename(place.file)}:{place.line}" if subject.file_name == place.file
                      or place.file.startswith("std/") else "")
    result = Picture(subject, b, h, *block_size, report.schedule(subject.sizes["Skv"])["target"], means.text, cell, blocks, classes,
                     term, states, places, None, np.zeros((0, 0), np.uint8), np.full(classes.shape, -1, np.int32), None, notes)
    if not means.is_exact:
        progress.update("comparing with exact classes")
        (truth,) = visited(subject, report, True, block_size, [(b, h)])
        skipped, _, full = truth.counts() - found.counts()
        if coarse := int(skipped + full):
            notes.append(f"the analysis is coarser than the mask: {coarse} partial block{'s'[:coarse != 1]} could be skipped or "
                         f"full ({skipped} skipped, {full} full)")
        found = truth
    if cell == (1, 1):
        result.exact = found.classes()
        _look_closely(result, report, progress)
    else:
        notes.append(f"{found.shape[0]} x {found.shape[1]} blocks are too many to draw: a cell of the picture stands for "
                     f"{cell[0]} x {cell[1]}; fewer queries and keys, or larger blocks, show blocks and pairs")
    return result


def _look_closely(result: Picture, report: Report, progress: Progress) -> None:
    """Evaluates the pairs of partial blocks, for patterns."""
    q, kv = result.lengths
    height = np.minimum(result.block_q, q - np.arange(result.classes.shape[0]) * result.block_q)
    width = np.minimum(result.block_kv, kv - np.arange(result.classes.shape[1]) * result.block_kv)
    sizes = height[:, None] * width
    at = np.argwhere(result.classes == PARTIAL)
    size = result.block_q * result.block_kv
    if len(at) * size > MAX_PAIRS:
        result.notes.append(f"{len(at)} partial blocks are too many to look at pair by pair; fewer queries and keys, or "
                            "smaller blocks, show pairs")
        return
    pairs = int(sizes[result.classes == FULL].sum())
    known: dict[bytes, int] = {}
    stored = 0
    for part, exists, (mask,) in evaluate_blocks(result.subject, report, [report.mask.root], at, result.block_q, result.block_kv,
                                                 result.b, result.h) if report.mask else ():
        progress.update(f"partial blocks: {part.stop} of {len(at)}")
        attends = mask & exists
        pairs += int(attends.sum())
        for (row, column), bits in zip(at[part], np.packbits(attends.reshape(len(attends), -1), axis=1)):
            key = bits.tobytes()
            if key not in known and stored + len(key) <= MAX_PATTERN_BYTES:
                known[key] = len(known)
                stored += len(key)
            result.pattern_of[row, column] = known.get(key, -1)
    result.pairs = pairs
    result.patterns = np.frombuffer(b"".join(known), np.uint8).reshape(len(known), -1 if known else 0)


# Files.


def save(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Writes a picture as .html, .png or .svg, by the path's suffix. ValueError for others, or without matplotlib."""
    target = pathlib.Path(path)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"'{target}': expected a name that ends in {', '.join(SUFFIXES)}")
    content = to_html(picture).encode() if target.suffix == ".html" else _draw(picture, target)
    files.write_together([(target.resolve(), content)])


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _term_data(term: Term, numbers: dict[int, int]) -> dict[str, Any]:
    if term.children:
        return {"op": term.op, "children": [_term_data(child, numbers) for child in term.children]}
    return {"leaf": numbers[id(term)]}


def data(picture: Picture) -> dict[str, Any]:
    """What the page shows, for json."""
    leaves = picture.term.leaves() if picture.term else []
    q, kv = picture.lengths
    subject = picture.subject
    return {
        "name": subject.name, "file": subject.file_name, "source": subject.source.strip(), "b": picture.b, "h": picture.h,
        "q": q, "kv": kv, "blockQ": picture.block_q, "blockKv": picture.block_kv, "cell": picture.cell, "notes": picture.notes,
        "target": picture.target, "means": picture.means,
        "counts": picture.counts(), "pairs": picture.pairs, "given": subject.block_mask is not None,
        "values": subject.numbers,
        "classes": _encode(picture.classes.astype(np.uint8)),
        # Of the cells that are of several classes, in units of 2^-16.
        "shares": [_encode((_shares(picture)[kind, picture.classes == VARIED] * 0xffff).astype("<u2")) for kind in (PARTIAL, FULL)],
        "exact": None if picture.exact is None else _encode(picture.exact.astype(np.uint8)),
        "term": picture.term and _term_data(picture.term, {id(leaf): i for i, leaf in enumerate(leaves)}),
        "leaves": [{"text": leaf.text, "place": place, "states": _encode(state.astype(np.uint8))}
                   for leaf, place, state in zip(leaves, picture.places, picture.states)],
        "patterns": _encode(picture.patterns),
        "patternOf": _encode(picture.pattern_of.astype("<i4")) if picture.patterns.size else ""}


def _shares(picture: Picture) -> np.ndarray:
    """Of the classes in each cell."""
    shares: np.ndarray = picture.blocks / picture.blocks.sum(0)
    return shares


def to_html(picture: Picture) -> str:
    """A page that needs no other file."""
    template = pathlib.Path(__file__).with_name("viz.html").read_text(encoding="utf-8")
    # "<" only occurs within strings; escaped, no text can end the script element.
    return template.replace("@DATA@", json.dumps(data(picture)).replace("<", "\\u003c"))


def _colours(picture: Picture) -> np.ndarray:
    """Red, green and blue of each cell, from 0 to 1."""
    shares = _shares(picture)
    colours = np.array([[int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)] for colour in _COLOURS.values()])
    visited = 1 - shares[SKIPPED]
    shares *= np.where(visited > 0, np.maximum(visited, _LEAST_SHARE) / np.maximum(visited, 1e-12), 1)
    shares[SKIPPED] = 1 - shares[PARTIAL] - shares[FULL]
    return np.tensordot(shares, colours, (0, 0))


def _elements(picture: Picture) -> np.ndarray | None:
    """For each pair 0 to 3: skipped, masked in a partial block, attends there, full. None where that is not known."""
    q, kv = picture.lengths
    if max(q, kv) > ELEMENTS or picture.cell != (1, 1) or (picture.pattern_of[picture.classes == PARTIAL] < 0).any():
        return None
    shape = picture.block_q, picture.block_kv
    kinds = np.repeat(np.repeat(np.array([0, 1, 3])[picture.classes], shape[0], 0), shape[1], 1)
    for row, column in np.argwhere(picture.classes == PARTIAL):
        bits = np.unpackbits(picture.patterns[picture.pattern_of[row, column]], count=shape[0] * shape[1])
        kinds[row * shape[0]:(row + 1) * shape[0], column * shape[1]:(column + 1) * shape[1]] += bits.reshape(shape)
    return np.asarray(kinds[:q, :kv])


def _of_cells(blocks: int) -> str:
    return f", {blocks} a cell" if blocks > 1 else ""


def _draw(picture: Picture, target: pathlib.Path) -> bytes:
    try:
        import matplotlib
    except ImportError:
        raise ValueError(f"{target.suffix} files need matplotlib (pip install matplotlib); .html files need nothing"
                         ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    q, kv = picture.lengths
    rows, columns = picture.classes.shape
    step = picture.block_q * picture.cell[0], picture.block_kv * picture.cell[1]
    elements = _elements(picture)
    figure, axes = plt.subplots(figsize=(6.4, 1.6 + 5.4 * min(max(q / kv, 0.15), 2.0)), layout="constrained")
    if elements is None:
        axes.imshow(_colours(picture), extent=(0, columns * step[1], rows * step[0], 0))
    else:
        axes.imshow(elements, cmap=ListedColormap([_COLOURS[SKIPPED], _TINT, _COLOURS[PARTIAL], _COLOURS[FULL]]),
                    vmin=-0.5, vmax=3.5, extent=(0, kv, q, 0), interpolation="nearest")
    if max(rows, columns) <= 64:
        for line in range(1, columns):
            axes.axvline(line * step[1], color="white", linewidth=0.6)
        for line in range(1, rows):
            axes.axhline(line * step[0], color="white", linewidth=0.6)
    axes.set(xlim=(0, kv), ylim=(q, 0), aspect="equal" if 0.15 <= q / kv <= 2.0 else "auto",
             xlabel=f"key, blocks of {picture.block_kv}{_of_cells(picture.cell[1])}",
             ylabel=f"query, blocks of {picture.block_q}{_of_cells(picture.cell[0])}")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(labelsize=8, color="#888888")
    axes.ticklabel_format(style="plain")
    for spine in axes.spines.values():
        spine.set_color("#c4c9d0")
    figure.suptitle(picture.subject.name, fontsize=13, fontweight="bold")
    legend = [Patch(facecolor=_COLOURS[kind], edgecolor="#9aa1a9", linewidth=0.5,
                    label=f"{label}  {count:,}  ({count / picture.blocks.sum():.1%})")
              for (kind, label), count in zip(_LABELS.items(), picture.counts().values())]
    if elements is not None and (picture.classes == PARTIAL).any():
        legend.insert(2, Patch(facecolor=_TINT, edgecolor="#9aa1a9", linewidth=0.5, label="masked in a partial block"))
    ncols = 3 if len(legend) == 3 and picture.blocks.sum() < 1e8 else 2  # longer numbers leave no room for three
    figure.legend(handles=legend, loc="outside lower center", ncols=ncols, fontsize=9, frameon=False,
                  title=textwrap.fill(f"found for {picture.target} by {picture.means}", 100), title_fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=target.suffix[1:])
    plt.close(figure)
    return content.getvalue()


# The command.


def summary(picture: Picture) -> str:
    """One line: counts and shares."""
    q, kv = picture.lengths
    counts = picture.counts()
    text = (f"{picture.subject.name}: {q} x {kv}, blocks of {picture.block_q} x {picture.block_kv}: {counts['skipped']} skipped "
            f"({picture.skipped:.1%}), {counts['partial']} partial, {counts['full']} full")
    return text if picture.pairs is None else f"{text}; {picture.pairs / (q * kv):.1%} of the pairs attend"


def _index(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, found {number}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", help=f"{FORMS}: a mod, a BlockMask, or a function that returns one")
    parser.add_argument("-o", "--output", metavar="FILE", default="mask.html",
                        help="the picture: .html, .png or .svg (default: %(default)s)")
    parser.add_argument("--q", type=positive, metavar="N", help="queries (default: 1024)")
    parser.add_argument("--kv", type=positive, metavar="N", help="keys (default: as many as queries)")
    parser.add_argument("--block-q", type=positive, metavar="N", help="queries of a block (default: 128)")
    parser.add_argument("--block-kv", type=positive, metavar="N", help="keys of a block (default: 128)")
    parser.add_argument("-b", "--batch", type=_index, default=0, metavar="I", help="which batch (default: 0)")
    parser.add_argument("-H", "--head", type=_index, default=0, metavar="I", help="which query head (default: 0)")
    parser.add_argument("--target", default="native", metavar="NAME",
                        help="whose kernels: a CPU level or a GPU architecture (default: this machine's CPU)")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter: a number, a list such as [0,0,1,1], or @FILE.npy; may be repeated")


def run(arguments: argparse.Namespace) -> int:
    if pathlib.Path(arguments.output).suffix not in SUFFIXES:
        raise ValueError(f"--output: expected a name that ends in {', '.join(SUFFIXES)}, found '{arguments.output}'")
    sizes = Sizes({"Sq": arguments.q, "Skv": arguments.kv}, arguments.batch, arguments.head)
    subject = load(arguments.what, parse_assignments(arguments.param), sizes)
    made = picture(subject, arguments.block_q, arguments.block_kv, arguments.batch, arguments.head, arguments.target)
    save(made, arguments.output)
    print(summary(made))
    print(f"found for {made.target} by {made.means}")
    for note in made.notes:
        print(f"note: {note}")
    print(f"written: {arguments.output}")
    return 0
