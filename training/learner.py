"""The policy that is trained: its log-probabilities, its gradients, and the optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import get_scheduler, set_seed

from common import processes
from model.load import (
    compute_dtype,
    load_policy,
    pick_device,
    save_adapter,
    set_recomputing,
    trainable_parameters,
    zero_head,
)
from model.logprobs import TokenOutputs, completion_outputs, takes_shared_prompts
from model.micro_batches import micro_batches
from model.reference import as_reference, load_reference
from training.importance import importance
from training.resume import FiniteGuard, loss_scaler
from training.samples import Batch, Sample
from training.turns import join_turns

# `FiniteGuard` may skip the first update, but the schedule counts every step: ignore torch's warning about the order
warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


class Learner:
    """The policy with its reference, optimizer and learning-rate schedule.

    model: the policy, with dropout off. The frozen adapter "reference" is loaded beside its own.
    critic: a linear head on the policy's last hidden state, zero at first; None if the script trains no critic.
    phase: the current phase, a key of memory.REMEDIES; if memory runs out, it selects the advice.
    """

    def __init__(self, args: Any, tokenizer, num_steps: int, critic: bool, folder: Path) -> None:
        self.args, self.tokenizer, self.phase = args, tokenizer, "loading"
        set_seed(args.seed)
        self.device = pick_device()
        self.model = load_policy(args.sft_model, self.device, trainable=True, trust_remote_code=args.trust_remote_code,
                                 dtype=compute_dtype(self.device, args.dtype))  # fmt: skip
        load_reference(self.model, args.sft_model)
        self.model.eval()  # no dropout: the trained policy must be the one that sampled
        set_recomputing(self.model, args.gradient_checkpointing)
        self.critic = zero_head(self.model).to(self.device) if critic else None
        self.weights = trainable_parameters(self.model) + (list(self.critic.parameters()) if critic else [])
        self.optimizer = torch.optim.AdamW(self.weights, lr=args.learning_rate, weight_decay=0.0)
        self.scheduler = get_scheduler(args.lr_scheduler_type, self.optimizer, 0, num_steps)
        self.scaler = loss_scaler(self.model)
        # the first use sets the scaler up; a process with an empty share would not use it before it unscales
        self.scaler.scale(torch.zeros((), device=self.device))
        self.finite = FiniteGuard(folder)

    def micro_batches(self, batch: Batch | list) -> Iterator[Any]:
        """Yield this process's share of the batch (or list), cut into pieces that fit one pass."""
        self.phase = "training"
        for rows in self._passes(batch.samples if isinstance(batch, Batch) else batch):
            yield batch[rows] if isinstance(batch, Batch) else [batch[i] for i in rows]

    def _passes(self, items: list) -> list[list[int]]:
        shared = takes_shared_prompts(self.model)
        count = processes.count()
        return processes.share(micro_batches(items, self.args.micro_batch_tokens, shared=shared, at_least=count))

    def outputs(self, samples: list[Sample], **wanted: bool) -> TokenOutputs:
        """Return the log-probabilities of the samples' tokens under the policy, (B, R), 0 on padding.

        The tokens of a sample's turns, each after its own prompt, follow each other in its row.

        Args:
            wanted: other outputs to return too, as in `logprobs.completion_outputs`.
        """
        answers = [r for s in samples for r in s.answers]
        prompts, completions = [r.prompt_ids for r in answers], [r.token_ids for r in answers]
        self.phase = "training" if torch.is_grad_enabled() else "log-probabilities"
        outputs = completion_outputs(self.model, prompts, completions, self.args.temperature, **wanted)
        return outputs if len(answers) == len(samples) else join_turns(outputs, samples)

    @torch.no_grad()
    def reference_logprobs(self, samples: list[Sample]) -> torch.Tensor:
        """Return the log-probabilities of the samples' tokens under the reference; (B, R)."""
        with as_reference(self.model):
            return self.outputs(samples).logprobs

    def values(self, outputs: TokenOutputs) -> torch.Tensor:
        """Return the critic's value of the state that each token was drawn from; (B, R), 0 on padding."""
        return self.critic(outputs.hidden).squeeze(-1) * outputs.mask

    @torch.no_grad()
    def batch(self, samples: list[Sample], single_update: bool = False) -> Batch:
        """Return the samples with the tensors that stay fixed while they are trained on; see `Batch`.

        Args:
            single_update: whether the batch is used for one optimizer step only. Then the policy that is trained is
                the one that sampled, so its log-probabilities are not computed here.
        """
        known: list[tuple[int, dict[str, torch.Tensor]]] = []
        for rows in self._passes(samples):
            chosen = [samples[i] for i in rows]
            found = {"reference": self.reference_logprobs(chosen)}
            if not single_update:
                out = self.outputs(chosen, hidden=self.critic is not None)
                found["old_logprobs"] = out.logprobs
                for at, s in enumerate(chosen):
                    if s.replayed:  # an earlier policy sampled it
                        found["old_logprobs"][at, : s.length] = torch.tensor(s.rollout.logprobs)
                if self.critic:
                    found["old_values"] = self.values(out)
            for at, i in enumerate(rows):
                known.append((i, {name: found[name][at, : samples[i].length].cpu() for name in found}))
        everyones = [row for _, row in sorted(processes.gather(known), key=lambda pair: pair[0])]
        padded = {name: pad_sequence([row[name] for row in everyones], batch_first=True) for name in everyones[0]}
        mask = pad_sequence([torch.ones(s.length, device=self.device) for s in samples], batch_first=True)
        tensors = {name: rows.to(self.device) for name, rows in padded.items()}
        return Batch(samples, list(range(len(samples))), mask, **tensors)

    def importance(self, batch: Batch, old: torch.Tensor, whole: Batch, level: str = "token"
                   ) -> tuple[torch.Tensor | float, dict[str, float]]:  # fmt: skip
        """Return the weights that make up for a sampler that is another program, and what to log of them.

        They are 1 and nothing where the sampler is our own; else see `importance.importance`.
        """
        return importance(self.args, batch, old, whole, level)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the loss's gradient. In float16, scale the loss up first, because small gradients would become 0."""
        self.scaler.scale(loss).backward()

    def clip_gradients(self) -> float:
        """Sum the gradients of all processes and clip their norm to `max_grad_norm`; 0 turns clipping off.

        Returns:
            the norm before clipping.
        """
        self.phase = "optimizer step"
        processes.add_up_gradients(self.weights)
        self.scaler.unscale_(self.optimizer)
        self.scaler.update()  # lowers the scale after a gradient that was not finite
        limit = self.args.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.weights, limit).item()

    def is_finite(self, loss: float, grad_norm: float, batch: list) -> bool:
        """Return whether to make the update: only if the loss and its gradient are finite.

        Args:
            loss: of the whole batch.
            batch: the samples or pairs that the loss was computed from; each has a `record()`.

        Raises:
            InputError: five updates in a row were not finite; the last batch is then in nonfinite_batch.jsonl.
        """
        return self.finite.allows(loss, grad_norm, [one.record() for one in batch])

    def save_weights(self, folder: Path) -> None:
        save_adapter(self.model, self.tokenizer, folder)
        if self.critic is not None:
            save_file(self.critic.state_dict(), folder / "critic.safetensors")
