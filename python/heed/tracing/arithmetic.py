# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Torch's and NumPy's element-wise operations, in terms of the language's.

Each function takes the graph and nodes of any type, promotes them as torch does with 0-d tensors, and
gives a node. What the language has no word for is expanded here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from heed.tracing.errors import fail
from heed.tracing.expressions import COMPARISONS, Graph, Node

Operation = Callable[..., Node]


def _number(g: Graph, x: Node) -> Node:
    return g.cast("i32", x) if x.type == "bool" else x


def real(g: Graph, x: Node) -> Node:
    return g.cast("f32", x)


def truth(g: Graph, x: Node) -> Node:
    """x != 0, as the logical_ functions see it."""
    if x.type == "bool":
        return x
    return g.operate("!=", "bool", x, g.constant(0, x.type))


def _numeric(g: Graph, op: str, a: Node, b: Node) -> Node:
    type, nodes = g.common(_number(g, a), _number(g, b))
    return g.operate(op, type, *nodes)


def _with_bools(g: Graph, op: str, bool_op: str, a: Node, b: Node) -> Node:
    """`op` of numbers, which is `bool_op` of two bools."""
    if a.type == b.type == "bool":
        return g.operate(bool_op, "bool", a, b)
    return _numeric(g, op, a, b)


def add(g: Graph, a: Node, b: Node) -> Node:
    return _with_bools(g, "+", "|", a, b)


def sub(g: Graph, a: Node, b: Node) -> Node:
    if a.type == b.type == "bool":
        fail("'-' of two bools is not defined; use '^', or cast with .int()")
    return _numeric(g, "-", a, b)


def mul(g: Graph, a: Node, b: Node) -> Node:
    return _with_bools(g, "*", "&", a, b)


def div(g: Graph, a: Node, b: Node) -> Node:
    return g.operate("/", "f32", real(g, a), real(g, b))


def floordiv(g: Graph, a: Node, b: Node) -> Node:
    return _numeric(g, "//", a, b)


def mod(g: Graph, a: Node, b: Node) -> Node:
    return _numeric(g, "%", a, b)


def trunc(g: Graph, x: Node) -> Node:
    """Towards zero."""
    if x.type != "f32":
        return x
    return where(g, compare(g, "<", x, g.constant(0.0)), ceil(g, x), floor(g, x))


def truncdiv(g: Graph, a: Node, b: Node) -> Node:
    """Division rounded towards zero."""
    if "f32" in (a.type, b.type):
        return trunc(g, div(g, a, b))
    negative = compare(g, "<", xor(g, a, b), g.constant(0))
    quotient = floordiv(g, absolute(g, a), absolute(g, b))
    return where(g, negative, neg(g, quotient), quotient)


def fmod(g: Graph, a: Node, b: Node) -> Node:
    """The remainder with the dividend's sign."""
    remainder = mod(g, absolute(g, a), absolute(g, b))
    return where(g, compare(g, "<", a, g.constant(0)), neg(g, remainder), remainder)


def neg(g: Graph, x: Node) -> Node:
    if x.type == "bool":
        fail("'-' of a bool is not defined; use '~', or cast with .int()")
    return g.operate("neg", x.type, x)


def invert(g: Graph, x: Node) -> Node:
    if x.type == "f32":
        fail("'~' of a float is not defined")
    return g.operate("not", x.type, x)


def logical_not(g: Graph, x: Node) -> Node:
    return g.operate("not", "bool", truth(g, x))


def absolute(g: Graph, x: Node) -> Node:
    if x.type == "bool" or g.bounds(x)[0] is not None and (g.bounds(x)[0] or 0) >= 0:
        return x
    return g.operate("abs", x.type, x)


def compare(g: Graph, op: str, a: Node, b: Node) -> Node:
    if a.type == b.type == "bool" and op in ("==", "!="):
        return g.operate(op, "bool", a, b)
    if a.type == b.type == "bool" or a.type != b.type:
        a, b = _number(g, a), _number(g, b)
    _, nodes = g.common(a, b)
    return g.operate(op, "bool", *nodes)


def _bitwise(g: Graph, op: str, a: Node, b: Node) -> Node:
    if "f32" in (a.type, b.type):
        fail(f"'{op}' of floats is not defined; compare first, as in (x > 0) {op} (y > 0)")
    if a.type != b.type:
        a, b = _number(g, a), _number(g, b)
    type, nodes = g.common(a, b)
    return g.operate(op, type, *nodes)


def bitand(g: Graph, a: Node, b: Node) -> Node:
    return _bitwise(g, "&", a, b)


def bitor(g: Graph, a: Node, b: Node) -> Node:
    return _bitwise(g, "|", a, b)


def xor(g: Graph, a: Node, b: Node) -> Node:
    return _bitwise(g, "^", a, b)


def logical_and(g: Graph, a: Node, b: Node) -> Node:
    return g.operate("&", "bool", truth(g, a), truth(g, b))


def logical_or(g: Graph, a: Node, b: Node) -> Node:
    return g.operate("|", "bool", truth(g, a), truth(g, b))


def logical_xor(g: Graph, a: Node, b: Node) -> Node:
    return g.operate("^", "bool", truth(g, a), truth(g, b))


def _shift(g: Graph, op: str, a: Node, b: Node) -> Node:
    """In torch a shift by the width or more leaves 0, or the sign; in the language it counts modulo the width."""
    if "f32" in (a.type, b.type):
        fail(f"'{op}' of floats is not defined; cast with .int()")
    type, (a, b) = g.common(_number(g, a), _number(g, b))
    last = 63 if type == "i64" else 31
    low, high = g.bounds(b)
    inside = low is not None and low >= 0 and high is not None and high <= last
    if inside:
        return g.operate(op, type, a, b)
    if op == ">>":
        limit = g.constant(last, type)
        outside = compare(g, "<", b, g.constant(0)) if low is None or low < 0 else g.constant(False)
        return g.operate(op, type, a, where(g, outside, limit, minimum(g, b, limit)))
    outside = compare(g, ">", b, g.constant(last))
    if low is None or low < 0:
        outside = logical_or(g, compare(g, "<", b, g.constant(0)), outside)
    if b.is_constant:
        return g.constant(0, type) if outside.data else g.operate(op, type, a, b)
    return where(g, outside, g.constant(0, type), g.operate(op, type, a, b))


def lshift(g: Graph, a: Node, b: Node) -> Node:
    return _shift(g, "<<", a, b)


def rshift(g: Graph, a: Node, b: Node) -> Node:
    return _shift(g, ">>", a, b)


def where(g: Graph, condition: Node, a: Node, b: Node) -> Node:
    if condition.type != "bool":
        fail(f"the condition of where must be bool, found {condition.type}; compare it, as in `x != 0`")
    if a.type != b.type:
        type, (a, b) = g.common(a, b)
    return g.operate("where", a.type, condition, a, b)


def minimum(g: Graph, a: Node, b: Node) -> Node:
    return _with_bools(g, "min", "&", a, b)


def maximum(g: Graph, a: Node, b: Node) -> Node:
    return _with_bools(g, "max", "|", a, b)


def clamp(g: Graph, x: Node, low: Node | None, high: Node | None) -> Node:
    if low is None and high is None:
        fail("clamp needs a lower or an upper bound")
    if low is None:
        return minimum(g, x, high)  # type: ignore[arg-type]
    if high is None:
        return maximum(g, x, low)
    type, nodes = g.common(_number(g, x), _number(g, low), _number(g, high))
    return g.operate("clamp", type, *nodes)


def math_function(name: str) -> Operation:
    """A function of the language that takes and gives f32."""

    def function(g: Graph, x: Node) -> Node:
        return g.operate(name, "f32", real(g, x))

    return function


def floor(g: Graph, x: Node) -> Node:
    return g.operate("floor", "f32", x) if x.type == "f32" else _number(g, x)


def ceil(g: Graph, x: Node) -> Node:
    return g.operate("ceil", "f32", x) if x.type == "f32" else _number(g, x)


def rint(g: Graph, x: Node) -> Node:
    """To the nearest integer, halves to the even one."""
    if x.type != "f32":
        return _number(g, x)
    low = floor(g, x)
    rest = sub(g, x, low)
    odd = compare(g, "!=", mod(g, low, g.constant(2.0)), g.constant(0.0))
    half = g.constant(0.5)
    up = logical_or(g, compare(g, ">", rest, half), logical_and(g, compare(g, "==", rest, half), odd))
    return add(g, low, where(g, up, g.constant(1.0), g.constant(0.0)))


def exp(g: Graph, x: Node) -> Node:
    return g.operate("exp", "f32", real(g, x))


def square(g: Graph, x: Node) -> Node:
    return mul(g, x, x)


def reciprocal(g: Graph, x: Node) -> Node:
    return div(g, g.constant(1.0), x)


def relu(g: Graph, x: Node) -> Node:
    return maximum(g, x, g.constant(0))


def sign(g: Graph, x: Node) -> Node:
    x = _number(g, x)
    zero, one = g.constant(0, x.type), g.constant(1, x.type)
    below = where(g, compare(g, "<", x, zero), neg(g, one), zero)
    return where(g, compare(g, ">", x, zero), one, below)


def isnan(g: Graph, x: Node) -> Node:
    return compare(g, "!=", x, x) if x.type == "f32" else g.constant(False)


def isinf(g: Graph, x: Node) -> Node:
    return compare(g, "==", absolute(g, x), g.constant(math.inf)) if x.type == "f32" else g.constant(False)


def isfinite(g: Graph, x: Node) -> Node:
    return compare(g, "<", absolute(g, x), g.constant(math.inf)) if x.type == "f32" else g.constant(True)


def expm1(g: Graph, x: Node) -> Node:
    """exp(x) - 1, without cancellation: 2 tanh(x/2) / (1 - tanh(x/2)) where x is small."""
    x = real(g, x)
    half = g.operate("tanh", "f32", mul(g, g.constant(0.5), x))
    small = div(g, mul(g, g.constant(2.0), half), sub(g, g.constant(1.0), half))
    near = compare(g, "<", absolute(g, x), g.constant(0.5))
    return where(g, near, small, sub(g, exp(g, x), g.constant(1.0)))


def log10(g: Graph, x: Node) -> Node:
    return mul(g, g.operate("log", "f32", real(g, x)), g.constant(1 / math.log(10)))


def tan(g: Graph, x: Node) -> Node:
    x = real(g, x)
    return div(g, g.operate("sin", "f32", x), g.operate("cos", "f32", x))


def softplus(g: Graph, x: Node, beta: Node | None = None, threshold: Node | None = None) -> Node:
    """log(1 + exp(x)); x itself where it is so large that the difference is nothing."""
    beta = g.constant(1.0) if beta is None else beta
    scaled = x if beta.is_constant and beta.data == 1 else mul(g, beta, x)
    x = real(g, x)
    soft = g.operate("log1p", "f32", exp(g, scaled))
    if scaled is not x:
        soft = div(g, soft, beta)
    return where(g, compare(g, ">", scaled, threshold or g.constant(20.0)), x, soft)


def logsigmoid(g: Graph, x: Node) -> Node:
    """min(x, 0) - log(1 + exp(-|x|))."""
    x = real(g, x)
    tail = g.operate("log1p", "f32", exp(g, neg(g, absolute(g, x))))
    return sub(g, minimum(g, x, g.constant(0.0)), tail)


def gelu_tanh(g: Graph, x: Node) -> Node:
    x = real(g, x)
    cubed = mul(g, g.constant(0.044715), mul(g, mul(g, x, x), x))
    inner = mul(g, g.constant(math.sqrt(2 / math.pi)), add(g, x, cubed))
    return mul(g, mul(g, g.constant(0.5), x), add(g, g.constant(1.0), g.operate("tanh", "f32", inner)))


def leaky_relu(g: Graph, x: Node, slope: Node) -> Node:
    x = real(g, x)
    return where(g, compare(g, ">", x, g.constant(0.0)), x, mul(g, x, slope))


def elu(g: Graph, x: Node, alpha: Node) -> Node:
    x = real(g, x)
    return where(g, compare(g, ">", x, g.constant(0.0)), x, mul(g, alpha, expm1(g, x)))


def _integer_power(g: Graph, x: Node, exponent: int) -> Node:
    """By repeated squaring."""
    result = g.constant(1, x.type)
    while exponent:
        if exponent & 1:
            result = x if result.is_constant else mul(g, result, x)
        exponent >>= 1
        x = mul(g, x, x) if exponent else x
    return result


def power(g: Graph, x: Node, y: Node) -> Node:
    x, y = _number(g, x), _number(g, y)
    if y.is_constant and float(y.data).is_integer() and abs(y.data) <= 64:
        exponent = int(y.data)
        type = "f32" if "f32" in (x.type, y.type) else x.type
        if exponent == 0:
            return g.constant(1, type)
        if exponent < 0 and type != "f32":
            fail("an integer to a negative power is not an integer; write the base as a float")
        result = _integer_power(g, g.cast(type, x), abs(exponent))
        return reciprocal(g, result) if exponent < 0 else result
    if y.is_constant and y.data == 0.5:
        return g.operate("sqrt", "f32", real(g, x))
    if "f32" not in (x.type, y.type):
        if x.is_constant and x.data == 2:
            return lshift(g, g.cast(g.common(x, y)[0], g.constant(1)), y)
        fail("an integer to the power of a traced integer is not supported; write the base as a float")
    if x.is_constant and x.data == 2:
        return g.operate("exp2", "f32", real(g, y))
    return g.operate("pow", "f32", real(g, x), real(g, y))


NARROW = ("int8", "int16", "uint8", "uint16")  # integer types that the language has no values of


def value_type(name: str) -> str:
    """The type of the language that holds the values of a dtype."""
    if name == "bool":
        return "bool"
    if name in ("int64", "uint32", "uint64"):
        return "i64"
    if name.startswith(("int", "uint")):
        return "i32"
    if name.startswith(("float", "bfloat")):
        return "f32"
    fail(f"values of {name} cannot be traced")


def cast(name: str) -> Operation:
    """A cast to a dtype, in the type of the language that holds its values."""
    if name in NARROW:
        return _narrow(name)
    type = value_type(name)
    return lambda g, x: g.cast(type, x)


def _narrow(name: str) -> Operation:
    """A cast to one of NARROW: wraps around."""
    bits, signed = int(name.lstrip("uint")), not name.startswith("u")

    def function(g: Graph, x: Node) -> Node:
        x = g.cast("i32", x)
        if not signed:
            return bitand(g, x, g.constant(2**bits - 1))
        amount = g.constant(32 - bits)
        return rshift(g, lshift(g, x, amount), amount)

    return function


def comparison(op: str) -> Operation:
    def function(g: Graph, a: Node, b: Node) -> Node:
        return compare(g, op, a, b)

    return function


COMPARE = {op: comparison(op) for op in COMPARISONS}
