"""What `train.py --auto-eval` does with a trained adapter: two runs of eval_humaneval.py a data set, one summary.

Sampled as the bigcode evaluation harness does, with 15 completions a task: temperature 0.2, top_p 0.95, cut at its stop
strings; pass@k is the unbiased estimate (arXiv 2107.03374). Then greedily.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import machine, write_text
from judging.metrics import wilson_interval
from training.tracking import Tracker

SAMPLED = {"temperature": 0.2, "top_p": 0.95, "n_samples": 15}
FIGURES = {  # name in the summary: (metrics file, name there); completions are cut at the stop strings
    "pass@1": ("sampled", "pass_at_1_stopped"),
    "pass@5": ("sampled", "pass_at_5_stopped"),
    "pass@10": ("sampled", "pass_at_10_stopped"),
    "test_pass_rate": ("sampled", "test_pass_rate_stopped"),  # share of a task's tests that a sample passes
    "success_rate": ("sampled", "success_rate_stopped"),  # share of the tasks that one sample at least solves
    "accuracy": ("greedy", "pass_at_1_stopped"),
}


def evaluations(tests: dict[str, str], name: str, adapter: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Settings of eval_humaneval.py for each data set (name to task file), sampled and greedy."""
    return [
        {"data_path": path, "model_path": adapter, "exp_name": f"{name}_{task}_{how}"} | sampling
        for task, path in tests.items()
        for how, sampling in (("sampled", SAMPLED | settings), ("greedy", settings | {"n_samples": 1}))
    ]


def figures_of(tests: dict[str, str], name: str, results: Path) -> dict[str, dict[str, Any]]:
    """The summary's figures of each data set from the metrics files, with intervals over tasks."""
    found = {}
    for task in tests:
        files = {how: json.loads((results / f"{name}_{task}_{how}_metrics.json").read_text())
                   for how in ("sampled", "greedy")}  # fmt: skip
        found[task] = {figure: files[how].get(key) for figure, (how, key) in FIGURES.items()}
        found[task] |= {name: files["sampled"][name] for name in ("num_tasks", "num_samples", "data_sha256")}
        for figure in ("pass@1", "accuracy"):
            found[task][f"{figure}_interval"] = wilson_interval(found[task][figure], found[task]["num_tasks"])
    return found


def report(found: dict[str, dict[str, Any]]) -> str:
    """A table of the figures, a line a data set.

    >>> print(report({"mbpp": dict.fromkeys(FIGURES, 0.5) | {"pass@10": None, "num_tasks": 4}}))
    data set        tasks  pass@1  pass@5 pass@10 test_pass_rate success_rate accuracy
    mbpp                4   50.0%   50.0%       -          50.0%        50.0%    50.0%
    """
    widths = {figure: max(7, len(figure)) for figure in FIGURES}
    lines = [f"{'data set':<15} {'tasks':>5} " + " ".join(f"{figure:>{width}}" for figure, width in widths.items())]
    for task, figures in found.items():
        shares = [f"{'-' if figures[f] is None else format(figures[f], '.1%'):>{width}}" for f, width in widths.items()]
        lines.append(f"{task:<15} {figures['num_tasks']:>5} " + " ".join(shares))
    return "\n".join(lines)


def conclude(tests: dict[str, str], name: str, path: Path, record: dict[str, Any], train: dict[str, Any]) -> None:
    """Print the summary, write it with `record` to `path` beside the metrics, and log it to the run's tracker.

    Args:
        train: settings of the stage that trained.
    """
    found = figures_of(tests, name, path.parent)
    print("\n" + report(found))
    record = {**record, "final_eval": found, **machine()}
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(f"saved {path}")
    folder = Path(train["output_dir"])
    (log,) = folder.glob("*_train_log.jsonl")
    steps = log.read_text().splitlines()
    step = json.loads(steps[-1])["step"] if steps else 0
    figures = {f"final_eval/{task}_{figure}": found[task][figure] for task in found for figure in FIGURES}
    tracker = Tracker(train.get("report_to", "none"), folder, record["settings"], train["run_name"])
    tracker.log({"step": step} | {name: value for name, value in figures.items() if value is not None})
    tracker.close()
