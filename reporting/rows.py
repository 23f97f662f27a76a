"""Read metrics files into the rows of a results table."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from statistics import mean

from common import InputError, read_jsonl, require
from judging.metrics import mean_parts, paired_difference, seed_interval, wilson_interval

ORDER = ("base", "sft", "rl", "ppo", "grpo", "dpo", "rft")  # the order of a table's rows


SETTINGS = ("num_tasks", "data_sha256", "precision", "stop_strings", "max_new_tokens", "time_limit", "total_limit",
            "compare", "tolerance")  # fmt: skip


@dataclass
class Row:
    """One method in the table: means over its seeds.

    `length` is in tokens, times are in seconds; rates and differences are shares. None means not known.
    """

    name: str
    suite: str
    num_seeds: int
    num_tasks: int
    num_pass: int
    num_samples: int
    rate: float
    seeds: tuple[float, float] | None  # Student's interval; None for one seed
    spread: tuple[float, float]  # rates of the lowest and the highest seed
    stopped: float
    length: float | None
    interval: tuple[float, float]  # Wilson's
    against_base: tuple[float, tuple[float, float], float] | None  # difference, its interval, p-value
    against_sft: tuple[float, tuple[float, float], float] | None
    sampled_tokens: float | None
    training_seconds: float | None
    seconds: float
    memory: tuple[float | None, float | None]  # peaks of training and of evaluation in GiB, on the GPU if there is one
    weights: str  # of the base model, and how they were computed with
    machine: str
    commits: str
    commands: tuple[str, ...]  # the first seed's commands of training and evaluation
    parts: dict[str, float]  # Verilog only: the mean of each part of the verdicts


def read_metrics(folder: Path) -> dict[tuple[str, str], list[dict]]:
    """Read the metrics files of a folder, grouped into rows: (suite, name) -> the metrics of its seeds.

    Raises:
        InputError: the folder has no metrics, or a file is not an evaluation's metrics.
    """
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*_metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8-sig"))
            groups[suite(metrics), row_name(metrics)].append(metrics)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not an evaluation's metrics ({error})") from None
    require(bool(groups), f"{folder}: no *_metrics.json here; run eval_humaneval.py first")
    return groups


def read_rows(folder: Path) -> list[Row]:
    """Make the rows of a folder's metrics, sorted by suite and `ORDER`. Raises InputError as `read_metrics` does."""
    groups = read_metrics(folder)
    scores = {row: task_scores(folder, runs) for row, runs in groups.items()}
    rows = []
    for (where, name), runs in groups.items():
        names = [other for suite, other in groups if suite == where]
        starts = [start_row(name, names, word) for word in ("base", "sft")]
        differences = [against(scores[where, start], scores[where, name]) if start else None for start in starts]
        try:
            rows.append(make_row(name, where, runs, *differences))
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/{runs[0]['exp_name']}_metrics.json: not an evaluation's ({error!r})") from None
    return sorted(rows, key=place)


def start_row(name: str, names: list[str], word: str) -> str | None:
    """Find the "base" or "sft" row that a row is compared with; of several, the one most alike from the name's start.

    None if the row is such a row itself, there is none, or two are equally much alike.

    >>> start_row("mine_ppo", ["mine_sft", "mine_ppo", "pocket_sft"], "sft"), start_row("mine_sft", ["mine_sft"], "sft")
    ('mine_sft', None)
    """
    starts = [other for other in names if word in other.split("_")]
    if name in starts or not starts:
        return None
    alike = {other: len(commonprefix([name, other])) for other in starts}
    best = [other for other in starts if alike[other] == max(alike.values())]
    return best[0] if len(best) == 1 else None


def row_name(metrics: dict) -> str:
    return re.sub(r"_seed\d+$", "", metrics["exp_name"])


def suite(metrics: dict) -> str:
    """Describe what rows must share to be comparable: the heading of their table."""
    args, base = metrics["args"], metrics.get("base_model")
    sampling = f"T {args['temperature']:g}, top_p {args['top_p']:g}" if args["temperature"] else "greedy"
    tasks = f"{Path(args['data_path']).name}, {metrics['num_tasks']} tasks ({metrics['data_sha256'][:8]})"
    level = args.get("prompt_level", "normal")
    asked = ", ".join(
        [f"{level} prompts"] * (level != "normal")
        + ["instruct"] * args.get("instruct", False)
        + ["unquantised"] * (args.get("load_in_4bit") is False)
        + [f"judge {args.get('judge_model')}"] * bool(args.get("judge_url"))
    )
    sampling += f", {args['n_samples']} samples a task" if args.get("n_samples", 1) > 1 else ""
    limits = f"{args['max_new_tokens']} new tokens, {args['time_limit']:g} s a check"
    return ", ".join(part for part in (tasks, base, asked, sampling, limits) if part)


def mixed_settings(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Return a line for each setting that differs between rows on the same task file and base model.

    A setting that a metrics file lacks is not compared. Rows that sample or prompt differently are not compared either:
    that is no mistake, and they have separate tables.
    """
    found: dict[tuple, dict[str, dict[str, set[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for (_, name), runs in groups.items():
        for metrics in runs:
            args = metrics["args"]
            alike = (Path(args["data_path"]).name, metrics.get("base_model"), args["temperature"], args["top_p"],
                     args.get("prompt_level"), args.get("instruct"), args.get("judge_model"),
                     args.get("load_in_4bit", True))  # fmt: skip
            for setting in SETTINGS:
                value = metrics.get(setting, args.get(setting))
                if value is not None:
                    found[alike][setting][json.dumps(value)].add(name)
    lines = []
    for (tasks, *_), settings in found.items():
        for setting, values in settings.items():
            if len(values) > 1:
                said = "; ".join(f"{value[:40]} ({', '.join(sorted(names))})" for value, names in values.items())
                lines.append(f"rows on {tasks} were evaluated with different {setting}: {said}")
    return lines


def make_row(
    name: str, where: str, runs: list[dict], against_base: tuple | None = None, against_sft: tuple | None = None
) -> Row:
    rates = [metrics["pass_at_1"] for metrics in runs]
    lengths = [metrics["avg_gen_len"] for metrics in runs if metrics["avg_gen_len"] is not None]
    trained = [metrics.get("training") or {} for metrics in runs]
    commits = {metrics.get("commit") for metrics in runs} | {record.get("commit") for record in trained}
    return Row(
        name=name,
        suite=where,
        num_seeds=len(runs),
        num_tasks=runs[0]["num_tasks"],
        num_pass=sum(metrics["num_pass"] for metrics in runs),
        num_samples=sum(metrics["num_samples"] for metrics in runs),
        rate=mean(rates),
        seeds=seed_interval(rates) if len(rates) > 1 else None,
        spread=(min(rates), max(rates)),
        stopped=mean(metrics["pass_at_1_stopped"] for metrics in runs),
        length=mean(lengths) if lengths else None,
        interval=wilson_interval(mean(rates), runs[0]["num_tasks"]),
        against_base=against_base,
        against_sft=against_sft,
        sampled_tokens=mean_spent(trained, "sampled_tokens_since_sft"),
        training_seconds=mean_spent(trained, "seconds_since_sft"),
        seconds=mean(metrics["seconds"] for metrics in runs),
        memory=(
            highest((record.get("spent") or {}).get("peak_memory") for record in trained),
            highest(metrics.get("peak_memory") for metrics in runs),
        ),
        weights=weights(runs[0]),
        machine=" / ".join(sorted({hardware(metrics) for metrics in runs})),
        commits=", ".join(sorted(commit for commit in commits if commit)),
        commands=tuple(command for command in (trained[0].get("command"), runs[0].get("command")) if command),
        parts=mean_parts([metrics.get("parts") for metrics in runs]),
    )


def mean_spent(trained: list[dict], name: str) -> float | None:
    """Return the mean over the seeds of a figure that training spent; None unless every seed has it."""
    spent = [(record.get("spent") or {}).get(name) for record in trained]
    return None if None in spent else mean(spent)


def highest(peaks: Iterable[dict | None]) -> float | None:
    """Return the highest of peaks as `common.peak_memory` gives them; None if none is known."""
    known = [peak["ram"] if peak["gpu"] is None else peak["gpu"] for peak in peaks if peak]
    return max(known) if known else None


def weights(metrics: dict) -> str:
    """Say which weights an evaluation had; "" if its metrics do not say.

    >>> weights({"base_model": "tiny", "base_weights": {"model.safetensors": "0123456789abcdef"}, "precision": "NF4"})
    'tiny (model.safetensors 0123456789ab), NF4'
    """
    files = ", ".join(f"{name} {digest[:12]}" for name, digest in (metrics.get("base_weights") or {}).items())
    gguf = metrics.get("gguf")
    files = f"{gguf['file']} {gguf['sha256'][:12]}" if gguf else files
    return f"{metrics['base_model']} ({files}), {metrics['precision']}" if files else ""


def task_scores(folder: Path, runs: list[dict]) -> dict[str, float] | None:
    """Return each task's pass rate over the seeds and samples of a row; None if a per-task file is missing."""
    passed = defaultdict(list)
    for metrics in runs:
        path = folder / f"{metrics['exp_name']}_per_task.jsonl"
        if not path.is_file():
            return None
        for _, row in read_jsonl(path, "per-task file"):
            passed[row.get("task_id")].append(bool(row.get("passed")))
    return {task: mean(of_task) for task, of_task in passed.items()}


def against(before: dict[str, float] | None, after: dict[str, float] | None) -> tuple | None:
    """Return `metrics.paired_difference` of two rows; None if they have different tasks or no scores."""
    if not before or not after or before.keys() != after.keys():
        return None
    tasks = sorted(before)
    return paired_difference([before[task] for task in tasks], [after[task] for task in tasks])


def hardware(metrics: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in metrics["versions"].items())
    return f"{metrics['gpu'] or metrics['cpu']}, {metrics['cores']} cores; {versions}"


def place(row: Row) -> tuple:
    found = [rank for rank, word in enumerate(ORDER) if word in row.name.split("_")]
    return row.suite, found[0] if found else len(ORDER), row.name
