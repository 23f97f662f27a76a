"""Scored samples of a step, and how they are cut into micro-batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import mean, pstdev
from typing import Any

import torch

from judging.metrics import mean_parts
from judging.pool import Verdict
from judging.tasks import Task, stop_strings
from model.load import set_recomputing
from model.merged_copy import drop_merged_copy
from model.sampling import Rollout


@dataclass
class Sample:
    """A completion, its verdict and reward. `group` is one number for all that a task was given at one time."""

    task: Task
    group: int
    rollout: Rollout
    verdict: Verdict | None = None
    reward: float = 0.0
    check: Future[Verdict] | None = None  # while the sandbox has it
    ratio: float | None = None  # policy / policy that sampled, at the start of the last optimizer step that it was in

    @property
    def length(self) -> int:
        """Tokens, the EOS included."""
        return len(self.rollout.token_ids)

    @property
    def prompt_length(self) -> int:
        return len(self.rollout.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Of its completions, which is one."""
        return [self.length]

    @property
    def base_reward(self) -> float:
        return float(self.verdict.passed)

    def record(self) -> dict[str, Any]:
        """What names it in a file."""
        return {"task_id": self.task["task_id"], "completion": self.rollout.text}


@dataclass
class BeforeUpdate:
    """The tokens of a batch as they were sampled; each (B, R), rows as the samples, 0 on padding.

    reference: log-probabilities of the SFT adapter. logprobs: of the policy that sampled, computed as the update
    computes them; None if it is the one update. values: the critic's; None without one.
    """

    mask: torch.Tensor
    reference: torch.Tensor
    logprobs: torch.Tensor | None = None
    values: torch.Tensor | None = None


def tied_groups(base_rewards: list[float], group: list[int]) -> float:
    """Share of tasks whose samples all pass or all fail: the tests tell them apart in nothing.

    >>> tied_groups([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    0.5
    """
    groups = {number: {r for r, g in zip(base_rewards, group, strict=True) if g == number} for number in group}
    return sum(len(earned) == 1 for earned in groups.values()) / max(len(groups), 1)


def item_order(count: int, seed: int) -> Iterator[int]:
    """Indices without end: every one once in each pass, each pass in a new order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(count), count)


def complete(run: Any, tasks: list[Task], prompts: list[list[int]], chosen: list[tuple[int, int]], **how: Any
             ) -> list[Sample]:  # fmt: skip
    """Completions of some of the tasks, of which the sandbox has those that ended first already.

    Args:
        run: has the policy, its sampler, the sandbox and the arguments.
        chosen: (group, index of the task) of each; what is drawn goes by seed and group.
        how: num_samples, temperature, top_p.
    """
    checks = {}

    def judge(rollout: Rollout) -> None:
        checks[id(rollout)] = run.sandbox.submit(tasks[chosen[rollout.prompt_index][1]], rollout.text)

    rollouts = generate(run, [tasks[index] for _, index in chosen], [prompts[index] for _, index in chosen],
                        [(run.args.seed, group) for group, _ in chosen], on_rollout=judge, **how)  # fmt: skip
    return [
        Sample(tasks[index], group, r, check=checks[id(r)])
        for r in rollouts
        for group, index in [chosen[r.prompt_index]]
    ]


def generate(run: Any, tasks: list[Task], prompts: list[list[int]], seeds: list[tuple[int, ...]], **how: Any
             ) -> list[Rollout]:  # fmt: skip
    """Completions of each prompt under the policy as it is, by the run's sampler; how: more of its arguments."""
    args, run.phase = run.args, "sampling"
    set_recomputing(run.model, False)
    rollouts = run.sampler(
        run.model,
        run.tokenizer,
        prompts,
        max_new_tokens=args.max_new_tokens,
        stops=[stop_strings(task) for task in tasks] if args.stop_at_strings else None,
        batch_size=args.sample_batch_size,
        unpack=args.unpack_to_sample,
        graph=args.cuda_graph,
        seeds=seeds,
        **how,
    )
    drop_merged_copy(run.model)
    set_recomputing(run.model, args.gradient_checkpointing)
    return rollouts


def enough_tokens(run: Any, samples: list[Sample], least: int) -> list[Rollout]:
    """The samples' completions, and so many more of the same prompts, not to be trained on, that they have so many
    tokens."""
    rollouts, again = [s.rollout for s in samples], 0
    prompts = {s.group: (s.task, s.rollout.prompt_ids) for s in samples}
    tasks, ids = zip(*prompts.values(), strict=True)
    while sum(len(r.token_ids) for r in rollouts) < least:
        again += 1
        rollouts += generate(run, list(tasks), list(ids), [(run.args.seed, group, again) for group in prompts],
                             num_samples=8, temperature=run.args.temperature, top_p=run.args.top_p)  # fmt: skip
    return rollouts


def step_figures(samples: list[Sample], advantage: list[float]) -> dict[str, float]:
    """What every method logs of a step's scored samples, one at least; docs/metrics.md explains each."""
    lengths = [s.length for s in samples]
    return {
        "base_reward": mean(s.base_reward for s in samples),
        "reward": mean(s.reward for s in samples),
        "gen_len": mean(lengths),
        "cut_off": mean(float(not s.rollout.ended) for s in samples),
        "entropy": -sum(sum(s.rollout.logprobs) for s in samples) / sum(lengths),
        "advantage_mean": mean(advantage or [0.0]),
        "advantage_std": pstdev(advantage or [0.0]),
        "tied_groups": tied_groups([s.base_reward for s in samples], [s.group for s in samples]),
        "weak": sum(s.verdict.weak for s in samples),
    } | mean_parts([s.verdict.parts for s in samples])


def completion_rows(
    samples: list[Sample], advantage: list[float], token_advantage: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """Scored samples as the rows of a table, with what the run's report shows of each.

    Args:
        token_advantage: (B, R), of a critic.
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
            **({"parts": s.verdict.parts} if s.verdict.parts else {}),
            "prompt": s.task["prompt"],
            "token_ids": s.rollout.token_ids,
            "logprobs": [round(logprob, 4) + 0.0 for logprob in s.rollout.logprobs],
            **({"token_advantages": [round(x, 4) for x in tokens[: s.length]]} if tokens else {}),
        }
        for s, a, tokens in zip(samples, advantage, each, strict=True)
    ]
