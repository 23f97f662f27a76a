import pytest

from batches import item_order, tied_groups


def test_every_item_comes_once_in_a_pass():
    order = item_order(5, seed=1)
    passes = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes) and passes[0] != passes[1]


def test_tied_groups_go_by_the_tests_alone():
    assert tied_groups([1.0, 1.0, 0.0, 0.0, 0.0, 1.0], [0, 0, 1, 1, 2, 2]) == pytest.approx(2 / 3)
    assert tied_groups([], []) == 0
