# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the user's functions on proxies.

Each function is made again with cells, globals and defaults that are proxies, so that a captured tensor
takes a traced index, a captured number becomes a parameter, and whatever else steers the function becomes
a guard. Functions of torch, NumPy and the standard library are called as they are.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import enum
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from heed.arrays import Table
from heed.tracing import arithmetic, indexing, tensors, whole
from heed.tracing.captures import Guard, Path
from heed.tracing.errors import OutputError, TraceError, at_assignment, fail, is_user_code, located, none_swallowed
from heed.tracing.expressions import FITS_I64, Graph, Leaf, Node, fits, in_range
from heed.tracing.functions import FUNCTIONS
from heed.tracing.printer import describe
from heed.tracing.proxies import (Host, LibraryProxy, MappingProxy, Namespace, ObjectProxy, SequenceProxy, TensorProxy,
                                  Traced, VolatileProxy, find_traced, is_traced, refuse_volatile)

# Functions of torch and NumPy that make a tensor; in a mod it is a table that the trace owns.
_FACTORIES = frozenset("tensor as_tensor array asarray arange zeros ones full linspace logspace eye tril triu "
                       "from_numpy empty_like scalar_tensor".split())
# Functions and modules that give other values at each call: random numbers, the time, or the state of the process.
_RANDOM = frozenset("""rand randn randint rand_like randn_like randint_like randperm bernoulli multinomial normal poisson binomial
    dropout native_dropout alpha_dropout feature_dropout feature_alpha_dropout rrelu _standard_gamma _sample_dirichlet uniform_ normal_ random_
    bernoulli_ exponential_ cauchy_ geometric_ log_normal_ urandom getrandom""".split())
_CLOCKS = frozenset("now utcnow today".split())
_STATES = frozenset("""getenv getenvb is_grad_enabled is_inference_mode_enabled is_autocast_enabled is_any_autocast_enabled
    get_autocast_dtype is_autocast_cache_enabled get_num_threads get_num_interop_threads are_deterministic_algorithms_enabled
    get_deterministic_debug_mode initial_seed current_device get_default_device open input getpid getcwd""".split())
_VOLATILE = ("random", "secrets", "time", "numpy.random")


class Tracer:
    """One trace: the graph, what was captured on the way, and the guards."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.guards: list[Guard] = []
        self.paths: dict[Leaf, Path] = {}  # how to fetch each leaf's value
        self._seen: set[Any] = set()
        self._shared: dict[int, tuple[Path, Any]] = {}
        self._sizes: dict[tuple[Leaf, int], Traced] = {}
        self._computed: dict[Path, Traced] = {}
        self._wrapped: dict[int, Any] = {}  # what stands for the value at a path
        self._literals: dict[Any, Path] = {}
        self._cells: list[tuple[types.CellType, Any, str]] = []
        self._globals: dict[int, tuple[Path, dict[str, Any]]] = {}
        self._namespaces: list[tuple[Namespace, types.CodeType]] = []
        self._keep: list[Any] = []  # what is known by its id

    # ---- Guards ----

    def guard(self, test: str, *paths: Path, constants: tuple[Any, ...] = ()) -> None:
        key = (test, *(id(path) for path in paths), *(id(constant) for constant in constants))
        if key not in self._seen:
            self._seen.add(key)
            self._keep.append((paths, constants))
            self.guards.append(Guard(test, paths, constants))

    def concrete(self, value: Traced) -> Any:
        """The number that Python needs; from then on a condition of the trace."""
        if value._host is None:
            return value.__index__()  # says what to do instead
        number = value._host.value
        test = "{0} == {c0}" if number == number else "{0} != {0}"  # a NaN
        self.guard(test, value._host.path, constants=(number,))
        return number

    def concrete_of(self, path: Path, function: Any, value: Any, *args: Any) -> Any:
        """function(value at path, *args), as a condition of the trace."""
        key = (id(path), id(function), repr(args))
        if key not in self._seen:
            self._seen.add(key)
            self._keep.append((path, function))
            self.guard("{0} == {c0}", path.apply(function, *args), constants=(value,))
        return value

    def add_leaf(self, leaf: Leaf, path: Path) -> None:
        self.paths[leaf] = path

    def size(self, leaf: Leaf, axis: int, hint: str, value: int, path: Path) -> Traced:
        """The extent of a captured tensor's axis."""
        known = self._sizes.get((leaf, axis))
        if known is None:
            size = Leaf(hint, "i32", -1, value=value, is_size=True)
            self.add_leaf(size, path)
            known = self._sizes[leaf, axis] = Traced(self, self.graph.param(size), Host(value, path))
        return known

    # ---- Values ----

    def lift(self, value: Any) -> Traced | None:
        """A traced value for numbers, and for what a mod makes with torch or NumPy; None for anything else."""
        if is_traced(value):
            if value._tracer is not self:
                fail("a traced value of another mod is used; mods cannot keep values between calls")
            traced: Traced = value
            return traced
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (bool, int, float)):
            path = self._literals.setdefault((type(value), repr(value)), Path("{c0}", (), [value]))
            return Traced(self, self.graph.constant(value), Host(value, path))
        if isinstance(value, np.ndarray) or tensors.is_torch(value):
            items = tensors.as_array(value)
            if items.ndim > 1 or items.size > 4096 or items.dtype.kind == "c":
                fail(f"a tensor of shape {tuple(items.shape)} that is made in the mod is used as a value; capture it")
            element = arithmetic.value_type(tensors.dtype_name(value.dtype))
            nodes = tuple(self.graph.constant(item, element) for item in items.reshape(-1).tolist())
            return Traced(self, nodes[0] if items.ndim == 0 else nodes)
        return None

    def lift_number(self, value: Any) -> Traced:
        traced = self.lift(value)
        if traced is None:
            fail(f"expected a number or a tensor, found {type(value).__name__}")
        return traced

    def lanes(self, vector: Traced) -> tuple[Node, ...]:
        node = vector._node
        if isinstance(node, tuple):
            return node
        assert node.lanes is not None, "lanes of a single value"
        return tuple(self.graph.lane(node, i) for i in range(node.lanes))

    def apply(self, operation: Callable[..., Node], *operands: Any) -> Traced:
        """An operation on nodes, element by element; of captured tensors it waits for an index."""
        lifted = [self.lift_number(operand) for operand in operands]
        if any(map(indexing.is_unread, lifted)):
            return indexing.Elementwise(self, operation, lifted)
        return self.compute(operation, lifted)

    def compute(self, operation: Callable[..., Node], lifted: list[Traced]) -> Traced:
        """An operation on values, for all of their elements."""
        nodes = [value._node for value in lifted]
        counts = {len(node) for node in nodes if isinstance(node, tuple)}
        if not counts:
            return Traced(self, operation(self.graph, *nodes))
        counts |= {node.lanes for node in nodes if not isinstance(node, tuple) and node.lanes is not None}
        counts = counts - {1} or counts
        if len(counts) > 1:
            fail(f"vectors of {' and '.join(map(str, sorted(counts)))} elements cannot be combined")
        count = counts.pop()
        columns = []
        for value, node in zip(lifted, nodes):
            lanes = self.lanes(value) if value.shape else (node,)
            columns.append(lanes * count if len(lanes) == 1 else lanes)
        return Traced(self, tuple(operation(self.graph, *row) for row in zip(*columns)))

    def cast(self, value: Any, dtype: Any) -> Any:
        """A cast to a dtype of torch, NumPy or Python; all floats are f32."""
        name = tensors.dtype_name(dtype)
        operation = arithmetic.cast(name)
        if isinstance(value, TensorProxy) and value._axes:
            part = value._replace(value._axes, value._bound)
            part._casts = (*value._casts, name)
            return part
        return self.apply(operation, value)

    def binary(self, operation: Any, python: Any, text: str, a: Any, b: Any) -> Any:
        left, right = self.lift(a), self.lift(b)
        if left is None or right is None:
            return NotImplemented
        if left._host is None or right._host is None:
            amount = right._host
            if text in ("<<", ">>") and amount is not None and type(amount.value) is int and 0 <= amount.value < 32:
                return self._shift(text, left, right, amount)
            if text == "**" and amount is not None and type(amount.value) is int:
                right = self.lift_number(self.concrete(right))  # a product has a known number of factors
            return _with_source(self.apply(operation, left, right), python, (left, right), {})
        value = python(left._host.value, right._host.value)
        path = left._host.path.derive(f"{{0}} {text} {{1}}", bases=[right._host.path])
        if type(value) is float or type(value) is int and text in ("**", "<<"):
            return self._number(value, path)
        if type(value) is complex:
            fail("a captured number becomes complex")
        if type(value) is bool:  # of numbers that f32 and i32 might round
            self.guard("{0} == {c0}", path, constants=(value,))
            return Traced(self, self.graph.constant(value), Host(value, path))
        operands = [left, right]
        if type(value) is int and text in ("+", "-", "*", "//"):
            operands = self._unwrapped(value, path, operands)
        result = self.apply(operation, *operands)
        return Traced(self, result._node, Host(value, path))

    def _unwrapped(self, value: int, path: Path, operands: list[Traced]) -> list[Traced]:
        """The operands of an operation on captured integers whose result is `value`, in a type that holds it: Python's
        integers do not wrap around, so the traced ones must not."""
        if any(operand._scalar.type == "i64" for operand in operands):
            self.guard(FITS_I64, path)
            return operands
        self.guard(in_range("i32" if fits(value) else "i64"), path)
        return operands if fits(value) else [self.apply(lambda g, x: g.cast("i64", x), operand) for operand in operands]

    def _shift(self, text: str, left: Traced, right: Traced, amount: Host) -> Traced:
        """A shift by a captured number: in range when traced, and kept there by a guard."""
        if amount.path.bases or not right._scalar.is_constant:
            self.guard("0 <= {0} <= 31", amount.path)

        def shift(g: Graph, x: Node, y: Node) -> Node:
            if x.type == "f32":
                fail(f"'{text}' of floats is not defined; cast with .int()")
            x = g.cast("i32", x) if x.type == "bool" else x
            return g.operate(text, x.type, x, g.cast(x.type, y))

        return self.apply(shift, left, right)

    def _number(self, value: int | float, path: Path) -> Traced:
        """A number that Python computes at each call, in its own precision: f32 might round each step of it, and i32 wrap around."""
        known = self._computed.get(path)
        if known is None:
            known = self._computed[path] = self._scalar(value, path, "number")
        return known

    def call_of_numbers(self, function: Any, *args: Any) -> Any:
        """function(*args) of numbers that Python knows while tracing, computed at each call where the result is a number."""
        hosts = [host for arg in args if (host := self.lift_number(arg)._host) is not None]
        if len(hosts) < len(args):  # a tensor that the mod made
            return function(*map(self._known, args))
        value = function(*(host.value for host in hosts))
        first, *others = (host.path for host in hosts)
        path = first.derive(f"{{c0}}({', '.join(f'{{{i}}}' for i in range(len(hosts)))})", function, bases=others)
        if type(value) is float or type(value) is int and fits(value, "i64"):
            return self._number(value, path)
        self.guard("{0} == {c0}", path, constants=(value,))
        return value

    def unary(self, operation: Any, python: Any, text: str, operand: Traced) -> Any:
        if operand._host is None or type(operand._host.value) is bool:
            return _with_source(self.apply(operation, operand), python, (operand,), {})
        value, path = python(operand._host.value), operand._host.path.derive(f"{text}({{0}})")
        if type(value) is int:
            operand = self._unwrapped(value, path, [operand])[0]
        return Traced(self, self.apply(operation, operand)._node, Host(value, path))

    # ---- Captures ----

    def wrap(self, value: Any, path: Path, hint: str) -> Any:
        """What stands for a captured value. Numbers and tensors become parameters, all else a condition."""
        if id(path) not in self._wrapped:
            self._keep.append(path)
            self._wrapped[id(path)] = self._wrap(value, path, hint)
        return self._wrapped[id(path)]

    def _wrap(self, value: Any, path: Path, hint: str) -> Any:
        kind = type(value)
        if value is None or kind is bool or value is Ellipsis:
            self.guard("{0} is {c0}", path, constants=(value,))
            return value
        if kind in (int, float):
            return self._scalar(value, path, hint)
        if isinstance(value, enum.Enum):
            self.guard("{0} is {c0}", path, constants=(value,))
            return value
        if isinstance(value, np.generic):
            return self._numpy_scalar(value, path, hint)
        if kind in (str, bytes, complex, range, slice, frozenset):
            self.guard("type({0}) is {c0} and {0} == {c1}", path, constants=(kind, value))
            return value
        if tensors.is_numpy(value) or tensors.is_torch(value) or tensors.is_foreign(value):
            return self._share(value, path, lambda: self._tensor(value, path, hint))
        if (module := _volatile_module(value)) is not None:
            self._guard_type(value, path)
            return VolatileProxy(hint, _kind_of_volatile(module))
        if isinstance(value, os._Environ):
            return VolatileProxy(hint, "state")
        if kind is types.FunctionType:
            return self._share(value, path, lambda: self._function(value, path))
        if kind is types.MethodType:
            return self._method(value, path, hint)
        if kind is functools.partial:
            return self._partial(value, path, hint)
        if isinstance(value, (list, tuple)) and type(value).__len__ in (list.__len__, tuple.__len__):
            self._guard_type(value, path)
            return SequenceProxy(self, value, path, hint)
        if isinstance(value, dict):
            self._guard_type(value, path)
            return MappingProxy(self, value, path, hint)
        if kind is functools._lru_cache_wrapper:
            self._guard_type(value, path)
            return self.wrap(value.__wrapped__, path.attribute("__wrapped__"), hint)
        if self._is_library(value):
            self.guard("{0} is {c0}", path, constants=(value,))
            return self.library(value)
        if isinstance(value, (types.ModuleType, type)):
            self.guard("{0} is {c0}", path, constants=(value,))
        else:
            self._guard_type(value, path)
        return ObjectProxy(self, value, path, hint)

    def _guard_type(self, value: Any, path: Path) -> None:
        self.guard("type({0}) is {c0}", path, constants=(type(value),))

    def _share(self, value: Any, path: Path, make: Callable[[], Any]) -> Any:
        """One proxy for an object that is captured twice, as long as it is one object."""
        if id(value) in self._shared:
            first, proxy = self._shared[id(value)]
            if first is not path:
                self.guard("{0} is {1}", path, first)
            return proxy
        self._keep.append(value)
        self._shared[id(value)] = (path, None)
        proxy = make()
        if self._shared[id(value)][1] is None:
            self._shared[id(value)] = (path, proxy)
        return proxy

    def _scalar(self, value: int | float, path: Path, hint: str) -> Traced:
        self._guard_type(value, path)
        if isinstance(value, int) and not fits(value, "i64"):
            fail(f"captured integer '{hint}' = {value} does not fit 64 bits")
        dtype = "f32" if isinstance(value, float) else "i32" if fits(value) else "i64"
        leaf = Leaf(hint, dtype, -1, value=value)
        self.add_leaf(leaf, path)
        return Traced(self, self.graph.param(leaf), Host(value, path))

    def _numpy_scalar(self, value: Any, path: Path, hint: str) -> Any:
        self._guard_type(value, path)
        item = value.item()
        if type(item) in (int, float):
            return self._scalar(item, path.method("item"), hint)
        if type(item) is not bool:
            fail(f"captured value '{hint}' of type {type(value).__name__} cannot be traced")
        self.guard("{0} == {c0}", path, constants=(item,))
        return item

    def _tensor(self, value: Any, path: Path, hint: str) -> Any:
        self._guard_type(value, path)
        if not tensors.is_numpy(value) and not tensors.is_torch(value):
            value, path = tensors.adopt(value), path.apply(tensors.adopt)
            self._keep.append(value)
        same = "{0}.dtype is {c0}" if tensors.is_torch(value) else "({0}.dtype is {c0} or {0}.dtype == {c0})"
        self.guard(f"{same} and {{0}}.ndim == {{c1}}", path, constants=(value.dtype, value.ndim))
        return indexing.new_tensor(self, value, path, hint)

    def _function(self, function: types.FunctionType, path: Path) -> Any:
        original = function.__dict__.get("_torchdynamo_orig_callable")
        if original is not None:  # made by torch.compile
            return self.wrap(original, path.attribute("_torchdynamo_orig_callable"), function.__name__)
        if not is_user_code(function.__code__.co_filename) and "<locals>" not in function.__qualname__:
            self.guard("{0} is {c0}", path, constants=(function,))
            return self.library(function)
        code = function.__code__
        self.guard("type({0}) is {c0} and {0}.__code__ is {c1}", path, constants=(types.FunctionType, code))
        cells = tuple(types.CellType() for _ in code.co_freevars)
        # A copy of the code, as Python may have specialised the user's for globals that are a plain dict.
        made = types.FunctionType(code.replace(), self._namespace(function, path), function.__name__, None, cells)
        made.__qualname__ = function.__qualname__
        self._shared[id(function)] = (path, made)  # before its cells, for functions that call themselves
        for i, (name, cell) in enumerate(zip(code.co_freevars, cells)):
            try:
                contents = function.__closure__[i].cell_contents  # type: ignore[index]
            except ValueError:  # an empty cell stays empty
                continue
            place = path.attribute("__closure__").derive(f"{{0}}[{i}].cell_contents")
            cell.cell_contents = self.wrap(contents, place, name)
            self._cells.append((cell, cell.cell_contents, name))
        names = code.co_varnames[:code.co_argcount]
        defaults = function.__defaults__ or ()
        made.__defaults__ = tuple(
            self.wrap(value, path.derive(f"{{0}}.__defaults__[{i}]"), names[len(names) - len(defaults) + i])
            for i, value in enumerate(defaults)) or None
        made.__kwdefaults__ = {
            name: self.wrap(value, path.derive("{0}.__kwdefaults__[{c0}]", name), name)
            for name, value in (function.__kwdefaults__ or {}).items()}
        return made

    def _namespace(self, function: types.FunctionType, path: Path) -> Namespace:
        """The globals of a recreated function; functions of one module share what they capture."""
        path = path.attribute("__globals__")
        first, wrapped = self._globals.setdefault(id(function.__globals__), (path, {}))
        if first is not path:
            self.guard("{0} is {1}", path, first)
        namespace = Namespace(self, function.__globals__, first, wrapped, function.__code__)
        self._namespaces.append((namespace, function.__code__))
        return namespace

    def _method(self, method: types.MethodType, path: Path, hint: str) -> Any:
        owner = method.__self__
        module = tensors.torch()
        if (module is not None and isinstance(owner, type) and issubclass(owner, module.autograd.Function)
                and method.__name__ == "apply"):
            return self._autograd(owner, path.attribute("__self__"))
        self._guard_type(method, path)
        function = self.wrap(method.__func__, path.attribute("__func__"), hint)
        return functools.partial(function, self.wrap(owner, path.attribute("__self__"), hint))

    def _autograd(self, owner: Any, path: Path) -> Any:
        """torch.autograd.Function.apply: its forward."""
        self.guard("{0} is {c0}", path, constants=(owner,))
        forward = self.wrap(owner.forward, path.attribute("forward"), owner.__name__)
        if owner.setup_context is not tensors.torch().autograd.Function.setup_context:
            return forward
        return functools.partial(forward, types.SimpleNamespace(save_for_backward=lambda *args: None,
                                                                mark_non_differentiable=lambda *args: None))

    def _partial(self, value: functools.partial[Any], path: Path, hint: str) -> Any:
        self.guard("type({0}) is {c0} and len({0}.args) == {c1} and tuple({0}.keywords) == {c2}", path,
                   constants=(functools.partial, len(value.args), tuple(value.keywords)))
        code = getattr(value.func, "__code__", None)
        names = code.co_varnames if code else ()
        args = [self.wrap(arg, path.derive(f"{{0}}.args[{i}]"), names[i] if i < len(names) else f"{hint}_{i}")
                for i, arg in enumerate(value.args)]
        keywords = {name: self.wrap(arg, path.attribute("keywords").item(name), name)
                    for name, arg in value.keywords.items()}
        return functools.partial(self.wrap(value.func, path.attribute("func"), hint), *args, **keywords)

    def attribute(self, proxy: ObjectProxy, name: str) -> Any:
        real, path = proxy._real, proxy._path
        if name.startswith("__") and name.endswith("__"):
            return getattr(real, name)
        try:
            value = getattr(real, name)
        except AttributeError:
            self.guard("not hasattr({0}, {c0})", path, constants=(name,))
            raise
        if type(value) is types.MethodType and value.__self__ is real and type(value.__func__) is types.FunctionType:
            function = self.wrap(value.__func__, path.attribute(name).attribute("__func__"), name)
            return functools.partial(function, proxy)
        return self.wrap(value, path.attribute(name), name)

    def call_object(self, proxy: ObjectProxy, args: Any, kwargs: Any) -> Any:
        real, path = proxy._real, proxy._path
        if isinstance(real, type):
            return real(*args, **kwargs)
        module = tensors.torch()
        if module is not None and isinstance(real, module.library.CustomOpDef if hasattr(
                module.library, "CustomOpDef") else ()):
            return self._custom_operator(real, path)(*args, **kwargs)
        name = "__call__"
        if module is not None and isinstance(real, module.nn.Module):
            name = "forward"
            self._guard_plain_module(proxy)
        method = getattr(type(real), name, None)
        if type(method) is not types.FunctionType:
            if find_traced((*args, *kwargs.values())) is None:
                return real(*args, **kwargs)
            fail(f"captured object '{proxy._hint}' of type {type(real).__name__} cannot be called on traced values")
        return self.wrap(method, path.derive(f"type({{0}}).{name}"), proxy._hint)(proxy, *args, **kwargs)

    def _guard_plain_module(self, proxy: ObjectProxy) -> None:
        """Of a module only the class's `forward` is traced: what else a call of it would do is refused."""
        real, path = proxy._real, proxy._path
        Module = tensors.torch().nn.Module
        if type(real).__call__ is not Module.__call__ or "forward" in vars(real):
            fail(f"captured module '{proxy._hint}' of type {type(real).__name__} has a __call__ or a forward of its own: give the class one")
        hooks = ("_forward_hooks", "_forward_pre_hooks")
        if any(getattr(real, name) for name in hooks):
            fail(f"captured module '{proxy._hint}' of type {type(real).__name__} has forward hooks, which are not traced: call what they do "
                 "in its forward")
        self.guard("not {0}._forward_hooks and not {0}._forward_pre_hooks and 'forward' not in vars({0})", path)

    def _custom_operator(self, definition: Any, path: Path) -> Any:
        """A torch.library.custom_op: the Python function that defines it is traced."""
        return self.wrap(definition._init_fn, path.attribute("_init_fn"), definition._name)

    # ---- Libraries ----

    def _is_library(self, value: Any) -> bool:
        """Whether a value belongs to torch, NumPy, the standard library or Python itself."""
        if isinstance(value, types.ModuleType):
            file = getattr(value, "__file__", None)
            return file is None and value.__name__ in sys.builtin_module_names or (
                file is not None and not is_user_code(file)) or value.__name__.startswith("torch.")
        if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            return True
        kind = value if isinstance(value, type) else type(value)
        top = (kind.__module__ or "").partition(".")[0]
        if top in ("torch", "numpy"):
            module = tensors.torch()
            return module is None or not isinstance(value, (module.nn.Module, module.library.CustomOpDef))
        return top in sys.stdlib_module_names and (isinstance(value, type) or callable(value))

    def import_module(self, name: str, *args: Any, **kwargs: Any) -> types.ModuleType:
        """What `import` in a mod calls. Names of the user's own modules would be read once, while tracing."""
        module = builtins.__import__(name, *args, **kwargs)
        if not self._is_library(module):
            fail(f"a mod imports '{name}', and would not see what changes there: import it at the top of the file")
        return module

    def library(self, value: Any) -> Any:
        """What stands for a module or function that is not the user's."""
        torch = tensors.torch()
        if isinstance(value, types.ModuleType) or torch and (value is torch.Tensor or type(value) is type(torch.FloatTensor)):
            return LibraryProxy(self, value)
        name = getattr(value, "__name__", "")
        if (volatile := _volatile_module(value)) is not None:
            return VolatileProxy(name, _kind_of_volatile(volatile))
        if isinstance(value, os._Environ):
            return VolatileProxy("environ", "state")
        if not callable(value) or isinstance(value, type):
            return value
        if name in _RANDOM or name in _STATES:
            return VolatileProxy(name, "random" if name in _RANDOM else "state")
        module = getattr(value, "__module__", None) or type(value).__module__ or ""
        if module == "torch.func" or module.startswith("torch._functorch."):
            return functools.partial(_refuse, f"torch.func's {name} is not supported in a mod; if it does not depend on positions, call it "
                                     "outside and capture the result")
        if module == "math":
            return functools.partial(self._math, value)
        if module == "builtins":
            owner = getattr(value, "__self__", builtins)
            return self.builtin(name) if owner is builtins else functools.partial(
                _refuse, f"{type(owner).__name__}.{name} of what a mod captures cannot be called in it: it may change that, and is "
                "called once, not for each position; call it outside of the mod, or read elements with [ ]")
        if name in FUNCTIONS or name in _FACTORIES:
            return functools.partial(self._call_library, value)
        return value

    def builtin(self, name: str, code: types.CodeType | None = None) -> Any:
        """What stands for one of Python's own functions and classes in `code`."""
        if name == "len":
            return self._len
        if name in _STATES:
            return VolatileProxy(name, "state")
        if name in ("int", "float") and code is not None and _is_only_called(code, name):
            return functools.partial(self._convert, getattr(builtins, name))
        return getattr(builtins, name)

    def _convert(self, kind: type, *args: Any, **kwargs: Any) -> Any:
        """int() or float(); Python wants a number of its own from them, so a class of ours could not give another."""
        if len(args) == 1 and not kwargs and is_traced(args[0]) and args[0]._host is not None:
            number = args[0]._host.value
            if type(number) in (int, float):
                return args[0] if type(number) is kind else self.call_of_numbers(kind, args[0])
        return kind(*args, **kwargs)

    def _len(self, value: Any) -> Any:
        """len(tensor) as a run-time number."""
        return value.shape[0] if isinstance(value, TensorProxy) and value.shape else len(value)

    def _call_library(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        name = function.__name__
        if name in _FACTORIES:
            values = [*args, *kwargs.values()]
            if all(not is_traced(value) or value._host is not None for value in values):
                if not (name in ("tensor", "as_tensor", "array", "asarray") and find_traced(values) is not None):
                    return self._own(function(*(self._known(arg) for arg in args),
                                              **{key: self._known(arg) for key, arg in kwargs.items()}), name)
        if find_traced((*args, *kwargs.values())) is None and not any(isinstance(arg, SequenceProxy) for arg in args):
            return function(*args, **kwargs)
        return self.dispatch(name, _qualified(function), args, kwargs, function)

    def construct(self, kind: Any, data: Any) -> Any:
        """torch.Tensor(data), or a class of torch's such as FloatTensor."""
        if type(data) is int:
            fail(f"torch.{kind.__name__}({data}) has no elements that are known; use torch.zeros or torch.tensor")
        torch = tensors.torch()
        return self._call_library(torch.tensor, data, dtype=torch.float32 if kind is torch.Tensor else kind.dtype)

    def _known(self, value: Any) -> Any:
        """An argument that a library needs to know while tracing."""
        if is_traced(value):
            return self.concrete(value)
        if isinstance(value, SequenceProxy) or type(value) in (list, tuple):
            return [self._known(item) for item in value]
        return value

    def _own(self, table: Any, hint: str) -> Any:
        """A tensor that the mod makes out of constants; the trace owns it."""
        if not table.ndim:
            return table
        name = tensors.dtype_name(table.dtype)
        constant = tensors.convert(table, tensors.CONVERTED[name]) if name in tensors.CONVERTED else tensors.make_plain(table)
        path = Path("{c0}", (), [Table(constant)])
        return indexing.new_tensor(self, table, path, "table" if hint in ("tensor", "array") else hint)

    def _math(self, function: Any, *args: Any) -> Any:
        """A function of the math module, of what Python knows while tracing."""
        traced = [arg for arg in args if is_traced(arg)]
        if any(value._host is None for value in traced):
            name = function.__name__
            hint = f"use torch.{name} or np.{name}" if name in FUNCTIONS else "use a function of torch or NumPy"
            fail(f"math.{name} needs a number, but the value is traced; {hint}")
        return self.call_of_numbers(function, *args) if traced else function(*map(self._known, args))

    def method(self, value: Traced, name: str) -> Any:
        """A method or attribute of a traced value."""
        if isinstance(value, TensorProxy):
            found = indexing.tensor_method(self, value, name)
            if found is not None:
                return found
        if name in ("item", "tolist", "numpy", "__dlpack__"):
            return functools.partial(_refuse, f".{name}() needs the value while tracing; a mod runs once, for all positions: "
                                     "compute with the traced value itself, or look it up in a captured tensor")
        if name in ("T", "mT", "real", "data"):
            return value
        if name == "requires_grad":
            return False
        if name == "where":  # x.where(condition, other)
            return lambda condition, other: self.dispatch("where", ".where", (condition, value, other), {})
        if name in FUNCTIONS:
            return functools.partial(self._call_method, name, value)
        if whole.method(value, name) is not None:
            return functools.partial(self._call_method, name, value)
        kind = tensors.torch().Tensor if tensors.torch() else np.ndarray
        if name.startswith("_") or not hasattr(kind, name):
            raise AttributeError(f"a traced value has no attribute '{name}'")
        message = (f".{name} is not supported in a mod, which sees one element at a time: write it with operators and functions "
                   "that work element by element, or compute it outside and capture the result")
        if name.endswith("_"):
            plain = name.rstrip("_")
            is_known = plain in FUNCTIONS and hasattr(kind, plain)
            if is_known and type(value) is Traced:
                return functools.partial(self._call_in_place, plain, value)
            instead = f".{plain}()" if is_known else "a new value, as torch.where gives"
            message = f".{name}() changes a tensor; a mod cannot: use {instead}"
        if not callable(getattr(kind, name)):
            fail(message)
        return functools.partial(_refuse, message)  # when it is called: hasattr may ask for it

    def _call_method(self, name: str, value: Traced, /, *args: Any, **kwargs: Any) -> Any:
        return self.dispatch(name, f".{name}", (value, *args), kwargs, whole.method(value, name))

    def _call_in_place(self, name: str, value: Traced, /, *args: Any, **kwargs: Any) -> Any:
        return value._change(self.dispatch(name, f".{name}_", (value, *args), kwargs))

    def torch_function(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", str(function))
        operator = _find_operator(function)
        if operator is not None:
            return self._custom_operator(operator, Path("{c0}", (), [operator]))(*args, **kwargs)
        if name == "__get__":  # an attribute of a tensor
            return getattr(args[0], function.__self__.__name__)
        if name == "__getitem__":
            return self._own(args[0], "table")[args[1]]
        if name.endswith("_") and not name.endswith("__"):
            if not args or not is_traced(args[0]):
                fail(f"{_qualified(function)} changes a tensor that the mod made of numbers to a value that is known to kernels only; write "
                     "`x = x + y` instead of `x += y`, or begin with score.new_zeros(())")
            return getattr(args[0], name)(*args[1:], **kwargs)
        return self.dispatch(name.strip("_"), _qualified(function), args, kwargs, function)

    def dispatch(self, name: str, qualified: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any = None) -> Any:
        """What a function of a library gives for traced values. `real`: the function, to be called if whole tensors are all it gets."""
        function = FUNCTIONS.get(name)
        args = tuple(list(arg) if isinstance(arg, SequenceProxy) else arg for arg in args)
        if kwargs.get("out") is not None:
            fail(f"{qualified} with out=... changes a tensor; a mod cannot: use what it returns")
        if real is not None and (function is None or name in whole.OF_ROWS):
            result = whole.call(self, name, real, args, kwargs)
            if result is not None:
                return result
        if function is None:
            fail(f"{qualified} is not supported in a mod; if it does not depend on positions, compute it outside and "
                 "capture the result")
        in_place = kwargs.get("inplace", False)
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        try:
            result = function(self, *args, **kwargs)
            return args[0]._change(result) if in_place else _with_source(result, real, args, kwargs)
        except (TypeError, KeyError) as error:
            if isinstance(error, TraceError):
                raise
            shown = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
            fail(f"{qualified} is not supported in a mod with these arguments: {', '.join(shown)}")

    def describe(self, node: Node) -> str:
        return describe(node)

    # ---- Indexing, for proxies ----

    def index_tensor(self, tensor: TensorProxy, key: Any) -> Any:
        return indexing.index_tensor(self, tensor, key)

    def index_vector(self, vector: Traced, key: Any) -> Any:
        return indexing.index_vector(self, vector, key)

    def read_row(self, tensor: TensorProxy) -> Any:
        return indexing.read_row(self, tensor)

    def axis_length(self, tensor: TensorProxy, axis: Any) -> Any:
        return indexing.axis_length(self, tensor, axis)

    def view(self, tensor: TensorProxy, name: str, *args: Any) -> Any:
        return indexing.view(self, tensor, name, *args)

    # ---- Running ----

    def run(self, function: Any, kind: str, coordinates: tuple[str, ...]) -> Node:
        """The graph of what a mod returns."""
        if not callable(function):
            raise TypeError(f"{kind}: expected a function of ({', '.join(coordinates)}), found {type(function).__name__}")
        code = code_of(function)
        try:
            mod = self.wrap(function, Path(kind), kind)
            with _watched(), none_swallowed():
                result = mod(*(Traced(self, self.graph.coordinate(name)) for name in coordinates))
            for cell, contents, name in self._cells:
                if cell.cell_contents is not contents:
                    raise at_assignment(f"a {kind} cannot change what it captures: '{name}' is assigned", code, name)
            for namespace, place in self._namespaces:
                for name in namespace.assigned():
                    raise at_assignment(f"a {kind} cannot change what it captures: the global '{name}' is assigned", place, name)
        except TraceError:
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if isinstance(error, KeyError) and find_traced(error.args) is not None:
                message = f"a traced value ({error}) is no key of a dict; capture a tensor of the dict's values and index that"
            raise located(message, error.__traceback__, code) from error
        traced = self.lift(result)
        if traced is None:
            refusal = located(f"a {kind} returns a {'bool' if kind == 'mask_mod' else 'number'}, found "
                              f"{type(result).__name__}", None, code)
            raise OutputError(refusal) if kind == "score_mod" else refusal
        shape = [int(length) for length in traced.shape]
        if shape not in ([], [1]):
            found = f"vector of {shape[0]}" if len(shape) == 1 else f"tensor of {len(shape)} axes"
            raise located(f"a {kind} returns one value, found a {found}; reduce it with torch.any, torch.all or torch.sum, or "
                          "index it", None, code)
        node = self.lanes(traced)[0] if shape else traced._scalar
        if kind == "mask_mod" and node.type != "bool":
            raise located(f"a mask_mod returns bool, found {node.type}; compare it, as in `x != 0`", None, code)
        if kind == "score_mod" and node.type == "bool":
            raise located("a score_mod returns a number, found bool; use torch.where(condition, score, -float('inf')), "
                          "or make it a mask_mod", None, code)
        return node


def code_of(function: Any) -> types.CodeType | None:
    """The code that a mod runs first, if it has any."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "_torchdynamo_orig_callable", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _with_source(result: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A result, which notes the call that it stands for if that may be part of another one."""
    if type(result) is indexing.Elementwise and function is not None and result.source is None and all(result is not arg for arg in args):
        result.source = (function, tuple(map(whole.kept, args)), {key: whole.kept(arg) for key, arg in kwargs.items()})
    return result


def _is_only_called(code: types.CodeType, name: str) -> bool:
    """Whether a function does nothing with a global but call it, in the words of Python 3.11 and newer; False in older ones."""
    loads = (i for i in dis.get_instructions(code) if i.argval == name and i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return (sys.version_info >= (3, 11) and all(i.opname == "LOAD_GLOBAL" and i.arg is not None and i.arg & 1 for i in loads)
            and all(_is_only_called(part, name) for part in code.co_consts if isinstance(part, types.CodeType)))


def _qualified(function: Any) -> str:
    module = (getattr(function, "__module__", None) or "").removeprefix("torch._C.").removeprefix("numpy.")
    name = getattr(function, "__name__", str(function))
    if isinstance(function, np.ufunc):
        return f"np.{name}"
    return f"{module}.{name}" if module.startswith(("torch", "numpy", "math")) else f"torch.{name}"


def _find_operator(function: Any) -> Any:
    """The definition behind torch.ops.library.name, if it was made by torch.library.custom_op."""
    name = getattr(function, "_qualified_op_name", None) or getattr(function, "_name", None)
    if name is None or "::" not in str(name):
        return None
    definitions = sys.modules.get("torch._library.custom_ops")
    return definitions.OPDEFS.get(str(name).partition(".")[0]) if definitions else None


def _refuse(message: str, *args: Any, **kwargs: Any) -> NoReturn:
    fail(message)


def _volatile_module(value: Any) -> str | None:
    """The module of a function, a method's object, a class or an object, if it is one of random numbers or the time."""
    owner = value.__self__ if isinstance(value, (types.BuiltinFunctionType, types.MethodType)) else value
    for place in (value, owner, type(owner)):
        module = getattr(place, "__module__", None)
        if type(module) is str and (module in _VOLATILE or module.startswith("numpy.random.")):
            return module
    return None


def _kind_of_volatile(module: str) -> str:
    return "clock" if module == "time" else "random"


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Names the nodes after the user's variables that hold them, for the text.

    And refuses random numbers that libraries draw, by the C functions that draw them: that the state of a generator has changed
    would say the same, but another thread may have done that."""

    def on_event(frame: types.FrameType, event: str, argument: Any) -> None:
        if event == "return" and type(frame.f_globals) is Namespace:
            for name, value in frame.f_locals.items():
                if issubclass(type(value), Traced) and type(value.__dict__.get("_value")) is Node:
                    node = value.__dict__["_value"]
                    node.name = node.name or name
        elif event == "c_call" and (argument.__name__ in _RANDOM or argument.__name__ in _CLOCKS):
            # Called by what a library's function has returned.
            refuse_volatile(argument.__name__, "clock" if argument.__name__ in _CLOCKS else "random")

    before: Any = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:  # cProfile's, which up to Python 3.11 is no function
            sys.setprofile(None)
            before.enable()
