"""PPO-Clip on a LoRA policy, with unit tests as the reward (arXiv 1707.06347).

    L = -E[min(rho A, clip(rho, 1 - c, 1 + c) A)],    rho = pi(completion | prompt) / pi_old(completion | prompt)

A is R = r - alpha * length / 100, z-scored over the batch; rho is the ratio of the whole completion, and there is no
critic, as in the original. Flags give another R (`--reward`), rho for each token, a critic with GAE (arXiv 1506.02438),
an entropy bonus, the KL to the SFT adapter in the reward (k1) or in the loss (k3), and early stopping of a batch's
epochs. --dual_clip d bounds the minimum at d A where A < 0 (arXiv 1912.09729). Left out: a learning rate that decays by
default, and a critic with weights, learning rate and clip range of its own (ours is a linear head on the policy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common import check_importance_args, check_sampling_args, require, require_at_least, run_script
from common.run_args import ImportanceArgs, RolloutArgs
from judging.rewards import chosen_reward
from judging.tasks import language_of, read_tasks

if TYPE_CHECKING:  # torch takes seconds: not before the arguments are known to be right
    from torch import Tensor

    from model.logprobs import TokenOutputs
    from training.samples import Batch


@dataclass
class Args(RolloutArgs, ImportanceArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from, and the KL's reference
    output_dir: str = "checkpoints/deepseek_1_3b_lora_ppo_alpha0.01"  # where the new adapter goes
    # sampling
    batch_size: int = 4  # tasks a batch
    num_samples: int = 1  # completions a task
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, the sampled distribution is not the one that is scored
    seed: int = 42  # task order, sampling and minibatches
    # objective
    clip_range: float = 0.2  # how far the ratio may move before its gradient stops
    dual_clip: float = 0.0  # where A < 0, the objective is this times A at least; above 1, usually 3; 0: no bound
    ratio_level: Literal["sequence", "token"] = "sequence"  # whether a completion or each of its tokens has a ratio
    normalize_advantages: bool = True  # z-score them over the batch
    std_ddof: Literal[0, 1] = 0  # the advantages' std divides by n less this: 0 the samples' own, 1 as torch's
    std_floor: float = 0.1  # least std to divide by, so that length alone never counts like the tests; 0: none
    value_coef: float = 0.0  # weight of the critic's loss, usually 0.5; 0 trains no critic
    critic_warmup: int = 0  # batches that train only the critic, before the policy's first update
    gamma: float = 1.0  # discount per token, with a critic
    gae_lambda: float = 0.95  # GAE: 0 trusts the critic, 1 the reward
    entropy_coef: float = 0.0  # weight of the entropy bonus, a mean over tokens; usually 0.01
    kl_coef: float = 0.0  # weight of the KL to the SFT adapter
    kl_in: Literal["reward", "loss"] = "reward"  # reward: k1, summed over a completion; loss: k3, a mean over tokens
    # optimisation
    num_updates: int = 100  # batches sampled
    token_budget: int = 0  # end after the batch in which this many tokens have been sampled; 0 sets no budget
    ppo_epochs: int = 4  # passes over a batch
    minibatch_size: int = 0  # completions an optimizer step; 0 takes the whole batch
    target_kl: float = 0.0  # end a batch's epochs once the KL a token to the old policy exceeds this; 0 never does
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine: 0 at --num_updates
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0 turns clipping off
    # reward
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (docs/rewards.md), or FILE.py:FUNCTION
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens


def check(args: Args) -> None:
    check_sampling_args(args)
    check_importance_args(args)
    require_at_least(1, args, "num_updates", "ppo_epochs")
    require_at_least(0, args, "minibatch_size", "value_coef", "entropy_coef", "kl_coef", "target_kl")
    require_at_least(0, args, "std_floor", "critic_warmup")
    require(args.clip_range > 0, f"--clip_range {args.clip_range}: must be positive")
    require(args.dual_clip == 0 or args.dual_clip > 1, f"--dual_clip {args.dual_clip}: must be above 1, or 0 for none")
    require(0 <= args.gamma <= 1, f"--gamma {args.gamma}: must be in [0, 1]")
    require(0 <= args.gae_lambda <= 1, f"--gae_lambda {args.gae_lambda}: must be in [0, 1]")
    require(
        args.value_coef == 0 or args.ratio_level == "token",
        "--value_coef: a critic gives each token its own advantage; add --ratio_level token",
    )
    require(args.critic_warmup == 0 or args.value_coef > 0, "--critic_warmup: there is no critic; add --value_coef 0.5")
    require(args.critic_warmup < args.num_updates, "--critic_warmup must be less than --num_updates")
    require(
        not args.normalize_advantages or args.batch_size * args.num_samples >= 2 or args.value_coef > 0,
        "one completion has no z-score: raise --batch_size or --num_samples, or give --no_normalize_advantages",
    )


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return generalised advantage estimates and returns of token steps; all (B, R).

    values[t] belongs to the state before token t. The state after a completion's last token has value 0, also where
    the completion was cut off.
    """
    advantage, following, after = rewards.new_zeros(rewards.shape), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * after - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        after = values[:, t] * mask[:, t]
        advantage[:, t] = following
    return advantage, (advantage + values) * mask


def z_score(advantage: Tensor, mask: Tensor, floor: float = 0.0, ddof: int = 0) -> Tensor:
    """Scale to mean 0 and standard deviation 1 over the mask; return zeros where all values are equal.

    Args:
        ddof: delta degrees of freedom: the variance of n values is their squared deviations' sum over n - ddof.
        floor: the standard deviation counts as this at least. Where all of a batch fail, it is one of lengths alone.
    """
    chosen = advantage[mask].double()
    std = chosen.std(correction=min(ddof, len(chosen) - 1))  # of one value: 0, not nan
    if std < 1e-7:
        return advantage * 0.0
    return ((advantage - chosen.mean()) / std.clamp(min=floor) * mask).to(advantage.dtype)


def ratios(logprobs: Tensor, old: Tensor, level: str) -> Tensor:
    """Return pi / pi_old: (B, R), one a token, or (B, 1), one a sequence. Padding is 0 in both inputs, and 1 here."""
    from model.reference import MAX_LOG_RATIO

    log_ratio = logprobs - old if level == "token" else (logprobs - old).sum(1, keepdim=True)
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_objective(ratio: Tensor, advantage: Tensor, clip_range: float, dual: float = 0.0) -> Tensor:
    """Return min(rho A, clip(rho) A), shaped as the ratio; with `dual` it is dual * A at least where A < 0."""
    objective = (ratio * advantage).minimum(ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)
    return objective.maximum(dual * advantage.clamp(max=0)) if dual else objective  # where A >= 0, so is the objective


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Return 0.5 max((V - G)^2, (V_old + clip(V - V_old) - G)^2), (B, R)."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * ((values - returns) ** 2).maximum((clipped - returns) ** 2)


def ppo_loss(args: Args, out: TokenOutputs, values: Tensor | None, batch: Batch, weight: Tensor | float,
             num_ratios: int, num_tokens: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
    """Return a micro-batch's share of the loss, its ratios (B, R) or (B, 1), and the terms of the loss.

    Args:
        values: (B, R), the critic's; None without one.
        weight: of the importance of each ratio's term, shaped as the ratios, or one for all.
        num_ratios, num_tokens: of the whole minibatch.
    """
    from model.reference import kl_estimate

    mask = batch.mask > 0  # (B, R)
    ratio = ratios(out.logprobs, batch.old_logprobs, args.ratio_level)  # (B, R) or (B, 1)
    surrogate = weight * clipped_objective(ratio, batch.advantage, args.clip_range, args.dual_clip)
    counted = mask[:, : ratio.shape[1]]  # one ratio a completion: its first token's place
    terms = {"policy_loss": -surrogate[counted].sum() / num_ratios}
    loss = terms["policy_loss"]
    if values is not None:
        value_loss = clipped_value_loss(values, batch.old_values, batch.returns, args.clip_range)
        terms["value_loss"] = value_loss[mask].sum() / num_tokens
        loss = loss + args.value_coef * terms["value_loss"]
    if args.entropy_coef:
        terms["policy_entropy"] = out.entropy.sum() / num_tokens
        loss = loss - args.entropy_coef * terms["policy_entropy"]
    if args.kl_coef and args.kl_in == "loss":
        k3 = kl_estimate(out.logprobs, batch.reference, "k3")
        loss = loss + args.kl_coef * k3.sum() / num_tokens
    return loss, ratio, terms


def estimate_advantages(args: Args, batch: Batch) -> tuple[Tensor, Tensor]:
    """Give the batch its advantages, and returns if there is a critic. Return the raw ones and where they count.

    Both are (B, R) with a critic, else (B, 1).
    """
    import torch

    from model.reference import kl_estimate

    token_rewards = torch.zeros_like(batch.mask)  # (B, R): the reward is earned with the last token
    for row, s in enumerate(batch.samples):
        token_rewards[row, s.length - 1] = s.reward
    if args.kl_in == "reward":
        token_rewards -= args.kl_coef * kl_estimate(batch.old_logprobs, batch.reference, "k1")
    if args.value_coef > 0:
        raw, batch.returns = gae(token_rewards, batch.old_values, batch.mask, args.gamma, args.gae_lambda)  # (B, R)
        counted = batch.mask > 0
    else:
        raw = token_rewards.sum(1, keepdim=True)  # (B, 1)
        counted = torch.ones_like(raw) > 0
    batch.advantage = z_score(raw, counted, args.std_floor, args.std_ddof) if args.normalize_advantages else raw
    return raw, counted


def explained_variance(batch: Batch) -> dict[str, float]:
    """Return the share of the returns' variance that the critic explains; nothing where there is none to explain."""
    counted = batch.mask > 0
    if batch.returns is None or not batch.returns[counted].var() > 0:
        return {}
    unexplained = (batch.returns - batch.old_values)[counted].var() / batch.returns[counted].var()
    return {"explained_variance": 1 - unexplained.item()}


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct, (args.min_pass, args.max_pass))
    reward_fn = chosen_reward(args, language_of(tasks))

    import torch

    from training.metrics import Metrics, over_steps
    from training.run import training_run

    critic = args.value_coef > 0
    with training_run(args, "ppo", tasks, args.num_updates, args.token_budget, critic) as run:
        if critic and args.gae_lambda < 1 and not args.critic_warmup:
            print(
                f"warning: the critic starts at zero, and --gae_lambda {args.gae_lambda} relies on it from the first "
                "batch, which biases the advantages (VC-PPO, arXiv 2503.01491); give --gae_lambda 1, or train the "
                "critic alone first: --critic_warmup N"
            )
        for _ in run.steps():
            warm_up = run.step <= args.critic_warmup and not args.dry_run  # a dry run measures a whole update

            # sample and reward
            samples = run.score(run.sample(args.batch_size), reward_fn)  # B of them
            if not samples:
                run.skip_update({})
                continue

            # advantage
            batch = run.batch(samples)  # with the log-probs of the policy that sampled, (B, R)
            raw, counted = estimate_advantages(args, batch)

            # epochs of minibatches, an optimizer step each
            steps, early_stop = [], False
            for minibatch in batch.minibatches(args.minibatch_size, args.ppo_epochs):
                # loss and backward, one graph alive at a time
                metrics, num_tokens = Metrics(), minibatch.num_tokens
                num_ratios = num_tokens if args.ratio_level == "token" else len(minibatch)
                for micro_batch in run.micro_batches(minibatch):
                    with torch.set_grad_enabled(not warm_up):  # without it, the loss reaches the critic alone
                        out = run.outputs(micro_batch.samples, entropy=args.entropy_coef > 0, hidden=critic)
                    values = run.values(out) if critic else None
                    old = micro_batch.old_logprobs
                    weight, shares = run.importance(micro_batch, old, minibatch, args.ratio_level)  # (B, R) or (B, 1)
                    loss, ratio, terms = ppo_loss(args, out, values, micro_batch, weight, num_ratios, num_tokens)
                    run.backward(loss)
                    clipped = (ratio - 1).abs() > args.clip_range
                    metrics.add(loss=loss, **terms, **shares)
                    metrics.add_policy(micro_batch, old, num_tokens)
                    metrics.add_ratios(micro_batch, out.logprobs, old, ratio, clipped, num_ratios, num_tokens)
                    del out, values  # their states are not for the next pass to find in memory
                last = metrics.total()
                run.note_ratios(samples, metrics.ratio_by_row)
                early_stop = bool(steps) and 0 < args.target_kl < last["approx_kl"]
                if early_stop:
                    run.optimizer.zero_grad()
                    break

                # clip and step
                last["grad_norm"] = run.clip_gradients()
                if run.is_finite(last["loss"], last["grad_norm"], minibatch.samples):
                    run.optimizer.step()
                run.optimizer.zero_grad()
                steps.append(last)
            run.scheduler.step()

            # validation if it is due, and the log
            step_metrics = run.metrics(samples, raw[counted].tolist()) | over_steps(steps, last)
            step_metrics |= explained_variance(batch) | {"stopped_early": int(early_stop)} | run.validate()
            mean_advantage = (raw.sum(1) / counted.sum(1)).tolist()  # with a critic a mean over tokens
            run.log(step_metrics, samples, mean_advantage, raw if critic else None)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
