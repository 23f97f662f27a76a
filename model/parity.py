"""The gate that every run passes before its first update: sampler, trainer and reference must agree."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

from common import InputError, require
from model.adapters import adapter_weights
from model.load import dtype_of
from model.logprobs import base_of, completion_logprobs, rounded_otherwise
from model.merged_copy import merged_copy
from model.reference import as_reference, kl_estimate


@contextlib.contextmanager
def _as_saved(model: PeftModel, adapter: str) -> Iterator[None]:
    """Give the policy the weights of an adapter folder within the block."""
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
    more: Callable[[], list] | None = None,
    corrected: bool = False,
) -> float:
    """Check, before a process's first update, that sampler and trainer agree, and the reference with the start.

    The sampler's and the trainer's log-probabilities of the tokens just sampled must agree (their ratio is 1). A wrong
    temperature, a missing adapter or a shifted position show here (arXiv 2510.26788). In float32 no token may differ by
    more than `FLOAT32_BOUND`. In 16 bits a single token's difference says nothing; the mean must be within `FACTOR`
    times the difference that rounding makes (`rounded_otherwise`), measured on the same tokens. 16 bits can hide
    dropout, so that is checked by its switch.

    Args:
        model: the policy, in the mode that the update will use.
        rollouts: completions as `sampling.generate` yields them; in 16 bits with `MIN_TOKENS` tokens or more.
        bound: largest allowed difference of a token's log-probability, in nats, instead of these bounds; if `corrected`
            is true, of the mean.
        start: folder of the adapter that the run started from, for `check_reference`; None if there is no reference.
        fresh: whether the policy has not been trained yet; then it must agree with the reference too.
        size: rollouts at a time.
        more: returns more rollouts. In 16 bits a few tokens can cause most of the difference, so a refusal must be
            confirmed on more of them.
        corrected: whether importance weights make up for the difference. Then the mean may be `FAR`, in any precision.

    Returns:
        the largest difference.

    Raises:
        InputError: beyond the bound; the run would train on another policy's samples.
    """
    check_dropout(model)
    gaps, floor = compare(model, rollouts, temperature, size)
    if more and not bound and floor and gaps.mean() > allowed_mean(floor, corrected):
        gaps, floor = compare(model, more(), temperature, size)
    judge(gaps, floor, bound, corrected)
    if start is not None:
        first = rollouts[:size]
        check_reference(model, [r.prompt_ids for r in first], [r.token_ids for r in first], start, temperature, fresh)
    return gaps.max().item()


def check_ends(rollouts: list, ends: set[int], stop_strings: bool) -> None:
    """Check that each completion runs up to its EOS and no further, as it says.

    Args:
        ends: every EOS. stop_strings: whether completions also end at these.

    Raises:
        InputError: one does not. The run would train on tokens that the model did not choose, or not on its end.
    """
    for r in rollouts:
        at_end = r.token_ids[-1] in ends
        wrong = (
            "goes on after an EOS" if any(token in ends for token in r.token_ids[:-1])
            else "ends without its EOS" if r.ended and not at_end and not stop_strings
            else "has an EOS and is said to be cut off" if at_end and not r.ended
            else None
        )  # fmt: skip
        require(wrong is None, f"the sampler's completions are not what the model chose: one {wrong}")


def check_dropout(model) -> None:
    """Raise InputError if the trainer has dropout on: it would not train on what was sampled."""
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, torch.nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        on = module.training and isinstance(rate, float) and rate > 0
        require(not on, f"dropout is on in the trainer ({name}): what was sampled is not what would be trained on")


@torch.no_grad()
def compare(model, rollouts: list, temperature: float, size: int) -> tuple[torch.Tensor, float]:
    """Return each token's difference of log-probability between sampler and trainer, and the mean due to rounding.

    That mean is 0 in float32, where it is not needed.
    """
    trainer = token_logprobs(model, rollouts, temperature, size)
    gaps = (trainer - torch.tensor([logprob for r in rollouts for logprob in r.logprobs])).abs()
    if dtype_of(model) == torch.float32:
        return gaps, 0.0
    with rounded_otherwise(model):
        again = token_logprobs(model, rollouts, temperature, size)
    return gaps, (again - trainer).abs().mean().item()


def allowed_mean(floor: float, corrected: bool) -> float:
    """Return the largest mean difference that passes; `floor` is what rounding makes."""
    return max(FACTOR * floor, FAR if corrected else 0.0)


def judge(gaps: torch.Tensor, floor: float, bound: float | None = None, corrected: bool = False) -> None:
    """Print how far sampler and trainer are apart. Raise InputError if that is too far."""
    largest_gap, mean = gaps.max().item(), gaps.mean().item()
    said = f"parity: sampler and trainer differ by {largest_gap:.1e} a token at most"
    if not corrected and (bound or not floor):
        bound = bound or FLOAT32_BOUND
        differ, within = f"by {largest_gap:.3g} a token (bound {bound:g})", largest_gap <= bound
        print(f"{said} (bound {bound:g})")
    else:
        bound = bound or allowed_mean(floor, corrected)
        within, how = mean <= bound, "with importance weights" if corrected else f"{FACTOR:g} times the rounding"
        differ = f"by {mean:.3g} a token in the mean of {len(gaps)} (bound {bound:.3g}, {how})"
        print(f"{said}, {mean:.1e} in the mean of {len(gaps)} (rounding alone: {floor:.1e}, bound {bound:.1e})")
        if within and largest_gap > NOTABLE:
            print(f"warning: sampler and trainer differ by {largest_gap:.2g} nats in the log-probability of one token")
    require(
        within,
        f"the sampler's log-probabilities differ from the trainer's {differ}: check temperature, adapter, positions "
        "and precision, and whether the model's logits are its LM head's alone, or set --parity_bound",
    )


def token_logprobs(model, rollouts: list, temperature: float, size: int) -> torch.Tensor:
    """Return the trainer's log-probability of every sampled token, one completion after the other; on the CPU."""
    found = []
    for batch in (rollouts[at : at + size] for at in range(0, len(rollouts), size)):
        prompts, completions = [r.prompt_ids for r in batch], [r.token_ids for r in batch]
        logprobs, mask = completion_logprobs(model, prompts, completions, temperature)
        found.append(logprobs[mask > 0].cpu())
    return torch.cat(found)


@torch.no_grad()
def check_copy(model, prompts: list[list[int]]) -> float:
    """Check, before anything is sampled, that the copy that samples agrees with the policy.

    Args:
        model: the policy. prompts: token ids; a few tokens of the first ones are compared.

    Returns:
        the mean difference of a token's log-probability, in nats; 0 if the policy is its own copy.

    Raises:
        InputError: it does not; a part of the adapter is missing in the copy.
    """
    copy, base = merged_copy(model), base_of(model)
    rows = [ids[:65] for ids in prompts if len(ids) > 1][:8]
    if copy is base or not rows:
        return 0.0

    def logprobs(of) -> torch.Tensor:
        found, mask = completion_logprobs(of, [ids[:1] for ids in rows], [ids[1:] for ids in rows])
        return found[mask > 0]

    policy, bound = logprobs(model), FLOAT32_BOUND
    if dtype_of(model) != torch.float32:
        with rounded_otherwise(model):
            bound = COPY_FACTOR * (logprobs(model) - policy).abs().mean().item()
    gap = (logprobs(copy) - policy).abs().mean().item()
    kinds = sorted({type(m).__name__ for m in base.modules() if type(m).__module__.startswith("peft.")})
    require(
        gap <= bound,
        f"the copy that samples differs from the model by {gap:.3g} nats a token (bound {bound:.3g}): a part of the "
        f"adapter is not in it ({', '.join(kinds) or 'no adapter'}); with transformers and peft in the versions of "
        "requirements.txt this is a fault of ours",
    )
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
    """Check that the reference agrees with the adapter that the run started from (KL 0), and a fresh policy with both.

    They are the same weights in the same shapes, so the bound is tight in any precision.

    Returns:
        the largest difference of a token's log-probability, in nats.

    Raises:
        InputError: beyond the bound: the reference is the base model, or was trained too, or the policy did not start
            from this adapter.
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

FLOAT32_BOUND = 1e-3  # measured: 6e-6 to 3e-5
MIN_TOKENS = 500  # with fewer, the mean in 16 bits is too uncertain
COPY_FACTOR = 3.0  # times what rounding makes, for a few hundred tokens; an adapter left out makes 5 and more
FACTOR = 1.5  # benchmarks/README.md: right ones are at 1, wrong ones at 1.7 or more
FAR = 0.2  # nats in the mean, with importance weights: docs/methods/importance.md has what is below and above
NOTABLE = 1.0  # nats


def sampler_gap(logprobs: torch.Tensor, rollouts: list) -> float:
    """Return the largest |trainer - sampler| log-probability of a token; logprobs: (B, R), the trainer's."""
    gaps = [
        (logprobs[row, : len(r.token_ids)].detach().cpu() - torch.tensor(r.logprobs)).abs().max()
        for row, r in enumerate(rollouts)
    ]
    return torch.stack(gaps).max().item()
