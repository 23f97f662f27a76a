"""Write pocket compositions as code in four styles: right, or with the slips that people make."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pocket_grammar import Composition, Source, signature

SLIP_RATE = 0.15  # share of sources, stops, conditions and transforms that are slips
FINISH_SLIP_RATE = 0.3
EDGE_FINISHES = ("max", "min", "mean", "first", "last", "longest", "distinct", "counts")
EDGE_SLIP_RATE = 0.65  # share of slips for finishes whose edge case people forget
EARLY_RETURN_RATE = 0.05  # share of bodies whose return is indented into the loop


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


def sloppy_code(composition: Composition, rng: random.Random) -> Code:
    """Draw pieces of which each is sometimes a slip; finishes in `EDGE_FINISHES` are slips more often than not."""
    code = right_code(composition)
    for part, slips in (
        ("items", composition.source.slips),
        ("stop", composition.stop.slips),
        ("condition", composition.condition.slips),
        ("transform", composition.transform.slips),
    ):
        if slips and rng.random() < SLIP_RATE:
            code = replace(code, **{part: rng.choice(slips)})
    finish = composition.finish
    if rng.random() < (EDGE_SLIP_RATE if finish.name in EDGE_FINISHES else FINISH_SLIP_RATE):
        code = replace(code, tail=rng.choice(finish.tail_slips))
        if finish.loop_slips:
            code = replace(code, loop=rng.choice(finish.loop_slips))
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
