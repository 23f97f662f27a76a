"""From results/*_metrics.json to a table: Markdown (in README.md between markers too), CSV, LaTeX, and plots.

Runs that differ only in `_seedN` at the end of their name are one row: the means over the seeds. Three intervals, all
95%: over tasks, Wilson's on the number of tasks, not of tasks times seeds, for the seeds share the tasks; over seeds,
Student's on their pass rates; and of the difference to SFT on the same tasks, bootstrapped over tasks, with the
p-value of a paired randomisation test. Rows of different task files, base models, limits or ways to sample stand in
different tables, and where only the settings differ a warning says so (`--strict`: an error). Sampled tokens and
training time count from SFT on. Verilog has a column for each part of its verdicts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from statistics import mean
from typing import Any

from common import InputError, printable, read_jsonl, require, run, write_text
from metrics import mean_parts, paired_difference, seed_interval, wilson_interval
from overlap import overlap
from table_formats import insert, latex, markdown, spreadsheet
from tasks import read_tasks, sha256

ORDER = ("base", "sft", "rl", "ppo", "grpo", "dpo")  # rows stand in the order of the story
SETTINGS = ("num_tasks", "data_sha256", "precision", "stop_strings", "max_new_tokens", "time_limit")


@dataclass
class Args:
    results_dir: str = "results"  # where the *_metrics.json are
    readme: str = "README.md"  # gets the table between its markers; empty: print only
    compare: tuple[str, ...] = ()  # two rows: print how they differ on the same tasks, and write nothing
    reproduces: str = ""  # another folder: print which of its rows these runs come to again, within its intervals
    strict: bool = False  # rows that were evaluated under different settings are an error, not a warning
    plots: bool = False  # the learning curves of these runs too, as far as their logs are there
    section: str = "yours"  # the markers' name: <!-- yours:begin --> and <!-- yours:end -->
    config: str = ""  # YAML file with any of these; flags win over it


@dataclass
class Row:
    """One method: means over its seeds. `length` in tokens, rates and differences as shares; None: not known."""

    name: str
    suite: str
    num_seeds: int
    num_tasks: int
    num_pass: int
    num_samples: int
    rate: float
    seeds: tuple[float, float] | None  # Student's interval; of one seed none
    spread: tuple[float, float]  # lowest and highest seed
    stopped: float
    length: float | None
    interval: tuple[float, float]  # Wilson's
    against_sft: tuple[float, tuple[float, float], float] | None  # difference, its interval, p-value
    sampled_tokens: float | None
    training_seconds: float | None
    seconds: float
    machine: str
    commits: str
    commands: tuple[str, ...]  # of training and evaluation, the first seed's
    parts: dict[str, float]  # of Verilog: the mean of each part of the verdicts


def read_metrics(folder: Path) -> dict[tuple[str, str], list[dict]]:
    """The metrics of each row's seeds, by suite and name.

    Raises:
        InputError: the folder has no metrics, or a file is not one of ours.
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
    """The rows of a folder, in the order of the story."""
    groups = read_metrics(folder)
    scores = {row: task_scores(folder, runs) for row, runs in groups.items()}
    rows = []
    for (where, name), runs in groups.items():
        start = sft_row(name, [other for suite, other in groups if suite == where])
        sft = scores[where, start] if start else None
        try:
            rows.append(make_row(name, where, runs, against(sft, scores[where, name])))
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder}/{runs[0]['exp_name']}_metrics.json: not an evaluation's ({error!r})") from None
    return sorted(rows, key=place)


def sft_row(name: str, names: list[str]) -> str | None:
    """Which of the rows is the SFT that a row is held against: of several the one whose name begins most alike.

    >>> sft_row("mine_ppo", ["mine_sft", "mine_ppo", "pocket_sft"]), sft_row("mine_sft", ["mine_sft"])
    ('mine_sft', None)
    """
    starts = [other for other in names if "sft" in other.split("_")]
    if name in starts or not starts:
        return None
    alike = {other: len(commonprefix([name, other])) for other in starts}
    best = [other for other in starts if alike[other] == max(alike.values())]
    return best[0] if len(best) == 1 else None


def row_name(metrics: dict) -> str:
    return re.sub(r"_seed\d+$", "", metrics["exp_name"])


def suite(metrics: dict) -> str:
    """What makes figures comparable, as the heading of their table."""
    args, base = metrics["args"], metrics.get("base_model")
    sampling = f"T {args['temperature']:g}, top_p {args['top_p']:g}" if args["temperature"] else "greedy"
    tasks = f"{Path(args['data_path']).name}, {metrics['num_tasks']} tasks ({metrics['data_sha256'][:8]})"
    level = args.get("prompt_level", "normal")
    asked = ", ".join(
        [f"{level} prompts"] * (level != "normal")
        + ["instruct"] * args.get("instruct", False)
        + [f"judge {args.get('judge_model')}"] * bool(args.get("judge_url"))
    )
    sampling += f", {args['n_samples']} samples a task" if args.get("n_samples", 1) > 1 else ""
    limits = f"{args['max_new_tokens']} new tokens, {args['time_limit']:g} s a check"
    return ", ".join(part for part in (tasks, base, asked, sampling, limits) if part)


def mixed_settings(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Where rows of one task file and base model were not evaluated alike: a line for each setting that differs.

    What a file does not say is not compared. Another way to sample or to ask is no mistake, and has its own table.
    """
    found: dict[tuple, dict[str, dict[str, set[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for (_, name), runs in groups.items():
        for metrics in runs:
            args = metrics["args"]
            alike = (Path(args["data_path"]).name, metrics.get("base_model"), args["temperature"], args["top_p"],
                     args.get("prompt_level"), args.get("instruct"), args.get("judge_model"))  # fmt: skip
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


def make_row(name: str, where: str, runs: list[dict], against_sft: tuple | None) -> Row:
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
        against_sft=against_sft,
        sampled_tokens=mean_spent(trained, "sampled_tokens_since_sft"),
        training_seconds=mean_spent(trained, "seconds_since_sft"),
        seconds=mean(metrics["seconds"] for metrics in runs),
        machine=" / ".join(sorted({hardware(metrics) for metrics in runs})),
        commits=", ".join(sorted(commit for commit in commits if commit)),
        commands=tuple(command for command in (trained[0].get("command"), runs[0].get("command")) if command),
        parts=mean_parts([metrics.get("parts") for metrics in runs]),
    )


def mean_spent(trained: list[dict], name: str) -> float | None:
    """Over the seeds; None unless all say."""
    spent = [(record.get("spent") or {}).get(name) for record in trained]
    return None if None in spent else mean(spent)


def task_scores(folder: Path, runs: list[dict]) -> dict[str, float] | None:
    """The mean of each task over the seeds and samples of a row; None where a per-task file is missing."""
    passed = defaultdict(list)
    for metrics in runs:
        path = folder / f"{metrics['exp_name']}_per_task.jsonl"
        if not path.is_file():
            return None
        for _, row in read_jsonl(path, "per-task file"):
            passed[row.get("task_id")].append(bool(row.get("passed")))
    return {task: mean(of_task) for task, of_task in passed.items()}


def against(before: dict[str, float] | None, after: dict[str, float] | None) -> tuple | None:
    """`metrics.paired_difference` of two rows; None where they do not share their tasks."""
    if not before or not after or before.keys() != after.keys():
        return None
    tasks = sorted(before)
    return paired_difference([before[task] for task in tasks], [after[task] for task in tasks])


def compare(folder: Path, first: str, second: str) -> str:
    """How the second row differs from the first: the mean over tasks with interval and p-value, the tasks won and lost.

    Raises:
        InputError: there is no such row, its per-task file is missing, or the two were evaluated differently.
    """
    groups, found = read_metrics(folder), []
    for name in (first, second):
        rows = [row for row in groups if row[1] == name]
        require(bool(rows), f"--compare {name}: {folder} has no row of that name")
        scores = {row: task_scores(folder, groups[row]) for row in rows}
        require(None not in scores.values(), f"--compare {name}: a per-task file of its runs is missing in {folder}")
        found.append((set(rows), scores[rows[0]]))
    (where, before), (where_too, after) = found
    suites = {suite for suite, _ in where | where_too}
    require(len(suites) == 1 and before.keys() == after.keys(),
            f"--compare: cannot be compared: {'; '.join(sorted(suites))}")  # fmt: skip
    difference, (low, high), p = against(before, after)
    lines = [f"{second} less {first}: {difference:+.1%} ({low:+.1%} to {high:+.1%}), p = {p:.2g}, {len(before)} tasks"]
    for word, sign in (("won", 1), ("lost", -1)):
        some = sorted((t for t in before if sign * (after[t] - before[t]) > 0),
                      key=lambda t: (-abs(after[t] - before[t]), t))  # fmt: skip
        lines.append(f"{word} {len(some)}: " + ", ".join(f"{t} {before[t]:.0%} to {after[t]:.0%}" for t in some))
    return "\n".join(lines)


def reproduced(rows: list[Row], committed: list[Row]) -> str:
    """Which committed rows the rows of the same name come to again: the rate within the committed intervals.

    Within that over tasks, or over seeds if that is wider: another seed is another policy on the same tasks.
    """
    ours, lines, held = {(row.suite, row.name): row for row in rows}, [], 0
    shared = [row for row in committed if (row.suite, row.name) in ours]
    missing = [row.name for row in committed if (row.suite, row.name) not in ours]
    if not shared:
        return "nothing to compare: no committed row was evaluated on these tasks in this way"
    for row in shared:
        rate, intervals = ours[row.suite, row.name].rate, [row.interval, *([row.seeds] if row.seeds else [])]
        inside = any(low <= rate <= high for low, high in intervals)
        held += inside
        said = ", ".join(f"{max(low, 0):.1%} to {min(high, 1):.1%}" for low, high in intervals)
        lines.append(f"{row.name}: {rate:.1%}, committed {row.rate:.1%} ({said}): {'within' if inside else 'OUTSIDE'}")
    lines += [f"not among these runs: {', '.join(missing)}"] if missing else []
    return "\n".join([*lines, f"{held} of {len(shared)} rows within the committed intervals"])


def hardware(metrics: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in metrics["versions"].items())
    return f"{metrics['gpu'] or metrics['cpu']}, {metrics['cores']} cores; {versions}"


def place(row: Row) -> tuple:
    found = [rank for rank, word in enumerate(ORDER) if word in row.name.split("_")]
    return row.suite, found[0] if found else len(ORDER), row.name


def overlaps(groups: dict[tuple[str, str], list[dict]]) -> dict[str, str]:
    """Of each suite what its rows' train tasks and its tasks have in common, or why that is not known."""
    files: dict[str, dict[str, str]] = defaultdict(dict)
    tested: dict[str, tuple[str, str]] = {}
    for (where, _), runs in groups.items():
        for metrics in runs:
            files[where] |= (metrics.get("training") or {}).get("task_files") or {}
            tested[where] = metrics["args"]["data_path"], metrics["data_sha256"]
    said = {}
    for where, test in tested.items():
        lines = []
        for train in sorted(files[where].items()):
            gone = [path for path, digest in (train, test) if not Path(path).is_file() or sha256(path) != digest]
            try:
                found = overlap(read_tasks(train[0]), read_tasks(test[0])) if not gone else None
                lines.append(f"{train[0]}: {found or f'not checked, {gone[0]} is not here as it was'}")
            except InputError:
                lines.append(f"{train[0]}: not checked, it is no task file")
        said[where] = "; ".join(lines) or "not checked, the runs do not say what they were trained on"
    return said


def plot(rows: list[Row], path: Path) -> None:
    """Average length against pass@1 with Wilson intervals, a panel for each table."""
    from curves import COLOURS, literal, save_picture

    rows = [row for row in rows if row.length is not None]
    suites = sorted({row.suite for row in rows})
    if not suites:
        return
    with save_picture(path, len(suites), 1, (7, 4.5)) as panels:
        for where, axes in zip(suites, panels[:, 0], strict=True):
            members = [row for row in rows if row.suite == where]
            for number, (row, marker) in enumerate(zip(members, "osD^vPX*<>dph8" * len(members), strict=False)):
                low, high = row.interval
                axes.errorbar(row.length, row.rate, yerr=[[row.rate - low], [high - row.rate]], marker=marker,
                              color=COLOURS[number % len(COLOURS)], capsize=3, linestyle="none", markersize=8,
                              markerfacecolor="none" if number % 2 else None, label=literal(row.name))  # fmt: skip
            axes.set_title(literal(where), fontsize=8)
            axes.set_xlabel("average completion length (tokens)")
            axes.set_ylabel("pass@1, raw completion (95% over tasks)")
            axes.set_ylim(0, 1.03)
            axes.set_xlim(0, 1.05 * max(row.length for row in members))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)


def plot_curves(groups: dict[tuple[str, str], list[dict]], path: Path) -> str:
    """Learning curves of the rows whose runs' logs are there. Returns what was done, in a line."""
    from curves import chosen_figures, draw, read_log

    logs: dict[str, list[Any]] = {}
    for (_, name), runs in sorted(groups.items()):
        folders = [Path(metrics["model_path"]) for metrics in runs if is_still_there(metrics)]
        found = [log for folder in folders if (log := read_log(folder))]
        if found and "base_reward" in found[0][-1]:
            logs[name] = found
    if not logs:
        return "no learning curves: the logs of these runs are not here"
    known = {name for of_row in logs.values() for log in of_row for step in log for name in step}
    draw(logs, chosen_figures(known - {"loss"}), "sampled_tokens", 9, path)
    return f"wrote {path}: {', '.join(logs)}"


def is_still_there(metrics: dict) -> bool:
    """Whether the adapter that was evaluated is in its folder, and not a later run's."""
    weights = Path(metrics["model_path"]) / "adapter_model.safetensors"
    return bool(metrics.get("is_lora")) and weights.is_file() and metrics.get("adapter_sha256") == sha256(weights)


def main(args: Args) -> None:
    folder = Path(args.results_dir)
    if args.compare:
        require(len(args.compare) == 2, "--compare: want the names of two rows")
        print("\n".join(map(printable, compare(folder, *args.compare).split("\n"))))
        return
    groups = read_metrics(folder)
    warnings = mixed_settings(groups)
    require(not (args.strict and warnings), "--strict: " + "; ".join(warnings))
    rows = read_rows(folder)
    table = markdown(rows, overlaps(groups))
    print(table)
    print("".join(f"warning: {line}\n" for line in warnings), end="")
    write_text(folder / "table.md", table)
    write_text(folder / "table.csv", spreadsheet(rows))
    write_text(folder / "table.tex", latex(rows))
    plot(rows, folder / "length_vs_pass.png")
    if args.plots:
        print(plot_curves(groups, folder / "curves.png"))
    if args.readme:
        readme = Path(args.readme)
        require(readme.is_file(), f"--readme {readme}: no such file")
        write_text(readme, insert(readme.read_text(encoding="utf-8"), args.section, table))
        print(f"the table stands in {readme} too")
    print(f"wrote {folder}/table.md, .csv and .tex, and {folder}/length_vs_pass.png")
    if args.reproduces:
        print(reproduced(rows, read_rows(Path(args.reproduces))))


if __name__ == "__main__":
    run(main, Args, __doc__)
