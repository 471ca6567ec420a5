# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs PTX of the portable GPU path on the CPU: warp by warp, in any order between barriers, lanes in step.

Fragments of ldmatrix and mma follow the tables of the PTX ISA, independently of the compiler. Asynchronous copies
arrive at once or as late as their waits allow; shared memory starts as NaN; every access to global memory must be
aligned and inside of a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

U = np.uint64
LANES = np.arange(32)
G, T = LANES // 4, LANES % 4
MASKS = {8: U(0xFF), 16: U(0xFFFF), 32: U(0xFFFFFFFF), 64: U(0xFFFFFFFFFFFFFFFF)}


def f32(bits: np.ndarray) -> np.ndarray:
    return (bits & MASKS[32]).astype(np.uint32).view(np.float32)


def bits32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x, np.float32)).view(np.uint32).astype(U)


def to_bf16(x: np.ndarray) -> np.ndarray:
    b = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(U)
    rounded = (b + U(0x7FFF) + ((b >> U(16)) & U(1))) >> U(16)
    return np.where(np.isnan(x), U(0x7FFF), rounded) & U(0xFFFF)


def from_bf16(b: np.ndarray) -> np.ndarray:
    return f32((b & U(0xFFFF)) << U(16))


def to_f16(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).astype(np.float16).view(np.uint16).astype(U)


def from_f16(b: np.ndarray) -> np.ndarray:
    return (b & U(0xFFFF)).astype(np.uint16).view(np.float16).astype(np.float32)


ROUND = {"rm": np.floor, "rp": np.ceil, "rz": np.trunc, "rn": np.rint}
CONVERT = {"bf16": (to_bf16, from_bf16), "f16": (to_f16, from_f16)}


class Memory:
    """Global memory. Tensors lie between bytes that nobody may touch."""

    def __init__(self, size: int = 1 << 22) -> None:
        self.base, self.end = 0x7F0000000000, 256
        self.bytes = np.full(size, 0xFF, np.uint8)
        self.allowed = np.zeros(size, bool)

    def place(self, data: np.ndarray, misalign: int = 0) -> int:
        """Copies an array's memory; the caller allows what may be touched."""
        start = self.end + misalign
        raw = data.view(np.uint8).reshape(-1)
        self.bytes[start:start + raw.size] = raw
        self.end = (start + raw.size + 511) // 256 * 256
        return self.base + start

    def index(self, addresses: np.ndarray, size: int, what: str) -> np.ndarray:
        assert not (addresses % U(size)).any(), f"{what}: misaligned"
        at = (addresses - U(self.base)).astype(np.int64)[:, None] + np.arange(size)
        assert (at >= 0).all() and (at < self.bytes.size).all() and self.allowed[at].all(), f"{what}: outside of tensors"
        return at


@dataclass
class Instruction:
    text: str
    guard: str
    negated: bool
    op: list[str]
    operands: list[str]


@dataclass
class Warp:
    first: int
    pcs: np.ndarray
    registers: dict[str, np.ndarray] = field(default_factory=dict)
    groups: list[list] = field(default_factory=lambda: [[]])
    at_barrier: bool = False


def split_operands(text: str) -> list[str]:
    out, depth, word = [], 0, ""
    for c in text:
        depth += c in "{["
        depth -= c in "}]"
        if c == "," and depth == 0:
            out.append(word.strip())
            word = ""
        else:
            word += c
    return out + ([word.strip()] if word.strip() else [])


class Kernel:
    def __init__(self, ptx: str, name: str) -> None:
        self.name = name
        body = re.search(r"\.entry " + re.escape(name) + r"\(.*?\)\s*(.*?)\n\{(.*?)\n\}", ptx, re.S)
        assert body, name
        self.symbols: dict[str, int] = {}  # of shared memory: the sized ones, then all the rest
        offset = 0
        for symbol, size in re.findall(r"\.shared \.align \d+ \.b8 (\w+)\[(\d+)\]", ptx):
            self.symbols[symbol] = offset
            offset += int(size)
        self.symbols["heed_shared"] = -(-offset // 16) * 16
        self.threads = int(re.search(r"\.maxntid (\d+)", body[1])[1])
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for statement in re.sub(r"//[^\n]*", "", body[2]).replace("\n", " ").split(";"):
            statement = statement.strip(" \t{}")
            while label := re.match(r"(\$\w+):\s*", statement):
                self.labels[label[1]] = len(self.code)
                statement = statement[label.end():].strip(" \t{}")
            if not statement or statement.startswith("."):
                continue
            guard = ""
            if statement[0] == "@":
                guard, statement = statement[1:].split(None, 1)
            op, _, rest = statement.partition(" ")
            if "\t" in op:
                op, _, more = op.partition("\t")
                rest = more + " " + rest
            self.code.append(Instruction(statement, guard.lstrip("!"), guard.startswith("!"), op.split("."),
                                         split_operands(rest)))

    def run(self, block: int, grid: int, args: np.ndarray, memory: Memory, shared_bytes: int,
            rng: np.random.Generator, eager: bool) -> None:
        self.block, self.grid, self.memory, self.eager = block, grid, memory, eager
        self.args = args.view(np.uint8)
        self.shared = np.full(shared_bytes, 0xFF, np.uint8)
        self.shared_base = 1024
        warps = [Warp(32 * w, np.zeros(32, np.int64)) for w in range(self.threads // 32)]
        while True:
            ready = [w for w in warps if not w.at_barrier and (w.pcs >= 0).any()]
            if not ready:
                waiting = [w for w in warps if w.at_barrier]
                if not waiting:
                    return
                assert len(waiting) == len(warps), "barrier that some warps never reach"
                for w in waiting:
                    w.at_barrier = False
                continue
            self.advance(ready[rng.integers(len(ready))])

    def advance(self, w: Warp) -> None:
        """Runs a warp up to its next barrier or to its end."""
        while not w.at_barrier and (w.pcs >= 0).any():
            pc = self.next_pc(w)
            active = w.pcs == pc
            if pc == len(self.code):
                w.pcs[active] = -1
                continue
            i = self.code[pc]
            if i.guard:
                p = w.registers[i.guard].astype(bool)
                active = active & (~p if i.negated else p)
            w.pcs[w.pcs == pc] = pc + 1
            if not active.any():
                continue
            try:
                self.execute(w, i, active)
            except Exception as problem:
                raise RuntimeError(f"in '{i.text}': {problem}") from problem

    def next_pc(self, w: Warp) -> int:
        """The first place where lanes can go on: what synchronises a warp waits for all of them."""
        for pc in np.unique(w.pcs[w.pcs >= 0]):
            if pc == len(self.code) or (w.pcs == pc).all() or not self.code[pc].op[1:] or "sync" not in self.code[pc].op[1:3]:
                return int(pc)
        raise AssertionError("lanes wait for each other at different places")

    # -- Operands --------------------------------------------------------------------------------------

    def get(self, w: Warp, text: str) -> np.ndarray:
        if text in w.registers:
            return w.registers[text]
        if text.startswith("0f"):
            return np.full(32, int(text[2:], 16), U)
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", text):
            return np.full(32, int(text.rstrip("U"), 0) & 0xFFFFFFFFFFFFFFFF, U)
        if text == "%tid.x":
            return (LANES + w.first).astype(U)
        if text == "%laneid":
            return LANES.astype(U)
        if text == "%ctaid.x":
            return np.full(32, self.block, U)
        if text == "%nctaid.x":
            return np.full(32, self.grid, U)
        if text == "%lanemask_lt":
            return ((U(1) << LANES.astype(U)) - U(1)).astype(U)
        if text in self.symbols:
            return np.full(32, self.shared_base + self.symbols[text], U)
        if re.fullmatch(r"\w+_param_\d+", text):  # read by ld.param only
            return np.zeros(32, U)
        raise KeyError(text)

    def put(self, w: Warp, name: str, value: np.ndarray, active: np.ndarray) -> None:
        old = w.registers.get(name)
        value = np.asarray(value)
        w.registers[name] = value.copy() if old is None else np.where(active, value, old)

    def address(self, w: Warp, text: str) -> np.ndarray:
        base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
        return self.get(w, base) + U(int(offset or 0) & 0xFFFFFFFFFFFFFFFF)

    def shared_index(self, addresses: np.ndarray, size: int) -> np.ndarray:
        assert not (addresses % U(size)).any(), "misaligned shared access"
        at = ((addresses & MASKS[32]).astype(np.int64) - self.shared_base)[:, None] + np.arange(size)
        assert (at >= 0).all() and (at < self.shared.size).all(), "outside of shared memory"
        return at

    # -- Instructions ----------------------------------------------------------------------------------

    def execute(self, w: Warp, i: Instruction, active: np.ndarray) -> None:
        # Memory is that of one thread at a time.
        op, o = [word for word in i.op if word not in ("relaxed", "acq_rel", "gpu")], i.operands
        name = op[0]
        get: Callable[[str], np.ndarray] = lambda t: self.get(w, t)  # noqa: E731
        put = lambda value: self.put(w, o[0], value, active)  # noqa: E731
        kind = op[-1]
        if name in ("mma", "ldmatrix", "shfl", "vote", "bar", "redux") or name == "cp":
            if name != "cp" or "async" not in op:
                assert active.all(), "diverged"
        if name == "bra":
            w.pcs[active] = self.labels[o[0]]
        elif name == "ret":
            w.pcs[active] = -1
        elif name == "fence" or (name == "bar" and op[1] == "warp"):
            pass  # lanes are in step, and what they write is there at once
        elif name == "bar":
            w.at_barrier = True
        elif name == "ld" and op[1] == "param":
            size = int(kind[1:]) // 8
            at = int(self.address(w, o[1])[0])
            put(np.full(32, int.from_bytes(self.args[at:at + size].tobytes(), "little"), U))
        elif name == "ld":
            size = int(kind[1:]) // 8
            names = split_operands(o[0].strip("{}"))
            addresses = self.address(w, o[1])
            total = size * len(names)
            if op[1] == "shared":
                data = np.zeros((32, total), np.uint8)
                data[active] = self.shared[self.shared_index(addresses[active], total)]
            else:
                assert op[1] == "global"
                data = np.zeros((32, total), np.uint8)
                data[active] = self.memory.bytes[self.memory.index(addresses[active], total, "load")]
            for k, n in enumerate(names):
                value = value_of(data[:, k * size:(k + 1) * size])
                self.put(w, n, signed(value, 8 * size).astype(U) if kind[0] == "s" else value, active)
        elif name == "st":
            size = int(kind[1:]) // 8
            names = split_operands(o[1].strip("{}"))
            addresses = self.address(w, o[0])[active]
            data = np.concatenate([bytes_of(get(n), size) for n in names], axis=1)[active]
            if op[1] == "shared":
                self.shared[self.shared_index(addresses, data.shape[1])] = data
            else:
                assert op[1] == "global"
                self.memory.bytes[self.memory.index(addresses, data.shape[1], "store")] = data
        elif name == "atom":
            assert op[1:] == ["global", "inc", "u32"] and active.sum() == 1
            at = self.memory.bytes[self.memory.index(self.address(w, o[1])[active], 4, "load")[0]].view(np.uint32)
            put(np.full(32, at[0], U))
            at[0] = 0 if at[0] >= get(o[2])[active][0] else at[0] + 1
            self.memory.bytes[self.memory.index(self.address(w, o[1])[active], 4, "store")[0]] = at.view(np.uint8)
        elif name == "cp" and op[2] == "commit_group":
            w.groups.append([])
        elif name == "cp" and op[2] == "wait_group":
            keep = int(o[0]) + 1  # and what has not been committed
            while len(w.groups) > keep:
                for arrive in w.groups.pop(0):
                    arrive()
        elif name == "cp":
            target = self.shared_index(self.address(w, o[0])[active], 16)
            source, sizes = self.address(w, o[1])[active], get(o[3])[active] & MASKS[32]
            assert not (source % U(16))[sizes > 0].any(), "misaligned copy"
            data = np.zeros((len(source), 16), np.uint8)
            for k, (a, n) in enumerate(zip(source, sizes.astype(int))):
                assert n <= 16
                if n:
                    at = self.memory.index(np.array([a]), 1, "copy")[0, 0] + np.arange(n)
                    assert self.memory.allowed[at].all(), "copy: outside of tensors"
                    data[k, :n] = self.memory.bytes[at]

            def arrive(target: np.ndarray = target, data: np.ndarray = data) -> None:
                self.shared[target] = data
            if self.eager:
                arrive()
            else:
                w.groups[-1].append(arrive)
        elif name == "ldmatrix":
            rows = self.shared[self.shared_index(self.address(w, o[1]), 16)].view(np.uint16)  # 32 x 8
            for m, n in enumerate(split_operands(o[0].strip("{}"))):
                matrix = rows[8 * m:8 * m + 8]
                if "trans" in op:
                    matrix = matrix.T
                put_to = matrix[G, 2 * T].astype(U) | (matrix[G, 2 * T + 1].astype(U) << U(16))
                self.put(w, n, put_to, active)
        elif name == "mma":
            self.multiply(w, i, active)
        elif name == "redux":
            reduce = {"add": np.sum, "min": np.min, "max": np.max}[op[2]]
            put(np.full(32, int(reduce(signed(get(o[1]), 32))) & 0xFFFFFFFF, U))
        elif name == "shfl":
            x, lane = get(o[1]), get(o[2]).astype(np.int64)
            put(x[LANES ^ lane] if op[2] == "bfly" else x[lane & 31])
        elif name == "vote":
            votes = get(o[1]).astype(bool)
            put(np.full(32, votes.any() if op[2] == "any" else (votes.astype(U) << LANES.astype(U)).sum(dtype=U)))
        elif name == "mov" and o[0][0] == "{":
            half = int(kind[1:]) // 2
            for k, n in enumerate(split_operands(o[0].strip("{}"))):
                if n != "_":
                    self.put(w, n, (get(o[1]) >> U(half * k)) & MASKS[half], active)
        elif name == "mov" and o[1][0] == "{":
            half = int(kind[1:]) // 2
            low, high = split_operands(o[1].strip("{}"))
            put((get(low) & MASKS[half]) | ((get(high) & MASKS[half]) << U(half)))
        elif name in ("mov", "cvta"):
            put(get(o[1]))
        elif name == "setp":
            put(compare(op[1], kind, get(o[1]), get(o[2])))
        elif name == "selp":
            put(np.where(get(o[3]).astype(bool), get(o[1]), get(o[2])))
        elif kind == "pred":
            x = [get(t).astype(bool) for t in o[1:]]
            put({"and": lambda: x[0] & x[1], "or": lambda: x[0] | x[1], "xor": lambda: x[0] ^ x[1],
                 "not": lambda: ~x[0]}[name]())
        elif name == "cvt":
            put(self.convert(op, [get(t) for t in o[1:]]))
        elif kind == "f32":
            x = [f32(get(t)) for t in o[1:]]
            with np.errstate(all="ignore"):
                put(bits32(FLOATS[name + ".NaN" if "NaN" in op else name](*x)))
        else:
            put(integer(name, op, kind, [get(t) for t in o[1:]]))

    def convert(self, op: list[str], x: list[np.ndarray]) -> np.ndarray:
        if op[1] == "rna":
            return ((x[0] + U(0x1000)) & U(0xFFFFE000)) | U(0x0ABC)  # low bits are undefined
        to, source = (op[-2], op[-1])
        if to in ("bf16x2", "f16x2"):
            narrow = CONVERT[to[:-2]][0]
            return narrow(f32(x[1])) | (narrow(f32(x[0])) << U(16))
        if to in CONVERT:
            return CONVERT[to][0](f32(x[0]))
        if source == "f32":
            with np.errstate(all="ignore"):
                whole = ROUND[op[1][:2]](f32(x[0]))
                return bits32(whole) if to == "f32" else np.nan_to_num(whole.astype(np.float64)).astype(np.int64).astype(U) & MASKS[int(to[1:])]
        if to == "f32":
            if source in CONVERT:
                return bits32(CONVERT[source][1](x[0]))
            return bits32(signed(x[0], int(source[1:])).astype(np.float32))
        wide = signed(x[0], int(source[1:])).astype(U) if source[0] == "s" else x[0] & MASKS[int(source[1:])]
        return wide & MASKS[int(to[1:])]

    def multiply(self, w: Warp, i: Instruction, active: np.ndarray) -> None:
        d, a, b, c = ([t for t in split_operands(t.strip("{}"))] for t in i.operands)
        a, b, c = ([self.get(w, t) for t in names] for names in (a, b, c))
        shape, dtype = i.op[3], i.op[-2]
        k = 16 if shape == "m16n8k16" else 8
        left, right, acc = np.zeros((16, k)), np.zeros((k, 8)), np.zeros((16, 8))
        if k == 16:  # pairs; registers of A: (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8); of B: rows 2t, 2t+8
            widen = CONVERT[dtype][1]
            for half in (0, 1):
                for r, x in enumerate(a):
                    left[G + 8 * (r % 2), 2 * T + half + 8 * (r // 2)] = widen(x >> U(16 * half))
                for r, x in enumerate(b):
                    right[2 * T + half + 8 * r, G] = widen(x >> U(16 * half))
        else:
            assert dtype == "tf32"
            for r, x in enumerate(a):
                left[G + 8 * (r % 2), T + 4 * (r // 2)] = f32(x & U(0xFFFFE000))
            for r, x in enumerate(b):
                right[T + 4 * r, G] = f32(x & U(0xFFFFE000))
        for r, x in enumerate(c):
            acc[G + 8 * (r // 2), 2 * T + r % 2] = f32(x)
        with np.errstate(all="ignore"):
            acc = acc + left @ right
            for r, n in enumerate(d):
                self.put(w, n, bits32(acc[G + 8 * (r // 2), 2 * T + r % 2]), active)


def signed(x: np.ndarray, width: int) -> np.ndarray:
    return (x << U(64 - width)).astype(np.int64) >> (64 - width)


def value_of(data: np.ndarray) -> np.ndarray:
    out = np.zeros(32, U)
    for k in range(data.shape[1]):
        out |= data[:, k].astype(U) << U(8 * k)
    return out


def bytes_of(x: np.ndarray, size: int) -> np.ndarray:
    return np.stack([((x >> U(8 * k)) & U(0xFF)).astype(np.uint8) for k in range(size)], axis=1)


def compare(predicate: str, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if kind == "f32":
        a, b = f32(x), f32(y)
        with np.errstate(all="ignore"):
            table = {"eq": a == b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b, "ne": (a < b) | (a > b),
                     "neu": ~(a == b), "num": ~(np.isnan(a) | np.isnan(b)), "nan": np.isnan(a) | np.isnan(b),
                     "ltu": ~(a >= b), "leu": ~(a > b), "gtu": ~(a <= b), "geu": ~(a < b), "equ": ~((a < b) | (a > b))}
        return table[predicate]
    if kind == "pred":
        x, y, kind = x.astype(U), y.astype(U), "b32"
    width = int(kind[1:])
    a, b = (signed(x, width), signed(y, width)) if kind[0] == "s" else (x & MASKS[width], y & MASKS[width])
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[predicate]


FLOATS: dict[str, Callable[..., np.ndarray]] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "neg": lambda x: -x,
    "abs": np.abs, "max": np.fmax, "min": np.fmin, "max.NaN": np.maximum, "min.NaN": np.minimum, "div": lambda x, y: x / y,
    "fma": lambda x, y, z: x.astype(np.float64) * y + z, "ex2": np.exp2, "lg2": np.log2, "rcp": lambda x: 1 / x,
    "tanh": np.tanh, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "copysign": lambda sign, x: np.copysign(x, sign)}


def integer(name: str, op: list[str], kind: str, x: list[np.ndarray]) -> np.ndarray:
    width = int(kind[1:])
    is_signed = kind[0] == "s"
    raw = [v & MASKS[width] for v in x]
    v = [signed(t, width) for t in x] if is_signed else raw
    with np.errstate(all="ignore"):
        if name in ("mul", "mad") and "wide" in op:
            out = (v[0].astype(U) if not is_signed else v[0]) * v[1]
            out = out.astype(U) + (x[2] if name == "mad" else U(0))
            return out & MASKS[2 * width]
        if name in ("mul", "mad") and "hi" in op:
            out = (v[0] * v[1]).astype(U) >> U(width) if width <= 32 else np.array(
                [((int(a) * int(b)) >> 64) & 0xFFFFFFFFFFFFFFFF for a, b in zip(v[0], v[1])], U)
            return out & MASKS[width]
        shift = [np.minimum(t & MASKS[32], U(width)) for t in x]
        table: dict[str, Callable[[], np.ndarray]] = {
            "add": lambda: x[0] + x[1], "sub": lambda: x[0] - x[1], "mul": lambda: x[0] * x[1],
            "mad": lambda: x[0] * x[1] + x[2], "and": lambda: x[0] & x[1], "or": lambda: x[0] | x[1],
            "xor": lambda: x[0] ^ x[1], "not": lambda: ~x[0], "neg": lambda: U(0) - x[0],
            "abs": lambda: np.abs(v[0]).astype(U),
            "min": lambda: np.minimum(v[0], v[1]).astype(U), "max": lambda: np.maximum(v[0], v[1]).astype(U),
            "div": lambda: (v[0] // v[1]).astype(U), "rem": lambda: (v[0] % v[1]).astype(U),
            "shl": lambda: np.where(shift[1] >= width, U(0), raw[0] << np.minimum(shift[1], U(63))),
            "shr": lambda: ((v[0] >> np.minimum(shift[1], U(63)).astype(np.int64)).astype(U) if is_signed
                            else np.where(shift[1] >= width, U(0), raw[0] >> np.minimum(shift[1], U(63)))),
            "bfe": lambda: (raw[0] >> x[1]) & ((U(1) << x[2]) - U(1)),
            "popc": lambda: np.array([int(t).bit_count() for t in raw[0]], U)}
        return table[name]() & MASKS[width if name != "popc" else 32]
