"""Keep a completion that passes of each task, for the groups of that task in which none passes.

Such a group teaches nothing from its tests. With the kept completion it has G + 1, of which one passes. The old
log-probabilities of that one are those that its sampler reported when it was drawn, so the ratio makes up for how far
the policy has moved since, and the clip bounds it (arXiv 2506.05316 replays in the same way). It does not make up for
the choice: what is replayed was chosen because it passes, so the group's mean is above the policy's.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from judging.pool import Verdict
from model.sampling import Rollout
from training.samples import Sample


class Replay:
    """The passing completions that are kept: one a task, the first of its last group that had one.

    Args:
        steps: how many steps one may be used after the step that drew it.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.kept: dict[str, tuple[int, Sample]] = {}  # by task_id: step, completion

    def fill(self, step: int, samples: list[Sample]) -> list[Sample]:
        """Return the samples, with the kept one of its task added to each group in which none passes.

        Args:
            samples: judged, of all processes, whole groups. Those that pass are kept, with the reward that they end
                the step with.
        """
        filled = []
        for group in sorted({s.group for s in samples}):
            theirs = [s for s in samples if s.group == group]
            task, passing = theirs[0].task, [s for s in theirs if s.verdict.passed]
            drawn, old = self.kept.get(task["task_id"], (0, None))
            if passing:
                self.kept[task["task_id"]] = step, passing[0]
            elif old and 0 < step - drawn <= self.steps and old.rollout.prompt_ids == theirs[0].rollout.prompt_ids:
                theirs.append(replace(old, task=task, group=group, replayed=True))
            filled += theirs
        return filled

    def state_dict(self) -> dict[str, Any]:
        return {name: (step, asdict(s.rollout), asdict(s.verdict), s.reward) for name, (step, s) in self.kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, (step, rollout, verdict, reward) in state.items():
            self.kept[name] = step, Sample({}, 0, Rollout(**rollout), Verdict(**verdict), reward)
