# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Calls kernels that heedc compiled ahead of time. Needs libheed_runtime only, no compiler.

    kernel = heed.aot.load("alibi.so")                  # heedc --emit=shared
    output, lse = kernel(query, key, value, slope=slopes, return_lse=True)
"""

from heed._runtime import HeedError, get_num_threads, set_num_threads
from heed.arrays import from_bf16, to_bf16
from heed.kernel import Kernel
from heed.kernel import load_shared as load

__all__ = ["HeedError", "Kernel", "from_bf16", "get_num_threads", "load", "set_num_threads", "to_bf16"]
