import json

import pytest

import eval_humaneval
from common import InputError, sha256
from eval_humaneval import Args, check
from judging.tasks import read_tasks
from model import load

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
        said = "75% of the completions were cut off at 256 tokens, before their program ended; raise --max_new_tokens"
        assert (said in capsys.readouterr().out) == (share > 0.5)


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
