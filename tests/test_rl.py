import json

import pytest
import torch
from safetensors.torch import load_file

import train_rl_lora
from common import InputError
from judging.pool import Verdict
from judging.tasks import read_tasks
from model.load import load_policy
from train_rl_lora import Args, advantages, check
from training import sampler


def arguments(start, tasks_path, tmp_path, **settings) -> Args:
    base = dict(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "rl"), max_length=384,
                max_new_tokens=24, num_steps=1, batch_size=2, num_samples=3, learning_rate=1.0)  # fmt: skip
    return Args(**base | settings)


@pytest.mark.parametrize("baseline", ["none", "mean", "rloo"])
def test_the_gradient_is_the_hand_computed_one(start, tasks_path, tmp_path, known_run, baseline):
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, baseline=baseline, micro_batch_tokens=400, length_penalty_alpha=0.03,
                     temperature=0.9)  # fmt: skip
    train_rl_lora.main(args)

    # the same in plain float64: one sequence at a time, no batching, no helper of the project's
    model = load_policy(start, torch.device("cpu"), trainable=True).eval()
    rewards = [(1.0 if i % 3 else 0.0) - 0.03 * len(r.token_ids) / 100 for i, r in enumerate(sampled[0])]
    for i, r in enumerate(sampled[0]):
        if baseline == "none":
            b = 0.0
        elif baseline == "mean":
            b = sum(rewards) / 6
        else:
            group = range(i // 3 * 3, i // 3 * 3 + 3)
            b = sum(rewards[j] for j in group if j != i) / 2
        logits = model(torch.tensor([r.prompt_ids + r.token_ids])).logits[0].double() / 0.9
        logp = sum(logits[len(r.prompt_ids) + t - 1].log_softmax(0)[token] for t, token in enumerate(r.token_ids))
        (-(rewards[i] - b) * logp / 6).backward()
    before = load_file(f"{start}/adapter_model.safetensors")
    after = load_file(f"{args.output_dir}/adapter_model.safetensors")
    gradients = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == before.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(before[name] - after[name], gradient, rtol=1e-3, atol=float(largest) * 1e-4), name


def test_no_reward_and_no_penalty_leave_the_weights_as_they_were(start, tasks_path, tmp_path):
    tasks = [task | {"test": "def check(candidate):\n    assert False\n"} for task in read_tasks(tasks_path)]
    (tmp_path / "hopeless.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    args = arguments(start, str(tmp_path / "hopeless.jsonl"), tmp_path, length_penalty_alpha=0.0, num_steps=2)
    train_rl_lora.main(args)
    before = load_file(f"{start}/adapter_model.safetensors")
    after = load_file(f"{args.output_dir}/adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    log = [json.loads(line) for line in open(f"{args.output_dir}/rl_train_log.jsonl")]
    assert [record["base_reward"] for record in log] == [0, 0] and [record["loss"] for record in log] == [0, 0]


def test_broken_checks_are_left_out_not_scored_zero(start, tasks_path, tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "verdicts", lambda drawn: [Verdict("infrastructure", "gone") for _ in drawn])
    args = arguments(start, tasks_path, tmp_path, length_penalty_alpha=0.5)
    train_rl_lora.main(args)
    before = load_file(f"{start}/adapter_model.safetensors")
    after = load_file(f"{args.output_dir}/adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads(open(f"{args.output_dir}/rl_train_log.jsonl").readline())["left_out"] == 6


def test_the_log_agrees_with_itself_and_the_sampler_with_the_trainer(start, tasks_path, tmp_path):
    args = arguments(start, tasks_path, tmp_path, learning_rate=1e-5, num_steps=2, length_penalty_alpha=0.02)
    train_rl_lora.main(args)
    for line in open(f"{args.output_dir}/rl_train_log.jsonl"):
        record = json.loads(line)
        assert record["reward"] == pytest.approx(record["base_reward"] - 0.02 * record["gen_len"] / 100)
        assert record["sampler_mismatch"] < 1e-3


def test_advantages_by_hand():
    rewards, group = [1.0, 0.0, 0.5, 1.0], [0, 0, 1, 1]
    assert advantages(rewards, group, "none") == rewards
    assert advantages(rewards, group, "mean") == [0.375, -0.625, -0.125, 0.375]
    assert advantages(rewards, group, "rloo") == [1.0, -1.0, -0.5, 0.5]
    assert advantages([1.0, 1.0], [0, 1], "rloo") == [0.0, 0.0]  # alone: nothing to compare with


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length_penalty_alpha": -0.1}, "--length_penalty_alpha -0.1: must not be negative"),
        ({"temperature": 0.0}, "must be positive"),
        ({"top_p": 0.0}, r"must be in \(0, 1\]"),
        ({"baseline": "rloo"}, "needs --num_samples 2"),
        ({"baseline": "mean"}, "needs two samples"),
        ({"num_steps": 0}, "must be at least 1"),
        ({"max_length": 128}, "must be more than"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


def test_a_base_model_is_no_place_to_start_from(pocket, tasks_path, tmp_path):
    with pytest.raises(InputError, match="is no adapter"):
        train_rl_lora.main(arguments(pocket, tasks_path, tmp_path))
