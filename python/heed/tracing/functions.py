# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The functions of torch and NumPy that a mod may use, by name, with their arguments.

Names that mean the same in both libraries share an entry; so do a function and the method of that name.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heed.tracing import arithmetic, formulas, indexing, tensors
from heed.tracing.errors import fail
from heed.tracing.expressions import Node
from heed.tracing.proxies import TensorProxy, Traced, is_traced

if TYPE_CHECKING:
    from heed.tracing.tracer import Tracer

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def _names(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


def _elementwise(operation: arithmetic.Operation, count: int, scaled: int = 1) -> Callable[..., Any]:
    """A function of `count` arrays. `scaled`: the one that alpha=... multiplies."""
    def function(tracer: Tracer, *args: Any, out: None = None, dtype: Any = None, alpha: Any = 1, **kwargs: Any) -> Any:
        operands = [*args, *(kwargs.pop(name) for name in ("input", "self", "other", "exponent") if name in kwargs)]
        if len(operands) != count or kwargs:
            raise TypeError
        if alpha != 1:  # torch.add(x, y, alpha=2)
            operands[scaled] = operands[scaled] * alpha
        result = tracer.apply(operation, *operands)
        return result if dtype is None else tracer.cast(result, dtype)

    return function


def _swap(operation: arithmetic.Operation) -> arithmetic.Operation:
    return lambda g, a, b: operation(g, b, a)


_UNARY: dict[str, arithmetic.Operation] = {
    "neg": arithmetic.neg, "negative": arithmetic.neg, "abs": arithmetic.absolute, "absolute": arithmetic.absolute,
    "fabs": arithmetic.absolute, "bitwise_not": arithmetic.invert, "invert": arithmetic.invert,
    "logical_not": arithmetic.logical_not, "exp": arithmetic.exp, "expm1": arithmetic.expm1, "log10": arithmetic.log10,
    "tan": arithmetic.tan, "floor": arithmetic.floor, "ceil": arithmetic.ceil, "trunc": arithmetic.trunc,
    "fix": arithmetic.trunc, "rint": arithmetic.rint, "square": arithmetic.square, "reciprocal": arithmetic.reciprocal,
    "relu": arithmetic.relu, "sign": arithmetic.sign, "sgn": arithmetic.sign, "isnan": arithmetic.isnan,
    "isinf": arithmetic.isinf, "isfinite": arithmetic.isfinite, "logsigmoid": arithmetic.logsigmoid,
    "log_sigmoid": arithmetic.logsigmoid, "expit": arithmetic.math_function("sigmoid"),
    **{name: arithmetic.math_function(name)
       for name in ("exp2", "log", "log2", "log1p", "tanh", "sin", "cos", "sqrt", "rsqrt", "erf", "sigmoid", "silu")},
}
_BINARY: dict[str, arithmetic.Operation] = {
    "add": arithmetic.add, "sub": arithmetic.sub, "subtract": arithmetic.sub, "mul": arithmetic.mul,
    "multiply": arithmetic.mul, "truediv": arithmetic.div, "true_divide": arithmetic.div,
    "floor_divide": arithmetic.floordiv, "floordiv": arithmetic.floordiv, "remainder": arithmetic.mod,
    "mod": arithmetic.mod, "fmod": arithmetic.fmod, "pow": arithmetic.power, "power": arithmetic.power,
    "float_power": lambda g, x, y: arithmetic.power(g, arithmetic.real(g, x), y),
    "minimum": arithmetic.minimum, "maximum": arithmetic.maximum, "logical_and": arithmetic.logical_and,
    "logical_or": arithmetic.logical_or, "logical_xor": arithmetic.logical_xor, "bitwise_and": arithmetic.bitand,
    "and": arithmetic.bitand, "bitwise_or": arithmetic.bitor, "or": arithmetic.bitor, "bitwise_xor": arithmetic.xor,
    "xor": arithmetic.xor, "bitwise_left_shift": arithmetic.lshift, "left_shift": arithmetic.lshift,
    "lshift": arithmetic.lshift, "bitwise_right_shift": arithmetic.rshift, "right_shift": arithmetic.rshift,
    "rshift": arithmetic.rshift, "heaviside": lambda g, x, y: arithmetic.where(
        g, arithmetic.compare(g, "==", x, g.constant(0)), y, g.cast(y.type, arithmetic.compare(g, ">", x, g.constant(0)))),
    **{name: arithmetic.COMPARE[op] for op, names in
       {"==": "eq equal", "!=": "ne not_equal", "<": "lt less", "<=": "le less_equal", ">": "gt greater",
        ">=": "ge greater_equal"}.items() for name in names.split()},
}
_REFLECTED = {"rsub": "sub", "rdiv": "truediv", "rtruediv": "truediv", "rpow": "pow", "rfloordiv": "floordiv",
              "rmod": "mod", "rremainder": "mod", "radd": "add", "rmul": "mul", "rand": "and", "ror": "or", "rxor": "xor",
              "rlshift": "lshift", "rrshift": "rshift"}
FUNCTIONS.update({name: _elementwise(operation, 1) for name, operation in _UNARY.items()})
FUNCTIONS.update({name: _elementwise(operation, 2) for name, operation in _BINARY.items()})
FUNCTIONS.update({name: _elementwise(_swap(_BINARY[of]), 2, scaled=0) for name, of in _REFLECTED.items()})


@_names("where")
def _where(tracer: Tracer, condition: Any, input: Any, other: Any) -> Any:
    return tracer.apply(arithmetic.where, condition, input, other)


@_names("masked_fill")
def _masked_fill(tracer: Tracer, input: Any, mask: Any, value: Any) -> Any:
    return tracer.apply(arithmetic.where, mask, value, input)


@_names("div", "divide")
def _div(tracer: Tracer, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    modes = {None: arithmetic.div, "floor": arithmetic.floordiv, "trunc": arithmetic.truncdiv}
    return tracer.apply(modes[rounding_mode], input, other)


@_names("clamp", "clip")
def _clamp(tracer: Tracer, input: Any, min: Any = None, max: Any = None, *, a_min: Any = None, a_max: Any = None) -> Any:
    low, high = a_min if min is None else min, a_max if max is None else max
    bounds = [bound for bound in (low, high) if bound is not None]

    def operation(g: Any, x: Node, *nodes: Node) -> Node:
        given = iter(nodes)
        return arithmetic.clamp(g, x, None if low is None else next(given), None if high is None else next(given))

    return tracer.apply(operation, input, *bounds)


@_names("clamp_min")
def _clamp_min(tracer: Tracer, input: Any, min: Any) -> Any:
    return _clamp(tracer, input, min)


@_names("clamp_max")
def _clamp_max(tracer: Tracer, input: Any, max: Any) -> Any:
    return _clamp(tracer, input, None, max)


@_names("round", "around")
def _round(tracer: Tracer, input: Any, decimals: int = 0) -> Any:
    if decimals == 0:
        return tracer.apply(arithmetic.rint, input)
    factor = 10.0**decimals
    return tracer.apply(arithmetic.div, tracer.apply(arithmetic.rint, input * factor), factor)


@_names("gelu")
def _gelu(tracer: Tracer, input: Any, approximate: str = "none") -> Any:
    exact = arithmetic.math_function("gelu")
    return tracer.apply({"none": exact, "tanh": arithmetic.gelu_tanh}[approximate], input)


@_names("softplus")
def _softplus(tracer: Tracer, input: Any, beta: Any = 1.0, threshold: Any = 20.0) -> Any:
    return tracer.apply(arithmetic.softplus, input, beta, threshold)


@_names("leaky_relu")
def _leaky_relu(tracer: Tracer, input: Any, negative_slope: Any = 0.01) -> Any:
    return tracer.apply(arithmetic.leaky_relu, input, negative_slope)


@_names("elu")
def _elu(tracer: Tracer, input: Any, alpha: Any = 1.0) -> Any:
    return tracer.apply(arithmetic.elu, input, alpha)


@_names("lerp")
def _lerp(tracer: Tracer, input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


class _Functions:
    """FUNCTIONS, as formulas call them."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        return functools.partial(FUNCTIONS[name], self._tracer)


def _formula(formula: formulas.Formula, is_real: bool) -> Callable[..., Any]:
    def operand(tracer: Tracer, value: Any) -> Any:
        lifted = tracer.lift(value)
        if lifted is None:
            return value
        if lifted._host is not None:  # the operators of the formula are to be traced, not Python's
            lifted = Traced(tracer, lifted._node)
        return tracer.cast(lifted, "float32") if is_real else lifted

    def function(tracer: Tracer, *args: Any, **kwargs: Any) -> Any:
        return formula(_Functions(tracer), *(operand(tracer, arg) for arg in args),
                       **{name: operand(tracer, arg) for name, arg in kwargs.items()})

    return function


for _table, _is_real in ((formulas.REAL, True), (formulas.ANY, False)):
    for _aliases, _each in _table.items():
        FUNCTIONS.update(dict.fromkeys(_aliases.split(), _formula(_each, _is_real)))
# What torch.special has under a name of its own.
FUNCTIONS.update({f"special_{name}": FUNCTIONS[name] for name in
                  "erf erfc exp2 expit expm1 log1p logit ndtr round sinc xlog1py xlogy".split()})


# ---- Types and constants ----


@_names("to", "type", "type_as", "asarray", "as_tensor", "from_numpy")
def _to(tracer: Tracer, input: Any, *args: Any, dtype: Any = None, copy: bool = False, **kwargs: Any) -> Any:
    """Floats narrower or wider than float32 stay float32: that is what scores are computed in."""
    if type(input) in (list, tuple):
        return _stack(tracer, input)
    candidates = [arg for arg in args if _is_dtype(arg)] + [arg.dtype for arg in args if hasattr(arg, "dtype")]
    chosen = dtype if dtype is not None else candidates[0] if candidates else None
    result = input if chosen is None else _converted(tracer, input, chosen)
    return _copy(tracer, result) if copy else result


@_names("tensor", "array", "astype")
def _tensor(tracer: Tracer, *args: Any, copy: bool = True, **kwargs: Any) -> Any:
    return _to(tracer, *args, copy=copy, **kwargs)


def _converted(tracer: Tracer, input: Any, dtype: Any) -> Any:
    """A cast, which gives a tensor itself where that is of the type already."""
    if is_traced(input) and input._host is None and not indexing.is_unread(input):
        if tensors.dtype_name(input.dtype) == tensors.dtype_name(dtype):
            return input
    return tracer.cast(input, dtype)


def _is_dtype(value: Any) -> bool:
    module = tensors.torch()
    if module is not None and isinstance(value, module.dtype):
        return True
    if isinstance(value, str):
        return value.removeprefix("torch.") in _CAST_NAMES
    return isinstance(value, type) or type(value).__module__.startswith("numpy")


_CASTS = {"float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16", "int": "int32",
          "long": "int64", "short": "int16", "char": "int8", "byte": "uint8", "bool": "bool"}
_CAST_NAMES = frozenset(_CASTS.values())


def _cast_to(name: str) -> Callable[..., Any]:
    return lambda tracer, input: _converted(tracer, input, name)


FUNCTIONS.update({name: _cast_to(dtype) for name, dtype in _CASTS.items()})


@_names("full_like", "new_full", "full")
def _full_like(tracer: Tracer, input: Any, *args: Any, fill_value: Any = None, dtype: Any = None, size: Any = (),
               **kwargs: Any) -> Any:
    """full_like(x, value), x.new_full(size, value) and torch.full(size, traced value)."""
    *sizes, value = (*args, fill_value) if fill_value is not None else args
    value = _of_size(tracer, value, sizes[0] if sizes else input if type(input) in (tuple, list) else size)
    if dtype is not None:
        return tracer.cast(value, dtype)
    return tracer.cast(value, input.dtype) if is_traced(input) else value


def _of_size(tracer: Tracer, value: Any, size: Any) -> Traced:
    if tuple(size) not in ((), (1,)):
        fail(f"a mod cannot make a tensor of shape {tuple(size)}; it sees one element at a time")
    value = tracer.lift_number(value)
    return Traced(tracer, (value._scalar,)) if size else value


def _filled(value: int) -> Callable[..., Any]:
    def function(tracer: Tracer, input: Any, *size: Any, dtype: Any = None, **kwargs: Any) -> Any:
        size = kwargs.get("size", size)
        made = _of_size(tracer, value, size[0] if size and type(size[0]) in (tuple, list) else size)
        return tracer.cast(made, input.dtype if dtype is None else dtype)

    return function


FUNCTIONS.update({"zeros_like": _filled(0), "ones_like": _filled(1), "new_zeros": _filled(0), "new_ones": _filled(1)})


@_names("new_tensor")
def _new_tensor(tracer: Tracer, input: Any, data: Any, dtype: Any = None, **kwargs: Any) -> Any:
    return tracer.cast(tracer.lift_number(data), input.dtype if dtype is None else dtype)


@_names("contiguous", "detach", "cpu", "cuda", "alias", "positive")
def _same(tracer: Tracer, input: Any, *args: Any, **kwargs: Any) -> Any:
    return input


@_names("clone", "copy")
def _copy(tracer: Tracer, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Another value, which stays when the first one is changed in place."""
    return input if indexing.is_unread(input) else Traced(tracer, input._node, input._host)


def _shaped(repeats: bool) -> Callable[..., Any]:
    """Shapes of no axis or one, which is all that a value in a mod has."""
    def function(tracer: Tracer, input: Any, *shape: Any) -> Any:
        sizes = shape[0] if len(shape) == 1 and type(shape[0]) in (tuple, list) else shape
        elements = tracer.lanes(input) if input.shape else (input._node,)
        count = sizes[0] if sizes else 1
        if len(sizes) > 1 or not (count in (-1, len(elements)) or repeats and len(elements) == 1):
            fail(f"a value of {len(elements)} elements in a mod cannot get shape {tuple(sizes)}; it sees one element at a time")
        if not sizes:
            return input._viewed(Traced(tracer, elements[0]))
        return input if input.shape and count in (-1, len(elements)) else input._viewed(Traced(tracer, elements * abs(count)))

    return function


FUNCTIONS.update({"reshape": _shaped(False), "view": _shaped(False), "expand": _shaped(True), "broadcast_to": _shaped(True)})


@_names("expand_as")
def _expand_as(tracer: Tracer, input: Any, other: Any) -> Any:
    return input.expand(other.shape) if input.shape else input


@_names("flatten", "ravel")
def _flatten(tracer: Tracer, input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return FUNCTIONS["reshape"](tracer, input, -1)


@_names("squeeze")
def _squeeze(tracer: Tracer, input: Any, dim: Any = None, axis: Any = None) -> Any:
    return FUNCTIONS["reshape"](tracer, input, ()) if input.shape == (1,) else input


@_names("unsqueeze", "atleast_1d")
def _unsqueeze(tracer: Tracer, input: Any, dim: int = 0) -> Any:
    if input.shape:
        fail("a vector in a mod cannot get another axis")
    return input._viewed(Traced(tracer, (input._node,)))


@_names("stack")
def _stack(tracer: Tracer, values: Any, dim: int = 0, **kwargs: Any) -> Any:
    lifted = [tracer.lift_number(value) for value in values]
    if any(value.shape for value in lifted):
        fail("only single values can be stacked in a mod")
    type, nodes = tracer.graph.common(*(value._scalar for value in lifted))
    return Traced(tracer, tuple(nodes))


@_names("is_tensor")
def _is_tensor(tracer: Tracer, input: Any) -> bool:
    return True


@_names("is_floating_point")
def _is_floating_point(tracer: Tracer, input: Any) -> bool:
    return tensors.dtype_name(input.dtype).startswith(("float", "bfloat"))


@_names("dim")
def _dim(tracer: Tracer, input: Any) -> int:
    return len(input.shape)


@_names("size")
def _size(tracer: Tracer, input: Any, dim: int | None = None) -> Any:
    return input.shape if dim is None else input.shape[dim]


@_names("numel")
def _numel(tracer: Tracer, input: Any) -> int:
    return math.prod(map(int, input.shape))


# ---- Of captured tensors ----


def _view(name: str, of_value: Callable[..., Any] | None) -> Callable[..., Any]:
    """A view of a whole captured tensor, or what the name means for a value."""
    def function(tracer: Tracer, input: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(input, TensorProxy) and input.ndim:
            return indexing.view(tracer, input, name, *args, **kwargs)
        if of_value is None:
            raise TypeError
        return of_value(tracer, input, *args, **kwargs)

    return function


FUNCTIONS.update({name: _view(name, FUNCTIONS.get(name)) for name in indexing.VIEWS})


@_names("select")
def _select(tracer: Tracer, input: Any, dim: Any, index: Any = 0) -> Any:
    """torch.select, or np.select of conditions, values and a default."""
    if type(input) in (list, tuple):
        pairs = list(zip(input, dim))[::-1]
        return functools.reduce(lambda rest, pair: tracer.apply(arithmetic.where, *pair, rest), pairs, index)
    return input[(slice(None),) * (dim % input.ndim) + (index,)]


@_names("index_select")
def _index_select(tracer: Tracer, input: Any, dim: int, index: Any) -> Any:
    """The index has an axis. If that has one element, the result's other axes may stay."""
    if input.ndim > 1 and len(index) == 1:
        return input[(slice(None),) * (dim % input.ndim) + (index[0], None)]
    return _select(tracer, input, dim, index)


@_names("take")
def _take(tracer: Tracer, input: Any, index: Any, axis: int | None = None) -> Any:
    if axis is not None:
        return _select(tracer, input, axis, index)
    return (input if input.ndim == 1 else input.reshape(-1))[index]


@_names("gather")
def _gather(tracer: Tracer, input: Any, dim: int, index: Any) -> Any:
    if input.ndim != 1:
        fail("gather of a tensor with several axes in a mod; index it, as in table[q_idx, index]")
    return input[index]


@_names("take_along_dim", "take_along_axis")
def _take_along(tracer: Tracer, input: Any, index: Any, dim: int | None = None, axis: int | None = None) -> Any:
    return _gather(tracer, input, 0, index)


@_names("embedding")
def _embedding(tracer: Tracer, input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *gradients: Any, **kwargs: Any) -> Any:
    """The row `input` of `weight`; all but max_norm, which changes the weight, is about gradients."""
    if max_norm is not None:
        raise TypeError
    return weight[input]


@_names("searchsorted")
def _searchsorted(tracer: Tracer, sorted_sequence: Any, input: Any, side: str | None = None, *, right: bool = False,
                  out_int32: bool = False, sorter: None = None) -> Any:
    """How many elements are less than `input` (right: or equal), by halving: a step for each bit of the length.

    The length is a run-time number; how many bits it has is a condition of the trace.
    """
    if side not in (None, "left", "right") or sorter is not None:
        raise TypeError
    table, value = tracer.lift_number(sorted_sequence), tracer.lift_number(input)
    if not isinstance(table, (TensorProxy, indexing.Elementwise)) or table.ndim != 1 or value.ndim:
        fail("searchsorted and bucketize in a mod look one value up in a row of a captured tensor, as in torch.searchsorted(offsets[b], q_idx)")
    size = table.shape[0]
    bits = operator.index(tracer.call_of_numbers(int.bit_length, size))
    from_here = arithmetic.COMPARE[">" if right or side == "right" else ">="]
    position: Any = tracer.lift_number(0)
    for bit in reversed(range(bits)):
        following = position + (1 << bit)
        stays = tracer.apply(from_here, table[following - 1], value)  # not where the value is NaN, as in torch
        if bit + 1 < bits:  # the first step is within the table, as it is its length's highest bit
            stays = stays | (following > size)
        position = tracer.apply(arithmetic.where, stays, position, following)
    return position


@_names("bucketize")
def _bucketize(tracer: Tracer, input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    return _searchsorted(tracer, boundaries, input, right=right)


# ---- Of vectors ----


def _vector(tracer: Tracer, input: Any, name: str, dim: Any, kwargs: dict[str, Any]) -> Traced:
    """The vector that a reduction is about."""
    axis = kwargs.pop("axis", None)
    axis = dim if axis is None else axis
    if kwargs.pop("keepdim", False) or kwargs.pop("keepdims", False) or any(v is not None for v in kwargs.values()):
        raise TypeError
    if type(input) in (list, tuple):
        input = _stack(tracer, input)
    vector = tracer.lift_number(input)
    if vector.ndim > 1:
        fail(f"{name} of a tensor with {vector.ndim} axes left: index it down to a row, as in table[:, h].{name}(), or compute it "
             "outside of the mod and capture the result")
    if axis not in (None, 0, -1, (0,), (-1,), [0], [-1]):
        fail(f"{name} along axis {axis}: a vector in a mod has only axis 0")
    return vector if vector.shape else Traced(tracer, (vector._node,))  # type: ignore[arg-type]


def _reduction(op: str, operation: arithmetic.Operation, prepare: arithmetic.Operation) -> Callable[..., Any]:
    def function(tracer: Tracer, input: Any, dim: Any = None, *, dtype: Any = None, **kwargs: Any) -> Any:
        vector = tracer.apply(prepare, _vector(tracer, input, op, dim, kwargs))
        node = vector._node
        if isinstance(node, tuple):
            g = tracer.graph
            return Traced(tracer, functools.reduce(lambda a, b: operation(g, a, b), node))
        if op == "sum" and node.op == "*" and all(arg.lanes for arg in node.args):
            return Traced(tracer, tracer.graph.reduce("dot", *node.args))
        return Traced(tracer, tracer.graph.reduce(op, node))

    return function


FUNCTIONS["sum"] = _reduction("sum", arithmetic.add, lambda g, x: g.cast("i32", x) if x.type == "bool" else x)
FUNCTIONS["count_nonzero"] = _reduction("sum", arithmetic.add, lambda g, x: g.cast("i32", arithmetic.truth(g, x)))
FUNCTIONS["any"] = _reduction("any", arithmetic.logical_or, arithmetic.truth)
FUNCTIONS["all"] = _reduction("all", arithmetic.logical_and, arithmetic.truth)


@_names("isin")
def _isin(tracer: Tracer, elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    if tracer.lift_number(elements).ndim:
        fail("isin in a mod looks one value up, as in torch.isin(kv_idx, sinks)")
    equal = tracer.apply(arithmetic.COMPARE["=="], _vector(tracer, test_elements, "isin", None, {}), elements)
    found = FUNCTIONS["any"](tracer, equal)
    return ~found if invert else found


@_names("norm", "linalg_norm", "linalg_vector_norm")
def _norm(tracer: Tracer, input: Any, ord: Any = None, dim: Any = None, *, p: Any = None, **kwargs: Any) -> Any:
    """Of a vector; `ord`, or `p`, is known while tracing."""
    order = p if ord is None else ord
    order = tracer.concrete(order) if is_traced(order) else order
    sizes = tracer.cast(abs(_vector(tracer, input, "norm", dim, kwargs)), "float32")
    if order in (None, "fro", 2):
        return FUNCTIONS["sum"](tracer, sizes * sizes).sqrt()
    if order in (math.inf, -math.inf):
        return FUNCTIONS["max" if order > 0 else "min"](tracer, sizes)
    if order == 0:
        return FUNCTIONS["count_nonzero"](tracer, sizes).float()
    if type(order) not in (int, float):
        raise TypeError
    return FUNCTIONS["sum"](tracer, sizes**order) ** (1 / order)


@_names("dist")
def _dist(tracer: Tracer, input: Any, other: Any, p: Any = 2) -> Any:
    return _norm(tracer, input - other, p)


@_names("mean", "average")
def _mean(tracer: Tracer, input: Any, dim: Any = None, **kwargs: Any) -> Any:
    vector = _vector(tracer, input, "mean", dim, kwargs)
    return FUNCTIONS["sum"](tracer, vector) / len(vector)


def _extreme(name: str, operation: arithmetic.Operation) -> Callable[..., Any]:
    def function(tracer: Tracer, input: Any, other: Any = None, *, dim: Any = None, **kwargs: Any) -> Any:
        if is_traced(other) and other._host is None or type(other) is float or tensors.is_torch(other):
            return tracer.apply(operation, input, other)
        if tensors.torch() is not None and (dim is not None or other is not None):
            fail(f"{name} along an axis gives indices, too; use torch.a{name}, or torch.{name}imum of two values")
        vector = _vector(tracer, input, name, other if dim is None else dim, kwargs)
        g = tracer.graph
        return Traced(tracer, functools.reduce(lambda a, b: operation(g, a, b), tracer.lanes(vector)))

    return function


def _along(name: str) -> Callable[..., Any]:
    def along(tracer: Tracer, input: Any, dim: Any = None, **kwargs: Any) -> Any:
        return FUNCTIONS[name](tracer, _vector(tracer, input, f"a{name}", dim, kwargs))

    return along


FUNCTIONS["max"] = _extreme("max", arithmetic.maximum)
FUNCTIONS["min"] = _extreme("min", arithmetic.minimum)
FUNCTIONS["amax"] = _along("max")
FUNCTIONS["amin"] = _along("min")


@_names("prod")
def _prod(tracer: Tracer, input: Any, dim: Any = None, **kwargs: Any) -> Any:
    g = tracer.graph
    lanes = tracer.lanes(_vector(tracer, input, "prod", dim, kwargs))
    return Traced(tracer, functools.reduce(lambda a, b: arithmetic.mul(g, a, b), lanes))


@_names("dot", "vdot", "inner", "matmul")
def _dot(tracer: Tracer, input: Any, other: Any) -> Any:
    axes = [tracer.lift_number(value).ndim for value in (input, other)]
    if max(axes) > 1:
        fail(f"a product of tensors with {axes[0]} and {axes[1]} axes left: index a matrix down to a row, as in matrix[h] @ vector")
    if 0 in axes:
        fail("dot needs two vectors, such as rows of captured tensors")
    return FUNCTIONS["sum"](tracer, tracer.apply(arithmetic.mul, input, other))
