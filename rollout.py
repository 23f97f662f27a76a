"""Sample completions in batches; training and evaluation use the same function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from common import InputError
from logprobs import pad
from policy import eos_ids, merged_copy
from tasks import STOP_STRINGS, Task, truncate_at_stop


@dataclass
class Rollout:
    """One sampled completion.

    token_ids: what was sampled and is trained on, the EOS included if it came.
    logprobs: the sampler's log-probability of each token, at the sampling temperature, before top_p.
    ended: whether an EOS (or a stop string) came before the limit.
    """

    prompt_index: int
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    ended: bool
    text: str


def encode_prompts(tokenizer, tasks: list[Task], max_prompt_tokens: int) -> list[list[int]]:
    """Prompt token ids of each task.

    Raises:
        InputError: a prompt is longer than max_prompt_tokens; names the task and the way out.
    """
    encoded = [tokenizer(task["prompt"]).input_ids for task in tasks]
    for task, ids in zip(tasks, encoded, strict=True):
        if len(ids) > max_prompt_tokens:
            raise InputError(
                f"{task['task_id']}: its prompt has {len(ids)} tokens, --max_length less --max_new_tokens leaves "
                f"{max_prompt_tokens}; raise --max_length or drop the task"
            )
    return encoded


def sample(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    num_samples: int = 1,
    batch_size: int = 64,
    stop_at_strings: bool = False,
    generator: torch.Generator | None = None,
    on_batch: Callable[[list[Rollout]], None] = lambda rollouts: None,
) -> list[Rollout]:
    """num_samples completions for each prompt, in the order of the prompts; temperature 0 is greedy.

    A prompt is prefilled once for all its samples, and finished rows leave the batch.

    Args:
        model: the policy; what decodes is a merged copy of it (`policy.merged_copy`).
        prompts: token ids of each prompt.
        batch_size: completions at a time (at least one prompt's samples).
        stop_at_strings: also end at HumanEval's stop strings, which the text then does not contain.
        on_batch: called with each finished batch.
    """
    model = merged_copy(model)
    done: list[list[Rollout]] = [[] for _ in prompts]
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    chunk = max(1, batch_size // num_samples)
    for start in range(0, len(prompts), chunk):
        chosen = longest_first[start : start + chunk]
        rows = _decode(model, tokenizer, [prompts[i] for i in chosen], num_samples, max_new_tokens, temperature,
                       top_p, stop_at_strings, generator)  # fmt: skip
        indices = [index for index in chosen for _ in range(num_samples)]
        rollouts = [Rollout(index, prompts[index], *row) for index, row in zip(indices, rows, strict=True)]
        for rollout in rollouts:
            done[rollout.prompt_index].append(rollout)
        on_batch(rollouts)
    return [rollout for group in done for rollout in group]


@torch.no_grad()
def _decode(model, tokenizer, prompts, num_samples, max_new_tokens, temperature, top_p, stop_at_strings, generator
            ) -> Iterator[tuple[list[int], list[float], bool, str]]:  # fmt: skip
    """Yield (token ids, log-probs, ended, text) for each of len(prompts) * num_samples rows."""
    device = model.get_input_embeddings().weight.device
    ends = torch.tensor(sorted(eos_ids(model, tokenizer)), device=device)
    prompt_ids, mask = pad(prompts, 0, left=True, device=device)  # (N, P)
    output = model(input_ids=prompt_ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                   use_cache=True, logits_to_keep=1)  # fmt: skip
    cache, logits = output.past_key_values, output.logits[:, -1]  # (N, V)
    if num_samples > 1:
        cache.batch_repeat_interleave(num_samples)
        logits, mask = logits.repeat_interleave(num_samples, 0), mask.repeat_interleave(num_samples, 0)
    num_rows = len(prompts) * num_samples
    positions = mask.sum(1, keepdim=True)  # (B, 1): of the next token
    alive = torch.arange(num_rows, device=device)  # the row each line of the batch stands for
    tokens = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(num_rows, max_new_tokens, device=device)
    lengths = torch.full((num_rows,), max_new_tokens, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)

    for step in range(max_new_tokens):
        token, logprob = _draw(logits, temperature, top_p, generator)  # (B,), (B,)
        tokens[alive, step], logprobs[alive, step] = token, logprob
        stopped = torch.isin(token, ends)
        if stop_at_strings:
            tails = tokenizer.batch_decode(tokens[alive, max(0, step - 15) : step + 1].tolist())
            stopped |= torch.tensor([any(stop in tail for stop in STOP_STRINGS) for tail in tails], device=device)
        newly = stopped & ~ended[alive]
        lengths[alive[newly]], ended[alive[newly]] = step + 1, True
        running = ~ended[alive]
        if not running.any() or step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if running.sum() <= 0.9 * len(alive):  # dropping rows copies the cache: do it for several at once
            keep = running.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, token, mask, positions = alive[keep], token[keep], mask[keep], positions[keep]
        output = model(input_ids=token[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache,
                       use_cache=True)  # fmt: skip
        logits, positions = output.logits[:, -1], positions + 1

    special = set(ends.tolist())
    for row in range(num_rows):
        ids = tokens[row, : lengths[row]].tolist()
        text = tokenizer.decode(ids[:-1] if ids[-1] in special else ids)
        text = truncate_at_stop(text) if stop_at_strings else text
        yield ids, logprobs[row, : lengths[row]].tolist(), bool(ended[row]), text


def _draw(logits: torch.Tensor, temperature: float, top_p: float, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Next tokens (B,) and their log-probabilities (B,) from logits (B, V)."""
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token = logprobs.argmax(-1)
    else:
        probs = logprobs.exp()
        if top_p < 1:
            sorted_probs, order = probs.sort(descending=True)
            outside = sorted_probs.cumsum(-1) - sorted_probs > top_p  # the first token to reach top_p stays
            probs = probs.masked_fill(outside.scatter(-1, order, outside), 0.0)
        token = torch.multinomial(probs, 1, generator=generator).squeeze(1)
    return token, logprobs.gather(1, token[:, None]).squeeze(1)
