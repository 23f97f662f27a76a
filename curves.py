"""Draw learning curves of runs from their training logs: a panel for each figure, a line for each method.

    python curves.py checkpoints/my_ppo checkpoints/my_grpo --figures reward base_reward gen_len

Runs whose folders differ only in `_seedN` at the end share one line, the mean of the seeds, inside a band from the
lowest seed to the highest. Each point is the mean of `--smooth` steps around it. docs/metrics.md explains the figures.
The script also prints each figure's mean over the last third of the steps.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common import require, require_at_least, run_script
from reporting.plots import chosen_figures, draw, last_third, read_log


@dataclass
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional]  # folders that training wrote
    figures: tuple[str, ...] = ()  # names in the log; by default the most telling ones of the method
    x: Literal["epoch", "step", "sampled_tokens"] = "epoch"  # what the horizontal axis shows
    smooth: int = 9  # number of steps that each point averages; 1 draws the steps themselves
    output: str = "curves.png"  # the picture to write
    config: str = ""  # YAML file with any of these; flags win over it


def main(args: Args) -> None:
    require(args.output.endswith(".png"), f"--output {args.output}: must end in .png")
    require_at_least(1, args, "smooth")
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


if __name__ == "__main__":
    run_script(main, Args, __doc__)
