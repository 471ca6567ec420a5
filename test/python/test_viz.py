# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""python -m heed viz: classes, reasons, files, the command line, and the page in a browser."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import browser
import numpy as np
import pytest
from conftest import ROOT
from heed import create_block_mask, create_mask, subject, terms, viz
from heed.__main__ import main
from heed.block_mask import BlockMask
from heed.oracle import FULL, PARTIAL, SKIPPED
from heed.terms import Progress, explain, split

EXAMPLES = ("alibi", "bert_padding", "causal", "checkerboard", "dense", "dilated_window", "global_tokens",
            "neighbourhood_2d", "packed_documents", "prefix_lm", "sliding_window", "transfusion")
MASKS = '''
import numpy as np
import heed
doc = np.arange(256) // 100
def causal(b, h, q, kv):
    return q >= kv
def documents(b, h, q, kv):
    return (q >= kv) & (doc[q] == doc[kv])
def window(size=32):
    def sliding(b, h, q, kv):
        return (q >= kv) & (q - kv < size)
    return sliding
def bias(score, b, h, q, kv):
    return score + (kv - q)
class Masks:
    inner = staticmethod(causal)
block_mask = heed.create_block_mask(documents, None, None, 256, 256, BLOCK_SIZE=64)
given = heed.BlockMask.from_kv_blocks(np.array([[[1, 1]]]), np.array([[[[1, 0], [0, 1]]]]), np.array([[[0, 1]]]),
                                      np.array([[[[0, 1], [1, 0]]]]), BLOCK_SIZE=64, mask_mod=causal)
number = 3
def loops(b, h, q, kv):
    while q > 0:
        q = q - 1
    return q == kv
def fails():
    raise RuntimeError("no such thing")
'''


def load(name: str, length: int = 1024, params: dict[str, str] | None = None) -> subject.Subject:
    return subject.load(str(ROOT / "examples" / f"{name}.heed"), params or {}, subject.Sizes({"Sq": length}))


@pytest.fixture
def masks(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "masks.py"
    path.write_text(MASKS)
    return str(path)


def elements(picture: viz.Picture) -> np.ndarray:
    """The mask that a picture's patterns and classes stand for."""
    q, kv = picture.lengths
    shape = picture.block_q, picture.block_kv
    full = np.kron(picture.classes == FULL, np.ones(shape, bool))
    for row, column in np.argwhere(picture.classes == PARTIAL):
        bits = np.unpackbits(picture.patterns[picture.pattern_of[row, column]], count=shape[0] * shape[1])
        full[row * shape[0]:(row + 1) * shape[0], column * shape[1]:(column + 1) * shape[1]] = bits.reshape(shape)
    return full[:q, :kv]


# Classes and elements.


def test_causal() -> None:
    picture = viz.picture(load("causal"))
    assert picture.counts() == {"skipped": 28, "partial": 8, "full": 28}
    assert picture.skipped == 28 / 64
    assert picture.pairs == 1024 * 1025 // 2
    assert len(picture.patterns) == 1  # all diagonal blocks look alike
    np.testing.assert_array_equal(elements(picture), np.tri(1024, dtype=bool))


@pytest.mark.parametrize("name", EXAMPLES)
def test_classes_are_sound_and_exact_is_exact(name: str) -> None:
    """Against every pair; the lengths are no multiples of the blocks."""
    made = load(name, 300)
    picture = viz.picture(made, 64, 32)
    whole = viz.picture(load(name, 300), 300, 300)
    mask = elements(whole) if (whole.classes == PARTIAL).any() else np.full((300, 300), bool(whole.classes[0, 0]))
    assert picture.pairs == mask.sum()
    np.testing.assert_array_equal(elements(picture), mask)
    assert picture.exact is not None
    for i, j in np.ndindex(picture.classes.shape):
        tile = mask[i * 64:(i + 1) * 64, j * 32:(j + 1) * 32]
        exact = FULL if tile.all() else PARTIAL if tile.any() else SKIPPED
        assert picture.exact[i, j] == exact
        assert picture.classes[i, j] in (PARTIAL, exact)


def test_evaluation_agrees_with_the_mod(masks: str) -> None:
    made = subject.load(f"{masks}:documents", {}, subject.Sizes({"Sq": 256}))
    doc = np.arange(256) // 100
    expected = create_mask(lambda b, h, q, kv: (q >= kv) & (doc[q] == doc[kv]), None, None, 256, 256, device="numpy")
    np.testing.assert_array_equal(elements(viz.picture(made, 32, 32)), expected[0, 0])


def test_classes_agree_with_create_block_mask(masks: str) -> None:
    made = subject.load(f"{masks}:window", {"size": "70"}, subject.Sizes({"Sq": 512}))
    expected = create_block_mask(lambda b, h, q, kv: (q >= kv) & (q - kv < 70), None, None, 512, 512, BLOCK_SIZE=64)
    picture = viz.picture(made, 64, 64)
    np.testing.assert_array_equal(picture.classes, expected.block_kinds()[0, 0])


def test_coarser_analysis_is_said() -> None:
    """Whether a pair's parity is known is beyond intervals; no pair attends."""
    made = subject.of_object(lambda b, h, q, kv: (q % 2 == 0) & ((q + 1) % 2 == 0), {}, subject.Sizes({"Sq": 256}))
    assert (viz.picture(made).classes == SKIPPED).all()  # by a CPU's lists
    picture = viz.picture(made, target="sm_90a")
    assert (picture.classes == PARTIAL).all() and picture.exact is not None and (picture.exact == SKIPPED).all()
    assert any("coarser" in note and "4 partial blocks" in note for note in picture.notes)


def test_what_kernels_do_is_shown() -> None:
    ts = np.sort(np.random.default_rng(0).random(1024)).astype(np.float32)
    made = subject.of_object(lambda b, h, q, kv: ts[q] >= ts[kv], {}, subject.Sizes({}))
    picture = viz.picture(made)
    assert picture.means == "exact lists, found before the kernel by the mask's generated classifier"
    assert picture.counts() == {"skipped": 28, "partial": 8, "full": 28}
    asked = viz.picture(made, target="sm_90a")
    assert asked.target == "sm_90a" and asked.means.endswith("found before the kernel by bounds in closed form and intervals")
    assert asked.exact is not None and (asked.exact == picture.classes).all()
    assert viz.picture(load("causal")).means.startswith("bounds in closed form, and intervals")


def test_batch_and_head() -> None:
    made = load("bert_padding", 256, {"lengths": "[64, 200]"})
    assert viz.picture(made, 64, 64, b=0).counts() == {"skipped": 12, "partial": 0, "full": 4}
    assert viz.picture(made, 64, 64, b=1).counts() == {"skipped": 0, "partial": 4, "full": 12}
    with pytest.raises(ValueError, match="--batch: expected 0 to 1, found 2"):
        viz.picture(made, b=2)


def test_block_masks(masks: str) -> None:
    derived = viz.picture(subject.load(f"{masks}:block_mask", {}, subject.Sizes({})))
    assert (derived.block_q, derived.lengths) == (64, (256, 256))
    assert derived.subject.block_mask is None
    given = viz.picture(subject.load(f"{masks}:given", {}, subject.Sizes({})))
    np.testing.assert_array_equal(given.classes, [[SKIPPED, PARTIAL], [PARTIAL, FULL]])
    assert viz.data(given)["given"]
    with pytest.raises(ValueError, match="leave out --block-q"):
        viz.picture(subject.load(f"{masks}:given", {}, subject.Sizes({})), block_q=32)
    with pytest.raises(ValueError, match="wants Sq = 256"):
        subject.load(f"{masks}:block_mask", {}, subject.Sizes({"Sq": 512}))
    assert isinstance(given.subject.block_mask, BlockMask)


def test_large_masks_are_quick() -> None:
    picture = viz.picture(load("packed_documents", 16384))
    assert picture.classes.shape == (128, 128)
    assert picture.skipped > 0.7 and picture.exact is not None
    assert len(viz.to_html(picture)) < 12 << 20


def test_too_many_partial_blocks() -> None:
    picture = viz.picture(load("checkerboard", 8192))
    assert picture.pairs is None and picture.patterns.size == 0 and viz.data(picture)["patternOf"] == ""
    assert any("too many to look at pair by pair" in note for note in picture.notes)


@pytest.mark.parametrize("target", ["native", "sm_90a"])
def test_cells_of_several_blocks(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load("packed_documents", 1000)
    every = viz.picture(made, 32, 16, target=target)
    monkeypatch.setattr(terms, "MAX_CELLS", 10)
    picture = viz.picture(made, 32, 16, target=target)
    assert picture.cell == (4, 7) and picture.classes.shape == (8, 9)
    assert picture.counts() == every.counts() and picture.skipped == every.skipped
    assert any("32 x 63 blocks are too many to draw: a cell of the picture stands for 4 x 7" in note for note in picture.notes)
    for row, column in np.ndindex(picture.classes.shape):
        part = every.classes[row * 4:row * 4 + 4, column * 7:column * 7 + 7]
        assert picture.classes[row, column] == (part[0, 0] if (part == part[0, 0]).all() else viz.VARIED)
        assert picture.blocks[:, row, column].tolist() == [(part == kind).sum() for kind in (SKIPPED, PARTIAL, FULL)]
        for state, fine in zip(picture.states, every.states):
            inside = fine[row * 4:row * 4 + 4, column * 7:column * 7 + 7]
            assert state[row, column] == (inside[0, 0] if (inside == inside[0, 0]).all() else viz.MIXED)


@pytest.mark.parametrize("name, skipped", [("packed_documents", 0.99), ("causal", 0.49)])
def test_four_million_tokens(name: str, skipped: float, tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    picture = viz.picture(load(name, 1 << 22, {"doc": f"@{documents(1 << 22, tmp_path)}"} if name != "causal" else {}))
    viz.save(picture, tmp_path / "mask.html")
    assert time.monotonic() - start < 60 and (tmp_path / "mask.html").stat().st_size < 12 << 20
    assert picture.skipped > skipped and picture.cell == (32, 32) and sum(picture.counts().values()) == 1 << 30
    assert "32768 x 32768 blocks" in picture.notes[-1]


def documents(length: int, directory: pathlib.Path) -> pathlib.Path:
    path = directory / "ids.npy"
    np.save(path, (np.arange(length, dtype=np.int32) // 5000)[None])
    return path


def test_given_lists_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 4096, 4096, device="numpy")
    given = BlockMask.from_kv_blocks(*(getattr(made, name) for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks",
                                                                        "full_kv_indices")))
    monkeypatch.setattr(terms, "MAX_CELLS", 8)
    picture = viz.picture(subject.of_object(given, {}, subject.Sizes({})))
    assert picture.cell == (4, 4) and picture.counts() == {"skipped": 496, "partial": 32, "full": 496}


def test_blocks_longer_than_all() -> None:
    assert viz.picture(load("causal"), 10 ** 10, 10 ** 10).counts() == {"skipped": 0, "partial": 1, "full": 0}
    assert viz.picture(load("dense"), 10 ** 10, 128).counts() == {"skipped": 0, "partial": 0, "full": 8}


def test_far_too_many_blocks() -> None:
    with pytest.raises(ValueError, match="too many to look at; give fewer --q and --kv, or larger blocks"):
        viz.picture(load("causal", 1 << 22), 1, 1)


# Terms.


def test_terms_say_why() -> None:
    picture = viz.picture(load("sliding_window", 1024, {"window": "256"}))
    assert picture.term is not None and picture.term.op == "&"
    assert [leaf.text for leaf in picture.term.leaves()] == ["q >= kv", "q - kv < window"]
    assert picture.places == ["sliding_window.heed:5"] * 2
    causal, near = picture.states
    assert (causal[0, 7], near[0, 7]) == (viz.NEVER, viz.ALWAYS)
    assert (causal[7, 0], near[7, 0]) == (viz.ALWAYS, viz.NEVER)
    assert (causal[4, 4], near[4, 4]) == (viz.MIXED, viz.ALWAYS)
    assert (causal[4, 2], near[4, 2]) == (viz.ALWAYS, viz.MIXED)


def test_terms_nest() -> None:
    term = split_of("transfusion")
    assert term.op == "|" and [child.op for child in term.children] == ["", "&"]
    assert [leaf.text for leaf in term.leaves()] == ["q >= kv", "span[b, q] > 0", "span[b, q] == span[b, kv]"]
    assert split_of("causal").children == []


def split_of(name: str) -> viz.Term:
    mask = explain(load(name)).mask
    assert mask is not None
    return split(mask.root)


def test_long_masks_stay_in_one_piece() -> None:
    def many(b: object, h: object, q: object, kv: int) -> object:
        result = kv == -1
        for i in range(40):
            result = result | (kv == 3 * i)
        return result

    mask = explain(subject.of_object(many, {}, subject.Sizes({}))).mask
    assert mask is not None and split(mask.root).children == []


# What is drawn: subjects.


@pytest.mark.parametrize("name, skipped", [("causal", 1), ("documents", 1), ("window", 1), ("Masks.inner", 1), ("bias", 0)])
def test_python_subjects(masks: str, name: str, skipped: int) -> None:
    picture = viz.picture(subject.load(f"{masks}:{name}", {}, subject.Sizes({"Sq": 256})))
    assert picture.counts()["skipped"] == skipped


def test_modules_of_the_current_directory(masks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pathlib.Path(masks).parent)
    monkeypatch.delitem(sys.modules, "masks", raising=False)
    assert subject.load("masks:window", {"size": "8"}, subject.Sizes({})).name == "sliding"
    sys.modules.pop("masks")


def test_made_up_data() -> None:
    made = load("packed_documents", 512)
    doc = made.values["doc"]
    assert doc.shape == (1, 512) and doc.dtype == np.int32 and 1 < doc.max() < 30 and (np.diff(doc) >= 0).all()
    assert "made up" in made.notes[0] and "--param doc=@FILE.npy" in made.notes[0]
    np.testing.assert_array_equal(doc, load("packed_documents", 512).values["doc"])
    assert load("global_tokens").values["marked"].sum() == 4
    assert load("alibi").values["slope"][0] == 0.5
    assert 256 <= load("bert_padding").values["lengths"][0] <= 1024


def test_given_data(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "ids.npy", np.zeros((2, 300), np.int64))
    made = subject.load(str(ROOT / "examples/packed_documents.heed"), {"doc": f"@{tmp_path / 'ids.npy'}"}, subject.Sizes({}))
    assert made.values["doc"].dtype == np.int32 and made.notes == []
    assert (made.sizes["B"], made.sizes["Sq"], made.sizes["Skv"]) == (2, 300, 300)
    assert viz.picture(made, b=1).lengths == (300, 300)


def test_constants_and_imports(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "two.heed"
    path.write_text("import std.masks\nvariant a(const n: index = 4) { mask_mod(b, h, q, kv) { return q // n == kv // n } }\n"
                    "variant c { mask_mod = causal }\nvariant d(x: bf16[Hq]) { mask_mod(b, h, q, kv) { return x[h] > 1.0 } }\n")
    assert viz.picture(subject.load(f"{path}:a", {"n": "128"}, subject.Sizes({}))).counts()["full"] == 8
    picture = viz.picture(subject.load(f"{path}:c", {}, subject.Sizes({})))
    assert picture.counts()["skipped"] == 28 and picture.places == ["masks.heed:7"]
    heads = subject.load(f"{path}:d", {"x": "[0, 2]"}, subject.Sizes({}))
    assert [viz.picture(heads, h=h).counts()["full"] for h in (0, 1)] == [0, 64]


# Files.


@pytest.mark.parametrize("name", ("packed_documents", "dense", "checkerboard"))
@pytest.mark.parametrize("length", (300, pytest.param(1024, marks=pytest.mark.slow)))
def test_images(name: str, length: int, tmp_path: pathlib.Path) -> None:
    picture = viz.picture(load(name, length))
    viz.save(picture, tmp_path / "mask.png")
    viz.save(picture, tmp_path / "mask.svg")
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "mask.svg").read_text().startswith("<?xml")


def test_colours_of_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of the blocks' colours, of which those of visited blocks stay visible."""
    monkeypatch.setattr(terms, "MAX_CELLS", 1)
    whole = viz._colours(viz.picture(load("causal")))[0, 0]
    colours = [np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]) for colour in viz._COLOURS.values()]
    np.testing.assert_allclose(whole, (28 * colours[SKIPPED] + 8 * colours[PARTIAL] + 28 * colours[FULL]) / 64)
    thin = viz._colours(viz.picture(load("sliding_window", 16384, {"window": "1"})))[0, 0]
    np.testing.assert_allclose(thin, 0.75 * colours[SKIPPED] + 0.25 * colours[PARTIAL])


def test_elements_of_small_images() -> None:
    kinds = viz._elements(viz.picture(load("causal", 300), 64, 64))
    assert kinds is not None and kinds.shape == (300, 300)
    assert [int(kinds[place]) for place in ((0, 0), (0, 1), (0, 299), (299, 0))] == [2, 1, 0, 3]
    assert viz._elements(viz.picture(load("causal", 1024))) is None


def test_html_needs_nothing_else(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "evil.heed"
    path.write_text("// </script><script>alert(1)</script> <!-- @DATA@\nvariant evil { mask_mod(b, h, q, kv) { return q >= kv } }\n")
    text = viz.to_html(viz.picture(subject.load(str(path), {}, subject.Sizes({}))))
    assert text.count("<script") == 2 and "alert(1)</script>" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)|https?:|@import|url\(""", text)


def test_a_file_stays_when_the_new_one_cannot_be_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "mask.html"
    target.write_text("good")

    def fail(path: pathlib.Path, content: bytes) -> int:
        path.open("wb").write(content[:100])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*mask\.html'"):
        viz.save(viz.picture(subject.load(str(ROOT / "examples/causal.heed"), {}, subject.Sizes({}))), target)
    assert target.read_text() == "good" and os.listdir(tmp_path) == ["mask.html"]


def test_without_matplotlib(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    picture = viz.picture(load("causal"))
    with pytest.raises(ValueError, match="pip install matplotlib"):
        viz.save(picture, tmp_path / "mask.png")
    viz.save(picture, tmp_path / "mask.html")


# The command line.


def test_command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mask.html"
    assert main(["viz", str(ROOT / "examples/packed_documents.heed"), "--q", "256", "--block-q", "64", "--block-kv", "64",
                 "--param", f"doc={json.dumps([[0] * 128 + [1] * 128])}", "-o", str(output)]) == 0
    out, err = capsys.readouterr()
    assert "256 x 256, blocks of 64 x 64: 10 skipped (62.5%), 4 partial, 2 full; 25.2% of the pairs attend" in out
    assert err == "" and output.is_file()


def test_other_commands_stay_light() -> None:
    script = ("import sys; from heed.__main__ import main; main(['cache', 'info']); "
              "assert not {'heed.viz', 'heed.explain', 'matplotlib'} & set(sys.modules)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("arguments, message", [
    (["nowhere.heed"], "No such file"),
    (["nowhere.py:f"], "no file 'nowhere.py'"),
    (["nowhere:f"], "cannot import 'nowhere': ModuleNotFoundError"),
    (["causal"], "expected FILE.heed, FILE.heed:VARIANT, MODULE:NAME or FILE.py:NAME, found 'causal'"),
    (["{masks}:nothing"], "has no 'nothing'"),
    (["{masks}:number"], "is a int; expected a mask_mod"),
    (["{masks}:fails"], "it raised RuntimeError: no such thing"),
    (["{masks}:loops"], "in loops"),
    (["{masks}:causal", "--param", "x=1"], "captures its values itself"),
    (["{examples}/causal.heed:acausal"], "no variant 'acausal'"),
    (["{examples}/causal.heed", "--param", "x=1"], "has no parameter 'x'; it has none"),
    (["{examples}/causal.heed", "--param", "x"], "expected NAME=VALUE, found 'x'"),
    (["{examples}/sliding_window.heed", "--param", "window=wide"], "expected a number, a list or @FILE.npy, found 'wide'"),
    (["{examples}/sliding_window.heed", "--param", "window=[1]"], "parameter 'window': expected one i32"),
    (["{examples}/packed_documents.heed", "--param", "doc=[0,1]"], "expected i32[B, Sq], found 1 axes"),
    (["{examples}/packed_documents.heed", "--param", "doc=[[0,1]]", "--q", "8"], "wants Sq = 2, but it is 8; give --q that fits"),
    (["{examples}/packed_documents.heed", "--param", "doc=@nowhere.npy"], "nowhere.npy"),
    (["{examples}/packed_documents.heed", "--param", "doc=@{masks}"], "is no .npy file"),
    (["{examples}/causal.heed", "-o", "mask.gif"], "--output: expected a name that ends in .html, .png, .svg"),
    (["{examples}/causal.heed", "-o", "/nowhere/mask.html"], "No such file"),
    (["{examples}/packed_documents.heed", "--param", "doc=[[0,1]]", "-b", "3"], "--batch: expected 0 to 0, found 3"),
])
def test_errors(arguments: list[str], message: str, masks: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path,
                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(masks=masks, examples=ROOT / "examples") if "doc=[" not in argument else argument
              for argument in arguments]
    assert main(["viz", *filled]) == 1
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and err.startswith("heed viz: error: ")


def test_missing_scalar(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "w.heed"
    path.write_text("variant w(n: index) { mask_mod(b, h, q, kv) { return q < n } }\n")
    with pytest.raises(ValueError, match="'n' has no default; give --param n=VALUE"):
        subject.load(str(path), {}, subject.Sizes({}))


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def written(stream: io.StringIO, seconds: float) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(after=0) as progress:
            progress.update("term 1 of 2")
            time.sleep(seconds)
        return stream.getvalue()

    text = written(Terminal(), 0.5)
    assert "\r\x1b[2Kterm 1 of 2, 0 s" in text and text.endswith("\r\x1b[2K")
    assert written(io.StringIO(), 0.1) == ""


# The page.

needs_browser = pytest.mark.skipif(browser.find() is None, reason="there is no Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    with browser.Browser() as running:
        yield running


def open_page(chromium: browser.Browser, picture: viz.Picture, tmp_path: pathlib.Path, **options: bool) -> browser.Page:
    viz.save(picture, tmp_path / "mask.html")
    return chromium.open(tmp_path / "mask.html", **options)  # type: ignore[arg-type]


def tip(page: browser.Page) -> str:
    text = page.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText")
    return str(text).replace("\n", " ")


@needs_browser
@pytest.mark.parametrize("dark", (False, True))
def test_page_loads(dark: bool, chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    page = open_page(chromium, viz.picture(load("packed_documents")), tmp_path, dark=dark)
    assert page.errors() == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests()) and len(page.requests()) >= 1
    assert page.evaluate("document.title") == "packed_documents – Heed"
    # The colour at the centre of a skipped block is the theme's.
    assert page.evaluate("""(() => { const [x, y] = heed.centre(0, 7), box = document.getElementById('canvas').getBoundingClientRect();
        return [...document.getElementById('canvas').getContext('2d').getImageData(x - box.left, y - box.top, 1, 1).data] })()"""
                         ) == ([38, 45, 54, 255] if dark else [228, 232, 236, 255])
    legend = page.evaluate("document.getElementById('legend').innerText")
    assert re.sub(r"\s+", " ", legend).startswith("skipped 47 73.4% partial 16 25.0%")


@needs_browser
@pytest.mark.parametrize("name", ("packed_documents", "dense", *(pytest.param(x, marks=pytest.mark.slow)
                                                               for x in ("neighbourhood_2d", "transfusion"))))
def test_page_hover(name: str, chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    picture = viz.picture(load(name))
    page = open_page(chromium, picture, tmp_path)
    names = {SKIPPED: "skipped", PARTIAL: "partial", FULL: "full"}
    mask = elements(picture)
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, 8, (12, 2)):
        x, y = page.evaluate(f"heed.centre({row}, {column})")
        page.mouse("mouseMoved", x, y)
        text = tip(page)
        assert f"block ({row}, {column}): {names[picture.classes[row, column]]}" in text
        assert f"queries {row * 128}–{row * 128 + 127}, keys {column * 128}–{column * 128 + 127}" in text
        pair = re.search(r"pair \((\d+), (\d+)\): (\w+)", text)
        assert pair and (pair[3] == "attends") == mask[int(pair[1]), int(pair[2])]
    page.mouse("mouseMoved", 5, 5)
    assert tip(page) == ""
    assert page.errors() == []


@needs_browser
def test_page_reasons(chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    page = open_page(chromium, viz.picture(load("sliding_window", 1024, {"window": "256"})), tmp_path)
    for block, reason in (((0, 7), "q >= kv holds for no pair here."), ((7, 0), "q - kv < window holds for no pair here."),
                          ((4, 4), "q >= kv depends on the pair here."), ((4, 2), "q - kv < window depends on the pair here."),
                          ((4, 3), "All of q >= kv, q - kv < window hold for every pair here.")):
        page.mouse("mouseMoved", *page.evaluate(f"heed.centre{block}"))
        assert reason in tip(page)
    page = open_page(chromium, viz.picture(load("prefix_lm", 1024, {"prefix": "[256]"})), tmp_path)
    for block, reason in (((0, 7), "None of q >= kv, kv < prefix[b] holds for any pair here."),
                          ((0, 1), "kv < prefix[b] holds for every pair here."),
                          ((7, 0), "q >= kv, kv < prefix[b] each hold for every pair here.")):
        page.mouse("mouseMoved", *page.evaluate(f"heed.centre{block}"))
        assert reason in tip(page)


@needs_browser
def test_page_of_given_lists(masks: str, chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    page = open_page(chromium, viz.picture(subject.load(f"{masks}:given", {}, subject.Sizes({}))), tmp_path)
    page.mouse("mouseMoved", *page.evaluate("heed.centre(1, 1)"))
    assert "The BlockMask lists it as full." in tip(page)


@needs_browser
def test_page_zoom_and_pan(chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    page = open_page(chromium, viz.picture(load("causal")), tmp_path)
    before = page.evaluate("heed.scale")
    x, y = (round(at) for at in page.evaluate("heed.centre(3, 3)"))
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-600)
    page.settle()
    assert page.evaluate("heed.scale") > 2 * before
    assert page.evaluate("heed.centre(3, 3)") == pytest.approx([x, y], abs=2)  # what the mouse is at stays
    at = page.evaluate("heed.centre(3, 3)")
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x - 60, y - 40, button="left", buttons=1)
    page.mouse("mouseReleased", x - 60, y - 40, button="left", clickCount=1)
    assert page.evaluate("heed.centre(3, 3)") == pytest.approx([at[0] - 60, at[1] - 40], abs=1)
    for name, larger in (("in", True), ("out", False)):
        scale = page.evaluate("heed.scale")
        page.evaluate(f"document.getElementById('{name}').click()")
        assert (page.evaluate("heed.scale") > scale) == larger
    page.evaluate("document.getElementById('fit').click()")
    assert page.evaluate("heed.scale") == before
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-9000)  # far in: pairs and their grid
    page.settle()
    assert 12 <= page.evaluate("heed.scale") <= 48 and page.errors() == []


@needs_browser
def test_page_keyboard(chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    page = open_page(chromium, viz.picture(load("causal")), tmp_path)
    page.evaluate("document.getElementById('canvas').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.key(key)
    assert page.evaluate("heed.selected") == 2 * 8 + 1
    assert "block (2, 1): full" in tip(page)
    assert "block (2, 1): full" in page.evaluate("document.getElementById('spoken').textContent")
    scale = page.evaluate("heed.scale")
    page.key("+")
    assert page.evaluate("heed.scale") == pytest.approx(1.5 * scale)
    page.key("-")
    assert page.evaluate("heed.scale") == pytest.approx(scale)
    page.key("Escape")
    assert tip(page) == "" and page.errors() == []


@needs_browser
def test_large_page(chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    picture = viz.picture(load("packed_documents", 16384))
    page = open_page(chromium, picture, tmp_path)
    row, column = map(int, np.argwhere(picture.classes == FULL)[-1])
    page.mouse("mouseMoved", *page.evaluate(f"heed.centre({row}, {column})"))
    assert f"block ({row}, {column}): full" in tip(page) and page.errors() == []


@needs_browser
def test_page_of_cells(chromium: browser.Browser, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MAX_CELLS", 4)
    picture = viz.picture(load("causal"))
    page = open_page(chromium, picture, tmp_path)
    for cell, text in (((1, 1), "cell (1, 1): blocks of several classes queries 256–511, keys 256–511 "
                                "Of its blocks 25.0% are skipped, 50.0% partial, 25.0% full."),
                       ((0, 3), "cell (0, 3): skipped"), ((3, 0), "q >= kv holds for every pair here.")):
        page.mouse("mouseMoved", *page.evaluate(f"heed.centre{cell}"))
        assert text in tip(page)
    x, y = page.evaluate("heed.centre(1, 1)")
    page.mouse("mouseMoved", 5, 5)
    page.settle()
    found = page.evaluate(f"""(() => {{ const box = document.getElementById('canvas').getBoundingClientRect();
        return [...document.getElementById('canvas').getContext('2d').getImageData({x} - box.left, {y} - box.top, 1, 1).data] }})()""")
    np.testing.assert_allclose(found[:3], 255 * viz._colours(picture)[1, 1], atol=1)
    assert "A cell of the picture is 2 × 2 blocks." in page.evaluate("document.getElementById('subtitle').textContent")
    assert "bounds in closed form" in page.evaluate("document.getElementById('means').textContent")
    assert page.errors() == []


@needs_browser
def test_terms_that_decide_together(chromium: browser.Browser, tmp_path: pathlib.Path) -> None:
    made = subject.of_object(lambda b, h, q, kv: (q % 2 == 0) & ((q + 1) % 2 == 0), {}, subject.Sizes({"Sq": 256}))
    for target, text in (("native", "Together, q % 2 == 0, (q + 1) % 2 == 0 hold for no pair here."),
                         ("sm_90a", "Intervals cannot tell, so the mask is evaluated here; in fact no pair attends.")):
        page = open_page(chromium, viz.picture(made, target=target), tmp_path)
        page.mouse("mouseMoved", *page.evaluate("heed.centre(1, 1)"))
        assert text in tip(page)
