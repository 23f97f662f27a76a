"""GRPO and its relatives on a LoRA policy, with unit tests as the reward (arXiv 2402.03300).

    L = -sum_i w_i sum_t [min(rho A_i, clip(rho, 1 - c, 1 + c_high) A_i) - beta k3(pi || SFT)]
    A_i = (R_i - mean R) / std R over the G completions of a task, 0 where all R are the same
    R = r - alpha * length / 100, or what else `--reward` gives

rho is pi / pi_old of token t, w_i = 1 / (N |o_i|) for N completions of |o_i| tokens. `--loss_type` changes:
    dr_grpo  A without the std, w = 1 / (N max_new_tokens): neither long wrong answers nor very easy and hard
             tasks count more (arXiv 2503.20783)
    dapo     w = 1 / (all tokens of the update): every token counts the same (arXiv 2503.14476)
    gspo     rho of the sequence, its |o|-th root (arXiv 2507.18071; clip ranges there are 3e-4 and 4e-4)
    cispo    clip(rho, max 1 + c_high), without gradient, times A log pi (arXiv 2506.13585); w as dapo

DAPO's other parts are flags: --clip_range_high, --dynamic_sampling, --overlong_buffer, --mask_truncated. With
alpha > 0 the completions of a task differ in R by their lengths alone where all pass or all fail, and the division by
the std makes that difference as large as any: dr_grpo does not divide, and --dynamic_sampling, which goes by the tests,
leaves such groups out. Left out: the reference that follows the policy, and the reward model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, mean, pstdev
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
    output_dir: str = "checkpoints/deepseek_1_3b_lora_grpo_alpha0.01"  # where the new adapter goes
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, what is sampled is not what is scored
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # the latter two are 0 after --num_steps
    num_steps: int = 100  # batches sampled
    token_budget: int = 0  # end after the batch in which so many tokens have been sampled; 0: do not
    batch_size: int = 1  # tasks a batch
    num_samples: int = 8  # completions a task: the group, G
    num_iterations: int = 1  # passes over a batch
    minibatch_size: int = 0  # completions an optimizer step; 0: the whole batch
    loss_type: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "grpo"  # see above
    clip_range: float = 0.2  # how far the ratio may fall before its gradient stops
    clip_range_high: float = 0.0  # how far it may rise; 0: the same (DAPO: 0.28)
    kl_coef: float = 0.02  # weight of the KL to the SFT adapter, k3 in the loss
    dynamic_sampling: bool = False  # replace groups that all pass or all fail by other tasks' groups
    max_resamples: int = 3  # how often that is tried for a batch
    overlong_buffer: int = 0  # tokens before the limit in which up to 1 of the reward is lost; 0: none is
    mask_truncated: bool = False  # completions that were cut off count in their group, but are not trained on
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
    require_at_least(1, args, "num_steps", "num_iterations")
    require_at_least(2, args, "num_samples")  # a group of one has nothing to be compared with
    require_at_least(0, args, "minibatch_size", "clip_range_high", "kl_coef", "max_resamples", "overlong_buffer")
    require(args.clip_range > 0, f"--clip_range {args.clip_range}: must be positive")
    require(args.overlong_buffer < args.max_new_tokens, "--overlong_buffer must be less than --max_new_tokens")


def overlong_penalty(length: int, ended: bool, limit: int, buffer: int) -> float:
    """DAPO's soft penalty: 0 up to limit - buffer tokens, then linear to 1 at the limit; 1 for what was cut off.

    >>> [overlong_penalty(length, True, 100, 20) for length in (80, 90, 100)]
    [0.0, 0.5, 1.0]
    """
    if not buffer:
        return 0.0
    return 1.0 if not ended else max(0.0, length - (limit - buffer)) / buffer


def group_advantages(rewards: list[float], group: list[int], divide: bool) -> list[float]:
    """R - mean R of the group, divided by its standard deviation if so asked; 0 where all R are the same.

    >>> group_advantages([1.0, 0.0, 0.5, 0.5], [0, 0, 1, 1], divide=True)
    [1.0, -1.0, 0.0, 0.0]
    """
    members = {number: [r for r, g in zip(rewards, group, strict=True) if g == number] for number in group}
    advantage = []
    for reward, number in zip(rewards, group, strict=True):
        earned = members[number]
        if min(earned) == max(earned):
            advantage.append(0.0)
        else:
            advantage.append((reward - fmean(earned)) / (pstdev(earned) if divide else 1.0))
    return advantage


def weights(lengths: list[int], loss_type: str, max_new_tokens: int) -> list[float]:
    """What each token of a completion counts in the loss of an update; 0 tokens: the completion is masked.

    >>> weights([1, 4, 0], "grpo", 8), weights([1, 4, 0], "dr_grpo", 8), weights([1, 4, 0], "dapo", 8)
    ([0.5, 0.125, 0.0], [0.0625, 0.0625, 0.0], [0.2, 0.2, 0.0])
    """
    count = sum(length > 0 for length in lengths)
    if loss_type in ("grpo", "gspo"):
        return [1 / (count * length) if length else 0.0 for length in lengths]
    total = sum(lengths) if loss_type in ("dapo", "cispo") else count * max_new_tokens
    return [1 / total if length else 0.0 for length in lengths]


def policy_objective(logprobs: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, loss_type: str, low: float,
                     high: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What is maximised at each token, and its ratio; both (B, R), the advantage is (B, 1).

    Log-probabilities are 0 on padding; what stands there in the objective is for the caller to mask.
    """
    from model.parity import MAX_LOG_RATIO

    log_ratio = logprobs - old
    if loss_type == "gspo":
        log_ratio = (log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True)).expand_as(log_ratio)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if loss_type == "cispo":
        return ratio.detach().clamp(max=1 + high) * advantage * logprobs, ratio
    return (ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage), ratio


def minibatches(count: int, size: int, epochs: int) -> Iterator[list[int]]:
    """Indices, `size` at a time (0: all at once), in a new order each epoch."""
    for _ in range(epochs):
        order = random.sample(range(count), count)
        for start in range(0, count, size or count):
            yield order[start : start + (size or count)]


def sample_groups(args: Args, run: Any) -> tuple[list, list, dict[str, int]]:
    """A batch of groups: the samples to train on, all that were scored, and counts for the log.

    With dynamic sampling, groups that all pass or all fail are not trained on but replaced, `max_resamples` times at
    most; the batch may then be smaller, or empty.
    """
    kept, everything, counts = [], [], {"replaced_groups": 0, "dropped_groups": 0}
    for attempt in range(1 + args.max_resamples * args.dynamic_sampling):
        wanted = args.batch_size - len({s.group for s in kept})
        if wanted == 0:
            break
        counts["replaced_groups"] += wanted if attempt else 0
        drawn = run.sample(wanted)
        run.check_parity(drawn)
        scored = run.score(drawn)
        passed = {number: {s.base_reward for s in scored if s.group == number} for number in {s.group for s in scored}}
        kept += [s for s in scored if not args.dynamic_sampling or len(passed[s.group]) > 1]
        everything += scored
    counts["dropped_groups"] = len({s.group for s in everything}) - len({s.group for s in kept})
    return kept, everything, counts


def backward(args: Args, run: Any, samples: list, rows: list[int], fixed: Any, advantage: Tensor) -> dict[str, float]:
    """Add a minibatch's gradient up, one graph alive at a time. Returns its loss and what to know of it.

    Args:
        rows: which of the samples the minibatch is.
        fixed: `Run.before_update` of all samples; advantage: (B, 1).
    """
    import torch

    from model.parity import kl_estimate, sampler_gap

    high = args.clip_range_high or args.clip_range
    trained = [0 if args.mask_truncated and not samples[i].rollout.ended else samples[i].length for i in rows]
    weight = dict(zip(rows, weights(trained, args.loss_type, args.max_new_tokens), strict=True))
    num_tokens = sum(samples[i].length for i in rows)
    sums = dict.fromkeys(("loss", "policy_loss", "approx_kl", "kl_reference", "clip_fraction"), 0.0)
    of_each, ratio_max, gaps = {}, [], []
    for part in run.micro_batches(samples, rows):
        out = run.outputs([samples[i] for i in part])
        here = part, slice(out.mask.shape[1])  # the rows, as long as the longest of them
        reference, seen = fixed.reference[here], fixed.mask[here] > 0  # (B, R)
        old = out.logprobs.detach() if fixed.logprobs is None else fixed.logprobs[here]  # (B, R)
        objective, ratio = policy_objective(
            out.logprobs, old, advantage[part], out.mask, args.loss_type, args.clip_range, high
        )
        w = torch.tensor([[weight[i]] for i in part], device=run.device) * out.mask  # (B, R)
        policy_loss = -(w * objective).sum()
        loss = policy_loss + args.kl_coef * (w * kl_estimate(out.logprobs, reference, "k3")).sum()
        run.scaler.scale(loss).backward()

        sums["loss"] += loss.item()
        sums["policy_loss"] += policy_loss.item()
        sums["approx_kl"] += kl_estimate(old, out.logprobs.detach(), "k3").sum().item() / num_tokens
        outside = (ratio > 1 + high) | ((ratio < 1 - args.clip_range) & (args.loss_type != "cispo"))
        sums["clip_fraction"] += outside[seen].sum().item() / num_tokens
        sums["kl_reference"] += kl_estimate(old, reference, "k3").sum().item() / num_tokens
        of_each |= zip(part, ((ratio * seen).sum(1) / seen.sum(1)).tolist(), strict=True)
        ratio_max.append(ratio[seen].max().item())
        gaps.append(sampler_gap(old, [samples[i].rollout for i in part]))
    run.note_ratios(samples, of_each)
    return run.total(sums, ratio_max=ratio_max, sampler_mismatch=gaps)


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct)
    earned = chosen_reward(args, language_of(tasks))

    import torch

    from model.parity import largest
    from training.run import training_run

    with training_run(args, "grpo", tasks, args.num_steps, args.token_budget) as run:
        for _ in run.steps():
            # sample and score
            samples, scored, counts = sample_groups(args, run)  # B of them are trained on
            for s, reward in zip(scored, earned(scored), strict=True):
                s.reward = reward
                # as in DAPO, which leaves long right code less than short wrong code
                s.reward -= overlong_penalty(s.length, s.rollout.ended, args.max_new_tokens, args.overlong_buffer)
            if not samples:
                run.log((run.figures(scored, []) if scored else {}) | counts)
                continue

            # advantage
            advantage = group_advantages(
                [s.reward for s in samples], [s.group for s in samples], divide=args.loss_type != "dr_grpo"
            )

            # loss and step
            single_pass = args.num_iterations == 1 and not 0 < args.minibatch_size < len(samples)
            fixed = run.before_update(samples, single_pass)  # log-probs of reference and old policy, (B, R)
            column = torch.tensor(advantage, device=run.device)[:, None]  # (B, 1)
            steps = []
            for rows in minibatches(len(samples), args.minibatch_size, args.num_iterations):
                figures = backward(args, run, samples, rows, fixed, column)
                steps.append(figures | {"grad_norm": run.update(figures["loss"], [samples[i] for i in rows])})

            run.log(
                run.figures(scored, advantage)
                | {name: mean(step[name] for step in steps) for name in steps[0]}
                | {
                    "approx_kl": figures["approx_kl"],
                    "ratio_max": largest([step["ratio_max"] for step in steps]),
                    "optimizer_steps": len(steps),
                    "sampler_mismatch": largest([step["sampler_mismatch"] for step in steps]),
                }
                | counts,
                samples,
                advantage,
            )


if __name__ == "__main__":
    run(main, Args, __doc__)
