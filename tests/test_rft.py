"""What is kept of known samples, the updates in plain float64 and by SFT's own loss, and whole runs."""

import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import Plain
from safetensors.torch import load_file
from test_resume import broken_log

import train_rft_lora
from common import InputError
from judging.pool import Verdict
from model.sampling import Rollout
from train_rft_lora import Args, check, kept_of
from training import run as training
from training.samples import Batch, Sample


def arguments(start, tasks_path, tmp_path, out="rft", **settings) -> Args:
    base = dict(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / out), max_length=384,
                max_new_tokens=16, num_steps=1, batch_size=2, num_samples=3, learning_rate=1.0,
                max_grad_norm=0.0, minibatch_size=0)  # fmt: skip
    return Args(**base | settings)


def log_of(args) -> list[dict]:
    return [json.loads(line) for line in open(f"{args.output_dir}/rft_train_log.jsonl")]


def weights(folder) -> dict:
    return load_file(f"{folder}/adapter_model.safetensors")


def sample(group: int, text: str, length: int, passed: bool = True, reward: float = 0.0) -> Sample:
    rollout = Rollout(0, [1], [2] * length, [0.0] * length, True, text)
    return Sample({}, group, rollout, Verdict("pass" if passed else "fail", ""), reward)


KNOWN = [
    sample(0, "a", 9, reward=0.5),
    sample(0, "b", 2, passed=False, reward=0.9),
    sample(0, "c", 5, reward=0.4),
    sample(0, "a", 9, reward=0.5),
    sample(0, "d", 7, reward=0.8),
    sample(1, "a", 4, passed=False),
    sample(2, "a", 3),  # the same text of another task
]


@pytest.mark.parametrize(
    ("max_kept", "keep", "kept"),
    [
        (4, "random", [0, 2, 4, 6]),
        (4, "shortest", [0, 2, 4, 6]),
        (2, "shortest", [2, 4, 6]),
        (1, "shortest", [2, 6]),
        (2, "best", [0, 4, 6]),
        (1, "best", [4, 6]),
    ],
)
def test_what_is_kept_of_known_samples(max_kept, keep, kept):
    assert kept_of(KNOWN, max_kept, keep) == kept
    assert kept_of(KNOWN[1:2] + KNOWN[5:6], max_kept, keep) == kept_of([], max_kept, keep) == []


def test_a_random_choice_takes_each_as_often():
    random.seed(0)
    chosen = [i for _ in range(900) for i in kept_of(KNOWN, 1, "random") if i != 6]
    assert len(chosen) == 900 and all(250 < chosen.count(i) < 350 for i in (0, 2, 4))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcd"), st.integers(1, 5), st.booleans())),
    st.integers(1, 5),
    st.sampled_from(["random", "shortest", "best"]),
)
def test_what_is_kept_of_any_samples(made, max_kept, keep):
    samples = [sample(*one) for one in made]
    kept = kept_of(samples, max_kept, keep)
    assert kept == sorted(set(kept)) and all(samples[i].verdict.passed for i in kept)
    for group in range(4):
        texts = [samples[i].rollout.text for i in kept if samples[i].group == group]
        passing = {s.rollout.text for s in samples if s.group == group and s.verdict.passed}
        assert len(texts) == len(set(texts)) == min(max_kept, len(passing))  # no more, and no fewer


def distinct(rollouts, rows: list[int]) -> list[int]:
    """The first of each text."""
    texts = [rollouts[i].text for i in rows]
    return [i for n, i in enumerate(rows) if texts[n] not in texts[:n]]


def test_the_updates_are_the_hand_computed_ones(start, tasks_path, tmp_path, known_run, monkeypatch):
    """Two steps of two passes over two minibatches each, one sequence at a time in float64."""
    sampled = known_run(lambda call, i: i != 1)  # of two tasks with three samples each
    asked = []

    def halves(count):
        return [list(range(0, count, 2)), list(range(1, count, 2))]

    def minibatches(self, size, epochs):
        asked.append((size, epochs))
        return (self[rows] for rows in halves(len(self)) * epochs)

    monkeypatch.setattr(Batch, "minibatches", minibatches)
    args = arguments(start, tasks_path, tmp_path, num_steps=2, num_epochs=2, minibatch_size=2, max_kept=2,
                     keep="shortest", micro_batch_tokens=300, temperature=0.9, learning_rate=2.0,
                     max_grad_norm=0.03)  # fmt: skip
    train_rft_lora.main(args)
    plain, reference, expected, counts, drift = Plain(start), Plain(start), [], [], []
    for rollouts in sampled:
        gaps = torch.cat([(reference.tokens(r, 0.9)[0] - plain.tokens(r, 0.9)[0]).detach() for r in rollouts])
        drift.append((gaps.exp() - 1 - gaps).mean().item())  # k3, of all samples
        second = sorted(distinct(rollouts, [3, 4, 5]), key=lambda i: len(rollouts[i].token_ids))[:2]
        kept = distinct(rollouts, [0, 2]) + sorted(second)
        counts.append((len(kept), 2, 4))
        losses = []
        for rows in halves(len(kept)) * 2:
            chosen = [rollouts[kept[row]] for row in rows]
            tokens = sum(len(r.token_ids) for r in chosen)
            loss = -sum(plain.tokens(r, 0.9)[0].sum() for r in chosen) / tokens
            plain.descend(loss, args.learning_rate, max_norm=0.03)
            losses.append(loss.item())
        expected.append(sum(losses) / 4)
    plain.assert_equals(start, args.output_dir)
    log = log_of(args)
    assert asked == [(2, 2)] * 2 and counts[0][0] > 2  # some task has two that differ
    assert [record["loss"] for record in log] == pytest.approx(expected, rel=1e-4)
    assert [(record["kept"], record["kept_tasks"], record["optimizer_steps"]) for record in log] == counts
    assert [record["kl_reference"] for record in log] == pytest.approx(drift, rel=1e-2, abs=1e-7) and drift[1] > 1e-6
    assert all(record["grad_norm"] > 0.03 for record in log)  # before it is clipped


def test_loss_and_gradient_are_those_of_sft_on_the_same_completions(start, tasks_path, tmp_path, known_run):
    """As transformers computes them from labels, which is what train_sft_lora.py minimises."""
    sampled = known_run(lambda call, i: i in (0, 2, 4))
    args = arguments(start, tasks_path, tmp_path, micro_batch_tokens=200)
    train_rft_lora.main(args)
    kept = [sampled[0][i] for i in [*distinct(sampled[0], [0, 2]), 4]]
    longest = max(len(r.prompt_ids) + len(r.token_ids) for r in kept)
    rows = [(r.prompt_ids + r.token_ids, [-100] * len(r.prompt_ids) + r.token_ids) for r in kept]
    inputs, labels = (torch.tensor([row[n] + [pad] * (longest - len(row[n])) for row in rows])
                      for n, pad in ((0, 0), (1, -100)))  # fmt: skip
    plain = Plain(start)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    loss = plain.model(inputs, attention_mask=mask, labels=labels).loss
    plain.descend(loss, args.learning_rate)
    plain.assert_equals(start, args.output_dir)
    [record] = log_of(args)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_where_nothing_passes_nothing_is_learnt_and_the_completions_are_there(start, tasks_path, tmp_path, known_run):
    known_run(lambda call, i: call == 2 and i == 5)  # the second step keeps one completion
    args = arguments(start, tasks_path, tmp_path, num_steps=2, keep_every=1, lr_scheduler_type="linear")
    train_rft_lora.main(args)
    before, first, second = (weights(f) for f in (start, f"{args.output_dir}/step_1", f"{args.output_dir}/step_2"))
    assert all(torch.equal(before[name], first[name]) for name in before)
    assert any(not torch.equal(before[name], second[name]) for name in before)
    hopeless, other = log_of(args)
    assert hopeless["kept"] == hopeless["kept_tasks"] == hopeless["optimizer_steps"] == hopeless["base_reward"] == 0
    assert "loss" not in hopeless and "grad_norm" not in hopeless and "kl_reference" in hopeless
    assert (other["kept"], other["kept_tasks"], other["optimizer_steps"]) == (1, 1, 1)
    assert (hopeless["learning_rate"], other["learning_rate"]) == (1.0, 0.5)  # the schedule counts every step
    rows = [json.loads(line) for line in open(f"{args.output_dir}/completions.jsonl")]
    assert [row["advantage"] for row in rows] == [0.0] * 11 + [1.0]  # of the step that learns nothing too


def test_samples_that_could_not_be_judged_are_not_trained_on(start, tasks_path, tmp_path, monkeypatch):
    monkeypatch.setattr("training.sampler.verdicts", lambda drawn: [Verdict("infrastructure", "gone") for _ in drawn])
    args = arguments(start, tasks_path, tmp_path)
    train_rft_lora.main(args)
    assert log_of(args)[0]["left_out"] == 6
    before, after = weights(start), weights(args.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


REAL = dict(num_steps=3, batch_size=4, num_samples=6, max_new_tokens=64, stop_at_strings=True, max_kept=2, num_epochs=2,
            minibatch_size=3, learning_rate=1e-3, max_grad_norm=1.0)  # fmt: skip


@pytest.mark.slow
def test_the_log_of_a_run_on_the_embedded_model(start, tasks_path, tmp_path, capsys):
    args = arguments(start, tasks_path, tmp_path, **REAL)
    train_rft_lora.main(args)
    out = capsys.readouterr().out
    assert "rft: 6 tasks, up to 3 steps" in out and "kept" in out
    rows = [json.loads(line) for line in open(f"{args.output_dir}/completions.jsonl")]
    log = log_of(args)
    assert sum(record["kept"] for record in log) > 0
    for record in log:
        here = [row for row in rows if row["step"] == record["step"]]
        kept = [row for row in here if row["advantage"] == 1]
        assert len(here) == 24 and len(kept) == record["kept"] and all(row["status"] == "pass" for row in kept)
        assert record["kept_tasks"] <= record["kept"] <= 2 * record["kept_tasks"]
        assert record["kept_tasks"] == len({row["task_id"] for row in here if row["status"] == "pass"})
        assert record["optimizer_steps"] == 2 * -(-record["kept"] // 3)
        assert record["base_reward"] == sum(row["status"] == "pass" for row in here) / 24
        assert record["advantage_mean"] == pytest.approx(record["kept"] / 24)
        assert record["reward"] == pytest.approx(record["base_reward"] - 0.01 * record["gen_len"] / 100)
        assert record["sampler_mismatch"] < 1e-3 and ("loss" in record) is (record["kept"] > 0)
    assert log[-1]["kl_reference"] > log[0]["kl_reference"]
    assert all(row["ratio"] is None for row in rows)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one(start, tasks_path, tmp_path, monkeypatch, capsys):
    """The verdicts are of the texts alone: on a busy machine the sandbox's may differ, by its time limit."""
    verdicts = {True: Verdict("pass", ""), False: Verdict("fail", "")}
    monkeypatch.setattr(
        "training.sampler.verdicts", lambda drawn: [verdicts[len(s.rollout.text) % 3 > 0] for s in drawn]
    )
    settings = REAL | dict(num_steps=3, max_kept=1, max_new_tokens=16, save_every=2, lr_scheduler_type="linear")
    whole = arguments(start, tasks_path, tmp_path, "whole", **settings)
    train_rft_lora.main(whole)
    broken = arguments(start, tasks_path, tmp_path, "broken", **settings)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=2))
        train_rft_lora.main(broken)
    random.seed(7)  # as in another process: which completion of a task is kept is a draw
    train_rft_lora.main(broken)
    assert "resuming after step 2" in capsys.readouterr().out
    logs = [[{k: v for k, v in record.items() if "second" not in k} for record in log_of(a)] for a in (whole, broken)]
    assert logs[0] == logs[1] and len(logs[0]) == 3 and logs[0][2]["kept"] > 0
    assert [record["kept"] for record in logs[0]] == [record["kept_tasks"] for record in logs[0]]
    first, second = weights(whole.output_dir), weights(broken.output_dir)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_budget_ends_the_run_and_a_dry_run_keeps_nothing(start, tasks_path, tmp_path, capsys):
    args = arguments(start, tasks_path, tmp_path, num_steps=100, token_budget=100)
    train_rft_lora.main(args)
    *before, last = [0] + [record["sampled_tokens"] for record in log_of(args)]
    assert before[-1] < 100 <= last
    train_rft_lora.main(arguments(start, tasks_path, tmp_path, "none", dry_run=True))
    assert "dry run: peak memory" in capsys.readouterr().out and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_kept": 0}, "--max_kept 0: must be at least 1"),
        ({"num_epochs": 0}, "--num_epochs 0: must be at least 1"),
        ({"num_steps": 0}, "--num_steps 0: must be at least 1"),
        ({"minibatch_size": -1}, "--minibatch_size -1: must not be negative"),
        ({"temperature": 0.0}, "must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--max_kept 0", "--max_kept 0: must be at least 1"),
        ("--keep longest", "keep"),
        ("--max_keep 3", "did you mean --max_kept?"),
        ("--train_path none.jsonl", "none.jsonl: no such task file"),
        ("--train_path data/pocket_train.jsonl --sft_model data/pocket_coder", "is no adapter"),
    ],
)
def test_bad_input_is_one_line(run_cli, tmp_path, flags, says):
    code, out, err = run_cli("train_rft_lora.py", *flags.split(), "--output_dir", str(tmp_path / "rft"))
    assert code == 2 and says in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err
