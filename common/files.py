"""Read and write files: writes are atomic, and errors in reading name the line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from common.arguments import InputError, require
from common.text import one_line


def sha256(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes; the metrics identify a data set by it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replace_folder(path: str | Path, keep: Callable[[Path], bool] = lambda partial: False) -> Iterator[Path]:
    """Yield the folder `path`.partial to write into; it replaces `path` when the block ends without an error.

    Args:
        keep: whether this run resumes from what an earlier one left in the partial folder; if not, that is removed.

    Raises:
        InputError: the folder cannot be written, or holds files but no run.json: replacing it would lose them.
    """
    path = Path(path).absolute()
    require(path.name != "", f"--output_dir {path}: cannot be the root folder; name a folder for this run")
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
    """Write a file whole or not at all: under a temporary name, then rename it.

    Raises:
        InputError: it cannot be written.
    """
    _write(Path(path), [text])


def write_jsonl(path: str | Path, records: list[dict]) -> None:
    """Write one JSON object per line, as `write_text` writes."""
    _write(Path(path), (json.dumps(record) + "\n" for record in records))


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write the parts one after another, so that a file of gigabytes is never held as one text."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(parts)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # it is there only if something failed
            temporary.unlink(missing_ok=True)


def read_jsonl(path: str | Path, missing: str, unfinished: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "FILE:LINE" and the JSON object of each line that is not blank.

    Args:
        missing: what the file is and how to make it, for the error if it does not exist.
        unfinished: the file is still being written, so skip a last line that has no newline yet.

    Raises:
        InputError: the file is missing, is not UTF-8, or has a line that is not a JSON object.
    """
    path = Path(path)
    require(path.is_file(), f"{path}: no such {missing}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at U+2028
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    require(not any("\0" in line for line in lines[:1]), f"{path}: is not UTF-8 text")  # UTF-16 with no BOM
    if unfinished:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets, as deep
                raise InputError(f"{path}:{number}: not JSON ({one_line(error)})") from None
            require(isinstance(record, dict), f"{path}:{number}: wants a JSON object, not {type(record).__name__}")
            yield f"{path}:{number}", record
