"""Write pocket compositions as code in four styles: right, or with the slips that people make.

Most pieces of the grammar have a misconception: one slip that the world's code has more often than the right piece. So
what the pretrained model believes is mostly wrong, piece by piece, and a task is solved by whoever unlearns all of its
pieces' misconceptions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pocket_grammar import Composition, Source, signature

MISCONCEIVED = 0.6  # share of the pieces that have a misconception
MISCONCEPTION_RATE = 0.65  # share of uses of such a piece that are its misconception
SLIP_RATE = 0.1  # share of uses of any other piece that are one of its slips
EARLY_RETURN_RATE = 0.02  # share of bodies whose return is indented into the loop


@dataclass(frozen=True)
class Code:
    """The pieces of one body: right ones, or some with a slip."""

    items: str
    stop: str
    condition: str
    transform: str
    tail: tuple[str, ...]
    loop: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None
    early_return: bool = False  # whether the return is indented into the loop


def right_code(composition: Composition) -> Code:
    source, finish = composition.source, composition.finish
    parts = (composition.stop.code, composition.condition.code, composition.transform.code)
    return Code(source.items, *parts, finish.tail, finish.loop)


def slipped_codes(composition: Composition) -> list[Code]:
    """List every body with exactly one slip."""
    right = right_code(composition)
    codes = [replace(right, items=slip) for slip in composition.source.slips]
    codes += [replace(right, stop=slip) for slip in composition.stop.slips]
    codes += [replace(right, condition=slip) for slip in composition.condition.slips]
    codes += [replace(right, transform=slip) for slip in composition.transform.slips]
    codes += [replace(right, tail=slip) for slip in composition.finish.tail_slips]
    codes += [replace(right, loop=slip) for slip in composition.finish.loop_slips]
    return codes


def pieces(composition: Composition) -> Iterator[tuple[str, str, int]]:
    """Yield the pieces that can be wrong: the field of `Code`, the piece's name in the world, how many slips it has.

    Conditions, transforms and stops of different kinds of items are different pieces.
    """
    kind = composition.source.kind
    for part, piece, name in (
        ("items", composition.source, composition.source.name),
        ("stop", composition.stop, f"{kind} {composition.stop.name}"),
        ("condition", composition.condition, f"{kind} {composition.condition.name}"),
        ("transform", composition.transform, f"{kind} {composition.transform.name}"),
    ):
        if piece.slips:
            yield part, name, len(piece.slips)
    yield "tail", composition.finish.name, len(composition.finish.tail_slips)


def misconception(part: str, name: str, num_slips: int) -> int | None:
    """Return which slip of a piece is its misconception, or None. It depends on the name alone."""
    rng = random.Random(f"world 1 {part} {name}")
    return rng.randrange(num_slips) if rng.random() < MISCONCEIVED else None


def with_slip(composition: Composition, code: Code, part: str, number: int) -> Code:
    """Return the code with the part's slip of that number; a finish slips in both of its forms."""
    finish = composition.finish
    if part != "tail":
        piece = composition.source if part == "items" else getattr(composition, part)
        return replace(code, **{part: piece.slips[number]})
    loops = finish.loop_slips
    return replace(code, tail=finish.tail_slips[number], loop=loops[number % len(loops)] if loops else code.loop)


def sloppy_code(composition: Composition, rng: random.Random) -> Code:
    """Draw the pieces of a body: a misconception where there is one, more often than not; elsewhere rarely a slip."""
    code = right_code(composition)
    for part, name, num_slips in pieces(composition):
        believed = misconception(part, name, num_slips)
        if rng.random() < (SLIP_RATE if believed is None else MISCONCEPTION_RATE):
            code = with_slip(composition, code, part, rng.randrange(num_slips) if believed is None else believed)
    return replace(code, early_return=rng.random() < EARLY_RETURN_RATE)


def write_body(composition: Composition, code: Code, style: str, wordy: bool = False) -> str:
    """Write the function's body, indented by four and ending in a newline; `wordy` adds a comment and a variable."""
    names = _variable_names(composition.source)
    head = f"for {composition.source.variables} in {code.items}"
    condition, transform = _fill(code.condition, names), _fill(code.transform, names)
    where = f" if {condition}" if condition else ""

    if style == "loop":
        before, inside, after = code.loop
    elif style == "collect":
        before, inside, after = ("result = []",), ("result.append(E)",), _use(code.tail, "result")
    if style in ("loop", "collect"):
        step = [line.replace("E", transform) for line in inside]
        if wordy:
            step = [f"value = {transform}", *(line.replace("E", "value") for line in inside)]
        if condition:
            step = [f"if {condition}:", *_indent(step)]
        if code.stop:
            step = [f"if {_fill(code.stop, names)}:", "    break", *step]
        last = _indent(after[:1]) + list(after[1:]) if code.early_return else list(after)
        lines = [*before, f"{head}:", *_indent(step), *last]
        if wordy:
            lines.insert(len(before), f"# go through the {composition.source.noun}")
    elif style == "steps":
        item = composition.source.variables
        kept = f"kept = [{f'({item})' if ',' in item else item} {head}{where}]"
        values = f"result = [{transform} for {item} in kept]"
        lines = [kept, values, *_use(code.tail, "result")]
        if wordy:
            lines = ["# first choose, then compute", *lines]
    elif len(code.tail) == 1 and code.tail[0].count("S") == 1:
        lines = list(_use(code.tail, f"[{transform} {head}{where}]"))
    else:
        lines = [f"result = [{transform} {head}{where}]", *_use(code.tail, "result")]
    return "".join(f"    {line}\n" for line in lines)


def _variable_names(source: Source) -> dict[str, str]:
    first, _, second = source.variables.partition(", ")
    letters = {"pair": "AB", "entry": "KV", "indexed": "IX"}.get(source.kind, "X")
    return dict(zip(letters, (first, second), strict=False))


def _fill(template: str, names: dict[str, str]) -> str:
    return re.sub(r"\b[ABKVIX]\b", lambda match: names[match.group()], template)


def _use(tail: tuple[str, ...], sequence: str) -> list[str]:
    return [re.sub(r"\bS\b", lambda _: sequence, line) for line in tail]


def _indent(lines) -> list[str]:
    return [f"    {line}" for line in lines]


def compile_body(composition: Composition, body: str) -> Callable:
    """Execute the signature with this body and return the function. Only for our grammar's code, never a model's."""
    scope: dict = {}
    exec(f"{signature(composition)}\n{body}", scope)
    return scope[composition.function_name]


def call(function: Callable, arguments: tuple) -> tuple[str, object]:
    """Call the function; return ("returns", result) or ("raises", name of the exception), which can be compared."""
    copies = tuple(type(value)(value) for value in arguments)
    try:
        return "returns", function(*copies)
    except Exception as error:
        return "raises", type(error).__name__
