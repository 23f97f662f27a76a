"""Find test tasks that a training task repeats, exactly or nearly.

    python overlap.py --train_path data/pocket_train.jsonl --data_path data/pocket_test.jsonl

Exact: the prompt or the solution is the same, apart from imports, the function's name and white space. Near: the two
tasks share 70% or more (Jaccard) of their runs of five tokens in prompt and solution together, without imports; tests
are left out.
results_table.py prints both for every table whose task files are present.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from common import printable, require, run_script
from judging.tasks import Task, read_tasks

TOKEN = re.compile(r"\w+|[^\w\s]")
IMPORT = re.compile(r"^(?:import [\w., ]+|from [\w.]+ import .*)$", re.MULTILINE)
WIDTH = 5  # tokens in a shingle (a run of consecutive tokens)


@dataclass
class Args:
    train_path: str = "data/humaneval_train.jsonl"  # tasks that a model was trained on
    data_path: str = "data/humaneval_test.jsonl"  # tasks to evaluate on
    near: float = 0.7  # two tasks are near if they share at least this part of their shingles
    config: str = ""  # YAML file with any of these; flags win over it


@dataclass
class Overlap:
    """The overlapping test tasks, each with the training task most similar to it, by task_id."""

    num_tasks: int
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str, float]] = field(default_factory=list)  # with their similarity, highest first

    def __str__(self) -> str:
        likest = f" (the likest {self.near[0][0]} and {self.near[0][1]}, {self.near[0][2]:.0%})" if self.near else ""
        names = f" ({', '.join(test for test, _ in self.exact[:5])})" if self.exact else ""
        return f"{len(self.exact)} exact{names}, {len(self.near)} near{likest}, of {self.num_tasks} tasks"


def tokens(task: Task, text: str) -> tuple[str, ...]:
    """Split a text of a task into tokens, with the name of the task's function replaced by "_".

    Imports are left out: all tasks of a data set may begin with the same ones, and other tasks with none.

    >>> tokens({"entry_point": "add"}, "import math\\ndef add(a):")
    ('def', '_', '(', 'a', ')', ':')
    """
    name = function_name(task)
    return tuple("_" if token == name else token for token in TOKEN.findall(IMPORT.sub("", text)))


def function_name(task: Task) -> str:
    """Return the name of a task's function: its `entry_point`, or what its first assert calls of its solution.

    >>> function_name({"canonical_solution": "def one():\\n    return 1\\n", "test_list": ["assert one() == 1"]})
    'one'
    """
    if "entry_point" in task or not task.get("test_list"):
        return task.get("entry_point", "")
    called = re.findall(r"(\w+)\s*\(", task["test_list"][0])
    defined = re.findall(r"^def (\w+)", task["canonical_solution"], re.MULTILINE)
    return next((name for name in defined if name in called), "")


def shingles(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[at : at + WIDTH] for at in range(max(1, len(words) - WIDTH + 1))}


def overlap(train: list[Task], test: list[Task], near: float = 0.7) -> Overlap:
    """Find the test tasks that overlap with training tasks; of several training tasks name the most similar.

    Args:
        near: the smallest Jaccard similarity of two near tasks.
    """
    known, where, sizes = {}, defaultdict(list), []
    for number, task in enumerate(train):
        for part in ("prompt", "canonical_solution"):
            if told := tokens(task, task[part]):  # a benchmark may publish no solutions
                known.setdefault((part, told), task["task_id"])
        pieces = shingles(tokens(task, task["prompt"] + task["canonical_solution"]))
        sizes.append(len(pieces))
        for piece in pieces:
            where[piece].append(number)
    found = Overlap(len(test))
    for task in test:
        same = [known.get((part, tokens(task, task[part]))) for part in ("prompt", "canonical_solution")]
        if any(same):
            found.exact.append((task["task_id"], same[0] or same[1]))
            continue
        pieces, shared = shingles(tokens(task, task["prompt"] + task["canonical_solution"])), defaultdict(int)
        for piece in pieces:
            for number in where.get(piece, ()):
                shared[number] += 1
        alike = {number: count / (len(pieces) + sizes[number] - count) for number, count in shared.items()}
        if alike and (best := max(alike, key=alike.get)) is not None and alike[best] >= near:
            found.near.append((task["task_id"], train[best]["task_id"], alike[best]))
    found.near.sort(key=lambda pair: -pair[2])
    return found


def asked_again(held_out: list[Task], tasks: list[Task], share: float = 0.8) -> list[tuple[str, str]]:
    """Find the tasks that ask a held-out task's question in its words, whatever their solutions and examples are.

    Returns:
        (task, held-out task) for each task whose prompt has at least `share` of the runs of five words in a held-out
        task's docstring up to its first example or assert.
    """
    where, sizes, found = defaultdict(list), [], []
    for number, task in enumerate(held_out):
        docstring = re.split("\"\"\"|'''", task["prompt"])[1::2]
        question = (
            re.split(r"^\s*(?:>>>|assert\b)", docstring[-1], maxsplit=1, flags=re.MULTILINE)[0] if docstring else ""
        )
        pieces = shingles(words(question))
        sizes.append(len(pieces))
        for piece in pieces:
            where[piece].append(number)
    for task in tasks:
        shared = Counter(number for piece in shingles(words(task["prompt"])) for number in where.get(piece, ()))
        again = next((number for number, count in shared.most_common() if count >= share * sizes[number]), None)
        if again is not None:
            found.append((task["task_id"], held_out[again]["task_id"]))
    return found


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def main(args: Args) -> None:
    require(0 < args.near <= 1, f"--near {args.near}: must be in (0, 1]")
    found = overlap(read_tasks(args.train_path), read_tasks(args.data_path), args.near)
    for test, train in found.exact:
        print(printable(f"exact: {test} is {train}"))
    for test, train, share in found.near:
        print(printable(f"near: {test} is {share:.0%} {train}"))
    print(printable(f"{args.data_path} in {args.train_path}: {found}"))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
