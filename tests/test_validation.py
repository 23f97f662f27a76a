"""Which adapter is kept, when a run ends early, what the learning curve is, and that measuring changes nothing else."""

import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sampled import sample

import train_grpo_lora
import train_ppo_lora
import train_rl_lora
from common import InputError
from judging.pool import Verdict
from judging.tasks import read_tasks
from model.load import load_policy, load_tokenizer
from model.sampling import encode_prompts
from train_rl_lora import Args
from training import run as training
from training.learning_curve import LearningCurve, area
from training.record import training_of

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
    """Verdicts of our own: of each measurement so many of its 6 (validation) or 12 (curve) samples pass, and one of the
    samples of a step does.

    Gives the numbers that are still to come. "gone": the machine dies.
    """
    rates: list = []

    def verdicts(drawn):
        passing = rates.pop(0) if len(drawn) in (6, 12) else 1
        if passing == "gone":
            raise RuntimeError("the machine went away")
        if passing is None:
            return [Verdict("infrastructure", "")] * len(drawn)
        return [Verdict("pass" if i < passing else "fail", "") for i in range(len(drawn))]

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
    assert log[0].items() > {"step": 0, "epoch": 0.0, "sampled_tokens": 0}.items() and len(log[0]) == 4
    assert "valid_pass_rate" not in log[4]
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


@pytest.mark.slow
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


CURVE = dict(valid_path="", keep_every=0, log_completions=1, curve_every=20, curve_samples=4, curve_tasks=3)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), min_size=2, max_size=9, unique_by=lambda p: p[0]))
def test_the_area_is_the_mean_height_of_the_line(points):
    points.sort()
    x, y = np.array(points).T
    assert area(points) == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]))
    middle = x[0] + (x[1] - x[0]) / 3  # one more point on the line changes nothing
    assert area(sorted([*points, (middle, np.interp(middle, x, y))])) == pytest.approx(area(points))


def test_the_area_of_uneven_points():
    assert area([(0, 0.2), (100, 0.6), (400, 0.6), (500, 0.0)]) == pytest.approx((40 + 180 + 30) / 500)
    assert area([(0, 0.2), (0, 0.4)]) == 0.4  # nothing was sampled


def test_a_point_is_due_when_enough_tokens_were_sampled():
    curve, due = LearningCurve("t.jsonl", [], [], 100), []
    for tokens in (0, 99, 100, 130, 350, 399, 400):  # a step may pass two bounds at once
        due.append(curve.due(tokens, last=False))
        if due[-1]:
            curve.note(tokens, [True], 1)
    assert due == [True, False, True, False, True, False, True] and curve.due(401, last=True)


@pytest.mark.parametrize("method", ["rl", "ppo", "grpo"])
def test_measuring_the_curve_changes_nothing_else(start, tasks_path, tmp_path, scripted, method):
    """Bit for bit: the adapter, what is logged, what was sampled and rewarded."""
    script = {"rl": train_rl_lora, "ppo": train_ppo_lora, "grpo": train_grpo_lora}[method]
    number = {"num_updates": 3, "ppo_epochs": 2} if method == "ppo" else {"num_steps": 3}
    ends = []
    for path in (tasks_path, ""):
        scripted[:] = [2, 3, 6]
        args = arguments(start, tasks_path, tmp_path / f"run{bool(path)}", script, **CURVE | number, curve_path=path)
        script.main(args)
        log = [{n: v for n, v in record.items() if not n.startswith("curve")} for record in read_log(args, method)]
        rows = (tmp_path / f"run{bool(path)}" / "completions.jsonl").read_text()
        spent = training_of(args.output_dir)["spent"]
        ends.append((weights(args.output_dir), [record for record in log if record["step"] > 0], rows, spent))
    assert same(ends[0][0], ends[1][0]) and ends[0][1:3] == ends[1][1:3] and len(ends[0][2].splitlines()) == 6
    assert not same(ends[0][0], weights(start)) and scripted == [2, 3, 6]  # there is something to change
    assert ends[0][3]["sampled_tokens"] == ends[1][3]["sampled_tokens"]
    assert ends[0][3].keys() - ends[1][3].keys() == {"area", "curve_seconds"}


def test_the_curve_is_over_the_tokens_of_the_training(start, tasks_path, tmp_path, scripted, monkeypatch):
    """12 tokens a step at most; its own seconds are not the training's."""
    seeds, now = [], 0.0
    judged, real = training.Sampler.passed, training.Sampler.generate

    def slow(*args, **how):
        nonlocal now
        now += 1000
        return judged(*args, **how)

    def spy(self, model, tasks, prompts, given, **how):
        seeds.append((how["num_samples"], how["temperature"], how["top_p"], given))
        return real(self, model, tasks, prompts, given, **how)

    monkeypatch.setattr(training.Sampler, "passed", slow)
    monkeypatch.setattr(training.Sampler, "generate", spy)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now))
    scripted += [3, 6, None, 9, 12]
    args = arguments(start, tasks_path, tmp_path / "rl", **CURVE, num_steps=7, curve_path=tasks_path, temperature=0.7,
                     top_p=0.9)  # fmt: skip
    train_rl_lora.main(args)
    log = read_log(args)
    tokens = [record["sampled_tokens"] for record in log]
    due = [at for at in range(1, 8) if tokens[at] // 20 > tokens[at - 1] // 20]
    points = [(r["sampled_tokens"], r["curve_pass_rate"]) for r in log if "curve_pass_rate" in r]
    assert [at for at, _ in points] == [0, *(tokens[at] for at in dict.fromkeys([*due[:1], *due[2:], 7]))]
    assert [rate for _, rate in points] == [0.25, 0.5, 0.75, 1.0] and scripted == []
    spent = training_of(args.output_dir)["spent"]
    x, y = np.array(points).T
    assert spent["area"] == pytest.approx(np.trapezoid(y, x) / tokens[-1])
    assert (spent["seconds"], spent["curve_seconds"], spent["sampled_tokens"]) == (0, 5000, tokens[-1])
    curve = [given for count, *how, given in seeds if (count, how) == (4, [1.0, 1.0])]
    trained = [given for count, *how, given in seeds if (count, how) == (2, [0.7, 0.9])]
    assert (len(curve), len(trained)) == (5, 7) and len(seeds) == 12
    drawn = [np.random.default_rng(seed).random() for call in curve + trained for seed in call]
    assert len(set(drawn)) == len(drawn) == 5 * 3 + 7


@pytest.mark.slow
def test_a_killed_run_has_the_curve_of_an_uninterrupted_one(start, tasks_path, tmp_path, scripted):
    settings = CURVE | dict(num_steps=6, save_every=1, curve_path=tasks_path, valid_path=tasks_path, patience=2)
    settings["curve_every"] = 10  # a point at each step
    whole, killed = (arguments(start, tasks_path, tmp_path / name, **settings) for name in ("whole", "killed"))
    rates = [1, 0, 2, 4, 3, 8, 2, 12, 1, 10]  # of validation and curve in turn
    scripted += rates
    train_rl_lora.main(whole)
    assert scripted == [] and read_log(whole)[-1]["curve_pass_rate"] == 10 / 12  # stopped early
    for some in ([*rates[:6], "gone"], [*rates[6:7], "gone"], rates[6:]):
        scripted[:] = some
        with pytest.raises(RuntimeError) if "gone" in some else contextlib.nullcontext():
            train_rl_lora.main(killed)
    assert read_log(killed) == read_log(whole)
    found = [training_of(args.output_dir)["spent"]["area"] for args in (killed, whole)]
    assert found[0] == found[1] == pytest.approx((0 / 2 + 4 + 8 + 12 + 10 / 2) / 12 / 4)


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


def test_rates_are_of_real_completions_and_verdicts(start, tasks_path, tmp_path, sandbox):
    test = "def check(candidate):\n    try:\n        candidate([])\n    except Exception:\n        pass\n"
    tasks = [task | {"test": test} for task in read_tasks(tasks_path)]  # passed by whatever is a program
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    args = arguments(start, tasks_path, tmp_path / "rl", num_steps=1, max_new_tokens=24, keep_every=0,
                     temperature=0.7, **dict.fromkeys(("valid_path", "curve_path"), str(tmp_path / "v.jsonl")),
                     curve_tasks=5, curve_samples=3)  # fmt: skip
    train_rl_lora.main(args)
    model, tokenizer = load_policy(start, torch.device("cpu")), load_tokenizer(start)
    prompts = encode_prompts(tokenizer, tasks, 384)
    seeds = [(args.seed, number, 0, 1) for number in range(5)]
    greedy = sample(model, tokenizer, prompts, max_new_tokens=24, temperature=0.0)
    drawn = sample(model, tokenizer, prompts[:5], max_new_tokens=24, temperature=1.0, num_samples=3, seeds=seeds)
    log = read_log(args)[0]
    for rollouts, name in ((greedy, "valid_pass_rate"), (drawn, "curve_pass_rate")):
        passed = [sandbox.submit(tasks[r.prompt_index], r.text).result().passed for r in rollouts]
        assert 0 < sum(passed) < len(passed)  # some are no program
        assert log[name] == pytest.approx(sum(passed) / len(passed))
    assert log["curve_tokens"] == sum(len(r.token_ids) for r in drawn)


def test_bad_settings_are_refused_at_once(tasks_path):
    for settings, says in [
        ({"patience": 1}, "--patience: needs validation tasks; give --valid_path"),
        ({"valid_every": 0}, "--valid_every 0: must be at least 1"),
        ({"keep_every": -1}, "--keep_every -1: must not be negative"),
        ({"valid_path": "none.jsonl"}, "none.jsonl: no such task file"),
        ({"curve_path": "none.jsonl"}, "none.jsonl: no such task file"),
        ({"curve_every": 0}, "--curve_every 0: must be at least 1"),
        ({"curve_samples": 0}, "--curve_samples 0: must be at least 1"),
        ({"curve_tasks": 0}, "--curve_tasks 0: must be at least 1"),
    ]:
        with pytest.raises(InputError, match=says):
            train_rl_lora.main(Args(train_path=tasks_path, **settings))
