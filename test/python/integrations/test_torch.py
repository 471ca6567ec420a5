# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.flex_attention under torch.compile: fullgraph, so a graph break is an error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import heed  # noqa: E402
from heed import block_mask, tracing, variant  # noqa: E402

_has_compiler = shutil.which("g++") is not None or shutil.which("clang++") is not None
BACKENDS = ["eager", pytest.param("inductor", marks=[
    pytest.mark.slow, pytest.mark.skipif(not _has_compiler, reason="inductor needs a C++ compiler")])]


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        yield
    assert not torch._dynamo.utils.counters["graph_break"]


def inputs(length: int = 37, heads: int = 4, kv_heads: int = 4, dtype: Any = torch.float32) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(length)
    return tuple(torch.randn(2, h, length, 16, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads))


def causal(b: Any, h: Any, q: Any, kv: Any) -> Any:
    return q >= kv


def check(function: Callable[..., Any], *arguments: Any, backend: str = "eager") -> None:
    """That the compiled function does what the plain one does."""
    found = torch.compile(function, fullgraph=True, backend=backend)(*arguments)
    torch.testing.assert_close(found, function(*arguments), rtol=1e-5, atol=1e-6)


class Layer(torch.nn.Module):
    """A score_mod and a mask_mod that capture a parameter, a buffer, tensors made in the graph, and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(64, 3 * 64)
        self.slopes = torch.nn.Parameter(torch.randn(4))
        self.register_buffer("documents", torch.randint(0, 3, (2, 256), generator=torch.Generator().manual_seed(0)))
        self.cap = 2.0
        self.window = 20

    def forward(self, x: Any) -> Any:
        batch, length, _ = x.shape
        query, key, value = self.projection(x).view(batch, length, 3, 4, 16).permute(2, 0, 3, 1, 4)
        bias = torch.tanh(x[:, :, 0])  # (B, L)

        def score_mod(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
            return self.cap * torch.tanh(score / self.cap) + self.slopes[h] * (kv - q) + bias[b, kv]

        def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
            return (q >= kv) & (q - kv < self.window) & (self.documents[b, q] == self.documents[b, kv])

        output = heed.flex_attention(query, key, value, score_mod, mask_mod=mask_mod)
        return output.transpose(1, 2).reshape(batch, length, 64)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_layer(backend: str) -> None:
    """Dynamic lengths; what is captured changes between calls, and is seen."""
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)

    def step(length: int) -> Any:
        x = torch.randn(2, length, 64, generator=torch.Generator().manual_seed(length))
        expected = layer(x)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
        return expected

    for length in (37, 50, 64, 130):
        results = [step(length)]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 2  # the second is for all lengths
    layer.slopes.mul_(2)
    layer.documents.random_(0, 2)
    results.append(step(130))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for layer.window in (10, 5, 3):
        results.append(step(130))
    for layer.cap in (0.5, 0.25, 4.0):
        results.append(step(130))
    assert not any(torch.allclose(*pair) for pair in zip(results, results[1:]))


def test_explain() -> None:
    explained = torch._dynamo.explain(Layer())(torch.randn(2, 9, 64))
    assert explained.graph_break_count == 0
    nodes = [node for graph in explained.graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert sum(node.target is torch.ops.heed.flex_attention.default for node in nodes) == 1


def test_program_in_generated_code() -> None:
    """Inductor copies the program as it is into comments above Triton kernels, and into literals of C++."""
    def function(q: Any, k: Any, v: Any) -> Any:
        def score_mod(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
            return torch.where(i % 3 == 0, torch.full_like(score, 0.5, device="cpu"), score)

        return heed.flex_attention(q, k, v, score_mod, mask_mod=causal)

    explained = torch._dynamo.explain(function)(*inputs())
    (node,) = [node for graph in explained.graphs for node in graph.graph.nodes
               if node.target is torch.ops.heed.flex_attention.default]
    program = node.args[3]
    assert "mod_graph(" in program
    assert program.isascii() and program.isprintable() and not set(program) & set("\"'\\")
    check(function, *inputs())


@pytest.mark.parametrize("backend", BACKENDS)
def test_computed_numbers(backend: str) -> None:
    """Integers and floats that a graph computes from lengths."""
    def function(q: Any, k: Any, v: Any) -> Any:
        scale, half = q.shape[2] / 3, q.shape[2] // 2
        return heed.flex_attention(q, k, v, lambda s, b, h, i, j: s / scale + (i - half) / scale)

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for length in (37, 50, 64):
        torch.testing.assert_close(compiled(*inputs(length)), function(*inputs(length)))


def test_offset_compiles_two_kernels() -> None:
    """The first value is a constant of the first graph, all further ones are arguments of the second."""
    def decode(query: Any, key: Any, value: Any, offset: int) -> Any:
        return heed.flex_attention(query, key, value, mask_mod=lambda b, h, q, kv: (q + offset >= kv) & (h + 17 != kv))

    compiled = torch.compile(decode, fullgraph=True, backend="eager")
    counts = []
    for offset in range(4, 24):
        query, key, value = inputs(offset + 1)
        arguments = (query[:, :, -1:], key, value, offset)
        torch.testing.assert_close(compiled(*arguments), decode(*arguments))
        counts.append(len(variant._variants))
    assert counts[2:] == [counts[2]] * 18


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: Any) -> None:
    check(lambda q, k, v: heed.flex_attention(q, k, v, mask_mod=causal), *inputs(dtype=dtype))


def test_autocast() -> None:
    q, k, v = torch.randn(3, 1, 2, 30, 16).unbind()
    with torch.autocast("cpu"):
        compiled = torch.compile(lambda q, k, v: heed.flex_attention(q * 1, k, v, lambda s, b, h, i, j: s * 0.5), fullgraph=True, backend="aot_eager")
        found = compiled(q, k, v)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, heed.flex_attention(*(x.bfloat16() for x in (q, k, v)), lambda s, b, h, i, j: s * 0.5))


def test_no_mods() -> None:
    check(lambda q, k, v: heed.flex_attention(q, k, v, None, None, 0.3), *inputs())
    check(lambda q, k, v: heed.flex_attention(q, k, v, enable_gqa=True), *inputs(kv_heads=2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    """The output lies in memory as the query does, also for what comes after it in the graph."""
    def function(q: Any, k: Any, v: Any) -> Any:
        output = heed.flex_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return output.reshape(2, -1, 64) * 2, output

    arguments = [torch.randn(2, 37, 4, 16) for _ in range(3)]
    check(function, *arguments, backend=backend)
    output = torch.compile(function, fullgraph=True, backend=backend)(*arguments)[1]
    assert output.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
def test_further_results(backend: str) -> None:
    check(lambda q, k, v: heed.flex_attention(q, k, v, return_aux=heed.AuxRequest(lse=True)), *inputs(), backend=backend)
    check(lambda q, k, v: heed.flex_attention(q, k, v, return_aux=heed.AuxRequest()), *inputs(), backend=backend)
    with pytest.warns(FutureWarning, match="return_lse is deprecated"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, return_lse=True), *inputs(), backend=backend)


def test_max_scores() -> None:
    check(lambda q, k, v: heed.flex_attention(q, k, v, return_aux=heed.AuxRequest(True, True)), *inputs())


# Mods and masks.


def test_index_chains() -> None:
    """Tables of tables, rows, rows of rows, constants and lengths as indices."""
    table = torch.randint(0, 8, (64,))
    bias = torch.randn(4, 8)
    rows = torch.randn(2, 4, 64, 3)

    def score_mod(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        score = score + bias[h][table[kv]] + bias[0, table[q]] + bias[-1][0]
        return score + (rows[b, h, q] * rows[b][h][kv]).sum(-1) + table.shape[0] / 64

    check(lambda q, k, v: heed.flex_attention(q, k, v, score_mod), *inputs())


def test_combined_masks() -> None:
    def window(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return q - kv < 5

    check(lambda q, k, v: heed.flex_attention(q, k, v, mask_mod=heed.and_masks(causal, window)), *inputs())
    check(lambda q, k, v: heed.flex_attention(q, k, v, mask_mod=heed.or_masks(causal, heed.noop_mask)), *inputs())


def _masks() -> dict[str, Any]:
    documents = torch.randint(0, 3, (2, 300), generator=torch.Generator().manual_seed(1))

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (documents[b, q] == documents[b, kv]) & (q >= kv)

    derived = heed.create_block_mask(mask_mod, 2, None, 300, 300, device="cpu")
    lists = [getattr(derived, name) for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")]
    lists[0] = lists[0].clone()
    lists[0][0, 0, 2] = 1  # fewer than mask_mod would need
    given = heed.BlockMask.from_kv_blocks(*lists, mask_mod=mask_mod, seq_lengths=(300, 300))
    full = heed.BlockMask.from_kv_blocks(torch.tensor([[1, 0, 2]]), torch.tensor([[[1, 0, 2], [0, 1, 2], [2, 0, 1]]]),
                                         torch.tensor([[1, 1, 1]]), torch.tensor([[[0, 1, 2], [2, 0, 1], [1, 0, 2]]]),
                                         mask_mod=causal, seq_lengths=(300, 300))
    masks = {"derived": derived, "given": given, "full": full}
    try:
        from torch.nn.attention.flex_attention import create_block_mask
    except ImportError:
        return masks
    return {**masks, "torch": create_block_mask(causal, None, None, 300, 300, device="cpu")}


@pytest.mark.slow
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("name", ["derived", "given", "full", "torch"])
def test_block_masks(name: str, captured: bool) -> None:
    mask = _masks().get(name)
    if mask is None:
        pytest.skip("this torch has no BlockMask")
    if captured:
        check(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=mask), *inputs(300))
    else:
        check(lambda q, k, v, mask: heed.flex_attention(q, k, v, block_mask=mask), *inputs(300), mask)


def test_mutated_lists_are_seen() -> None:
    mask = _masks()["given"]
    compiled = torch.compile(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=mask), fullgraph=True, backend="eager")
    before = compiled(*inputs(300))
    mask.kv_num_blocks.zero_()
    after = compiled(*inputs(300))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, heed.flex_attention(*inputs(300), block_mask=mask))


def _document_mask(x: Any, kind: str) -> Any:
    """A mask that is made in the graph, with a mask_mod that captures a tensor made there."""
    length = x.shape[2]
    document = (x[0, 0, :, 0] > 1).cumsum(0)  # inductor of torch 2.13 leaves a part of torch.arange(37) // 20 unwritten

    def mask_mod(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return (document[q] == document[kv]) & (q >= kv)

    def near(b: Any, h: Any, q: Any, kv: Any) -> Any:
        return q - kv < 9

    if kind == "combined":
        mask_mod = heed.or_masks(heed.and_masks(mask_mod, near), lambda b, h, q, kv: kv < 2)
    mask = heed.create_block_mask(mask_mod, None, None, length + 5 * (kind == "adjusted"), length, device=x.device, BLOCK_SIZE=(16, 32))
    return mask._adjust(length, length) if kind == "adjusted" else mask


@pytest.mark.parametrize("dynamic", (None, True))
@pytest.mark.parametrize(("kind", "backend"), [("plain", "eager"), ("combined", "eager"), ("adjusted", "eager"),
                                                pytest.param("combined", "inductor", marks=BACKENDS[1].marks)])
def test_masks_made_in_the_graph(kind: str, backend: str, dynamic: Any) -> None:
    def function(q: Any, k: Any, v: Any) -> Any:
        mask = _document_mask(q, kind)
        return heed.flex_attention(q, k, v, block_mask=mask), mask

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    for length in (37, 52):
        (found, mask), (expected, wanted) = (f(*inputs(length)) for f in (compiled, function))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert not mask.has_given_lists and mask.shape == wanted.shape and repr(mask) == repr(wanted)
        assert torch.equal(mask.kv_indices, wanted.kv_indices) and torch.equal(mask.full_q_num_blocks, wanted.full_q_num_blocks)


def test_the_first_mask_is_made_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process: torch has not been told of masks yet."""
    monkeypatch.setattr(block_mask, "_torch_met", False)
    function = torch.compile(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=_document_mask(q, "plain")), fullgraph=True, backend="eager")
    torch.testing.assert_close(function(*inputs()), heed.flex_attention(*inputs(), block_mask=_document_mask(inputs()[0], "plain")))


def test_a_mask_made_in_the_graph_that_depends_on_the_batch() -> None:
    """Without B as a number; the plain function refuses it."""
    lengths = torch.tensor([5, 30])

    def function(q: Any, k: Any, v: Any, B: Any = None) -> Any:
        mask = heed.create_block_mask(lambda b, h, q, kv: kv < lengths[b], B, None, 37, 37, device="cpu")
        return heed.flex_attention(q, k, v, block_mask=mask)

    with pytest.raises(ValueError, match="expected B to be a number"):
        function(*inputs())
    found = torch.compile(function, fullgraph=True, backend="eager")(*inputs())
    torch.testing.assert_close(found, function(*inputs(), B=2))


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64))
def test_lists_made_in_the_graph(dtype: Any) -> None:
    """The key blocks of highest mean score, as selected attention picks them."""
    def function(q: Any, k: Any, v: Any, count: int) -> Any:
        means = [x.unflatten(2, (4, 16)).mean(3) for x in (q, k)]
        indices = (means[0] @ means[1].mT).topk(count, -1).indices.to(dtype)
        counts = torch.full(indices.shape[:-1], count, dtype=dtype)
        mask = heed.BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16, mask_mod=causal, seq_lengths=(64, 64))
        return heed.flex_attention(q, k, v, block_mask=mask), mask.kv_indices

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for count in (1, 2, 3):
        (found, lists), (expected, wanted) = (f(*inputs(64), count) for f in (compiled, function))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert lists.dtype == torch.int32 and torch.equal(lists, wanted)


# What is refused.


@pytest.mark.parametrize(("name", "function"), [
    ("create_mask", lambda x: x + heed.create_mask(causal, None, None, 37, 16, device="cpu")),
    ("_compute_list", lambda x: x + heed.create_block_mask(causal, None, None, 37, 37, device="cpu").kv_num_blocks.sum()),
    ("__getitem__", lambda x: heed.flex_attention(x, x, x, block_mask=_document_mask(x, "plain")[:, :, 0]))])
def test_what_no_graph_holds(name: str, function: Any) -> None:
    with pytest.raises(Exception, match=f"{name} computes with NumPy and with generated code: call it, or read the lists that it makes, outside"):
        torch.compile(function, fullgraph=True, backend="eager")(inputs()[0])
    torch._dynamo.utils.counters.clear()


def test_arguments_of_masks() -> None:
    def function(x: Any) -> Any:
        mask = heed.create_block_mask(lambda s, b, h, q, kv: s, None, None, 37, 37, device="cpu")
        return heed.flex_attention(x, x, x, block_mask=mask)

    with pytest.raises(Exception, match="create-block_mask requires a mask_mod function!"):
        torch.compile(function, fullgraph=True, backend="eager")(inputs()[0])


def test_runtime_error() -> None:
    with pytest.raises(ValueError, match="Try setting enable_gqa=True"):
        check(lambda q, k, v: heed.flex_attention(q, k, v), *inputs(kv_heads=2))


@pytest.mark.parametrize("name", ["derived", "given"])
def test_block_mask_of_other_lengths(name: str) -> None:
    mask = _masks()[name]
    with pytest.raises(Exception, match="block_mask was created for"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=mask), *inputs(301))


def test_block_mask_of_other_batch() -> None:
    mask = heed.create_block_mask(causal, 3, None, 37, 37, device="cpu")
    with pytest.raises(Exception, match="same batch size, or 1 in the block_mask, but got 3 and 2"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=mask), *inputs())


def test_sliced_block_mask() -> None:
    mask = _masks()["derived"][:1]
    with pytest.raises(Exception, match="Cannot use mask_mod from a sliced BlockMask"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, block_mask=mask), *inputs(300))


@pytest.mark.parametrize(("message", "arguments"), [
    ("Unknown kernel option", {"kernel_options": {"BLOCK": 1}}),
    ("Cannot specify both return_lse and return_aux", {"return_lse": True, "return_aux": heed.AuxRequest()}),
    ("Cannot specify both block_mask and mask_mod", {"block_mask": object(), "mask_mod": causal}),
    ("a mask_mod function goes to mask_mod=", {"block_mask": causal}),
])
def test_arguments(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=message):
        torch.compile(lambda q: heed.flex_attention(q, q, q, **arguments), fullgraph=True, backend="eager")(inputs()[0])


def test_untraceable_mod() -> None:
    """The message shows the line of the graph's code."""
    with pytest.raises(heed.TraceError, match=r"(?s)<heed program.*cumsum\(0\)"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, lambda s, b, h, i, j: s.cumsum(0)), *inputs())


def test_mutating_mod() -> None:
    counts = torch.zeros(4)

    def score_mod(score: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
        counts.add_(1)
        return score + counts[h]

    with pytest.raises(torch._dynamo.exc.Unsupported, match="(?i)mutation"):
        check(lambda q, k, v: heed.flex_attention(q, k, v, score_mod), *inputs())


def test_gradients() -> None:
    query, key, value = inputs()
    with torch.enable_grad(), pytest.raises(Exception, match="does not support backward on CPU"):
        check(lambda q, k, v: heed.flex_attention(q, k, v), query.requires_grad_(), key, value)


@pytest.mark.parametrize("backend", ["aot_eager", *BACKENDS])
def test_captures_that_require_gradients(backend: str) -> None:
    """Refused as without torch.compile, not taken for constants."""
    query, key, value = inputs()
    bias = torch.randn(37, requires_grad=True)

    def call(q: Any) -> Any:
        return heed.flex_attention(q, key, value, lambda s, b, h, i, j: s + bias[j])

    with torch.enable_grad():
        with pytest.raises(NotImplementedError, match="no backward pass"):
            torch.compile(call, backend=backend)(query)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="captures a tensor that requires gradients"):
            torch.compile(call, backend=backend, fullgraph=True)(query)
    torch._dynamo.reset()
    check(call, query, backend=backend)
    torch._dynamo.utils.counters.clear()


def test_gradients_by_functions() -> None:
    query, key, value = inputs()
    with pytest.raises(RuntimeError, match="autograd.Function"):
        torch.compile(lambda q: torch.func.grad(lambda q: heed.flex_attention(q, key, value).sum())(q), backend="eager")(query)
    with torch.enable_grad(), pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        heed.flex_attention(query, key, value, scale=torch.tensor(0.5, requires_grad=True))


@pytest.mark.parametrize("fullgraph", (True, False))
def test_the_function_itself(fullgraph: bool) -> None:
    compiled = torch.compile(heed.flex_attention, backend="eager", fullgraph=fullgraph)
    for factor in (2.0, 3.0):
        def score_mod(s: Any, b: Any, h: Any, q: Any, kv: Any, factor: float = factor) -> Any:
            return s * factor

        torch.testing.assert_close(compiled(*inputs(), score_mod, mask_mod=causal),
                                   heed.flex_attention(*inputs(), score_mod, mask_mod=causal))


def _adds_in_place(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    s += 1.0
    return s


def _prints(s: Any, b: Any, h: Any, q: Any, kv: Any) -> Any:
    print("traced")
    return s * 2


@pytest.mark.parametrize("mod", (_adds_in_place, _prints))
@pytest.mark.parametrize("is_aux", (False, True))
def test_outside_of_graphs(mod: Any, is_aux: bool) -> None:
    """What a graph has no place for runs as without torch.compile."""
    aux = heed.AuxRequest(lse=True) if is_aux else None

    def call(q: Any, k: Any, v: Any) -> Any:
        return heed.flex_attention(q * 2, k, v, mod, return_aux=aux)

    tracing.traces.clear()
    found = torch.compile(call, backend="eager")(*inputs())
    torch.testing.assert_close(found, call(*inputs()))
    torch._dynamo.utils.counters.clear()


@pytest.mark.parametrize("backend", ["aot_eager", BACKENDS[1]])
def test_query_of_channels_first(backend: str) -> None:
    """Results lie in the order of the query's axes, and graphs know it."""
    key, value = inputs()[1:]
    query = torch.randn(2, 4, 16, 37)

    def call(q: Any) -> Any:
        output = heed.flex_attention(q.transpose(2, 3), key, value)
        return output, output.reshape(2, -1) * 2

    check(call, query, backend=backend)
    assert torch.compile(call, backend=backend)(query)[0].stride() == call(query)[0].stride() == (16 * 37 * 4, 16 * 37, 1, 37)


def test_recorders() -> None:
    """What records operators would not see a kernel, and replay memory that nobody wrote."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    heed.flex_attention(*inputs())  # seen before, or not
    with pytest.raises(NotImplementedError, match="cannot be called under make_fx: use torch.compile"):
        make_fx(lambda q, k, v: heed.flex_attention(q, k, v))(*inputs())
    with FakeTensorMode() as mode, pytest.raises(NotImplementedError, match="cannot be called under FakeTensorMode"):
        heed.flex_attention(*(mode.from_tensor(x) for x in inputs()))


def test_operator() -> None:
    """What torch checks of any operator: schema, fake tensors, functionalisation."""
    program = "def make(tensors, integers, floats):\n    return None, lambda b, h, q, kv: q + integers[0] >= kv\n"
    query, key, value = inputs()
    torch.library.opcheck(torch.ops.heed.flex_attention.default,
                          (query, key, value, program, [], [3], [], None, False, True, False),
                          test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))


# Models.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "padded", "backend"), [
    ("Llama", False, "eager"), ("Llama", True, "eager"), ("Gemma2", True, "eager"),
    pytest.param("Llama", True, "inductor", marks=BACKENDS[1].marks)])
def test_transformers(name: str, padded: bool, backend: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")
    import heed.integrations.transformers

    heed.integrations.transformers.register()
    sizes = {"vocab_size": 101, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
    if name == "Gemma2":
        sizes |= {"sliding_window": 8, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="heed").eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for length in (7, 9, 37):
        arguments = {"input_ids": torch.randint(1, 101, (2, length))}
        if padded:
            arguments["attention_mask"] = torch.ones(2, length, dtype=torch.long)
            arguments["attention_mask"][1, :length // 2] = 0
        torch.testing.assert_close(compiled(**arguments).logits, model(**arguments).logits, rtol=1e-4, atol=1e-5)
