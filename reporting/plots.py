"""Draw the learning curves of runs from their logs."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np

from common import read_jsonl

LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # can be told apart without colour


FIGURES = ("base_reward", "reward", "gen_len", "entropy", "kl_reference")  # RL
FIGURES += ("valid_pass_rate", "curve_pass_rate", "functional")
FIGURES += ("loss", "accuracy", "margin", "chosen_logprob")  # DPO; SFT logs only the first


FEW = 20  # a figure measured no more often than this has its markers there
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # colour-blind safe: Okabe and Ito


def read_log(folder: Path) -> list[dict]:
    """Read the steps of a run's log, in order and without records of no step. Step 0 is what was measured at the start.

    If the folder does not have exactly one training log, print a note and return none.
    """
    logs = sorted(folder.glob("*_train_log.jsonl"))
    if len(logs) != 1:
        print(f"{folder}: skipped, has {len(logs)} training logs (*_train_log.jsonl), not one")
        return []
    return [record for _, record in read_jsonl(logs[0], "training log") if "step" in record]


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Return, for each value, the mean of the `width` values around it; near the ends, of those that exist.

    >>> smoothed(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    weights = np.ones(min(width, len(values)))
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def points_of(log: list[dict], x: str, y: str) -> np.ndarray:
    """Return x and y of the steps that have both; shape (N, 2)."""
    points = [(step[x], step[y]) for step in log if x in step and isinstance(step.get(y), int | float)]
    return np.array(points, dtype=float)


def curve(logs: list[list[dict]], x: str, y: str, width: int) -> tuple[np.ndarray, ...] | None:
    """Return x, and the mean, lowest and highest y of the seeds there, 200 values each; None if no log has y.

    Each seed is smoothed and interpolated at the same 200 places, which end where the shortest run ends. A figure that
    fewer than half of the steps have (one of validation) is not smoothed.
    """
    seeds = []
    for log in logs:
        points = points_of(log, x, y)
        if len(points):
            seeds.append((points[:, 0], smoothed(points[:, 1], width if 2 * len(points) >= len(log) else 1)))
    if not seeds:
        return None
    places = np.linspace(max(at[0] for at, _ in seeds), min(at[-1] for at, _ in seeds), 200)
    lines = np.array([np.interp(places, *seed) for seed in seeds])
    return places, lines.mean(0), lines.min(0), lines.max(0)


def literal(name: str) -> str:
    """Escape a name for matplotlib, in which a dollar sign would start a formula."""
    return name.replace("$", r"\$")


@contextlib.contextmanager
def save_picture(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Yield an array (rows, columns) of panels to draw on, `size` inches each; write the PNG when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    picture, panels = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    yield panels
    picture.tight_layout()
    temporary = path.with_name(f".{path.name}.tmp.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(temporary, dpi=110)
    plt.close(picture)
    temporary.replace(path)


def draw(groups: dict[str, list[list[dict]]], figures: list[str], x: str, width: int, path: Path) -> None:
    """Draw a PNG with one panel per figure and one line per group of runs."""
    columns = min(2, len(figures))
    with save_picture(path, -(-len(figures) // columns), columns, (5.5, 3.4)) as panels:
        spare = list(panels.flat[len(figures) :])
        for axes in spare:
            axes.axis("off")
        for axes, name in zip(panels.flat, figures, strict=False):
            draw_panel(axes, groups, name, x, width)
        handles = {
            label: handle
            for axes in panels.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if len(groups) > 1:  # the legend: in an empty panel if there is one
            where = {"loc": "center"} if spare else {}
            [*spare, panels.flat[0]][0].legend(handles.values(), handles.keys(), fontsize=8, **where)


def draw_panel(axes, groups: dict[str, list[list[dict]]], name: str, x: str, width: int) -> None:
    """Draw the lines of one figure; behind the line of a single run, also its steps as points."""
    for number, (label, logs) in enumerate(groups.items()):
        found = curve(logs, x, name, width)
        if found is None:
            continue
        places, mean, low, high = found
        line, marker = LINES[number % len(LINES)]
        colour = COLOURS[number % len(COLOURS)]
        seeds = f", {len(logs)} seeds" if len(logs) > 1 else ""
        at = points_of(logs[0], x, name)[:, 0]
        marks = [int(abs(places - one).argmin()) for one in at] if len(at) <= FEW else 25  # where it was measured
        axes.plot(
            places, mean, line, color=colour, marker=marker, markevery=marks, markersize=4, label=literal(label + seeds)
        )
        axes.fill_between(places, low, high, color=colour, alpha=0.18 if len(groups) < 6 else 0.08, linewidth=0)
        if len(groups) == len(logs) == 1:
            axes.plot(*points_of(logs[0], x, name).T, ".", color="0.6", markersize=3, zorder=0)
    axes.set_xlabel(x.replace("_", " "))
    band = " (mean; band: lowest to highest seed)" if max(map(len, groups.values())) > 1 else ""
    axes.set_title(name.replace("_", " ") + band, fontsize=10)
    axes.grid(alpha=0.3)


def last_third(logs: list[list[dict]], name: str) -> float | None:
    """Return a figure's mean over the last third of the steps that have it and over the seeds; None if none has it.

    >>> last_third([[{"loss": n} for n in range(6)], [{"loss": 9}]], "loss")
    6.75
    """
    values = [[step[name] for step in log if isinstance(step.get(name), int | float)] for log in logs]
    ends = [fmean(seed[-max(1, len(seed) // 3) :]) for seed in values if seed]
    return fmean(ends) if ends else None


def chosen_figures(known: set[str]) -> list[str]:
    """Return the most telling figures among those that were logged; the loss of a policy gradient is not one."""
    return [name for name in FIGURES if name in known and not (name == "loss" and "base_reward" in known)]


def draw_run(folder: Path) -> str:
    """Draw the curves of one run into its folder; return the picture's name, or "" if there is nothing to draw.

    Nothing is drawn either if matplotlib is not installed.
    """
    log = read_log(folder)
    known = {name for step in log for name in step}
    figures = chosen_figures(known)
    if len(log) < 2 or not figures or importlib.util.find_spec("matplotlib") is None:
        return ""
    draw({"this run": [log]}, figures, "step", 9, folder / "curves.png")
    return "curves.png"
