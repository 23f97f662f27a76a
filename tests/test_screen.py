"""What a run says: a line a step, a summary that names what is sick, and the two ways to say less."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_resume import broken_log

import train_rl_lora
import train_sft_lora
from model import memory
from reporting import plots
from train_rl_lora import Args
from training import run as training
from training.screen import findings, first_and_last, step_line, summary


def log_of(count=100, **figures):
    """Steps whose figures go evenly from the first to the second of a pair."""
    share = [n / (count - 1) for n in range(count)]
    return [{"step": n + 1} | {k: a + (b - a) * share[n] for k, (a, b) in figures.items()} for n in range(count)]


def look_at(records):
    return findings(records, first_and_last([record for record in records if record["step"] > 0]))


HEALTHY = {"base_reward": (0.2, 0.8), "reward": (0.19, 0.79), "gen_len": (80.0, 45.0), "cut_off": (0.3, 0.0),
           "entropy": (0.3, 0.15), "tied_groups": (0.2, 0.5), "approx_kl": (0.01, 0.01)}  # fmt: skip


def test_a_healthy_run_is_told_in_two_lines():
    told = summary(log_of(**HEALTHY), "ppo", 75.0)
    assert told[0] == "ppo: 100 steps, 1 min 15 s" and len(told) == 2
    assert "pass 22.7% to 77.3%" in told[1] and "length 78.4 to 46.6" in told[1]


def test_with_a_selection_the_pass_rate_of_what_is_drawn_may_fall():
    fallen = {"base_reward": (0.8, 0.5), "reward": (0.8, 0.5)}
    assert "fell from" in str(look_at(log_of(**HEALTHY | fallen)))
    assert "fell from" not in str(look_at(log_of(**HEALTHY | fallen | {"set_aside": (0, 3)})))
    nothing = {"base_reward": (0.0, 0.0), "set_aside": (0, 0)}
    assert "no completion passes" in str(look_at(log_of(**HEALTHY | nothing)))


@pytest.mark.parametrize(
    ("sick", "says"),
    [
        ({"base_reward": (0.0, 0.0)}, "no completion passes"),
        (
            {"base_reward": (0.8, 0.2), "reward": (0.5, 0.9)},
            "while the reward rose: it pays for something other than the tests",
        ),
        ({"base_reward": (0.8, 0.2), "reward": (0.8, 0.2)}, "the pass rate fell from 77.3% to 22.7%; lower"),
        ({"cut_off": (0.3, 0.3)}, "30% of the completions still reach --max_new_tokens"),
        ({"gen_len": (10.0, 0.5)}, "completions have shrunk to"),
        ({"entropy": (0.3, 0.0)}, "entropy is near 0"),
        ({"tied_groups": (0.2, 1.0)}, "nearly all groups pass or fail as a whole"),
        ({"approx_kl": (0.0, 0.5)}, "moves far within a batch"),
        ({"left_out": (0, 2)}, "could not be judged"),
        ({"base_reward": (0.8, 0.0), "reward": (0.8, 0.0)}, "the pass rate fell from"),
        ({"tied_groups": (1.0, 1.0)}, "nearly all groups pass or fail as a whole"),
    ],
)
def test_what_is_sick_is_named(sick, says):
    found = look_at(log_of(**HEALTHY | sick))
    assert len(found) == 1 and says in found[0]


def test_displaced_likelihood_and_a_validation_that_fell_are_named():
    pairs = log_of(loss=(0.69, 0.1), chosen_logprob=(-0.1, -2.0))
    assert "likelihood displacement" in "".join(look_at(pairs))
    records = log_of(**HEALTHY)
    for step, rate in ((10, 0.6), (50, 0.9), (70, 0.9), (100, 0.7)):
        records[step - 1]["valid_pass_rate"] = rate
    assert look_at(records) == ["validation tasks: 90.0% at step 50, 70.0% at the end"]


def test_a_short_run_is_not_called_sick_for_its_noise():
    assert not look_at(log_of(12, **HEALTHY | {"base_reward": (0.5, 0.3)}))
    assert not look_at(log_of(12, **HEALTHY | {"base_reward": (0.5, 0.0)}))


def test_an_alarm_stands_in_the_line_and_a_figure_that_is_no_number_does_not():
    line = step_line({"step": 7, "base_reward": 0.5, "left_out": 3, "skipped_updates": 0, "reward": None}, 1.0, 0.0)
    assert line == "step 7  100%  pass 50.0%  left out 3"


def trained(start, tasks_path, folder, **more):
    settings = dict(train_path=tasks_path, sft_model=start, output_dir=str(folder), max_length=384, max_new_tokens=8,
                    num_steps=2, batch_size=1, num_samples=2, save_every=0)  # fmt: skip
    train_rl_lora.main(Args(**settings | more))


def test_a_line_a_step_and_a_summary_with_curves(start, tasks_path, tmp_path, capsys):
    trained(start, tasks_path, tmp_path / "rl")
    out = capsys.readouterr().out.splitlines()
    steps = [line for line in out if line.startswith("step ")]
    assert [line.split("  ")[:2] for line in steps] == [["step 1", "50%"], ["step 2", "100%"]]
    assert "left" in steps[0] and "left" not in steps[1] and all(len(line) < 160 for line in steps)
    assert any(line.startswith("rl: 2 steps, ") for line in out) and f"saved {tmp_path / 'rl'}" in out
    assert out[-1] == f"curves: {tmp_path}/rl/curves.png; rollouts and settings: python report.py {tmp_path}/rl"
    assert (tmp_path / "rl" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_lines_are_the_log_and_notes_go_to_stderr(start, tasks_path, tmp_path, capsys):
    trained(start, tasks_path, tmp_path / "rl", json_lines=True)
    said = capsys.readouterr()
    assert said.out == (tmp_path / "rl" / "rl_train_log.jsonl").read_text()
    assert "parity: " in said.err and "rl: 2 steps" in said.err


def test_the_sampler_is_closed_even_if_the_tracker_cannot_be(start, tasks_path, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(training.Tracker, "close", lambda self: 1 / 0)
    monkeypatch.setattr(training.Sampler, "close", lambda self: closed.append(True))
    with pytest.raises(ZeroDivisionError):
        trained(start, tasks_path, tmp_path / "rl")
    assert closed


def test_quiet_says_nothing(start, tasks_path, tmp_path, capsys):
    trained(start, tasks_path, tmp_path / "rl", quiet=True)
    assert capsys.readouterr().out == "" and len((tmp_path / "rl" / "rl_train_log.jsonl").read_text().splitlines()) == 2


def test_what_a_resumed_run_took_counts_from_its_beginning(start, tasks_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "RunLog", broken_log(after=1))
    with pytest.raises(RuntimeError):
        trained(start, tasks_path, tmp_path / "rl", save_every=1)
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    path = tmp_path / "rl.partial" / "resume.pt"
    state = torch.load(path, weights_only=True)
    assert 0 < state["position"]["seconds"] < 600
    state["position"]["seconds"] += 1000
    torch.save(state, path)
    trained(start, tasks_path, tmp_path / "rl", save_every=1)
    out = capsys.readouterr().out
    assert "resuming after step 1" in out and re.search(r"rl: 2 steps, .*, (1[6-9]|2[0-6]) min ", out)  # a busy machine
    assert 1000 < json.loads((tmp_path / "rl" / "run.json").read_text())["spent"]["seconds"] < 1600


def test_a_picture_that_fails_costs_a_note_and_no_run(start, tasks_path, tmp_path, capsys, monkeypatch):
    def broken(folder):
        raise OSError("no fonts")

    monkeypatch.setattr(plots, "draw_run", broken)
    trained(start, tasks_path, tmp_path / "rl")
    assert "note: no curves were drawn (OSError('no fonts'))" in capsys.readouterr().out
    assert (tmp_path / "rl" / "adapter_model.safetensors").is_file()


def test_a_run_in_which_nothing_could_be_judged_has_no_curves(tmp_path):
    (tmp_path / "rl_train_log.jsonl").write_text('{"step": 1, "left_out": 4}\n{"step": 2, "left_out": 4}\n')
    assert plots.draw_run(tmp_path) == ""


def test_sft_and_a_dry_run_keep_to_the_two_flags(pocket, start, tasks_path, tmp_path, capsys):
    sft = dict(train_path=tasks_path, model_name=pocket, max_steps=10, gradient_accumulation_steps=1, max_length=384)
    train_sft_lora.main(train_sft_lora.Args(output_dir=str(tmp_path / "sft"), json_lines=True, **sft))
    assert capsys.readouterr().out == (tmp_path / "sft" / "sft_train_log.jsonl").read_text() != ""
    train_sft_lora.main(train_sft_lora.Args(output_dir=str(tmp_path / "quiet"), quiet=True, **sft))
    assert capsys.readouterr().out == ""
    trained(start, tasks_path, tmp_path / "dry", dry_run=True, quiet=True)
    assert "dry run: peak memory" in capsys.readouterr().out


def test_without_a_gpu_a_run_that_the_kernel_would_kill_is_warned_of(pocket, start, tasks_path, tmp_path, monkeypatch,
                                                                     capsys):  # fmt: skip
    monkeypatch.setattr(memory, "memory_here", lambda: 2**24)
    trained(start, tasks_path, tmp_path / "rl", dry_run=True)
    said = capsys.readouterr().out
    assert f"warning: {start}: rl is predicted to take 0.0 GiB at its peak, in" in said and "does not fit" in said
    warnings = []
    for length in (384, 2048):  # what counts is the longest task, not what --max_length allows
        train_sft_lora.main(train_sft_lora.Args(output_dir=str(tmp_path / f"sft_{length}"), train_path=tasks_path,
                                                model_name=pocket, max_steps=0, max_length=length))  # fmt: skip
        warnings += [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings[0] == warnings[1] and warnings[0].startswith(f"warning: {pocket}: sft is predicted to take")


def test_what_is_not_known_of_a_start_is_not_counted_as_nothing(start, tasks_path, tmp_path):
    unknown = tmp_path / "unknown"
    shutil.copytree(start, unknown)
    (unknown / "run.json").unlink(missing_ok=True)
    Path(tasks_path.removesuffix(".jsonl") + "_stats.json").write_text("[1]")  # somebody's own
    trained(str(unknown), tasks_path, tmp_path / "rl")
    spent = json.loads((tmp_path / "rl" / "run.json").read_text())["spent"]
    assert spent["sampled_tokens"] > 0 and spent["sampled_tokens_since_sft"] is spent["seconds_since_sft"] is None


def test_a_run_records_what_it_took_and_what_its_start_took(start, tasks_path, tmp_path):
    sft = shutil.copytree(start, tmp_path / "sft")
    (sft / "run.json").write_text(json.dumps({"args": {"model_name": "m"}}))
    trained(str(sft), tasks_path, tmp_path / "first")
    trained(str(tmp_path / "first"), tasks_path, tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "second"))
    tokens = [json.loads((tmp_path / name / "rl_train_log.jsonl").read_text().splitlines()[-1])["sampled_tokens"]
              for name in ("first", "second")]  # fmt: skip
    assert [record["spent"]["sampled_tokens"] for record in (first, second)] == tokens
    assert first["spent"]["sampled_tokens_since_sft"] == tokens[0]
    assert second["spent"]["sampled_tokens_since_sft"] == sum(tokens)
    assert second["spent"]["seconds_since_sft"] > second["spent"]["seconds"] > 0
    assert tasks_path in second["task_files"]
    rows = [json.loads(line) for line in (tmp_path / "second" / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(len(row["token_ids"]) == len(row["logprobs"]) == row["length"] for row in rows)
