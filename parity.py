"""The frozen reference of the policy, KL estimates, and the gate that every run passes before its first update."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from common import InputError
from logprobs import completion_logprobs
from policy import compute_dtype

MAX_LOG_RATIO = 20.0  # beyond, exp could overflow, and a clipped term's gradient become 0 times infinity


def kl_estimate(logprobs: torch.Tensor, reference: torch.Tensor, kind: str) -> torch.Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled, shaped as the inputs (log-probs).

    k1 is unbiased and varies much, k3 is unbiased and never negative (Schulman, "Approximating KL divergence").

    >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.5]), "k1")
    tensor([0.5000])
    >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.5]), "k3")
    tensor([0.1065])
    """
    log_ratio = reference - logprobs
    return -log_ratio if kind == "k1" else log_ratio.clamp(max=MAX_LOG_RATIO).exp() - 1 - log_ratio


def load_reference(model: PeftModel, adapter: str) -> None:
    """Put a second, frozen copy of the adapter that a run starts from beside the policy."""
    model.load_adapter(adapter, adapter_name="reference", is_trainable=False)
    model.set_adapter("default")


@contextlib.contextmanager
def as_reference(model: PeftModel) -> Iterator[None]:
    """Within the block the model is the reference: the adapter that the run started from, not the base model."""
    model.set_adapter("reference", inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter("default")


def adapter_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """Of the policy's own adapter. (By itself peft would ask the hub whether the base has other embeddings.)"""
    return get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)


@contextlib.contextmanager
def _as_saved(model: PeftModel, adapter: str) -> Iterator[None]:
    """Within the block the policy's weights are those of an adapter folder."""
    now = {name: weight.clone() for name, weight in adapter_weights(model).items()}
    set_peft_model_state_dict(model, load_peft_weights(adapter, device="cpu"), adapter_name="default")
    try:
        yield
    finally:
        set_peft_model_state_dict(model, now, adapter_name="default")


@torch.no_grad()
def check_parity(
    model,
    rollouts: list,
    temperature: float,
    bound: float | None = None,
    start: str | None = None,
    fresh: bool = True,
    size: int = 4,
) -> float:
    """Before the first update of a process: is what will be trained on what was sampled, and the reference the start?

    The sampler's and the trainer's log-probabilities of the tokens just sampled must agree (their ratio is 1): dropout
    left on, another temperature or a shifted position show here (arXiv 2510.26788).

    Args:
        model: the policy, in the mode that the update will use.
        rollouts: what `rollout.sample` returned.
        bound: largest difference of a token's log-probability, in nats; by default `PARITY_BOUND` of the dtype.
        start: folder of the adapter that the run started from, for `check_reference`; None: there is no reference.
        fresh: whether the policy has not been trained yet; then it must agree with the reference too.
        size: rollouts at a time.

    Returns:
        the largest difference.

    Raises:
        InputError: beyond the bound; training on such samples would be training on another policy's.
    """
    bound = bound or PARITY_BOUND[compute_dtype(model.get_input_embeddings().weight.device)]
    gaps = []
    for batch in (rollouts[at : at + size] for at in range(0, len(rollouts), size)):
        prompts, completions = [r.prompt_ids for r in batch], [r.token_ids for r in batch]
        gaps.append(sampler_gap(completion_logprobs(model, prompts, completions, temperature)[0], batch))
    gap = largest(gaps)
    print(f"parity: sampler and trainer differ by {gap:.1e} a token at most (bound {bound:g})")
    if not gap <= bound:
        raise InputError(
            f"the sampler's log-probabilities differ from the trainer's by {gap:.3g} a token (bound {bound:g}): check "
            "dropout, temperature and precision, and whether the model's logits are its LM head's alone, or raise "
            "--parity_bound"
        )
    if start is not None:
        first = rollouts[:size]
        check_reference(model, [r.prompt_ids for r in first], [r.token_ids for r in first], start, temperature, fresh)
    return gap


@torch.no_grad()
def check_reference(
    model,
    prompts: list[list[int]],
    completions: list[list[int]],
    start: str,
    temperature: float = 1.0,
    fresh: bool = True,
) -> float:
    """Does the reference agree with the adapter folder that the run started from (KL 0), and a fresh policy with both?

    The same weights in the same shapes: the bound is tight, whatever the precision.

    Returns:
        the largest difference of a token's log-probability, in nats.

    Raises:
        InputError: beyond the bound: the reference is the base model, or has been trained along, or the policy is not
            the adapter that it was to start from.
    """
    with as_reference(model):
        reference, mask = completion_logprobs(model, prompts, completions, temperature)
    with _as_saved(model, start):
        others = {start: completion_logprobs(model, prompts, completions, temperature)[0]}
    if fresh:
        others["the policy"] = completion_logprobs(model, prompts, completions, temperature)[0]
    for name, logprobs in others.items():
        gap = (logprobs - reference).abs().max().item()
        kl = (kl_estimate(logprobs, reference, "k3").sum() / mask.sum()).item()
        print(f"parity: KL({name}, reference) is {kl:.1e} a token, they differ by {gap:.1e} at most")
        if not gap <= REFERENCE_BOUND:
            raise InputError(
                f"the reference's log-probabilities differ from those of {name} by {gap:.3g} a token (bound "
                f"{REFERENCE_BOUND:g}): the reference is not the adapter that the run started from, or the policy is "
                "not"
            )
    return gap


REFERENCE_BOUND = 1e-3

# The copy that samples rounds differently from the policy: measured 3e-5 in float32; bfloat16 is not measured.
PARITY_BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.3}


def sampler_gap(logprobs: torch.Tensor, rollouts: list) -> float:
    """Largest |trainer - sampler| log-probability of a token, logprobs (B, R) being the trainer's."""
    gaps = [
        (logprobs[row, : len(r.token_ids)].detach().cpu() - torch.tensor(r.logprobs)).abs().max()
        for row, r in enumerate(rollouts)
    ]
    return torch.stack(gaps).max().item()


def largest(values: list[float]) -> float:
    """The maximum, or nan if any is: Python's own max may lose it."""
    return torch.tensor(values).max().item()
