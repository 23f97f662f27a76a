"""Log-probabilities of completion tokens under the policy.

Completions of one prompt share it: their row is [prompt, completion 1, ..., completion G], each completion seeing the
prompt and itself (a 4-D mask, positions that go on from the prompt): P + G R tokens instead of G (P + R).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch


def pad(sequences: list[list[int]], value: int, left: bool, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both (B, longest); the mask comes from the lengths, never from the pad id."""
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
    """What the policy says of completion tokens; padding is 0 throughout.

    logprobs, mask: (B, R). entropy: (B, R), of the distribution that the token was drawn from, if asked for.
    hidden: (B, R, H), the state that the token was drawn from, if asked for.
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
    """Log-probabilities of completion tokens under the policy at a temperature, and on request entropies and states.

    Only completion positions, and the last of the prompt, go through the LM head.

    Args:
        share_prompts: whether completions of equal prompts share a row; None: where the model takes it.
    """
    device = model.get_input_embeddings().weight.device
    if share_prompts is None:
        repeated = len({tuple(prompt) for prompt in prompts}) < len(prompts)
        window = getattr(base_of(model).config.get_text_config(), "sliding_window", None)  # a 4-D mask overrides it
        longest = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
        share_prompts = repeated and longest <= (window or longest) and takes_shared_prompts(model)
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
    row = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)  # (B, 1): of N
    column = torch.zeros_like(ids)  # (B, R): of K + 1, what the token was drawn from; the first from the prompt's last
    owner = torch.zeros_like(mask)  # (N, P + K): 0 for the prompt, else which of its row's completions a token is of
    for number, group in enumerate(members):
        at = 0
        for kind, index in enumerate(group, start=1):
            length, first = len(completions[index]), len(prompts[index])
            here = slice(prompt_ids.shape[1] + at, prompt_ids.shape[1] + at + length)
            row[index], owner[number, here] = number, kind
            column[index, 1:length] = torch.arange(at + 1, at + length, device=device)
            positions[number, here] = torch.arange(first, first + length, device=device)  # it goes on from the prompt
            at += length
    if share_prompts:
        mask = sharing_mask(owner, mask, model.dtype)

    decoder = base_of(model).get_decoder()
    tokens = torch.cat([prompt_ids, joined_ids], dim=1)
    output = decoder(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden_states = output.last_hidden_state[:, prompt_ids.shape[1] - 1 :]  # (N, K + 1, H)
    states = hidden_states[row, column]  # (B, R, H)
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
    """Log-probabilities (M,) of tokens (M,) drawn from states (M, H), and on request entropies (M,).

    The logits are what fills a card: there are never more than about `logits_at_once`. Where they are needed again for
    a gradient, the gradient is taken at once instead (`HeadLogprobs`), unless the head itself is trained.
    """
    size = max(1, logits_at_once // head.out_features)
    parts = zip(states.split(size), ids.split(size), strict=True)
    if head.weight.requires_grad or not (torch.is_grad_enabled() and states.requires_grad):
        results = [logits_logprobs(head(s), i, temperature, entropy)[:2] for s, i in parts]
    else:
        results = [HeadLogprobs.apply(head, s, i, temperature, entropy) for s, i in parts]
    return torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results]) if entropy else None


def logits_logprobs(logits: torch.Tensor, ids: torch.Tensor, temperature: float, entropy: bool):
    """Log-probabilities of tokens (m,), entropies (m,) or None, and all log-probabilities (m, V); logits are (m, V)."""
    everything = (logits.float() / temperature).log_softmax(-1)
    logprobs = everything.gather(1, ids[:, None]).squeeze(1)
    return logprobs, -(everything.exp() * everything).sum(-1) if entropy else None, everything


class HeadLogprobs(torch.autograd.Function):
    """`logits_logprobs` of a head that is not trained, without keeping the logits.

    With p = softmax((W h + b) / T): d log p_i / dh = (W_i - p W) / T and d entropy / dh = -(p (log p + entropy)) W / T,
    both (m, H). They are computed while the logits are there; backward scales them.
    """

    @staticmethod
    def forward(ctx, head, states, ids, temperature, entropy):
        logprobs, entropies, everything = logits_logprobs(head(states), ids, temperature, entropy)
        probs = everything.exp()
        if entropy:
            by_entropy = -(probs * (everything + entropies[:, None])).to(states.dtype) @ head.weight / temperature
        del everything
        pull = probs.neg_().scatter_add_(1, ids[:, None], torch.ones_like(logprobs)[:, None])  # (m, V): one-hot - p
        by_logprob = pull.to(states.dtype) @ head.weight / temperature  # (m, H)
        ctx.save_for_backward(by_logprob, *([by_entropy] if entropy else []))
        return logprobs, entropies

    @staticmethod
    def backward(ctx, logprob_gradient, entropy_gradient):
        by_logprob, *by_entropy = ctx.saved_tensors
        gradient = logprob_gradient[:, None] * by_logprob
        if by_entropy and entropy_gradient is not None:
            gradient = gradient + entropy_gradient[:, None] * by_entropy[0]
        return None, gradient.to(by_logprob.dtype), None, None, None


def base_of(model):
    """The transformers model within a policy."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def completion_logprobs(
    model, prompts: list[list[int]], completions: list[list[int]], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """`completion_outputs`, the log-probabilities and the mask alone; both (B, R)."""
    outputs = completion_outputs(model, prompts, completions, temperature)
    return outputs.logprobs, outputs.mask


def sharing_mask(owner: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(N, 1, T, T), to be added to attention scores: a token sees what is before it of the prompt and of its own kind.

    Args:
        owner: (N, T), 0 for the prompt, else the number of the completion. mask: (N, T), 0 on padding.
    """
    length = owner.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    of_mine = (owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0)  # (N, T, T): query, key
    sees = before & of_mine & (mask[:, None, :] > 0)
    sees |= torch.eye(length, dtype=torch.bool, device=owner.device)  # padding sees itself: no empty softmax
    return torch.where(sees, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


@torch.no_grad()
def takes_shared_prompts(model) -> bool:
    """Does this model give the same log-probabilities with the prompt shared? Tried once, on a few tokens."""
    base = base_of(model)
    if base not in _takes:
        prompts, completions = [[1, 2, 3, 4, 5]] * 2 + [[6, 7]], [[8, 9, 10, 11], [12, 13, 14], [15, 16]]
        try:
            alone, shared = (
                completion_outputs(model, prompts, completions, share_prompts=share).logprobs for share in (False, True)
            )
            why = f"differs by {(alone - shared).abs().max().item():.2g}"
            _takes[base] = bool((alone - shared).abs().max() <= (1e-3 if base.dtype == torch.float32 else 0.3))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            why, _takes[base] = type(error).__name__, False
        if not _takes[base]:
            print(f"note: {type(base).__name__} does not take a shared prompt ({why}): one row each")
    return _takes[base]


_takes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
