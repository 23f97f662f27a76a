"""A second turn in training: the policy reads why its answer failed, answers again, and is trained on both answers.

A sample that took two turns is one sample: its tokens are those of both answers, its verdict and its reward the second
one's. What the model was told stands in the second answer's prompt, so it is not trained on (docs/methods/turns.md).
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from judging.pool import Verdict
from model.logprobs import TokenOutputs
from model.sampling import Rollout
from model.second_turn import TURN, room_of, second_prompts
from training.samples import Sample


def answer_again(sampler: Any, model, samples: list[Sample], verdicts: list[Verdict]) -> None:
    """Sample a second answer where the first one failed and the prompt of a second fits; submit it to the sandbox.

    The random numbers depend on the run's seed, the draw of the task and the sample's number in its group.

    Args:
        verdicts: on the first answers.
    """
    args = sampler.args
    for s in samples:
        s.turns = [s.rollout]
    failed = [(s, v) for s, v in zip(samples, verdicts, strict=True) if v.judged and not v.passed]
    room = room_of(args.sft_model, args)
    failures = [(s.task, s.rollout.text, v) for s, v in failed]
    found = second_prompts(sampler.tokenizer, sampler.sandbox, failures, args.feedback, room)
    again = [(s, said, ids) for (s, _), (said, ids) in zip(failed, found, strict=True) if ids]
    if not again:
        return
    seeds = [(args.seed, s.group, s.rollout.number + 1, TURN) for s, *_ in again]
    rollouts = sampler.generate(model, [s.task for s, *_ in again], [ids for *_, ids in again], seeds, num_samples=1,
                                temperature=args.temperature, top_p=args.top_p)  # fmt: skip
    for r in rollouts:
        s, s.told, _ = again[r.prompt_index]
        s.turns = [s.rollout, r]
        s.rollout = joined(*s.turns)
        s.check = sampler.sandbox.submit(s.task, r.text)


def joined(first: Rollout, second: Rollout) -> Rollout:
    """Return one rollout with the tokens of both; its end and its text are the second one's."""
    return Rollout(first.prompt_index, first.prompt_ids, first.token_ids + second.token_ids,
                   first.logprobs + second.logprobs, second.ended, second.text, first.number)  # fmt: skip


def join_turns(outputs: TokenOutputs, samples: list[Sample]) -> TokenOutputs:
    """Return outputs with a row for each sample, (B, R), from outputs with a row for each of its answers."""

    def rows(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        row = iter(tensor)
        each = [torch.cat([next(row)[: len(r.token_ids)] for r in s.answers]) for s in samples]
        return pad_sequence(each, batch_first=True)

    return TokenOutputs(rows(outputs.logprobs), rows(outputs.mask), rows(outputs.entropy), rows(outputs.hidden))


def turn_metrics(samples: list[Sample]) -> dict[str, float]:
    """Return what --turns 2 adds to a step's log; nothing if no sample could take a second turn."""
    if not any(s.turns for s in samples):
        return {}
    twice = [s for s in samples if len(s.turns) > 1]
    once = [s for s in samples if len(s.turns) == 1]
    return {
        "turn_1_pass": sum(s.verdict.passed for s in once) / len(samples),
        "turn_1_len": mean(len(s.turns[0].token_ids) for s in samples),
        "turn_2_share": len(twice) / len(samples),
        "turn_2_no_room": sum(not s.verdict.passed for s in once),
        **({"turn_2_pass": mean(float(s.verdict.passed) for s in twice),
            "turn_2_len": mean(len(s.turns[1].token_ids) for s in twice)} if twice else {}),
    }  # fmt: skip
