"""PPO-Clip on a LoRA policy, with unit tests as the reward (arXiv 1707.06347).

    L = -E[min(rho A, clip(rho, 1 - c, 1 + c) A)],    rho = pi(completion | prompt) / pi_old(completion | prompt)

A is R = r - alpha * length / 100, z-scored over the batch; rho is the ratio of the whole completion, and there is no
critic, as the original has it. By flag: another R (`--reward`), rho for each token, a critic with GAE (arXiv
1506.02438), an entropy bonus, the KL to the SFT adapter in the reward (k1) or in the loss (k3), and epochs that end
early. Left out: a learning rate that decays by default; a critic of its own weights, learning rate and clip range (ours
is a linear head on the policy).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from common import Dtype, check_sampling_args, require, require_at_least, run
from judging.rewards import chosen_reward
from judging.tasks import language_of, read_tasks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Args:
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    prompt_level: Literal["normal", "detailed", "terse", "curriculum"] = "normal"  # the last: detailed to terse
    curriculum_epochs: float = 1.0  # curriculum: passes over the tasks at a level before the next
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from, and the KL's reference
    output_dir: str = "checkpoints/deepseek_1_3b_lora_ppo_alpha0.01"  # where the new adapter goes
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, what is sampled is not what is scored
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # the latter two are 0 after --num_updates
    num_updates: int = 100  # batches sampled
    token_budget: int = 0  # end after the batch in which so many tokens have been sampled; 0: do not
    batch_size: int = 4  # tasks a batch
    num_samples: int = 1  # completions a task
    ppo_epochs: int = 4  # passes over a batch
    minibatch_size: int = 0  # completions an optimizer step; 0: the whole batch
    clip_range: float = 0.2  # how far the ratio may move before its gradient stops
    ratio_level: Literal["sequence", "token"] = "sequence"  # what the ratio is of
    normalize_advantages: bool = True  # z-score them over the batch
    value_coef: float = 0.0  # weight of the critic's loss, 0.5 is usual; 0: no critic
    gamma: float = 1.0  # discount a token, with a critic
    gae_lambda: float = 0.95  # GAE: 0 trusts the critic, 1 the reward
    entropy_coef: float = 0.0  # weight of the entropy bonus, a mean over tokens; 0.01 is usual
    kl_coef: float = 0.0  # weight of the KL to the SFT adapter
    kl_in: Literal["reward", "loss"] = "reward"  # k1, summed over a completion; or k3, a mean over tokens
    target_kl: float = 0.0  # end a batch's epochs once a token's KL to the policy that sampled is above; 0: do not
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (see docs/rewards.md), or FILE.py:FUNCTION
    syntax_penalty: float = 0.2  # shaped: lost by code that does not compile
    quality_bonus: float = 0.1  # shaped: most that clean code earns on top, if it passes
    full_bonus: float = 0.5  # partial: earned by passing all tests; the rest is the share of them that pass
    part_weights: str = "0.4,0.5,0.3,0.5,0.6"  # parts: compilation, functional, synthesis, quality, reasoning
    judge_url: str = ""  # OpenAI-compatible server whose model scores Verilog's reasoning; "": that part is not in use
    judge_model: str = ""  # its name there
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0: do not
    sample_batch_size: int = 64  # completions sampled at a time; changes memory and speed alone
    unpack_to_sample: bool = True  # sample from an unpacked copy: faster, 2 bytes a weight (no_: from the 4-bit policy)
    cuda_graph: bool = True  # decode under a CUDA graph on a GPU: faster
    micro_batch_tokens: int = 4096  # tokens of one forward and backward pass, likewise
    gradient_checkpointing: bool = False  # compute each layer again in the backward pass: less memory, slower
    dtype: Dtype = "auto"  # of products; auto: 16 bits on a GPU, 32 on a CPU
    stop_at_strings: bool = False  # end completions at their task's stop strings too
    engine: Literal["local", "vllm"] = "local"  # what samples; vllm is a package of its own and needs a CUDA GPU
    vllm_memory: float = 0.4  # share of the GPU's memory that --engine vllm may take
    time_limit: float = 5.0  # seconds a check may take
    allow_weak_tests: bool = False  # run tests that cannot be kept apart from the program; a pass can then be forged
    packages: str = "numpy"  # that solutions may import beside the standard library, with commas between
    allow_missing_layers: bool = False  # go on where the sandbox cannot lock programs down
    parity_bound: float = 0.0  # most that sampler and trainer may differ a token, in nats; 0: as the precision asks
    valid_path: str = ""  # tasks whose pass rate (greedy) decides which adapter is kept; "": the last one is
    valid_every: int = 10  # batches between validations
    patience: int = 0  # end after so many validations without a better pass rate; 0: do not
    keep_every: int = 0  # batches between adapters that are kept in OUTPUT_DIR/step_N; 0: none
    save_every: int = 10  # batches between states that a killed run goes on from; 0: only when it is asked to stop
    resume: bool = True  # go on from the state that an interrupted run of this command left
    dry_run: bool = False  # one batch, nothing kept: peak memory, and the time that the run would take
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # tracker beside the log
    run_name: str = ""  # the run's name for the tracker; "": the output folder's
    log_completions: int = 1  # batches between those whose completions are written down, for report.py; 0: none
    track_completions: int = 0  # batches between tables of completions in the tracker; 0: none
    log_every: int = 1  # batches between lines on the screen
    quiet: bool = False  # nothing on the screen but errors
    json_lines: bool = False  # on the screen the log's records, and notes on stderr
    trust_remote_code: bool = False  # run code that comes with the model
    seed: int = 42  # task order and sampling
    deterministic: bool = False  # on a GPU: the same run twice gives the same bits; slower, more memory
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    check_sampling_args(args)
    require_at_least(1, args, "num_updates", "ppo_epochs")
    require_at_least(0, args, "minibatch_size", "value_coef", "entropy_coef", "kl_coef", "target_kl")
    require(args.clip_range > 0, f"--clip_range {args.clip_range}: must be positive")
    require(0 <= args.gamma <= 1, f"--gamma {args.gamma}: must be in [0, 1]")
    require(0 <= args.gae_lambda <= 1, f"--gae_lambda {args.gae_lambda}: must be in [0, 1]")
    require(
        args.value_coef == 0 or args.ratio_level == "token",
        "--value_coef: a critic gives each token its own advantage; add --ratio_level token",
    )
    require(
        not args.normalize_advantages or args.batch_size * args.num_samples >= 2 or args.value_coef > 0,
        "one completion has no z-score: raise --batch_size or --num_samples, or give --no_normalize_advantages",
    )


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns of token steps; all (B, R).

    values[t] is of the state before token t. After the last token of the mask comes nothing: its value is 0, for a
    completion that was cut off too.
    """
    advantage, following, after = rewards.new_zeros(rewards.shape), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * after - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        after = values[:, t] * mask[:, t]
        advantage[:, t] = following
    return advantage, (advantage + values) * mask


def z_score(advantage: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the mask; all 0 where there is nothing to choose between."""
    chosen = advantage[mask].double()
    std = chosen.std(correction=0)
    if std < 1e-7:
        return advantage * 0.0
    return ((advantage - chosen.mean()) / std * mask).to(advantage.dtype)


def ratios(logprobs: Tensor, old: Tensor, level: str) -> Tensor:
    """pi / pi_old: (B, R) for each token, or (B, 1) for each sequence. Padding is 0 in both inputs, and 1 here."""
    from model.parity import MAX_LOG_RATIO

    log_ratio = logprobs - old if level == "token" else (logprobs - old).sum(1, keepdim=True)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """min(rho A, clip(rho) A), shaped as the ratio."""
    return (ratio * advantage).minimum(ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """0.5 max((V - G)^2, (V_old + clip(V - V_old) - G)^2), (B, R)."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * ((values - returns) ** 2).maximum((clipped - returns) ** 2)


def minibatches(count: int, size: int, epochs: int) -> Iterator[list[int]]:
    """Indices, `size` at a time (0: all at once), in a new order each epoch."""
    for _ in range(epochs):
        order = random.sample(range(count), count)
        for start in range(0, count, size or count):
            yield order[start : start + (size or count)]


def backward(args: Args, run: Any, samples: list, rows: list[int], fixed: Any, advantage: Tensor, returns: Tensor | None
             ) -> dict[str, float]:  # fmt: skip
    """Add a minibatch's gradient up, one graph alive at a time. Returns its loss and what to know of it.

    Args:
        rows: which of the samples the minibatch is.
        fixed: `Run.before_update` of all samples; advantage: (B, R) with a critic, else (B, 1).
        returns: (B, R), None without a critic.
    """
    from model.parity import kl_estimate, sampler_gap

    per_token, critic = args.ratio_level == "token", returns is not None
    num_tokens = sum(samples[i].length for i in rows)
    num_ratios = num_tokens if per_token else len(rows)
    names = ["loss", "policy_loss", "approx_kl", "kl_reference", "clip_fraction"]
    names += ["value_loss"] * critic + ["policy_entropy"] * (args.entropy_coef > 0)
    sums, of_each, ratio_max, gaps = dict.fromkeys(names, 0.0), {}, [], []
    for part in run.micro_batches(samples, rows):
        out = run.outputs([samples[i] for i in part], entropy=args.entropy_coef > 0, hidden=critic)
        here = part, slice(out.mask.shape[1])  # the rows, as long as the longest of them
        old, reference, seen = fixed.logprobs[here], fixed.reference[here], fixed.mask[here] > 0  # (B, R)
        ratio = ratios(out.logprobs, old, args.ratio_level)  # (B, R) or (B, 1)
        counted = seen if per_token else seen[:, :1]
        objective = clipped_objective(ratio, advantage[here], args.clip_range)
        policy_loss = loss = -objective[counted].sum() / num_ratios
        if critic:
            value_loss = clipped_value_loss(run.values(out), fixed.values[here], returns[here], args.clip_range)
            value_loss = value_loss[seen].sum() / num_tokens
            loss = loss + args.value_coef * value_loss
            sums["value_loss"] += value_loss.item()
        if args.entropy_coef:
            entropy = out.entropy.sum() / num_tokens
            loss = loss - args.entropy_coef * entropy
            sums["policy_entropy"] += entropy.item()
        if args.kl_coef and args.kl_in == "loss":
            k3 = kl_estimate(out.logprobs, reference, "k3")
            loss = loss + args.kl_coef * k3.sum() / num_tokens
        run.scaler.scale(loss).backward()

        sums["loss"] += loss.item()
        sums["policy_loss"] += policy_loss.item()
        sums["approx_kl"] += kl_estimate(old, out.logprobs.detach(), "k3").sum().item() / num_tokens
        sums["clip_fraction"] += ((ratio[counted] - 1).abs() > args.clip_range).sum().item() / num_ratios
        sums["kl_reference"] += kl_estimate(old, reference, "k3").sum().item() / num_tokens
        of_each |= zip(part, ((ratio * counted).sum(1) / counted.sum(1)).tolist(), strict=True)
        ratio_max.append(ratio[counted].max().item())
        gaps.append(sampler_gap(old, [samples[i].rollout for i in part]))
        del out  # its states are not for the next pass to find in memory
    run.note_ratios(samples, of_each)
    return run.total(sums, ratio_max=ratio_max, sampler_mismatch=gaps)


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct)
    earned = chosen_reward(args, language_of(tasks))

    import torch

    from model.parity import kl_estimate, largest
    from training.run import training_run

    critic = args.value_coef > 0
    with training_run(args, "ppo", tasks, args.num_updates, args.token_budget, critic) as run:
        for _ in run.steps():
            # sample
            drawn = run.sample(args.batch_size)
            run.check_parity(drawn)

            # score
            samples = run.score(drawn)  # B of them
            if not samples:
                run.log({})
                continue
            for s, reward in zip(samples, earned(samples), strict=True):
                s.reward = reward

            # advantage
            fixed = run.before_update(samples)  # log-probs of the policy that sampled, (B, R)
            token_rewards = torch.zeros_like(fixed.logprobs)
            for row, s in enumerate(samples):
                token_rewards[row, s.length - 1] = s.reward
            if args.kl_in == "reward":
                token_rewards -= args.kl_coef * kl_estimate(fixed.logprobs, fixed.reference, "k1")
            if critic:
                raw, returns = gae(token_rewards, fixed.values, fixed.mask, args.gamma, args.gae_lambda)  # (B, R)
                counted = fixed.mask > 0
            else:
                raw, returns = token_rewards.sum(1, keepdim=True), None  # (B, 1)
                counted = torch.ones_like(raw) > 0
            advantage = z_score(raw, counted) if args.normalize_advantages else raw

            # loss and step, over and over
            steps, far = [], False
            for rows in minibatches(len(samples), args.minibatch_size, args.ppo_epochs):
                figures = backward(args, run, samples, rows, fixed, advantage, returns)
                far = bool(steps) and 0 < args.target_kl < figures["approx_kl"]
                if far:
                    run.optimizer.zero_grad()
                    break
                steps.append(figures | {"grad_norm": run.update(figures["loss"], [samples[i] for i in rows])})

            record = run.figures(samples, raw[counted].tolist())
            over_steps = {name: mean(step[name] for step in steps) for name in steps[0]}
            if critic and returns[counted].var() > 0:
                unexplained = (returns - fixed.values)[counted].var() / returns[counted].var()
                record["explained_variance"] = 1 - unexplained.item()
            run.log(
                record
                | over_steps
                | {
                    "approx_kl": figures["approx_kl"],
                    "ratio_max": largest([step["ratio_max"] for step in steps]),
                    "optimizer_steps": len(steps),
                    "stopped_early": int(far),
                    "sampler_mismatch": largest([step["sampler_mismatch"] for step in steps]),
                },
                samples,
                (raw.sum(1) / counted.sum(1)).tolist(),  # with a critic a mean over tokens
                raw if critic else None,
            )


if __name__ == "__main__":
    run(main, Args, __doc__)
