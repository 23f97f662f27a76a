"""task_difficulty.py, and the bounds on a task's pass rate that training takes."""

import json
from types import SimpleNamespace

import pytest

import task_difficulty
import train_grpo_lora
import train_ppo_lora
import train_rft_lora
import train_rl_lora
from common import InputError, sha256
from judging.pool import Verdict
from judging.tasks import read_tasks

TASK = {
    "prompt": "def f():\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(f): pass",
    "entry_point": "f",
}


def rated_file(path, *rates):
    lines = [TASK | {"task_id": str(n)} | ({} if rate is None else {"pass_rate": rate}) for n, rate in enumerate(rates)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def scored(index, *statuses):
    return [SimpleNamespace(task={"task_id": index}, group=index, verdict=Verdict(status, "")) for status in statuses]


def test_rates_are_shares_of_the_judged_answers():
    tasks = [TASK | {"task_id": name} for name in "abcd"]
    groups = [scored(2, "fail", "timeout"), scored(0, "pass", "fail", "pass", "infrastructure"),
              scored(3, "pass"), scored(1, "refused", "refused")]  # fmt: skip
    lines = task_difficulty.rated(tasks, groups)
    assert [(t["task_id"], t["pass_rate"], t["num_samples"]) for t in lines] == [
        ("a", 2 / 3, 3),
        ("c", 0, 2),
        ("d", 1, 1),
    ]
    assert task_difficulty.counts(tasks, lines) == {
        "tasks": 3,
        "tasks_unjudged": 1,
        "tasks_none_passing": 1,
        "tasks_all_passing": 1,
        "mean_pass_rate": pytest.approx(5 / 9),
        "tasks_by_pass_rate": {"0.000": 1, "0.667": 1, "1.000": 1},
    }


def test_the_file_is_the_same_but_for_the_rates(tmp_path, monkeypatch):
    source = rated_file(tmp_path / "t.jsonl", None, 0.5, None)
    drawn = []

    before = [json.loads(line) for line in open(source)][:2]
    measured = sha256(source)

    def draw(args, tasks, sandbox):
        drawn.append((args.num_samples, args.token_budget, [task["task_id"] for task in tasks]))
        rated_file(tmp_path / "t.jsonl", 1)  # somebody edits it meanwhile
        return [scored(1, "pass", "fail"), scored(0, "fail", "fail")]

    monkeypatch.setattr(task_difficulty, "draw_samples", draw)
    args = task_difficulty.Args(train_path=source, output_path=str(tmp_path / "o.jsonl"), num_samples=2, limit=2,
                                instruct=True)  # fmt: skip
    task_difficulty.main(args)
    assert drawn == [(2, 0, ["0", "1"])]
    after = [json.loads(line) for line in open(tmp_path / "o.jsonl")]
    assert after == [before[0] | {"pass_rate": 0.0, "num_samples": 2}, before[1] | {"pass_rate": 0.5, "num_samples": 2}]
    stats = json.loads((tmp_path / "o_stats.json").read_text())
    assert stats["tasks_none_passing"] == 1 and stats["train_sha256"] == measured
    assert {path.name for path in tmp_path.iterdir()} == {"t.jsonl", "o.jsonl", "o_stats.json"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output_path": "o.json"}, "must end in .jsonl"),
        ({"output_path": "data/humaneval_train.jsonl"}, "is the task file itself"),
        ({"num_samples": 0}, "--num_samples 0"),
        ({"temperature": 0.0}, "greedy samples are all alike"),
        ({"top_p": 0.0}, "--top_p 0.0"),
        ({"limit": -1}, "--limit -1"),
        ({"max_new_tokens": 1024}, "--max_length must be more"),
    ],
)
def test_bad_arguments(settings, says):
    with pytest.raises(InputError, match=says):
        task_difficulty.main(task_difficulty.Args(**settings))


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        ((0.0, 1.0), "01234"),
        ((0.25, 0.75), "123"),
        ((0.0, 0.25), "01"),
        ((0.75, 1.0), "34"),
        ((0.5, 0.5), "2"),
        ((0.0, 0.9), "0123"),
    ],
)
def test_the_bounds_are_part_of_the_range(tmp_path, bounds, names):
    path = rated_file(tmp_path / "t.jsonl", 0, 0.25, 0.5, 0.75, 1)
    assert "".join(task["task_id"] for task in read_tasks(path, pass_rates=bounds)) == names


@pytest.mark.parametrize("rate", [None, "0.5", True, -0.1, float("nan")])
def test_a_task_without_a_rate_is_an_error_only_with_a_bound(tmp_path, rate):
    path = rated_file(tmp_path / "t.jsonl", 0.5, rate)
    assert len(read_tasks(path)) == 2
    with pytest.raises(InputError, match=r"t.jsonl:2: task has no pass_rate .* python task_difficulty.py measures it"):
        read_tasks(path, pass_rates=(0.0, 0.9))


def test_no_task_in_the_range(tmp_path):
    path = rated_file(tmp_path / "t.jsonl", 0.5)
    with pytest.raises(InputError, match="has no tasks with a pass_rate from 0.6 to 1"):
        read_tasks(path, pass_rates=(0.6, 1.0))


class Read(Exception):
    pass


@pytest.mark.parametrize("script", [train_rl_lora, train_ppo_lora, train_grpo_lora, train_rft_lora])
def test_every_method_that_samples_takes_the_bounds(script, tmp_path, monkeypatch):
    def language_of(tasks, *_):
        raise Read([task["task_id"] for task in tasks])

    monkeypatch.setattr(script, "language_of", language_of)
    path = rated_file(tmp_path / "t.jsonl", 0, 0.25, 0.5, 1)
    with pytest.raises(Read) as read:
        script.main(script.Args(train_path=path, min_pass=0.25, max_pass=0.5))
    assert read.value.args == (["1", "2"],)
    for low, high in ((0.6, 0.5), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="want 0 <= min_pass <= max_pass <= 1"):
            script.main(script.Args(train_path=path, min_pass=low, max_pass=high))
