"""Split Verilog into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator


def declares_module(text: str, name: str) -> bool:
    """Whether the text has the header of this module, comments and strings aside.

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
    """The text has something that it must not have; the message is one line for a person."""


def tokens_of(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token; joined they are the text. Kinds: space, comment, string, escaped, system, directive,
    number, name, other."""
    return [(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(text)]
