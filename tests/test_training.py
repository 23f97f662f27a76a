import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_rl_lora
from batches import tied_groups
from common import InputError
from train_rl_lora import Args
from training import item_order


def arguments(start, tasks_path, tmp_path, **settings) -> Args:
    base = dict(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "rl"), max_length=384,
                max_new_tokens=16, num_steps=2, batch_size=2, num_samples=2)  # fmt: skip
    return Args(**base | settings)


def test_the_tracker_gets_what_the_log_gets(start, tasks_path, tmp_path):
    args = arguments(start, tasks_path, tmp_path, report_to="tensorboard")
    train_rl_lora.main(args)
    log = [json.loads(line) for line in open(f"{args.output_dir}/rl_train_log.jsonl")]
    (events,) = (tmp_path / "rl").glob("rl-code-agent/events*")
    tracked = EventAccumulator(str(events)).Reload()
    for name in log[0].keys() - {"step"}:
        points = [(event.step, event.value) for event in tracked.Scalars(name)]
        assert points == [(record["step"], pytest.approx(record[name], rel=1e-6)) for record in log], name


def test_a_tracker_that_is_not_installed_is_said_in_a_line(start, tasks_path, tmp_path):
    with pytest.raises(InputError, match="--report_to wandb: is not installed"):
        train_rl_lora.main(arguments(start, tasks_path, tmp_path, report_to="wandb"))


def test_every_item_comes_once_in_a_pass():
    order = item_order(5, seed=1)
    passes = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes) and passes[0] != passes[1]


def test_tied_groups_go_by_the_tests_alone():
    assert tied_groups([1.0, 1.0, 0.0, 0.0, 0.0, 1.0], [0, 0, 1, 1, 2, 2]) == pytest.approx(2 / 3)
    assert tied_groups([], []) == 0
