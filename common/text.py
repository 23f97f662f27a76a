"""Make text fit for display: printable, on one line, of limited length."""

from __future__ import annotations


def one_line(text: object, limit: int = 200) -> str:
    r"""Make text fit for a log: one line, printable, at most `limit` characters.

    >>> one_line("a\n\x1b[31mb")
    'a \\x1b[31mb'
    """
    text = str(text)[: 4 * limit].replace("\n", " ")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def duration(seconds: float) -> str:
    """Write a number of seconds for people.

    >>> duration(8.4), duration(75), duration(7500)
    ('8 s', '1 min 15 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    r"""Make text safe for a terminal or a title: each unprintable character (escapes, bidi controls, half surrogates)
    becomes its code.

    >>> printable("a\x1b[31m\u202e")
    'a\\x1b[31m\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
