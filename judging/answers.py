"""Find the fenced code blocks in a model's answer, by CommonMark's rules, outside the model's thinking.

Five rules go beyond CommonMark. A fence inside a multi-line string of the program (an example in a docstring) does not
close the block. A line that opens another block does close it. A fence may be indented further than CommonMark allows.
A fence with the name of a language may open a block at the end of a line of prose. And a fence at the end of a line of
code closes it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

# before a fence there may be quote marks and list markers
_OPENING = re.compile(
    r"(?P<lead>[ \t]*+(?:(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])[ \t]*+)*+)(?P<fence>`{3,}+|~{3,}+)(?P<info>.*)"
)
_BEHIND_PROSE = re.compile(r"(?P<prose>[^`~]*[\s:])(?P<fence>(?:`{3,}|~{3,})[\w+#.-]+)\s*")
_INFO = re.compile(r"\s*\{?\.?([\w+#.-]*)")
_LANGUAGES = {
    "python": re.compile(r"i?python[\d.]*|py[\d.]*"),
    "verilog": re.compile(r"(system)?verilog|svh?|vh?"),
}
_THINKING = re.compile("(?<!`)(</?think>)")

# tokens to skip in each language, and those that open a span of several lines; _ENDS says what closes such a span
_TOKENS = {
    "python": re.compile(r'\\.|#.*|"""|' + r"'''|" + r'"(?:\\.|[^"\\])*+"|' + r"'(?:\\.|[^'\\])*+'"),
    "verilog": re.compile(r'//.*|/\*|"(?:\\.|[^"\\])*+"'),
}
_ENDS = {'"""': re.compile(r'\\.|"""'), "'''": re.compile(r"\\.|'''"), "/*": re.compile(r"\*/")}

# How many blocks of a text may be searched in vain for a better closing fence. Hostile text could have thousands.
PATIENCE = 8


@dataclass
class Block:
    """A fenced block.

    Attributes:
        language: python, verilog, another name as the text has it, or "" if the fence names none.
        prose: the text between this block and the one before.
    """

    language: str
    code: str
    prose: str


def blocks_of(text: str, language: str = "python") -> list[Block]:
    """Return the fenced blocks outside `<think>...</think>`; text before a lone `</think>` counts as thinking too.

    Args:
        language: read blocks that name no language as this one.

    >>> [(b.language, b.code) for b in blocks_of("<think>no</think>- ~~~py\\n  x = 1\\n  ~~~\\n```sh\\nls")]
    [('python', 'x = 1\\n'), ('sh', 'ls')]
    """
    lines, at = text.split("\n"), 0
    blocks: list[Block] = []
    prose: list[str] = []
    thinking, patience = False, PATIENCE
    while at < len(lines):
        kept = []
        for piece in _THINKING.split(lines[at]):
            if piece == "</think>" and not thinking:
                blocks, prose, kept = [], [], []
            elif not thinking and piece != "<think>":
                kept.append(piece)
            thinking = piece == "<think>" or (thinking and piece != "</think>")
        at += 1
        line = "".join(kept)
        opening = _opening(line)
        behind = None if opening else _BEHIND_PROSE.fullmatch(line)
        if behind and _language(behind["fence"].strip("`~")) in _LANGUAGES:
            prose.append(behind["prose"])
            opening = _opening(behind["fence"])
        if opening is None:
            prose += [line] * bool(kept)
            continue
        name = _language(opening["info"])
        quotes, width = _margin(opening["lead"])
        end, following, given_up = _end_of(lines, at, opening["fence"], quotes, width, name or language, patience > 0)
        patience -= given_up
        if end == following < len(lines) and lines[end].strip() == "</think>":
            at = end  # the unclosed block was part of the thinking: the loop drops it
            continue
        code = _content([_unquoted(line, quotes) for line in lines[at:end]], width)
        blocks.append(Block(name, "".join(line + "\n" for line in code), "\n".join(prose)))
        if end == len(lines):  # not closed: add no newline that the text does not have
            blocks[-1].code = blocks[-1].code[:-1]
        prose, at = [], following
    return blocks


def _opening(line: str) -> re.Match[str] | None:
    found = _OPENING.match(line)
    return None if found is None or (found["fence"][0] == "`" and "`" in found["info"]) else found


def _language(info: str) -> str:
    word = _INFO.match(info)[1].lower()
    return next((name for name, words in _LANGUAGES.items() if words.fullmatch(word)), word)


def _end_of(
    lines: list[str], start: int, fence: str, quotes: int, width: int, language: str, careful: bool
) -> tuple[int, int, bool]:
    """Find the end of the block whose content begins at line `start`.

    Args:
        quotes, width: `_margin` of the opening fence.
        careful: look for the best closing fence; otherwise take the first.

    Returns:
        the line after the content, the line at which to continue reading, and whether the search went past the end
        that it chose.
    """
    # possible closing fences: hidden is the first inside a string, deep the first that is indented too far
    opened, hidden, deep = "", None, None
    for n in range(start, len(lines)):
        line = _unquoted(lines[n], quotes)
        bare = (line or "").strip()
        if line is None or bare == "<think>" or bare == "</think>":
            second = hidden if deep is None else deep
            if second is not None:
                return second, second + 1, True
            if bare != "<think>":
                return n, n, False
        if len(bare) >= len(fence) and not bare.strip(fence[0]):
            if not careful or (not opened and _width(line) <= width + 3):
                return n, n + 1, False
            if opened:
                hidden = n if hidden is None else hidden
            else:
                deep = n if deep is None else deep
        elif not opened and (other := _opening(line)) and other["info"].strip() and other["fence"].startswith(fence):
            return (n, n, False) if deep is None else (deep, deep + 1, True)
        elif careful and language in _TOKENS:
            if not opened and _ends_with(line, fence, language):
                lines[n : n + 1] = [lines[n].rstrip()[: -len(fence)], fence]
                return n + 1, n + 2, False
            opened = _left_open(line, opened, language)
    second = hidden if opened and deep is None else deep  # a string that never ends hides no fence
    return (len(lines), len(lines), True) if second is None else (second, second + 1, True)


def _left_open(line: str, opened: str, language: str) -> str:
    """Return the opening mark of the string or comment that is still open after the line, or "".

    Args:
        opened: what was open before the line.

    >>> _left_open("x = 1  # it's", "", "python"), _left_open("/* a */ b /*", "", "verilog")
    ('', '/*')
    """
    at = 0
    while found := (_ENDS[opened] if opened else _TOKENS[language]).search(line, at):
        at, token = found.end(), found.group()
        if opened:
            opened = opened if token.startswith("\\") else ""
        elif token in _ENDS:
            opened = token
    return opened


def _ends_with(line: str, fence: str, language: str) -> bool:
    """Return whether code is followed by the fence in its line, and not in a string or a comment.

    >>> [_ends_with(line, "```", "python") for line in ("return x```", "x = 1  # ```", "x = '```'", "s = \'\'\'```")]
    [True, False, False, False]
    """
    if not line.rstrip().endswith(fence) or any(mark in line for mark in _ENDS):
        return False
    return _TOKENS[language].sub("", line).rstrip().endswith(fence)


def is_stub(code: str, names: set[str]) -> bool:
    """Return whether code has functions of these names, and all of them without a body: `...`, `pass` or a docstring.

    >>> is_stub("def f(x): ...", {"f"}), is_stub("def f(x): return 1", {"f"}), is_stub("f = len", {"f"})
    (True, False, False)
    """
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    found = [one for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name in names]
    return bool(found) and all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for function in found
        for line in function.body
    )


def _margin(lead: str) -> tuple[int, int]:
    """Return the number of quote marks before a fence, and the number of columns between them and the fence.

    >>> _margin("> 1. "), _margin("  ")
    ((1, 3), (0, 2))
    """
    quotes = lead.count(">")
    return quotes, _width(_unquoted(re.sub(r"[^> \t]", " ", lead), quotes) or "")


def _unquoted(line: str, quotes: int) -> str | None:
    """Remove `quotes` quote marks from the line; None if it has fewer."""
    found = re.match(rf"(?:[ \t]*+>){{{quotes}}}[ \t]?", line) if quotes else None
    return line[found.end() :] if found else None if quotes else line


def _content(lines: list[str], width: int) -> list[str]:
    """Remove the indentation of the fence from the lines."""
    first = next((line for line in lines if line.strip()), "")
    if width == 0 or _width(first) < width:  # only the fence was indented
        return lines
    return [re.match(r"[ \t]*+", line)[0].expandtabs(4)[width:] + line.lstrip(" \t") for line in lines]


def _width(text: str) -> int:
    """Return the width in columns of a line's leading whitespace."""
    return len(re.match(r"[ \t]*+", text)[0].expandtabs(4))
