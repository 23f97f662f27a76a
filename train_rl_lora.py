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
from pathlib import Path
from statistics import mean, pstdev
from tempfile import TemporaryDirectory
from typing import Literal

from common import Preempted, RunLog, machine, replace_folder, require, run
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
    parity_bound: float = 0.0  # most that sampler and trainer may differ a token, in nats; 0: as the precision asks
    save_every: int = 10  # steps between states that a killed run goes on from; 0: only when it is asked to stop
    resume: bool = True  # go on from the state that an interrupted run of this command left
    dry_run: bool = False  # one step, nothing kept: peak memory, and the time that the run would take
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
    require(args.learning_rate > 0, f"--learning_rate {args.learning_rate}: must be positive")
    require(args.save_every >= 0, f"--save_every {args.save_every}: must not be negative")
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


def tied_groups(rewards: list[float], group: list[int]) -> float:
    """Share of tasks whose samples all earned the same: with a group baseline they teach nothing.

    >>> tied_groups([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    0.5
    """
    groups = {number: {r for r, g in zip(rewards, group, strict=True) if g == number} for number in group}
    return sum(len(earned) == 1 for earned in groups.values()) / max(len(groups), 1)


def report_dry_run(seconds: float) -> None:
    import resource

    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU" if torch.cuda.is_available() else ""
    print(f"dry run: peak memory {peak:.2f} GiB{gpu}; the whole run would take about {seconds / 60:.1f} minutes")


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path)

    import torch
    from transformers import set_seed

    from checkpoint import FiniteGuard, StopRequest, drop_state, read_state, restore_state, save_state
    from policy import (
        base_and_adapter,
        check_parity,
        completion_logprobs,
        load_policy,
        load_tokenizer,
        pick_device,
        sampler_gap,
        save_adapter,
        trainable_parameters,
    )
    from rollout import encode_prompts, sample

    weaker = {"allow_weak_tests": args.allow_weak_tests, "allow_missing_layers": args.allow_missing_layers}
    state = None

    def goes_on(partial: Path) -> bool:
        nonlocal state
        state = read_state(partial, args)
        return state is not None

    output = TemporaryDirectory() if args.dry_run else replace_folder(args.output_dir, keep=goes_on)
    with output as folder, Sandbox(args.time_limit, **weaker) as sandbox, StopRequest() as stop:
        folder = Path(folder)
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
        first_step, drawn, keep_bytes = 1, 0, 0
        if state is not None:
            position = restore_state(state, model, optimizer)
            generator.set_state(position["generator"])
            first_step, drawn, keep_bytes = position["step"] + 1, position["drawn"], position["log_bytes"]
            for _ in range(drawn):
                next(order)
            print(f"going on after step {position['step']}")
        log = RunLog(folder / "rl_train_log.jsonl", keep_bytes)
        finite = FiniteGuard(folder)
        print(f"REINFORCE: {len(tasks)} tasks, {args.num_steps} steps of {args.batch_size * args.num_samples} samples, "
              f"alpha {args.length_penalty_alpha}, baseline {args.baseline}, on {device}")  # fmt: skip
        if args.top_p < 1:
            print(f"note: with top_p {args.top_p} the sampled distribution is not the one that is scored")

        for step in range(first_step, args.num_steps + 1):
            # sample
            started = time.perf_counter()
            chosen = [next(order) for _ in range(args.batch_size)]
            drawn += args.batch_size
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
            if step == first_step:
                check_parity(model, rollouts, args.temperature, args.parity_bound)
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
                logprobs, _ = completion_logprobs(
                    model, [r.prompt_ids for r in batch], [r.token_ids for r in batch], args.temperature
                )  # (B, R)
                weight = torch.tensor([advantage[i] for i in rows], device=device)  # (B,)
                part = -(weight * logprobs.sum(1)).sum() / len(scored)
                part.backward()
                loss += part.item()
                mismatch = max(mismatch, sampler_gap(logprobs, batch))
            grad_norm = torch.nn.utils.clip_grad_norm_(
                trainable_parameters(model), args.max_grad_norm or float("inf")
            ).item()  # fmt: skip
            batch = [{"task_id": tasks[chosen[r.prompt_index]]["task_id"], "completion": r.text} for r, _ in scored]
            if finite.allows(loss, grad_norm, batch):
                optimizer.step()

            trained = time.perf_counter()
            count, tokens = max(len(scored), 1), sum(len(r.token_ids) for r in rollouts)
            record = {
                "step": step,
                "loss": loss,
                "base_reward": sum(base_reward(v) for _, v in scored) / count,
                "reward": sum(rewards) / count,
                "gen_len": sum(len(r.token_ids) for r, _ in scored) / count,
                "cut_off": sum(not r.ended for r, _ in scored) / count,
                "entropy": -sum(sum(r.logprobs) for r in rollouts) / tokens,
                "advantage_mean": mean(advantage) if advantage else 0.0,
                "advantage_std": pstdev(advantage) if advantage else 0.0,
                "tied_groups": tied_groups(rewards, [r.prompt_index for r, _ in scored]),
                "grad_norm": grad_norm,
                "sampler_mismatch": mismatch,
                "left_out": len(rollouts) - len(scored),
                "weak": sum(v.weak for _, v in scored),
                "skipped_updates": finite.skipped,
                "sample_tokens_per_second": tokens / (sampled - started),
                "score_checks_per_second": len(rollouts) / (checked - sampled),
                "train_tokens_per_second": tokens / (trained - checked),
            }
            log.write(record, show=step % args.log_every == 0)

            if args.dry_run:
                report_dry_run((trained - started) * args.num_steps)
                return
            if stop.asked or (args.save_every and step % args.save_every == 0):
                save_state(folder, args, model, optimizer, step=step, drawn=drawn, log_bytes=log.size,
                           generator=generator.get_state())  # fmt: skip
            if stop.asked:
                raise Preempted(f"stopped after step {step} of {args.num_steps}; the same command goes on from there")

        log.close()
        save_adapter(model, tokenizer, folder)
        drop_state(folder)
    print(f"saved {args.output_dir}")


if __name__ == "__main__":
    run(main, Args, __doc__)
