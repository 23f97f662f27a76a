"""Parse and check a script's arguments, and turn its errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from common.text import printable

A = TypeVar("A")

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # hide a warning about an optional kernel


class InputError(Exception):
    """An error that the user can fix. `run_script` prints it as one line and exits with code 2."""


class Preempted(Exception):
    """A stop by SIGTERM or SIGINT, raised once the run's state is saved. `run_script` exits with 75 (try again)."""


def run_script(main: Callable[[A], Any], args_class: type[A], description: str | None) -> None:
    """Parse the command line and run a script. Errors become one line and an exit code, see `answer_for`."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the older name of the same setting
        # Set here, before torch is imported, and not when this file is imported: a sandbox worker's environment stays
        # bare.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    answer_for(lambda: main(parse_args(args_class, description=description)))


def answer_for(work: Callable[[], Any]) -> None:
    """Do a script's work and turn its errors into one line and an exit code.

    The codes: 2 for an InputError, 75 for Preempted, 130 for Ctrl-C, 1 if the reader of stdout is gone.
    """
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
    except BrokenPipeError:  # the reader of our output (head, less) has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def parse_args(args_class: type[A], argv: list[str] | None = None, description: str | None = None) -> A:
    """Read a dataclass from the command line: defaults < the YAML file of `--config` < flags.

    Raises:
        InputError: an unknown flag or YAML key (names the nearest one), a value of the wrong type, a missing file.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parse(args_class, argv, description)
    if args.config:
        settings, names = read_yaml(Path(args.config)), field_names(args_class)
        for name in settings:
            require(name in names, f"{args.config}: {unknown_name('key', name, names)}")
        args = _parse(args_class, [*as_flags(settings), *argv], description)
    check_numbers(args)
    return args


def check_numbers(args: Any) -> None:
    """Raise InputError if a number is infinite or none at all, or a seed is not what torch and numpy take."""
    for name in field_names(type(args)):
        value = getattr(args, name)
        for one in value if isinstance(value, tuple) else (value,):
            require(not isinstance(one, float) or math.isfinite(one), f"--{name} {one}: must be a finite number")
            seed = name in ("seed", "seeds")
            require(not seed or 0 <= one < 2**32, f"--{name} {one}: must be in [0, 4294967296)")


def _parse(args_class: type[A], argv: list[str], description: str | None) -> A:
    import tyro  # not at the top: tasks and sandbox must work where no package is installed

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            groups, unknown = tyro.cli(
                _in_groups(args_class), args=argv, description=description, return_unknown_args=True,
                use_underscores=True,
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        text = " ".join(line.strip("│ ") for line in said.getvalue().splitlines() if "Error" in line or "rror:" in line)
        raise InputError(text or " ".join(said.getvalue().split())) from None
    if unknown:
        raise InputError(unknown_name("option", unknown[0].partition("=")[0], field_names(args_class)))
    values = vars(groups).values() if type(groups) is not args_class else [groups]
    return args_class(**{name: value for group in values for name, value in vars(group).items()})


def _in_groups(args_class: type) -> type:
    """Return a class whose flags are the same, with a group in `--help` for each class that declares some of them.

    The class itself comes first, then what it inherits.
    """
    import tyro

    classes = [cls for cls in args_class.__mro__ if cls.__dict__.get("__annotations__")]
    if len(classes) == 1:
        return args_class
    fields = {field.name: field for field in dataclasses.fields(args_class)}  # with the defaults that hold
    groups, seen = {}, set()
    for cls in classes:
        types = {name: kind for name, kind in cls.__annotations__.items() if name in fields and name not in seen}
        seen |= types.keys()
        given = {name: _default(fields[name]) for name in types}
        # tyro finds the source, whose comments are the help, by the names of module and class
        body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__annotations__": types}
        body["__doc__"] = "This script's own settings." if cls is args_class else cls.__doc__
        body |= {name: default for name, default in given.items() if default}
        group = dataclasses.dataclass(type(cls.__name__, (), body), kw_only=True)
        default = dataclasses.field(default_factory=group) if all(given.values()) else dataclasses.field()
        name = cls.__name__.removesuffix("Args").lower() or "main"
        groups[name + "_" * (name in groups)] = (Annotated[group, tyro.conf.OmitArgPrefixes], default)
    named = [(name, *rest) for name, rest in groups.items()]
    return dataclasses.make_dataclass(args_class.__name__, named, kw_only=True)


def _default(field: dataclasses.Field) -> Any:
    """Return a field with the same default; None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default) if field.default is not dataclasses.MISSING else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps names to values.

    Raises:
        InputError: the file cannot be read, is not YAML, is not a flat mapping, or a name has no value.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8-sig"))  # editors on Windows write a byte-order mark
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not YAML ({error})") from None
    plain = isinstance(settings, dict) and not any(isinstance(value, dict | list) for value in settings.values())
    require(plain, f"--config {path}: must hold lines of 'name: value'")
    empty = [str(name) for name, value in settings.items() if value is None]
    require(not empty, f"--config {path}: {', '.join(empty)}: has no value")
    return {str(name): value for name, value in settings.items()}


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Write settings as command-line options, so that the script's parser converts them (YAML reads 1e-5 as text).

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
    """List the fields of an arguments dataclass."""
    return [field.name for field in dataclasses.fields(args_class)]


def settings_of(args: Any) -> dict[str, Any]:
    """Return a script's settings by name: its own first, then those that it inherits."""
    names = (name for cls in type(args).__mro__ for name in cls.__dict__.get("__annotations__", ()))
    return {name: getattr(args, name) for name in dict.fromkeys(names)}


def unknown_name(kind: str, name: str, names: list[str]) -> str:
    """Return the error text for an option or key that is not in `names`; it suggests the nearest one."""
    near = difflib.get_close_matches(name.lstrip("-").replace("-", "_"), names, n=1)
    dashes = "--" if name.startswith("-") else ""
    return f"unknown {kind} {name!r}" + (f"; did you mean {dashes}{near[0]}?" if near else "; --help lists them all")


def require(condition: bool, message: str) -> None:
    """Raise InputError(message) unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_at_least(least: float, args: Any, *names: str) -> None:
    """Raise InputError unless each of these arguments is at least `least`."""
    for name in names:
        value = getattr(args, name)
        require(value >= least, f"--{name} {value}: must be at least {least}" if least else
                f"--{name} {value}: must not be negative")  # fmt: skip


def check_judge_args(args: Any) -> None:
    """Check the arguments of `JudgeArgs`. Raises InputError, which names the argument and its allowed range."""
    for name in ("time_limit", "total_limit"):
        require(getattr(args, name) > 0, f"--{name} {getattr(args, name)}: must be positive")
    require(0 <= args.tolerance < 1, f"--tolerance {args.tolerance}: must be in [0, 1)")


def check_importance_args(args: Any) -> None:
    """Check the arguments of `ImportanceArgs`. Raises InputError, which names the argument and what it takes."""
    cap, mask = args.importance_cap, args.importance_mask
    require(cap == 0 or cap >= 1, f"--importance_cap {cap}: must be 1 or more, or 0 for no truncation")
    require(mask == 0 or mask > 1, f"--importance_mask {mask}: must be above 1, or 0 for no mask")
    if not args.async_steps:
        return
    require(
        args.engine == "server",
        f"--async_steps 1: is for --engine server; --engine {args.engine} samples and trains in turn",
    )
    require(
        args.importance != "off",
        "--async_steps 1: its samples are a step old and need the weights; leave --importance off out",
    )
    for name, off in {"prompt_selection": "off", "turns": 1, "dynamic_sampling": False, "replay": 0}.items():
        require(
            getattr(args, name, off) == off,
            f"--{name}: needs the verdicts on a batch before the next is sampled; leave --async_steps 1 out",
        )


def check_selection_args(args: Any) -> None:
    """Check the arguments of `SelectionArgs`. Raises InputError, which names the argument and its allowed range."""
    require_at_least(1, args, "solved_after")
    require(0 <= args.recheck < 1, f"--recheck {args.recheck}: must be in [0, 1)")
    require(args.selection_floor > 0, f"--selection_floor {args.selection_floor}: must be positive")
    require(0 <= args.estimate_decay <= 1, f"--estimate_decay {args.estimate_decay}: must be in [0, 1]")
    require(
        args.prompt_selection == "off" or args.prompt_level != "curriculum",
        "--prompt_selection: a curriculum changes a task's pass rate with its prompt; choose one of the two",
    )


def check_turn_args(args: Any) -> None:
    """Raise InputError if a discount is given for a second turn that is not taken."""
    require(args.turn_discount == 1 or args.turns > 1, "--turn_discount: there is one turn only; give --turns 2")


def check_sampling_args(args: Any) -> None:
    """Check the arguments that all scripts that sample and score have in common.

    Raises:
        InputError: names the argument and its allowed range.
    """
    require_at_least(0, args, "length_penalty_alpha", "save_every", "token_budget", "max_grad_norm", "parity_bound")
    require_at_least(0, args, "patience", "keep_every", "log_completions", "track_completions")
    require_at_least(1, args, "valid_every", "curve_every", "curve_samples", "curve_tasks")
    require(args.patience == 0 or args.valid_path != "", "--patience: needs validation tasks; give --valid_path")
    require_at_least(
        1, args, "batch_size", "num_samples", "max_new_tokens", "sample_batch_size", "micro_batch_tokens", "log_every"
    )
    require(
        0 <= args.min_pass <= args.max_pass <= 1,
        f"--min_pass {args.min_pass} --max_pass {args.max_pass}: want 0 <= min_pass <= max_pass <= 1",
    )
    require(args.curriculum_epochs > 0, f"--curriculum_epochs {args.curriculum_epochs}: must be positive")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive; a gradient needs samples")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    check_judge_args(args)
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
