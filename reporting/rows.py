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

import numpy as np

from common import InputError, read_jsonl, require
from judging.intervals import Compared, crossed_interval, holm, paired_t, seed_interval
from judging.metrics import mean_parts, paired_difference, wilson_interval

ORDER = ("base", "sft", "rl", "ppo", "grpo", "dpo", "rft")  # the order of a table's rows
SETTINGS = ("num_tasks", "data_sha256", "precision", "stop_strings", "max_new_tokens", "time_limit", "total_limit",
            "compare", "tolerance", "allow_weak_tests", "packages", "base_weights")  # fmt: skip
FEWEST_SEEDS = 3  # common seeds that a test of methods needs


@dataclass
class Difference:
    """How much more a row passes than another, in shares: two statements, each with its 95% interval and p-value.

    "These adapters differ" lets the tasks vary, "these methods differ" the seeds. None where there is no such
    statement: the per-task files of the first are missing, the second has too few seeds.
    """

    adapters: Compared | None  # `paired_means` of each task: bootstrap over tasks, randomisation test
    methods: Compared | None  # paired by seed, on these tasks: Student's
    num_seeds: int  # common seeds
    holm: float | None = None  # p of the statement in the table, corrected for the rows of the table

    @property
    def shown(self) -> Compared | None:
        """The statement that a table makes: of methods if it can."""
        return self.methods or self.adapters


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
    seeds: tuple[float, float] | None  # over seeds, None for one seed
    spread: tuple[float, float]  # rates of the lowest and the highest seed
    stopped: float
    length: float | None
    interval: tuple[float, float]  # Wilson's, over tasks alone
    tasks_and_seeds: tuple[float, float] | None  # None for several seeds without their per-task files
    area: tuple[float, tuple[float, float] | None] | None  # mean held-out pass rate over tokens, over seeds
    rates: dict[int, float]  # pass@1 of each seed
    areas: dict[int, float]  # empty unless every seed has one
    scores: dict[int, dict[str, float]] | None  # of each seed, the pass rate on each task; None if a file is missing
    untrained: bool  # a base row: the same for every seed
    sampled_tokens: float | None
    training_seconds: float | None
    seconds: float
    memory: tuple[float | None, float | None]  # peaks of training and of evaluation in GiB, on the GPU if there is one
    unjudged: int  # completions without a verdict, which count as failed
    weak: int  # completions that were judged in the program's own process
    weights: str  # of the base model, and how they were computed with
    machines: frozenset[str]
    commits: str
    commands: tuple[str, ...]  # the first seed's: of making pairs, training, evaluation
    parts: dict[str, float]  # Verilog only: the mean of each part of the verdicts
    against_base: Difference | None = None
    against_sft: Difference | None = None


def read_metrics(folder: Path) -> dict[tuple[str, str], list[dict]]:
    """Read the metrics files of a folder, grouped into rows: (suite, name) -> the metrics of its seeds.

    Raises:
        InputError: the folder has no metrics, or a file is not an evaluation's metrics.
    """
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*_metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8-sig"))
            check_figures(metrics)
            groups[suite(metrics), row_name(metrics)].append(metrics)
        except (ValueError, KeyError, TypeError) as error:  # no JSON, no UTF-8, a field or figure that is none
            raise InputError(f"{path}: not an evaluation's metrics ({error})") from None
    require(bool(groups), f"{folder}: no *_metrics.json here; run eval_humaneval.py first")
    return groups


def check_figures(metrics: dict) -> None:
    """Raise ValueError if the figures of an evaluation are none: shares outside [0, 1], counts below 1."""
    for name in ("pass_at_1", "pass_at_1_stopped"):
        if not 0 <= metrics[name] <= 1:  # NaN is not either
            raise ValueError(f"{name} is {metrics[name]}")
    for name in ("num_tasks", "num_samples"):
        if metrics[name] < 1:
            raise ValueError(f"{name} is {metrics[name]}")


def load_rows(folder: Path) -> list[Row]:
    """Make the rows of a folder's metrics, each for itself, sorted by suite and `ORDER`.

    Raises InputError as `read_metrics` does, and if two runs of a row have the same seed.
    """
    rows = []
    for (where, name), runs in read_metrics(folder).items():
        try:
            rows.append(make_row(name, where, runs, seed_scores(folder, runs)))
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/{runs[0]['exp_name']}_metrics.json: not an evaluation's ({error!r})") from None
    return sorted(rows, key=place)


def read_rows(folder: Path) -> list[Row]:
    """Make the rows of a folder's metrics, each with its differences to its base and its SFT row.

    Holm's correction is over the rows of a table, separately for the two starts. Raises InputError as `load_rows` does.
    """
    rows = load_rows(folder)
    for where in {row.suite for row in rows}:
        table = {row.name: row for row in rows if row.suite == where}
        for word in ("base", "sft"):
            found = []
            for name, row in table.items():
                start = start_row(name, list(table), word)
                compared = difference(table[start], row) if start else None
                setattr(row, f"against_{word}", compared if compared and compared.shown else None)
                found += [compared] if compared and compared.shown else []
            for compared, p in zip(found, holm([one.shown[2] for one in found]), strict=True):
                compared.holm = p
    return rows


def difference(first: Row, second: Row) -> Difference:
    """Compare two rows of one table: the second less the first."""
    (before, after), adapters = paired_means(first, second), None
    if before and after and before.keys() == after.keys():
        tasks = sorted(before)
        adapters = paired_difference([before[task] for task in tasks], [after[task] for task in tasks])
    methods, num_seeds = by_seed(first, second, "rates")
    return Difference(adapters, methods, num_seeds)


def by_seed(first: Row, second: Row, figure: str) -> tuple[Compared | None, int]:
    """Return how two rows differ, paired by seed, and how many seeds they have in common.

    A base row has no training that a seed could change: it stands for every seed of the other. None with fewer than
    `FEWEST_SEEDS` common seeds.

    Args:
        figure: "rates" (pass@1) or "areas".
    """
    before, after = getattr(first, figure), getattr(second, figure)
    if first.untrained and not second.untrained:
        before = dict.fromkeys(after, mean(before.values())) if before else {}
    elif second.untrained and not first.untrained:
        after = dict.fromkeys(before, mean(after.values())) if after else {}
    seeds = sorted(before.keys() & after.keys())
    if len(seeds) < FEWEST_SEEDS:
        return None, len(seeds)
    return paired_t([after[seed] - before[seed] for seed in seeds], step(first, second, figure)), len(seeds)


def step(first: Row, second: Row, figure: str) -> float:
    """Return by how much one completion changes one seed's figure; 0 if the figure is no count."""
    return 1 / min(row.num_samples // row.num_seeds for row in (first, second)) if figure == "rates" else 0.0


def start_row(name: str, names: list[str], word: str) -> str | None:
    """Find the "base" or "sft" row that a row is compared with.

    Of several, it is the one that has the most words in common with the start of the row's name, and the fewest others.
    None if the row is such a row itself, there is none, or two are equally much alike.

    >>> start_row("mine_ppo", ["mine_sft", "mine_ppo", "pocket_sft"], "sft"), start_row("mine_sft", ["mine_sft"], "sft")
    ('mine_sft', None)
    >>> start_row("pocket_ppo", ["pocket_sft", "pocket_pre_sft", "pocket_ppo"], "sft")
    'pocket_sft'
    """
    starts = [other for other in names if word in other.split("_")]
    if name in starts or not starts:
        return None
    words = {other: other.split("_") for other in starts}
    alike = {other: (len(commonprefix([name.split("_"), words[other]])), -len(words[other])) for other in starts}
    best = [other for other in starts if alike[other] == max(alike.values())]
    return best[0] if len(best) == 1 else None


def row_name(metrics: dict) -> str:
    return re.sub(r"_seed\d+$", "", metrics["exp_name"])


def seed_of(metrics: dict) -> int:
    """Return the seed that a run's name says: 42, the scripts' default, if it says none."""
    found = re.search(r"_seed(\d+)$", metrics["exp_name"])
    return int(found[1]) if found else 42


def suite(metrics: dict) -> str:
    """Describe what rows must share to be comparable: the heading of their table."""
    args, base = metrics["args"], metrics.get("base_model")
    if args.get("samples"):
        sampling = "stored completions"
    else:
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
    limits = f"{args['max_new_tokens']} new tokens, " * (not args.get("samples")) + f"{args['time_limit']:g} s a check"
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


def make_row(name: str, where: str, runs: list[dict], scores: dict[int, dict[str, float]] | None = None) -> Row:
    """Make one row of its seeds' metrics and, as `seed_scores` returns them, their pass rates on each task."""
    seeds = [seed_of(metrics) for metrics in runs]
    require(len(set(seeds)) == len(seeds), f"{name}: two runs of the same seed: {sorted(seeds)} (no _seedN means 42)")
    rates = [metrics["pass_at_1"] for metrics in runs]
    lengths = [metrics["avg_gen_len"] for metrics in runs if metrics["avg_gen_len"] is not None]
    trained = [metrics.get("training") or {} for metrics in runs]
    areas = [(record.get("spent") or {}).get("area") for record in trained]
    areas = [] if None in areas else areas
    commits = {metrics.get("commit") for metrics in runs} | {record.get("commit") for record in trained}
    commands = [trained[0].get("pairs_command"), trained[0].get("command"), runs[0].get("command")]
    count, matrix = runs[0]["num_tasks"], score_matrix(scores)
    wilson = wilson_interval(mean(rates), count)
    return Row(
        name=name,
        suite=where,
        num_seeds=len(runs),
        num_tasks=count,
        num_pass=sum(metrics["num_pass"] for metrics in runs),
        num_samples=sum(metrics["num_samples"] for metrics in runs),
        rate=mean(rates),
        seeds=seed_interval(rates, runs[0]["num_samples"]) if len(rates) > 1 else None,
        spread=(min(rates), max(rates)),
        stopped=mean(metrics["pass_at_1_stopped"] for metrics in runs),
        length=mean(lengths) if lengths else None,
        interval=wilson,
        tasks_and_seeds=wilson if len(rates) == 1 else None if matrix is None else crossed_interval(matrix),
        area=(mean(areas), seed_interval(areas) if len(areas) > 1 else None) if areas else None,
        rates=dict(zip(seeds, rates, strict=True)),
        areas=dict(zip(seeds, areas, strict=False)),
        scores=scores,
        untrained="base" in name.split("_") and not any(trained),
        sampled_tokens=mean_spent(trained, "sampled_tokens_since_sft"),
        training_seconds=mean_spent(trained, "seconds_since_sft"),
        seconds=mean(metrics["seconds"] for metrics in runs),
        memory=(
            highest((record.get("spent") or {}).get("peak_memory") for record in trained),
            highest(metrics.get("peak_memory") for metrics in runs),
        ),
        unjudged=sum(metrics.get("unjudged", 0) for metrics in runs),
        weak=sum(metrics.get("weak", 0) for metrics in runs),
        weights=weights(runs[0]),
        machines=frozenset(hardware(metrics) for metrics in runs),
        commits=", ".join(sorted(commit for commit in commits if commit)),
        commands=tuple(filter(None, commands)),
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


def seed_scores(folder: Path, runs: list[dict]) -> dict[int, dict[str, float]] | None:
    """Return each seed's pass rate on each task, over its samples; None if a per-task file is missing.

    Raises InputError if a file is not the one that was written with its metrics: it has other counts.
    """
    found = {}
    for metrics in runs:
        path = folder / f"{metrics['exp_name']}_per_task.jsonl"
        if not path.is_file():
            return None
        passed = defaultdict(list)
        for _, row in read_jsonl(path, "per-task file"):
            passed[row.get("task_id")].append(bool(row.get("passed")))
        counts = {"num_tasks": len(passed), "num_samples": sum(map(len, passed.values())),
                  "num_pass": sum(map(sum, passed.values()))}  # fmt: skip
        for name, count in counts.items():
            require(count == metrics[name], f"{path}: has {name} {count}, its metrics file {metrics[name]}: they are "
                    "not of one evaluation; evaluate again")  # fmt: skip
        found[seed_of(metrics)] = {task: mean(of_task) for task, of_task in passed.items()}
    return found


def score_matrix(scores: dict[int, dict[str, float]] | None) -> np.ndarray | None:
    """Return scores as a matrix, seeds x tasks; None if there are none or the seeds have different tasks."""
    tasks = {frozenset(of_seed) for of_seed in (scores or {}).values()}
    if len(tasks) != 1 or not min(tasks):
        return None
    return np.array([[of_seed[task] for task in sorted(min(tasks))] for of_seed in scores.values()])


def paired_means(first: Row, second: Row) -> tuple[dict[str, float], dict[str, float]]:
    """Return each task's means in two rows, over the seeds that both have.

    A run and the SFT run of its seed differ only by the method, if it started there. A mean over other seeds of one row
    would add their luck. Without a common seed, and against a base row, the means are over all seeds.
    """
    common = set() if first.untrained or second.untrained else first.rates.keys() & second.rates.keys()
    return task_means(first, common), task_means(second, common)


def task_means(row: Row, seeds: Iterable[int] = ()) -> dict[str, float]:
    """Return each task's mean over some seeds of a row (none: over all); {} if a per-task file is missing."""
    passed = defaultdict(list)
    for seed in (seeds or row.rates) if row.scores else ():
        for task, share in row.scores[seed].items():
            passed[task].append(share)
    return {task: mean(shares) for task, shares in passed.items()}


def hardware(metrics: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in metrics["versions"].items())
    return f"{metrics['gpu'] or metrics['cpu']}, {metrics['cores']} core{'s' * (metrics['cores'] != 1)}; {versions}"


def place(row: Row) -> tuple:
    found = [rank for rank, word in enumerate(ORDER) if word in row.name.split("_")]
    return row.suite, found[0] if found else len(ORDER), row.name
