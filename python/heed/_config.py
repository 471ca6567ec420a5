# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The version, and what a bug report should say."""

from __future__ import annotations

import platform
import sys

__version__ = "0.1.0"


def show_config() -> None:
    """Prints versions, libraries, the CPU level, GPUs, threads and the cache: what a bug report should contain."""
    import numpy

    from heed import _compiler, _runtime, cache, gpu, hot

    library = _compiler.library()
    info = cache.default_cache().info()
    torch = sys.modules.get("torch")
    rows = {
        "heed": __version__, "compiler": f"{library.heed_version().decode()}, build {_compiler.build_id()[:16]}",
        "LLVM": library.heed_llvm_version().decode(), "libraries": f"{library._name}, {_runtime.lib._name}",
        "python": platform.python_version(), "numpy": numpy.__version__,
        "torch": torch.__version__ if torch else "not imported", "platform": platform.platform(),
        "target": _compiler.native_target(), "GPUs": gpu.summary(), "threads": str(_runtime.get_num_threads()),
        "hot calls": "by " + hot.where if hot.is_there else "in Python: " + hot.where,
        "cache": f"{info.directory or 'none'} ({info.entries} entries{'' if info.writable else ', not writable'})"}
    for name, value in rows.items():
        print(f"{name:10} {value}")
