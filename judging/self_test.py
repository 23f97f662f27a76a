"""Try attacks on a sandbox, before every training run and for `--probe`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from common import InputError
from judging.pool import REQUIRED_LAYERS, Sandbox, missing_layers


def wrong_verdicts(sandbox: Any, task: dict, attacks: Iterable[tuple], time_limit: float) -> list[str]:
    """Judge each (name, completion, right statuses) and return one line for each verdict that is wrong."""
    futures = [(name, right, sandbox.submit(task, completion, time_limit)) for name, completion, right in attacks]
    problems = []
    for name, right, future in futures:
        verdict = future.result()
        if verdict.status not in right:
            problems.append(f"{name}: {verdict.status} instead of {right[0]} ({verdict.reason})")
    return problems


def self_test(sandbox: Sandbox, attack: Callable[[Any], list[str]]) -> None:
    """Try a few attacks, which takes about a second; every training run starts with this.

    Args:
        attack: tries them and returns a line for each that got through; from `judging.python.attacks` or
            `judging.verilog.attacks`.

    Raises:
        InputError: an attack got through; the message names the first one.
    """
    if problems := attack(sandbox):
        raise InputError(f"the sandbox does not hold: {problems[0]}; --probe of sandbox.py or verilog.py tells more")


def probe(make: Callable[..., Sandbox], attack: Callable[[Any], list[str]]) -> int:
    """Print which layers of the sandbox hold on this machine, and try some attacks.

    Args:
        make: the class of the sandbox.
        attack: tries attacks and returns a line for each that got through.

    Returns:
        the exit code: 0 if every required layer holds and no attack got through, else 1.
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
    """Parse the command line of a sandbox's script, run `--probe` if asked to, and return the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--probe", action="store_true", help="print what holds on this machine, and try some attacks")
    if parser.parse_args().probe:
        return probe(make, attack)
    parser.print_help()
    return 2
