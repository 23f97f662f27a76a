"""What every stage needs and no method is about: arguments, errors, atomic files, the run log."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

A = TypeVar("A")
Dtype = Literal["auto", "bfloat16", "float16", "float32"]

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns of an optional kernel


class InputError(Exception):
    """Something the person at the shell can mend. `run` prints it as one line and exits with code 2."""


class Preempted(Exception):
    """SIGTERM or SIGINT came and the run's state is saved. `run` prints it and exits with code 75 (try again)."""


def run(main: Callable[[A], Any], args_class: type[A], description: str | None) -> None:
    """Parse the command line and run a stage."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
        # before torch is imported; not for whoever imports this file: a sandbox's worker has a bare environment
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    answer_for(lambda: main(parse_args(args_class, description=description)))


def answer_for(work: Callable[[], Any]) -> None:
    """Do the work of a script; errors become one line and an exit code: 2, 75 or 130."""
    try:
        work()
    except InputError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(75)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read what is printed has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def printable(text: str) -> str:
    r"""Text for a terminal or a title: what is not printable (escapes, bidi controls, half surrogates) as its code.

    >>> printable("a\x1b[31m\u202e")
    'a\\x1b[31m\\u202e'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parse_args(args_class: type[A], argv: list[str] | None = None, description: str | None = None) -> A:
    """Read a dataclass from the command line: defaults < the YAML file of `--config` < flags.

    Raises:
        InputError: an unknown flag or YAML key (names the nearest one), a value that does not fit, a missing file.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parse(args_class, argv, description)
    if args.config:
        settings, names = read_yaml(Path(args.config)), field_names(args_class)
        for name in settings:
            require(name in names, f"{args.config}: {unknown_name('key', name, names)}")
        args = _parse(args_class, [*as_flags(settings), *argv], description)
    return args


def _parse(args_class: type[A], argv: list[str], description: str | None) -> A:
    import tyro  # not at the top: tasks and sandbox are used where nothing is installed

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args, unknown = tyro.cli(
                args_class, args=argv, description=description, return_unknown_args=True, use_underscores=True
            )
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        text = " ".join(line.strip("│ ") for line in said.getvalue().splitlines() if "Error" in line or "rror:" in line)
        raise InputError(text or " ".join(said.getvalue().split())) from None
    if unknown:
        raise InputError(unknown_name("option", unknown[0].partition("=")[0], field_names(args_class)))
    return args


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping of names to values.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))  # editors on Windows write a mark in front
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not YAML ({error})") from None
    plain = isinstance(settings, dict) and not any(isinstance(value, dict | list) for value in settings.values())
    require(plain, f"--config {path}: wants lines of 'name: value'")
    empty = [str(name) for name, value in settings.items() if value is None]
    require(not empty, f"--config {path}: {', '.join(empty)}: has no value")
    return {str(name): value for name, value in settings.items()}


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Settings as options of a script, so that its parser converts the values (YAML reads 1e-5 as text).

    >>> as_flags({"alpha": 0.5, "merge": True, "resume": False})
    ['--alpha', '0.5', '--merge', '--no_resume']
    """
    flags = []
    for name, value in settings.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        else:
            flags += [f"--{name}", str(value)]
    return flags


def field_names(args_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(args_class)]


def unknown_name(kind: str, name: str, names: list[str]) -> str:
    """What to say of an option or key that is none of the names; suggests the nearest."""
    near = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), names, n=1)
    dashes = "--" if name.startswith("-") else ""
    return f"unknown {kind} {name!r}" + (f"; did you mean {dashes}{near[0]}?" if near else "; --help lists them all")


def require(condition: bool, message: str) -> None:
    """Raise InputError(message) unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_at_least(least: float, args: Any, *names: str) -> None:
    """Raise InputError unless each of these arguments is at least so much."""
    for name in names:
        value = getattr(args, name)
        require(value >= least, f"--{name} {value}: must be at least {least}" if least else
                f"--{name} {value}: must not be negative")  # fmt: skip


def check_sampling_args(args: Any) -> None:
    """What every script that samples and scores asks of its arguments."""
    require_at_least(0, args, "length_penalty_alpha", "save_every", "token_budget", "max_grad_norm", "parity_bound")
    require_at_least(0, args, "patience", "keep_every", "log_completions", "track_completions")
    require_at_least(1, args, "valid_every")
    require(args.patience == 0 or args.valid_path != "", "--patience: has nothing to go by; give --valid_path")
    require_at_least(
        1, args, "batch_size", "num_samples", "max_new_tokens", "sample_batch_size", "micro_batch_tokens", "log_every"
    )
    require(args.curriculum_epochs > 0, f"--curriculum_epochs {args.curriculum_epochs}: must be positive")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive; a gradient needs samples")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    require(args.time_limit > 0, f"--time_limit {args.time_limit}: must be positive")
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")


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


class RunLog:
    """One dict a step, to a JSONL file."""

    def __init__(self, path: Path, keep_bytes: int = 0):
        self.file = path.open("a", encoding="utf-8")
        self.file.truncate(keep_bytes)  # a resumed run drops what came after the state it goes on from

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


def machine() -> dict[str, Any]:
    """Hardware, versions and commit: what a figure needs beside it."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")]  # fmt: skip
        processor = names[0] if names else processor
    torch = sys.modules.get("torch")  # scoring stored completions does without it
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    versions = {"python": platform.python_version()}
    engines = [name for name in ("vllm", "openai") if name in sys.modules]  # only where they sample
    for package in ("torch", "transformers", "peft", "bitsandbytes", "accelerate", *engines):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "gpu": gpu,
        "cpu": processor,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
        "commit": commit(),
    }


def command(secret: str = "", shown: str = "") -> str:
    """What was typed, with `shown` for a `secret` in it. Knobs that were edited or read from --config are not there."""
    words = [word.replace(secret, shown) if secret else word for word in sys.argv[1:]]
    return shlex.join(["python", Path(sys.argv[0]).name, *words])


def commit() -> str | None:
    """The project's commit, with a plus if files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "*.py", "*.sh"],
                               capture_output=True, text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
