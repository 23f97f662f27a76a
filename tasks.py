"""Task files, and the one place that puts prompt, completion and test together.

A task is one JSON object per line with HumanEval's fields: `task_id`, `prompt` (imports, helpers, signature and
docstring of the function to complete), `canonical_solution` (its body), `test` (defines `check(candidate)`) and
`entry_point` (the function's name). In place of the last two there may be MBPP's `test_list` (asserts that call
functions by name) and `test_setup_code`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from common import InputError, read_jsonl

FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
MBPP_FIELDS = ("task_id", "prompt", "canonical_solution", "test_setup_code")

# Where the bigcode evaluation harness stops reading: what starts a new top-level statement (arXiv 2107.03374) and what
# some models end with. For MBPP the model writes whole functions, so `def` ends nothing there.
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
MBPP_STOP_STRINGS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")

Task = dict[str, Any]


def read_tasks(path: str | Path) -> list[Task]:
    """Read a JSONL task file.

    Raises:
        InputError: the file is missing, empty, or has a line that is not a task; names the file and the line.
    """
    tasks, seen = [], {}
    for where, task in read_jsonl(path, "task file; data/README.md says how each one is made"):
        check_task(task, where)
        if task["task_id"] in seen:
            raise InputError(f"{where}: task_id {task['task_id']!r} was already used at {seen[task['task_id']]}")
        seen[task["task_id"]] = where
        tasks.append(task)
    if not tasks:
        raise InputError(f"{path}: has no tasks")
    return tasks


def check_task(task: Task, where: str) -> None:
    """Raise InputError unless the object has a task's fields; `where` names its file and line."""
    listed = "test_list" in task
    for field in MBPP_FIELDS if listed else FIELDS:
        if not isinstance(task.get(field), str):
            raise InputError(f"{where}: task has no text field {field!r}")
    asserts = task.get("test_list")
    if listed and not (isinstance(asserts, list) and asserts and all(isinstance(test, str) for test in asserts)):
        raise InputError(f"{where}: test_list must be a list of asserts")
    if not listed and not task["entry_point"].isidentifier():
        raise InputError(f"{where}: entry_point {task['entry_point']!r} is not a Python name")


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, which names a data set in the metrics."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def candidate_source(task: Task, completion: str) -> str:
    """The program under test: what the model was given, and what it wrote.

    >>> candidate_source({"prompt": "def one():\\n"}, "    return 1")
    'def one():\\n\\n\\n    return 1'
    """
    return task["prompt"] + "\n\n" + completion


def test_source(task: Task) -> str:
    """The tests of a task of either kind, and the line that calls them; never shown to the program under test.

    >>> test_source({"test": "def check(f):\\n    assert f() == 1\\n", "entry_point": "one"})
    'def check(f):\\n    assert f() == 1\\n\\n\\ncheck(one)\\n'
    """
    if task.get("test_list"):
        return "\n".join([task.get("test_setup_code") or "", *task["test_list"]]) + "\n"
    return task["test"] + f"\n\ncheck({task['entry_point']})\n"


test_source.__test__ = False  # pytest takes the name for a test


def stop_strings(task: Task) -> tuple[str, ...]:
    """What ends a completion of this task: HumanEval's stop strings or MBPP's."""
    return MBPP_STOP_STRINGS if task.get("test_list") else STOP_STRINGS


def truncate_at_stop(completion: str, stops: tuple[str, ...]) -> str:
    r"""Cut a completion at the first of the stop strings, as the harnesses do.

    >>> truncate_at_stop("    return 1\n\nprint(one())", STOP_STRINGS)
    '    return 1\n'
    >>> truncate_at_stop("def one():\n    return 1\n\ndef two():", MBPP_STOP_STRINGS)
    'def one():\n    return 1\n\ndef two():'
    """
    cuts = [at for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(cuts)] if cuts else completion
