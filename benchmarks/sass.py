"""Executes a kernel's machine code for sm_90, as `nvdisasm -c` lists it, and counts the instructions that warps issue.

The 32 lanes of a warp are one NumPy array. Lanes that take different ways are executed one way after the other, those
at the lowest address first, and meet again where the code has them meet (BSSY and BSYNC, WARPSYNC): what a warp issues
is therefore counted once for each way. It is enough of SASS for the kernels of csrc/cuda in float, bfloat16 and bytes;
an instruction that is not known here is an error, never skipped. Results are those of the GPU but for the last bit of
its special functions (MUFU) and of a fused multiply-add, which is rounded twice.
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

LANES = 32
ALL = np.ones(LANES, bool)
# Where kernels for sm_90 have their parameters in the constant bank.
PARAMETERS = 0x210
SHARED = 48 * 1024

CLASSES = {
    "float": {"FADD", "FMUL", "FFMA", "FSEL", "FSETP", "FMNMX", "FCHK", "FSET", "HADD2", "HFMA2", "HMUL2", "F2FP"},
    "special": {"MUFU", "I2F", "F2I", "F2F", "FRND"},  # on units that take a quarter of a warp, or less, at a time
    "memory": {"LDG", "STG", "LDS", "STS", "LDC", "ULDC", "SHFL", "LDL", "STL"},
    "flow": {"BRA", "BSSY", "BSYNC", "BREAK", "EXIT", "CALL", "RET", "NOP", "WARPSYNC", "BAR", "YIELD"},
}
SCALES = {"D2": 1 / 2, "D4": 1 / 4, "D8": 1 / 8, "M2": 2, "M4": 4, "M8": 8}
CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes}


class Unknown(Exception):
    """An instruction, or a form of it, that is not known here."""


@dataclass
class Instruction:
    address: int
    text: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: list[str]
    predicate: str | None = None  # such as "!P0"
    target: str | None = None  # the label it names

    @cached_property
    def kind(self) -> str:
        return CLASS_OF.get(self.opcode, "integer")


@dataclass
class Kernel:
    """A kernel's instructions, and where its labels stand in them."""

    code: list[Instruction]
    labels: dict[str, int]

    @cached_property
    def at(self) -> dict[int, int]:
        """Where the instruction of an address stands."""
        return {instruction.address: k for k, instruction in enumerate(self.code)}

    @property
    def spills(self) -> int:
        """How many instructions move registers to and from local memory."""
        return sum(instruction.opcode in ("LDL", "STL") for instruction in self.code)


def parse(address: int, text: str) -> Instruction:
    predicate = target = None
    rest = text.strip()
    if found := re.match(r"@(!?U?P\w+)\s+(.*)", rest):
        predicate, rest = found.groups()
    name, _, rest = rest.partition(" ")
    if found := re.search(r"`\(([^)`]*)\)", rest):
        target = found[1]
        rest = rest.replace(found[0], "@")
    operands = [part.strip().replace(".reuse", "") for part in re.split(r",\s*(?![^\[]*\])", rest) if part.strip()]
    opcode, *modifiers = name.split(".")
    return Instruction(address, text.strip(), opcode, tuple(modifiers), operands, predicate, target)


def kernels(listing: str, wanted: Container[str]) -> dict[str, Kernel]:
    """The wanted kernels of a listing by their (mangled) names."""
    found: dict[str, Kernel] = {}
    reading = False
    for line in listing.splitlines():
        if start := re.match(r"\.text\.(\S+):", line):
            reading = start[1] in wanted
            code, labels = [], {}
            if reading:
                found[start[1]] = Kernel(code, labels)
        elif not reading:
            continue
        elif label := re.match(r"(\.L\S+|\$\S+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            code.append(parse(int(instruction[1], 16), instruction[2]))
    return found


class Memory:
    """Global memory: arrays with gaps between them, so that an access beside an array is an error."""

    BASE = 0x7F0000000000
    GAP = 4096

    def __init__(self):
        self.bytes = np.zeros(0, np.uint8)
        self.owned = np.zeros(0, bool)
        self.of_program: int | None = None  # the address of what it keeps between launches: of one array

    def add(self, array: np.ndarray) -> int:
        """The address of a copy of the array's bytes."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        at = len(self.bytes) + self.GAP
        size = -(-raw.size // 256) * 256
        self.bytes = np.concatenate(
            [self.bytes, np.zeros(self.GAP, np.uint8), raw, np.zeros(size - raw.size, np.uint8)]
        )
        self.owned = np.concatenate([self.owned, np.zeros(self.GAP, bool), np.arange(size) < raw.size])
        return self.BASE + at

    def read(self, address: int, count: int, dtype) -> np.ndarray:
        at = address - self.BASE
        return self.bytes[at : at + count * np.dtype(dtype).itemsize].view(dtype)

    def places(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Where the bytes of each access are."""
        if (addresses % np.uint64(size)).any():
            raise IndexError(f"an access of {size} bytes at {int(addresses[0]):#x}, or beside it, is not aligned")
        places = (addresses - np.uint64(self.BASE)).astype(np.int64)[:, None] + np.arange(size)
        if (places < 0).any() or (places >= len(self.owned)).any() or not self.owned[places].all():
            raise IndexError(f"an access of {size} bytes at {int(addresses[0]):#x}, or beside it, is in no array")
        return places


def _size(modifiers: tuple[str, ...]) -> int:
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((sizes[name] for name in modifiers if name in sizes), 4)


def _shifted(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    """value >> by for unsigned 64-bit numbers: 0 from 64 on, where NumPy promises nothing."""
    return np.where(by < 64, value >> np.minimum(by, np.uint64(63)), np.uint64(0))


@dataclass(frozen=True)
class Operand:
    """How a 32-bit operand is written: its sign, its register or place among the constants, which of its bits; or its
    value."""

    sign: str
    absolute: bool
    name: str
    shift: int = 0
    bits: int = 0  # 0: all
    value: int | None = None


@cache
def word_operand(text: str) -> Operand:
    sign, rest = (text[0], text[1:]) if re.match(r"[~-](?![0-9])", text) else ("", text)
    absolute, rest = rest[0] == "|", rest.strip("|")
    if rest.startswith("c["):
        return Operand(sign, absolute, rest)
    if re.match(r"(U?R|SR)(\d|Z)", rest):
        name, _, part = rest.partition(".")
        if part in ("", "64", "X32"):
            return Operand(sign, absolute, name)
        if part in ("H0_H0", "H0", "U16"):
            return Operand(sign, absolute, name, 0, 0xFFFF)
        if part in ("H1_H1", "H1"):
            return Operand(sign, absolute, name, 16, 0xFFFF)
        if re.fullmatch("B[0-3]", part):
            return Operand(sign, absolute, name, 8 * int(part[1]), 0xFF)
        raise Unknown(text)
    if re.match(r"-?0x", rest):
        return Operand(sign, absolute, rest, value=int(rest, 16))
    number = np.float32(rest.replace("QNAN", "nan").replace("INF", "inf"))
    return Operand(sign, absolute, rest, value=int(number.view(np.uint32)))


@cache
def number_operand(text: str) -> tuple[bool, bool, str]:
    """Whether a float operand is negated, whether it is an absolute value, and the rest."""
    negative = bool(re.match(r"-(?=[RU|c])", text))
    text = text[1:] if negative else text
    return negative, text[0] == "|", text.strip("|")


@cache
def register_operand(name: str) -> tuple[str, int] | None:
    """The file and the number of a register; None for the one that is always zero."""
    name = name.partition(".")[0]
    if name in ("RZ", "URZ", "SRZ"):
        return None
    digits = name.lstrip("UR")
    return name[: -len(digits)], int(digits)


class Warp:
    """A warp's registers, and what each instruction does to them."""

    def __init__(self, kernel: Kernel, memory: Memory, constants: bytes, shared: np.ndarray, first: int, block: int):
        self.kernel, self.memory, self.shared = kernel, memory, shared
        self.constants = np.frombuffer(constants, np.uint8)
        self.files = {"R": np.zeros((256, LANES), np.uint32), "UR": np.zeros((64, LANES), np.uint32)}
        self.predicates = {f"{u}P{k}": np.zeros(LANES, bool) for u in ("", "U") for k in range(7)}
        thread = first + np.arange(LANES, dtype=np.uint32)
        same = np.zeros(LANES, np.uint32)
        self.special = {"SR_TID.X": thread, "SR_LANEID": thread % 32, "SR_CTAID.X": same + np.uint32(block)}
        self.special |= {name: same for name in ("SR_CTAID.Y", "SR_CTAID.Z", "SR_CgaCtaId")}
        self.mask = ALL
        self.issued: Counter[str] = Counter()

    # ---- Operands ----

    def predicate(self, name: str) -> np.ndarray:
        negated, name = name[0] == "!", name.lstrip("!")
        value = ALL if name in ("PT", "UPT") else self.predicates[name]
        return ~value if negated else value

    def set_predicate(self, name: str, value: np.ndarray) -> None:
        if name not in ("PT", "UPT"):
            np.copyto(self.predicates[name], value, where=self.mask)

    def register(self, name: str, further: int = 0) -> np.ndarray:
        """A register, or the one `further` after it."""
        found = register_operand(name)
        return np.zeros(LANES, np.uint32) if found is None else self.files[found[0]][found[1] + further]

    def set(self, name: str, value, further: int = 0) -> None:
        if name not in ("RZ", "URZ"):
            np.copyto(self.register(name, further), np.asarray(value).astype(np.uint32), where=self.mask)

    def set_wide(self, name: str, value: np.ndarray) -> None:
        self.set(name, value & np.uint64(0xFFFFFFFF))
        self.set(name, value >> np.uint64(32), 1)

    def constant(self, text: str, size: int = 4, further: int = 0) -> np.ndarray:
        """c[0x0][0x210], or c[0x0][R4+0x210]; c[0x4][RZ] is where the program's own memory is."""
        if text.startswith("c[0x4]"):
            if size != 8 or self.memory.of_program is None:
                raise Unknown(text)
            return np.full(LANES, self.memory.of_program, np.uint64)
        offset = np.zeros(LANES, np.int64) + further
        for part in re.fullmatch(r"c\[0x0\]\[(.*)\]", text)[1].split("+"):
            offset = offset + (int(part, 16) if "x" in part else self.register(part).astype(np.int32))
        offset = np.where(self.mask, offset, 0)
        raw = self.constants[offset[:, None] + np.arange(size)]
        return np.ascontiguousarray(raw).view(np.dtype(f"u{size}")).reshape(LANES)

    def word(self, text: str, further: int = 0) -> np.ndarray:
        """A 32-bit operand, with the signs of integers; the higher half of a 64-bit one is 1 further."""
        operand = word_operand(text)
        if operand.value is not None:
            value = np.full(LANES, operand.value >> 32 * further & 0xFFFFFFFF, np.uint32)
        elif operand.name.startswith("c["):
            value = self.constant(operand.name, further=4 * further)
        else:
            value = self.register(operand.name, further)
        if operand.bits:
            value = value >> np.uint32(operand.shift) & np.uint32(operand.bits)
        if operand.absolute:
            value = np.abs(value.view(np.int32)).view(np.uint32)
        return ~value if operand.sign == "~" else (~value + np.uint32(1)) if operand.sign == "-" else value

    def signed(self, text: str) -> np.ndarray:
        return self.word(text).view(np.int32).astype(np.int64)

    def wide(self, text: str) -> np.ndarray:
        """A 64-bit operand."""
        negative, text = text[0] == "-" and not text.startswith("-0x"), text.lstrip("-") if text[0] == "-" else text
        if negative or not text.startswith("0x"):
            value = self.word(text).astype(np.uint64) | self.word(text, 1).astype(np.uint64) << np.uint64(32)
            return ~value + np.uint64(1) if negative else value
        return np.full(LANES, int(text, 16), np.uint64)

    def number(self, text: str) -> np.ndarray:
        """A float32 operand."""
        negative, absolute, rest = number_operand(text)
        value = self.word(rest).view(np.float32)
        value = np.abs(value) if absolute else value
        return -value if negative else value

    def set_number(self, name: str, value: np.ndarray) -> None:
        self.set(name, value.astype(np.float32).view(np.uint32))

    def address(self, text: str) -> np.ndarray:
        """desc[UR4][R2.64+UR6+0x10] or [R2+0x10]."""
        total = np.zeros(LANES, np.uint64)
        for part in re.search(r"\[([^\[\]]*)\]$", text)[1].split("+"):
            if part.endswith(".64"):
                total = total + self.wide(part)
            elif "x" in part and not part.endswith("X32"):
                total = total + np.uint64(int(part, 16) & 0xFFFFFFFFFFFFFFFF)
            else:
                total = total + self.word(part)
        return total

    # ---- Instructions ----

    def execute(self, i: Instruction) -> None:
        opcode = i.opcode
        if opcode[0] == "U" and opcode != "UP2UR":
            opcode = opcode[1:]
        method: Callable | None = getattr(self, f"op_{opcode.lower()}", None)
        if method is None:
            raise Unknown(i.text)
        method(i, i.modifiers, *i.operands)

    def op_mov(self, i, modifiers, to, value, *_):
        self.set(to, self.word(value))

    op_r2ur = op_mov

    def op_ldc(self, i, modifiers, to, place):
        size = _size(modifiers)
        value = self.constant(place, size)
        self.set_wide(to, value) if size == 8 else self.set(to, value)

    def op_s2r(self, i, modifiers, to, name):
        self.set(to, self.special[name])

    op_s2ur = op_s2r

    def op_cs2r(self, i, modifiers, to, name):
        if name != "SRZ":
            raise Unknown(i.text)
        self.set(to, 0)
        if "32" not in modifiers:
            self.set(to, 0, 1)

    def op_imad(self, i, modifiers, to, *rest):
        carries = [rest[0]] if re.fullmatch(r"U?P[T\d]", rest[0]) else []
        a, b, c, *more = rest[len(carries) :]
        if "MOV" in modifiers:
            return self.set(to, self.word(c))
        added = self.predicate(more[0]).astype(np.uint64) if "X" in modifiers else np.uint64(0)
        if "WIDE" in modifiers or "HI" in modifiers:
            if "U32" in modifiers:
                product = self.word(a).astype(np.uint64) * self.word(b).astype(np.uint64)
            else:
                product = (self.signed(a) * self.signed(b)).view(np.uint64)
            if "HI" in modifiers:
                return self.set(to, (product >> np.uint64(32)) + self.word(c))
            total = product + self.wide(c)
            carry = total < product
            carry |= total + added < total
            self.set_wide(to, total + added)
            for name in carries:
                self.set_predicate(name, carry)
            return
        self.set(to, self.word(a) * self.word(b) + self.word(c) + added.astype(np.uint32))

    def op_iadd3(self, i, modifiers, to, *rest):
        carries = []
        while re.fullmatch(r"U?P[T\d]", rest[0]):
            carries.append(rest[0])
            rest = rest[1:]
        total = np.zeros(LANES, np.uint64)
        for text in rest[:3]:
            if re.match(r"-(?=[RUc])", text):  # ~x + 1, whose carry counts
                total = total + self.word("~" + text[1:]) + np.uint64("X" not in modifiers)
            else:
                total = total + self.word(text)
        if "X" in modifiers:
            for name in rest[3:]:
                total = total + self.predicate(name)
        self.set(to, total & np.uint64(0xFFFFFFFF))
        for k, name in enumerate(carries):
            self.set_predicate(name, total >> np.uint64(32) > k)

    def op_viadd(self, i, modifiers, to, a, b):
        self.set(to, self.word(a) + self.word(b))

    op_iadd = op_viadd

    def op_lea(self, i, modifiers, to, *rest):
        carry = rest[0] if re.fullmatch(r"U?P[T\d]", rest[0]) else None
        a, b, *more = rest[1:] if carry else rest
        added = self.predicate(more[-1]).astype(np.uint64) if "X" in modifiers else np.uint64(0)
        if "HI" not in modifiers:
            shifted = self.word(a).astype(np.uint64) << np.uint64(int(more[0], 16)) & np.uint64(0xFFFFFFFF)
            total = shifted + self.word(b) + added
            self.set(to, total & np.uint64(0xFFFFFFFF))
            if carry:
                self.set_predicate(carry, total >> np.uint64(32) > 0)
            return
        if "SX32" in modifiers:
            value, shift = self.signed(a).view(np.uint64), more[0]
        else:
            value = self.word(a).astype(np.uint64) | self.word(more[0]).astype(np.uint64) << np.uint64(32)
            shift = more[1]
        total = (value << np.uint64(int(shift, 16)) >> np.uint64(32)) + self.word(b) + added
        self.set(to, total & np.uint64(0xFFFFFFFF))
        if carry:
            self.set_predicate(carry, total >> np.uint64(32) > 0)

    def op_shf(self, i, modifiers, to, low, by, high):
        direction, kind = modifiers[:2]
        count = self.word(by).astype(np.uint64)
        count = np.minimum(count, np.uint64(63 if "64" in kind else 31)) if "W" not in modifiers else count % 32
        both = self.word(low).astype(np.uint64) | self.word(high).astype(np.uint64) << np.uint64(32)
        if direction == "L":
            value = both << count
        elif kind.startswith("S"):
            value = (both.view(np.int64) >> count.astype(np.int64)).view(np.uint64)
        else:
            # A shift by 32 or more leaves nothing of the higher word, and clamps that of both.
            count = self.word(by).astype(np.uint64)
            value = _shifted(both, count)
        self.set(to, (value >> np.uint64(32) if "HI" in modifiers else value) & np.uint64(0xFFFFFFFF))

    def op_lop3(self, i, modifiers, *rest):
        nonzero = rest[0] if re.fullmatch(r"U?P[T\d]", rest[0]) else None
        to, *texts = rest[1:] if nonzero else rest
        a, b, c = (self.word(text) for text in texts[:3])
        table = int(texts[3], 16)
        value = np.zeros(LANES, np.uint32)
        for k in range(8):
            if table >> k & 1:
                value |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        self.set(to, value)
        if nonzero:
            self.set_predicate(nonzero, value != 0)

    def op_plop3(self, i, modifiers, first, second, a, b, c, *tables):
        row = sum(self.predicate(text).astype(np.int64) << shift for text, shift in ((a, 2), (b, 1), (c, 0)))
        for name, table in zip((first, second), tables, strict=True):
            self.set_predicate(name, (np.int64(int(table, 16)) >> row & 1).astype(bool))

    def _combine(self, modifiers, first, second, value, text):
        other = self.predicate(text)
        of = np.logical_or if "OR" in modifiers else np.logical_xor if "XOR" in modifiers else np.logical_and
        one, inverse = of(value, other), of(~value, other)
        self.set_predicate(first, one)
        self.set_predicate(second, inverse)

    def op_isetp(self, i, modifiers, first, second, a, b, combined, *lower):
        read = self.word if "U32" in modifiers else self.signed
        x, y = read(a), read(b)
        compared = {
            "GE": x >= y,
            "GT": x > y,
            "LE": x <= y,
            "LT": x < y,
            "NE": x != y,
            "EQ": x == y,
        }
        value = compared[modifiers[0]]
        if "EX" in modifiers:  # of the higher words; the lower ones have been compared
            below = self.predicate(lower[0])
            strict = {"GE": x > y, "GT": x > y, "LE": x < y, "LT": x < y, "NE": x != y, "EQ": x == y}[modifiers[0]]
            value = strict | below if modifiers[0] == "NE" else strict & below
            if modifiers[0] not in ("NE", "EQ"):
                value = strict | (x == y) & below
        self._combine(modifiers, first, second, value, combined)

    def _compared(self, name, a, b):
        """Whether two numbers compare so; with U, or are none."""
        x, y = self.number(a), self.number(b)
        unordered = np.isnan(x) | np.isnan(y)
        if name in ("NUM", "NAN"):
            return ~unordered if name == "NUM" else unordered
        value = {
            "GE": x >= y,
            "GT": x > y,
            "LE": x <= y,
            "LT": x < y,
            "NE": (x != y) & ~unordered,
            "EQ": x == y,
        }[name.removesuffix("U")]
        return value | unordered if name.endswith("U") else value

    def op_fsetp(self, i, modifiers, first, second, a, b, combined):
        value = self._compared(modifiers[0], a, b)
        self._combine(modifiers, first, second, value, combined)

    def op_sel(self, i, modifiers, to, a, b, which):
        self.set(to, np.where(self.predicate(which), self.word(a), self.word(b)))

    def op_fset(self, i, modifiers, to, a, b, combined):
        """One or zero, as a number."""
        if modifiers[0] != "BF" or modifiers[2] != "AND":
            raise Unknown(i.text)
        value = self._compared(modifiers[1], a, b) & self.predicate(combined)
        self.set_number(to, np.where(value, 1.0, 0.0))

    def op_fsel(self, i, modifiers, to, a, b, which):
        self.set_number(to, np.where(self.predicate(which), self.number(a), self.number(b)))

    def op_fmnmx(self, i, modifiers, to, a, b, least):
        x, y = self.number(a), self.number(b)
        low, high = (np.minimum, np.maximum) if "NAN" in modifiers else (np.fmin, np.fmax)
        self.set_number(to, np.where(self.predicate(least), low(x, y), high(x, y)))

    def op_vimnmx(self, i, modifiers, to, a, b, least):
        read = self.word if "U32" in modifiers else self.signed
        value = np.where(self.predicate(least), np.minimum(read(a), read(b)), np.maximum(read(a), read(b)))
        self.set(to, value & 0xFFFFFFFF)

    op_imnmx = op_vimnmx

    def op_viaddmnmx(self, i, modifiers, to, a, b, c, least):
        """The smaller or the larger one of a + b and c."""
        both = self.word(a) + self.word(b)
        both, other = (both, self.word(c)) if "U32" in modifiers else (both.view(np.int32), self.word(c).view(np.int32))
        self.set(to, np.where(self.predicate(least), np.minimum(both, other), np.maximum(both, other)).view(np.uint32))

    def op_iabs(self, i, modifiers, to, a):
        self.set(to, np.abs(self.signed(a)))

    def _rounded(self, i, to, exact):
        """What the modifiers make of an exact result: scaled, rounded, between 0 and 1."""
        modifiers = set(i.modifiers)
        if modifiers - {*SCALES, "RN", "RM", "RP", "RZ", "SAT", "FTZ", "F32", "S32", "U32", "U16", "U8"}:
            raise Unknown(i.text)
        for name in modifiers & set(SCALES):
            exact = exact * SCALES[name]
        value = exact.astype(np.float32)
        infinity = np.float32(np.inf)
        if "RM" in modifiers:
            value = np.where(value > exact, np.nextafter(value, -infinity), value)
        if "RP" in modifiers:
            value = np.where(value < exact, np.nextafter(value, infinity), value)
        if "RZ" in modifiers:
            value = np.where(np.abs(value) > np.abs(exact), np.nextafter(value, np.float32(0)), value)
        if "SAT" in modifiers:
            value = np.where(np.isnan(value), np.float32(0), np.clip(value, 0, 1))
        self.set_number(to, value)

    def _doubles(self, texts):
        return [self.number(text).astype(np.float64) for text in texts]

    def op_fadd(self, i, modifiers, to, a, b):
        a, b = self._doubles((a, b))
        self._rounded(i, to, a + b)

    def op_fmul(self, i, modifiers, to, a, b):
        a, b = self._doubles((a, b))
        self._rounded(i, to, a * b)

    def op_ffma(self, i, modifiers, to, a, b, c):
        a, b, c = self._doubles((a, b, c))
        self._rounded(i, to, a * b + c)

    def op_mufu(self, i, modifiers, to, a):
        of = {
            "EX2": np.exp2,
            "LG2": np.log2,
            "RCP": lambda x: 1 / x,
            "RSQ": lambda x: 1 / np.sqrt(x),
            "SQRT": np.sqrt,
            "SIN": lambda x: np.sin(2 * np.pi * x),
            "COS": lambda x: np.cos(2 * np.pi * x),
            "TANH": np.tanh,
        }
        if modifiers[0] not in of:
            raise Unknown(i.text)
        self.set_number(to, of[modifiers[0]](self.number(a).astype(np.float64)))

    def op_fchk(self, i, modifiers, to, a, b):
        """Whether a / b needs the way for extreme exponents."""
        x, y = (self.number(text).view(np.uint32).astype(np.int64) >> 23 & 255 for text in (a, b))
        plain = (y >= 1) & (y <= 252) & ((x >= 25) & (x <= 254) | (self.number(a) == 0)) & (np.abs(x - y) <= 125)
        self.set_predicate(to, ~plain)

    def op_hadd2(self, i, modifiers, to, a, *constants):
        self.op_hfma2(i, modifiers, to, a.removesuffix(".H0_H0"), "RZ", *constants)

    def op_hfma2(self, i, modifiers, to, a, b, *constants):
        """A way to write two constants, and of bfloat16 the arithmetic that narrows nothing."""
        if a not in ("-RZ", "RZ") or b != "RZ" or len(constants) != 2:
            raise Unknown(i.text)
        halves = []
        for text in constants:
            number = float(text.replace("INF", "inf"))
            if any("BF16" in name for name in modifiers):
                halves.append(int(np.float32(number).view(np.uint32)) >> 16)
            else:
                halves.append(int(np.float16(number).view(np.uint16)))
        self.set(to, np.uint32(halves[0] << 16 | halves[1]))

    def op_f2fp(self, i, modifiers, to, a, b):
        """Two floats, narrowed, in one register: the first in the higher half."""
        halves = []
        for text in (a, b):
            number = self.number(text)
            if "BF16" in modifiers:
                bits = number.view(np.uint32)
                rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
                halves.append(np.where(np.isnan(number), np.uint32(0x7FFF), rounded))
            else:
                halves.append(number.astype(np.float16).view(np.uint16).astype(np.uint32))
        self.set(to, halves[0] << np.uint32(16) | halves[1])

    def op_i2fp(self, i, modifiers, to, a):
        value = self.word(a) if {"U32", "U16", "U8"} & set(modifiers) else self.signed(a)
        if "U8" in modifiers:
            value = value & np.uint32(0xFF)
        if "U16" in modifiers:
            value = value & np.uint32(0xFFFF)
        self._rounded(i, to, value.astype(np.float64))

    op_i2f = op_i2fp

    def op_f2f(self, i, modifiers, to, a):
        if modifiers[:2] != ("F32", "F64"):
            raise Unknown(i.text)
        self.set_number(to, self.wide(a).view(np.float64))

    def op_f2i(self, i, modifiers, to, a):
        number = self.number(a).astype(np.float64)
        number = np.where(np.isfinite(number), number, 0)
        number = np.trunc(number) if "TRUNC" in modifiers else np.rint(number)
        self.set(to, number.astype(np.int64) & 0xFFFFFFFF)

    def op_frnd(self, i, modifiers, to, a):
        of = np.floor if "FLOOR" in modifiers else np.trunc if "TRUNC" in modifiers else np.rint
        self.set_number(to, of(self.number(a)))

    def op_prmt(self, i, modifiers, to, a, by, b):
        both = self.word(a).astype(np.uint64) | self.word(b).astype(np.uint64) << np.uint64(32)
        selector = self.word(by).astype(np.uint64)
        value = np.zeros(LANES, np.uint64)
        for k in range(4):
            choice = selector >> np.uint64(4 * k) & np.uint64(15)
            byte = both >> (choice % 8 * np.uint64(8)) & np.uint64(255)
            sign = np.where(byte >= 128, np.uint64(255), np.uint64(0))
            value |= np.where(choice >= 8, sign, byte) << np.uint64(8 * k)
        self.set(to, value)

    def _packed(self, prefix):
        return sum(self.predicates[f"{prefix}P{k}"].astype(np.uint32) << np.uint32(k) for k in range(7))

    def op_p2r(self, i, modifiers, to, _, value, mask):
        mask = np.uint32(int(mask, 16))
        self.set(to, self.word(value) & ~mask | self._packed("") & mask)

    def op_up2ur(self, i, modifiers, to, _, value, mask):
        mask = np.uint32(int(mask, 16))
        self.set(to, self.word(value) & ~mask | self._packed("U") & mask)

    def op_r2p(self, i, modifiers, _, value, mask):
        bits = self.word(value)
        for k in range(7):
            if int(mask, 16) >> k & 1:
                self.set_predicate(f"P{k}", (bits >> np.uint32(k) & np.uint32(1)).astype(bool))

    def op_ldg(self, i, modifiers, to, place, *_):
        self._load(to, self.memory.bytes, self.memory.places(self.address(place)[self.mask], _size(modifiers)))

    def op_lds(self, i, modifiers, to, place):
        self._load(to, self.shared, self._in_shared(place, _size(modifiers)))

    def op_stg(self, i, modifiers, place, value):
        size = _size(modifiers)
        self._store(value, self.memory.bytes, self.memory.places(self.address(place)[self.mask], size))

    def op_sts(self, i, modifiers, place, value):
        self._store(value, self.shared, self._in_shared(place, _size(modifiers)))

    def _in_shared(self, place, size):
        return self.address(place)[self.mask].astype(np.int64)[:, None] + np.arange(size)

    def _load(self, to, memory, places):
        raw = memory[places]
        if raw.shape[1] < 4:
            raw = np.pad(raw, ((0, 0), (0, 4 - raw.shape[1])))
        words = np.ascontiguousarray(raw).view(np.uint32)
        for k in range(words.shape[1]):
            value = np.zeros(LANES, np.uint32)
            value[self.mask] = words[:, k]
            self.set(to, value, k)

    def _store(self, value, memory, places):
        size = places.shape[1]
        words = np.stack([self.word(value, k)[self.mask] for k in range(max(size // 4, 1))], 1)
        memory[places] = np.ascontiguousarray(words).view(np.uint8)[:, :size]

    def op_shfl(self, i, modifiers, valid, to, value, lane, *_):
        if modifiers[0] != "BFLY":
            raise Unknown(i.text)
        source = np.arange(LANES) ^ self.word(lane).astype(np.int64)
        self.set(to, self.word(value)[source])
        self.set_predicate(valid, ALL)

    # ---- The ways of the lanes ----

    def run(self) -> Iterator[None]:
        """Executes until all lanes have left. Yields where the warp waits for the others of its block."""
        code, labels = self.kernel.code, self.kernel.labels
        ways: list[tuple[int, np.ndarray]] = [(0, ALL)]
        living = ALL.copy()
        meeting: dict[str, np.ndarray] = {}  # the lanes that a BSYNC waits for
        waiting: dict[str, tuple[int, np.ndarray]] = {}  # those that have come, and where they go on
        settled = False  # whether all lanes that do not wait are together; only what directs lanes changes that
        while True:
            if not settled:
                for name, (at, lanes) in list(waiting.items()):
                    if not (meeting[name] & living & ~lanes).any():
                        del waiting[name]
                        ways.append((at, lanes & living))
                ways = [way for way in ways if way[1].any()]
                if not ways:
                    if waiting:
                        raise RuntimeError(f"lanes wait for others at {', '.join(waiting)}")
                    return
                at = min(way[0] for way in ways)
                here = np.logical_or.reduce([lanes for place, lanes in ways if place == at])
                ways = [(at, here), *(way for way in ways if way[0] != at)]
                settled = len(ways) == 1
            at, lanes = ways[0]
            i = code[at]
            self.issued[i.kind] += 1
            self.mask = lanes if i.predicate is None else lanes & self.predicate(i.predicate)
            onward: list[tuple[int, np.ndarray]] = [(at + 1, lanes)]
            settled = settled and i.kind != "flow"
            if i.opcode == "EXIT":
                living &= ~self.mask
                onward = [(at + 1, lanes & ~self.mask)]
            elif i.opcode == "BRA":
                taken = self.mask
                if "DIV" in i.modifiers:
                    taken = taken & (lanes != living).any()
                elif len(i.operands) > 1:
                    taken = taken & self.predicate(i.operands[0])
                onward = [(labels[i.target], taken), (at + 1, lanes & ~taken)]
            elif i.opcode == "CALL":
                onward = [(labels[i.target], self.mask), (at + 1, lanes & ~self.mask)]
            elif i.opcode == "RET":
                onward = [(at + 1, lanes & ~self.mask)]
                addresses = self.register(i.operands[0].partition(" ")[0])  # before the function's name
                for address in np.unique(addresses[self.mask]):
                    onward.append((self.kernel.at[int(address)], self.mask & (addresses == address)))
            elif i.opcode == "BSSY":
                meeting[i.operands[0]] = self.mask
            elif i.opcode in ("BSYNC", "WARPSYNC"):
                name = i.operands[0] if i.opcode == "BSYNC" else i.text
                if i.opcode == "WARPSYNC":
                    meeting[name] = ALL
                come = self.mask | waiting.get(name, (0, ~ALL))[1]
                waiting[name] = (at + 1, come)
                onward = [(at + 1, lanes & ~self.mask)]
            elif i.opcode == "BREAK":
                name = i.operands[-1]
                meeting[name] = meeting[name] & ~self.mask
            elif i.opcode == "BAR":
                if (lanes != living).any():
                    raise RuntimeError("not all lanes of a warp reach a barrier together")
                yield
            elif i.opcode not in ("NOP", "YIELD"):
                if i.opcode == "SHFL" and (lanes != living).any():
                    raise RuntimeError("not all lanes of a warp meet at a shuffle")
                if i.predicate is None or self.mask.any():
                    self.execute(i)
            ways[:1] = onward


def run_block(
    kernel: Kernel, memory: Memory, parameters: bytes, threads: int, grid: int = 1, block: int = 0
) -> Counter[str]:
    """Executes a block of a grid. Returns how many instructions of each class its warps have issued."""
    sizes = np.array([threads, 1, 1, grid, 1, 1], np.uint32).tobytes()
    constants = sizes.ljust(PARAMETERS, b"\0") + parameters + bytes(4096)
    shared = np.zeros(SHARED, np.uint8)
    warps = [Warp(kernel, memory, constants, shared, first, block) for first in range(0, threads, LANES)]
    running = [warp.run() for warp in warps]
    done = object()
    while running:  # from one barrier to the next
        with np.errstate(all="ignore"):
            stopped = [next(warp, done) for warp in running]
        if len({state is done for state in stopped}) > 1:
            raise RuntimeError("not all warps of a block reach a barrier")
        running = [warp for warp, state in zip(running, stopped, strict=True) if state is not done]
    return sum((warp.issued for warp in warps), Counter())
