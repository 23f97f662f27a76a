"""Define the pocket Verilog world: modules of an operation, a choice, a change and a register, in three widths.

A circuit names one of each. It can be described in words at three levels of detail, simulated here (`next_value`), and
written as Verilog in several styles, rightly or with the slips that people make (`pocket_verilog_code.py`).

In the code templates V is the value, N the value that the register takes, Z all zeros, F all ones, W the width in bits,
H the highest index (W-1), G the index below it (W-2), M half of the width, and L the index below that (M-1).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

WIDTHS = (1, 4, 8)
MODULE = "top_module"  # the name of every module, as in HDLBits


@dataclass(frozen=True)
class Operation:
    """The function that is computed from a and b."""

    name: str
    terse: str
    normal: str
    detailed: str
    code: str
    slips: tuple[str, ...]
    value: Callable[[int, int], int]  # the caller cuts the result to the width
    vector: bool = False  # makes no sense for single bits


@dataclass(frozen=True)
class Choice:
    """The role of input s: at `level` it selects the operation, else another value. There is no s if `other` is ""."""

    name: str
    level: int = 1
    other: str = ""  # the code of the other value
    words: str = ""
    value: Callable[[int, int, int], int] = lambda a, b, ones: 0


@dataclass(frozen=True)
class Change:
    """A change of the value before it is put out or stored."""

    name: str
    terse: str
    normal: str
    detailed: str
    codes: tuple[str, ...]  # several ways to write it
    slips: tuple[str, ...]
    value: Callable[[int, int], int]  # takes the value and its width
    single: bool = False  # whether the result is one bit
    widths: tuple[int, ...] = (4, 8)


@dataclass(frozen=True)
class Register:
    """The register that holds y; without `lines` the circuit is combinational."""

    name: str
    ports: str
    terse: str
    normal: str
    detailed: str
    lines: tuple[str, ...] = ()
    slips: tuple[tuple[str, ...], ...] = ()
    setup: str = ""  # testbench statements that give y a value if there is no reset
    vector: bool = False


OPERATIONS = (
    Operation("a", "a", "a", "a as it is", "a", ("b", "~a"), lambda a, b: a),
    Operation("and", "a and b", "the AND of a and b", "1 where a and b are both 1 (a & b)", "a & b",
              ("a | b", "a && b", "a ^ b"), lambda a, b: a & b),
    Operation("or", "a or b", "the OR of a and b", "1 where a or b or both are 1 (a | b)", "a | b",
              ("a & b", "a || b", "a ^ b"), lambda a, b: a | b),
    Operation("xor", "a xor b", "the XOR of a and b", "1 where a and b differ (a ^ b)", "a ^ b",
              ("a | b", "~(a ^ b)", "a != b"), lambda a, b: a ^ b),
    Operation("nand", "a nand b", "the NAND of a and b", "0 only where a and b are both 1 (the inverse of a & b)",
              "~(a & b)", ("~a & b", "a & b", "!(a & b)"), lambda a, b: ~(a & b)),
    Operation("nor", "a nor b", "the NOR of a and b", "1 only where a and b are both 0 (the inverse of a | b)",
              "~(a | b)", ("~a | b", "a | b", "!(a | b)"), lambda a, b: ~(a | b)),
    Operation("xnor", "a xnor b", "the XNOR of a and b", "1 where a and b are equal (the inverse of a ^ b)",
              "~(a ^ b)", ("a ^ b", "~a & ~b", "a == b"), lambda a, b: ~(a ^ b)),
    Operation("clear", "a and not b", "a with the bits of b cleared", "1 where a is 1 and b is 0 (a & ~b)",
              "a & ~b", ("~a & b", "~(a & b)", "a & b"), lambda a, b: a & ~b),
    Operation("imply", "a or not b", "a with the bits set where b is 0", "1 where a is 1 or b is 0 (a | ~b)",
              "a | ~b", ("~a | b", "~(a | b)", "a | b"), lambda a, b: a | ~b),
    Operation("sum", "a plus b", "the sum of a and b", "a + b, the carry being dropped", "a + b",
              ("a - b", "a | b"), lambda a, b: a + b, vector=True),
    Operation("difference", "a minus b", "the difference of a and b", "a - b, the borrow being dropped", "a - b",
              ("b - a", "a + b"), lambda a, b: a - b, vector=True),
    Operation("larger", "larger of a, b", "the larger of a and b", "a if a > b, and b if not (unsigned)",
              "(a > b) ? a : b", ("(a < b) ? a : b", "a > b"), max, vector=True),
    Operation("smaller", "smaller of a, b", "the smaller of a and b", "a if a < b, and b if not (unsigned)",
              "(a < b) ? a : b", ("(a > b) ? a : b", "a < b"), min, vector=True),
)  # fmt: skip

OTHERS = (
    ("zero", "Z", "zero", lambda a, b, ones: 0),
    ("ones", "F", "all ones", lambda a, b, ones: ones),
    ("a", "a", "a", lambda a, b, ones: a),
    ("b", "b", "b", lambda a, b, ones: b),
)
CHOICES = (
    Choice("always"),
    *(Choice(f"{'high' if level else 'low'}_{other[0]}", level, *other[1:]) for other in OTHERS for level in (1, 0)),
)

CHANGES = (
    Change("as_is", "", "", "", ("V",), ("~V",), lambda v, w: v, widths=WIDTHS),
    Change("inverted", "inverted", "Invert it.", "Then invert every bit.", ("~V",), ("V", "!V"), lambda v, w: ~v,
           widths=WIDTHS),
    Change("reversed", "bits reversed", "Reverse the order of its bits.", "Then bit 0 becomes bit 3, and so on.",
           ("{V[0], V[1], V[2], V[3]}",), ("{V[3], V[2], V[1], V[0]}", "{V[1:0], V[3:2]}"),
           lambda v, w: sum((v >> i & 1) << (w - 1 - i) for i in range(w)), widths=(4,)),
    Change("left", "shifted left", "Shift it left by one.", "Then shift it left by one bit; bit 0 becomes 0.",
           ("{V[G:0], 1'b0}", "V << 1"), ("V >> 1", "{V[G:0], V[H]}", "V << 2"), lambda v, w: v << 1),
    Change("right", "shifted right", "Shift it right by one.", "Then shift it right by one bit; the top bit becomes 0.",
           ("{1'b0, V[H:1]}", "V >> 1"), ("V << 1", "{V[0], V[H:1]}", "V >> 2"), lambda v, w: v >> 1),
    Change("rotated_left", "rotated left", "Rotate it left by one.",
           "Then rotate it left by one bit; the top bit becomes bit 0.",
           ("{V[G:0], V[H]}",), ("{V[G:0], 1'b0}", "{V[0], V[H:1]}"), lambda v, w: v << 1 | v >> (w - 1)),
    Change("rotated_right", "rotated right", "Rotate it right by one.",
           "Then rotate it right by one bit; bit 0 becomes the top bit.",
           ("{V[0], V[H:1]}",), ("{1'b0, V[H:1]}", "{V[G:0], V[H]}"), lambda v, w: v >> 1 | (v & 1) << (w - 1)),
    Change("swapped", "halves swapped", "Swap its two halves.", "Then the upper half and the lower half change places.",
           ("{V[L:0], V[H:M]}",), ("{V[H:M], V[L:0]}", "{V[M:0], V[H:M]}"),
           lambda v, w: v << (w // 2) | v >> (w // 2)),
    Change("any", "any bit set", "Take whether any bit of it is set.", "Then give 1 if any bit of it is 1, else 0.",
           ("|V", "V != Z"), ("&V", "V[0]"), lambda v, w: v != 0, single=True),
    Change("all", "all bits set", "Take whether all bits of it are set.", "Then give 1 if all bits of it are 1, else 0.",
           ("&V", "V == F"), ("|V", "V[H]"), lambda v, w: v == 2**w - 1, single=True),
    Change("parity", "parity", "Take its parity.", "Then give 1 if an odd number of its bits is 1, else 0.",
           ("^V",), ("~^V", "|V", "V[0]"), lambda v, w: v.bit_count() % 2, single=True),
    Change("none", "zero test", "Take whether it is zero.", "Then give 1 if all bits of it are 0, else 0.",
           ("V == Z", "~|V"), ("V != Z", "~V"), lambda v, w: v == 0, single=True),
    Change("top", "top bit", "Take its top bit.", "Then give its most significant bit.", ("V[H]",),
           ("V[0]", "V[G]"), lambda v, w: v >> (w - 1), single=True),
)  # fmt: skip

_SYNC, _ASYNC = "always @(posedge clk)", "always @(posedge clk or posedge areset)"
REGISTERS = (
    Register("wire", "", "", "", "y is combinational."),
    Register("plain", "input clk", "registered", "Store it in y.", "y takes it at each rising edge of clk.",
             (_SYNC, "    y <= N;"), (("always @(negedge clk)", "    y <= N;"), ("always @*", "    y = N;"))),
    Register("falling", "input clk", "registered at the falling edge", "Store it in y at the falling edge.",
             "y takes it at each falling edge of clk.",
             ("always @(negedge clk)", "    y <= N;"), ((_SYNC, "    y <= N;"),)),
    Register("reset", "input clk, input reset", "registered with reset", "Store it in y; reset clears y.",
             "At a rising edge of clk y becomes 0 if reset is 1, and takes it if not.",
             (_SYNC, "    if (reset) y <= Z;", "    else y <= N;"),
             ((_SYNC, "    y <= N;"), ("always @(posedge clk or posedge reset)", "    if (reset) y <= Z;", "    else y <= N;"),
              (_SYNC, "    if (!reset) y <= Z;", "    else y <= N;"))),
    Register("preset", "input clk, input reset", "registered, reset to ones", "Store it in y; reset sets y to all ones.",
             "At a rising edge of clk all bits of y become 1 if reset is 1, and y takes it if not.",
             (_SYNC, "    if (reset) y <= F;", "    else y <= N;"),
             ((_SYNC, "    if (reset) y <= Z;", "    else y <= N;"), (_SYNC, "    y <= N;"))),
    Register("low_reset", "input clk, input rst_n", "registered with low reset", "Store it in y; rst_n low clears y.",
             "At a rising edge of clk y becomes 0 if rst_n is 0, and takes it if not.",
             (_SYNC, "    if (!rst_n) y <= Z;", "    else y <= N;"),
             ((_SYNC, "    if (rst_n) y <= Z;", "    else y <= N;"),
              ("always @(posedge clk or negedge rst_n)", "    if (!rst_n) y <= Z;", "    else y <= N;"))),
    Register("async_reset", "input clk, input areset", "registered with async reset",
             "Store it in y; areset clears y at once.",
             "y becomes 0 as soon as areset is 1; if not, it takes it at each rising edge of clk.",
             (_ASYNC, "    if (areset) y <= Z;", "    else y <= N;"),
             ((_SYNC, "    if (areset) y <= Z;", "    else y <= N;"), (_SYNC, "    y <= N;"))),
    Register("enable", "input clk, input en", "registered with enable", "Store it in y while en is high.",
             "At a rising edge of clk y takes it if en is 1, and stays as it is if not.",
             (_SYNC, "    if (en) y <= N;"), ((_SYNC, "    y <= N;"), (_SYNC, "    if (!en) y <= N;")),
             setup="en = 1;"),
    Register("reset_enable", "input clk, input reset, input en", "registered with reset and enable",
             "Store it in y while en is high; reset clears y.",
             "At a rising edge of clk y becomes 0 if reset is 1; if not, it takes it if en is 1, and stays as it is if not.",
             (_SYNC, "    if (reset) y <= Z;", "    else if (en) y <= N;"),
             ((_SYNC, "    if (reset) y <= Z;", "    else y <= N;"), (_SYNC, "    if (en) y <= N;"),
              (_SYNC, "    if (en) y <= N;", "    else if (reset) y <= Z;"))),
    Register("total", "input clk, input reset", "summed up, with reset", "Add it to y; reset clears y.",
             "At a rising edge of clk y becomes 0 if reset is 1; if not, it is added to y.",
             (_SYNC, "    if (reset) y <= Z;", "    else y <= y + (N);"),
             ((_SYNC, "    if (reset) y <= Z;", "    else y <= N;"), (_SYNC, "    y <= y + (N);")), vector=True),
)  # fmt: skip


@dataclass(frozen=True)
class Circuit:
    width: int
    operation: Operation
    choice: Choice
    change: Change
    register: Register

    @property
    def key(self) -> str:
        parts = (self.operation, self.choice, self.change, self.register)
        return " ".join([str(self.width), *(part.name for part in parts)])

    @property
    def out_width(self) -> int:
        return 1 if self.change.single else self.width

    @property
    def weight(self) -> int:
        """How often it is drawn: simple circuits are few, but wanted often."""
        return 6 ** (not self.choice.other) * 3 ** (self.change.name == "as_is") * 3 ** (not self.register.lines)

    @property
    def ports(self) -> str:
        """The ports, in the form of `verilog_testbench.Problem`."""
        size = f"[{self.width - 1}:0] " if self.width > 1 else ""
        uses_b = self.operation.name != "a" or self.choice.other == "b"
        kept = "reg " if self.register.lines else ""
        ports = [self.register.ports] if self.register.ports else []
        ports += [f"input {size}a"] + [f"input {size}b"] * uses_b + ["input s"] * bool(self.choice.other)
        return ", ".join([*ports, f"output {kept}{size if not self.change.single else ''}y"])


def circuits() -> list[Circuit]:
    """List all circuits whose parts fit together."""
    found = []
    for parts in itertools.product(WIDTHS, OPERATIONS, CHOICES, CHANGES, REGISTERS):
        circuit = Circuit(*parts)
        width, operation, choice, change, register = parts
        plain = operation.name == "a" and not choice.other and change.name == "as_is"
        fits = width in change.widths and (width > 1 or not (operation.vector or register.vector))
        fits = fits and not (register.vector and change.single) and not (operation.name == "a" == choice.other)
        if fits and not (plain and not register.lines):
            found.append(circuit)
    return found


def next_value(circuit: Circuit, a: int, b: int, s: int) -> int:
    """Return y for these inputs, or with a register the value that it takes (for `total`, adds)."""
    ones = 2**circuit.width - 1
    value = circuit.operation.value(a, b)
    if circuit.choice.other and s != circuit.choice.level:
        value = circuit.choice.value(a, b, ones)
    return int(circuit.change.value(value & ones, circuit.width)) & (2**circuit.out_width - 1)


def fill(template: str, circuit: Circuit, out: bool = False) -> str:
    """Fill a template with the numbers of the circuit's width; with `out`, Z and F have the width of y."""
    width = circuit.out_width if out else circuit.width
    zero, ones = (f"{width}'b0", f"{width}'b1") if width == 1 else (f"{width}'d0", f"{{{width}{{1'b1}}}}")
    w = circuit.width
    numbers = {"Z": zero, "F": ones, "W": w, "H": w - 1, "G": w - 2, "M": w // 2, "L": w // 2 - 1}
    return re.sub(r"\b[ZFWHGML]\b", lambda match: str(numbers[match.group()]), template)


def describe(circuit: Circuit, level: str) -> str:
    """Write the comment above the module header: one line for `terse`, one per step for `normal` and `detailed`."""
    operation, choice, change, register = circuit.operation, circuit.choice, circuit.change, circuit.register
    high = "high" if choice.level else "low"
    if level == "terse":
        value = operation.terse + (f" if s is {high}, else {choice.words}" if choice.other else "")
        steps = [", ".join(part for part in (value, change.terse, register.terse) if part) + "."]
    elif level == "normal":
        value = f"Compute {operation.normal}" + (f" if s is {high}, else {choice.words}" if choice.other else "")
        steps = [value + ".", change.normal, register.normal]
    else:
        value = f"The value is {operation.detailed}."
        if choice.other:
            value = (
                f"If s is {choice.level} the value is {operation.detailed}; if s is {1 - choice.level}, {choice.words}."
            )
        steps = [value, change.detailed, register.detailed]
    return "".join(f"// {step}\n" for step in steps if step)
