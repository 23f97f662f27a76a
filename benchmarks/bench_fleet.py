"""Measure steps of GRPO that sample with the local engine, and from one or more vLLM servers.

    python benchmarks/bench_fleet.py --sft_model ADAPTER --train_path data/mbpp_train.jsonl \\
        --servers http://localhost:8101 http://localhost:8102

The servers must run already (docs/engines.md). The ways take turns, in an order that shifts from round to round; each
run of train_grpo_lora.py is a process of its own. Its first step, which has the parity check, and its last, beside
which `--async_steps` samples nothing, are left out. Ratios are computed within a round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from common import InputError, machine, require, require_at_least, run_script


@dataclass
class Args:
    sft_model: str = "checkpoints/pocket_lora_sft"  # adapter to start from; the servers hold its base model
    train_path: str = "data/pocket_train.jsonl"  # tasks to learn from
    servers: tuple[str, ...] = ()  # URLs of running vLLM servers; none: only the local engine
    threads: tuple[int, ...] = (1, 2)  # of torch, for the local engine; with servers the trainer has the first
    rounds: int = 2  # how often each way has its turn
    steps: int = 5  # of a run, 3 or more
    batch_size: int = 4  # tasks of a step
    num_samples: int = 8  # completions a task
    max_length: int = 768  # tokens of prompt and completion together, at most
    max_new_tokens: int = 128  # tokens of a completion, at most
    learning_rate: float = 1e-6  # so low that all ways sample from nearly the same policy
    parity_bound: float = 1.0  # so large that servers with a base in 16 or 32 bits pass
    config: str = ""  # YAML file with any of these; flags win over it


def ways(args: Args) -> dict[str, tuple[int, list[str]]]:
    """Return the threads and the flags of each way, by name; the first is what the others are compared with."""
    found = {f"local, {threads} thread{'s' * (threads > 1)}": (threads, []) for threads in args.threads}
    for count in dict.fromkeys((1, len(args.servers))) if args.servers else ():
        flags = ["--engine", "server", "--server", ",".join(args.servers[:count])]
        found[f"{count} server{'s' * (count > 1)}"] = (args.threads[0], flags)
        found[f"{count} server{'s' * (count > 1)}, --async_steps 1"] = (args.threads[0], [*flags, "--async_steps", "1"])
    return found


def run(args: Args, threads: int, flags: list[str]) -> dict[str, float]:
    """Make one run. Return its samples a second of sampling, and the seconds of a step and of training in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train_grpo_lora.py", "--sft_model", args.sft_model, "--output_dir",
                   f"{folder}/run", "--num_steps", str(args.steps)]  # fmt: skip
        for name in ("train_path", "batch_size", "num_samples", "max_length", "max_new_tokens", "learning_rate",
                     "parity_bound"):  # fmt: skip
            command += [f"--{name}", str(getattr(args, name))]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        ended, said = [], []
        with subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as process:  # fmt: skip
            for line in process.stdout:
                said.append(line)
                ended += [time.perf_counter()] * line.startswith("step ")
        if process.returncode != 0 or len(ended) != args.steps:
            raise InputError(f"train_grpo_lora.py failed: {said[-1].strip() if said else process.returncode}")
        log = (Path(folder) / "run" / "grpo_train_log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, log) if "base_reward" in record]
    tokens = [after - before for before, after in pairwise([0, *(record["sampled_tokens"] for record in records)])]
    kept = range(1, args.steps - 1)
    sampling = sum(tokens[i] / records[i]["sample_tokens_per_second"] for i in kept)
    training = sum(tokens[i] / records[i]["train_tokens_per_second"] for i in kept)
    samples = args.batch_size * args.num_samples * len(kept)
    return {"samples_per_second": samples / sampling, "tokens_per_second": sum(tokens[i] for i in kept) / sampling,
            "training": training / len(kept), "step": (ended[-2] - ended[0]) / len(kept)}  # fmt: skip


def main(args: Args) -> None:
    require_at_least(3, args, "steps")
    require_at_least(1, args, "rounds")
    require(len(args.threads) > 0, "--threads: want one number or more")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways(args)}
    for number in range(args.rounds):
        order = list(ways(args).items())
        for name, (threads, flags) in order[number % len(order) :] + order[: number % len(order)]:
            found[name].append(run(args, threads, flags))
            figures = ", ".join(f"{what} {value:.3g}" for what, value in found[name][-1].items())
            print(f"round {number + 1}: {name}: {figures}", file=sys.stderr)  # of use if the next rounds are not made
    base = next(iter(found.values()))

    def said(values: list[float], digits: int = 1) -> str:
        return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"

    def ratio(runs: list[dict[str, float]], of) -> str:
        return said([of(one) / of(first) for one, first in zip(runs, base, strict=True)], 2)

    print(f"{Path(args.sft_model).name}, {args.batch_size * args.num_samples} samples a step, {machine()['cpu']}\n")
    print("| way | tokens/s while sampling | samples/s while sampling | against the first | s a step | "
          "of which training | steps/s against the first |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name, runs in found.items():
        print(f"| {name} | {said([r['tokens_per_second'] for r in runs], 0)} | "
              f"{said([r['samples_per_second'] for r in runs], 2)} | {ratio(runs, lambda r: r['tokens_per_second'])} | "
              f"{said([r['step'] for r in runs])} | {mean(r['training'] for r in runs):.1f} | "
              f"{ratio(runs, lambda r: 1 / r['step'])} |")  # fmt: skip


if __name__ == "__main__":
    run_script(main, Args, __doc__)
