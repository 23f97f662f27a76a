"""Draw learning curves of runs from their training logs: a panel for each figure, a line for each method.

    python curves.py checkpoints/my_ppo checkpoints/my_grpo --figures reward base_reward gen_len

Runs whose folders differ only in `_seedN` at the end share one line, the mean of the seeds, inside a band from the
lowest seed to the highest. Each point is the mean of `--smooth` steps around it; figures that few steps have, such as
`curve_pass_rate`, are drawn as measured. docs/metrics.md explains the figures. The script also prints each figure's
mean over the last third of the steps, and with `--reach 0.8` where each seed's figures first were 0.8 or more.

    python curves.py --pass_at_k results/sft_metrics.json results/grpo_metrics.json results/grpo_seed1_metrics.json

draws pass@k over k instead, a line for each row of the results table, from evaluations with --n_samples 8
--temperature 1. Where training only sharpens, pass@1 rises and the lines meet at large k (arXiv 2504.13837).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common import InputError, require, require_at_least, run_script
from reporting.plots import chosen_figures, draw, last_third, points_of, read_log
from reporting.rows import row_name, seed_of, suite


@dataclass
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]  # folders that training wrote
    pass_at_k: tuple[str, ...] = ()  # metrics files of evaluations: draw pass@k over k, and no logs
    figures: tuple[str, ...] = ()  # names in the log; by default the most telling ones of the method
    x: Literal["epoch", "step", "sampled_tokens"] = "epoch"  # what the horizontal axis shows
    reach: float = 0.0  # print where on --x each seed's figures, as logged, first are at least this; 0: do not
    smooth: int = 9  # number of steps that each point averages; 1 draws the steps themselves
    output: str = "curves.png"  # the picture to write
    config: str = ""  # YAML file with any of these; flags win over it


def main(args: Args) -> None:
    require(args.output.endswith(".png"), f"--output {args.output}: must end in .png")
    require_at_least(1, args, "smooth")
    if args.pass_at_k:
        require(not (args.runs or args.figures), "--pass_at_k: takes metrics files only, neither runs nor --figures")
        groups = read_pass_at_k(args.pass_at_k)
        draw(groups, ["pass_at_k"], "k", 1, Path(args.output))
        print(f"wrote {args.output}: {json.dumps(list(groups))}")
        return
    groups: dict[str, list[list[dict]]] = defaultdict(list)
    for run_folder in args.runs:
        if log := read_log(Path(run_folder)):
            groups[re.sub(r"_seed\d+$", "", run_folder.rstrip("/"))].append(log)
    require(bool(groups), "want folders of runs, with a training log each; --help says more")
    names = [Path(path).name for path in groups]
    if len(set(names)) == len(names):  # else keep the paths, which differ
        groups = dict(zip(names, groups.values(), strict=True))
    known = {name for logs in groups.values() for log in logs for step in log for name in step}
    require(args.x in known, f"--x {args.x}: these runs did not log it; --x step")
    figures = [name for name in args.figures or chosen_figures(known) if name in known]
    missing = [name for name in args.figures if name not in known]
    require(bool(figures), f"none of these runs logged {', '.join(missing)}; they have {', '.join(sorted(known))}")
    draw(groups, figures, args.x, args.smooth, Path(args.output))
    note = f" (not logged by these runs: {', '.join(missing)})" if missing else ""
    print(f"wrote {args.output}: {json.dumps(list(groups))}{note}")
    for label, logs in groups.items():
        ends = {name: last_third(logs, name) for name in figures}
        print(
            f"last third of {label}: " + ", ".join(f"{name} {end:.3g}" for name, end in ends.items() if end is not None)
        )
        for name in figures if args.reach else ():
            at = [first_at(log, args.x, name, args.reach) for log in logs]
            print(f"{label}: {name} reaches {args.reach:g} at {args.x} {', '.join(at)}")


def first_at(log: list[dict], x: str, name: str, least: float) -> str:
    """Return x of the first step whose figure is at least this, or "never".

    >>> first_at([{"step": 0, "reward": 0.5}, {"step": 1}, {"step": 2, "reward": 0.8}], "step", "reward", 0.8)
    '2'
    """
    return next((f"{at:g}" for at, value in points_of(log, x, name) if value >= least), "never")


def read_pass_at_k(paths: tuple[str, ...]) -> dict[str, list[list[dict]]]:
    """Read pass@k of evaluations: row of the results table -> for each seed a record of every k.

    Raises:
        InputError: a file is no evaluation's metrics, has pass@1 only, or was evaluated otherwise than the first.
    """
    groups: dict[str, list[list[dict]]] = defaultdict(list)
    suites, seeds = {}, defaultdict(set)
    for path in paths:
        try:
            metrics = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            where, name = suite(metrics), row_name(metrics)
            known = sorted(int(found[1]) for key in metrics if (found := re.fullmatch(r"pass_at_(\d+)", key)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not an evaluation's metrics ({error!r})") from None
        require(len(known) > 1, f"{path}: has pass@1 only; evaluate with --n_samples 8 --temperature 1")
        require(seed_of(metrics) not in seeds[name], f"{path}: {name} has seed {seed_of(metrics)} twice")
        seeds[name].add(seed_of(metrics))
        groups[name].append([{"k": k, "pass_at_k": metrics[f"pass_at_{k}"]} for k in known])
        suites.setdefault(where, path)
    require(len(suites) == 1, "--pass_at_k: cannot be compared: " + "; ".join(f"{p} ({s})" for s, p in suites.items()))
    return groups


if __name__ == "__main__":
    run_script(main, Args, __doc__)
