"""What is trained on: a completion with its verdict and reward, and the tensors of a batch of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from judging.pool import Verdict
from judging.tasks import Task
from model.sampling import Rollout


@dataclass
class Sample:
    """A completion, its verdict and its reward. Samples that a task was given at one time share a `group` number.

    turns: with --turns 2, the one or two answers of which `rollout` has the tokens, one after the other, and the last
    text; the verdict and the reward are the last one's. told: what the model was told between them.
    """

    task: Task
    group: int
    rollout: Rollout
    verdict: Verdict | None = None
    reward: float = 0.0
    check: Future[Verdict] | None = None  # pending in the sandbox; None once there is a verdict
    replayed: bool = False  # by an earlier policy, drawn in an earlier step
    ratio: float | None = None  # policy / policy that sampled, at the start of its last optimizer step
    turns: list[Rollout] = field(default_factory=list)
    told: str = ""

    @property
    def answers(self) -> list[Rollout]:
        """Its answers, each with its own prompt."""
        return self.turns or [self.rollout]

    @property
    def length(self) -> int:
        """Tokens, the EOS included; of all turns."""
        return len(self.rollout.token_ids)

    @property
    def prompt_length(self) -> int:
        return len(self.rollout.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Token counts of the completions of its prompt, of which a sample has one and a preference pair two."""
        return [len(self.answers[0].token_ids)]

    @property
    def later(self) -> list[tuple[tuple[int, ...], int]]:
        """Token ids of the prompt, and token count of the completion, of its second turn if it has one."""
        return [(tuple(r.prompt_ids), len(r.token_ids)) for r in self.answers[1:]]

    @property
    def base_reward(self) -> float:
        return float(self.verdict.passed)

    def record(self) -> dict[str, Any]:
        """Name the sample in a file."""
        return {"task_id": self.task["task_id"], "completion": self.rollout.text}


@dataclass
class Batch:
    """Samples, and the tensors that stay fixed while they are trained on. Rows are samples, padding is 0.

    mask: (B, R), 1 on tokens. reference: (B, R), log-probabilities of the tokens under the SFT adapter.
    old_logprobs: (B, R), under the policy that sampled; None where the batch makes one update, whose own
    log-probabilities these are. old_values, returns: (B, R), of a critic. advantage: (B, R), or (B, 1) for one value
    a completion. weight: (B, 1), of a completion's tokens in the loss. rows: each sample's place in the step's list.
    """

    samples: list[Sample]
    rows: list[int]
    mask: torch.Tensor
    reference: torch.Tensor
    old_logprobs: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    advantage: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, chosen: list[int]) -> Batch:
        """Return the chosen rows, padded to the longest of them."""
        longest = max(self.samples[i].length for i in chosen)
        tensors = {
            one.name: tensor[chosen, :longest]
            for one in fields(self)
            if isinstance(tensor := getattr(self, one.name), torch.Tensor)
        }
        return replace(self, samples=[self.samples[i] for i in chosen], rows=[self.rows[i] for i in chosen], **tensors)

    @property
    def num_tokens(self) -> int:
        return sum(s.length for s in self.samples)

    def minibatches(self, size: int, epochs: int) -> Iterator[Batch]:
        """Yield batches of `size` samples (0: all of them), in a new random order each epoch."""
        for _ in range(epochs):
            order = random.sample(range(len(self)), len(self))
            for start in range(0, len(self), size or len(self)):
                yield self[sorted(order[start : start + (size or len(self))])]


def item_order(count: int, seed: int) -> Iterator[int]:
    """Yield indices without end: each one once in a pass, each pass in a new order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(count), count)
