"""GRPO and its relatives on a LoRA policy, with unit tests as the reward (arXiv 2402.03300).

    L = -sum_i w_i sum_t [min(rho A_i, clip(rho, 1 - c, 1 + c_high) A_i) - beta k3(pi || SFT)]
    A_i = (R_i - mean R) / std R over the G completions of a task, 0 where all R are the same; --std_over batch takes
          the std of all R of the batch (Lite PPO, arXiv 2508.08221)
    R = r - alpha * length / 100, or what else `--reward` gives

rho is pi / pi_old of token t; w_i = 1 / (N |o_i|) for N completions of |o_i| tokens. `--loss_type` changes:
    dr_grpo  A without the std, w = 1 / (N max_new_tokens): long wrong answers do not count less a token, and very
             easy or hard tasks do not count more (arXiv 2503.20783)
    dapo     w = 1 / (all tokens of the update): every token counts the same (arXiv 2503.14476)
    gspo     rho of the sequence, its |o|-th root (arXiv 2507.18071; clip ranges there are 3e-4 and 4e-4)
    cispo    clip(rho, max 1 + c_high), without gradient, times A log pi (arXiv 2506.13585); w as in dapo, c_high 4

DAPO's other parts are flags: --clip_range_high, --dynamic_sampling, --overlong_buffer, --mask_truncated. --dual_clip d
bounds the minimum at d A where A < 0, where nothing else bounds it (arXiv 1912.09729). With alpha > 0, the completions
of a group that all pass (or all fail) differ in R only by their lengths, and dividing by the std makes that difference
as large as any other. dr_grpo does not divide, and --dynamic_sampling, which looks only at the tests, leaves such
groups out.

--pass_at_k K maximises the best of K samples in place of each one's own reward (arXiv 2508.10751). Let R_S be the best
R of a subset S of K completions of a task. Then A_i = (mean of R_S over the S that hold i - mean of R_S over all S) /
std of R_S over all S. Where n of G fail and R is 0 or 1, with m = 1 - C(n, K) / C(G, K) and s = sqrt(m (1 - m)),
or --std_floor if that is more:
    A = (1 - m) / s for a completion that passes,    A = (1 - m - C(n-1, K-1) / C(G-1, K-1)) / s for one that fails

--replay adds to a group in which none passes one that passed in an earlier step, with the pi_old of that step; see
training/replay.py. With --turns 2 a completion that fails goes on with a second answer (docs/methods/turns.md). Left
out of the paper: the reference that follows the policy, and the reward model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt
from statistics import fmean, pstdev, stdev
from typing import TYPE_CHECKING, Any, Literal

from common import (
    check_importance_args,
    check_sampling_args,
    check_selection_args,
    check_turn_args,
    require,
    require_at_least,
    run_script,
)
from common.run_args import ImportanceArgs, RolloutArgs, SelectionArgs, TurnArgs
from judging.rewards import chosen_reward
from judging.tasks import language_of, read_tasks

if TYPE_CHECKING:  # torch takes seconds: not before the arguments are known to be right
    from torch import Tensor

    from training.samples import Batch, Sample


@dataclass
class Args(RolloutArgs, ImportanceArgs, SelectionArgs, TurnArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from, and the KL's reference
    output_dir: str = "checkpoints/deepseek_1_3b_lora_grpo_alpha0.01"  # where the new adapter goes
    # sampling
    batch_size: int = 1  # tasks a batch
    num_samples: int = 8  # completions a task: the group, G
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, the sampled distribution is not the one that is scored
    dynamic_sampling: bool = False  # replace groups that all pass or all fail by other tasks' groups
    max_resamples: int = 3  # how often to try that for a batch
    replay: int = 0  # add a completion that passed to groups in which none does, for N steps after its own; 0: none
    seed: int = 42  # task order, sampling and minibatches
    # objective
    loss_type: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "grpo"  # see above
    clip_range: float = 0.2  # how far the ratio may fall before its gradient stops
    clip_range_high: float = 0.0  # how far it may rise; 0 takes --clip_range, or 4 for cispo (DAPO: 0.28)
    dual_clip: float = 0.0  # where A < 0, the objective is this times A at least; above 1, usually 3; 0: no bound
    pass_at_k: int = 1  # maximise the best of K completions, K below --num_samples; 1: each one's own reward
    std_over: Literal["group", "batch"] = "group"  # whose std the advantages are divided by; means are the groups'
    std_ddof: Literal[0, 1] = 0  # the advantages' std divides by n less this: 0 the samples' own, 1 as torch's
    std_floor: float = 0.1  # least std to divide by, so that length alone never counts like the tests; 0: none
    kl_coef: float = 0.02  # weight of the KL to the SFT adapter, k3 in the loss
    mask_truncated: bool = False  # completions that were cut off count in their group, but are not trained on
    # optimisation
    num_steps: int = 100  # batches sampled
    token_budget: int = 0  # end after the batch in which this many tokens have been sampled; 0 sets no budget
    num_iterations: int = 1  # passes over a batch
    minibatch_size: int = 0  # completions an optimizer step; 0 takes the whole batch
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine reach 0 at --num_steps
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0 turns clipping off
    # reward
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (docs/rewards.md), or FILE.py:FUNCTION
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens
    turn_discount: float = 1.0  # what a pass is worth that came at the second turn
    overlong_buffer: int = 0  # tokens before the limit in which up to 0.5 of the reward is lost; 0 takes nothing off


def check(args: Args) -> None:
    check_sampling_args(args)
    check_importance_args(args)
    check_selection_args(args)
    check_turn_args(args)
    require_at_least(1, args, "num_steps", "num_iterations", "pass_at_k")
    require_at_least(2, args, "num_samples")  # a group of one has nothing to be compared with
    require_at_least(0, args, "minibatch_size", "clip_range_high", "kl_coef", "max_resamples", "overlong_buffer")
    require_at_least(0, args, "std_floor", "replay")
    require(
        args.pass_at_k < args.num_samples,
        f"--pass_at_k {args.pass_at_k}: must be less than --num_samples {args.num_samples}, or all advantages are 0",
    )
    require(not args.replay or args.turns == 1, "--replay: keeps completions of one turn; leave --turns 2 out")
    require(args.std_over == "group" or args.loss_type != "dr_grpo", "--std_over: dr_grpo does not divide by a std")
    require(
        args.pass_at_k == 1 or (args.std_over, args.std_ddof) == ("group", 0),
        "--pass_at_k divides by the std over all subsets of a group: leave --std_over and --std_ddof out",
    )
    require(args.clip_range > 0, f"--clip_range {args.clip_range}: must be positive")
    require(args.dual_clip == 0 or args.dual_clip > 1, f"--dual_clip {args.dual_clip}: must be above 1, or 0 for none")
    require(
        args.dual_clip == 0 or args.loss_type != "cispo",
        "--dual_clip: cispo bounds the ratio whatever the advantage's sign; use --clip_range_high",
    )
    require(args.overlong_buffer < args.max_new_tokens, "--overlong_buffer must be less than --max_new_tokens")


def overlong_penalty(length: int, ended: bool, limit: int, buffer: int) -> float:
    """Return DAPO's soft penalty: 0 up to limit - buffer tokens, then linear to 1 at the limit; 1 if cut off.

    >>> [overlong_penalty(length, True, 100, 20) for length in (80, 90, 100)]
    [0.0, 0.5, 1.0]
    """
    if not buffer:
        return 0.0
    return 1.0 if not ended else max(0.0, length - (limit - buffer)) / buffer


def best_of(rewards: list[float], k: int) -> tuple[list[float], float]:
    """Return for each completion the mean best reward of the subsets of k that hold it, and the std over all subsets.

    The mean over the completions is the mean over all subsets, because each subset holds k completions.

    Args:
        k: from 2 to the number of rewards.

    >>> best_of([1.0, 0.0, 0.0, 0.0], 2)  # half of the six pairs hold the one that passes
    ([1.0, 0.3333333333333333, 0.3333333333333333, 0.3333333333333333], 0.5)
    """

    def chances(n: int, k: int) -> list[float]:
        """Return for the j-th of n, by rising reward, the chance that it is the best of k."""
        return [comb(j, k - 1) / comb(n, k) for j in range(n)]

    subsets, held = chances(len(rewards), k), chances(len(rewards) - 1, k - 1)
    means = []
    for i, reward in enumerate(rewards):
        others = sorted(rewards[:i] + rewards[i + 1 :])
        means.append(sum(chance * max(reward, other) for chance, other in zip(held, others, strict=True)))
    middle = fmean(means)
    return means, sqrt(sum(c * (r - middle) ** 2 for c, r in zip(subsets, sorted(rewards), strict=True)))


def group_advantages(rewards: list[float], group: list[int], divide: bool, floor: float = 0.0, ddof: int = 0,
                     over: str = "group", k: int = 1) -> list[float]:  # fmt: skip
    """Return R - mean R of the group, divided by a standard deviation if asked; 0 where all R are the same.

    Args:
        over: whose standard deviation: the group's, or the whole batch's. k: above 1, R is `best_of` k.
        ddof: delta degrees of freedom: the variance of n rewards is their squared deviations' sum over n - ddof.
        floor: that standard deviation counts as this at least. Where all of a group fail, their rewards differ only by
            lengths; divided by that, the length penalty would count as much as the tests do elsewhere. A group with one
            pass has 0.33 for 8 samples and 0.12 for 64.

    >>> group_advantages([1.0, 0.0, 0.5, 0.5], [0, 0, 1, 1], divide=True)
    [1.0, -1.0, 0.0, 0.0]
    """
    spread, advantage = stdev if ddof else pstdev, [0.0] * len(rewards)
    for number in set(group):
        rows = [i for i, g in enumerate(group) if g == number]
        theirs = [rewards[i] for i in rows]
        if sorted(theirs)[min(k, len(theirs)) - 1] == max(theirs):  # the worst k are as good as the best
            continue
        values, std = best_of(theirs, k) if k > 1 else (theirs, spread(rewards if over == "batch" else theirs))
        for i, value in zip(rows, values, strict=True):
            advantage[i] = (value - fmean(values)) / (max(std, floor) if divide else 1.0)
    return advantage


def weights(lengths: list[int], loss_type: str, max_new_tokens: int) -> list[float]:
    """Return the weight of each completion's tokens in the loss of an update; length 0 masks the completion.

    A mean is over what is trained on. dr_grpo divides by a constant instead, so there masked completions count, as in
    TRL.

    >>> weights([1, 4, 0], "grpo", 8), weights([1, 3, 0, 0], "dr_grpo", 8), weights([1, 4, 0], "dapo", 8)
    ([0.5, 0.125, 0.0], [0.03125, 0.03125, 0.0, 0.0], [0.2, 0.2, 0.0])
    """
    if loss_type in ("grpo", "gspo"):
        count = sum(length > 0 for length in lengths)
        return [1 / (count * length) if length else 0.0 for length in lengths]
    total = sum(lengths) if loss_type in ("dapo", "cispo") else len(lengths) * max_new_tokens
    return [1 / total if length else 0.0 for length in lengths]


def policy_objective(logprobs: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, loss_type: str, low: float,
                     high: float, dual: float = 0.0) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return what is maximised at each token, and its ratio; both (B, R), the advantage is (B, 1).

    Log-probabilities are 0 on padding, where the caller must mask the objective.

    Args:
        low, high: the clip range is 1 - low to 1 + high. dual: the objective is dual * A at least where A < 0; 0: no
            bound.
    """
    from model.reference import MAX_LOG_RATIO

    log_ratio = logprobs - old
    if loss_type == "gspo":
        log_ratio = (log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True)).expand_as(log_ratio)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if loss_type == "cispo":
        return ratio.detach().clamp(max=1 + high) * advantage * logprobs, ratio
    objective = (ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)
    if dual:
        objective = objective.maximum(dual * advantage.clamp(max=0))  # where A >= 0, so is the objective
    return objective, ratio


def grpo_loss(args: Args, logprobs: Tensor, old: Tensor, batch: Batch, importance: Tensor | float
              ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
    """Return a micro-batch's share of the loss, its ratios (B, R), and the terms of the loss.

    Args:
        logprobs, old: (B, R), under the policy and under the one that sampled.
        importance: weight of each token's objective (B, R), of each completion's (B, 1), or one for all.
    """
    from model.reference import kl_estimate

    low, high = args.clip_range, clip_range_high(args)
    objective, ratio = policy_objective(
        logprobs, old, batch.advantage, batch.mask, args.loss_type, low, high, args.dual_clip
    )
    weight = batch.weight * batch.mask  # (B, R)
    policy_loss = -(weight * importance * objective).sum()
    loss = policy_loss + args.kl_coef * (weight * kl_estimate(logprobs, batch.reference, "k3")).sum()
    return loss, ratio, {"policy_loss": policy_loss}


def clip_range_high(args: Args) -> float:
    """Return how far a ratio may rise above 1. CISPO's cap is 5, as ScaleRL (arXiv 2510.13786) and TRL have it."""
    return args.clip_range_high or (4.0 if args.loss_type == "cispo" else args.clip_range)


def clipped(args: Args, ratio: Tensor) -> Tensor:
    """Return which ratios are outside the clip range; CISPO has no lower end."""
    low = args.clip_range if args.loss_type != "cispo" else float("inf")
    return (ratio > 1 + clip_range_high(args)) | (ratio < 1 - low)


def sample_groups(args: Args, run: Any, reward_fn: Any) -> tuple[list[Sample], list[Sample], dict[str, int]]:
    """Sample a batch of groups. Return the samples to train on, all that were scored, and counts for the log.

    Dynamic sampling replaces groups that all pass or all fail, at most `max_resamples` times. The batch may then be
    smaller, or empty. What is replayed is trained on, but was not scored in this step.
    """
    kept, scored, counts = [], [], {"replaced_groups": 0, "dropped_groups": 0}
    for attempt in range(1 + args.max_resamples * args.dynamic_sampling):
        wanted = args.batch_size - len({s.group for s in kept})
        if wanted == 0:
            break
        counts["replaced_groups"] += wanted if attempt else 0
        new = run.score(run.sample(wanted), reward_fn)
        filled = run.replay.fill(run.step, new) if args.replay else new
        outcomes = {number: {s.base_reward for s in filled if s.group == number} for number in {s.group for s in new}}
        kept += [s for s in filled if not args.dynamic_sampling or len(outcomes[s.group]) > 1]
        scored += new
    counts["dropped_groups"] = len({s.group for s in scored}) - len({s.group for s in kept})
    counts |= {"replayed": sum(s.replayed for s in kept)} if args.replay else {}
    return kept, scored, counts


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct, (args.min_pass, args.max_pass))
    reward_fn = chosen_reward(args, language_of(tasks))

    import torch

    from training.metrics import Metrics, over_steps
    from training.run import training_run

    level = "sequence" if args.loss_type == "gspo" else "token"  # of the ratios in the objective
    with training_run(args, "grpo", tasks, args.num_steps, args.token_budget) as run:
        for _ in run.steps():
            # sample and reward
            samples, scored, counts = sample_groups(args, run, reward_fn)  # B of them are trained on
            for s in scored:  # half, because DAPO takes it off rewards of -1 and 1, and ours are 0 and 1
                limit, buffer = args.max_new_tokens, args.overlong_buffer
                s.reward -= 0.5 * max(overlong_penalty(len(r.token_ids), r.ended, limit, buffer) for r in s.answers)
            if not samples:
                run.skip_update((run.metrics(scored, []) if scored else {}) | counts)
                continue

            # advantage
            rewards, groups = [s.reward for s in samples], [s.group for s in samples]
            divide = args.loss_type != "dr_grpo"
            advantage = group_advantages(
                rewards, groups, divide, args.std_floor, args.std_ddof, args.std_over, args.pass_at_k
            )
            single_update = args.num_iterations == 1 and not 0 < args.minibatch_size < len(samples)
            single_update = single_update and not any(s.replayed for s in samples)
            batch = run.batch(samples, single_update)  # with the log-probs of reference and old policy, (B, R)
            batch.advantage = torch.tensor(advantage, device=run.device)[:, None]  # (B, 1)

            # passes over minibatches, an optimizer step each
            steps = []
            for minibatch in batch.minibatches(args.minibatch_size, args.num_iterations):
                # loss and backward, one graph alive at a time
                metrics, num_tokens = Metrics(), minibatch.num_tokens
                lengths = [0 if args.mask_truncated and not s.rollout.ended else s.length for s in minibatch.samples]
                weight = torch.tensor(weights(lengths, args.loss_type, args.max_new_tokens), device=run.device)  # (B,)
                minibatch.weight = weight[:, None]
                for micro_batch in run.micro_batches(minibatch):
                    logprobs = run.outputs(micro_batch.samples).logprobs  # (B, R)
                    old = logprobs.detach() if single_update else micro_batch.old_logprobs
                    importance, shares = run.importance(micro_batch, old, minibatch, level)  # (B, R) or (B, 1)
                    loss, ratio, terms = grpo_loss(args, logprobs, old, micro_batch, importance)
                    run.backward(loss)
                    metrics.add(loss=loss, **terms, **shares)
                    metrics.add_policy(micro_batch, old, num_tokens)
                    metrics.add_ratios(micro_batch, logprobs, old, ratio, clipped(args, ratio), num_tokens, num_tokens)
                last = metrics.total()
                run.note_ratios(samples, metrics.ratio_by_row)

                # clip and step
                last["grad_norm"] = run.clip_gradients()
                if run.is_finite(last["loss"], last["grad_norm"], minibatch.samples):
                    run.optimizer.step()
                run.optimizer.zero_grad()
                steps.append(last)
            run.scheduler.step()

            # validation if it is due, and the log
            step_metrics = run.metrics(scored, advantage) | over_steps(steps, last) | counts | run.validate()
            run.log(step_metrics, samples, advantage)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
