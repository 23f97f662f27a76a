"""Write verilog_train.jsonl and verilog_test.jsonl: Verilog modules to write, in three levels of detail.

    python data/make_verilog_tasks.py

The problems are in the tables verilog_{combinational,arithmetic,sequential,serial,machines,storage}.py. A quarter of
each category is held out for the test split.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from pathlib import Path

import verilog_arithmetic
import verilog_combinational
import verilog_machines
import verilog_sequential
import verilog_serial
import verilog_storage
from verilog_testbench import Problem, header, solution, testbench

SEED = 42
TABLES = (
    verilog_combinational,
    verilog_arithmetic,
    verilog_sequential,
    verilog_serial,
    verilog_machines,
    verilog_storage,
)
PROBLEMS: list[Problem] = [problem for table in TABLES for problem in table.PROBLEMS]


def split_problems() -> dict[str, list[Problem]]:
    """Split into train and test: a quarter of each shuffled category (at least one problem) goes to test."""
    splits: dict[str, list[Problem]] = {"train": [], "test": []}
    for category in dict.fromkeys(problem.category for problem in PROBLEMS):
        members = [problem for problem in PROBLEMS if problem.category == category]
        random.Random(f"{SEED} {category}").shuffle(members)
        held_out = max(1, len(members) // 4)
        splits["test"] += members[:held_out]
        splits["train"] += members[held_out:]
    return splits


def make_task(problem: Problem) -> dict[str, str | bool]:
    task: dict[str, str | bool] = {
        "task_id": f"verilog/{problem.name}",
        "language": "verilog",
        "category": problem.category,
        "prompt_terse": prompt(problem, problem.terse),
        "prompt": prompt(problem, problem.normal),
        "prompt_detailed": prompt(problem, problem.detailed),
        "explanation": inspect.cleandoc(problem.detailed),
        "canonical_solution": solution(problem),
        "test": testbench(problem),
        "top_module": problem.name,
    }
    return task | ({"latches": True} if problem.latches else {})


def prompt(problem: Problem, description: str) -> str:
    comment = "".join(f"// {line}".rstrip() + "\n" for line in inspect.cleandoc(description).splitlines())
    return comment + header(problem)


def main() -> None:
    here = Path(__file__).parent
    for split, problems in split_problems().items():
        text = "".join(json.dumps(make_task(problem)) + "\n" for problem in problems)
        (here / f"verilog_{split}.jsonl").write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        print(f"data/verilog_{split}.jsonl  {len(problems)} tasks  sha256 {digest}")


if __name__ == "__main__":
    main()
