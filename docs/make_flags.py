"""Write docs/flags.md: every flag of every script, from the `Args` dataclasses and the comments beside their fields.

    python docs/make_flags.py            # writes the page
    python docs/make_flags.py --check    # exits with 1 and one line if the page is not what it would write

The scripts are read, not imported. So no library is needed, and new scripts are found.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "flags.md"
SHARED = "common/run_args.py"  # what scripts inherit, beside them
DTYPES = "`auto`, `bfloat16`, `float16`, `float32`"
TYPES = {
    "Dtype": DTYPES,
    "str": "text",
    "bool": "switch",
    "tuple[str, ...]": "words",
    "int": "whole number",
    "float": "number",
}
MARKUP = {ord("<"): "&lt;", ord("*"): r"\*"}
HEAD = """# Every flag

`python docs/make_flags.py` writes this page from the dataclass at the top of each script and from
`common/run_args.py`, which holds what scripts share; `--check` tells whether the page is stale. `python SCRIPT.py
--help` prints a script's flags, its own first. The defaults are the scripts' own; `profile.sh` has what `train_*.sh`
pass instead, `configs/` what `train.py` passes. `sft`, `rl`, `ppo`, `grpo`, `dpo` and `rft` are `train_*_lora.py`; the
other names are files. Scripts under `data/` and `benchmarks/` show their flags only in `--help`.

`--NAME` turns a switch on, `--no_NAME` turns it off. A name without dashes is a positional argument. `train.py` takes
`METHOD [GPU] [MODEL]` or a YAML file first, and passes the flags of the stages that it runs on to them. Where scripts
differ in a flag, brackets name those that have it so.

"""


class Flag(NamedTuple):
    """A field of a script's Args."""

    script: str
    name: str
    type: str
    default: str
    meaning: str


def all_flags(root: Path) -> list[Flag]:
    """Return the flags of every script that passes an Args to `run_script` or `parse_args`.

    The Args may be another module's, as in policy.py.
    """
    found = []
    for path in sorted(root.glob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
        given = [a for call in calls if ast.unparse(call.func) in ("run_script", "parse_args") for a in call.args]
        modules = [name.removesuffix("Args") for name in map(ast.unparse, given) if name.split(".")[-1] == "Args"]
        if modules:
            script = path.stem.removeprefix("train_").removesuffix("_lora")
            name = f"{modules[0].rstrip('.') or path.stem}.py"
            found += fields(script, next(place for place in (root / name, *root.glob(f"*/{name}")) if place.is_file()))
    return found


def fields(script: str, path: Path) -> list[Flag]:
    """Return the fields of the file's Args with their comments: its own first, then those that it inherits.

    Exit with an error if one has no comment.
    """
    classes = {name: node for file in (path, path.parent / SHARED) if file.is_file() for name, node in classes_of(file)}
    found: dict[str, Flag] = {}
    waiting = ["Args"] if "Args" in dict(classes_of(path)) else []  # none where Args is another script's, imported
    while waiting:
        place, args, comments = classes[waiting.pop(0)]
        for field in args.body:
            if isinstance(field, ast.AnnAssign) and field.target.id not in found:
                lines = range(field.lineno, field.end_lineno + 1)
                meaning = " ".join(comments[line] for line in lines if line in comments).translate(MARKUP)
                if not meaning:
                    sys.exit(
                        f"error: {place.name}:{field.lineno}: {field.target.id} has no comment, so no meaning in --help"
                    )
                positional = "Positional" in ast.unparse(field.annotation)
                name = f"{field.target.id.upper()} …" if positional else f"--{field.target.id}"
                found[field.target.id] = Flag(script, name, type_of(field.annotation), default_of(field.value), meaning)
        waiting += [base.id for base in args.bases if isinstance(base, ast.Name) and base.id in classes]
    return list(found.values())


def classes_of(path: Path) -> Iterator[tuple[str, tuple[Path, ast.ClassDef, dict[int, str]]]]:
    """Yield the name of each class of a file, with the file, the class, and the file's comments by line."""
    text = path.read_text("utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, (path, node, comments)


def type_of(annotation: ast.expr) -> str:
    """Describe a field's type in a word, or list its choices.

    >>> type_of(ast.parse("Literal['a', 'b']").body[0].value), type_of(ast.parse("bool").body[0].value)
    ('`a`, `b`', 'switch')
    """
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        return type_of(annotation.slice.elts[0])
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return ", ".join(f"`{choice.value}`" for choice in annotation.slice.elts)
    return TYPES.get(ast.unparse(annotation), f"`{ast.unparse(annotation)}`")


def default_of(value: ast.expr | None) -> str:
    """Write a default as one types it in a shell.

    >>> [default_of(ast.parse(text).body[0].value) for text in ("1e-5", "''", "True", "('a', 'b')")]
    ['`1e-05`', '`""`', 'on', '`a b`']
    """
    if value is None:
        return "must be given"
    default = ast.literal_eval(value)
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return f"`{' '.join(default)}`" if default else "none"
    return f"`{default}`" if default != "" else '`""`'


def once(same: list[Flag], what: Callable[[Flag], str]) -> str:
    """Return the text that all scripts share, or each different text with its scripts."""
    said: dict[str, list[str]] = {}
    for flag in same:
        said.setdefault(what(flag), []).append(flag.script)
    return "<br>".join(text if len(said) == 1 else f"{text} ({', '.join(who)})" for text, who in said.items())


def page(root: Path) -> str:
    """Return the text of docs/flags.md."""
    flags = all_flags(root)
    lines = ["| flag | type or choices | default | meaning | scripts |", "|---|---|---|---|---|"]
    for name in sorted({flag.name for flag in flags}, key=lambda name: name.lstrip("-").lower()):
        same = [flag for flag in flags if flag.name == name]
        cells = [f"`{name}`", *(once(same, lambda flag, i=i: flag[i]) for i in (2, 3, 4))]
        cells.append(", ".join(flag.script for flag in same))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("error: want no option, or --check")
    if not sys.argv[1:]:
        PAGE.write_text(page(ROOT), "utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != page(ROOT):
        sys.exit("error: docs/flags.md is stale: run python docs/make_flags.py to write it again")
