"""Runs that are killed go on exactly, and stop when they are asked to."""

import itertools
import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

import train_grpo_lora
import train_ppo_lora
import train_rl_lora
from common import InputError
from train_rl_lora import Args
from training import run as training
from training.resume import FiniteGuard

SPEEDS = ("sample_tokens_per_second", "score_seconds", "train_tokens_per_second")


STEPS = 36
SHORT = dict(max_new_tokens=12, save_every=2)
METHODS = {
    "rl": dict(num_steps=STEPS, num_samples=2, baseline="rloo", prompt_selection="solved", solved_after=2, recheck=0.2,
               **SHORT),
    "ppo": dict(num_updates=STEPS, num_samples=2, ppo_epochs=2, minibatch_size=3, value_coef=0.5, ratio_level="token",
                lr_scheduler_type="linear", kl_coef=0.05, **SHORT),
    "grpo": dict(num_steps=STEPS, num_samples=4, num_iterations=2, minibatch_size=5, dynamic_sampling=True,
                 prompt_selection="half", **SHORT),
    "rft": dict(num_steps=STEPS, num_samples=4, num_epochs=2, minibatch_size=2, max_kept=1, stop_at_strings=True,
                **SHORT | {"max_new_tokens": 32}),
}  # fmt: skip


def command(method: str, tasks: str, start: str, out: Path, **settings) -> list[str]:
    flags = dict(train_path=tasks, sft_model=start, output_dir=out, max_length=384,
                 max_new_tokens=32, batch_size=2, learning_rate=1e-3) | METHODS[method] | settings  # fmt: skip
    words = ([f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in flags.items())
    return [f"train_{method}_lora.py", *(word for pair in words for word in pair)]


@pytest.fixture
def few_tasks(tmp_path) -> str:
    """40 tasks: a run draws each more than once, and reads fewer when it starts."""
    lines = (ROOT / "data" / "pocket_train.jsonl").read_text().splitlines(keepends=True)[:40]
    (tmp_path / "few.jsonl").write_text("".join(lines))
    return str(tmp_path / "few.jsonl")


def outcome(method: str, out: Path) -> tuple[dict, list[dict]]:
    log = [json.loads(line) for line in (out / f"{method}_train_log.jsonl").read_text().splitlines()]
    for record in log:
        for name in SPEEDS:  # the only figures that two runs need not share
            record.pop(name)
    weights = load_file(out / "adapter_model.safetensors")
    if (out / "critic.safetensors").is_file():
        weights |= load_file(out / "critic.safetensors")
    return weights, log


def start_script(words: list[str], pipe: Path):
    """Gives the process and its output. It is forked from a server that has the libraries imported: seconds a start."""
    os.mkfifo(pipe)
    process = forked.start(words, pipe, os.devnull)
    return process, pipe.open()


def kill_and_go_on(method: str, tasks: str, start: str, folder: Path) -> tuple[list[int], list[int], str]:
    """A whole run, and one that is killed eleven times; gives exit codes, steps reached, and the last run's output."""
    pipes = (folder.with_name(f"{method}{n}") for n in itertools.count())
    whole, output = start_script(command(method, tasks, start, folder / "whole"), next(pipes))
    output.read()
    whole.join()
    rng, codes, reached = random.Random(0), [], []
    for number in [signal.SIGKILL] * 5 + [signal.SIGTERM] + [signal.SIGKILL] * 5:
        process, output = start_script(command(method, tasks, start, folder / "killed"), next(pipes))
        steps = (line for line in output if line.startswith("step "))
        for _ in range(rng.randint(1, 3)):  # 23 in all, and one a sleep: the run is not over, however fast the machine
            started = time.perf_counter()
            reached.append(int(next(steps).split()[1]))
        time.sleep(rng.random() * min(0.5, time.perf_counter() - started))
        os.kill(process.pid, number)
        output.read()
        process.join()
        codes.append(process.exitcode)
    process, output = start_script(command(method, tasks, start, folder / "killed"), next(pipes))
    last = output.read()
    process.join()
    return codes, reached, last


@pytest.mark.slow
def test_killed_runs_end_as_uninterrupted_ones(few_tasks, start, tmp_path, monkeypatch):
    """SIGKILL at ten random moments, SIGTERM once, then to the end: weights and log are bit-identical."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with ThreadPoolExecutor() as pool:  # the methods beside each other
        ran = list(pool.map(lambda method: kill_and_go_on(method, few_tasks, start, tmp_path / method), METHODS))
    for method, (codes, reached, last) in zip(METHODS, ran, strict=True):
        assert "resuming after step" in last and "parity:" in last.partition("resuming after step")[2]
        codes = [-signal.SIGKILL if code == 255 else code for code in codes]  # 255: the fork server was late to say so
        assert codes == [-signal.SIGKILL] * 5 + [75] + [-signal.SIGKILL] * 5
        assert len(set(reached)) < len(reached)  # steps were lost and made again

        whole, whole_log = outcome(method, tmp_path / method / "whole")
        killed, killed_log = outcome(method, tmp_path / method / "killed")
        assert killed_log == whole_log and len(whole_log) == STEPS
        assert killed.keys() == whole.keys() and all(torch.equal(killed[name], whole[name]) for name in whole)
        assert ("weight" in whole) is (method == "ppo")  # the critic's
        assert not (tmp_path / method / "killed.partial").exists()
        assert not (tmp_path / method / "killed" / "resume.pt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stop_request_ends_the_step_and_says_how_to_go_on(few_tasks, start, tmp_path, number):
    os.mkfifo(tmp_path / "pipe")
    words = command("rl", few_tasks, start, tmp_path / "rl", num_steps=500)
    process = forked.start(words, tmp_path / "pipe", tmp_path / "errors")
    with (tmp_path / "pipe").open() as output:
        next(line for line in output if line.startswith("step 2 "))
        os.kill(process.pid, number)
        output.read()
    process.join(60)
    assert process.exitcode == 75 and "the same command resumes from there" in (tmp_path / "errors").read_text()
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
    assert "is of a run with other learning_rate: set aside as rl.interrupted; its own command goes on with it" in out
    assert "resuming after" not in out and (tmp_path / "rl.interrupted" / "resume.pt").is_file()  # not lost
    assert len((tmp_path / "rl" / "rl_train_log.jsonl").read_text().splitlines()) == 2

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=1))
        train_rl_lora.main(Args(**settings | {"learning_rate": 1e-3}))
    train_rl_lora.main(Args(**settings | {"learning_rate": 1e-4}))
    assert "set aside as rl.interrupted2" in capsys.readouterr().out and (tmp_path / "rl.interrupted").is_dir()
    (tmp_path / "rl.partial").mkdir()  # a run that was killed before it saved anything
    train_rl_lora.main(Args(**settings))
    assert "resuming after step 1" in capsys.readouterr().out and not (tmp_path / "rl.interrupted").exists()
    (tmp_path / "rl.interrupted").mkdir()
    (tmp_path / "rl.interrupted" / "resume.pt").write_bytes(b"damaged")
    train_rl_lora.main(Args(**settings | {"learning_rate": 1e-3}))
    assert "resuming after step 1" in capsys.readouterr().out and not (tmp_path / "rl.interrupted2").exists()
    assert (tmp_path / "rl.interrupted").is_dir()


def test_a_run_that_is_killed_at_its_very_end_is_not_trained_again(start, tmp_path, monkeypatch, capsys):
    settings = dict(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl"),
                    max_length=384, max_new_tokens=16, num_steps=2, batch_size=1, num_samples=2,
                    save_every=1)  # fmt: skip

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "finish_record", killed)
        train_rl_lora.main(Args(**settings))
    capsys.readouterr()
    train_rl_lora.main(Args(**settings))
    out = capsys.readouterr().out
    assert "resuming after step 2" in out and "step 1 " not in out
    assert len((tmp_path / "rl" / "rl_train_log.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "rl" / "resume.pt").exists()


def test_a_damaged_state_is_one_line(start, tmp_path):
    (tmp_path / "rl.partial").mkdir()
    (tmp_path / "rl.partial" / "resume.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"resume.pt: cannot be read \([^\n]*\); --no_resume starts anew"):
        train_rl_lora.main(Args(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl")))
    assert (tmp_path / "rl.partial" / "resume.pt").is_file()


def broken_log(after: int):
    class Broken(training.RunLog):
        def write(self, record):
            if record["step"] > after:
                raise RuntimeError("the machine went away")
            super().write(record)

    return Broken


def test_five_bad_updates_in_a_row_end_the_run(tmp_path):
    guard, nan, batch = FiniteGuard(tmp_path), float("nan"), [{"task_id": "a", "completion": "b"}]
    assert [guard.allows(nan, 1.0, batch) for _ in range(4)] == [False] * 4
    assert guard.allows(1.0, 1.0, batch) and guard.skipped == 4
    for _ in range(4):
        assert not guard.allows(1.0, float("inf"), batch)
    with pytest.raises(InputError, match="not finite in 5 updates in a row"):
        guard.allows(nan, 1.0, batch)
    assert json.loads((tmp_path / "nonfinite_batch.jsonl").read_text()) == batch[0]


@pytest.mark.parametrize("script", [train_rl_lora, train_ppo_lora, train_grpo_lora])
def test_a_dry_run_keeps_nothing(start, tmp_path, capsys, script):
    script.main(
        script.Args(train_path="data/pocket_train.jsonl", sft_model=start, output_dir=str(tmp_path / "rl"),
                    max_length=384, max_new_tokens=16, batch_size=2, dry_run=True)
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "dry run: peak memory" in out and "parity:" in out and "saved" not in out
    assert list(tmp_path.iterdir()) == []
