# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Evaluates a traced graph on arrays of coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from heed.tracing import semantics
from heed.tracing.expressions import Leaf, Node, reachable
from heed.tracing.tensors import as_array


def evaluate(root: Node, values: Mapping[Leaf, Any], coordinates: Mapping[str, Any]) -> np.ndarray:
    """The value of a graph for broadcastable coordinates, floats in float64; each operation stays as small
    as its operands are."""
    nodes = reachable([root])
    uses = Counter(arg.number for node in nodes for arg in node.args)
    uses[root.number] += 1
    known: dict[int, np.ndarray] = {}
    tensors: dict[Leaf, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for node in nodes:
            known[node.number] = _evaluate(node, [known[arg.number] for arg in node.args], values, coordinates, tensors)
            for arg in node.args:
                uses[arg.number] -= 1
                if not uses[arg.number]:  # masks are large: keep what is still needed only
                    del known[arg.number]
    return known[root.number]


def _evaluate(node: Node, args: list[np.ndarray], values: Mapping[Leaf, Any], coordinates: Mapping[str, Any],
              tensors: dict[Leaf, np.ndarray]) -> np.ndarray:
    type = semantics.NUMPY_TYPES[node.type]
    if node.op == "constant":
        return np.asarray(node.data, type)
    if node.op == "coordinate":
        return np.asarray(coordinates[node.data]).astype(type)
    if node.op == "param":
        return np.asarray(values[node.data], type)
    if node.op == "load":
        if node.data not in tensors:
            tensors[node.data] = as_array(values[node.data])
        return semantics.gather(tensors[node.data], args).astype(type)
    if node.op in semantics.REDUCTIONS:
        return np.asarray(semantics.REDUCTIONS[node.op](*args), type)
    # A vector's elements are a last axis that single values do not have.
    if node.lanes is not None:
        args = [value if arg.lanes is not None else value[..., None] for arg, value in zip(node.args, args)]
    if node.op == "cast":
        return semantics.cast(node.type, args[0])
    return np.asarray(semantics.ELEMENTWISE[node.op](*args), type)
