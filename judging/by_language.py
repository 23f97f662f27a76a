"""Open the sandbox for the language of a run's tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from common import require
from judging.pool import Sandbox, Verdict
from judging.python import attacks as python_attacks
from judging.self_test import self_test
from judging.tasks import Task, language_of
from judging.verilog import attacks as verilog_attacks
from judging.verilog.pool import VerilogSandbox
from judging.verilog.reasoning import ReasoningJudge

ALL_OR_NOTHING = ("unit_test", "shaped")  # these rewards do not ask how many of a program's inputs passed


@contextlib.contextmanager
def open_sandbox(args: Any, tasks: list[Task], tested: bool = True) -> Iterator[Sandbox]:
    """Yield a sandbox that judges completions of these tasks.

    Args:
        args: the script's arguments; `judge_url` and `judge_model` name a model that scores explanations of Verilog.
        tested: print the sandbox's layers, and run its self-test first unless --allow_missing_layers is set. A
            completion must not be able to forge its reward.

    Raises:
        InputError: the sandbox does not hold on this machine, it needs a program that is missing, or an argument
            does not apply to this language.
    """
    url = getattr(args, "judge_url", "")
    if language_of(tasks) == "verilog":
        require(not args.allow_weak_tests, "--allow_weak_tests: does not apply to Verilog; leave it out")
        judge = ReasoningJudge(url, args.judge_model) if url else None
        sandbox = VerilogSandbox(args.time_limit, allow_missing_layers=args.allow_missing_layers, judge=judge)
    else:
        require(not url, "--judge_url: a judge model reads explanations of Verilog, and these tasks are in Python")
        judge = None
        packages = tuple(filter(None, args.packages.split(",")))
        sandbox = Sandbox(args.time_limit, allow_weak_tests=args.allow_weak_tests, packages=packages,
                          allow_missing_layers=args.allow_missing_layers, total_limit=args.total_limit,
                          compare=args.compare, tolerance=args.tolerance,
                          count_all=getattr(args, "reward", "") not in ALL_OR_NOTHING)  # fmt: skip
    with sandbox:
        if tested and not args.allow_missing_layers:
            attacks = verilog_attacks if language_of(tasks) == "verilog" else python_attacks
            self_test(sandbox, attacks.attack)
        if tested:
            print("sandbox: " + ", ".join(name for name, held in sandbox.layers.items() if held))
        yield sandbox
    if judge and judge.asked:
        print(f"judge model: {judge.asked} explanations read, {judge.unreached} got no answer, "
              f"{judge.unread} got an answer without a score")  # fmt: skip


def require_judged(verdicts: Iterable[tuple[str, Verdict]], what: str) -> None:
    """Raise InputError if the tests of every task are refused: then there is no pass rate and nothing to learn from.

    Args:
        verdicts: pairs of task_id and verdict. Failures of the sandbox are ignored.
        what: the task file, for the message.

    >>> require_judged([(name, Verdict("refused", "no check")) for name in "aab"], "t.jsonl")
    Traceback (most recent call last):
        ...
    common.arguments.InputError: t.jsonl: the tests of all 2 tasks tried are refused: a (no check); b (no check); ...
    """
    refused: dict[str, str] = {}
    for name, verdict in verdicts:
        if verdict.judged:
            return
        if verdict.status == "refused":
            refused.setdefault(name, verdict.reason)
    few = [f"{name} ({reason})" for name, reason in refused.items()][:3]
    more = [f"and {len(refused) - 3} more"] if len(refused) > 3 else []
    require(not refused, f"{what}: the tests of all {len(refused)} tasks tried are refused: {'; '.join(few + more)}; "
            "docs/sandbox.md says which tests can be used, and what --allow_weak_tests does")  # fmt: skip
