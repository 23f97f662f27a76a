"""The learning curve: the pass rate on fixed tasks, by sampling, as a function of the tokens that training has sampled.

The policy completes the tasks several times each at temperature 1 and top_p 1, and the sandbox judges: before the first
update, whenever `every` more tokens have been sampled, and at the end. Greedy pass@1 of the last adapter is one noisy
number; the area under this curve tells methods apart that end alike. Measuring changes nothing in the training: it has
random numbers of its own, and its tokens and seconds are not the training's. The points are saved with the run's state.
"""

from __future__ import annotations

from typing import Any

from judging.tasks import Task

STREAM = 1  # a prompt's seed in training ends earlier, or in 0, which is the same to numpy


class LearningCurve:
    """The points so far, and when the next is due.

    points: pairs (tokens that training had sampled, pass rate then). seconds: what measuring took.

    Args:
        path, tasks, prompts: of the tasks that are completed: the file, and their prompts' token ids.
        every: tokens that training samples between two points.
    """

    def __init__(self, path: str, tasks: list[Task], prompts: list[list[int]], every: int) -> None:
        self.path, self.tasks, self.prompts, self.every = path, tasks, prompts, every
        self.number, self.next, self.seconds, self.points = 0, 0, 0.0, []

    def due(self, tokens: int, last: bool) -> bool:
        return last or tokens >= self.next

    @property
    def stream(self) -> tuple[int, int]:
        """What follows the run's seed and the task's number in the seed of this measurement's random numbers."""
        return self.number, STREAM

    def note(self, tokens: int, passed: list[bool], spent: int) -> dict[str, float]:
        """Take in one measurement. Return what to log.

        Args:
            tokens: how many training has sampled.
            passed: whether each judged sample passed.
            spent: tokens of this measurement.
        """
        self.number, self.next = self.number + 1, (tokens // self.every + 1) * self.every
        if not passed:  # no point
            print("no sample for the learning curve could be judged")
            return {}
        self.points.append((tokens, sum(passed) / len(passed)))
        return {"curve_pass_rate": self.points[-1][1], "curve_tokens": spent}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("number", "next", "seconds", "points")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def spent(self) -> dict[str, float | None]:
        """Return what run.json says of the curve."""
        return {"area": area(self.points), "curve_seconds": round(self.seconds, 1)}


def area(points: list[tuple[int, float]]) -> float | None:
    """Return the mean height of the line through the points, by the trapezoidal rule: the area over the width.

    One point has its own height; no point has none.

    Args:
        points: pairs (x, y), by rising x.

    >>> area([(0, 0.0), (10, 1.0), (40, 1.0)]), area([(0, 0.5)]), area([])
    (0.875, 0.5, None)
    """
    pairs = list(zip(points, points[1:], strict=False))
    width = sum(after[0] - before[0] for before, after in pairs)
    if not width:
        return points[-1][1] if points else None
    return sum((after[0] - before[0]) * (before[1] + after[1]) / 2 for before, after in pairs) / width
