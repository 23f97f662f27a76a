"""Evaluate a trained adapter for `train.py --auto-eval`: two runs of eval_humaneval.py a data set, and one summary.

The first samples as the bigcode evaluation harness does: temperature 0.2, top_p 0.95, 15 completions a task, cut at its
stop strings; pass@k is the unbiased estimate (arXiv 2107.03374). The second is greedy.
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
    "success_rate": ("sampled", "success_rate_stopped"),  # share of the tasks that at least one sample solves
    "accuracy": ("greedy", "pass_at_1_stopped"),
}


def evaluations(tests: dict[str, str], name: str, adapter: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of eval_humaneval.py for each data set (name to task file), sampled and greedy."""
    return [
        {"data_path": path, "model_path": adapter, "exp_name": f"{name}_{task}_{how}"} | sampling
        for task, path in tests.items()
        for how, sampling in (("sampled", SAMPLED | settings), ("greedy", settings | {"n_samples": 1}))
    ]


def rates_of(name: str, task: str, results: Path) -> dict[str, Any]:
    """Return the rates of a data set from its two metrics files, with intervals over tasks."""
    files = {how: json.loads((results / f"{name}_{task}_{how}_metrics.json").read_text())
             for how in ("sampled", "greedy")}  # fmt: skip
    found = {figure: files[how].get(key) for figure, (how, key) in FIGURES.items()}
    found |= {key: files["sampled"][key] for key in ("num_tasks", "num_samples", "data_sha256")}
    return found | {f"{f}_interval": wilson_interval(found[f], found["num_tasks"]) for f in ("pass@1", "accuracy")}


def report(task: str, rates: dict[str, Any]) -> str:
    """Return a line for the screen.

    >>> report("mbpp", dict.fromkeys(FIGURES, 0.5) | {"pass@10": None, "num_tasks": 4})
    'mbpp, 4 tasks: pass@1 50.0%, pass@5 50.0%, test_pass_rate 50.0%, success_rate 50.0%, accuracy 50.0%'
    """
    known = [f"{name} {rates[name]:.1%}" for name in FIGURES if rates[name] is not None]
    return f"{task}, {rates['num_tasks']} tasks: {', '.join(known)}"


def finish_evaluation(
    tests: dict[str, str], name: str, path: Path, record: dict[str, Any], train: dict[str, Any]
) -> None:
    """Print the summary, write it with `record` to `path` beside the metrics, and log it to the run's tracker.

    Args:
        train: settings of the stage that trained.
    """
    found = {task: rates_of(name, task, path.parent) for task in tests}
    print("", *(report(task, rates) for task, rates in found.items()), sep="\n")
    write_text(path, json.dumps({**record, "final_eval": found, **machine()}, indent=1) + "\n")
    print(f"saved {path}")
    folder = Path(train["output_dir"])
    (log,) = folder.glob("*_train_log.jsonl")
    steps = log.read_text().splitlines()
    rates = {f"final_eval/{task}_{f}": found[task][f] for task in found for f in FIGURES if found[task][f] is not None}
    tracker = Tracker(train.get("report_to", "none"), folder, record["settings"], train["run_name"])
    tracker.log({"step": json.loads(steps[-1])["step"] if steps else 0} | rates)
    tracker.close()
