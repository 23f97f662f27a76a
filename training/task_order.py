"""The order in which a run draws its tasks: shuffled passes, or chosen by each task's pass rate so far.

`--prompt_selection solved` passes over tasks whose last `--solved_after` samples or more all passed (ScaleRL, arXiv
2510.13786, drops a prompt for good at a pass rate of 0.9). Such a task is drawn `--recheck` times as often as without
the selection; a sample that fails brings it back. `half` draws task i with a weight of p_i (1 - p_i) + floor, without
replacement within a step; p_i is the mean of a Beta distribution whose counts fade (arXiv 2506.05316 also aims at pass
rates near one half, by another estimate):

    p_i = (1 + passed_i) / (2 + passed_i + failed_i),    counts <- decay^n counts + those of the n new samples

What this does to the objective is in docs/methods/prompt_selection.md. The order follows from the seed and from the
verdicts, so it is the same in all processes, and its state is saved with the run's.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from training.samples import Sample, item_order

SAVED = ("taken", "passed", "failed", "in_a_row")


class TaskOrder:
    """Draws the indices of a run's items, and keeps an estimate of each task's pass rate.

    taken: how many indices came from the shuffled passes, those that were passed over included. passed, failed: counts
    of a task's samples, which fade. in_a_row: how many samples of a task passed since the last that failed.
    """

    def __init__(self, count: int, args: Any) -> None:
        self.args, self.count = args, count
        self.mode = getattr(args, "prompt_selection", "off")  # not every script has a choice
        self.shuffled, self.rng, self.taken = item_order(count, args.seed), random.Random(args.seed), 0
        self.passed, self.failed, self.in_a_row = [0.0] * count, [0.0] * count, [0] * count

    def draw(self, count: int, drawn: Collection[int] = ()) -> list[int]:
        """Return the indices of the next items.

        Args:
            drawn: earlier in this step; `half` takes none of them while there are others.
        """
        return self.weighted(count, drawn) if self.mode == "half" else [self.next() for _ in range(count)]

    def next(self) -> int:
        """Return the next index of the shuffled passes that is not set aside, or now and then one that is."""
        aside = self.aside()
        if len(aside) == self.count or (aside and self.rng.random() < self.args.recheck * len(aside) / self.count):
            return self.rng.choice(aside)
        index = self.from_passes()
        while index in aside:
            index = self.from_passes()
        return index

    def from_passes(self) -> int:
        self.taken += 1
        return next(self.shuffled)

    def weighted(self, count: int, before: Collection[int]) -> list[int]:
        """Return indices drawn by their weights; none comes twice, or is one of those before, until all have come."""
        drawn, left = [], {index: weight for index, weight in enumerate(self.weights()) if index not in before}
        for _ in range(count):
            left = left or dict(enumerate(self.weights()))
            drawn += self.rng.choices(list(left), list(left.values()))
            del left[drawn[-1]]
        return drawn

    def aside(self) -> list[int]:
        """Return the indices of the tasks that count as solved."""
        if self.mode != "solved":
            return []
        return [index for index, passes in enumerate(self.in_a_row) if passes >= self.args.solved_after]

    def estimates(self) -> list[float]:
        """Return the estimated pass rate of each task; 0.5 for one that was not drawn yet."""
        return [(1 + passed) / (2 + passed + failed) for passed, failed in zip(self.passed, self.failed, strict=True)]

    def weights(self) -> list[float]:
        """Return what the probability that a draw is of this task is proportional to, for each task."""
        if self.mode == "half":
            return [p * (1 - p) + self.args.selection_floor for p in self.estimates()]
        aside, weights = self.aside(), [1.0] * self.count
        for index in aside if len(aside) < self.count else ():
            recheck = self.args.recheck
            weights[index] = recheck * (self.count - len(aside)) / (self.count - recheck * len(aside))
        return weights

    def note(self, index: int, passed: list[bool]) -> None:
        """Take in the verdicts of a task's new samples, those that could be judged."""
        fade = self.args.estimate_decay ** len(passed)
        self.passed[index] = fade * self.passed[index] + sum(passed)
        self.failed[index] = fade * self.failed[index] + len(passed) - sum(passed)
        self.in_a_row[index] = self.in_a_row[index] + len(passed) if all(passed) else 0

    def note_samples(self, task_of_group: dict[int, int], samples: list[Sample]) -> None:
        """Take in judged samples of all processes, if the order depends on them."""
        if self.mode == "off":
            return
        for group in sorted({s.group for s in samples}):
            self.note(task_of_group[group], [s.verdict.passed for s in samples if s.group == group])

    def metrics(self) -> dict[str, float]:
        """Return what the log says of the selection; nothing if there is none."""
        if self.mode == "off":
            return {}
        weights = self.weights()
        return {
            "set_aside": len(self.aside()),
            "estimated_pass_rate": sum(self.estimates()) / self.count,
            "effective_tasks": sum(weights) ** 2 / sum(weight**2 for weight in weights),
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SAVED} | {"rng": self.rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; only on a new order."""
        for _ in range(state["taken"]):
            next(self.shuffled)
        self.rng.setstate(state["rng"])
        vars(self).update({name: state[name] for name in SAVED})
