"""The frozen reference beside the policy, and estimates of the KL divergence to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft import PeftModel

MAX_LOG_RATIO = 20.0  # beyond, exp could overflow, and a clipped term's gradient become 0 times infinity


def kl_estimate(logprobs: torch.Tensor, reference: torch.Tensor, kind: str) -> torch.Tensor:
    """Estimate KL(policy || reference) from tokens that the policy sampled; shaped as the inputs (log-probs).

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
    """Make the model the reference within the block: the adapter that the run started from, not the base model."""
    model.set_adapter("reference", inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter("default")
