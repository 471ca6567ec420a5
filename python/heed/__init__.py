# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Heed: a compiler for attention variants.

    import heed

    output = heed.flex_attention(query, key, value, score_mod=..., block_mask=...)    # FlexAttention's call
    print(heed.trace(score_mod).source)                                               # what was traced
    heed.compile("alibi.heed", dtype="bf16", head_dim=128).save("alibi.so")           # ahead of time
"""

from heed import aot
from heed._config import __version__, show_config
from heed._runtime import HeedError, get_num_threads, set_num_threads
from heed.attention import AuxOutput, AuxRequest, FlexKernelOptions, flex_attention
from heed.block_mask import DEFAULT_BLOCK_SIZE as _DEFAULT_SPARSE_BLOCK_SIZE  # noqa: F401  torch's names, which code imports
from heed.block_mask import BlockMask, create_block_mask, create_mask
from heed.dense_masks import convert_mask_to_block_mask as _convert_mask_to_block_mask  # noqa: F401
from heed.dense_masks import create_sparse_block_from_block_mask as _create_sparse_block_from_block_mask  # noqa: F401
from heed.kernel import Kernel
from heed.mask_mods import MaskMod as _mask_mod_signature  # noqa: F401
from heed.mask_mods import ScoreMod as _score_mod_signature  # noqa: F401
from heed.mask_mods import and_masks, noop_mask, or_masks
from heed.mask_mods import identity as _identity  # noqa: F401
from heed.tracing import Trace, TraceError
from heed.tracing import trace_function as trace
from heed.tuning import tune
from heed.variant import Variant, compile, load

__all__ = ["AuxOutput", "AuxRequest", "BlockMask", "FlexKernelOptions", "HeedError", "Kernel", "Trace", "TraceError", "Variant",
           "__version__", "and_masks", "aot", "compile", "create_block_mask", "create_mask", "flex_attention", "get_num_threads",
           "load", "noop_mask", "or_masks", "set_num_threads", "show_config", "trace", "tune"]
