"""GRPO's advantages for the best of k samples, and with the batch's standard deviation, against brute force."""

import json
from itertools import combinations, product
from math import comb, prod, sqrt
from statistics import fmean, pstdev, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_grpo_lora
from common import InputError
from train_grpo_lora import Args, best_of, check, group_advantages

REWARDS = st.lists(st.sampled_from([0.0, 1.0, 0.99, 0.5, -0.02]), min_size=2, max_size=7)


@given(REWARDS, st.data())
def test_the_best_of_k_is_that_of_all_subsets(rewards, data):
    k = data.draw(st.integers(2, len(rewards)))
    subsets = list(combinations(range(len(rewards)), k))
    best = {subset: max(rewards[i] for i in subset) for subset in subsets}
    means, std = best_of(rewards, k)
    for i, mean in enumerate(means):
        assert mean == pytest.approx(fmean(best[subset] for subset in subsets if i in subset))
    assert fmean(means) == pytest.approx(fmean(best.values()))
    assert std == pytest.approx(pstdev(best.values()), abs=1e-9)


@pytest.mark.parametrize(("size", "failing", "k"), [(8, 5, 4), (8, 4, 4), (16, 12, 4), (5, 4, 2), (8, 7, 7)])
def test_advantages_are_the_closed_form_where_samples_pass_or_fail(size, failing, k):
    """The formula of the docstring, arXiv 2508.10751."""
    rewards = [1.0] * (size - failing) + [0.0] * failing
    mean = 1 - comb(failing, k) / comb(size, k)
    std = sqrt(mean * (1 - mean))
    passed, failed = (1 - mean) / std, (1 - mean - comb(failing - 1, k - 1) / comb(size - 1, k - 1)) / std
    found = group_advantages(rewards, [0] * size, True, k=k)
    assert found == pytest.approx([passed] * (size - failing) + [failed] * failing)
    assert sum(found) == pytest.approx(0)
    plain = group_advantages(rewards, [0] * size, False, k=k)
    assert plain == pytest.approx([a * std for a in found])


@pytest.mark.parametrize(("size", "k"), [(4, 1), (4, 2), (5, 3), (6, 5)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_without_the_std_the_expected_gradient_is_that_of_pass_at_k(size, k, p):
    """Of a policy that passes with probability sigmoid(x), over all its outcomes.

    The baseline is the mean over all subsets, so it holds a sample's own reward: that takes a share of k / G off.
    """
    found = 0.0
    for outcome in product([1.0, 0.0], repeat=size):
        chance = prod(p if passed else 1 - p for passed in outcome)
        score = [1 - p if passed else -p for passed in outcome]  # of log-probability by x
        advantage = group_advantages(list(outcome), [0] * size, False, k=k)
        found += chance * fmean(a * s for a, s in zip(advantage, score, strict=True))
    gradient = k * (1 - p) ** (k - 1) * p * (1 - p)  # of 1 - (1 - p) ** k by x
    assert found == pytest.approx((1 - k / size) / k * gradient)


@given(REWARDS, st.integers(1, 8), st.booleans())
def test_nothing_is_learnt_where_every_subset_has_the_same_best(rewards, k, divide):
    advantage = group_advantages(rewards, [3] * len(rewards), divide, k=k)
    subsets = combinations(rewards, min(k, len(rewards)))
    assert (len({max(subset) for subset in subsets}) == 1) == (advantage == [0.0] * len(rewards))
    assert sum(advantage) == pytest.approx(0, abs=1e-9) and all(abs(a) < 20 for a in advantage)


def test_a_best_of_1_is_plain_grpo_and_groups_do_not_mix():
    rewards, group = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [4, 4, 4, 9, 9, 9, 9, 2, 2]
    assert group_advantages(rewards, group, True, k=1) == group_advantages(rewards, group, True)
    apart = group_advantages(rewards[:3], [0] * 3, True, k=2) + group_advantages(rewards[3:7], [0] * 4, True, k=2)
    assert group_advantages(rewards, group, True, k=2) == apart + [0.0, 0.0]


def test_the_floor_holds_for_the_std_over_subsets_too():
    rewards = [1.0] * 12 + [0.0] * 4  # one of 1820 subsets of four fails: a std of 0.023
    loose, held = (group_advantages(rewards, [0] * 16, True, floor, k=4) for floor in (0.0, 0.1))
    assert held == pytest.approx([a * sqrt(1819) / 1820 / 0.1 for a in loose])


@pytest.mark.parametrize(("ddof", "spread"), [(0, pstdev), (1, stdev)])
def test_the_batchs_std_weighs_all_groups_alike(ddof, spread):
    rewards, group = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0] * 4 + [1] * 4 + [2] * 4
    found = group_advantages(rewards, group, True, 0.1, ddof, "batch")
    std = spread(rewards)  # three of twelve
    assert found == pytest.approx([x / std for x in (0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5)] + [0.0] * 4)
    assert group_advantages(rewards[:4], [0] * 4, True, 0.1, ddof, "batch") == group_advantages(
        rewards[:4], [0] * 4, True, 0.1, ddof
    )
    small = [0.02, 0.0, 0.0, 0.0]
    assert group_advantages(small, [0] * 4, True, 0.1, ddof, "batch")[0] == pytest.approx(0.15)
    assert group_advantages([1.0] * 4 + [0.0] * 4, [0] * 4 + [1] * 4, True, 0.0, ddof, "batch") == [0.0] * 8


def test_they_reach_the_update(start, tasks_path, tmp_path, known_run):
    found = {}
    for name, changed in {"": {}, "batch": {"std_over": "batch"}, "pass_at_k": {"pass_at_k": 2}}.items():
        known_run(lambda call, i: i in (0, 4, 5))
        out = tmp_path / f"r{name}"
        train_grpo_lora.main(
            Args(train_path=tasks_path, sft_model=start, output_dir=str(out), max_length=384, max_new_tokens=16,
                 num_steps=1, batch_size=2, num_samples=3, kl_coef=0.0, length_penalty_alpha=0.0, **changed)
        )  # fmt: skip
        [record] = map(json.loads, (out / "grpo_train_log.jsonl").open())
        found[name] = record["advantage_std"]
    third, half = sqrt(2) / 3, 0.5  # the std of a group of three of which one or two pass, and of the batch
    assert found[""] == pytest.approx(1.0) and found["batch"] == pytest.approx(third / half)
    one_passes = [(1 - 2 / 3) / third, (1 / 2 - 2 / 3) / third, (1 / 2 - 2 / 3) / third]  # two of three pairs hold it
    assert found["pass_at_k"] == pytest.approx(pstdev([*one_passes, 0.0, 0.0, 0.0]))  # where two pass, all pairs do


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pass_at_k": 0}, "--pass_at_k 0: must be at least 1"),
        ({"pass_at_k": 8}, "--pass_at_k 8: must be less than --num_samples 8"),
        ({"pass_at_k": 4, "std_over": "batch"}, "leave --std_over and --std_ddof out"),
        ({"pass_at_k": 4, "std_ddof": 1}, "leave --std_over and --std_ddof out"),
        ({"replay": 4, "turns": 2}, "--replay: keeps completions of one turn"),
        ({"std_over": "batch", "loss_type": "dr_grpo"}, "dr_grpo does not divide"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed, says):
    with pytest.raises(InputError, match=says):
        check(Args(**changed))
    check(Args(pass_at_k=4, loss_type="dr_grpo"))
