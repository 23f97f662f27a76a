"""Make a table from results/*_metrics.json: Markdown (also between markers in README.md), CSV, LaTeX, and plots.

Runs whose names differ only in `_seedN` at the end (none: 42) form one row: the means over the seeds. Each 95% interval
makes one statement:

- over tasks and seeds: other tasks of this kind and other seeds, as two crossed random effects (Student's on the logit
  scale); a row of one seed can speak of other tasks only (Wilson's);
- over seeds: other seeds on these tasks (Student's on the logit scale);
- against SFT, methods: "these methods differ" on these tasks, paired by seed (Student's, paired t-test, three common
  seeds or more); a base row stands for every seed;
- against SFT, adapters: "these adapters differ", and other seeds are not covered: paired over the tasks (bootstrap,
  randomisation test), both rows over the seeds that they have in common. The table has it where there are fewer than
  three, table.csv and `--compare` always.

p-values of a table are corrected for the number of its rows (Holm), those of `--pairs` for the number of pairs.

Rows with different task files, base models, limits or ways to sample are in different tables; a warning names settings
that differ (`--strict` makes it an error). Sampled tokens and training time are counted from SFT on. Verilog has a
column for each part of its verdicts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

from common import InputError, printable, require, run_script, sha256, write_text
from judging.tasks import read_tasks
from overlap import overlap
from reporting.comparisons import compare, pairs, reproduced
from reporting.rows import Row, load_rows, mixed_settings, read_metrics, read_rows
from reporting.table_formats import insert, latex, markdown, spreadsheet


@dataclass
class Args:
    results_dir: str = "results"  # where the *_metrics.json are
    readme: str = "README.md"  # put the table between its markers, with a link to the commands; "": change no README
    compare: tuple[str, ...] = ()  # names of two rows: print how they differ on the same tasks, and write nothing
    pairs: bool = False  # print every pair of methods of each table, paired by seed, and write nothing
    reproduces: str = ""  # folder: also print which of its rows are reproduced: the new mean is where it is predicted
    strict: bool = False  # rows that were evaluated under different settings are an error, not a warning
    plots: bool = False  # also plot the learning curves of those runs whose logs exist
    section: str = "yours"  # the markers' name: <!-- yours:begin --> and <!-- yours:end -->
    config: str = ""  # YAML file with any of these; flags win over it


def overlaps(groups: dict[tuple[str, str], list[dict]]) -> dict[str, str]:
    """Describe, for each suite, the overlap of its tasks with its rows' training tasks, or say why it is unknown."""
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
                lines.append(f"{train[0]}: {found or f'not checked, {gone[0]} is missing or has changed'}")
            except InputError:
                lines.append(f"{train[0]}: not checked, it is no task file")
        said[where] = "; ".join(lines) or "not checked, the runs do not say what they were trained on"
    return said


def plot(rows: list[Row], path: Path) -> None:
    """Plot pass@1 over the average length, one panel per table, with the table's first interval.

    It is Wilson's, over tasks, where the per-task files of several seeds are missing.
    """
    from reporting.plots import COLOURS, literal, save_picture

    rows = [row for row in rows if row.length is not None]
    suites = sorted({row.suite for row in rows})
    if not suites:
        return
    with save_picture(path, len(suites), 1, (7, 4.5)) as panels:
        for where, axes in zip(suites, panels[:, 0], strict=True):
            members = [row for row in rows if row.suite == where]
            for number, (row, marker) in enumerate(zip(members, "osD^vPX*<>dph8" * len(members), strict=False)):
                low, high = row.tasks_and_seeds or row.interval
                axes.errorbar(row.length, row.rate, yerr=[[row.rate - low], [high - row.rate]], marker=marker,
                              color=COLOURS[number % len(COLOURS)], capsize=3, linestyle="none", markersize=8,
                              markerfacecolor="none" if number % 2 else None, label=literal(row.name))  # fmt: skip
            axes.set_title(literal(where), fontsize=8)
            axes.set_xlabel("average completion length (tokens)")
            axes.set_ylabel("pass@1, raw completion (95% over tasks and seeds)")
            axes.set_ylim(0, 1.03)
            axes.set_xlim(0, 1.05 * max(row.length for row in members))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)


def plot_curves(groups: dict[tuple[str, str], list[dict]], path: Path) -> str:
    """Plot learning curves of the rows whose runs still have logs; return one line that says what was done.

    Only logs with `base_reward` count: those of the policy gradient methods.
    """
    from reporting.plots import chosen_figures, draw, read_log

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
    """Return whether the evaluated adapter is still in its folder and was not replaced by a later run."""
    weights = Path(metrics["model_path"]) / "adapter_model.safetensors"
    return bool(metrics.get("is_lora")) and weights.is_file() and metrics.get("adapter_sha256") == sha256(weights)


def main(args: Args) -> None:
    folder = Path(args.results_dir)
    groups = read_metrics(folder)
    warnings = mixed_settings(groups)
    require(not (args.strict and warnings), "--strict: " + "; ".join(warnings))
    print("".join(f"warning: {printable(line)}\n" for line in warnings), end="")
    if args.compare:
        require(len(args.compare) == 2, "--compare: want the names of two rows")
        print("\n".join(map(printable, compare(folder, *args.compare).split("\n"))))
        return
    if args.pairs:
        print(pairs(load_rows(folder)))
        return
    rows = read_rows(folder)
    overlapping = overlaps(groups)
    table = markdown(rows, overlapping, warnings=warnings)
    print(table)
    write_text(folder / "table.md", table)
    write_text(folder / "table.csv", spreadsheet(rows))
    write_text(folder / "table.tex", latex(rows))
    plot(rows, folder / "length_vs_pass.png")
    if args.plots:
        print(plot_curves(groups, folder / "curves.png"))
    if args.readme:
        readme = Path(args.readme)
        require(readme.is_file(), f"--readme {readme}: no such file")
        table = markdown(rows, overlapping, link=relpath(folder / "table.md", readme.parent),
                         warnings=warnings)  # fmt: skip
        write_text(readme, insert(readme.read_text(encoding="utf-8"), args.section, table))
        print(f"wrote the table into {readme} too")
    print(f"wrote {folder}/table.md, .csv and .tex, and {folder}/length_vs_pass.png")
    if args.reproduces:
        print(reproduced(rows, read_rows(Path(args.reproduces))))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
