"""Which adapter is kept, when a run ends early, and that validating changes nothing else."""

import contextlib
import json
import os
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from sampled import sample

import train_ppo_lora
import train_rl_lora
from common import InputError
from judging.pool import Verdict
from judging.tasks import read_tasks
from model.load import load_policy, load_tokenizer
from model.sampling import encode_prompts
from train_rl_lora import Args
from training import run as training

TIMES = ("sample_tokens_per_second", "score_seconds", "train_tokens_per_second")


def arguments(start, tasks_path, out, script=train_rl_lora, **settings):
    base = dict(train_path=tasks_path, sft_model=start, output_dir=str(out), max_length=384, max_new_tokens=6,
                num_samples=2, batch_size=1, learning_rate=1e-3, valid_path=tasks_path, valid_every=1,
                keep_every=1)  # fmt: skip
    return script.Args(**base | settings)


def weights(*path: str) -> dict[str, torch.Tensor]:
    return load_file(os.path.join(*map(str, path), "adapter_model.safetensors"))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def read_log(args, method="rl") -> list[dict]:
    log = [json.loads(line) for line in open(f"{args.output_dir}/{method}_train_log.jsonl")]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in log]


@pytest.fixture
def scripted(monkeypatch):
    """Verdicts of our own: of each validation so many of its 6 tasks pass, and every other sample of a step does.

    Gives the numbers that are still to come. "gone": the machine dies.
    """
    rates: list = []

    def verdicts(drawn):
        passing = rates.pop(0) if len(drawn) == 6 else 1
        if passing == "gone":
            raise RuntimeError("the machine went away")
        if passing is None:
            return [Verdict("infrastructure", "")] * len(drawn)
        return [Verdict("pass" if i < passing else "fail", "") for i in range(len(drawn))]

    monkeypatch.setattr(training, "verdicts", verdicts)
    monkeypatch.setattr("training.sampler.verdicts", verdicts)
    idle = SimpleNamespace(layers={}, submit=lambda task, completion: None)  # the real one costs seconds a run
    monkeypatch.setattr(training, "open_sandbox", lambda args, tasks: contextlib.nullcontext(idle))
    return rates


def test_patience_ends_a_run_with_the_best_adapter(start, tasks_path, tmp_path, scripted, capsys):
    scripted += [1, 2, 4, 4, None, 3, 6]  # steps 0 to 6: the best is of step 2; of step 4 nothing could be judged
    args = arguments(start, tasks_path, tmp_path / "rl", num_steps=9, patience=2)
    train_rl_lora.main(args)
    log = read_log(args)
    assert [record["step"] for record in log] == [0, 1, 2, 3, 4, 5]
    rates = [record.get("valid_pass_rate") for record in log]
    assert rates == [pytest.approx(n / 6) if n else None for n in (1, 2, 4, 4, None, 3)]
    assert log[0].keys() == {"step", "valid_pass_rate"} and "valid_pass_rate" not in log[4]
    assert same(weights(args.output_dir), weights(args.output_dir, "step_2"))  # of equal rates the first
    assert same(weights(args.output_dir, "last"), weights(args.output_dir, "step_5"))
    assert not same(weights(args.output_dir), weights(args.output_dir, "last"))
    said = capsys.readouterr().out
    assert "kept: step 2, which passes 66.7% of the validation tasks; the last, step 5, passes 50.0%" in said
    assert "step 0  0%  valid pass 16.7%" in said and "step 4: no validation completion could be judged" in said


def test_a_run_that_only_gets_worse_keeps_its_start(start, tasks_path, tmp_path, scripted):
    scripted += [3, 2, 1]
    args = arguments(start, tasks_path, tmp_path / "rl", num_steps=3, valid_every=2, log_every=9)
    train_rl_lora.main(args)  # validated at 0, 2 and, for it is the end, 3
    assert scripted == [] and [r["step"] for r in read_log(args) if "valid_pass_rate" in r] == [0, 2, 3]
    assert same(weights(args.output_dir), weights(start))


def test_the_critic_is_of_the_same_step_as_the_policy(start, tasks_path, tmp_path, scripted):
    scripted += [0, 1, 0]
    settings = dict(num_updates=2, ppo_epochs=1, value_coef=0.5, ratio_level="token")
    args = arguments(start, tasks_path, tmp_path / "ppo", train_ppo_lora, **settings)
    train_ppo_lora.main(args)
    one = arguments(start, tasks_path, tmp_path / "one", train_ppo_lora, **settings | {"num_updates": 1})
    scripted += [0, 1]
    train_ppo_lora.main(one)
    assert same(weights(args.output_dir), weights(one.output_dir)) and not (tmp_path / "one" / "last").exists()
    kept, wanted, last = (load_file(tmp_path / f"{name}/critic.safetensors") for name in ("ppo", "one", "ppo/last"))
    assert same(kept, wanted) and not same(kept, last)


def test_validating_changes_nothing_else(start, tasks_path, tmp_path, scripted):
    """Bit for bit: with validation that keeps the last, and without any."""
    ends = []
    for path in (tasks_path, ""):
        scripted[:] = [0, 1, 2, 3]
        args = arguments(start, tasks_path, tmp_path / f"rl{bool(path)}", num_steps=3, valid_path=path, keep_every=0)
        train_rl_lora.main(args)
        log = [{n: v for n, v in record.items() if n != "valid_pass_rate"} for record in read_log(args)]
        ends.append((weights(args.output_dir), [record for record in log if record["step"] > 0]))
    assert same(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


def test_a_killed_run_keeps_what_an_uninterrupted_one_does(start, tasks_path, tmp_path, scripted):
    """Killed after a better adapter was found and before the state was saved, and once more thereafter."""
    settings = dict(num_steps=8, save_every=2, patience=3, keep_every=0, log_completions=1)
    whole = arguments(start, tasks_path, tmp_path / "whole", **settings)
    scripted += [1, 0, 2, 5, 4, 4, 3]
    train_rl_lora.main(whole)
    killed = arguments(start, tasks_path, tmp_path / "killed", **settings)
    for rates in ([1, 0, 2, 5, "gone"], [5, 4, 4, "gone"], [4, 3]):
        scripted[:] = rates
        if "gone" in rates:
            with pytest.raises(RuntimeError):
                train_rl_lora.main(killed)
        else:
            train_rl_lora.main(killed)
    assert read_log(killed) == read_log(whole) and read_log(whole)[-1]["step"] == 6
    for folder in (".", "last"):
        assert same(weights(killed.output_dir, folder), weights(whole.output_dir, folder))
    texts = [(tmp_path / name / "completions.jsonl").read_text() for name in ("killed", "whole")]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 12


def test_other_validation_tasks_make_another_run(start, tasks_path, tmp_path, scripted, capsys):
    settings = dict(num_steps=2, save_every=1)
    scripted += [1, 1, "gone"]
    with pytest.raises(RuntimeError):
        train_rl_lora.main(arguments(start, tasks_path, tmp_path / "rl", **settings))
    lines = (ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()[1:7]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    scripted[:] = [1, 1, 1]
    train_rl_lora.main(arguments(start, tasks_path, tmp_path / "rl", **settings))
    assert "of a run with other sha256 of t.jsonl, sha256 of valid_path" in capsys.readouterr().out


def test_the_rate_is_of_greedy_completions_and_real_verdicts(start, tasks_path, tmp_path, sandbox):
    test = "def check(candidate):\n    try:\n        candidate([])\n    except Exception:\n        pass\n"
    tasks = [task | {"test": test} for task in read_tasks(tasks_path)]  # passed by whatever is a program
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    args = arguments(start, tasks_path, tmp_path / "rl", num_steps=1, max_new_tokens=24, keep_every=0,
                     temperature=0.7, valid_path=str(tmp_path / "v.jsonl"))  # fmt: skip
    train_rl_lora.main(args)
    model, tokenizer = load_policy(start, torch.device("cpu")), load_tokenizer(start)
    rollouts = sample(model, tokenizer, encode_prompts(tokenizer, tasks, 384), max_new_tokens=24, temperature=0.0)
    passed = [sandbox.submit(task, r.text).result().passed for task, r in zip(tasks, rollouts, strict=True)]
    assert 0 < sum(passed) < 6  # some are no program
    assert read_log(args)[0]["valid_pass_rate"] == pytest.approx(sum(passed) / 6)


def test_bad_settings_are_refused_at_once(tasks_path):
    for settings, says in [
        ({"patience": 1}, "--patience: needs validation tasks; give --valid_path"),
        ({"valid_every": 0}, "--valid_every 0: must be at least 1"),
        ({"keep_every": -1}, "--keep_every -1: must not be negative"),
        ({"valid_path": "none.jsonl"}, "none.jsonl: no such task file"),
    ]:
        with pytest.raises(InputError, match=says):
            train_rl_lora.main(Args(train_path=tasks_path, **settings))
