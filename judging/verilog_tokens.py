"""Split Verilog into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator


def declares_module(text: str, name: str) -> bool:
    """Return whether the text has this module's header outside comments and strings.

    >>> declares_module("// module a\\n(* keep *) module\\n b (y);", "b"), declares_module("// module a", "a")
    (True, False)
    """
    return any(pair == ("module", name) for pair in _pairs(text))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    words = [token for kind, token in tokens_of(text) if kind not in ("space", "comment")]
    return zip(words, words[1:], strict=False)


_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z)) | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<escaped>\\[!-~]+) | (?P<system>\$[A-Za-z0-9_$]*) | (?P<directive>`[A-Za-z0-9_]*)
    | (?P<number>(?:\d[\d_]*)?\s*'[sS]?[bdohBDOH]\s*[0-9a-fA-FxXzZ?_]+|\d[\d_]*(?:\.\d+)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_$]*) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


class Refused(Exception):
    """The text contains something forbidden; the message is one line for a person."""


def tokens_of(text: str) -> list[tuple[str, str]]:
    """Return (kind, text) of each token; the texts joined are the input again.

    Kinds: space, comment, string, escaped, system, directive, number, name, other.
    """
    return [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text)]
