# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The wheel of `make wheel`: small, self-contained, and working on every Python that is here."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
PROGRAM = """
import numpy as np, heed, sys
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 2, 200, 32), np.float32) for _ in range(3))
slopes = np.array([0.5, 0.25])
out, lse = heed.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + slopes[h] * (j - i),
                               mask_mod=lambda b, h, i, j: i >= j, return_aux=heed.AuxRequest(lse=True))
i, j = np.ix_(range(200), range(200))
s = q.astype(float) @ k.swapaxes(2, 3).astype(float) / np.sqrt(32) + slopes[None, :, None, None] * (j - i)
p = np.exp(np.where(i >= j, s, -np.inf))
assert np.abs(out - p @ v / p.sum(-1, keepdims=True)).max() < 1e-5
assert np.abs(lse.lse - np.log(p.sum(-1))).max() < 1e-5
assert "torch" not in sys.modules
heed.show_config()
"""


def _wheel() -> pathlib.Path:
    found = sorted((ROOT / "dist").glob("heed-*.whl"))
    if not found:
        pytest.skip("no wheel in dist/: `make wheel` builds it")
    return found[-1]


def _pythons() -> list[str]:
    """One interpreter for each version from 3.10 on: this one, those in PATH, and pyenv's."""
    candidates = [sys.executable, *(p for minor in range(10, 15) if (p := shutil.which(f"python3.{minor}"))),
                  *map(str, pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")).glob("versions/3.*/bin/python"))]
    versions: dict[str, str] = {}
    for path in candidates:
        text = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
        version = text.stdout.strip()
        if text.returncode == 0 and int(version.split(".")[1]) >= 10:
            versions.setdefault(version, path)
    return list(versions.values())


def test_size_and_libraries(tmp_path: pathlib.Path) -> None:
    wheel = _wheel()
    assert wheel.stat().st_size <= 30e6
    assert "-cp310-abi3-" in wheel.name  # Python's stable ABI
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for library in ("libheed.so", "libheed_runtime.so", "_hot.abi3.so"):
        needed = subprocess.run(["readelf", "-d", tmp_path / "heed" / "lib" / library], capture_output=True, text=True, check=True).stdout
        names = {line.split("[")[1].rstrip("]\n") for line in needed.splitlines() if "NEEDED" in line}
        assert names <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"}, library
    exported = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "heed" / "lib" / "libheed.so"], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[-1].startswith("heed_") for line in exported.splitlines())


@pytest.mark.parametrize("python", _pythons(), ids=lambda path: pathlib.Path(path).parent.parent.name)
def test_works(python: str, tmp_path: pathlib.Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEED_", "PYTHON"))}
    environment["HEED_CACHE_DIR"] = str(tmp_path / "cache")
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True, env=environment)
    inside = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _wheel()], check=True, env=environment)
    (tmp_path / "program.py").write_text(PROGRAM)
    for _ in range(2):  # compiled, then from the disk cache
        result = subprocess.run([inside, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert "(1 entries" in result.stdout
    assert "hot calls  by /" in result.stdout
    command = subprocess.run([inside, "-m", "heed", "cache", "info"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert command.returncode == 0 and "entries    1" in command.stdout
