"""Measure samples per second and peak memory of a GRPO step: this project, one completion at a time, and TRL.

    python benchmarks/bench_rl_step.py --rounds 3
    python benchmarks/bench_rl_step.py --workload humaneval --tokenizer DIR --data HumanEval.jsonl.gz --rounds 3

All three sides have the same model, adapter, tasks in the same order, group size, number of completion tokens,
precision, optimizer, KL and loss; `rl_sides.py` says how each works. Every round runs each side once, in a separate
process: one step to warm up, then `--steps` that count. The order of the sides rotates by one from round to round. A
ratio is computed within a round; medians over the rounds are printed with the smallest and the largest. Samples per CPU
second (of the process that samples and trains) show what a side needs, whatever else runs on the machine.

Memory is the peak of the process that samples and trains: in total, and above what it held once model and libraries
were loaded (on a GPU, what torch allocated there). On every side, other processes run the completions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT)]

from common import InputError, require, require_at_least, run_script, write_text

SIDES = {"ours": "this project", "loop": "one at a time", "trl": "TRL"}


@dataclass
class Args:
    workload: Literal["pocket", "humaneval", "1.3b", "7b"] = "pocket"  # pocket model, or a random one (rl_workloads.py)
    tokenizer: str = ""  # folder with a tokenizer.json; "": pocket's, for a random model filled up to 32,256 tokens
    data: str = ""  # task file, plain or .gz; "": the pocket tasks
    lengths: Literal["fixed", "natural"] = "fixed"  # natural: completions end where the pocket model ends them
    only: tuple[Literal["ours", "loop", "trl"], ...] = ("ours", "loop", "trl")  # sides to measure
    rounds: int = 3  # how often each side runs
    steps: int = 2  # measured steps per round, after one that does not count
    batch_size: int = 1  # tasks per step
    num_samples: int = 8  # completions per task: the group size, G
    new_tokens: int = 128  # tokens of a completion; with natural lengths at most
    learning_rate: float = 1e-4  # AdamW's learning rate
    kl_coef: float = 0.02  # weight of the KL to the adapter that the run starts from
    micro_batch_tokens: int = 4096  # tokens in one forward and backward pass of this project
    trl_batch_size: int = 4  # the same for TRL (per_device_train_batch_size)
    ours_flags: str = ""  # more flags of train_grpo_lora.py, in one string
    trl_settings: str = ""  # more settings of GRPOConfig, as JSON
    profile: bool = False  # print where the time of this project's steps goes (torch.profiler)
    json: str = ""  # file for all measurements
    seed: int = 0  # seed of task order and sampling in the first round; each further round adds 1
    config: str = ""  # YAML file with any of these; flags win over it


def check(args: Args) -> None:
    require_at_least(1, args, "rounds", "steps", "batch_size", "micro_batch_tokens", "trl_batch_size", "new_tokens")
    require_at_least(2, args, "num_samples")
    if "trl" in args.only:
        require(importlib.util.find_spec("trl") is not None, "TRL is not installed: .venv/bin/pip install -r "
                "benchmarks/requirements.txt; or give --only ours loop")  # fmt: skip
        size, batch = args.trl_batch_size, args.batch_size * args.num_samples
        require(batch % min(size, batch) == 0, f"--trl_batch_size {size}: must divide the batch of {batch}")
    if args.trl_settings:
        try:
            json.loads(args.trl_settings)
        except json.JSONDecodeError as error:
            raise InputError(f"--trl_settings: is not JSON ({error})") from None


def call(command: list[str], show: bool = False) -> None:
    """Run one of the scripts beside this one. If it fails, exit with its last lines, or raise its InputError again."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-15:]
        if last and last[-1].startswith("error: "):
            raise InputError(last[-1].removeprefix("error: "))
        sys.exit("\n".join([f"{' '.join(command[:2])} failed:", *last]))
    if show:
        print(done.stdout)


def measure(args: Args, folder: Path) -> list[dict[str, Any]]:
    """Run every side once per round; the order rotates by one each time."""
    names, results = list(dict.fromkeys(args.only)), []
    for turn in range(args.rounds):
        at = turn % len(names)
        for side in names[at:] + names[:at]:
            settings = asdict(args) | {"folder": str(folder), "seed": args.seed + turn}
            settings["profile"] = args.profile and side == "ours"
            out = folder / "result.json"
            call([str(HERE / "rl_sides.py"), side, json.dumps(settings), str(out)], show=settings["profile"])
            results.append({"round": turn, "side": side} | json.loads(out.read_text()))
            print(f"round {turn + 1}, {SIDES[side]}: {results[-1]['seconds']:.1f} s", file=sys.stderr)
    return results


def rates(result: dict[str, Any]) -> dict[str, float]:
    """Return the figures by which sides are compared, for one side in one round."""
    return {
        "samples/s": result["samples"] / result["seconds"],
        "tokens/s": result["tokens"] / result["seconds"],
        "samples per CPU second": result["samples"] / result["cpu_seconds"],
        "peak memory": result["peak_mib"],
        "above the baseline": result["above_mib"],
    }


def spread(values: list[float], digits: int = 2, unit: str = "") -> str:
    """Write the median and, of several values, the range: "median (smallest-largest)"."""
    low, middle, high = (f"{value:.{digits}f}{unit}" for value in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def table(results: list[dict[str, Any]]) -> str:
    """Write a table with one line per side: speed, seconds per step by part, memory."""
    lines = [
        "| side | samples/s | tokens/s | samples per CPU s | s a step: sampling | scoring | training | peak MiB | "
        "above baseline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side in dict.fromkeys(r["side"] for r in results):
        mine = [r for r in results if r["side"] == side]
        cells = [
            spread([rates(r)[name] for r in mine], digits)
            for name, digits in (("samples/s", 2), ("tokens/s", 0), ("samples per CPU second", 2))
        ]
        for part in ("sample", "score", "train"):
            seconds = [part_seconds(r)[part] / r["steps"] for r in mine]
            share = median(part_seconds(r)[part] / r["seconds"] for r in mine)
            cells.append(f"{median(seconds):.2f} ({share:.0%})")
        cells += [f"{median(r[name] for r in mine):.0f}" for name in ("peak_mib", "above_mib")]
        lines.append(f"| {SIDES[side]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def part_seconds(result: dict[str, Any]) -> dict[str, float]:
    sample, score = result["sample_seconds"], result["score_seconds"]
    return {"sample": sample, "score": score, "train": result["seconds"] - sample - score}


def ratios(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return {peer: {figure: [ours / peer in each round]}}."""
    by_round = {(r["side"], r["round"]): rates(r) for r in results}
    rounds = sorted({number for _, number in by_round})
    found = {}
    for peer in SIDES:
        if peer != "ours" and ("ours", 0) in by_round and (peer, 0) in by_round:
            pairs = [(by_round["ours", n], by_round[peer, n]) for n in rounds]
            found[peer] = {name: [mine[name] / other[name] for mine, other in pairs] for name in pairs[0][0]}
    return found


def check_equal_work(results: list[dict[str, Any]], lengths: str) -> None:
    """Exit with an error unless the sides of a round had the same tasks, prompts and, for fixed lengths, tokens."""
    for first in results:
        for other in results:
            if first["round"] == other["round"]:
                names = ["steps", "samples", "prompt_tokens"] + ["tokens"] * (lengths == "fixed")
                unlike = [name for name in names if first[name] != other[name]]
                if sorted(first["tasks"]) != sorted(other["tasks"]):
                    unlike.append("tasks")
                if unlike:
                    sys.exit(f"{first['side']} and {other['side']} did not do the same work: {', '.join(unlike)}")


def main(args: Args) -> None:
    check(args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = dict(workload=args.workload, tokenizer_folder=args.tokenizer, data=args.data,
                     natural=args.lengths == "natural")  # fmt: skip
        call([str(HERE / "rl_workloads.py"), json.dumps(model), str(folder)])
        results = measure(args, folder)
    check_equal_work(results, args.lengths)
    machine = results[0]["machine"]
    if any(r["side"] == "trl" for r in results):
        machine["versions"]["trl"] = version("trl")
    compared = ratios(results)
    first = results[0]
    per_step = first["samples"] // first["steps"]
    print(f"workload {args.workload}: {args.batch_size} tasks of {args.num_samples} completions a step, "
          f"{args.new_tokens} tokens each ({args.lengths}), prompts of "
          f"{first['prompt_tokens'] / first['samples']:.0f} tokens in the mean; {args.rounds} rounds of {args.steps} "
          f"steps of {per_step} samples")  # fmt: skip
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {first['threads']} threads, load "
          f"{os.getloadavg()[0]:.1f}; {versions}; commit {machine['commit']}\n")  # fmt: skip
    print(table(results))
    for peer, figures in compared.items():
        print(f"\nours against {SIDES[peer]}, median (least-largest) of {args.rounds} rounds: "
              + "; ".join(f"{name} {spread(values, unit='x')}" for name, values in figures.items()))  # fmt: skip
    if args.json:
        record = {"args": asdict(args), "machine": machine, "rounds": results, "ratios": compared}
        write_text(args.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
