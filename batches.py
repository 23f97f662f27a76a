"""Scored samples of a step, and how they are cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from parity import kl_estimate
from rewards import base_reward
from rollout import Rollout
from sandbox import Verdict
from tasks import Task


@dataclass
class Sample:
    """A completion, its verdict and reward. `group` is one number for all that a task was given at one time."""

    task: Task
    group: int
    rollout: Rollout
    verdict: Verdict | None = None
    reward: float = 0.0

    @property
    def length(self) -> int:
        """Tokens, the EOS included."""
        return len(self.rollout.token_ids)

    @property
    def base_reward(self) -> float:
        return base_reward(self.verdict)

    def record(self) -> dict[str, Any]:
        """What names it in a file."""
        return {"task_id": self.task["task_id"], "completion": self.rollout.text}


@dataclass
class BeforeUpdate:
    """The tokens of a batch as they were sampled; each (B, R), rows as the samples, 0 on padding.

    logprobs: of the policy that sampled, computed as the update computes them. reference: of the SFT adapter. values:
    the critic's, 0 without one. sampler_mismatch: the largest difference from the sampler's own log-probabilities.
    """

    logprobs: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    sampler_mismatch: float

    @property
    def kl_reference(self) -> float:
        """k3 estimate of KL(policy that sampled || reference) a token."""
        return (kl_estimate(self.logprobs, self.reference, "k3").sum() / self.mask.sum()).item()


def micro_batches(samples: list[Sample], size: int, rows: list[int] | None = None) -> Iterator[list[int]]:
    """Indices (of `rows`, by default all) of `size` samples at a time.

    Samples of one group stand together, for they share their prompt; groups of like lengths too: little is padding.
    """
    chosen = list(range(len(samples)) if rows is None else rows)
    longest = {}
    for i in chosen:
        longest[samples[i].group] = max(longest.get(samples[i].group, 0), samples[i].length)
    chosen.sort(key=lambda i: (longest[samples[i].group], samples[i].group, samples[i].length, i))
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]


def tied_groups(base_rewards: list[float], group: list[int]) -> float:
    """Share of tasks whose samples all pass or all fail: the tests tell them apart in nothing.

    >>> tied_groups([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    0.5
    """
    groups = {number: {r for r, g in zip(base_rewards, group, strict=True) if g == number} for number in group}
    return sum(len(earned) == 1 for earned in groups.values()) / max(len(groups), 1)
