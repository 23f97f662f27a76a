"""How scored samples are cut into forward and backward passes."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from model.micro_batches import micro_batches, padded_tokens

LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=24)


def items_of(lengths):
    return [SimpleNamespace(group=g, prompt_length=5 + 3 * g, lengths=[n]) for g, n in lengths]


@given(LENGTHS, st.integers(1, 300), st.booleans(), st.integers(1, 3))
def test_every_item_comes_once_and_no_pass_is_too_large(lengths, num_tokens, shared, at_least):
    items = items_of(lengths)
    passes = micro_batches(items, num_tokens, shared=shared, at_least=at_least)
    assert sorted(i for one in passes for i in one) == list(range(len(items)))
    for one in passes:
        assert len(one) == 1 or padded_tokens([items[i] for i in one], shared) <= num_tokens
    assert len(passes) >= min(at_least, len(items))


def test_samples_of_a_task_are_side_by_side():
    items = items_of([(0, 9), (1, 8), (0, 7), (1, 6)])
    assert micro_batches(items, 1000) == [[2, 0, 3, 1]]
    assert micro_batches(items, 30) == [[2, 0], [3, 1]]


def test_a_shared_prompt_is_counted_once():
    items = items_of([(0, 10)] * 8)
    assert micro_batches(items, 85, shared=True) == [list(range(8))]
    assert len(micro_batches(items, 85, shared=False)) == 2
