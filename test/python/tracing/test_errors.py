# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What cannot be traced says so, at the user's line, with what to write instead."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from heed import tracing  # noqa: E402

table = torch.zeros(4, 4)
array = np.zeros(4)
long = torch.zeros(5000)
words = {"a": 1}
counter = {"calls": 0}
positions = [1, 2, 3]
calls = 0


def branch(b, h, q, kv):
    if q >= kv:  # HERE
        return q > 1
    return q > 2


def both(b, h, q, kv):
    return q >= kv and kv > 2  # HERE


def smallest(s, b, h, q, kv):
    return s * min(q, kv)  # HERE


def item(s, b, h, q, kv):
    return s + table[h, q].item()  # HERE


def python_int(s, b, h, q, kv):
    return s + int(q)  # HERE


def math_function(s, b, h, q, kv):
    return math.tanh(s)  # HERE


def python_list(s, b, h, q, kv):
    return s + [1, 2, 3][q]  # HERE


def iterate(s, b, h, q, kv):
    return sum(x for x in s)  # HERE


def assign(s, b, h, q, kv):
    table[h, q] = s  # HERE
    return s


def assign_in_place(s, b, h, q, kv):
    row = table
    row += 1  # HERE
    return s + row[h, q]


def method_in_place(s, b, h, q, kv):
    return s.add_(1)  # HERE


def torch_random(s, b, h, q, kv):
    return s + torch.rand(())  # HERE


def dropout(s, b, h, q, kv):
    return F.dropout(s, 0.1)  # HERE


def numpy_random(s, b, h, q, kv):
    return s + np.random.rand()  # HERE


def python_random(s, b, h, q, kv):
    return s + random.random()  # HERE


def unsupported(s, b, h, q, kv):
    return torch.special.i0(s)  # HERE


def unsupported_method(s, b, h, q, kv):
    return s.cumsum(0)  # HERE


def float_index(s, b, h, q, kv):
    return s + table[h, q / 2]  # HERE


def too_many(s, b, h, q, kv):
    return s + table[b, h, q]  # HERE


def whole_tensor(s, b, h, q, kv):
    return s + table.sum()  # HERE


def computed_vector(s, b, h, q, kv):
    return s + (array[:2] + torch.stack([q, kv]))[h]  # HERE


def computed_table(s, b, h, q, kv):
    return s + (table * 2).sum()  # HERE


def computed_transposed(s, b, h, q, kv):
    return s + (table * 2).T[q, kv]  # HERE


def too_many_of_computed(s, b, h, q, kv):
    return s + (table * 2)[b, h, q]  # HERE


def float_bits(b, h, q, kv):
    return (q / 2) & 1 == 0  # HERE


def integer_condition(s, b, h, q, kv):
    return torch.where(q % 2, s, 0.0)  # HERE


def plain_mistake(s, b, h, q, kv):
    return s + undefined_name  # noqa: F821 HERE


def key_mistake(s, b, h, q, kv):
    return s + words["b"]  # HERE


def change_capture(s, b, h, q, kv):
    words.update(c=2)  # HERE
    return s


def assign_global(s, b, h, q, kv):
    global calls
    calls += 1  # HERE
    return s


def index_of(s, b, h, q, kv):
    return s + positions.index(q)  # HERE


def narrow_row(s, b, h, q, kv):
    return s + table.int()[h].to(torch.int8).sum()  # HERE


def nested(s, b, h, q, kv):
    return helper(s)


def helper(s):
    return s if s > 0 else -s  # HERE


@pytest.mark.parametrize("function, message", [
    (branch, "use torch.where"),
    (both, "`&`"),
    (smallest, "torch.minimum"),
    (item, r"\.item\(\) needs the value"),
    (python_int, r"use \.int\(\)"),
    (math_function, "math.tanh needs a number.*use torch.tanh or np.tanh"),
    (python_list, "capture the table as a tensor"),
    (iterate, "cannot be iterated over"),
    (assign, "cannot change a tensor"),
    (assign_in_place, r"write `x = x \+ y`"),
    (method_in_place, r"use \.add\(\)"),
    (torch_random, r"random numbers \(rand\)"),
    (dropout, r"random numbers \(dropout\)"),
    (numpy_random, r"random numbers \(rand\)"),
    (python_random, r"random numbers \(random\)"),
    (unsupported, r"torch.*i0 is not supported"),
    (unsupported_method, r"\.cumsum is not supported.*compute it outside"),
    (float_index, "indexed by a f32"),
    (too_many, "has 2 axes left, but 3 indices"),
    (whole_tensor, r"sum of a tensor with 2 axes left: index it down to a row, as in table\[:, h\].sum"),
    (computed_vector, "a computed vector is indexed by a traced value"),
    (computed_table, "sum of a tensor with 2 axes left"),
    (computed_transposed, "transpose the tensor itself"),
    (too_many_of_computed, "has 2 axes left, but 3 indices"),
    (float_bits, "'&' of floats"),
    (integer_condition, "must be bool, found i32"),
    (plain_mistake, "NameError: name 'undefined_name' is not defined"),
    (key_mistake, "KeyError: 'b'"),
    (change_capture, "dict.update of what a mod captures"),
    (assign_global, "the global 'calls' is assigned"),
    (narrow_row, "cannot be cast to int8"),
    (index_of, "list.index of what a mod captures"),
    (nested, "use torch.where"),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_message(function: Any, message: str) -> None:
    with pytest.raises(tracing.TraceError, match=f"(?s){message}") as info:
        tracing.trace(**{tracing.mod_kind(function): function})
    error = info.value
    assert isinstance(error, ValueError)
    with open(__file__) as file:
        lines = file.read().splitlines()
    place = helper if function is nested else function
    first = place.__code__.co_firstlineno
    expected = next(i for i in range(first, len(lines)) if "HERE" in lines[i - 1])
    assert (error.filename, error.lineno) == (__file__, expected)
    assert f"test_errors.py:{expected}: in {place.__name__}\n" in str(error)
    assert lines[expected - 1].strip() in str(error)


@pytest.mark.parametrize("kind, function, message", [
    ("mask_mod", lambda b, h, q, kv: q - kv, "a mask_mod returns bool, found i32"),
    ("mask_mod", lambda b, h, q, kv: None, "a mask_mod returns a bool, found NoneType"),
    ("score_mod", lambda s, b, h, q, kv: q > kv, "a score_mod returns a number, found bool"),
    ("score_mod", lambda s, b, h, q, kv: "s", "a score_mod returns a number, found str"),
    ("score_mod", lambda s, b, h, q, kv: table[q], "a score_mod returns one value, found a vector of 4"),
    ("score_mod", lambda s, b, h, q, kv: s + table, "a score_mod returns one value, found a tensor of 2 axes"),
    ("score_mod", lambda s, b, h, q, kv: s + long, "a score_mod returns one value, found a vector of 5000"),
    ("mask_mod", lambda b, h, q: q > 1, "TypeError"),
])
def test_results(kind: str, function: Any, message: str) -> None:
    with pytest.raises(tracing.TraceError, match=message) as info:
        tracing.trace(**{kind: function})
    assert info.value.filename == __file__


def test_complex_and_wide_captures() -> None:
    waves = torch.zeros(4, dtype=torch.complex64)
    with pytest.raises(tracing.TraceError, match="'waves' has elements of complex64"):
        tracing.trace(lambda s, b, h, q, kv: s + waves[q])
    big = 2**70
    with pytest.raises(tracing.TraceError, match="'big' = .* does not fit 64 bits"):
        tracing.trace(lambda s, b, h, q, kv: s + big)
    long = torch.zeros(2, 5000)
    with pytest.raises(tracing.TraceError, match="has 5000 elements"):
        tracing.trace(lambda s, b, h, q, kv: s + long[h].sum())


def test_assigned_captures() -> None:
    calls = 0

    def counting(s, b, h, q, kv):
        nonlocal calls
        calls += 1
        return s

    with pytest.raises(tracing.TraceError, match="'calls' is assigned"):
        tracing.trace(counting)


def test_values_do_not_outlive_a_trace() -> None:
    kept: list[Any] = []

    def keep(s, b, h, q, kv):
        kept.append(s)
        return s

    with pytest.raises(tracing.TraceError, match="'kept'|append"):
        tracing.trace(keep)


def test_repr_and_print(capsys: pytest.CaptureFixture[str]) -> None:
    def printing(b, h, q, kv):
        print(q - kv, table)
        return q >= kv

    tracing.trace(None, printing)
    assert "<traced i32: q - kv>" in capsys.readouterr().out


def test_tracing_is_possible_after_an_error() -> None:
    with pytest.raises(tracing.TraceError):
        tracing.lookup(None, branch)
    assert tracing.evaluate(lambda b, h, q, kv: q >= kv, 0, 0, 3, 2)
