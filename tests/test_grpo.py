import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import Plain
from safetensors.torch import load_file

import train_grpo_lora
from common import InputError, parse_args
from train_grpo_lora import (
    Args,
    check,
    clip_range_high,
    clipped,
    group_advantages,
    overlong_penalty,
    policy_objective,
    weights,
)

LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]


def arguments(start, tasks_path, tmp_path, **settings) -> Args:
    base = dict(
        train_path=tasks_path,
        sft_model=start,
        output_dir=str(tmp_path / "grpo"),
        max_length=384,
        max_new_tokens=16,
        num_steps=1,
        batch_size=2,
        num_samples=3,
        learning_rate=0.5,
        max_grad_norm=0.0,
    )
    return Args(**base | settings)  # fmt: skip


def log_of(args) -> list[dict]:
    return [json.loads(line) for line in open(f"{args.output_dir}/grpo_train_log.jsonl")]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_updates_are_the_hand_computed_ones(start, tasks_path, tmp_path, known_run, loss_type, masked):
    sampled = known_run()
    low, high = (0.0003, 0.0004) if loss_type == "gspo" else (0.002, 0.003)
    args = arguments(start, tasks_path, tmp_path, loss_type=loss_type, num_iterations=3, micro_batch_tokens=400,
                     clip_range=low, clip_range_high=high, kl_coef=0.1, length_penalty_alpha=0.03, temperature=0.9,
                     mask_truncated=masked, max_new_tokens=44, seed=2,
                     learning_rate=2.0 if loss_type == "dr_grpo" else 0.5)  # fmt: skip
    train_grpo_lora.main(args)
    rollouts, plain, reference = sampled[0], Plain(start), Plain(start)
    assert {r.ended for r in rollouts} == {True, False}  # else the mask is not put to the test

    rewards = [(1.0 if i % 3 else 0.0) - 0.03 * len(r.token_ids) / 100 for i, r in enumerate(rollouts)]
    trained = [i for i, r in enumerate(rollouts) if r.ended or not masked]
    old = [plain.tokens(r, 0.9)[0].detach() for r in rollouts]
    ref = [reference.tokens(r, 0.9)[0].detach() for r in rollouts]
    active = 0
    for _ in range(3):
        loss = 0.0
        for i in trained:
            group = torch.tensor(rewards[i // 3 * 3 : i // 3 * 3 + 3], dtype=torch.float64)
            a = rewards[i] - group.mean()
            if loss_type != "dr_grpo":
                a = a / ((group - group.mean()) ** 2).mean().sqrt()
            logprobs = plain.tokens(rollouts[i], 0.9)[0]
            length = len(logprobs)
            for t in range(length):
                gap = (logprobs - old[i]).mean() if loss_type == "gspo" else logprobs[t] - old[i][t]
                rho = gap.exp()
                active += not 1 - low <= rho.item() <= 1 + high
                if loss_type == "cispo":
                    objective = min(rho.item(), 1 + high) * a * logprobs[t]
                else:
                    objective = torch.minimum(rho * a, rho.clamp(1 - low, 1 + high) * a)
                log_ratio = ref[i][t] - logprobs[t]
                k3 = log_ratio.exp() - 1 - log_ratio
                size = {"grpo": len(trained) * length, "gspo": len(trained) * length, "dr_grpo": 6 * 44}
                total = sum(len(rollouts[j].token_ids) for j in trained)
                loss = loss - (objective - 0.1 * k3) / size.get(loss_type, total)
        plain.descend(loss, args.learning_rate)
    plain.assert_equals(start, args.output_dir)
    assert active > 0  # the clip did something
    assert log_of(args)[0]["clip_fraction"] > 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_micro_batches_change_nothing(start, tasks_path, tmp_path, known_run, loss_type):
    known_run()
    before, ends = load_file(f"{start}/adapter_model.safetensors"), []
    for settings in (dict(micro_batch_tokens=1), dict(gradient_checkpointing=True)):
        args = arguments(start, tasks_path, tmp_path, loss_type=loss_type, output_dir=str(tmp_path / f"m{len(ends)}"),
                         **settings)  # fmt: skip
        train_grpo_lora.main(args)
        ends.append(load_file(f"{args.output_dir}/adapter_model.safetensors"))
    moved = max((ends[0][name] - before[name]).abs().max() for name in before).item()
    assert moved > 0
    assert max((ends[1][name] - ends[0][name]).abs().max() for name in before).item() < 1e-3 * moved


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_tied_groups_leave_the_weights_as_they_were(start, tasks_path, tmp_path, known_run, loss_type):
    known_run(passes=lambda call, i: i >= 3)  # the first group fails, the second passes
    args = arguments(start, tasks_path, tmp_path, loss_type=loss_type, length_penalty_alpha=0.0)
    train_grpo_lora.main(args)
    before, after = (load_file(f"{at}/adapter_model.safetensors") for at in (start, args.output_dir))
    assert all(torch.equal(before[name], after[name]) for name in before)
    (record,) = log_of(args)
    assert record["tied_groups"] == 1 and record["base_reward"] == 0.5 and record["grad_norm"] == 0


def test_dynamic_sampling_replaces_tied_groups(start, tasks_path, tmp_path, known_run):
    # first call: two groups, the second one tied; second call: one group, tied; third: one group that is not
    sampled = known_run(passes=lambda call, i: {1: i == 0 or i >= 3, 2: True, 3: i == 1}[call])
    args = arguments(start, tasks_path, tmp_path, dynamic_sampling=True, length_penalty_alpha=0.0, learning_rate=1e-4)
    train_grpo_lora.main(args)
    (record,) = log_of(args)
    assert [len(rollouts) for rollouts in sampled] == [6, 3, 3]
    assert record["replaced_groups"] == record["dropped_groups"] == 2
    assert record["tied_groups"] == 0.5 and record["base_reward"] == pytest.approx(8 / 12)  # of all that was sampled
    assert record["sampled_tokens"] == sum(len(r.token_ids) for rollouts in sampled for r in rollouts)


def test_dynamic_sampling_gives_up(start, tasks_path, tmp_path, known_run):
    sampled = known_run(passes=lambda call, i: True)
    args = arguments(start, tasks_path, tmp_path, dynamic_sampling=True, max_resamples=2)
    train_grpo_lora.main(args)
    assert [len(rollouts) for rollouts in sampled] == [6, 6, 6]
    assert log_of(args)[0]["replaced_groups"] == 4 and log_of(args)[0]["dropped_groups"] == 6
    assert log_of(args)[0]["base_reward"] == log_of(args)[0]["tied_groups"] == 1
    before, after = (load_file(f"{at}/adapter_model.safetensors") for at in (start, args.output_dir))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_overlong_penalty_is_taken_from_the_reward(start, tasks_path, tmp_path, known_run):
    sampled = known_run()
    args = arguments(start, tasks_path, tmp_path, overlong_buffer=8, length_penalty_alpha=0.0, max_new_tokens=44)
    train_grpo_lora.main(args)
    expected = [(1.0 if i % 3 else 0.0) - 0.5 * overlong_penalty(len(r.token_ids), r.ended, 44, 8)
                for i, r in enumerate(sampled[0])]  # fmt: skip
    assert log_of(args)[0]["reward"] == pytest.approx(sum(expected) / 6)
    assert log_of(args)[0]["reward"] < log_of(args)[0]["base_reward"]


def test_overlong_penalty_by_hand():
    assert [overlong_penalty(n, True, 100, 20) for n in (1, 80, 85, 100)] == [0, 0, 0.25, 1]
    assert overlong_penalty(100, False, 100, 20) == 1 and overlong_penalty(100, False, 100, 0) == 0


# (passed, DAPO's penalty) of the completions of a group, a completion's place in it, its advantage by DAPO's formula
OVERLONG = [
    ([(True, 1.0), *[(False, 0.0)] * 7], 0, 2.65),  # right at the limit; short and wrong
    (
        [(True, 0.5), (False, 1.0), *[(False, 0.0)] * 6],
        2,
        -0.10,
    ),  # right, half way; wrong, cut off; short and wrong
]


@pytest.mark.parametrize(("group", "place", "expected"), OVERLONG)
def test_the_overlong_penalty_weighs_as_in_dapo(group, place, expected):
    dapo = torch.tensor([(1.0 if passed else -1.0) - penalty for passed, penalty in group], dtype=torch.float64)
    theirs = (dapo - dapo.mean()) / dapo.std(correction=0)
    assert theirs[place].item() == pytest.approx(expected, abs=0.005)
    ours = [float(passed) - 0.5 * penalty for passed, penalty in group]
    assert ours == pytest.approx(((dapo + 1) / 2).tolist())  # so a group's advantages are the same
    assert group_advantages(ours, [0] * 8, True, 0.1) == pytest.approx(theirs.tolist())


def test_what_is_masked_counts_only_in_the_constant_of_dr_grpo():
    lengths = [10, 30, 0, 0]  # two of four were cut off
    assert weights(lengths, "dr_grpo", 50) == [1 / 200, 1 / 200, 0.0, 0.0]  # N max_new_tokens, as in TRL
    assert weights(lengths, "grpo", 50) == weights(lengths, "gspo", 50) == [1 / 20, 1 / 60, 0.0, 0.0]
    assert weights(lengths, "dapo", 50) == weights(lengths, "cispo", 50) == [1 / 40, 1 / 40, 0.0, 0.0]
    for loss_type in LOSS_TYPES:
        assert weights([0, 0], loss_type, 50) == [0.0, 0.0]


@given(st.lists(st.integers(0, 30), min_size=2, max_size=8).filter(any), st.sampled_from(LOSS_TYPES))
def test_weights_sum_as_each_paper_says(lengths, loss_type):
    total = sum(length * weight for length, weight in zip(lengths, weights(lengths, loss_type, 30), strict=True))
    if loss_type == "dr_grpo":
        assert total == pytest.approx(sum(lengths) / (30 * len(lengths)))
    else:
        assert total == pytest.approx(1)


@given(st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_group_advantages_are_centred_and_0_where_tied(passed):
    rewards = [float(p) for p in passed]
    for divide in (True, False):
        advantage = group_advantages(rewards, [7] * 4, divide)
        assert sum(advantage) == pytest.approx(0)
        assert (len(set(rewards)) == 1) == (advantage == [0.0] * 4)


def test_lengths_alone_do_not_count_like_the_tests():
    failed = [-0.01 * length / 100 for length in (20, 40, 60, 80)]  # all fail: alpha 0.01 is all that differs
    assert max(group_advantages(failed, [0] * 4, True)) > 1  # as in the paper: the shortest is like a lone pass
    assert group_advantages(failed, [0] * 4, True, 0.1) == pytest.approx([0.03, 0.01, -0.01, -0.03])
    mixed = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert group_advantages(mixed, [0] * 8, True, 0.1) == group_advantages(mixed, [0] * 8, True)


def test_the_floor_reaches_the_update(start, tasks_path, tmp_path, known_run):
    norms = []
    for floor in (0.0, 0.1):
        known_run(lambda call, i: False)
        args = arguments(start, tasks_path, tmp_path, std_floor=floor, length_penalty_alpha=0.01, kl_coef=0.0,
                         max_new_tokens=44, seed=2, output_dir=str(tmp_path / f"{floor}"))  # fmt: skip
        train_grpo_lora.main(args)
        norms.append(log_of(args)[0]["grad_norm"])
    assert norms[0] > 10 * norms[1] > 0
    with pytest.raises(InputError, match="std_floor"):
        train_grpo_lora.check(Args(std_floor=-0.1))


def test_the_degrees_of_freedom_of_the_std():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    for ddof in (0, 1):
        expected = (rewards - rewards.mean()) / rewards.std(correction=ddof)
        assert group_advantages(rewards.tolist(), [0] * 8, True, 0.1, ddof) == pytest.approx(expected.tolist())
    by_n, by_n_less_1 = (group_advantages(rewards.tolist(), [0] * 8, True, 0.1, ddof)[0] for ddof in (0, 1))
    assert by_n / by_n_less_1 == pytest.approx((8 / 7) ** 0.5) == pytest.approx(1.069, abs=1e-3)
    # the floor is for the std as it was asked for: 0.09 by n and 0.104 by n - 1
    near = [0.18, 0.0, 0.18, 0.0]
    assert group_advantages(near, [0] * 4, True, 0.1) == pytest.approx([0.9, -0.9] * 2)
    assert group_advantages(near, [0] * 4, True, 0.1, 1)[0] == pytest.approx(0.09 / torch.tensor(near).std().item())
    assert group_advantages([1.0], [0], True, 0.0, 1) == [0.0]  # the others could not be judged


@pytest.mark.parametrize(("settings", "high"), [
    ({}, 0.2), ({"clip_range": 0.3}, 0.3), ({"clip_range_high": 0.28}, 0.28), ({"loss_type": "cispo"}, 4.0),
    ({"loss_type": "cispo", "clip_range": 0.3}, 4.0), ({"loss_type": "cispo", "clip_range_high": 1.5}, 1.5),
])  # fmt: skip
def test_the_upper_end_of_the_clip(settings, high):
    args, ratios = Args(**settings), torch.tensor([0.01, 0.99 + high, 1.01 + high])
    assert clip_range_high(args) == high
    assert clipped(args, ratios).tolist() == [args.loss_type != "cispo", False, True]


def test_cispo_weighs_a_token_by_its_ratio_up_to_5():
    for ratio, weight in ((2.0, 2.0), (4.9, 4.9), (10.0, 5.0)):
        new = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
        high = clip_range_high(Args(loss_type="cispo"))
        objective, _ = policy_objective(new, torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1), "cispo", 0.2, high)
        (gradient,) = torch.autograd.grad(objective.sum(), new)
        assert gradient.item() == pytest.approx(-weight)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_the_dual_clip_bounds_what_a_negative_advantage_can_do(loss_type):
    def at(ratio: float, advantage: float, dual: float) -> tuple[float, float]:
        """The objective and its gradient with respect to the log-probability."""
        new = torch.tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
        one = torch.ones(1, 1, dtype=torch.float64)
        objective, _ = policy_objective(new, 0 * one, advantage * one, one, loss_type, 0.2, 0.2, dual)
        (gradient,) = torch.autograd.grad(objective.sum(), new)
        return objective.item(), gradient.item()

    assert at(10.0, -2.0, 0.0) == pytest.approx((-20.0, -20.0))
    assert at(10.0, -2.0, 3.0) == pytest.approx((-6.0, 0.0))
    assert at(3.1, -2.0, 3.0) == pytest.approx((-6.0, 0.0)) and at(2.9, -2.0, 3.0) == pytest.approx((-5.8, -5.8))
    for advantage, ratio in ((2.0, 10.0), (2.0, 0.1), (-2.0, 0.1), (-2.0, 1.0), (0.0, 10.0)):
        assert at(ratio, advantage, 3.0) == at(ratio, advantage, 0.0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dual_clip": 0.9}, "--dual_clip 0.9: must be above 1"),
        ({"dual_clip": 1.0}, "--dual_clip 1.0: must be above 1"),
        ({"dual_clip": -3.0}, "must be above 1"),
        ({"dual_clip": 3.0, "loss_type": "cispo"}, "cispo bounds the ratio"),
    ],
)
def test_a_dual_clip_that_cannot_be_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


def test_the_degrees_of_freedom_are_0_or_1(tmp_path):
    assert parse_args(Args, ["--std_ddof", "1"]).std_ddof == 1
    (tmp_path / "my.yaml").write_text("std_ddof: 1\n")
    assert parse_args(Args, ["--config", str(tmp_path / "my.yaml")]).std_ddof == 1
    with pytest.raises(InputError, match="std_ddof"):
        parse_args(Args, ["--std_ddof", "2"])


def test_std_and_dual_clip_reach_the_update(start, tasks_path, tmp_path, known_run):
    norms = {}
    for name, changed in {"": {}, "ddof": {"std_ddof": 1}, "dual": {"dual_clip": 1.0001}}.items():
        known_run()
        args = arguments(start, tasks_path, tmp_path, kl_coef=0.0, length_penalty_alpha=0.0, num_iterations=2,
                         clip_range=10.0, output_dir=str(tmp_path / f"r{name}"), **changed)  # fmt: skip
        train_grpo_lora.main(args)
        norms[name] = log_of(args)[0]["grad_norm"]
    assert norms["ddof"] < norms[""] != norms["dual"]


def test_each_objective_on_one_token():
    new = torch.tensor([[1.5]], dtype=torch.float64).log().requires_grad_()
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    expected = {"grpo": (1.3, 0.0), "dapo": (1.3, 0.0), "gspo": (1.3, 0.0), "cispo": (1.3 * new.item(), 1.3)}
    for loss_type, (value, gradient) in expected.items():
        objective, ratio = policy_objective(new, old, torch.ones(1, 1), mask, loss_type, 0.2, 0.3)
        (found,) = torch.autograd.grad(objective.sum(), new)
        assert objective.item() == pytest.approx(value) and found.item() == pytest.approx(gradient)
        assert ratio.item() == pytest.approx(1.5)
