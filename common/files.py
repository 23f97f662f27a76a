"""Read and write files: atomically, with errors that name the line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.arguments import InputError, require


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, which names a data set in the metrics."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replace_folder(path: str | Path, keep: Callable[[Path], bool] = lambda partial: False) -> Iterator[Path]:
    """Yield `path`.partial to write into; it takes the place of `path` when the block ends well, and only then.

    What an earlier run left in the partial folder is removed, unless `keep` says that this run goes on from it.

    Raises:
        InputError: the folder cannot be written, or holds something else than a run (no run.json): it would be lost.
    """
    path = Path(path).absolute()
    require(path.name != "", f"--output_dir {path}: want a folder of the run's own")
    partial = path.with_name(path.name + ".partial")
    old = path.with_name(path.name + ".old")
    if old.is_dir() and not path.exists():  # killed between the two renames below
        old.rename(path)
    try:
        if not keep(partial):
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise FileExistsError(17, "is a file, not a folder")
        if path.exists() and any(path.iterdir()) and not (path / "run.json").is_file():
            raise FileExistsError(17, "it holds other files, which would be lost; choose another folder")
        (partial / ".writable").touch()
        (partial / ".writable").unlink()
    except OSError as error:
        raise InputError(f"--output_dir {path} cannot be written: {error.strerror}") from None
    yield partial
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: under a temporary name, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def write_jsonl(path: str | Path, records: list[dict]) -> None:
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_jsonl(path: str | Path, missing: str, unfinished: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "FILE:LINE" and the object of each line that is not blank.

    Args:
        unfinished: the file is still being written: a last line without its end is passed over.

    Raises:
        InputError: the file is missing (`missing` says what to do), not UTF-8, or has a line that is no JSON object.
    """
    path = Path(path)
    require(path.is_file(), f"{path}: no such {missing}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would split inside strings, at U+2028
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    require(not any("\0" in line for line in lines[:1]), f"{path}: is not UTF-8 text")  # UTF-16 without a mark
    if unfinished:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            require(isinstance(record, dict), f"{path}:{number}: wants a JSON object, not {type(record).__name__}")
            yield f"{path}:{number}", record
