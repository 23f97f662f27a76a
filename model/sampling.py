"""Sample completions in batches. Training and evaluation use the same function."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from common import InputError
from judging.feedback import once_more, request
from judging.instruct import instruction
from judging.tasks import Task, truncate_at_stop
from model.load import eos_ids
from model.logprobs import base_of, next_logits, pad
from model.merged_copy import merged_copy
from model.sampling_graph import LOOK_EVERY, Draw, StaticDecoder, takes_graph
from model.tokens import check_round_trip, completion_text, prompt_ids

STEP = 20  # prompt tokens that a CPU reads in the time of a decoding step of one row (benchmarks/README.md)


@dataclass
class Rollout:
    """One sampled completion.

    token_ids: the tokens that were sampled and are trained on, including the EOS if it came.
    logprobs: the sampler's log-probability of each token, at the sampling temperature, before top_p.
    ended: whether an EOS (or a stop string) came before the limit.
    number: which of its prompt's samples it is.
    """

    prompt_index: int
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    ended: bool
    text: str
    number: int = 0


def encode_prompts(tokenizer, tasks: list[Task], max_prompt_tokens: int) -> list[list[int]]:
    """Return the prompt's token ids for each task.

    Raises:
        InputError: a prompt is longer than max_prompt_tokens, or the tokenizer does not give a solution back unchanged;
            names the task and what to do.
    """
    encoded = [prompt_ids(tokenizer, **prompt_text(tokenizer, task)) for task in tasks]
    for task, ids in zip(tasks, encoded, strict=True):
        if len(ids) > max_prompt_tokens:
            raise InputError(
                f"{task['task_id']}: its prompt has {len(ids)} tokens, --max_length less --max_new_tokens leaves "
                f"{max_prompt_tokens}; raise --max_length or drop the task"
            )
    check_round_trip(tokenizer, tasks, encoded)
    if any(task.get("instruct") for task in tasks):
        print(f"chat template: {getattr(tokenizer, 'template_of', '') or 'none; asked under plain headings'}")
    return encoded


def prompt_text(tokenizer, task: Task, failed: tuple[str, str] | None = None) -> dict[str, Any]:
    """Return a task's prompt, as arguments of the tokenizer.

    An `instruct` task becomes a question in the tokenizer's chat template, or under plain headings if it has none.

    Args:
        failed: an answer and what the tests say of it, for the prompt of a second turn.
    """
    if not task.get("instruct"):
        return {"text": once_more(task, *failed) if failed else task["prompt"]}
    said = [instruction(task), *([failed[0], request(task, failed[1])] if failed else [])]  # by turns
    if not tokenizer.chat_template:
        headings = ("### Instruction:\n{}\n\n### Response:\n", "{}\n\n")
        return {"text": "".join(headings[n % 2].format(text) for n, text in enumerate(said))}
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return {"text": text, "add_special_tokens": False}  # the template adds them


def generate(
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
    graph: bool = True,
    seeds: list[tuple[int, ...]] | None = None,
) -> Iterator[Rollout]:
    """Yield num_samples completions of each prompt, each as soon as it ends; `in_order` sorts them.

    A prompt is prefilled once for all its samples, and finished rows leave the batch. A prompt's random numbers depend
    only on its seed, so in float32 the other prompts of a batch do not change its completions. In 16 bits another
    batch may round differently, and a token that was nearly drawn can replace the one that was.

    Args:
        model: the policy, in evaluation mode.
        prompts: token ids of each prompt.
        temperature: 0 is greedy.
        batch_size: completions at a time (at least one prompt's samples).
        stops: for each prompt the strings (ASCII) that also end its completions. The text is cut before them, except
            for those of `tasks.KEPT`. None: only an EOS ends a completion.
        unpack: decode with a merged copy of the policy (`merged_copy`): faster, and 2 bytes a weight.
        graph: decode under a CUDA graph (`sampling_graph`) on a GPU, where the model allows it.
        seeds: one for each prompt; None draws new ones.
    """
    model = merged_copy(model) if unpack else base_of(model)
    chunk = max(1, batch_size // num_samples)
    on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
    batches = batches_of([len(prompt) for prompt in prompts], chunk, STEP * max_new_tokens if on_cpu else math.inf)
    draw = partial(_draw, temperature=temperature, top_p=top_p)
    ids = eos_ids(model, tokenizer)
    static = None
    if graph and takes_graph(model):
        rows, room = min(chunk, len(prompts)) * num_samples, max(map(len, prompts)) + max_new_tokens
        static = StaticDecoder(model, rows, room, max_new_tokens, draw)
    for chosen in batches:
        draws = [np.random.default_rng(seeds and seeds[i]).random((num_samples, max_new_tokens)) for i in chosen]
        draws = torch.from_numpy(np.concatenate(draws))  # (B, R)
        inputs = [prompts[i] for i in chosen]
        per_row = [(prompts[i], stops[i] if stops else ()) for i in chosen for _ in range(num_samples)]
        ends = Ends(tokenizer, ids, *map(list, zip(*per_row, strict=True)))
        rows = _decode_static(static, inputs, draws, ends) if static else _decode(model, inputs, draws, draw, ends)
        for row, token_ids, logprobs, ended in rows:
            index = chosen[row // num_samples]
            text = text_of(tokenizer, prompts[index], token_ids, ids, ends.stops[row])
            yield Rollout(index, prompts[index], token_ids, logprobs, ended, text, row % num_samples)
    if static:
        static.steps.clear()  # they refer to it: without this its cache would stay until the next collection


def batches_of(lengths: list[int], size: int, worth: float) -> list[list[int]]:
    """Split the indices of prompts into batches of at most `size`, the longest prompts first.

    A batch pads its prompts to the longest, so it ends early where that saves more than `worth` tokens of padding.

    >>> batches_of([10, 900, 12, 11, 9], 4, 1000), batches_of([10, 900, 12, 11, 9], 4, math.inf)
    ([[1], [2, 3, 0, 4]], [[1, 2, 3, 0], [4]])
    """
    batches: list[list[int]] = []
    for place, index in enumerate(sorted(range(len(lengths)), key=lambda index: -lengths[index])):
        left = min(size - len(batches[-1]), len(lengths) - place) if batches else 0
        if not left or (lengths[batches[-1][0]] - lengths[index]) * left > worth:
            batches.append([])
        batches[-1].append(index)
    return batches


def in_order(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Return completions in the order of their prompts, and of a prompt's samples."""
    return sorted(rollouts, key=lambda r: (r.prompt_index, r.number))


class Ends:
    """Find where a row ends: after its first EOS, or where a stop string is complete.

    Args:
        ids: every EOS. prompts: token ids of each row's prompt.
        stops: (B,) stop strings of each row; none for a row that only an EOS ends.
    """

    def __init__(self, tokenizer, ids: set[int], prompts: list[list[int]], stops: list[tuple[str, ...]]) -> None:
        self.tokenizer, self.ids, self.prompts, self.stops = tokenizer, ids, prompts, stops
        # a token is one character or more: no more than these can hold a stop string that a new one completes
        self.tail = max((len(stop) for strings in stops for stop in strings), default=0)

    def length(self, row: int, token_ids: list[int], seen: int) -> int:
        """Return a row's number of tokens up to its end; 0 if it has not ended. The first `seen` tokens hold no end."""
        for length in range(seen + 1, len(token_ids) + 1):
            if token_ids[length - 1] in self.ids:
                return length
            if self.stops[row]:
                start = max(0, length - self.tail - 1)  # one more: the first may lose its space
                before = self.prompts[row] if not start else []
                text = completion_text(self.tokenizer, before, token_ids[start:length])
                if any(stop in text for stop in self.stops[row]):
                    return length
        return 0


def _prefill(model, prompts: list[list[int]], room: int) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Return the logits (N, V) of the first token after each prompt, the prompts' cache, and their mask (N, P)."""
    device = model.get_input_embeddings().weight.device
    prompt_ids, mask = pad(prompts, 0, left=True, device=device)  # (N, P)
    cache = roomy_cache(model.config, room)
    logits = next_logits(model, input_ids=prompt_ids, attention_mask=mask, past_key_values=cache,
                         position_ids=(mask.cumsum(1) - 1).clamp(min=0))  # fmt: skip
    return logits, cache, mask


@torch.no_grad()
def _decode(model, prompts: list[list[int]], draws: torch.Tensor, draw: Draw, ends: Ends
            ) -> Iterator[tuple[int, list[int], list[float], bool]]:  # fmt: skip
    """Yield (row, token ids, log-probs, ended) of each row as it ends.

    Args:
        draws: (B, R) uniform numbers, one a token; B is a multiple of the prompts, R the most tokens.
    """
    (num_rows, max_new_tokens), num_samples = draws.shape, len(draws) // len(prompts)
    logits, cache, mask = _prefill(model, prompts, max(map(len, prompts)) + max_new_tokens)
    if num_samples > 1:
        cache.batch_repeat_interleave(num_samples)
        logits, mask = logits.repeat_interleave(num_samples, 0), mask.repeat_interleave(num_samples, 0)
    draws = draws.to(logits.device)
    positions = mask.sum(1, keepdim=True)  # (B, 1): of the next token
    rows = list(range(num_rows))  # the row that each line of the batch holds
    lines = torch.arange(num_rows, device=logits.device)  # the same, for the device
    logprobs = torch.zeros(num_rows, max_new_tokens, device=logits.device)
    tokens: list[list[int]] = [[] for _ in rows]
    running = set(rows)
    for step in range(max_new_tokens):
        token, logprob = draw(logits, draws[lines, step])  # (B,), (B,)
        logprobs[lines, step] = logprob
        for row, one in zip(rows, token.tolist(), strict=True):
            tokens[row].append(one)
        newly = [row for row in rows if row in running and ends.length(row, tokens[row], step)]
        running.difference_update(newly)
        for row in newly:
            yield row, tokens[row][: step + 1], logprobs[row, : step + 1].tolist(), True
        if not running or step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if len(running) <= 0.9 * len(rows):  # dropping rows copies the cache: do it for several at once
            kept = [line for line, row in enumerate(rows) if row in running]
            rows = [rows[line] for line in kept]
            keep = torch.tensor(kept, device=logits.device)
            cache.batch_select_indices(keep)
            lines, token, mask, positions = lines[keep], token[keep], mask[keep], positions[keep]
        logits = next_logits(model, input_ids=token[:, None], attention_mask=mask, position_ids=positions,
                             past_key_values=cache)  # fmt: skip
        positions = positions + 1
    for row in sorted(running):
        yield row, tokens[row], logprobs[row].tolist(), False


@torch.no_grad()
def _decode_static(static: StaticDecoder, prompts: list[list[int]], draws: torch.Tensor, ends: Ends
                   ) -> Iterator[tuple[int, list[int], list[float], bool]]:  # fmt: skip
    """Do as `_decode` does, but look at what was drawn only every `LOOK_EVERY` tokens: a look makes the GPU wait."""
    (num_rows, max_new_tokens), num_samples = draws.shape, len(draws) // len(prompts)
    static.load(*_prefill(static.model, prompts, max(map(len, prompts))), draws, num_samples)
    rows = list(range(num_rows))  # the row that each line of the batch holds
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    running, seen = set(rows), 0
    while running:
        made = min(seen + LOOK_EVERY, max_new_tokens)
        static.run_to(made)
        for row, new_tokens, new_logprobs in zip(rows, *static.drawn(seen, made), strict=False):  # others are empty
            tokens[row] += new_tokens
            logprobs[row] += new_logprobs
        for row in rows:
            length = ends.length(row, tokens[row], seen) if row in running else 0
            if length or row in running and made == max_new_tokens:
                running.discard(row)
                yield row, tokens[row][: length or made], logprobs[row][: length or made], length > 0
        seen = made
        kept = [line for line, row in enumerate(rows) if row in running]
        if kept and static.shrink_to(kept):
            rows = [rows[line] for line in kept]


def text_of(tokenizer, prompt: list[int], ids: list[int], ends: set[int], stops: tuple[str, ...]) -> str:
    """Return the text of the ids, without the EOS (one of `ends`), cut as `tasks.truncate_at_stop` does."""
    text = completion_text(tokenizer, prompt, ids[:-1] if ids[-1] in ends else ids)
    return truncate_at_stop(text, stops)


def _draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw next tokens (B,) and return their log-probabilities (B,) too, by uniform numbers (B,) in [0, 1).

    Args:
        logits: (B, V).
    """
    logits = logits if temperature in (0, 1) else logits / temperature
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
    """Hold a layer's keys and values, (B, heads, length, head size), with room ahead.

    A new token is written in place; transformers' own layer copies everything for each new token.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.stores = room, None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Add states, and return all states."""
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
    """Make a cache for `room` tokens. Layers with a sliding window or a state stay as transformers makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
