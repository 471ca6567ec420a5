# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a mod can capture, and when a trace holds."""

from __future__ import annotations

import dataclasses
import enum
import functools
import gc
import math
import sys
import threading
import types
import weakref
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heed import tracing  # noqa: E402

from tracing_helpers import check, grid  # noqa: E402

GLOBAL_WINDOW = 5
GLOBAL_TABLE = np.arange(8, dtype=np.int32)
SETTINGS = types.SimpleNamespace(window=3)
AT = grid(2, 2, 8, 8)
Q, KV = AT[2], AT[3]


@pytest.fixture(autouse=True)
def fresh() -> Any:
    tracing.clear()
    yield


def body(trace: tracing.Trace) -> str:
    """The text without comments."""
    return "".join(line for line in trace.source.splitlines(True) if not line.startswith("//"))


def mask(function: Any) -> np.ndarray:
    return tracing.evaluate(function, *AT)[0, 0]


def names(function: Any) -> dict[str, str]:
    trace, _ = tracing.lookup(None, function)
    return {p.name: f"{p.dtype}{p.rank if p.rank >= 0 else ''}" for p in trace.params}


# ---- Kinds of captures ----


def test_kinds() -> None:
    cell = 2

    def default(b, h, q, kv, window=4, *, slack=1):
        return q - kv < window + slack

    def partial(window, b, h, q, kv):
        return q - kv < window

    @dataclasses.dataclass
    class Owner:
        bias: Any
        window: int

        def method(self, b, h, q, kv):
            return self.helper(q, kv) & (self.bias[q] >= 0)

        def helper(self, q, kv):
            return q - kv < self.window

        __call__ = method

        @property
        def doubled(self):
            return self.window * 2

    owner = Owner(torch.zeros(8), 3)
    table = {"near": [1, 6], "far": (7,)}
    cases = {
        "cell": (lambda b, h, q, kv: q - kv < cell, {"cell": "i32"}, 2),
        "global": (lambda b, h, q, kv: q - kv < GLOBAL_WINDOW, {"GLOBAL_WINDOW": "i32"}, 5),
        "default": (default, {"window": "i32", "slack": "i32"}, 5),
        "partial": (functools.partial(partial, 4), {"window": "i32"}, 4),
        "partial keyword": (functools.partial(default, window=2), {"window": "i32", "slack": "i32"}, 3),
        "method": (owner.method, {"window": "i32", "bias": "f321"}, 3),
        "callable": (owner, {"window": "i32", "bias": "f321"}, 3),
        "property": (lambda b, h, q, kv: q - kv < owner.doubled, {"doubled": "i32"}, 6),
        "nested": (lambda b, h, q, kv: owner.method(b, h, q, kv), {"window": "i32", "bias": "f321"}, 3),
        "items": (lambda b, h, q, kv: q - kv < table["near"][1], {"table_near_1": "i32"}, 6),
        "namespace": (lambda b, h, q, kv: q - kv < SETTINGS.window, {"window": "i32"}, 3),
        "numpy scalar": ((lambda w: lambda b, h, q, kv: q - kv < w)(np.int64(4)), {"w": "i32"}, 4),
        "0-d": ((lambda w: lambda b, h, q, kv: q - kv < w)(torch.tensor(4)), {"w": "i64"}, 4),
    }
    for name, (function, params, window) in cases.items():
        assert names(function) == params, name
        np.testing.assert_array_equal(mask(function), (Q - KV < window)[0, 0], err_msg=name)
    check(*(tracing.trace(None, function, name=f"v{i}") for i, (function, _, _) in enumerate(cases.values())))


def test_score_and_mask_share_captures() -> None:
    doc = torch.zeros(2, 8, dtype=torch.int32)
    trace, values = tracing.lookup(lambda s, b, h, q, kv: s + doc[b, q], lambda b, h, q, kv: doc[b, q] == doc[b, kv])
    assert [p.name for p in trace.params] == ["doc"] and values == [doc]
    other = torch.ones(2, 8, dtype=torch.int32)

    def make(first, second):
        return lambda s, b, h, q, kv: s + first[b, q], lambda b, h, q, kv: second[b, q] == second[b, kv]

    assert len(tracing.lookup(*make(doc, doc))[1]) == 1
    assert [id(v) for v in tracing.lookup(*make(doc, other))[1]] == [id(doc), id(other)]


def test_recursion_and_decorators() -> None:
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper

    @logged
    def cubes(b, h, q, kv):
        return power(q, 3) >= power(kv, 2)

    np.testing.assert_array_equal(mask(cubes), (Q**3 >= KV**2)[0, 0])
    cached = functools.lru_cache(lambda b, h, q, kv: q > kv)
    np.testing.assert_array_equal(mask(lambda b, h, q, kv: cached(b, h, q, kv)), (Q > KV)[0, 0])


@pytest.mark.slow  # torch.compile imports for seconds
def test_compiled() -> None:
    compiled = torch.compile(lambda b, h, q, kv: q - kv < GLOBAL_WINDOW)
    np.testing.assert_array_equal(mask(compiled), (Q - KV < 5)[0, 0])


def test_torch_combinators() -> None:
    from torch.nn.attention.flex_attention import and_masks, noop_mask, or_masks

    def make(window):
        def sliding(b, h, q, kv):
            return q - kv < window
        return or_masks(and_masks(sliding, lambda b, h, q, kv: q >= kv), lambda b, h, q, kv: kv < 2)

    trace, values = tracing.lookup(None, make(3))
    assert "return q - kv < window && q >= kv || kv < 2" in trace.source
    assert tracing.lookup(None, make(9)) == (trace, [9])
    assert mask(noop_mask).all()


def test_modules() -> None:
    class Bias(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.arange(4.0))
            self.inner = torch.nn.ModuleList([torch.nn.ReLU()])

        def forward(self, score, b, h, q, kv):
            return score + self.table[h]

    module = Bias()
    trace, values = tracing.lookup(module, None)
    assert values[0] is module.table
    assert "s + table[h]" in trace.source


def test_modules_of_which_a_call_does_more() -> None:
    class Twice(torch.nn.Module):
        def forward(self, score, b, h, q, kv):
            return score * 2

    module, inner = Twice(), torch.nn.Tanh()

    def mod(score, b, h, q, kv):
        return inner(score)

    tracing.lookup(module, None)
    tracing.lookup(mod, None)
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        handles = [getattr(x, register)(lambda *args: None) for x in (module, inner)]
        for function in (module, mod):
            with pytest.raises(tracing.TraceError, match="has forward hooks, which are not traced"):
                tracing.lookup(function, None)
        for handle in handles:
            handle.remove()
        tracing.lookup(module, None)
        tracing.lookup(mod, None)
    module.forward = lambda score, b, h, q, kv: score
    with pytest.raises(tracing.TraceError, match="has a __call__ or a forward of its own"):
        tracing.lookup(module, None)

    class Called(Twice):
        def __call__(self, *args):
            return args[0]

    with pytest.raises(tracing.TraceError, match="has a __call__ or a forward of its own"):
        tracing.lookup(Called(), None)


def test_imports() -> None:
    def of_library(s, b, h, q, kv):
        import math
        from torch import tanh

        return tanh(s * math.pi)

    def of_user(s, b, h, q, kv):
        from tracing_helpers import grid as made

        return s * len(made(2, 2))

    assert "tanh" in tracing.lookup(of_library, None)[0].source
    with pytest.raises(tracing.TraceError, match="a mod imports 'tracing_helpers', and would not see what changes there: import it at the top"):
        tracing.lookup(of_user, None)


def test_classes_of_what_is_traced() -> None:
    """Mods that look at types take the way that they take when they run."""
    tensor, array, parameter = torch.zeros(4), np.zeros(4, np.float32), torch.nn.Parameter(torch.zeros(4), False)

    def mod(s, b, h, q, kv):
        kinds = ((s, torch.Tensor), (q, torch.Tensor), (q >= kv, torch.Tensor), (tensor, torch.Tensor), (tensor[kv], torch.Tensor),
                 (array, np.ndarray), (parameter, torch.nn.Parameter))
        return s * (2 if all(isinstance(x, kind) for x, kind in kinds) and not isinstance(array, torch.Tensor) else 3)

    assert "s * 2" in tracing.lookup(mod, None)[0].source


def _negated(values: Any) -> Any:
    """A tensor with the negative bit."""
    return torch.conj(torch.complex(torch.zeros(8), -torch.as_tensor(values, dtype=torch.float32))).imag


@pytest.mark.parametrize("kind", ["swapped f4", "swapped i2", "field", "field f2", "fields of one size", "negated"])
def test_elements_that_kernels_cannot_read_in_place(kind: str) -> None:
    """They are copied at each call, and those that need no copy are not."""
    def make(values: Any) -> Any:
        if kind == "negated":
            return _negated(values)
        if kind.startswith("swapped"):
            return np.asarray(values).astype(f">{kind[-2:]}")
        dtype = {"field": "f4", "field f2": "f2", "fields of one size": "f4"}[kind]
        records = np.zeros(8, [("x", dtype), ("y", "f4" if kind == "fields of one size" else "i1")])
        records["x"] = values
        return records["x"]

    def mod_of(table):
        return lambda s, b, h, q, kv: s + table[kv] + table[-1]

    def of(table: Any, trace: Any, values: list[Any]) -> None:
        expected = np.broadcast_to(np.asarray(table.resolve_neg() if kind == "negated" else table).astype(float), (2, 2, 8, 8))
        np.testing.assert_array_equal(trace.evaluate_score(values, 0.0, *AT), expected + expected[..., -1:])
        assert tracing.tensors.is_plain(values[0])

    plain = np.arange(8).astype(make(range(8)).dtype.newbyteorder("=")) if kind != "negated" else torch.arange(8.0)
    table = make(range(8))
    assert tracing.tensors.is_plain(table) == (kind == "fields of one size")
    of(plain, *tracing.lookup(mod_of(plain), None))
    of(table, *tracing.lookup(mod_of(table), None))
    of(plain, *tracing.lookup(mod_of(plain), None))
    table[2] = 5  # never stale
    of(table, *tracing.lookup(mod_of(table), None))


def test_tensors_that_become_others_in_a_mod() -> None:
    array, tensor, numbers = np.arange(8, dtype=np.float32), torch.arange(64.0).reshape(8, 8), [0.5, 0.25]

    def mod(s, b, h, q, kv):
        return (torch.from_numpy(array)[kv] + tensor.numpy()[q, kv] + torch.Tensor(array)[q] + torch.FloatTensor(numbers)[h]
                + torch.LongTensor([3, 4])[h] + torch.Tensor([[1.5, 2.5], [3.5, 4.5]])[b, h] + isinstance(s, torch.Tensor))

    trace, values = tracing.lookup(mod, None)
    b, h, q, kv = AT
    expected = kv + q * 8 + kv + q + np.asarray(numbers)[h] + 3 + h + 1.5 + 2 * b + h + 1
    np.testing.assert_array_equal(trace.evaluate_score(values, 0.0, *AT), expected)
    check(trace)
    with pytest.raises(tracing.TraceError, match=r"torch.Tensor\(3\) has no elements that are known"):
        tracing.trace(lambda s, b, h, q, kv: s + torch.Tensor(3)[h])


@pytest.mark.filterwarnings("ignore")  # sparse and nested tensors are young
@pytest.mark.parametrize("make, message", [
    (lambda: torch.zeros(8, 8).to_sparse(), "'table' is of layout torch.sparse_coo: capture its .to_dense()"),
    (lambda: torch.zeros(8, 8).to_sparse_csr(), "'table' is of layout torch.sparse_csr: capture its .to_dense()"),
    (lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)]), "'table' is nested: capture its .values() and"),
    (lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)], layout=torch.jagged), "'table' is nested: capture its .values() and"),
    (lambda: np.zeros((8, 8), [("x", "f4"), ("y", "i4")]), "'table' is one of structures: capture its fields, such as table['x']"),
])
def test_layouts_that_are_refused(make: Any, message: str) -> None:
    table = make()
    with pytest.raises(tracing.TraceError) as info:
        tracing.trace(lambda s, b, h, q, kv: s + table[q, kv])
    assert message in str(info.value)


# ---- Run-time values ----


def test_numbers_are_run_time_values() -> None:
    def make(window, cap):
        return lambda s, b, h, q, kv: cap * torch.tanh(s / cap), lambda b, h, q, kv: q - kv < window // 2 + 1

    first, values = tracing.lookup(*make(10, 2.0))
    assert values == [2.0, 10]
    second, values = tracing.lookup(*make(11, 3.5))
    assert second is first and values == [3.5, 11]
    assert tracing.lookup(*make(2**40, 1.0))[0].params[1].dtype == "i64"
    assert tracing.lookup(*make(5, 7))[0].params[0].dtype == "i32"  # a cap that is an int
    assert first.values(*make(3, 4.0)) == [4.0, 3]
    with pytest.raises(ValueError, match="structure"):
        first.values(*make("a", 4.0))


def test_globals_cells_and_contents_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def windowed(b, h, q, kv):
        return q - kv < GLOBAL_WINDOW

    trace, values = tracing.lookup(None, windowed)
    monkeypatch.setitem(globals(), "GLOBAL_WINDOW", 7)
    assert tracing.lookup(None, windowed) == (trace, [7])
    monkeypatch.setitem(globals(), "GLOBAL_WINDOW", torch.ones(8))
    with pytest.raises(tracing.TraceError):
        tracing.lookup(None, windowed)
    limit = 3
    nested = lambda b, h, q, kv: kv < limit  # noqa: E731
    assert tracing.lookup(None, nested)[1] == [3]
    limit = 4
    assert tracing.lookup(None, nested)[1] == [4]
    table = torch.zeros(8, dtype=torch.bool)
    marked = lambda b, h, q, kv: table[kv]  # noqa: E731
    assert not mask(marked).any()
    table[2] = True
    assert mask(marked).any()


def test_python_integers_do_not_wrap() -> None:
    def make(a, b_):
        return lambda b, h, q, kv: q < a * b_

    small, _ = tracing.lookup(None, make(100, 100))
    large, _ = tracing.lookup(None, make(100_000, 100_000))
    assert "i64" not in small.source and "i64" in large.source
    assert mask(make(100_000, 100_000)).all() and not mask(make(100_000, -100_000)).any()
    assert tracing.lookup(None, make(3, 4))[0] is small


def test_functions_of_whole_tensors_are_called_at_each_call() -> None:
    table, count = torch.arange(24.0).reshape(4, 6), 2

    def mod(s, b, h, q, kv):
        return s + torch.cumsum(table, 0)[q, kv] + torch.topk(table, count).values[q, 0] + table.max() + torch.cumsum(table, 0)[q, 0]

    def expected() -> Any:
        sums = table.cumsum(0)
        return (sums + table.topk(count).values[:, :1] + table.max() + sums[:, :1]).numpy()

    trace, values = tracing.lookup(mod, None)
    assert [param.name for param in trace.params] == ["cumsum", "values", "max_"]  # cumsum once
    at = np.ix_(range(1), range(1), range(4), range(6))
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, *at)[0, 0], expected())
    table[1, 2] = -50
    count = 3
    again, values = tracing.lookup(mod, None)
    assert again is trace
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, *at)[0, 0], expected())
    table = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trace, values = tracing.lookup(mod, None)
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, *at)[0, 0], expected(), rtol=1e-6, atol=1e-6)  # read as f32
    check(trace)


def test_modules_of_whole_tensors() -> None:
    """A network that makes a table of biases, as continuous position biases do."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    places = torch.randn(23, 2)

    def mod(s, b, h, q, kv):
        return s + network(places)[q - kv + 11, h]

    trace, values = tracing.lookup(mod, None)
    h, q, kv = np.ix_(range(3), range(12), range(12))
    expected = network(places).detach().numpy()[q - kv + 11, h]
    np.testing.assert_allclose(trace.evaluate_score(values, 0.0, 0, h, q, kv), expected, rtol=1e-6)
    check(trace)


def test_sizes_are_run_time_values() -> None:
    def make(table):
        return lambda b, h, q, kv: (q < table.shape[0] // 2) & (kv < len(table)) & (q < table.numel()) & (q < table.size(0))

    trace, values = tracing.lookup(None, make(torch.zeros(8)))
    assert [p.name for p in trace.params] == ["table_len"] and values == [8]
    assert tracing.lookup(None, make(torch.zeros(6))) == (trace, [6])


# ---- Guards ----


def test_constants_are_guarded() -> None:
    class Mode(enum.Enum):
        CAUSAL = 1
        FULL = 2

    def make(mode, flag, name, inner):
        def switched(b, h, q, kv):
            if mode is Mode.CAUSAL and flag and name == "a":
                return q >= kv
            return inner(b, h, q, kv) if inner is not None else q == q
        return switched

    causal, _ = tracing.lookup(None, make(Mode.CAUSAL, True, "a", None))
    assert tracing.lookup(None, make(Mode.CAUSAL, True, "a", None))[0] is causal
    for other in ((Mode.FULL, True, "a", None), (Mode.CAUSAL, False, "a", None), (Mode.CAUSAL, True, "b", None)):
        assert tracing.lookup(None, make(*other))[0] is not causal
    inner = tracing.lookup(None, make(Mode.FULL, True, "a", lambda b, h, q, kv: q < 3))[0]
    assert tracing.lookup(None, make(Mode.FULL, True, "a", lambda b, h, q, kv: q < 4))[0] is not inner


@pytest.mark.parametrize("use, body_of, same, other", [
    (lambda n: lambda b, h, q, kv: sum((q == i).int() for i in range(n)) > 0, "q == 0", None, 4),
    (lambda n: lambda b, h, q, kv: q > kv if n > 2 else q < kv, "q > kv", 5, 1),
    (lambda n: lambda b, h, q, kv: q >> n > kv, "q >> n > kv", 4, None),
    (lambda n: lambda b, h, q, kv: q**n > kv, "q * (q * q) > kv", None, 4),
    (lambda n: lambda b, h, q, kv: q > kv if n else q < kv, "q > kv", 5, 0),
    (lambda n: lambda b, h, q, kv: q > kv if n == 3 else q < kv, "q > kv", None, 4),
    (lambda n: lambda b, h, q, kv: [q, kv, b, h][n] > 1, "h > 1", None, 2),
    (lambda n: lambda b, h, q, kv: q > len(range(n)), "q > 3", None, 5),
    (lambda n: lambda b, h, q, kv: q > int(n) if isinstance(n, int) else q < kv, "q > 3", None, 5),
    (lambda n: lambda b, h, q, kv: q > next(map(int, [n])), "q > 3", None, 5),
    (lambda n: lambda b, h, q, kv: q > {"3": 1}.get(str(int(n)), 0), "q > 1", None, 5),
    (lambda n: lambda b, h, q, kv: q > {3: 1, 4: 0}[n], "q > 1", None, 4),
])
def test_specialisation(use: Any, body_of: str, same: int | None, other: int | None) -> None:
    trace, _ = tracing.lookup(None, use(3))
    assert body_of in trace.source
    assert tracing.lookup(None, use(3))[0] is trace
    if same is not None:
        assert tracing.lookup(None, use(same))[0] is trace
    if other is not None:
        assert tracing.lookup(None, use(other))[0] is not trace
        tracing.lookup(None, use(other))
    assert tracing.lookup(None, use(3))[0] is trace


knows_calls = pytest.mark.skipif(sys.version_info < (3, 11), reason="the code does not say what is called")


@pytest.mark.parametrize("use", [
    lambda n: lambda s, b, h, q, kv: s * n**2,
    lambda n: lambda s, b, h, q, kv: s * 2**n,
    lambda n: lambda s, b, h, q, kv: s * (1 << n),
    lambda n: lambda s, b, h, q, kv: s * math.floor(n / 2),
    lambda n: lambda s, b, h, q, kv: s * math.ceil(n / 2) + math.ceil(n / 2),
    lambda n: lambda s, b, h, q, kv: s * math.trunc(-n / 2),
    lambda n: lambda s, b, h, q, kv: s * math.gcd(n, 6) + math.hypot(n, n),
    lambda n: lambda s, b, h, q, kv: s * round(n / 7, 1),
    pytest.param(lambda n: lambda s, b, h, q, kv: s * float(n), marks=knows_calls),
    pytest.param(lambda n: lambda s, b, h, q, kv: s * int(n / 2) + int(n), marks=knows_calls),
    pytest.param(lambda n: lambda s, b, h, q, kv: s * sum([float(n) for _ in range(3)]), marks=knows_calls),
])
def test_computed_numbers_are_run_time_values(use: Any) -> None:
    """One kernel and one parameter, whose value is Python's."""
    first, values = tracing.lookup(use(3), None)
    assert len(first.params) == len(values) <= 2
    for n in (3, 6, 10, 20):
        trace, values = tracing.lookup(use(n), None)
        assert trace is first
        np.testing.assert_allclose(trace.evaluate_score(values, 1.5, 0, 0, 2, 1), use(n)(1.5, 0, 0, 2, 1), rtol=1e-6)


def test_computed_numbers_of_other_types() -> None:
    """A result of another type, or of another size, is another trace."""
    def make(n):
        return lambda b, h, q, kv: q < 2**n

    types_of = {n: tracing.lookup(None, make(n))[0].params[0].dtype for n in (3, 40, -1, 5)}
    assert types_of == {3: "i32", 40: "i64", -1: "f32", 5: "i32"}
    with pytest.raises(tracing.TraceError, match="does not fit 64 bits"):
        tracing.lookup(None, make(70))
    with pytest.raises(tracing.TraceError, match="OverflowError"):
        tracing.lookup((lambda n: lambda s, b, h, q, kv: s * math.floor(n))(float("inf")), None)


def test_structure_is_guarded() -> None:
    def make(tables):
        def summed(s, b, h, q, kv):
            for table in tables:
                s = s + table[h]
            return s
        return summed

    two, _ = tracing.lookup(make([torch.zeros(4), torch.ones(4)]), None)
    three, values = tracing.lookup(make([torch.zeros(4)] * 3), None)
    assert len(two.params) == 2 and three is not two and len(values) == 1
    assert tracing.lookup(make([torch.zeros(4, dtype=torch.float16), torch.ones(4)]), None)[0].params[0].dtype == "f16"

    holder = types.SimpleNamespace()

    def optional(s, b, h, q, kv):
        return s + (holder.bias[h] if hasattr(holder, "bias") else 0)

    assert not tracing.lookup(optional, None)[0].params
    holder.bias = torch.ones(4)
    assert tracing.lookup(optional, None)[0].params


def test_row_extent_is_guarded() -> None:
    def make(chosen):
        return lambda b, h, q, kv: (chosen[q] == kv).any()

    three, _ = tracing.lookup(None, make(torch.zeros(8, 3)))
    assert "chosen: f32[?, 3]" in three.source
    assert tracing.lookup(None, make(torch.zeros(9, 3)))[0] is three
    assert "chosen: f32[?, 4]" in tracing.lookup(None, make(torch.zeros(8, 4)))[0].source
    check(three)


# ---- The cache ----


def test_cache_keeps_no_tensors_alive() -> None:
    def make():
        table = torch.zeros(8)
        wide = np.zeros(8)
        return lambda s, b, h, q, kv: s + table[q] + wide[kv]

    function = make()
    trace, values = tracing.lookup(function, None)
    references = [weakref.ref(function)] + [weakref.ref(cell.cell_contents) for cell in function.__closure__]
    del function, values
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert trace.source


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from heed.tracing import traces as module

    def make(n):
        return lambda b, h, q, kv: q > len(range(n))

    for n in range(module.MAX_CANDIDATES + 20):
        tracing.lookup(None, make(n))
    (entry,) = module._entries.values()
    assert len(entry.candidates) == module.MAX_CANDIDATES
    newest = entry.candidates[0]
    oldest = entry.candidates[-1]
    tracing.lookup(None, make(20))  # the oldest that is left: used again, so kept
    (entry,) = module._entries.values()
    assert entry.candidates[:2] == (oldest, newest)
    monkeypatch.setattr(module, "MAX_ENTRIES", 4)
    for i in range(9):
        scope: dict[str, Any] = {}
        exec(f"def mod(b, h, q, kv): return q > kv + {i}", scope)
        tracing.lookup(None, scope["mod"])
    assert len(module._entries) == 4


def test_threads() -> None:
    def make(window):
        return lambda b, h, q, kv: q - kv < window

    failures: list[Any] = []

    def work(base: int) -> None:
        for i in range(200):
            _, values = tracing.lookup(None, make(base * 1000 + i))
            if values != [base * 1000 + i]:
                failures.append(values)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_digest_ignores_places() -> None:
    first = tracing.trace(None, lambda b, h, q, kv: q >= kv)
    second = tracing.trace(None, lambda b, h, q, kv: q >= kv)
    assert first.digest == second.digest and first.source != second.source
    assert "test_captures.py:" in first.source
    assert tracing.trace(None, lambda b, h, q, kv: q > kv).digest != first.digest


def test_names() -> None:
    B = Sq = q = tanh = let = 2
    b_ = 3

    def named(b, h, q_idx, kv_idx, ключ=4):
        return q_idx + B + Sq + q + tanh + let + b_ > kv_idx + ключ

    trace = tracing.trace(None, named)
    check(trace)
    assert sorted(p.name for p in trace.params) == ["B_", "Sq_", "b_", "captured", "let_", "q_", "tanh_"]


def test_names_of_arguments() -> None:
    """A kernel's call has arguments of its own, and takes what mods capture as further ones."""
    scale, out, query, key = 0.5, torch.zeros(8), 2, 3

    def mod(s, b, h, q, kv):
        return s * scale + out[q] + query + key

    trace = tracing.trace(mod)
    check(trace)
    assert [p.name for p in trace.params] == ["scale_", "out_", "query_", "key_"]


@pytest.mark.parametrize("length", [30, 80, 128, 1000])
def test_long_names(length: int) -> None:
    name = "n" * length
    numbers = {name + letter: number for number, letter in enumerate("abc")}
    tables = {name + letter: torch.full((8,), number) for number, letter in enumerate("abc")}

    def mod(s, b, h, q, kv):
        chosen = torch.where(tables[name + "a"][q] > numbers[name + "b"], tables[name + "b"][kv], tables[name + "c"][kv])
        return s + torch.where(q > numbers[name + "a"], numbers[name + "b"], numbers[name + "c"]) * chosen

    trace, values = tracing.lookup(mod, None)
    check(trace)
    np.testing.assert_array_equal(trace.evaluate_score(values, 0.0, *AT)[0, 0], np.where(Q > 0, 1, 2)[0, 0] * 2 + 0 * KV[0, 0])


def test_function_of_its_kind() -> None:
    assert tracing.mod_kind(lambda s, b, h, q, kv, extra=1: s) == "score_mod"
    assert tracing.mod_kind(functools.partial(lambda n, b, h, q, kv: q, 1)) == "mask_mod"
    with pytest.raises(AssertionError, match="3 positional parameters"):
        tracing.mod_kind(lambda b, q, kv: q)
    with pytest.raises(TypeError, match="found int"):
        tracing.mod_kind(3)

    def causal(b, h, q, kv):
        return q >= kv

    assert tracing.trace_function(causal).source.endswith(
        "variant causal {\n  mask_mod(b, h, q, kv) { return q >= kv }\n}\n")
    assert tracing.trace(name="dense").source == "variant dense {}\n"
