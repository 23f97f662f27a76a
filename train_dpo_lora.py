"""Direct preference optimisation (DPO) of a LoRA policy on pairs of completions (arXiv 2305.18290).

    L = -log sigmoid(beta * [(log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l))])

y_w is the chosen completion of a prompt, y_l the rejected one; log pi is summed over a completion's tokens, the EOS
included; ref is the SFT adapter that the run starts from, frozen. `generate_dpo_data.py` makes the pairs. With label
smoothing e, L = -(1 - e) log sigmoid(m) - e log sigmoid(-m) for the margin m. Left out of the paper: the warm-up, and
the SFT on chosen completions where the pairs are of another model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common import Dtype, InputError, read_jsonl, require, require_at_least, run

if TYPE_CHECKING:
    import torch  # takes seconds: not before the arguments are known to be right


@dataclass
class Args:
    train_path: str = "checkpoints/deepseek_1_3b_dpo_pairs.jsonl"  # pairs to learn from
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from, and the reference
    output_dir: str = "checkpoints/deepseek_1_3b_lora_dpo"  # where the new adapter goes
    learning_rate: float = 2e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # the latter two end at 0
    beta: float = 0.05  # how much a log-ratio counts; the smaller, the further the policy goes from the reference
    batch_size: int = 2  # pairs an update
    num_train_epochs: float = 1.0  # passes over the pairs
    num_steps: int = -1  # updates; overrides the epochs if given
    label_smoothing: float = 0.0  # share of pairs taken to be the wrong way round
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0: do not
    micro_batch_tokens: int = 4096  # tokens of one forward and backward pass; changes memory and speed alone
    gradient_checkpointing: bool = False  # compute each layer again in the backward pass: less memory, slower
    dtype: Dtype = "auto"  # of products; auto: 16 bits on a GPU, 32 on a CPU
    keep_every: int = 0  # steps between adapters that are kept in OUTPUT_DIR/step_N; 0: none
    save_every: int = 10  # steps between states that a killed run goes on from; 0: only when it is asked to stop
    resume: bool = True  # go on from the state that an interrupted run of this command left
    dry_run: bool = False  # one step, nothing kept: peak memory, and the time that the run would take
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # tracker beside the log
    run_name: str = ""  # the run's name for the tracker; "": the output folder's
    log_every: int = 1  # steps between lines on the screen
    quiet: bool = False  # nothing on the screen but errors
    json_lines: bool = False  # on the screen the log's records, and notes on stderr
    trust_remote_code: bool = False  # run code that comes with the model
    seed: int = 42  # order of the pairs
    deterministic: bool = False  # on a GPU: the same run twice gives the same bits; slower, more memory
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    require_at_least(0, args, "keep_every", "save_every", "max_grad_norm")
    require_at_least(1, args, "batch_size", "micro_batch_tokens", "log_every")
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    require(args.beta > 0, f"--beta {args.beta}: must be positive")
    require(0 <= args.label_smoothing < 0.5, f"--label_smoothing {args.label_smoothing}: must be in [0, 0.5)")
    require(args.num_steps == -1 or args.num_steps >= 1, f"--num_steps {args.num_steps}: must be at least 1")
    require(args.num_steps >= 1 or args.num_train_epochs > 0, "--num_train_epochs must be positive")


@dataclass
class Pair:
    """Two completions of one prompt; ids as they are trained on. `where` is the file and line that it came from."""

    where: str
    task_id: str
    prompt: str | None
    chosen: str | None
    rejected: str | None
    prompt_ids: list[int] | None
    chosen_ids: list[int] | None
    rejected_ids: list[int] | None

    @property
    def prompt_length(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the two completions."""
        return [len(self.chosen_ids), len(self.rejected_ids)]

    @property
    def group(self) -> str:
        return self.where

    def record(self) -> dict[str, Any]:
        return {"task_id": self.task_id, "where": self.where, "chosen": self.chosen, "rejected": self.rejected}


TEXTS, IDS = ("prompt", "chosen", "rejected"), ("prompt_ids", "chosen_ids", "rejected_ids")


def read_pairs(path: str) -> list[Pair]:
    """Read a JSONL file of pairs: the three of `IDS`, or the three of `TEXTS` alone.

    Raises:
        InputError: the file is missing, empty, or has a line that is no pair; names the file and the line.
    """
    lines = read_jsonl(path, "file of pairs; generate_dpo_data.py makes one")
    pairs = [_pair(record, where) for where, record in lines]
    require(len(pairs) > 0, f"{path}: has no pairs")
    return pairs


def _pair(record: dict[str, Any], where: str) -> Pair:
    texts, ids = [record.get(name) for name in TEXTS], [record.get(name) for name in IDS]
    for name, text in zip(TEXTS, texts, strict=True):
        require(text is None or isinstance(text, str), f"{where}: {name} is not text")
    if any(value is not None for value in ids):
        for name, value in zip(IDS, ids, strict=True):
            right = isinstance(value, list) and value and all(type(token) is int and token >= 0 for token in value)
            require(right, f"{where}: {name} must be a list of token ids, as the other ids are given")
    else:
        lacking = [name for name, text in zip(TEXTS, texts, strict=True) if text is None]
        require(not lacking, f"{where}: a pair needs {', '.join(IDS)}, or else prompt, chosen and rejected as text")
    same = ids[1] == ids[2] if ids[1] else texts[1] == texts[2]
    require(not same, f"{where}: chosen and rejected are the same; there is nothing to prefer")
    return Pair(where, str(record.get("task_id", where)), *texts, *ids)


def encode_pairs(pairs: list[Pair], tokenizer, config: Any) -> None:
    """Give pairs of text alone their ids, the completion's as they are behind the prompt, EOS added; check the others.

    Args:
        config: of the model.

    Raises:
        InputError: ids of another tokenizer, or a pair too long; names the file and the line.
    """
    from model.tokens import check_ids, completion_ids, prompt_ids

    for pair in pairs:
        found = prompt_ids(tokenizer, pair.prompt) if pair.prompt is not None else pair.prompt_ids
        if pair.prompt_ids is None:
            pair.prompt_ids = found
            require(len(found) > 0, f"{pair.where}: its prompt has no tokens; the model needs one to start from")
            try:
                pair.chosen_ids, pair.rejected_ids = (
                    completion_ids(tokenizer, found, text) + [tokenizer.eos_token_id]
                    for text in (pair.chosen, pair.rejected)
                )
            except InputError as error:
                raise InputError(f"{pair.where}: the tokenizer does not give its text back: {error}") from None
        require(
            pair.prompt_ids == found,
            f"{pair.where}: its ids are of another tokenizer than the model's; make the pairs with this --sft_model",
        )
        check_ids(config, pair.where, [pair.prompt_ids + ids for ids in (pair.chosen_ids, pair.rejected_ids)])


def pair_logprobs(model, pairs: list[Pair]) -> torch.Tensor:
    """log p of the chosen (row 0) and the rejected (row 1) completions; (2, B)."""
    from model.logprobs import completion_logprobs

    completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    logprobs, _ = completion_logprobs(model, [pair.prompt_ids for pair in pairs] * 2, completions)  # (2B, R)
    return logprobs.sum(1).view(2, -1)


def dpo_loss(margin: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """L of each pair from its margin, both (B,): beta times the difference of the two log-ratios.

    >>> import torch
    >>> dpo_loss(torch.tensor([0.0, 1.0, -1.0]))
    tensor([0.6931, 0.3133, 1.3133])
    """
    from torch.nn.functional import logsigmoid

    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def check_first_loss(loss: float, tolerance: float) -> None:
    """Before the first update the policy is the reference, every margin 0 and so the loss ln 2, whatever the pairs.

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
    from model.parity import as_reference, check_reference
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

            # loss, one graph alive at a time
            names = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")
            sums = dict.fromkeys((*names, "chosen_logprob", "rejected_logprob"), 0.0)
            chosen_tokens, rejected_tokens = (sum(lengths) for lengths in zip(*(p.lengths for p in batch), strict=True))
            for rows in run.micro_batches(batch):
                part = [batch[i] for i in rows]
                with torch.no_grad(), as_reference(run.model):
                    reference = pair_logprobs(run.model, part)  # (2, b)
                policy = pair_logprobs(run.model, part)  # (2, b)
                reward = args.beta * (policy - reference)  # (2, b)
                margin = reward[0] - reward[1]  # (b,)
                loss = dpo_loss(margin, args.label_smoothing).sum() / len(batch)
                run.scaler.scale(loss).backward()

                sums["loss"] += loss.item()
                sums["accuracy"] += (margin > 0).sum().item() / len(batch)
                sums["margin"] += margin.sum().item() / len(batch)
                sums["chosen_reward"] += reward[0].sum().item() / len(batch)
                sums["rejected_reward"] += reward[1].sum().item() / len(batch)
                sums["chosen_logprob"] += policy[0].sum().item() / chosen_tokens
                sums["rejected_logprob"] += policy[1].sum().item() / rejected_tokens
            figures = run.total(sums)  # log-probs a token: if both fall, the pairs' likelihood is displaced
            if step == 1:
                check_first_loss(figures["loss"], 1e-3 if dtype_of(run.model) == torch.float32 else 0.05)

            # step
            grad_norm = run.update(figures["loss"], batch)
            run.step_tokens = chosen_tokens + rejected_tokens
            run.log(figures | {"grad_norm": grad_norm})


if __name__ == "__main__":
    run(main, Args, __doc__)
