"""Make preference pairs for DPO: sample completions of each task, run the tests, pair a passing one with a failing one.

    chosen = the shortest that passes,    rejected = the longest that fails (or the likeliest, or a random one)

A task gives no pair if no completion passes, or if none fails. With --prefer_short a task whose completions all pass
gives a pair too: the shortest over the longest. Completions that could not be judged are left out, since they are no
failures. Identical token sequences count once.

The script writes the pairs (JSONL: text, token ids and log-probabilities as sampled) and, beside them, counts in
*_stats.json.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from common import (
    check_judge_args,
    command,
    machine,
    require,
    require_at_least,
    run_script,
    settings_of,
    sha256,
    write_jsonl,
    write_text,
)
from common.run_args import FleetArgs, JudgeArgs, StageArgs
from judging.tasks import Task, read_tasks, stop_strings


@dataclass
class Args(StageArgs, FleetArgs, JudgeArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to make pairs from
    prompt_level: Literal["normal", "detailed", "terse"] = "normal"  # which prompt of a task
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    limit: int = 0  # take only the first N tasks of the file; 0 takes all
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter to sample from, the one that DPO starts from
    output_path: str = "checkpoints/deepseek_1_3b_dpo_pairs.jsonl"  # where the pairs go
    # sampling
    num_samples: int = 16  # completions a task
    token_budget: int = 0  # draw no more tasks once this many tokens have been sampled; 0 draws all tasks
    max_length: int = 1024  # tokens of prompt and completion together, at most
    max_new_tokens: int = 256  # tokens of a completion, at most
    temperature: float = 1.0  # of sampling
    top_p: float = 1.0  # share of the probability that is sampled from
    stop_at_strings: bool = False  # also end a completion at its task's stop strings
    batch_size: int = 64  # completions at a time (at least those of one task)
    seed: int = 42  # task order, sampling, random choices
    # pairs
    rejected: Literal["longest", "likeliest", "random"] = "longest"  # which failing completions are taken
    prefer_short: bool = False  # where all completions pass: pair the shortest with the longest
    pairs_per_task: int = 1  # at most this many: the shortest passing ones, each with another failing one if there is


def check(args: Args) -> None:
    require(args.output_path.endswith(".jsonl"), f"--output_path {args.output_path}: must end in .jsonl")
    require_at_least(0, args, "token_budget", "limit")
    require_at_least(1, args, "batch_size", "max_new_tokens", "pairs_per_task")
    require(args.num_samples >= 2, f"--num_samples {args.num_samples}: a pair needs 2 or more")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive; greedy samples are all alike")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    by_logprob = args.engine == "server" and args.rejected == "likeliest" and args.temperature != 1
    require(not by_logprob, "--rejected likeliest with --engine server needs --temperature 1: servers may report other "
                            "log-probabilities, and nothing here compares them")  # fmt: skip
    check_judge_args(args)
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")
    same = Path(args.output_path).resolve() == Path(args.train_path).resolve()
    require(not same, f"--output_path {args.output_path}: is the task file itself")


def pairs_of_task(
    samples: list, rejected: str, pairs_per_task: int, prefer_short: bool, rng: random.Random
) -> list[tuple[Any, Any, str]]:
    """Return (chosen, rejected, "failing" or "longer") for the scored samples (`samples.Sample`) of one task.

    Among completions that rank the same, the one sampled first comes first.
    """
    distinct: dict[tuple, Any] = {}
    for s in samples:
        if s.verdict.judged:
            distinct.setdefault(tuple(s.rollout.token_ids), s)
    passing = sorted((s for s in distinct.values() if s.verdict.passed), key=lambda s: s.length)
    failing = [s for s in distinct.values() if not s.verdict.passed]
    if failing:
        worst = ranked(failing, rejected, rng)
        return [(s, worst[i % len(worst)], "failing") for i, s in enumerate(passing[:pairs_per_task])]
    if prefer_short:  # the shortest with the longest, the next with the next, as far as their lengths differ
        pairs = zip(passing, reversed(passing), strict=True)
        return [(short, long, "longer") for short, long in pairs if short.length < long.length][:pairs_per_task]
    return []


def ranked(failing: list, rejected: str, rng: random.Random) -> list:
    """Sort the failing samples: the first one is rejected first."""
    if rejected == "random":
        return rng.sample(failing, len(failing))
    return sorted(failing, key=lambda s: -s.length if rejected == "longest" else -sum(s.rollout.logprobs))


def draw_samples(args: Args, tasks: list[Task], sandbox) -> list[list]:
    """Return the scored samples (`samples.Sample`) of each task drawn, in the order of drawing.

    Each completion goes to the sandbox as soon as it ends. A text is judged once a task: copies share their verdict.
    """
    from tqdm import tqdm

    from model.engine import open_engine
    from training.samples import Sample, item_order

    order = islice(item_order(len(tasks), args.seed), len(tasks))  # shuffled: a budget takes a random subset
    groups: list[list[Sample]] = []
    checks, tokens = {}, 0
    whole, unit = (args.token_budget, "token") if args.token_budget else (len(tasks), "task")
    with open_engine(args.sft_model, tasks, args.train_path, args) as (prompts, generate):
        bar = tqdm(total=whole, desc="pairs", unit=unit, disable=args.quiet)
        while not 0 < args.token_budget <= tokens:
            drawn = list(islice(order, max(1, args.batch_size // args.num_samples)))
            if not drawn:
                break
            new: list[list[Sample]] = [[] for _ in drawn]
            for r in generate([prompts[index] for index in drawn], num_samples=args.num_samples,
                              max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p,
                              stops=[stop_strings(tasks[i]) for i in drawn] if args.stop_at_strings else None,
                              batch_size=args.batch_size, seeds=[(args.seed, index) for index in drawn]):  # fmt: skip
                index = drawn[r.prompt_index]
                if (index, r.text) not in checks:
                    checks[index, r.text] = sandbox.submit(tasks[index], r.text)
                new[r.prompt_index].append(Sample(tasks[index], index, r, check=checks[index, r.text]))
                tokens += len(r.token_ids)
            groups += [sorted(group, key=lambda s: s.rollout.number) for group in new]
            known = [check.result().passed for check in checks.values() if check.done()]
            bar.set_postfix(tasks=len(groups), passing=f"{sum(known) / max(len(known), 1):.1%}", refresh=False)
            bar.update((tokens if args.token_budget else len(groups)) - bar.n)
        bar.close()
    for s in (s for group in groups for s in group):
        s.verdict, s.check = s.check.result(), None
    return groups


def pair_line(chosen, rejected, kind: str) -> dict[str, Any]:
    """Return a line of the pairs file. Its ids were sampled, EOS included: DPO trains on these, not on the text."""
    return {
        "task_id": chosen.task["task_id"],
        "prompt": None if chosen.task.get("instruct") else chosen.task["prompt"],  # a question has its ids alone
        "chosen": chosen.rollout.text,
        "rejected": rejected.rollout.text,
        "rejected_kind": kind,
        "rejected_status": rejected.verdict.status,
        "chosen_length": chosen.length,
        "rejected_length": rejected.length,
        # of all tokens, at the sampling temperature; of servers, as they report them
        "chosen_logprob": sum(chosen.rollout.logprobs),
        "rejected_logprob": sum(rejected.rollout.logprobs),
        "prompt_ids": chosen.rollout.prompt_ids,
        "chosen_ids": chosen.rollout.token_ids,
        "rejected_ids": rejected.rollout.token_ids,
    }


def counts(groups: list[list], lines: list[dict]) -> dict[str, Any]:
    """Count what became of the samples, for the stats file."""
    samples = [s for group in groups for s in group]
    judged = [s for s in samples if s.verdict.judged]
    passed = [[s.verdict.passed for s in group if s.verdict.judged] for group in groups]
    return {
        "tasks": len(groups),
        "samples": len(samples),
        "sampled_tokens": sum(s.length for s in samples),
        "distinct_samples": sum(len({tuple(s.rollout.token_ids) for s in group}) for group in groups),
        "pass_rate": sum(s.base_reward for s in judged) / max(len(judged), 1),
        "cut_off": mean(float(not s.rollout.ended) for s in samples),
        "unjudged": len(samples) - len(judged),
        "weak": sum(s.verdict.weak for s in samples),
        "statuses": dict(Counter(s.verdict.status for s in samples)),
        "tasks_none_passing": sum(not any(group) for group in passed),
        "tasks_none_failing": sum(all(group) and bool(group) for group in passed),
        "tasks_with_pairs": len({line["task_id"] for line in lines}),
        "pairs": len(lines),
        "pairs_by_kind": dict(Counter(line["rejected_kind"] for line in lines)),
        "mean_chosen_length": mean([line["chosen_length"] for line in lines] or [0.0]),
        "mean_rejected_length": mean([line["rejected_length"] for line in lines] or [0.0]),
    }


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct)
    tasks = tasks[: args.limit] if args.limit else tasks
    stats_path = args.output_path.removesuffix(".jsonl") + "_stats.json"
    writable = Path(args.output_path + ".writable")
    write_text(writable, "")  # fail now rather than after the work
    writable.unlink()
    started, train_sha256 = time.perf_counter(), sha256(args.train_path)  # of what was read: it may be edited meanwhile

    from judging.by_language import open_sandbox, require_judged
    from model.memory import answer_for_memory
    from model.sampling_vllm import check_engine

    check_engine(args)
    with open_sandbox(args, tasks) as sandbox, answer_for_memory(args, lambda: "sampling"):
        groups = draw_samples(args, tasks, sandbox)
        layers = sandbox.layers
    require_judged([(s.task["task_id"], s.verdict) for group in groups for s in group], args.train_path)
    rng = random.Random(args.seed)
    lines = [
        pair_line(*pair)
        for group in groups
        for pair in pairs_of_task(group, args.rejected, args.pairs_per_task, args.prefer_short, rng)
    ]
    stats = counts(groups, lines)
    require(
        len(lines) > 0,
        f"no pair: of {stats['tasks']} tasks {stats['tasks_none_passing']} had no passing completion and "
        f"{stats['tasks_none_failing']} no failing one ({stats['unjudged']} of {stats['samples']} completions could "
        "not be judged); raise --num_samples, take more tasks, or start from a better model",
    )
    write_jsonl(args.output_path, lines)
    record = {**stats, "seconds": time.perf_counter() - started, "sandbox": layers, "args": settings_of(args),
              "train_sha256": train_sha256, "pairs_sha256": sha256(args.output_path),
              "command": command(), **machine()}  # fmt: skip
    write_text(stats_path, json.dumps(record, indent=1) + "\n")
    print(f"{stats['pairs']} pairs of {stats['tasks_with_pairs']} tasks, from {stats['samples']:,} completions "
          f"({stats['sampled_tokens']:,} tokens) of {stats['tasks']} tasks, {stats['pass_rate']:.1%} passing; "
          f"chosen {stats['mean_chosen_length']:.1f} tokens, rejected {stats['mean_rejected_length']:.1f}")  # fmt: skip
    print(f"saved {args.output_path}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
