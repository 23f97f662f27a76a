import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics import pass_at_k, wilson_interval


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(numbers):
    n, c, k = numbers
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


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
