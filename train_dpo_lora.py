"""Direct preference optimisation (DPO) of a LoRA policy on pairs of completions (arXiv 2305.18290).

    L = -log sigmoid(beta * [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))])

y_w is the chosen completion of a prompt, y_l the rejected one. log pi is summed over a completion's tokens, the EOS
included. ref is the SFT adapter that the run starts from, frozen. `generate_dpo_data.py` makes the pairs. With label
smoothing e, L = -(1 - e) log sigmoid(m) - e log sigmoid(-m) for the margin m. Left out of the paper: the warm-up, and
SFT on the chosen completions where the pairs come from another model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common import require, require_at_least, run_script
from common.run_args import LoopArgs
from training.pairs import encode_pairs, read_pairs

if TYPE_CHECKING:
    import torch  # takes seconds: not before the arguments are known to be right

    from training.pairs import Pair


@dataclass
class Args(LoopArgs):
    # data and model
    train_path: str = "checkpoints/deepseek_1_3b_dpo_pairs.jsonl"  # pairs to learn from
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from, and the reference
    output_dir: str = "checkpoints/deepseek_1_3b_lora_dpo"  # where the new adapter goes
    seed: int = 42  # order of the pairs
    # objective
    beta: float = 0.05  # how much a log-ratio counts; a smaller one lets the policy move further from the reference
    label_smoothing: float = 0.0  # share of pairs taken to be the wrong way round
    # optimisation
    batch_size: int = 2  # pairs an update
    num_train_epochs: float = 1.0  # passes over the pairs
    num_steps: int = -1  # updates; overrides the epochs if given
    learning_rate: float = 2e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine reach 0 at the end
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0 turns clipping off


def check(args: Args) -> None:
    require_at_least(0, args, "keep_every", "save_every", "max_grad_norm")
    require_at_least(1, args, "batch_size", "micro_batch_tokens", "log_every")
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    require(args.beta > 0, f"--beta {args.beta}: must be positive")
    require(0 <= args.label_smoothing < 0.5, f"--label_smoothing {args.label_smoothing}: must be in [0, 0.5)")
    require(args.num_steps == -1 or args.num_steps >= 1, f"--num_steps {args.num_steps}: must be at least 1")
    require(args.num_steps >= 1 or args.num_train_epochs > 0, "--num_train_epochs must be positive")


def pair_logprobs(model, pairs: list[Pair]) -> torch.Tensor:
    """Return log p of the chosen (row 0) and the rejected (row 1) completions; (2, B)."""
    from model.logprobs import completion_logprobs

    completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    logprobs, _ = completion_logprobs(model, [pair.prompt_ids for pair in pairs] * 2, completions)  # (2B, R)
    return logprobs.sum(1).view(2, -1)


def dpo_loss(margin: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Return L of each pair from its margin, both (B,): beta times the difference of the two log-ratios.

    >>> import torch
    >>> dpo_loss(torch.tensor([0.0, 1.0, -1.0]))
    tensor([0.6931, 0.3133, 1.3133])
    """
    from torch.nn.functional import logsigmoid

    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def pair_metrics(policy: torch.Tensor, reward: torch.Tensor, margin: torch.Tensor, batch: list[Pair]
                 ) -> dict[str, torch.Tensor]:  # fmt: skip
    """Return a micro-batch's share of what is logged about the pairs of a batch.

    The log-probabilities are per token: if both fall, the likelihood of the pairs is displaced.

    Args:
        policy: (2, b), log p of the completions; reward: (2, b), beta times its log-ratio to the reference.
        margin: (b,).
    """
    chosen_tokens, rejected_tokens = (sum(lengths) for lengths in zip(*(p.lengths for p in batch), strict=True))
    return {
        "accuracy": (margin > 0).sum().item() / len(batch),
        "margin": margin.sum().item() / len(batch),
        "chosen_reward": reward[0].sum().item() / len(batch),
        "rejected_reward": reward[1].sum().item() / len(batch),
        "chosen_logprob": policy[0].sum().item() / chosen_tokens,
        "rejected_logprob": policy[1].sum().item() / rejected_tokens,
    }


def check_first_loss(loss: float, tolerance: float) -> None:
    """Check that the first loss is ln 2: before any update the policy is the reference, so every margin is 0.

    Raises:
        InputError: it is not.
    """
    print(f"parity: the first loss is ln 2 {loss - math.log(2):+.1e} (bound {tolerance:g})")
    require(
        abs(loss - math.log(2)) <= tolerance,
        f"the first loss is {loss:.4f}, not ln 2: policy and reference differ before the first update",
    )


def main(args: Args) -> None:
    check(args)
    pairs = read_pairs(args.train_path)

    import torch

    from model.load import dtype_of, load_config, load_tokenizer
    from model.parity import check_reference
    from model.reference import as_reference
    from training.metrics import Metrics
    from training.run import training_run

    tokenizer = load_tokenizer(args.sft_model, args.trust_remote_code)
    encode_pairs(pairs, tokenizer, load_config(args.sft_model, args.trust_remote_code))
    total = max(1, round(len(pairs) * args.num_train_epochs))  # pairs, the repeated ones included
    if args.num_steps > 0:
        total = args.num_steps * args.batch_size

    with training_run(args, "dpo", pairs, math.ceil(total / args.batch_size), judged=False) as run:
        prompts, completions = [pair.prompt_ids for pair in pairs[:16]], [pair.chosen_ids for pair in pairs[:16]]
        check_reference(run.model, prompts, completions, args.sft_model, fresh=run.fresh)

        for step in run.steps():
            batch = [pairs[i] for i in run.draw(min(args.batch_size, total - run.drawn))]  # B of them

            # loss and backward, one graph alive at a time
            metrics = Metrics()
            for micro_batch in run.micro_batches(batch):
                with torch.no_grad(), as_reference(run.model):
                    reference = pair_logprobs(run.model, micro_batch)  # (2, b)
                policy = pair_logprobs(run.model, micro_batch)  # (2, b)
                reward = args.beta * (policy - reference)  # (2, b)
                margin = reward[0] - reward[1]  # (b,)
                loss = dpo_loss(margin, args.label_smoothing).sum() / len(batch)
                run.backward(loss)
                metrics.add(loss=loss, **pair_metrics(policy, reward, margin, batch))
            step_metrics = metrics.total()
            if step == 1:
                check_first_loss(step_metrics["loss"], 1e-3 if dtype_of(run.model) == torch.float32 else 0.05)

            # clip and step
            step_metrics["grad_norm"] = run.clip_gradients()
            if run.is_finite(step_metrics["loss"], step_metrics["grad_norm"], batch):
                run.optimizer.step()
            run.optimizer.zero_grad()
            run.scheduler.step()

            run.step_tokens = sum(sum(pair.lengths) for pair in batch)
            run.log(step_metrics)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
