# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.compile, heed.load, Kernel.save and Variant: kernels that outlive the process, and what can go wrong with files."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import BUILD, ROOT, run_heedc
from reference import EXAMPLES, Shape, attention, compare, decode, random_inputs, run

import heed
from heed import _compiler

CAUSAL = "variant causal { mask_mod(b, h, q, kv) { return q >= kv } }\n"
BIASED = "variant biased(a_kernel: f32, bias_kernel: f32[?]) { score_mod(s, b, h, q, kv) { return s * a_kernel + bias_kernel[kv] } }\n"
SHAPE = Shape(2, 4, 2, 50, 70)


@pytest.fixture(scope="module")
def kernel() -> heed.Kernel:
    return heed.compile(CAUSAL, head_dim=16)


def inputs(dtype: str = "f32", dims: tuple[int, int] = (16, 16)) -> tuple[np.ndarray, ...]:
    return random_inputs(np.random.default_rng(0), SHAPE, *dims, dtype)


def check_causal(kernel: heed.Kernel, dtype: str = "f32", dims: tuple[int, int] = (16, 16)) -> None:
    q, k, v = inputs(dtype, dims)
    compare(*run(kernel, q, k, v), attention(EXAMPLES["causal"], *(decode(x, dtype) for x in (q, k, v)), dims[0] ** -0.5, {}),
            dtype)


def files(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- compile -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype, dims", [("f32", (16, 16)), ("bf16", (64, 24)), ("f16", (7, 64))])
def test_compile_save_load(tmp_path: pathlib.Path, dtype: str, dims: tuple[int, int]) -> None:
    compiled = heed.compile(CAUSAL, dtype=dtype, head_dim=dims[0], value_head_dim=dims[1])
    assert (compiled.dtype, compiled.head_dim, compiled.value_head_dim) == (dtype, *dims)
    check_causal(compiled, dtype, dims)
    compiled.save(tmp_path / "kernel.so")
    assert files(tmp_path) == ["kernel.so"]
    loaded = heed.load(tmp_path / "kernel.so")
    assert isinstance(loaded, heed.Kernel) and repr(loaded) == repr(compiled)
    check_causal(loaded, dtype, dims)


def test_what_can_be_compiled(tmp_path: pathlib.Path) -> None:
    q, k, v = inputs()
    path = tmp_path / "causal.heed"
    path.write_text(CAUSAL)
    trace = heed.trace(lambda b, h, i, j: i >= j)
    expected = heed.compile(CAUSAL, head_dim=16)(q, k, v)
    for what in (path, str(path), heed.load(path), trace, lambda b, h, i, j: i >= j):
        np.testing.assert_array_equal(heed.compile(what, head_dim=16)(q, k, v), expected)
    with pytest.raises(TypeError, match="expected a .heed file, a program, a trace or a function, found int"):
        heed.compile(3)


@pytest.mark.parametrize("dtype", ("float32", "torch.float32", np.float32, np.dtype("float32")))
def test_dtype_names(dtype: Any) -> None:
    assert heed.variant.dtype_name(dtype) == "f32"


def test_parameters_named_like_kernels() -> None:
    """The object's own name is found among such names."""
    q, k, v = inputs()
    biased = heed.compile(BIASED, head_dim=16)
    bias = np.random.default_rng(1).standard_normal(70).astype(np.float32)
    expected = heed.flex_attention(q, k, v, lambda s, b, h, i, j: s * 0.5 + bias[j], enable_gqa=True)
    np.testing.assert_array_equal(biased(q, k, v, a_kernel=0.5, bias_kernel=bias), expected)


@pytest.mark.parametrize("arguments, words", [
    ({"dtype": "f64"}, "dtype: expected f32, bf16 or f16, found 'f64'"), ({"head_dim": 0}, "head_dim: expected an integer from 1 to 576, found 0"),
    ({"head_dim": 577}, "head_dim: expected .* found 577"), ({"head_dim": 2**32 + 64}, "head_dim: expected .* found 4294967360"),
    ({"head_dim": 64.0}, "head_dim: expected an integer"), ({"value_head_dim": 0}, "value_head_dim: expected .* found 0"),
    ({"target": None}, "target: expected a string, found None"), ({"symbol": "a\0b"}, "symbol: expected a string"),
    ({"defines": {"x=1": 1}}, "defines: expected names of parameters and their values, found 'x=1': 1"),
    ({"target": "z80"}, "unknown target 'z80'"),
    ({"symbol": "a b"}, "symbol expects a C identifier"), ({"variant": "other"}, "other"),
    ({"defines": {"x": 1}}, "no variant has a scalar parameter 'x'")])
def test_wrong_requests(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(heed.HeedError, match=words):
        heed.compile(CAUSAL, **arguments)


def test_defines() -> None:
    q, k, v = inputs()
    source = "variant w(window: i32) { mask_mod(b, h, q, kv) { return abs(q - kv) < window } }"
    fixed, free = heed.compile(source, head_dim=16, defines={"window": 9}), heed.compile(source, head_dim=16)
    assert fixed.param_names == [] and free.param_names == ["window"]
    np.testing.assert_array_equal(fixed(q, k, v), free(q, k, v, window=9))


@pytest.mark.parametrize("mod", ("mask", "score"))
def test_a_trace_compiled_by_heedc_is_bit_exact(tmp_path: pathlib.Path, mod: str) -> None:
    q, k, v = inputs()
    bias, window = np.random.default_rng(1).standard_normal((4, 70)).astype(np.float32), 20

    def mask(b, h, i, j):
        return (i - j < window) & (i >= j)

    def score(s, b, h, i, j):
        return s * 0.5 + bias[h, j]

    function = {"mask": mask, "score": score}[mod]
    trace = heed.trace(function)
    (tmp_path / "t.heed").write_text(trace.source)
    result = run_heedc(tmp_path / "t.heed", "--emit=shared", "--dtype=f32", "--head-dim=16", "--target=native", "-o",
                       tmp_path / "t.so")
    assert result.returncode == 0, result.stderr
    ahead = heed.load(tmp_path / "t.so")
    values = dict(zip(ahead.param_names, trace.values(**{f"{mod}_mod": function})))
    expected, aux = heed.flex_attention(q, k, v, **{f"{mod}_mod": function}, enable_gqa=True,
                                        return_aux=heed.AuxRequest(lse=True))
    output, lse = ahead(q, k, v, return_lse=True, **values)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(lse, aux.lse)


# -- Files -------------------------------------------------------------------------------------------

def test_a_replaced_file_is_loaded_anew(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    q, k, v = inputs()
    other = heed.compile("variant other { mask_mod(b, h, q, kv) { return q <= kv } }", head_dim=16, symbol="k")
    for current in (heed.compile(CAUSAL, head_dim=16, symbol="k"), other, kernel):
        current.save(tmp_path / "k.so")
        loaded = heed.load(tmp_path / "k.so")
        np.testing.assert_array_equal(loaded(q, k, v), current(q, k, v))
    assert files(tmp_path) == ["k.so"]


def test_names(tmp_path: pathlib.Path) -> None:
    """A library of several kernels, as a C project may link one."""
    for name in ("foo", "bar"):
        heed.compile(CAUSAL, head_dim=16, symbol=name).save(tmp_path / f"{name}.o")
    subprocess.run(["cc", "-shared", "-o", "two.so", "foo.o", "bar.o"], cwd=tmp_path, check=True)
    for name in ("foo", "bar"):
        check_causal(heed.load(tmp_path / "two.so", name))
    with pytest.raises(heed.HeedError, match="has several kernels; give symbol= one of bar, foo"):
        heed.load(tmp_path / "two.so")
    with pytest.raises(heed.HeedError, match="has no kernel 'baz'; give symbol= one of bar, foo"):
        heed.load(tmp_path / "two.so", "baz")
    os.rename(tmp_path / "two.so", tmp_path / "foo.so")
    assert heed.load(tmp_path / "foo.so").name == "foo"  # the file's stem


C_MAIN = """
#include "k.h"
#include <stdio.h>
int main(void) {
  float q[6] = {1, 0, 0, 1, 1, 1}, out[6], lse[3];
  int64_t shape[4] = {1, 1, 3, 2};
  heed_tensor t = heed_dense_tensor(q, HEED_F32, 4, shape);
  heed_call call = {.query = t, .key = t, .value = t, .output = heed_dense_tensor(out, HEED_F32, 4, shape),
                    .lse = heed_dense_tensor(lse, HEED_F32, 3, shape), .scale = 1.0};
  if (heed_run(&k_kernel, &call) != HEED_OK) { puts(heed_last_error()); return 1; }
  for (int i = 0; i < 6; ++i) printf("%a ", out[i]);
  return 0;
}
"""


def test_object_and_header_in_c(tmp_path: pathlib.Path) -> None:
    saved = heed.compile(CAUSAL, head_dim=2, symbol="k")
    saved.save(tmp_path / "k.o", tmp_path / "k.h")
    assert files(tmp_path) == ["k.h", "k.o"]
    (tmp_path / "main.c").write_text(C_MAIN)
    subprocess.run(["cc", "-Wall", "-Werror", f"-I{ROOT / 'include'}", "-o", "main", "main.c", "k.o",
                    BUILD / "lib" / "libheed_runtime.a", "-lpthread", "-lm"], cwd=tmp_path, check=True)
    result = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout
    q = np.array([1, 0, 0, 1, 1, 1], np.float32).reshape(1, 1, 3, 2)
    np.testing.assert_array_equal([float.fromhex(x) for x in result.stdout.split()], saved(q, q, q, scale=1.0).ravel())


WITHOUT_COMPILER = """
import sys, numpy as np, heed
q = np.load(sys.argv[2])
np.save(sys.argv[3], heed.load(sys.argv[1])(q, q, q))
assert not any("libheed.so" in line for line in open("/proc/self/maps"))
try:
    heed.flex_attention(q, q, q)
except FileNotFoundError as error:
    assert "libheed.so was not found" in str(error), error
"""


def test_load_without_the_compiler(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    kernel.save(tmp_path / "k.so")
    q = inputs()[0]
    np.save(tmp_path / "q.npy", q)
    package = tmp_path / "package"
    package.mkdir()
    (package / "heed").symlink_to(ROOT / "python" / "heed")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, tmp_path / "k.so", tmp_path / "q.npy", tmp_path / "out.npy"],
        env={**os.environ, "PYTHONPATH": str(package), "HEED_LIBRARY": str(tmp_path / "nowhere.so"),
             "HEED_CACHE_DIR": str(tmp_path / "cache")}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), kernel(q, q, q))


@pytest.mark.parametrize("content, kind, words", [
    (b"", OSError, "file too short"), (b"nonsense" * 100, OSError, "invalid ELF header"),
    ("int other;", heed.HeedError, "has no kernel"), ("int foo_kernel = 77;", heed.HeedError, "Heed ABI version"),
    ("struct { unsigned version; int n; void *p[9]; } foo_kernel = {99};", heed.HeedError, "Heed ABI version")])
def test_bad_files(tmp_path: pathlib.Path, content: str | bytes, kind: type[Exception], words: str) -> None:
    path = tmp_path / "bad.so"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", path], input=content.encode(), check=True)
    with pytest.raises(kind, match=words):
        heed.load(path)


def test_truncated_library(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    kernel.save(tmp_path / "k.so")
    content = (tmp_path / "k.so").read_bytes()
    for part in (10, 64, 500):
        (tmp_path / f"{part}.so").write_bytes(content[:part])
        with pytest.raises(OSError):
            heed.load(tmp_path / f"{part}.so")


def test_missing_files(tmp_path: pathlib.Path) -> None:
    for name in ("gone.so", "gone.heed"):
        with pytest.raises(FileNotFoundError):
            heed.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        heed.compile(tmp_path / "gone.heed")


def test_paths_that_cannot_be_written(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in ("folder", "missing/k.so", "missing/k.o", "/proc/k.so"):
        with pytest.raises(OSError):
            kernel.save(tmp_path / target)
    for header in ("folder", "missing/k.h"):
        with pytest.raises(OSError):
            kernel.save(tmp_path / "k.o", tmp_path / header)
    assert files(tmp_path) in (["folder"], ["folder", "k.o"]) and not files(tmp_path / "folder")


def test_nothing_half_written(kernel: heed.Kernel, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k.so").write_bytes(b"old")
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        kernel.save(tmp_path / "k.so")
    except heed.HeedError:  # there is no linker
        assert (tmp_path / "k.so").read_bytes() == b"old"
    assert files(tmp_path) == ["k.so"]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"scale": "x"}, "argument 'scale': expected a number, found 'x'"), ({"scale": float("nan")}, "'scale': expected a number, found nan"),
    ({"scale": 10**400}, "argument 'scale': expected a number, found 1000"), ({"scale": 1e300}, "argument 'scale': expected a finite f32"),
    ({"scale": np.ones(2)}, "argument 'scale': expected a number, found array"), ({"threads": 2.5}, "argument 'threads': expected .* found 2.5"),
    ({"threads": 2**40}, "argument 'threads': expected"), ({"threads": -1}, "argument 'threads': expected"),
    ({"query": [1.0]}, "argument 'query': expected an array, found list"), ({"value": None}, "argument 'value': expected an array, found NoneType")])
def test_wrong_operands(kernel: heed.Kernel, arguments: dict[str, Any], words: str) -> None:
    q, k, v = inputs()
    with pytest.raises(heed.HeedError, match=words):
        kernel(**{"query": q, "key": k, "value": v, **arguments})


def test_no_program() -> None:
    with pytest.raises(heed.HeedError, match="expected a .heed file or the text of a program, found an empty string"):
        heed.compile("")


def test_copies(kernel: heed.Kernel) -> None:
    assert copy.deepcopy([kernel])[0] is kernel and copy.copy(kernel) is kernel
    with pytest.raises(TypeError, match=r"kernel '.*' cannot be pickled: write it with save\(\)"):
        pickle.dumps(kernel)
    variant = pickle.loads(pickle.dumps(heed.Variant(CAUSAL)))
    np.testing.assert_array_equal(variant(*inputs()), copy.deepcopy(variant)(*inputs()))
    trace = heed.trace(lambda s, b, h, i, j: s * 2)
    assert copy.deepcopy(trace) is trace
    with pytest.raises(TypeError, match="cannot be pickled, as it knows the functions that it came from"):
        pickle.dumps(trace)


def test_save_writes_through_links_and_into_pipes(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    (tmp_path / "to.o").write_bytes(b"old")
    (tmp_path / "link.o").symlink_to("to.o")
    kernel.save(tmp_path / "link.o")
    assert (tmp_path / "link.o").is_symlink() and (tmp_path / "to.o").read_bytes()[:4] == b"\x7fELF"
    os.mkfifo(tmp_path / "pipe.o")
    reader = subprocess.Popen(["head", "-c", "4", tmp_path / "pipe.o"], stdout=subprocess.PIPE)
    with contextlib.suppress(BrokenPipeError):
        kernel.save(tmp_path / "pipe.o")
    assert reader.communicate(timeout=60)[0] == b"\x7fELF" and (tmp_path / "pipe.o").is_fifo()
    assert files(tmp_path) == ["link.o", "pipe.o", "to.o"]


@pytest.mark.parametrize("header", ("directory", "/dev/full", "nowhere/k.h", "k.o"))
def test_save_writes_both_or_none(kernel: heed.Kernel, tmp_path: pathlib.Path, header: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "k.o").write_bytes(b"old")
    with pytest.raises(heed.HeedError if header == "k.o" else OSError, match="expected two files, found" if header == "k.o" else None):
        kernel.save(tmp_path / "k.o", header=tmp_path / header)
    assert (tmp_path / "k.o").read_bytes() == b"old" and files(tmp_path) == ["directory", "k.o"]


def test_numbers_in_other_locales(tmp_path: pathlib.Path) -> None:
    """A program around Heed may have decimal commas; kernels, headers and messages keep points."""
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, check=False)
    if not (tmp_path / "de_DE.UTF-8").exists():
        pytest.skip(f"no locale with decimal commas can be made: {made.stderr.decode()}")
    program = """
import locale, numpy as np, heed
source = "variant v(c: f32 = 2.75) { score_mod(s, b, h, q, kv) { return s * 0 + 1.5 + c } }"
x = np.ones((1, 1, 1, 4), np.float32)
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
assert locale.str(1.5) == "1,5"
print(heed.compile(source, head_dim=4)(x, x, x, return_lse=True)[1].item(), heed.Variant(source).params[0]["default"],
      heed.compile(source, head_dim=4, defines={"c": 0.25})(x, x, x, return_lse=True)[1].item(),
      heed.flex_attention(x, x, x, lambda s, b, h, i, j: s * 0 + 3.25, return_aux=heed.AuxRequest(lse=True))[1].lse.item(),
      "params.c = 2.75;" in heed.Variant(source).emit("header", head_dim=4))
"""
    result = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "LOCPATH": str(tmp_path),
                                                                              "HEED_CACHE_DIR": str(tmp_path / "cache")},
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *numbers, has_point = result.stdout.split()
    assert [round(float(x), 4) for x in numbers] == [4.25, 2.75, 1.75, 3.25] and has_point == "True"


def test_a_loaded_kernel_is_not_saved(kernel: heed.Kernel, tmp_path: pathlib.Path) -> None:
    kernel.save(tmp_path / "k.so")
    with pytest.raises(heed.HeedError, match="was loaded from a file: copy that file"):
        heed.load(tmp_path / "k.so").save(tmp_path / "l.so")
    assert files(tmp_path) == ["k.so"]


# -- Variants and calls ------------------------------------------------------------------------------

def test_variant(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "two.heed"
    path.write_text(CAUSAL + BIASED)
    q, k, v = inputs()
    causal = heed.load(path, "causal")
    assert isinstance(causal, heed.Variant)
    np.testing.assert_array_equal(causal(q, k, v), heed.compile(CAUSAL, head_dim=16)(q, k, v))
    for dtype, dims in (("bf16", (16, 16)), ("f32", (16, 8))):
        check = inputs(dtype, dims)
        assert causal(*check).dtype == check[0].dtype
    assert [p["name"] for p in heed.load(path, "biased").params] == ["a_kernel", "bias_kernel"]
    with pytest.raises(heed.HeedError, match="has several variants; choose one of causal, biased"):
        heed.load(path)
    with pytest.raises(heed.HeedError, match="no variant 'third'"):
        heed.load(path, "third")
    for wrong in (q.astype(np.float64), [1], None):
        with pytest.raises(heed.HeedError, match="argument 'query': expected an array of f32, bf16 or f16"):
            causal(wrong, k, v)
    with pytest.raises(heed.HeedError, match="argument 'query': expected 4 dimensions"):
        causal(q[0], k, v)
    path.write_text("variant broken {")
    with pytest.raises(heed.HeedError, match=r"two.heed:1:17: error"):
        heed.load(path)


BIAS = np.ones(70, np.float32)


@pytest.mark.parametrize("arguments, words", [
    ({}, "parameter 'a_kernel' is missing"), ({"a_kernel": 1, "bias_kernel": BIAS, "c": 1}, "has no parameter 'c'"),
    ({"a_kernel": "x", "bias_kernel": BIAS}, "argument 'a_kernel': expected a number for f32"),
    ({"a_kernel": 1, "bias_kernel": BIAS.astype(float)}, "argument 'bias_kernel': expected an array of f32, found float64"),
    ({"a_kernel": 1, "bias_kernel": [1.0]}, "argument 'bias_kernel': expected an array of f32, found list"),
    ({"a_kernel": 1, "bias_kernel": BIAS[None]}, "expected rank 1, found 2"),
    ({"a_kernel": 1, "bias_kernel": BIAS.astype(">f4")}, "argument 'bias_kernel': expected an array of f32, found >f4"),
    ({"a_kernel": 1, "bias_kernel": BIAS, "threads": -1}, "argument 'threads': expected"),
    ({"a_kernel": 1, "bias_kernel": BIAS, "out": np.zeros(3, np.float32)}, "argument 'output'"),
    ({"a_kernel": 1, "bias_kernel": BIAS, "out": np.broadcast_to(np.float32(0), (2, 4, 50, 16))}, "read-only")])
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(heed.HeedError, match=words):
        heed.Variant(BIASED)(*inputs(), **arguments)


TWO = """
variant x(w: index) { mask_mod(b, h, q, kv) { return q - kv < w } }
variant y(w: f32) { score_mod(s, b, h, q, kv) { return s * w } }
"""


def test_defines_are_of_the_variant_that_is_chosen() -> None:
    assert heed.compile(TWO, variant="y", defines={"w": 0.5}, head_dim=16).param_names == []
    with pytest.raises(heed.HeedError, match="variant 'y' has no scalar parameter 'v' to define"):
        heed.compile(TWO, variant="y", defines={"v": 1}, head_dim=16)
    with pytest.raises(heed.HeedError, match="'0.5', given for 'w', is not a number of type"):
        heed.compile(TWO, variant="x", defines={"w": 0.5}, head_dim=16)


def test_kernels_that_are_dropped_are_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    unloaded: list[int] = []
    monkeypatch.setattr(_compiler, "_unload", lambda handle, kernel: unloaded.append(kernel))
    kernel = heed.compile(CAUSAL, head_dim=16)
    address = kernel._address
    assert not unloaded
    del kernel
    gc.collect()
    assert unloaded == [address]


def test_kernels_at_exit() -> None:
    """Whoever holds a kernel until the end of the process sees no error of modules that are empty by then."""
    program = f"""
import ctypes, sys, heed
kernel = heed.compile({CAUSAL!r}, head_dim=16)
for name in ("__main__", "heed._compiler"):  # kept by somebody, so that Python empties them, the last one first
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules[name]))
"""
    result = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
                            capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
