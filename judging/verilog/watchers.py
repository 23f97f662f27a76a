"""Remove from a module what only watches its simulation: calls that print, assertions and properties.

A design computes the same without them, and only its function is judged. Yosys would turn assertions into cells, and it
refuses some forms that the compiler accepts.
"""

from __future__ import annotations

import re

from judging.verilog.source import check_length
from judging.verilog_tokens import tokens_of

_CALL = re.compile(
    r"\$(?:(?:display|write|strobe|monitor)[bho]?|monitoron|monitoroff|info|warning|error|fatal|timeformat|dump\w+)"
)
_ASSERTIONS = frozenset("assert assume cover restrict".split())
_NOTHING = "begin end"

Tokens = list[tuple[str, str]]


def without_watchers(text: str) -> str:
    r"""Remove prints, assertions and properties from the text; lines keep their numbers.

    An immediate assertion becomes the equivalent `if`, since its branches may assign. A property is removed.

    Raises:
        Refused: the text is too long.

    >>> without_watchers('if (a) $display("%d", f(a)); else y = b;')
    'if (a) begin end else y = b;'
    >>> without_watchers('assert (a[0]); n: assert (b) else $error;\np: assert property (@(posedge c) x |-> y);')
    'begin if (a[0]) begin end end  if (b) begin end else begin end\n '
    """
    check_length(text)
    tokens = tokens_of(text)
    words = [token for kind, token in tokens if kind != "string"]
    if not any(word in _ASSERTIONS or _CALL.fullmatch(word) for word in words):
        return text
    return "".join(_rewritten(tokens, _closing(tokens)))


def _closing(tokens: Tokens) -> dict[int, int]:
    """Map the place of each opening parenthesis to that of its closing one."""
    opened: list[int] = []
    closing = {}
    for at, (_, token) in enumerate(tokens):
        if token == "(":
            opened.append(at)
        elif token == ")" and opened:
            closing[opened.pop()] = at
    return closing


def _rewritten(tokens: Tokens, closing: dict[int, int]) -> list[str]:
    kept: list[str] = []
    blocks: list[str] = []  # open blocks: in a `case`, a name before a colon is not a label

    def next_word(at: int) -> tuple[int, str]:
        while at < len(tokens) and tokens[at][0] in ("space", "comment"):
            at += 1
        return at, tokens[at][1] if at < len(tokens) else ""

    def find(word: str, at: int) -> int:
        while at < len(tokens) and tokens[at][1] != word:
            at += 1
        return at

    def leave_out(start: int, last: int, instead: str = "") -> int:
        """Replace the tokens from start to last, and return the place after them."""
        kept.append(instead + "\n" * sum(token.count("\n") for _, token in tokens[start : last + 1]))
        return last + 1

    def unlabel() -> None:
        """Remove the label of an assertion, which was kept already."""
        places = (n for n in range(len(kept) - 1, max(len(kept) - 9, -1), -1) if kept[n].strip())
        colon, name = next(places, -1), next(places, -1)
        if name >= 0 and kept[colon] == ":" and kept[name][0].isidentifier() and blocks[-1:] != ["case"]:
            kept[colon] = kept[name] = ""

    at = 0
    while at < len(tokens):
        kind, token = tokens[at]
        opening, following = next_word(at + 1)
        end, after = next_word(closing.get(opening, opening - 1) + 1)  # after the parentheses, if any
        if kind == "system" and _CALL.fullmatch(token) and after == ";":
            at = leave_out(at, end, _NOTHING)
        elif kind == "name" and token in ("property", "sequence"):
            at = leave_out(at, find(f"end{token}", at))
        elif kind == "name" and token in _ASSERTIONS and following == "property":
            unlabel()
            opening, _ = next_word(opening + 1)
            at = leave_out(at, find(";", closing.get(opening, opening)))
        elif kind == "name" and token in _ASSERTIONS and opening in closing:
            unlabel()
            condition = "if" + "".join(text for _, text in tokens[at + 1 : closing[opening] + 1])
            if after == ";":
                kept.append(f"begin {condition} {_NOTHING} end")
                at = end + 1
            else:
                kept.append(f"{condition} {_NOTHING}" if after == "else" else condition)
                at = closing[opening] + 1
        else:
            if token in ("begin", "case", "casez", "casex"):
                blocks.append(token[:4])
            elif token in ("end", "endcase") and blocks:
                blocks.pop()
            kept.append(token)
            at += 1
    return kept
