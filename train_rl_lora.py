"""REINFORCE on a LoRA policy, with unit tests as the reward.

    L = -(R - b) * log p(completion | prompt),    R = r - alpha * length / 100

log p is summed over the completion's tokens, the EOS included; r is 1 if every test passes, else 0. The baseline b is
0 by default (Williams 1992, as the original has it), the batch's mean, or the mean of the task's other samples (RLOO,
arXiv 2402.14740). Left out of RLOO: the KL penalty in the reward.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from common import RunLog, machine, replace_folder, require, run
from rewards import base_reward, unit_test_reward
from sandbox import Sandbox, self_test
from tasks import read_tasks, sha256


@dataclass
class Args:
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from
    output_dir: str = "checkpoints/deepseek_1_3b_lora_rl_alpha0.01_100"  # where the new adapter goes
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, what is sampled is not what is scored
    learning_rate: float = 5e-6  # of AdamW, constant
    num_steps: int = 100  # updates
    batch_size: int = 1  # tasks a step
    num_samples: int = 1  # completions a task
    baseline: Literal["none", "mean", "rloo"] = "none"  # what is taken from the reward
    length_penalty_alpha: float = 0.01  # reward lost per 100 tokens
    max_grad_norm: float = 0.0  # clip the gradient's norm to this; 0: do not
    micro_batch_size: int = 16  # completions in one forward and backward pass
    stop_at_strings: bool = False  # end completions at HumanEval's stop strings too
    time_limit: float = 5.0  # seconds a check may take
    allow_weak_tests: bool = False  # run tests that cannot be kept apart from the program; a pass can then be forged
    allow_missing_layers: bool = False  # go on where the sandbox cannot lock programs down
    log_every: int = 1  # steps between lines on the screen
    trust_remote_code: bool = False  # run code that comes with the model
    seed: int = 42  # task order and sampling
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    require(args.length_penalty_alpha >= 0, f"--length_penalty_alpha {args.length_penalty_alpha}: must not be negative")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive; REINFORCE needs samples")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    for name in ("num_steps", "batch_size", "num_samples", "max_new_tokens", "micro_batch_size", "log_every"):
        require(getattr(args, name) >= 1, f"--{name} {getattr(args, name)}: must be at least 1")
    require(args.time_limit > 0, f"--time_limit {args.time_limit}: must be positive")
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
    require(args.baseline != "rloo" or args.num_samples >= 2, "--baseline rloo needs --num_samples 2 or more")
    require(
        args.baseline != "mean" or args.batch_size * args.num_samples >= 2,
        "--baseline mean needs two samples a step or more: raise --batch_size or --num_samples",
    )


def advantages(rewards: list[float], group: list[int], baseline: str) -> list[float]:
    """R - b for each sample; `group` numbers the task that a sample belongs to.

    A sample without company (the others were left out) has no baseline to be compared with: advantage 0.

    >>> advantages([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], "rloo")
    [1.0, -1.0, 0.0, 0.0]
    """
    if baseline == "none":
        return list(rewards)
    if baseline == "mean":
        mean = sum(rewards) / len(rewards)
        return [reward - mean for reward in rewards]
    others = [[r for j, r in enumerate(rewards) if j != i and group[j] == group[i]] for i in range(len(rewards))]
    return [reward - sum(rest) / len(rest) if rest else 0.0 for reward, rest in zip(rewards, others, strict=True)]


def task_order(num_tasks: int, seed: int) -> Iterator[int]:
    """Task indices without end: every task once in each pass, each pass in a new order."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(num_tasks), num_tasks)


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path)

    import torch
    from transformers import set_seed

    from policy import (
        base_and_adapter,
        completion_logprobs,
        load_policy,
        load_tokenizer,
        pick_device,
        save_adapter,
        trainable_parameters,
    )
    from rollout import encode_prompts, sample

    weaker = {"allow_weak_tests": args.allow_weak_tests, "allow_missing_layers": args.allow_missing_layers}
    with replace_folder(args.output_dir) as folder, Sandbox(args.time_limit, **weaker) as sandbox:
        if not args.allow_missing_layers:
            self_test(sandbox)  # a reward that can be forged is no reward
        print("sandbox: " + ", ".join(name for name, held in sandbox.layers.items() if held))
        record = {"args": asdict(args), "train_sha256": sha256(args.train_path), "sandbox": sandbox.layers, **machine()}
        (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n")
        adapter = base_and_adapter(args.sft_model)[1]
        require(adapter is not None, f"--sft_model {args.sft_model}: is no adapter; run train_sft_lora.py first")
        tokenizer = load_tokenizer(args.sft_model, args.trust_remote_code)
        prompts = encode_prompts(tokenizer, tasks, args.max_length - args.max_new_tokens)
        set_seed(args.seed)
        device = pick_device()
        model = load_policy(args.sft_model, device, trainable=True, trust_remote_code=args.trust_remote_code)
        model.eval()  # no dropout: what was sampled is what is trained on
        optimizer = torch.optim.AdamW(trainable_parameters(model), lr=args.learning_rate, weight_decay=0.0)
        generator = torch.Generator(device).manual_seed(args.seed)
        order = task_order(len(tasks), args.seed)
        log = RunLog(folder / "rl_train_log.jsonl")
        print(f"REINFORCE: {len(tasks)} tasks, {args.num_steps} steps of {args.batch_size * args.num_samples} samples, "
              f"alpha {args.length_penalty_alpha}, baseline {args.baseline}, on {device}")  # fmt: skip
        if args.top_p < 1:
            print(f"note: with top_p {args.top_p} the sampled distribution is not the one that is scored")

        for step in range(1, args.num_steps + 1):
            # sample
            started = time.perf_counter()
            chosen = [next(order) for _ in range(args.batch_size)]
            rollouts = sample(
                model,
                tokenizer,
                [prompts[index] for index in chosen],
                num_samples=args.num_samples,
                max_new_tokens=args.max_new_tokens,
                temperature=args.temperature,
                top_p=args.top_p,
                stop_at_strings=args.stop_at_strings,
                generator=generator,
            )
            sampled = time.perf_counter()

            # score
            verdicts = sandbox.check_many((tasks[chosen[r.prompt_index]], r.text) for r in rollouts)
            scored = [(r, v) for r, v in zip(rollouts, verdicts, strict=True) if v.judged]
            rewards = [unit_test_reward(v, len(r.token_ids), args.length_penalty_alpha) for r, v in scored]
            checked = time.perf_counter()

            # advantage
            advantage = advantages(rewards, [r.prompt_index for r, _ in scored], args.baseline)

            # loss, one graph alive at a time
            optimizer.zero_grad()
            loss, mismatch = 0.0, 0.0
            by_length = sorted(range(len(scored)), key=lambda i: len(scored[i][0].token_ids))
            for start in range(0, len(by_length), args.micro_batch_size):
                rows = by_length[start : start + args.micro_batch_size]
                batch = [scored[i][0] for i in rows]
                logprobs, mask = completion_logprobs(
                    model, [r.prompt_ids for r in batch], [r.token_ids for r in batch], args.temperature
                )  # (B, R), (B, R)
                weight = torch.tensor([advantage[i] for i in rows], device=device)  # (B,)
                part = -(weight * logprobs.sum(1)).sum() / len(scored)
                part.backward()
                loss += part.item()
                for row, rollout in enumerate(batch):
                    gap = logprobs[row, : len(rollout.token_ids)] - torch.tensor(rollout.logprobs, device=device)
                    mismatch = max(mismatch, gap.abs().max().item())
            grad_norm = torch.nn.utils.clip_grad_norm_(
                trainable_parameters(model), args.max_grad_norm or float("inf")
            ).item()  # fmt: skip
            optimizer.step()

            count = max(len(scored), 1)
            record = {
                "step": step,
                "loss": loss,
                "base_reward": sum(base_reward(v) for _, v in scored) / count,
                "reward": sum(rewards) / count,
                "gen_len": sum(len(r.token_ids) for r, _ in scored) / count,
                "cut_off": sum(not r.ended for r, _ in scored) / count,
                "grad_norm": grad_norm,
                "sampler_mismatch": mismatch,
                "left_out": len(rollouts) - len(scored),
                "weak": sum(v.weak for _, v in scored),
                "sample_seconds": sampled - started,
                "score_seconds": checked - sampled,
                "train_seconds": time.perf_counter() - checked,
            }
            log.write(record, show=step % args.log_every == 0)

        log.close()
        save_adapter(model, tokenizer, folder)
    print(f"saved {args.output_dir}")


if __name__ == "__main__":
    run(main, Args, __doc__)
