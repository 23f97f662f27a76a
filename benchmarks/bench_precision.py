"""Measure what 16 bits do to a model: the gate (model/parity.py) with and without bugs, and the gradient's error.

    python benchmarks/bench_precision.py --model_name FOLDER --data HumanEval.jsonl --dtype bfloat16 float16

The model is loaded in NF4 with a random adapter and samples completions of the first tasks. The gate compares sampler
and trainer, once without a bug and once with each bug put into the trainer. The EOS bugs are put into the samples; a
common token then takes the place of EOS. The gradient of a policy-gradient loss with advantages of 1 and -1 is compared
with float32's. A token's weight in a batch is 1/2048 in a GRPO step of 8 completions of 256 tokens, and 1 in REINFORCE.
A CPU computes 16 bits slowly, with sums in float32.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch

from common import InputError, machine, run_script
from judging.tasks import read_tasks
from model import (
    logprobs,
    parity,
)
from model.load import add_lora, dtype_of, eos_ids, load_policy, load_tokenizer, pick_device, trainable_parameters
from model.logprobs import base_of, completion_logprobs
from model.merged_copy import drop_merged_copy
from model.sampling import Rollout, encode_prompts, generate, in_order
from training.resume import loss_scaler


@dataclass
class Args:
    model_name: str = "data/pocket_coder"  # folder or hub name of a base model
    data: str = "data/pocket_train.jsonl"  # tasks whose prompts are completed
    dtype: tuple[str, ...] = ("bfloat16", "float16")  # 16-bit formats to try
    num_tasks: int = 8  # use this many tasks from the start of the file
    num_samples: int = 2  # completions per task
    max_new_tokens: int = 48  # tokens of a completion
    adapter_std: float = 0.02  # standard deviation of the adapter's weights, both halves
    weights: tuple[float, ...] = (1.0, 1 / 2048, 1 / 65536)  # weights of a token in the loss, for the gradient
    gate: bool = True  # try the gate
    bugs: bool = True  # try the gate with bugs too
    gradients: bool = True  # measure gradients too
    round_logits: bool = False  # round logits to 16 bits, as the LM head itself does, to see what float32 logits gain
    seed: int = 0  # seed of adapter and sampling
    config: str = ""  # YAML file with any of these; flags win over it


def random_policy(name: str, dtype: torch.dtype, std: float, seed: int):
    """Return a 4-bit model with an adapter of random weights, the same for every dtype; no dropout."""
    model = add_lora(load_policy(name, pick_device(), dtype=dtype), 8, 16, 0.05)
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainable_parameters(model):
        parameter.data = (torch.randn(parameter.shape, generator=generator) * std).to(parameter.device)
    return model.eval()


@contextlib.contextmanager
def shifted(model, prompts: list[list[int]]) -> Iterator[None]:
    """Within the block, the trainer shifts the positions of completions by one."""

    def move(module, args, kwargs):
        ids, positions = kwargs["input_ids"], kwargs["position_ids"].clone()
        for row, tokens in enumerate(ids.tolist()):
            pad = ids.shape[1] - len(tokens)
            length = max(len(p) for p in prompts if tokens[pad : pad + len(p)] == p)
            positions[row, pad + length :] += 1
        return args, kwargs | {"position_ids": positions}

    hook = base_of(model).get_decoder().register_forward_pre_hook(move, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def with_dropout(model) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()


def ending(rollouts: list[Rollout], eos: int) -> list[Rollout]:
    """Cut the completions as if the token `eos` had ended them."""
    found = []
    for r in rollouts:
        length = r.token_ids.index(eos) + 1 if eos in r.token_ids else len(r.token_ids)
        found.append(replace(r, token_ids=r.token_ids[:length], logprobs=r.logprobs[:length], ended=eos in r.token_ids))
    return found


def without_eos(rollouts: list[Rollout]) -> list[Rollout]:
    """Remove the end token from completions that the model ended."""
    return [replace(r, token_ids=r.token_ids[:-1], logprobs=r.logprobs[:-1]) if r.ended else r for r in rollouts]


def gate(model, rollouts: list[Rollout], temperature: float, ends: set[int]) -> tuple[dict[str, float], str]:
    """Return the differences of sampler and trainer in nats per token, and why the gate refuses, or "" if it passes.

    There are no differences if the completions themselves are refused.
    """
    figures: dict[str, float] = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parity.check_ends(rollouts, ends, stop_strings=False)
            gaps, floor = parity.compare(model, rollouts, temperature, count_of_first(rollouts))
            figures = {"mean": gaps.mean().item(), "p99": gaps.quantile(0.99).item(), "largest": gaps.max().item(),
                       "floor": floor, "tokens": len(gaps)}  # fmt: skip
            parity.check_dropout(model)
            parity.judge(gaps, floor)
    except InputError as error:
        return figures, str(error)
    return figures, ""


def count_of_first(rollouts: list[Rollout]) -> int:
    """Count the completions of the first prompt; with this batch size, each pass has one prompt."""
    return sum(r.prompt_index == rollouts[0].prompt_index for r in rollouts)


def drawn(model, tokenizer, prompts: list[list[int]], args: Args) -> list[Rollout]:
    """Sample the completions that are compared, in the order of the prompts."""
    seeds = [(args.seed, i) for i in range(len(prompts))]
    rollouts = in_order(generate(model, tokenizer, prompts, max_new_tokens=args.max_new_tokens, temperature=1.0,
                                 num_samples=args.num_samples, seeds=seeds))  # fmt: skip
    drop_merged_copy(model)
    return rollouts


def gate_rows(model, tokenizer, prompts: list[list[int]], args: Args) -> Iterator[tuple[str, dict[str, float], str]]:
    """Yield (bug, differences, why the gate refuses) for the run without a bug and for each bug."""
    rollouts = drawn(model, tokenizer, prompts, args)
    ends = eos_ids(base_of(model), tokenizer)
    # few completions end within this many tokens, so a common token replaces EOS; not one that starts a completion
    first = {r.token_ids[0] for r in rollouts}
    eos = Counter(token for r in rollouts for token in r.token_ids if token not in first).most_common(1)[0][0]
    ended = ending(rollouts, eos)
    nothing = contextlib.nullcontext
    tries = {
        "none": (rollouts, 1.0, nothing),
        "temperature 0.95": (rollouts, 0.95, nothing),
        "no adapter": (rollouts, 1.0, model.disable_adapter),
        "positions + 1": (rollouts, 1.0, lambda: shifted(model, prompts)),
        "EOS not trained on": (without_eos(ended), 1.0, nothing),
        "goes on after EOS": (rollouts, 1.0, nothing),
        "dropout in the trainer": (rollouts, 1.0, lambda: with_dropout(model)),
    }
    tries = tries if args.bugs else {"none": tries["none"]}
    for bug, (theirs, temperature, broken) in tries.items():
        with broken():
            yield bug, *gate(model, theirs, temperature, {eos} if "EOS" in bug else ends)


def gradient(model, rollouts: list[Rollout], weight: float, scaled: bool) -> tuple[torch.Tensor, int]:
    """Return the gradient of -weight * sum(advantage * log-probability), on the CPU.

    With a scaled loss, a gradient that is not finite is computed again with a smaller scale. The second value counts
    these skipped tries, at most 5.
    """
    scaler = loss_scaler(model) if scaled else torch.amp.GradScaler(enabled=False)
    optimizer = torch.optim.SGD(trainable_parameters(model), lr=0.0)
    for skipped in range(6):  # noqa: B007
        optimizer.zero_grad()
        signs, size = random.Random(0), count_of_first(rollouts)
        for batch in (rollouts[at : at + size] for at in range(0, len(rollouts), size)):
            prompts, completions = [r.prompt_ids for r in batch], [r.token_ids for r in batch]
            logprobs = completion_logprobs(model, prompts, completions)[0]  # (B, R)
            advantage = torch.tensor([signs.choice((-1.0, 1.0)) for _ in batch], device=logprobs.device)  # (B,)
            scaler.scale(-(weight * advantage[:, None] * logprobs).sum()).backward()
        scaler.unscale_(optimizer)
        flat = torch.cat([p.grad.flatten() for p in trainable_parameters(model)]).cpu()
        scaler.update()
        if flat.isfinite().all() or not scaled:
            break
    optimizer.zero_grad()
    return flat, skipped


def gradient_rows(model, exact: torch.Tensor, rollouts: list[Rollout], weights: tuple[float, ...]) -> list[dict]:
    """Compare gradients with float32's, for each token weight, with and without a scaled loss: error and cosine."""
    rows = []
    float16 = dtype_of(model) == torch.float16
    for weight in weights if float16 else weights[:1]:  # bfloat16 has float32's range, so no weight is too small
        for scaled in (False, True) if float16 else (False,):
            found, skipped = gradient(model, rollouts, weight, scaled)
            found = found.double() / weight
            rows.append({"weight": weight, "scaled": scaled, "skipped": skipped,
                         "error": ((found - exact).norm() / exact.norm()).item(),
                         "cosine": torch.cosine_similarity(found, exact, dim=0).item()})  # fmt: skip
    return rows


def main(args: Args) -> None:
    if args.round_logits:
        logprobs.head_logits = lambda head, states: head(states).float()
    tokenizer = load_tokenizer(args.model_name)
    prompts = encode_prompts(tokenizer, read_tasks(args.data)[: args.num_tasks], 1024)
    here = machine()
    print(f"{Path(args.model_name).name}, {here['gpu'] or here['cpu']}, torch {torch.__version__}, commit "
          f"{here['commit']}\n")  # fmt: skip
    print("| dtype | bug | mean, nats | floor | mean / floor | p99 | largest | tokens | gate |\n" + "|---" * 9 + "|")
    for name in args.dtype if args.gate else ():
        model = random_policy(args.model_name, getattr(torch, name), args.adapter_std, args.seed)
        for bug, f, why in gate_rows(model, tokenizer, prompts, args):
            cells = [""] * 6
            if f:
                cells = [f"{f['mean']:.4f}", f"{f['floor']:.4f}", f"{f['mean'] / f['floor']:.2f}", f"{f['p99']:.3f}",
                         f"{f['largest']:.3f}", str(f["tokens"])]  # fmt: skip
            cause = " by its cause" if why and "the mean" not in why else ""
            print(f"| {name} | {bug} | {' | '.join(cells)} | {'refused' if why else 'passes'}{cause} |", flush=True)
        del model
    if not args.gradients:
        return
    exact_model = random_policy(args.model_name, torch.float32, args.adapter_std, args.seed)
    rollouts = drawn(exact_model, tokenizer, prompts, args)
    rollouts = rollouts[: 2 * args.num_samples]
    exact = gradient(exact_model, rollouts, 1.0, scaled=False)[0].double()
    del exact_model
    print("\n| dtype | token weight | loss scaled | error | cosine | skipped first |\n" + "|---" * 6 + "|")
    for name in args.dtype:
        model = random_policy(args.model_name, getattr(torch, name), args.adapter_std, args.seed)
        for row in gradient_rows(model, exact, rollouts, args.weights):
            print(f"| {name} | 1/{1 / row['weight']:.0f} | {'yes' if row['scaled'] else 'no'} | {row['error']:.2%} | "
                  f"{row['cosine']:.4f} | {row['skipped']} |", flush=True)  # fmt: skip
        del model


if __name__ == "__main__":
    run_script(main, Args, __doc__)
