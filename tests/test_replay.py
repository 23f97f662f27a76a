"""Replay of completions that passed: who gets one, with which ratio, and after a resume."""

import io
import json

import pytest
import torch
from plain import Plain
from safetensors.torch import load_file
from test_resume import broken_log

import train_grpo_lora
from common import InputError
from judging.pool import Verdict
from model.sampling import Rollout
from train_grpo_lora import Args, check
from training import run as training
from training import sampler
from training.replay import Replay
from training.samples import Sample


def group_of(number: int, task: str, passes: list[bool], prompt=(1, 2)) -> list[Sample]:
    rollouts = [Rollout(0, list(prompt), [number, i], [-1.0, -0.5 * i], True, f"{number} {i}", i) for i in range(9)]
    return [Sample({"task_id": task}, number, rollout, Verdict("pass" if passed else "fail", ""), float(passed))
            for rollout, passed in zip(rollouts, passes, strict=False)]  # fmt: skip


def texts(samples: list[Sample]) -> list[tuple[int, str, bool]]:
    return [(s.group, s.rollout.text, s.replayed) for s in samples]


def test_only_a_group_without_a_pass_gets_one_and_of_its_own_task():
    replay = Replay(steps=5)
    first = group_of(0, "a", [False, True, True]) + group_of(1, "b", [False, False])
    assert replay.fill(1, first) == first  # b has none yet
    second = group_of(2, "b", [False, False]) + group_of(3, "a", [False, False]) + group_of(4, "a", [True, False])
    filled = replay.fill(2, second)
    assert texts(filled) == texts(second[:4]) + [(3, "0 1", True)] + texts(second[4:])
    assert filled[4].reward == 1.0 and filled[4].rollout.logprobs == [-1.0, -0.5] and filled[4].verdict.passed
    assert not first[1].replayed and first[1].group == 0  # the kept one is as it was
    assert texts(replay.fill(3, group_of(5, "a", [False])))[1] == (5, "4 0", True)  # the last that passed
    assert len(replay.fill(7, group_of(6, "a", [False]))) == 2 and len(replay.fill(8, group_of(7, "a", [False]))) == 1
    assert len(replay.fill(3, group_of(8, "a", [False], prompt=(7, 7)))) == 1  # another prompt, as in a curriculum
    replay.fill(9, group_of(9, "a", [True]))
    assert len(replay.fill(9, group_of(10, "a", [False]))) == 1  # of this step: that one is in the batch already


def test_it_is_replayed_with_the_reward_that_its_step_ended_with():
    replay, samples = Replay(steps=5), group_of(0, "a", [True, False])
    replay.fill(1, samples)
    samples[0].reward -= 0.25  # the overlong penalty comes later
    assert replay.fill(2, group_of(1, "a", [False]))[1].reward == 0.75


def test_what_is_kept_is_saved():
    replay, file, again = Replay(steps=5), io.BytesIO(), Replay(steps=5)
    replay.fill(1, group_of(0, "a", [True]) + group_of(1, "b", [False, True]))
    torch.save(replay.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    late = group_of(2, "b", [False]) + group_of(3, "a", [False])
    assert again.fill(4, late) == replay.fill(4, late) and again.state_dict() == replay.state_dict()


@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "cispo"])
def test_the_ratio_is_to_the_policy_that_sampled(start, tasks_path, tmp_path, known_run, loss_type):
    """Two steps on one task: in the first one of three passes, in the second none, and the one comes again."""
    lines = open(tasks_path).readlines()[:1]
    (tmp_path / "one.jsonl").write_text("".join(lines))
    sampled = known_run(lambda call, i: (call, i) == (1, 1))
    high = 0.02 if loss_type == "grpo" else 0.5
    args = Args(train_path=str(tmp_path / "one.jsonl"), sft_model=start, output_dir=str(tmp_path / "grpo"), replay=1,
                max_length=384, max_new_tokens=16, num_steps=2, batch_size=1, num_samples=3, learning_rate=2.0,
                max_grad_norm=0.0, kl_coef=0.0, length_penalty_alpha=0.0, loss_type=loss_type, clip_range=0.9,
                clip_range_high=high, micro_batch_tokens=200, seed=2)  # fmt: skip
    train_grpo_lora.main(args)
    log = [json.loads(line) for line in open(f"{args.output_dir}/grpo_train_log.jsonl")]
    assert [record["replayed"] for record in log] == [0, 1] and log[1]["base_reward"] == 0  # of what was sampled

    plain, ratios = Plain(start), []
    old_of = {(0, i): plain.tokens(r)[0].detach() for i, r in enumerate(sampled[0])}
    for step, trained in enumerate(([(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2), (0, 1)])):
        rewards = torch.tensor([float(place == (0, 1)) for place in trained], dtype=torch.float64)
        advantage = (rewards - rewards.mean()) / rewards.std(correction=0)
        total = sum(len(sampled[call][i].token_ids) for call, i in trained)
        loss = 0.0
        for a, (call, i) in zip(advantage, trained, strict=True):
            logprobs = plain.tokens(sampled[call][i])[0]
            old = old_of[call, i] if call < step or step == 0 else logprobs.detach()
            gap = (logprobs - old).mean().expand_as(old) if loss_type == "gspo" else logprobs - old
            rho = gap.exp()
            ratios += rho.tolist() if call < step else []
            if loss_type == "cispo":
                loss = loss - (rho.detach().clamp(max=1 + high) * a * logprobs).sum() / total
            else:
                objective = torch.minimum(rho * a, rho.clamp(0.1, 1 + high) * a)
                loss = loss - objective.sum() / (len(trained) * len(old))
        plain.descend(loss, args.learning_rate)
    plain.assert_equals(start, args.output_dir)
    assert max(abs(ratio - 1) for ratio in ratios) > 0.01  # the policy had moved
    assert log[1]["approx_kl"] > 0 and log[0]["approx_kl"] == 0
    rows = [json.loads(line) for line in open(f"{args.output_dir}/completions.jsonl")]
    assert [row.get("replayed", False) for row in rows] == [False] * 6 + [True]
    assert rows[-1]["completion"] == sampled[0][1].text


@pytest.mark.slow
def test_a_run_that_replays_goes_on_from_its_saved_state(start, tasks_path, tmp_path, monkeypatch, capsys):
    def verdicts(samples):
        return [Verdict("fail" if sum(s.rollout.token_ids) % 5 else "pass", "") for s in samples]

    monkeypatch.setattr(sampler, "verdicts", verdicts)
    (tmp_path / "two.jsonl").write_text("".join(open(tasks_path).readlines()[:2]))

    def train(name: str) -> tuple[dict, list[dict]]:
        args = Args(train_path=str(tmp_path / "two.jsonl"), sft_model=start, output_dir=str(tmp_path / name), replay=9,
                    max_length=384, max_new_tokens=8, num_steps=7, batch_size=2, num_samples=2, save_every=1,
                    dynamic_sampling=True, learning_rate=1e-3)  # fmt: skip
        train_grpo_lora.main(args)
        log = [json.loads(line) for line in open(f"{args.output_dir}/grpo_train_log.jsonl")]
        log = [{key: value for key, value in record.items() if "second" not in key} for record in log]
        return load_file(f"{args.output_dir}/adapter_model.safetensors"), log

    whole, whole_log = train("whole")
    assert sum(record["replayed"] for record in whole_log[4:]) > 0
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=4))
        train("cut")
    cut, cut_log = train("cut")
    assert "resuming after step 4" in capsys.readouterr().out
    assert cut_log == whole_log and all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(InputError, match="--replay -1: must not be negative"):
        check(Args(replay=-1))
