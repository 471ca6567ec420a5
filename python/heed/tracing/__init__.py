# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Turns Python's score_mod and mask_mod into variants of the Heed language.

    trace = tracing.trace(mask_mod=lambda b, h, q, kv: (q >= kv) & (doc[b, q] == doc[b, kv]))
    print(trace.source)                                     # what heedc compiles
    trace, values = tracing.lookup(score_mod, mask_mod)     # cached; values in the order of trace.params

A mod runs once, on values that record what is done with them. What it captured becomes parameters
(tensors and numbers, read anew by each lookup) or a condition of the trace (everything else, and numbers
that Python itself needed, as in `range(n)`).
"""

from heed.tracing.errors import TraceError
from heed.tracing.traces import Param, Trace, clear, evaluate, lookup, mod_kind, trace, trace_function

__all__ = ["Param", "Trace", "TraceError", "clear", "evaluate", "lookup", "mod_kind", "trace", "trace_function"]
