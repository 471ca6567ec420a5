# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The GPU kernels that make block lists: assembled by ptxas, and emulated against brute force."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from typing import Any

import heed
import numpy as np
import pytest
from heed import _compiler, _runtime, tracing, variant
from heed.block_runs import FULL, PARTIAL
from hypothesis import Phase, given
from hypothesis import strategies as st
from ptx_emulator import Kernel, Memory
from random_masks import GEOMETRY, Geometry, draws, function_of, kinds_of, lists_of, mask_texts, random_captures

# An example takes seconds: it is not made smaller.
PHASES = (Phase.explicit, Phase.generate)
PTXAS = os.environ.get("HEED_PTXAS") or shutil.which("ptxas")


def compiled(trace: tracing.Trace, target: str = "sm_80") -> _runtime.GPUMaskCode:
    request = variant.of_trace(trace)._request("f32", 64, 64, target, "m")
    kernel = variant._load(_compiler.compile(request, "classifier"), "m")
    table = _runtime.KernelTable.from_address(kernel._address)
    assert table.num_gpu_mask_codes == 1 and table.num_mask_codes == 0 and table.num_gpu_codes == 0
    code = table.gpu_mask_codes[0]
    code.owner = kernel
    return code


def emulated(part: _runtime.GPUMaskKernel) -> Kernel:
    return Kernel(part.module.ptx.decode(), part.entry.decode())


def parameter_words(kernel: heed.Kernel, values: list[Any], memory: Memory) -> list[int]:
    words: list[int] = []
    for param, value in zip(kernel.params, values):
        if param.rank < 0:
            words.append(struct.unpack("=q", struct.pack("=f4x" if param.dtype in ("f16", "bf16", "f32") else "=q", value))[0])
            continue
        # All of the memory that the array's strides span, of which only its elements may be read.
        array = np.asarray(value)
        low = sum(min(0, step * (n - 1)) for step, n in zip(array.strides, array.shape)) if array.size else 0
        where = np.zeros(array.shape, np.int64)
        for axis, step in enumerate(array.strides):
            where = where + np.arange(array.shape[axis]).reshape([-1 if i == axis else 1 for i in range(array.ndim)]) * step
        span = int(where.max(initial=0)) - low + array.itemsize
        start = memory.place(np.zeros(span + 16, np.uint8))
        at = (start - memory.base - low + where)[..., None] + np.arange(array.itemsize)
        memory.bytes[at] = np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, array.itemsize)
        memory.allowed[at] = True
        words += [start - low, *array.shape, *(step // array.itemsize for step in array.strides)]
    return words


def emulate(mask_mod: Any, B: int, H: int, g: Geometry, code: Any, values: list[Any], lists: int, heads: int,
            rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The matrix of classes, the kv lists and the q lists."""
    classify, settle, listing, filling = map(emulated, code.kernels)
    memory = Memory()

    def allocate(count: int, size: int) -> tuple[int, slice]:
        start = memory.place(np.full(count * size + 1, 0xAA, np.uint8))
        place = slice(start - memory.base, start - memory.base + count * size)
        memory.allowed[place] = True
        return start, place

    rows, columns = -(-g.q_len // g.q_block), -(-g.kv_len // g.kv_block)
    args = np.zeros(512, np.int64)
    args[7:12] = B, H, H, g.q_len, g.kv_len
    args[12:15] = g.q_block, g.kv_block, 1
    args[15:17] = lists, heads
    classes, place = allocate(lists * rows * columns, 1)
    args[19] = classes
    words = parameter_words(code.owner, values, memory)
    args[34:34 + len(words)] = words

    def launch(kernel: Kernel, pieces: int, by_column: bool = False) -> None:
        args[17:19] = (columns, rows) if by_column else (rows, columns)
        args[20:23] = (rows * columns, 1, columns) if by_column else (rows * columns, columns, 1)
        assert kernel.threads == 32 * code.warps
        grid = -(-lists * pieces // code.warps)
        for block in range(grid):
            kernel.run(block, grid, args, memory, 0, rng, eager=True)

    launch(classify, -(-rows // 32) * -(-columns // 32))
    assert np.isin(memory.bytes[place], (0, 1, 2, 3)).all()
    launch(settle, rows * -(-columns // 32))
    made = []
    for by_column in (False, True):
        listed, entries = (columns, rows) if by_column else (rows, columns)
        shapes = [(lists, listed), (lists, listed, entries)] * 2
        places = []
        for word, shape in enumerate(shapes, 23):
            args[word], where = allocate(int(np.prod(shape)), 4)
            places.append(where)
        launch(listing, listed, by_column)
        if not by_column:
            before = memory.bytes[place].copy()
            memory.bytes[place] = 0xAA
            args[27:29] = columns, columns
            launch(filling, rows)
            np.testing.assert_array_equal(memory.bytes[place], before)
        made.append([memory.bytes[where].view(np.int32).reshape(shape) for where, shape in zip(places, shapes)])
    return memory.bytes[place].view(np.int8).reshape(lists, rows, columns), *made


def check(mask_mod: Any, B: int, H: int, geometries: list[Geometry], note: Any = "") -> None:
    rng = np.random.default_rng(len(str(note)))
    trace, values = tracing.lookup(None, mask_mod)
    code = compiled(trace)
    lengths = (max(g.q_len for g in geometries), max(g.kv_len for g in geometries))
    dense = heed.create_mask(mask_mod, B, H, *lengths, device="numpy")
    batches, heads = B if code.uses_batch else 1, H if code.uses_head else 1
    for g in geometries:
        kinds = kinds_of(dense[:batches, :heads, :g.q_len, :g.kv_len], g.q_block, g.kv_block)
        kinds = kinds.reshape(-1, *kinds.shape[2:])
        found, by_row, by_column = emulate(mask_mod, B, H, g, code, values, batches * heads, heads, rng)
        np.testing.assert_array_equal(found, kinds, err_msg=str((note, g)))
        for made, expected in zip(by_row + by_column, lists_of(kinds) + lists_of(kinds.swapaxes(-1, -2))):
            np.testing.assert_array_equal(made, expected, err_msg=str((note, g)))


@pytest.mark.slow
@draws(12, phases=PHASES)
@given(text=mask_texts(), seed=st.integers(0, 2 ** 32 - 1), B=st.integers(1, 2), H=st.integers(1, 3), geometry=GEOMETRY)
def test_random_masks(text: str, seed: int, B: int, H: int, geometry: Geometry) -> None:
    check(function_of(text, random_captures(seed)), B, H, [geometry], (text, seed))


@pytest.mark.slow
@draws(60, phases=PHASES)
@given(text=mask_texts(), seed=st.integers(0, 2 ** 32 - 1), B=st.integers(1, 2), H=st.integers(1, 3), geometry=GEOMETRY)
def test_many_random_masks(text: str, seed: int, B: int, H: int, geometry: Geometry) -> None:
    check(function_of(text, random_captures(seed)), B, H, [geometry], (text, seed))


def test_bad_entries_have_no_effect() -> None:
    """Of lists with rows of their own width, without full ones, with counts and indices beyond everything."""
    code = compiled(tracing.lookup(None, heed.noop_mask)[0])
    filling, memory, rng = emulated(code.kernels[3]), Memory(), np.random.default_rng(0)
    counts = np.array([[2, -5, 0], [99, 3, 1]], np.int32)
    indices = np.array([[[1, 3, 9], [0, 1, 2], [0, 1, 2]], [[-1, 40, 39], [5, 5, -2 ** 31], [2 ** 31 - 1, 0, 0]]], np.int32)
    args = np.zeros(512, np.int64)
    args[15:19] = 2, 2, 3, 40
    args[20:23] = 120, 40, 1
    for word, array in ((19, np.full(240, 7, np.int8)), (23, counts), (24, indices)):
        args[word] = memory.place(array)
        start = args[word] - memory.base
        memory.allowed[start:start + array.nbytes] = True
    args[27] = 3
    for block in range(2):
        filling.run(block, 2, args, memory, 0, rng, eager=True)
    start = args[19] - memory.base
    found = memory.bytes[start:start + 240].reshape(2, 3, 40)
    expected = np.zeros((2, 3, 40), np.uint8)
    for row in ((0, 0, 1), (0, 0, 3), (1, 0, 39), (1, 1, 5)):
        expected[row] = PARTIAL
    np.testing.assert_array_equal(found, expected)


def documents() -> Any:
    document = np.repeat(np.arange(9, dtype=np.int32), np.random.default_rng(0).multinomial(700, np.ones(9) / 9))
    return lambda b, h, q, kv: (q >= kv) & (document[q] == document[kv])


def per_head() -> Any:
    width = np.array([3, 40, 0], np.int32)
    scale = np.array([0.5, 2.0], np.float32)
    return lambda b, h, q, kv: abs(q - kv) * scale[b] < width[h]


@pytest.mark.slow
@pytest.mark.parametrize("mask_mod, B, H", [
    (lambda b, h, q, kv: q >= kv, 1, 1), (lambda b, h, q, kv: (q - kv) % 3 == 0, 1, 1), (lambda b, h, q, kv: q > 8, 1, 1),
    (lambda b, h, q, kv: kv < 600, 1, 1), (lambda b, h, q, kv: q != q, 2, 3), (heed.noop_mask, 1, 1),
    (lambda b, h, q, kv: (q == 151) & (kv == 77), 1, 1), (documents(), 1, 1),
    (lambda b, h, q, kv: (abs(q // 24 - kv // 24) <= 2) & (abs(q % 24 - kv % 24) <= 2), 1, 1)])
def test_masks(mask_mod: Any, B: int, H: int) -> None:
    """Also more than 32 rows and columns, which are several pieces of work."""
    check(mask_mod, B, H, [Geometry(700, 700, 128, 128), Geometry(690, 300, 20, 7), Geometry(5, 700, 16, 16),
                           Geometry(1, 1, 128, 128)])


@pytest.mark.slow
def test_masks_of_floats() -> None:
    """All pairs are looked at."""
    check(per_head(), 2, 3, [Geometry(50, 70, 16, 32)])


@pytest.mark.skipif(PTXAS is None, reason="needs ptxas")
@pytest.mark.parametrize("target", ["sm_80", "sm_90a", "sm_100", "sm_120"])
def test_assembles_without_spills(target: str, tmp_path: Any) -> None:
    for number, mask_mod in enumerate((heed.noop_mask, documents(), per_head())):
        code = compiled(tracing.lookup(None, mask_mod)[0], target)
        for part in code.kernels:
            path = tmp_path / f"{number}_{part.entry.decode()}.ptx"
            path.write_bytes(part.module.ptx)
            done = subprocess.run([str(PTXAS), f"-arch={target}", "-v", path, "-o", tmp_path / "k.cubin"], capture_output=True,
                                  text=True, check=True)
            spills = [int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr)]
            assert len(spills) == 2 and not any(spills), done.stderr
            assert "warning" not in done.stderr, done.stderr


def test_kinds_have_the_numbers_of_the_compiler() -> None:
    assert (PARTIAL, FULL) == (1, 2)
