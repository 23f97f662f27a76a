"""Compute log-probabilities of completion tokens under the policy.

Completions of one prompt share it: their row is [prompt, completion 1, ..., completion G]. A 4-D mask lets each
completion see only the prompt and itself, and its positions continue from the prompt. This takes P + G R tokens instead
of G (P + R).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.load import dtype_of, logit_settings


def pad(sequences: list[list[int]], value: int, left: bool, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return padded token ids and mask, both (B, longest); the mask comes from the lengths, never from the pad id."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), value)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        columns = slice(longest - len(sequence), None) if left else slice(0, len(sequence))
        ids[row, columns] = torch.tensor(sequence)
        mask[row, columns] = 1
    return ids.to(device), mask.to(device)


@dataclass
class TokenOutputs:
    """The policy's outputs for completion tokens; all are 0 on padding.

    Attributes:
        logprobs, mask: (B, R).
        entropy: (B, R), of the distribution that each token was drawn from; None if not asked for.
        hidden: (B, R, H), the state that each token was drawn from; None if not asked for.
    """

    logprobs: torch.Tensor
    mask: torch.Tensor
    entropy: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


def completion_outputs(
    model,
    prompts: list[list[int]],
    completions: list[list[int]],
    temperature: float = 1.0,
    entropy: bool = False,
    hidden: bool = False,
    share_prompts: bool | None = None,
) -> TokenOutputs:
    """Compute log-probabilities of completion tokens at a temperature, and on request entropies and states.

    Only the positions that predict completion tokens go through the LM head: from the prompt's last one on.

    Args:
        share_prompts: whether completions of equal prompts share a row; None shares if the model supports it.
    """
    device = model.get_input_embeddings().weight.device
    if share_prompts is None:
        repeated = len({tuple(prompt) for prompt in prompts}) < len(prompts)
        window = getattr(base_of(model).config.get_text_config(), "sliding_window", None)  # a 4-D mask replaces it
        longest = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
        share_prompts = (
            repeated and longest <= (window or longest) and takes_shared_prompts(model, prompts, completions)
        )
    groups: dict[tuple, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt) if share_prompts else (index,), []).append(index)
    members = list(groups.values())  # N rows
    prompt_ids, prompt_mask = pad([prompts[group[0]] for group in members], 0, left=True, device=device)  # (N, P)
    joined = [[token for index in group for token in completions[index]] for group in members]
    joined_ids, joined_mask = pad(joined, 0, left=False, device=device)  # (N, K)
    mask = torch.cat([prompt_mask, joined_mask], dim=1)  # (N, P + K)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ids, seen = pad(completions, 0, left=False, device=device)  # (B, R)
    row = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)  # (B, 1): row of each completion, 0 to N - 1
    column = torch.zeros_like(ids)  # (B, R): position that predicts the token; 0 is the prompt's last, up to K
    owner = torch.zeros_like(mask)  # (N, P + K): 0 for the prompt, else the number of the completion in its row
    for number, group in enumerate(members):
        at = 0
        for kind, index in enumerate(group, start=1):
            length, first = len(completions[index]), len(prompts[index])
            here = slice(prompt_ids.shape[1] + at, prompt_ids.shape[1] + at + length)
            row[index], owner[number, here] = number, kind
            column[index, 1:length] = torch.arange(at + 1, at + length, device=device)
            positions[number, here] = torch.arange(first, first + length, device=device)  # continue after the prompt
            at += length
    if share_prompts:
        mask = sharing_mask(owner, mask, model.dtype)

    decoder = base_of(model).get_decoder()
    tokens = torch.cat([prompt_ids, joined_ids], dim=1)
    output = decoder(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False)
    # The completions of a row share the prompt's last state, so its gradient is a sum. F.embedding sums in a fixed
    # order; the backward pass of hidden_states[row, column] sums in varying order with more than one thread.
    place = row * tokens.shape[1] + prompt_ids.shape[1] - 1 + column  # (B, R): index into N (P + K) states
    states = F.embedding(place, output.last_hidden_state.flatten(0, 1))  # (B, R, H)
    counted = seen > 0
    logprobs, entropies = head_logprobs(
        model.get_output_embeddings(), states[counted], ids[counted], temperature, entropy
    )
    empty = torch.zeros(seen.shape, device=device)
    outputs = TokenOutputs(empty.masked_scatter(counted, logprobs), seen)
    if entropy:
        outputs.entropy = empty.masked_scatter(counted, entropies)
    if hidden:
        outputs.hidden = states.float() * seen[..., None]
    return outputs


def head_logprobs(
    head, states: torch.Tensor, ids: torch.Tensor, temperature: float, entropy: bool, logits_at_once: int = 2**23
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute log-probabilities (M,) of tokens (M,) drawn from states (M, H), and on request entropies (M,).

    Logits take most of a GPU's memory, so at most about `logits_at_once` exist at a time. To avoid keeping them for the
    backward pass, the gradient is computed at once (`HeadLogprobs`), unless the head is trained, adapted or replaced.
    """
    size = max(1, logits_at_once // len(head.weight))
    parts = zip(states.split(size), ids.split(size), strict=True)
    if not is_fixed(head) or not (torch.is_grad_enabled() and states.requires_grad):
        results = [logits_logprobs(head_logits(head, s), i, temperature, entropy)[:2] for s, i in parts]
    else:
        results = [HeadLogprobs.apply(head, s, i, temperature, entropy) for s, i in parts]
    return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results]) if entropy else None


def head_logits(head, states: torch.Tensor) -> torch.Tensor:
    """Compute logits (m, V) of states (m, H), in float32 for any dtype of the head.

    A product in bfloat16 would round a logit of 20 to a multiple of 1/8. A trained, adapted or replaced head computes
    in its own dtype.
    """
    if states.dtype == torch.float32 or not is_fixed(head):
        return head(states).float()
    logits = product(states, head.weight.t())
    return logits if head.bias is None else logits + head.bias


def is_fixed(head) -> bool:
    """Return whether an LM head is a plain linear layer that is not trained: neither adapted nor replaced."""
    return type(head) is torch.nn.Linear and not head.weight.requires_grad


def next_logits(model, **inputs) -> torch.Tensor:
    """Compute float32 logits (B, V) of the next token; inputs: arguments of a transformers model, cache included."""
    if dtype_of(model) == torch.float32 or logit_settings(model.config):
        return model(use_cache=True, logits_to_keep=1, **inputs).logits[:, -1].float()
    states = model.get_decoder()(use_cache=True, **inputs).last_hidden_state[:, -1]  # (B, H)
    return head_logits(model.get_output_embeddings(), states)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices a @ b, summing and returning in float32 even if b is in 16 bits. Not for use with gradients."""
    if b.dtype == torch.float32:
        return a @ b
    if b.is_cuda:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    parts = b.split(max(1, 2**18 // len(b)), dim=1)  # in parts, so that b is never copied whole
    return torch.cat([a.float() @ part.float() for part in parts], dim=1)


def logits_logprobs(logits: torch.Tensor, ids: torch.Tensor, temperature: float, entropy: bool):
    """Return log-probabilities of tokens (m,), entropies (m,) or None, and all log-probabilities (m, V).

    logits: (m, V).
    """
    everything = (logits.float() / temperature).log_softmax(-1)
    logprobs = everything.gather(1, ids[:, None]).squeeze(1)
    return logprobs, -(everything.exp() * everything).sum(-1) if entropy else None, everything


class HeadLogprobs(torch.autograd.Function):
    """`logits_logprobs` for a head that is not trained, without keeping the logits for the backward pass.

    With p = softmax((W h + b) / T): d log p_i / dh = (W_i - p W) / T and d entropy / dh = -(p (log p + entropy)) W / T,
    both (m, H). The forward pass computes them while the logits exist; the backward pass only scales them.
    """

    @staticmethod
    def forward(ctx, head, states, ids, temperature, entropy):
        logprobs, entropies, everything = logits_logprobs(head_logits(head, states), ids, temperature, entropy)
        probs = everything.exp()
        if entropy:
            by_entropy = -product(probs * (everything + entropies[:, None]), head.weight) / temperature
        del everything
        pull = probs.neg_().scatter_add_(1, ids[:, None], torch.ones_like(logprobs)[:, None])  # (m, V): one-hot - p
        by_logprob = product(pull, head.weight) / temperature  # (m, H)
        ctx.dtype = states.dtype
        ctx.save_for_backward(by_logprob, *([by_entropy] if entropy else []))
        return logprobs, entropies

    @staticmethod
    def backward(ctx, logprob_gradient, entropy_gradient):
        by_logprob, *by_entropy = ctx.saved_tensors
        gradient = logprob_gradient[:, None] * by_logprob
        if by_entropy and entropy_gradient is not None:
            gradient = gradient + entropy_gradient[:, None] * by_entropy[0]
        return None, gradient.to(ctx.dtype), None, None, None


def base_of(model):
    """Return the transformers model inside a policy."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def completion_logprobs(
    model, prompts: list[list[int]], completions: list[list[int]], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return only the log-probabilities and the mask of `completion_outputs`, both (B, R)."""
    outputs = completion_outputs(model, prompts, completions, temperature)
    return outputs.logprobs, outputs.mask


def sharing_mask(owner: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask (N, 1, T, T) to add to attention scores: a token sees the prompt and its own completion before it.

    Args:
        owner: (N, T), 0 for the prompt, else the number of the completion.
        mask: (N, T), 0 on padding.
    """
    length = owner.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    of_mine = (owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)  # (N, T, T): query, key
    sees = before & of_mine & (mask[:, None, :] > 0)
    sees |= torch.eye(length, dtype=torch.bool, device=owner.device)  # padding sees itself, so no softmax is empty
    scores = torch.zeros(len(mask), 1, length, -(-length // 8) * 8, dtype=dtype, device=owner.device)
    scores = scores[..., :length]  # rows begin at multiples of 8; else GPU kernels copy the mask in each layer
    return scores.masked_fill_(~sees[:, None], torch.finfo(dtype).min)


@contextlib.contextmanager
def rounded_otherwise(model) -> Iterator[None]:
    """Within the block, change embeddings at random by at most a unit of their last place.

    All following numbers are then rounded differently. The outputs differ by as much as two correct computations may
    differ: this is the floor when any two are compared.
    """
    generator = torch.Generator(model.get_input_embeddings().weight.device).manual_seed(0)

    def move(module, inputs, output):
        share = torch.rand(output.shape, generator=generator, device=output.device) - 0.5
        return (output.float() * (1 + torch.finfo(output.dtype).eps * share)).to(output.dtype)

    hook = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def takes_shared_prompts(model, prompts: list[list[int]] = (), completions: list[list[int]] = ()) -> bool:
    """Return whether this model gives the same log-probabilities with the prompt shared.

    This is tried once per model, on the first completions that have a prompt in common, else on made-up tokens. In
    float32 the largest difference may be 1e-3; in 16 bits the mean one may be `SHARED_FACTOR` times that of rounding.
    """
    base = base_of(model)
    if base in _takes:
        return _takes[base]
    chosen = [index for index, prompt in enumerate(prompts) if prompts.count(prompt) > 1]
    chosen = [index for index in chosen if prompts[index] == prompts[chosen[0]]][:4]
    some = [prompts[i] for i in chosen] or [list(range(1, 21))] * 3
    theirs = [completions[i] for i in chosen] or [list(range(first, first + 32)) for first in (5, 12, 21)]

    def outputs(share: bool) -> torch.Tensor:
        found = completion_outputs(model, some, theirs, share_prompts=share)
        return found.logprobs[found.mask > 0]

    try:
        alone, shared = outputs(False), outputs(True)
        gaps = (alone - shared).abs()
        if base.dtype == torch.float32:
            gap, bound = gaps.max().item(), 1e-3
        else:
            with rounded_otherwise(model):
                gap, bound = gaps.mean().item(), SHARED_FACTOR * (outputs(False) - alone).abs().mean().item()
        why, _takes[base] = f"differs by {gap:.2g}, bound {bound:.2g}", gap <= bound
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        why, _takes[base] = type(error).__name__, False
    if not _takes[base]:
        print(f"note: {type(base).__name__} does not support a shared prompt ({why}): each completion gets its own row")
    return _takes[base]


SHARED_FACTOR = 3.0  # a model that reads beyond its own completion differs by some 100 times the rounding
_takes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
