"""Measure how clean code is with ruff, a linter that reads code and never runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from common import InputError, require
from judging.tasks import Task, before

RULES = ("--select=E,F,W,B,C4,SIM", "--ignore=B905")  # B905 wants strict= in every zip
# Findings must depend only on the code: no settings file, no noqa comments, one version of the language.
OPTIONS = ("--isolated", "--no-cache", "--ignore-noqa", f"--target-version=py3{sys.version_info.minor}")
OUTPUT = ("--quiet", "--exit-zero", "--output-format=concise", "--stdin-filename=program.py", "-")
FINDING = re.compile(rb"^program\.py:(\d+):\d+: ([\w-]+)", re.MULTILINE)
AGAIN = ("F811", "E402")  # a name is defined a second time; an import is not at the top
LIMIT_SECONDS, LIMIT_BYTES = 5.0, 1 << 20  # per program; each of many messages may quote all of the code


def quality_measure() -> Callable[[list[tuple[Task, str]]], list[float]]:
    """Return a function that gives each (task, completion) a quality in [0, 1].

    The quality is 1 / (1 + findings on the completion's lines), or 0 if ruff cannot read the program or does not
    finish. Each program has its own ruff process, because deeply nested code overflows ruff's stack.

    Raises:
        InputError: ruff is not installed, or does not run.
    """
    try:
        from ruff import find_ruff_bin

        command = [find_ruff_bin(), "check", *OPTIONS, *RULES, *OUTPUT]
    except (ImportError, FileNotFoundError):
        raise InputError("--reward shaped: ruff is not installed; .venv/bin/pip install ruff==0.17.5") from None
    require(lint(command, "pass\n") == [], f"--reward shaped: ruff does not run here: {' '.join(command)}")

    def measure(pairs: list[tuple[Task, str]]) -> list[float]:
        wanted = [(before(task, code), code, bool(task.get("instruct"))) for task, code in pairs]
        programs = set(wanted)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = dict(zip(programs, pool.map(lambda program: quality(command, *program), programs), strict=True))
        unread = sum(value is None for value in found.values())
        if unread:
            print(f"note: ruff could not read {unread} of {len(found)} programs that pass: quality 0")
        return [found[program] or 0.0 for program in wanted]

    return measure


def quality(command: list[str], before: str, completion: str, whole: bool = False) -> float | None:
    """Return the quality in (0, 1] of a completion that follows `before`; None if ruff could not read the program.

    Args:
        command: how to call ruff.
        whole: the completion was asked to define everything, so repeating names and imports of `before` is no finding.
    """
    findings = lint(command, before + completion + "\n")
    if findings is None or any(rule == "invalid-syntax" for _, rule in findings):
        return None
    first = len(re.split("\r\n|\r|\n", before))  # the line where the completion begins; ruff counts lines like this
    return 1 / (1 + sum(line >= first and not (whole and rule in AGAIN) for line, rule in findings))


def lint(command: list[str], source: str) -> list[tuple[int, str]] | None:
    """Return line and rule of each finding; None if ruff failed, took too long or printed too much."""
    with tempfile.TemporaryFile() as file:
        file.write(source.encode(errors="replace"))
        file.seek(0)
        try:
            ruff = subprocess.Popen(
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={}
            )
        except OSError:
            return None
        with ruff:
            timer = threading.Timer(LIMIT_SECONDS, ruff.kill)
            timer.start()
            said = ruff.stdout.read(LIMIT_BYTES)
            if len(said) == LIMIT_BYTES:
                ruff.kill()
            ruff.wait()
            timer.cancel()
    if ruff.returncode != 0:
        return None
    return [(int(line), rule.decode()) for line, rule in FINDING.findall(said)]
