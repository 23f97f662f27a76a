"""From results/*_metrics.json to a Markdown table, in README.md between its markers, and a plot.

Runs that differ only in `_seedN` at the end of their name are one row: the means over the seeds. The interval is
Wilson's on the number of tasks, not of tasks times seeds: the seeds share the tasks. Rows of different task files, base
models, time limits or ways to sample stand in different tables. Verilog has a column for each part of its verdicts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from common import InputError, read_jsonl, require, run, write_text
from metrics import mean_parts, paired_difference, wilson_interval

ORDER = ("base", "sft", "rl", "ppo", "grpo", "dpo")  # rows stand in the order of the story


@dataclass
class Args:
    results_dir: str = "results"  # where the *_metrics.json are
    readme: str = "README.md"  # gets the table between its markers; empty: print only
    compare: tuple[str, ...] = ()  # two rows: print how they differ on the same tasks, and write nothing
    section: str = "yours"  # the markers' name: <!-- yours:begin --> and <!-- yours:end -->
    config: str = ""  # YAML file with any of these; flags win over it


@dataclass
class Row:
    """One method: means over its seeds. `length` in tokens, rates as shares."""

    name: str
    suite: str
    num_seeds: int
    num_tasks: int
    num_pass: int
    num_samples: int
    rate: float
    spread: tuple[float, float]  # lowest and highest seed
    stopped: float
    length: float | None
    interval: tuple[float, float]
    seconds: float
    machine: str
    parts: dict[str, float]  # of Verilog: the mean of each part of the verdicts


def read_rows(folder: Path) -> list[Row]:
    """Raises InputError where the folder has no metrics, or a file is not one of ours."""
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*_metrics.json")):
        try:
            metrics = json.loads(path.read_text())
            name = re.sub(r"_seed\d+$", "", metrics["exp_name"])
            groups[suite(metrics), name].append(metrics)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not an evaluation's metrics ({error})") from None
    require(bool(groups), f"{folder}: no *_metrics.json here; run eval_humaneval.py first")
    return sorted((make_row(name, where, runs) for (where, name), runs in groups.items()), key=place)


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
    limits = f"{args['max_new_tokens']} new tokens, {args['time_limit']:g} s a check"
    return ", ".join(part for part in (tasks, base, asked, sampling, limits) if part)


def make_row(name: str, where: str, runs: list[dict]) -> Row:
    rates = [metrics["pass_at_1"] for metrics in runs]
    lengths = [metrics["avg_gen_len"] for metrics in runs if metrics["avg_gen_len"] is not None]
    return Row(
        name=name,
        suite=where,
        num_seeds=len(runs),
        num_tasks=runs[0]["num_tasks"],
        num_pass=sum(metrics["num_pass"] for metrics in runs),
        num_samples=sum(metrics["num_samples"] for metrics in runs),
        rate=mean(rates),
        spread=(min(rates), max(rates)),
        stopped=mean(metrics["pass_at_1_stopped"] for metrics in runs),
        length=mean(lengths) if lengths else None,
        interval=wilson_interval(mean(rates), runs[0]["num_tasks"]),
        seconds=mean(metrics["seconds"] for metrics in runs),
        machine=" / ".join(sorted({hardware(metrics) for metrics in runs})),
        parts=mean_parts([metrics.get("parts") for metrics in runs]),
    )


def read_scores(folder: Path, name: str) -> tuple[set[str], dict[str, float]]:
    """What an evaluation's figures may be compared with (`suite`), and the mean of each task over seeds and samples.

    Raises:
        InputError: there is no such row, or the per-task file of one of its runs is missing.
    """
    suites, passed = set(), defaultdict(list)
    for path in sorted(folder.glob(f"{name}*_metrics.json")):
        metrics = json.loads(path.read_text())
        if re.sub(r"_seed\d+$", "", metrics["exp_name"]) == name:
            suites.add(suite(metrics))
            for _, row in read_jsonl(folder / f"{metrics['exp_name']}_per_task.jsonl", "per-task file"):
                passed[row["task_id"]].append(row["passed"])
    require(bool(passed), f"--compare {name}: {folder} has no row of that name")
    return suites, {task: mean(of_task) for task, of_task in passed.items()}


def compare(folder: Path, first: str, second: str) -> str:
    """How the second row differs from the first: the mean over tasks with interval and p-value, the tasks won and lost.

    Raises:
        InputError: the two were not evaluated on the same tasks, in the same way.
    """
    (where, before), (where_too, after) = (read_scores(folder, name) for name in (first, second))
    require(len(where | where_too) == 1 and before.keys() == after.keys(),
            f"--compare: cannot be compared: {'; '.join(sorted(where | where_too))}")  # fmt: skip
    tasks = sorted(before)
    difference, (low, high), p = paired_difference([before[t] for t in tasks], [after[t] for t in tasks])
    lines = [f"{second} less {first}: {difference:+.1%} ({low:+.1%} to {high:+.1%}), p = {p:.2g}, {len(tasks)} tasks"]
    for word, sign in (("won", 1), ("lost", -1)):
        some = sorted((t for t in tasks if sign * (after[t] - before[t]) > 0), key=lambda t: -abs(after[t] - before[t]))
        lines.append(f"{word} {len(some)}: " + ", ".join(f"{t} {before[t]:.0%} to {after[t]:.0%}" for t in some))
    return "\n".join(lines)


def hardware(metrics: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in metrics["versions"].items())
    return f"{metrics['gpu'] or metrics['cpu']}, {metrics['cores']} cores; {versions}"


def place(row: Row) -> tuple:
    found = [rank for rank, word in enumerate(ORDER) if word in row.name.split("_")]
    return row.suite, found[0] if found else len(ORDER), row.name


def markdown(rows: list[Row]) -> str:
    """One table a suite, with its hardware below."""
    tables = []
    for where in sorted({row.suite for row in rows}):
        members = [row for row in rows if row.suite == where]
        judged = list(dict.fromkeys(name for row in members for name in row.parts))
        columns = ["method", "pass@1", "passed/tasks", "avg length", "pass@1 stopped", "95% interval", "seeds"]
        columns += [*judged, "evaluation"]
        lines = [f"**{where}**", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in members:
            seeds = "1" if row.num_seeds == 1 else f"{row.num_seeds} ({row.spread[0]:.1%} to {row.spread[1]:.1%})"
            length = "" if row.length is None else f"{row.length:.1f}"
            shares = "".join(f"{row.parts[name]:.1%} | " if name in row.parts else " | " for name in judged)
            lines.append(
                f"| {row.name} | {row.rate:.1%} | {row.num_pass}/{row.num_samples} | {length} | {row.stopped:.1%} | "
                f"{row.interval[0]:.1%} to {row.interval[1]:.1%} | {seeds} | {shares}{row.seconds:.0f} s |"
            )
        machines = sorted({row.machine for row in members})
        lines += ["", "Length in tokens, EOS included. Measured on: " + " / ".join(machines) + "."]
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def insert(readme: str, section: str, text: str) -> str:
    """The README with the text between the section's markers.

    >>> insert("a <!-- x:begin -->old<!-- x:end --> b", "x", "new")
    'a <!-- x:begin -->\\nnew\\n<!-- x:end --> b'
    """
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise InputError(f"the README has no {begin} ... {end}; put them where the table should stand")
    return f"{before}{begin}\n{text}\n{end}{after}"


def plot(rows: list[Row], path: Path) -> None:
    """Average length against pass@1 with Wilson intervals, a panel for each table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.length is not None]
    suites = sorted({row.suite for row in rows})
    if not suites:
        return
    figure, panels = plt.subplots(len(suites), figsize=(7, 4.5 * len(suites)), squeeze=False)
    for where, axes in zip(suites, panels[:, 0], strict=True):
        members = [row for row in rows if row.suite == where]
        for row, marker in zip(members, "osD^vPX*<>dph8" * len(members), strict=False):
            low, high = row.interval
            axes.errorbar(row.length, row.rate, yerr=[[row.rate - low], [high - row.rate]], marker=marker, capsize=3,
                          linestyle="none", markersize=8, label=row.name)  # fmt: skip
        axes.set_title(where, fontsize=8)
        axes.set_xlabel("average completion length (tokens)")
        axes.set_ylabel("pass@1, raw completion")
        axes.set_ylim(0, 1.03)
        axes.set_xlim(0, 1.05 * max(row.length for row in members))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=150)
    plt.close(figure)
    temporary.replace(path)


def main(args: Args) -> None:
    if args.compare:
        require(len(args.compare) == 2, "--compare: want the names of two rows")
        print(compare(Path(args.results_dir), *args.compare))
        return
    rows = read_rows(Path(args.results_dir))
    table = markdown(rows)
    print(table)
    write_text(Path(args.results_dir) / "table.md", table)
    plot(rows, Path(args.results_dir) / "length_vs_pass.png")
    if args.readme:
        readme = Path(args.readme)
        require(readme.is_file(), f"--readme {readme}: no such file")
        write_text(readme, insert(readme.read_text(encoding="utf-8"), args.section, table))
        print(f"the table stands in {readme} too")
    print(f"wrote {args.results_dir}/table.md and {args.results_dir}/length_vs_pass.png")


if __name__ == "__main__":
    run(main, Args, __doc__)
