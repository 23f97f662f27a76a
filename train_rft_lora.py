"""Rejection-sampling fine-tuning (RFT) of a LoRA policy: SFT on those of its own completions that pass the unit tests.

    L = -mean over the tokens of the kept completions of log pi(token | prompt, tokens before)

The mean is over all tokens of a minibatch, the EOS included. Of each task at most `--max_kept` passing completions are
kept, no text twice; a step makes `--num_epochs` passes over what its batch kept, then samples with the new policy. This
is RAFT (arXiv 2304.06767) with unit tests in place of a learnt reward. A round of expert iteration is a step with a
large `--batch_size`, so rounds have no flag, and no step leaves samples that a resume would have to restore. Left out:
RAFT's KL penalty in the reward, and the ratio and clip of RAFT++ (arXiv 2504.11343).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

from common import check_sampling_args, require_at_least, run_script
from common.run_args import RolloutArgs
from judging.rewards import chosen_reward
from judging.tasks import language_of, read_tasks

if TYPE_CHECKING:
    from training.samples import Sample  # torch takes seconds: not before the arguments are known to be right


@dataclass
class Args(RolloutArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from
    output_dir: str = "checkpoints/deepseek_1_3b_lora_rft"  # where the new adapter goes
    # sampling
    batch_size: int = 8  # tasks a batch
    num_samples: int = 8  # completions a task
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, the sampled distribution is not the one that is scored
    seed: int = 42  # task order, sampling, what is kept, and minibatches
    # objective
    max_kept: int = 4  # distinct passing completions of a task that are trained on, at most
    keep: Literal["random", "shortest", "best"] = "random"  # which, if more pass; best: those of the highest reward
    # optimisation
    num_steps: int = 16  # batches sampled
    token_budget: int = 0  # end after the batch in which this many tokens have been sampled; 0 sets no budget
    num_epochs: int = 1  # passes over what a batch kept
    minibatch_size: int = 8  # completions an optimizer step; 0 takes all that a batch kept
    learning_rate: float = 5e-5  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # linear and cosine reach 0 at --num_steps
    max_grad_norm: float = 1.0  # clip the gradient's norm to this; 0 turns clipping off
    # reward
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (docs/rewards.md), or FILE.py:FUNCTION
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens


def check(args: Args) -> None:
    check_sampling_args(args)
    require_at_least(1, args, "num_steps", "num_epochs", "max_kept")
    require_at_least(0, args, "minibatch_size")


def kept_of(samples: list[Sample], max_kept: int, keep: str) -> list[int]:
    """Return the indices of the completions to train on, in order: of each task at most `max_kept` that pass.

    Of completions of a task with the same text, the first counts. Random choices come from Python's own generator,
    which is in the saved state and the same in all processes.
    """
    passing: dict[int, dict[str, int]] = {}  # by task and text
    for i, s in enumerate(samples):
        if s.verdict.passed:
            passing.setdefault(s.group, {}).setdefault(s.rollout.text, i)
    kept = []
    for distinct in passing.values():
        chosen = random.sample(list(distinct.values()), len(distinct))
        if keep == "shortest":
            chosen = sorted(distinct.values(), key=lambda i: samples[i].length)
        elif keep == "best":
            chosen = sorted(distinct.values(), key=lambda i: -samples[i].reward)
        kept += chosen[:max_kept]
    return sorted(kept)


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct, (args.min_pass, args.max_pass))
    reward_fn = chosen_reward(args, language_of(tasks))

    from training.metrics import Metrics
    from training.run import training_run

    with training_run(args, "rft", tasks, args.num_steps, args.token_budget) as run:
        for _ in run.steps():
            # sample and reward
            samples = run.score(run.sample(args.batch_size), reward_fn)  # B of them
            if not samples:
                run.skip_update({})
                continue

            # keep what passes; the KL to the reference, which is only logged, is of all samples
            kept = kept_of(samples, args.max_kept, args.keep)
            batch, drift = run.batch(samples), Metrics()
            for micro_batch in run.micro_batches(batch):
                drift.add_policy(micro_batch, micro_batch.old_logprobs, batch.num_tokens)

            # epochs of minibatches, an optimizer step each; none if nothing passed
            steps = []
            for minibatch in batch[kept].minibatches(args.minibatch_size, args.num_epochs) if kept else ():
                # loss and backward, one graph alive at a time
                metrics, num_tokens = Metrics(), minibatch.num_tokens
                for micro_batch in run.micro_batches(minibatch):
                    logprobs = run.outputs(micro_batch.samples).logprobs  # (B, R), 0 on padding
                    loss = -logprobs.sum() / num_tokens
                    run.backward(loss)
                    metrics.add(loss=loss)
                last = metrics.total()

                # clip and step
                last["grad_norm"] = run.clip_gradients()
                if run.is_finite(last["loss"], last["grad_norm"], minibatch.samples):
                    run.optimizer.step()
                run.optimizer.zero_grad()
                steps.append(last)
            run.scheduler.step()

            # validation if it is due, and the log
            weight = [float(i in kept) for i in range(len(samples))]  # in the advantage's place
            counts = {"kept": len(kept), "kept_tasks": len({samples[i].group for i in kept})}
            counts |= {"optimizer_steps": len(steps)}
            means = {name: mean(step[name] for step in steps) for name in steps[0]} if steps else {}
            run.log(run.metrics(samples, weight) | drift.total() | counts | means | run.validate(), samples, weight)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
