# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Heed within other libraries. Nothing here is imported by `import heed`:

    heed.integrations.transformers    attn_implementation="heed" for the models of Hugging Face transformers
    heed.integrations.torch           heed.flex_attention under torch.compile (comes into play by itself)
"""
