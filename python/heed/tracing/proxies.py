# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What a mod sees instead of its arguments and captures: objects that record what is done with them."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from heed.tracing import arithmetic, tensors
from heed.tracing.captures import Path
from heed.tracing.errors import fail
from heed.tracing.expressions import Leaf, Node

if TYPE_CHECKING:
    from heed.tracing.tracer import Tracer

_DTYPES = {"bool": "bool", "i32": "int32", "i64": "int64", "f32": "float32"}
_KINDS = {"bool": 0, "i32": 1, "i64": 1, "f32": 2}  # a tensor can be given values of its kind in place, and of lower ones


def _dtype(type: str) -> Any:
    """torch's dtype of a value type, or of one of arithmetic.NARROW, if the user has torch, else NumPy's."""
    module, name = tensors.torch(), _DTYPES.get(type, type)
    return getattr(module, name) if module else np.dtype(name)


# Operators: what they do to nodes, to Python numbers, and how a fetch function writes them.
_BINARY: dict[str, tuple[arithmetic.Operation, Callable[[Any, Any], Any], str]] = {
    "add": (arithmetic.add, operator.add, "+"),
    "sub": (arithmetic.sub, operator.sub, "-"),
    "mul": (arithmetic.mul, operator.mul, "*"),
    "truediv": (arithmetic.div, operator.truediv, "/"),
    "floordiv": (arithmetic.floordiv, operator.floordiv, "//"),
    "mod": (arithmetic.mod, operator.mod, "%"),
    "pow": (arithmetic.power, operator.pow, "**"),
    "lshift": (arithmetic.lshift, operator.lshift, "<<"),
    "rshift": (arithmetic.rshift, operator.rshift, ">>"),
    "and": (arithmetic.bitand, operator.and_, "&"),
    "or": (arithmetic.bitor, operator.or_, "|"),
    "xor": (arithmetic.xor, operator.xor, "^"),
    "eq": (arithmetic.COMPARE["=="], operator.eq, "=="),
    "ne": (arithmetic.COMPARE["!="], operator.ne, "!="),
    "lt": (arithmetic.COMPARE["<"], operator.lt, "<"),
    "le": (arithmetic.COMPARE["<="], operator.le, "<="),
    "gt": (arithmetic.COMPARE[">"], operator.gt, ">"),
    "ge": (arithmetic.COMPARE[">="], operator.ge, ">="),
}
_REFLECTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor")
_IN_PLACE = _REFLECTED
_UNARY: dict[str, tuple[arithmetic.Operation, Callable[[Any], Any], str]] = {
    "neg": (arithmetic.neg, operator.neg, "-"),
    "invert": (arithmetic.invert, operator.invert, "~"),
    "abs": (arithmetic.absolute, abs, "abs"),
}


class Host:
    """A number that Python knows while tracing: made of captured scalars and sizes only.

    It stays symbolic in the graph; where Python needs the number itself, that becomes a guard.
    """

    __slots__ = ("value", "path")

    def __init__(self, value: Any, path: Path) -> None:
        self.value = value
        self.path = path


class Traced:
    """A value that depends on coordinates or captures: a node, or the nodes of a vector's elements."""

    def __init__(self, tracer: Tracer, value: Node | tuple[Node, ...], host: Host | None = None) -> None:
        self._tracer = tracer
        self._value = value
        self._host = host
        self._has_views = False  # whether another object stands for the same memory, or a part of it

    @property
    def _node(self) -> Node | tuple[Node, ...]:
        return self._value

    @property
    def _scalar(self) -> Node:
        """The node of a single value, or of a vector that the language has."""
        node = self._node
        assert isinstance(node, Node), "a vector where a single value is needed"
        return node

    def _change(self, result: Any) -> Any:
        """What `x += y` and x.add_(y) leave: torch's tensors have the new value under all of their names, Python's numbers are new ones.

        A tensor keeps its shape and type. One that shares memory with another is refused, which would have to change, too."""
        if self._host is not None or result is NotImplemented:
            return result
        if type(self) is not Traced:
            fail("a mod cannot change a captured tensor, nor what it computes of one before it is indexed; write `x = x + y` instead of "
                 "`x += y`, or use torch.where")
        if self._has_views:
            fail("a value is changed in place that shares memory with another one (a view, such as row[0] or x.reshape(1), or what a view was "
                 "taken of, or an element of a captured tensor); write `x = x + y` instead of `x += y`, or change its clone()")
        result = self._tracer.lift_number(result)
        if result.shape != self.shape:
            fail(f"a value of shape {self.shape} is changed in place to one of shape {result.shape}; write `x = x + y` instead of `x += y`")
        before, after = (value.dtype for value in (self, result))
        if _KINDS[result._type] > _KINDS[self._type]:
            fail(f"a value of {before} is changed in place to one of {after}; write `x = x + y` instead of `x += y`, or cast it before")
        self._value = self._tracer.cast(result, before)._node
        return self

    def _viewed(self, view: Traced) -> Traced:
        """`view`, which shares memory with this value."""
        view._has_views = self._has_views = True
        return view

    @property
    def _type(self) -> str:
        """The type of its elements, in the language."""
        node = self._node
        return (node[0] if isinstance(node, tuple) else node).type

    # ---- What torch and NumPy ask for ----

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return _find_tracer(args, kwargs or {}).torch_function(func, args, kwargs or {})

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            fail(f"np.{ufunc.__name__}.{method} is not supported in a mod")
        return self._tracer.dispatch(ufunc.__name__, f"np.{ufunc.__name__}", args, kwargs, ufunc)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._tracer.dispatch(func.__name__, f"np.{func.__name__}", args, kwargs, func)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        fail("a traced value cannot become a NumPy array or scalar; cast with .astype(np.float32)")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._tracer.method(self, name)

    @property
    def dtype(self) -> Any:
        return _dtype(self._type)

    @property
    def device(self) -> Any:
        return tensors.torch().device("cpu") if tensors.torch() else "cpu"

    @property
    def shape(self) -> tuple[Any, ...]:
        node = self._node
        lanes = len(node) if isinstance(node, tuple) else node.lanes
        return () if lanes is None else (lanes,)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    # ---- What Python asks for ----

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance(n, int) holds for a captured int, isinstance(score, torch.Tensor)
        if self._host is not None:
            return type(self._host.value)
        return Traced if (torch := tensors.torch()) is None else torch.Tensor

    def __bool__(self) -> bool:
        if self._host is not None:
            return self._tracer.concrete_of(self._host.path, bool, bool(self._host.value))  # type: ignore[no-any-return]
        fail("the value of a traced condition is not known while tracing: a mod runs once, for all positions; instead "
             "of `if`, `and`, `or`, `not`, min() and max() use torch.where, `&`, `|`, `~`, torch.minimum and "
             "torch.maximum (np.where, ... without torch)")

    def __index__(self) -> int:
        if self._host is not None:
            return operator.index(self._tracer.concrete(self))
        fail("a traced value is used where Python needs a number (an index of a list or of a tensor made in the mod, "
             "a range); capture the table as a tensor or array and index that")

    def __int__(self) -> int:
        if self._host is not None:
            return int(self._tracer.concrete(self))
        fail("int() of a traced value is not known while tracing; use .int(), .to(torch.int32) or .astype(np.int32)")

    def __float__(self) -> float:
        if self._host is not None:
            return float(self._tracer.concrete(self))
        fail("float(), or a function of the math module, of a traced value: use .float(), or the function of torch or "
             "NumPy of the same name, such as torch.tanh or np.tanh")

    def __hash__(self) -> int:
        return object.__hash__(self) if self._host is None else hash(self._tracer.concrete(self))

    def __format__(self, spec: str) -> str:
        return format(repr(self) if self._host is None else self._tracer.concrete(self), spec)

    def __str__(self) -> str:
        return repr(self) if self._host is None else str(self._tracer.concrete(self))

    def __repr__(self) -> str:
        node = self._node
        if isinstance(node, tuple):
            return f"<traced vector of {len(node)}>"
        return f"<traced {node.type}: {self._tracer.describe(node)}>"

    def __len__(self) -> int:
        if self.shape:
            return int(self.shape[0])
        fail("a traced value is one number and has no length")

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            fail("a traced value is one number and cannot be iterated over; Python's any, all and sum take lists, "
                 "vectors take torch.any, torch.all and torch.sum")
        return iter([self[i] for i in range(len(self))])

    def __getitem__(self, key: Any) -> Any:
        return self._tracer.index_vector(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        fail("a mod cannot change a tensor; compute the new value with torch.where")

    def __contains__(self, item: Any) -> bool:
        fail("`in` needs a value that is known while tracing; write torch.any(vector == x)")

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __matmul__(self, other: Any) -> Any:
        return self._tracer.dispatch("dot", "@", (self, other), {}, operator.matmul)

    def __rmatmul__(self, other: Any) -> Any:
        return self._tracer.dispatch("dot", "@", (other, self), {}, operator.matmul)

    def __round__(self, digits: int | None = None) -> Any:
        if self._host is not None:
            return self._tracer.call_of_numbers(round, self, *(() if digits is None else (digits,)))
        return self._tracer.dispatch("round", "round", (self,), {} if digits is None else {"decimals": digits})


def _make_binary(name: str) -> Callable[[Any, Any], Any]:
    operation, python, text = _BINARY[name]

    def method(self: Traced, other: Any) -> Any:
        return self._tracer.binary(operation, python, text, self, other)

    return method


def _make_reflected(name: str) -> Callable[[Any, Any], Any]:
    operation, python, text = _BINARY[name]

    def method(self: Traced, other: Any) -> Any:
        return self._tracer.binary(operation, python, text, other, self)

    return method


def _make_in_place(name: str) -> Callable[[Any, Any], Any]:
    binary = getattr(Traced, f"__{name}__")

    def method(self: Traced, other: Any) -> Any:
        return self._change(binary(self, other))

    return method


def _make_unary(name: str) -> Callable[[Any], Any]:
    operation, python, text = _UNARY[name]

    def method(self: Traced) -> Any:
        return self._tracer.unary(operation, python, text, self)

    return method


for _name in _BINARY:
    setattr(Traced, f"__{_name}__", _make_binary(_name))
for _name in _REFLECTED:
    setattr(Traced, f"__r{_name}__", _make_reflected(_name))
for _name in _IN_PLACE:
    setattr(Traced, f"__i{_name}__", _make_in_place(_name))
for _name in _UNARY:
    setattr(Traced, f"__{_name}__", _make_unary(_name))


class CapturedNumber(Traced):
    """A captured tensor without axes."""


def is_traced(value: Any) -> bool:
    return issubclass(type(value), Traced)


def find_traced(values: Any) -> Traced | None:
    """The first traced value among arguments, also within lists and tuples of them."""
    for value in values:
        if is_traced(value):
            found: Traced = value
            return found
        if type(value) in (list, tuple):
            inner = find_traced(value)
            if inner is not None:
                return inner
    return None


def _find_tracer(args: Any, kwargs: dict[str, Any]) -> Tracer:
    found = find_traced((*args, *kwargs.values()))
    assert found is not None, "torch dispatched to a traced value that is not among the arguments"
    return found._tracer


class Axis:
    """An axis of a captured tensor that has no index yet. `base` is None for one that None made."""

    __slots__ = ("base", "offset", "step", "length")

    def __init__(self, base: int | None, offset: int = 0, step: int = 1, length: int | None = None) -> None:
        self.base = base
        self.offset = offset
        self.step = step
        self.length = length  # None: the whole axis


class TensorProxy(Traced):
    """A captured tensor, or the part of it that the indices given so far leave.

    Nothing is read before all axes have an index, or before a row is used as a value. `real` is the
    user's tensor: views of it are taken while tracing to learn their shape, and again by each fetch.
    """

    def __init__(self, tracer: Tracer, leaf: Leaf, real: Any, path: Path, axes: list[Axis],
                 bound: dict[int, Node], casts: tuple[str, ...] = ()) -> None:
        self._tracer = tracer
        self._host = None
        self._has_views = False
        self._leaf = leaf
        self._real = real
        self._path = path
        self._axes = axes
        self._bound = bound
        self._casts = casts

    @property
    def _node(self) -> Node | tuple[Node, ...]:
        return self._tracer.read_row(self)  # type: ignore[no-any-return]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        kind = type(self._real)
        return kind if kind is np.ndarray or not self._bound else super().__class__

    def _replace(self, axes: list[Axis], bound: dict[int, Node]) -> TensorProxy:
        return TensorProxy(self._tracer, self._leaf, self._real, self._path, axes, bound, self._casts)

    @property
    def dtype(self) -> Any:
        return _dtype(self._casts[-1]) if self._casts else self._real.dtype

    @property
    def device(self) -> Any:
        return getattr(self._real, "device", "cpu")

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self._tracer.axis_length(self, axis) for axis in self._axes)

    @property
    def T(self) -> Any:
        name = "permute" if tensors.is_torch(self._real) else "transpose"
        return self._tracer.view(self, name, tuple(reversed(range(self.ndim))))

    @property
    def ndim(self) -> int:
        return len(self._axes)

    def __getitem__(self, key: Any) -> Any:
        return self._tracer.index_tensor(self, key)

    def __len__(self) -> int:
        return operator.index(self.shape[0])

    def __repr__(self) -> str:
        return f"<captured {self._leaf.dtype} tensor '{self._leaf.hint}' with {self.ndim} axes>"


class ObjectProxy:
    """A captured object; its attributes are captures, too."""

    def __init__(self, tracer: Tracer, real: Any, path: Path, hint: str) -> None:
        object.__setattr__(self, "_tracer", tracer)
        object.__setattr__(self, "_real", real)
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_hint", hint)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # for isinstance in the user's code
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        return self._tracer.attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        fail(f"a mod cannot change a captured object: '{name}' is assigned")

    def __delattr__(self, name: str) -> None:
        fail(f"a mod cannot change a captured object: '{name}' is deleted")

    def _refuse_change(self, *args: Any) -> Any:
        fail(f"a mod cannot change what it captures: an item of '{self._hint}' is assigned or deleted; use a variable or a list of "
             "the mod, or change it outside")

    __setitem__ = __delitem__ = _refuse_change

    def _special(self, name: str, *args: Any) -> Any:
        """A special method of the user's class, recreated like any captured function."""
        method = getattr(type(self._real), name, None)
        if not isinstance(method, FunctionType):
            fail(f"captured object '{self._hint}' of type {type(self._real).__name__} is used in a way that cannot be "
                 f"traced ({name}); a mod runs once: get what it needs outside of it, and capture that")
        path = self._path.derive(f"type({{0}}).{name}")
        return self._tracer.wrap(method, path, name)(self, *args)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.call_object(self, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._special("__getitem__", key)

    def __len__(self) -> int:
        return operator.index(self._special("__len__"))

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._special("__iter__")
        return iterator

    def __next__(self) -> Any:
        return self._special("__next__")

    def __contains__(self, item: Any) -> bool:
        return bool(self._special("__contains__", item))

    def __bool__(self) -> bool:
        return self._tracer.concrete_of(self._path, bool, bool(self._real))  # type: ignore[no-any-return]

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._real)

    def __eq__(self, other: Any) -> Any:
        other = getattr(other, "_real", other)
        return self._tracer.concrete_of(self._path, operator.eq, self._real == other, other)

    def __hash__(self) -> int:
        return hash(self._real)

    def __repr__(self) -> str:
        return f"<captured {self._hint}: {type(self._real).__name__}>"


class VolatileProxy:
    """A function or object that gives another value at each call: random numbers, the time ("clock"), or the state of the process."""

    def __init__(self, name: str, kind: str) -> None:
        self._name = name
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return VolatileProxy(name if self._kind != "state" else f"{self._name}.{name}", self._kind)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        refuse_volatile(self._name, self._kind)

    __getitem__ = __contains__ = __iter__ = __len__ = __call__


_REFUSED = {"random": ("random numbers ({}) are", "a tensor of random numbers"), "clock": ("the time ({}) is", "the number"),
            "state": ("the state of the process ({}) is", "what it says")}


def refuse_volatile(name: str, kind: str) -> NoReturn:
    what, instead = _REFUSED[kind]
    fail(f"{what.format(name)} not supported in a mod, which runs once, while it is traced; capture {instead} instead")


class SequenceProxy(ObjectProxy):
    """A captured list or tuple; only the items that are used are captures."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        index = operator.index(key)
        value = self._real[index]
        hint = f"{self._hint}_{index}" if index >= 0 else f"{self._hint}_last"
        return self._tracer.wrap(value, self._path.item(index), hint)

    def __len__(self) -> int:
        return self._tracer.concrete_of(self._path, len, len(self._real))  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, item: Any) -> bool:
        return any(item == element for element in self)

    def __bool__(self) -> bool:
        return len(self) != 0

    def __add__(self, other: Any) -> Any:
        return [*self, *other]

    def __radd__(self, other: Any) -> Any:
        return [*other, *self]


class MappingProxy(ObjectProxy):
    """A captured dict; only the items that are used are captures."""

    def __getitem__(self, key: Any) -> Any:
        if find_traced([key]) is not None:
            key = self._tracer.concrete(key)
        if not self._tracer.concrete_of(self._path, operator.contains, key in self._real, key):
            raise KeyError(key)
        return self._tracer.wrap(self._real[key], self._path.item(key), f"{self._hint}_{key}")

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default

    def keys(self) -> Any:
        return self._tracer.concrete_of(self._path, tuple, tuple(self._real))

    def values(self) -> list[Any]:
        return [self[key] for key in self.keys()]

    def items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self.keys()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: Any) -> bool:
        if find_traced([key]) is not None:
            key = self._tracer.concrete(key)
        return self._tracer.concrete_of(self._path, operator.contains, key in self._real, key)  # type: ignore[no-any-return]


class LibraryProxy:
    """A module such as torch, numpy or math, or torch's class of tensors: its functions take traced values."""

    def __init__(self, tracer: Tracer, real: Any) -> None:
        self._tracer = tracer
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return self._tracer.library(getattr(self._real, name))

    def __call__(self, data: Any) -> Any:
        return self._tracer.construct(self._real, data)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._real)


class Namespace(dict):
    """The globals of a recreated function: each is captured when it is read.

    Python looks names up through __getitem__ because this is not exactly a dict.
    """

    def __init__(self, tracer: Tracer, real: dict[str, Any], path: Path, wrapped: dict[str, Any], code: CodeType) -> None:
        self._tracer = tracer
        self._code = code
        self._real = real
        self._path = path
        self._wrapped = wrapped
        # What the interpreter itself looks up, as __builtins__ and the package of an import.
        super().__init__({key: value for key, value in real.items() if key.startswith("__")})
        self["__builtins__"] = {**vars(builtins), "__import__": tracer.import_module}
        self._own = set(self.keys())

    def assigned(self) -> list[str]:
        """The globals that the function has assigned: Python stores them here."""
        return [name for name in self.keys() if name not in self._own]

    def __getitem__(self, name: str) -> Any:
        if name not in self._wrapped:
            if name in self._real:
                value = self._tracer.wrap(self._real[name], self._path.item(name), name)
            elif hasattr(builtins, name):
                return self._tracer.builtin(name, self._code)
            else:
                raise KeyError(name)
            self._wrapped[name] = value
        return self._wrapped[name]

    def __contains__(self, name: object) -> bool:
        return name in self._real
