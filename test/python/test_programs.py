# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The C and C++ programs of examples/, built as their comments say. The one for GPUs runs here until it needs one;
test/gpu runs the rest of it."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import BUILD, ROOT, run_heedc

LINK = ("-L", BUILD / "lib", "-lheed_runtime", f"-Wl,-rpath,{BUILD / 'lib'}", "-lm", "-pthread")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")


def _kernel(directory: pathlib.Path, example: str, name: str, dtype: str, head_dim: int, *options: str) -> pathlib.Path:
    output = directory / f"{name}.o"
    result = run_heedc(ROOT / "examples" / f"{example}.heed", f"--dtype={dtype}", f"--head-dim={head_dim}",
                       *(options or (f"--symbol={name}",)), "-o", output, f"--header={directory / name}.h")
    assert result.returncode == 0, result.stderr
    return output


def _run(*command: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("compiler", ("cc", "gcc", "clang-22"))
@pytest.mark.parametrize("standard", ("c99", "c17"))
def test_c(tmp_path: pathlib.Path, compiler: str, standard: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    _run(compiler, f"-std={standard}", *WARNINGS, "-O1", "-I", tmp_path, "-I", ROOT / "include", ROOT / "examples/c/main.c",
         _kernel(tmp_path, "alibi", "alibi", "f32", 64), *LINK, "-o", tmp_path / "main")
    output, error = _run(tmp_path / "main").splitlines()
    numbers = [float(x) for x in re.findall(r"-?[\d.]+(?:e-?\d+)?", output)]
    assert numbers[:3] == pytest.approx(numbers[3:], abs=1e-5)
    assert error.startswith("HEED_INVALID_ARGUMENT: ") and "query" in error and "64" in error and "32" in error


NULLS = """#include <stdio.h>
#include "k.h"
int main(void) {
  heed_tensor t = {0};
  k_params p = k_default_params();
  const heed_tensor *q[] = {NULL, &t, &t, &t}, *y[] = {&t, NULL, &t, &t}, *v[] = {&t, &t, NULL, &t};
  heed_tensor *o[] = {&t, &t, &t, NULL};
  for (int i = 0; i < 4; ++i)
    printf("%d %s\\n", k(q[i], y[i], v[i], o[i], NULL, NAN, i % 2 ? &p : NULL, 0) == HEED_OK, heed_last_error());
  return 0;
}
"""


def test_null_operands(tmp_path: pathlib.Path) -> None:
    """A status and a message from the generated function, for each of them."""
    (tmp_path / "main.c").write_text(NULLS)
    kernel = _kernel(tmp_path, "sliding_window", "k", "f32", 16)
    _run("cc", "-std=c99", *WARNINGS, "-I", tmp_path, "-I", ROOT / "include", tmp_path / "main.c", kernel, *LINK, "-o", tmp_path / "main")
    lines = _run(tmp_path / "main").splitlines()
    assert len(lines) == 4 and all(line.startswith("0 argument") for line in lines), lines


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ("c++", "clang++-22"))
def test_server(tmp_path: pathlib.Path, compiler: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    objects = [_kernel(tmp_path, "causal", "llama", "bf16", 128), _kernel(tmp_path, "gemma2_softcap", "gemma2", "bf16", 256)]
    _run(compiler, "-std=c++17", *WARNINGS, "-O2", "-I", tmp_path, "-I", ROOT / "include",
         ROOT / "examples/server/server.cpp", *objects, *LINK, "-o", tmp_path / "server")
    for workers in (1, 3):
        output = _run(tmp_path / "server", 16, workers)
        assert "16 requests" in output and "tokens/s" in output
    needed = _run("ldd", tmp_path / "server")
    assert "libheed_runtime" in needed and "LLVM" not in needed and "python" not in needed


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ("c++", "clang++-22"))
def test_gpu(tmp_path: pathlib.Path, compiler: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    _run(compiler, "-std=c++17", *WARNINGS, "-O1", "-I", tmp_path, "-I", ROOT / "include", ROOT / "examples/gpu/gpu.cpp",
         _kernel(tmp_path, "alibi", "alibi", "bf16", 128, "--target=sm_90a,sm_80,native"), *LINK, "-ldl", "-o", tmp_path / "gpu")
    for length in ("1", "300"):
        result = subprocess.run([tmp_path / "gpu", length], capture_output=True, text=True, timeout=300,
                                env={**os.environ, "HEED_CUDA_DRIVER": "/nowhere/libcuda.so.1"})
        assert result.returncode == 2, result.stdout + result.stderr
        assert re.fullmatch(r"CPU: largest error of 8 rows \d\.\de-\d+: ok\n", result.stdout)
        assert result.stderr.startswith("there is no GPU: ") and "/nowhere/libcuda.so.1" in result.stderr
        assert result.stderr.count("\n") == 1
