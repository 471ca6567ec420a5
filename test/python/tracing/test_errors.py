# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What cannot be traced says so, at the user's line, with what to write instead."""

from __future__ import annotations

import datetime
import math
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from heed import tracing  # noqa: E402

table = torch.zeros(4, 4)
number = torch.tensor(2.0)
large = torch.full((3, 8), 2.0)
array = np.zeros(4)
long = torch.zeros(5000)
words = {"a": 1}
counter = {"calls": 0}
positions = [1, 2, 3]
iterator = iter(positions)
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


def assign_number_in_place(s, b, h, q, kv):
    scale = number
    scale *= 2  # HERE
    return s * scale


def element_in_place(s, b, h, q, kv):
    scale = table[0][1]
    scale *= 2  # HERE
    return s * scale


def computed_in_place(s, b, h, q, kv):
    row = table[h] * 2
    row += 1  # HERE
    return s * row[q]


def view_in_place(s, b, h, q, kv):
    row = s.reshape(1)
    row += kv  # HERE
    return s


def viewed_in_place(s, b, h, q, kv):
    pair = torch.stack([s, s * kv])
    first = pair[0]
    pair *= 2  # HERE
    return first


def slice_in_place(s, b, h, q, kv):
    pair = torch.stack([s, s * kv])
    pair[1:].mul_(2)  # HERE
    return pair.sum()


def element_of_row_in_place(s, b, h, q, kv):
    for x in torch.stack([s, s * kv]):
        x += 1  # HERE
    return s


def other_type_in_place(s, b, h, q, kv):
    q /= 2  # HERE
    return s + q


def other_shape_in_place(s, b, h, q, kv):
    s += torch.stack([q, kv])  # HERE
    return s.sum()


def own_number_in_place(s, b, h, q, kv):
    total = torch.zeros(())
    total.add_(s)  # HERE
    return total


def method_in_place(s, b, h, q, kv):
    return s + table.add_(1)[h, q]  # HERE


def method_of_number_in_place(s, b, h, q, kv):
    return s + number.add_(1)  # HERE


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
    return s + table[1:].sum()  # HERE


def computed_vector(s, b, h, q, kv):
    return s + (array[:2] + torch.stack([q, kv]))[h]  # HERE


def computed_table(s, b, h, q, kv):
    return s + (table * q).sum()  # HERE


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


def change_item(s, b, h, q, kv):
    positions[0] += 1  # HERE
    return s


def change_entry(s, b, h, q, kv):
    words["a"] = 2  # HERE
    return s


def delete_items(s, b, h, q, kv):
    del positions[:]  # HERE
    return s


def next_of(s, b, h, q, kv):
    return s + next(iterator)  # HERE


def zero_in_place(s, b, h, q, kv):
    table.zero_()  # HERE
    return s


def copy_in_place(s, b, h, q, kv):
    return s.copy_(table[h, q])  # HERE


def resize_in_place(s, b, h, q, kv):
    return s.resize_(1)  # HERE


def dict_of_numbers(s, b, h, q, kv):
    return s * {0: 1.0, 1: 2.0}[b]  # HERE


def of_all_scores(s, b, h, q, kv):
    return s.softmax(0)  # HERE


def swallowed(s, b, h, q, kv):
    try:
        return s if q > kv else s * 2  # HERE
    except ValueError:
        return s * 0


def swallowed_for_another(s, b, h, q, kv):
    try:
        return s + int(q)  # HERE
    except ValueError:
        raise RuntimeError("not of integers") from None


def assign_global(s, b, h, q, kv):
    global calls
    calls += 1  # HERE
    return s


def index_of(s, b, h, q, kv):
    return s + positions.index(q)  # HERE


def narrow_row(s, b, h, q, kv):
    return s + table.int()[h].to(torch.int8).sum()  # HERE


def searched_whole(s, b, h, q, kv):
    return s + torch.searchsorted(table, q)  # HERE


def looked_up_whole(s, b, h, q, kv):
    return s + torch.bucketize(table, table[0])[h, q]  # HERE


def matrix_product(s, b, h, q, kv):
    return s + (table @ table[h])[q]  # HERE


def sorted_otherwise(s, b, h, q, kv):
    return s + torch.searchsorted(table[0], q, sorter=table[1])  # HERE


def changed_whole(s, b, h, q, kv):
    return s + table.cumsum_(0)[h, q]  # HERE


def random_whole(s, b, h, q, kv):
    return s + table.bernoulli()[h, q]  # HERE


def dropped_whole(s, b, h, q, kv):
    return s + torch.native_dropout(table, 0.5, True)[0][h, q]  # HERE


def sorted_whole(s, b, h, q, kv):
    array.sort()  # HERE
    return s + array[q]


def filled_whole(s, b, h, q, kv):
    np.put(array, 0, 3.0)  # HERE
    return s + array[q]


def written_whole(s, b, h, q, kv):
    return s + torch.cumsum(table, 0, out=table)[h, q]  # HERE


def changed_by_function(s, b, h, q, kv):
    return s + F.embedding(torch.arange(3), large, max_norm=1.0)[h, q]  # HERE


def dropped_attention(s, b, h, q, kv):
    return s + F.scaled_dot_product_attention(table[None], table[None], table[None], dropout_p=0.5)[0, h, q]  # HERE


def normalized(s, b, h, q, kv):
    return s + F.batch_norm(table, torch.zeros(table.shape[1]), torch.ones(table.shape[1]), None, None, True)[h, q]  # HERE


def transformed(s, b, h, q, kv):
    return s + torch.vmap(torch.cumsum, in_dims=(0, None))(table, 0)[h, q]  # HERE


def stacked_elsewhere(s, b, h, q, kv):
    pair = s.new_zeros(1)
    torch.stack([s], out=pair)  # HERE
    return pair[0]


def function_of_part(s, b, h, q, kv):
    return s + torch.cumsum(table[h], 0)[q]  # HERE


def row_in_row(s, b, h, q, kv):
    return torch.where(torch.isin(table[h], table[0]).any(), s, 0)  # HERE


def changed_embedding(s, b, h, q, kv):
    return s + F.embedding(h, table, max_norm=1.0)[q]  # HERE


def norm_of_all(s, b, h, q, kv):
    return s + torch.norm(table[1:])  # HERE


def nuclear_norm(s, b, h, q, kv):
    return s + torch.norm(table[h], p="nuc")  # HERE


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
    (assign_number_in_place, r"write `x = x \+ y`"),
    (element_in_place, "shares memory with another one .*or an element of a captured tensor.*; write `x = x .*or change its clone"),
    (computed_in_place, r"nor what it computes of one before it is indexed; write `x = x \+ y`"),
    (view_in_place, "shares memory with another one"),
    (viewed_in_place, "shares memory with another one"),
    (slice_in_place, "shares memory with another one"),
    (element_of_row_in_place, "shares memory with another one"),
    (other_type_in_place, r"a value of torch.int32 is changed in place to one of torch.float32; .*or cast it before"),
    (other_shape_in_place, r"a value of shape \(\) is changed in place to one of shape \(2,\)"),
    (own_number_in_place, r"torch.add_ changes a tensor that the mod made of numbers .* begin with score.new_zeros\(\(\)\)"),
    (method_in_place, r"use \.add\(\)"),
    (method_of_number_in_place, r"use \.add\(\)"),
    (torch_random, r"random numbers \(rand\)"),
    (dropout, r"random numbers \(dropout\)"),
    (numpy_random, r"random numbers \(rand\)"),
    (python_random, r"random numbers \(random\)"),
    (unsupported, r"torch.*i0 is not supported"),
    (unsupported_method, r"\.cumsum is not supported"),
    (of_all_scores, r"\.softmax is not supported in a mod, which sees one element at a time: .* compute it outside"),
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
    (change_item, "cannot change what it captures: an item of 'positions' is assigned"),
    (change_entry, "an item of 'words' is assigned"),
    (delete_items, "an item of 'positions' is .*deleted"),
    (next_of, "'iterator' of type list_iterator .*get what it needs outside"),
    (zero_in_place, "zero_.. changes a tensor; a mod cannot: use a new value"),
    (copy_in_place, "copy_.. changes a tensor; a mod cannot: use a new value"),
    (resize_in_place, "resize_.. changes a tensor; a mod cannot: use a new value"),
    (dict_of_numbers, "<traced i32: b>. is no key of a dict; capture a tensor"),
    (swallowed, "use torch.where"),
    (swallowed_for_another, r"use \.int\(\)"),
    (assign_global, "the global 'calls' is assigned"),
    (narrow_row, "cannot be cast to int8"),
    (index_of, "list.index of what a mod captures"),
    (searched_whole, r"look one value up in a row of a captured tensor, as in torch.searchsorted\(offsets\[b\], q_idx\)"),
    (looked_up_whole, "look one value up in a row of a captured tensor"),
    (matrix_product, r"a product of tensors with 2 and 1 axes left: index a matrix down to a row, as in matrix\[h\] @ vector"),
    (sorted_otherwise, "searchsorted is not supported in a mod with these arguments: .*sorter="),
    (changed_whole, "cumsum_.. changes a tensor; a mod cannot: use a new value"),
    (random_whole, r"random numbers \(bernoulli\)"),
    (dropped_whole, r"random numbers \(native_dropout\)"),
    (sorted_whole, r"\.sort is not supported in a mod"),
    (filled_whole, "put is not supported in a mod"),
    (written_whole, r"cumsum with out=\.\.\. changes a tensor; a mod cannot: use what it returns"),
    (stacked_elsewhere, r"stack with out=\.\.\. changes a tensor"),
    (changed_by_function, "embedding changes a captured tensor, and has done so now"),
    (dropped_attention, "scaled_dot_product_attention with dropout_p gives other numbers at each call"),
    (normalized, "batch_norm with training gives other numbers at each call"),
    (transformed, "torch.func's vmap is not supported in a mod"),
    (function_of_part, "cumsum is not supported in a mod; if it does not depend on positions, compute it outside"),
    (row_in_row, "isin in a mod looks one value up"),
    (changed_embedding, "embedding is not supported in a mod with these arguments: .*1.0"),
    (norm_of_all, r"norm of a tensor with 2 axes left: index it down to a row"),
    (nuclear_norm, "norm is not supported in a mod with these arguments: .*p='nuc'"),
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


numpy_generator, numpy_state = np.random.default_rng(0), np.random.RandomState(0)
generator, clock, environ = random.Random(1), time.perf_counter, os.environ


@pytest.mark.parametrize("number, message", [
    (lambda: numpy_generator.random(), r"random numbers \(random\)"),
    (lambda: np.random.default_rng(0).random(), r"random numbers \(default_rng\)"),
    (lambda: numpy_state.rand(), r"random numbers \(rand\)"),
    (lambda: generator.random(), r"random numbers \(random\)"),
    (lambda: random.Random(1).random(), r"random numbers \(Random\)"),
    (lambda: torch.empty(()).uniform_(), r"random numbers \(uniform_\)"),
    (lambda: torch.distributions.Normal(0.0, 1.0).sample(), r"random numbers \(normal\)"),
    (lambda: secrets.randbelow(3), r"random numbers \(randbelow\)"),
    (lambda: os.getenv("HOME") is None, r"the state of the process \(getenv\) is not supported .* capture what it says instead"),
    (lambda: os.environ.get("HOME", "1") == "1", r"the state of the process \(environ.get\)"),
    (lambda: "HOME" in os.environ, r"the state of the process \(environ\)"),
    (lambda: len(environ["HOME"]), r"the state of the process \(environ\)"),
    (lambda: 2 if torch.is_grad_enabled() else 1, r"the state of the process \(is_grad_enabled\)"),
    (lambda: torch.get_num_threads(), r"the state of the process \(get_num_threads\)"),
    (lambda: int(open("/dev/null").read() or 1), r"the state of the process \(open\)"),
    (lambda: os.urandom(1)[0], r"random numbers \(urandom\)"),
    (lambda: uuid.uuid4().int % 7, r"random numbers \(urandom\)"),
    (lambda: time.time(), r"the time \(time\)"),
    (lambda: clock(), r"the time \(clock\)"),
    (lambda: datetime.datetime.now().second, r"the time \(now\)"),
])
def test_what_differs_at_each_call(number: Callable[[], Any], message: str) -> None:
    with pytest.raises(tracing.TraceError, match=message) as info:
        tracing.trace(lambda s, b, h, q, kv: s + number() * q)
    assert info.value.lineno == number.__code__.co_firstlineno


def test_sources_that_are_not_used() -> None:
    def mod(s, b, h, q, kv):
        return s if generator is not None and hasattr(generator, "random") else s * generator.random()

    assert "return s }" in tracing.trace(mod).source


def test_questions_that_fail_in_torch_too() -> None:
    """They are answered as there, and nothing is noted as a failure."""
    def asking(s, b, h, q, kv):
        try:
            factor = words["b"]
        except KeyError:
            factor = 5
        try:
            factor += s.frobnicate
        except AttributeError:
            factor += 2
        if hasattr(s, "frobnicate") or not hasattr(s, "item") or not hasattr(s, "softmax") or getattr(s, "frobnicate", 1) != 1:
            factor = 0
        return s * factor

    assert "return s * 7" in tracing.trace(asking).source


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
    for mod in (lambda s, b, h, q, kv: s + 1e300, lambda s, b, h, q, kv: s * -3.5e38,
                lambda s, b, h, q, kv: torch.where(q >= kv, s, torch.finfo(torch.float64).min)):
        with pytest.raises(tracing.TraceError, match=r"the number .* does not fit f32; infinity is float\('inf'\)") as info:
            tracing.trace(mod)
        assert info.value.filename == __file__
    least = tracing.trace(lambda s, b, h, q, kv: torch.where(q >= kv, s, torch.finfo(torch.float32).min))
    assert "-3.4028234663852886e38" in least.source
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
