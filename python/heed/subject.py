# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What `python -m heed viz`, `explain` and `tune` are about: a variant, with values for its parameters.

    sizes = Sizes({"Sq": 4096})
    subject = load("examples/packed_documents.heed", {"doc": "@ids.npy"}, sizes)
    subject = load("masks.py:document_causal", {}, sizes)

A .heed file's tensors that nobody gave are made up, and `notes` says so: pictures need some.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heed import _compiler, arrays, attention, tracing
from heed._runtime import HeedError
from heed.block_mask import BlockMask
from heed.tracing.tensors import as_array
from heed.variant import Variant

FORMS = "FILE.heed, FILE.heed:VARIANT, MODULE:NAME or FILE.py:NAME"
_DTYPES = {"bool": np.bool_, "i8": np.int8, "i32": np.int32, "i64": np.int64, "f16": np.float16, "bf16": np.float32,
           "f32": np.float32}
_OPTIONS = {"Sq": "--q", "Skv": "--kv"}
_WORDS = {"true": True, "false": False, "inf": float("inf"), "-inf": -float("inf")}


class Sizes:
    """B, Hq, Hkv, Sq, Skv, D and Dv: some given, some found in tensors, the rest defaults."""

    def __init__(self, given: Mapping[str, int | None], b: int = 0, h: int = 0) -> None:
        """`b` and `h`: a batch and a head that there should be, unless tensors say otherwise."""
        self._known: dict[str, int] = {}
        self._defaults = {"B": b + 1, "Hq": max(8, h + 1), "Sq": 1024, "D": 64}
        for name, size in given.items():
            if size is not None:
                self.set(name, size, "")

    def set(self, name: str, size: int, what: str) -> None:
        """ValueError if it is known to be another; `what` says where the size was found."""
        if size < 1:
            raise ValueError(f"{what or _OPTIONS.get(name, name)}: expected at least 1, found {size}")
        if self._known.setdefault(name, size) != size:
            raise ValueError(f"{what} wants {name} = {size}, but it is {self._known[name]}; "
                             f"give {_OPTIONS.get(name, 'data')} that fits")

    def __getitem__(self, name: str) -> int:
        if name not in self._known:
            same = {"Hkv": "Hq", "Skv": "Sq", "Dv": "D"}
            self._known[name] = self[same[name]] if name in same else self._defaults[name]
        return self._known[name]

    def all(self) -> dict[str, int]:
        return {name: self[name] for name in ("B", "Hq", "Hkv", "Sq", "Skv", "D", "Dv")}


@dataclasses.dataclass
class Subject:
    """`values` has arrays and numbers for all parameters that are not constant; `block_mask` is set for one of given
    lists only."""

    name: str
    source: str
    file_name: str
    variant: str | None
    params: list[dict[str, Any]]
    values: dict[str, Any]
    sizes: Sizes
    defines: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    block_mask: BlockMask | None = None
    block_size: tuple[int, int] | None = None

    @functools.cached_property
    def given_kinds(self) -> np.ndarray:
        """`block_kinds` of `block_mask`, read once."""
        assert self.block_mask is not None
        return self.block_mask.block_kinds()

    def given_classes(self, b: int, h: int) -> np.ndarray:
        """Of the lists of `block_mask`: int8, query blocks x key blocks, those that the lengths have."""
        assert self.block_size is not None
        kinds = self.given_kinds
        rows, columns = (-(-self.sizes[name] // size) for name, size in zip(("Sq", "Skv"), self.block_size))
        found = kinds[b if len(kinds) > 1 else 0, h if kinds.shape[1] > 1 else 0, :rows, :columns]
        return np.pad(found, ((0, rows - found.shape[0]), (0, columns - found.shape[1])))

    def stored_values(self) -> dict[str, Any]:
        """`values` with arrays as kernels read them: bf16 as its bits."""
        types = {param["name"]: param["type"] for param in self.params}
        return {name: arrays.to_bf16(value) if types[name] == "bf16" else value for name, value in self.values.items()}

    @property
    def numbers(self) -> dict[str, Any]:
        """The values that are no arrays, for JSON, which has no word for infinity."""
        return {name: value if isinstance(value, (bool, int)) or math.isfinite(value) else str(value)
                for name, value in self.values.items() if not isinstance(value, np.ndarray)}


def load(text: str, given: Mapping[str, str], sizes: Sizes) -> Subject:
    """The subject that `text` names, in one of FORMS; `given` has values as the command line spells them.

    ValueError or OSError says what is wrong, in one line where the compiler has no more to say."""
    left, _, right = text.rpartition(":")
    if text.endswith(".heed") or left.endswith(".heed"):
        path = pathlib.Path(text if text.endswith(".heed") else left)
        source = path.read_text(encoding="utf-8", errors="surrogateescape")
        return _of_program(Variant(source, str(path), None if text.endswith(".heed") else right), given, sizes)
    if not left or not right:
        raise ValueError(f"expected {FORMS}, found '{text}'")
    return of_object(_import(left, right), given, sizes, text)


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """What --param was given: NAME=VALUE each."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"--param: expected NAME=VALUE, found '{text}'")
        found[name] = value
    return found


def _import(module: str, path: str) -> Any:
    """A module's attribute, by a path with dots."""
    try:
        if module.endswith(".py"):
            name = pathlib.Path(module).stem
            spec = importlib.util.spec_from_file_location(name, module)
            assert spec is not None and spec.loader is not None
            if not pathlib.Path(module).is_file():
                raise ValueError(f"no file '{module}'")
            found: Any = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(name, found)
            spec.loader.exec_module(found)
        else:
            if os.getcwd() not in sys.path and "" not in sys.path:
                sys.path.insert(0, os.getcwd())
            found = importlib.import_module(module)
    except ValueError:
        raise
    except Exception as error:  # whatever the user's module does
        raise ValueError(f"cannot import '{module}': {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"'{module}' has no '{path}'")
        found = getattr(found, part)
    return found


def of_object(what: Any, given: Mapping[str, str], sizes: Sizes, text: str = "") -> Subject:
    """The subject of a mod, a BlockMask, a Variant, or a function that returns one of these."""
    if isinstance(what, Variant):
        return _of_program(what, given, sizes)
    if not isinstance(what, BlockMask) and all(hasattr(what, name) for name in ("kv_num_blocks", "BLOCK_SIZE", "mask_mod")):
        what = attention.adopt_mask(what)  # torch's
    if isinstance(what, BlockMask):
        _expect_none(given, text)
        for name, length in zip(("Sq", "Skv"), what.seq_lengths):
            sizes.set(name, length, "the BlockMask")
        for name, extent in zip(("Hq", "B"), what.shape[-3::-1]):
            if extent > 1:
                sizes.set(name, extent, "the BlockMask")
        subject = _of_mod(what.mask_mod, sizes)
        subject.block_size = what.BLOCK_SIZE
        subject.block_mask = what if what.has_given_lists else None
        return subject
    if not callable(what):
        raise ValueError(f"'{text}' is a {type(what).__name__}; expected a mask_mod, a score_mod, a BlockMask, "
                         "a Variant, or a function that returns one")
    try:
        tracing.mod_kind(what)
    except AssertionError as error:
        return _of_factory(what, given, sizes, text, str(error))
    _expect_none(given, text)
    return _of_mod(what, sizes)


def _expect_none(given: Mapping[str, str], text: str) -> None:
    if given:
        raise ValueError(f"'{text}' captures its values itself; --param is for .heed files and for functions that "
                         "return a mod")


def _of_factory(function: Any, given: Mapping[str, str], sizes: Sizes, text: str, why: str) -> Subject:
    arguments = {name: _parse(name, value) for name, value in given.items()}
    try:
        made = function(**arguments)
    except Exception as error:  # whatever the user's function does
        raise ValueError(f"{why}; called as a function that returns a mod, it raised {type(error).__name__}: {error}"
                         ) from error
    if callable(made) or isinstance(made, (BlockMask, Variant)):
        return of_object(made, {}, sizes, text)
    raise ValueError(f"{why}; called without indices, it returned a {type(made).__name__} rather than a mod")


def _of_mod(function: Any, sizes: Sizes) -> Subject:
    trace = tracing.trace_function(function)
    kind = tracing.mod_kind(function)
    values = trace.values(**{kind: function})
    code = getattr(function, "__code__", None)
    file_name = f"{code.co_filename}:{code.co_firstlineno}" if code else "<traced>"
    subject = Subject(trace.name, trace.source, file_name, None, _compiler.variants(trace.source)[0]["params"], {}, sizes)
    for param, value in zip(subject.params, values):
        subject.values[param["name"]] = _convert(param, as_array(value) if "extents" in param else value)
    if kind == "score_mod":
        subject.notes.append("a score_mod masks nothing that could be skipped: all blocks are full")
    return subject


def _params_of(variant: Variant, given: Mapping[str, str]) -> tuple[Variant, list[dict[str, Any]]]:
    """With the constants among `given` that have no default, without which nothing can be said of a program."""
    while True:
        try:
            return variant, variant.params
        except HeedError as error:
            name = next((name for name in given if f"'{name}' is 'const' and has no value" in str(error)), None)
            if name is None or name in variant.defines:
                raise
            defines = {**variant.defines, name: _parse(name, given[name])}
            variant = Variant(variant.source, variant.file_name, variant.name, defines)


def _of_program(variant: Variant, given: Mapping[str, str], sizes: Sizes) -> Subject:
    variant, params = _params_of(variant, given)
    name = variant.name or _compiler.variants(variant.source, variant.file_name, variant.defines)[0]["name"]
    subject = Subject(name, variant.source, variant.file_name, variant.name, params, {}, sizes, dict(variant.defines))
    if unknown := sorted(set(given) - {param["name"] for param in params}):
        known = ", ".join(param["name"] for param in params) or "none"
        raise ValueError(f"variant '{name}' has no parameter '{unknown[0]}'; it has {known}")
    for param in params:
        if param["name"] in given:
            value = _convert(param, _parse(param["name"], given[param["name"]]))
            if param.get("const"):
                subject.defines[param["name"]] = value
            else:
                subject.values[param["name"]] = value
                _check_extents(param, value, sizes)
        elif "default" in param and not param.get("const"):
            default = param["default"]  # not finite: as a word
            subject.values[param["name"]] = float(default) if isinstance(default, str) else default
        elif "extents" not in param and "default" not in param:
            raise ValueError(f"parameter '{param['name']}' has no default; give --param {param['name']}=VALUE")
    for param in params:  # once all sizes that were given are known
        if "extents" in param and param["name"] not in subject.values:
            subject.values[param["name"]], note = make_up(param, sizes)
            subject.notes.append(note)
    return subject


def _parse(name: str, text: str) -> Any:
    if text.startswith("@"):
        try:
            return np.load(text[1:], allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"--param {name}: '{text[1:]}' is no .npy file: {error}") from None
    try:
        return _WORDS[text] if text in _WORDS else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError(f"--param {name}: expected a number, a list or @FILE.npy, found '{text}'") from None


def _convert(param: Mapping[str, Any], value: Any) -> Any:
    """A number, or an array of the declared type and rank."""
    name, type_name = param["name"], param["type"]
    if "extents" not in param:
        is_huge = isinstance(value, int) and value.bit_length() > 64  # too large for a float, perhaps
        if isinstance(value, (bool, int, float, np.generic)) and np.ndim(value) == 0 and not is_huge:
            number = float(value)
            if type_name == "f32":
                return number
            if type_name == "bool":
                if number in (0, 1):
                    return bool(number)
            elif math.isfinite(number) and number.is_integer():
                limits = np.iinfo(_DTYPES.get(type_name, np.int32))
                if limits.min <= int(value) <= limits.max:
                    return int(value)
        raise ValueError(f"parameter '{name}': expected one {type_name}, found {value!r}")
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim != len(param["extents"]):
        extents = ", ".join(map(str, param["extents"]))
        raise ValueError(f"parameter '{name}': expected {type_name}[{extents}], found "
                         + (f"{array.ndim} axes" if array.dtype.kind in "biuf" else "something else"))
    if type_name == "bf16":
        return arrays.from_bf16(arrays.to_bf16(array.astype(np.float32)))
    converted: np.ndarray = array.astype(_DTYPES[type_name])
    if array.dtype.kind != "f" and not np.array_equal(converted, array):
        raise ValueError(f"parameter '{name}': expected {type_name}, found a number that is none")
    return converted


def _check_extents(param: Mapping[str, Any], value: Any, sizes: Sizes) -> None:
    for axis, extent in enumerate(param.get("extents", ())):
        if isinstance(extent, int) and value.shape[axis] != extent:
            raise ValueError(f"parameter '{param['name']}': expected {extent} on axis {axis}, found {value.shape[axis]}")
        if isinstance(extent, str) and extent != "?":
            sizes.set(extent, value.shape[axis], f"parameter '{param['name']}'")


def make_up(param: Mapping[str, Any], sizes: Sizes) -> tuple[np.ndarray, str]:
    """Data that show what a mask does, and a note about it; the same each time."""
    name, type_name = param["name"], param["type"]
    extents = ["Sq" if extent == "?" else extent for extent in param["extents"]]
    shape = tuple(extent if isinstance(extent, int) else sizes[extent] for extent in extents)
    rng = np.random.default_rng(sum(map(ord, name)))
    along = extents[-1] in ("Sq", "Skv")
    hint = f"give --param {name}=@FILE.npy for yours"
    if type_name == "bool":
        array = np.zeros(shape, bool)
        array[..., :4] = True
        return array, f"{name}: made up, the first 4 are true; {hint}"
    if type_name.startswith("f"):
        if extents == ["Hq"]:
            slopes = np.exp2(-8.0 * (np.arange(shape[0]) + 1) / shape[0])
            return slopes.astype(_DTYPES[type_name]), f"{name}: made up, 2^(-8 (h + 1) / Hq); {hint}"
        return rng.standard_normal(shape).astype(_DTYPES[type_name]), f"{name}: made up, normally distributed; {hint}"
    if type_name == "bf16":
        return rng.standard_normal(shape).astype(np.float32), f"{name}: made up, normally distributed; {hint}"
    if along:  # documents of random lengths, six or so
        starts = rng.random(shape) < min(6 / shape[-1], 0.5)
        starts[..., 0] = False
        array = np.cumsum(starts, axis=-1)
        return array.astype(_DTYPES[type_name]), f"{name}: made up, documents of random lengths; {hint}"
    length = sizes["Skv"]
    array = rng.integers(max(1, length // 4), length + 1, shape)
    return np.minimum(array, np.iinfo(_DTYPES[type_name]).max).astype(_DTYPES[type_name]), \
        f"{name}: made up, lengths between {max(1, length // 4)} and {length}; {hint}"


def check_place(sizes: Sizes, b: int, h: int) -> None:
    """HeedError where there is no such batch or head."""
    for option, index, name in (("--batch", b, "B"), ("--head", h, "Hq")):
        if not 0 <= index < sizes[name]:
            raise HeedError(f"{option}: expected 0 to {sizes[name] - 1}, found {index}")


def positive(text: str) -> int:
    """A size on the command line: an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {number}")
    return number
