# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Functions of torch and NumPy that the language has no word for, as formulas of others.

A formula gets `m`, which has the functions of heed.tracing.functions by name, and traced values. Those of REAL get f32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

Formula = Callable[..., Any]

# atan(t) / t in powers of t², for t in [0, 1]: within 2.4e-9.
_ATAN = (0.9999999976, -0.3333328364, 0.1999826605, -0.1426193311, 0.1094203043, -0.0837731426, 0.0575520753, -0.0308045654,
         0.0107269248, -0.0017539254)
# log(erfc(x) / t) + x² in powers of t = 1 / (1 + x / 2), for x >= 0: within 1.2e-7 (Numerical Recipes, erfcc).
_ERFC = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277)
_F32_MAX = 3.4028234663852886e38


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    return functools.reduce(lambda sum, coefficient: sum * x + coefficient, coefficients[-2::-1], coefficients[-1])


def _atan2(m: Any, input: Any, other: Any) -> Any:
    """The angle of an octant, unfolded. Where both are 0, or both infinite, the quotient is none."""
    y, x = abs(input), abs(other)
    large, small = m.maximum(x, y), m.minimum(x, y)
    slope = m.where(large == small, m.sign(large), small / large)
    angle = slope * _polynomial(_ATAN, slope * slope)
    angle = m.where(y > x, math.pi / 2 - angle, angle)
    return m.copysign(m.where(m.signbit(other), math.pi - angle, angle), input)


def _erfc(m: Any, input: Any) -> Any:
    x = abs(input)
    t = 1 / (1 + 0.5 * x)
    tail = t * m.exp(_polynomial(_ERFC, t) - x * x)
    return m.where(input < 0, 2 - tail, tail)


def _hypot(m: Any, input: Any, other: Any) -> Any:
    """Without squares that overflow; infinite beside a NaN, too, as in C."""
    x, y = abs(input), abs(other)
    large, small = m.maximum(x, y), m.minimum(x, y)
    length = m.where(large == 0, 0.0, large * m.sqrt(1 + m.square(small / large)))
    return m.where(m.isinf(x) | m.isinf(y), math.inf, length)


def _cosh(m: Any, input: Any) -> Any:
    root = m.exp(0.5 * abs(input))  # its square overflows where the result does not
    return 0.5 * root * root + 0.5 / root / root


def _asinh(m: Any, input: Any) -> Any:
    x = abs(input)
    near = m.log1p(x + x * x / (1 + m.sqrt(x * x + 1)))
    return m.copysign(m.where(x > 1e9, m.log(x) + math.log(2), near), input)


def _atanh(m: Any, input: Any) -> Any:
    x = abs(input)
    return m.copysign(0.5 * m.log1p(2 * x / (1 - x)), input)


def _sinc(m: Any, input: Any) -> Any:
    x = input * math.pi
    return m.where(input == 0, 1.0, m.sin(x) / x)


def _signbit(m: Any, input: Any) -> Any:
    if not m.is_floating_point(input):
        return input < 0
    return (input < 0) | (input == 0) & (1 / input < 0)


def _nan_to_num(m: Any, input: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    if not m.is_floating_point(input):
        return m.clone(input)
    kept = m.where(m.isnan(input), 0.0 if nan is None else nan, input)
    kept = m.where(input == math.inf, _F32_MAX if posinf is None else posinf, kept)
    return m.where(input == -math.inf, -_F32_MAX if neginf is None else neginf, kept)


def _isclose(m: Any, input: Any, other: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: Any = False) -> Any:
    near = m.isfinite(other) & (abs(input - other) <= atol + rtol * abs(other))
    return (input == other) | near | m.isnan(input) & m.isnan(other) & equal_nan


def _logit(m: Any, input: Any, eps: Any = None) -> Any:
    x = input if eps is None else m.clamp(input, eps, 1 - eps)
    return m.log(x / (1 - x))


def _unless_zero(function: str) -> Formula:
    """x * function(y), 0 where x is 0 and y a number."""
    return lambda m, input, other: m.where((input == 0) & (other == other), 0.0, input * getattr(m, function)(other))


def _other_if_nan(pick: str) -> Formula:
    def formula(m: Any, input: Any, other: Any) -> Any:
        return m.where(m.isnan(input), other, m.where(m.isnan(other), input, getattr(m, pick)(input, other)))

    return formula


def _modf(m: Any, input: Any) -> tuple[Any, Any]:
    whole = m.trunc(input)
    return m.copysign(m.where(m.isinf(input), 0.0, input - whole), input), m.copysign(whole, input)


def _bitwise_count(m: Any, input: Any) -> Any:
    """Of the absolute value: sums of one bit, two, four and eight beside each other, 32 bits at a time."""
    x = abs(input)
    words = [x.int(), (x >> 32).int()] if str(x.dtype).endswith("int64") else [x.int()]
    count = 0
    for word in words:
        word = word - (word >> 1 & 0x55555555)
        word = (word & 0x33333333) + (word >> 2 & 0x33333333)
        count = ((word + (word >> 4) & 0x0F0F0F0F) * 0x01010101 >> 24) + count
    return count


# Names, separated by spaces, of one formula.
REAL: dict[str, Formula] = {
    "atan2 arctan2": _atan2,
    "atan arctan": lambda m, input: m.atan2(input, 1.0),
    "asin arcsin": lambda m, input: m.atan2(input, m.sqrt((1 - input) * (1 + input))),
    "acos arccos": lambda m, input: m.atan2(m.sqrt((1 - input) * (1 + input)), input),
    "cosh": _cosh,
    "sinh": lambda m, input: m.tanh(input) * m.cosh(input),
    "asinh arcsinh": _asinh,
    "acosh arccosh": lambda m, input: 2 * m.asinh(m.sqrt((input - 1) * 0.5)),
    "atanh arctanh": _atanh,
    "erfc": _erfc,
    "ndtr": lambda m, input: 0.5 * m.erfc(input * -math.sqrt(0.5)),
    "logit": _logit,
    "logaddexp": lambda m, input, other: m.where(
        input == other, input + math.log(2), m.maximum(input, other) + m.log1p(m.exp(-abs(input - other)))),
    "logaddexp2": lambda m, input, other: m.where(
        input == other, input + 1, m.maximum(input, other) + m.log1p(m.exp2(-abs(input - other))) / math.log(2)),
    "hypot": _hypot,
    "cbrt": lambda m, input: m.copysign(m.pow(abs(input), 1 / 3), input),
    "xlogy": _unless_zero("log"), "xlog1py": _unless_zero("log1p"),
    "deg2rad radians": lambda m, input: input * (math.pi / 180),
    "rad2deg degrees": lambda m, input: input * (180 / math.pi),
    "sinc": _sinc,
    "frac": lambda m, input: input - m.trunc(input),
    "modf": _modf,
    "copysign": lambda m, input, other: m.where(m.signbit(other), -abs(input), abs(input)),
    "ldexp": lambda m, input, other: input * m.exp2(other),
    "isposinf": lambda m, input: input == math.inf, "isneginf": lambda m, input: input == -math.inf,
    "hardsigmoid": lambda m, input: m.clamp(input + 3, 0, 6) / 6,
    "hardswish": lambda m, input: input * m.hardsigmoid(input),
    "mish": lambda m, input: input * m.tanh(m.softplus(input)),
    "selu": lambda m, input: 1.0507009873554805 * m.elu(input, 1.6732632423543772),
    "celu": lambda m, input, alpha=1.0: m.where(input > 0, input, alpha * m.expm1(input / alpha)),
    "tanhshrink": lambda m, input: input - m.tanh(input),
    "softsign": lambda m, input: input / (1 + abs(input)),
    "softshrink": lambda m, input, lambd=0.5: m.where(abs(input) > lambd, input - m.copysign(lambd, input), input * 0),
}
ANY: dict[str, Formula] = {
    "signbit": _signbit,
    "isclose": _isclose,
    "nan_to_num": _nan_to_num,
    "fmin": _other_if_nan("minimum"), "fmax": _other_if_nan("maximum"),
    "addcmul": lambda m, input, tensor1, tensor2, value=1: input + value * tensor1 * tensor2,
    "addcdiv": lambda m, input, tensor1, tensor2, value=1: input + value * tensor1 / tensor2,
    "divmod": lambda m, input, other: (input // other, input % other),
    "bitwise_count": _bitwise_count,
    "relu6": lambda m, input: m.clamp(input, 0, 6),
    "hardtanh": lambda m, input, min_val=-1.0, max_val=1.0: m.clamp(input, min_val, max_val),
    "hardshrink": lambda m, input, lambd=0.5: m.where(abs(input) <= lambd, 0, input),
    "threshold": lambda m, input, threshold, value: m.where(input <= threshold, value, input),
    "prelu": lambda m, input, weight: m.where(input > 0, input, weight * input),
}
