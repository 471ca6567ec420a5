# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Heed: a compiler for attention variants."""

from heed import aot

__all__ = ["aot"]
