"""Importance weights between the trainer's policy and the sampler's, for a sampler that is another program.

    w = min(pi_old / mu, cap),    and 0 for a completion with pi_old(y) / mu(y) outside [1 / bound, bound]

mu is the policy that the sampler reports (`Rollout.logprobs`), pi_old the same adapter as the trainer computes it. A
mean over samples of mu with these weights is one over samples of pi_old, but for the truncation (docs/methods/
importance.md derives which objective takes which weight). The mask's ratio is the product over a completion's tokens,
as in TRL's `sequence_mask`, which has no lower bound.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from model.reference import MAX_LOG_RATIO
from training.samples import Batch


def is_on(args: Any) -> bool:
    """Return whether a run weights its loss; auto does so if the engine is not our own. RFT and DPO never do."""
    chosen = getattr(args, "importance", "off")
    return chosen == "on" or (chosen == "auto" and args.engine != "local")


def importance_weights(
    log_ratio: torch.Tensor, level: str, cap: float, bound: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weights and ratios, (B, R) or with level "sequence" (B, 1), and which completions are kept, (B, 1).

    Args:
        log_ratio: (B, R), log pi_old - log mu of each token; 0 on padding, where the ratio is then 1.
        cap: largest weight; 0: no truncation. bound: of the mask; 0: no mask.
    """
    whole = log_ratio.sum(1, keepdim=True)
    ratio = (log_ratio if level == "token" else whole).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    kept = whole.abs() <= (math.log(bound) if bound else math.inf)
    return (ratio.clamp(max=cap) if cap else ratio) * kept, ratio, kept


@torch.no_grad()
def importance(
    args: Any, batch: Batch, old: torch.Tensor, whole: Batch, level: str
) -> tuple[torch.Tensor | float, dict[str, float]]:
    """Return a micro-batch's weights, shaped as by `importance_weights`, and its share of the log fields.

    Args:
        old: (B, R), log-probabilities under the policy that sampled, as the trainer computes them.
        whole: the batch of the optimizer step, by whose counts the shares are divided.
        level: "token", or "sequence" where the objective has one term a completion.
    """
    if not is_on(args):
        return 1.0, {}
    sampled = [torch.tensor(s.rollout.logprobs, dtype=old.dtype, device=old.device) for s in batch.samples]
    log_ratio = old - pad_sequence(sampled, batch_first=True)
    cap, bound = args.importance_cap, args.importance_mask
    weight, ratio, kept = importance_weights(log_ratio, level, cap, bound)
    counted = (batch.mask > 0)[:, : ratio.shape[1]]  # one ratio a completion: its first token's place
    count = whole.num_tokens if level == "token" else len(whole)
    return weight, {
        "importance_mean": ratio[counted].sum().item() / count,
        "importance_truncated": (ratio > (cap or math.inf))[counted].sum().item() / count,
        "importance_masked": (~kept).sum().item() / len(whole),
    }
