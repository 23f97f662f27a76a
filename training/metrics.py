"""Compute what a step logs: sums over micro-batches and processes, means over updates, a row per completion."""

from __future__ import annotations

from statistics import mean, pstdev
from typing import Any

import torch

from common import processes
from judging.metrics import mean_parts
from model.parity import sampler_gap
from model.reference import kl_estimate
from training.samples import Batch, Sample
from training.turns import turn_metrics


class Metrics:
    """The metrics of one optimizer step: sums and maxima over its micro-batches and over all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, list[float]] = {}
        self.ratio_by_row: dict[int, float] = {}

    def add(self, **values: float | torch.Tensor) -> None:
        """Add a micro-batch's share to each metric. It is already divided by the whole batch's count."""
        for name, value in values.items():
            value = value.item() if isinstance(value, torch.Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + value

    def maximum(self, **values: float) -> None:
        """Note a micro-batch's values; `total` returns the largest of each, or nan if any is nan."""
        for name, value in values.items():
            self.maxima.setdefault(name, []).append(value)

    def add_policy(self, batch: Batch, old: torch.Tensor, num_tokens: int) -> None:
        """Add `kl_reference` (the KL to the reference) and `sampler_mismatch` (sampler against trainer).

        Args:
            old: (B, R), log-probabilities under the policy that sampled, as the trainer computes them.
            num_tokens: tokens of the whole batch.
        """
        self.add(kl_reference=kl_estimate(old, batch.reference, "k3").sum().item() / num_tokens)
        self.maximum(sampler_mismatch=sampler_gap(old, [s.rollout for s in batch.samples]))

    def add_ratios(self, batch: Batch, logprobs: torch.Tensor, old: torch.Tensor, ratio: torch.Tensor,
                   clipped: torch.Tensor, num_ratios: int, num_tokens: int) -> None:  # fmt: skip
        """Add `approx_kl`, `clip_fraction` and `ratio_max`: how far the policy has moved from the one that sampled.

        Args:
            logprobs, old: (B, R), log-probabilities under the policy and under the one that sampled.
            ratio: of each token (B, R), or of each completion (B, 1); clipped: whether its gradient stops.
            num_ratios, num_tokens: counts of the whole batch.
        """
        counted = (batch.mask > 0)[:, : ratio.shape[1]]
        self.add(approx_kl=kl_estimate(old, logprobs.detach(), "k3").sum().item() / num_tokens)
        self.add(clip_fraction=clipped[counted].sum().item() / num_ratios)
        self.maximum(ratio_max=ratio[counted].max().item())
        mean_ratios = ((ratio * counted).sum(1) / counted.sum(1)).tolist()
        self.ratio_by_row |= zip(batch.rows, mean_ratios, strict=True)

    def total(self) -> dict[str, float]:
        """Return sums and maxima over all processes. Every process must call it."""
        everyones = processes.gather([self.maxima])
        names = dict.fromkeys(name for maxima in everyones for name in maxima)
        return processes.add_up(self.sums) | {
            name: nan_max([value for maxima in everyones for value in maxima.get(name, [])]) for name in names
        }


def nan_max(values: list[float]) -> float:
    """Return the maximum, or nan if any value is nan, which Python's own max may lose."""
    return torch.tensor(values).max().item()


def over_steps(steps: list[dict[str, float]], last: dict[str, float]) -> dict[str, float]:
    """Combine the metrics of a batch's optimizer steps: the mean, or the maximum of those that are maxima.

    Args:
        last: the metrics of the last pass, from which `approx_kl` comes. That pass may have ended the epochs without an
            optimizer step.
    """
    return {name: mean(step[name] for step in steps) for name in steps[0]} | {
        "approx_kl": last["approx_kl"],
        "ratio_max": nan_max([step["ratio_max"] for step in steps]),
        "optimizer_steps": len(steps),
        "sampler_mismatch": nan_max([step["sampler_mismatch"] for step in steps]),
    }


def tied_groups(base_rewards: list[float], group: list[int]) -> float:
    """Return the share of tasks whose samples all pass or all fail, so that the group gives no learning signal.

    >>> tied_groups([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    0.5
    """
    groups = {number: {r for r, g in zip(base_rewards, group, strict=True) if g == number} for number in group}
    return sum(len(rewards) == 1 for rewards in groups.values()) / max(len(groups), 1)


def step_metrics(samples: list[Sample], advantage: list[float]) -> dict[str, float]:
    """Return the metrics that every method logs about a step's scored samples (at least one).

    docs/metrics.md explains each metric.
    """
    lengths = [s.length for s in samples]
    return (
        {
            "base_reward": mean(s.base_reward for s in samples),
            "reward": mean(s.reward for s in samples),
            "gen_len": mean(lengths),
            "cut_off": mean(float(not s.rollout.ended) for s in samples),
            "entropy": -sum(sum(s.rollout.logprobs) for s in samples) / sum(lengths),
            "advantage_mean": mean(advantage or [0.0]),
            "advantage_std": pstdev(advantage or [0.0]),
            "tied_groups": tied_groups([s.base_reward for s in samples], [s.group for s in samples]),
            "weak": sum(s.verdict.weak for s in samples),
        }
        | mean_parts([s.verdict.parts for s in samples])
        | turn_metrics(samples)
    )


def completion_rows(
    samples: list[Sample], advantage: list[float], token_advantage: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """Return a row for each scored sample, with everything that report.py shows.

    Args:
        token_advantage: (B, R), the advantage of each token; only with a critic.
    """
    each = token_advantage.tolist() if token_advantage is not None else [None] * len(samples)
    return [
        {
            **s.record(),
            "status": s.verdict.status,
            "reason": s.verdict.reason,
            "reward": s.reward,
            "advantage": a,
            "ratio": s.ratio,
            "length": s.length,
            **({"replayed": True} if s.replayed else {}),
            **({"parts": s.verdict.parts} if s.verdict.parts else {}),
            "prompt": s.task["prompt"],
            "token_ids": s.answers[-1].token_ids,
            "logprobs": [round(logprob, 4) + 0.0 for logprob in s.answers[-1].logprobs],
            **({"first_completion": s.turns[0].text, "told": s.told} if len(s.turns) > 1 else {}),
            **({"token_advantages": [round(x, 4) for x in tokens[: s.length]]} if tokens else {}),
        }
        for s, a, tokens in zip(samples, advantage, each, strict=True)
    ]
