# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Paths, and a cache of compiled kernels that lives as long as the session.

HEED_BUILD names the build directory (default: build/ of this checkout).
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
os.environ.setdefault("HEED_RUNTIME", str(BUILD / "lib" / "libheed_runtime.so"))
os.environ.setdefault("HEED_LIBRARY", str(BUILD / "lib" / "libheed.so"))
os.environ.setdefault("HEED_HOT", str(BUILD / "lib" / "_hot.abi3.so"))
sys.path[:0] = [str(ROOT / "python"), str(pathlib.Path(__file__).parent)]

from heed import aot  # noqa: E402

HEEDC = BUILD / "bin" / "heedc"
X86_TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+bf16", "x86-64-v4+amx")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, metavar="N", help="of each test at most N cases, from the first to the last")


@pytest.hookimpl(trylast=True)  # of the cases that -m and -k leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--cases")
    if not most:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {of_test[i * (len(of_test) - 1) // max(1, min(most, len(of_test)) - 1)]
            for of_test in cases.values() for i in range(min(most, len(of_test)))}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds; leave out with -m 'not slow'")


def pytest_sessionstart(session: pytest.Session) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and tests send it
    if not HEEDC.is_file():
        pytest.exit(f"{HEEDC} is missing; build first, or set HEED_BUILD", returncode=2)


def run_heedc(*arguments: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HEEDC), *map(str, arguments)], capture_output=True, text=True,
                          errors="replace", timeout=120, cwd=cwd)


class Kernels:
    """Compiles each kernel once a session."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self._cache: dict[tuple[object, ...], pathlib.Path] = {}

    def path(self, name: str, dtype: str = "f32", head_dim: int = 64, value_head_dim: int | None = None,
             target: str = "native", source: str | None = None, defines: tuple[str, ...] = ()) -> pathlib.Path:
        """A shared library whose one kernel has the C name `k`. `name` is an example, or with
        `source` the variant of that text."""
        key = (name, dtype, head_dim, value_head_dim or head_dim, target, source, defines)
        if key not in self._cache:
            stem = self._directory / f"k{len(self._cache)}_{name}"
            text = ROOT / "examples" / f"{name}.heed"
            if source is not None:
                text = stem.with_suffix(".heed")
                text.write_text(source)
            library = stem.with_suffix(".so")
            result = run_heedc(text, "--emit=shared", f"--dtype={dtype}", f"--head-dim={head_dim}",
                               f"--value-head-dim={value_head_dim or head_dim}", f"--target={target}",
                               f"--variant={name}", "--symbol=k", "-o", library,
                               *(f"-D{define}" for define in defines))
            assert result.returncode == 0, f"heedc failed for {key}:\n{result.stderr[-4000:]}"
            self._cache[key] = library
        return self._cache[key]

    def __call__(self, name: str, *args: object, **kwargs: object) -> aot.Kernel:
        kernel = aot.load(self.path(name, *args, **kwargs), "k")  # type: ignore[arg-type]
        if kernel.target == "none":
            pytest.skip("this CPU does not run the target")
        return kernel


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """The directory where kernels that are compiled on demand are kept: never the user's."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEED_CACHE_DIR", str(directory))
        yield directory
