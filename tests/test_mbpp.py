"""MBPP's format, on tasks of our own: preparation, scoring, sampling."""

import ast
import json
import sys
import types

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "data"))

import prepare_humaneval
import prepare_mbpp
from prepare_mbpp import SPLITS, Args

import eval_humaneval
import generate_dpo_data
import train_rl_lora
from common import InputError
from judging.metrics import rates
from judging.tasks import MBPP_STOP_STRINGS, STOP_STRINGS, read_tasks, stop_strings, truncate_at_stop

SOURCE = "data/pocket_mbpp.jsonl"
RECORD = {"task_id": 601, "text": "Write it.", "code": "def f():\r\n\treturn 1\r\n", "test_setup_code": "",
          "test_list": ["assert f() == 1", "assert f() > 0"], "challenge_test_list": []}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mbpp")
    prepare_mbpp.main(Args(source=str(ROOT / SOURCE), name="pocket_mbpp", output_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def tasks(prepared):
    return [task for name in SPLITS for task in read_tasks(prepared / f"pocket_mbpp_{name}.jsonl")]


def source(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


# data/prepare_mbpp.py


def test_the_splits_are_the_papers(prepared):
    split = json.loads((prepared / "pocket_mbpp_split.json").read_text())
    counts = {name: split[name]["tasks"] for name in SPLITS}
    assert counts == {"train": 25, "test": 16, "validation": 4, "prompt": 2} and split["source"] == "pocket_mbpp.jsonl"
    for name, ids in SPLITS.items():
        part = read_tasks(prepared / f"pocket_mbpp_{name}.jsonl")
        assert [task["task_id"] for task in part] == [f"pocket_mbpp/{ids[0] + n}" for n in range(len(part))]
    assert [len(ids) for ids in SPLITS.values()] == [374, 500, 90, 10]


def test_a_task_is_what_the_bigcode_harness_makes_of_it(tmp_path):
    sanitized = {"source_file": "x", "task_id": 11, "prompt": "Write it too.", "code": "def g(): return 2",
                 "test_imports": ["import math"], "test_list": ["assert math.isclose(g(), 2)"]}  # fmt: skip
    path = tmp_path / "s.json"
    path.write_text(json.dumps([RECORD | {"test_setup_code": "one = 1\r\n"}, sanitized], indent=1))  # as it is shipped
    prepare_mbpp.main(Args(source=str(path), name="mbpp_some", output_dir=str(tmp_path)))
    (first,), (second,) = (read_tasks(tmp_path / f"mbpp_some_{name}.jsonl") for name in ("train", "test"))
    assert first == {
        "task_id": "Mbpp/601",
        "prompt": '"""\nWrite it.\nassert f() == 1\n"""\n',
        "canonical_solution": "def f():\n\treturn 1\n",
        "test_list": ["assert f() == 1", "assert f() > 0"],
        "test_setup_code": "one = 1",
    }
    assert second["prompt"] == '"""\nWrite it too.\nassert math.isclose(g(), 2)\n"""\n'
    assert (second["canonical_solution"], second["test_setup_code"]) == ("def g(): return 2\n", "import math")
    assert sorted(json.loads((tmp_path / "mbpp_some_split.json").read_text())) == ["source", "test", "train"]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([], "has no tasks"),
        ([RECORD], "has 1 of MBPP's 974 tasks; give the files another name with --name"),
        ([1], "record 1: wants a JSON object, not int"),
        ([RECORD, RECORD], "record 2: task_id 601 comes twice"),
        ([RECORD | {"task_id": "601"}], "record 1: task_id '601' is not a number from 1 to 974"),
        ([RECORD | {"task_id": 975}], "task_id 975 is not a number from 1 to 974"),
        ([RECORD | {"text": None}], "record 1: task 601 has no text field 'text' (or 'prompt')"),
        ([RECORD | {"code": None}], "task 601 has no text field 'code'"),
        ([RECORD | {"test_list": []}], "task 601: test_list must be a list of asserts"),
        ([RECORD | {"test_list": [1]}], "task 601: test_list must be a list of asserts"),
        ([RECORD | {"test_list": "assert f()"}], "task 601: test_list must be a list of asserts"),
        ([RECORD | {"test_imports": "import os"}], "test_imports must be a list of lines"),
    ],
)
def test_a_bad_source_replaces_nothing(tmp_path, records, says):
    (tmp_path / "mbpp_train.jsonl").write_text("precious")
    with pytest.raises(InputError) as error:
        prepare_mbpp.main(Args(source=source(tmp_path / "s.jsonl", *records), output_dir=str(tmp_path)))
    assert says in str(error.value) and "--source" in str(error.value)
    assert (tmp_path / "mbpp_train.jsonl").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"mbpp_train.jsonl", "s.jsonl"}


def test_the_full_set_comes_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(*name):
        asked.append(name)
        return {part: [RECORD | {"task_id": number} for number in ids] for part, ids in SPLITS.items()}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    prepare_mbpp.main(Args(output_dir=str(tmp_path)))
    assert asked == [("google-research-datasets/mbpp", "full")]
    assert [len(read_tasks(tmp_path / f"mbpp_{part}.jsonl")) for part in SPLITS] == [374, 500, 90, 10]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=None))
    with pytest.raises(InputError, match="mbpp cannot be loaded from the hub .*; give a local copy with --source FILE"):
        prepare_humaneval.read_source("", prepare_mbpp.HUB, "full")


# data/pocket_mbpp.jsonl


def test_no_task_comes_twice_and_every_one_is_written_out():
    records = [json.loads(line) for line in open(SOURCE)]
    assert len(records) >= 40
    for field in ("text", "code", "task_id"):
        assert len({record[field] for record in records}) == len(records)
    functions = [[node.name for node in ast.parse(record["code"]).body if isinstance(node, ast.FunctionDef)]
                 for record in records]  # fmt: skip
    assert all(len(names) == 1 for names in functions) and len({names[0] for names in functions}) == len(records)
    assert all(record["text"].startswith("Write a ") and len(record["test_list"]) >= 3 for record in records)


def test_every_solution_passes_and_an_empty_one_fails(sandbox, tasks):
    empty = []
    for task in tasks:
        tree = ast.parse(task["canonical_solution"])
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.body = [ast.Pass()]
        empty.append(ast.unparse(tree))
    right = sandbox.check_many((task, task["canonical_solution"]) for task in tasks)
    assert [task["task_id"] for task, v in zip(tasks, right, strict=True) if not v.passed] == []
    assert [(v.tests_passed, v.tests_total) for v in right] == [(len(task["test_list"]),) * 2 for task in tasks]
    wrong = sandbox.check_many(zip(tasks, empty, strict=True))
    assert [task["task_id"] for task, v in zip(tasks, wrong, strict=True) if v.status != "fail"] == []
    assert {sandbox.check(task, "").status for task in tasks[:2]} == {"no_entry_point"}
    for task in tasks:  # no solution is cut where completions are
        assert truncate_at_stop(task["canonical_solution"], stop_strings(task)) == task["canonical_solution"]


@pytest.mark.parametrize(
    ("name", "completion", "passed"),
    [
        ("balanced", "def balanced(text):\n    return text.count('(') == text.count(')')\n", [1, 1, 0, 1]),
        ("listed", "def listed(names):\n    return ', '.join(names[:-1]) + ' and ' + names[-1]\n", [1, 1, 0, 0]),
        ("clock_text", "def clock_text(m):\n    return f'{m // 60}:{m % 60:02d}'\n", [0, 0, 1]),
        ("swap_ends", "def swap_ends(i):\n    i[:1], i[-1:] = i[-1:], i[:1]\n    return i\n", [1, 1, 1, 0]),
        ("tree_sum", "class Node:\n    def __init__(self, v, c=()): self.v, self.c = v, c\n"
         "def tree_sum(n):\n    return n.v + sum(x.v for x in n.c)\n", [0, 1, 1]),
    ],
)  # fmt: skip
def test_every_test_is_credited_by_itself(sandbox, tasks, name, completion, passed):
    (task,) = [task for task in tasks if f"def {name}(" in task["canonical_solution"]]
    verdict = sandbox.check(task, completion)
    assert (verdict.status, verdict.tests_passed, verdict.tests_total) == ("fail", sum(passed), len(passed))


# evaluation and sampling


def test_an_evaluation_of_mbpp_tasks(prepared, tmp_path):
    path = prepared / "pocket_mbpp_test.jsonl"
    tasks = read_tasks(path)
    samples = [{"task_id": task["task_id"], "completion": task["canonical_solution"]} for task in tasks]
    samples[0]["completion"] += "\nprint(undefined)\n"  # right when cut
    samples[1]["completion"] = "def every_second(text):\n    return text and 'prd'\n"  # two of its three tests
    samples[2]["completion"] = "def by_price("  # a syntax error
    samples.append(samples[2] | {"completion": tasks[2]["canonical_solution"] + "\n\ndef helper():\n    return 1\n"})
    samples += [sample for sample in samples[:16] if sample is not samples[2]]  # two samples a task
    eval_humaneval.main(eval_humaneval.Args(data_path=str(path), samples=source(tmp_path / "s.jsonl", *samples),
                                            exp_name="x", results_dir=str(tmp_path)))  # fmt: skip
    metrics = json.loads((tmp_path / "x_metrics.json").read_text())
    rows = [json.loads(line) for line in open(tmp_path / "x_per_task.jsonl")]
    assert [rows[1][name] for name in ("passed", "tests_passed", "tests_total")] == [False, 2, 3]
    assert (rows[2]["tests_passed"], rows[2]["tests_total"]) == (0, 3)
    assert (metrics["num_samples"], metrics["num_pass"], metrics["num_pass_stopped"]) == (32, 27, 29)
    assert (metrics["success_rate"], metrics["success_rate_stopped"]) == (14 / 16, 15 / 16)
    assert metrics["test_pass_rate"] == pytest.approx((27 + 2 * 2 / 3) / 32)  # the print's two end before any test
    assert metrics["test_pass_rate_stopped"] == pytest.approx((29 + 2 * 2 / 3) / 32)
    assert metrics["pass_at_2"] == metrics["success_rate"] and not (tmp_path / "x_samples.jsonl").exists()


def test_test_pass_rate_counts_what_can_be_counted():
    row = {"task_id": "a", "passed": False, "tests_passed": None, "tests_total": None}
    rows = [row, row | {"passed": True}, row | {"tests_passed": 1, "tests_total": 4},
            row | {"passed": True, "tests_passed": 4, "tests_total": 4}]  # fmt: skip
    assert rates(rows, "")["test_pass_rate"] == (0 + 1 + 0.25 + 1) / 4


class Seen(Exception):
    pass


@pytest.mark.parametrize("script", ["train_rl_lora", "generate_dpo_data"])
def test_a_mixed_file_is_sampled_with_each_task_s_stop_strings(
    prepared, tasks_path, start, tmp_path, monkeypatch, script
):
    with open(tasks_path, "a") as file:
        file.writelines((prepared / "pocket_mbpp_validation.jsonl").read_text())

    def sampler(model, tokenizer, prompts, *, stops, **settings):
        raise Seen([('"""\nWrite a ' in tokenizer.decode(ids), stops[i]) for i, ids in enumerate(prompts)])

    monkeypatch.setattr("model.engine.generate", sampler)
    monkeypatch.setattr("training.sampler.generate", sampler)
    common = dict(train_path=tasks_path, sft_model=start, max_length=384, max_new_tokens=64, stop_at_strings=True)
    with pytest.raises(Seen) as seen:
        if script == "train_rl_lora":
            train_rl_lora.main(train_rl_lora.Args(output_dir=str(tmp_path / "out"), batch_size=10, **common))
        else:
            generate_dpo_data.main(generate_dpo_data.Args(output_path=str(tmp_path / "p.jsonl"), batch_size=40,
                                                          num_samples=4, **common))  # fmt: skip
    (pairs,) = seen.value.args
    assert sorted(listed for listed, _ in pairs) == [False] * 6 + [True] * 4
    assert all(stops == (MBPP_STOP_STRINGS if listed else STOP_STRINGS) for listed, stops in pairs)
