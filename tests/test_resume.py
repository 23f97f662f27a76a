"""Runs that are killed go on exactly; runs that cannot be right do not start."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

import rollout
import train_rl_lora
import training
from checkpoint import FiniteGuard
from common import InputError
from parity import check_parity
from rollout import encode_prompts, sample
from tasks import read_tasks
from train_rl_lora import Args

SPEEDS = ("sample_tokens_per_second", "score_checks_per_second", "train_tokens_per_second")


def command(start: str, out: Path, **settings) -> list[str]:
    flags = dict(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=out, max_length=384,
                 max_new_tokens=32, num_steps=50, batch_size=2, num_samples=2, baseline="rloo", learning_rate=1e-3,
                 save_every=2) | settings  # fmt: skip
    return ["train_rl_lora.py", *(str(part) for name, value in flags.items() for part in (f"--{name}", value))]


def outcome(out: Path) -> tuple[dict, list[dict]]:
    log = [json.loads(line) for line in (out / "rl_train_log.jsonl").read_text().splitlines()]
    for record in log:
        for name in SPEEDS:  # the only figures that two runs need not share
            record.pop(name)
    return load_file(out / "adapter_model.safetensors"), log


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(start, tmp_path):
    """SIGKILL at ten random moments, SIGTERM once, then to the end: adapter and log are bit-identical."""

    def run(out: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, *command(start, tmp_path / out)], cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip

    whole_run = run("whole")
    rng, codes, reached = random.Random(0), [], []
    for number in [signal.SIGKILL] * 5 + [signal.SIGTERM] + [signal.SIGKILL] * 5:
        process = run("killed")
        steps = (line for line in process.stdout if line.startswith("step "))
        for _ in range(rng.randint(1, 6)):
            reached.append(int(next(steps).split()[1]))
        time.sleep(rng.random() * 0.5)
        process.send_signal(number)
        process.communicate()
        codes.append(process.returncode)
    last = run("killed")
    assert "going on after step" in last.communicate()[0]
    whole_run.communicate()
    assert codes == [-signal.SIGKILL] * 5 + [75] + [-signal.SIGKILL] * 5
    assert len(set(reached)) < len(reached)  # steps were lost and made again

    (whole, whole_log), (killed, killed_log) = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert killed_log == whole_log and len(whole_log) == 50
    assert killed.keys() == whole.keys() and all(torch.equal(killed[name], whole[name]) for name in whole)
    assert not (tmp_path / "killed.partial").exists() and not (tmp_path / "killed" / "resume.pt").exists()


def test_sigterm_ends_the_step_and_says_how_to_go_on(start, tmp_path):
    run = subprocess.Popen([sys.executable, *command(start, tmp_path / "rl", num_steps=500)], cwd=ROOT, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    for line in run.stdout:
        if line.startswith("step 2 "):
            break
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 75 and "the same command goes on from there" in errors
    assert (tmp_path / "rl.partial" / "resume.pt").is_file() and not (tmp_path / "rl").exists()


def test_a_state_of_other_arguments_is_not_gone_on_from(start, tmp_path, monkeypatch, capsys):
    settings = dict(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl"),
                    max_length=384, max_new_tokens=16, num_steps=2, batch_size=1, num_samples=2,
                    save_every=1)  # fmt: skip
    monkeypatch.setattr(training, "RunLog", broken_log(after=1))
    with pytest.raises(RuntimeError):
        train_rl_lora.main(Args(**settings))
    assert (tmp_path / "rl.partial" / "resume.pt").is_file()
    monkeypatch.undo()
    os.chdir(ROOT)
    train_rl_lora.main(Args(**settings | {"learning_rate": 1e-4}))
    out = capsys.readouterr().out
    assert "is of a run with other arguments, tasks or code: starting anew" in out and "going on after" not in out
    assert len((tmp_path / "rl" / "rl_train_log.jsonl").read_text().splitlines()) == 2


def broken_log(after: int):
    class Broken(training.RunLog):
        def write(self, record, show=True):
            if record["step"] > after:
                raise RuntimeError("the machine went away")
            super().write(record, show)

    return Broken


@pytest.fixture(scope="module")
def sampled(pocket_policy):
    model, tokenizer = pocket_policy
    prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[:4], 256)
    rollouts = sample(model, tokenizer, prompts, max_new_tokens=24, temperature=0.8, num_samples=2,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    return model, rollouts


def test_a_right_sampler_is_let_through(sampled, capsys):
    model, rollouts = sampled
    assert check_parity(model, rollouts, 0.8) < 1e-3
    assert "sampler and trainer differ by" in capsys.readouterr().out


def test_dropout_left_on_is_caught(sampled):
    model, rollouts = sampled
    model.train()
    try:
        with pytest.raises(InputError, match="differ from the trainer's"):
            check_parity(model, rollouts, 0.8)
    finally:
        model.eval()


def test_a_wrong_temperature_is_caught(sampled):
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(*sampled, 1.0)


def test_a_shifted_log_prob_is_caught(sampled):
    model, rollouts = sampled
    shifted = [rollout.Rollout(**vars(r) | {"logprobs": r.logprobs[1:] + [0.0]}) for r in rollouts]
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(model, shifted, 0.8)


def test_a_log_prob_that_is_no_number_is_caught(sampled):
    model, rollouts = sampled
    broken = [rollout.Rollout(**vars(r) | {"logprobs": [float("nan")] * len(r.logprobs)}) for r in rollouts]
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(model, broken, 0.8)


def test_five_bad_updates_in_a_row_end_the_run(tmp_path):
    guard, nan, batch = FiniteGuard(tmp_path), float("nan"), [{"task_id": "a", "completion": "b"}]
    assert [guard.allows(nan, 1.0, batch) for _ in range(4)] == [False] * 4
    assert guard.allows(1.0, 1.0, batch) and guard.skipped == 4
    for _ in range(4):
        assert not guard.allows(1.0, float("inf"), batch)
    with pytest.raises(InputError, match="not finite in 5 updates in a row"):
        guard.allows(nan, 1.0, batch)
    assert json.loads((tmp_path / "nonfinite_batch.jsonl").read_text()) == batch[0]


def test_a_dry_run_keeps_nothing(start, tmp_path, capsys):
    train_rl_lora.main(
        Args(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl"), max_length=384,
             max_new_tokens=16, batch_size=2, dry_run=True)
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "dry run: peak memory" in out and "parity:" in out and "saved" not in out
    assert list(tmp_path.iterdir()) == []
