"""REINFORCE on a LoRA policy, with unit tests as the reward.

    L = -(R - b) * log p(completion | prompt),    R = r - alpha * length / 100

log p is summed over the completion's tokens, the EOS included; r is 1 if every test passes, else 0; `--reward` gives
another R. The baseline b is 0 by default (Williams 1992, as the original has it), the batch's mean, or the mean of the
task's other samples (RLOO, arXiv 2402.14740). Left out of RLOO: the KL penalty in the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common import Dtype, check_sampling_args, require, require_at_least, run
from judging.rewards import chosen_reward
from judging.tasks import language_of, read_tasks


@dataclass
class Args:
    train_path: str = "data/humaneval_train.jsonl"  # tasks to learn from
    prompt_level: Literal["normal", "detailed", "terse", "curriculum"] = "normal"  # the last: detailed to terse
    curriculum_epochs: float = 1.0  # curriculum: passes over the tasks at a level before the next
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to start from
    output_dir: str = "checkpoints/deepseek_1_3b_lora_rl_alpha0.01_100"  # where the new adapter goes
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling and of the log-probabilities
    top_p: float = 1.0  # below 1, what is sampled is not what is scored
    learning_rate: float = 5e-6  # of AdamW
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"  # the latter two are 0 after --num_steps
    num_steps: int = 100  # updates
    token_budget: int = 0  # end after the step in which so many tokens have been sampled; 0: do not
    batch_size: int = 1  # tasks a step
    num_samples: int = 1  # completions a task
    baseline: Literal["none", "mean", "rloo"] = "none"  # what is taken from the reward
    length_penalty_alpha: float = 0.01  # unit_test, parts: reward lost per 100 tokens
    reward: str = "unit_test"  # unit_test, shaped, partial, parts (see docs/rewards.md), or FILE.py:FUNCTION
    syntax_penalty: float = 0.2  # shaped: lost by code that does not compile
    quality_bonus: float = 0.1  # shaped: most that clean code earns on top, if it passes
    full_bonus: float = 0.5  # partial: earned by passing all tests; the rest is the share of them that pass
    part_weights: str = "0.4,0.5,0.3,0.5,0.6"  # parts: compilation, functional, synthesis, quality, reasoning
    judge_url: str = ""  # OpenAI-compatible server whose model scores Verilog's reasoning; "": that part is not in use
    judge_model: str = ""  # its name there
    max_grad_norm: float = 0.0  # clip the gradient's norm to this; 0: do not
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
    valid_every: int = 10  # steps between validations
    patience: int = 0  # end after so many validations without a better pass rate; 0: do not
    keep_every: int = 0  # steps between adapters that are kept in OUTPUT_DIR/step_N; 0: none
    save_every: int = 10  # steps between states that a killed run goes on from; 0: only when it is asked to stop
    resume: bool = True  # go on from the state that an interrupted run of this command left
    dry_run: bool = False  # one step, nothing kept: peak memory, and the time that the run would take
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # tracker beside the log
    run_name: str = ""  # the run's name for the tracker; "": the output folder's
    log_completions: int = 1  # steps between those whose completions are written down, for report.py; 0: none
    track_completions: int = 0  # steps between tables of completions in the tracker; 0: none
    log_every: int = 1  # steps between lines on the screen
    quiet: bool = False  # nothing on the screen but errors
    json_lines: bool = False  # on the screen the log's records, and notes on stderr
    trust_remote_code: bool = False  # run code that comes with the model
    seed: int = 42  # task order and sampling
    deterministic: bool = False  # on a GPU: the same run twice gives the same bits; slower, more memory
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    check_sampling_args(args)
    require_at_least(1, args, "num_steps")
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


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct)
    earned = chosen_reward(args, language_of(tasks))

    import torch

    from model.parity import kl_estimate, sampler_gap
    from training.run import training_run

    with training_run(args, "rl", tasks, args.num_steps, args.token_budget) as run:
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
            advantage = advantages([s.reward for s in samples], [s.group for s in samples], args.baseline)

            # loss, one graph alive at a time
            sums, gaps = {"loss": 0.0, "kl_reference": 0.0}, []
            num_tokens = sum(s.length for s in samples)
            for rows in run.micro_batches(samples):
                batch = [samples[i] for i in rows]
                logprobs = run.outputs(batch).logprobs  # (B, R)
                weight = torch.tensor([advantage[i] for i in rows], device=run.device)  # (B,)
                part = -(weight * logprobs.sum(1)).sum() / len(samples)
                run.scaler.scale(part).backward()
                k3 = kl_estimate(logprobs.detach(), run.reference_logprobs(batch), "k3")
                sums["loss"] += part.item()
                sums["kl_reference"] += k3.sum().item() / num_tokens
                gaps.append(sampler_gap(logprobs, [s.rollout for s in batch]))

            # step
            figures = run.total(sums, sampler_mismatch=gaps)
            figures["grad_norm"] = run.update(figures["loss"], samples)
            run.log(run.figures(samples, advantage) | figures, samples, advantage)


if __name__ == "__main__":
    run(main, Args, __doc__)
