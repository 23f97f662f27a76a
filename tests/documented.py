"""The commands that the pages for users show, read out of the Markdown: fenced, indented and in the prose."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

VALUE = r"""[A-Z_]+=(?:"[^"]*"|'[^']*'|\S*)"""
BEGINS = rf"(?:{VALUE} +)*"  # settings in front of a command
INDENTED = re.compile(
    rf"{BEGINS}(?:python|sh|accelerate|vllm|apt-get) |\.venv/bin/|for [A-Za-z]+ in [^;]+;|{VALUE}(?: +{VALUE})*$"
)
IN_PROSE = re.compile(rf"{BEGINS}(?:python \S+\.py|sh \S+\.sh|accelerate launch -)")
LOOP = re.compile(r"\bfor (\w+) in ([^;]+); *do ((?:(?!\bfor \w+ in ).)*?); *done")
SETTING = re.compile(r"[A-Z_]+=")


@dataclass(frozen=True)
class Command:
    """One program with its words, as the shell would see them.

    where: page and line of what it was made from. settings: the environment in front. abbreviated: it has an ellipsis.
    """

    where: str
    words: tuple[str, ...]
    settings: tuple[str, ...] = ()
    abbreviated: bool = False

    @property
    def text(self) -> str:
        return " ".join((*self.settings, *self.words))

    @property
    def script(self) -> str:
        """The file that it runs; "" where that is none of the project's."""
        return next((word for word in self.words[:2] if word.endswith((".py", ".sh"))), "")


def blocks(text: str) -> list[tuple[int, list[str], bool]]:
    """(first line's number, lines, whether fenced as sh) of everything that is set as code.

    >>> blocks("a\\n\\n    b\\n\\n```sh\\nc\\n```\\n")
    [(3, ['b'], False), (6, ['c'], True)]
    """
    found, fence, block = [], None, None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fence, block = (line.strip("` ") if fence is None else None), None
        elif fence is not None or (line.startswith("    ") and line.strip()):
            if block is None:
                block = (number, [], fence in ("sh", "bash"))
                if fence in (None, "sh", "bash"):
                    found.append(block)
            block[1].append(line if fence is not None else line[4:])
        else:
            block = None
    return found


def prose(text: str) -> str:
    """The page with blanks where code blocks stand, line by line."""
    lines, fenced = [], False
    for line in text.splitlines():
        edge = line.lstrip().startswith("```")
        lines.append("" if fenced or edge or line.startswith("    ") else line)
        fenced ^= edge
    return "\n".join(lines)


def joined(first: int, lines: list[str]) -> list[tuple[int, str]]:
    """Lines that end in a backslash together with the next, without comments; numbered by the first.

    >>> joined(7, ["a \\\\", "  b  # c", "# d", "e"])
    [(7, 'a b'), (10, 'e')]
    """
    whole, begun = [], 0
    for number, line in enumerate(lines, start=first):
        begun = begun or number
        part = re.sub(r"(^|\s)#.*", "", line).strip()
        if whole and whole[-1][0] == begun:
            part = f"{whole.pop()[1]} {part}"
        if part:
            whole.append((begun, part.removesuffix("\\").strip()))
        begun = begun if line.rstrip().endswith("\\") else 0
    return whole


def unrolled(line: str) -> list[str]:
    """The commands of a line: loops are what they run, each time.

    >>> unrolled("for A in x y; do sh $A.sh && ls; done; cd z")
    ['sh x.sh', 'ls', 'sh y.sh', 'ls', 'cd z']
    """
    while loop := LOOP.search(line):
        name, values, body = loop.groups()
        turns = [filled(body, {name: value}) for value in values.split()]
        line = line[: loop.start()] + "; ".join(turns) + line[loop.end() :]
    return [part.strip() for part in re.split(r";|&&", line) if part.strip() and not part.strip().startswith("export ")]


def filled(line: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1], m[0]), line)


def command(where: str, text: str) -> Command:
    """Brackets around what may be left out are dropped: all of it is given.

    >>> command("a:1", "STEPS=2 python a.py [--b c] …")
    Command(where='a:1', words=('python', 'a.py', '--b', 'c'), settings=('STEPS=2',), abbreviated=True)
    """
    words = shlex.split(re.sub(r"[\[\]…]|(?<!\S)\.\.\.(?!\S)", " ", text))
    count = next((n for n, word in enumerate(words) if not SETTING.match(word)), len(words))
    return Command(where, tuple(words[count:]), tuple(words[:count]), "…" in text or " ..." in text)


def commands_of(page: Path, name: str) -> list[Command]:
    """Every command of a page, in order; `name` stands for it in `where`."""
    text, found = page.read_text(encoding="utf-8"), []
    for first, lines, fenced in blocks(text):
        variables: dict[str, str] = {}
        for number, line in joined(first, lines):
            if not fenced and not INDENTED.match(line):
                continue
            for part in unrolled(line):
                one = command(f"{name}:{number}", filled(part, variables))
                variables |= {} if one.words else dict(word.split("=", 1) for word in one.settings)
                found += [one] if one.words else []
    plain = prose(text)
    for span in re.finditer(r"`([^`]+)`", plain):
        said = " ".join(span[1].split())
        if IN_PROSE.match(said):
            found.append(command(f"{name}:{plain.count(chr(10), 0, span.start()) + 1}", said))
    return found
