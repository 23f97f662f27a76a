"""Write pocket circuits as Verilog in several styles: right, or with the slips that people make."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Any

from pocket_verilog_grammar import Circuit, fill

SLIP_RATE = 0.1  # share of operations, choices, changes and registers that are slips
OFTEN = ("nand", "reversed", "rotated_left", "rotated_right", "all", "preset", "low_reset", "async_reset")
OFTEN_RATE = 0.6  # share of slips for the names in OFTEN, which people get wrong more often than not
TYPICAL_RATE = 0.75  # share of slips that are the first in their list; the others are drawn from the whole list
NARROW_RATE = 0.08  # share of nets declared without their width
LATCH_RATE = 0.25  # share of `if` without its `else`, in the style that has one
UNDECLARED_RATE = 0.06  # share of bodies with a net or a reg that is not declared

STYLES = {"inline": 5, "nets": 3, "block": 3}  # ways to compute the value; relative frequency in reference solutions


@dataclass(frozen=True)
class Code:
    """The pieces of one body: right ones, or some with a slip."""

    operation: str
    choice: str  # right, swapped or ignored
    change: str
    register: tuple[str, ...]
    narrow: bool = False  # the value's net has one bit
    latch: bool = False
    undeclared: bool = False


def right_code(circuit: Circuit, way: int = 0) -> Code:
    """Return the right pieces; `way` chooses among the ways to write the change."""
    codes = circuit.change.codes
    return Code(circuit.operation.code, "right", codes[way % len(codes)], circuit.register.lines)


def slipped_codes(circuit: Circuit) -> list[Code]:
    """List every body with exactly one wrong piece; some of them behave like the right one."""
    right = right_code(circuit)
    codes = [replace(right, operation=slip) for slip in circuit.operation.slips]
    codes += [replace(right, choice=slip) for slip in ("swapped", "ignored") if circuit.choice.other]
    codes += [replace(right, change=slip) for slip in circuit.change.slips]
    return codes + [replace(right, register=slip) for slip in circuit.register.slips]


def sloppy_code(circuit: Circuit, rng: random.Random) -> Code:
    """Draw pieces of which each is sometimes a slip; those in `OFTEN` are slips more often than not."""
    code = right_code(circuit, rng.randrange(2))

    def slip(slips: tuple, often: bool) -> Any:
        """Draw a slip, or None."""
        if not slips or rng.random() >= (OFTEN_RATE if often else SLIP_RATE):
            return None
        return slips[0] if rng.random() < TYPICAL_RATE else rng.choice(slips)

    parts = {"operation": circuit.operation, "change": circuit.change, "register": circuit.register}
    slips = {part: slip(piece.slips, piece.name in OFTEN) for part, piece in parts.items()}
    slips["choice"] = slip(("swapped", "ignored") if circuit.choice.other else (), False)
    return replace(
        code,
        **{part: chosen for part, chosen in slips.items() if chosen is not None},
        narrow=rng.random() < NARROW_RATE,
        latch=rng.random() < LATCH_RATE,
        undeclared=rng.random() < UNDECLARED_RATE,
    )


def write_body(circuit: Circuit, code: Code, style: str, wordy: bool = False) -> str:
    """Write the module's body and `endmodule`; `wordy` puts an explanation in comments before it."""
    chosen = bool(circuit.choice.other) and code.choice != "ignored"
    operation = f"({code.operation})" if "?" in code.operation and chosen else code.operation
    arms = [fill(operation, circuit), fill(circuit.choice.other, circuit)]
    if (circuit.choice.level == 0) != (code.choice == "swapped"):
        arms.reverse()
    value = f"s ? {arms[0]} : {arms[1]}" if chosen else fill(code.operation, circuit)
    size = f"[{circuit.width - 1}:0] " if circuit.width > 1 and not code.narrow else ""

    lines, name = [], "value"
    if style == "block" and chosen:
        lines += [] if code.undeclared else [f"reg {size}value;"]
        lines += [
            "always @*",
            f"    if (s) value = {arms[0]};",
            *([] if code.latch else [f"    else value = {arms[1]};"]),
        ]
    elif style != "inline" or (code.change != "V" and (chosen or len(code.operation) > 1)):
        if style == "inline":
            lines.append(f"wire {size}value = {value};")
        else:
            lines += [*([] if code.undeclared else [f"wire {size}value;"]), f"assign value = {value};"]
    else:
        name = value
    changed = re.sub(r"\bV\b", lambda _: name, fill(code.change, circuit))
    if code.register:
        lines += [re.sub(r"\bN\b", lambda _: changed, fill(line, circuit, out=True)) for line in code.register]
    else:
        lines.append(f"assign y = {changed};")
    if wordy:
        lines = [*explanation(circuit), *lines]
    return "".join(f"    {line}\n" for line in lines) + "endmodule\n"


def explanation(circuit: Circuit) -> list[str]:
    """Write comments that say what the code below them does."""
    value = circuit.operation.normal
    if circuit.choice.other:
        value = f"s picks {value} or {circuit.choice.words}"
    parts = [value, circuit.change.terse, circuit.register.terse]
    return [f"// {part}" for part in parts if part]
