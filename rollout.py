"""Sample completions in batches; training and evaluation use the same function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from common import InputError
from logprobs import base_of, pad
from policy import eos_ids, merged_copy
from tasks import Task, instruction, truncate_at_stop


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
    encoded = [tokenizer(**prompt_text(tokenizer, task)).input_ids for task in tasks]
    for task, ids in zip(tasks, encoded, strict=True):
        if len(ids) > max_prompt_tokens:
            raise InputError(
                f"{task['task_id']}: its prompt has {len(ids)} tokens, --max_length less --max_new_tokens leaves "
                f"{max_prompt_tokens}; raise --max_length or drop the task"
            )
    return encoded


def prompt_text(tokenizer, task: Task) -> dict[str, Any]:
    """What a model is given for a task, as arguments of its tokenizer.

    An `instruct` task is put as a question, in the tokenizer's chat template, or under plain headings if it has none.
    """
    if not task.get("instruct"):
        return {"text": task["prompt"]}
    if not tokenizer.chat_template:
        return {"text": f"### Instruction:\n{instruction(task)}\n\n### Response:\n"}
    messages = [{"role": "user", "content": instruction(task)}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return {"text": text, "add_special_tokens": False}  # the template has them


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
    stops: list[tuple[str, ...]] | None = None,
    unpack: bool = True,
    seeds: list[tuple[int, ...]] | None = None,
    on_rollout: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Rollout]:
    """num_samples completions for each prompt, in the order of the prompts; temperature 0 is greedy.

    A prompt is prefilled once for all its samples, and finished rows leave the batch. What is drawn for a prompt
    depends on its seed alone: not on the batch, nor on what else is sampled.

    Args:
        model: the policy, in evaluation mode.
        prompts: token ids of each prompt.
        batch_size: completions at a time (at least one prompt's samples).
        stops: of each prompt the strings (ASCII) that end its completions too, and that the text then does not
            contain (but for those of `tasks.KEPT`); None: only an EOS ends them.
        unpack: decode with a merged copy of the policy (`policy.merged_copy`): faster, and 2 bytes a weight.
        seeds: of each prompt; None: new ones.
        on_rollout: called with each completion as it ends, while others are still being sampled.
    """
    model = merged_copy(model) if unpack else base_of(model)
    done: list[list[Rollout]] = [[None] * num_samples for _ in prompts]
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    chunk = max(1, batch_size // num_samples)
    for start in range(0, len(prompts), chunk):
        chosen = longest_first[start : start + chunk]
        draws = [np.random.default_rng(seeds and seeds[i]).random((num_samples, max_new_tokens)) for i in chosen]
        rows = _decode(model, tokenizer, [prompts[i] for i in chosen], torch.from_numpy(np.concatenate(draws)),
                       temperature, top_p, [stops[i] if stops else () for i in chosen])  # fmt: skip
        for row, *outcome in rows:
            index = chosen[row // num_samples]
            rollout = done[index][row % num_samples] = Rollout(index, prompts[index], *outcome)
            on_rollout(rollout)
    return [rollout for group in done for rollout in group]


@torch.no_grad()
def _decode(model, tokenizer, prompts: list[list[int]], draws: torch.Tensor, temperature: float, top_p: float,
            stops: list[tuple[str, ...]]) -> Iterator[tuple[int, list[int], list[float], bool, str]]:  # fmt: skip
    """Yield (row, token ids, log-probs, ended, text) of each row as it ends.

    Args:
        draws: (B, R) uniform numbers, one a token; B is a multiple of the prompts, R the most tokens.
        stops: (N,) stop strings of each prompt, none for a prompt that only an EOS ends.
    """
    device = model.get_input_embeddings().weight.device
    (num_rows, max_new_tokens), num_samples = draws.shape, len(draws) // len(prompts)
    draws = draws.to(device)
    ends = torch.tensor(sorted(eos_ids(model, tokenizer)), device=device)
    prompt_ids, mask = pad(prompts, 0, left=True, device=device)  # (N, P)
    cache = roomy_cache(model.config, prompt_ids.shape[1] + max_new_tokens)
    output = model(input_ids=prompt_ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                   past_key_values=cache, use_cache=True, logits_to_keep=1)  # fmt: skip
    logits = output.logits[:, -1]  # (N, V)
    if num_samples > 1:
        cache.batch_repeat_interleave(num_samples)
        logits, mask = logits.repeat_interleave(num_samples, 0), mask.repeat_interleave(num_samples, 0)
    positions = mask.sum(1, keepdim=True)  # (B, 1): of the next token
    alive = torch.arange(num_rows, device=device)  # the row each line of the batch stands for
    tokens = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(num_rows, max_new_tokens, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def outcome(row: int, length: int) -> tuple[int, list[int], list[float], bool, str]:
        ids = tokens[row, :length].tolist()
        text = completion_text(tokenizer, ids, special, stops[row // num_samples])
        return row, ids, logprobs[row, :length].tolist(), bool(ended[row]), text

    special = set(ends.tolist())
    tail = max((len(stop) for strings in stops for stop in strings), default=0)  # a token is one character or more
    for step in range(max_new_tokens):
        token, logprob = _draw(logits, temperature, top_p, draws[alive, step])  # (B,), (B,)
        tokens[alive, step], logprobs[alive, step] = token, logprob
        stopped = torch.isin(token, ends)
        if tail:
            texts = tokenizer.batch_decode(tokens[alive, max(0, step + 1 - tail) : step + 1].tolist())
            found = [any(stop in text for stop in stops[row // num_samples])
                     for row, text in zip(alive.tolist(), texts, strict=True)]  # fmt: skip
            stopped |= torch.tensor(found, device=device)
        newly = alive[stopped & ~ended[alive]].tolist()
        ended[newly] = True
        for row in newly:
            yield outcome(row, step + 1)
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
    for row in (~ended).nonzero().flatten().tolist():
        yield outcome(row, max_new_tokens)


def completion_text(tokenizer, ids: list[int], ends: set[int], stops: tuple[str, ...]) -> str:
    """What the ids say, without the EOS (one of `ends`), cut at a stop string as `tasks.truncate_at_stop` does."""
    text = tokenizer.decode(ids[:-1] if ids[-1] in ends else ids)
    return truncate_at_stop(text, stops)


def _draw(
    logits: torch.Tensor, temperature: float, top_p: float, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next tokens (B,) and their log-probabilities (B,) from logits (B, V) and uniform numbers (B,) in [0, 1)."""
    logits = logits.float() if temperature in (0, 1) else logits.float() / temperature
    probs = logits.softmax(-1)  # (B, V)
    if temperature == 0:
        token = probs.argmax(-1)
    else:
        inside = probs
        if top_p < 1:
            sorted_probs, order = probs.sort(descending=True)
            outside = sorted_probs.cumsum(-1, dtype=torch.float64) - sorted_probs > top_p  # the first to reach it stays
            inside = probs.masked_fill(outside.scatter(-1, order, outside), 0.0)
        until = inside.cumsum(-1, dtype=torch.float64)  # the token is the first to pass the number: none of 0 does
        token = torch.searchsorted(until, (uniform * until[:, -1])[:, None], right=True).squeeze(1)
        token = token.clamp(max=logits.shape[1] - 1)
    return token, probs.gather(1, token[:, None]).squeeze(1).log()


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, (B, heads, length, head size), with room ahead.

    A new token is written in place; transformers' own layer copies all that it holds for each one.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.stores = room, None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Add states, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.stores is None:
            held = (self.keys, self.values) if start else (None, None)
            self.stores = []
            for states, before in zip((key_states, value_states), held, strict=True):
                rows, heads, _, size = states.shape
                self.stores.append(states.new_empty(rows, heads, max(self.room, end), size))
                if before is not None:
                    self.stores[-1][:, :, :start] = before
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, start:end] = states
        self.keys, self.values = (store[:, :, :end] for store in self.stores)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.stores = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.stores = None


def roomy_cache(config, room: int) -> DynamicCache:
    """A cache for `room` tokens. Layers with a sliding window, or with a state, stay as transformers makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
