# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""heed.flex_attention under torch.compile, without graph breaks.

    compiled = torch.compile(model, fullgraph=True)      # whose attention calls heed.flex_attention

There is nothing to call here: torch.compile finds this through heed.flex_attention.

A graph holds one node a call, the operator heed::flex_attention. Operators take tensors and numbers, not functions,
so the mods become a text, the `program`: Dynamo records each mod as a graph of its own, as it does for torch's
flex_attention, and that graph is printed. What the mods capture are the inputs of these graphs, hence arguments of
the operator, and as fresh at each call as any other tensor: nothing is baked in. Python numbers are Dynamo's to
treat: it guards on their values, and turns those that change into inputs. When it is called, the operator makes
functions of the text again, and calls heed.flex_attention, which knows them from the call before.

The text is all that the operator needs, so graphs may outlive the process in torch's caches. It is quoted as in a URL:
inductor copies it as it is into comments above Triton kernels, where it must be one line, and, for its C++ wrapper, into
literals, where it must have no quotes and backslashes either.

This builds upon internals of Dynamo, which has no public way to lift what a function captures. They are all in
`_Variable`; tested with torch 2.11 and 2.13.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote, unquote

import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from torch._dynamo.exc import unimplemented
from torch._dynamo.variables import higher_order_ops
from torch._dynamo.variables.base import VariableTracker
from torch._dynamo.variables.builder import wrap_fx_proxy
from torch._ops import HigherOrderOperator

from heed import arrays, attention, given_lists
from heed.block_mask import BlockMask, meet_torch

Mod = Callable[..., Any]

# -- The operator -----------------------------------------------------------------------------------


# torch.library.custom_op would write the schema, and add more to each call than Heed takes for its own part.
torch.library.define(
    "heed::flex_attention", "(Tensor query, Tensor key, Tensor value, str program, Tensor[] tensors, SymInt[] integers, "
    "float[] floats, float? scale, bool enable_gqa, bool with_lse, bool with_max, str options=\"\") -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))


@torch.library.impl("heed::flex_attention", ("cpu", "cuda"))
def flex_attention_op(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, program: str,
                      tensors: Sequence[torch.Tensor], integers: Sequence[int], floats: Sequence[float],
                      scale: float | None, enable_gqa: bool, with_lse: bool, with_max: bool,
                      options: str = "") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """heed.flex_attention of the mods in `program`, a _Program's text, which capture `tensors`, `integers` and `floats`.
    `options` are what attention.options_of makes of kernel_options.

    query (B, Hq, L, E), key (Bkv, Hkv, S, E), value (Bkv, Hkv, S, Ev) as in heed.flex_attention. Returns output
    (B, Hq, L, Ev), LSE and largest scores (B, Hq, L) in f32, each empty if not asked for. Raises as heed.flex_attention.
    """
    score_mod, mask_mod = _maker(program)(tensors, integers, floats)
    return _call(query, key, value, score_mod, mask_mod, scale, enable_gqa, with_lse, with_max, options)


def _call(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Mod | None, mask_mod: Mod | None, scale: float | None,
          enable_gqa: bool, with_lse: bool, with_max: bool, options: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The operator's results, of mods that are functions."""
    chosen: Any = options  # in place of the dict that they were
    output, aux = attention.flex_attention(query, key, value, score_mod, None, scale, enable_gqa, False, chosen,
                                           return_aux=attention.AuxRequest(with_lse, with_max), mask_mod=mask_mod)
    lse, max_scores = (query.new_empty(0, dtype=torch.float32) if rows is None else rows for rows in aux)
    return output, lse, max_scores


@torch.library.impl("heed::flex_attention", ("AutocastCPU", "AutocastCUDA"))
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    operands = arrays.autocast(query, key, value) or (query, key, value)
    with torch.autocast(query.device.type, enabled=False):
        results: tuple[torch.Tensor, ...] = torch.ops.heed.flex_attention(*operands, *args, **kwargs)
        return results


@torch.library.register_fake("heed::flex_attention")  # type: ignore[untyped-decorator]
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, program: str, tensors: Sequence[torch.Tensor],
      integers: Sequence[int], floats: Sequence[float], scale: float | None, enable_gqa: bool, with_lse: bool,
      with_max: bool, options: str = "") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lse, max_scores = (query.new_empty(query.shape[:-1] if asked else (0,), dtype=torch.float32)
                       for asked in (with_lse, with_max))
    # As attention does it: kernels take unit strides, and results lie as the query did.
    contiguous = query if query.stride(-1) == 1 else query.contiguous()
    output = arrays.empty_in_order_of(contiguous, value.shape[-1])
    return arrays.in_order_of(output, query) if contiguous is not query else output, lse, max_scores


def _no_backward(context: Any, *gradients: Any) -> NoReturn:
    raise attention.no_backward(gradients[0].is_cuda)


# Without it, torch.func.grad would take the operator for a constant.
torch.library.register_autograd("heed::flex_attention", _no_backward)


# -- Programs ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _maker(program: str) -> Callable[..., tuple[Mod | None, Mod | None]]:
    """`make` of a program. The same function each time: by the code of the mods Heed finds its trace."""
    program = unquote(program)
    name = f"<heed program {_maker.cache_info().misses}>"
    linecache.cache[name] = (len(program), None, program.splitlines(True), name)  # for messages about the mods
    namespace: dict[str, Any] = {}
    exec(compile(program, name, "exec"), namespace)
    make: Callable[..., tuple[Mod | None, Mod | None]] = namespace["make"]
    return make


class _Program:
    """The text of a program under construction, and what its mods capture, as Dynamo's proxies."""

    COORDINATES = ("b", "h", "q_idx", "kv_idx")

    def __init__(self) -> None:
        self.captures: dict[str, list[Any]] = {"tensors": [], "integers": [], "floats": []}
        self._imports: list[str] = []
        self._graphs: list[str] = []
        self._bindings: list[str] = []
        self._mods: dict[str, str] = {}
        self._names: dict[Any, str] = {}  # of captures, by proxy

    def add(self, kind: str, graph: torch.fx.Graph, lifted: Sequence[Any]) -> None:
        """Adds the "score_mod" or the "mask_mod": its graph, whose inputs are its arguments, then `lifted`."""
        for node in graph.nodes:
            node.type = None  # annotations are about what Dynamo traced with
            if node.op == "call_method" and node.target == "item" and node.args[0].op == "placeholder":
                # A number that changed between calls, which Dynamo passes as a tensor: as good as the number itself.
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        code = graph.python_code("self")
        for name, used in code.globals.items():
            self._import(name, used)
        self._graphs.append(code.src.strip("\n").replace("def forward(self, ", f"def {kind}_graph(", 1))
        arguments = ", ".join((("score",) if kind == "score_mod" else ()) + self.COORDINATES)
        passed = ", ".join([arguments, *map(self._capture, lifted)])
        self._mods[kind] = f"    def {kind}({arguments}):\n        return {kind}_graph({passed})\n"

    def _capture(self, proxy: Any) -> str:
        """The name of a captured value."""
        if proxy not in self._names:
            example = proxy.node.meta["example_value"]
            if isinstance(example, torch.Tensor) and example.requires_grad and torch.is_grad_enabled():
                _refuse("a mod captures a tensor that requires gradients", "Detach it, or call this under torch.no_grad().")
            for kind, types in (("tensors", torch.Tensor), ("integers", (int, torch.SymInt)),
                                ("floats", (float, torch.SymFloat))):
                if isinstance(example, types) and not isinstance(example, bool):
                    name = self._names[proxy] = f"{kind[:-1]}_{len(self.captures[kind])}"
                    self._bindings.append(f"    {name} = {kind}[{len(self.captures[kind])}]\n")
                    self.captures[kind].append(proxy)
                    break
            else:
                _refuse(f"a mod captures a {type(example).__name__}", "Capture tensors, integers and floats.")
        return self._names[proxy]

    def _import(self, name: str, used: Any) -> None:
        """The line that makes a global of a graph's code."""
        if (builtin := torch.fx.graph._custom_builtins.get(name)) is not None:
            self._imports.append(builtin.import_str + "\n")
            return
        module, qualname = getattr(used, "__module__", ""), getattr(used, "__qualname__", "")
        if "." in qualname or getattr(sys.modules.get(module), qualname, None) is not used:
            _refuse(f"a mod calls {used!r}, which cannot be imported by name", "Define it at the top level of a module.")
        self._imports.append(f"from {module} import {qualname} as {name}\n")

    def text(self) -> str:
        """The program: a function `make` of the captured values, which returns (score_mod or None, mask_mod or None).

        Quoted, but no more than it has to be: people read graphs.
        """
        mods = ", ".join(kind if kind in self._mods else "None" for kind in ("score_mod", "mask_mod"))
        text = "".join(["import torch\n", *sorted(set(self._imports)), *(f"\n\n{graph}\n" for graph in self._graphs),
                        "\n\ndef make(tensors, integers, floats):\n", *self._bindings, *self._mods.values(),
                        f"    return {mods}\n"])
        return quote(text, safe=" !#$&()*+,-./:;<=>@[]^_{|}~")


def _refuse(what: str, hint: str) -> NoReturn:
    """Ends the compilation with a message of Dynamo's."""
    unimplemented(gb_type="heed.flex_attention cannot be compiled", context=what, explanation=what, hints=[hint])


# -- In a graph -------------------------------------------------------------------------------------


def flex_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, score_mod: Mod | None = None,
                   block_mask: Any = None, scale: float | None = None, enable_gqa: bool = False, return_lse: bool = False,
                   kernel_options: Mapping[str, Any] | None = None, *, return_aux: Any = None,
                   mask_mod: Mod | None = None) -> Any:
    """What torch.compile traces in place of heed.flex_attention: takes and returns the same.

    Shapes are checked when the graph runs. Raises torch._dynamo.exc.Unsupported for mods that Dynamo cannot trace,
    and for captures that are neither tensors nor numbers; other errors are those of heed.flex_attention.
    """
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise attention.no_backward(query.is_cuda)
    options = "" if kernel_options is None else attention.options_of(kernel_options)
    if return_lse and return_aux is not None:
        raise ValueError("Cannot specify both return_lse and return_aux. Use return_aux=AuxRequest(lse=True).")
    if block_mask is not None:
        mask_mod = _mask_mod_of(block_mask, mask_mod, query, key)
    with_lse = return_lse or (return_aux is not None and return_aux.lse)
    with_max = return_aux is not None and return_aux.max_scores
    output, lse, max_scores = _flex_attention(query, key, value, score_mod, mask_mod, scale, enable_gqa, with_lse, with_max,
                                              options)
    if return_aux is not None:
        return output, attention.AuxOutput(lse if with_lse else None, max_scores if with_max else None)
    return (output, lse) if return_lse else output


def _mask_mod_of(block_mask: Any, mask_mod: Mod | None, query: torch.Tensor, key: torch.Tensor) -> Mod:
    """The mask of a BlockMask, Heed's or torch's; what attention has for it is not for graphs."""
    if mask_mod is not None:
        raise ValueError("Cannot specify both block_mask and mask_mod: a block_mask has its mask_mod")
    is_derived = isinstance(block_mask, BlockMask) and not block_mask.has_given_lists
    if not is_derived and not hasattr(block_mask, "kv_num_blocks"):
        raise TypeError(f"block_mask: expected a BlockMask, found {type(block_mask).__name__}; "
                        "a mask_mod function goes to mask_mod=")
    *batch_dims, mask_q, mask_kv = block_mask.shape
    lengths = (query.shape[-2], key.shape[-2])
    if lengths != (mask_q, mask_kv) and tuple(block_mask.BLOCK_SIZE) != given_lists.NO_BLOCKS:
        raise ValueError(f"block_mask was created for block_mask.shape={tuple(block_mask.shape)} but got q_len={lengths[0]} "
                         f"and kv_len={lengths[1]}. Create one of these lengths, or call block_mask._adjust{lengths}.")
    given_lists.check_batch_dims(batch_dims, query.shape)
    if is_derived:
        derived: Mod = block_mask.mask_mod
        return derived
    given_lists.check_device(block_mask, query)
    kinds = given_lists.kinds_on(torch, block_mask, query.device)
    return given_lists.mask_of(kinds, block_mask.BLOCK_SIZE, block_mask.mask_mod)


class _FlexAttention(HigherOrderOperator):
    """A call with its mods as functions, as Dynamo traces it."""

    def __init__(self) -> None:
        super().__init__("heed_flex_attention")  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any) -> Any:
        """A call that did not fit into a graph: as without torch.compile."""
        return torch._dynamo.disable(_call)(*args)  # type: ignore[no-untyped-call]


_flex_attention = _FlexAttention()


class _Variable(higher_order_ops.TorchHigherOrderOperatorVariable):
    """How Dynamo traces _flex_attention: as a node of flex_attention_op, with the mods printed."""

    _HOP_NAME = "heed.flex_attention"

    def python_type(self) -> type:
        return _FlexAttention

    def _call_function(self, tx: Any, args: list[VariableTracker], kwargs: dict[str, VariableTracker]) -> VariableTracker:
        query, key, value, score_mod, mask_mod, *options = args
        program = _Program()
        for kind, mod in (("score_mod", score_mod), ("mask_mod", mask_mod)):
            if not (mod.is_python_constant() and mod.as_python_constant() is None):
                program.add(kind, *self._graph(tx, kind, mod, query))
        arguments = [x.as_proxy() for x in (query, key, value)]
        captured = [program.captures[kind] for kind in ("tensors", "integers", "floats")]
        node = tx.output.create_proxy("call_function", torch.ops.heed.flex_attention.default,
                                      (*arguments, program.text(), *captured, *(x.as_proxy() for x in options)), {})
        result: VariableTracker = wrap_fx_proxy(tx, node)
        return result

    def _graph(self, tx: Any, kind: str, mod: VariableTracker, query: VariableTracker) -> tuple[torch.fx.Graph, list[Any]]:
        """What a mod does, as a graph, and the proxies of its inputs behind the mod's arguments."""

        def scalar(dtype: torch.dtype) -> VariableTracker:
            return query.call_method(tx, "new_empty", [VariableTracker.build(tx, [])], {"dtype": VariableTracker.build(tx, dtype)})

        with higher_order_ops.discard_graph_changes(tx):
            inputs = [scalar(torch.float32)] if kind == "score_mod" else []
            inputs += [scalar(torch.int32) for _ in _Program.COORDINATES]
        # A tensor that is indexed by a number, itself a tensor, does not need the number's value: the mode sees to that.
        # Restoring side effects loses attributes of objects that were made before (torch 2.13); mods have none to restore.
        with TransformGetItemToIndex():
            _, graph, lifted = higher_order_ops.speculate_subgraph(
                tx, mod, inputs, {}, f"heed.flex_attention: {kind}", source_target=self.value, restore_side_effects=False,
                set_subgraph_inputs="flatten_manual", supports_input_mutation=False)
        return graph, list(lifted)


higher_order_ops._hop_name_to_variable_class["heed_flex_attention"] = _Variable
meet_torch()  # graphs may make BlockMasks before anybody else does
