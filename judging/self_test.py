"""Try attacks on a sandbox: before every training run, and for `--probe`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from common import InputError
from judging.pool import REQUIRED_LAYERS, Sandbox, missing_layers


def wrong_verdicts(sandbox: Any, task: dict, attacks: Iterable[tuple], time_limit: float) -> list[str]:
    """Judge each completion of (name, completion, right statuses). Returns a line for each verdict that is wrong."""
    futures = [(name, right, sandbox.submit(task, completion, time_limit)) for name, completion, right in attacks]
    problems = []
    for name, right, future in futures:
        verdict = future.result()
        if verdict.status not in right:
            problems.append(f"{name}: {verdict.status} instead of {right[0]} ({verdict.reason})")
    return problems


def self_test(sandbox: Sandbox, attack: Callable[[Any], list[str]]) -> None:
    """Try a handful of attacks, in about a second; every training run starts with this.

    Args:
        attack: tries them, and gives what got through: of `judging.python.attacks` or `judging.verilog.attacks`.

    Raises:
        InputError: names the first one that got through.
    """
    if problems := attack(sandbox):
        raise InputError(f"the sandbox does not hold: {problems[0]}; --probe of sandbox.py or verilog.py tells more")


def probe(make: Callable[..., Sandbox], attack: Callable[[Any], list[str]]) -> int:
    """Print what holds on this machine. Returns the exit code: 0 if that is enough.

    Args:
        make: the class of the sandbox. attack: tries it, and gives what got through.
    """
    try:
        sandbox = make(num_workers=1, allow_missing_layers=True)
    except InputError as error:
        print(error)
        return 1
    with sandbox:
        missing = missing_layers(sandbox.layers)
        for name, version in sandbox.versions().items():
            print(f"{name:<14} {version}")
        for name, value in sandbox.layers.items():
            text = ", ".join(value) if isinstance(value, list) else {True: "yes", False: "no"}.get(value, value)
            required = "required" if name in REQUIRED_LAYERS else "a bonus"
            print(f"{name:<14} {required:<9} {text or 'none'}")
        problems = attack(sandbox) if "error" not in sandbox.layers else []
    for problem in problems:
        print(f"got through: {problem}")
    print(f"missing: {', '.join(missing)}" if missing else "the attacks of the self-test were tried")
    return 1 if missing or problems else 0


def run_probe(description: str, make: Callable[..., Sandbox], attack: Callable[[Any], list[str]]) -> int:
    """The command line of a sandbox's file. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--probe", action="store_true", help="print what holds on this machine, and try some attacks")
    if parser.parse_args().probe:
        return probe(make, attack)
    parser.print_help()
    return 2
