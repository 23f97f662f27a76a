"""Measure how hard tasks are for a model: sample answers to each task and write the share that passes beside it.

    pass_rate = passing / judged answers

    python task_difficulty.py --train_path data/kodcode.jsonl --sft_model ADAPTER --output_path data/rated.jsonl

Tasks that always pass, or never, give a group of samples no advantage. Training leaves them out with --min_pass and
--max_pass. With k answers the smallest rate above 0 is 1/k. Beside the task file, *_stats.json has the counts.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from common import (
    check_judge_args,
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
from generate_dpo_data import draw_samples
from judging.tasks import Task, read_tasks


@dataclass
class Args(StageArgs, FleetArgs, JudgeArgs):
    # data and model
    train_path: str = "data/humaneval_train.jsonl"  # tasks to measure
    output_path: str = "data/humaneval_rated.jsonl"  # where the tasks go, with the fields pass_rate and num_samples
    sft_model: str = "checkpoints/deepseek_1_3b_lora_sft_v2"  # adapter or model to sample from
    prompt_level: Literal["normal", "detailed", "terse"] = "normal"  # which prompt of a task
    instruct: bool = False  # put tasks as questions in the chat template; the program comes in a fenced block
    limit: int = 0  # take only the first N tasks of the file; 0 takes all
    # sampling
    num_samples: int = 8  # answers a task
    max_length: int = 1024  # tokens of prompt and answer together, at most
    max_new_tokens: int = 256  # tokens of an answer, at most
    temperature: float = 1.0  # of sampling; as in the training that follows
    top_p: float = 1.0  # share of the probability that is sampled from
    stop_at_strings: bool = False  # also end an answer at its task's stop strings
    batch_size: int = 64  # answers at a time (at least those of one task)
    seed: int = 42  # of sampling
    token_budget = 0  # no flag: `draw_samples` draws all tasks


def check(args: Args) -> None:
    require(args.output_path.endswith(".jsonl"), f"--output_path {args.output_path}: must end in .jsonl")
    same = Path(args.output_path).resolve() == Path(args.train_path).resolve()
    require(not same, f"--output_path {args.output_path}: is the task file itself")
    require_at_least(0, args, "limit")
    require_at_least(1, args, "num_samples", "batch_size", "max_new_tokens")
    require(args.temperature > 0, f"--temperature {args.temperature}: must be positive; greedy samples are all alike")
    require(0 < args.top_p <= 1, f"--top_p {args.top_p}: must be in (0, 1]")
    check_judge_args(args)
    require(args.max_length > args.max_new_tokens, "--max_length must be more than --max_new_tokens")


def rated(tasks: list[Task], groups: list[list]) -> list[Task]:
    """Return the tasks with `pass_rate` and `num_samples`, in their order; without those of which no answer was judged.

    Args:
        groups: the scored samples (`samples.Sample`) of each task, in any order.
    """
    judged = {group[0].group: [s.verdict.passed for s in group if s.verdict.judged] for group in groups}
    return [
        task | {"pass_rate": mean(map(float, judged[index])), "num_samples": len(judged[index])}
        for index, task in enumerate(tasks)
        if judged[index]
    ]


def counts(tasks: list[Task], lines: list[Task]) -> dict[str, Any]:
    """Count the tasks by pass rate, for the stats file."""
    rates = [line["pass_rate"] for line in lines]
    return {
        "tasks": len(lines),
        "tasks_unjudged": len(tasks) - len(lines),
        "tasks_none_passing": rates.count(0.0),
        "tasks_all_passing": rates.count(1.0),
        "mean_pass_rate": mean(rates),
        "tasks_by_pass_rate": {f"{rate:.3f}": count for rate, count in sorted(Counter(rates).items())},
    }


def main(args: Args) -> None:
    check(args)
    tasks = read_tasks(args.train_path, args.prompt_level, args.instruct)
    tasks = tasks[: args.limit] if args.limit else tasks
    in_file = {task["task_id"]: task for task in read_tasks(args.train_path)}  # with no prompt changed
    write_text(writable := Path(args.output_path + ".writable"), "")  # fail now rather than after the work
    writable.unlink()
    started, train_sha256 = time.perf_counter(), sha256(args.train_path)  # of what was read: it may be edited meanwhile

    from judging.by_language import open_sandbox, require_judged
    from model.memory import answer_for_memory
    from model.sampling_vllm import check_engine

    check_engine(args)
    with open_sandbox(args, tasks) as sandbox, answer_for_memory(args, lambda: "sampling"):
        groups = draw_samples(args, tasks, sandbox)
    require_judged([(s.task["task_id"], s.verdict) for group in groups for s in group], args.train_path)
    lines = rated(tasks, groups)
    require(bool(lines), f"{args.train_path}: no answer to any task could be judged")
    stats = counts(tasks, lines)
    new = [in_file[line["task_id"]] | {name: line[name] for name in ("pass_rate", "num_samples")} for line in lines]
    write_jsonl(args.output_path, new)
    record = {**stats, "seconds": time.perf_counter() - started, "args": settings_of(args),
              "train_sha256": train_sha256, "output_sha256": sha256(args.output_path),
              **machine()}  # fmt: skip
    write_text(args.output_path.removesuffix(".jsonl") + "_stats.json", json.dumps(record, indent=1) + "\n")
    print(f"{len(lines)} tasks, mean pass rate {stats['mean_pass_rate']:.1%}: {stats['tasks_none_passing']} never "
          f"pass, {stats['tasks_all_passing']} always; {stats['tasks_unjudged']} left out, as none of their answers "
          "could be judged")  # fmt: skip
    print(f"saved {args.output_path}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
