# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Indices, rows and views of captured tensors.

Python's negative indices count from the end, the language's read 0: where an index is not provably
non-negative, the wrap is written out. Extents are run-time values, unless a row is read.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from heed import arrays, gpu
from heed.gpu import DeviceArray
from heed.tracing import arithmetic, tensors
from heed.tracing.errors import fail
from heed.tracing.expressions import MAX_VECTOR, Leaf, Node
from heed.tracing.proxies import Axis, CapturedNumber, TensorProxy, Traced, find_traced, is_traced

if TYPE_CHECKING:
    from heed.tracing.tracer import Tracer

MAX_RANK = 6  # of a parameter
VIEWS = frozenset("permute transpose swapaxes reshape view flatten unsqueeze squeeze expand broadcast_to ravel movedim "
                  "moveaxis narrow unflatten mT t flip fliplr flipud roll tril triu diagonal diag expand_dims".split())
_NUMBERS = {"bool": "bool", "i8": "i32", "i32": "i32", "i64": "i64", "f16": "f32", "bf16": "f32", "f32": "f32"}
_MAX_DEPTH = 64  # of operations on operations that wait for an index
_SAME = frozenset("contiguous clone detach cpu cuda copy numpy".split())


def new_tensor(tracer: Tracer, real: Any, path: Any, hint: str) -> Any:
    """What stands for a torch tensor or NumPy array: a TensorProxy, or a value if it has no axes."""
    _refuse_other_layouts(real, hint)
    name = tensors.dtype_name(real.dtype)
    dtype = tensors.DIRECT.get(name) or tensors.CONVERTED.get(name)
    if dtype is None:
        fail(f"captured tensor '{hint}' has elements of {name}, which no kernel can read")
    if name in tensors.CONVERTED and isinstance(real, DeviceArray):
        fail(f"captured tensor '{hint}' has elements of {name}: convert it to {dtype}, or capture one of torch or CuPy")
    rank = real.ndim
    if rank == 0 and dtype in _NUMBERS and not isinstance(real, DeviceArray) and not gpu.is_cupy(real):
        # A number that is on the CPU goes by value, to GPUs as well. Those that require gradients are refused by the call.
        is_plain = "{0}.is_cpu and not {0}.requires_grad"
        if not tensors.is_torch(real):
            return _number(tracer, dtype, path, hint)
        if real.is_cpu and not real.requires_grad:
            tracer.guard(is_plain, path)
            return _number(tracer, dtype, path, hint)
        tracer.guard(f"not ({is_plain})", path)
    leaf = Leaf(hint, dtype, min(max(rank, 1), MAX_RANK))
    value = path
    if name in tensors.CONVERTED:
        value = path.apply(tensors.convert, dtype)
    elif not tensors.is_plain(real):
        value = path.apply(tensors.make_plain)
    elif isinstance(real, np.ndarray) or tensors.is_torch(real):  # the order of bytes is one of the dtype
        tracer.guard("not {0}.is_neg()" if tensors.is_torch(real) else "{0}.flags.aligned", path)
    if rank == 0:
        value = value.method("reshape", 1)
    elif rank > MAX_RANK:
        value = value.apply(tensors.merge_axes, MAX_RANK)
    leaf.extents = [1] if rank == 0 else [None] * leaf.rank
    tracer.add_leaf(leaf, value)
    if rank == 0:
        return CapturedNumber(tracer, tracer.graph.load(leaf, (tracer.graph.constant(0),)))
    return TensorProxy(tracer, leaf, real, path, [Axis(i) for i in range(rank)], {})


def _refuse_other_layouts(real: Any, hint: str) -> None:
    """Says what to capture instead of a tensor that has no strides, or elements that are several numbers."""
    if getattr(real, "is_nested", False):
        fail(f"captured tensor '{hint}' is nested: capture its .values() and .offsets(), or torch.nested.to_padded_tensor of it")
    if tensors.is_torch(real) and real.layout is not tensors.torch().strided:
        fail(f"captured tensor '{hint}' is of layout {real.layout}: capture its .to_dense()")
    if getattr(real.dtype, "names", None):
        fail(f"captured array '{hint}' is one of structures: capture its fields, such as {hint}[{real.dtype.names[0]!r}]")


def _number(tracer: Tracer, dtype: str, path: Any, hint: str) -> CapturedNumber:
    """A tensor without axes, as a scalar that is read at each call."""
    leaf = Leaf(hint, _NUMBERS[dtype], -1)
    tracer.add_leaf(leaf, path.method("item"))
    return CapturedNumber(tracer, tracer.graph.param(leaf))


def axis_length(tracer: Tracer, tensor: TensorProxy, axis: Axis) -> Any:
    """A run-time number for a whole axis, a constant for a part of it."""
    if axis.base is None:
        return 1
    if axis.length is not None:
        return axis.length
    is_torch = tensors.is_torch(tensor._real)
    path = tensor._path.method("size", axis.base) if is_torch else tensor._path.attribute("shape").item(axis.base)
    hint = f"{tensor._leaf.hint}_len" if tensor._real.ndim == 1 else f"{tensor._leaf.hint}_size{axis.base}"
    return tracer.size(tensor._leaf, axis.base, hint, tensor._real.shape[axis.base], path)


def _wrapped(tracer: Tracer, index: Any, length: Any) -> Node:
    """An index that counts from the end if negative. `length` is a callable: most indices need none."""
    g = tracer.graph
    node = tracer.lift_number(index)._scalar
    low = g.bounds(node)[0]
    if low is not None and low >= 0:
        return node
    size = tracer.lift_number(length())._scalar
    shifted = arithmetic.add(g, node, size)
    return shifted if node.is_constant else arithmetic.where(g, arithmetic.compare(g, "<", node, g.constant(0)), shifted, node)


def _base_index(tracer: Tracer, tensor: TensorProxy, axis: Axis, index: Any) -> Node:
    g = tracer.graph
    node = _wrapped(tracer, index, lambda: axis_length(tracer, tensor, axis))
    if axis.step != 1:
        node = arithmetic.mul(g, node, g.constant(axis.step))
    return arithmetic.add(g, node, g.constant(axis.offset)) if axis.offset else node


def _one_per_axis(key: Any, rank: int, name: str) -> list[Any]:
    """The parts of an index, with whole slices for what `...` and the end leave out; None stays."""
    keys = list(key) if type(key) is tuple else [key]
    given = sum(1 for k in keys if k is not None and k is not Ellipsis)
    if given > rank:
        fail(f"{name} has {rank} axes left, but {given} indices are given")
    if not any(k is Ellipsis for k in keys):
        keys.append(Ellipsis)
    at = next(i for i, k in enumerate(keys) if k is Ellipsis)
    keys[at:at + 1] = [slice(None)] * (rank - given)
    return keys


def index_tensor(tracer: Tracer, tensor: TensorProxy, key: Any) -> Any:
    keys = _one_per_axis(key, len(tensor._axes), f"captured tensor '{tensor._leaf.hint}'")
    axes: list[Axis] = []
    bound = dict(tensor._bound)
    vectors: dict[int, tuple[Axis, tuple[Node, ...]]] = {}
    remaining = iter(tensor._axes)
    for k in keys:
        if k is None:
            axes.append(Axis(None))
            continue
        axis = next(remaining)
        if isinstance(k, slice):
            axes.append(_slice(tracer, tensor, axis, k))
            continue
        index = tracer.lift(k)
        if index is None:
            fail(f"captured tensor '{tensor._leaf.hint}' is indexed by a {type(k).__name__}")
        node = index._node
        first = node[0] if isinstance(node, tuple) else node
        if first.type in ("bool", "f32"):
            fail(f"captured tensor '{tensor._leaf.hint}' is indexed by a {first.type}; an index must be an integer: cast "
                 "with .int() or .to(torch.int32)")
        if isinstance(node, tuple) or node.lanes is not None:
            if axis.base is None:
                fail("an axis that None made is indexed by a vector")
            vectors[axis.base] = (axis, tracer.lanes(index))
        elif axis.base is not None:
            bound[axis.base] = _base_index(tracer, tensor, axis, index)
    part = tensor._replace(axes, bound)
    if vectors:
        return _gather(tracer, part, vectors)
    if axes:
        return part
    element = Traced(tracer, _load(tracer, part, bound))
    return element if _is_traced_index(keys) else tensor._viewed(element)


def _is_traced_index(keys: list[Any]) -> bool:
    """Whether an index is one of tensors, with which torch copies; with numbers and slices it gives views."""
    return any(is_traced(key) and key._host is None for key in keys)


def _slice(tracer: Tracer, tensor: TensorProxy, axis: Axis, key: slice) -> Axis:
    if key == slice(None):
        return axis
    start, stop, step = key.indices(operator.index(axis_length(tracer, tensor, axis)))
    if step < 0 and tensors.is_torch(tensor._real):
        fail("torch has no slices with a negative step")
    return Axis(axis.base, axis.offset + axis.step * start, axis.step * step, len(range(start, stop, step)))


def _gather(tracer: Tracer, part: TensorProxy, vectors: dict[int, tuple[Axis, tuple[Node, ...]]]) -> Traced:
    """Indices that are vectors give a vector, read element by element."""
    if part._axes:
        fail(f"captured tensor '{part._leaf.hint}' is indexed by a vector and has other axes left; index all of them")
    counts = {len(nodes) for _, nodes in vectors.values()}
    if len(counts) > 1:
        fail(f"captured tensor '{part._leaf.hint}' is indexed by vectors of {sorted(counts)} elements")
    loads = []
    for i in range(counts.pop()):
        bound = dict(part._bound)
        for base, (axis, nodes) in vectors.items():
            bound[base] = _base_index(tracer, part, axis, Traced(tracer, nodes[i]))
        loads.append(_load(tracer, part, bound))
    return Traced(tracer, tuple(loads))


def _load(tracer: Tracer, tensor: TensorProxy, bound: dict[int, Node], lanes: int | None = None) -> Node:
    g = tracer.graph
    indices = [bound[axis] for axis in sorted(bound)]
    extra = tensor._real.ndim - MAX_RANK
    if extra > 0:
        indices[:extra + 1] = [_merged(tracer, tensor, indices[:extra + 1])]
    node = g.load(tensor._leaf, tuple(indices), lanes)
    for dtype in tensor._casts:
        if lanes is not None and dtype in arithmetic.NARROW:
            fail(f"a row of a captured tensor cannot be cast to {dtype} in a mod; cast its elements, or cast it outside of the mod")
        node = arithmetic.cast(dtype)(g, node)
    return node


def _merged(tracer: Tracer, tensor: TensorProxy, indices: list[Node]) -> Node:
    """One index for the first axes, -1 (outside) where one of them is outside."""
    g = tracer.graph
    result, inside = indices[0], g.constant(True)
    for axis, index in enumerate(indices[1:], 1):
        size = tracer.lift_number(axis_length(tracer, tensor, Axis(axis)))._scalar
        low = arithmetic.compare(g, ">=", index, g.constant(0))
        inside = arithmetic.logical_and(g, inside, arithmetic.logical_and(g, low, arithmetic.compare(g, "<", index, size)))
        result = arithmetic.add(g, arithmetic.mul(g, result, size), index)
    return arithmetic.where(g, inside, result, g.constant(-1))


def read_row(tracer: Tracer, tensor: TensorProxy) -> Node | tuple[Node, ...]:
    """The value of a tensor with at most one axis left: a vector, whose extent becomes a condition of the trace."""
    free = [axis for axis in tensor._axes if axis.base is not None]
    if len(tensor._axes) > 1:
        fail(f"captured tensor '{tensor._leaf.hint}' has {len(tensor._axes)} axes left and is used as a value; a mod sees "
             "one element at a time: index it, down to a row at most")
    if not free:
        return (_load(tracer, tensor, tensor._bound),)
    axis = free[0]
    base = axis.base
    assert base is not None
    extent = operator.index(axis_length(tracer, tensor, axis))
    if not 1 <= extent <= MAX_VECTOR:
        fail(f"a row of captured tensor '{tensor._leaf.hint}' has {extent} elements; a row is unrolled, so it has 1 to "
             f"{MAX_VECTOR}")
    is_last = base == tensor._real.ndim - 1
    if is_last and axis.length is None and 1 < tensor._real.ndim <= MAX_RANK:
        tensor._leaf.extents[-1] = extent
        return _load(tracer, tensor, tensor._bound, extent)
    g = tracer.graph
    return tuple(_load(tracer, tensor, {**tensor._bound, base: g.constant(axis.offset + axis.step * i)})
                 for i in range(extent))


def index_vector(tracer: Tracer, vector: Traced, key: Any) -> Any:
    if not vector.shape:
        if key == () or key is Ellipsis:
            return vector
        fail("a traced value is one number and cannot be indexed; only captured tensors and their rows can")
    lanes = len(vector)
    if type(key) is tuple and len(key) == 1:
        key = key[0]
    if isinstance(key, slice):
        return vector._viewed(Traced(tracer, tracer.lanes(vector)[key]))
    if is_traced(key) and key._host is None:
        fail("a computed vector is indexed by a traced value; index what it is made of, and compute with the elements")
    index = operator.index(key)
    if not -lanes <= index < lanes:
        raise IndexError(f"index {index} is outside a vector of {lanes} elements")
    node = vector._node
    index %= lanes
    return vector._viewed(Traced(tracer, node[index] if isinstance(node, tuple) else tracer.graph.lane(node, index)))


class Elementwise(Traced):
    """An operation on captured tensors that have axes left: to index it is to index them.

    All elements are computed only where it is used as a value, which a row may be.
    """

    def __init__(self, tracer: Tracer, operation: arithmetic.Operation, operands: list[Traced]) -> None:
        super().__init__(tracer, ())
        self._operation = operation
        # As they are now: values may be changed in place before this is indexed.
        self._operands = [Traced(tracer, operand._value, operand._host) if type(operand) is Traced else operand for operand in operands]
        self.source: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None  # the call of a library that this stands for
        self._shape = _broadcast(operands)
        self._depth: int = 1 + max(getattr(operand, "_depth", 0) if type(operand) is Elementwise else 0 for operand in operands)
        if self._depth > _MAX_DEPTH:
            self._node  # noqa: B018  now, as Python's stack is finite

    @property
    def _node(self) -> Node | tuple[Node, ...]:
        if not self._value:
            self._value = self._tracer.compute(self._operation, self._operands)._node
            self._depth = 0
        return self._value

    @property
    def dtype(self) -> Any:
        return self[(0,) * self.ndim].dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        return self._shape

    @property
    def T(self) -> Any:
        if self.ndim > 1:
            fail("what is computed of a captured tensor is transposed; transpose the tensor itself")
        return self

    mT = T

    def __getitem__(self, key: Any) -> Any:
        keys = _one_per_axis(key, self.ndim, "what is computed of captured tensors")
        if any(k is None for k in keys):
            fail("what is computed of captured tensors cannot get another axis; give it to the tensors themselves")
        part = _index_operands(self, keys, self.shape, {})
        return part if _is_traced_index(keys) else self._viewed(part)

    def __repr__(self) -> str:
        return f"<traced operation on captured tensors with {self.ndim} axes>"


def is_unread(value: Traced) -> bool:
    """Whether a value has axes that an index may still come for."""
    return isinstance(value, (TensorProxy, Elementwise)) and value.ndim > 0


def _broadcast(operands: list[Traced]) -> tuple[Any, ...]:
    """The shape of what is combined; that lengths agree becomes a condition of the trace."""
    shape = []
    for lengths in itertools.zip_longest(*(operand.shape[::-1] for operand in operands)):
        length, *others = (length for length in lengths if length is not None)
        for other in others:
            if other is length or other == length:
                continue
            if length != 1 and other != 1:
                fail(f"vectors of {length} and {other} elements cannot be combined")
            length = other if length == 1 else length
        shape.append(length)
    return tuple(shape[::-1])


def _index_operands(value: Elementwise, keys: list[Any], shape: tuple[Any, ...], known: dict[int, Any]) -> Any:
    """The operation on what `keys`, which are for `shape`, leave of the operands; each operand is indexed once."""

    def index(operand: Any) -> Any:
        if not operand.shape:
            return operand
        if id(operand) not in known:
            rank = len(operand.shape)
            own = [key if _number_of(length) != 1 or _number_of(all) == 1 else slice(None) if isinstance(key, slice) else 0
                   for key, length, all in zip(keys[-rank:], operand.shape, shape[-rank:])]
            known[id(operand)] = (_index_operands(operand, own, operand.shape, known) if type(operand) is Elementwise
                                  else operand[tuple(own)])
        return known[id(operand)]

    return value._tracer.apply(value._operation, *map(index, value._operands))


def _number_of(length: Any) -> Any:
    return length._host.value if is_traced(length) else length


def tensor_method(tracer: Tracer, tensor: TensorProxy, name: str) -> Any:
    """Methods of captured tensors that are not arithmetic; None if `name` is none of them."""
    if name == "size":  # a method in torch, a number in NumPy
        if not tensors.is_torch(tensor._real):
            return _count(tensor)
        return lambda dim=None: tensor.shape if dim is None else tensor.shape[dim]
    if name == "dim":
        return lambda: tensor.ndim
    if name == "numel":
        return lambda: _count(tensor)
    if name in ("data", "mT"):
        return tensor if name == "data" else view(tracer, tensor, "transpose", -1, -2)
    if name in _SAME:
        return lambda *args, **kwargs: tensor
    if name in VIEWS:
        return lambda *args, **kwargs: view(tracer, tensor, name, *args, **kwargs)
    if name == "requires_grad":
        return tracer.concrete_of(tensor._path.attribute("requires_grad"), bool, tensor._real.requires_grad)
    return None


def _count(tensor: TensorProxy) -> Any:
    count: Any = 1
    for length in tensor.shape:
        count = length * count
    return count


def view(tracer: Tracer, tensor: TensorProxy, name: str, *args: Any, **kwargs: Any) -> Any:
    """A view of the user's tensor, taken now and by every fetch."""
    if tensor._bound or any(axis.base != i or axis.length is not None for i, axis in enumerate(tensor._axes)):
        fail(f".{name}() of a captured tensor that is indexed already; call it on the whole tensor, or outside of the mod")
    args = tuple(_concrete(tracer, arg) for arg in args)
    kwargs = {key: _concrete(tracer, arg) for key, arg in kwargs.items()}
    real, path = tensor._real, tensor._path
    if hasattr(real, name):
        result = new_tensor(tracer, getattr(real, name)(*args, **kwargs), path.method(name, *args, **kwargs), tensor._leaf.hint)
    else:  # NumPy has it as a function only
        function = functools.partial(_view_of, getattr(arrays.library(real), name), args, kwargs)
        result = new_tensor(tracer, function(real), path.apply(function), tensor._leaf.hint)
    if tensor._casts and isinstance(result, TensorProxy):
        result._casts = tensor._casts
    return result


def _view_of(function: Any, args: Any, kwargs: Any, value: Any) -> Any:
    return function(value, *args, **kwargs)


def _concrete(tracer: Tracer, value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_concrete(tracer, item) for item in value)
    return tracer.concrete(value) if find_traced([value]) is not None else value
