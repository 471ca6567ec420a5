# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Options, the watched process's events, and a look at the device after each failure.

`scripts/run_gpu_tests.py` runs these tests. On their own: python -m pytest test/gpu [--device cpu] [--quick], where
--device cpu exercises the tests themselves, with small shapes, on Heed's CPU kernels.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if importlib.util.find_spec("heed") is None:  # not installed: the build of this checkout
    build = pathlib.Path(os.environ.get("HEED_BUILD", ROOT / "build")).resolve()
    os.environ.setdefault("HEED_RUNTIME", str(build / "lib" / "libheed_runtime.so"))
    os.environ.setdefault("HEED_LIBRARY", str(build / "lib" / "libheed.so"))
    os.environ.setdefault("HEED_HOT", str(build / "lib" / "_hot.abi3.so"))
    sys.path.insert(0, str(ROOT / "python"))
sys.path[:0] = [str(ROOT / "scripts")]
sys.path += [str(ROOT / "test" / "python"), str(ROOT / "test" / "python" / "tracing")]

import support  # noqa: E402
import torch  # noqa: E402
import watched  # noqa: E402

EVENTS = pathlib.Path(os.environ["HEED_GPU_EVENTS"]) if "HEED_GPU_EVENTS" in os.environ else None
LOST = 77  # exit status: the CUDA context can't be used any more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="cuda, or cpu to exercise the tests themselves")
    parser.addoption("--quick", action="store_true", help="fewer cases")
    parser.addoption("--only", default="", help="a regular expression that the names of tests contain")


def pytest_configure(config: pytest.Config) -> None:
    support.configure(config.getoption("--device"), config.getoption("--quick"))
    if support.DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("PyTorch sees no CUDA device", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pattern = re.compile(config.getoption("--only"))
    before = watched.started(EVENTS) if EVENTS else set()
    kept, left_out = [], []
    for item in items:
        keep = pattern.search(item.nodeid) and item.nodeid not in before
        keep = keep and not (support.QUICK and item.get_closest_marker("full"))
        (kept if keep else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
    if EVENTS:
        watched.write(EVENTS, "plan", names=[item.nodeid for item in kept])


_reports: list[pytest.TestReport] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _reports.clear()
    support.MEASURED.clear()
    begin = time.time()
    if EVENTS:
        watched.write(EVENTS, "start", name=item.nodeid)
    result = yield
    bad = next((r for r in _reports if r.failed), None)
    skip = next((r for r in _reports if r.skipped), None)
    outcome = "failed" if bad else "skipped" if skip else "passed"
    lost = _context_is_lost() if bad else ""
    if EVENTS:
        worst: dict[str, float] = {}
        for dtype, error in support.MEASURED:
            worst[dtype] = max(error, worst.get(dtype, 0.0))
        watched.write(EVENTS, "end", name=item.nodeid, outcome=outcome, seconds=round(time.time() - begin, 2),
                      message=(_message(bad or skip) + lost)[:2000], errors=worst)
    if lost:
        pytest.exit(lost, returncode=LOST)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _reports.append(report)


def _message(report: pytest.TestReport | None) -> str:
    if report is None:
        return ""
    long: Any = report.longrepr
    if isinstance(long, tuple):
        return str(long[2])
    crash = getattr(long, "reprcrash", None)
    return str(crash.message) if crash else str(long)


def _context_is_lost() -> str:
    """After a failure: why nothing more can run in this process, or ""."""
    if support.DEVICE.type != "cuda":
        return ""
    try:
        torch.cuda.synchronize()
        assert float(torch.ones(8, device="cuda").sum()) == 8
    except Exception as error:
        return f" [the CUDA context is lost: {str(error).splitlines()[0]}]"
    return ""


@pytest.fixture(autouse=True)
def clean_memory() -> Iterator[None]:
    with torch.no_grad():
        yield
    if support.DEVICE.type == "cuda":
        torch.cuda.synchronize()
        if torch.cuda.memory_reserved() > 8 << 30:
            torch.cuda.empty_cache()


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Never the user's; the runner's, if there is one, so that its groups share kernels."""
    with pytest.MonkeyPatch.context() as patch:
        if EVENTS is None or "HEED_CACHE_DIR" not in os.environ:
            patch.setenv("HEED_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
