"""Which tasks are drawn next: by shuffled passes, without those that are solved, or near a pass rate of one half."""

import io
import json
import random
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_resume import broken_log

import train_grpo_lora
import train_rl_lora
from common import InputError
from judging.pool import Verdict
from training import run as training
from training import sampler
from training.samples import item_order
from training.task_order import TaskOrder


def order_of(count: int, mode: str, **changed) -> TaskOrder:
    knobs = dict(seed=1, solved_after=4, recheck=0.25, selection_floor=0.05, estimate_decay=0.9) | changed
    return TaskOrder(count, SimpleNamespace(prompt_selection=mode, **knobs))


def test_the_estimate_by_hand():
    order = order_of(3, "half")
    assert order.estimates() == [0.5, 0.5, 0.5]
    order.note(0, [True, False])
    order.note(1, [False] * 8)
    assert order.estimates() == [0.5, 1 / 10, 0.5]
    order.note(0, [True, True])  # what was counted before is worth 0.9 ** 2
    assert order.estimates()[0] == pytest.approx((1 + 0.81 + 2) / (2 + 2 * 0.81 + 2))
    weights = [p * (1 - p) + 0.05 for p in (3.81 / 5.62, 0.1, 0.5)]
    assert order.weights() == pytest.approx(weights)
    found = order.metrics()
    assert found["estimated_pass_rate"] == pytest.approx((3.81 / 5.62 + 0.6) / 3) and found["set_aside"] == 0
    assert found["effective_tasks"] == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))


def test_with_a_decay_of_1_it_is_the_beta_mean_and_with_0_the_last_group_counts():
    for decay, expected in ((1.0, (1 + 3) / (2 + 6)), (0.0, (1 + 2) / (2 + 3))):
        order = order_of(1, "half", estimate_decay=decay)
        order.note(0, [True, False, False])
        order.note(0, [True, True, False])
        assert order.estimates() == [expected]


def test_off_is_shuffled_passes_and_logs_nothing():
    order = order_of(5, "off")
    assert order.draw(3) + order.draw(9) == list(islice(item_order(5, 1), 12))
    assert order.metrics() == {}
    assert TaskOrder(5, SimpleNamespace(seed=1)).draw(12) == list(islice(item_order(5, 1), 12))  # a script without it


def test_solved_draws_as_off_until_a_task_is_solved():
    order = order_of(5, "solved")
    drawn = []
    for _ in range(6):
        drawn += order.draw(2)
        for index in drawn[-2:]:
            order.note(index, [True, True, True, False])
    assert drawn == list(islice(item_order(5, 1), 12))
    assert order.metrics()["effective_tasks"] == 5


def test_solved_tasks_are_set_aside_and_come_back_where_a_sample_fails():
    order = order_of(3, "solved")
    order.note(2, [True, True])
    assert order.aside() == []  # two of the four that it takes
    order.note(2, [True, True])
    order.note(0, [True] * 3 + [False])
    order.note(0, [True] * 3)
    assert order.aside() == [2] and order.metrics()["set_aside"] == 1
    order.note(2, [True, False])
    assert order.aside() == []
    order.note(2, [True] * 3)
    assert order.aside() == []  # it counts from the failure
    order.note(2, [True])
    assert order.aside() == [2]


def test_what_is_set_aside_is_drawn_recheck_times_as_often_as_before():
    order = order_of(10, "solved", recheck=0.2)
    for index in range(4):
        order.note(index, [True] * 4)
    counts = Counter(order.draw(6000))
    expected = order.weights()
    assert [w / sum(expected) for w in expected] == pytest.approx([0.2 / 10] * 4 + [(1 - 0.08) / 6] * 6)
    for index in range(10):
        assert counts[index] / 6000 == pytest.approx(expected[index] / sum(expected), rel=0.25)
    assert max(counts[index] for index in range(4, 10)) - min(counts[index] for index in range(4, 10)) <= 1  # passes
    never = order_of(10, "solved", recheck=0.0)
    never.note(7, [True] * 4)
    assert Counter(never.draw(900)) == {index: 100 for index in range(10) if index != 7}
    assert never.metrics()["effective_tasks"] == 9


def test_where_all_are_solved_all_are_drawn():
    for recheck in (0.0, 0.2):
        order = order_of(4, "solved", recheck=recheck)
        for index in range(4):
            order.note(index, [True] * 4)
        assert set(order.draw(100)) == {0, 1, 2, 3}
        assert order.metrics()["effective_tasks"] == 4 == order.metrics()["set_aside"]


def test_half_draws_in_proportion_to_its_weights():
    order = order_of(4, "half")
    for index, passes in enumerate((0, 3, 8, 8)):
        order.note(index, [True] * passes + [False] * (8 - passes))
    weights = order.weights()
    assert weights == pytest.approx([0.09 + 0.05, 0.24 + 0.05, 0.09 + 0.05, 0.09 + 0.05])
    counts = Counter(index for _ in range(6000) for index in order.draw(1))
    for index in range(4):
        assert counts[index] / 6000 == pytest.approx(weights[index] / sum(weights), rel=0.1)


def test_half_draws_no_task_twice_in_a_batch():
    order = order_of(5, "half")
    for _ in range(50):
        assert len(set(order.draw(5))) == 5
    assert sorted(Counter(order.draw(7)).values()) == [1, 1, 1, 2, 2]
    for _ in range(50):  # nor twice in a step whose groups dynamic sampling replaces
        batch = order.draw(3)
        assert sorted(batch + order.draw(2, batch)) == [0, 1, 2, 3, 4]
    assert sorted(order.draw(5, [0, 1, 2, 3, 4])) == [0, 1, 2, 3, 4]  # all have come


def test_a_run_whose_groups_are_replaced_draws_no_task_twice_in_a_step(start, tmp_path, monkeypatch):
    draws, draw = [], TaskOrder.draw
    (tmp_path / "few.jsonl").write_text("".join(open("data/pocket_train.jsonl").readlines()[:6]))
    monkeypatch.setattr(TaskOrder, "draw", lambda *given: draws.append(draw(*given)) or draws[-1])
    settings = dict(train_path=str(tmp_path / "few.jsonl"), sft_model=start, output_dir=str(tmp_path / "run"),
                    max_length=384, max_new_tokens=4, num_steps=4, batch_size=2, num_samples=2, max_resamples=2,
                    prompt_selection="half", dynamic_sampling=True)  # fmt: skip
    train_grpo_lora.main(train_grpo_lora.Args(**settings))  # in four tokens nothing passes: all groups are replaced
    assert len(draws) == 12
    for step in range(0, 12, 3):
        assert sorted(sum(draws[step : step + 3], [])) == [0, 1, 2, 3, 4, 5]


def test_half_climbs_the_objective_that_its_page_names():
    def value(p: float) -> float:
        return p**2 / 2 - p**3 / 3 + 0.05 * p

    order = order_of(9, "half", estimate_decay=1.0)
    for index in range(9):
        order.note(index, [True] * index + [False] * (8 - index))
    for p, weight in zip(order.estimates(), order.weights(), strict=True):
        assert weight == pytest.approx((value(p + 1e-5) - value(p - 1e-5)) / 2e-5, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["off", "solved", "half"]), st.integers(1, 7), st.integers(0, 11), st.integers(0, 99))
def test_an_order_goes_on_from_its_saved_state(mode, count, stop, seed):
    def play(order: TaskOrder, batches: range) -> list[int]:
        drawn = []
        for batch in batches:
            drawn += order.draw(3)
            for at, index in enumerate(drawn[-3:]):
                luck = random.Random(f"{seed} {batch} {at}")
                order.note(index, [luck.random() < index / max(count - 1, 1) for _ in range(4)])
        return drawn

    whole = play(order_of(count, mode), range(12))
    first, file = order_of(count, mode), io.BytesIO()
    before = play(first, range(stop))
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = order_of(count, mode)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert before + play(second, range(stop, 12)) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("script", "mode"), [(train_grpo_lora, "half"), (train_rl_lora, "solved")])
def test_a_run_goes_on_from_its_saved_state(start, tasks_path, tmp_path, monkeypatch, capsys, script, mode):
    """Weights and log of an interrupted run are those of one that was not."""
    method = script.__name__.split("_")[1]

    def verdicts(samples):
        return [Verdict("pass" if sum(s.rollout.token_ids) % 3 else "fail", "") for s in samples]

    monkeypatch.setattr(sampler, "verdicts", verdicts)

    def train(name: str, mode: str = mode) -> tuple[dict, list[dict]]:
        out = tmp_path / name
        settings = dict(train_path=tasks_path, sft_model=start, output_dir=str(out), max_length=384, max_new_tokens=8,
                        num_steps=6, batch_size=2, num_samples=2, prompt_selection=mode, solved_after=2, recheck=0.3,
                        save_every=1, learning_rate=1e-3)  # fmt: skip
        script.main(script.Args(**settings))
        log = [json.loads(line) for line in (out / f"{method}_train_log.jsonl").open()]
        return load_file(out / "adapter_model.safetensors"), [
            {name: value for name, value in record.items() if "second" not in name} for record in log
        ]

    whole, whole_log = train("whole")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=3))
        train("cut")
    cut, cut_log = train("cut")
    assert "resuming after step 3" in capsys.readouterr().out
    assert cut_log == whole_log and all(torch.equal(cut[name], whole[name]) for name in whole)
    assert 0 < whole_log[-1]["effective_tasks"] <= 6 and 0 < whole_log[-1]["estimated_pass_rate"] < 1
    assert (max(record["set_aside"] for record in whole_log) > 0) == (mode == "solved")
    assert "set_aside" not in train("off", "off")[1][0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"solved_after": 0}, "--solved_after 0: must be at least 1"),
        ({"recheck": 1.0}, "--recheck 1.0: must be in"),
        ({"selection_floor": 0.0}, "--selection_floor 0.0: must be positive"),
        ({"estimate_decay": 1.1}, "--estimate_decay 1.1: must be in"),
        ({"prompt_selection": "half", "prompt_level": "curriculum"}, "choose one of the two"),
    ],
)
def test_bad_settings_are_refused_at_once(changed, says):
    for script in (train_grpo_lora, train_rl_lora):
        with pytest.raises(InputError, match=says):
            script.check(script.Args(**changed))
