"""REINFORCE on a LoRA policy, with unit tests as the reward.

    L = -mean over the samples of (R - b) * log p(completion | prompt),    R = r - alpha * length / 100

log p is summed over the completion's tokens, including the EOS. r is 1 if every test passes, else 0; `--reward` chooses
another R. R - b is the advantage. `--baseline` chooses b: 0 (the default, Williams 1992, as in the original system),
the mean reward of the step's samples, or the mean reward of the task's other samples (RLOO, arXiv 2402.14740). RLOO's
KL penalty in the reward is left out. With --turns 2 a completion that fails goes on with a second answer
(docs/methods/turns.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


@dataclass
class Args(RolloutArgs, ImportanceArgs, SelectionArgs, TurnArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from
    output_dir: str = "checkpoints/deepseek_1_3b_lora_rl_alpha0.01_100"  # where the new adapter goes
    # sampling
    batch_size: int = 1  # tasks a step
    num_samples: int = 1  # completions a task
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, the sampled distribution is not the one that is scored
    seed: int = 42  # task order and sampling
    # objective
    baseline: Literal["none", "mean", "rloo"] = "none"  # subtracted from the reward: 0, batch mean, mean of others
    # optimisation
    num_steps: int = 100  # steps of at most one update each
    token_budget: int = 0  # end after the step in which this many tokens have been sampled; 0 sets no budget
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine reach 0 at --num_steps
    max_grad_norm: float = 0.0  # clip the gradient's norm to this; 0 turns clipping off
    # reward
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (docs/rewards.md), or FILE.py:FUNCTION
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens
    turn_discount: float = 1.0  # what a pass is worth that came at the second turn


def check(args: Args) -> None:
    check_sampling_args(args)
    check_importance_args(args)
    check_selection_args(args)
    check_turn_args(args)
    require_at_least(1, args, "num_steps")
    require(args.baseline != "rloo" or args.num_samples >= 2, "--baseline rloo needs --num_samples 2 or more")
    require(
        args.baseline != "mean" or args.batch_size * args.num_samples >= 2,
        "--baseline mean needs two samples a step or more: raise --batch_size or --num_samples",
    )


def advantages(rewards: list[float], group: list[int], baseline: str) -> list[float]:
    """Return the advantage R - b of each sample.

    With rloo, a sample gets advantage 0 if no other sample of its group could be judged.

    Args:
        group: one number per sample; the samples of a task in this step have the same number.

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


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct, (args.min_pass, args.max_pass))
    reward_fn = chosen_reward(args, language_of(tasks))

    import torch

    from training.metrics import Metrics
    from training.run import training_run

    with training_run(args, "rl", tasks, args.num_steps, args.token_budget) as run:
        for _ in run.steps():
            # sample and reward
            samples = run.score(run.sample(args.batch_size), reward_fn)  # B samples
            if not samples:
                run.skip_update({})
                continue

            # advantage
            advantage = advantages([s.reward for s in samples], [s.group for s in samples], args.baseline)
            batch = run.batch(samples, single_update=True)
            batch.advantage = torch.tensor(advantage, device=run.device)[:, None]  # (B, 1)

            # loss and backward, one graph alive at a time
            metrics = Metrics()
            for micro_batch in run.micro_batches(batch):
                logprobs = run.outputs(micro_batch.samples).logprobs  # (B, R)
                weight, shares = run.importance(micro_batch, logprobs, batch)  # (B, R); 1 if our own engine samples
                loss = -(micro_batch.advantage[:, 0] * (weight * logprobs).sum(1)).sum() / len(samples)
                run.backward(loss)
                metrics.add(loss=loss, **shares)
                metrics.add_policy(micro_batch, logprobs, batch.num_tokens)
            step_metrics = metrics.total()

            # clip and step
            step_metrics["grad_norm"] = run.clip_gradients()
            if run.is_finite(step_metrics["loss"], step_metrics["grad_norm"], samples):
                run.optimizer.step()
            run.optimizer.zero_grad()
            run.scheduler.step()

            # validation if it is due, and the log
            run.log(run.metrics(samples, advantage) | step_metrics | run.validate(), samples, advantage)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
